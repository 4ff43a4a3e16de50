//! Reads the parts of a table, each over one connection at a time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use jiff::Timestamp;
use syncline_shared::record::{Action, Row, Version};
use tokio_postgres::{Client, CopyOutStream};

use super::super::connect::Settings;
use super::super::copy::{Form, unescape};
use super::super::values::{identifier, literal};
use crate::bulk::{Bite, Key, Range};
use crate::source::{Change, Session, SourceError};

/// Bytes of rows handed on at once, about.
const BYTES_MAX: usize = 64 * 1024;

/// What all connections read.
pub(super) struct Reading {
    pub(super) settings: Arc<Settings>,
    pub(super) table: Arc<str>,
    pub(super) own_rows: String,
    pub(super) share: Arc<str>,
    pub(super) version: Version,
    pub(super) at: Timestamp,
    pub(super) rows_max: usize,
    pub(super) form: Form,
    /// The key's columns, in the order of its index.
    pub(super) key: Vec<String>,
    pub(super) condition: Option<String>,
}

type Left = Arc<Mutex<VecDeque<(usize, Range)>>>;

/// One connection.
struct Part {
    reading: Arc<Reading>,
    sql: Client,
    left: Left,
    /// The part under way.
    rows: Option<(usize, Pin<Box<CopyOutStream>>)>,
}

/// One stream for each connection; they take the parts that are left in order.
pub(super) fn parts(
    reading: &Arc<Reading>,
    clients: Vec<Client>,
    left: Vec<(usize, Range)>,
) -> Vec<BoxStream<'static, Result<Bite, SourceError>>> {
    let left: Left = Arc::new(Mutex::new(left.into()));
    let part = |sql| Part { reading: Arc::clone(reading), sql, left: Arc::clone(&left), rows: None };
    clients.into_iter().map(|sql| try_unfold(part(sql), Part::next).boxed()).collect()
}

impl Part {
    async fn next(mut self) -> Result<Option<(Bite, Self)>, SourceError> {
        let (range, mut rows) = match self.rows.take() {
            Some(rows) => rows,
            None => {
                let next = self.left.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((place, range)) = next else { return Ok(None) };
                let statement = self.reading.statement(&range);
                let opened = self.sql.copy_out(&statement).await;
                let opened = opened.map_err(|error| self.reading.settings.failed_reading("a bulk share", &error))?;
                (place, Box::pin(opened))
            }
        };
        let (mut changes, mut bytes, mut last) = (Vec::new(), 0, None);
        while changes.len() < self.reading.rows_max && bytes < BYTES_MAX {
            let Some(line) = rows.next().await else {
                let after = last.map(|line| self.reading.key_of(&line)).transpose()?;
                return Ok(Some((Bite { range, changes, after, done: true }, self)));
            };
            let line = line.map_err(|error| self.reading.settings.failed_reading("a bulk share", &error))?;
            let row = self.reading.form.row(&line).ok_or_else(|| self.reading.misfit())?;
            bytes += row.size();
            changes.push(self.reading.change(row));
            last = Some(line);
        }
        let after = last.map(|line| self.reading.key_of(&line)).transpose()?;
        self.rows = Some((range, rows));
        Ok(Some((Bite { range, changes, after, done: false }, self)))
    }
}

impl Reading {
    fn statement(&self, range: &Range) -> String {
        let names: Vec<_> = self.key.iter().map(|name| identifier(name)).collect();
        let list = names.join(", ");
        let than = |key: &Key| key.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", ");
        let after = range.after.as_ref().map(|key| format!("({list}) > ({})", than(key)));
        let upto = range.upto.as_ref().map(|key| format!("({list}) <= ({})", than(key)));
        let conditions: Vec<_> = after.into_iter().chain(upto).chain(self.condition.clone()).collect();
        let conditions = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        format!("COPY (SELECT {} FROM {}{conditions} ORDER BY {list}) TO STDOUT", self.form.list(), self.own_rows)
    }

    pub(super) fn change(&self, row: Row) -> Change {
        self.change_of(Action::Bulk, self.form.key(&row), Some(row))
    }

    pub(super) fn change_of(&self, action: Action, key: Row, after: Option<Row>) -> Change {
        Change {
            table: Arc::clone(&self.table),
            action,
            key,
            before: None,
            after,
            version: self.version,
            at: self.at,
            session: Session::default(),
            origin: Arc::new([]),
            only_share: Some(Arc::clone(&self.share)),
        }
    }

    /// The key of a line, as the server writes it.
    fn key_of(&self, line: &impl AsRef<[u8]>) -> Result<Key, SourceError> {
        let line = str::from_utf8(line.as_ref()).map_err(|_| self.misfit())?.trim_end_matches('\n');
        let cell = |name: &String| line.split('\t').nth(self.form.columns.position(name)?).and_then(unescape);
        self.key.iter().map(cell).collect::<Option<Key>>().ok_or_else(|| self.misfit())
    }

    pub(super) fn misfit(&self) -> SourceError {
        SourceError::Protocol { problem: format!("a row of {} does not fit its definition", self.table) }
    }
}
