//! Seals closed batches and publishes them in order, many confirms under way at once.
//!
//! Order (promise P3): batches are published in the order they came. When one fails, everything from it on in its
//! partition is published again, even what the broker confirmed meanwhile: repeats are harmless, a gap is not. It goes
//! first and alone, so that a partition that takes nothing is not sent a whole window again and again. A batch of partial
//! records is published once all before it in its partition is confirmed: sent again behind it, an older change would be
//! stale to the target, and the columns that only it carried lost. Fails never; a broker that does not take messages is
//! tried again until the shutdown.

use std::collections::{HashSet, VecDeque};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::class::Class;
use syncline_shared::envelope::{Envelope, Route};
use syncline_shared::health::Part;
use syncline_shared::pace::Pace;
use syncline_shared::queue::{Broker, Confirm, DeadLetter, PublishError, Publisher, Reason, SharedQueue};
use syncline_shared::record::Action;
use syncline_shared::retry::Backoff;
use syncline_shared::seal::{Seal, seal};
use syncline_shared::tasks::Stop;
use syncline_shared::traces::{Publishing, Traces};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::batch::Ticket;
use crate::journal::Notes;
use crate::metrics::{Metrics, ShareMetrics};
use crate::span;
use crate::split::{reopen, smaller};

/// Sealing fails only while the system has no random bytes or no memory to give.
const SEAL_RETRY: Duration = Duration::from_secs(1);

/// After a failure, the other confirms of the window are waited for this long: they come at once or not at all.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

/// How far publishing runs ahead of the broker's confirms.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PublishConfig {
    /// Messages handed to the broker and not yet confirmed; 1 to 1000, default 500. Above some hundred nothing is gained.
    pub window_messages: usize,
    /// Bytes of batches being sealed or not yet confirmed, about; default 33554432.
    pub window_bytes_max: usize,
    /// Bytes of one record's line; a larger record is set aside as a dead letter. 1024 to 10485760, default 8388608.
    pub record_bytes_max: usize,
}

impl Default for PublishConfig {
    fn default() -> Self {
        Self { window_messages: 500, window_bytes_max: 32 * 1024 * 1024, record_bytes_max: 8 * 1024 * 1024 }
    }
}

impl PublishConfig {
    /// Every value out of its range: the field, and what is wrong and accepted.
    #[must_use]
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if !(1..=1000).contains(&self.window_messages) {
            problems.push(("window_messages", format!("{} is out of range; 1 to 1000", self.window_messages)));
        }
        if self.window_bytes_max < 1024 * 1024 {
            problems.push(("window_bytes_max", format!("{} is out of range; 1048576 or more", self.window_bytes_max)));
        }
        // A line that does not compress, as Base64, still fits the 16 MiB RabbitMQ takes.
        if !(1024..=10 * 1024 * 1024).contains(&self.record_bytes_max) {
            problems.push(("record_bytes_max", format!("{} is out of range; 1024 to 10485760", self.record_bytes_max)));
        }
        problems
    }
}

/// One batch to seal and publish.
pub(crate) struct Job {
    /// Shared queue.
    pub queue: Arc<str>,
    /// What to seal with.
    pub seal: Seal,
    /// Where it belongs.
    pub route: Route,
    /// Whether its records carry a part of their columns only.
    pub partial: bool,
    /// The records' lines.
    pub ndjson: Vec<u8>,
    /// The polls its records came from.
    pub tickets: Vec<Ticket>,
    /// The share's counters.
    pub metrics: ShareMetrics,
    /// What the journal has of its records.
    pub notes: Notes,
    /// Makes its span, if that is on.
    pub traces: Option<Traces>,
    /// Set for a record that cannot be sent: it goes to the dead letters, for this reason.
    pub set_aside: Option<SetAside>,
}

/// Why a record goes to the dead letters instead.
#[derive(Clone, Debug)]
pub(crate) struct SetAside {
    /// The kind of reason.
    pub reason: Reason,
    /// What is wrong with it, in one line without a value.
    pub error: String,
}

/// A batch on its way through the window.
struct Item {
    queue: Arc<str>,
    seal: Seal,
    envelope: Envelope,
    partial: bool,
    tickets: Vec<Ticket>,
    metrics: ShareMetrics,
    notes: Notes,
    span: Option<Publishing>,
    set_aside: Option<SetAside>,
    plain_bytes: usize,
}

