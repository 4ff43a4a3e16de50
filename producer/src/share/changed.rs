//! What a change changed: whether it is one for the share, and which of its columns leave.
//!
//! Needs the values before the change. A column whose value before is not known counts as changed: what is sent once too
//! often harms nothing.

use std::borrow::Cow;

use syncline_shared::record::{Columns, Row, Value};

use super::display::Displays;

/// Which columns an update must change for the share to take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Minded {
    /// One of these.
    ShareOn(Vec<String>),
    /// One that is not among these.
    Ignore(Vec<String>),
}

impl Minded {
    /// Whether an update is one for the share.
    pub(super) fn takes(&self, row: &Row, before: Option<&Row>) -> bool {
        row.iter().any(|(column, value)| self.minds(column) && is_changed(column, value, before))
    }

    /// Whether a change of this column is one for the share.
    pub(super) fn minds(&self, column: &str) -> bool {
        match self {
            Self::ShareOn(columns) => columns.iter().any(|one| one == column),
            Self::Ignore(columns) => !columns.iter().any(|one| one == column),
        }
    }

    /// The columns it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        let (Self::ShareOn(columns) | Self::Ignore(columns)) = self;
        columns.iter().map(String::as_str)
    }
}

/// What goes along always and what a change changed, display values with their columns; also whether that is less than the
/// row.
pub(super) fn updated<'a>(
    row: Cow<'a, Row>,
    before: Option<&Row>,
    always: &[&str],
    displays: &Displays,
) -> (Cow<'a, Row>, bool) {
    let leaves = |(_, (column, value)): &(usize, (&str, Value<'_>))| {
        let (column, value) = match displays.shown_by(column) {
            Some(shown) => (shown, row.get(shown).unwrap_or(*value)),
            None => (*column, *value),
        };
        always.contains(&column) || is_changed(column, value, before)
    };
    let kept = row.iter().enumerate().filter(leaves).map(|(place, (column, _))| (place, column));
    let (places, columns): (Vec<usize>, Vec<&str>) = kept.unzip();
    if places.len() == row.columns().len() {
        return (row, false);
    }
    let part = row.select(Columns::new(columns), &places);
    (Cow::Owned(part), true)
}

fn is_changed(column: &str, value: Value<'_>, before: Option<&Row>) -> bool {
    match before.and_then(|before| before.get(column)) {
        _ if value == Value::Unchanged => false,
        None | Some(Value::Unchanged) => true,
        Some(before) => before != value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &[(&str, Value<'_>)]) -> Row {
        let mut row = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
        columns.iter().for_each(|(_, value)| row.push(*value));
        row.finish()
    }

    fn rows() -> (Row, Row) {
        let of =
            |state, note, large| row(&[("id", Value::Number("7")), ("state", state), ("note", note), ("large", large)]);
        let before = of(Value::Number("1"), Value::Null, Value::Text("x"));
        (of(Value::Number("2"), Value::Null, Value::Unchanged), before)
    }

    #[test]
    fn an_update_is_for_a_share_that_minds_what_it_changed() {
        let (row, before) = rows();
        for (columns, shared_on, not_ignored) in
            [(vec!["state"], true, false), (vec!["note", "large"], false, true), (vec!["state", "note"], true, false)]
        {
            let names = || columns.iter().map(ToString::to_string).collect();
            assert_eq!(Minded::ShareOn(names()).takes(&row, Some(&before)), shared_on, "{columns:?}");
            assert_eq!(Minded::Ignore(names()).takes(&row, Some(&before)), not_ignored, "{columns:?}");
        }
    }

    #[test]
    fn what_is_not_known_of_before_counts_as_changed_and_null_is_a_value() {
        let (row, before) = rows();
        let note = || Minded::ShareOn(vec!["note".to_owned()]);
        assert!(note().takes(&row, None));
        assert!(!note().takes(&row, Some(&before)));
        let mut blank = Row::builder(row.columns().clone());
        ["7", "2", "", "x"].iter().for_each(|text| blank.push(Value::Text(text)));
        assert!(note().takes(&blank.finish(), Some(&before)));
    }

    #[test]
    fn what_a_change_changed_leaves_with_the_key() {
        let (row, before) = rows();
        let (key, none) = (["id"], Displays::default());
        let (part, is_part) = updated(Cow::Borrowed(&row), Some(&before), &key, &none);
        assert_eq!((part.columns(), is_part), (&Columns::new(["id", "state"]), true));
        let (part, is_part) = updated(Cow::Borrowed(&row), None, &key, &none);
        assert_eq!((part.columns(), is_part), (&Columns::new(["id", "state", "note"]), true));
        let (all, is_part) = updated(Cow::Borrowed(&before), None, &key, &none);
        assert!(matches!(all, Cow::Borrowed(_)) && !is_part);
    }
}
