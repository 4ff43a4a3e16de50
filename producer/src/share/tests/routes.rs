//! Conditional routing.

use super::*;

fn routed(extra: serde_json::Value) -> Share {
    let mut all = json!({"routes": "first", "route": [
        {"when": "priority=1", "queue": "urgent"}, {"when": "priority<=2", "queue": "high"},
        {"when": "notesLIKEx", "queue": "notes", "columns": ["notes"]},
    ]});
    all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    share(all)
}

fn noted(priority: &str, notes: Value<'_>) -> Row {
    row(&[("id", Value::Number("7")), ("priority", Value::Number(priority)), ("notes", notes)])
}

fn ways(share: &Share, before: Option<Row>, after: Row) -> Vec<(Action, usize)> {
    let change = change(Action::Update, before, Some(after));
    messages(share, &change).into_iter().map(|(action, _, route, _)| (action, route)).collect()
}

const UPDATE: Action = Action::Update;
const DELETE: Action = Action::Delete;

#[test]
fn a_record_goes_to_the_first_route_it_fits_or_to_every_one() {
    let (first, all) = (routed(json!({})), routed(json!({"routes": "all"})));
    for (priority, notes, by_first, by_all) in [
        ("1", "x", vec![1], vec![1, 2, 3]),
        ("2", "y", vec![2], vec![2]),
        ("2", "x", vec![2], vec![2, 3]),
        ("3", "x", vec![3], vec![3]),
        ("3", "y", vec![0], vec![0]),
    ] {
        let row = noted(priority, Value::Text(notes));
        let taken = |share: &Share| -> Vec<usize> {
            ways(share, Some(row.clone()), row.clone()).into_iter().map(|(_, route)| route).collect()
        };
        assert_eq!((taken(&first), taken(&all)), (by_first, by_all), "{priority} {notes}");
    }
}

#[test]
fn what_no_route_takes_is_withheld_and_counted_where_the_share_says_so() {
    let share = routed(json!({"no_route": "withhold"}));
    let nowhere = noted("3", Value::Text("y"));
    let change = change(Action::Insert, None, Some(nowhere.clone()));
    assert_eq!(share.decide(&change), Decision::Withhold(Withheld::NoRoute));
    let gone = self::change(Action::Delete, Some(nowhere), None);
    assert_eq!(share.decide(&gone), Decision::Withhold(Withheld::NoRoute));
}

#[test]
fn a_record_that_moves_to_another_route_leaves_the_queue_it_was_in() {
    let (low, high) = (noted("3", Value::Text("y")), noted("1", Value::Text("y")));
    for (on_leave, left) in [("delete", vec![(DELETE, 0)]), ("update", vec![(UPDATE, 0)]), ("ignore", vec![])] {
        let share = routed(json!({"on_leave": on_leave}));
        let expected: Vec<_> = left.into_iter().chain([(UPDATE, 1)]).collect();
        assert_eq!(ways(&share, Some(low.clone()), high.clone()), expected, "{on_leave}");
    }
    let change = change(Action::Update, Some(low), Some(high));
    let versions: Vec<_> = messages(&routed(json!({})), &change).into_iter().map(|(.., own)| own).collect();
    assert_eq!(versions, [false, true], "the delete loses to the record where both arrive");
}

#[test]
fn a_record_that_leaves_the_filter_leaves_every_queue_it_was_in() {
    let share = routed(json!({"routes": "all", "filter": "priority<=2"}));
    assert_eq!(
        ways(&share, Some(noted("1", Value::Text("x"))), noted("3", Value::Text("x"))),
        [(DELETE, 1), (DELETE, 2), (DELETE, 3)]
    );
}

#[test]
fn two_routes_of_one_queue_are_one_place_to_be() {
    let share = share(json!({"routes": "first", "route": [
        {"when": "priority=1", "queue": "high", "key": "a"}, {"when": "priority=2", "queue": "high", "key": "b"},
    ]}));
    assert_eq!(ways(&share, Some(incident("1")), incident("2")), [(UPDATE, 2)]);
    let unknown = change(Action::Delete, None, None);
    let places: Vec<_> = messages(&share, &unknown).into_iter().map(|(.., route, _)| route).collect();
    assert_eq!(places, [1, 0], "one delete for each queue it may be in");
}

#[test]
fn where_nobody_knows_where_the_record_was_every_other_queue_gets_a_delete() {
    let share = routed(json!({}));
    let after = noted("1", Value::Text("y"));
    assert_eq!(ways(&share, None, after.clone()), [(DELETE, 2), (DELETE, 3), (DELETE, 0), (UPDATE, 1)]);
    let told = routed(json!({"on_leave": "update"}));
    assert_eq!(ways(&told, None, after), [(UPDATE, 1)]);
    let gone = change(Action::Delete, Some(noted("2", Value::Unchanged)), None);
    let places: Vec<_> =
        messages(&share, &gone).into_iter().map(|(action, _, route, own)| (action, route, own)).collect();
    assert_eq!(places, [(DELETE, 2, true)], "what is known is used");
}

#[test]
fn a_route_may_have_columns_of_its_own() {
    let share = routed(json!({"columns": ["priority"]}));
    let columns = |priority| {
        let change = change(Action::Insert, None, Some(noted(priority, Value::Text("x"))));
        shared(&share, &change).data.unwrap().columns().iter().collect::<Vec<_>>().join(",")
    };
    assert_eq!((columns("1"), columns("3")), ("id,priority".to_owned(), "id,notes".to_owned()));
}

#[test]
fn a_condition_on_a_column_the_table_lacks_makes_the_share_unfit() {
    let share = share(json!({"routes": "first", "route": [{"when": "prioritaet=1", "queue": "urgent"}]}));
    assert_eq!(share.decide(&update("1")), Decision::Unfit { column: "prioritaet" });
    assert!(share.columns_used("incident").any(|column| column == "prioritaet"));
}

#[test]
fn what_is_wrong_with_routes_is_said_with_their_number() {
    let bad = config(json!({"routes": "all", "route": [
        {"when": "a=1"}, {"when": "a=", "queue": "x", "columns": []}, {"when": "^", "queue": "x", "cipher": "AES256"},
    ]}));
    let found: Vec<_> = bad.validate_routes().into_iter().map(|(number, (field, _))| (number, field)).collect();
    assert_eq!(found, [(2, "columns"), (3, "when"), (3, "cipher"), (3, "queue")]);
    let (field, _) = config(json!({"route": [{"when": "a=1"}]})).validate().remove(0);
    assert_eq!(field, "routes", "first or all is said explicitly");
    for alone in [json!({"routes": "all"}), json!({"no_route": "withhold"})] {
        assert_eq!(config(alone).validate().len(), 1);
    }
    assert!(serde_json::from_value::<RouteConfig>(json!({"when": "a=1", "qeue": "x"})).is_err());
}

#[test]
fn a_share_names_the_queues_it_sends_to() {
    let queues = |extra| config(extra).queues().map(str::to_owned).collect::<Vec<_>>().join(" ");
    let route = json!([{"when": "a=1", "queue": "x"}]);
    assert_eq!(queues(json!({})), "crm");
    assert_eq!(queues(json!({"routes": "all", "route": route})), "crm x");
    assert_eq!(queues(json!({"routes": "all", "route": route, "no_route": "withhold"})), "x");
}
