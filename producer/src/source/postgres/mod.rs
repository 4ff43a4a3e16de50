//! PostgreSQL as a source, by logical replication.
//!
//! One publication and one permanent slot per source, made at the first start; `pgoutput` over a replication
//! connection, with SQL beside it. The rows that are already there come first, from a snapshot, then the stream; every
//! change has the version `epoch | commit LSN | ordinal`. Knows nothing of shares' rules, queues or encryption. Fails
//! with [`SourceError`]; every failure drops the connections, and the next call starts over from the slot.

mod assemble;
#[cfg(feature = "bench")]
pub mod bench;
mod complete;
mod config;
mod connect;
mod copy;
mod find;
mod follow;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod live;
mod look;
mod lookup;
mod pgoutput;
mod queue;
mod repair;
mod setup;
mod shape;
mod state;
mod stock;
mod table;
#[cfg(test)]
mod tests;
mod values;
mod wait;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

pub use config::PostgresSourceConfig;
pub use stock::{Parts, PostgresStock};
use syncline_shared::pace::Pace;
use syncline_shared::record::Version;
use tokio::sync::watch;

use self::connect::Settings;
use self::live::Live;
use self::table::Job;
use super::{Checked, Found, PollLimit, Polled, Retained, Source, SourceError, Wanted, WatchedTable};

/// A place in the source's log, and the copies that were complete there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log's epoch; places of different epochs cannot be compared.
    epoch: u32,
    /// End of the last transaction that was reported; zero before the first.
    lsn: u64,
    /// How many copies this source had reported by then.
    copies: u64,
}

/// Where the source is with its connections.
enum Stage {
    Apart,
    Connecting(BoxFuture<'static, Result<Box<Live>, SourceError>>),
    Live(Box<Live>),
}

/// A PostgreSQL database changes are read from.
pub struct PostgresSource {
    settings: Arc<Settings>,
    stage: Stage,
    /// Copies reported so far.
    copies: u64,
    /// Reported copies that are not yet remembered as safe, each with its number.
    reported: VecDeque<(u64, Job)>,
    committed: Option<Position>,
    /// The lag of the last connection when it ended: one that is away does not catch up.
    last_lag_bytes: Option<u64>,
    retained: Option<Retained>,
    /// Whether it was told that the server keeps too much.
    keeps_too_much: bool,
    /// The log's epoch while the stream is read, for bulk shares beside it.
    epoch: watch::Sender<Option<u32>>,
}

impl fmt::Debug for PostgresSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSource").field("source", &self.settings.source).finish_non_exhaustive()
    }
}

impl PostgresSource {
    /// Prepares a source of this name for these tables; opens no connection.
    #[must_use]
    pub fn new(name: &str, config: PostgresSourceConfig, tables: Vec<WatchedTable>) -> Self {
        let settings = Arc::new(Settings::new(name, config, tables));
        Self {
            settings,
            stage: Stage::Apart,
            copies: 0,
            reported: VecDeque::new(),
            committed: None,
            last_lag_bytes: None,
            retained: None,
            keeps_too_much: false,
            epoch: watch::Sender::new(None),
        }
    }

    /// Connects and looks at everything the source needs; makes nothing.
    pub async fn check(&self) -> Checked {
        let sql = match self.settings.sql().await {
            Ok(sql) => sql,
            Err(problem) => return problem.into(),
        };
        let mut checked = setup::check(&self.settings, &sql).await.unwrap_or_else(Checked::from);
        if !checked.problems.iter().any(|problem| matches!(problem, SourceError::Refused { .. })) {
            checked.problems.extend(self.check_replication().await.err());
        }
        checked
    }

    /// Looks for a record of the first of its tables; changes nothing.
    ///
    /// # Errors
    /// [`SourceError`]; also when there is no such table, or its changes could not be shared.
    pub async fn find(&self, wanted: Wanted<'_>) -> Result<Found, SourceError> {
        find::find(&self.settings, wanted).await
    }

    /// Makes the next start begin anew after changes were lost: a new slot, a new epoch, and a copy of every table for all
    /// its shares. Refused when nothing was lost, unless `whole` says that all records are to be sent again nevertheless.
    ///
    /// Returns the version that everything sent from then on is newer than. Once the copies are there, a record with an
    /// older version is one that no longer is at the source, or no longer fits its share.
    ///
    /// # Errors
    /// [`SourceError`]; nothing is different then, and the same again helps once its cause is mended.
    pub async fn rebuild(&self, whole: bool) -> Result<Version, SourceError> {
        repair::rebuild(&self.settings, &self.settings.sql().await?, whole).await
    }

    /// Lets a source go on that is paused since a table was truncated, made anew or given another key, once its old records
    /// were removed from the targets; the names of those tables.
    ///
    /// # Errors
    /// [`SourceError`]; the source stays paused.
    pub async fn resume(&self) -> Result<Vec<Arc<str>>, SourceError> {
        follow::resume(&self.settings, &self.settings.sql().await?).await
    }