impl Item {
    /// Seals a batch. CPU-bound.
    fn seal(job: Job) -> Self {
        let plain_bytes = job.ndjson.len();
        let mut envelope = loop {
            match seal(&job.seal, job.route.clone(), &job.ndjson) {
                Ok(envelope) => break envelope,
                Err(error) => {
                    tracing::error!(%error, "a batch cannot be sealed, trying again");
                    std::thread::sleep(SEAL_RETRY);
                }
            }
        };
        job.metrics.sealed_bytes.inc_by(envelope.body_len() as u64);
        let span = job.traces.as_ref().map(|traces| span::begin(traces, &job.queue, &mut envelope, &job.ndjson));
        let Job { queue, seal, partial, tickets, metrics, notes, set_aside, .. } = job;
        Self { queue, seal, envelope, partial, tickets, metrics, notes, span, set_aside, plain_bytes }
    }

    /// It was not taken, and is sent again.
    fn failed(&mut self, class: Class) {
        self.span.iter_mut().for_each(|span| span.failed(class));
    }

    /// The shared queue and the partition: what has an order.
    fn lane(&self) -> (&str, u32) {
        (&self.queue, self.envelope.route().partition)
    }

    /// Smaller ones in its place, where the broker takes no more than `bytes_max`; itself when there are none. CPU-bound.
    fn smaller(self, bytes: usize, bytes_max: usize) -> Result<Vec<Self>, Box<Self>> {
        let job = reopen(&self.seal, &self.envelope, self.plain_bytes).and_then(|ndjson| {
            let job = Job {
                queue: self.queue.clone(),
                seal: self.seal.clone(),
                route: self.envelope.route().clone(),
                partial: self.partial,
                ndjson,
                tickets: self.tickets.clone(),
                metrics: self.metrics.clone(),
                notes: self.notes.clone(),
                traces: self.span.as_ref().map(|span| span.traces().clone()),
                set_aside: self.set_aside.clone(),
            };
            smaller(job, bytes, bytes_max)
        });
        job.map(|jobs| jobs.into_iter().map(Self::seal).collect()).ok_or_else(|| Box::new(self))
    }
}

/// A batch that was given to be sealed.
enum Sealing {
    Sealed(Box<Item>),
    UnderWay(JoinHandle<Item>),
}

struct InFlight {
    item: Item,
    /// `None` once it failed.
    confirm: Option<Confirm>,
    sent: Instant,
}

/// The window: batches being sealed, sealed, and handed to the broker, each list in order.
pub(crate) struct Window<B: Broker> {
    broker: B,
    queues: Vec<SharedQueue>,
    config: PublishConfig,
    pace: Pace,
    /// Connected after the topology was declared. It mends its own connection.
    publisher: Option<B::Publisher>,
    /// Unset by a systemic fault, which may mean that the topology is gone.
    declared: bool,
    /// Set while the broker takes no messages; what is in flight waits with its confirms.
    held: bool,
    /// Set by a failure until the next confirm: messages go one by one.
    probing: bool,
    sealing: VecDeque<Sealing>,
    unsent: VecDeque<Item>,
    in_flight: VecDeque<InFlight>,
    /// Plaintext bytes in all three lists.
    bytes: usize,
    /// Batches being sealed at once.
    seals_ahead: usize,
    metrics: Metrics,
    part: Part,
}

impl<B: Broker> Window<B> {
    pub(crate) fn new(
        broker: B,
        queues: Vec<SharedQueue>,
        config: PublishConfig,
        pace: Pace,
        metrics: Metrics,
        part: Part,
    ) -> Self {
        Self {
            broker,
            queues,
            config,
            pace,
            publisher: None,
            declared: false,
            held: false,
            probing: false,
            sealing: VecDeque::new(),
            unsent: VecDeque::new(),
            in_flight: VecDeque::new(),
            bytes: 0,
            seals_ahead: std::thread::available_parallelism().map_or(2, std::num::NonZero::get) * 2,
            metrics,
            part,
        }
    }

    /// The same for what has no hurry: it leaves the threads that seal to others.
    pub(crate) const fn in_background(mut self) -> Self {
        self.seals_ahead = 1;
        self
    }

