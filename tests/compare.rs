//! Comparing a share with what a target has of it, and repairing that, over RabbitMQ.

use serde_json::{Value, json};

use crate::bulk::world::World;
use crate::bulk::{ended, text, write_until};
use crate::kit::eventually;
use crate::kit::process::syncline;

/// Several ranges.
const ROWS: usize = 10_000;

const ITEMS: &str = "SELECT id, n, note FROM item WHERE n >= 0 ORDER BY id";

/// Compares; the exit code, and what was told.
async fn compare(world: &World, args: &[&str]) -> (Option<i32>, Value) {
    let output = ended(world.spawn_command("compare", &[args, &["--json"]].concat())).await;
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Value::from(text(&output)));
    (output.status.code(), told)
}

/// The keys and columns of all differences, in order of the keys.
fn differences(told: &Value) -> Vec<String> {
    let found = told["differences"].as_array().unwrap_or_else(|| panic!("{told}"));
    let one = |one: &Value| {
        format!("{} {} {}", one["key"]["id"].as_str().unwrap(), one["what"].as_str().unwrap(), one["columns"])
    };
    let mut all: Vec<_> = found.iter().map(one).collect();
    all.sort();
    all
}

async fn in_step_while_changes_flow_and_repaired(world: &World) {
    world.fill("item", ROWS).await;
    let (mut producer, mut consumer) = (world.producer().await, world.service("consumer"));
    let bulk = world.bulk(&["items", "--wait"]);
    assert!(bulk.status.success(), "{}", text(&bulk));
    world.in_step("all of it", ITEMS).await;
    let thrice = async {
        for again in [true, true, false] {
            let output = ended(world.spawn_command("compare", &["items", "--target", "crm", "--settle", "60"])).await;
            assert!(output.status.success() && text(&output).contains("IN STEP"), "{}", text(&output));
            if !again {
                return output;
            }
        }
        unreachable!("the last one returns")
    };
    write_until(world, ROWS, thrice).await;
    world.in_step("nothing is on its way", ITEMS).await;

    let columns = "id, n, note, changed_on";
    let tamper = format!(
        "DELETE FROM item WHERE id = 1001; UPDATE item SET n = n + 1 WHERE id = 2002;
         UPDATE item SET note = NULL, changed_on = 'x' WHERE id = 2003; INSERT INTO item ({columns}) VALUES (-7, 1, 'x', 'x')"
    );
    world
        .source
        .run("INSERT INTO item VALUES (2002, 1, 'x', 'x') ON CONFLICT (id) DO UPDATE SET n = 1, note = 'x'")
        .await;
    world.source.run("INSERT INTO item VALUES (2003, 1, 'x', 'y') ON CONFLICT (id) DO UPDATE SET n = 1, note = 'x', changed_on = 'y'").await;
    world
        .source
        .run("INSERT INTO item VALUES (1001, 1, 'x', 'y') ON CONFLICT (id) DO UPDATE SET n = 1, note = 'x'")
        .await;
    world.in_step("three that are sure to be there", ITEMS).await;
    world.target.run(&tamper).await;
    let expected =
        ["-7 extra null", "1001 missing null", "2002 different [\"n\"]", "2003 different [\"note\",\"changed_on\"]"];
    let (code, told) = compare(world, &["items", "--target", "crm", "--settle", "1", "--repair"]).await;
    assert_eq!((code, differences(&told)), (Some(1), expected.map(str::to_owned).into()));
    assert_eq!(
        (&told["same"], &told["tables"][0]["extra"], &told["repair"]["records"]),
        (&json!(false), &json!(1), &json!(4))
    );
    world.in_step("it is repaired", ITEMS).await;
    let (code, told) = compare(world, &["items", "--target", "crm"]).await;
    assert_eq!((code, differences(&told), &told["same"]), (Some(0), vec![], &json!(true)));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_in_step_while_changes_flow_and_what_somebody_changed_is_listed_and_repaired() {
    in_step_while_changes_flow_and_repaired(&World::postgres("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_in_step_while_changes_flow_and_what_somebody_changed_is_listed_and_repaired() {
    in_step_while_changes_flow_and_repaired(&World::sqlite("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_to_sqlite_is_in_step_while_changes_flow_and_repaired() {
    in_step_while_changes_flow_and_repaired(&World::mixed("").await).await;
}

/// A repair that is executed late: by then the records are others.
async fn repaired_late(world: &World) {
    world.fill("item", 100).await;
    let (mut producer, mut consumer) = (world.producer().await, world.service("consumer"));
    assert!(world.bulk(&["items", "--wait"]).status.success());
    world.in_step("all of it", ITEMS).await;
    assert!(producer.stop().success());
    world
        .target
        .run("UPDATE item SET note = 'tampered' WHERE id IN (1, 2, 3); DELETE FROM item WHERE id IN (4, 5)")
        .await;
    world.target.run("INSERT INTO item (id, n, note) VALUES (-1, 1, 'x'), (-2, 1, 'x')").await;
    let (code, told) = compare(world, &["items", "--target", "crm", "--settle", "0", "--repair"]).await;
    assert_eq!((code, differences(&told).len(), &told["repair"]["records"]), (Some(1), 7, &json!(7)), "{told}");
    // One goes, one changes, one leaves the filter, one that was missing goes; and one that was too many comes to be.
    world
        .source
        .run(
            "DELETE FROM item WHERE id IN (1, 4); UPDATE item SET note = 'newer' WHERE id = 2;
             UPDATE item SET n = -1 WHERE id = 3; INSERT INTO item (id, n, note) VALUES (-1, 5, 'real')",
        )
        .await;
    let mut producer = world.producer().await;
    eventually("it is finished", Some("finished".to_owned()), async || {
        world.status().last().and_then(|one| one["state"].as_str().map(str::to_owned))
    })
    .await;
    world.in_step("target and source are the same", ITEMS).await;
    let (code, told) = compare(world, &["items", "--target", "crm"]).await;
    assert_eq!((code, differences(&told)), (Some(0), vec![]));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_repair_from_postgresql_sends_what_is_by_then_and_undoes_nothing() {
    repaired_late(&World::postgres("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_repair_from_sqlite_sends_what_is_by_then_and_undoes_nothing() {
    repaired_late(&World::sqlite("").await).await;
}

/// Another form at the share, another table, a part of the columns, and a script before they are applied.
const MAPPED: &str = r#"
[subscription.crm.table.item]
into = "copied"
columns = { text = "remark", changed_on = "changed" }
before_subscribe = "current.text = current.text + '!';"
[subscription.crm.table.other]
into = "shared_rows"
[share.items.rename]
note = "text"
[share.items.mask]
changed_on = "redact"
[share.more]
source = "desk"
table = "third"
queue = "crm"
key = "aes"
interactive_only = false
[subscription.crm.table.third]
into = "shared_rows"
"#;

async fn mapped(world: &World) {
    let both = "CREATE TABLE shared_rows (id INTEGER PRIMARY KEY, n INTEGER, note TEXT, changed_on TEXT)";
    world.source.run(&both.replace("shared_rows", "third")).await;
    world
        .target
        .run(&format!("{both}; CREATE TABLE copied (id INTEGER PRIMARY KEY, n INTEGER, remark TEXT, changed TEXT)"))
        .await;
    world.fill("item", 100).await;
    world.fill("other", 10).await;
    let (mut producer, mut consumer) = (world.service("producer"), world.service("consumer"));
    for share in ["items", "others"] {
        let bulk = world.bulk(&[share, "--wait"]);
        assert!(bulk.status.success(), "{}", text(&bulk));
    }
    eventually("all of it", 98, async || world.target.rows("SELECT id, n, remark AS note FROM copied").await.len())
        .await;
    eventually("all of it", 10, async || world.target.rows("SELECT id, n, note FROM shared_rows").await.len()).await;
    world.target.run("UPDATE copied SET n = 7").await;
    let (code, told) = compare(world, &["items", "--target", "crm"]).await;
    assert_eq!((code, differences(&told)), (Some(0), vec![]), "{told}");
    world.target.run("UPDATE copied SET remark = 'as it was', changed = 'x' WHERE id = 9").await;
    let (code, told) = compare(world, &["items", "--target", "crm", "--settle", "0"]).await;
    assert_eq!(
        (code, differences(&told)),
        (Some(1), vec!["9 different [\"remark\",\"changed\"]".to_owned()]),
        "{told}"
    );

    // Of a table that others write to nobody can say what is too much.
    world.target.run("INSERT INTO shared_rows (id, n, note) VALUES (-1, 1, 'x')").await;
    let (code, told) = compare(world, &["others", "--target", "crm"]).await;
    assert_eq!((code, &told["tables"][0]["extra"]), (Some(0), &Value::Null), "{told}");
    assert!(told["tables"][0]["extra_unknown"].as_str().unwrap().contains("more"), "{told}");

    let refused = async |args: &[&str], code: i32, says: &str| {
        let (ended, told) = compare(world, args).await;
        let told = told.as_str().unwrap_or_default().to_owned();
        assert!(ended == Some(code) && told.contains(says), "{ended:?} {told}");
    };
    refused(&["nosuch", "--target", "crm"], 64, "there is no share nosuch").await;
    refused(&["items", "--target", "nosuch"], 64, "there is no target nosuch").await;
    world.target.run("DROP TABLE copied").await;
    refused(&["items", "--target", "crm"], 69, "\"copied\" does not exist").await;
    world.source.run("ALTER TABLE other RENAME TO gone").await;
    refused(&["others", "--target", "crm"], 69, "other does not exist").await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compared_in_postgresql_is_what_would_be_applied_and_what_cannot_be_said_is_not() {
    mapped(&World::postgres(MAPPED).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_compared_in_sqlite_is_what_would_be_applied_and_what_cannot_be_said_is_not() {
    mapped(&World::sqlite(MAPPED).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_read_or_applied_yet_is_no_difference_but_said() {
    let world = World::sqlite("").await;
    let config = world.config.display().to_string();
    let told = || syncline(world.folder.path(), &["compare", "--config", &config, "items", "--target", "crm"]);
    assert!(
        told().status.code() == Some(69) && text(&told()).contains("Nothing was ever applied"),
        "{}",
        text(&told())
    );
    world.target.run("ALTER TABLE item ADD COLUMN _syncline_version BLOB").await;
    assert!(told().status.code() == Some(69) && text(&told()).contains("start the producer"), "{}", text(&told()));
}
