//! Commits random changes at the source, through every crash of it, and remembers what was committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::records::Key;
use crate::kit::database::try_connect;

/// Few enough that records change often, so that their order matters.
const ITEMS: i32 = 150;
const LINES: i32 = 60;
/// Keys of records that are bad from the start; no other change touches them.
const BAD_FROM: i32 = 1_000_000;

/// What is known of the records that exist; the source itself knows the rest.
#[derive(Clone, Default)]
struct Model {
    /// Living records, and whether the share lets them out.
    live: BTreeMap<Key, bool>,
    /// Records whose last change was bad, with what the target must have of them.
    retired: BTreeMap<Key, Option<String>>,
    /// The changes that were bad, by their number.
    bad: BTreeSet<(String, u64)>,
}

/// One committed change.
struct Event {
    key: Key,
    text: String,
}

/// Writes until it is told to stop.
pub struct Writer {
    url: String,
    random: fastrand::Rng,
    model: Model,
    events: Vec<Event>,
    transactions: u64,
    changes: u64,
}

/// A transaction being put together.
struct Transaction {
    model: Model,
    sql: Vec<String>,
    events: Vec<Event>,
}

impl Writer {
    pub fn new(url: &str, seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(!seed);
        Self { url: url.to_owned(), random, model: Model::default(), events: Vec::new(), transactions: 0, changes: 0 }
    }

    /// Records that are there before anything runs.
    pub async fn prepare(&mut self, client: &Client) {
        let mut start = Transaction { model: self.model.clone(), sql: Vec::new(), events: Vec::new() };
        for _ in 0..100 {
            self.insert(&mut start);
        }
        assert!(self.commit(client, start).await, "the source is up");
    }

    /// Commits transactions until it is told to stop.
    pub async fn run(&mut self, stop: &AtomicBool) {
        let mut client = self.connect().await;
        while !stop.load(Ordering::Relaxed) {
            let transaction = self.compose(&client).await;
            let committed = match transaction {
                Some(transaction) => self.commit(&client, transaction).await,
                None => false,
            };
            if !committed {
                client = self.connect().await;
            }
            tokio::time::sleep(Duration::from_millis(self.random.u64(5..40))).await;
        }
    }

