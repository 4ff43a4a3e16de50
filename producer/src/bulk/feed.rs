//! Bulk shares as a source of the pipeline: what is read goes through the same steps as a change, and a bulk share's
//! place is stored by the same rule: once everything up to it is at the broker or withheld.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use super::ledger::put_run;
use super::order::{End, Key, Range, Run};
use super::stock::Stock;
use crate::source::{Change, PollLimit, Polled, Source, SourceError};

/// Something that happened to a bulk share that runs here.
#[derive(Debug)]
pub(super) struct News {
    pub(super) id: Uuid,
    pub(super) changes: Vec<Change>,
    pub(super) step: Step,
}

#[derive(Debug)]
pub(super) enum Step {
    /// It begins, or goes on from where it was left.
    Began(Box<Run>),
    /// The table was opened.
    Opened { ranges: Vec<Range>, total: Option<u64>, as_of: Timestamp },
    /// Rows of a part were read, up to a key.
    Read { range: usize, rows: u64, after: Option<Key>, done: bool, worked_ms: u64 },
    /// Nothing more comes.
    Ended(End),
}

/// How far every bulk share is that runs here or ended a moment ago.
pub(super) type Runs = BTreeMap<Uuid, Run>;

/// A place to go on from: all of them at once, so that a later one holds all that earlier ones say.
#[derive(Clone)]
pub(super) struct Place(Arc<Runs>);

impl Place {
    pub(super) fn runs(&self) -> &Runs {
        &self.0
    }
}

/// Keys are records': not shown.
impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.0.len()).finish()
    }
}

/// What feed and keeper share.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// The newest place that is safe elsewhere.
    pub(super) safe: Option<Place>,
    /// Bulk shares whose end is stored: nobody needs them any more.
    pub(super) settled: Vec<Uuid>,
}

/// The board, shared. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedBoard(Arc<Mutex<Board>>);

impl SharedBoard {
    pub(super) fn with<T>(&self, look: impl FnOnce(&mut Board) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The rows of all bulk shares of a source that run here.
pub(super) struct Feed<K: Stock> {
    stock: K,
    news: mpsc::Receiver<News>,
    reported: Runs,
    board: SharedBoard,
    wanted: watch::Receiver<bool>,
}

impl<K: Stock> Feed<K> {
    pub(super) fn new(stock: K, news: mpsc::Receiver<News>, board: SharedBoard, wanted: watch::Receiver<bool>) -> Self {
        Self { stock, news, reported: Runs::new(), board, wanted }
    }

    fn take(&mut self, News { id, changes, step }: News) -> Polled<Place> {
        for id in self.board.with(|board| std::mem::take(&mut board.settled)) {
            self.reported.remove(&id);
        }
        match (step, self.reported.get_mut(&id)) {
            (Step::Began(run), _) => drop(self.reported.insert(id, *run)),
            (Step::Opened { ranges, total, as_of }, Some(run)) => {
                run.rows_total = total;
                run.ranges = ranges;
                run.as_of.get_or_insert(as_of);
            }
            (Step::Read { range, rows, after, done, worked_ms }, Some(run)) => {
                run.rows += rows;
                run.worked_ms += worked_ms;
                if let Some(range) = run.ranges.get_mut(range) {
                    range.after = after.or_else(|| range.after.take());
                    range.done |= done;
                }
            }
            (Step::Ended(end), Some(run)) => run.end(&end, Timestamp::now()),
            (Step::Opened { .. } | Step::Read { .. } | Step::Ended(_), None) => {}
        }
        Polled { changes, position: Some(Place(Arc::new(self.reported.clone()))) }
    }
}

impl<K: Stock> Source for Feed<K> {
    type Position = Place;
    type Lookups = K;

    const WHAT: &'static str = "bulk shares of source";
    const IN_BACKGROUND: bool = true;

    fn lookups(&self) -> K {
        self.stock.clone()
    }

    fn needed(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut wanted = self.wanted.clone();
        async move {
            // An error means that nobody will want it any more: the shutdown.
            if wanted.wait_for(|wanted| *wanted).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Never fails: whoever reads the rows tries again by itself. How much comes at once is bounded there.
    async fn poll(&mut self, _: PollLimit) -> Result<Polled<Place>, SourceError> {
        match self.news.recv().await {
            Some(news) => Ok(self.take(news)),
            // The shutdown.
            None => std::future::pending().await,
        }
    }

    /// Notes the place; the source is told within a second, so a crash repeats what was sent since.
    async fn commit(&mut self, upto: &Place) -> Result<(), SourceError> {
        self.board.with(|board| board.safe = Some(upto.clone()));
        Ok(())
    }

    async fn close(self) {
        let Some(place) = self.board.with(|board| board.safe.take()) else { return };
        for (&id, run) in place.runs() {
            if let Err(error) = put_run(&self.stock, id, run).await {
                tracing::warn!(%error, "how far a bulk share is could not be stored; its last rows are sent again");
            }
        }
    }
}
