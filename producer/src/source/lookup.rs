//! Lookup tables of a source: what people read for a reference, by the key it refers to.

use std::fmt;
use std::future::Future;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::record::Value;

use super::SourceError;

/// Characters of a display value: names and titles, not documents. A longer one is no display value, and is never cut.
pub const DISPLAY_CHARS_MAX: usize = 4096;

/// Which column of which table shows what a reference refers to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lookup {
    /// The table, as the source writes it, with a schema or without.
    pub table: String,
    /// The column that references hold.
    pub key: String,
    /// The column that is shown.
    pub value: String,
}

/// What a column that refers to something holds. Part of a record: not shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    /// As text.
    pub text: Box<str>,
    /// Whether it is a number at the source.
    pub is_number: bool,
}

impl Reference {
    /// What a value refers to; `None` for one that refers to nothing.
    pub(crate) fn of(value: Value<'_>) -> Option<Self> {
        let is_number = matches!(value, Value::Number(_));
        value.as_text().map(|text| Self { text: text.into(), is_number })
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reference").finish_non_exhaustive()
    }
}

/// Reads lookup tables, beside a source's changes.
pub trait Lookups: Send + Sync + 'static {
    /// The display values of references, in their order: `None` for null, and where no row has the key. One query; none of
    /// the values, where there are no references, but the same faults.
    ///
    /// # Errors
    /// [`SourceError`]; [`SourceError::Unfit`] where the table, its columns or its rows are not what a lookup needs.
    fn look_up(
        &self,
        lookup: &Lookup,
        references: &[Reference],
    ) -> impl Future<Output = Result<Vec<Option<Box<str>>>, SourceError>> + Send;
}

/// Puts rows, each with the place of its reference, into the order of the references.
pub(super) fn in_order(
    lookup: &Lookup,
    references: usize,
    rows: impl Iterator<Item = (usize, Option<String>)>,
) -> Result<Vec<Option<Box<str>>>, SourceError> {
    let Lookup { table, key, value } = lookup;
    let unfit = |problem: String, mend: &str| Err(SourceError::Unfit { problem, mend: mend.to_owned() });
    let mut found: Vec<Option<Option<Box<str>>>> = vec![None; references];
    for (place, shown) in rows {
        if shown.as_ref().is_some_and(|text| text.chars().count() > DISPLAY_CHARS_MAX) {
            let problem = format!("column {value} of table {table} has more than {DISPLAY_CHARS_MAX} characters");
            return unfit(problem, "a column that names the row, in display of the share");
        }
        let Some(one) = found.get_mut(place) else { continue };
        if one.replace(shown.map(Into::into)).is_some() {
            let problem = format!("several rows of table {table} have the same {key}");
            return unfit(problem, "a column without repeats, in display of the share");
        }
    }
    Ok(found.into_iter().map(Option::flatten).collect())
}
