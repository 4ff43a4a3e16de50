//! What a change says.

use super::*;

/// One column per type, with values that break careless text handling.
const TYPES: &str = r#"
    CREATE TYPE mood AS ENUM ('calm', 'it''s "odd"');
    CREATE TABLE every_type (
        sys_id uuid PRIMARY KEY, small int2, normal int4, large int8, exact numeric(38, 9), endless numeric, single float4,
        double float8, words text, short varchar(20), padded char(5), truth bool, day date, moment timestamp,
        instant timestamptz, span interval, loose json, strict jsonb, raw bytea, numbers int[], texts text[],
        feeling mood, address inet);
"#;

const ROWS: &str = r#"
    INSERT INTO every_type VALUES
    ('00000000-0000-0000-0000-000000000001', -32768, 2147483647, -9223372036854775808, 12345678901234567890123456789.123456789,
     'NaN', 'Infinity', 2.2250738585072011e-308, E'it''s "quoted" \\ back\nnew\ttab\r\u20ac\U0001F600', '', 'ab', true,
     'infinity', '2026-11-21 08:15:30.123456', '2026-11-21 08:15:30.123456+05', '1 day 2 hours', '{"a":  1}',
     '{"b": [1, 2.50]}', '\x00ff5c0a', '{1,NULL,3}', E'{"a,b","c\\"d",NULL,"NULL",""}', 'it''s "odd"', '10.0.0.1/8'),
    ('00000000-0000-0000-0000-000000000002', 0, 0, 0, 0.100000000, 1e20, '-0', 0.1, '', NULL, '', false,
     '2026-01-01', '-infinity', '0044-03-15 12:00:00 BC', '-1 mon', 'null', 'null', '', '{}', '{}', 'calm', NULL);
"#;

fn check_types(changes: &[Change]) {
    let value = |row: usize, column: &str| after(&changes[row], column).expect(column);
    let words = "it's \"quoted\" \\ back\nnew\ttab\r\u{20ac}\u{1F600}";
    let first = [
        ("sys_id", Value::Text("00000000-0000-0000-0000-000000000001")),
        ("small", Value::Number("-32768")),
        ("normal", Value::Number("2147483647")),
        ("large", Value::Number("-9223372036854775808")),
        ("exact", Value::Number("12345678901234567890123456789.123456789")),
        ("endless", Value::Text("NaN")),
        ("single", Value::Text("Infinity")),
        ("double", Value::Number("2.225073858507201e-308")),
        ("words", Value::Text(words)),
        ("short", Value::Text("")),
        ("padded", Value::Text("ab   ")),
        ("truth", Value::Bool(true)),
        ("day", Value::Text("infinity")),
        ("moment", Value::Text("2026-11-21 08:15:30.123456")),
        ("instant", Value::Text("2026-11-21 03:15:30.123456+00")),
        ("span", Value::Text("1 day 02:00:00")),
        ("loose", Value::Text("{\"a\":  1}")),
        ("strict", Value::Text("{\"b\": [1, 2.50]}")),
        ("raw", Value::Bytes("AP9cCg==")),
        ("numbers", Value::Text("{1,NULL,3}")),
        ("texts", Value::Text("{\"a,b\",\"c\\\"d\",NULL,\"NULL\",\"\"}")),
        ("feeling", Value::Text("it's \"odd\"")),
        ("address", Value::Text("10.0.0.1/8")),
    ];
    for (column, expected) in first {
        assert_eq!(value(0, column), expected, "{column}");
    }
    let second = [
        ("exact", Value::Number("0.100000000")),
        ("endless", Value::Number("100000000000000000000")),
        ("single", Value::Number("-0")),
        ("double", Value::Number("0.1")),
        ("words", Value::Text("")),
        ("short", Value::Null),
        ("padded", Value::Text("     ")),
        ("truth", Value::Bool(false)),
        ("moment", Value::Text("-infinity")),
        ("instant", Value::Text("0044-03-15 12:00:00+00 BC")),
        ("loose", Value::Text("null")),
        ("raw", Value::Bytes("")),
        ("address", Value::Null),
    ];
    for (column, expected) in second {
        assert_eq!(value(1, column), expected, "{column}");
    }
}

