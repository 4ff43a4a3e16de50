//! Reads the columns again that a change left alone and the server did not send (unchanged TOAST).
//!
//! The row may have changed since; then a newer change of the record follows, and what is read here is no older than
//! what the record had. A row that is gone stays as it is: its delete follows.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use syncline_shared::record::{Columns, Row, Value};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::assemble::Assembler;
use super::connect::Settings;
use super::queue::Pending;
use super::shape::Shape;
use super::values::{identifier, key_literal};
use crate::source::SourceError;

/// Rows read at once at most: enough to be one round trip of many.
pub(super) const ROWS_AT_ONCE_MAX: usize = 128;

/// What is to be read for the first incomplete changes.
pub(super) struct Plan {
    changes: usize,
    tables: Vec<Wanted>,
}

/// What is to be read of one table.
struct Wanted {
    shape: Arc<Shape>,
    key: Columns,
    key_places: Vec<usize>,
    columns: Columns,
    places: Vec<usize>,
    keys: Vec<String>,
}

/// What was read.
pub(super) struct Found {
    /// For how many of the first incomplete changes.
    pub(super) changes: usize,
    /// Bytes of the values.
    pub(super) bytes: usize,
    /// Whether all of them were read; otherwise they were too large to be read at once.
    all: bool,
    rows: HashMap<(Arc<str>, String), Row>,
}

/// Plans one query per table for the first of these changes; `None` when there are none.
pub(super) fn plan<'a>(assembler: &Assembler, incomplete: impl Iterator<Item = &'a mut Pending>) -> Option<Plan> {
    let mut by_table: HashMap<Arc<str>, Vec<&Pending>> = HashMap::new();
    let mut changes = 0;
    for pending in incomplete {
        changes += 1;
        by_table.entry(Arc::clone(&pending.change.table)).or_default().push(pending);
    }
    // A table that is no longer watched has no shape; its changes go out as they are.
    let tables = by_table.iter().filter_map(|(table, pending)| Wanted::of(assembler.shape_of(table)?, pending));
    (changes > 0).then(|| Plan { changes, tables: tables.collect() })
}

/// Reads what was planned, until it is about this many bytes.
pub(super) async fn read(
    settings: Arc<Settings>,
    sql: Arc<Client>,
    plan: Plan,
    bytes: usize,
) -> Result<Found, SourceError> {
    let mut found = Found { changes: plan.changes, bytes: 0, all: true, rows: HashMap::new() };
    for wanted in plan.tables {
        wanted.read(&settings, &sql, &mut found, bytes).await?;
    }
    Ok(found)
}

impl Found {
    /// Fills the changes in that were planned for.
    pub(super) fn fill<'a>(&self, changes: impl Iterator<Item = &'a mut Pending>) {
        for pending in changes {
            let change = &mut pending.change;
            // A commit that waits for a standby is in the stream before others see it: the record is under its old key then.
            let read = [Some(&change.key), pending.old_key.as_ref()].into_iter().flatten();
            let read = read.filter_map(|key| self.rows.get(&(Arc::clone(&change.table), key_tuple(key)))).next();
            // What was not read may be gone, or among the rest.
            pending.settled |= self.all || read.is_some();
            if let (Some(after), Some(read)) = (&mut change.after, read) {
                *after = patched(after, read);
            }
        }
    }
}

impl Found {
    /// How many rows to read next: as many as were read before they became too large, else twice as many.
    pub(super) fn next_at_once(&self) -> usize {
        if self.all { (self.changes * 2).min(ROWS_AT_ONCE_MAX) } else { self.rows.len().max(1) }
    }
}

