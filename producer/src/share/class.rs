//! Tables that extend each other: under which of them a record leaves.
//!
//! A record is one of its class's table and of every table that extends. The class is the table it is stored in, or what
//! its class column says. Knows rows and declarations, not what is on them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use smallvec::SmallVec;
use syncline_shared::record::{Row, Value};

use crate::source::Tables;

/// Under which tables a record leaves, when the share's table is extended by others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hierarchy {
    /// The share's own, with its columns, whatever class the record is of.
    Base,
    /// Every one from the share's own down to the record's class: one message each.
    All,
    /// The record's class alone.
    #[default]
    Leaf,
}

/// Places of tables a record leaves under, from the share's own downwards.
pub(super) type Levels = SmallVec<[usize; 4]>;

/// The tables of one share.
#[derive(Debug)]
pub(super) struct Classes {
    /// The share's own first.
    tables: Vec<Class>,
    hierarchy: Hierarchy,
    /// The column that names the class; without it, the table a record is stored in is its class.
    column: Option<Box<str>>,
    /// Whether the share's own extends none: then every record is the share's, of whatever class.
    is_top: bool,
    /// The tables records are stored in.
    stored: Vec<Arc<str>>,
}

#[derive(Debug)]
struct Class {
    name: Arc<str>,
    /// The tables from the share's own down to this one.
    path: Levels,
    /// Columns of the source that this table does not have: those of other classes.
    hidden: Vec<Box<str>>,
}

impl Classes {
    /// Works out what a share of this table is about.
    pub(super) fn new(table: &str, hierarchy: Hierarchy, declared: &Tables) -> Self {
        let path = declared.path(table).unwrap_or_else(|| vec![table]);
        let top = path.first().copied().unwrap_or(table);
        let (family, own) = (declared.family(top), declared.family(table));
        let tables: Vec<_> = own
            .iter()
            .map(|name| {
                let path = declared.path(name).unwrap_or_default();
                let levels = path.iter().filter_map(|level| own.iter().position(|one| one == level));
                let has = |column: &String| path.iter().any(|level| declared.added(level).contains(column));
                let foreign = family.iter().flat_map(|other| declared.added(other)).filter(|column| !has(column));
                Class {
                    name: (*name).into(),
                    path: levels.collect(),
                    hidden: foreign.map(|column| column.as_str().into()).collect(),
                }
            })
            .collect();
        let column = declared.class_column(table);
        let stored = match column {
            Some(_) => vec![top.into()],
            None => tables.iter().map(|class| Arc::clone(&class.name)).collect(),
        };
        Self { tables, hierarchy, column: column.map(Into::into), is_top: top == table, stored }
    }

    /// The tables records are stored in.
    pub(super) fn stored(&self) -> &[Arc<str>] {
        &self.stored
    }

    /// The tables records leave under.
    pub(super) fn leaving(&self) -> impl Iterator<Item = &Arc<str>> {
        let names = self.tables.iter().map(|class| &class.name);
        names.take(if self.hierarchy == Hierarchy::Base { 1 } else { usize::MAX })
    }

    /// How many tables there are.
    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    /// The name of a table by its place.
    pub(super) fn name(&self, level: usize) -> &Arc<str> {
        let Some(class) = self.tables.get(level) else { unreachable!("levels are places of tables") };
        &class.name
    }

    /// Columns of the source that the table at this place does not have.
    pub(super) fn hidden(&self, level: usize) -> &[Box<str>] {
        self.tables.get(level).map_or(&[], |class| &class.hidden)
    }

    /// The same for a table records are stored in.
    pub(super) fn hidden_in(&self, stored: &str) -> &[Box<str>] {
        if self.column.is_some() {
            return &[];
        }
        self.tables.iter().find(|class| *class.name == *stored).map_or(&[], |class| &class.hidden)
    }

    /// The column that names the class.
    pub(super) fn column(&self) -> Option<&str> {
        self.column.as_deref()
    }

    /// Whether a record may change the tables it leaves under and stay the same record.
    pub(super) fn may_change(&self) -> bool {
        self.column.is_some() && (!self.is_top || self.leaving().count() > 1)
    }

    /// Under which tables a record leaves as it is now: none when it is of a class that is not the share's. A class column
    /// the row lacks is an error.
    pub(super) fn now(&self, stored: &str, row: &Row) -> Result<Levels, &str> {
        let Some(column) = &self.column else { return Ok(self.levels(self.stored_in(stored))) };
        let class = row.get(column).ok_or(&**column)?;
        Ok(self.named(class.as_text().unwrap_or_default()))
    }

    /// Under which tables a record may have left before, as far as the row tells.
    pub(super) fn before(&self, stored: &str, row: &Row) -> Levels {
        let Some(column) = &self.column else { return self.levels(self.stored_in(stored)) };
        match row.get(column) {
            None | Some(Value::Unchanged) => (0..self.leaving().count()).collect(),
            Some(class) => self.named(class.as_text().unwrap_or_default()),
        }
    }

    fn stored_in(&self, table: &str) -> usize {
        self.tables.iter().position(|class| *class.name == *table).unwrap_or_default()
    }

    /// The levels of the class of this name. One that nothing declares is the share's own, if that is the one at the top.
    fn named(&self, name: &str) -> Levels {
        match self.tables.iter().position(|class| *class.name == *name) {
            Some(class) => self.levels(class),
            None if self.is_top => self.levels(0),
            None => Levels::new(),
        }
    }

    fn levels(&self, class: usize) -> Levels {
        match (self.hierarchy, self.tables.get(class)) {
            (Hierarchy::Base, _) | (_, None) => Levels::from_slice(&[0]),
            (Hierarchy::Leaf, Some(_)) => Levels::from_slice(&[class]),
            (Hierarchy::All, Some(class)) => class.path.clone(),
        }
    }
}
