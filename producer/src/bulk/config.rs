//! The settings of bulk shares: `[producer.bulk]`, `[bulk_group.NAME]`, `[schedule.NAME]`.

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;

use super::schedule::Times;

/// Two connections keep one processor busy; each is a transaction held open on somebody else's server.
const DEFAULT_CONNECTIONS: usize = 2;

/// More gain nothing, and a server has a hundred.
const CONNECTIONS_MAX: usize = 16;

/// Each member that runs reads over connections of its own.
const PARALLEL_MAX: usize = 16;

/// Longer than a change takes to be committed after its time was taken.
const DEFAULT_OVERLAP: SignedDuration = SignedDuration::from_mins(5);

/// `[producer.bulk]`: how bulk shares are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BulkConfig {
    /// Connections one bulk share reads a table over, where the source has more than one; 1 to 16, default 2.
    pub connections: usize,
    /// Rows read per second at most by each bulk share that does not say otherwise; at least 1. Default: no limit.
    pub rows_per_second: Option<u32>,
}

impl Default for BulkConfig {
    fn default() -> Self {
        Self { connections: DEFAULT_CONNECTIONS, rows_per_second: None }
    }
}

impl BulkConfig {
    /// Every value out of its range.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if !(1..=CONNECTIONS_MAX).contains(&self.connections) {
            problems.push(("connections", format!("{} is out of range; 1 to {CONNECTIONS_MAX}", self.connections)));
        }
        if self.rows_per_second == Some(0) {
            problems.push(("rows_per_second", "0 is out of range; 1 or more, or leave it out".to_owned()));
        }
        problems
    }
}

/// `[bulk_group.NAME]`: bulk shares that are asked for together.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupConfig {
    /// The shares, in the order they begin; all of one source.
    pub shares: Vec<String>,
    /// How many of them run at once; 1 to 16. Default 1: each begins when all before it are done.
    #[serde(default = "one")]
    pub parallel: usize,
}

const fn one() -> usize {
    1
}

impl GroupConfig {
    /// Everything wrong with the group by itself.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if self.shares.is_empty() {
            problems.push(("shares", "is empty; names of shares".to_owned()));
        }
        for (place, share) in self.shares.iter().enumerate() {
            if self.shares.iter().take(place).any(|earlier| earlier == share) {
                problems.push(("shares", format!("names {share} twice; each share once")));
            }
        }
        if !(1..=PARALLEL_MAX).contains(&self.parallel) {
            problems.push(("parallel", format!("{} is out of range; 1 to {PARALLEL_MAX}", self.parallel)));
        }
        problems
    }
}

/// `[schedule.NAME]`: when a share or a group is sent by itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The share. Either this or `group`.
    #[serde(default)]
    pub share: Option<String>,
    /// The group. Either this or `share`.
    #[serde(default)]
    pub group: Option<String>,
    /// Minute, hour, day of month, month, day of week, and a time zone unless it is UTC: `0 2 * * MON-FRI Europe/Berlin`.
    /// Either this or `every`.
    #[serde(default)]
    pub cron: Option<String>,
    /// How long from one time to the next: `15m`, `6h`; at least a second. Either this or `cron`.
    #[serde(default)]
    pub every: Option<String>,
    /// Only rows changed since the last time (a sync-up), by the shares' `changed_column`; the first time all. Default false.
    #[serde(default)]
    pub changed_only: bool,
    /// How much earlier than the last time a sync-up begins to look: for changes whose time was taken before they were
    /// committed. Default `5m`.
    #[serde(default)]
    pub overlap: Option<String>,
}

/// A schedule, ready to be used.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The shares, in the order they begin.
    pub shares: Vec<String>,
    /// The group's name and how many run at once, if it is one.
    pub group: Option<(String, usize)>,
    /// When.
    pub times: Times,
    /// For a sync-up, the overlap.
    pub changed: Option<SignedDuration>,
}

