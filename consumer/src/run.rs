//! Records of several messages that are applied together, and the search for the one the target refuses.

use std::ops::Range;
use std::sync::Arc;

use syncline_shared::record::{Action, Record};

use crate::target::{ApplyError, Batch, Outcome, TableMap, Target};

/// A message's records within a run.
#[derive(Debug)]
struct Segment {
    records: Range<usize>,
    table: Arc<TableMap>,
    action: Action,
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
    pub(crate) fn push(&mut self, table: Arc<TableMap>, action: Action, records: Vec<Record>) -> Range<usize> {
        let start = self.records.len();
        self.records.extend(records);
        let range = start..self.records.len();
        self.segments.push(Segment { records: range.clone(), table, action });
        range
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
}

impl Progress {
    /// Starts with the whole run.
    pub(crate) fn new(run: &Run) -> Self {
        let all = 0..run.records.len();
        Self { left: if all.is_empty() { Vec::new() } else { vec![all] }, outcomes: Vec::new() }
    }

    /// Applies what is left, in order. A range the target refuses is split until the bad record is alone (promise P6).
    ///
    /// # Errors
    /// [`ApplyError`] of a fault that is not about one record; call again once it may have passed.
    pub(crate) async fn apply<T: Target>(&mut self, run: &Run, target: &mut T) -> Result<(), ApplyError> {
        while let Some(range) = self.left.last().cloned() {
            match target.apply(&run.batches(&range)).await {
                Ok(applied) => self.outcomes.extend(applied.outcomes),
                Err(ApplyError::Record { problem, .. }) if range.len() == 1 => {
                    self.outcomes.push(Outcome::Rejected { error: problem });
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
        Ok(())
    }

    /// What became of each record.
    pub(crate) fn into_outcomes(self) -> Outcomes {
        self.outcomes
    }
}
