//! One connection and what it knows: the target's tables, temporary tables to copy into, prepared statements.
//!
//! A session learns each table once. When a call fails in a way that outdated knowledge could explain, its owner opens a
//! new session and tries once more; so nothing here is ever refreshed.

mod learn;
mod look;
mod parked;
mod standing;

use std::collections::HashMap;
use std::io::Cursor;
use std::pin::pin;

use futures_util::SinkExt as _;
use syncline_shared::postgres::APPLIED_MESSAGE;
use syncline_shared::record::Version;
use tokio_postgres::{Client, Statement};

use self::learn::wanted;
use super::catalog::{self, Catalog};
use super::config::PostgresTargetConfig;
use super::copy;
use super::error::{self, Doing};
use super::group::{Form, Group, groups};
use super::sql::{self, Places};
use crate::target::SchemaMode;
use crate::target::fold::{FoldedTable, Item, Taken, fold, items};
use crate::target::{Applied, ApplyError, Batch, Outcome};

/// Prepared shapes kept per session. Shares that send only what changed have many; a full cache starts anew.
const SHAPES_MAX: usize = 256;

/// What is copied to the server at a time: the connection's buffer grows to the largest and stays as large.
const COPY_CHUNK_BYTES: usize = 32 * 1024;

/// A connection to the target.
pub(super) struct Session {
    client: Client,
    address: String,
    evolve: bool,
    begin: String,
    tables: HashMap<TableKey, Table>,
    shapes: HashMap<ShapeKey, Shape>,
}

/// Table name and key columns.
type TableKey = (String, Vec<String>);

/// Number of the table, form, columns.
type ShapeKey = (usize, Form, Vec<String>);

/// A table that can be written to.
struct Table {
    number: usize,
    places: Places,
    catalog: Catalog,
    same_columns: Statement,
}

/// The statements for records of one table, form and set of columns.
#[derive(Clone)]
struct Shape {
    copy: Statement,
    write: Statement,
    versions: Statement,
}

