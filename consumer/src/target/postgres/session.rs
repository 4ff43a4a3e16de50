//! One connection and what it knows: the target's tables, prepared statements.
//!
//! A session learns each table once. When a call fails in a way that outdated knowledge could explain, its owner opens a
//! new session and tries once more; so nothing here is ever refreshed.

mod learn;
mod look;
mod parked;
mod standing;

use std::collections::HashMap;
use std::time::Instant;

use futures_util::TryStreamExt as _;
use futures_util::future::join;
use syncline_shared::postgres::APPLIED_MESSAGE;
use syncline_shared::record::{Action, Version};
use tokio_postgres::{Client, Row, Statement};

use self::learn::wanted;
use self::parked::{Begun, Cleared};
use super::catalog::{self, Catalog};
use super::config::PostgresTargetConfig;
use super::error::{self, Doing};
use super::group::{Form, Group, groups};
use super::parameter::{parameters, size};
use super::sql::{self, Places};
use crate::target::SchemaMode;
use crate::target::fold::{Change, FoldedTable, Item, Operation, Taken, fold, items};
use crate::target::{Applied, ApplyError, Batch, Outcome};

/// Prepared shapes kept per session. Shares that send only what changed have many; a full cache starts anew.
const SHAPES_MAX: usize = 256;

/// Bytes of values that one statement takes: the connection's buffer grows to the largest and stays as large.
const STATEMENT_BYTES: usize = 128 * 1024;

/// A connection to the target.
pub(super) struct Session {
    client: Client,
    address: String,
    evolve: bool,
    tables: HashMap<TableKey, Table>,
    /// How many tables were looked at, for names of prepared statements.
    learned: usize,
    statements: HashMap<Shape, Statement>,
    /// What begins the transaction of this call, until its first statement takes it along.
    opening: Option<String>,
    /// What the newest call found.
    begun: Begun,
    /// Since when plans of statements are kept.
    planned: Instant,
}

/// Table name and key columns.
type TableKey = (String, Vec<String>);

/// A table that can be written to.
struct Table {
    number: usize,
    places: Places,
    catalog: Catalog,
}

/// What a statement about records is made for: the table's number and the columns.
#[derive(PartialEq, Eq, Hash)]
struct Shape {
    table: usize,
    what: What,
    columns: Vec<String>,
}

/// What a statement does with records.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum What {
    Write(Form),
    AskVersions,
    Unpark,
    Unbury,
}

