//! Connecting to PostgreSQL, the same way for sources and targets.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use rustls::ClientConfig;
use thiserror::Error;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::class::Class;
use crate::config::{FieldProblem, Secret};
use crate::tls::{TlsConfig, TlsError};

/// The prefix of the logical message a target writes at the start of each of its transactions, so that a source of the
/// same database does not share them again. It costs no replication origin, of which a server has only a few.
pub const APPLIED_MESSAGE: &str = "syncline-applied";

/// A server that does not answer within this time is out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a PostgreSQL database is and how to log in.
#[derive(Clone, Debug)]
pub struct PostgresAddress {
    /// `postgres://user@host:port/database`; `?sslmode=disable` turns TLS off.
    pub url: String,
    /// The password, unless it stands in the file.
    pub password: Option<Secret>,
    /// File of the password, read anew on every connection.
    pub password_file: Option<PathBuf>,
    /// Certificates.
    pub tls: TlsConfig,
}

/// What a connection is made from: the parsed address with the password filled in, and TLS unless it is off.
pub struct ConnectPlan {
    /// The parsed address.
    pub config: Config,
    /// TLS; `None` for loopback and Unix sockets and where `sslmode=disable` says so.
    pub tls: Option<ClientConfig>,
}

/// A connection that could not be made.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The address is no PostgreSQL URL.
    #[error("the url is not of the form postgres://user@host:port/database")]
    Url,
    /// The password file cannot be read.
    #[error("the password file cannot be read")]
    Password(#[source] std::io::Error),
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server does not answer, or refuses.
    #[error("no connection")]
    Connect(#[source] tokio_postgres::Error),
}

impl ConnectError {
    /// A server that is starting, full or away is transient; refused credentials and bad settings are systemic.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Url | Self::Password(_) | Self::Tls(_) => Class::Systemic,
            Self::Connect(error) => match error.code().map(tokio_postgres::error::SqlState::code) {
                // Class 28: invalid authorization; 3D000: no such database; 42501: no privilege.
                Some(code) if code.starts_with("28") || code == "3D000" || code == "42501" => Class::Systemic,
                Some(_) | None => Class::Transient,
            },
        }
    }
}

impl PostgresAddress {
    /// Host, port and database for messages: never the password.
    #[must_use]
    pub fn display(&self) -> String {
        let Ok(config) = self.parse() else { return "an invalid url".to_owned() };
        let host = match config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            #[cfg(unix)]
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "localhost".to_owned(),
        };
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let database = config.get_dbname().or_else(|| config.get_user()).unwrap_or_default();
        format!("{host}:{port}/{database}")
    }

    /// Parses the url, without the password of the other keys.
    ///
    /// # Errors
    /// [`ConnectError::Url`], systemic.
    pub fn parse(&self) -> Result<Config, ConnectError> {
        Config::from_str(&self.url).map_err(|_| ConnectError::Url)
    }

    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.parse().is_err() {
            problems.push(("url", "is no address of PostgreSQL; postgres://user@host:port/database".to_owned()));
        }
        problems.extend(Secret::validate_password(self.password.as_ref(), self.password_file.as_deref()));
        problems.extend(self.tls.validate());
        problems
    }

    /// Parses the address and reads password and certificates.
    ///
    /// TLS with verification is on unless the host is a loopback address or a Unix socket, or the URL says
    /// `sslmode=disable`; there is no unverified mode.
    ///
    /// # Errors
    /// [`ConnectError`], systemic.
    pub fn plan(&self) -> Result<ConnectPlan, ConnectError> {
        let mut config = self.parse()?;
        let password = Secret::resolve(self.password.as_ref(), self.password_file.as_deref());
        if let Some(password) = password.map_err(ConnectError::Password)? {
            config.password(password.expose());
        }
        config.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(Duration::from_secs(30));
        let local = config.get_hosts().iter().all(|host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
            #[cfg(unix)]
            Host::Unix(_) => true,
        });
        let asked = config.get_ssl_mode();
        let off = asked == SslMode::Disable || (local && asked == SslMode::Prefer);
        config.ssl_mode(if off { SslMode::Disable } else { SslMode::Require });
        let tls = if off { None } else { Some(self.tls.client()?) };
        Ok(ConnectPlan { config, tls })
    }

    /// Connects. The connection ends when the client is dropped.
    ///
    /// # Errors
    /// [`ConnectError`]; its class says whether trying again helps.
    pub async fn connect(&self, application_name: &str) -> Result<Client, ConnectError> {
        let ConnectPlan { mut config, tls } = self.plan()?;
        config.application_name(application_name);
        match tls {
            None => {
                let (client, connection) = config.connect(NoTls).await.map_err(ConnectError::Connect)?;
                drive(connection);
                Ok(client)
            }
            Some(tls) => {
                let tls = MakeRustlsConnect::new(tls);
                let (client, connection) = config.connect(tls).await.map_err(ConnectError::Connect)?;
                drive(connection);
                Ok(client)
            }
        }
    }
}

/// Runs a connection's I/O until its client is dropped; a failure shows at the client's next call.
fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends with its client, which reports every failure")]
    tokio::spawn(async move {
        if let Err(cause) = connection.await {
            tracing::debug!(cause = %cause, "a postgresql connection ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> PostgresAddress {
        PostgresAddress { url: url.to_owned(), password: None, password_file: None, tls: TlsConfig::default() }
    }

    #[test]
    fn a_remote_server_is_reached_by_verified_tls_unless_switched_off() {
        let mode = |url: &str| address(url).plan().map(|plan| plan.tls.is_some()).ok();
        assert_eq!(mode("postgres://u@127.0.0.1:5432/db"), Some(false));
        assert_eq!(mode("postgres://u@localhost/db"), Some(false));
        assert_eq!(mode("postgres://u@db.example/db?sslmode=disable"), Some(false));
        assert_ne!(mode("postgres://u@db.example/db"), Some(false));
        assert_ne!(mode("postgres://u@127.0.0.1/db?sslmode=require"), Some(false));
    }

    #[test]
    fn the_displayed_address_has_no_password() {
        assert_eq!(address("postgres://u:secret@db.example:5433/crm").display(), "db.example:5433/crm");
        assert_eq!(address("secret").display(), "an invalid url");
    }
}
