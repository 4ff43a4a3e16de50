//! How the target meets the schema it finds, lacks, or sees changed.

use crate::target::SchemaMode;
use std::collections::BTreeMap;

use futures_util::future::join_all;
use syncline_shared::class::Class;
use syncline_shared::record::{Action, Record, Value};

use super::super::*;
use super::bench::{self, PostgresBench};
use crate::target::Outcome;
use crate::target::contract::{Bench, apply, deleted, held, incident, incidents, record, with_incidents};

async fn bulk(target: &mut PostgresTarget, map: &TableMap, records: &[Record]) -> Result<Applied, ApplyError> {
    target.apply(&[Batch { table: map, action: Action::Bulk, records }]).await
}

async fn unfit(target: &mut PostgresTarget, map: &TableMap, records: &[Record]) -> (String, String) {
    match bulk(target, map, records).await {
        Err(ApplyError::Unfit { problem, mend }) => (problem, mend),
        other => panic!("not unfit: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_missing_is_named_with_a_statement_that_mends_it() {
    let bench = PostgresBench::new().await;
    let (map, records) = (incidents(), [incident("I1", 1, "printer", None)]);
    let mut target = bench.target("one");
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("\"incident\" does not exist"), "{problem}");
    bench.run(&mend).await;
    bench.run("ALTER TABLE incident DROP COLUMN note, DROP CONSTRAINT incident_pkey").await;
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("unique index"), "{problem}");
    bench.run(&mend).await;
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("lacks \"note\""), "{problem}");
    bench.run(&mend).await;
    assert_eq!(apply(&mut target, &[(Action::Bulk, records[0].clone())]).await, [Outcome::Applied]);
    assert_eq!(held(&bench).await, ["I1 printer -"]);
    bench.finish().await;
}

#[tokio::test]
async fn a_changed_column_type_is_seen_by_the_next_call() {
    let bench = PostgresBench::new().await;
    bench.run("CREATE TABLE price (id integer PRIMARY KEY, amount numeric(10,2), label varchar(3))").await;
    let map = TableMap { into: "price".into(), ..incidents() };
    let price = |version, amount, label| {
        [record(
            version,
            &[("id", Value::Number("1"))],
            Some(&[("amount", Value::Number(amount)), ("label", Value::Text(label))]),
        )]
    };
    let mut target = bench.target("one");
    bulk(&mut target, &map, &price(1, "1.25", "abc")).await.unwrap();
    bench.run("ALTER TABLE price ALTER amount TYPE numeric(20,6), ALTER label TYPE varchar(9)").await;
    bulk(&mut target, &map, &price(2, "1.234567", "abcdef")).await.unwrap();
    let now = bench.ask("SELECT amount || ' ' || label FROM price", &[]).await;
    assert_eq!(now.as_deref(), Some("1.234567 abcdef"));
    bench
        .run("DROP TABLE price; CREATE TABLE price (id bigint PRIMARY KEY, label text, amount double precision)")
        .await;
    bulk(&mut target, &map, &price(3, "0.1", "anew")).await.unwrap();
    assert_eq!(bench.ask("SELECT amount || ' ' || label FROM price", &[]).await.as_deref(), Some("0.1 anew"));
    bench.finish().await;
}

#[tokio::test]
async fn evolve_creates_tables_and_columns_though_all_partitions_start_at_once() {
    let bench = PostgresBench::new().await;
    let map = TableMap { into: "asset".into(), ..incidents() };
    let asset = |id: usize, version, more: &[(&str, Value<'_>)]| {
        let data = [
            ("name", Value::Text("laptop")),
            ("price", Value::Number("12.50")),
            ("live", Value::Bool(true)),
            ("photo", Value::Bytes("AP8=")),
        ];
        record(version, &[("Asset Id", Value::Text(&id.to_string()))], Some(&[&data, more].concat()))
    };
    let mut targets: Vec<_> = (0..4).map(|writer| bench.evolving(&writer.to_string())).collect();
    for (version, more) in [(1, vec![]), (2, vec![("location", Value::Text("Lima"))])] {
        let calls = targets.iter_mut().enumerate().map(|(id, target)| {
            let records = [asset(id, version, &more)];
            let map = &map;
            async move { bulk(target, map, &records).await.unwrap() }
        });
        assert!(join_all(calls).await.iter().all(|applied| applied.outcomes == [Outcome::Applied]));
    }
    let types = "SELECT string_agg(column_name || ' ' || data_type, ', ' ORDER BY ordinal_position)
                 FROM information_schema.columns WHERE table_name = 'asset' AND column_name <> '_syncline_version'";
    let expected = "Asset Id text, name text, price numeric, live boolean, photo bytea, location text";
    assert_eq!(bench.ask(types, &[]).await.as_deref(), Some(expected));
    let count =
        bench.ask("SELECT count(*)::text FROM asset WHERE location = 'Lima' AND live AND price = 12.5", &[]).await;
    assert_eq!(count.as_deref(), Some("4"));
    bench.finish().await;
}

#[tokio::test]
async fn rows_that_were_there_before_are_taken_over() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    bench.run("INSERT INTO incident VALUES ('I1', 'old', 'local'), ('I2', 'old', NULL)").await;
    let mut target = bench.target("one");
    let call = [(Action::Update, incident("I1", 1, "new", None)), (Action::Delete, deleted("I2", 1))];
    assert_eq!(apply(&mut target, &call).await, [Outcome::Applied, Outcome::Applied]);
    assert_eq!(held(&bench).await, ["I1 new -"]);
    bench.finish().await;
}

