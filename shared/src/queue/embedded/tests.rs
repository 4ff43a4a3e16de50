use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::class::Class;
use crate::queue::contract::{
    Bench, QUEUE, contract_tests, envelope, envelopes, letter, next, publish_all, queue, replica, status_until, within,
};
use crate::queue::{PublishError, Publisher as _, Subscriber as _};

fn broker(folder: &Path, bytes_max: u64) -> Embedded {
    Embedded::new(&EmbeddedConfig { path: folder.join("new/queue.db"), bytes_max })
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn bench() -> Bench<Embedded> {
    let folder = folder();
    Bench::new(broker(folder.path(), DEFAULT_BYTES_MAX), folder)
}

mod contract {
    use super::*;

    contract_tests!(bench);
}

#[tokio::test]
async fn the_status_names_the_owner_and_counts_who_stands_by() {
    let folder = folder();
    let broker = broker(folder.path(), DEFAULT_BYTES_MAX);
    broker.declare(&queue()).await.expect("a shared queue");
    let _owner = broker.subscriber(QUEUE, 0, &replica("left")).await.expect("a subscriber");
    let _standby = broker.subscriber(QUEUE, 0, &replica("right")).await.expect("a subscriber");
    let status = broker.status(&queue()).await.expect("a status");
    let told = |partition: usize| (status.partitions[partition].owner.as_deref(), status.partitions[partition].standby);
    assert_eq!((told(0), told(1)), ((Some("left"), Some(1)), (None, Some(0))));
    assert_eq!(status.untold, None);
}

/// Two brokers on one file share nothing in memory: to each other they are two processes.
#[tokio::test]
async fn two_processes_share_the_file() {
    let folder = folder();
    let (producer, consumer) = (broker(folder.path(), DEFAULT_BYTES_MAX), broker(folder.path(), DEFAULT_BYTES_MAX));
    producer.declare(&queue()).await.expect("a shared queue");
    consumer.declare(&queue()).await.expect("the same shared queue");
    let mut publisher = producer.publisher().await.expect("a publisher");
    let mut subscriber = consumer.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    for envelope in envelopes(0, 20) {
        publish_all(&mut publisher, std::slice::from_ref(&envelope)).await;
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        delivery.ack().await.expect("an ack");
    }
}

#[tokio::test]
async fn a_stand_by_in_another_process_takes_over_when_the_first_goes() {
    let folder = folder();
    let (one, two) = (broker(folder.path(), DEFAULT_BYTES_MAX), broker(folder.path(), DEFAULT_BYTES_MAX));
    one.declare(&queue()).await.expect("a shared queue");
    let envelopes = envelopes(0, 3);
    publish_all(&mut one.publisher().await.expect("a publisher"), &envelopes).await;
    let mut first = one.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    let held = next(&mut first).await;
    let mut second = two.subscriber(QUEUE, 0, &replica("b")).await.expect("a subscriber");
    let stray = tokio::time::timeout(TWO_TURN_CHECKS, second.receive()).await;
    assert!(stray.is_err(), "the stand-by was given {stray:?}");
    drop((first, one));
    for (envelope, attempts) in envelopes.iter().zip([1, 0, 0]) {
        let delivery = next(&mut second).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        assert_eq!(delivery.attempts(), attempts);
    }
    assert_eq!(held.ack().await.expect_err("it was handed out again").class(), Class::Transient);
}

const TWO_TURN_CHECKS: Duration = Duration::from_millis(600);

#[tokio::test]
async fn the_lease_of_a_process_that_died_runs_out() {
    let folder = folder();
    let broker = broker(folder.path(), DEFAULT_BYTES_MAX);
    broker.declare(&queue()).await.expect("a shared queue");
    let envelopes = envelopes(0, 2);
    publish_all(&mut broker.publisher().await.expect("a publisher"), &envelopes).await;
    // What a process leaves behind that was killed with its first message in hand.
    let dead = broker.shared.write(Durability::Safe, |connection| {
        let partition = partition_id(connection, QUEUE, 0)?.expect("a partition");
        let id = lease::Lease::take(connection, partition, "dead")?;
        assert!(lease::Lease::take_over(connection, partition, id)?);
        lease::Lease::handed_out(connection, partition, id, 1)
    });
    dead.await.expect("a subscriber");
    let status = broker.status(&queue()).await.expect("a status");
    assert_eq!((status.partitions[0].unacked, status.partitions[0].consumers), (Some(1), 1));

    let attached = Instant::now();
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("b")).await.expect("a subscriber");
    for (envelope, attempts) in envelopes.iter().zip([1, 0]) {
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        assert_eq!(delivery.attempts(), attempts);
    }
    assert!(attached.elapsed() > Duration::from_secs(2), "the lease was not honoured");
    let status = broker.status(&queue()).await.expect("a status");
    assert_eq!(status.partitions[0].consumers, 1);
}

#[tokio::test]
async fn a_subscriber_whose_lease_was_lost_says_so() {
    let Bench { broker, .. } = &bench();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    let evict = broker.shared.write(Durability::Loose, |connection| connection.execute("DELETE FROM subscriber", []));
    evict.await.expect("no subscribers");
    let error = within(subscriber.receive()).await.expect_err("another may receive");
    assert_eq!(error.class(), Class::Transient);
}

/// Bytes that do not compress (a xorshift generator).
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed + 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..bytes / 8).flat_map(|_| next()).collect()
}

