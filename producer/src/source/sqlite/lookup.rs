//! Display values from lookup tables. Blocks; runs off the I/O threads.

use rusqlite::Connection;
use syncline_shared::sqlite::quote;

use super::error::Fault;
use super::stock::SqliteStock;
use crate::source::lookup::in_order;
use crate::source::{DISPLAY_CHARS_MAX, Lookup, Lookups, Reference, SourceError};

impl Lookups for SqliteStock {
    async fn look_up(&self, lookup: &Lookup, references: &[Reference]) -> Result<Vec<Option<Box<str>>>, SourceError> {
        let (lookup, references) = (lookup.clone(), references.to_vec());
        self.with(move |connection| ask(connection, &lookup, &references)).await
    }
}

fn ask(connection: &Connection, lookup: &Lookup, references: &[Reference]) -> Result<Vec<Option<Box<str>>>, Fault> {
    let table = lookup.table.strip_prefix("main.").unwrap_or(&lookup.table);
    // Numbers stay numbers, for a column without a type compares them as such.
    let json = |Reference { text, is_number }: &Reference| {
        if *is_number { text.to_string() } else { serde_json::Value::from(&**text).to_string() }
    };
    let list = format!("[{}]", references.iter().map(json).collect::<Vec<_>>().join(","));
    // The references come first, so that an index on the key is used for each.
    let query = format!(
        "SELECT r.key, substr(CAST(t.{} AS TEXT), 1, {}) FROM json_each(?1) AS r CROSS JOIN main.{} AS t
          WHERE t.{} = r.value",
        quote(&lookup.value),
        DISPLAY_CHARS_MAX + 1,
        quote(table),
        quote(&lookup.key)
    );
    let mut statement = connection.prepare(&query)?;
    let rows = statement.query_map([list], |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
    let rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let place = |place: i64| usize::try_from(place).unwrap_or(usize::MAX);
    Ok(in_order(lookup, references.len(), rows.into_iter().map(|(at, shown)| (place(at), shown)))?)
}
