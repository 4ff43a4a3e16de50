//! A SQLite file as a source: triggers write every change into a log in the same file, the source reads the log.
//!
//! Any program may write to the file; changes are seen within [`SqliteSourceConfig::poll_interval_ms`]. What is copied,
//! shared or sealed is not known here. Fails with [`SourceError`]: a table without a primary key is refused, a file that
//! is not there or locked is tried again.
//!
//! Versions are `epoch, log row id, ordinal`. Three things a user should know: `ALTER TABLE .. DROP COLUMN` needs the
//! table's `_syncline_` triggers dropped first (they are made again within a moment); `INSERT OR REPLACE` that removes
//! *another* record over a unique column tells no trigger unless `PRAGMA recursive_triggers` is on; a file brought back
//! from a backup repeats versions, so its tables must be compared or sent again.

mod copy;
mod error;
mod log;
mod row;
mod setup;
mod table;
#[cfg(test)]
mod tests;

use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use serde::Deserialize;
use syncline_shared::sqlite;
use tracing::warn;

use super::{Change, PollLimit, Polled, SessionRule, Source, SourceError, WatchedTable};
use copy::Place;
use error::Fault;
use log::Decoder;
use table::Table;

/// Twenty milliseconds: a change is seen at once, an idle source costs next to nothing.
pub const DEFAULT_POLL_INTERVAL_MS: u64 = 20;
/// How often what is safe elsewhere is taken off the log: each time is a write to somebody else's file.
const PRUNE_INTERVAL: Duration = Duration::from_millis(250);
/// Rows taken off the log in one transaction, so that other writers wait for milliseconds only.
const PRUNE_ROWS: i64 = 5_000;

/// A SQLite file changes are read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSourceConfig {
    /// The file; it must exist. Beside it `<path>-syncline` keeps a second producer away.
    pub path: PathBuf,
    /// How to tell persons from jobs; without it the source does not say.
    pub session: Option<SessionRule>,
    /// How often an idle file is looked at, in milliseconds; at least 1. Default 20.
    #[serde(default = "default_poll_interval_ms")]
    pub poll_interval_ms: u64,
}

const fn default_poll_interval_ms() -> u64 {
    DEFAULT_POLL_INTERVAL_MS
}

/// Where a SQLite source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlitePosition {
    /// Names the change log the ids below are of.
    epoch: u32,
    /// Id of the last change of the log.
    change: i64,
    /// Id of the last copy that was read to its end.
    copied: i64,
}

/// Reads the changes of a SQLite file. All work on the file is done off the I/O threads.
pub struct SqliteSource {
    settings: Arc<Settings>,
    /// The open file; locked for as long as a step on it lasts, even when the step's caller is gone.
    opened: Arc<Mutex<Option<Opened>>>,
    at: Option<At>,
    committed: Option<SqlitePosition>,
}

struct Settings {
    name: String,
    config: SqliteSourceConfig,
    watched: Vec<WatchedTable>,
}

/// What was reported so far; moves only when a poll returns.
#[derive(Clone)]
struct At {
    position: SqlitePosition,
    /// Where the copy that is under way is.
    place: Option<Place>,
    /// The file's data version at which nothing was left to report.
    idle: Option<i64>,
}

/// The file, open and set up.
struct Opened {
    connection: Connection,
    tables: Vec<Table>,
    schema_version: i64,
    decoder: Decoder,
    pruned: Instant,
    /// Held for as long as the file is read.
    _lock: File,
}

/// What one look at the file brought.
struct Step {
    changes: Vec<Change>,
    at: At,
}

impl Settings {
    fn address(&self) -> String {
        self.config.path.display().to_string()
    }
}

impl SqliteSource {
    /// Opens nothing yet. `name` is the source's name in the configuration.
    #[must_use]
    pub fn new(name: &str, config: SqliteSourceConfig, watched: Vec<WatchedTable>) -> Self {
        let settings = Arc::new(Settings { name: name.to_owned(), config, watched });
        Self { settings, opened: Arc::default(), at: None, committed: None }
    }

    /// Reaches the file and checks the watched tables, without changing anything. Returns every problem.
    pub async fn check(&self) -> Vec<SourceError> {
        let settings = self.settings.clone();
        off_thread(move || Ok(check(&settings))).await.unwrap_or_else(|error| vec![error])
    }
}

