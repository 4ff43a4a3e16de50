//! The shares of one source as the pipeline uses them: which tables they watch, where they send, what they seal with.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use syncline_shared::envelope::Route;
use syncline_shared::queue::SharedQueue;
use syncline_shared::record::Action;
use syncline_shared::seal::Seal;

use crate::metrics::ShareMetrics;
use crate::share::Share;
use crate::source::{OnTruncate, WatchedTable};

/// One share with everything it needs to send.
#[derive(Debug)]
pub struct Outlet {
    /// The rule.
    pub share: Share,
    /// Where it sends.
    pub queue: SharedQueue,
    /// What it seals with.
    pub seal: Seal,
    /// Whether it asks for the rows already there.
    pub copies: bool,
    /// What it wants when all records of the table are gone at once.
    pub on_truncate: OnTruncate,
    /// Its counters.
    pub metrics: ShareMetrics,
}

/// All shares of one source.
#[derive(Debug)]
pub struct Outlets {
    /// The source's name, part of every record's identity.
    source: String,
    outlets: Vec<Outlet>,
    /// Name of each outlet's shared queue; outlets of the same queue have the same place.
    queues: Vec<Arc<str>>,
    queue_of: Vec<usize>,
    by_table: HashMap<Arc<str>, Vec<usize>>,
    /// The origin of a change made at this source.
    own_origin: Arc<[String]>,
}

impl Outlets {
    /// Collects the shares of a source.
    #[must_use]
    pub fn new(source: &str, outlets: Vec<Outlet>) -> Self {
        let mut queues: Vec<Arc<str>> = Vec::new();
        let mut queue_of = Vec::new();
        let mut by_table: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for (place, outlet) in outlets.iter().enumerate() {
            let name = &outlet.queue.name;
            let queue = queues.iter().position(|queue| **queue == **name).unwrap_or_else(|| {
                queues.push(name.as_str().into());
                queues.len() - 1
            });
            queue_of.push(queue);
            by_table.entry(outlet.share.table().clone()).or_default().push(place);
        }
        Self { source: source.to_owned(), outlets, queues, queue_of, by_table, own_origin: [source.to_owned()].into() }
    }

    /// The source's name.
    #[must_use]
    pub fn source(&self) -> &str {
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
                let columns: BTreeSet<&str> = outlets().flat_map(|outlet| outlet.share.columns_used()).collect();
                let copies = outlets().filter(|outlet| outlet.copies);
                WatchedTable {
                    table: table.clone(),
                    copy_for: copies.map(|outlet| outlet.share.name().clone()).collect(),
                    columns: columns.into_iter().map(Into::into).collect(),
                    // One share that would diverge is enough.
                    on_truncate: outlets().map(|outlet| outlet.on_truncate).max().unwrap_or_default(),
                }
            })
            .collect();
        tables.sort_by(|a, b| a.table.cmp(&b.table));
        tables
    }

    /// The shared queues, each once.
    pub(crate) fn queues(&self) -> Vec<SharedQueue> {
        let of = |name: &Arc<str>| self.outlets.iter().map(|outlet| &outlet.queue).find(|queue| *queue.name == **name);
        self.queues.iter().filter_map(of).cloned().collect()
    }

    /// The shares of a table, with their places.
    pub(crate) fn of_table<'a>(&'a self, table: &str) -> impl Iterator<Item = (usize, usize, &'a Outlet)> + use<'a> {
        let places = self.by_table.get(table).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|&place| Some((place, *self.queue_of.get(place)?, self.outlets.get(place)?)))
    }

    /// An outlet by its place, with the name of its shared queue.
    pub(crate) fn at(&self, place: usize) -> Option<(&Outlet, Arc<str>)> {
        let queue = self.queues.get(*self.queue_of.get(place)?)?;
        Some((self.outlets.get(place)?, queue.clone()))
    }

    /// The systems a change has passed once it leaves here.
    pub(crate) fn origin(&self, passed: &Arc<[String]>) -> Arc<[String]> {
        if passed.is_empty() {
            return self.own_origin.clone();
        }
        passed.iter().chain(self.own_origin.iter()).cloned().collect()
    }

    /// The route of a batch of one share.
    pub(crate) fn route(
        &self,
        outlet: &Outlet,
        action: Action,
        partition: u32,
        records: u32,
        origin: &[String],
    ) -> Route {
        Route {
            source: self.source.clone(),
            share: outlet.share.name().to_string(),
            table: outlet.share.table().to_string(),
            action,
            partition,
            records,
            origin: origin.to_vec(),
        }
    }
}
