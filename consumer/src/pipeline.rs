//! The story of the consumer, once per partition: receive -> open -> apply -> settle, one call a step.
//!
//! A delivery is acked only after the target committed or a dead letter was confirmed (promise P1). While one group of
//! messages is applied, the next one is received and opened. A systemic fault pauses the partition and is tried again;
//! nothing is drained into the dead letters (promise P7).

use std::convert::Infallible;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt as _;
use syncline_shared::class::Class;
use syncline_shared::health::{Health, Part};
use syncline_shared::queue::{Broker, QueueError, SharedQueue, SubscribeOptions, Subscriber};
use syncline_shared::retry::Backoff;
use syncline_shared::seal::Keyring;
use syncline_shared::tasks::{Stop, TaskGroup};

use crate::config::SubscriptionConfig;
use crate::metrics::{Metrics, SubscriptionMetrics};
use crate::open::{OpenRules, Opened, open, open_one};
use crate::run::{Progress, Run};
use crate::settle::{Settler, Verdict};
use crate::target::Target;

/// Gives the keyring as it is configured now; asked again when a message names a key that is not in it.
pub type LoadKeyring = Arc<dyn Fn() -> Keyring + Send + Sync>;

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
    /// Where to say what is paused.
    pub health: &'a Health,
}

impl Consumer<'_> {
    /// Starts one task per partition, each with a target of its own.
    pub fn start<B: Broker, T: Target + 'static>(self, tasks: &mut TaskGroup, broker: &B, target: impl Fn(u32) -> T) {
        let Self { name, config, queue, load_keyring, replica, metrics, health } = self;
        let config = Arc::new(config);
        let keyring = Arc::new(load_keyring());
        let metrics = metrics.subscription(name);
        for partition in 0..queue.partitions {
            let consumer = Partition {
                settler: Settler::new(broker.clone(), &queue.name, partition, config.clone(), metrics.clone()),
                broker: broker.clone(),
                queue: queue.clone(),
                options: SubscribeOptions { replica: replica.to_owned(), prefetch: config.prefetch },
                config: config.clone(),
                rules: OpenRules { partition, limits: config.limits() },
                target: target(partition),
                keyring: keyring.clone(),
                load_keyring: load_keyring.clone(),
                metrics: metrics.clone(),
                part: health.partition(format!("subscription {name}"), partition),
            };
            let stop = tasks.stop();
            tasks.spawn("partition", consumer.run(stop));
        }
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
    part: Part,
}

