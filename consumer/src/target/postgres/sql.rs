//! The statements of a PostgreSQL target. Pure text; every name is quoted here.
//!
//! Records come as arrays, one per column, and are called `s`: the values of their columns, and beside them the version, the
//! key's name for tombstones, and the version below which a row may be overwritten.

/// Column of the target table that holds a record's version.
pub(super) const VERSION: &str = "_syncline_version";

/// Columns beside those of the records.
const BESIDE: [Column<'static>; 3] = [
    Column { name: VERSION, kind: "pg_catalog.uuid", array: "pg_catalog.uuid[]" },
    Column { name: "_syncline_key", kind: "pg_catalog.text", array: "pg_catalog.text[]" },
    Column { name: "_syncline_since", kind: "pg_catalog.uuid", array: "pg_catalog.uuid[]" },
];

/// The version of a row and of its tombstone must both be below the record's.
const UNKNOWN_OR_OLDER: &str = r#"(t."_syncline_version" IS NULL OR t."_syncline_version" < s._syncline_since)"#;

/// A column of records, with its type and that of the array its values come in, as PostgreSQL writes them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column<'a> {
    pub(super) name: &'a str,
    pub(super) kind: &'a str,
    pub(super) array: &'a str,
}

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

/// Prepares what every call of a writer begins with: it waits for others of the same name, and says in the log whose
/// transaction this is.
pub(super) fn prepare_own(writer: &str, message: &str) -> String {
    format!(
        "PREPARE _syncline_own AS SELECT pg_advisory_xact_lock(hashtextextended({}, 0)), \
         pg_logical_emit_message(true, {}, '')",
        literal(writer),
        literal(message)
    )
}

/// Begins a call about tables that were prepared under these numbers. Statements by name are not parsed and planned again,
/// and all together are one message. Each sees what was committed before it, so it is the first that waits.
pub(super) fn begin(tables: impl Iterator<Item = usize>) -> String {
    let mut begin = String::from("BEGIN ISOLATION LEVEL READ COMMITTED; EXECUTE _syncline_own");
    for number in tables {
        begin.push_str(&format!("; EXECUTE _syncline_same_{number}; EXECUTE _syncline_look_{number}"));
    }
    begin
}

impl Places {
    /// Prepares what every call about this table begins with, under a number. One statement reads nothing, and PostgreSQL
    /// refuses it as soon as the table's columns or types are others. One tells whether any record is parked, or buried.
    pub(super) fn prepare_look(&self, number: usize) -> String {
        let Self { table, parked, tombstones, .. } = self;
        format!(
            "PREPARE _syncline_same_{number} AS SELECT * FROM {table} WHERE false; \
             PREPARE _syncline_look_{number} AS SELECT EXISTS (SELECT FROM {parked}) AS has_parked, \
             EXISTS (SELECT FROM {tombstones}) AS has_buried"
        )
    }

