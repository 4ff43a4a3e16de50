//! The producer: reads changes from a source, decides by shares what leaves and in which form, seals and publishes it.
//!
//! The story is in [`pipeline`]; each step has a room of its own. Knows nothing of the consumer.

pub mod batch;
pub mod bulk;
pub mod checkpoint;
pub mod config;
pub mod journal;
pub mod metrics;
mod offer;
pub mod outlet;
pub mod pipeline;
pub mod publish;
#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;
pub mod share;
pub mod source;
mod span;
mod split;
pub mod trial;
