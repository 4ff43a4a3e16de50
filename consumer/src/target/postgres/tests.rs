//! The PostgreSQL target against a real server, in a database per test.

mod bench;
mod look;
mod schema;

use crate::target::SchemaMode;
use std::error::Error as _;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use syncline_shared::class::Class;
use syncline_shared::record::{Action, Value};

use self::bench::PostgresBench;
use super::*;
use crate::target::Outcome;
use crate::target::contract::{
    Bench, apply, deleted, held, incident, incidents, part, record, target_contract, with_incidents,
};

target_contract!(PostgresBench::new(), a_refused_record_commits_nothing, a_missing_table_is_unfit_until_it_is_made);

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
async fn values_of_all_types_arrive_as_they_were() {
    let values = [
        ("smallint", "-32768"),
        ("integer", "2147483647"),
        ("bigint", "-9223372036854775808"),
        ("bigint", "9223372036854775807"),
        ("numeric", "NaN"),
        ("numeric", "-Infinity"),
        ("numeric(38,9)", "12345678901234567890123456789.123456789"),
        ("numeric", "0.000000000000000000000000000001"),
        ("real", "1.17549435e-38"),
        ("double precision", "0.1234567890123456"),
        ("double precision", "1.7976931348623157e+308"),
        ("double precision", "NaN"),
        ("double precision", "-Infinity"),
        ("boolean", "true"),
        ("text", "\\N"),
        ("text", "tab\t newline\n return\r backslash \\ quotes '\" unicode 𝄞"),
        ("text", ""),
        ("varchar(5)", "ñandú"),
        ("char(5)", "abc"),
        ("uuid", "00000000-0000-0000-0000-00000000000f"),
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("time", "23:59:59.999999"),
        ("timestamp", "2026-02-28 23:59:60"),
        ("timestamptz", "2026-03-29 02:30:00.123456+02"),
        ("timestamptz", "-infinity"),
        ("interval", "1 year 2 mons -3 days 04:05:06.789"),
        ("json", "{ \"b\" : 1,\"a\":\t\"\\u00e9\\\\N\" }"),
        ("jsonb", r#"{"a": "\\N\"", "b": [1, 2.50, null]}"#),
        ("bytea", "AAEJCg1cTv+A/w=="),
        ("integer[]", "{1,NULL,-3}"),
        ("text[]", r#"{"a,b","\"quoted\"","\\N",NULL,"NULL",""}"#),
        ("text[]", "[0:1]={a,b}"),
        ("mood", "so 'so'"),
        ("inet", "::ffff:10.0.0.1/128"),
        ("bit(3)", "101"),
        ("int4range", "[1,10)"),
        ("box", "(3,4),(1,2)"),
        ("box[]", "{(3,4),(1,2);(7,8),(5,6)}"),
        ("xml", "<a b=\"c\">d</a>"),
        ("\"char\"", "x"),
        ("name", "pg_class"),
        ("regclass", "pg_class"),
        ("code", "A-1"),
        ("pair", "(1,\"a,\"\"b\"\"\")"),
    ];
    let bench = PostgresBench::new().await;
    bench
        .run(
            "CREATE TYPE mood AS ENUM ('happy', 'so ''so'''); CREATE DOMAIN code AS varchar(3) CHECK (value LIKE '_-_');
             CREATE TYPE pair AS (number integer, name text)",
        )
        .await;
    let columns: Vec<_> = values.iter().enumerate().map(|(index, (kind, _))| format!("c{index} {kind}")).collect();
    bench.run(&format!("CREATE TABLE types (id integer PRIMARY KEY, {})", columns.join(", "))).await;
    let names: Vec<_> = (0..values.len()).map(|index| format!("c{index}")).collect();
    let data: Vec<_> = names
        .iter()
        .zip(&values)
        .map(|(name, (kind, text))| {
            (name.as_str(), if *kind == "bytea" { Value::Bytes(text) } else { Value::Text(text) })
        })
        .collect();
    let map = TableMap { into: "types".into(), ..incidents() };
    let nulls: Vec<_> = names.iter().map(|name| (name.as_str(), Value::Null)).collect();
    let records =
        [record(1, &[("id", Value::Number("1"))], Some(&data)), record(1, &[("id", Value::Number("2"))], Some(&nulls))];
    let batch = Batch { table: &map, action: Action::Bulk, records: &records };
    bench.target("one").apply(&[batch]).await.unwrap();
    // PostgreSQL's own reading of the same texts is what has to be there.
    for (index, (kind, text)) in values.iter().enumerate() {
        let sent = if *kind == "bytea" { "\\x0001090a0d5c4eff80ff" } else { text };
        let same = format!("SELECT (c{index}::text = $1::text::{kind}::text)::text FROM types WHERE id = 1");
        assert_eq!(bench.ask(&same, &[&sent]).await, Some("true".to_owned()), "{kind} {text:?}");
        let null = format!("SELECT (c{index} IS NULL)::text FROM types WHERE id = 2");
        assert_eq!(bench.ask(&null, &[]).await, Some("true".to_owned()), "{kind}");
    }
    assert_eq!(bench.ask("SELECT c6::text FROM types WHERE id = 1", &[]).await.as_deref(), Some(values[6].1));
    assert_eq!(bench.ask("SELECT c27::text FROM types WHERE id = 1", &[]).await.as_deref(), Some(values[27].1));
    bench.finish().await;
}

#[tokio::test]
async fn what_the_target_refuses_is_named_without_a_value() {
    let bench = PostgresBench::new().await;
    bench
        .run(
            "CREATE TABLE other (id integer PRIMARY KEY);
             CREATE TABLE strict (id text PRIMARY KEY, short varchar(3), small smallint, num integer, day date,
               uniq text UNIQUE, checked text CHECK (checked <> 'MARKER'), needed text NOT NULL DEFAULT '',
               other integer REFERENCES other DEFERRABLE INITIALLY DEFERRED, triggered text, bytes bytea, js jsonb);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF new.triggered IS NOT NULL THEN RAISE EXCEPTION 'no %', new.triggered; END IF; RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON strict FOR EACH ROW EXECUTE FUNCTION refuse();
             INSERT INTO strict (id, uniq) VALUES ('there', 'MARKER')",
        )
        .await;
    let map = TableMap { into: "strict".into(), ..incidents() };
    let mut target = bench.target("one");
    for (column, value, expected) in [
        ("short", Value::Text("MARKER"), "22001"),
        ("small", Value::Number("99999"), "22003), column \"small\""),
        ("num", Value::Text("MARKER"), "22P02), column \"num\""),
        ("day", Value::Text("MARKER"), "22007), column \"day\""),
        ("uniq", Value::Text("MARKER"), "23505), constraint \"strict_uniq_key\""),
        ("checked", Value::Text("MARKER"), "23514), constraint \"strict_checked_check\""),
        ("needed", Value::Null, "23502), column \"needed\""),
        ("other", Value::Number("77"), "23503), constraint \"strict_other_fkey\""),
        ("triggered", Value::Text("MARKER"), "P0001"),
        ("short", Value::Text("\0"), "22021"),
        ("bytes", Value::Bytes("MARKER!"), "not base64"),
        ("js", Value::Text("{\"MARKER"), "22P02), column \"js\""),
    ] {
        let refused = [record(1, &[("id", Value::Text("MARKER-id"))], Some(&[(column, value)]))];
        let error =
            target.apply(&[Batch { table: &map, action: Action::Insert, records: &refused }]).await.unwrap_err();
        let texts = all_texts(&error);
        assert_eq!(error.class(), Class::Permanent, "{texts}");
        assert!(texts.contains(expected), "{column}: {texts}");
        assert!(!texts.contains("MARKER") && !texts.contains("99999"), "{texts}");
        assert!(matches!(&error, ApplyError::Record { table, .. } if table == "strict"), "{texts}");
    }
    assert_eq!(bench.ask("SELECT count(*)::text FROM strict", &[]).await.as_deref(), Some("1"));
    bench.finish().await;
}

#[tokio::test]
async fn a_part_finds_its_row_though_a_new_row_would_need_more() {
    let bench = PostgresBench::new().await;
    bench.run("CREATE TABLE incident (number text PRIMARY KEY, subject text NOT NULL, note text NOT NULL)").await;
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
async fn a_part_whose_record_was_parked_meanwhile_waits_also_where_the_database_would_refuse_it() {
    let bench = PostgresBench::new().await;
    bench.run("CREATE TABLE incident (number text PRIMARY KEY, subject text NOT NULL, note text NOT NULL)").await;
    let (mut target, map) = (bench.target("one"), incidents());
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "printer", Some("note")))]).await;
    let refused = incident("I2", 1, "no note", None);
    bench.target("two").park(&[Parked { table: &map, record: &refused, letter: "L1" }]).await.unwrap();
    for version in [2, 3] {
        let outcomes = apply(&mut target, &[(Action::Update, part("I2", version, "note", "new"))]).await;
        assert_eq!(outcomes, [Outcome::Waits { behind: "L1".to_owned() }]);
    }
    bench.finish().await;
}

