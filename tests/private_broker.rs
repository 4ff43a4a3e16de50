//! Faults of a whole RabbitMQ server: short of memory, frozen, killed.

use std::time::{Duration, Instant};

use crate::bad_input::{ALL, ITEM, paused, ready, stream_only};
use crate::kit::config::{Folder, rabbitmq};
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::kit::server::PrivateServer;
use crate::postgres::Path;

/// A path through a broker of its own; `queue` is added to `[queue]`.
async fn path(server: &PrivateServer, queue: &str) -> Path {
    let vhost = Vhost::create_on(&server.url, &server.api);
    let queue = format!("{}{queue}", rabbitmq(&vhost.url));
    // One record a message, so that what comes twice is seen.
    let single = "[producer.batch]\nbatch_records_max = 1\n";
    Path::create_on(Folder::create(), vhost, &queue, ITEM, ITEM, &format!("{}{single}", stream_only()), "").await
}

/// Lines of a service's log that tell a pause, and those that tell its end.
fn told(service: &Service) -> (usize, usize) {
    let log = service.log();
    let count = |what: &str| log.lines().filter(|line| line.contains(what)).count();
    (count("paused"), count("works again"))
}

fn duplicates(consumer: &Service) -> f64 {
    consumer.metric("syncline_consumer_records_total", "outcome=\"duplicate\"")
        + consumer.metric("syncline_consumer_records_total", "outcome=\"stale\"")
}

