//! Logs that are lost, files that are replaced, and what is left in them.

use super::*;

#[tokio::test]
async fn a_lost_log_begins_a_new_epoch_and_copies_everything() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'); UPDATE incident SET priority = 2");
    let before = take(&mut source, 2).await;
    source.close().await;
    connect(desk.folder.path()).execute_batch("DROP TABLE _syncline_change").expect("the log is dropped");
    let mut source = desk.source(&[("incident", &[])]);
    let copied = next(&mut source).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 2 a"]);
    assert!(copied[0].version > before[1].version);
    desk.run("UPDATE incident SET priority = 3");
    let update = next(&mut source).await;
    assert!(update[0].version > copied[0].version);
}

#[tokio::test]
async fn a_file_that_was_replaced_is_read_and_an_older_one_copied() {
    let desk = Desk::incidents();
    desk.run("PRAGMA journal_mode = DELETE");
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    next(&mut source).await;
    let backup = desk.folder.path().join("backup.db");
    desk.run(&format!("VACUUM INTO '{}'", backup.display()));
    desk.run("UPDATE incident SET priority = 2; UPDATE incident SET priority = 3");
    let last = take(&mut source, 2).await;
    std::fs::rename(&backup, path(desk.folder.path())).expect("the backup takes its place");
    connect(desk.folder.path())
        .execute_batch("UPDATE incident SET priority = 4")
        .expect("a change of the restored file");
    let copied = next(&mut source).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 4 a"]);
    assert!(copied[0].version > last[1].version);
}

#[tokio::test]
async fn a_table_nobody_watches_any_more_has_no_triggers() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    source.close().await;
    quiet(&mut desk.source(&[])).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    assert_eq!(desk.logged(), 0);
}

#[tokio::test]
async fn what_our_own_target_writes_is_not_logged() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run(
        "BEGIN; INSERT INTO _syncline_applying VALUES ('crm'); INSERT INTO incident VALUES ('I1', 1, 'a');
              DELETE FROM _syncline_applying; COMMIT; INSERT INTO incident VALUES ('I2', 1, 'a')",
    );
    assert_eq!(lines(&next(&mut source).await), ["insert I2: I2 1 a"]);
}
