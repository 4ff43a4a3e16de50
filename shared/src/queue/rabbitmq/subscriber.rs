//! Receiving one partition.

use std::hash::Hasher as _;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Consumer};
use siphasher::sip::SipHasher13;

use super::connection::{OwnedChannel, Server, Standing, topology};
use super::holdings::{Holding, lock};
use super::{partition_queue, short_name, wire};
use crate::queue::{Delivery, QueueError, Settle, SubscribeOptions, Subscriber};

/// Two replicas share a priority, and so fall back to who came first, once in a million partitions.
const PRIORITY_MAX: u64 = 1_000_000;

/// Receives one partition from RabbitMQ over a channel of its own, which is closed with it.
pub struct RabbitMqSubscriber {
    server: Arc<Server>,
    queue: String,
    channel: OwnedChannel,
    consumer: Consumer,
    /// What was received and is not settled.
    holding: Arc<Holding>,
}

impl RabbitMqSubscriber {
    pub(super) async fn attach(
        server: Arc<Server>,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<Self, QueueError> {
        let priority = priority(&options.replica, partition);
        let name = partition_queue(queue, partition);
        let holder = server.holder(queue, &options.replica);
        holder.listen(&server, queue).await;
        let channel = server.channel().await?;
        let consumer = consume(&server, &channel, queue, &name, options, priority).await?;
        Ok(Self { server, queue: queue.to_owned(), channel, consumer, holding: holder.subscribe(partition) })
    }
}

/// Starts a consumer.
pub(super) async fn consume(
    server: &Server,
    channel: &OwnedChannel,
    queue: &str,
    name: &str,
    options: &SubscribeOptions,
    priority: i32,
) -> Result<Consumer, QueueError> {
    let failed = |error| server.error(queue, error);
    // Zero would mean no bound. Quorum queues know only the bound per consumer.
    let qos = channel.basic_qos(options.prefetch.max(1), BasicQosOptions { global: false });
    channel.standing.answer(server, qos).await?.map_err(failed)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
    let how = BasicConsumeOptions {
        // Not supported by RabbitMQ.
        no_local: false,
        // A message leaves the queue with its ack and not before.
        no_ack: false,
        // The stand-bys attach to the same queue; the queue itself lets one be active.
        exclusive: false,
        // The broker's answer tells that the queue is there.
        nowait: false,
    };
    // Tells people whose consumer it is; each has a channel of its own. Of a name that is too long the broker makes up one.
    let tag = wire::short(&options.replica).unwrap_or_default();
    let consuming = channel.basic_consume(short_name(queue, name)?, tag, how, arguments);
    channel.standing.answer(server, consuming).await?.map_err(failed)
}

/// The weight of a replica for a partition (rendezvous hashing): the attached replica with the greatest one is active.
///
/// Every replica of every version must come to the same number, so the hash and its key (zero) are fixed.
pub(super) fn priority(replica: &str, partition: u32) -> i32 {
    let mut hasher = SipHasher13::new();
    hasher.write(&partition.to_be_bytes());
    hasher.write(replica.as_bytes());
    i32::try_from(hasher.finish() % (PRIORITY_MAX + 1)).unwrap_or_default()
}

impl Subscriber for RabbitMqSubscriber {
    async fn receive(&mut self) -> Result<Option<Delivery>, QueueError> {
        match self.channel.standing.answer(&self.server, self.consumer.next()).await? {
            Some(Ok(delivery)) => {
                lock(&self.holding).insert(delivery.delivery_tag, *delivery.properties.timestamp());
                let (message, attempts) = wire::message(&delivery.properties, delivery.redelivered, delivery.data);
                let settle = RabbitMqSettle {
                    server: Arc::clone(&self.server),
                    queue: self.queue.clone(),
                    standing: self.channel.standing.clone(),
                    acker: delivery.acker,
                    number: delivery.delivery_tag,
                    holding: Arc::clone(&self.holding),
                };
                Ok(Some(Delivery::new(message, attempts, Box::new(settle))))
            }
            Some(Err(error)) => Err(self.server.error(&self.queue, error)),
            None if self.channel.status().connected() => {
                Err(topology(&self.queue, "the broker ended the subscription; was the queue deleted?".to_owned()))
            }
            None => Err(self.server.unreachable("the subscription is closed")),
        }
    }

    async fn close(self) {
        // The answer comes behind the acks. Consumer and channel go in this order only.
        let Self { channel, consumer, .. } = self;
        channel.close().await;
        drop(consumer);
    }
}

struct RabbitMqSettle {
    server: Arc<Server>,
    queue: String,
    standing: Standing,
    acker: Acker,
    number: u64,
    holding: Arc<Holding>,
}

impl Settle for RabbitMqSettle {
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), QueueError>> {
        Box::pin(async move {
            // One at a time: records of a batch may be settled out of order.
            match self.standing.answer(&self.server, self.acker.ack(BasicAckOptions { multiple: false })).await? {
                Ok(true) => {
                    lock(&self.holding).remove(&self.number);
                    Ok(())
                }
                Ok(false) => Err(self.server.unreachable("the subscription of this delivery is closed")),
                Err(error) => Err(self.server.error(&self.queue, error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_priority_of_a_replica_is_the_same_in_every_version() {
        assert_eq!(priority("consumer-1", 0), 960_508);
        assert_eq!(priority("consumer-1", 7), 923_825);
    }

    #[test]
    fn partitions_spread_over_replicas() {
        let replicas = ["consumer-1", "consumer-2", "consumer-3"];
        let mut owned = [0; 3];
        for partition in 0..300 {
            let active = (0..3).max_by_key(|index| priority(replicas[*index], partition)).expect("three replicas");
            owned[active] += 1;
        }
        assert!(owned.iter().all(|partitions| (70..130).contains(partitions)), "{owned:?}");
    }
}
