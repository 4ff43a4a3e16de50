//! What SQLite's errors mean for records.
//!
//! SQLite's messages about constraints and statements name tables, columns and expressions of the schema; all others are
//! left out, for a trigger may say anything.

use rusqlite::ffi::{
    ErrorCode, SQLITE_CONSTRAINT_CHECK, SQLITE_CONSTRAINT_DATATYPE, SQLITE_CONSTRAINT_FOREIGNKEY,
    SQLITE_CONSTRAINT_NOTNULL, SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_ROWID, SQLITE_CONSTRAINT_TRIGGER,
    SQLITE_CONSTRAINT_UNIQUE,
};

use crate::target::ApplyError;

/// What was being done when an error came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing<'a> {
    /// The file.
    pub(super) address: &'a str,
    /// The target's table; may be empty.
    pub(super) table: &'a str,
}

impl Doing<'_> {
    /// Sorts an error by its result code (<https://www.sqlite.org/rescode.html>). An unknown one keeps everything and
    /// says so.
    #[expect(clippy::wildcard_enum_match_arm, reason = "SQLite may add codes; those that are not named pause, too")]
    pub(super) fn failed(&self, error: rusqlite::Error) -> ApplyError {
        let address = self.address.to_owned();
        let Some(failure) = error.sqlite_error().copied() else { return self.unexpected(&error) };
        match failure.code {
            ErrorCode::SystemIoFailure
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
            | ErrorCode::OperationAborted => ApplyError::Unreachable { address, cause: Box::new(error) },
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                let problem = "another connection writes for too long".to_owned();
                ApplyError::Busy { address, problem, limit: true }
            }
            ErrorCode::OutOfMemory => ApplyError::Busy { address, problem: "out of memory".to_owned(), limit: true },
            ErrorCode::ConstraintViolation => ApplyError::Record {
                table: self.table.to_owned(),
                problem: constraint(failure.extended_code, &error),
                // These are about another row, too. Foreign keys are off, but a trigger may check one.
                may_pass: [SQLITE_CONSTRAINT_UNIQUE, SQLITE_CONSTRAINT_FOREIGNKEY].contains(&failure.extended_code),
            },
            ErrorCode::TypeMismatch => self.refused("not a value of the key column's type"),
            ErrorCode::TooBig => self.refused("a value or row is too big"),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => self.read_only(),
            ErrorCode::DiskFull => self.unfit("has no disk space left", "freeing disk space"),
            ErrorCode::CannotOpen => {
                self.unfit("cannot be opened", "the target's path, and permission to write to its folder")
            }
            ErrorCode::DatabaseCorrupt => {
                self.unfit("is damaged", "restoring the file; `PRAGMA integrity_check` says more")
            }
            ErrorCode::NotADatabase => self.unfit("is no SQLite database", "the target's path"),
            _ => self.unexpected(&error),
        }
    }

    /// An error while a record is written: an expression of the table may fail with the record's values.
    pub(super) fn writing(&self, error: rusqlite::Error) -> ApplyError {
        if error.sqlite_error_code() == Some(ErrorCode::Unknown) {
            return self.refused("an expression or trigger of the table fails with its values");
        }
        self.failed(error)
    }

    /// A record that cannot be stored.
    pub(super) fn refused(&self, problem: &str) -> ApplyError {
        ApplyError::Record { table: self.table.to_owned(), problem: problem.to_owned(), may_pass: false }
    }

    /// A file that does not take writes.
    pub(super) fn read_only(&self) -> ApplyError {
        self.unfit("is read-only", "making the file and its folder writable for Syncline's user")
    }

    /// A statement that does not fit the schema, or an answer nobody foresaw.
    fn unexpected(&self, error: &rusqlite::Error) -> ApplyError {
        let mend = "what it names in the table's definition, or in the subscription's `into` and `columns`";
        self.unfit(&format!("refuses a statement ({})", message(error)), mend)
    }

    fn unfit(&self, problem: &str, mend: &str) -> ApplyError {
        let Self { address, table } = self;
        let about = if table.is_empty() { String::new() } else { format!(" (table {table:?})") };
        ApplyError::Unfit { problem: format!("the target {address} {problem}{about}"), mend: mend.to_owned() }
    }
}

/// What a statement or constraint that SQLite names is about: neither shows a value.
fn message(error: &rusqlite::Error) -> String {
    if let rusqlite::Error::SqlInputError { msg, .. } | rusqlite::Error::SqliteFailure(_, Some(msg)) = error {
        return msg.clone();
    }
    error.sqlite_error().map_or_else(|| "a version is not of 16 bytes".to_owned(), ToString::to_string)
}

fn constraint(extended_code: i32, error: &rusqlite::Error) -> String {
    match extended_code {
        SQLITE_CONSTRAINT_CHECK
        | SQLITE_CONSTRAINT_DATATYPE
        | SQLITE_CONSTRAINT_NOTNULL
        | SQLITE_CONSTRAINT_PRIMARYKEY
        | SQLITE_CONSTRAINT_ROWID
        | SQLITE_CONSTRAINT_UNIQUE => message(error),
        SQLITE_CONSTRAINT_TRIGGER => "a trigger refuses it".to_owned(),
        _ => format!("a constraint is violated ({extended_code})"),
    }
}
