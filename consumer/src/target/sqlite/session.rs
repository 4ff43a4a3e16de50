//! One connection to the file, and the transaction of each call.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior};
use syncline_shared::sqlite::{self, FileId, file_id};

use super::call::Call;
use super::catalog::{self, Table};
use super::config::SqliteTargetConfig;
use super::error::Doing;
use super::shape::TRIES;
use crate::target::fold::items;
use crate::target::{Applied, ApplyError, Batch, TableMap};

/// Prepared statements kept per connection. Shares that send only what changed have many; the oldest are given up.
const STATEMENTS_MAX: usize = 256;

/// How soon the file is tried again while another connection writes; a call takes longer than that.
const BUSY_WAIT: Duration = Duration::from_millis(5);

/// A connection to the target's file.
pub(super) struct Session {
    connection: Connection,
    file: Option<FileId>,
}

/// Applies a call through the session there is, or a new one. After an error that a new one may heal none is kept.
pub(super) fn apply(
    config: &SqliteTargetConfig,
    slot: &mut Option<Session>,
    batches: &[Batch<'_>],
) -> Result<Applied, ApplyError> {
    // What is written to a file that was removed or replaced would be lost with it.
    let current = slot.take().filter(|session| session.file == file_id(&config.path));
    let session = current.map_or_else(|| Session::open(config), Ok)?;
    let result = session.apply(config, batches);
    if matches!(result, Ok(_) | Err(ApplyError::Record { .. } | ApplyError::Busy { .. })) {
        *slot = Some(session);
    }
    result
}

/// Runs a change of the bookkeeping in a transaction of its own.
pub(super) fn note(
    config: &SqliteTargetConfig,
    slot: &mut Option<Session>,
    change: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> Result<(), ApplyError> {
    let current = slot.take().filter(|session| session.file == file_id(&config.path));
    let session = current.map_or_else(|| Session::open(config), Ok)?;
    let noted = || -> rusqlite::Result<()> {
        let transaction = session.begin(config.busy_timeout())?;
        transaction.execute_batch(catalog::CREATE_BOOKKEEPING)?;
        change(&transaction)?;
        transaction.commit()
    };
    let result = noted().map_err(|cause| Doing { address: &config.address(), table: "" }.failed(cause));
    if result.is_ok() {
        *slot = Some(session);
    }
    result
}

/// How often a message was tried alone.
pub(super) fn tries(config: &SqliteTargetConfig, slot: &mut Option<Session>, message: &str) -> Result<u32, ApplyError> {
    let mut tries = 0;
    note(config, slot, |connection| {
        tries = connection.query_row(TRIES, [message], |row| row.get(0)).optional()?.unwrap_or_default();
        Ok(())
    })?;
    Ok(tries)
}

/// What stands in the way of applying to these tables; changes nothing.
pub(super) fn check(config: &SqliteTargetConfig, tables: &[TableMap]) -> Vec<ApplyError> {
    if !config.path.exists() {
        let folder = writable_folder(config);
        return if config.evolves() { folder.err().into_iter().collect() } else { vec![missing_file(config)] };
    }
    let address = config.address();
    let doing = Doing { address: &address, table: "" };
    let looked = || -> rusqlite::Result<_> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&config.path, flags)?;
        connection.busy_timeout(config.busy_timeout())?;
        let mut problems = Vec::new();
        for map in tables {
            let columns: Vec<_> = map.columns.iter().flat_map(|map| map.values().map(String::as_str)).collect();
            match Table::read(&connection, &map.into)? {
                Some(table) => problems.extend(table.problems(&columns, config.evolves())),
                None if config.evolves() => {}
                None => problems.push(catalog::missing_table(&map.into, &columns, &[])),
            }
        }
        Ok((problems, connection.is_readonly("main")?))
    };
    match looked() {
        Ok((mut problems, is_read_only)) => {
            if is_read_only {
                problems.push(doing.read_only());
            }
            problems
        }
        Err(cause) => vec![doing.failed(cause)],
    }
}

