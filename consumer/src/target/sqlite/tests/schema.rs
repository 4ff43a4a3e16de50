//! How the target meets the file and the schema it finds, lacks, or sees changed.

use crate::target::SchemaMode;
use std::collections::BTreeMap;
use std::fs;

use futures_util::future::join_all;
use syncline_shared::class::Class;
use syncline_shared::record::{Action, Record, Value};

use super::super::*;
use super::all_texts;
use super::bench::SqliteBench;
use crate::target::Outcome;
use crate::target::contract::{Bench, apply, deleted, held, incident, incidents, record, with_incidents};

async fn bulk(target: &mut SqliteTarget, map: &TableMap, records: &[Record]) -> Result<Applied, ApplyError> {
    target.apply(&[Batch { table: map, action: Action::Bulk, records }]).await
}

async fn unfit(target: &mut SqliteTarget, map: &TableMap, records: &[Record]) -> (String, String) {
    match bulk(target, map, records).await {
        Err(ApplyError::Unfit { problem, mend }) => (problem, mend),
        other => panic!("not unfit: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_a_statement_that_mends_it() {
    let bench = SqliteBench::new();
    let (map, records) = (incidents(), [incident("I1", 1, "printer", None)]);
    let mut target = bench.target("one");
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("\"incident\" does not exist"), "{problem}");
    bench.run(&mend);
    bench.run("DROP TABLE incident; CREATE TABLE incident (Number TEXT, subject TEXT) STRICT");
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("unique index"), "{problem}");
    bench.run(&mend);
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("lacks \"note\""), "{problem}");
    bench.run(&mend);
    assert_eq!(apply(&mut target, &[(Action::Bulk, records[0].clone())]).await, [Outcome::Applied]);
    assert_eq!(held(&bench).await, ["I1 printer -"]);
    bench.finish().await;
}

#[tokio::test]
async fn check_reports_every_problem_and_changes_nothing() {
    let bench = SqliteBench::new();
    bench.run(
        "CREATE TABLE keyless (a); CREATE VIEW seen AS SELECT 1 AS id; CREATE TABLE fine (id PRIMARY KEY);
         CREATE TABLE partly (id PRIMARY KEY); CREATE UNIQUE INDEX only_some ON keyless (a) WHERE a > 1",
    );
    let maps = ["keyless", "seen", "fine", "missing", "partly"].map(|into| TableMap {
        into: into.into(),
        columns: (into == "partly").then(|| BTreeMap::from([("a".to_owned(), "b".to_owned())])),
        ..incidents()
    });
    let before = fs::read(bench.path()).unwrap();
    let problems = bench.target("one").check(&maps).await.unwrap_err();
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    let expected = ["no unique index", "not an ordinary table", "\"missing\" does not exist", "lacks \"b\""];
    assert!(texts.iter().zip(expected).all(|(text, expected)| text.contains(expected)), "{texts:?}");
    assert_eq!(bench.evolving().check(&maps).await.unwrap_err().len(), 2);
    assert_eq!(fs::read(bench.path()).unwrap(), before);
    bench.finish().await;
}

#[tokio::test]
async fn a_missing_file_is_made_by_evolve_alone() {
    let bench = SqliteBench::empty();
    let (map, records) = (incidents(), [incident("I1", 1, "printer", None)]);
    let mut strict = bench.target("one");
    let (problem, mend) = unfit(&mut strict, &map, &records).await;
    assert!(problem.contains("does not exist") && mend.contains("evolve"), "{problem} {mend}");
    assert_eq!(strict.check(std::slice::from_ref(&map)).await.unwrap_err().len(), 1);
    let mut evolving = bench.evolving();
    evolving.check(std::slice::from_ref(&map)).await.unwrap();
    assert!(!bench.path().exists());
    bulk(&mut evolving, &map, &records).await.unwrap();
    assert_eq!(held(&bench).await, ["I1 printer -"]);
    let mut beneath = bench.config(SchemaMode::Evolve);
    beneath.path = bench.path().join("a file is no folder.db");
    let mut beneath = SqliteTarget::new(beneath);
    assert_eq!(beneath.check(std::slice::from_ref(&map)).await.unwrap_err().len(), 1);
    unfit(&mut beneath, &map, &records).await;
    bench.finish().await;
}

