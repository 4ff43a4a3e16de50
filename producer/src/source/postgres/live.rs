//! One connected source: its connections, and what was read from them.
//!
//! Dropping it ends every connection; the next one starts over from the slot.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{Lsn, PgWireError, ReplicationClient};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_postgres::Client;

use super::Position;
use super::assemble::Assembler;
use super::complete::{self, Found};
use super::connect::{STATUS_INTERVAL, Settings};
use super::copy::{self, Copy};
use super::follow::stop_at;
use super::look::{Looked, look, look_at_log};
use super::queue::{Queue, Taken};
use super::setup;
use super::state::State;
use super::table::Job;
use crate::source::{PollLimit, Retained, SourceError};

/// How often the catalog is looked at for tables that appeared, and the log for its end.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// How long a statement waits for a lock; less than it waits for an answer.
const LOCK_PATIENCE: &str = "20s";

/// The server is asked to end the stream for this long; after that it finds out by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A copy that is being opened, or read.
enum Copying {
    No,
    Opening {
        opening: BoxFuture<'static, Result<Copy, SourceError>>,
        /// Whether the stream goes on meanwhile: opening waits for every open transaction, and a table that appeared
        /// must not hold up all others. Its copied rows are older by version, whatever came before them.
        beside_stream: bool,
    },
    Rows(Box<Copy>),
}

/// A connected source. What takes long is kept in it as a future, so that a dropped poll does not set it back.
pub(super) struct Live {
    settings: Arc<Settings>,
    sql: Arc<Client>,
    stream: ReplicationClient,
    assembler: Assembler,
    queue: Queue,
    jobs: VecDeque<Job>,
    /// The tables copied for everyone, or about to be.
    caught_up: HashSet<u32>,
    copying: Copying,
    /// A look at the database under way.
    looking: Option<BoxFuture<'static, Result<Looked, SourceError>>>,
    /// A read of unsent columns under way, for the first changes in the queue.
    completing: Option<BoxFuture<'static, Result<Found, SourceError>>>,
    /// How many changes are completed at once; fewer where rows are large.
    complete_at_once: usize,
    /// Everything up to this place of the log was returned; zero before the first mark.
    reached: u64,
    /// Everything up to this place of the log was committed over this connection; zero before the first commit.
    committed: u64,
    /// Everything up to this place of the log is safe elsewhere, as far as the server or this source knows.
    confirmed: u64,
    log_end: u64,
    retained: Retained,
    look_at: Instant,
    heard_at: Instant,
}

/// Connects, prepares the database and starts the stream, from `resume` if that is of the log's present epoch.
pub(super) async fn connect(
    settings: Arc<Settings>,
    resume: Option<Position>,
    safe: Vec<Job>,
) -> Result<Box<Live>, SourceError> {
    let meeting = async {
        let sql = Arc::new(settings.sql().await?);
        let mut stream = settings.replication(0).await?;
        let server = stream.identify_system().await.map_err(|error| settings.broken(&error))?;
        for job in &safe {
            State::put_copied(&settings, &sql, job).await?;
        }
        Ok((sql, stream, server))
    };
    let (sql, mut stream, server) = Arc::clone(&settings).answered(meeting).await?;
    // Without a limit of time: a new slot waits for every open transaction.
    let prepared = setup::prepare(&settings, &sql, &server, resume).await?;
    let resume = resume.filter(|position| position.epoch == prepared.epoch).map_or(0, |position| position.lsn);
    let starting = async {
        if resume > 0 {
            // Where a stream begins is fixed when its connection is made.
            stream = settings.replication(resume).await?;
        }
        stream.start().await.map_err(|error| settings.broken(&error))?;
        stream.wait_started().await.map_err(|error| settings.broken(&error))?;
        // From here on no statement waits longer for a lock than for an answer, so none is left behind at the server.
        let patience = sql.batch_execute(&format!("SET lock_timeout = '{LOCK_PATIENCE}'")).await;
        patience.map_err(|error| settings.failed("session settings", &error))?;
        let log = look_at_log(&settings, &sql).await?;
        Ok((stream, log))
    };
    let (stream, log) = Arc::clone(&settings).answered(starting).await?;
    let mut assembler = Assembler::new(prepared.epoch, settings.config.session.clone());
    assembler.watch(prepared.tables);
    tracing::info!(source = settings.source, slot = settings.slot, "reading changes");
    let now = Instant::now();
    Ok(Box::new(Live {
        settings,
        sql,
        stream,
        assembler,
        queue: Queue::default(),
        caught_up: prepared.jobs.iter().filter(|job| job.everyone).map(|job| job.table.oid).collect(),
        jobs: prepared.jobs.into(),
        copying: Copying::No,
        looking: None,
        completing: None,
        complete_at_once: complete::ROWS_AT_ONCE_MAX,
        reached: 0,
        committed: 0,
        confirmed: resume.max(log.confirmed),
        log_end: log.end,
        retained: log.retained,
        look_at: now + LOOK_INTERVAL,
        heard_at: now,
    }))
}

