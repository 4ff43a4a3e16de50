//! Looking at rows without touching them.

use syncline_shared::record::Columns;

use super::bench::{PostgresBench, config};
use super::*;
use crate::target::contract::a_look_tells_rows_from_records;
use crate::target::look::{Difference, Look as _};

async fn look_at(bench: &PostgresBench) -> PostgresLook {
    PostgresLook::open(&config(&bench.url(), SchemaMode::Strict)).await.unwrap()
}

#[tokio::test]
async fn a_look_at_postgresql_tells_rows_from_records() {
    let bench = PostgresBench::new().await;
    a_look_tells_rows_from_records(&bench, &mut look_at(&bench).await).await;
    bench.finish().await;
}

/// Also of types that have no equality, or one that takes different values for the same.
#[tokio::test]
async fn what_was_applied_is_the_same_and_what_was_changed_is_not_whatever_its_type() {
    let types = [
        ("json", "{\"a\": 1}", "{\"a\":1}"),
        ("jsonb", "{\"a\": 1}", "{\"a\": 1.0}"),
        ("point", "(1,2)", "(1,3)"),
        ("numeric", "1.0", "1.00"),
        ("double precision", "0.1", "0.30000000000000004"),
        ("text[]", "{a,NULL}", "{a,\"NULL\"}"),
        ("bytea", "\\x00", "\\x0000"),
        ("timestamptz", "2026-11-22 08:00:00+02", "2026-11-22 08:00:00+01"),
        ("text", "", " "),
        ("text COLLATE ci", "a", "A"),
    ];
    let bench = PostgresBench::new().await;
    bench.run("CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)").await;
    let columns: Vec<_> = types.iter().enumerate().map(|(at, (kind, ..))| (format!("c{at}"), *kind)).collect();
    let defined: Vec<_> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    bench.run(&format!("CREATE TABLE incident (number text PRIMARY KEY, {})", defined.join(", "))).await;
    let values: Vec<_> =
        columns.iter().zip(types).map(|((name, _), (_, value, _))| (name.as_str(), Value::Text(value))).collect();
    let said = record(5, &[("number", Value::Text("1"))], Some(&values));
    let mut target = bench.target("a");
    apply(&mut target, &[(Action::Insert, said.clone())]).await;
    let mut look = look_at(&bench).await;
    let map = crate::target::contract::incidents();
    look.prepare(&map, &Columns::new(["number"])).await.unwrap();
    let batch = [Batch { table: &map, action: Action::Bulk, records: &[said] }];
    assert_eq!(look.compare(&batch).await.unwrap().differences, []);
    for ((name, _), (kind, value, other)) in columns.iter().zip(types) {
        bench.run(&format!("UPDATE incident SET {name} = '{other}'")).await;
        let expected = [(0, Difference::Columns(vec![name.clone()]))];
        assert_eq!(look.compare(&batch).await.unwrap().differences, expected, "{kind}");
        bench.run(&format!("UPDATE incident SET {name} = '{value}'")).await;
    }
    bench.finish().await;
}
