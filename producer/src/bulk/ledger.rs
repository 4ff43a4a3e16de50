//! Orders, runs and schedules as notes in a source's state.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use syncline_shared::record::{Row, Version, read_lines, write_line};
use uuid::Uuid;

use super::order::{Entry, Order, Run};
use super::stock::{Stock, When};
use crate::source::SourceError;

/// Ended bulk shares that are remembered beside the newest of each schedule.
const ENDED_MAX: usize = 50;

/// What is remembered of a schedule.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Fired {
    /// The time that was due last.
    pub due: Timestamp,
}

/// Everything that is remembered of a source's bulk shares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Bulk shares in the order they were asked for.
    pub entries: BTreeMap<Uuid, Entry>,
    /// Schedules by name.
    pub schedules: BTreeMap<String, Fired>,
}

impl Ledger {
    /// Reads it from a source.
    ///
    /// # Errors
    /// [`SourceError`].
    pub async fn read<S: Stock>(stock: &S) -> Result<Self, SourceError> {
        Ok(Self::of(stock.notes().await?))
    }

    fn of(notes: Vec<(String, String)>) -> Self {
        let mut ledger = Self::default();
        let mut runs = BTreeMap::new();
        for (key, json) in &notes {
            match key.split_once(':') {
                Some(("order", id)) => {
                    let entry = id.parse().ok().zip(read(key, json));
                    ledger.entries.extend(entry.map(|(id, order)| (id, Entry { order, run: None })));
                }
                Some(("run", id)) => runs.extend(id.parse::<Uuid>().ok().zip(read::<Run>(key, json))),
                Some(("schedule", name)) => {
                    ledger.schedules.extend(read(key, json).map(|fired| (name.to_owned(), fired)));
                }
                Some(_) | None => {}
            }
        }
        for (id, run) in runs {
            ledger.entries.entry(id).and_modify(|entry| entry.run = Some(run));
        }
        ledger
    }

    /// Ended bulk shares nobody asks for any more, oldest first; the newest finished one of each schedule and share says
    /// from when on the next one has to read.
    pub(super) fn outdated(&self) -> Vec<Uuid> {
        let mut kept = 0;
        let mut newest = std::collections::BTreeSet::new();
        let ended = self.entries.iter().rev().filter(|(_, entry)| entry.is_over());
        let outdated = ended.filter(|(_, Entry { order, run })| {
            kept += 1;
            let finished = run.as_ref().is_some_and(|run| run.as_of.is_some() && run.phase.as_str() == "finished");
            let last = order.schedule.is_some() && finished && newest.insert((&order.schedule, &order.share));
            kept > ENDED_MAX && !last
        });
        outdated.map(|(id, _)| *id).collect()
    }
}

/// A note that does not read was not written by this version; it is left alone.
fn read<T: DeserializeOwned>(key: &str, json: &str) -> Option<T> {
    serde_json::from_str(json)
        .inspect_err(|_| tracing::warn!(note = key, "a note of bulk shares does not read, left aside"))
        .ok()
}

fn order_key(id: Uuid) -> String {
    format!("order:{id}")
}

fn keys_key(id: Uuid) -> String {
    format!("keys:{id}")
}

fn run_key(id: Uuid) -> String {
    format!("run:{id}")
}

/// Asks for a bulk share; the producer takes it up.
///
/// # Errors
/// [`SourceError`].
pub async fn put_order<S: Stock>(stock: &S, id: Uuid, order: &Order) -> Result<(), SourceError> {
    stock.put(&order_key(id), &json(order), When::Always).await.map(drop)
}

/// The keys of records by the tables they are stored in.
pub type Keys = BTreeMap<String, Vec<Row>>;

/// Asks for a bulk share of the records with these keys alone: each is sent as the share has it, or deleted where the
/// share does not have it.
///
/// # Errors
/// [`SourceError`].
pub async fn put_order_of<S: Stock>(stock: &S, id: Uuid, order: &Order, keys: &Keys) -> Result<(), SourceError> {
    let lines = |keys: &Vec<Row>| {
        let mut lines = Vec::new();
        for key in keys {
            write_line(&mut lines, key, Version::default(), Timestamp::UNIX_EPOCH, None, true);
        }
        String::from_utf8(lines).unwrap_or_default()
    };
    let lines: BTreeMap<_, _> = keys.iter().map(|(table, keys)| (table, lines(keys))).collect();
    stock.put(&keys_key(id), &json(&lines), When::Always).await?;
    let records = keys.values().map(Vec::len).sum::<usize>();
    let order = Order { records: Some(u64::try_from(records).unwrap_or(u64::MAX)), ..order.clone() };
    put_order(stock, id, &order).await
}

/// The keys an order is about; `None` when they are gone.
pub(super) async fn keys<S: Stock>(stock: &S, id: Uuid) -> Result<Option<Keys>, SourceError> {
    let name = keys_key(id);
    let notes = stock.notes().await?;
    let lines =
        notes.iter().find(|(key, _)| *key == name).and_then(|(key, json)| read::<BTreeMap<String, String>>(key, json));
    Ok(lines.and_then(|lines| {
        let keys =
            |text: &String| Some(read_lines(text.as_bytes()).ok()?.into_iter().map(|record| record.key).collect());
        lines.iter().map(|(table, text)| Some((table.clone(), keys(text)?))).collect()
    }))
}

/// Forgets the keys of an order that is over: they are records', and best not kept.
pub(super) async fn forget_keys<S: Stock>(stock: &S, id: Uuid) -> Result<(), SourceError> {
    stock.remove(&[keys_key(id)]).await
}

/// Asks a bulk share to stop, or not to begin.
///
/// # Errors
/// [`SourceError`].
pub async fn cancel<S: Stock>(stock: &S, id: Uuid, order: &Order) -> Result<(), SourceError> {
    let order = Order { cancel: true, ..order.clone() };
    stock.put(&order_key(id), &json(&order), When::There).await.map(drop)
}

/// Takes a bulk share up, from whoever had it.
pub(super) async fn claim<S: Stock>(stock: &S, id: Uuid, run: &Run) -> Result<(), SourceError> {
    stock.put(&run_key(id), &json(run), When::Always).await.map(drop)
}

/// Notes how far a bulk share is; `false` when another producer has taken it up.
pub(super) async fn put_run<S: Stock>(stock: &S, id: Uuid, run: &Run) -> Result<bool, SourceError> {
    stock.put(&run_key(id), &json(run), When::RunBy(run.runner)).await
}

pub(super) async fn put_fired<S: Stock>(stock: &S, schedule: &str, fired: &Fired) -> Result<(), SourceError> {
    stock.put(&format!("schedule:{schedule}"), &json(fired), When::Always).await.map(drop)
}

pub(super) async fn forget<S: Stock>(stock: &S, ids: &[Uuid]) -> Result<(), SourceError> {
    let keys: Vec<_> = ids.iter().flat_map(|id| [order_key(*id), run_key(*id), keys_key(*id)]).collect();
    if keys.is_empty() { Ok(()) } else { stock.remove(&keys).await }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
