//! What the consumer reads of the configuration: which tables of a shared queue it applies, and into what.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Section, Span, Tagged};
use syncline_shared::journal;
use syncline_shared::pace::Pace;
use syncline_shared::script::{DEFAULT_SCRIPT_MS_MAX, SCRIPT_MS_MAX, Script, SyntaxError};
use syncline_shared::seal::OpenLimits;

use crate::target::TableMap;
use crate::target::postgres::PostgresTargetConfig;
use crate::target::sqlite::SqliteTargetConfig;

/// Plaintext of one message, when opened: four times the largest batch a producer makes.
const DEFAULT_PLAIN_BYTES_MAX: usize = 32 * 1024 * 1024;
/// A target gains little from larger transactions. A partition holds two groups of this size, one being applied and one
/// read ahead, and a record takes about four times its plaintext while it is applied.
const DEFAULT_APPLY_BYTES_MAX: usize = 256 * 1024;
/// The same for small records.
const DEFAULT_APPLY_RECORDS_MAX: u32 = 2000;
/// Enough to keep a partition busy while the target commits; full batches of 128 KiB make 2 MiB per partition.
const DEFAULT_PREFETCH: u16 = 16;

/// `[subscription.NAME]`: which tables of a shared queue are applied, and into what.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SubscriptionConfig {
    /// The shared queue.
    pub queue: String,
    /// The target.
    pub target: String,
    /// From one time the queue is received to the next, `15m`; 1s to 24h. Default: it is received all the time.
    #[serde(default)]
    pub interval: Option<Span>,
    /// How long to wait before the target is tried again when it takes no more for now, `5m`; 1s to 15m. Default: growing
    /// waits of up to 10 s.
    #[serde(default)]
    pub delay: Option<Span>,
    /// `[subscription.NAME.table.TABLE]`: where each table goes. Without any, every table goes under its own name.
    #[serde(default)]
    pub table: BTreeMap<String, TableConfig>,
    /// What becomes of tables that are not listed: `dead_letter` (default; replay them once they are) or `skip`.
    #[serde(default)]
    pub unlisted: Unlisted,
    /// Whether batches without encryption and authentication (`None`, `Base64`) are applied. Default false.
    #[serde(default)]
    pub accept_unsealed: bool,
    /// Bytes of one message when opened; a longer one is set aside. 1024 or more, default 33554432.
    #[serde(default = "default_plain_bytes_max")]
    pub plain_bytes_max: usize,
    /// Bytes of plaintext applied in one transaction, about: it ends with the message that reaches it. 1024 or more,
    /// default 262144.
    #[serde(default = "default_apply_bytes_max")]
    pub apply_bytes_max: usize,
    /// Records applied in one transaction, about; 1 to 100000, default 2000.
    #[serde(default = "default_apply_records_max")]
    pub apply_records_max: u32,
    /// Messages received ahead per partition; 1 to 1000, default 16.
    #[serde(default = "default_prefetch")]
    pub prefetch: u16,
}

const fn default_plain_bytes_max() -> usize {
    DEFAULT_PLAIN_BYTES_MAX
}

const fn default_apply_bytes_max() -> usize {
    DEFAULT_APPLY_BYTES_MAX
}

const fn default_apply_records_max() -> u32 {
    DEFAULT_APPLY_RECORDS_MAX
}

const fn default_prefetch() -> u16 {
    DEFAULT_PREFETCH
}

/// `[subscription.NAME.table.TABLE]`: where one table goes.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SubscribedTable")]
pub struct TableConfig {
    /// The target's table; default the same name.
    pub into: Option<String>,
    /// Target column by record column; only these are applied, key columns always. Default all, under the same names.
    pub columns: Option<BTreeMap<String, String>>,
    /// JavaScript that sees each record before it is applied, and may change its columns, its action (`psp_action`) or
    /// withhold it (`ignore = true`); default none. Sees the columns under the names they came with.
    pub before_subscribe: Option<String>,
    /// Milliseconds of processor time the script may take for one record; 1 to 10000, default 50. A record on which it
    /// takes longer goes to the dead letters.
    pub script_ms_max: u64,
}

impl Default for TableConfig {
    fn default() -> Self {
        Self { into: None, columns: None, before_subscribe: None, script_ms_max: DEFAULT_SCRIPT_MS_MAX }
    }
}

