//! Connecting to a server, and what its errors mean.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::tcp::RustlsConnector;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{AsyncTcpStream, Channel, ChannelStatus, Connection, ConnectionProperties, ConnectionStatus, ErrorKind};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::RabbitmqConfig;
use super::holdings::lock;
use super::replica::Replica;
use crate::config::Secret;
use crate::queue::{PublishError, QueueError, SharedQueue};

/// A server that does not answer within this time is out of reach.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Closing is a courtesy; a server that does not answer it is left.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two looks at whether who is to answer is still there.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// AMQP reply code of a normal close.
const REPLY_SUCCESS: u16 = 200;

/// A connection for several, made when it is needed.
type Shared = Mutex<Option<Connection>>;

/// A server, and the connections that all but publishers share.
///
/// Publishers have connections of their own, and so has what replicas say to each other: a broker short of memory stops
/// reading from those that publish, and acks must pass all the same.
pub(super) struct Server {
    pub(super) config: RabbitmqConfig,
    /// `None` when the configured url is no address.
    uri: Option<AMQPUri>,
    address: String,
    /// Upper bound of a message's body: the configured one, until the broker says that it takes less.
    bytes_max: AtomicUsize,
    /// Shared queues that had this number of partitions: what is missing of them now was deleted.
    found: std::sync::Mutex<HashSet<SharedQueue>>,
    /// Each replica of this process of each shared queue; there is one, but for tests.
    replicas: std::sync::Mutex<HashMap<(String, String), Arc<Replica>>>,
    shared: Shared,
    lines: Shared,
}

impl Server {
    pub(super) fn new(config: RabbitmqConfig) -> Self {
        let uri = config.uri();
        let address = uri.as_ref().map_or_else(
            || "an invalid url".to_owned(),
            |uri| format!("{}:{}, virtual host {:?}", uri.authority.host, uri.authority.port, uri.vhost),
        );
        let bytes_max = AtomicUsize::new(config.message_bytes_max);
        Self {
            config,
            uri,
            address,
            bytes_max,
            found: std::sync::Mutex::default(),
            replicas: std::sync::Mutex::default(),
            shared: Shared::default(),
            lines: Shared::default(),
        }
    }

    /// Opens a channel on the shared connection, which is made, or made anew, when there is none.
    pub(super) async fn channel(&self) -> Result<OwnedChannel, QueueError> {
        self.channel_on(&self.shared, "syncline").await
    }

    /// The same on the connection over which replicas talk.
    pub(super) async fn line(&self) -> Result<OwnedChannel, QueueError> {
        self.channel_on(&self.lines, "replica").await
    }

    async fn channel_on(&self, shared: &Shared, name: &str) -> Result<OwnedChannel, QueueError> {
        let mut shared = shared.lock().await;
        if let Some(connection) = shared.take_if(|connection| connection.status().connected()) {
            // The library answers with a stale error when it comes back to the number of a channel that the broker had
            // closed, so an error here says nothing about the broker. The connection lives on with its other channels.
            if let Ok(channel) = self.channel_of(&connection).await {
                *shared = Some(connection);
                return Ok(channel);
            }
        }
        let connection = shared.insert(self.connect(name).await?);
        self.channel_of(connection).await
    }

    async fn channel_of(&self, connection: &Connection) -> Result<OwnedChannel, QueueError> {
        let status = connection.status();
        let channel = while_there(|| status.connected(), connection.create_channel()).await;
        let channel = channel.ok_or_else(|| self.unreachable(BROKEN))?.map_err(|error| self.error("", error))?;
        let standing = Standing { channel: channel.status().clone(), connection: status.clone() };
        Ok(OwnedChannel { channel, standing })
    }

