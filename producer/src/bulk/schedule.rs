//! When a schedule is due. Pure code: the clock is its caller's.

use cronexpr::{Crontab, FallbackTimezoneOption, ParseOptions, parse_crontab_with};
use jiff::{SignedDuration, Timestamp};

/// Times later than this are missed, and not made up for: a nightly bulk share is not to run at noon.
const LATE_MAX: SignedDuration = SignedDuration::from_mins(1);

/// Missed times are counted up to here.
const COUNTED_MAX: u64 = 1_000;

/// Times that come again and again.
#[derive(Clone, Debug)]
pub enum Times {
    /// By the calendar.
    Cron(Box<Crontab>),
    /// By the clock, from when it was first heard of.
    Every(SignedDuration),
}

/// What has come due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// The last time that was due.
    pub(super) last: Timestamp,
    /// How many before it nobody was there for.
    pub(super) missed: u64,
    /// Whether the last one was missed too.
    pub(super) late: bool,
}

impl Times {
    /// Reads a calendar expression.
    ///
    /// # Errors
    /// What is wrong with it, and what is accepted.
    pub fn cron(expression: &str) -> Result<Self, String> {
        let mut options = ParseOptions::default();
        options.fallback_timezone_option = FallbackTimezoneOption::UTC;
        // A day that never comes parses, and has no next time.
        let parsed =
            parse_crontab_with(expression, options).ok().filter(|cron| cron.find_next("2026-01-01T00:00:00Z").is_ok());
        let accepted =
            "minute, hour, day of month, month, day of week, maybe a time zone: 0 2 * * MON-FRI Europe/Berlin";
        let cron = parsed.ok_or_else(|| format!("{expression:?} is no such time; {accepted}"))?;
        Ok(Self::Cron(Box::new(cron)))
    }

    /// The times after `since` up to `now`; `None` when there was none.
    pub(super) fn due(&self, since: Timestamp, now: Timestamp) -> Option<Due> {
        let (last, count) = match self {
            Self::Every(every) => {
                let nanos = now.duration_since(since).as_nanos();
                let count = nanos.checked_div(every.as_nanos()).unwrap_or_default();
                let whole = SignedDuration::from_nanos_i128(every.as_nanos().saturating_mul(count));
                (since.checked_add(whole).ok()?, u64::try_from(count).unwrap_or_default())
            }
            Self::Cron(cron) => {
                let (mut last, mut count) = (since, 0);
                while let Some(next) = cron.find_next(last).ok().map(|zoned| zoned.timestamp()).filter(|at| *at <= now)
                {
                    (last, count) = (next, count + 1);
                    if count > COUNTED_MAX {
                        last = now;
                        break;
                    }
                }
                (last, count)
            }
        };
        let late = now.duration_since(last) > LATE_MAX;
        (count > 0).then(|| Due { last, missed: count - 1, late })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn due(times: &Times, since: &str, now: &str) -> Option<(String, u64, bool)> {
        times.due(at(since), at(now)).map(|due| (due.last.to_string(), due.missed, due.late))
    }

    #[test]
    fn a_calendar_is_due_once_for_each_of_its_times() {
        let nightly = Times::cron("0 2 * * * Europe/Berlin").expect("an expression");
        assert_eq!(due(&nightly, "2026-11-22T01:00:00Z", "2026-11-23T00:59:59Z"), None);
        let (first, second) = ("2026-11-22T01:00:00Z".to_owned(), "2026-11-23T01:00:00Z".to_owned());
        assert_eq!(due(&nightly, "2026-11-22T00:59:59Z", "2026-11-22T01:00:00Z"), Some((first, 0, false)));
        assert_eq!(due(&nightly, "2026-11-20T02:00:00Z", "2026-11-23T01:00:30Z"), Some((second, 2, false)));
    }

    #[test]
    fn a_time_that_is_long_past_is_late() {
        let nightly = Times::cron("0 2 * * *").expect("an expression");
        let (last, missed, late) = due(&nightly, "2026-11-21T02:00:00Z", "2026-11-22T12:00:00Z").expect("due");
        assert_eq!((last.as_str(), missed, late), ("2026-11-22T02:00:00Z", 0, true));
        let minutely = Times::cron("* * * * *").expect("an expression");
        let (_, missed, late) = due(&minutely, "2026-01-01T00:00:00Z", "2026-11-22T12:00:00Z").expect("due");
        assert_eq!((missed, late), (COUNTED_MAX, false));
    }

    #[test]
    fn a_period_keeps_its_beat_whenever_it_is_looked_at() {
        let every = Times::Every(SignedDuration::from_mins(15));
        assert_eq!(due(&every, "2026-11-22T10:00:00Z", "2026-11-22T10:14:59Z"), None);
        let half = "2026-11-22T10:30:00Z".to_owned();
        assert_eq!(due(&every, "2026-11-22T10:00:00Z", "2026-11-22T10:30:20Z"), Some((half.clone(), 1, false)));
        assert_eq!(due(&every, "2026-11-22T10:00:00Z", "2026-11-22T10:40:00Z"), Some((half, 1, true)));
        assert_eq!(due(&every, "2026-11-22T10:00:00Z", "2026-11-22T09:00:00Z"), None, "a clock that was set back");
    }
}
