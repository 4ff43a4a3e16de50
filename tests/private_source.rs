//! What a PostgreSQL server can do to its source: give its log up, fail over, come back from a backup.

use std::time::{Duration, Instant};

use serde_json::json;
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::{Change, PollLimit, Source, SourceError, WatchedTable};
use syncline_shared::class::Class;

use crate::kit::PATIENCE;
use crate::kit::database::{connect, try_connect};
use crate::kit::server::PrivateServer;

const LIMIT: PollLimit = PollLimit { changes: 1_000, bytes: 1 << 20 };

/// A source of the table `item` in the server's own database, always under one name.
fn source_of(server: &PrivateServer) -> PostgresSource {
    let config = serde_json::from_value(json!({ "url": server.url, "heartbeat_interval_ms": 200 })).unwrap();
    let item = WatchedTable { table: "item".into(), ..WatchedTable::default() };
    PostgresSource::new("desk", config, vec![item])
}

/// Polls and commits until this many changes came; what passes by itself is tried again.
async fn read(source: &mut PostgresSource, count: usize) -> Result<Vec<Change>, SourceError> {
    let (mut changes, deadline) = (Vec::new(), Instant::now() + PATIENCE);
    loop {
        assert!(Instant::now() < deadline, "{} of {count} changes", changes.len());
        match tokio::time::timeout(PATIENCE, source.poll(LIMIT)).await.expect("an answer") {
            Ok(polled) => {
                changes.extend(polled.changes);
                if let Some(position) = polled.position {
                    source.commit(&position).await.unwrap();
                    if changes.len() >= count {
                        return Ok(changes);
                    }
                }
            }
            Err(error) if error.class() == Class::Transient => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => return Err(error),
        }
    }
}

