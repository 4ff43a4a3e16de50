//! Filters end to end: what a share's encoded query lets through to the target, and what is refused before that.

use rusqlite::Connection;

use crate::kit::config::{Folder, common, embedded, rabbitmq};
use crate::kit::database::Database;
use crate::kit::process::{Service, syncline};
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, eventually_some};

/// Filters by the target table that gets what they let through: what changed; text, lists, ranges and other columns; dates.
const FILTERS: [(&str, &str); 3] = [
    ("resolved", "stateCHANGESTO6"),
    (
        "texts",
        "subjectLIKEvpn^ORsubjectENDSWITHdown^subjectNOT LIKEtest^stateNOT IN7,8^priorityBETWEEN1@3^priorityLT_FIELDstate",
    ),
    ("nights", "openedDATEPARTMidnight@javascript:gs.datePart('hour','0','EE')^openedRELATIVELT@minute@ahead@5"),
];

/// The same changes at every source; a time is 15:30 in UTC where it is 0:30 in Tokyo.
const CHANGES: [&str; 5] = [
    "INSERT INTO incident VALUES ('INC1', 2, 1, 'vpn is down', '2026-03-03 15:30:00Z')",
    "INSERT INTO incident VALUES ('INC2', 3, 3, 'test of the vpn', '2026-03-03 00:30:00Z')",
    "INSERT INTO incident VALUES ('INC3', 6, 5, 'mail is slow', '2100-01-01 15:30:00Z')",
    "UPDATE incident SET state = 6 WHERE number = 'INC1'",
    "UPDATE incident SET subject = 'mail is slower' WHERE number IN ('INC3')",
];

fn config(folder: &Folder, vhost: &Vhost, source: &str) -> std::path::PathBuf {
    let mut config = format!("{}{}\n[source.desk]\n{source}\n", rabbitmq(&vhost.url), common(folder));
    for (into, filter) in FILTERS {
        config += &format!(
            "[shared_queue.{into}]\npartitions = 2\n\
             [share.{into}]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"{into}\"\nkey = \"aes\"\n\
             interactive_only = false\nfilter = \"{filter}\"\ntime_zone = \"Asia/Tokyo\"\n\
             [subscription.{into}]\nqueue = \"{into}\"\ntarget = \"crm\"\ntable.incident.into = \"{into}\"\n"
        );
    }
    config += &format!("[target.crm]\ntype = \"sqlite\"\npath = \"{}\"\n", folder.file("crm.db").display());
    let crm = Connection::open(folder.file("crm.db")).unwrap();
    crm.pragma_update(None, "journal_mode", "WAL").unwrap();
    for (into, _) in FILTERS {
        crm.execute_batch(&format!(
            "CREATE TABLE {into} (number TEXT PRIMARY KEY, state INTEGER, priority INTEGER, subject TEXT, opened TEXT)"
        ))
        .unwrap();
    }
    folder.write("syncline.toml", &config)
}

/// What each filter let through: what became of a record after it last fitted.
async fn arrives(folder: &Folder) {
    let rows = |into: &str| {
        let crm = Connection::open(folder.file("crm.db")).unwrap();
        let mut select =
            crm.prepare(&format!("SELECT number || ' ' || state || ' ' || subject FROM {into} ORDER BY 1")).unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect::<Vec<String>>()
    };
    for (into, expected) in [
        ("resolved", vec!["INC1 6 vpn is down", "INC3 6 mail is slow"]),
        ("texts", vec!["INC1 6 vpn is down"]),
        ("nights", vec!["INC1 6 vpn is down"]),
    ] {
        eventually(into, expected.into_iter().map(str::to_owned).collect::<Vec<_>>(), async || rows(into)).await;
    }
}

