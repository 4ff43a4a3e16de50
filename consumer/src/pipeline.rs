//! The story of the consumer, once per partition: receive -> open -> apply -> settle, one call a step.
//!
//! A delivery is acked only after the target committed or a dead letter was confirmed (promise P1). While one group of
//! messages is applied, the next one is received and opened. A systemic fault pauses the partition and is tried again;
//! nothing is drained into the dead letters (promise P7).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use syncline_shared::class::Class;
use syncline_shared::health::{Health, Part};
use syncline_shared::pace::Shift;
use syncline_shared::queue::{Broker, QueueError, SharedQueue, SubscribeOptions, Subscriber};
use syncline_shared::retry::Backoff;
use syncline_shared::script::SyntaxError;
use syncline_shared::seal::Keyring;
use syncline_shared::tasks::{Stop, TaskGroup};
use syncline_shared::traces::Traces;

use crate::config::SubscriptionConfig;
use crate::journal::{Journal, Notes};
use crate::metrics::{Metrics, SubscriptionMetrics};
use crate::open::{OpenFault, OpenRules, Opened};
use crate::run::{Progress, Run};
use crate::script::Scripts;
use crate::settle::{Settler, Verdict};
use crate::target::Target;
use crate::trust::Trust;

mod alone;
mod gather;
mod wait;

use self::alone::Try;
use self::gather::{Gathered, gather, newest};

/// Gives the keyring as it is configured now; asked again when a message names a key that is not in it.
pub type LoadKeyring = Arc<dyn Fn() -> Keyring + Send + Sync>;

/// Waits between attempts at records that another one may cure: about five seconds in all.
const CURE_WAIT_FIRST: Duration = Duration::from_millis(100);
const CURE_WAIT_MAX: Duration = Duration::from_secs(2);

/// What the tasks of one subscription are started from.
pub struct Consumer<'a> {
    /// The subscription's name.
    pub name: &'a str,
    /// Its configuration.
    pub config: SubscriptionConfig,
    /// Its shared queue.
    pub queue: &'a SharedQueue,
    /// Gives the keys.
    pub load_keyring: &'a LoadKeyring,
    /// Names this process among the replicas.
    pub replica: &'a str,
    /// Where to count.
    pub metrics: &'a Metrics,
    /// Where to note what becomes of records, if that is on.
    pub journal: Option<&'a Journal>,
    /// Makes spans, if that is on.
    pub traces: Option<&'a Traces>,
    /// Where to say what is paused.
    pub health: &'a Health,
}

impl Consumer<'_> {
    /// Starts one task per partition, each with a target and scripts of its own.
    ///
    /// # Errors
    /// A script is no JavaScript; nothing is started.
    pub fn start<B: Broker, T: Target + 'static>(
        self,
        tasks: &mut TaskGroup,
        broker: &B,
        target: impl Fn(u32) -> T,
    ) -> Result<(), SyntaxError> {
        let Self { name, config, queue, load_keyring, replica, metrics, journal, traces, health } = self;
        let config = Arc::new(config);
        let keyring = Arc::new(load_keyring());
        let metrics = metrics.subscription(name);
        let scripts = |_| Scripts::compile(&config, tasks.stop());
        let scripts = (0..queue.partitions).map(scripts).collect::<Result<Vec<_>, _>>()?;
        for (partition, scripts) in (0..).zip(scripts) {
            let consumer = Partition {
                settler: Settler::new(
                    broker.clone(),
                    &queue.name,
                    partition,
                    config.clone(),
                    metrics.clone(),
                    Notes::new(journal, name, &queue.name),
                )
                .traced(traces, name),
                broker: broker.clone(),
                queue: queue.clone(),
                options: SubscribeOptions { replica: replica.to_owned(), prefetch: config.prefetch },
                config: config.clone(),
                rules: OpenRules { partition, limits: config.limits(), scripts: scripts.map(Arc::new) },
                target: target(partition),
                keyring: keyring.clone(),
                load_keyring: load_keyring.clone(),
                metrics: metrics.clone(),
                trust: Trust::default(),
                beside: config.any_table(),
                part: health.partition(format!("subscription {name}"), partition),
            };
            let stop = tasks.stop();
            tasks.spawn("partition", consumer.run(stop));
        }
        Ok(())
    }
}

/// A name for a replica that was given none.
#[must_use]
pub fn random_replica() -> String {
    uuid::Uuid::now_v7().to_string()
}

struct Partition<B: Broker, T> {
    broker: B,
    queue: SharedQueue,
    options: SubscribeOptions,
    config: Arc<SubscriptionConfig>,
    rules: OpenRules,
    target: T,
    keyring: Arc<Keyring>,
    load_keyring: LoadKeyring,
    settler: Settler<B>,
    metrics: SubscriptionMetrics,
    trust: Trust,
    /// The target's table beside which tries are counted.
    beside: String,
    part: Part,
}

