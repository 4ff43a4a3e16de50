//! The watched tables as the catalog has them: whether their changes can be captured, and under which key.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row as SqlRow};

use super::connect::Settings;
use super::values::identifier;
use crate::source::{OnTruncate, SourceError, WatchedTable};

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
    /// The columns the publication carries, each with the oid of its type.
    pub(super) columns: Vec<(String, u32)>,
    /// The columns shares name.
    pub(super) named: Vec<Arc<str>>,
    /// Whether the publication has it.
    pub(super) published: bool,
    /// Whether its changes carry all values before them.
    pub(super) keeps_before: bool,
    /// What to do when all its records are gone at once.
    pub(super) on_truncate: OnTruncate,
    /// The last `TRUNCATE` the targets have followed by hand; what came before it is gone there too.
    pub(super) emptied: Option<Place>,
    /// Changes before this place of the log are in a copy, should they not fit the table as it is now.
    pub(super) copied_to: u64,
}

/// Where in the log something stands: the commit of its transaction, and the row messages before it in there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) lsn: u64,
    pub(super) rows: u32,
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
    /// The place of the log the copied rows are of, once that is known.
    pub(super) copied_to: u64,
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
             WHERE c.relkind = 'p' AND t.isleaf
               AND (l.relreplident IN ('n', 'i') OR (c.relreplident = 'f' AND l.relreplident <> 'f'))),
           coalesce(p.puballtables OR r.oid IS NOT NULL, false),
           a.names, a.types
      FROM unnest($1::text[]) WITH ORDINALITY AS w (name, place)
      LEFT JOIN pg_class c ON c.oid = to_regclass(w.name)
      LEFT JOIN pg_namespace n ON n.oid = c.relnamespace
      LEFT JOIN pg_publication p ON p.pubname = $2
      LEFT JOIN pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
      LEFT JOIN LATERAL (
           SELECT array_agg(attname::text ORDER BY attnum) AS names, array_agg(atttypid ORDER BY attnum) AS types
             FROM pg_attribute
            WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
              AND (r.prattrs IS NULL OR attnum = ANY (r.prattrs::int2[]))) a ON true
     ORDER BY w.place";

/// A table's name as SQL writes it: what is before the first dot is its schema.
pub(super) fn quoted(name: &str) -> String {
    name.splitn(2, '.').map(identifier).collect::<Vec<_>>().join(".")
}

/// Looks all watched tables up, in their order.
pub(super) async fn look_up(settings: &Settings, sql: &Client) -> Result<Vec<Found>, SourceError> {
    let names: Vec<String> = settings.tables.iter().map(|watched| quoted(&watched.table)).collect();
    let rows = sql.query(LOOK_UP, &[&names, &settings.publication]).await;
    let rows = rows.map_err(|error| settings.failed("looking for the tables", &error))?;
    let mut found = Vec::with_capacity(rows.len());
    for (watched, row) in settings.tables.iter().zip(&rows) {
        let entry = judge(watched, row);
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
fn judge(watched: &WatchedTable, row: &SqlRow) -> Found {
    let name = &watched.table;
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
        let (how, word) = if identity == "f" { ("all its columns", "FULL") } else { ("its primary key", "DEFAULT") };
        let mend = format!("ALTER TABLE {partition} REPLICA IDENTITY {word}");
        return unfit(format!("the partition {partition} of {name} is not identified by {how}, as {name} is"), mend);
    }
    let (names, types): (Option<Vec<String>>, Option<Vec<u32>>) = (row.get(8), row.get(9));
    let columns: Vec<_> = names.into_iter().flatten().zip(types.into_iter().flatten()).collect();
    if let Some(missing) = watched.columns.iter().find(|named| !columns.iter().any(|(name, _)| **name == ***named)) {
        let mend = format!("ALTER TABLE {sql_name} ADD COLUMN {} <its type>, or mend the share", identifier(missing));
        return unfit(format!("the table {name} has no column {missing}, which a share of it names"), mend);
    }
    let table = Table {
        name: Arc::clone(name),
        oid,
        sql_name,
        partitioned,
        key,
        columns,
        named: watched.columns.clone(),
        published: row.get(7),
        keeps_before: identity == "f",
        on_truncate: watched.on_truncate,
        emptied: None,
        copied_to: 0,
    };
    if watched.needs_before && !table.keeps_before {
        let problem =
            format!("changes of the table {name} do not carry the values before them, which a share of it needs");
        return unfit(problem, table.keep_before());
    }
    Found::Fit(table)
}

impl Table {
    /// A table as the decoder knows it, without a server.
    #[cfg(any(test, fuzzing, feature = "bench"))]
    pub(super) fn plain(name: &str, oid: u32, key: &[&str], partitioned: bool) -> Self {
        Self {
            name: name.into(),
            oid,
            sql_name: name.to_owned(),
            partitioned,
            key: key.iter().map(|&column| column.to_owned()).collect(),
            columns: Vec::new(),
            named: Vec::new(),
            published: true,
            keeps_before: false,
            on_truncate: OnTruncate::Ignore,
            emptied: None,
            copied_to: 0,
        }
    }

    /// What makes its changes carry all values before them.
    pub(super) fn keep_before(&self) -> String {
        let partitions = if self.partitioned { ", and the same for each of its partitions" } else { "" };
        format!("ALTER TABLE {} REPLICA IDENTITY FULL{partitions}", self.sql_name)
    }

    /// How a query names the table's own rows: with partitions, without tables that inherit from it.
    pub(super) fn own_rows(&self) -> String {
        format!("{}{}", if self.partitioned { "" } else { "ONLY " }, self.sql_name)
    }
}
