//! What was found out about a record, before anything is concluded from it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use syncline_consumer::journal::Told as Applied;
use syncline_consumer::target::Standing;
use syncline_producer::journal::{FateTold, LeftTold, Told as Decided};
use syncline_producer::share::filter::Explanation;
use syncline_shared::record::Version;

use crate::share::Verdict;

/// Everything that was found out.
#[derive(Default)]
pub(super) struct Known {
    /// What shares decided, by the journals of the producers, oldest first.
    pub decided: Vec<Decided>,
    /// What became of it, by those of the consumers, oldest first.
    pub applied: Vec<Applied>,
    /// The services that were asked.
    pub services: Vec<Service>,
    /// What each source has of it now; `None` where there is none to ask.
    pub sources: Vec<(String, AtSource)>,
    /// What its shares would do with it now.
    pub shares: Vec<Now>,
    /// What the targets have of it.
    pub targets: Vec<AtTarget>,
    /// The dead letters of it, oldest first.
    pub letters: Vec<Letter>,
    /// Messages in the partitions it may be in, by shared queue and partition.
    pub waiting: BTreeMap<(String, u32), u64>,
    /// Systems of the configuration that could not be asked.
    pub away: Vec<String>,
    pub notes: Vec<String>,
}

/// One part of a service, at one address.
#[derive(Serialize)]
pub(super) struct Service {
    pub part: &'static str,
    pub address: String,
    #[serde(flatten)]
    pub answer: Answer,
    /// What it says is paused.
    pub paused: Vec<String>,
}

/// What a part says of its journal.
#[derive(Debug, PartialEq, Serialize)]
#[serde(tag = "journal", rename_all = "snake_case")]
pub(super) enum Answer {
    /// It remembers everything since then.
    On { since: Timestamp },
    /// It has none.
    Off,
    /// It could not be asked.
    Silent { error: String },
}

/// Whether a source has the record now.
#[derive(Debug, PartialEq)]
pub(super) enum AtSource {
    Here,
    Gone,
    NotAsked(String),
}

/// What a share would do with the record now.
pub(super) struct Now {
    pub share: String,
    /// The shared queues it sends to.
    pub queues: Vec<String>,
    /// With the record as it is at the source; `None` where it is not there, or the share cannot be tried.
    pub tried: Option<Tried>,
}

/// What came of the try.
pub(super) struct Tried {
    pub verdict: Verdict,
    pub filter: Option<Explanation>,
    /// Action, table, shared queue and partition of each message.
    pub messages: Vec<(String, String, String, u32)>,
}

/// What a target has of the record.
pub(super) struct AtTarget {
    pub target: String,
    pub queue: String,
    /// The table it leaves the source under.
    pub table: String,
    /// The target's table.
    pub into: String,
    pub standing: Result<Standing, String>,
}

/// A dead letter of the record.
pub(super) struct Letter {
    pub id: String,
    pub queue: String,
    pub table: String,
    pub partition: Option<u32>,
    pub reason: String,
    pub error: String,
    pub at: Timestamp,
    pub version: Version,
    pub behind: Option<String>,
}

impl Known {
    /// Adds a note, once.
    pub(super) fn note(&mut self, text: String) {
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }

    /// Adds a system that could not be asked, once.
    pub(super) fn miss(&mut self, text: String) {
        if !self.away.contains(&text) {
            self.away.push(text);
        }
    }

    /// The newest message that left for a table of a shared queue.
    pub(super) fn newest_left(&self, queue: &str, table: &str) -> Option<(&Decided, &LeftTold)> {
        let left = self.decided.iter().filter_map(|decided| match &decided.fate {
            FateTold::Shared(left) if left.queue == queue && left.sent_table == table => Some((decided, left)),
            FateTold::Shared(_) | FateTold::Withheld { .. } => None,
        });
        // The last of equals: one that was sent again.
        left.max_by_key(|(_, left)| left.sent_version)
    }

    /// Whether the record is, was or would be at this place, as far as anything is known.
    pub(super) fn concerns(&self, at: &AtTarget) -> bool {
        let has = at.standing.as_ref().map_or(true, |standing| *standing != Standing::default());
        let tried = self.shares.iter().filter_map(|share| share.tried.as_ref());
        let mut messages = tried.flat_map(|tried| &tried.messages);
        has || self.newest_left(&at.queue, &at.table).is_some()
            || self.letters.iter().any(|letter| letter.queue == at.queue && letter.table == at.table)
            || messages.any(|(_, table, queue, _)| *queue == at.queue && *table == at.table)
    }

    /// Why the services of a part say that they are paused.
    pub(super) fn paused(&self, part: &str) -> Option<&str> {
        let of_part = self.services.iter().filter(|service| service.part == part);
        of_part.flat_map(|service| &service.paused).next().map(String::as_str)
    }
}

impl AtTarget {
    pub(super) fn to_json(&self) -> Value {
        let (standing, error) = (self.standing.as_ref().ok(), self.standing.as_ref().err());
        let row = standing.is_some_and(|standing| standing.row.is_some());
        let text = |version: Option<Version>| version.map(|version| version.to_string());
        let parked = standing.map(|standing| {
            let one =
                |(version, letter): &(Version, String)| json!({ "version": version.to_string(), "letter": letter });
            standing.parked.iter().map(one).collect::<Vec<_>>()
        });
        json!({
            "target": self.target, "queue": self.queue, "table": self.into, "row": row,
            "version": text(standing.and_then(|standing| standing.row.flatten())),
            "deleted": text(standing.and_then(|standing| standing.deleted)), "parked": parked, "error": error,
        })
    }
}

impl Letter {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "id": self.id, "queue": self.queue, "partition": self.partition, "reason": self.reason, "error": self.error,
            "at": self.at.to_string(), "version": self.version.to_string(), "behind": self.behind,
        })
    }
}

impl Now {
    pub(super) fn to_json(&self) -> Value {
        let Some(Tried { verdict, filter, messages }) = &self.tried else { return json!({ "share": self.share }) };
        let message = |(action, table, queue, partition): &(String, String, String, u32)| json!({ "action": action, "table": table, "queue": queue, "partition": partition });
        let messages: Vec<_> = messages.iter().map(message).collect();
        json!({ "share": self.share, "now": verdict, "filter": filter, "messages": messages })
    }
}
