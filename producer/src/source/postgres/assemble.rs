//! Turns the events of the stream into changes: table definitions, transactions, sessions, versions.
//!
//! Knows nothing of connections. Fails with [`SourceError::Protocol`] on events that contradict each other.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use pgwire_replication::client::ReplicationEvent;
use serde::Deserialize;
use syncline_shared::record::{Action, Columns, Row, Value, Version};

use super::pgoutput::{self, Cell, Identity, Message, Old, Relation};
use super::queue::Queue;
use super::table::Table;
use super::values::Kind;
use crate::source::{Change, Session, SessionRule, SourceError};

/// The prefix of logical messages that say who is at work.
const SESSION_PREFIX: &str = "syncline";

/// Transactions whose replication origin begins so were made by a Syncline target and are not shared again.
const ECHO_PREFIX: &str = "syncline";

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// A table's columns, as the changes that follow have them.
pub(super) struct Shape {
    /// The table.
    pub(super) table: Arc<Table>,
    /// All columns.
    pub(super) columns: Columns,
    /// The kind of each column.
    pub(super) kinds: Vec<Kind>,
    key: Columns,
    key_places: Vec<usize>,
}

/// A table's definition from the stream, watched or not.
struct Definition {
    identity: Identity,
    columns: Columns,
    kinds: Vec<Kind>,
    key: Vec<bool>,
}

/// The transaction whose changes are arriving.
struct Transaction {
    commit_lsn: u64,
    at: Timestamp,
    /// Row messages so far, of watched tables and others.
    rows: u32,
    session: Option<Session>,
    echo: bool,
}

/// What a session message says.
#[derive(Deserialize)]
struct SessionMessage {
    #[serde(default)]
    interactive: bool,
    #[serde(default)]
    user: Option<String>,
}

/// Follows the stream of one connection.
pub(super) struct Assembler {
    epoch: u32,
    rule: Option<SessionRule>,
    tables: HashMap<u32, Arc<Table>>,
    definitions: HashMap<u32, Definition>,
    shapes: HashMap<u32, Arc<Shape>>,
    transaction: Option<Transaction>,
    no_origin: Arc<[String]>,
}

fn protocol(problem: String) -> SourceError {
    SourceError::Protocol { problem }
}

impl Assembler {
    pub(super) fn new(epoch: u32, rule: Option<SessionRule>) -> Self {
        Self {
            epoch,
            rule,
            tables: HashMap::new(),
            definitions: HashMap::new(),
            shapes: HashMap::new(),
            transaction: None,
            no_origin: Arc::new([]),
        }
    }

    /// The first part of every version.
    pub(super) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Replaces the tables whose changes are reported.
    pub(super) fn watch(&mut self, tables: Vec<Arc<Table>>) {
        let tables = tables.into_iter().map(|table| (table.oid, table)).collect();
        if self.tables != tables {
            self.tables = tables;
            self.shapes.clear();
        }
    }

    /// Whether the changes of this table are reported.
    pub(super) fn watches(&self, oid: u32) -> bool {
        self.tables.contains_key(&oid)
    }

    /// The latest shape of a watched table, once it had a change.
    pub(super) fn shape_of(&self, table: &str) -> Option<Arc<Shape>> {
        let table = self.tables.values().find(|watched| &*watched.name == table)?;
        let known = self.shapes.get(&table.oid).cloned();
        known.or_else(|| Shape::new(Arc::clone(table), self.definitions.get(&table.oid)?).ok().map(Arc::new))
    }

