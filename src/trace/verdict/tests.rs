//! One record in every place it may be.

use std::collections::BTreeMap;

use jiff::Timestamp;
use syncline_consumer::journal::Told as Applied;
use syncline_producer::share::Withheld;
use syncline_shared::record::Action;

use super::super::known::{Answer, Service};
use super::*;

fn version(number: u64) -> Version {
    Version::new(1, number, 1)
}

fn decided(number: u64, fate: FateTold) -> Entry {
    Entry {
        at: Timestamp::UNIX_EPOCH,
        source: "desk".to_owned(),
        table: "incident".to_owned(),
        share: "incidents".to_owned(),
        action: Action::Update,
        version: version(number),
        changed_at: Timestamp::UNIX_EPOCH,
        fate,
    }
}

fn left(number: u64) -> LeftTold {
    LeftTold {
        sent_as: Action::Update,
        sent_table: "incident".to_owned(),
        partial: false,
        sent_version: version(number),
        queue: "crm".to_owned(),
        partition: 3,
        set_aside: None,
        message: Some("M".to_owned()),
        published_at: Some(Timestamp::UNIX_EPOCH),
        confirmed_at: Some(Timestamp::UNIX_EPOCH),
    }
}

fn target(standing: Result<Standing, String>) -> AtTarget {
    let [name, queue, table, into] = ["crm", "crm", "incident", "support_case"].map(str::to_owned);
    AtTarget { target: name, queue, table, into, standing }
}

fn has(number: u64) -> Standing {
    Standing { row: Some(Some(version(number))), ..Standing::default() }
}

fn letter(number: u64) -> Letter {
    Letter {
        id: "L".to_owned(),
        queue: "crm".to_owned(),
        table: "incident".to_owned(),
        partition: Some(3),
        reason: "target".to_owned(),
        error: "too long".to_owned(),
        at: Timestamp::UNIX_EPOCH,
        version: version(number),
        behind: None,
    }
}

/// The target has version 1, version 2 was sent, and `waiting` messages are in the partition.
fn sent(standing: Standing, waiting: u64) -> Known {
    Known {
        decided: vec![decided(1, FateTold::Shared(left(1))), decided(2, FateTold::Shared(left(2)))],
        targets: vec![target(Ok(standing))],
        sources: vec![("desk".to_owned(), AtSource::Here)],
        waiting: BTreeMap::from([(("crm".to_owned(), 3), waiting)]),
        ..Known::default()
    }
}

fn told(known: &Known) -> (State, String) {
    let Conclusion { state, conclusion } = conclude(known);
    (state, conclusion)
}

#[test]
fn the_target_is_in_step_with_the_version_last_sent_or_a_newer_one() {
    assert_eq!(told(&sent(has(2), 7)), (State::InStep, "in step: target crm has the version last sent".to_owned()));
    assert!(told(&sent(has(3), 7)).1.contains("a newer version than"));
    let gone = Standing { deleted: Some(version(2)), ..Standing::default() };
    let mut known = sent(gone, 0);
    assert!(told(&known).1.ends_with("target crm has the delete that was sent when the record left the share"));
    known.decided[1].action = Action::Delete;
    assert_eq!(told(&known), (State::InStep, "in step: target crm has the delete last sent".to_owned()));
}

#[test]
fn what_the_target_has_not_seen_waits_is_under_way_or_is_missing() {
    let waits = "behind: message M waits in partition 3 of crm, one of 7";
    assert_eq!(told(&sent(has(1), 7)), (State::Behind, waits.to_owned()));
    assert_eq!(told(&sent(Standing::default(), 7)), (State::Behind, waits.to_owned()));
    let mut paused = sent(has(1), 7);
    paused.services.push(Service {
        part: "consumer",
        address: "127.0.0.1:1".to_owned(),
        answer: Answer::Off,
        paused: vec!["subscription crm partition 3: the target is away".to_owned()],
    });
    assert!(told(&paused).1.ends_with("one of 7: subscription crm partition 3: the target is away"));
    assert_eq!(told(&sent(has(1), 0)).0, State::Missing);
    for (message, confirmed_at, expected) in [
        (None, None, "under way: the producer has not published it yet"),
        (Some("M".to_owned()), None, "under way: the broker has not confirmed message M yet"),
    ] {
        let mut known = sent(has(1), 7);
        known.decided[1].fate = FateTold::Shared(LeftTold { message, confirmed_at, ..left(2) });
        assert_eq!(told(&known), (State::UnderWay, expected.to_owned()));
    }
    let mut away = sent(has(1), 7);
    away.targets = vec![target(Err("out of reach".to_owned()))];
    assert_eq!(told(&away).0, State::Unknown);
}

#[test]
fn what_a_subscription_keeps_from_the_target_is_not_missing() {
    let message = uuid::Uuid::now_v7();
    for (fate, state) in
        [(Fate::Withheld, State::NotApplied), (Fate::Skipped, State::NotApplied), (Fate::Stale, State::Missing)]
    {
        let mut known = sent(has(1), 0);
        known.decided[1].fate = FateTold::Shared(LeftTold { message: Some(message.to_string()), ..left(2) });
        known.applied.push(Applied {
            at: Timestamp::UNIX_EPOCH,
            subscription: "crm".to_owned(),
            queue: "crm".to_owned(),
            partition: 3,
            source: "desk".to_owned(),
            share: "incidents".to_owned(),
            table: "incident".to_owned(),
            action: Action::Update,
            version: version(2),
            message,
            fate,
        });
        assert_eq!(told(&known).0, state);
    }
}

