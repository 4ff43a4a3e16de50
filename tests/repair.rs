//! What a source lost, and how it is brought back.

use crate::kit::eventually;
use crate::kit::process::syncline;
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str =
    "[share.item]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_slot_pauses_the_source_and_a_rebuild_catches_the_target_up() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'kept'), (2, 'changed'), (3, 'deleted')").await;
    let all = "SELECT id, note FROM item";
    path.in_step("the stream", all, all).await;
    assert!(producer.stop().success());
    path.source.run(&format!("SELECT pg_drop_replication_slot('{}')", path.source.name)).await;
    path.source.run("UPDATE item SET note = 'new' WHERE id = 2; DELETE FROM item WHERE id = 3; INSERT INTO item VALUES (4, 'missed')").await;

    let mut producer = path.producer();
    let reason = "changes were lost before they could be read";
    eventually("not ready, with the reason and the repair", (true, true), async || {
        let (status, body) = producer.get("/readyz").unwrap_or_default();
        (status.contains("503") && body.contains(reason), body.contains("syncline source rebuild desk"))
    })
    .await;
    let config = path.config.display().to_string();
    let rebuilt = syncline(path.folder.path(), &["--config", &config, "source", "rebuild", "desk"]);
    let told = String::from_utf8_lossy(&rebuilt.stdout).into_owned();
    assert!(rebuilt.status.success(), "{told}{}", String::from_utf8_lossy(&rebuilt.stderr));

    let caught_up = ["(1,kept)", "(2,new)", "(3,deleted)", "(4,missed)"].map(str::to_owned).to_vec();
    eventually("the copy, but for the delete", caught_up, async || path.target.rows(all).await).await;
    let left_over = told.lines().find(|line| line.contains("PostgreSQL")).unwrap();
    let left_over = left_over.split("--").next().unwrap().trim().trim_end_matches(';').replace("<table>", "item");
    let left_over = format!("SELECT id FROM ({left_over}) AS left_over");
    // Record 1 looks the same before its copy and after it, and comes by a partition of its own.
    let deleted = vec!["(3)".to_owned()];
    eventually("the deleted record alone is left over", deleted, async || path.target.rows(&left_over).await).await;
    eventually("ready again", true, async || producer.get("/readyz").is_some_and(|(status, _)| status.contains("200")))
        .await;
    assert!(producer.stop().success());
    assert!(consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_open_transactions_says_so() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    path.source.run("BEGIN; INSERT INTO item VALUES (1, 'marker: open')").await;
    let mut producer = path.producer();
    eventually("told what it waits for", true, async || producer.log().contains("waiting for open transactions")).await;
    let log = producer.log();
    let line = log.lines().find(|line| line.contains("waiting for open transactions")).unwrap();
    assert!(line.contains("transactions=") && line.contains("oldest_seconds="), "{line}");
    assert!(!log.contains("marker"), "no statement of anybody");
    path.source.run("COMMIT").await;
    path.streaming().await;
    assert!(producer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_table_is_gone_on_with_once_a_person_says_so() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item VALUES (1, 'before')").await;
    let all = "SELECT id, note FROM item";
    path.in_step("the stream", all, all).await;
    let config = path.config.display().to_string();
    let resume = || syncline(path.folder.path(), &["--config", &config, "source", "resume", "desk"]);

    let none = resume();
    assert!(none.status.success(), "{}", String::from_utf8_lossy(&none.stderr));
    assert_eq!(String::from_utf8_lossy(&none.stdout), "No table of the source desk waits for this.\n");
    path.source.run("TRUNCATE item; INSERT INTO item VALUES (2, 'after')").await;
    eventually("paused, with the way out", (true, true), async || {
        let (status, body) = producer.get("/readyz").unwrap_or_default();
        (status.contains("503"), body.contains("the table") && body.contains("syncline source resume desk"))
    })
    .await;
    assert_eq!(path.target.rows(all).await, ["(1,before)"], "nothing passes the place");

    path.target.run("TRUNCATE item").await;
    let resumed = resume();
    let told = String::from_utf8_lossy(&resumed.stdout);
    assert!(resumed.status.success(), "{told}{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(told.starts_with("The source desk goes on") && told.trim_end().ends_with(": item."), "{told}");
    path.in_step("the stream behind the place", all, all).await;
    assert!(producer.stop().success());
    assert!(consumer.stop().success());
}
