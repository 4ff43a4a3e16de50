//! The admin endpoint of a service: `/metrics`, `/healthz`, `/readyz`.
//!
//! Shows counts and states, never a record, a key or a password.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::tasks::Stop;

/// Why a service is not ready, by part (a source, a partition). Cheap to clone; ready while it is empty.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, String>>>);

impl Readiness {
    /// Says that a part cannot work, and why, in one line without any value of a record. Returns whether that is news.
    pub fn block(&self, part: &str, reason: &str) -> bool {
        let mut parts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        parts.insert(part.to_owned(), reason.to_owned()).as_deref() != Some(reason)
    }

    /// Says that a part works. Returns whether it did not before.
    pub fn clear(&self, part: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(part).is_some()
    }

    /// The parts that cannot work, with their reasons.
    #[must_use]
    pub fn blocked(&self) -> BTreeMap<String, String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves the admin endpoint until the shutdown.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: Readiness,
    mut stop: Stop,
) -> Result<(), std::io::Error> {
    let router = Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready).with_state(readiness));
    axum::serve(listener, router).with_graceful_shutdown(async move { stop.wait().await }).await
}

/// Listens on an address and logs it.
///
/// # Errors
/// The address is taken or not ours.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, std::io::Error> {
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

async fn ready(State(readiness): State<Readiness>) -> Response {
    let blocked = readiness.blocked();
    if blocked.is_empty() {
        return "ready\n".into_response();
    }
    let reasons: String = blocked.iter().map(|(part, reason)| format!("{part}: {reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
}
