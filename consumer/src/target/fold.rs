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
use std::sync::Arc;

use syncline_shared::record::{Action, Columns, Record, Row, Value, Version};

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
    pub name: Arc<str>,
    /// The key's values.
    pub key: &'a Row,
    /// The version the row has afterwards.
    pub version: Version,
    /// The oldest version the operation was made from. It may be applied only to a row whose version is below this one:
    /// above, it would bring old values back.
    pub since: Version,
    /// What to write.
    pub change: Change<'a>,
    /// The first record it was made from.
    item: Item<'a>,
    /// The others, with their outcome if it is applied.
    others: Vec<(Item<'a>, Outcome)>,
}

/// What an operation writes.
#[derive(Debug, PartialEq)]
pub enum Change<'a> {
    /// Removes the row and remembers its version.
    Delete,
    /// Sets the columns that are given, leaves the others as they are; makes the row if there is none.
    Upsert {
        /// The target's names of the columns: the key's, then the others, none twice. Shared by records of one shape.
        columns: Arc<[&'a str]>,
        /// A value for each, none [`Value::Unchanged`].
        values: Vec<Value<'a>>,
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
    let mut name = vec![b'['];
    for (index, value) in key.values().enumerate() {
        if index > 0 {
            name.push(b',');
        }
        let written = serde_json::to_writer(&mut name, value.as_text().unwrap_or_default());
        written.unwrap_or_else(|_| unreachable!("memory takes every text"));
    }
    name.push(b']');
    String::from_utf8(name).unwrap_or_else(|_| unreachable!("JSON of texts is text"))
}

/// A record's columns by the target's names: the key's, then the others it carries.
#[must_use]
pub fn columns<'a>(table: &'a TableMap, record: &'a Record) -> Vec<(&'a str, Value<'a>)> {
    let layout = Layout::of(table, record);
    layout.names.iter().copied().zip(layout.values(record)).collect()
}

/// Where the columns of a record are, and what the target calls them; the same for all records of one shape.
struct Layout<'a> {
    table: &'a TableMap,
    key: &'a Columns,
    data: Option<&'a Columns>,
    /// The target's names: the key's, then the others.
    names: Arc<[&'a str]>,
    /// The places of the others in the data.
    others: Vec<usize>,
    /// A record that left columns alone has a layout of its own.
    is_own: bool,
}

impl<'a> Layout<'a> {
    fn of(table: &'a TableMap, record: &'a Record) -> Self {
        let key = record.key.columns();
        let data = record.data.as_ref();
        let is_taken = |(place, name): &(usize, &'a str)| {
            let value = data.and_then(|data| data.value(*place));
            value != Some(Value::Unchanged) && key.position(name).is_none() && table.column(name, false).is_some()
        };
        let others: Vec<_> = data.iter().flat_map(|data| data.columns().iter().enumerate()).filter(is_taken).collect();
        let names = key.iter().filter_map(|name| table.column(name, true));
        Self {
            table,
            key,
            data: data.map(Row::columns),
            names: names.chain(others.iter().filter_map(|(_, name)| table.column(name, false))).collect(),
            others: others.into_iter().map(|(place, _)| place).collect(),
            is_own: data.is_some_and(Row::has_unchanged),
        }
    }

    fn fits(&self, table: &TableMap, record: &Record) -> bool {
        let data = record.data.as_ref();
        !self.is_own
            && std::ptr::eq(self.table, table)
            && self.key == record.key.columns()
            && self.data == data.map(Row::columns)
            && !data.is_some_and(Row::has_unchanged)
    }

