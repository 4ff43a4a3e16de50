//! The consumer, the replicator subscriber: opens sealed batches of a shared queue and applies them to a target.
//!
//! The story is in [`pipeline`]; each step has a room of its own. Knows nothing of the producer.

pub mod config;
pub mod journal;
pub mod metrics;
mod open;
pub mod pipeline;
mod run;
mod script;
mod settle;
pub mod target;
mod trust;
