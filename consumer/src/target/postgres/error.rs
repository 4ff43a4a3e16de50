//! What PostgreSQL's errors mean for records.
//!
//! Messages, details and contexts of PostgreSQL contain values, so only codes and names of ours leave this file.

use std::error::Error as _;

use syncline_shared::postgres::ConnectError;
use tokio_postgres::error::DbError;

use super::parameter::NotBase64;
use crate::target::ApplyError;

/// What was being done when an error came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Doing<'a> {
    /// Host, port and database.
    pub(super) address: &'a str,
    /// The target's table.
    pub(super) table: &'a str,
    /// The columns that were written, in the order of their parameters; may be empty.
    pub(super) columns: &'a [&'a str],
}

/// A connection that could not be made.
pub(super) fn connecting(address: &str, error: ConnectError) -> ApplyError {
    match error {
        // No record is at hand yet, so the server may speak for itself: what it says tells a password from a certificate.
        ConnectError::Connect(cause) if cause.code().is_some_and(|code| code.code().starts_with("28")) => {
            let message = cause.as_db_error().map(DbError::message).unwrap_or_default();
            ApplyError::Unfit {
                problem: format!("the target at {address} refuses the login: {message}"),
                mend: "the target's url, password and tls settings, and the server's pg_hba.conf".to_owned(),
            }
        }
        ConnectError::Connect(cause) => Doing { address, table: "", columns: &[] }.failed(cause),
        ConnectError::Url | ConnectError::Password(_) | ConnectError::Tls(_) | ConnectError::Handshake { .. } => {
            ApplyError::Unfit {
                problem: format!("the target at {address} cannot be connected to: {error}"),
                mend: "the target's url, password_file or tls settings".to_owned(),
            }
        }
    }
}

impl Doing<'_> {
    /// Sorts an error by its SQLSTATE (PostgreSQL manual, appendix A). An unknown one keeps everything and says so.
    pub(super) fn failed(&self, error: tokio_postgres::Error) -> ApplyError {
        let address = self.address.to_owned();
        let Some(db) = error.as_db_error() else {
            if let Some(error) = error.source().and_then(|cause| cause.downcast_ref()) {
                return self.not_base64(error);
            }
            return ApplyError::Unreachable { address, cause: Box::new(error) };
        };
        let code = db.code().code();
        match code {
            "25P03" | "25P04" | "57P01" | "57P02" | "57P03" | "57P05" => {
                ApplyError::Unreachable { address, cause: Box::new(error) }
            }
            _ if code.starts_with("08") => ApplyError::Unreachable { address, cause: Box::new(error) },
            "53200" | "53300" | "55006" | "55P03" | "57014" => {
                ApplyError::Busy { address, problem: busy(code), limit: true }
            }
            _ if code.starts_with("40") => ApplyError::Busy { address, problem: busy(code), limit: false },
            // A statement writes many rows: two keys of a call may be one to PostgreSQL (21000), a row or an index entry
            // may be too long (54000), a trigger may object (P0001).
            "21000" | "P0001" => self.refused(db),
            _ if ["22", "23", "44", "54"].iter().any(|class| code.starts_with(class)) => self.refused(db),
            _ => self.unfit(code),
        }
    }

    /// Refuses a record for bytes that are none.
    pub(super) fn not_base64(&self, error: &NotBase64) -> ApplyError {
        ApplyError::Record { table: self.table.to_owned(), problem: error.to_string(), may_pass: false }
    }

    fn refused(&self, db: &DbError) -> ApplyError {
        let code = db.code().code();
        let mut problem = format!("{} ({code})", meaning(code));
        let named = [("column", self.column(db)), ("constraint", db.constraint()), ("type", db.datatype())];
        for (what, name) in named {
            if let Some(name) = name {
                problem.push_str(&format!(", {what} {name:?}"));
            }
        }
        // A foreign key, a unique or an exclusion constraint is about another row, too.
        let may_pass = ["23503", "23505", "23P01"].contains(&code);
        ApplyError::Record { table: db.table().unwrap_or(self.table).to_owned(), problem, may_pass }
    }

    /// The column an error is about. Where PostgreSQL does not name it, its context may: `unnamed portal parameter $12`, or
    /// `COPY t, line 1, column c: "..."`.
    fn column<'d>(&'d self, db: &'d DbError) -> Option<&'d str> {
        let context = db.where_().unwrap_or_default();
        let named = |column: &&&str| context.contains(", line ") && context.contains(&format!(", column {column}:"));
        let numbered = || {
            // The outermost context comes last.
            let (_, number) = context.lines().last()?.split_once('$').filter(|(before, _)| !before.contains('"'))?;
            let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
            let number: usize = number.get(..digits)?.parse().ok()?;
            self.columns.get(number.checked_sub(1)?).copied()
        };
        db.column().or_else(|| self.columns.iter().find(named).copied()).or_else(numbered)
    }

    fn unfit(&self, code: &str) -> ApplyError {
        let Self { address, table, .. } = self;
        let (problem, mend) = match code {
            "25006" => ("is read-only", "a target that takes writes, or `default_transaction_read_only = off`"),
            "3D000" => ("does not have the database", "the database's name in the target's url, or CREATE DATABASE"),
            "3F000" => ("does not have the table's schema", "CREATE SCHEMA"),
            "42501" => (
                "does not permit what has to be done",
                "GRANT SELECT, INSERT, UPDATE, DELETE on the table and on _syncline_tombstone, _syncline_parked and _syncline_tries beside it, and CONNECT on the database (for compare TEMPORARY, too)",
            ),
            "42P01" | "42703" => ("misses a table or column", "creating it"),
            "42P10" => ("has no unique index on the key columns", "CREATE UNIQUE INDEX on them"),
            "53100" => ("has no disk space left", "freeing disk space"),
            _ => ("refuses a statement", "what the server's log says about it"),
        };
        let about = if table.is_empty() { String::new() } else { format!(" (table {table:?})") };
        ApplyError::Unfit {
            problem: format!("the target at {address} {problem}{about}, error {code}"),
            mend: mend.to_owned(),
        }
    }
}

fn busy(code: &str) -> String {
    let what = match code {
        "40001" => "a conflict with another transaction",
        "40P01" => "a deadlock",
        "53200" => "out of memory",
        "53300" => "too many connections",
        "55P03" => "a lock was not free in time",
        "57014" => "a statement took too long",
        _ => "a conflict",
    };
    format!("{what} ({code})")
}

fn meaning(code: &str) -> &'static str {
    match code {
        "21000" => "two records of one call have the same key",
        "22001" => "a text is too long",
        "22003" => "a number is out of range",
        "22007" | "22008" => "not a date or time of the column's type",
        "22021" | "22P05" => "a character that the database cannot store",
        "22P02" | "22P03" => "not a value of the column's type",
        "23502" => "a null where none is allowed",
        "23503" => "a referenced row is missing, or a row is still referenced",
        "23505" => "another row has the same unique value",
        "23514" => "a check constraint is violated",
        "23P01" => "an exclusion constraint is violated",
        "54000" => "a value is too long for an index",
        "P0001" => "a trigger refuses it",
        _ if code.starts_with("22") => "a value that does not fit",
        _ if code.starts_with("23") => "a constraint is violated",
        _ => "refused",
    }
}
