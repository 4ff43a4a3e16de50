//! A broker in memory, for tests of what runs on top of a queue. Nothing survives the process.
//!
//! Keeps the promises of [`super`] and nothing more: confirms are immediate, the consumer that came first is the active
//! one. Fails only where the topology is missing, never by itself.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use tokio::sync::Notify;

use super::{
    Broker, Confirm, DeadLetter, Delivery, PartitionStatus, PublishError, Publisher, QueueError, QueueStatus, Settle,
    Settlement, SharedQueue, SubscribeOptions, Subscriber,
};
use crate::envelope::{Envelope, Message};

/// Shared queues in memory. Clones share them.
#[derive(Clone, Default)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told of every change that can let a waiting consumer go on.
    changed: Notify,
}

#[derive(Default)]
struct State {
    queues: BTreeMap<String, Queue>,
    /// Numbers consumers and deliveries.
    last_id: u64,
}

struct Queue {
    partitions: Vec<Partition>,
    dead: Vec<Message>,
}

#[derive(Default)]
struct Partition {
    ready: VecDeque<Stored>,
    /// What the active consumer holds, in the order it was handed out.
    unacked: BTreeMap<u64, Stored>,
    /// Attached consumers; the first is active, the others stand by.
    consumers: VecDeque<u64>,
}

struct Stored {
    message: Message,
    attempts: u32,
}

impl MemoryBroker {
    /// A broker without queues.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is complete before anything can panic, so a poisoned state is a good one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue, QueueError> {
        self.queues.get_mut(name).ok_or_else(|| QueueError::Missing { queue: name.to_owned() })
    }

    fn partition(&mut self, name: &str, partition: u32) -> Result<&mut Partition, QueueError> {
        let index = usize::try_from(partition).unwrap_or(usize::MAX);
        let found = self.queue(name)?.partitions.get_mut(index);
        found.ok_or_else(|| topology(name, &format!("it has no partition {partition}")))
    }

    /// Puts a message at the end of its partition.
    fn store(&mut self, queue: &str, routing_key: &str, message: Message) -> Result<(), PublishError> {
        let partition = routing_key.rsplit('.').next().and_then(|last| last.parse().ok());
        let found = partition.and_then(|partition| self.partition(queue, partition).ok());
        let found = found
            .ok_or_else(|| PublishError::Unroutable { queue: queue.to_owned(), routing_key: routing_key.to_owned() })?;
        found.ready.push_back(Stored { message, attempts: 0 });
        Ok(())
    }
}

impl Partition {
    fn detach(&mut self, consumer: u64) {
        if self.consumers.front() == Some(&consumer) {
            while let Some((_, mut stored)) = self.unacked.pop_last() {
                stored.attempts = stored.attempts.saturating_add(1);
                self.ready.push_front(stored);
            }
        }
        self.consumers.retain(|id| *id != consumer);
    }
}

fn topology(queue: &str, problem: &str) -> QueueError {
    QueueError::Topology { queue: queue.to_owned(), problem: problem.to_owned() }
}

impl Broker for MemoryBroker {
    type Publisher = MemoryPublisher;
    type Subscriber = MemorySubscriber;

    async fn declare(&self, queue: &SharedQueue) -> Result<(), QueueError> {
        let mut state = self.shared.state();
        let partitions = usize::try_from(queue.partitions).unwrap_or(usize::MAX);
        if let Some(found) = state.queues.get(&queue.name) {
            let exists = found.partitions.len();
            if exists != partitions {
                return Err(topology(&queue.name, &format!("it has {exists} partitions, not {partitions}")));
            }
            return Ok(());
        }
        let partitions = (0..partitions).map(|_| Partition::default()).collect();
        state.queues.insert(queue.name.clone(), Queue { partitions, dead: Vec::new() });
        Ok(())
    }

    async fn publisher(&self) -> Result<MemoryPublisher, QueueError> {
        Ok(MemoryPublisher { shared: Arc::clone(&self.shared) })
    }

    async fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<MemorySubscriber, QueueError> {
        let mut state = self.shared.state();
        let consumer = state.next_id();
        state.partition(queue, partition)?.consumers.push_back(consumer);
        Ok(MemorySubscriber {
            shared: Arc::clone(&self.shared),
            queue: queue.to_owned(),
            partition,
            consumer,
            prefetch: usize::from(options.prefetch),
        })
    }

    async fn status(&self, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
        let mut state = self.shared.state();
        let found = state.queue(&queue.name)?;
        let count = |len: usize| u64::try_from(len).unwrap_or(u64::MAX);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let partitions = (0..).zip(&found.partitions).map(|(number, partition)| PartitionStatus {
            partition: number,
            ready: count(partition.ready.len()),
            unacked: Some(count(partition.unacked.len())),
            consumers: u32::try_from(partition.consumers.len()).unwrap_or(u32::MAX),
            owner: None,
            standby: None,
            oldest_seconds: partition
                .unacked
                .values()
                .chain(&partition.ready)
                .next()
                .and_then(|stored| stored.message.timestamp)
                .map(|sealed| now.saturating_sub(sealed)),
        });
        Ok(QueueStatus { partitions: partitions.collect(), dead_letters: count(found.dead.len()), untold: None })
    }

