//! Reads the source, has the target compare range by range, and looks again at what differs until it may have arrived.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use syncline_consumer::target::ApplyError;
use syncline_consumer::target::look::{Difference, Look};
use syncline_producer::bulk::{Rows as _, Stock, Want};
use syncline_producer::outlet::look_up;
use syncline_producer::share::Share;
use syncline_producer::source::SourceError;
use syncline_shared::record::{Columns, Row, Version};
use syncline_shared::tasks::chain;

use super::places::Places;
use super::progress::Progress;
use super::say::{Head, Said, say};
use crate::failure::Failure;
use crate::source::unavailable;

/// Records that are compared at once; few enough to be held, enough to be worth a question.
const RANGE_RECORDS: usize = 2_000;
/// The same for large records.
const RANGE_BYTES: usize = 1 << 20;

/// What differs and may yet arrive is held, so that a bound is needed: when it is reached, it is waited for.
const SUSPECT_BYTES_MAX: usize = 16 << 20;

/// Differences that are listed, and sent again; of others only the number is known.
pub(super) const LISTED_MAX: usize = 10_000;

/// How often what differs is looked at again.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// How a row at the target differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Missing,
    Columns(Vec<String>),
    /// The target takes no such record.
    Refused,
    Extra,
}

/// A difference that stayed.
pub(super) struct Found {
    pub(super) into: usize,
    /// The source's table the record is stored in, where it can be told.
    pub(super) stored: Option<Arc<str>>,
    pub(super) key: Row,
    pub(super) what: What,
}

/// What came out for a table of the target.
#[derive(Default)]
pub(super) struct Count {
    pub(super) records: u64,
    pub(super) ranges: u64,
    pub(super) ranges_different: u64,
    pub(super) missing: u64,
    pub(super) different: u64,
    pub(super) refused: u64,
    pub(super) extra: u64,
}

/// All that came out.
pub(super) struct Outcome {
    pub(super) version: Version,
    /// Records of which the target had newer versions.
    pub(super) newer: u64,
    /// Records that differed at first and were the same when they had arrived.
    pub(super) settled: u64,
    pub(super) counts: Vec<Count>,
    pub(super) found: Vec<Found>,
}

/// A comparison under way.
pub(super) struct Scan<'a, L> {
    share: &'a Share,
    places: &'a Places,
    queues: &'a [String],
    look: L,
    settle: Duration,
    /// Differences that may yet go.
    suspects: Said,
    outcome: Outcome,
    progress: Progress,
}

