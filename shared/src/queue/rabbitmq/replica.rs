//! One replica among its like: what it tells the others and hears of them, and which partitions it is to take.
//!
//! Replicas talk over the fanout exchange `syncline.<queue>.status`, each with a queue of its own, which is gone with its
//! connection: that is how a replica that is silent is told from one that is gone. A replica is heard every second. It takes
//! a partition by attaching with a priority above all others, and never gives one back: the broker lets whoever has it
//! finish and hands it over. A replica that cannot hear the others says so once, and stands by behind those that can.
//!
//! What is heard is believed, for it can cost nothing but evenness. Knows nothing of messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use lapin::message::{Delivery, DeliveryResult};
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, ExchangeKind};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::connection::{OwnedChannel, Server};
use super::holdings::{Answer, Held, Holding, REPLY_TO, lock};
use super::spread::{Member, bid, highest, owner, spread, stand_by};
use super::topology::find;
use super::{exchange, partition_queue, short_name};
use crate::queue::QueueError;
use crate::tasks::chain;

/// How often a replica is heard.
const BEAT: Duration = Duration::from_secs(1);
/// How often it looks whether there is a partition to take.
pub(super) const LOOK: Duration = Duration::from_millis(500);
/// After this silence the broker is asked whether a replica is still there.
const SILENCE: Duration = Duration::from_secs(2);
/// How long the broker has to answer when it is told of a replica.
const OPENING: Duration = Duration::from_secs(2);
/// How long one that joins waits for the first of those it knows to be there, and then for the others.
const FIRST_WORD: Duration = Duration::from_secs(1);
const OTHER_WORDS: Duration = Duration::from_millis(200);
/// More replicas are not heard: who may write to the exchange may make them up.
const MEMBERS_MAX: usize = 1000;
/// Bytes of what a replica says with the most partitions a shared queue can have, and room to spare.
const WORDS_BYTES_MAX: usize = 64 << 10;

/// Where a replica is attached to a partition; gone with the subscription.
#[derive(Default)]
pub(super) struct Seat {
    priority: i64,
    /// What was received and is not settled.
    pub(super) holding: Arc<Holding>,
}

/// One replica of a shared queue.
pub(super) struct Replica {
    name: String,
    queue: String,
    seats: Mutex<BTreeMap<u32, Weak<Seat>>>,
    others: Mutex<BTreeMap<String, Other>>,
    /// Wakes who waits for the first word of another one.
    heard: Notify,
    line: Mutex<Option<Arc<Line>>>,
    opening: tokio::sync::Mutex<()>,
    looked: tokio::sync::Mutex<Option<Instant>>,
    /// Partitions to take, as of the last look.
    wishes: Mutex<BTreeSet<u32>>,
    complained: AtomicBool,
}

/// The channel on which it listens and speaks.
struct Line {
    channel: OwnedChannel,
    exchange: ShortString,
    /// Its queue, which names this replica among the others: names may be given twice, or used again.
    id: String,
    said: Mutex<Option<Instant>>,
}

/// Another replica.
struct Other {
    member: Member,
    heard: Instant,
}

/// What a replica says.
#[derive(Deserialize, Serialize)]
struct Words {
    id: String,
    member: Member,
    /// Whether it is new, and asks the others to speak.
    asks: bool,
}

impl Replica {
    pub(super) fn new(queue: &str, name: &str) -> Self {
        Self {
            name: name.to_owned(),
            queue: queue.to_owned(),
            seats: Mutex::default(),
            others: Mutex::default(),
            heard: Notify::new(),
            line: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            wishes: Mutex::default(),
            complained: AtomicBool::new(false),
        }
    }

    /// The priority to attach to a partition with: above all others if this replica is to have it, else behind them.
    pub(super) async fn priority(self: &Arc<Self>, server: &Server, partition: u32) -> i64 {
        self.listen(server, partition).await;
        lock(&self.wishes).remove(&partition);
        let wished = self.wished(server).remove(&partition);
        let others = lock(&self.others);
        let priorities = others.values().filter_map(|other| other.member.priorities.get(&partition));
        wished.unwrap_or_else(|| stand_by(&self.name, partition, priorities.max().copied()))
    }

    /// Notes that it is attached, and tells the others.
    pub(super) fn sit(&self, partition: u32, priority: i64) -> Arc<Seat> {
        let seat = Arc::new(Seat { priority, ..Seat::default() });
        lock(&self.seats).insert(partition, Arc::downgrade(&seat));
        self.say(false);
        seat
    }