    /// Takes the next event in; its changes and marks go to the queue.
    pub(super) fn take(&mut self, event: ReplicationEvent, queue: &mut Queue) -> Result<(), SourceError> {
        match event {
            ReplicationEvent::Begin { final_lsn, commit_time_micros, .. } => {
                let at = Timestamp::from_microsecond(commit_time_micros.saturating_add(POSTGRES_EPOCH_MICROS));
                let at = at.map_err(|_| protocol("a commit time out of range".to_owned()))?;
                let commit_lsn = final_lsn.as_u64();
                self.transaction = Some(Transaction { commit_lsn, at, rows: 0, session: None, echo: false });
            }
            ReplicationEvent::Commit { end_lsn, .. } => {
                self.transaction = None;
                queue.reach(end_lsn.as_u64());
            }
            // All that was committed before this place has been sent; within a transaction that says nothing yet.
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                if self.transaction.is_none() {
                    queue.reach(wal_end.as_u64());
                }
            }
            ReplicationEvent::Message { transactional: true, prefix, content, .. } if prefix == SESSION_PREFIX => {
                self.enter_session(&content);
            }
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
            ReplicationEvent::XLogData { data, .. } => {
                let message = pgoutput::decode(&data).map_err(|malformed| protocol(malformed.to_string()))?;
                self.row_message(message, queue)?;
            }
        }
        Ok(())
    }

    fn enter_session(&mut self, content: &[u8]) {
        let Some(transaction) = &mut self.transaction else { return };
        match serde_json::from_slice::<SessionMessage>(content) {
            Ok(SessionMessage { interactive, user }) => {
                transaction.session = Some(Session { interactive: Some(interactive), user: user.map(Into::into) });
            }
            Err(_) => tracing::warn!(bytes = content.len(), "a session message is not of the known form, left aside"),
        }
    }

    fn row_message(&mut self, message: Message<'_>, queue: &mut Queue) -> Result<(), SourceError> {
        match message {
            Message::Relation(relation) => self.define(&relation),
            Message::Origin { name } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.echo = name.starts_with(ECHO_PREFIX);
                }
            }
            Message::Type => {}
            Message::Truncate { relations } => {
                for table in relations.iter().filter_map(|oid| self.tables.get(oid)) {
                    tracing::warn!(table = &*table.name, "the table was truncated; its records stay in the targets");
                }
            }
            Message::Insert { relation, new } => {
                let Some((shape, draft)) = self.begin_row(relation)? else { return Ok(()) };
                let (key, after) = (shape.key(&new, None)?, shape.row(&new, None)?);
                let session = self.session(&after);
                queue.push(draft.change(Action::Insert, session, key, None, Some(after)));
            }
            Message::Update { relation, old, new } => {
                let Some((shape, draft)) = self.begin_row(relation)? else { return Ok(()) };
                let (key, after) = (shape.key(&new, old.as_ref())?, shape.row(&new, old.as_ref())?);
                let session = self.session(&after);
                let old_key = old.as_ref().map(|old| shape.key(old.cells(), None)).transpose()?;
                let before = old.as_ref().map(|old| shape.before(old)).transpose()?;
                match old_key.filter(|old_key| *old_key != key) {
                    Some(old_key) => {
                        queue.push(draft.first().change(Action::Delete, session.clone(), old_key, before, None));
                        queue.push(draft.change(Action::Insert, session, key, None, Some(after)));
                    }
                    None => queue.push(draft.change(Action::Update, session, key, before, Some(after))),
                }
            }
            Message::Delete { relation, old } => {
                let Some((shape, draft)) = self.begin_row(relation)? else { return Ok(()) };
                let (key, before) = (shape.key(old.cells(), None)?, shape.before(&old)?);
                let session = self.session(&before);
                queue.push(draft.change(Action::Delete, session, key, Some(before), None));
            }
        }
        Ok(())
    }

    fn define(&mut self, relation: &Relation<'_>) {
        let columns = &relation.columns;
        let definition = Definition {
            identity: relation.identity,
            columns: Columns::new(columns.iter().map(|column| column.name)),
            kinds: columns.iter().map(|column| Kind::of(column.type_oid)).collect(),
            key: columns.iter().map(|column| column.key).collect(),
        };
        self.definitions.insert(relation.oid, definition);
        self.shapes.remove(&relation.oid);
    }

    /// Counts a row message; `None` when its change is not reported.
    ///
    /// Every row message counts, of whatever table, and takes two ordinals, for the change of a key makes two changes:
    /// so a change gets the same version whenever it is read again, whatever is watched by then.
    fn begin_row(&mut self, oid: u32) -> Result<Option<(Arc<Shape>, Draft)>, SourceError> {
        let Some(transaction) = &mut self.transaction else {
            return Err(protocol("a change outside of a transaction".to_owned()));
        };
        transaction.rows = transaction.rows.saturating_add(1);
        let ordinal = transaction.rows.checked_mul(2);
        let ordinal = ordinal.ok_or_else(|| protocol("a transaction of more than 2^31 changes".to_owned()))?;
        let (at, position, echo) = (transaction.at, transaction.commit_lsn, transaction.echo);
        let Some(table) = self.tables.get(&oid).filter(|_| !echo) else { return Ok(None) };
        let shape = match self.shapes.get(&oid) {
            Some(shape) => Arc::clone(shape),
            None => {
                let definition = self.definitions.get(&oid);
                let definition =
                    definition.ok_or_else(|| protocol(format!("a change of {} before its definition", table.name)))?;
                let shape = Arc::new(Shape::new(Arc::clone(table), definition)?);
                self.shapes.insert(oid, Arc::clone(&shape));
                shape
            }
        };
        let table = Arc::clone(&shape.table.name);
        let draft = Draft { table, epoch: self.epoch, position, ordinal, at, origin: Arc::clone(&self.no_origin) };
        Ok(Some((shape, draft)))
    }

    /// The session of a change: of its transaction's message, else by the rule, else a job's.
    fn session(&self, row: &Row) -> Session {
        let said = self.transaction.as_ref().and_then(|transaction| transaction.session.clone());
        said.or_else(|| self.rule.as_ref().map(|rule| rule.session(row)))
            .unwrap_or(Session { interactive: Some(false), user: None })
    }
}

