//! Bulk shares beside the stream.

use super::*;
use crate::bulk::Want;
use crate::bulk::contract::{
    goes_on, keeps_notes, key, named, names_what_is_missing, open, read as read_all, reads_records_by_their_keys,
    versions, want,
};

/// Rows of one part are in the order of the key's index, which is not that of the table's columns.
const TICKETS: &str = "
    CREATE TABLE item (line int, ticket text COLLATE \"C\", n int, changed timestamptz, PRIMARY KEY (ticket, line));
    INSERT INTO item SELECT n % 4, 'T' || lpad(n::text, 6, '0') || E'\\t''\\\\ü', n, '2026-11-22 08:00+00'
      FROM generate_series(1, 25000) n";

#[tokio::test]
async fn every_row_is_read_once_over_several_connections_and_the_stream_goes_on_from_there() {
    let database = Database::new().await;
    database.run(TICKETS).await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("UPDATE item SET n = -1 WHERE ticket LIKE 'T000007%'").await;
    let (older, _) = read(&mut source, 1).await;
    let all = read_all(&source.stock(), want("item"), usize::MAX).await;
    assert_eq!((all.rows.len(), all.total, all.ranges.len()), (25_000, 25_000, 12));
    database.run("UPDATE item SET n = -2 WHERE ticket LIKE 'T000008%'").await;
    let (newer, _) = read(&mut source, 1).await;
    let (first, last) = versions(&all);
    assert_eq!(first, last, "one snapshot");
    assert!(older[0].version < first && last < newer[0].version);
    assert_eq!(all.rows.values().filter(|row| after(row, "n") == Some(Value::Number("-1"))).count(), 1);
    assert!(all.rows.contains_key("3|T000007\t'\\ü"));
}

#[tokio::test]
async fn what_was_left_is_read_from_a_later_snapshot_wherever_its_rows_lie_by_then() {
    let database = Database::new().await;
    database.run(TICKETS).await;
    let source = database.connected(&[("item", &[])]).await;
    // Deletes and updates all over, and every row in another place.
    let meanwhile = "DELETE FROM item WHERE n % 10 = 3; UPDATE item SET n = -n WHERE n % 10 = 4; VACUUM FULL item";
    let (before, rest) = goes_on(&source.stock(), "item", 9_000, async || {
        for statement in meanwhile.split(';') {
            database.run(statement).await;
        }
    })
    .await;
    assert!(before.rows.keys().all(|key| !rest.rows.contains_key(key)), "a row came again");
    let query = "SELECT line || '|' || ticket FROM item";
    for row in database.client.query(query, &[]).await.expect("rows") {
        let key: String = row.get(0);
        assert!(before.rows.contains_key(&key) || rest.rows.contains_key(&key), "a row was left out");
    }
    assert!(rest.rows.values().all(|row| !row.after.as_ref().is_some_and(|row| {
        row.get("n").and_then(|value| value.as_text()?.parse::<i64>().ok()).is_some_and(|n| n > 0 && n % 10 == 3)
    })));
}

#[tokio::test]
async fn only_rows_changed_since_are_read_and_those_without_a_time() {
    let database = Database::new().await;
    database.run(TICKETS).await;
    database
        .run(
            "UPDATE item SET changed = NULL WHERE n = 5; UPDATE item SET changed = '2026-11-22 09:00:00+00' WHERE n = 6;
             UPDATE item SET changed = '2026-11-22 08:59:59+00' WHERE n = 7",
        )
        .await;
    let source = database.connected(&[("item", &[])]).await;
    let since = |column: &str| Want {
        changed: Some((column.to_owned(), "2026-11-22T09:00:00Z".parse().expect("a time"))),
        ..want("item")
    };
    let changed = read_all(&source.stock(), since("changed"), usize::MAX).await;
    let numbers: Vec<_> = changed.rows.values().filter_map(|row| after(row, "n")?.as_text()).collect();
    assert_eq!(
        (numbers, changed.total),
        (vec!["5", "6"], 2),
        "{:?}",
        changed.rows.values().map(key).collect::<Vec<_>>()
    );
    let unfit = open(&source.stock(), since("n")).await.err().expect("a number is no time");
    assert!(unfit.to_string().contains("neither a time nor a text"), "{unfit}");
}

#[tokio::test]
async fn partitions_are_read_through_their_root_and_keys_of_many_types_are_gone_on_with() {
    let database = Database::new().await;
    database
        .run(
            "CREATE TABLE item (id bytea, at timestamptz, ok boolean, f float8, PRIMARY KEY (id, at, ok, f)) PARTITION BY RANGE (f);
             CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM (MINVALUE) TO (0.5);
             CREATE TABLE item_2 PARTITION OF item FOR VALUES FROM (0.5) TO (MAXVALUE);
             INSERT INTO item SELECT decode(md5((n / 3)::text), 'hex'), '2026-11-22'::timestamptz + n * interval '1 microsecond',
                n % 2 = 0, n / 30000.0 FROM generate_series(1, 25000) n",
        )
        .await;
    let source = database.connected(&[("item", &[])]).await;
    let (before, rest) = goes_on(&source.stock(), "item", 7_000, async || {}).await;
    assert_eq!(before.rows.len() + rest.rows.len(), 25_000);
    assert!(before.ranges.len() > 1);
}

#[tokio::test]
async fn notes_are_kept_and_what_is_missing_is_named() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let unread = database.source(&[("item", &[])]);
    assert!(!unread.stock().is_read_here());
    keeps_notes(&unread.stock()).await;
    let mut source = database.connected(&[("item", &[]), ("nowhere", &[])]).await;
    let stock = source.stock();
    assert!(stock.is_read_here() && unread.stock().is_read().await.expect("an answer"));
    names_what_is_missing(&stock).await;
    let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active AND slot_name = current_database()";
    database.run(end).await;
    failure(&mut source).await;
    assert!(!stock.is_read_here());
    drop(source);
    assert!(!stock.is_read_here());
}

#[tokio::test]
async fn records_are_read_by_their_keys_and_what_is_not_there_is_a_delete() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (line int, ticket text, n int, PRIMARY KEY (ticket, line))").await;
    database.run("INSERT INTO item VALUES (1, 'T''1', 1), (2, 'T2', 2)").await;
    let source = database.connected(&[("item", &[])]).await;
    let key = |ticket, line| named(&[("ticket", Value::Text(ticket)), ("line", line)]);
    let keys = [
        key("T'1", Value::Number("1")),
        key("T2", Value::Text("no number")),
        key("T2", Value::Text("2")),
        key("T3", Value::Number("2")),
    ];
    let expected =
        [("1|T'1", Action::Bulk), ("no number|T2", Action::Delete), ("2|T2", Action::Bulk), ("2|T3", Action::Delete)];
    reads_records_by_their_keys(&source.stock(), &keys, &expected).await;
}

#[tokio::test]
async fn whoever_only_looks_reads_what_another_process_follows_and_only_that() {
    let database = Database::new().await;
    database.run(TICKETS).await;
    let unread = database.source(&[("item", &[])]);
    let problem = unread.stock().look(want("item")).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(problem.contains("no producer has read the source"), "{problem}");
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("UPDATE item SET n = -1 WHERE ticket LIKE 'T000007%'").await;
    let (older, _) = read(&mut source, 1).await;
    let looked = unread.stock().look(want("item")).await.expect("a look");
    database.run("UPDATE item SET n = -2 WHERE ticket LIKE 'T000008%'").await;
    let (newer, _) = read(&mut source, 1).await;
    assert!(older[0].version < looked.version && looked.version < newer[0].version);
}
