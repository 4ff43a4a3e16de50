//! Reads the rows a table already has, as they were at one place of the log.
//!
//! A temporary slot names the place and exports the snapshot of it: what was committed before is in the snapshot, what
//! comes later is in the stream. Rows are streamed, so memory does not grow with the table. Fails with [`SourceError`];
//! a new attempt has a snapshot of its own.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use pgwire_replication::{Lsn, ReplicationClient};
use syncline_shared::record::{Action, Columns, Row, Value, Version};
use tokio_postgres::{Client, CopyOutStream};
use uuid::Uuid;

use super::connect::Settings;
use super::table::{Job, Table};
use super::values::{Kind, identifier, literal};
use super::wait;
use crate::source::{Change, Session, SourceError};

/// A copy under way.
pub(super) struct Copy {
    /// What is copied, for whom.
    pub(super) job: Job,
    settings: Arc<Settings>,
    form: Form,
    version: Version,
    at: Timestamp,
    rows: Pin<Box<CopyOutStream>>,
    /// Holds the snapshot's transaction open.
    _sql: Client,
}

/// Takes a snapshot and begins to read; waits for the transactions that are open now.
pub(super) async fn open(settings: Arc<Settings>, mut job: Job, epoch: u32) -> Result<Copy, SourceError> {
    let doing = "beginning a copy";
    let table = Arc::clone(&job.table);
    let snapshot = take_snapshot(&settings).await?;
    job.copied_to = snapshot.point;
    let sql = snapshot.enter(&settings).await?;
    let version = Version::new(epoch, snapshot.point, 0);
    // The snapshot is held by the transaction now.
    drop(snapshot);
    let at = now(&settings, &sql).await?;
    let form = Form::read(&settings, &sql, &table).await?;
    let statement = format!("COPY (SELECT {} FROM {}) TO STDOUT", form.list(), table.own_rows());
    let rows = sql.copy_out(&statement).await.map_err(|error| settings.failed(doing, &error))?;
    tracing::info!(source = settings.source, table = &*table.name, "copying the rows that are there");
    Ok(Copy { version, rows: Box::pin(rows), _sql: sql, job, settings, form, at })
}

/// What was committed at one place of the log. Transactions enter it as long as this is kept.
pub(super) struct Snapshot {
    /// The place: what comes later is in the stream.
    pub(super) point: u64,
    name: String,
    /// Its temporary slot ends with this connection.
    _replication: ReplicationClient,
}

/// Takes a snapshot; waits for the transactions that are open now.
pub(super) async fn take_snapshot(settings: &Settings) -> Result<Snapshot, SourceError> {
    let mut replication = settings.replication(0).await?;
    let (point, name) = wait::for_slot(settings, export_snapshot(settings, &mut replication)).await?;
    Ok(Snapshot { point: point.as_u64(), name, _replication: replication })
}

impl Snapshot {
    /// A connection whose transaction sees the snapshot.
    pub(super) async fn enter(&self, settings: &Settings) -> Result<Client, SourceError> {
        let sql = settings.sql().await?;
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT";
        let begun = sql.batch_execute(&format!("{begin} {}", literal(&self.name))).await;
        begun.map_err(|error| settings.failed("entering a snapshot", &error))?;
        Ok(sql)
    }
}

/// The server's time of a transaction's begin.
pub(super) async fn now(settings: &Settings, sql: &Client) -> Result<Timestamp, SourceError> {
    let now = sql.query_one("SELECT (extract(epoch FROM now()) * 1000000)::int8", &[]).await;
    let now: i64 = now.map_err(|error| settings.failed("asking for the time", &error))?.get(0);
    Timestamp::from_microsecond(now)
        .map_err(|_| SourceError::Protocol { problem: "the server's clock is out of range".to_owned() })
}

/// How the rows of a table are read.
pub(super) struct Form {
    pub(super) columns: Columns,
    kinds: Vec<Kind>,
    key: Columns,
    key_places: Vec<usize>,
}

impl Form {
    pub(super) async fn read(settings: &Settings, sql: &Client, table: &Table) -> Result<Self, SourceError> {
        let query = "SELECT attname::text, atttypid FROM pg_attribute
            WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
        let attributes = sql.query(query, &[&table.oid]).await;
        let attributes = attributes.map_err(|error| settings.failed("reading the table's columns", &error))?;
        let columns = Columns::new(attributes.iter().map(|row| row.get::<_, String>(0)));
        let kinds = attributes.iter().map(|row| Kind::of(row.get(1))).collect();
        let key_places = table.key.iter().map(|name| columns.position(name)).collect::<Option<Vec<_>>>();
        let key_places = key_places.ok_or_else(|| SourceError::Protocol {
            problem: format!("the key of {} changed while it was read", table.name),
        })?;
        let key = Columns::new(key_places.iter().filter_map(|&place| columns.name(place)));
        Ok(Self { columns, kinds, key, key_places })
    }

