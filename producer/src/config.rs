//! What the producer reads of the configuration.

use std::net::SocketAddr;

use serde::Deserialize;
use syncline_shared::config::{Section, Tagged};

use crate::batch::BatchConfig;
use crate::publish::PublishConfig;
use crate::source::postgres::PostgresSourceConfig;
use crate::source::sqlite::SqliteSourceConfig;

/// `[producer]`: the service itself.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProducerConfig {
    /// Address and port of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one and logs it. Default
    /// `127.0.0.1:9187`: loopback, so that nothing is shown to a network nobody chose.
    pub http: SocketAddr,
    /// Milliseconds to finish what is in flight after SIGTERM. Default 20000.
    pub grace_ms: u64,
    /// `[producer.batch]`: when batches close.
    pub batch: BatchConfig,
    /// `[producer.publish]`: how far publishing runs ahead of the broker's confirms.
    pub publish: PublishConfig,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 9187)),
            grace_ms: 20_000,
            batch: BatchConfig::default(),
            publish: PublishConfig::default(),
        }
    }
}

impl ProducerConfig {
    /// Every value out of its range: the key's path below `producer`, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<(String, String)> {
        let batch = self.batch.validate().into_iter().map(|(key, problem)| (format!("batch.{key}"), problem));
        let publish = self.publish.validate().into_iter().map(|(key, problem)| (format!("publish.{key}"), problem));
        batch.chain(publish).collect()
    }
}

/// `[source.NAME]`: a system changes are read from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A PostgreSQL database, by logical replication.
    Postgres(PostgresSourceConfig),
    /// An SQLite file, by triggers.
    Sqlite(SqliteSourceConfig),
}

impl Tagged for SourceConfig {
    const TYPES: &'static [&'static str] = &["postgres", "sqlite"];

    fn read(kind: &str, section: Section<'_, '_>) -> Option<Self> {
        match kind {
            "postgres" => section.read().map(Self::Postgres),
            _ => section.read().map(Self::Sqlite),
        }
    }
}
