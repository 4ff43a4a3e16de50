//! What a part does, and how that is told.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What keeps parts of a service from working; partitions that meet the same fault are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The parts, as people call them.
    pub part: String,
    /// Why, and what to do.
    pub reason: String,
    /// Since when the first of them is paused.
    pub since: Timestamp,
    /// Whether it is none: the part waits for its turn.
    pub stands_by: bool,
}

/// What parts do; partitions that do the same are one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The parts, as people call them.
    pub job: String,
    /// What they do.
    pub state: Standing,
    /// Since when the first of them does.
    pub since: Timestamp,
    /// When they begin again, if they rest.
    pub until: Option<Timestamp>,
    /// How often they tried since they are paused.
    pub attempts: u32,
    /// Why they do not work, if they are paused or stand by.
    pub reason: Option<String>,
}

/// What a part does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It works, or waits for work.
    Works,
    /// It has done what there was, and waits for its next time.
    Rests,
    /// It waits for its turn.
    StandsBy,
    /// A fault keeps it from working; it tries again by itself.
    Paused,
}

impl Standing {
    /// Its name, for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Rests => "rests",
            Self::StandsBy => "stands by",
            Self::Paused => "paused",
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Works { since: Timestamp },
    Rests { since: Timestamp, until: Timestamp },
    Paused(Pause),
}

#[derive(Clone, Debug)]
pub(super) struct Pause {
    /// What makes two faults of a group the same. The causes of a transient one vary from attempt to attempt.
    pub(super) key: String,
    pub(super) reason: String,
    /// Since when the part is paused, for whatever reason.
    pub(super) since: Timestamp,
    pub(super) attempts: u32,
    pub(super) stands_by: bool,
}

impl State {
    pub(super) const fn pause(&self) -> Option<&Pause> {
        match self {
            Self::Paused(pause) => Some(pause),
            Self::Works { .. } | Self::Rests { .. } => None,
        }
    }

    /// Parts of a group of which this is the same are one to people.
    pub(super) fn likeness(&self) -> String {
        match self {
            Self::Works { .. } => String::new(),
            Self::Rests { until, .. } => format!("1 {until}"),
            Self::Paused(pause) => format!("2 {}", pause.key),
        }
    }

    pub(super) fn job(&self) -> Job {
        let job = |state, since| Job { job: String::new(), state, since, until: None, attempts: 0, reason: None };
        match self {
            Self::Works { since } => job(Standing::Works, *since),
            Self::Rests { since, until } => Job { until: Some(*until), ..job(Standing::Rests, *since) },
            Self::Paused(Pause { reason, since, attempts, stands_by, .. }) => {
                let state = if *stands_by { Standing::StandsBy } else { Standing::Paused };
                Job { attempts: *attempts, reason: Some(reason.clone()), ..job(state, *since) }
            }
        }
    }
}
