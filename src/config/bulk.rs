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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Role;

    const BASE: &str = r#"
[queue]
type = "embedded"
path = "queue.db"
[shared_queue.crm]
[source.desk]
type = "sqlite"
path = "desk.db"
[source.hub]
type = "sqlite"
path = "hub.db"
[share.users]
source = "desk"
table = "sys_user"
queue = "crm"
cipher = "Base64"
interactive_only = false
[share.incidents]
source = "desk"
table = "incident"
queue = "crm"
cipher = "Base64"
interactive_only = false
changed_column = "sys_updated_on"
[share.parts]
source = "hub"
table = "part"
queue = "crm"
cipher = "Base64"
interactive_only = false
"#;

    fn read(more: &str) -> Result<Config, Vec<String>> {
        let text = format!("{BASE}{more}");
        let document = Document::parse("syncline.toml", &text, &|_| None);
        Config::take(document, Role::Producer).map_err(|problems| {
            let lines = BASE.matches('\n').count();
            let list = problems.list.into_iter();
            list.map(|one| format!("{} {}: {}", one.line.unwrap() - lines, one.path, one.text)).collect()
        })
    }

    #[test]
    fn groups_and_schedules_come_to_what_each_source_is_asked_for() {
        let more = "[bulk_group.all]\nshares = [\"users\", \"incidents\"]\nparallel = 2\n\
            [schedule.weekly]\ngroup = \"all\"\ncron = \"0 2 * * SUN\"\n\
            [schedule.parts]\nshare = \"parts\"\nevery = \"1h\"\n";
        let config = read(more).unwrap();
        let desk = config.bulk_shares("desk").unwrap();
        assert_eq!(desk.shares.keys().collect::<Vec<_>>(), ["incidents", "users"]);
        assert_eq!(desk.shares["incidents"].tables, [("incident".into(), vec!["sys_updated_on".to_owned()])]);
        let weekly = &desk.schedules["weekly"];
        assert_eq!(
            (weekly.shares.as_slice(), &weekly.group),
            (["users", "incidents"].map(str::to_owned).as_slice(), &Some(("all".to_owned(), 2)))
        );
        assert!(!desk.schedules.contains_key("parts"));
        assert!(config.bulk_shares("hub").unwrap().schedules.contains_key("parts"));
    }

    #[test]
    fn what_does_not_fit_together_is_told_with_its_line_and_what_is_accepted() {
        let more = "[bulk_group.mixed]\nshares = [\"users\", \"parts\", \"nobody\"]\n\
            [schedule.nightly]\ngroup = \"none\"\ncron = \"0 25 * * *\"\n\
            [schedule.sync_up]\nshare = \"users\"\nevery = \"15m\"\nchanged_only = true\n\
            [producer.bulk]\nconnections = 0\n";
        let expected = [
            "2 bulk_group.mixed.shares: there is no [share.nobody]; accepted: incidents, parts, users",
            "2 bulk_group.mixed.shares: users is of source desk and parts of source hub; a group has shares of one source",
            "4 schedule.nightly.group: there is no [bulk_group.none]; accepted: mixed",
            "5 schedule.nightly.cron: \"0 25 * * *\" is no such time; minute, hour, day of month, month, day of week, maybe a \
             time zone: 0 2 * * MON-FRI Europe/Berlin",
            "9 schedule.sync_up.changed_only: needs changed_column = \"..\" in [share.users]",
            "11 producer.bulk.connections: 0 is out of range; 1 to 16",
        ];
        assert_eq!(read(more).unwrap_err(), expected);
    }
}
