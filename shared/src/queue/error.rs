//! What can go wrong between a service and its broker.

use thiserror::Error;

use crate::class::Class;
use crate::seal::SealError;

/// The cause as the broker's client reports it.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A message that is not confirmed. The outcomes a broker can give are kept apart: they call for different actions.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The broker refused to take the message now (`basic.nack`): a full queue, a replica set without majority.
    #[error("the broker refused the message")]
    Nacked,
    /// The broker has nowhere to put the message (`basic.return`): the topology is gone.
    #[error("no queue takes routing key {routing_key:?} of shared queue {queue:?}")]
    Unroutable {
        /// The shared queue.
        queue: String,
        /// The routing key; table, action and partition.
        routing_key: String,
    },
    /// No confirm within the time-out; the message may or may not be at the broker.
    #[error("no confirm within {timeout_ms} ms")]
    TimedOut {
        /// The time-out.
        timeout_ms: u64,
    },
    /// Larger than the broker takes.
    #[error("the message has {bytes} bytes, the broker takes {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A record could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The connection or its storage failed; whether the message is at the broker is unknown.
    #[error(transparent)]
    Queue(#[from] Box<QueueError>),
}

impl PublishError {
    /// Whether the broker takes no messages for now. No message has failed then: nothing is to be sent again.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        matches!(self, Self::Queue(error) if matches!(**error, QueueError::Blocked { .. }))
    }

    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Nacked | Self::TimedOut { .. } => Class::Transient,
            Self::Unroutable { .. } => Class::Systemic,
            Self::TooLarge { .. } => Class::Permanent,
            Self::Seal(error) => error.class(),
            Self::Queue(error) => error.class(),
        }
    }
}

impl From<QueueError> for PublishError {
    fn from(error: QueueError) -> Self {
        Self::Queue(Box::new(error))
    }
}

/// A broker that cannot be used.
#[derive(Debug, Error)]
pub enum QueueError {
    /// No connection, or the connection broke.
    #[error("the broker at {address} is out of reach")]
    Unreachable {
        /// Host and port or file, without credentials.
        address: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// The broker takes no messages until it has memory or disk again; what it has can be received.
    #[error("the broker at {address} takes no messages for now")]
    Blocked {
        /// Host and port, without credentials.
        address: String,
        /// What it says it is short of.
        #[source]
        cause: Cause,
    },
    /// The broker refuses the credentials or a permission is missing.
    #[error("the broker at {address} refuses access")]
    Refused {
        /// Host and port or file, without credentials.
        address: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// The password file or the certificates cannot be used.
    #[error("the connection to the broker at {address} cannot be set up")]
    Setup {
        /// Host and port or file, without credentials.
        address: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// The shared queue was never declared, or is gone altogether.
    #[error("shared queue {queue:?} does not exist yet")]
    Missing {
        /// The shared queue.
        queue: String,
    },
    /// One of its queues or its exchange is missing or has other properties than the configuration says.
    #[error("shared queue {queue:?} is not as configured: {problem}")]
    Topology {
        /// The shared queue.
        queue: String,
        /// What differs, and what to do.
        problem: String,
    },
    /// The file of the embedded queue cannot be read or written.
    #[error("the queue file {path:?} failed")]
    Storage {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        cause: Cause,
    },
    /// A dead letter could not be written.
    #[error("a dead letter could not be written")]
    Park(#[source] PublishError),
    /// A dead letter could not be published again; it stays where it is.
    #[error("a dead letter could not be replayed")]
    Replay(#[source] PublishError),
}

impl QueueError {
    /// What to do about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } | Self::Blocked { .. } => Class::Transient,
            Self::Refused { .. }
            | Self::Setup { .. }
            | Self::Missing { .. }
            | Self::Topology { .. }
            | Self::Storage { .. } => Class::Systemic,
            Self::Park(error) | Self::Replay(error) => error.class(),
        }
    }
}
