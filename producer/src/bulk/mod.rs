//! Bulk shares: the records of a share as they are at one place of the source's log, beside the stream of its changes.
//!
//! The story: somebody asks ([`put_order`]), which is noted in the source's state; the producer that reads the source
//! takes it up (`keeper`), reads the table part by part (`run`), and what was read goes through a pipeline of its own
//! (`feed`) as changes with the action `bulk`. How far it is, is noted once it is at the broker, so that it goes on
//! from there after a stop or a crash, with a new snapshot and newer versions. Knows no particular source ([`Stock`]).

mod config;
#[cfg(test)]
pub(crate) mod contract;
mod feed;
mod keeper;
mod ledger;
#[cfg(test)]
mod memory;
mod order;
mod plan;
mod run;
mod schedule;
mod stock;
#[cfg(test)]
mod tests;
mod throttle;

pub use config::{BulkConfig, GroupConfig, Schedule, ScheduleConfig};
pub use keeper::{BulkShare, BulkShares};
pub use ledger::{Keys, Ledger, cancel, put_order, put_order_of};
pub use order::{Entry, Key, Member, Order, Phase, Range, Run};
pub use schedule::Times;
pub use stock::{Bite, Opened, Rows, Stock, Want, When};

use syncline_shared::health::Health;
use syncline_shared::queue::Broker;
use syncline_shared::tasks::TaskGroup;
use tokio::sync::{mpsc, watch};

use crate::config::ProducerConfig;
use crate::metrics::Metrics;
use crate::outlet::Outlets;
use crate::pipeline;
use feed::{Feed, SharedBoard};
use keeper::Keeper;

/// Portions of rows that were read and not yet decided about.
const NEWS: usize = 4;

/// A bulk share may hold a quarter of the memory the stream may: it has no hurry, and the stream goes first.
const PART_OF_MEMORY: usize = 4;

/// Starts to look after the bulk shares of one source; connects to the broker when the first one is taken up.
pub fn start<K: Stock, B: Broker>(
    tasks: &mut TaskGroup,
    (stock, bulk): (K, BulkShares),
    outlets: Outlets,
    broker: B,
    config: &ProducerConfig,
    metrics: &Metrics,
    health: &Health,
) {
    let (news, read) = mpsc::channel(NEWS);
    let (wanted, board) = (watch::Sender::new(false), SharedBoard::default());
    let feed = Feed::new(stock.clone(), read, board.clone(), wanted.subscribe());
    let keeper = Keeper::new(stock, bulk, news, board, wanted, health.clone());
    tasks.spawn("bulk shares", keeper.run(tasks.stop()));
    pipeline::start(tasks, feed, outlets, broker, &smaller(config), metrics, health);
}

fn smaller(config: &ProducerConfig) -> ProducerConfig {
    let mut config = config.clone();
    let (batch, publish) = (&mut config.batch, &mut config.publish);
    batch.open_bytes_max = (batch.open_bytes_max / PART_OF_MEMORY).max(batch.batch_bytes_max);
    publish.window_bytes_max /= PART_OF_MEMORY;
    publish.window_messages = publish.window_messages.div_ceil(PART_OF_MEMORY);
    config
}

/// Reads a condition that records of one bulk share must fit.
///
/// # Errors
/// What is wrong with it.
pub fn check_query(text: &str) -> Result<(), String> {
    run::query(text).map(drop)
}
