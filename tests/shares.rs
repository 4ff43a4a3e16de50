//! What the command line tells of shares.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::kit::config::{Folder, common, embedded};
use crate::kit::database::Database;
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
    let triggers = "SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'";
    let is_read = || database.query_row(triggers, [], |row| row.get::<_, i64>(0)) == Ok(3);
    eventually("the source is read", true, async || producer.get("/readyz").is_some() && is_read()).await;
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

/// A share of urgent incidents, and one of the same table that takes all of them.
fn desk(folder: &Folder, source: &str) {
    let config = format!(
        "{}{}\n[shared_queue.archive]\n[shared_queue.kept]\n{source}\n\
         [share.urgent]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"aes\"\n\
         columns = [\"number\", \"state\"]\n\
         filter = \"priority<=2^stateCHANGESTO6^ORstate=1^NQnumberSTARTSWITHVIP\"\non_leave = \"ignore\"\n\
         [share.kept]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"kept\"\nkey = \"3des\"\nfilter = \"priority<=2\"\n\
         before_share = 'if (current.state == 1) {{ current.state = 5; psp_action = \"insert\"; }} else ignore = true;'\n\
         [share.all]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"archive\"\ncipher = \"None\"\n",
        embedded(folder),
        common(folder),
    );
    folder.write("syncline.toml", &config);
}

