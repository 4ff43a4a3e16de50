//! Tables that extend each other.

use super::*;
use crate::source::Tables;

/// `task`, and `incident` and `problem` that extend it, and `major` that extends `incident`.
fn tables(by_column: bool) -> Tables {
    let mut tables = json!({
        "incident": {"extends": "task", "columns": ["severity"]},
        "problem": {"extends": "task", "columns": ["cause"]},
        "major": {"extends": "incident", "columns": ["bridge"]},
    });
    if by_column {
        tables["task"] = json!({"class_column": "sys_class_name"});
    }
    serde_json::from_value(tables).unwrap()
}

fn of(by_column: bool, extra: serde_json::Value) -> Share {
    let config = ShareConfig { tables: tables(by_column), ..config(extra) };
    Share::compile("tasks", &config).unwrap()
}

fn task(class: &str) -> Row {
    row(&[
        ("id", Value::Number("7")),
        ("sys_class_name", Value::Text(class)),
        ("severity", Value::Number("1")),
        ("cause", Value::Text("c")),
        ("bridge", Value::Null),
    ])
}

fn stored_in(table: &str, change: Change) -> Change {
    Change { table: table.into(), ..change }
}

fn changed(before: Option<&str>, after: &str) -> Change {
    stored_in("task", change(Action::Update, before.map(task), Some(task(after))))
}

fn told(share: &Share, change: &Change) -> Vec<String> {
    messages(share, change).into_iter().map(|(action, table, ..)| format!("{table}.{action}")).collect()
}

#[test]
fn a_record_leaves_under_its_class_its_base_or_all_between() {
    for (hierarchy, expected) in [
        (None, vec!["major.update"]),
        (Some("leaf"), vec!["major.update"]),
        (Some("base"), vec!["task.update"]),
        (Some("all"), vec!["task.update", "incident.update", "major.update"]),
    ] {
        let by_column = of(true, json!({"table": "task", "hierarchy": hierarchy}));
        assert_eq!(told(&by_column, &changed(Some("major"), "major")), expected);
        let by_table = of(false, json!({"table": "task", "hierarchy": hierarchy}));
        assert_eq!(told(&by_table, &stored_in("major", changed(None, "-"))), expected);
    }
}

#[test]
fn a_share_is_concerned_by_the_tables_its_records_are_stored_in() {
    let names = |tables: &[Arc<str>]| tables.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let base = json!({"table": "task"});
    assert_eq!(names(of(false, base.clone()).tables()), "task incident major problem");
    assert_eq!(names(of(true, base).tables()), "task");
    let middle = json!({"table": "incident"});
    assert_eq!(names(of(false, middle.clone()).tables()), "incident major");
    let middle = of(true, middle);
    assert_eq!(names(middle.tables()), "task");
    assert!(middle.concerns(&changed(None, "problem")));
    assert_eq!(middle.tables_leaving().map(ToString::to_string).collect::<Vec<_>>(), ["incident", "major"]);
}

