//! What folding must not change: applying the folded operations leaves what applying one by one leaves.

use std::collections::BTreeMap;

use proptest::prelude::*;
use syncline_shared::record::Columns;

use super::*;

/// A row as a target holds it: version, and its columns unless it is deleted.
type Held = BTreeMap<String, (Version, Option<BTreeMap<String, String>>)>;

fn map() -> TableMap {
    TableMap { source: "desk".into(), table: "incident".into(), into: "support_case".into(), columns: None }
}

fn row(columns: &[(&str, &str)]) -> Row {
    let mut row = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
    for (_, value) in columns {
        row.push(Value::Text(value));
    }
    row.finish()
}

fn record(id: &str, version: u64, data: Option<&[(&str, &str)]>, partial: bool) -> Record {
    let version = Version::new(1, version, 1);
    let data = data.map(|data| row(&[&[("id", id)], data].concat()));
    Record { key: row(&[("id", id)]), version, at: jiff::Timestamp::UNIX_EPOCH, data, partial }
}

fn call<'a>(map: &'a TableMap, changes: &'a [(Action, Record)]) -> Vec<Item<'a>> {
    let batches: Vec<_> = changes
        .iter()
        .map(|(action, record)| Batch { table: map, action: *action, records: std::slice::from_ref(record) })
        .collect();
    items(&batches)
}

fn only<'f, 'a>(folded: &'f Folded<'a>) -> &'f Operation<'a> {
    assert_eq!((folded.tables.len(), folded.tables[0].operations.len(), folded.later.len()), (1, 1, 0));
    &folded.tables[0].operations[0]
}

#[test]
fn a_newer_part_is_merged_onto_the_older_record() {
    let map = map();
    let changes = [
        (Action::Insert, record("1", 3, Some(&[("a", "a3"), ("b", "b3")]), false)),
        (Action::Update, record("1", 5, Some(&[("b", "b5")]), true)),
    ];
    let folded = fold(&call(&map, &changes));
    let operation = only(&folded);
    let (columns, values) = (["id", "b", "a"].into(), ["1", "b5", "a3"].map(Value::Text).to_vec());
    assert_eq!(operation.change, Change::Upsert { columns, values, partial: false });
    assert_eq!((operation.since, operation.version), (Version::new(1, 3, 1), Version::new(1, 5, 1)));
}

#[test]
fn a_record_with_all_columns_replaces_what_was_before_it() {
    let map = map();
    let changes = [
        (Action::Update, record("1", 3, Some(&[("a", "a3")]), true)),
        (Action::Delete, record("1", 4, None, false)),
        (Action::Insert, record("1", 5, Some(&[("a", "a5"), ("b", "b5")]), false)),
    ];
    let folded = fold(&call(&map, &changes));
    let operation = only(&folded);
    assert_eq!(operation.since, operation.version);
    assert!(matches!(&operation.change, Change::Upsert { columns, partial: false, .. } if columns.len() == 3));
}

#[test]
fn a_part_of_a_deleted_record_waits_for_the_delete() {
    let map = map();
    let changes = [
        (Action::Delete, record("1", 4, None, false)),
        (Action::Update, record("1", 5, Some(&[("a", "a5")]), true)),
        (Action::Update, record("1", 6, Some(&[("a", "a6")]), true)),
    ];
    let folded = fold(&call(&map, &changes));
    assert_eq!(folded.tables[0].operations[0].change, Change::Delete);
    assert_eq!(folded.later.iter().map(|item| item.place).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn columns_that_a_change_left_alone_are_missing_from_it_and_not_from_those_beside_it() {
    let map = map();
    let mut left_alone = record("2", 2, Some(&[("a", "a2"), ("b", "")]), true);
    let mut data = Row::builder(left_alone.data.as_ref().unwrap().columns().clone());
    [Value::Text("2"), Value::Text("a2"), Value::Unchanged].into_iter().for_each(|value| data.push(value));
    left_alone.data = Some(data.finish());
    let whole = |id| (Action::Update, record(id, 1, Some(&[("a", "a1"), ("b", "b1")]), false));
    let changes = [whole("1"), (Action::Update, left_alone), whole("3"), whole("4")];
    let folded = fold(&call(&map, &changes));
    let carried = folded.tables[0].operations.iter().map(|operation| match &operation.change {
        Change::Upsert { columns, values, .. } => (columns.len(), values.len()),
        Change::Delete => unreachable!("none is a delete"),
    });
    assert_eq!(carried.collect::<Vec<_>>(), [(3, 3), (2, 2), (3, 3), (3, 3)]);
}

#[test]
fn older_and_equal_repeats_change_nothing() {
    let map = map();
    let changes = [
        (Action::Update, record("1", 5, Some(&[("a", "a5")]), false)),
        (Action::Update, record("1", 3, Some(&[("a", "a3")]), false)),
        (Action::Delete, record("1", 5, None, false)),
    ];
    let folded = fold(&call(&map, &changes));
    let mut outcomes = vec![Outcome::Applied; 3];
    only(&folded).settle(Taken::Applied, &mut outcomes, &mut Vec::new());
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Stale, Outcome::Duplicate]);
}