#[tokio::test]
async fn values_of_every_type_arrive_as_they_were_by_stream_and_by_copy() {
    let database = Database::new().await;
    database.run(&format!("ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'", database.name)).await;
    database.run(&format!("ALTER DATABASE {} SET DateStyle = 'SQL, DMY'", database.name)).await;
    database.run(&format!("ALTER DATABASE {} SET bytea_output = 'escape'", database.name)).await;
    database.run(TYPES).await;
    let mut source = database.connected(&[("every_type", &[])]).await;
    database.run("SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'").await;
    database.run(ROWS).await;
    let (streamed, _) = read(&mut source, 2).await;
    check_types(&streamed);
    drop(source);

    let mut source = database.source(&[("every_type", &["late"])]);
    let (copied, _) = read(&mut source, 4).await;
    let actions: Vec<_> = copied.iter().map(|change| change.action).collect();
    assert_eq!(actions, [Action::Bulk, Action::Bulk, Action::Insert, Action::Insert]);
    check_types(&copied);
    assert_eq!(copied[0].after, streamed[0].after);
}

#[tokio::test]
async fn composite_keys_and_keys_of_any_name_identify_a_record() {
    let database = Database::new().await;
    database.run(r#"CREATE SCHEMA "Desk"; CREATE TABLE "Desk"."Line Item" (note text, "Order" int, pos text, PRIMARY KEY (pos, "Order"))"#).await;
    let mut source = database.connected(&[("Desk.Line Item", &[])]).await;
    database
        .run(r#"INSERT INTO "Desk"."Line Item" VALUES ('x', 7, 'a'); UPDATE "Desk"."Line Item" SET note = 'y'"#)
        .await;
    database.run(r#"DELETE FROM "Desk"."Line Item""#).await;
    let (changes, _) = read(&mut source, 3).await;
    for change in &changes {
        assert_eq!(&*change.table, "Desk.Line Item");
        let key: Vec<_> = change.key.iter().collect();
        assert_eq!(key, [("Order", Value::Number("7")), ("pos", Value::Text("a"))]);
    }
    assert_eq!(changes[2].before.as_ref(), Some(&changes[2].key), "a delete knows the key alone");
}

#[tokio::test]
async fn one_record_changed_often_in_one_transaction_has_growing_versions() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("BEGIN; INSERT INTO item VALUES (1, 0); UPDATE item SET n = 1; UPDATE item SET id = 2; DELETE FROM item; COMMIT").await;
    let (changes, _) = read(&mut source, 5).await;
    let actions: Vec<_> = changes.iter().map(|change| change.action).collect();
    assert_eq!(actions, [Action::Insert, Action::Update, Action::Delete, Action::Insert, Action::Delete]);
    assert!(changes.is_sorted_by(|one, next| one.version < next.version));
    let lsn = |version: Version| version.to_bytes()[4..12].to_vec();
    assert!(changes.iter().all(|change| lsn(change.version) == lsn(changes[0].version)), "one commit, one place");
}

#[tokio::test]
async fn columns_stored_apart_and_left_alone_are_sent_in_full() {
    let database = Database::new().await;
    for (table, identity) in [("plain", "DEFAULT"), ("whole", "FULL")] {
        let create = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int, notes text, raw bytea, flag bool);
             ALTER TABLE {table} ALTER notes SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL;
             ALTER TABLE {table} REPLICA IDENTITY {identity};
             INSERT INTO {table} SELECT n, 0, repeat(n || 'it''s', 5000), decode(repeat('00ff', 5000), 'hex'), true
               FROM generate_series(1, 200) n"
        );
        database.run(&create).await;
    }
    let mut source = database.connected(&[("plain", &[]), ("whole", &[])]).await;
    database.run("UPDATE plain SET n = 1").await;
    database.run("UPDATE whole SET n = 1").await;
    let (changes, _) = read(&mut source, 400).await;
    for change in &changes {
        let id = change.key.get("id").and_then(Value::as_text).expect("a key");
        assert_eq!(after(change, "notes"), Some(Value::Text(&format!("{id}it's").repeat(5000))));
        assert!(matches!(after(change, "raw"), Some(Value::Bytes(raw)) if raw.len() == 13_336));
        assert_eq!(after(change, "flag"), Some(Value::Bool(true)));
        assert_eq!(change.before.is_some(), &*change.table == "whole", "only a full identity knows the row before");
    }
}

#[tokio::test]
async fn a_column_of_a_record_that_is_gone_stays_unchanged() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int, notes text); ALTER TABLE item ALTER notes SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO item VALUES (1, 0, repeat('x', 10000))").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("BEGIN; UPDATE item SET n = 1; DELETE FROM item; COMMIT").await;
    let (changes, _) = read(&mut source, 2).await;
    assert_eq!(after(&changes[0], "notes"), Some(Value::Unchanged));
    assert_eq!(changes[1].action, Action::Delete);
}

