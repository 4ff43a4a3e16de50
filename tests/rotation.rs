//! A key is rotated by the steps of the runbook while changes flow: no pause, no dead letter, nothing lost.

use crate::kit::eventually;
use crate::kit::process::syncline;
use crate::postgres::Path;

const TABLE: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const LAST: &str = "SELECT coalesce(max(id), 0)::bigint FROM item";
const ALL: &str = "SELECT id, note FROM item";

fn share(key: &str) -> String {
    format!(
        "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"{key}\"\ninteractive_only = false\ninitial = \"copy\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_rotated_while_changes_flow_without_a_pause_or_a_dead_letter() {
    let path = Path::create(TABLE, TABLE, &share("2026-11"), "").await;
    let key = |id: &str| {
        path.folder.write(id, &format!("the secret of {id}, long enough\n"));
        format!("[key.\"{id}\"]\ncipher = \"AES256\"\nsecret_file = \"{}\"\n", path.folder.file(id).display())
    };
    let (old, new) = (key("2026-11"), key("2026-12"));
    // Each service has a file of its own, as on two machines.
    let text = std::fs::read_to_string(&path.config).unwrap();
    let write = |name: &str, text: &str, keys: &[&String]| {
        path.folder.write(name, &[text, &keys.iter().map(|key| key.as_str()).collect::<String>()].concat())
    };
    let for_producer = write("producer.toml", &text, &[&old]);
    let for_consumer = write("consumer.toml", &text, &[&old]);
    let start = |command: &str, config| crate::kit::process::Service::start(path.folder.path(), command, config);
    let (mut producer, mut consumer) = (start("producer", &for_producer), start("consumer", &for_consumer));
    path.streaming().await;

    // Changes flow from here to the end, some in every step.
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let url = path.source.url.clone();
    let writing = async {
        let client = crate::kit::database::connect(&url).await;
        let mut id = 0;
        while stopped.try_recv().is_err() {
            id += 1;
            let change =
                format!("INSERT INTO item VALUES ({id}, 'a'); UPDATE item SET note = note || 'b' WHERE id = {id} / 2");
            client.batch_execute(&change).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        id
    };
    let rotating = async {
        let more = async |what: &str| {
            let seen = path.target.count(LAST).await;
            eventually(what, true, async || path.target.count(LAST).await > seen + 50).await;
        };
        more("under the old key").await;
        // 1. The consumer's file gets the new key; it reads it when it meets the new id.
        write("consumer.toml", &text, &[&old, &new]);
        // 2. The producer's file gets the new key, its shares name it, and it is started again.
        write("producer.toml", &text.replace("key = \"2026-11\"", "key = \"2026-12\""), &[&old, &new]);
        assert!(producer.stop().success());
        producer = start("producer", &for_producer);
        more("under the new key").await;
        // 3. Nothing that was sealed with the old key is in flight once every partition was empty after that.
        for partition in 0..8 {
            let waiting = async || {
                let output = syncline(path.folder.path(), &["queue", "status", "--json", "--config", "consumer.toml"]);
                let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
                status[0]["partitions"][partition]["ready"].as_u64()
            };
            eventually("an empty partition", Some(0), waiting).await;
        }
        // 4. The old key goes, from both; the consumer forgets it when it is started again.
        write("producer.toml", &text.replace("key = \"2026-11\"", "key = \"2026-12\""), &[&new]);
        write("consumer.toml", &text, &[&new]);
        assert!(consumer.stop().success());
        assert!(!consumer.log().contains("paused"), "{}", consumer.log());
        consumer = start("consumer", &for_consumer);
        more("without the old key").await;
        stop.send(()).unwrap();
    };
    let (last, ()) = tokio::join!(writing, rotating);
    path.in_step("everything", ALL, ALL).await;
    assert!(last > 100);
    assert!(producer.stop().success() && consumer.stop().success());
    assert!(!consumer.log().contains("paused") && !producer.log().contains("paused"));
    assert_eq!(path.vhost.ready("crm.dead"), 0);
}
