//! Where the records of a share come to at a target.

use std::collections::BTreeSet;
use std::sync::Arc;

use syncline_consumer::config::SubscriptionConfig;
use syncline_consumer::target::TableMap;
use syncline_producer::share::{Share, ShareConfig};
use syncline_shared::record::Action;
use syncline_shared::script::Script;

use crate::config::{Config, compile};
use crate::failure::Failure;

/// One way from a share to a table of the target.
pub(super) struct Place {
    /// The shared queue.
    pub(super) queue: String,
    /// The table records leave under.
    pub(super) table: Arc<str>,
    /// Where they are applied.
    pub(super) map: TableMap,
    /// What is done to them before.
    pub(super) script: Option<Script>,
    /// The target's table, by its place in [`Places::tables`].
    pub(super) into: usize,
}

/// A table of the target.
pub(super) struct Into {
    pub(super) name: String,
    /// Why rows without a record are none too many, or may be.
    pub(super) keeps_others: Option<String>,
}

/// All ways from a share to a target.
pub(super) struct Places {
    pub(super) ways: Vec<Place>,
    pub(super) tables: Vec<Into>,
}

impl Places {
    pub(super) fn find(config: &Config, share: &Share, rule: &ShareConfig, target: &str) -> Result<Self, Failure> {
        let mut places = Self { ways: Vec::new(), tables: Vec::new() };
        for (queue, table, subscription, map) in ways(config, share, rule, target) {
            let into = places.tables.iter().position(|known| known.name == map.into).unwrap_or_else(|| {
                places.tables.push(Into { name: map.into.clone(), keeps_others: None });
                places.tables.len() - 1
            });
            let script = subscription.table.get(&*table).map(|table| table.compile_script()).transpose();
            let script = script.map_err(|error| Failure::other(&error))?.flatten();
            places.ways.push(Place { queue, table, map, script, into });
        }
        if places.ways.is_empty() {
            let name = share.name();
            return Err(Failure::Usage(format!(
                "nothing of the share {name} comes to the target {target}: no subscription of the target is on a shared \
                 queue of the share and takes its tables"
            )));
        }
        for table in &mut places.tables {
            table.keeps_others = keeps_others(config, share, target, &table.name)?;
        }
        Ok(places)
    }
}

/// Every way of a share to a target: queue, table, subscription, and where it is applied.
fn ways<'c>(
    config: &'c Config,
    share: &Share,
    rule: &ShareConfig,
    target: &str,
) -> Vec<(String, Arc<str>, &'c SubscriptionConfig, TableMap)> {
    let queues: BTreeSet<String> = config.destinations(rule).into_iter().map(|to| to.queue.name).collect();
    let subscriptions = config.subscriptions.values().filter(|subscription| subscription.target == target);
    let mut ways = Vec::new();
    for subscription in subscriptions.filter(|subscription| queues.contains(&subscription.queue)) {
        for table in share.tables_leaving() {
            if let Some(map) = subscription.map(&rule.source, table) {
                ways.push((subscription.queue.clone(), Arc::clone(table), subscription, map));
            }
        }
    }
    ways
}

/// Why a table of the target may have rows that are no records of the share.
fn keeps_others(config: &Config, share: &Share, target: &str, into: &str) -> Result<Option<String>, Failure> {
    if !share.is_on(Action::Delete) {
        return Ok(Some("the share sends no deletes".to_owned()));
    }
    let mut writers = Vec::new();
    for (name, rule) in config.shares.iter().filter(|(name, _)| **name != **share.name()) {
        let other = compile(name, rule)?;
        if ways(config, &other, rule, target).iter().any(|(.., map)| map.into == into) {
            writers.push(name.as_str());
        }
    }
    Ok((!writers.is_empty()).then(|| format!("the table gets records of other shares too: {}", writers.join(", "))))
}
