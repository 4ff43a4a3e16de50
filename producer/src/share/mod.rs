//! Dynamic shares: what of a table leaves, and in which form.
//!
//! Pure decisions about one change at a time, without I/O and without a clock. Knows changes and rows, neither sources nor
//! queues. What does not leave is [`Withheld`] for a reason that is counted; a share that does not fit its table is
//! [`Decision::Unfit`], and nothing is withheld for that.
//!
//! The steps, each in a file of its own: the action and who made the change; the filter (`condition`); under which tables
//! (`class`) and to which shared queues (`route`) the record goes, and where it was before (`ways`); whether it changed what
//! the share minds (`changed`); the display values of its references (`display`); the script (`script`), on a copy of its own; its columns (`columns`) and their form (`form`).

mod changed;
mod class;
mod columns;
mod condition;
mod config;
mod display;
pub mod filter;
mod form;
mod route;
mod route_config;
mod script;
mod ways;

pub use class::Hierarchy;
pub use config::{Initial, Leaving, OnLeave, SealWith, ShareConfig, ShareOn, no_meaning};
pub use filter::{Filter, FilterError};
pub use form::{Constant, Mask};
pub use route_config::{NoRoute, RouteConfig, RouteMatch};
pub use ways::Way;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Instant;

use syncline_shared::config::FieldProblem;
use syncline_shared::record::{Action, Columns, Row, Version};
use syncline_shared::script::ScriptError;

use crate::source::{Change, Lookup, Reference};
use changed::{Minded, updated};
use class::Classes;
use columns::{Last, Projection};
use condition::Condition;
use display::Displays;
pub use display::display_name;
use filter::Explanation;
use form::Form;
use route::Routes;
use script::{BeforeShare, Scripted};
use ways::{Ways, ways};

/// A share, compiled: it decides about changes without looking anything up by name.
#[derive(Debug)]
pub struct Share {
    name: Arc<str>,
    on: Vec<Action>,
    interactive_only: bool,
    update_or_insert: bool,
    filter: Option<Condition>,
    on_leave: OnLeave,
    delete_on_class_change: bool,
    classes: Classes,
    routes: Routes,
    minded: Option<Minded>,
    displays: Displays,
    script: Option<BeforeShare>,
    only_updated: bool,
    /// The column that goes along with every part of an update.
    id: Option<Box<str>>,
    form: Form,
    changed_column: Option<Box<str>>,
    /// The selected columns, for each route.
    selections: Vec<Option<Vec<Box<str>>>>,
    /// For each table and each route of it.
    projections: Vec<Last<Projection>>,
}

/// What a share does with a change.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision<'a> {
    /// Something leaves: at least one message, in this order.
    Share(Vec<Shared<'a>>),
    /// Nothing does, by a rule of the share.
    Withhold(Withheld),
    /// Its script failed on it: the record is set aside (promise P6).
    SetAside {
        /// The table it would have left under.
        table: &'a Arc<str>,
        /// How it would have left.
        way: Way,
        /// What is wrong.
        error: ScriptError,
        /// The deletes that leave all the same, for where the record no longer is.
        left: Vec<Shared<'a>>,
    },
    /// The share cannot decide, for this change or any other: it names a column the table does not
    /// have, or a form for one that cannot have it. Systemic (promise P7): pause and say so, someone has to mend the share or the table.
    Unfit {
        /// The column.
        column: &'a str,
    },
}

/// One message that leaves for a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Shared<'a> {
    /// What happened; [`Action::Bulk`] for rows of a copy, and what "update or insert" makes of others.
    pub action: Action,
    /// The table it leaves under.
    pub table: &'a Arc<str>,
    /// How it leaves.
    pub way: Way,
    /// The change's, or the one just below for a delete where the record is no longer: it loses to the change itself
    /// wherever both arrive, and to every later one.
    pub version: Version,
    /// The key columns, all of them whatever is selected.
    pub key: &'a Row,
    /// The columns after the change, or the selected ones and the key's; `None` for deletes. Borrowed unless selected.
    pub data: Option<Cow<'a, Row>>,
    /// The data lacks columns of the record: the change left them alone, and the source or the share did not send them.
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
    /// The record is of a class that is not the share's.
    Class,
    /// No route takes the record, and the share keeps what none takes.
    NoRoute,
    /// The update changes nothing the share minds.
    Unchanged,
    /// The script says `ignore = true`.
    Script,
}

