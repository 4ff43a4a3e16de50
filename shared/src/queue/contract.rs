//! What every broker must do, as tests that run on each implementation.
//!
//! A broker's own tests say `contract_tests!(bench)`, where `fn bench() -> Bench<..>` gives an empty broker.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use super::{
    Broker, DeadLetter, Delivery, Publisher, QueueError, QueueStatus, Reason, Settlement, SharedQueue,
    SubscribeOptions, Subscriber,
};
use crate::class::Class;
use crate::envelope::{Envelope, Message};
use crate::record::Action;
use crate::seal::{Seal, seal};

/// Longer than any broker needs on a busy machine; what takes longer hangs.
const DEADLINE: Duration = Duration::from_secs(20);
/// The shared queue of these tests.
pub(super) const QUEUE: &str = "crm";

/// A broker without queues, and what has to be dropped after it (a folder, a virtual host).
pub(super) struct Bench<B> {
    pub(super) broker: B,
    _guard: Box<dyn Any>,
}

impl<B> Bench<B> {
    pub(super) fn new(broker: B, guard: impl Any) -> Self {
        Self { broker, _guard: Box::new(guard) }
    }
}

/// Runs every test of the contract on the broker `$bench` makes.
macro_rules! contract_tests {
    ($bench:ident) => {
        $crate::queue::contract::contract_tests! {
            $bench:
            an_envelope_arrives_as_it_was_sent
            a_partition_keeps_the_order_of_pipelined_messages
            partitions_are_apart
            no_more_is_handed_out_than_the_prefetch_allows
            a_cancelled_receive_loses_nothing
            unsettled_deliveries_come_again_in_order_after_the_subscriber_is_dropped
            an_acked_message_is_gone
            an_ack_after_the_subscriber_is_dropped_fails
            a_second_consumer_stands_by_and_takes_over
            a_dead_letter_is_listed_as_it_was_parked
            a_discarded_dead_letter_is_gone_and_the_others_stay
            a_replaced_dead_letter_is_another_one_of_the_same_id
            a_replayed_dead_letter_arrives_at_its_partition_as_it_was
            declaring_again_changes_nothing
            another_number_of_partitions_is_refused
            a_missing_queue_is_systemic_and_the_publisher_goes_on_once_it_is_there
            status_counts_messages_consumers_and_dead_letters
        }
    };
    ($bench:ident: $($claim:ident)+) => {$(
        #[tokio::test]
        async fn $claim() {
            $crate::queue::contract::$claim($bench()).await;
        }
    )+};
}
pub(super) use contract_tests;

/// The shared queue of these tests, with two partitions.
pub(super) fn queue() -> SharedQueue {
    SharedQueue { name: QUEUE.to_owned(), partitions: 2 }
}

/// How a replica of this name attaches.
pub(super) fn replica(name: &str) -> SubscribeOptions {
    SubscribeOptions { replica: name.to_owned(), prefetch: 500 }
}

/// A sealed batch. The table has a dot, as a table with its schema does.
pub(super) fn envelope(partition: u32, content: &[u8]) -> Envelope {
    let route = crate::envelope::Route {
        source: "servicedesk".to_owned(),
        share: "incidents".to_owned(),
        table: "app.incident".to_owned(),
        action: Action::Update,
        partition,
        records: 1,
        origin: vec!["servicedesk".to_owned(), "crm".to_owned()],
    };
    seal(&Seal::Plain, route, content).expect("a plain batch is sealed")
}

/// Numbered batches of one partition.
pub(super) fn envelopes(partition: u32, count: usize) -> Vec<Envelope> {
    (0..count).map(|number| envelope(partition, number.to_string().as_bytes())).collect()
}

/// Publishes all, then awaits the confirms: pipelined, as a producer does.
pub(super) async fn publish_all(publisher: &mut impl Publisher, envelopes: &[Envelope]) {
    let mut confirms = Vec::new();
    for envelope in envelopes {
        confirms.push(publisher.publish(QUEUE, envelope).await.expect("the broker takes the message"));
    }
    for confirm in confirms {
        within(confirm).await.expect("the broker confirms the message");
    }
}

