//! The demo's verdict: source and target, record by record.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row};

use super::desk::{Desk, Held, INCIDENT_COLUMNS};

type Records = BTreeMap<String, Vec<Option<String>>>;

/// One share's records at both ends.
struct Pair {
    share: &'static str,
    expected: Records,
    found: Records,
    held: usize,
}

/// All shares compared.
pub(super) struct Comparison(Vec<Pair>);

impl Comparison {
    /// Reads both databases.
    pub(super) fn make(desk: &Desk) -> rusqlite::Result<Self> {
        let source = open(&desk.folder.join("servicedesk.db"))?;
        let target = open(&desk.folder.join("crm.db"))?;
        let pair = |share, from: &str, to: &str, held: &Held| -> rusqlite::Result<Pair> {
            let mut expected = read(&source, from)?;
            for (number, record) in held {
                // Keys are texts as `texts` gives them.
                let key = format!("{number:?}");
                match record {
                    Some(record) => expected.insert(key, record.clone()),
                    None => expected.remove(&key),
                };
            }
            Ok(Pair { share, expected, found: read(&target, to)?, held: held.len() })
        };
        let none = Held::new();
        Ok(Self(vec![
            pair(
                "incidents",
                &format!("SELECT {INCIDENT_COLUMNS} FROM incident WHERE category <> 'internal'"),
                "SELECT case_number, subject, description, priority, status, contact, cost FROM support_case",
                &desk.held,
            )?,
            pair(
                "users",
                "SELECT user_name, name, email, active FROM sys_user",
                "SELECT user_name, name, email, active FROM contact",
                &none,
            )?,
            pair(
                "changes",
                "SELECT number, short_description, risk, state, planned_start, sys_updated_by FROM change_request WHERE risk <= 3 OR risk = 5",
                "SELECT number, short_description, risk, state, planned_start, sys_updated_by FROM change_request",
                &none,
            )?,
        ]))
    }

    /// An incident that is at both ends and that no job touched, to try a change on.
    pub(super) fn an_incident(&self, desk: &Desk) -> Option<String> {
        let incidents = self.0.first()?;
        let numbers = incidents.found.keys().map(|key| key.trim_matches('"'));
        numbers.into_iter().find(|number| !desk.held.contains_key(*number)).map(str::to_owned)
    }

    /// Whether every record is the same at both ends.
    pub(super) fn holds(&self) -> bool {
        self.0.iter().all(|pair| pair.expected == pair.found)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Pair { share, expected, found, held } in &self.0 {
            let missing = expected.keys().filter(|key| !found.contains_key(*key)).count();
            let extra = found.keys().filter(|key| !expected.contains_key(*key)).count();
            let different =
                expected.iter().filter(|(key, record)| found.get(*key).is_some_and(|other| other != *record)).count();
            write!(f, "{share:10} {} records at the target: ", found.len())?;
            if missing + extra + different == 0 {
                write!(f, "all as the share says")?;
            } else {
                write!(f, "{missing} missing, {extra} too many, {different} different")?;
            }
            if *held > 0 {
                write!(f, "; {held} changed last by a job, which is withheld")?;
            }
            writeln!(f)?;
        }
        let verdict = if self.holds() { "IN STEP: every record compared, no difference." } else { "NOT IN STEP." };
        writeln!(f, "\n{verdict}")
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}

fn read(connection: &Connection, sql: &str) -> rusqlite::Result<Records> {
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], texts)?;
    rows.map(|row| row.map(|record| (record.first().cloned().flatten().unwrap_or_default(), record))).collect()
}

/// A row's values with their types, as texts.
pub(super) fn texts(row: &Row<'_>) -> rusqlite::Result<Vec<Option<String>>> {
    (0..row.as_ref().column_count())
        .map(|place| {
            Ok(match row.get_ref(place)? {
                ValueRef::Null => None,
                ValueRef::Integer(number) => Some(format!("{number}")),
                ValueRef::Real(number) => Some(format!("{number:?} real")),
                ValueRef::Text(text) => Some(format!("{:?}", String::from_utf8_lossy(text))),
                ValueRef::Blob(bytes) => Some(format!("{bytes:?} bytes")),
            })
        })
        .collect()
}
