//! The pipeline from a source to a broker in memory, with faults.

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

#[tokio::test(start_paused = true)]
async fn faults_of_the_broker_lose_nothing_and_leave_the_newest_last() {
    for seed in 0..40_u64 {
        let scene = Scene::new();
        scene.broker.fails(seed);
        scene.source.push((1..=90).map(|version| change(version * version % 11, version, "x")));
        scene.run_until("committed", async || scene.source.committed() == 90).await;
        let arrived = scene.arrived().await;
        let mut expected = BTreeMap::new();
        for version in 1..=90_u64 {
            expected.insert((version * version % 11).to_string(), Version::new(1, version, 1));
        }
        assert_eq!(last_of_each(&arrived), expected, "seed {seed}");
        let all: std::collections::BTreeSet<_> = arrived.iter().map(|record| record.version).collect();
        assert_eq!(all.len(), 90, "seed {seed}");
    }
}

/// An update of one column only, by turns; the other two were left alone.
fn part(key: u64, version: u64) -> Change {
    let full = change(key, version, "x");
    let mut row = Row::builder(Columns::new(["id", "priority", "note"]));
    row.push(Value::Number(&key.to_string()));
    let written = Value::Text(&version.to_string());
    let (priority, note) =
        if version.is_multiple_of(2) { (written, Value::Unchanged) } else { (Value::Unchanged, written) };
    row.push(priority);
    row.push(note);
    Change { action: Action::Update, after: Some(row.finish()), ..full }
}

/// What a target holds that takes only newer versions: the columns of each record, by its key.
fn applied<'a>(rows: impl Iterator<Item = (Version, &'a Row)>) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut table: BTreeMap<String, (Option<Version>, BTreeMap<String, String>)> = BTreeMap::new();
    for (version, row) in rows {
        let text = |value: Value<'_>| value.as_text().unwrap_or_default().to_owned();
        let (newest, columns) = table.entry(row.get("id").map(text).unwrap_or_default()).or_default();
        if newest.is_none_or(|newest| version > newest) {
            *newest = Some(version);
            let carried = row.iter().filter(|(_, value)| *value != Value::Unchanged);
            columns.extend(carried.map(|(name, value)| (name.to_owned(), text(value))));
        }
    }
    table.into_iter().map(|(key, (_, columns))| (key, columns)).collect()
}

