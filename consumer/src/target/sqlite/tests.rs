//! The SQLite target, in a file per test.

mod bench;
mod look;
mod schema;

use crate::target::SchemaMode;
use std::error::Error as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use syncline_shared::class::Class;
use syncline_shared::record::{Action, Value};

use self::bench::SqliteBench;
use super::*;
use crate::target::Outcome;
use crate::target::contract::{
    Bench, apply, deleted, held, incident, incidents, part, record, target_contract, with_incidents,
};

target_contract!(
    std::future::ready(SqliteBench::new()),
    a_refused_record_commits_nothing,
    a_missing_table_is_unfit_until_it_is_made
);

/// Every text an error shows in a log.
fn all_texts(error: &ApplyError) -> String {
    let mut texts = format!("{error} {error:?}");
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    texts
}

#[tokio::test]
async fn values_arrive_as_they_were_or_as_the_columns_type_says() {
    let (integer, long) = ("9223372036854775807", "12345678901234567890123456789.123456789");
    let cases = [
        ("", Value::Number(integer), "integer", integer),
        ("", Value::Number("-0.0015"), "real", "-0.0015"),
        ("", Value::Number("1.0"), "real", "1.0"),
        ("", Value::Number(long), "text", long),
        ("", Value::Number("9223372036854775808"), "text", "9223372036854775808"),
        ("", Value::Bool(true), "integer", "1"),
        ("", Value::Text("007"), "text", "007"),
        ("", Value::Text("nul \0 and 𝄞"), "text", "nul \0 and 𝄞"),
        ("", Value::Bytes("YWJj"), "blob", "abc"),
        ("", Value::Text(""), "text", ""),
        ("BLOB", Value::Number("12.50"), "real", "12.5"),
        ("TEXT", Value::Number("12.50"), "text", "12.50"),
        ("TEXT", Value::Number("0.1234567890123456"), "text", "0.1234567890123456"),
        ("varchar(9)", Value::Number(long), "text", long),
        ("TEXT", Value::Bool(false), "text", "false"),
        ("TEXT", Value::Bytes("YWJj"), "blob", "abc"),
        ("INTEGER", Value::Number("-9223372036854775808"), "integer", "-9223372036854775808"),
        ("INTEGER", Value::Number("2.0"), "integer", "2"),
        ("boolean", Value::Bool(true), "integer", "1"),
        ("decimal(38,9)", Value::Number("12.50"), "real", "12.5"),
        ("decimal(38,9)", Value::Number(long), "real", "1.2345678901234568e+28"),
        ("timestamp", Value::Text("2026-03-29 02:30:00.123456+02"), "text", "2026-03-29 02:30:00.123456+02"),
        ("REAL", Value::Number("1"), "real", "1.0"),
        ("REAL", Value::Text("NaN"), "text", "NaN"),
    ];
    let bench = SqliteBench::new();
    let names: Vec<_> = (0..cases.len()).map(|index| format!("c{index}")).collect();
    let columns: Vec<_> = names.iter().zip(cases).map(|(name, (kind, ..))| format!("{name} {kind}")).collect();
    bench.run(&format!("CREATE TABLE types (id INTEGER PRIMARY KEY, {})", columns.join(", ")));
    let data: Vec<_> = names.iter().zip(cases).map(|(name, (_, value, ..))| (name.as_str(), value)).collect();
    let nulls: Vec<_> = names.iter().map(|name| (name.as_str(), Value::Null)).collect();
    let map = TableMap { into: "types".into(), ..incidents() };
    let records =
        [record(1, &[("id", Value::Number("1"))], Some(&data)), record(1, &[("id", Value::Number("2"))], Some(&nulls))];
    let batch = Batch { table: &map, action: Action::Bulk, records: &records };
    bench.target("one").apply(&[batch]).await.unwrap();
    for (name, (kind, _, class, text)) in names.iter().zip(cases) {
        let found = bench.ask(&format!("SELECT typeof({name}) || ' ' || {name} FROM types WHERE id = 1"));
        assert_eq!(found, format!("{class} {text}"), "{kind}");
        assert_eq!(bench.ask(&format!("SELECT typeof({name}) FROM types WHERE id = 2")), "null");
    }
    bench.finish().await;
}

