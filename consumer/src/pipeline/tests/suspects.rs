//! Messages that came again and again.

use super::*;

#[tokio::test(start_paused = true)]
async fn innocent_messages_that_came_again_and_again_are_applied() {
    let scene = Scene::new().declared().await;
    for number in 1..=5 {
        scene.publish("2026-11", "incident", Action::Insert, &[(&format!("INC{number}"), number)]).await;
    }
    for _ in 0..10 {
        scene.kill_a_consumer().await;
    }
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (5, 0));
    // Each alone: nobody else is to blame if one of them ends the consumer.
    assert_eq!(scene.target.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_tried_alone_too_often_is_set_aside_closed() {
    let scene = Scene::new().declared().await;
    for number in 1..=3 {
        scene.publish("2026-11", "incident", Action::Insert, &[(&format!("INC{number}"), number)]).await;
    }
    let options = SubscribeOptions { replica: "killed".to_owned(), prefetch: 100 };
    let mut subscriber = scene.broker.subscriber("crm", 0, &options).await.expect("attached");
    let first = subscriber.receive().await.expect("received").expect("a message");
    let id = first.message().message_id.clone().expect("an id");
    drop((first, subscriber));
    let mut target = scene.target.clone();
    target.set_tries("incident", &id, 3).await.expect("set");
    scene.kill_a_consumer().await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    let dead = scene.dead().await;
    assert_eq!(
        dead.iter().map(|letter| (letter.reason, letter.id())).collect::<Vec<_>>(),
        [(Reason::Crash, id.as_str())]
    );
    assert_eq!(scene.numbers(), ["INC2", "INC3"]);
    // Once mended it is replayed as a new one.
    assert_eq!(target.tries("incident", &id).await.expect("asked"), 0);
    scene.replay(Reason::Crash).await;
    scene.run_until("applied", async || scene.numbers().len() == 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_fails_during_a_try_does_not_count_as_one() {
    let scene = Scene::new().declared().await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.kill_a_consumer().await;
    scene.kill_a_consumer().await;
    for _ in 0..20 {
        scene.target.fail_next(ApplyError::Busy {
            address: "db".to_owned(),
            problem: "locked".to_owned(),
            limit: true,
        });
    }
    for _ in 0..5 {
        let before = scene.target.calls();
        scene.run_until("tried", async || scene.target.calls() > before + 1).await;
    }
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_good_message_that_came_again_and_again_proves_its_key_too() {
    let scene = Scene::new().declared().await;
    scene.inject(|message| message.body[20] ^= 1).await;
    scene.publish("2026-11", "incident", Action::Update, &[("INC1", 1)]).await;
    for _ in 0..3 {
        scene.kill_a_consumer().await;
    }
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (1, 1));
}
