//! Messages and dead letters as rows: the properties and headers as JSON, the body as it is.

use std::collections::BTreeMap;

use rusqlite::types::Type;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};

use super::partition_id;
use crate::envelope::{Header, Message};
use crate::queue::DeadLetter;

/// A message's clear part.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Properties {
    content_type: Option<String>,
    content_encoding: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    message_id: Option<String>,
    timestamp: Option<u64>,
    app_id: Option<String>,
    headers: BTreeMap<String, StoredHeader>,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredHeader {
    Int(i64),
    Text(String),
    List(Vec<String>),
}

/// A message ready to be stored.
pub(super) struct Stored {
    /// Seconds since 1970; 0 when the message does not say.
    pub(super) sealed_at: i64,
    pub(super) properties: String,
    pub(super) body: Vec<u8>,
}

impl Stored {
    /// Bytes it takes in the file, about.
    pub(super) const fn size(&self) -> usize {
        self.properties.len() + self.body.len()
    }
}

impl From<Message> for Stored {
    fn from(message: Message) -> Self {
        let headers = message.headers.into_iter().map(|(name, header)| {
            let header = match header {
                Header::Int(number) => StoredHeader::Int(number),
                Header::Text(text) => StoredHeader::Text(text),
                Header::List(texts) => StoredHeader::List(texts),
            };
            (name, header)
        });
        let properties = Properties {
            content_type: message.content_type,
            content_encoding: message.content_encoding,
            kind: message.kind,
            message_id: message.message_id,
            timestamp: message.timestamp,
            app_id: message.app_id,
            headers: headers.collect(),
        };
        Self {
            sealed_at: message.timestamp.and_then(|at| i64::try_from(at).ok()).unwrap_or_default(),
            // Texts, numbers and lists of texts always have a JSON form.
            properties: serde_json::to_string(&properties).unwrap_or_default(),
            body: message.body,
        }
    }
}

/// Reads a message from a row's `properties` and `body`, at these places.
pub(super) fn from_row(row: &Row<'_>, properties: usize, body: usize) -> rusqlite::Result<Message> {
    let stored: Properties = serde_json::from_str(row.get_ref(properties)?.as_str()?)
        .map_err(|cause| rusqlite::Error::FromSqlConversionFailure(properties, Type::Text, Box::new(cause)))?;
    let headers = stored.headers.into_iter().map(|(name, header)| {
        let header = match header {
            StoredHeader::Int(number) => Header::Int(number),
            StoredHeader::Text(text) => Header::Text(text),
            StoredHeader::List(texts) => Header::List(texts),
        };
        (name, header)
    });
    Ok(Message {
        content_type: stored.content_type,
        content_encoding: stored.content_encoding,
        kind: stored.kind,
        message_id: stored.message_id,
        timestamp: stored.timestamp,
        app_id: stored.app_id,
        headers: headers.collect(),
        body: row.get(body)?,
    })
}

/// Appends a message to a partition.
pub(super) fn append(connection: &Connection, partition: i64, message: &Stored) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO message (partition, sealed_at, properties, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![partition, message.sealed_at, message.properties, message.body])?;
    Ok(())
}

/// Sets a dead letter aside.
pub(super) fn park(connection: &Connection, queue: &str, id: &str, letter: &Stored) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT INTO dead_letter (queue, message_id, properties, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![queue, id, letter.properties, letter.body])?;
    Ok(())
}

/// Reads dead letters, oldest first.
pub(super) fn dead_letters(connection: &Connection, queue: &str, limit: usize) -> rusqlite::Result<Vec<DeadLetter>> {
    connection
        .prepare_cached("SELECT properties, body FROM dead_letter WHERE queue = ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![queue, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok(DeadLetter::from_message(from_row(row, 0, 1)?, queue))
        })?
        .collect()
}

/// Drops the dead letters with these ids; returns how many there were.
pub(super) fn discard(connection: &Connection, queue: &str, ids: &[String]) -> rusqlite::Result<usize> {
    let mut delete = connection.prepare_cached("DELETE FROM dead_letter WHERE queue = ?1 AND message_id = ?2")?;
    ids.iter().map(|id| delete.execute([queue, id])).sum()
}

/// Puts letters in the place of those with the same ids; returns how many there were.
pub(super) fn replace<'a>(
    connection: &Connection,
    queue: &str,
    letters: impl Iterator<Item = &'a DeadLetter>,
) -> rusqlite::Result<usize> {
    let mut update = connection
        .prepare_cached("UPDATE dead_letter SET properties = ?3, body = ?4 WHERE queue = ?1 AND message_id = ?2")?;
    let mut replace = |letter: &DeadLetter| {
        let stored = Stored::from(letter.to_message());
        update.execute(params![queue, letter.id(), stored.properties, stored.body])
    };
    letters.map(&mut replace).sum()
}

/// Puts the dead letters with these ids back at the end of the partitions they came from, as they were and in the order
/// they were parked; returns how many there were, or the routing key of one that names no partition of the queue.
pub(super) fn replay(connection: &Connection, queue: &str, ids: &[String]) -> rusqlite::Result<Result<usize, String>> {
    let mut select = connection
        .prepare_cached("SELECT id, properties, body FROM dead_letter WHERE queue = ?1 AND message_id = ?2")?;
    let mut delete = connection.prepare_cached("DELETE FROM dead_letter WHERE id = ?1")?;
    let mut letters = BTreeMap::new();
    for id in ids {
        let mut rows = select.query([queue, id])?;
        while let Some(row) = rows.next()? {
            let letter = DeadLetter::from_message(from_row(row, 1, 2)?, queue);
            let number = letter.partition().unwrap_or(u32::MAX);
            let Some(partition) = partition_id(connection, queue, number)? else {
                return Ok(Err(letter.routing_key));
            };
            letters.insert(row.get::<_, i64>(0)?, (partition, letter.to_replay()));
        }
    }
    let replayed = letters.len();
    for (row, (partition, message)) in letters {
        append(connection, partition, &message.into())?;
        delete.execute([row])?;
    }
    Ok(Ok(replayed))
}
