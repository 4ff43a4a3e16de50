//! Dates in filters and in values.
//!
//! A filter knows no clock: what is relative (`gs.daysAgoStart(7)`, `RELATIVEGE@hour@ago@2`) is reckoned from the instant
//! of the change, so a change that is read again is decided again the same. Days, weeks and all longer parts are those of
//! the filter's time zone; weeks begin on Monday. A text that is no date is none, nothing here fails.

use std::fmt;

use jiff::civil::{Date, DateTime, Time};
use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp};

/// The smallest step between two instants: the end of a part of time is that much before the next part.
const TICK: SignedDuration = SignedDuration::from_nanos(1);

/// What one change is decided by besides its values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock<'a> {
    /// The instant of the change.
    pub(super) at: Timestamp,
    /// The filter's time zone.
    pub(super) zone: &'a TimeZone,
}

/// A part of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Quarter,
    Year,
}

impl Unit {
    const ALL: [Self; 7] = [Self::Minute, Self::Hour, Self::Day, Self::Week, Self::Month, Self::Quarter, Self::Year];

    /// The word of the platform's queries.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Quarter => "quarter",
            Self::Year => "year",
        }
    }

    pub(super) fn read(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.as_str() == word)
    }

    /// How long it lasts, where that is always the same.
    const fn length(self) -> Option<SignedDuration> {
        match self {
            Self::Minute => Some(SignedDuration::from_mins(1)),
            Self::Hour => Some(SignedDuration::from_hours(1)),
            Self::Day | Self::Week | Self::Month | Self::Quarter | Self::Year => None,
        }
    }

    fn span(self, count: i64) -> Option<Span> {
        let span = Span::new();
        match self {
            Self::Minute => span.try_minutes(count),
            Self::Hour => span.try_hours(count),
            Self::Day => span.try_days(count),
            Self::Week => span.try_weeks(count),
            Self::Month => span.try_months(count),
            Self::Quarter => span.try_months(count.checked_mul(3)?),
            Self::Year => span.try_years(count),
        }
        .ok()
    }

    /// So many of it later, or earlier.
    pub(super) fn shift(self, at: Timestamp, count: i64, zone: &TimeZone) -> Option<Timestamp> {
        match self.length() {
            Some(length) => at.checked_add(length.checked_mul(i32::try_from(count).ok()?)?).ok(),
            None => instant(zone.to_datetime(at).checked_add(self.span(count)?).ok()?, zone),
        }
    }

    /// When the part that an instant is in began.
    pub(super) fn start(self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(at);
        let (date, second) = (local.date(), SignedDuration::from_secs(local.second().into()));
        let of_minute = second + SignedDuration::from_nanos(local.subsec_nanosecond().into());
        let first = match self {
            // Hours may come twice in a night, so they are counted back from the instant.
            Self::Minute => return at.checked_sub(of_minute).ok(),
            Self::Hour => return at.checked_sub(of_minute + SignedDuration::from_mins(local.minute().into())).ok(),
            Self::Day => date,
            Self::Week => date.checked_sub(Span::new().days(date.weekday().to_monday_zero_offset())).ok()?,
            Self::Month => date.first_of_month(),
            Self::Quarter => Date::new(date.year(), (date.month() - 1) / 3 * 3 + 1, 1).ok()?,
            Self::Year => date.first_of_year(),
        };
        instant(first.to_datetime(Time::midnight()), zone)
    }

    /// When that part ends: the last instant of it.
    fn end(self, at: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        self.shift(self.start(at, zone)?, 1, zone)?.checked_sub(TICK).ok()
    }
}

/// An instant of local time; one that a change of clocks skips or repeats is the later or the first.
fn instant(local: DateTime, zone: &TimeZone) -> Option<Timestamp> {
    zone.to_ambiguous_timestamp(local).compatible().ok()
}

/// Which instant of a part of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    /// As far into it as the change is.
    Same,
    Start,
    End,
}

/// An instant that a filter names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Always the same one.
    Fixed(Timestamp),
    /// So many parts of time after the change, or before it.
    Relative {
        unit: Unit,
        /// Negative for earlier.
        count: i64,
        edge: Edge,
    },
}

