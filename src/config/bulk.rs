//! Groups and schedules of bulk shares: what is wrong with them, and what they come to for one source.

use std::collections::BTreeMap;

use syncline_producer::bulk::{BulkShare, BulkShares, Schedule};
use syncline_shared::config::Document;

use super::validate::refer;
use super::{Config, PartialConfig, compile};
use crate::failure::Failure;

impl PartialConfig {
    pub(super) fn validate_bulk(&self, document: &mut Document<'_>) {
        for (name, group) in &self.bulk_groups {
            let path = format!("bulk_group.{name}");
            document.report(&path, group.validate());
            for share in &group.shares {
                refer(document, &format!("{path}.shares"), "share", share, self.shares.keys());
            }
            let source = |share: &String| self.shares.get(share).map(|share| share.source.as_str());
            let mut sources = group.shares.iter().filter_map(|share| Some((share, source(share)?)));
            if let Some((first, of_first)) = sources.next()
                && let Some((other, of_other)) = sources.find(|(_, source)| *source != of_first)
            {
                let text = format!(
                    "{first} is of source {of_first} and {other} of source {of_other}; a group has shares of one source"
                );
                document.problem(&format!("{path}.shares"), text);
            }
        }
        for (name, schedule) in &self.schedules {
            let path = format!("schedule.{name}");
            document.report(&path, schedule.validate());
            if let Some(share) = &schedule.share {
                refer(document, &format!("{path}.share"), "share", share, self.shares.keys());
            }
            if let Some(group) = &schedule.group {
                refer(document, &format!("{path}.group"), "bulk_group", group, self.bulk_groups.keys());
            }
            let group = schedule.group.as_ref().and_then(|group| self.bulk_groups.get(group));
            let members = group.into_iter().flat_map(|group| &group.shares).chain(&schedule.share);
            for share in members.filter(|_| schedule.changed_only) {
                if self.shares.get(share).is_some_and(|share| share.changed_column.is_none()) {
                    let text = format!("needs changed_column = \"..\" in [share.{share}]");
                    document.problem(&format!("{path}.changed_only"), text);
                }
            }
        }
    }
}

impl Config {
    /// What is configured of the bulk shares of a source; its problems were reported when the configuration was read.
    pub(crate) fn bulk_shares(&self, source: &str) -> Result<BulkShares, Failure> {
        let mut shares = BTreeMap::new();
        for (name, config) in self.shares.iter().filter(|(_, config)| config.source == source) {
            let share = compile(name, config)?;
            let columns = |table| share.columns_used(table).map(str::to_owned).collect();
            let tables = share.tables().iter().map(|table| (table.clone(), columns(table))).collect();
            shares.insert(name.clone(), BulkShare { tables, changed_column: config.changed_column.clone() });
        }
        let mut schedules = BTreeMap::new();
        for (name, config) in &self.schedules {
            let group = config.group.as_ref().and_then(|name| Some((name, self.bulk_groups.get(name)?)));
            let members = group.into_iter().flat_map(|(_, group)| &group.shares).chain(&config.share);
            let members: Vec<_> = members.cloned().collect();
            let (Ok(times), Ok(changed)) = (config.times(), config.overlap()) else { continue };
            if members.iter().all(|share| shares.contains_key(share)) {
                let group = group.map(|(name, group)| (name.clone(), group.parallel));
                schedules.insert(name.clone(), Schedule { shares: members, group, times, changed });
            }
        }
        Ok(BulkShares { source: source.to_owned(), config: self.producer.bulk, shares, schedules })
    }
}
