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
use super::complete::complete;
use super::connect::{STATUS_INTERVAL, Settings};
use super::copy::{self, Copy};
use super::queue::{Queue, Taken};
use super::setup;
use super::state::State;
use super::table::Job;
use crate::source::{PollLimit, SourceError};

/// How often the catalog is looked at for tables that appeared, and the log for its end.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The server is asked to end the stream for this long; after that it finds out by itself.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A query about the catalog that takes longer than this got lost on the way.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

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

/// A connected source.
pub(super) struct Live {
    settings: Arc<Settings>,
    sql: Client,
    stream: ReplicationClient,
    assembler: Assembler,
    queue: Queue,
    jobs: VecDeque<Job>,
    /// The tables copied for everyone, or about to be.
    caught_up: HashSet<u32>,
    copying: Copying,
    /// Everything up to this place of the log was returned; zero before the first mark.
    reached: u64,
    /// Everything up to this place of the log was committed over this connection; zero before the first commit.
    committed: u64,
    /// Everything up to this place of the log is safe elsewhere, as far as the server or this source knows.
    confirmed: u64,
    log_end: u64,
    look_at: Instant,
    heard_at: Instant,
}

/// Connects, prepares the database and starts the stream, from `resume` if that is of the log's present epoch.
pub(super) async fn connect(
    settings: Arc<Settings>,
    resume: Option<Position>,
    safe: Vec<Job>,
) -> Result<Box<Live>, SourceError> {
    let sql = settings.sql().await?;
    let mut stream = settings.replication(0).await?;
    let server = stream.identify_system().await.map_err(|error| settings.broken(&error))?;
    for job in &safe {
        State::put_copied(&settings, &sql, job).await?;
    }
    let prepared = setup::prepare(&settings, &sql, &server).await?;
    let resume = resume.filter(|position| position.epoch == prepared.epoch).map_or(0, |position| position.lsn);
    if resume > 0 {
        // Where a stream begins is fixed when its connection is made.
        stream = settings.replication(resume).await?;
    }
    stream.start().await.map_err(|error| settings.broken(&error))?;
    stream.wait_started().await.map_err(|error| settings.broken(&error))?;
    let mut assembler = Assembler::new(prepared.epoch, settings.config.session.clone());
    assembler.watch(prepared.tables);
    let now = Instant::now();
    let mut live = Live {
        settings,
        sql,
        stream,
        assembler,
        queue: Queue::default(),
        caught_up: prepared.jobs.iter().filter(|job| job.everyone).map(|job| job.table.oid).collect(),
        jobs: prepared.jobs.into(),
        copying: Copying::No,
        reached: 0,
        committed: 0,
        confirmed: resume,
        log_end: 0,
        look_at: now + LOOK_INTERVAL,
        heard_at: now,
    };
    live.look_at_log().await?;
    tracing::info!(source = live.settings.source, slot = live.settings.slot, "reading changes");
    Ok(Box::new(live))
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

    /// Bytes of the log between what is safe elsewhere and its end, as last seen.
    pub(super) fn lag_bytes(&self) -> u64 {
        self.log_end.max(self.stream.metrics().last_wal_end().as_u64()).saturating_sub(self.confirmed)
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
        State::put_copied(&self.settings, &self.sql, job).await
    }

    /// Waits for the next changes or marks. Cancel-safe: what was read stays in the queue.
    pub(super) async fn next(&mut self, limit: PollLimit) -> Result<Taken, SourceError> {
        while self.queue.is_empty() {
            self.read(limit).await?;
        }
        if matches!(self.copying, Copying::No) && self.jobs.is_empty() {
            self.read_ready(limit)?;
        }
        let incomplete = self.queue.incomplete(limit);
        complete(&self.settings, &self.sql, &self.assembler, incomplete, limit.bytes).await?;
        let taken = self.queue.take(limit);
        self.reached = taken.reached.unwrap_or(self.reached);
        Ok(taken)
    }

    /// Reads from the copy while there is one, else from the stream, and looks after the database in between.
    async fn read(&mut self, limit: PollLimit) -> Result<(), SourceError> {
        if Instant::now() >= self.look_at {
            let looked = timeout(ANSWER_TIMEOUT, self.look()).await;
            looked.map_err(|_| self.settings.unreachable("the server does not answer"))??;
        }
        match &mut self.copying {
            Copying::Opening { opening, beside_stream } => tokio::select! {
                biased;
                opened = opening => {
                    self.copying = Copying::Rows(Box::new(opened?));
                    Ok(())
                }
                event = self.stream.recv(), if *beside_stream => self.hear(event),
                () = sleep_until(self.look_at) => Ok(()),
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
        let heartbeat_at = self.heard_at + self.settings.config.heartbeat_interval();
        tokio::select! {
            event = self.stream.recv() => self.hear(event)?,
            () = sleep_until(heartbeat_at.min(self.look_at)) => {
                if Instant::now() >= heartbeat_at {
                    self.beat().await?;
                }
            }
        }
        Ok(())
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
        self.sql.execute(query, &[]).await.map_err(|error| self.settings.failed("writing a heartbeat", &error))?;
        Ok(())
    }

    /// Looks for tables that appeared and for the end of the log.
    async fn look(&mut self) -> Result<(), SourceError> {
        let state = State::read(&self.settings, &self.sql).await?;
        let (tables, jobs) = setup::follow(&self.settings, &self.sql, &state, false).await?;
        self.look_at_log().await?;
        // Every other copy is under way since the connection was made.
        self.jobs.extend(jobs.into_iter().filter(|job| job.everyone && self.caught_up.insert(job.table.oid)));
        self.assembler.watch(tables);
        self.look_at = Instant::now() + LOOK_INTERVAL;
        Ok(())
    }

    async fn look_at_log(&mut self) -> Result<(), SourceError> {
        let query = "SELECT (pg_current_wal_lsn() - '0/0')::int8, (confirmed_flush_lsn - '0/0')::int8
            FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.sql.query_opt(query, &[&self.settings.slot]).await;
        let row = row.map_err(|error| self.settings.failed("looking at the log", &error))?;
        let place = |index| row.as_ref().and_then(|row| row.get::<_, Option<i64>>(index)).unwrap_or_default();
        self.log_end = u64::try_from(place(0)).unwrap_or_default();
        self.confirmed = self.confirmed.max(u64::try_from(place(1)).unwrap_or_default());
        Ok(())
    }
}
