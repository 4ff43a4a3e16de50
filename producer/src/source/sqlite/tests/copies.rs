//! Rows that were there before, and tables that come later.

use super::*;

#[tokio::test]
async fn the_rows_already_there_are_copied_once_for_the_share_that_asks() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'), ('I2', 2, 'b')");
    let mut source = desk.source(&[("incident", &["first"])]);
    let changes = next(&mut source).await;
    assert_eq!(lines(&changes), ["bulk I1: I1 1 a for first", "bulk I2: I2 2 b for first"]);
    desk.run("UPDATE incident SET priority = 9 WHERE number = 'I1'");
    let update = next(&mut source).await;
    assert_eq!(lines(&update), ["update I1: I1 9 a"]);
    assert!(update[0].version.below() > changes[0].version, "the version below is no copied row's");
    source.close().await;

    let mut again = desk.source(&[("incident", &["first", "second"])]);
    let copied = next(&mut again).await;
    assert_eq!(lines(&copied), ["bulk I1: I1 9 a for second", "bulk I2: I2 2 b for second"]);
    assert!(copied[0].version > update[0].version, "the row holds the update");
    quiet(&mut again).await;
}

#[tokio::test]
async fn a_share_that_was_gone_for_a_while_is_copied_again() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    for watched in [&[("incident", ["s"].as_slice())][..], &[("incident", &[])]] {
        let mut source = desk.source(watched);
        if watched[0].1.is_empty() {
            quiet(&mut source).await;
        } else {
            next(&mut source).await;
        }
        source.close().await;
    }
    let mut source = desk.source(&[("incident", &["s"])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk I1: I1 1 a for s"]);
}

#[tokio::test]
async fn a_position_of_a_lost_log_finishes_no_copy_of_the_next() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    let mut source = desk.source(&[("incident", &["s"])]);
    next(&mut source).await;
    // Everything of ours is taken out of the file, so that the numbers of copies start over.
    desk.run(
        "BEGIN IMMEDIATE; DROP TABLE _syncline_state; DROP TABLE _syncline_copy; DROP TABLE _syncline_table;
         DELETE FROM sqlite_sequence WHERE name = '_syncline_copy'; COMMIT",
    );
    // Epochs are seconds.
    let second = jiff::Timestamp::now().as_second();
    while jiff::Timestamp::now().as_second() == second {
        thread::sleep(Duration::from_millis(10));
    }
    let copied = match source.poll(LIMIT).await {
        Ok(polled) => polled,
        // A look at the file that was under way met it without its tables; the pipeline tries again.
        Err(_) => source.poll(LIMIT).await.expect("a poll"),
    };
    assert_eq!(lines(&copied.changes), ["bulk I1: I1 1 a for s"]);
    source.close().await;
    let mut source = desk.source(&[("incident", &["s"])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk I1: I1 1 a for s"], "it was not committed");
}

#[tokio::test]
async fn a_copy_that_was_not_finished_is_made_again() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a'), ('I2', 2, 'b'), ('I3', 3, 'c')");
    let mut source = desk.source(&[("incident", &["s"])]);
    let polled = source.poll(PollLimit { changes: 2, ..LIMIT }).await.expect("a poll");
    source.commit(&polled.position.expect("a position")).await.expect("a commit");
    source.close().await;
    let mut again = desk.source(&[("incident", &["s"])]);
    assert_eq!(take(&mut again, 3).await.len(), 3);
}

#[tokio::test]
async fn a_copy_beside_writers_leaves_no_gap() {
    let desk = Desk::new("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER)");
    desk.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
              INSERT INTO account SELECT i, 0 FROM n",
    );
    let mut source = desk.source(&[("account", &["s"])]);
    let folder = desk.folder.path().to_owned();
    let writer = thread::spawn(move || {
        let app = connect(&folder);
        for step in 0..1500_i64 {
            let id = (step * 7919) % 2200 + 1;
            match step % 5 {
                0 => app.execute("DELETE FROM account WHERE id = ?1", [id]),
                1 => app.execute("INSERT OR IGNORE INTO account VALUES (?1, ?2)", [id, step]),
                _ => app.execute("UPDATE account SET balance = ?2 WHERE id = ?1", [id, step]),
            }
            .expect("a write");
        }
    });
    // What a target would hold: the newest version of every record.
    let mut held: BTreeMap<String, (Version, Option<String>)> = BTreeMap::new();
    let limit = PollLimit { changes: 37, ..LIMIT };
    let is_current = |held: &BTreeMap<String, (Version, Option<String>)>| {
        let mut select =
            desk.app.prepare("SELECT id, balance FROM account ORDER BY CAST(id AS TEXT)").expect("a query");
        let rows =
            select.query_map([], |row| Ok((row.get::<_, i64>(0)?.to_string(), row.get::<_, i64>(1)?.to_string())));
        let rows: Vec<_> = rows.expect("rows").map(|row| row.expect("a row")).collect();
        let held: Vec<_> = held.iter().filter_map(|(key, (_, row))| Some((key.clone(), row.clone()?))).collect();
        rows == held
    };
    let started = Instant::now();
    loop {
        if let Ok(polled) = tokio::time::timeout(A_WHILE, source.poll(limit)).await {
            let polled = polled.expect("a poll");
            source.commit(&polled.position.expect("a position")).await.expect("a commit");
            for change in polled.changes {
                let key = change.key.value(0).and_then(Value::as_text).expect("a key").to_owned();
                let balance = change.after.as_ref().and_then(|row| row.get("balance"));
                let balance = balance.and_then(Value::as_text).map(str::to_owned);
                let slot = held.entry(key).or_default();
                if change.version > slot.0 {
                    *slot = (change.version, balance);
                }
            }
        } else if writer.is_finished() && is_current(&held) {
            break;
        }
        assert!(started.elapsed() < DEADLINE * 2, "the copy and the stream do not add up to the table");
    }
    writer.join().expect("the writer");
}

