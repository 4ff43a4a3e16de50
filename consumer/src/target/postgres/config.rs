//! The settings of a PostgreSQL target.

use std::path::PathBuf;

use serde::Deserialize;
use syncline_shared::config::Secret;
use syncline_shared::postgres::PostgresAddress;
use syncline_shared::tls::TlsConfig;

/// A statement of a call writes at most a call's records, which takes well below a second; a minute is a server in trouble.
const DEFAULT_STATEMENT_TIMEOUT_MS: u32 = 60_000;

/// Long enough for the short transactions beside this one, short enough to notice a forgotten one.
const DEFAULT_LOCK_TIMEOUT_MS: u32 = 10_000;

/// A PostgreSQL target, as configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresTargetConfig {
    /// `postgres://user@host:port/database`; TLS is on unless the host is local or the URL says `sslmode=disable`.
    pub url: String,
    /// The password. Not together with `password_file`.
    pub password: Option<Secret>,
    /// File that holds the password; read anew on every connection.
    pub password_file: Option<PathBuf>,
    /// Certificates; without any, the system's authorities are trusted.
    #[serde(default)]
    pub tls: TlsConfig,
    /// What happens where a table or column is missing. Default: `strict`.
    #[serde(default)]
    pub schema: SchemaMode,
    /// Milliseconds after which PostgreSQL cancels a statement; the records are tried again. A call that takes twice as
    /// long counts as a broken connection. At least 1, default 60000.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u32,
    /// Milliseconds a statement waits for a lock that another session holds; then the records are tried again. At least
    /// 1 and below `statement_timeout_ms`, default 10000.
    #[serde(default = "default_lock_timeout_ms")]
    pub lock_timeout_ms: u32,
}

/// What happens where a table or column is missing.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum SchemaMode {
    /// The partition pauses and says what to create; nothing is lost.
    #[default]
    Strict,
    /// It is created, with types as far as the records tell: numeric, boolean, bytea, else text.
    Evolve,
}

impl PostgresTargetConfig {
    /// Where to connect to.
    pub(super) fn address(&self) -> PostgresAddress {
        PostgresAddress {
            url: self.url.clone(),
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls.clone(),
        }
    }
}

const fn default_statement_timeout_ms() -> u32 {
    DEFAULT_STATEMENT_TIMEOUT_MS
}

const fn default_lock_timeout_ms() -> u32 {
    DEFAULT_LOCK_TIMEOUT_MS
}
