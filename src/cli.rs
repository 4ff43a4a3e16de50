//! The command line, as `syncline --help` shows it.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};
use syncline_shared::queue::Reason;

/// Where the configuration is unless said otherwise.
pub(crate) const DEFAULT_FILE: &str = "syncline.toml";

/// Keeps records in step between systems of record through sealed shared queues.
#[derive(Debug, Parser)]
#[command(name = "syncline", version, about, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    /// Configuration file
    #[arg(long, global = true, env = "SYNCLINE_CONFIG", default_value = DEFAULT_FILE, value_name = "FILE")]
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
    /// Begin a configuration, and have an editor know it
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Ask the services of this machine whether they are ready, for health checks of containers
    Health,
    /// Look at shares
    #[command(subcommand)]
    Share(ShareCommand),
    /// Send a share's records now, as they are at the source; goes on where it stopped
    BulkShare(BulkShareArgs),
    /// Tell where a record is: what each part knows of it, in order, and what comes of that
    Trace(TraceArgs),
    /// Compare a share's records with what a target has of them: 0 when they are the same, 1 when not
    Compare(CompareArgs),
    /// Repair sources
    #[command(subcommand)]
    Source(SourceCommand),
    /// Look at shared queues
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Look at and settle messages that were set aside
    #[command(subcommand)]
    DeadLetter(DeadLetterCommand),
    /// Look at what the running services do
    #[command(subcommand)]
    Job(JobCommand),
    /// Look after those who are told of faults
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Make keys
    #[command(subcommand)]
    Keys(KeysCommand),
    /// Print what completes this command line in a shell, for the shell to read at its start
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages, one for each command
    Man {
        /// Folder to write them to; must exist
        folder: PathBuf,
    },
}

/// What to do with configurations.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Write a first configuration, with comments, and a key; asks for what is not said
    Init(InitArgs),
    /// Print the JSON schema of configurations, by which editors complete and check them
    Schema,
}

/// What is to be kept in step; the file is that of --config.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where records come from
    #[arg(long)]
    pub source: Option<Database>,
    /// What they travel over
    #[arg(long)]
    pub queue: Option<InitQueue>,
    /// Where they go
    #[arg(long)]
    pub target: Option<Database>,
    /// The table, as the source writes it
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
}

/// A database at one of the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Database {
    /// PostgreSQL 15 to 17
    Postgres,
    /// An SQLite file
    Sqlite,
}

/// A queue between the ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum InitQueue {
    /// RabbitMQ 4
    Rabbitmq,
    /// One file, for one machine
    Embedded,
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
    /// List every share: its rules, and the state and counters a running producer tells
    List,
    /// Show what a share would do with a record, and why; sends nothing
    Test(TestArgs),
}

/// Which record, and who changes it how: an update of what is in the source, or what the files say.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["record", "after", "before"])))]
pub(crate) struct TestArgs {
    /// The share's name in the configuration
    pub name: String,
    /// The record in the source: its key, another unique value of it such as a number, or column=value,column=value
    #[arg(long, value_name = "KEY", conflicts_with = "after")]
    pub record: Option<String>,
    /// The record as a file with a JSON object: an insert, or with --before an update
    #[arg(long, value_name = "FILE")]
    pub after: Option<PathBuf>,
    /// The record before the change, as such a file; without another a delete
    #[arg(long, value_name = "FILE")]
    pub before: Option<PathBuf>,
    /// The person who makes the change; default: what the source's session rule says of the record, else somebody
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A job makes the change, and no person
    #[arg(long)]
    pub background: bool,
}

/// What to send, or what to do about what is being sent.
#[derive(Debug, Args)]
pub(crate) struct BulkShareArgs {
    /// The share's name in the configuration
    #[arg(required_unless_present_any = ["group", "status", "cancel"], conflicts_with = "group")]
    pub share: Option<String>,
    /// The shares of this `[bulk_group]`, in their order
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only records that fit this encoded query, and the share's filter
    #[arg(long = "where", value_name = "QUERY", value_parser = query)]
    pub query: Option<String>,
    /// Only records changed at this time or later: 2026-11-21T08:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub changed_since: Option<Timestamp>,
    /// Read at most this many rows per second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rows_per_second: Option<u32>,
    /// Wait for the end even while no producer runs
    #[arg(long)]
    pub wait: bool,
    /// List what is planned, running and has ended, of this share or of all
    #[arg(long, conflicts_with_all = ["cancel", "query", "changed_since", "rows_per_second", "wait"])]
    pub status: bool,
    /// Stop what is running and drop what is planned, of this share or of all
    #[arg(long, conflicts_with_all = ["query", "changed_since", "rows_per_second", "wait"])]
    pub cancel: bool,
}

