//! The pipeline on a broker and a target in memory.

mod dead_letters;
mod keys;
mod scripts;
mod suspects;

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::Registry;
use syncline_shared::envelope::{Header, Message, Route};
use syncline_shared::queue::memory::MemoryBroker;
use syncline_shared::queue::{DeadLetter, Publisher as _, Reason};
use syncline_shared::record::{Action, Columns, Row, Value, Version, write_line};
use syncline_shared::seal::{Cipher, Key, Seal, seal};

use super::*;
use crate::target::ApplyError;
use crate::target::memory::MemoryTarget;

const MARKER: &str = "4711-secret-value";

/// One partition with everything around it.
struct Scene {
    broker: MemoryBroker,
    target: MemoryTarget,
    keyring: Arc<Mutex<Keyring>>,
    health: Health,
    config: SubscriptionConfig,
    journal: Journal,
}

impl Scene {
    fn new() -> Self {
        let registry = Registry::new();
        let health = Health::new(&registry, "consumer").expect("a fresh registry");
        let keyring = Arc::new(Mutex::new(Keyring::default()));
        keyring.lock().expect("no panic").insert(key_for("2026-11"));
        let config = SubscriptionConfig {
            queue: "crm".to_owned(),
            target: "memory".to_owned(),
            interval: None,
            delay: None,
            table: [("incident".to_owned(), crate::config::TableConfig::default())].into(),
            unlisted: crate::config::Unlisted::DeadLetter,
            accept_unsealed: false,
            plain_bytes_max: 64 * 1024,
            apply_bytes_max: 64 * 1024,
            apply_records_max: 1000,
            prefetch: 10,
        };
        let journal = Journal::new(1000).expect("more than none");
        Self { broker: MemoryBroker::new(), target: MemoryTarget::default(), keyring, health, config, journal }
    }

    async fn declared(self) -> Self {
        self.broker.declare(&queue()).await.expect("declared");
        self
    }

    /// Publishes records of one batch as the producer would.
    async fn publish(&self, id: &str, table: &str, action: Action, records: &[(&str, u64)]) {
        let mut ndjson = Vec::new();
        for (number, version) in records {
            let (row, version) = (row(number), Version::new(1, *version, 1));
            let data = (action != Action::Delete).then_some(&row);
            write_line(
                &mut ndjson,
                &row.select(Columns::new(["number"]), &[0]),
                version,
                Timestamp::now(),
                data,
                false,
            );
        }
        let count = u32::try_from(records.len()).expect("few");
        let envelope = seal(&Seal::Key(key_for(id)), route(table, action, count), &ndjson).expect("sealed");
        let mut publisher = self.broker.publisher().await.expect("a publisher");
        publisher.publish("crm", &envelope).await.expect("published").await.expect("confirmed");
    }

    /// Publishes one record that carries the column `subject` alone.
    async fn publish_part(&self, number: &str, version: u64, subject: &str) {
        let mut data = Row::builder(Columns::new(["number", "subject"]));
        data.push(Value::Text(number));
        data.push(Value::Text(subject));
        let (data, key) = (data.finish(), row(number).select(Columns::new(["number"]), &[0]));
        let mut line = Vec::new();
        write_line(&mut line, &key, Version::new(1, version, 1), Timestamp::now(), Some(&data), true);
        let sealed = seal(&Seal::Key(key_for("2026-11")), route("incident", Action::Update, 1), &line);
        let mut publisher = self.broker.publisher().await.expect("a publisher");
        publisher.publish("crm", &sealed.expect("sealed")).await.expect("published").await.expect("confirmed");
    }

    /// Replays dead letters of these reasons, in their order.
    async fn replay(&self, reason: Reason) {
        let letters = self.dead().await;
        let ids: Vec<_> =
            letters.iter().filter(|letter| letter.reason == reason).map(|letter| letter.id().to_owned()).collect();
        let settled = self.broker.settle_dead_letters("crm", &ids, syncline_shared::queue::Settlement::Replay).await;
        assert_eq!(settled.expect("replayed"), ids.len());
    }

    /// Why a partition is paused.
    fn paused(&self) -> String {
        self.health.paused().into_values().collect()
    }

