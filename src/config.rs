//! The configuration as a whole: every table, and how they refer to each other.

mod validate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use syncline_consumer::config::{ConsumerConfig, SubscriptionConfig, TargetConfig};
use syncline_consumer::pipeline::LoadKeyring;
use syncline_producer::config::{ProducerConfig, SourceConfig};
use syncline_producer::share::{SealWith, Share, ShareConfig};
use syncline_shared::config::{Document, Problems, QueueConfig, SharedQueueConfig, keyring};
use syncline_shared::queue::SharedQueue;
use syncline_shared::seal::{Keyring, Seal};

use crate::failure::Failure;

/// The environment, read once in `main`.
pub(crate) type Env = Arc<BTreeMap<String, String>>;

const PRODUCER_TABLES: [&str; 3] = ["producer", "source", "share"];
const CONSUMER_TABLES: [&str; 3] = ["consumer", "target", "subscription"];
const TABLES: [&str; 9] =
    ["queue", "key", "shared_queue", "producer", "source", "share", "consumer", "target", "subscription"];

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
    pub queue: QueueConfig,
    pub keyring: Keyring,
    pub shared_queues: BTreeMap<String, SharedQueue>,
    pub producer: ProducerConfig,
    pub sources: BTreeMap<String, SourceConfig>,
    pub shares: BTreeMap<String, ShareConfig>,
    pub consumer: ConsumerConfig,
    pub targets: BTreeMap<String, TargetConfig>,
    pub subscriptions: BTreeMap<String, SubscriptionConfig>,
}

impl Config {
    /// Reads and validates a file. Opens no connection.
    pub(crate) fn load(path: &Path, env: &Env, role: Role) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::NoConfig(format!(
                "The configuration {} cannot be read: {error}.\nName another with --config FILE, or try `syncline demo`, which needs none.",
                path.display()
            ))
        })?;
        Ok(Self::parse(&path.display().to_string(), &text, env, role)?)
    }

    /// Validates a configuration's text.
    pub(crate) fn parse(file: &str, text: &str, env: &Env, role: Role) -> Result<Self, Problems> {
        let mut document = Document::parse(file, text, &|name| env.get(name).cloned());
        if !matches!(role, Role::Producer | Role::Both) {
            document.ignore(&PRODUCER_TABLES);
        }
        if !matches!(role, Role::Consumer | Role::Both) {
            document.ignore(&CONSUMER_TABLES);
        }
        if !document.has("queue") {
            document.problem("queue", "the broker is needed: write [queue] with type = \"rabbitmq\" or \"embedded\"");
        }
        let config = PartialConfig {
            queue: document.tagged("queue"),
            keyring: keyring(&mut document),
            shared_queues: SharedQueueConfig::read_all(&mut document),
            producer: document.table("producer").unwrap_or_default(),
            sources: document.tagged_tables("source"),
            shares: document.tables("share"),
            consumer: document.table("consumer").unwrap_or_default(),
            targets: document.tagged_tables("target"),
            subscriptions: document.tables("subscription"),
        };
        config.validate(&mut document, role);
        document.finish(&TABLES)?;
        let PartialConfig {
            queue,
            keyring,
            shared_queues,
            producer,
            sources,
            shares,
            consumer,
            targets,
            subscriptions,
        } = config;
        let Some(queue) = queue else { unreachable!("its absence or its fault was reported") };
        Ok(Self { queue, keyring, shared_queues, producer, sources, shares, consumer, targets, subscriptions })
    }

    /// What a share seals with; the names were checked when the configuration was read.
    pub(crate) fn seal(&self, share: &ShareConfig) -> Seal {
        match share.seal_with() {
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
            let Ok(text) = std::fs::read_to_string(&path) else { return Keyring::default() };
            let mut document = Document::parse("", &text, &|name| env.get(name).cloned());
            keyring(&mut document)
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
    consumer: ConsumerConfig,
    targets: BTreeMap<String, TargetConfig>,
    subscriptions: BTreeMap<String, SubscriptionConfig>,
}

/// Compiles a share; its problems were reported when the configuration was read.
pub(crate) fn compile(name: &str, config: &ShareConfig) -> Result<Share, Failure> {
    Share::compile(name, config).map_err(|problems| {
        let text: Vec<_> = problems.into_iter().map(|(field, text)| format!("share.{name}.{field}: {text}")).collect();
        Failure::Other(text.join("\n"))
    })
}
