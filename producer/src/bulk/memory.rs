//! A source of bulk shares in memory, for tests of what runs on top of one: notes, and rows that are handed over.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use syncline_shared::record::{Action, Columns, Row, Value, Version};

use super::order::Range;
use super::stock::{Bite, Opened, Rows, Stock, Want, When};
use crate::source::{Change, Lookup, Lookups, Reference, Session, SourceError};

/// Notes of a source, and how many rows its table has.
#[derive(Clone, Debug)]
pub(super) struct MemoryStock {
    notes: Arc<Mutex<BTreeMap<String, String>>>,
    rows: usize,
    /// Whether this process reads the changes.
    pub(super) here: Arc<AtomicBool>,
}

impl MemoryStock {
    pub(super) fn of(rows: usize) -> Self {
        Self { notes: Arc::default(), rows, here: Arc::new(AtomicBool::new(true)) }
    }

    pub(super) fn note(&self, key: &str) -> Option<String> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }
}

impl Lookups for MemoryStock {
    async fn look_up(&self, _: &Lookup, references: &[Reference]) -> Result<Vec<Option<Box<str>>>, SourceError> {
        Ok(vec![None; references.len()])
    }
}

impl Stock for MemoryStock {
    type Rows = MemoryRows;

    fn is_read_here(&self) -> bool {
        self.here.load(Ordering::Relaxed)
    }

    async fn is_read(&self) -> Result<bool, SourceError> {
        Ok(true)
    }

    async fn notes(&self) -> Result<Vec<(String, String)>, SourceError> {
        Ok(self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone().into_iter().collect())
    }

    async fn put(&self, key: &str, json: &str, when: When) -> Result<bool, SourceError> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let there = notes.get(key);
        let holds = match when {
            When::Always => true,
            When::There => there.is_some(),
            When::RunBy(runner) => there.is_some_and(|json| json.contains(&format!("\"runner\":\"{runner}\""))),
        };
        if holds {
            notes.insert(key.to_owned(), json.to_owned());
        }
        Ok(holds)
    }

    async fn remove(&self, keys: &[String]) -> Result<(), SourceError> {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        keys.iter().for_each(|key| drop(notes.remove(key)));
        Ok(())
    }

    async fn open(&self, want: Want) -> Result<Opened<MemoryRows>, SourceError> {
        let from = want.ranges.first().and_then(|range| range.after.as_ref()?.first()?.parse().ok()).unwrap_or(0);
        let ranges = if want.ranges.is_empty() { vec![Range::default()] } else { want.ranges.clone() };
        let total = u64::try_from(self.rows).unwrap_or(u64::MAX);
        let (as_of, version) = (Timestamp::now(), Version::new(1, 1, 0));
        Ok(Opened { rows: MemoryRows { next: from, rows: self.rows, want }, ranges, total, as_of, version })
    }

    async fn look(&self, want: Want) -> Result<Opened<MemoryRows>, SourceError> {
        self.open(want).await
    }
}

/// Rows 1 to n.
pub(super) struct MemoryRows {
    next: usize,
    rows: usize,
    want: Want,
}

impl Rows for MemoryRows {
    async fn next(&mut self) -> Result<Option<Bite>, SourceError> {
        if self.next > self.rows {
            return Ok(None);
        }
        let upto = (self.next + self.want.rows_max).min(self.rows);
        let changes = (self.next + 1..=upto).map(|id| change(&self.want, id)).collect();
        let done = upto == self.rows;
        self.next = if done { self.rows + 1 } else { upto };
        Ok(Some(Bite { range: 0, changes, after: Some(vec![upto.to_string()]), done }))
    }
}

fn change(want: &Want, id: usize) -> Change {
    let id = id.to_string();
    let mut row = Row::builder(Columns::new(["id"]));
    row.push(Value::Text(&id));
    let row = row.finish();
    Change {
        table: Arc::clone(&want.table),
        action: Action::Bulk,
        key: row.clone(),
        before: None,
        after: Some(row),
        version: Version::new(1, 1, 0),
        at: Timestamp::UNIX_EPOCH,
        session: Session::default(),
        origin: Arc::new([]),
        only_share: Some(Arc::clone(&want.share)),
    }
}
