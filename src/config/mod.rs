//! The configuration as a whole: every table, and how they refer to each other.

mod bulk;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod schema;
mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;
use syncline_consumer::config::{ConsumerConfig, SubscriptionConfig, TargetConfig};
use syncline_consumer::pipeline::LoadKeyring;
use syncline_producer::bulk::{GroupConfig, ScheduleConfig};
use syncline_producer::config::{ProducerConfig, SourceConfig};
use syncline_producer::outlet::Destination;
use syncline_producer::share::{SealWith, Share, ShareConfig, no_meaning};
use syncline_shared::config::{
    Document, FieldProblem, Keys, Places, Problems, QueueConfig, SharedQueueConfig, keys, read_bounded,
};
use syncline_shared::notify::NotifyConfig;
use syncline_shared::queue::SharedQueue;
use syncline_shared::seal::{Keyring, Seal};
use syncline_shared::traces::TracesConfig;

use crate::failure::Failure;

/// The environment, read once in `main`.
pub(crate) type Env = Arc<BTreeMap<String, String>>;

const PRODUCER_TABLES: [&str; 5] = ["producer", "source", "share", "bulk_group", "schedule"];
const CONSUMER_TABLES: [&str; 3] = ["consumer", "target", "subscription"];
const TABLES: [&str; 13] = [
    "queue",
    "key",
    "shared_queue",
    "producer",
    "source",
    "share",
    "bulk_group",
    "schedule",
    "consumer",
    "target",
    "subscription",
    "notify",
    "traces",
];

/// Room for thousands of tables; reading takes some time for each key.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Which half of the configuration a command needs; the other half is not read, so its secrets need not be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Sources and shares.
    Producer,
    /// Targets and subscriptions.
    Consumer,
    /// All of it.
    Both,
    /// The broker and the keys alone.
    Queue,
}

/// A valid configuration.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where its keys stand in the file.
    pub places: Places,
    pub queue: QueueConfig,
    pub keyring: Keyring,
    /// The days on which keys were created, by their ids, where the file says so.
    pub keys_created: BTreeMap<String, Date>,
    pub shared_queues: BTreeMap<String, SharedQueue>,
    pub producer: ProducerConfig,
    pub sources: BTreeMap<String, SourceConfig>,
    pub shares: BTreeMap<String, ShareConfig>,
    pub bulk_groups: BTreeMap<String, GroupConfig>,
    pub schedules: BTreeMap<String, ScheduleConfig>,
    pub consumer: ConsumerConfig,
    pub targets: BTreeMap<String, TargetConfig>,
    pub subscriptions: BTreeMap<String, SubscriptionConfig>,
    /// Who is told of faults; nobody when it is absent.
    pub notify: Option<NotifyConfig>,
    /// The collector that gets spans; none are made when it is absent.
    pub traces: Option<TracesConfig>,
}

impl Config {
    /// Reads and validates a file. Opens no connection.
    pub(crate) fn load(path: &Path, env: &Env, role: Role) -> Result<Self, Failure> {
        let text = read(path)?;
        Ok(Self::take(parse(path, &text, env), role)?)
    }

    /// Reads and validates a file as far as it goes: one with only one end of the path is that end's.
    pub(crate) fn load_all(path: &Path, env: &Env) -> Result<Self, Failure> {
        let text = read(path)?;
        let document = parse(path, &text, env);
        let producer = document.has("source") || document.has("share");
        let consumer = document.has("target") || document.has("subscription");
        let role = match (producer, consumer) {
            (true, false) => Role::Producer,
            (false, true) => Role::Consumer,
            (true, true) | (false, false) => Role::Both,
        };
        Ok(Self::take(document, role)?)
    }

    fn take(mut document: Document<'_>, role: Role) -> Result<Self, Problems> {
        if !matches!(role, Role::Producer | Role::Both) {
            document.ignore(&PRODUCER_TABLES);
        }
        if !matches!(role, Role::Consumer | Role::Both) {
            document.ignore(&CONSUMER_TABLES);
        }
        if role == Role::Queue {
            document.ignore(&["notify", "traces"]);
        }
        if !document.has("queue") {
            document.problem("queue", "the broker is needed: write [queue] with type = \"rabbitmq\" or \"embedded\"");
        }
        let Keys { ring: keyring, created: keys_created } = keys(&mut document);
        let mut config = PartialConfig {
            queue: document.tagged("queue"),
            keyring,
            shared_queues: SharedQueueConfig::read_all(&mut document),
            producer: document.table("producer").unwrap_or_default(),
            sources: document.tagged_tables("source"),
            shares: document.tables_explained("share", no_meaning),
            bulk_groups: document.tables("bulk_group"),
            schedules: document.tables("schedule"),
            consumer: document.table("consumer").unwrap_or_default(),
            targets: document.tagged_tables("target"),
            subscriptions: document.tables("subscription"),
            notify: NotifyConfig::read(&mut document),
            traces: TracesConfig::read(&mut document),
        };
        for share in config.shares.values_mut() {
            share.tables = config.sources.get(&share.source).map(|source| source.tables().clone()).unwrap_or_default();
        }
        config.validate(&mut document, role);
        let places = document.places().clone();
        document.finish(&TABLES)?;
        let PartialConfig {
            queue,
            keyring,
            shared_queues,
            producer,
            sources,
            shares,
            bulk_groups,
            schedules,
            consumer,
            targets,
            subscriptions,
            notify,
            traces,
        } = config;
        let Some(queue) = queue else { unreachable!("its absence or its fault was reported") };
        Ok(Self {
            places,
            queue,
            keyring,
            keys_created,
            shared_queues,
            producer,
            sources,
            shares,
            bulk_groups,
            schedules,
            consumer,
            targets,
            subscriptions,
            notify,
            traces,
        })
    }

