//! Dead letters: their history, what waits behind them, what is not set aside at once.

use std::sync::atomic::{AtomicBool, Ordering};

use syncline_shared::envelope::Envelope;
use syncline_shared::queue::{Confirm, PublishError, Publisher, QueueStatus, Settlement};

use super::*;
use crate::journal::{Fate, Waited};

/// A broker that takes dead letters and does not confirm them while it is told so.
#[derive(Clone)]
struct Unconfirming {
    broker: MemoryBroker,
    confirms: Arc<AtomicBool>,
}

struct UnconfirmingPublisher<P> {
    publisher: P,
    confirms: Arc<AtomicBool>,
}

impl<P: Publisher> Publisher for UnconfirmingPublisher<P> {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        self.publisher.publish(queue, envelope).await
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        if self.confirms.load(Ordering::Relaxed) {
            return self.publisher.park(letter).await;
        }
        Ok(Confirm::new(async { Err(PublishError::Nacked) }))
    }
}

impl Broker for Unconfirming {
    type Publisher = UnconfirmingPublisher<<MemoryBroker as Broker>::Publisher>;
    type Subscriber = <MemoryBroker as Broker>::Subscriber;

    async fn declare(&self, queue: &SharedQueue) -> Result<(), QueueError> {
        self.broker.declare(queue).await
    }

    async fn publisher(&self) -> Result<Self::Publisher, QueueError> {
        Ok(UnconfirmingPublisher { publisher: self.broker.publisher().await?, confirms: self.confirms.clone() })
    }

    async fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<Self::Subscriber, QueueError> {
        self.broker.subscriber(queue, partition, options).await
    }

    async fn status(&self, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
        self.broker.status(queue).await
    }

    async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.broker.dead_letters(queue, limit).await
    }

    async fn settle_dead_letters(&self, queue: &str, ids: &[String], how: Settlement) -> Result<usize, QueueError> {
        self.broker.settle_dead_letters(queue, ids, how).await
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_is_acked_before_its_dead_letter_is_confirmed() {
    let scene = Scene::new().declared().await;
    let broker = Unconfirming { broker: scene.broker.clone(), confirms: Arc::default() };
    scene.target.refuse("INC1");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2)]).await;
    scene.publish("2026-11", "problem", Action::Insert, &[("PRB1", 3)]).await;
    scene.run_on(&broker, "tried", async || scene.paused().contains("dead letter")).await;
    // The others of its message are applied, but the message stays.
    assert_eq!((scene.numbers(), scene.depth().await, scene.dead().await.len()), (vec!["INC2".to_owned()], 2, 0));
    broker.confirms.store(true, Ordering::Relaxed);
    scene.run_on(&broker, "settled", async || scene.depth().await == 0).await;
    let reasons: Vec<_> = scene.dead().await.iter().map(|letter| letter.reason).collect();
    assert_eq!(reasons, [Reason::Target, Reason::Unsubscribed]);
}

#[tokio::test(start_paused = true)]
async fn a_replayed_letter_that_fails_again_keeps_its_id_its_first_time_and_its_attempts() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC2");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2)]).await;
    scene.run_until("set aside", async || scene.depth().await == 0).await;
    let first = scene.dead().await.remove(0);
    scene.replay(Reason::Target).await;
    scene.run_until("set aside again", async || scene.depth().await == 0).await;
    let dead = scene.dead().await;
    let [again] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!((again.id(), again.first_at, again.attempts), (first.id(), first.first_at, 2));
    assert_eq!((&again.message, &again.routing_key), (&first.message, &first.routing_key));
}

