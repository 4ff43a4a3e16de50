//! Connecting to PostgreSQL, the same way for sources and targets.

use std::error::Error as _;
use std::net::IpAddr;
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
use crate::tls::{self, TlsConfig, TlsError};

/// The prefix of the logical message a target writes at the start of each of its transactions, so that a source of the
/// same database does not share them again. It costs no replication origin, of which a server has only a few.
pub const APPLIED_MESSAGE: &str = "syncline-applied";

/// A server that does not answer within this time is out of reach.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a PostgreSQL database is and how to log in.
#[derive(Clone, Debug)]
pub struct PostgresAddress {
    /// `postgres://user@host:port/database`; `?sslmode=disable` turns TLS off, `require`, `verify-ca` and `verify-full`
    /// turn it on for a local server too, always with verification.
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
    /// The server is there, and no verified connection to it can be had.
    #[error("tls with the server failed: {problem}")]
    Handshake {
        /// What is wrong, and what mends it.
        problem: String,
    },
    /// The server does not answer, or refuses.
    #[error("no connection")]
    Connect(#[source] tokio_postgres::Error),
}

impl ConnectError {
    fn of(error: tokio_postgres::Error) -> Self {
        let offers_none = error.source().is_some_and(|cause| cause.to_string() == "server does not support TLS");
        let no_tls = "it offers none; turn ssl on there, or write sslmode=disable for a plain connection";
        match tls::handshake_fault(&error).or_else(|| offers_none.then(|| no_tls.to_owned())) {
            Some(problem) => Self::Handshake { problem },
            None => Self::Connect(error),
        }
    }

    /// A server that is starting, full or away is transient; refused credentials and bad settings are systemic.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Url | Self::Password(_) | Self::Tls(_) | Self::Handshake { .. } => Class::Systemic,
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
        let host = match (config.get_hosts().first(), config.get_hostaddrs().first()) {
            (Some(Host::Tcp(host)), _) => host.clone(),
            #[cfg(unix)]
            (Some(Host::Unix(path)), _) => path.display().to_string(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "localhost".to_owned(),
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
        // The library does not know these two. There is no unverified TLS here, so they mean what `require` means.
        let known = |option| match option {
            "sslmode=verify-full" | "sslmode=verify-ca" => "sslmode=require",
            other => other,
        };
        let url = match self.url.split_once('?') {
            Some((address, options)) => {
                format!("{address}?{}", options.split('&').map(known).collect::<Vec<_>>().join("&"))
            }
            None => self.url.clone(),
        };
        Config::from_str(&url).map_err(|_| ConnectError::Url)
    }

    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        match self.parse() {
            Ok(parsed) if parsed.get_hosts().is_empty() && parsed.get_hostaddrs().is_empty() => {
                problems.push(("url", "names no host; postgres://user@host:port/database".to_owned()));
            }
            Ok(_) => {}
            Err(_) => {
                problems.push(("url", "is no address of PostgreSQL; postgres://user@host:port/database".to_owned()));
            }
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
        let local = is_local(&config);
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
                let (client, connection) = config.connect(NoTls).await.map_err(ConnectError::of)?;
                drive(connection);
                Ok(client)
            }
            Some(tls) => {
                let tls = MakeRustlsConnect::new(tls);
                let (client, connection) = config.connect(tls).await.map_err(ConnectError::of)?;
                drive(connection);
                Ok(client)
            }
        }
    }
}

/// Whether all traffic stays on this machine. An address in `hostaddr` is what is connected to, whatever the name says.
fn is_local(config: &Config) -> bool {
    let loopback = |ip: &IpAddr| ip.to_canonical().is_loopback();
    if !config.get_hostaddrs().is_empty() {
        return config.get_hostaddrs().iter().all(loopback);
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip| loopback(&ip)),
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

/// Runs a connection's I/O until its client is dropped; a failure shows at the client's next call.
fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) {
    #[expect(clippy::disallowed_methods, reason = "ends with its client, which reports every failure")]
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a postgresql connection ended");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> PostgresAddress {
        PostgresAddress { url: url.to_owned(), password: None, password_file: None, tls: TlsConfig::default() }
    }

    /// Whether this url means TLS; a machine without authorities fails where it would be used.
    fn uses_tls(url: &str) -> bool {
        match address(url).plan() {
            Ok(plan) => plan.tls.is_some(),
            Err(ConnectError::Tls(_)) => true,
            Err(error) => panic!("{url}: {error}"),
        }
    }

    #[test]
    fn a_remote_server_is_reached_by_verified_tls_unless_switched_off() {
        for url in [
            "postgres://u@127.0.0.1:5432/db",
            "postgres://u@localhost/db",
            "postgres://u@[::1]:5432/db",
            "postgres://u@[::ffff:127.0.0.1]/db",
            "postgres://u@%2Fvar%2Frun%2Fpostgresql/db",
            "postgres://u@db.example/db?sslmode=disable",
            "postgres://u@db.example/db?hostaddr=127.0.0.1",
            "postgres://u@/db?hostaddr=::1",
        ] {
            assert!(!uses_tls(url), "{url}");
        }
        for url in [
            "postgres://u@db.example/db",
            "postgres://u@192.0.2.1/db",
            "postgres://u@[2001:db8::1]/db",
            "postgres://u@localhost,db.example/db",
            "postgres://u@localhost/db?hostaddr=192.0.2.1",
            "postgres://u@localhost/db?hostaddr=2001:db8::1",
        ] {
            assert!(uses_tls(url), "{url}");
        }
    }

    #[test]
    fn every_mode_that_asks_for_tls_turns_it_on_for_a_local_server_too() {
        for mode in ["require", "verify-ca", "verify-full"] {
            assert!(uses_tls(&format!("postgres://u@127.0.0.1/db?connect_timeout=3&sslmode={mode}")), "{mode}");
        }
        assert!(matches!(address("postgres://u@localhost/db?sslmode=allow").plan(), Err(ConnectError::Url)));
    }

    #[test]
    fn an_address_without_a_host_is_a_problem() {
        let fields = |url: &str| address(url).validate().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(fields("postgres://u@/db"), ["url"]);
        assert_eq!(fields("mysql://u@localhost/db"), ["url"]);
        assert_eq!(fields("postgres://u@/db?hostaddr=192.0.2.1&sslmode=verify-full"), Vec::<&str>::new());
    }

    #[test]
    fn the_displayed_address_has_no_password() {
        assert_eq!(address("postgres://u:secret@db.example:5433/crm").display(), "db.example:5433/crm");
        assert_eq!(address("secret").display(), "an invalid url");
    }
}
