//! Tells people of faults that last: by mail and by webhook.
//!
//! Watches what makes `/readyz` say no ([`Health`]); knows nothing of sources, queues and targets. Each receiver has a task
//! and a story of its own, so one that cannot be reached holds up neither the others nor the pipeline. What cannot be sent
//! is a warning and a number, and is tried again; nothing here ever ends a service.

mod config;
mod email;
mod notice;
mod watch;
mod webhook;

use std::convert::Infallible;
use std::time::Duration;

use jiff::Timestamp;
use prometheus::{IntCounterVec, Registry};
use thiserror::Error;
use tokio::time::{sleep, timeout};

pub use self::config::{EmailConfig, NotifyConfig, WebhookConfig};

use self::email::Email;
use self::notice::{Event, Notice};
use self::watch::{Due, Watch};
use self::webhook::Webhook;
use crate::health::Health;
use crate::metrics;
use crate::retry::Backoff;
use crate::tasks::{Stop, TaskGroup};

/// Faults are told after a minute or so; a second more or less is nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Connecting, logging in and sending, all together.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);
/// Waits between attempts to send: a mail server that is down is down for minutes.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(300);

/// Why a notification was not sent. Shows neither secrets nor paths of addresses.
#[derive(Debug, Error)]
pub enum NotifyError {
    /// No connection, or it broke.
    #[error("{address} is out of reach: {problem}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        problem: String,
    },
    /// The receiver does not take it.
    #[error("{address} refuses: {problem}")]
    Refused {
        /// Host and port.
        address: String,
        /// Its code, and what to do.
        problem: String,
    },
    /// A file cannot be read, or a setting is unfit.
    #[error("it cannot be set up: {problem}")]
    Setup {
        /// Which, and why.
        problem: String,
    },
}

/// Somebody who is told.
#[derive(Clone, Debug)]
pub struct Receiver {
    name: String,
    by: By,
}

#[derive(Clone, Debug)]
enum By {
    Email(Box<Email>),
    Webhook(Box<Webhook>),
}

impl Receiver {
    /// All receivers of a configuration.
    #[must_use]
    pub fn all(config: &NotifyConfig) -> Vec<Self> {
        let email = config.email.iter().map(|(name, email)| Self {
            name: format!("email {name}"),
            by: By::Email(Box::new(Email::new(email.clone(), host()))),
        });
        let webhook = config.webhook.iter().map(|(name, webhook)| Self {
            name: format!("webhook {name}"),
            by: By::Webhook(Box::new(Webhook::new(webhook.clone()))),
        });
        email.chain(webhook).collect()
    }

    /// What people call it: `email NAME` or `webhook NAME`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Host and port of the system that takes its messages.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.by {
            By::Email(email) => email.address(),
            By::Webhook(webhook) => webhook.address(),
        }
    }

    /// Reaches it, logs in where that is needed, and sends nothing.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub async fn check(&self) -> Result<(), NotifyError> {
        let checked = async {
            match &self.by {
                By::Email(email) => email.check().await,
                By::Webhook(webhook) => webhook.check().await,
            }
        };
        self.in_time(checked).await
    }

    /// Sends a test message. `Ok` means that the system at [`address`](Self::address) took it.
    ///
    /// # Errors
    /// [`NotifyError`].
    pub async fn test(&self) -> Result<(), NotifyError> {
        let now = Timestamp::now();
        self.send("notify test", now, &Due { event: Event::Test, since: now, faults: Vec::new() }).await
    }

    async fn send(&self, service: &str, at: Timestamp, due: &Due) -> Result<(), NotifyError> {
        let notice = Notice { service: service.to_owned(), host: host(), at, due: due.clone() };
        let sent = async {
            match &self.by {
                By::Email(email) => email.send(&notice).await,
                By::Webhook(webhook) => webhook.send(&notice).await,
            }
        };
        self.in_time(sent).await
    }

    async fn in_time(&self, work: impl Future<Output = Result<(), NotifyError>>) -> Result<(), NotifyError> {
        let late = |_| NotifyError::Unreachable { address: self.address(), problem: "it does not answer".to_owned() };
        timeout(SEND_TIMEOUT, Box::pin(work)).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }
}

/// Starts a task for each receiver, which tells it of the faults of this service.
///
/// # Errors
/// A metric of that name exists already.
pub fn start(
    tasks: &mut TaskGroup,
    config: &NotifyConfig,
    service: &'static str,
    health: &Health,
    registry: &Registry,
) -> Result<(), prometheus::Error> {
    let help = "Notifications by what became of them";
    let messages = metrics::counter(registry, "syncline_notify_messages_total", help, &["receiver", "outcome"])?;
    for receiver in Receiver::all(config) {
        for outcome in ["sent", "failed"] {
            messages.with_label_values(&[receiver.name(), outcome]);
        }
        let watch = Watch::new(config.after.signed(), config.interval.signed());
        let teller = Teller { receiver, watch, service, health: health.clone(), messages: messages.clone() };
        let stop = tasks.stop();
        tasks.spawn("notifier", teller.run(stop));
    }
    Ok(())
}

/// Tells one receiver.
struct Teller {
    receiver: Receiver,
    watch: Watch,
    service: &'static str,
    health: Health,
    messages: IntCounterVec,
}

impl Teller {
    /// Runs until the shutdown, which waits for no message.
    async fn run(mut self, mut stop: Stop) -> Result<(), Infallible> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let Some(wait) = stop.or(self.look(&mut backoff)).await else { return Ok(()) };
            if stop.or(sleep(wait)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// Sends what is due; how long to wait until the next look.
    async fn look(&mut self, backoff: &mut Backoff) -> Duration {
        // A stand-by is not at fault: it waits for its turn.
        let faults: Vec<_> = self.health.faults().into_iter().filter(|fault| !fault.stands_by).collect();
        let now = Timestamp::now();
        let Some(due) = self.watch.due(&faults, now) else { return LOOK_INTERVAL };
        let receiver = self.receiver.name();
        match self.receiver.send(self.service, now, &due).await {
            Ok(()) => {
                tracing::info!(receiver, "a notification was sent");
                self.messages.with_label_values(&[receiver, "sent"]).inc();
                backoff.reset();
                self.watch.sent(due, now);
                LOOK_INTERVAL
            }
            Err(error) => {
                tracing::warn!(receiver, %error, "a notification could not be sent, trying again");
                self.messages.with_label_values(&[receiver, "failed"]).inc();
                backoff.next_wait()
            }
        }
    }
}

/// What this machine calls itself.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
