//! What the producer counts. `docs/operations.md` says what each metric means and when to look at it.

use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry};
use syncline_shared::metrics::{counter, gauge, seconds, timestamp};
use syncline_shared::record::Action;

use crate::share::Withheld;
use crate::source::{Retained, Source};

/// The producer's metrics, registered once per process.
#[derive(Clone, Debug)]
pub struct Metrics {
    changes: IntCounterVec,
    shared: IntCounterVec,
    withheld: IntCounterVec,
    confirmed: IntCounterVec,
    dead_letters: IntCounterVec,
    sealed_bytes: IntCounterVec,
    reconnects: IntCounterVec,
    newest: GaugeVec,
    lag: IntGaugeVec,
    retained: IntGaugeVec,
    room: IntGaugeVec,
    waits: GaugeVec,
    /// Seconds from handing a message to the broker to its confirm.
    pub(crate) confirm_seconds: Histogram,
    /// Messages handed to the broker and not yet confirmed.
    pub(crate) in_flight: IntGauge,
}

impl Metrics {
    /// Registers all metrics.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            counter(registry, &format!("syncline_producer_{name}"), help, labels)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            gauge(registry, &format!("syncline_producer_{name}"), help, labels)
        };
        Ok(Self {
            changes: counter("changes_total", "Changes the share was asked about", &["share", "action"])?,
            shared: counter("shared_total", "Records the share lets out", &["share", "action"])?,
            withheld: counter("withheld_total", "Changes the share holds back", &["share", "reason"])?,
            confirmed: counter("confirmed_total", "Records the broker has safe", &["share", "action"])?,
            dead_letters: counter("dead_letters_total", "Records set aside before they were sent", &["share"])?,
            sealed_bytes: counter("sealed_bytes_total", "Bytes of sealed bodies", &["share"])?,
            reconnects: counter("reconnects_total", "Attempts to reach a system again after a fault", &["system"])?,
            newest: timestamp(
                registry,
                "syncline_producer_newest_change_timestamp_seconds",
                "Commit time of the newest record let out, in seconds since 1970",
                &["share"],
            )?,
            lag: gauge(
                "replication_lag_bytes",
                "Bytes of the source's log between the stored position and its end",
                &["source"],
            )?,
            retained: gauge(
                "retained_wal_bytes",
                "Bytes of the source's log its server keeps for the slot",
                &["source"],
            )?,
            room: gauge(
                "safe_wal_bytes",
                "Bytes the source's server may still write before it gives the slot's log up",
                &["source"],
            )?,
            waits: timestamp(
                registry,
                "syncline_producer_no_progress_since_timestamp_seconds",
                "Since when changes that were read wait and nothing of them is confirmed or stored, in seconds since 1970; else 0",
                &["part"],
            )?,
            confirm_seconds: seconds(
                registry,
                "syncline_producer_confirm_seconds",
                "Time from handing a message to the broker to its confirm",
                &[],
            )?
            .with_label_values::<&str>(&[]),
            in_flight: gauge("in_flight_messages", "Messages handed to the broker and not yet confirmed", &[])?
                .with_label_values::<&str>(&[]),
        })
    }

    /// The counters of one share, all present at 0 from the start.
    #[must_use]
    pub fn share(&self, share: &str) -> ShareMetrics {
        let by_action =
            |counter: &IntCounterVec| Action::ALL.map(|action| counter.with_label_values(&[share, action.as_str()]));
        ShareMetrics {
            changes: by_action(&self.changes),
            shared: by_action(&self.shared),
            confirmed: by_action(&self.confirmed),
            withheld: Withheld::ALL.map(|reason| self.withheld.with_label_values(&[share, reason.as_str()])),
            dead_letters: self.dead_letters.with_label_values(&[share]),
            sealed_bytes: self.sealed_bytes.with_label_values(&[share]),
            newest: self.newest.with_label_values(&[share]),
        }
    }

    /// The gauges of one source's log.
    #[must_use]
    pub(crate) fn log(&self, source: &str) -> LogMetrics {
        let lag = self.lag.with_label_values(&[source]);
        LogMetrics { source: source.to_owned(), lag, retained: self.retained.clone(), room: self.room.clone() }
    }

    /// The gauge of a part's progress.
    #[must_use]
    pub(crate) fn progress(&self, part: &str) -> ProgressMetric {
        ProgressMetric(self.waits.with_label_values(&[part]))
    }

    /// Attempts to reach one system again.
    #[must_use]
    pub(crate) fn reconnects(&self, system: &str) -> IntCounter {
        self.reconnects.with_label_values(&[system])
    }
}

