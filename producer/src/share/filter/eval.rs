//! Holds a change against a filter.
//!
//! Where the platform has two ways, the choice is made here:
//! - Text is compared exactly, upper and lower case apart, as the platform does where it holds a condition against a
//!   record in memory (GlideFilter, business rules, and so its dynamic shares); its database queries ignore case.
//! - `!=` also holds for an empty value, as everywhere on the platform, and so do its like: `NOT IN`, `NOTON`. Every other
//!   comparison fails for it, `NOT LIKE` among them, as in the platform's database queries; GlideFilter alone counts an
//!   empty date as earlier than any. Two empty values are the same to `SAMEAS`.
//!
//! Null and the empty text are both empty. When both sides are numbers they compare as numbers, exactly; `true` and `1`,
//! `false` and `0` are the same to a boolean; dates compare as instants; all else compares as text.

use std::cmp::Ordering;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use syncline_shared::record::{Columns, Row, Value};

use super::decimal::Decimal;
use super::moment::{Clock, Stamp, Unit};
use super::operand::{Operand, When};
use super::term::{Ask, Comparison, Pair, Side, Test};
use super::{Clause, Filter, Term};

/// What a filter says of a change: three values, since a value may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It fits.
    Fits,
    /// It does not fit, whatever the unknown values are.
    FitsNot,
    /// It depends on a value the change does not carry: unchanged and not sent, a column that is missing, or the values
    /// before the change.
    Unknown,
}

/// Where the columns of a filter are in rows of one shape.
#[derive(Debug)]
pub(in crate::share) struct Places {
    /// The shape.
    pub(in crate::share) columns: Columns,
    /// For each column of the filter its place, `None` where the shape lacks it.
    places: Vec<Option<usize>>,
}

/// One change as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub(in crate::share) struct Seen<'a> {
    /// The record: after the change, or before a delete.
    pub(in crate::share) row: &'a Row,
    /// Where the columns are in it.
    pub(in crate::share) places: &'a Places,
    /// The record before the change.
    pub(in crate::share) before: Before<'a>,
    /// The instant of the change: what is relative is reckoned from here, so that a repetition decides the same.
    pub(in crate::share) at: Timestamp,
}

/// What is known of a record before its change.
#[derive(Clone, Copy, Debug)]
pub(in crate::share) enum Before<'a> {
    /// No value changed: the row of a copy, or a delete.
    Same,
    /// There was no record: all its values were empty.
    Nothing,
    /// There was one, and the source does not tell its values.
    Unknown,
    /// These values.
    Row(&'a Row, &'a Places),
}

impl Filter {
    /// Looks up the filter's columns, once for all rows of a shape.
    pub(in crate::share) fn places(&self, columns: &Columns) -> Places {
        Places { columns: columns.clone(), places: self.columns().map(|name| columns.position(name)).collect() }
    }

    /// The first column of the filter that the shape lacks.
    pub(in crate::share) fn missing(&self, places: &Places) -> Option<&str> {
        self.columns().zip(&places.places).find_map(|(name, place)| place.is_none().then_some(name))
    }

    /// Holds a change against the filter; allocates nothing.
    pub(in crate::share) fn test(&self, seen: &Seen<'_>) -> Verdict {
        let clause = |clause: &Clause| any(clause.iter().map(|term| term.verdict(seen, &self.zone)));
        any(self.groups.iter().map(|group| all(group.iter().map(clause))))
    }
}

impl Places {
    /// The value of a column of the filter; `None` where the row lacks it.
    pub(super) fn value<'a>(&self, row: &'a Row, column: usize) -> Option<Value<'a>> {
        row.value(self.places.get(column).copied().flatten()?)
    }
}

impl Seen<'_> {
    /// The value a column has, where it is known.
    fn value(&self, column: usize) -> Option<Value<'_>> {
        self.places.value(self.row, column).filter(|value| *value != Value::Unchanged)
    }

    /// What a column's value was, held against something: fits not where nothing changed.
    fn was(&self, column: usize, fits: impl FnOnce(Value<'_>) -> bool) -> Verdict {
        let before = match self.before {
            Before::Same => return Verdict::FitsNot,
            _ if self.places.value(self.row, column) == Some(Value::Unchanged) => return Verdict::FitsNot,
            Before::Nothing => Some(Value::Null),
            Before::Unknown => None,
            Before::Row(row, places) => places.value(row, column).filter(|value| *value != Value::Unchanged),
        };
        before.map_or(Verdict::Unknown, |before| fits(before).into())
    }

    /// Whether a column's value changed; an empty one may be null or an empty text.
    fn changed(&self, column: usize) -> Verdict {
        match self.value(column) {
            Some(value) => self.was(column, |before| before != value && !(is_empty(before) && is_empty(value))),
            None => self.was(column, |_| true),
        }
    }
}

