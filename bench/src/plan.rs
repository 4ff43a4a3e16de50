//! Which workloads there are, and how large they are in a full and in a quick run.

use crate::side::Kind;
use crate::table::{CONTACT, Change, INCIDENT, Table};

/// One workload: the same changes for each of its sides.
pub(crate) struct Workload {
    /// Its name, for `--only` and the report.
    pub name: &'static str,
    /// The table.
    pub table: &'static Table,
    /// What is measured.
    pub task: Task,
    /// The sides; the first is what the others are held against.
    pub sides: &'static [Kind],
    /// Whether a quick run has it.
    pub quick: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// How long changes take that wait in the source, written in transactions of so many.
    Changes(Change, u32),
    /// How long all rows take.
    Bulk,
    /// How long each of a steady flow of changes takes.
    Latency,
}

/// How large everything is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// Records of one load, and rows of the table before it.
    pub rows: u32,
    /// Rows of a bulk share.
    pub bulk_rows: u32,
    /// Seconds of a steady flow, twice for each side and rate.
    pub latency_s: u32,
    /// Sides of a workload at most, the first of them.
    pub sides: usize,
}

/// About ten minutes on two processors; transactions of 10,000 rows need a multiple of it.
pub(crate) const FULL: Size = Size { rows: 60_000, bulk_rows: 1_000_000, latency_s: 5, sides: 4 };
/// About one minute.
pub(crate) const QUICK: Size = Size { rows: 20_000, bulk_rows: 40_000, latency_s: 2, sides: 2 };

const BOTH: &[Kind] = &[Kind::Replication, Kind::Syncline("AES256")];
const CIPHERS: &[Kind] =
    &[Kind::Replication, Kind::Syncline("AES256"), Kind::Syncline("TripleDES"), Kind::Syncline("None")];

/// All of them, in the order they run.
pub(crate) const WORKLOADS: &[Workload] = &[
    changes("wide-insert", &INCIDENT, Change::Insert, 100, CIPHERS, false),
    changes("wide-update-1", &INCIDENT, Change::Update, 1, BOTH, false),
    changes("wide-update-100", &INCIDENT, Change::Update, 100, CIPHERS, true),
    changes("wide-update-10000", &INCIDENT, Change::Update, 10_000, BOTH, false),
    changes("wide-mix", &INCIDENT, Change::Mix, 100, BOTH, false),
    changes("narrow-insert", &CONTACT, Change::Insert, 100, BOTH, true),
    changes("narrow-update-1", &CONTACT, Change::Update, 1, BOTH, false),
    changes("narrow-update-100", &CONTACT, Change::Update, 100, BOTH, false),
    changes("narrow-update-10000", &CONTACT, Change::Update, 10_000, BOTH, false),
    changes("narrow-mix", &CONTACT, Change::Mix, 100, BOTH, false),
    changes("capture", &INCIDENT, Change::Update, 100, &[Kind::Receive, Kind::Capture], true),
    Workload { name: "bulk", table: &INCIDENT, task: Task::Bulk, sides: &[Kind::Copy, Kind::BulkShare], quick: true },
    Workload { name: "latency", table: &INCIDENT, task: Task::Latency, sides: BOTH, quick: true },
];

const fn changes(
    name: &'static str,
    table: &'static Table,
    change: Change,
    per_transaction: u32,
    sides: &'static [Kind],
    quick: bool,
) -> Workload {
    Workload { name, table, task: Task::Changes(change, per_transaction), sides, quick }
}

/// The workloads that are asked for: `wide-mix` by its name or, with all its like, by `wide`; else all, or those of a quick run.
pub(crate) fn select(only: &[String], quick: bool) -> Result<Vec<&'static Workload>, String> {
    let fits = |asked: &str, workload: &Workload| {
        workload.name.strip_prefix(asked).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(unknown) = only.iter().find(|asked| !WORKLOADS.iter().any(|workload| fits(asked, workload))) {
        let names: Vec<&str> = WORKLOADS.iter().map(|workload| workload.name).collect();
        return Err(format!("there is no workload {unknown:?}; there are {}", names.join(", ")));
    }
    let asked = |workload: &&Workload| match only {
        [] => workload.quick || !quick,
        only => only.iter().any(|asked| fits(asked, workload)),
    };
    Ok(WORKLOADS.iter().filter(asked).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(only: &[&str], quick: bool) -> Vec<&'static str> {
        let only: Vec<String> = only.iter().map(ToString::to_string).collect();
        select(&only, quick).unwrap().iter().map(|workload| workload.name).collect()
    }

    #[test]
    fn workloads_are_chosen_by_their_names_and_by_what_they_are_like() {
        assert_eq!(names(&["wide-update-1"], false), ["wide-update-1"]);
        assert_eq!(names(&["narrow-update"], false), ["narrow-update-1", "narrow-update-100", "narrow-update-10000"]);
        assert_eq!(names(&["latency", "bulk"], true), ["bulk", "latency"]);
        assert_eq!(names(&[], false).len(), WORKLOADS.len());
        assert!(names(&[], true).len() < WORKLOADS.len());
        assert!(select(&["wid".to_owned()], false).is_err());
    }

    #[test]
    fn every_load_is_a_whole_number_of_transactions() {
        for workload in WORKLOADS {
            let Task::Changes(_, per_transaction) = workload.task else { continue };
            assert_eq!((FULL.rows % per_transaction, QUICK.rows % per_transaction), (0, 0), "{}", workload.name);
        }
    }
}
