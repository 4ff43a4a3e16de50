//! The real path: PostgreSQL -> RabbitMQ -> PostgreSQL, producer and consumer as two processes.

use crate::kit::config::{Folder, common, embedded, rabbitmq};
use crate::kit::database::Database;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;
use crate::kit::{eventually, eventually_some};

/// Two databases, a virtual host and a configuration between them.
pub struct Path {
    pub folder: Folder,
    pub source: Database,
    pub target: Database,
    pub vhost: Vhost,
    pub config: std::path::PathBuf,
}

impl Path {
    /// Makes both databases with the given tables; `shares` and `subscription` are configuration tables.
    pub async fn create(source_sql: &str, target_sql: &str, shares: &str, subscription: &str) -> Self {
        let (folder, vhost) = (Folder::create(), Vhost::create());
        let queue = rabbitmq(&vhost.url);
        Self::create_on(folder, vhost, &queue, source_sql, target_sql, shares, subscription).await
    }

    /// The same on a queue of the caller's choice.
    pub async fn create_on(
        folder: Folder,
        vhost: Vhost,
        queue: &str,
        source_sql: &str,
        target_sql: &str,
        shares: &str,
        subscription: &str,
    ) -> Self {
        let source = Database::create("source").await;
        let target = Database::create("target").await;
        source.run(source_sql).await;
        target.run(target_sql).await;
        let text = format!(
            "{queue}{}\n[source.desk]\ntype = \"postgres\"\nurl = \"{}\"\nslot = \"{}\"\n{shares}\n[target.crm]\ntype = \"postgres\"\nurl = \"{}\"\n\
             [subscription.crm]\nqueue = \"crm\"\ntarget = \"crm\"\n{subscription}\n",
            common(&folder),
            source.url,
            source.name,
            target.url
        );
        let config = folder.write("syncline.toml", &text);
        Self { folder, source, target, vhost, config }
    }

    pub fn producer(&self) -> Service {
        Service::start(self.folder.path(), "producer", &self.config)
    }

    pub fn consumer(&self) -> Service {
        Service::start(self.folder.path(), "consumer", &self.config)
    }

    /// Waits until a query gives the same rows at both ends.
    pub async fn in_step(&self, what: &str, source: &str, target: &str) {
        let expected = self.source.rows(source).await;
        eventually(what, expected, async || self.target.rows(target).await).await;
    }

    /// Waits until the source's slot is complete, so that what is written now is streamed.
    pub async fn streaming(&self) {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
        eventually("the slot is complete", 1, async || self.source.count(slots).await).await;
    }
}

const TYPES: &str = "
    CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
    CREATE TABLE everything (
        ticket text NOT NULL, line int NOT NULL,
        s smallint, i int, b bigint, n numeric(38,9), r real, d double precision, t text, v varchar(80), f boolean,
        u uuid, ts timestamp, tz timestamptz, da date, ti time, iv interval, j json, jb jsonb, by bytea,
        ia int[], ta text[], m mood, PRIMARY KEY (ticket, line))";

