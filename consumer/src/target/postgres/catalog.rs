//! What a target table is like, and whether records can be written to it.
//!
//! Syncline's own bookkeeping (the version column, the tombstones) is created wherever that is permitted; tables and
//! columns of the records only in `evolve`. What is missing is named together with the statement that creates it.

use syncline_shared::record::Value;
use tokio_postgres::Client;

use super::sql;
use crate::target::ApplyError;

/// Where the versions of deleted records are kept, one table per schema.
const TOMBSTONES: &str = "_syncline_tombstone";
/// Where parked records are remembered, one table per schema.
pub(super) const PARKED: &str = "_syncline_parked";
/// Where tries of messages are counted, one table per schema.
pub(super) const TRIES: &str = "_syncline_tries";

/// Everything needed is read at once: it is one round trip per table and connection.
const READ: &str = "SELECT n.nspname::text, c.relname::text, c.relkind IN ('r', 'p'),
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT format_type(a.atttypid, -1) FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT CASE WHEN t.typarray <> 0 AND t.typdelim = ',' AND t.oid NOT IN ('varchar'::regtype, 'bpchar'::regtype)
                    THEN format_type(t.typarray, -1) ELSE 'text[]' END
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum),
  ARRAY(SELECT a.attname::text FROM pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
          AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''),
  ARRAY(SELECT (SELECT json_agg(a.attname) FROM pg_attribute a WHERE a.attrelid = i.indrelid
                AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))::text
        FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
          AND i.indpred IS NULL AND i.indexprs IS NULL),
  (SELECT bool_and(to_regclass(format('%I.%I', n.nspname, kept)) IS NOT NULL) FROM unnest($2::text[]) kept),
  ARRAY(SELECT p FROM unnest('{SELECT,INSERT,UPDATE}'::text[]) p WHERE NOT has_any_column_privilege(c.oid, p))
    || ARRAY(SELECT 'DELETE'::text WHERE NOT has_table_privilege(c.oid, 'DELETE')),
  pg_has_role(c.relowner, 'USAGE'), has_schema_privilege(n.oid, 'CREATE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass($1::text)";

/// What is known of a target table.
#[derive(Debug)]
pub(super) struct Catalog {
    /// Its name as configured.
    pub(super) into: String,
    schema: String,
    relname: String,
    is_table: bool,
    columns: Vec<String>,
    /// The types of the columns without their length or precision: a cast to those would cut a value to fit.
    types: Vec<String>,
    /// The types of the arrays their values come in. Where a type has none that texts can be put into, or is no more than a
    /// text, they come as texts.
    arrays: Vec<String>,
    /// Columns a new row cannot do without.
    pub(super) required: Vec<String>,
    /// The columns of each unique index that `ON CONFLICT` can use.
    unique: Vec<Vec<String>>,
    has_tables: bool,
    missing_privileges: Vec<String>,
    is_owner: bool,
    may_create: bool,
}

impl Catalog {
    /// Reads what the database knows of a table; `None` if there is no such table.
    pub(super) async fn read(client: &Client, into: &str) -> Result<Option<Self>, tokio_postgres::Error> {
        let Some(row) = client.query_opt(READ, &[&sql::table(into), &[TOMBSTONES, PARKED, TRIES].as_slice()]).await?
        else {
            return Ok(None);
        };
        let unique: Vec<String> = row.try_get(7)?;
        Ok(Some(Self {
            into: into.to_owned(),
            schema: row.try_get(0)?,
            relname: row.try_get(1)?,
            is_table: row.try_get(2)?,
            columns: row.try_get(3)?,
            types: row.try_get(4)?,
            arrays: row.try_get(5)?,
            required: row.try_get(6)?,
            unique: unique.iter().map(|names| serde_json::from_str(names).unwrap_or_default()).collect(),
            has_tables: row.try_get(8)?,
            missing_privileges: row.try_get(9)?,
            is_owner: row.try_get(10)?,
            may_create: row.try_get(11)?,
        }))
    }

    /// Where records of this table are written.
    pub(super) fn places(&self, key: &[&str]) -> sql::Places {
        sql::Places {
            table: self.table(),
            tombstones: self.beside(TOMBSTONES),
            parked: self.beside(PARKED),
            literal: sql::literal(&self.relname),
            key: key.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    /// Whether the table has the column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// The columns with their types; those the table lacks are left out.
    pub(super) fn columns_of<'a>(&'a self, names: &[&'a str]) -> Vec<sql::Column<'a>> {
        let known = |name: &&'a str| {
            let place = self.columns.iter().position(|column| column == name)?;
            Some(sql::Column { name, kind: self.types.get(place)?, array: self.arrays.get(place)? })
        };
        names.iter().filter_map(known).collect()
    }

    /// Those of the columns that the table lacks.
    pub(super) fn lacks<'a>(&self, columns: &[&'a str]) -> Vec<&'a str> {
        columns.iter().filter(|name| !self.has(name)).copied().collect()
    }

    /// The statements that create Syncline's bookkeeping, if any of it is missing.
    pub(super) fn bookkeeping(&self) -> Option<[String; 4]> {
        let complete = self.has(sql::VERSION) && self.has_tables;
        (!complete).then(|| {
            let [tombstones, parked, tries] = [TOMBSTONES, PARKED, TRIES].map(|name| self.beside(name));
            sql::bookkeeping(&self.table(), &tombstones, &parked, &tries)
        })
    }

    /// Whether records with these key columns can be told apart, in a table at all.
    pub(super) fn fits(&self, key: &[&str]) -> Result<(), ApplyError> {
        self.is_a_table()?;
        let same =
            |names: &&Vec<String>| names.len() == key.len() && names.iter().all(|name| key.contains(&name.as_str()));
        if self.unique.iter().any(|names| same(&names)) {
            return Ok(());
        }
        Err(ApplyError::Unfit {
            problem: format!("table {:?} has no unique index on its key columns ({})", self.into, sql::list("", key)),
            mend: format!("CREATE UNIQUE INDEX ON {} ({})", self.table(), sql::list("", key)),
        })
    }

    /// What stands in the way of writing, as far as it can be told without a record.
    pub(super) fn problems(&self, columns: &[&str], evolve: bool) -> Vec<ApplyError> {
        let mut problems = Vec::new();
        problems.extend(self.is_a_table().err());
        if self.unique.is_empty() {
            problems.push(ApplyError::Unfit {
                problem: format!("table {:?} has no unique index", self.into),
                mend: format!("CREATE UNIQUE INDEX ON {} (its key columns)", self.table()),
            });
        }
        let lacking = self.lacks(columns);
        let will_be_added = evolve && self.is_owner;
        if !lacking.is_empty() && !will_be_added {
            problems.push(self.missing_columns(&lacking));
        }
        if !self.missing_privileges.is_empty() {
            let privileges = self.missing_privileges.join(", ");
            problems.push(ApplyError::Unfit {
                problem: format!("table {:?} does not permit {privileges}", self.into),
                mend: format!("GRANT {privileges} ON {} TO the target's user", self.table()),
            });
        }
        let permitted = (self.has(sql::VERSION) || self.is_owner) && (self.has_tables || self.may_create);
        if let Some(statements) = self.bookkeeping().filter(|_| !permitted) {
            problems.push(ApplyError::Unfit {
                problem: format!("table {:?} lacks Syncline's bookkeeping, and it may not be created", self.into),
                mend: statements.join("; "),
            });
        }
        problems
    }

    /// Columns that records have and the table lacks.
    pub(super) fn missing_columns(&self, columns: &[&str]) -> ApplyError {
        ApplyError::Unfit {
            problem: format!("table {:?} lacks {}", self.into, sql::list("", columns)),
            mend: add_columns(&self.into, columns, |_| "text"),
        }
    }

    fn is_a_table(&self) -> Result<(), ApplyError> {
        if self.is_table {
            return Ok(());
        }
        Err(ApplyError::Unfit {
            problem: format!("{:?} is not a table", self.into),
            mend: "a table's name in the subscription's `into`".to_owned(),
        })
    }

    fn table(&self) -> String {
        format!("{}.{}", sql::ident(&self.schema), sql::ident(&self.relname))
    }

    /// A table of Syncline's own in the table's schema, quoted.
    fn beside(&self, name: &str) -> String {
        format!("{}.{}", sql::ident(&self.schema), sql::ident(name))
    }
}

