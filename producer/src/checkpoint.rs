//! Which position of the source is safe: everything up to it is at the broker, or was withheld by a rule.
//!
//! Pure code, knows neither sources nor brokers. Confirms come in any order; the position moves only past polls whose
//! records are all done (promise P1). Holds one entry per poll with records under way, so whoever bounds those bounds
//! this.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Tracks polls from the moment they are read until all their records are done.
#[derive(Debug)]
pub struct Checkpoint<P> {
    /// Polls with records under way, by number.
    open: BTreeMap<u64, Poll<P>>,
    /// The newest position without anything under way before it, until it is taken.
    confirmed: Option<P>,
    polls: u64,
    outstanding: u64,
    /// Polls up to this one are no longer tracked.
    forgotten: u64,
}

#[derive(Debug)]
struct Poll<P> {
    /// Safe once this poll and all before it are done.
    position: Option<P>,
    outstanding: u64,
}

impl<P> Default for Checkpoint<P> {
    fn default() -> Self {
        Self { open: BTreeMap::new(), confirmed: None, polls: 0, outstanding: 0, forgotten: 0 }
    }
}

impl<P> Checkpoint<P> {
    /// Starts to track a poll and returns its number; polls are numbered in the order of the calls.
    ///
    /// Records that are not known yet are added by [`Checkpoint::add`]. To keep the poll open meanwhile, begin with one
    /// for the poll itself and say it is done when all of its changes were decided.
    pub fn begin(&mut self, position: Option<P>, outstanding: u64) -> u64 {
        self.polls += 1;
        self.outstanding += outstanding;
        if outstanding == 0 {
            self.reach(self.polls, position);
        } else {
            self.open.insert(self.polls, Poll { position, outstanding });
        }
        self.polls
    }

    /// Counts more records of a poll.
    ///
    /// # Panics
    /// When nothing of the poll is under way: its position may have been committed already.
    pub fn add(&mut self, poll: u64, records: u64) {
        let Some(entry) = self.open.get_mut(&poll) else { panic!("poll {poll} is done and cannot get more records") };
        entry.outstanding += records;
        self.outstanding += records;
    }

    /// Counts records of a poll as done: confirmed, set aside as dead letters, or withheld.
    ///
    /// # Panics
    /// When the poll has fewer records under way: counting wrong here would lose records in silence.
    pub fn done(&mut self, poll: u64, records: u64) {
        if poll <= self.forgotten {
            return;
        }
        let Entry::Occupied(mut entry) = self.open.entry(poll) else { panic!("poll {poll} is done already") };
        let left = &mut entry.get_mut().outstanding;
        assert!(records <= *left, "poll {poll} has fewer than {records} records under way");
        *left -= records;
        self.outstanding -= records;
        if *left == 0 {
            let position = entry.remove().position;
            self.reach(poll, position);
        }
    }

    /// Forgets every poll so far: the source starts over from its last stored position and reports their changes again.
    ///
    /// Records of forgotten polls that are still under way are done without moving any position.
    pub fn forget(&mut self) {
        self.forgotten = self.polls;
        self.open.clear();
        self.confirmed = None;
        self.outstanding = 0;
    }

    /// The newest position that is safe, once: `None` until a newer one is.
    pub fn advance(&mut self) -> Option<P> {
        self.confirmed.take()
    }

