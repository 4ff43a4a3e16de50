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
        SqliteSourceConfig { path: path(self.folder.path()), session: None, poll_interval_ms: 5 }
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

#[tokio::test]
async fn changes_come_in_order_with_what_was_before() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I0', 1, 'old')");
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 3, 'abel')");
    desk.run("UPDATE incident SET priority = priority + 1");
    desk.run("DELETE FROM incident WHERE number = 'I0'");
    let changes = take(&mut source, 4).await;
    let expected = ["insert I1: I1 3 abel", "update I0: I0 2 old", "update I1: I1 4 abel", "delete I0"];
    assert_eq!(lines(&changes), expected);
    assert!(changes.is_sorted_by(|a, b| a.version < b.version));
    let before = |index: usize| changes[index].before.as_ref().and_then(|row| row.get("priority"));
    assert_eq!((before(0), before(1), before(3)), (None, Some(Value::Number("1")), Some(Value::Number("2"))));
    let age = jiff::Timestamp::now().duration_since(changes[0].at);
    assert!(age.as_secs().abs() < 60, "made {age:?} ago");
    assert_eq!(&*changes[0].table, "incident");
}

#[tokio::test]
async fn a_changed_key_is_a_delete_and_an_insert() {
    let desk =
        Desk::new("CREATE TABLE line (ord INTEGER, pos INTEGER, item TEXT, PRIMARY KEY (pos, ord)) WITHOUT ROWID");
    let mut source = desk.source(&[("line", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO line VALUES (7, 1, 'a'); UPDATE line SET ord = 8; UPDATE line SET item = 'b'");
    let changes = take(&mut source, 4).await;
    assert_eq!(lines(&changes), ["insert 1 7: 7 1 a", "delete 1 7", "insert 1 8: 8 1 a", "update 1 8: 8 1 b"]);
    assert!(changes.is_sorted_by(|a, b| a.version < b.version));
}

#[tokio::test]
async fn the_session_comes_from_the_rule() {
    let desk = Desk::incidents();
    let rule = SessionRule { user_column: "sys_updated_by".to_owned(), background: vec!["job*".to_owned()] };
    let config = SqliteSourceConfig { session: Some(rule), ..desk.config() };
    let mut source = SqliteSource::new("desk", config, watch(&[("incident", &[])]));
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'abel'); UPDATE incident SET sys_updated_by = 'job.7'");
    desk.run("DELETE FROM incident");
    let sessions: Vec<_> = take(&mut source, 3).await.iter().map(|change| change.session.interactive).collect();
    assert_eq!(sessions, [Some(true), Some(false), Some(false)]);
}

#[tokio::test]
async fn what_was_committed_is_taken_off_the_log_and_the_rest_comes_again() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    next(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I2', 1, 'a')");
    let polled = poll(&mut source).await;
    let before = polled.changes[0].version;
    assert_eq!(lines(&polled.changes), ["insert I2: I2 1 a"]);
    source.close().await;
    assert_eq!(desk.logged(), 1);
    let mut again = desk.source(&[("incident", &[])]);
    let changes = next(&mut again).await;
    assert_eq!((lines(&changes), changes[0].version), (vec!["insert I2: I2 1 a".to_owned()], before));
    again.close().await;
    assert_eq!(desk.logged(), 0);
}

#[tokio::test]
async fn the_log_is_kept_short_while_the_source_runs() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    let started = Instant::now();
    for number in 0.. {
        desk.run(&format!("INSERT INTO incident VALUES ('I{number}', 1, 'a')"));
        next(&mut source).await;
        if number > 10 && desk.logged() < 5 {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{} rows stay in the log", desk.logged());
    }
}

#[tokio::test]
async fn a_cancelled_poll_loses_nothing() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    for number in 0..50 {
        desk.run(&format!("INSERT INTO incident VALUES ('I{number:02}', 1, 'a')"));
    }
    let limit = PollLimit { changes: 1, ..LIMIT };
    let mut numbers = Vec::new();
    let started = Instant::now();
    while numbers.len() < 50 {
        assert!(started.elapsed() < DEADLINE);
        if let Ok(polled) = tokio::time::timeout(Duration::from_micros(100), source.poll(limit)).await {
            numbers.extend(lines(&polled.expect("a poll").changes));
        }
    }
    let expected: Vec<_> = (0..50).map(|number| format!("insert I{number:02}: I{number:02} 1 a")).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn a_poll_stops_at_its_limits() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &["copies"])]);
    desk.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 7)
              INSERT INTO incident SELECT 'I' || i, i, 'a' FROM n",
    );
    let sizes = async |source: &mut SqliteSource, limit| {
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 7 {
            sizes.push(source.poll(limit).await.expect("a poll").changes.len());
        }
        sizes
    };
    assert_eq!(sizes(&mut source, PollLimit { changes: 3, ..LIMIT }).await, [3, 3, 1]);
    desk.run("UPDATE incident SET priority = 0");
    assert_eq!(sizes(&mut source, PollLimit { bytes: 1, ..LIMIT }).await, [1; 7]);
}