/// A table that is not there.
pub(super) fn missing_table(into: &str, columns: &[&str], key: &[&str]) -> ApplyError {
    let mend = match key {
        [] => format!("CREATE TABLE {} with the columns of the records", sql::table(into)),
        _ => create_table(into, columns, key, |_| "text"),
    };
    // Without the right to use a schema, its tables are not seen.
    let problem = format!("table {into:?} does not exist, or this login may not use its schema (GRANT USAGE)");
    ApplyError::Unfit { problem, mend }
}

/// The statement that creates a table for records with these columns.
pub(super) fn create_table(into: &str, columns: &[&str], key: &[&str], kind: impl Fn(&str) -> &'static str) -> String {
    let columns: Vec<_> = columns.iter().map(|name| format!("{} {}", sql::ident(name), kind(name))).collect();
    let (table, columns, key) = (sql::table(into), columns.join(", "), sql::list("", key));
    format!("CREATE TABLE IF NOT EXISTS {table} ({columns}, {} uuid, PRIMARY KEY ({key}))", sql::VERSION)
}

/// The statement that adds columns to a table.
pub(super) fn add_columns(into: &str, columns: &[&str], kind: impl Fn(&str) -> &'static str) -> String {
    let columns: Vec<_> =
        columns.iter().map(|name| format!("ADD COLUMN IF NOT EXISTS {} {}", sql::ident(name), kind(name))).collect();
    format!("ALTER TABLE {} {}", sql::table(into), columns.join(", "))
}

/// The type of a new column with these values: theirs if they are of one kind, else text.
pub(super) fn kind_of<'a>(values: impl Iterator<Item = Value<'a>>) -> &'static str {
    let mut kinds = values.filter_map(|value| match value {
        Value::Null | Value::Unchanged => None,
        Value::Bool(_) => Some("boolean"),
        Value::Number(_) => Some("numeric"),
        Value::Text(_) => Some("text"),
        Value::Bytes(_) => Some("bytea"),
    });
    let first = kinds.next().unwrap_or("text");
    if kinds.all(|kind| kind == first) { first } else { "text" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_column_has_the_type_of_all_its_values_or_is_text() {
        let of = |values: &[Value<'static>]| kind_of(values.iter().copied());
        assert_eq!(of(&[Value::Null, Value::Number("1"), Value::Null]), "numeric");
        assert_eq!(of(&[Value::Number("1"), Value::Text("NaN")]), "text");
        assert_eq!(of(&[Value::Bool(true)]), "boolean");
        assert_eq!(of(&[Value::Bytes("")]), "bytea");
        assert_eq!(of(&[Value::Null]), "text");
    }
}