#[tokio::test]
async fn a_changed_key_is_a_delete_and_an_insert_of_the_whole_record() {
    let database = Database::new().await;
    for (table, identity) in [("plain", "DEFAULT"), ("whole", "FULL"), ("indexed", "USING INDEX indexed_code_key")] {
        let create = format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, code text NOT NULL UNIQUE, notes text);
             ALTER TABLE {table} ALTER notes SET STORAGE EXTERNAL; ALTER TABLE {table} REPLICA IDENTITY {identity};
             INSERT INTO {table} VALUES (1, 'a', repeat('x', 10000))"
        );
        database.run(&create).await;
    }
    let mut source = database.connected(&[("plain", &[]), ("whole", &[]), ("indexed", &[])]).await;
    database.run("UPDATE plain SET id = 2; UPDATE whole SET id = 2; UPDATE indexed SET code = 'b'").await;
    let (changes, _) = read(&mut source, 6).await;
    for (pair, (old, new)) in changes.chunks(2).zip([("1", "2"), ("1", "2"), ("a", "b")]) {
        assert_eq!(summary(pair), [(Action::Delete, old.to_owned()), (Action::Insert, new.to_owned())]);
        assert!(pair[0].version < pair[1].version);
        assert_eq!(after(&pair[1], "notes"), Some(Value::Text(&"x".repeat(10_000))));
    }
}

#[tokio::test]
async fn partitions_are_read_through_their_root() {
    let database = Database::new().await;
    database
        .run(
            "CREATE TABLE item (id int, year int, PRIMARY KEY (id, year)) PARTITION BY LIST (year);
        CREATE TABLE item_2025 PARTITION OF item FOR VALUES IN (2025);
        CREATE TABLE item_2026 PARTITION OF item FOR VALUES IN (2026); INSERT INTO item VALUES (0, 2025)",
        )
        .await;
    let mut source = database.source(&[("item", &["first"])]);
    let (copied, _) = read(&mut source, 1).await;
    assert_eq!(summary(&copied), [(Action::Bulk, "0,2025".to_owned())]);
    database.run("INSERT INTO item VALUES (1, 2025); UPDATE item SET year = 2026 WHERE id = 1; DELETE FROM item WHERE id = 1").await;
    let (changes, _) = read(&mut source, 4).await;
    let keys = ["1,2025", "1,2025", "1,2026", "1,2026"].map(str::to_owned);
    let actions = [Action::Insert, Action::Delete, Action::Insert, Action::Delete];
    assert_eq!(summary(&changes), actions.into_iter().zip(keys).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_session_message_says_who_makes_the_changes_after_it() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item VALUES (1)").await;
    database.run("BEGIN; INSERT INTO item VALUES (2); SELECT syncline.session(true, 'abel.tuter'); INSERT INTO item VALUES (3); COMMIT").await;
    database
        .run("BEGIN; SELECT pg_logical_emit_message(true, 'syncline', 'nonsense'); INSERT INTO item VALUES (4); COMMIT")
        .await;
    let (changes, _) = read(&mut source, 4).await;
    let job = Session { interactive: Some(false), user: None };
    let person = Session { interactive: Some(true), user: Some("abel.tuter".into()) };
    let sessions: Vec<_> = changes.iter().map(|change| &change.session).collect();
    assert_eq!(sessions, [&job, &job, &person, &job]);
}

#[tokio::test]
async fn without_a_message_a_column_may_say_who_it_was() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, sys_updated_by text)").await;
    let rule = SessionRule { user_column: "sys_updated_by".to_owned(), background: vec!["system".to_owned()] };
    let config = PostgresSourceConfig { session: Some(rule), ..database.config() };
    let mut source = database.source_with(config, &[("item", &[])]);
    settle(&mut source).await;
    database.run("INSERT INTO item VALUES (1, 'abel.tuter'), (2, 'system')").await;
    let (changes, _) = read(&mut source, 2).await;
    let interactive: Vec<_> = changes.iter().map(|change| change.session.interactive).collect();
    assert_eq!(interactive, [Some(true), Some(false)]);
    // Of a deleted row the log has the key alone, unless it is told to keep all of it.
    database.run("DELETE FROM item WHERE id = 1").await;
    database.run("ALTER TABLE item REPLICA IDENTITY FULL; DELETE FROM item WHERE id = 2").await;
    let (changes, _) = read(&mut source, 2).await;
    let interactive: Vec<_> = changes.iter().map(|change| change.session.interactive).collect();
    assert_eq!(interactive, [None, Some(false)]);
}

