//! The before-share script: what it makes of one change.
//!
//! It sees a copy of the record, so that no share finds what another one's script did to it.

use std::borrow::Cow;

use syncline_shared::record::{Action, Row};
use syncline_shared::script::{Effect, Script, ScriptError, Subject};

use crate::source::Change;

/// A share's script.
#[derive(Debug)]
pub(super) struct BeforeShare(Script);

/// What leaves: as what, and with which columns; none for a delete.
pub(super) type Scripted<'a> = (Action, Option<Cow<'a, Row>>);

impl BeforeShare {
    pub(super) const fn new(script: Script) -> Self {
        Self(script)
    }

    /// Whether the script asks what changed, by its words.
    pub(super) fn asks_for_changes(&self) -> bool {
        self.0.asks_for_changes()
    }

    /// What the script logs about a change.
    pub(super) fn log(&self, change: &Change, row: Option<Cow<'_, Row>>) -> Vec<String> {
        self.0.run(subject(change, row.as_deref())).map(|effect| effect.log).unwrap_or_default()
    }

    /// Runs the script on a change and the row after it; `None` when it withholds it.
    pub(super) fn run<'a>(
        &self,
        change: &Change,
        row: Option<Cow<'a, Row>>,
    ) -> Result<Option<Scripted<'a>>, ScriptError> {
        let Effect { action, ignore, row: set, .. } = self.0.run(subject(change, row.as_deref()))?;
        if ignore {
            return Ok(None);
        }
        Ok(Some((action, set.map(Cow::Owned).or(row).filter(|_| action != Action::Delete))))
    }
}

/// What the script sees: the record after the change, or what is known of a deleted one.
fn subject<'a>(change: &'a Change, row: Option<&'a Row>) -> Subject<'a> {
    let (key, before) = (&change.key, change.before.as_ref());
    let row = row.or(before).unwrap_or(key);
    Subject { table: &change.table, action: change.action, key, row, before }
}
