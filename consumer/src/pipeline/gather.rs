//! What is there to receive: opened, and bounded.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::Timestamp;
use syncline_shared::queue::{QueueError, Subscriber};
use syncline_shared::seal::Keyring;
use syncline_shared::tasks::Stop;

use crate::config::SubscriptionConfig;
use crate::open::{OpenRules, Opened, open};

/// What was there to receive.
pub(super) enum Gathered {
    /// One message at least.
    Messages(Vec<Opened>),
    /// None came in time.
    Nothing,
    /// No more will come.
    Closed,
}

/// Receives and opens what is there: one message at least, for which it has so much patience, then as many as wait already,
/// up to the bounds. Each is opened before the next is taken, for only then its size is known.
pub(super) async fn gather(
    subscriber: &mut impl Subscriber,
    config: &SubscriptionConfig,
    keyring: &Arc<Keyring>,
    rules: &OpenRules,
    patience: Option<Duration>,
    stop: &mut Stop,
) -> Result<Gathered, QueueError> {
    let mut group = Vec::new();
    let first = async {
        match patience {
            None => Some(subscriber.receive().await),
            Some(Duration::ZERO) => None,
            Some(patience) => tokio::time::timeout(patience, subscriber.receive()).await.ok(),
        }
    };
    let mut next = match stop.or(first).await {
        None => return Ok(Gathered::Closed),
        Some(None) => return Ok(Gathered::Nothing),
        Some(Some(first)) => first?,
    };
    let (mut bytes, mut records) = (0, 0_u32);
    while let Some(delivery) = next {
        records = records.saturating_add(delivery.message().records());
        let opened = open(delivery, keyring.clone(), rules.clone()).await;
        bytes += opened.bytes();
        group.push(opened);
        if bytes >= config.apply_bytes_max || records >= config.apply_records_max {
            break;
        }
        next = match subscriber.receive().now_or_never() {
            Some(received) => received?,
            None => None,
        };
    }
    Ok(if group.is_empty() { Gathered::Closed } else { Gathered::Messages(group) })
}

/// When the newest of these messages was sealed, as far as they tell.
pub(super) fn newest(messages: &[Opened]) -> Option<Timestamp> {
    let sealed = messages.iter().filter_map(|message| message.delivery.message().timestamp).max();
    Timestamp::from_second(sealed?.try_into().ok()?).ok()
}
