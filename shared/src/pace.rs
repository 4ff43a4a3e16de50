//! When a job works and when it rests. Pure code: the time is its caller's.
//!
//! A job without `interval` works all the time. One with it begins at its start and then at whole multiples of the interval
//! since 1970 in UTC, so that the replicas of a consumer begin together. It works until it has done what was there when it
//! began, and rests until the next time. It never stops in the middle: what was read is sent, what was received is settled.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::config::{FieldProblem, Span};

/// After something came, the next is as good as there; after a second without, there is nothing.
const QUIET: SignedDuration = SignedDuration::from_secs(1);
/// The first may take longer: a connection is made, and an idle PostgreSQL source says something every ten seconds.
const FIRST: SignedDuration = SignedDuration::from_secs(15);
/// Shorter ones are no rest.
const INTERVAL_MIN: Span = Span::from_secs(1);
/// Longer ones leave a source's log to grow, and a queue to fill, past what people watch.
const INTERVAL_MAX: Span = Span::from_secs(24 * 3600);
/// RabbitMQ ends a consumer that holds a message for half an hour.
const DELAY_MAX: Span = Span::from_secs(15 * 60);

/// `interval` and `delay` of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// From one begin to the next; `None`: it works all the time.
    pub interval: Option<Span>,
    /// How long it waits before it tries again where the far side is at a limit; `None`: growing waits.
    pub delay: Option<Span>,
}

impl Pace {
    /// Every value out of its range.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.interval.is_some_and(|interval| !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval)) {
            problems.push(("interval", "is out of range; 1s to 24h".to_owned()));
        }
        if self.delay.is_some_and(|delay| !(INTERVAL_MIN..=DELAY_MAX).contains(&delay)) {
            problems.push(("delay", "is out of range; 1s to 15m".to_owned()));
        }
        problems
    }

    /// When a job that is done begins again; `None` for one that never rests.
    #[must_use]
    pub fn next_begin(&self, now: Timestamp) -> Option<Timestamp> {
        self.interval.map(|interval| next_multiple(interval.signed(), now))
    }

    /// How long to wait where the far side is at a limit, or else as long as that says.
    pub fn wait(&self, is_limit: bool, or_else: impl FnOnce() -> Duration) -> Duration {
        self.delay.filter(|_| is_limit).map_or_else(or_else, Span::duration)
    }
}

/// Whether a job works or rests now.
#[derive(Clone, Debug)]
pub struct Shift {
    /// `None`: it never rests.
    interval: Option<SignedDuration>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Works {
        begun: Timestamp,
        /// When it is done, unless something comes.
        until: Timestamp,
        /// Whether what came last was not there at the begin: whatever comes then, it is done.
        passed: bool,
    },
    Rests {
        until: Timestamp,
    },
}

impl State {
    fn begun(now: Timestamp) -> Self {
        Self::Works { begun: now, until: later(now, FIRST), passed: false }
    }
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It begins.
    Works,
    /// It is done.
    Rests {
        /// When it begins again.
        until: Timestamp,
    },
}

impl Shift {
    /// Begins to work.
    #[must_use]
    pub fn begin(pace: Pace, now: Timestamp) -> Self {
        Self { interval: pace.interval.map(Span::signed), state: State::begun(now) }
    }

    /// Whether it rests now.
    #[must_use]
    pub const fn is_resting(&self) -> bool {
        matches!(self.state, State::Rests { .. })
    }

    /// How long until [`Self::turn`] has something to say, if nothing comes; `None` for a job that never rests.
    #[must_use]
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        let (State::Works { until, .. } | State::Rests { until }) = self.state;
        self.interval.map(|_| until.duration_since(now).try_into().unwrap_or_default())
    }

    /// Notes that something came; `newest` is when the newest of it was made. What was made after the begin was not there
    /// then, so the job is done: clocks that differ shift that by their difference and no more, for the next begin is later.
    pub fn came(&mut self, newest: Option<Timestamp>, now: Timestamp) {
        if let State::Works { begun, until, passed } = &mut self.state {
            *passed |= newest.is_some_and(|newest| newest > *begun);
            *until = if *passed { now } else { later(now, QUIET) };
        }
    }

    /// Notes that what came is done. Only from now on can be told that nothing more comes: a broker hands out no more than
    /// so many messages at once.
    pub fn worked(&mut self, now: Timestamp) {
        self.came(None, now);
    }

    /// Notes that it cannot go on for now: a job has not done what it could not try.
    pub fn hold(&mut self, now: Timestamp) {
        if let State::Works { until, passed: false, .. } = &mut self.state {
            *until = later(now, FIRST);
        }
    }

    /// What is to change at this time.
    pub fn turn(&mut self, now: Timestamp) -> Option<Turn> {
        let interval = self.interval?;
        let (State::Works { until, .. } | State::Rests { until }) = self.state;
        if now < until {
            return None;
        }
        if self.is_resting() {
            self.state = State::begun(now);
            return Some(Turn::Works);
        }
        let until = next_multiple(interval, now);
        self.state = State::Rests { until };
        Some(Turn::Rests { until })
    }
}

