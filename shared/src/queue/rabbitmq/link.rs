//! The connection of one publisher: its window, and whether the broker takes anything on it.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::FutureExt as _;
use futures_util::stream::{BoxStream, StreamExt as _};
use lapin::options::ConfirmSelectOptions;
use lapin::{Connection, ConnectionStatus, Event};
use tokio::time::{Instant, timeout, timeout_at};

use super::confirms::Window;
use super::connection::{CONNECT_TIMEOUT, Server, close};
use crate::queue::QueueError;

/// How often a wait looks whether the broker has stopped to take messages.
const BLOCK_POLL: Duration = Duration::from_millis(250);

/// How long to wait for the broker's words after the library's status says that it takes nothing: they come next.
const REASON_WAIT: Duration = Duration::from_secs(1);

/// Why a broker takes no messages, where its own words were not heard.
pub(super) const SHORT: &str = "short of memory or disk";

/// A connection to publish on.
pub(super) struct Link {
    connection: Connection,
    pub(super) window: Window,
    /// The library keeps one queue of events for all who listen, so there is one listener.
    events: BoxStream<'static, Event>,
    /// What the broker said it is short of, while it is.
    reason: Option<String>,
    /// Whether the caller was told that the broker takes nothing.
    said_blocked: bool,
}

impl Link {
    pub(super) async fn open(server: &Server) -> Result<Self, QueueError> {
        let connection = server.connect("publisher").await?;
        let events = connection.events_listener().boxed();
        let opening = async {
            let channel = connection.create_channel().await?;
            // The broker's answer is waited for: without it the first messages would count as not confirmed.
            channel.confirm_select(ConfirmSelectOptions { nowait: false }).await?;
            Ok(channel)
        };
        let opened = timeout(CONNECT_TIMEOUT, opening).await.map_err(|elapsed| server.unreachable(elapsed))?;
        let channel = opened.map_err(|error| server.error("", error))?;
        Ok(Self { connection, window: Window::new(channel), events, reason: None, said_blocked: false })
    }

    /// Closes it; what was published on it is settled at the broker afterwards, unless that does not answer.
    pub(super) async fn close(self) {
        close(self.connection).await;
    }

    /// Why the broker, short of memory or disk, takes nothing now. What is handed to the library meanwhile would pile
    /// up in memory. Who was told so learns of the end from [`Link::changed`].
    pub(super) async fn blocked(&mut self, server: &Server) -> Option<QueueError> {
        while let Some(Some(event)) = self.events.next().now_or_never() {
            self.note(event);
        }
        // The library sets its status first, and gives the reason a moment later.
        let reason_due = Instant::now() + REASON_WAIT;
        while self.reason.is_none() && is_blocked(self.connection.status()) {
            let Ok(Some(event)) = timeout_at(reason_due, self.events.next()).await else { break };
            self.note(event);
        }
        let blocked = is_blocked(self.connection.status());
        self.said_blocked |= blocked;
        blocked.then(|| server.blocked(self.reason.as_deref().unwrap_or(SHORT)))
    }

    fn note(&mut self, event: Event) {
        if let Event::ConnectionBlocked(reason) = event {
            self.reason = Some(reason);
        } else if matches!(event, Event::ConnectionUnblocked) {
            self.reason = None;
        }
    }

    /// Waits until the broker stops to take messages, takes them again, or is gone. Cancel-safe.
    pub(super) async fn changed(&mut self, server: &Server) -> Result<(), QueueError> {
        loop {
            if !self.connection.status().connected() {
                return Err(server.unreachable("the connection is closed"));
            }
            let said = self.said_blocked;
            match self.blocked(server).await {
                Some(blocked) if !said => return Err(blocked),
                None if said => {
                    self.said_blocked = false;
                    return Ok(());
                }
                Some(_) | None => {}
            }
            match self.events.next().await {
                Some(event) => self.note(event),
                None => return Err(server.unreachable("the connection is closed")),
            }
        }
    }

    /// How long to wait for the broker to take and to confirm a message handed over now.
    pub(super) fn patience(&self, confirm_timeout: Duration) -> Patience {
        let (status, window) = (self.connection.status().clone(), self.window.clone());
        Patience { status, window, sent: Instant::now(), confirm_timeout }
    }
}

fn is_blocked(status: &ConnectionStatus) -> bool {
    status.connected() && status.blocked()
}

/// What to do while the broker takes nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhileBlocked {
    /// Wait: whoever publishes learns of the fault by [`Link::changed`], and sends nothing twice.
    Wait,
    /// Fail: whoever waits has no other way to learn of the fault.
    Fail,
}

/// How long one message is waited for.
pub(super) struct Patience {
    status: ConnectionStatus,
    window: Window,
    sent: Instant,
    confirm_timeout: Duration,
}

/// Why a wait ended early.
pub(super) enum Impatient {
    /// The time is over.
    TimedOut,
    /// The broker takes nothing.
    Blocked,
}

impl Patience {
    /// Waits for a step of the message's way. The time during which the broker takes nothing does not count.
    pub(super) async fn wait<T>(
        &self,
        while_blocked: WhileBlocked,
        step: impl Future<Output = T>,
    ) -> Result<T, Impatient> {
        let mut step = pin!(step);
        loop {
            let from = self.window.last_blocked().map_or(self.sent, |at| at.max(self.sent));
            let deadline = from + self.confirm_timeout;
            let look_at = deadline.min(Instant::now() + BLOCK_POLL);
            if let Ok(done) = timeout_at(look_at, &mut step).await {
                return Ok(done);
            }
            if is_blocked(&self.status) {
                self.window.note_blocked();
                if while_blocked == WhileBlocked::Fail {
                    return Err(Impatient::Blocked);
                }
            } else if Instant::now() >= deadline {
                return Err(Impatient::TimedOut);
            }
        }
    }
}