    fn values(&self, record: &'a Record) -> Vec<Value<'a>> {
        let mut values = Vec::with_capacity(self.names.len());
        values.extend(record.key.values());
        values.extend(record.data.iter().flat_map(|data| self.others.iter().filter_map(|place| data.value(*place))));
        values
    }
}

/// Operations while they are folded; `finish` brings them in order.
#[derive(Default)]
struct Folding<'a> {
    tables: Vec<(FoldedTable<'a>, HashMap<Arc<str>, Slot>)>,
    later: Vec<Item<'a>>,
    /// That of the newest record: the next one has it, too, nearly always.
    layout: Option<Layout<'a>>,
}

/// Where a key's operation is.
struct Slot {
    operation: usize,
    /// A record of this key waits for the next round, and so do all after it.
    closed: bool,
}

impl<'a> Folding<'a> {
    fn push(&mut self, item: Item<'a>) {
        let change = self.change(item);
        let Self { tables, later, .. } = self;
        let (table, slots) = table_of(tables, &item);
        let operations = &mut table.operations;
        match slots.entry(key_name(&item.record.key).into()) {
            Entry::Vacant(slot) => {
                operations.push(Operation::new(slot.key().clone(), item, change));
                slot.insert(Slot { operation: operations.len() - 1, closed: false });
            }
            Entry::Occupied(mut slot) => {
                let slot = slot.get_mut();
                if let Some(operation) = operations.get_mut(slot.operation).filter(|_| !slot.closed)
                    && operation.add(item, change)
                {
                    return;
                }
                slot.closed = true;
                later.push(item);
            }
        }
    }

    fn change(&mut self, item: Item<'a>) -> Change<'a> {
        let Item { table, action, record, .. } = item;
        if action == Action::Delete {
            return Change::Delete;
        }
        let layout = match self.layout.take().filter(|layout| layout.fits(table, record)) {
            Some(layout) => layout,
            None => Layout::of(table, record),
        };
        let layout = self.layout.insert(layout);
        Change::Upsert { columns: layout.names.clone(), values: layout.values(record), partial: record.partial }
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
    tables: &'t mut Vec<(FoldedTable<'a>, HashMap<Arc<str>, Slot>)>,
    item: &Item<'a>,
) -> &'t mut (FoldedTable<'a>, HashMap<Arc<str>, Slot>) {
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
    fn new(name: Arc<str>, item: Item<'a>, change: Change<'a>) -> Self {
        let Record { key, version, .. } = item.record;
        Self { name, key, version: *version, since: *version, change, item, others: Vec::new() }
    }

    /// Takes a later record in; `false` if it has to wait until this operation is applied.
    fn add(&mut self, item: Item<'a>, mut newer: Change<'a>) -> bool {
        let version = item.record.version;
        if version <= self.version {
            let outcome = if version == self.version { Outcome::Duplicate } else { Outcome::Stale };
            self.others.push((item, outcome));
            return true;
        }
        if let Change::Upsert { columns, values, partial } = &mut newer {
            match &self.change {
                // What the deleted row had must be gone before a part of its columns comes back; all of them replace it.
                Change::Delete if *partial => return false,
                Change::Delete => self.since = version,
                Change::Upsert { columns: older, values: older_values, partial: older_partial } => {
                    let kept = inherit((columns, values), older, older_values);
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
        self.others.push((item, Outcome::Applied));
        true
    }

    /// The place of the first record it was made from.
    #[must_use]
    pub const fn place(&self) -> usize {
        self.item.place
    }

    /// Writes down what became of the records of this operation. Those that a version in between does not cover are
    /// left for another round.
    pub fn settle(&self, taken: Taken, outcomes: &mut [Outcome], left: &mut Vec<Item<'a>>) {
        let first = (&self.item, &Outcome::Applied);
        for (item, applied) in std::iter::once(first).chain(self.others.iter().map(|(item, applied)| (item, applied))) {
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

/// Appends the older columns that the newer ones do not set; tells whether there were any.
fn inherit<'a>(
    (columns, values): (&mut Arc<[&'a str]>, &mut Vec<Value<'a>>),
    older: &Arc<[&'a str]>,
    older_values: &[Value<'a>],
) -> bool {
    // Repeats of one shape are the rule, and then nothing has to be searched.
    if columns == older {
        return false;
    }
    let missing = older.iter().zip(older_values).filter(|(name, _)| !columns.contains(name));
    let (names, inherited): (Vec<&str>, Vec<Value<'_>>) = missing.unzip();
    if names.is_empty() {
        return false;
    }
    values.extend(inherited);
    *columns = columns.iter().copied().chain(names).collect();
    true
}

#[cfg(test)]
mod tests;
