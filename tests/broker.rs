//! What somebody does to a broker that is used: deletes what is in it, fills it up, changes who may use it.

use crate::bad_input::{ALL, ITEM, SHARE, paused, ready, stream_only};
use crate::kit::config::{Folder, rabbitmq};
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::{User, Vhost};
use crate::kit::{eventually, eventually_some, service};
use crate::postgres::Path;

/// A path in step, with both services running.
async fn flowing() -> (Path, Service, Service) {
    let path = Path::create(ITEM, ITEM, &stream_only(), "").await;
    let (producer, consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 200) n").await;
    path.in_step("before", ALL, ALL).await;
    (path, producer, consumer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_deleted_and_made_again_is_filled_and_used_again() {
    let (path, mut producer, mut consumer) = flowing().await;
    path.vhost.api("DELETE", &format!("vhosts/{}", path.vhost.name), None);
    path.source.run("UPDATE item SET note = 'b'; DELETE FROM item WHERE id % 9 = 0").await;
    paused(&producer, "refuses access").await;
    paused(&consumer, "refuses access").await;
    path.vhost.api("PUT", &format!("vhosts/{}", path.vhost.name), Some("{}"));
    path.in_step("after it was made again", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_and_an_exchange_deleted_while_they_are_used_are_made_again() {
    let (path, producer, mut consumer) = flowing().await;
    let delete = |what: &str| path.vhost.api("DELETE", &what.replace("VHOST", &path.vhost.name), None);
    delete("exchanges/VHOST/syncline.crm");
    path.source.run("UPDATE item SET note = 'b'").await;
    path.in_step("after the exchange was deleted", ALL, ALL).await;

    // The last partition alone looks like a queue of fewer partitions to who has never seen it whole.
    delete("queues/VHOST/crm.7");
    path.source.run("UPDATE item SET note = 'c'").await;
    path.in_step("after the last queue was deleted", ALL, ALL).await;
    (0..8).for_each(|partition| drop(delete(&format!("queues/VHOST/crm.{partition}"))));
    delete("queues/VHOST/crm.dead");
    path.source.run("UPDATE item SET note = 'c'; DELETE FROM item WHERE id % 9 = 0").await;
    path.in_step("after the queues were deleted", ALL, ALL).await;

    // Nobody but the producer is there to notice.
    assert!(consumer.stop().success());
    (0..8).for_each(|partition| drop(delete(&format!("queues/VHOST/crm.{partition}"))));
    path.source.run("UPDATE item SET note = 'd'; INSERT INTO item VALUES (1000, 'new')").await;
    eventually("sent again", true, async || (0..8).any(|partition| path.vhost.ready(&format!("crm.{partition}")) > 0))
        .await;
    let consumer = path.consumer();
    path.in_step("after the queues were deleted without a consumer", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
    assert_eq!(consumer.metric("syncline_consumer_dead_letters_total", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_pauses_the_producer_until_a_consumer_makes_room() {
    let path = Path::create(ITEM, ITEM, &stream_only(), "").await;
    let config = std::fs::read_to_string(&path.config).unwrap();
    std::fs::write(&path.config, format!("{config}\n[producer.batch]\nbatch_records_max = 1\n")).unwrap();
    let producer = path.producer();
    path.streaming().await;
    eventually("declared", true, async || {
        path.vhost.api("GET", &format!("queues/{}", path.vhost.name), None).contains("crm.0")
    })
    .await;
    // The configured queues refuse what is too much; a policy sets how much that is.
    let policy = r#"{"pattern":"^crm\\.[0-9]","definition":{"max-length":20},"apply-to":"quorum_queues"}"#;
    path.vhost.api("PUT", &format!("policies/{}/limit", path.vhost.name), Some(policy));
    eventually("limited", true, async || {
        path.vhost.api("GET", &format!("queues/{}/crm.7", path.vhost.name), None).contains("\"limit\"")
    })
    .await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 1000) n").await;
    paused(&producer, "refused the message").await;
    path.source.run("UPDATE item SET note = 'b' WHERE id <= 100; DELETE FROM item WHERE id > 900").await;
    let consumer = path.consumer();
    path.in_step("after a consumer came", ALL, ALL).await;
    ready(&producer).await;
    assert_eq!(consumer.metric("syncline_consumer_dead_letters_total", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_read_from_its_file_and_revoked_permissions_are_waited_for() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let user = User::create(&vhost, "first-secret-4711", [".*", ".*", ".*"]);
    let password = folder.write("password", "first-secret-4711\n");
    let queue = format!("{}password_file = \"{}\"\n", rabbitmq(&user.url), password.display());
    let path = Path::create_on(folder, vhost, &queue, ITEM, ITEM, SHARE, "").await;
    let (producer, consumer) = (path.producer(), path.consumer());
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 200) n").await;
    path.in_step("before", ALL, ALL).await;

    user.set_password(&path.vhost, "second-secret-4711");
    user.disconnect(&path.vhost);
    path.source.run("UPDATE item SET note = 'b'").await;
    paused(&producer, "refuses access").await;
    paused(&consumer, "refuses access").await;
    std::fs::write(&password, "second-secret-4711").unwrap();
    path.in_step("after the file was changed", ALL, ALL).await;
    ready(&producer).await;

    user.revoke(&path.vhost);
    user.disconnect(&path.vhost);
    path.source.run("UPDATE item SET note = 'c'; DELETE FROM item WHERE id % 9 = 0").await;
    paused(&producer, "refuses access").await;
    paused(&consumer, "refuses access").await;
    user.permit(&path.vhost, [".*", ".*", ".*"]);
    path.in_step("after the permissions came back", ALL, ALL).await;
    ready(&producer).await;
    ready(&consumer).await;
    for log in [producer.log(), consumer.log()] {
        assert!(!log.contains("secret-4711"), "a password is in a log:\n{log}");
    }
}

const CONFIGURE: &str = r"^(syncline\.crm|crm\.[0-9]+|crm\.dead)$";
/// What a consumer may: configure, write, read.
const CONSUME: [&str; 3] = [
    r"^(syncline\.crm(\.status)?|crm\.[0-9]+|crm\.dead|crm\.status\..+)$",
    r"^(syncline\.crm\.status|crm\.[0-9]+|crm\.status\..+|amq\.default)$",
    r"^(syncline\.crm(\.status)?|crm\.[0-9]+|crm\.status\..+)$",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_permissions_are_enough_and_with_less_the_missing_one_is_named() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let permissions = [CONFIGURE, r"^(syncline\.crm|crm\.[0-9]+|amq\.default)$", r"^syncline\.crm$"];
    let produce = User::create(&vhost, "p", permissions);
    let consume = User::create(&vhost, "c", CONSUME);
    let read = User::create(&vhost, "r", ["^$", "^$", r"^crm\.dead$"]);
    let replay = User::create(&vhost, "y", ["^$", r"^syncline\.crm$", r"^crm\.dead$"]);
    let look = User::create(&vhost, "l", ["^$", r"^syncline\.crm\.status$", "^$"]);
    let narrow = "CREATE TABLE item (id int PRIMARY KEY, note varchar(20))";
    let queue = rabbitmq(&vhost.url);
    let bound = "[producer.publish]\nrecord_bytes_max = 4096\n";
    let path = Path::create_on(folder, vhost, &queue, ITEM, narrow, &format!("{}{bound}", stream_only()), "").await;
    let all = std::fs::read_to_string(&path.config).unwrap();
    let as_user = |user: &User, password: &str| {
        let login = user.url.replace('@', &format!(":{password}@"));
        path.folder.write(&format!("{password}.toml"), &all.replace(&path.vhost.url, &login))
    };
    let run = |config: &std::path::Path, args: &[&str]| {
        let output = syncline(path.folder.path(), &[&["--config", config.to_str().unwrap()], args].concat());
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let mut producer = Service::start(path.folder.path(), "producer", &as_user(&produce, "p"));
    let mut consumer = Service::start(path.folder.path(), "consumer", &as_user(&consume, "c"));
    path.streaming().await;
    let rows = "INSERT INTO item SELECT n, CASE n WHEN 7 THEN repeat('x', 30) WHEN 8 THEN repeat('x', 10000) ELSE 'a' END FROM generate_series(1, 100) n";
    path.source.run(rows).await;
    let flown = "SELECT id, note FROM item WHERE id NOT IN (7, 8)";
    path.in_step("as least privileged users", flown, flown).await;
    // One of the producer, one of the consumer.
    eventually("set aside", 2, async || path.vhost.ready("crm.dead")).await;
    run(&as_user(&look, "l"), &["queue", "status"]);
    run(&as_user(&look, "l"), &["check"]);
    let letters = run(&as_user(&read, "r"), &["--json", "dead-letter", "list"]);
    let letters: serde_json::Value = serde_json::from_str(&letters).unwrap();
    let of = |reason: &str| {
        let letter = letters.as_array().unwrap().iter().find(|letter| letter["reason"] == reason).unwrap();
        letter["id"].as_str().unwrap().to_owned()
    };
    run(&as_user(&read, "r"), &["dead-letter", "discard", &of("oversize")]);
    path.target.run("ALTER TABLE item ALTER note TYPE text").await;
    run(&as_user(&replay, "y"), &["dead-letter", "replay", &of("target")]);
    let replayed = "SELECT id, note FROM item WHERE id <> 8";
    path.in_step("replayed", replayed, replayed).await;

    // May declare, and not publish.
    produce.permit(&path.vhost, [CONFIGURE, r"^crm\.[0-9]+$", r"^syncline\.crm$"]);
    consume.permit(&path.vhost, [CONFIGURE, r"^crm\.[0-9]+$", r"^syncline\.crm$"]);
    produce.disconnect(&path.vhost);
    consume.disconnect(&path.vhost);
    path.source.run("UPDATE item SET note = 'b' WHERE id <> 8").await;
    paused(&producer, "write access to exchange 'syncline.crm'").await;
    paused(&consumer, "read access to queue 'crm.").await;
    produce.permit(&path.vhost, permissions);
    consume.permit(&path.vhost, CONSUME);
    path.in_step("permitted again", replayed, replayed).await;

    // What a replica cannot apply it holds, and tells who asks.
    path.target.run("ALTER TABLE item RENAME TO elsewhere").await;
    path.source.run("UPDATE item SET note = 'c' WHERE id <> 8").await;
    eventually_some("every partition has an owner and an age", async || {
        let status = run(&as_user(&look, "l"), &["--json", "queue", "status"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let told = |one: &serde_json::Value| {
            one["owner"].is_string() && one["unacked"].as_u64() > Some(0) && one["oldest_seconds"].as_u64() >= Some(2)
        };
        status[0]["partitions"].as_array().unwrap().iter().all(told).then_some(())
    })
    .await;
    path.target.run("ALTER TABLE elsewhere RENAME TO item").await;
    path.in_step("after the table came back", replayed, replayed).await;
    let unasked = run(&as_user(&read, "r"), &["queue", "status"]);
    assert!(unasked.contains("cannot be asked") && unasked.contains("syncline.crm.status"), "{unasked}");
    assert!(producer.stop().success() && consumer.stop().success());
}

/// The owner of each partition, as `queue status` tells it.
fn owners(path: &Path) -> Vec<String> {
    let config = path.config.to_str().unwrap();
    let status = syncline(path.folder.path(), &["--config", config, "--json", "queue", "status"]);
    // Nothing before the shared queue is declared as a whole.
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
    let partitions = status[0]["partitions"].as_array().into_iter().flatten();
    partitions.map(|one| one["owner"].as_str().unwrap_or("none").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_names_the_replica_that_owns_each_partition_and_the_one_that_takes_over() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let api = service("SYNCLINE_TEST_RABBITMQ_API");
    let management = format!("management_url = \"http://{}\"\n", api.rsplit('@').next().unwrap());
    let queue = format!("{}{management}", rabbitmq(&vhost.url));
    let path = Path::create_on(folder, vhost, &queue, ITEM, ITEM, SHARE, "").await;
    let replica = |name: &str| {
        let text = std::fs::read_to_string(&path.config).unwrap();
        let named = text.replace("[consumer]", &format!("[consumer]\nreplica = \"{name}\""));
        Service::start(path.folder.path(), "consumer", &path.folder.write(&format!("{name}.toml"), &named))
    };
    let (mut left, _right) = (replica("left"), replica("right"));
    let owns = |owners: &[String], name: &str| owners.iter().filter(|owner| *owner == name).count();
    eventually("both own partitions", true, async || {
        let owners = owners(&path);
        owns(&owners, "left") > 0 && owns(&owners, "right") > 0 && owns(&owners, "none") == 0
    })
    .await;
    left.kill();
    eventually("one owns all", 8, async || owns(&owners(&path), "right")).await;
}
