//! What the producer reads of the configuration.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Section, Tagged};
use syncline_shared::journal;

use crate::batch::BatchConfig;
use crate::bulk::BulkConfig;
use crate::publish::PublishConfig;
use crate::source::postgres::PostgresSourceConfig;
use crate::source::sqlite::SqliteSourceConfig;
use crate::source::{SessionRule, Tables};

/// `[producer]`: the service itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProducerConfig {
    /// Address and port of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one and logs it. Default
    /// `127.0.0.1:9187`: loopback, so that nothing is shown to a network nobody chose.
    pub http: SocketAddr,
    /// Milliseconds to finish what is in flight after SIGTERM. Default 20000.
    pub grace_ms: u64,
    /// Entries of the journal that `syncline trace` asks; 0 to 1000000, 0 (the default) is off. One is about 250 bytes.
    pub journal: u32,
    /// `[producer.batch]`: when batches close.
    pub batch: BatchConfig,
    /// `[producer.publish]`: how far publishing runs ahead of the broker's confirms.
    pub publish: PublishConfig,
    /// `[producer.bulk]`: how bulk shares are executed.
    pub bulk: BulkConfig,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            http: SocketAddr::from(([127, 0, 0, 1], 9187)),
            grace_ms: 20_000,
            journal: 0,
            batch: BatchConfig::default(),
            publish: PublishConfig::default(),
            bulk: BulkConfig::default(),
        }
    }
}

impl ProducerConfig {
    /// Every value out of its range that no table within it reports: the field, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        journal::check(self.journal).map(|problem| ("journal", problem)).into_iter().collect()
    }
}

/// `[source.NAME]`: a system changes are read from.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "lowercase")]
pub enum SourceConfig {
    /// A PostgreSQL database, by logical replication.
    Postgres(PostgresSourceConfig),
    /// An SQLite file, by triggers.
    Sqlite(SqliteSourceConfig),
}

impl SourceConfig {
    /// Everything wrong with the settings of the source of this name.
    #[must_use]
    pub fn validate(&self, name: &str) -> Vec<FieldProblem> {
        match self {
            Self::Postgres(source) => source.validate(name),
            Self::Sqlite(source) => source.validate(),
        }
    }

    /// Its tables that extend each other.
    #[must_use]
    pub const fn tables(&self) -> &Tables {
        match self {
            Self::Postgres(source) => &source.tables,
            Self::Sqlite(source) => &source.tables,
        }
    }

    /// How it tells persons from jobs by a column.
    #[must_use]
    pub const fn session(&self) -> Option<&SessionRule> {
        match self {
            Self::Postgres(source) => source.session.as_ref(),
            Self::Sqlite(source) => source.session.as_ref(),
        }
    }

    /// Whether the source can tell who made a change.
    #[must_use]
    pub const fn tells_sessions(&self) -> bool {
        match self {
            // A session message may stand in any transaction.
            Self::Postgres(_) => true,
            Self::Sqlite(source) => source.session.is_some(),
        }
    }
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
