//! Gathers records into batches: one share, one action, one partition each.
//!
//! Pure code: no clock and no I/O, so it cannot fail. A batch closes on bytes, on count or after a short linger. Several
//! batches are open at once, and yet the order of each record holds (promise P3): all records of one key are in one open
//! batch at most, so that closed batches, published in the order they come out, carry them in the order they were added.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;
use syncline_shared::record::Action;

/// 128 KiB of lines are about 17 KiB compressed: far from the broker's limit, and about 1.5 ms of TripleDES.
pub const DEFAULT_BATCH_BYTES_MAX: usize = 128 * 1024;
/// Compression gains little beyond some hundred records.
pub const DEFAULT_BATCH_RECORDS_MAX: u32 = 1000;
/// Long enough to gather a burst, short enough for a lone change to arrive within milliseconds.
pub const DEFAULT_LINGER_MS: u64 = 5;
/// Lingers a batch waits while the source is far ahead: at the rates a backlog is read with, some hundred records.
const BEHIND_LINGERS: u32 = 10;
/// Room for 128 full batches.
pub const DEFAULT_OPEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// When batches close.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// Bytes of plaintext lines after which a batch closes; 1024 to 8388608, default 131072. Only a record that is larger
    /// by itself makes a larger batch. The broker refuses messages above 16 MiB.
    pub batch_bytes_max: usize,
    /// Records after which a batch closes; 1 to 100000, default 1000.
    pub batch_records_max: u32,
    /// Milliseconds a batch waits for more after its first record while others are on their way; 0 to 10000, default 5. 0
    /// sends at once what one poll brought. Ten times as long while the source is far ahead: larger batches catch up sooner.
    pub linger_ms: u64,
    /// Bytes of plaintext lines in all open batches together, at least `batch_bytes_max`; default 16777216. Above it the
    /// oldest batches close early. Buffers grow by doubling, so up to twice as much memory is held.
    pub open_bytes_max: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            batch_bytes_max: DEFAULT_BATCH_BYTES_MAX,
            batch_records_max: DEFAULT_BATCH_RECORDS_MAX,
            linger_ms: DEFAULT_LINGER_MS,
            open_bytes_max: DEFAULT_OPEN_BYTES_MAX,
        }
    }
}

impl BatchConfig {
    /// Every value out of its range: the field, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if !(1024..=8 * 1024 * 1024).contains(&self.batch_bytes_max) {
            problems.push(("batch_bytes_max", format!("{} is out of range; 1024 to 8388608", self.batch_bytes_max)));
        }
        if !(1..=100_000).contains(&self.batch_records_max) {
            problems.push(("batch_records_max", format!("{} is out of range; 1 to 100000", self.batch_records_max)));
        }
        if self.linger_ms > 10_000 {
            problems.push(("linger_ms", format!("{} is out of range; 0 to 10000", self.linger_ms)));
        }
        if self.open_bytes_max < self.batch_bytes_max {
            let problem = format!("{} is less than batch_bytes_max ({})", self.open_bytes_max, self.batch_bytes_max);
            problems.push(("open_bytes_max", problem));
        }
        problems
    }
}

/// What all records of one batch have in common. Share and queue are places in the caller's own lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lane {
    /// The share, and with it the source.
    pub share: usize,
    /// The share's route, and with it what it is sealed with.
    pub route: usize,
    /// The shared queue. Shares that send to the same queue give the same place.
    pub queue: usize,
    /// The table the records leave under.
    pub table: Arc<str>,
    /// Partition of the queue.
    pub partition: u32,
    /// The action.
    pub action: Action,
    /// Whether its records carry a part of their columns only. Kept apart, since such a batch waits for all before it.
    pub partial: bool,
    /// Systems the changes have passed; part of the envelope's clear header, hence the same for a whole batch.
    pub origin: Arc<[String]>,
}

/// How many of a batch's records came from one poll of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The poll, as [`crate::checkpoint::Checkpoint::begin`] numbered it.
    pub poll: u64,
    /// Records of this batch that it brought.
    pub records: u32,
}

/// A closed batch, ready for sealing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What its records have in common.
    pub lane: Lane,
    /// How many records it holds; at least 1.
    pub records: u32,
    /// The records as lines, in the order they were added.
    pub ndjson: Vec<u8>,
    /// The polls the records came from; the counts sum up to `records`. Once the broker confirmed the batch, each is
    /// [`done`](crate::checkpoint::Checkpoint::done).
    pub tickets: Vec<Ticket>,
    /// Their places in the journal, in the order they were added; empty while it is off.
    pub notes: Vec<u64>,
}

/// A batch that still takes records.
#[derive(Debug)]
struct Open {
    batch: Batch,
    /// Keys of its records, possibly repeated.
    keys: Vec<u64>,
    since: Instant,
}

/// The open batches, and the closed ones nobody has taken yet.
#[derive(Debug)]
pub struct Batcher {
    config: BatchConfig,
    linger: Duration,
    /// By a number that grows, so the first one is the oldest and, the linger being the same for all, the next one due.
    open: BTreeMap<u64, Open>,
    lanes: HashMap<Lane, u64>,
    /// The open batch that holds a record, by queue and key. A record has one partition of a queue, so that need not be
    /// part of it; keys that collide only close a batch early.
    holders: HashMap<(usize, u64), u64>,
    opened: u64,
    open_bytes: usize,
    closed: VecDeque<Batch>,
}

