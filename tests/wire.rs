//! A program in another language reads what Syncline sends, following `docs/wire-format.md` alone.

use std::process::Command;

use crate::kit::{eventually, service};
use crate::postgres::Path;

#[tokio::test(flavor = "multi_thread")]
async fn python_reads_every_cipher_from_rabbitmq() {
    let table = "CREATE TABLE incident (number text PRIMARY KEY, subject text, cost numeric(30,10), photo bytea, active boolean)";
    let share = |queue: &str, seal: &str| {
        format!(
            "[share.of_{queue}]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"{queue}\"\n{seal}\ninteractive_only = false\n"
        )
    };
    let key = |id: &str| format!("key = \"{id}\"");
    let path = Path::create(table, table, &share("crm", &key("3des")), "").await;
    // A shared queue for each other way to seal; the consumer is not started, so the messages stay.
    let others = [
        ("aes256", key("aes")),
        ("aes128", key("aes128")),
        ("plain", "cipher = \"None\"".to_owned()),
        ("base64", "cipher = \"Base64\"".to_owned()),
    ];
    let mut config = std::fs::read_to_string(&path.config).unwrap();
    let secret = path.folder.file("key").display().to_string();
    config.push_str(&format!("[key.\"aes128\"]\ncipher = \"AES128\"\nsecret_file = \"{secret}\"\n"));
    for (queue, seal) in &others {
        config.push_str(&format!("[shared_queue.{queue}]\npartitions = 8\n{}", share(queue, seal)));
    }
    std::fs::write(&path.config, config).unwrap();
    let mut producer = path.producer();
    path.streaming().await;
    path.source
        .run(
            "INSERT INTO incident SELECT 'INC' || n, E'quote \" \\\\ ü 画', 12345678901234567890.0123456789, '\\x00ff', true
             FROM generate_series(1, 50) n; DELETE FROM incident WHERE number = 'INC50'",
        )
        .await;
    eventually("sent", 5.0 * 51.0, async || producer.metric("syncline_producer_confirmed_total", "")).await;
    assert!(producer.stop().success());

    let reader = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/read_messages.py");
    let keys = ["3des", "aes", "aes128"].map(|id| format!("{id}={secret}"));
    for queue in others.iter().map(|(queue, _)| *queue).chain(["crm"]) {
        let output = Command::new(service("SYNCLINE_TEST_PYTHON"))
            .args([reader, "--url", &path.vhost.url, "--queue", queue, "--partitions", "8"])
            .args(["--records", "51", "--accept-unsealed"])
            .args(keys.iter().flat_map(|key| ["--key", key]))
            .output()
            .unwrap();
        assert!(output.status.success(), "{queue}: {}", String::from_utf8_lossy(&output.stderr));
        let lines: Vec<serde_json::Value> =
            String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 51, "{queue}");
        assert_eq!(lines.iter().filter(|line| line["action"] == "delete").count(), 1, "{queue}");
    }
}
