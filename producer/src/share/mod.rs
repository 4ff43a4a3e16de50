//! Dynamic shares: what of a table leaves, and in which form.
//!
//! Pure decisions about one change at a time, without I/O and without a clock. Knows changes and rows, neither sources nor
//! queues. What does not leave is [`Withheld`] for a reason that is counted; a share that does not fit its table is
//! [`Decision::Unfit`], and nothing is withheld for that.

mod columns;
mod config;
pub mod filter;

pub use config::{Initial, SealWith, ShareConfig, ShareOn};
pub use filter::{Filter, FilterError};

use std::borrow::Cow;
use std::sync::Arc;

use syncline_shared::config::FieldProblem;
use syncline_shared::record::{Action, Row};

use crate::source::Change;
use columns::{Last, Projection};
use filter::{Before, Places, Seen, Verdict};

/// A share, compiled: it decides about changes without looking anything up by name.
#[derive(Debug)]
pub struct Share {
    name: Arc<str>,
    table: Arc<str>,
    on: Vec<Action>,
    interactive_only: bool,
    filter: Option<Filter>,
    selection: Option<Vec<Box<str>>>,
    places: Last<Places>,
    /// Apart from `places`, since what a source knows of deleted rows often has a shape of its own.
    places_before: Last<Places>,
    projection: Last<Projection>,
}

/// What a share does with a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// It leaves.
    Share(Shared<'a>),
    /// It does not, by a rule of the share.
    Withhold(Withheld),
    /// The share cannot decide, for this change or any other: its filter or its selection names a column the table does
    /// not have. Systemic (promise P7): pause and say so, someone has to mend the share or the table.
    Unfit {
        /// The column.
        column: &'a str,
    },
}

/// What leaves of a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared<'a> {
    /// What happened; [`Action::Bulk`] for rows of a copy.
    pub action: Action,
    /// The key columns, all of them whatever is selected.
    pub key: &'a Row,
    /// The columns after the change, or the selected ones and the key's; `None` for deletes. Borrowed unless selected.
    pub data: Option<Cow<'a, Row>>,
    /// The data has columns the source did not send since the change left them alone.
    pub partial: bool,
}

/// Why a change does not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Withheld {
    /// The share is not on this action.
    Action,
    /// The share is for the work of persons, and a job made the change.
    Background,
    /// The share is for the work of persons, and the source cannot tell who made the change.
    UnknownSession,
    /// The record does not fit the filter.
    Filter,
}

impl Withheld {
    /// Every reason, in the order metrics list them.
    pub const ALL: [Self; 4] = [Self::Action, Self::Background, Self::UnknownSession, Self::Filter];

    /// The word used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Background => "background",
            Self::UnknownSession => "unknown_session",
            Self::Filter => "filter",
        }
    }
}

