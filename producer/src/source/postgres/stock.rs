//! Tables of a PostgreSQL source as bulk shares read them: one snapshot, several connections, each at another part.
//!
//! A part is a range of keys read in their order, so that it can be gone on with in a later snapshot: wherever rows lie
//! by then, those of a part that is done were sent, and what became of them since is in the stream. Notes stand in
//! `syncline.state`.

mod cut;
mod named;
mod read;

use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, select_all};
use jiff::Timestamp;
use syncline_shared::record::Version;
use tokio::sync::{Mutex, watch};
use tokio_postgres::Client;

use self::named::named;
use self::read::{Reading, parts};
use super::PostgresSource;
use super::connect::Settings;
use super::copy::{Form, Snapshot, now, take_snapshot};
use super::state::State;
use super::table::{Found, Table, look_up};
use super::values::{identifier, literal};
use crate::bulk::{Bite, Opened, Range, Rows, Stock, Want, When};
use crate::source::SourceError;

/// A PostgreSQL source as bulk shares see it.
#[derive(Clone)]
pub struct PostgresStock {
    pub(super) settings: Arc<Settings>,
    /// The epoch of the stream while this process reads it.
    epoch: watch::Receiver<Option<u32>>,
    /// The connection for notes, while it works.
    sql: Arc<Mutex<Option<Arc<Client>>>>,
}

impl PostgresSource {
    /// The source as bulk shares see it.
    #[must_use]
    pub fn stock(&self) -> PostgresStock {
        PostgresStock { settings: Arc::clone(&self.settings), epoch: self.epoch.subscribe(), sql: Arc::default() }
    }
}

impl PostgresStock {
    pub(super) async fn sql(&self) -> Result<Arc<Client>, SourceError> {
        let mut kept = self.sql.lock().await;
        match &*kept {
            Some(sql) if !sql.is_closed() => Ok(Arc::clone(sql)),
            Some(_) | None => {
                let sql = Arc::new(Arc::clone(&self.settings).answered(self.settings.sql()).await?);
                *kept = Some(Arc::clone(&sql));
                Ok(sql)
            }
        }
    }

    /// Has the next question asked over another connection.
    pub(super) async fn forget_connection(&self) {
        self.sql.lock().await.take();
    }

    /// Does something with the state; a connection that does not answer is not used again.
    async fn ask<T>(
        &self,
        doing: &str,
        asking: impl AsyncFnOnce(&Client) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, SourceError> {
        let sql = self.sql().await?;
        let settings = &self.settings;
        let asked = async { asking(&sql).await.map_err(|error| settings.failed(doing, &error)) };
        let answer = Arc::clone(settings).answered(asked).await;
        if matches!(answer, Err(SourceError::Unreachable { .. })) {
            self.forget_connection().await;
        }
        answer
    }

    /// The table, fit to be read.
    async fn table(&self, sql: &Client, want: &Want) -> Result<Table, SourceError> {
        let found = look_up(&self.settings, sql).await?;
        let mut named = self.settings.tables.iter().zip(found).filter(|(watched, _)| watched.table == want.table);
        let unfit = |problem: String, mend: &str| SourceError::Unfit { problem, mend: mend.to_owned() };
        match named.next() {
            Some((_, Found::Fit(table))) if table.published => Ok(table),
            Some((_, Found::Unfit(problem))) => Err(problem),
            Some((_, Found::Fit(_))) => {
                let problem = format!("the table {} is not in the publication yet", want.table);
                Err(unfit(problem, "wait until the producer logs that it is, and ask again"))
            }
            Some((_, Found::Missing)) | None => {
                Err(unfit(format!("the table {} does not exist", want.table), "make it, and ask again"))
            }
        }
    }
}

impl Stock for PostgresStock {
    type Rows = Parts;

    fn is_read_here(&self) -> bool {
        self.epoch.has_changed().is_ok() && self.epoch.borrow().is_some()
    }

