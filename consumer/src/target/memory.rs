//! A target in memory, for tests of what runs on top of a target. Nothing survives the process.
//!
//! Applies one by one, the plainest reading of the [`Target`] contract. Fails only where it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_shared::record::{Action, Row, Version};

use super::fold::{self, Item};
use super::{Applied, ApplyError, Batch, Outcome, Parked, Standing, TableMap, Target};

/// Column values as text by name; `None` is null.
pub type MemoryRow = BTreeMap<String, Option<String>>;

/// A target in memory. Clones share what they hold, like connections to one database.
#[derive(Clone, Debug, Default)]
pub struct MemoryTarget {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// By table, then by key; a row that is `None` is a tombstone.
    tables: BTreeMap<String, BTreeMap<String, (Version, Option<MemoryRow>)>>,
    /// By table and key: versions and dead letters.
    parked: BTreeMap<(String, String), BTreeMap<Version, String>>,
    tries: BTreeMap<String, u32>,
    faults: VecDeque<ApplyError>,
    refused: Vec<String>,
    /// A value that is taken once a row has the other.
    needs: Option<(String, String)>,
    calls: usize,
}

impl MemoryTarget {
    /// The rows of a table, in the order of their keys' texts.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<MemoryRow> {
        let state = self.state();
        state.tables.get(table).into_iter().flat_map(BTreeMap::values).filter_map(|(_, row)| row.clone()).collect()
    }

    /// How many times `apply` was called.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    /// Lets the next call fail with this error; several are used up one call after the other.
    pub fn fail_next(&self, error: ApplyError) {
        self.state().faults.push_back(error);
    }

    /// Refuses every record one of whose values is this text.
    pub fn refuse(&self, value: &str) {
        self.state().refused.push(value.to_owned());
    }

    /// Takes every record again.
    pub fn refuse_nothing(&self) {
        self.state().refused.clear();
    }

    /// Refuses records with the first value while no row has the other, as a foreign key does.
    pub fn need(&self, value: &str, other: &str) {
        self.state().needs = Some((value.to_owned(), other.to_owned()));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Target for MemoryTarget {
    async fn apply(&mut self, batches: &[Batch<'_>]) -> Result<Applied, ApplyError> {
        let mut state = self.state();
        state.calls += 1;
        if let Some(fault) = state.faults.pop_front() {
            return Err(fault);
        }
        let items = fold::items(batches);
        if let Some(item) = items.iter().find(|item| state.behind(item).is_none() && state.refuses(item)) {
            let problem = "a value that is refused".to_owned();
            return Err(ApplyError::Record { table: item.table.into.clone(), problem, may_pass: false });
        }
        if let Some(item) = items.iter().find(|item| state.behind(item).is_none() && state.misses(item)) {
            let problem = "another row is missing".to_owned();
            return Err(ApplyError::Record { table: item.table.into.clone(), problem, may_pass: true });
        }
        Ok(Applied { outcomes: items.iter().map(|item| state.apply(item)).collect() })
    }

    async fn park(&mut self, parked: &[Parked<'_>]) -> Result<(), ApplyError> {
        let mut state = self.state();
        for Parked { table, record, letter } in parked {
            let record_of = (table.into.clone(), fold::key_name(&record.key));
            state.parked.entry(record_of).or_default().insert(record.version, (*letter).to_owned());
        }
        Ok(())
    }

    async fn unpark(&mut self, letters: &[String]) -> Result<(), ApplyError> {
        for marks in self.state().parked.values_mut() {
            marks.retain(|_, letter| !letters.contains(letter));
        }
        Ok(())
    }

    async fn tries(&mut self, _beside: &str, message: &str) -> Result<u32, ApplyError> {
        Ok(self.state().tries.get(message).copied().unwrap_or_default())
    }

    async fn set_tries(&mut self, _beside: &str, message: &str, tries: u32) -> Result<(), ApplyError> {
        self.state().tries.insert(message.to_owned(), tries);
        Ok(())
    }

    async fn standing(&mut self, table: &TableMap, key: &Row) -> Result<Standing, ApplyError> {
        let (state, key) = (self.state(), fold::key_name(key));
        let held = state.tables.get(&table.into).and_then(|rows| rows.get(&key));
        let parked = state.parked.get(&(table.into.clone(), key)).into_iter().flatten();
        Ok(Standing {
            row: held.filter(|(_, row)| row.is_some()).map(|(version, _)| Some(*version)),
            deleted: held.filter(|(_, row)| row.is_none()).map(|(version, _)| *version),
            parked: parked.map(|(version, letter)| (*version, letter.clone())).collect(),
        })
    }

    async fn check(&mut self, _tables: &[TableMap]) -> Result<(), Vec<ApplyError>> {
        Ok(())
    }
}

impl State {
    fn refuses(&self, item: &Item<'_>) -> bool {
        fold::columns(item.table, item.record)
            .iter()
            .filter_map(|(_, value)| value.as_text())
            .any(|text| self.refused.iter().any(|refused| refused == text))
    }

    fn misses(&self, item: &Item<'_>) -> bool {
        let Some((value, other)) = &self.needs else { return false };
        let has = |text: &str| {
            let rows = self.tables.values().flat_map(BTreeMap::values).filter_map(|(_, row)| row.as_ref());
            rows.flat_map(BTreeMap::values).flatten().any(|held| held == text)
        };
        let columns = fold::columns(item.table, item.record);
        columns.iter().any(|(_, held)| held.as_text() == Some(value)) && !has(other)
    }

    /// The dead letter that a part of a record has to wait for.
    fn behind(&self, item: &Item<'_>) -> Option<String> {
        let marks = self.parked.get(&(item.table.into.clone(), fold::key_name(&item.record.key)))?;
        let (oldest, behind) = marks.first_key_value()?;
        (item.record.partial && *oldest < item.record.version).then(|| behind.clone())
    }

    fn apply(&mut self, item: &Item<'_>) -> Outcome {
        let Item { table, action, record, .. } = item;
        if let Some(behind) = self.behind(item) {
            return Outcome::Waits { behind };
        }
        if let Some(marks) = self.parked.get_mut(&(table.into.clone(), fold::key_name(&record.key))) {
            marks.retain(|version, _| *version > record.version);
        }
        let rows = self.tables.entry(table.into.clone()).or_default();
        let key = fold::key_name(&record.key);
        let held = rows.get(&key);
        match held {
            Some((version, _)) if *version == record.version => return Outcome::Duplicate,
            Some((version, _)) if *version > record.version => return Outcome::Stale,
            Some(_) | None => {}
        }
        let row = match action {
            Action::Delete => None,
            Action::Insert | Action::Update | Action::Bulk => {
                let mut row = held.and_then(|(_, row)| row.clone()).unwrap_or_default();
                let columns = fold::columns(table, record);
                row.extend(
                    columns.iter().map(|(name, value)| ((*name).to_owned(), value.as_text().map(str::to_owned))),
                );
                Some(row)
            }
        };
        rows.insert(key, (record.version, row));
        Outcome::Applied
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::contract::{Bench, Kind, target_contract};

    #[derive(Default)]
    struct MemoryBench(MemoryTarget);

    impl Bench for MemoryBench {
        type Target = MemoryTarget;

        fn target(&self, _writer: &str) -> MemoryTarget {
            self.0.clone()
        }

        async fn create(&self, _table: &str, _columns: &[(&str, Kind)], _key: &[&str]) {}

        async fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
            let pick = |row: MemoryRow| columns.iter().map(|name| row.get(*name).cloned().flatten()).collect();
            self.0.rows(table).into_iter().map(pick).collect()
        }

        async fn finish(self) {}
    }

    target_contract!(std::future::ready(MemoryBench::default()));

    #[tokio::test]
    async fn a_refused_record_commits_nothing() {
        let bench = MemoryBench::default();
        bench.0.refuse("MARKER");
        crate::target::contract::a_refused_record_commits_nothing(&bench).await;
    }

    #[tokio::test]
    async fn faults_are_used_up_one_call_after_the_other() {
        let mut target = MemoryTarget::default();
        target.fail_next(ApplyError::Busy {
            address: "memory".to_owned(),
            problem: "told to".to_owned(),
            limit: false,
        });
        assert!(matches!(target.apply(&[]).await, Err(ApplyError::Busy { .. })));
        assert_eq!(target.apply(&[]).await.unwrap(), Applied::default());
        assert_eq!(target.calls(), 2);
    }
}
