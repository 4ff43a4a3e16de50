//! Display values from lookup tables.

use std::sync::Arc;

use tokio_postgres::{Client, Row as SqlRow};

use super::connect::Settings;
use super::stock::PostgresStock;
use super::table::quoted;
use super::values::identifier;
use crate::source::lookup::in_order;
use crate::source::{DISPLAY_CHARS_MAX, Lookup, Lookups, Reference, SourceError};

const DOING: &str = "looking up display values";

/// $1: the table, $2: the key column, $3: the column that is shown. Without a type modifier a cast cuts nothing.
const SHAPE: &str = "
    SELECT c.oid IS NOT NULL, format_type(k.atttypid, -1), v.attname IS NOT NULL
      FROM to_regclass($1) AS c (oid)
      LEFT JOIN pg_attribute k ON k.attrelid = c.oid AND k.attname = $2 AND k.attnum > 0 AND NOT k.attisdropped
      LEFT JOIN pg_attribute v ON v.attrelid = c.oid AND v.attname = $3 AND v.attnum > 0 AND NOT v.attisdropped";

impl Lookups for PostgresStock {
    async fn look_up(&self, lookup: &Lookup, references: &[Reference]) -> Result<Vec<Option<Box<str>>>, SourceError> {
        let sql = self.sql().await?;
        let asked = ask(&self.settings, &sql, lookup, references);
        let answer = Arc::clone(&self.settings).answered(asked).await;
        if matches!(answer, Err(SourceError::Unreachable { .. })) {
            self.forget_connection().await;
        }
        answer
    }
}

async fn ask(
    settings: &Settings,
    sql: &Client,
    lookup: &Lookup,
    references: &[Reference],
) -> Result<Vec<Option<Box<str>>>, SourceError> {
    let Lookup { table, key, value } = lookup;
    let unfit = |problem: String| {
        let mend = "the names of a table and its columns, in display of the share".to_owned();
        Err(SourceError::Unfit { problem, mend })
    };
    let shape = sql.query_one(SHAPE, &[&quoted(table), key, value]).await;
    let shape = shape.map_err(|error| settings.failed(DOING, &error))?;
    let (exists, kind, has_value): (bool, Option<String>, bool) = (shape.get(0), shape.get(1), shape.get(2));
    let kind = match (exists, kind, has_value) {
        (false, _, _) => return unfit(format!("the lookup table {table} does not exist")),
        (true, None, _) => return unfit(format!("the lookup table {table} has no column {key}")),
        (true, _, false) => return unfit(format!("the lookup table {table} has no column {value}")),
        (true, Some(kind), true) => kind,
    };
    let texts: Vec<&str> = references.iter().map(|reference| &*reference.text).collect();
    let (table, column) = (quoted(table), identifier(key));
    let query = |condition: &str| {
        format!(
            "SELECT r.nth - 1, left(t.{}::text, {}) FROM unnest($1::text[]) WITH ORDINALITY AS r (text, nth)
               JOIN {table} t ON {condition}",
            identifier(value),
            DISPLAY_CHARS_MAX + 1
        )
    };
    let rows = match sql.query(&query(&format!("t.{column} = r.text::{kind}")), &[&texts]).await {
        // Class 22: a reference that is no value of the key's type, and so of no row.
        Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => {
            sql.query(&query(&format!("t.{column}::text = r.text")), &[&texts]).await
        }
        rows => rows,
    };
    let rows: Vec<SqlRow> = rows.map_err(|error| settings.failed_reading(DOING, &error))?;
    let place = |row: &SqlRow| usize::try_from(row.get::<_, i64>(0)).unwrap_or(usize::MAX);
    in_order(lookup, references.len(), rows.iter().map(|row| (place(row), row.get(1))))
}
