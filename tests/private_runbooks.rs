//! Runbooks of `docs/operations.md` that bring a database back from a backup or move it, on servers of the test's own.

use crate::bad_input::paused;
use crate::kit::database::{Database, connect};
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::server::PrivateServer;
use crate::postgres::Path;
use crate::runbooks::{done, file, in_step, more_arrives, run, while_changes_flow};

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";
const ALL: &str = "SELECT id, note FROM item";

/// A path whose target is on a server of its own, with its services.
async fn running() -> (PrivateServer, Path, Service, Service) {
    let server = PrivateServer::postgres();
    server.start();
    let mut path = Path::create(ITEM, "", SHARE, "").await;
    let target = Database::create_on(&server.url, "target").await;
    target.run(ITEM).await;
    file(&path, "syncline.toml", |text| text.replace(&path.target.url, &target.url));
    path.target = target;
    let (producer, consumer) = (path.producer(), path.consumer());
    (server, path, producer, consumer)
}

/// Runs programs of PostgreSQL beside a server.
fn shell(server: &PrivateServer, script: &str) {
    server.run(&["bash", "-o", "pipefail", "-ec", script]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_moves_with_its_versions_and_tombstones_while_changes_flow() {
    let (server, mut path, mut producer, mut consumer) = running().await;
    let moved = Database::create_on(&server.url, "moved").await;
    let (from, to) = (path.target.name.clone(), moved.name.clone());
    let url = path.target.url.clone();
    while_changes_flow(&path, async {
        more_arrives(&path, "before").await;
        // 1. All consumers stop. 2. A copy of the whole database. 3. Its address in the consumers' file. 4. They start.
        assert!(consumer.stop().success());
        shell(&server, &format!("pg_dump --format=custom {from} | pg_restore --exit-on-error --dbname={to}"));
        file(&path, "syncline.toml", |text| text.replace(&url, &moved.url));
        consumer = path.consumer();
    })
    .await;
    let tombstones = "SELECT count(*) FROM _syncline_tombstone";
    assert!(path.target.count(tombstones).await > 0, "deletes are part of the test");
    let old = std::mem::replace(&mut path.target, moved);
    path.in_step("at the new place", ALL, ALL).await;
    in_step(&path, "syncline.toml", &["items"]);
    let known = "SELECT table_name, key, version FROM _syncline_tombstone";
    let (before, after) = (old.rows(known).await, path.target.rows(known).await);
    assert!(before.iter().all(|one| after.contains(one)) && !before.is_empty(), "a tombstone stayed behind");
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_restored_to_an_earlier_time_is_repaired_to_the_last_record() {
    let (server, mut path, mut producer, mut consumer) = running().await;
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'in the backup' FROM generate_series(1, 200) n").await;
    path.in_step("before the backup", ALL, ALL).await;
    let name = path.target.name.clone();
    shell(&server, &format!("pg_dump --format=custom --file=/data/backup {name}"));
    path.source
        .run("UPDATE item SET note = 'after' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0; INSERT INTO item VALUES (-1, 'after')")
        .await;
    path.in_step("after the backup", ALL, ALL).await;

    // 1. All consumers stop. 2. The backup comes back, whatever Syncline keeps there with it. 3. They start.
    assert!(consumer.stop().success());
    shell(
        &server,
        &format!("dropdb --force {name}; createdb {name}; pg_restore --exit-on-error --dbname={name} /data/backup"),
    );
    path.target.client = connect(&path.target.url).await;
    assert_eq!(path.target.count("SELECT count(*) FROM item WHERE note = 'in the backup'").await, 200);
    consumer = path.consumer();
    // 4. What came since then is sent again, what was deleted since then is deleted again.
    let repair = run(&path, "syncline.toml", &["compare", "items", "--target", "crm", "--settle", "1", "--repair"]);
    assert_eq!(repair.status.code(), Some(1), "{}", String::from_utf8_lossy(&repair.stdout));
    path.in_step("repaired", ALL, ALL).await;
    in_step(&path, "syncline.toml", &["items"]);
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_restored_on_another_server_is_rebuilt_and_takes_back_what_it_never_had() {
    let server = PrivateServer::postgres();
    server.start();
    let mut path = Path::create(ITEM, ITEM, SHARE, "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'in the backup' FROM generate_series(1, 200) n").await;
    path.in_step("before the backup", ALL, ALL).await;
    let restored = Database::create_on(&server.url, "restored").await;
    shell(&server, &format!("pg_dump --format=custom --file=/data/backup '{}'", path.source.url));
    path.source
        .run("UPDATE item SET note = 'lost' WHERE id % 3 = 0; DELETE FROM item WHERE id % 7 = 0; INSERT INTO item VALUES (-1, 'lost')")
        .await;
    path.in_step("after the backup", ALL, ALL).await;

    // 1. The producer stops. 2. The backup on another server. 3. The producer starts with its address, and sees the gap.
    assert!(producer.stop().success());
    shell(&server, &format!("pg_restore --exit-on-error --dbname={} /data/backup", restored.name));
    let old_url = path.source.url.clone();
    file(&path, "syncline.toml", |text| text.replace(&old_url, &restored.url));
    let _old = std::mem::replace(&mut path.source, restored);
    path.source.run("INSERT INTO item VALUES (1000, 'by people already')").await;
    producer = path.producer();
    paused(&producer, "changes were lost before they could be read").await;
    // 4. A new slot, and copies that are newer than all that was sent before.
    done(&path, "syncline.toml", &["source", "rebuild", "desk"]);
    let copied = "SELECT id, note FROM item WHERE id > 0";
    path.in_step("what was restored", copied, copied).await;
    // 5. What the target had from the time that is gone.
    eventually("sent by the server that is gone", vec!["(-1,lost)".to_owned()], async || {
        path.target.rows("SELECT id, note FROM item WHERE id < 0").await
    })
    .await;
    let repair = run(&path, "syncline.toml", &["compare", "items", "--target", "crm", "--settle", "1", "--repair"]);
    assert_eq!(repair.status.code(), Some(1), "{}", String::from_utf8_lossy(&repair.stdout));
    path.in_step("without it", ALL, ALL).await;
    path.source.run("UPDATE item SET note = 'goes on'").await;
    path.in_step("the stream", ALL, ALL).await;
    in_step(&path, "syncline.toml", &["items"]);
    assert!(producer.stop().success() && consumer.stop().success());
}
