//! What the producer remembers of changes: which share decided what and why, and which message it left with.
//!
//! Notes what was decided and nothing a decision was made from; knows neither sources nor brokers. Costs nothing while it
//! is off.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use syncline_shared::journal::{Entry as Noted, as_text};
use syncline_shared::queue::Reason;
use syncline_shared::record::{Action, Version};
use uuid::Uuid;

use crate::share::Withheld;
use crate::source::Change;

/// The producer's journal, one for all its sources and bulk shares.
pub type Journal = syncline_shared::journal::Journal<Entry>;

/// What a share made of one change: withheld, or one message of it.
#[derive(Debug)]
pub struct Entry {
    source: Arc<str>,
    table: Arc<str>,
    share: Arc<str>,
    action: Action,
    version: Version,
    changed_at: Timestamp,
    fate: Fate,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Fate {
    /// The share let nothing leave.
    Withheld(Withheld),
    /// A message leaves.
    Left(Left),
}

/// A record in a message.
#[derive(Debug)]
pub(crate) struct Left {
    pub action: Action,
    pub table: Arc<str>,
    pub partial: bool,
    pub version: Version,
    pub queue: Arc<str>,
    pub partition: u32,
    pub set_aside: Option<Reason>,
    pub message: Option<Uuid>,
    pub published_at: Option<Timestamp>,
    pub confirmed_at: Option<Timestamp>,
}

impl Entry {
    /// What a share made of a change of a source.
    pub(crate) fn new(source: &Arc<str>, share: &Arc<str>, change: &Change, fate: Fate) -> Self {
        Self {
            source: Arc::clone(source),
            table: Arc::clone(&change.table),
            share: Arc::clone(share),
            action: change.action,
            version: change.version,
            changed_at: change.at,
            fate,
        }
    }
}

/// The entries of a batch's records, to be told when its message leaves; none while the journal is off.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes(Option<(Journal, Vec<u64>)>);

impl Notes {
    /// The entries at these places, one for each record of a batch.
    pub(crate) fn new(journal: Option<&Journal>, places: Vec<u64>) -> Self {
        Self(journal.map(|journal| (journal.clone(), places)))
    }

    /// The batch was handed to the broker; as a dead letter if it has a reason.
    pub(crate) fn published(&self, message: Uuid, set_aside: Option<Reason>) {
        let now = Timestamp::now();
        self.change(|left| {
            (left.message, left.set_aside) = (Some(message), set_aside);
            left.published_at = Some(now);
        });
    }

    /// The broker has it safe.
    pub(crate) fn confirmed(&self) {
        let now = Timestamp::now();
        self.change(|left| left.confirmed_at = Some(now));
    }

    /// Those of the first records, and those of the others.
    pub(crate) fn split(&self, first: u32) -> (Self, Self) {
        let Some((journal, places)) = &self.0 else { return (Self(None), Self(None)) };
        let middle = usize::try_from(first).unwrap_or(usize::MAX).min(places.len());
        let (head, tail) = places.split_at(middle);
        (Self::new(Some(journal), head.to_vec()), Self::new(Some(journal), tail.to_vec()))
    }

    fn change(&self, mut change: impl FnMut(&mut Left)) {
        let Some((journal, places)) = &self.0 else { return };
        journal.change(places, |entry| match &mut entry.fate {
            Fate::Left(left) => change(left),
            Fate::Withheld(_) => {}
        });
    }
}

/// An entry as the admin endpoint tells it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Told {
    /// When it was decided.
    pub at: Timestamp,
    /// The source of the change.
    pub source: String,
    /// Its table there.
    pub table: String,
    /// The share that decided.
    pub share: String,
    /// What happened at the source.
    #[serde(with = "as_text")]
    pub action: Action,
    /// The version of the change.
    #[serde(with = "as_text")]
    pub version: Version,
    /// When it was committed.
    pub changed_at: Timestamp,
    /// What became of it.
    #[serde(flatten)]
    pub fate: FateTold,
}