    /// Hands out what is in the partition and takes it back, as a consumer that is killed does.
    async fn kill_a_consumer(&self) {
        let options = SubscribeOptions { replica: "killed".to_owned(), prefetch: 100 };
        let mut subscriber = self.broker.subscriber("crm", 0, &options).await.expect("attached");
        for _ in 0..self.depth().await {
            drop(subscriber.receive().await.expect("received"));
        }
    }

    /// Puts a message into the partition as somebody else might.
    async fn inject(&self, change: impl FnOnce(&mut Message)) {
        let mut line = Vec::new();
        let row = row("INC0");
        write_line(&mut line, &row, Version::new(1, 1, 1), Timestamp::now(), Some(&row), false);
        let envelope =
            seal(&Seal::Key(key_for("2026-11")), route("incident", Action::Update, 1), &line).expect("sealed");
        let mut message = envelope.to_message();
        change(&mut message);
        // The way back from the dead letters takes any message there is.
        let letter = DeadLetter::new(message, "crm", "incident.update.0".to_owned(), Reason::Target, "", 1);
        let mut publisher = self.broker.publisher().await.expect("a publisher");
        publisher.park(&letter).await.expect("parked").await.expect("confirmed");
        let ids = [letter.id().to_owned()];
        let settled = self.broker.settle_dead_letters("crm", &ids, syncline_shared::queue::Settlement::Replay).await;
        assert_eq!(settled.expect("replayed"), 1);
    }

    /// Runs the consumer until a condition holds, then shuts it down.
    async fn run_until(&self, what: &str, holds: impl AsyncFnMut() -> bool) {
        self.run_on(&self.broker, what, holds).await;
    }

    /// The same on a broker of the caller's choice.
    async fn run_on<B: Broker>(&self, broker: &B, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let mut tasks = TaskGroup::default();
        let keyring = self.keyring.clone();
        let load_keyring: LoadKeyring = Arc::new(move || keyring.lock().expect("no panic").clone());
        let metrics = Metrics::new(&Registry::new()).expect("a fresh registry");
        let consumer = Consumer {
            name: "crm",
            config: self.config.clone(),
            queue: &queue(),
            load_keyring: &load_keyring,
            replica: "one",
            metrics: &metrics,
            journal: Some(&self.journal),
            traces: None,
            health: &self.health,
        };
        consumer.start(&mut tasks, broker, |_| self.target.clone()).expect("scripts that compile");
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

    async fn depth(&self) -> u64 {
        let status = self.broker.status(&queue()).await.expect("a status");
        status.partitions.iter().map(|partition| partition.ready + partition.unacked.unwrap_or_default()).sum()
    }

    async fn dead(&self) -> Vec<DeadLetter> {
        self.broker.dead_letters("crm", 100).await.expect("a list")
    }

    /// What the journal says became of a record, oldest first.
    fn fates(&self, table: &str, number: &str) -> Vec<crate::journal::Fate> {
        let record = syncline_shared::journal::record_id(table, &row(number).select(Columns::new(["number"]), &[0]));
        self.journal.of(record).entries.into_iter().map(|told| told.fate).collect()
    }

    fn numbers(&self) -> Vec<String> {
        let number = |row: crate::target::memory::MemoryRow| row.get("number").cloned().flatten();
        self.target.rows("incident").into_iter().filter_map(number).collect()
    }
}

fn queue() -> SharedQueue {
    SharedQueue { name: "crm".to_owned(), partitions: 1 }
}

fn key_for(id: &str) -> Key {
    Key::derive(id, Cipher::Aes256, b"correct horse battery staple").expect("a key")
}

fn route(table: &str, action: Action, records: u32) -> Route {
    Route {
        source: "servicedesk".to_owned(),
        share: "incidents".to_owned(),
        table: table.to_owned(),
        action,
        partition: 0,
        records,
        origin: vec!["servicedesk".to_owned()],
    }
}

fn row(number: &str) -> Row {
    let mut row = Row::builder(Columns::new(["number", "note"]));
    row.push(Value::Text(number));
    row.push(Value::Text(MARKER));
    row.finish()
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_taken_off_the_queue() {
    let scene = Scene::new().declared().await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2)]).await;
    scene.publish("2026-11", "incident", Action::Delete, &[("INC1", 3)]).await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC2"]);
    assert!(scene.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_bad_record_is_set_aside_alone_and_the_rest_flows() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC3");
    let all = [("INC1", 1), ("INC2", 2), ("INC3", 3), ("INC4", 4), ("INC5", 5)];
    scene.publish("2026-11", "incident", Action::Insert, &all).await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC6", 6)]).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1", "INC2", "INC4", "INC5", "INC6"]);
    let dead = scene.dead().await;
    assert_eq!(
        dead.iter().map(|letter| (letter.reason, letter.message.records())).collect::<Vec<_>>(),
        [(Reason::Target, 1)]
    );
    assert!(!format!("{dead:?}").contains(MARKER) && !dead[0].error.contains("INC3"), "{dead:?}");

    // Mended and replayed, it arrives.
    let mended = Scene { target: MemoryTarget::default(), ..scene };
    let ids = [mended.dead().await[0].id().to_owned()];
    mended.broker.settle_dead_letters("crm", &ids, syncline_shared::queue::Settlement::Replay).await.expect("replayed");
    mended.run_until("replayed", async || mended.numbers() == ["INC3"]).await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_never_open_are_set_aside_with_their_reason() {
    let scene = Scene::new().declared().await;
    scene.inject(|message| message.body[20] ^= 1).await;
    scene.inject(|message| message.body.truncate(10)).await;
    scene.inject(|message| _ = message.headers.insert("v".to_owned(), Header::Int(2))).await;
    scene.inject(|message| message.headers.clear()).await;
    scene.inject(|message| _ = message.headers.insert("records".to_owned(), Header::Int(9))).await;
    scene.publish("2026-11", "incident", Action::Update, &[("INC1", 1)]).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1"]);
    let reasons: Vec<_> = scene.dead().await.into_iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [Reason::Seal, Reason::Seal, Reason::Envelope, Reason::Envelope, Reason::Content]);
}