#[tokio::test]
async fn only_one_producer_reads_a_file() {
    let desk = Desk::incidents();
    let (mut one, mut two) = (desk.source(&[("incident", &[])]), desk.source(&[("incident", &[])]));
    quiet(&mut one).await;
    assert!(matches!(fails(&mut two).await, SourceError::Taken { .. }));
    one.close().await;
    quiet(&mut two).await;
}

#[tokio::test]
async fn a_table_without_a_key_is_refused_by_name() {
    let desk = Desk::new("CREATE TABLE note (text TEXT); CREATE TABLE incident (number TEXT PRIMARY KEY)");
    let mut source = desk.source(&[("note", &[]), ("incident", &[])]);
    let error = fails(&mut source).await;
    assert_eq!(error.class(), Class::Systemic);
    assert!(error.to_string().contains("\"note\" has no primary key"), "{error}");
    assert!(error.to_string().contains("CREATE TABLE \"note_new\""), "{error}");
    assert_eq!(source.check().await.problems.len(), 1);
    // Mended while the producer runs.
    desk.run("CREATE TABLE note_new (text TEXT PRIMARY KEY); DROP TABLE note; ALTER TABLE note_new RENAME TO note");
    quiet(&mut source).await;
    desk.run("INSERT INTO note VALUES ('a')");
    assert_eq!(lines(&next(&mut source).await), ["insert a: a"]);
}

#[tokio::test]
async fn every_problem_is_found_by_a_check_that_changes_nothing() {
    let desk = Desk::new("CREATE TABLE note (text TEXT); CREATE TABLE incident (number TEXT PRIMARY KEY)");
    let source = desk.source(&[("note", &[]), ("incident", &[]), ("typo", &[])]);
    let checked = source.check().await;
    assert!(matches!(checked.problems.as_slice(), [SourceError::Unfit { .. }]), "{checked:?}");
    assert_eq!(checked.missing, ["typo".into()]);
    assert_eq!(checked.columns, [("incident".into(), vec!["number".to_owned()])].into());
    let tables: i64 = desk
        .app
        .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'table'", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(tables, 2);

    let config = SqliteSourceConfig { path: desk.folder.path().join("no/such.db"), ..desk.config() };
    let mut missing = SqliteSource::new("desk", config, Vec::new());
    assert_eq!(fails(&mut missing).await.class(), Class::Transient);
    assert!(matches!(missing.check().await.problems.as_slice(), [SourceError::Unreachable { .. }]));
    let text = desk.folder.path().join("text");
    std::fs::write(&text, "no database, but long enough to be taken for one ".repeat(100)).expect("a file");
    let mut text = SqliteSource::new("desk", SqliteSourceConfig { path: text, ..desk.config() }, watch(&[("a", &[])]));
    assert!(matches!(fails(&mut text).await, SourceError::Unfit { .. }));
}

#[tokio::test]
async fn the_rows_already_there_are_copied_once_for_the_share_that_asks() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'), ('I2', 2, 'b')");
    let mut source = desk.source(&[("incident", &["first"])]);
    let changes = next(&mut source).await;
    assert_eq!(lines(&changes), ["bulk I1: I1 1 a for first", "bulk I2: I2 2 b for first"]);
    desk.run("UPDATE incident SET priority = 9 WHERE number = 'I1'");
    let update = next(&mut source).await;
    assert_eq!(lines(&update), ["update I1: I1 9 a"]);
    assert!(update[0].version > changes[0].version);
    source.close().await;

    let mut again = desk.source(&[("incident", &["first", "second"])]);
    let copied = next(&mut again).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 9 a for second", "bulk I2: I2 2 b for second"]);
    assert!(copied[0].version > update[0].version, "the row holds the update");
    quiet(&mut again).await;
}

