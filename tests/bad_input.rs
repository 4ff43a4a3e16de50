//! What bad input and broken surroundings get: a clear word, and nothing lost.

use crate::kit::process::{Service, syncline};
use crate::kit::proxy::Proxy;
use crate::kit::{eventually, eventually_some};
use crate::postgres::Path;

pub const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
pub const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";
/// Without the rows already there, so that each row comes once.
pub fn stream_only() -> String {
    SHARE.replace("initial = \"copy\"\n", "")
}
pub const ALL: &str = "SELECT id, note FROM item";
const MARKER: &str = "4711-secret-value";

/// Waits until a service is not ready and says why, there and in its log.
pub async fn paused(service: &Service, why: &str) {
    let reason = async || {
        let (status, body) = service.get("/readyz")?;
        (status.contains("503") && body.contains(why)).then_some(())
    };
    eventually_some(why, reason).await;
    eventually(&format!("the log says {why}"), true, async || service.log().contains(why)).await;
}

pub async fn ready(service: &Service) {
    eventually("ready", true, async || service.get("/readyz").is_some_and(|(status, _)| status.contains("200"))).await;
}

fn host(url: &str) -> String {
    let rest = url.split("://").nth(1).unwrap();
    rest.split('/').next().unwrap().rsplit('@').next().unwrap().to_owned()
}

