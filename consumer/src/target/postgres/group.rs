//! Operations that one statement can write: same table, same form, same columns.

use std::sync::Arc;

use crate::target::fold::{Change, FoldedTable, Operation};

/// How a group is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// Rows are removed.
    Delete,
    /// Records that can make a new row or replace an old one.
    Whole,
    /// Records that may need the row they belong to, or that were merged from several.
    Part,
}

/// Operations that are written together.
#[derive(Debug)]
pub(super) struct Group<'o, 'a> {
    pub(super) form: Form,
    /// The columns of every operation, in its order.
    pub(super) columns: Arc<[&'a str]>,
    pub(super) operations: Vec<&'o Operation<'a>>,
}

/// Sorts a table's operations into groups, deletes first: what they free (a unique value) may be taken again.
pub(super) fn groups<'o, 'a>(table: &'o FoldedTable<'a>, carries_all: impl Fn(&[&str]) -> bool) -> Vec<Group<'o, 'a>> {
    let mut groups: Vec<Group<'o, 'a>> = Vec::new();
    for operation in &table.operations {
        let whole = operation.since == operation.version;
        let alike = |group: &&mut Group<'o, 'a>| match &operation.change {
            Change::Delete => group.form == Form::Delete,
            Change::Upsert { columns, partial, .. } => {
                let form = if whole && !partial { Form::Whole } else { Form::Part };
                (group.form == form || (form == Form::Whole && group.form == Form::Part)) && *columns == group.columns
            }
        };
        if let Some(group) = groups.iter_mut().find(alike) {
            group.operations.push(operation);
            continue;
        }
        let (form, columns) = match &operation.change {
            Change::Delete => (Form::Delete, table.key_columns.as_slice().into()),
            Change::Upsert { columns, partial, .. } => {
                let form = if whole && !partial && carries_all(columns) { Form::Whole } else { Form::Part };
                (form, columns.clone())
            }
        };
        groups.push(Group { form, columns, operations: vec![operation] });
    }
    groups.sort_by_key(|group| group.form != Form::Delete);
    groups
}
