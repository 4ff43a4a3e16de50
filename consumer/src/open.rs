//! Turns received messages into records: envelope, seal, lines. CPU work, off the I/O threads.

use std::sync::Arc;

use syncline_shared::class::Class;
use syncline_shared::envelope::{Envelope, EnvelopeError};
use syncline_shared::queue::{Delivery, Reason};
use syncline_shared::record::{Action, LineError, Record, read_lines};
use syncline_shared::seal::{self, Keyring, OpenError, OpenLimits};
use thiserror::Error;

/// What a partition accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenRules {
    /// The partition it receives.
    pub partition: u32,
    /// Bounds and ciphers.
    pub limits: OpenLimits,
}

/// A message on its way through the consumer.
#[derive(Debug)]
pub(crate) struct Opened {
    /// To settle it.
    pub delivery: Delivery,
    /// Its records, or why there are none.
    pub content: Result<Content, OpenFault>,
}

/// An opened message.
#[derive(Debug)]
pub(crate) struct Content {
    /// Its clear properties, authenticated now.
    pub envelope: Envelope,
    /// Its records, in order.
    pub records: Vec<Record>,
    /// Bytes of its plaintext.
    pub bytes: usize,
}

/// A message that cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenFault {
    /// Its clear properties are not those of an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// Its body does not open.
    #[error(transparent)]
    Seal(#[from] OpenError),
    /// Its plaintext is not records.
    #[error(transparent)]
    Lines(#[from] LineError),
    /// It holds another number of records than it says.
    #[error("the batch says {said} records and holds {held}")]
    Count {
        /// By the header.
        said: u32,
        /// In the body.
        held: usize,
    },
    /// A record of an action that carries data has none: the rest of one that was too large to send.
    #[error("a record of action {action} has no data")]
    NoData {
        /// The action.
        action: Action,
    },
    /// It was sealed for another partition: someone moved it, and its order with it.
    #[error("the batch is for partition {said}, not {here}")]
    Misrouted {
        /// The partition it was sealed for.
        said: u32,
        /// The partition it came from.
        here: u32,
    },
}

impl OpenFault {
    /// What to do about it.
    pub(crate) const fn class(&self) -> Class {
        match self {
            Self::Envelope(error) => error.class(),
            Self::Seal(error) => error.class(),
            Self::Lines(_) | Self::Count { .. } | Self::NoData { .. } | Self::Misrouted { .. } => Class::Permanent,
        }
    }

    /// Why the message goes to the dead letters.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Envelope(_) | Self::Misrouted { .. } => Reason::Envelope,
            Self::Seal(OpenError::TooLarge { .. } | OpenError::Compression)
            | Self::Lines(_)
            | Self::Count { .. }
            | Self::NoData { .. } => Reason::Content,
            Self::Seal(OpenError::Refused | OpenError::UnknownKey { .. } | OpenError::Unsealed { .. }) => Reason::Seal,
        }
    }
}

impl Opened {
    /// Bytes it holds, about: of its plaintext, or of its body where that does not open.
    pub(crate) fn bytes(&self) -> usize {
        self.content.as_ref().map_or_else(|_| self.delivery.message().body.len(), |content| content.bytes)
    }
}

/// Opens a message on the blocking pool.
pub(crate) async fn open(delivery: Delivery, keyring: Arc<Keyring>, rules: OpenRules) -> Opened {
    let work = move || {
        let content = open_one(&delivery, &keyring, rules);
        Opened { delivery, content }
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(opened) => opened,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Opens one message.
pub(crate) fn open_one(delivery: &Delivery, keyring: &Keyring, rules: OpenRules) -> Result<Content, OpenFault> {
    let envelope = Envelope::from_message(delivery.message())?;
    let plain = seal::open(keyring, &envelope, rules.limits)?;
    let said = envelope.route().partition;
    if said != rules.partition {
        return Err(OpenFault::Misrouted { said, here: rules.partition });
    }
    let records = read_lines(&plain)?;
    let said = envelope.route().records;
    if usize::try_from(said) != Ok(records.len()) {
        return Err(OpenFault::Count { said, held: records.len() });
    }
    let action = envelope.route().action;
    if action != Action::Delete && records.iter().any(|record| record.data.is_none()) {
        return Err(OpenFault::NoData { action });
    }
    Ok(Content { envelope, records, bytes: plain.len() })
}
