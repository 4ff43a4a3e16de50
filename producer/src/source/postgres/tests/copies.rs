//! Rows that were there before.

use std::collections::HashMap;

use super::*;

/// The newest state of every record, as a target would hold it by the guard of versions.
#[derive(Default)]
struct Held(HashMap<String, (Version, Option<String>)>);

impl Held {
    fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            let key = change.key.value(0).and_then(Value::as_text).expect("a key").to_owned();
            let value = after(change, "n").map(|value| value.as_text().unwrap_or("null").to_owned());
            let held = self.0.entry(key).or_default();
            if change.version > held.0 {
                *held = (change.version, value);
            }
        }
    }

    fn rows(&self) -> HashMap<String, String> {
        self.0.iter().filter_map(|(key, (_, value))| Some((key.clone(), value.clone()?))).collect()
    }
}

async fn rows(database: &Database) -> HashMap<String, String> {
    let rows = database.client.query("SELECT id::text, n::text FROM item", &[]).await.expect("rows");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test]
async fn a_copy_with_writes_beside_it_has_no_gap() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int, notes text)").await;
    database.run("INSERT INTO item SELECT n, 0, repeat('x', 500) FROM generate_series(1, 5000) n").await;
    let mut source = database.source(&[("item", &["first"])]);
    let writer = connect(&url(&database.name)).await;
    let writing = async {
        for round in 1..=60 {
            let statements = format!(
                "UPDATE item SET n = n + 1 WHERE id % 60 = {round} % 60; DELETE FROM item WHERE id = {round} * 7;
                 INSERT INTO item VALUES (10000 + {round}, 0); UPDATE item SET id = 20000 + {round} WHERE id = {round} * 11"
            );
            writer.batch_execute(&statements).await.expect("a write");
        }
    };
    let mut held = Held::default();
    let reading = async {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
        let limit = PollLimit { changes: 100, bytes: 1 << 20 };
        let (mut bulk, mut streamed) = (0, false);
        loop {
            let polled = contract::poll(&mut source, limit, deadline).await;
            for change in &polled.changes {
                assert!(change.action != Action::Bulk || !streamed, "the copy comes before the stream");
                streamed |= change.action != Action::Bulk;
                bulk += usize::from(change.action == Action::Bulk);
            }
            held.apply(&polled.changes);
            if bulk > 0 && held.rows() == rows(&database).await && held.rows().contains_key("10060") {
                break;
            }
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn a_copy_that_was_not_safe_when_the_connection_broke_is_not_remembered_by_a_later_position() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0)").await;
    let mut source = database.source(&[("item", &["first"])]);
    let (_, unsafe_yet) = read(&mut source, 1).await;
    let end = format!(
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
        database.name
    );
    database.run(&end).await;
    assert!(matches!(failure(&mut source).await, SourceError::Unreachable { .. }));
    // The copy is under way again, and something else of the new connection is safe.
    while !matches!(source.stage, super::super::Stage::Live(_)) {
        let _ = tokio::time::timeout(Duration::from_millis(10), source.poll(PollLimit { changes: 1, bytes: 1 })).await;
    }
    source.commit(&super::super::Position { lsn: 0, ..unsafe_yet }).await.expect("committed");
    let copied = "SELECT key FROM syncline.state WHERE key LIKE 'copied:%'";
    assert_eq!(database.text(copied).await, None);
}

#[tokio::test]
async fn a_share_that_was_gone_for_a_while_is_copied_again() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0)").await;
    for watched in [&[("item", ["first"].as_slice())][..], &[("item", &[])], &[("item", &["first"])], &[]] {
        let mut source = database.source(watched);
        let expected = usize::from(watched.iter().any(|(_, shares)| !shares.is_empty()));
        let (_, position) = read(&mut source, expected).await;
        source.commit(&position).await.expect("committed");
        source.close().await;
    }
    let mut source = database.source(&[("item", &["first"])]);
    read(&mut source, 1).await;
}

#[tokio::test]
async fn each_share_gets_its_own_copy_once() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0)").await;
    let mut source = database.source(&[("item", &["first", "second"])]);
    let (copied, position) = read(&mut source, 2).await;
    let shares: Vec<_> = copied.iter().filter_map(|change| change.only_share.as_deref()).collect();
    assert_eq!(shares, ["first", "second"]);
    assert_eq!(copied[0].session, Session::default());
    source.commit(&position).await.expect("committed");
    drop(source);

    let mut source = database.source(&[("item", &["first", "second", "third"])]);
    let (copied, _) = read(&mut source, 1).await;
    assert_eq!(copied[0].only_share.as_deref(), Some("third"));
}

