//! What the parts of a service do: one log line per fault, three metrics, the answers for `/readyz` and `/jobs`.
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

mod state;

pub use self::state::{Fault, Job, Standing};

use self::state::{Pause, State};

/// What the parts of a service do. Cheap to clone; the service is ready while nothing is paused.
#[derive(Clone, Debug)]
pub struct Health {
    parts: Arc<Mutex<BTreeMap<Name, State>>>,
    paused: IntGaugeVec,
    standing_by: IntGaugeVec,
    resting: IntGaugeVec,
}

/// What a part is called: parts of one group may meet the same fault.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    group: String,
    partition: Option<u32>,
}

impl Health {
    /// Registers `syncline_<service>_paused`, `.._standing_by` and `.._resting`.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry, service: &str) -> Result<Self, prometheus::Error> {
        let gauge =
            |name: &str, help: &str| metrics::gauge(registry, &format!("syncline_{service}_{name}"), help, &["part"]);
        let paused = gauge("paused", "1 while this part is paused by a fault; /readyz and the log say which")?;
        let standing_by =
            gauge("standing_by", "1 while this part waits for another process to leave what it would work on")?;
        let resting = gauge("resting", "1 while this part has done its work and waits for its next time")?;
        Ok(Self { parts: Arc::default(), paused, standing_by, resting })
    }

    /// A part by its name, working until it says otherwise.
    #[must_use]
    pub fn part(&self, name: String) -> Part {
        let label = name.clone();
        let shown = [
            (Standing::Paused, &self.paused),
            (Standing::StandsBy, &self.standing_by),
            (Standing::Rests, &self.resting),
        ];
        self.named(Name { group: name, partition: None }, &label, &shown)
    }

    /// One of the partitions of a part, working until it says otherwise.
    #[must_use]
    pub fn partition(&self, of: String, partition: u32) -> Part {
        let label = format!("{of} partition {partition}");
        // Others may have it meanwhile: that is the broker's to know, and to tell.
        let shown = [(Standing::Paused, &self.paused), (Standing::Rests, &self.resting)];
        self.named(Name { group: of, partition: Some(partition) }, &label, &shown)
    }

    fn named(&self, name: Name, label: &str, shown: &[(Standing, &IntGaugeVec)]) -> Part {
        let gauges = shown.iter().map(|(of, gauge)| (*of, gauge.with_label_values(&[label]))).collect();
        self.lock().insert(name.clone(), State::Works { since: Timestamp::now() });
        let part = Part { health: self.clone(), name, gauges };
        part.shows(Standing::Works);
        part
    }

    /// The paused parts with their reasons; partitions paused by the same fault are one entry.
    #[must_use]
    pub fn paused(&self) -> BTreeMap<String, String> {
        self.faults().into_iter().map(|Fault { part, reason, .. }| (part, reason)).collect()
    }

    /// What is paused, why and since when.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let fault = |Job { job: part, state, since, reason, .. }| {
            Some(Fault { part, reason: reason?, since, stands_by: state == Standing::StandsBy })
        };
        self.jobs().into_iter().filter_map(fault).collect()
    }

    /// What every part does; partitions of a part that do the same are one entry.
    #[must_use]
    pub fn jobs(&self) -> Vec<Job> {
        let mut alike: BTreeMap<(String, String), (Job, Vec<u32>)> = BTreeMap::new();
        for (name, state) in &*self.lock() {
            let like = alike.entry((name.group.clone(), state.likeness()));
            let job = state.job();
            let (first, partitions) = like.or_insert_with(|| (job.clone(), Vec::new()));
            first.since = first.since.min(job.since);
            first.attempts = first.attempts.max(job.attempts);
            partitions.extend(name.partition);
        }
        let named = |((group, _), (job, partitions)): ((String, _), (Job, Vec<u32>))| {
            let name = match partitions.as_slice() {
                [] => group,
                [one] => format!("{group} partition {one}"),
                several => format!("{group} partitions {}", ranges(several)),
            };
            Job { job: name, ..job }
        };
        alike.into_iter().map(named).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Name, State>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// Each is 1 while the part does this.
    gauges: Vec<(Standing, IntGauge)>,
}

