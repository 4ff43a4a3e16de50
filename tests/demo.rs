//! `syncline demo`: what a newcomer runs first.

use std::process::{Command, Stdio};

use rusqlite::Connection;

use crate::kit::config::Folder;
use crate::kit::process::syncline;
use crate::kit::{eventually, eventually_some};

#[test]
fn the_demo_ends_in_step_and_its_configuration_works_afterwards() {
    let folder = Folder::create();
    let output = syncline(folder.path(), &["demo", "--seconds", "3"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("IN STEP: every record compared, no difference."), "{text}");
    assert!(text.contains("background") && text.contains("filter"), "withheld reasons are missing: {text}");
    assert!(!text.contains('\x1b'), "control characters where there is no terminal");

    let status = syncline(folder.path(), &["--config", "syncline-demo/syncline.toml", "--json", "queue", "status"]);
    assert!(status.status.success());
    let queues: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(queues[0]["partitions"].as_array().unwrap().len(), 4);
    assert!(queues[0]["partitions"].as_array().unwrap().iter().all(|partition| partition["ready"] == 0), "{queues}");

    // A second run starts over.
    assert!(syncline(folder.path(), &["demo", "--seconds", "1"]).status.success());
}

#[test]
fn the_demo_does_not_touch_a_folder_that_is_not_its_own() {
    let folder = Folder::create();
    let output = syncline(folder.path(), &["demo", "--folder", "."]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a demo's"));
    assert!(folder.file("key").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_change_the_demo_suggests_shows_up_at_once() {
    let folder = Folder::create();
    let out = folder.file("out");
    let mut demo = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["demo", "--forever", "--seconds", "1"])
        .current_dir(folder.path())
        .stdout(Stdio::from(std::fs::File::create(&out).unwrap()))
        .spawn()
        .unwrap();
    let number = eventually_some("a suggestion", async || {
        let text = std::fs::read_to_string(&out).unwrap();
        text.split("WHERE number = '").nth(1).and_then(|rest| rest.split('\'').next()).map(str::to_owned)
    })
    .await;
    let change = "UPDATE incident SET short_description = 'hello', sys_updated_by = 'you' WHERE number = ?";
    let desk = Connection::open(folder.file("syncline-demo/servicedesk.db")).unwrap();
    desk.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(desk.execute(change, [&number]).unwrap(), 1, "{number}");
    let crm = Connection::open(folder.file("syncline-demo/crm.db")).unwrap();
    crm.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let subject = "SELECT subject FROM support_case WHERE case_number = ?";
    eventually("the change", "hello".to_owned(), async || crm.query_row(subject, [&number], |row| row.get(0)).unwrap())
        .await;
    let ended = Command::new("kill").args(["-INT", &demo.id().to_string()]).status().unwrap();
    assert!(ended.success() && demo.wait().unwrap().success());
}
