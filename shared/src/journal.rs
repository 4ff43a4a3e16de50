//! What a service remembers of the records it saw last, for a person who asks where one of them is.
//!
//! A ring in memory with a bound: off unless it is configured, gone with the process, never waited for by the pipeline.
//! Knows records by [`record_id`] alone, neither their keys nor their values, and nothing of what an entry says. Never
//! fails; the oldest entries make room for new ones.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::record::{Row, key_id};

/// The most entries a journal may have: some hundred megabytes.
pub const ENTRIES_MAX: u32 = 1_000_000;
/// Entries told of one record, the newest; who looks for one record needs no more, and the page stays small.
const TOLD_MAX: usize = 200;

/// What is wrong with a number of entries, if anything is.
#[must_use]
pub fn check(entries_max: u32) -> Option<String> {
    (entries_max > ENTRIES_MAX)
        .then(|| format!("{entries_max} is out of range; 0 to {ENTRIES_MAX} entries, 0 for none"))
}

/// Names a record among those of all tables without showing its key: the same at both ends, whoever its source is.
#[must_use]
pub fn record_id(table: &str, key: &Row) -> u64 {
    key_id("", table, key)
}

/// What an entry tells of a record.
pub trait Entry: Send + 'static {
    /// Its form on the admin endpoint.
    type Told: Serialize;

    /// Tells it; `at` is when it was noted.
    fn told(&self, at: Timestamp) -> Self::Told;
}

/// A journal. Clones are the same one.
#[derive(Debug)]
pub struct Journal<E>(Arc<Mutex<Ring<E>>>);

impl<E> Clone for Journal<E> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[derive(Debug)]
struct Ring<E> {
    entries_max: usize,
    /// The ids of the records apart from the entries, so that a search touches little memory.
    records: VecDeque<u64>,
    entries: VecDeque<(Timestamp, E)>,
    /// How many entries made room.
    forgotten: u64,
    /// From when on nothing is forgotten.
    since: Timestamp,
}

/// What a journal has of one record.
#[derive(Debug, Deserialize, Serialize)]
pub struct Told<T> {
    /// From when on nothing is forgotten.
    pub since: Timestamp,
    /// The entries, oldest first.
    pub entries: Vec<T>,
    /// Older entries of the record that are not among them.
    pub more: usize,
}

impl<E: Entry> Journal<E> {
    /// Makes a journal of at most so many entries, all of whose memory is claimed at once; `None` for 0: it is off.
    #[must_use]
    pub fn new(entries_max: u32) -> Option<Self> {
        let entries_max = usize::try_from(entries_max).ok().filter(|entries| *entries > 0)?;
        Some(Self(Arc::new(Mutex::new(Ring {
            entries_max,
            records: VecDeque::with_capacity(entries_max),
            entries: VecDeque::with_capacity(entries_max),
            forgotten: 0,
            since: Timestamp::now(),
        }))))
    }

    /// Notes an entry of a record; its place, for [`Journal::change`].
    pub fn note(&self, record: u64, entry: E) -> u64 {
        let mut ring = self.ring();
        if ring.entries.len() >= ring.entries_max {
            ring.records.pop_front();
            if let Some((at, _)) = ring.entries.pop_front() {
                ring.since = at;
            }
            ring.forgotten += 1;
        }
        ring.records.push_back(record);
        ring.entries.push_back((Timestamp::now(), entry));
        ring.forgotten + ring.entries.len() as u64 - 1
    }

    /// Changes the entries at these places, as far as they are still there.
    pub fn change(&self, places: &[u64], mut change: impl FnMut(&mut E)) {
        let mut ring = self.ring();
        let forgotten = ring.forgotten;
        for place in places {
            let index = place.checked_sub(forgotten).and_then(|index| usize::try_from(index).ok());
            if let Some((_, entry)) = index.and_then(|index| ring.entries.get_mut(index)) {
                change(entry);
            }
        }
    }

    /// What is known of a record.
    #[must_use]
    pub fn of(&self, record: u64) -> Told<E::Told> {
        let ring = self.ring();
        let places = ring.records.iter().enumerate().filter(|(_, id)| **id == record);
        let places: Vec<usize> = places.map(|(place, _)| place).collect();
        let more = places.len().saturating_sub(TOLD_MAX);
        let newest = places.iter().skip(more).filter_map(|place| ring.entries.get(*place));
        Told { since: ring.since, entries: newest.map(|(at, entry)| entry.told(*at)).collect(), more }
    }

