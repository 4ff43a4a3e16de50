//! The configurations under `config/` do what the README says.

use std::process::Command;

use crate::kit::collector::Collector;
use crate::kit::config::Folder;
use crate::kit::database::Database;
use crate::kit::eventually;
use crate::kit::process::Service;
use crate::kit::rabbit::Vhost;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

async fn databases() -> (Database, Database) {
    let (desk, crm) = (Database::create("desk").await, Database::create("crm").await);
    desk.run(include_str!("../config/servicedesk.sql")).await;
    crm.run(include_str!("../config/crm.sql")).await;
    (desk, crm)
}

/// Slots are the server's, not the database's: two tests on one server need two names.
fn own_slot(text: &str, desk: &Database) -> String {
    let url = "url = \"${SYNCLINE_SERVICEDESK_URL}\"";
    text.replace(url, &format!("{url}\nslot = \"{}\"", desk.name))
}

fn env(folder: &Folder, desk: &Database, crm: &Database, vhost: Option<&Vhost>) -> Vec<(&'static str, String)> {
    vec![
        ("SYNCLINE_SERVICEDESK_URL", desk.url.clone()),
        ("SYNCLINE_CRM_URL", crm.url.clone()),
        ("SYNCLINE_RABBITMQ_URL", vhost.map(|vhost| vhost.url.clone()).unwrap_or_default()),
        ("SYNCLINE_KEY_FILE", folder.file("key").display().to_string()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_path_from_postgres_to_postgres_works() {
    let (folder, vhost, (desk, crm)) = (Folder::create(), Vhost::create(), databases().await);
    // As it stands but for the ports, which another test may hold.
    let text = std::fs::read_to_string(format!("{ROOT}/config/postgres-to-postgres.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let text = text.replace("127.0.0.1:9187", "127.0.0.1:0").replace("127.0.0.1:9188", "127.0.0.1:0");
    let config = folder.write("syncline.toml", &text);
    let env = env(&folder, &desk, &crm, Some(&vhost));
    let check = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["check", "--config"])
        .arg(&config)
        .envs(env.clone())
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}{}",
        String::from_utf8_lossy(&check.stdout),
        String::from_utf8_lossy(&check.stderr)
    );
    let mut producer = Service::start_with(folder.path(), "producer", &config, &env);
    let mut consumer = Service::start_with(folder.path(), "consumer", &config, &env);
    eventually("the copy", (600, 200), async || {
        (crm.count("SELECT count(*) FROM support_case").await, crm.count("SELECT count(*) FROM contact").await)
    })
    .await;
    let active = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
    eventually("streaming", 1, async || desk.count(active).await).await;
    desk.run("BEGIN; SELECT syncline.session(true, 'abel.tuter'); UPDATE incident SET short_description = 'VPN drops' WHERE number = 'INC0000001'; COMMIT").await;
    eventually("the change", vec!["(INC0000001,\"VPN drops\")".to_owned()], async || {
        crm.rows("SELECT case_number, subject FROM support_case WHERE case_number = 'INC0000001'").await
    })
    .await;
    let [asked, other] = [("producer", &producer), ("consumer", &consumer)]
        .map(|(part, service)| format!("--{part}=http://{}", service.address().unwrap()));
    let trace = async || {
        let trace = Command::new(env!("CARGO_BIN_EXE_syncline"))
            .args(["trace", "incident", "INC0000001", &asked, &other, "--config"])
            .arg(&config)
            .envs(env.clone())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&trace.stdout).into_owned();
        told.contains("applied update") && told.ends_with("In step: target crm has the version last sent.\n")
    };
    eventually("it is told", true, trace).await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_machine_needs_no_broker() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let text = std::fs::read_to_string(format!("{ROOT}/config/one-machine.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let mut up = Service::start_with(folder.path(), "up", &config, &env(&folder, &desk, &crm, None));
    eventually("the copy", 200, async || crm.count("SELECT count(*) FROM contact").await).await;
    desk.run("DELETE FROM sys_user WHERE user_name = 'user.7'").await;
    eventually("the delete", 199, async || crm.count("SELECT count(*) FROM contact").await).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_look_at_lists_dates_and_what_changed() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let text = std::fs::read_to_string(format!("{ROOT}/config/filters.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let mut up = Service::start_with(folder.path(), "up", &config, &env(&folder, &desk, &crm, None));
    eventually("the copy", 400, async || crm.count("SELECT count(*) FROM support_case").await).await;
    desk.run("UPDATE incident SET state = 'resolved' WHERE number = 'INC0000002'").await;
    desk.run("UPDATE incident SET short_description = 'Solved' WHERE number = 'INC0000002'").await;
    desk.run("UPDATE incident SET category = 'security' WHERE number = 'INC0000003'").await;
    eventually("the security incident", 401, async || crm.count("SELECT count(*) FROM support_case").await).await;
    eventually("the resolved one", vec!["(INC0000002,\"Cannot log in\",resolved)".to_owned()], async || {
        crm.rows("SELECT case_number, subject, status FROM solved_case").await
    })
    .await;
    // At the change itself, and not at what came after it.
    assert_eq!(up.metric("syncline_producer_changes_total", "share=\"resolved\""), 3.0);
    assert_eq!(up.metric("syncline_producer_shared_total", "share=\"resolved\""), 1.0);
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_of_a_share_are_shown_by_an_example() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let text = std::fs::read_to_string(format!("{ROOT}/config/rules.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let items = rusqlite::Connection::open(folder.file("cmdb.db")).unwrap();
    items.execute_batch(include_str!("../config/cmdb.sql")).unwrap();
    let mut env = env(&folder, &desk, &crm, None);
    env.push(("SYNCLINE_CMDB_FILE", folder.file("cmdb.db").display().to_string()));
    let check = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["check", "--config"])
        .arg(&config)
        .current_dir(folder.path())
        .envs(env.clone())
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && !found.contains("REPLICA IDENTITY"), "{found}");
    let mut up = Service::start_with(folder.path(), "up", &config, &env);
    let cases = async |table: &str| crm.rows(&format!("SELECT case_number FROM {table}")).await.join("");
    let stored = async || crm.count("SELECT (SELECT count(*) FROM server) * 10 + (SELECT count(*) FROM printer)").await;
    eventually("the copy, each under its class", 11, stored).await;
    let slot = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND confirmed_flush_lsn IS NOT NULL";
    eventually("streaming", 1, async || desk.count(slot).await).await;
    let by_abel = "UPDATE incident SET sys_updated_by = 'abel.tuter'";
    desk.run(&format!(
        "{by_abel}, priority = 1 WHERE number = 'INC0000001'; {by_abel}, priority = 2 WHERE number = 'INC0000002'"
    ))
    .await;
    eventually("by their routes", ("(INC0000001)".to_owned(), "(INC0000002)".to_owned()), async || {
        (cases("urgent_case").await, cases("support_case").await)
    })
    .await;
    desk.run(&format!(
        "{by_abel}, priority = 3 WHERE number = 'INC0000001'; {by_abel}, state = 'closed' WHERE number = 'INC0000002'"
    ))
    .await;
    eventually("one moved, one closed", (String::new(), "(INC0000001)".to_owned()), async || {
        (cases("urgent_case").await, cases("support_case").await)
    })
    .await;
    items.execute_batch("UPDATE cmdb_ci SET sys_class_name = 'printer', tray = 'A3' WHERE id = 1").unwrap();
    eventually("the class changed", 2, stored).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_shares_are_sent_by_hand_and_by_schedules() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let text = std::fs::read_to_string(format!("{ROOT}/config/bulk-shares.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let env = env(&folder, &desk, &crm, None);
    let mut up = Service::start_with(folder.path(), "up", &config, &env);
    let bulk = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["bulk-share", "--wait", "--group", "everything", "--config"])
        .arg(&config)
        .envs(env)
        .current_dir(folder.path())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&bulk.stdout);
    assert!(bulk.status.success() && told.contains("users: finished, 200 rows"), "{told}");
    assert!(told.contains("incidents: finished, 1000 rows"), "{told}");
    eventually("what fits the filters", (600, 200), async || {
        (crm.count("SELECT count(*) FROM support_case").await, crm.count("SELECT count(*) FROM contact").await)
    })
    .await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_masked_and_leave_in_part_and_a_script_changes_them() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    desk.run("ALTER TABLE incident REPLICA IDENTITY FULL; ALTER TABLE sys_user REPLICA IDENTITY FULL").await;
    let text = std::fs::read_to_string(format!("{ROOT}/config/columns.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let mut up = Service::start_with(folder.path(), "up", &config, &env(&folder, &desk, &crm, None));
    let masked = "SELECT count(*) FROM contact WHERE email ~ '^[0-9a-f]{64}$' AND name LIKE '****%'";
    eventually("the copy", (1000, 200), async || {
        (crm.count("SELECT count(*) FROM support_case").await, crm.count(masked).await)
    })
    .await;
    crm.run("UPDATE support_case SET priority = 99 WHERE case_number = 'INC0000001'").await;
    desk.run("UPDATE incident SET sys_updated_on = now() + interval '1 day' WHERE number = 'INC0000002'").await;
    desk.run("UPDATE incident SET state = 'resolved', sys_updated_by = 'user.7' WHERE number = 'INC0000001'").await;
    eventually("the part", vec!["(\"Solved: Cannot log in\",resolved,99,\"User 7\")".to_owned()], async || {
        crm.rows("SELECT subject, status, priority, changed_by FROM support_case WHERE case_number = 'INC0000001'")
            .await
    })
    .await;
    assert_eq!(up.metric("syncline_producer_withheld_total", "reason=\"unchanged\",share=\"incidents\""), 1.0);
    desk.run("UPDATE sys_user SET active = false WHERE user_name = 'user.7'").await;
    eventually("who left", 199, async || crm.count("SELECT count(*) FROM contact").await).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_work_at_their_times_and_rest_in_between() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let text = std::fs::read_to_string(format!("{ROOT}/config/jobs.toml")).unwrap();
    // Nobody waits a quarter of an hour for a test.
    let text = own_slot(&text, &desk).replace("\"15m\"", "\"2s\"");
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let mut up = Service::start_with(folder.path(), "up", &config, &env(&folder, &desk, &crm, None));
    eventually("the copy", 200, async || crm.count("SELECT count(*) FROM contact").await).await;
    eventually("it rests", true, async || up.metric("syncline_up_resting", "subscription crm") > 0.0).await;
    desk.run("DELETE FROM sys_user WHERE user_name = 'user.7'").await;
    eventually("the delete", 199, async || crm.count("SELECT count(*) FROM contact").await).await;
    assert!(up.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_go_to_a_collector() {
    let (folder, (desk, crm)) = (Folder::create(), databases().await);
    let collector = Collector::start();
    let text = std::fs::read_to_string(format!("{ROOT}/config/traces.toml")).unwrap();
    let text = own_slot(&text, &desk);
    let config = folder.write("syncline.toml", &format!("{text}\n[producer]\nhttp = \"127.0.0.1:0\"\n"));
    let mut env = env(&folder, &desk, &crm, None);
    env.push(("SYNCLINE_COLLECTOR_URL", format!("http://{}", collector.address())));
    let mut up = Service::start_with(folder.path(), "up", &config, &env);
    eventually("the copy", 200, async || crm.count("SELECT count(*) FROM contact").await).await;
    // What is left is sent at the end.
    assert!(up.stop().success());
    let spans = collector.spans();
    let counted = |operation: &str| {
        let of = spans.iter().filter(|span| span.told("messaging.operation.name") == operation);
        of.map(|span| span.told("messaging.batch.message_count").parse::<u32>().unwrap()).sum::<u32>()
    };
    assert_eq!((counted("publish"), counted("apply")), (200, 200));
    assert!(spans.iter().all(|span| span.service == "servicedesk" && !span.is_error()));
}