fn alarm(server: &PrivateServer, on: bool) {
    let watermark = if on { "0.000001" } else { "0.6" };
    server.run(&["rabbitmqctl", "-q", "set_vm_memory_high_watermark", watermark]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_pauses_the_producer_in_place_and_one_message_at_most_is_sent_twice() {
    let server = PrivateServer::rabbitmq();
    server.start();
    let path = path(&server, "confirm_timeout_ms = 5000\n").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 500) n").await;
    path.in_step("before", ALL, ALL).await;

    alarm(&server, true);
    path.source
        .run("UPDATE item SET note = 'b'; INSERT INTO item SELECT n, 'a' FROM generate_series(501, 2000) n")
        .await;
    paused(&producer, "takes no messages for now: low on memory").await;
    assert_eq!(producer.metric("syncline_producer_paused", "queue of source desk"), 1.0);
    // Longer than the confirm time-out: it must not fire.
    let since = Instant::now();
    let waited = async || since.elapsed() > Duration::from_secs(8);
    eventually("the confirm time-out is over", true, waited).await;
    paused(&producer, "takes no messages for now").await;
    ready(&consumer).await;
    path.source.run("DELETE FROM item WHERE id % 7 = 0; UPDATE item SET note = 'c' WHERE id % 3 = 0").await;
    alarm(&server, false);
    path.in_step("after the alarm", ALL, ALL).await;
    ready(&producer).await;
    assert_eq!(told(&producer), (1, 1), "{}", producer.log());
    // The one message in hand when the broker stopped may come twice; a message has one record here.
    assert!(duplicates(&consumer) <= 1.0, "{} records came twice", duplicates(&consumer));

    // What is there already is taken and acked, more than is handed out ahead, also by a replica that comes now.
    path.target.client.batch_execute("BEGIN; LOCK TABLE item").await.unwrap();
    path.source.run("UPDATE item SET note = 'waits'").await;
    eventually("messages wait", true, async || path.vhost.ready("crm.0") > 50).await;
    alarm(&server, true);
    let mut other = path.consumer();
    ready(&other).await;
    let since = Instant::now();
    eventually("both have spoken", true, async || since.elapsed() > Duration::from_secs(4)).await;
    path.target.client.batch_execute("COMMIT").await.unwrap();
    let left = async || (0..8).map(|partition| path.vhost.ready(&format!("crm.{partition}"))).sum();
    eventually("drained while the broker takes nothing", 0, left).await;
    alarm(&server, false);
    path.in_step("drained", ALL, ALL).await;
    assert!(other.stop().success());

    // There already when the producer starts, and still there when it stops.
    assert!(producer.stop().success());
    alarm(&server, true);
    let mut producer = path.producer();
    path.source.run("UPDATE item SET note = 'd'").await;
    paused(&producer, "takes no messages for now").await;
    assert!(producer.stop().success());
    let producer = path.producer();
    paused(&producer, "takes no messages for now").await;
    alarm(&server, false);
    path.in_step("after the start", ALL, ALL).await;
    ready(&producer).await;
    assert!(consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_frozen_or_killed_is_told_once_and_waited_for() {
    let server = PrivateServer::rabbitmq();
    server.start();
    let path = path(&server, "heartbeat_s = 3\n").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 500) n").await;
    path.in_step("before", ALL, ALL).await;

    for (round, fault) in ["frozen", "killed", "killed with changes under way"].into_iter().enumerate() {
        // The first two times there is nothing to send, and yet it is noticed.
        match fault {
            "frozen" => server.freeze(),
            "killed" => server.kill(),
            _ => {
                path.source.run("UPDATE item SET note = 'under way'").await;
                server.kill();
            }
        }
        paused(&producer, "out of reach").await;
        let told = async || {
            let (_, body) = consumer.get("/readyz").unwrap_or_default();
            let parts = body.lines().map(|line| line.split(": the broker at").next().unwrap().to_owned());
            parts.collect::<Vec<_>>()
        };
        let all = vec!["subscription crm partitions 0-7".to_owned()];
        eventually("all partitions are told together", all, told).await;
        path.source.run(&format!("UPDATE item SET note = '{fault}'; DELETE FROM item WHERE id % 50 = {round}")).await;
        if fault == "frozen" {
            server.thaw()
        } else {
            server.start()
        }
        path.in_step(fault, ALL, ALL).await;
        ready(&producer).await;
        ready(&consumer).await;
    }
    assert_eq!((told(&producer), told(&consumer)), ((3, 3), (3, 3)), "{}\n{}", producer.log(), consumer.log());
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_without_a_confirm_is_sent_again() {
    let server = PrivateServer::rabbitmq();
    server.start();
    // The time-out comes long before the missing heartbeat.
    let path = path(&server, "heartbeat_s = 600\nconfirm_timeout_ms = 1000\n").await;
    let (producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 100) n").await;
    path.in_step("before", ALL, ALL).await;
    server.freeze();
    path.source.run("UPDATE item SET note = 'b'; DELETE FROM item WHERE id % 5 = 0").await;
    paused(&producer, "no confirm within 1000 ms").await;
    server.thaw();
    path.in_step("after", ALL, ALL).await;
    ready(&producer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_larger_than_the_broker_itself_takes_is_set_aside_and_the_rest_flows() {
    let server = PrivateServer::rabbitmq().with(&["max_message_size = 20000"]);
    server.start();
    let vhost = Vhost::create_on(&server.url, &server.api);
    let queue = rabbitmq(&vhost.url);
    let path = Path::create_on(Folder::create(), vhost, &queue, ITEM, ITEM, &stream_only(), "").await;
    let (producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    let noise = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 50) WHERE n > 0)";
    let large = "(SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 5000))";
    path.source
        .run(&format!(
            "INSERT INTO item SELECT n, {noise} FROM generate_series(1, 300) n; UPDATE item SET note = {large} WHERE id = 77; \
             UPDATE item SET note = 'after' WHERE id = 78"
        ))
        .await;
    eventually("set aside", 1, async || path.vhost.ready("crm.dead")).await;
    path.in_step("the others", "SELECT id, note FROM item WHERE id <> 77", "SELECT id, note FROM item WHERE id <> 77")
        .await;
    ready(&producer).await;
    assert!(producer.log().contains("too large to send"), "{}", producer.log());
}
