//! A look at a PostgreSQL target, and its statements.
//!
//! Values are compared as the texts of the target's own types: exact, and every type has one. A range whose hash is the
//! same on both sides is not looked at any closer.

use syncline_shared::record::{Columns, Version};

use super::config::PostgresTargetConfig;
use super::session::Session;
use super::sql::{Places, VERSION, ident, list, literal};
use crate::target::look::{Look, Others, Seen};
use crate::target::{ApplyError, Batch, TableMap};

/// Compares through one connection.
pub struct PostgresLook(Session);

impl PostgresLook {
    /// Connects.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub async fn open(config: &PostgresTargetConfig) -> Result<Self, ApplyError> {
        let session = Session::open(config, "compare").await?;
        session.plan_for_each_call().await?;
        Ok(Self(session))
    }
}

impl Look for PostgresLook {
    async fn prepare(&mut self, table: &TableMap, key: &Columns) -> Result<(), ApplyError> {
        self.0.prepare_look(table, key).await
    }

    async fn compare(&mut self, batches: &[Batch<'_>]) -> Result<Seen, ApplyError> {
        self.0.compare(batches).await
    }

    async fn others(
        &mut self,
        table: &TableMap,
        key: &Columns,
        upto: Version,
        keys_max: usize,
    ) -> Result<Others, ApplyError> {
        self.0.others(table, key, upto, keys_max).await
    }
}

/// The records of the group that was copied last. All others are of lower groups, so an equality would say the same; but
/// without statistics the planner takes it for one row in 200, and an inequality for one in three.
const NEWEST: &str = "s._syncline_group >= $1";

/// The version a target has of a record, its tombstone's too, is above the record's.
const NEWER: &str = r#"coalesce(greatest(t."_syncline_version", d.version) > s."_syncline_version", false)"#;

/// Records that wait beside a table, in a temporary one that has its columns and types. Beside them: the group of records a
/// statement is about (`$1`), the record's number in it, and what goes with every record.
pub(super) struct Staged<'p> {
    places: &'p Places,
    staging: String,
    /// The temporary table of the keys that had a record.
    accounted: String,
}

impl<'p> Staged<'p> {
    /// Beside the session's table of this number.
    pub(super) fn new(places: &'p Places, number: usize) -> Self {
        let [staging, accounted] =
            ["", "_keys"].map(|what| format!("pg_temp.{}", ident(&format!("syncline_{number}{what}"))));
        Self { places, staging, accounted }
    }

    /// Creates the temporary table, emptied by every commit. Its columns take null, whatever the target's do.
    pub(super) fn create_staging(&self) -> String {
        format!(
            "CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT *, 0::int4 AS _syncline_group, \
             0::int4 AS _syncline_row, ''::text COLLATE \"C\" AS _syncline_key, NULL::uuid AS _syncline_since \
             FROM {} WITH NO DATA",
            self.staging, self.places.table
        )
    }

    /// Takes records in; [`super::copy`] writes its lines.
    pub(super) fn copy(&self, columns: &[&str]) -> String {
        format!(
            "COPY {} ({}, {VERSION}, _syncline_group, _syncline_row, _syncline_key, _syncline_since) FROM STDIN",
            self.staging,
            list("", columns)
        )
    }

    /// Creates it.
    pub(super) fn create_accounted(&self) -> String {
        let keys = list("", &self.places.key);
        format!("CREATE TEMPORARY TABLE {} AS SELECT {keys} FROM {} WITH NO DATA", self.accounted, self.places.table)
    }

    /// Notes the keys that were copied.
    pub(super) fn account(&self) -> String {
        format!(
            "INSERT INTO {} SELECT {} FROM {} s WHERE {NEWEST}",
            self.accounted,
            list("s.", &self.places.key),
            self.staging
        )
    }

    /// What the records that were copied stand for, joined with what the target has.
    fn joined(&self) -> String {
        let Places { table, tombstones, literal, .. } = self.places;
        format!(
            "FROM {staging} s LEFT JOIN {table} t ON {} \
             LEFT JOIN {tombstones} d ON d.table_name = {literal} AND d.key = s._syncline_key WHERE {NEWEST}",
            self.places.same_key("t"),
            staging = self.staging
        )
    }

    /// Counts the records that were copied: all that are not outdated, those outdated, the rows there are of the first, and
    /// whether the hashes of both are the same.
    pub(super) fn hashes(&self, columns: &[&str]) -> String {
        let key = list("s.", &self.places.key);
        let hash = |prefix| {
            let others = self.others_of(columns);
            let row = if others.is_empty() { key.clone() } else { format!("{key}, {}", list(prefix, &others)) };
            format!("hashtextextended(ROW({row})::text COLLATE \"C\", 0)::numeric")
        };
        format!(
            "SELECT count(*) FILTER (WHERE NOT newer), count(*) FILTER (WHERE newer), \
             count(*) FILTER (WHERE there AND NOT newer), \
             sum(said) FILTER (WHERE NOT newer) IS NOT DISTINCT FROM sum(held) FILTER (WHERE there AND NOT newer) \
             FROM (SELECT {NEWER} AS newer, {} IS NOT NULL AS there, {} AS said, {} AS held {}) r",
            self.first_key(),
            hash("s."),
            hash("t."),
            self.joined()
        )
    }

    /// The records that were copied and whose rows are others: their numbers, whether there is no row, and which columns.
    pub(super) fn differences(&self, columns: &[&str]) -> String {
        let differs = |name: &&str| {
            let name = ident(name);
            format!("s.{name}::text COLLATE \"C\" IS DISTINCT FROM t.{name}::text COLLATE \"C\"")
        };
        let others = self.others_of(columns);
        let missing = format!("{} IS NULL", self.first_key());
        let any: Vec<_> = std::iter::once(missing.clone()).chain(others.iter().map(differs)).collect();
        let names: Vec<_> =
            others.iter().map(|name| format!("CASE WHEN {} THEN {} END", differs(name), literal(name))).collect();
        format!(
            "SELECT s._syncline_row, {missing}, array_remove(ARRAY[{}]::text[], NULL) {} AND NOT {NEWER} AND ({})",
            names.join(", "),
            self.joined(),
            any.join(" OR ")
        )
    }

    /// The keys of rows that had no record, with the number of all of them.
    pub(super) fn others(&self, upto: Version, keys_max: usize) -> String {
        let keys: Vec<_> = self.places.key.iter().map(|name| format!("t.{}::text", ident(name))).collect();
        format!(
            "SELECT count(*) OVER (), {} FROM {} t WHERE (t.{VERSION} IS NULL OR t.{VERSION} <= '{upto}') \
             AND NOT EXISTS (SELECT FROM {} s WHERE {}) ORDER BY {} LIMIT {keys_max}",
            keys.join(", "),
            self.places.table,
            self.accounted,
            self.places.same_key("t"),
            list("t.", &self.places.key)
        )
    }

    /// Lets the planner know how many keys there are.
    pub(super) fn analyze_accounted(&self) -> String {
        format!("ANALYZE {}", self.accounted)
    }

    fn first_key(&self) -> String {
        self.places.key.iter().take(1).map(|name| format!("t.{}", ident(name))).collect()
    }

    /// The columns that are not of the key.
    fn others_of<'c>(&self, columns: &[&'c str]) -> Vec<&'c str> {
        columns.iter().copied().filter(|name| !self.places.key.iter().any(|key| key == name)).collect()
    }
}
