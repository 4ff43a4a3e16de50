//! Getting to know the target's tables, and making them fit as far as that is permitted.

use super::{Session, Table, table_key};
use crate::target::fold::{Item, columns};
use crate::target::postgres::catalog::{self, Catalog};
use crate::target::{ApplyError, TableMap};

/// A table that records of a call need, with their columns.
pub(super) struct Wanted<'a> {
    pub(super) into: &'a str,
    pub(super) key: Vec<&'a str>,
    columns: Vec<&'a str>,
}

impl Session {
    /// Reads what a table is like and makes it fit as far as that is permitted. A table is learned once.
    pub(super) async fn learn(&mut self, wanted: &Wanted<'_>, items: &[Item<'_>]) -> Result<(), ApplyError> {
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
        let number = self.learned;
        // A name is used once, also where it could not be prepared.
        self.learned += 1;
        let places = catalog.places(key);
        self.batch(into, &places.prepare_look(number)).await?;
        self.tables.insert(table_key, Table { number, places, catalog });
        Ok(())
    }

    /// Changes the schema in a transaction of its own, one session at a time: all partitions start at once.
    pub(super) async fn create(&self, into: &str, statements: &[String]) -> Result<(), ApplyError> {
        tracing::info!(target_table = into, statement = statements.join("; "), "changing the target's schema");
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
    pub(in crate::target::postgres) async fn check(&self, tables: &[TableMap]) -> Result<Vec<ApplyError>, ApplyError> {
        let mut problems: Vec<_> = self.check_database().await?.into_iter().collect();
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

    async fn check_database(&self) -> Result<Option<ApplyError>, ApplyError> {
        let answer = self.client.query_one("SELECT current_setting('transaction_read_only')::bool", &[]).await;
        let is_read_only: bool = answer.map_err(|cause| self.doing("", &[]).failed(cause))?.get(0);
        let problem = is_read_only.then(|| ApplyError::Unfit {
            problem: format!("the target at {} is read-only", self.address),
            mend: "a target that takes writes".to_owned(),
        });
        Ok(problem)
    }
}

/// The tables of a call with the columns of their records.
pub(super) fn wanted<'a>(items: &[Item<'a>]) -> Vec<Wanted<'a>> {
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
