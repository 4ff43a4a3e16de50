//! Which parts of a service work: one log line per change, one metric, one answer for `/readyz`.
//!
//! A part is a source, a queue or a partition of a subscription. Partitions that meet the same fault tell it once: the
//! first one logs it, the last one logs its end. A reason never shows a record, a key or a password.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use prometheus::{IntGauge, IntGaugeVec, Registry};

use crate::class::Class;
use crate::metrics;
use crate::tasks::chain;

/// Why parts of a service are paused. Cheap to clone; the service is ready while nothing is paused.
#[derive(Clone, Debug)]
pub struct Health {
    paused: Arc<Mutex<BTreeMap<Name, Pause>>>,
    gauge: IntGaugeVec,
}

/// What a part is called: parts of one group may meet the same fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    group: String,
    partition: Option<u32>,
}

/// What keeps parts of a service from working; partitions that meet the same fault are one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The parts, as people call them.
    pub part: String,
    /// Why, and what to do.
    pub reason: String,
    /// Since when the first of them is paused.
    pub since: Timestamp,
    /// Whether it is none: the part waits for its turn.
    pub stands_by: bool,
}

#[derive(Clone, Debug)]
struct Pause {
    /// What makes two faults of a group the same. The causes of a transient one vary from attempt to attempt.
    key: String,
    reason: String,
    /// Since when the part is paused, for whatever reason.
    since: Timestamp,
    stands_by: bool,
}

impl Health {
    /// Registers `syncline_<service>_paused`.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry, service: &str) -> Result<Self, prometheus::Error> {
        let help = "1 while this part is paused by a fault; /readyz and the log say which";
        let gauge = metrics::gauge(registry, &format!("syncline_{service}_paused"), help, &["part"])?;
        Ok(Self { paused: Arc::default(), gauge })
    }

    /// A part by its name, working until it says otherwise.
    #[must_use]
    pub fn part(&self, name: String) -> Part {
        let gauge = self.gauge.with_label_values(&[&name]);
        self.named(Name { group: name, partition: None }, gauge)
    }

    /// One of the partitions of a part, working until it says otherwise.
    #[must_use]
    pub fn partition(&self, of: String, partition: u32) -> Part {
        let gauge = self.gauge.with_label_values(&[&format!("{of} partition {partition}")]);
        self.named(Name { group: of, partition: Some(partition) }, gauge)
    }

    fn named(&self, name: Name, gauge: IntGauge) -> Part {
        gauge.set(0);
        Part { health: self.clone(), name, gauge }
    }

    /// The paused parts with their reasons; partitions paused by the same fault are one entry.
    #[must_use]
    pub fn paused(&self) -> BTreeMap<String, String> {
        self.faults().into_iter().map(|Fault { part, reason, .. }| (part, reason)).collect()
    }

    /// What is paused, why and since when.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults: BTreeMap<(String, String), (Pause, Vec<u32>)> = BTreeMap::new();
        for (name, pause) in &*self.lock() {
            let same = faults.entry((name.group.clone(), pause.key.clone()));
            let (first, partitions) = same.or_insert_with(|| (pause.clone(), Vec::new()));
            first.since = first.since.min(pause.since);
            partitions.extend(name.partition);
        }
        let listed = |((group, _), (Pause { reason, since, stands_by, .. }, partitions)): (_, (Pause, Vec<u32>))| {
            let part = match partitions.as_slice() {
                [] => group,
                [one] => format!("{group} partition {one}"),
                several => format!("{group} partitions {}", ranges(several)),
            };
            Fault { part, reason, since, stands_by }
        };
        faults.into_iter().map(listed).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, Pause>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ascending numbers as people write them: `0-3, 5`.
fn ranges(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|one, next| one + 1 == *next);
    let texts = runs.map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        [] | [_] => run.iter().map(ToString::to_string).collect(),
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// One part of a service.
#[derive(Debug)]
pub struct Part {
    health: Health,
    name: Name,
    gauge: IntGauge,
}