#[test]
fn a_class_carries_its_own_columns_and_those_above_it() {
    let share = of(true, json!({"table": "task", "hierarchy": "all"}));
    let change = changed(Some("major"), "major");
    let Decision::Share(messages) = share.decide(&change) else { panic!("withheld") };
    let columns: Vec<_> = messages
        .iter()
        .map(|message| message.data.as_ref().unwrap().columns().iter().skip(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(columns, ["", "severity", "severity bridge"]);
}

#[test]
fn a_selected_column_need_not_be_in_tables_that_do_not_add_it() {
    let share = of(false, json!({"table": "task", "columns": ["short", "severity"]}));
    let used = |table: &str| share.columns_used(table).collect::<Vec<_>>().join(" ");
    assert_eq!(
        (used("task"), used("problem"), used("major")),
        ("short".into(), "short".into(), "short severity".into())
    );
    let problem = row(&[("id", Value::Number("7")), ("short", Value::Text("s"))]);
    let change = stored_in("problem", change(Action::Insert, None, Some(problem.clone())));
    assert_eq!(shared(&share, &change).data.as_deref(), Some(&problem));
}

#[test]
fn a_change_of_class_deletes_under_the_old_one_and_then_upserts_under_the_new_one() {
    let share = of(true, json!({"table": "task"}));
    let change = changed(Some("problem"), "incident");
    assert_eq!(told(&share, &change), ["problem.delete", "incident.bulk"]);
    let own: Vec<_> = messages(&share, &change).into_iter().map(|(.., own)| own).collect();
    assert_eq!(own, [false, true], "in one target table the record stays, whatever comes first");
    let all = of(true, json!({"table": "task", "hierarchy": "all"}));
    assert_eq!(told(&all, &change), ["problem.delete", "task.update", "incident.bulk"]);
    let base = of(true, json!({"table": "task", "hierarchy": "base"}));
    assert_eq!(told(&base, &change), ["task.update"]);
}

#[test]
fn a_share_of_one_class_gets_a_delete_for_a_record_that_goes_to_another() {
    let share = of(true, json!({"table": "incident"}));
    assert_eq!(told(&share, &changed(Some("major"), "problem")), ["major.delete"]);
    assert_eq!(told(&share, &changed(Some("task"), "incident")), ["incident.bulk"]);
    assert_eq!(told(&share, &changed(Some("incident"), "incident")), ["incident.update"]);
    assert_eq!(share.decide(&changed(Some("task"), "problem")), Decision::Withhold(Withheld::Class));
    let gone = stored_in("task", change(Action::Delete, Some(task("problem")), None));
    assert_eq!(share.decide(&gone), Decision::Withhold(Withheld::Class));
}

#[test]
fn without_delete_on_class_change_the_old_class_keeps_what_it_has() {
    let share = of(true, json!({"table": "task", "delete_on_class_change": false}));
    assert_eq!(told(&share, &changed(Some("problem"), "incident")), ["incident.update"]);
    let no_deletes = of(true, json!({"table": "task", "on": ["update"]}));
    assert_eq!(told(&no_deletes, &changed(Some("problem"), "incident")), ["incident.update"]);
}

#[test]
fn a_class_nothing_declares_is_the_one_at_the_top() {
    let share = of(true, json!({"table": "task"}));
    for class in ["unheard_of", "task", ""] {
        assert_eq!(told(&share, &changed(Some(class), class)), ["task.update"], "{class:?}");
    }
    let part = of(true, json!({"table": "incident"}));
    assert_eq!(part.decide(&changed(Some("unheard_of"), "unheard_of")), Decision::Withhold(Withheld::Class));
}

#[test]
fn a_delete_of_a_class_nobody_knows_goes_to_every_class() {
    let share = of(true, json!({"table": "task"}));
    let gone = stored_in("task", change(Action::Delete, None, None));
    assert_eq!(told(&share, &gone), ["task.delete", "incident.delete", "major.delete", "problem.delete"]);
    let base = of(true, json!({"table": "task", "hierarchy": "base"}));
    assert_eq!(told(&base, &gone), ["task.delete"]);
}

#[test]
fn classes_by_a_column_need_to_know_what_a_record_was() {
    let needs = |by_column, extra| of(by_column, extra).needs_before();
    assert!(needs(true, json!({"table": "task"})));
    assert!(!needs(true, json!({"table": "task", "hierarchy": "base"})));
    assert!(!needs(true, json!({"table": "task", "on": ["insert", "update"]})));
    assert!(!needs(false, json!({"table": "task"})));
}

#[test]
fn a_missing_class_column_makes_the_share_unfit() {
    let share = of(true, json!({"table": "task"}));
    let change = stored_in("task", update("1"));
    assert_eq!(share.decide(&change), Decision::Unfit { column: "sys_class_name" });
    assert!(share.columns_used("task").any(|column| column == "sys_class_name"));
}

#[test]
fn rules_of_classes_without_classes_are_problems() {
    let problems = |tables: Tables, extra| ShareConfig { tables, ..config(extra) }.validate();
    let field = |problems: Vec<FieldProblem>| problems.into_iter().map(|(field, _)| field).collect::<Vec<_>>();
    assert_eq!(field(problems(Tables::default(), json!({"hierarchy": "all"}))), ["hierarchy"]);
    let ask = json!({"table": "task", "delete_on_class_change": true});
    assert_eq!(field(problems(tables(false), ask.clone())), ["delete_on_class_change"]);
    assert!(problems(tables(true), ask).is_empty());
    let inserts = json!({"table": "task", "delete_on_class_change": true, "on": ["insert"]});
    assert_eq!(field(problems(tables(true), inserts)), ["delete_on_class_change"]);
}

#[test]
fn declarations_that_lead_nowhere_are_problems() {
    let bad: Tables = serde_json::from_value(json!({
        "a": {"extends": "b"}, "b": {"extends": "a"}, "c": {"extends": ""}, "d": {"columns": ["x"]},
        "e": {"extends": "d", "class_column": "k"}, "f": {"class_column": ""},
    }))
    .unwrap();
    let paths: Vec<_> = bad.validate().into_iter().map(|(path, _)| path).collect();
    let expected = ["a.extends", "b.extends", "c.extends", "d.columns", "e.class_column", "f.class_column"];
    assert_eq!(paths, expected.map(|path| format!("table.{path}")));
}

#[test]
fn a_filter_knows_which_classes_extend_another() {
    let share = of(true, json!({"table": "task", "filter": "sys_class_nameINSTANCEOFincident"}));
    assert_eq!(told(&share, &changed(Some("major"), "major")), ["major.update"]);
    assert_eq!(share.decide(&changed(Some("problem"), "problem")), Decision::Withhold(Withheld::Filter));
}

#[test]
fn a_class_that_nothing_is_declared_for_is_refused_where_it_stands() {
    let filter = "priority=1^sys_class_nameINSTANCEOFincidnet";
    let config = ShareConfig { tables: tables(true), ..config(json!({"table": "task", "filter": filter})) };
    let problems = config.validate();
    assert_eq!(problems.iter().map(|(field, _)| *field).collect::<Vec<_>>(), ["filter"]);
    let (_, problem) = &problems[0];
    assert!(problem.starts_with("at character 36: \"incidnet\" is no table that extends another"), "{problem}");
}