#[test]
fn keys_and_tables_are_in_order_whatever_the_arrival() {
    let (one, mut two) = (map(), map());
    two.into = "another".into();
    let records: Vec<_> = ["b", "c", "a"].iter().map(|id| record(id, 1, Some(&[]), false)).collect();
    let batches = [&one, &two].map(|table| Batch { table, action: Action::Bulk, records: &records });
    let folded = fold(&items(&batches));
    assert_eq!(folded.tables.iter().map(|table| table.into).collect::<Vec<_>>(), ["another", "support_case"]);
    for table in &folded.tables {
        let names: Vec<_> = table.operations.iter().map(|operation| &*operation.name).collect();
        assert_eq!(names, [r#"["a"]"#, r#"["b"]"#, r#"["c"]"#]);
    }
}

#[test]
fn a_keys_name_tells_its_parts_apart() {
    assert_ne!(key_name(&row(&[("a", "x\",\"y"), ("b", "")])), key_name(&row(&[("a", "x"), ("b", "y")])));
    let mut number = Row::builder(Columns::new(["a"]));
    number.push(Value::Number("1"));
    assert_eq!(key_name(&number.finish()), key_name(&row(&[("a", "1")])));
}

#[test]
fn columns_are_taken_as_the_map_says_and_key_columns_always() {
    let columns_map = BTreeMap::from([("a".to_owned(), "alpha".to_owned())]);
    let map = TableMap { columns: Some(columns_map), ..map() };
    let taken = record("1", 1, Some(&[("a", "x"), ("b", "y")]), false);
    assert_eq!(columns(&map, &taken), [("id", Value::Text("1")), ("alpha", Value::Text("x"))]);
}

/// Applies one operation the way a target does, guarded by version.
fn apply(held: &mut Held, name: &str, since: Version, version: Version, change: &Change<'_>) -> Taken {
    let row = match held.get(name) {
        Some((current, _)) if *current >= since => return Taken::Held(*current),
        Some((_, row)) => row.clone(),
        None => None,
    };
    let row = match change {
        Change::Delete => None,
        Change::Upsert { columns, values, .. } => {
            let mut row = row.unwrap_or_default();
            let texts = values.iter().map(|value| value.as_text().unwrap().to_owned());
            row.extend(columns.iter().map(|name| (*name).to_owned()).zip(texts));
            Some(row)
        }
    };
    held.insert(name.to_owned(), (version, row));
    Taken::Applied
}

fn one_by_one(held: &mut Held, items: &[Item<'_>]) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Applied; items.len()];
    for item in items {
        let change = Folding::default().change(*item);
        let operation = Operation::new(key_name(&item.record.key).into(), *item, change);
        let taken = apply(held, &operation.name, operation.since, operation.version, &operation.change);
        operation.settle(taken, &mut outcomes, &mut Vec::new());
    }
    outcomes
}

fn folded(held: &mut Held, items: Vec<Item<'_>>) -> Vec<Outcome> {
    let mut outcomes = vec![Outcome::Applied; items.len()];
    let mut left = items;
    while !left.is_empty() {
        let before = left.len();
        let folded = fold(&left);
        left = folded.later;
        for operation in folded.tables.iter().flat_map(|table| &table.operations) {
            let taken = apply(held, &operation.name, operation.since, operation.version, &operation.change);
            operation.settle(taken, &mut outcomes, &mut left);
        }
        left.sort_by_key(|item| item.place);
        assert!(left.len() < before, "every round gets on");
    }
    outcomes
}

fn changes() -> impl Strategy<Value = Vec<(Action, Record)>> {
    let columns = prop::sample::subsequence(vec!["a", "b", "c"], 0..=3);
    let change = ("[xy]", 1_u64..12, prop::sample::select(Action::ALL.to_vec()), columns, any::<bool>());
    let change = change.prop_map(|(id, version, action, some, partial)| {
        if action == Action::Delete {
            return (action, record(&id, version, None, false));
        }
        let names = if partial { some } else { vec!["a", "b", "c"] };
        let values: Vec<_> = names.iter().map(|name| format!("{name}{version}")).collect();
        let data: Vec<_> = names.iter().zip(&values).map(|(name, value)| (*name, value.as_str())).collect();
        (action, record(&id, version, Some(&data), partial))
    });
    prop::collection::vec(change, 0..12)
}

proptest! {
    #[test]
    fn folding_leaves_what_one_by_one_leaves(before in changes(), changes in changes()) {
        let map = map();
        let mut expected = Held::new();
        one_by_one(&mut expected, &call(&map, &before));
        let mut held = expected.clone();
        let expected_outcomes = one_by_one(&mut expected, &call(&map, &changes));
        let outcomes = folded(&mut held, call(&map, &changes));
        prop_assert_eq!(held, expected);
        // What the target would have said alone is not asked of a record that a newer one of the call replaces.
        for (index, (folded, alone)) in outcomes.iter().zip(&expected_outcomes).enumerate() {
            let (_, record) = &changes[index];
            let has_newer = changes.iter().any(|(_, other)| other.key == record.key && other.version > record.version);
            prop_assert!(
                folded == alone || (*alone != Outcome::Applied && has_newer), "{index}: {folded:?} {alone:?}");
        }
    }
}