    /// The columns as a list in SQL.
    pub(super) fn list(&self) -> String {
        let names: Vec<_> = self.columns.iter().map(identifier).collect();
        names.join(", ")
    }

    /// The key of a row.
    pub(super) fn key(&self, row: &Row) -> Row {
        row.select(self.key.clone(), &self.key_places)
    }

    /// A key that somebody named, its columns in their order; `None` if it lacks one.
    pub(super) fn named(&self, key: &Row) -> Option<Row> {
        let places: Option<Vec<_>> = self.key.iter().map(|name| key.columns().position(name)).collect();
        places.map(|places| key.select(self.key.clone(), &places))
    }

    /// Reads a line of COPY's text format.
    pub(super) fn row(&self, line: &[u8]) -> Option<Row> {
        let line = str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        let mut row = Row::builder(self.columns.clone()).with_room(line.len());
        let mut kinds = self.kinds.iter();
        for cell in line.split('\t') {
            match (cell, kinds.next()) {
                ("\\N", Some(_)) => row.push(Value::Null),
                (cell, Some(kind)) if cell.contains('\\') => kind.push(&mut row, &unescape(cell)?)?,
                (cell, Some(kind)) => kind.push(&mut row, cell)?,
                (_, None) => return None,
            }
        }
        kinds.next().is_none().then(|| row.finish())
    }
}

async fn export_snapshot(
    settings: &Settings,
    replication: &mut ReplicationClient,
) -> Result<(Lsn, String), SourceError> {
    let slot = format!("syncline_copy_{}", Uuid::now_v7().simple());
    let command = format!("CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
    let rows = replication.simple_query(&command).await.map_err(|error| settings.broken(&error))?;
    // slot name, consistent point, snapshot name, plugin
    let text = |place: usize| {
        let cell = rows.first().and_then(|row| row.get(place)?.as_deref());
        cell.and_then(|bytes| str::from_utf8(bytes).ok())
    };
    let answer = text(1).and_then(|point| Lsn::parse(point).ok()).zip(text(2));
    let (point, snapshot) = answer
        .ok_or_else(|| SourceError::Protocol { problem: "no snapshot came with a replication slot".to_owned() })?;
    Ok((point, snapshot.to_owned()))
}

impl Copy {
    /// Reads the next row; returns the change for each share that waits for it, or `None` after the last row.
    /// Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Change>>, SourceError> {
        // The server sends one row per message.
        let line = match self.rows.next().await {
            None => return Ok(None),
            Some(Err(error)) => return Err(self.settings.failed_reading("copying", &error)),
            Some(Ok(line)) => line,
        };
        let row = self.form.row(&line).ok_or_else(|| SourceError::Protocol {
            problem: format!("a copied row of {} does not fit its definition", self.job.table.name),
        })?;
        if self.job.everyone {
            return Ok(Some(vec![self.change(row, None)]));
        }
        Ok(Some(self.job.shares.iter().map(|share| self.change(row.clone(), Some(Arc::clone(share)))).collect()))
    }

    fn change(&self, row: Row, only_share: Option<Arc<str>>) -> Change {
        Change {
            table: Arc::clone(&self.job.table.name),
            action: Action::Bulk,
            key: self.form.key(&row),
            before: None,
            after: Some(row),
            version: self.version,
            at: self.at,
            session: Session::default(),
            origin: Arc::new([]),
            only_share,
        }
    }
}

/// Undoes the backslash sequences of COPY's text format.
pub(super) fn unescape(cell: &str) -> Option<String> {
    let mut plain = String::with_capacity(cell.len());
    let mut letters = cell.chars();
    while let Some(letter) = letters.next() {
        if letter != '\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next()? {
            'b' => '\u{8}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backslash_sequences_of_a_copy_are_undone() {
        assert_eq!(unescape(r"a\tb\nc\\d\re\bf\fg\v").as_deref(), Some("a\tb\nc\\d\re\u{8}f\u{c}g\u{b}"));
        assert_eq!(unescape(r"\\x00ff").as_deref(), Some(r"\x00ff"));
        assert_eq!(unescape("\\"), None);
    }
}