impl<'a, L: Look> Scan<'a, L> {
    pub(super) fn new(
        (share, places, queues): (&'a Share, &'a Places, &'a [String]),
        look: L,
        settle: Duration,
        progress: Progress,
    ) -> Self {
        let counts = places.tables.iter().map(|_| Count::default()).collect();
        let outcome =
            Outcome { version: Version::from_bytes([u8::MAX; 16]), newer: 0, settled: 0, counts, found: Vec::new() };
        Self { share, places, queues, look, settle, suspects: Said::default(), outcome, progress }
    }

    /// Compares everything. `tables` are those of the source, each with the columns the share names.
    pub(super) async fn run<K: Stock>(
        mut self,
        stock: &K,
        tables: &[(Arc<str>, Vec<String>)],
        key: &Columns,
    ) -> Result<Outcome, Failure> {
        for way in &self.places.ways {
            self.look.prepare(&way.map, key).await.map_err(|error| unfit(&error))?;
        }
        for (table, columns) in tables {
            self.read(stock, table, columns).await?;
        }
        self.settle(key).await?;
        self.progress.end();
        Ok(self.outcome)
    }

    /// Reads a table of the source, range by range.
    async fn read<K: Stock>(&mut self, stock: &K, table: &Arc<str>, columns: &[String]) -> Result<(), Failure> {
        let want = Want {
            table: Arc::clone(table),
            share: Arc::clone(self.share.name()),
            columns: columns.to_vec(),
            changed: None,
            ranges: Vec::new(),
            keys: None,
            connections: 1,
            rows_max: RANGE_RECORDS,
        };
        let told = |error: SourceError| unavailable(&error);
        let mut opened = stock.look(want).await.map_err(told)?;
        self.outcome.version = self.outcome.version.min(opened.version);
        self.progress.begin(table, opened.total);
        let mut said = Said::default();
        while let Some(bite) = opened.rows.next().await.map_err(told)? {
            look_up(self.share, &bite.changes, stock).await.map_err(told)?;
            for change in &bite.changes {
                say(self.share, self.places, self.queues, change, &mut said)?;
            }
            self.progress.pass(bite.changes.len());
            if said.len() >= RANGE_RECORDS || said.bytes >= RANGE_BYTES {
                self.compare(std::mem::take(&mut said)).await?;
            }
        }
        self.compare(said).await
    }

    /// Compares a range.
    async fn compare(&mut self, mut said: Said) -> Result<(), Failure> {
        if said.len() == 0 {
            return Ok(());
        }
        let (newer, differences) = self.look_at(&mut said).await?;
        self.outcome.newer += newer;
        self.count_range(&said, &differences);
        self.suspect(&said, differences);
        if self.suspects.bytes > SUSPECT_BYTES_MAX {
            self.settle_suspects().await?;
        }
        Ok(())
    }

    /// A range counts for each table it has records of.
    fn count_range(&mut self, said: &Said, differences: &[(usize, What)]) {
        for (into, count) in self.outcome.counts.iter_mut().enumerate() {
            let is_of = |head: &Head| self.places.ways.get(head.way).is_some_and(|way| way.into == into);
            let records = said.heads.iter().filter(|head| head.judged && is_of(head)).count();
            count.records += u64::try_from(records).unwrap_or(u64::MAX);
            count.ranges += u64::from(records > 0);
            let differs = differences.iter().any(|(place, _)| said.heads.get(*place).is_some_and(is_of));
            count.ranges_different += u64::from(differs);
        }
    }

    fn suspect(&mut self, said: &Said, differences: Vec<(usize, What)>) {
        for (place, what) in differences {
            let at = (said.heads.get(place), said.records.get(place), said.stored.get(place));
            let (Some(head), Some(record), Some(stored)) = at else { continue };
            match what {
                What::Missing | What::Columns(_) => self.suspects.push(*head, record.clone(), stored),
                // Time makes no other record of it.
                What::Refused | What::Extra => self.note(head.way, Some(stored), &record.key, what),
            }
        }
    }

    /// Asks the target about records, in parts where it refuses one of them: how many are outdated, and what differs.
    async fn look_at(&mut self, said: &mut Said) -> Result<(u64, Vec<(usize, What)>), Failure> {
        let (mut newer, mut differences) = (0, Vec::new());
        let mut left: Vec<Range<usize>> = std::iter::once(0..said.len()).collect();
        while let Some(range) = left.pop() {
            match self.look.compare(&said.batches(range.clone(), &self.places.ways)).await {
                Ok(seen) => {
                    newer += seen.newer;
                    differences.extend(seen.differences.into_iter().map(|(place, difference)| {
                        let what = match difference {
                            Difference::Missing => What::Missing,
                            Difference::Columns(columns) => What::Columns(columns),
                        };
                        (range.start + place, what)
                    }));
                }
                Err(ApplyError::Record { .. }) if range.len() == 1 => {
                    // Its row may be there nevertheless, from before.
                    if let Some(head) = said.heads.get_mut(range.start).filter(|head| head.judged) {
                        head.judged = false;
                        differences.push((range.start, What::Refused));
                        left.push(range);
                    }
                }
                Err(ApplyError::Record { .. }) => {
                    let middle = range.start + range.len() / 2;
                    left.extend([middle..range.end, range.start..middle]);
                }
                Err(error) => return Err(unfit(&error)),
            }
        }
        Ok((newer, differences))
    }

    /// Looks again at what differs until nothing does or the time is over, and notes what stays: a row that by then is as
    /// its record was, or newer, has arrived meanwhile.
    async fn settle_suspects(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.settle;
        while self.suspects.len() > 0 && self.wait_until(deadline).await {
            let mut said = std::mem::take(&mut self.suspects);
            let (_, differences) = self.look_again(&mut said).await?;
            self.outcome.settled += u64::try_from(said.len() - differences.len()).unwrap_or(u64::MAX);
            self.suspect(&said, differences);
        }
        let mut said = std::mem::take(&mut self.suspects);
        let (_, differences) = self.look_again(&mut said).await?;
        self.outcome.settled += u64::try_from(said.len() - differences.len()).unwrap_or(u64::MAX);
        for (place, what) in differences {
            if let (Some(head), Some(record)) = (said.heads.get(place), said.records.get(place)) {
                self.note(head.way, said.stored.get(place), &record.key, what);
            }
        }
        Ok(())
    }

    async fn look_again(&mut self, said: &mut Said) -> Result<(u64, Vec<(usize, What)>), Failure> {
        if said.len() == 0 { Ok((0, Vec::new())) } else { self.look_at(said).await }
    }

    /// Waits for the next look; `false` when the time is over.
    async fn wait_until(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        self.progress.settle(self.suspects.len(), left);
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
        true
    }

    /// Settles all that differs, rows without a record too.
    async fn settle(&mut self, key: &Columns) -> Result<(), Failure> {
        let deadline = Instant::now() + self.settle;
        let mut extra = self.extra(key).await?;
        self.settle_suspects().await?;
        while extra.iter().any(|(_, count, _)| *count > 0) && self.wait_until(deadline).await {
            extra = self.extra(key).await?;
        }
        for (into, count, keys) in extra {
            if let Some(counted) = self.outcome.counts.get_mut(into) {
                counted.extra = count;
            }
            for key in keys {
                self.list(Found { into, stored: None, key, what: What::Extra });
            }
        }
        Ok(())
    }

    /// The rows without a record, of each table that should have none.
    async fn extra(&mut self, key: &Columns) -> Result<Vec<(usize, u64, Vec<Row>)>, Failure> {
        let mut extra = Vec::new();
        for (into, table) in self.places.tables.iter().enumerate().filter(|(_, table)| table.keeps_others.is_none()) {
            let Some(way) = self.places.ways.iter().find(|way| way.map.into == table.name) else { continue };
            let others = self.look.others(&way.map, key, self.outcome.version, LISTED_MAX).await;
            let others = others.map_err(|error| unfit(&error))?;
            extra.push((into, others.count, others.keys));
        }
        Ok(extra)
    }

    fn note(&mut self, way: usize, stored: Option<&Arc<str>>, key: &Row, what: What) {
        let Some(into) = self.places.ways.get(way).map(|way| way.into) else { return };
        if let Some(count) = self.outcome.counts.get_mut(into) {
            match what {
                What::Missing => count.missing += 1,
                What::Columns(_) => count.different += 1,
                What::Refused => count.refused += 1,
                What::Extra => count.extra += 1,
            }
        }
        self.list(Found { into, stored: stored.cloned(), key: key.clone(), what });
    }

    fn list(&mut self, found: Found) {
        if self.outcome.found.len() < LISTED_MAX {
            self.outcome.found.push(found);
        }
    }
}

/// A target that cannot be looked at.
pub(super) fn unfit(error: &ApplyError) -> Failure {
    let mut text = chain(error);
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Failure::Unavailable(format!("{text}."))
}