/// Waits for a future with the deadline of these tests.
pub(super) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it takes too long")
}

/// The next delivery.
pub(super) async fn next(subscriber: &mut impl Subscriber) -> Delivery {
    within(subscriber.receive()).await.expect("a message comes").expect("the subscription is open")
}

/// Receives until the queue gave these messages, in this order, and acks each.
async fn expect_in_order(subscriber: &mut impl Subscriber, envelopes: &[Envelope]) {
    for envelope in envelopes {
        let delivery = next(subscriber).await;
        assert_eq!(*delivery.message(), envelope.to_message());
        delivery.ack().await.expect("an ack");
    }
}

/// Waits until the broker's counts are as wanted; they may lag behind.
pub(super) async fn status_until<B: Broker>(broker: &B, wanted: impl Fn(&QueueStatus) -> bool) -> QueueStatus {
    let mut last = None;
    let poll = async {
        loop {
            let status = broker.status(&queue()).await.expect("a status");
            if wanted(&status) {
                return status;
            }
            last = Some(status);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, poll).await.ok();
    found.unwrap_or_else(|| panic!("the status stays {last:?}"))
}

async fn declared<B: Broker>(broker: &B) -> B::Publisher {
    broker.declare(&queue()).await.expect("a shared queue");
    broker.publisher().await.expect("a publisher")
}

async fn attached<B: Broker>(broker: &B, name: &str, partition: u32) -> B::Subscriber {
    broker.subscriber(QUEUE, partition, &replica(name)).await.expect("a subscriber")
}

pub(super) async fn an_envelope_arrives_as_it_was_sent<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let every_byte: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let envelope = envelope(1, &every_byte);
    publish_all(&mut publisher, std::slice::from_ref(&envelope)).await;

    let mut subscriber = attached(&bench.broker, "a", 1).await;
    let delivery = next(&mut subscriber).await;
    assert_eq!(*delivery.message(), envelope.to_message());
    assert_eq!(delivery.attempts(), 0);
    assert_eq!(Envelope::from_message(delivery.message()), Ok(envelope));
}

pub(super) async fn a_partition_keeps_the_order_of_pipelined_messages<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let mut subscriber = attached(&bench.broker, "a", 0).await;
    let envelopes = envelopes(0, 200);
    publish_all(&mut publisher, &envelopes).await;
    expect_in_order(&mut subscriber, &envelopes).await;
}

pub(super) async fn partitions_are_apart<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let (zero, one) = (envelopes(0, 3), envelopes(1, 3));
    for (zero, one) in zero.iter().zip(&one) {
        publish_all(&mut publisher, &[zero.clone(), one.clone()]).await;
    }
    expect_in_order(&mut attached(&bench.broker, "a", 1).await, &one).await;
    expect_in_order(&mut attached(&bench.broker, "a", 0).await, &zero).await;
}

pub(super) async fn no_more_is_handed_out_than_the_prefetch_allows<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    publish_all(&mut publisher, &envelopes(0, 5)).await;
    let options = SubscribeOptions { prefetch: 2, ..replica("a") };
    let mut subscriber = bench.broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
    let first = next(&mut subscriber).await;
    let second = next(&mut subscriber).await;
    tokio::select! {
        biased;
        third = subscriber.receive() => panic!("a third message came: {third:?}"),
        _ = status_until(&bench.broker, |status| status.partitions[0].ready == 3) => {}
    }
    first.ack().await.expect("an ack");
    let _third = next(&mut subscriber).await;
    drop(second);
}

