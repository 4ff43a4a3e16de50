//! What the configuration says of a source's tables: which one extends which, `[source.NAME.table.TABLE]`.
//!
//! Knows neither shares nor any particular source.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

/// One table of a source, as far as others extend it or it extends another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TableConfig {
    /// The table it extends: each of its records is one of that table too. Default: none.
    pub extends: Option<String>,
    /// The columns it adds to those of the table it extends; tables above it do not have them. Default: none.
    pub columns: Vec<String>,
    /// For a table that extends none: the column that names the class of each record, where the records of all tables that
    /// extend it are stored in this one. Default: every table is stored by itself, as PostgreSQL's inheritance does.
    pub class_column: Option<String>,
}

/// The tables of a source that extend each other, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Tables(BTreeMap<String, TableConfig>);

impl Tables {
    /// Everything wrong with them: the path below the source, and what is wrong.
    #[must_use]
    pub fn validate(&self) -> Vec<(String, String)> {
        let mut problems = Vec::new();
        for (name, table) in &self.0 {
            let mut problem = |key: &str, text: &str| problems.push((format!("table.{name}.{key}"), text.to_owned()));
            if self.path(name).is_none() {
                problem("extends", "leads back to the table itself; each table extends one above it, or none");
            }
            match &table.extends {
                Some(base) if base.is_empty() => problem("extends", "is empty; the name of a table"),
                Some(_) if table.class_column.is_some() => {
                    problem("class_column", "is for the table at the top; this one extends another");
                }
                None if !table.columns.is_empty() => {
                    problem("columns", "are those it adds to a table it extends; name that with extends");
                }
                Some(_) | None => {}
            }
            if table.class_column.as_deref() == Some("") {
                problem("class_column", "is empty; the column that names the class of a record");
            }
        }
        problems
    }

    /// Whether a table extends another, or another extends it.
    #[must_use]
    pub fn has(&self, table: &str) -> bool {
        self.0.get(table).is_some_and(|table| table.extends.is_some())
            || self.0.values().any(|other| other.extends.as_deref() == Some(table))
    }

    /// The tables from the one at the top down to this one; `None` when they lead in a circle.
    pub(crate) fn path<'a>(&'a self, table: &'a str) -> Option<Vec<&'a str>> {
        let mut path = vec![table];
        while let Some(base) = path.last().and_then(|last| self.0.get(*last)?.extends.as_deref()) {
            if path.contains(&base) {
                return None;
            }
            path.push(base);
        }
        path.reverse();
        Some(path)
    }

    /// A table and those that extend it, at any depth; itself first.
    pub(crate) fn family<'a>(&'a self, table: &'a str) -> Vec<&'a str> {
        std::iter::once(table).chain(self.below(table)).collect()
    }

    /// The tables that extend a table, at any depth.
    pub(crate) fn below<'a>(&'a self, table: &str) -> Vec<&'a str> {
        let leads = |other: &&str| self.path(other).is_some_and(|path| path.into_iter().any(|one| one == table));
        self.0.keys().map(String::as_str).filter(|other| *other != table).filter(leads).collect()
    }

    /// The columns a table adds.
    pub(crate) fn added(&self, table: &str) -> &[String] {
        self.0.get(table).map_or(&[], |table| &table.columns)
    }

    /// The column that names classes, for any table of the family.
    pub(crate) fn class_column(&self, table: &str) -> Option<&str> {
        let top = *self.path(table)?.first()?;
        self.0.get(top)?.class_column.as_deref()
    }
}
