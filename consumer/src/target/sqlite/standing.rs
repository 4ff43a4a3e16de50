//! What the target has of one record, for a person who asks.

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params, params_from_iter};
use syncline_shared::record::{Row, Value, Version};
use syncline_shared::sqlite::quote;

use super::catalog::{self, Table};
use super::config::SqliteTargetConfig;
use super::error::Doing;
use super::session::missing_file;
use super::shape::{BURIED, PARKED, Shape, VERSION};
use crate::target::fold::key_name;
use crate::target::{ApplyError, Standing, TableMap};

/// Whether the file has a table.
const HAS_TABLE: &str = "SELECT EXISTS (SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = ?1)";

/// Looks for the row, the tombstone and what is parked of a record; makes nothing where that is missing.
pub(super) fn of(config: &SqliteTargetConfig, table: &TableMap, key: &Row) -> Result<Standing, ApplyError> {
    if !config.path.exists() {
        return Err(missing_file(config));
    }
    let (address, into) = (config.address(), table.into.as_str());
    let doing = Doing { address: &address, table: into };
    let opened = || -> rusqlite::Result<_> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&config.path, flags)?;
        connection.busy_timeout(config.busy_timeout())?;
        let table = Table::read(&connection, into)?;
        Ok((connection, table))
    };
    let (connection, found) = opened().map_err(|cause| doing.failed(cause))?;
    let columns: Vec<(&str, Value<'_>)> =
        key.iter().filter_map(|(name, value)| Some((table.column(name, true)?, value))).collect();
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let found = found.ok_or_else(|| catalog::missing_table(into, &names, &names))?;
    // SQLite takes an unknown name for a text.
    let lacking = found.lacks(&names);
    if !lacking.is_empty() {
        return Err(found.missing_columns(&lacking));
    }
    read(&connection, found, &columns, &key_name(key)).map_err(|cause| doing.failed(cause))
}

fn read(connection: &Connection, table: Table, key: &[(&str, Value<'_>)], name: &str) -> rusqlite::Result<Standing> {
    let version = if table.lacks(&[VERSION]).is_empty() { VERSION } else { "NULL" };
    let equal: Vec<_> = key.iter().map(|(column, _)| format!("{} = ?", quote(column))).collect();
    let row = format!("SELECT {version} FROM main.{} WHERE {}", quote(&table.name), equal.join(" AND "));
    let shape = Shape::new("", &table, key.iter().map(|(column, _)| *column).collect(), key.len());
    let mut standing = Standing::default();
    if let Some(values) = shape.bind(key) {
        let version = |row: &rusqlite::Row<'_>| row.get::<_, Option<[u8; 16]>>(0);
        let found = connection.prepare(&row)?.query_row(params_from_iter(values), version).optional()?;
        standing.row = found.map(|version| version.map(Version::from_bytes));
    }
    let exists = |table: &str| connection.query_row(HAS_TABLE, [table], |row| row.get::<_, bool>(0));
    if exists("_syncline_tombstone")? {
        let version = |row: &rusqlite::Row<'_>| row.get::<_, [u8; 16]>(0);
        let buried = connection.query_row(BURIED, params![shape.table, name], version).optional()?;
        standing.deleted = buried.map(Version::from_bytes);
    }
    if exists("_syncline_parked")? {
        let letter = |row: &rusqlite::Row<'_>| Ok((Version::from_bytes(row.get(0)?), row.get::<_, String>(1)?));
        let mut parked = connection.prepare(PARKED)?;
        standing.parked = parked.query_map(params![shape.table, name], letter)?.collect::<Result<_, _>>()?;
    }
    Ok(standing)
}