#[tokio::test]
async fn an_uncommitted_copy_starts_again() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0), (2, 0)").await;
    let mut source = database.source(&[("item", &["first"])]);
    let (first, _) = read(&mut source, 2).await;
    drop(source);
    database.run("DELETE FROM item WHERE id = 1; UPDATE item SET n = 1").await;
    let mut source = database.source(&[("item", &["first"])]);
    let (again, _) = read(&mut source, 3).await;
    let two = |action| (action, "2".to_owned());
    assert_eq!(summary(&again), [two(Action::Bulk), (Action::Delete, "1".to_owned()), two(Action::Update)]);
    assert!(again[0].version > again[2].version && again[1].version > first[0].version, "versions tell which is newer");
}

#[tokio::test]
async fn a_table_created_after_the_start_comes_with_its_first_rows() {
    let database = Database::new().await;
    let mut source = database.connected(&[("item", &["first"]), ("other", &[])]).await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0), (2, 0)").await;
    let (copied, position) = read(&mut source, 2).await;
    assert!(copied.iter().all(|change| change.action == Action::Bulk && change.only_share.is_none()));
    database.run("UPDATE item SET n = 1 WHERE id = 1").await;
    let (changes, _) = read(&mut source, 1).await;
    assert_eq!(summary(&changes), [(Action::Update, "1".to_owned())]);
    drop(source);

    // The rows were never committed, so they come again, even to a new process.
    let mut source = database.source(&[("item", &["first"]), ("other", &[])]);
    let (again, _) = read(&mut source, 3).await;
    assert_eq!(again.iter().filter(|change| change.action == Action::Bulk).count(), 2);
    source.commit(&position).await.expect("committed");
}

#[tokio::test]
async fn a_table_made_anew_comes_with_its_first_rows() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let mut source = database.source_of_item(&[], OnTruncate::Ignore);
    settle(&mut source).await;
    database
        .run("DROP TABLE item; CREATE TABLE item (id bigint PRIMARY KEY, n int); INSERT INTO item VALUES (1, 0)")
        .await;
    let (copied, _) = read(&mut source, 1).await;
    assert_eq!((copied[0].action, copied[0].only_share.is_none()), (Action::Bulk, true));
}

#[tokio::test]
async fn a_table_taken_out_of_the_publication_is_put_back_and_copied() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let config = PostgresSourceConfig { publication: Some("Mixed, Case".to_owned()), ..database.config() };
    let mut source = database.source_with(config, &[("item", &[])]);
    settle(&mut source).await;
    database.run(r#"ALTER PUBLICATION "Mixed, Case" DROP TABLE item; INSERT INTO item VALUES (1, 0)"#).await;
    let (copied, _) = read(&mut source, 1).await;
    assert_eq!(summary(&copied), [(Action::Bulk, "1".to_owned())]);
    database.run("UPDATE item SET n = 1").await;
    let (changes, _) = read(&mut source, 1).await;
    assert_eq!(summary(&changes), [(Action::Update, "1".to_owned())]);
}

#[tokio::test]
async fn a_locked_table_or_an_open_transaction_holds_up_no_other_table() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id serial PRIMARY KEY)").await;
    let mut source = database.connected(&[("item", &[]), ("late", &[])]).await;
    let locking = connect(&url(&database.name)).await;
    let open = connect(&url(&database.name)).await;
    database.run("CREATE TABLE late (id int PRIMARY KEY); INSERT INTO late VALUES (1)").await;
    locking.batch_execute("BEGIN; LOCK TABLE late IN SHARE UPDATE EXCLUSIVE MODE").await.expect("a lock");
    open.batch_execute("BEGIN; INSERT INTO late VALUES (2)").await.expect("an open transaction");
    for blocker in [locking, open] {
        // Long enough for the source to look at its tables again.
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            database.run("INSERT INTO item DEFAULT VALUES").await;
            let (changes, _) = read(&mut source, 1).await;
            assert_eq!(&*changes[0].table, "item");
        }
        blocker.batch_execute("COMMIT").await.expect("committed");
    }
    let (copied, _) = read(&mut source, 2).await;
    assert!(copied.iter().all(|change| change.action == Action::Bulk));
}
