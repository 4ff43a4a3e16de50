//! What more consumer replicas bring: one shared queue of eight partitions, and a target that takes its time.
//!
//! The target is PostgreSQL with a trigger that sleeps 20 ms once for each batch. It takes one batch at a time from each
//! replica, as systems do that allow a client one request at a time; a replica would else wait for all its partitions at
//! once. The last line of the report shows just that: one replica, and a target that takes a batch on each connection.

mod field;

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::Scale;
use crate::measure::{Machine, load};
use crate::report::{Progress, text};
use crate::scratch::{self, Servers};
use crate::stats::{mean, spread};
use crate::{Result, told};
use field::Field;

/// Replicas, in the order they run; then the same backwards, so that what drifts meets all alike.
const REPLICAS: [u32; 4] = [1, 2, 4, 8];

/// Whom the target lets wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Turns {
    /// The batches of one replica.
    Replica,
    /// The batches of one connection.
    Connection,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Report {
    begun: String,
    machine: Machine,
    load_at_the_end: String,
    batches_per_partition: u32,
    records_per_batch: u32,
    seconds: f64,
    lines: Vec<Line>,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Line {
    turns: Turns,
    replicas: u32,
    /// Records per second in the target.
    rate: f64,
    /// In parts of the first line's.
    factor: f64,
    /// How far the runs are apart, in parts of their mean.
    spread: f64,
    /// Batches per second and replica: 50 are no more than the target allows.
    batches: f64,
    /// Records that came out of their order, or twice.
    out_of_order: f64,
}

/// Runs it, and prints and writes what came of it.
pub(crate) async fn run(options: &Scale, servers: &Servers, syncline: PathBuf) -> Result<()> {
    let progress = Progress::begin();
    let (begun, machine) = (jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(), Machine::see());
    let batches = options.batches;
    let name = format!("syncline_bench_{}_scale", std::process::id());
    let measured = crate::unless_interrupted(measure(servers, &name, syncline, batches, &progress)).await;
    let removed = scratch::remove(servers, &name).await;
    let lines = measured?;
    removed?;
    let seconds = progress.seconds();
    let report = Report {
        begun,
        machine,
        load_at_the_end: load(),
        batches_per_partition: batches,
        records_per_batch: field::BATCH,
        seconds,
        lines,
    };
    let head = ["a batch at a time of each", "replicas", "rows/s", "factor", "A/A", "batches/s each", "out of order"];
    print!("\n{}", text::table(&head, &report.lines.iter().map(Line::cells).collect::<Vec<_>>()));
    std::fs::create_dir_all(&options.at.out)?;
    let json = options.at.out.join("scale.json");
    std::fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    println!("\nFigures: {}", json.display());
    Ok(())
}

async fn measure(
    servers: &Servers,
    name: &str,
    syncline: PathBuf,
    batches: u32,
    progress: &Progress,
) -> Result<Vec<Line>> {
    let mut field = Field::create(servers, name, syncline).await?;
    let once: Vec<(Turns, u32)> = REPLICAS.map(|replicas| (Turns::Replica, replicas)).to_vec();
    let once = [once, vec![(Turns::Connection, 1)]].concat();
    let mut runs: Vec<(f64, f64)> = vec![];
    for (turns, replicas) in once.iter().chain(once.iter().rev()).copied() {
        progress.step("scale", &format!("{replicas} replicas, waiting until each has its partitions"));
        let run = field.run(turns, replicas, batches).await.map_err(|error| told(&*error))?;
        progress.step("scale", &format!("{replicas} replicas: {:.0} rows/s", run.0));
        runs.push(run);
    }
    let of = |at: usize| -> Vec<(f64, f64)> {
        [at, runs.len() - 1 - at].iter().filter_map(|at| runs.get(*at).copied()).collect()
    };
    let rate = |at: usize| mean(of(at).iter().map(|(rate, _)| *rate));
    let first = rate(0);
    let line = |(at, &(turns, replicas)): (usize, &(Turns, u32))| Line {
        turns,
        replicas,
        rate: rate(at),
        factor: rate(at) / first,
        spread: spread(&of(at).iter().map(|(rate, _)| *rate).collect::<Vec<_>>()),
        batches: rate(at) / f64::from(field::BATCH) / f64::from(replicas),
        out_of_order: of(at).iter().map(|(_, out_of_order)| out_of_order).sum(),
    };
    Ok(once.iter().enumerate().map(line).collect())
}

impl Line {
    fn cells(&self) -> Vec<String> {
        vec![
            match self.turns {
                Turns::Replica => "replica".to_owned(),
                Turns::Connection => "connection".to_owned(),
            },
            self.replicas.to_string(),
            text::thousands(self.rate),
            format!("{:.2}", self.factor),
            format!("{:.0} %", self.spread * 100.0),
            format!("{:.1}", self.batches),
            format!("{:.0}", self.out_of_order),
        ]
    }
}