    /// Speaks if it was not heard for a while.
    pub(super) fn beat(&self) {
        let is_due = |line: &Arc<Line>| lock(&line.said).is_none_or(|said| said.elapsed() >= BEAT);
        if lock(&self.line).as_ref().is_some_and(is_due) {
            self.say(false);
        }
    }

    /// Whether it is to take a partition it is attached to. Cancel-safe.
    pub(super) async fn is_to_take(self: &Arc<Self>, server: &Server, partition: u32) -> bool {
        // One of its subscriptions looks for all.
        if let Ok(mut looked) = self.looked.try_lock()
            && looked.is_none_or(|looked| looked.elapsed() >= LOOK)
        {
            *looked = Some(Instant::now());
            // Permissions that are missing are not asked for again and again.
            if !self.complained.load(Ordering::Relaxed) {
                self.listen(server, partition).await;
            }
            self.forget_gone(server).await;
            *lock(&self.wishes) = self.wished(server).into_keys().collect();
        }
        lock(&self.wishes).contains(&partition)
    }

    /// What it tells who asks for the status.
    fn answer(&self) -> Answer {
        let seats = lock(&self.seats);
        let held = seats.iter().filter_map(|(&partition, seat)| Held::of(partition, &seat.upgrade()?.holding));
        Answer { replica: self.name.clone(), held: held.collect() }
    }

    fn member(&self) -> Member {
        let seats = lock(&self.seats);
        let priorities = seats.iter().filter_map(|(&partition, seat)| Some((partition, seat.upgrade()?.priority)));
        Member { replica: self.name.clone(), priorities: priorities.collect() }
    }

    /// Partitions that this replica is to have and does not, each with a priority to take it with. None as long as it
    /// cannot hear the others.
    fn wished(&self, server: &Server) -> BTreeMap<u32, i64> {
        let Some(line) = self.standing_line() else { return BTreeMap::new() };
        let (me, others) = (self.member(), lock(&self.others));
        let mut members: BTreeMap<&str, &Member> =
            others.iter().map(|(id, other)| (id.as_str(), &other.member)).collect();
        members.insert(&line.id, &me);
        let last = members.values().filter_map(|member| member.priorities.last_key_value()).map(|(last, _)| last + 1);
        // Where nothing was declared, as in tests, what is attached tells how many there are.
        let partitions = server.partitions(&self.queue).or(last.max()).unwrap_or_default();
        let wished = spread(partitions, &members).into_iter().filter_map(|(partition, wished)| {
            let is_mine = wished == line.id && owner(partition, &members) != Some(wished);
            is_mine.then(|| (partition, bid(&self.name, partition, highest(partition, &members))))
        });
        wished.collect()
    }

    fn standing_line(&self) -> Option<Arc<Line>> {
        lock(&self.line).clone().filter(|line| line.channel.standing.stands())
    }

    /// Listens to the others, unless it does already, and waits until it has heard those that are there.
    async fn listen(self: &Arc<Self>, server: &Server, partition: u32) {
        let _opening = self.opening.lock().await;
        if self.standing_line().is_some() {
            return;
        }
        // A broker short of memory may not answer on this connection, and the partition is to be attached to all the same.
        let Ok(opened) = timeout(OPENING, self.open(server)).await else { return };
        match opened {
            Ok(()) => {
                self.complained.store(false, Ordering::Relaxed);
                if has_consumer(server, &self.queue, partition).await
                    && timeout(FIRST_WORD, self.heard.notified()).await.is_ok()
                {
                    sleep(OTHER_WORDS).await;
                }
            }
            // A broker that is gone is told by the subscription itself.
            Err(QueueError::Unreachable { .. }) => {}
            Err(error) if !self.complained.swap(true, Ordering::Relaxed) => {
                let (queue, error) = (&self.queue, chain(&error));
                tracing::warn!(
                    queue,
                    error,
                    "replicas cannot hear this one: it only stands by, and queue status cannot ask what it holds"
                );
            }
            Err(_) => {}
        }
    }

    /// Opens the line, and asks the others to speak.
    async fn open(self: &Arc<Self>, server: &Server) -> Result<(), QueueError> {
        let line = Arc::new(self.listen_on(server).await?);
        lock(&self.others).clear();
        *lock(&self.line) = Some(line.clone());
        self.say(true);
        // A broker that refuses what was said closes the channel instead of answering this.
        let answered = line.channel.basic_qos(1, BasicQosOptions::default());
        let answered = line.channel.standing.answer(server, answered).await?;
        answered.map_err(|error| server.error(&self.queue, error))
    }

