//! A target that takes nothing: the consumer pauses, says why once, keeps everything and goes on by itself.

use crate::bad_input::{paused, ready};
use crate::kit::database::connect;
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::server::PrivateServer;
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, note text)";
const SHARE: &str =
    "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\n";
const ALL: &str = "SELECT id, note FROM item";

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(&path.config).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(&path.config, text.replace(from, to)).unwrap();
}

/// One partition, so that one part is paused.
async fn one_partition() -> Path {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    edit(&path, "partitions = 8", "partitions = 1");
    path
}

const END: &str = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                   WHERE datname = current_database() AND application_name = 'syncline consumer'";

/// Watches a fault: it shows with its reason in `/readyz`, the log and the metric; several attempts later nothing is
/// drained and nothing was logged again.
async fn is_waited_for(path: &Path, consumer: &Service, why: &str, attempts: f64) {
    paused(consumer, why).await;
    let told = consumer.log().matches("paused").count();
    let tried = async || consumer.metric("syncline_consumer_reconnects_total", "target") >= attempts;
    eventually("several attempts", true, tried).await;
    assert_eq!(consumer.metric("syncline_consumer_paused", "part"), 1.0);
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    let log = consumer.log();
    assert!(log.matches("paused").count() <= told + 1, "told again and again:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_takes_nothing_is_waited_for_whatever_the_reason() {
    let path = one_partition().await;
    let (name, role) = (&path.target.name, format!("role_{}", path.target.name));
    let database = &path.target;
    let grants = format!("GRANT ALL ON SCHEMA public TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}");
    database
        .run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'pass'; ALTER TABLE item OWNER TO {role}; {grants}"))
        .await;
    let at = path.target.url.rsplit_once('@').unwrap().1;
    edit(&path, &path.target.url, &format!("postgres://{role}:pass@{at}"));
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO item SELECT n, 'a' FROM generate_series(1, 20) n").await;
    path.in_step("before", ALL, ALL).await;
    let faults = [
        (
            "is read-only",
            format!("ALTER DATABASE {name} SET default_transaction_read_only = on"),
            format!("ALTER DATABASE {name} RESET default_transaction_read_only"),
        ),
        (
            "too many connections (53300)",
            format!("ALTER ROLE {role} CONNECTION LIMIT 0"),
            format!("ALTER ROLE {role} CONNECTION LIMIT -1"),
        ),
        ("refuses the login", format!("ALTER ROLE {role} NOLOGIN"), format!("ALTER ROLE {role} LOGIN")),
        (
            "does not permit",
            format!("ALTER TABLE item OWNER TO CURRENT_USER; REVOKE ALL ON item FROM {role}"),
            format!("ALTER TABLE item OWNER TO {role}"),
        ),
        (
            "lacks",
            "ALTER TABLE item RENAME note TO remark".to_owned(),
            "ALTER TABLE item RENAME remark TO note".to_owned(),
        ),
        (
            "does not exist",
            "ALTER TABLE item RENAME TO thing".to_owned(),
            "ALTER TABLE thing RENAME TO item".to_owned(),
        ),
    ];
    for (round, (why, fault, mend)) in faults.iter().enumerate() {
        let attempts = consumer.metric("syncline_consumer_reconnects_total", "target") + 3.0;
        database.run(fault).await;
        database.run(END).await;
        path.source
            .run(&format!("UPDATE item SET note = 'round {round}'; DELETE FROM item WHERE id = {}", round + 1))
            .await;
        is_waited_for(&path, &consumer, why, attempts).await;
        database.run(mend).await;
        path.in_step(why, ALL, ALL).await;
        ready(&consumer).await;
    }
    assert_eq!(consumer.metric("syncline_consumer_dead_letters_total", ""), 0.0);
    assert!(consumer.stop().success());
    // A session may outlive its client for a moment, and a role that is in use stays.
    let sessions = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
    eventually("its sessions have ended", 0, async || database.count(&sessions).await).await;
    database.run(&format!("REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_comes_before_its_parent_waits_for_it() {
    let tables = "CREATE TABLE parent (id int PRIMARY KEY);
                  CREATE TABLE item (id int PRIMARY KEY, note text, parent int)";
    let share = format!("{SHARE}{}", SHARE.replace("share.items", "share.parents").replace("\"item\"", "\"parent\""));
    let path = Path::create(tables, tables, &share, "").await;
    path.target.run("ALTER TABLE item ADD FOREIGN KEY (parent) REFERENCES parent").await;
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    // Both of a pair in one transaction, in partitions that know nothing of each other.
    path.source
        .run(
            "INSERT INTO parent SELECT generate_series(1, 200); INSERT INTO item SELECT n, 'a', n FROM generate_series(1, 200) n",
        )
        .await;
    let children = "SELECT id, note, parent FROM item";
    path.in_step("children", children, children).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    // One whose parent never comes is set aside, and what is behind it flows.
    path.target.run("DELETE FROM item; DELETE FROM parent WHERE id = 7").await;
    path.source.run("UPDATE item SET note = 'b'").await;
    eventually("the others", 199, async || path.target.count("SELECT count(*) FROM item WHERE note = 'b'").await).await;
    eventually("one set aside", 1, async || path.vhost.ready("crm.dead")).await;
    assert!(consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_target_that_is_full_or_silent_or_killed_is_waited_for() {
    let server = PrivateServer::make("postgres", "24m");
    server.start();
    let target = connect(&server.url).await;
    target.batch_execute("CREATE TABLESPACE small LOCATION '/data/small'").await.unwrap();
    let small = format!("{ITEM} TABLESPACE small; CREATE TABLE ballast (text text) TABLESPACE small");
    target.batch_execute(&small).await.unwrap();
    let path = one_partition().await;
    let patience = "statement_timeout_ms = 1500\nlock_timeout_ms = 1000";
    edit(&path, &format!("\"{}\"\n[sub", path.target.url), &format!("\"{}\"\n{patience}\n[sub", server.url));
    let (_producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    let write = async |round: u32| {
        path.source
            .run(&format!(
                "INSERT INTO item SELECT n + 1000 * {round}, repeat(md5(n::text), 60) FROM generate_series(1, 500) n"
            ))
            .await;
    };
    let count = "SELECT count(*) FROM item";
    let in_step = async |target: &tokio_postgres::Client, what: &str| {
        let expected = path.source.count(count).await;
        let arrived = async || target.query_one(count, &[]).await.map_or(-1, |row| row.get::<_, i64>(0));
        eventually(what, expected, arrived).await;
    };
    write(0).await;
    in_step(&target, "before").await;

    // Full.
    let fill = "INSERT INTO ballast SELECT repeat(md5(n::text), 30) FROM generate_series(1, 100) n";
    while target.batch_execute(fill).await.is_ok() {}
    write(1).await;
    is_waited_for(&path, &consumer, "has no disk space left", 3.0).await;
    target.batch_execute("DROP TABLE ballast").await.unwrap();
    in_step(&target, "after there was room").await;
    ready(&consumer).await;

    // Silent: it holds its connections and answers nothing.
    server.freeze();
    write(2).await;
    paused(&consumer, "out of reach").await;
    server.thaw();
    in_step(&target, "after it went on").await;
    ready(&consumer).await;

    // Killed. What it did while it was full must not have to be done again for its start.
    target.batch_execute("CHECKPOINT").await.unwrap();
    server.kill();
    write(3).await;
    paused(&consumer, "out of reach").await;
    server.start();
    in_step(&connect(&server.url).await, "after the start").await;
    ready(&consumer).await;
    assert_eq!(path.vhost.ready("crm.dead"), 0);
    assert!(consumer.stop().success());
}
