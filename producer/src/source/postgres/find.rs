//! Looks for one record by its key, or by a column that no two records share.

use std::sync::Arc;

use syncline_shared::record::{Columns, Row, Value};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::connect::Settings;
use super::table::{Found as Entry, Table, look_up};
use super::values::{Kind, identifier, literal};
use crate::source::{Found, SourceError, Wanted};

/// The columns of unique indexes on one column, those of the key first.
const UNIQUE: &str = "
    SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
     WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 1 AND i.indpred IS NULL
     ORDER BY NOT i.indisprimary, a.attnum";

const DOING: &str = "looking for a record";

/// Finds a record of the first watched table.
pub(super) async fn find(settings: &Settings, wanted: Wanted<'_>) -> Result<Found, SourceError> {
    let sql = settings.sql().await?;
    let table = match look_up(settings, &sql).await?.into_iter().next() {
        Some(Entry::Fit(table)) => table,
        Some(Entry::Unfit(problem)) => return Err(problem),
        Some(Entry::Missing) | None => {
            let name = settings.tables.first().map(|watched| Arc::clone(&watched.table)).unwrap_or_default();
            return Err(SourceError::Unfit {
                problem: format!("the table {name} does not exist"),
                mend: "the name of a table in the share".to_owned(),
            });
        }
    };
    let mut found = Found { key: Columns::new(table.key.iter().cloned()), by: Vec::new(), row: None };
    let (by, queries): (Vec<String>, Vec<String>) = match wanted {
        Wanted::Nothing => return Ok(found),
        Wanted::Columns(pairs) => {
            let equal = |(name, value): &(&str, &str)| format!("{} = {}", identifier(name), literal(value));
            let names = pairs.iter().map(|(name, _)| (*name).to_owned()).collect();
            (names, vec![pairs.iter().map(equal).collect::<Vec<_>>().join(" AND ")])
        }
        Wanted::Named(name) => {
            let unique = sql.query(UNIQUE, &[&table.oid]).await.map_err(|error| settings.failed(DOING, &error))?;
            let unique: Vec<String> = unique.iter().map(|row| row.get(0)).collect();
            let queries = unique.iter().map(|column| format!("{} = {}", identifier(column), literal(name)));
            let queries = queries.collect();
            (unique, queries)
        }
    };
    found.by = by;
    for condition in queries {
        found.row = first(settings, &sql, &table, &condition).await?;
        if found.row.is_some() {
            break;
        }
    }
    Ok(found)
}

/// The first row that fits; none where a value is not of its column's type.
async fn first(settings: &Settings, sql: &Client, table: &Table, condition: &str) -> Result<Option<Row>, SourceError> {
    let names: Vec<_> = table.columns.iter().map(|(name, _)| identifier(name)).collect();
    let query = format!("SELECT {} FROM {} WHERE {condition} LIMIT 1", names.join(", "), table.own_rows());
    let messages = match sql.simple_query(&query).await {
        Ok(messages) => messages,
        // Class 22: data exceptions.
        Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => return Ok(None),
        Err(error) => return Err(settings.failed_reading(DOING, &error)),
    };
    let row = messages.into_iter().find_map(|message| {
        let SimpleQueryMessage::Row(row) = message else { return None };
        Some(row)
    });
    let Some(texts) = row else { return Ok(None) };
    let mut row = Row::builder(Columns::new(table.columns.iter().map(|(name, _)| name.as_str())));
    for (place, (_, kind)) in table.columns.iter().enumerate() {
        let pushed = match texts.get(place) {
            Some(text) => Kind::of(*kind).push(&mut row, text),
            None => {
                row.push(Value::Null);
                Some(())
            }
        };
        pushed.ok_or_else(|| SourceError::Protocol {
            problem: format!("a row of {} does not fit its definition", table.name),
        })?;
    }
    Ok(Some(row.finish()))
}
