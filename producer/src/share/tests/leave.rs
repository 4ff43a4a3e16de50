//! Records that an update takes out of the filter, or into it.

use super::*;

fn moved(before: Option<Row>, after: &str) -> Change {
    change(Action::Update, before, Some(incident(after)))
}

fn told(on_leave: &str) -> Share {
    share(json!({"filter": "priority<=2", "on_leave": on_leave}))
}

/// One message of the table `incident` to the share's own queue.
fn one(action: Action, own_version: bool) -> Vec<(Action, String, usize, bool)> {
    vec![(action, "incident".to_owned(), 0, own_version)]
}

#[test]
fn a_record_that_leaves_the_filter_is_deleted_with_the_version_below_the_change() {
    let (share, left) = (share(json!({"filter": "priority<=2"})), moved(Some(incident("1")), "3"));
    assert_eq!(messages(&share, &left), one(Action::Delete, false));
    let again = Change { version: Version::new(1, 3, 2), ..moved(Some(incident("3")), "2") };
    assert!(shared(&share, &left).version < shared(&share, &again).version, "a later entry is welcome");
    let before = Version::new(1, 2, 0);
    assert!(shared(&share, &left).version > before, "what the subscriber has is older");
}

#[test]
fn a_record_that_was_outside_and_stays_there_is_withheld() {
    for on_leave in ["delete", "update", "ignore"] {
        let withheld = Decision::Withhold(Withheld::Filter);
        assert_eq!(told(on_leave).decide(&moved(Some(incident("4")), "3")), withheld, "{on_leave}");
    }
}

#[test]
fn a_share_may_send_the_record_that_leaves_or_nothing() {
    let left = moved(Some(incident("1")), "3");
    assert_eq!(messages(&told("update"), &left), one(Action::Update, true));
    assert_eq!(shared(&told("update"), &left).data.as_deref(), left.after.as_ref());
    assert_eq!(told("ignore").decide(&left), Decision::Withhold(Withheld::Filter));
}

#[test]
fn where_nobody_knows_what_the_record_was_a_delete_is_sent_but_never_the_record() {
    let key = row(&[("id", Value::Number("7"))]);
    for before in [None, Some(key)] {
        let left = moved(before, "3");
        assert_eq!(messages(&told("delete"), &left), one(Action::Delete, false));
        assert_eq!(messages(&told("update"), &left), []);
    }
    let by_key = share(json!({"filter": "id>100^priority<=2"}));
    assert_eq!(messages(&by_key, &moved(None, "3")), [], "the key tells that it never was there");
}

#[test]
fn a_record_that_enters_the_filter_leaves_whole() {
    let share = share(json!({"filter": "priority<=2", "columns": ["priority"]}));
    let entered = moved(Some(incident("3")), "1");
    assert_eq!(messages(&share, &entered), one(Action::Update, true));
    let shared = shared(&share, &entered);
    assert_eq!((shared.data.map(|data| data.columns().len()), shared.partial), (Some(2), false));
}

#[test]
fn what_jobs_did_and_actions_the_share_is_not_on_make_nothing_leave() {
    let left = moved(Some(incident("1")), "3");
    assert_eq!(told("delete").decide(&by(Some(false), left.clone())), Decision::Withhold(Withheld::Background));
    let inserts = share(json!({"on": ["insert"], "filter": "priority<=2"}));
    assert_eq!(inserts.decide(&left), Decision::Withhold(Withheld::Action));
}

#[test]
fn a_share_that_sends_no_deletes_sends_none_for_leaving_unless_it_says_so() {
    let left = moved(Some(incident("1")), "3");
    let silent = share(json!({"on": ["insert", "update"], "filter": "priority<=2"}));
    assert_eq!(messages(&silent, &left), []);
    let said = share(json!({"on": ["insert", "update"], "filter": "priority<=2", "on_leave": "delete"}));
    assert_eq!(messages(&said, &left), one(Action::Delete, false));
}

#[test]
fn a_share_says_whether_it_wants_to_know_what_a_record_was() {
    let wants = |extra| {
        let share = share(extra);
        (share.looks_before(), share.needs_before())
    };
    assert_eq!(wants(json!({})), (false, false));
    assert_eq!(wants(json!({"filter": "priority<=2"})), (true, false));
    assert_eq!(wants(json!({"filter": "priority<=2", "on_leave": "update"})), (true, true));
    assert_eq!(wants(json!({"filter": "priority<=2", "on_leave": "ignore"})), (false, false));
}

