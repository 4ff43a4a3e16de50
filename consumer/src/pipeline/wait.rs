//! Whether a message has to wait: its key is not known here, nothing shows that the secret is right, it is not sealed.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_shared::class::Class;
use syncline_shared::queue::Broker;
use syncline_shared::tasks::Stop;
use thiserror::Error;

use super::Partition;
use crate::open::{OpenFault, Opened, open_again, open_alone};
use crate::target::Target;

/// Why a partition waits at a message, and the way past it.
#[derive(Debug, Error)]
#[error("{why}; to set the message aside: syncline dead-letter park {message}")]
pub(super) struct Waits {
    why: String,
    message: String,
}

impl<B: Broker, T: Target> Partition<B, T> {
    /// Decides about an opened message; `None` to go on with it. One that has to wait is first tried with the keys as they
    /// are configured now.
    pub(super) async fn waits(
        &mut self,
        opened: &mut Opened,
        behind: &mut VecDeque<Opened>,
        stop: &mut Stop,
    ) -> Option<Waits> {
        let is_closed = matches!(opened.content, Err(OpenFault::Refused { .. } | OpenFault::Seal(_)));
        if is_closed && !opened.is_suspect {
            // A key that was added or mended since is no fault: what was gathered before was opened without it.
            self.load_keys();
            let message = opened.delivery.message().clone();
            opened.content = open_alone(message, self.keyring.clone(), self.rules.clone()).await;
            *behind = open_again(std::mem::take(behind), self.keyring.clone(), self.rules.clone()).await;
        }
        let why = self.why(opened, behind)?;
        if let Err(OpenFault::Refused { key }) = &opened.content
            && self.is_proven_by_suspects(key, behind, stop).await
        {
            return None;
        }
        let message = opened.id().to_owned();
        if self.is_parked_by_hand(&message).await {
            opened.content = Err(OpenFault::ByHand);
            return None;
        }
        Some(Waits { why, message })
    }

    /// Reads the keys as they are configured now.
    pub(super) fn load_keys(&mut self) {
        self.keyring = Arc::new((self.load_keyring)());
    }

    /// Whether a message of this key opens among those that are tried alone and are closed until then.
    async fn is_proven_by_suspects(&mut self, key: &str, behind: &mut VecDeque<Opened>, stop: &mut Stop) -> bool {
        for message in behind.iter_mut().filter(|message| message.is_suspect) {
            let Some(tried) = self.open_suspect(message, stop).await else { return false };
            self.end_try(Some(&tried)).await;
            if message.opened_under() == Some(key) {
                return true;
            }
        }
        false
    }

    fn why(&mut self, opened: &Opened, behind: &VecDeque<Opened>) -> Option<String> {
        match &opened.content {
            Ok(_) => {
                if let Some(key) = opened.opened_under() {
                    self.trust.opened(key);
                }
                None
            }
            Err(OpenFault::Refused { key }) => {
                let is_damaged = self.trust.is_damaged(key, behind.iter().filter_map(Opened::opened_under));
                let why = || {
                    format!(
                        "no message sealed with key {key:?} opens: the secret here is not the one the producer has, or \
                         the message is damaged"
                    )
                };
                (!is_damaged).then(why)
            }
            // The shutdown is no fault to wait for.
            Err(OpenFault::Stopped) => None,
            Err(fault) if fault.class() != Class::Permanent => Some(fault.to_string()),
            Err(_) => None,
        }
    }
}
