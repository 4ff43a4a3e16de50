//! The settings of a PostgreSQL target.

use std::path::PathBuf;

use crate::target::SchemaMode;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Secret};
use syncline_shared::postgres::PostgresAddress;
use syncline_shared::tls::TlsConfig;

/// A statement of a call writes at most a call's records, which takes well below a second; a minute is a server in trouble.
const DEFAULT_STATEMENT_TIMEOUT_MS: u32 = 60_000;

/// Long enough for the short transactions beside this one, short enough to notice a forgotten one.
const DEFAULT_LOCK_TIMEOUT_MS: u32 = 10_000;

/// The largest time PostgreSQL takes.
const TIMEOUT_MS_MAX: u32 = i32::MAX.unsigned_abs();

/// A PostgreSQL target, as configured.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
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
    /// long counts as a broken connection. 1 to 2147483647, default 60000.
    #[serde(default = "default_statement_timeout_ms")]
    pub statement_timeout_ms: u32,
    /// Milliseconds a statement waits for a lock that another session holds; then the records are tried again. At least
    /// 1 and below `statement_timeout_ms`, default 10000.
    #[serde(default = "default_lock_timeout_ms")]
    pub lock_timeout_ms: u32,
}

impl PostgresTargetConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems = self.address().validate();
        let (statement, lock) = (self.statement_timeout_ms, self.lock_timeout_ms);
        if !(1..=TIMEOUT_MS_MAX).contains(&statement) {
            problems.push(("statement_timeout_ms", format!("{statement} is out of range; 1 to {TIMEOUT_MS_MAX}")));
        }
        if lock == 0 {
            problems.push(("lock_timeout_ms", "0 is out of range; 1 or more".to_owned()));
        } else if lock >= statement {
            let problem = format!("{lock} never comes into effect; below statement_timeout_ms ({statement})");
            problems.push(("lock_timeout_ms", problem));
        }
        problems
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(settings: &str) -> Vec<&'static str> {
        let config: PostgresTargetConfig = serde_json::from_str(settings).expect("settings");
        config.validate().into_iter().map(|(field, _)| field).collect()
    }

    #[test]
    fn every_problem_is_named_at_once() {
        assert_eq!(fields(r#"{"url":"postgres://u@localhost/db"}"#), Vec::<&str>::new());
        let bad = r#"{"url":"mysql://x","password":"a","password_file":"b","statement_timeout_ms":0}"#;
        assert_eq!(fields(bad), ["url", "password_file", "statement_timeout_ms", "lock_timeout_ms"]);
        let long = r#"{"url":"postgres://u@localhost/db","statement_timeout_ms":5000,"lock_timeout_ms":5000}"#;
        assert_eq!(fields(long), ["lock_timeout_ms"]);
        let never = r#"{"url":"postgres://u@localhost/db","statement_timeout_ms":3000000000,"lock_timeout_ms":0}"#;
        assert_eq!(fields(never), ["statement_timeout_ms", "lock_timeout_ms"]);
    }
}