    /// Connects. The password and certificates are read anew, so that renewed ones are used.
    pub(super) async fn connect(&self, name: &str) -> Result<Connection, QueueError> {
        let config = &self.config;
        let mut uri = self.uri.clone().ok_or_else(|| self.setup("the url is no address of a broker"))?;
        uri.query.heartbeat = Some(config.heartbeat_s);
        uri.authority.userinfo.password = self.password(&uri)?;
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(RustlsConnector::from(config.tls.client().map_err(|cause| self.setup(cause))?)),
        };
        // Automatic recovery stays off: it would repeat publishes on its own and hide which confirms are void.
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.error("", error))?;
        let connecting = Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let host = &uri.authority.host;
                let addresses = runtime.to_socket_addrs((host.clone(), uri.authority.port));
                let stream = AsyncTcpStream::connect(&runtime, addresses).await?;
                match &tls {
                    Some(tls) => Ok(stream.into_rustls(tls, host).await?),
                    None => Ok(stream),
                }
            },
            properties,
        );
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| self.error("", error)),
            Err(elapsed) => Err(self.unreachable(elapsed)),
        }
    }

    /// The password as it is now.
    fn password(&self, uri: &AMQPUri) -> Result<String, QueueError> {
        let password = Secret::resolve(self.config.password.as_ref(), self.config.password_file.as_deref());
        let password = password.map_err(|cause| self.setup(cause))?;
        Ok(password.map_or_else(|| uri.authority.userinfo.password.clone(), |password| password.expose().to_owned()))
    }

    /// User, virtual host and password.
    pub(super) fn login(&self) -> Result<(&str, &str, String), QueueError> {
        let uri = self.uri.as_ref().ok_or_else(|| self.setup("the url is no address of a broker"))?;
        Ok((&uri.authority.userinfo.username, &uri.vhost, self.password(uri)?))
    }

    /// Remembers that a shared queue is as configured.
    pub(super) fn note_found(&self, queue: &SharedQueue) {
        lock(&self.found).insert(queue.clone());
    }

    /// Whether a shared queue was as configured since the start of this process.
    pub(super) fn was_found(&self, queue: &SharedQueue) -> bool {
        lock(&self.found).contains(queue)
    }

    /// How many partitions a shared queue had that was as configured since the start of this process.
    pub(super) fn partitions(&self, queue: &str) -> Option<u32> {
        lock(&self.found).iter().find(|found| found.name == queue).map(|found| found.partitions)
    }

    /// A replica of a shared queue.
    pub(super) fn replica(&self, queue: &str, name: &str) -> Arc<Replica> {
        let mut replicas = lock(&self.replicas);
        let replica = replicas.entry((queue.to_owned(), name.to_owned()));
        replica.or_insert_with(|| Arc::new(Replica::new(queue, name))).clone()
    }

    /// Bytes of the largest message the broker takes, as far as is known.
    pub(super) fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// What an error of the client library means for a message. A broker that takes less than is configured is believed
    /// from then on.
    pub(super) fn publish_error(&self, queue: &str, error: lapin::Error) -> PublishError {
        match protocol_error(&error).and_then(|(_, text)| too_large(text)) {
            Some((bytes, bytes_max)) => {
                self.bytes_max.fetch_min(bytes_max, Ordering::Relaxed);
                PublishError::TooLarge { bytes, bytes_max }
            }
            None => self.error(queue, error).into(),
        }
    }

    /// What an error of the client library means for a shared queue.
    pub(super) fn error(&self, queue: &str, error: lapin::Error) -> QueueError {
        match protocol_error(&error) {
            Some((
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED),
                _,
            )) => QueueError::Refused { address: self.address.clone(), cause: error.into() },
            Some((
                AMQPErrorKind::Soft(
                    AMQPSoftError::NOTFOUND | AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED,
                ),
                text,
            )) => topology(queue, format!("the broker says {text:?}")),
            Some(_) => self.unreachable(error),
            None => match tls_error(&error) {
                // Of our certificate, mostly: that it is missing, or of an authority the broker does not know.
                Some(rustls::Error::AlertReceived(_)) => {
                    QueueError::Refused { address: self.address.clone(), cause: error.into() }
                }
                Some(_) => self.setup(error),
                None => self.unreachable(error),
            },
        }
    }

    /// The connection or channel is gone.
    pub(super) fn unreachable(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> QueueError {
        QueueError::Unreachable { address: self.address.clone(), cause: cause.into() }
    }

    /// The broker takes no messages for now.
    pub(super) fn blocked(&self, reason: &str) -> QueueError {
        QueueError::Blocked { address: self.address.clone(), cause: reason.into() }
    }

    fn setup(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> QueueError {
        QueueError::Setup { address: self.address.clone(), cause: cause.into() }
    }
}

/// What the broker closed a channel or connection with: the kind and its text, which names queues and arguments.
pub(super) fn protocol_error(error: &lapin::Error) -> Option<(&AMQPErrorKind, &str)> {
    let ErrorKind::ProtocolError(error) = error.kind() else { return None };
    Some((error.kind(), error.get_message().as_str()))
}

/// The size of a message, and the broker's limit: `.. message size 17 is larger than configured max size 16`.
fn too_large(text: &str) -> Option<(usize, usize)> {
    let number = |after: &str| {
        let (_, rest) = text.split_once(after)?;
        rest.split(|byte: char| !byte.is_ascii_digit()).next()?.parse().ok()
    };
    Some((number("message size ")?, number("max size ")?))
}

/// Why the ends did not come to trust each other.
fn tls_error(error: &lapin::Error) -> Option<&rustls::Error> {
    let causes = std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| cause.source());
    causes.into_iter().find_map(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).or_else(|| cause.downcast_ref())
    })
}

