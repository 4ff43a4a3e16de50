//! Holds a row against a filter.
//!
//! Where the platform has two ways, the choice is made here:
//! - Text is compared exactly, upper and lower case apart, as the platform does where it holds a condition against a
//!   record in memory (GlideFilter, business rules, and so its dynamic shares); its database queries ignore case.
//! - `!=` also holds for an empty value, as everywhere on the platform. Every other comparison fails for it, as in the
//!   platform's database queries; GlideFilter alone counts an empty date as earlier than any.
//!
//! Null and the empty text are both empty. When both sides are numbers they compare as numbers, exactly; `true` and `1`,
//! `false` and `0` are the same to a boolean; all else compares as text, so dates compare in ISO order.

use std::cmp::Ordering;

use syncline_shared::record::{Columns, Row, Value};

use super::decimal::Decimal;
use super::{Clause, Filter, Term, Test};

/// What a filter says of a row: three values, since a value may be unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::share) enum Verdict {
    /// The row fits.
    Fits,
    /// The row does not fit, whatever the unknown values are.
    FitsNot,
    /// It depends on a value the row does not carry: unchanged and not sent, or a column that is missing.
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

impl Filter {
    /// Looks up the filter's columns, once for all rows of a shape.
    pub(in crate::share) fn places(&self, columns: &Columns) -> Places {
        Places { columns: columns.clone(), places: self.columns().map(|name| columns.position(name)).collect() }
    }

    /// The first column of the filter that the shape lacks.
    pub(in crate::share) fn missing(&self, places: &Places) -> Option<&str> {
        self.columns().zip(&places.places).find_map(|(name, place)| place.is_none().then_some(name))
    }

    /// Holds a row of the shape against the filter; allocates nothing.
    pub(in crate::share) fn test(&self, row: &Row, places: &Places) -> Verdict {
        let value = |term: &Term| places.places.get(term.column).copied().flatten().and_then(|place| row.value(place));
        let clause = |clause: &Clause| any(clause.iter().map(|term| term.test.test(value(term))));
        any(self.groups.iter().map(|group| all(group.iter().map(clause))))
    }
}

impl Test {
    fn test(&self, value: Option<Value<'_>>) -> Verdict {
        let Some(value) = value.filter(|value| *value != Value::Unchanged) else { return Verdict::Unknown };
        let text = value.as_text().filter(|text| !text.is_empty());
        let order = |operand: &str| text.map(|_| compare(value, operand));
        let fits = match self {
            Self::IsEmpty => text.is_none(),
            Self::IsNotEmpty => text.is_some(),
            Self::Equal(operand) if operand.is_empty() => text.is_none(),
            Self::NotEqual(operand) if operand.is_empty() => text.is_some(),
            Self::Equal(operand) => order(operand) == Some(Ordering::Equal),
            Self::NotEqual(operand) => order(operand) != Some(Ordering::Equal),
            Self::Less(operand) => order(operand).is_some_and(Ordering::is_lt),
            Self::AtMost(operand) => order(operand).is_some_and(Ordering::is_le),
            Self::Greater(operand) => order(operand).is_some_and(Ordering::is_gt),
            Self::AtLeast(operand) => order(operand).is_some_and(Ordering::is_ge),
            Self::In(operands) => operands.iter().any(|operand| order(operand) == Some(Ordering::Equal)),
            Self::Like(operand) => text.is_some_and(|text| text.contains(&**operand)),
            Self::StartsWith(operand) => text.is_some_and(|text| text.starts_with(&**operand)),
        };
        if fits { Verdict::Fits } else { Verdict::FitsNot }
    }
}

/// Orders a value that is not empty and an operand.
fn compare(value: Value<'_>, operand: &str) -> Ordering {
    let text = value.as_text().unwrap_or_default();
    // A boolean is `true` or `1` as the operand has it: databases without booleans, and the platform's scripts, write 1.
    let text = match (text, operand) {
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
    match number.and_then(|number| Some((number, Decimal::parse(operand.trim())?))) {
        Some((number, operand)) => number.compare(operand),
        None => text.cmp(operand),
    }
}

/// Or: fits when any does, fits not when none does.
fn any(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
    strongest(verdicts, Verdict::Fits, Verdict::FitsNot)
}

/// And: fits when all do, fits not when any does not.
fn all(verdicts: impl Iterator<Item = Verdict>) -> Verdict {
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
