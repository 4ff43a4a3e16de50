//! Against a real server, each test in a database of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant, SystemTime};

use syncline_shared::record::{Action, Value, Version};
use tokio_postgres::{Client, NoTls};

use super::{PostgresSource, PostgresSourceConfig};
use crate::bulk::Stock as _;
use crate::source::contract::{self, LIMIT, Stand, read, summary};
use crate::source::{Change, OnTruncate, PollLimit, Session, SessionRule, Source as _, SourceError, WatchedTable};

mod bulk;
mod changes;
mod copies;
mod definitions;
mod lifecycle;

/// A database that is dropped with its slots at the end.
struct Database {
    name: String,
    client: Client,
}

fn server() -> String {
    #[expect(clippy::disallowed_methods, reason = "tests learn from the environment where the services are")]
    std::env::var("SYNCLINE_TEST_POSTGRES_URL").expect("SYNCLINE_TEST_POSTGRES_URL names a PostgreSQL for tests")
}

fn url(database: &str) -> String {
    let server = server();
    let (base, _) = server.rsplit_once('/').expect("a url with a database");
    format!("{base}/{database}")
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a PostgreSQL for tests");
    #[expect(clippy::disallowed_methods, reason = "ends with its client")]
    tokio::spawn(connection);
    client
}

impl Database {
    async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_nanos();
        let name = format!("source_{}_{}_{now}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        connect(&server()).await.batch_execute(&format!("CREATE DATABASE {name}")).await.expect("a database");
        let client = connect(&url(&name)).await;
        Self { name, client }
    }

    async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.expect(statements);
    }

    /// Runs a statement that fails until the server noticed that nobody reads the slot any more.
    async fn run_when_free(&self, statement: &str) {
        let deadline = Instant::now() + Duration::from_secs(180);
        while let Err(error) = self.client.batch_execute(statement).await {
            assert!(Instant::now() < deadline, "{statement}: {error:?}");
            tokio::task::yield_now().await;
        }
    }

    async fn text(&self, query: &str) -> Option<String> {
        self.client.query_opt(query, &[]).await.expect(query).and_then(|row| row.get(0))
    }

    /// Names are made unique by the database's, for slots belong to the whole server.
    fn config(&self) -> PostgresSourceConfig {
        let json = serde_json::json!({ "url": url(&self.name), "slot": self.name, "heartbeat_interval_ms": 500 });
        serde_json::from_value(json).expect("valid settings")
    }

    fn source(&self, tables: &[(&str, &[&str])]) -> PostgresSource {
        self.source_with(self.config(), tables)
    }

    fn source_with(&self, config: PostgresSourceConfig, tables: &[(&str, &[&str])]) -> PostgresSource {
        let watched = tables.iter().map(|(table, copy_for)| WatchedTable {
            table: (*table).into(),
            copy_for: copy_for.iter().map(|share| (*share).into()).collect(),
            ..WatchedTable::default()
        });
        PostgresSource::new("desk", config, watched.collect())
    }

    /// A source of the table `item` alone, with what its shares say of it.
    fn source_of_item(&self, columns: &[&str], on_truncate: OnTruncate) -> PostgresSource {
        let columns = columns.iter().map(|column| (*column).into()).collect();
        let item =
            WatchedTable { table: "item".into(), copy_for: Vec::new(), columns, needs_before: false, on_truncate };
        PostgresSource::new("desk", self.config(), vec![item])
    }

    /// A source that has connected: what is written from now on is in its stream.
    async fn connected(&self, tables: &[(&str, &[&str])]) -> PostgresSource {
        let mut source = self.source(tables);
        settle(&mut source).await;
        source
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let name = self.name.clone();
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let client = connect(&server()).await;
                let drop_slots = format!(
                    "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = '{name}' AND active;
                     SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                      WHERE database = '{name}' AND NOT active;
                     DROP DATABASE IF EXISTS {name} WITH (FORCE)"
                );
                for _ in 0..200 {
                    let mut failed = false;
                    for statement in drop_slots.split(';') {
                        failed = client.batch_execute(statement).await.is_err();
                    }
                    if !failed {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            });
        });
        let _ = cleaning.join();
    }
}

/// Polls until the source says where it is for the first time: it is connected, and its copies are done.
async fn settle(source: &mut PostgresSource) {
    let (changes, position) = read(source, 0).await;
    assert!(changes.is_empty());
    source.commit(&position).await.expect("committed");
}

/// The first error a poll ends with.
async fn failure(source: &mut PostgresSource) -> SourceError {
    loop {
        match tokio::time::timeout(Duration::from_secs(180), source.poll(LIMIT)).await.expect("an answer") {
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

fn after<'a>(change: &'a Change, column: &str) -> Option<Value<'a>> {
    change.after.as_ref().and_then(|row| row.get(column))
}

impl Stand for Database {
    type Source = PostgresSource;

    async fn run(&mut self, statements: &str) {
        Database::run(self, statements).await;
    }

    async fn source(&mut self) -> PostgresSource {
        Database::source(self, &[("item", &["first"])])
    }
}

#[tokio::test]
async fn it_keeps_the_contract_of_sources() {
    contract::run(Database::new().await).await;
}
