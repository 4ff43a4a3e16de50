//! Both kinds of connection to the server, and what their failures mean.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgwire_replication::{Lsn, PgWireError, ReplicationClient, ReplicationConfig, TlsConfig as WireTls};
use syncline_shared::class::Class;
use syncline_shared::postgres::{ConnectError, ConnectPlan, PostgresAddress};
use syncline_shared::tls::AuthoritiesFile;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use super::config::PostgresSourceConfig;
use super::values::{SESSION_SETTINGS, identifier};
use crate::source::{SourceError, WatchedTable};

/// How the server names this program in `pg_stat_activity`.
const APPLICATION_NAME: &str = "syncline";

/// Rows the transport reads ahead: enough to keep it busy while others are handled, few enough for large ones.
pub(super) const EVENTS_AHEAD_MAX: usize = 16;

/// The largest message of the stream; one row is one message. Above it the source stops rather than the process.
const MESSAGE_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A server that does not answer a statement within this time is out of reach.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a moved position is reported to the server at most; what a crash repeats grows with it.
pub(super) const STATUS_INTERVAL: Duration = Duration::from_millis(100);

/// What a role needs, but for the right to replicate; the server's message says on what it is missing.
const GRANTS: &str = "GRANT SELECT on the shared tables, USAGE on their schema and on schema syncline, and SELECT, INSERT, \
    UPDATE, DELETE on syncline.state; only its owner can add a table to a publication";

/// Everything about a source that does not change while it runs.
#[derive(Debug)]
pub(super) struct Settings {
    /// The source's name.
    pub(super) source: String,
    /// As configured.
    pub(super) config: PostgresSourceConfig,
    /// The address of both kinds of connection.
    pub(super) address: PostgresAddress,
    /// The replication slot.
    pub(super) slot: String,
    /// The publication.
    pub(super) publication: String,
    /// The tables the shares want.
    pub(super) tables: Vec<WatchedTable>,
    /// What the latest replication connection trusts; its library reads it at some time while it connects.
    authorities: Mutex<Option<AuthoritiesFile>>,
}

impl Settings {
    pub(super) fn new(source: &str, config: PostgresSourceConfig, tables: Vec<WatchedTable>) -> Self {
        Self {
            source: source.to_owned(),
            address: config.address(),
            slot: config.slot_name(source),
            publication: config.publication_name(source),
            config,
            tables,
            authorities: Mutex::new(None),
        }
    }

    /// Opens a connection for SQL with the session settings of [`SESSION_SETTINGS`] and without time limits.
    pub(super) async fn sql(&self) -> Result<Client, SourceError> {
        let client = self.address.connect(APPLICATION_NAME).await.map_err(|error| self.unconnected(error))?;
        let mut statements = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0".to_owned();
        for (name, value) in SESSION_SETTINGS {
            statements.push_str(&format!("; SET {name} = '{value}'"));
        }
        client.batch_execute(&statements).await.map_err(|error| self.failed("session settings", &error))?;
        Ok(client)
    }

    /// Bounds the time of something the server answers at once when it is well.
    pub(super) async fn answered<T>(
        self: Arc<Self>,
        asking: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let answer = timeout(ANSWER_TIMEOUT, asking).await;
        answer.unwrap_or_else(|_| Err(self.unreachable("the server does not answer")))
    }

    /// Opens a connection for replication that waits for commands; `start` is where its stream will begin, zero for the
    /// slot's own position.
    pub(super) async fn replication(&self, start: u64) -> Result<ReplicationClient, SourceError> {
        let config = self.replication_config(start)?;
        ReplicationClient::connect_gated(config).await.map_err(|error| self.broken(&error))
    }

    fn replication_config(&self, start: u64) -> Result<ReplicationConfig, SourceError> {
        let ConnectPlan { config, tls } = self.address.plan().map_err(|error| self.unconnected(error))?;
        let name = match config.get_hosts() {
            [] => None,
            [Host::Tcp(name)] => Some(name.clone()),
            #[cfg(unix)]
            [Host::Unix(path)] => Some(path.display().to_string()),
            [_, ..] => return Err(self.refused("the url names several hosts; name the primary alone".to_owned())),
        };
        // Where both are given, the address is connected to, and the certificate must be for the name.
        let address = config.get_hostaddrs().first().map(ToString::to_string);
        let host = address.or_else(|| name.clone()).unwrap_or_else(|| "localhost".to_owned());
        let user = config.get_user().ok_or_else(|| self.refused("the url names no user".to_owned()))?;
        let password = str::from_utf8(config.get_password().unwrap_or_default())
            .map_err(|_| self.refused("the password is not UTF-8".to_owned()))?;
        let database = config.get_dbname().unwrap_or(user);
        let options: Vec<_> = SESSION_SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let wire_tls = if tls.is_some() { self.wire_tls(name)? } else { WireTls::disabled() };
        // The server takes a list of names, which it folds to lowercase unless quoted.
        let publication = identifier(&self.publication);
        Ok(ReplicationConfig::new(host, user, password, database, &self.slot, publication)
            .with_port(config.get_ports().first().copied().unwrap_or(5432))
            .with_tls(wire_tls)
            .with_start_lsn(Lsn(start))
            .with_status_interval(STATUS_INTERVAL)
            .with_buffer_size(EVENTS_AHEAD_MAX)
            .with_max_message_size(MESSAGE_BYTES_MAX)
            .with_options(options.join(" "))
            .with_application_name(APPLICATION_NAME))
    }

