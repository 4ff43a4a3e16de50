//! The statements of a PostgreSQL target. Pure text; every name is quoted here.
//!
//! Records come as rows of parameters, `s`: the values of their columns, and beside them the version, the key's name for
//! tombstones, and the version below which a row may be overwritten. A statement is prepared for a number of rows; what is
//! left over is null.

/// Column of the target table that holds a record's version.
pub(super) const VERSION: &str = "_syncline_version";

/// Columns beside those of the records, with their types.
pub(super) const BESIDE: [(&str, &str); 3] =
    [(VERSION, "pg_catalog.uuid"), ("_syncline_key", "pg_catalog.text"), ("_syncline_since", "pg_catalog.uuid")];

/// Not a row that was left over.
const IS_RECORD: &str = "s._syncline_key IS NOT NULL";

/// The version of a row and of its tombstone must both be below the record's.
const UNKNOWN_OR_OLDER: &str = r#"(t."_syncline_version" IS NULL OR t."_syncline_version" < s._syncline_since)"#;

/// A column with its type, as PostgreSQL writes it.
pub(super) type Typed<'a> = (&'a str, &'a str);

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

impl Places {
    /// Reads nothing. Once prepared, PostgreSQL refuses it as soon as the table's columns or types are others.
    pub(super) fn same_columns(&self) -> String {
        format!("SELECT * FROM {} WHERE false", self.table)
    }

    /// Writes records that carry all a new row needs. Answers how many of them were written.
    pub(super) fn upsert(&self, columns: &[Typed<'_>], rows: usize) -> String {
        let (records, names) = (records(columns, rows), names(columns));
        let Self { table, key, .. } = self;
        let set = self.set(&names, "excluded");
        format!(
            "WITH written AS (INSERT INTO {table} AS t ({into}, {VERSION}) OVERRIDING SYSTEM VALUE \
             SELECT {values}, s.{VERSION} FROM {records} WHERE {IS_RECORD} AND {not_buried} \
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
    pub(super) fn update_else_insert(&self, columns: &[Typed<'_>], rows: usize) -> String {
        let (records, names) = (records(columns, rows), names(columns));
        let Self { table, key, .. } = self;
        let set = self.set(&names, "s");
        format!(
            "WITH s AS MATERIALIZED (SELECT * FROM {records} WHERE {IS_RECORD}), \
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
    pub(super) fn delete(&self, columns: &[Typed<'_>], rows: usize) -> String {
        let records = records(columns, rows);
        let Self { table, tombstones, literal, .. } = self;
        format!(
            "WITH s AS MATERIALIZED (SELECT * FROM {records} WHERE {IS_RECORD}), \
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
    pub(super) fn versions(&self, columns: &[Typed<'_>], rows: usize) -> String {
        let records = records(columns, rows);
        let Self { table, tombstones, literal, .. } = self;
        format!(
            "SELECT s._syncline_key, replace(greatest(t.{VERSION}, d.version)::text, '-', ''), \
             pg_current_xact_id()::xid IN (t.xmin, d.xmin) IS TRUE FROM {records} \
             LEFT JOIN {table} t ON {same_row} \
             LEFT JOIN {tombstones} d ON d.table_name = {literal} AND d.key = s._syncline_key \
             WHERE {IS_RECORD} AND greatest(t.{VERSION}, d.version) IS NOT NULL",
            same_row = self.same_key("t"),
        )
    }

    /// Removes the tombstones of records that were written again: keys (`$1`) and versions (`$2`).
    pub(super) fn unbury(&self) -> String {
        let Self { tombstones, literal, .. } = self;
        format!(
            "DELETE FROM {tombstones} d USING unnest($1::text[], $2::text[]) s (key, version) \
             WHERE d.table_name = {literal} AND d.key = s.key AND d.version < s.version::uuid"
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

    fn not_buried(&self) -> String {
        let Self { tombstones, literal, .. } = self;
        format!(
            "NOT EXISTS (SELECT FROM {tombstones} d WHERE d.table_name = {literal} AND d.key = s._syncline_key \
             AND d.version >= s._syncline_since)"
        )
    }
}

fn names<'a>(columns: &[Typed<'a>]) -> Vec<&'a str> {
    columns.iter().map(|(name, _)| *name).collect()
}

/// Rows of parameters, called `s`. The types are said once, in the first row: those below take after it.
fn records(columns: &[Typed<'_>], rows: usize) -> String {
    let all: Vec<Typed<'_>> = columns.iter().copied().chain(BESIDE).collect();
    let mut text = String::with_capacity(rows * all.len() * 7);
    text.push_str("(VALUES ");
    for row in 0..rows {
        text.push_str(if row == 0 { "(" } else { ", (" });
        for (place, (_, kind)) in all.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            text.push_str(&format!("{comma}${}", row * all.len() + place + 1));
            if row == 0 {
                text.push_str(&format!("::{kind}"));
            }
        }
        text.push(')');
    }
    text.push_str(&format!(") s ({})", list("", &names(&all))));
    text
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
    fn rows_of_parameters_say_their_types_once() {
        let expected = r#"(VALUES ($1::text, $2::pg_catalog.uuid, $3::pg_catalog.text, $4::pg_catalog.uuid), ($5, $6, $7, $8)) s ("id", "_syncline_version", "_syncline_key", "_syncline_since")"#;
        assert_eq!(records(&[("id", "text")], 2), expected);
    }
}