    /// Publishes jobs until their sender is gone and everything is confirmed; the tickets of confirmed batches go to
    /// `done`, which needs no bound of its own: it never holds more than the window lets out.
    pub(crate) async fn run(
        mut self,
        mut jobs: mpsc::Receiver<Job>,
        done: mpsc::UnboundedSender<Vec<Ticket>>,
        mut stop: Stop,
    ) -> Result<(), Infallible> {
        let reconnects = self.metrics.reconnects("queue");
        let mut backoff = Backoff::default();
        let mut open = true;
        // Connects at once, so that a broker out of reach shows before the first change.
        let mut failed = self.send_all().await;
        loop {
            while let Err(error) = failed {
                self.part.pause(error.class(), &error);
                self.cut(error.class(), &done).await;
                // Unconfirmed batches are read from the source again after the next start.
                let is_limit = matches!(error, PublishError::Nacked);
                let wait = self.pace.wait(is_limit, || backoff.next_wait());
                if stop.is_set() || stop.or(tokio::time::sleep(wait)).await.is_none() {
                    return Ok(());
                }
                reconnects.inc();
                failed = self.send_all().await;
            }
            if !open && self.is_empty() {
                return Ok(());
            }
            let room = self.unsent.len() + self.in_flight.len() < self.config.window_messages && !self.held;
            let takes = open && self.sealing.len() < self.seals_ahead && self.bytes < self.config.window_bytes_max;
            failed = tokio::select! {
                biased;
                confirmed = next_confirm(&mut self.in_flight) => match confirmed {
                    Ok(confirmed) => {
                        backoff.reset();
                        self.probing = false;
                        if !self.held {
                            self.part.works();
                        }
                        self.confirmed(confirmed, &done);
                        self.send_all().await
                    }
                    Err(error) => Err(error),
                },
                changed = changed(&mut self.publisher) => self.hold(changed).await,
                () = stop.wait(), if self.held => return Ok(()),
                item = next_sealed(&mut self.sealing), if room => {
                    self.unsent.push_back(item);
                    self.send_all().await
                }
                job = jobs.recv(), if takes => {
                    match job {
                        Some(job) => self.start(job),
                        None => open = false,
                    }
                    Ok(())
                }
            };
        }
    }

    fn is_empty(&self) -> bool {
        self.sealing.is_empty() && self.unsent.is_empty() && self.in_flight.is_empty()
    }

    /// Seals at once where that is quick, else off the I/O threads.
    fn start(&mut self, job: Job) {
        let plain_bytes = job.ndjson.len();
        self.bytes += plain_bytes;
        self.sealing.push_back(if job.seal.cipher().is_quick(plain_bytes) {
            Sealing::Sealed(Box::new(Item::seal(job)))
        } else {
            Sealing::UnderWay(tokio::task::spawn_blocking(move || Item::seal(job)))
        });
    }

    /// Hands what is sealed to the broker, in order, as far as it takes it.
    async fn send_all(&mut self) -> Result<(), PublishError> {
        if !self.declared {
            for queue in &self.queues {
                self.broker.declare(queue).await?;
            }
            self.declared = true;
        }
        if self.publisher.is_none() {
            self.publisher = Some(self.broker.publisher().await?);
            if self.unsent.is_empty() {
                self.part.works();
            }
        }
        while !self.held
            && (!self.probing || self.in_flight.is_empty())
            && let (Some(publisher), Some(item)) = (&mut self.publisher, self.unsent.front())
            && !(item.partial && self.in_flight.iter().any(|sent| sent.item.lane() == item.lane()))
        {
            let sent = Instant::now();
            let published = match &item.set_aside {
                None => publisher.publish(&item.queue, &item.envelope).await,
                Some(why) => publisher.park(&dead_letter(item, why)).await,
            };
            match published {
                Ok(confirm) => {
                    let set_aside = item.set_aside.as_ref().map(|why| why.reason);
                    item.notes.published(item.envelope.message_id(), set_aside);
                    let confirm = Some(confirm);
                    self.in_flight.extend(self.unsent.pop_front().map(|item| InFlight { item, confirm, sent }));
                }
                Err(blocked) if blocked.is_blocked() => {
                    self.part.pause(blocked.class(), &blocked);
                    self.held = true;
                }
                Err(PublishError::TooLarge { bytes, bytes_max }) => self.make_smaller(bytes, bytes_max).await?,
                Err(error) => return Err(error),
            }
            self.metrics.in_flight.set(i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX));
        }
        Ok(())
    }

    /// Splits the batch that is to be sent next, or sets its one record aside.
    async fn make_smaller(&mut self, bytes: usize, bytes_max: usize) -> Result<(), PublishError> {
        let Some(item) = self.unsent.pop_front() else { return Ok(()) };
        self.bytes = self.bytes.saturating_sub(item.plain_bytes);
        let split = unwind(tokio::task::spawn_blocking(move || item.smaller(bytes, bytes_max)).await);
        let (items, made) = match split {
            Ok(items) => (items, Ok(())),
            Err(same) => (vec![*same], Err(PublishError::TooLarge { bytes, bytes_max })),
        };
        for item in items.into_iter().rev() {
            self.bytes += item.plain_bytes;
            self.unsent.push_front(item);
        }
        made
    }

    /// Follows what the broker says about taking messages.
    async fn hold(&mut self, changed: Result<(), PublishError>) -> Result<(), PublishError> {
        match changed {
            Ok(()) => {
                self.held = false;
                self.part.works();
                self.send_all().await
            }
            Err(blocked) if blocked.is_blocked() => {
                self.part.pause(blocked.class(), &blocked);
                self.held = true;
                Ok(())
            }
            Err(error) => {
                // The connection is gone, and with nothing to send nobody would make it anew.
                self.publisher = None;
                Err(error)
            }
        }
    }

    /// Counts a confirmed batch and hands on its tickets.
    fn confirmed(&mut self, InFlight { item, sent, .. }: InFlight, done: &mpsc::UnboundedSender<Vec<Ticket>>) {
        self.metrics.confirm_seconds.observe(sent.elapsed().as_secs_f64());
        self.metrics.in_flight.set(i64::try_from(self.in_flight.len()).unwrap_or(i64::MAX));
        self.bytes = self.bytes.saturating_sub(item.plain_bytes);
        let route = item.envelope.route();
        let counter = match item.set_aside {
            None => item.metrics.confirmed(route.action),
            Some(_) => &item.metrics.dead_letters,
        };
        counter.inc_by(u64::from(route.records));
        item.notes.confirmed();
        if let Some(span) = item.span {
            span.confirmed(item.set_aside.is_some());
        }
        // The receiver is gone only when the pipeline is: nobody needs the position then.
        let _ = done.send(item.tickets);
    }

    /// After a failure: what failed in flight is to be sent again, with everything behind it in its partition, in order
    /// and before what was not sent yet.
    async fn cut(&mut self, class: Class, done: &mpsc::UnboundedSender<Vec<Ticket>>) {
        self.held = false;
        self.probing = true;
        self.declared &= class != Class::Systemic;
        if self.in_flight.is_empty() {
            self.unsent.iter_mut().take(1).for_each(|next| next.failed(class));
        }
        let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
        let mut failed = HashSet::new();
        let mut again = VecDeque::new();
        while let Some(InFlight { mut item, confirm, sent }) = self.in_flight.pop_front() {
            let confirmed = match confirm {
                Some(confirm) => matches!(tokio::time::timeout_at(deadline, confirm).await, Ok(Ok(()))),
                None => false,
            };
            let lane = (item.queue.clone(), item.envelope.route().partition);
            if confirmed && !failed.contains(&lane) {
                self.confirmed(InFlight { item, confirm: None, sent }, done);
            } else {
                failed.insert(lane);
                item.failed(class);
                again.push_back(item);
            }
        }
        again.append(&mut self.unsent);
        self.unsent = again;
        self.metrics.in_flight.set(0);
    }
}

