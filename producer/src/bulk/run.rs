//! One bulk share at work: open the table, read, hand on, until all parts are done or it is told to stop.

use std::sync::Arc;

use syncline_shared::health::Part;
use syncline_shared::retry::Backoff;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

use super::feed::{News, Step};
use super::ledger;
use super::order::{End, Order, Range, Run};
use super::stock::{Bite, Rows as _, Stock, Want};
use super::throttle::Throttle;
use crate::share::{Decision, Share};
use crate::source::{Change, SourceError};

/// Rows handed on at once: few, so that a change of the stream never waits for long until it is its turn.
const ROWS_MAX: usize = 100;

/// How a bulk share that runs is stopped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Halt {
    /// Somebody asked for that.
    Cancelled,
    /// Another producer has taken it up.
    Lost,
}

/// What one bulk share needs.
pub(super) struct Worker<K: Stock> {
    pub(super) stock: K,
    pub(super) id: Uuid,
    pub(super) order: Order,
    pub(super) run: Run,
    /// The share's tables, each with the columns it names.
    pub(super) tables: Vec<(Arc<str>, Vec<String>)>,
    pub(super) changed_column: Option<String>,
    pub(super) connections: usize,
    pub(super) rows_per_second: Option<u32>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) part: Part,
}

impl<K: Stock> Worker<K> {
    /// Runs to the end; its id.
    pub(super) async fn run(mut self, mut halt: oneshot::Receiver<Halt>) -> Uuid {
        let (id, news) = (self.id, self.news.clone());
        let tell = async |step| {
            // Without a receiver the shutdown has begun: it goes on after the next start.
            let _ = news.send(News { id, changes: Vec::new(), step }).await;
        };
        tell(Step::Began(Box::new(self.run.clone()))).await;
        let end = tokio::select! {
            biased;
            halted = &mut halt => match halted {
                Ok(Halt::Cancelled) => Some(End::Cancelled("asked to stop".to_owned())),
                Ok(Halt::Lost) | Err(_) => None,
            },
            end = self.work() => Some(end),
        };
        if let Some(end) = end {
            tell(Step::Ended(end)).await;
        }
        id
    }

    /// Reads until everything is handed on, or cannot be.
    async fn work(&mut self) -> End {
        let query = match self.order.query.as_deref().map(query).transpose() {
            Ok(query) => query,
            Err(problem) => return End::Failed(problem),
        };
        let mut backoff = Backoff::default();
        for (table, columns) in self.tables.clone() {
            loop {
                match self.read(&table, &columns, query.as_ref(), &mut backoff).await {
                    Ok(None) => break,
                    Ok(Some(end)) => return end,
                    Err(unfit @ SourceError::Unfit { .. }) => return End::failed(&unfit),
                    Err(error) => {
                        self.part.pause(error.class(), &error);
                        backoff.wait().await;
                    }
                }
            }
        }
        End::Finished
    }

    /// Reads a table's rows from one snapshot.
    async fn read(
        &mut self,
        table: &Arc<str>,
        columns: &[String],
        query: Option<&Share>,
        backoff: &mut Backoff,
    ) -> Result<Option<End>, SourceError> {
        let changed = match (&self.changed_column, self.order.changed_since) {
            (_, None) => None,
            (Some(column), Some(since)) => Some((column.clone(), since)),
            (None, Some(_)) => {
                return Ok(Some(End::Failed(format!("the share {} has no changed_column", self.order.share))));
            }
        };
        // The parts of one table stand together, for they are cut when it is opened.
        let of_table = |range: &&Range| range.table == **table;
        let base = self.run.ranges.iter().position(|range| range.table == **table).unwrap_or(self.run.ranges.len());
        let known: Vec<_> = self.run.ranges.iter().filter(of_table).cloned().collect();
        if !known.is_empty() && known.iter().all(|range| range.done) {
            return Ok(None);
        }
        let keys = match self.order.records {
            None => None,
            Some(_) => match ledger::keys(&self.stock, self.id).await? {
                None => return Ok(Some(End::Failed("which records it is about is not known any more".to_owned()))),
                Some(mut keys) => match keys.remove(&**table) {
                    None => return Ok(None),
                    keys => keys,
                },
            },
        };
        let asked = query.into_iter().flat_map(|query| query.columns_used(ANY)).map(str::to_owned);
        let mut throttle = Throttle::new(self.rows_per_second);
        let want = Want {
            table: Arc::clone(table),
            share: self.order.share.as_str().into(),
            columns: columns.iter().cloned().chain(asked).collect(),
            changed,
            ranges: known.clone(),
            keys,
            connections: self.connections,
            rows_max: throttle.rows_at_once(ROWS_MAX),
        };
        let mut opened = self.stock.open(want).await?;
        if known.is_empty() {
            let ranges = opened.ranges.into_iter().map(|range| Range { table: table.to_string(), ..range });
            self.run.ranges.extend(ranges);
            *self.run.rows_total.get_or_insert(0) += opened.total;
        }
        let (ranges, as_of) = (self.run.ranges.clone(), opened.as_of);
        self.tell(Vec::new(), Step::Opened { ranges, total: self.run.rows_total, as_of }).await;
        let mut since = Instant::now();
        while let Some(Bite { range, mut changes, after, done }) = opened.rows.next().await? {
            let (range, rows) = (base + range, changes.len());
            throttle.pass(rows).await;
            if let Some(query) = query
                && let Err(column) = keep(query, &mut changes)
            {
                return Ok(Some(End::Failed(format!("the table {table} has no column {column}"))));
            }
            if let Some(part) = self.run.ranges.get_mut(range) {
                part.after = after.clone().or_else(|| part.after.take());
                part.done = done;
            }
            let worked_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            since = Instant::now();
            let rows = u64::try_from(rows).unwrap_or(u64::MAX);
            self.tell(changes, Step::Read { range, rows, after, done, worked_ms }).await;
            self.part.works();
            backoff.reset();
        }
        Ok(None)
    }

    async fn tell(&self, changes: Vec<Change>, step: Step) {
        // Waits while the broker is slower than the source: that bounds what is held.
        let _ = self.news.send(News { id: self.id, changes, step }).await;
    }
}

/// The table of a share that is a condition alone.
const ANY: &str = "-";

/// One more condition, as a share of everything that fits it.
pub(super) fn query(text: &str) -> Result<Share, String> {
    let config = serde_json::json!({
        "source": "-", "table": "-", "queue": "-", "cipher": "None", "interactive_only": false, "filter": text,
    });
    let config = serde_json::from_value(config).map_err(|error| error.to_string())?;
    Share::compile("-", &config)
        .map_err(|problems| problems.into_iter().map(|(_, problem)| problem).collect::<Vec<_>>().join("; "))
}

/// Keeps the rows that fit; the name of a column they lack otherwise.
fn keep(query: &Share, changes: &mut Vec<Change>) -> Result<(), String> {
    let mut missing = None;
    changes.retain(|change| match query.decide(change) {
        // A condition has no script to fail; if it had, its record would be the share's to set aside.
        Decision::Share(_) | Decision::SetAside { .. } => true,
        Decision::Withhold(_) => false,
        Decision::Unfit { column } => {
            missing = Some(column.to_owned());
            false
        }
    });
    missing.map_or(Ok(()), Err)
}
