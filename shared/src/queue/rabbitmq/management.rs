//! What RabbitMQ tells only through its management interface: who receives a partition, and how much it holds.
//!
//! Asked for by `queue status` alone; the pipeline never depends on it. Its counts are up to five seconds old. Fails with
//! one line that says what to do.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use hyper::body::Bytes;
use hyper::header::AUTHORIZATION;
use hyper::{Request, StatusCode, Uri};
use serde::Deserialize;
use tokio::time::timeout;

use super::connection::Server;
use crate::http::client::{self, Client, host_and_port};

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

/// The address of a management interface.
pub(super) fn parse(url: &str) -> Option<Uri> {
    client::parse(url, ["http", "https"])
}

/// Looks at queues, in their order; a queue the interface does not know yet is as [`Seen::default`].
pub(super) async fn look(server: &Server, url: &Uri, queues: &[String]) -> Result<Vec<Seen>, String> {
    let default_port = if url.scheme_str() == Some("https") { 15671 } else { 15672 };
    let (host, port) = host_and_port(url, default_port);
    let looked = async {
        let connecting = Client::connect(url, default_port, &server.config.tls);
        let mut client = connecting.await.map_err(|error| error.to_string())?;
        let (user, vhost, password) = server.login().map_err(|error| error.to_string())?;
        let login = format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
        let mut seen = Vec::new();
        for queue in queues {
            let path = format!("{}/api/queues/{}/{}", url.path().trim_end_matches('/'), escape(vhost), escape(queue));
            seen.push(ask(&mut client, &path, &login).await?);
        }
        Ok(seen)
    };
    let looked = timeout(ANSWER_TIMEOUT, looked).await.unwrap_or_else(|_| Err("it does not answer".to_owned()));
    looked.map_err(|cause| format!("the management interface at {host}:{port} failed: {cause}"))
}

async fn ask(client: &mut Client, path: &str, login: &str) -> Result<Seen, String> {
    let columns = "columns=messages_unacknowledged,consumers,single_active_consumer_tag";
    let request = Request::get(format!("{path}?{columns}")).header(AUTHORIZATION, login);
    let (status, body) =
        client.ask(request, Bytes::new(), ANSWER_BYTES_MAX).await.map_err(|error| error.to_string())?;
    match status {
        StatusCode::OK => serde_json::from_slice(&body).map_err(|_| "its answer is not as expected".to_owned()),
        StatusCode::NOT_FOUND => Ok(Seen::default()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err("it refuses the user of [queue], who needs the tag monitoring".to_owned())
        }
        status => Err(format!("it answers {status}")),
    }
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
    fn names_of_virtual_hosts_are_escaped() {
        assert_eq!((escape("/").as_str(), escape("a b").as_str(), escape("crm.0").as_str()), ("%2F", "a%20b", "crm.0"));
    }
}
