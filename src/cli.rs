//! The command line, as `syncline --help` shows it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Keeps records in step between systems of record through sealed shared queues.
#[derive(Debug, Parser)]
#[command(name = "syncline", version, about, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file
    #[arg(long, global = true, env = "SYNCLINE_CONFIG", default_value = "syncline.toml", value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON, for machines
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole pipeline at work in one process, with sample data and live changes; needs nothing
    Demo(DemoArgs),
    /// Run producer and consumer in one process
    Up,
    /// Run the producer: source -> share -> seal -> shared queue
    Producer,
    /// Run the consumer: shared queue -> open -> apply -> target
    Consumer,
    /// Validate the configuration, then reach every system it names; reports every problem in one go
    Check,
    /// Look at shares
    #[command(subcommand)]
    Share(ShareCommand),
    /// Repair sources
    #[command(subcommand)]
    Source(SourceCommand),
    /// Look at shared queues
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look at and settle messages that were set aside
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Make keys
    #[command(subcommand)]
    Keys(KeysCommand),
}

/// How the demo runs.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Folder of the demo's files; made anew
    #[arg(long, default_value = "syncline-demo", value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Seconds of live changes
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub seconds: u64,
    /// Keep running after the comparison, so that your own changes show up
    #[arg(long)]
    pub forever: bool,
}

/// What to do with shares.
#[derive(Debug, Subcommand)]
pub(crate) enum ShareCommand {
    /// List every share: table, actions, filter, shared queue and cipher
    List,
}

/// What to do with sources.
#[derive(Debug, Subcommand)]
pub(crate) enum SourceCommand {
    /// After changes were lost: give up the slot, begin a new epoch, and copy every shared table again
    Rebuild {
        /// The source's name in the configuration
        name: String,
        /// Even if nothing was lost
        #[arg(long)]
        whole: bool,
    },
    /// Go on after a table was truncated, made anew or given another key, once the targets' old records are removed
    Resume {
        /// The source's name in the configuration
        name: String,
    },
}

/// What to do with shared queues.
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// Show depth, consumers and oldest age of every partition
    Status,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetterCommand {
    /// List messages that were set aside, with the reason
    List {
        /// Only this shared queue
        #[arg(long, value_name = "NAME")]
        queue: Option<String>,
        /// At most this many per shared queue
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Open one with the configured keys and print its records
    Show {
        /// Its id, from the list
        id: String,
    },
    /// Send messages to their partition again; the target's guard keeps older versions out
    Replay(Selection),
    /// Drop messages for good
    Discard(Selection),
}

/// Which dead letters.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Selection {
    /// Their ids, from the list
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a new random secret for a key
    Generate {
        /// Write it to this file, readable by its owner only, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}
