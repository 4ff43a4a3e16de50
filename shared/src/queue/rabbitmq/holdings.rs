//! What a replica holds of a partition: each one answers `queue status` over AMQP.
//!
//! RabbitMQ tells neither the age of a message on a quorum queue nor, without its management interface, who owns it; the
//! replica that holds the oldest message knows both. Questions go to the fanout exchange `syncline.<queue>.status`, which
//! every replica listens to with a queue of its own, answers to the asker's direct reply address. A replica that cannot
//! listen says so once and works on. Says when messages were sealed and how many there are, which their clear properties
//! say too.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use lapin::message::DeliveryResult;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ExchangeKind};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::connection::{OwnedChannel, Server};
use super::{exchange, short_name};
use crate::queue::QueueError;
use crate::tasks::chain;

/// How long replicas have to answer. All of them listen on connections that are open, so most need some milliseconds.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// The broker's own name for "answers go to whoever asks on this channel".
const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// More answers than this are not read: a queue has no more replicas, and an answer comes from whoever can write to it.
const ANSWERS_MAX: usize = 1000;

/// The unsettled messages of one subscription: when each was sealed, in seconds since 1970, by its number.
pub(super) type Holding = Mutex<BTreeMap<u64, Option<u64>>>;

/// Locks what no panic leaves half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one replica holds of a shared queue, and the channel on which it is asked.
pub(super) struct Holder {
    replica: String,
    partitions: Mutex<BTreeMap<u32, Weak<Holding>>>,
    line: tokio::sync::Mutex<Option<OwnedChannel>>,
    complained: AtomicBool,
}

/// What one replica answers.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Answer {
    replica: String,
    held: Vec<Held>,
}

/// What it holds of one partition.
#[derive(Debug, Deserialize, Serialize)]
struct Held {
    partition: u32,
    unacked: u64,
    /// When the oldest message was sealed, in seconds since 1970.
    oldest: Option<u64>,
}

/// What the owner of one partition told.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) owner: String,
    pub(super) unacked: u64,
    pub(super) oldest: Option<u64>,
}

impl Holder {
    pub(super) fn new(replica: &str) -> Self {
        Self {
            replica: replica.to_owned(),
            partitions: Mutex::default(),
            line: tokio::sync::Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// Counts what a new subscription of a partition will hold.
    pub(super) fn subscribe(&self, partition: u32) -> Arc<Holding> {
        let holding = Arc::default();
        lock(&self.partitions).insert(partition, Arc::downgrade(&holding));
        holding
    }

    /// Listens to questions, unless it does already.
    pub(super) async fn listen(self: &Arc<Self>, server: &Server, queue: &str) {
        let mut line = self.line.lock().await;
        if line.as_ref().is_some_and(|channel| channel.standing.stands()) {
            return;
        }
        match self.open(server, queue).await {
            Ok(channel) => *line = Some(channel),
            // A broker that is gone is told by the subscription itself.
            Err(QueueError::Unreachable { .. }) => {}
            Err(error) if !self.complained.swap(true, Ordering::Relaxed) => {
                let error = chain(&error);
                tracing::warn!(queue, error, "queue status cannot ask this replica what it holds");
            }
            Err(_) => {}
        }
    }

    #[expect(clippy::disallowed_methods, reason = "carries no record, and what is lost is asked again")]
    async fn open(self: &Arc<Self>, server: &Server, queue: &str) -> Result<OwnedChannel, QueueError> {
        let channel = server.channel().await?;
        let status = status_exchange(queue)?;
        // Gone with this connection.
        let own = short_name(queue, &format!("{queue}.status.{}", Uuid::now_v7()))?;
        let listening = async {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(status.clone(), ExchangeKind::Fanout, options, FieldTable::default()).await?;
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(own.clone(), options, FieldTable::default()).await?;
            let bind = QueueBindOptions::default();
            channel.queue_bind(own.clone(), status, "".into(), bind, FieldTable::default()).await?;
            let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
            channel.basic_consume(own, "".into(), options, FieldTable::default()).await
        };
        let consumer = channel.standing.answer(server, listening).await?.map_err(|error| server.error(queue, error))?;
        let (holder, answers) = (Arc::downgrade(self), Channel::clone(&channel));
        consumer.set_delegate(move |question: DeliveryResult| {
            let (holder, answers) = (holder.clone(), answers.clone());
            async move {
                let (Ok(Some(question)), Some(holder)) = (question, holder.upgrade()) else { return };
                let Some(asker) = question.properties.reply_to() else { return };
                // Nowhere else: whoever may ask must not have an answer put into other queues.
                if asker.as_str().starts_with(REPLY_TO) {
                    let answer = serde_json::to_vec(&holder.answer()).unwrap_or_default();
                    let how = BasicPublishOptions::default();
                    // An asker that is gone needs none.
                    let _ =
                        answers.basic_publish("".into(), asker.clone(), how, &answer, BasicProperties::default()).await;
                }
            }
        });
        Ok(channel)
    }

    fn answer(&self) -> Answer {
        let partitions = lock(&self.partitions);
        let held = partitions.iter().filter_map(|(&partition, holding)| {
            let holding = holding.upgrade()?;
            let holding = lock(&holding);
            // Numbers grow in the order of the queue.
            let (_, &oldest) = holding.first_key_value()?;
            Some(Held { partition, unacked: holding.len() as u64, oldest })
        });
        Answer { replica: self.replica.clone(), held: held.collect() }
    }
}

fn status_exchange(queue: &str) -> Result<ShortString, QueueError> {
    short_name(queue, &format!("{}.status", exchange(queue)))
}

/// Asks every replica what it holds of a shared queue.
///
/// # Errors
/// Why nobody can be asked.
#[expect(clippy::disallowed_methods, reason = "carries no record, and what is lost is asked again")]
pub(super) async fn ask(server: &Server, queue: &str) -> Result<BTreeMap<u32, Told>, QueueError> {
    let (channel, to) = (server.channel().await?, status_exchange(queue)?);
    let asking = async {
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let answers = channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await?;
        let properties = BasicProperties::default().with_reply_to(REPLY_TO.into());
        channel.basic_publish(to, "".into(), BasicPublishOptions::default(), &[], properties).await?;
        Ok(answers)
    };
    let answers = channel.standing.answer(server, asking).await?;
    let mut answers = answers.map_err(|error| server.error(queue, error))?;
    let until = Instant::now() + ANSWER_TIME;
    let mut all = Vec::new();
    while let Ok(Some(answer)) = timeout_at(until, answers.next()).await {
        let answer = answer.map_err(|error| server.error(queue, error))?;
        all.extend(serde_json::from_slice(&answer.data));
        if all.len() >= ANSWERS_MAX {
            break;
        }
    }
    // Before `answers` goes: its cancelling would reach a broker that has closed the channel already.
    channel.close().await;
    Ok(told(all))
}

/// The owner of each partition: the one that holds its oldest message, since one that lost it may still hold others.
fn told(answers: Vec<Answer>) -> BTreeMap<u32, Told> {
    let mut all: BTreeMap<u32, Told> = BTreeMap::new();
    for Answer { replica, held } in answers {
        for Held { partition, unacked, oldest } in held {
            let told = Told { owner: replica.clone(), unacked, oldest };
            if all.get(&partition).is_none_or(|known| oldest < known.oldest) {
                all.insert(partition, told);
            }
        }
    }
    all
}