fn tried(folder: &Folder, args: &[&str]) -> Value {
    let output = syncline(folder.path(), &[&["--json", "share", "test", "urgent"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn told(folder: &Folder, args: &[&str]) -> String {
    let output = syncline(folder.path(), &[&["share", "test", "urgent"], args].concat());
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// What must hold for the records INC1 (urgent, new, of Abel), INC2 (not urgent, of a job), and for records in files.
fn tries_of_incidents(folder: &Folder) {
    // By the key, by the number, by columns: the same record.
    for record in ["7", "INC1", "state=1,number=INC1"] {
        let report = tried(folder, &["--record", record]);
        assert_eq!(
            (&report["decision"], &report["action"]),
            (&json!("leaves"), &json!("update")),
            "{record}: {report}"
        );
        assert_eq!((&report["interactive"], &report["user"]), (&json!(true), &json!("abel")), "{report}");
        let message = &report["messages"][0];
        assert_eq!(
            (&message["queue"], &message["cipher"], &message["key"]),
            (&json!("crm"), &json!("AES256"), &json!("aes"))
        );
        assert_eq!(message["record"]["key"], json!({"id": 7}), "{report}");
        assert_eq!(message["record"]["data"], json!({"id": 7, "number": "INC1", "state": 1}), "{report}");
        assert_eq!(message["line_bytes"], message["record"].to_string().len() + 1, "{report}");
        assert!(message["sealed_bytes"].as_u64().unwrap() > 50, "{report}");
        assert_eq!((&report["others"][0]["share"], &report["others"][0]["cipher"]), (&json!("all"), &json!("None")));
    }
    let why = told(folder, &["--record", "INC1"]);
    for expected in [
        "share urgent: update of table incident, by abel, a person",
        "the record id = 7",
        "note: what the record was before is not known; --before FILE tells it",
        "✓ action   update; the share is on insert, update, delete",
        "        ✓ priority<=2          priority is 1",
        "    and ✗ stateCHANGESTO6      state is 1; what it was is not known",
        "    or  ✓ state=1              state is 1",
        "  as update of table incident to shared queue crm, partition ",
        "  AES256 under key aes: ",
        "  3 of 5 columns:",
        "    number  \"INC1\"",
        "Share all sends it too: update to shared queue archive.",
    ] {
        assert!(why.contains(expected), "missing: {expected}\n{why}");
    }
    // A job's record of another priority.
    let report = tried(folder, &["--record", "INC2"]);
    assert_eq!((&report["decision"], &report["reason"]), (&json!("withheld"), &json!("background")), "{report}");
    assert_eq!(report["messages"], json!([]));
    let report = tried(folder, &["--record", "INC2", "--user", "beth"]);
    assert_eq!((&report["decision"], &report["reason"]), (&json!("withheld"), &json!("filter")), "{report}");
    assert_eq!(report["filter"]["groups"][0]["clauses"][0]["terms"][0]["facts"], json!(["priority is 4"]), "{report}");
    let why = told(folder, &["--record", "INC2", "--background"]);
    assert!(
        why.contains("✗ session  a job")
            && why.contains("It does not leave (background): the share is for the work of persons"),
        "{why}"
    );

    // What the script makes of it.
    let output = syncline(folder.path(), &["share", "test", "kept", "--record", "INC1"]);
    let why = text(&output.stdout);
    for expected in
        ["✓ script   it leaves as insert", "  as insert of table incident to shared queue kept", "5  from 1"]
    {
        assert!(why.contains(expected), "missing: {expected}\n{why}{}", text(&output.stderr));
    }

    // What does not fit any more is deleted where it may have been.
    let output = syncline(folder.path(), &["share", "test", "kept", "--record", "INC2", "--user", "beth"]);
    let why = text(&output.stdout);
    assert!(
        why.contains("It does not fit, and may have left before. The subscribers get:\n  as delete of table"),
        "{why}"
    );
    assert!(why.contains("TripleDES under key 3des: "), "{why}");

    // Records in files: an insert, an update whose previous values count, a delete.
    let write = |name: &str, state: u8| {
        let text = format!(
            "{{\n  \"id\": 12345678901234567890,\n  \"number\": \"INC9\", \"priority\": 1, \"state\": {state}\n}}"
        );
        folder.write(name, &text);
    };
    write("open.json", 2);
    write("resolved.json", 6);
    let report = tried(folder, &["--after", "resolved.json", "--user", "abel"]);
    assert_eq!((&report["action"], &report["decision"]), (&json!("insert"), &json!("leaves")), "{report}");
    assert!(report["messages"][0]["record"].to_string().contains("12345678901234567890"), "{report}");
    for (before, decision) in [("open.json", "leaves"), ("resolved.json", "withheld")] {
        let report = tried(folder, &["--after", "resolved.json", "--before", before, "--user", "abel"]);
        assert_eq!((&report["action"], &report["decision"]), (&json!("update"), &json!(decision)), "{report}");
    }
    let report = tried(folder, &["--before", "resolved.json", "--user", "abel"]);
    assert_eq!((&report["action"], &report["reason"]), (&json!("delete"), &json!("filter")), "{report}");

    let output = syncline(folder.path(), &["share", "test", "kept", "--after", "open.json", "--user", "abel"]);
    let why = text(&output.stdout);
    assert!(why.contains("✗ script   it says ignore = true") && why.contains("It does not leave (script): "), "{why}");

    for (args, expected) in [
        (["urgent", "--record", "INC3"], "no such record in incident; it was looked for by id, number"),
        (["nobody", "--record", "INC1"], "there is no [share.nobody]; accepted: all, kept, urgent"),
        (["urgent", "--after", "syncline.toml"], "syncline.toml is no record: a JSON object of columns"),
    ] {
        let output = syncline(folder.path(), &[&["share", "test"], args.as_slice()].concat());
        assert!(!output.status.success() && text(&output.stderr).contains(expected), "{}", text(&output.stderr));
    }
    // Nothing was sent, and not even the queue was made.
    assert!(!folder.file("queue.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn share_test_tells_what_a_share_would_do_with_a_record_of_sqlite() {
    let folder = Folder::create();
    let path = folder.file("desk.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(
            "CREATE TABLE incident (id INTEGER PRIMARY KEY, number TEXT UNIQUE, priority INTEGER, state INTEGER, sys_updated_by TEXT);
             INSERT INTO incident VALUES (7, 'INC1', 1, 1, 'abel'), (8, 'INC2', 4, 1, 'nightly.job')",
        )
        .unwrap();
    desk(
        &folder,
        &format!(
            "[source.desk]\ntype = \"sqlite\"\npath = \"{}\"\nsession = {{ user_column = \"sys_updated_by\", background = [\"*.job\"] }}",
            path.display()
        ),
    );
    tries_of_incidents(&folder);
    // Nor was anything made in the source.
    let tables = Connection::open(&path).unwrap().query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type <> 'index'",
        [],
        |row| row.get(0),
    );
    assert_eq!(tables, Ok(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn share_test_tells_what_a_share_would_do_with_a_record_of_postgresql() {
    let (folder, source) = (Folder::create(), Database::create("source").await);
    source
        .run(
            "CREATE TABLE incident (id int PRIMARY KEY, number text UNIQUE, priority int, state int, sys_updated_by text);
             INSERT INTO incident VALUES (7, 'INC1', 1, 1, 'abel'), (8, 'INC2', 4, 1, 'nightly.job')",
        )
        .await;
    desk(
        &folder,
        &format!(
            "[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\nsession = {{ user_column = \"sys_updated_by\", background = [\"*.job\"] }}",
            source.url
        ),
    );
    tries_of_incidents(&folder);
    assert_eq!(source.count("SELECT count(*) FROM pg_publication").await, 0);
}
