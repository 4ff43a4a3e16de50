//! Tables that change their form, lose all records at once, or become other tables.

use syncline_shared::class::Class;

use super::*;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, n int)";

/// The first error that does not pass by itself.
async fn pause(source: &mut PostgresSource) -> String {
    loop {
        let error = failure(source).await;
        if error.class() == Class::Systemic {
            assert!(matches!(error, SourceError::Unfit { .. }), "{error}");
            return error.to_string();
        }
    }
}

/// A source that follows `item` and was committed up to here.
async fn following(database: &Database, columns: &[&str], on_truncate: OnTruncate) -> PostgresSource {
    let mut source = database.source_of_item(columns, on_truncate);
    settle(&mut source).await;
    source
}

fn row(change: &Change) -> Vec<(String, String)> {
    let shown = |value: Value<'_>| value.as_text().map_or_else(|| format!("{value:?}"), str::to_owned);
    let after = change.after.as_ref().expect("a row");
    after.iter().map(|(name, value)| (name.to_owned(), shown(value))).collect()
}

fn cells(row: &[(&str, &str)]) -> Vec<(String, String)> {
    row.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn columns_may_come_go_and_change_in_mid_stream() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 1); ALTER TABLE item ADD COLUMN note text DEFAULT 'new'; INSERT INTO item VALUES (2, 2)").await;
    database.run("ALTER TABLE item ALTER n TYPE bigint; UPDATE item SET n = 5000000000 WHERE id = 2").await;
    database.run("ALTER TABLE item RENAME n TO amount; INSERT INTO item VALUES (3, 3)").await;
    database.run("ALTER TABLE item DROP COLUMN note; INSERT INTO item VALUES (4, 4)").await;
    let (changes, _) = read(&mut source, 5).await;
    let expected: [&[(&str, &str)]; 5] = [
        &[("id", "1"), ("n", "1")],
        &[("id", "2"), ("n", "2"), ("note", "new")],
        &[("id", "2"), ("n", "5000000000"), ("note", "new")],
        &[("id", "3"), ("amount", "3"), ("note", "new")],
        &[("id", "4"), ("amount", "4")],
    ];
    for (change, expected) in changes.iter().zip(expected) {
        assert_eq!(row(change), cells(expected));
    }
}

#[tokio::test]
async fn a_column_added_while_the_source_lags_is_read_for_the_changes_before_it() {
    let database = Database::new().await;
    database.run(ITEM).await;
    following(&database, &[], OnTruncate::Pause).await.close().await;
    database.run("INSERT INTO item VALUES (1, 1), (2, 2); DELETE FROM item WHERE id = 2").await;
    database.run("ALTER TABLE item ADD COLUMN note text DEFAULT 'later'").await;
    let mut source = database.source_of_item(&["note"], OnTruncate::Pause);
    let (changes, _) = read(&mut source, 3).await;
    assert_eq!(row(&changes[0]), cells(&[("id", "1"), ("n", "1"), ("note", "later")]));
    assert_eq!(after(&changes[1], "note"), Some(Value::Unchanged), "the record is gone");
}

#[tokio::test]
async fn a_column_a_share_names_pauses_the_source_when_it_is_dropped_and_lets_it_go_on_when_it_is_back() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &["n"], OnTruncate::Pause).await;
    database.run("ALTER TABLE item DROP COLUMN n; INSERT INTO item VALUES (1)").await;
    for _ in 0..2 {
        let told = pause(&mut source).await;
        assert!(told.contains("no column n") && told.contains("ALTER TABLE public.item ADD COLUMN \"n\""), "{told}");
    }
    database.run("ALTER TABLE item ADD COLUMN n int DEFAULT 7; INSERT INTO item VALUES (2, 2)").await;
    let (changes, _) = read(&mut source, 2).await;
    let n: Vec<_> = changes.iter().map(|change| after(change, "n")).collect();
    assert_eq!(n, [Some(Value::Number("7")), Some(Value::Number("2"))]);
}

