//! The story of the producer: poll -> share -> batch -> seal -> publish -> checkpoint, one call a step.
//!
//! One task reads and decides, one seals and publishes ([`crate::publish`]). The source's position moves only past
//! changes that the broker confirmed or a rule withheld (promise P1). A fault of the source or the broker pauses the
//! pipeline and is tried again; nothing is skipped.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus::IntCounter;
use syncline_shared::class::Class;
use syncline_shared::health::{Health, Part};
use syncline_shared::pace::{Shift, Turn};
use syncline_shared::queue::Broker;
use syncline_shared::record::Action;
use syncline_shared::retry::Backoff;
use syncline_shared::tasks::{Stop, TaskGroup};
use tokio::sync::mpsc;

use crate::batch::Ticket;
use crate::checkpoint::Checkpoint;
use crate::config::ProducerConfig;
use crate::metrics::{LogMetrics, Metrics, ProgressMetric};
use crate::offer::{Offers, UnfitShare};
use crate::outlet::Outlets;
use crate::publish::{Job, Window};
use crate::source::{Change, Lookups, PollLimit, Polled, Source, SourceError, poll_or_tend};

/// Closed batches waiting for the publisher; it has a window of its own.
const JOBS: usize = 4;

/// Bounds of one poll: small enough that deciding and encoding them does not hold up the I/O of others.
const POLL: PollLimit = PollLimit { changes: 500, bytes: 256 * 1024 };

/// Bytes of log between the source and what is confirmed from which on it counts as far ahead: several seconds of a busy
/// database, far more than what is under way at any rate.
const BEHIND_BYTES: u64 = 8 * 1024 * 1024;

/// How often a stand-by looks whether the source is free: soon enough after the death of the producer that reads it.
const STAND_BY_INTERVAL: Duration = Duration::from_secs(1);

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
        source.pace(),
        metrics.clone(),
        health.part(format!("queue of {} {name}", S::WHAT)),
    );
    let publisher = if S::IN_BACKGROUND { publisher.in_background() } else { publisher };
    let (needed, mut stop, publishing) = (source.needed(), tasks.stop(), tasks.stop());
    tasks.spawn("publisher", async move {
        match stop.or(needed).await {
            Some(()) => publisher.run(job_queue, done, publishing).await,
            None => Ok(()),
        }
    });
    let part = format!("{} {name}", S::WHAT);
    let reader = Reader {
        lookups: source.lookups(),
        source,
        offers: Offers::new(outlets, config.batch, config.publish.record_bytes_max),
        checkpoint: Checkpoint::default(),
        confirmed,
        progress: metrics.progress(&part),
        part: health.part(part),
        log: metrics.log(&name),
        reconnects: metrics.reconnects("source"),
        unstored: None,
        held: None,
        under_way: 0,
        is_behind: false,
    };
    let stop = tasks.stop();
    tasks.spawn("reader", reader.run(jobs, stop));
}

struct Reader<S: Source> {
    source: S,
    lookups: S::Lookups,
    offers: Offers,
    checkpoint: Checkpoint<S::Position>,
    confirmed: mpsc::UnboundedReceiver<Vec<Ticket>>,
    part: Part,
    log: LogMetrics,
    progress: ProgressMetric,
    reconnects: IntCounter,
    /// A confirmed position the source could not store yet.
    unstored: Option<S::Position>,
    /// A poll whose display values are being looked up; nothing of it is decided before all are there.
    held: Option<Polled<S::Position>>,
    /// Batches that the publisher has, and that are not confirmed.
    under_way: usize,
    /// Whether what the source still has is far more than what is under way.
    is_behind: bool,
}

impl<S: Source> Reader<S> {
    async fn run(mut self, jobs: mpsc::Sender<Job>, mut stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::default();
        let mut retry_at = None;
        let mut halted = false;
        let mut next_job = None;
        let outlets = self.offers.outlets();
        let (mut look_backoff, mut look_at) = (Backoff::default(), None);
        let mut shift = Shift::begin(self.source.pace(), Timestamp::now());
        loop {
            if self.under_way == 0 && !self.is_behind {
                // A batch lingers so that others need not be made while some are on their way. When none is, it leaves.
                self.offers.close_all();
            }
            next_job = next_job.or_else(|| self.offers.next_job());
            let turn_at = shift.wait(Timestamp::now()).map(|wait| Instant::now() + wait);
            let wake = retry_at.into_iter().chain(self.offers.next_deadline()).chain(turn_at).min();
            tokio::select! {
                biased;
                () = stop.wait() => break,
                Some(tickets) = self.confirmed.recv() => self.confirm(tickets).await,
                permit = jobs.reserve(), if next_job.is_some() => match (permit, next_job.take()) {
                    (Ok(permit), Some(job)) => {
                        permit.send(job);
                        self.under_way += 1;
                    }
                    // The publisher is gone, and with it the service.
                    (Err(_), _) | (_, None) => return Ok(()),
                },
                () = sleep_until(wake), if wake.is_some() => {
                    let now = Instant::now();
                    if retry_at.take_if(|at| *at <= now).is_some() {
                        // Only now: what was on its way may have moved the position after which all is reported again.
                        self.checkpoint.forget();
                        self.progress.made(false);
                    }
                    self.offers.close_due(now);
                    self.store().await;
                    if halted || next_job.is_some() || self.held.is_some() || self.source.is_busy() {
                        shift.hold(Timestamp::now());
                    }
                    match shift.turn(Timestamp::now()) {
                        Some(Turn::Rests { until }) => self.part.rests(until),
                        Some(Turn::Works) => self.part.works(),
                        None => {}
                    }
                }
                looked = look_up(&outlets, self.held.as_ref(), &self.lookups, look_at), if self.held.is_some() && next_job.is_none() && !halted => match looked {
                    Ok(()) => {
                        look_backoff.reset();
                        look_at = None;
                        let Some(polled) = self.held.take() else { continue };
                        halted = self.took(polled, &stop).await;
                    }
                    Err(error) => {
                        self.part.pause(error.class(), &error);
                        self.reconnects.inc();
                        look_at = Some(Instant::now() + look_backoff.next_wait());
                    }
                },
                polled = poll_or_tend(&mut self.source, (next_job.is_none() && self.held.is_none() && !shift.is_resting()).then_some(POLL)), if retry_at.is_none() && !halted => {
                    self.log.note(&self.source);
                    // What runs in the background is a backlog by itself.
                    self.is_behind = S::IN_BACKGROUND || self.source.lag_bytes() > Some(BEHIND_BYTES);
                    self.offers.set_behind(self.is_behind);
                    let Some(polled) = polled else { continue };
                    match polled {
                        Ok(polled) => {
                            backoff.reset();
                            shift.came(newest(&polled.changes), Timestamp::now());
                            if outlets.have_displays() {
                                self.held = Some(polled);
                            } else {
                                halted = self.took(polled, &stop).await;
                            }
                        }
                        Err(error) => {
                            // A stand-by is not kept waiting by how long it has waited.
                            let wait = if matches!(error, SourceError::Taken { .. }) {
                                self.part.stand_by(&error);
                                STAND_BY_INTERVAL
                            } else {
                                self.part.pause(error.class(), &error);
                                self.reconnects.inc();
                                backoff.next_wait()
                            };
                            shift.hold(Timestamp::now());
                            retry_at = Some(Instant::now() + wait);
                        }
                    }
                }
            }
        }
        self.drain(jobs, next_job).await;
        Ok(())
    }

