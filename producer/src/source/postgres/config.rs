//! The settings of a PostgreSQL source.

use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Secret, Span};
use syncline_shared::pace::Pace;
use syncline_shared::postgres::PostgresAddress;
use syncline_shared::tls::TlsConfig;

use crate::source::{SessionRule, Tables};

/// An idle database gives its log free this often; rare enough to cost nothing.
const DEFAULT_HEARTBEAT_INTERVAL_MS: u64 = 10_000;

/// More than any healthy producer leaves, less than most disks have to spare.
const DEFAULT_RETAINED_WAL_WARN_BYTES: u64 = 10 * 1024 * 1024 * 1024;

/// Each heartbeat writes a record to the log of somebody else's database.
const HEARTBEAT_INTERVAL_MS_MIN: u64 = 100;

/// The limit of PostgreSQL for the names of slots and publications.
const NAME_BYTES_MAX: usize = 63;

/// A PostgreSQL database changes are read from, by logical replication.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PostgresSourceConfig {
    /// `postgres://user@host:port/database`, one host; `?sslmode=disable` turns TLS off.
    pub url: String,
    /// The password. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// File of the password, read anew on every connection. Default: none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsConfig,
    /// The replication slot, made at the first start; lowercase letters, digits and `_`. Default: `syncline_<source>`.
    #[serde(default)]
    pub slot: Option<String>,
    /// The publication, made at the first start. Default: `syncline_<source>`.
    #[serde(default)]
    pub publication: Option<String>,
    /// Tables that extend each other, `[source.NAME.table.TABLE]`. Default: none.
    #[serde(default, rename = "table")]
    pub tables: Tables,
    /// Tells persons from jobs where the application sends no session message. Default: such a change is a job's.
    #[serde(default)]
    pub session: Option<SessionRule>,
    /// From one time it is read to the next, `15m`; 1s to 24h. Default: it is read all the time.
    #[serde(default)]
    pub interval: Option<Span>,
    /// How long to wait before the broker is tried again when it takes no more messages, `5m`; 1s to 15m. Default: growing
    /// waits of up to 10 s.
    #[serde(default)]
    pub delay: Option<Span>,
    /// Milliseconds without a change after which the source writes a mark, so that an idle database gives its log free;
    /// at least 100. Default: 10,000.
    #[serde(default = "default_heartbeat_interval_ms")]
    pub heartbeat_interval_ms: u64,
    /// Bytes of log the server keeps for the slot from which on that is warned of, once; the source stays ready.
    /// Default: 10 GiB.
    #[serde(default = "default_retained_wal_warn_bytes")]
    pub retained_wal_warn_bytes: u64,
}

const fn default_retained_wal_warn_bytes() -> u64 {
    DEFAULT_RETAINED_WAL_WARN_BYTES
}

const fn default_heartbeat_interval_ms() -> u64 {
    DEFAULT_HEARTBEAT_INTERVAL_MS
}

impl PostgresSourceConfig {
    /// Everything wrong with these settings of the source of this name.
    #[must_use]
    pub fn validate(&self, source: &str) -> Vec<FieldProblem> {
        let address = self.address();
        let mut problems = address.validate();
        if let Ok(parsed) = address.parse() {
            if parsed.get_hosts().len() > 1 || parsed.get_hostaddrs().len() > 1 {
                problems.push(("url", "names several hosts; one, the primary".to_owned()));
            }
            if parsed.get_user().is_none() {
                problems.push(("url", "names no user; postgres://user@host:port/database".to_owned()));
            }
        }
        if !is_slot_name(&self.slot_name(source)) {
            let accepted = "at most 63 lowercase letters, digits and _, no digit first";
            problems.push(("slot", format!("{:?} is no name of a slot; {accepted}", self.slot_name(source))));
        }
        let publication = self.publication_name(source);
        if publication.is_empty() || publication.len() > NAME_BYTES_MAX {
            problems.push(("publication", format!("{publication:?} is no name of a publication; 1 to 63 bytes")));
        }
        problems.extend(self.session.as_ref().and_then(SessionRule::validate));
        problems.extend(self.pace().validate());
        if self.heartbeat_interval_ms < HEARTBEAT_INTERVAL_MS_MIN {
            let (given, accepted) = (self.heartbeat_interval_ms, HEARTBEAT_INTERVAL_MS_MIN);
            problems.push(("heartbeat_interval_ms", format!("{given} is out of range; {accepted} or more")));
        }
        problems
    }

    /// When the source is read.
    pub(super) const fn pace(&self) -> Pace {
        Pace { interval: self.interval, delay: self.delay }
    }

    pub(super) fn address(&self) -> PostgresAddress {
        PostgresAddress {
            url: self.url.clone(),
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            tls: self.tls.clone(),
        }
    }

    pub(super) fn slot_name(&self, source: &str) -> String {
        self.slot.clone().unwrap_or_else(|| default_name(source))
    }

    pub(super) fn publication_name(&self, source: &str) -> String {
        self.publication.clone().unwrap_or_else(|| default_name(source))
    }

    pub(super) const fn heartbeat_interval(&self) -> Duration {
        Duration::from_millis(self.heartbeat_interval_ms)
    }
}

fn default_name(source: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '_' };
    format!("syncline_{}", source.chars().map(plain).collect::<String>())
}

fn is_slot_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    // The replication command takes the name unquoted, so it must not begin with a digit.
    let starts = name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    starts && name.len() <= NAME_BYTES_MAX && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> PostgresSourceConfig {
        serde_json::from_str(json).expect("valid settings")
    }

    #[test]
    fn names_come_from_the_source_unless_given() {
        let plain = config(r#"{"url":"postgres://u@localhost/db"}"#);
        assert_eq!(plain.slot_name("Service-Desk 2"), "syncline_service_desk_2");
        assert_eq!(plain.validate("Service-Desk 2"), []);
        let named = config(r#"{"url":"postgres://u@localhost/db","slot":"mine","publication":"Mine"}"#);
        assert_eq!((named.slot_name("x"), named.publication_name("x")), ("mine".to_owned(), "Mine".to_owned()));
    }

    #[test]
    fn every_problem_is_named_at_once() {
        let bad = config(
            r#"{"url":"postgres://u@a,b/db?sslmode=disable","slot":"1-X","publication":"","heartbeat_interval_ms":1,"password":"x",
                "password_file":"y","tls":{"ca_file":"absent"},"session":{"user_column":""}}"#,
        );
        let fields: Vec<_> = bad.validate("x").into_iter().map(|(field, _)| field).collect();
        let expected = [
            "password_file",
            "tls.ca_file",
            "url",
            "slot",
            "publication",
            "session.user_column",
            "heartbeat_interval_ms",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn unknown_settings_are_refused() {
        assert!(
            serde_json::from_str::<PostgresSourceConfig>(r#"{"url":"postgres://u@localhost/db","slott":"x"}"#).is_err()
        );
    }
}
