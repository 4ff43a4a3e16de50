//! Turns received messages into records: envelope, seal, lines, and the script of their table. CPU work, off the I/O
//! threads unless it is quick.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_shared::class::Class;
use syncline_shared::envelope::{Envelope, EnvelopeError, Message};
use syncline_shared::queue::{Delivery, Reason};
use syncline_shared::record::{Action, LineError, Record, read_lines};
use syncline_shared::seal::{self, Keyring, OpenError, OpenLimits};
use syncline_shared::traces::Receipt;
use thiserror::Error;

use crate::script::{Made, Scripts, Stopped};

/// From the second time that a message comes again. Once is what every restart does to all that was received ahead.
const SUSPECT_ATTEMPTS: u32 = 2;

/// What a partition accepts, and what it makes of that.
#[derive(Clone, Debug)]
pub(crate) struct OpenRules {
    /// The partition it receives.
    pub partition: u32,
    /// Bounds and ciphers.
    pub limits: OpenLimits,
    /// What records are run through, if anything.
    pub scripts: Option<Arc<Scripts>>,
}

/// A message on its way through the consumer.
#[derive(Debug)]
pub(crate) struct Opened {
    /// To settle it.
    pub delivery: Delivery,
    /// It is opened and applied alone.
    pub is_suspect: bool,
    /// What its span is made from.
    pub receipt: Receipt,
    /// Its records, or why there are none.
    pub content: Result<Content, OpenFault>,
}

/// An opened message.
#[derive(Debug)]
pub(crate) struct Content {
    /// Its clear properties, authenticated now.
    pub envelope: Envelope,
    /// Its records, in order, as their script left them.
    pub records: Vec<Record>,
    /// What the script made of each; empty without one.
    pub made: Vec<Made>,
    /// Bytes of its plaintext, and of what the script wrote.
    pub bytes: usize,
}

/// A message that cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenFault {
    /// Its clear properties are not those of an envelope.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// It was tried before and the consumer ended; it is opened alone.
    #[error("not opened yet")]
    Suspect,
    /// The shutdown came before its records were through their script; it comes again.
    #[error("not through its script yet")]
    Stopped,
    /// It was tried alone as often as it may be, and the consumer ended each time.
    #[error("tried alone {tries} times, and the consumer ended each time")]
    Deadly {
        /// How often.
        tries: u32,
    },
    /// An operator wants it set aside.
    #[error("set aside by `dead-letter park`")]
    ByHand,
    /// Its body is not what was sealed under this key: damaged, forged, or sealed with another secret.
    #[error("the batch does not open under its key")]
    Refused {
        /// The id of the key.
        key: String,
    },
    /// Its body does not open.
    #[error(transparent)]
    Seal(OpenError),
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
            Self::Suspect | Self::Stopped => Class::Transient,
            Self::Deadly { .. }
            | Self::ByHand
            | Self::Refused { .. }
            | Self::Lines(_)
            | Self::Count { .. }
            | Self::NoData { .. }
            | Self::Misrouted { .. } => Class::Permanent,
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
            Self::Suspect | Self::Stopped | Self::Deadly { .. } => Reason::Crash,
            Self::ByHand
            | Self::Refused { .. }
            | Self::Seal(OpenError::Refused | OpenError::UnknownKey { .. } | OpenError::Unsealed { .. }) => {
                Reason::Seal
            }
        }
    }
}

impl Opened {
    /// A message that was received. One that came to no end at least twice may be what ends the consumer: it is left
    /// closed, to be tried alone.
    fn received(delivery: Delivery) -> Self {
        let is_suspect = delivery.attempts() >= SUSPECT_ATTEMPTS && Envelope::from_message(delivery.message()).is_ok();
        Self { delivery, is_suspect, receipt: Receipt::now(), content: Err(OpenFault::Suspect) }
    }