#[test]
fn a_dead_letter_counts_until_the_target_has_its_version_or_a_newer_one() {
    let mut known = sent(has(1), 0);
    known.letters = vec![letter(2)];
    let expected = "set aside: dead letter L (target); see `syncline dead-letter show L`";
    assert_eq!(told(&known), (State::SetAside, expected.to_owned()));
    known.targets = vec![target(Ok(has(2)))];
    assert_eq!(told(&known).0, State::InStep);
    // One that the producer wrote, and somebody discarded.
    let mut gone = sent(has(1), 0);
    gone.decided[1].fate = FateTold::Shared(LeftTold { set_aside: Some("script".to_owned()), ..left(2) });
    assert_eq!(told(&gone).0, State::SetAside);
}

#[test]
fn a_share_that_withholds_says_why_whether_or_not_it_sent_something_before() {
    let withheld = || FateTold::Withheld { reason: Withheld::Filter };
    let mut known = sent(has(2), 0);
    known.decided.push(decided(3, withheld()));
    let (state, conclusion) = told(&known);
    assert_eq!(state, State::NotShared);
    assert!(
        conclusion.contains("withheld the newest change") && conclusion.contains("what was sent before"),
        "{conclusion}"
    );
    known.decided = vec![decided(3, withheld())];
    let expected = "not shared: share incidents withheld it (filter: the record does not fit the filter)";
    assert_eq!(told(&known), (State::NotShared, expected.to_owned()));
    // Nothing is kept back by a change of columns that the share does not mind.
    let mut known = sent(has(2), 0);
    known.decided.push(decided(3, FateTold::Withheld { reason: Withheld::Unchanged }));
    assert_eq!(told(&known).0, State::InStep);
}

#[test]
fn without_journals_source_and_target_say_what_they_can() {
    let sight = |at: AtSource, standing: Standing, waiting: u64, messages: &[(&str, &str)]| {
        let messages =
            messages.iter().map(|(table, queue)| ("update".to_owned(), (*table).to_owned(), (*queue).to_owned(), 3));
        let verdict =
            if messages.len() > 0 { Verdict::Leaves } else { Verdict::Withheld { reason: Withheld::Background } };
        let tried = Some(Tried { verdict, filter: None, messages: messages.collect() });
        let known = Known {
            decided: Vec::new(),
            sources: vec![("desk".to_owned(), at)],
            shares: vec![Now { share: "incidents".to_owned(), queues: vec!["crm".to_owned()], tried }],
            ..sent(standing, waiting)
        };
        told(&known)
    };
    let leaves: &[(&str, &str)] = &[("incident", "crm")];
    let gone = || Standing { deleted: Some(version(2)), ..Standing::default() };
    for (at, standing, waiting, messages, state, part) in [
        (AtSource::Here, has(1), 0, leaves, State::Unknown, "nothing waits for it"),
        (AtSource::Here, has(1), 2, leaves, State::Unknown, "2 messages wait"),
        (AtSource::Here, Standing::default(), 2, leaves, State::Behind, "lacks it, and 2 messages wait"),
        (AtSource::Here, Standing::default(), 0, leaves, State::Missing, "`syncline bulk-share incidents`"),
        (
            AtSource::Here,
            Standing::default(),
            0,
            &[],
            State::NotShared,
            "share incidents would withhold it now (background: ",
        ),
        (AtSource::Here, has(1), 0, &[], State::NotShared, "from before"),
        (AtSource::Gone, gone(), 0, &[], State::InStep, "remembers its delete, version 000000010000"),
        (AtSource::Gone, has(1), 1, &[], State::Behind, "still has it, and 1 message waits"),
        (AtSource::Gone, has(1), 0, &[], State::NotShared, "its delete was not sent"),
        (AtSource::Gone, Standing::default(), 0, &[], State::Nowhere, "neither the source nor the target"),
        (AtSource::NotAsked("away".to_owned()), has(1), 0, &[], State::Unknown, "no source was asked"),
    ] {
        let (found, conclusion) = sight(at, standing, waiting, messages);
        assert_eq!(found, state, "{conclusion}");
        assert!(conclusion.contains(part), "{part}: {conclusion}");
    }
}

#[test]
fn of_several_targets_the_worst_off_is_told() {
    let mut known = sent(has(2), 0);
    known.targets.push(AtTarget { target: "hub".to_owned(), ..target(Ok(has(1))) });
    assert_eq!(told(&known).0, State::Missing);
}

#[test]
fn a_place_the_record_never_came_to_says_nothing_of_it() {
    let mut known = sent(has(2), 0);
    known.targets.push(AtTarget { table: "problem".to_owned(), ..target(Ok(Standing::default())) });
    assert_eq!(told(&known).0, State::InStep);
    known.targets.reverse();
    assert_eq!(told(&known).0, State::InStep);
}

#[test]
fn without_a_target_the_journal_of_the_producer_speaks() {
    let mut known = Known { targets: Vec::new(), ..sent(has(1), 0) };
    assert!(told(&known).1.contains("message M to partition 3 of crm was confirmed"));
    known.decided.clear();
    assert_eq!(told(&known).0, State::Unknown);
}