#[tokio::test]
async fn what_the_target_refuses_is_named_without_a_value() {
    let bench = SqliteBench::new();
    bench.run(
        "CREATE TABLE strict (id TEXT PRIMARY KEY, small INTEGER, uniq TEXT UNIQUE, checked TEXT,
           needed TEXT NOT NULL DEFAULT '', triggered TEXT, skipped TEXT, bytes BLOB, js TEXT,
           member ANY AS (js ->> '$.a') STORED, CONSTRAINT short CHECK (length(checked) < 3)) STRICT;
         CREATE TRIGGER refuse BEFORE INSERT ON strict WHEN new.triggered IS NOT NULL
           BEGIN SELECT RAISE(ABORT, 'no MARKER'); END;
         CREATE TRIGGER skip BEFORE INSERT ON strict WHEN new.skipped IS NOT NULL BEGIN SELECT RAISE(IGNORE); END;
         CREATE TABLE counted (id INTEGER PRIMARY KEY);
         INSERT INTO strict (id, uniq) VALUES ('there', 'MARKER')",
    );
    let map = TableMap { into: "strict".into(), ..incidents() };
    let mut target = bench.target("one");
    for (column, value, expected) in [
        ("small", Value::Text("MARKER"), "cannot store TEXT value in INTEGER column strict.small"),
        ("small", Value::Number("1.5"), "cannot store REAL value in INTEGER column strict.small"),
        ("uniq", Value::Text("MARKER"), "UNIQUE constraint failed: strict.uniq"),
        ("checked", Value::Text("MARKER"), "CHECK constraint failed: short"),
        ("needed", Value::Null, "NOT NULL constraint failed: strict.needed"),
        ("triggered", Value::Text("MARKER"), "a trigger refuses it"),
        ("skipped", Value::Text("MARKER"), "a trigger or conflict clause skips it"),
        ("bytes", Value::Bytes("MARKER!"), "not base64"),
        ("js", Value::Text("{\"MARKER"), "an expression or trigger of the table fails"),
    ] {
        let records = [record(1, &[("id", Value::Text("MARKER-id"))], Some(&[(column, value)]))];
        let batch = Batch { table: &map, action: Action::Insert, records: &records };
        let error = target.apply(&[batch]).await.unwrap_err();
        let texts = all_texts(&error);
        assert_eq!(error.class(), Class::Permanent, "{texts}");
        assert!(texts.contains(expected) && !texts.contains("MARKER"), "{column}: {texts}");
        assert!(matches!(&error, ApplyError::Record { table, .. } if table == "strict"), "{texts}");
    }
    let map = TableMap { into: "counted".into(), ..incidents() };
    let records = [record(1, &[("id", Value::Text("MARKER"))], Some(&[]))];
    let error = target.apply(&[Batch { table: &map, action: Action::Insert, records: &records }]).await.unwrap_err();
    assert!(error.to_string().contains("not a value of the key column's type"), "{error}");
    assert_eq!(bench.ask("SELECT count(*) FROM strict"), "1");
    bench.finish().await;
}

#[tokio::test]
async fn a_part_finds_its_row_though_a_new_row_would_need_more() {
    let bench = SqliteBench::new();
    bench.run("CREATE TABLE incident (number TEXT PRIMARY KEY, subject TEXT NOT NULL, note TEXT NOT NULL)");
    let mut target = bench.target("one");
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "printer", Some("note")))]).await;
    let call = [(Action::Update, part("I1", 2, "note", "new")), (Action::Update, part("I1", 3, "subject", "toner"))];
    assert_eq!(apply(&mut target, &call).await, [Outcome::Applied, Outcome::Applied]);
    assert_eq!(held(&bench).await, ["I1 toner new"]);
    let map = incidents();
    let alone = [part("I2", 1, "note", "alone")];
    let error = target.apply(&[Batch { table: &map, action: Action::Update, records: &alone }]).await.unwrap_err();
    assert_eq!(error.class(), Class::Permanent);
    bench.finish().await;
}

