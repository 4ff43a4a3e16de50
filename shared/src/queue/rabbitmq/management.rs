//! What RabbitMQ tells only through its management interface: who receives a partition, and how much it holds.
//!
//! Asked for by `queue status` alone; the pipeline never depends on it. Its counts are up to five seconds old. Fails with
//! one line that says what to do.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection::Server;

/// An interface that does not answer within this time is left.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// An answer about one queue has some hundred bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What is known of one queue; all absent during its first seconds. Its list of consumers is not asked for: who lost the
/// partition to a higher priority stays active there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    /// Messages handed out and not settled.
    #[serde(rename = "messages_unacknowledged")]
    pub(super) unacked: Option<u64>,
    consumers: u32,
    /// The replica that receives, by its consumer tag.
    #[serde(rename = "single_active_consumer_tag")]
    pub(super) owner: Option<String>,
}

impl Seen {
    /// How many replicas stand by.
    pub(super) fn standby(&self) -> u32 {
        self.consumers.saturating_sub(self.owner.is_some().into())
    }
}

/// Whether this is an address of a management interface.
pub(super) fn parse(url: &str) -> Option<Uri> {
    let uri: Uri = url.parse().ok()?;
    let named = matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
    (named && !uri.authority()?.as_str().contains('@')).then_some(uri)
}

/// Looks at queues, in their order; a queue the interface does not know yet is as [`Seen::default`].
pub(super) async fn look(server: &Server, url: &Uri, queues: &[String]) -> Result<Vec<Seen>, String> {
    let (Some(host), is_tls) = (url.host(), url.scheme_str() == Some("https")) else {
        return Err("management_url names no host".to_owned());
    };
    let port = url.port_u16().unwrap_or(if is_tls { 15671 } else { 15672 });
    let failed = |cause: &dyn std::fmt::Display| format!("the management interface at {host}:{port} failed: {cause}");
    let work = async {
        let stream = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
        if !is_tls {
            return ask_all(server, url, stream, queues).await.map_err(|cause| failed(&cause));
        }
        let tls = server.config.tls.client().map_err(|error| failed(&error))?;
        let name = host.to_owned().try_into().map_err(|_| failed(&"its name is no host name"))?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.map_err(|error| failed(&error))?;
        ask_all(server, url, stream, queues).await.map_err(|cause| failed(&cause))
    };
    timeout(ANSWER_TIMEOUT, work).await.unwrap_or_else(|_| Err(failed(&"it does not answer")))
}

async fn ask_all(
    server: &Server,
    url: &Uri,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    queues: &[String],
) -> Result<Vec<Seen>, String> {
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let (user, vhost, password) = server.login().map_err(|error| error.to_string())?;
    let login = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let ask = async {
        let mut seen = Vec::new();
        for queue in queues {
            let path = format!("/api/queues/{}/{}", escape(vhost), escape(queue));
            seen.push(ask(&mut sender, url, &path, &login).await?);
        }
        Ok(seen)
    };
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        seen = ask => seen,
        _ = &mut connection => Err("it closed the connection".to_owned()),
    }
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>, url: &Uri, path: &str, login: &str) -> Result<Seen, String> {
    let host = url.authority().map_or("", |authority| authority.as_str());
    let prefix = url.path().trim_end_matches('/');
    let request =
        Request::get(format!("{prefix}{path}?columns=messages_unacknowledged,consumers,single_active_consumer_tag"))
            .header(HOST, host)
            .header(AUTHORIZATION, login)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(Seen::default()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            return Err("it refuses the user of [queue], who needs the tag monitoring".to_owned());
        }
        status => return Err(format!("it answers {status}")),
    }
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| "its answer is not as expected".to_owned())
}

/// Percent-encodes one part of a path.
fn escape(part: &str) -> String {
    let escaped = part.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_credentials_is_taken() {
        for url in ["http://rabbit:15672", "https://rabbit.example/under/a/path", "http://127.0.0.1:1"] {
            assert!(parse(url).is_some(), "{url}");
        }
        for url in ["rabbit:15672", "amqp://rabbit", "http://user:secret@rabbit", "/api", ""] {
            assert!(parse(url).is_none(), "{url}");
        }
    }

    #[test]
    fn names_of_virtual_hosts_are_escaped() {
        assert_eq!((escape("/").as_str(), escape("a b").as_str(), escape("crm.0").as_str()), ("%2F", "a%20b", "crm.0"));
    }
}
