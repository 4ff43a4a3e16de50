//! The runbooks of `docs/operations.md`, followed step by step while changes flow; those that need a server of their own are
//! in `private_runbooks.rs`. At the end `syncline compare` finds source and target in step.

use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::kit::eventually;
use crate::kit::process::{Service, program, program_before, syncline};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";

/// Changes records of `item` from before the first of some steps until after the last.
pub async fn while_changes_flow(path: &Path, steps: impl Future<Output = ()>) {
    let client = crate::kit::database::connect(&path.source.url).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let changing = async move {
        let mut id = 0;
        while stopped.try_recv().is_err() {
            id += 1;
            let change = format!(
                "INSERT INTO item VALUES ({id}, 'a'); UPDATE item SET note = note || 'b' WHERE id = {id} / 2;
                 DELETE FROM item WHERE id = {id} / 3 AND id % 2 = 0"
            );
            client.batch_execute(&change).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "goes on while a step runs a command or waits for the end of a service"
    )]
    let changing = tokio::spawn(changing);
    steps.await;
    stop.send(()).unwrap();
    changing.await.unwrap();
}

/// Waits until changes made from now on have arrived, some in every partition.
pub async fn more_arrives(path: &Path, when: &str) {
    let newest = "SELECT coalesce(max(id), 0)::bigint FROM item";
    let seen = path.source.count(newest).await;
    eventually(when, true, async || path.target.count(newest).await > seen + 50).await;
}

/// Runs a command with one of the files of the path.
pub fn run(path: &Path, config: &str, args: &[&str]) -> Output {
    syncline(path.folder.path(), &[&["--config", config], args].concat())
}

