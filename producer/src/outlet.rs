//! The shares of one source as the pipeline uses them: which tables they watch, where they send, what they seal with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use syncline_shared::envelope::Route;
use syncline_shared::queue::SharedQueue;
use syncline_shared::seal::Seal;
use syncline_shared::traces::Traces;

use crate::batch::Lane;
use crate::journal::Journal;
use crate::metrics::ShareMetrics;
use crate::share::Share;
use crate::source::{Change, Lookups, OnTruncate, SourceError, WatchedTable};

/// One share with everything it needs to send.
#[derive(Debug)]
pub struct Outlet {
    /// The rule.
    pub share: Share,
    /// Where it sends: its own shared queue, then that of each route, in the order of the configuration.
    pub destinations: Vec<Destination>,
    /// Whether it asks for the rows already there.
    pub copies: bool,
    /// What it wants when all records of the table are gone at once.
    pub on_truncate: OnTruncate,
    /// Its counters.
    pub metrics: ShareMetrics,
}

/// One shared queue a share sends to.
#[derive(Clone, Debug)]
pub struct Destination {
    /// The queue.
    pub queue: SharedQueue,
    /// What is sealed with on the way there.
    pub seal: Seal,
}

/// All shares of one source.
#[derive(Debug)]
pub struct Outlets {
    /// The source's name, part of every record's identity.
    source: Arc<str>,
    outlets: Vec<Outlet>,
    /// The shared queues, each once.
    queues: Vec<(Arc<str>, SharedQueue)>,
    /// For each destination of each outlet, the place of its queue.
    queue_of: Vec<Vec<usize>>,
    by_table: HashMap<Arc<str>, Vec<usize>>,
    have_scripts: bool,
    journal: Option<Journal>,
    traces: Option<Traces>,
    have_displays: bool,
    /// The origin of a change made at this source.
    own_origin: Arc<[String]>,
}

impl Outlets {
    /// Collects the shares of a source.
    #[must_use]
    pub fn new(source: &str, outlets: Vec<Outlet>) -> Self {
        let mut queues: Vec<(Arc<str>, SharedQueue)> = Vec::new();
        let mut queue_of = Vec::new();
        let mut by_table: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (place, outlet) in outlets.iter().enumerate() {
            let mut place_of = |destination: &Destination| {
                let queue = &destination.queue;
                queues.iter().position(|(name, _)| **name == *queue.name).unwrap_or_else(|| {
                    queues.push((queue.name.as_str().into(), queue.clone()));
                    queues.len() - 1
                })
            };
            queue_of.push(outlet.destinations.iter().map(&mut place_of).collect());
            for table in outlet.share.tables() {
                by_table.entry(Arc::clone(table)).or_default().push(place);
            }
        }
        let have_scripts = outlets.iter().any(|outlet| outlet.share.has_script());
        let have_displays = outlets.iter().any(|outlet| outlet.share.has_displays());
        let own_origin = [source.to_owned()].into();
        let (journal, traces) = (None, None);
        Self {
            source: source.into(),
            outlets,
            queues,
            queue_of,
            by_table,
            have_scripts,
            have_displays,
            journal,
            traces,
            own_origin,
        }
    }

    /// Has what their shares decide noted.
    #[must_use]
    pub fn journaled(self, journal: Option<Journal>) -> Self {
        Self { journal, ..self }
    }

    /// Where to note what is decided, if that is on.
    pub(crate) const fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Has a span made of every batch.
    #[must_use]
    pub fn traced(self, traces: Option<Traces>) -> Self {
        Self { traces, ..self }
    }

    /// What makes spans, if that is on.
    pub(crate) const fn traces(&self) -> Option<&Traces> {
        self.traces.as_ref()
    }

    /// The source's name.
    #[must_use]
    pub const fn source(&self) -> &Arc<str> {
        &self.source
    }

