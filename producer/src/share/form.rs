//! The form in which columns leave: masks, other names, constants.
//!
//! The key is not touched: it says which record this is, here and at the target.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::record::{Columns, Row, Value};
use syncline_shared::seal::Pseudonyms;

use super::columns::Last;

/// What is sent instead of a column's value. Null stays null.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mask {
    /// Null.
    Redact,
    /// A pseudonym under the share's `mask_secret`: HMAC-SHA-256, 64 hexadecimal digits.
    Hash,
    /// `****` and the last four characters, where there are more than four.
    Last4,
}

/// A value that every record gets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Constant {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Number(i64),
    /// Text.
    Text(String),
}

/// What becomes of a share's columns.
#[derive(Debug, Default)]
pub(super) struct Form {
    pub(super) masks: BTreeMap<String, Mask>,
    pub(super) pseudonyms: Option<Pseudonyms>,
    pub(super) names: BTreeMap<String, String>,
    pub(super) constants: BTreeMap<String, Constant>,
    plan: Last<Plan>,
}

/// The form, looked up for rows of one shape.
#[derive(Debug)]
struct Plan {
    of: Columns,
    key: Columns,
    columns: Columns,
    masks: Vec<Option<Mask>>,
    /// A column that cannot have the form.
    misfit: Option<String>,
}

impl Form {
    pub(super) fn new(
        masks: BTreeMap<String, Mask>,
        pseudonyms: Option<Pseudonyms>,
        names: BTreeMap<String, String>,
        constants: BTreeMap<String, Constant>,
    ) -> Self {
        Self { masks, pseudonyms, names, constants, plan: Last::default() }
    }

