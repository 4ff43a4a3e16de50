//! RabbitMQ 4: the broker for several machines. The only place that knows AMQP.
//!
//! A shared queue is a topic exchange `syncline.<queue>`, one quorum queue `<queue>.<partition>` per partition with a
//! single active consumer, and `<queue>.dead`; replicas talk, and answer, over `syncline.<queue>.status`. Every broken
//! connection is replaced as a whole, by the next call that needs one; nothing is repeated behind the caller's back. Knows
//! messages, not what they mean.

mod confirms;
mod connection;
mod dead_letters;
mod holdings;
mod link;
mod management;
mod publisher;
mod replica;
mod spread;
mod subscriber;
#[cfg(test)]
mod tests;
mod topology;
mod wire;

pub use publisher::RabbitMqPublisher;
pub use subscriber::RabbitMqSubscriber;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use schemars::JsonSchema;
use serde::Deserialize;

use self::connection::Server;
use super::{Broker, DeadLetter, QueueError, QueueStatus, Settlement, SharedQueue, SubscribeOptions};
use crate::config::{FieldProblem, Secret};
use crate::tls::TlsConfig;

/// Long enough for a quorum queue to elect a new leader.
pub const DEFAULT_CONFIRM_TIMEOUT_MS: u64 = 30_000;
/// A dead peer is noticed after two of these; RabbitMQ's own minute is long for a pipeline.
pub const DEFAULT_HEARTBEAT_S: u16 = 10;
/// RabbitMQ 4 refuses messages above 16 MiB; the margin leaves room for what it counts beside the body.
pub const DEFAULT_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024 - 64 * 1024;

/// A RabbitMQ server.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RabbitmqConfig {
    /// Where it is: `amqp://user@host:port/vhost`, or `amqps://` for TLS with verification. Ports default to 5672 and
    /// 5671, the virtual host to `/`. The host is a name or an IPv4 address. A password in it is overridden by the keys
    /// below.
    pub url: String,
    /// The password. Default: the one in the url.
    pub password: Option<Secret>,
    /// File of the password, read anew on every connection; looked at when `password` is absent.
    pub password_file: Option<PathBuf>,
    /// Where its management interface is: `http://host:port` or `https://..`, with the user and password of `url`, who
    /// needs the tag `monitoring`. Only `queue status` asks it. Default: it is not asked.
    pub management_url: Option<String>,
    /// Certificates for `amqps`. Default: the system's authorities, no client certificate.
    #[serde(default)]
    pub tls: TlsConfig,
    /// How long to wait for the broker's confirm of a message, in milliseconds, 1 or more. Default 30000. A message
    /// without one is sent again.
    #[serde(default = "default_confirm_timeout_ms")]
    pub confirm_timeout_ms: u64,
    /// Interval of the signs of life on an idle connection, in seconds, 1 or more; the broker may ask for a shorter
    /// one. Default 10.
    #[serde(default = "default_heartbeat_s")]
    pub heartbeat_s: u16,
    /// Upper bound of a message's body, in bytes, 1 or more; at most the broker's `max_message_size`. Default 16711680
    /// (16 MiB less 64 KiB).
    #[serde(default = "default_message_bytes_max")]
    pub message_bytes_max: usize,
}

const fn default_confirm_timeout_ms() -> u64 {
    DEFAULT_CONFIRM_TIMEOUT_MS
}

const fn default_heartbeat_s() -> u16 {
    DEFAULT_HEARTBEAT_S
}

const fn default_message_bytes_max() -> usize {
    DEFAULT_MESSAGE_BYTES_MAX
}