/// Puts a proxy between the services and one server of the configuration.
fn through_proxy(path: &Path, url: &str) -> Proxy {
    let proxy = Proxy::to(&host(url));
    let text = std::fs::read_to_string(&path.config).unwrap();
    let url_there = url.replace(&host(url), &proxy.address.to_string());
    std::fs::write(&path.config, text.replace(url, &url_there)).unwrap();
    proxy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_at_the_start_and_later_is_waited_for() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let proxy = through_proxy(&path, &path.vhost.url);
    proxy.cut();
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    paused(&producer, "out of reach").await;
    paused(&consumer, "out of reach").await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 300) n").await;
    proxy.mend();
    path.in_step("after the start", ALL, ALL).await;
    for round in 0..3 {
        path.source.run(&format!("UPDATE item SET note = 'round {round}'")).await;
        proxy.cut();
        path.source.run("UPDATE item SET note = note || '!'").await;
        proxy.mend();
    }
    path.in_step("after the cuts", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_and_a_target_that_are_away_are_waited_for() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (source, target) = (through_proxy(&path, &path.source.url), through_proxy(&path, &path.target.url));
    let (producer, consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 100) n").await;
    path.in_step("before", ALL, ALL).await;
    target.cut();
    path.source.run("UPDATE item SET note = 'b'").await;
    paused(&consumer, "out of reach").await;
    target.mend();
    path.in_step("after the target came back", ALL, ALL).await;
    source.cut();
    path.source.run("UPDATE item SET note = 'c'; DELETE FROM item WHERE id = 1").await;
    paused(&producer, "out of reach").await;
    source.mend();
    path.in_step("after the source came back", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_target_table_pauses_and_drains_nothing() {
    let path = Path::create(ITEM, "", SHARE, "").await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 100) n").await;
    let (_producer, consumer) = (path.producer(), path.consumer());
    paused(&consumer, "item").await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    path.target.run(ITEM).await;
    path.in_step("after it was created", ALL, ALL).await;
    ready(&consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_a_key_is_refused_by_name_with_the_statement_that_mends_it() {
    let path = Path::create("CREATE TABLE item (id int, note text)", ITEM, SHARE, "").await;
    let producer = path.producer();
    let _consumer = path.consumer();
    paused(&producer, "ALTER TABLE").await;
    path.source.run("ALTER TABLE item ADD PRIMARY KEY (id); INSERT INTO item VALUES (1, 'a')").await;
    path.in_step("after it was mended", ALL, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_the_consumer_does_not_know_pauses_it_until_the_key_is_there() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let whole = std::fs::read_to_string(&path.config).unwrap();
    let consumer_config = path.folder.write("consumer.toml", &whole.replace("[key.\"aes\"]", "[key.\"another\"]"));
    // The consumer's file need not hold what only the producer reads.
    let consumer = Service::start(path.folder.path(), "consumer", &consumer_config);
    let _producer = path.producer();
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 100) n").await;
    paused(&consumer, "is not in the keyring").await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    std::fs::write(&consumer_config, whole).unwrap();
    path.in_step("after the key was added", ALL, ALL).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_broken_are_set_aside_and_the_rest_flows() {
    let path = Path::create(ITEM, ITEM, &stream_only(), "").await;
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'a')").await;
    path.in_step("the first", ALL, ALL).await;
    assert!(consumer.stop().success());
    // One genuine message to break in several ways, by a queue that gets a copy; it is itself in the partition.
    path.vhost.spy("crm", "spy");
    path.source.run(&format!("UPDATE item SET note = '{MARKER}'")).await;
    let genuine = eventually_some("a message", async || path.vhost.peek("spy", 1).into_iter().next()).await;
    let queue = format!("crm.{}", genuine["properties"]["headers"]["partition"]);
    let (properties, body) = (&genuine["properties"], genuine["payload"].as_str().unwrap());
    path.vhost.publish(&queue, properties, &format!("{}AAAA", &body[..body.len() - 4]));
    path.vhost.publish(&queue, properties, "AAAA");
    let mut unknown = properties.clone();
    unknown["headers"]["v"] = 99.into();
    path.vhost.publish(&queue, &unknown, body);
    path.vhost.publish(&queue, &serde_json::json!({}), body);
    let mut consumer = path.consumer();
    // The second in a row that does not open may mean another secret, until one behind it opens.
    paused(&consumer, "no message sealed with key").await;
    path.source.run("UPDATE item SET note = 'after'").await;
    eventually("set aside", 4, async || path.vhost.ready("crm.dead")).await;
    path.in_step("the genuine one", ALL, ALL).await;
    assert!(consumer.stop().success());
    assert!(!consumer.log().contains(MARKER));

    let config = path.config.to_str().unwrap();
    let list = syncline(path.folder.path(), &["--config", config, "--json", "dead-letter", "list"]);
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    let mut reasons: Vec<_> =
        list.as_array().unwrap().iter().map(|letter| letter["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["envelope", "envelope", "seal", "seal"]);
    let discard = syncline(path.folder.path(), &["--config", config, "dead-letter", "discard", "--all", "--yes"]);
    assert!(discard.status.success(), "{}", String::from_utf8_lossy(&discard.stderr));
    eventually("discarded", 0, async || path.vhost.ready("crm.dead")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_the_target_refuses_is_set_aside_alone_shown_and_replayed() {
    let strict = "CREATE TABLE item (id int PRIMARY KEY, note varchar(20))";
    let path = Path::create(ITEM, strict, &stream_only(), "").await;
    let (producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run(&format!("INSERT INTO item SELECT n, CASE n WHEN 50 THEN 'far too long: {MARKER}' ELSE 'a' END FROM generate_series(1, 100) n")).await;
    eventually("the others", 99, async || path.target.count("SELECT count(*) FROM item").await).await;
    eventually("one set aside", 1, async || path.vhost.ready("crm.dead")).await;
    let config = path.config.to_str().unwrap();
    let run = |args: &[&str]| syncline(path.folder.path(), &[&["--config", config], args].concat());
    let list = String::from_utf8(run(&["--json", "dead-letter", "list"]).stdout).unwrap();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!((list[0]["reason"].as_str(), list[0]["records"].as_i64()), (Some("target"), Some(1)), "{list}");
    assert!(!list.to_string().contains(MARKER), "{list}");
    let id = list[0]["id"].as_str().unwrap().to_owned();
    let shown = run(&["dead-letter", "show", "--open", &id]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(MARKER), "{}", String::from_utf8_lossy(&shown.stderr));
    path.target.run("ALTER TABLE item ALTER note TYPE text").await;
    let replayed = run(&["dead-letter", "replay", &id]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    path.in_step("after the replay", ALL, ALL).await;
    eventually("none left", 0, async || path.vhost.ready("crm.dead")).await;
    assert!(consumer.stop().success());
    for log in [producer.log(), consumer.log()] {
        assert!(!log.contains(MARKER), "a record value is in a log:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_to_send_is_set_aside_and_the_position_moves_on() {
    let path = Path::create(ITEM, ITEM, &stream_only(), "").await;
    let text = std::fs::read_to_string(&path.config).unwrap();
    std::fs::write(&path.config, format!("{text}\n[producer.publish]\nrecord_bytes_max = 4096\n")).unwrap();
    let (mut producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source
        .run(&format!("INSERT INTO item VALUES (1, 'small'), (2, '{MARKER}' || repeat('x', 10000)), (3, 'small')"))
        .await;
    eventually("the others", 2, async || path.target.count("SELECT count(*) FROM item").await).await;
    eventually("one set aside", 1, async || path.vhost.ready("crm.dead")).await;
    let log = producer.log();
    assert!(log.contains("table item") && log.contains("key id") && !log.contains(MARKER), "{log}");
    assert!(producer.stop().success());
    // What is behind is not read again.
    let producer = path.producer();
    path.source.run("INSERT INTO item VALUES (4, 'after')").await;
    eventually("after", 3, async || path.target.count("SELECT count(*) FROM item").await).await;
    assert_eq!(producer.metric("syncline_producer_dead_letters_total", "share=\"items\""), 0.0);
}
