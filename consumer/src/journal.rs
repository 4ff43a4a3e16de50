//! What the consumer remembers of records: which message they came in, and what became of them at the target.
//!
//! Noted when a message is settled, so nothing of it is under way any more. Costs nothing while it is off.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use syncline_shared::envelope::{Envelope, Route};
use syncline_shared::journal::{Entry as Noted, as_text, record_id};
use syncline_shared::queue::{DeadLetter, Reason};
use syncline_shared::record::{Action, Record, Version};
use uuid::Uuid;

use crate::script::Made;
use crate::target::Outcome;

/// As long as any name of a table, a source or a share should be.
const NAME_BYTES_MAX: usize = 200;

/// The consumer's journal, one for all its partitions.
pub type Journal = syncline_shared::journal::Journal<Entry>;

/// What became of one record of a message.
#[derive(Debug)]
pub struct Entry {
    batch: Arc<Batch>,
    version: Version,
    fate: Fate,
}

/// What the records of one message have in common.
#[derive(Debug)]
struct Batch {
    subscription: Arc<str>,
    queue: Arc<str>,
    partition: u32,
    source: Box<str>,
    share: Box<str>,
    table: Box<str>,
    action: Action,
    message: Uuid,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Fate {
    /// The target changed, or a newer change that came with it made that needless.
    Applied,
    /// The same, after a script changed it.
    AppliedAs {
        /// As which action.
        #[serde(with = "as_text")]
        applied_as: Action,
    },
    /// The target had this version.
    Duplicate,
    /// The target had a newer one.
    Stale,
    /// The subscription drops its table.
    Skipped,
    /// The script of its table withheld it.
    Withheld,
    /// It is a dead letter.
    SetAside {
        /// Why.
        #[serde(with = "as_text")]
        reason: Reason,
        /// The id of the dead letter.
        #[serde(with = "as_text")]
        letter: Uuid,
        /// The id of the one that it waits for.
        behind: Option<Waited>,
    },
}

impl Fate {
    /// What a script and the target made of a record; `None` where that made it a dead letter.
    pub(crate) const fn taken(made: Option<&Made>, outcome: &Outcome) -> Option<Self> {
        match (made, outcome) {
            (Some(Made::Withheld), _) => Some(Self::Withheld),
            (Some(Made::Failed(_)), _) | (_, Outcome::Rejected { .. } | Outcome::Waits { .. }) => None,
            (Some(Made::Changed { action, .. }), Outcome::Applied) => Some(Self::AppliedAs { applied_as: *action }),
            (Some(Made::Kept) | None, Outcome::Applied) => Some(Self::Applied),
            (_, Outcome::Duplicate) => Some(Self::Duplicate),
            (_, Outcome::Stale) => Some(Self::Stale),
        }
    }

    /// It became this dead letter.
    pub(crate) fn set_aside(letter: &DeadLetter) -> Self {
        let behind = letter.behind.as_ref().and_then(|behind| behind.parse().ok()).map(Waited);
        // Whatever was opened has an id.
        Self::SetAside { reason: letter.reason, letter: letter.id().parse().unwrap_or_default(), behind }
    }
}

/// The id of a dead letter that another one waits for.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Waited(#[serde(with = "as_text")] pub Uuid);

/// Notes what a partition settles.
pub(crate) struct Notes {
    journal: Journal,
    subscription: Arc<str>,
    queue: Arc<str>,
}

impl Notes {
    /// For the partitions of a subscription of a shared queue; `None` while the journal is off.
    pub(crate) fn new(journal: Option<&Journal>, subscription: &str, queue: &str) -> Option<Self> {
        Some(Self { journal: journal?.clone(), subscription: subscription.into(), queue: queue.into() })
    }

    /// Notes what became of the records of a message.
    pub(crate) fn note<'a>(&self, envelope: &Envelope, records: impl Iterator<Item = (&'a Record, Fate)>) {
        let Route { source, share, table, action, partition, .. } = envelope.route();
        let batch = Arc::new(Batch {
            subscription: Arc::clone(&self.subscription),
            queue: Arc::clone(&self.queue),
            partition: *partition,
            source: name(source),
            share: name(share),
            table: name(table),
            action: *action,
            message: envelope.message_id(),
        });
        for (record, fate) in records {
            let entry = Entry { batch: Arc::clone(&batch), version: record.version, fate };
            self.journal.note(record_id(table, &record.key), entry);
        }
    }
}

/// A name as it is kept: whoever may write messages chooses how long it is.
fn name(text: &str) -> Box<str> {
    text.get(..text.floor_char_boundary(NAME_BYTES_MAX)).unwrap_or_default().into()
}

/// An entry as the admin endpoint tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Told {
    /// When its message was settled: after the target's commit, or the dead letter's confirm.
    pub at: Timestamp,
    /// The subscription.
    pub subscription: String,
    /// Its shared queue.
    pub queue: String,
    /// The partition it came from.
    pub partition: u32,
    /// The source it says it is of.
    pub source: String,
    /// The share.
    pub share: String,
    /// The table.
    pub table: String,
    /// The action.
    #[serde(with = "as_text")]
    pub action: Action,
    /// The version.
    #[serde(with = "as_text")]
    pub version: Version,
    /// The message.
    #[serde(with = "as_text")]
    pub message: Uuid,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

impl Noted for Entry {
    type Told = Told;

    fn told(&self, at: Timestamp) -> Told {
        let Batch { subscription, queue, partition, source, share, table, action, message } = self.batch.as_ref();
        Told {
            at,
            subscription: subscription.to_string(),
            queue: queue.to_string(),
            partition: *partition,
            source: source.to_string(),
            share: share.to_string(),
            table: table.to_string(),
            action: *action,
            version: self.version,
            message: *message,
            fate: self.fate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_it_was_told() {
        let letter =
            Fate::SetAside { reason: Reason::Waits, letter: Uuid::now_v7(), behind: Some(Waited(Uuid::now_v7())) };
        let made = Fate::AppliedAs { applied_as: Action::Delete };
        for fate in [Fate::Applied, made, Fate::Withheld, Fate::Duplicate, Fate::Stale, Fate::Skipped, letter] {
            let batch = Batch {
                subscription: "crm".into(),
                queue: "crm".into(),
                partition: 3,
                source: name("desk"),
                share: name("incidents"),
                table: name(&"é".repeat(1000)),
                action: Action::Update,
                message: Uuid::now_v7(),
            };
            let entry = Entry { batch: Arc::new(batch), version: Version::new(1, 2, 3), fate };
            let told = entry.told(Timestamp::UNIX_EPOCH);
            let text = serde_json::to_string(&told).unwrap();
            assert_eq!(
                (serde_json::from_str::<Told>(&text).unwrap(), told.table.len()),
                (told, NAME_BYTES_MAX),
                "{text}"
            );
        }
    }
}
