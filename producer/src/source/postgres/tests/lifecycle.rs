//! Set-up, refusals, lost slots, and where the source is.

use super::*;

#[tokio::test]
async fn a_table_whose_changes_cannot_be_identified_is_refused_by_name_with_its_mend() {
    let database = Database::new().await;
    database.run("CREATE TABLE keyless (n int); CREATE TABLE silent (id int PRIMARY KEY);
        ALTER TABLE silent REPLICA IDENTITY NOTHING; CREATE UNLOGGED TABLE fleeting (id int PRIMARY KEY);
        CREATE VIEW seen AS SELECT 1 AS id; CREATE TABLE keyless_full (n int); ALTER TABLE keyless_full REPLICA IDENTITY FULL").await;
    let cases = [
        ("keyless", "ALTER TABLE public.keyless ADD PRIMARY KEY"),
        ("silent", "ALTER TABLE public.silent REPLICA IDENTITY DEFAULT"),
        ("fleeting", "ALTER TABLE public.fleeting SET LOGGED"),
        ("seen", "the name of a table"),
        ("keyless_full", "ALTER TABLE public.keyless_full ADD PRIMARY KEY"),
    ];
    for (table, mend) in cases {
        let error = failure(&mut database.source(&[(table, &[])])).await;
        assert!(matches!(&error, SourceError::Unfit { problem, .. } if problem.contains(table)), "{error}");
        assert!(error.to_string().contains(mend), "{error}");
    }
    let problems = database.source(&cases.map(|(table, _)| (table, &[] as &[&str]))).check().await.problems;
    assert_eq!(problems.len(), cases.len(), "{problems:?}");
}

#[tokio::test]
async fn a_mended_table_is_read_at_the_next_poll() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int)").await;
    let mut source = database.source(&[("item", &[])]);
    assert!(matches!(failure(&mut source).await, SourceError::Unfit { .. }));
    database.run("ALTER TABLE item ADD PRIMARY KEY (id)").await;
    settle(&mut source).await;
    database.run("INSERT INTO item VALUES (1)").await;
    read(&mut source, 1).await;
}

#[tokio::test]
async fn a_check_finds_nothing_wrong_and_makes_nothing() {
    let database = Database::new().await;
    database
        .run("CREATE TABLE item (id int PRIMARY KEY, gone int, twice int GENERATED ALWAYS AS (id * 2) STORED)")
        .await;
    database.run("ALTER TABLE item DROP COLUMN gone, ADD COLUMN \"Note\" text").await;
    let checked = database.source(&[("item", &["first"]), ("missing", &[])]).check().await;
    assert!(checked.problems.is_empty(), "{checked:?}");
    assert_eq!(checked.missing, ["missing".into()]);
    assert_eq!(checked.columns, [("item".into(), vec!["id".to_owned(), "Note".to_owned()])].into());
    let made = "SELECT (to_regclass('syncline.state') IS NOT NULL OR EXISTS (SELECT FROM pg_publication)
        OR EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database()))::text";
    assert_eq!(database.text(made).await.as_deref(), Some("false"));
    let running = database.connected(&[("item", &[])]).await;
    assert!(database.source(&[("item", &[])]).check().await.problems.is_empty(), "a running producer is no problem");
    drop(running);
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let database = Database::new().await;
    let role = format!("weak_{}", database.name);
    database.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'weak'; CREATE TABLE item (id int PRIMARY KEY)")).await;
    let server = url(&database.name);
    let (_, place) = server.rsplit_once('@').expect("credentials in the url");
    let json =
        serde_json::json!({ "url": format!("postgres://{role}@{place}"), "password": "weak", "slot": database.name });
    let config = serde_json::from_value(json).expect("valid settings");
    let problems = database.source_with(config, &[("item", &[])]).check().await.problems;
    let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for mend in ["ALTER ROLE", "GRANT CREATE ON DATABASE", "OWNER TO"] {
        assert!(texts.iter().any(|text| text.contains(mend)), "{texts:?}");
    }
    database.run(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn a_lost_slot_is_a_gap_until_somebody_asks_for_a_new_one() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("UPDATE item SET id = 2").await;
    let (before, _) = read(&mut source, 2).await;
    drop(source);
    database.run_when_free(&format!("SELECT pg_drop_replication_slot('{}')", database.name)).await;
    database.run("UPDATE item SET id = 3").await;
    let mut source = database.source(&[("item", &[])]);
    for _ in 0..2 {
        let error = failure(&mut source).await;
        assert!(matches!(error, SourceError::Gap { .. }), "{error}");
        assert!(error.to_string().contains("syncline source rebuild desk"), "{error}");
    }
    assert!(matches!(source.check().await.problems.as_slice(), [SourceError::Gap { .. }]));

    let newer_than = source.rebuild(false).await.expect("rebuilt");
    let (copied, position) = read(&mut source, 1).await;
    assert_eq!(summary(&copied), [(Action::Bulk, "3".to_owned())]);
    assert!(copied[0].only_share.is_none(), "a share that asks for no copy missed changes too");
    assert!(before.iter().all(|change| change.version < newer_than) && newer_than < copied[0].version);
    source.commit(&position).await.expect("committed");
    database.run("UPDATE item SET id = 4").await;
    read(&mut source, 2).await;
}

