//! What a term holds a value against: a text, which may be a number or a date, or an instant the platform's date functions
//! name.

use jiff::civil::Time;
use jiff::tz::TimeZone;

use super::moment::{Edge, Moment, Stamp, Unit};

/// Begins a value the platform would compute.
pub(super) const SCRIPT: &str = "javascript:";

/// The most parts of time that are reckoned forward or back.
const COUNT_MAX: i64 = 999_999;

/// One value of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operand {
    /// As written, with `^^` read as `^`.
    pub(super) text: Box<str>,
    pub(super) when: When,
}

/// What an operand says of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// Nothing: it is no date.
    Never,
    /// A date written out.
    Written(Stamp),
    /// A date function.
    Named(Moment),
}

impl Operand {
    /// Reads a value; `None` for a script that is none of the date functions.
    pub(super) fn read(text: &str, zone: &TimeZone) -> Option<Self> {
        let when = match text.strip_prefix(SCRIPT) {
            Some(script) => When::Named(function(script, zone)?),
            None => Stamp::read(text).map_or(When::Never, When::Written),
        };
        Some(Self { text: text.into(), when })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }
}

/// Name and arguments of `gs.name('one', 2)`.
pub(super) fn call(script: &str) -> Option<(&str, Vec<&str>)> {
    let (name, arguments) = script.trim().strip_prefix("gs.")?.strip_suffix(')')?.split_once('(')?;
    match arguments.trim() {
        "" => Some((name, Vec::new())),
        arguments => Some((name, arguments.split(',').map(argument).collect::<Option<_>>()?)),
    }
}

/// A text without its quotes, or an integer.
fn argument(text: &str) -> Option<&str> {
    let text = text.trim();
    let quoted = |quote| text.strip_prefix(quote)?.strip_suffix(quote);
    quoted('\'').or_else(|| quoted('"')).or_else(|| text.parse::<i64>().ok().map(|_| text))
}

/// Reads one of the platform's date functions: "GlideSystem API", the methods on dates.
fn function(script: &str, zone: &TimeZone) -> Option<Moment> {
    let (name, arguments) = call(script)?;
    let relative = |unit, count, edge| Some(Moment::Relative { unit, count, edge });
    match (name, arguments.as_slice()) {
        ("nowDateTime" | "nowNoTZ", []) => relative(Unit::Minute, 0, Edge::Same),
        ("yesterday", []) => relative(Unit::Day, -1, Edge::Same),
        ("dateGenerate", [date, time]) => generate(date, time, zone),
        (name, []) => {
            let (edge, period) = match name.strip_prefix("beginningOf") {
                Some(period) => (Edge::Start, period),
                None => (Edge::End, name.strip_prefix("endOf")?),
            };
            let (unit, count) = period_of(period)?;
            relative(unit, count, edge)
        }
        (name, [count]) => {
            let (unit, edge) = name.split_once("sAgo")?;
            let edge = match edge {
                "" => Edge::Same,
                "Start" => Edge::Start,
                "End" => Edge::End,
                _ => return None,
            };
            let count: i64 = count.parse().ok().filter(|count: &i64| count.abs() <= COUNT_MAX)?;
            relative(Unit::read(unit)?, -count, edge)
        }
        _ => None,
    }
}

/// `Today`, `LastMonth` and their like.
fn period_of(period: &str) -> Option<(Unit, i64)> {
    match period {
        "Yesterday" => return Some((Unit::Day, -1)),
        "Today" => return Some((Unit::Day, 0)),
        "Tomorrow" => return Some((Unit::Day, 1)),
        _ => {}
    }
    let (which, count) =
        [("Last", -1), ("This", 0), ("Next", 1)].into_iter().find(|(which, _)| period.starts_with(which))?;
    let unit = match period.strip_prefix(which)? {
        "Week" => Unit::Week,
        "Month" => Unit::Month,
        "Quarter" => Unit::Quarter,
        "Year" => Unit::Year,
        _ => return None,
    };
    Some((unit, count))
}

/// `gs.dateGenerate('2026-03-01', 'start')`: a time of the day there, or its start or end.
fn generate(date: &str, time: &str, zone: &TimeZone) -> Option<Moment> {
    let Stamp::Day(date) = Stamp::read(date)? else { return None };
    let time = match time {
        "start" => Time::midnight(),
        "end" => Time::MAX,
        time => time.parse().ok()?,
    };
    let local = date.to_datetime(time);
    zone.to_ambiguous_timestamp(local).compatible().ok().map(Moment::Fixed)
}