pub(super) async fn a_cancelled_receive_loses_nothing<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let mut subscriber = attached(&bench.broker, "a", 0).await;
    let envelopes = envelopes(0, 50);
    publish_all(&mut publisher, &envelopes).await;
    let receive_impatiently = async {
        let mut received = Vec::new();
        while received.len() < envelopes.len() {
            let receive = tokio::time::timeout(Duration::from_micros(50), subscriber.receive());
            if let Ok(delivery) = receive.await {
                received.push(delivery.expect("a message comes").expect("the subscription is open"));
            }
        }
        received
    };
    let received = within(receive_impatiently).await;
    for (delivery, envelope) in received.iter().zip(&envelopes) {
        assert_eq!(*delivery.message(), envelope.to_message());
    }
}

pub(super) async fn unsettled_deliveries_come_again_in_order_after_the_subscriber_is_dropped<B: Broker>(
    bench: Bench<B>,
) {
    let mut publisher = declared(&bench.broker).await;
    let envelopes = envelopes(0, 6);
    publish_all(&mut publisher, &envelopes).await;
    let mut subscriber = attached(&bench.broker, "a", 0).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(next(&mut subscriber).await);
    }
    held.remove(1).ack().await.expect("an ack");
    drop(subscriber);

    let mut again = attached(&bench.broker, "b", 0).await;
    for (position, number) in [0, 2, 3, 4, 5].into_iter().enumerate() {
        let delivery = next(&mut again).await;
        assert_eq!(*delivery.message(), envelopes[number].to_message());
        assert!(position > 2 || delivery.attempts() > 0, "message {number} says it is handed out for the first time");
        delivery.ack().await.expect("an ack");
    }
}

pub(super) async fn an_acked_message_is_gone<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let envelopes = envelopes(0, 2);
    publish_all(&mut publisher, &envelopes[..1]).await;
    let mut subscriber = attached(&bench.broker, "a", 0).await;
    next(&mut subscriber).await.ack().await.expect("an ack");
    status_until(&bench.broker, |status| status.partitions[0].ready == 0).await;
    drop(subscriber);

    publish_all(&mut publisher, &envelopes[1..]).await;
    expect_in_order(&mut attached(&bench.broker, "a", 0).await, &envelopes[1..]).await;
}

pub(super) async fn an_ack_after_the_subscriber_is_dropped_fails<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    publish_all(&mut publisher, &envelopes(0, 1)).await;
    let mut subscriber = attached(&bench.broker, "a", 0).await;
    let delivery = next(&mut subscriber).await;
    drop(subscriber);
    let mut again = attached(&bench.broker, "b", 0).await;
    let redelivered = next(&mut again).await;
    assert_eq!(delivery.ack().await.expect_err("the message was handed out again").class(), Class::Transient);
    redelivered.ack().await.expect("an ack");
}

pub(super) async fn a_second_consumer_stands_by_and_takes_over<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let envelopes = envelopes(0, 40);
    let mut first = attached(&bench.broker, "a", 0).await;
    publish_all(&mut publisher, &envelopes[..1]).await;
    // The first is active once it has a message; whatever its priority, the second one must wait for it to settle.
    let mut held = vec![next(&mut first).await];
    let mut second = attached(&bench.broker, "a", 0).await;
    publish_all(&mut publisher, &envelopes[1..20]).await;
    while held.len() < 20 {
        tokio::select! {
            biased;
            stray = second.receive() => panic!("the stand-by was given {stray:?}"),
            delivery = next(&mut first) => held.push(delivery),
        }
    }
    for delivery in held {
        delivery.ack().await.expect("an ack");
    }
    drop(first);
    publish_all(&mut publisher, &envelopes[20..]).await;
    expect_in_order(&mut second, &envelopes[20..]).await;
}

/// A dead letter of this message.
pub(super) fn letter(envelope: &Envelope) -> DeadLetter {
    DeadLetter {
        message: envelope.to_message(),
        queue: QUEUE.to_owned(),
        routing_key: envelope.routing_key(),
        reason: Reason::Target,
        error: "value too long for column short_description".to_owned(),
        attempts: 3,
        first_at: "2026-11-21T09:00:00Z".parse().expect("a timestamp"),
        at: "2026-11-21T10:00:00Z".parse().expect("a timestamp"),
        behind: None,
        key_only: false,
    }
}

