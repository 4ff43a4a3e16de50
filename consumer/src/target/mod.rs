//! Where records are applied.
//!
//! A target keeps the version of every record it holds, deleted ones included (tombstones), and applies a change only
//! when it is newer (promises P4, P5). It knows nothing of queues, envelopes or keys. Fails with [`ApplyError`].

#[cfg(test)]
pub(crate) mod contract;
mod error;
pub mod fold;
pub mod look;
pub mod memory;
pub mod postgres;
pub mod sqlite;

pub use error::ApplyError;

use std::collections::BTreeMap;
use std::future::Future;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::record::{Action, Record, Row, Version};

/// What a target does where a table or a column is missing.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SchemaMode {
    /// The partition pauses and says what to create; nothing is lost.
    #[default]
    Strict,
    /// It is created. PostgreSQL: numeric, boolean, bytea, else text, as the records tell. SQLite: the file too, and columns
    /// without a type, so that every value stays as it arrives.
    Evolve,
}

/// How one table of a shared queue lands in the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMap {
    /// The source's name in the envelope; with `table` it names where the records come from.
    pub source: String,
    /// The table's name in the envelope.
    pub table: String,
    /// The target's table, with a schema or without.
    pub into: String,
    /// Column names at the target by their names in the record; `None` takes all columns under the same names, a map
    /// takes only those it names (key columns always).
    pub columns: Option<BTreeMap<String, String>>,
}

impl TableMap {
    /// The target's name of a record's column; `None` for a column that is not taken. A key column is always taken.
    #[must_use]
    pub fn column<'a>(&'a self, name: &'a str, is_key: bool) -> Option<&'a str> {
        match &self.columns {
            None => Some(name),
            Some(map) => map.get(name).map(String::as_str).or(is_key.then_some(name)),
        }
    }
}

/// Records of one table and one action, in the order they have to take effect.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Where they belong.
    pub table: &'a TableMap,
    /// What happened to them.
    pub action: Action,
    /// The records, oldest first; a key may repeat.
    pub records: &'a [Record],
}

/// What became of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target changed. A record folded into a newer one of the same call counts as applied too.
    Applied,
    /// The target already had exactly this version.
    Duplicate,
    /// The target had a newer version (or its tombstone).
    Stale,
    /// The target refused this record and took the others: for targets without transactions that answer per record.
    Rejected {
        /// Why, in one line without any value of the record.
        error: String,
    },
    /// A part of a record of which an older change is parked: applied now, it would hide that what is parked is missing.
    Waits {
        /// The id of the oldest dead letter of the record.
        behind: String,
    },
}

/// A record that becomes a dead letter.
#[derive(Clone, Copy, Debug)]
pub struct Parked<'a> {
    /// Where it belongs.
    pub table: &'a TableMap,
    /// The record.
    pub record: &'a Record,
    /// The id of its dead letter.
    pub letter: &'a str,
}

/// What became of the records of one [`Target::apply`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One outcome per record, in the order of the batches and their records.
    pub outcomes: Vec<Outcome>,
}

/// What a target has of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// There is a row; with its version, unless Syncline never wrote it.
    pub row: Option<Option<Version>>,
    /// The version with which it was deleted, as long as nothing newer came.
    pub deleted: Option<Version>,
    /// The versions of it that are dead letters, with their ids, oldest first.
    pub parked: Vec<(Version, String)>,
}

impl Standing {
    /// The newest version it has seen.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.row.flatten().max(self.deleted)
    }
}

/// The [`tries`](Target::tries) of a message that an operator wants set aside: more than are ever counted.
pub const TRIES_PARKED: u32 = 1_000_000;

/// A system records are applied to. One instance serves one partition and is used by one task.
pub trait Target: Send {
    /// Applies batches in order; `Ok` means committed, as the outcomes say. Connects first if it has to.
    ///
    /// Idempotent: the same call again gives `Duplicate` or `Stale`. A dropped call may or may not have committed.
    ///
    /// # Errors
    /// [`ApplyError`]: nothing of this call may be assumed to be committed. [`ApplyError::Record`] is about some record
    /// of the call; the caller splits until it is alone.
    fn apply(&mut self, batches: &[Batch<'_>]) -> impl Future<Output = Result<Applied, ApplyError>> + Send;

    /// Remembers that records are parked; `Ok` means committed. From now on [`apply`](Target::apply) answers
    /// [`Outcome::Waits`] for a part of such a record that is newer than what is parked. A call of `apply` that takes a
    /// change of the record forgets what is parked of its version and older ones.
    ///
    /// Idempotent.
    fn park(&mut self, parked: &[Parked<'_>]) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Forgets records that are parked as these dead letters: they are discarded.
    fn unpark(&mut self, letters: &[String]) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// How often a message was tried alone; 0 when it never was or the last one came to an end. `beside` names a target
    /// table, which need not exist: what is remembered is kept in its schema.
    fn tries(&mut self, beside: &str, message: &str) -> impl Future<Output = Result<u32, ApplyError>> + Send;

    /// Remembers how often a message was tried alone, 0 to forget it; `Ok` means committed.
    fn set_tries(
        &mut self,
        beside: &str,
        message: &str,
        tries: u32,
    ) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// What the target has of the record with this key; for a person who asks. Changes nothing.
    ///
    /// # Errors
    /// [`ApplyError`], of a missing table too.
    fn standing(&mut self, table: &TableMap, key: &Row) -> impl Future<Output = Result<Standing, ApplyError>> + Send;

    /// Reaches the target and checks that these tables can be applied to, without changing anything.
    ///
    /// # Errors
    /// Every problem found.
    fn check(&mut self, tables: &[TableMap]) -> impl Future<Output = Result<(), Vec<ApplyError>>> + Send;
}
