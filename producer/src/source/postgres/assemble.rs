//! Turns the events of the stream into changes: table definitions, transactions, sessions, versions.
//!
//! Knows nothing of connections. Fails with [`SourceError::Protocol`] on events that contradict each other.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use pgwire_replication::client::ReplicationEvent;
use serde::Deserialize;
use syncline_shared::postgres::APPLIED_MESSAGE;
use syncline_shared::record::{Action, Row, Version};

use super::pgoutput::{self, Message};
use super::queue::Queue;
use super::shape::{Definition, Shape};
use super::table::{Place, Table};
use crate::source::{Change, OnTruncate, Session, SessionRule, SourceError};

/// The prefix of logical messages that say who is at work.
const SESSION_PREFIX: &str = "syncline";

/// Transactions whose replication origin begins so came from another Syncline and are not shared again.
const ECHO_PREFIX: &str = "syncline";

/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The transaction whose changes are arriving.
struct Transaction {
    commit_lsn: u64,
    at: Timestamp,
    /// Row messages so far, of watched tables and others.
    rows: u32,
    session: Option<Session>,
    echo: bool,
}

impl Transaction {
    /// Here.
    const fn place(&self) -> Place {
        Place { lsn: self.commit_lsn, rows: self.rows }
    }
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

    /// The latest shape of a watched table, once it had a change.
    pub(super) fn shape_of(&self, table: &str) -> Option<Arc<Shape>> {
        let table = self.tables.values().find(|watched| &*watched.name == table)?;
        let known = self.shapes.get(&table.oid).cloned();
        known.or_else(|| Some(Arc::new(Shape::new(Arc::clone(table), self.definitions.get(&table.oid)?))))
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
            ReplicationEvent::Message { transactional: true, prefix, .. } if prefix == APPLIED_MESSAGE => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.echo = true;
                }
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
            Message::Relation(relation) => {
                self.shapes.remove(&relation.oid);
                self.definitions.insert(relation.oid, Definition::new(&relation));
            }
            Message::Origin { name } => {
                if let Some(transaction) = &mut self.transaction {
                    transaction.echo |= name.starts_with(ECHO_PREFIX);
                }
            }
            Message::Type => {}
            Message::Truncate { relations } => self.truncate(&relations, queue)?,
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
                        let first =
                            draft.first().change(Action::Delete, session.clone(), old_key.clone(), before, None);
                        queue.push(first);
                        queue.push_moved(draft.change(Action::Insert, session, key, None, Some(after)), Some(old_key));
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