    async fn is_read(&self) -> Result<bool, SourceError> {
        let query = "SELECT active FROM pg_replication_slots WHERE slot_name = $1";
        let slot = &self.settings.slot;
        let row = self.ask("looking for the slot", async |sql: &Client| sql.query_opt(query, &[slot]).await).await?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    async fn notes(&self) -> Result<Vec<(String, String)>, SourceError> {
        let source = &self.settings.source;
        // Until a producer or an order has made the schema, there is nothing to read.
        let there = "SELECT to_regclass('syncline.state') IS NOT NULL";
        let query = "SELECT substr(key, 6), value::text FROM syncline.state WHERE source = $1 AND key LIKE 'bulk:%'";
        let read = async |sql: &Client| match sql.query_one(there, &[]).await?.get(0) {
            true => sql.query(query, &[source]).await,
            false => Ok(Vec::new()),
        };
        let rows = self.ask("reading notes of bulk shares", read).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    async fn put(&self, key: &str, json: &str, when: When) -> Result<bool, SourceError> {
        State::ensure(&self.settings, &*self.sql().await?).await?;
        let (source, key) = (&self.settings.source, format!("bulk:{key}"));
        let doing = "writing a note of bulk shares";
        let runner = match when {
            When::Always => {
                let upsert = "INSERT INTO syncline.state (source, key, value) VALUES ($1, $2, $3::text::jsonb)
                    ON CONFLICT (source, key) DO UPDATE SET value = excluded.value";
                let put = async |sql: &Client| sql.execute(upsert, &[source, &key, &json]).await;
                return self.ask(doing, put).await.map(|_| true);
            }
            When::There => None,
            When::RunBy(runner) => Some(runner.to_string()),
        };
        let update = "UPDATE syncline.state SET value = $3::text::jsonb
            WHERE source = $1 AND key = $2 AND ($4::text IS NULL OR value->>'runner' = $4)";
        let put = async |sql: &Client| sql.execute(update, &[source, &key, &json, &runner]).await;
        let written = self.ask(doing, put).await?;
        Ok(written > 0)
    }

    async fn remove(&self, keys: &[String]) -> Result<(), SourceError> {
        let keys: Vec<_> = keys.iter().map(|key| format!("bulk:{key}")).collect();
        let (source, statement) =
            (&self.settings.source, "DELETE FROM syncline.state WHERE source = $1 AND key = ANY ($2)");
        let remove = async |sql: &Client| sql.execute(statement, &[source, &keys]).await;
        self.ask("forgetting bulk shares", remove).await.map(drop)
    }

    async fn open(&self, want: Want) -> Result<Opened<Parts>, SourceError> {
        let epoch = *self.epoch.borrow();
        let here = || self.settings.unreachable("the source's changes are not read here now");
        let epoch = epoch.ok_or_else(here)?;
        let snapshot = take_snapshot(&self.settings).await?;
        // A log that has begun anew meanwhile counts its places anew.
        if *self.epoch.borrow() != Some(epoch) {
            return Err(here());
        }
        self.enter(want, epoch, &snapshot).await
    }

    async fn look(&self, want: Want) -> Result<Opened<Parts>, SourceError> {
        let epoch = self.epoch_noted().await?;
        let snapshot = take_snapshot(&self.settings).await?;
        self.enter(want, epoch, &snapshot).await
    }
}

impl PostgresStock {
    /// The epoch as whoever reads the changes has noted it.
    async fn epoch_noted(&self) -> Result<u32, SourceError> {
        let (settings, sql) = (&self.settings, self.sql().await?);
        let noted =
            if State::exists(settings, &sql).await? { State::read(settings, &sql).await?.epoch() } else { None };
        let server = settings.replication(0).await?.identify_system().await.map_err(|error| settings.broken(&error))?;
        match noted {
            Some(noted) if noted.system_id == server.system_id && noted.timeline == server.timeline => Ok(noted.epoch),
            Some(_) | None => Err(SourceError::Unfit {
                problem: format!("no producer has read the source {} on this server yet", settings.source),
                mend: "start the producer, and ask again".to_owned(),
            }),
        }
    }

    /// Begins to read in a snapshot.
    async fn enter(&self, want: Want, epoch: u32, snapshot: &Snapshot) -> Result<Opened<Parts>, SourceError> {
        let settings = &self.settings;
        let sql = snapshot.enter(settings).await?;
        let table = self.table(&sql, &want).await?;
        let form = Form::read(settings, &sql, &table).await?;
        if let Some(missing) = want.columns.iter().find(|column| form.columns.position(column).is_none()) {
            return Err(SourceError::Unfit {
                problem: format!("the table {} has no column {missing}", want.table),
                mend: "mend the share or the condition, and ask again".to_owned(),
            });
        }
        let condition = match &want.changed {
            Some((column, since)) => Some(changed(settings, &sql, &table, column, *since).await?),
            None => None,
        };
        let as_of = now(settings, &sql).await?;
        let key = cut::key_in_order(settings, &sql, &table).await?;
        let version = Version::new(epoch, snapshot.point, 0);
        let mut reading = Reading {
            settings: Arc::clone(settings),
            table: Arc::clone(&want.table),
            own_rows: table.own_rows(),
            share: Arc::clone(&want.share),
            version,
            at: as_of,
            rows_max: want.rows_max,
            form,
            key,
            condition: None,
        };
        if let Some(keys) = want.keys {
            let (total, ranges) = (u64::try_from(keys.len()).unwrap_or(u64::MAX), vec![Range::default()]);
            let rows = Parts(select_all([named(reading, sql, keys)]));
            return Ok(Opened { rows, ranges, total, as_of, version });
        }
        let key = &reading.key;
        let total = cut::count(settings, &sql, &table, condition.as_deref()).await?;
        let whole = condition.is_none();
        let connections = if whole { want.connections } else { 1 };
        let ranges = match want.ranges.is_empty() {
            true => cut::ranges(settings, &sql, &table, key, connections, total).await?,
            false => want.ranges.clone(),
        };
        reading.condition = condition;
        let reading = Arc::new(reading);
        let left: Vec<_> = ranges.iter().cloned().enumerate().filter(|(_, range)| !range.done).collect();
        let mut clients = vec![sql];
        while clients.len() < connections.min(left.len()) {
            clients.push(snapshot.enter(settings).await?);
        }
        if whole {
            // In the order of the key, whatever it costs more than to read and sort: a sort is not begun for nothing again.
            for client in &clients {
                let plans =
                    "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";
                client.batch_execute(plans).await.map_err(|error| settings.failed("session settings", &error))?;
            }
        }
        let rows = Parts(select_all(parts(&reading, clients, left)));
        Ok(Opened { rows, ranges, total, as_of, version })
    }
}

/// Rows changed since a time, as SQL. What has no time is among them: rather once more than not at all.
async fn changed(
    settings: &Settings,
    sql: &Client,
    table: &Table,
    column: &str,
    since: Timestamp,
) -> Result<String, SourceError> {
    let query = "SELECT t.typcategory::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = $1 AND a.attname = $2 AND NOT a.attisdropped";
    let row = sql.query_opt(query, &[&table.oid, &column]).await;
    let row = row.map_err(|error| settings.failed("reading the table's columns", &error))?;
    let category: Option<String> = row.map(|row| row.get(0));
    if !matches!(category.as_deref(), Some("D" | "S")) {
        return Err(SourceError::Unfit {
            problem: format!("the column {column} of {} is neither a time nor a text", table.name),
            mend: "changed_column = \"..\" in the share, a column of the time of the last change".to_owned(),
        });
    }
    // In UTC, as the session is, and in the form that times have which are stored as text.
    let (name, since) = (identifier(column), literal(&since.strftime("%Y-%m-%d %H:%M:%S").to_string()));
    Ok(format!("({name} >= {since} OR {name} IS NULL)"))
}

/// The parts of a table, each connection at one of them.
pub struct Parts(futures_util::stream::SelectAll<BoxStream<'static, Result<Bite, SourceError>>>);

impl Rows for Parts {
    async fn next(&mut self) -> Result<Option<Bite>, SourceError> {
        self.0.next().await.transpose()
    }
}