    /// Bytes it holds, about: of its plaintext, or of its body where that is not opened.
    pub(crate) fn bytes(&self) -> usize {
        self.content.as_ref().map_or_else(|_| self.delivery.message().body.len(), |content| content.bytes)
    }

    /// Its id; messages of which it matters have one.
    pub(crate) fn id(&self) -> &str {
        self.delivery.message().message_id.as_deref().unwrap_or_default()
    }

    /// The id of the key it opened under.
    pub(crate) fn opened_under(&self) -> Option<&str> {
        let envelope = self.content.as_ref().ok().map(|content| &content.envelope)?;
        envelope.cipher().is_keyed().then(|| envelope.key())
    }
}

/// Opens a received message, unless it is to be tried alone: at once where that is quick, else on the blocking pool.
pub(crate) async fn open(delivery: Delivery, keyring: Arc<Keyring>, rules: OpenRules) -> Opened {
    let mut opened = Opened::received(delivery);
    if opened.is_suspect {
        return opened;
    }
    let message = opened.delivery.message();
    let is_quick = |envelope: &Envelope| rules.scripts.is_none() && envelope.cipher().is_quick(message.body.len());
    match Envelope::from_message(message) {
        Ok(envelope) if !is_quick(&envelope) => {
            opened.content = blocking(move || open_one(envelope, &keyring, &rules)).await;
        }
        Ok(envelope) => opened.content = open_one(envelope, &keyring, &rules),
        Err(error) => opened.content = Err(error.into()),
    }
    opened
}

/// Opens again those messages that did not open with the keys there were.
pub(crate) async fn open_again(
    mut messages: VecDeque<Opened>,
    keyring: Arc<Keyring>,
    rules: OpenRules,
) -> VecDeque<Opened> {
    blocking(move || {
        for message in &mut messages {
            if !message.is_suspect && matches!(message.content, Err(OpenFault::Refused { .. } | OpenFault::Seal(_))) {
                message.content = open_message(message.delivery.message(), &keyring, &rules);
            }
        }
        messages
    })
    .await
}

/// Opens one message on the blocking pool.
pub(crate) async fn open_alone(
    message: Message,
    keyring: Arc<Keyring>,
    rules: OpenRules,
) -> Result<Content, OpenFault> {
    blocking(move || open_message(&message, &keyring, &rules)).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

fn open_message(message: &Message, keyring: &Keyring, rules: &OpenRules) -> Result<Content, OpenFault> {
    open_one(Envelope::from_message(message)?, keyring, rules)
}

fn open_one(envelope: Envelope, keyring: &Keyring, rules: &OpenRules) -> Result<Content, OpenFault> {
    let plain = seal::open(keyring, &envelope, rules.limits).map_err(|error| match error {
        OpenError::Refused if envelope.cipher().is_keyed() => OpenFault::Refused { key: envelope.key().to_owned() },
        OpenError::Refused
        | OpenError::UnknownKey { .. }
        | OpenError::Unsealed { .. }
        | OpenError::Compression
        | OpenError::TooLarge { .. } => OpenFault::Seal(error),
    })?;
    let said = envelope.route().partition;
    if said != rules.partition {
        return Err(OpenFault::Misrouted { said, here: rules.partition });
    }
    let mut records = read_lines(&plain)?;
    let said = envelope.route().records;
    if usize::try_from(said) != Ok(records.len()) {
        return Err(OpenFault::Count { said, held: records.len() });
    }
    let action = envelope.route().action;
    if action != Action::Delete && records.iter().any(|record| record.data.is_none()) {
        return Err(OpenFault::NoData { action });
    }
    let (made, written) = match &rules.scripts {
        Some(scripts) => {
            scripts.run(&envelope.route().table, action, &mut records).map_err(|Stopped| OpenFault::Stopped)?
        }
        None => (Vec::new(), 0),
    };
    Ok(Content { envelope, records, made, bytes: plain.len() + written })
}
