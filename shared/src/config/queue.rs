//! The tables both services read: the broker, the shared queues and the keyring.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Document, FieldProblem, Secret, Section, Tagged};
use crate::queue::SharedQueue;
use crate::queue::embedded::EmbeddedConfig;
use crate::queue::rabbitmq::RabbitmqConfig;
use crate::seal::{Cipher, Key, Keyring};

/// Most partitions of a shared queue: each costs the broker a queue and every consumer a connection to its target.
const PARTITIONS_MAX: u32 = 256;

/// `[queue]`: the broker.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "lowercase")]
pub enum QueueConfig {
    /// RabbitMQ, for several machines.
    Rabbitmq(RabbitmqConfig),
    /// One SQLite file, for one machine.
    Embedded(EmbeddedConfig),
}

impl Tagged for QueueConfig {
    const TYPES: &'static [&'static str] = &["rabbitmq", "embedded"];

    fn read(kind: &str, section: Section<'_, '_>) -> Option<Self> {
        match kind {
            "rabbitmq" => section.read().map(Self::Rabbitmq),
            _ => section.read().map(Self::Embedded),
        }
    }
}

impl QueueConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        match self {
            Self::Rabbitmq(queue) => queue.validate(),
            Self::Embedded(queue) => queue.validate(),
        }
    }
}

/// `[shared_queue.NAME]`: a queue between producer and consumer.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedQueueConfig {
    /// How many partitions it has, 1 to 256; fixed for the life of the queue. Default 8.
    #[serde(default = "default_partitions")]
    pub partitions: u32,
}

/// Enough for eight consumers, cheap enough for one.
const fn default_partitions() -> u32 {
    8
}

/// `[key.ID]`: one key of the keyring.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyConfig {
    /// TripleDES, AES128 or AES256.
    #[schemars(extend("enum" = ["TripleDES", "AES128", "AES256"]))]
    pub cipher: String,
    /// The secret itself, at least 24 bytes; better kept in `secret_file`.
    pub secret: Option<Secret>,
    /// File of the secret; one line break at its end is not part of it.
    pub secret_file: Option<PathBuf>,
    /// The day it was created, `2026-11-21`, for the metric of its age. Default: the metric does not tell it.
    pub created: Option<Date>,
}

/// The keyring, and what the configuration says of its keys besides.
#[derive(Clone, Debug, Default)]
pub struct Keys {
    /// The keys.
    pub ring: Keyring,
    /// The days on which keys were created, by their ids, where it says so.
    pub created: BTreeMap<String, Date>,
}

/// Takes all keys out of a document, reporting what is wrong with them.
pub fn keys(document: &mut Document<'_>) -> Keys {
    let mut keys = Keys::default();
    // It is tomorrow already somewhere.
    let tomorrow = TimeZone::UTC.to_datetime(Timestamp::now()).date().tomorrow().unwrap_or(Date::MAX);
    for (id, config) in document.tables::<KeyConfig>("key") {
        let path = format!("key.{id}");
        let accepted = "accepted: TripleDES, AES128, AES256";
        let Ok(cipher) = config.cipher.parse::<Cipher>() else {
            document.problem(&format!("{path}.cipher"), format!("unknown cipher; {accepted}"));
            continue;
        };
        if let Some(created) = config.created {
            if created > tomorrow {
                document
                    .problem(&format!("{path}.created"), format!("{created} is yet to come; the day it was created"));
            }
            keys.created.insert(id.clone(), created);
        }
        let secret = match (&config.secret, &config.secret_file) {
            (Some(_), Some(_)) => {
                document.problem(&path, "both secret and secret_file are set; keep one");
                continue;
            }
            (secret, file) => Secret::resolve(secret.as_ref(), file.as_deref()),
        };
        match secret {
            Ok(Some(secret)) => match Key::derive(&id, cipher, secret.expose().as_bytes()) {
                Ok(key) => keys.ring.insert(key),
                Err(error) => document.problem(&path, format!("{error}; make one with `syncline keys generate`")),
            },
            Ok(None) => document.problem(&path, "has no secret; set secret_file or secret"),
            Err(error) => document.problem(&format!("{path}.secret_file"), format!("cannot be read: {error}")),
        }
    }
    keys
}

impl SharedQueueConfig {
    /// Takes all shared queues out of a document, reporting what is wrong with them.
    pub fn read_all(document: &mut Document<'_>) -> BTreeMap<String, SharedQueue> {
        let mut queues = BTreeMap::new();
        for (name, config) in document.tables::<Self>("shared_queue") {
            let path = format!("shared_queue.{name}");
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
            if name.is_empty() || name.len() > 200 || !name.bytes().all(fit) {
                document.problem(&path, "the name is 1 to 200 letters, digits, `-`, `_` or `.`");
            }
            if !(1..=PARTITIONS_MAX).contains(&config.partitions) {
                document
                    .problem(&format!("{path}.partitions"), format!("out of range; accepted: 1 to {PARTITIONS_MAX}"));
            }
            queues.insert(name.clone(), SharedQueue { name, partitions: config.partitions.clamp(1, PARTITIONS_MAX) });
        }
        queues
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_say_the_day_it_was_created_and_none_that_is_yet_to_come() {
        let key = |id: &str, created: &str| {
            format!(
                "[key.{id}]\ncipher = \"AES256\"\nsecret = \"correct horse battery staple\"\ncreated = \"{created}\"\n"
            )
        };
        let text = [key("a", "2024-02-29"), key("b", "9000-01-01"), key("c", "2026-02-30")].concat();
        let mut document = Document::parse("syncline.toml", &text, &|_| None);
        let keys = keys(&mut document);
        assert!(keys.ring.get("a").is_some());
        assert_eq!(keys.created["a"].to_string(), "2024-02-29");
        let problems = document.finish(&["key"]).expect_err("problems").to_string();
        let expected = "syncline.toml:8: key.b.created: 9000-01-01 is yet to come; the day it was created\n\
            syncline.toml:12: key.c.created: ";
        assert!(problems.starts_with(expected), "{problems}");
    }
}
