//! A record as it travels: its key, its version and its column values.
//!
//! Knows nothing of sources, targets, queues or encryption. Values keep the exact text their source wrote, so a
//! `numeric(38,9)` or a 64-bit integer reaches the target to the last digit (promise P10). The line format is section
//! "Records" of `docs/wire-format.md`.

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod line;
mod row;
mod version;

pub use line::{LineError, read_lines, write_line};
pub use row::{Columns, Row, RowBuilder, Value};
pub use version::{Version, VersionError};

use std::fmt;
use std::hash::Hasher;
use std::str::FromStr;

use jiff::Timestamp;
use siphasher::sip::SipHasher24;

/// What happened to a record. Each action is a message of its own kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The record was created.
    Insert,
    /// The record was changed.
    Update,
    /// The record was removed; carries no data.
    Delete,
    /// Update or insert, sent by initial copies, bulk shares and "update or insert" shares.
    Bulk,
}

impl Action {
    /// Every action, in the order metrics and help texts list them.
    pub const ALL: [Self; 4] = [Self::Insert, Self::Update, Self::Delete, Self::Bulk];

    /// The word used on the wire, in configuration, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Action {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|action| action.as_str() == word).ok_or(())
    }
}

/// One record of a batch: what a target needs to apply it, and nothing about where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The key columns, in the order the source declares them. Never empty, never null.
    pub key: Row,
    /// Orders all changes of this record; greater is newer.
    pub version: Version,
    /// When the change was committed at the source.
    pub at: Timestamp,
    /// The columns after the change (key columns included); `None` for deletes.
    pub data: Option<Row>,
    /// The data does not carry all columns of the share; the target leaves the others as they are.
    pub partial: bool,
}

/// Tells which partition of a shared queue a record belongs to, in `0..partitions`.
///
/// SipHash-2-4 with a zero key over source, table and key values, each prefixed by its length as a little-endian `u64`;
/// the hash modulo `partitions`. The same record always gets the same partition, whatever its columns are called, so its
/// order survives any number of consumers (promise P3). A record whose key changes moves by a delete and an insert.
#[must_use]
pub fn partition_of(source: &str, table: &str, key: &Row, partitions: u32) -> u32 {
    let mut hasher = SipHasher24::new();
    let mut part = |bytes: &[u8]| {
        hasher.write(&(bytes.len() as u64).to_le_bytes());
        hasher.write(bytes);
    };
    part(source.as_bytes());
    part(table.as_bytes());
    for value in key.values() {
        part(value.as_text().unwrap_or_default().as_bytes());
    }
    let slot = hasher.finish() % u64::from(partitions.max(1));
    u32::try_from(slot).unwrap_or_default()
}

/// A stable 64-bit id of a record key, for logs and dead letters: it names a record without showing its values.
#[must_use]
pub fn key_id(source: &str, table: &str, key: &Row) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(0x5359_4e43, 0x4c49_4e45);
    for part in [source, table].into_iter().chain(key.values().map(|value| value.as_text().unwrap_or_default())) {
        hasher.write(&(part.len() as u64).to_le_bytes());
        hasher.write(part.as_bytes());
    }
    hasher.finish()
}