impl Withheld {
    /// Every reason, in the order metrics list them.
    pub const ALL: [Self; 8] = [
        Self::Action,
        Self::Background,
        Self::UnknownSession,
        Self::Filter,
        Self::Class,
        Self::NoRoute,
        Self::Unchanged,
        Self::Script,
    ];

    /// The word used in metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Background => "background",
            Self::UnknownSession => "unknown_session",
            Self::Filter => "filter",
            Self::Class => "class",
            Self::NoRoute => "no_route",
            Self::Unchanged => "unchanged",
            Self::Script => "script",
        }
    }
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Withheld {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word).ok_or(())
    }
}

impl Share {
    /// Compiles a share's configuration.
    ///
    /// # Errors
    /// Everything [`ShareConfig::validate`], [`ShareConfig::validate_routes`] and [`ShareConfig::compile_script`] report.
    pub fn compile(name: impl Into<Arc<str>>, config: &ShareConfig) -> Result<Self, Vec<FieldProblem>> {
        let mut problems = config.validate();
        problems.extend(config.validate_routes().into_iter().map(|(_, problem)| problem));
        if !problems.is_empty() {
            return Err(problems);
        }
        let classes = Classes::new(&config.table, config.hierarchy.unwrap_or_default(), &config.tables);
        let script = config.compile_script().map_err(|error| vec![("before_share", error.to_string())])?;
        let zone = config.zone().map_err(|problem| vec![problem])?;
        let routes = config.compile_routes(&zone).map_err(|problem| vec![problem])?;
        let projections = (0..classes.len() * routes.len()).map(|_| Last::default()).collect();
        Ok(Self {
            name: name.into(),
            on: config.on.iter().map(|on| on.action()).collect(),
            interactive_only: config.interactive_only,
            update_or_insert: config.update_or_insert,
            filter: config.parse_filter(zone).map_err(|problem| vec![problem])?.map(Condition::new),
            on_leave: config.on_leave(),
            delete_on_class_change: config.delete_on_class_change(),
            classes,
            routes,
            minded: config.minded(),
            displays: Displays::new(&config.display),
            script: script.map(BeforeShare::new),
            only_updated: config.only_updated(),
            id: config.id.as_deref().map(Into::into),
            form: config.form().map_err(|problem| vec![problem])?,
            changed_column: config.changed_column.as_deref().map(Into::into),
            selections: config.selections(),
            projections,
        })
    }

