//! `docs/operations.md` and `/metrics` name the same metrics.

use std::collections::BTreeSet;
use std::path::Path as File;
use std::process::Command;

use crate::kit::config::{Folder, embedded};
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, service};
use crate::postgres::Path;

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_documented_and_nothing_else_is() {
    let table = "CREATE TABLE item (id int PRIMARY KEY, note text)";
    let share = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n\
                 [notify.webhook.chat]\nurl = \"http://127.0.0.1:9\"\n[traces]\nurl = \"http://127.0.0.1:9\"\n";
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let queue = embedded(&folder);
    let path = Path::create_on(folder, vhost, &queue, table, table, share, "").await;
    // `up` has the metrics of both services.
    let mut up = Service::start(path.folder.path(), "up", &path.config);
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'x')").await;
    eventually("applied", 1.0, async || up.metric("syncline_consumer_records_total", "outcome=\"applied\"")).await;
    let (_, body) = up.get("/metrics").unwrap();
    let exposed: BTreeSet<&str> =
        body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented: BTreeSet<&str> = include_str!("../docs/operations.md")
        .lines()
        .filter(|line| line.starts_with("| `syncline_") || line.starts_with("| `process_"))
        // The first column may name several.
        .flat_map(|line| line.split(" | ").next().unwrap().split('`').skip(1).step_by(2))
        // Five belong to the services run alone, one to servers that bound what they keep for a slot, one to certificates.
        .filter(|name| {
            ![
                "syncline_producer_paused",
                "syncline_consumer_paused",
                "syncline_producer_standing_by",
                "syncline_producer_resting",
                "syncline_consumer_resting",
                "syncline_producer_safe_wal_bytes",
                "syncline_certificate_expires_timestamp_seconds",
            ]
            .contains(name)
        })
        .collect();
    assert_eq!(exposed, documented);
    assert!(up.stop().success());
}

#[test]
fn every_metric_an_alert_asks_for_is_documented_and_every_alert_is_tested() {
    let rules = include_str!("../deploy/prometheus/rules.yml");
    let documented = include_str!("../docs/operations.md");
    let asked: BTreeSet<&str> = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with("- record:"))
        .flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':')))
        // What a pattern of names begins with is no name.
        .filter(|word| word.starts_with("syncline_") && *word != "syncline_")
        .map(|name| name.trim_end_matches("_bucket"))
        .collect();
    assert!(asked.len() > 5, "{asked:?}");
    for name in asked {
        assert!(documented.contains(&format!("| `{name}` |")), "{name}");
    }
    let tests = include_str!("../deploy/prometheus/rules.test.yml");
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("alertname: {alert}\n")), "{alert} has no test that it fires");
        assert!(tests.contains(&format!("alertname: {alert}, ")), "{alert} has no test that it does not fire");
        let (_, entry) =
            documented.split_once(&format!("\n#### `{alert}`")).unwrap_or_else(|| panic!("{alert} is not explained"));
        let entry = entry.split("\n#").next().unwrap();
        for part in ["Cause", "Look here", "Do this"] {
            assert!(entry.contains(&format!("\n- **{part}:** ")), "{alert} has no `{part}`");
        }
    }
}

#[test]
fn every_alert_fires_when_it_must_and_only_then() {
    let promtool = File::new(&service("SYNCLINE_TEST_PROMETHEUS")).join("promtool");
    let rules = File::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    let test = Command::new(promtool).args(["test", "rules", "rules.test.yml"]).current_dir(rules).output().unwrap();
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
}
