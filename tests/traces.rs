//! A span of every batch, from the commit at the source to the commit at the target, as a collector gets them.

use std::path::Path as FilePath;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;

use crate::bad_input::paused;
use crate::kit::collector::{Collector, Span, SpanKind};
use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::process::Service;
use crate::kit::proxy::Proxy;
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, eventually_some};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str =
    "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";
/// In every record, and in no span.
const MARKER: &str = "zqvalue";

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

/// Has a copy kept of what is published from now on.
async fn spy(vhost: &Vhost) {
    let queues = async || vhost.api("GET", &format!("queues/{}", vhost.name), None).contains("crm.dead");
    eventually("declared", true, queues).await;
    vhost.spy("crm", "spy");
}

/// Waits for the spans of so many batches at both ends; them, in pairs.
async fn pairs(collector: &Collector, count: usize) -> Vec<(Span, Span)> {
    eventually("spans", 2 * count, async || collector.spans().len()).await;
    let (sent, applied): (Vec<_>, Vec<_>) =
        collector.spans().into_iter().partition(|span| span.span.kind() == SpanKind::Producer);
    let of = |sent: &Span| applied.iter().find(|span| span.span.parent_span_id == sent.span.span_id).unwrap().clone();
    sent.into_iter().map(|sent| (sent.clone(), of(&sent))).collect()
}

/// One trace of one record, whose change was committed between two times.
fn assert_one_trace((sent, applied): &(Span, Span), message: &str, since: u64, until: u64) {
    assert_eq!((sent.service.as_str(), applied.service.as_str()), ("syncline-producer", "syncline-consumer"));
    let (from, to) = (&sent.span, &applied.span);
    assert_eq!((from.kind(), to.kind()), (SpanKind::Producer, SpanKind::Consumer));
    assert_eq!((from.name.as_str(), to.name.as_str()), ("publish crm", "apply crm"));
    assert!(from.parent_span_id.is_empty() && from.trace_id.len() == 16, "{from:?}");
    assert_eq!((&to.trace_id, &to.parent_span_id), (&from.trace_id, &from.span_id));
    assert!((since..until).contains(&from.start_time_unix_nano), "from the commit: {from:?}");
    assert!(from.end_time_unix_nano > from.start_time_unix_nano, "{from:?}");
    assert!(to.start_time_unix_nano > from.start_time_unix_nano && to.end_time_unix_nano > to.start_time_unix_nano);
    for span in [sent, applied] {
        assert!(!span.is_error(), "{span:?}");
        let of = |name: &str| span.told(&format!("messaging.{name}"));
        assert_eq!([of("system"), of("batch.message_count")], ["rabbitmq", "1"]);
        assert_eq!(of("destination.name"), format!("crm.{}", of("destination.partition.id")));
        assert_eq!(of("message.id"), message);
        assert_eq!(
            ["source", "share", "table", "action"].map(|name| span.told(&format!("syncline.{name}"))),
            ["desk", "items", "item", "insert"]
        );
    }
    assert_eq!([sent, applied].map(|span| span.told("messaging.operation.name")), ["publish", "apply"]);
}

