//! Looks after the bulk shares of one source: takes up what was asked for, starts and stops it, asks for what a schedule
//! says, and stores how far each is. A fault of the source is waited for.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use jiff::Timestamp;
use syncline_shared::health::Health;
use syncline_shared::tasks::Stop;
use tokio::sync::{mpsc, oneshot, watch};
use uuid::Uuid;

use super::config::{BulkConfig, Schedule};
use super::feed::{News, Runs, SharedBoard};
use super::ledger::{self, Fired, Ledger};
use super::order::{Entry, Member, Order, Phase, Run};
use super::plan::plan;
use super::run::{Halt, Worker};
use super::stock::Stock;
use crate::source::SourceError;

/// How soon something that was asked for is taken up, and how often it is stored how far it is: a look costs one query,
/// a store one write, and a crash repeats what was sent since the last one.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// What a bulk share has to know of a share.
#[derive(Clone, Debug)]
pub struct BulkShare {
    /// Its tables, each with the columns it names.
    pub tables: Vec<(Arc<str>, Vec<String>)>,
    /// The column that tells when a record was changed.
    pub changed_column: Option<String>,
}

/// What is configured of a source's bulk shares.
#[derive(Clone, Debug, Default)]
pub struct BulkShares {
    /// The source's name.
    pub source: String,
    /// How they are executed.
    pub config: BulkConfig,
    /// The source's shares.
    pub shares: BTreeMap<String, BulkShare>,
    /// The schedules of its shares and groups.
    pub schedules: BTreeMap<String, Schedule>,
}

pub(super) struct Keeper<K: Stock> {
    pub(super) stock: K,
    pub(super) bulk: BulkShares,
    pub(super) news: mpsc::Sender<News>,
    pub(super) board: SharedBoard,
    pub(super) wanted: watch::Sender<bool>,
    pub(super) health: Health,
    /// Names this process in runs.
    runner: Uuid,
    /// Bulk shares that run here, each with the way to stop it.
    active: HashMap<Uuid, Option<oneshot::Sender<Halt>>>,
    /// Runs as they were stored last.
    stored: Runs,
}

/// What a look found to be done.
#[derive(Default)]
struct Found {
    start: Vec<(Uuid, Order, Run)>,
    stop: Vec<(Uuid, Halt)>,
    /// Runs whose end is stored.
    settled: Vec<Uuid>,
}

impl<K: Stock> Keeper<K> {
    pub(super) fn new(
        stock: K,
        bulk: BulkShares,
        news: mpsc::Sender<News>,
        board: SharedBoard,
        wanted: watch::Sender<bool>,
        health: Health,
    ) -> Self {
        let (active, stored) = (HashMap::new(), Runs::new());
        Self { stock, bulk, news, board, wanted, health, runner: Uuid::now_v7(), active, stored }
    }

