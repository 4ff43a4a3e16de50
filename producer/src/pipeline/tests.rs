//! The pipeline from a source to a broker in memory, with faults.

mod faults;
mod window;

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use serde_json::json;
use syncline_shared::envelope::Envelope;
use syncline_shared::journal::record_id;
use syncline_shared::queue::memory::MemoryBroker;
use syncline_shared::queue::{
    Confirm, DeadLetter, PublishError, Publisher, QueueError, QueueStatus, Reason, Settlement, SharedQueue,
    SubscribeOptions, Subscriber as _,
};
use syncline_shared::record::{Action, Columns, Record, Row, Value, Version, read_lines};
use syncline_shared::seal::{Keyring, OpenLimits, Seal, open};

use tokio::sync::watch;

use super::*;
use crate::journal::{FateTold, Journal, LeftTold};
use crate::outlet::{Destination, Outlet};
use crate::share::{Share, ShareConfig, Withheld};
use crate::source::memory::MemorySource;
use crate::source::{Change, Session, SourceError};

/// A broker whose publishers fail as scripted: one outcome per message, then none.
#[derive(Clone, Default)]
struct Flaky {
    inner: MemoryBroker,
    script: Arc<Mutex<Vec<Fault>>>,
    sent: Arc<AtomicU32>,
    /// What comes after the script.
    held: Arc<Mutex<Option<watch::Receiver<bool>>>>,
    /// What publishers take at most, if it is bounded.
    bytes_max: Arc<AtomicUsize>,
    /// Whether partition 1 takes nothing.
    full: Arc<AtomicBool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Not taken, and said so at once.
    Refused,
    /// Not taken, and said so by the confirm.
    Nacked,
    /// Taken, but the confirm never comes.
    Unheard,
}

impl Flaky {
    /// Makes the next 60 messages meet faults: the same in every run, others for another seed.
    fn fails(&self, seed: u64) {
        let faults = [Fault::None, Fault::None, Fault::Refused, Fault::Nacked, Fault::Unheard];
        let pick = |step: u64| {
            let mixed = (seed * 1000 + step).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
            faults[(mixed % 5) as usize]
        };
        *self.script.lock().expect("no panic") = (0..60).map(pick).collect();
    }

    /// Holds every confirm back until the sender says true.
    fn hold(&self) -> watch::Sender<bool> {
        let (sender, receiver) = watch::channel(false);
        *self.held.lock().expect("no panic") = Some(receiver);
        sender
    }
}

struct FlakyPublisher {
    inner: <MemoryBroker as Broker>::Publisher,
    broker: Flaky,
}

impl Broker for Flaky {
    type Publisher = FlakyPublisher;
    type Subscriber = <MemoryBroker as Broker>::Subscriber;

    async fn declare(&self, queue: &SharedQueue) -> Result<(), QueueError> {
        self.inner.declare(queue).await
    }

    async fn publisher(&self) -> Result<FlakyPublisher, QueueError> {
        Ok(FlakyPublisher { inner: self.inner.publisher().await?, broker: self.clone() })
    }

    async fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<Self::Subscriber, QueueError> {
        self.inner.subscriber(queue, partition, options).await
    }

    async fn status(&self, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
        self.inner.status(queue).await
    }

    async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.inner.dead_letters(queue, limit).await
    }

    async fn settle_dead_letters(&self, queue: &str, ids: &[String], how: Settlement) -> Result<usize, QueueError> {
        self.inner.settle_dead_letters(queue, ids, how).await
    }
}

impl Publisher for FlakyPublisher {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        self.broker.sent.fetch_add(1, Ordering::Relaxed);
        let (bytes, bytes_max) = (envelope.body_len(), self.broker.bytes_max.load(Ordering::Relaxed));
        if bytes_max > 0 && bytes > bytes_max {
            return Err(PublishError::TooLarge { bytes, bytes_max });
        }
        if envelope.route().partition == 1 && self.broker.full.load(Ordering::Relaxed) {
            return Ok(Confirm::new(async {
                // Meanwhile the rest of the window is sent.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(PublishError::Nacked)
            }));
        }
        let fault = self.broker.script.lock().expect("no panic").pop().unwrap_or(Fault::None);
        match fault {
            Fault::None => {
                let taken = self.inner.publish(queue, envelope).await?;
                let held = self.broker.held.lock().expect("no panic").clone();
                Ok(Confirm::new(async {
                    if let Some(mut held) = held {
                        let _ = held.wait_for(|over| *over).await;
                    }
                    taken.await
                }))
            }
            Fault::Refused => Err(PublishError::Nacked),
            Fault::Nacked => Ok(Confirm::new(async {
                // Meanwhile more of the window is sent.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(PublishError::Nacked)
            })),
            Fault::Unheard => {
                let taken = self.inner.publish(queue, envelope).await?;
                Ok(Confirm::new(async {
                    let _ = taken.await;
                    Err(PublishError::TimedOut { timeout_ms: 1 })
                }))
            }
        }
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        self.inner.park(letter).await
    }
}

fn queue() -> SharedQueue {
    SharedQueue { name: "crm".to_owned(), partitions: 2 }
}

fn change(key: u64, version: u64, text: &str) -> Change {
    let mut row = Row::builder(Columns::new(["id", "priority", "note"]));
    row.push(Value::Number(&key.to_string()));
    row.push(Value::Number(&(version % 3).to_string()));
    row.push(Value::Text(text));
    let row = row.finish();
    Change {
        table: "incident".into(),
        action: if version.is_multiple_of(2) { Action::Update } else { Action::Insert },
        key: row.select(Columns::new(["id"]), &[0]),
        before: None,
        after: Some(row),
        version: Version::new(1, version, 1),
        at: Timestamp::now(),
        session: Session { interactive: Some(true), user: None },
        origin: Arc::default(),
        only_share: None,
    }
}

