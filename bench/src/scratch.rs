//! What a workload makes on the servers: databases with their slots and subscriptions, a virtual host, a folder. All of it
//! carries one name, by which [`remove`] finds it again, however the workload ended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use syncline_shared::config::Secret;
use syncline_shared::postgres::PostgresAddress;
use syncline_shared::tls::TlsConfig;
use tokio_postgres::Client;

use crate::Result;

/// Where the servers are.
#[derive(Clone, Debug)]
pub(crate) struct Servers {
    /// `postgres://..` of a superuser.
    pub postgres: String,
    /// `amqp://..` of an administrator.
    pub rabbitmq: String,
    /// `http://..` of RabbitMQ's management interface, with the same login.
    pub api: String,
}

/// What one workload has on the servers.
pub(crate) struct Scratch<'a> {
    servers: &'a Servers,
    name: String,
    folder: tempfile::TempDir,
}

impl<'a> Scratch<'a> {
    /// Makes a virtual host and a folder.
    pub(crate) fn create(servers: &'a Servers, name: &str) -> Result<Self> {
        manage(servers, "PUT", &format!("vhosts/{name}"))?;
        let folder = tempfile::tempdir()?;
        // Nobody else's to read, as a key has to be.
        let mut key = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.path().join("key"))?;
        key.write_all(b"no secret: the key of a benchmark\n")?;
        Ok(Self { servers, name: name.to_owned(), folder })
    }

    /// Makes a database, as a copy of another one that nobody is connected to.
    pub(crate) async fn database(&self, suffix: &str, like: Option<&Database>) -> Result<Database> {
        let database = self.named(suffix);
        let like = like.map(|like| format!(" TEMPLATE {} STRATEGY file_copy", like.name)).unwrap_or_default();
        connect(&self.servers.postgres)
            .await?
            .batch_execute(&format!("CREATE DATABASE {}{like}", database.name))
            .await?;
        Ok(database)
    }

    fn named(&self, suffix: &str) -> Database {
        let name = format!("{}_{suffix}", self.name);
        Database { url: with_path(&self.servers.postgres, &name), name }
    }

    /// The virtual host.
    pub(crate) fn rabbitmq(&self) -> String {
        with_path(&self.servers.rabbitmq, &self.name)
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A database of a workload.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Its name, and that of whatever is made for it: slots are of the whole server.
    pub name: String,
    /// `postgres://..`
    pub url: String,
}

impl Database {
    /// Connects.
    pub(crate) async fn connect(&self) -> Result<Client> {
        connect(&self.url).await
    }
}

/// Removes everything of that name: subscriptions first, for they hold databases and slots.
pub(crate) async fn remove(servers: &Servers, name: &str) -> Result<()> {
    let broker = manage(servers, "DELETE", &format!("vhosts/{name}"));
    let admin = connect(&servers.postgres).await?;
    let like = format!("{}\\_%", name.replace('_', "\\_"));
    let databases = admin.query("SELECT datname FROM pg_database WHERE datname LIKE $1", &[&like]).await?;
    let databases: Vec<String> = databases.iter().map(|row| row.get(0)).collect();
    for database in &databases {
        let client = connect(&with_path(&servers.postgres, database)).await?;
        let own = "SELECT subname::text FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()";
        for row in client.query(own, &[]).await? {
            let name: String = row.get(0);
            for what in ["DISABLE", "SET (slot_name = NONE)"] {
                client.batch_execute(&format!("ALTER SUBSCRIPTION {name} {what}")).await?;
            }
            client.batch_execute(&format!("DROP SUBSCRIPTION {name}")).await?;
        }
    }
    for database in &databases {
        drop_database(&admin, database).await?;
    }
    broker
}

/// Slots are given free by processes that end, which takes them a moment.
async fn drop_database(admin: &Client, name: &str) -> Result<()> {
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    let slots =
        format!("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}'");
    let mut tries = 100;
    loop {
        admin.batch_execute(&end).await?;
        let dropped = async {
            admin.batch_execute(&slots).await?;
            admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
        };
        match dropped.await {
            Ok(()) => return Ok(()),
            Err(error) if tries == 0 => return Err(format!("database {name} could not be dropped: {error}").into()),
            Err(_) => tries -= 1,
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Connects to a database.
pub(crate) async fn connect(url: &str) -> Result<Client> {
    let none = None::<Secret>;
    let address =
        PostgresAddress { url: url.to_owned(), password: none, password_file: None, tls: TlsConfig::default() };
    Ok(address.connect("syncline bench").await?)
}

/// Calls the management interface, by `curl`: it may be behind TLS.
fn manage(servers: &Servers, method: &str, path: &str) -> Result<()> {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--fail", "--max-time", "30", "-X", method, "-H", "content-type: application/json", "-d", "{}"]);
    // By standard input, so that no list of processes shows the login.
    curl.args(["--config", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = curl.spawn().map_err(|error| format!("curl is needed for the management interface: {error}"))?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "url = \"{}/api/{path}\"", servers.api)?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{method} {path} at the management interface: {}", String::from_utf8_lossy(&output.stderr).trim())
        .into())
}

/// The same URL with another path: database or virtual host.
fn with_path(url: &str, path: &str) -> String {
    let (head, query) = url.split_once('?').map_or((url, None), |(head, query)| (head, Some(query)));
    let (scheme, rest) = head.split_once("://").unwrap_or(("", head));
    let server = rest.split('/').next().unwrap_or_default();
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{scheme}://{server}/{path}{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_replaced_and_the_query_kept() {
        assert_eq!(with_path("amqp://a:b@h:1/%2f", "v"), "amqp://a:b@h:1/v");
        assert_eq!(with_path("postgres://h", "d"), "postgres://h/d");
        assert_eq!(with_path("postgres://h/x?sslmode=disable", "d"), "postgres://h/d?sslmode=disable");
    }
}
