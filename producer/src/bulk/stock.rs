//! What a bulk share needs of a source: rows as they are at one place of its log, and room for notes.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use syncline_shared::record::{Row, Version};
use uuid::Uuid;

use super::order::{Key, Range};
use crate::source::{Change, Lookups, SourceError};

/// A source as bulk shares see it, beside the stream of its changes. Clones are one source.
pub trait Stock: Lookups + Clone {
    /// Rows being read.
    type Rows: Rows;

    /// Whether this process reads the source's changes now: then, and only then, it executes bulk shares.
    fn is_read_here(&self) -> bool;

    /// Whether any process reads the source's changes now.
    fn is_read(&self) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// All notes, each a key and a text; none when nothing was ever noted.
    fn notes(&self) -> impl Future<Output = Result<Vec<(String, String)>, SourceError>> + Send;

    /// Writes a note; `false` when the condition does not hold.
    fn put(&self, key: &str, json: &str, when: When) -> impl Future<Output = Result<bool, SourceError>> + Send;

    /// Removes notes.
    fn remove(&self, keys: &[String]) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Begins to read a table's rows, from where its ranges are.
    ///
    /// # Errors
    /// [`SourceError::Unfit`] when the table lacks something: the same again does not help. All others may pass.
    fn open(&self, want: Want) -> impl Future<Output = Result<Opened<Self::Rows>, SourceError>> + Send;

    /// The same for a process that only looks, whoever reads the source's changes. Writes nothing.
    ///
    /// # Errors
    /// As [`open`](Stock::open); also when nobody has ever read the source's changes.
    fn look(&self, want: Want) -> impl Future<Output = Result<Opened<Self::Rows>, SourceError>> + Send;
}

/// When a note is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// In any case.
    Always,
    /// If there is one already.
    There,
    /// If the one that is there has this `runner`.
    RunBy(Uuid),
}

/// Which rows are wanted.
#[derive(Clone, Debug)]
pub struct Want {
    /// The table, as the shares write it.
    pub table: Arc<str>,
    /// The share they are for.
    pub share: Arc<str>,
    /// Columns the table must have.
    pub columns: Vec<String>,
    /// Only rows changed since: the column that tells, and the time.
    pub changed: Option<(String, Timestamp)>,
    /// Where to go on; empty for the whole table.
    pub ranges: Vec<Range>,
    /// Only the records with these keys, as one part; of each that is not there a delete comes, with the snapshot's version.
    pub keys: Option<Vec<Row>>,
    /// Connections to read over, where the source has more than one.
    pub connections: usize,
    /// Rows that come at once at most.
    pub rows_max: usize,
}

/// A table opened for reading.
pub struct Opened<R> {
    /// The rows.
    pub rows: R,
    /// Its parts; the wanted ones, or as the source has cut it.
    pub ranges: Vec<Range>,
    /// How many rows there are in the whole table, about, and of those wanted.
    pub total: u64,
    /// The source's time.
    pub as_of: Timestamp,
    /// No row is of an older version.
    pub version: Version,
}

/// Rows of a table, read in order within each part. What is read has versions of its own snapshot: changes that came
/// before are contained, later ones are newer.
pub trait Rows: Send {
    /// Reads on; `None` when all parts are done. Bounded in bytes and rows.
    ///
    /// # Errors
    /// [`SourceError`]: this snapshot is lost, and the parts are to be opened anew.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bite>, SourceError>> + Send;
}

/// Some rows of one part.
#[derive(Debug)]
pub struct Bite {
    /// The part's place.
    pub range: usize,
    /// Its rows.
    pub changes: Vec<Change>,
    /// The key of the last row that was read.
    pub after: Option<Key>,
    /// Whether the part is done.
    pub done: bool,
}