/// The same, of a command that must succeed; what it printed.
pub fn done(path: &Path, config: &str, args: &[&str]) -> String {
    let output = run(path, config, args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

/// What every runbook ends with.
pub fn in_step(path: &Path, config: &str, shares: &[&str]) {
    for share in shares {
        let told = done(path, config, &["compare", share, "--target", "crm", "--settle", "60"]);
        assert!(told.contains("IN STEP"), "{told}");
    }
    let letters: Value = serde_json::from_str(&done(path, config, &["--json", "dead-letter", "list"])).unwrap();
    assert_eq!(letters.as_array().map(Vec::len), Some(0), "{letters}");
}

/// A file of its own for each service, as on two machines; `edit` changes the text of the path's.
pub fn file(path: &Path, name: &str, edit: impl Fn(&str) -> String) -> PathBuf {
    let text = std::fs::read_to_string(&path.config).unwrap();
    path.folder.write(name, &edit(&text))
}

/// Both services, each with a file of its own.
fn both(path: &Path) -> (Service, Service) {
    file(path, "producer.toml", str::to_owned);
    file(path, "consumer.toml", str::to_owned);
    (start(path, "producer"), start(path, "consumer"))
}

/// One of them, with its file as it stands there.
fn start(path: &Path, command: &str) -> Service {
    let folder = path.folder.path();
    Service::start(folder, command, &folder.join(format!("{command}.toml")))
}

/// Stops a service in good order, for another one to be started in its place.
fn replaced(service: &mut Service, with: impl FnOnce() -> Service) {
    assert!(service.stop().success());
    *service = with();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_added_with_its_rows_while_others_flow() {
    let source = format!(
        "{ITEM}; CREATE TABLE customer (code text PRIMARY KEY, name text); INSERT INTO customer VALUES ('C1', 'Ada'), ('C2', 'Bob')"
    );
    let listed = "[subscription.crm.table.item]\n";
    let path = Path::create(&source, ITEM, SHARE, listed).await;
    let (mut producer, mut consumer) = both(&path);
    while_changes_flow(&path, async {
        more_arrives(&path, "before").await;
        // 1. The target's table.
        path.target.run("CREATE TABLE customer (code text PRIMARY KEY, name text)").await;
        // 2. The subscription, where it lists its tables.
        let subscribed = format!("{listed}[subscription.crm.table.customer]\n");
        file(&path, "consumer.toml", |text| text.replace(listed, &subscribed));
        replaced(&mut consumer, || start(&path, "consumer"));
        // 3. The share, with the rows that are there.
        let share = SHARE.replace("share.items", "share.customers").replace("\"item\"", "\"customer\"");
        file(&path, "producer.toml", |text| format!("{}\n{share}", text.replace(listed, &subscribed)));
        done(&path, "producer.toml", &["check"]);
        replaced(&mut producer, || start(&path, "producer"));
        path.in_step("the rows that were there", "SELECT * FROM customer", "SELECT code, name FROM customer").await;
        path.source
            .run("UPDATE customer SET name = 'Eve' WHERE code = 'C1'; DELETE FROM customer WHERE code = 'C2'")
            .await;
        more_arrives(&path, "after").await;
    })
    .await;
    in_step(&path, "producer.toml", &["items", "customers"]);
    assert_eq!(path.target.rows("SELECT code, name FROM customer").await, ["(C1,Eve)"]);
    assert!(!consumer.log().contains("paused") && !producer.log().contains("paused"));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_is_added_and_filled_while_records_flow_without_a_pause() {
    let (columns, mapped) = ("columns = [\"note\"]\n", "columns = { note = \"note\" }\n");
    let subscription = format!("[subscription.crm.table.item]\n{mapped}");
    let path = Path::create(ITEM, ITEM, &format!("{SHARE}{columns}"), &subscription).await;
    path.source.run("INSERT INTO item SELECT -n, 'nobody touches it' FROM generate_series(1, 500) n").await;
    let (mut producer, mut consumer) = both(&path);
    while_changes_flow(&path, async {
        more_arrives(&path, "before").await;
        let mapped_now = "columns = { note = \"note\", owner = \"owner\" }\n";
        // 1. The target's column, 2. the subscription.
        path.target.run("ALTER TABLE item ADD COLUMN owner text").await;
        file(&path, "consumer.toml", |text| text.replace(mapped, mapped_now));
        replaced(&mut consumer, || start(&path, "consumer"));
        // 3. The source's column, 4. the share.
        path.source.run("ALTER TABLE item ADD COLUMN owner text DEFAULT 'it'").await;
        file(&path, "producer.toml", |text| {
            text.replace(mapped, mapped_now).replace(columns, "columns = [\"note\", \"owner\"]\n")
        });
        done(&path, "producer.toml", &["check"]);
        replaced(&mut producer, || start(&path, "producer"));
        more_arrives(&path, "with the column").await;
        // 5. Records that nobody touches.
        done(&path, "producer.toml", &["bulk-share", "items", "--wait"]);
    })
    .await;
    in_step(&path, "producer.toml", &["items"]);
    assert_eq!(path.target.count("SELECT count(*) FROM item WHERE owner IS NULL").await, 0);
    assert!(!consumer.log().contains("paused") && !producer.log().contains("paused"));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_queue_is_drained_into_one_of_more_partitions() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    while_changes_flow(&path, async {
        more_arrives(&path, "before").await;
        // 1. Nothing more comes into the old queue. 2. It is empty, and without dead letters.
        assert!(producer.stop().success());
        eventually("drained", true, async || {
            let status: Value =
                serde_json::from_str(&done(&path, "syncline.toml", &["--json", "queue", "status"])).unwrap();
            let empty = |one: &Value| one["ready"] == 0 && one["unacked"].as_u64().unwrap_or(0) == 0;
            status[0]["partitions"].as_array().unwrap().iter().all(empty) && status[0]["dead_letters"] == 0
        })
        .await;
        assert!(consumer.stop().success());
        // 3. Another queue, in shares and subscription. 4. Both again.
        file(&path, "syncline.toml", |text| {
            let text = text.replace("queue = \"crm\"", "queue = \"crm-16\"");
            text.replace("[shared_queue.crm]\npartitions = 8", "[shared_queue.\"crm-16\"]\npartitions = 16")
        });
        consumer = path.consumer();
        producer = path.producer();
        more_arrives(&path, "through the new queue").await;
        // 5. The old one goes.
        for queue in (0..8).map(|partition| format!("crm.{partition}")).chain(["crm.dead".to_owned()]) {
            let gone = path.vhost.api("DELETE", &format!("queues/{}/{queue}", path.vhost.name), None);
            assert_eq!(gone, "", "{queue}");
        }
        path.vhost.api("DELETE", &format!("exchanges/{}/syncline.crm", path.vhost.name), None);
        more_arrives(&path, "without the old queue").await;
    })
    .await;
    in_step(&path, "syncline.toml", &["items"]);
    let status: Value = serde_json::from_str(&done(&path, "syncline.toml", &["--json", "queue", "status"])).unwrap();
    assert_eq!(status[0]["partitions"].as_array().map(Vec::len), Some(16));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_lost_with_its_disks_is_made_up_for_by_a_repair() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    while_changes_flow(&path, async { more_arrives(&path, "before").await }).await;
    path.in_step("before", "SELECT id, note FROM item", "SELECT id, note FROM item").await;
    assert!(consumer.stop().success());
    // Confirmed and not applied: in the broker alone.
    path.source.run("UPDATE item SET note = 'lost' WHERE id % 5 = 0; DELETE FROM item WHERE id % 7 = 0; INSERT INTO item VALUES (-1, 'lost')").await;
    eventually("all of it is in the broker", true, async || {
        producer.metric("syncline_producer_confirmed_total", "action=\"insert\"") > 0.0
            && producer.metric("syncline_producer_no_progress_since_timestamp_seconds", "\"source desk\"") == 0.0
            && (0..8).map(|partition| path.vhost.ready(&format!("crm.{partition}"))).sum::<u64>() > 8
    })
    .await;
    assert!(producer.stop().success());
    path.vhost.api("DELETE", &format!("vhosts/{}", path.vhost.name), None);

    // 1. A broker, with its virtual host and users. 2. The services make the queues. 3. What is missing is sent again.
    path.vhost.api("PUT", &format!("vhosts/{}", path.vhost.name), Some("{}"));
    (producer, consumer) = (path.producer(), path.consumer());
    let repair =
        run(&path, "syncline.toml", &["--json", "compare", "items", "--target", "crm", "--settle", "1", "--repair"]);
    let told: Value = serde_json::from_slice(&repair.stdout).unwrap();
    assert_eq!((repair.status.code(), &told["same"]), (Some(1), &Value::from(false)), "{told}");
    for what in ["missing", "different", "extra"] {
        assert!(told["tables"][0][what].as_u64() > Some(0), "nothing {what}: {told}");
    }
    path.in_step("repaired", "SELECT id, note FROM item", "SELECT id, note FROM item").await;
    in_step(&path, "syncline.toml", &["items"]);
    assert!(producer.stop().success() && consumer.stop().success());
}

/// Replaces consumers by those of another program, one by one.
async fn consumers_replaced(path: &Path, consumers: &mut [Service], with: &std::path::Path) {
    for consumer in consumers {
        let next = Service::start_program(with, path.folder.path(), "consumer", &path.config);
        let ready = async || next.get("/readyz").is_some_and(|(status, _)| status.contains("200"));
        eventually("the next one works", true, ready).await;
        assert!(consumer.stop().success());
        *consumer = next;
        more_arrives(path, "old and new consumers side by side").await;
    }
}

/// Replaces the producer by one of another program that stands by.
async fn producer_replaced(path: &Path, producer: &mut Service, with: &std::path::Path) {
    let next = Service::start_program(with, path.folder.path(), "producer", &path.config);
    let stands_by = async || next.get("/readyz").is_some_and(|(_, body)| body.contains("another producer reads"));
    eventually("the next one stands by", true, stands_by).await;
    assert!(producer.stop().success());
    *producer = next;
    more_arrives(path, "by the next producer").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_upgraded_and_taken_back_one_by_one_while_records_flow() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    // What only the new one knows is left out until all are new.
    file(&path, "syncline.toml", |text| text.replace("created = \"2024-02-29\"\n", ""));
    let (old, new) = (program_before(), program());
    let start = |command: &str| Service::start_program(&old, path.folder.path(), command, &path.config);
    let (mut producer, mut consumers) = (start("producer"), [start("consumer"), start("consumer")]);
    while_changes_flow(&path, async {
        more_arrives(&path, "before").await;
        consumers_replaced(&path, &mut consumers, &new).await;
        producer_replaced(&path, &mut producer, &new).await;
        // And back, the other way round.
        producer_replaced(&path, &mut producer, &old).await;
        consumers_replaced(&path, &mut consumers, &old).await;
    })
    .await;
    in_step(&path, "syncline.toml", &["items"]);
    assert!(!consumers.iter().any(|consumer| consumer.log().contains("paused")));
    assert!(producer.stop().success() && consumers.iter_mut().all(|consumer| consumer.stop().success()));
}

#[test]
fn every_runbook_names_tests_that_are_there() {
    let tests: String = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
        .unwrap()
        .filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok())
        .collect();
    let (_, book) = include_str!("../docs/operations.md").split_once("\n## Runbooks\n").unwrap();
    let (table, steps) = book.split_once("\n### ").unwrap();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| [")).collect();
    assert_eq!(rows.len(), steps.matches("\n### ").count() + 2, "one row for each, and one for lost slots");
    for row in rows {
        let named = row.split('`').skip(1).step_by(2).filter(|name| !name.contains('/'));
        let missing: Vec<_> = named.clone().filter(|name| !tests.contains(&format!("fn {name}("))).collect();
        assert!(named.count() > 0 && missing.is_empty(), "{row}: {missing:?}");
    }
}
