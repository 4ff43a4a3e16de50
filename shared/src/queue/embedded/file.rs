//! The queue's file: its tables and how its failures read.

use std::path::PathBuf;
use std::sync::Arc;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::queue::QueueError;
use crate::sqlite;

/// Marks the file as a queue (`PRAGMA application_id`, "SYNQ"), so that no other database is taken for one.
const APPLICATION_ID: i32 = 0x5359_4e51;
/// Goes up when the tables change.
const FORM: i32 = 1;
/// What is kept of the write-ahead log between bursts.
const WAL_BYTES_MAX: i64 = 64 << 20;

/// Ids are never reused (`AUTOINCREMENT`): a subscriber's place in its partition and the order of attachment are ids.
const TABLES: &str = "
    CREATE TABLE partition (
        id INTEGER PRIMARY KEY,
        queue TEXT NOT NULL,
        number INTEGER NOT NULL,
        handed_out INTEGER NOT NULL DEFAULT 0, -- id of the newest message handed to the present consumer
        UNIQUE (queue, number)
    ) STRICT;
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        partition INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,   -- how often it was handed out and came back
        sealed_at INTEGER NOT NULL,            -- seconds since 1970
        properties TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX message_partition ON message (partition);
    CREATE TABLE dead_letter (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        message_id TEXT NOT NULL,
        properties TEXT NOT NULL,
        body BLOB NOT NULL
    ) STRICT;
    CREATE INDEX dead_letter_message ON dead_letter (queue, message_id);
    CREATE TABLE subscriber (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        partition INTEGER NOT NULL,
        replica TEXT NOT NULL,
        expires_at INTEGER NOT NULL            -- milliseconds since 1970; renewed while its process lives
    ) STRICT;
    CREATE INDEX subscriber_partition ON subscriber (partition);
";

/// Why a job did not happen; shared by all jobs of one transaction.
#[derive(Clone, Debug)]
pub(super) enum Fault {
    /// SQLite's answer.
    Sqlite(Arc<rusqlite::Error>),
    /// The thread that owns the connection ended; only a broken invariant or a machine out of threads does that.
    NoThread,
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl Fault {
    /// Whether a new connection may do better: the file was damaged, replaced or not there.
    pub(super) fn spoils_connection(&self) -> bool {
        match self {
            Self::Sqlite(error) => matches!(
                error.sqlite_error_code(),
                Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
            ),
            Self::NoThread => false,
        }
    }
}

/// Where the queue's file is. Opened by each thread for itself.
#[derive(Clone, Debug)]
pub(super) struct File {
    path: PathBuf,
}

impl File {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The path, for messages.
    pub(super) fn address(&self) -> String {
        self.path.display().to_string()
    }

    /// Whether it was made already.
    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// Opens the file and makes its tables when it is new.
    pub(super) fn open(&self) -> rusqlite::Result<Connection> {
        let mut connection = sqlite::open(&self.path, true)?;
        let form = |connection: &Connection| -> rusqlite::Result<(i32, i32, i64)> {
            connection.query_row(
                "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema)
                 FROM pragma_application_id, pragma_user_version",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
            )
        };
        // Another program's file is left as it is.
        if !matches!(form(&connection)?, (0, 0, 0) | (APPLICATION_ID, FORM, _)) {
            return Err(rusqlite::Error::ToSqlConversionFailure(
                "it is no queue file of this version of Syncline; name another file".into(),
            ));
        }
        sqlite::use_wal(&connection)?;
        connection.pragma_update(None, "journal_size_limit", WAL_BYTES_MAX)?;
        if form(&connection)? == (0, 0, 0) {
            let making = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            // Another process may have been first.
            if form(&making)? == (0, 0, 0) {
                making.execute_batch(TABLES)?;
                making.pragma_update(None, "application_id", APPLICATION_ID)?;
                making.pragma_update(None, "user_version", FORM)?;
            }
            making.commit()?;
        }
        Ok(connection)
    }

    /// The failure as the queue's users see it.
    pub(super) fn error(&self, fault: Fault) -> QueueError {
        match fault {
            Fault::Sqlite(error) if sqlite::is_busy(&error) => {
                QueueError::Unreachable { address: self.address(), cause: Box::new(error) }
            }
            Fault::Sqlite(error) => QueueError::Storage { path: self.address(), cause: Box::new(error) },
            Fault::NoThread => QueueError::Storage { path: self.address(), cause: "its thread ended".into() },
        }
    }
}
