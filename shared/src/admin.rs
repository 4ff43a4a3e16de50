//! Asks the admin endpoint of a running service, for a command that shows what it tells.
//!
//! Knows nothing of what is on its pages. Fails with the connection's error; a service that is not there is no fault of the
//! asker, who says so and goes on.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use hyper::Request;
use hyper::body::Bytes;
use tokio::time::timeout;

use crate::http::client::Client;

/// The service answers from memory; one that needs longer is stuck, or is no service of ours.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Some kilobytes for each share.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Where a service that listens at an address can be asked on the same machine.
#[must_use]
pub fn reach(listening: SocketAddr) -> SocketAddr {
    let ip = match listening.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, listening.port())
}

/// Reads a page: its status and its text.
///
/// # Errors
/// Nobody listens there, or what answers speaks no HTTP or too slowly.
pub async fn read(address: SocketAddr, path: &str) -> Result<(u16, String), io::Error> {
    timeout(ANSWER_TIMEOUT, ask(address, path)).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

async fn ask(address: SocketAddr, path: &str) -> Result<(u16, String), io::Error> {
    let mut client = Client::reach(address).await?;
    let (status, body) = client.ask(Request::get(path), Bytes::new(), ANSWER_BYTES_MAX).await?;
    Ok((status.as_u16(), String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::health::Health;
    use crate::http;
    use crate::journal::Journals;
    use crate::tasks::TaskGroup;

    #[tokio::test]
    async fn a_page_is_read_and_nobody_is_an_error() {
        let tasks = TaskGroup::default();
        let registry = Registry::new();
        let health = Health::new(&registry, "test").unwrap();
        let listener = http::listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = http::serve(listener, registry, health, Journals::default(), tasks.stop());
        let asking = async {
            assert_eq!(read(address, "/readyz").await.unwrap(), (200, "ready\n".to_owned()));
            assert_eq!(read(address, "/healthz").await.unwrap(), (200, "alive\n".to_owned()));
            assert_eq!(read(address, "/trace/00000000000000ff").await.unwrap(), (200, "[]\n".to_owned()));
            assert_eq!(read(address, "/trace/INC0000060").await.unwrap().0, 400);
        };
        tokio::select! {
            _ = serving => panic!("it serves on"),
            () = asking => {}
        }
        assert!(read(address, "/readyz").await.is_err());
    }

    #[test]
    fn a_service_that_listens_everywhere_is_reached_on_loopback() {
        for (listening, reached) in
            [("0.0.0.0:9187", "127.0.0.1:9187"), ("[::]:1", "[::1]:1"), ("10.0.0.7:9187", "10.0.0.7:9187")]
        {
            assert_eq!(reach(listening.parse().unwrap()), reached.parse().unwrap());
        }
    }
}