impl<B: Broker, T: Target> Partition<B, T> {
    async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::default();
        let mut cured_by_attaching = true;
        while !stop.is_set() {
            let ended = match stop.or(self.attach()).await {
                None => break,
                Some(Ok(mut subscriber)) => {
                    if cured_by_attaching {
                        self.part.works();
                        backoff.reset();
                    }
                    let ended = self.follow(&mut subscriber, &mut stop).await;
                    if ended.is_ok() {
                        // So that what was settled last does not come again.
                        subscriber.close().await;
                    }
                    ended
                }
                Some(Err(error)) => Err(error),
            };
            match ended {
                Ok(Left::Done) => self.rest(&mut stop).await,
                Ok(Left::Closed) => {}
                Err(error) => {
                    self.part.pause(error.class(), &error);
                    cured_by_attaching = !matches!(error, QueueError::Park(_));
                    self.metrics.reconnects("queue").inc();
                    stop.or(backoff.wait()).await;
                }
            }
        }
        Ok(())
    }

    /// Waits for the next time of a job that has done what there was. Nothing is received and held meanwhile: a broker does
    /// not wait for ever, and another replica may have it.
    async fn rest(&mut self, stop: &mut Stop) {
        let now = Timestamp::now();
        let Some(until) = self.config.pace().next_begin(now) else { return };
        self.part.rests(until);
        stop.or(tokio::time::sleep(until.duration_since(now).unsigned_abs())).await;
        self.part.works();
    }

    /// Declares the shared queue, which mends one that was deleted, and attaches to the partition.
    async fn attach(&mut self) -> Result<B::Subscriber, QueueError> {
        self.broker.declare(&self.queue).await?;
        self.broker.subscriber(&self.queue.name, self.rules.partition, &self.options).await
    }

    /// Works on one subscription until it ends, or there is nothing more to do for a job that rests. Receives and opens the
    /// next group while one is applied.
    async fn follow(&mut self, subscriber: &mut B::Subscriber, stop: &mut Stop) -> Result<Left, QueueError> {
        let (rules, config) = (self.rules.clone(), self.config.clone());
        let mut group: VecDeque<Opened> = VecDeque::new();
        let mut backoff = Backoff::default();
        let mut shift = Shift::begin(config.pace(), Timestamp::now());
        let mut waits = false;
        loop {
            let keyring = self.keyring.clone();
            let mut gather_stop = stop.clone();
            // Not while a message waits for a fault to be mended: that is no work done.
            let patience = shift.wait(Timestamp::now()).filter(|_| !waits);
            let is_idle = group.is_empty();
            let mut next = pin!(gather(subscriber, &config, &keyring, &rules, patience, &mut gather_stop));
            let mut received = None;
            while received.is_none() {
                let worked = {
                    let mut work = pin!(self.process(group, stop));
                    tokio::select! {
                        worked = &mut work => worked?,
                        more = &mut next => {
                            received = Some(more?);
                            work.await?
                        }
                    }
                };
                group = match worked {
                    Worked::Stopped => return Ok(Left::Closed),
                    Worked::Done => {
                        waits = false;
                        backoff.reset();
                        VecDeque::new()
                    }
                    Worked::Waits(group) => {
                        waits = true;
                        group
                    }
                };
                if received.is_none() && group.is_empty() {
                    received = Some((&mut next).await?);
                } else if received.is_none() {
                    // Those that come meanwhile may tell what to do about the one that waits. A group of opened ones is
                    // enough; the others are held as they came, `prefetch` of them at most.
                    let opened = group.iter().filter(|message| message.content.is_ok());
                    let has_room = opened.map(Opened::bytes).sum::<usize>() < config.apply_bytes_max;
                    tokio::select! {
                        more = &mut next, if has_room => received = Some(more?),
                        waited = stop.or(backoff.wait()) => if waited.is_none() { return Ok(Left::Closed) },
                    }
                }
            }
            match received {
                Some(Gathered::Messages(messages)) => {
                    shift.came(newest(&messages), Timestamp::now());
                    group.extend(messages);
                }
                Some(Gathered::Nothing) if is_idle => return Ok(Left::Done),
                // While it worked, it may have held all that the broker hands out.
                Some(Gathered::Nothing) if group.is_empty() => shift.worked(Timestamp::now()),
                Some(Gathered::Nothing) => {
                    if stop.or(backoff.wait()).await.is_none() {
                        return Ok(Left::Closed);
                    }
                }
                Some(Gathered::Closed) | None => return Ok(Left::Closed),
            }
        }
    }

    /// Applies and settles a group of messages, in order. Breaks off when a shutdown comes while it waits for the target,
    /// and at a message that has to wait for a fault to be mended. What is behind must not be applied then.
    async fn process(&mut self, group: VecDeque<Opened>, stop: &mut Stop) -> Result<Worked, QueueError> {
        let size = i64::try_from(group.len()).unwrap_or_default();
        self.metrics.in_flight.add(size);
        let result = self.process_all(group, stop).await;
        self.metrics.in_flight.sub(size);
        result
    }

    async fn process_all(&mut self, mut group: VecDeque<Opened>, stop: &mut Stop) -> Result<Worked, QueueError> {
        let mut run = Run::default();
        let mut verdicts = Vec::new();
        while let Some(mut opened) = group.pop_front() {
            let mut alone = None;
            if opened.is_suspect {
                let (before, settled) = (std::mem::take(&mut run), std::mem::take(&mut verdicts));
                if self.finish(before, settled, None, stop).await?.is_break() {
                    return Ok(Worked::Stopped);
                }
                let Some(tried) = self.open_suspect(&mut opened, stop).await else { return Ok(Worked::Stopped) };
                alone = Some(tried);
            }
            let waits = self.waits(&mut opened, &mut group, stop).await;
            if matches!(opened.content, Err(OpenFault::Stopped)) {
                self.end_try(alone.as_ref()).await;
                let _ = self.finish(run, verdicts, None, stop).await?;
                return Ok(Worked::Stopped);
            }
            if let Some(why) = waits {
                opened.receipt.failed(Class::Systemic);
                group.push_front(opened);
                self.end_try(alone.as_ref()).await;
                if self.finish(run, verdicts, None, stop).await?.is_break() {
                    return Ok(Worked::Stopped);
                }
                self.part.pause(Class::Systemic, &why);
                return Ok(Worked::Waits(group));
            }
            verdicts.push(self.settler.judge(opened, &mut run));
            if alone.is_some() {
                let (this, settled) = (std::mem::take(&mut run), std::mem::take(&mut verdicts));
                if self.finish(this, settled, alone, stop).await?.is_break() {
                    return Ok(Worked::Stopped);
                }
            }
        }
        let finished = self.finish(run, verdicts, None, stop).await?;
        Ok(if finished.is_break() { Worked::Stopped } else { Worked::Done })
    }

    /// Applies a run until the target has taken it, then settles its messages; with a try that is counted as long as it
    /// lasts.
    async fn finish(
        &mut self,
        run: Run,
        mut verdicts: Vec<Verdict>,
        alone: Option<Try>,
        stop: &mut Stop,
    ) -> Result<ControlFlow<()>, QueueError> {
        if verdicts.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        let mut progress = Progress::new(&run);
        let (mut backoff, mut cure) = (Backoff::default(), Backoff::new(CURE_WAIT_FIRST, CURE_WAIT_MAX));
        loop {
            let timer = self.metrics.apply_seconds.start_timer();
            let applied = match self.begin_try(alone.as_ref()).await {
                Ok(()) => progress.apply(&run, &mut self.target).await,
                Err(error) => Err(error),
            };
            let wait = match applied {
                Ok(()) => {
                    timer.observe_duration();
                    self.part.works();
                    if !progress.is_curable() {
                        break;
                    }
                    cure.next_wait()
                }
                Err(error) => {
                    timer.stop_and_discard();
                    verdicts.iter_mut().for_each(|verdict| verdict.failed(error.class()));
                    self.end_try(alone.as_ref()).await;
                    self.part.pause(error.class(), &error);
                    self.metrics.reconnects("target").inc();
                    self.config.pace().wait(error.is_limit(), || backoff.next_wait())
                }
            };
            if stop.or(tokio::time::sleep(wait)).await.is_none() {
                self.end_try(alone.as_ref()).await;
                return Ok(ControlFlow::Break(()));
            }
            progress.again();
        }
        self.settler.settle(&run, progress.into_outcomes(), verdicts, &self.keyring).await?;
        self.forget_try(alone.as_ref()).await;
        Ok(ControlFlow::Continue(()))
    }
}

/// What came of a group of messages.
enum Worked {
    /// All are settled.
    Done,
    /// The first of these waits until a fault is mended, and the others behind it.
    Waits(VecDeque<Opened>),
    /// A shutdown came; what is unsettled comes again.
    Stopped,
}

/// Why a subscription was left in good order.
enum Left {
    /// There is nothing more to do, for a job that rests then.
    Done,
    /// It ended, or a shutdown came.
    Closed,
}

#[cfg(test)]
mod tests;
