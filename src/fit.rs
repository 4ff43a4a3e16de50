//! Whether a share fits the tables it is for, as a look at their source found them; for `syncline check`.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_producer::config::SourceConfig;
use syncline_producer::share::{Share, ShareConfig, ShareOn, display_name};
use syncline_producer::source::Checked;
use syncline_shared::config::Places;

/// A share, and what is known of its source.
pub(crate) struct Fit<'a> {
    /// Where the share stands in the file.
    pub places: &'a Places,
    pub share: &'a Share,
    pub config: &'a ShareConfig,
    pub source: &'a SourceConfig,
    pub checked: &'a Checked,
}

impl Fit<'_> {
    /// What keeps the share, or its whole source, from working.
    pub(crate) fn problems(&self) -> Vec<String> {
        let of_table = |table| [self.unknown_columns(table), self.lacking_before(table), self.misfits(table)].concat();
        let mut problems: Vec<_> = self.share.tables().iter().flat_map(of_table).collect();
        if let SourceConfig::Sqlite(_) = self.source {
            problems.extend(self.untold_sessions());
        }
        problems
    }

    /// What may well be meant so, and what comes of it.
    pub(crate) fn notes(&self) -> Vec<String> {
        let of_table = |table| [self.guesses(table), self.untold_deletes(table)].into_iter().flatten();
        let mut notes: Vec<_> = self.share.tables().iter().flat_map(of_table).collect();
        if let SourceConfig::Postgres(_) = self.source {
            notes.extend(self.untold_sessions());
        }
        notes
    }

    /// The columns a share names that its table does not have: at run time they stop the whole source.
    fn unknown_columns(&self, table: &Arc<str>) -> Vec<String> {
        let (name, Some(columns)) = (self.share.name(), self.checked.columns.get(table)) else { return Vec::new() };
        let used: BTreeSet<_> = self.share.columns_used(table).collect();
        let unknown = used.into_iter().filter(|used| !columns.iter().any(|column| column == used));
        let accepted = columns.join(", ");
        let tell = |column| {
            format!("share {name} names column {column}, which table {table} does not have; it has {accepted}")
        };
        unknown.map(tell).collect()
    }

    /// Masks, names and constants that the table's key or another column has no room for: at run time they stop the whole
    /// source.
    fn misfits(&self, table: &Arc<str>) -> Vec<String> {
        let (columns, key) = (self.checked.columns.get(table), self.checked.keys.get(table));
        let (Some(columns), Some(key)) = (columns, key) else { return Vec::new() };
        let others: Vec<_> = columns.iter().filter(|column| !key.contains(column)).map(String::as_str).collect();
        let (others, all) = (others.join(", "), columns.join(", "));
        let config = self.config;
        let mut told = Vec::new();
        for name in self.share.misfits(columns, key) {
            let mut tell = |field: &str, text: String| {
                let path = format!("share.{}.{field}", self.share.name());
                told.push(format!("{}: {text}", self.places.at(&path)));
            };
            let of_key = format!("is part of the key of table {table} and leaves as it is; accepted: {others}");
            let taken = format!("is the name of another column of table {table} that leaves; any name but {all}");
            if key.contains(&name) && config.mask.contains_key(&name) {
                tell(&format!("mask.{name}"), of_key.clone());
            }
            if key.contains(&name) && config.rename.contains_key(&name) {
                tell(&format!("rename.{name}"), format!("{of_key}; a subscription renames key columns"));
            }
            for (from, _) in config.rename.iter().filter(|(_, to)| **to == name) {
                tell(&format!("rename.{from}"), format!("{name} {taken}"));
            }
            if config.constants.contains_key(&name) {
                tell(&format!("constants.{name}"), taken.clone());
            }
            for column in config.display.keys().filter(|column| display_name(column) == name) {
                tell(&format!("display.{column}"), format!("its {name} {taken}"));
            }
        }
        told
    }

    /// Values a share cannot do without, and that changes of the table do not carry. At run time that stops the source, but
    /// for what is said of columns: more leaves then than was asked for, and of the same records.
    fn lacking_before(&self, table: &Arc<str>) -> Vec<String> {
        let (name, mend) = (self.share.name(), self.checked.without_before.get(table));
        let mend = mend.filter(|_| self.share.needs_before() || self.share.asks_for_changes());
        let tell = |mend| {
            format!(
                "share {name} needs the values before each change of table {table}, which its changes do not carry; mend \
                 it with: {mend}"
            )
        };
        mend.map(tell).into_iter().collect()
    }

    /// What it costs not to know what a record was.
    fn guesses(&self, table: &Arc<str>) -> Option<String> {
        let (name, mend) = (self.share.name(), self.checked.without_before.get(table)?);
        let guesses = self.share.looks_before() && !self.share.needs_before();
        guesses.then(|| {
            format!(
                "changes of table {table} do not carry the values before them, so share {name} sends a delete, the key \
                 alone, for every update of a record where it is not, whether it was there before or not: harmless, but a \
                 message each. To send them only where it was: {mend}; to send none: on_leave = \"ignore\""
            )
        })
    }

    /// Tables without the column that tells persons from jobs.
    fn untold_sessions(&self) -> Vec<String> {
        let Some(rule) = self.source.session().filter(|_| self.config.interactive_only) else { return Vec::new() };
        let column = &rule.user_column;
        let lacks = |table: &&Arc<str>| {
            self.checked.columns.get(*table).is_some_and(|columns| !columns.iter().any(|one| one == column))
        };
        let tell = |table| {
            format!(
                "share {} is interactive only, and table {table} has no column {column}, by which source {} tells persons \
                 from jobs: no change leaves by it; name a column the table has in session, or say interactive_only = false",
                self.share.name(),
                self.config.source
            )
        };
        self.share.tables().iter().filter(lacks).map(tell).collect()
    }

    /// Deletes of which the column says nothing, since they carry the key alone.
    fn untold_deletes(&self, table: &Arc<str>) -> Option<String> {
        let mend = self.checked.without_before.get(table)?;
        self.source.session().filter(|_| self.config.interactive_only && self.config.on.contains(&ShareOn::Delete))?;
        Some(format!(
            "share {} is interactive only, and deletes of table {table} carry the key alone, so nobody can tell whose they \
             are but by a session message: without one they are withheld. To let the column of session tell: {mend}; to \
             let all out: interactive_only = false",
            self.share.name()
        ))
    }
}
