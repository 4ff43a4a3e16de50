//! A target as somebody sees it who compares it with a source, beside whoever applies to it.
//!
//! Nothing of the target changes: what records say is put into temporary tables that have the types of the target's own
//! columns, and the target itself tells where its rows are others. Fails with [`ApplyError`].

use std::future::Future;

use syncline_shared::record::{Columns, Row, Version};

use super::{ApplyError, Batch, TableMap};

/// How a row is not what its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// There is none.
    Missing,
    /// These columns have other values, by the target's names.
    Columns(Vec<String>),
}

/// What was seen of the rows of some records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Records of which the target has a newer version: nothing can be said of them.
    pub newer: u64,
    /// The others that differ, by their places among all records of the call.
    pub differences: Vec<(usize, Difference)>,
}

/// Rows for which there was no record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Others {
    /// How many there are.
    pub count: u64,
    /// The keys of some of them, under the names the source has for them.
    pub keys: Vec<Row>,
}

/// A look at a target.
pub trait Look: Send {
    /// Makes ready to compare rows of a table; its records have this key at the source. Once for each table, before all else.
    fn prepare(&mut self, table: &TableMap, key: &Columns) -> impl Future<Output = Result<(), ApplyError>> + Send;

    /// Compares the rows of records with what these say, at one moment. Of a delete only the key is taken: such a row has
    /// its record, whatever it is like.
    ///
    /// # Errors
    /// [`ApplyError::Record`] when the target's types refuse some record of the call.
    fn compare(&mut self, batches: &[Batch<'_>]) -> impl Future<Output = Result<Seen, ApplyError>> + Send;

    /// The rows of a table for whose keys no record came in any call, but for those newer than this version.
    fn others(
        &mut self,
        table: &TableMap,
        key: &Columns,
        upto: Version,
        keys_max: usize,
    ) -> impl Future<Output = Result<Others, ApplyError>> + Send;
}
