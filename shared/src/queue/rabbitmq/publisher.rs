//! Publishing with confirms, many messages under way at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::StreamExt as _;
use lapin::Connection;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use tokio::time::{Instant, timeout, timeout_at};

use super::confirms::{Outcome, Window};
use super::connection::{Server, close};
use super::{dead_queue, exchange, wire};
use crate::envelope::{Envelope, Message};
use crate::queue::{Confirm, DeadLetter, PublishError, Publisher, QueueError};

/// The exchange without a name routes to the queue the routing key names.
const DEFAULT_EXCHANGE: &str = "";

/// Publishes to RabbitMQ over a connection of its own.
///
/// After a message that was not acked the next one goes over a new connection. It is opened once every confirm of the
/// old one was awaited or dropped, so that nothing overtakes a message of which the caller does not know yet that it
/// must be sent again; until then `publish` fails. What the old connection still had under way is worked off first.
pub struct RabbitMqPublisher {
    server: Arc<Server>,
    link: Option<Link>,
}

struct Link {
    connection: Connection,
    window: Window,
}

impl Link {
    async fn open(server: &Server) -> Result<Self, QueueError> {
        let connection = server.connect("syncline publisher").await?;
        let channel = connection.create_channel().await.map_err(|error| server.error("", error))?;
        // The broker's answer is waited for: without it the first messages would count as not confirmed.
        let options = ConfirmSelectOptions { nowait: false };
        channel.confirm_select(options).await.map_err(|error| server.error("", error))?;
        Ok(Self { connection, window: Window::new(channel) })
    }

    /// Waits while the broker, short of memory or disk, takes nothing. What is handed to the library in that time would
    /// pile up in memory.
    async fn unblocked(&self) {
        // Listening starts before looking, so that a change in between is not missed.
        let mut events = std::pin::pin!(self.connection.events_listener());
        while self.connection.status().blocked() && self.connection.status().connected() {
            events.next().await;
        }
    }
}

impl RabbitMqPublisher {
    pub(super) async fn connect(server: Arc<Server>) -> Result<Self, QueueError> {
        let link = Link::open(&server).await?;
        Ok(Self { server, link: Some(link) })
    }

    fn confirm_timeout(&self) -> Duration {
        Duration::from_millis(self.server.config.confirm_timeout_ms)
    }

    fn timed_out(&self) -> PublishError {
        PublishError::TimedOut { timeout_ms: self.server.config.confirm_timeout_ms }
    }

    /// The connection to publish on, made anew after a failure.
    async fn link(&mut self) -> Result<&Link, PublishError> {
        if let Some(link) = &self.link {
            timeout(self.confirm_timeout(), link.unblocked()).await.map_err(|_| self.timed_out())?;
        }
        let link = match self.link.take_if(|link| link.window.is_sound()) {
            Some(link) => link,
            None => {
                if self.link.as_ref().is_some_and(|broken| broken.window.is_awaited()) {
                    return Err(self.server.unreachable("messages before this one are not confirmed").into());
                }
                if let Some(broken) = self.link.take() {
                    close(broken.connection).await;
                }
                Link::open(&self.server).await?
            }
        };
        Ok(self.link.insert(link))
    }

    /// Hands a message to the broker.
    pub(super) async fn send(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        message: &Message,
    ) -> Result<Confirm, PublishError> {
        let (bytes, bytes_max) = (message.body.len(), self.server.config.message_bytes_max);
        if bytes > bytes_max {
            return Err(PublishError::TooLarge { bytes, bytes_max });
        }
        let (exchange, routing_key) = (wire::short(exchange)?, wire::short(routing_key)?);
        let properties = wire::properties(message)?;
        let deadline = Instant::now() + self.confirm_timeout();
        let (timed_out, server) = (self.timed_out(), Arc::clone(&self.server));
        let window = self.link().await?.window.clone();
        let options = BasicPublishOptions {
            // A message that reaches no queue comes back; without this it would be confirmed and gone.
            mandatory: true,
            // Not supported by RabbitMQ.
            immediate: false,
        };
        #[expect(clippy::disallowed_methods, reason = "this is the publisher that checks the confirms")]
        let publishing = window.channel().basic_publish(exchange, routing_key, options, &message.body, properties);
        let Ok(published) = timeout_at(deadline, publishing).await else {
            window.fail();
            return Err(timed_out);
        };
        let ticket = window.register(published.map_err(|error| server.error(queue, error))?);
        let queue = queue.to_owned();
        Ok(Confirm::new(async move {
            let Ok(outcome) = timeout_at(deadline, ticket.outcome()).await else {
                ticket.give_up();
                return Err(timed_out);
            };
            drop(ticket);
            match outcome {
                Outcome::Acked => Ok(()),
                Outcome::Nacked => Err(PublishError::Nacked),
                Outcome::Returned { routing_key } => Err(PublishError::Unroutable { queue, routing_key }),
                Outcome::NotRequested => Err(server.unreachable("the channel does not confirm").into()),
                Outcome::Failed(error) => Err(server.error(&queue, error).into()),
            }
        }))
    }
}

impl Publisher for RabbitMqPublisher {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        self.send(queue, &exchange(queue), &envelope.routing_key(), &envelope.to_message()).await
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        self.send(&letter.queue, DEFAULT_EXCHANGE, &dead_queue(&letter.queue), &letter.to_message()).await
    }
}
