//! What was read and not yet returned: changes, and between them the marks of what is complete.
//!
//! Everything a dropped [`poll`](crate::source::Source::poll) had read stays here for the next one.

use std::collections::VecDeque;
use std::sync::Arc;

use syncline_shared::record::Row;

use super::table::{Job, Place};
use crate::source::{Change, PollLimit};

/// A change on its way out.
pub(super) struct Pending {
    /// The change.
    pub(super) change: Change,
    /// The key the record had before, where the change gives it another one: until its commit is visible, what the change
    /// left alone is to be read there.
    pub(super) old_key: Option<Row>,
    /// Whether nothing more can be learnt about its unsent columns.
    pub(super) settled: bool,
}

impl Pending {
    pub(super) fn is_incomplete(&self) -> bool {
        !self.settled && self.change.after.as_ref().is_some_and(Row::has_unchanged)
    }

    fn size(&self) -> usize {
        let Change { key, before, after, .. } = &self.change;
        key.size() + [before, after].into_iter().flatten().map(Row::size).sum::<usize>()
    }
}

#[expect(clippy::large_enum_variant, reason = "almost every item is a change")]
enum Item {
    Change(Pending),
    Reached(u64),
    Copied(Job),
    Truncated(Arc<str>, Place),
}

/// What one poll takes out of the queue.
#[derive(Default)]
pub(super) struct Taken {
    /// Changes in order.
    pub(super) changes: Vec<Change>,
    /// Everything up to this place of the log was taken.
    pub(super) reached: Option<u64>,
    /// Copies whose last row was taken.
    pub(super) copied: Vec<Job>,
}

/// Changes and marks in source order.
#[derive(Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    changes: usize,
    bytes: usize,
    reached: u64,
}

impl Queue {
    pub(super) fn push(&mut self, change: Change) {
        self.push_moved(change, None);
    }

    /// The same for the second of two changes that give a record another key.
    pub(super) fn push_moved(&mut self, change: Change, old_key: Option<Row>) {
        let pending = Pending { change, old_key, settled: false };
        self.changes += 1;
        self.bytes += pending.size();
        self.items.push_back(Item::Change(pending));
    }

    /// Marks that all changes up to this place of the log were pushed; an earlier place says nothing new.
    pub(super) fn reach(&mut self, lsn: u64) {
        if lsn <= self.reached {
            return;
        }
        self.reached = lsn;
        if let Some(Item::Reached(last)) = self.items.back_mut() {
            *last = lsn;
        } else {
            self.items.push_back(Item::Reached(lsn));
        }
    }

    /// Ends what can be taken: a table was truncated here.
    pub(super) fn truncate(&mut self, table: Arc<str>, place: Place) {
        self.items.push_back(Item::Truncated(table, place));
    }

    /// The `TRUNCATE` that comes next.
    pub(super) fn truncated(&self) -> Option<(Arc<str>, Place)> {
        match self.items.front() {
            Some(Item::Truncated(table, place)) => Some((Arc::clone(table), *place)),
            Some(Item::Change(_) | Item::Reached(_) | Item::Copied(_)) | None => None,
        }
    }

    /// Marks that all rows of a copy were pushed.
    pub(super) fn end_copy(&mut self, job: Job) {
        self.items.push_back(Item::Copied(job));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Changes and bytes.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.changes, self.bytes)
    }

    /// Whether no mark has come yet after the last change.
    pub(super) fn ends_with_change(&self) -> bool {
        matches!(self.items.back(), Some(Item::Change(_)))
    }

    /// Whether there is enough for one poll.
    pub(super) fn is_full(&self, limit: PollLimit) -> bool {
        self.changes >= limit.changes || self.bytes >= limit.bytes
    }

    /// The changes the next [`Self::take`] would return that lack columns.
    pub(super) fn incomplete(&mut self, limit: PollLimit) -> impl Iterator<Item = &mut Pending> {
        let ahead = self.within(limit);
        self.items.iter_mut().take(ahead).filter_map(|item| match item {
            Item::Change(pending) if pending.is_incomplete() => Some(pending),
            Item::Change(_) | Item::Reached(_) | Item::Copied(_) | Item::Truncated(..) => None,
        })
    }

    /// The first changes that lack columns.
    pub(super) fn first_incomplete(&mut self, count: usize) -> impl Iterator<Item = &mut Pending> {
        let everything = PollLimit { changes: usize::MAX, bytes: usize::MAX };
        self.incomplete(everything).take(count)
    }

    /// Takes items up to the limit; stops before a change that still lacks columns.
    pub(super) fn take(&mut self, limit: PollLimit) -> Taken {
        let mut taken = Taken::default();
        for _ in 0..self.within(limit) {
            if matches!(self.items.front(), Some(Item::Change(pending)) if pending.is_incomplete()) {
                break;
            }
            match self.items.pop_front() {
                Some(Item::Change(pending)) => taken.changes.push(pending.change),
                Some(Item::Reached(lsn)) => taken.reached = Some(lsn),
                Some(Item::Copied(job)) => taken.copied.push(job),
                Some(Item::Truncated(..)) | None => break,
            }
        }
        self.measure();
        taken
    }

    /// How many items fit the limit: always the first change, and every mark up to the first change that does not fit.
    fn within(&self, limit: PollLimit) -> usize {
        let (mut changes, mut bytes) = (0_usize, 0_usize);
        let fits = |item: &&Item| match item {
            Item::Reached(_) | Item::Copied(_) => true,
            Item::Truncated(..) => false,
            Item::Change(pending) => {
                changes += 1;
                bytes += pending.size();
                changes == 1 || (changes <= limit.changes && bytes <= limit.bytes)
            }
        };
        self.items.iter().take_while(fits).count()
    }

    /// Counts again: columns were completed and items taken.
    fn measure(&mut self) {
        let pending = self.items.iter().filter_map(|item| match item {
            Item::Change(pending) => Some(pending.size()),
            Item::Reached(_) | Item::Copied(_) | Item::Truncated(..) => None,
        });
        (self.changes, self.bytes) = pending.fold((0, 0), |(changes, bytes), size| (changes + 1, bytes + size));
    }
}
