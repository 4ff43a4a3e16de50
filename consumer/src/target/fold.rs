//! Folds the records of one call to one operation per key, so that a target writes every row once.
//!
//! Pure: knows nothing of a particular target, and never fails. A target that can look up a row's version before it
//! writes does not need it; a target that writes in bulk folds, applies, and folds again what is left, until nothing is:
//!
//! ```text
//! let mut left = items(batches);
//! while !left.is_empty() {
//!     let folded = fold(&left);
//!     // apply every operation, then Operation::settle it; what remains to be done is collected in `left`
//! }
//! ```
//!
//! One round is all there is unless the target holds a version in between those that were merged, or a deleted record
//! comes back with a part of its columns.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use syncline_shared::record::{Action, Record, Row, Value, Version};

use super::{Batch, Outcome, TableMap};

/// One record of a call.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its place among the outcomes.
    pub place: usize,
    /// Where it belongs.
    pub table: &'a TableMap,
    /// What happened to it.
    pub action: Action,
    /// The record.
    pub record: &'a Record,
}

/// What is to be done in one round.
#[derive(Debug, Default)]
pub struct Folded<'a> {
    /// The operations by target table, in the order of the tables' names: everyone writes in the same order.
    pub tables: Vec<FoldedTable<'a>>,
    /// Records that have to wait for the next round.
    pub later: Vec<Item<'a>>,
}

/// The operations on one target table.
#[derive(Debug)]
pub struct FoldedTable<'a> {
    /// The target's table.
    pub into: &'a str,
    /// The target's names of the key columns, in the order of the keys' values.
    pub key_columns: Vec<&'a str>,
    /// One operation per key, in the order of the keys.
    pub operations: Vec<Operation<'a>>,
}

/// What is to be done with one row of the target.
#[derive(Debug)]
pub struct Operation<'a> {
    /// The key's values as a JSON array of texts: the row's name in tombstones.
    pub name: String,
    /// The key's values.
    pub key: &'a Row,
    /// The version the row has afterwards.
    pub version: Version,
    /// The oldest version the operation was made from. It may be applied only to a row whose version is below this one:
    /// above, it would bring old values back.
    pub since: Version,
    /// What to write.
    pub change: Change<'a>,
    /// The records it was made from, with their outcome if it is applied.
    items: Vec<(Item<'a>, Outcome)>,
}

/// What an operation writes.
#[derive(Debug, PartialEq)]
pub enum Change<'a> {
    /// Removes the row and remembers its version.
    Delete,
    /// Sets the columns that are given, leaves the others as they are; makes the row if there is none.
    Upsert {
        /// Columns by the target's names: the key's, then the others. None twice, none [`Value::Unchanged`].
        columns: Vec<(&'a str, Value<'a>)>,
        /// Not all columns of the record are given.
        partial: bool,
    },
}

/// How the target took an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Applied.
    Applied,
    /// Not applied, for the row (or its tombstone) already has this version.
    Held(Version),
}

/// The records of a call, in the order of their outcomes.
#[must_use]
pub fn items<'a>(batches: &[Batch<'a>]) -> Vec<Item<'a>> {
    let records = batches.iter().flat_map(|batch| batch.records.iter().map(move |record| (batch, record)));
    let item = |(place, (batch, record)): (usize, (&Batch<'a>, &'a Record))| Item {
        place,
        table: batch.table,
        action: batch.action,
        record,
    };
    records.enumerate().map(item).collect()
}

/// Folds records to one operation per key, by version and not by arrival: a record that is not newer than those before
/// it changes nothing.
#[must_use]
pub fn fold<'a>(items: &[Item<'a>]) -> Folded<'a> {
    let mut folding = Folding::default();
    for item in items {
        folding.push(*item);
    }
    folding.finish()
}

/// The name of a key, the same for the same values whatever their columns are called and however they are typed.
#[must_use]
pub fn key_name(key: &Row) -> String {
    let mut name = String::from("[");
    for (index, value) in key.values().enumerate() {
        if index > 0 {
            name.push(',');
        }
        name.push_str(&serde_json::Value::from(value.as_text().unwrap_or_default()).to_string());
    }
    name.push(']');
    name
}

/// A record's columns by the target's names: the key's, then the others it carries.
#[must_use]
pub fn columns<'a>(table: &'a TableMap, record: &'a Record) -> Vec<(&'a str, Value<'a>)> {
    let key = record.key.iter().filter_map(|(name, value)| Some((table.column(name, true)?, value)));
    let data = record.data.iter().flat_map(Row::iter);
    let others = data
        .filter(|(name, value)| *value != Value::Unchanged && record.key.columns().position(name).is_none())
        .filter_map(|(name, value)| Some((table.column(name, false)?, value)));
    let mut columns = Vec::with_capacity(record.data.as_ref().unwrap_or(&record.key).columns().len());
    columns.extend(key.chain(others));
    columns
}

/// Operations while they are folded; `finish` brings them in order.
#[derive(Default)]
struct Folding<'a> {
    tables: Vec<(FoldedTable<'a>, HashMap<String, Slot>)>,
    later: Vec<Item<'a>>,
}

