//! Tables of a SQLite source as bulk shares read them: page by page in the order of the key, as copies do.
//!
//! Each page is a read transaction of its own, so that nobody who writes waits for a large table, and has the version of
//! its own place in the log. Notes stand in `_syncline_bulk`. Blocks; runs off the I/O threads.

use std::fs::TryLockError;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use syncline_shared::record::Version;
use syncline_shared::sqlite::{self, FileId, file_id, quote};
use tokio::sync::watch;

use super::error::Fault;
use super::log::{Decoder, position};
use super::named::Named;
use super::setup::newest_change;
use super::table::{Side, Table};
use super::{Settings, SqliteSource, off_thread};
use crate::bulk::{Bite, Key, Opened, Range, Rows, Stock, Want, When};
use crate::source::SourceError;

/// Bytes of rows handed on at once, about.
const BYTES_MAX: usize = 64 * 1024;

/// A SQLite source as bulk shares see it.
#[derive(Clone)]
pub struct SqliteStock {
    settings: Arc<Settings>,
    /// Whether this process reads the changes.
    live: watch::Receiver<bool>,
}

impl SqliteSource {
    /// The source as bulk shares see it.
    #[must_use]
    pub fn stock(&self) -> SqliteStock {
        SqliteStock { settings: Arc::clone(&self.settings), live: self.live.subscribe() }
    }
}

impl SqliteStock {
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, SourceError> {
        let settings = Arc::clone(&self.settings);
        off_thread(move || {
            let done = sqlite::open(&settings.config.path, false).map_err(Fault::from);
            done.and_then(|connection| work(&connection)).map_err(|fault| fault.at(&settings.address()))
        })
        .await
    }
}

impl Stock for SqliteStock {
    type Rows = Pages;

    fn is_read_here(&self) -> bool {
        self.live.has_changed().is_ok() && *self.live.borrow()
    }

    async fn is_read(&self) -> Result<bool, SourceError> {
        let path = format!("{}-syncline", self.settings.address());
        off_thread(move || {
            let Ok(file) = std::fs::File::open(&path) else { return Ok(false) };
            Ok(matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
        })
        .await
    }

    async fn notes(&self) -> Result<Vec<(String, String)>, SourceError> {
        self.with(|connection| {
            if !has_notes(connection)? {
                return Ok(Vec::new());
            }
            let mut select = connection.prepare("SELECT key, value FROM _syncline_bulk")?;
            let notes = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(notes.collect::<rusqlite::Result<_>>()?)
        })
        .await
    }

    async fn put(&self, key: &str, json: &str, when: When) -> Result<bool, SourceError> {
        let (key, json) = (key.to_owned(), json.to_owned());
        self.with(move |connection| {
            if !has_notes(connection)? {
                let create = "CREATE TABLE IF NOT EXISTS _syncline_bulk (key TEXT PRIMARY KEY, value TEXT)";
                connection.execute(create, [])?;
            }
            let update = "UPDATE _syncline_bulk SET value = ?2 WHERE key = ?1";
            let written = match when {
                When::Always => {
                    let put = "INSERT INTO _syncline_bulk (key, value) VALUES (?1, ?2)
                        ON CONFLICT (key) DO UPDATE SET value = excluded.value";
                    connection.execute(put, params![key, json])?
                }
                When::There => connection.execute(update, params![key, json])?,
                When::RunBy(runner) => {
                    let update = format!("{update} AND json_extract(value, '$.runner') = ?3");
                    connection.execute(&update, params![key, json, runner.to_string()])?
                }
            };
            Ok(written > 0)
        })
        .await
    }

    async fn remove(&self, keys: &[String]) -> Result<(), SourceError> {
        let keys = keys.to_vec();
        self.with(move |connection| {
            for key in &keys {
                connection.execute("DELETE FROM _syncline_bulk WHERE key = ?1", [key])?;
            }
            Ok(())
        })
        .await
    }

    async fn open(&self, want: Want) -> Result<Opened<Pages>, SourceError> {
        self.enter(want, true).await
    }

    async fn look(&self, want: Want) -> Result<Opened<Pages>, SourceError> {
        self.enter(want, false).await
    }
}

impl SqliteStock {
    /// Begins to read; a `reader` moves the log on before.
    async fn enter(&self, want: Want, reader: bool) -> Result<Opened<Pages>, SourceError> {
        let settings = Arc::clone(&self.settings);
        let ranges = if want.ranges.is_empty() { vec![Range::default()] } else { want.ranges.clone() };
        let left = ranges.clone();
        off_thread(move || {
            let opened = Open::new(Arc::clone(&settings), want, left, reader);
            let (opened, version) = opened.map_err(|fault| fault.at(&settings.address()))?;
            let (total, rows) = (opened.total, Pages(Arc::new(Mutex::new(opened))));
            Ok(Opened { rows, ranges, total, as_of: Timestamp::now(), version })
        })
        .await
    }
}

fn has_notes(connection: &Connection) -> rusqlite::Result<bool> {
    let query = "SELECT 1 FROM main.sqlite_schema WHERE type = 'table' AND name = '_syncline_bulk'";
    Ok(connection.query_row(query, [], |_| Ok(())).optional()?.is_some())
}

/// A table's pages.
pub struct Pages(Arc<Mutex<Open>>);

impl Rows for Pages {
    async fn next(&mut self) -> Result<Option<Bite>, SourceError> {
        let open = Arc::clone(&self.0);
        off_thread(move || {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.page().map_err(|fault| fault.at(&open.settings.address()))
        })
        .await
    }
}

/// The file, open for one bulk share.
struct Open {
    settings: Arc<Settings>,
    connection: Connection,
    file: Option<FileId>,
    decoder: Decoder,
    want: Want,
    left: Vec<Range>,
    total: u64,
}

impl Open {
    fn new(settings: Arc<Settings>, want: Want, left: Vec<Range>, reader: bool) -> Result<(Self, Version), Fault> {
        let connection = sqlite::open(&settings.config.path, false)?;
        let file = file_id(&settings.config.path);
        let decoder = Decoder::default();
        let mut open = Self { settings, connection, file, decoder, want, left, total: 0 };
        let table = open.table()?;
        let count = format!("SELECT count(*) FROM main.{}{}", quote(&table.name), open.conditions(&table, None).sql());
        let total: i64 = open.connection.query_row(&count, [], |row| row.get(0))?;
        open.total = u64::try_from(total).unwrap_or_default();
        if let Some(keys) = &open.want.keys {
            open.total = u64::try_from(keys.len()).unwrap_or(u64::MAX);
        }
        if reader {
            step_on(&open.connection)?;
        }
        let version = version(&open.connection, &open.settings)?;
        Ok((open, version))
    }

