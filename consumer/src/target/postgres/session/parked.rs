//! The begin of a call, records that are parked or were deleted, and messages that are tried alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use syncline_shared::record::Version;
use tokio_postgres::SimpleQueryMessage;

use super::learn::Wanted;
use super::{Session, Shape, Table, What, table_key};
use crate::target::fold::{Item, key_name};
use crate::target::postgres::catalog::{self, Catalog, PARKED, TRIES};
use crate::target::postgres::sql;
use crate::target::{ApplyError, Outcome, Parked};

/// A table, a key of it, and the version up to which what is parked or buried of it is forgotten.
pub(super) type Cleared = (usize, String, Version);

/// How long a plan is kept: tables may have grown since it was made, and one for a hundred rows is a disaster for millions.
const PLANS_LAST: Duration = Duration::from_secs(10);

/// What there is in the schemas of a call's tables.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Begun {
    /// Some record is parked.
    pub(super) has_parked: bool,
    /// Some record was deleted.
    pub(super) has_buried: bool,
}

/// The number of a record's table, and the dead letters that are parked of it by their versions.
type Marks = (usize, BTreeMap<Version, String>);

/// Parked records of one table, in columns.
#[derive(Default)]
struct Columns<'a> {
    keys: Vec<String>,
    versions: Vec<String>,
    letters: Vec<&'a str>,
}

impl Session {
    /// What begins a call's transaction. From then on it holds the tables' locks, so that their columns stay as they are
    /// until the commit.
    pub(super) fn opening(&mut self, wanted: &[Wanted<'_>]) -> String {
        let mut opening = String::new();
        if self.planned.elapsed() >= PLANS_LAST {
            self.planned = Instant::now();
            opening.push_str("DISCARD PLANS; ");
        }
        let known = wanted.iter().filter_map(|table| self.known(table));
        opening.push_str(&sql::begin(known.map(|table| table.number)));
        opening
    }

    /// Begins the transaction of this call before its first statement, which may need to know what was found.
    pub(super) async fn look(&mut self) -> Result<(), ApplyError> {
        if let Some(opening) = self.opening.take() {
            self.begun = self.begin(&opening).await?;
        }
        Ok(())
    }

    pub(super) async fn begin(&self, opening: &str) -> Result<Begun, ApplyError> {
        let answers = self.client.simple_query(opening).await.map_err(|cause| self.doing("", &[]).failed(cause))?;
        let mut begun = Begun::default();
        for answer in &answers {
            let SimpleQueryMessage::Row(row) = answer else { continue };
            let is = |name| row.try_get(name).ok().flatten() == Some("t");
            begun.has_parked |= is("has_parked");
            begun.has_buried |= is("has_buried");
        }
        Ok(begun)
    }

    /// Takes out the parts of records of which an older change is parked. The others are to be written, and then what is
    /// parked of their records is to be forgotten.
    pub(super) async fn hold_back<'a>(
        &self,
        wanted: &[Wanted<'_>],
        items: Vec<Item<'a>>,
        outcomes: &mut [Outcome],
    ) -> Result<(Vec<Item<'a>>, Vec<Cleared>), ApplyError> {
        let mut parked: HashMap<(&str, String), Marks> = HashMap::new();
        for wanted in wanted {
            let Some(table) = self.known(wanted) else { continue };
            let of_table = items.iter().filter(|item| item.table.into == wanted.into);
            let keys: Vec<String> = of_table.map(|item| key_name(&item.record.key)).collect();
            for row in
                self.client.query(&table.places.parked(), &[&keys]).await.map_err(|cause| self.parking(table, cause))?
            {
                let version: &str = row.get(1);
                let Ok(version) = version.parse() else { continue };
                let (_, marks) = parked.entry((wanted.into, row.get(0))).or_insert((table.number, BTreeMap::new()));
                marks.insert(version, row.get(2));
            }
        }
        let (mut kept, mut cleared) = (Vec::new(), Vec::new());
        for item in items {
            let (key, version) = (key_name(&item.record.key), item.record.version);
            if let Some((table, marks)) = parked.get_mut(&(item.table.into.as_str(), key.clone())) {
                if let Some((oldest, behind)) = marks.first_key_value()
                    && item.record.partial
                    && *oldest < version
                {
                    if let Some(place) = outcomes.get_mut(item.place) {
                        *place = Outcome::Waits { behind: behind.clone() };
                    }
                    continue;
                }
                marks.retain(|parked, _| *parked > version);
                cleared.push((*table, key, version));
            }
            kept.push(item);
        }
        Ok((kept, cleared))
    }

    /// Forgets what is parked or buried of records that the transaction took.
    pub(super) async fn forget(&mut self, records: &[Cleared], what: What) -> Result<(), ApplyError> {
        let numbers: BTreeSet<usize> = records.iter().map(|(number, ..)| *number).collect();
        for table in numbers {
            let of_table = records.iter().filter(|(number, ..)| *number == table);
            let (keys, versions): (Vec<&str>, Vec<String>) =
                of_table.map(|(_, key, version)| (key.as_str(), version.to_string())).unzip();
            let known = self.tables.values().find(|known| known.number == table);
            let into = known.map(|known| known.catalog.into.clone()).unwrap_or_default();
            let statement = self.prepared(Shape { table, what, columns: Vec::new() }, &into, &[]).await?;
            let done = self.client.execute(&statement, &[&keys, &versions]).await;
            done.map_err(|cause| self.doing(&into, &[]).failed(cause))?;
        }
        Ok(())
    }

    /// Remembers parked records.
    pub(in crate::target::postgres) async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), ApplyError> {
        let mut by_table: BTreeMap<&str, Columns<'_>> = BTreeMap::new();
        for Parked { table, record, letter } in parked {
            let columns = by_table.entry(&table.into).or_default();
            columns.keys.push(key_name(&record.key));
            columns.versions.push(record.version.to_string());
            columns.letters.push(letter);
        }
        for (into, Columns { keys, versions, letters }) in by_table {
            let catalog =
                Catalog::read(&self.client, into).await.map_err(|cause| self.doing(into, &[]).failed(cause))?;
            let catalog = catalog.ok_or_else(|| catalog::missing_table(into, &[], &[]))?;
            if let Some(statements) = catalog.bookkeeping() {
                self.create(into, &statements).await?;
            }
            let park = catalog.places(&[]).park();
            let done = self.client.execute(&park, &[&keys, &versions, &letters]).await;
            done.map_err(|cause| self.doing(into, &[]).failed(cause))?;
        }
        Ok(())
    }

