//! Reads the columns again that a change left alone and the server did not send (unchanged TOAST).
//!
//! The row may have changed since; then a newer change of the record follows, and what is read here is no older than
//! what the record had. A row that is gone stays as it is: its delete follows.

use std::collections::HashMap;

use syncline_shared::record::{Columns, Row, Value};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::assemble::Assembler;
use super::connect::Settings;
use super::queue::Pending;
use super::shape::Shape;
use super::values::{identifier, key_literal};
use crate::source::SourceError;

/// Rows one query reads: few enough that even large ones fit in memory, enough to be one round trip of many.
const ROWS_PER_QUERY: usize = 128;

/// Completes the changes in order until about `bytes_max` were read; the rest stays for the next call.
pub(super) async fn complete(
    settings: &Settings,
    sql: &Client,
    assembler: &Assembler,
    mut changes: Vec<&mut Pending>,
    bytes_max: usize,
) -> Result<(), SourceError> {
    let mut bytes = 0;
    for chunk in changes.chunks_mut(ROWS_PER_QUERY) {
        if bytes >= bytes_max {
            break;
        }
        let mut by_table: HashMap<_, Vec<&mut Pending>> = HashMap::new();
        for pending in chunk {
            by_table.entry(pending.change.table.clone()).or_default().push(pending);
        }
        for (table, mut pending) in by_table {
            match assembler.shape_of(&table) {
                Some(shape) => bytes += complete_table(settings, sql, &shape, pending).await?,
                // No longer watched, or gone.
                None => pending.iter_mut().for_each(|pending| pending.settled = true),
            }
        }
    }
    Ok(())
}

/// Completes changes of one table; returns the bytes that were read.
async fn complete_table(
    settings: &Settings,
    sql: &Client,
    shape: &Shape,
    mut changes: Vec<&mut Pending>,
) -> Result<usize, SourceError> {
    let Some(key) = changes.first().map(|pending| pending.change.key.columns().clone()) else { return Ok(0) };
    let after = changes.iter().filter_map(|pending| pending.change.after.as_ref());
    let wanted: Vec<usize> = (0..shape.columns.len())
        .filter(|&place| {
            let name = shape.columns.name(place).unwrap_or_default();
            after.clone().any(|row| row.get(name) == Some(Value::Unchanged))
        })
        .collect();
    let places: Option<Vec<usize>> = key.iter().map(|name| shape.columns.position(name)).collect();
    let columns = Columns::new(wanted.iter().filter_map(|&place| shape.columns.name(place)));
    let names: Vec<_> = key.iter().chain(columns.iter()).map(identifier).collect();
    let keys: Vec<_> = changes.iter().map(|pending| key_tuple(&pending.change.key)).collect();
    let query = format!(
        "SELECT {} FROM {} WHERE ({}) IN ({})",
        names.join(", "),
        shape.table.own_rows(),
        key.iter().map(identifier).collect::<Vec<_>>().join(", "),
        keys.join(", ")
    );
    let rows = match sql.simple_query(&query).await {
        Ok(rows) => rows,
        // The table or a column was renamed or dropped since: what it held cannot be read any more.
        Err(error) if error.code().is_some_and(|code| matches!(code.code(), "42703" | "42P01")) => {
            tracing::warn!(table = &*shape.table.name, "columns the stream left out cannot be read, they are gone");
            Vec::new()
        }
        Err(error) => return Err(settings.failed_reading("reading unsent columns", &error)),
    };
    let mut bytes = 0;
    let mut read: HashMap<String, Row> = HashMap::new();
    for message in &rows {
        let SimpleQueryMessage::Row(row) = message else { continue };
        let texts: Vec<_> = (0..row.len()).map(|index| row.get(index)).collect();
        let (key_texts, value_texts) = texts.split_at_checked(key.len()).unwrap_or_default();
        let built = build(shape, key.clone(), places.as_deref().unwrap_or_default(), key_texts).zip(build(
            shape,
            columns.clone(),
            &wanted,
            value_texts,
        ));
        let Some((key, values)) = built else {
            return Err(SourceError::Protocol { problem: format!("a row of {} does not fit", shape.table.name) });
        };
        bytes += values.size();
        read.insert(key_tuple(&key), values);
    }
    for (pending, key) in changes.iter_mut().zip(&keys) {
        pending.settled = true;
        if let (Some(after), Some(values)) = (&mut pending.change.after, read.get(key)) {
            *after = patched(after, values);
        }
    }
    Ok(bytes)
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
