//! A look at a PostgreSQL target, and its statements.
//!
//! Values are compared as the texts of the target's own types: exact, and every type has one. A range whose hash is the
//! same on both sides is not looked at any closer.

use syncline_shared::record::{Columns, Version};

use super::config::PostgresTargetConfig;
use super::session::Session;
use super::sql::{NEWEST, Places, VERSION, ident, list, literal};
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
        Session::open(config, "compare").await.map(Self)
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

/// The version a target has of a record, its tombstone's too, is above the record's.
const NEWER: &str = r#"coalesce(greatest(t."_syncline_version", d.version) > s."_syncline_version", false)"#;

impl Places {
    /// The temporary table of the keys that had a record.
    fn accounted(&self) -> String {
        format!("{}_keys\"", self.staging.trim_end_matches('"'))
    }

    /// Creates it.
    pub(super) fn create_accounted(&self) -> String {
        let keys = list("", &self.key);
        format!("CREATE TEMPORARY TABLE {} AS SELECT {keys} FROM {} WITH NO DATA", self.accounted(), self.table)
    }

    /// Notes the keys that were copied.
    pub(super) fn account(&self) -> String {
        format!(
            "INSERT INTO {} SELECT {} FROM {} s WHERE {NEWEST}",
            self.accounted(),
            list("s.", &self.key),
            self.staging
        )
    }

    /// What the records that were copied stand for, joined with what the target has.
    fn joined(&self) -> String {
        let Self { table, tombstones, literal, staging, .. } = self;
        format!(
            "FROM {staging} s LEFT JOIN {table} t ON {} \
             LEFT JOIN {tombstones} d ON d.table_name = {literal} AND d.key = s._syncline_key WHERE {NEWEST}",
            self.same_key("t")
        )
    }

    /// Counts the records that were copied: all that are not outdated, those outdated, the rows there are of the first, and
    /// whether the hashes of both are the same.
    pub(super) fn hashes(&self, columns: &[&str]) -> String {
        let key = list("s.", &self.key);
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
        let keys: Vec<_> = self.key.iter().map(|name| format!("t.{}::text", ident(name))).collect();
        format!(
            "SELECT count(*) OVER (), {} FROM {} t WHERE (t.{VERSION} IS NULL OR t.{VERSION} <= '{upto}') \
             AND NOT EXISTS (SELECT FROM {} s WHERE {}) ORDER BY {} LIMIT {keys_max}",
            keys.join(", "),
            self.table,
            self.accounted(),
            self.same_key("t"),
            list("t.", &self.key)
        )
    }

    /// Lets the planner know how many keys there are.
    pub(super) fn analyze_accounted(&self) -> String {
        format!("ANALYZE {}", self.accounted())
    }

    fn first_key(&self) -> String {
        self.key.iter().take(1).map(|name| format!("t.{}", ident(name))).collect()
    }

    /// The columns that are not of the key.
    fn others_of<'c>(&self, columns: &[&'c str]) -> Vec<&'c str> {
        columns.iter().copied().filter(|name| !self.key.iter().any(|key| key == name)).collect()
    }
}
