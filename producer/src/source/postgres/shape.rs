//! A table's columns as the stream defines them, and the rows they make of its cells.
//!
//! Fails with [`SourceError::Protocol`] on cells that do not fit.

use std::sync::Arc;

use syncline_shared::record::{Columns, Row, RowBuilder, Value};

use super::pgoutput::{Cell, Identity, Old, Relation};
use super::table::Table;
use super::values::Kind;
use crate::source::SourceError;

/// A table's definition from the stream, watched or not.
pub(super) struct Definition {
    identity: Identity,
    columns: Columns,
    kinds: Vec<Kind>,
    key: Vec<bool>,
}

/// A watched table's columns, as the changes that follow have them.
pub(super) struct Shape {
    /// The table.
    pub(super) table: Arc<Table>,
    /// How many of the columns the stream sends.
    sent: usize,
    /// All columns.
    pub(super) columns: Columns,
    /// The kind of each column.
    pub(super) kinds: Vec<Kind>,
    key: Columns,
    key_places: Vec<usize>,
}

impl Definition {
    pub(super) fn new(relation: &Relation<'_>) -> Self {
        let columns = &relation.columns;
        Self {
            identity: relation.identity,
            columns: Columns::new(columns.iter().map(|column| column.name)),
            kinds: columns.iter().map(|column| Kind::of(column.type_oid)).collect(),
            key: columns.iter().map(|column| column.key).collect(),
        }
    }
}

impl Old<'_> {
    pub(super) fn cells(&self) -> &[Cell<'_>] {
        match self {
            Self::Key(cells) | Self::Full(cells) => cells,
        }
    }
}

impl Shape {
    /// The key is the one the stream marks, which is the one the table had then; where it marks none or all columns, the
    /// one in the catalog. Columns that shares name and the table got since follow those the stream sends, as ones still to be read.
    pub(super) fn new(table: Arc<Table>, definition: &Definition) -> Self {
        let marked = match definition.identity {
            Identity::Default => true,
            Identity::Index => !table.partitioned,
            Identity::Nothing | Identity::Full => false,
        };
        let mut key_places: Vec<usize> = if marked {
            definition.key.iter().enumerate().filter_map(|(place, key)| key.then_some(place)).collect()
        } else {
            Vec::new()
        };
        if key_places.is_empty() {
            let places = table.key.iter().map(|name| definition.columns.position(name)).collect::<Option<Vec<_>>>();
            key_places = places.unwrap_or_default();
        }
        let sent = &definition.columns;
        let named = |name: &str| table.named.iter().any(|named| **named == *name);
        let added = table.columns.iter().filter(|(name, _)| named(name) && sent.position(name).is_none());
        let added: Vec<_> = added.collect();
        let columns = match added.as_slice() {
            [] => sent.clone(),
            added => Columns::new(sent.iter().chain(added.iter().map(|(name, _)| name.as_str()))),
        };
        let kinds = definition.kinds.iter().copied().chain(added.iter().map(|(_, oid)| Kind::of(*oid))).collect();
        let key = Columns::new(key_places.iter().filter_map(|&place| columns.name(place)));
        Self { table, sent: sent.len(), columns, kinds, key, key_places }
    }

    /// Whether records are known by the key the table has now.
    pub(super) fn has_tables_key(&self) -> bool {
        self.key.iter().eq(self.table.key.iter().map(String::as_str))
    }

    /// The key columns of a row. A key stored apart that the change left alone stands in the old row.
    pub(super) fn key(&self, cells: &[Cell<'_>], old: Option<&Old<'_>>) -> Result<Row, SourceError> {
        let mut row = Row::builder(self.key.clone());
        for &place in &self.key_places {
            let (cell, kind) = self.cell(place, cells, old)?;
            if !matches!(cell, Cell::Text(_)) {
                return Err(SourceError::Protocol {
                    problem: format!("a change of {} without its key", self.table.name),
                });
            }
            push(&mut row, cell, kind).ok_or_else(|| self.misfit())?;
        }
        Ok(row.finish())
    }

    /// All columns of a row; what the change left alone and the server did not send comes from the old row where that
    /// has it.
    pub(super) fn row(&self, cells: &[Cell<'_>], old: Option<&Old<'_>>) -> Result<Row, SourceError> {
        if cells.len() != self.sent {
            return Err(self.misfit());
        }
        let text = |cell: &Cell<'_>| if let Cell::Text(text) = cell { text.len() } else { 0 };
        let mut row = Row::builder(self.columns.clone()).with_room(cells.iter().map(text).sum());
        for place in 0..cells.len() {
            let (cell, kind) = self.cell(place, cells, old)?;
            push(&mut row, cell, kind).ok_or_else(|| self.misfit())?;
        }
        for _ in self.sent..self.columns.len() {
            row.push(Value::Unchanged);
        }
        Ok(row.finish())
    }

    /// The row before the change: all of it, or the key alone.
    pub(super) fn before(&self, old: &Old<'_>) -> Result<Row, SourceError> {
        match old {
            Old::Full(cells) => self.row(cells, None),
            Old::Key(cells) => self.key(cells, None),
        }
    }

    fn cell<'a>(
        &self,
        place: usize,
        cells: &[Cell<'a>],
        old: Option<&Old<'a>>,
    ) -> Result<(Cell<'a>, Kind), SourceError> {
        let (Some(&cell), Some(&kind)) = (cells.get(place), self.kinds.get(place)) else { return Err(self.misfit()) };
        let before = match old {
            Some(Old::Full(old)) => old.get(place),
            Some(Old::Key(old)) if self.key_places.contains(&place) => old.get(place),
            Some(Old::Key(_)) | None => None,
        };
        Ok((before.copied().filter(|_| cell == Cell::Unchanged).unwrap_or(cell), kind))
    }

    fn misfit(&self) -> SourceError {
        SourceError::Protocol { problem: format!("a change of {} does not fit its definition", self.table.name) }
    }
}

fn push(row: &mut RowBuilder, cell: Cell<'_>, kind: Kind) -> Option<()> {
    match cell {
        Cell::Null => row.push(Value::Null),
        Cell::Unchanged => row.push(Value::Unchanged),
        Cell::Text(text) => return kind.push(row, text),
    }
    Some(())
}