/// How far a source's log has grown.
#[derive(Clone, Debug)]
pub(crate) struct LogMetrics {
    source: String,
    lag: IntGauge,
    retained: IntGaugeVec,
    room: IntGaugeVec,
}

impl LogMetrics {
    /// Notes what a source tells; what it does not tell has no value, since 0 would mean something.
    pub(crate) fn note<S: Source>(&self, source: &S) {
        let number = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        if let Some(bytes) = source.lag_bytes() {
            self.lag.set(number(bytes));
        }
        if let Some(Retained { bytes, room_bytes }) = source.retained() {
            self.retained.with_label_values(&[&self.source]).set(number(bytes));
            if let Some(room) = room_bytes {
                self.room.with_label_values(&[&self.source]).set(number(room));
            }
        }
    }
}

/// Since when nothing is confirmed and no position stored, although changes wait for it.
#[derive(Clone, Debug)]
pub(crate) struct ProgressMetric(Gauge);

impl ProgressMetric {
    /// Its value.
    #[cfg(test)]
    pub(crate) fn get(&self) -> f64 {
        self.0.get()
    }

    /// Notes that changes were read.
    pub(crate) fn waits(&self) {
        if self.0.get() == 0.0 {
            self.0.set(now());
        }
    }

    /// Notes that something was confirmed or stored, and whether more waits.
    pub(crate) fn made(&self, more: bool) {
        self.0.set(if more { now() } else { 0.0 });
    }
}

fn now() -> f64 {
    Timestamp::now().as_duration().as_secs_f64()
}

/// The counters of one share.
#[derive(Clone, Debug)]
pub struct ShareMetrics {
    changes: [IntCounter; Action::ALL.len()],
    shared: [IntCounter; Action::ALL.len()],
    confirmed: [IntCounter; Action::ALL.len()],
    withheld: [IntCounter; Withheld::ALL.len()],
    /// Records set aside before they were sent.
    pub(crate) dead_letters: IntCounter,
    /// Bytes of sealed bodies.
    pub(crate) sealed_bytes: IntCounter,
    /// Commit time of the newest record let out.
    pub(crate) newest: Gauge,
}

impl ShareMetrics {
    /// Changes the share was asked about.
    pub fn changes(&self, action: Action) -> &IntCounter {
        of(&self.changes, Action::ALL, action)
    }

    /// Records the share lets out.
    pub fn shared(&self, action: Action) -> &IntCounter {
        of(&self.shared, Action::ALL, action)
    }

    /// Records the broker has safe.
    pub fn confirmed(&self, action: Action) -> &IntCounter {
        of(&self.confirmed, Action::ALL, action)
    }

    /// Changes held back for a reason.
    pub fn withheld(&self, reason: Withheld) -> &IntCounter {
        of(&self.withheld, Withheld::ALL, reason)
    }
}

/// The counter of a label in the closed list the counters were made from.
#[expect(clippy::expect_used, reason = "every value of a closed list has its counter")]
fn of<T: PartialEq, const N: usize>(counters: &[IntCounter; N], list: [T; N], value: T) -> &IntCounter {
    let place = list.iter().position(|one| *one == value);
    place.and_then(|place| counters.get(place)).expect("the label is in its list")
}
