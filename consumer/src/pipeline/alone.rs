//! Messages that may be what ends the consumer: opened and applied alone, with a count of the tries kept in the target.
//!
//! The broker counts how often a message came again, but it does so for all that was received ahead: what a killed consumer
//! had in its hands are one culprit at most and many innocents. The count here is of the one message that was being tried
//! when the consumer ended. It is written before and taken back after, also when the target fails in between.

use syncline_shared::queue::Broker;
use syncline_shared::retry::Backoff;
use syncline_shared::tasks::Stop;

use super::Partition;
use crate::open::{OpenFault, Opened, open_alone};
use crate::target::{ApplyError, TRIES_PARKED, Target};

/// Twice may be chance: a machine that goes down while the target takes its time.
const TRIES_ALONE_MAX: u32 = 3;

/// A message that is tried alone.
pub(super) struct Try {
    message: String,
    /// How often it was tried before.
    tries: u32,
}

impl<B: Broker, T: Target> Partition<B, T> {
    /// Opens a message that is tried alone, unless it was often enough; `None` when the shutdown came first.
    pub(super) async fn open_suspect(&mut self, opened: &mut Opened, stop: &mut Stop) -> Option<Try> {
        let mut backoff = Backoff::default();
        let message = opened.id().to_owned();
        let this = loop {
            let begun = match self.target.tries(&self.beside, &message).await {
                Ok(tries) => {
                    let this = Try { message: message.clone(), tries };
                    let is_tried = tries < TRIES_ALONE_MAX;
                    let begun = if is_tried { self.begin_try(Some(&this)).await } else { Ok(()) };
                    begun.map(|()| this)
                }
                Err(error) => Err(error),
            };
            match begun {
                Ok(this) => break this,
                Err(error) => self.part.pause(error.class(), &error),
            }
            self.metrics.reconnects("target").inc();
            stop.or(backoff.wait()).await?;
        };
        opened.content = match this.tries {
            TRIES_PARKED.. => Err(OpenFault::ByHand),
            tries @ TRIES_ALONE_MAX.. => Err(OpenFault::Deadly { tries }),
            _ => {
                self.load_keys();
                open_alone(opened.delivery.message().clone(), self.keyring.clone(), self.rules.clone()).await
            }
        };
        Some(this)
    }

    /// Counts a try before it is made.
    pub(super) async fn begin_try(&mut self, alone: Option<&Try>) -> Result<(), ApplyError> {
        match alone {
            Some(Try { message, tries }) if *tries < TRIES_ALONE_MAX => {
                self.target.set_tries(&self.beside, message, tries + 1).await
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Takes back the count of a try that ended without ending the consumer. Where that fails one is counted too many.
    pub(super) async fn end_try(&mut self, alone: Option<&Try>) {
        if let Some(Try { message, tries }) = alone {
            let _ = self.target.set_tries(&self.beside, message, *tries).await;
        }
    }

    /// Forgets the tries of a message that is settled. Where that fails a row stays behind that nobody asks for again.
    pub(super) async fn forget_try(&mut self, alone: Option<&Try>) {
        if let Some(Try { message, .. }) = alone {
            let _ = self.target.set_tries(&self.beside, message, 0).await;
        }
    }

    /// Whether an operator wants a message set aside. A target that does not answer is asked again later.
    pub(super) async fn is_parked_by_hand(&mut self, message: &str) -> bool {
        matches!(self.target.tries(&self.beside, message).await, Ok(TRIES_PARKED..))
    }
}
