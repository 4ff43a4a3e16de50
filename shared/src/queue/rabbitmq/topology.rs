//! The exchange and queues of a shared queue: made, checked, counted.

use std::collections::BTreeMap;

use jiff::Timestamp;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{ExchangeKind, Queue};

use super::connection::{OwnedChannel, Server, protocol_error, topology};
use super::holdings;
use super::management::{self, Seen};
use super::{dead_queue, exchange, partition_queue, short_name};
use crate::queue::{PartitionStatus, QueueError, QueueStatus, SharedQueue};
use crate::tasks::chain;

/// What a queue is for; they differ in their arguments.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Partition,
    DeadLetters,
}

/// Creates what is missing and checks what is there.
pub(super) async fn declare(server: &Server, queue: &SharedQueue) -> Result<(), QueueError> {
    let name = queue.name.as_str();
    let Some(last) = queue.partitions.checked_sub(1) else {
        return Err(topology(name, "it needs at least one partition".to_owned()));
    };
    check_partitions(server, queue, last).await?;
    let channel = server.channel().await?;
    let exchange = short_name(name, &exchange(name))?;
    let options = ExchangeDeclareOptions {
        // Create it, or check that it is the same.
        passive: false,
        // Survives a restart of the broker.
        durable: true,
        // Stays when the last queue is unbound.
        auto_delete: false,
        // Producers publish to it.
        internal: false,
        // The broker's answer tells whether it is the same.
        nowait: false,
    };
    let declared = channel.exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default());
    let declared = channel.standing.answer(server, declared).await?;
    declared.map_err(|error| differs(server, name, &format!("exchange {exchange}"), error))?;
    drop(channel);
    let dead = dead_queue(name);
    declare_queue(server, name, &dead, Role::DeadLetters).await?;
    // Partition 0 last: where it exists, all of them do, and their number can be checked.
    for partition in (0..queue.partitions).rev() {
        let partition_queue = partition_queue(name, partition);
        let channel = declare_queue(server, name, &partition_queue, Role::Partition).await?;
        // Any table and action, whatever dots they hold, then the partition.
        let binding = format!("#.{partition}").into();
        let bound = channel.queue_bind(
            short_name(name, &partition_queue)?,
            exchange.clone(),
            binding,
            // The broker's answer tells that the binding is there before anything is published.
            QueueBindOptions { nowait: false },
            FieldTable::default(),
        );
        channel.standing.answer(server, bound).await?.map_err(|error| server.error(name, error))?;
    }
    server.note_found(queue);
    Ok(())
}

/// The number of partitions is fixed: another one would send records to other partitions, past their earlier changes.
/// Whoever knows that the number was right knows that a partition that is missing was deleted, and makes it again.
async fn check_partitions(server: &Server, queue: &SharedQueue, last: u32) -> Result<(), QueueError> {
    let (name, partitions) = (&queue.name, queue.partitions);
    let problem = |how| {
        format!(
            "it has {how} partitions than the {partitions} configured; set the number it was made with, or use a \
             shared queue of another name"
        )
    };
    // This order, because a queue that another process is declaring at this moment must not look too short.
    let exists = async |partition| {
        let channel = server.channel().await?;
        let found = find(server, &channel, name, &partition_queue(name, partition)).await?;
        Ok::<_, QueueError>(found.is_some())
    };
    if !server.was_found(queue) && exists(0).await? && !exists(last).await? {
        return Err(topology(name, problem("fewer")));
    }
    if exists(partitions).await? {
        return Err(topology(name, problem("more")));
    }
    Ok(())
}

/// Returns the channel the queue was declared on.
async fn declare_queue(server: &Server, queue: &str, name: &str, role: Role) -> Result<OwnedChannel, QueueError> {
    let channel = server.channel().await?;
    match declare_with(server, &channel, queue, name, arguments(role, true)).await? {
        Ok(_) => return Ok(channel),
        Err(error) if is_unknown_limit(&error) => {}
        Err(error) => return Err(differs(server, queue, &format!("queue {name}"), error)),
    }
    // RabbitMQ before 4.0 has no delivery limit unless one is set, and knows no way to say so.
    tracing::warn!(queue, "this broker is older than RabbitMQ 4: partitions do not spread over replicas");
    let channel = server.channel().await?;
    match declare_with(server, &channel, queue, name, arguments(role, false)).await? {
        Ok(_) => Ok(channel),
        Err(error) => Err(differs(server, queue, &format!("queue {name}"), error)),
    }
}

async fn declare_with(
    server: &Server,
    channel: &OwnedChannel,
    queue: &str,
    name: &str,
    arguments: FieldTable,
) -> Result<lapin::Result<Queue>, QueueError> {
    let options = QueueDeclareOptions {
        // Create it, or check that it is the same.
        passive: false,
        // Survives a restart of the broker; quorum queues are nothing else.
        durable: true,
        // Several consumers attach.
        exclusive: false,
        // Stays when the last consumer goes.
        auto_delete: false,
        // The broker's answer tells whether it is the same.
        nowait: false,
    };
    channel.standing.answer(server, channel.queue_declare(short_name(queue, name)?, options, arguments)).await
}

