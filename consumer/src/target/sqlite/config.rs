//! The settings of a SQLite target.

use std::path::PathBuf;
use std::time::Duration;

use crate::target::SchemaMode;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;

/// A call's transaction takes some ten milliseconds, so even the last of many partitions gets its turn well before.
const DEFAULT_BUSY_TIMEOUT_MS: u32 = 5_000;

/// A SQLite target, as configured.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqliteTargetConfig {
    /// The database file, on a local disk. It is put into WAL mode.
    pub path: PathBuf,
    /// What happens where the file, a table or a column is missing. Default: `strict`.
    #[serde(default)]
    pub schema: SchemaMode,
    /// Milliseconds a call waits while another connection writes; then the records are tried again. 0 does not wait,
    /// default 5000.
    #[serde(default = "default_busy_timeout_ms")]
    pub busy_timeout_ms: u32,
}

impl SqliteTargetConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let empty = || ("path", "is empty; the path of a file".to_owned());
        self.path.as_os_str().is_empty().then(empty).into_iter().collect()
    }

    /// The file, for messages.
    pub(super) fn address(&self) -> String {
        self.path.display().to_string()
    }

    pub(super) fn evolves(&self) -> bool {
        self.schema == SchemaMode::Evolve
    }

    pub(super) fn busy_timeout(&self) -> Duration {
        Duration::from_millis(u64::from(self.busy_timeout_ms))
    }
}

const fn default_busy_timeout_ms() -> u32 {
    DEFAULT_BUSY_TIMEOUT_MS
}
