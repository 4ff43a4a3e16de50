//! The admin endpoint of a service: `/metrics`, `/healthz`, `/readyz`, `/jobs`, `/trace/RECORD`.
//!
//! Shows counts, states and what became of a record by its id; never a record's key or value, a secret or a password. It has no login, so what a client can take up is
//! bounded: how many connections there are, and how long each may last.

pub mod client;

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::health::Health;
use crate::journal::Journals;
use crate::tasks::Stop;

/// Connections at a time; further ones wait to be taken. A monitoring system needs one, an orchestrator another.
const CONNECTIONS_MAX: usize = 16;
/// A connection ends after this time, whatever its client does; less than the time between two scrapes is enough.
const CONNECTION_LIFE: Duration = Duration::from_secs(10);

/// Serves the admin endpoint until the shutdown, which waits for no client.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    journals: Journals,
    mut stop: Stop,
) -> Result<(), io::Error> {
    let router = Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready).with_state(health.clone()))
        .route("/jobs", get(jobs).with_state(health))
        .route("/trace/{record}", get(trace).with_state(journals));
    let listener = Bounded { listener, places: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    stop.or(axum::serve(listener, router).into_future()).await.unwrap_or(Ok(()))
}

/// Listens on an address and logs it.
///
/// # Errors
/// The address is taken or not ours.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, io::Error> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "serving /metrics, /healthz and /readyz");
    Ok(listener)
}

async fn metrics(State(registry): State<Registry>) -> Response {
    let mut body = Vec::new();
    match TextEncoder::new().encode(&registry.gather(), &mut body) {
        Ok(()) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], body).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(health): State<Health>) -> Response {
    let paused = health.paused();
    if paused.is_empty() {
        return "ready\n".into_response();
    }
    let reasons: String = paused.iter().map(|(part, reason)| format!("{part}: {reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
}

/// What every part does, as JSON.
async fn jobs(State(health): State<Health>) -> Response {
    match serde_json::to_string(&health.jobs()) {
        Ok(jobs) => ([(header::CONTENT_TYPE, "application/json")], format!("{jobs}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// What the journals have of a record, named by 16 hexadecimal digits ([`crate::journal::record_id`]).
async fn trace(State(journals): State<Journals>, Path(record): Path<String>) -> Response {
    match u64::from_str_radix(&record, 16) {
        Ok(record) => {
            ([(header::CONTENT_TYPE, "application/json")], format!("{}\n", journals.of(record))).into_response()
        }
        Err(_) => (StatusCode::BAD_REQUEST, "a record is named by 16 hexadecimal digits\n").into_response(),
    }
}

/// Takes a connection when there is a place for it.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
}

impl axum::serve::Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = axum::serve::Listener::accept(&mut self.listener).await;
        (Connection { stream, end: Box::pin(tokio::time::sleep(CONNECTION_LIFE)), _place: place }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection with an end.
struct Connection {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    /// The stream, until its time is over.
    fn alive(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.end.as_mut().poll(context) {
            Poll::Ready(()) => Err(ErrorKind::TimedOut.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?.poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.alive(context)?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.alive(context)?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::tasks::TaskGroup;

    /// Serves on a free port until the group is dropped.
    async fn serving() -> (TaskGroup, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut tasks = TaskGroup::default();
        let stop = tasks.stop();
        let registry = Registry::new();
        let health = Health::new(&registry, "test").expect("metrics");
        tasks.spawn("http", serve(listener, registry, health, Journals::default(), stop));
        (tasks, address)
    }

    async fn healthz(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn clients_that_ask_for_nothing_are_cut_and_hold_up_the_others_no_longer() {
        let (_tasks, address) = serving().await;
        tokio::time::pause();
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            let mut stream = TcpStream::connect(address).await.expect("a connection");
            stream.write_all(b"GET /healthz HTTP/1.1\r\nho").await.expect("sent");
            idle.push(stream);
        }
        assert!(healthz(address).await.starts_with("HTTP/1.1 200"));
        for mut stream in idle {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, b"");
        }
    }

    #[tokio::test]
    async fn a_client_that_asks_for_nothing_does_not_hold_up_the_shutdown() {
        let (tasks, address) = serving().await;
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        stream.write_all(b"GET /healthz HTTP/1.1\r\nho").await.expect("sent");
        assert!(healthz(address).await.contains("alive"));
        tasks.run(async {}, Duration::from_secs(2)).await.expect("a shutdown in time");
    }
}