    fn ring(&self) -> MutexGuard<'_, Ring<E>> {
        // Nothing in here can be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks a journal, whatever its entries are.
type Ask = Arc<dyn Fn(u64) -> Value + Send + Sync>;

/// The parts of one process with their journals, as its admin endpoint tells of them.
#[derive(Clone, Default)]
pub struct Journals(Vec<(&'static str, Option<Ask>)>);

impl Journals {
    /// Adds a part, with its journal unless that is off.
    pub fn add<E: Entry>(&mut self, part: &'static str, journal: Option<&Journal<E>>) {
        let ask = journal.cloned().map(|journal| {
            let ask: Ask = Arc::new(move |record| serde_json::to_value(journal.of(record)).unwrap_or_default());
            ask
        });
        self.0.push((part, ask));
    }

    /// What every part has of a record: a list of `{"part": .., "journal": ..}`, null for one that is off.
    #[must_use]
    pub fn of(&self, record: u64) -> Value {
        let told =
            |(part, ask): &(&str, Option<Ask>)| json!({ "part": part, "journal": ask.as_ref().map(|ask| ask(record)) });
        self.0.iter().map(told).collect()
    }
}

/// Serializes a value as its text, for the words and numbers of this crate that have one.
pub mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    /// Writes the text.
    ///
    /// # Errors
    /// The serializer's own.
    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// It is no text, or not one of such a value.
    pub fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| D::Error::custom(format!("{text:?} is not known here")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Columns, Value as Cell};

    impl Entry for u32 {
        type Told = Self;

        fn told(&self, _at: Timestamp) -> Self {
            *self
        }
    }

    fn key(values: &[Cell<'_>]) -> Row {
        let mut row = Row::builder(Columns::new((0..values.len()).map(|place| format!("k{place}"))));
        values.iter().for_each(|value| row.push(*value));
        row.finish()
    }

    #[test]
    fn the_oldest_entries_make_room_and_the_journal_says_since_when_it_is_whole() {
        let journal = Journal::new(3).unwrap();
        let start = journal.of(1).since;
        for entry in 0..3 {
            journal.note(1, entry);
        }
        let told = journal.of(1);
        assert_eq!((told.entries, told.more, told.since), (vec![0, 1, 2], 0, start));
        for entry in 3..5 {
            journal.note(2, entry);
        }
        assert_eq!((journal.of(1).entries, journal.of(2).entries), (vec![2], vec![3, 4]));
        assert!(journal.of(1).since > start);
        let ring = journal.ring();
        assert_eq!((ring.records.len(), ring.entries.len(), ring.entries.capacity()), (3, 3, 3));
    }

    #[test]
    fn an_entry_is_changed_at_its_place_and_one_that_fell_out_is_left_alone() {
        let journal = Journal::new(2).unwrap();
        let places: Vec<_> = (0..3).map(|entry| journal.note(1, entry)).collect();
        journal.change(&places, |entry| *entry += 10);
        assert_eq!(journal.of(1).entries, [11, 12]);
        journal.change(&[99], |entry| *entry = 0);
        assert_eq!(journal.of(1).entries, [11, 12]);
    }

    #[test]
    fn a_record_with_many_entries_is_told_by_its_newest() {
        let journal = Journal::new(1000).unwrap();
        (0..300).for_each(|entry| _ = journal.note(1, entry));
        let told = journal.of(1);
        assert_eq!((told.entries.first(), told.entries.len(), told.more), (Some(&100), TOLD_MAX, 100));
    }

    #[test]
    fn none_is_kept_where_it_is_off_and_the_page_says_so() {
        assert!(Journal::<u32>::new(0).is_none());
        let (mut journals, on) = (Journals::default(), Journal::new(1).unwrap());
        on.note(7, 5_u32);
        journals.add::<u32>("producer", None);
        journals.add("consumer", Some(&on));
        let told = journals.of(7);
        assert_eq!((&told[0]["part"], &told[0]["journal"]), (&json!("producer"), &Value::Null));
        assert_eq!((&told[1]["part"], &told[1]["journal"]["entries"]), (&json!("consumer"), &json!([5])));
    }

    #[test]
    fn a_record_has_one_id_however_its_key_columns_are_called_or_typed() {
        let id = record_id("incident", &key(&[Cell::Number("7"), Cell::Text("a")]));
        assert_eq!(id, record_id("incident", &key(&[Cell::Text("7"), Cell::Text("a")])));
        assert_ne!(id, record_id("problem", &key(&[Cell::Number("7"), Cell::Text("a")])));
        assert_ne!(id, record_id("incident", &key(&[Cell::Text("7a"), Cell::Text("")])));
    }
}
