//! What can go wrong between the consumer and a target.

use syncline_shared::class::Class;
use thiserror::Error;

/// The cause as the target's client reports it.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Records that were not applied.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// No connection, or it broke; whether the call committed is unknown, and harmless.
    #[error("the target at {address} is out of reach")]
    Unreachable {
        /// Host, port and database or file, without credentials.
        address: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// The target takes no more for now, or is in conflict with itself: out of connections, a lock time-out, a deadlock.
    #[error("the target at {address} is busy: {problem}")]
    Busy {
        /// Host, port and database or file, without credentials.
        address: String,
        /// What it said, without any value of a record.
        problem: String,
        /// Whether it is at a limit; a conflict is over with the next attempt.
        limit: bool,
    },
    /// A table or column is missing or unfit, a permission is missing, the target is read-only or its disk is full:
    /// every record would fail until someone mends it.
    #[error("{problem}; mend it with: {mend}")]
    Unfit {
        /// What is wrong, with the table's or column's name.
        problem: String,
        /// The statement or setting that mends it.
        mend: String,
    },
    /// The target refuses a record: a value out of range, a violated constraint.
    #[error("the target refuses a record of table {table:?}: {problem}")]
    Record {
        /// The target's table.
        table: String,
        /// The target's error code, column or constraint, without any value of the record.
        problem: String,
        /// Another record may cure it: one it refers to is still to come, or one that has its unique value goes.
        may_pass: bool,
    },
}

impl ApplyError {
    /// Whether the target takes no more for now.
    #[must_use]
    pub const fn is_limit(&self) -> bool {
        matches!(self, Self::Busy { limit: true, .. })
    }

    /// What to do about it.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => Class::Transient,
            Self::Unfit { .. } => Class::Systemic,
            Self::Record { .. } => Class::Permanent,
        }
    }
}
