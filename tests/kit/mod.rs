//! What the tests share: services, scratch databases, configurations, and the binary as a process.

pub mod certificates;
pub mod collector;
pub mod config;
pub mod database;
pub mod listener;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod rabbit;
pub mod role;
pub mod server;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Long enough for a loaded machine, on which slots wait for the transactions of other tests; a test that waits this long
/// has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// An address of a real service, as `tests/run` exports it.
pub fn service(name: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "how tests/run hands services over")]
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: run the tests with `tests/run`, which starts the services"))
}

/// A name no other test has.
pub fn unique(prefix: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().subsec_nanos();
    format!("{prefix}_{}_{nanos}_{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// A port that nobody listens on for now.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Polls until a value is the expected one; panics with the end of what it last saw when it never is.
pub async fn eventually<T: std::fmt::Debug + PartialEq>(what: &str, expected: T, mut see: impl AsyncFnMut() -> T) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let seen = see().await;
        if seen == expected {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: expected {}, saw {}", brief(&expected), brief(&seen));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Enough of a value to see what is wrong with it.
fn brief(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    let cut = text.char_indices().nth(400).map_or(text.len(), |(at, _)| at);
    format!("{}{}", &text[..cut], if cut < text.len() { " ..." } else { "" })
}

/// Polls until a value is there.
pub async fn eventually_some<T>(what: &str, mut see: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = see().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: never");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
