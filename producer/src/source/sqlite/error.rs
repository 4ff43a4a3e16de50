//! How SQLite's failures read as failures of a source.

use rusqlite::ErrorCode;
use syncline_shared::sqlite;

use crate::source::SourceError;

/// A failure on the way: SQLite's own, or one that is already said.
#[derive(Debug)]
pub(super) enum Fault {
    Sqlite(rusqlite::Error),
    Source(SourceError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SourceError> for Fault {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl Fault {
    /// The failure of the source at this address. SQLite names tables and columns in its messages, never values.
    pub(super) fn at(self, address: &str) -> SourceError {
        let error = match self {
            Self::Source(error) => return error,
            Self::Sqlite(error) => error,
        };
        let address = address.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                let problem = "the file or its folder cannot be written, which the change log needs; \
                               give this user the right to write both";
                SourceError::Refused { address, problem: problem.to_owned() }
            }
            Some(ErrorCode::DiskFull) => {
                SourceError::Refused { address, problem: "its disk is full; make room".to_owned() }
            }
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => SourceError::Unfit {
                problem: format!("{address:?} is no sound SQLite database"),
                mend: "PRAGMA integrity_check".to_owned(),
            },
            Some(ErrorCode::CannotOpen | ErrorCode::SystemIoFailure) => {
                SourceError::Unreachable { address, cause: Box::new(error) }
            }
            _ if sqlite::is_busy(&error) => SourceError::Unreachable { address, cause: Box::new(error) },
            _ => SourceError::Protocol { problem: format!("the file {address:?} answered: {error}") },
        }
    }
}