#[tokio::test]
async fn a_table_made_later_is_copied_for_all() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[]), ("task", &["s"])]);
    quiet(&mut source).await;
    desk.run("BEGIN; CREATE TABLE task (id INTEGER PRIMARY KEY); INSERT INTO task VALUES (1), (2); COMMIT");
    assert_eq!(lines(&next(&mut source).await), ["bulk 1: 1", "bulk 2: 2"]);
    desk.run("INSERT INTO task VALUES (3)");
    assert_eq!(lines(&next(&mut source).await), ["insert 3: 3"]);
    // Dropped and made again: what the new table had before its triggers must not be missed either.
    desk.run("DROP TABLE task");
    quiet(&mut source).await;
    desk.run("CREATE TABLE task (id INTEGER PRIMARY KEY, text TEXT); INSERT INTO task VALUES (4, 'a')");
    let mut versions = BTreeMap::new();
    while versions.is_empty() {
        for change in next(&mut source).await {
            versions.insert(line(&change).split(' ').next_back().map(str::to_owned), change.version);
        }
    }
    assert!(versions.contains_key(&Some("a".to_owned())), "{versions:?}");
}

#[tokio::test]
async fn what_changed_before_a_table_was_dropped_is_not_lost() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("Incident", &[])]);
    quiet(&mut source).await;
    desk.run("BEGIN; INSERT INTO incident VALUES ('I1', 1, 'a'); DROP TABLE incident; COMMIT");
    let changes = next(&mut source).await;
    // Dropping a table deletes no record one by one.
    assert_eq!(lines(&changes), ["insert I1: I1 1 a"]);
    assert_eq!(&*changes[0].table, "Incident");
}

#[tokio::test]
async fn a_table_made_while_the_producer_is_away_is_copied_for_all() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("task", &[])]);
    quiet(&mut source).await;
    source.close().await;
    desk.run("CREATE TABLE task (id INTEGER PRIMARY KEY); INSERT INTO task VALUES (1)");
    let mut source = desk.source(&[("task", &[])]);
    assert_eq!(lines(&next(&mut source).await), ["bulk 1: 1"]);
}

#[tokio::test]
async fn a_column_added_later_is_not_missed() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    source.close().await;
    // While nobody looks, the old triggers do not know the column.
    desk.run("ALTER TABLE incident ADD COLUMN state TEXT; INSERT INTO incident VALUES ('I1', 1, 'a', 'open')");
    let mut source = desk.source(&[("incident", &[])]);
    assert_eq!(lines(&next(&mut source).await), ["insert I1: I1 1 a open"]);
    desk.run("ALTER TABLE incident ADD COLUMN note TEXT; UPDATE incident SET note = 'n'");
    assert_eq!(lines(&next(&mut source).await), ["update I1: I1 1 a open n"]);
    desk.run("ALTER TABLE incident RENAME COLUMN note TO remark; UPDATE incident SET remark = 'r'");
    let renamed = next(&mut source).await;
    assert_eq!(renamed[0].after.as_ref().and_then(|row| row.get("remark")), Some(Value::Text("r")));
}
