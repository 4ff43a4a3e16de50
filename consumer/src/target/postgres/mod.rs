//! A PostgreSQL database records are applied to.
//!
//! A call is one transaction: guarded statements write its operations, many rows each, one statement after the other per
//! table, action and set of columns. The version of a row is kept in its column `_syncline_version`, that of a
//! deleted one in the table `_syncline_tombstone` of the same schema. Beside it, `_syncline_parked` has the records that
//! are dead letters, and `_syncline_tries` the messages that are tried alone.
//!
//! Knows nothing of queues or other targets. Fails with [`ApplyError`], sorted by SQLSTATE.

#[cfg(feature = "bench")]
pub mod bench;
mod catalog;
mod config;
mod copy;
mod error;
mod group;
mod look;
mod parameter;
mod session;
mod sql;

pub use config::PostgresTargetConfig;
pub use look::PostgresLook;

use std::time::{Duration, Instant};

use syncline_shared::record::Row;

use self::session::Session;
use super::{Applied, ApplyError, Batch, Parked, Standing, TableMap, Target};

/// Applies the records of one partition through one connection.
pub struct PostgresTarget {
    config: PostgresTargetConfig,
    writer: String,
    session: Option<Session>,
    /// When a session was made anew because a record was refused.
    relearned: Option<Instant>,
}

/// A session that was made anew because a record was refused is believed this long about the next ones: the search for
/// bad records in a group meets many refusals, and each connection costs more than they do.
const BELIEVED: Duration = Duration::from_secs(10);

impl PostgresTarget {
    /// Makes a target that connects when it is first used.
    ///
    /// `writer` names the partition, the same on every replica (`<subscription>/<queue>.<partition>`): calls of one
    /// writer wait for each other, so that a replica that lost its partition cannot write beside the one that has it.
    #[must_use]
    pub fn new(config: PostgresTargetConfig, writer: impl Into<String>) -> Self {
        Self { config, writer: writer.into(), session: None, relearned: None }
    }

    /// Applies through the session there is; once more through a new one if what the old one knew of the tables may
    /// have been the reason. A session that is not put back is closed, and its transaction with it.
    async fn attempt(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        if let Some(mut session) = self.session.take() {
            match session.apply(batches).await {
                Err(refused @ ApplyError::Record { .. }) => {
                    if self.relearned.is_some_and(|at| at.elapsed() < BELIEVED) {
                        return self.keep(session, Err(refused));
                    }
                    self.relearned = Some(Instant::now());
                }
                Err(ApplyError::Unfit { .. }) => {}
                result @ (Ok(_) | Err(ApplyError::Unreachable { .. } | ApplyError::Busy { .. })) => {
                    return self.keep(session, result);
                }
            }
        }
        let mut session = Session::open(&self.config, &self.writer).await?;
        let result = session.apply(batches).await;
        self.keep(session, result)
    }

    /// The session there is, or a new one. It has to be put back.
    async fn session(&mut self) -> Result<Session, ApplyError> {
        match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => Ok(session),
            None => Session::open(&self.config, &self.writer).await,
        }
    }

    /// Waits for an answer as long as one may take.
    async fn answer<R>(&mut self, work: impl AsyncFnOnce(&mut Self) -> Result<R, ApplyError>) -> Result<R, ApplyError> {
        let done = tokio::time::timeout(self.patience(), work(self)).await;
        done.unwrap_or_else(|elapsed| Err(self.silent(elapsed)))
    }

    fn keep<R>(&mut self, session: Session, result: Result<R, ApplyError>) -> Result<R, ApplyError> {
        let healthy = match &result {
            Ok(_) | Err(ApplyError::Record { .. } | ApplyError::Busy { .. }) => !session.is_closed(),
            Err(ApplyError::Unreachable { .. } | ApplyError::Unfit { .. }) => false,
        };
        if healthy {
            self.session = Some(session);
        }
        result
    }

    /// The longest a call may take: PostgreSQL cancels statements itself, so beyond this nobody answers any more.
    fn patience(&self) -> Duration {
        Duration::from_millis(u64::from(self.config.statement_timeout_ms) * 2)
    }

    fn silent(&self, elapsed: tokio::time::error::Elapsed) -> ApplyError {
        ApplyError::Unreachable { address: self.config.address().display(), cause: Box::new(elapsed) }
    }
}

impl Target for PostgresTarget {
    async fn apply(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        if batches.iter().all(|batch| batch.records.is_empty()) {
            return Ok(Applied::default());
        }
        let done = tokio::time::timeout(self.patience(), self.attempt(batches)).await;
        done.unwrap_or_else(|elapsed| Err(self.silent(elapsed)))
    }

    async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), ApplyError> {
        self.answer(async |target| {
            let mut session = target.session().await?;
            let result = session.park(parked).await;
            target.keep(session, result)
        })
        .await
    }

    async fn unpark(&mut self, letters: &[String]) -> Result<(), ApplyError> {
        self.answer(async |target| {
            let mut session = target.session().await?;
            let result = session.unpark(letters).await;
            target.keep(session, result)
        })
        .await
    }

    async fn tries(&mut self, beside: &str, message: &str) -> Result<u32, ApplyError> {
        self.answer(async |target| {
            let session = target.session().await?;
            let result = session.tries(beside, message).await;
            target.keep(session, result)
        })
        .await
    }

    async fn set_tries(&mut self, beside: &str, message: &str, tries: u32) -> Result<(), ApplyError> {
        self.answer(async |target| {
            let session = target.session().await?;
            let result = session.set_tries(beside, message, tries).await;
            target.keep(session, result)
        })
        .await
    }

    async fn standing(&mut self, table: &TableMap, key: &Row) -> Result<Standing, ApplyError> {
        self.answer(async |target| {
            let session = target.session().await?;
            let result = session.standing(table, key).await;
            target.keep(session, result)
        })
        .await
    }

    async fn check(&mut self, tables: &[TableMap]) -> Result<(), Vec<ApplyError>> {
        let checked = async { Session::open(&self.config, &self.writer).await?.check(tables).await };
        match tokio::time::timeout(self.patience(), checked).await {
            Ok(Ok(problems)) if problems.is_empty() => Ok(()),
            Ok(Ok(problems)) => Err(problems),
            Ok(Err(error)) => Err(vec![error]),
            Err(elapsed) => Err(vec![self.silent(elapsed)]),
        }
    }
}

#[cfg(test)]
mod tests;
