//! What becomes of one change: every share of its table decides, and what leaves is written into batches.
//!
//! Pure but for the clock; knows neither the source nor the broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use syncline_shared::record::{key_id, partition_of, write_line};

use crate::batch::{Batch, BatchConfig, Batcher, Lane, Ticket};
use crate::outlet::Outlets;
use crate::publish::Job;
use crate::share::{Decision, Shared, Way};
use crate::source::Change;

/// The shares of a source and their open batches.
pub(crate) struct Offers {
    outlets: Arc<Outlets>,
    batcher: Batcher,
    record_bytes_max: usize,
    /// The line being written; kept to reuse its memory.
    line: Vec<u8>,
    /// Records too large to send, on their way to the dead letters.
    oversize: VecDeque<Job>,
}

/// A share that names a column its table does not have.
#[derive(Debug, thiserror::Error)]
#[error("share {share} names column {column}, which table {table} does not have; mend the share and start again")]
pub(crate) struct UnfitShare {
    share: String,
    table: String,
    column: String,
}

impl Offers {
    pub(crate) fn new(outlets: Outlets, batch: BatchConfig, record_bytes_max: usize) -> Self {
        let (batcher, oversize) = (Batcher::new(batch), VecDeque::new());
        Self { outlets: Arc::new(outlets), batcher, record_bytes_max, line: Vec::new(), oversize }
    }

    /// Asks every share of the change's table; how many records leave. `poll` is the poll the change came with.
    ///
    /// # Errors
    /// [`UnfitShare`]: systemic, only another configuration helps.
    pub(crate) fn offer(&mut self, change: &Change, poll: u64) -> Result<u64, UnfitShare> {
        let outlets = Arc::clone(&self.outlets);
        let mut records = 0;
        for (place, outlet) in outlets.of_table(&change.table) {
            if !outlet.share.concerns(change) {
                continue;
            }
            outlet.metrics.changes(change.action).inc();
            let messages = match outlet.share.decide(change) {
                Decision::Share(messages) => messages,
                Decision::Withhold(reason) => {
                    outlet.metrics.withheld(reason).inc();
                    continue;
                }
                Decision::Unfit { column } => {
                    let (share, column) = (outlet.share.name().to_string(), column.to_owned());
                    return Err(UnfitShare { share, table: change.table.to_string(), column });
                }
            };
            outlet.metrics.newest.set(change.at.as_duration().as_secs_f64());
            for message in messages {
                outlet.metrics.shared(message.action).inc();
                self.add(place, &message, change, poll);
                records += 1;
            }
        }
        Ok(records)
    }

    /// Writes a message of an outlet's share into the batch that keeps its order.
    fn add(&mut self, outlet: usize, message: &Shared<'_>, change: &Change, poll: u64) {
        let &Shared { action, table, way: Way { route, .. }, version, key, ref data, partial } = message;
        let Some((queue, partitions)) = self.outlets.queue(outlet, route) else {
            unreachable!("every route of a share has its destination")
        };
        let source = self.outlets.source();
        let (partition, id) = (partition_of(source, table, key, partitions), key_id(source, table, key));
        let origin = self.outlets.origin(&change.origin);
        let lane = Lane { share: outlet, route, queue, table: Arc::clone(table), partition, action, partial, origin };
        self.line.clear();
        write_line(&mut self.line, key, version, change.at, data.as_deref(), partial);
        if self.line.len() > self.record_bytes_max {
            let job = self.oversize_job(&lane, id, poll, message, change.at);
            self.oversize.push_back(job);
        } else {
            self.batcher.add(&lane, id, poll, &self.line, Instant::now());
        }
    }

    /// Makes a dead letter of a record that is too large: its key and version, sealed, and what was wrong with it.
    fn oversize_job(&self, lane: &Lane, id: u64, poll: u64, message: &Shared<'_>, at: Timestamp) -> Job {
        let (bytes, bytes_max) = (self.line.len(), self.record_bytes_max);
        let error = format!("record of table {}, key id {id:016x}: {bytes} bytes, at most {bytes_max}", lane.table);
        tracing::error!(error, "a record is set aside: it is too large to send");
        let mut ndjson = Vec::new();
        write_line(&mut ndjson, message.key, message.version, at, None, true);
        let tickets = vec![Ticket { poll, records: 1 }];
        let job = self.job(Batch { lane: lane.clone(), records: 1, ndjson, tickets });
        Job { oversize: Some(error), ..job }
    }

    /// The next batch to publish, in order.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        self.oversize.pop_front().or_else(|| self.batcher.next_closed().map(|batch| self.job(batch)))
    }

    /// Makes a closed batch a job for the publisher.
    fn job(&self, batch: Batch) -> Job {
        let Batch { lane, records, ndjson, tickets } = batch;
        let Some((outlet, destination, queue)) = self.outlets.at(lane.share, lane.route) else {
            unreachable!("lanes are made from outlets");
        };
        Job {
            queue,
            seal: destination.seal.clone(),
            route: self.outlets.route(outlet, &lane, records),
            partial: lane.partial,
            ndjson,
            tickets,
            metrics: outlet.metrics.clone(),
            oversize: None,
        }
    }

    /// When the next batch is due; `None` when none is open.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.batcher.next_deadline()
    }

    /// Closes every batch whose linger is over.
    pub(crate) fn close_due(&mut self, now: Instant) {
        self.batcher.close_due(now);
    }

    /// Closes every batch: nothing more will come.
    pub(crate) fn close_all(&mut self) {
        self.batcher.close_all();
    }
}
