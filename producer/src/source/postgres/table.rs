//! The watched tables as the catalog has them: whether their changes can be captured, and under which key.

use std::sync::Arc;

use tokio_postgres::{Client, Row as SqlRow};

use super::connect::Settings;
use super::values::identifier;
use crate::source::SourceError;

/// A watched table that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// As the shares name it.
    pub(super) name: Arc<str>,
    /// Its oid.
    pub(super) oid: u32,
    /// Schema and name, quoted.
    pub(super) sql_name: String,
    /// Whether it is the root of partitions.
    pub(super) partitioned: bool,
    /// The key columns, in the order of the table's columns.
    pub(super) key: Vec<String>,
    /// Whether the publication has it.
    pub(super) published: bool,
}

/// Rows that are to be copied, and for whom.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// The table.
    pub(super) table: Arc<Table>,
    /// The shares whose initial copy this is.
    pub(super) shares: Vec<Arc<str>>,
    /// Whether every share gets the rows: the table appeared after the start, so its first rows are in no stream.
    pub(super) everyone: bool,
}

/// A watched table's entry in the catalog.
pub(super) enum Found {
    /// There is no such table now.
    Missing,
    /// It is there and fit for capture.
    Fit(Table),
    /// It is there and its changes cannot be captured.
    Unfit(SourceError),
}

/// $1: quoted names, $2: the publication. A usable key is the primary key, or the index named as replica identity;
/// partitions are identified by their root's primary key.
const LOOK_UP: &str = "
    SELECT c.oid, quote_ident(n.nspname) || '.' || quote_ident(c.relname),
           c.relkind::text, c.relpersistence::text, c.relreplident::text,
           (SELECT array_agg(a.attname::text ORDER BY a.attnum)
              FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k (attnum, nth), pg_attribute a
             WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND k.nth <= i.indnkeyatts
               AND CASE WHEN c.relreplident = 'i' AND c.relkind <> 'p' THEN i.indisreplident ELSE i.indisprimary END
               AND a.attrelid = c.oid AND a.attnum = k.attnum),
           (SELECT min(l.oid::regclass::text) FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
             WHERE c.relkind = 'p' AND t.isleaf AND l.relreplident IN ('n', 'i')),
           EXISTS (SELECT FROM pg_publication p LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
                    WHERE p.pubname = $2 AND (p.puballtables OR r.oid IS NOT NULL))
      FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place)
      LEFT JOIN pg_class c ON c.oid = to_regclass(w.name)
      LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
     ORDER BY w.place";

/// Looks all watched tables up, in their order.
pub(super) async fn look_up(settings: &Settings, sql: &Client) -> Result<Vec<Found>, SourceError> {
    let quoted = |name: &str| name.splitn(2, '.').map(identifier).collect::<Vec<_>>().join(".");
    let names: Vec<String> = settings.tables.iter().map(|watched| quoted(&watched.table)).collect();
    let rows = sql.query(LOOK_UP, &[&names, &settings.publication]).await;
    let rows = rows.map_err(|error| settings.failed("looking for the tables", &error))?;
    let mut found = Vec::with_capacity(rows.len());
    for (watched, row) in settings.tables.iter().zip(&rows) {
        let entry = judge(&watched.table, row);
        let twin = found.iter().find_map(|earlier| match (earlier, &entry) {
            (Found::Fit(earlier), Found::Fit(table)) if earlier.oid == table.oid => Some(earlier.name.clone()),
            (Found::Fit(_) | Found::Missing | Found::Unfit(_), _) => None,
        });
        found.push(match twin {
            None => entry,
            Some(twin) => Found::Unfit(SourceError::Unfit {
                problem: format!("the shares name one table as {twin} and as {}", watched.table),
                mend: "one spelling in all shares".to_owned(),
            }),
        });
    }
    Ok(found)
}

/// Decides whether a table's changes can be captured.
fn judge(name: &Arc<str>, row: &SqlRow) -> Found {
    let Some(oid) = row.get::<_, Option<u32>>(0) else { return Found::Missing };
    let (sql_name, kind): (String, String) = (row.get(1), row.get(2));
    let unfit = |problem: String, mend: String| Found::Unfit(SourceError::Unfit { problem, mend });
    if !matches!(kind.as_str(), "r" | "p") {
        return unfit(format!("{name} is no table"), "the name of a table in the share".to_owned());
    }
    if row.get::<_, String>(3) != "p" {
        let mend = format!("ALTER TABLE {sql_name} SET LOGGED");
        return unfit(format!("the table {name} is unlogged or temporary, so its changes are in no log"), mend);
    }
    let partitioned = kind == "p";
    let identity: String = row.get(4);
    let key: Option<Vec<String>> = row.get(5);
    if identity == "n" && !partitioned {
        let mend = format!("ALTER TABLE {sql_name} REPLICA IDENTITY DEFAULT");
        return unfit(format!("the table {name} has REPLICA IDENTITY NOTHING"), mend);
    }
    let Some(key) = key else {
        let mend = format!("ALTER TABLE {sql_name} ADD PRIMARY KEY (<its key columns>)");
        return unfit(format!("the table {name} has no primary key"), mend);
    };
    if let Some(partition) = row.get::<_, Option<String>>(6) {
        let mend = format!("ALTER TABLE {partition} REPLICA IDENTITY DEFAULT");
        return unfit(format!("the partition {partition} of {name} is not identified by its primary key"), mend);
    }
    Found::Fit(Table { name: Arc::clone(name), oid, sql_name, partitioned, key, published: row.get(7) })
}

impl Table {
    /// How a query names the table's own rows: with partitions, without tables that inherit from it.
    pub(super) fn own_rows(&self) -> String {
        format!("{}{}", if self.partitioned { "" } else { "ONLY " }, self.sql_name)
    }
}
