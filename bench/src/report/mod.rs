//! The figures, and the three forms they leave in: a table, JSON, and a page with plots.

pub(crate) mod page;
pub(crate) mod plot;
pub(crate) mod text;

use std::time::Instant;

use serde::Serialize;

use crate::measure::{Machine, Parts, Run};
use crate::stats::{mean, percentile, spread};

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What ended it early; what is here was measured before.
    pub failure: Option<String>,
    /// When it began.
    pub begun: String,
    /// Where.
    pub machine: Machine,
    /// Load average of the last minute at the end.
    pub load_at_the_end: String,
    /// Versions of what was measured.
    pub versions: Vec<String>,
    /// Records of one load, and rows of a bulk share.
    pub rows: [u32; 2],
    /// Seconds it all took.
    pub seconds: f64,
    /// Rates, costs, memory.
    pub figures: Vec<Row>,
    /// Latencies.
    pub latencies: Vec<Latency>,
}

/// The runs of one side of one workload.
pub(crate) struct Figures {
    /// The workload.
    pub workload: &'static str,
    /// The side.
    pub side: &'static str,
    /// Two runs, unless a run is one day worth more.
    pub runs: Vec<Run>,
}

/// One line of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    /// The workload.
    pub workload: String,
    /// The side.
    pub side: String,
    /// Records per second in the target: all records by the time of all runs.
    pub rate: f64,
    /// The same in parts of the first side's; `None` for that one.
    pub ratio: Option<f64>,
    /// How far the side's own runs are apart, in parts of their mean: no difference below it means anything.
    pub spread: f64,
    /// Microseconds of processor time per record.
    pub cpu: Parts<Option<f64>>,
    /// Peak resident MiB.
    pub memory: Parts<Option<f64>>,
    /// Processors that others kept busy.
    pub others: Option<f64>,
    /// The runs.
    pub runs: Vec<Run>,
}

/// Delays at one rate, as they were measured.
pub(crate) struct Delays {
    /// The side.
    pub side: &'static str,
    /// Rows per second that were to be written.
    pub rate: u32,
    /// Rows per second that were written, in each run.
    pub written: Vec<f64>,
    /// One delay for each row, in seconds.
    pub seconds: Vec<f64>,
}

/// One line of the report of latencies, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Latency {
    /// The side.
    pub side: String,
    /// Rows per second that were to be written.
    pub rate: u32,
    /// Rows per second that were written.
    pub written: f64,
    /// Half, 99 of 100, 999 of 1,000 came within.
    pub p50: f64,
    /// See `p50`.
    pub p99: f64,
    /// See `p50`.
    pub p999: f64,
    /// Rows that were timed.
    pub rows: usize,
}

/// Makes lines of the sides of one workload; the first is the measure of the others.
pub(crate) fn rows(sides: Vec<Figures>) -> Vec<Row> {
    let measure = sides.first().map(|side| rate(&side.runs));
    let row = |(at, Figures { workload, side, runs }): (usize, Figures)| Row {
        workload: workload.to_owned(),
        side: side.to_owned(),
        rate: rate(&runs),
        ratio: measure.filter(|_| at > 0).map(|measure| rate(&runs) / measure),
        spread: spread(&runs.iter().map(Run::rate).collect::<Vec<_>>()),
        cpu: of_parts(&runs, |run| run.cpu, mean),
        memory: of_parts(&runs, |run| run.memory, |values| values.into_iter().fold(0.0, f64::max)),
        others: runs.iter().map(|run| run.others).collect::<Option<Vec<_>>>().map(mean),
        runs,
    };
    sides.into_iter().enumerate().map(row).collect()
}

/// One value of all runs for each part; `None` where a run does not know it.
fn of_parts(runs: &[Run], parts: fn(&Run) -> Parts<Option<f64>>, one: fn(Vec<f64>) -> f64) -> Parts<Option<f64>> {
    let of = |part: fn(Parts<Option<f64>>) -> Option<f64>| {
        runs.iter().map(|run| part(parts(run))).collect::<Option<Vec<f64>>>().map(one)
    };
    Parts {
        producer: of(|parts| parts.producer),
        consumer: of(|parts| parts.consumer),
        rabbitmq: of(|parts| parts.rabbitmq),
        postgres: of(|parts| parts.postgres),
    }
}

fn rate(runs: &[Run]) -> f64 {
    runs.iter().map(|run| f64::from(run.rows)).sum::<f64>() / runs.iter().map(|run| run.seconds).sum::<f64>()
}

impl From<Delays> for Latency {
    fn from(mut delays: Delays) -> Self {
        delays.seconds.sort_by(f64::total_cmp);
        let ms = |p| percentile(&delays.seconds, p).unwrap_or_default() * 1e3;
        Self {
            side: delays.side.to_owned(),
            rate: delays.rate,
            written: mean(delays.written.iter().copied()),
            p50: ms(0.5),
            p99: ms(0.99),
            p999: ms(0.999),
            rows: delays.seconds.len(),
        }
    }
}

/// Tells on standard error how far it is.
pub(crate) struct Progress(Instant);

impl Progress {
    /// Begins now.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// Seconds since.
    pub(crate) fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// One line.
    pub(crate) fn step(&self, workload: &str, what: &str) {
        eprintln!("[{:>4.0} s] {workload}: {what}", self.seconds());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: f64) -> Run {
        let cpu = Parts { producer: Some(seconds), ..Parts::default() };
        Run { rows: 1000, seconds, cpu, memory: cpu, others: None }
    }

    #[test]
    fn the_first_side_is_the_measure_of_the_others() {
        let figures = |side, runs| Figures { workload: "w", side, runs };
        let rows = rows(vec![figures("a", vec![run(1.0), run(3.0)]), figures("b", vec![run(4.0), run(4.0)])]);
        assert_eq!(rows.iter().map(|row| row.rate).collect::<Vec<_>>(), [500.0, 250.0]);
        assert_eq!(rows.iter().map(|row| row.ratio).collect::<Vec<_>>(), [None, Some(0.5)]);
        assert!((rows[0].spread - 1.0).abs() < 1e-9 && rows[1].spread == 0.0);
        assert_eq!(rows[0].cpu.producer, Some(2.0), "the mean");
        assert_eq!(rows[0].memory.producer, Some(3.0), "the peak");
        assert_eq!(rows[0].cpu.consumer, None);
    }

    #[test]
    fn latencies_are_told_in_milliseconds() {
        let delays = Delays { side: "a", rate: 100, written: vec![99.0, 101.0], seconds: vec![0.003, 0.001, 0.002] };
        let latency = Latency::from(delays);
        assert_eq!((latency.p50, latency.p99, latency.written, latency.rows), (2.0, 3.0, 100.0, 3));
    }
}