#[tokio::test]
async fn a_lost_publication_is_a_gap_until_somebody_asks_for_a_new_one() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)").await;
    let publication = PostgresSourceConfig { publication: Some("lost".to_owned()), ..database.config() };
    let mut source = database.source_with(publication, &[("item", &[])]);
    settle(&mut source).await;
    database.run("DROP PUBLICATION lost; INSERT INTO item VALUES (2)").await;
    while !matches!(failure(&mut source).await, SourceError::Gap { .. }) {}
    source.rebuild(false).await.expect("rebuilt");
    let (copied, _) = read(&mut source, 2).await;
    assert!(copied.iter().all(|change| change.action == Action::Bulk));
}

#[tokio::test]
async fn a_source_that_lost_nothing_is_rebuilt_only_when_all_of_it_is_asked_for() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY); INSERT INTO item VALUES (1)").await;
    let mut source = database.source(&[("item", &[])]);
    assert!(matches!(source.rebuild(false).await, Err(SourceError::Unfit { .. })), "never started");
    settle(&mut source).await;
    let beside = database.source(&[]);
    for whole in [false, true] {
        assert!(matches!(beside.rebuild(whole).await, Err(SourceError::Taken { .. })), "a producer reads it");
    }
    source.close().await;
    let error = eventually_free(&beside).await;
    assert!(error.to_string().contains("--whole"), "{error}");
    beside.rebuild(true).await.expect("rebuilt");
    let (copied, _) = read(&mut database.source(&[("item", &[])]), 1).await;
    assert_eq!(copied[0].action, Action::Bulk);
}

/// What a rebuild says once the server noticed that nobody reads the slot any more.
async fn eventually_free(source: &PostgresSource) -> SourceError {
    loop {
        let error = source.rebuild(false).await.expect_err("nothing was lost");
        if !matches!(error, SourceError::Taken { .. }) {
            return error;
        }
    }
}

#[tokio::test]
async fn a_second_producer_waits_for_its_turn() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let running = database.connected(&[("item", &[])]).await;
    let mut second = database.source(&[("item", &[])]);
    assert!(matches!(failure(&mut second).await, SourceError::Taken { .. }));
    drop(running);
    settle(&mut second).await;
}

#[tokio::test]
async fn a_slot_of_another_source_is_not_shared() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    drop(database.connected(&[("item", &[])]).await);
    let mut other = PostgresSource::new("crm", database.config(), Vec::new());
    let error = failure(&mut other).await;
    assert!(error.to_string().contains("belongs to the source desk"), "{error}");
}

#[tokio::test]
async fn a_new_timeline_makes_every_version_newer() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item VALUES (1)").await;
    let (first, _) = read(&mut source, 1).await;
    drop(source);
    database.run("UPDATE syncline.state SET value = jsonb_set(value, '{timeline}', '99') WHERE key = 'epoch'").await;
    let mut source = database.source(&[("item", &[])]);
    let (second, _) = read(&mut source, 1).await;
    assert!(epoch(&second[0]) > epoch(&first[0]));
}