    /// Where a share sends: its own shared queue, then that of each route.
    pub(crate) fn destinations(&self, share: &ShareConfig) -> Vec<Destination> {
        let destination = |queue: &str, seal| match self.shared_queues.get(queue) {
            Some(queue) => Destination { queue: queue.clone(), seal },
            None => unreachable!("checked on loading"),
        };
        let routes = share.route.iter();
        let routes = routes.map(|route| destination(share.queue_of(route), self.key(share.route_seals_with(route))));
        std::iter::once(destination(&share.queue, self.seal(share))).chain(routes).collect()
    }

    /// What a share seals with on the way to its own queue.
    pub(crate) fn seal(&self, share: &ShareConfig) -> Seal {
        self.key(share.seal_with())
    }

    /// What a name stands for; it was checked when the configuration was read.
    fn key(&self, seal_with: Result<SealWith, FieldProblem>) -> Seal {
        match seal_with {
            Ok(SealWith::Key(id)) => match self.keyring.get(&id) {
                Some(key) => Seal::Key(key.clone()),
                None => unreachable!("checked on loading"),
            },
            Ok(SealWith::Base64) => Seal::Base64,
            Ok(SealWith::Plain) => Seal::Plain,
            Err(_) => unreachable!("checked on loading"),
        }
    }

    /// Reads the keys anew whenever it is called, so that a key added to the file is found without a restart.
    pub(crate) fn load_keyring(path: PathBuf, env: Env) -> LoadKeyring {
        Arc::new(move || {
            let Ok(text) = read_bounded(&path, CONFIG_BYTES_MAX) else { return Keyring::default() };
            let mut document = Document::parse("", &text, &|name| env.get(name).cloned());
            keys(&mut document).ring
        })
    }
}

/// Tables that were read, not yet checked against each other.
struct PartialConfig {
    queue: Option<QueueConfig>,
    keyring: Keyring,
    shared_queues: BTreeMap<String, SharedQueue>,
    producer: ProducerConfig,
    sources: BTreeMap<String, SourceConfig>,
    shares: BTreeMap<String, ShareConfig>,
    bulk_groups: BTreeMap<String, GroupConfig>,
    schedules: BTreeMap<String, ScheduleConfig>,
    consumer: ConsumerConfig,
    targets: BTreeMap<String, TargetConfig>,
    subscriptions: BTreeMap<String, SubscriptionConfig>,
    notify: Option<NotifyConfig>,
    traces: Option<TracesConfig>,
}

fn read(path: &Path) -> Result<String, Failure> {
    read_bounded(path, CONFIG_BYTES_MAX).map_err(|error| {
        Failure::NoConfig(format!(
            "The configuration {} cannot be read: {error}.\nName another with --config FILE, or try `syncline demo`, which needs none.",
            path.display()
        ))
    })
}

fn parse<'t>(path: &Path, text: &'t str, env: &Env) -> Document<'t> {
    let document = Document::parse(&path.display().to_string(), text, &|name| env.get(name).cloned());
    document.warn_of_open_secrets();
    document
}

/// Compiles a share; its problems were reported when the configuration was read.
pub(crate) fn compile(name: &str, config: &ShareConfig) -> Result<Share, Failure> {
    Share::compile(name, config).map_err(|problems| {
        let text: Vec<_> = problems.into_iter().map(|(field, text)| format!("share.{name}.{field}: {text}")).collect();
        Failure::Other(text.join("\n"))
    })
}

#[cfg(test)]
mod tests {
    use syncline_consumer::config::ConsumerConfig;
    use syncline_producer::config::ProducerConfig;

    #[test]
    fn the_admin_pages_are_for_this_machine_alone_unless_told() {
        let [producer, consumer] = [ProducerConfig::default().http, ConsumerConfig::default().http];
        assert!(producer.ip().is_loopback() && consumer.ip().is_loopback(), "{producer} {consumer}");
        assert_ne!(producer.port(), consumer.port(), "both run on one machine");
    }
}