#[tokio::test]
async fn tombstones_are_looked_up_one_by_one_however_many_they_become() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    let mut target = bench.target("one");
    // The plans are made while there are none.
    apply(&mut target, &[(Action::Insert, incident("I", 1, "first", None)), (Action::Delete, deleted("D", 1))]).await;
    for call in 0..20 {
        let deletes = (0..100).map(|number| (Action::Delete, deleted(&format!("D{call}-{number}"), 2)));
        let writes = (0..10).map(|number| (Action::Insert, incident(&format!("I{call}-{number}"), 3, "new", None)));
        apply(&mut target, &deletes.chain(writes).collect::<Vec<_>>()).await;
    }
    drop(target);
    let gone = "SELECT count(*)::text FROM pg_stat_activity \
                WHERE datname = current_database() AND application_name = 'syncline consumer'";
    while bench.ask(gone, &[]).await.as_deref() != Some("0") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Counts are complete once the connection is gone.
    let read =
        "SELECT (seq_tup_read + idx_tup_fetch)::text FROM pg_stat_user_tables WHERE relname = '_syncline_tombstone'";
    let read: u32 = bench.ask(read, &[]).await.unwrap().parse().unwrap();
    assert!(read < 2_000, "{read} tombstones were read for 2,200 records");
    bench.finish().await;
}

