//! What replicas hold of the partitions: each one answers `queue status` over AMQP.
//!
//! RabbitMQ tells neither the age of a message on a quorum queue nor, without its management interface, who owns it; the
//! replica that holds the oldest message knows both. Questions go to the exchange over which [replicas](super::replica)
//! talk, answers to the asker's direct reply address. Says when messages were sealed and how many there are, which their
//! clear properties say too.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use lapin::BasicProperties;
use lapin::options::{BasicConsumeOptions, BasicPublishOptions};
use lapin::types::FieldTable;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::connection::Server;
use super::replica::status_exchange;
use crate::queue::QueueError;

/// How long replicas have to answer. All of them listen on connections that are open, so most need some milliseconds.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// The broker's own name for "answers go to whoever asks on this channel".
pub(super) const REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// More answers than this are not read: a queue has no more replicas, and an answer comes from whoever can write to it.
const ANSWERS_MAX: usize = 1000;

/// The unsettled messages of one subscription: when each was sealed, in seconds since 1970, by its number.
pub(super) type Holding = Mutex<BTreeMap<u64, Option<u64>>>;

/// Locks what no panic leaves half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one replica answers.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Answer {
    pub(super) replica: String,
    pub(super) held: Vec<Held>,
}

/// What it holds of one partition.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Held {
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

impl Held {
    /// `None` where nothing is held.
    pub(super) fn of(partition: u32, holding: &Holding) -> Option<Self> {
        let holding = lock(holding);
        // Numbers grow in the order of the queue.
        let (_, &oldest) = holding.first_key_value()?;
        Some(Self { partition, unacked: holding.len() as u64, oldest })
    }
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