    async fn listen_on(self: &Arc<Self>, server: &Server) -> Result<Line, QueueError> {
        let (channel, queue) = (server.line().await?, &self.queue);
        let status = status_exchange(queue)?;
        // Gone with this connection.
        let id = format!("{queue}.status.{}", Uuid::now_v7());
        let own = short_name(queue, &id)?;
        let listening = async {
            let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
            channel.exchange_declare(status.clone(), ExchangeKind::Fanout, options, FieldTable::default()).await?;
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
            channel.queue_declare(own.clone(), options, FieldTable::default()).await?;
            let bind = QueueBindOptions::default();
            channel.queue_bind(own.clone(), status.clone(), "".into(), bind, FieldTable::default()).await?;
            let options = BasicConsumeOptions { no_ack: true, exclusive: true, ..BasicConsumeOptions::default() };
            channel.basic_consume(own, "".into(), options, FieldTable::default()).await
        };
        let consumer = channel.standing.answer(server, listening).await?.map_err(|error| server.error(queue, error))?;
        let (replica, answers) = (Arc::downgrade(self), Channel::clone(&channel));
        consumer.set_delegate(move |heard: DeliveryResult| {
            let (replica, answers) = (replica.clone(), answers.clone());
            async move {
                if let (Ok(Some(heard)), Some(replica)) = (heard, replica.upgrade()) {
                    replica.hear(&heard, &answers);
                }
            }
        });
        Ok(Line { channel, exchange: status, id, said: Mutex::default() })
    }

    fn hear(&self, heard: &Delivery, answers: &Channel) {
        match heard.properties.reply_to() {
            // Nowhere else: whoever may ask must not have an answer put into other queues. An asker that is gone needs none.
            Some(asker) if asker.as_str().starts_with(REPLY_TO) => {
                let answer = serde_json::to_vec(&self.answer()).unwrap_or_default();
                send(answers, "".into(), asker.clone(), &answer);
            }
            Some(_) => {}
            None if heard.data.len() <= WORDS_BYTES_MAX => {
                if let Ok(words) = serde_json::from_slice(&heard.data) {
                    self.note(words);
                }
            }
            None => {}
        }
    }

    fn note(&self, Words { id, member, asks }: Words) {
        if lock(&self.line).as_ref().is_none_or(|line| line.id == id) {
            return;
        }
        {
            let mut others = lock(&self.others);
            if others.len() < MEMBERS_MAX || others.contains_key(&id) {
                others.insert(id, Other { member, heard: Instant::now() });
            }
        }
        self.heard.notify_one();
        if asks {
            self.say(false);
        }
    }

    fn say(&self, asks: bool) {
        let Some(line) = self.standing_line() else { return };
        // Words would pile up in memory while the broker takes none.
        if !line.channel.standing.is_blocked() {
            let words = Words { id: line.id.clone(), member: self.member(), asks };
            send(&line.channel, line.exchange.clone(), "".into(), &serde_json::to_vec(&words).unwrap_or_default());
            *lock(&line.said) = Some(Instant::now());
        }
    }

    /// Forgets those whose queue is gone. One that is silent for another reason keeps what it has.
    async fn forget_gone(&self, server: &Server) {
        let is_silent = |other: &Other| other.heard.elapsed() >= SILENCE;
        let silent: Vec<_> =
            lock(&self.others).iter().filter(|(_, other)| is_silent(other)).map(|(id, _)| id.clone()).collect();
        for id in silent {
            let Ok(channel) = server.channel().await else { return };
            // The queue of one that is there is another connection's own, which is an error too.
            if matches!(find(server, &channel, &self.queue, &id).await, Ok(None)) {
                lock(&self.others).remove(&id);
            } else if let Some(other) = lock(&self.others).get_mut(&id) {
                other.heard = Instant::now();
            }
        }
    }
}

/// Hands a message to the connection and waits for nothing: what is lost is said again.
#[expect(clippy::disallowed_methods, reason = "carries no record, and what is lost is said or asked again")]
fn send(channel: &Channel, exchange: ShortString, to: ShortString, body: &[u8]) {
    let (how, properties) = (BasicPublishOptions::default(), BasicProperties::default());
    let _ = channel.basic_publish(exchange, to, how, body, properties).now_or_never();
}

/// Whether somebody receives the partition, so that there is a word to wait for.
async fn has_consumer(server: &Server, queue: &str, partition: u32) -> bool {
    let Ok(channel) = server.channel().await else { return false };
    let found = find(server, &channel, queue, &partition_queue(queue, partition)).await;
    found.ok().flatten().is_some_and(|found| found.consumer_count() > 0)
}

/// The exchange over which the replicas of a shared queue talk.
pub(super) fn status_exchange(queue: &str) -> Result<ShortString, QueueError> {
    short_name(queue, &format!("{}.status", exchange(queue)))
}