/// Parks the messages as a consumer does: received, set aside, acked.
async fn parked<B: Broker>(broker: &B, count: usize) -> Vec<DeadLetter> {
    let mut publisher = declared(broker).await;
    let envelopes = envelopes(1, count);
    publish_all(&mut publisher, &envelopes).await;
    let mut subscriber = attached(broker, "a", 1).await;
    let letters: Vec<_> = envelopes.iter().map(letter).collect();
    for letter in &letters {
        within(next(&mut subscriber).await.dead_letter(&mut publisher, letter)).await.expect("a dead letter");
    }
    letters
}

async fn listed<B: Broker>(broker: &B) -> Vec<DeadLetter> {
    within(broker.dead_letters(QUEUE, 100)).await.expect("a list of dead letters")
}

pub(super) async fn a_dead_letter_is_listed_as_it_was_parked<B: Broker>(bench: Bench<B>) {
    let letters = parked(&bench.broker, 3).await;
    assert_eq!(listed(&bench.broker).await, letters);
    assert_eq!(bench.broker.dead_letters(QUEUE, 2).await.expect("a list"), letters[..2]);
    // Listing takes nothing away and keeps the order.
    assert_eq!(listed(&bench.broker).await, letters);
    let status = status_until(&bench.broker, |status| status.dead_letters == 3).await;
    assert_eq!(status.partitions[1].ready, 0);
}

pub(super) async fn a_discarded_dead_letter_is_gone_and_the_others_stay<B: Broker>(bench: Bench<B>) {
    let letters = parked(&bench.broker, 3).await;
    let ids = [letters[1].id().to_owned(), "unknown".to_owned()];
    let settle = bench.broker.settle_dead_letters(QUEUE, &ids, Settlement::Discard);
    assert_eq!(within(settle).await.expect("a settlement"), 1);
    assert_eq!(listed(&bench.broker).await, [letters[0].clone(), letters[2].clone()]);
    status_until(&bench.broker, |status| status.dead_letters == 2 && status.partitions[1].ready == 0).await;
}

pub(super) async fn a_replayed_dead_letter_arrives_at_its_partition_as_it_was<B: Broker>(bench: Bench<B>) {
    let letters = parked(&bench.broker, 3).await;
    let ids = [letters[2].id().to_owned(), letters[0].id().to_owned()];
    let settle = bench.broker.settle_dead_letters(QUEUE, &ids, Settlement::Replay);
    assert_eq!(within(settle).await.expect("a settlement"), 2);
    assert_eq!(listed(&bench.broker).await, letters[1..2]);
    let mut subscriber = attached(&bench.broker, "a", 1).await;
    for letter in [&letters[0], &letters[2]] {
        let delivery = next(&mut subscriber).await;
        assert_eq!(*delivery.message(), letter.to_replay());
        delivery.ack().await.expect("an ack");
    }
}

pub(super) async fn a_replaced_dead_letter_is_another_one_of_the_same_id<B: Broker>(bench: Bench<B>) {
    let letters = parked(&bench.broker, 3).await;
    let mut other = letters[1].clone();
    other.message.body = b"sealed again".to_vec();
    let ids = [other.id().to_owned(), letters[2].id().to_owned()];
    let settle = bench.broker.settle_dead_letters(QUEUE, &ids, Settlement::Replace(vec![other.clone()]));
    assert_eq!(within(settle).await.expect("a settlement"), 1);
    let mut left = listed(&bench.broker).await;
    // Brokers that cannot write in place put it behind the others.
    left.sort_by_key(|letter| letters.iter().position(|old| old.id() == letter.id()));
    assert_eq!(left, [letters[0].clone(), other, letters[2].clone()]);
}