#[tokio::test]
async fn a_log_that_went_back_on_the_same_timeline_makes_every_version_newer() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item VALUES (1)").await;
    let (first, position) = read(&mut source, 1).await;
    database
        .run(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            database.name
        ))
        .await;
    assert!(matches!(failure(&mut source).await, SourceError::Unreachable { .. }));
    // What a server has forgotten that came back from a snapshot of its disks.
    source.commit(&super::super::Position { lsn: u64::MAX / 2, ..position }).await.expect("committed");
    database.run("INSERT INTO item VALUES (2)").await;
    // The first one comes again: the server never heard that it is safe.
    let (again, _) = read(&mut source, 2).await;
    assert!(again.iter().all(|change| epoch(change) > epoch(&first[0])), "{:?}", summary(&again));
}

fn epoch(change: &Change) -> u32 {
    let [a, b, c, d, ..] = change.version.to_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[tokio::test]
async fn a_database_made_anew_gives_newer_versions_than_the_one_before() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY)").await;
    let began = jiff::Timestamp::now().as_second();
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item VALUES (1)").await;
    let (changes, _) = read(&mut source, 1).await;
    // Nothing in it tells how far the one before had come; its log may have been longer.
    assert!(i64::from(epoch(&changes[0])) >= began);
}

#[tokio::test]
async fn a_broken_connection_repeats_what_was_not_committed_with_the_same_versions() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    database.run("INSERT INTO item VALUES (1, 0)").await;
    let (_, position) = read(&mut source, 1).await;
    source.commit(&position).await.expect("committed");
    database.run("UPDATE item SET n = 1; UPDATE item SET n = 2").await;
    let (first, _) = read(&mut source, 2).await;
    database
        .run(&format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            database.name
        ))
        .await;
    assert!(matches!(failure(&mut source).await, SourceError::Unreachable { .. }));
    assert!(source.lag_bytes().is_some_and(|bytes| bytes > 0), "what is not committed is behind, connected or not");
    let (again, _) = read(&mut source, 2).await;
    let versions = |changes: &[Change]| changes.iter().map(|change| change.version).collect::<Vec<_>>();
    assert_eq!(versions(&again), versions(&first), "from the last committed position on");
}

#[tokio::test]
async fn a_dropped_poll_loses_nothing() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, n int, notes text); ALTER TABLE item ALTER notes SET STORAGE EXTERNAL").await;
    database.run("INSERT INTO item SELECT n, 0, repeat('x', 5000) FROM generate_series(1, 300) n").await;
    let mut source = database.source(&[("item", &["first"])]);
    let (mut seen, started) = (Vec::new(), Instant::now());
    let mut updated = false;
    while seen.len() < 600 {
        assert!(started.elapsed() < Duration::from_secs(180), "{} changes", seen.len());
        if let Ok(polled) = tokio::time::timeout(Duration::from_millis(2), source.poll(LIMIT)).await {
            seen.extend(polled.expect("a poll").changes);
        }
        if seen.len() == 300 && !updated {
            database.run("UPDATE item SET n = 1").await;
            updated = true;
        }
    }
    let ids: std::collections::HashSet<_> = summary(&seen).into_iter().collect();
    assert_eq!((seen.len(), ids.len()), (600, 600));
}

#[tokio::test]
async fn an_idle_database_moves_on_and_its_slot_with_it() {
    let database = Database::new().await;
    let mut source = database.connected(&[]).await;
    let confirmed =
        format!("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'", database.name);
    let (before, started) = (database.text(&confirmed).await, Instant::now());
    while database.text(&confirmed).await == before || source.lag_bytes().is_none() {
        assert!(started.elapsed() < Duration::from_secs(180));
        let (changes, position) = read(&mut source, 0).await;
        assert!(changes.is_empty());
        source.commit(&position).await.expect("committed");
    }
}

