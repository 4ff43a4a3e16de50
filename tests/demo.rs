//! `syncline demo`: what a newcomer runs first.

use crate::kit::config::Folder;
use crate::kit::process::syncline;

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
