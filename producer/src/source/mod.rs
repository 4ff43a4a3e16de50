//! Where changes come from.
//!
//! A source reports every change of its shared tables in order, with a version and a position it can go on from. It
//! knows nothing of shares' rules, queues or encryption. Fails with [`SourceError`].

#[cfg(test)]
mod contract;
mod error;
mod lookup;
pub mod memory;
pub mod postgres;
mod session;
pub mod sqlite;
mod tables;

pub use error::SourceError;
pub use lookup::{DISPLAY_CHARS_MAX, Lookup, Lookups, Reference};
pub use session::SessionRule;
pub use tables::{TableConfig, Tables};

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::pace::Pace;
use syncline_shared::record::{Action, Columns, Row, Version};

/// One change of one record, as its source reports it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The table, as the shares name it.
    pub table: Arc<str>,
    /// What happened; [`Action::Bulk`] for rows read by a copy.
    pub action: Action,
    /// The key columns after the change (before it, for a delete). A change of the key itself is reported as a delete
    /// of the old key and an insert of the new one.
    pub key: Row,
    /// The columns before the change, as far as the source knows them: all, the key alone, or nothing.
    pub before: Option<Row>,
    /// The columns after the change; `None` for deletes.
    pub after: Option<Row>,
    /// Orders this change among all changes of the record. No other change of it has the one just
    /// [below](Version::below).
    pub version: Version,
    /// When it was committed.
    pub at: Timestamp,
    /// Who made it.
    pub session: Session,
    /// Systems it has passed before it came to this source; empty for a change made here.
    pub origin: Arc<[String]>,
    /// Set for rows read by a copy: only this share gets them, whatever others watch the table.
    pub only_share: Option<Arc<str>>,
}

/// Who made a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session {
    /// Whether a person was at work (`true`) or a job (`false`); `None` when the source cannot tell.
    pub interactive: Option<bool>,
    /// The user, where known.
    pub user: Option<Arc<str>>,
}

/// What one [`Source::poll`] brought.
#[derive(Clone, Debug)]
pub struct Polled<P> {
    /// Changes in source order; empty when there is nothing new.
    pub changes: Vec<Change>,
    /// Everything up to here is in the changes reported so far; `None` when nothing can be said yet (the middle of a
    /// transaction).
    pub position: Option<P>,
}

/// Bounds of one [`Source::poll`]: it stops at whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct PollLimit {
    /// Changes.
    pub changes: usize,
    /// Bytes of column values, about; one larger change is still returned alone.
    pub bytes: usize,
}

/// A table the producer's shares want to hear of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchedTable {
    /// The name as the shares write it, with a schema or without.
    pub table: Arc<str>,
    /// Shares of this table that ask for the rows already there (`initial = "copy"`).
    pub copy_for: Vec<Arc<str>>,
    /// The columns shares of this table name: without them they cannot decide.
    pub columns: Vec<Arc<str>>,
    /// Whether a share of it cannot decide without the values before a change.
    pub needs_before: bool,
    /// What to do when all its records are gone at once.
    pub on_truncate: OnTruncate,
}

/// What a source does when all records of a table are gone at once and no change says which: after a `TRUNCATE`, or when
/// the table was dropped and made anew, or got another key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTruncate {
    /// Goes on with a warning: the old records stay in the targets.
    Ignore,
    /// Pauses until somebody removed them there and says so.
    #[default]
    Pause,
}

/// What a look at a source found, without changing anything.
#[derive(Debug, Default)]
pub struct Checked {
    /// Everything that would keep the source from working.
    pub problems: Vec<SourceError>,
    /// Watched tables that are not there: no fault, they may be created later.
    pub missing: Vec<Arc<str>>,
    /// The columns that changes of a table carry, for each watched table that is there and fit.
    pub columns: BTreeMap<Arc<str>, Vec<String>>,
    /// The key columns of each of them.
    pub keys: BTreeMap<Arc<str>, Vec<String>>,
    /// What makes a table's changes carry the values before them, for each watched table whose changes do not.
    pub without_before: BTreeMap<Arc<str>, String>,
}

