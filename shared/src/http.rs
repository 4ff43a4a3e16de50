//! The admin endpoint of a service: `/metrics`, `/healthz`, `/readyz`.
//!
//! Shows counts and states, never a record, a key or a password.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder as _, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::tasks::Stop;

/// Serves the admin endpoint until the shutdown.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    health: Health,
    mut stop: Stop,
) -> Result<(), std::io::Error> {
    let router = Router::new()
        .route("/metrics", get(metrics).with_state(registry))
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready).with_state(health));
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

async fn ready(State(health): State<Health>) -> Response {
    let paused = health.paused();
    if paused.is_empty() {
        return "ready\n".into_response();
    }
    let reasons: String = paused.iter().map(|(part, reason)| format!("{part}: {reason}\n")).collect();
    (StatusCode::SERVICE_UNAVAILABLE, reasons).into_response()
}