    /// The columns of the table it names.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.masks.keys().chain(self.names.keys()).map(String::as_str)
    }

    /// The columns it makes beside those of the table.
    pub(super) fn columns_made(&self) -> impl Iterator<Item = &str> {
        self.names.values().chain(self.constants.keys()).map(String::as_str)
    }

    /// A row in the form, as it came when there is nothing to do; or a column that is part of the key, or a name that is
    /// taken.
    pub(super) fn apply<'a>(&'a self, row: Cow<'a, Row>, key: &Columns) -> Result<Cow<'a, Row>, &'a str> {
        if self.masks.is_empty() && self.names.is_empty() && self.constants.is_empty() {
            return Ok(row);
        }
        self.plan.with(
            |plan| plan.of == *row.columns() && plan.key == *key,
            || self.plan(row.columns(), key),
            |plan| match &plan.misfit {
                Some(misfit) => Err(self.columns().chain(self.columns_made()).find(|one| one == misfit).unwrap_or("")),
                None => Ok(Cow::Owned(self.formed(&row, plan))),
            },
        )
    }

    /// The names that rows of one shape leave under.
    fn leaving(&self, of: &Columns) -> Vec<String> {
        let name = |column: &str| self.names.get(column).map_or(column, String::as_str).to_owned();
        of.iter().map(name).chain(self.constants.keys().cloned()).collect()
    }

    /// What rows of one shape cannot have of it: columns that are part of the key, and names that are taken.
    pub(super) fn misfits(&self, of: &Columns, key: &Columns) -> Vec<String> {
        let leaving = self.leaving(of);
        let of_key = self.columns().filter(|column| key.position(column).is_some()).map(str::to_owned);
        let is_taken = |(place, name): &(usize, &String)| leaving.iter().take(*place).any(|one| one == *name);
        let taken = leaving.iter().enumerate().filter(is_taken).map(|(_, name)| name.clone());
        of_key.chain(taken).collect()
    }

    fn plan(&self, of: &Columns, key: &Columns) -> Plan {
        let (columns, misfit) = (self.leaving(of), self.misfits(of, key).into_iter().next());
        let masks = of.iter().map(|column| self.masks.get(column).copied()).collect();
        Plan { of: of.clone(), key: key.clone(), columns: Columns::new(columns), masks, misfit }
    }

    fn formed(&self, row: &Row, plan: &Plan) -> Row {
        let mut formed = Row::builder(plan.columns.clone()).with_room(row.size());
        for (value, mask) in row.values().zip(&plan.masks) {
            match (value, mask) {
                (Value::Null | Value::Unchanged, _) | (_, None) => formed.push(value),
                (Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Bytes(_), Some(mask)) => {
                    match self.masked(value.as_text().unwrap_or_default(), *mask) {
                        Some(text) => formed.push(Value::Text(&text)),
                        None => formed.push(Value::Null),
                    }
                }
            }
        }
        for constant in self.constants.values() {
            match constant {
                Constant::Bool(flag) => formed.push(Value::Bool(*flag)),
                Constant::Number(number) => formed.push(Value::Number(&number.to_string())),
                Constant::Text(text) => formed.push(Value::Text(text)),
            }
        }
        formed.finish()
    }

    /// What is sent instead of a value; `None` for null.
    fn masked(&self, text: &str, mask: Mask) -> Option<String> {
        match mask {
            Mask::Redact => None,
            Mask::Hash => self.pseudonyms.as_ref().map(|pseudonyms| pseudonyms.of(text)),
            Mask::Last4 => {
                let shown = text.chars().count().checked_sub(4).filter(|hidden| *hidden > 0);
                Some(shown.map_or_else(
                    || "****".to_owned(),
                    |hidden| {
                        text.chars().skip(hidden).fold("****".to_owned(), |mut shown, one| {
                            shown.push(one);
                            shown
                        })
                    },
                ))
            }
        }
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

    fn form(masks: &[(&str, Mask)], names: &[(&str, &str)], constants: &[(&str, Constant)]) -> Form {
        let owned = |(name, mask): &(&str, Mask)| ((*name).to_owned(), *mask);
        Form::new(
            masks.iter().map(owned).collect(),
            Pseudonyms::new(&[7; 32]),
            names.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned())).collect(),
            constants.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        )
    }

    fn person() -> Row {
        row(&[
            ("id", Value::Number("7")),
            ("ssn", Value::Text("123-45-6789")),
            ("pin", Value::Number("4711")),
            ("email", Value::Text("a@example.com")),
            ("picture", Value::Bytes("AAEC")),
            ("note", Value::Null),
        ])
    }

    #[test]
    fn masks_hide_every_kind_of_value_and_null_stays_null() {
        let key = Columns::new(["id"]);
        let masks = [
            ("ssn", Mask::Last4),
            ("pin", Mask::Last4),
            ("email", Mask::Hash),
            ("picture", Mask::Redact),
            ("note", Mask::Hash),
        ];
        let form = form(&masks, &[], &[]);
        let person = person();
        let hidden = form.apply(Cow::Borrowed(&person), &key).unwrap();
        let hash = Pseudonyms::new(&[7; 32]).unwrap().of("a@example.com");
        let expected = row(&[
            ("id", Value::Number("7")),
            ("ssn", Value::Text("****6789")),
            ("pin", Value::Text("****")),
            ("email", Value::Text(&hash)),
            ("picture", Value::Null),
            ("note", Value::Null),
        ]);
        assert_eq!(*hidden, expected);
    }

    #[test]
    fn columns_get_other_names_and_records_constants() {
        let key = Columns::new(["id"]);
        let constants =
            [("origin", Constant::Text("desk".to_owned())), ("a", Constant::Number(-1)), ("b", Constant::Bool(true))];
        let form = form(&[("ssn", Mask::Redact)], &[("ssn", "number"), ("note", "text")], &constants);
        let person = person();
        let formed = form.apply(Cow::Borrowed(&person), &key).unwrap();
        let names: Vec<_> = formed.columns().iter().collect();
        assert_eq!(names, ["id", "number", "pin", "email", "picture", "text", "a", "b", "origin"]);
        assert_eq!((formed.get("number"), formed.get("a")), (Some(Value::Null), Some(Value::Number("-1"))));
        assert_eq!(formed.get("origin"), Some(Value::Text("desk")));
    }

    #[test]
    fn the_key_has_no_form_and_no_name_is_given_twice() {
        let key = Columns::new(["id"]);
        for (form, column) in [
            (form(&[("id", Mask::Hash)], &[], &[]), "id"),
            (form(&[], &[("id", "number")], &[]), "id"),
            (form(&[], &[("ssn", "email")], &[]), "email"),
            (form(&[], &[], &[("pin", Constant::Bool(true))]), "pin"),
        ] {
            assert_eq!(form.apply(Cow::Owned(person()), &key).unwrap_err(), column);
        }
        let swapped = form(&[], &[("ssn", "email"), ("email", "ssn")], &[]);
        assert_eq!(swapped.apply(Cow::Owned(person()), &key).unwrap().get("email"), Some(Value::Text("123-45-6789")));
    }
}