impl From<bool> for Verdict {
    fn from(fits: bool) -> Self {
        if fits { Self::Fits } else { Self::FitsNot }
    }
}

impl Term {
    /// Holds a change against this term alone.
    pub(super) fn verdict(&self, seen: &Seen<'_>, zone: &TimeZone) -> Verdict {
        let clock = Clock { at: seen.at, zone };
        match &self.test {
            Test::Anything => Verdict::Fits,
            Test::Value(ask) => seen.value(self.column).map_or(Verdict::Unknown, |value| ask.fits(value, clock).into()),
            Test::Pair(other, pair) => match (seen.value(self.column), seen.value(other.place)) {
                (Some(value), Some(other)) => pair.fits(value, other, zone).into(),
                _ => Verdict::Unknown,
            },
            Test::Changes => seen.changed(self.column),
            Test::ChangesTo(to) => {
                let is = seen.value(self.column).map_or(Verdict::Unknown, |value| equals(value, to, clock).into());
                all([is, seen.changed(self.column)].into_iter())
            }
            Test::ChangesFrom(from) => {
                let was = seen.was(self.column, |before| equals(before, from, clock));
                all([was, seen.changed(self.column)].into_iter())
            }
        }
    }
}

impl Ask {
    fn fits(&self, value: Value<'_>, clock: Clock<'_>) -> bool {
        let Clock { at, zone } = clock;
        let text = value.as_text().filter(|text| !text.is_empty());
        let is = |comparison: Comparison, operand| {
            compare(value, operand, clock).is_some_and(|order| comparison.fits(order))
        };
        let within = |from, to| is(Comparison::AtLeast, from) && is(Comparison::AtMost, to);
        let held_against = |unit: &Unit, count, fits: &dyn Fn(Timestamp, Timestamp) -> bool| {
            let (own, point) = (instant(value, zone), unit.shift(at, count, zone));
            own.zip(point).is_some_and(|(own, point)| fits(own, point))
        };
        match self {
            Self::IsEmpty => text.is_none(),
            Self::IsNotEmpty => text.is_some(),
            Self::EmptyString => matches!(value, Value::Text("")),
            Self::Is(Comparison::Equal, operand) => equals(value, operand, clock),
            Self::Is(Comparison::NotEqual, operand) => !equals(value, operand, clock),
            Self::Is(comparison, operand) => is(*comparison, operand),
            Self::In { operands, not } => operands.iter().any(|operand| is(Comparison::Equal, operand)) != *not,
            Self::Contains(part) => text.is_some_and(|text| text.contains(&**part)),
            Self::Lacks(part) => text.is_some_and(|text| !text.contains(&**part)),
            Self::StartsWith(part) => text.is_some_and(|text| text.starts_with(&**part)),
            Self::EndsWith(part) => text.is_some_and(|text| text.ends_with(&**part)),
            Self::Between(from, to) => within(from, to),
            Self::On { from, to, not, .. } => within(from, to) != *not,
            Self::Relative { comparison, unit, count } => {
                held_against(unit, *count, &|own, point| comparison.fits(own.cmp(&point)))
            }
            Self::Within { unit, count } => {
                held_against(unit, *count, &|own, point| unit.start(own, zone) == unit.start(point, zone))
            }
            Self::Part { part, comparison, .. } => {
                stamp(value).is_some_and(|stamp| comparison.fits(part.compare(stamp.local(zone))))
            }
            Self::InstanceOf { class, extended_by } => {
                text.is_some_and(|text| text == &**class || extended_by.iter().any(|extending| **extending == *text))
            }
        }
    }
}

impl Pair {
    fn fits(&self, value: Value<'_>, other: Value<'_>, zone: &TimeZone) -> bool {
        let both = || !is_empty(value) && !is_empty(other);
        match self {
            Self::Same { unit, not } => same(value, other, *unit, zone) != *not,
            Self::Order(comparison) => both() && comparison.fits(order(value, &Right::value(other), zone)),
            Self::Apart { unit, count, side, more } => {
                let dates = instant(value, zone).zip(instant(other, zone));
                dates.is_some_and(|dates| apart(dates, (*unit, *count), *side, *more, zone))
            }
        }
    }
}

fn is_empty(value: Value<'_>) -> bool {
    value.as_text().is_none_or(str::is_empty)
}

/// Whether a value is the operand; an empty operand is every empty value.
fn equals(value: Value<'_>, operand: &Operand, clock: Clock<'_>) -> bool {
    match operand.is_empty() {
        true => is_empty(value),
        false => compare(value, operand, clock) == Some(Ordering::Equal),
    }
}

