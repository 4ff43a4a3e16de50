//! Receives one partition.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use rusqlite::{Connection, params};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::lease::Lease;
use super::thread::Durability;
use super::{Shared, message, partition_id};
use crate::envelope::Message;
use crate::queue::{Delivery, QueueError, Settle, SubscribeOptions, Subscriber};

/// Messages read ahead at once, at most.
const READ_AHEAD: i64 = 32;
/// Bytes read ahead at once, about; one larger message is still read, alone.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// How often a subscriber looks whether it is its turn, or whether it has lost it: a lease that runs out is no news in
/// the file.
const TURN_CHECK: Duration = Duration::from_millis(250);

/// Receives one partition of the embedded queue, or stands by while another subscriber does.
pub struct EmbeddedSubscriber {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
    /// Whether this subscriber is the partition's consumer.
    active: bool,
    /// Id of the newest message that was read.
    read_upto: i64,
    ahead: VecDeque<Waiting>,
    /// One permit per message that may be handed out and not settled.
    window: Arc<Semaphore>,
    news: watch::Receiver<u64>,
}

/// A message read from the file and not handed out yet.
struct Waiting {
    id: i64,
    attempts: u32,
    message: Message,
}

impl EmbeddedSubscriber {
    /// Stands in line for the partition.
    pub(super) async fn attach(
        shared: Arc<Shared>,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<Self, QueueError> {
        let (name, replica) = (queue.to_owned(), options.replica.clone());
        let taken = shared
            .write(Durability::Loose, move |connection| {
                let Some(partition) = partition_id(connection, &name, partition)? else { return Ok(None) };
                Ok(Some((Lease::take(connection, partition, &replica)?, partition)))
            })
            .await?;
        let Some((id, partition)) = taken else {
            let problem = format!("the queue file has no partition {partition} of it; declare it first");
            return Err(QueueError::Topology { queue: queue.to_owned(), problem });
        };
        let (lease, news) = (shared.leases.hold(id, partition), shared.news.subscribe());
        let window = Arc::new(Semaphore::new(usize::from(options.prefetch.max(1))));
        Ok(Self { shared, lease, active: false, read_upto: 0, ahead: VecDeque::new(), window, news })
    }

    /// Becomes the partition's consumer when it is this subscriber's turn.
    async fn take_turn(&mut self) -> Result<(), QueueError> {
        let (partition, id) = (self.lease.partition, self.lease.id);
        // Looked at by the reader first: stand-bys must not take the writer's time.
        let first = self.shared.read(move |connection| Lease::is_first(connection, partition, id)).await?;
        if first {
            self.active = self
                .shared
                .write(Durability::Loose, move |connection| Lease::take_over(connection, partition, id))
                .await?;
        }
        Ok(())
    }

    /// Reads the next messages. A dropped call has read nothing.
    async fn read_ahead(&mut self) -> Result<(), QueueError> {
        let (partition, after) = (self.lease.partition, self.read_upto);
        let read = self.shared.read(move |connection| read_after(connection, partition, after)).await?;
        if let Some(last) = read.last() {
            self.read_upto = last.id;
        }
        self.ahead.extend(read);
        Ok(())
    }

    fn hand_out(&self, waiting: Waiting, room: OwnedSemaphorePermit) -> Delivery {
        let (partition, lease, id) = (self.lease.partition, self.lease.id, waiting.id);
        // Not waited for: after a crash within this moment an attempt is not counted, which is all that can happen.
        self.shared.writer.submit(
            Durability::Loose,
            move |connection| Lease::handed_out(connection, partition, lease, id),
            drop,
        );
        let settle = SettleMessage { shared: self.shared.clone(), lease, message: id, room: Some(room) };
        Delivery::new(waiting.message, waiting.attempts, Box::new(settle))
    }
}

/// The subscriber was dropped, or its process was stopped or starved for seconds: another may have taken over.
fn lost(shared: &Shared) -> QueueError {
    QueueError::Unreachable { address: shared.file.address(), cause: "the lease of the partition ran out".into() }
}

impl Subscriber for EmbeddedSubscriber {
    async fn receive(&mut self) -> Result<Option<Delivery>, QueueError> {
        // The window is never closed; were it, the subscription would be.
        let Ok(room) = self.window.clone().acquire_owned().await else { return Ok(None) };
        loop {
            if self.lease.is_lost() {
                return Err(lost(&self.shared));
            }
            if let Some(waiting) = self.ahead.pop_front() {
                return Ok(Some(self.hand_out(waiting, room)));
            }
            // News that comes from here on wakes the wait below, so nothing falls between the look and the wait.
            self.news.borrow_and_update();
            if !self.active {
                self.take_turn().await?;
            }
            if self.active {
                self.read_ahead().await?;
            }
            if self.ahead.is_empty() {
                // Either way it is time to look again.
                let _ = tokio::time::timeout(TURN_CHECK, self.news.changed()).await;
            }
        }
    }
}

impl Drop for EmbeddedSubscriber {
    /// Leaves the line, so that the next in it does not wait for the lease to run out.
    fn drop(&mut self) {
        let id = self.lease.id;
        self.shared.writer.submit(Durability::Loose, move |connection| Lease::release(connection, id), drop);
    }
}

fn read_after(connection: &Connection, partition: i64, after: i64) -> rusqlite::Result<Vec<Waiting>> {
    let mut select = connection.prepare_cached(
        "SELECT id, attempts, properties, body FROM message WHERE partition = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
    )?;
    let mut rows = select.query(params![partition, after, READ_AHEAD])?;
    let (mut read, mut bytes) = (Vec::new(), 0);
    while bytes < READ_AHEAD_BYTES
        && let Some(row) = rows.next()?
    {
        let message = message::from_row(row, 2, 3)?;
        bytes += message.body.len();
        read.push(Waiting { id: row.get(0)?, attempts: row.get(1)?, message });
    }
    Ok(read)
}

/// Settles one message. Its place in the window is free again when it is acknowledged; a delivery that is dropped keeps
/// it, as an unsettled message does at any broker.
struct SettleMessage {
    shared: Arc<Shared>,
    lease: i64,
    message: i64,
    room: Option<OwnedSemaphorePermit>,
}

impl Settle for SettleMessage {
    fn ack(mut self: Box<Self>) -> BoxFuture<'static, Result<(), QueueError>> {
        async move {
            let (lease, message) = (self.lease, self.message);
            let ack = self.shared.write(Durability::Loose, move |connection| Lease::ack(connection, lease, message));
            if !ack.await? {
                return Err(lost(&self.shared));
            }
            self.room = None;
            Ok(())
        }
        .boxed()
    }
}

impl Drop for SettleMessage {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            room.forget();
        }
    }
}
