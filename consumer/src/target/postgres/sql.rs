//! The statements of a PostgreSQL target. Pure text; every name is quoted here.
//!
//! Records wait in a temporary table that has the target table's columns and types, and beside them: the group of
//! records a statement is about (`$1`), the record's number in it, the key's name for tombstones, and the version below
//! which a row may be overwritten.

/// Column of the target table that holds a record's version.
pub(super) const VERSION: &str = "_syncline_version";

/// The records of the group that was copied last. All others are of lower groups, so an equality would say the same; but
/// without statistics the planner takes it for one row in 200, and an inequality for one in three.
pub(super) const NEWEST: &str = "s._syncline_group >= $1";

/// The version of a row and of its tombstone must both be below the record's.
const UNKNOWN_OR_OLDER: &str = r#"(t."_syncline_version" IS NULL OR t."_syncline_version" < s._syncline_since)"#;

/// Where the records of one target table are written.
#[derive(Debug)]
pub(super) struct Places {
    /// The target table, quoted.
    pub(super) table: String,
    /// Its tombstones, quoted.
    pub(super) tombstones: String,
    /// Its parked records, quoted.
    pub(super) parked: String,
    /// Its name in the tombstones and the parked records, as a literal.
    pub(super) literal: String,
    /// The temporary table, quoted.
    pub(super) staging: String,
    /// The key columns.
    pub(super) key: Vec<String>,
}

/// An identifier, quoted.
pub(super) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal; `standard_conforming_strings` is on.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A table's name as configured, `schema.table` or `table`, quoted.
pub(super) fn table(into: &str) -> String {
    match into.split_once('.') {
        Some((schema, table)) => format!("{}.{}", ident(schema), ident(table)),
        None => ident(into),
    }
}

/// Names, quoted and separated by commas; each behind the prefix.
pub(super) fn list<S: AsRef<str>>(prefix: &str, names: &[S]) -> String {
    names.iter().map(|name| format!("{prefix}{}", ident(name.as_ref()))).collect::<Vec<_>>().join(", ")
}

/// Creates what Syncline keeps beside the records. Runs more than once without harm.
pub(super) fn bookkeeping(table: &str, tombstones: &str, parked: &str, tries: &str) -> [String; 4] {
    [
        format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {VERSION} uuid"),
        format!(
            "CREATE TABLE IF NOT EXISTS {tombstones} (table_name text COLLATE \"C\", key text COLLATE \"C\", \
             version uuid NOT NULL, deleted_at timestamptz NOT NULL, PRIMARY KEY (table_name, key))"
        ),
        format!(
            "CREATE TABLE IF NOT EXISTS {parked} (table_name text COLLATE \"C\", key text COLLATE \"C\", version uuid, \
             letter text NOT NULL, parked_at timestamptz NOT NULL, PRIMARY KEY (table_name, key, version))"
        ),
        create_tries(tries),
    ]
}

/// Creates the count of tries. Runs more than once without harm.
pub(super) fn create_tries(tries: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {tries} (message text PRIMARY KEY, tries integer NOT NULL, tried_at timestamptz NOT NULL)"
    )
}

impl Places {
    /// Creates the temporary table, emptied by every commit. Its columns take null, whatever the target's do.
    pub(super) fn create_staging(&self) -> String {
        format!(
            "CREATE TEMPORARY TABLE {} ON COMMIT DELETE ROWS AS SELECT *, 0::int4 AS _syncline_group, \
             0::int4 AS _syncline_row, ''::text COLLATE \"C\" AS _syncline_key, NULL::uuid AS _syncline_since \
             FROM {} WITH NO DATA",
            self.staging, self.table
        )
    }

    /// Reads nothing. Once prepared, PostgreSQL refuses it as soon as the table's columns or types are others.
    pub(super) fn same_columns(&self) -> String {
        format!("SELECT * FROM {} WHERE false", self.table)
    }