#[tokio::test]
async fn an_unreachable_server_and_a_wrong_password_are_told_apart() {
    let database = Database::new().await;
    let away: PostgresSourceConfig =
        serde_json::from_value(serde_json::json!({ "url": "postgres://u@127.0.0.1:1/db" })).expect("valid settings");
    let mut source = PostgresSource::new("away", away, Vec::new());
    assert!(matches!(failure(&mut source).await, SourceError::Unreachable { .. }));
    let wrong = PostgresSourceConfig {
        password: Some(syncline_shared::config::Secret::new("wrong".to_owned())),
        ..database.config()
    };
    let error = failure(&mut PostgresSource::new("desk", wrong, Vec::new())).await;
    assert!(matches!(error, SourceError::Refused { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("wrong"));
}

#[tokio::test]
async fn a_source_that_is_not_polled_keeps_its_connection_and_what_comes_after() {
    let database = Database::new().await;
    database.run(&format!("ALTER DATABASE {} SET wal_sender_timeout = '1s'", database.name)).await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, note text)").await;
    let mut source = database.connected(&[("item", &[])]).await;
    let sender = format!("SELECT active_pid::text FROM pg_replication_slots WHERE slot_name = '{}'", database.name);
    let before = database.text(&sender).await;
    // More than the transport reads ahead and the buffers between hold, so the sender is in the middle of it.
    database.run("INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(1, 30000) n").await;
    let (mut changes, until) =
        (source.poll(LIMIT).await.expect("a poll").changes.len(), Instant::now() + Duration::from_secs(4));
    // What a blocked broker looks like from here: nobody asks for more.
    while Instant::now() < until {
        assert_eq!(database.text(&sender).await, before, "the server gave the connection up");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    while changes < 30_000 {
        changes += source.poll(LIMIT).await.expect("the same connection").changes.len();
    }
    assert_eq!((changes, database.text(&sender).await), (30_000, before));
}

#[tokio::test]
async fn a_stream_that_ended_unheard_is_noticed() {
    let database = Database::new().await;
    let mut source = database.connected(&[]).await;
    let super::super::Stage::Live(live) = &mut source.stage else { panic!("connected") };
    // The server knows of no reader any more, and this end waits for what never comes.
    live.silence().await;
    assert!(matches!(failure(&mut source).await, SourceError::Unreachable { .. }));
}

#[tokio::test]
async fn what_the_server_keeps_for_a_source_is_seen_though_nobody_polls_it() {
    let database = Database::new().await;
    database.run("CREATE TABLE item (id int PRIMARY KEY, note text)").await;
    let config = PostgresSourceConfig { retained_wal_warn_bytes: 4 << 20, ..database.config() };
    let mut source = database.source_with(config, &[("item", &[])]);
    settle(&mut source).await;
    database.run("INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(1, 5000) n").await;
    let deadline = Instant::now() + Duration::from_secs(180);
    while source.retained().is_none_or(|retained| retained.bytes < 5 << 20) {
        assert!(Instant::now() < deadline, "{:?}", source.retained());
        source.tend().await;
    }
    assert!(source.keeps_too_much, "what was to be warned of");
    assert_eq!(source.retained().and_then(|retained| retained.room_bytes), None, "this server keeps all it must");
}

#[tokio::test]
async fn an_idle_database_lets_go_of_the_log_others_write() {
    let (idle, busy) = (Database::new().await, Database::new().await);
    let mut source = idle.connected(&[]).await;
    busy.run("CREATE TABLE noise AS SELECT repeat('x', 1000) FROM generate_series(1, 3000)").await;
    let end = busy.text("SELECT pg_current_wal_lsn()::text").await.expect("a place");
    let slot = format!(
        "SELECT (confirmed_flush_lsn >= '{end}')::text FROM pg_replication_slots WHERE slot_name = '{}'",
        idle.name
    );
    let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
    while idle.text(&slot).await.as_deref() != Some("true") {
        let polled = contract::poll(&mut source, LIMIT, deadline).await;
        if let Some(position) = polled.position {
            source.commit(&position).await.expect("committed");
        }
    }
}
