//! Receiving one partition.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Consumer};
use tokio::time::sleep;

use super::connection::{OwnedChannel, Server, Standing, topology};
use super::holdings::{Holding, lock};
use super::replica::{LOOK, Replica, Seat};
use super::{partition_queue, short_name, wire};
use crate::queue::{Delivery, QueueError, Settle, SubscribeOptions, Subscriber};

/// Receives one partition from RabbitMQ over a channel of its own, which is closed with it.
pub struct RabbitMqSubscriber {
    server: Arc<Server>,
    queue: String,
    partition: u32,
    channel: OwnedChannel,
    consumer: Consumer,
    replica: Arc<Replica>,
    seat: Arc<Seat>,
}

impl RabbitMqSubscriber {
    pub(super) async fn attach(
        server: Arc<Server>,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<Self, QueueError> {
        let name = partition_queue(queue, partition);
        let replica = server.replica(queue, &options.replica);
        let priority = replica.priority(&server, partition).await;
        let channel = server.channel().await?;
        let consumer = consume(&server, &channel, queue, &name, options, priority).await?;
        let seat = replica.sit(partition, priority);
        Ok(Self { server, queue: queue.to_owned(), partition, channel, consumer, replica, seat })
    }

    fn delivery(&self, received: lapin::Result<lapin::message::Delivery>) -> Result<Delivery, QueueError> {
        let delivery = received.map_err(|error| self.server.error(&self.queue, error))?;
        lock(&self.seat.holding).insert(delivery.delivery_tag, *delivery.properties.timestamp());
        let (message, attempts) = wire::message(&delivery.properties, delivery.redelivered, delivery.data);
        let settle = RabbitMqSettle {
            server: Arc::clone(&self.server),
            queue: self.queue.clone(),
            standing: self.channel.standing.clone(),
            acker: delivery.acker,
            number: delivery.delivery_tag,
            holding: Arc::clone(&self.seat.holding),
        };
        Ok(Delivery::new(message, attempts, Box::new(settle)))
    }
}

/// Starts a consumer.
pub(super) async fn consume(
    server: &Server,
    channel: &OwnedChannel,
    queue: &str,
    name: &str,
    options: &SubscribeOptions,
    priority: i64,
) -> Result<Consumer, QueueError> {
    let failed = |error| server.error(queue, error);
    // Zero would mean no bound. Quorum queues know only the bound per consumer.
    let qos = channel.basic_qos(options.prefetch.max(1), BasicQosOptions { global: false });
    channel.standing.answer(server, qos).await?.map_err(failed)?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongLongInt(priority));
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

impl Subscriber for RabbitMqSubscriber {
    async fn receive(&mut self) -> Result<Option<Delivery>, QueueError> {
        loop {
            self.replica.beat();
            tokio::select! {
                biased;
                received = self.channel.standing.answer(&self.server, self.consumer.next()) => {
                    return match received? {
                        Some(received) => self.delivery(received).map(Some),
                        None if self.channel.status().connected() => {
                            let problem = "the broker ended the subscription; was the queue deleted?".to_owned();
                            Err(topology(&self.queue, problem))
                        }
                        None => Err(self.server.unreachable("the subscription is closed")),
                    };
                }
                () = sleep(LOOK) => {}
            }
            // Who holds messages has the partition already, or is about to hand it over.
            let holds_none = lock(&self.seat.holding).is_empty();
            // On the heap, for it is large and seldom runs.
            if holds_none && Box::pin(self.replica.is_to_take(&self.server, self.partition)).await {
                return Ok(None);
            }
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