impl Session {
    /// Connects. One `writer` is served at a time: a session that was given up may still be finishing its call.
    pub(super) async fn open(config: &PostgresTargetConfig, writer: &str) -> Result<Self, ApplyError> {
        let server = config.address();
        let address = server.display();
        let connected = server.connect("syncline consumer").await;
        let client = connected.map_err(|cause| error::connecting(&address, cause))?;
        // Plans are made for the records at hand: one kept from a lone change would be a disaster for thousands.
        // Texts are read in the form sources write them, whatever the server's or the user's own settings are.
        let settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; \
             SET intervalstyle = 'postgres'; SET standard_conforming_strings = on; \
             SET plan_cache_mode = force_custom_plan",
            config.statement_timeout_ms, config.lock_timeout_ms
        );
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(hashtextextended({}, 0)); \
             SELECT pg_logical_emit_message(true, {}, '')",
            sql::literal(&format!("syncline writer {writer}")),
            sql::literal(APPLIED_MESSAGE)
        );
        let evolve = config.schema == SchemaMode::Evolve;
        let session = Self { client, address, evolve, begin, tables: HashMap::new(), shapes: HashMap::new() };
        session.batch("", &settings).await?;
        Ok(session)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Applies a call in one transaction. After an error the transaction is rolled back.
    pub(super) async fn apply(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        let result = self.transact(items(batches)).await;
        if result.is_err() && !self.client.is_closed() {
            self.batch("", "ROLLBACK").await?;
        }
        result
    }

    async fn transact(&mut self, items: Vec<Item<'_>>) -> Result<Applied, ApplyError> {
        let wanted = wanted(&items);
        for table in &wanted {
            self.learn(table, &items).await?;
        }
        let is_parked = self.begin(&wanted).await?;
        for table in wanted.iter().filter_map(|table| self.tables.get(&table_key(table.into, &table.key))) {
            // From here on the transaction holds the table's lock: its columns stay as they are until the commit.
            let unchanged = self.client.query(&table.same_columns, &[]).await;
            unchanged.map_err(|cause| self.doing(&table.catalog.into, &[]).failed(cause))?;
        }
        let mut outcomes = vec![Outcome::Stale; items.len()];
        let mut groups_written = 0;
        let (mut left, cleared) =
            if is_parked { self.hold_back(&wanted, items, &mut outcomes).await? } else { (items, Vec::new()) };
        while !left.is_empty() {
            let folded = fold(&left);
            left = folded.later;
            for table in &folded.tables {
                for group in groups(table, |columns| self.carries_all(table, columns)) {
                    groups_written += 1;
                    self.write(table, &group, groups_written, &mut outcomes, &mut left).await?;
                }
            }
            left.sort_by_key(|item| item.place);
        }
        self.unpark_taken(&cleared).await?;
        self.batch("", "COMMIT").await?;
        Ok(Applied { outcomes })
    }

    /// Writes a group of operations and notes what became of their records.
    async fn write<'a>(
        &mut self,
        table: &FoldedTable<'a>,
        group: &Group<'_, 'a>,
        number: i32,
        outcomes: &mut [Outcome],
        left: &mut Vec<Item<'a>>,
    ) -> Result<(), ApplyError> {
        let shape = self.shape(table, group).await?;
        self.copy(&shape.copy, table.into, group, number).await?;
        let taken = self.write_copied(&shape, number, group.operations.len()).await;
        let taken = taken.map_err(|cause| self.doing(table.into, &group.columns).failed(cause))?;
        for (operation, taken) in group.operations.iter().zip(taken) {
            match taken {
                Some(Taken::Held(version)) if version < operation.since => return Err(self.not_written(table.into)),
                Some(taken) => operation.settle(taken, outcomes, left),
                None => return Err(self.not_written(table.into)),
            }
        }
        Ok(())
    }

    /// Copies a group of operations into the temporary table, a chunk at a time.
    async fn copy(&self, copy: &Statement, table: &str, group: &Group<'_, '_>, number: i32) -> Result<(), ApplyError> {
        let failed = |cause| self.doing(table, &group.columns).failed(cause);
        let mut sink = pin!(self.client.copy_in(copy).await.map_err(failed)?);
        let mut lines = Vec::with_capacity(COPY_CHUNK_BYTES);
        for (row, operation) in group.operations.iter().enumerate() {
            copy::write_line(&mut lines, operation, number, row).map_err(|_| ApplyError::Record {
                table: table.to_owned(),
                problem: "bytes that are not base64".to_owned(),
                may_pass: false,
            })?;
            if lines.len() >= COPY_CHUNK_BYTES {
                let chunk = std::mem::replace(&mut lines, Vec::with_capacity(COPY_CHUNK_BYTES));
                sink.send(Cursor::new(chunk)).await.map_err(failed)?;
            }
        }
        sink.send(Cursor::new(lines)).await.map_err(failed)?;
        sink.finish().await.map_err(failed)?;
        Ok(())
    }

    /// Writes what was copied with one statement. Versions are asked for only when some were not written; `None` is a
    /// record that was not written and has no version.
    async fn write_copied(
        &self,
        shape: &Shape,
        number: i32,
        operations: usize,
    ) -> Result<Vec<Option<Taken>>, tokio_postgres::Error> {
        let written: Option<Vec<i32>> = self.client.query_one(&shape.write, &[&number]).await?.try_get(0)?;
        let mut taken = vec![None; operations];
        for row in written.unwrap_or_default() {
            mark(&mut taken, row, Taken::Applied);
        }
        if taken.contains(&None) {
            for row in self.client.query(&shape.versions, &[&number]).await? {
                let version: Option<&str> = row.try_get(1)?;
                if let Some(version) = version.and_then(|text| text.parse::<Version>().ok()) {
                    mark(&mut taken, row.try_get(0)?, Taken::Held(version));
                }
            }
        }
        Ok(taken)
    }

    /// Neither written nor guarded: another writer or a trigger of the table was in between.
    fn not_written(&self, table: &str) -> ApplyError {
        let problem = format!("rows of table {table:?} changed meanwhile, or a trigger skips them");
        ApplyError::Busy { address: self.address.clone(), problem }
    }

    /// Whether these columns are all that a new row of the table needs.
    fn carries_all(&self, table: &FoldedTable<'_>, columns: &[&str]) -> bool {
        let known = self.tables.get(&table_key(table.into, &table.key_columns));
        known.is_some_and(|table| table.catalog.required.iter().all(|name| columns.contains(&name.as_str())))
    }

    /// The prepared statements for a group.
    async fn shape(&mut self, table: &FoldedTable<'_>, group: &Group<'_, '_>) -> Result<Shape, ApplyError> {
        let Some(known) = self.tables.get(&table_key(table.into, &table.key_columns)) else {
            return Err(catalog::missing_table(table.into, &group.columns, &table.key_columns));
        };
        let key = (known.number, group.form, group.columns.iter().map(|name| (*name).to_owned()).collect());
        if let Some(shape) = self.shapes.get(&key) {
            return Ok(shape.clone());
        }
        let places = &known.places;
        let write = match group.form {
            Form::Delete => places.delete(),
            Form::Whole => places.upsert(&group.columns),
            Form::Part => places.update_else_insert(&group.columns),
        };
        let prepared = async {
            Ok(Shape {
                copy: self.client.prepare(&places.copy(&group.columns)).await?,
                write: self.client.prepare(&write).await?,
                versions: self.client.prepare(&places.versions()).await?,
            })
        };
        let shape = prepared.await.map_err(|cause| self.doing(table.into, &group.columns).failed(cause))?;
        if self.shapes.len() >= SHAPES_MAX {
            self.shapes.clear();
        }
        self.shapes.insert(key, shape.clone());
        Ok(shape)
    }

    async fn batch(&self, table: &str, statements: &str) -> Result<(), ApplyError> {
        self.client.batch_execute(statements).await.map_err(|cause| self.doing(table, &[]).failed(cause))
    }

    fn doing<'a>(&'a self, table: &'a str, columns: &'a [&'a str]) -> Doing<'a> {
        Doing { address: &self.address, table, columns }
    }
}

fn table_key(into: &str, key: &[&str]) -> TableKey {
    (into.to_owned(), key.iter().map(|name| (*name).to_owned()).collect())
}

fn mark(taken: &mut [Option<Taken>], row: i32, as_what: Taken) {
    let place = usize::try_from(row).ok().and_then(|row| taken.get_mut(row));
    if let Some(place @ None) = place {
        *place = Some(as_what);
    }
}
