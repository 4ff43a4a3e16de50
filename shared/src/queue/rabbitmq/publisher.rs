//! Publishing with confirms, many messages under way at once.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::BasicPublishOptions;

use super::confirms::Outcome;
use super::connection::Server;
use super::link::{Impatient, Link, SHORT, WhileBlocked};
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
        // Also where the connection has failed before: what is under way on it is worked off first.
        if let Some(link) = &mut self.link
            && let Some(blocked) = link.blocked(&self.server).await
        {
            return Err(blocked.into());
        }
        let link = match self.link.take_if(|link| link.window.is_sound()) {
            Some(link) => link,
            None => {
                if self.link.as_ref().is_some_and(|broken| broken.window.is_awaited()) {
                    return Err(self.server.unreachable("messages before this one are not confirmed").into());
                }
                if let Some(broken) = self.link.take() {
                    broken.close().await;
                }
                Link::open(&self.server).await?
            }
        };
        Ok(self.link.insert(link))
    }

    /// Hands a message to the broker. Its confirm fails when the broker takes no messages for now.
    pub(super) async fn send(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        message: &Message,
    ) -> Result<Confirm, PublishError> {
        self.hand_over(queue, exchange, routing_key, message, WhileBlocked::Fail).await
    }

    async fn hand_over(
        &mut self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        message: &Message,
        while_blocked: WhileBlocked,
    ) -> Result<Confirm, PublishError> {
        let (exchange, routing_key) = (wire::short(exchange)?, wire::short(routing_key)?);
        let properties = wire::properties(message)?;
        let confirm_timeout = self.confirm_timeout();
        let (timed_out, server) = (self.timed_out(), Arc::clone(&self.server));
        let link = self.link().await?;
        let (window, patience) = (link.window.clone(), link.patience(confirm_timeout));
        let options = BasicPublishOptions {
            // A message that reaches no queue comes back; without this it would be confirmed and gone.
            mandatory: true,
            // Not supported by RabbitMQ.
            immediate: false,
        };
        #[expect(clippy::disallowed_methods, reason = "this is the publisher that checks the confirms")]
        let publishing = window.channel().basic_publish(exchange, routing_key, options, &message.body, properties);
        // A message the broker did not take is handed over again, so one may come twice after it took nothing.
        let published = match patience.wait(WhileBlocked::Fail, publishing).await {
            Ok(published) => published.map_err(|error| server.publish_error(queue, error))?,
            Err(Impatient::Blocked) => {
                let blocked = match &mut self.link {
                    Some(link) => link.blocked(&server).await,
                    None => None,
                };
                return Err(blocked.unwrap_or_else(|| server.blocked(SHORT)).into());
            }
            Err(Impatient::TimedOut) => {
                window.fail();
                return Err(timed_out);
            }
        };
        let ticket = window.register(published);
        let queue = queue.to_owned();
        Ok(Confirm::new(async move {
            let outcome = match patience.wait(while_blocked, ticket.outcome()).await {
                Ok(outcome) => outcome,
                // The connection is sound, and what is under way on it may still arrive.
                Err(Impatient::Blocked) => return Err(server.blocked(SHORT).into()),
                Err(Impatient::TimedOut) => {
                    ticket.give_up();
                    return Err(timed_out);
                }
            };
            drop(ticket);
            match outcome {
                Outcome::Acked => Ok(()),
                Outcome::Nacked => Err(PublishError::Nacked),
                Outcome::Returned { routing_key } => Err(PublishError::Unroutable { queue, routing_key }),
                Outcome::NotRequested => Err(server.unreachable("the channel does not confirm").into()),
                Outcome::Failed(error) => Err(server.publish_error(&queue, error)),
            }
        }))
    }
}

impl Publisher for RabbitMqPublisher {
    async fn publish(&mut self, queue: &str, envelope: &Envelope) -> Result<Confirm, PublishError> {
        let (bytes, bytes_max) = (envelope.body_len(), self.server.bytes_max());
        if bytes > bytes_max {
            return Err(PublishError::TooLarge { bytes, bytes_max });
        }
        let (exchange, routing_key) = (exchange(queue), envelope.routing_key());
        self.hand_over(queue, &exchange, &routing_key, &envelope.to_message(), WhileBlocked::Wait).await
    }

    async fn changed(&mut self) -> Result<(), PublishError> {
        match &mut self.link {
            Some(link) => Ok(link.changed(&self.server).await?),
            None => pending().await,
        }
    }

    async fn park(&mut self, letter: &DeadLetter) -> Result<Confirm, PublishError> {
        // What the broker carried once is not measured again: a letter that is not taken holds up its partition.
        self.send(&letter.queue, DEFAULT_EXCHANGE, &dead_queue(&letter.queue), &letter.to_message()).await
    }
}