/// The first whole multiple of an interval after a time.
fn next_multiple(interval: SignedDuration, now: Timestamp) -> Timestamp {
    let past = now.as_nanosecond().checked_rem(interval.as_nanos()).unwrap_or_default();
    later(now, interval.saturating_sub(SignedDuration::from_nanos_i128(past)))
}

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-22T{text}Z").parse().expect("a time")
    }

    fn every(text: &str) -> Pace {
        Pace { interval: Some(Span::try_from(text.to_owned()).expect("a span")), delay: None }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        let fields = |interval, delay| {
            let span = |seconds: Option<u32>| seconds.map(Span::from_secs);
            let pace = Pace { interval: span(interval), delay: span(delay) };
            pace.validate().into_iter().map(|(field, _)| field).collect::<Vec<_>>()
        };
        assert_eq!(fields(None, None), [""; 0]);
        assert_eq!(fields(Some(1), Some(900)), [""; 0]);
        assert_eq!(fields(Some(0), Some(0)), ["interval", "delay"]);
        assert_eq!(fields(Some(86_401), Some(901)), ["interval", "delay"]);
    }

    #[test]
    fn a_job_without_an_interval_never_rests() {
        let mut shift = Shift::begin(Pace::default(), at("08:00:00"));
        assert_eq!((shift.wait(at("09:00:00")), shift.turn(at("09:00:00"))), (None, None));
        shift.came(None, at("09:00:00"));
        assert_eq!(shift.turn(at("10:00:00")), None);
    }

    #[test]
    fn a_job_works_until_nothing_comes_and_rests_until_the_next_whole_multiple() {
        let mut shift = Shift::begin(every("15m"), at("08:03:00"));
        assert_eq!(shift.wait(at("08:03:05")), Some(Duration::from_secs(10)), "the first may take its time");
        shift.came(Some(at("07:00:00")), at("08:03:10"));
        shift.came(Some(at("07:30:00")), at("08:03:10.5"));
        shift.worked(at("08:03:11"));
        assert_eq!(shift.turn(at("08:03:11.9")), None);
        let until = at("08:15:00");
        assert_eq!(shift.turn(at("08:03:12")), Some(Turn::Rests { until }));
        assert_eq!(shift.wait(at("08:03:12")), Some(Duration::from_secs(708)));
        assert_eq!(shift.turn(at("08:14:59")), None);
        assert!(shift.is_resting());
        assert_eq!(shift.turn(at("08:15:00")), Some(Turn::Works));
        assert!(!shift.is_resting());
        // Late, and on time again.
        assert_eq!(shift.turn(at("08:31:00")), Some(Turn::Rests { until: at("08:45:00") }));
    }

    #[test]
    fn a_job_that_always_has_something_is_done_with_what_was_there() {
        let mut shift = Shift::begin(every("1h"), at("08:00:00"));
        shift.came(Some(at("07:59:59")), at("08:10:00"));
        assert_eq!(shift.turn(at("08:10:00")), None);
        shift.came(Some(at("08:00:01")), at("08:10:00.5"));
        shift.worked(at("08:10:00.5"));
        assert_eq!(shift.turn(at("08:10:00.5")), Some(Turn::Rests { until: at("09:00:00") }));
        // Copied rows have no such time.
        shift.turn(at("09:00:00"));
        shift.came(None, at("09:00:05"));
        assert_eq!(shift.turn(at("09:00:05")), None);
    }

    #[test]
    fn a_job_that_cannot_go_on_does_not_rest() {
        let mut shift = Shift::begin(every("1h"), at("08:00:00"));
        for minute in 0..10 {
            for second in (0..60).step_by(10) {
                shift.hold(at(&format!("08:{minute:02}:{second:02}")));
                assert_eq!(shift.turn(at(&format!("08:{minute:02}:{:02}", second + 9))), None);
            }
        }
    }

    #[test]
    fn a_delay_is_for_limits_alone() {
        let pace = Pace { interval: None, delay: Some(Span::from_secs(300)) };
        let growing = || Duration::from_secs(1);
        assert_eq!(pace.wait(true, growing), Duration::from_secs(300));
        assert_eq!(pace.wait(false, growing), Duration::from_secs(1));
        assert_eq!(Pace::default().wait(true, growing), Duration::from_secs(1));
    }
}
