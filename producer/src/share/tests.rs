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
        other @ (Decision::Withhold(_) | Decision::SetAside { .. } | Decision::Unfit { .. }) => panic!("{other:?}"),
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
        unfit @ (Decision::SetAside { .. } | Decision::Unfit { .. }) => panic!("{unfit:?}"),
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

fn scripted(script: &str) -> Share {
    share(json!({"before_share": script}))
}

#[test]
fn a_script_changes_the_action_and_the_record_of_its_share_alone() {
    let (one, other) = (scripted("psp_action = 'bulk'; current.notes = 'y'; current.added = 1"), share(json!({})));
    let change = update("1");
    for _ in 0..2 {
        let sent = shared(&one, &change);
        let expected = row(&[
            ("id", Value::Number("7")),
            ("priority", Value::Number("1")),
            ("notes", Value::Text("y")),
            ("added", Value::Number("1")),
        ]);
        assert_eq!((sent.action, sent.data.unwrap().into_owned()), (Action::Bulk, expected));
        let sent = shared(&other, &change);
        assert_eq!((sent.action, sent.data.unwrap().into_owned()), (Action::Update, incident("1")));
    }
}

#[test]
fn a_script_runs_behind_the_filter_and_before_the_columns() {
    let share = share(json!({
        "filter": "priority<3", "columns": ["notes"],
        "before_share": "current.priority = 9; current.notes = current.notes + previous.priority; current.added = 'z'",
    }));
    let change = change(Action::Update, Some(incident("2")), Some(incident("1")));
    let expected = row(&[("id", Value::Number("7")), ("notes", Value::Text("x2")), ("added", Value::Text("z"))]);
    assert_eq!(shared(&share, &change).data.unwrap().into_owned(), expected);
    let outside = super::tests::change(Action::Insert, None, Some(incident("3")));
    assert_eq!(share.decide(&outside), Decision::Withhold(Withheld::Filter));
}

#[test]
fn a_script_withholds_deletes_and_fails_for_one_record() {
    let share = scripted(
        "if (current.priority == 1) ignore = true; if (current.priority == 2) psp_action = 'delete';
         if (current.priority == 3) current.nowhere.foo()",
    );
    assert_eq!(share.decide(&update("1")), Decision::Withhold(Withheld::Script));
    let removal = update("2");
    assert_eq!((shared(&share, &removal).action, shared(&share, &removal).data), (Action::Delete, None));
    let failing = update("3");
    let Decision::SetAside { error, .. } = share.decide(&failing) else { panic!("it fails") };
    assert!(error.to_string().starts_with("line 2, column"), "{error}");
    let delete = change(Action::Delete, Some(incident("4")), None);
    assert_eq!(shared(&share, &delete).action, Action::Delete);
}

fn full(priority: &str, notes: &str) -> Row {
    row(&[("id", Value::Number("7")), ("priority", Value::Number(priority)), ("notes", Value::Text(notes))])
}

fn changed(before: (&str, &str), after: (&str, &str)) -> Change {
    change(Action::Update, Some(full(before.0, before.1)), Some(full(after.0, after.1)))
}

#[test]
fn an_update_leaves_when_it_changes_what_the_share_minds() {
    let (on, ignoring) = (share(json!({"share_on": ["priority"]})), share(json!({"ignore": ["notes"]})));
    for share in [on, ignoring] {
        let notes = changed(("1", "x"), ("1", "y"));
        assert_eq!(share.decide(&notes), Decision::Withhold(Withheld::Unchanged));
        let priority = changed(("1", "x"), ("2", "y"));
        assert_eq!(shared(&share, &priority).data.map(Cow::into_owned), priority.after);
        shared(&share, &update("1"));
        shared(&share, &change(Action::Insert, None, Some(incident("1"))));
        shared(&share, &change(Action::Delete, Some(incident("1")), None));
    }
}

