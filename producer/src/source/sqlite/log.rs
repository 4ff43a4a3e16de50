//! Reads the change log.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};
use syncline_shared::record::{Action, Columns, Row, Value, Version};
use tracing::warn;

use super::row::{self, Shape};
use super::table::{Side, Table};
use crate::source::{Change, PollLimit, Session, SessionRule, SourceError};

use super::error::Fault;

/// What makes changes out of rows.
#[derive(Default)]
pub(super) struct Decoder {
    key: Shape,
    row: Shape,
    origin: Arc<[String]>,
}

/// One row of the log, still as text.
struct Logged {
    id: i64,
    action: Action,
    key: Vec<u8>,
    before: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    at: Timestamp,
}

/// Changes, and where the reading stopped.
pub(super) struct Read {
    pub(super) changes: Vec<Change>,
    /// The id of the last row that was read.
    pub(super) upto: i64,
    /// Whether there is nothing behind it.
    pub(super) all: bool,
}

/// Reads changes after this one, in order, within a read transaction.
pub(super) fn read(
    connection: &Connection,
    tables: &[Table],
    decoder: &mut Decoder,
    rule: Option<&SessionRule>,
    (epoch, after): (u32, i64),
    limit: PollLimit,
) -> Result<Read, Fault> {
    let mut select = connection.prepare_cached(
        "SELECT id, table_name, action, key, before, after, at FROM _syncline_change WHERE id > ?1 ORDER BY id LIMIT ?2",
    )?;
    let count = i64::try_from(limit.changes.max(1)).unwrap_or(i64::MAX);
    let mut rows = select.query(params![after, count])?;
    let mut read = Read { changes: Vec::new(), upto: after, all: true };
    let (mut bytes, mut seen) = (0, 0);
    while let Some(row) = rows.next()? {
        if bytes >= limit.bytes || read.changes.len() >= limit.changes.max(1) {
            read.all = false;
            break;
        }
        read.upto = row.get(0)?;
        seen += 1;
        let name = row.get_ref(1)?.as_str().unwrap_or_default();
        // Nobody watches the table any more.
        let Some(table) = tables.iter().find(|table| table.name.eq_ignore_ascii_case(name)) else { continue };
        let Some(logged) = Logged::read(row)? else { return Err(unreadable(table)) };
        let made = decoder.changes(connection, table, rule, epoch, &logged)?;
        bytes += made.iter().map(size).sum::<usize>();
        read.changes.extend(made);
    }
    // Rows, not changes: a row of the log may make none, or two.
    read.all &= seen < count;
    Ok(read)
}

/// Bytes of a change in memory, near enough for bounds.
fn size(change: &Change) -> usize {
    let rows = [Some(&change.key), change.before.as_ref(), change.after.as_ref()];
    rows.into_iter().flatten().map(Row::size).sum()
}

fn unreadable(table: &Table) -> Fault {
    SourceError::Protocol { problem: format!("the change log of table {:?} does not read", table.name) }.into()
}

impl Logged {
    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<Self>> {
        let text = |place| -> rusqlite::Result<_> { Ok(row.get_ref(place)?.as_bytes_or_null()?.map(<[u8]>::to_vec)) };
        let action = row.get_ref(2)?.as_str().unwrap_or_default().parse();
        let at = row.get_ref(6)?.as_str().unwrap_or_default().parse();
        let (Ok(action), Some(key), Ok(at)) = (action, text(3)?, at) else { return Ok(None) };
        Ok(Some(Self { id: row.get(0)?, action, key, before: text(4)?, after: text(5)?, at }))
    }
}