/// Waits for the oldest message's confirm; a failed one stays in its place. Cancel-safe; never resolves while nothing is
/// in flight.
async fn next_confirm(in_flight: &mut VecDeque<InFlight>) -> Result<InFlight, PublishError> {
    let Some(InFlight { confirm: Some(confirm), .. }) = in_flight.front_mut() else { return pending().await };
    let outcome = confirm.await;
    match (outcome, in_flight.front_mut()) {
        (Ok(()), _) => match in_flight.pop_front() {
            Some(confirmed) => Ok(confirmed),
            None => unreachable!("it was just awaited"),
        },
        (Err(error), front) => {
            front.map(|failed| failed.confirm.take());
            Err(error)
        }
    }
}

/// Waits for news of the broker. Cancel-safe; never resolves without a publisher.
async fn changed<P: Publisher>(publisher: &mut Option<P>) -> Result<(), PublishError> {
    match publisher {
        Some(publisher) => publisher.changed().await,
        None => pending().await,
    }
}

/// Waits for the oldest batch to be sealed. Cancel-safe; never resolves while nothing is being sealed.
async fn next_sealed(sealing: &mut VecDeque<Sealing>) -> Item {
    match sealing.front_mut() {
        None => pending().await,
        Some(Sealing::UnderWay(first)) => {
            let sealed = first.await;
            sealing.pop_front();
            unwind(sealed)
        }
        Some(Sealing::Sealed(_)) => match sealing.pop_front() {
            Some(Sealing::Sealed(item)) => *item,
            Some(Sealing::UnderWay(_)) | None => unreachable!("it was just there"),
        },
    }
}

/// A panic of a blocking task is one of whoever waits for it.
fn unwind<T>(done: Result<T, tokio::task::JoinError>) -> T {
    match done {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// Of what is set aside here the key alone is left, and a delete is nothing more.
fn dead_letter(item: &Item, SetAside { reason, error }: &SetAside) -> DeadLetter {
    let (routing_key, key_only) = (item.envelope.routing_key(), item.envelope.route().action != Action::Delete);
    let letter = DeadLetter::new(item.envelope.to_message(), &item.queue, routing_key, *reason, error, 1);
    DeadLetter { key_only, ..letter }
}