    /// A table that was emptied at once: a pause, unless its shares do not mind or the targets were emptied too.
    fn truncate(&self, relations: &[u32], queue: &mut Queue) -> Result<(), SourceError> {
        let place = self.transaction.as_ref().map(Transaction::place);
        let place = place.ok_or_else(|| protocol("a change outside of a transaction".to_owned()))?;
        for table in relations.iter().filter_map(|oid| self.tables.get(oid)) {
            match table.on_truncate {
                OnTruncate::Ignore => {
                    tracing::warn!(table = &*table.name, "the table was truncated; its records stay in the targets");
                }
                OnTruncate::Pause if table.emptied >= Some(place) => {
                    tracing::info!(table = &*table.name, "going on after the table was truncated");
                }
                OnTruncate::Pause => queue.truncate(Arc::clone(&table.name), place),
            }
        }
        Ok(())
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
        let place = transaction.place();
        let Some(table) = self.tables.get(&oid).filter(|_| !echo) else { return Ok(None) };
        if table.emptied >= Some(place) {
            return Ok(None);
        }
        let shape = match self.shapes.get(&oid) {
            Some(shape) => Arc::clone(shape),
            None => {
                let definition = self.definitions.get(&oid);
                let definition =
                    definition.ok_or_else(|| protocol(format!("a change of {} before its definition", table.name)))?;
                let shape = Arc::new(Shape::new(Arc::clone(table), definition));
                self.shapes.insert(oid, Arc::clone(&shape));
                shape
            }
        };
        if !shape.has_tables_key() {
            if position < table.copied_to {
                return Ok(None);
            }
            return Err(SourceError::Unfit {
                problem: format!("the key of the table {} was another one when it was changed", table.name),
                mend: "syncline source resume, or syncline source rebuild --whole".to_owned(),
            });
        }
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

#[cfg(test)]
mod tests {
    use pgwire_replication::Lsn;
    use proptest::prelude::*;

    use super::super::table::Table;
    use super::*;
    use crate::source::PollLimit;

    const RELATION: &[u8] = b"R\0\0\0\x07public\0item\0d\0\x01\x01id\0\0\0\0\x17\xff\xff\xff\xff";
    const INSERT: &[u8] = b"I\0\0\0\x07N\0\x01t\0\0\0\x011";
    const INSERT_ELSEWHERE: &[u8] = b"I\0\0\0\x08N\0\x01t\0\0\0\x011";

    fn assembler() -> Assembler {
        let mut assembler = Assembler::new(1, None);
        let table = Table::plain("item", 7, &["id"], false);
        assembler.watch(vec![Arc::new(table)]);
        assembler
    }

    fn begin(lsn: u64) -> ReplicationEvent {
        ReplicationEvent::Begin { final_lsn: Lsn(lsn), xid: 1, commit_time_micros: 0 }
    }

    fn data(bytes: &[u8]) -> ReplicationEvent {
        let (wal_start, wal_end) = (Lsn(0), Lsn(0));
        ReplicationEvent::XLogData { wal_start, wal_end, server_time_micros: 0, data: bytes.to_vec().into() }
    }

    fn versions(events: Vec<ReplicationEvent>) -> Result<Vec<Version>, SourceError> {
        let (mut assembler, mut queue) = (assembler(), Queue::default());
        for event in events {
            assembler.take(event, &mut queue)?;
        }
        let taken = queue.take(PollLimit { changes: 100, bytes: 1 << 20 });
        Ok(taken.changes.iter().map(|change| change.version).collect())
    }

    #[test]
    fn a_version_does_not_depend_on_which_tables_are_watched() {
        let events = vec![begin(9), data(RELATION), data(INSERT_ELSEWHERE), data(INSERT)];
        assert_eq!(versions(events).expect("changes"), [Version::new(1, 9, 4)]);
    }

    #[test]
    fn events_that_contradict_each_other_are_refused() {
        for events in [
            vec![begin(1), data(INSERT)],
            vec![data(RELATION), data(INSERT)],
            vec![begin(1), data(RELATION), data(b"I\0\0\0\x07N\0\x02nn")],
            vec![begin(1), data(RELATION), data(b"I\0\0\0\x07N\0\x01n")],
            vec![begin(1), data(b"nonsense")],
        ] {
            assert!(matches!(versions(events), Err(SourceError::Protocol { .. })));
        }
    }

    #[test]
    fn a_place_within_a_transaction_or_behind_the_last_one_is_no_mark() {
        let (mut assembler, mut queue) = (assembler(), Queue::default());
        let keepalive =
            |lsn| ReplicationEvent::KeepAlive { wal_end: Lsn(lsn), reply_requested: false, server_time_micros: 0 };
        let commit = ReplicationEvent::Commit { lsn: Lsn(9), end_lsn: Lsn(10), commit_time_micros: 0 };
        for event in [begin(9), keepalive(50), commit, keepalive(8)] {
            assembler.take(event, &mut queue).expect("taken");
        }
        assert_eq!(queue.take(PollLimit { changes: 1, bytes: 1 }).reached, Some(10));
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8)) {
            let mut events = vec![begin(1), data(RELATION)];
            events.extend(messages.iter().map(|message| data(&[b"U\0\0\0\x07", message.as_slice()].concat())));
            let _ = versions(events);
        }
    }
}