/// What to compare.
#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The share's name in the configuration
    pub share: String,
    /// The target's name in the configuration
    #[arg(long, value_name = "NAME")]
    pub target: String,
    /// Seconds that changes may take to arrive: what differs is looked at again for so long
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=86_400))]
    pub settle: u32,
    /// Have the producer send what differs again
    #[arg(long)]
    pub repair: bool,
}

fn query(text: &str) -> Result<String, String> {
    syncline_producer::bulk::check_query(text).map(|()| text.to_owned())
}

/// Which record, and whom to ask beside those the configuration names.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The table, as a share or a subscription names it
    pub table: String,
    /// The record: the values of its key in their order, or column=value for each; or one unique value, such as a number
    #[arg(required = true)]
    pub key: Vec<String>,
    /// Another producer to ask: http://host:port of its admin endpoint
    #[arg(long, value_name = "URL", value_parser = service)]
    pub producer: Vec<String>,
    /// Another consumer to ask, such as a replica
    #[arg(long, value_name = "URL", value_parser = service)]
    pub consumer: Vec<String>,
}

/// Host and port of an admin endpoint.
fn service(url: &str) -> Result<String, String> {
    let address = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(1..)) => Ok(address.to_owned()),
        Some(Ok(0) | Err(_)) | None => Err("an address such as http://127.0.0.1:9188".to_owned()),
    }
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
    /// List messages that were set aside, oldest first, with the reason
    List {
        /// Which of them
        #[command(flatten)]
        filter: Filter,
        /// At most this many per shared queue
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show what is known of one
    Show {
        /// Its id, from the list
        id: String,
        /// Open it with the configured keys and print its records
        #[arg(long)]
        open: bool,
    },
    /// Send messages to their partition again; the target's guard keeps older versions out
    Replay(Selection),
    /// Drop messages for good
    Discard {
        /// Which of them
        #[command(flatten)]
        selection: Selection,
        /// Drop all that were chosen by filter or --all, without asking first
        #[arg(long)]
        yes: bool,
    },
    /// Seal messages again under another key, before theirs is retired
    Reseal {
        /// Which of them
        #[command(flatten)]
        selection: Selection,
        /// Id of the key; default that of their share, where this configuration has it
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
    },
    /// Set a message aside that holds up its partition; the consumer's log and /readyz name it
    Park {
        /// Its id
        id: uuid::Uuid,
    },
}

/// Which dead letters, by what is known of them.
#[derive(Debug, Default, Args)]
pub(crate) struct Filter {
    /// Only of this shared queue
    #[arg(long, value_name = "NAME")]
    pub queue: Option<String>,
    /// Only of this table
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Only of this share
    #[arg(long, value_name = "NAME")]
    pub share: Option<String>,
    /// Only for this reason
    #[arg(long, value_parser = reason)]
    pub reason: Option<Reason>,
    /// Only those set aside at this time or later: 2026-11-21T08:00:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub since: Option<Timestamp>,
    /// Only those set aside before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub before: Option<Timestamp>,
}

/// Which dead letters: by their ids, by filters, or all.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true)
    .args(["ids", "all", "queue", "table", "share", "reason", "since", "before"])))]
pub(crate) struct Selection {
    /// Their ids, from the list
    #[arg(conflicts_with_all = ["all", "queue", "table", "share", "reason", "since", "before"])]
    pub ids: Vec<String>,
    /// All of them
    #[arg(long)]
    pub all: bool,
    /// Those that fit every filter
    #[command(flatten)]
    pub filter: Filter,
}

fn reason(word: &str) -> Result<Reason, String> {
    let known = || Reason::ALL.map(Reason::as_str).join(", ");
    word.parse().map_err(|()| format!("one of {}", known()))
}

fn time(text: &str) -> Result<Timestamp, String> {
    let ago = || Timestamp::now().checked_sub(text.parse::<SignedDuration>().ok()?).ok();
    let time = text.parse().ok().or_else(ago);
    time.ok_or_else(|| "a time such as 2026-11-21T08:00:00Z, or how long ago: 30m, 2h, 3days".to_owned())
}

/// What to do with jobs.
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List what each part of the running services does: works, rests until its next time, stands by, or is paused and why
    List,
}

/// What to do with those who are told of faults.
#[derive(Debug, Subcommand)]
pub(crate) enum NotifyCommand {
    /// Send a test message to each receiver, and say what became of it
    Test,
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
