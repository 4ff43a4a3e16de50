//! What a running producer tells of its shares, read from its admin endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use syncline_shared::admin;

/// The pages of a running producer.
pub(super) struct Running {
    metrics: Vec<Sample>,
    /// Lines of `/readyz`: what is paused and why.
    faults: Vec<String>,
}

/// One line of `/metrics`.
#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// What a producer counted of one share since it was started.
#[derive(Debug, PartialEq)]
pub(super) struct Counters {
    /// Changes it was asked about.
    pub(super) changes: u64,
    pub(super) shared: u64,
    pub(super) confirmed: u64,
    pub(super) dead_letters: u64,
    /// What it held back, by reason; none that is 0.
    pub(super) withheld: BTreeMap<String, u64>,
    /// Commit time of the newest record let out, in seconds since 1970.
    pub(super) newest: Option<f64>,
}

impl Running {
    /// Asks the producer that listens at an address; why it cannot be asked.
    pub(super) async fn ask(listening: SocketAddr) -> Result<Self, String> {
        if listening.port() == 0 {
            return Err("[producer] http takes a free port at every start, which only its log tells".to_owned());
        }
        let address = admin::reach(listening);
        let page = async |path| {
            admin::read(address, path)
                .await
                .map(|(_, text)| text)
                .map_err(|error| format!("no producer answers at {address}: {error}"))
        };
        let (metrics, ready) = (page("/metrics").await?, page("/readyz").await?);
        Ok(Self::read(&metrics, &ready))
    }

    fn read(metrics: &str, ready: &str) -> Self {
        let faults = ready.lines().filter(|line| *line != "ready").map(str::to_owned).collect();
        Self { metrics: metrics.lines().filter_map(sample).collect(), faults }
    }

    /// The counters of a share; `None` when the running producer does not have it.
    pub(super) fn counters(&self, share: &str) -> Option<Counters> {
        let of = |metric: &str| {
            let name = format!("syncline_producer_{metric}");
            let own = move |sample: &&Sample| {
                sample.name == name && sample.labels.get("share").is_some_and(|label| label == share)
            };
            self.metrics.iter().filter(own).collect::<Vec<_>>()
        };
        let changes = of("changes_total");
        if changes.is_empty() {
            return None;
        }
        let sum = |samples: Vec<&Sample>| samples.iter().map(|sample| count(sample.value)).sum();
        let reason = |sample: &Sample| Some((sample.labels.get("reason")?.clone(), count(sample.value)));
        Some(Counters {
            changes: sum(changes),
            shared: sum(of("shared_total")),
            confirmed: sum(of("confirmed_total")),
            dead_letters: sum(of("dead_letters_total")),
            withheld: of("withheld_total").into_iter().filter_map(reason).filter(|(_, count)| *count > 0).collect(),
            newest: of("newest_change_timestamp_seconds").first().map(|sample| sample.value).filter(|at| *at > 0.0),
        })
    }

    /// Why a source's shares are paused: reading it, or publishing what was read.
    pub(super) fn fault(&self, source: &str) -> Option<&str> {
        let parts = [format!("source {source}: "), format!("queue of source {source}: ")];
        self.faults.iter().find_map(|line| parts.iter().find_map(|part| line.strip_prefix(part.as_str())))
    }
}

/// A counter's value; they count by ones.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counters are whole and not negative")]
fn count(value: f64) -> u64 {
    value as u64
}

/// Reads `name{label="value"} 1`; comments and what is another form are none.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let value = value.parse().ok()?;
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample { name: series.to_owned(), labels: BTreeMap::new(), value });
    };
    let mut rest = rest.strip_suffix('}')?;
    let mut labels = BTreeMap::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let mut text = String::new();
        let mut letters = after.char_indices();
        let end = loop {
            match letters.next()? {
                (end, '"') => break end,
                (_, '\\') => text.push(match letters.next()?.1 {
                    'n' => '\n',
                    other => other,
                }),
                (_, letter) => text.push(letter),
            }
        };
        labels.insert(label.trim_start_matches(',').to_owned(), text);
        rest = after.get(end + 1..)?;
    }
    Some(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "# HELP syncline_producer_changes_total x\n\
        syncline_producer_changes_total{action=\"insert\",share=\"a\"} 3\n\
        syncline_producer_changes_total{action=\"update\",share=\"a\"} 4\n\
        syncline_producer_changes_total{action=\"update\",share=\"b\"} 100\n\
        syncline_producer_withheld_total{reason=\"filter\",share=\"a\"} 5\n\
        syncline_producer_withheld_total{reason=\"action\",share=\"a\"} 0\n\
        syncline_producer_newest_change_timestamp_seconds{share=\"a\"} 1763712000.25\n\
        syncline_producer_in_flight_messages 0\n";

    #[test]
    fn counters_are_those_of_the_share_alone() {
        let running = Running::read(METRICS, "ready\n");
        let counters = running.counters("a").unwrap();
        assert_eq!((counters.changes, counters.shared, counters.newest), (7, 0, Some(1_763_712_000.25)));
        assert_eq!(counters.withheld.into_iter().collect::<Vec<_>>(), [("filter".to_owned(), 5)]);
        assert_eq!(running.counters("c"), None);
    }

    #[test]
    fn a_fault_pauses_the_shares_of_its_source() {
        let running = Running::read("", "queue of source desk: the broker is away\nsource crm: no slot\n");
        assert_eq!(running.fault("desk"), Some("the broker is away"));
        assert_eq!(running.fault("crm"), Some("no slot"));
        assert_eq!(running.fault("hr"), None);
    }

    #[test]
    fn labels_may_hold_any_text() {
        let read = sample(r#"m{a="x\"},y\\",b="",c="é\n"} 1.5"#).unwrap();
        let labels: Vec<_> = read.labels.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        assert_eq!(labels, [("a", "x\"},y\\"), ("b", ""), ("c", "é\n")]);
        assert_eq!(sample("# TYPE m counter"), None);
    }
}