#[tokio::test(start_paused = true)]
async fn a_group_ends_with_the_message_that_reaches_its_bound_of_records_or_bytes() {
    let mut scene = Scene::new().declared().await;
    scene.config.apply_records_max = 4;
    let publish = async |scene: &Scene| {
        for version in 1..=6 {
            scene.publish("2026-11", "incident", Action::Update, &[("INC1", version), ("INC2", version)]).await;
        }
    };
    publish(&scene).await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.target.calls(), 3, "two messages of two records each");

    scene.config.apply_records_max = 1000;
    scene.config.apply_bytes_max = 1;
    publish(&scene).await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.target.calls(), 3 + 6, "one message each");
}

#[tokio::test(start_paused = true)]
async fn a_target_out_of_reach_or_unfit_is_waited_for() {
    let scene = Scene::new().declared().await;
    let cause = || Box::new(std::io::Error::other("connection refused"));
    scene.target.fail_next(ApplyError::Unreachable { address: "db:5432/crm".to_owned(), cause: cause() });
    scene
        .target
        .fail_next(ApplyError::Unfit { problem: "table \"x\" is missing".to_owned(), mend: "CREATE".to_owned() });
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers(), scene.target.calls()), (vec!["INC1".to_owned()], 3));
    assert!(scene.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_settles_nothing_that_was_not_applied() {
    let scene = Scene::new().declared().await;
    for _ in 0..100 {
        scene.target.fail_next(ApplyError::Busy {
            address: "db".to_owned(),
            problem: "locked".to_owned(),
            limit: true,
        });
    }
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.run_until("tried", async || scene.target.calls() > 2).await;
    assert_eq!((scene.depth().await, scene.dead().await.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_during_a_pause_applies_nothing_that_was_gathered_behind_it() {
    let scene = Scene::new().declared().await;
    scene.publish("2027-01", "incident", Action::Insert, &[("INC1", 1)]).await;
    let health = scene.health.clone();
    let paused = async || !health.paused().is_empty();
    // The second message is gathered while the first one waits for its key.
    let published = Mutex::new(false);
    scene
        .run_until("paused", async || {
            if paused().await && !std::mem::replace(&mut *published.lock().expect("no panic"), true) {
                scene.publish("2026-11", "incident", Action::Insert, &[("INC2", 2)]).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                return true;
            }
            false
        })
        .await;
    assert_eq!((scene.numbers().len(), scene.depth().await), (0, 2));
}