#[tokio::test]
async fn a_share_that_was_gone_for_a_while_is_copied_again() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    for watched in [&[("incident", ["s"].as_slice())][..], &[("incident", &[])]] {
        let mut source = desk.source(watched);
        if watched[0].1.is_empty() {
            quiet(&mut source).await;
        } else {
            next(&mut source).await;
        }
        source.close().await;
    }
    let mut source = desk.source(&[("incident", &["s"])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk I1: I1 1 a for s"]);
}

#[tokio::test]
async fn a_position_of_a_lost_log_finishes_no_copy_of_the_next() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    let mut source = desk.source(&[("incident", &["s"])]);
    next(&mut source).await;
    // Everything of ours is taken out of the file, so that the numbers of copies start over.
    desk.run(
        "DROP TABLE _syncline_state; DROP TABLE _syncline_copy; DROP TABLE _syncline_table;
         DELETE FROM sqlite_sequence WHERE name = '_syncline_copy'",
    );
    // Epochs are seconds.
    let second = jiff::Timestamp::now().as_second();
    while jiff::Timestamp::now().as_second() == second {
        thread::sleep(Duration::from_millis(10));
    }
    let copied = source.poll(LIMIT).await.expect("a poll").changes;
    assert_eq!(lines(&copied), ["bulk I1: I1 1 a for s"]);
    source.close().await;
    let mut source = desk.source(&[("incident", &["s"])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk I1: I1 1 a for s"], "it was not committed");
}

#[tokio::test]
async fn a_copy_that_was_not_finished_is_made_again() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'), ('I2', 2, 'b'), ('I3', 3, 'c')");
    let mut source = desk.source(&[("incident", &["s"])]);
    let polled = source.poll(PollLimit { changes: 2, ..LIMIT }).await.expect("a poll");
    source.commit(&polled.position.expect("a position")).await.expect("a commit");
    source.close().await;
    let mut again = desk.source(&[("incident", &["s"])]);
    assert_eq!(take(&mut again, 3).await.len(), 3);
}

#[tokio::test]
async fn a_copy_beside_writers_leaves_no_gap() {
    let desk = Desk::new("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)");
    desk.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
              INSERT INTO account SELECT i, 0 FROM n",
    );
    let mut source = desk.source(&[("account", &["s"])]);
    let folder = desk.folder.path().to_owned();
    let writer = thread::spawn(move || {
        let app = connect(&folder);
        for step in 0..1500_i64 {
            let id = (step * 7919) % 2200 + 1;
            match step % 5 {
                0 => app.execute("DELETE FROM account WHERE id = ?1", [id]),
                1 => app.execute("INSERT OR IGNORE INTO account VALUES (?1, ?2)", [id, step]),
                _ => app.execute("UPDATE account SET balance = ?2 WHERE id = ?1", [id, step]),
            }
            .expect("a write");
        }
    });
    // What a target would hold: the newest version of every record.
    let mut held: BTreeMap<String, (Version, Option<String>)> = BTreeMap::new();
    let limit = PollLimit { changes: 37, ..LIMIT };
    let is_current = |held: &BTreeMap<String, (Version, Option<String>)>| {
        let mut select =
            desk.app.prepare("SELECT id, balance FROM account ORDER BY CAST(id AS TEXT)").expect("a query");
        let rows =
            select.query_map([], |row| Ok((row.get::<_, i64>(0)?.to_string(), row.get::<_, i64>(1)?.to_string())));
        let rows: Vec<_> = rows.expect("rows").map(|row| row.expect("a row")).collect();
        let held: Vec<_> = held.iter().filter_map(|(key, (_, row))| Some((key.clone(), row.clone()?))).collect();
        rows == held
    };
    let started = Instant::now();
    loop {
        if let Ok(polled) = tokio::time::timeout(A_WHILE, source.poll(limit)).await {
            let polled = polled.expect("a poll");
            source.commit(&polled.position.expect("a position")).await.expect("a commit");
            for change in polled.changes {
                let key = change.key.value(0).and_then(Value::as_text).expect("a key").to_owned();
                let balance = change.after.as_ref().and_then(|row| row.get("balance"));
                let balance = balance.and_then(Value::as_text).map(str::to_owned);
                let slot = held.entry(key).or_default();
                if change.version > slot.0 {
                    *slot = (change.version, balance);
                }
            }
        } else if writer.is_finished() && is_current(&held) {
            break;
        }
        assert!(started.elapsed() < DEADLINE * 2, "the copy and the stream do not add up to the table");
    }
    writer.join().expect("the writer");
}

