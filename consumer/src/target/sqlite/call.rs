//! The records of one call, within its transaction.
//!
//! What the file is like is read anew in every call: the transaction keeps others from changing it meanwhile.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OptionalExtension as _, params, params_from_iter};
use syncline_shared::record::{Action, Value, Version};

use super::catalog::{self, Table};
use super::error::Doing;
use super::shape::{self, ANY_PARKED, BURIED, BURY, PARKED_BEFORE, Shape, UNEARTH, UNPARK_UPTO, VERSION};
use crate::target::fold::{Item, columns, key_name};
use crate::target::{ApplyError, Outcome};

/// A call's transaction and what it has learned of the tables.
pub(super) struct Call<'c, 'a> {
    connection: &'c Connection,
    address: &'c str,
    evolve: bool,
    /// Some record of the file is parked.
    is_parked: bool,
    tables: HashMap<&'a str, Table>,
    shapes: Vec<Rc<Shape<'a>>>,
}

/// What the file has of a record.
struct Held {
    /// There is a row.
    row: bool,
    /// There is a tombstone.
    tombstone: bool,
    /// The newest version; `None` for a record that is unknown or was never written by Syncline.
    version: Option<Version>,
}

impl<'c, 'a> Call<'c, 'a> {
    /// Begins with the connection in a transaction; makes Syncline's own tables where they are missing.
    pub(super) fn new(connection: &'c Connection, address: &'c str, evolve: bool) -> Result<Self, ApplyError> {
        let created = connection.execute_batch(catalog::CREATE_BOOKKEEPING);
        let asked = created.and_then(|()| connection.prepare_cached(ANY_PARKED)?.query_row([], |row| row.get(0)));
        let is_parked = asked.map_err(|cause| Doing { address, table: "" }.failed(cause))?;
        Ok(Self { connection, address, evolve, is_parked, tables: HashMap::new(), shapes: Vec::new() })
    }

    /// Writes a record if it is newer than what the file has.
    pub(super) fn apply(&mut self, item: &Item<'a>) -> Result<Outcome, ApplyError> {
        let record = item.record;
        let (columns, key) = (columns(item.table, record), record.key.columns().len());
        let shape = self.shape(&item.table.into, &columns, key)?;
        let doing = self.doing(shape.into);
        let mut values = shape.bind(&columns).ok_or_else(|| doing.refused("bytes that are not base64"))?;
        let name = key_name(&record.key);
        let version = record.version.to_bytes();
        if self.is_parked {
            if record.partial {
                let asked = self.connection.prepare_cached(PARKED_BEFORE);
                let asked = asked.and_then(|mut asked| {
                    asked.query_row(params![shape.table, name, version], |row| row.get(0)).optional()
                });
                if let Some(behind) = asked.map_err(|cause| doing.failed(cause))? {
                    return Ok(Outcome::Waits { behind });
                }
            }
            let forgotten = self.connection.execute(UNPARK_UPTO, params![shape.table, name, version]);
            forgotten.map_err(|cause| doing.failed(cause))?;
        }
        let held = self.held(&shape, values.get(..key).unwrap_or_default(), &name)?;
        match held.version {
            Some(version) if version == record.version => return Ok(Outcome::Duplicate),
            Some(version) if version > record.version => return Ok(Outcome::Stale),
            Some(_) | None => {}
        }
        if item.action == Action::Delete {
            if held.row {
                self.run(doing, &shape.delete, params_from_iter(values.iter().take(key)))?;
            }
            self.run(doing, BURY, params![shape.table, name, version])?;
        } else {
            let write = if held.row { &shape.update } else { &shape.insert };
            values.push(ToSqlOutput::from(version.as_slice()));
            self.run(doing, write, params_from_iter(&values))?;
            if held.tombstone {
                self.run(doing, UNEARTH, params![shape.table, name])?;
            }
        }
        Ok(Outcome::Applied)
    }

    fn held(&self, shape: &Shape<'_>, key: &[ToSqlOutput<'_>], name: &str) -> Result<Held, ApplyError> {
        let row: Option<Option<[u8; 16]>> = self.look_up(shape.into, &shape.held, params_from_iter(key))?;
        let tombstone: Option<Option<[u8; 16]>> = self.look_up(shape.into, BURIED, params![shape.table, name])?;
        let version = row.flatten().max(tombstone.flatten()).map(Version::from_bytes);
        Ok(Held { row: row.is_some(), tombstone: tombstone.is_some(), version })
    }

    fn look_up(
        &self,
        table: &str,
        question: &str,
        values: impl rusqlite::Params,
    ) -> Result<Option<Option<[u8; 16]>>, ApplyError> {
        let asked = self.connection.prepare_cached(question);
        let answer = asked.and_then(|mut asked| asked.query_row(values, |row| row.get(0)).optional());
        answer.map_err(|cause| self.doing(table).failed(cause))
    }

    /// Runs a statement that has a row to write.
    fn run(&self, doing: Doing<'_>, statement: &str, values: impl rusqlite::Params) -> Result<(), ApplyError> {
        let mut prepared = self.connection.prepare_cached(statement).map_err(|cause| doing.failed(cause))?;
        match prepared.execute(values).map_err(|cause| doing.writing(cause))? {
            0 => Err(doing.refused("a trigger or conflict clause skips it")),
            _ => Ok(()),
        }
    }

    /// The statements for records with these columns, of which the first `key` are the key.
    fn shape(
        &mut self,
        into: &'a str,
        columns: &[(&'a str, Value<'_>)],
        key: usize,
    ) -> Result<Rc<Shape<'a>>, ApplyError> {
        if let Some(known) = self.shapes.iter().rev().find(|shape| shape.is_of(into, columns, key)) {
            return Ok(Rc::clone(known));
        }
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        shape::distinct(into, &names)?;
        let table = self.table(into, &names, key)?;
        let shape = Rc::new(Shape::new(into, table, names, key));
        self.shapes.push(Rc::clone(&shape));
        Ok(shape)
    }

    /// A table that has these columns, made fit as far as that is permitted.
    fn table(&mut self, into: &'a str, columns: &[&str], key: usize) -> Result<&Table, ApplyError> {
        let (connection, evolve, doing) = (self.connection, self.evolve, self.doing(into));
        let key = columns.get(..key).unwrap_or_default();
        let read = || Table::read(connection, into).map_err(|cause| doing.failed(cause));
        let change = |statement: String| {
            tracing::info!(target_table = into, statement, "changing the target's schema");
            connection.execute_batch(&statement).map_err(|cause| doing.failed(cause))
        };
        let table = match self.tables.entry(into) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let missing = || catalog::missing_table(into, columns, key);
                let table = match read()? {
                    Some(table) => table,
                    None if evolve => {
                        change(catalog::create_table(into, columns, key))?;
                        read()?.ok_or_else(missing)?
                    }
                    None => return Err(missing()),
                };
                unknown.insert(table)
            }
        };
        table.fits(key)?;
        let lacking = table.lacks(columns);
        if !lacking.is_empty() && !evolve {
            return Err(table.missing_columns(&lacking));
        }
        for name in table.lacks(&[VERSION]).into_iter().chain(lacking) {
            change(table.add_column(name))?;
            table.added(name);
        }
        Ok(table)
    }

    fn doing<'d>(&self, table: &'d str) -> Doing<'d>
    where
        'c: 'd,
    {
        Doing { address: self.address, table }
    }
}
