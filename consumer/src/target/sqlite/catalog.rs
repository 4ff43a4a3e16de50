//! What a target table is like, and whether records can be written to it.
//!
//! Syncline's own bookkeeping (the version column, the tombstones) is created in every mode; tables and columns of the
//! records only in `evolve`. What is missing is named together with the statement that creates it. Names are compared as
//! SQLite does: without regard to ASCII case.

use rusqlite::{Connection, OptionalExtension as _};
use syncline_shared::sqlite::quote;

use super::shape::{VERSION, list};
use super::value::Affinity;
use crate::target::ApplyError;

/// Where the versions of deleted records are kept, the records that are parked, and the messages that are tried alone.
/// Runs more than once without harm.
pub(super) const CREATE_BOOKKEEPING: &str = "CREATE TABLE IF NOT EXISTS _syncline_tombstone (table_name TEXT, key TEXT, \
     version BLOB NOT NULL, deleted_at TEXT NOT NULL, PRIMARY KEY (table_name, key)) WITHOUT ROWID; \
     CREATE TABLE IF NOT EXISTS _syncline_parked (table_name TEXT, key TEXT, version BLOB, letter TEXT NOT NULL, \
     parked_at TEXT NOT NULL, PRIMARY KEY (table_name, key, version)) WITHOUT ROWID; \
     CREATE TABLE IF NOT EXISTS _syncline_tries (message TEXT PRIMARY KEY, tries INTEGER NOT NULL, tried_at TEXT NOT NULL)";

/// What is known of a target table.
#[derive(Debug)]
pub(super) struct Table {
    /// Its name as its definition writes it; tombstones know it by this one.
    pub(super) name: String,
    is_table: bool,
    is_strict: bool,
    columns: Vec<(String, Affinity)>,
    /// The columns of each unique index that tells any two rows apart.
    unique: Vec<Vec<String>>,
}

impl Table {
    /// Reads what the file says of a table; `None` if there is no such table.
    pub(super) fn read(connection: &Connection, into: &str) -> rusqlite::Result<Option<Self>> {
        let found = connection
            .prepare_cached("SELECT name, type = 'table', strict FROM pragma_table_list(?1) WHERE schema = 'main'")?
            .query_row([into], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((name, is_table, is_strict)) = found else { return Ok(None) };
        let mut table = Self { name, is_table, is_strict, columns: Vec::new(), unique: Vec::new() };
        let mut primary = Vec::new();
        let mut columns = connection.prepare_cached("SELECT name, type, pk FROM pragma_table_xinfo(?1) ORDER BY pk")?;
        let mut rows = columns.query([into])?;
        while let Some(row) = rows.next()? {
            let (name, declared): (String, String) = (row.get(0)?, row.get(1)?);
            if row.get::<_, i64>(2)? > 0 {
                primary.push(name.clone());
            }
            table.columns.push((name, Affinity::of(&declared, is_strict)));
        }
        table.unique.push(primary);
        // Of an expression there is no name: such an index fits no key.
        let mut indexes = connection.prepare_cached(
            "SELECT l.seq, coalesce(c.name, '') FROM pragma_index_list(?1) l, pragma_index_info(l.name) c \
             WHERE l.\"unique\" AND NOT l.partial ORDER BY l.seq",
        )?;
        let mut rows = indexes.query([into])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            let (index, name): (i64, String) = (row.get(0)?, row.get(1)?);
            match table.unique.last_mut().filter(|_| last == Some(index)) {
                Some(names) => names.push(name),
                None => table.unique.push(vec![name]),
            }
            last = Some(index);
        }
        table.unique.retain(|names| !names.is_empty());
        Ok(Some(table))
    }