impl ScheduleConfig {
    /// Everything wrong with the schedule by itself.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        match (&self.share, &self.group) {
            (None, None) => problems.push(("share", "is missing; the name of a share, or group = \"..\"".to_owned())),
            (Some(_), Some(_)) => problems.push(("group", "stands beside share; one of the two".to_owned())),
            (Some(_), None) | (None, Some(_)) => {}
        }
        problems.extend(self.times().err());
        problems.extend(self.overlap().err());
        if self.overlap.is_some() && !self.changed_only {
            problems.push(("overlap", "has no meaning without changed_only = true".to_owned()));
        }
        problems
    }

    /// When it is due.
    ///
    /// # Errors
    /// What is wrong with `cron` and `every`.
    pub fn times(&self) -> Result<Times, FieldProblem> {
        match (&self.cron, &self.every) {
            (Some(cron), None) => Times::cron(cron).map_err(|problem| ("cron", problem)),
            (None, Some(every)) => match every.parse::<SignedDuration>() {
                Ok(every) if every >= SignedDuration::from_secs(1) => Ok(Times::Every(every)),
                Ok(_) | Err(_) => Err(("every", format!("{every:?} is no time of a second or more; 15m, 6h"))),
            },
            (None, None) => Err(("cron", "is missing; such as \"0 2 * * *\", or every = \"15m\"".to_owned())),
            (Some(_), Some(_)) => Err(("every", "stands beside cron; one of the two".to_owned())),
        }
    }

    /// For a sync-up, how much earlier than the last time it begins to look.
    ///
    /// # Errors
    /// What is wrong with `overlap`.
    pub fn overlap(&self) -> Result<Option<SignedDuration>, FieldProblem> {
        let overlap = match &self.overlap {
            None => DEFAULT_OVERLAP,
            Some(text) => match text.parse::<SignedDuration>() {
                Ok(overlap) if !overlap.is_negative() => overlap,
                Ok(_) | Err(_) => return Err(("overlap", format!("{text:?} is no length of time; 0s, 5m, 1h"))),
            },
        };
        Ok(self.changed_only.then_some(overlap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(problems: Vec<FieldProblem>) -> Vec<&'static str> {
        problems.into_iter().map(|(field, _)| field).collect()
    }

    fn schedule(toml: &str) -> ScheduleConfig {
        toml::from_str(toml).expect("settings")
    }

    #[test]
    fn settings_out_of_range_are_named() {
        assert_eq!(BulkConfig::default().validate(), []);
        let bad = BulkConfig { connections: 17, rows_per_second: Some(0) };
        assert_eq!(fields(bad.validate()), ["connections", "rows_per_second"]);
        let group = |shares: &[&str], parallel| {
            let shares = shares.iter().map(|&share| share.to_owned()).collect();
            fields(GroupConfig { shares, parallel }.validate())
        };
        assert_eq!(group(&["a", "b"], 16), [""; 0]);
        assert_eq!(group(&[], 0), ["shares", "parallel"]);
        assert_eq!(group(&["a", "b", "a"], 17), ["shares", "parallel"]);
    }

    #[test]
    fn a_schedule_says_one_what_and_one_when() {
        assert_eq!(schedule("share = \"a\"\nevery = \"15m\"").validate(), []);
        assert_eq!(schedule("group = \"a\"\ncron = \"0 2 * * *\"\nchanged_only = true").validate(), []);
        assert_eq!(fields(schedule("").validate()), ["share", "cron"]);
        let both = "share = \"a\"\ngroup = \"a\"\ncron = \"0 2 * * *\"\nevery = \"1h\"\noverlap = \"1m\"";
        assert_eq!(fields(schedule(both).validate()), ["group", "every", "overlap"]);
        for (line, field) in [
            ("every = \"0s\"", "every"),
            ("every = \"-1h\"", "every"),
            ("every = \"soon\"", "every"),
            ("cron = \"0 2 * *\"", "cron"),
            ("cron = \"61 2 * * *\"", "cron"),
            ("cron = \"0 2 * * * Europe/Atlantis\"", "cron"),
            ("every = \"1h\"\nchanged_only = true\noverlap = \"-1m\"", "overlap"),
        ] {
            assert_eq!(fields(schedule(&format!("share = \"a\"\n{line}")).validate()), [field], "{line}");
        }
    }
}
