mod bulk;
mod changes;
mod copies;
mod files;
mod setup;
mod values;

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::Instant;

use proptest::prelude::*;
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, params};
use syncline_shared::class::Class;
use syncline_shared::record::{Action, Row, Value, Version};
use syncline_shared::sqlite;
use tempfile::TempDir;

use super::*;
use crate::source::Change;
use crate::source::contract;

const LIMIT: PollLimit = PollLimit { changes: 100, bytes: 1 << 20 };
/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);
/// Several looks of an idle source at the file.
const A_WHILE: Duration = Duration::from_millis(200);

/// A desk's database, with the application's own connection.
struct Desk {
    folder: TempDir,
    app: Connection,
}

impl Desk {
    fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let app = connect(folder.path());
        app.pragma_update(None, "journal_mode", "WAL").expect("WAL mode");
        app.execute_batch(sql).expect("the desk's tables");
        Self { folder, app }
    }

    fn incidents() -> Self {
        Self::new("CREATE TABLE incident (number TEXT PRIMARY KEY, priority INTEGER, sys_updated_by TEXT)")
    }

    fn config(&self) -> SqliteSourceConfig {
        SqliteSourceConfig {
            interval: None,
            delay: None,
            path: path(self.folder.path()),
            tables: Tables::default(),
            session: None,
            poll_interval_ms: 5,
        }
    }

    fn source(&self, watched: &[(&str, &[&str])]) -> SqliteSource {
        SqliteSource::new("desk", self.config(), watch(watched))
    }

    fn run(&self, sql: &str) {
        self.app.execute_batch(sql).expect("a statement of the application");
    }

    fn logged(&self) -> i64 {
        self.app.query_row("SELECT count(*) FROM _syncline_change", [], |row| row.get(0)).expect("a count")
    }
}

impl contract::Stand for Desk {
    type Source = SqliteSource;

    async fn run(&mut self, statements: &str) {
        Self::run(self, statements);
    }

    async fn source(&mut self) -> SqliteSource {
        Self::source(self, &[("item", &["first"])])
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_sources() {
    contract::run(Desk::new("")).await;
}

fn path(folder: &Path) -> PathBuf {
    folder.join("desk.db")
}

fn connect(folder: &Path) -> Connection {
    sqlite::open(&path(folder), true).expect("a database")
}

fn watch(watched: &[(&str, &[&str])]) -> Vec<WatchedTable> {
    let table = |(table, copy_for): &(&str, &[&str])| WatchedTable {
        table: (*table).into(),
        copy_for: copy_for.iter().map(|share| (*share).into()).collect(),
        ..WatchedTable::default()
    };
    watched.iter().map(table).collect()
}

/// One change as a line: action, key, after, and the share it is for.
fn line(change: &Change) -> String {
    let row = |row: &Row| row.values().map(|value| value.as_text().unwrap_or("-")).collect::<Vec<_>>().join(" ");
    let mut line = format!("{} {}", change.action, row(&change.key));
    if let Some(after) = &change.after {
        line += &format!(": {}", row(after));
    }
    if let Some(share) = &change.only_share {
        line += &format!(" for {share}");
    }
    line
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes.iter().map(line).collect()
}

/// Polls once. A step of a source that is gone may hold the file for the moment it still lasts.
async fn poll(source: &mut SqliteSource) -> Polled<SqlitePosition> {
    let started = Instant::now();
    loop {
        match tokio::time::timeout(DEADLINE, source.poll(LIMIT)).await.expect("a change comes") {
            Ok(polled) => return polled,
            Err(SourceError::Taken { .. }) if started.elapsed() < DEADLINE => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// The next changes, at least one; commits them.
async fn next(source: &mut SqliteSource) -> Vec<Change> {
    loop {
        let polled = poll(source).await;
        source.commit(&polled.position.expect("a position")).await.expect("a commit");
        if !polled.changes.is_empty() {
            return polled.changes;
        }
    }
}

/// The next so many changes.
async fn take(source: &mut SqliteSource, count: usize) -> Vec<Change> {
    let mut changes = Vec::new();
    while changes.len() < count {
        changes.extend(next(source).await);
    }
    assert_eq!(changes.len(), count, "{:?}", lines(&changes));
    changes
}

/// Sets the source up and makes sure that there is nothing to report.
async fn quiet(source: &mut SqliteSource) {
    let polled = tokio::time::timeout(A_WHILE, source.poll(LIMIT)).await;
    assert!(polled.as_ref().is_err(), "{polled:?}");
}

async fn fails(source: &mut SqliteSource) -> SourceError {
    tokio::time::timeout(DEADLINE, source.poll(LIMIT)).await.expect("it ends").expect_err("it fails")
}