    /// The tables to watch.
    #[must_use]
    pub fn tables(&self) -> Vec<WatchedTable> {
        let mut tables: Vec<_> = self
            .by_table
            .iter()
            .map(|(table, places)| {
                let outlets = || places.iter().filter_map(|place| self.outlets.get(*place));
                let columns: BTreeSet<&str> = outlets().flat_map(|outlet| outlet.share.columns_used(table)).collect();
                let copies = outlets().filter(|outlet| outlet.copies);
                WatchedTable {
                    table: table.clone(),
                    copy_for: copies.map(|outlet| outlet.share.name().clone()).collect(),
                    columns: columns.into_iter().map(Into::into).collect(),
                    needs_before: outlets().any(|outlet| outlet.share.needs_before()),
                    // One share that would diverge is enough.
                    on_truncate: outlets().map(|outlet| outlet.on_truncate).max().unwrap_or_default(),
                }
            })
            .collect();
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        tables
    }

    /// Whether a share has a script.
    pub(crate) const fn have_scripts(&self) -> bool {
        self.have_scripts
    }

    /// Whether a share adds display values.
    pub(crate) const fn have_displays(&self) -> bool {
        self.have_displays
    }

    /// Looks up the display values that the shares need to decide about changes: one query for each lookup table.
    ///
    /// # Errors
    /// [`SourceError`]; nothing may be decided about these changes then, and the same again may help.
    pub async fn look_up(&self, changes: &[Change], lookups: &impl Lookups) -> Result<(), SourceError> {
        for outlet in &self.outlets {
            look_up(&outlet.share, changes, lookups).await?;
        }
        Ok(())
    }

    /// The shared queues, each once.
    pub(crate) fn queues(&self) -> Vec<SharedQueue> {
        self.queues.iter().map(|(_, queue)| queue.clone()).collect()
    }

    /// The shares of a table, with their places.
    pub(crate) fn of_table<'a>(&'a self, table: &str) -> impl Iterator<Item = (usize, &'a Outlet)> + use<'a> {
        let places = self.by_table.get(table).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|&place| Some((place, self.outlets.get(place)?)))
    }

    /// The place of the shared queue of an outlet's route, and how many partitions it has.
    pub(crate) fn queue(&self, outlet: usize, route: usize) -> Option<(usize, u32)> {
        let place = *self.queue_of.get(outlet)?.get(route)?;
        Some((place, self.queues.get(place)?.1.partitions))
    }

    /// An outlet and one of its destinations by their places, with the name of the shared queue.
    pub(crate) fn at(&self, outlet: usize, route: usize) -> Option<(&Outlet, &Destination, Arc<str>)> {
        let (name, _) = self.queues.get(*self.queue_of.get(outlet)?.get(route)?)?;
        let outlet = self.outlets.get(outlet)?;
        Some((outlet, outlet.destinations.get(route)?, Arc::clone(name)))
    }

    /// The systems a change has passed once it leaves here.
    pub(crate) fn origin(&self, passed: &Arc<[String]>) -> Arc<[String]> {
        if passed.is_empty() {
            return self.own_origin.clone();
        }
        passed.iter().chain(self.own_origin.iter()).cloned().collect()
    }

    /// What the envelope of a batch of one share says in clear.
    pub(crate) fn route(&self, outlet: &Outlet, lane: &Lane, records: u32) -> Route {
        Route {
            source: self.source.to_string(),
            share: outlet.share.name().to_string(),
            table: lane.table.to_string(),
            action: lane.action,
            partition: lane.partition,
            records,
            origin: lane.origin.to_vec(),
        }
    }
}

/// Looks up the display values that one share needs to decide about changes.
///
/// # Errors
/// [`SourceError`]; nothing may be decided about these changes then, and the same again may help.
pub async fn look_up(share: &Share, changes: &[Change], lookups: &impl Lookups) -> Result<(), SourceError> {
    let now = Instant::now();
    let missing = share.missing_displays(changes, now);
    for (number, references) in missing {
        let Some(lookup) = share.lookups().nth(number) else { unreachable!("it is one of them") };
        let values = lookups.look_up(lookup, &references).await?;
        share.keep_displays(number, references, values, now);
    }
    Ok(())
}
