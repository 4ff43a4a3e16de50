//! Hands messages to the writer thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use super::file::Fault;
use super::message::{self, Stored};
use super::thread::Durability;
use super::{Shared, partition_id, unsigned};
use crate::envelope::Envelope;
use crate::queue::{Confirm, DeadLetter, PublishError, Publisher};

/// The largest message taken: what RabbitMQ takes too, so that a pipeline which runs here runs there.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Bytes of messages on their way to the file, per publisher, in units of a KiB.
const WINDOW_KIB: u32 = 32 << 10;

/// Publishes into the embedded queue.
pub struct EmbeddedPublisher {
    shared: Arc<Shared>,
    window: Arc<Semaphore>,
    line: Arc<Line>,
}

/// The messages of one publisher between two failures. After a refusal nothing that was handed over later may go through
/// before the caller knows, or a record's changes would change places (promise P3).
#[derive(Debug, Default)]
struct Line {
    broken: AtomicBool,
    noticed: AtomicBool,
}

/// What became of one message in the writer's transaction.
#[derive(Clone, Copy)]
enum Taken {
    Stored,
    Full,
    NoPartition,
}

impl EmbeddedPublisher {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, window: Arc::new(Semaphore::new(WINDOW_KIB as usize)), line: Arc::default() }
    }

    /// Submits a message; the confirm comes when it is on the disk.
    async fn send(
        &mut self,
        queue: &str,
        routing_key: &str,
        message: Stored,
        store: impl FnOnce(&Connection, &Stored) -> rusqlite::Result<Taken> + Send + 'static,
    ) -> Result<Confirm, PublishError> {
        let bytes = message.size();
        if bytes > MESSAGE_BYTES_MAX {
            return Err(PublishError::TooLarge { bytes, bytes_max: MESSAGE_BYTES_MAX });
        }
        let kib = u32::try_from(bytes / 1024 + 1).unwrap_or(WINDOW_KIB).min(WINDOW_KIB);
        // The window is never closed, so there is always a permit to come.
        let room = self.window.clone().acquire_many_owned(kib).await.ok();
        if self.line.noticed.load(Ordering::Acquire) {
            self.line = Arc::default();
        }
        let (line, answer_line) = (self.line.clone(), self.line.clone());
        let work = move |connection: &Connection| {
            let _until_the_message_is_written = room;
            if line.broken.load(Ordering::Acquire) {
                return Ok(Taken::Full);
            }
            let taken = store(connection, &message)?;
            line.broken.store(!matches!(taken, Taken::Stored), Ordering::Release);
            Ok(taken)
        };
        let (sender, answer) = oneshot::channel();
        self.shared.writer.submit(Durability::Safe, work, move |taken| {
            if taken.is_err() {
                answer_line.broken.store(true, Ordering::Release);
            }
            // Nobody listens any more when the confirm was dropped.
            let _ = sender.send(taken);
        });
        let (line, file) = (self.line.clone(), self.shared.file.clone());
        let (queue, routing_key) = (queue.to_owned(), routing_key.to_owned());
        Ok(Confirm::new(async move {
            let refusal = match answer.await.unwrap_or(Err(Fault::NoThread)) {
                Ok(Taken::Stored) => return Ok(()),
                Ok(Taken::Full) => PublishError::Nacked,
                Ok(Taken::NoPartition) => PublishError::Unroutable { queue, routing_key },
                Err(fault) => file.error(fault).into(),
            };
            line.noticed.store(true, Ordering::Release);
            Err(refusal)
        }))
    }
}

impl Publisher for EmbeddedPublisher {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        let (name, number, bytes_max) = (queue.to_owned(), envelope.route().partition, self.shared.bytes_max);
        self.send(queue, &envelope.routing_key(), envelope.to_message().into(), move |connection, message| {
            let Some(partition) = partition_id(connection, &name, number)? else { return Ok(Taken::NoPartition) };
            if used_bytes(connection)?.saturating_add(message.size() as u64) > bytes_max {
                return Ok(Taken::Full);
            }
            message::append(connection, partition, message)?;
            Ok(Taken::Stored)
        })
        .await
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        let (name, id) = (letter.queue.clone(), letter.id().to_owned());
        self.send(&letter.queue, &letter.routing_key, letter.to_message().into(), move |connection, message| {
            if partition_id(connection, &name, 0)?.is_none() {
                return Ok(Taken::NoPartition);
            }
            message::park(connection, &name, &id, message)?;
            Ok(Taken::Stored)
        })
        .await
    }
}

/// Bytes of the file that hold something; what was taken off the queue is free for new messages.
fn used_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    connection
        .prepare_cached(
            "SELECT (page_count - freelist_count) * page_size
             FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        )?
        .query_row([], |row| row.get(0))
        .map(unsigned)
}
