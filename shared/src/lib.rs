//! What both ends of Syncline agree on, and the kit both services run on.
//!
//! The agreement: a [`record`], its [`envelope`], how it is sealed ([`seal`]) and how it travels ([`queue`]). The kit:
//! [`config`], [`class`], [`retry`], [`metrics`], [`tasks`], [`health`], [`script`], [`http`], [`journal`], [`notify`], [`pace`], [`tls`], [`traces`], [`postgres`]. Depends on neither end.

pub mod admin;
pub mod class;
pub mod config;
pub mod envelope;
pub mod expiry;
pub mod health;
pub mod http;
pub mod journal;
pub mod metrics;
pub mod notify;
pub mod pace;
pub mod postgres;
pub mod queue;
pub mod record;
#[cfg(test)]
#[path = "../../fuzz/replay.rs"]
mod replay;
pub mod retry;
pub mod script;
pub mod seal;
pub mod sqlite;
pub mod tasks;
pub mod tls;
pub mod traces;
