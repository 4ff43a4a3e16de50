//! What the consumer counts. `docs/operations.md` says what each metric means and when to look at it.

use jiff::Timestamp;
use prometheus::{GaugeVec, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use syncline_shared::metrics::{counter, gauge, seconds, timestamp};
use syncline_shared::queue::Reason;
use syncline_shared::record::Action;

/// What became of a record, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The target changed.
    Applied,
    /// The target had exactly this version.
    Duplicate,
    /// The target had a newer version.
    Stale,
    /// Set aside as a dead letter.
    Dead,
    /// No subscription takes the table and the subscription says to skip those.
    Skipped,
    /// Withheld by the script of its table.
    Withheld,
}

impl Fate {
    const ALL: [Self; 6] = [Self::Applied, Self::Duplicate, Self::Stale, Self::Dead, Self::Skipped, Self::Withheld];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Dead => "dead",
            Self::Skipped => "skipped",
            Self::Withheld => "withheld",
        }
    }
}

/// The consumer's metrics, registered once per process.
#[derive(Clone, Debug)]
pub struct Metrics {
    records: IntCounterVec,
    dead_letters: IntCounterVec,
    apply_seconds: HistogramVec,
    age_seconds: HistogramVec,
    newest: GaugeVec,
    in_flight: IntGaugeVec,
    reconnects: IntCounterVec,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            counter(registry, &format!("syncline_consumer_{name}"), help, labels)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            gauge(registry, &format!("syncline_consumer_{name}"), help, labels)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            seconds(registry, &format!("syncline_consumer_{name}"), help, labels)
        };
        Ok(Self {
            records: counter("records_total", "Records by what became of them", &["share", "action", "outcome"])?,
            dead_letters: counter("dead_letters_total", "Messages set aside", &["subscription", "reason"])?,
            apply_seconds: seconds("apply_seconds", "Time of one apply at the target", &["subscription"])?,
            age_seconds: seconds("record_age_seconds", "Time from the commit at the source to applied", &["share"])?,
            newest: timestamp(
                registry,
                "syncline_consumer_newest_applied_timestamp_seconds",
                "Commit time of the newest record applied, in seconds since 1970",
                &["share"],
            )?,
            in_flight: gauge("in_flight_messages", "Messages being applied and not yet settled", &["subscription"])?,
            reconnects: counter("reconnects_total", "Attempts to reach a system again after a fault", &["system"])?,
        })
    }

    /// The numbers of one subscription, all present at 0 from the start.
    #[must_use]
    pub fn subscription(&self, subscription: &str) -> SubscriptionMetrics {
        for system in ["queue", "target"] {
            self.reconnects.with_label_values(&[system]);
        }
        for reason in Reason::ALL {
            self.dead_letters.with_label_values(&[subscription, reason.as_str()]);
        }
        SubscriptionMetrics {
            metrics: self.clone(),
            apply_seconds: self.apply_seconds.with_label_values(&[subscription]),
            in_flight: self.in_flight.with_label_values(&[subscription]),
            name: subscription.to_owned(),
        }
    }
}

/// The numbers of one subscription.
#[derive(Clone, Debug)]
pub struct SubscriptionMetrics {
    metrics: Metrics,
    name: String,
    /// Time of one apply.
    pub(crate) apply_seconds: prometheus::Histogram,
    /// Messages being applied and not yet settled.
    pub(crate) in_flight: IntGauge,
}

impl SubscriptionMetrics {
    /// Counts a message's records by what became of them; every outcome is present from the first one on. The share's name
    /// has to come from an authenticated message, so that their number is bounded.
    pub(crate) fn records(&self, share: &str, action: Action, fates: impl IntoIterator<Item = Fate>) {
        let mut counts = [0; Fate::ALL.len()];
        for fate in fates {
            for (count, each) in counts.iter_mut().zip(Fate::ALL) {
                *count += u64::from(each == fate);
            }
        }
        for (count, each) in counts.into_iter().zip(Fate::ALL) {
            self.metrics.records.with_label_values(&[share, action.as_str(), each.as_str()]).inc_by(count);
        }
    }

    /// Notes that records committed at these times are applied now.
    pub(crate) fn applied(&self, share: &str, times: impl IntoIterator<Item = Timestamp>, now: Timestamp) {
        let age = self.metrics.age_seconds.with_label_values(&[share]);
        let newest = self.metrics.newest.with_label_values(&[share]);
        for at in times {
            age.observe(now.duration_since(at).as_secs_f64().max(0.0));
            newest.set(newest.get().max(at.as_duration().as_secs_f64()));
        }
    }

    /// Counts one dead letter.
    pub(crate) fn dead_letter(&self, reason: Reason) {
        self.metrics.dead_letters.with_label_values(&[&self.name, reason.as_str()]).inc();
    }

    /// Attempts to reach one system again.
    pub(crate) fn reconnects(&self, system: &str) -> IntCounter {
        self.metrics.reconnects.with_label_values(&[system])
    }
}