impl<B: Broker, T: Target> Partition<B, T> {
    async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::default();
        let mut cured_by_attaching = true;
        while !stop.is_set() {
            let ended = match stop.or(self.attach()).await {
                None => break,
                Some(Ok(subscriber)) => {
                    if cured_by_attaching {
                        self.part.works();
                        backoff.reset();
                    }
                    self.follow(subscriber, &mut stop).await
                }
                Some(Err(error)) => Err(error),
            };
            if let Err(error) = ended {
                self.part.pause(error.class(), &error);
                cured_by_attaching = !matches!(error, QueueError::Park(_));
                self.metrics.reconnects("queue").inc();
                stop.or(backoff.wait()).await;
            }
        }
        Ok(())
    }

    /// Declares the shared queue, which mends one that was deleted, and attaches to the partition.
    async fn attach(&mut self) -> Result<B::Subscriber, QueueError> {
        self.broker.declare(&self.queue).await?;
        self.broker.subscriber(&self.queue.name, self.rules.partition, &self.options).await
    }

    /// Works on one subscription until it ends. Receives and opens the next group while one is applied.
    async fn follow(&mut self, mut subscriber: B::Subscriber, stop: &mut Stop) -> Result<(), QueueError> {
        let (rules, config) = (self.rules, self.config.clone());
        let mut group = Vec::new();
        loop {
            let keyring = self.keyring.clone();
            let mut gather_stop = stop.clone();
            let mut next = pin!(gather(&mut subscriber, &config, &keyring, rules, &mut gather_stop));
            let mut work = pin!(self.process(group, stop));
            let (worked, received) = tokio::select! {
                worked = &mut work => (worked?, None),
                received = &mut next => (work.await?, Some(received)),
            };
            if worked.is_break() {
                return Ok(());
            }
            group = match received {
                Some(received) => received?,
                None => next.await?,
            };
            if group.is_empty() {
                return Ok(());
            }
        }
    }

    /// Applies and settles a group of messages, in order; breaks off when a shutdown comes while it waits for a fault to be
    /// mended. What was gathered behind the group must not be applied then.
    async fn process(&mut self, group: Vec<Opened>, stop: &mut Stop) -> Result<ControlFlow<()>, QueueError> {
        self.metrics.in_flight.add(i64::try_from(group.len()).unwrap_or_default());
        let size = group.len();
        let result = self.process_all(group, stop).await;
        self.metrics.in_flight.sub(i64::try_from(size).unwrap_or_default());
        result
    }

    async fn process_all(&mut self, group: Vec<Opened>, stop: &mut Stop) -> Result<ControlFlow<()>, QueueError> {
        let mut run = Run::default();
        let mut verdicts = Vec::new();
        for mut opened in group {
            if matches!(&opened.content, Err(fault) if fault.class() != Class::Permanent) {
                // What came before is applied first; then the partition waits here until the fault is mended.
                let (before, settled) = (std::mem::take(&mut run), std::mem::take(&mut verdicts));
                if self.finish(before, settled, stop).await?.is_break() || !self.reopen(&mut opened, stop).await {
                    return Ok(ControlFlow::Break(()));
                }
            }
            verdicts.push(self.settler.judge(opened, &mut run));
        }
        self.finish(run, verdicts, stop).await
    }

    /// Tries to open a message again until its fault is mended; `false` when the shutdown came first.
    async fn reopen(&mut self, opened: &mut Opened, stop: &mut Stop) -> bool {
        let mut backoff = Backoff::default();
        loop {
            // A key that was added since is no fault: what was gathered before was opened without it.
            self.keyring = Arc::new((self.load_keyring)());
            opened.content = open_one(&opened.delivery, &self.keyring, self.rules);
            match &opened.content {
                Err(fault) if fault.class() != Class::Permanent => self.part.pause(fault.class(), fault),
                Ok(_) | Err(_) => break,
            }
            if stop.or(backoff.wait()).await.is_none() {
                return false;
            }
        }
        self.part.works();
        true
    }

    /// Applies a run until the target has taken it, then settles its messages.
    async fn finish(
        &mut self,
        run: Run,
        verdicts: Vec<Verdict>,
        stop: &mut Stop,
    ) -> Result<ControlFlow<()>, QueueError> {
        let mut progress = Progress::new(&run);
        let mut backoff = Backoff::default();
        loop {
            let timer = self.metrics.apply_seconds.start_timer();
            let applied = progress.apply(&run, &mut self.target).await;
            let Err(error) = applied else {
                timer.observe_duration();
                self.part.works();
                break;
            };
            timer.stop_and_discard();
            self.part.pause(error.class(), &error);
            self.metrics.reconnects("target").inc();
            if stop.or(backoff.wait()).await.is_none() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.settler.settle(&run, progress.into_outcomes(), verdicts, &self.keyring).await?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Receives and opens what is there: one message at least, then as many as wait already, up to the bounds; empty at the
/// end. Each is opened before the next is taken, for only then its size is known.
async fn gather(
    subscriber: &mut impl Subscriber,
    config: &SubscriptionConfig,
    keyring: &Arc<Keyring>,
    rules: OpenRules,
    stop: &mut Stop,
) -> Result<Vec<Opened>, QueueError> {
    let mut group = Vec::new();
    let Some(first) = stop.or(subscriber.receive()).await else { return Ok(group) };
    let mut next = first?;
    let (mut bytes, mut records) = (0, 0_u32);
    while let Some(delivery) = next {
        records = records.saturating_add(delivery.message().records());
        let opened = open(delivery, keyring.clone(), rules).await;
        bytes += opened.bytes();
        group.push(opened);
        if bytes >= config.apply_bytes_max || records >= config.apply_records_max {
            break;
        }
        next = match subscriber.receive().now_or_never() {
            Some(received) => received?,
            None => None,
        };
    }
    Ok(group)
}

#[cfg(test)]
mod tests;
