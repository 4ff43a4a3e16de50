//! Faults of broker, source, shares and records: what arrives, and in which order.

use super::*;

#[tokio::test(start_paused = true)]
async fn faults_of_the_broker_lose_nothing_and_leave_the_newest_last() {
    for seed in 0..40_u64 {
        let scene = Scene::new();
        scene.broker.fails(seed);
        scene.source.push((1..=90).map(|version| change(version * version % 11, version, "x")));
        scene.run_until("committed", async || scene.source.committed() == 90).await;
        let arrived = scene.arrived().await;
        let mut expected = BTreeMap::new();
        for version in 1..=90_u64 {
            expected.insert((version * version % 11).to_string(), Version::new(1, version, 1));
        }
        assert_eq!(last_of_each(&arrived), expected, "seed {seed}");
        let all: std::collections::BTreeSet<_> = arrived.iter().map(|record| record.version).collect();
        assert_eq!(all.len(), 90, "seed {seed}");
    }
}

/// An update of one column only, by turns; the other two were left alone.
fn part(key: u64, version: u64) -> Change {
    let full = change(key, version, "x");
    let mut row = Row::builder(Columns::new(["id", "priority", "note"]));
    row.push(Value::Number(&key.to_string()));
    let written = Value::Text(&version.to_string());
    let (priority, note) =
        if version.is_multiple_of(2) { (written, Value::Unchanged) } else { (Value::Unchanged, written) };
    row.push(priority);
    row.push(note);
    Change { action: Action::Update, after: Some(row.finish()), ..full }
}

/// What a target holds that takes only newer versions: the columns of each record, by its key.
fn applied<'a>(rows: impl Iterator<Item = (Version, &'a Row)>) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut table: BTreeMap<String, (Option<Version>, BTreeMap<String, String>)> = BTreeMap::new();
    for (version, row) in rows {
        let text = |value: Value<'_>| value.as_text().unwrap_or_default().to_owned();
        let (newest, columns) = table.entry(row.get("id").map(text).unwrap_or_default()).or_default();
        if newest.is_none_or(|newest| version > newest) {
            *newest = Some(version);
            let carried = row.iter().filter(|(_, value)| *value != Value::Unchanged);
            columns.extend(carried.map(|(name, value)| (name.to_owned(), text(value))));
        }
    }
    table.into_iter().map(|(key, (_, columns))| (key, columns)).collect()
}

