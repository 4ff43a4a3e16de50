//! PostgreSQL databases of one test each.

use tokio_postgres::{Client, NoTls};

use super::{service, unique};

/// A database of its own, dropped with its slots at the end.
pub struct Database {
    pub name: String,
    pub url: String,
    pub client: Client,
    server: String,
}

impl Database {
    /// Creates a database.
    pub async fn create(prefix: &str) -> Self {
        Self::create_on(&service("SYNCLINE_TEST_POSTGRES_URL"), prefix).await
    }

    /// The same on a server of the test's own.
    pub async fn create_on(server: &str, prefix: &str) -> Self {
        let name = unique(prefix);
        let admin = connect(server).await;
        admin.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let url = with_database(server, &name);
        let client = connect(&url).await;
        Self { name, url, client, server: server.to_owned() }
    }

    /// Runs statements.
    pub async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// All rows of a query, each as one text; empty when the table is not there yet.
    pub async fn rows(&self, query: &str) -> Vec<String> {
        let text = format!("SELECT q::text FROM ({query}) q ORDER BY 1");
        self.client
            .query(&text, &[])
            .await
            .map_or_else(|_| Vec::new(), |rows| rows.iter().map(|row| row.get(0)).collect())
    }

    /// One number.
    pub async fn count(&self, query: &str) -> i64 {
        self.client.query_one(query, &[]).await.map_or(-1, |row| row.get(0))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (name, server) = (self.name.clone(), self.server.clone());
        let clean = async move {
            // A server of the test's own may be gone already, and the database with it.
            let Ok(admin) = try_connect(&server).await else { return };
            let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
            let slots = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{name}' AND NOT active"
            );
            for _ in 0..100 {
                let _ = admin.batch_execute(&end).await;
                let _ = admin.batch_execute(&slots).await;
                if admin.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await.is_ok() {
                    return;
                }
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            eprintln!("database {name} could not be dropped");
        };
        let run = move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clean);
        let _ = std::thread::spawn(run).join();
    }
}

/// Connects to a URL.
pub async fn connect(url: &str) -> Client {
    try_connect(url).await.unwrap()
}

/// Connects to a server that may be away.
pub async fn try_connect(url: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    Ok(client)
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> String {
    let (head, tail) = url.split_once('?').map_or((url, None), |(head, tail)| (head, Some(tail)));
    let start = head.find("://").unwrap() + 3;
    let slash = head[start..].find('/').map_or(head.len(), |at| start + at);
    let tail = tail.map(|tail| format!("?{tail}")).unwrap_or_default();
    format!("{}/{name}{tail}", &head[..slash])
}
