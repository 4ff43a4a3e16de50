//! The configuration as a whole: every table, and how they refer to each other.

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
        let queue = document.tagged::<QueueConfig>("queue");
        let config = PartialConfig {
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
        let PartialConfig { keyring, shared_queues, producer, sources, shares, consumer, targets, subscriptions } =
            config;
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
    keyring: Keyring,
    shared_queues: BTreeMap<String, SharedQueue>,
    producer: ProducerConfig,
    sources: BTreeMap<String, SourceConfig>,
    shares: BTreeMap<String, ShareConfig>,
    consumer: ConsumerConfig,
    targets: BTreeMap<String, TargetConfig>,
    subscriptions: BTreeMap<String, SubscriptionConfig>,
}

impl PartialConfig {
    fn validate(&self, document: &mut Document<'_>, role: Role) {
        for (key, problem) in self.producer.validate() {
            document.problem(&format!("producer.{key}"), problem);
        }
        for (name, share) in &self.shares {
            let path = format!("share.{name}");
            for (field, problem) in share.validate() {
                document.problem(&format!("{path}.{field}"), problem);
            }
            refer(document, &format!("{path}.source"), "source", &share.source, self.sources.keys());
            refer(document, &format!("{path}.queue"), "shared_queue", &share.queue, self.shared_queues.keys());
            if let Some(key) = &share.key
                && self.keyring.get(key).is_none()
            {
                document.problem(&format!("{path}.key"), format!("there is no usable [key.\"{key}\"]"));
            }
        }
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, subscription) in &self.subscriptions {
            let path = format!("subscription.{name}");
            for (field, problem) in subscription.validate() {
                document.problem(&format!("{path}.{field}"), problem);
            }
            refer(document, &format!("{path}.queue"), "shared_queue", &subscription.queue, self.shared_queues.keys());
            refer(document, &format!("{path}.target"), "target", &subscription.target, self.targets.keys());
            if let Some(other) = taken.insert(&subscription.queue, name) {
                let text = format!("subscription {other} reads the same queue; a shared queue has one subscription");
                document.problem(&format!("{path}.queue"), text);
            }
        }
        if matches!(role, Role::Producer | Role::Both) && self.shares.is_empty() {
            document.problem("share", "nothing is shared: write [share.NAME]");
        }
        if matches!(role, Role::Consumer | Role::Both) && self.subscriptions.is_empty() {
            document.problem("subscription", "nothing is applied: write [subscription.NAME]");
        }
    }
}

/// Reports a name that nothing has.
fn refer<'a>(
    document: &mut Document<'_>,
    path: &str,
    table: &str,
    name: &str,
    known: impl Iterator<Item = &'a String> + Clone,
) {
    if known.clone().any(|one| one == name) {
        return;
    }
    let known: Vec<_> = known.map(String::as_str).collect();
    let accepted =
        if known.is_empty() { "there is none".to_owned() } else { format!("accepted: {}", known.join(", ")) };
    document.problem(path, format!("there is no [{table}.{name}]; {accepted}"));
}

/// Compiles a share; its problems were reported when the configuration was read.
pub(crate) fn compile(name: &str, config: &ShareConfig) -> Result<Share, Failure> {
    Share::compile(name, config).map_err(|problems| {
        let text: Vec<_> = problems.into_iter().map(|(field, text)| format!("share.{name}.{field}: {text}")).collect();
        Failure::Other(text.join("\n"))
    })
}