#[tokio::test]
async fn a_broken_connection_is_transient_and_the_next_call_works() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    bench
        .run(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
             WHERE datname = current_database() AND application_name = 'syncline consumer'",
        )
        .await;
    let (map, records) = (incidents(), [incident("I1", 2, "after", None)]);
    let batch = Batch { table: &map, action: Action::Update, records: &records };
    let error = target.apply(&[batch]).await.unwrap_err();
    assert!(matches!(error, ApplyError::Unreachable { .. }), "{error:?}");
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, [Outcome::Applied]);
    bench.finish().await;
}

#[tokio::test]
async fn a_server_that_is_not_there_is_transient_and_a_refused_login_is_not() {
    let config = |url: &str| bench::config(url, SchemaMode::Strict);
    let (map, records) = (incidents(), [incident("I1", 1, "MARKER", None)]);
    let batch = Batch { table: &map, action: Action::Update, records: &records };
    let mut nobody = PostgresTarget::new(config("postgres://u:secret@127.0.0.1:1/crm"), "one");
    let error = nobody.apply(&[batch]).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains("127.0.0.1:1/crm") && !all_texts(&error).contains("secret"));
    let bench = PostgresBench::new().await;
    for (from, to) in [("syncline_test", "nobody_at_all"), (bench.name(), "no_such_database")] {
        let mut stranger = PostgresTarget::new(config(&bench.url().replacen(from, to, 1)), "one");
        let error = stranger.apply(&[batch]).await.unwrap_err();
        assert_eq!(error.class(), Class::Systemic, "{error:?}");
    }
    bench.finish().await;
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_is_waited_for_again() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    let other = bench.connect().await;
    other.batch_execute("BEGIN; SELECT FROM incident FOR UPDATE").await.unwrap();
    let (map, records) = (incidents(), [incident("I1", 2, "after", None)]);
    let batch = Batch { table: &map, action: Action::Update, records: &records };
    assert!(matches!(target.apply(&[batch]).await, Err(ApplyError::Busy { .. })));
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, [Outcome::Applied]);
    bench.finish().await;
}

/// Lets four instances apply all keys at once, each in an order of its own, with versions that interleave up to 20.
/// With deletes, every fifth key of a version is deleted.
async fn interleave(bench: &PostgresBench, writers: [&str; 4], deletes: bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let work = (0_u64..).zip(writers).map(|(number, writer)| {
        let mut target = bench.target(writer);
        async move {
            let map = incidents();
            for call in 0..5 {
                let version = 1 + call * 4 + (number + call) % 4;
                let mut keys: Vec<u64> = (0..50).collect();
                keys.rotate_left(usize::try_from(number * 13 + call).unwrap());
                let is_gone = |key: &u64| deletes && (key + version).is_multiple_of(5);
                let (gone, kept): (Vec<u64>, Vec<u64>) = keys.into_iter().partition(is_gone);
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
}

#[tokio::test]
async fn instances_that_meet_at_the_same_rows_end_with_the_newest_of_each() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    interleave(&bench, ["one", "two", "three", "four"], false).await;
    assert_eq!(held(&bench).await, (0..50).map(|key| format!("I{key:02} 20 -")).collect::<Vec<_>>());
    bench.finish().await;
}

#[tokio::test]
async fn a_replica_that_lost_its_partition_cannot_bring_a_deleted_record_back() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    interleave(&bench, ["one"; 4], true).await;
    let kept = (0..50).filter(|key| (key + 20) % 5 != 0);
    assert_eq!(held(&bench).await, kept.map(|key| format!("I{key:02} 20 -")).collect::<Vec<_>>());
    bench.finish().await;
}

#[tokio::test]
async fn a_call_that_was_dropped_leaves_nothing_behind() {
    let bench = PostgresBench::new().await;
    with_incidents(&bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Action::Insert, incident("I1", 1, "before", None))]).await;
    let other = bench.connect().await;
    other.batch_execute("BEGIN; SELECT FROM incident WHERE number = 'I1' FOR UPDATE").await.unwrap();
    let call = [(Action::Insert, incident("I0", 1, "new", None)), (Action::Update, incident("I1", 2, "after", None))];
    let dropped = tokio::time::timeout(Duration::from_millis(50), apply(&mut target, &call)).await;
    assert!(dropped.is_err());
    other.batch_execute("ROLLBACK").await.unwrap();
    let outcomes = apply(&mut target, &call).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Applied | Outcome::Duplicate)), "{outcomes:?}");
    assert_eq!(held(&bench).await, ["I0 new -", "I1 after -"]);
    bench.finish().await;
}
