//! The message of the shared queue: clear properties that route, and a sealed body.
//!
//! The form is fixed by `docs/wire-format.md`. No I/O and no clock here; the broker implementations carry a [`Message`]
//! whatever their own representation is.

use std::collections::BTreeMap;

use thiserror::Error;
use uuid::Uuid;

use crate::class::Class;
use crate::record::Action;
use crate::seal::Cipher;

/// The wire version this program writes and reads.
pub const WIRE_VERSION: i64 = 1;
/// Media type of the plaintext: one record per line.
pub const CONTENT_TYPE: &str = "application/x-ndjson";
/// The `app_id` property of every message.
pub const APP_ID: &str = "syncline";

/// The header with the context of the trace a message is part of; only there while traces are on, and not authenticated.
pub const TRACEPARENT: &str = "traceparent";

/// A header value of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Header {
    /// A signed integer.
    Int(i64),
    /// UTF-8 text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

/// A message as a broker carries it: the AMQP 0-9-1 basic properties Syncline uses, headers and the body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// `content_type` property.
    pub content_type: Option<String>,
    /// `content_encoding` property.
    pub content_encoding: Option<String>,
    /// `type` property, `<table>.<action>`.
    pub kind: Option<String>,
    /// `message_id` property.
    pub message_id: Option<String>,
    /// `timestamp` property, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// `app_id` property.
    pub app_id: Option<String>,
    /// Application headers.
    pub headers: BTreeMap<String, Header>,
    /// The sealed body.
    pub body: Vec<u8>,
}

impl Message {
    fn int(&self, name: &'static str) -> Result<i64, EnvelopeError> {
        match self.headers.get(name) {
            Some(Header::Int(number)) => Ok(*number),
            Some(Header::Text(_) | Header::List(_)) | None => Err(EnvelopeError::Header { name }),
        }
    }

    fn text(&self, name: &'static str) -> Result<&str, EnvelopeError> {
        match self.headers.get(name) {
            Some(Header::Text(text)) => Ok(text),
            Some(Header::Int(_) | Header::List(_)) | None => Err(EnvelopeError::Header { name }),
        }
    }

    /// How many records this message says it holds; not authenticated, 1 when it does not say.
    #[must_use]
    pub fn records(&self) -> u32 {
        self.int("records").ok().and_then(|records| records.try_into().ok()).unwrap_or(1)
    }

    /// The share this message says it comes from, for metrics and lists of messages that cannot be parsed.
    #[must_use]
    pub fn share(&self) -> Option<&str> {
        self.text("share").ok()
    }

    /// The table this message says its records are of.
    #[must_use]
    pub fn table(&self) -> Option<&str> {
        self.text("table").ok()
    }

    /// The same in place of another one it was made from: with its time of sealing, and in its trace.
    #[must_use]
    pub fn in_place_of(mut self, other: &Self) -> Self {
        self.timestamp = other.timestamp;
        let context = other.headers.get_key_value(TRACEPARENT);
        self.headers.extend(context.map(|(name, context)| (name.clone(), context.clone())));
        self
    }

    /// The id of the key this message says it is sealed with.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.text("key").ok()
    }
}

/// How the plaintext is packed before it is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As it is.
    None,
    /// One Zstandard frame (RFC 8878).
    Zstd,
}

impl Encoding {
    /// The word in the `content_encoding` property.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Zstd => "zstd",
        }
    }
}

/// What a batch says about itself before it is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the source in the producer's configuration.
    pub source: String,
    /// Name of the share.
    pub share: String,
    /// Table of the records, as the share names it.
    pub table: String,
    /// The one action of the batch.
    pub action: Action,
    /// Partition of the shared queue, counted from 0.
    pub partition: u32,
    /// How many records the body holds.
    pub records: u32,
    /// Systems the change has passed, to stop echoes.
    pub origin: Vec<String>,
}