impl Session {
    fn open(config: &SqliteTargetConfig) -> Result<Self, ApplyError> {
        if !config.evolves() && !config.path.exists() {
            return Err(missing_file(config));
        }
        let opened = || -> rusqlite::Result<_> {
            let connection = sqlite::open(&config.path, config.evolves())?;
            // Whoever reads the file does not wait for a call then, and a call waits for the disk once only.
            sqlite::use_wal(&connection)?;
            // [`Session::begin`] waits instead, as long as is configured.
            connection.busy_timeout(Duration::ZERO)?;
            // A delivery is acknowledged after the commit, which must have reached the disk then.
            connection.pragma_update(None, "synchronous", "FULL")?;
            // Records of different tables arrive in no particular order. Off is SQLite's own default.
            connection.pragma_update(None, "foreign_keys", false)?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
            Ok(connection)
        };
        let connection = opened().map_err(|cause| Doing { address: &config.address(), table: "" }.failed(cause))?;
        Ok(Self { connection, file: file_id(&config.path) })
    }

    /// Applies a call in one transaction, which is rolled back after an error.
    fn apply(&self, config: &SqliteTargetConfig, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        let address = config.address();
        let doing = Doing { address: &address, table: "" };
        let transaction = self.begin(config.busy_timeout()).map_err(|cause| doing.failed(cause))?;
        let is_source = mark_as_ours(&transaction).map_err(|cause| doing.failed(cause))?;
        let mut call = Call::new(&transaction, &address, config.evolves())?;
        let outcomes = items(batches).iter().map(|item| call.apply(item)).collect::<Result<_, _>>()?;
        if is_source {
            transaction.execute(UNMARK, []).map_err(|cause| doing.failed(cause))?;
        }
        transaction.commit().map_err(|cause| doing.failed(cause))?;
        Ok(Applied { outcomes })
    }

    /// Begins as the only writer, so that nothing that follows has to wait.
    fn begin(&self, patience: Duration) -> rusqlite::Result<Transaction<'_>> {
        let deadline = Instant::now() + patience;
        loop {
            match Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate) {
                Err(error) if sqlite::is_busy(&error) && Instant::now() < deadline => thread::sleep(BUSY_WAIT),
                result => return result,
            }
        }
    }
}

/// Ends what [`mark_as_ours`] began.
const UNMARK: &str = "DELETE FROM main._syncline_applying";

/// Tells the triggers of a SQLite source in the same file, for this transaction, that the changes come from here: they
/// are not shared again. Returns whether there is such a source.
fn mark_as_ours(transaction: &Transaction<'_>) -> rusqlite::Result<bool> {
    let is_source = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE name = '_syncline_applying')";
    let is_source = transaction.prepare_cached(is_source)?.query_row([], |row| row.get(0))?;
    if is_source {
        transaction.execute("INSERT INTO main._syncline_applying (origin) VALUES ('syncline')", [])?;
    }
    Ok(is_source)
}

pub(super) fn missing_file(config: &SqliteTargetConfig) -> ApplyError {
    ApplyError::Unfit {
        problem: format!("the target's file {} does not exist", config.address()),
        mend: "the target's path, a file with the tables, or `schema = \"evolve\"`".to_owned(),
    }
}

/// Whether a missing file, and the folders it misses, can be made.
fn writable_folder(config: &SqliteTargetConfig) -> Result<(), ApplyError> {
    let folders = config.path.ancestors().skip(1);
    let folders = folders.map(|folder| if folder.as_os_str().is_empty() { Path::new(".") } else { folder });
    let nearest = folders.filter_map(|folder| fs::metadata(folder).ok()).next();
    if nearest.is_some_and(|folder| folder.is_dir() && !folder.permissions().readonly()) {
        return Ok(());
    }
    Err(ApplyError::Unfit {
        problem: format!("the target's file {} cannot be made", config.address()),
        mend: "a path in a folder that Syncline's user may write to".to_owned(),
    })
}