impl Decoder {
    /// The changes of one row of the log: two when the key itself was changed, none when the record has no key.
    fn changes(
        &mut self,
        connection: &Connection,
        table: &Table,
        rule: Option<&SessionRule>,
        epoch: u32,
        logged: &Logged,
    ) -> Result<Vec<Change>, Fault> {
        let mut read = |json: &Option<Vec<u8>>| match json {
            Some(json) => row::read(json, &mut self.row).map(Some).ok_or_else(|| unreadable(table)),
            None => Ok(None),
        };
        let (before, mut after) = (read(&logged.before)?, read(&logged.after)?);
        let key = row::read(&logged.key, &mut self.key).ok_or_else(|| unreadable(table))?;
        if let Some(row) = &after {
            after = Some(self.completed(connection, table, &logged.key, row)?);
        }
        let session = after.as_ref().or(before.as_ref()).zip(rule).map(|(row, rule)| rule.session(row));
        let change = |action, key, before, after, ordinal| Change {
            table: table.watched.clone(),
            action,
            key,
            before,
            after,
            version: Version::new(epoch, position(logged.id), ordinal),
            at: logged.at,
            session: session.clone().unwrap_or_default(),
            origin: self.origin.clone(),
            only_share: None,
        };
        let old_key = before.as_ref().map(|row| select(row, key.columns())).filter(|old| *old != key);
        let mut changes = match old_key {
            Some(old) => {
                vec![change(Action::Delete, old, before, None, 1), change(Action::Insert, key, None, after, 2)]
            }
            // The version below an update's is free, as Change::version says.
            None => vec![change(logged.action, key, before, after, 2)],
        };
        changes.retain(|change| has_key(table, &change.key));
        Ok(changes)
    }

    /// A row of a table that may serve a copy.
    pub(super) fn copied(
        &mut self,
        table: &Table,
        json: &[u8],
        version: Version,
        rule: Option<&SessionRule>,
        share: Option<&Arc<str>>,
    ) -> Result<Change, Fault> {
        let row = row::read(json, &mut self.row).ok_or_else(|| unreadable(table))?;
        Ok(Change {
            table: table.watched.clone(),
            action: Action::Bulk,
            key: select(&row, &Columns::new(table.key.iter().map(String::as_str))),
            before: None,
            session: rule.map_or_else(Session::default, |rule| rule.session(&row)),
            after: Some(row),
            version,
            at: Timestamp::now(),
            origin: self.origin.clone(),
            only_share: share.cloned(),
        })
    }

    /// The row with the columns that were added to the table before its triggers knew of them, read from the record as it
    /// is now. What changed since then has its own place in the log, so the record ends as it should.
    fn completed(&mut self, connection: &Connection, table: &Table, key: &[u8], row: &Row) -> Result<Row, Fault> {
        let missing = |name: &&str| row.columns().position(name).is_none();
        let missing: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).filter(missing).collect();
        if missing.is_empty() {
            return Ok(row.clone());
        }
        let part = |index: usize| format!("(SELECT value FROM json_each(?1) LIMIT 1 OFFSET {index})");
        let is_key = table.key.iter().enumerate();
        let is_key = is_key.map(|(index, name)| format!("{} = {}", syncline_shared::sqlite::quote(name), part(index)));
        let sql = format!(
            "SELECT {} FROM main.{} WHERE {}",
            table.row_json(Side::Current),
            syncline_shared::sqlite::quote(&table.name),
            is_key.collect::<Vec<_>>().join(" AND ")
        );
        let current: Option<Vec<u8>> = connection
            .prepare_cached(&sql)?
            .query_row([String::from_utf8_lossy(key)], |row| Ok(row.get_ref(0)?.as_bytes()?.to_vec()))
            .optional()?;
        let Some(current) = current else { return Ok(row.clone()) };
        let current = row::read(&current, &mut Shape::default()).ok_or_else(|| unreadable(table))?;
        let mut completed = Row::builder(Columns::new(row.columns().iter().chain(missing.iter().copied())));
        row.values().chain(missing.iter().filter_map(|name| current.get(name))).for_each(|value| completed.push(value));
        Ok(completed.finish())
    }
}

/// The columns of a row that make up a key.
fn select(row: &Row, key: &Columns) -> Row {
    let places: Vec<usize> = key.iter().filter_map(|name| row.columns().position(name)).collect();
    row.select(key.clone(), &places)
}

/// SQLite lets columns of a primary key be null; such a record has no name to go by and cannot be shared.
fn has_key(table: &Table, key: &Row) -> bool {
    let whole = !key.values().any(Value::is_null);
    if !whole {
        warn!(table = %table.watched, "a record whose primary key is null is not shared; declare the key NOT NULL");
    }
    whole
}

/// Row ids of the log are positive.
pub(super) fn position(id: i64) -> u64 {
    u64::try_from(id).unwrap_or_default()
}