fn arguments(role: Role, limit_delivery: bool) -> FieldTable {
    let mut arguments = FieldTable::default();
    // Replicated, and redelivered in order.
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    // A full queue refuses the newest message instead of dropping the oldest.
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    if limit_delivery {
        // RabbitMQ 4 drops a message after 20 deliveries unless told not to; what does not work goes to the dead
        // letters, and only a consumer decides that.
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(-1));
    }
    if role == Role::Partition {
        // One consumer at a time keeps the order.
        arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    }
    arguments
}

fn is_unknown_limit(error: &lapin::Error) -> bool {
    protocol_error(error).is_some_and(|(_, text)| refuses_limit(text))
}

/// Whether a broker says that it knows no way to do without a delivery limit.
fn refuses_limit(text: &str) -> bool {
    text.contains("invalid arg 'x-delivery-limit'")
}

fn differs(server: &Server, queue: &str, what: &str, error: lapin::Error) -> QueueError {
    match protocol_error(&error) {
        Some((AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED), text)) => topology(
            queue,
            format!(
                "{what} exists with other properties; delete it once it is empty, or use a shared queue of another \
                 name (the broker says {text:?})"
            ),
        ),
        Some(_) | None => server.error(queue, error),
    }
}

/// A queue with its counts; `None` when there is none of this name, and then the broker has closed the channel.
pub(super) async fn find(
    server: &Server,
    channel: &OwnedChannel,
    queue: &str,
    name: &str,
) -> Result<Option<Queue>, QueueError> {
    // Passive: look, and create nothing; the other options are not looked at then.
    let options =
        QueueDeclareOptions { passive: true, durable: false, exclusive: false, auto_delete: false, nowait: false };
    let asked = channel.queue_declare(short_name(queue, name)?, options, FieldTable::default());
    match channel.standing.answer(server, asked).await? {
        Ok(found) => Ok(Some(found)),
        Err(error) => match protocol_error(&error) {
            Some((AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND), _)) => Ok(None),
            Some(_) | None => Err(server.error(queue, error)),
        },
    }
}

/// The counts of every partition and of the dead letters.
pub(super) async fn status(server: &Server, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
    let name = &queue.name;
    let gone =
        |what: &str| topology(name, format!("queue {what} does not exist; the next start of a service makes it"));
    let channel = server.channel().await?;
    let dead_queue = dead_queue(name);
    let Some(dead) = find(server, &channel, name, &dead_queue).await? else {
        // Either nothing was declared, or somebody deleted this one.
        let channel = server.channel().await?;
        let first = find(server, &channel, name, &partition_queue(name, 0)).await?;
        return Err(first.map_or_else(|| QueueError::Missing { queue: name.clone() }, |_| gone(&dead_queue)));
    };
    check_partitions(server, queue, queue.partitions.saturating_sub(1)).await?;
    let queues: Vec<_> = (0..queue.partitions).map(|partition| partition_queue(name, partition)).collect();
    let looked = match server.config.management_url.as_deref().and_then(management::parse) {
        Some(url) => management::look(server, &url, &queues).await,
        None => {
            Err("set management_url in [queue] to see who owns a partition that is empty, and who stands by".to_owned())
        }
    };
    let (seen, mut untold) = looked.map_or_else(|why| (Vec::new(), Some(why)), |seen| (seen, None));
    let mut told = match holdings::ask(server, name).await {
        Ok(told) => told,
        Err(error) => {
            untold = Some(format!("the replicas cannot be asked what they hold: {}", chain(&error)));
            BTreeMap::new()
        }
    };
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let mut seen = seen.iter();
    let mut partitions = Vec::new();
    for (partition, queue) in (0..).zip(&queues) {
        let found = find(server, &channel, name, queue).await?.ok_or_else(|| gone(queue))?;
        let (seen, told) = (seen.next(), told.remove(&partition));
        let oldest = told.as_ref().and_then(|told| told.oldest);
        partitions.push(PartitionStatus {
            partition,
            ready: found.message_count().into(),
            unacked: seen.and_then(|seen| seen.unacked).or(told.as_ref().map(|told| told.unacked)),
            // Those that stand by are not counted.
            consumers: found.consumer_count(),
            owner: seen.and_then(|seen| seen.owner.clone()).or(told.map(|told| told.owner)),
            standby: seen.map(Seen::standby),
            // Of a message nobody holds it is not told: `basic.get` is not allowed here, and a consumer that looks at one
            // message and goes would put it behind others that came back to the queue.
            oldest_seconds: oldest.map(|oldest| now.saturating_sub(oldest)),
        });
    }
    Ok(QueueStatus { partitions, dead_letters: dead.message_count().into(), untold })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_older_than_4_is_told_by_its_words() {
        let old =
            "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'crm.0' in vhost '/': {value_negative,-1}";
        let differs = "PRECONDITION_FAILED - inequivalent arg 'x-delivery-limit' for queue 'crm.0' in vhost '/'";
        assert!(refuses_limit(old) && !refuses_limit(differs));
    }
}