#[tokio::test(start_paused = true)]
async fn no_part_of_a_record_overtakes_what_came_before_it_whatever_the_broker_refuses() {
    for seed in 0..40_u64 {
        let scene = Scene::new();
        scene.broker.fails(seed);
        let changes: Vec<_> = (1..=90)
            .map(|version| {
                // Few changes of each record: what is lost is not made good by the next one.
                let key = version % 30;
                if version <= 30 { change(key, version, "x") } else { part(key, version) }
            })
            .collect();
        let expected = applied(changes.iter().filter_map(|change| Some((change.version, change.after.as_ref()?))));
        scene.source.push(changes);
        scene.run_until("committed", async || scene.source.committed() == 90).await;
        let arrived = scene.arrived().await;
        let rows = arrived.iter().filter_map(|record| Some((record.version, record.data.as_ref()?)));
        assert_eq!(applied(rows), expected, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_full_is_probed_and_the_others_are_not_sent_again() {
    let mut scene = Scene::new();
    scene.config.publish.window_messages = 100;
    scene.broker.full.store(true, Ordering::Relaxed);
    scene.source.push((1..=90).map(|version| change(version * version % 11, version, "x")));
    let (begun, full) = (tokio::time::Instant::now(), Duration::from_secs(60));
    scene
        .run_until("committed", async || {
            scene.broker.full.store(begun.elapsed() < full, Ordering::Relaxed);
            scene.source.committed() == 90
        })
        .await;
    assert!(begun.elapsed() > full);
    let sent = scene.broker.sent.load(Ordering::Relaxed);
    // Each batch of partition 1 twice at most, and one message for each wait of up to ten seconds.
    assert!((30..100).contains(&sent), "{sent} messages were sent");
    let arrived: Vec<_> = scene.arrived().await.iter().map(|record| record.version).collect();
    let once: std::collections::BTreeSet<_> = arrived.iter().collect();
    assert_eq!((arrived.len(), once.len()), (90, 90), "records were sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_starts_over_repeats_and_loses_nothing() {
    let scene = Scene::new();
    scene.source.push((1..=30).map(|version| change(version % 5, version, "x")));
    scene.source.fail_next(SourceError::Taken { address: "db".to_owned() });
    let pushed = Mutex::new(false);
    scene
        .run_until("committed", async || {
            if scene.source.committed() == 30 && !std::mem::replace(&mut *pushed.lock().expect("no panic"), true) {
                scene.source.fail_next(SourceError::Taken { address: "db".to_owned() });
                scene.source.push((31..=60).map(|version| change(version % 5, version, "x")));
            }
            scene.source.committed() == 60
        })
        .await;
    let versions: std::collections::BTreeSet<_> = scene.arrived().await.iter().map(|record| record.version).collect();
    assert_eq!(versions.len(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_record_too_large_is_set_aside_without_its_values_and_the_position_moves_on() {
    let mut scene = Scene::new();
    scene.config.publish.record_bytes_max = 1024;
    let large = format!("4711-secret-value{}", "x".repeat(2000));
    scene.source.push([change(1, 1, "x"), change(2, 3, &large), change(3, 5, "x")]);
    scene.run_until("committed", async || scene.source.committed() == 3).await;
    assert_eq!(scene.arrived().await.len(), 2);
    let dead = scene.broker.dead_letters("crm", 10).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Oversize]);
    assert!(
        dead[0].error.contains("table incident, key id")
            && !String::from_utf8_lossy(&dead[0].message.body).contains("4711")
    );
}

#[tokio::test(start_paused = true)]
async fn a_batch_the_broker_finds_too_large_is_split_until_the_record_to_blame_is_alone() {
    let mut scene = Scene::new();
    scene.config.batch.batch_records_max = 50;
    scene.broker.bytes_max.store(1024, Ordering::Relaxed);
    // What does not compress.
    let noise = |seed: u64, bytes: u64| -> String {
        let mix = |step: u64| {
            (seed << 32 | step).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31).wrapping_mul(0x94d0_49bb_1331_11eb)
        };
        (0..bytes).map(|step| char::from(b'0' + u8::try_from(mix(step) >> 32 & 63).expect("six bits"))).collect()
    };
    let text = |key: u64| if key == 20 { format!("4711-secret-value{}", noise(key, 4000)) } else { noise(key, 100) };
    scene.source.push((1..=60).map(|key| change(key, 2 * key, &text(key))));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    let arrived = last_of_each(&scene.arrived().await);
    assert_eq!((arrived.len(), arrived.contains_key("20")), (59, false));
    let dead = scene.broker.dead_letters("crm", 10).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Oversize]);
    assert!(dead[0].error.contains("table incident, key id") && dead[0].error.contains("at most 1024"));
    assert!(!String::from_utf8_lossy(&dead[0].message.body).contains("4711"));
    let share = scene.metrics.share("incidents");
    assert_eq!((share.confirmed(Action::Update).get(), share.dead_letters.get()), (59, 1));
    // The journal tells the message each of them left with at last.
    let left: Vec<_> = (1..=60).map(|key| scene.left(key)).collect();
    assert!(left.iter().all(|left| left.confirmed_at.is_some()), "{left:?}");
    assert!(left.iter().map(|left| &left.message).collect::<HashSet<_>>().len() > 10, "{left:?}");
    let (too_large, id) = (&left[19], dead[0].id().to_owned());
    assert_eq!((too_large.set_aside.as_deref(), too_large.message.as_ref()), (Some("oversize"), Some(&id)));
    let noted = format!("{:?}", scene.journal);
    assert!(noted.contains("incidents") && !noted.contains("4711-secret"), "{noted}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_its_script_fails_on_is_set_aside_sealed_and_the_rest_flows() {
    let mut scene = Scene::new();
    scene.script =
        Some("if (current.note == '4711-secret-value') throw current.note; if (current.note == 'no') ignore = true");
    let text = |key: u64| ["x", "no", "4711-secret-value"][usize::try_from(key % 3).expect("small")];
    scene.source.push((1..=30).map(|key| change(key, key, text(key))));
    scene.run_until("committed", async || scene.source.committed() == 30).await;
    let arrived = last_of_each(&scene.arrived().await);
    assert_eq!((arrived.len(), arrived.contains_key("1"), arrived.contains_key("3")), (10, false, true));
    let dead = scene.broker.dead_letters("crm", 30).await.expect("a list");
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Script; 10]);
    let error = &dead[0].error;
    assert!(error.contains("table incident, key id") && error.contains("before_share of share incidents"), "{error}");
    assert!(!format!("{dead:?}").contains("4711"));
    let left = scene.left(2);
    assert_eq!((left.set_aside.as_deref(), left.confirmed_at.is_some()), (Some("script"), true));
    assert_eq!(scene.fates(1), [FateTold::Withheld { reason: Withheld::Script }]);
    let share = scene.metrics.share("incidents");
    assert_eq!((share.withheld(Withheld::Script).get(), share.dead_letters.get()), (10, 10));
}

#[tokio::test(start_paused = true)]
async fn a_share_that_does_not_fit_its_table_pauses_and_commits_nothing() {
    let mut scene = Scene::new();
    scene.filter = Some("priorty<2");
    scene.source.push([change(1, 1, "x")]);
    let share = scene.metrics.share("incidents");
    scene.run_until("asked", async || share.changes(Action::Insert).get() == 1).await;
    assert_eq!((scene.source.committed(), scene.arrived().await.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lookup_that_fails_is_tried_again_and_nothing_leaves_without_its_display_value() {
    let mut scene = Scene::new();
    scene.display = true;
    scene.source.show("a", "Abel");
    for _ in 0..3 {
        let cause = Box::new(std::io::Error::other("away"));
        scene.source.fail_next_lookup(SourceError::Unreachable { address: "desk".to_owned(), cause });
    }
    scene.source.push((1..=60).map(|version| change(version, version, if version % 3 == 0 { "b" } else { "a" })));
    scene.run_until("committed", async || scene.source.committed() == 60).await;
    assert_eq!(scene.source.looked_up(), 2, "each reference once");
    let records = scene.arrived().await;
    assert_eq!(records.len(), 60);
    for record in records {
        let data = record.data.expect("data");
        let expected = if data.get("note") == Some(Value::Text("a")) { Value::Text("Abel") } else { Value::Null };
        assert_eq!(data.get("dv_note"), Some(expected));
    }
}
