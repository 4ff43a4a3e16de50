//! Records of several messages that are applied together, and the search for the one the target refuses.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use syncline_shared::envelope::Envelope;
use syncline_shared::queue::dead_letter::id_of_record;
use syncline_shared::record::{Action, Record};
use uuid::Uuid;

use crate::open::Content;
use crate::script::Made;
use crate::target::{Applied, ApplyError, Batch, Outcome, Parked, TableMap, Target};

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
    /// What scripts made of records, by their place; none of those that were kept.
    made: BTreeMap<usize, Made>,
}

/// What became of each record of a run at the target, in order; it says nothing of those that did not come there. A
/// refused record has its error as [`Outcome::Rejected`].
pub(crate) type Outcomes = Vec<Outcome>;

impl Run {
    /// Appends a message's records; their range in [`Run::record`] and in the outcomes, with the envelope.
    pub(crate) fn push(&mut self, table: Arc<TableMap>, content: Content) -> (Envelope, Range<usize>) {
        let Content { envelope, records, made, .. } = content;
        let start = self.records.len();
        self.records.extend(records);
        self.made.extend((start..).zip(made).filter(|(_, made)| *made != Made::Kept));
        let range = start..self.records.len();
        let (action, message) = (envelope.route().action, envelope.message_id());
        self.segments.push(Segment { records: range.clone(), table, action, message });
        (envelope, range)
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

    /// A record as it came.
    pub(crate) fn record(&self, place: usize) -> Option<&Record> {
        match self.made.get(&place) {
            Some(Made::Changed { came, .. }) => Some(came),
            Some(Made::Kept | Made::Withheld | Made::Failed(_)) | None => self.records.get(place),
        }
    }

    /// What a script made of a record; `None` when it was kept.
    pub(crate) fn made(&self, place: usize) -> Option<&Made> {
        self.made.get(&place)
    }

    /// The first record of a range that its script failed on.
    fn first_failed(&self, range: &Range<usize>) -> Option<usize> {
        let mut made = self.made.range(range.clone());
        made.find(|(_, made)| matches!(made, Made::Failed(_))).map(|(place, _)| *place)
    }

    /// As what a record is applied, if it is.
    fn action(&self, segment: &Segment, place: usize) -> Option<Action> {
        match self.made.get(&place) {
            None | Some(Made::Kept) => Some(segment.action),
            Some(Made::Changed { action, .. }) => Some(*action),
            Some(Made::Withheld | Made::Failed(_)) => None,
        }
    }

    /// The batches of a range of records, each of neighbours of one action, with their places.
    fn batches(&self, range: &Range<usize>) -> Vec<(Range<usize>, Batch<'_>)> {
        let mut batches = Vec::new();
        for segment in &self.segments {
            let mut rest = segment.records.start.max(range.start)..segment.records.end.min(range.end);
            while !rest.is_empty() {
                let action = self.action(segment, rest.start);
                let alike = |place: &usize| self.action(segment, *place) == action;
                let end =
                    if self.made.is_empty() { rest.end } else { rest.start + rest.clone().take_while(alike).count() };
                let places = rest.start..end;
                rest.start = end;
                if let (Some(action), Some(records)) = (action, self.records.get(places.clone())) {
                    batches.push((places, Batch { table: &segment.table, action, records }));
                }
            }
        }
        batches
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
            if let Some(failed) = run.first_failed(&range) {
                self.left.pop();
                if failed == range.start {
                    self.unmarked.push(failed);
                    self.left.extend(Some(failed + 1..range.end).filter(|rest| !rest.is_empty()));
                } else {
                    self.left.extend([failed..range.end, range.start..failed]);
                }
                continue;
            }
            let (places, batches): (Vec<_>, Vec<_>) = run.batches(&range).into_iter().unzip();
            let applied = if batches.is_empty() { Ok(Applied::default()) } else { target.apply(&batches).await };
            match applied {
                Ok(applied) => {
                    for (place, outcome) in places.into_iter().flatten().zip(applied.outcomes) {
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
