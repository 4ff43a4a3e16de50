//! A filter with the places of its columns looked up: held against records as they are, and as they were.
//!
//! What a change does not tell never counts against a record, so that nothing is lost to it.

use syncline_shared::record::{Action, Row};

use super::columns::Last;
use super::filter::{Before, Explanation, Filter, Places, Seen, Verdict};
use crate::source::Change;

/// A filter of a share or of a route.
#[derive(Debug)]
pub(super) struct Condition {
    filter: Filter,
    now: Last<Places>,
    /// Apart from `now`, since what a source knows of rows before a change often has a shape of its own.
    before: Last<Places>,
}

impl Condition {
    pub(super) fn new(filter: Filter) -> Self {
        Self { filter, now: Last::default(), before: Last::default() }
    }

    /// The columns it names, each once.
    pub(super) fn columns(&self) -> impl Iterator<Item = &str> {
        self.filter.columns()
    }

    /// Whether it asks what changed, so that a record fits it at a change and not for long.
    pub(super) fn asks_for_changes(&self) -> bool {
        self.filter.asks_for_changes()
    }

    /// Whether a record fits as it is after a change, or the column its table lacks.
    pub(super) fn fits(&self, change: &Change) -> Result<bool, &str> {
        self.look(change, |seen| self.filter.test(&seen) != Verdict::FitsNot)
    }

    /// What is known of a record before a change says: all of its row, some columns, or none.
    pub(super) fn fitted(&self, change: &Change) -> Verdict {
        self.look_before(change, |seen| self.filter.test(&seen))
    }

    /// Why a record fits as it is after a change or not, or for a delete as it was; the column its table lacks otherwise.
    pub(super) fn explain(&self, change: &Change) -> Result<Explanation, &str> {
        self.look(change, |seen| self.filter.explain(&seen))
    }

    /// Looks at a change as the filter sees it: the row after it, or for a delete what is known of the record before. A
    /// column the table lacks is an error.
    fn look<R>(&self, change: &Change, then: impl FnOnce(Seen<'_>) -> R) -> Result<R, &str> {
        let Some(row) = &change.after else { return Ok(self.look_before(change, then)) };
        looked_up(&self.filter, &self.now, row, |places| {
            if let Some(column) = self.filter.missing(places) {
                return Err(column);
            }
            let then = |before: Before<'_>| then(Seen { row, places, before, at: change.at });
            Ok(match (change.action, &change.before) {
                (Action::Bulk | Action::Delete, _) => then(Before::Same),
                (Action::Insert, _) => then(Before::Nothing),
                (Action::Update, None) => then(Before::Unknown),
                (Action::Update, Some(before)) => {
                    looked_up(&self.filter, &self.before, before, |places| then(Before::Row(before, places)))
                }
            })
        })
    }

    fn look_before<R>(&self, change: &Change, then: impl FnOnce(Seen<'_>) -> R) -> R {
        let row = change.before.as_ref().unwrap_or(&change.key);
        looked_up(&self.filter, &self.before, row, |places| {
            then(Seen { row, places, before: Before::Same, at: change.at })
        })
    }
}

/// Looks up where a filter's columns are in a row, once for all rows of its shape.
fn looked_up<R>(filter: &Filter, last: &Last<Places>, row: &Row, then: impl FnOnce(&Places) -> R) -> R {
    last.with(|places| places.columns == *row.columns(), || filter.places(row.columns()), then)
}
