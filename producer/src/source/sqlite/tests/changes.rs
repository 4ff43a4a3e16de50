//! What the log tells of changes, and how much of it stays.

use super::*;

#[tokio::test]
async fn changes_come_in_order_with_what_was_before() {
    let desk = Desk::incidents();
    desk.run("INSERT INTO incident VALUES ('I0', 1, 'old')");
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 3, 'abel')");
    desk.run("UPDATE incident SET priority = priority + 1");
    desk.run("DELETE FROM incident WHERE number = 'I0'");
    let changes = take(&mut source, 4).await;
    let expected = ["insert I1: I1 3 abel", "update I0: I0 2 old", "update I1: I1 4 abel", "delete I0"];
    assert_eq!(lines(&changes), expected);
    assert!(changes.is_sorted_by(|a, b| a.version < b.version));
    let before = |index: usize| changes[index].before.as_ref().and_then(|row| row.get("priority"));
    assert_eq!((before(0), before(1), before(3)), (None, Some(Value::Number("1")), Some(Value::Number("2"))));
    let age = jiff::Timestamp::now().duration_since(changes[0].at);
    assert!(age.as_secs().abs() < 60, "made {age:?} ago");
    assert_eq!(&*changes[0].table, "incident");
}

#[tokio::test]
async fn a_changed_key_is_a_delete_and_an_insert() {
    let desk =
        Desk::new("CREATE TABLE line (ord INTEGER, pos INTEGER, item TEXT, PRIMARY KEY (pos, ord)) WITHOUT ROWID");
    let mut source = desk.source(&[("line", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO line VALUES (7, 1, 'a'); UPDATE line SET ord = 8; UPDATE line SET item = 'b'");
    let changes = take(&mut source, 4).await;
    assert_eq!(lines(&changes), ["insert 1 7: 7 1 a", "delete 1 7", "insert 1 8: 8 1 a", "update 1 8: 8 1 b"]);
    assert!(changes.is_sorted_by(|a, b| a.version < b.version));
}

#[tokio::test]
async fn the_session_comes_from_the_rule() {
    let desk = Desk::incidents();
    let rule = SessionRule { user_column: "sys_updated_by".to_owned(), background: vec!["job*".to_owned()] };
    let config = SqliteSourceConfig { session: Some(rule), ..desk.config() };
    let mut source = SqliteSource::new("desk", config, watch(&[("incident", &[])]));
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'abel'); UPDATE incident SET sys_updated_by = 'job.7'");
    desk.run("DELETE FROM incident");
    let sessions: Vec<_> = take(&mut source, 3).await.iter().map(|change| change.session.interactive).collect();
    assert_eq!(sessions, [Some(true), Some(false), Some(false)]);
}

#[tokio::test]
async fn what_was_committed_is_taken_off_the_log_and_the_rest_comes_again() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I1', 1, 'a')");
    next(&mut source).await;
    desk.run("INSERT INTO incident VALUES ('I2', 1, 'a')");
    let polled = poll(&mut source).await;
    let before = polled.changes[0].version;
    assert_eq!(lines(&polled.changes), ["insert I2: I2 1 a"]);
    source.close().await;
    assert_eq!(desk.logged(), 1);
    let mut again = desk.source(&[("incident", &[])]);
    let changes = next(&mut again).await;
    assert_eq!((lines(&changes), changes[0].version), (vec!["insert I2: I2 1 a".to_owned()], before));
    again.close().await;
    assert_eq!(desk.logged(), 0);
}

#[tokio::test]
async fn the_log_is_kept_short_while_the_source_runs() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    let started = Instant::now();
    for number in 0.. {
        desk.run(&format!("INSERT INTO incident VALUES ('I{number}', 1, 'a')"));
        next(&mut source).await;
        if number > 10 && desk.logged() < 5 {
            break;
        }
        assert!(started.elapsed() < DEADLINE, "{} rows stay in the log", desk.logged());
    }
}

#[tokio::test]
async fn a_cancelled_poll_loses_nothing() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &[])]);
    quiet(&mut source).await;
    for number in 0..50 {
        desk.run(&format!("INSERT INTO incident VALUES ('I{number:02}', 1, 'a')"));
    }
    let limit = PollLimit { changes: 1, ..LIMIT };
    let mut numbers = Vec::new();
    let started = Instant::now();
    while numbers.len() < 50 {
        assert!(started.elapsed() < DEADLINE);
        if let Ok(polled) = tokio::time::timeout(Duration::from_micros(100), source.poll(limit)).await {
            numbers.extend(lines(&polled.expect("a poll").changes));
        }
    }
    let expected: Vec<_> = (0..50).map(|number| format!("insert I{number:02}: I{number:02} 1 a")).collect();
    assert_eq!(numbers, expected);
}

#[tokio::test]
async fn a_poll_stops_at_its_limits() {
    let desk = Desk::incidents();
    let mut source = desk.source(&[("incident", &["copies"])]);
    desk.run(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 7)
              INSERT INTO incident SELECT 'I' || i, i, 'a' FROM n",
    );
    let sizes = async |source: &mut SqliteSource, limit| {
        let mut sizes = Vec::new();
        while sizes.iter().sum::<usize>() < 7 {
            sizes.push(source.poll(limit).await.expect("a poll").changes.len());
        }
        sizes
    };
    assert_eq!(sizes(&mut source, PollLimit { changes: 3, ..LIMIT }).await, [3, 3, 1]);
    desk.run("UPDATE incident SET priority = 0");
    assert_eq!(sizes(&mut source, PollLimit { bytes: 1, ..LIMIT }).await, [1; 7]);
}