#[test]
fn on_leave_without_anything_to_leave_is_a_problem() {
    let problem = |extra| Share::compile("bad", &config(extra)).unwrap_err().remove(0);
    let (field, text) = problem(json!({"on_leave": "delete"}));
    assert!(field == "on_leave" && text.contains("has neither"), "{field}: {text}");
    let (field, text) = problem(json!({"on_leave": "delete", "filter": "a=1", "on": ["insert"]}));
    assert!(field == "on_leave" && text.contains("not on them"), "{field}: {text}");
}

#[test]
fn update_or_insert_sends_everything_but_deletes_as_bulk() {
    let share = share(json!({"update_or_insert": true, "filter": "priority<=2"}));
    for action in [Action::Insert, Action::Update, Action::Bulk] {
        assert_eq!(messages(&share, &change(action, None, Some(incident("1")))), one(Action::Bulk, true));
    }
    assert_eq!(messages(&share, &change(Action::Delete, Some(incident("1")), None)), one(Action::Delete, true));
    assert_eq!(messages(&share, &moved(Some(incident("1")), "3")), one(Action::Delete, false));
    let inserts = self::share(json!({"update_or_insert": true, "on": ["insert"]}));
    assert_eq!(inserts.decide(&update("1")), Decision::Withhold(Withheld::Action), "on is about what happened");
}

#[test]
fn a_filter_that_asks_what_changed_is_not_left() {
    let share = share(json!({"filter": "priorityCHANGESTO1"}));
    assert_eq!(messages(&share, &moved(Some(incident("3")), "1")), one(Action::Update, true));
    assert_eq!(messages(&share, &moved(Some(incident("1")), "1")), [], "nothing changed");
    assert!(!share.looks_before() && share.asks_for_changes() && share.needs_before());
    let asked = config(json!({"filter": "priorityCHANGESTO1", "on_leave": "delete"}));
    let (field, text) = asked.validate().remove(0);
    assert!(field == "on_leave" && text.contains("asks what changed"), "{field}: {text}");
}

#[test]
fn a_script_that_withholds_or_fails_does_not_keep_the_delete_from_where_the_record_left() {
    let (moved, gone) = (moved(Some(incident("1")), "3"), change(Action::Delete, Some(incident("1")), None));
    for script in ["ignore = true", "throw 1"] {
        let sent = |on_leave: &str, change: &Change| {
            let routes = json!([{"when": "priority=1", "queue": "urgent"}]);
            let rules = json!({"routes": "first", "route": routes, "before_share": script, "on_leave": on_leave});
            let told = |left: Vec<Shared<'_>>| -> Vec<_> {
                left.iter().map(|message| (message.action, message.way.route, message.version)).collect()
            };
            match share(rules).decide(change) {
                Decision::SetAside { left, .. } | Decision::Share(left) => told(left),
                Decision::Withhold(Withheld::Script) => Vec::new(),
                other @ (Decision::Withhold(_) | Decision::Unfit { .. }) => panic!("{other:?}"),
            }
        };
        assert_eq!(sent("delete", &moved), [(Action::Delete, 1, moved.version.below())], "{script}");
        // What it says of the record itself is the script's to withhold, and so is the delete of it at the source.
        for (on_leave, change) in [("update", &moved), ("ignore", &moved), ("delete", &gone)] {
            assert_eq!(sent(on_leave, change), [], "{script}, {on_leave}");
        }
    }
}

/// A record that was asked for by its key: what it was before is not known.
fn named(priority: Option<&str>) -> Change {
    let (action, before) = match priority {
        Some(_) => (Action::Bulk, Some(row(&[("id", Value::Number("7"))]))),
        None => (Action::Delete, None),
    };
    let change = by(None, change(action, before, priority.map(incident)));
    Change { only_share: Some("incidents".into()), ..change }
}

#[test]
fn a_record_asked_for_by_its_key_is_sent_or_deleted_by_the_shares_own_rules() {
    let share = told("delete");
    assert_eq!(messages(&share, &named(Some("1"))), one(Action::Bulk, true));
    assert_eq!(messages(&share, &named(Some("3"))), one(Action::Delete, false));
    assert_eq!(messages(&share, &named(None)), one(Action::Delete, true));
    for on_leave in ["update", "ignore"] {
        assert_eq!(messages(&told(on_leave), &named(Some("3"))), []);
    }
    let keeps = super::share(json!({"filter": "priority<=2", "on": ["insert", "update"]}));
    assert_eq!(messages(&keeps, &named(None)), [], "the share sends no deletes");
}
