//! The demo's live picture, drawn from the same metrics that `/metrics` shows.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prometheus::Registry;
use prometheus::proto::MetricFamily;

const SHARES: [&str; 3] = ["incidents", "users", "changes"];
/// Between lines where there is no terminal to draw on.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Draws a table in place on a terminal, and plain lines elsewhere.
pub(super) struct View {
    registry: Registry,
    terminal: bool,
    drawn: usize,
    last_line: Option<Instant>,
    /// What the last plain lines said, so that nothing is said twice.
    last_seen: f64,
}

impl View {
    pub(super) const fn new(registry: Registry, terminal: bool) -> Self {
        Self { registry, terminal, drawn: 0, last_line: None, last_seen: -1.0 }
    }

    /// Shows the numbers as they are now.
    pub(super) fn draw(&mut self) {
        if !self.terminal && self.last_line.is_some_and(|at| at.elapsed() < LINE_EVERY) {
            return;
        }
        self.last_line = Some(Instant::now());
        self.print();
    }

    /// Shows the last numbers.
    pub(super) fn finish(&mut self) {
        self.print();
        println!();
        self.drawn = 0;
    }

    fn print(&mut self) {
        let families = self.registry.gather();
        let seen: f64 =
            SHARES.iter().map(|share| Numbers::of(share, &families)).map(|all| all.read + all.applied).sum();
        if !self.terminal && seen <= self.last_seen {
            return;
        }
        self.last_seen = seen;
        let lines = if self.terminal { table(&families) } else { plain(&families) };
        let mut out = String::new();
        if self.drawn > 0 && self.terminal {
            // Up to the first line of the last picture, and clear from there.
            out.push_str(&format!("\x1b[{}A\x1b[J", self.drawn));
        }
        for line in &lines {
            out.push_str(line);
            out.push('\n');
        }
        self.drawn = lines.len();
        let mut stdout = std::io::stdout().lock();
        // Nothing can be done about a closed terminal; the comparison still counts.
        let _ = stdout.write_all(out.as_bytes());
        let _ = stdout.flush();
    }
}

/// What one share did.
struct Numbers {
    read: f64,
    shared: f64,
    withheld: BTreeMap<String, f64>,
    sealed_bytes: f64,
    applied: f64,
    age: Option<f64>,
}

impl Numbers {
    fn of(share: &str, families: &[MetricFamily]) -> Self {
        let newest = sum(families, "syncline_consumer_newest_applied_timestamp_seconds", share, None);
        let now = Timestamp::now().as_duration().as_secs_f64();
        Self {
            read: sum(families, "syncline_producer_changes_total", share, None),
            shared: sum(families, "syncline_producer_shared_total", share, None),
            withheld: by_reason(families, share),
            sealed_bytes: sum(families, "syncline_producer_sealed_bytes_total", share, None),
            applied: sum(families, "syncline_consumer_records_total", share, Some(("outcome", "applied"))),
            age: (newest > 0.0).then_some((now - newest).max(0.0)),
        }
    }

    fn why(&self) -> String {
        let reasons: Vec<_> = self
            .withheld
            .iter()
            .filter(|(_, count)| **count > 0.0)
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        if reasons.is_empty() { "0".to_owned() } else { reasons.join(", ") }
    }
}

fn table(families: &[MetricFamily]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:10} {:>8} {:>8} {:>26} {:>11} {:>8} {:>9}",
        "SHARE", "READ", "SHARED", "WITHHELD", "SEALED", "APPLIED", "AGE"
    )];
    lines.extend(SHARES.iter().map(|share| {
        let numbers = Numbers::of(share, families);
        let sealed = format!("{:.1} KiB", numbers.sealed_bytes / 1024.0);
        let age = numbers.age.map_or_else(|| "-".to_owned(), |age| format!("{age:.1} s"));
        let Numbers { read, shared, applied, .. } = numbers;
        format!("{share:10} {read:>8} {shared:>8} {:>26} {sealed:>11} {applied:>8} {age:>9}", numbers.why())
    }));
    lines
}

fn plain(families: &[MetricFamily]) -> Vec<String> {
    let line = |share: &&str| {
        let numbers = Numbers::of(share, families);
        let age = numbers.age.map_or_else(|| "-".to_owned(), |age| format!("{age:.1}s"));
        let why = numbers.why();
        let Numbers { read, shared, sealed_bytes, applied, .. } = numbers;
        format!(
            "{share}: read {read}, shared {shared}, withheld {why}, sealed {sealed_bytes} bytes, applied {applied}, newest {age} ago"
        )
    };
    SHARES.iter().map(line).collect()
}

/// The sum of a family's values for one share.
fn sum(families: &[MetricFamily], name: &str, share: &str, label: Option<(&str, &str)>) -> f64 {
    let has = |metric: &prometheus::proto::Metric, name: &str, value: &str| {
        metric.get_label().iter().any(|label| label.name() == name && label.value() == value)
    };
    families
        .iter()
        .filter(|family| family.name() == name)
        .flat_map(|family| family.get_metric())
        .filter(|metric| has(metric, "share", share) && label.is_none_or(|(name, value)| has(metric, name, value)))
        // Starts from a positive zero: an empty sum of floats is a negative one.
        .fold(0.0, |sum, metric| sum + metric.get_counter().get_value() + metric.get_gauge().get_value())
}

fn by_reason(families: &[MetricFamily], share: &str) -> BTreeMap<String, f64> {
    let family = families.iter().filter(|family| family.name() == "syncline_producer_withheld_total");
    let reasons = family.flat_map(|family| family.get_metric()).flat_map(|metric| metric.get_label());
    let reasons = reasons.filter(|label| label.name() == "reason").map(|label| label.value().to_owned());
    reasons
        .map(|reason| {
            let count = sum(families, "syncline_producer_withheld_total", share, Some(("reason", &reason)));
            (reason, count)
        })
        .collect()
}