/// A sealed batch. Only [`crate::seal`] makes one from records, so what a publisher takes is never plaintext by accident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// Where the batch belongs.
    pub(crate) route: Route,
    /// How the plaintext is packed.
    pub(crate) encoding: Encoding,
    /// What the body is sealed with.
    pub(crate) cipher: Cipher,
    /// Id of the key; empty for ciphers without one.
    pub(crate) key: String,
    /// UUIDv7, unique per sealing.
    pub(crate) message_id: Uuid,
    /// When it was sealed, in seconds since 1970.
    pub(crate) timestamp: u64,
    /// The context of its trace; a reader takes it from the message.
    pub(crate) traceparent: Option<String>,
    /// `iv | ciphertext | mac`.
    pub(crate) body: Vec<u8>,
}

impl Envelope {
    /// Where the batch belongs.
    #[must_use]
    pub const fn route(&self) -> &Route {
        &self.route
    }

    /// Name of the cipher.
    #[must_use]
    pub const fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Id of the key it is sealed with; empty for ciphers without a key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The message id, unique per sealing.
    #[must_use]
    pub const fn message_id(&self) -> Uuid {
        self.message_id
    }

    /// Bytes of the sealed body.
    #[must_use]
    pub const fn body_len(&self) -> usize {
        self.body.len()
    }

    /// The routing key: `<table>.<action>.<partition>`.
    #[must_use]
    pub fn routing_key(&self) -> String {
        format!("{}.{}.{}", self.route.table, self.route.action, self.route.partition)
    }

    /// The message to hand to a broker.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let text = |text: &str| Header::Text(text.to_owned());
        let mut headers = BTreeMap::from([
            ("v".to_owned(), Header::Int(WIRE_VERSION)),
            ("source".to_owned(), text(&self.route.source)),
            ("share".to_owned(), text(&self.route.share)),
            ("table".to_owned(), text(&self.route.table)),
            ("action".to_owned(), text(self.route.action.as_str())),
            ("partition".to_owned(), Header::Int(i64::from(self.route.partition))),
            ("records".to_owned(), Header::Int(i64::from(self.route.records))),
            ("cipher".to_owned(), text(self.cipher.as_str())),
            ("key".to_owned(), text(&self.key)),
            ("origin".to_owned(), Header::List(self.route.origin.clone())),
        ]);
        headers.extend(self.traceparent.as_deref().map(|context| (TRACEPARENT.to_owned(), text(context))));
        Message {
            content_type: Some(CONTENT_TYPE.to_owned()),
            content_encoding: Some(self.encoding.as_str().to_owned()),
            kind: Some(format!("{}.{}", self.route.table, self.route.action)),
            message_id: Some(self.message_id.to_string()),
            timestamp: Some(self.timestamp),
            app_id: Some(APP_ID.to_owned()),
            headers,
            body: self.body.clone(),
        }
    }

    /// Reads a received message's clear properties. Nothing is authenticated yet; [`crate::seal::open`] does that.
    ///
    /// # Errors
    /// [`EnvelopeError`], permanent: the message goes to the dead letters as it is.
    pub fn from_message(message: &Message) -> Result<Self, EnvelopeError> {
        let version = message.int("v")?;
        if version != WIRE_VERSION {
            return Err(EnvelopeError::WireVersion { version });
        }
        let number = |name| u32::try_from(message.int(name)?).map_err(|_| EnvelopeError::Header { name });
        let encoding = match message.content_encoding.as_deref() {
            Some("zstd") => Encoding::Zstd,
            Some("none") => Encoding::None,
            Some(_) | None => return Err(EnvelopeError::Property { name: "content_encoding" }),
        };
        let origin = match message.headers.get("origin") {
            Some(Header::List(systems)) => systems.clone(),
            None => Vec::new(),
            Some(Header::Int(_) | Header::Text(_)) => return Err(EnvelopeError::Header { name: "origin" }),
        };
        Ok(Self {
            route: Route {
                source: message.text("source")?.to_owned(),
                share: message.text("share")?.to_owned(),
                table: message.text("table")?.to_owned(),
                action: message.text("action")?.parse().map_err(|()| EnvelopeError::Header { name: "action" })?,
                partition: number("partition")?,
                records: number("records")?,
                origin,
            },
            encoding,
            cipher: message.text("cipher")?.parse().map_err(|()| EnvelopeError::Header { name: "cipher" })?,
            key: message.text("key")?.to_owned(),
            message_id: message
                .message_id
                .as_deref()
                .and_then(canonical_uuid)
                .ok_or(EnvelopeError::Property { name: "message_id" })?,
            timestamp: message.timestamp.unwrap_or_default(),
            traceparent: None,
            body: message.body.clone(),
        })
    }
}