fn gap(read: Result<Vec<Change>, SourceError>) -> String {
    match read {
        Err(error @ SourceError::Gap { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(changes) => panic!("{} changes beyond the gap", changes.len()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_the_server_gave_up_is_a_gap_while_streaming_and_at_the_start() {
    let server = PrivateServer::postgres().with(&["max_slot_wal_keep_size=1MB", "wal_keep_size=0"]);
    server.start();
    let client = connect(&server.url).await;
    client.batch_execute("CREATE TABLE item (id int PRIMARY KEY, note text)").await.unwrap();
    let mut source = source_of(&server);
    read(&mut source, 0).await.unwrap();
    assert!(source.retained().is_some_and(|retained| retained.room_bytes.is_some()), "how much is left is known");
    // Read and never committed: the slot stays where it is, and the log grows beyond what it may keep.
    client.batch_execute("INSERT INTO item VALUES (1, 'a')").await.unwrap();
    while source.poll(LIMIT).await.unwrap().changes.is_empty() {}
    for _ in 0..3 {
        client.batch_execute("INSERT INTO item SELECT max(id) + 1 FROM item; SELECT pg_switch_wal()").await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();

    let told = loop {
        match tokio::time::timeout(PATIENCE, source.poll(LIMIT)).await.expect("an answer") {
            Err(error) if error.class() != Class::Transient => break gap(Err(error)),
            Ok(_) | Err(_) => {}
        }
    };
    assert!(told.contains("wal_removed") && told.contains("syncline source rebuild desk"), "{told}");
    gap(read(&mut source_of(&server), 1).await);

    source.rebuild(false).await.unwrap();
    assert_eq!(read(&mut source, 4).await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_to_an_earlier_time_makes_every_version_newer_though_its_log_went_back() {
    let before = PrivateServer::postgres();
    before.start();
    let client = connect(&before.url).await;
    client.batch_execute("CREATE TABLE item (id int PRIMARY KEY, note text)").await.unwrap();
    let mut source = source_of(&before);
    read(&mut source, 0).await.unwrap();
    client.batch_execute("INSERT INTO item VALUES (1, 'backed up')").await.unwrap();
    let mut sent = read(&mut source, 1).await.unwrap();
    let after = backup(&before);
    client
        .batch_execute("UPDATE item SET note = 'lost'; SELECT pg_switch_wal(); UPDATE item SET note = 'lost too'")
        .await
        .unwrap();
    sent.extend(read(&mut source, 2).await.unwrap());
    drop((source, client));
    before.kill();

    let mut after = after;
    std::fs::write(after.data("postgres").join("recovery.signal"), "").unwrap();
    after.set(&["restore_command=false", "recovery_target=immediate", "recovery_target_action=promote"]);
    after.start();
    let client = writable(&after).await;
    let mut source = source_of(&after);
    gap(read(&mut source, 1).await);
    let newer_than = source.rebuild(false).await.unwrap();
    let copied = read(&mut source, 1).await.unwrap();
    client.batch_execute("UPDATE item SET note = 'after'").await.unwrap();
    let streamed = read(&mut source, 1).await.unwrap();

    let place = |change: &Change| change.version.to_bytes()[4..12].to_vec();
    assert!(place(&streamed[0]) < place(&sent[2]), "the log went back");
    assert!(sent.iter().all(|change| change.version < newer_than));
    assert!(newer_than < copied[0].version && copied[0].version < streamed[0].version);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_that_kept_the_slot_is_read_on_with_newer_versions() {
    let first = PrivateServer::postgres();
    first.start();
    let client = connect(&first.url).await;
    client.batch_execute("CREATE TABLE item (id int PRIMARY KEY, note text)").await.unwrap();
    client.batch_execute("SELECT pg_create_physical_replication_slot('standby', true)").await.unwrap();
    let mut source = source_of(&first);
    read(&mut source, 0).await.unwrap();

    let mut second = backup(&first);
    std::fs::write(second.data("postgres").join("standby.signal"), "").unwrap();
    let upstream = format!("primary_conninfo={}", first.url);
    second.set(&[&upstream, "primary_slot_name=standby", "hot_standby_feedback=on", "sync_replication_slots=on"]);
    second.start();
    let standby = connect(&second.url).await;
    let kept = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'syncline_desk' AND NOT temporary";
    let deadline = Instant::now() + PATIENCE;
    let mut sent = Vec::new();
    // The standby takes the slot over once that has moved past where the standby's own log begins.
    while standby.query_one(kept, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "the slot never came to the standby");
        client
            .batch_execute("SELECT pg_log_standby_snapshot(); INSERT INTO item SELECT count(*) FROM item")
            .await
            .unwrap();
        sent.extend(read(&mut source, 1).await.unwrap());
    }
    drop((source, client));
    first.kill();
    standby.batch_execute("SELECT pg_promote()").await.unwrap();
    let client = writable(&second).await;
    client.batch_execute("INSERT INTO item VALUES (-1, 'after')").await.unwrap();

    // The slot may be a little behind: what comes again comes first, and newer.
    let mut source = source_of(&second);
    let mut again = read(&mut source, 1).await.unwrap();
    while again.last().unwrap().key.value(0).and_then(|id| id.as_text()) != Some("-1") {
        again.extend(read(&mut source, 1).await.unwrap());
    }
    let newest = sent.iter().map(|change| change.version).max();
    assert!(again.iter().all(|change| Some(change.version) > newest));
    assert!(again.is_sorted_by(|one, next| one.version < next.version));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_key_comes_whole_though_its_commit_waits_for_a_standby() {
    let server = PrivateServer::postgres().with(&["synchronous_standby_names=nobody", "synchronous_commit=local"]);
    server.start();
    let client = connect(&server.url).await;
    client
        .batch_execute(
            "CREATE TABLE item (id int PRIMARY KEY, note text); ALTER TABLE item ALTER note SET STORAGE EXTERNAL",
        )
        .await
        .unwrap();
    client.batch_execute("INSERT INTO item VALUES (1, repeat('x', 10000))").await.unwrap();
    let mut source = source_of(&server);
    read(&mut source, 0).await.unwrap();
    // It is in the log and in the stream, and no other session sees it.
    let waiting = client.batch_execute("SET synchronous_commit = on; UPDATE item SET id = 2");
    assert!(tokio::time::timeout(Duration::from_millis(500), waiting).await.is_err());
    let changes = read(&mut source, 2).await.unwrap();
    let inserted = changes[1].after.as_ref().unwrap();
    assert_eq!(inserted.get("note").and_then(|note| note.as_text()).map(str::len), Some(10_000));
}

/// A server with a copy of another one's data, not started yet.
fn backup(of: &PrivateServer) -> PrivateServer {
    let copy = PrivateServer::postgres();
    of.run(&["pg_basebackup", "--checkpoint=fast", "--pgdata=/data/backup"]);
    std::fs::remove_dir_all(copy.data("postgres")).unwrap();
    std::fs::rename(of.data("backup"), copy.data("postgres")).unwrap();
    copy
}

/// Connects once the server is a primary.
async fn writable(server: &PrivateServer) -> tokio_postgres::Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(client) = try_connect(&server.url).await {
            let recovering = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
            if recovering.is_ok_and(|row| !row.get::<_, bool>(0)) {
                return client;
            }
        }
        assert!(Instant::now() < deadline, "never promoted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
