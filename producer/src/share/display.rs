//! Display values: what people read for a reference, as a column `dv_<column>` beside it.
//!
//! Of the source's column, added before the script. What was looked up is kept for a while and within a bound; whoever
//! decides about changes looks up what is missing first. Knows rows, neither the source nor the clock.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use syncline_shared::record::{Columns, Row, Value};

use super::columns::Last;
use crate::source::{Lookup, Reference};

/// How long a display value is used that was looked up: a changed one is seen soon, and busy tables ask seldom.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// Bytes of what is kept of one lookup table, about; when there is more, all of it is looked up anew.
const KEPT_BYTES_MAX: usize = 1024 * 1024;
/// What an entry takes beside its texts, about.
const ENTRY_BYTES: usize = 96;

/// The display values of a share.
#[derive(Debug, Default)]
pub(super) struct Displays {
    columns: Vec<Display>,
    directories: Vec<Directory>,
    shape: Last<Shape>,
}

#[derive(Debug)]
struct Display {
    column: Box<str>,
    name: Box<str>,
    directory: usize,
}

/// A lookup table, and what is known of it.
struct Directory {
    lookup: Lookup,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    values: HashMap<Reference, (Option<Box<str>>, Instant)>,
    bytes: usize,
}

/// Display values are parts of records: not shown.
impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory").field("lookup", &self.lookup).finish_non_exhaustive()
    }
}

impl Directory {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The columns of rows of one shape, with the display values.
#[derive(Debug)]
struct Shape {
    of: Columns,
    shown: Columns,
    /// For each display value that is added: its place among the displays, and that of its column in the row.
    places: Vec<(usize, usize)>,
    /// A display that bears the name of a column, by its place.
    taken: Option<usize>,
}

/// The name of the display value of a column.
#[must_use]
pub fn display_name(column: &str) -> String {
    format!("dv_{column}")
}

impl Displays {
    pub(super) fn new(configured: &BTreeMap<String, Lookup>) -> Self {
        let lookups: BTreeSet<_> = configured.values().map(|one| (&one.table, &one.key, &one.value)).collect();
        let lookups: Vec<Lookup> = lookups
            .into_iter()
            .map(|(table, key, value)| Lookup { table: table.clone(), key: key.clone(), value: value.clone() })
            .collect();
        let columns = configured.iter().filter_map(|(column, lookup)| {
            let directory = lookups.iter().position(|one| one == lookup)?;
            Some(Display { column: column.as_str().into(), name: display_name(column).into(), directory })
        });
        let columns = columns.collect();
        let directory = |lookup| Directory { lookup, kept: Mutex::default() };
        Self { columns, directories: lookups.into_iter().map(directory).collect(), shape: Last::default() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The columns whose display values are added.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|display| &*display.column)
    }

    /// The column whose display value has this name.
    pub(super) fn shown_by(&self, name: &str) -> Option<&str> {
        self.columns.iter().find(|display| *display.name == *name).map(|display| &*display.column)
    }

    /// The lookup tables, in the order of their numbers.
    pub(super) fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.directories.iter().map(|directory| &directory.lookup)
    }

