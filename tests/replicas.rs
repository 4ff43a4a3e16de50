//! More of the same: several consumers share the partitions, a second producer stands by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use syncline_shared::record::{Columns, Row, Value, partition_of};

use crate::kit::config::{Folder, common, rabbitmq};
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, eventually_some};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)";
const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";
/// Enough for several in each of the 8 partitions.
const ITEMS: i64 = 64;
const PARTITIONS: u32 = 8;

/// Writes down which replica applied what; each has its name in its sessions.
const AUDIT: &str = "
    CREATE TABLE audit (seq bigserial, id int, version uuid, replica text, at timestamptz DEFAULT clock_timestamp());
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO audit (id, version, replica) VALUES (NEW.id, NEW._syncline_version, current_setting('test.replica'));
        RETURN NULL; END $$;
    CREATE TRIGGER audit AFTER INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION audit();";

/// Lets every batch take a tenth of a second.
const SLOW: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.1); RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON item FOR EACH STATEMENT EXECUTE FUNCTION slow();";

/// A partition must have moved within this time, on a busy machine too: the broker needs longer to notice by itself
/// that a client is silent (two heartbeats, 20 seconds). Three seconds are usual.
const MOVE: Duration = Duration::from_secs(15);

/// A configuration of a replica, which says its name to the broker and to the target.
fn replica(path: &Path, name: &str) -> PathBuf {
    let text = std::fs::read_to_string(&path.config).unwrap();
    let url = format!("{}?options=-c%20test.replica%3D{name}", path.target.url);
    let text = text
        .replace(&format!("url = \"{}\"", path.target.url), &format!("url = \"{url}\""))
        .replace("[consumer]\n", &format!("[consumer]\nreplica = \"{name}\"\n"));
    path.folder.write(&format!("{name}.toml"), &text)
}

fn start(path: &Path, name: &str) -> Service {
    Service::start(path.folder.path(), "consumer", &replica(path, name))
}

/// Changes every record until each has been applied by the owner it then keeps; the records of each replica.
///
/// Returns when `settled` likes the owners and they have been the same for a second of changes.
async fn owners(
    path: &Path,
    settled: impl Fn(&BTreeMap<String, BTreeSet<i32>>) -> bool,
) -> BTreeMap<String, BTreeSet<i32>> {
    let (mut before, mut since) = (BTreeMap::new(), Instant::now());
    eventually_some("every partition has an owner", async || {
        path.source.run("UPDATE item SET n = n + 1").await;
        path.in_step("items", "SELECT * FROM item", "SELECT id, n FROM item").await;
        let latest = "SELECT DISTINCT ON (id) id, replica FROM audit ORDER BY id, seq DESC";
        let mut owners: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for row in path.target.client.query(latest, &[]).await.unwrap() {
            owners.entry(row.get(1)).or_default().insert(row.get(0));
        }
        if before != owners {
            (before, since) = (owners.clone(), Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1) && settled(&owners)).then_some(owners)
    })
    .await
}

/// How many partitions each replica has, the most first; fails when two have records of one.
fn counts(owners: &BTreeMap<String, BTreeSet<i32>>) -> Vec<usize> {
    let partition = |id: &i32| {
        let mut key = Row::builder(Columns::new(["id"]));
        key.push(Value::Number(&id.to_string()));
        partition_of("desk", "item", &key.finish(), PARTITIONS)
    };
    let owned = |ids: &BTreeSet<i32>| ids.iter().map(partition).collect::<BTreeSet<_>>().len();
    let mut counts: Vec<_> = owners.values().map(owned).collect();
    counts.sort_unstable_by(|one, other| other.cmp(one));
    counts
}

/// The time from `since` to the last change of owner.
async fn moved_after(path: &Path, since: SystemTime) -> Duration {
    let moves = "SELECT max(at) FROM (SELECT at, replica, lag(replica) OVER (PARTITION BY id ORDER BY seq) AS before FROM audit) a
        WHERE replica <> before";
    let last: SystemTime = path.target.client.query_one(moves, &[]).await.unwrap().get(0);
    last.duration_since(since).unwrap_or_default()
}

