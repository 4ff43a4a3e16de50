//! The story of the producer: poll -> share -> batch -> seal -> publish -> checkpoint, one call a step.
//!
//! One task reads and decides, one seals and publishes ([`crate::publish`]). The source's position moves only past
//! changes that the broker confirmed or a rule withheld (promise P1). A fault of the source or the broker pauses the
//! pipeline and is tried again; nothing is skipped.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Instant;

use prometheus::{IntCounter, IntGauge};
use syncline_shared::class::Class;
use syncline_shared::health::{Health, Part};
use syncline_shared::queue::Broker;
use syncline_shared::record::{Row, key_id, partition_of, write_line};
use syncline_shared::retry::Backoff;
use syncline_shared::tasks::{Stop, TaskGroup};
use tokio::sync::mpsc;

use crate::batch::{Batch, Batcher, Lane, Ticket};
use crate::checkpoint::Checkpoint;
use crate::config::ProducerConfig;
use crate::metrics::Metrics;
use crate::outlet::Outlets;
use crate::publish::{Job, Window};
use crate::share::{Decision, Shared};
use crate::source::{Change, PollLimit, Polled, Source};

/// Closed batches waiting for the publisher; it has a window of its own.
const JOBS: usize = 4;

/// Bounds of one poll: small enough that deciding and encoding them does not hold up the I/O of others.
const POLL: PollLimit = PollLimit { changes: 500, bytes: 256 * 1024 };

/// Starts the producer of one source: a reader and a publisher.
pub fn start<S: Source + 'static, B: Broker>(
    tasks: &mut TaskGroup,
    source: S,
    outlets: Outlets,
    broker: B,
    config: &ProducerConfig,
    metrics: &Metrics,
    health: &Health,
) {
    let (jobs, job_queue) = mpsc::channel(JOBS);
    let (done, confirmed) = mpsc::unbounded_channel();
    let name = outlets.source().to_owned();
    let publisher = Window::new(
        broker,
        outlets.queues(),
        config.publish,
        metrics.clone(),
        health.part(format!("queue of source {name}")),
    );
    tasks.spawn("publisher", publisher.run(job_queue, done, tasks.stop()));
    let reader = Reader {
        source,
        batcher: Batcher::new(config.batch),
        record_bytes_max: config.publish.record_bytes_max,
        checkpoint: Checkpoint::default(),
        confirmed,
        part: health.part(format!("source {name}")),
        lag: metrics.lag(&name),
        reconnects: metrics.reconnects("source"),
        outlets,
        line: Vec::new(),
        oversize: VecDeque::new(),
        unstored: None,
    };
    let stop = tasks.stop();
    tasks.spawn("reader", reader.run(jobs, stop));
}

struct Reader<S: Source> {
    source: S,
    outlets: Outlets,
    batcher: Batcher,
    record_bytes_max: usize,
    checkpoint: Checkpoint<S::Position>,
    confirmed: mpsc::UnboundedReceiver<Vec<Ticket>>,
    part: Part,
    lag: IntGauge,
    reconnects: IntCounter,
    /// The line being written; kept to reuse its memory.
    line: Vec<u8>,
    /// Records too large to send, on their way to the dead letters.
    oversize: VecDeque<Job>,
    /// A confirmed position the source could not store yet.
    unstored: Option<S::Position>,
}

