//! A source in memory, for tests of what runs on top of a source. Nothing survives the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use syncline_shared::record::Row;
use tokio::sync::Notify;

use super::{Change, Lookup, Lookups, PollLimit, Polled, Reference, Source, SourceError};

/// A log of changes in memory. Clones share it, like connections to one database.
#[derive(Clone, Debug, Default)]
pub struct MemorySource {
    log: Arc<Log>,
    /// How much of the log this reader has reported.
    reported: usize,
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<State>,
    grew: Notify,
}

#[derive(Debug, Default)]
struct State {
    changes: Vec<Change>,
    /// How much of the log is safe elsewhere.
    committed: usize,
    faults: VecDeque<SourceError>,
    closed: bool,
    /// Display values by reference, whatever the lookup table.
    shown: HashMap<String, String>,
    /// Lookups that fail.
    lookup_faults: VecDeque<SourceError>,
    /// How many references were looked up.
    looked_up: usize,
}

impl MemorySource {
    /// Appends changes to the log.
    pub fn push(&self, changes: impl IntoIterator<Item = Change>) {
        self.state().changes.extend(changes);
        self.log.grew.notify_waiters();
    }

    /// Lets the next poll fail with this error; several are used up one poll after the other.
    pub fn fail_next(&self, error: SourceError) {
        self.state().faults.push_back(error);
        self.log.grew.notify_waiters();
    }

    /// Gives a reference a display value.
    pub fn show(&self, reference: &str, value: &str) {
        self.state().shown.insert(reference.to_owned(), value.to_owned());
    }

    /// Lets the next lookup fail with this error; several are used up one lookup after the other.
    pub fn fail_next_lookup(&self, error: SourceError) {
        self.state().lookup_faults.push_back(error);
    }

    /// How many references were looked up.
    #[must_use]
    pub fn looked_up(&self) -> usize {
        self.state().looked_up
    }

    /// How many changes are safe elsewhere.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.state().committed
    }

    /// Whether a reader closed the source in good order.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.state().closed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.log.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&mut self, limit: PollLimit) -> Option<Result<Polled<usize>, SourceError>> {
        let log = self.log.clone();
        let mut state = log.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = state.faults.pop_front() {
            self.reported = state.committed;
            return Some(Err(error));
        }
        let rest = state.changes.get(self.reported..).unwrap_or_default();
        let mut bytes = 0;
        let fits = |change: &&Change| {
            let before = bytes;
            bytes += change.after.as_ref().map_or(0, Row::size);
            before < limit.bytes
        };
        let changes: Vec<_> = rest.iter().take(limit.changes).take_while(fits).cloned().collect();
        if changes.is_empty() {
            return None;
        }
        self.reported += changes.len();
        Some(Ok(Polled { changes, position: Some(self.reported) }))
    }
}

impl Lookups for MemorySource {
    async fn look_up(&self, _: &Lookup, references: &[Reference]) -> Result<Vec<Option<Box<str>>>, SourceError> {
        let mut state = self.state();
        if let Some(error) = state.lookup_faults.pop_front() {
            return Err(error);
        }
        state.looked_up += references.len();
        let shown = |reference: &Reference| state.shown.get(&*reference.text).map(|text| text.as_str().into());
        Ok(references.iter().map(shown).collect())
    }
}

impl Source for MemorySource {
    type Position = usize;
    type Lookups = Self;

    fn lookups(&self) -> Self {
        self.clone()
    }

    async fn poll(&mut self, limit: PollLimit) -> Result<Polled<usize>, SourceError> {
        loop {
            let log = self.log.clone();
            let mut grew = std::pin::pin!(log.grew.notified());
            // Listens before looking, so that nothing that is pushed in between is missed.
            grew.as_mut().enable();
            if let Some(polled) = self.take(limit) {
                return polled;
            }
            grew.await;
        }
    }

    async fn commit(&mut self, upto: &usize) -> Result<(), SourceError> {
        let mut state = self.state();
        state.committed = state.committed.max(*upto);
        Ok(())
    }

    async fn close(self) {
        self.state().closed = true;
    }
}