async fn every_change_is_decided(producer: &Service) {
    eventually("the changes", 15.0, async || producer.metric("syncline_producer_changes_total", "")).await;
    eventually("the shared", 6.0, async || {
        producer.metric("syncline_producer_shared_total", "insert")
            + producer.metric("syncline_producer_shared_total", "update")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_let_the_same_through_from_sqlite() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let desk = Connection::open(folder.file("desk.db")).unwrap();
    desk.execute_batch(
        "PRAGMA journal_mode = WAL;
         CREATE TABLE incident (number TEXT PRIMARY KEY, state INTEGER, priority INTEGER, subject TEXT, opened TEXT);",
    )
    .unwrap();
    let config =
        config(&folder, &vhost, &format!("type = \"sqlite\"\npath = \"{}\"", folder.file("desk.db").display()));
    let mut producer = Service::start(folder.path(), "producer", &config);
    let mut consumer = Service::start(folder.path(), "consumer", &config);
    let watched = || {
        desk.query_row("SELECT count(*) FROM sqlite_schema WHERE type = 'trigger'", [], |row| row.get::<_, i64>(0)).ok()
    };
    eventually_some("the triggers", async || watched().filter(|triggers| *triggers >= 3)).await;
    desk.execute_batch(&CHANGES.join(";")).unwrap();
    every_change_is_decided(&producer).await;
    arrives(&folder).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_let_the_same_through_from_postgresql() {
    let (folder, vhost, desk) = (Folder::create(), Vhost::create(), Database::create("desk").await);
    desk.run(
        "CREATE TABLE incident (number text PRIMARY KEY, state int, priority int, subject text, opened timestamptz);
         ALTER TABLE incident REPLICA IDENTITY FULL",
    )
    .await;
    let source = format!("type = \"postgres\"\nurl = \"{}\"\nslot = \"{}\"", desk.url, desk.name);
    let config = config(&folder, &vhost, &source);
    let mut producer = Service::start(folder.path(), "producer", &config);
    let mut consumer = Service::start(folder.path(), "consumer", &config);
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
    eventually("streaming", 1, async || desk.count(slot).await).await;
    for change in CHANGES {
        desk.run(change).await;
    }
    every_change_is_decided(&producer).await;
    arrives(&folder).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[test]
fn a_filter_that_is_no_filter_is_refused_with_its_place_and_what_is_accepted() {
    let folder = Folder::create();
    let share = |name: &str, rest: &str| {
        format!(
            "[share.{name}]\nsource = \"desk\"\ntable = \"{name}\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n{rest}\n"
        )
    };
    let config = format!(
        "{}{}[source.desk]\ntype = \"sqlite\"\npath = \"desk.db\"\n{}{}{}{}",
        embedded(&folder),
        common(&folder),
        share("misspelt", "filter = \"active=true^stateCHANGETO6\""),
        share("walking", "filter = \"caller_id.name=Abel\""),
        share("scripted", "filter = \"caller_id=javascript:gs.getUserID()\""),
        share("elsewhere", "filter = \"active=true\"\ntime_zone = \"Atlantis\""),
    );
    let line = |text: &str| config.lines().position(|line| line.contains(text)).unwrap() + 1;
    folder.write("syncline.toml", &config);
    let output = syncline(folder.path(), &["check"]);
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "{problems}");
    for (place, path, expected) in [
        ("CHANGETO6", "misspelt.filter", "at character 18: found \"CHANGETO6\" where an operator must be; = != <"),
        ("caller_id.name", "walking.filter", "at character 1: \"caller_id.name\" is a column of another record"),
        (
            "getUserID",
            "scripted.filter",
            "at character 11: \"javascript:gs.getUse\" is a script of the platform; a value, or",
        ),
        ("Atlantis", "elsewhere.time_zone", "\"Atlantis\" is not known; a name such as \"Europe/Berlin\""),
    ] {
        let expected = format!("syncline.toml:{}: share.{path}: {expected}", line(place));
        assert!(problems.contains(&expected), "missing: {expected}\n{problems}");
    }
}