const SHARE: &str = "[share.everything]\nsource = \"desk\"\ntable = \"everything\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_type_and_every_change_arrives_as_it_was() {
    let path = Path::create(TYPES, TYPES, SHARE, "").await;
    path.source
        .run(
            "INSERT INTO everything VALUES
             ('before', 1, -32768, 2147483647, 9223372036854775807, 12345678901234567890123456789.123456789, 1.1, 0.1,
              E'quote '' \" back\\\\slash\\nline\\ttab ü 画', '', true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
              '2026-11-21 08:15:30.123456', '2026-11-21 08:15:30.123456+01', '2026-11-21', '08:15', '1 day 2 hours',
              '{\"a\": [1, 2.50]}', '{\"k\": \"v\"}', '\\x00ff5c27', '{1,NULL,3}', '{\"a b\",\"\\\"\",NULL}', 'happy'),
             ('before', 2, NULL, NULL, NULL, 'NaN', 'Infinity', '-Infinity', NULL, NULL, false, NULL, 'infinity', '-infinity',
              NULL, NULL, NULL, NULL, NULL, '', '{}', '{}', 'sad')",
        )
        .await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    let all = "SELECT * FROM everything";
    path.in_step(
        "the copy",
        all,
        "SELECT ticket, line, s, i, b, n, r, d, t, v, f, u, ts, tz, da, ti, iv, j, jb, by, ia, ta, m FROM everything",
    )
    .await;
    path.streaming().await;
    path.source
        .run(
            "INSERT INTO everything (ticket, line, d, b, t) VALUES ('live', 1, 0.30000000000000004, -9223372036854775808, 'x');
             UPDATE everything SET n = n + 0.000000001, t = NULL, v = E'\\\\N' WHERE ticket = 'before' AND line = 1;
             DELETE FROM everything WHERE ticket = 'before' AND line = 2;
             UPDATE everything SET line = 7 WHERE ticket = 'live';
             BEGIN; INSERT INTO everything (ticket, line, i) VALUES ('many', 1, 1);
             UPDATE everything SET i = 2 WHERE ticket = 'many'; DELETE FROM everything WHERE ticket = 'many';
             INSERT INTO everything (ticket, line, i) VALUES ('many', 1, 3); UPDATE everything SET i = 4 WHERE ticket = 'many'; COMMIT",
        )
        .await;
    path.in_step(
        "the stream",
        all,
        "SELECT ticket, line, s, i, b, n, r, d, t, v, f, u, ts, tz, da, ti, iv, j, jb, by, ia, ta, m FROM everything",
    )
    .await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_large_value_survives_an_update_of_its_neighbour() {
    let table = "CREATE TABLE article (id int PRIMARY KEY, title text, body text); ALTER TABLE article ALTER body SET STORAGE EXTERNAL";
    let share = SHARE.replace("everything", "article").replace("initial = \"copy\"\n", "");
    let path = Path::create(table, table, &share, "").await;
    let (_producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source
        .run("INSERT INTO article SELECT n, 'first', repeat(md5(n::text), 1000) FROM generate_series(1, 20) n")
        .await;
    path.source.run("UPDATE article SET title = 'second'").await;
    // Not there yet at the target: the whole record has to come, the value left alone included.
    path.source.run("DELETE FROM article WHERE id > 10; UPDATE article SET id = id + 100 WHERE id > 5").await;
    path.in_step("articles", "SELECT * FROM article", "SELECT id, title, body FROM article").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_created_after_the_start_is_shared_from_its_first_row() {
    let path = Path::create(
        "",
        "CREATE TABLE late (code text PRIMARY KEY, what text)",
        &SHARE.replace("everything", "late").replace("initial = \"copy\"\n", ""),
        "",
    )
    .await;
    let (_producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source
        .run("CREATE TABLE late (code text PRIMARY KEY, what text); INSERT INTO late VALUES ('a', 'first')")
        .await;
    path.in_step("the first row", "SELECT * FROM late", "SELECT code, what FROM late").await;
    path.source.run("UPDATE late SET what = 'changed'; INSERT INTO late VALUES ('b', 'second')").await;
    path.in_step("later rows", "SELECT * FROM late", "SELECT code, what FROM late").await;
}

const INCIDENT: &str =
    "CREATE TABLE incident (number text PRIMARY KEY, short_description text, priority int, active boolean)";

#[tokio::test(flavor = "multi_thread")]
async fn a_share_lets_out_what_people_did_and_its_filter_matches() {
    let share = "[share.incidents]\nsource = \"desk\"\ntable = \"incident\"\nqueue = \"crm\"\nkey = \"3des\"\nfilter = \"priority<=2^active=true\"\n";
    let mapping = "[subscription.crm.table.incident]\ninto = \"support_case\"\ncolumns = { number = \"case_number\", short_description = \"subject\" }\n";
    let target = "CREATE TABLE support_case (case_number text PRIMARY KEY, subject text, note text DEFAULT 'kept')";
    let path = Path::create(INCIDENT, target, share, mapping).await;
    let (producer, _consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source
        .run(
            "BEGIN; SELECT syncline.session(true, 'abel.tuter');
             INSERT INTO incident VALUES ('INC1', 'by a person', 1, true), ('INC2', 'too low', 4, true), ('INC3', 'closed', 1, false); COMMIT;
             INSERT INTO incident VALUES ('INC4', 'by a job', 1, true)",
        )
        .await;
    eventually("one case", vec!["(INC1,\"by a person\",kept)".to_owned()], async || {
        path.target.rows("SELECT case_number, subject, note FROM support_case").await
    })
    .await;
    eventually("withheld", (2.0, 1.0), async || {
        let withheld =
            |reason: &str| producer.metric("syncline_producer_withheld_total", &format!("reason=\"{reason}\""));
        (withheld("filter"), withheld("background"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_and_a_kill_lose_nothing_and_repeat_nothing() {
    let table = "CREATE TABLE item (id int PRIMARY KEY, n int)";
    let path = Path::create(table, table, &SHARE.replace("everything", "item"), "").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    for round in 0..4 {
        let from = round * 500;
        path.source
            .run(&format!("INSERT INTO item SELECT n, 0 FROM generate_series({}, {}) n", from + 1, from + 500))
            .await;
        path.source.run("UPDATE item SET n = n + 1").await;
        match round {
            0 => {
                assert!(producer.stop().success());
                producer = path.producer();
            }
            1 => {
                producer.kill();
                producer = path.producer();
            }
            2 => {
                consumer.kill();
                consumer = path.consumer();
            }
            _ => {}
        }
    }
    path.in_step("items", "SELECT * FROM item", "SELECT id, n FROM item").await;
    assert!(consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_flows_over_the_embedded_queue_in_one_process() {
    let (folder, vhost) = (Folder::create(), Vhost::create());
    let queue = embedded(&folder);
    let path =
        Path::create_on(folder, vhost, &queue, INCIDENT, INCIDENT, &SHARE.replace("everything", "incident"), "").await;
    path.source.run("INSERT INTO incident SELECT 'INC' || n, 'x', 1, true FROM generate_series(1, 2000) n").await;
    let mut up = Service::start(path.folder.path(), "up", &path.config);
    path.in_step(
        "the copy",
        "SELECT * FROM incident",
        "SELECT number, short_description, priority, active FROM incident",
    )
    .await;
    path.streaming().await;
    path.source.run("UPDATE incident SET short_description = 'y' WHERE priority = 1; DELETE FROM incident WHERE number = 'INC7'").await;
    path.in_step(
        "the stream",
        "SELECT * FROM incident",
        "SELECT number, short_description, priority, active FROM incident",
    )
    .await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_kept_in_step_both_ways_does_not_echo() {
    let (folder, one, two) = (Folder::create(), Database::create("one").await, Database::create("two").await);
    for database in [&one, &two] {
        database.run(INCIDENT).await;
    }
    let side = |from: &Database, to: &Database, name: &str| {
        let (from_url, slot, to_url) = (&from.url, &from.name, &to.url);
        format!(
            "[shared_queue.{name}]\npartitions = 2\n[source.{name}]\ntype = \"postgres\"\nurl = \"{from_url}\"\nslot = \"{slot}\"\n\
             [share.{name}]\nsource = \"{name}\"\ntable = \"incident\"\nqueue = \"{name}\"\nkey = \"aes\"\ninteractive_only = false\n\
             [target.{name}]\ntype = \"postgres\"\nurl = \"{to_url}\"\n[subscription.{name}]\nqueue = \"{name}\"\ntarget = \"{name}\"\n"
        )
    };
    let text = [embedded(&folder), common(&folder), side(&one, &two, "there"), side(&two, &one, "back")].concat();
    let config = folder.write("syncline.toml", &text);
    let mut up = Service::start(folder.path(), "up", &config);
    for database in [&one, &two] {
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
        eventually("the slot is complete", 1, async || database.count(slots).await).await;
    }
    let all = "SELECT number, short_description, priority, active FROM incident";
    one.run("INSERT INTO incident VALUES ('INC1', 'from one', 1, true)").await;
    eventually("there", one.rows(all).await, async || two.rows(all).await).await;
    two.run("UPDATE incident SET short_description = 'from two' WHERE number = 'INC1'").await;
    eventually("and back", two.rows(all).await, async || one.rows(all).await).await;
    one.run("DELETE FROM incident WHERE number = 'INC1'; INSERT INTO incident VALUES ('INC2', 'last', 1, true)").await;
    eventually("gone", one.rows(all).await, async || two.rows(all).await).await;
    // Three changes of one, one change of two; what the other side applied was not shared again.
    let shared = |name: &str| up.metric("syncline_producer_changes_total", &format!("share=\"{name}\""));
    assert_eq!((shared("there"), shared("back")), (3.0, 1.0));
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_and_health_tell_what_happened() {
    let path = Path::create(INCIDENT, INCIDENT, &SHARE.replace("everything", "incident"), "").await;
    let (producer, consumer) = (path.producer(), path.consumer());
    path.streaming().await;
    path.source.run("INSERT INTO incident VALUES ('INC1', 'x', 1, true); UPDATE incident SET priority = 2; DELETE FROM incident").await;
    eventually("applied", 3.0, async || consumer.metric("syncline_consumer_records_total", "share=\"incident\"")).await;
    for (service, names) in [
        (
            &producer,
            vec![
                "syncline_build_info",
                "syncline_producer_changes_total",
                "syncline_producer_shared_total",
                "syncline_producer_withheld_total",
                "syncline_producer_confirmed_total",
                "syncline_producer_dead_letters_total",
                "syncline_producer_confirm_seconds_count",
                "syncline_producer_in_flight_messages",
                "syncline_producer_replication_lag_bytes",
                "syncline_producer_reconnects_total",
                "syncline_producer_paused",
            ],
        ),
        (
            &consumer,
            vec![
                "syncline_build_info",
                "syncline_consumer_records_total",
                "syncline_consumer_dead_letters_total",
                "syncline_consumer_apply_seconds_count",
                "syncline_consumer_record_age_seconds_count",
                "syncline_consumer_in_flight_messages",
                "syncline_consumer_reconnects_total",
                "syncline_consumer_paused",
            ],
        ),
    ] {
        let (status, body) = eventually_some("an answer", async || service.get("/metrics")).await;
        assert!(status.contains("200"), "{status}");
        for name in names {
            assert!(body.lines().any(|line| line.starts_with(name)), "{name} is missing in:\n{body}");
        }
        assert!(!body.contains("INC1"), "a record's key is in the metrics");
        assert!(service.get("/healthz").is_some_and(|(status, _)| status.contains("200")));
        eventually("ready", true, async || service.get("/readyz").is_some_and(|(status, _)| status.contains("200")))
            .await;
    }
}
