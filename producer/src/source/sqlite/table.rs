//! One watched table: what it consists of, and the SQL that writes its changes down.
//!
//! Whatever program writes to the file runs these triggers, so they use only what every SQLite since 3.9 has: no function
//! of ours, and no call with many arguments.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _};
use syncline_shared::sqlite::quote;

use crate::source::SourceError;

/// Prefix of every table and trigger of ours.
pub(super) const OURS: &str = "_syncline_";
/// Columns per pair of brackets in a concatenation; SQLite bounds the depth of an expression at 1,000.
const CONCATENATED: usize = 32;

/// A table as the file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// The name as the shares write it.
    pub(super) watched: Arc<str>,
    /// The name in the file.
    pub(super) name: String,
    /// All columns of the records, in order.
    pub(super) columns: Vec<Column>,
    /// The names of the primary key's columns, in its order.
    pub(super) key: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Declared as a boolean, which SQLite stores as 0 and 1.
    boolean: bool,
}

/// Which row a trigger or query speaks of.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Old,
    New,
    /// The row a query is at.
    Current,
}

impl Side {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Old => "OLD.",
            Self::New => "NEW.",
            Self::Current => "",
        }
    }
}

impl Table {
    /// Reads a table's form; `None` when there is no such table.
    pub(super) fn read(connection: &Connection, watched: &Arc<str>) -> rusqlite::Result<Option<Self>> {
        let name = watched.strip_prefix("main.").unwrap_or(watched);
        let found: Option<String> = connection
            .prepare_cached("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?
            .query_row([name], |row| row.get(0))
            .optional()?;
        let Some(name) = found else { return Ok(None) };
        let mut columns = Vec::new();
        let mut key = Vec::new();
        let mut info = connection.prepare_cached("SELECT name, type, pk FROM pragma_table_info(?1, 'main')")?;
        let mut rows = info.query([&name])?;
        while let Some(row) = rows.next()? {
            let (column, kind, place): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            if place > 0 {
                key.push((place, column.clone()));
            }
            if column.starts_with(OURS) {
                // The file is a target of ours too; what that keeps with a row is no part of the record.
                continue;
            }
            let boolean = kind.eq_ignore_ascii_case("boolean") || kind.eq_ignore_ascii_case("bool");
            columns.push(Column { name: column, boolean });
        }
        key.sort_unstable();
        let key = key.into_iter().map(|(_, column)| column).collect();
        Ok(Some(Self { watched: watched.clone(), name, columns, key }))
    }

    /// A watched table that is not there; the log may still have changes of it.
    pub(super) fn gone(watched: &Arc<str>) -> Self {
        let name = watched.strip_prefix("main.").unwrap_or(watched).to_owned();
        Self { watched: watched.clone(), name, columns: Vec::new(), key: Vec::new() }
    }

    /// Whether the file has the table.
    pub(super) const fn is_there(&self) -> bool {
        !self.columns.is_empty()
    }

    /// Refuses a table whose records have no name to go by.
    pub(super) fn require_key(&self) -> Result<(), SourceError> {
        if !self.key.is_empty() {
            return Ok(());
        }
        let (table, copy) = (quote(&self.name), quote(&format!("{}_new", self.name)));
        Err(SourceError::Unfit {
            problem: format!("table {:?} has no primary key", self.name),
            mend: format!(
                "CREATE TABLE {copy} (<its columns>, PRIMARY KEY (<the columns that name a record>)); \
                 INSERT INTO {copy} SELECT * FROM {table}; DROP TABLE {table}; ALTER TABLE {copy} RENAME TO {table};"
            ),
        })
    }

    /// A row as a JSON object, as SQL. Reals have 17 digits, bytes are `{"hex":".."}`.
    pub(super) fn row_json(&self, side: Side) -> String {
        object(self.columns.iter(), side)
    }

    /// A row's key as a JSON object, as SQL.
    fn key_json(&self, side: Side) -> String {
        object(self.key.iter().filter_map(|key| self.columns.iter().find(|column| column.name == *key)), side)
    }

    /// The key's columns as a list in SQL.
    pub(super) fn key_list(&self) -> String {
        self.key.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
    }

    /// Name and definition of the three triggers.
    pub(super) fn triggers(&self) -> [(String, String); 3] {
        let (none, new, old) = ("NULL".to_owned(), self.row_json(Side::New), self.row_json(Side::Old));
        let (new_key, old_key) = (self.key_json(Side::New), self.key_json(Side::Old));
        [
            self.trigger("insert", &new_key, &none, &new),
            self.trigger("update", &new_key, &old, &new),
            self.trigger("delete", &old_key, &old, &none),
        ]
    }

    fn trigger(&self, action: &str, key: &str, before: &str, after: &str) -> (String, String) {
        let name = format!("{OURS}{action}_{}", self.name);
        // A target of ours that writes into the same file leaves a row in _syncline_applying while it does.
        let definition = format!(
            "CREATE TRIGGER {} AFTER {} ON {} WHEN NOT EXISTS (SELECT 1 FROM _syncline_applying) BEGIN \
             INSERT INTO _syncline_change (table_name, action, key, before, after, at) \
             VALUES ({}, '{action}', {key}, {before}, {after}, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')); END",
            quote(&name),
            action.to_ascii_uppercase(),
            quote(&self.name),
            literal(&self.name),
        );
        (name, definition)
    }
}

/// Columns as a JSON object, as SQL.
fn object<'a>(columns: impl Iterator<Item = &'a Column>, side: Side) -> String {
    let members: Vec<_> = columns
        .enumerate()
        .map(|(index, column)| {
            let name = serde_json::Value::from(column.name.as_str()).to_string();
            let comma = if index == 0 { "" } else { "," };
            format!("{} || {}", literal(&format!("{comma}{name}:")), column.value_json(side))
        })
        .collect();
    let parts: Vec<_> = members.chunks(CONCATENATED).map(|part| format!("({})", part.join(" || "))).collect();
    format!("'{{' || {} || '}}'", parts.join(" || "))
}

impl Column {
    /// The value as JSON, as SQL; every value SQLite can store has a form.
    fn value_json(&self, side: Side) -> String {
        let value = format!("{}{}", side.prefix(), quote(&self.name));
        let integer = match self.boolean {
            true => format!("CASE {value} WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE {value} END"),
            false => value.clone(),
        };
        format!(
            "CASE typeof({value}) WHEN 'integer' THEN {integer} WHEN 'text' THEN json_quote({value}) \
             WHEN 'real' THEN CASE {value} WHEN 9e999 THEN '\"Infinity\"' WHEN -9e999 THEN '\"-Infinity\"' \
             ELSE printf('%!.17g', {value}) END \
             WHEN 'blob' THEN '{{\"hex\":\"' || hex({value}) || '\"}}' ELSE 'null' END"
        )
    }
}

/// A text as SQL.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