pub(super) async fn declaring_again_changes_nothing<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    let envelopes = envelopes(0, 2);
    publish_all(&mut publisher, &envelopes).await;
    bench.broker.declare(&queue()).await.expect("the same shared queue");
    expect_in_order(&mut attached(&bench.broker, "a", 0).await, &envelopes).await;
}

pub(super) async fn another_number_of_partitions_is_refused<B: Broker>(bench: Bench<B>) {
    bench.broker.declare(&queue()).await.expect("a shared queue");
    for partitions in [1, 3] {
        let refused = bench.broker.declare(&SharedQueue { partitions, ..queue() }).await;
        assert!(matches!(refused, Err(QueueError::Topology { .. })), "{partitions} partitions: {refused:?}");
    }
    bench.broker.declare(&queue()).await.expect("the same shared queue");
}

pub(super) async fn a_missing_queue_is_systemic_and_the_publisher_goes_on_once_it_is_there<B: Broker>(bench: Bench<B>) {
    let systemic = |error: QueueError| assert_eq!(error.class(), Class::Systemic, "{error}");
    let missing = |error: QueueError| {
        assert!(matches!(&error, QueueError::Missing { queue } if queue == QUEUE), "{error:?}");
        systemic(error);
    };
    missing(bench.broker.status(&queue()).await.expect_err("no queue, no status"));
    missing(bench.broker.dead_letters(QUEUE, 1).await.expect_err("no queue, no dead letters"));
    for settlement in [Settlement::Replay, Settlement::Discard] {
        let ids = ["none".to_owned()];
        let settled = bench.broker.settle_dead_letters(QUEUE, &ids, settlement).await;
        missing(settled.expect_err("no queue, no dead letters"));
    }
    systemic(bench.broker.subscriber(QUEUE, 0, &replica("a")).await.err().expect("no queue, no subscriber"));

    let mut publisher = bench.broker.publisher().await.expect("a publisher");
    let published = async {
        let envelope = envelope(0, b"lost");
        publisher.publish(QUEUE, &envelope).await?.await
    };
    let error = within(published).await.expect_err("no queue takes it");
    assert_eq!(error.class(), Class::Systemic, "{error}");

    bench.broker.declare(&queue()).await.expect("a shared queue");
    publish_all(&mut publisher, &envelopes(0, 1)).await;
}

pub(super) async fn status_counts_messages_consumers_and_dead_letters<B: Broker>(bench: Bench<B>) {
    let mut publisher = declared(&bench.broker).await;
    publish_all(&mut publisher, &envelopes(0, 3)).await;
    let unidentified = DeadLetter { message: Message::default(), ..letter(&envelope(0, b"")) };
    within(publisher.park(&unidentified).await.expect("a dead letter")).await.expect("a confirm");
    let status = status_until(&bench.broker, |status| status.partitions[0].ready == 3).await;
    assert_eq!(status.dead_letters, 1);
    assert_eq!(status.partitions.iter().map(|partition| partition.partition).collect::<Vec<_>>(), [0, 1]);
    assert_eq!((status.partitions[0].consumers, status.partitions[1].ready), (0, 0));
    assert!(status.partitions[0].oldest_seconds.is_none_or(|age| age < 60), "{status:?}");
    assert_eq!(status.partitions[1].oldest_seconds, None);

    let options = SubscribeOptions { prefetch: 1, ..replica("a") };
    let mut active = bench.broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
    let _standby = bench.broker.subscriber(QUEUE, 0, &options).await.expect("a subscriber");
    let _held = next(&mut active).await;
    // Some brokers count only the active consumer.
    let wanted = |status: &QueueStatus| status.partitions[0].ready == 2 && status.partitions[0].consumers > 0;
    let status = status_until(&bench.broker, wanted).await;
    let told = &status.partitions[0];
    assert!(matches!(told.unacked, Some(1) | None), "{status:?}");
    assert!(matches!(told.owner.as_deref(), Some("a") | None), "{status:?}");
    assert!(matches!(told.standby, Some(1) | None), "{status:?}");
}