/// Waits for a future that may be under way.
async fn under_way<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

impl Live {
    /// The first part of every version.
    pub(super) const fn epoch(&self) -> u32 {
        self.assembler.epoch()
    }

    /// Everything up to this place of the log was returned by [`Self::next`].
    pub(super) const fn reached(&self) -> u64 {
        self.reached
    }

    /// Whether rows are being copied, or are to be.
    pub(super) fn is_copying(&self) -> bool {
        !matches!(self.copying, Copying::No) || !self.jobs.is_empty()
    }

    /// Bytes of the log between what is safe elsewhere and its end, as last seen.
    pub(super) fn lag_bytes(&self) -> u64 {
        self.log_end.max(self.stream.metrics().last_wal_end().as_u64()).saturating_sub(self.confirmed)
    }

    /// What the server keeps of its log for the slot, as last seen.
    pub(super) const fn retained(&self) -> Retained {
        self.retained
    }

    /// Takes the next look that is due while nothing is read.
    pub(super) async fn tend(&mut self) -> Result<(), SourceError> {
        sleep_until(self.look_at).await;
        self.look()?;
        let looked = under_way(&mut self.looking).await;
        self.see(looked)
    }

    /// Tells the server that everything up to here is safe elsewhere; it hears of it within a tenth of a second.
    pub(super) fn confirm(&mut self, lsn: u64) {
        self.committed = self.committed.max(lsn);
        self.confirmed = self.confirmed.max(lsn);
        self.stream.update_applied_lsn(Lsn(self.committed));
    }

    /// Ends the stream once the server heard of everything that was confirmed.
    pub(super) async fn close(mut self: Box<Self>) {
        let metrics = self.stream.metrics();
        let closing = async {
            while metrics.last_applied_lsn().as_u64() < self.committed && self.stream.is_running() {
                sleep(STATUS_INTERVAL / 10).await;
            }
            self.stream.shutdown().await
        };
        match timeout(CLOSE_TIMEOUT, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the stream ended badly; its last changes are repeated"),
            Err(_) => tracing::debug!("the stream did not end in time; its last changes are repeated"),
        }
    }

    /// Remembers that a copy is safe elsewhere.
    pub(super) async fn finish_copy(&mut self, job: &Job) -> Result<(), SourceError> {
        let stored = State::put_copied(&self.settings, &self.sql, job);
        Arc::clone(&self.settings).answered(stored).await?;
        tracing::info!(
            source = self.settings.source,
            table = &*job.table.name,
            "the copied rows are safe at the broker"
        );
        Ok(())
    }

    /// Waits for the next changes or marks. Cancel-safe: what was read stays in the queue.
    pub(super) async fn next(&mut self, limit: PollLimit) -> Result<Taken, SourceError> {
        while self.queue.is_empty() {
            self.read(limit).await?;
        }
        if self.completing.is_none() && matches!(self.copying, Copying::No) && self.jobs.is_empty() {
            self.read_ready(limit)?;
            // The server sends whole transactions, so the rest of one is on its way: a poll that is not full ends with it.
            while self.queue.ends_with_change() && !self.queue.is_full(limit) {
                self.look()?;
                self.hear_next().await?;
            }
        }
        if let Some((table, place)) = self.queue.truncated() {
            return Err(stop_at(&self.settings, &self.sql, &table, place).await);
        }
        self.complete(limit).await?;
        let taken = self.queue.take(limit);
        self.reached = taken.reached.unwrap_or(self.reached);
        Ok(taken)
    }

    /// Completes the next changes until about the limit was read. Nothing enters the queue meanwhile, lest what was read
    /// before a change is taken for what came after it.
    async fn complete(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        let mut bytes = 0;
        loop {
            if self.completing.is_none() {
                let incomplete = self.queue.incomplete(limit).take(self.complete_at_once);
                let Some(plan) = complete::plan(&self.assembler, incomplete) else { return Ok(()) };
                let reading = complete::read(Arc::clone(&self.settings), Arc::clone(&self.sql), plan, limit.bytes);
                self.completing = Some(Arc::clone(&self.settings).answered(reading).boxed());
            }
            let found = under_way(&mut self.completing).await?;
            self.completing = None;
            found.fill(self.queue.first_incomplete(found.changes));
            self.complete_at_once = found.next_at_once();
            bytes += found.bytes;
            if bytes >= limit.bytes {
                return Ok(());
            }
        }
    }

    /// Reads from the copy while there is one, else from the stream, and looks after the database in between.
    async fn read(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        self.look()?;
        match &mut self.copying {
            Copying::Opening { opening, beside_stream } => tokio::select! {
                biased;
                opened = opening => {
                    self.copying = Copying::Rows(Box::new(opened?));
                    Ok(())
                }
                event = self.stream.recv(), if *beside_stream => self.hear(event),
                looked = under_way(&mut self.looking) => self.see(looked),
                () = sleep_until(self.look_at), if self.looking.is_none() => Ok(()),
            },
            Copying::Rows(_) => self.read_copy(limit).await,
            Copying::No => match self.jobs.pop_front() {
                Some(job) => {
                    let beside_stream = job.everyone;
                    let opening = copy::open(Arc::clone(&self.settings), job, self.assembler.epoch()).boxed();
                    self.copying = Copying::Opening { opening, beside_stream };
                    Ok(())
                }
                None => self.read_stream(limit).await,
            },
        }
    }