    pub(super) async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let mut running: FuturesUnordered<BoxFuture<'static, Uuid>> = FuturesUnordered::new();
        loop {
            let found = {
                let mut look = std::pin::pin!(self.look());
                loop {
                    tokio::select! {
                        biased;
                        () = stop.wait() => return Ok(()),
                        found = &mut look => break found,
                        Some(_) = running.next() => {}
                    }
                }
            };
            for id in found.settled {
                self.active.remove(&id);
                self.stored.remove(&id);
                self.board.with(|board| board.settled.push(id));
            }
            for (id, halt) in found.stop {
                if let Some(stop) = self.active.get_mut(&id).and_then(Option::take) {
                    // One that has ended meanwhile needs no stopping.
                    let _ = stop.send(halt);
                }
            }
            for (id, order, run) in found.start {
                running.extend(self.start(id, order, run));
            }
            let mut pause = std::pin::pin!(tokio::time::sleep(LOOK_INTERVAL));
            loop {
                tokio::select! {
                    biased;
                    () = stop.wait() => return Ok(()),
                    () = &mut pause => break,
                    Some(_) = running.next() => {}
                }
            }
        }
    }

    /// Begins a bulk share, or goes on with it.
    fn start(&mut self, id: Uuid, order: Order, run: Run) -> Option<BoxFuture<'static, Uuid>> {
        let BulkShare { tables, changed_column } = self.bulk.shares.get(&order.share)?.clone();
        let (source, share) = (&self.bulk.source, &order.share);
        let again = run.as_of.is_some();
        tracing::info!(source, share, bulk_id = %id, again, rows = run.rows, "a bulk share begins");
        self.wanted.send_replace(true);
        let (halt, halted) = oneshot::channel();
        self.active.insert(id, Some(halt));
        let worker = Worker {
            stock: self.stock.clone(),
            id,
            rows_per_second: order.rows_per_second.or(self.bulk.config.rows_per_second),
            connections: self.bulk.config.connections,
            part: self.health.part(format!("bulk shares of source {source}")),
            news: self.news.clone(),
            order,
            run,
            tables,
            changed_column,
        };
        Some(Box::pin(worker.run(halted)))
    }

    /// Stores what is safe, and looks what is asked for. What cannot be done now is done at the next look.
    async fn look(&mut self) -> Found {
        let mut found = Found::default();
        if let Err(error) = self.store(&mut found).await {
            tracing::debug!(source = self.bulk.source, %error, "how far bulk shares are could not be stored yet");
            return found;
        }
        if self.stock.is_read_here()
            && let Err(error) = self.ask(&mut found).await
        {
            tracing::debug!(source = self.bulk.source, %error, "the source could not be asked for bulk shares");
        }
        found
    }

    async fn store(&mut self, found: &mut Found) -> Result<(), SourceError> {
        let Some(place) = self.board.with(|board| board.safe.clone()) else { return Ok(()) };
        for (id, run) in place.runs() {
            if !self.active.contains_key(id) || self.stored.get(id) == Some(run) {
                continue;
            }
            if !ledger::put_run(&self.stock, *id, run).await? {
                found.stop.push((*id, Halt::Lost));
                found.settled.push(*id);
                continue;
            }
            self.stored.insert(*id, run.clone());
            if run.phase.is_end() {
                ledger::forget_keys(&self.stock, *id).await?;
                let (source, rows, error) = (&self.bulk.source, run.rows, &run.reason);
                tracing::info!(source, bulk_id = %id, phase = run.phase.as_str(), rows, error, "a bulk share ended");
                found.settled.push(*id);
            }
        }
        Ok(())
    }

    async fn ask(&self, found: &mut Found) -> Result<(), SourceError> {
        let mut ledger = Ledger::read(&self.stock).await?;
        self.fire(&mut ledger).await?;
        let active: BTreeSet<Uuid> = self.active.keys().copied().collect();
        let planned = plan(&ledger.entries, &active, |share| self.bulk.shares.contains_key(share));
        found.stop.extend(planned.stop.into_iter().map(|id| (id, Halt::Cancelled)));
        let now = Timestamp::now();
        for (id, end) in planned.end {
            let mut run = self.taken_up(&ledger, id, now);
            run.end(&end, now);
            ledger::claim(&self.stock, id, &run).await?;
            ledger::forget_keys(&self.stock, id).await?;
            tracing::info!(source = self.bulk.source, bulk_id = %id, phase = run.phase.as_str(), error = run.reason, "a bulk share ended");
        }
        for id in planned.start {
            let Some(Entry { order, .. }) = ledger.entries.get(&id) else { continue };
            let run = self.taken_up(&ledger, id, now);
            ledger::claim(&self.stock, id, &run).await?;
            found.start.push((id, order.clone(), run));
        }
        ledger::forget(&self.stock, &ledger.outdated()).await
    }

    /// The run to begin with: a new one, or what another producer left.
    fn taken_up(&self, ledger: &Ledger, id: Uuid, now: Timestamp) -> Run {
        let left = ledger.entries.get(&id).and_then(|entry| entry.run.clone());
        Run { runner: self.runner, ..left.unwrap_or_else(|| Run::begin(self.runner, now)) }
    }

    /// Asks for what schedules say is due.
    async fn fire(&self, ledger: &mut Ledger) -> Result<(), SourceError> {
        let now = Timestamp::now();
        for (name, schedule) in &self.bulk.schedules {
            let Some(fired) = ledger.schedules.get(name) else {
                ledger::put_fired(&self.stock, name, &Fired { due: now }).await?;
                continue;
            };
            let Some(due) = schedule.times.due(fired.due, now) else { continue };
            let missed = due.missed + u64::from(due.late);
            if missed > 0 {
                tracing::warn!(schedule = name, missed, "times of a schedule have passed while nothing could be sent");
            }
            let mut left = ledger.entries.values().filter(|entry| !entry.is_over());
            if due.late {
            } else if left.any(|entry| entry.order.schedule.as_deref() == Some(name)) {
                tracing::warn!(schedule = name, "a time of a schedule is left out: the one before is not done yet");
            } else {
                for (id, order) in orders(name, schedule, ledger, now) {
                    ledger::put_order(&self.stock, id, &order).await?;
                    ledger.entries.insert(id, Entry { order, run: None });
                }
            }
            ledger::put_fired(&self.stock, name, &Fired { due: due.last }).await?;
        }
        Ok(())
    }
}

/// What a schedule asks for.
fn orders(name: &str, schedule: &Schedule, ledger: &Ledger, now: Timestamp) -> Vec<(Uuid, Order)> {
    let of = Uuid::now_v7();
    // From when on a sync-up has to look: the newest finished one before it, less the overlap.
    let changed_since = |share: &String, overlap| {
        let ours = |order: &Order| order.schedule.as_deref() == Some(name) && order.share == *share;
        let runs = ledger.entries.values().filter(|entry| ours(&entry.order)).filter_map(|entry| entry.run.as_ref());
        let finished = runs.filter(|run| run.phase == Phase::Finished);
        finished.filter_map(|run| run.as_of).max().and_then(|as_of| as_of.checked_sub(overlap).ok())
    };
    let order = |share: &String| Order {
        share: share.clone(),
        query: None,
        changed_since: schedule.changed.and_then(|overlap| changed_since(share, overlap)),
        rows_per_second: None,
        records: None,
        member: schedule.group.clone().map(|(group, parallel)| Member { group, of, parallel }),
        schedule: Some(name.to_owned()),
        planned_at: now,
        cancel: false,
    };
    schedule.shares.iter().map(|share| (Uuid::now_v7(), order(share))).collect()
}