impl Share {
    /// Compiles a share's configuration.
    ///
    /// # Errors
    /// Everything [`ShareConfig::validate`] reports.
    pub fn compile(name: impl Into<Arc<str>>, config: &ShareConfig) -> Result<Self, Vec<FieldProblem>> {
        let problems = config.validate();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Self {
            name: name.into(),
            table: config.table.as_str().into(),
            on: config.on.iter().map(|on| on.action()).collect(),
            interactive_only: config.interactive_only,
            filter: config.zone().and_then(|zone| config.parse_filter(zone)).map_err(|problem| vec![problem])?,
            selection: config
                .columns
                .as_ref()
                .map(|columns| columns.iter().map(|column| column.as_str().into()).collect()),
            places: Last::default(),
            places_before: Last::default(),
            projection: Last::default(),
        })
    }

    /// The share's name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The table it is for.
    #[must_use]
    pub const fn table(&self) -> &Arc<str> {
        &self.table
    }

    /// The columns the table must have for this share: those of the filter and those selected; some may come twice.
    pub fn columns_used(&self) -> impl Iterator<Item = &str> {
        let selected = self.selection.iter().flatten().map(AsRef::as_ref);
        self.filter.iter().flat_map(Filter::columns).chain(selected)
    }

    /// Whether a change is this share's to decide: one of its table, and no row of another share's copy.
    #[must_use]
    pub fn concerns(&self, change: &Change) -> bool {
        change.table == self.table && change.only_share.as_ref().is_none_or(|only| *only == self.name)
    }

    /// Decides about a change that [concerns](Share::concerns) this share.
    ///
    /// Rows of a copy ([`Action::Bulk`]) are subject to the filter and the selection, not to `on` and `interactive_only`:
    /// they are what is there, not what someone did. What the filter leaves open is shared: a row whose value was not sent
    /// because the change left it alone, and a delete of which the source knows too little, since deleting what is not
    /// there harms nothing. An update that takes a record out of the filter is withheld like any other record outside of it.
    ///
    /// Allocates only when columns are selected, or when rows come in a new shape.
    #[must_use]
    pub fn decide<'a>(&'a self, change: &'a Change) -> Decision<'a> {
        if let Some(reason) = self.withheld_by_event(change) {
            return Decision::Withhold(reason);
        }
        let row = match change.action {
            Action::Insert | Action::Update | Action::Bulk => change.after.as_ref(),
            Action::Delete => None,
        };
        if let Some(filter) = &self.filter {
            match self.test(filter, change, row) {
                Ok(Verdict::Fits | Verdict::Unknown) => {}
                Ok(Verdict::FitsNot) => return Decision::Withhold(Withheld::Filter),
                Err(column) => return Decision::Unfit { column },
            }
        }
        let data = match row.map(|row| self.select(row, &change.key)).transpose() {
            Ok(data) => data,
            Err(column) => return Decision::Unfit { column },
        };
        let partial = data.as_ref().is_some_and(|row| row.has_unchanged());
        Decision::Share(Shared { action: change.action, key: &change.key, data, partial })
    }

    /// Holds a change against the filter: the row after it, or for a delete what is known of the record before. A column
    /// the table lacks is an error.
    fn test<'a>(&self, filter: &'a Filter, change: &Change, row: Option<&Row>) -> Result<Verdict, &'a str> {
        let at = change.at;
        let Some(row) = row else {
            let row = change.before.as_ref().unwrap_or(&change.key);
            return looked_up(filter, &self.places_before, row, |places| {
                Ok(filter.test(&Seen { row, places, before: Before::Same, at }))
            });
        };
        looked_up(filter, &self.places, row, |places| {
            if let Some(column) = filter.missing(places) {
                return Err(column);
            }
            let test = |before: Before<'_>| filter.test(&Seen { row, places, before, at });
            Ok(match (change.action, &change.before) {
                (Action::Bulk | Action::Delete, _) => test(Before::Same),
                (Action::Insert, _) => test(Before::Nothing),
                (Action::Update, None) => test(Before::Unknown),
                (Action::Update, Some(before)) => {
                    looked_up(filter, &self.places_before, before, |places| test(Before::Row(before, places)))
                }
            })
        })
    }

    /// The rules about what happened and who did it.
    fn withheld_by_event(&self, change: &Change) -> Option<Withheld> {
        if change.action == Action::Bulk {
            return None;
        }
        if !self.on.contains(&change.action) {
            return Some(Withheld::Action);
        }
        match change.session.interactive {
            _ if !self.interactive_only => None,
            Some(true) => None,
            Some(false) => Some(Withheld::Background),
            None => Some(Withheld::UnknownSession),
        }
    }

    /// The row, or its selected part; the name of a selected column it lacks otherwise.
    fn select<'a>(&'a self, row: &'a Row, key: &Row) -> Result<Cow<'a, Row>, &'a str> {
        let selection = self.selection.as_deref();
        let selected = self.projection.with(
            |projection| projection.is_of(row.columns(), key.columns()),
            || Projection::new(selection, row.columns(), key.columns()),
            |projection| projection.apply(row),
        );
        selected.map_err(|place| selection.and_then(|columns| columns.get(place)).map_or("", AsRef::as_ref))
    }
}

/// Looks up where a filter's columns are in a row, once for all rows of its shape.
fn looked_up<R>(filter: &Filter, last: &Last<Places>, row: &Row, then: impl FnOnce(&Places) -> R) -> R {
    last.with(|places| places.columns == *row.columns(), || filter.places(row.columns()), then)
}

#[cfg(test)]
mod tests;