    async fn read_copy(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        let Copying::Rows(copy) = &mut self.copying else { return Ok(()) };
        while !self.queue.is_full(limit) {
            let next = if self.queue.is_empty() {
                copy.next().await?
            } else {
                let Some(next) = unconstrained(copy.next()).now_or_never() else { break };
                next?
            };
            let Some(changes) = next else {
                let Copying::Rows(copy) = std::mem::replace(&mut self.copying, Copying::No) else { break };
                self.queue.end_copy(copy.job);
                break;
            };
            changes.into_iter().for_each(|change| self.queue.push(change));
        }
        Ok(())
    }

    async fn read_stream(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        self.read_ready(limit)?;
        if !self.queue.is_empty() {
            return Ok(());
        }
        self.hear_next().await
    }

    /// Waits for the next event, and looks after the database meanwhile: a connection that died without a word would be
    /// waited for without end.
    async fn hear_next(&mut self) -> Result<(), SourceError> {
        let heartbeat_at = self.heard_at + self.settings.config.heartbeat_interval();
        tokio::select! {
            event = self.stream.recv() => self.hear(event),
            looked = under_way(&mut self.looking) => self.see(looked),
            () = sleep_until(self.look_at), if self.looking.is_none() => Ok(()),
            () = sleep_until(heartbeat_at) => self.beat().await,
        }
    }

    /// Takes the events that are already here.
    fn read_ready(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        while !self.queue.is_full(limit) {
            let Some(event) = unconstrained(self.stream.recv()).now_or_never() else { break };
            self.hear(event)?;
        }
        Ok(())
    }

    fn hear(&mut self, event: Result<Option<ReplicationEvent>, PgWireError>) -> Result<(), SourceError> {
        let event = event.map_err(|error| self.settings.broken(&error))?;
        let event = event.ok_or_else(|| self.settings.unreachable("the server ended the stream"))?;
        if !matches!(event, ReplicationEvent::KeepAlive { .. }) {
            self.heard_at = Instant::now();
        }
        self.assembler.take(event, &mut self.queue)
    }

    /// Writes a mark into the log of an idle database, so that the slot moves and the log is given free.
    async fn beat(&mut self) -> Result<(), SourceError> {
        self.heard_at = Instant::now();
        let query = "SELECT pg_logical_emit_message(true, 'syncline-heartbeat', '')";
        let (settings, sql) = (Arc::clone(&self.settings), Arc::clone(&self.sql));
        let writing = async {
            let written = sql.execute(query, &[]).await;
            written.map(drop).map_err(|error| self.settings.failed("writing a heartbeat", &error))
        };
        settings.answered(writing).await
    }

    /// Begins a look at the database when it is time, and sees what one under way has found by now.
    fn look(&mut self) -> Result<(), SourceError> {
        if self.looking.is_none() && Instant::now() >= self.look_at {
            let looking = look(Arc::clone(&self.settings), Arc::clone(&self.sql));
            let looking = Arc::clone(&self.settings).answered(looking);
            self.looking = Some(looking.boxed());
        }
        match under_way(&mut self.looking).now_or_never() {
            Some(looked) => self.see(looked),
            None => Ok(()),
        }
    }

    fn see(&mut self, looked: Result<Looked, SourceError>) -> Result<(), SourceError> {
        self.looking = None;
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let Looked { tables, jobs, log } = looked?;
        // Every other copy is under way since the connection was made.
        let jobs: Vec<_> = jobs.into_iter().filter(|job| job.everyone).collect();
        self.caught_up.retain(|oid| jobs.iter().any(|job| job.table.oid == *oid));
        self.jobs.extend(jobs.into_iter().filter(|job| self.caught_up.insert(job.table.oid)));
        self.assembler.watch(tables);
        self.log_end = log.end;
        self.retained = log.retained;
        self.confirmed = self.confirmed.max(log.confirmed);
        Ok(())
    }

    /// Replaces the stream by one that never says anything.
    #[cfg(test)]
    pub(super) async fn silence(&mut self) {
        self.stream = self.settings.replication(0).await.expect("a connection");
    }

    /// How many messages the transport has read beyond those whose changes were `returned`, and how many changes are held.
    #[cfg(test)]
    pub(super) fn ahead(&self, returned: usize) -> (u64, usize) {
        let forwarded = self.stream.metrics().events_forwarded();
        (forwarded.saturating_sub(u64::try_from(returned).unwrap_or(u64::MAX)), self.queue.held().0)
    }

    /// Bytes of the changes that are held.
    #[cfg(test)]
    pub(super) fn bytes_held(&self) -> usize {
        self.queue.held().1
    }
}
