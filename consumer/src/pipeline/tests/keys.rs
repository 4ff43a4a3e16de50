//! Keys that are unknown, wrong, added and taken away.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_drains_nothing_and_is_mended_without_a_restart() {
    let scene = Scene::new().declared().await;
    let wrong = || Key::derive("2026-11", Cipher::Aes256, b"another secret, as long as it has to be").expect("a key");
    scene.keyring.lock().expect("no panic").insert(wrong());
    let numbers: Vec<_> = (1..=30).map(|number| format!("INC{number:02}")).collect();
    for (number, version) in numbers.iter().zip(1..) {
        scene.publish("2026-11", "incident", Action::Insert, &[(number, version)]).await;
    }
    let paused = async || scene.paused().contains("no message sealed with key \"2026-11\" opens");
    scene.run_until("paused", paused).await;
    assert_eq!((scene.depth().await, scene.dead().await.len()), (30, 0));
    let mended = Mutex::new(false);
    let goes_on = async || {
        if paused().await && !std::mem::replace(&mut *mended.lock().expect("no panic"), true) {
            tokio::time::sleep(Duration::from_secs(60)).await;
            scene.keyring.lock().expect("no panic").insert(key_for("2026-11"));
        }
        scene.depth().await == 0
    };
    scene.run_until("goes on by itself", goes_on).await;
    assert_eq!((scene.numbers(), scene.dead().await.len()), (numbers, 0));
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_changes_in_mid_life_costs_one_dead_letter_and_pauses() {
    let scene = Scene::new().declared().await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    let changed = Key::derive("2026-11", Cipher::Aes256, b"another secret, as long as it has to be").expect("a key");
    for version in 2..=9 {
        let mut line = Vec::new();
        let row = row(&format!("INC{version}"));
        let key = row.select(Columns::new(["number"]), &[0]);
        write_line(&mut line, &key, Version::new(1, version, 1), Timestamp::now(), Some(&row), false);
        let sealed = seal(&Seal::Key(changed.clone()), route("incident", Action::Insert, 1), &line).expect("sealed");
        let mut publisher = scene.broker.publisher().await.expect("a publisher");
        publisher.publish("crm", &sealed).await.expect("published").await.expect("confirmed");
    }
    scene.run_until("paused", async || !scene.paused().is_empty()).await;
    assert_eq!((scene.depth().await, scene.dead().await.len()), (7, 1));
    scene.keyring.lock().expect("no panic").insert(changed);
    scene.run_until("goes on", async || scene.depth().await == 0).await;
    scene.replay(Reason::Seal).await;
    scene.run_until("all", async || scene.numbers().len() == 9).await;
}

#[tokio::test(start_paused = true)]
async fn a_forged_message_waits_no_longer_than_for_a_good_one_behind_it() {
    let scene = Scene::new().declared().await;
    for _ in 0..3 {
        scene.inject(|message| message.body[20] ^= 1).await;
    }
    let published = Mutex::new(false);
    let settled = async || {
        if !scene.paused().is_empty() && !std::mem::replace(&mut *published.lock().expect("no panic"), true) {
            assert_eq!((scene.depth().await, scene.dead().await.len()), (3, 0));
            scene.publish("2026-11", "incident", Action::Update, &[("INC1", 1)]).await;
        }
        scene.depth().await == 0
    };
    scene.run_until("settled", settled).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (1, 3));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_holds_up_its_partition_is_set_aside_by_hand() {
    let scene = Scene::new().declared().await;
    scene.publish("2027-01", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC2", 2)]).await;
    let settled = async || {
        let why = scene.paused();
        if let Some((_, id)) = why.split_once("syncline dead-letter park ") {
            scene.target.clone().set_tries("incident", id, crate::target::TRIES_PARKED).await.expect("set");
        }
        scene.depth().await == 0
    };
    scene.run_until("settled", settled).await;
    assert_eq!(scene.numbers(), ["INC2"]);
    let dead = scene.dead().await;
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Seal]);
    assert!(scene.health.paused().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_pauses_the_partition_and_drains_nothing_until_it_is_known() {
    let scene = Scene::new().declared().await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.publish("2027-01", "incident", Action::Insert, &[("INC2", 2)]).await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC3", 3)]).await;
    let paused = async || scene.health.paused().values().any(|reason| reason.contains("2027-01"));
    scene.run_until("paused", paused).await;
    assert_eq!((scene.numbers(), scene.depth().await), (vec!["INC1".to_owned()], 2));

    let goes_on = async || {
        if scene.health.paused().values().any(|reason| reason.contains("2027-01")) {
            scene.keyring.lock().expect("no panic").insert(key_for("2027-01"));
        }
        scene.depth().await == 0
    };
    scene.run_until("goes on by itself", goes_on).await;
    assert_eq!(scene.numbers(), ["INC1", "INC2", "INC3"]);
    assert!(scene.dead().await.is_empty() && scene.health.paused().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_record_refused_after_its_key_was_taken_away_is_set_aside_with_its_batch() {
    let scene = Scene::new().declared().await;
    scene.target.refuse("INC3");
    scene.publish("2027-01", "incident", Action::Insert, &[("INC1", 1)]).await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC2", 2), ("INC3", 3)]).await;
    let settled = async || {
        if scene.health.paused().values().any(|reason| reason.contains("2027-01")) {
            let mut others = Keyring::default();
            others.insert(key_for("2027-01"));
            *scene.keyring.lock().expect("no panic") = others;
        }
        scene.depth().await == 0
    };
    scene.run_until("settled", settled).await;
    assert_eq!(scene.numbers(), ["INC1", "INC2"]);
    let dead: Vec<_> = scene.dead().await.iter().map(|letter| (letter.reason, letter.message.records())).collect();
    assert_eq!(dead, [(Reason::Target, 2)]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_was_added_in_time_pauses_nothing() {
    let scene = Scene::new().declared().await;
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1)]).await;
    let (mut rotated, mut paused) = (false, false);
    scene
        .run_until("both applied", async || {
            if !rotated && scene.numbers() == ["INC1"] {
                rotated = true;
                scene.keyring.lock().expect("no panic").insert(key_for("2027-01"));
                scene.publish("2027-01", "incident", Action::Insert, &[("INC2", 2)]).await;
            }
            paused |= !scene.health.paused().is_empty();
            scene.numbers() == ["INC1", "INC2"]
        })
        .await;
    assert!(!paused, "a rotation by the book is no fault");
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_is_not_sealed_is_not_applied_unless_accepted() {
    let mut scene = Scene::new().declared().await;
    let mut line = Vec::new();
    let row = row("INC1");
    write_line(&mut line, &row, Version::new(1, 1, 1), Timestamp::now(), Some(&row), false);
    let envelope = seal(&Seal::Plain, route("incident", Action::Insert, 1), &line).expect("sealed");
    let mut publisher = scene.broker.publisher().await.expect("a publisher");
    publisher.publish("crm", &envelope).await.expect("published").await.expect("confirmed");
    scene.run_until("paused", async || !scene.health.paused().is_empty()).await;
    assert_eq!((scene.numbers().len(), scene.depth().await), (0, 1));
    scene.config.accept_unsealed = true;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1"]);
}