    async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let mut state = self.shared.state();
        let dead = state.queue(queue)?.dead.iter().take(limit);
        Ok(dead.map(|message| DeadLetter::from_message(message.clone(), queue)).collect())
    }

    async fn settle_dead_letters(
        &self,
        queue: &str,
        ids: &[String],
        settlement: Settlement,
    ) -> Result<usize, QueueError> {
        let mut state = self.shared.state();
        let mut settled = 0;
        let mut index = 0;
        while let Some(message) = state.queue(queue)?.dead.get(index) {
            let letter = DeadLetter::from_message(message.clone(), queue);
            if !ids.iter().any(|id| id == letter.id()) {
                index += 1;
                continue;
            }
            match &settlement {
                Settlement::Replay => {
                    state.store(queue, &letter.routing_key, letter.to_replay()).map_err(QueueError::Replay)?;
                    state.queue(queue)?.dead.remove(index);
                }
                Settlement::Discard => _ = state.queue(queue)?.dead.remove(index),
                Settlement::Replace(_) => {
                    index += 1;
                    let Some(letter) = settlement.replacement(letter.id()) else { continue };
                    state.queue(queue)?.dead.splice(index - 1..index, [letter.to_message()]);
                }
            }
            settled += 1;
        }
        drop(state);
        self.shared.changed.notify_waiters();
        Ok(settled)
    }
}

/// Publishes into a [`MemoryBroker`]; confirms are immediate.
pub struct MemoryPublisher {
    shared: Arc<Shared>,
}

impl Publisher for MemoryPublisher {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        let stored = self.shared.state().store(queue, &envelope.routing_key(), envelope.to_message());
        self.shared.changed.notify_waiters();
        Ok(Confirm::new(async { stored }))
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        self.shared.state().queue(&letter.queue)?.dead.push(letter.to_message());
        Ok(Confirm::new(async { Ok(()) }))
    }
}

/// Receives one partition of a [`MemoryBroker`]. Dropping it gives back what is unsettled.
pub struct MemorySubscriber {
    shared: Arc<Shared>,
    queue: String,
    partition: u32,
    consumer: u64,
    prefetch: usize,
}

impl MemorySubscriber {
    /// The next message, if this consumer is the active one and may have another.
    fn take(&self) -> Result<Option<Delivery>, QueueError> {
        let mut state = self.shared.state();
        let tag = state.next_id();
        let partition = state.partition(&self.queue, self.partition)?;
        if partition.consumers.front() != Some(&self.consumer) || partition.unacked.len() >= self.prefetch {
            return Ok(None);
        }
        let Some(stored) = partition.ready.pop_front() else { return Ok(None) };
        let (message, attempts) = (stored.message.clone(), stored.attempts);
        partition.unacked.insert(tag, stored);
        let settle = MemorySettle {
            shared: Arc::clone(&self.shared),
            queue: self.queue.clone(),
            partition: self.partition,
            tag,
        };
        Ok(Some(Delivery::new(message, attempts, Box::new(settle))))
    }
}

impl Subscriber for MemorySubscriber {
    async fn receive(&mut self) -> Result<Option<Delivery>, QueueError> {
        let shared = Arc::clone(&self.shared);
        loop {
            let mut changed = std::pin::pin!(shared.changed.notified());
            // Registered before looking, so that a change in between is not missed.
            changed.as_mut().enable();
            if let Some(delivery) = self.take()? {
                return Ok(Some(delivery));
            }
            changed.await;
        }
    }
}

impl Drop for MemorySubscriber {
    fn drop(&mut self) {
        if let Ok(partition) = self.shared.state().partition(&self.queue, self.partition) {
            partition.detach(self.consumer);
        }
        self.shared.changed.notify_waiters();
    }
}

struct MemorySettle {
    shared: Arc<Shared>,
    queue: String,
    partition: u32,
    tag: u64,
}

impl Settle for MemorySettle {
    fn ack(self: Box<Self>) -> BoxFuture<'static, Result<(), QueueError>> {
        Box::pin(async move {
            let acked = self.shared.state().partition(&self.queue, self.partition)?.unacked.remove(&self.tag);
            self.shared.changed.notify_waiters();
            acked.map(drop).ok_or_else(|| QueueError::Unreachable {
                address: "memory".to_owned(),
                cause: "the subscription of this delivery is closed".into(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::contract::{Bench, contract_tests};

    fn bench() -> Bench<MemoryBroker> {
        Bench::new(MemoryBroker::new(), ())
    }

    contract_tests!(bench);
}
