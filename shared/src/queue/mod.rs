//! Shared queues: how sealed batches get from a producer to a consumer.
//!
//! A shared queue is split into partitions; each partition is in order and has one active consumer at a time. What is
//! promised here holds for every implementation and is checked by one contract suite: RabbitMQ for
//! several machines, the embedded queue (one SQLite file) for one machine. Plaintext never comes here: publishers take
//! an [`Envelope`], which only sealing makes.

#[cfg(test)]
mod contract;
pub mod dead_letter;
pub mod embedded;
mod error;
pub mod memory;
pub mod rabbitmq;

pub use dead_letter::{DeadLetter, Reason};
pub use error::{PublishError, QueueError};

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use crate::envelope::{Envelope, Message};

/// A shared queue by name, with its number of partitions, which is fixed for the life of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedQueue {
    /// Its name in the configuration and at the broker.
    pub name: String,
    /// How many partitions it has; at least 1.
    pub partitions: u32,
}

/// A way to reach shared queues. Cheap to clone; connections are made by what it hands out.
pub trait Broker: Clone + Send + Sync + 'static {
    /// Publishes envelopes and parks dead letters.
    type Publisher: Publisher;
    /// Receives one partition.
    type Subscriber: Subscriber;

    /// Creates the shared queue with its partitions and its dead-letter queue, or checks that what exists is the same.
    ///
    /// Idempotent. # Errors: [`QueueError::Topology`] when a queue exists with other properties (systemic).
    fn declare(&self, queue: &SharedQueue) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Connects a publisher.
    fn publisher(&self) -> impl Future<Output = Result<Self::Publisher, QueueError>> + Send;

    /// Attaches to one partition as its consumer, or as a stand-by when it has one.
    fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> impl Future<Output = Result<Self::Subscriber, QueueError>> + Send;

    /// Depth, consumers and age of each partition, and of the dead letters. Makes nothing.
    ///
    /// # Errors
    /// [`QueueError::Missing`] before the first [`declare`](Broker::declare), [`QueueError::Topology`] when parts are gone.
    fn status(&self, queue: &SharedQueue) -> impl Future<Output = Result<QueueStatus, QueueError>> + Send;

    /// Reads up to `limit` dead letters of a shared queue without taking them, oldest first.
    ///
    /// # Errors
    /// [`QueueError::Missing`] before the first [`declare`](Broker::declare).
    fn dead_letters(
        &self,
        queue: &str,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<DeadLetter>, QueueError>> + Send;

    /// Takes the dead letters with these ids out of the queue: published again to their partition, dropped, or replaced.
    ///
    /// What is published is confirmed before the dead letter is removed, so a crash repeats it and never loses it. Returns how many
    /// were found and settled.
    ///
    /// # Errors
    /// [`QueueError::Missing`] before the first [`declare`](Broker::declare).
    fn settle_dead_letters(
        &self,
        queue: &str,
        ids: &[String],
        settlement: Settlement,
    ) -> impl Future<Output = Result<usize, QueueError>> + Send;
}

/// What becomes of a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// Back to the partition it came from, as it was.
    Replay,
    /// Gone for good.
    Discard,
    /// Another one of the same id in its place: the same letter sealed under another key. Ids without one are left alone.
    Replace(Vec<DeadLetter>),
}

impl Settlement {
    /// The letter that takes the place of the one with this id.
    fn replacement(&self, id: &str) -> Option<&DeadLetter> {
        match self {
            Self::Replace(letters) => letters.iter().find(|letter| letter.id() == id),
            Self::Replay | Self::Discard => None,
        }
    }
}

/// How a consumer attaches to a partition.
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    /// Names this replica among those over which the partitions are spread.
    pub replica: String,
    /// Upper bound of messages handed out and not yet settled; at least 1.
    ///
    /// Keep it the same for all consumers of a partition, or raise it. RabbitMQ hands out what came back from a consumer
    /// that went before anything else, but appends to it what comes back later: a consumer that takes less of it and
    /// goes leaves the rest in front.
    pub prefetch: u16,
}

/// Sends messages; the broker's confirm is what counts.
pub trait Publisher: Send {
    /// Hands one envelope to the broker and returns its confirm, to be awaited later: many may be under way at once.
    ///
    /// Envelopes are taken by the broker in the order of the calls. A publisher whose connection broke connects again on
    /// a later call; confirms of the broken one fail, and the caller sends from the first failed one again (promise P3).
    /// Until each of them was awaited or dropped, `publish` may fail, so that nothing overtakes what must be sent again.
    ///
    /// # Errors
    /// [`PublishError`]; after one, nothing of this envelope is at the broker unless the error says "unknown".
    fn publish(
        &mut self,
        queue: &str,
        envelope: &Envelope,
    ) -> impl Future<Output = Result<Confirm, PublishError>> + Send;