/// Starts both ends again, so that next to nothing is traced. A message carries its context all the same, which says so, and
/// neither end makes a span of it.
async fn assert_unsampled(
    folder: &Folder,
    config: &FilePath,
    vhost: &Vhost,
    collector: &Collector,
    insert: impl AsyncFn(),
) {
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(config, text.replace("[traces]\n", "[traces]\nsample_ratio = 1e-18\n")).unwrap();
    let spans = collector.spans().len();
    let mut producer = Service::start(folder.path(), "producer", config);
    let mut consumer = Service::start(folder.path(), "consumer", config);
    insert().await;
    let applied = async || consumer.metric("syncline_consumer_records_total", "outcome=\"applied\"");
    eventually("applied", 1.0, applied).await;
    let context =
        |message: &serde_json::Value| message["properties"]["headers"]["traceparent"].as_str().unwrap().to_owned();
    let contexts: Vec<_> = vhost.peek("spy", 100).iter().map(context).collect();
    assert_eq!(contexts.iter().filter(|context| context.ends_with("-00")).count(), 1, "{contexts:?}");
    assert!(producer.stop().success() && consumer.stop().success());
    assert_eq!(collector.spans().len(), spans);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_trace_from_commit_to_commit_on_postgres() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let (collector, queue) = (Collector::start_tls(folder.path()), rabbitmq(&vhost.url));
    let target = format!("CREATE TABLE item (id int PRIMARY KEY, note text CHECK (note <> '{MARKER} refused'))");
    let share = format!("{SHARE}\n{}", collector.config());
    let path = Path::create_on(folder, vhost, &queue, ITEM, &target, &share, "").await;
    let check =
        crate::kit::process::syncline(path.folder.path(), &["check", "--config", path.config.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&check.stdout).contains("traces: ok"), "{check:?}");
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    spy(&path.vhost).await;
    let since = now();
    path.source.run(&format!("INSERT INTO item VALUES (1, '{MARKER}')")).await;
    let until = now();
    let one = pairs(&collector, 1).await.remove(0);
    let message = path.vhost.peek("spy", 1).remove(0);
    let id = message["properties"]["message_id"].as_str().unwrap();
    assert_one_trace(&one, id, since, until);
    // A program in another language finds the trace by the clear header.
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let context = format!("00-{}-{}-01", hex(&one.0.span.trace_id), hex(&one.0.span.span_id));
    assert_eq!(message["properties"]["headers"]["traceparent"], context.as_str());

    // What the target refuses is an error of its batch, and its dead letter stays in the trace.
    path.source.run(&format!("INSERT INTO item VALUES (2, '{MARKER} refused')")).await;
    let (sent, applied) = pairs(&collector, 2).await.remove(1);
    assert!(!sent.is_error() && applied.is_error(), "{applied:?}");
    assert_eq!([applied.told("error.type"), applied.told("syncline.dead_letters")], ["permanent", "1"]);
    let letter = path.vhost.peek("crm.dead", 1).remove(0);
    let context = letter["properties"]["headers"]["traceparent"].as_str().unwrap().to_owned();
    assert!(context.contains(&hex(&sent.span.trace_id)), "{context}");

    // What has to wait for a fault to be mended says so.
    path.target.run("ALTER TABLE item RENAME TO gone").await;
    path.source.run(&format!("INSERT INTO item VALUES (3, '{MARKER}')")).await;
    paused(&consumer, "does not exist").await;
    path.target.run("ALTER TABLE gone RENAME TO item").await;
    let (_, applied) = pairs(&collector, 3).await.remove(2);
    assert!(applied.is_error(), "{applied:?}");
    assert_eq!(applied.told("error.type"), "systemic");
    assert!(applied.told("syncline.attempts").parse::<u32>().unwrap() > 1, "{applied:?}");
    assert_eq!(consumer.metric("syncline_traces_spans_total", "sent"), 3.0);
    assert!(producer.stop().success() && consumer.stop().success());
    let insert = async || path.source.run("INSERT INTO item VALUES (4, 'x')").await;
    assert_unsampled(&path.folder, &path.config, &path.vhost, &collector, insert).await;
    assert!(!collector.said().contains(MARKER) && collector.said().contains("items"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_one_trace_from_commit_to_commit_on_sqlite() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let collector = Collector::start_tls(folder.path());
    let (desk, crm) = (folder.file("desk.db"), folder.file("crm.db"));
    let config = format!(
        "{}{}\n[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\n{SHARE}\n[target.crm]\ntype = \"sqlite\"\npath = \"{}\"\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{}",
        rabbitmq(&vhost.url),
        common(&folder),
        desk.display(),
        crm.display(),
        collector.config()
    );
    let config = folder.write("syncline.toml", &config);
    let source = Connection::open(&desk).unwrap();
    source.execute_batch(&format!("PRAGMA journal_mode = WAL; {ITEM}")).unwrap();
    Connection::open(&crm).unwrap().execute_batch(ITEM).unwrap();
    let mut producer = Service::start(folder.path(), "producer", &config);
    let mut consumer = Service::start(folder.path(), "consumer", &config);
    let log = "SELECT count(*) FROM sqlite_master WHERE type = 'trigger'";
    eventually("the change log", true, async || {
        source.query_row(log, [], |row| row.get::<_, i64>(0)).is_ok_and(|count| count > 0)
    })
    .await;
    spy(&vhost).await;
    // Its clock is kept in whole milliseconds.
    let since = now() - 1_000_000;
    source.execute_batch(&format!("INSERT INTO item VALUES (1, '{MARKER}')")).unwrap();
    let until = now();
    let one = pairs(&collector, 1).await.remove(0);
    let message = vhost.peek("spy", 1).remove(0);
    assert_one_trace(&one, message["properties"]["message_id"].as_str().unwrap(), since, until);
    assert!(producer.stop().success() && consumer.stop().success());
    let insert = async || source.execute_batch("INSERT INTO item VALUES (2, 'x')").unwrap();
    assert_unsampled(&folder, &config, &vhost, &collector, insert).await;
    assert!(!collector.said().contains(MARKER));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_the_broker_refuses_at_first_says_so() {
    let collector = Collector::start();
    let path = Path::create(ITEM, ITEM, &format!("{SHARE}\n{}", collector.config()), "").await;
    let mut producer = path.producer();
    path.streaming().await;
    let queues = async || path.vhost.api("GET", &format!("queues/{}", path.vhost.name), None).contains("crm.dead");
    eventually("declared", true, queues).await;
    let policy = r#"{"pattern":"^crm\\.[0-9]","definition":{"max-length":2},"apply-to":"quorum_queues"}"#;
    path.vhost.api("PUT", &format!("policies/{}/limit", path.vhost.name), Some(policy));
    // The limit comes into effect some time after it is set.
    let mut n = 0;
    eventually("refused", true, async || {
        n += 1;
        path.source
            .run(&format!("INSERT INTO item VALUES (1, '{n}') ON CONFLICT (id) DO UPDATE SET note = '{n}'"))
            .await;
        producer.get("/readyz").is_some_and(|(_, body)| body.contains("refused the message"))
    })
    .await;
    path.vhost.api("DELETE", &format!("policies/{}/limit", path.vhost.name), None);
    let again = async || collector.spans().into_iter().find(Span::is_error);
    let again = eventually_some("a span that says so", again).await;
    assert_eq!(again.told("error.type"), "transient", "{again:?}");
    assert!(again.told("syncline.attempts").parse::<u32>().unwrap() > 1, "{again:?}");
    assert!(producer.stop().success());
    let whole = collector.spans().into_iter().filter(|span| span.told("error.type") != "unfinished");
    assert!(whole.count() > 2, "those before it are whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_no_message_carries_a_context() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    spy(&path.vhost).await;
    path.source.run("INSERT INTO item VALUES (1, 'x')").await;
    path.in_step("the record", "SELECT id FROM item", "SELECT id FROM item").await;
    let message = path.vhost.peek("spy", 1).remove(0);
    let headers = message["properties"]["headers"].as_object().unwrap();
    assert!(headers.contains_key("share") && !headers.contains_key("traceparent"), "{headers:?}");
    assert_eq!(producer.metric("syncline_traces_spans_total", ""), 0.0);
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_holds_up_nothing_and_is_told_once() {
    // At first it takes connections and says nothing, then it is gone, then it is there.
    let collector = Collector::start();
    let proxy = Proxy::to(&collector.address().to_string());
    proxy.stall();
    let traces = format!("[traces]\nurl = \"http://{}\"\nservice_name = \"desk\"\n", proxy.address);
    let path = Path::create(ITEM, ITEM, &format!("{SHARE}\n{traces}"), "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'x')").await;
    path.in_step("the record", "SELECT id FROM item", "SELECT id FROM item").await;
    // The end does not wait for it either; what was not sent is counted.
    let begun = Instant::now();
    assert!(consumer.stop().success());
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    assert!(consumer.log().contains("spans were not sent before the end"), "{}", consumer.log());
    proxy.cut();
    let told = |service: &Service| service.log().matches("spans cannot be sent").count();
    path.source.run("INSERT INTO item VALUES (2, 'x')").await;
    eventually("it is told", 1, async || told(&producer)).await;
    assert!(producer.get("/readyz").unwrap().0.contains("200"), "it works");
    // The first was held meanwhile, and so was the second.
    proxy.resume();
    proxy.mend();
    eventually("both", 2, async || collector.spans().len()).await;
    assert!(collector.spans().iter().all(|span| span.service == "desk"));
    eventually("it is over", true, async || producer.log().contains("spans are sent again")).await;
    assert_eq!((told(&producer), producer.metric("syncline_traces_spans_total", "dropped")), (1, 0.0));
    assert!(producer.stop().success());
}
