//! What is bounded: the memory of both services, and what a stop in full flow repeats.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::kit::eventually;
use crate::kit::process::Service;
use crate::postgres::Path;

const INCIDENT: &str = "CREATE TABLE incident (number int PRIMARY KEY, priority int, short_description text)";

const SHARE: &str = "[share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";

/// What `docs/operations.md` says each service stays below.
const RESIDENT_KIB_MAX: u64 = 64 * 1024;

/// The most a process has ever had in memory, in KiB.
fn peak_resident_kib(service: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// The transaction is larger than all that both services may hold: whichever keeps it, or runs ahead of the other, shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_memory_passes_in_a_fixed_memory() {
    let path = Path::create(INCIDENT, INCIDENT, SHARE, "").await;
    let mut producer = path.producer();
    path.streaming().await;
    // 80,000 rows of about 1.6 KB, of which a third is as good as random.
    path.source
        .run(
            "INSERT INTO incident SELECT n, n % 5, repeat(md5(n::text), 16) || repeat(' cannot log in to the portal', 40)
             FROM generate_series(1, 80000) n",
        )
        .await;
    eventually("everything is at the broker", 80_000.0, async || {
        producer.metric("syncline_producer_confirmed_total", "")
    })
    .await;
    let mut consumer = path.consumer();
    let all = "SELECT count(*), sum(priority), sum(length(short_description)) FROM incident";
    path.in_step("everything is in the target", all, all).await;
    let peaks = [&producer, &consumer].map(peak_resident_kib);
    assert!(peaks.iter().all(|peak| *peak < RESIDENT_KIB_MAX), "producer and consumer held {peaks:?} KiB");
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_in_full_flow_repeats_nothing_and_sets_nothing_aside() {
    let path = Path::create(INCIDENT, INCIDENT, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.vhost.spy("crm", "spy");
    path.source.run("INSERT INTO incident SELECT n, 0, md5(n::text) FROM generate_series(1, 500) n").await;

    let writes = Arc::new(AtomicBool::new(true));
    let writer = {
        let (writes, url) = (writes.clone(), path.source.url.clone());
        #[expect(clippy::disallowed_methods, reason = "awaited at the end of the test")]
        tokio::spawn(async move {
            let client = crate::kit::database::connect(&url).await;
            let mut changes = 500_u64;
            while writes.load(Ordering::Relaxed) {
                changes += client
                    .execute("UPDATE incident SET priority = priority + 1 WHERE number % 5 = 0", &[])
                    .await
                    .unwrap();
            }
            changes
        })
    };
    let applied = "syncline_consumer_records_total";
    let flowing = async |consumer: &Service| {
        let start = consumer.metric(applied, "outcome=\"applied\"");
        eventually("it flows", true, async || consumer.metric(applied, "outcome=\"applied\"") > start + 2000.0).await;
    };
    let mut repeated = 0.0;
    for _ in 0..3 {
        flowing(&consumer).await;
        assert!(producer.stop().success());
        producer = path.producer();
        flowing(&consumer).await;
        repeated += consumer.metric(applied, "outcome=\"duplicate\"") + consumer.metric(applied, "outcome=\"stale\"");
        assert!(consumer.stop().success());
        consumer = path.consumer();
    }
    flowing(&consumer).await;
    writes.store(false, Ordering::Relaxed);
    let changes = writer.await.unwrap();
    path.in_step("everything", "SELECT * FROM incident", "SELECT number, priority, short_description FROM incident")
        .await;
    repeated += consumer.metric(applied, "outcome=\"duplicate\"") + consumer.metric(applied, "outcome=\"stale\"");
    assert_eq!((repeated, path.vhost.ready("crm.dead")), (0.0, 0));
    assert!(producer.stop().success() && consumer.stop().success());
    assert_eq!(path.vhost.drain_records("spy"), changes, "each change was published once");
}