/// Which record to look for, without changing anything.
#[derive(Clone, Debug)]
pub enum Wanted<'a> {
    /// None: only the table's key is asked for.
    Nothing,
    /// The one that a text names: its key, or the value of another column that no two records share.
    Named(&'a str),
    /// The first one whose columns have these values.
    Columns(Vec<(&'a str, &'a str)>),
}

/// What a source has of a wanted record.
#[derive(Debug)]
pub struct Found {
    /// The key of the table.
    pub key: Columns,
    /// The columns it was looked for by.
    pub by: Vec<String>,
    /// The record as it is now; `None` when there is none.
    pub row: Option<Row>,
}

impl From<SourceError> for Checked {
    fn from(problem: SourceError) -> Self {
        Self { problems: vec![problem], ..Self::default() }
    }
}

/// Polls a source, or looks after it while nothing more is wanted of it. Cancel-safe.
pub(crate) async fn poll_or_tend<S: Source>(
    source: &mut S,
    limit: Option<PollLimit>,
) -> Option<Result<Polled<S::Position>, SourceError>> {
    match limit {
        Some(limit) => Some(source.poll(limit).await),
        None => {
            source.tend().await;
            None
        }
    }
}

/// What a source keeps of its log until its reader has it safe elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Bytes kept.
    pub bytes: u64,
    /// How many more may be written before the source gives up what it keeps; `None` when it never does.
    pub room_bytes: Option<u64>,
}

/// A system changes are read from.
pub trait Source: Send + Sized {
    /// Where the source is. Only the source looks inside.
    type Position: Clone + fmt::Debug + Send + Sync + 'static;

    /// Reads its lookup tables.
    type Lookups: Lookups;

    /// What people call it, before its name.
    const WHAT: &'static str = "source";

    /// Whether what it reports has no hurry, so that others go first.
    const IN_BACKGROUND: bool = false;

    /// Ends when the source is about to report something; the broker is not connected to before.
    fn needed(&self) -> impl Future<Output = ()> + Send + 'static {
        std::future::ready(())
    }

    /// When it is read; all the time unless it says otherwise.
    fn pace(&self) -> Pace {
        Pace::default()
    }

    /// Whether it is in the middle of what must not wait for the next time it is read: a connection, a copy.
    fn is_busy(&self) -> bool {
        false
    }

    /// Reads its lookup tables, on a connection beside it.
    fn lookups(&self) -> Self::Lookups;

    /// Waits for changes and returns them in order; connects first if it has to.
    ///
    /// Cancel-safe: a dropped call loses nothing, the next one reports the same changes. May return empty at any time, with
    /// a newer position when the source moved on without a change for us.
    ///
    /// # Errors
    /// [`SourceError`]; the next call starts over from the last committed position.
    fn poll(&mut self, limit: PollLimit) -> impl Future<Output = Result<Polled<Self::Position>, SourceError>> + Send;

    /// Tells the source that everything up to here is safe elsewhere; it may forget it.
    ///
    /// Idempotent. `Ok` means stored, or stored soon enough that a crash only repeats changes.
    fn commit(&mut self, upto: &Self::Position) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Stores what was committed and disconnects, at the end of a shutdown. A failure only repeats changes after the start.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// Bytes of the source's log between what was committed and its end, where it has such a log; as last seen while not
    /// connected, `None` before the first connection.
    fn lag_bytes(&self) -> Option<u64> {
        None
    }

    /// What the source keeps of its log for this reader, as last seen; `None` where it has no such log.
    fn retained(&self) -> Option<Retained> {
        None
    }

    /// Looks after the source while nobody polls it; ends when there may be something new to see in
    /// [`retained`](Self::retained). Cancel-safe, never fails: the next poll tells what is wrong.
    fn tend(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}