/// Orders a value and an operand; `None` for an empty value, and for one that is no date where the operand is an instant.
fn compare(value: Value<'_>, operand: &Operand, clock: Clock<'_>) -> Option<Ordering> {
    if is_empty(value) {
        return None;
    }
    match operand.when {
        When::Never => Some(order(value, &Right { text: &operand.text, stamp: None }, clock.zone)),
        // Dates written out are in UTC, as the platform's are.
        When::Written(stamp) => Some(order(value, &Right { text: &operand.text, stamp: Some(stamp) }, &TimeZone::UTC)),
        When::Named(moment) => Some(instant(value, clock.zone)?.cmp(&moment.resolve(clock)?)),
    }
}

/// What stands on the right of a comparison.
struct Right<'a> {
    text: &'a str,
    stamp: Option<Stamp>,
}

impl<'a> Right<'a> {
    fn value(value: Value<'a>) -> Self {
        Self { text: value.as_text().unwrap_or_default(), stamp: stamp(value) }
    }
}

/// The date a value is.
fn stamp(value: Value<'_>) -> Option<Stamp> {
    match value {
        Value::Text(text) => Stamp::read(text),
        Value::Null | Value::Unchanged | Value::Bool(_) | Value::Number(_) | Value::Bytes(_) => None,
    }
}

/// The instant a value is; a day is its beginning in the zone.
fn instant(value: Value<'_>, zone: &TimeZone) -> Option<Timestamp> {
    stamp(value)?.instant(zone)
}

/// Orders two values that are not empty.
fn order(value: Value<'_>, right: &Right<'_>, zone: &TimeZone) -> Ordering {
    let text = value.as_text().unwrap_or_default();
    // A boolean is `true` or `1` as the operand has it: databases without booleans, and the platform's scripts, write 1.
    let text = match (text, right.text) {
        ("1", "true" | "false") => "true",
        ("0", "true" | "false") => "false",
        (_, "true" | "false") => text,
        _ if value == Value::Bool(true) => "1",
        _ if value == Value::Bool(false) => "0",
        _ => text,
    };
    let number = match value {
        Value::Number(_) | Value::Bool(_) => Decimal::parse(text),
        // Text may be a number from a system that writes all its values as text, but `1E5` is then a serial number.
        Value::Text(_) => Decimal::parse(text).filter(|_| !text.contains(['e', 'E'])),
        Value::Null | Value::Unchanged | Value::Bytes(_) => None,
    };
    if let Some((number, other)) = number.and_then(|number| Some((number, Decimal::parse(right.text.trim())?))) {
        return number.compare(other);
    }
    let instants = right.stamp.and_then(|other| Some((instant(value, zone)?, other.instant(zone)?)));
    instants.map_or_else(|| text.cmp(right.text), |(one, other)| one.cmp(&other))
}

/// Whether two values are the same, or two dates within the same part of time.
fn same(value: Value<'_>, other: Value<'_>, unit: Option<Unit>, zone: &TimeZone) -> bool {
    match unit {
        _ if is_empty(value) || is_empty(other) => is_empty(value) && is_empty(other),
        None => order(value, &Right::value(other), zone).is_eq(),
        Some(unit) => {
            let start = |value| unit.start(instant(value, zone)?, zone);
            start(value).is_some_and(|one| start(other) == Some(one))
        }
    }
}

/// Whether a date is more than so much before or after another, or on that side of it and less.
fn apart(
    (one, other): (Timestamp, Timestamp),
    (unit, count): (Unit, i64),
    side: Side,
    more: bool,
    zone: &TimeZone,
) -> bool {
    let (first, last) = match side {
        Side::Before => (one, other),
        Side::After => (other, one),
        Side::Either => (one.min(other), one.max(other)),
    };
    let Some(reach) = unit.shift(first, count, zone) else { return false };
    if more { reach < last } else { first <= last && last < reach }
}

/// Or: fits when any does, fits not when none does.
pub(super) fn any(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    strongest(verdicts, Verdict::Fits, Verdict::FitsNot)
}

/// And: fits when all do, fits not when any does not.
pub(super) fn all(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    strongest(verdicts, Verdict::FitsNot, Verdict::Fits)
}

/// `decides` as soon as one says so, else `Unknown` if any does, else `neutral`.
fn strongest(verdicts: impl Iterator<Item = Verdict>, decides: Verdict, neutral: Verdict) -> Verdict {
    let mut result = neutral;
    for verdict in verdicts {
        if verdict == decides {
            return decides;
        }
        if verdict == Verdict::Unknown {
            result = Verdict::Unknown;
        }
    }
    result
}