    /// The share's name.
    #[must_use]
    pub const fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its filter and those of its routes.
    fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.filter.iter().chain(self.routes.conditions())
    }

    /// The tables whose changes it is about: the one it names, or where the records of that one are stored.
    #[must_use]
    pub fn tables(&self) -> &[Arc<str>] {
        self.classes.stored()
    }

    /// The tables its records leave under.
    pub fn tables_leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        self.classes.leaving()
    }

    /// The columns one of its [tables](Share::tables) must have for this share: those of conditions, the one that names
    /// the class, that of the last change, those selected and those it says something of; some may come twice.
    pub fn columns_used(&self, table: &str) -> impl Iterator<Item = &str> {
        let hidden = self.classes.hidden_in(table);
        let selected = self.selections.iter().flatten().flatten().chain(&self.changed_column).chain(&self.id);
        let selected = selected.filter(|column| !hidden.contains(column));
        let formed = self.form.columns().filter(|column| self.displays.shown_by(column).is_none());
        let formed = self.minded.iter().flat_map(Minded::columns).chain(formed).chain(self.displays.columns());
        let formed = formed.filter(|column| !hidden.iter().any(|one| **one == **column));
        let named = self.classes.column().into_iter().chain(selected.map(AsRef::as_ref)).chain(formed);
        self.conditions().flat_map(Condition::columns).chain(named)
    }

    /// What rows with these columns and this key cannot have of its masks, names, constants and display values: columns of
    /// the key, and names that are taken.
    #[must_use]
    pub fn misfits(&self, columns: &[String], key: &[String]) -> BTreeSet<String> {
        let key = Columns::new(key.iter().map(String::as_str));
        let names = self.displays.columns().map(display_name).filter(|name| !columns.contains(name));
        let shown = Columns::new(columns.iter().cloned().chain(names));
        let taken = self.displays.columns().map(display_name).filter(|name| columns.contains(name));
        let mut misfits: BTreeSet<String> = taken.collect();
        for level in 0..self.classes.len() {
            for selection in &self.selections {
                let (hidden, read) = (self.classes.hidden(level), columns.len());
                let part = Projection::new(selection.as_deref(), hidden, &shown, read, &key, &self.displays);
                misfits.extend(self.form.misfits(part.columns(), &key));
            }
        }
        misfits
    }

    /// Whether a change of this column alone leaves, by the name it leaves under. Of others a target may have old values.
    #[must_use]
    pub fn minds_column(&self, column: &str) -> bool {
        let read = self.form.names.iter().find(|(_, name)| *name == column).map_or(column, |(read, _)| read);
        self.form.constants.contains_key(column) || self.minded.as_ref().is_none_or(|minded| minded.minds(read))
    }

    /// Whether a record that the share no longer sends is deleted where it was.
    #[must_use]
    pub fn removes_what_left(&self) -> bool {
        self.on.contains(&Action::Update) && self.on_leave == OnLeave::Delete
    }

    /// Whether it sends this action.
    #[must_use]
    pub fn is_on(&self, action: Action) -> bool {
        self.on.contains(&action)
    }

    /// What its script logs about a change; may hold record values, for a person who asked.
    #[must_use]
    pub fn script_log(&self, change: &Change) -> Vec<String> {
        let shown = change.after.as_ref().and_then(|row| self.displays.show(row).ok());
        self.script.as_ref().map(|script| script.log(change, shown)).unwrap_or_default()
    }

    /// Whether it adds display values, which have to be looked up before it decides.
    #[must_use]
    pub const fn has_displays(&self) -> bool {
        !self.displays.is_empty()
    }

    /// The lookup tables it needs; their places are their numbers.
    pub fn lookups(&self) -> impl Iterator<Item = &Lookup> {
        self.displays.lookups()
    }

    /// What has to be looked up before it decides about these changes, by the numbers of lookup tables.
    #[must_use]
    pub fn missing_displays(&self, changes: &[Change], now: Instant) -> Vec<(usize, Vec<Reference>)> {
        let rows = changes.iter().filter(|change| self.concerns(change)).filter_map(|change| change.after.as_ref());
        self.displays.missing(rows, now)
    }

    /// Keeps what was looked up, for some seconds.
    pub fn keep_displays(
        &self,
        lookup: usize,
        references: Vec<Reference>,
        values: Vec<Option<Box<str>>>,
        now: Instant,
    ) {
        self.displays.keep(lookup, references, values, now);
    }

    /// Whether it runs a script on records.
    #[must_use]
    pub const fn has_script(&self) -> bool {
        self.script.is_some()
    }

    /// Whether a change is this share's to decide: one of its tables, and no row of another share's copy.
    #[must_use]
    pub fn concerns(&self, change: &Change) -> bool {
        self.tables().contains(&change.table) && change.only_share.as_ref().is_none_or(|only| *only == self.name)
    }

    /// Decides about a change that [concerns](Share::concerns) this share.
    ///
    /// Rows of a copy ([`Action::Bulk`]) are subject to the filter and the selection, not to `on` and `interactive_only`:
    /// they are what is there, not what someone did. What [is missing](Share::missing_displays) has to be looked up before.
    /// What the source does not tell is never held against a change: a row
    /// whose value was not sent because the change left it alone is shared, and a delete goes wherever the record may
    /// have been, since deleting what is not there harms nothing.
    #[must_use]
    pub fn decide<'a>(&'a self, change: &'a Change) -> Decision<'a> {
        self.weigh(change).unwrap_or_else(|column| Decision::Unfit { column })
    }

    /// The same; a column the table lacks is an error.
    fn weigh<'a>(&'a self, change: &'a Change) -> Result<Decision<'a>, &'a str> {
        if let Some(reason) = self.withheld_by_event(change) {
            return Ok(Decision::Withhold(reason));
        }
        let now = change.after.as_ref().map(|row| self.ways_now(change, row)).transpose()?;
        let was = self.ways_before(change, now.as_ref());
        let stays = now.as_ref().is_some_and(|now| self.stays(change, now));
        if stays && !self.minds(change) {
            return Ok(Decision::Withhold(Withheld::Unchanged));
        }
        let shown = change.after.as_ref().map(|row| self.displays.show(row)).transpose()?;
        let (action, row) = match self.scripted(change, shown, now.as_ref(), &was) {
            Ok(Some(scripted)) => scripted,
            Ok(None) => {
                let left = self.deletes_of_left(change, now.as_ref(), &was);
                return Ok(if left.is_empty() { Decision::Withhold(Withheld::Script) } else { Decision::Share(left) });
            }
            Err((way, error)) => {
                let left = self.deletes_of_left(change, now.as_ref(), &was);
                return Ok(Decision::SetAside { table: self.classes.name(way.level), way, error, left });
            }
        };
        // A record that is new to the share leaves with all its columns.
        let only_updated = self.only_updated && stays && action == Action::Update;
        let leaves = Leaves { change, row: row.as_ref(), only_updated };
        let mut messages: Vec<Shared<'a>> = Vec::new();
        for way in self.ways_left(&was, now.as_ref()) {
            messages.extend(self.where_it_left(&leaves, way, now.as_ref())?);
        }
        for way in ways(now.as_ref()) {
            let action = if action == change.action { self.action(change, way, &was) } else { action };
            messages.push(match action {
                Action::Delete => self.delete(change, way, change.version),
                Action::Insert | Action::Update | Action::Bulk => self.record(&leaves, way, action)?,
            });
        }
        Ok(match now.unwrap_or(was) {
            Err(reason) if messages.is_empty() => Decision::Withhold(reason),
            Ok(_) | Err(_) => Decision::Share(messages),
        })
    }

    /// Why a change fits the filter or does not; none without a filter, and an error for a column the table lacks.
    ///
    /// # Errors
    /// The column.
    pub fn explain(&self, change: &Change) -> Result<Option<Explanation>, &str> {
        self.filter.as_ref().map(|filter| filter.explain(change)).transpose()
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
            // What was asked for by its key is no one's work.
            _ if !self.interactive_only || change.only_share.is_some() => None,
            Some(true) => None,
            Some(false) => Some(Withheld::Background),
            None => Some(Withheld::UnknownSession),
        }
    }

    /// Whether an update changed what the share minds.
    fn minds(&self, change: &Change) -> bool {
        match (&self.minded, &change.after) {
            (Some(minded), Some(row)) => minded.takes(row, change.before.as_ref()),
            (_, _) => true,
        }
    }

    /// As what the record leaves, and with which columns, once the script has seen it; `None` when that withholds it. It
    /// is not asked about a mere delete of a record where it is no longer.
    fn scripted<'a>(
        &self,
        change: &'a Change,
        row: Option<Cow<'a, Row>>,
        now: Option<&Result<Ways, Withheld>>,
        was: &Result<Ways, Withheld>,
    ) -> Result<Option<Scripted<'a>>, (Way, ScriptError)> {
        let may_carry = now.is_none() || self.on_leave == OnLeave::Update;
        let way = ways(now).next().or_else(|| ways(Some(was)).next().filter(|_| may_carry));
        match (&self.script, way) {
            (Some(script), Some(way)) => script.run(change, row).map_err(|error| (way, error)),
            (None, _) | (_, None) => Ok(Some((change.action, row))),
        }
    }

    /// What goes where the record was and no longer is.
    fn where_it_left<'a>(
        &'a self,
        leaves: &Leaves<'a, '_>,
        way: Way,
        now: Option<&Result<Ways, Withheld>>,
    ) -> Result<Option<Shared<'a>>, &'a str> {
        // The source deleted it.
        let Some(now) = now else { return Ok(Some(self.delete(leaves.change, way, leaves.change.version))) };
        match self.on_leaving(way, now) {
            OnLeave::Delete => Ok(Some(self.delete(leaves.change, way, leaves.change.version.below()))),
            OnLeave::Update => self.record(leaves, way, self.sent_as(leaves.change.action)).map(Some),
            OnLeave::Ignore => Ok(None),
        }
    }

    /// The deletes among what goes where the record was and no longer is: they go though the script withholds the record
    /// or fails on it, for they say nothing of it. None for what the source deleted, which is the script's to withhold.
    fn deletes_of_left<'a>(
        &'a self,
        change: &'a Change,
        now: Option<&Result<Ways, Withheld>>,
        was: &Result<Ways, Withheld>,
    ) -> Vec<Shared<'a>> {
        let Some(now) = now else { return Vec::new() };
        let left = self.ways_left(was, Some(now)).into_iter();
        let deleted = left.filter(|way| self.on_leaving(*way, now) == OnLeave::Delete);
        deleted.map(|way| self.delete(change, way, change.version.below())).collect()
    }

    /// What the subscriber of a way gets for a record that an update takes away from it.
    fn on_leaving(&self, way: Way, now: &Result<Ways, Withheld>) -> OnLeave {
        match now {
            Ok(now) if now.levels.contains(&way.level) => self.on_leave,
            Ok(_) | Err(Withheld::Class) if self.delete_on_class_change => OnLeave::Delete,
            Ok(_) | Err(Withheld::Class) => OnLeave::Ignore,
            Err(_) => self.on_leave,
        }
    }

    fn delete<'a>(&'a self, change: &'a Change, way: Way, version: Version) -> Shared<'a> {
        let table = self.classes.name(way.level);
        Shared { action: Action::Delete, table, way, version, key: &change.key, data: None, partial: false }
    }

    /// The record as it is after the change.
    fn record<'a>(&'a self, leaves: &Leaves<'a, '_>, way: Way, action: Action) -> Result<Shared<'a>, &'a str> {
        let &Leaves { change, row, only_updated } = leaves;
        let (table, key, version) = (self.classes.name(way.level), &change.key, change.version);
        let shared = Shared { action, table, way, version, key, data: None, partial: false };
        let Some(row) = row else { return Ok(shared) };
        let row = self.select(row.clone(), change, way)?;
        let before = change.before.as_ref();
        let (row, is_part) =
            if only_updated { updated(row, before, &self.always(key), &self.displays) } else { (row, false) };
        let partial = is_part || row.has_unchanged();
        Ok(Shared { data: Some(self.form.apply(row, key.columns())?), partial, ..shared })
    }

    /// The columns that go along with every part of an update.
    fn always<'a>(&'a self, key: &'a Row) -> Vec<&'a str> {
        key.columns().iter().chain(self.id.as_deref()).collect()
    }

    /// How the record is sent: a class that gets it by an update never had it.
    fn action(&self, change: &Change, way: Way, was: &Result<Ways, Withheld>) -> Action {
        let had_other_class = match was {
            Ok(was) => !was.levels.contains(&way.level),
            Err(reason) => *reason == Withheld::Class,
        };
        let follows_class = self.classes.may_change() && self.delete_on_class_change;
        if change.action == Action::Update && follows_class && had_other_class {
            Action::Bulk
        } else {
            self.sent_as(change.action)
        }
    }

    fn sent_as(&self, action: Action) -> Action {
        match action {
            Action::Insert | Action::Update if self.update_or_insert => Action::Bulk,
            Action::Insert | Action::Update | Action::Delete | Action::Bulk => action,
        }
    }

    /// The row, or its part that goes this way; the name of a selected column it lacks otherwise.
    fn select<'a>(&'a self, row: Cow<'a, Row>, change: &Change, way: Way) -> Result<Cow<'a, Row>, &'a str> {
        let read = change.after.as_ref().map_or(0, |row| row.columns().len());
        let (of, key) = (row.columns().clone(), change.key.columns());
        let selection = self.selections.get(way.route).and_then(Option::as_deref);
        let Some(projection) = self.projections.get(way.level * self.routes.len() + way.route) else {
            unreachable!("there is one for each way")
        };
        let selected = projection.with(
            |projection| projection.is_of(&of, key),
            || Projection::new(selection, self.classes.hidden(way.level), &of, read, key, &self.displays),
            |projection| projection.apply(row),
        );
        selected.map_err(|place| selection.and_then(|columns| columns.get(place)).map_or("", AsRef::as_ref))
    }
}

/// A record on its way out.
struct Leaves<'a, 'r> {
    change: &'a Change,
    /// Its columns, as the script left them.
    row: Option<&'r Cow<'a, Row>>,
    /// Whether only those leave that the change changed.
    only_updated: bool,
}

#[cfg(test)]
mod tests;
