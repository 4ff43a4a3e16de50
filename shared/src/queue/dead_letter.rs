//! A message set aside, still sealed, with the reason.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::envelope::{Header, Message};

/// Why a message was set aside. A closed list: it labels metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The clear properties are not those of an envelope, or of an unknown wire version.
    Envelope,
    /// The body does not open under its key.
    Seal,
    /// The opened body is too long or not records.
    Content,
    /// The target refuses the record.
    Target,
    /// No subscription takes the table.
    Unsubscribed,
    /// The record is larger than a message may be; set aside by the producer.
    Oversize,
    /// A script of a share or a subscription failed on the record; a share's is set aside by the producer.
    Script,
    /// The consumer ended each time it tried the message, alone at last; it was not opened again.
    Crash,
    /// The record is a part of one that is a dead letter already, and waits behind it.
    Waits,
}

impl Reason {
    /// Every reason, in the order metrics list them.
    pub const ALL: [Self; 9] = [
        Self::Envelope,
        Self::Seal,
        Self::Content,
        Self::Target,
        Self::Unsubscribed,
        Self::Oversize,
        Self::Script,
        Self::Crash,
        Self::Waits,
    ];

    /// The word in headers, lists and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Seal => "seal",
            Self::Content => "content",
            Self::Target => "target",
            Self::Unsubscribed => "unsubscribed",
            Self::Oversize => "oversize",
            Self::Script => "script",
            Self::Crash => "crash",
            Self::Waits => "waits",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word).ok_or(())
    }
}

const REASON: &str = "dead-reason";
const ERROR: &str = "dead-error";
const FIRST_AT: &str = "dead-first-at";
const AT: &str = "dead-at";
const ATTEMPTS: &str = "dead-attempts";
const QUEUE: &str = "dead-queue";
const ROUTING_KEY: &str = "dead-routing-key";
const BEHIND: &str = "dead-behind";
const HOLDS: &str = "dead-holds";
/// What [`HOLDS`] says where the producer left out the columns.
const KEY: &str = "key";

/// One line for a person; what a target says about itself may be longer.
const ERROR_BYTES_MAX: usize = 1024;
/// Syncline's own headers are far below this. A stranger's may fill the frame they came in, which would leave no room
/// for the reason: a message that cannot be set aside would hold up its partition.
const FOREIGN_BYTES_MAX: usize = 16 * 1024;

/// A message set aside, as it came, with what is known about the failure. Never shows a record value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The message as it came: clear properties and sealed body.
    pub message: Message,
    /// Shared queue it belongs to.
    pub queue: String,
    /// Routing key it came under, `<table>.<action>.<partition>`.
    pub routing_key: String,
    /// Why.
    pub reason: Reason,
    /// The error in one line.
    pub error: String,
    /// How often it was tried, those before its replays included.
    pub attempts: u32,
    /// When it was set aside for the first time.
    pub first_at: Timestamp,
    /// When it was set aside.
    pub at: Timestamp,
    /// The id of the dead letter that it waits for.
    pub behind: Option<String>,
    /// It holds the key of a record and not its columns: there is nothing to apply.
    pub key_only: bool,
}

impl DeadLetter {
    /// A message that is set aside now, after being tried this often. A replayed one brings its history along: the
    /// attempts add up, and when it was set aside first is kept.
    #[must_use]
    pub fn new(
        mut message: Message,
        queue: &str,
        routing_key: String,
        reason: Reason,
        error: &str,
        tried: u32,
    ) -> Self {
        let now = Timestamp::now();
        let mut text = |name| take_text(&mut message, name);
        let (first_at, attempts) = (text(FIRST_AT), text(ATTEMPTS));
        let cut = error.floor_char_boundary(ERROR_BYTES_MAX);
        Self {
            message,
            queue: queue.to_owned(),
            routing_key,
            reason,
            error: error.get(..cut).unwrap_or_default().to_owned(),
            attempts: attempts.parse().unwrap_or(0_u32).saturating_add(tried),
            first_at: first_at.parse().unwrap_or(now),
            at: now,
            behind: None,
            key_only: false,
        }
    }

    /// The id to name it by: the message id, or `-` for a message without one.
    #[must_use]
    pub fn id(&self) -> &str {
        self.message.message_id.as_deref().unwrap_or("-")
    }