impl<S: Source> Reader<S> {
    async fn run(mut self, jobs: mpsc::Sender<Job>, mut stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::default();
        let mut retry_at = None;
        let mut halted = false;
        let mut next_job = None;
        loop {
            next_job = next_job.or_else(|| self.next_job());
            let wake = retry_at.into_iter().chain(self.batcher.next_deadline()).min();
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(tickets) = self.confirmed.recv() => self.confirm(tickets).await,
                permit = jobs.reserve(), if next_job.is_some() => match (permit, next_job.take()) {
                    (Ok(permit), Some(job)) => permit.send(job),
                    // The publisher is gone, and with it the service.
                    (Err(_), _) | (_, None) => return Ok(()),
                },
                () = sleep_until(wake), if wake.is_some() => {
                    let now = Instant::now();
                    retry_at = retry_at.filter(|at| *at > now);
                    self.batcher.close_due(now);
                    self.store().await;
                }
                polled = self.source.poll(POLL), if next_job.is_none() && retry_at.is_none() && !halted => {
                    match polled.map(|polled| self.take(polled)) {
                        Ok(Ok(())) => {
                            backoff.reset();
                            self.part.works();
                        }
                        Ok(Err(unfit)) => {
                            // Only another configuration helps; what was read is read again after the restart.
                            self.part.pause(Class::Systemic, &unfit);
                            halted = true;
                        }
                        Err(error) => {
                            self.part.pause(error.class(), &error);
                            self.reconnects.inc();
                            // The source reports everything after its last stored position again.
                            self.checkpoint.forget();
                            retry_at = Some(Instant::now() + backoff.next_wait());
                        }
                    }
                    self.lag.set(self.source.lag_bytes().map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)));
                }
            }
        }
        self.drain(jobs, next_job).await;
        Ok(())
    }

    /// Decides what leaves of a poll's changes and adds it to batches.
    fn take(&mut self, polled: Polled<S::Position>) -> Result<(), UnfitShare> {
        // Held open by one until all changes are decided, so that the position cannot move past them before.
        let poll = self.checkpoint.begin(polled.position, 1);
        for change in &polled.changes {
            self.offer(change, poll)?;
        }
        self.checkpoint.done(poll, 1);
        Ok(())
    }

    /// Asks every share of the change's table.
    fn offer(&mut self, change: &Change, poll: u64) -> Result<(), UnfitShare> {
        for (place, queue, outlet) in self.outlets.of_table(&change.table) {
            if !outlet.share.concerns(change) {
                continue;
            }
            outlet.metrics.changes(change.action).inc();
            let Shared { action, key, data, partial } = match outlet.share.decide(change) {
                Decision::Share(shared) => shared,
                Decision::Withhold(reason) => {
                    outlet.metrics.withheld(reason).inc();
                    continue;
                }
                Decision::Unfit { column } => {
                    let (share, column) = (outlet.share.name().to_string(), column.to_owned());
                    return Err(UnfitShare { share, table: change.table.to_string(), column });
                }
            };
            outlet.metrics.shared(action).inc();
            outlet.metrics.newest.set(change.at.as_duration().as_secs_f64());
            let source = self.outlets.source();
            let partition = partition_of(source, &change.table, key, outlet.queue.partitions);
            let id = key_id(source, &change.table, key);
            let lane = Lane { share: place, queue, partition, action, origin: self.outlets.origin(&change.origin) };
            self.line.clear();
            write_line(&mut self.line, key, change.version, change.at, data.as_deref(), partial);
            if self.line.len() > self.record_bytes_max {
                let job = self.oversize_job(&lane, id, poll, key, change);
                self.oversize.push_back(job);
            } else {
                self.batcher.add(&lane, id, poll, &self.line, Instant::now());
            }
            self.checkpoint.add(poll, 1);
        }
        Ok(())
    }

    /// Makes a dead letter of a record that is too large: its key and version, sealed, and what was wrong with it.
    fn oversize_job(&self, lane: &Lane, id: u64, poll: u64, key: &Row, change: &Change) -> Job {
        let (bytes, bytes_max) = (self.line.len(), self.record_bytes_max);
        let error = format!("record of table {}, key id {id:016x}: {bytes} bytes, at most {bytes_max}", change.table);
        tracing::error!(error, "a record is set aside: it is too large to send");
        let mut ndjson = Vec::new();
        write_line(&mut ndjson, key, change.version, change.at, None, true);
        let tickets = vec![Ticket { poll, records: 1 }];
        let job = self.job(Batch { lane: lane.clone(), records: 1, ndjson, tickets });
        Job { oversize: Some(error), ..job }
    }

    fn next_job(&mut self) -> Option<Job> {
        self.oversize.pop_front().or_else(|| self.batcher.next_closed().map(|batch| self.job(batch)))
    }

    /// Makes a closed batch a job for the publisher.
    fn job(&self, batch: Batch) -> Job {
        let Batch { lane, records, ndjson, tickets } = batch;
        let Some((outlet, queue)) = self.outlets.at(lane.share) else {
            unreachable!("lanes are made from outlets");
        };
        let route = self.outlets.route(outlet, lane.action, lane.partition, records, &lane.origin);
        Job {
            queue,
            seal: outlet.seal.clone(),
            route,
            ndjson,
            tickets,
            metrics: outlet.metrics.clone(),
            oversize: None,
        }
    }

    /// Counts confirmed records and stores the position they allow.
    async fn confirm(&mut self, tickets: Vec<Ticket>) {
        for Ticket { poll, records } in tickets {
            self.checkpoint.done(poll, u64::from(records));
        }
        if let Some(position) = self.checkpoint.advance() {
            self.unstored = Some(position);
            self.store().await;
        }
    }

    async fn store(&mut self) {
        let Some(position) = &self.unstored else { return };
        match self.source.commit(position).await {
            Ok(()) => self.unstored = None,
            // Tried again with the next confirm or retry; until then the source only repeats itself after a restart.
            Err(error) => self.part.pause(error.class(), &error),
        }
    }

    /// Sends what was read, waits for its confirms and stores the position.
    async fn drain(mut self, jobs: mpsc::Sender<Job>, mut next_job: Option<Job>) {
        self.batcher.close_all();
        while let Some(job) = next_job.take().or_else(|| self.next_job()) {
            if jobs.send(job).await.is_err() {
                break;
            }
        }
        drop(jobs);
        while let Some(tickets) = self.confirmed.recv().await {
            self.confirm(tickets).await;
        }
        self.source.close().await;
    }
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// A share that names a column its table does not have.
#[derive(Debug, thiserror::Error)]
#[error("share {share} names column {column}, which table {table} does not have; mend the share and start again")]
struct UnfitShare {
    share: String,
    table: String,
    column: String,
}

#[cfg(test)]
mod tests;
