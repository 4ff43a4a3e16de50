//! One connection and what it knows: the target's tables, temporary tables to copy into, prepared statements.
//!
//! A session learns each table once. When a call fails in a way that outdated knowledge could explain, its owner opens a
//! new session and tries once more; so nothing here is ever refreshed.

use std::collections::HashMap;
use std::io::Cursor;
use std::pin::pin;

use futures_util::SinkExt as _;
use syncline_shared::record::Version;
use tokio_postgres::{Client, Statement};

use super::catalog::{self, Catalog};
use super::config::{PostgresTargetConfig, SchemaMode};
use super::copy;
use super::error::{self, Doing};
use super::group::{Form, Group, groups};
use super::sql::Places;
use crate::target::fold::{FoldedTable, Item, Taken, columns, fold, items};
use crate::target::{Applied, ApplyError, Batch, Outcome, TableMap};

/// Prepared shapes kept per session. Shares that send only what changed have many; a full cache starts anew.
const SHAPES_MAX: usize = 256;

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

/// A table that records of a call need, with their columns.
struct Wanted<'a> {
    into: &'a str,
    key: Vec<&'a str>,
    columns: Vec<&'a str>,
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
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock(hashtextextended({}, 0))",
            super::sql::literal(&format!("syncline writer {writer}"))
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
        let items = items(batches);
        let wanted = wanted(&items);
        for table in &wanted {
            self.learn(table, &items).await?;
        }
        let result = self.transact(&wanted, items).await;
        if result.is_err() && !self.client.is_closed() {
            self.batch("", "ROLLBACK").await?;
        }
        result
    }

    async fn transact(&mut self, wanted: &[Wanted<'_>], items: Vec<Item<'_>>) -> Result<Applied, ApplyError> {
        self.batch("", &self.begin).await?;
        for table in wanted.iter().filter_map(|table| self.tables.get(&table_key(table.into, &table.key))) {
            // From here on the transaction holds the table's lock: its columns stay as they are until the commit.
            let unchanged = self.client.query(&table.same_columns, &[]).await;
            unchanged.map_err(|cause| self.doing(&table.catalog.into, &[]).failed(cause))?;
        }
        let mut outcomes = vec![Outcome::Stale; items.len()];
        let mut groups_written = 0;
        let mut left = items;
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
        self.batch("", "COMMIT").await?;
        Ok(Applied { outcomes })
    }

    /// Copies a group of operations into the temporary table and writes them with one statement.
    async fn write<'a>(
        &mut self,
        table: &FoldedTable<'a>,
        group: &Group<'_, 'a>,
        number: i32,
        outcomes: &mut [Outcome],
        left: &mut Vec<Item<'a>>,
    ) -> Result<(), ApplyError> {
        let shape = self.shape(table, group).await?;
        let doing = self.doing(table.into, &group.columns);
        let mut lines = Vec::new();
        for (row, operation) in group.operations.iter().enumerate() {
            copy::write_line(&mut lines, operation, number, row).map_err(|_| ApplyError::Record {
                table: table.into.to_owned(),
                problem: "bytes that are not base64".to_owned(),
            })?;
        }
        let copied = async {
            let mut sink = pin!(self.client.copy_in(&shape.copy).await?);
            sink.send(Cursor::new(lines)).await?;
            sink.finish().await?;
            self.client.query_one(&shape.write, &[&number]).await?.try_get(0)
        };
        let written: Option<Vec<i32>> = copied.await.map_err(|cause| doing.failed(cause))?;
        let mut taken = vec![None; group.operations.len()];
        for row in written.unwrap_or_default() {
            mark(&mut taken, row, Taken::Applied);
        }
        if taken.contains(&None) {
            let versions = self.client.query(&shape.versions, &[&number]).await;
            for row in versions.map_err(|cause| doing.failed(cause))? {
                let (row, version): (i32, Option<&str>) = (row.get(0), row.get(1));
                if let Some(version) = version.and_then(|text| text.parse::<Version>().ok()) {
                    mark(&mut taken, row, Taken::Held(version));
                }
            }
        }
        for (operation, taken) in group.operations.iter().zip(taken) {
            match taken {
                Some(Taken::Held(version)) if version < operation.since => return Err(self.not_written(table.into)),
                Some(taken) => operation.settle(taken, outcomes, left),
                None => return Err(self.not_written(table.into)),
            }
        }
        Ok(())
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

    /// Reads what a table is like and makes it fit as far as that is permitted. A table is learned once.
    async fn learn(&mut self, wanted: &Wanted<'_>, items: &[Item<'_>]) -> Result<(), ApplyError> {
        let Wanted { into, key, columns } = wanted;
        let table_key = table_key(into, key);
        if let Some(known) = self.tables.get(&table_key) {
            return match known.catalog.lacks(columns).as_slice() {
                [] => Ok(()),
                lacking => Err(known.catalog.missing_columns(lacking)),
            };
        }
        let kind = |column: &str| kind_of(items, into, column);
        let catalog = match self.read(into).await? {
            Some(catalog) => catalog,
            None if self.evolve => {
                self.create(into, &[catalog::create_table(into, columns, key, kind)]).await?;
                self.read(into).await?.ok_or_else(|| catalog::missing_table(into, columns, key))?
            }
            None => return Err(catalog::missing_table(into, columns, key)),
        };
        catalog.fits(key)?;
        let lacking = catalog.lacks(columns);
        if !lacking.is_empty() && !self.evolve {
            return Err(catalog.missing_columns(&lacking));
        }
        let mut statements: Vec<String> = catalog.bookkeeping().into_iter().flatten().collect();
        if !lacking.is_empty() {
            statements.push(catalog::add_columns(into, &lacking, kind));
        }
        let catalog = if statements.is_empty() {
            catalog
        } else {
            self.create(into, &statements).await?;
            self.read(into).await?.ok_or_else(|| catalog::missing_table(into, columns, key))?
        };
        let number = self.tables.len();
        let places = catalog.places(key, &format!("syncline_{number}"));
        self.batch(into, &places.create_staging()).await?;
        let same_columns = self.client.prepare(&places.same_columns()).await;
        let same_columns = same_columns.map_err(|cause| self.doing(into, columns).failed(cause))?;
        self.tables.insert(table_key, Table { number, places, catalog, same_columns });
        Ok(())
    }

    /// Changes the schema in a transaction of its own, one session at a time: all partitions start at once.
    async fn create(&self, into: &str, statements: &[String]) -> Result<(), ApplyError> {
        tracing::info!(target_table = into, statements = statements.join("; "), "changing the target's schema");
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('syncline schema', 0))";
        let changed = self.batch(into, &format!("BEGIN; {lock}; {}; COMMIT", statements.join("; "))).await;
        changed.map_err(|error| match error {
            ApplyError::Unfit { problem, .. } => ApplyError::Unfit { problem, mend: statements.join("; ") },
            error @ (ApplyError::Unreachable { .. } | ApplyError::Busy { .. } | ApplyError::Record { .. }) => error,
        })
    }

    /// What the database knows of a table.
    pub(super) async fn read(&self, into: &str) -> Result<Option<Catalog>, ApplyError> {
        Catalog::read(&self.client, into).await.map_err(|cause| self.doing(into, &[]).failed(cause))
    }

    /// What stands in the way of applying to these tables; changes nothing.
    pub(super) async fn check(&self, tables: &[TableMap]) -> Result<Vec<ApplyError>, ApplyError> {
        let mut problems = self.check_database().await?;
        for map in tables {
            let columns: Vec<_> = map.columns.iter().flat_map(|map| map.values().map(String::as_str)).collect();
            match self.read(&map.into).await? {
                Some(catalog) => problems.extend(catalog.problems(&columns, self.evolve)),
                None if self.evolve => {}
                None => problems.push(catalog::missing_table(&map.into, &columns, &[])),
            }
        }
        Ok(problems)
    }

    async fn check_database(&self) -> Result<Vec<ApplyError>, ApplyError> {
        let question = "SELECT current_setting('transaction_read_only')::bool, \
                        has_database_privilege(current_database(), 'TEMPORARY')";
        let answer = self.client.query_one(question, &[]).await;
        let answer = answer.map_err(|cause| self.doing("", &[]).failed(cause))?;
        let unfit = |problem: &str, mend: &str| ApplyError::Unfit {
            problem: format!("the target at {} {problem}", self.address),
            mend: mend.to_owned(),
        };
        let mut problems = Vec::new();
        if answer.get(0) {
            problems.push(unfit("is read-only", "a target that takes writes"));
        }
        if !answer.get::<_, bool>(1) {
            problems.push(unfit("permits no temporary tables", "GRANT TEMPORARY ON DATABASE to the target's user"));
        }
        Ok(problems)
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

/// The tables of a call with the columns of their records.
fn wanted<'a>(items: &[Item<'a>]) -> Vec<Wanted<'a>> {
    let mut wanted: Vec<Wanted<'a>> = Vec::new();
    let mut last: Option<&Item<'a>> = None;
    for item in items {
        let shape = |item: &Item<'a>| {
            let data = item.record.data.as_ref().map(|data| data.columns().clone());
            (std::ptr::from_ref(item.table), item.record.key.columns().clone(), data)
        };
        if last.is_some_and(|last| shape(last) == shape(item))
            && !item.record.data.as_ref().is_some_and(|data| data.has_unchanged())
        {
            continue;
        }
        last = Some(item);
        let all = columns(item.table, item.record);
        let key: Vec<_> = all.iter().take(item.record.key.columns().len()).map(|(name, _)| *name).collect();
        let into = item.table.into.as_str();
        let index = wanted.iter().position(|table| table.into == into && table.key == key).unwrap_or_else(|| {
            wanted.push(Wanted { into, key, columns: Vec::new() });
            wanted.len() - 1
        });
        if let Some(table) = wanted.get_mut(index) {
            let new =
                all.iter().map(|(name, _)| *name).filter(|name| !table.columns.contains(name)).collect::<Vec<_>>();
            table.columns.extend(new);
        }
    }
    wanted
}

/// The type for a new column, from the records that have it.
fn kind_of(items: &[Item<'_>], into: &str, column: &str) -> &'static str {
    let records = items.iter().filter(|item| item.table.into == into);
    catalog::kind_of(
        records
            .flat_map(|item| columns(item.table, item.record))
            .filter_map(|(name, value)| (name == column).then_some(value)),
    )
}
