//! Two databases and what runs between them.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::Value;
use tokio_postgres::SimpleQueryMessage;

use super::text;
use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::database::Database;
use crate::kit::eventually;
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::Vhost;

const TABLES: &str = "
    CREATE TABLE item (id INTEGER PRIMARY KEY, n INTEGER, note TEXT, changed_on TEXT);
    CREATE TABLE other (id INTEGER PRIMARY KEY, n INTEGER, note TEXT, changed_on TEXT);";

/// A database at one end.
pub enum End {
    Postgres(Box<Database>),
    Sqlite(PathBuf),
}

impl End {
    pub async fn run(&self, sql: &str) {
        match self {
            Self::Postgres(database) => database.run(sql).await,
            Self::Sqlite(path) => {
                let database = Connection::open(path).unwrap();
                database.busy_timeout(Duration::from_secs(20)).unwrap();
                database.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
        }
    }

    pub async fn rows(&self, query: &str) -> Vec<[Option<String>; 3]> {
        match self {
            Self::Postgres(database) => {
                let rows = database.client.simple_query(query).await.unwrap();
                let cells =
                    |row: &tokio_postgres::SimpleQueryRow| [0, 1, 2].map(|place| row.get(place).map(str::to_owned));
                let row = |message: &SimpleQueryMessage| {
                    if let SimpleQueryMessage::Row(row) = message { Some(cells(row)) } else { None }
                };
                rows.iter().filter_map(row).collect()
            }
            Self::Sqlite(path) => {
                let database = Connection::open(path).unwrap();
                database.busy_timeout(Duration::from_secs(20)).unwrap();
                let query = format!("SELECT CAST(id AS TEXT), CAST(n AS TEXT), note FROM ({query})");
                let mut statement = database.prepare(&query).unwrap();
                let rows = statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?])).unwrap();
                rows.map(Result::unwrap).collect()
            }
        }
    }

    /// Its table of the configuration.
    pub fn table(&self, kind: &str, name: &str) -> String {
        match self {
            Self::Postgres(database) => {
                let slot = if kind == "source" { format!("slot = \"{}\"\n", database.name) } else { String::new() };
                format!("[{kind}.{name}]\ntype = \"postgres\"\nurl = \"{}\"\n{slot}", database.url)
            }
            Self::Sqlite(path) => format!("[{kind}.{name}]\ntype = \"sqlite\"\npath = \"{}\"\n", path.display()),
        }
    }
}

/// Two databases, a queue and a configuration between them.
pub struct World {
    pub folder: Folder,
    pub source: End,
    pub target: End,
    pub config: PathBuf,
    _vhost: Vhost,
}

impl World {
    pub async fn postgres(more: &str) -> Self {
        let folder = Folder::create();
        let (source, target) = (Database::create("desk").await, Database::create("crm").await);
        Self::create(folder, End::Postgres(Box::new(source)), End::Postgres(Box::new(target)), more).await
    }

    pub async fn sqlite(more: &str) -> Self {
        let folder = Folder::create();
        let (source, target) = (folder.file("desk.db"), folder.file("crm.db"));
        for path in [&source, &target] {
            Connection::open(path).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
        }
        Self::create(folder, End::Sqlite(source), End::Sqlite(target), more).await
    }

    /// From PostgreSQL to SQLite.
    pub async fn mixed(more: &str) -> Self {
        let folder = Folder::create();
        let (source, target) = (Database::create("desk").await, folder.file("crm.db"));
        Connection::open(&target).unwrap().execute_batch("PRAGMA journal_mode = WAL").unwrap();
        Self::create(folder, End::Postgres(Box::new(source)), End::Sqlite(target), more).await
    }

    async fn create(folder: Folder, source: End, target: End, more: &str) -> Self {
        let vhost = Vhost::create();
        source.run(TABLES).await;
        target.run(TABLES).await;
        let share = |name: &str, table: &str| {
            format!(
                "[share.{name}]\nsource = \"desk\"\ntable = \"{table}\"\nqueue = \"crm\"\nkey = \"aes\"\n\
                 interactive_only = false\nfilter = \"n>=0\"\nchanged_column = \"changed_on\"\n"
            )
        };
        let text = format!(
            "{}{}\n{}{}{}{}\n[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{more}",
            rabbitmq(&vhost.url),
            common(&folder),
            source.table("source", "desk"),
            share("items", "item"),
            share("others", "other"),
            target.table("target", "crm"),
        );
        let config = folder.write("syncline.toml", &text);
        Self { folder, source, target, config, _vhost: vhost }
    }

    /// Rows that were there before anybody listened.
    pub async fn fill(&self, table: &str, rows: usize) {
        let statement = format!(
            "INSERT INTO {table} (id, n, note, changed_on)
             WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {rows})
             SELECT i, CASE WHEN i % 50 = 0 THEN -1 ELSE i % 10 END, 'as it was', '2026-11-01 00:00:00' FROM k"
        );
        self.source.run(&statement).await;
    }

    pub fn service(&self, name: &str) -> Service {
        Service::start(self.folder.path(), name, &self.config)
    }

    /// A producer that reads the source.
    pub async fn producer(&self) -> Service {
        let producer = self.service("producer");
        eventually("the source is read", true, async || match &self.source {
            End::Postgres(database) => {
                let query = format!(
                    "SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{}' AND active",
                    database.name
                );
                database.count(&query).await == 1
            }
            End::Sqlite(path) => Connection::open(path)
                .unwrap()
                .query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'", [], |row| row.get::<_, i64>(0))
                .is_ok_and(|triggers| triggers == 6),
        })
        .await;
        producer
    }

    pub fn bulk(&self, args: &[&str]) -> Output {
        let config = self.config.display().to_string();
        syncline(self.folder.path(), &[&["bulk-share", "--config", &config], args].concat())
    }

    pub fn spawn(&self, args: &[&str]) -> Child {
        self.spawn_command("bulk-share", args)
    }

    pub fn spawn_command(&self, command: &str, args: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_syncline"))
            .args([command, "--config"])
            .arg(&self.config)
            .args(args)
            .current_dir(self.folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    pub fn status(&self) -> Vec<Value> {
        let output = self.bulk(&["--status", "--json"]);
        assert!(output.status.success(), "{}", text(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub async fn in_step(&self, what: &str, query: &str) {
        let expected = self.source.rows(query).await;
        let all = query.replace("WHERE n >= 0 ", "");
        eventually(what, expected, async || self.target.rows(&all).await).await;
    }
}
