//! The statements for records of one table and one set of columns. Pure text; every name is quoted here.

use rusqlite::types::ToSqlOutput;
use syncline_shared::record::Value;
use syncline_shared::sqlite::quote;

use super::catalog::Table;
use super::value::Affinity;
use crate::target::ApplyError;

/// Column of the target table that holds a record's version, 16 bytes.
pub(super) const VERSION: &str = "_syncline_version";

/// The version of a deleted record: table, key.
pub(super) const BURIED: &str = "SELECT version FROM _syncline_tombstone WHERE table_name = ?1 AND key = ?2";

/// Remembers a deleted record: table, key, version.
pub(super) const BURY: &str = "INSERT INTO _syncline_tombstone (table_name, key, version, deleted_at) \
     VALUES (?1, ?2, ?3, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
     ON CONFLICT (table_name, key) DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at";

/// Forgets that a record was deleted: table, key.
pub(super) const UNEARTH: &str = "DELETE FROM _syncline_tombstone WHERE table_name = ?1 AND key = ?2";

/// Whether any record is parked.
pub(super) const ANY_PARKED: &str = "SELECT EXISTS (SELECT 1 FROM _syncline_parked)";

/// The oldest dead letter of a record with an older version: table, key, version.
pub(super) const PARKED_BEFORE: &str = "SELECT letter FROM _syncline_parked \
     WHERE table_name = ?1 AND key = ?2 AND version < ?3 ORDER BY version LIMIT 1";

/// The versions of a record that are parked, with their dead letters, oldest first: table, key.
pub(super) const PARKED: &str =
    "SELECT version, letter FROM _syncline_parked WHERE table_name = ?1 AND key = ?2 ORDER BY version";

/// Forgets what is parked of a record: table, key, newest version.
pub(super) const UNPARK_UPTO: &str =
    "DELETE FROM _syncline_parked WHERE table_name = ?1 AND key = ?2 AND version <= ?3";

/// Remembers a parked record: table, key, version, dead letter.
pub(super) const PARK: &str = "INSERT INTO _syncline_parked (table_name, key, version, letter, parked_at) \
     VALUES (?1, ?2, ?3, ?4, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
     ON CONFLICT (table_name, key, version) DO UPDATE SET letter = excluded.letter";

/// Forgets a record that is parked as this dead letter.
pub(super) const UNPARK: &str = "DELETE FROM _syncline_parked WHERE letter = ?1";

/// How often a message was tried alone.
pub(super) const TRIES: &str = "SELECT tries FROM _syncline_tries WHERE message = ?1";

/// Remembers that: message, tries.
pub(super) const SET_TRIES: &str = "INSERT INTO _syncline_tries (message, tries, tried_at) \
     VALUES (?1, ?2, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
     ON CONFLICT (message) DO UPDATE SET tries = excluded.tries, tried_at = excluded.tried_at";

/// Forgets that.
pub(super) const FORGET_TRIES: &str = "DELETE FROM _syncline_tries WHERE message = ?1";

/// Records of one table with the same columns. Parameters are the columns' values in order, key first, then the version.
#[derive(Debug)]
pub(super) struct Shape<'a> {
    /// The target's table as the subscription calls it.
    pub(super) into: &'a str,
    /// The table's name in the tombstones.
    pub(super) table: String,
    columns: Vec<&'a str>,
    affinities: Vec<Affinity>,
    key: usize,
    /// Reads the version of a row; of the parameters it takes the key.
    pub(super) held: String,
    /// Makes a row.
    pub(super) insert: String,
    /// Changes a row; columns that are not of this shape stay as they are.
    pub(super) update: String,
    /// Removes a row; of the parameters it takes the key.
    pub(super) delete: String,
}

impl<'a> Shape<'a> {
    /// Of these columns the first `key` are the key. The table has them all, so that SQLite takes none for a text.
    pub(super) fn new(into: &'a str, table: &Table, columns: Vec<&'a str>, key: usize) -> Self {
        let name = quote(&table.name);
        let equal = |(index, column): (usize, &&str)| format!("{} = ?{}", quote(column), index + 1);
        let same_key = columns.iter().enumerate().take(key).map(equal).collect::<Vec<_>>().join(" AND ");
        let written = || columns.iter().chain(&[VERSION]).enumerate();
        let set = written().skip(key).map(equal).collect::<Vec<_>>().join(", ");
        let places = written().map(|(index, _)| format!("?{}", index + 1)).collect::<Vec<_>>().join(", ");
        Self {
            into,
            held: format!("SELECT {VERSION} FROM {name} WHERE {same_key}"),
            insert: format!("INSERT INTO {name} ({}, {VERSION}) VALUES ({places})", list(&columns)),
            update: format!("UPDATE {name} SET {set} WHERE {same_key}"),
            delete: format!("DELETE FROM {name} WHERE {same_key}"),
            table: table.name.clone(),
            affinities: columns.iter().map(|name| table.affinity(name).unwrap_or(Affinity::None)).collect(),
            columns,
            key,
        }
    }

    /// Whether it is the shape of such records.
    pub(super) fn is_of(&self, into: &str, columns: &[(&str, Value<'_>)], key: usize) -> bool {
        let names = columns.iter().map(|(name, _)| name);
        self.into == into && self.key == key && self.columns.len() == columns.len() && self.columns.iter().eq(names)
    }

    /// The parameters for these columns' values, without the version; `None` for bytes that are not base64.
    pub(super) fn bind<'v>(&self, columns: &[(&str, Value<'v>)]) -> Option<Vec<ToSqlOutput<'v>>> {
        columns.iter().zip(&self.affinities).map(|((_, value), affinity)| affinity.bind(*value)).collect()
    }
}

/// Whether SQLite can tell these columns from each other and from Syncline's own.
pub(super) fn distinct(into: &str, columns: &[&str]) -> Result<(), ApplyError> {
    for (index, name) in columns.iter().enumerate() {
        let others = columns.iter().take(index).chain(&[VERSION]);
        if let Some(other) = others.copied().find(|other| other.eq_ignore_ascii_case(name)) {
            return Err(ApplyError::Unfit {
                problem: format!("columns {other:?} and {name:?} of table {into:?} are one to SQLite"),
                mend: "another name for one of them in the subscription's `columns`".to_owned(),
            });
        }
    }
    Ok(())
}

/// Names, quoted and separated by commas.
pub(super) fn list(names: &[&str]) -> String {
    names.iter().map(|name| quote(name)).collect::<Vec<_>>().join(", ")
}
