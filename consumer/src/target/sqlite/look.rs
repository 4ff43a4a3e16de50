//! A look at a SQLite target. Temporary tables are SQLite's own files beside it, or memory.
//!
//! Values are compared with their storage class: what was stored as a text is no number. All of it happens on threads for
//! blocking work.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, params_from_iter};
use syncline_shared::record::{Action, Columns, Row, Value, Version};
use syncline_shared::sqlite::{self, quote};

use super::OwnedBatch;
use super::catalog::{self, Table};
use super::config::SqliteTargetConfig;
use super::error::Doing;
use super::shape::VERSION;
use crate::target::fold::{Item, columns, items, key_name};
use crate::target::look::{Difference, Look, Others, Seen};
use crate::target::{ApplyError, Batch, TableMap};

/// Compares through one connection.
pub struct SqliteLook {
    config: SqliteTargetConfig,
    open: Arc<Mutex<Open>>,
}

struct Open {
    connection: Connection,
    address: String,
    tables: Vec<Looked>,
}

/// A table that is looked at.
struct Looked {
    into: String,
    table: Table,
    /// The target's names of the key columns.
    key: Vec<String>,
    /// The temporary table of the records at hand.
    staging: String,
    /// The temporary table of the keys that had a record.
    accounted: String,
    /// Where the tombstones are.
    tombstones: &'static str,
}

impl SqliteLook {
    /// Opens the file.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn open(config: &SqliteTargetConfig) -> Result<Self, ApplyError> {
        let (address, path, busy) = (config.address(), config.path.clone(), config.busy_timeout());
        let open = off_thread(config.address(), move || {
            let opened = sqlite::open(&path, false).and_then(|connection| {
                connection.busy_timeout(busy)?;
                Ok(connection)
            });
            let connection = opened.map_err(|cause| Doing { address: &address, table: "" }.failed(cause))?;
            Ok(Open { connection, address, tables: Vec::new() })
        });
        Ok(Self { open: Arc::new(Mutex::new(open.await?)), config: config.clone() })
    }

    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, ApplyError> + Send + 'static,
    ) -> Result<T, ApplyError> {
        let open = Arc::clone(&self.open);
        off_thread(self.config.address(), move || work(&mut open.lock().unwrap_or_else(PoisonError::into_inner))).await
    }
}

async fn off_thread<T: Send + 'static>(
    address: String,
    work: impl FnOnce() -> Result<T, ApplyError> + Send + 'static,
) -> Result<T, ApplyError> {
    // What a panic says might show a value.
    let ended = |_| Err(ApplyError::Unreachable { address, cause: "the call's thread ended".into() });
    tokio::task::spawn_blocking(work).await.unwrap_or_else(ended)
}

impl Look for SqliteLook {
    async fn prepare(&mut self, table: &TableMap, key: &Columns) -> Result<(), ApplyError> {
        let into = table.into.clone();
        let key = key.iter().filter_map(|name| table.column(name, true)).map(str::to_owned).collect();
        self.with(move |open| open.prepare(&into, key)).await
    }

    async fn compare(&mut self, batches: &[Batch<'_>]) -> Result<Seen, ApplyError> {
        let batches: Vec<_> = batches.iter().map(OwnedBatch::from).collect();
        self.with(move |open| {
            let batches: Vec<_> = batches.iter().map(OwnedBatch::borrow).collect();
            open.compare(&batches)
        })
        .await
    }

    async fn others(
        &mut self,
        table: &TableMap,
        key: &Columns,
        upto: Version,
        keys_max: usize,
    ) -> Result<Others, ApplyError> {
        let (into, key) = (table.into.clone(), key.clone());
        self.with(move |open| {
            let looked = open.looked(&into)?;
            let others = looked.others(&open.connection, &key, upto, keys_max);
            others.map_err(|cause| Doing { address: &open.address, table: &into }.failed(cause))
        })
        .await
    }
}

impl Open {
    fn prepare(&mut self, into: &str, key: Vec<String>) -> Result<(), ApplyError> {
        let doing = Doing { address: &self.address, table: into };
        let names: Vec<&str> = key.iter().map(String::as_str).collect();
        if self.tables.iter().any(|looked| looked.into == into) {
            return Ok(());
        }
        let table = Table::read(&self.connection, into).map_err(|cause| doing.failed(cause))?;
        let table = table.ok_or_else(|| catalog::missing_table(into, &names, &names))?;
        table.fits(&names)?;
        if !table.lacks(&[VERSION]).is_empty() {
            return Err(ApplyError::Unfit {
                problem: format!("nothing was ever applied to table {into:?}"),
                mend: format!("running the consumer, or {}", table.add_column(VERSION)),
            });
        }
        let number = self.tables.len();
        let (staging, accounted) = (format!("temp.syncline_{number}"), format!("temp.syncline_{number}_keys"));
        let (main, keys) = (format!("main.{}", quote(&table.name)), super::shape::list(&names));
        let statements = format!(
            "CREATE TABLE {staging} AS SELECT *, 0 AS _syncline_row, '' AS _syncline_key FROM {main} WHERE 0;
             CREATE TABLE {accounted} AS SELECT {keys} FROM {main} WHERE 0;
             CREATE INDEX {accounted}_by_key ON syncline_{number}_keys ({keys})"
        );
        self.connection.execute_batch(&statements).map_err(|cause| doing.failed(cause))?;
        let known = self.connection.table_exists(Some("main"), "_syncline_tombstone");
        let tombstones = match known.map_err(|cause| doing.failed(cause))? {
            true => "main._syncline_tombstone",
            false => "(SELECT NULL AS table_name, NULL AS key, NULL AS version WHERE 0)",
        };
        self.tables.push(Looked { into: into.to_owned(), table, key, staging, accounted, tombstones });
        Ok(())
    }