/// A queue or exchange that is not as it has to be.
pub(super) fn topology(queue: &str, problem: String) -> QueueError {
    QueueError::Topology { queue: queue.to_owned(), problem }
}

/// Closes a connection; what was published on it is settled at the broker afterwards, unless it does not answer.
pub(super) async fn close(connection: Connection) {
    // An error means that it is closed already.
    let _ = timeout(CLOSE_TIMEOUT, connection.close(REPLY_SUCCESS, "OK".into())).await;
}

const BROKEN: &str = "the connection broke";

/// Waits for an answer while the one who is to give it is there; `None` once it is not.
///
/// The library forgets requests that are handed to a connection in the moment it breaks: neither an answer nor an error
/// comes of them.
async fn while_there<T>(is_there: impl Fn() -> bool, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    loop {
        match timeout(LOOK_INTERVAL, &mut answer).await {
            Ok(answer) => return Some(answer),
            Err(_) if is_there() => {}
            // It may have answered before it went.
            Err(_) => return answer.now_or_never(),
        }
    }
}

/// Whether a channel and its connection still stand.
#[derive(Clone)]
pub(super) struct Standing {
    channel: ChannelStatus,
    connection: ConnectionStatus,
}

impl Standing {
    /// Whether both do, as far as this end knows.
    pub(super) fn stands(&self) -> bool {
        self.channel.connected() && self.connection.connected()
    }

    /// Whether the broker takes nothing on the connection.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.blocked()
    }

    /// Waits for an answer on the channel.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`]: channel or connection are gone, and no answer will come.
    pub(super) async fn answer<T>(&self, server: &Server, answer: impl Future<Output = T>) -> Result<T, QueueError> {
        while_there(|| self.stands(), answer).await.ok_or_else(|| server.unreachable(BROKEN))
    }
}

/// A channel that is closed with its owner, so that what it holds unacked goes back to its queue.
pub(super) struct OwnedChannel {
    channel: Channel,
    pub(super) standing: Standing,
}

impl OwnedChannel {
    /// Closes the channel and waits until the broker has done so.
    pub(super) async fn close(self) {
        // An error means that it is closed already.
        let _ = timeout(CLOSE_TIMEOUT, self.channel.close(REPLY_SUCCESS, "OK".into())).await;
    }
}

impl Deref for OwnedChannel {
    type Target = Channel;

    fn deref(&self) -> &Channel {
        &self.channel
    }
}

impl Drop for OwnedChannel {
    fn drop(&mut self) {
        // The first poll hands `channel.close` to the connection; its answer is not waited for.
        let _ = self.channel.close(REPLY_SUCCESS, "OK".into()).now_or_never();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brokers_own_limit_is_read_from_its_words() {
        let text = "PRECONDITION_FAILED - message size 20971520 is larger than configured max size 16777216";
        assert_eq!(too_large(text), Some((20_971_520, 16_777_216)));
        assert_eq!(too_large("PRECONDITION_FAILED - message size 9 is larger than max size 8"), Some((9, 8)));
        assert_eq!(too_large("PRECONDITION_FAILED - inequivalent arg 'durable'"), None);
    }
}