impl Part {
    /// Says that the part is paused by a fault; logged when the fault is new to the part and its like.
    pub fn pause(&self, class: Class, fault: &(dyn Error + 'static)) {
        self.paused(class, fault, false);
    }

    /// The same for a part that waits for its turn: it is not ready, and nobody has to do anything about it.
    pub fn stand_by(&self, why: &(dyn Error + 'static)) {
        self.paused(Class::Transient, why, true);
    }

    fn paused(&self, class: Class, fault: &(dyn Error + 'static), stands_by: bool) {
        let reason = chain(fault);
        let key = match class {
            Class::Transient => fault.to_string(),
            Class::Permanent | Class::Systemic => reason.clone(),
        };
        let mut paused = self.health.lock();
        let known = self.shares(&paused, &key);
        let since = paused.get(&self.name).map_or_else(Timestamp::now, |was| was.since);
        paused.insert(self.name.clone(), Pause { key, reason: reason.clone(), since, stands_by });
        drop(paused);
        self.gauge.set(1);
        if known {
            return;
        }
        let Name { group: part, partition } = &self.name;
        match class {
            Class::Transient => tracing::warn!(part, partition, reason, "paused, trying again"),
            Class::Permanent | Class::Systemic => {
                tracing::error!(part, partition, reason, "paused until this is mended; nothing is lost");
            }
        }
    }

    /// Says that the part works; logged when it did not before, by the last of those with the same fault.
    pub fn works(&self) {
        let mut paused = self.health.lock();
        let Some(was) = paused.remove(&self.name) else { return };
        let shared = self.shares(&paused, &was.key);
        drop(paused);
        self.gauge.set(0);
        if !shared {
            tracing::info!(part = self.name.group, partition = self.name.partition, after = was.key, "works again");
        }
    }

    /// Whether a part of this group is paused by this fault.
    fn shares(&self, paused: &BTreeMap<Name, Pause>, key: &str) -> bool {
        let first = Name { group: self.name.group.clone(), partition: None };
        let group = paused.range(first..).take_while(|(name, _)| name.group == self.name.group);
        group.map(|(_, fault)| &fault.key).any(|other| other == key)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.health.lock().remove(&self.name);
        self.gauge.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is logged meanwhile, line by line.
    fn logged(work: impl FnOnce()) -> Vec<String> {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let file = log.reopen().expect("the file");
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(Mutex::new(file)).finish();
        tracing::subscriber::with_default(subscriber, work);
        std::fs::read_to_string(log.path()).expect("the log").lines().map(str::to_owned).collect()
    }

    fn reasons(health: &Health) -> Vec<(String, String)> {
        health.paused().into_iter().collect()
    }

    #[test]
    fn a_part_is_paused_until_it_works_or_is_gone() {
        let registry = Registry::new();
        let health = Health::new(&registry, "producer").expect("a fresh registry");
        let source = health.part("source servicedesk".to_owned());
        source.pause(Class::Systemic, &std::io::Error::other("no slot"));
        assert_eq!(health.paused().into_values().collect::<Vec<_>>(), ["no slot"]);
        let since = health.faults()[0].since;
        source.pause(Class::Systemic, &std::io::Error::other("no publication"));
        assert_eq!(health.faults()[0].since, since, "it has been paused all the time");
        source.works();
        assert!(health.paused().is_empty());
        source.pause(Class::Transient, &std::io::Error::other("gone"));
        drop(source);
        assert!(health.paused().is_empty());
    }
    /// A fault with a cause that varies.
    #[derive(Debug, thiserror::Error)]
    #[error("the broker is out of reach")]
    struct Away(#[source] std::io::Error);

    fn away(cause: &str) -> Away {
        Away(std::io::Error::other(cause.to_owned()))
    }

    #[test]
    fn partitions_that_meet_one_fault_are_one_line() {
        let health = Health::new(&Registry::new(), "consumer").expect("a fresh registry");
        let partitions: Vec<_> = (0..6).map(|number| health.partition("subscription crm".to_owned(), number)).collect();
        let other = health.partition("subscription dwh".to_owned(), 0);
        let lines = logged(|| {
            for number in [5, 0, 1, 2] {
                partitions[number].pause(Class::Transient, &away("refused"));
            }
            // The cause varies from attempt to attempt.
            partitions[0].pause(Class::Transient, &away("reset"));
            partitions[4].pause(Class::Systemic, &std::io::Error::other("no table"));
            other.pause(Class::Transient, &away("refused"));
        });
        assert_eq!(lines.len(), 3, "{lines:?}");
        let text = |(part, reason): (&str, &str)| (part.to_owned(), reason.to_owned());
        let expected = [
            ("subscription crm partition 4", "no table"),
            ("subscription crm partitions 0-2, 5", "the broker is out of reach: reset"),
            ("subscription dwh partition 0", "the broker is out of reach: refused"),
        ];
        assert_eq!(reasons(&health), expected.map(text));
        assert_eq!(health.gauge.with_label_values(&["subscription crm partition 5"]).get(), 1);

        let lines = logged(|| [0, 1, 2, 5, 3].iter().for_each(|number| partitions[*number].works()));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("works again") && lines[0].contains("out of reach"), "{lines:?}");
        assert_eq!(reasons(&health).len(), 2);
    }
}