    /// What the table does to the values of a column; `None` if it has no such column.
    pub(super) fn affinity(&self, column: &str) -> Option<Affinity> {
        self.columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(column)).map(|(_, affinity)| *affinity)
    }

    /// Those of the columns that the table lacks.
    pub(super) fn lacks<'a>(&self, columns: &[&'a str]) -> Vec<&'a str> {
        columns.iter().filter(|name| self.affinity(name).is_none()).copied().collect()
    }

    /// The statement that adds a column, one that keeps every value as it is.
    pub(super) fn add_column(&self, name: &str) -> String {
        // A column of a STRICT table has to have a type; elsewhere the same word would make numbers of texts.
        let kind = match (name == VERSION, self.is_strict) {
            (true, _) => " BLOB",
            (false, true) => " ANY",
            (false, false) => "",
        };
        format!("ALTER TABLE {} ADD COLUMN {}{kind}", quote(&self.name), quote(name))
    }

    /// Takes down that a column was added.
    pub(super) fn added(&mut self, name: &str) {
        self.columns.push((name.to_owned(), Affinity::None));
    }

    /// Whether records with these key columns can be told apart, in a table at all.
    pub(super) fn fits(&self, key: &[&str]) -> Result<(), ApplyError> {
        self.is_a_table()?;
        let is_key = |name: &String| key.iter().any(|key| key.eq_ignore_ascii_case(name));
        if self.unique.iter().any(|names| names.len() == key.len() && names.iter().all(is_key)) {
            return Ok(());
        }
        let (table, key) = (&self.name, list(key));
        Err(ApplyError::Unfit {
            problem: format!("table {table:?} has no unique index on its key columns ({key})"),
            mend: format!("CREATE UNIQUE INDEX {} ON {} ({key})", quote(&format!("{table}_key")), quote(table)),
        })
    }

    /// What stands in the way of writing, as far as it can be told without a record.
    pub(super) fn problems(&self, columns: &[&str], evolve: bool) -> Vec<ApplyError> {
        if let Err(error) = self.is_a_table() {
            return vec![error];
        }
        let mut problems = Vec::new();
        if self.unique.is_empty() {
            let index = quote(&format!("{}_key", self.name));
            problems.push(ApplyError::Unfit {
                problem: format!("table {:?} has no unique index", self.name),
                mend: format!("CREATE UNIQUE INDEX {index} ON {} (its key columns)", quote(&self.name)),
            });
        }
        let lacking = self.lacks(columns);
        if !lacking.is_empty() && !evolve {
            problems.push(self.missing_columns(&lacking));
        }
        problems
    }

    /// Columns that records have and the table lacks.
    pub(super) fn missing_columns(&self, columns: &[&str]) -> ApplyError {
        let statements: Vec<_> = columns.iter().map(|name| self.add_column(name)).collect();
        ApplyError::Unfit {
            problem: format!("table {:?} lacks {}", self.name, list(columns)),
            mend: statements.join("; "),
        }
    }

    fn is_a_table(&self) -> Result<(), ApplyError> {
        if self.is_table {
            return Ok(());
        }
        Err(ApplyError::Unfit {
            problem: format!("{:?} is not an ordinary table", self.name),
            mend: "a table's name in the subscription's `into`".to_owned(),
        })
    }
}

/// A table that is not there.
pub(super) fn missing_table(into: &str, columns: &[&str], key: &[&str]) -> ApplyError {
    let mend = match key {
        [] => format!("CREATE TABLE {} with the columns of the records", quote(into)),
        _ => create_table(into, columns, key),
    };
    ApplyError::Unfit { problem: format!("table {into:?} does not exist"), mend }
}

/// The statement that creates a table for records with these columns; without types, so that every value is kept.
pub(super) fn create_table(into: &str, columns: &[&str], key: &[&str]) -> String {
    let not_null = |name: &&str| format!("{}{}", quote(name), if key.contains(name) { " NOT NULL" } else { "" });
    let columns = columns.iter().map(not_null).collect::<Vec<_>>().join(", ");
    format!("CREATE TABLE {} ({columns}, {VERSION} BLOB, PRIMARY KEY ({}))", quote(into), list(key))
}
