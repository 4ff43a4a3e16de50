//! The embedded queue: shared queues in one SQLite file, for one machine with nothing to install.
//!
//! Producer and consumer may share the file as two processes or live in one. One thread writes: it commits all publishes
//! that are waiting in one transaction, so one `fsync` confirms many messages. Another thread reads, and watches the file
//! for what other processes write. A partition's consumer is the longest attached subscriber whose lease is alive.
//! Knows nothing of what is in an envelope. Fails with [`QueueError::Storage`] when the file cannot be used and with
//! [`QueueError::Unreachable`] when other processes keep it locked.

mod file;
mod lease;
mod message;
mod publisher;
mod subscriber;
#[cfg(test)]
mod tests;
mod thread;

pub use publisher::EmbeddedPublisher;
pub use subscriber::EmbeddedSubscriber;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension as _, params};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::{
    Broker, DeadLetter, PartitionStatus, PublishError, QueueError, QueueStatus, Settlement, SharedQueue,
    SubscribeOptions,
};
use crate::config::FieldProblem;
use file::File;
use lease::Leases;
use thread::{Durability, Thread};

/// One gibibyte: hours of a busy desk while a target is down, and small enough for any disk.
pub const DEFAULT_BYTES_MAX: u64 = 1 << 30;

/// Room for a few messages at least; with less, publishing would wait for ever.
const BYTES_MAX_MIN: u64 = 1 << 20;

/// Where the embedded queue is and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// The file; made with its folders when missing. SQLite keeps two more files beside it (`-wal`, `-shm`).
    pub path: PathBuf,
    /// Bytes the file may hold, dead letters included; beyond it publishing is refused and the producer waits until a
    /// consumer has caught up. Dead letters are still taken. At least 1 MiB, default 1 GiB.
    #[serde(default = "default_bytes_max")]
    pub bytes_max: u64,
}

const fn default_bytes_max() -> u64 {
    DEFAULT_BYTES_MAX
}

impl EmbeddedConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push(("path", "is empty; the path of a file".to_owned()));
        }
        if self.bytes_max < BYTES_MAX_MIN {
            problems.push(("bytes_max", format!("{} is out of range; {BYTES_MAX_MIN} or more", self.bytes_max)));
        }
        problems
    }
}

/// Shared queues in one SQLite file. Cheap to clone; the last clone, publisher or subscriber to go waits for what is
/// still being written.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// What the broker, its publishers and its subscribers share.
struct Shared {
    file: File,
    bytes_max: u64,
    writer: Thread,
    reader: Thread,
    leases: Arc<Leases>,
    /// Goes up whenever there may be something new to receive.
    news: Arc<watch::Sender<u64>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("path", &self.shared.file.address()).finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens nothing yet: the file is opened with the first call, and made by the first that is not only a look.
    #[must_use]
    pub fn new(config: &EmbeddedConfig) -> Self {
        let file = File::new(config.path.clone());
        let (leases, news) = (Arc::<Leases>::default(), Arc::new(watch::Sender::new(0)));
        let writer = Thread::writer(file.clone(), leases.clone(), news.clone());
        let reader = Thread::reader(file.clone(), news.clone());
        Self { shared: Arc::new(Shared { file, bytes_max: config.bytes_max, writer, reader, leases, news }) }
    }
}

impl Shared {
    /// Looking at a queue does not make its file.
    fn require_file(&self, queue: &str) -> Result<(), QueueError> {
        if self.file.exists() { Ok(()) } else { Err(missing(queue)) }
    }

    /// Runs a read in a transaction of its own.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let result = self.reader.run(Durability::Loose, work).await;
        result.map_err(|fault| self.file.error(fault))
    }

    /// Runs a write; `Ok` means committed, and with [`Durability::Safe`] also on the disk.
    async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let result = self.writer.run(durability, work).await;
        result.map_err(|fault| self.file.error(fault))
    }
}

impl Broker for Embedded {
    type Publisher = EmbeddedPublisher;
    type Subscriber = EmbeddedSubscriber;

    async fn declare(&self, queue: &SharedQueue) -> Result<(), QueueError> {
        let wanted = queue.clone();
        let found = self
            .shared
            .write(Durability::Safe, move |connection| {
                let found: u32 = connection
                    .prepare_cached("SELECT count(*) FROM partition WHERE queue = ?1")?
                    .query_row([&wanted.name], |row| row.get(0))?;
                if found == 0 {
                    let mut insert =
                        connection.prepare_cached("INSERT INTO partition (queue, number) VALUES (?1, ?2)")?;
                    for number in 0..wanted.partitions {
                        insert.execute(params![wanted.name, number])?;
                    }
                    return Ok(wanted.partitions);
                }
                Ok(found)
            })
            .await?;
        if found == queue.partitions {
            return Ok(());
        }
        Err(QueueError::Topology {
            queue: queue.name.clone(),
            problem: format!(
                "it has {found} partitions in {:?}, the configuration says {}; the number is fixed for the life of a \
                 queue: set it back, or take another name",
                self.shared.file.address(),
                queue.partitions
            ),
        })
    }