/// The producer of one share, running until a condition holds.
struct Scene {
    source: MemorySource,
    broker: Flaky,
    config: ProducerConfig,
    filter: Option<&'static str>,
    script: Option<&'static str>,
    display: bool,
    metrics: Metrics,
    journal: Journal,
}

impl Scene {
    fn new() -> Self {
        let mut config = ProducerConfig::default();
        config.batch.batch_records_max = 3;
        config.publish.window_messages = 4;
        let metrics = Metrics::new(&Registry::new()).expect("a fresh registry");
        let (source, broker) = (MemorySource::default(), Flaky::default());
        let journal = Journal::new(1000).expect("more than none");
        Self { source, broker, config, filter: None, script: None, display: false, metrics, journal }
    }

    async fn run_until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let share: ShareConfig = serde_json::from_value(json!({
            "source": "desk", "table": "incident", "queue": "crm", "cipher": "None", "filter": self.filter,
            "on": ["insert", "update"], "before_share": self.script,
            "display": if self.display { json!({"note": {"table": "t", "key": "k", "value": "v"}}) } else { json!({}) },
        }))
        .expect("a share");
        let outlet = Outlet {
            share: Share::compile("incidents", &share).expect("a share"),
            destinations: vec![Destination { queue: queue(), seal: Seal::Plain }],
            copies: false,
            on_truncate: share.on_truncate,
            metrics: self.metrics.share("incidents"),
        };
        let mut tasks = TaskGroup::default();
        let health = Health::new(&Registry::new(), "producer").expect("a fresh registry");
        let outlets = Outlets::new("desk", vec![outlet]).journaled(Some(self.journal.clone()));
        start(&mut tasks, self.source.clone(), outlets, self.broker.clone(), &self.config, &self.metrics, &health);
        let met = async {
            for _ in 0..10_000 {
                if holds().await {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("{what}: never");
        };
        tasks.run(met, Duration::from_secs(10)).await.expect("a clean shutdown");
    }

    /// What the journal says became of the changes of a record, oldest first.
    fn fates(&self, key: u64) -> Vec<FateTold> {
        let record = record_id("incident", &change(key, 1, "").key);
        self.journal.of(record).entries.into_iter().map(|told| told.fate).collect()
    }

    /// The same of a record that left once.
    fn left(&self, key: u64) -> LeftTold {
        match self.fates(key).as_slice() {
            [FateTold::Shared(left)] => left.clone(),
            other => panic!("record {key}: {other:?}"),
        }
    }

    /// Every record at the broker, in the order of its partition.
    async fn arrived(&self) -> Vec<Record> {
        let limits = OpenLimits { plain_bytes_max: 1 << 20, accept_unsealed: true };
        let mut records = Vec::new();
        for partition in 0..queue().partitions {
            let options = SubscribeOptions { replica: "test".to_owned(), prefetch: 1000 };
            let mut subscriber = self.broker.inner.subscriber("crm", partition, &options).await.expect("a subscriber");
            while let Some(Ok(Some(delivery))) = futures_util::FutureExt::now_or_never(subscriber.receive()) {
                let envelope = Envelope::from_message(delivery.message()).expect("an envelope");
                assert_eq!(envelope.route().origin, ["desk"]);
                let lines = open(&Keyring::default(), &envelope, limits).expect("opens");
                records.extend(read_lines(&lines).expect("records"));
                delivery.ack().await.expect("acked");
            }
        }
        records
    }
}

/// The newest version of each key, by the last record that came.
fn last_of_each(records: &[Record]) -> BTreeMap<String, Version> {
    let key = |record: &Record| record.key.value(0).and_then(Value::as_text).unwrap_or_default().to_owned();
    records.iter().map(|record| (key(record), record.version)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_position_moves_when_everything_is_confirmed_or_withheld() {
    let mut scene = Scene::new();
    scene.filter = Some("priority<2");
    scene.source.push((1..=60).map(|version| change(version % 7, version, "x")));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    let share = scene.metrics.share("incidents");
    assert_eq!((scene.arrived().await.len(), share.withheld(Withheld::Filter).get()), (40, 20));
    assert!(scene.source.is_closed());
    let fates: Vec<_> = (0..7).flat_map(|key| scene.fates(key)).collect();
    let withheld = |fate: &&FateTold| **fate == FateTold::Withheld { reason: Withheld::Filter };
    assert_eq!((fates.len(), fates.iter().filter(withheld).count()), (60, 20));
}

#[tokio::test(start_paused = true)]
async fn the_position_moves_past_what_is_withheld_without_anything_to_confirm() {
    let mut scene = Scene::new();
    scene.filter = Some("priority>100");
    scene.source.push((1..=60).map(|version| change(version % 7, version, "x")));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    assert!(scene.arrived().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn changes_that_wait_tell_since_when_nothing_moved_and_none_that_wait_tell_nothing() {
    let scene = Scene::new();
    let (since, sent) = (scene.metrics.progress("source desk"), || scene.broker.sent.load(Ordering::Relaxed));
    let (began, confirms) = (Timestamp::now().as_second(), scene.broker.hold());
    scene.source.push((1..=3).map(|number| change(number, 1, "x")));
    let mut waited = Vec::new();
    let moved = async || {
        if sent() > 0 && waited.len() < 2 {
            waited.push(since.get());
        }
        if waited.len() == 2 {
            confirms.send_replace(true);
        }
        scene.source.committed() == 3 && since.get() == 0.0
    };
    scene.run_until("moved", moved).await;
    assert!(waited[0] >= began as f64, "{waited:?}, {began}");
    assert_eq!(waited[0], waited[1], "it waits since the first");
}
