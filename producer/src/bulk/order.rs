//! What is remembered of a bulk share: what was asked, and how far it is. Both are kept with the source's state, each
//! written by one side alone: orders by whoever asks, runs by the producer that executes them.
//!
//! Pure code, knows no source.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use syncline_shared::tasks::chain;
use uuid::Uuid;

use crate::source::SourceError;

/// A bulk share somebody or some schedule asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The share, by its name.
    pub share: String,
    /// One more encoded query that records must fit, beside the share's filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// Only records changed at this time or later, by the share's `changed_column`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<Timestamp>,
    /// Rows read per second at most; default as `[producer.bulk]` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_second: Option<u32>,
    /// How many records it is about, where somebody named them: their keys are a note of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<u64>,
    /// The group it is a member of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// The schedule that asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// When it was asked for.
    pub planned_at: Timestamp,
    /// Whether it is to stop, or not to begin.
    #[serde(default)]
    pub cancel: bool,
}

/// A place in a group: members begin in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The group's name.
    pub group: String,
    /// The same for all members that were asked for together.
    pub of: Uuid,
    /// How many of them run at once at most.
    pub parallel: usize,
}

/// Where a bulk share is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// A producer has it, or had it when it was stopped.
    Running,
    /// Every record is at the broker, or was withheld by a rule.
    Finished,
    /// Stopped because somebody asked, or because the group did not come to it.
    Cancelled,
    /// It cannot be done; the reason says why.
    Failed,
}

impl Phase {
    /// Whether nothing more comes of it.
    #[must_use]
    pub const fn is_end(self) -> bool {
        match self {
            Self::Running => false,
            Self::Finished | Self::Cancelled | Self::Failed => true,
        }
    }

    /// The word used in tables and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// The values of a record's key as its source compares them; only the source looks inside.
pub type Key = Vec<String>;

/// A part of a table, in the order of its keys.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The table, where a share has several.
    #[serde(default)]
    pub table: String,
    /// Everything up to this key is done, or belongs to another part; `None` from the first record on.
    pub after: Option<Key>,
    /// The last key that belongs to it; `None` to the end of the table.
    pub upto: Option<Key>,
    /// Whether all of it is done.
    pub done: bool,
}

/// A key is a record's: it is not shown.
impl fmt::Debug for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Range").field("table", &self.table).field("done", &self.done).finish_non_exhaustive()
    }
}

/// How far a bulk share is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it is.
    pub phase: Phase,
    /// The producer that executes it: another one that takes it over writes its own here.
    pub runner: Uuid,
    /// When it began for the first time.
    pub started_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The source's time of the first snapshot: a later change may be in none of the rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of: Option<Timestamp>,
    /// Rows that are done: at the broker, or withheld by a rule.
    pub rows: u64,
    /// How many there are, about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_total: Option<u64>,
    /// Milliseconds it was at work.
    pub worked_ms: u64,
    /// The parts of the table; empty until the first snapshot.
    pub ranges: Vec<Range>,
    /// Why it was cancelled or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Run {
    /// One that begins now.
    #[must_use]
    pub const fn begin(runner: Uuid, now: Timestamp) -> Self {
        Self {
            phase: Phase::Running,
            runner,
            started_at: now,
            ended_at: None,
            as_of: None,
            rows: 0,
            rows_total: None,
            worked_ms: 0,
            ranges: Vec::new(),
            reason: None,
        }
    }

    /// Ends it.
    pub fn end(&mut self, end: &End, now: Timestamp) {
        self.ended_at = Some(now);
        // Nobody goes on from there, and keys are best not kept.
        self.ranges = Vec::new();
        (self.phase, self.reason) = match end {
            End::Finished => (Phase::Finished, None),
            End::Cancelled(reason) => (Phase::Cancelled, Some(reason.clone())),
            End::Failed(reason) => (Phase::Failed, Some(reason.clone())),
        };
    }

    /// Rows per second while it was at work.
    #[must_use]
    pub fn rows_per_second(&self) -> u64 {
        self.rows.saturating_mul(1000).checked_div(self.worked_ms).unwrap_or_default()
    }
}

/// How a bulk share ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All of it is done.
    Finished,
    /// Somebody asked for that.
    Cancelled(String),
    /// It cannot be done.
    Failed(String),
}

impl End {
    /// Cannot be done, for what the source says.
    pub(super) fn failed(error: &SourceError) -> Self {
        Self::Failed(chain(error))
    }
}

/// An order, and what became of it; planned as long as that is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What was asked.
    pub order: Order,
    /// How far it is.
    pub run: Option<Run>,
}

impl Entry {
    /// Whether nothing more comes of it.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.phase.is_end())
    }

    /// The word for where it is.
    #[must_use]
    pub fn state(&self) -> &'static str {
        self.run.as_ref().map_or("planned", |run| run.phase.as_str())
    }
}