#[test]
fn of_an_update_only_what_it_changed_leaves_and_of_what_is_new_everything() {
    let share = share(json!({"columns": "updated", "filter": "priority<3"}));
    let update = changed(("1", "x"), ("1", "y"));
    let sent = shared(&share, &update);
    let part = row(&[("id", Value::Number("7")), ("notes", Value::Text("y"))]);
    assert_eq!((sent.data.map(Cow::into_owned), sent.partial), (Some(part), true));
    for whole in [
        changed(("5", "x"), ("1", "x")),
        super::tests::update("1"),
        change(Action::Insert, None, Some(incident("1"))),
        change(Action::Bulk, None, Some(incident("1"))),
    ] {
        let sent = shared(&share, &whole);
        assert_eq!((sent.data.map(Cow::into_owned), sent.partial), (whole.after.clone(), false), "{:?}", whole.action);
    }
    let with_id = super::tests::share(json!({"columns": "updated", "id": "priority", "filter": "priority<3"}));
    let sent = shared(&with_id, &update);
    assert_eq!((sent.data.map(Cow::into_owned), sent.partial), (update.after.clone(), false), "the id goes along");
    assert_eq!(with_id.columns_used("incident").collect::<Vec<_>>(), ["priority", "priority"]);
    let minding = super::tests::share(json!({"share_on": ["notes"], "filter": "priority<3"}));
    shared(&minding, &changed(("5", "x"), ("1", "x")));
}

#[test]
fn what_is_updated_is_masked_and_renamed_and_what_a_script_sets_is_updated() {
    let share = share(json!({
        "columns": "updated", "mask": {"notes": "last4"}, "rename": {"notes": "text"}, "constants": {"from": "desk"},
        "before_share": "current.priority = 9",
    }));
    let update = changed(("1", "x"), ("1", "123456"));
    let expected = row(&[
        ("id", Value::Number("7")),
        ("priority", Value::Number("9")),
        ("text", Value::Text("****3456")),
        ("from", Value::Text("desk")),
    ]);
    assert_eq!(shared(&share, &update).data.unwrap().into_owned(), expected);
    assert_eq!(share.columns_used("incident").collect::<Vec<_>>(), ["notes", "notes"]);
}

#[test]
fn a_form_for_a_key_column_stops_the_source_instead_of_sending_it_as_it_is() {
    for extra in
        [json!({"mask": {"id": "redact"}}), json!({"rename": {"id": "number"}}), json!({"constants": {"id": 1}})]
    {
        assert_eq!(share(extra).decide(&update("1")), Decision::Unfit { column: "id" });
    }
}

/// A share whose references in `notes` have display values.
fn displaying(extra: serde_json::Value) -> Share {
    let mut all = json!({"display": {"notes": {"table": "sys_user", "key": "id", "value": "name"}}});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let share = share(all);
    let known = [("x", "Abel"), ("y", "Beth")];
    let references = known.map(|(text, _)| Reference { text: text.into(), is_number: false }).to_vec();
    share.keep_displays(0, references, known.map(|(_, name)| Some(name.into())).to_vec(), std::time::Instant::now());
    share
}

