//! A database of its own on the test server, removed when its test succeeds.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use syncline_shared::tls::TlsConfig;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use super::super::{PostgresTarget, PostgresTargetConfig, sql};
use crate::target::SchemaMode;
use crate::target::contract::{Bench, Kind};

pub(super) struct PostgresBench {
    name: String,
    server: String,
    client: Client,
}

/// The settings of a test's target: it waits for locks a short time only.
pub(super) fn config(url: &str, schema: SchemaMode) -> PostgresTargetConfig {
    PostgresTargetConfig {
        url: url.to_owned(),
        password: None,
        password_file: None,
        tls: TlsConfig::default(),
        schema,
        statement_timeout_ms: 20_000,
        lock_timeout_ms: 500,
    }
}

async fn connect(url: &str) -> Client {
    config(url, SchemaMode::Strict).address().connect("syncline test").await.unwrap()
}

impl PostgresBench {
    pub(super) async fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        #[expect(clippy::disallowed_methods, reason = "tests learn from the environment where the services are")]
        let server = std::env::var("SYNCLINE_TEST_POSTGRES_URL").expect(
            "SYNCLINE_TEST_POSTGRES_URL is not set: run tests/services up, then eval \"$(tests/services env)\"",
        );
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("target_{}_{count}_{nanos}", std::process::id());
        connect(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let client = connect(&with_database(&server, &name)).await;
        Self { name, server, client }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn url(&self) -> String {
        with_database(&self.server, &self.name)
    }

    /// Another connection.
    pub(super) async fn connect(&self) -> Client {
        connect(&self.url()).await
    }

    pub(super) async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }

    /// The one value a query answers, as text.
    pub(super) async fn ask(&self, question: &str, values: &[&(dyn ToSql + Sync)]) -> Option<String> {
        self.client.query_one(question, values).await.unwrap().get(0)
    }

    pub(super) fn evolving(&self, writer: &str) -> PostgresTarget {
        PostgresTarget::new(config(&self.url(), SchemaMode::Evolve), writer)
    }
}

fn with_database(server: &str, name: &str) -> String {
    let (server, _) = server.rsplit_once('/').unwrap();
    format!("{server}/{name}")
}

impl Bench for PostgresBench {
    type Target = PostgresTarget;

    fn target(&self, writer: &str) -> PostgresTarget {
        PostgresTarget::new(config(&self.url(), SchemaMode::Strict), writer)
    }

    async fn create(&self, table: &str, columns: &[(&str, Kind)], key: &[&str]) {
        let kind = |kind: Kind| match kind {
            Kind::Text => "text",
            Kind::Integer => "integer",
        };
        let columns: Vec<_> = columns.iter().map(|(name, of)| format!("{} {}", sql::ident(name), kind(*of))).collect();
        let (table, columns) = (sql::table(table), columns.join(", "));
        self.run(&format!("CREATE TABLE {table} ({columns}, PRIMARY KEY ({}))", sql::list("", key))).await;
    }

    async fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
        let columns: Vec<_> = columns.iter().map(|name| format!("{}::text", sql::ident(name))).collect();
        let question = format!("SELECT ARRAY[{}] FROM {}", columns.join(", "), sql::table(table));
        self.client.query(&question, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    }

    async fn finish(self) {
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        connect(&self.server).await.batch_execute(&drop).await.unwrap();
    }
}
