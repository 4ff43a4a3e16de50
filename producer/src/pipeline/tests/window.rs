//! When batches leave, and how far the source is read ahead of the broker's confirms.

use super::*;

/// Adds the others once the first message was sent; how many were sent.
fn push_behind_the_first(scene: &Scene, others: &mut Option<Vec<Change>>) -> u32 {
    let sent = scene.broker.sent.load(Ordering::Relaxed);
    if sent == 1
        && let Some(others) = others.take()
    {
        scene.source.push(others);
    }
    sent
}

#[tokio::test(start_paused = true)]
async fn a_lone_change_leaves_at_once_and_those_behind_it_linger_until_it_is_confirmed() {
    let mut scene = Scene::new();
    scene.config.batch.linger_ms = 10_000;
    scene.config.batch.batch_records_max = 1000;
    let (begin, confirms) = (tokio::time::Instant::now(), scene.broker.hold());
    scene.source.push([change(1, 1, "x")]);
    let mut others = Some((2..=21).map(|version| change(version, version, "x")).collect());
    let share = scene.metrics.share("incidents");
    let committed = async || {
        let sent = push_behind_the_first(&scene, &mut others);
        if others.is_none() && share.shared(Action::Insert).get() + share.shared(Action::Update).get() == 21 {
            confirms.send_if_modified(|released| {
                assert!(*released || sent == 1, "{sent} were sent before the first was confirmed");
                !std::mem::replace(released, true)
            });
        }
        scene.source.committed() == 21
    };
    scene.run_until("committed", committed).await;
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(scene.arrived().await.len(), 21);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_sends_what_was_read_and_stores_its_position() {
    let mut scene = Scene::new();
    scene.config.batch.linger_ms = 10_000;
    scene.config.batch.batch_records_max = 1000;
    // What is behind a change that is not confirmed waits for more.
    let confirms = scene.broker.hold();
    scene.source.push([change(1, 1, "x")]);
    let mut others = Some((2..=20).map(|version| change(version, version, "x")).collect());
    let share = scene.metrics.share("incidents");
    let read = async || {
        let sent = push_behind_the_first(&scene, &mut others);
        let is_read = share.shared(Action::Insert).get() + share.shared(Action::Update).get() == 20;
        if is_read {
            assert_eq!(sent, 1, "the others linger");
            confirms.send_replace(true);
        }
        is_read
    };
    scene.run_until("read", read).await;
    assert_eq!((scene.source.committed(), scene.arrived().await.len()), (20, 20));
}

/// Runs until the producer comes to a stand with its confirms held back; how many messages were sent by then, and how
/// many changes read.
async fn stands_at(scene: &Scene, changes: u64, text: &str) -> (u32, u64) {
    scene.source.push((1..=changes).map(|number| change(number, 1, text)));
    let confirms = scene.broker.hold();
    let share = scene.metrics.share("incidents");
    let read = share.changes(Action::Insert);
    let (mut seen, mut stands) = ((0, 0), None);
    let stand = async || {
        let now = (scene.broker.sent.load(Ordering::Relaxed), read.get());
        // Sealing is done by threads, which virtual time does not wait for.
        std::thread::sleep(Duration::from_millis(1));
        if now.0 > 0 && std::mem::replace(&mut seen, now) == now && stands.is_none() {
            tokio::time::sleep(Duration::from_secs(5)).await;
            std::thread::sleep(Duration::from_millis(50));
            if (scene.broker.sent.load(Ordering::Relaxed), read.get()) == now {
                stands = Some(now);
                confirms.send_replace(true);
            }
        }
        stands.is_some() && scene.source.committed() as u64 == changes
    };
    scene.run_until("committed once confirmed", stand).await;
    assert_eq!(scene.arrived().await.len() as u64, changes);
    stands.expect("it came to a stand")
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_confirms_nothing_is_sent_a_window_of_messages_and_the_source_is_left_alone() {
    let scene = Scene::new();
    let (sent, read) = stands_at(&scene, 3000, "x").await;
    assert_eq!(sent, 4, "the window has room for so many");
    assert!(read <= 1000, "{read} changes were read: two polls are the most that fits before the window");
}

#[tokio::test(start_paused = true)]
async fn the_window_holds_so_many_bytes_however_few_messages_they_are() {
    let mut scene = Scene::new();
    scene.config.publish.window_messages = 1000;
    scene.config.publish.window_bytes_max = 1024 * 1024;
    scene.config.batch.batch_bytes_max = 64 * 1024;
    scene.config.batch.open_bytes_max = 256 * 1024;
    let (sent, read) = stands_at(&scene, 200, &"x".repeat(64 * 1024)).await;
    // The one that reaches the bound is the last.
    assert_eq!(sent, 16, "a megabyte of 64 KiB each");
    assert!(read <= 40, "{read} changes of 64 KiB were read");
}