    /// Connects, however long the server is away.
    async fn connect(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            match try_connect(&self.url).await {
                Ok(client) => return client,
                Err(error) => assert!(Instant::now() < deadline, "the source does not come back: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Puts a transaction together; `None` when the server is away.
    async fn compose(&mut self, client: &Client) -> Option<Transaction> {
        let mut new = Transaction { model: self.model.clone(), sql: Vec::new(), events: Vec::new() };
        for _ in 0..self.random.usize(1..7) {
            match self.random.u8(..100) {
                0..45 => self.update(&mut new),
                45..67 => self.insert(&mut new),
                67..82 => self.delete(&mut new),
                82..91 => self.rekey(&mut new),
                91..99 => {
                    // Several changes of one record, a delete and an insert among them.
                    if let Some(key) = self.live(&new) {
                        self.update_of(&mut new, key);
                        self.delete_of(&mut new, key);
                        self.insert_of(&mut new, key);
                        self.update_of(&mut new, key);
                    }
                }
                _ => {}
            }
        }
        if self.random.u8(..50) == 0 {
            self.spoil(&mut new, client).await?;
        }
        Some(new)
    }

    /// Commits; `false` when the server went away, and then finds out what became of the transaction.
    async fn commit(&mut self, client: &Client, new: Transaction) -> bool {
        self.transactions += 1;
        let number = self.transactions;
        let sql = format!("BEGIN; INSERT INTO written VALUES ({number}); {}; COMMIT", new.sql.join("; "));
        let done = client.batch_execute(&sql).await;
        let committed = match &done {
            Ok(()) => true,
            Err(error) => {
                let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
                assert!(code.is_empty() || code.starts_with("57P"), "the writer's own fault: {error:?} in {sql}");
                let client = self.connect().await;
                let asked = client.query_opt("SELECT FROM written WHERE transaction = $1", &[&(number as i64)]).await;
                asked.expect("the source answers").is_some()
            }
        };
        if committed {
            self.changes += new.events.len() as u64;
            self.model = new.model;
            self.events.extend(new.events);
        }
        done.is_ok()
    }

    fn live(&mut self, new: &Transaction) -> Option<Key> {
        let index = self.random.usize(..new.model.live.len().max(1));
        new.model.live.keys().nth(index).copied()
    }

    /// A key nothing lives under; perhaps one that did.
    fn free(&mut self, new: &Transaction) -> Option<Key> {
        let key = if self.random.bool() {
            Key::Item(self.random.i32(1..=ITEMS))
        } else {
            Key::Line(self.random.i32(1..=LINES / 5), self.random.i32(1..=5))
        };
        let taken = new.model.live.contains_key(&key) || new.model.retired.contains_key(&key);
        (!taken).then_some(key)
    }

    fn insert(&mut self, new: &mut Transaction) {
        if let Some(key) = self.free(new) {
            self.insert_of(new, key);
        }
    }

    fn insert_of(&mut self, new: &mut Transaction, key: Key) {
        let shared = self.random.u8(..4) > 0;
        let n = self.number(new);
        let values = match key {
            Key::Item(id) => {
                let kind = if shared { "shared" } else { "private" };
                format!("{id}, '{kind}', {n}, {}, {}", self.note(), self.body())
            }
            Key::Line(item, no) => format!("{item}, {no}, {n}, {}", self.note()),
        };
        new.say(key, format!("insert n={n}"), format!("INSERT INTO {} VALUES ({values})", key.table()));
        new.model.live.insert(key, shared || matches!(key, Key::Line(..)));
    }

    fn update(&mut self, new: &mut Transaction) {
        if let Some(key) = self.live(new) {
            self.update_of(new, key);
        }
    }

    fn update_of(&mut self, new: &mut Transaction, key: Key) {
        let n = self.number(new);
        let mut set = format!("n = {n}, note = {}", self.note());
        if let Key::Item(_) = key {
            // Mostly left alone, so that the log does not carry it.
            if self.random.u8(..5) == 0 {
                set.push_str(&format!(", body = {}", self.body()));
            }
            // A record may come to be shared, or leave the share, and with it the target.
            let shared = match self.random.u8(..20) {
                0 | 1 => Some(true),
                2 => Some(false),
                _ => None,
            };
            if let Some(shared) = shared {
                set.push_str(if shared { ", kind = 'shared'" } else { ", kind = 'private'" });
                new.model.live.insert(key, shared);
            }
        }
        new.say(key, format!("update n={n}"), format!("UPDATE {} SET {set} WHERE {}", key.table(), key.condition()));
    }

    fn delete(&mut self, new: &mut Transaction) {
        if let Some(key) = self.live(new) {
            self.delete_of(new, key);
        }
    }

    fn delete_of(&mut self, new: &mut Transaction, key: Key) {
        new.say(key, "delete".to_owned(), format!("DELETE FROM {} WHERE {}", key.table(), key.condition()));
        new.model.live.remove(&key);
    }

    fn rekey(&mut self, new: &mut Transaction) {
        let (Some(from), Some(to)) = (self.live(new), self.free(new)) else { return };
        if from.table() != to.table() {
            return;
        }
        let n = self.number(new);
        let (set, condition) = (to.assignment(), from.condition());
        let sql = format!("UPDATE {} SET {set}, n = {n} WHERE {condition}", from.table());
        new.say(from, format!("becomes {to}"), sql);
        new.events.push(Event { key: to, text: format!("was {from}, n={n}") });
        if let Some(shared) = new.model.live.remove(&from) {
            new.model.live.insert(to, shared);
        }
    }

    /// Makes a record that the target refuses. No later change touches it, so that it cannot be passed over for one.
    async fn spoil(&mut self, new: &mut Transaction, client: &Client) -> Option<()> {
        let n = self.number(new);
        let chosen = self.live(new).filter(|key| {
            let touched = new.events.iter().any(|event| event.key == *key);
            !touched && new.model.live.get(key) == Some(&true) && self.model.live.contains_key(key)
        });
        let (key, text, before, sql) = match chosen.filter(|_| self.random.bool()) {
            Some(key) => {
                let contents =
                    format!("SELECT text FROM ({}) c (record, text) WHERE record = $1", super::records::CONTENTS);
                let before = client.query_opt(&contents, &[&key.to_string()]).await.ok()?;
                let before = before.map(|row| row.get(0));
                let sql = format!("UPDATE {} SET n = {n}, note = 'bad' WHERE {}", key.table(), key.condition());
                (key, "update", before, sql)
            }
            None => {
                let id = BAD_FROM + i32::try_from(n).unwrap();
                (Key::Item(id), "insert", None, format!("INSERT INTO item VALUES ({id}, 'shared', {n}, 'bad', NULL)"))
            }
        };
        new.say(key, format!("bad {text} n={n}"), sql);
        new.model.live.remove(&key);
        new.model.retired.insert(key, before);
        new.model.bad.insert((key.to_string(), n));
        Some(())
    }

    /// A number no other change has.
    fn number(&self, new: &Transaction) -> u64 {
        self.changes + new.events.len() as u64 + 1
    }

    fn note(&mut self) -> String {
        match self.random.u8(..4) {
            0 => "NULL".to_owned(),
            _ => format!("'{} {}'", super::MARKER, self.random.u32(..)),
        }
    }

    /// Mostly large enough to be stored out of line.
    fn body(&mut self) -> String {
        match self.random.u8(..4) {
            0 => "NULL".to_owned(),
            1 => "'short'".to_owned(),
            _ => format!("repeat(md5('{}'), {})", self.random.u32(..), self.random.u16(80..600)),
        }
    }

    /// Changes that were committed.
    pub const fn changes(&self) -> u64 {
        self.changes
    }

    /// The bad records: what the target must have of them.
    pub const fn retired(&self) -> &BTreeMap<Key, Option<String>> {
        &self.model.retired
    }

    /// The bad changes: record and number.
    pub const fn bad(&self) -> &BTreeSet<(String, u64)> {
        &self.model.bad
    }

    /// What was committed of a record, in order.
    pub fn history(&self, record: &str) -> Vec<&str> {
        self.events.iter().filter(|event| event.key.to_string() == record).map(|event| event.text.as_str()).collect()
    }
}

impl Transaction {
    fn say(&mut self, key: Key, text: String, sql: String) {
        self.events.push(Event { key, text });
        self.sql.push(sql);
    }
}
