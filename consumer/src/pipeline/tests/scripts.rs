//! Before-subscribe scripts on the way of records.

use super::*;
use crate::journal::Fate;

impl Scene {
    fn script(&mut self, source: &str) {
        self.config.table.get_mut("incident").expect("listed").before_subscribe = Some(source.to_owned());
    }

    fn value(&self, number: &str, column: &str) -> Option<String> {
        let rows = self.target.rows("incident");
        let row = rows.iter().find(|row| row.get("number") == Some(&Some(number.to_owned())))?;
        row.get(column).cloned().flatten()
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_changes_withholds_and_deletes_what_is_applied() {
    let mut scene = Scene::new().declared().await;
    scene.script(
        "if (current.number == 'INC1') current.note = 'seen as ' + psp_action + ' of ' + current.getTableName();\n\
         if (current.number == 'INC2') ignore = true;\n\
         if (current.number == 'INC3') psp_action = 'delete';",
    );
    let all = [("INC1", 1), ("INC2", 2), ("INC3", 3), ("INC4", 4)];
    scene.publish("2026-11", "incident", Action::Insert, &all).await;
    // In one message and one call: the delete comes to its record in the order of the message.
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1", "INC4"]);
    assert_eq!(scene.target.calls(), 1);
    assert_eq!(scene.value("INC1", "note").as_deref(), Some("seen as insert of incident"));
    assert_eq!(scene.value("INC4", "note").as_deref(), Some(MARKER));
    let fates = |number| scene.fates("incident", number);
    assert_eq!(fates("INC1"), [Fate::AppliedAs { applied_as: Action::Insert }]);
    assert_eq!((fates("INC2"), fates("INC4")), (vec![Fate::Withheld], vec![Fate::Applied]));
    assert_eq!(fates("INC3"), [Fate::AppliedAs { applied_as: Action::Delete }]);
    // What was deleted stays so, and what was withheld was never there.
    scene.script("");
    scene.publish("2026-11", "incident", Action::Update, &[("INC2", 2), ("INC3", 2)]).await;
    scene.run_until("applied", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1", "INC2", "INC4"]);
    assert!(scene.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_record_its_script_fails_on_is_set_aside_as_it_came_and_its_parts_wait_behind_it() {
    let mut scene = Scene::new().declared().await;
    scene.script(
        "current.added = 'x';\nif (current.number == 'INC1' && 'note' in current) throw new Error(current.note);",
    );
    scene.publish("2026-11", "incident", Action::Insert, &[("INC0", 1), ("INC1", 2), ("INC2", 3)]).await;
    scene.publish_part("INC1", 4, "four").await;
    scene.publish_part("INC2", 5, "five").await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC0", "INC2"]);
    assert_eq!(scene.value("INC2", "subject").as_deref(), Some("five"));
    let dead = scene.dead().await;
    let told: Vec<_> = dead.iter().map(|letter| (letter.reason, letter.behind.as_deref())).collect();
    assert_eq!(told, [(Reason::Script, None), (Reason::Waits, Some(dead[0].id()))]);
    let error = &dead[0].error;
    assert!(error.starts_with("before_subscribe of table incident, line 2, column "), "{error}");
    assert!(!format!("{dead:?}").contains(MARKER) && !error.contains("INC1"), "{error}");
    let envelope = syncline_shared::envelope::Envelope::from_message(&dead[0].message).expect("an envelope");
    let limits = syncline_shared::seal::OpenLimits { plain_bytes_max: 4096, accept_unsealed: false };
    let opened = syncline_shared::seal::open(&scene.keyring.lock().expect("no panic"), &envelope, limits);
    let line = String::from_utf8(opened.expect("sealed")).expect("text");
    assert!(line.contains(MARKER) && !line.contains("added"), "sealed as it came: {line}");

    // A replay runs the script again: the same, then the mended one.
    scene.replay(Reason::Script).await;
    scene.run_until("set aside again", async || scene.depth().await == 0).await;
    assert_eq!((scene.numbers().len(), scene.dead().await.len()), (2, 2));
    scene.script("current.added = 'mended'");
    scene.replay(Reason::Script).await;
    scene.replay(Reason::Waits).await;
    scene.run_until("released", async || scene.depth().await == 0).await;
    let of = |column| scene.value("INC1", column);
    assert_eq!(
        (of("note"), of("subject"), of("added")),
        (Some(MARKER.into()), Some("four".into()), Some("mended".into()))
    );
    assert!(scene.dead().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_record_the_target_refuses_after_its_script_is_set_aside_as_it_came() {
    let mut scene = Scene::new().declared().await;
    scene.script("if (current.number == 'INC2') current.note = 'refused'");
    scene.target.refuse("refused");
    scene.publish("2026-11", "incident", Action::Insert, &[("INC1", 1), ("INC2", 2), ("INC3", 3)]).await;
    scene.run_until("settled", async || scene.depth().await == 0).await;
    assert_eq!(scene.numbers(), ["INC1", "INC3"]);
    let dead = scene.dead().await;
    assert_eq!(dead.iter().map(|letter| letter.reason).collect::<Vec<_>>(), [Reason::Target]);
    // Replayed without a script it is what it was.
    scene.script("");
    scene.replay(Reason::Target).await;
    scene.run_until("replayed", async || scene.depth().await == 0).await;
    assert_eq!(scene.value("INC2", "note").as_deref(), Some(MARKER));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_scripts_that_run_over() {
    let mut scene = Scene::new().declared().await;
    scene.script("while (true);");
    scene.config.table.get_mut("incident").expect("listed").script_ms_max = 100;
    // Thirty seconds of processor time, and a shutdown has ten.
    let numbers: Vec<_> = (1..=300).map(|version| ("INC1", version)).collect();
    scene.publish("2026-11", "incident", Action::Update, &numbers).await;
    scene
        .run_until("received", async || scene.broker.status(&queue()).await.expect("a status").partitions[0].ready == 0)
        .await;
    assert_eq!((scene.depth().await, scene.dead().await.len()), (1, 0));
}
