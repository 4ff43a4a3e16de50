//! The tables and triggers of ours in the source's file, made and kept in step with what is watched.
//!
//! - `_syncline_change`: the change log; its row ids order all changes of the file.
//! - `_syncline_state`: the epoch, and the change up to which everything is safe elsewhere.
//! - `_syncline_table`: the watched tables, and whether they were there when last looked at.
//! - `_syncline_copy`: which tables' rows are to be copied, for one share or for all, and which copies are done.
//! - `_syncline_applying`: has a row, within a transaction, while our own target writes; such changes are not logged.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use syncline_shared::sqlite::quote;
use tracing::{info, warn};

use super::SqlitePosition;
use super::error::Fault;
use super::table::{OURS, Table};
use crate::source::{SourceError, WatchedTable};

/// Nothing here is strict or constrained: a trigger must never make somebody else's statement fail.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS _syncline_change (
        id INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT, action TEXT, key TEXT, before TEXT, after TEXT, at TEXT);
    CREATE TABLE IF NOT EXISTS _syncline_state (epoch INTEGER, committed INTEGER);
    CREATE TABLE IF NOT EXISTS _syncline_table (name TEXT PRIMARY KEY, present INTEGER);
    CREATE TABLE IF NOT EXISTS _syncline_copy (
        id INTEGER PRIMARY KEY AUTOINCREMENT, table_name TEXT, share TEXT, done INTEGER DEFAULT 0);
    CREATE TABLE IF NOT EXISTS _syncline_applying (origin TEXT);
";

/// The file as it was found or made.
pub(super) struct Prepared {
    /// The watched tables, there or gone.
    pub(super) tables: Vec<Table>,
    /// Changes when any program changes a table's form.
    pub(super) schema_version: i64,
    /// Where to go on.
    pub(super) committed: SqlitePosition,
}

/// Brings the file in step with what is watched, in one transaction.
///
/// A table that appears after it was first asked for is copied for all shares, for its rows may be older than the
/// triggers; so is one whose triggers were taken away, and every table when the change log was lost: it ends before what
/// was `read` of it.
pub(super) fn prepare(
    connection: &mut Connection,
    source: &str,
    watched: &[WatchedTable],
    read: Option<SqlitePosition>,
) -> Result<Prepared, Fault> {
    let writing = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    writing.execute_batch(TABLES)?;
    let (epoch, committed, lost) = epoch(&writing, read)?;
    if lost {
        warn!(
            source,
            epoch, "the change log of the source was lost; all its tables are copied again, deletes may be missing"
        );
    }
    let mut tables: Vec<Table> = Vec::new();
    for watched in watched {
        let Some(table) = Table::read(&writing, &watched.table)? else {
            if set_present(&writing, &watched.table, false)? != Some(false) {
                warn!(source, table = %watched.table, "a watched table is not there; its rows are sent once it is");
            }
            tables.push(Table::gone(&watched.table));
            continue;
        };
        table.require_key()?;
        if let Some(twin) = tables.iter().find(|other| other.name == table.name) {
            return Err(SourceError::Unfit {
                problem: format!("{:?} and {:?} are one table", twin.watched, table.watched),
                mend: "write its name in the same way in all shares".to_owned(),
            }
            .into());
        }
        let fresh = install(&writing, &table)?;
        let known = set_present(&writing, &watched.table, true)?.is_some();
        let copy_for_all = known && (fresh || lost);
        if copy_for_all {
            info!(source, table = %watched.table, "all rows of the table are copied for all its shares");
            writing.execute("INSERT INTO _syncline_copy (table_name) VALUES (?1)", [&watched.table])?;
        }
        for share in &watched.copy_for {
            // A share that asks for the first time is served by the copy for all, when there is one.
            writing.execute(
                "INSERT INTO _syncline_copy (table_name, share, done) SELECT ?1, ?2, ?3
                 WHERE NOT EXISTS (SELECT 1 FROM _syncline_copy WHERE table_name = ?1 AND share = ?2)",
                params![watched.table, share, copy_for_all],
            )?;
        }
        tables.push(table);
    }
    forget_others(&writing, watched, &tables)?;
    let schema_version = schema_version(&writing)?;
    let copied = writing.query_row(
        "SELECT coalesce(min(id) FILTER (WHERE NOT done) - 1, max(id), 0) FROM _syncline_copy",
        [],
        |row| row.get(0),
    )?;
    writing.commit()?;
    Ok(Prepared { tables, schema_version, committed: SqlitePosition { epoch, change: committed, copied } })
}

