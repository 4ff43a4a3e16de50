//! A file of its own, removed with its folder when its test ends.

use std::path::PathBuf;

use rusqlite::Connection;
use syncline_shared::sqlite::quote;
use tempfile::TempDir;

use super::super::shape::list;
use super::super::{SqliteTarget, SqliteTargetConfig};
use crate::target::SchemaMode;
use crate::target::contract::{Bench, Kind};

pub(super) struct SqliteBench {
    folder: TempDir,
}

impl SqliteBench {
    /// A folder without the file.
    pub(super) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// With an empty database.
    pub(super) fn new() -> Self {
        let bench = Self::empty();
        bench.run("CREATE TABLE other (id); DROP TABLE other");
        bench
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("crm.db")
    }

    /// The settings of a test's target: it waits for locks a short time only.
    pub(super) fn config(&self, schema: SchemaMode) -> SqliteTargetConfig {
        SqliteTargetConfig { path: self.path(), schema, busy_timeout_ms: 300 }
    }

    pub(super) fn evolving(&self) -> SqliteTarget {
        SqliteTarget::new(self.config(SchemaMode::Evolve))
    }

    /// Another connection.
    pub(super) fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    pub(super) fn run(&self, statements: &str) {
        self.connect().execute_batch(statements).unwrap();
    }

    /// The one value a query answers, as text.
    pub(super) fn ask(&self, question: &str) -> String {
        let question = format!("SELECT CAST(({question}) AS TEXT)");
        self.connect().query_row(&question, [], |row| row.get(0)).unwrap()
    }
}

impl Bench for SqliteBench {
    type Target = SqliteTarget;

    fn target(&self, _writer: &str) -> SqliteTarget {
        SqliteTarget::new(self.config(SchemaMode::Strict))
    }

    async fn create(&self, table: &str, columns: &[(&str, Kind)], key: &[&str]) {
        let kind = |kind: Kind| match kind {
            Kind::Text => "TEXT",
            Kind::Integer => "INTEGER",
        };
        let columns: Vec<_> = columns.iter().map(|(name, of)| format!("{} {}", quote(name), kind(*of))).collect();
        let (table, columns) = (quote(table), columns.join(", "));
        self.run(&format!("CREATE TABLE {table} ({columns}, PRIMARY KEY ({})) STRICT", list(key)));
    }

    async fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let connection = self.connect();
        let question = columns.iter().map(|name| format!("CAST({} AS TEXT)", quote(name))).collect::<Vec<_>>();
        let question = format!("SELECT {} FROM {}", question.join(", "), quote(table));
        let mut rows = connection.prepare(&question).unwrap();
        let rows = rows.query_map([], |row| (0..columns.len()).map(|index| row.get(index)).collect()).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    async fn finish(self) {}
}