#[tokio::test(start_paused = true)]
async fn no_part_of_a_record_overtakes_what_came_before_it_whatever_the_broker_refuses() {
    for seed in 0..40_u64 {
        let scene = Scene::new();
        scene.broker.fails(seed);
        let changes: Vec<_> = (1..=90)
            .map(|version| {
                // Few changes of each record: what is lost is not made good by the next one.
                let key = version % 30;
                if version <= 30 { change(key, version, "x") } else { part(key, version) }
            })
            .collect();
        let expected = applied(changes.iter().filter_map(|change| Some((change.version, change.after.as_ref()?))));
        scene.source.push(changes);
        scene.run_until("committed", async || scene.source.committed() == 90).await;
        let arrived = scene.arrived().await;
        let rows = arrived.iter().filter_map(|record| Some((record.version, record.data.as_ref()?)));
        assert_eq!(applied(rows), expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_full_is_probed_and_the_others_are_not_sent_again() {
    let mut scene = Scene::new();
    scene.config.publish.window_messages = 100;
    scene.broker.full.store(true, Ordering::Relaxed);
    scene.source.push((1..=90).map(|version| change(version * version % 11, version, "x")));
    let (begun, full) = (tokio::time::Instant::now(), Duration::from_secs(60));
    scene
        .run_until("committed", async || {
            scene.broker.full.store(begun.elapsed() < full, Ordering::Relaxed);
            scene.source.committed() == 90
        })
        .await;
    assert!(begun.elapsed() > full);
    let sent = scene.broker.sent.load(Ordering::Relaxed);
    // Each batch of partition 1 twice at most, and one message for each wait of up to ten seconds.
    assert!((30..100).contains(&sent), "{sent} messages were sent");
    let arrived: Vec<_> = scene.arrived().await.iter().map(|record| record.version).collect();
    let once: std::collections::BTreeSet<_> = arrived.iter().collect();
    assert_eq!((arrived.len(), once.len()), (90, 90), "records were sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_starts_over_repeats_and_loses_nothing() {
    let scene = Scene::new();
    scene.source.push((1..=30).map(|version| change(version % 5, version, "x")));
    scene.source.fail_next(SourceError::Taken { address: "db".to_owned() });
    let pushed = Mutex::new(false);
    scene
        .run_until("committed", async || {
            if scene.source.committed() == 30 && !std::mem::replace(&mut *pushed.lock().expect("no panic"), true) {
                scene.source.fail_next(SourceError::Taken { address: "db".to_owned() });
                scene.source.push((31..=60).map(|version| change(version % 5, version, "x")));
            }
            scene.source.committed() == 60
        })
        .await;
    let versions: std::collections::BTreeSet<_> = scene.arrived().await.iter().map(|record| record.version).collect();
    assert_eq!(versions.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_record_too_large_is_set_aside_without_its_values_and_the_position_moves_on() {
    let mut scene = Scene::new();
    scene.config.publish.record_bytes_max = 1024;
    let large = format!("4711-secret-value{}", "x".repeat(2000));
    scene.source.push([change(1, 1, "x"), change(2, 3, &large), change(3, 5, "x")]);
    scene.run_until("committed", async || scene.source.committed() == 3).await;
    assert_eq!(scene.arrived().await.len(), 2);
    let dead = scene.broker.dead_letters("crm", 10).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Oversize]);
    assert!(
        dead[0].error.contains("table incident, key id")
            && !String::from_utf8_lossy(&dead[0].message.body).contains("4711")
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_the_broker_finds_too_large_is_split_until_the_record_to_blame_is_alone() {
    let mut scene = Scene::new();
    scene.config.batch.batch_records_max = 50;
    scene.broker.bytes_max.store(1024, Ordering::Relaxed);
    // What does not compress.
    let noise = |seed: u64, bytes: u64| -> String {
        let mix = |step: u64| {
            (seed << 32 | step).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        (0..bytes).map(|step| char::from(b'0' + u8::try_from(mix(step) >> 32 & 63).expect("six bits"))).collect()
    };
    let text = |key: u64| if key == 20 { format!("4711-secret-value{}", noise(key, 4000)) } else { noise(key, 100) };
    scene.source.push((1..=60).map(|key| change(key, 2 * key, &text(key))));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    let arrived = last_of_each(&scene.arrived().await);
    assert_eq!((arrived.len(), arrived.contains_key("20")), (59, false));
    let dead = scene.broker.dead_letters("crm", 10).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Oversize]);
    assert!(dead[0].error.contains("table incident, key id") && dead[0].error.contains("at most 1024"));
    assert!(!String::from_utf8_lossy(&dead[0].message.body).contains("4711"));
    let share = scene.metrics.share("incidents");
    assert_eq!((share.confirmed(Action::Update).get(), share.dead_letters.get()), (59, 1));
    // The journal tells the message each of them left with at last.
    let left: Vec<_> = (1..=60).map(|key| scene.left(key)).collect();
    assert!(left.iter().all(|left| left.confirmed_at.is_some()), "{left:?}");
    assert!(left.iter().map(|left| &left.message).collect::<HashSet<_>>().len() > 10, "{left:?}");
    let (too_large, id) = (&left[19], dead[0].id().to_owned());
    assert_eq!((too_large.set_aside.as_deref(), too_large.message.as_ref()), (Some("oversize"), Some(&id)));
    let noted = format!("{:?}", scene.journal);
    assert!(noted.contains("incidents") && !noted.contains("4711-secret"), "{noted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_its_script_fails_on_is_set_aside_sealed_and_the_rest_flows() {
    let mut scene = Scene::new();
    scene.script =
        Some("if (current.note == '4711-secret-value') throw current.note; if (current.note == 'no') ignore = true");
    let text = |key: u64| ["x", "no", "4711-secret-value"][usize::try_from(key % 3).expect("small")];
    scene.source.push((1..=30).map(|key| change(key, key, text(key))));
    scene.run_until("committed", async || scene.source.committed() == 30).await;
    let arrived = last_of_each(&scene.arrived().await);
    assert_eq!((arrived.len(), arrived.contains_key("1"), arrived.contains_key("3")), (10, false, true));
    let dead = scene.broker.dead_letters("crm", 30).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Script; 10]);
    let error = &dead[0].error;
    assert!(error.contains("table incident, key id") && error.contains("before_share of share incidents"), "{error}");
    assert!(!format!("{dead:?}").contains("4711"));
    let left = scene.left(2);
    assert_eq!((left.set_aside.as_deref(), left.confirmed_at.is_some()), (Some("script"), true));
    assert_eq!(scene.fates(1), [FateTold::Withheld { reason: Withheld::Script }]);
    let share = scene.metrics.share("incidents");
    assert_eq!((share.withheld(Withheld::Script).get(), share.dead_letters.get()), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_share_that_does_not_fit_its_table_pauses_and_commits_nothing() {
    let mut scene = Scene::new();
    scene.filter = Some("priorty<2");
    scene.source.push([change(1, 1, "x")]);
    let share = scene.metrics.share("incidents");
    scene.run_until("asked", async || share.changes(Action::Insert).get() == 1).await;
    assert_eq!((scene.source.committed(), scene.arrived().await.len()), (0, 0));
}

/// Adds the others once the first message was sent; how many were sent.
fn push_behind_the_first(scene: &Scene, others: &mut Option<Vec<Change>>) -> u32 {
    let sent = scene.broker.sent.load(Ordering::Relaxed);
    if sent == 1
        && let Some(others) = others.take()
    {
        scene.source.push(others);
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_lone_change_leaves_at_once_and_those_behind_it_linger_until_it_is_confirmed() {
    let mut scene = Scene::new();
    scene.config.batch.linger_ms = 10_000;
    scene.config.batch.batch_records_max = 1000;
    let (begin, confirms) = (tokio::time::Instant::now(), scene.broker.hold());
    scene.source.push([change(1, 1, "x")]);
    let mut others = Some((2..=21).map(|version| change(version, version, "x")).collect());
    let share = scene.metrics.share("incidents");
    let committed = async || {
        let sent = push_behind_the_first(&scene, &mut others);
        if others.is_none() && share.shared(Action::Insert).get() + share.shared(Action::Update).get() == 21 {
            confirms.send_if_modified(|released| {
                assert!(*released || sent == 1, "{sent} were sent before the first was confirmed");
                !std::mem::replace(released, true)
            });
        }
        scene.source.committed() == 21
    };
    scene.run_until("committed", committed).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(scene.arrived().await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_what_was_read_and_stores_its_position() {
    let mut scene = Scene::new();
    scene.config.batch.linger_ms = 10_000;
    scene.config.batch.batch_records_max = 1000;
    // What is behind a change that is not confirmed waits for more.
    let confirms = scene.broker.hold();
    scene.source.push([change(1, 1, "x")]);
    let mut others = Some((2..=20).map(|version| change(version, version, "x")).collect());
    let share = scene.metrics.share("incidents");
    let read = async || {
        let sent = push_behind_the_first(&scene, &mut others);
        let is_read = share.shared(Action::Insert).get() + share.shared(Action::Update).get() == 20;
        if is_read {
            assert_eq!(sent, 1, "the others linger");
            confirms.send_replace(true);
        }
        is_read
    };
    scene.run_until("read", read).await;
    assert_eq!((scene.source.committed(), scene.arrived().await.len()), (20, 20));
}

/// Runs until the producer comes to a stand with its confirms held back; how many messages were sent by then, and how
/// many changes read.
async fn stands_at(scene: &Scene, changes: u64, text: &str) -> (u32, u64) {
    scene.source.push((1..=changes).map(|number| change(number, 1, text)));
    let confirms = scene.broker.hold();
    let share = scene.metrics.share("incidents");
    let read = share.changes(Action::Insert);
    let (mut seen, mut stands) = ((0, 0), None);
    let stand = async || {
        let now = (scene.broker.sent.load(Ordering::Relaxed), read.get());
        // Sealing is done by threads, which virtual time does not wait for.
        std::thread::sleep(Duration::from_millis(1));
        if now.0 > 0 && std::mem::replace(&mut seen, now) == now && stands.is_none() {
            tokio::time::sleep(Duration::from_secs(5)).await;
            std::thread::sleep(Duration::from_millis(50));
            if (scene.broker.sent.load(Ordering::Relaxed), read.get()) == now {
                stands = Some(now);
                confirms.send_replace(true);
            }
        }
        stands.is_some() && scene.source.committed() as u64 == changes
    };
    scene.run_until("committed once confirmed", stand).await;
    assert_eq!(scene.arrived().await.len() as u64, changes);
    stands.expect("it came to a stand")
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_confirms_nothing_is_sent_a_window_of_messages_and_the_source_is_left_alone() {
    let scene = Scene::new();
    let (sent, read) = stands_at(&scene, 3000, "x").await;
    assert_eq!(sent, 4, "the window has room for so many");
    assert!(read <= 1000, "{read} changes were read: two polls are the most that fits before the window");
}

#[tokio::test(start_paused = true)]
async fn the_window_holds_so_many_bytes_however_few_messages_they_are() {
    let mut scene = Scene::new();
    scene.config.publish.window_messages = 1000;
    scene.config.publish.window_bytes_max = 1024 * 1024;
    scene.config.batch.batch_bytes_max = 64 * 1024;
    scene.config.batch.open_bytes_max = 256 * 1024;
    let (sent, read) = stands_at(&scene, 200, &"x".repeat(64 * 1024)).await;
    // The one that reaches the bound is the last.
    assert_eq!(sent, 16, "a megabyte of 64 KiB each");
    assert!(read <= 40, "{read} changes of 64 KiB were read");
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_fails_is_tried_again_and_nothing_leaves_without_its_display_value() {
    let mut scene = Scene::new();
    scene.display = true;
    scene.source.show("a", "Abel");
    for _ in 0..3 {
        let cause = Box::new(std::io::Error::other("away"));
        scene.source.fail_next_lookup(SourceError::Unreachable { address: "desk".to_owned(), cause });
    }
    scene.source.push((1..=60).map(|version| change(version, version, if version % 3 == 0 { "b" } else { "a" })));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    assert_eq!(scene.source.looked_up(), 2, "each reference once");
    let records = scene.arrived().await;
    assert_eq!(records.len(), 60);
    for record in records {
        let data = record.data.expect("data");
        let expected = if data.get("note") == Some(Value::Text("a")) { Value::Text("Abel") } else { Value::Null };
        assert_eq!(data.get("dv_note"), Some(expected));
    }
}