/// Where a key's operation is.
struct Slot {
    operation: usize,
    /// A record of this key waits for the next round, and so do all after it.
    closed: bool,
}

impl<'a> Folding<'a> {
    fn push(&mut self, item: Item<'a>) {
        let Self { tables, later } = self;
        let (table, slots) = table_of(tables, &item);
        let operations = &mut table.operations;
        match slots.entry(key_name(&item.record.key)) {
            Entry::Vacant(slot) => {
                operations.push(Operation::new(slot.key().clone(), item));
                slot.insert(Slot { operation: operations.len() - 1, closed: false });
            }
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                if let Some(operation) = operations.get_mut(slot.operation).filter(|_| !slot.closed)
                    && operation.add(item)
                {
                    return;
                }
                slot.closed = true;
                later.push(item);
            }
        }
    }

    fn finish(self) -> Folded<'a> {
        let mut tables: Vec<_> = self.tables.into_iter().map(|(table, _)| table).collect();
        tables.sort_by(|a, b| (a.into, &a.key_columns).cmp(&(b.into, &b.key_columns)));
        for table in &mut tables {
            table.operations.sort_by(|a, b| a.name.cmp(&b.name));
        }
        Folded { tables, later: self.later }
    }
}

/// The target's table of a record, by its name and the names of its key columns.
fn table_of<'t, 'a>(
    tables: &'t mut Vec<(FoldedTable<'a>, HashMap<String, Slot>)>,
    item: &Item<'a>,
) -> &'t mut (FoldedTable<'a>, HashMap<String, Slot>) {
    let into = item.table.into.as_str();
    let key = || item.record.key.columns().iter().filter_map(|name| item.table.column(name, true));
    let found = tables.iter().position(|(table, _)| table.into == into && key().eq(table.key_columns.iter().copied()));
    let index = found.unwrap_or_else(|| {
        let table = FoldedTable { into, key_columns: key().collect(), operations: Vec::new() };
        tables.push((table, HashMap::new()));
        tables.len() - 1
    });
    #[expect(clippy::indexing_slicing, reason = "the index was found or pushed just above")]
    &mut tables[index]
}

impl<'a> Operation<'a> {
    fn new(name: String, item: Item<'a>) -> Self {
        let Record { key, version, .. } = item.record;
        let items = vec![(item, Outcome::Applied)];
        Self { name, key, version: *version, since: *version, change: change(item), items }
    }

    /// Takes a later record in; `false` if it has to wait until this operation is applied.
    fn add(&mut self, item: Item<'a>) -> bool {
        let version = item.record.version;
        if version <= self.version {
            let outcome = if version == self.version { Outcome::Duplicate } else { Outcome::Stale };
            self.items.push((item, outcome));
            return true;
        }
        let mut newer = change(item);
        if let Change::Upsert { columns, partial } = &mut newer {
            match &self.change {
                // What the deleted row had must be gone before a part of its columns comes back; all of them replace it.
                Change::Delete if *partial => return false,
                Change::Delete => self.since = version,
                Change::Upsert { columns: older, partial: older_partial } => {
                    let kept = inherit(columns, older);
                    *partial &= *older_partial;
                    self.since = if kept { self.since } else { version };
                }
            }
        } else {
            self.since = version;
        }
        self.change = newer;
        self.version = version;
        self.key = &item.record.key;
        self.items.push((item, Outcome::Applied));
        true
    }

    /// The place of the first record it was made from.
    #[must_use]
    pub fn place(&self) -> usize {
        self.items.first().map_or(0, |(item, _)| item.place)
    }

    /// Writes down what became of the records of this operation. Those that a version in between does not cover are
    /// left for another round.
    pub fn settle(&self, taken: Taken, outcomes: &mut [Outcome], left: &mut Vec<Item<'a>>) {
        for (item, applied) in &self.items {
            let outcome = match taken {
                Taken::Applied => applied.clone(),
                Taken::Held(held) if item.record.version < held => Outcome::Stale,
                Taken::Held(held) if item.record.version == held => Outcome::Duplicate,
                Taken::Held(_) => {
                    left.push(*item);
                    continue;
                }
            };
            if let Some(place) = outcomes.get_mut(item.place) {
                *place = outcome;
            }
        }
    }
}

fn change(item: Item<'_>) -> Change<'_> {
    match item.action {
        Action::Delete => Change::Delete,
        Action::Insert | Action::Update | Action::Bulk => {
            Change::Upsert { columns: columns(item.table, item.record), partial: item.record.partial }
        }
    }
}

/// Appends the older columns that the newer ones do not set; tells whether there were any.
fn inherit<'a>(newer: &mut Vec<(&'a str, Value<'a>)>, older: &[(&'a str, Value<'a>)]) -> bool {
    let own = newer.len();
    // Repeats of one shape are the rule, and then nothing has to be searched.
    if own == older.len() && newer.iter().zip(older).all(|((a, _), (b, _))| a == b) {
        return false;
    }
    for (name, value) in older {
        if !newer.iter().any(|(set, _)| set == name) {
            newer.push((name, *value));
        }
    }
    newer.len() > own
}

#[cfg(test)]
mod tests;