    /// The same certificates and the same verification as for SQL: an IP address too is held against the certificate.
    fn wire_tls(&self, name: Option<String>) -> Result<WireTls, SourceError> {
        let files = &self.address.tls;
        let authorities = files.authorities_file().map_err(|error| self.unconnected(error.into()))?;
        let mut tls = WireTls::verify_full(Some(authorities.path().to_owned()));
        *self.authorities.lock().unwrap_or_else(PoisonError::into_inner) = Some(authorities);
        if let Some(name) = name {
            tls = tls.with_sni_hostname(name);
        }
        Ok(match (&files.cert_file, &files.key_file) {
            (Some(cert), Some(key)) => tls.with_client_cert(cert, key),
            (None | Some(_), None) | (None, Some(_)) => tls,
        })
    }

    /// A connection that could not be made.
    fn unconnected(&self, error: ConnectError) -> SourceError {
        match (error.class(), &error) {
            (Class::Systemic, ConnectError::Connect(cause)) => self.refused(server_message(cause)),
            (Class::Systemic, _) => self.refused(error.to_string()),
            (Class::Transient | Class::Permanent, _) => {
                SourceError::Unreachable { address: self.address.display(), cause: error.into() }
            }
        }
    }

    /// A statement about tables, slots and the like that failed; their messages hold no record values.
    pub(super) fn failed(&self, doing: &str, error: &tokio_postgres::Error) -> SourceError {
        match error.code() {
            Some(code) => self.by_code(doing, code.code(), &server_message(error)),
            None => self.unreachable(&error.to_string()),
        }
    }

    /// A statement that reads records and failed; the message may quote a value and is left out.
    pub(super) fn failed_reading(&self, doing: &str, error: &tokio_postgres::Error) -> SourceError {
        match error.code() {
            // It names the object alone.
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => self.failed(doing, error),
            Some(code) => self.by_code(doing, code.code(), &format!("SQLSTATE {}", code.code())),
            None => self.unreachable(&error.to_string()),
        }
    }

    /// A replication connection or command that failed.
    pub(super) fn broken(&self, error: &PgWireError) -> SourceError {
        match error {
            PgWireError::Server(message) => {
                let code = message.split("SQLSTATE ").nth(1).and_then(|rest| rest.get(..5)).unwrap_or_default();
                self.by_code("replication", code, message)
            }
            PgWireError::Auth(problem) | PgWireError::Tls(problem) => self.refused(problem.clone()),
            PgWireError::MessageTooLarge { payload_bytes, .. } => SourceError::Protocol {
                problem: format!(
                    "one row of {payload_bytes} bytes, more than the {MESSAGE_BYTES_MAX} a message may have"
                ),
            },
            PgWireError::Io(_) | PgWireError::Protocol(_) | PgWireError::Task(_) | PgWireError::Internal(_) | _ => {
                self.unreachable(&error.to_string())
            }
        }
    }

    fn by_code(&self, doing: &str, code: &str, message: &str) -> SourceError {
        match code {
            "42501" => self.refused(format!("{doing}: {message}; mend it with: {GRANTS}")),
            "53400" => SourceError::Unfit {
                problem: format!("no replication slot or sender is left: {message}"),
                mend: "raise max_replication_slots and max_wal_senders in postgresql.conf and restart".to_owned(),
            },
            // Held by another producer; or made at this moment, by another one that starts.
            "55006" | "42710" | "23505" => self.taken(),
            // The slot was invalidated, or the slot or publication dropped, while its changes were awaited.
            "55000" | "42704" if doing == "replication" => self.gap(message),
            _ if code.starts_with("28") || code == "3D000" => self.refused(message.to_owned()),
            // A lock that was not to be had, connection, resources, serialization, operator intervention.
            "55P03" => self.unreachable(message),
            _ if ["08", "53", "40", "57"].iter().any(|class| code.starts_with(class)) => self.unreachable(message),
            _ => SourceError::Protocol { problem: format!("{doing}: {message}") },
        }
    }

    /// No connection, or it broke.
    pub(super) fn unreachable(&self, cause: &str) -> SourceError {
        SourceError::Unreachable { address: self.address.display(), cause: cause.into() }
    }

    /// Another producer holds the slot.
    pub(super) fn taken(&self) -> SourceError {
        SourceError::Taken { address: self.address.display() }
    }

    /// Access is not allowed, or the address cannot be used.
    pub(super) fn refused(&self, problem: String) -> SourceError {
        SourceError::Refused { address: self.address.display(), problem }
    }

    /// Changes are lost, with the way to start over.
    pub(super) fn gap(&self, problem: &str) -> SourceError {
        let source = &self.source;
        SourceError::Gap {
            problem: format!("{problem}; for a new slot and new copies run: syncline source rebuild {source}"),
        }
    }
}

fn server_message(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |server| server.message().to_owned())
}