#[tokio::test]
async fn a_truncated_table_pauses_the_source_until_somebody_emptied_the_targets() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 1)").await;
    database.run("BEGIN; INSERT INTO item VALUES (2, 2); TRUNCATE item; INSERT INTO item VALUES (3, 3); COMMIT").await;
    let (before, _) = read_until_pause(&mut source).await;
    assert_eq!(summary(&before), [(Action::Insert, "1".to_owned()), (Action::Insert, "2".to_owned())]);
    // Not forgotten by a new process, nor passed by one.
    let mut source = database.source_of_item(&[], OnTruncate::Pause);
    let told = pause(&mut source).await;
    assert!(told.contains("item was truncated") && told.contains("syncline source resume desk"), "{told}");

    assert_eq!(source.resume().await.expect("resumed"), ["item".into()]);
    assert_eq!(source.resume().await.expect("resumed"), [], "once is enough");
    let (changes, position) = read(&mut source, 1).await;
    assert_eq!(summary(&changes), [(Action::Insert, "3".to_owned())], "nothing that was removed comes again");
    source.commit(&position).await.expect("committed");
    database.run("TRUNCATE item").await;
    assert!(pause(&mut source).await.contains("was truncated"), "the next one is another one");
}

/// Everything up to a pause, and its reason.
async fn read_until_pause(source: &mut PostgresSource) -> (Vec<Change>, String) {
    let mut changes = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(180), source.poll(LIMIT)).await.expect("an answer") {
            Ok(polled) => changes.extend(polled.changes),
            Err(error) => return (changes, error.to_string()),
        }
    }
}

#[tokio::test]
async fn a_truncated_table_holds_up_nothing_where_its_shares_say_so() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &[], OnTruncate::Ignore).await;
    database.run("INSERT INTO item VALUES (1, 1); TRUNCATE item; INSERT INTO item VALUES (2, 2)").await;
    assert_eq!(read(&mut source, 2).await.0.len(), 2);
}

#[tokio::test]
async fn a_table_made_anew_pauses_the_source_until_somebody_emptied_the_targets() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 1); DROP TABLE item").await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (2, 2)").await;
    let told = pause(&mut source).await;
    assert!(told.contains("item was dropped and made anew"), "{told}");
    assert!(pause(&mut database.source_of_item(&[], OnTruncate::Pause)).await.contains("made anew"));

    assert_eq!(source.resume().await.expect("resumed"), ["item".into()]);
    let (copied, position) = read(&mut source, 1).await;
    assert_eq!(summary(&copied), [(Action::Bulk, "2".to_owned())]);
    source.commit(&position).await.expect("committed");
    database.run("UPDATE item SET n = 3").await;
    assert_eq!(summary(&read(&mut source, 1).await.0), [(Action::Update, "2".to_owned())]);
}

/// Gives the table another key in mid-stream; the records come under the new one once somebody let the source go on.
async fn changes_key(before: &str, change_key: &str, new_key: &str) {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, code text NOT NULL UNIQUE, n int)").await;
    database.run(before).await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 'a', 0)").await;
    database.run(change_key).await;
    database.run("INSERT INTO item VALUES (2, 'b', 0); UPDATE item SET n = 1 WHERE id = 1").await;
    read_until_pause(&mut source).await;
    let told = pause(&mut source).await;
    assert!(told.contains("the key of the table item was (") && told.contains(&format!("it is ({new_key})")), "{told}");

    assert_eq!(source.resume().await.expect("resumed"), ["item".into()]);
    database.run("DELETE FROM item WHERE id = 2").await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    let mut changes: Vec<Change> = Vec::new();
    let copied = |changes: &[Change]| changes.iter().any(|change| change.action == Action::Bulk);
    let deleted = |changes: &[Change]| changes.iter().any(|change| change.action == Action::Delete);
    while !copied(&changes) || !deleted(&changes) {
        changes.extend(contract::poll(&mut source, LIMIT, deadline).await.changes);
    }
    let keys = changes.iter().map(|change| change.key.columns().iter().map(str::to_owned).collect::<Vec<_>>());
    assert!(keys.into_iter().all(|key| key == [new_key]), "every change has the new key");
    let newest =
        changes.iter().filter(|change| change.after.is_some() && after(change, "id") == Some(Value::Number("1")));
    let newest = newest.max_by_key(|change| change.version).expect("the first record");
    assert_eq!(after(newest, "n"), Some(Value::Number("1")), "nothing of it is lost");
}