    /// The table as it is now, if it has all that is named.
    fn table(&self) -> Result<Table, Fault> {
        let unfit = |problem: String| SourceError::Unfit { problem, mend: "mend that, and ask again".to_owned() };
        let name = &self.want.table;
        let table = Table::read(&self.connection, name)?;
        let table = table.ok_or_else(|| unfit(format!("the table {name} does not exist")))?;
        table.require_key()?;
        let changed = self.want.changed.as_ref().map(|(column, _)| column);
        let has = |name: &&String| table.columns.iter().any(|column| column.name == **name);
        if let Some(missing) = self.want.columns.iter().chain(changed).find(|name| !has(name)) {
            return Err(unfit(format!("the table {name} has no column {missing}")).into());
        }
        Ok(table)
    }

    /// Reads the next page; `None` after the last one.
    fn page(&mut self) -> Result<Option<Bite>, Fault> {
        let Some(range) = self.left.iter().position(|range| !range.done) else { return Ok(None) };
        let after = self.left.get(range).and_then(|range| range.after.clone());
        if self.file != file_id(&self.settings.config.path) {
            let (address, cause) = (self.settings.address(), "the file was replaced".into());
            return Err(SourceError::Unreachable { address, cause }.into());
        }
        let reading = self.connection.unchecked_transaction()?;
        let version = version(&reading, &self.settings)?;
        let table = self.table()?;
        if let Some(keys) = &mut self.want.keys {
            let now = keys.drain(..keys.len().min(self.want.rows_max)).collect::<Vec<_>>();
            let done = keys.is_empty();
            if let Some(range) = self.left.get_mut(range) {
                range.done = done;
            }
            let named = Named { connection: &reading, table: &table, version, share: &self.want.share };
            let changes = now.iter().map(|key| named.change(key, &mut self.decoder)).collect::<Result<_, _>>()?;
            return Ok(Some(Bite { range, changes, after: None, done }));
        }
        let conditions = self.conditions(&table, after.as_ref());
        let (list, places) = (table.key_list(), table.key.len());
        let sql = format!(
            "SELECT {}, {list} FROM main.{}{} ORDER BY {list} LIMIT {}",
            table.row_json(Side::Current),
            quote(&table.name),
            conditions.sql(),
            self.want.rows_max
        );
        let rule = self.settings.config.session.as_ref();
        let (mut changes, mut bytes, mut last) = (Vec::new(), 0, None);
        let mut select = reading.prepare_cached(&sql)?;
        let mut rows = select.query(params_from_iter(after.iter().flatten().filter_map(|text| value(text))))?;
        while let Some(row) = rows.next()? {
            let json = row.get_ref(0)?.as_bytes().map_err(rusqlite::Error::from)?;
            let change = self.decoder.copied(&table, json, version, rule, Some(&self.want.share))?;
            bytes += change.after.as_ref().map_or(0, |row| row.size());
            changes.push(change);
            last = Some((1..=places).map(|place| Ok(text(row.get(place)?))).collect::<rusqlite::Result<Key>>()?);
            if bytes >= BYTES_MAX {
                break;
            }
        }
        let done = bytes < BYTES_MAX && changes.len() < self.want.rows_max;
        if let Some(range) = self.left.get_mut(range) {
            range.done = done;
            range.after = last.clone().or_else(|| range.after.take());
        }
        Ok(Some(Bite { range, changes, after: last, done }))
    }

