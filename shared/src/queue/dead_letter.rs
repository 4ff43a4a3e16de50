//! A message set aside, still sealed, with the reason.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

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
}

impl Reason {
    /// Every reason, in the order metrics list them.
    pub const ALL: [Self; 6] =
        [Self::Envelope, Self::Seal, Self::Content, Self::Target, Self::Unsubscribed, Self::Oversize];

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
const AT: &str = "dead-at";
const ATTEMPTS: &str = "dead-attempts";
const QUEUE: &str = "dead-queue";
const ROUTING_KEY: &str = "dead-routing-key";

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
    /// How often it was tried.
    pub attempts: u32,
    /// When it was set aside.
    pub at: Timestamp,
}

impl DeadLetter {
    /// The id to name it by: the message id, or `-` for a message without one.
    #[must_use]
    pub fn id(&self) -> &str {
        self.message.message_id.as_deref().unwrap_or("-")
    }

    /// The message to store: the original with the failure in `dead-*` headers.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let mut message = self.message.clone();
        let text = |text: &str| Header::Text(text.to_owned());
        message.headers.extend([
            (REASON.to_owned(), text(self.reason.as_str())),
            (ERROR.to_owned(), text(&self.error)),
            (AT.to_owned(), text(&self.at.to_string())),
            (ATTEMPTS.to_owned(), Header::Int(i64::from(self.attempts))),
            (QUEUE.to_owned(), text(&self.queue)),
            (ROUTING_KEY.to_owned(), text(&self.routing_key)),
        ]);
        message
    }

    /// Reads a stored dead letter; headers that are missing or malformed read as empty, so that every message of a
    /// dead-letter queue can be listed, whoever put it there.
    #[must_use]
    pub fn from_message(mut message: Message, queue: &str) -> Self {
        let mut text = |name: &str| match message.headers.remove(name) {
            Some(Header::Text(text)) => text,
            Some(Header::Int(number)) => number.to_string(),
            Some(Header::List(_)) | None => String::new(),
        };
        let (reason, error, at, attempts) = (text(REASON), text(ERROR), text(AT), text(ATTEMPTS));
        let (from, routing_key) = (text(QUEUE), text(ROUTING_KEY));
        Self {
            queue: if from.is_empty() { queue.to_owned() } else { from },
            routing_key,
            reason: reason.parse().unwrap_or(Reason::Envelope),
            error,
            attempts: attempts.parse().unwrap_or_default(),
            at: at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
            message,
        }
    }

    /// The partition at the end of the routing key; `None` when there is none.
    #[must_use]
    pub fn partition(&self) -> Option<u32> {
        self.routing_key.rsplit('.').next()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_reads_back_with_its_message_as_it_came() {
        let message = Message {
            message_id: Some("id".to_owned()),
            headers: [("v".to_owned(), Header::Int(1))].into(),
            body: vec![1, 2, 3],
            ..Message::default()
        };
        let letter = DeadLetter {
            message,
            queue: "crm".to_owned(),
            routing_key: "incident.update.3".to_owned(),
            reason: Reason::Target,
            error: "value too long".to_owned(),
            attempts: 2,
            at: "2026-11-21T10:00:00Z".parse().expect("a timestamp"),
        };
        assert_eq!(letter.partition(), Some(3));
        assert_eq!(DeadLetter::from_message(letter.to_message(), "other"), letter);
    }
}