#[tokio::test]
async fn a_child_may_arrive_before_its_parent() {
    let bench = SqliteBench::new();
    bench.run("CREATE TABLE incident (number TEXT PRIMARY KEY, subject TEXT, note TEXT REFERENCES incident (number))");
    let mut target = bench.target("one");
    let call = [(Action::Insert, incident("I2", 1, "child", Some("I1")))];
    assert_eq!(apply(&mut target, &call).await, [Outcome::Applied]);
    bench.finish().await;
}

#[tokio::test]
async fn a_writer_that_takes_too_long_is_waited_for_again() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    let other = bench.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (map, records) = (incidents(), [incident("I1", 2, "after", None)]);
    let batch = Batch { table: &map, action: Action::Update, records: &records };
    assert!(matches!(target.apply(&[batch]).await, Err(ApplyError::Busy { .. })));
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, [Outcome::Applied]);
    bench.finish().await;
}

/// Four instances apply all keys at once, with versions that interleave up to 20; every fifth key of a version is deleted.
#[tokio::test]
async fn instances_that_meet_at_the_same_rows_end_with_the_newest_of_each() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let work = (0..4_u64).map(|number| {
        let mut target = bench.target("any");
        async move {
            let map = incidents();
            for call in 0..5 {
                let version = 1 + call * 4 + (number + call) % 4;
                let (gone, kept): (Vec<u64>, Vec<u64>) = (0..50).partition(|key| (key + version).is_multiple_of(5));
                let text = version.to_string();
                let kept: Vec<_> =
                    kept.iter().map(|key| incident(&format!("I{key:02}"), version, &text, None)).collect();
                let gone: Vec<_> = gone.iter().map(|key| deleted(&format!("I{key:02}"), version)).collect();
                let batches = [
                    Batch { table: &map, action: Action::Bulk, records: &kept },
                    Batch { table: &map, action: Action::Delete, records: &gone },
                ];
                while let Err(error) = target.apply(&batches).await {
                    assert!(matches!(error, ApplyError::Busy { .. }) && Instant::now() < deadline, "{error:?}");
                }
            }
        }
    });
    join_all(work).await;
    let kept = (0..50).filter(|key| (key + 20) % 5 != 0);
    assert_eq!(held(&bench).await, kept.map(|key| format!("I{key:02} 20 -")).collect::<Vec<_>>());
    bench.finish().await;
}

#[tokio::test]
async fn a_call_that_was_dropped_does_not_hinder_the_next() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    let mut config = bench.config(SchemaMode::Strict);
    config.busy_timeout_ms = 20_000;
    let mut target = SqliteTarget::new(config);
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    let other = bench.connect();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let call = [(Action::Insert, incident("I0", 1, "new", None)), (Action::Update, incident("I1", 2, "after", None))];
    let dropped = tokio::time::timeout(Duration::from_millis(50), apply(&mut target, &call)).await;
    assert!(dropped.is_err());
    other.execute_batch("ROLLBACK").unwrap();
    let outcomes = apply(&mut target, &call).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied | Outcome::Duplicate)), "{outcomes:?}");
    assert_eq!(held(&bench).await, ["I0 new -", "I1 after -"]);
    bench.finish().await;
}

#[tokio::test]
async fn what_is_written_into_a_file_that_is_a_source_too_is_marked() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    bench.run(
        "CREATE TABLE _syncline_applying (origin TEXT); CREATE TABLE logged (number TEXT);
         CREATE TRIGGER log AFTER INSERT ON incident WHEN NOT EXISTS (SELECT 1 FROM _syncline_applying)
         BEGIN INSERT INTO logged VALUES (NEW.number); END",
    );
    apply(&mut bench.target("one"), &[(Action::Insert, incident("I1", 1, "ours", None))]).await;
    bench.run("INSERT INTO incident (number) VALUES ('I2')");
    assert_eq!(bench.ask("SELECT group_concat(number) FROM logged"), "I2");
    assert_eq!(bench.ask("SELECT journal_mode FROM pragma_journal_mode"), "wal");
}