impl Source for SqliteSource {
    type Position = SqlitePosition;

    async fn poll(&mut self, limit: PollLimit) -> Result<Polled<SqlitePosition>, SourceError> {
        loop {
            let (settings, opened) = (self.settings.clone(), self.opened.clone());
            let (at, committed) = (self.at.clone(), self.committed);
            let step = off_thread(move || {
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                let step = step(&settings, &mut opened, at, committed, limit);
                step.map_err(|fault| {
                    *opened = None;
                    fault.at(&settings.address())
                })
            });
            let step = match step.await {
                Ok(step) => step,
                Err(error) => {
                    self.at = None;
                    return Err(error);
                }
            };
            let position = step.at.position;
            let before = self.at.replace(step.at);
            if !step.changes.is_empty() || before.is_some_and(|before| before.position != position) {
                return Ok(Polled { changes: step.changes, position: Some(position) });
            }
            tokio::time::sleep(Duration::from_millis(self.settings.config.poll_interval_ms.max(1))).await;
        }
    }

    /// Notes the position; the file is told a moment later, so a crash repeats some changes.
    async fn commit(&mut self, upto: &SqlitePosition) -> Result<(), SourceError> {
        self.committed = Some(*upto);
        Ok(())
    }

    async fn close(self) {
        let (settings, opened, committed) = (self.settings.clone(), self.opened, self.committed);
        let closed = off_thread(move || {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            let (Some(opened), Some(committed)) = (opened.take(), committed) else { return Ok(()) };
            while opened.prune(committed).map_err(|error| Fault::from(error).at(&settings.address()))? {}
            Ok(())
        });
        if let Err(error) = closed.await {
            warn!(source = self.settings.name, %error, "the source could not store its position; changes since the last time it did come again");
        }
    }
}

/// Runs work that blocks; a dropped call lets it end by itself.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let ended = |_| SourceError::Protocol { problem: "the thread that read the file ended".to_owned() };
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// Looks for something new, opening the file first if need be.
fn step(
    settings: &Settings,
    slot: &mut Option<Opened>,
    at: Option<At>,
    committed: Option<SqlitePosition>,
    limit: PollLimit,
) -> Result<Step, Fault> {
    let (opened, at) = match (slot, at) {
        (Some(opened), Some(at)) => (opened, at),
        (slot, _) => {
            // The lock on the file goes with what was opened before.
            *slot = None;
            let (opened, at) = Opened::open(settings, committed)?;
            (slot.insert(opened), at)
        }
    };
    opened.step(settings, at, committed, limit)
}

impl Opened {
    fn open(settings: &Settings, committed: Option<SqlitePosition>) -> Result<(Self, At), Fault> {
        let mut connection = sqlite::open(&settings.config.path, false)?;
        let lock = lock(settings)?;
        // The log is read again after a crash in any case, so its upkeep need not wait for the disk.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let prepared = setup::prepare(&mut connection, &settings.name, &settings.watched)?;
        let mut position = prepared.committed;
        if let Some(committed) = committed.filter(|committed| committed.epoch == position.epoch) {
            position.change = position.change.max(committed.change);
            position.copied = position.copied.max(committed.copied);
        }
        let opened = Self {
            connection,
            tables: prepared.tables,
            schema_version: prepared.schema_version,
            decoder: Decoder::default(),
            pruned: Instant::now(),
            _lock: lock,
        };
        Ok((opened, At { position, place: None, idle: None }))
    }

