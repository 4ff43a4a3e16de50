//! Cuts a table into ranges of its key.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::super::connect::Settings;
use super::super::table::Table;
use super::super::values::identifier;
use crate::bulk::Range;
use crate::source::SourceError;

/// Parts for each connection, so that all of them have work to the end.
const PARTS_PER_CONNECTION: usize = 4;

/// A smaller table is not worth a second connection.
const ROWS_MIN: u64 = 20_000;

/// Rows looked at to cut a table.
const SAMPLE_ROWS: u64 = 20_000;

/// Up to here rows are counted, above that the server's estimate does.
const COUNTED_MAX: u64 = 1_000_000;

/// The key's columns as its index has them, which is the order the server can read them in.
pub(super) async fn key_in_order(settings: &Settings, sql: &Client, table: &Table) -> Result<Vec<String>, SourceError> {
    let query = "SELECT a.attname::text
        FROM pg_class c, pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, nth), pg_attribute a
       WHERE c.oid = $1 AND i.indrelid = c.oid AND i.indisvalid AND k.nth <= i.indnkeyatts
         AND CASE WHEN c.relreplident = 'i' AND c.relkind <> 'p' THEN i.indisreplident ELSE i.indisprimary END
         AND a.attrelid = c.oid AND a.attnum = k.attnum ORDER BY k.nth";
    let rows = sql.query(query, &[&table.oid]).await;
    let rows = rows.map_err(|error| settings.failed("reading the table's key", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// How many rows there are to be read: counted when they are few, else as the server plans with.
pub(super) async fn count(
    settings: &Settings,
    sql: &Client,
    table: &Table,
    condition: Option<&str>,
) -> Result<u64, SourceError> {
    let condition = condition.map(|condition| format!(" WHERE {condition}")).unwrap_or_default();
    let rows = format!("FROM {}{condition}", table.own_rows());
    let plan = one(settings, sql, &format!("EXPLAIN (FORMAT JSON) SELECT 1 {rows}")).await?;
    let planned = serde_json::from_str::<serde_json::Value>(&plan).ok();
    let planned = planned.and_then(|plan| plan.pointer("/0/Plan/Plan Rows")?.as_u64()).unwrap_or_default();
    if planned > COUNTED_MAX {
        return Ok(planned);
    }
    Ok(one(settings, sql, &format!("SELECT count(*) {rows}")).await?.parse().unwrap_or(planned))
}

async fn one(settings: &Settings, sql: &Client, query: &str) -> Result<String, SourceError> {
    let answer = sql.simple_query(query).await.map_err(|error| settings.failed_reading("counting rows", &error))?;
    let text =
        answer.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None });
    Ok(text.unwrap_or_default().to_owned())
}

/// Ranges with about as many rows each, by a sample of the table's pages.
pub(super) async fn ranges(
    settings: &Settings,
    sql: &Client,
    table: &Table,
    key: &[String],
    connections: usize,
    rows: u64,
) -> Result<Vec<Range>, SourceError> {
    if connections < 2 || rows < ROWS_MIN {
        return Ok(vec![Range::default()]);
    }
    let names: Vec<_> = key.iter().map(|name| identifier(name)).collect();
    let (list, parts) = (names.join(", "), connections * PARTS_PER_CONNECTION);
    let texts: Vec<_> = names.iter().map(|name| format!("{name}::text")).collect();
    let percent = (100 * SAMPLE_ROWS).div_ceil(rows.max(1)).clamp(1, 100);
    let query = format!(
        "SELECT DISTINCT ON (part) {} FROM
             (SELECT {list}, ntile({parts}) OVER (ORDER BY {list}) AS part FROM {} TABLESAMPLE SYSTEM ({percent})) s
          WHERE part > 1 ORDER BY part, {list}",
        texts.join(", "),
        table.own_rows()
    );
    let found = sql.query(&query, &[]).await.map_err(|error| settings.failed_reading("cutting a table", &error))?;
    let cuts = found.iter().map(|row| (0..key.len()).map(|place| row.get(place)).collect::<Vec<String>>());
    let mut ranges = Vec::new();
    let mut after = None;
    for cut in cuts {
        ranges.push(Range { after, upto: Some(cut.clone()), ..Range::default() });
        after = Some(cut);
    }
    ranges.push(Range { after, ..Range::default() });
    Ok(ranges)
}
