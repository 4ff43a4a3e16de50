//! The open file: one look at it at a time, and its upkeep. Blocks; runs off the I/O threads.

use std::fs::{File, TryLockError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use syncline_shared::sqlite::{self, FileId, file_id};

use super::copy::{self, Place};
use super::error::Fault;
use super::log::{self, Decoder};
use super::table::Table;
use super::{Settings, SqlitePosition, setup};
use crate::source::{Change, Checked, PollLimit, SourceError};

/// How often what is safe elsewhere is taken off the log. Each time is a write to somebody else's file, where a program
/// that reads first and then writes in one transaction may have to begin again; after a crash, what came since repeats.
const PRUNE_INTERVAL: Duration = Duration::from_secs(1);
/// Rows taken off the log in one transaction, so that other writers wait for milliseconds only.
const PRUNE_ROWS: i64 = 5_000;

/// What was reported so far; moves only when a poll returns.
#[derive(Clone)]
pub(super) struct At {
    pub(super) position: SqlitePosition,
    /// Where the copy that is under way is.
    place: Option<Place>,
    /// The file's data version at which nothing was left to report.
    idle: Option<i64>,
}

/// The file, open and set up.
pub(super) struct Opened {
    connection: Connection,
    file: Option<FileId>,
    tables: Vec<Table>,
    schema_version: i64,
    decoder: Decoder,
    /// When the log was last shortened, and up to where everything is stored.
    pruned: Instant,
    stored: Option<SqlitePosition>,
    /// Held for as long as the file is read.
    _lock: File,
}

/// What one look at the file brought.
pub(super) struct Step {
    pub(super) changes: Vec<Change>,
    pub(super) at: At,
}

/// Looks for something new, opening the file first if need be.
pub(super) fn step(
    settings: &Settings,
    slot: &mut Option<Opened>,
    at: Option<At>,
    committed: Option<SqlitePosition>,
    limit: PollLimit,
) -> Result<Step, Fault> {
    let (opened, at) = match (slot, at) {
        (Some(opened), Some(at)) if opened.file == file_id(&settings.config.path) => (opened, at),
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
        let file = file_id(&settings.config.path);
        // The log is read again after a crash in any case, so its upkeep need not wait for the disk.
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        let prepared = setup::prepare(&mut connection, &settings.name, &settings.watched, committed)?;
        let mut position = prepared.committed;
        if let Some(committed) = committed.filter(|committed| committed.epoch == position.epoch) {
            position.change = position.change.max(committed.change);
            position.copied = position.copied.max(committed.copied);
        }
        let opened = Self {
            connection,
            file,
            tables: prepared.tables,
            schema_version: prepared.schema_version,
            decoder: Decoder::default(),
            pruned: Instant::now(),
            stored: None,
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
        if let Some(committed) = committed
            && self.stored != Some(committed)
            && self.pruned.elapsed() >= PRUNE_INTERVAL
        {
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
                let prepared =
                    setup::prepare(&mut self.connection, &settings.name, &settings.watched, Some(at.position))?;
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
            let Some(table) = self.tables.iter().find(|table| table.is_there() && *table.watched == *copy.table) else {
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
            Ok(false) => (self.pruned, self.stored) = (Instant::now(), Some(committed)),
            Ok(true) => {}
            Err(error) if sqlite::is_busy(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Takes some of what is safe elsewhere off the log; tells whether there is more.
    pub(super) fn prune(&self, committed: SqlitePosition) -> rusqlite::Result<bool> {
        let writing = Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)?;
        writing
            .prepare_cached(
                "UPDATE _syncline_copy SET done = 1
                 WHERE id <= ?1 AND NOT done AND ?2 = (SELECT epoch FROM _syncline_state)",
            )?
            .execute([committed.copied, i64::from(committed.epoch)])?;
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

pub(super) fn check(settings: &Settings) -> Checked {
    let look = || -> Result<Checked, Fault> {
        let connection = sqlite::open(&settings.config.path, false)?;
        let mut checked = Checked::default();
        if connection.is_readonly("main")? {
            let problem = "the file is read-only, and the change log has to be in it".to_owned();
            checked.problems.push(SourceError::Refused { address: settings.address(), problem });
        }
        for watched in &settings.watched {
            let Some(table) = Table::read(&connection, &watched.table)? else {
                checked.missing.push(watched.table.clone());
                continue;
            };
            match table.require_key() {
                Ok(()) => {
                    checked.keys.insert(watched.table.clone(), table.key);
                    let columns = table.columns.into_iter().map(|column| column.name).collect();
                    checked.columns.insert(watched.table.clone(), columns);
                }
                Err(problem) => checked.problems.push(problem),
            }
        }
        Ok(checked)
    };
    look().unwrap_or_else(|fault| fault.at(&settings.address()).into())
}