#[tokio::test]
async fn a_table_made_later_is_copied_for_all() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[]), ("task", &["s"])]);
    quiet(&mut source).await;
    desk.run("BEGIN; CREATE TABLE task (id INTEGER PRIMARY KEY); INSERT INTO task VALUES (1), (2); COMMIT");
    assert_eq!(lines(&next(&mut source).await), ["bulk 1: 1", "bulk 2: 2"]);
    desk.run("INSERT INTO task VALUES (3)");
    assert_eq!(lines(&next(&mut source).await), ["insert 3: 3"]);
    // Dropped and made again: what the new table had before its triggers must not be missed either.
    desk.run("DROP TABLE task");
    quiet(&mut source).await;
    desk.run("CREATE TABLE task (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO task VALUES (4, 'a')");
    let mut versions = BTreeMap::new();
    while versions.is_empty() {
        for change in next(&mut source).await {
            versions.insert(line(&change).split(' ').next_back().map(str::to_owned), change.version);
        }
    }
    assert!(versions.contains_key(&Some("a".to_owned())), "{versions:?}");
}

#[tokio::test]
async fn what_changed_before_a_table_was_dropped_is_not_lost() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("Incident", &[])]);
    quiet(&mut source).await;
    desk.run("BEGIN; INSERT INTO incident VALUES ('I1', 1, 'a'); DROP TABLE incident; COMMIT");
    let changes = next(&mut source).await;
    // Dropping a table deletes no record one by one.
    assert_eq!(lines(&changes), ["insert I1: I1 1 a"]);
    assert_eq!(&*changes[0].table, "Incident");
}

#[tokio::test]
async fn a_table_made_while_the_producer_is_away_is_copied_for_all() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("task", &[])]);
    quiet(&mut source).await;
    source.close().await;
    desk.run("CREATE TABLE task (id INTEGER PRIMARY KEY); INSERT INTO task VALUES (1)");
    let mut source = desk.source(&[("task", &[])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk 1: 1"]);
}

#[tokio::test]
async fn a_column_added_later_is_not_missed() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    source.close().await;
    // While nobody looks, the old triggers do not know the column.
    desk.run("ALTER TABLE incident ADD COLUMN state TEXT; INSERT INTO incident VALUES ('I1', 1, 'a', 'open')");
    let mut source = desk.source(&[("incident", &[])]);
    assert_eq!(lines(&next(&mut source).await), ["insert I1: I1 1 a open"]);
    desk.run("ALTER TABLE incident ADD COLUMN note TEXT; UPDATE incident SET note = 'n'");
    assert_eq!(lines(&next(&mut source).await), ["update I1: I1 1 a open n"]);
    desk.run("ALTER TABLE incident RENAME COLUMN note TO remark; UPDATE incident SET remark = 'r'");
    let renamed = next(&mut source).await;
    assert_eq!(renamed[0].after.as_ref().and_then(|row| row.get("remark")), Some(Value::Text("r")));
}

#[tokio::test]
async fn a_lost_log_begins_a_new_epoch_and_copies_everything() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'); UPDATE incident SET priority = 2");
    let before = take(&mut source, 2).await;
    source.close().await;
    connect(desk.folder.path()).execute_batch("DROP TABLE _syncline_change").expect("the log is dropped");
    let mut source = desk.source(&[("incident", &[])]);
    let copied = next(&mut source).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 2 a"]);
    assert!(copied[0].version > before[1].version);
    desk.run("UPDATE incident SET priority = 3");
    let update = next(&mut source).await;
    assert!(update[0].version > copied[0].version);
}

