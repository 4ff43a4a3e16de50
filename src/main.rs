//! `syncline`, the one binary: parses the command line, wires the parts, runs them. No pipeline logic here.

mod bulk_share;
mod check;
mod cli;
mod compare;
mod config;
mod dead_letter;
mod demo;
mod failure;
mod fit;
mod health;
mod init;
mod job;
mod keys;
mod manual;
mod notify;
mod queue;
#[cfg(test)]
#[path = "../fuzz/replay.rs"]
mod replay;
mod services;
mod share;
mod source;
mod style;
mod trace;

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, FilterFn};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{
    Cli, Command, ConfigCommand, JobCommand, KeysCommand, NotifyCommand, QueueCommand, ShareCommand, SourceCommand,
};
use crate::config::{Env, Role};
use crate::failure::Failure;

/// `EX_USAGE`: the command line is wrong.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; nothing can be done about a closed terminal.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let env: Env = Arc::new(std::env::vars().collect());
    if let Err(failure) = log(&cli.command, &env) {
        return failure.report();
    }
    // Sealing, opening and SQLite use the blocking threads: more of them than processors gain nothing, and each costs a
    // heap of its own.
    let processors = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.enable_all().max_blocking_threads(processors.max(2) * 2).build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    match runtime.block_on(run(cli, env)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

async fn run(cli: Cli, env: Env) -> Result<(), Failure> {
    let (path, json) = (cli.config, cli.json);
    match cli.command {
        Command::Demo(args) => Box::pin(demo::run(args)).await,
        Command::Up => services::run(&path, env, Role::Both).await,
        Command::Producer => services::run(&path, env, Role::Producer).await,
        Command::Consumer => services::run(&path, env, Role::Consumer).await,
        Command::Check => check::run(&path, &env, json).await,
        Command::Config(ConfigCommand::Init(args)) => init::run(&path, args),
        Command::Config(ConfigCommand::Schema) => init::schema(),
        Command::Health => health::run(&path, &env, json).await,
        Command::Share(ShareCommand::List) => share::list(&path, &env, json).await,
        Command::Share(ShareCommand::Test(args)) => Box::pin(share::test(&path, &env, json, &args)).await,
        Command::BulkShare(args) => Box::pin(bulk_share::run(&path, &env, json, args)).await,
        Command::Trace(args) => Box::pin(trace::run(&path, &env, json, &args)).await,
        Command::Compare(args) => Box::pin(compare::run(&path, &env, json, args)).await,
        Command::Source(SourceCommand::Rebuild { name, whole }) => {
            source::rebuild(&path, &env, json, &name, whole).await
        }
        Command::Source(SourceCommand::Resume { name }) => source::resume(&path, &env, json, &name).await,
        Command::Queue(QueueCommand::Status) => queue::status(&path, &env, json).await,
        Command::Job(JobCommand::List) => job::list(&path, &env, json).await,
        Command::Notify(NotifyCommand::Test) => notify::test(&path, &env, json).await,
        Command::DeadLetter(command) => Box::pin(dead_letter::run(&path, &env, json, command)).await,
        Command::Keys(KeysCommand::Generate { out }) => keys::generate(out.as_deref()),
        Command::Completions { shell } => manual::completions(shell),
        Command::Man { folder } => manual::pages(&folder),
    }
}

/// Sends logs to standard error: services from `info` on, commands a person waits for from `warn` on. `SYNCLINE_LOG`
/// overrides it, as a filter such as `debug` or `syncline_producer=debug,info`; `SYNCLINE_LOG_FORMAT=json` for machines.
/// Whatever the filter says, only this program's own lines are written.
fn log(command: &Command, env: &Env) -> Result<(), Failure> {
    let default = match command {
        Command::Up | Command::Producer | Command::Consumer => "info",
        Command::Demo(_)
        | Command::Check
        | Command::Config(_)
        | Command::Health
        | Command::Share(_)
        | Command::BulkShare(_)
        | Command::Trace(_)
        | Command::Compare(_)
        | Command::Source(_)
        | Command::Queue(_)
        | Command::DeadLetter(_)
        | Command::Job(_)
        | Command::Notify(_)
        | Command::Keys(_)
        | Command::Completions { .. }
        | Command::Man { .. } => "error",
    };
    let filter = EnvFilter::try_new(env.get("SYNCLINE_LOG").map_or(default, String::as_str)).map_err(|error| {
        Failure::Usage(format!("SYNCLINE_LOG is no filter: {error}; such as debug, or syncline_producer=debug,info"))
    })?;
    // What libraries log we do not write: a statement with its values, a frame with its login.
    let ours = FilterFn::new(|metadata| metadata.target().starts_with("syncline"));
    let lines =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(style::on_stderr()).with_target(false);
    let lines = match env.get("SYNCLINE_LOG_FORMAT").map(String::as_str) {
        Some("json") => lines.json().flatten_event(true).boxed(),
        Some("text") | None => lines.boxed(),
        Some(other) => {
            return Err(Failure::Usage(format!("SYNCLINE_LOG_FORMAT is {other:?}; accepted: text, json")));
        }
    };
    tracing_subscriber::registry().with(lines.with_filter(filter.and(ours))).init();
    std::panic::set_hook(Box::new(panicked));
    Ok(())
}

/// Says where a panic was, and its words where they were written into the program: others may quote a value.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let words = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("its words may quote a value");
    let at = panic.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(at, words, "panicked: a broken invariant of this program");
}
