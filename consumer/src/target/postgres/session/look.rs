//! Comparing rows with records through a session of its own.

use std::io::Cursor;
use std::pin::pin;

use futures_util::SinkExt as _;
use syncline_shared::record::{Columns, Row, Value, Version};
use tokio_postgres::Statement;

use super::{Session, Table, table_key};
use crate::target::fold::{FoldedTable, fold, items};
use crate::target::look::{Difference, Others, Seen};
use crate::target::postgres::group::{Form, Group, groups};
use crate::target::postgres::look::Staged;
use crate::target::postgres::{catalog, copy};
use crate::target::{ApplyError, Batch, TableMap};

/// What is copied to the server at a time: the connection's buffer grows to the largest and stays as large.
const COPY_CHUNK_BYTES: usize = 32 * 1024;

/// What is seen may be of several tables, but at one moment; and it is only seen.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

impl Session {
    /// Gets to know a table as it is, and makes the temporary tables beside it.
    pub(in crate::target::postgres) async fn prepare_look(
        &mut self,
        map: &TableMap,
        source_key: &Columns,
    ) -> Result<(), ApplyError> {
        let into = map.into.as_str();
        let key: Vec<&str> = source_key.iter().filter_map(|name| map.column(name, true)).collect();
        if self.tables.contains_key(&table_key(into, &key)) {
            return Ok(());
        }
        let catalog = self.read(into).await?.ok_or_else(|| catalog::missing_table(into, &key, &key))?;
        catalog.fits(&key)?;
        if let Some(statements) = catalog.bookkeeping() {
            return Err(ApplyError::Unfit {
                problem: format!("nothing was ever applied to table {into:?}"),
                mend: format!("running the consumer, or {}", statements.join("; ")),
            });
        }
        let number = self.tables.len();
        let places = catalog.places(&key);
        let staged = Staged::new(&places, number);
        self.batch(into, &format!("{}; {}", staged.create_staging(), staged.create_accounted())).await?;
        self.tables.insert(table_key(into, &key), Table { number, places, catalog });
        Ok(())
    }

    /// Compares rows with records.
    pub(in crate::target::postgres) async fn compare(&self, batches: &[Batch<'_>]) -> Result<Seen, ApplyError> {
        self.batch("", BEGIN).await?;
        let seen = self.compare_all(batches).await;
        // What was copied goes with the transaction, but for the keys.
        let end = if seen.is_ok() { "COMMIT" } else { "ROLLBACK" };
        if !self.client.is_closed() {
            self.batch("", end).await?;
        }
        seen
    }

    async fn compare_all(&self, batches: &[Batch<'_>]) -> Result<Seen, ApplyError> {
        let items = items(batches);
        let (mut seen, mut number) = (Seen::default(), 0);
        for table in &fold(&items).tables {
            for group in groups(table, |_| true) {
                number += 1;
                self.compare_group(table, &group, number, &mut seen).await?;
            }
        }
        seen.differences.sort_by_key(|(place, _)| *place);
        Ok(seen)
    }

    async fn compare_group(
        &self,
        table: &FoldedTable<'_>,
        group: &Group<'_, '_>,
        number: i32,
        seen: &mut Seen,
    ) -> Result<(), ApplyError> {
        let known = self.looked_at(table.into, &table.key_columns)?;
        let lacking = known.catalog.lacks(&group.columns);
        if !lacking.is_empty() {
            return Err(known.catalog.missing_columns(&lacking));
        }
        let failed = |cause| self.doing(table.into, &group.columns).failed(cause);
        let places = Staged::new(&known.places, known.number);
        let copy = self.client.prepare(&places.copy(&group.columns)).await.map_err(failed)?;
        self.copy(&copy, table.into, group, number).await?;
        self.client.execute(&places.account(), &[&number]).await.map_err(failed)?;
        if group.form == Form::Delete {
            return Ok(());
        }
        let hashes = self.client.query_one(&places.hashes(&group.columns), &[&number]).await.map_err(failed)?;
        let newer: i64 = hashes.get(1);
        seen.newer += u64::try_from(newer).unwrap_or_default();
        if hashes.get::<_, i64>(0) == hashes.get::<_, i64>(2) && hashes.get(3) {
            return Ok(());
        }
        let rows = self.client.query(&places.differences(&group.columns), &[&number]).await.map_err(failed)?;
        for row in rows {
            let operation = usize::try_from(row.get::<_, i32>(0)).ok().and_then(|row| group.operations.get(row));
            let Some(operation) = operation else { continue };
            let difference = if row.get(1) { Difference::Missing } else { Difference::Columns(row.get(2)) };
            seen.differences.push((operation.place(), difference));
        }
        Ok(())
    }

    /// Copies a group of operations into the temporary table, a chunk at a time.
    async fn copy(&self, copy: &Statement, table: &str, group: &Group<'_, '_>, number: i32) -> Result<(), ApplyError> {
        let failed = |cause| self.doing(table, &group.columns).failed(cause);
        let mut sink = pin!(self.client.copy_in(copy).await.map_err(failed)?);
        let mut lines = Vec::with_capacity(COPY_CHUNK_BYTES);
        for (row, operation) in group.operations.iter().enumerate() {
            copy::write_line(&mut lines, operation, number, row)
                .map_err(|error| self.doing(table, &[]).not_base64(&error))?;
            if lines.len() >= COPY_CHUNK_BYTES {
                let chunk = std::mem::replace(&mut lines, Vec::with_capacity(COPY_CHUNK_BYTES));
                sink.send(Cursor::new(chunk)).await.map_err(failed)?;
            }
        }
        sink.send(Cursor::new(lines)).await.map_err(failed)?;
        sink.finish().await.map_err(failed)?;
        Ok(())
    }

    /// Has statements planned for the tables as they are: they are few, and the tables grow between them.
    pub(in crate::target::postgres) async fn plan_for_each_call(&self) -> Result<(), ApplyError> {
        self.batch("", "SET plan_cache_mode = force_custom_plan").await
    }

    /// Rows that had no record.
    pub(in crate::target::postgres) async fn others(
        &self,
        map: &TableMap,
        key: &Columns,
        upto: Version,
        keys_max: usize,
    ) -> Result<Others, ApplyError> {
        let names: Vec<&str> = key.iter().filter_map(|name| map.column(name, true)).collect();
        let known = self.looked_at(&map.into, &names)?;
        let places = Staged::new(&known.places, known.number);
        let failed = |cause| self.doing(&map.into, &names).failed(cause);
        self.batch(&map.into, &places.analyze_accounted()).await?;
        let rows = self.client.query(&places.others(upto, keys_max), &[]).await.map_err(failed)?;
        let count: i64 = rows.first().map_or(0, |row| row.get(0));
        let keys = rows.iter().map(|row| {
            let mut values = Row::builder(key.clone());
            (1..=key.len()).for_each(|place| values.push(Value::Text(row.get(place))));
            values.finish()
        });
        Ok(Others { count: u64::try_from(count).unwrap_or_default(), keys: keys.collect() })
    }

    fn looked_at(&self, into: &str, key: &[&str]) -> Result<&Table, ApplyError> {
        self.tables.get(&table_key(into, key)).ok_or_else(|| catalog::missing_table(into, key, key))
    }
}