#[tokio::test]
async fn bookkeeping_that_a_lock_keeps_from_being_created_is_created_later() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    let other = bench.connect().await;
    other.batch_execute("BEGIN; LOCK TABLE incident IN SHARE MODE").await.unwrap();
    let mut target = bench.target("one");
    let (map, records) = (incidents(), [incident("I1", 1, "printer", None)]);
    for _ in 0..2 {
        let error = bulk(&mut target, &map, &records).await.unwrap_err();
        assert!(matches!(error, ApplyError::Busy { .. }), "{error:?}");
    }
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(bulk(&mut target, &map, &records).await.unwrap().outcomes, [Outcome::Applied]);
    bench.finish().await;
}

#[tokio::test]
async fn tables_of_one_name_in_two_schemas_are_two_tables() {
    let bench = PostgresBench::new().await;
    let table = "(number text PRIMARY KEY, subject text, note text)";
    bench
        .run(&format!(
            "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.incident {table}; CREATE TABLE b.incident {table}"
        ))
        .await;
    let maps = ["a.incident", "b.incident"].map(|into| TableMap { into: into.into(), ..incidents() });
    let (gone, kept) = ([deleted("I1", 2)], [incident("I1", 1, "kept", None)]);
    let mut target = bench.target("one");
    let call = [
        Batch { table: &maps[0], action: Action::Delete, records: &gone },
        Batch { table: &maps[1], action: Action::Insert, records: &kept },
    ];
    assert_eq!(target.apply(&call).await.unwrap().outcomes, [Outcome::Applied, Outcome::Applied]);
    assert_eq!(bench.rows("b.incident", &["subject"]).await, [[Some("kept".to_owned())]]);
    bench.finish().await;
}

#[tokio::test]
async fn identity_keys_take_the_sources_values() {
    let bench = PostgresBench::new().await;
    bench.run("CREATE TABLE ticket (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, subject text)").await;
    let map = TableMap { into: "ticket".into(), ..incidents() };
    let mut target = bench.target("one");
    for version in [1, 2] {
        let records = [record(version, &[("id", Value::Number("7"))], Some(&[("subject", Value::Text("seven"))]))];
        bulk(&mut target, &map, &records).await.unwrap();
    }
    assert_eq!(bench.rows("ticket", &["id"]).await, [[Some("7".to_owned())]]);
    bench.finish().await;
}

#[tokio::test]
async fn check_names_every_problem_at_once_and_changes_nothing() {
    let bench = PostgresBench::new().await;
    bench
        .run("CREATE TABLE keyless (a text); CREATE VIEW seen AS SELECT 1 AS a; CREATE TABLE good (a text PRIMARY KEY)")
        .await;
    let map = |into: &str, column: &str| TableMap {
        into: into.into(),
        columns: Some(BTreeMap::from([("x".to_owned(), column.to_owned())])),
        ..incidents()
    };
    let maps = [map("missing", "a"), map("keyless", "b"), map("seen", "a"), map("good", "a")];
    let problems = bench.target("one").check(&maps).await.unwrap_err();
    let texts = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    for expected in [
        "table \"missing\" does not exist",
        "table \"keyless\" has no unique index",
        "table \"keyless\" lacks \"b\"",
        "\"seen\" is not a table",
    ] {
        assert!(texts.contains(expected), "{expected}: {texts}");
    }
    assert!(!texts.contains("good") && problems.iter().all(|problem| problem.class() == Class::Systemic), "{texts}");
    bench.target("one").check(&maps[3..]).await.unwrap();
    let changed = "SELECT count(*)::text FROM pg_attribute WHERE attname = '_syncline_version'";
    assert_eq!(bench.ask(changed, &[]).await.as_deref(), Some("0"));
    bench.finish().await;
}

#[tokio::test]
async fn without_the_right_to_create_bookkeeping_its_statements_are_named() {
    let bench = PostgresBench::new().await;
    let role = format!("role_{}", bench.name());
    with_incidents(&bench).await;
    bench
        .run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pass'; GRANT SELECT, INSERT, UPDATE, DELETE ON incident TO {role}"
        ))
        .await;
    let (_, at) = bench.url().rsplit_once('@').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    let url = format!("postgres://{role}:pass@{at}");
    let mut target = PostgresTarget::new(bench::config(&url, SchemaMode::Strict), "one");
    let (map, records) = (incidents(), [incident("I1", 1, "printer", None)]);
    let (problem, mend) = unfit(&mut target, &map, &records).await;
    assert!(problem.contains("42501") && mend.contains("_syncline_version"), "{problem}; {mend}");
    let problems = target.check(std::slice::from_ref(&map)).await.unwrap_err();
    assert!(matches!(&problems[..], [ApplyError::Unfit { mend: named, .. }] if *named == mend), "{problems:?}");
    bench.run(&mend).await;
    let kept = "_syncline_tombstone, _syncline_parked, _syncline_tries";
    bench.run(&format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {kept} TO {role}")).await;
    target.check(std::slice::from_ref(&map)).await.unwrap();
    assert_eq!(apply(&mut target, &[(Action::Bulk, records[0].clone())]).await, [Outcome::Applied]);
    let parked = Parked { table: &map, record: &records[0], letter: "L1" };
    target.park(&[parked]).await.unwrap();
    target.set_tries("incident", "m1", 1).await.unwrap();
    assert_eq!(target.tries("incident", "m1").await.unwrap(), 1);
    drop(target);
    bench.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
    bench.finish().await;
}