    async fn publisher(&self) -> Result<EmbeddedPublisher, QueueError> {
        // Tells at once whether the file can be used, instead of with the first message.
        self.shared.write(Durability::Loose, |_| Ok(())).await?;
        Ok(EmbeddedPublisher::new(self.shared.clone()))
    }

    async fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<EmbeddedSubscriber, QueueError> {
        EmbeddedSubscriber::attach(self.shared.clone(), queue, partition, options).await
    }

    async fn status(&self, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
        self.shared.require_file(&queue.name)?;
        let (name, now) = (queue.name.clone(), now_ms());
        let status = self.shared.read(move |connection| status(connection, &name, now)).await?;
        if status.partitions.is_empty() {
            return Err(missing(&queue.name));
        }
        Ok(status)
    }

    async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.shared.require_file(queue)?;
        let name = queue.to_owned();
        let letters = self.shared.read(move |connection| {
            let declared = partition_id(connection, &name, 0)?.is_some();
            declared.then(|| message::dead_letters(connection, &name, limit)).transpose()
        });
        letters.await?.ok_or_else(|| missing(queue))
    }

    async fn settle_dead_letters(
        &self,
        queue: &str,
        ids: &[String],
        settlement: Settlement,
    ) -> Result<usize, QueueError> {
        self.shared.require_file(queue)?;
        let (name, ids) = (queue.to_owned(), ids.to_vec());
        let settled = self.shared.write(Durability::Safe, move |connection| {
            if partition_id(connection, &name, 0)?.is_none() {
                return Ok(None);
            }
            match settlement {
                Settlement::Replay => message::replay(connection, &name, &ids).map(Some),
                Settlement::Discard => message::discard(connection, &name, &ids).map(|settled| Some(Ok(settled))),
                Settlement::Replace(letters) => {
                    let chosen = letters.iter().filter(|letter| ids.iter().any(|id| id == letter.id()));
                    message::replace(connection, &name, chosen).map(|settled| Some(Ok(settled)))
                }
            }
        });
        settled.await?.ok_or_else(|| missing(queue))?.map_err(|routing_key| {
            QueueError::Replay(PublishError::Unroutable { queue: queue.to_owned(), routing_key })
        })
    }
}

fn status(connection: &Connection, queue: &str, now: i64) -> rusqlite::Result<QueueStatus> {
    let mut select = connection.prepare_cached(
        "SELECT p.number,
                (SELECT count(*) FROM message m WHERE m.partition = p.id AND (c.consumers IS NULL OR m.id > p.handed_out)),
                (SELECT count(*) FROM message m WHERE m.partition = p.id AND c.consumers > 0 AND m.id <= p.handed_out),
                coalesce(c.consumers, 0),
                (SELECT m.sealed_at FROM message m WHERE m.partition = p.id ORDER BY m.id LIMIT 1),
                (SELECT s.replica FROM subscriber s WHERE s.id = c.first)
         FROM partition p
         LEFT JOIN (SELECT partition, count(*) AS consumers, min(id) AS first FROM subscriber WHERE expires_at >= ?2 GROUP BY partition) c
                ON c.partition = p.id
         WHERE p.queue = ?1 ORDER BY p.number",
    )?;
    let partitions = select
        .query_map(params![queue, now], |row| {
            let sealed_at: Option<i64> = row.get(4)?;
            let consumers: u32 = row.get(3)?;
            Ok(PartitionStatus {
                partition: row.get(0)?,
                ready: unsigned(row.get(1)?),
                unacked: Some(unsigned(row.get(2)?)),
                consumers,
                owner: row.get(5)?,
                standby: Some(consumers.saturating_sub(1)),
                oldest_seconds: sealed_at.map(|sealed_at| unsigned(now / 1_000 - sealed_at)),
            })
        })?
        .collect::<rusqlite::Result<_>>()?;
    let dead_letters = connection
        .prepare_cached("SELECT count(*) FROM dead_letter WHERE queue = ?1")?
        .query_row([queue], |row| row.get(0))?;
    Ok(QueueStatus { partitions, dead_letters: unsigned(dead_letters), untold: None })
}

/// The id of a partition in the file.
fn partition_id(connection: &Connection, queue: &str, number: u32) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT id FROM partition WHERE queue = ?1 AND number = ?2")?
        .query_row(params![queue, number], |row| row.get(0))
        .optional()
}

fn missing(queue: &str) -> QueueError {
    QueueError::Missing { queue: queue.to_owned() }
}

/// Counts are never negative; a clock that was set back reads as 0.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}

/// The machine's clock: all processes that share the file share it.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
