//! A key is rotated by the steps of the runbook while changes flow: no pause, no dead letter, nothing lost.

use std::collections::BTreeSet;

use crate::kit::{eventually, service};
use crate::postgres::Path;
use crate::runbooks::{done, in_step, more_arrives, while_changes_flow};

const TABLE: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";

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
    // How many messages are handed out and not settled is what the management alone tells.
    let api = service("SYNCLINE_TEST_RABBITMQ_API");
    let management = format!("management_url = \"http://{}\"\n[producer]", api.rsplit('@').next().unwrap());
    let text = text.replacen("[producer]", &management, 1);
    let write = |name: &str, text: &str, keys: &[&String]| {
        path.folder.write(name, &[text, &keys.iter().map(|key| key.as_str()).collect::<String>()].concat())
    };
    let for_producer = write("producer.toml", &text, &[&old]);
    let for_consumer = write("consumer.toml", &text, &[&old]);
    let start = |command: &str, config| crate::kit::process::Service::start(path.folder.path(), command, config);
    let (mut producer, mut consumer) = (start("producer", &for_producer), start("consumer", &for_consumer));
    path.streaming().await;

    while_changes_flow(&path, async {
        more_arrives(&path, "under the old key").await;
        // 1. The consumer's file gets the new key; it reads it when it meets the new id.
        write("consumer.toml", &text, &[&old, &new]);
        // 2. The producer's file gets the new key, its shares name it, and it is started again.
        write("producer.toml", &text.replace("key = \"2026-11\"", "key = \"2026-12\""), &[&old, &new]);
        assert!(producer.stop().success());
        producer = start("producer", &for_producer);
        more_arrives(&path, "under the new key").await;
        // 3. Nothing that was sealed with the old key is in flight once every partition was empty after that.
        let mut seen_empty = BTreeSet::new();
        eventually("each partition was once empty", 8, async || {
            let status = done(&path, "consumer.toml", &["--json", "queue", "status"]);
            let status: serde_json::Value = serde_json::from_str(&status).unwrap();
            let partitions = status[0]["partitions"].as_array().unwrap().iter().enumerate();
            let empty = partitions.filter(|(_, partition)| partition["ready"] == 0 && partition["unacked"] == 0);
            seen_empty.extend(empty.map(|(number, _)| number));
            seen_empty.len()
        })
        .await;
        // 4. Dead letters are sealed again.
        done(&path, "producer.toml", &["dead-letter", "reseal", "--all"]);
        // 5. The old key goes, from both; the consumer forgets it when it is started again.
        write("producer.toml", &text.replace("key = \"2026-11\"", "key = \"2026-12\""), &[&new]);
        write("consumer.toml", &text, &[&new]);
        assert!(consumer.stop().success());
        assert!(!consumer.log().contains("paused"), "{}", consumer.log());
        consumer = start("consumer", &for_consumer);
        more_arrives(&path, "without the old key").await;
    })
    .await;
    in_step(&path, "producer.toml", &["items"]);
    assert!(producer.stop().success() && consumer.stop().success());
    assert!(!consumer.log().contains("paused") && !producer.log().contains("paused"));
    assert_eq!(path.vhost.ready("crm.dead"), 0);
}