    /// Waits until the broker stops to take messages (`Err`), takes them again (`Ok`), or its connection is gone
    /// (`Err`). What was handed over meanwhile waits with its confirms; `publish` fails. Cancel-safe.
    ///
    /// A broker that has no such states never changes.
    fn changed(&mut self) -> impl Future<Output = Result<(), PublishError>> + Send {
        std::future::pending()
    }

    /// Hands one dead letter to the shared queue's dead-letter queue.
    fn park(&mut self, letter: &DeadLetter) -> impl Future<Output = Result<Confirm, PublishError>> + Send;
}

/// Resolves when the broker has the message safe. `Ok` means stored and routed; nothing else does.
#[must_use = "a message without its confirm may be lost"]
pub struct Confirm(BoxFuture<'static, Result<(), PublishError>>);

impl Confirm {
    /// Wraps a broker's own confirm.
    pub fn new(confirm: impl Future<Output = Result<(), PublishError>> + Send + 'static) -> Self {
        Self(Box::pin(confirm))
    }
}

impl Future for Confirm {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl fmt::Debug for Confirm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Confirm")
    }
}

/// Receives the messages of one partition, in order.
pub trait Subscriber: Send {
    /// Waits for the next message; `None` after the subscription was closed in good order, or when it is to be closed and
    /// attached anew, which takes the partition over from another replica. Nothing is unsettled then. Cancel-safe.
    ///
    /// # Errors
    /// [`QueueError`]; the subscriber is of no use then, attach a new one. Unsettled deliveries come again, in order.
    fn receive(&mut self) -> impl Future<Output = Result<Option<Delivery>, QueueError>> + Send;

    /// Ends the subscription in good order: the broker has taken up what was settled before this resolves. Bounded in time,
    /// and no more than a courtesy to one that does not answer. Dropping it does the same without waiting.
    fn close(self) -> impl Future<Output = ()> + Send
    where
        Self: Sized,
    {
        async move { drop(self) }
    }
}

/// How a broker settles one delivery.
pub trait Settle: Send {
    /// Takes the message off the queue.
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), QueueError>>;
}

/// A message handed to this consumer. Dropping it unsettled leaves it in the queue: it comes again, in its place, once
/// the subscription is closed.
#[must_use = "an unsettled delivery comes again"]
pub struct Delivery {
    message: Message,
    attempts: u32,
    settle: Box<dyn Settle>,
}

impl Delivery {
    /// For brokers: a message, how often it was handed out before, and how to settle it.
    pub fn new(message: Message, attempts: u32, settle: Box<dyn Settle>) -> Self {
        Self { message, attempts, settle }
    }

    /// The message as it came.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// How often it was handed out before and not settled, as far as the broker knows.
    #[must_use]
    pub const fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Takes the message off the queue: its effect is committed, or it is safe elsewhere.
    ///
    /// # Errors
    /// [`QueueError`]: the message may come again.
    pub async fn ack(self) -> Result<(), QueueError> {
        self.settle.ack().await
    }

    /// Sets the message aside as it came and takes it off the queue, in this order: the dead letter is confirmed first.
    ///
    /// # Errors
    /// [`QueueError`]: the message may come again, and a second dead letter be written; nothing is lost.
    pub async fn dead_letter(self, parking: &mut impl Publisher, letter: &DeadLetter) -> Result<(), QueueError> {
        let confirm = parking.park(letter).await.map_err(QueueError::Park)?;
        confirm.await.map_err(QueueError::Park)?;
        self.ack().await
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("message_id", &self.message.message_id)
            .field("attempts", &self.attempts)
            .finish_non_exhaustive()
    }
}

/// A shared queue as the broker sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueStatus {
    /// One entry per partition, in order.
    pub partitions: Vec<PartitionStatus>,
    /// Messages in the dead-letter queue.
    pub dead_letters: u64,
    /// Why some of it is not known, and what to do; `None` when the broker tells all it can.
    pub untold: Option<String>,
}

/// One partition as the broker sees it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Counted from 0.
    pub partition: u32,
    /// Messages waiting to be delivered.
    pub ready: u64,
    /// Messages delivered and not yet settled, where the broker tells.
    pub unacked: Option<u64>,
    /// Consumers attached: the active one and, where the broker tells, those that stand by.
    pub consumers: u32,
    /// The replica that receives it, where the broker tells.
    pub owner: Option<String>,
    /// Replicas that stand by, where the broker tells.
    pub standby: Option<u32>,
    /// Seconds since the oldest message was sealed, where the broker tells.
    pub oldest_seconds: Option<u64>,
}
