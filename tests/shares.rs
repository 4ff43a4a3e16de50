//! What the command line tells of shares.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::kit::config::{Folder, common, embedded};
use crate::kit::process::{Service, syncline};
use crate::kit::{eventually, free_port};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn share_list_tells_what_a_running_producer_counts_and_what_looks_wrong() {
    let folder = Folder::create();
    let desk = folder.file("desk.db");
    let database = Connection::open(&desk).unwrap();
    database
        .execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE incident (number TEXT PRIMARY KEY, priority INTEGER);")
        .unwrap();
    let share = |name: &str, queue: &str, filter: &str| {
        format!(
            "[share.{name}]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"{queue}\"\nkey = \"aes\"\n\
             interactive_only = false\nfilter = \"{filter}\"\n"
        )
    };
    let config = format!(
        "{}{}\n[shared_queue.other]\n[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\n{}{}",
        embedded(&folder),
        common(&folder).replacen("127.0.0.1:0", &format!("127.0.0.1:{}", free_port()), 1),
        desk.display(),
        share("urgent", "crm", "priority<=2"),
        share("never", "other", "priority>99"),
    );
    let path = folder.write("syncline.toml", &config);
    let list = || {
        let output = syncline(folder.path(), &["share", "list", "--json"]);
        assert!(output.status.success(), "{}", text(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    let stopped = list();
    assert_eq!((&stopped[0]["state"], &stopped[0]["counters"]), (&json!("not told"), &Value::Null), "{stopped}");
    let told = text(&syncline(folder.path(), &["share", "list"]).stdout);
    assert!(told.contains("note: no producer answers at 127.0.0.1:"), "{told}");

    let mut producer = Service::start(folder.path(), "producer", &path);
    eventually("the producer listens", true, async || producer.get("/readyz").is_some()).await;
    database.execute_batch("INSERT INTO incident VALUES ('INC1', 1), ('INC2', 3), ('INC3', 2)").unwrap();
    let counted = json!({"changes": 3, "shared": 2, "withheld": {"filter": 1}, "confirmed": 2, "dead_letters": 0});
    eventually("the counters", counted, async || {
        let mut counters = list()[1]["counters"].clone();
        counters.as_object_mut().map(|counters| counters.remove("newest_change"));
        counters
    })
    .await;
    let running = list();
    assert_eq!((&running[0]["share"], &running[1]["share"]), (&json!("never"), &json!("urgent")));
    assert_eq!(running[1]["state"], "running");
    assert!(running[1]["counters"]["newest_change"].as_str().unwrap().ends_with('Z'), "{running}");
    let warnings = |share: usize| running[share]["warnings"].as_array().unwrap().len();
    assert_eq!((warnings(0), warnings(1)), (2, 1), "{running}");
    let told = text(&syncline(folder.path(), &["share", "list"]).stdout);
    for expected in [
        "urgent  running  3        2       1         2",
        "warning: share urgent: share never sends records of table incident too, to shared queue other",
        "warning: share never: no change of 3 fitted its filter since the producer was started",
    ] {
        assert!(told.contains(expected), "missing: {expected}\n{told}");
    }
    // A share that was written later is not in the producer that runs.
    folder.write("syncline.toml", &config.replace("share.never", "share.newer"));
    assert_eq!(list()[0]["state"], "absent");
    assert!(producer.stop().success());
}