impl Moment {
    /// The instant; none beyond the years that can be reckoned with.
    pub(super) fn resolve(self, clock: Clock<'_>) -> Option<Timestamp> {
        match self {
            Self::Fixed(at) => Some(at),
            Self::Relative { unit, count, edge } => {
                // From the start of a part on, for a month ago of the 31st may be no date.
                let from = |at| unit.shift(unit.start(at, clock.zone)?, count, clock.zone);
                match edge {
                    Edge::Same => unit.shift(clock.at, count, clock.zone),
                    Edge::Start => from(clock.at),
                    Edge::End => unit.end(from(clock.at)?, clock.zone),
                }
            }
        }
    }
}

/// A date or an instant as a value or a filter writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// A day.
    Day(Date),
    /// An instant.
    At(Timestamp),
}

impl Stamp {
    /// Reads `2026-03-01`, or it with a time after a blank or a `T`, with an offset (`Z`, `+02`, `+02:00`) or in UTC.
    pub(super) fn read(text: &str) -> Option<Self> {
        // Says of most texts that they are no date before anything is tried.
        let dashes = |place| text.as_bytes().get(place) == Some(&b'-');
        if !(dashes(4) && dashes(7)) {
            return None;
        }
        let pieces = Pieces::parse(text).ok().filter(|pieces| pieces.time_zone_annotation().is_none())?;
        let Some(time) = pieces.time() else { return Some(Self::Day(pieces.date())) };
        let zone = TimeZone::fixed(pieces.to_numeric_offset().unwrap_or(jiff::tz::Offset::UTC));
        instant(pieces.date().to_datetime(time), &zone).map(Self::At)
    }

    /// The instant it stands for; a day, its beginning there.
    pub(super) fn instant(self, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Day(date) => instant(date.to_datetime(Time::midnight()), zone),
            Self::At(at) => Some(at),
        }
    }

    /// The local time it stands for.
    pub(super) fn local(self, zone: &TimeZone) -> DateTime {
        match self {
            Self::Day(date) => date.to_datetime(Time::midnight()),
            Self::At(at) => zone.to_datetime(at),
        }
    }
}

/// The part of a date that `DATEPART` asks for, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// 1 is Monday.
    DayOfWeek(i16),
    /// 1 to 12.
    Month(i16),
    /// 1 to 4.
    Quarter(i16),
    Year(i16),
    /// 0 to 23.
    Hour(i16),
}

const DAYS: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

impl Part {
    /// Reads the first two arguments of `gs.datePart`; months also by their first three letters.
    pub(super) fn read(part: &str, value: &str) -> Option<Self> {
        let named = |names: &[&str], short: bool| {
            let fits = |name: &str| name == value || (short && value.len() == 3 && name.starts_with(value));
            Some(i16::try_from(names.iter().position(|name| fits(name))?).ok()? + 1)
        };
        let number = |from, to| value.parse().ok().filter(|number| (from..=to).contains(number));
        match part {
            "dayofweek" => named(&DAYS, false).map(Self::DayOfWeek),
            "month" => named(&MONTHS, true).map(Self::Month),
            "quarter" => number(1, 4).map(Self::Quarter),
            "year" => number(1, 9999).map(Self::Year),
            "hour" => number(0, 23).map(Self::Hour),
            _ => None,
        }
    }

    /// How a date's own part compares with it.
    pub(super) fn compare(self, local: DateTime) -> std::cmp::Ordering {
        let (own, asked) = match self {
            Self::DayOfWeek(asked) => (local.weekday().to_monday_one_offset().into(), asked),
            Self::Month(asked) => (local.month().into(), asked),
            Self::Quarter(asked) => (i16::from((local.month() - 1) / 3 + 1), asked),
            Self::Year(asked) => (local.year(), asked),
            Self::Hour(asked) => (local.hour().into(), asked),
        };
        own.cmp(&asked)
    }
}

impl fmt::Display for Part {
    /// Writes the first two arguments of `gs.datePart`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |names: &[&'static str], place: i16| {
            usize::try_from(place - 1).ok().and_then(|place| names.get(place).copied()).unwrap_or_default()
        };
        match *self {
            Self::DayOfWeek(day) => write!(f, "'dayofweek','{}'", name(&DAYS, day)),
            Self::Month(month) => write!(f, "'month','{}'", name(&MONTHS, month)),
            Self::Quarter(quarter) => write!(f, "'quarter','{quarter}'"),
            Self::Year(year) => write!(f, "'year','{year}'"),
            Self::Hour(hour) => write!(f, "'hour','{hour}'"),
        }
    }
}
