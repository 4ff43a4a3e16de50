//! Bulk shares beside the log.

use super::*;
use crate::bulk::contract::{
    goes_on, keeps_notes, named, names_what_is_missing, read as read_all, reads_records_by_their_keys, versions, want,
};
use crate::bulk::{Stock as _, Want};

const ITEMS: &str = "
    CREATE TABLE item (place INTEGER, number TEXT, n INTEGER, changed ANY, PRIMARY KEY (number, place));
    WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < 2000)
    INSERT INTO item SELECT i % 3, 'I''' || (i / 3), i, '2026-11-22 08:00:00' FROM k;
    INSERT INTO item VALUES (NULL, 'without a key', 0, NULL)";

/// A source that is read here.
async fn read_here(desk: &Desk) -> SqliteSource {
    let mut source = desk.source(&[("item", &[])]);
    quiet(&mut source).await;
    source
}

#[tokio::test]
async fn every_row_is_read_once_and_is_newer_than_what_came_before_and_older_than_what_comes() {
    let desk = Desk::new(ITEMS);
    let mut source = read_here(&desk).await;
    desk.run("UPDATE item SET n = -1 WHERE n = 7");
    let older = take(&mut source, 1).await;
    let all = read_all(&source.stock(), want("item"), usize::MAX).await;
    assert_eq!((all.rows.len(), all.total), (2_000, 2_000));
    desk.run("UPDATE item SET n = -2 WHERE n = 8");
    let newer = take(&mut source, 1).await;
    let (first, last) = versions(&all);
    assert!(older[0].version < first && last < newer[0].version);
}

#[tokio::test]
async fn what_passed_the_triggers_is_newer_in_the_next_bulk_share() {
    let desk = Desk::new(ITEMS);
    let source = read_here(&desk).await;
    let first = read_all(&source.stock(), want("item"), usize::MAX).await;
    desk.run("BEGIN; INSERT INTO _syncline_applying VALUES ('test'); UPDATE item SET n = -1; DELETE FROM _syncline_applying; COMMIT");
    assert_eq!(desk.logged(), 0);
    let second = read_all(&source.stock(), want("item"), usize::MAX).await;
    assert!(versions(&first).1 < versions(&second).0);
}

#[tokio::test]
async fn what_was_left_is_read_later_without_what_was_deleted_meanwhile() {
    let desk = Desk::new(ITEMS);
    let source = read_here(&desk).await;
    let (before, rest) = goes_on(&source.stock(), "item", 700, async || {
        desk.run("DELETE FROM item WHERE n % 10 = 3; UPDATE item SET n = -n WHERE n % 10 = 4");
    })
    .await;
    assert!(before.rows.keys().all(|key| !rest.rows.contains_key(key)), "a row came again");
    let deleted = (1..=2_000).filter(|n| n % 10 == 3).map(|n| format!("I'{}|{}", n / 3, n % 3));
    let deleted: Vec<_> = deleted.collect();
    assert!(rest.rows.keys().all(|key| !deleted.contains(key)));
    let expected = 2_000 - deleted.iter().filter(|key| !before.rows.contains_key(*key)).count();
    assert_eq!(before.rows.len() + rest.rows.len(), expected);
}

#[tokio::test]
async fn only_rows_changed_since_are_read_whatever_form_times_have() {
    let desk = Desk::new(ITEMS);
    let source = read_here(&desk).await;
    desk.run(
        "UPDATE item SET changed = '2026-11-22 09:00:00' WHERE n = 1; UPDATE item SET changed = 1795338000 WHERE n = 2;
         UPDATE item SET changed = 1795338000000 WHERE n = 3; UPDATE item SET changed = NULL WHERE n = 4;
         UPDATE item SET changed = '2026-11-22 08:59:59' WHERE n = 5; UPDATE item SET changed = 1795337999 WHERE n = 6;
         UPDATE item SET changed = 1795337999999 WHERE n = 7",
    );
    let changed = Some(("changed".to_owned(), "2026-11-22T09:00:00Z".parse().expect("a time")));
    let read = read_all(&source.stock(), Want { changed, ..want("item") }, usize::MAX).await;
    let mut numbers: Vec<_> = read.rows.values().filter_map(|row| row.after.as_ref()?.get("n")?.as_text()).collect();
    numbers.sort_unstable();
    assert_eq!((numbers, read.total), (vec!["1", "2", "3", "4"], 4));
}

#[tokio::test]
async fn notes_are_kept_and_what_is_missing_is_named() {
    let desk = Desk::new(ITEMS);
    let unread = desk.source(&[("item", &[])]);
    let stock = unread.stock();
    assert!(!stock.is_read_here() && !stock.is_read().await.expect("an answer"));
    keeps_notes(&stock).await;
    let source = read_here(&desk).await;
    assert!(source.stock().is_read_here() && stock.is_read().await.expect("an answer"));
    names_what_is_missing(&source.stock()).await;
}

#[tokio::test]
async fn records_are_read_by_their_keys_and_what_is_not_there_is_a_delete() {
    let desk = Desk::new(
        "CREATE TABLE item (line INTEGER, ticket, n INTEGER, PRIMARY KEY (ticket, line));
         INSERT INTO item VALUES (1, 'T''1', 1), (2, 7, 2), (3, x'00ff', 3)",
    );
    let source = read_here(&desk).await;
    let key = |ticket, line| named(&[("line", Value::Number(line)), ("ticket", ticket)]);
    let keys = [
        key(Value::Text("T'1"), "1"),
        // As a target without types may have it.
        key(Value::Text("7"), "2"),
        key(Value::Bytes("AP8="), "3"),
        key(Value::Text("T3"), "2"),
    ];
    let expected = [("T'1|1", Action::Bulk), ("7|2", Action::Bulk), ("AP8=|3", Action::Bulk), ("T3|2", Action::Delete)];
    reads_records_by_their_keys(&source.stock(), &keys, &expected).await;
}

#[tokio::test]
async fn whoever_only_looks_reads_what_another_process_follows_and_writes_nothing() {
    let desk = Desk::new(ITEMS);
    let unread = desk.source(&[("item", &[])]);
    let problem = unread.stock().look(want("item")).await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(problem.contains("no producer has read the source"), "{problem}");
    let mut source = read_here(&desk).await;
    desk.run("UPDATE item SET n = -1 WHERE n = 7");
    let older = take(&mut source, 1).await;
    let look = async || unread.stock().look(want("item")).await.expect("a look").version;
    let (first, second) = (look().await, look().await);
    assert_eq!(first, second, "the log stayed where it was");
    desk.run("UPDATE item SET n = -2 WHERE n = 8");
    let newer = take(&mut source, 1).await;
    assert!(older[0].version < first && first < newer[0].version);
}