impl Session {
    /// Connects. One `writer` is served at a time: a session that was given up may still be finishing its call.
    pub(super) async fn open(config: &PostgresTargetConfig, writer: &str) -> Result<Self, ApplyError> {
        let server = config.address();
        let address = server.display();
        let connected = server.connect("syncline consumer").await;
        let client = connected.map_err(|cause| error::connecting(&address, cause))?;
        // To plan a statement for the number of its records each time gains nothing, so plans are kept, for a while.
        // Texts are read in the form sources write them, whatever the server's or the user's own settings are.
        let settings = format!(
            "SET statement_timeout = {}; SET lock_timeout = {}; SET datestyle = 'ISO, YMD'; SET timezone = 'UTC'; \
             SET intervalstyle = 'postgres'; SET standard_conforming_strings = on; \
             SET plan_cache_mode = force_generic_plan",
            config.statement_timeout_ms, config.lock_timeout_ms
        );
        let own = sql::prepare_own(&format!("syncline writer {writer}"), APPLIED_MESSAGE);
        let session = Self {
            client,
            address,
            evolve: config.schema == SchemaMode::Evolve,
            tables: HashMap::new(),
            learned: 0,
            statements: HashMap::new(),
            opening: None,
            begun: Begun::default(),
            planned: Instant::now(),
        };
        session.batch("", &format!("{settings}; {own}")).await?;
        Ok(session)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Applies a call in one transaction. After an error the transaction is rolled back.
    pub(super) async fn apply(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        // Seldom is anything parked, and to look for it first is a round trip more.
        let mut looks_first = self.begun.has_parked;
        let result = loop {
            let written = self.transact(items(batches), looks_first).await;
            if self.begun.has_parked && !looks_first && !self.client.is_closed() {
                looks_first = true;
                self.batch("", "ROLLBACK").await?;
                continue;
            }
            break match written {
                Ok(outcomes) => self.batch("", "COMMIT").await.map(|()| Applied { outcomes }),
                Err(error) => Err(error),
            };
        };
        if result.is_err() && !self.client.is_closed() {
            self.batch("", "ROLLBACK").await?;
        }
        result
    }

    /// Does all of a call but its commit. What is parked is heeded only by one that looks first.
    async fn transact(&mut self, items: Vec<Item<'_>>, looks_first: bool) -> Result<Vec<Outcome>, ApplyError> {
        let wanted = wanted(&items);
        for table in &wanted {
            self.learn(table, &items).await?;
        }
        self.opening = Some(self.opening(&wanted));
        let deletes = items.iter().any(|item| item.action == Action::Delete);
        let mut outcomes = vec![Outcome::Stale; items.len()];
        let mut unburied = Vec::new();
        let (mut left, unparked) = if looks_first {
            self.look().await?;
            self.hold_back(&wanted, items, &mut outcomes).await?
        } else {
            (items, Vec::new())
        };
        while !left.is_empty() {
            let folded = fold(&left);
            left = folded.later;
            for table in &folded.tables {
                for group in groups(table, |columns| self.carries_all(table, columns)) {
                    self.write(table, &group, &mut outcomes, &mut left).await?;
                }
                // A record that this call deletes may come back with it.
                let may_unbury = self.begun.has_buried || deletes;
                unburied.extend(may_unbury.then(|| self.written_again(table)).into_iter().flatten());
            }
            left.sort_by_key(|item| item.place);
        }
        self.forget(&unparked, What::Unpark).await?;
        self.forget(&unburied, What::Unbury).await?;
        Ok(outcomes)
    }

    /// Writes a group of operations and notes what became of their records.
    async fn write<'a>(
        &mut self,
        table: &FoldedTable<'a>,
        group: &Group<'_, 'a>,
        outcomes: &mut [Outcome],
        left: &mut Vec<Item<'a>>,
    ) -> Result<(), ApplyError> {
        let mut rest = group.operations.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(at_once(rest));
            rest = later;
            let written = self.ask(What::Write(group.form), table, group, now).await?;
            let written = written.first().map_or(0, |row| row.get::<_, i64>(0));
            if usize::try_from(written) == Ok(now.len()) {
                now.iter().for_each(|operation| operation.settle(Taken::Applied, outcomes, left));
                continue;
            }
            let held = self.ask(What::AskVersions, table, group, now).await?;
            let held: HashMap<&str, &Row> = held.iter().map(|row| (row.get(0), row)).collect();
            for operation in now {
                let row = held.get(&*operation.name);
                let version = row.and_then(|row| row.get::<_, &str>(1).parse::<Version>().ok());
                let taken = match (row, version) {
                    (Some(row), Some(version)) if version == operation.version && row.get(2) => Taken::Applied,
                    (Some(_), Some(version)) if version >= operation.since => Taken::Held(version),
                    _ => return Err(self.not_written(table.into)),
                };
                operation.settle(taken, outcomes, left);
            }
        }
        Ok(())
    }

    /// Runs a statement about operations of a group. The first of a call begins its transaction, in the same round trip.
    async fn ask(
        &mut self,
        what: What,
        table: &FoldedTable<'_>,
        group: &Group<'_, '_>,
        operations: &[&Operation<'_>],
    ) -> Result<Vec<Row>, ApplyError> {
        let columns = &group.columns;
        let statement = self.statement(what, table, group).await?;
        let opening = self.opening.take();
        let answered = async {
            let asked = self.client.query_raw(&statement, parameters(operations, columns.len()));
            let answered = async { asked.await?.try_collect().await };
            answered.await.map_err(|cause| self.doing(table.into, columns).failed(cause))
        };
        let Some(opening) = opening else { return answered.await };
        // The first that is asked is the first that is sent.
        let (begun, rows) = join(self.begin(&opening), answered).await;
        // Also where the statement failed: what is parked may be why.
        self.begun = begun?;
        rows
    }

    /// What a table has of records that may have had tombstones.
    fn written_again(&self, table: &FoldedTable<'_>) -> Vec<Cleared> {
        let Some(known) = self.tables.get(&table_key(table.into, &table.key_columns)) else { return Vec::new() };
        let written = table.operations.iter().filter(|operation| operation.change != Change::Delete);
        written.map(|operation| (known.number, operation.name.to_string(), operation.version)).collect()
    }

    /// Neither written nor guarded: another writer or a trigger of the table was in between.
    fn not_written(&self, table: &str) -> ApplyError {
        let problem = format!("rows of table {table:?} changed meanwhile, or a trigger skips them");
        ApplyError::Busy { address: self.address.clone(), problem, limit: false }
    }

    /// Whether these columns are all that a new row of the table needs.
    fn carries_all(&self, table: &FoldedTable<'_>, columns: &[&str]) -> bool {
        let known = self.tables.get(&table_key(table.into, &table.key_columns));
        known.is_some_and(|table| table.catalog.required.iter().all(|name| columns.contains(&name.as_str())))
    }

    /// The prepared statement for a group.
    async fn statement(
        &mut self,
        what: What,
        table: &FoldedTable<'_>,
        group: &Group<'_, '_>,
    ) -> Result<Statement, ApplyError> {
        let Some(known) = self.tables.get(&table_key(table.into, &table.key_columns)) else {
            return Err(catalog::missing_table(table.into, &group.columns, &table.key_columns));
        };
        let columns = group.columns.iter().map(|name| (*name).to_owned()).collect();
        self.prepared(Shape { table: known.number, what, columns }, table.into, &group.columns).await
    }

    /// The prepared statement of a shape.
    async fn prepared(&mut self, shape: Shape, into: &str, columns: &[&str]) -> Result<Statement, ApplyError> {
        if let Some(statement) = self.statements.get(&shape) {
            return Ok(statement.clone());
        }
        let Some(Table { places, catalog, .. }) = self.tables.values().find(|table| table.number == shape.table) else {
            return Err(catalog::missing_table(into, columns, &[]));
        };
        let text = match shape.what {
            What::Write(Form::Delete) => places.delete(&catalog.columns_of(columns)),
            What::Write(Form::Whole) => places.upsert(&catalog.columns_of(columns)),
            What::Write(Form::Part) => places.update_else_insert(&catalog.columns_of(columns)),
            What::AskVersions => places.versions(&catalog.columns_of(columns)),
            What::Unpark => places.unpark(),
            What::Unbury => places.unbury(),
        };
        let prepared = self.client.prepare(&text).await;
        let prepared = prepared.map_err(|cause| self.doing(into, columns).failed(cause))?;
        if self.statements.len() >= SHAPES_MAX {
            self.statements.clear();
        }
        self.statements.insert(shape, prepared.clone());
        Ok(prepared)
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

/// How many of the operations one statement takes.
fn at_once(operations: &[&Operation<'_>]) -> usize {
    let mut bytes = 0;
    let fits = |operation: &&&Operation<'_>| {
        bytes += size(operation);
        bytes <= STATEMENT_BYTES
    };
    operations.iter().take_while(fits).count().max(1)
}
