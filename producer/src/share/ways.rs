//! Where a record goes, and where it was: under which tables and by which routes.
//!
//! What the source does not tell never counts against a record: it goes, and may have been, wherever it might.

use syncline_shared::record::{Action, Row};

use super::class::Levels;
use super::condition::Condition;
use super::filter::Verdict;
use super::route::Places;
use super::script::BeforeShare;
use super::{OnLeave, Share, Withheld};
use crate::source::Change;

/// One way a record leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The place of the table it leaves under.
    pub(super) level: usize,
    /// By which route: 0 is the share's own queue, the others follow in the order of the configuration.
    pub route: usize,
}

/// Where a record goes: under each of these tables by each of these routes.
#[derive(Debug, Default)]
pub(super) struct Ways {
    pub(super) levels: Levels,
    routes: Places,
}

impl Ways {
    fn some(levels: Levels, routes: Places) -> Result<Self, Withheld> {
        match (levels.is_empty(), routes.is_empty()) {
            (true, _) => Err(Withheld::Class),
            (false, true) => Err(Withheld::NoRoute),
            (false, false) => Ok(Self { levels, routes }),
        }
    }

    fn iter(&self) -> impl Iterator<Item = Way> {
        self.levels.iter().flat_map(|&level| self.routes.iter().map(move |&route| Way { level, route }))
    }
}

/// None where it goes nowhere.
pub(super) fn ways(ways: Option<&Result<Ways, Withheld>>) -> impl Iterator<Item = Way> {
    ways.into_iter().flatten().flat_map(Ways::iter)
}

impl Share {
    /// Whether it matters what a record was before a change: it may leave the filter, a route or a class.
    #[must_use]
    pub fn looks_before(&self) -> bool {
        let may_leave = self.filter.is_some() || self.routes.is_conditional();
        let leaves = may_leave && self.on_leave != OnLeave::Ignore;
        let changes_class = self.classes.may_change() && self.delete_on_class_change;
        self.on.contains(&Action::Update) && (leaves || changes_class)
    }

    /// Whether a filter of it asks what changed, its script does, or what it says of columns.
    #[must_use]
    pub fn asks_for_changes(&self) -> bool {
        self.decides_by_changes() || self.minded.is_some() || self.only_updated
    }

    /// Whether what leaves depends on what changed: without the values before, what nobody meant to share would leave.
    #[must_use]
    pub fn decides_by_changes(&self) -> bool {
        let script_asks = self.script.as_ref().is_some_and(BeforeShare::asks_for_changes);
        self.conditions().any(Condition::asks_for_changes) || script_asks
    }

    /// Whether a record may go elsewhere after a change and still leave.
    fn may_move(&self) -> bool {
        self.routes.is_conditional() || self.classes.may_change()
    }

    /// Whether it cannot do without that.
    #[must_use]
    pub fn needs_before(&self) -> bool {
        let deletes = self.delete_on_class_change || self.on.contains(&Action::Delete);
        let sends = self.looks_before() && self.on_leave == OnLeave::Update;
        let decides = self.on.contains(&Action::Update) && self.decides_by_changes();
        decides || sends || self.classes.may_change() && deletes
    }

    /// Where a record goes as it is now; at least one way.
    pub(super) fn ways_now(&self, change: &Change, row: &Row) -> Result<Result<Ways, Withheld>, &str> {
        if !self.filter.as_ref().map_or(Ok(true), |filter| filter.fits(change))? {
            return Ok(Err(Withheld::Filter));
        }
        Ok(Ways::some(self.classes.now(&change.table, row)?, self.routes.now(change)?))
    }

    /// Where a record may be since before its change; none when that does not matter. What is not known counts, but where
    /// the record itself would be sent there.
    pub(super) fn ways_before(&self, change: &Change, now: Option<&Result<Ways, Withheld>>) -> Result<Ways, Withheld> {
        let stays = matches!(now, Some(Ok(_))) && !self.may_move();
        let guess = match change.action {
            Action::Insert => return Ok(Ways::default()),
            // A row of a copy says nothing of what was before; one that was asked for by its key has at least that.
            Action::Bulk if change.before.is_none() => return Ok(Ways::default()),
            Action::Update | Action::Bulk if stays || !self.looks_before() => return Ok(Ways::default()),
            Action::Update | Action::Bulk => self.on_leave != OnLeave::Update,
            Action::Delete => true,
        };
        let row = change.before.as_ref().unwrap_or(&change.key);
        match self.filter.as_ref().map_or(Verdict::Fits, |filter| filter.fitted(change)) {
            Verdict::FitsNot => Err(Withheld::Filter),
            Verdict::Unknown if !guess => Err(Withheld::Filter),
            Verdict::Fits | Verdict::Unknown => {
                Ways::some(self.classes.before(&change.table, row), self.routes.before(change, guess))
            }
        }
    }

    /// Whether an update surely leaves a record where it was, so that whoever gets it has it.
    pub(super) fn stays(&self, change: &Change, now: &Result<Ways, Withheld>) -> bool {
        let (Action::Update, Ok(now)) = (change.action, now) else { return false };
        let Some(before) = &change.before else { return self.filter.is_none() && !self.may_move() };
        let fitted = self.filter.as_ref().is_none_or(|filter| filter.fitted(change) == Verdict::Fits);
        let (levels, routes) = (self.classes.before(&change.table, before), self.routes.before(change, false));
        let had = |way: Way| levels.contains(&way.level) && routes.contains(&way.route);
        fitted && now.iter().all(had)
    }

    /// The ways to places where a record was and no longer is, one for each.
    pub(super) fn ways_left(&self, was: &Result<Ways, Withheld>, now: Option<&Result<Ways, Withheld>>) -> Vec<Way> {
        let mut left: Vec<Way> = Vec::new();
        for way in ways(Some(was)).filter(|way| !ways(now).any(|now| self.is_one_place(*way, now))) {
            if !left.iter().any(|other| self.is_one_place(way, *other)) {
                left.push(way);
            }
        }
        left
    }

    /// Whether two ways lead under the same table to the same shared queue.
    pub(super) fn is_one_place(&self, one: Way, other: Way) -> bool {
        one.level == other.level && self.routes.same_queue(one.route, other.route)
    }
}