impl Wanted {
    fn of(shape: Arc<Shape>, changes: &[&Pending]) -> Option<Self> {
        let key = changes.first()?.change.key.columns().clone();
        let key_places = key.iter().map(|name| shape.columns.position(name)).collect::<Option<_>>()?;
        let lacks = |name: &str| {
            let mut rows = changes.iter().filter_map(|pending| pending.change.after.as_ref());
            rows.any(|row| row.get(name) == Some(Value::Unchanged))
        };
        // A column that was dropped since cannot be read any more.
        let there = |name: &str| shape.table.columns.iter().any(|(column, _)| column == name);
        let wanted = |&at: &usize| shape.columns.name(at).is_some_and(|name| there(name) && lacks(name));
        let places: Vec<_> = (0..shape.columns.len()).filter(wanted).collect();
        if places.is_empty() {
            return None;
        }
        let columns = Columns::new(places.iter().filter_map(|&place| shape.columns.name(place)));
        let keys = changes.iter().flat_map(|pending| [Some(&pending.change.key), pending.old_key.as_ref()]);
        let keys = keys.flatten().map(key_tuple).collect();
        Some(Self { shape, key, key_places, columns, places, keys })
    }

    async fn read(
        &self,
        settings: &Settings,
        sql: &Client,
        found: &mut Found,
        bytes: usize,
    ) -> Result<(), SourceError> {
        let table = &self.shape.table;
        let key: Vec<_> = self.key.iter().map(identifier).collect();
        let query = format!(
            "SELECT {} FROM {} WHERE ({}) IN ({})",
            key.iter().cloned().chain(self.columns.iter().map(identifier)).collect::<Vec<_>>().join(", "),
            table.own_rows(),
            key.join(", "),
            self.keys.join(", ")
        );
        let failed = |error: &tokio_postgres::Error| match error.code() {
            // The table was dropped since: what it held cannot be read any more.
            Some(code) if code.code() == "42P01" => {
                tracing::warn!(table = &*table.name, "columns the stream left out cannot be read, the table is gone");
                Ok(())
            }
            // A column was dropped or renamed a moment ago: the next connection knows.
            Some(code) if code.code() == "42703" => Err(settings.unreachable("a table's columns changed")),
            Some(_) | None => Err(settings.failed_reading("reading unsent columns", error)),
        };
        let mut rows = match sql.simple_query_raw(&query).await {
            Ok(rows) => pin!(rows),
            Err(error) => return failed(&error),
        };
        while let Some(message) = rows.next().await {
            let message = match message {
                Ok(message) => message,
                Err(error) => return failed(&error),
            };
            let SimpleQueryMessage::Row(row) = message else { continue };
            if found.bytes >= bytes {
                found.all = false;
                break;
            }
            let texts: Vec<_> = (0..row.len()).map(|index| row.get(index)).collect();
            let (key, values) = texts.split_at_checked(self.key.len()).unwrap_or_default();
            let key = build(&self.shape, self.key.clone(), &self.key_places, key);
            let values = build(&self.shape, self.columns.clone(), &self.places, values);
            let (key, values) = key.zip(values).ok_or_else(|| SourceError::Protocol {
                problem: format!("a row of {} does not fit its definition", table.name),
            })?;
            found.bytes += values.size();
            found.rows.insert((Arc::clone(&table.name), key_tuple(&key)), values);
        }
        Ok(())
    }
}

/// A row of the columns at these places of the shape.
fn build(shape: &Shape, columns: Columns, places: &[usize], texts: &[Option<&str>]) -> Option<Row> {
    let mut row = Row::builder(columns);
    for (&place, text) in places.iter().zip(texts) {
        match text {
            Some(text) => shape.kinds.get(place)?.push(&mut row, text)?,
            None => row.push(Value::Null),
        }
    }
    Some(row.finish())
}

/// The row with its unsent columns filled in where they were read.
fn patched(row: &Row, read: &Row) -> Row {
    let mut patched = Row::builder(row.columns().clone());
    for (name, value) in row.iter() {
        patched.push(if value == Value::Unchanged { read.get(name).unwrap_or(value) } else { value });
    }
    patched.finish()
}

fn key_tuple(key: &Row) -> String {
    format!("({})", key.values().map(key_literal).collect::<Vec<_>>().join(", "))
}
