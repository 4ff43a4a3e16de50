use jiff::Timestamp;
use serde_json::json;
use syncline_shared::record::{Columns, Value, Version};

use super::*;
use crate::source::Session;

mod classes;
mod leave;
mod routes;

fn config(extra: serde_json::Value) -> ShareConfig {
    let mut fields = json!({"source": "desk", "table": "incident", "queue": "crm", "key": "2026-11"});
    let (Some(all), Some(more)) = (fields.as_object_mut(), extra.as_object()) else { panic!("objects") };
    all.extend(more.clone());
    serde_json::from_value(fields).unwrap()
}

fn share(extra: serde_json::Value) -> Share {
    Share::compile("incidents", &config(extra)).unwrap()
}

fn row(fields: &[(&str, Value<'_>)]) -> Row {
    let mut row = Row::builder(Columns::new(fields.iter().map(|(name, _)| *name)));
    fields.iter().for_each(|(_, value)| row.push(*value));
    row.finish()
}

fn incident(priority: &str) -> Row {
    row(&[("id", Value::Number("7")), ("priority", Value::Number(priority)), ("notes", Value::Text("x"))])
}

fn change(action: Action, before: Option<Row>, after: Option<Row>) -> Change {
    Change {
        table: "incident".into(),
        action,
        key: row(&[("id", Value::Number("7"))]),
        before,
        after,
        version: Version::new(1, 2, 2),
        at: Timestamp::UNIX_EPOCH,
        session: Session { interactive: Some(true), user: None },
        origin: Arc::from([]),
        only_share: None,
    }
}

fn update(priority: &str) -> Change {
    change(Action::Update, None, Some(incident(priority)))
}

fn by(interactive: Option<bool>, mut change: Change) -> Change {
    change.session.interactive = interactive;
    change
}

fn shared<'a>(share: &'a Share, change: &'a Change) -> Shared<'a> {
    match share.decide(change) {
        Decision::Share(mut messages) if messages.len() == 1 => messages.remove(0),
        Decision::Share(messages) => panic!("{messages:?}"),
        other @ (Decision::Withhold(_) | Decision::Unfit { .. }) => panic!("{other:?}"),
    }
}

/// What leaves for a change: action, table, route and whether its version is the change's own.
fn messages(share: &Share, change: &Change) -> Vec<(Action, String, usize, bool)> {
    match share.decide(change) {
        Decision::Share(messages) => messages
            .into_iter()
            .map(|message| {
                assert_eq!(message.data.is_none(), message.action == Action::Delete);
                assert!(message.version == change.version || message.version == change.version.below());
                (message.action, message.table.to_string(), message.way.route, message.version == change.version)
            })
            .collect(),
        Decision::Withhold(_) => Vec::new(),
        unfit @ Decision::Unfit { .. } => panic!("{unfit:?}"),
    }
}

const ACTIONS: [&str; 3] = ["insert", "update", "delete"];

#[test]
fn a_share_is_on_every_action_and_for_persons_unless_it_says_otherwise() {
    let share = share(json!({}));
    for change in [
        change(Action::Insert, None, Some(incident("1"))),
        update("1"),
        change(Action::Delete, Some(incident("1")), None),
    ] {
        assert_eq!(shared(&share, &change).action, change.action);
        assert_eq!(share.decide(&by(Some(false), change.clone())), Decision::Withhold(Withheld::Background));
        assert_eq!(share.decide(&by(None, change)), Decision::Withhold(Withheld::UnknownSession));
    }
}

#[test]
fn a_share_that_is_not_interactive_only_takes_every_session() {
    let share = share(json!({"interactive_only": false}));
    for interactive in [Some(true), Some(false), None] {
        shared(&share, &by(interactive, update("1")));
    }
}

#[test]
fn an_action_the_share_is_not_on_is_withheld() {
    for on in ACTIONS {
        let share = share(json!({"on": [on]}));
        for action in [Action::Insert, Action::Update, Action::Delete] {
            let change = change(action, Some(incident("1")), (action != Action::Delete).then(|| incident("1")));
            let withheld = matches!(share.decide(&change), Decision::Withhold(Withheld::Action));
            assert_eq!(withheld, action.as_str() != on, "{on} {action}");
        }
    }
}

#[test]
fn rows_of_a_copy_are_subject_to_the_filter_alone() {
    let share = share(json!({"on": ["delete"], "filter": "priority<=2"}));
    let copied = |priority| by(None, change(Action::Bulk, None, Some(incident(priority))));
    assert_eq!(shared(&share, &copied("2")).action, Action::Bulk);
    assert_eq!(share.decide(&copied("3")), Decision::Withhold(Withheld::Filter));
}

#[test]
fn a_share_is_concerned_by_its_table_and_its_own_copy() {
    let share = share(json!({}));
    assert!(share.concerns(&update("1")));
    assert!(!share.concerns(&Change { table: "problem".into(), ..update("1") }));
    assert!(share.concerns(&Change { only_share: Some("incidents".into()), ..update("1") }));
    assert!(!share.concerns(&Change { only_share: Some("others".into()), ..update("1") }));
}

#[test]
fn the_filter_looks_at_the_record_after_the_change_and_before_a_delete() {
    let share = share(json!({"filter": "priority<=2"}));
    let withheld = Decision::Withhold(Withheld::Filter);
    assert_eq!(share.decide(&change(Action::Insert, None, Some(incident("3")))), withheld);
    shared(&share, &change(Action::Update, Some(incident("3")), Some(incident("1"))));
    assert_eq!(share.decide(&change(Action::Delete, Some(incident("3")), None)), withheld);
    let deleted = change(Action::Delete, Some(incident("1")), None);
    assert_eq!(shared(&share, &deleted).data, None);
}

#[test]
fn the_days_of_the_filter_are_those_of_the_share_s_time_zone() {
    let filter = "openedONToday@javascript:gs.daysAgoStart(0)@javascript:gs.daysAgoEnd(0)";
    let late = row(&[("opened", Value::Text("2026-03-03 23:30:00"))]);
    let change = Change { at: "2026-03-04T08:00:00Z".parse().unwrap(), ..change(Action::Insert, None, Some(late)) };
    shared(&share(json!({"filter": filter, "time_zone": "Europe/Berlin"})), &change);
    let in_utc = share(json!({"filter": filter}));
    assert_eq!(in_utc.decide(&change), Decision::Withhold(Withheld::Filter));
}

#[test]
fn a_filter_of_changes_is_told_what_the_record_was() {
    let share = share(json!({"filter": "priorityCHANGESTO1"}));
    let withheld = Decision::Withhold(Withheld::Filter);
    shared(&share, &change(Action::Update, Some(incident("3")), Some(incident("1"))));
    shared(&share, &change(Action::Insert, None, Some(incident("1"))));
    assert_eq!(share.decide(&change(Action::Update, Some(incident("1")), Some(incident("1")))), withheld);
    assert_eq!(share.decide(&change(Action::Bulk, None, Some(incident("1")))), withheld);
    assert_eq!(share.decide(&change(Action::Delete, Some(incident("1")), None)), withheld);
    // What the source does not tell is not held against the record, but for what it cannot change.
    shared(&share, &update("1"));
    assert_eq!(share.decide(&update("2")), withheld);
}

#[test]
fn a_delete_the_source_knows_too_little_of_is_shared() {
    let share = share(json!({"filter": "priority<=2"}));
    for before in [None, Some(row(&[("id", Value::Number("7"))]))] {
        shared(&share, &change(Action::Delete, before, None));
    }
    let by_key = self::share(json!({"filter": "id>100^priority<=2"}));
    assert_eq!(by_key.decide(&change(Action::Delete, None, None)), Decision::Withhold(Withheld::Filter));
}

#[test]
fn a_value_that_was_not_sent_is_not_held_against_the_record() {
    let share = share(json!({"filter": "notesLIKEx"}));
    let toast = row(&[("id", Value::Number("7")), ("notes", Value::Unchanged)]);
    assert!(shared(&share, &change(Action::Update, None, Some(toast))).partial);
}

#[test]
fn a_column_the_table_does_not_have_makes_the_share_unfit_and_withholds_nothing() {
    let misnamed = share(json!({"filter": "prioritaet<=2^ORpriority<=2"}));
    assert_eq!(misnamed.decide(&update("1")), Decision::Unfit { column: "prioritaet" });
    let selecting = share(json!({"columns": ["priority", "comments"]}));
    assert_eq!(selecting.decide(&update("1")), Decision::Unfit { column: "comments" });
    let mended = change(Action::Update, None, Some(row(&[("comments", Value::Null), ("priority", Value::Null)])));
    assert_eq!(shared(&selecting, &mended).data.map(|data| data.columns().len()), Some(2));
}

#[test]
fn all_columns_leave_as_they_are_without_a_copy() {
    let (share, change) = (share(json!({"filter": "priority=1"})), update("1"));
    let shared = shared(&share, &change);
    assert!(matches!(shared.data, Some(Cow::Borrowed(data)) if Some(data) == change.after.as_ref()));
    assert!(!shared.partial);
}

#[test]
fn selected_columns_leave_with_the_key_and_the_filter_may_use_others() {
    let share = share(json!({"columns": ["notes"], "filter": "priority=1"}));
    let change = update("1");
    let shared = shared(&share, &change);
    let expected = row(&[("id", Value::Number("7")), ("notes", Value::Text("x"))]);
    assert_eq!(shared.data.as_deref(), Some(&expected));
    assert_eq!(shared.key, &change.key);
    assert_eq!(share.columns_used("incident").collect::<Vec<_>>(), ["priority", "notes"]);
}

#[test]
fn a_record_is_partial_only_when_a_selected_column_was_not_sent() {
    let toast = row(&[("id", Value::Number("7")), ("title", Value::Text("t")), ("notes", Value::Unchanged)]);
    let change = change(Action::Update, None, Some(toast));
    for (columns, partial) in [(json!(["title"]), false), (json!(["notes"]), true)] {
        assert_eq!(shared(&share(json!({"columns": columns})), &change).partial, partial);
    }
}

#[test]
fn a_table_that_changes_its_shape_is_followed() {
    let share = share(json!({"columns": ["priority"], "filter": "priority=1"}));
    for columns in [["priority", "id"], ["id", "priority"], ["priority", "id"]] {
        let values = columns.map(|name| (name, Value::Number(if name == "id" { "7" } else { "1" })));
        let change = change(Action::Update, None, Some(row(&values)));
        assert_eq!(shared(&share, &change).data.as_deref(), change.after.as_ref());
    }
}

#[test]
fn every_problem_of_a_share_is_reported_at_once() {
    let bad = json!({
        "source": "", "key": null, "on": [], "filter": "priority<=2^stateDYNAMIC1",
        "time_zone": "Mars/Olympus", "columns": ["a", "", "a"],
    });
    let problems = Share::compile("bad", &config(bad)).unwrap_err();
    let fields: Vec<_> = problems.iter().map(|(field, _)| *field).collect();
    assert_eq!(fields, ["source", "key", "on", "time_zone", "filter", "columns", "columns"]);
    let (_, filter) = &problems[4];
    assert!(filter.starts_with("at character 18: DYNAMIC stands for a value the platform looks up"), "{filter}");
}

#[test]
fn a_share_has_a_key_or_a_cipher_that_needs_none() {
    let seal_with = |key: Option<&str>, cipher: Option<&str>| config(json!({"key": key, "cipher": cipher})).seal_with();
    assert_eq!(seal_with(Some("k"), None), Ok(SealWith::Key("k".to_owned())));
    assert_eq!(seal_with(None, Some("None")), Ok(SealWith::Plain));
    assert_eq!(seal_with(None, Some("Base64")), Ok(SealWith::Base64));
    for (key, cipher, field) in [
        (None, None, "key"),
        (Some(""), None, "key"),
        (Some("k"), Some("None"), "cipher"),
        (None, Some("AES256"), "cipher"),
        (None, Some("none"), "cipher"),
    ] {
        assert_eq!(seal_with(key, cipher).unwrap_err().0, field, "{key:?} {cipher:?}");
    }
}

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = config(json!({}));
    assert_eq!((config.on_leave(), config.update_or_insert), (OnLeave::Delete, false));
    assert_eq!(config.on, [ShareOn::Insert, ShareOn::Update, ShareOn::Delete]);
    assert!(config.interactive_only && config.filter.is_none() && config.columns.is_none());
    assert_eq!(config.initial, Initial::None);
    assert!(
        serde_json::from_value::<ShareConfig>(json!({"source": "s", "table": "t", "queue": "q", "onn": []})).is_err()
    );
}