#[tokio::test]
async fn a_file_that_was_replaced_is_read_and_an_older_one_copied() {
    let desk = Desk::incidents();
    desk.run("PRAGMA journal_mode = DELETE");
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    next(&mut source).await;
    let backup = desk.folder.path().join("backup.db");
    desk.run(&format!("VACUUM INTO '{}'", backup.display()));
    desk.run("UPDATE incident SET priority = 2; UPDATE incident SET priority = 3");
    let last = take(&mut source, 2).await;
    std::fs::rename(&backup, path(desk.folder.path())).expect("the backup takes its place");
    connect(desk.folder.path())
        .execute_batch("UPDATE incident SET priority = 4")
        .expect("a change of the restored file");
    let copied = next(&mut source).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 4 a"]);
    assert!(copied[0].version > last[1].version);
}

#[tokio::test]
async fn a_table_nobody_watches_any_more_has_no_triggers() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    source.close().await;
    quiet(&mut desk.source(&[])).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    assert_eq!(desk.logged(), 0);
}

#[tokio::test]
async fn what_our_own_target_writes_is_not_logged() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run(
        "BEGIN; INSERT INTO _syncline_applying VALUES ('crm'); INSERT INTO incident VALUES ('I1', 1, 'a');
              DELETE FROM _syncline_applying; COMMIT; INSERT INTO incident VALUES ('I2', 1, 'a')",
    );
    assert_eq!(lines(&next(&mut source).await), ["insert I2: I2 1 a"]);
}