impl Batcher {
    /// Starts without any batch.
    #[must_use]
    pub fn new(config: BatchConfig) -> Self {
        Self {
            config,
            linger: Duration::from_millis(config.linger_ms),
            open: BTreeMap::new(),
            lanes: HashMap::new(),
            holders: HashMap::new(),
            opened: 0,
            open_bytes: 0,
            closed: VecDeque::new(),
        }
    }

    /// Adds one record; take what that closed with [`Batcher::next_closed`] before adding the next one.
    ///
    /// `key` is [`key_id`](syncline_shared::record::key_id) of the record, `poll` the poll it came from, and `line` what
    /// [`write_line`](syncline_shared::record::write_line) wrote; `note` is its place in the journal, if that is on. When another open batch of the queue holds a record of
    /// this key, that batch is closed first.
    pub fn add(&mut self, lane: &Lane, key: u64, poll: u64, line: &[u8], note: Option<u64>, now: Instant) {
        let own = self.lanes.get(lane).copied();
        if let Some(&holder) = self.holders.get(&(lane.queue, key))
            && Some(holder) != own
        {
            self.close(holder);
        }
        if let Some(own) = own
            && self
                .open
                .get(&own)
                .is_some_and(|open| open.batch.ndjson.len() + line.len() > self.config.batch_bytes_max)
        {
            self.close(own);
        }
        let serial = self.serial_of(lane);
        let open = self.open.entry(serial).or_insert_with(|| Open::new(lane.clone(), now));
        open.push(key, poll, line);
        open.batch.notes.extend(note);
        let full = open.batch.ndjson.len() >= self.config.batch_bytes_max
            || open.batch.records >= self.config.batch_records_max;
        self.open_bytes += line.len();
        self.holders.insert((lane.queue, key), serial);
        if full {
            self.close(serial);
        }
        while self.open_bytes > self.config.open_bytes_max {
            self.close_oldest();
        }
    }

    /// Closes the open batch of a queue that holds a record, so that what is added next goes behind it, whatever its lane.
    pub fn close_holder(&mut self, queue: usize, key: u64) {
        if let Some(&holder) = self.holders.get(&(queue, key)) {
            self.close(holder);
        }
    }

    /// Says whether the source is far ahead. A record that is seconds old already loses nothing by waiting for others, and
    /// the fewer batches, the sooner all have arrived.
    pub fn set_behind(&mut self, is_behind: bool) {
        let linger = Duration::from_millis(self.config.linger_ms);
        self.linger = if is_behind { linger * BEHIND_LINGERS } else { linger };
    }

    /// When the next open batch is due; `None` when none is open.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.open.first_key_value().map(|(_, open)| open.since + self.linger)
    }

    /// Closes every batch whose linger is over.
    pub fn close_due(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|due| due <= now) {
            self.close_oldest();
        }
    }

    /// Closes every batch, oldest first: nothing more will come, or nothing more shall wait.
    pub fn close_all(&mut self) {
        while !self.open.is_empty() {
            self.close_oldest();
        }
    }

    /// The next closed batch. Batches must be published in the order they come out here.
    pub fn next_closed(&mut self) -> Option<Batch> {
        self.closed.pop_front()
    }

    /// Bytes of lines in the open batches.
    #[must_use]
    pub const fn open_bytes(&self) -> usize {
        self.open_bytes
    }

    /// The number of the lane's open batch, or of the one to open.
    fn serial_of(&mut self, lane: &Lane) -> u64 {
        if let Some(&serial) = self.lanes.get(lane) {
            return serial;
        }
        self.opened += 1;
        self.lanes.insert(lane.clone(), self.opened);
        self.opened
    }

    fn close_oldest(&mut self) {
        if let Some((&serial, _)) = self.open.first_key_value() {
            self.close(serial);
        }
    }

    fn close(&mut self, serial: u64) {
        let Some(Open { batch, keys, .. }) = self.open.remove(&serial) else { return };
        self.lanes.remove(&batch.lane);
        for key in keys {
            self.holders.remove(&(batch.lane.queue, key));
        }
        self.open_bytes -= batch.ndjson.len();
        self.closed.push_back(batch);
    }
}

impl Open {
    const fn new(lane: Lane, since: Instant) -> Self {
        let batch = Batch { lane, records: 0, ndjson: Vec::new(), tickets: Vec::new(), notes: Vec::new() };
        Self { batch, keys: Vec::new(), since }
    }

    fn push(&mut self, key: u64, poll: u64, line: &[u8]) {
        self.batch.ndjson.extend_from_slice(line);
        self.batch.records += 1;
        self.keys.push(key);
        match self.batch.tickets.last_mut() {
            Some(last) if last.poll == poll => last.records += 1,
            Some(_) | None => self.batch.tickets.push(Ticket { poll, records: 1 }),
        }
    }
}
