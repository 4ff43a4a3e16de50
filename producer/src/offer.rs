//! What becomes of one change: every share of its table decides, and what leaves is written into batches.
//!
//! Pure but for the clock; knows neither the source nor the broker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use syncline_shared::journal::record_id;
use syncline_shared::queue::Reason;
use syncline_shared::record::{Action, Version, key_id, partition_of, write_line};

use crate::batch::{Batch, BatchConfig, Batcher, Lane, Ticket};
use crate::journal::{Entry, Fate, Left, Notes};
use crate::outlet::{Outlet, Outlets};
use crate::publish::{Job, SetAside};
use crate::share::{Decision, Shared, Way};
use crate::source::Change;

/// The shares of a source and their open batches.
pub(crate) struct Offers {
    outlets: Arc<Outlets>,
    batcher: Batcher,
    record_bytes_max: usize,
    /// The line being written; kept to reuse its memory.
    line: Vec<u8>,
    /// Records that cannot be sent, on their way to the dead letters.
    set_aside: VecDeque<Job>,
}

/// A share that names a column its table does not have.
#[derive(Debug, thiserror::Error)]
#[error(
    "share {share} names column {column}, which table {table} does not have, has in its key or has beside; mend the share and start again"
)]
pub(crate) struct UnfitShare {
    share: String,
    table: String,
    column: String,
}