    fn looked(&self, into: &str) -> Result<&Looked, ApplyError> {
        self.tables.iter().find(|looked| looked.into == into).ok_or_else(|| catalog::missing_table(into, &[], &[]))
    }

    /// Compares rows with records in one read transaction of the file.
    fn compare(&self, batches: &[Batch<'_>]) -> Result<Seen, ApplyError> {
        let reading = self.connection.unchecked_transaction();
        let failed = |cause| Doing { address: &self.address, table: "" }.failed(cause);
        let reading = reading.map_err(failed)?;
        let mut seen = Seen::default();
        let mut left = items(batches);
        while let Some(first) = left.first() {
            let shape = shape(first);
            let (alike, others) = left.into_iter().partition(|item| self::shape(item) == shape);
            left = others;
            self.looked(&shape.1)?.compare(&self.address, &reading, &alike, &shape.2, &mut seen)?;
        }
        reading.commit().map_err(failed)?;
        seen.differences.sort_by_key(|(place, _)| *place);
        Ok(seen)
    }
}

/// Whether only the key counts, the target's table, and the columns.
fn shape(item: &Item<'_>) -> (bool, String, Vec<String>) {
    let names = columns(item.table, item.record).into_iter().map(|(name, _)| name.to_owned());
    (item.action == Action::Delete, item.table.into.clone(), names.collect())
}

impl Looked {
    /// Compares the rows of records that have the same columns.
    fn compare(
        &self,
        address: &str,
        reading: &Connection,
        items: &[Item<'_>],
        names: &[String],
        seen: &mut Seen,
    ) -> Result<(), ApplyError> {
        let doing = Doing { address, table: &self.into };
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let lacking = self.table.lacks(&names);
        if !lacking.is_empty() {
            return Err(self.table.missing_columns(&lacking));
        }
        self.stage(reading, items, &names)
            .map_err(|cause| doing.failed(cause))?
            .ok_or_else(|| doing.refused("bytes that are not base64"))?;
        if items.first().is_some_and(|item| item.action != Action::Delete) {
            self.differences(reading, &names, seen).map_err(|cause| doing.failed(cause))?;
        }
        Ok(())
    }

    /// Puts records into the temporary table, and their keys among those that had one; `None` for a value that is broken.
    fn stage(&self, reading: &Connection, items: &[Item<'_>], names: &[&str]) -> rusqlite::Result<Option<()>> {
        let Self { staging, accounted, .. } = self;
        let places = vec!["?"; names.len() + 3].join(", ");
        let list = super::shape::list(names);
        reading.execute(&format!("DELETE FROM {staging}"), [])?;
        let mut insert = reading.prepare_cached(&format!(
            "INSERT INTO {staging} ({list}, {VERSION}, _syncline_row, _syncline_key) VALUES ({places})"
        ))?;
        for item in items {
            let bound = columns(item.table, item.record)
                .into_iter()
                .map(|(name, value)| self.table.affinity(name).and_then(|affinity| affinity.bind(value)));
            let Some(mut values) = bound.collect::<Option<Vec<_>>>() else { return Ok(None) };
            values.push(ToSqlOutput::from(item.record.version.to_bytes().to_vec()));
            values.push(ToSqlOutput::from(i64::try_from(item.place).unwrap_or_default()));
            values.push(ToSqlOutput::from(key_name(&item.record.key)));
            insert.execute(params_from_iter(values))?;
        }
        let keys = super::shape::list(&self.key.iter().map(String::as_str).collect::<Vec<_>>());
        reading.execute(&format!("INSERT INTO {accounted} SELECT {keys} FROM {staging}"), [])?;
        Ok(Some(()))
    }

    fn differences(&self, reading: &Connection, names: &[&str], seen: &mut Seen) -> rusqlite::Result<()> {
        let others: Vec<&str> =
            names.iter().copied().filter(|name| !self.key.iter().any(|key| key.eq_ignore_ascii_case(name))).collect();
        let differs = |name: &&str| {
            let name = quote(name);
            format!("(typeof(s.{name}) <> typeof(t.{name}) OR s.{name} COLLATE BINARY IS NOT t.{name})")
        };
        let (missing, differ): (_, Vec<_>) =
            (format!("t.{} IS NULL", self.first_key()), others.iter().map(differs).collect());
        let newer = format!("(coalesce(t.{VERSION} > s.{VERSION}, 0) OR coalesce(d.version > s.{VERSION}, 0))");
        let found = format!("{missing}{}", differ.iter().map(|one| format!(" OR {one}")).collect::<String>());
        let query = format!(
            "SELECT s._syncline_row, {newer}, {missing}{} FROM {} s LEFT JOIN main.{} t ON {} \
             LEFT JOIN {} d ON d.table_name = ?1 AND d.key = s._syncline_key WHERE {newer} OR {found}",
            differ.iter().map(|one| format!(", {one}")).collect::<String>(),
            self.staging,
            quote(&self.table.name),
            self.same_key(),
            self.tombstones,
        );
        let mut select = reading.prepare_cached(&query)?;
        let mut rows = select.query([&self.table.name])?;
        while let Some(row) = rows.next()? {
            if row.get(1)? {
                seen.newer += 1;
                continue;
            }
            let difference = if row.get(2)? {
                Difference::Missing
            } else {
                let mut named = Vec::new();
                for (place, name) in others.iter().enumerate() {
                    if row.get(place + 3)? {
                        named.push((*name).to_owned());
                    }
                }
                Difference::Columns(named)
            };
            let place: i64 = row.get(0)?;
            seen.differences.push((usize::try_from(place).unwrap_or_default(), difference));
        }
        Ok(())
    }

    fn others(
        &self,
        connection: &Connection,
        key: &Columns,
        upto: Version,
        keys_max: usize,
    ) -> rusqlite::Result<Others> {
        let names: Vec<_> = self.key.iter().map(|name| format!("t.{}", quote(name))).collect();
        let list = names.join(", ");
        let query = format!(
            "SELECT count(*) OVER (), {list} FROM main.{} t LEFT JOIN {} s ON {} \
             WHERE s.{} IS NULL AND (t.{VERSION} IS NULL OR t.{VERSION} <= ?1) ORDER BY {list} LIMIT {keys_max}",
            quote(&self.table.name),
            self.accounted,
            self.same_key(),
            self.first_key(),
        );
        let mut others = Others::default();
        let mut select = connection.prepare(&query)?;
        let mut rows = select.query([upto.to_bytes().as_slice()])?;
        while let Some(row) = rows.next()? {
            others.count = u64::try_from(row.get::<_, i64>(0)?).unwrap_or_default();
            let mut values = Row::builder(key.clone());
            for place in 1..=key.len() {
                match row.get_ref(place)? {
                    ValueRef::Null => values.push(Value::Null),
                    ValueRef::Integer(number) => values.push_number(&number.to_string()),
                    ValueRef::Real(number) => values.push_number(&format!("{number:?}")),
                    ValueRef::Text(text) => values.push(Value::Text(&String::from_utf8_lossy(text))),
                    ValueRef::Blob(bytes) => values.push_bytes(bytes),
                }
            }
            others.keys.push(values.finish());
        }
        Ok(others)
    }

    /// The target's collations decide.
    fn same_key(&self) -> String {
        let names = self.key.iter().map(|name| quote(name));
        names.map(|name| format!("t.{name} = s.{name}")).collect::<Vec<_>>().join(" AND ")
    }

    fn first_key(&self) -> String {
        self.key.iter().take(1).map(|name| quote(name)).collect()
    }
}