#[tokio::test]
async fn hostile_names_are_only_names() {
    let desk =
        Desk::new(r#"CREATE TABLE "it's ""odd""" ("sel'ect" TEXT PRIMARY KEY, "a""b" INT, "ü" BLOB, "select" REAL)"#);
    let mut source = desk.source(&[(r#"it's "odd""#, &["s"])]);
    desk.run(r#"INSERT INTO "it's ""odd""" VALUES ('x', 1, x'00ff', 0.1)"#);
    assert_eq!(lines(&next(&mut source).await), ["bulk x: x 1 AP8= 0.1 for s"]);
    desk.run(r#"UPDATE "it's ""odd""" SET "a""b" = 2"#);
    let changes = next(&mut source).await;
    assert_eq!(lines(&changes), ["update x: x 2 AP8= 0.1"]);
    let columns: Vec<_> = changes[0].after.as_ref().expect("a row").columns().iter().map(str::to_owned).collect();
    assert_eq!(columns, ["sel'ect", "a\"b", "ü", "select"]);
}

#[tokio::test]
async fn a_table_may_have_hundreds_of_columns() {
    let columns: Vec<_> = (0..900).map(|index| format!("c{index} TEXT DEFAULT 'v{index}'")).collect();
    let desk = Desk::new(&format!("CREATE TABLE wide (id INTEGER PRIMARY KEY, {})", columns.join(", ")));
    let mut source = desk.source(&[("wide", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO wide (id) VALUES (1)");
    let changes = next(&mut source).await;
    assert_eq!(changes[0].after.as_ref().and_then(|row| row.get("c899")), Some(Value::Text("v899")));
}

#[tokio::test]
async fn a_record_without_a_whole_key_is_left_out() {
    let desk = Desk::new("CREATE TABLE line (a TEXT, b TEXT, PRIMARY KEY (a, b))");
    desk.run("INSERT INTO line VALUES ('x', NULL), ('x', 'y'), (NULL, 'y')");
    let mut source = desk.source(&[("line", &["s"])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk x y: x y for s"]);
    desk.run("INSERT INTO line VALUES ('z', NULL), ('z', 'z')");
    assert_eq!(lines(&next(&mut source).await), ["insert z z: z z"]);
}

#[tokio::test]
async fn what_is_left_out_does_not_hold_up_what_follows() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    // More rows than one poll takes, in one transaction: nothing wakes the source afterwards.
    let numbers = serde_json::Value::from((1..=250).collect::<Vec<_>>());
    desk.run(&format!("INSERT INTO incident SELECT nullif('I' || value, 'I7'), 1, 'abel' FROM json_each('{numbers}')"));
    let changes = take(&mut source, 249).await;
    assert_eq!(lines(&changes).last().map(String::as_str), Some("insert I250: I250 1 abel"));
}

#[tokio::test]
async fn booleans_and_infinities_have_their_own_forms() {
    let desk = Desk::new("CREATE TABLE t (id INTEGER PRIMARY KEY, active BOOLEAN, big REAL)");
    let mut source = desk.source(&[("t", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO t VALUES (1, 1, 9e999), (2, 0, -9e999), (3, 7, 1), (4, NULL, NULL)");
    let changes = take(&mut source, 4).await;
    let row = |index: usize| {
        let row = changes[index].after.as_ref().expect("a row");
        (row.get("active").expect("a column"), row.get("big").expect("a column"))
    };
    assert_eq!(row(0), (Value::Bool(true), Value::Text("Infinity")));
    assert_eq!(row(1), (Value::Bool(false), Value::Text("-Infinity")));
    assert_eq!(row(2), (Value::Number("7"), Value::Number("1.0")));
    assert_eq!(row(3), (Value::Null, Value::Null));
}

fn stored() -> impl Strategy<Value = Stored> {
    prop_oneof![
        Just(Stored::Null),
        any::<i64>().prop_map(Stored::Integer),
        any::<f64>().prop_filter("SQLite has no NaN", |real| !real.is_nan()).prop_map(Stored::Real),
        any::<u64>()
            .prop_map(f64::from_bits)
            .prop_filter("SQLite has no NaN", |real| !real.is_nan())
            .prop_map(Stored::Real),
        "[^\0]*".prop_map(Stored::Text),
        "['\"\\\\\n\r\t{}\u{1}-\u{1f}é漢😀]*".prop_map(Stored::Text),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Stored::Blob),
    ]
}

/// Whether the value of a record is exactly the stored one.
fn same(stored: &Stored, value: Value<'_>) -> bool {
    match (stored, value) {
        (Stored::Null, Value::Null) => true,
        (Stored::Integer(stored), Value::Number(text)) => text.parse() == Ok(*stored),
        (Stored::Real(stored), Value::Number(text)) => {
            text.contains(['.', 'e']) && text.parse::<f64>().is_ok_and(|read| read == *stored)
        }
        (Stored::Real(stored), Value::Text(text)) => stored.is_infinite() && text.parse() == Ok(*stored),
        (Stored::Text(stored), Value::Text(text)) => stored == text,
        (Stored::Blob(stored), Value::Bytes(_)) => {
            let mut bytes = Row::builder(syncline_shared::record::Columns::new(["bytes"]));
            bytes.push_bytes(stored);
            bytes.finish().value(0) == Some(value)
        }
        _ => false,
    }
}

#[test]
fn values_arrive_as_they_were() {
    let desk = Desk::new("CREATE TABLE t (id INTEGER PRIMARY KEY, a, b, c)");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let source = tokio::sync::Mutex::new(desk.source(&[("t", &[])]));
    runtime.block_on(async { quiet(&mut *source.lock().await).await });
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) };
    proptest!(config, |(before in [stored(), stored(), stored()], after in [stored(), stored(), stored()])| {
        desk.run("DELETE FROM t");
        let [a, b, c] = &before;
        desk.app.execute("INSERT INTO t VALUES (1, ?1, ?2, ?3)", params![a, b, c]).expect("an insert");
        let [a, b, c] = &after;
        desk.app.execute("UPDATE t SET a = ?1, b = ?2, c = ?3", params![a, b, c]).expect("an update");
        let update = runtime.block_on(async {
            let source = &mut *source.lock().await;
            loop {
                if let Some(change) = next(source).await.pop().filter(|change| change.action == Action::Update) {
                    return change;
                }
            }
        });
        for (stored, row) in [(&before, &update.before), (&after, &update.after)] {
            for (stored, column) in stored.iter().zip(["a", "b", "c"]) {
                let value = row.as_ref().and_then(|row| row.get(column)).expect("a value");
                prop_assert!(same(stored, value), "{stored:?} arrived as {value:?}");
            }
        }
    });
}
