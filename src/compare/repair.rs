//! Has the producer send again what differs: an order of a bulk share for these records alone.
//!
//! Nothing is written to the target from here. The records take the path of every change, and the target's guard keeps
//! out what is not newer than what it has.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use syncline_producer::bulk::{Keys, Order, Stock, put_order_of};
use syncline_shared::record::key_id;
use uuid::Uuid;

use super::scan::{Found, What};
use crate::failure::Failure;
use crate::source::unavailable;

/// What was asked for.
pub(super) struct Repair {
    /// The bulk share, none when nothing can be sent again.
    pub(super) id: Option<Uuid>,
    pub(super) records: usize,
    left: usize,
    is_read: bool,
}

/// Asks for the records. A row without a record is looked for in the table that all of the share's are stored in.
pub(super) async fn ask<K: Stock>(
    stock: &K,
    share: &str,
    tables: &[(Arc<str>, Vec<String>)],
    found: &[Found],
) -> Result<Repair, Failure> {
    let only = if let [(table, _)] = tables { Some(table) } else { None };
    let (mut keys, mut known) = (Keys::new(), HashSet::new());
    for Found { stored, key, what, .. } in found {
        let table = match what {
            What::Missing | What::Columns(_) => stored.as_ref(),
            What::Extra => only,
            // It would be refused again.
            What::Refused => None,
        };
        if let Some(table) = table {
            // By several ways it may differ in several places.
            if known.insert(key_id("", table, key)) {
                keys.entry(table.to_string()).or_default().push(key.clone());
            }
        }
    }
    let records = keys.values().map(Vec::len).sum();
    let mut repair = Repair { id: None, records, left: found.len().saturating_sub(records), is_read: false };
    if records == 0 {
        return Ok(repair);
    }
    let order = Order {
        share: share.to_owned(),
        query: None,
        changed_since: None,
        rows_per_second: None,
        records: None,
        member: None,
        schedule: None,
        planned_at: Timestamp::now(),
        cancel: false,
    };
    let id = Uuid::now_v7();
    put_order_of(stock, id, &order, &keys).await.map_err(|error| unavailable(&error))?;
    repair.is_read = stock.is_read().await.map_err(|error| unavailable(&error))?;
    repair.id = Some(id);
    Ok(repair)
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { records, left, is_read, id } = self;
        match (id, is_read) {
            (None, _) => write!(f, "None of it can be sent again.")?,
            (Some(_), true) => write!(f, "The producer sends {records} records again now; compare once more.")?,
            (Some(_), false) => write!(f, "{records} records are sent again when the producer starts.")?,
        }
        if *left > 0 {
            write!(
                f,
                " {left} are left: those the target refuses, and rows whose table at the source cannot be told."
            )?;
        }
        Ok(())
    }
}