    /// The message to store: the original with the failure in `dead-*` headers.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let mut message = self.to_replay();
        let left_out = bound(&mut message);
        let error =
            if left_out { format!("{}; its longest headers are left out", self.error) } else { self.error.clone() };
        let text = |text: &str| Header::Text(text.to_owned());
        message.headers.extend([
            (REASON.to_owned(), text(self.reason.as_str())),
            (ERROR.to_owned(), Header::Text(error)),
            (AT.to_owned(), text(&self.at.to_string())),
            (QUEUE.to_owned(), text(&self.queue)),
            (ROUTING_KEY.to_owned(), text(&self.routing_key)),
        ]);
        message.headers.extend(self.behind.iter().map(|behind| (BEHIND.to_owned(), text(behind))));
        message.headers.extend(self.key_only.then(|| (HOLDS.to_owned(), text(KEY))));
        message
    }

    /// The message to publish again: the original with its history, which the next dead letter goes on with.
    #[must_use]
    pub fn to_replay(&self) -> Message {
        let mut message = self.message.clone();
        message.headers.extend([
            (FIRST_AT.to_owned(), Header::Text(self.first_at.to_string())),
            (ATTEMPTS.to_owned(), Header::Int(i64::from(self.attempts))),
        ]);
        message
    }

    /// Reads a stored dead letter; headers that are missing or malformed read as empty, so that every message of a
    /// dead-letter queue can be listed, whoever put it there.
    #[must_use]
    pub fn from_message(mut message: Message, queue: &str) -> Self {
        let mut text = |name| take_text(&mut message, name);
        let (reason, error, attempts) = (text(REASON), text(ERROR), text(ATTEMPTS));
        let (first_at, at, behind) = (text(FIRST_AT), text(AT), text(BEHIND));
        let (from, routing_key, holds) = (text(QUEUE), text(ROUTING_KEY), text(HOLDS));
        let at = at.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        Self {
            queue: if from.is_empty() { queue.to_owned() } else { from },
            routing_key,
            reason: reason.parse().unwrap_or(Reason::Envelope),
            error,
            attempts: attempts.parse().unwrap_or_default(),
            first_at: first_at.parse().unwrap_or(at),
            at,
            behind: (!behind.is_empty()).then_some(behind),
            key_only: holds == KEY,
            message,
        }
    }

    /// The partition at the end of the routing key; `None` when there is none.
    #[must_use]
    pub fn partition(&self) -> Option<u32> {
        self.routing_key.rsplit('.').next()?.parse().ok()
    }
}

/// The id of the dead letter of one record of a message, by its place there. Always the same, so that a message that
/// comes again makes no second letter of another name.
#[must_use]
pub fn id_of_record(message: Uuid, place: usize) -> Uuid {
    let digest = Sha256::new().chain_update(message.as_bytes()).chain_update((place as u64).to_be_bytes()).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.get(..16).unwrap_or(&[0; 16]));
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Takes a header out of a message, as text; empty when there is none.
fn take_text(message: &mut Message, name: &str) -> String {
    match message.headers.remove(name) {
        Some(Header::Text(text)) => text,
        Some(Header::Int(number)) => number.to_string(),
        Some(Header::List(_)) | None => String::new(),
    }
}

/// Removes the longest headers until the rest leaves room for the reason; tells whether any went.
fn bound(message: &mut Message) -> bool {
    let bytes = |(name, header): (&String, &Header)| {
        name.len()
            + match header {
                Header::Int(_) => size_of::<i64>(),
                Header::Text(text) => text.len(),
                Header::List(texts) => texts.iter().map(|text| text.len() + size_of::<u32>()).sum(),
            }
    };
    let before = message.headers.len();
    while message.headers.iter().map(bytes).sum::<usize>() > FOREIGN_BYTES_MAX {
        let longest = message.headers.iter().max_by_key(|header| bytes(*header)).map(|(name, _)| name.clone());
        message.headers.remove(&longest.unwrap_or_default());
    }
    message.headers.len() < before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> DeadLetter {
        let message = Message {
            message_id: Some("id".to_owned()),
            headers: [("v".to_owned(), Header::Int(1))].into(),
            body: vec![1, 2, 3],
            ..Message::default()
        };
        DeadLetter {
            message,
            queue: "crm".to_owned(),
            routing_key: "incident.update.3".to_owned(),
            reason: Reason::Target,
            error: "value too long".to_owned(),
            attempts: 2,
            first_at: "2026-11-20T10:00:00Z".parse().expect("a timestamp"),
            at: "2026-11-21T10:00:00Z".parse().expect("a timestamp"),
            behind: Some("another".to_owned()),
            key_only: true,
        }
    }

    #[test]
    fn a_dead_letter_reads_back_with_its_message_as_it_came() {
        let letter = letter();
        assert_eq!(letter.partition(), Some(3));
        assert_eq!(DeadLetter::from_message(letter.to_message(), "other"), letter);
    }

    #[test]
    fn a_replayed_letter_that_fails_again_goes_on_with_its_history() {
        let letter = letter();
        let key = letter.routing_key.clone();
        let again = DeadLetter::new(letter.to_replay(), "crm", key, Reason::Seal, "no", 3);
        assert_eq!((again.attempts, again.first_at, again.id()), (5, letter.first_at, "id"));
        assert_eq!((&again.message, &again.behind, again.key_only), (&letter.message, &None, false));
        assert!(again.at > letter.at);
    }

    #[test]
    fn a_letter_always_fits_beside_its_reason() {
        let mut letter = letter();
        letter.message.headers.insert("share".to_owned(), Header::Text("s".repeat(100_000)));
        letter.message.headers.insert("origin".to_owned(), Header::List(vec!["o".repeat(10_000); 3]));
        let letter =
            DeadLetter::new(letter.message, "crm", "a.b.0".to_owned(), Reason::Target, &"é".repeat(100_000), 1);
        assert_eq!(letter.error.len(), ERROR_BYTES_MAX);
        let stored = letter.to_message();
        assert_eq!(stored.headers.get("v"), Some(&Header::Int(1)));
        assert!(!stored.headers.contains_key("share") && !stored.headers.contains_key("origin"));
        assert!(DeadLetter::from_message(stored, "crm").error.ends_with("left out"));
    }
}