    /// Forgets records that are parked as these dead letters, in every schema.
    pub(in crate::target::postgres) async fn unpark(&mut self, letters: &[String]) -> Result<(), ApplyError> {
        let schemas = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                       WHERE c.relname = $1 AND c.relkind = 'r' AND has_table_privilege(c.oid, 'DELETE')";
        let failed = |cause| self.doing("", &[]).failed(cause);
        for row in self.client.query(schemas, &[&PARKED]).await.map_err(failed)? {
            let (schema, parked): (&str, _) = (row.get(0), sql::ident(PARKED));
            let delete = format!("DELETE FROM {}.{parked} WHERE letter = ANY ($1)", sql::ident(schema));
            self.client.execute(&delete, &[&letters]).await.map_err(failed)?;
        }
        Ok(())
    }

    /// How often a message was tried alone.
    pub(in crate::target::postgres) async fn tries(&self, beside: &str, message: &str) -> Result<u32, ApplyError> {
        let table = tries_table(beside);
        if !self.exists(&table).await? {
            return Ok(0);
        }
        let asked = self.client.query_opt(&format!("SELECT tries FROM {table} WHERE message = $1"), &[&message]).await;
        let row = asked.map_err(|cause| self.doing(TRIES, &[]).failed(cause))?;
        Ok(row.map_or(0, |row| u32::try_from(row.get::<_, i32>(0)).unwrap_or_default()))
    }

    /// Remembers how often a message was tried alone.
    pub(in crate::target::postgres) async fn set_tries(
        &self,
        beside: &str,
        message: &str,
        tries: u32,
    ) -> Result<(), ApplyError> {
        let table = tries_table(beside);
        if !self.exists(&table).await? {
            if tries == 0 {
                return Ok(());
            }
            self.create(TRIES, &[sql::create_tries(&table)]).await?;
        }
        let done = if tries == 0 {
            self.client.execute(&format!("DELETE FROM {table} WHERE message = $1"), &[&message]).await
        } else {
            let upsert = format!(
                "INSERT INTO {table} (message, tries, tried_at) VALUES ($1, $2, now()) ON CONFLICT (message) \
                 DO UPDATE SET tries = excluded.tries, tried_at = excluded.tried_at"
            );
            self.client.execute(&upsert, &[&message, &i32::try_from(tries).unwrap_or(i32::MAX)]).await
        };
        done.map(drop).map_err(|cause| self.doing(TRIES, &[]).failed(cause))
    }

    pub(super) async fn exists(&self, table: &str) -> Result<bool, ApplyError> {
        let asked = self.client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await;
        asked.map(|row| row.get(0)).map_err(|cause| self.doing("", &[]).failed(cause))
    }

    fn known(&self, wanted: &Wanted<'_>) -> Option<&Table> {
        self.tables.get(&table_key(wanted.into, &wanted.key))
    }

    fn parking(&self, table: &Table, cause: tokio_postgres::Error) -> ApplyError {
        self.doing(&table.catalog.into, &[]).failed(cause)
    }
}

/// Where tries are counted: in the schema of the named table, else in the user's own.
fn tries_table(beside: &str) -> String {
    match beside.split_once('.') {
        Some((schema, _)) => format!("{}.{}", sql::ident(schema), sql::ident(TRIES)),
        None => sql::ident(TRIES),
    }
}