#[tokio::test]
async fn a_full_queue_refuses_and_goes_on_in_order_when_there_is_room() {
    let folder = folder();
    let broker = broker(folder.path(), 256 * 1024);
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let sent: Vec<_> = (0..10).map(|number| envelope(0, &noise(number, 40_000))).collect();
    let mut confirms = Vec::new();
    for envelope in &sent {
        confirms.push(publisher.publish(QUEUE, envelope).await.expect("the broker takes the message"));
    }
    let mut stored = 0;
    let mut refused = 0;
    for confirm in confirms {
        match within(confirm).await {
            Ok(()) => stored += 1,
            Err(PublishError::Nacked) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(stored >= 3 && refused >= 3, "{stored} stored, {refused} refused");

    // A dead letter is still taken: otherwise a full queue could never become empty.
    let parked = publisher.park(&letter(&sent[0])).await.expect("the broker takes the dead letter");
    within(parked).await.expect("a confirm");
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    for envelope in &sent[..stored] {
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        delivery.ack().await.expect("an ack");
    }
    for envelope in &sent[stored..] {
        publish_all(&mut publisher, std::slice::from_ref(envelope)).await;
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        delivery.ack().await.expect("an ack");
    }
}

#[tokio::test]
async fn after_a_refusal_nothing_passes_before_the_caller_knows() {
    let Bench { broker, .. } = &bench();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    // Partition 9 does not exist.
    let refused = publisher.publish(QUEUE, &envelope(9, b"a")).await.expect("handed over");
    let later = publisher.publish(QUEUE, &envelope(0, b"b")).await.expect("handed over");
    // The writer has seen both by now.
    broker.shared.write(Durability::Loose, |_| Ok(())).await.expect("a write");
    let latest = publisher.publish(QUEUE, &envelope(0, b"c")).await.expect("handed over");
    assert!(matches!(within(refused).await, Err(PublishError::Unroutable { .. })));
    assert!(matches!(within(later).await, Err(PublishError::Nacked)));
    assert!(matches!(within(latest).await, Err(PublishError::Nacked)));
    publish_all(&mut publisher, &[envelope(0, b"b")]).await;
}

#[tokio::test]
async fn what_was_confirmed_is_there_after_a_restart() {
    let folder = folder();
    let envelopes = envelopes(0, 3);
    let one = broker(folder.path(), DEFAULT_BYTES_MAX);
    one.declare(&queue()).await.expect("a shared queue");
    publish_all(&mut one.publisher().await.expect("a publisher"), &envelopes).await;
    drop(one);
    let two = broker(folder.path(), DEFAULT_BYTES_MAX);
    status_until(&two, |status| status.partitions[0].ready == 3).await;
    let mut subscriber = two.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    for envelope in &envelopes {
        assert_eq!(*next(&mut subscriber).await.message(), envelope.to_message());
    }
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_for_good() {
    let Bench { broker, .. } = &bench();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let error = publisher.publish(QUEUE, &envelope(0, &noise(7, 17 << 20))).await.expect_err("too large");
    assert_eq!(error.class(), Class::Permanent);
    publish_all(&mut publisher, &envelopes(0, 1)).await;
}

#[tokio::test]
async fn a_file_that_is_no_queue_is_refused_and_left_alone() {
    let folder = folder();
    let path = folder.path().join("crm.db");
    let connection = Connection::open(&path).expect("a database");
    connection.execute_batch("CREATE TABLE contact (id INTEGER PRIMARY KEY)").expect("a table");
    for path in [path, folder.path().to_owned(), folder.path().join("text")] {
        if path.ends_with("text") {
            std::fs::write(&path, "a text, and long enough to be taken for a database ".repeat(100)).expect("a file");
        }
        let broker = Embedded::new(&EmbeddedConfig { path: path.clone(), bytes_max: DEFAULT_BYTES_MAX });
        for error in
            [broker.declare(&queue()).await.expect_err("no queue"), broker.publisher().await.err().expect("none")]
        {
            assert!(matches!(&error, QueueError::Storage { path: named, .. } if *named == path.display().to_string()));
            assert_eq!(error.class(), Class::Systemic);
        }
    }
    let tables: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).expect("a count");
    assert_eq!(tables, 1);
}

#[test]
fn unknown_settings_are_refused() {
    let config = |text| serde_json::from_str::<EmbeddedConfig>(text);
    assert_eq!(
        config(r#"{"path":"data/queue.db"}"#).expect("a configuration"),
        EmbeddedConfig { path: "data/queue.db".into(), bytes_max: DEFAULT_BYTES_MAX }
    );
    assert!(config(r#"{"path":"data/queue.db","size":1}"#).is_err());
}

#[tokio::test]
async fn looking_makes_no_file_and_another_programs_file_is_left_as_it_is() {
    let folder = folder();
    let broker = broker(folder.path(), DEFAULT_BYTES_MAX);
    broker.status(&queue()).await.expect_err("no queue");
    broker.dead_letters(QUEUE, 1).await.expect_err("no queue");
    broker.settle_dead_letters(QUEUE, &[], Settlement::Discard).await.expect_err("no queue");
    assert!(!folder.path().join("new").exists(), "made by looking");

    let path = folder.path().join("other.db");
    let other = Connection::open(&path).expect("a database");
    other.execute_batch("CREATE TABLE incident (number TEXT)").expect("a table");
    let broker = Embedded::new(&EmbeddedConfig { path, bytes_max: DEFAULT_BYTES_MAX });
    let error = broker.publisher().await.err().expect("another program's file");
    assert!(matches!(error, QueueError::Storage { .. }), "{error:?}");
    let mode: String = other.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(mode, "delete");
}