#[tokio::test]
async fn another_primary_key_pauses_the_source_and_every_record_comes_under_it_afterwards() {
    changes_key("", "ALTER TABLE item DROP CONSTRAINT item_pkey, ADD PRIMARY KEY (code)", "code").await;
}

#[tokio::test]
async fn another_replica_identity_pauses_the_source_and_every_record_comes_under_it_afterwards() {
    let by_code = "ALTER TABLE item REPLICA IDENTITY USING INDEX item_code_key";
    changes_key("", by_code, "code").await;
    changes_key(by_code, "ALTER TABLE item REPLICA IDENTITY DEFAULT", "id").await;
}

#[tokio::test]
async fn a_full_replica_identity_is_no_other_key() {
    let database = Database::new().await;
    database.run(ITEM).await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 1); ALTER TABLE item REPLICA IDENTITY FULL; UPDATE item SET n = 2; DELETE FROM item").await;
    let (changes, _) = read(&mut source, 3).await;
    let actions: Vec<_> = changes.iter().map(|change| change.action).collect();
    assert_eq!(actions, [Action::Insert, Action::Update, Action::Delete]);
}

#[tokio::test]
async fn what_the_log_has_of_a_table_that_is_gone_is_still_reported() {
    let database = Database::new().await;
    database.run(ITEM).await;
    following(&database, &[], OnTruncate::Pause).await.close().await;
    database.run("INSERT INTO item VALUES (1, 1); DELETE FROM item; ALTER TABLE item RENAME TO elsewhere").await;
    let mut source = database.source_of_item(&[], OnTruncate::Pause);
    let (changes, position) = read(&mut source, 2).await;
    assert_eq!(summary(&changes)[1], (Action::Delete, "1".to_owned()));
    source.commit(&position).await.expect("committed");
    database.run("ALTER TABLE elsewhere RENAME TO item; INSERT INTO item VALUES (2, 2)").await;
    assert_eq!(summary(&read(&mut source, 1).await.0), [(Action::Insert, "2".to_owned())]);
}

#[tokio::test]
async fn partitions_come_and_go_and_rows_move_between_them_in_order() {
    let database = Database::new().await;
    database
        .run(
            "CREATE TABLE item (id int PRIMARY KEY, n int) PARTITION BY RANGE (id);
             CREATE TABLE item_1 PARTITION OF item FOR VALUES FROM (0) TO (100);
             CREATE TABLE item_2 (id int PRIMARY KEY, n int); INSERT INTO item_2 VALUES (150, 0)",
        )
        .await;
    let mut source = following(&database, &[], OnTruncate::Pause).await;
    database.run("INSERT INTO item VALUES (1, 1)").await;
    // In the same breath: the publication follows by itself.
    database
        .run(
            "ALTER TABLE item ATTACH PARTITION item_2 FOR VALUES FROM (100) TO (200); INSERT INTO item VALUES (101, 1)",
        )
        .await;
    database.run("BEGIN; UPDATE item SET id = 102 WHERE id = 1; UPDATE item SET n = 2 WHERE id = 102; UPDATE item SET id = 2 WHERE id = 102; COMMIT").await;
    database
        .run("ALTER TABLE item DETACH PARTITION item_2; UPDATE item_2 SET n = 9; INSERT INTO item VALUES (3, 3)")
        .await;
    let (changes, _) = read(&mut source, 8).await;
    use Action::{Delete, Insert, Update};
    let expected = [
        (Insert, "1"),
        (Insert, "101"),
        (Delete, "1"),
        (Insert, "102"),
        (Update, "102"),
        (Delete, "102"),
        (Insert, "2"),
        (Insert, "3"),
    ];
    assert_eq!(summary(&changes), expected.map(|(action, key)| (action, key.to_owned())));
    assert!(changes.is_sorted_by(|one, next| one.version < next.version));
    assert!(changes.iter().all(|change| &*change.table == "item"));
}