    /// Decides about a poll; whether that is the end of the work.
    async fn took(&mut self, polled: Polled<S::Position>, stop: &Stop) -> bool {
        match self.take(polled, stop) {
            Ok(()) => {
                self.part.works();
                // What is withheld, and what an idle source reports, moves the position without a confirm.
                self.advance().await;
                if self.checkpoint.outstanding() == 0 {
                    self.note_progress();
                }
                false
            }
            Err(unfit) => {
                // Only another configuration helps; what was read is read again after the restart.
                self.part.pause(Class::Systemic, &unfit);
                true
            }
        }
    }

    /// Decides what leaves of a poll's changes and adds it to batches. Scripts take this thread out of those that do I/O.
    fn take(&mut self, polled: Polled<S::Position>, stop: &Stop) -> Result<(), UnfitShare> {
        if self.offers.run_scripts() {
            tokio::task::block_in_place(|| self.decide(polled, || stop.is_set()))
        } else {
            self.decide(polled, || false)
        }
    }

    /// What is decided when it is to end early is sent again after the start: its poll was not decided as a whole.
    fn decide(&mut self, polled: Polled<S::Position>, ends_early: impl Fn() -> bool) -> Result<(), UnfitShare> {
        self.progress.waits();
        // Held open by one until all changes are decided, so that the position cannot move past them before.
        let poll = self.checkpoint.begin(polled.position, 1);
        for change in &polled.changes {
            // With scripts that run over this may take longer than a shutdown.
            if ends_early() {
                return Ok(());
            }
            let records = self.offers.offer(change, poll)?;
            self.checkpoint.add(poll, records);
        }
        self.checkpoint.done(poll, 1);
        Ok(())
    }

    /// Counts confirmed records and stores the position they allow.
    async fn confirm(&mut self, tickets: Vec<Ticket>) {
        self.under_way = self.under_way.saturating_sub(1);
        for Ticket { poll, records } in tickets {
            self.checkpoint.done(poll, u64::from(records));
        }
        self.advance().await;
        self.note_progress();
    }

    /// Confirms are progress in the middle of a long transaction, where no position is stored; but where one cannot be
    /// stored, they are not.
    fn note_progress(&self) {
        if self.unstored.is_none() {
            self.progress.made(self.checkpoint.outstanding() > 0);
        }
    }

    /// Stores the newest position that is safe, if there is a newer one.
    async fn advance(&mut self) {
        if let Some(position) = self.checkpoint.advance() {
            self.unstored = Some(position);
            self.store().await;
        }
    }

    async fn store(&mut self) {
        let Some(position) = &self.unstored else { return };
        match self.source.commit(position).await {
            Ok(()) => {
                self.unstored = None;
                self.note_progress();
            }
            // Tried again with the next confirm or retry; until then the source only repeats itself after a restart.
            Err(error) => self.part.pause(error.class(), &error),
        }
    }

    /// Sends what was read, waits for its confirms and stores the position.
    async fn drain(mut self, jobs: mpsc::Sender<Job>, mut next_job: Option<Job>) {
        self.offers.close_all();
        while let Some(job) = next_job.take().or_else(|| self.offers.next_job()) {
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

/// Looks up what a poll needs, not before a time. Cancel-safe: what was found is kept.
async fn look_up<P>(
    outlets: &Outlets,
    held: Option<&Polled<P>>,
    lookups: &impl Lookups,
    at: Option<Instant>,
) -> Result<(), SourceError> {
    sleep_until(at).await;
    match held {
        Some(polled) => outlets.look_up(&polled.changes, lookups).await,
        None => Ok(()),
    }
}

/// When the newest of these changes was made. Rows of a copy were not: they are as old as their reading.
fn newest(changes: &[Change]) -> Option<Timestamp> {
    changes.iter().filter(|change| change.action != Action::Bulk).map(|change| change.at).max()
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

#[cfg(test)]
mod tests;