/// What the changes of one row message have in common.
struct Draft {
    table: Arc<str>,
    epoch: u32,
    position: u64,
    ordinal: u32,
    at: Timestamp,
    origin: Arc<[String]>,
}

impl Draft {
    /// For the first of two changes that one message makes.
    fn first(&self) -> Self {
        let (table, origin) = (Arc::clone(&self.table), Arc::clone(&self.origin));
        Self { table, origin, ordinal: self.ordinal.saturating_sub(1), ..*self }
    }

    fn change(self, action: Action, session: Session, key: Row, before: Option<Row>, after: Option<Row>) -> Change {
        let version = Version::new(self.epoch, self.position, self.ordinal);
        let Self { table, at, origin, .. } = self;
        Change { table, action, key, before, after, version, at, session, origin, only_share: None }
    }
}

impl Old<'_> {
    fn cells(&self) -> &[Cell<'_>] {
        match self {
            Self::Key(cells) | Self::Full(cells) => cells,
        }
    }
}

impl Shape {
    /// The key is the one the stream marks, which is the one the table had then; where it marks none or all columns, the
    /// one in the catalog.
    fn new(table: Arc<Table>, definition: &Definition) -> Result<Self, SourceError> {
        let marked = match definition.identity {
            Identity::Default => true,
            Identity::Index => !table.partitioned,
            Identity::Nothing | Identity::Full => false,
        };
        let mut key_places: Vec<usize> = if marked {
            definition.key.iter().enumerate().filter_map(|(place, key)| key.then_some(place)).collect()
        } else {
            Vec::new()
        };
        if key_places.is_empty() {
            let places = table.key.iter().map(|name| definition.columns.position(name)).collect::<Option<Vec<_>>>();
            key_places = places.ok_or_else(|| protocol(format!("a change of {} lacks its key columns", table.name)))?;
        }
        let columns = definition.columns.clone();
        let key = Columns::new(key_places.iter().filter_map(|&place| columns.name(place)));
        Ok(Self { table, columns, kinds: definition.kinds.clone(), key, key_places })
    }

    /// The key columns of a row. A key stored apart that the change left alone stands in the old row.
    fn key(&self, cells: &[Cell<'_>], old: Option<&Old<'_>>) -> Result<Row, SourceError> {
        let mut row = Row::builder(self.key.clone());
        for &place in &self.key_places {
            let (cell, kind) = self.cell(place, cells, old)?;
            if !matches!(cell, Cell::Text(_)) {
                return Err(protocol(format!("a change of {} without its key", self.table.name)));
            }
            push(&mut row, cell, kind).ok_or_else(|| self.misfit())?;
        }
        Ok(row.finish())
    }

    /// All columns of a row; what the change left alone and the server did not send comes from the old row where that
    /// has it.
    fn row(&self, cells: &[Cell<'_>], old: Option<&Old<'_>>) -> Result<Row, SourceError> {
        if cells.len() != self.columns.len() {
            return Err(self.misfit());
        }
        let mut row = Row::builder(self.columns.clone());
        for place in 0..cells.len() {
            let (cell, kind) = self.cell(place, cells, old)?;
            push(&mut row, cell, kind).ok_or_else(|| self.misfit())?;
        }
        Ok(row.finish())
    }

    /// The row before the change: all of it, or the key alone.
    fn before(&self, old: &Old<'_>) -> Result<Row, SourceError> {
        match old {
            Old::Full(cells) => self.row(cells, None),
            Old::Key(cells) => self.key(cells, None),
        }
    }

    fn cell<'a>(
        &self,
        place: usize,
        cells: &[Cell<'a>],
        old: Option<&Old<'a>>,
    ) -> Result<(Cell<'a>, Kind), SourceError> {
        let (Some(&cell), Some(&kind)) = (cells.get(place), self.kinds.get(place)) else { return Err(self.misfit()) };
        let before = match old {
            Some(Old::Full(old)) => old.get(place),
            Some(Old::Key(old)) if self.key_places.contains(&place) => old.get(place),
            Some(Old::Key(_)) | None => None,
        };
        Ok((before.copied().filter(|_| cell == Cell::Unchanged).unwrap_or(cell), kind))
    }

    fn misfit(&self) -> SourceError {
        protocol(format!("a change of {} does not fit its definition", self.table.name))
    }
}

fn push(row: &mut syncline_shared::record::RowBuilder, cell: Cell<'_>, kind: Kind) -> Option<()> {
    match cell {
        Cell::Null => row.push(Value::Null),
        Cell::Unchanged => row.push(Value::Unchanged),
        Cell::Text(text) => return kind.push(row, text),
    }
    Some(())
}