#[tokio::test]
async fn evolve_creates_tables_and_columns_though_all_partitions_start_at_once() {
    let bench = SqliteBench::empty();
    let map = TableMap { into: "asset".into(), ..incidents() };
    let asset = |id: usize, version, more: &[(&str, Value<'_>)]| {
        let data = [("name", Value::Text("007")), ("price", Value::Number("12.50")), ("photo", Value::Bytes("AP8="))];
        record(version, &[("Asset Id", Value::Text(&id.to_string()))], Some(&[&data, more].concat()))
    };
    let mut targets: Vec<_> = (0..4).map(|_| bench.evolving()).collect();
    for (version, more) in [(1, vec![]), (2, vec![("location", Value::Text("Lima"))])] {
        let calls = targets.iter_mut().enumerate().map(|(id, target)| {
            let records = [asset(id, version, &more)];
            let map = &map;
            async move { bulk(target, map, &records).await.unwrap() }
        });
        assert!(join_all(calls).await.iter().all(|applied| applied.outcomes == [Outcome::Applied]));
    }
    let count =
        "SELECT count(*) FROM asset WHERE location = 'Lima' AND name = '007' AND price = 12.5 AND photo = x'00ff'";
    assert_eq!(bench.ask(count), "4");
    bench.run("CREATE TABLE firm (id INTEGER PRIMARY KEY) STRICT");
    let map = TableMap { into: "Firm".into(), ..incidents() };
    let firm = |version, data: &[_]| [record(version, &[("id", Value::Number("1"))], Some(data))];
    bulk(&mut targets[0], &map, &firm(1, &[("Code", Value::Text("007"))])).await.unwrap();
    bulk(&mut targets[0], &map, &firm(2, &[("code", Value::Number("8"))])).await.unwrap();
    assert_eq!(bench.ask("SELECT typeof(code) || count(*) FROM firm"), "integer1");
    bench.finish().await;
}

#[tokio::test]
async fn rows_that_were_there_before_are_taken_over() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    bench.run("INSERT INTO incident VALUES ('I1', 'old', 'local'), ('I2', 'old', NULL)");
    let mut target = bench.target("one");
    let call = [(Action::Update, incident("I1", 1, "new", None)), (Action::Delete, deleted("I2", 1))];
    assert_eq!(apply(&mut target, &call).await, [Outcome::Applied, Outcome::Applied]);
    assert_eq!(held(&bench).await, ["I1 new -"]);
    bench.finish().await;
}

#[tokio::test]
async fn columns_that_are_one_to_sqlite_are_not_mixed_up() {
    let bench = SqliteBench::empty();
    for (one, other) in [("note", "Note"), ("note", "_syncline_version")] {
        let data = [(one, Value::Text("a")), (other, Value::Text("b"))];
        let records = [record(1, &[("number", Value::Text("I1"))], Some(&data))];
        let (problem, _) = unfit(&mut bench.evolving(), &incidents(), &records).await;
        assert!(problem.contains(other) && problem.contains("one to SQLite"), "{problem}");
    }
    bench.finish().await;
}

#[tokio::test]
async fn a_file_that_takes_no_writes_is_unfit() {
    let bench = SqliteBench::new();
    with_incidents(&bench).await;
    apply(&mut bench.target("one"), &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    // A write format SQLite does not know makes a file read-only for everyone, root included.
    let mut bytes = fs::read(bench.path()).unwrap();
    bytes[18] = 3;
    fs::write(bench.path(), &bytes).unwrap();
    let (map, records) = (incidents(), [incident("I2", 2, "MARKER", None)]);
    let (problem, mend) = unfit(&mut bench.target("one"), &map, &records).await;
    assert!(problem.contains("is read-only") && mend.contains("writable"), "{problem} {mend}");
    let problems = bench.target("one").check(std::slice::from_ref(&map)).await.unwrap_err();
    assert!(problems.len() == 1 && problems[0].to_string().contains("is read-only"), "{problems:?}");
    fs::write(bench.path(), "MARKER of something else, which is no database".repeat(20)).unwrap();
    let error = bulk(&mut bench.target("one"), &map, &records).await.unwrap_err();
    assert!(error.class() == Class::Systemic && error.to_string().contains("is no SQLite database"), "{error}");
    assert!(!all_texts(&error).contains("MARKER"));
    bench.finish().await;
}

#[tokio::test]
async fn a_file_that_was_replaced_is_opened_anew() {
    let bench = SqliteBench::empty();
    let mut target = bench.evolving();
    for version in [1, 2] {
        bulk(&mut target, &incidents(), &[incident("I1", version, "printer", None)]).await.unwrap();
        assert_eq!(held(&bench).await, ["I1 printer -"]);
        for file in fs::read_dir(bench.path().parent().unwrap()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
    bench.finish().await;
}

#[test]
fn a_configuration_needs_a_path_alone_and_knows_no_other_words() {
    let config: SqliteTargetConfig = serde_json::from_str(r#"{"path":"crm.db"}"#).unwrap();
    assert_eq!((config.schema, config.busy_timeout_ms), (SchemaMode::Strict, 5_000));
    let config: SqliteTargetConfig = serde_json::from_str(r#"{"path":"crm.db","schema":"evolve"}"#).unwrap();
    assert_eq!(config.schema, SchemaMode::Evolve);
    assert!(serde_json::from_str::<SqliteTargetConfig>(r#"{"path":"crm.db","mode":"evolve"}"#).is_err());
}
