//! Reading dead letters, and choosing among them.

use syncline_shared::queue::{Broker, DeadLetter, QueueError};

use crate::cli::{Filter, Selection};
use crate::config::Config;
use crate::failure::Failure;
use crate::queue::{OnBroker, on_broker, unavailable};

/// Dead letters looked through in one call; more are left for the next one.
pub(super) const LOOK_MAX: usize = 10_000;

/// The dead letters of one shared queue, oldest first.
pub(crate) struct Letters {
    pub queue: String,
    pub letters: Vec<DeadLetter>,
}

/// Reads the dead letters of the shared queue with this name, or of all.
pub(crate) async fn read(config: &Config, queue: Option<&str>) -> Result<Vec<Letters>, Failure> {
    struct Read<'a>(Option<&'a str>);
    impl OnBroker for Read<'_> {
        type Output = Vec<Letters>;

        async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Self::Output, Failure> {
            let mut all = Vec::new();
            for queue in config.shared_queues.keys().filter(|name| self.0.is_none_or(|queue| queue == *name)) {
                let letters = match broker.dead_letters(queue, LOOK_MAX).await {
                    Ok(letters) => letters,
                    // One that nobody made yet has none.
                    Err(QueueError::Missing { .. }) => Vec::new(),
                    Err(error) => return Err(unavailable(&error)),
                };
                all.push(Letters { queue: queue.clone(), letters });
            }
            Ok(all)
        }
    }
    if let Some(queue) = queue
        && !config.shared_queues.contains_key(queue)
    {
        let known: Vec<_> = config.shared_queues.keys().map(String::as_str).collect();
        return Err(Failure::Other(format!("there is no shared queue {queue:?}; known: {}", known.join(", "))));
    }
    on_broker(Read(queue), config).await
}

impl Filter {
    /// Whether a letter fits every filter that is set.
    pub(super) fn fits(&self, letter: &DeadLetter) -> bool {
        let is =
            |wanted: &Option<String>, has: Option<&str>| wanted.as_deref().is_none_or(|wanted| has == Some(wanted));
        is(&self.queue, Some(&letter.queue))
            && is(&self.table, letter.message.table())
            && is(&self.share, letter.message.share())
            && self.reason.is_none_or(|reason| reason == letter.reason)
            && self.since.is_none_or(|since| letter.at >= since)
            && self.before.is_none_or(|before| letter.at < before)
    }
}

impl Selection {
    /// Whether a letter is chosen.
    pub(super) fn takes(&self, letter: &DeadLetter) -> bool {
        if self.ids.is_empty() { self.filter.fits(letter) } else { self.ids.iter().any(|id| id == letter.id()) }
    }

    /// An error that names the ids of which there is no dead letter.
    pub(super) fn missed(&self, all: &[Letters]) -> Result<(), Failure> {
        let known = |id: &&String| all.iter().flat_map(|of| &of.letters).any(|letter| letter.id() == *id);
        let unknown: Vec<_> = self.ids.iter().filter(|id| !known(id)).map(String::as_str).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        Err(Failure::Other(format!("there is no dead letter {}; see `syncline dead-letter list`", unknown.join(", "))))
    }
}
