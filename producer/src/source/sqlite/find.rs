//! Looks for one record by its key, or by a column that no two records share. Blocks; runs off the I/O threads.

use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use syncline_shared::record::Columns;
use syncline_shared::sqlite::{self, quote};

use super::Settings;
use super::error::Fault;
use super::row::{self, Shape};
use super::table::{Side, Table};
use crate::source::{Found, SourceError, Wanted};

/// Columns of unique indexes on one column.
const UNIQUE: &str = "SELECT (SELECT name FROM pragma_index_info(l.name)) FROM pragma_index_list(?1) AS l
    WHERE l.\"unique\" AND NOT l.partial AND (SELECT count(*) FROM pragma_index_info(l.name)) = 1";

/// Finds a record of the first watched table.
pub(super) fn find(settings: &Settings, wanted: &Wanted<'_>) -> Result<Found, Fault> {
    let connection = sqlite::open(&settings.config.path, false)?;
    let name = settings.watched.first().map(|watched| watched.table.clone()).unwrap_or_default();
    let Some(table) = Table::read(&connection, &name)? else {
        return Err(Fault::Source(SourceError::Unfit {
            problem: format!("the table {name} does not exist"),
            mend: "the name of a table in the share".to_owned(),
        }));
    };
    table.require_key()?;
    let mut found = Found { key: Columns::new(table.key.iter().map(String::as_str)), by: Vec::new(), row: None };
    match wanted {
        Wanted::Nothing => {}
        Wanted::Columns(pairs) => {
            found.by = pairs.iter().map(|(name, _)| (*name).to_owned()).collect();
            let known = |name: &&String| table.columns.iter().any(|column| column.name == **name);
            if let Some(unknown) = found.by.iter().find(|name| !known(name)) {
                return Err(Fault::Source(SourceError::Unfit {
                    problem: format!("the table {name} has no column {unknown}"),
                    mend: "the name of a column of it".to_owned(),
                }));
            }
            found.row = first(&connection, &table, &found.by, pairs.iter().map(|(_, value)| *value))?;
        }
        Wanted::Named(value) => {
            // The key may be the row's own id, which has no index.
            found.by = if let [key] = table.key.as_slice() { vec![key.clone()] } else { Vec::new() };
            let mut unique = connection.prepare(UNIQUE)?;
            for column in unique.query_map([&table.name], |row| row.get::<_, Option<String>>(0))? {
                found.by.extend(column?.filter(|column| !found.by.contains(column)));
            }
            for column in &found.by {
                found.row = first(&connection, &table, std::slice::from_ref(column), std::iter::once(*value))?;
                if found.row.is_some() {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// The first row whose columns have these values.
fn first<'a>(
    connection: &Connection,
    table: &Table,
    columns: &[String],
    values: impl Iterator<Item = &'a str>,
) -> Result<Option<syncline_shared::record::Row>, Fault> {
    let equal: Vec<_> = columns.iter().map(|column| format!("{} = ?", quote(column))).collect();
    let sql = format!(
        "SELECT {} FROM main.{} WHERE {} LIMIT 1",
        table.row_json(Side::Current),
        quote(&table.name),
        equal.join(" AND ")
    );
    let json: Option<Vec<u8>> = connection
        .prepare(&sql)?
        .query_row(params_from_iter(values), |row| Ok(row.get_ref(0)?.as_bytes()?.to_vec()))
        .optional()?;
    let unreadable = || SourceError::Protocol { problem: format!("a row of {} cannot be read", table.name) };
    json.map(|json| row::read(&json, &mut Shape::default()).ok_or_else(|| unreadable().into())).transpose()
}
