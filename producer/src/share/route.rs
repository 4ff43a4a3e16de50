//! Conditional routing: to which of a share's shared queues a record goes.
//!
//! Knows conditions and places of routes; what queue and key a place stands for is known where shares meet the broker.

use std::sync::Arc;

use smallvec::SmallVec;

use super::condition::Condition;
use super::filter::Verdict;
use crate::source::Change;

/// Places of routes: 0 is the share's own queue, the others follow in the order of the configuration.
pub(super) type Places = SmallVec<[usize; 4]>;

/// The share's own queue, for what no route takes.
const OWN: usize = 0;

/// The routes of one share.
#[derive(Debug)]
pub(super) struct Routes {
    routes: Vec<Route>,
    /// Whether a record goes to every route it fits, and not to the first alone.
    all: bool,
    /// Whether what no route takes goes to the share's own queue.
    own: bool,
    /// The queue of every place.
    queues: Vec<Arc<str>>,
}

/// One route.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) when: Condition,
    pub(super) queue: Arc<str>,
}

impl Routes {
    pub(super) fn new(own_queue: &str, own: bool, all: bool, routes: Vec<Route>) -> Self {
        let queues = std::iter::once(own_queue.into()).chain(routes.iter().map(|route| Arc::clone(&route.queue)));
        Self { queues: queues.collect(), routes, all, own }
    }

    /// How many places there are.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Whether a record may move from one queue to another.
    pub(super) fn is_conditional(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The conditions of all routes.
    pub(super) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.routes.iter().map(|route| &route.when)
    }

    /// Whether two places are of one queue.
    pub(super) fn same_queue(&self, one: usize, other: usize) -> bool {
        self.queues.get(one) == self.queues.get(other)
    }

    /// Where a record goes as it is now; a column its table lacks is an error.
    pub(super) fn now(&self, change: &Change) -> Result<Places, &str> {
        let mut places = Places::new();
        for (place, route) in (OWN + 1..).zip(&self.routes) {
            if route.when.fits(change)? {
                places.push(place);
                if !self.all {
                    break;
                }
            }
        }
        if places.is_empty() && self.own {
            places.push(OWN);
        }
        Ok(places)
    }

    /// Where a record went before, and with a `guess` where it may have gone, as far as the row tells.
    pub(super) fn before(&self, change: &Change, guess: bool) -> Places {
        let mut places = Places::new();
        let mut left_over = self.own;
        for (place, route) in (OWN + 1..).zip(&self.routes) {
            let fitted = route.when.fitted(change);
            if fitted == Verdict::Fits || (guess && fitted == Verdict::Unknown) {
                places.push(place);
            }
            let over = match fitted {
                Verdict::Fits => true,
                Verdict::Unknown => !guess,
                Verdict::FitsNot => false,
            };
            left_over &= !over;
            if over && !self.all {
                break;
            }
        }
        if left_over {
            places.push(OWN);
        }
        places
    }
}
