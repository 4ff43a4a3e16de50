//! Reads the rows that are already there, page by page.
//!
//! Each page is a read transaction of its own, so that a large table holds up no writer and no checkpoint. A row's version
//! is the end of the change log as the page's transaction sees it: what changed before is in the row, what changes later
//! is newer.

use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use syncline_shared::record::Version;
use syncline_shared::sqlite::quote;

use super::error::Fault;
use super::log::{Decoder, position};
use super::setup::newest_change;
use super::table::{Side, Table};
use crate::source::{Change, PollLimit, SessionRule};

/// A table's rows to be read, for one share or for all.
pub(super) struct Copy {
    pub(super) id: i64,
    pub(super) table: String,
    pub(super) share: Option<Arc<str>>,
}

/// Where a copy is: the key of the last row that was read, as the file has it.
pub(super) type Place = Vec<Value>;

/// The next copy that is not done, after this one.
pub(super) fn next(connection: &Connection, after: i64) -> rusqlite::Result<Option<Copy>> {
    connection
        .prepare_cached(
            "SELECT id, table_name, share FROM _syncline_copy WHERE id > ?1 AND NOT done ORDER BY id LIMIT 1",
        )?
        .query_row([after], |row| {
            let share: Option<String> = row.get(2)?;
            Ok(Copy { id: row.get(0)?, table: row.get(1)?, share: share.map(Arc::from) })
        })
        .optional()
}

/// Reads the next page within a read transaction; no place means that it was the last.
pub(super) fn page(
    connection: &Connection,
    (table, share): (&Table, Option<&Arc<str>>),
    decoder: &mut Decoder,
    rule: Option<&SessionRule>,
    (epoch, place): (u32, Option<&Place>),
    limit: PollLimit,
) -> Result<(Vec<Change>, Option<Place>), Fault> {
    let version = Version::new(epoch, position(newest_change(connection)?) + 1, 0);
    let key = table.key_list();
    // A record without a whole key cannot be shared, and a null would end the comparison early.
    let mut conditions: Vec<_> = table.key.iter().map(|name| format!("{} IS NOT NULL", quote(name))).collect();
    if place.is_some() {
        conditions.push(format!("({key}) > ({})", vec!["?"; table.key.len()].join(", ")));
    }
    let sql = format!(
        "SELECT {}, {key} FROM main.{} WHERE {} ORDER BY {key}",
        table.row_json(Side::Current),
        quote(&table.name),
        conditions.join(" AND ")
    );
    let mut select = connection.prepare_cached(&sql)?;
    let mut rows = select.query(params_from_iter(place.into_iter().flatten()))?;
    let (mut changes, mut bytes, mut last) = (Vec::new(), 0, None);
    while let Some(row) = rows.next()? {
        let json = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
        let change = decoder.copied(table, json, version, rule, share)?;
        bytes += change.after.as_ref().map_or(0, |row| row.size());
        changes.push(change);
        if bytes >= limit.bytes || changes.len() >= limit.changes.max(1) {
            last = Some((1..=table.key.len()).map(|place| row.get(place)).collect::<rusqlite::Result<Place>>()?);
            break;
        }
    }
    Ok((changes, last))
}