    /// Takes records in; [`super::copy`] writes its lines.
    pub(super) fn copy(&self, columns: &[&str]) -> String {
        format!(
            "COPY {} ({}, {VERSION}, _syncline_group, _syncline_row, _syncline_key, _syncline_since) FROM STDIN",
            self.staging,
            list("", columns)
        )
    }

    /// Writes records that carry all a new row needs. Answers the numbers of those that were written.
    pub(super) fn upsert(&self, columns: &[&str]) -> String {
        let Self { table, staging, key, .. } = self;
        let names = list("", columns);
        let set = self.set(columns, "excluded");
        format!(
            "WITH {cleared}, written AS (INSERT INTO {table} AS t ({names}, {VERSION}) OVERRIDING SYSTEM VALUE \
             SELECT {values}, s.{VERSION} FROM {staging} s WHERE {NEWEST} AND {not_buried} ORDER BY {order} \
             ON CONFLICT ({keys}) DO UPDATE SET {set} \
             WHERE t.{VERSION} IS NULL OR t.{VERSION} < excluded.{VERSION} RETURNING {returned}) \
             SELECT array_agg(s._syncline_row) FROM written w JOIN {staging} s ON {same} WHERE {NEWEST}",
            cleared = self.cleared(),
            values = list("s.", columns),
            not_buried = self.not_buried(),
            order = list("s.", key),
            keys = list("", key),
            returned = list("t.", key),
            same = self.same_key("w"),
        )
    }

    /// Writes records that may lack what a new row needs: `INSERT .. ON CONFLICT` would refuse them before it finds the
    /// row they belong to. Answers the numbers of those that were written.
    pub(super) fn update_else_insert(&self, columns: &[&str]) -> String {
        let Self { table, staging, key, .. } = self;
        let set = self.set(columns, "s");
        format!(
            "WITH {cleared}, updated AS (UPDATE {table} AS t SET {set} FROM {staging} s \
             WHERE {NEWEST} AND {same_row} AND {UNKNOWN_OR_OLDER} AND {not_buried} \
             RETURNING s._syncline_row), \
             inserted AS (INSERT INTO {table} AS t ({names}, {VERSION}) OVERRIDING SYSTEM VALUE \
             SELECT {values}, s.{VERSION} FROM {staging} s WHERE {NEWEST} AND {not_buried} \
             AND NOT EXISTS (SELECT FROM {table} t WHERE {same_row}) ORDER BY {order} \
             ON CONFLICT ({keys}) DO NOTHING RETURNING {returned}) \
             SELECT array_agg(_syncline_row) FROM (SELECT _syncline_row FROM updated UNION ALL \
             SELECT s._syncline_row FROM inserted w JOIN {staging} s ON {same} WHERE {NEWEST}) written",
            cleared = self.cleared(),
            not_buried = self.not_buried(),
            same_row = self.same_key("t"),
            names = list("", columns),
            values = list("s.", columns),
            order = list("s.", key),
            keys = list("", key),
            returned = list("t.", key),
            same = self.same_key("w"),
        )
    }

    /// Deletes rows and remembers their versions. Answers the numbers of those that were older.
    pub(super) fn delete(&self) -> String {
        let Self { table, tombstones, literal, staging, .. } = self;
        format!(
            "WITH gone AS (DELETE FROM {table} t USING {staging} s \
             WHERE {NEWEST} AND {same_row} AND {UNKNOWN_OR_OLDER} AND {not_buried}), \
             buried AS (INSERT INTO {tombstones} AS d (table_name, key, version, deleted_at) \
             SELECT {literal}, s._syncline_key, s.{VERSION}, now() FROM {staging} s WHERE {NEWEST} \
             AND NOT EXISTS (SELECT FROM {table} t WHERE {same_row} AND t.{VERSION} >= s._syncline_since) \
             ORDER BY s._syncline_key ON CONFLICT (table_name, key) \
             DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at \
             WHERE d.version < excluded.version RETURNING d.key) \
             SELECT array_agg(s._syncline_row) FROM buried b JOIN {staging} s ON b.key = s._syncline_key \
             WHERE {NEWEST}",
            same_row = self.same_key("t"),
            not_buried = self.not_buried(),
        )
    }

