//! The contract of brokers on a real RabbitMQ 4, and what only RabbitMQ can do.
//!
//! `SYNCLINE_TEST_RABBITMQ_URL` and `SYNCLINE_TEST_RABBITMQ_API` say where it is; without them these tests fail. Each
//! test has a virtual host of its own, deleted at its end.

use std::collections::VecDeque;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::spread::weight;
use super::*;
use crate::class::Class;
use crate::envelope::{Envelope, Header};
use crate::queue::contract::{
    Bench, QUEUE, contract_tests, envelope, envelopes, letter, next, publish_all, queue, replica, status_until, within,
};
use crate::queue::{PublishError, Publisher, Reason, Subscriber};

/// A virtual host at the test server.
struct Vhost {
    name: String,
}

fn environment(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "tests find the real services through the environment")]
    let value = std::env::var(name);
    value.unwrap_or_else(|_| panic!("{name} is not set; tests/run provides the services"))
}

/// Calls the management interface; `body` is JSON.
fn api(method: &str, path: &str, body: &str) -> String {
    let url = format!("{}/api/{path}", environment("SYNCLINE_TEST_RABBITMQ_API"));
    let arguments = ["--silent", "--show-error", "--fail", "--request", method, "--data", body, &url];
    let output = Command::new("curl").args(arguments).output().expect("curl is installed");
    assert!(output.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("an answer in UTF-8")
}

impl Vhost {
    fn create() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("test-{}-{nanos}-{count}", std::process::id());
        let url = environment("SYNCLINE_TEST_RABBITMQ_URL");
        let user = url.split(['/', ':', '@']).nth(3).expect("a user in the url");
        api("PUT", &format!("vhosts/{name}"), "{}");
        let all = r#"{"configure":".*","write":".*","read":".*"}"#;
        api("PUT", &format!("permissions/{name}/{user}"), all);
        Self { name }
    }

    fn config(&self) -> RabbitmqConfig {
        let url = environment("SYNCLINE_TEST_RABBITMQ_URL");
        let (server, _) = url.rsplit_once('/').expect("a virtual host in the url");
        RabbitmqConfig::new(format!("{server}/{}", self.name))
    }

    fn broker(&self) -> RabbitMq {
        RabbitMq::new(self.config())
    }

    fn delete_queue(&self, queue: &str) {
        api("DELETE", &format!("queues/{}/{queue}", self.name), "");
    }

    /// The names of this virtual host's connections, as paths of the management interface.
    async fn connections(&self, count: usize) -> Vec<String> {
        let listed = async {
            loop {
                let list = api("GET", &format!("vhosts/{}/connections", self.name), "");
                let list: serde_json::Value = serde_json::from_str(&list).expect("a list");
                let names = list.as_array().into_iter().flatten().filter_map(|connection| connection["name"].as_str());
                let paths: Vec<_> = names.map(|name| name.replace(' ', "%20").replace('>', "%3E")).collect();
                // The interface learns of a connection some seconds after it is made.
                if paths.len() == count {
                    return paths;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        within(listed).await
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        api("DELETE", &format!("vhosts/{}", self.name), "");
    }
}

fn bench() -> Bench<RabbitMq> {
    let vhost = Vhost::create();
    Bench::new(vhost.broker(), vhost)
}

contract_tests!(bench);

/// An error with all its causes, as a log shows it.
fn report(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(format!("{error} {error:?}"), |text, cause| format!("{text}: {cause} {cause:?}"))
}

#[tokio::test]
async fn no_message_of_a_deleted_queue_counts_as_confirmed_however_many_are_under_way() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    publish_all(&mut publisher, &envelopes(0, 1)).await;
    vhost.delete_queue("crm.0");

    // Which confirm carries a returned message is chance, so there are several rounds.
    for _ in 0..5 {
        let mut confirms = Vec::new();
        for number in 0..1000_u32 {
            let partition = number % 2;
            let confirm = publisher.publish(QUEUE, &envelope(partition, b"1")).await;
            confirms.push((partition, confirm.expect("the broker takes the message")));
        }
        for (partition, confirm) in confirms {
            match within(confirm).await {
                Ok(()) => assert_eq!(partition, 1, "a message without a queue counts as confirmed"),
                Err(PublishError::Unroutable { queue, routing_key }) => {
                    assert_eq!((queue.as_str(), routing_key.as_str()), (QUEUE, "app.incident.update.0"));
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }
    publish_all(&mut publisher, &envelopes(1, 3)).await;
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let vhost = Vhost::create();
    let secret = "wrong-horse-battery";
    let config = RabbitmqConfig { password: Some(Secret::new(secret.to_owned())), ..vhost.config() };
    assert!(!format!("{config:?}").contains(secret));
    let broker = RabbitMq::new(config);
    let error = broker.publisher().await.err().expect("a wrong password");
    assert!(matches!(error, QueueError::Refused { .. }), "{error:?}");
    assert!(!report(&error).contains(secret), "the error shows the password");
    assert!(report(&error).contains(&vhost.name), "the error does not say where");
}

#[tokio::test]
async fn a_missing_permission_or_virtual_host_is_refused() {
    let vhost = Vhost::create();
    let config = vhost.config();
    let missing = RabbitmqConfig::new(format!("{}-missing", config.url));
    let broker = RabbitMq::new(missing);
    let error = broker.declare(&queue()).await.expect_err("no such virtual host");
    assert!(matches!(error, QueueError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_is_away_is_transient_and_a_missing_password_file_systemic() {
    let away = RabbitmqConfig::new("amqp://syncline:horse@127.0.0.1:9/vhost".to_owned());
    let missing = RabbitmqConfig { password_file: Some(PathBuf::from("missing/password")), ..away.clone() };
    for (config, class) in [(away, Class::Transient), (missing, Class::Systemic)] {
        let broker = RabbitMq::new(config);
        let error = broker.declare(&queue()).await.expect_err("no server");
        assert_eq!(error.class(), class, "{error:?}");
        assert!(!report(&error).contains("horse"), "the error shows the password");
    }
}

#[tokio::test]
async fn a_queue_declared_with_other_arguments_is_named() {
    let vhost = Vhost::create();
    api("PUT", &format!("queues/{}/crm.1", vhost.name), r#"{"durable":true,"arguments":{"x-queue-type":"classic"}}"#);
    let error = vhost.broker().declare(&queue()).await.expect_err("a classic queue in the way");
    let QueueError::Topology { problem, .. } = &error else { panic!("{error:?}") };
    assert!(problem.contains("crm.1") && problem.contains("x-"), "{problem}");
}

#[tokio::test]
async fn the_status_names_owner_and_unsettled_messages_with_the_management_interface_and_says_so_without() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    publish_all(&mut publisher, &envelopes(0, 5)).await;
    let (left, right) = ("left", taker_of(1));
    let options = SubscribeOptions { prefetch: 2, ..replica(left) };
    let mut owner = broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
    let (first, _held) = (next(&mut owner).await, next(&mut owner).await);
    let _idle = broker.subscriber(QUEUE, 1, &options).await.expect("a subscriber");
    let _standby = broker.subscriber(QUEUE, 0, &replica(&right)).await.expect("a subscriber");
    let status = broker.status(&queue()).await.expect("a status");
    let [busy, idle] = &status.partitions[..] else { panic!("two partitions") };
    assert_eq!((busy.owner.as_deref(), busy.unacked, busy.standby), (Some(left), Some(2), None));
    assert!(busy.oldest_seconds.is_some_and(|seconds| seconds < 60), "{busy:?}");
    assert_eq!((idle.owner.as_deref(), idle.unacked, idle.oldest_seconds), (None, None, None));
    assert!(status.untold.is_some_and(|note| note.contains("set management_url")));

    let url = environment("SYNCLINE_TEST_RABBITMQ_API");
    let (_, address) = url.rsplit_once('@').expect("a user in the url");
    let informed = |url: String| RabbitMq::new(RabbitmqConfig { management_url: Some(url), ..vhost.config() });
    // The interface learns of messages some seconds after the queue.
    let informed_broker = informed(format!("http://{address}"));
    let status = status_until(&informed_broker, |status| {
        status.partitions[0].unacked == Some(2) && status.partitions[0].standby == Some(1)
    })
    .await;
    assert_eq!((status.partitions[0].owner.as_deref(), status.partitions[0].ready), (Some(left), 3));
    assert_eq!((status.partitions[1].owner.as_deref(), status.partitions[1].standby), (Some(left), Some(0)));

    // Who lost a partition to a higher priority stands by.
    let _taker = broker.subscriber(QUEUE, 1, &replica(&right)).await.expect("a subscriber");
    let moved = status_until(&informed_broker, |status| status.partitions[1].standby == Some(1)).await;
    assert_eq!(moved.partitions[1].owner.as_deref(), Some(right.as_str()));
    assert_eq!(status.untold, None);

    let away = informed("http://127.0.0.1:9".to_owned()).status(&queue()).await.expect("what AMQP tells");
    first.ack().await.expect("settled");
    let unacked = broker.status(&queue()).await.expect("a status").partitions.swap_remove(0).unacked;
    assert_eq!(unacked, Some(1));
    assert_eq!((away.partitions[0].ready, away.partitions[0].owner.as_deref()), (3, Some(left)));
    assert!(away.untold.is_some_and(|note| note.contains("127.0.0.1:9")));
}

/// A replica that, when it comes second, takes this one of the two partitions.
fn taker_of(partition: u32) -> String {
    let leans = |name: &String| weight(name, partition) > weight(name, 1 - partition);
    (0..).map(|number| format!("consumer-{number}")).find(leans).expect("half of them do")
}

#[tokio::test]
async fn a_replica_of_higher_priority_takes_over_in_order_and_without_overlap() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let options = SubscribeOptions { prefetch: 5, ..replica("first") };
    let mut lower = broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
    let _other = broker.subscriber(QUEUE, 1, &options).await.expect("a subscriber");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let envelopes = envelopes(0, 20);
    publish_all(&mut publisher, &envelopes).await;
    let mut held = VecDeque::new();
    for _ in 0..5 {
        held.push_back(next(&mut lower).await);
    }

    let mut higher = broker.subscriber(QUEUE, 0, &replica(&taker_of(0))).await.expect("a subscriber");
    while let Some(delivery) = held.pop_front() {
        tokio::select! {
            biased;
            early = higher.receive() => panic!("handed out while {} are unsettled: {early:?}", held.len() + 1),
            acked = delivery.ack() => acked.expect("an ack"),
        }
    }
    for envelope in &envelopes[5..] {
        let delivery = next(&mut higher).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        delivery.ack().await.expect("an ack");
    }
}

#[tokio::test]
async fn a_replica_that_is_silent_keeps_its_partitions_until_it_is_gone() {
    let vhost = Vhost::create();
    let (broker, other) = (vhost.broker(), vhost.broker());
    for broker in [&broker, &other] {
        broker.declare(&queue()).await.expect("a shared queue");
    }
    // Never asked for a message, so it never speaks by itself.
    let silent =
        [other.subscriber(QUEUE, 0, &replica("silent")).await, other.subscriber(QUEUE, 1, &replica("silent")).await];
    let first = taker_of(1);
    // Behind the first one in partition 0.
    let is_behind = |name: &String| weight(name, 0) < weight(&first, 0);
    let second = (0..).map(|number| format!("second-{number}")).find(is_behind).expect("many are");
    let mut active = broker.subscriber(QUEUE, 1, &replica(&first)).await.expect("a subscriber");
    let mut standby = broker.subscriber(QUEUE, 0, &replica(&first)).await.expect("a subscriber");
    let mut idle = broker.subscriber(QUEUE, 0, &replica(&second)).await.expect("a subscriber");
    let mut poor = broker.subscriber(QUEUE, 1, &replica(&second)).await.expect("a subscriber");
    let mut any = async || {
        tokio::select! {
            ended = active.receive() => ("first, 1", ended.map(|_| ())),
            ended = standby.receive() => ("first, 0", ended.map(|_| ())),
            ended = idle.receive() => ("second, 0", ended.map(|_| ())),
            ended = poor.receive() => ("second, 1", ended.map(|_| ())),
        }
    };
    // Longer than it takes to be taken for gone. The first one would have two partitions then, and the second none.
    let ended = tokio::time::timeout(Duration::from_secs(4), any()).await;
    assert!(ended.is_err(), "a partition is taken from one that is there: {ended:?}");
    drop((silent, other));
    let (who, ended) = within(any()).await;
    assert!(who.starts_with("second") && ended.is_ok(), "{who}: {ended:?}");
}

#[tokio::test]
async fn nothing_is_lost_or_reordered_when_the_server_closes_the_connections() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let connections = vhost.connections(3).await;
    let closing = std::thread::spawn(move || {
        for connection in connections {
            api("DELETE", &format!("connections/{connection}"), "");
        }
    });
    let mut sent: Vec<Envelope> = Vec::new();
    let mut failures = 0;
    let mut windows_left = 2;
    while windows_left > 0 {
        let from = sent.len();
        let window: Vec<_> = (from..from + 100).map(|number| envelope(0, number.to_string().as_bytes())).collect();
        // As a producer does: cut at the first failure and send again from there.
        let confirmed = publish_window(&mut publisher, &window).await;
        sent.extend_from_slice(&window[..confirmed]);
        failures += usize::from(confirmed < window.len());
        windows_left -= usize::from(closing.is_finished() && confirmed == window.len());
    }
    closing.join().expect("closed connections");
    assert!(failures < 10, "{failures} failures after one closed connection");

    let broken = async {
        loop {
            if let Err(error) = subscriber.receive().await {
                return error;
            }
        }
    };
    let broken = within(broken).await;
    assert!(matches!(broken, QueueError::Unreachable { .. }), "{broken:?}");
    let mut again = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    let mut expected = 0;
    while expected < sent.len() {
        let delivery = next(&mut again).await;
        let number = String::from_utf8_lossy(&delivery.message().body).parse().expect("a number");
        // What was under way when the connection broke may come twice, and nothing before its predecessor.
        assert!(expected >= number, "message {number} comes before {expected}");
        expected = expected.max(number + 1);
        delivery.ack().await.expect("an ack");
    }
}

/// Publishes all, then awaits the confirms; returns how many were confirmed before the first that was not.
async fn publish_window(publisher: &mut impl Publisher, window: &[Envelope]) -> usize {
    let mut confirms = Vec::new();
    for envelope in window {
        match within(publisher.publish(QUEUE, envelope)).await {
            Ok(confirm) => confirms.push(confirm),
            Err(error) => {
                assert_eq!(error.class(), Class::Transient, "{error:?}");
                break;
            }
        }
    }
    let mut confirmed = 0;
    for confirm in confirms {
        if let Err(error) = within(confirm).await {
            assert_eq!(error.class(), Class::Transient, "{error:?}");
            break;
        }
        confirmed += 1;
    }
    confirmed
}

#[tokio::test]
async fn a_subscriber_of_a_deleted_queue_gets_an_error() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    vhost.delete_queue("crm.0");
    let error = within(subscriber.receive()).await.expect_err("the queue is gone");
    assert!(matches!(error, QueueError::Topology { .. }), "{error:?}");
}

#[tokio::test]
async fn a_full_queue_refuses_and_takes_again_once_there_is_room() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let limit = format!("policies/{}/limit", vhost.name);
    let policy = r#"{"pattern":"^crm","definition":{"max-length":3},"apply-to":"queues"}"#;
    api("PUT", &limit, policy);
    let fill = async {
        // The policy takes effect some time after the call.
        loop {
            let confirm = publisher.publish(QUEUE, &envelope(0, b"1")).await.expect("the broker takes the message");
            if let Err(error) = confirm.await {
                return error;
            }
        }
    };
    let error = within(fill).await;
    assert!(matches!(error, PublishError::Nacked), "{error:?}");

    api("DELETE", &limit, "");
    let retry = async {
        while publisher.publish(QUEUE, &envelope(0, b"2")).await.expect("a connection").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(retry).await;
}

#[tokio::test]
async fn a_message_is_kept_however_often_it_was_handed_out() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let envelopes = envelopes(0, 1);
    publish_all(&mut publisher, &envelopes).await;
    // The broker's own limit is 20.
    for attempt in 0..25 {
        let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelopes[0].to_message());
        assert_eq!(delivery.attempts(), attempt);
    }
}

#[tokio::test]
async fn a_dead_letter_that_cannot_be_replayed_stays() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let letter = letter(&envelope(0, b"1"));
    within(publisher.park(&letter).await.expect("a dead letter")).await.expect("a confirm");
    vhost.delete_queue("crm.0");
    let ids = [letter.id().to_owned()];
    let replayed = within(broker.settle_dead_letters(QUEUE, &ids, Settlement::Replay)).await;
    assert!(matches!(&replayed, Err(QueueError::Replay(PublishError::Unroutable { .. }))), "{replayed:?}");
    let kept = async { while broker.dead_letters(QUEUE, 10).await.expect("a list") != [letter.clone()] {} };
    within(kept).await;
}

#[tokio::test]
async fn a_message_above_the_limit_is_not_sent() {
    let vhost = Vhost::create();
    let config = RabbitmqConfig { message_bytes_max: 10, ..vhost.config() };
    let broker = RabbitMq::new(config);
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let error = publisher.publish(QUEUE, &envelope(0, b"12345678901")).await.expect_err("too large");
    assert!(matches!(error, PublishError::TooLarge { bytes: 11, bytes_max: 10 }), "{error:?}");
    publish_all(&mut publisher, &[envelope(0, b"1234567890")]).await;
}

#[tokio::test]
async fn what_was_received_once_can_be_set_aside_whatever_its_size() {
    let vhost = Vhost::create();
    let broker = RabbitMq::new(RabbitmqConfig { message_bytes_max: 10, ..vhost.config() });
    broker.declare(&queue()).await.expect("a shared queue");
    let mut message = envelope(0, b"more than ten bytes").to_message();
    message.headers.insert("stranger".to_owned(), Header::Text("s".repeat(100_000)));
    let letter = DeadLetter::new(message, QUEUE, "incident.update.0".to_owned(), Reason::Seal, &"e".repeat(100_000), 1);
    let mut publisher = broker.publisher().await.expect("a publisher");
    within(publisher.park(&letter).await.expect("taken")).await.expect("confirmed");
    let listed = within(broker.dead_letters(QUEUE, 10)).await.expect("a list");
    assert_eq!((listed.len(), &listed[0].message.body), (1, &letter.message.body));
}

#[test]
fn every_problem_of_a_configuration_is_found_at_once_and_no_password_shown() {
    let config = RabbitmqConfig {
        confirm_timeout_ms: 0,
        heartbeat_s: 0,
        ..RabbitmqConfig::new("http://syncline:horse@rabbit.example".to_owned())
    };
    let problems = config.validate();
    let fields: Vec<_> = problems.iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["url", "confirm_timeout_ms", "heartbeat_s"]);
    assert!(!format!("{problems:?} {config:?}").contains("horse"));
    let fields = |config: RabbitmqConfig| config.validate().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
    assert_eq!(fields(RabbitmqConfig::new("amqps://[::1]/vhost".to_owned())), ["url"]);
    let good = RabbitmqConfig::new("amqps://producer@rabbit.example/sync".to_owned());
    assert_eq!(fields(good.clone()), Vec::<&str>::new());
    let absent = RabbitmqConfig { password_file: Some(PathBuf::from("missing/password")), ..good };
    assert_eq!(fields(absent.clone()), ["password_file"]);
    let both = RabbitmqConfig { password: Some(Secret::new("horse".to_owned())), ..absent };
    assert_eq!(fields(both), ["password_file"]);
}

#[test]
fn a_configuration_needs_only_the_url_and_refuses_unknown_keys() {
    let config: RabbitmqConfig =
        toml::from_str("url = \"amqp://producer@rabbit.example/sync\"").expect("a url is enough");
    assert_eq!((config.confirm_timeout_ms, config.heartbeat_s, config.message_bytes_max), (30_000, 10, 16_711_680));
    assert!(toml::from_str::<RabbitmqConfig>("url = \"amqp://a\"\nvhost = \"b\"").is_err());
}

#[tokio::test]
async fn the_order_outlives_consumers_that_go_as_long_as_none_takes_less_than_the_one_before() {
    let vhost = Vhost::create();
    let broker = vhost.broker();
    broker.declare(&queue()).await.expect("a shared queue");
    let mut publisher = broker.publisher().await.expect("a publisher");
    let envelopes = envelopes(0, 20);
    publish_all(&mut publisher, &envelopes).await;
    for prefetch in [5, 5, 8, 8] {
        let options = SubscribeOptions { prefetch, ..replica("a") };
        let mut subscriber = broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
        assert_eq!(*next(&mut subscriber).await.message(), envelopes[0].to_message());
    }
    let mut subscriber = broker.subscriber(QUEUE, 0, &replica("a")).await.expect("a subscriber");
    for envelope in &envelopes {
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
    }
}