#[test]
fn a_display_value_goes_along_with_its_reference_and_only_then() {
    let names = |share: &Share, change: &Change| {
        let data = shared(share, change).data.unwrap();
        data.columns().iter().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let insert = change(Action::Insert, None, Some(full("1", "x")));
    let sent = displaying(json!({}));
    assert_eq!(names(&sent, &insert), "id priority notes dv_notes");
    assert_eq!(shared(&sent, &insert).data.unwrap().get("dv_notes"), Some(Value::Text("Abel")));
    let of_reference = displaying(json!({"columns": "updated"}));
    assert_eq!(names(&of_reference, &changed(("1", "x"), ("1", "y"))), "id notes dv_notes");
    assert_eq!(names(&of_reference, &changed(("1", "x"), ("2", "x"))), "id priority");
    let routes = json!({"routes": "first", "route": [
        {"when": "priority=1", "queue": "urgent", "columns": ["priority"]},
    ]});
    assert_eq!(names(&displaying(routes), &insert), "id priority", "a route without the column has no name of it");
    let listed = displaying(json!({"columns": ["notes"]}));
    assert_eq!(names(&listed, &insert), "id notes dv_notes");
    shared(&sent, &change(Action::Delete, Some(full("1", "nobody")), None));
    assert_eq!(sent.columns_used("incident").collect::<Vec<_>>(), ["notes"]);
}

#[test]
fn a_script_sees_display_values_and_they_have_masks_and_names() {
    let share = displaying(json!({
        "before_share": "current.seen = current.notes.getDisplayValue() + current.dv_notes + current.priority.getDisplayValue()",
        "mask": {"dv_notes": "redact"}, "rename": {"dv_notes": "owner"},
    }));
    let insert = change(Action::Insert, None, Some(full("1", "x")));
    let data = shared(&share, &insert).data.unwrap();
    assert_eq!((data.get("seen"), data.get("owner")), (Some(Value::Text("AbelAbel1")), Some(Value::Null)));
    let columns = ["id", "priority", "notes", "dv_notes"].map(str::to_owned);
    assert_eq!(share.misfits(&columns, &columns[..1]).into_iter().collect::<Vec<_>>(), ["dv_notes"]);
    let taken = change(Action::Insert, None, Some(row(&[("id", Value::Null), ("dv_notes", Value::Null)])));
    assert_eq!(share.decide(&taken), Decision::Unfit { column: "dv_notes" });
}

#[test]
fn what_is_said_of_columns_is_checked() {
    for (extra, field, problem) in [
        (json!({"columns": []}), "columns", "is empty"),
        (json!({"share_on": ["a", "a"]}), "share_on", "names a twice"),
        (json!({"share_on": ["a"], "ignore": ["b"]}), "ignore", "stands beside share_on"),
        (json!({"mask": {"a": "hash"}}), "mask", "hash needs a secret"),
        (json!({"mask": {"a": "hash"}, "mask_secret": "short"}), "mask_secret", "is too short; 32 bytes or more"),
        (json!({"mask": {"a": "hash"}, "mask_secret_file": "nowhere"}), "mask_secret_file", "cannot be read"),
        (json!({"columns": ["a"], "mask": {"b": "redact"}}), "mask", "names b, which columns does not"),
        (json!({"rename": {"a": "x", "b": "x"}}), "rename", "gives the name x twice"),
        (json!({"rename": {"a": "x"}, "constants": {"x": 1}}), "rename", "gives the name x twice"),
        (json!({"id": "a"}), "id", "is about parts of updates"),
        (json!({"columns": "updated", "id": ""}), "id", "is empty"),
        (json!({"columns": ["a"], "rename": {"c": "x"}}), "rename", "so it does not leave; accepted: a"),
        (
            json!({"columns": ["a", "b"], "rename": {"a": "b"}}),
            "rename",
            "gives the name b, which a column has that leaves",
        ),
        (json!({"columns": ["a", "b"], "constants": {"b": 1}}), "constants", "any name but a, b"),
        (
            json!({"columns": ["a"], "display": {"b": {"table": "t", "key": "k", "value": "v"}}}),
            "display",
            "names b, which columns does not",
        ),
        (json!({"display": {"b": {"table": "t", "key": "", "value": "v"}}}), "display", "has an empty name"),
        (
            json!({"constants": {"dv_b": 1}, "display": {"b": {"table": "t", "key": "k", "value": "v"}}}),
            "rename",
            "gives the name dv_b twice",
        ),
        (json!({"script_ms_max": 0}), "script_ms_max", "is out of range; 1 to 10000"),
    ] {
        let problems = config(extra.clone()).validate();
        assert!(problems.iter().any(|(at, text)| *at == field && text.contains(problem)), "{extra}: {problems:?}");
    }
    for bad in [json!({"columns": "changed"}), json!({"mask": {"a": "md5"}}), json!({"constants": {"a": [1]}})] {
        let mut fields = json!({"source": "desk", "table": "incident", "queue": "crm", "key": "2026-11"});
        fields.as_object_mut().unwrap().extend(bad.as_object().unwrap().clone());
        assert!(serde_json::from_value::<ShareConfig>(fields).is_err(), "{bad}");
    }
}
