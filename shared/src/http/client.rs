//! Asks HTTP services, over one connection, one request after the other.
//!
//! For commands, notifications and traces, never for records. With `https` the server's certificate is verified. How long to wait
//! is its caller's to say; how much of an answer is read is bounded. Fails with an error that names no path and quotes no
//! header: either may be a secret.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use futures_util::future::{BoxFuture, Fuse, FutureExt as _};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::HOST;
use hyper::http::request::Builder;
use hyper::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{TlsConfig, handshake_fault};

/// A connection to an HTTP service.
pub struct Client {
    /// What it was asked for as: host, and port where one was given.
    host: String,
    sender: SendRequest<Full<Bytes>>,
    /// Carries what is sent and received; has to be polled meanwhile.
    connection: Fuse<BoxFuture<'static, ()>>,
}

/// An address of one of these schemes, with a host and without user and password.
#[must_use]
pub fn parse(url: &str, schemes: [&str; 2]) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let is_known = uri.scheme_str().is_some_and(|scheme| schemes.contains(&scheme));
    let authority = uri.authority()?;
    (is_known && !authority.host().is_empty() && !authority.as_str().contains('@')).then_some(uri)
}

/// Host and port of an address, without anything that may be a secret.
#[must_use]
pub fn host_and_port(address: &Uri, default_port: u16) -> (&str, u16) {
    // An IPv6 address stands in brackets.
    let host = address.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    (host, address.port_u16().unwrap_or(default_port))
}

/// The port of an address that names none.
#[must_use]
pub fn default_port(address: &Uri) -> u16 {
    if address.scheme_str() == Some("https") { 443 } else { 80 }
}

impl Client {
    /// Connects to a service on this machine, or one that has no name.
    ///
    /// # Errors
    /// Nobody listens there, or what does speaks no HTTP.
    pub async fn reach(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?, address.to_string()).await
    }

    /// Connects to an address of `http` or `https`.
    ///
    /// # Errors
    /// Nobody listens there, what does speaks no HTTP, or its certificate is not to be trusted.
    pub async fn connect(address: &Uri, default_port: u16, tls: &TlsConfig) -> io::Result<Self> {
        let (host, port) = host_and_port(address, default_port);
        let asked_for = address.authority().map(ToString::to_string).unwrap_or_default();
        let stream = TcpStream::connect((host, port)).await?;
        if address.scheme_str() != Some("https") {
            return Self::over(stream, asked_for).await;
        }
        let tls = tls.client().map_err(io::Error::other)?;
        let name = host.to_owned().try_into().map_err(|_| io::Error::other("its name is no host name"))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
        let told = |error: io::Error| handshake_fault(&error).map_or(error, io::Error::other);
        Self::over(stream.map_err(told)?, asked_for).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: String) -> io::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { host, sender, connection: connection.map(drop).boxed().fuse() })
    }

    /// Sends a request with a body, which may be empty; the status and the body of the answer.
    ///
    /// # Errors
    /// The connection ended, or the answer has more than `bytes_max` bytes.
    pub async fn ask(
        &mut self,
        request: Builder,
        body: impl Into<Bytes>,
        bytes_max: usize,
    ) -> io::Result<(StatusCode, Bytes)> {
        let request = request.header(HOST, &self.host).body(Full::new(body.into())).map_err(io::Error::other)?;
        let answer = async {
            let answer = self.sender.send_request(request).await.map_err(io::Error::other)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), bytes_max).collect().await.map_err(io::Error::other)?;
            Ok((status, body.to_bytes()))
        };
        let mut answer = pin!(answer);
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            // It may end with the answer in hand; without one, asking fails.
            () = &mut self.connection => answer.await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_credentials_is_taken() {
        let http = ["http", "https"];
        for url in ["http://rabbit:15672", "https://rabbit.example/under/a/path", "http://127.0.0.1:1"] {
            assert!(parse(url, http).is_some(), "{url}");
        }
        for url in ["rabbit:15672", "amqp://rabbit", "http://user:secret@rabbit", "/api", "http:///api", ""] {
            assert!(parse(url, http).is_none(), "{url}");
        }
        let host_and_port = |url| parse(url, http).map(|uri| format!("{:?}", super::host_and_port(&uri, 80)));
        assert_eq!(host_and_port("http://[::1]:9/x").as_deref(), Some("(\"::1\", 9)"));
        assert_eq!(host_and_port("http://rabbit").as_deref(), Some("(\"rabbit\", 80)"));
    }
}