    /// The versions the target has now, by the records' numbers; null for a record it does not know.
    pub(super) fn versions(&self) -> String {
        let Self { table, tombstones, literal, staging, .. } = self;
        format!(
            "SELECT s._syncline_row, replace(greatest(t.{VERSION}, d.version)::text, '-', '') FROM {staging} s \
             LEFT JOIN {table} t ON {same_row} \
             LEFT JOIN {tombstones} d ON d.table_name = {literal} AND d.key = s._syncline_key \
             WHERE {NEWEST}",
            same_row = self.same_key("t"),
        )
    }

    /// What is parked of records with these keys (`$1`): key, version and dead letter, oldest first.
    pub(super) fn parked(&self) -> String {
        let Self { parked, literal, .. } = self;
        format!(
            "SELECT key, replace(version::text, '-', ''), letter FROM {parked} \
             WHERE table_name = {literal} AND key = ANY ($1::text[]) ORDER BY version"
        )
    }

    /// Remembers parked records: keys (`$1`), versions (`$2`) and dead letters (`$3`).
    pub(super) fn park(&self) -> String {
        let Self { parked, literal, .. } = self;
        format!(
            "INSERT INTO {parked} (table_name, key, version, letter, parked_at) \
             SELECT DISTINCT ON (p.key, p.version) {literal}, p.key, p.version::uuid, p.letter, now() \
             FROM unnest($1::text[], $2::text[], $3::text[]) p (key, version, letter) ORDER BY p.key, p.version \
             ON CONFLICT (table_name, key, version) DO UPDATE SET letter = excluded.letter"
        )
    }

    /// Forgets what is parked of these keys (`$1`) up to these versions (`$2`).
    pub(super) fn unpark(&self) -> String {
        let Self { parked, literal, .. } = self;
        format!(
            "DELETE FROM {parked} p USING unnest($1::text[], $2::text[]) d (key, version) \
             WHERE p.table_name = {literal} AND p.key = d.key AND p.version <= d.version::uuid"
        )
    }

    /// Sets every column that is not of the key, and the version.
    fn set(&self, columns: &[&str], from: &str) -> String {
        let others = columns.iter().filter(|name| !self.key.iter().any(|key| key == *name));
        let names = others.copied().chain([VERSION]).map(ident);
        names.map(|name| format!("{name} = {from}.{name}")).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn same_key(&self, alias: &str) -> String {
        let names = self.key.iter().map(|name| ident(name));
        names.map(|name| format!("{alias}.{name} = s.{name}")).collect::<Vec<_>>().join(" AND ")
    }

    /// Removes the tombstones of records that are written again.
    fn cleared(&self) -> String {
        let Self { tombstones, literal, staging, .. } = self;
        format!(
            "cleared AS (DELETE FROM {tombstones} d USING {staging} s WHERE {NEWEST} \
             AND d.table_name = {literal} AND d.key = s._syncline_key AND d.version < s._syncline_since)"
        )
    }

    fn not_buried(&self) -> String {
        let Self { tombstones, literal, .. } = self;
        format!(
            "NOT EXISTS (SELECT FROM {tombstones} d WHERE d.table_name = {literal} AND d.key = s._syncline_key \
             AND d.version >= s._syncline_since)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_cannot_end_their_quotes() {
        assert_eq!(table(r#"crm.a"b"#), r#""crm"."a""b""#);
        assert_eq!(table("Support Case"), r#""Support Case""#);
        assert_eq!(literal(r"it's \'"), r"'it''s \'''");
        assert_eq!(list("s.", &["a", "b\""]), r#"s."a", s."b""""#);
    }
}
