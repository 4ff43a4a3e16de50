//! What would leave for one change: the pipeline's own steps from the shares to the seal, and nothing is sent.
//!
//! For a person who asks what a share does. Knows neither source nor broker. Fails where the pipeline would pause.

use syncline_shared::envelope::Envelope;
use syncline_shared::seal::{SealError, seal};

use crate::config::ProducerConfig;
use crate::offer::Offers;
use crate::outlet::Outlets;
use crate::source::Change;

/// One message that would be published.
#[derive(Debug)]
pub struct Message {
    /// The shared queue.
    pub queue: String,
    /// As it would be handed to the broker, but for its id.
    pub envelope: Envelope,
    /// The record's line before it was sealed.
    pub line: Vec<u8>,
    /// Set when it would go to the dead letters instead, for this reason.
    pub set_aside: Option<String>,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TrialError(#[from] Fault);

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Unfit(#[from] crate::offer::UnfitShare),
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// Asks every share about a change, and seals what leaves.
///
/// # Errors
/// A share names a column the record lacks, or nothing can be sealed.
pub fn try_out(outlets: Outlets, change: &Change, config: &ProducerConfig) -> Result<Vec<Message>, TrialError> {
    let mut offers = Offers::new(outlets, config.batch, config.publish.record_bytes_max);
    offers.offer(change, 0).map_err(Fault::from)?;
    offers.close_all();
    let mut messages = Vec::new();
    while let Some(job) = offers.next_job() {
        let envelope = seal(&job.seal, job.route.clone(), &job.ndjson).map_err(Fault::from)?;
        let (queue, line, set_aside) = (job.queue.to_string(), job.ndjson, job.set_aside.map(|why| why.error));
        messages.push(Message { queue, envelope, line, set_aside });
    }
    Ok(messages)
}