async fn ready(service: &Service) {
    eventually("ready", true, async || service.get("/readyz").is_some_and(|(status, _)| status.contains("200"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_spread_over_replicas_and_move_within_five_seconds_of_a_join_a_stop_and_a_kill() {
    let target = format!("{ITEM}; ALTER TABLE item ADD _syncline_version uuid; {AUDIT}");
    let path = Path::create(ITEM, &target, SHARE, "").await;
    path.source.run(&format!("INSERT INTO item SELECT n, 0 FROM generate_series(1, {ITEMS}) n")).await;
    let _producer = path.producer();
    let mut one = start(&path, "one");
    let alone = owners(&path, |owners| owners.len() == 1).await;
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["one"]);

    // A second one joins and takes its share, by the names alone.
    let mut two = start(&path, "two");
    ready(&two).await;
    let joined = SystemTime::now();
    let shared = owners(&path, |owners| counts(owners) == [4, 4]).await;
    assert!(moved_after(&path, joined).await < MOVE);

    // It dies: the first one has everything again.
    two.kill();
    let killed = SystemTime::now();
    assert_eq!(owners(&path, |owners| owners.len() == 1).await, alone);
    assert!(moved_after(&path, killed).await < MOVE);

    // It comes back under its name, and gets what it had.
    let mut two = start(&path, "two");
    ready(&two).await;
    let joined = SystemTime::now();
    assert_eq!(owners(&path, |owners| owners.len() == 2).await, shared);
    assert!(moved_after(&path, joined).await < MOVE);

    // The first one leaves.
    let left = SystemTime::now();
    assert!(one.stop().success());
    let rest = owners(&path, |owners| owners.len() == 1).await;
    assert_eq!(rest.keys().collect::<Vec<_>>(), ["two"]);
    assert!(moved_after(&path, left).await < MOVE);

    // Each record changed hands once for each move of its partition, and its versions only grew.
    assert_eq!(hands(&path).await, 3, "a partition went back and forth: it had two owners");
    assert_eq!(steps_back(&path).await, 0);
    assert!(two.stop().success());
}

/// How often the record that changed hands most did.
async fn hands(path: &Path) -> i64 {
    let hands =
        "SELECT coalesce(max(moves), 0)::int8 FROM (SELECT count(*) FILTER (WHERE replica <> before) AS moves FROM
        (SELECT id, replica, lag(replica) OVER (PARTITION BY id ORDER BY seq) AS before FROM audit) a GROUP BY id) b";
    path.target.count(hands).await
}

/// How often a version was written over a newer one.
async fn steps_back(path: &Path) -> i64 {
    let back =
        "SELECT count(*) FROM (SELECT version, lag(version) OVER (PARTITION BY id ORDER BY seq) AS before FROM audit) a
        WHERE version <= before";
    path.target.count(back).await
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_even_over_three_four_and_eight_replicas_that_work_at_once_and_in_order() {
    let target = format!("{ITEM}; ALTER TABLE item ADD _syncline_version uuid; {AUDIT}");
    let path = Path::create(ITEM, &target, SHARE, "").await;
    path.source.run(&format!("INSERT INTO item SELECT n, 0 FROM generate_series(1, {ITEMS}) n")).await;
    let _producer = path.producer();
    let mut replicas: Vec<Service> = (1..=4).map(|number| start(&path, &format!("replica-{number}"))).collect();
    for replica in &replicas {
        ready(replica).await;
    }
    let joined = SystemTime::now();
    let four = owners(&path, |owners| counts(owners) == [2, 2, 2, 2]).await;
    assert!(moved_after(&path, joined).await < MOVE);

    replicas[3].kill();
    let killed = SystemTime::now();
    let three = owners(&path, |owners| counts(owners) == [3, 3, 2]).await;
    assert!(moved_after(&path, killed).await < MOVE);
    let stayed = three.iter().all(|(replica, ids)| four[replica].difference(ids).count() <= ids.len() / 2);
    assert!(stayed, "more moved than one partition of each: {four:?} became {three:?}");

    replicas.extend((4..=8).map(|number| start(&path, &format!("replica-{number}"))));
    for replica in replicas.iter().filter(|replica| replica.id() != replicas[3].id()) {
        ready(replica).await;
    }
    let joined = SystemTime::now();
    owners(&path, |owners| counts(owners) == [1; 8]).await;
    assert!(moved_after(&path, joined).await < MOVE);

    // A target that takes its time is waited for by all eight at once.
    replicas.remove(3);
    let stale = |replicas: &[Service]| -> f64 {
        replicas.iter().map(|replica| replica.metric("syncline_consumer_records_total", "outcome=\"stale\"")).sum()
    };
    let before = stale(&replicas);
    path.target.run(SLOW).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    eventually("batches of all partitions are applied", 8, async || {
        path.source.run("UPDATE item SET n = n + 1").await;
        path.target.count(waiting).await
    })
    .await;
    path.in_step("all rounds", "SELECT * FROM item", "SELECT id, n FROM item").await;
    assert_eq!(stale(&replicas), before, "a change came after a newer one");

    assert_eq!(steps_back(&path).await, 0);
    for replica in &mut replicas {
        assert!(replica.stop().success());
    }
}

/// A second producer takes over within this time; waits that grow would be longer by then.
const TAKE_OVER: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_waits_and_takes_over_a_postgresql_source_when_the_first_is_killed() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let mut first = path.producer();
    let _consumer = path.consumer();
    path.streaming().await;
    let mut second = path.producer();
    stands_by(&second).await;
    // However long it has waited, it looks often. That is no fault, and no alert.
    eventually("looks", true, async || looks(&second) >= 8).await;
    let shown = ["standing_by", "paused", "reconnects_total"]
        .map(|name| second.metric(&format!("syncline_producer_{name}"), ""));
    assert_eq!(shown, [1.0, 0.0, 0.0]);
    path.source.run("INSERT INTO item SELECT n, 0 FROM generate_series(1, 100) n").await;
    path.in_step("by the first", "SELECT * FROM item", "SELECT id, n FROM item").await;
    assert_eq!(second.metric("syncline_producer_changes_total", ""), 0.0);
    path.source.run("UPDATE item SET n = n + 1").await;
    first.kill();
    let killed = Instant::now();
    path.source.run("UPDATE item SET n = n + 1").await;
    path.in_step("by the second", "SELECT * FROM item", "SELECT id, n FROM item").await;
    assert!(killed.elapsed() < TAKE_OVER, "{:?}", killed.elapsed());
    ready(&second).await;
    assert_eq!(second.metric("syncline_producer_standing_by", ""), 0.0);
    assert!(second.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_waits_and_takes_over_an_sqlite_source_when_the_first_is_killed() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let (desk, crm) = (folder.file("desk.db"), folder.file("crm.db"));
    let text = format!(
        "{}{}\n[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\n{SHARE}\n[target.crm]\ntype = \"sqlite\"\npath = \"{}\"\n\
         [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n",
        rabbitmq(&vhost.url),
        common(&folder),
        desk.display(),
        crm.display()
    );
    let config = folder.write("syncline.toml", &text);
    let source = rusqlite::Connection::open(&desk).unwrap();
    source.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    source.execute_batch(ITEM).unwrap();
    let target = rusqlite::Connection::open(&crm).unwrap();
    target.execute_batch(ITEM).unwrap();
    let sum = |database: &rusqlite::Connection| -> i64 {
        database.query_row("SELECT coalesce(sum(n), 0) FROM item", [], |row| row.get(0)).unwrap()
    };
    let mut first = Service::start(folder.path(), "producer", &config);
    ready(&first).await;
    let _consumer = Service::start(folder.path(), "consumer", &config);
    let mut second = Service::start(folder.path(), "producer", &config);
    stands_by(&second).await;
    source.execute_batch("INSERT INTO item VALUES (1, 1), (2, 1)").unwrap();
    eventually("by the first", 2, async || sum(&target)).await;
    source.execute_batch("UPDATE item SET n = n + 1").unwrap();
    first.kill();
    let killed = Instant::now();
    source.execute_batch("UPDATE item SET n = n + 1").unwrap();
    eventually("by the second", 6, async || sum(&target)).await;
    assert!(killed.elapsed() < TAKE_OVER, "{:?}", killed.elapsed());
    ready(&second).await;
    assert!(second.stop().success());
}

/// How often a part of it has looked whether it is its turn.
fn looks(service: &Service) -> u64 {
    let (_, jobs) = service.get("/jobs").unwrap_or_default();
    let jobs: Vec<serde_json::Value> = serde_json::from_str(&jobs).unwrap_or_default();
    jobs.iter().filter(|job| job["state"] == "stands_by").filter_map(|job| job["attempts"].as_u64()).sum()
}

async fn stands_by(service: &Service) {
    let says = async || {
        let (status, body) = service.get("/readyz")?;
        (status.contains("503") && body.contains("another producer reads")).then_some(())
    };
    eventually_some("it stands by", says).await;
}
