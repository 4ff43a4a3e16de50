//! A SQLite file as a source: triggers write every change into a log in the same file, the source reads the log.
//!
//! Any program may write to the file; changes are seen within [`SqliteSourceConfig::poll_interval_ms`]. What is copied,
//! shared or sealed is not known here. Fails with [`SourceError`]: a table without a primary key is refused, a file that
//! is not there or locked is tried again.
//!
//! Versions are `epoch, log row id, ordinal`. What a user should know:
//!
//! - Programs that write to the file should set a busy timeout and, best, WAL mode: the log is shortened once a second.
//! - `ALTER TABLE .. DROP COLUMN` needs the table's `_syncline_` triggers dropped in the same transaction; they are made
//!   again at once, and the table's rows are sent again.
//! - `INSERT OR REPLACE` that removes *another* record over a unique column tells no trigger of it unless
//!   `PRAGMA recursive_triggers` is on.
//! - A file brought back from a backup repeats versions: its tables must be compared or sent again.

mod copy;
mod error;
mod file;
mod find;
mod log;
mod lookup;
mod named;
mod row;
mod setup;
mod stock;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Span};
use syncline_shared::pace::Pace;
use tokio::sync::watch;
use tracing::warn;

pub use self::stock::{Pages, SqliteStock};

use self::error::Fault;
use self::file::{At, Opened, check, step};
use super::{Checked, Found, PollLimit, Polled, SessionRule, Source, SourceError, Tables, Wanted, WatchedTable};

/// Twenty milliseconds: a change is seen at once, an idle source costs next to nothing.
pub const DEFAULT_POLL_INTERVAL_MS: u64 = 20;

/// A SQLite file changes are read from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteSourceConfig {
    /// The file; it must exist. Beside it `<path>-syncline` keeps a second producer away.
    pub path: PathBuf,
    /// Tables that extend each other, `[source.NAME.table.TABLE]`. Default: none.
    #[serde(default, rename = "table")]
    pub tables: Tables,
    /// How to tell persons from jobs; without it the source does not say.
    pub session: Option<SessionRule>,
    /// From one time it is read to the next, `15m`; 1s to 24h. Default: it is read all the time.
    #[serde(default)]
    pub interval: Option<Span>,
    /// How long to wait before the broker is tried again when it takes no more messages, `5m`; 1s to 15m. Default: growing
    /// waits of up to 10 s.
    #[serde(default)]
    pub delay: Option<Span>,
    /// How often an idle file is looked at, in milliseconds; at least 1. Default 20.
    #[serde(default = "default_poll_interval_ms")]
    pub poll_interval_ms: u64,
}

const fn default_poll_interval_ms() -> u64 {
    DEFAULT_POLL_INTERVAL_MS
}

impl SqliteSourceConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.path.as_os_str().is_empty() {
            problems.push(("path", "is empty; the path of a file".to_owned()));
        }
        problems.extend(self.session.as_ref().and_then(SessionRule::validate));
        problems.extend(self.pace().validate());
        if self.poll_interval_ms == 0 {
            problems.push(("poll_interval_ms", "0 is out of range; 1 or more".to_owned()));
        }
        problems
    }

    /// When the source is read.
    pub(super) const fn pace(&self) -> Pace {
        Pace { interval: self.interval, delay: self.delay }
    }
}

/// Where a SQLite source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlitePosition {
    /// Names the change log the ids below are of.
    epoch: u32,
    /// Id of the last change of the log.
    change: i64,
    /// Id of the last copy that was read to its end.
    copied: i64,
}

/// Reads the changes of a SQLite file. All work on the file is done off the I/O threads.
pub struct SqliteSource {
    settings: Arc<Settings>,
    /// The open file; locked for as long as a step on it lasts, even when the step's caller is gone.
    opened: Arc<Mutex<Option<Opened>>>,
    at: Option<At>,
    committed: Option<SqlitePosition>,
    /// Whether the file is being read, for bulk shares beside it.
    live: watch::Sender<bool>,
}

struct Settings {
    name: String,
    config: SqliteSourceConfig,
    watched: Vec<WatchedTable>,
}

impl Settings {
    fn address(&self) -> String {
        self.config.path.display().to_string()
    }
}

impl SqliteSource {
    /// Opens nothing yet. `name` is the source's name in the configuration.
    #[must_use]
    pub fn new(name: &str, config: SqliteSourceConfig, watched: Vec<WatchedTable>) -> Self {
        let settings = Arc::new(Settings { name: name.to_owned(), config, watched });
        Self { settings, opened: Arc::default(), at: None, committed: None, live: watch::Sender::new(false) }
    }

    /// Reaches the file and looks at the watched tables, without changing anything.
    pub async fn check(&self) -> Checked {
        let settings = self.settings.clone();
        off_thread(move || Ok(check(&settings))).await.unwrap_or_else(Checked::from)
    }

    /// Looks for a record of the first of its tables; changes nothing. Blocks.
    ///
    /// # Errors
    /// [`SourceError`]; also when there is no such table, or its changes could not be shared.
    pub fn find(&self, wanted: &Wanted<'_>) -> Result<Found, SourceError> {
        find::find(&self.settings, wanted).map_err(|fault| fault.at(&self.settings.address()))
    }
}

impl Source for SqliteSource {
    type Position = SqlitePosition;
    type Lookups = SqliteStock;

    fn pace(&self) -> Pace {
        self.settings.config.pace()
    }

    fn lookups(&self) -> SqliteStock {
        self.stock()
    }

    async fn poll(&mut self, limit: PollLimit) -> Result<Polled<SqlitePosition>, SourceError> {
        loop {
            // A step that begins after its source is gone must not open the file again: the next producer may be at it.
            let (settings, opened) = (self.settings.clone(), Arc::downgrade(&self.opened));
            let (at, committed) = (self.at.clone(), self.committed);
            let step = off_thread(move || {
                let gone = || SourceError::Taken { address: settings.address() };
                let opened = opened.upgrade().ok_or_else(gone)?;
                let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
                let step = step(&settings, &mut opened, at, committed, limit);
                step.map_err(|fault| {
                    *opened = None;
                    fault.at(&settings.address())
                })
            });
            let step = match step.await {
                Ok(step) => step,
                Err(error) => {
                    self.at = None;
                    self.live.send_replace(false);
                    return Err(error);
                }
            };
            self.live.send_if_modified(|live| !std::mem::replace(live, true));
            let position = step.at.position;
            let before = self.at.replace(step.at);
            if !step.changes.is_empty() || before.is_some_and(|before| before.position != position) {
                return Ok(Polled { changes: step.changes, position: Some(position) });
            }
            tokio::time::sleep(Duration::from_millis(self.settings.config.poll_interval_ms.max(1))).await;
        }
    }

    /// Notes the position; the file is told a moment later, so a crash repeats some changes.
    async fn commit(&mut self, upto: &SqlitePosition) -> Result<(), SourceError> {
        self.committed = Some(*upto);
        Ok(())
    }

    async fn close(self) {
        let (settings, opened, committed) = (self.settings.clone(), self.opened, self.committed);
        let closed = off_thread(move || {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            let (Some(opened), Some(committed)) = (opened.take(), committed) else { return Ok(()) };
            while opened.prune(committed).map_err(|error| Fault::from(error).at(&settings.address()))? {}
            Ok(())
        });
        if let Err(error) = closed.await {
            warn!(source = self.settings.name, %error, "the source could not store its position; changes since the last time it did come again");
        }
    }
}

/// Runs work that blocks; a dropped call lets it end by itself.
async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    let ended = |_| SourceError::Protocol { problem: "the thread that read the file ended".to_owned() };
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}
