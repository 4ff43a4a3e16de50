//! `bench`: measures Syncline beside PostgreSQL's own logical replication, in one run on the same rows. See README.md.

mod cli;
mod latency;
mod measure;
mod plan;
mod race;
mod report;
mod scale;
mod scratch;
mod side;
mod stats;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{At, Cli, Command, Pipeline};
use crate::measure::{Machine, Parts};
use crate::plan::{FULL, QUICK, Size, Task, Workload};
use crate::report::{Latency, Progress, Report, Row};
use crate::scratch::{Scratch, Servers};
use crate::side::World;

/// What goes wrong ends the benchmark, so a text is all there is to know.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

// One thread: what is measured should have the processors.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Pipeline(options) => run(&options).await,
        Command::Scale(options) => match syncline(&options.at) {
            Ok(binary) => scale::run(&options, &servers(&options.at), binary).await,
            Err(error) => Err(error),
        },
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {}", told(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Pipeline) -> Result<()> {
    let workloads = plan::select(&options.only, options.quick)?;
    let mut size = if options.quick { QUICK } else { FULL };
    size.rows = options.rows.unwrap_or(size.rows) / 10_000 * 10_000;
    size.bulk_rows = options.bulk_rows.unwrap_or(size.bulk_rows);
    let beside = std::env::current_exe()?;
    let (syncline, servers) = (syncline(&options.at)?, servers(&options.at));
    let pids = Parts {
        postgres: options.postgres_pid.or_else(|| pid(&beside, "postgres", &servers.postgres)),
        rabbitmq: options.rabbitmq_pid.or_else(|| pid(&beside, "rabbitmq", &servers.rabbitmq)),
        ..Parts::default()
    };
    let mut bench =
        Bench { servers, pids, syncline, size, progress: Progress::begin(), rows: Vec::new(), latencies: Vec::new() };
    let (begun, machine) = (jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(), Machine::see());
    let versions = bench.versions().await?;
    let mut failure = None;
    for workload in workloads {
        let name = format!("syncline_bench_{}_{}", std::process::id(), workload.name.replace('-', "_"));
        let done = unless_interrupted(bench.measure(workload, &name)).await;
        // However it ended, nothing stays on the servers.
        let removed = scratch::remove(&bench.servers, &name).await;
        failure = done.and(removed).err();
        if failure.is_some() {
            break;
        }
    }
    // What was measured before something went wrong took its time, too.
    let report = Report {
        failure: failure.as_ref().map(|error| told(&**error)),
        begun,
        machine,
        load_at_the_end: measure::load(),
        versions,
        rows: [bench.size.rows, bench.size.bulk_rows],
        seconds: bench.progress.seconds(),
        figures: bench.rows,
        latencies: bench.latencies,
    };
    print!("\n{}", report::text::report(&report));
    std::fs::create_dir_all(&options.at.out)?;
    let (json, html) = (options.at.out.join("pipeline.json"), options.at.out.join("pipeline.html"));
    std::fs::write(&json, serde_json::to_string_pretty(&report)?)?;
    std::fs::write(&html, report::page::page(&report))?;
    println!("\nFigures: {}, plots: {}", json.display(), html.display());
    match failure {
        None => println!("Every target was equal to its source."),
        Some(failure) => return Err(failure),
    }
    Ok(())
}

/// The binary to measure.
fn syncline(at: &At) -> Result<PathBuf> {
    let beside = std::env::current_exe()?;
    let syncline = at.syncline.clone().unwrap_or_else(|| beside.with_file_name("syncline"));
    if !syncline.is_file() {
        return Err(format!("{} is not there: build it with `cargo build --release`", syncline.display()).into());
    }
    Ok(syncline)
}

fn servers(at: &At) -> Servers {
    Servers {
        postgres: at.postgres.clone(),
        rabbitmq: at.rabbitmq.clone(),
        api: at.rabbitmq_api.trim_end_matches('/').to_owned(),
    }
}

/// Runs until it is done or a signal comes, so that what is on the servers can be removed.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("terminated".into()),
    }
}

/// An error with what is behind it: that of a database says nothing by itself.
fn told(error: &dyn std::error::Error) -> String {
    let behind = std::iter::successors(error.source(), |error| error.source());
    behind.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// A run of the benchmark.
struct Bench {
    servers: Servers,
    pids: Parts<Option<u32>>,
    syncline: PathBuf,
    size: Size,
    progress: Progress,
    rows: Vec<Row>,
    latencies: Vec<Latency>,
}

impl Bench {
    /// Measures one workload; what it makes on the servers carries this name.
    async fn measure(&mut self, workload: &Workload, name: &str) -> Result<()> {
        let scratch = Scratch::create(&self.servers, name)?;
        self.progress.step(workload.name, "filling tables");
        let [base, source] = race::fill(workload, &scratch, self.size).await?;
        let world = World {
            scratch: &scratch,
            base,
            source,
            table: workload.table,
            pids: self.pids,
            syncline: self.syncline.clone(),
        };
        if workload.task == Task::Latency {
            let rates: Vec<u32> = [100, 1000].into_iter().chain(self.half_peak()).collect();
            let delays = latency::latency(workload, &world, self.size, &rates, &self.progress).await?;
            self.latencies.extend(delays.into_iter().map(Latency::from));
        } else {
            self.rows.extend(report::rows(race::race(workload, &world, self.size, &self.progress).await?));
        }
        Ok(())
    }

    /// Half of what Syncline reached with inserts into the wide table; `None` when that was not measured.
    fn half_peak(&self) -> Option<u32> {
        let peak = self.rows.iter().find(|row| row.workload == "wide-insert" && row.side == "AES256")?.rate;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate of some thousands")]
        let thousands = (peak / 2.0 / 1000.0) as u32;
        Some(thousands.max(1) * 1000)
    }

    /// What is measured, and with what.
    async fn versions(&self) -> Result<Vec<String>> {
        let syncline = std::process::Command::new(&self.syncline).arg("--version").output()?;
        let postgres = scratch::connect(&self.servers.postgres).await?;
        let postgres: String = postgres.query_one("SELECT current_setting('server_version')", &[]).await?.get(0);
        Ok(vec![String::from_utf8_lossy(&syncline.stdout).trim().to_owned(), format!("PostgreSQL {postgres}")])
    }
}

/// The first process of a server that `tests/services` has started, if that is the one at this URL.
fn pid(beside: &Path, server: &str, url: &str) -> Option<u32> {
    let services = beside.parent()?.parent()?.join("services");
    let known = std::fs::read_to_string(services.join("env")).ok()?;
    known.contains(url).then_some(())?;
    std::fs::read_to_string(services.join(format!("{server}.pid"))).ok()?.trim().parse().ok()
}