impl TableConfig {
    /// Every value out of its range.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let in_range = (1..=SCRIPT_MS_MAX).contains(&self.script_ms_max);
        let text = || format!("{} is out of range; 1 to {SCRIPT_MS_MAX}", self.script_ms_max);
        (!in_range).then(|| ("script_ms_max", text())).into_iter().collect()
    }

    /// Compiles the script, if there is one. Apart from [`validate`](Self::validate), for its faults have a place.
    ///
    /// # Errors
    /// Where it is no JavaScript.
    pub fn compile_script(&self) -> Result<Option<Script>, SyntaxError> {
        let time_max = Duration::from_millis(self.script_ms_max);
        self.before_subscribe.as_deref().map(|source| Script::compile(source, time_max)).transpose()
    }
}

/// What becomes of a table nobody subscribed to.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unlisted {
    /// Its messages are set aside, and can be replayed once it is listed.
    #[default]
    DeadLetter,
    /// Its messages are dropped and counted.
    Skip,
}

impl SubscriptionConfig {
    /// Every value out of its range: the field, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if self.plain_bytes_max < 1024 {
            problems.push(("plain_bytes_max", format!("{} is out of range; 1024 or more", self.plain_bytes_max)));
        }
        if self.apply_bytes_max < 1024 {
            problems.push(("apply_bytes_max", format!("{} is out of range; 1024 or more", self.apply_bytes_max)));
        }
        if !(1..=100_000).contains(&self.apply_records_max) {
            problems.push(("apply_records_max", format!("{} is out of range; 1 to 100000", self.apply_records_max)));
        }
        if !(1..=1000).contains(&self.prefetch) {
            problems.push(("prefetch", format!("{} is out of range; 1 to 1000", self.prefetch)));
        }
        problems.extend(self.pace().validate());
        problems
    }

    /// When the queue is received.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        Pace { interval: self.interval, delay: self.delay }
    }

    /// What the subscription accepts of a sealed body.
    #[must_use]
    pub const fn limits(&self) -> OpenLimits {
        OpenLimits { plain_bytes_max: self.plain_bytes_max, accept_unsealed: self.accept_unsealed }
    }

    /// A target table of the subscription; empty when it lists none.
    #[must_use]
    pub fn any_table(&self) -> String {
        let first = self.table.iter().next();
        first.map_or_else(String::new, |(name, table)| table.into.clone().unwrap_or_else(|| name.clone()))
    }

    /// Where the records of a table go; `None` when it is not listed.
    #[must_use]
    pub fn map(&self, source: &str, table: &str) -> Option<TableMap> {
        let listed = self.table.get(table);
        if listed.is_none() && !self.table.is_empty() {
            return None;
        }
        let config = listed.cloned().unwrap_or_default();
        Some(TableMap {
            source: source.to_owned(),
            table: table.to_owned(),
            into: config.into.unwrap_or_else(|| table.to_owned()),
            columns: config.columns,
        })
    }
}

/// `[consumer]`: the service itself.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerConfig {
    /// Address and port of `/metrics`, `/healthz` and `/readyz`; port 0 takes a free one and logs it. Default
    /// `127.0.0.1:9188`: loopback, so that nothing is shown to a network nobody chose.
    pub http: SocketAddr,
    /// Milliseconds to finish what is in flight after SIGTERM. Default 20000.
    pub grace_ms: u64,
    /// Names this replica among its like; default a random name.
    pub replica: Option<String>,
    /// Entries of the journal that `syncline trace` asks; 0 to 1000000, 0 (the default) is off. One is about 200 bytes.
    pub journal: u32,
}

impl ConsumerConfig {
    /// Every value out of its range: the field, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        journal::check(self.journal).map(|problem| ("journal", problem)).into_iter().collect()
    }
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self { http: SocketAddr::from(([127, 0, 0, 1], 9188)), grace_ms: 20_000, replica: None, journal: 0 }
    }
}

/// `[target.NAME]`: a system records are applied to.
#[derive(Clone, Debug, JsonSchema)]
#[schemars(tag = "type", rename_all = "lowercase")]
pub enum TargetConfig {
    /// A PostgreSQL database.
    Postgres(PostgresTargetConfig),
    /// An SQLite file.
    Sqlite(SqliteTargetConfig),
}

impl Tagged for TargetConfig {
    const TYPES: &'static [&'static str] = &["postgres", "sqlite"];

    fn read(kind: &str, section: Section<'_, '_>) -> Option<Self> {
        match kind {
            "postgres" => section.read().map(Self::Postgres),
            _ => section.read().map(Self::Sqlite),
        }
    }
}
