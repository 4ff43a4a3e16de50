//! A target in memory, for tests of what runs on top of a target. Nothing survives the process.
//!
//! Applies one by one, the plainest reading of the [`Target`] contract. Fails only where it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_shared::record::{Action, Version};

use super::fold::{self, Item};
use super::{Applied, ApplyError, Batch, Outcome, TableMap, Target};

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
    faults: VecDeque<ApplyError>,
    refused: Vec<String>,
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
        if let Some(item) = items.iter().find(|item| state.refuses(item)) {
            let problem = "a value that is refused".to_owned();
            return Err(ApplyError::Record { table: item.table.into.clone(), problem });
        }
        Ok(Applied { outcomes: items.iter().map(|item| state.apply(item)).collect() })
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

    fn apply(&mut self, item: &Item<'_>) -> Outcome {
        let Item { table, action, record, .. } = item;
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
        target.fail_next(ApplyError::Busy { address: "memory".to_owned(), problem: "told to".to_owned() });
        assert!(matches!(target.apply(&[]).await, Err(ApplyError::Busy { .. })));
        assert_eq!(target.apply(&[]).await.unwrap(), Applied::default());
        assert_eq!(target.calls(), 2);
    }
}
