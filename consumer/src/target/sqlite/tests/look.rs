//! Looking at rows without touching them.

use syncline_shared::record::Columns;

use super::bench::SqliteBench;
use super::*;
use crate::target::contract::a_look_tells_rows_from_records;
use crate::target::look::{Difference, Look as _};

#[tokio::test]
async fn a_look_at_sqlite_tells_rows_from_records() {
    let bench = SqliteBench::new();
    let mut look = SqliteLook::open(&bench.config(SchemaMode::Strict)).await.unwrap();
    a_look_tells_rows_from_records(&bench, &mut look).await;
}

#[tokio::test]
async fn what_was_applied_is_the_same_and_what_was_changed_is_not_whatever_its_type() {
    let types = [
        ("", Value::Number("7"), "'7'"),
        ("TEXT", Value::Number("7.50"), "'7.5'"),
        ("INTEGER", Value::Bool(true), "2"),
        ("REAL", Value::Number("1"), "1.5"),
        ("NUMERIC", Value::Number("0.1"), "'x'"),
        ("BLOB", Value::Bytes("AP8="), "x'00'"),
        ("TEXT COLLATE NOCASE", Value::Text("a"), "'A'"),
    ];
    let bench = SqliteBench::new();
    let columns: Vec<_> = types.iter().enumerate().map(|(at, (kind, ..))| (format!("c{at}"), *kind)).collect();
    let defined: Vec<_> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    bench.run(&format!("CREATE TABLE incident (number TEXT PRIMARY KEY, {})", defined.join(", ")));
    let values: Vec<_> = columns.iter().zip(types).map(|((name, _), (_, value, _))| (name.as_str(), value)).collect();
    let said = record(5, &[("number", Value::Text("1"))], Some(&values));
    let mut target = bench.target("a");
    apply(&mut target, &[(Action::Insert, said.clone())]).await;
    let mut look = SqliteLook::open(&bench.config(SchemaMode::Strict)).await.unwrap();
    let map = crate::target::contract::incidents();
    look.prepare(&map, &Columns::new(["number"])).await.unwrap();
    let batch = [Batch { table: &map, action: Action::Bulk, records: std::slice::from_ref(&said) }];
    assert_eq!(look.compare(&batch).await.unwrap().differences, []);
    for ((name, _), (kind, _, other)) in columns.iter().zip(types) {
        bench.run(&format!("UPDATE incident SET {name} = {other}"));
        let expected = [(0, Difference::Columns(vec![name.clone()]))];
        assert_eq!(look.compare(&batch).await.unwrap().differences, expected, "{kind}");
        let again = record(5, &[("number", Value::Text("1"))], Some(&values));
        bench.run("DELETE FROM incident");
        apply(&mut target, &[(Action::Insert, again)]).await;
    }
}
