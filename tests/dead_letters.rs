//! What is set aside: why, how an operator deals with it, and what never is.

use serde_json::Value;

use crate::bad_input::{paused, ready};
use crate::kit::process::{Service, syncline};
use crate::kit::{eventually, eventually_some};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const STRICT: &str = "CREATE TABLE item (id int PRIMARY KEY, note varchar(20))";
const SHARE: &str =
    "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";
const ALL: &str = "SELECT id, note FROM item";
const MARKER: &str = "4711-secret-value";

/// Both services on one partition, so that one message is behind the other.
async fn one_partition(target: &str) -> Path {
    let path = Path::create(ITEM, target, SHARE, "").await;
    edit(&path, "partitions = 8", "partitions = 1");
    path
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(&path.config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path.config, text.replace(from, to)).unwrap();
}

/// Runs a command; what it printed, and whether it succeeded.
fn run(path: &Path, args: &[&str]) -> (bool, String, String) {
    let config = path.config.to_str().unwrap();
    let output = syncline(path.folder.path(), &[&["--config", config], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

fn done(path: &Path, args: &[&str]) -> String {
    let (success, stdout, stderr) = run(path, args);
    assert!(success, "{args:?}: {stderr}");
    stdout
}

fn list(path: &Path, filters: &[&str]) -> Vec<Value> {
    let json = done(path, &[&["--json", "dead-letter", "list"], filters].concat());
    serde_json::from_str(&json).unwrap()
}

async fn dead(path: &Path, count: u64) {
    eventually("dead letters", count, async || path.vhost.ready("crm.dead")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_ends_the_consumer_is_set_aside_and_none_that_came_with_it() {
    let path = one_partition(ITEM).await;
    // A message for each record; what is with a bad one in a message goes with it.
    edit(&path, "[producer]\n", "[producer.batch]\nbatch_records_max = 1\n[producer]\n");
    // The record that does it: whoever writes it is killed by the test, each time and only then.
    path.target
        .run(
            "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN IF new.note = 'killer' THEN PERFORM pg_sleep(600); END IF; RETURN new; END $$;
             CREATE TRIGGER hold BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION hold()",
        )
        .await;
    let _producer = path.producer();
    path.streaming().await;
    path.source
        .run("INSERT INTO item SELECT n, CASE n WHEN 5 THEN 'killer' ELSE 'good' END FROM generate_series(1, 40) n")
        .await;
    eventually("published", 40, async || path.vhost.ready("crm.0")).await;
    let mut kills = 0;
    let mut consumer = path.consumer();
    let held = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'";
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
               WHERE datname = current_database() AND application_name = 'syncline consumer'";
    let others = "SELECT count(*) FROM item WHERE note = 'good'";
    eventually("the others", (39, 1), async || {
        if path.target.count(held).await > 0 {
            consumer.kill();
            path.target.run(end).await;
            consumer = path.consumer();
            kills += 1;
        }
        (path.target.count(others).await, path.vhost.ready("crm.dead"))
    })
    .await;
    // In a group at first, then as one that came again, at last alone.
    assert!((3..=6).contains(&kills), "killed {kills} times");
    let letters = list(&path, &[]);
    assert_eq!((letters.len(), letters[0]["reason"].as_str()), (1, Some("crash")), "{letters:?}");
    assert_eq!(path.target.count("SELECT count(*) FROM _syncline_tries").await, 0);
    path.target.run("DROP TRIGGER hold ON item").await;
    done(&path, &["dead-letter", "replay", "--reason", "crash"]);
    path.in_step("after it was mended", ALL, ALL).await;
    assert!(consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_chosen_by_filters_and_a_replay_goes_through_the_guard() {
    let path = one_partition(STRICT).await;
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run(&format!("INSERT INTO item SELECT n, 'far too long: {MARKER}' FROM generate_series(1, 3) n")).await;
    dead(&path, 3).await;
    // A newer version of one arrives.
    path.source.run("UPDATE item SET note = 'short' WHERE id = 2").await;
    eventually("the newer one", 1, async || path.target.count("SELECT count(*) FROM item").await).await;

    let letters = list(&path, &["--reason", "target", "--table", "item", "--share", "items", "--queue", "crm"]);
    assert_eq!(letters.len(), 3);
    assert_eq!(list(&path, &["--limit", "2"]).len(), 2);
    for none in [
        ["--reason", "seal"],
        ["--table", "other"],
        ["--share", "x"],
        ["--before", "1h"],
        ["--since", "2100-01-01T00:00:00Z"],
    ] {
        assert!(list(&path, &none).is_empty(), "{none:?}");
    }
    let id = |letter: usize| letters[letter]["id"].as_str().unwrap();
    let shown = done(&path, &["dead-letter", "show", id(0)]);
    assert!(shown.contains(id(0)) && shown.contains("first_at") && !shown.contains(MARKER), "{shown}");
    assert!(done(&path, &["dead-letter", "show", "--open", id(0)]).contains(MARKER));

    let (success, _, stderr) = run(&path, &["dead-letter", "replay", id(0), "no-such-id"]);
    assert!(!success && stderr.contains("there is no dead letter no-such-id"), "{stderr}");
    // Nothing was mended: it comes back under its id, with its history.
    eventually("tried again", Some(2), async || {
        let again = list(&path, &[]);
        again.iter().find(|letter| letter["id"] == id(0)).and_then(|letter| letter["attempts"].as_i64())
    })
    .await;
    let again = list(&path, &[]).into_iter().find(|letter| letter["id"] == id(0)).unwrap();
    assert!(again["first_at"] == letters[0]["first_at"] && again["at"] != letters[0]["at"], "{again}");

    path.target.run("ALTER TABLE item ALTER note TYPE text").await;
    assert!(done(&path, &["dead-letter", "replay", "--since", "1h"]).contains("3 dead letters"));
    path.in_step("the guard keeps the older one out", ALL, ALL).await;
    dead(&path, 0).await;
    let stale = async || consumer.metric("syncline_consumer_records_total", "outcome=\"stale\"");
    eventually("counted", 1.0, stale).await;
    assert!(consumer.stop().success() && !consumer.log().contains(MARKER));
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_many_has_to_be_said_so_and_forgets_what_waits_for_them() {
    let path = one_partition(STRICT).await;
    let (_producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run(&format!("INSERT INTO item SELECT n, 'far too long: {MARKER}' FROM generate_series(1, 3) n")).await;
    dead(&path, 3).await;
    let parked = async || path.target.count("SELECT count(*) FROM _syncline_parked").await;
    assert_eq!(parked().await, 3);
    let (success, _, stderr) = run(&path, &["dead-letter", "discard", "--all"]);
    assert!(!success && stderr.contains("3 dead letters") && stderr.contains("--yes"), "{stderr}");
    let first = list(&path, &[])[0]["id"].as_str().unwrap().to_owned();
    assert!(done(&path, &["dead-letter", "discard", &first]).contains("1 dead letter"));
    eventually("forgotten", 2, parked).await;
    assert_eq!(
        done(&path, &["--json", "dead-letter", "discard", "--reason", "target", "--yes"]),
        "{\"discarded\":2}\n"
    );
    eventually("forgotten", 0, parked).await;
    dead(&path, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_sealed_again_before_their_key_is_retired() {
    let path = one_partition(STRICT).await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run(&format!("INSERT INTO item VALUES (1, 'far too long: {MARKER}')")).await;
    dead(&path, 1).await;
    let before = list(&path, &[]);
    assert!(producer.stop().success() && consumer.stop().success());
    let key = path.folder.file("key-new");
    std::fs::write(&key, "another secret, as long as it has to be").unwrap();
    let new = format!("[key.\"new\"]\ncipher = \"TripleDES\"\nsecret_file = \"{}\"\n[key.\"aes\"]", key.display());
    edit(&path, "[key.\"aes\"]", &new);
    edit(&path, "key = \"aes\"", "key = \"new\"");
    assert!(done(&path, &["dead-letter", "reseal", "--all"]).contains("1 dead letter was resealed"));
    assert!(done(&path, &["dead-letter", "reseal", "--all", "--key", "new"]).contains("No dead letter"));
    dead(&path, 1).await;
    // The old key is gone, and the letter is as it was but for its key.
    edit(&path, "[key.\"aes\"]\ncipher = \"AES256\"", "[key.\"retired\"]\ncipher = \"AES128\"");
    let mut after = list(&path, &[]);
    assert_eq!((after[0]["key"].as_str(), before[0]["key"].as_str()), (Some("new"), Some("aes")));
    (after[0]["key"], after[0]["bytes"]) = (before[0]["key"].clone(), before[0]["bytes"].clone());
    assert_eq!(after, before);
    let id = before[0]["id"].as_str().unwrap();
    assert!(done(&path, &["dead-letter", "show", "--open", id]).contains(MARKER));
    path.target.run("ALTER TABLE item ALTER note TYPE text").await;
    let _consumer = path.consumer();
    done(&path, &["dead-letter", "replay", id]);
    path.in_step("replayed", ALL, ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_secret_pauses_and_drains_nothing_until_its_file_is_right() {
    let path = one_partition(ITEM).await;
    edit(&path, "[producer]\n", "[producer.batch]\nbatch_records_max = 1\n[producer]\n");
    let key = path.folder.file("key");
    let whole = std::fs::read_to_string(&path.config).unwrap();
    let other = path.folder.file("key-of-consumer");
    std::fs::write(&other, "another secret, as long as it has to be").unwrap();
    let config = whole.replace(key.to_str().unwrap(), other.to_str().unwrap());
    let config = path.folder.write("consumer.toml", &config);
    let mut consumer = Service::start(path.folder.path(), "consumer", &config);
    let _producer = path.producer();
    path.streaming().await;
    for id in 1..=10 {
        path.source.run(&format!("INSERT INTO item VALUES ({id}, 'a')")).await;
    }
    paused(&consumer, "no message sealed with key").await;
    eventually("all are kept", 10, async || path.vhost.ready("crm.0")).await;
    std::fs::copy(key, other).unwrap();
    path.in_step("after the file was put right", ALL, ALL).await;
    ready(&consumer).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    assert!(consumer.stop().success());
    assert_eq!(consumer.log().matches("paused until").count(), 1, "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_holds_up_its_partition_goes_by_the_command_that_the_log_names() {
    let path = one_partition(ITEM).await;
    let (_producer, consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.vhost.spy("crm", "spy");
    path.source.run("INSERT INTO item VALUES (1, 'a')").await;
    path.in_step("the first", ALL, ALL).await;
    let mut stranger = eventually_some("a message", async || path.vhost.peek("spy", 1).into_iter().next()).await;
    stranger["properties"]["headers"]["key"] = "nobody-has-it".into();
    path.vhost.publish("crm.0", &stranger["properties"], stranger["payload"].as_str().unwrap());
    paused(&consumer, "is not in the keyring").await;
    path.source.run("INSERT INTO item VALUES (2, 'behind')").await;
    let log = consumer.log();
    let command = log.split("syncline dead-letter park ").nth(1).unwrap();
    let id: String = command.chars().take(36).collect();
    done(&path, &["dead-letter", "park", &id]);
    path.in_step("what is behind it", ALL, ALL).await;
    ready(&consumer).await;
    // The target has what is behind it a moment before the letter is written.
    eventually("set aside", 1, async || list(&path, &[]).len()).await;
    let letters = list(&path, &[]);
    assert_eq!((letters[0]["id"].as_str(), letters[0]["reason"].as_str()), (Some(&*id), Some("seal")));
}