#[tokio::test(start_paused = true)]
async fn parts_of_a_parked_record_wait_behind_it_and_are_released_in_order() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC1");
    // In one group and in a later one: the head is refused, its parts must not get past it.
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2)]).await;
    scene.publish_part("INC1", 3, "three").await;
    scene.publish_part("INC2", 4, "four").await;
    scene.run_until("the first", async || scene.depth().await == 0).await;
    scene.target.refuse_nothing();
    scene.publish_part("INC1", 5, "five").await;
    scene.run_until("the second", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC2"]);
    let dead = scene.dead().await;
    let reasons: Vec<_> = dead.iter().map(|letter| (letter.reason, letter.behind.as_deref())).collect();
    let head = dead[0].id();
    assert_eq!(reasons, [(Reason::Target, None), (Reason::Waits, Some(head)), (Reason::Waits, Some(head))]);
    // A part that is replayed before the head waits again.
    scene.replay(Reason::Waits).await;
    scene.run_until("still waiting", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (1, 3));
    scene.replay(Reason::Target).await;
    scene.replay(Reason::Waits).await;
    scene.run_until("released", async || scene.depth().await == 0).await;
    let rows = scene.target.rows("incident");
    let of = |name: &str| rows[0].get(name).cloned().flatten();
    assert_eq!(
        (of("number"), of("note"), of("subject")),
        (Some("INC1".into()), Some(MARKER.into()), Some("five".into()))
    );
    assert!(scene.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_newer_whole_record_releases_its_parts() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC1");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.run_until("set aside", async || scene.depth().await == 0).await;
    scene.target.refuse_nothing();
    scene.publish("2026-11", "incident", Action::Update, &[("INC1", 2)]).await;
    scene.publish_part("INC1", 3, "three").await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.target.rows("incident")[0].get("subject").cloned().flatten(), Some("three".to_owned()));
    assert_eq!(scene.dead().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_another_one_cures_is_not_set_aside() {
    let scene = Scene::new().declared().await;
    scene.target.need("INC1", "INC3");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2), ("INC3", 3)]).await;
    scene.publish_part("INC1", 4, "four").await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers(), scene.dead().await), (["INC1", "INC2", "INC3"].map(str::to_owned).to_vec(), vec![]));
    assert_eq!(scene.target.rows("incident")[0].get("subject").cloned().flatten(), Some("four".to_owned()));

    // One that none cures goes to the dead letters after some seconds, and what is behind it flows.
    scene.target.need("INC5", "INC9");
    let before = tokio::time::Instant::now();
    scene.publish("2026-11", "incident", Action::Insert, &[("INC5", 5), ("INC6", 6)]).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert!((3..30).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (4, 1));
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_record_too_large_to_send_is_not_applied() {
    let scene = Scene::new().declared().await;
    let mut line = Vec::new();
    let key = row("INC1").select(Columns::new(["number"]), &[0]);
    write_line(&mut line, &key, Version::new(1, 1, 1), Timestamp::now(), None, true);
    let envelope = seal(&Seal::Key(key_for("2026-11")), route("incident", Action::Update, 1), &line).expect("sealed");
    let mut publisher = scene.broker.publisher().await.expect("a publisher");
    publisher.publish("crm", &envelope).await.expect("published").await.expect("confirmed");
    scene.run_until("set aside", async || scene.depth().await == 0).await;
    assert_eq!(
        (scene.numbers().len(), scene.dead().await.first().map(|letter| letter.reason)),
        (0, Some(Reason::Content))
    );
}

#[tokio::test(start_paused = true)]
async fn a_table_nobody_subscribed_to_is_set_aside_or_skipped_as_configured() {
    let mut scene = Scene::new().declared().await;
    scene.publish("2026-11", "problem", Action::Insert, &[("PRB1", 1)]).await;
    scene.run_until("set aside", async || scene.depth().await == 0).await;
    assert_eq!(scene.dead().await.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Unsubscribed]);
    scene.config.unlisted = crate::config::Unlisted::Skip;
    scene.publish("2026-11", "problem", Action::Insert, &[("PRB2", 2)]).await;
    scene.run_until("skipped", async || scene.depth().await == 0).await;
    assert_eq!(scene.dead().await.len(), 1);
    assert_eq!(scene.fates("problem", "PRB1"), [Fate::set_aside(&scene.dead().await[0])]);
    assert_eq!(scene.fates("problem", "PRB2"), [Fate::Skipped]);
}

#[tokio::test(start_paused = true)]
async fn the_journal_says_what_became_of_a_record_and_shows_nothing_of_it() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC3");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 2), ("INC2", 2), ("INC3", 2)]).await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2)]).await;
    scene.publish_part("INC3", 4, "four").await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.fates("incident", "INC1"), [Fate::Applied, Fate::Stale]);
    assert_eq!(scene.fates("incident", "INC2"), [Fate::Applied, Fate::Duplicate]);
    let letters = scene.dead().await;
    assert_eq!(scene.fates("incident", "INC3"), [Fate::set_aside(&letters[0]), Fate::set_aside(&letters[1])]);
    let Fate::SetAside { reason: Reason::Waits, behind: Some(Waited(behind)), .. } = Fate::set_aside(&letters[1])
    else {
        panic!("the part waits: {letters:?}")
    };
    assert_eq!(behind.to_string(), letters[0].id());
    let noted = format!("{:?}", scene.journal);
    assert!(noted.contains("incident") && !noted.contains(MARKER) && !noted.contains("INC3"), "{noted}");
}

#[tokio::test(start_paused = true)]
async fn a_batch_too_long_when_opened_is_set_aside() {
    let mut scene = Scene::new().declared().await;
    scene.config.plain_bytes_max = 1024;
    let many: Vec<_> = (1..100).map(|version| ("INC1", version)).collect();
    scene.publish("2026-11", "incident", Action::Update, &many).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.dead().await.first().map(|letter| letter.reason), Some(Reason::Content));
}

#[tokio::test(start_paused = true)]
async fn a_record_set_aside_alone_stays_in_the_trace_of_its_batch() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC2");
    let context = Header::Text("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    let change = |message: &mut Message| {
        let mut lines = Vec::new();
        for number in ["INC1", "INC2"] {
            let row = row(number);
            write_line(&mut lines, &row, Version::new(1, 1, 1), Timestamp::now(), Some(&row), false);
        }
        let key = Seal::Key(key_for("2026-11"));
        *message = seal(&key, route("incident", Action::Update, 2), &lines).expect("sealed").to_message();
        message.headers.insert("traceparent".to_owned(), context.clone());
    };
    scene.inject(change).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    let [letter] = &scene.dead().await[..] else { panic!("one letter") };
    assert_eq!((letter.message.records(), letter.message.headers.get("traceparent")), (1, Some(&context)));
}