    /// Writes records that carry all a new row needs. Answers how many of them were written.
    pub(super) fn upsert(&self, columns: &[Column<'_>]) -> String {
        let (records, names) = (records(columns), names(columns));
        let Self { table, key, .. } = self;
        let set = self.set(&names, "excluded");
        format!(
            "WITH written AS (INSERT INTO {table} AS t ({into}, {VERSION}) OVERRIDING SYSTEM VALUE \
             SELECT {values}, s.{VERSION} FROM {records} s WHERE {not_buried} \
             ON CONFLICT ({keys}) DO UPDATE SET {set} \
             WHERE t.{VERSION} IS NULL OR t.{VERSION} < excluded.{VERSION} RETURNING 1) \
             SELECT count(*) FROM written",
            into = list("", &names),
            values = list("s.", &names),
            not_buried = self.not_buried(),
            keys = list("", key),
        )
    }

    /// Writes records that may lack what a new row needs: `INSERT .. ON CONFLICT` would refuse them before it finds the
    /// row they belong to. Answers how many of them were written.
    pub(super) fn update_else_insert(&self, columns: &[Column<'_>]) -> String {
        let (records, names) = (records(columns), names(columns));
        let Self { table, key, .. } = self;
        let set = self.set(&names, "s");
        format!(
            "WITH s AS MATERIALIZED {records}, \
             updated AS (UPDATE {table} AS t SET {set} FROM s \
             WHERE {same_row} AND {UNKNOWN_OR_OLDER} AND {not_buried} RETURNING 1), \
             inserted AS (INSERT INTO {table} AS t ({into}, {VERSION}) OVERRIDING SYSTEM VALUE \
             SELECT {values}, s.{VERSION} FROM s WHERE {not_buried} \
             AND NOT EXISTS (SELECT FROM {table} t WHERE {same_row}) \
             ON CONFLICT ({keys}) DO NOTHING RETURNING 1) \
             SELECT (SELECT count(*) FROM updated) + (SELECT count(*) FROM inserted)",
            not_buried = self.not_buried(),
            same_row = self.same_key("t"),
            into = list("", &names),
            values = list("s.", &names),
            keys = list("", key),
        )
    }

    /// Deletes rows and remembers their versions. Answers how many of the records were newer.
    pub(super) fn delete(&self, columns: &[Column<'_>]) -> String {
        let records = records(columns);
        let Self { table, tombstones, literal, .. } = self;
        format!(
            "WITH s AS MATERIALIZED {records}, \
             gone AS (DELETE FROM {table} t USING s \
             WHERE {same_row} AND {UNKNOWN_OR_OLDER} AND {not_buried}), \
             buried AS (INSERT INTO {tombstones} AS d (table_name, key, version, deleted_at) \
             SELECT {literal}, s._syncline_key, s.{VERSION}, now() FROM s \
             WHERE NOT EXISTS (SELECT FROM {table} t WHERE {same_row} AND t.{VERSION} >= s._syncline_since) \
             ON CONFLICT (table_name, key) \
             DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at \
             WHERE d.version < excluded.version RETURNING 1) \
             SELECT count(*) FROM buried",
            same_row = self.same_key("t"),
            not_buried = self.not_buried(),
        )
    }

    /// The versions the target has now, by the records' keys, and whether this transaction wrote them; none of a record it
    /// does not know.
    pub(super) fn versions(&self, columns: &[Column<'_>]) -> String {
        let records = records(columns);
        let Self { table, tombstones, literal, .. } = self;
        format!(
            "SELECT s._syncline_key, replace(greatest(t.{VERSION}, d.version)::text, '-', ''), \
             pg_current_xact_id()::xid IN (t.xmin, d.xmin) IS TRUE FROM {records} s \
             LEFT JOIN {table} t ON {same_row} \
             LEFT JOIN LATERAL (SELECT d.version, d.xmin FROM {tombstones} d \
             WHERE d.table_name = {literal} AND d.key = s._syncline_key OFFSET 0) d ON true \
             WHERE greatest(t.{VERSION}, d.version) IS NOT NULL",
            same_row = self.same_key("t"),
        )
    }

    /// Removes the tombstones of records that were written again: keys (`$1`) and versions (`$2`). They are looked up one by
    /// one, as in [`Places::upsert`].
    pub(super) fn unbury(&self) -> String {
        let Self { tombstones, literal, .. } = self;
        format!(
            "DELETE FROM {tombstones} WHERE table_name = {literal} AND key = ANY (ARRAY(SELECT s.key \
             FROM unnest($1::text[], $2::text[]) s (key, version) WHERE EXISTS (SELECT FROM {tombstones} d \
             WHERE d.table_name = {literal} AND d.key = s.key AND d.version < s.version::uuid OFFSET 0)))"
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

    /// `OFFSET 0` has tombstones looked up record by record. As a join, the plan that is made while they are few reads all of
    /// them for each record, and is kept while they become many.
    fn not_buried(&self) -> String {
        let Self { tombstones, literal, .. } = self;
        format!(
            "NOT EXISTS (SELECT FROM {tombstones} d WHERE d.table_name = {literal} AND d.key = s._syncline_key \
             AND d.version >= s._syncline_since OFFSET 0)"
        )
    }
}

fn names<'a>(columns: &[Column<'a>]) -> Vec<&'a str> {
    columns.iter().map(|column| column.name).collect()
}

/// Records out of arrays. Called in the select list, `unnest` takes an element at a time and keeps none.
fn records(columns: &[Column<'_>]) -> String {
    let elements = (1..).zip(columns.iter().chain(&BESIDE)).map(|(number, Column { name, kind, array })| {
        let element = format!("pg_catalog.unnest(${number}::{array})");
        let cast = if *array == format!("{kind}[]") { String::new() } else { format!("::{kind}") };
        format!("{element}{cast} AS {}", ident(name))
    });
    format!("(SELECT {})", elements.collect::<Vec<_>>().join(", "))
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

    #[test]
    fn records_come_in_arrays_and_are_cast_where_these_are_of_another_type() {
        let columns =
            [Column { name: "id", kind: "text", array: "text[]" }, Column { name: "at", kind: "box", array: "text[]" }];
        let expected = r#"(SELECT pg_catalog.unnest($1::text[]) AS "id", pg_catalog.unnest($2::text[])::box AS "at", pg_catalog.unnest($3::pg_catalog.uuid[]) AS "_syncline_version", pg_catalog.unnest($4::pg_catalog.text[]) AS "_syncline_key", pg_catalog.unnest($5::pg_catalog.uuid[]) AS "_syncline_since")"#;
        assert_eq!(records(&columns), expected);
    }
}
