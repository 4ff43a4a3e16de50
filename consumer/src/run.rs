//! Records of several messages that are applied together, and the search for the one the target refuses.

use std::ops::Range;
use std::sync::Arc;

use syncline_shared::queue::dead_letter::id_of_record;
use syncline_shared::record::{Action, Record};
use uuid::Uuid;

use crate::target::{ApplyError, Batch, Outcome, Parked, TableMap, Target};

/// How often a record is tried again that another one may cure. With the waits between
/// them that is about five seconds: long enough for a record of another partition that was under way, short enough for
/// a partition to wait.
const CURE_ROUNDS_MAX: u32 = 6;

/// A message's records within a run.
#[derive(Debug)]
struct Segment {
    records: Range<usize>,
    table: Arc<TableMap>,
    action: Action,
    message: Uuid,
}

/// Records to apply together, in the order they have to take effect.
#[derive(Debug, Default)]
pub(crate) struct Run {
    segments: Vec<Segment>,
    records: Vec<Record>,
}

/// What became of each record of a run, in order. A refused record has its error as [`Outcome::Rejected`].
pub(crate) type Outcomes = Vec<Outcome>;

impl Run {
    /// Appends a message's records; their range in [`Run::records`] and in the outcomes.
    pub(crate) fn push(
        &mut self,
        table: Arc<TableMap>,
        action: Action,
        message: Uuid,
        records: Vec<Record>,
    ) -> Range<usize> {
        let start = self.records.len();
        self.records.extend(records);
        let range = start..self.records.len();
        self.segments.push(Segment { records: range.clone(), table, action, message });
        range
    }

    /// The id of a record's dead letter: its message's, if it is alone in it.
    pub(crate) fn letter(&self, place: usize) -> Option<Uuid> {
        let segment = self.segments.iter().find(|segment| segment.records.contains(&place))?;
        let alone = segment.records.len() == 1;
        Some(if alone { segment.message } else { id_of_record(segment.message, place - segment.records.start) })
    }

    /// Has the target remember that these records are parked.
    async fn park<T: Target>(&self, places: &[usize], target: &mut T) -> Result<(), ApplyError> {
        let named = |place: &usize| {
            let segment = self.segments.iter().find(|segment| segment.records.contains(place))?;
            Some((&segment.table, self.records.get(*place)?, self.letter(*place)?.to_string()))
        };
        let named: Vec<_> = places.iter().filter_map(named).collect();
        let parked = named.iter().map(|(table, record, letter)| Parked { table, record, letter });
        target.park(&parked.collect::<Vec<_>>()).await
    }

    /// All records, in order.
    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    /// The batches of a range of records.
    fn batches(&self, range: &Range<usize>) -> Vec<Batch<'_>> {
        let cut = |segment: &Segment| {
            let start = segment.records.start.max(range.start);
            let end = segment.records.end.min(range.end);
            self.records.get(start..end).filter(|records| !records.is_empty()).map(|records| (start, records))
        };
        self.segments
            .iter()
            .filter_map(|segment| {
                let (_, records) = cut(segment)?;
                Some(Batch { table: &segment.table, action: segment.action, records })
            })
            .collect()
    }
}

/// Where the search in a run is. Kept between attempts, so that what was applied is not tried again after a pause.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Ranges to apply, the next one last.
    left: Vec<Range<usize>>,
    outcomes: Outcomes,
    /// Records that were not taken, and of which the target does not know that they are parked.
    unmarked: Vec<usize>,
    /// Records that were not taken and may be once others are, with those that wait behind them; in order.
    curable: Vec<usize>,
    rounds: u32,
    has_parts: bool,
}

impl Progress {
    /// Starts with the whole run.
    pub(crate) fn new(run: &Run) -> Self {
        let all = 0..run.records.len();
        Self {
            outcomes: vec![Outcome::Stale; all.len()],
            left: if all.is_empty() { Vec::new() } else { vec![all] },
            unmarked: Vec::new(),
            curable: Vec::new(),
            rounds: 0,
            has_parts: run.records.iter().any(|record| record.partial),
        }
    }

    /// Applies what is left, in order. A range the target refuses is split until the bad record is alone (promise P6).
    ///
    /// # Errors
    /// [`ApplyError`] of a fault that is not about one record; call again once it may have passed.
    pub(crate) async fn apply<T: Target>(&mut self, run: &Run, target: &mut T) -> Result<(), ApplyError> {
        loop {
            // Before what follows is applied, for a part of a record must not get past a change that was refused.
            if !self.unmarked.is_empty() && (self.has_parts || self.left.is_empty()) {
                run.park(&self.unmarked, target).await?;
                self.unmarked.clear();
            }
            let Some(range) = self.left.last().cloned() else { return Ok(()) };
            match target.apply(&run.batches(&range)).await {
                Ok(applied) => {
                    for (place, outcome) in range.zip(applied.outcomes) {
                        self.note(place, outcome, false);
                    }
                }
                Err(ApplyError::Record { problem, may_pass, .. }) if range.len() == 1 => {
                    self.note(range.start, Outcome::Rejected { error: problem }, may_pass);
                }
                Err(ApplyError::Record { .. }) => {
                    let middle = range.start + range.len() / 2;
                    self.left.pop();
                    self.left.extend([middle..range.end, range.start..middle]);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.left.pop();
        }
    }

    fn note(&mut self, place: usize, outcome: Outcome, may_pass: bool) {
        let waits = matches!(outcome, Outcome::Waits { .. });
        if waits || matches!(outcome, Outcome::Rejected { .. }) {
            self.unmarked.push(place);
            // What waits may do so behind one that is tried again.
            if self.rounds < CURE_ROUNDS_MAX && (may_pass || (waits && !self.curable.is_empty())) {
                self.curable.push(place);
            }
        }
        if let Some(noted) = self.outcomes.get_mut(place) {
            *noted = outcome;
        }
    }

    /// Has those records tried again, one by one, that others may have cured meanwhile.
    pub(crate) fn again(&mut self) {
        if self.left.is_empty() {
            self.rounds += 1;
            self.left.extend(self.curable.drain(..).rev().map(|place| place..place + 1));
        }
    }

    /// Whether records are left that others may cure.
    pub(crate) const fn is_curable(&self) -> bool {
        !self.curable.is_empty()
    }

    /// What became of each record.
    pub(crate) fn into_outcomes(self) -> Outcomes {
        self.outcomes
    }
}
