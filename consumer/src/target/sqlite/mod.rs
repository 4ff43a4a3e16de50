//! A SQLite file records are applied to.
//!
//! A call is one transaction: the version the file holds of a record is looked up, then the record is written if it is
//! newer, one by one. The version of a row is kept in its column `_syncline_version`, that of a deleted one in the table
//! `_syncline_tombstone`. `_syncline_parked` has the records that are dead letters, and `_syncline_tries` the messages that
//! are tried alone. All of it happens on threads for blocking work.
//!
//! SQLite has no schemas: a dot in a table's name belongs to the name.
//!
//! Knows nothing of queues or other targets. Fails with [`ApplyError`], sorted by SQLite's result codes.
//!
//! # Values
//!
//! A column's declared type decides, as in every database. A column without a type (what `evolve` creates), of type
//! `BLOB`, or `ANY` of a `STRICT` table keeps everything: integers of 64 bits as INTEGER, other numbers as REAL if a
//! double has exactly their decimal value, else their digits as TEXT; booleans as 0 and 1; bytes as BLOB. A text column
//! keeps the text of a number as its source wrote it, and `true` and `false`. A column of any other type converts what
//! looks like a number to INTEGER or REAL: a number with more digits than a double holds is rounded to the nearest one
//! there. To keep such a number's digits, declare its column TEXT or without a type.

mod call;
mod catalog;
mod config;
mod error;
mod look;
mod session;
mod shape;
mod standing;
mod value;

pub use config::SqliteTargetConfig;
pub use look::SqliteLook;

use std::sync::{Arc, Mutex, PoisonError};

use syncline_shared::record::{Action, Record, Row};

use rusqlite::params;

use self::catalog::Table;
use self::session::Session;
use self::shape::{FORGET_TRIES, PARK, SET_TRIES, UNPARK};
use super::fold::key_name;
use super::{Applied, ApplyError, Batch, Parked, Standing, TableMap, Target};

/// Applies the records of one partition through one connection; other partitions may write to the same file.
pub struct SqliteTarget {
    config: SqliteTargetConfig,
    /// A call that was dropped goes on with it; the next one waits here until that is done.
    session: Arc<Mutex<Option<Session>>>,
}

/// A [`Batch`] that may go to another thread.
struct OwnedBatch {
    table: TableMap,
    action: Action,
    records: Vec<Record>,
}

impl From<&Batch<'_>> for OwnedBatch {
    fn from(batch: &Batch<'_>) -> Self {
        Self { table: batch.table.clone(), action: batch.action, records: batch.records.to_vec() }
    }
}

impl OwnedBatch {
    fn borrow(&self) -> Batch<'_> {
        Batch { table: &self.table, action: self.action, records: &self.records }
    }
}

impl SqliteTarget {
    /// Makes a target that opens its file when it is first used.
    #[must_use]
    pub fn new(config: SqliteTargetConfig) -> Self {
        Self { config, session: Arc::default() }
    }

    /// Runs work on a thread that may block, to its end even if nobody waits for it any more.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&SqliteTargetConfig, &mut Option<Session>) -> Result<T, ApplyError> + Send + 'static,
    ) -> Result<T, ApplyError> {
        let (config, session) = (self.config.clone(), Arc::clone(&self.session));
        let work = move || work(&config, &mut session.lock().unwrap_or_else(PoisonError::into_inner));
        // What a panic says might show a value.
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
            Err(ApplyError::Unreachable { address: self.config.address(), cause: "the call's thread ended".into() })
        })
    }
}

impl Target for SqliteTarget {
    async fn apply(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        if batches.iter().all(|batch| batch.records.is_empty()) {
            return Ok(Applied::default());
        }
        let batches: Vec<_> = batches.iter().map(OwnedBatch::from).collect();
        self.blocking(move |config, slot| {
            let batches: Vec<_> = batches.iter().map(OwnedBatch::borrow).collect();
            session::apply(config, slot, &batches)
        })
        .await
    }

    async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), ApplyError> {
        let row = |Parked { table, record, letter }: &Parked<'_>| {
            (table.into.clone(), key_name(&record.key), record.version.to_bytes(), (*letter).to_owned())
        };
        let rows: Vec<_> = parked.iter().map(row).collect();
        self.blocking(move |config, slot| {
            session::note(config, slot, |connection| {
                for (into, key, version, letter) in rows {
                    // By the name of its definition, as the tombstones have it.
                    let table = Table::read(connection, &into)?.map_or(into, |table| table.name);
                    connection.execute(PARK, params![table, key, version, letter])?;
                }
                Ok(())
            })
        })
        .await
    }

    async fn unpark(&mut self, letters: &[String]) -> Result<(), ApplyError> {
        let letters = letters.to_vec();
        self.blocking(move |config, slot| {
            session::note(config, slot, |connection| {
                letters.iter().try_for_each(|letter| connection.execute(UNPARK, [letter]).map(drop))
            })
        })
        .await
    }

    async fn tries(&mut self, _beside: &str, message: &str) -> Result<u32, ApplyError> {
        let message = message.to_owned();
        self.blocking(move |config, slot| session::tries(config, slot, &message)).await
    }

    async fn set_tries(&mut self, _beside: &str, message: &str, tries: u32) -> Result<(), ApplyError> {
        let message = message.to_owned();
        self.blocking(move |config, slot| {
            session::note(config, slot, |connection| match tries {
                0 => connection.execute(FORGET_TRIES, [message]).map(drop),
                _ => connection.execute(SET_TRIES, params![message, tries]).map(drop),
            })
        })
        .await
    }

    async fn standing(&mut self, table: &TableMap, key: &Row) -> Result<Standing, ApplyError> {
        let (table, key) = (table.clone(), key.clone());
        self.blocking(move |config, _| standing::of(config, &table, &key)).await
    }

    async fn check(&mut self, tables: &[TableMap]) -> Result<(), Vec<ApplyError>> {
        let tables = tables.to_vec();
        let problems = self.blocking(move |config, _| Ok(session::check(config, &tables))).await;
        match problems {
            Ok(problems) if problems.is_empty() => Ok(()),
            Ok(problems) => Err(problems),
            Err(error) => Err(vec![error]),
        }
    }
}

#[cfg(test)]
mod tests;