/// What became of a change at a share.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub enum FateTold {
    /// Nothing leaves.
    Withheld {
        /// Why.
        #[serde(with = "as_text")]
        reason: Withheld,
    },
    /// A message leaves.
    Shared(LeftTold),
}

/// A record in a message.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct LeftTold {
    /// As what it leaves; a delete of a record that was not deleted is one that left the share.
    #[serde(with = "as_text")]
    pub sent_as: Action,
    /// Under which table.
    pub sent_table: String,
    /// With a part of its columns.
    pub partial: bool,
    /// With which version; that of the change, or the one below for a record that left the share.
    #[serde(with = "as_text")]
    pub sent_version: Version,
    /// To which shared queue.
    pub queue: String,
    /// To which partition of it.
    pub partition: u32,
    /// Why it goes to the dead letters instead.
    pub set_aside: Option<String>,
    /// In which message; none before it was published, once sealed again another.
    pub message: Option<String>,
    /// When it was handed to the broker, the last time.
    pub published_at: Option<Timestamp>,
    /// When the broker had it safe.
    pub confirmed_at: Option<Timestamp>,
}

impl Noted for Entry {
    type Told = Told;

    fn told(&self, at: Timestamp) -> Told {
        let fate = match &self.fate {
            Fate::Withheld(reason) => FateTold::Withheld { reason: *reason },
            Fate::Left(left) => FateTold::Shared(LeftTold {
                sent_as: left.action,
                sent_table: left.table.to_string(),
                partial: left.partial,
                sent_version: left.version,
                queue: left.queue.to_string(),
                partition: left.partition,
                set_aside: left.set_aside.map(|reason| reason.to_string()),
                message: left.message.map(|message| message.to_string()),
                published_at: left.published_at,
                confirmed_at: left.confirmed_at,
            }),
        };
        Told {
            at,
            source: self.source.to_string(),
            table: self.table.to_string(),
            share: self.share.to_string(),
            action: self.action,
            version: self.version,
            changed_at: self.changed_at,
            fate,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left() -> Entry {
        let left = Left {
            action: Action::Bulk,
            table: "task".into(),
            partial: false,
            version: Version::new(1, 2, 0),
            queue: "crm".into(),
            partition: 3,
            set_aside: None,
            message: None,
            published_at: None,
            confirmed_at: None,
        };
        Entry {
            source: "desk".into(),
            table: "incident".into(),
            share: "incidents".into(),
            action: Action::Update,
            version: Version::new(1, 2, 1),
            changed_at: Timestamp::UNIX_EPOCH,
            fate: Fate::Left(left),
        }
    }

    fn message_of(told: &Told) -> (Option<&str>, bool) {
        match &told.fate {
            FateTold::Shared(left) => (left.message.as_deref(), left.confirmed_at.is_some()),
            FateTold::Withheld { .. } => panic!("it leaves"),
        }
    }

    #[test]
    fn the_halves_of_a_batch_tell_their_own_message() {
        let journal = Journal::new(10).unwrap();
        let places = (0..3).map(|record| journal.note(record, left())).collect();
        let (head, tail) = Notes::new(Some(&journal), places).split(1);
        let [first, second] = [Uuid::now_v7(), Uuid::now_v7()];
        head.published(first, None);
        tail.published(second, None);
        tail.confirmed();
        let told: Vec<_> = (0..3).flat_map(|record| journal.of(record).entries).collect();
        let (first, second) = (first.to_string(), second.to_string());
        let expected = [(Some(first.as_str()), false), (Some(second.as_str()), true), (Some(second.as_str()), true)];
        assert_eq!(told.iter().map(message_of).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_entry_reads_back_as_it_was_told() {
        let journal = Journal::new(10).unwrap();
        journal.note(1, left());
        journal.note(1, Entry { fate: Fate::Withheld(Withheld::UnknownSession), ..left() });
        let told = journal.of(1).entries;
        let text = serde_json::to_string(&told).unwrap();
        assert!(text.contains(r#""decision":"withheld","reason":"unknown_session""#), "{text}");
        assert_eq!(serde_json::from_str::<Vec<Told>>(&text).unwrap(), told);
    }
}
