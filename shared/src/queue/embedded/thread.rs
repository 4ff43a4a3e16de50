//! The two threads that own the connections: jobs go in through a channel, answers come back through one-shot channels.
//!
//! The channels hold as much as their senders allow themselves: publishers are bounded in bytes, subscribers by their
//! window, everything else waits for its answer.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};
use tokio::sync::{oneshot, watch};

use super::file::{Fault, File};
use super::lease::{LEASE_RENEWAL, Leases};
use crate::sqlite;

/// Jobs per transaction: keeps a commit under some ten milliseconds, so that leases and readers get their turn.
const GROUP_MAX: usize = 256;
/// How soon after something new the file is looked at again for what other processes write.
const WATCH_FIRST: Duration = Duration::from_millis(2);
/// How often an idle file is looked at; the latency between two processes is at most this.
const WATCH_IDLE: Duration = Duration::from_millis(20);

/// What a committed job is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// On the disk: survives a power failure.
    Safe,
    /// Survives the process. After a power failure an acknowledged message may come again, which a target takes as a
    /// duplicate; the file itself stays sound.
    Loose,
}

/// One piece of work for a connection.
trait Job: Send {
    fn durability(&self) -> Durability;
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Answers, after the job's transaction ended.
    fn finish(self: Box<Self>, committed: Result<(), Fault>);
}

struct Task<W, T, A> {
    durability: Durability,
    work: Option<W>,
    value: Option<T>,
    answer: A,
}

impl<W, T, A> Job for Task<W, T, A>
where
    W: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
    T: Send,
    A: FnOnce(Result<T, Fault>) + Send,
{
    fn durability(&self) -> Durability {
        self.durability
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let Some(work) = self.work.take() {
            self.value = Some(work(connection)?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), Fault>) {
        let Self { value, answer, .. } = *self;
        answer(committed.and_then(|()| value.ok_or(Fault::NoThread)));
    }
}

/// A thread that owns a connection. Dropping it waits until the jobs it was given are done.
pub(super) struct Thread {
    jobs: Option<Sender<Box<dyn Job>>>,
    handle: Option<JoinHandle<()>>,
}

impl Thread {
    /// Writes, as many jobs per transaction as are waiting, and renews the leases.
    pub(super) fn writer(file: File, leases: Arc<Leases>, news: Arc<watch::Sender<u64>>) -> Self {
        Self::spawn("queue-writer", move |jobs| write(&jobs, &mut Owned::new(file), &leases, &news))
    }

    /// Reads, and watches the file for what other connections write.
    pub(super) fn reader(file: File, news: Arc<watch::Sender<u64>>) -> Self {
        Self::spawn("queue-reader", move |jobs| read(&jobs, &mut Owned::new(file), &news))
    }

    fn spawn(name: &str, work: impl FnOnce(Receiver<Box<dyn Job>>) + Send + 'static) -> Self {
        let (jobs, receiver) = mpsc::channel();
        // A machine without threads to give shows with the first job: nobody answers it.
        let handle = Builder::new().name(name.to_owned()).spawn(move || work(receiver)).ok();
        Self { jobs: Some(jobs), handle }
    }

    /// Hands over a job; jobs run in the order of the calls. `answer` is called on the thread when the job's transaction
    /// has ended, before any later transaction begins, and never when the thread is gone.
    pub(super) fn submit<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        answer: impl FnOnce(Result<T, Fault>) + Send + 'static,
    ) {
        if let Some(jobs) = &self.jobs {
            // A thread that is gone drops the job, and with it its answer.
            let _ = jobs.send(Box::new(Task { durability, work: Some(work), value: None, answer }));
        }
    }

    /// Hands over a job and waits for its answer.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Fault> {
        let (sender, answer) = oneshot::channel();
        // Nobody listens any more when the caller was cancelled.
        self.submit(durability, work, |result| drop(sender.send(result)));
        answer.await.unwrap_or(Err(Fault::NoThread))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            // A panic was already reported by the thread itself.
            let _ = handle.join();
        }
    }
}

/// A connection that is opened when first needed, and again after it was spoilt.
struct Owned {
    file: File,
    connection: Option<Connection>,
}

impl Owned {
    const fn new(file: File) -> Self {
        Self { file, connection: None }
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, Fault> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(self.file.open()?),
        };
        let result = work(connection).map_err(Fault::from);
        if result.as_ref().is_err_and(Fault::spoils_connection) {
            self.connection = None;
        }
        result
    }
}

fn write(jobs: &Receiver<Box<dyn Job>>, owned: &mut Owned, leases: &Leases, news: &watch::Sender<u64>) {
    let mut renewed = Instant::now();
    loop {
        let mut group = match jobs.recv_timeout(LEASE_RENEWAL.saturating_sub(renewed.elapsed())) {
            Ok(job) => vec![job],
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        group.extend(jobs.try_iter().take(GROUP_MAX - 1));
        if !group.is_empty() {
            let safe = group.iter().any(|job| job.durability() == Durability::Safe);
            let committed = owned.with(|connection| commit(connection, &mut group, safe));
            for job in group {
                job.finish(committed.clone());
            }
            // Whatever brings messages is asked to be safe; the rest is no news.
            if safe {
                news.send_modify(|news| *news = news.wrapping_add(1));
            }
        }
        if renewed.elapsed() >= LEASE_RENEWAL {
            renewed = Instant::now();
            let held = leases.held();
            if !held.is_empty() {
                // A file that is locked for long or damaged: the next renewal tries again until the leases run out.
                let _ = owned.with(|connection| Leases::renew(connection, &held));
            }
        }
    }
}

/// Runs all jobs in one transaction: all of them happen, or none.
fn commit(connection: &mut Connection, group: &mut [Box<dyn Job>], safe: bool) -> rusqlite::Result<()> {
    // In WAL mode NORMAL does not wait for the disk at a commit, FULL does.
    connection.pragma_update(None, "synchronous", if safe { "FULL" } else { "NORMAL" })?;
    let writing = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for job in group {
        job.run(&writing)?;
    }
    writing.commit()
}

fn read(jobs: &Receiver<Box<dyn Job>>, owned: &mut Owned, news: &watch::Sender<u64>) {
    let (mut written, mut newest, mut wait) = (0, None, WATCH_FIRST);
    loop {
        // Nobody waits for messages: then there is nothing to watch for.
        let job = if news.receiver_count() == 0 {
            jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            jobs.recv_timeout(wait)
        };
        match job {
            Ok(mut job) => {
                let done = owned.with(|connection| {
                    let reading = connection.transaction()?;
                    job.run(&reading)?;
                    reading.commit()
                });
                job.finish(done);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        wait = (wait * 2).min(WATCH_IDLE);
        let Some(connection) = &owned.connection else { continue };
        // A failure here shows with the next job.
        let version = sqlite::data_version(connection).unwrap_or(written);
        if version != written {
            written = version;
            let latest = newest_message(connection).unwrap_or(newest);
            if latest != newest {
                (newest, wait) = (latest, WATCH_FIRST);
                news.send_modify(|news| *news = news.wrapping_add(1));
            }
        }
    }
}

/// The highest id a message ever got.
fn newest_message(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'message'")?
        .query_row([], |row| row.get(0))
        .optional()
}