impl RabbitmqConfig {
    /// The server at this url, with defaults for everything else.
    #[must_use]
    pub fn new(url: String) -> Self {
        Self {
            url,
            password: None,
            password_file: None,
            management_url: None,
            tls: TlsConfig::default(),
            confirm_timeout_ms: DEFAULT_CONFIRM_TIMEOUT_MS,
            heartbeat_s: DEFAULT_HEARTBEAT_S,
            message_bytes_max: DEFAULT_MESSAGE_BYTES_MAX,
        }
    }

    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.uri().is_none() {
            problems.push(("url", "is no address of a broker; amqp:// or amqps://user@host:port/vhost".to_owned()));
        }
        problems.extend(Secret::validate_password(self.password.as_ref(), self.password_file.as_deref()));
        if self.management_url.as_deref().is_some_and(|url| management::parse(url).is_none()) {
            let accepted =
                "is no address; http:// or https://host:port, without user and password: those of `url` are used";
            problems.push(("management_url", accepted.to_owned()));
        }
        problems.extend(self.tls.validate());
        for (field, is_zero) in [
            ("confirm_timeout_ms", self.confirm_timeout_ms == 0),
            ("heartbeat_s", self.heartbeat_s == 0),
            ("message_bytes_max", self.message_bytes_max == 0),
        ] {
            if is_zero {
                problems.push((field, "0 is out of range; 1 or more".to_owned()));
            }
        }
        problems
    }

    /// The address, if it is one.
    fn uri(&self) -> Option<AMQPUri> {
        // The library takes the host of an IPv6 address for none, and would connect to this machine. Its errors may
        // quote the url, so they are not shown.
        self.url.parse().ok().filter(|_| !self.url.contains('['))
    }
}

impl fmt::Debug for RabbitmqConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The url may hold a password.
        f.debug_struct("RabbitmqConfig")
            .field("password", &self.password)
            .field("password_file", &self.password_file)
            .field("management_url", &self.management_url)
            .field("tls", &self.tls)
            .field("confirm_timeout_ms", &self.confirm_timeout_ms)
            .field("heartbeat_s", &self.heartbeat_s)
            .field("message_bytes_max", &self.message_bytes_max)
            .finish_non_exhaustive()
    }
}

/// Shared queues at a RabbitMQ server. Clones share one connection; each publisher has its own.
#[derive(Clone)]
pub struct RabbitMq {
    server: Arc<Server>,
}

impl RabbitMq {
    /// Takes a [valid](RabbitmqConfig::validate) configuration; connects with the first call that needs it.
    #[must_use]
    pub fn new(config: RabbitmqConfig) -> Self {
        Self { server: Arc::new(Server::new(config)) }
    }
}

impl Broker for RabbitMq {
    type Publisher = RabbitMqPublisher;
    type Subscriber = RabbitMqSubscriber;

    async fn declare(&self, queue: &SharedQueue) -> Result<(), QueueError> {
        topology::declare(&self.server, queue).await
    }

    async fn publisher(&self) -> Result<RabbitMqPublisher, QueueError> {
        RabbitMqPublisher::connect(Arc::clone(&self.server)).await
    }

    async fn subscriber(
        &self,
        queue: &str,
        partition: u32,
        options: &SubscribeOptions,
    ) -> Result<RabbitMqSubscriber, QueueError> {
        RabbitMqSubscriber::attach(Arc::clone(&self.server), queue, partition, options).await
    }

    async fn status(&self, queue: &SharedQueue) -> Result<QueueStatus, QueueError> {
        topology::status(&self.server, queue).await
    }

    async fn dead_letters(&self, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, QueueError> {
        dead_letters::list(&self.server, queue, limit).await
    }

    async fn settle_dead_letters(
        &self,
        queue: &str,
        ids: &[String],
        settlement: Settlement,
    ) -> Result<usize, QueueError> {
        dead_letters::settle(&self.server, queue, ids, settlement).await
    }
}

fn exchange(queue: &str) -> String {
    format!("syncline.{queue}")
}

fn partition_queue(queue: &str, partition: u32) -> String {
    format!("{queue}.{partition}")
}

fn dead_queue(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The name of an exchange or queue as AMQP takes it.
fn short_name(queue: &str, name: &str) -> Result<ShortString, QueueError> {
    wire::short(name).map_err(|_| connection::topology(queue, "its name is too long".to_owned()))
}