    /// Records under way, of all polls.
    #[must_use]
    pub const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Hands the position of a poll that is done to the last open poll before it: it is safe when that one is.
    fn reach(&mut self, poll: u64, position: Option<P>) {
        let Some(position) = position else { return };
        match self.open.range_mut(..poll).next_back() {
            Some((_, earlier)) => earlier.position = Some(position),
            None => self.confirmed = Some(position),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_position_waits_for_everything_before_it() {
        let mut checkpoint = Checkpoint::default();
        let first = checkpoint.begin(Some('a'), 2);
        let second = checkpoint.begin(Some('b'), 1);
        checkpoint.done(second, 1);
        checkpoint.done(first, 1);
        assert_eq!(checkpoint.advance(), None);
        checkpoint.done(first, 1);
        assert_eq!(checkpoint.advance(), Some('b'));
        assert_eq!((checkpoint.advance(), checkpoint.outstanding()), (None, 0));
    }

    #[test]
    fn a_poll_without_records_moves_the_position_at_once_when_nothing_is_under_way() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.begin(Some(1), 0);
        assert_eq!(checkpoint.advance(), Some(1));
        let poll = checkpoint.begin(Some(2), 1);
        checkpoint.begin(Some(3), 0);
        assert_eq!(checkpoint.advance(), None);
        checkpoint.done(poll, 1);
        assert_eq!(checkpoint.advance(), Some(3));
    }

    #[test]
    fn the_middle_of_a_transaction_has_no_position_to_move_to() {
        let mut checkpoint = Checkpoint::default();
        let poll = checkpoint.begin(None, 1);
        checkpoint.done(poll, 1);
        assert_eq!(checkpoint.advance(), None);
        checkpoint.begin(Some(9), 0);
        assert_eq!(checkpoint.advance(), Some(9));
    }

    #[test]
    fn a_poll_held_open_takes_records_until_it_is_let_go() {
        let mut checkpoint = Checkpoint::default();
        let poll = checkpoint.begin(Some(1), 1);
        checkpoint.add(poll, 2);
        checkpoint.done(poll, 2);
        assert_eq!((checkpoint.advance(), checkpoint.outstanding()), (None, 1));
        checkpoint.done(poll, 1);
        assert_eq!(checkpoint.advance(), Some(1));
    }

    #[test]
    fn a_source_that_starts_over_is_moved_only_by_what_it_reports_then() {
        let mut checkpoint = Checkpoint::default();
        let lost = checkpoint.begin(Some(5), 1);
        checkpoint.forget();
        let again = checkpoint.begin(Some(3), 1);
        checkpoint.done(lost, 1);
        assert_eq!(checkpoint.advance(), None);
        checkpoint.done(again, 1);
        assert_eq!((checkpoint.advance(), checkpoint.outstanding()), (Some(3), 0));
    }

    #[test]
    #[should_panic(expected = "fewer than 2 records under way")]
    fn more_confirms_than_records_are_never_passed_over() {
        let mut checkpoint = Checkpoint::default();
        let poll = checkpoint.begin(Some(1), 1);
        checkpoint.done(poll, 2);
    }

    proptest! {
        #[test]
        fn no_position_passes_a_record_under_way_and_the_last_one_is_reached(
            polls in prop::collection::vec((0..4_u64, any::<bool>()), 1..40), order in any::<Vec<prop::sample::Index>>(),
        ) {
            let mut checkpoint = Checkpoint::default();
            let mut under_way = Vec::new();
            for (place, &(records, has_position)) in polls.iter().enumerate() {
                let number = checkpoint.begin(has_position.then_some(place), records);
                under_way.extend((0..records).map(|_| (place, number)));
            }
            let mut reached = None;
            let mut order = order.into_iter();
            loop {
                if let Some(position) = checkpoint.advance() {
                    prop_assert!(reached < Some(position), "{:?} then {}", reached, position);
                    prop_assert!(under_way.iter().all(|&(place, _)| place > position));
                    reached = Some(position);
                }
                prop_assert!(checkpoint.open.len() <= under_way.len());
                prop_assert_eq!(checkpoint.outstanding(), under_way.len() as u64);
                if under_way.is_empty() {
                    break;
                }
                let next = order.next().map_or(0, |index| index.index(under_way.len()));
                let (_, number) = under_way.swap_remove(next);
                checkpoint.done(number, 1);
            }
            prop_assert_eq!(reached, polls.iter().rposition(|&(_, has_position)| has_position));
        }
    }
}