/// A number that changes with every change of a table's form.
pub(super) fn schema_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA main.schema_version")?.query_row([], |row| row.get(0))
}

/// The id of the newest change that was ever logged.
pub(super) fn newest_change(connection: &Connection) -> rusqlite::Result<i64> {
    let newest = connection
        .prepare_cached("SELECT seq FROM main.sqlite_sequence WHERE name = '_syncline_change'")?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(newest.unwrap_or(0))
}

/// The epoch, the change up to which all is safe, and whether changes were lost.
///
/// The epoch is the second the change log was begun: a log that was lost and begun again gives newer versions than the
/// one before, even when everything of ours was removed from the file.
fn epoch(connection: &Connection, read: Option<SqlitePosition>) -> rusqlite::Result<(u32, i64, bool)> {
    let found: Option<(u32, i64)> = connection
        .query_row("SELECT epoch, committed FROM _syncline_state", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let now = u32::try_from(Timestamp::now().as_second()).unwrap_or(u32::MAX);
    match found {
        Some((epoch, committed))
            if newest_change(connection)?
                >= read.filter(|read| read.epoch == epoch).map_or(committed, |read| read.change.max(committed)) =>
        {
            Ok((epoch, committed, false))
        }
        Some((epoch, _)) => {
            let next = now.max(epoch.saturating_add(1));
            connection.execute("UPDATE _syncline_state SET epoch = ?1, committed = 0", [next])?;
            Ok((next, 0, true))
        }
        None => {
            connection.execute("INSERT INTO _syncline_state (epoch, committed) VALUES (?1, 0)", [now])?;
            Ok((now, 0, false))
        }
    }
}

/// Notes whether a watched table is there; returns what was noted before.
fn set_present(connection: &Connection, table: &str, present: bool) -> rusqlite::Result<Option<bool>> {
    let before = connection
        .query_row("SELECT present FROM _syncline_table WHERE name = ?1", [table], |row| row.get(0))
        .optional()?;
    connection
        .execute("INSERT OR REPLACE INTO _syncline_table (name, present) VALUES (?1, ?2)", params![table, present])?;
    Ok(before)
}

/// Makes the triggers that are missing or made for other columns; tells whether the table had none.
fn install(connection: &Connection, table: &Table) -> rusqlite::Result<bool> {
    let mut fresh = true;
    for (name, definition) in table.triggers() {
        let found: Option<String> = connection
            .query_row("SELECT sql FROM main.sqlite_schema WHERE type = 'trigger' AND name = ?1", [&name], |row| {
                row.get(0)
            })
            .optional()?;
        fresh &= found.is_none();
        if found.as_ref() != Some(&definition) {
            connection.execute_batch(&format!("DROP TRIGGER IF EXISTS main.{};", quote(&name)))?;
            connection.execute_batch(&definition)?;
        }
    }
    Ok(fresh)
}

/// Takes the triggers off tables that nobody watches any more, and forgets what was known of them.
fn forget_others(connection: &Connection, watched: &[WatchedTable], tables: &[Table]) -> rusqlite::Result<()> {
    let there = tables.iter().filter(|table| table.is_there());
    let wanted: Vec<String> = there.flat_map(|table| table.triggers().map(|(name, _)| name)).collect();
    let found: Vec<String> = connection
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND substr(name, 1, length(?1)) = ?1")?
        .query_map([OURS], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in found.iter().filter(|name| !wanted.contains(name)) {
        connection.execute_batch(&format!("DROP TRIGGER main.{}", quote(name)))?;
    }
    let known: Vec<String> = connection
        .prepare("SELECT name FROM _syncline_table")?
        .query_map([], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for name in known.iter().filter(|name| !watched.iter().any(|watched| *watched.table == ***name)) {
        connection.execute("DELETE FROM _syncline_table WHERE name = ?1", [name])?;
        connection.execute("DELETE FROM _syncline_copy WHERE table_name = ?1", [name])?;
    }
    // Should a share come back, it has missed changes.
    let copies: Vec<(i64, String, String)> = connection
        .prepare("SELECT id, table_name, share FROM _syncline_copy WHERE share IS NOT NULL")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let asks = |watched: &WatchedTable, table: &str, share: &str| {
        *watched.table == *table && watched.copy_for.iter().any(|asking| **asking == *share)
    };
    for (id, ..) in copies.iter().filter(|(_, table, share)| !watched.iter().any(|one| asks(one, table, share))) {
        connection.execute("DELETE FROM _syncline_copy WHERE id = ?1", [id])?;
    }
    Ok(())
}