impl Part {
    /// Says that the part is paused by a fault; logged when the fault is new to the part and its like.
    pub fn pause(&self, class: Class, fault: &(dyn Error + 'static)) {
        self.pauses(class, fault, false);
    }

    /// Says that the part waits for its turn: it is not ready, and nobody has to do anything about it.
    pub fn stand_by(&self, why: &(dyn Error + 'static)) {
        self.pauses(Class::Transient, why, true);
    }

    fn pauses(&self, class: Class, fault: &(dyn Error + 'static), stands_by: bool) {
        let reason = chain(fault);
        let key = match class {
            Class::Transient => fault.to_string(),
            Class::Permanent | Class::Systemic => reason.clone(),
        };
        let mut parts = self.health.lock();
        let known = self.shares(&parts, &key);
        let was = parts.get(&self.name).and_then(State::pause);
        let (since, attempts) = was.map_or_else(|| (Timestamp::now(), 0), |was| (was.since, was.attempts));
        let attempts = attempts.saturating_add(1);
        let pause = Pause { key, reason: reason.clone(), since, attempts, stands_by };
        parts.insert(self.name.clone(), State::Paused(pause));
        drop(parts);
        self.shows(if stands_by { Standing::StandsBy } else { Standing::Paused });
        if known {
            return;
        }
        let Name { group: part, partition } = &self.name;
        match class {
            _ if stands_by => tracing::info!(part, partition, error = reason, "stands by"),
            Class::Transient => tracing::warn!(part, partition, error = reason, "paused, trying again"),
            Class::Permanent | Class::Systemic => {
                tracing::error!(part, partition, error = reason, "paused until this is mended; nothing is lost");
            }
        }
    }

    /// Says that the part works; logged when it was paused before, by the last of those with the same fault.
    pub fn works(&self) {
        let mut parts = self.health.lock();
        if matches!(parts.get(&self.name), Some(State::Works { .. })) {
            return;
        }
        let was = parts.insert(self.name.clone(), State::Works { since: Timestamp::now() });
        let was = was.as_ref().and_then(State::pause).filter(|was| !self.shares(&parts, &was.key));
        drop(parts);
        self.shows(Standing::Works);
        if let Some(was) = was {
            tracing::info!(part = self.name.group, partition = self.name.partition, after = was.key, "works again");
        }
    }

    /// Says that a part that works has done what there was, and waits for its next time.
    pub fn rests(&self, until: Timestamp) {
        self.works();
        self.health.lock().insert(self.name.clone(), State::Rests { since: Timestamp::now(), until });
        self.shows(Standing::Rests);
        tracing::debug!(part = self.name.group, partition = self.name.partition, %until, "rests");
    }

    /// Sets the metrics to what it does.
    fn shows(&self, standing: Standing) {
        for (of, gauge) in &self.gauges {
            gauge.set(i64::from(standing == *of));
        }
    }

    /// Whether a part of this group is paused by this fault.
    fn shares(&self, parts: &BTreeMap<Name, State>, key: &str) -> bool {
        let first = Name { group: self.name.group.clone(), partition: None };
        let group = parts.range(first..).take_while(|(name, _)| name.group == self.name.group);
        group.filter_map(|(_, state)| Some(&state.pause()?.key)).any(|other| other == key)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.health.lock().remove(&self.name);
        self.shows(Standing::Works);
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

    #[test]
    fn what_every_part_does_is_told_and_partitions_that_do_the_same_are_one() {
        let health = Health::new(&Registry::new(), "consumer").expect("a fresh registry");
        let source = health.part("source desk".to_owned());
        let partitions: Vec<_> = (0..4).map(|number| health.partition("subscription crm".to_owned(), number)).collect();
        let until: Timestamp = "2026-11-22T09:00:00Z".parse().expect("a time");
        source.stand_by(&std::io::Error::other("another producer reads it"));
        source.stand_by(&std::io::Error::other("another producer reads it"));
        partitions[0].rests(until);
        partitions[2].rests(until);
        partitions[3].pause(Class::Systemic, &std::io::Error::other("no table"));
        let told = |job: Job| (job.job, job.state, job.until, job.attempts, job.reason);
        let told: Vec<_> = health.jobs().into_iter().map(told).collect();
        let named = |name: &str| name.to_owned();
        let expected = [
            (named("source desk"), Standing::StandsBy, None, 2, Some(named("another producer reads it"))),
            (named("subscription crm partition 1"), Standing::Works, None, 0, None),
            (named("subscription crm partitions 0, 2"), Standing::Rests, Some(until), 0, None),
            (named("subscription crm partition 3"), Standing::Paused, None, 1, Some(named("no table"))),
        ];
        assert_eq!(told, expected);
        assert_eq!(health.faults().iter().filter(|fault| fault.stands_by).count(), 1);
        let shown = |part: &str| {
            [&health.paused, &health.standing_by, &health.resting].map(|gauge| gauge.with_label_values(&[part]).get())
        };
        assert_eq!(shown("source desk"), [0, 1, 0], "who waits for its turn is not paused");
        source.pause(Class::Transient, &std::io::Error::other("gone"));
        assert_eq!(shown("source desk"), [1, 0, 0]);
        source.works();
        assert_eq!(shown("source desk"), [0, 0, 0]);
        assert_eq!(health.resting.with_label_values(&["subscription crm partition 2"]).get(), 1);
        partitions[2].works();
        assert_eq!(health.resting.with_label_values(&["subscription crm partition 2"]).get(), 0);
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
        assert_eq!(health.paused.with_label_values(&["subscription crm partition 5"]).get(), 1);

        let lines = logged(|| [0, 1, 2, 5, 3].iter().for_each(|number| partitions[*number].works()));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("works again") && lines[0].contains("out of reach"), "{lines:?}");
        assert_eq!(reasons(&health).len(), 2);
    }
}
