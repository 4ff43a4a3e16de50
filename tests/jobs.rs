//! Jobs that work at their times, wait where the far side is at a limit, and tell what they do.

use std::path::Path as FilePath;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use serde_json::Value;

use crate::kit::config::{Folder, common, embedded};
use crate::kit::process::{Service, syncline};
use crate::kit::{eventually, eventually_some, free_port};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\n\
    interactive_only = false\ninitial = \"copy\"\n";
const ALL: &str = "SELECT id, note FROM item";

/// An interval whose next time comes long after the end of this test.
fn far_off() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let is_far = |hours: &u64| hours * 3600 - now % (hours * 3600) > 1800;
    format!("{}h", (2..24).find(is_far).unwrap())
}

fn edit(config: &FilePath, from: &str, to: &str) {
    let text = std::fs::read_to_string(config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(config, text.replace(from, to)).unwrap();
}

/// Gives both services addresses that are known before they start.
fn listening(config: &FilePath) {
    let text = std::fs::read_to_string(config).unwrap();
    let at = || format!("127.0.0.1:{}", free_port());
    std::fs::write(config, text.replacen("127.0.0.1:0", &at(), 1).replacen("127.0.0.1:0", &at(), 1)).unwrap();
}

/// What `job list` tells: the exit code, and the jobs.
fn jobs(folder: &Folder) -> (i32, Vec<Value>) {
    let output = syncline(folder.path(), &["job", "list", "--json"]);
    let list = serde_json::from_slice::<Value>(&output.stdout).ok().and_then(|list| list.as_array().cloned());
    (output.status.code().unwrap(), list.unwrap_or_default())
}

/// The job whose name begins so.
fn job(folder: &Folder, name: &str) -> Option<Value> {
    jobs(folder).1.into_iter().find(|job| job["job"].as_str().unwrap().starts_with(name))
}

/// Waits until a job is in a state for a reason.
async fn is(folder: &Folder, name: &str, state: &str, why: &str) -> Value {
    let found = async || job(folder, name).filter(|job| job["state"] == state && job.to_string().contains(why));
    eventually_some(&format!("{name} {state} {why}"), found).await
}

/// Both ends have done what there was, and say so.
async fn both_rest(folder: &Folder, producer: &Service, consumer: &Service, partitions: f64) {
    eventually("the source rests", 1.0, async || producer.metric("syncline_producer_resting", "\"source desk\"")).await;
    eventually("the partitions rest", partitions, async || consumer.metric("syncline_consumer_resting", "")).await;
    let (code, list) = jobs(folder);
    let resting = |job: &&Value| job["state"] == "rests" && job["until"].is_string();
    assert_eq!((code, list.iter().filter(resting).count()), (0, 2), "{list:?}");
    assert!(list.iter().any(|job| job["job"] == "queue of source desk" && job["state"] == "works"), "{list:?}");
    assert!(producer.get("/readyz").unwrap().0.contains("200") && consumer.get("/readyz").unwrap().0.contains("200"));
    let table = String::from_utf8(syncline(folder.path(), &["job", "list"]).stdout).unwrap();
    assert!(table.contains("source desk") && table.contains("rests") && table.contains("NEXT"), "{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_postgresql_rest_between_their_times_and_nothing_is_lost_or_repeated() {
    let interval = format!("interval = \"{}\"\n", far_off());
    let path = Path::create(ITEM, ITEM, SHARE, &interval).await;
    edit(&path.config, "[source.desk]\n", &format!("[source.desk]\n{interval}"));
    listening(&path.config);
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) n").await;
    let mut producer = path.producer();
    let confirmed = async || producer.metric("syncline_producer_confirmed_total", "");
    eventually("the copy is at the broker", 20.0, confirmed).await;
    let mut consumer = path.consumer();
    path.in_step("the copy", ALL, ALL).await;
    both_rest(&path.folder, &producer, &consumer, 8.0).await;
    path.streaming().await;

    // What comes now waits at the source, which tells how much of its log is kept for it.
    let retained = || producer.metric("syncline_producer_retained_wal_bytes", "");
    let before = retained();
    path.source
        .run(
            "INSERT INTO item SELECT n, (SELECT string_agg(md5((n * k)::text), '') FROM generate_series(1, 60) k)
               FROM generate_series(21, 1000) n",
        )
        .await;
    eventually("the log is seen to grow", true, async || retained() > before + 500_000.0).await;
    assert_eq!(producer.metric("syncline_producer_changes_total", ""), 20.0);
    assert!(job(&path.folder, "source desk").is_some_and(|job| job["state"] == "rests"));
    let rest = Instant::now();
    assert!(producer.stop().success() && consumer.stop().success());
    assert!(rest.elapsed() < Duration::from_secs(15), "a job at rest stops at once");
    assert_eq!(jobs(&path.folder).0, 69, "nobody to ask");

    edit(&path.config, &interval, "interval = \"1s\"\n");
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    for round in 0..3 {
        path.source
            .run(&format!(
                "UPDATE item SET note = 'round {round}' WHERE id % 3 = {round}; DELETE FROM item WHERE id = {round}"
            ))
            .await;
        path.in_step("at its times", ALL, ALL).await;
    }
    eventually("it rests in between", true, async || consumer.metric("syncline_consumer_resting", "") > 0.0).await;
    path.source.run("UPDATE item SET note = note || '.' WHERE id > 10").await;
    producer.kill();
    consumer.kill();
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.in_step("after both were killed", ALL, ALL).await;

    // A job that failed goes on by itself, at once and not at its next time.
    path.target.run("ALTER TABLE item RENAME TO thing").await;
    path.source.run("UPDATE item SET note = 'last' WHERE id < 100").await;
    let paused = is(&path.folder, "subscription crm", "paused", "does not exist").await;
    assert!(paused["attempts"].as_u64().unwrap() >= 1 && paused["service"] == "consumer", "{paused}");
    path.target.run("ALTER TABLE thing RENAME TO item").await;
    path.in_step("after it was mended", ALL, ALL).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    assert!(producer.stop().success() && consumer.stop().success());
}

/// Two SQLite files, and a configuration between them.
struct Files {
    folder: Folder,
    config: std::path::PathBuf,
    desk: Connection,
    crm: Connection,
}

impl Files {
    fn create(queue: &str, source: &str, target: &str, subscription: &str) -> Self {
        let folder = Folder::create();
        let [desk, crm] = ["desk.db", "crm.db"].map(|name| folder.file(name));
        let config = format!(
            "{}{queue}{}[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\n{source}{SHARE}[target.crm]\ntype = \"sqlite\"\n\
             path = \"{}\"\n{target}[subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{subscription}",
            embedded(&folder),
            common(&folder),
            desk.display(),
            crm.display()
        );
        let config = folder.write("syncline.toml", &config);
        listening(&config);
        let [desk, crm] = [desk, crm].map(|path| {
            let database = Connection::open(path).unwrap();
            database.busy_timeout(Duration::from_secs(10)).unwrap();
            database.execute_batch(&format!("PRAGMA journal_mode = WAL; {ITEM}")).unwrap();
            database
        });
        Self { folder, config, desk, crm }
    }

    fn start(&self, command: &str) -> Service {
        Service::start(self.folder.path(), command, &self.config)
    }

    fn rows(database: &Connection) -> Vec<String> {
        let mut statement = database.prepare("SELECT id || ' ' || note FROM item ORDER BY id").unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    async fn in_step(&self, what: &str) {
        eventually(what, Self::rows(&self.desk), async || Self::rows(&self.crm)).await;
    }

    /// Adds rows from one id to another.
    fn insert(&self, from: u32, to: u32) {
        let rows = "WITH RECURSIVE n(n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM n WHERE n < ?2)
                    INSERT INTO item SELECT n, hex(randomblob(1000)) FROM n";
        self.desk.execute(rows, [from, to]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_sqlite_rest_between_their_times_and_nothing_is_lost_or_repeated() {
    let interval = format!("interval = \"{}\"\n", far_off());
    // One message at a time, so that while one waits no other comes.
    let files = Files::create("", &interval, "busy_timeout_ms = 50\n", &format!("{interval}prefetch = 1\n"));
    edit(&files.config, "[producer]\n", "[producer.batch]\nbatch_records_max = 1\n[producer]\n");
    files.insert(1, 20);
    let mut producer = files.start("producer");
    eventually("the copy is in the queue", 20.0, async || producer.metric("syncline_producer_confirmed_total", ""))
        .await;
    files.crm.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let mut consumer = files.start("consumer");
    // Waits grow: all eight partitions have waited for longer than a second then.
    let attempts = async || consumer.metric("syncline_consumer_reconnects_total", "target") >= 48.0;
    eventually("it waits for the target", true, attempts).await;
    files.crm.execute_batch("COMMIT").unwrap();
    files.in_step("the copy").await;
    both_rest(&files.folder, &producer, &consumer, 8.0).await;
    files.insert(21, 100);
    assert!(job(&files.folder, "source desk").is_some_and(|job| job["state"] == "rests"));
    assert_eq!(producer.metric("syncline_producer_changes_total", ""), 20.0);
    assert!(producer.stop().success() && consumer.stop().success());

    edit(&files.config, &interval, "interval = \"1s\"\n");
    let mut up = files.start("up");
    for round in 0..3 {
        let changes = "UPDATE item SET note = note || ?1 WHERE id % 3 = ?1";
        files.desk.execute(changes, [round]).unwrap();
        files.desk.execute("DELETE FROM item WHERE id = 50 + ?1", [round]).unwrap();
        files.in_step("at its times").await;
    }
    eventually("it rests in between", true, async || up.metric("syncline_up_resting", "subscription") > 0.0).await;
    assert_eq!(up.metric("syncline_consumer_dead_letters_total", ""), 0.0);
    assert!(up.stop().success());
}

/// Three attempts take two delays at least; growing waits would have made them within a second.
async fn waits_between_attempts(attempts: impl Fn() -> f64, delay: Duration) {
    let first = eventually_some("an attempt", async || Some(attempts()).filter(|count| *count >= 1.0)).await;
    let begun = Instant::now();
    eventually("two more", true, async || attempts() >= first + 2.0).await;
    // The first of the two was under way when the clock began.
    assert!(begun.elapsed() >= delay, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_kept_where_a_postgresql_target_or_a_full_queue_takes_no_more() {
    let path = Path::create(ITEM, ITEM, SHARE, "delay = \"3s\"\n").await;
    edit(&path.config, "partitions = 8", "partitions = 1");
    edit(&path.config, "[source.desk]\n", "[source.desk]\ndelay = \"3s\"\n");
    edit(&path.config, "[target.crm]\n", "[target.crm]\nlock_timeout_ms = 100\n");
    edit(&path.config, "[producer]\n", "[producer.batch]\nbatch_records_max = 1\n[producer]\n");
    listening(&path.config);
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.source.run("INSERT INTO item VALUES (1, 'a')").await;
    path.in_step("before", ALL, ALL).await;
    path.streaming().await;

    path.target.run("BEGIN; LOCK TABLE item IN ACCESS EXCLUSIVE MODE").await;
    path.source.run("INSERT INTO item SELECT n, 'b' FROM generate_series(2, 10) n").await;
    is(&path.folder, "subscription crm", "paused", "a lock was not free in time (55P03)").await;
    let attempts = || consumer.metric("syncline_consumer_reconnects_total", "target");
    waits_between_attempts(attempts, Duration::from_secs(3)).await;
    path.target.run("COMMIT").await;
    path.in_step("after the lock", ALL, ALL).await;
    assert!(consumer.stop().success());

    let policy = r#"{"pattern":"^crm\\.0","definition":{"max-length":5},"apply-to":"quorum_queues"}"#;
    path.vhost.api("PUT", &format!("policies/{}/limit", path.vhost.name), Some(policy));
    // The broker applies a policy some time after it answered.
    let refused = async || {
        path.source.run("INSERT INTO item SELECT max(id) + 1, 'c' FROM item").await;
        let is_paused = |job: &Value| job["state"] == "paused" && job.to_string().contains("refused the message");
        job(&path.folder, "queue of source desk").filter(is_paused)
    };
    eventually_some("the queue is full", refused).await;
    let attempts = || producer.metric("syncline_producer_reconnects_total", "queue");
    waits_between_attempts(attempts, Duration::from_secs(3)).await;
    path.vhost.api("DELETE", &format!("policies/{}/limit", path.vhost.name), None);
    let mut consumer = path.consumer();
    path.in_step("after there was room", ALL, ALL).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_kept_where_a_sqlite_target_or_a_full_file_takes_no_more() {
    let delay = "delay = \"3s\"\n";
    let files = Files::create("bytes_max = 1048576\n", delay, "busy_timeout_ms = 50\n", delay);
    edit(&files.config, "partitions = 8", "partitions = 1");
    let mut up = files.start("up");
    files.insert(1, 10);
    files.in_step("before").await;
    files.crm.execute_batch("BEGIN EXCLUSIVE").unwrap();
    files.insert(11, 20);
    is(&files.folder, "subscription crm", "paused", "another connection writes for too long").await;
    let attempts = || up.metric("syncline_consumer_reconnects_total", "target");
    waits_between_attempts(attempts, Duration::from_secs(3)).await;
    files.insert(21, 3000);
    is(&files.folder, "queue of source desk", "paused", "refused the message").await;
    let attempts = || up.metric("syncline_producer_reconnects_total", "queue");
    waits_between_attempts(attempts, Duration::from_secs(3)).await;
    files.crm.execute_batch("COMMIT").unwrap();
    files.in_step("after there was room").await;
    assert!(up.stop().success());
}