    fn conditions(&self, table: &Table, after: Option<&Key>) -> Conditions {
        // A record without a whole key cannot be shared, and a null would end the comparison early.
        let mut all: Vec<_> = table.key.iter().map(|name| format!("{} IS NOT NULL", quote(name))).collect();
        if after.is_some() {
            all.push(format!("({}) > ({})", table.key_list(), vec!["?"; table.key.len()].join(", ")));
        }
        if let Some((column, since)) = &self.want.changed {
            let (name, seconds) = (quote(column), since.as_second());
            let text = since.strftime("%Y-%m-%d %H:%M:%S");
            // Times are texts, or numbers of seconds or milliseconds. What has no time is among them: rather once more
            // than not at all.
            all.push(format!(
                "CASE typeof({name}) WHEN 'text' THEN {name} >= '{text}' WHEN 'null' THEN 1
                 ELSE {name} >= CASE WHEN {name} > 100000000000 THEN 1000 ELSE 1 END * {seconds} END"
            ));
        }
        Conditions(all)
    }
}

struct Conditions(Vec<String>);

impl Conditions {
    fn sql(&self) -> String {
        format!(" WHERE {}", self.0.join(" AND "))
    }
}

/// Moves the log on by one place that no change has: what passed the listener is older than the rows that show it, also
/// when others were read at the place before.
fn step_on(connection: &Connection) -> rusqlite::Result<()> {
    let stepped = connection.execute("UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = '_syncline_change'", [])?;
    if stepped == 0 {
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('_syncline_change', 1)", [])?;
    }
    Ok(())
}

/// The place of the log that a read transaction sees: what changed before is in its rows, what changes later is newer.
fn version(reading: &Connection, settings: &Settings) -> Result<Version, Fault> {
    if !reading.table_exists(Some("main"), "_syncline_state")? {
        return Err(SourceError::Unfit {
            problem: format!("no producer has read the source {} yet", settings.name),
            mend: "start the producer, and ask again".to_owned(),
        }
        .into());
    }
    let newest = newest_change(reading)?;
    // A log that was lost is begun again by whoever reads it, and only then are its places newer than all before.
    let query = "SELECT epoch FROM _syncline_state WHERE committed <= ?1";
    let epoch: Option<u32> = reading.query_row(query, [newest], |row| row.get(0)).optional()?;
    let Some(epoch) = epoch else {
        let (address, cause) = (settings.address(), "its change log begins anew".into());
        return Err(SourceError::Unreachable { address, cause }.into());
    };
    Ok(Version::new(epoch, position(newest) + 1, 0))
}

/// A value of a key as a note has it.
fn text(value: Value) -> String {
    match value {
        Value::Null => "n".to_owned(),
        Value::Integer(number) => format!("i{number}"),
        Value::Real(number) => format!("r{:016x}", number.to_bits()),
        Value::Text(text) => format!("t{text}"),
        Value::Blob(bytes) => bytes.iter().fold("b".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}

/// Reads [`text`] back; `None` for what it never writes.
fn value(text: &str) -> Option<Value> {
    let (kind, rest) = text.split_at_checked(1)?;
    Some(match kind {
        "i" => Value::Integer(rest.parse().ok()?),
        "r" => Value::Real(f64::from_bits(u64::from_str_radix(rest, 16).ok()?)),
        "t" => Value::Text(rest.to_owned()),
        "b" => Value::Blob(super::row::bytes(rest)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_key_reads_back_from_its_note() {
        let values = [
            Value::Integer(i64::MIN),
            Value::Real(0.1),
            Value::Real(f64::INFINITY),
            Value::Text("é'\n".to_owned()),
            Value::Text(String::new()),
            Value::Blob(vec![0, 255, 16]),
        ];
        for one in values {
            assert_eq!(value(&text(one.clone())), Some(one));
        }
        for bad in ["", "x1", "i", "rzz", "b0g"] {
            assert_eq!(value(bad), None, "{bad}");
        }
    }
}