    /// What has to be looked up before rows can be shown: for each lookup table its number and the references whose display
    /// values are not known, or for too long, each once.
    pub(super) fn missing<'r>(
        &self,
        rows: impl Iterator<Item = &'r Row> + Clone,
        now: Instant,
    ) -> Vec<(usize, Vec<Reference>)> {
        let missing = |(number, directory): (usize, &Directory)| {
            let mut kept = directory.kept();
            if kept.bytes > KEPT_BYTES_MAX {
                *kept = Kept::default();
            }
            let of_directory = self.columns.iter().filter(move |display| display.directory == number);
            let values = of_directory.flat_map(|display| rows.clone().filter_map(|row| row.get(&display.column)));
            let is_old = |reference: &Reference| {
                let known = kept.values.get(reference);
                known.is_none_or(|(_, since)| now.saturating_duration_since(*since) > KEPT_FOR)
            };
            let mut wanted: Vec<Reference> = Vec::new();
            let mut seen = HashSet::new();
            for reference in values.filter_map(Reference::of).filter(is_old) {
                if seen.insert(reference.clone()) {
                    wanted.push(reference);
                }
            }
            (!wanted.is_empty()).then_some((number, wanted))
        };
        self.directories.iter().enumerate().filter_map(missing).collect()
    }

    /// Keeps what was looked up.
    pub(super) fn keep(&self, number: usize, references: Vec<Reference>, values: Vec<Option<Box<str>>>, now: Instant) {
        let Some(directory) = self.directories.get(number) else { return };
        let mut kept = directory.kept();
        for (reference, value) in references.into_iter().zip(values) {
            kept.bytes += ENTRY_BYTES + reference.text.len() + value.as_ref().map_or(0, |text| text.len());
            kept.values.insert(reference, (value, now));
        }
    }

    /// A row with the display values of those columns it has; the name of one that is taken otherwise.
    pub(super) fn show<'a>(&self, row: &'a Row) -> Result<Cow<'a, Row>, &str> {
        if self.is_empty() {
            return Ok(Cow::Borrowed(row));
        }
        self.shape.with(
            |shape| shape.of == *row.columns(),
            || self.shape(row.columns()),
            |shape| match shape.taken.and_then(|place| self.columns.get(place)) {
                Some(taken) => Err(&*taken.name),
                None => Ok(Cow::Owned(self.shown(row, shape))),
            },
        )
    }

    fn shape(&self, of: &Columns) -> Shape {
        let taken = self.columns.iter().position(|display| of.position(&display.name).is_some());
        let place = |(display, one): (usize, &Display)| Some((display, of.position(&one.column)?));
        let places: Vec<_> = self.columns.iter().enumerate().filter_map(place).collect();
        let names = places.iter().filter_map(|(display, _)| self.columns.get(*display)).map(|one| &*one.name);
        Shape { of: of.clone(), shown: Columns::new(of.iter().chain(names)), places, taken }
    }

    fn shown(&self, row: &Row, shape: &Shape) -> Row {
        let mut shown = Row::builder(shape.shown.clone()).with_room(row.size());
        row.values().for_each(|value| shown.push(value));
        for &(display, place) in &shape.places {
            let value = row.value(place).unwrap_or(Value::Null);
            let directory = self.columns.get(display).and_then(|one| self.directories.get(one.directory));
            match (value, directory, Reference::of(value)) {
                (Value::Unchanged, _, _) => shown.push(Value::Unchanged),
                (_, Some(directory), Some(reference)) => match directory.kept().values.get(&reference) {
                    Some((Some(text), _)) => shown.push(Value::Text(text)),
                    Some((None, _)) => shown.push(Value::Null),
                    None => unreachable!("it is looked up before it is asked for"),
                },
                (_, _, None) | (_, None, Some(_)) => shown.push(Value::Null),
            }
        }
        shown.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn displays() -> Displays {
        let lookup = |table: &str| Lookup { table: table.into(), key: "sys_id".into(), value: "name".into() };
        let of = [("assigned_to", "sys_user"), ("opened_by", "sys_user"), ("group", "sys_group")];
        Displays::new(&of.map(|(column, table)| (column.to_owned(), lookup(table))).into())
    }

    fn row(assigned: Value<'_>, opened: Value<'_>) -> Row {
        let mut row = Row::builder(Columns::new(["id", "assigned_to", "opened_by"]));
        [Value::Number("7"), assigned, opened].into_iter().for_each(|value| row.push(value));
        row.finish()
    }

    fn texts(missing: &[(usize, Vec<Reference>)]) -> Vec<(usize, Vec<&str>)> {
        missing.iter().map(|(number, all)| (*number, all.iter().map(|one| &*one.text).collect())).collect()
    }

    #[test]
    fn what_is_missing_is_wanted_once_and_again_when_it_is_old() {
        let (displays, now) = (displays(), Instant::now());
        let rows = [row(Value::Text("a"), Value::Text("b")), row(Value::Text("b"), Value::Null)];
        let missing = displays.missing(rows.iter(), now);
        assert_eq!(texts(&missing), [(1, vec!["a", "b"])], "one lookup table for two columns");
        let (number, references) = missing.into_iter().next().unwrap();
        displays.keep(number, references, vec![Some("Abel".into()), None], now);
        assert_eq!(displays.missing(rows.iter(), now + KEPT_FOR), []);
        let shown = displays.show(&rows[0]).unwrap();
        let names: Vec<_> = shown.columns().iter().collect();
        assert_eq!(names, ["id", "assigned_to", "opened_by", "dv_assigned_to", "dv_opened_by"]);
        assert_eq!(
            (shown.get("dv_assigned_to"), shown.get("dv_opened_by")),
            (Some(Value::Text("Abel")), Some(Value::Null))
        );
        let null = displays.show(&rows[1]).unwrap();
        assert_eq!((null.get("dv_assigned_to"), null.get("dv_opened_by")), (Some(Value::Null), Some(Value::Null)));
        let unsent = row(Value::Unchanged, Value::Null);
        assert_eq!(displays.show(&unsent).unwrap().get("dv_assigned_to"), Some(Value::Unchanged));
        let later = now + KEPT_FOR + Duration::from_millis(1);
        assert_eq!(texts(&displays.missing(rows.iter(), later)), [(1, vec!["a", "b"])]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (displays, now) = (displays(), Instant::now());
        let one = [row(Value::Text("a"), Value::Null)];
        let text: Box<str> = "x".repeat(4000).into();
        for number in 0..(KEPT_BYTES_MAX / 4000 + 1) {
            let reference = Reference { text: number.to_string().into(), is_number: false };
            displays.keep(1, vec![reference], vec![Some(text.clone())], now);
        }
        assert_eq!(displays.missing(one.iter(), now).len(), 1);
        let kept = displays.directories[1].kept();
        assert_eq!((kept.values.len(), kept.bytes), (0, 0));
    }

    #[test]
    fn a_name_that_is_taken_is_told_and_no_value_is_shown() {
        let displays = displays();
        let mut row = Row::builder(Columns::new(["group", "dv_group"]));
        [Value::Text("secret"), Value::Null].into_iter().for_each(|value| row.push(value));
        let row = row.finish();
        assert_eq!(displays.show(&row).unwrap_err(), "dv_group");
        let missing = displays.missing([&row].into_iter(), Instant::now());
        assert!(!format!("{missing:?} {displays:?}").contains("secret"));
    }
}