#[tokio::test]
async fn changes_of_synclines_own_origin_are_not_shared_again() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    let origin = format!("syncline_{}", database.name);
    database
        .run(&format!(
            "SELECT pg_replication_origin_create('{origin}'), pg_replication_origin_create('other_{origin}')"
        ))
        .await;
    database.run(&format!("SELECT pg_replication_origin_session_setup('{origin}')")).await;
    database.run("INSERT INTO item VALUES (1)").await;
    database
        .run(&format!(
            "SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_session_setup('other_{origin}')"
        ))
        .await;
    database.run("INSERT INTO item VALUES (2)").await;
    database.run(&format!("SELECT pg_replication_origin_session_reset(); SELECT pg_replication_origin_drop('{origin}'), pg_replication_origin_drop('other_{origin}')")).await;
    database.run("INSERT INTO item VALUES (3)").await;
    let (changes, _) = read(&mut source, 2).await;
    assert_eq!(summary(&changes), [(Action::Insert, "2".to_owned()), (Action::Insert, "3".to_owned())]);
}

#[tokio::test]
async fn a_poll_stays_within_its_bounds_and_one_larger_change_comes_alone() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, notes text, n int); ALTER TABLE item ALTER notes SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO item SELECT n, repeat('x', 50000) FROM generate_series(1, 50) n").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("UPDATE item SET n = 1").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let (mut seen, mut positions) = (0, 0);
    while seen < 50 || positions == 0 {
        let limit = PollLimit { changes: 7, bytes: if seen < 25 { 120_000 } else { 10_000 } };
        let polled = contract::poll(&mut source, limit, deadline).await;
        assert!(polled.changes.len() <= if seen < 25 { 2 } else { 1 }, "{}", polled.changes.len());
        let whole = |change: &Change| matches!(after(change, "notes"), Some(Value::Text(text)) if text.len() == 50_000);
        assert!(polled.changes.iter().all(whole));
        // What came before the transaction may be marked beside its first changes.
        let first = seen == 0;
        seen += polled.changes.len();
        assert!(polled.position.is_none() || seen == 50 || first, "the middle of a transaction is no position");
        positions += usize::from(polled.position.is_some() && seen == 50);
    }
}

#[tokio::test]
async fn a_large_transaction_passes_in_bounded_memory() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, note text)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item SELECT n, repeat('x', 500) FROM generate_series(1, 30000) n").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let limit = PollLimit { changes: 100, bytes: 20_000 };
    let mut returned = 0;
    while returned < 30_000 {
        returned += contract::poll(&mut source, limit, deadline).await.changes.len();
        let super::super::Stage::Live(live) = &source.stage else { panic!("connected") };
        let (ahead, held) = live.ahead(returned);
        assert!(held <= 41, "{held} changes are held beyond those of the poll");
        assert!(ahead <= 41 + 16 + 8, "{ahead} messages are read ahead");
    }
    assert_eq!(returned, 30_000);
}

#[tokio::test]
async fn unsent_columns_are_read_again_in_bounded_portions() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int, notes text); ALTER TABLE item ALTER notes SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO item SELECT n, 0, repeat('x', CASE WHEN n > 100 THEN 100000 ELSE 5000 END) FROM generate_series(1, 300) n").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("UPDATE item SET n = 1").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let limit = PollLimit { changes: 1_000, bytes: 400_000 };
    let mut seen = 0;
    while seen < 300 {
        let polled = contract::poll(&mut source, limit, deadline).await;
        seen += polled.changes.len();
        assert!(polled.changes.iter().all(|change| matches!(after(change, "notes"), Some(Value::Text(_)))));
        let super::super::Stage::Live(live) = &source.stage else { panic!("connected") };
        assert!(live.bytes_held() <= 3 * limit.bytes, "{} bytes are held", live.bytes_held());
    }
}

#[tokio::test]
async fn ten_thousand_subtransactions_are_one_transaction() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    // Every third one is rolled back.
    let block = "DO $$ BEGIN FOR i IN 1..10000 LOOP
        BEGIN INSERT INTO item VALUES (i, 0); IF i % 3 = 0 THEN RAISE division_by_zero; END IF;
        EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$";
    database.run(block).await;
    let started = Instant::now();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let mut changes = Vec::new();
    while changes.len() < 6_667 {
        changes.extend(contract::poll(&mut source, LIMIT, deadline).await.changes);
    }
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    let ids: Vec<_> = summary(&changes).into_iter().map(|(_, id)| id).collect();
    assert_eq!(ids, (1..=10_000).filter(|id| id % 3 != 0).map(|id| id.to_string()).collect::<Vec<_>>());
    assert!(changes.is_sorted_by(|one, next| one.version < next.version));
}
