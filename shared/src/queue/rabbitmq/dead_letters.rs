//! The dead-letter queue: read without taking, replayed, discarded.
//!
//! A consumer takes the messages from the front and acks none but the settled ones; closing its channel puts the others
//! back. Meanwhile another reader does not see them. A quorum queue hands out what came back before anything else, but
//! appends to it what comes back later: the order is kept only by taking all of it every time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use lapin::options::BasicAckOptions;
use lapin::{Acker, Consumer};

use super::connection::{OwnedChannel, Server};
use super::publisher::RabbitMqPublisher;
use super::subscriber::consume;
use super::topology::find;
use super::{dead_queue, exchange, wire};
use crate::queue::{DeadLetter, Publisher as _, QueueError, Settlement, SubscribeOptions};

/// Bounds the memory of a call; what lies behind comes into reach once some of these are settled. Every call takes as
/// many, however few it looks at.
const LOOK_AT_MAX: u16 = 10_000;
/// What the broker calls the consumer that reads them.
const READER: &str = "dead-letter reader";
/// A message that is there comes within a round trip; one that another reader holds is not waited for.
const NEXT_TIMEOUT: Duration = Duration::from_secs(2);
/// Time between two looks at whether the broker has let a closed reader go.
const RETURN_POLL: Duration = Duration::from_millis(5);

/// The dead letters that are in the queue now, oldest first.
struct Letters {
    channel: OwnedChannel,
    consumer: Consumer,
    left: u16,
}

impl Letters {
    async fn open(server: &Server, queue: &str, limit: usize) -> Result<Self, QueueError> {
        let name = dead_queue(queue);
        let channel = server.channel().await?;
        let found = find(server, &channel, queue, &name).await?;
        let found = found.ok_or_else(|| QueueError::Missing { queue: queue.to_owned() })?;
        let options = SubscribeOptions { replica: READER.to_owned(), prefetch: LOOK_AT_MAX };
        let consumer = consume(server, &channel, queue, &name, &options, 0).await?;
        let limit = u16::try_from(limit).unwrap_or(LOOK_AT_MAX).min(LOOK_AT_MAX);
        let left = u16::try_from(found.message_count()).unwrap_or(LOOK_AT_MAX).min(limit);
        Ok(Self { channel, consumer, left })
    }

    async fn next(&mut self, server: &Server, queue: &str) -> Result<Option<(DeadLetter, Acker)>, QueueError> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let Ok(next) = tokio::time::timeout(NEXT_TIMEOUT, self.consumer.next()).await else { return Ok(None) };
        let delivery = next.ok_or_else(|| server.unreachable("the subscription is closed"))?;
        let delivery = delivery.map_err(|error| server.error(queue, error))?;
        let (message, _) = wire::message(&delivery.properties, delivery.redelivered, delivery.data);
        Ok(Some((DeadLetter::from_message(message, queue), delivery.acker)))
    }

    /// Puts back what is unsettled and waits until it is back, so that who reads next finds it.
    async fn close(self, server: &Server, queue: &str) -> Result<(), QueueError> {
        self.channel.close().await;
        // The queue learns of a closed channel some time after the channel's owner.
        let channel = server.channel().await?;
        let let_go = async {
            while let Some(found) = find(server, &channel, queue, &dead_queue(queue)).await?
                && found.consumer_count() > 0
            {
                tokio::time::sleep(RETURN_POLL).await;
            }
            Ok(())
        };
        // Another reader may be there for longer.
        tokio::time::timeout(NEXT_TIMEOUT, let_go).await.unwrap_or(Ok(()))
    }
}

/// Reads up to `limit` dead letters, oldest first.
pub(super) async fn list(server: &Server, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
    let mut unsettled = Letters::open(server, queue, limit).await?;
    let mut letters = Vec::new();
    while let Some((letter, _)) = unsettled.next(server, queue).await? {
        letters.push(letter);
    }
    unsettled.close(server, queue).await?;
    Ok(letters)
}

/// Settles the dead letters with these ids that are in the queue now.
pub(super) async fn settle(
    server: &Arc<Server>,
    queue: &str,
    ids: &[String],
    settlement: Settlement,
) -> Result<usize, QueueError> {
    let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
    let mut publisher = match settlement {
        Settlement::Replay | Settlement::Replace(_) => Some(RabbitMqPublisher::connect(Arc::clone(server)).await?),
        Settlement::Discard => None,
    };
    let mut letters = Letters::open(server, queue, usize::from(LOOK_AT_MAX)).await?;
    let mut settled = 0;
    while let Some((letter, acker)) = letters.next(server, queue).await? {
        if !ids.contains(letter.id()) {
            continue;
        }
        match (&mut publisher, settlement.replacement(letter.id())) {
            (Some(publisher), Some(replacement)) => {
                let parked = publisher.park(replacement).await.map_err(QueueError::Park)?;
                parked.await.map_err(QueueError::Park)?;
            }
            (Some(publisher), None) if settlement == Settlement::Replay => replay(publisher, queue, &letter).await?,
            // It is of none of the given ids.
            (Some(_), None) => continue,
            (None, _) => {}
        }
        let acked = letters.channel.standing.answer(server, acker.ack(BasicAckOptions { multiple: false })).await?;
        if !acked.map_err(|error| server.error(queue, error))? {
            return Err(server.unreachable("the channel of this dead letter is closed"));
        }
        settled += 1;
    }
    letters.close(server, queue).await?;
    Ok(settled)
}

/// Publishes the message as it was and waits until it is safe.
async fn replay(publisher: &mut RabbitMqPublisher, queue: &str, letter: &DeadLetter) -> Result<(), QueueError> {
    let confirm = publisher.send(queue, &exchange(queue), &letter.routing_key, &letter.to_replay()).await;
    confirm.map_err(QueueError::Replay)?.await.map_err(QueueError::Replay)
}
