//! What can go wrong between the producer and a source.

use syncline_shared::class::Class;
use thiserror::Error;

/// The cause as the source's client reports it.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A source that cannot be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// No connection, or it broke.
    #[error("the source at {address} is out of reach")]
    Unreachable {
        /// Host, port and database or file, without credentials.
        address: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// Another producer reads this source; this one waits for its turn.
    #[error("another producer reads the source at {address}")]
    Taken {
        /// Host, port and database or file, without credentials.
        address: String,
    },
    /// The credentials or a permission are missing.
    #[error("the source at {address} refuses access: {problem}")]
    Refused {
        /// Host, port and database or file, without credentials.
        address: String,
        /// What is missing, and the statement that mends it where there is one.
        problem: String,
    },
    /// The source is not set up for change capture.
    #[error("{problem}; mend it with: {mend}")]
    Unfit {
        /// What is wrong, with the table's name.
        problem: String,
        /// The statement or setting that mends it.
        mend: String,
    },
    /// Changes were lost at the source before they were read (a dropped slot, a truncated log).
    #[error("changes were lost before they could be read: {problem}")]
    Gap {
        /// What happened and what to do.
        problem: String,
    },
    /// The source sent something this program does not understand.
    #[error("the source sent something unexpected: {problem}")]
    Protocol {
        /// What, without any value of a record.
        problem: String,
    },
}

impl SourceError {
    /// What to do about it; a source error is never about one record.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::Taken { .. } => Class::Transient,
            Self::Refused { .. } | Self::Unfit { .. } | Self::Gap { .. } | Self::Protocol { .. } => Class::Systemic,
        }
    }
}
