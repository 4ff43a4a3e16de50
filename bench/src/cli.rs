//! The command line, as `bench pipeline --help` shows it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Measures Syncline.
#[derive(Parser)]
#[command(name = "bench", max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// PostgreSQL -> RabbitMQ -> PostgreSQL, beside PostgreSQL's own logical replication
    Pipeline(Pipeline),
    /// One shared queue over 1, 2, 4 and 8 consumer replicas, into a target that takes 20 ms for each batch
    Scale(Scale),
}

/// How.
#[derive(Args)]
pub(crate) struct Pipeline {
    /// About one minute instead of ten, with fewer workloads of fewer rows
    #[arg(long)]
    pub quick: bool,
    /// Only this workload, such as wide-update-100, or all of its like: wide, narrow-update; may be given more than once
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// Records of one load, a multiple of 10000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(10_000..=10_000_000))]
    pub rows: Option<u32>,
    /// Rows of the bulk share
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub bulk_rows: Option<u32>,
    /// First process of the PostgreSQL server; found for the servers of tests/services, else its costs are unknown
    #[arg(long, value_name = "PID")]
    pub postgres_pid: Option<u32>,
    /// First process of RabbitMQ, likewise
    #[arg(long, value_name = "PID")]
    pub rabbitmq_pid: Option<u32>,
    /// Where
    #[command(flatten)]
    pub at: At,
}

/// How.
#[derive(Args)]
pub(crate) struct Scale {
    /// Batches of each partition in a run; the first run takes a sixth of a second for each
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u32).range(5..=10_000))]
    pub batches: u32,
    /// Where
    #[command(flatten)]
    pub at: At,
}

/// The servers, the binary, and where the figures go.
#[derive(Args)]
pub(crate) struct At {
    /// PostgreSQL with wal_level=logical, as a superuser
    #[arg(long, env = "SYNCLINE_TEST_POSTGRES_URL", hide_env_values = true, value_name = "URL")]
    pub postgres: String,
    /// RabbitMQ, as an administrator
    #[arg(long, env = "SYNCLINE_TEST_RABBITMQ_URL", hide_env_values = true, value_name = "URL")]
    pub rabbitmq: String,
    /// Its management interface, with the same login: http://user:password@host:port
    #[arg(long, env = "SYNCLINE_TEST_RABBITMQ_API", hide_env_values = true, value_name = "URL")]
    pub rabbitmq_api: String,
    /// The binary to measure; default: the one that cargo built beside this program
    #[arg(long, value_name = "FILE")]
    pub syncline: Option<PathBuf>,
    /// Folder for the figures
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    pub out: PathBuf,
}
