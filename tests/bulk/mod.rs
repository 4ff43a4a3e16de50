//! Bulk shares beside the stream, from PostgreSQL and from SQLite, over RabbitMQ.

pub mod world;

use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

use self::world::{End, World};
use crate::kit::{PATIENCE, eventually, eventually_some};

/// Enough that a table is read over several connections.
const ROWS: usize = 30_000;

/// Those that fit the shares' filter.
const ITEMS: &str = "SELECT id, n, note FROM item WHERE n >= 0 ORDER BY id";
const OTHERS: &str = "SELECT id, n, note FROM other WHERE n >= 0 ORDER BY id";

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Waits for a command's end, without holding up what else runs.
pub async fn ended(mut child: Child) -> Output {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "still running");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    child.wait_with_output().unwrap()
}

/// Changes of every kind all over a table, until the command ends.
pub async fn write_until(world: &World, rows: usize, done: impl Future<Output = Output>) -> Output {
    let mut done = std::pin::pin!(done);
    let mut round = 0;
    loop {
        tokio::select! {
            biased;
            output = &mut done => return output,
            () = std::future::ready(()) => {}
        }
        round += 1;
        let (update, delete, key) = (round * 37 % rows, round * 101 % rows, round * 53 % rows);
        let statement = format!(
            "UPDATE item SET n = n + 10, note = 'changed {round}' WHERE id % 997 = {update} % 997 AND n >= 0;
             DELETE FROM item WHERE id = {delete};
             UPDATE item SET id = {rows} * 2 + {round} WHERE id = {key} + 3;
             INSERT INTO item VALUES ({rows} * 4 + {round}, 1, 'new', '2026-11-22 00:00:00')"
        );
        world.source.run(&statement).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn beside_live_changes(world: &World) {
    world.fill("item", ROWS).await;
    let (mut producer, mut consumer) = (world.producer().await, world.service("consumer"));
    let child = world.spawn(&["items", "--wait", "--rows-per-second", "20000"]);
    let output = write_until(world, ROWS, ended(child)).await;
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("items: finished, "), "{}", text(&output));
    world.source.run("DELETE FROM item WHERE id % 100 = 5").await;
    world.in_step("target and source are the same", ITEMS).await;
    let confirmed = producer.metric("syncline_producer_confirmed_total", "action=\"bulk\"");
    assert!(confirmed > 25_000.0, "{confirmed}");
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_postgresql_beside_live_changes_leaves_no_difference() {
    beside_live_changes(&World::postgres("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_sqlite_beside_live_changes_leaves_no_difference() {
    beside_live_changes(&World::sqlite("").await).await;
}

async fn killed_in_the_middle(world: &World) {
    world.fill("item", ROWS).await;
    let mut producer = world.producer().await;
    let mut consumer = world.service("consumer");
    let mut child = world.spawn(&["items", "--wait", "--rows-per-second", "6000"]);
    let rows = || world.status().first().and_then(|one| one["rows"].as_u64()).unwrap_or_default();
    eventually_some("some of it is stored", async || (rows() > 6_000).then_some(())).await;
    producer.kill();
    child.kill().unwrap();
    child.wait().unwrap();
    let stored = rows();
    assert!(stored < u64::try_from(ROWS).unwrap(), "{stored}");
    // While nobody looks: deletes and changes in what was sent, and in what was not.
    world.source.run("DELETE FROM item WHERE id % 10 = 3; UPDATE item SET note = 'later' WHERE id % 10 = 4").await;
    let planned = world.bulk(&["items", "--rows-per-second", "6000"]);
    assert!(planned.status.success() && text(&planned).contains("goes on"), "{}", text(&planned));
    let mut producer = world.service("producer");
    world.source.run("DELETE FROM item WHERE id % 10 = 5").await;
    eventually("it is finished", Some("finished".to_owned()), async || {
        world.status().first().and_then(|one| one["state"].as_str().map(str::to_owned))
    })
    .await;
    world.in_step("target and source are the same", ITEMS).await;
    assert_eq!(world.status().len(), 1, "it was gone on with, not asked for anew");
    // What was sent within the last second before the kill comes again, and no more.
    let again = producer.metric("syncline_producer_confirmed_total", "action=\"bulk\"");
    let left = u32::try_from(ROWS).unwrap() - u32::try_from(stored).unwrap();
    assert!(again <= f64::from(left) + 6_000.0, "{again} of {left} left");
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_postgresql_goes_on_after_a_kill_and_brings_nothing_deleted_back() {
    killed_in_the_middle(&World::postgres("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_sqlite_goes_on_after_a_kill_and_brings_nothing_deleted_back() {
    killed_in_the_middle(&World::sqlite("").await).await;
}

async fn throttled_and_cancelled(world: &World) {
    world.fill("item", 5_000).await;
    let (mut producer, mut consumer) = (world.producer().await, world.service("consumer"));
    let started = Instant::now();
    let output = world.bulk(&["items", "--wait", "--rows-per-second", "2500"]);
    let took = started.elapsed();
    assert!(output.status.success(), "{}", text(&output));
    assert!(took >= Duration::from_millis(1_700), "5000 rows at 2500 a second took {took:?}");
    world.in_step("all of it", ITEMS).await;

    let slow = ["items", "--wait", "--rows-per-second", "50"];
    let child = world.spawn(&slow);
    eventually("it runs", true, async || {
        let status = world.status();
        status.len() == 2 && status[1]["state"] == "running" && status[1]["rows"].as_u64() > Some(0)
    })
    .await;
    let cancelled = world.bulk(&["--cancel", "items"]);
    assert!(text(&cancelled).contains("asked to stop"), "{}", text(&cancelled));
    let output = ended(child).await;
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("items: cancelled after "), "{}", text(&output));

    let child = world.spawn(&slow);
    eventually("it runs", true, async || {
        world.status().len() == 3 && world.status().last().is_some_and(|one| one["state"] == "running")
    })
    .await;
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let output = ended(child).await;
    assert!(text(&output).contains("Asking the producer to stop"), "{}", text(&output));
    let states: Vec<_> = world.status().iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect();
    assert_eq!(states, ["finished", "cancelled", "cancelled"]);
    assert!(text(&world.bulk(&["--status"])).contains("cancelled"));
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_postgresql_keeps_its_rate_and_stops_when_asked() {
    throttled_and_cancelled(&World::postgres("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bulk_share_from_sqlite_keeps_its_rate_and_stops_when_asked() {
    throttled_and_cancelled(&World::sqlite("").await).await;
}

const GROUP: &str = "[bulk_group.all]\nshares = [\"others\", \"items\"]\n";

async fn planned_while_stopped(world: &World) {
    world.fill("item", 2_000).await;
    world.fill("other", 2_000).await;
    let planned = world.bulk(&["--group", "all"]);
    assert!(planned.status.success(), "{}", text(&planned));
    assert!(text(&planned).contains("is planned and runs when the producer starts"), "{}", text(&planned));
    let states = || world.status().iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(states(), ["planned", "planned"]);
    let unfit = world.bulk(&["items", "--where", "nosuch=1"]);
    assert!(unfit.status.success(), "{}", text(&unfit));
    let some = world.bulk(&["items", "--where", "n=3^id<100"]);
    assert!(some.status.success(), "{}", text(&some));
    let (mut producer, mut consumer) = (world.service("producer"), world.service("consumer"));
    eventually("all ended", ["finished", "finished", "failed", "finished"].map(str::to_owned).to_vec(), async || {
        states()
    })
    .await;
    let status = world.status();
    let at = |place: usize, field: &str| status[place][field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert_eq!((&status[0]["share"], &status[1]["share"]), (&Value::from("others"), &Value::from("items")));
    assert!(at(1, "started_at") >= at(0, "ended_at"), "one after the other: {status:?}");
    assert!(status[2]["reason"].as_str().unwrap().contains("no column nosuch"), "{status:?}");
    let bulk = || {
        producer.metric("syncline_producer_confirmed_total", "share=\"items\",action=\"bulk\"")
            + producer.metric("syncline_producer_confirmed_total", "action=\"bulk\",share=\"items\"")
    };
    assert!((bulk() - 1_970.0).abs() < 0.5, "{}", bulk());
    world.in_step("items", ITEMS).await;
    world.in_step("others", OTHERS).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_planned_while_no_producer_of_postgresql_runs_runs_in_order_when_it_starts() {
    planned_while_stopped(&World::postgres(GROUP).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_planned_while_no_producer_of_sqlite_runs_runs_in_order_when_it_starts() {
    planned_while_stopped(&World::sqlite(GROUP).await).await;
}

const SCHEDULE: &str = "[schedule.sync_up]\nshare = \"items\"\nevery = \"1s\"\nchanged_only = true\noverlap = \"0s\"\n\
    [schedule.slow]\nshare = \"others\"\nevery = \"1s\"\n[producer.bulk]\nrows_per_second = 600\n";

async fn scheduled(world: &World) {
    world.fill("item", 500).await;
    world.fill("other", 2_000).await;
    let (mut producer, mut consumer) = (world.producer().await, world.service("consumer"));
    world.in_step("the first sync-up sends all", ITEMS).await;
    // A change that passed the listener: no trigger, no log entry of this table's.
    let missed = "UPDATE item SET note = 'unheard', changed_on = '2999-01-01 00:00:00' WHERE id = 7";
    match &world.source {
        End::Postgres(database) => {
            let applied = "SELECT pg_logical_emit_message(true, 'syncline-applied', '')";
            database.run(&format!("BEGIN; {applied}; {missed}; COMMIT")).await;
        }
        End::Sqlite(_) => {
            let (begin, end) = ("INSERT INTO _syncline_applying VALUES ('test')", "DELETE FROM _syncline_applying");
            world.source.run(&format!("BEGIN; {begin}; {missed}; {end}; COMMIT")).await;
        }
    }
    world.in_step("the sync-up", ITEMS).await;
    eventually("a sync-up of the one changed record", true, async || {
        world.status().iter().any(|one| one["schedule"] == "sync_up" && one["rows"] == 1 && one["state"] == "finished")
    })
    .await;
    eventually("a time that was left out is said", true, async || producer.log().contains("is left out")).await;
    world.in_step("the slow one", OTHERS).await;
    let mut runs: Vec<_> = world.status().into_iter().filter(|one| one["schedule"] == "slow").collect();
    runs.retain(|one| one["started_at"].is_string());
    for pair in runs.windows(2) {
        let time = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        assert!(time(&pair[1]["started_at"]) >= time(&pair[0]["ended_at"]), "{pair:?}");
    }
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_postgresql_fires_never_overlaps_and_sends_what_passed_the_listener() {
    scheduled(&World::postgres(SCHEDULE).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_of_sqlite_fires_never_overlaps_and_sends_what_passed_the_listener() {
    scheduled(&World::sqlite(SCHEDULE).await).await;
}