impl Offers {
    pub(crate) fn new(outlets: Outlets, batch: BatchConfig, record_bytes_max: usize) -> Self {
        let (batcher, set_aside) = (Batcher::new(batch), VecDeque::new());
        Self { outlets: Arc::new(outlets), batcher, record_bytes_max, line: Vec::new(), set_aside }
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
                    self.note(outlet, change, || Fate::Withheld(reason));
                    continue;
                }
                Decision::SetAside { table, way, error, left } => {
                    let lane = self.lane(place, way, table, change, (change.action, false));
                    let error = format!("before_share of share {}, {error}", outlet.share.name());
                    self.set_aside(&lane, change, change.version, poll, Reason::Script, &error);
                    records += 1;
                    left
                }
                Decision::Unfit { column } => {
                    let (share, column) = (outlet.share.name().to_string(), column.to_owned());
                    return Err(UnfitShare { share, table: change.table.to_string(), column });
                }
            };
            if change.action != Action::Bulk {
                outlet.metrics.newest.set(change.at.as_duration().as_secs_f64());
            }
            for (nth, message) in messages.iter().enumerate() {
                outlet.metrics.shared(message.action).inc();
                let (queue, id) = self.add(place, message, change, poll);
                let follows =
                    |later: &Shared<'_>| outlets.queue(place, later.way.route).is_some_and(|(same, _)| same == queue);
                if message.action == Action::Delete && messages.iter().skip(nth + 1).any(follows) {
                    // Under one class the record goes before it comes under another.
                    self.batcher.close_holder(queue, id);
                }
                records += 1;
            }
        }
        Ok(records)
    }

    /// Writes a message of an outlet's share into the batch that keeps its order; its queue and the id of its key.
    fn add(&mut self, outlet: usize, message: &Shared<'_>, change: &Change, poll: u64) -> (usize, u64) {
        let &Shared { action, table, way, version, key, ref data, partial } = message;
        let lane = self.lane(outlet, way, table, change, (action, partial));
        let id = key_id(self.outlets.source(), table, key);
        self.line.clear();
        write_line(&mut self.line, key, version, change.at, data.as_deref(), partial);
        if self.line.len() > self.record_bytes_max {
            let error = format!("{} bytes, at most {}", self.line.len(), self.record_bytes_max);
            self.set_aside(&lane, change, version, poll, Reason::Oversize, &error);
        } else {
            let note = self.note_left(&lane, change, version, None);
            self.batcher.add(&lane, id, poll, &self.line, note, Instant::now());
        }
        (lane.queue, id)
    }

    /// Where a message of an outlet's share belongs: a record keeps to one partition by its key at the source.
    fn lane(
        &self,
        outlet: usize,
        way: Way,
        table: &Arc<str>,
        change: &Change,
        (action, partial): (Action, bool),
    ) -> Lane {
        let Way { route, .. } = way;
        let Some((queue, partitions)) = self.outlets.queue(outlet, route) else {
            unreachable!("every route of a share has its destination")
        };
        let partition = partition_of(self.outlets.source(), table, &change.key, partitions);
        let origin = self.outlets.origin(&change.origin);
        Lane { share: outlet, route, queue, table: Arc::clone(table), partition, action, partial, origin }
    }

    /// Makes a dead letter of a record that cannot be sent: its key and version, sealed, and what is wrong with it.
    fn set_aside(&mut self, lane: &Lane, change: &Change, version: Version, poll: u64, reason: Reason, problem: &str) {
        let id = key_id(self.outlets.source(), &lane.table, &change.key);
        let error = format!("record of table {}, key id {id:016x}: {problem}", lane.table);
        if reason == Reason::Script {
            tracing::error!(error, "a record is set aside: the script of its share failed");
        } else {
            tracing::error!(error, "a record is set aside: it is too large to send");
        }
        let mut ndjson = Vec::new();
        write_line(&mut ndjson, &change.key, version, change.at, None, true);
        let tickets = vec![Ticket { poll, records: 1 }];
        let notes = self.note_left(lane, change, version, Some(reason)).into_iter().collect();
        let job = self.job(Batch { lane: lane.clone(), records: 1, ndjson, tickets, notes });
        self.set_aside.push_back(Job { set_aside: Some(SetAside { reason, error }), ..job });
    }

    /// Notes what a share made of a change; its place in the journal, if that is on.
    fn note(&self, outlet: &Outlet, change: &Change, fate: impl FnOnce() -> Fate) -> Option<u64> {
        let journal = self.outlets.journal()?;
        let entry = Entry::new(self.outlets.source(), outlet.share.name(), change, fate());
        Some(journal.note(record_id(&change.table, &change.key), entry))
    }

    /// Notes that a record leaves, or for which reason it is set aside instead.
    fn note_left(&self, lane: &Lane, change: &Change, version: Version, set_aside: Option<Reason>) -> Option<u64> {
        self.outlets.journal()?;
        let (outlet, _, queue) = self.outlets.at(lane.share, lane.route)?;
        let left = || Left {
            action: lane.action,
            table: Arc::clone(&lane.table),
            partial: lane.partial,
            version,
            queue,
            partition: lane.partition,
            set_aside,
            message: None,
            published_at: None,
            confirmed_at: None,
        };
        self.note(outlet, change, || Fate::Left(left()))
    }

    /// The shares.
    pub(crate) fn outlets(&self) -> Arc<Outlets> {
        Arc::clone(&self.outlets)
    }

    /// Whether deciding may take long: a share has a script.
    pub(crate) fn run_scripts(&self) -> bool {
        self.outlets.have_scripts()
    }

    /// The next batch to publish, in order.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        self.set_aside.pop_front().or_else(|| self.batcher.next_closed().map(|batch| self.job(batch)))
    }

    /// Makes a closed batch a job for the publisher.
    fn job(&self, batch: Batch) -> Job {
        let Batch { lane, records, ndjson, tickets, notes } = batch;
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
            notes: Notes::new(self.outlets.journal(), notes),
            traces: self.outlets.traces().cloned(),
            set_aside: None,
        }
    }

    /// Says whether the source is far ahead.
    pub(crate) fn set_behind(&mut self, is_behind: bool) {
        self.batcher.set_behind(is_behind);
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

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use prometheus::Registry;
    use serde_json::json;
    use syncline_shared::queue::SharedQueue;
    use syncline_shared::record::{Columns, Row, Value, Version};
    use syncline_shared::seal::Seal;

    use super::*;
    use crate::metrics::Metrics;
    use crate::outlet::{Destination, Outlet};
    use crate::share::{Share, ShareConfig};
    use crate::source::Session;

    fn outlets() -> Outlets {
        let tables = json!({
            "task": {"class_column": "class"}, "incident": {"extends": "task"}, "problem": {"extends": "task"},
        });
        let share = json!({"source": "desk", "table": "task", "queue": "crm", "cipher": "None"});
        let share: ShareConfig = serde_json::from_value(share).expect("a share");
        let share = ShareConfig { tables: serde_json::from_value(tables).expect("tables"), ..share };
        let queue = SharedQueue { name: "crm".to_owned(), partitions: 1 };
        let outlet = Outlet {
            share: Share::compile("tasks", &share).expect("a share"),
            destinations: vec![Destination { queue, seal: Seal::Plain }],
            copies: false,
            on_truncate: share.on_truncate,
            metrics: Metrics::new(&Registry::new()).expect("a fresh registry").share("tasks"),
        };
        Outlets::new("desk", vec![outlet])
    }

    fn task(id: &str, class: &str) -> Row {
        let mut row = Row::builder(Columns::new(["id", "class"]));
        row.push(Value::Number(id));
        row.push(Value::Text(class));
        row.finish()
    }

    fn change(action: Action, version: u64, before: Option<Row>, after: Row) -> Change {
        Change {
            table: "task".into(),
            action,
            key: after.select(Columns::new(["id"]), &[0]),
            before,
            after: Some(after),
            version: Version::new(1, version, 2),
            at: Timestamp::UNIX_EPOCH,
            session: Session { interactive: Some(true), user: None },
            origin: Arc::default(),
            only_share: None,
        }
    }

    #[test]
    fn a_record_goes_from_its_old_class_before_it_comes_to_the_new_one() {
        let mut offers = Offers::new(outlets(), BatchConfig::default(), 1024);
        // The batches of both actions are open when the class changes, that of the new class first.
        let (problem, incident) = (task("1", "problem"), task("1", "incident"));
        offers.offer(&change(Action::Bulk, 1, None, task("2", "incident")), 1).expect("it fits");
        assert_eq!(offers.offer(&change(Action::Update, 2, Some(problem), incident), 1).expect("it fits"), 2);
        offers.close_all();
        let jobs = std::iter::from_fn(|| offers.next_job());
        let told: Vec<_> =
            jobs.map(|job| format!("{}.{} {}", job.route.table, job.route.action, job.route.records)).collect();
        assert_eq!(told, ["problem.delete 1", "incident.bulk 2"]);
    }
}