    /// A role may be allowed to replicate and yet be shut out by `pg_hba.conf`.
    async fn check_replication(&self) -> Result<(), SourceError> {
        let mut replication = self.settings.replication(0).await?;
        replication.identify_system().await.map(drop).map_err(|error| self.settings.broken(&error))
    }

    /// Notes what the server keeps for the slot, and tells when it becomes too much and when it is no longer.
    fn note_retained(&mut self) {
        let Stage::Live(live) = &self.stage else { return };
        let Retained { bytes, room_bytes } = live.retained();
        self.retained = Some(live.retained());
        let bytes_max = self.settings.config.retained_wal_warn_bytes;
        let too_much = bytes >= bytes_max || room_bytes == Some(0);
        if too_much == self.keeps_too_much {
            return;
        }
        self.keeps_too_much = too_much;
        let source = &self.settings.source;
        if too_much {
            let advice =
                "the server keeps much of its log for this source; see what holds it up, its disk may run full";
            tracing::warn!(source, retained_bytes = bytes, room_bytes, retained_wal_warn_bytes = bytes_max, "{advice}");
        } else {
            tracing::info!(source, retained_bytes = bytes, "the server keeps little of its log again");
        }
    }

    async fn advance(&mut self, limit: PollLimit) -> Result<Polled<Position>, SourceError> {
        let live = loop {
            match &mut self.stage {
                Stage::Live(live) => break live,
                Stage::Connecting(connecting) => {
                    let live = connecting.await?;
                    self.epoch.send_replace(Some(live.epoch()));
                    self.stage = Stage::Live(live);
                }
                Stage::Apart => {
                    let copies = self.committed.map_or(0, |position| position.copies);
                    let safe = self.reported.iter().filter(|(number, _)| *number <= copies);
                    let safe = safe.map(|(_, job)| job.clone()).collect();
                    let connecting = live::connect(Arc::clone(&self.settings), self.committed, safe);
                    self.stage = Stage::Connecting(connecting.boxed());
                }
            }
        };
        let taken = live.next(limit).await?;
        let moved = taken.reached.is_some() || !taken.copied.is_empty();
        for job in taken.copied {
            self.copies += 1;
            self.reported.push_back((self.copies, job));
        }
        let here = Position { epoch: live.epoch(), lsn: live.reached(), copies: self.copies };
        Ok(Polled { changes: taken.changes, position: moved.then_some(here) })
    }
}

impl Source for PostgresSource {
    type Position = Position;
    type Lookups = PostgresStock;

    fn pace(&self) -> Pace {
        self.settings.config.pace()
    }

    fn is_busy(&self) -> bool {
        match &self.stage {
            Stage::Live(live) => live.is_copying(),
            Stage::Apart | Stage::Connecting(_) => true,
        }
    }

    fn lookups(&self) -> PostgresStock {
        self.stock()
    }

    async fn poll(&mut self, limit: PollLimit) -> Result<Polled<Position>, SourceError> {
        let polled = self.advance(limit).await;
        self.note_retained();
        if polled.is_err() {
            self.last_lag_bytes = self.lag_bytes();
            self.stage = Stage::Apart;
            self.epoch.send_replace(None);
            // A copy that is not safe yet is made again, under a number of its own: positions to come say nothing of this one.
            let safe = self.committed.map_or(0, |position| position.copies);
            self.reported.retain(|(number, _)| *number <= safe);
        }
        polled
    }

    async fn commit(&mut self, upto: &Position) -> Result<(), SourceError> {
        let before = self.committed.unwrap_or(*upto);
        let lsn = if upto.epoch == before.epoch { upto.lsn.max(before.lsn) } else { upto.lsn };
        self.committed = Some(Position { lsn, copies: upto.copies.max(before.copies), ..*upto });
        // While the source is apart, this is kept in mind and used at the next connection.
        let Stage::Live(live) = &mut self.stage else { return Ok(()) };
        while let Some((_, job)) = self.reported.front().filter(|(number, _)| *number <= upto.copies) {
            live.finish_copy(job).await?;
            self.reported.pop_front();
        }
        if upto.epoch == live.epoch() && upto.lsn > 0 {
            live.confirm(upto.lsn);
        }
        Ok(())
    }

    async fn close(self) {
        if let Stage::Live(live) = self.stage {
            live.close().await;
        }
    }

    fn lag_bytes(&self) -> Option<u64> {
        match &self.stage {
            Stage::Live(live) => Some(live.lag_bytes()),
            Stage::Apart | Stage::Connecting(_) => self.last_lag_bytes,
        }
    }

    fn retained(&self) -> Option<Retained> {
        self.retained
    }

    async fn tend(&mut self) {
        match &mut self.stage {
            Stage::Live(live) => {
                if live.tend().await.is_err() {
                    self.last_lag_bytes = self.lag_bytes();
                }
            }
            Stage::Apart | Stage::Connecting(_) => std::future::pending().await,
        }
        self.note_retained();
    }
}