    fn step(
        &mut self,
        settings: &Settings,
        mut at: At,
        committed: Option<SqlitePosition>,
        limit: PollLimit,
    ) -> Result<Step, Fault> {
        if let Some(committed) = committed.filter(|_| self.pruned.elapsed() >= PRUNE_INTERVAL) {
            self.prune_if_free(committed)?;
        }
        let written = sqlite::data_version(&self.connection)?;
        if at.idle == Some(written) {
            return Ok(Step { changes: Vec::new(), at });
        }
        let rule = settings.config.session.as_ref();
        loop {
            let reading = self.connection.unchecked_transaction()?;
            if setup::schema_version(&reading)? != self.schema_version {
                drop(reading);
                // Before anything is read: what the triggers wrote for a table that has changed must be completed.
                let prepared = setup::prepare(&mut self.connection, &settings.name, &settings.watched)?;
                (self.tables, self.schema_version) = (prepared.tables, prepared.schema_version);
                if prepared.committed.epoch != at.position.epoch {
                    at.position = prepared.committed;
                }
                continue;
            }
            let epoch = at.position.epoch;
            let Some(copy) = copy::next(&reading, at.position.copied)? else {
                let from = (epoch, at.position.change);
                let read = log::read(&reading, &self.tables, &mut self.decoder, rule, from, limit)?;
                at.position.change = read.upto;
                at.idle = read.all.then_some(written);
                return Ok(Step { changes: read.changes, at });
            };
            let Some(table) = self.tables.iter().find(|table| *table.watched == *copy.table) else {
                // The table is gone again; should it come back, it is copied anew.
                (at.position.copied, at.place) = (copy.id, None);
                continue;
            };
            let from = (epoch, at.place.as_ref());
            let (changes, place) =
                copy::page(&reading, (table, copy.share.as_ref()), &mut self.decoder, rule, from, limit)?;
            if place.is_none() {
                at.position.copied = copy.id;
            }
            at.place = place;
            return Ok(Step { changes, at });
        }
    }

    /// Stores what is safe elsewhere, unless another program is writing: then it is done later.
    fn prune_if_free(&mut self, committed: SqlitePosition) -> rusqlite::Result<()> {
        self.connection.busy_timeout(Duration::ZERO)?;
        let pruned = self.prune(committed);
        sqlite::wait_for_locks(&mut self.connection)?;
        match pruned {
            // When there is more, it is not left for the next interval.
            Ok(false) => self.pruned = Instant::now(),
            Ok(true) => {}
            Err(error) if sqlite::is_busy(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes some of what is safe elsewhere off the log; tells whether there is more.
    fn prune(&self, committed: SqlitePosition) -> rusqlite::Result<bool> {
        let writing = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        writing
            .prepare_cached("UPDATE _syncline_copy SET done = 1 WHERE id <= ?1 AND NOT done")?
            .execute([committed.copied])?;
        writing
            .prepare_cached("UPDATE _syncline_state SET committed = ?1 WHERE epoch = ?2 AND committed < ?1")?
            .execute([committed.change, i64::from(committed.epoch)])?;
        let pruned = writing
            .prepare_cached(
                "DELETE FROM _syncline_change WHERE id IN (
                     SELECT id FROM _syncline_change WHERE id <= ?1 AND ?2 = (SELECT epoch FROM _syncline_state)
                     ORDER BY id LIMIT ?3)",
            )?
            .execute([committed.change, i64::from(committed.epoch), PRUNE_ROWS])?;
        writing.commit()?;
        Ok(i64::try_from(pruned).is_ok_and(|pruned| pruned == PRUNE_ROWS))
    }
}

/// Keeps other producers away from the file, for as long as this process lives: two would take changes off the log that
/// the other has not read.
fn lock(settings: &Settings) -> Result<File, SourceError> {
    let address = settings.address();
    let path = format!("{address}-syncline");
    let opened = File::options().create(true).truncate(false).write(true).open(&path);
    let file = opened.map_err(|error| SourceError::Refused {
        address: address.clone(),
        problem: format!("{path:?} cannot be written: {error}; give this user the right to write the folder"),
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SourceError::Taken { address }),
        Err(TryLockError::Error(cause)) => Err(SourceError::Unreachable { address, cause: Box::new(cause) }),
    }
}

fn check(settings: &Settings) -> Vec<SourceError> {
    let look = || -> Result<Vec<SourceError>, Fault> {
        let connection = sqlite::open(&settings.config.path, false)?;
        let mut problems = Vec::new();
        if connection.is_readonly("main")? {
            let problem = "the file is read-only, and the change log has to be in it".to_owned();
            problems.push(SourceError::Refused { address: settings.address(), problem });
        }
        for watched in &settings.watched {
            match Table::read(&connection, &watched.table)? {
                Some(table) => problems.extend(table.require_key().err()),
                None => problems.push(SourceError::Unfit {
                    problem: format!("table {:?} is not in {:?}", watched.table, settings.address()),
                    mend: "CREATE TABLE, or the table's right name in the share; until then its shares wait".to_owned(),
                }),
            }
        }
        Ok(problems)
    };
    look().unwrap_or_else(|fault| vec![fault.at(&settings.address())])
}