/// Reads a UUID in the one form it has on the wire. The parser takes others too (upper case, braces): with them, one
/// message could go by several ids.
fn canonical_uuid(text: &str) -> Option<Uuid> {
    text.parse().ok().filter(|id: &Uuid| id.to_string() == text)
}

/// A message whose clear properties are not those of an envelope.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EnvelopeError {
    /// A header is missing or not of its form.
    #[error("header {name} is missing or malformed")]
    Header {
        /// The header.
        name: &'static str,
    },
    /// A property is missing or not of its form.
    #[error("property {name} is missing or malformed")]
    Property {
        /// The property.
        name: &'static str,
    },
    /// Written by a version this program does not read.
    #[error("wire version {version} is not known, this program reads version {WIRE_VERSION}")]
    WireVersion {
        /// The `v` header.
        version: i64,
    },
}

impl EnvelopeError {
    /// Always permanent: the bytes will not change.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Header { .. } | Self::Property { .. } | Self::WireVersion { .. } => Class::Permanent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::{Seal, seal};

    fn message() -> Message {
        let route = Route {
            source: "servicedesk".to_owned(),
            share: "incidents".to_owned(),
            table: "task.incident".to_owned(),
            action: Action::Bulk,
            partition: 3,
            records: 2,
            origin: Vec::new(),
        };
        seal(&Seal::Plain, route, b"{}\n").expect("sealed").to_message()
    }

    #[test]
    fn a_message_id_has_one_form() {
        let message = message();
        let id = message.message_id.clone().expect("an id");
        assert!(Envelope::from_message(&message).is_ok());
        for form in
            [id.to_uppercase(), format!("{{{id}}}"), format!("urn:uuid:{id}"), id.replace('-', ""), String::new()]
        {
            let message = Message { message_id: Some(form.clone()), ..message.clone() };
            let expected = Err(EnvelopeError::Property { name: "message_id" });
            assert_eq!(Envelope::from_message(&message), expected, "{form:?}");
        }
    }

    #[test]
    fn what_a_reader_needs_is_missed_by_name() {
        for name in ["v", "source", "share", "table", "action", "partition", "records", "cipher", "key"] {
            let mut message = message();
            message.headers.remove(name);
            assert_eq!(Envelope::from_message(&message), Err(EnvelopeError::Header { name }));
        }
        let message = Message { content_encoding: None, ..message() };
        assert_eq!(Envelope::from_message(&message), Err(EnvelopeError::Property { name: "content_encoding" }));
    }

    #[test]
    fn headers_nobody_knows_and_a_missing_origin_are_no_matter() {
        let mut message = message();
        let envelope = Envelope::from_message(&message);
        message.headers.insert("x-new".to_owned(), Header::Int(1));
        message.headers.insert(TRACEPARENT.to_owned(), Header::Text("of no form".to_owned()));
        message.headers.remove("origin");
        assert_eq!(Envelope::from_message(&message), envelope);
    }

    #[test]
    fn a_message_in_place_of_another_has_its_time_and_its_trace() {
        let mut came = Message { timestamp: Some(7), ..message() };
        let plain = message();
        assert_eq!(plain.clone().in_place_of(&came), Message { timestamp: Some(7), ..plain });
        came.headers.insert(TRACEPARENT.to_owned(), Header::Text("00-a-b-01".to_owned()));
        let placed = message().in_place_of(&came);
        assert_eq!(placed.headers.get(TRACEPARENT), came.headers.get(TRACEPARENT));
    }

    #[test]
    fn another_wire_version_is_named() {
        let mut message = message();
        message.headers.insert("v".to_owned(), Header::Int(2));
        assert_eq!(Envelope::from_message(&message), Err(EnvelopeError::WireVersion { version: 2 }));
    }
}
