//! Names and values of every kind.

use super::*;

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
