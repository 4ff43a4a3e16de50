//! What every target has to do: one suite, run against each of them.
//!
//! A target's tests implement [`Bench`] and call [`target_contract!`]. Values are texts and integers, for the suite is
//! about order and versions; how types arrive is tested with each target.

use std::collections::BTreeMap;

use syncline_shared::class::Class;
use syncline_shared::record::{Action, Columns, Record, Row, Value, Version};

use super::look::{Difference, Look, Others, Seen};
use super::{Batch, Outcome, Parked, Standing, TableMap, Target};
use Action::{Bulk, Delete, Insert, Update};
use Outcome::{Applied, Duplicate, Stale};

/// The type of a column of a test table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
}

/// An empty place to apply to, one per test.
pub(crate) trait Bench {
    type Target: Target;

    /// Another instance on the same place; `writer` is a name of its own.
    fn target(&self, writer: &str) -> Self::Target;
    async fn create(&self, table: &str, columns: &[(&str, Kind)], key: &[&str]);
    /// These columns of all rows as text, in any order.
    async fn rows(&self, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>>;
    /// Removes the place.
    async fn finish(self);
}

/// Runs the suite, and what else is named; the expression makes a future of a new [`Bench`].
macro_rules! target_contract {
    (@each $bench:expr, $($claim:ident),+) => {
        mod contract {
            use super::*;
            $(#[tokio::test]
            async fn $claim() {
                let bench = $bench.await;
                $crate::target::contract::$claim(&bench).await;
                $crate::target::contract::Bench::finish(bench).await;
            })+
        }
    };
    ($bench:expr $(, $more:ident)*) => {
        $crate::target::contract::target_contract!(@each $bench,
            a_change_arrives, a_redelivered_record_is_a_duplicate, an_older_change_is_stale,
            a_deleted_record_stays_deleted, a_newer_insert_is_welcome_after_a_delete,
            a_delete_of_an_unknown_record_is_remembered, a_part_leaves_the_other_columns,
            a_part_of_an_unknown_record_makes_it, null_is_not_an_empty_text, repeats_of_a_key_end_with_the_newest,
            an_old_record_folded_with_a_part_brings_nothing_back, a_part_after_a_delete_starts_anew,
            several_tables_and_actions_in_one_call, columns_land_where_the_map_says,
            only_mapped_columns_are_taken, a_composite_key_is_one_key, hostile_texts_arrive_as_they_were,
            a_part_waits_behind_what_is_parked_until_that_is_taken, a_newer_whole_record_makes_up_for_what_is_parked,
            a_delete_makes_up_for_what_is_parked, what_is_parked_is_forgotten_with_its_dead_letter,
            tries_are_counted_until_they_are_forgotten,
            a_standing_tells_row_tombstone_and_parked_versions_and_makes_nothing, a_standing_takes_a_composite_key_where_the_map_says,
            instances_share_what_they_hold, nothing_to_do_is_done, a_thousand_records_in_one_call $(, $more)*);
    };
}
pub(crate) use target_contract;

/// One change of a table of these columns, of which the first `key` are the key.
pub(crate) fn record(version: u64, key: &[(&str, Value<'_>)], data: Option<&[(&str, Value<'_>)]>) -> Record {
    let row = |columns: &[(&str, Value<'_>)]| {
        let mut row = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
        for (_, value) in columns {
            row.push(*value);
        }
        row.finish()
    };
    let data = data.map(|data| row(&[key, data].concat()));
    let version = Version::new(1, version, 1);
    Record { key: row(key), version, at: jiff::Timestamp::UNIX_EPOCH, data, partial: false }
}

/// A change of `incident`, all columns.
pub(crate) fn incident(number: &str, version: u64, subject: &str, note: Option<&str>) -> Record {
    let note = note.map_or(Value::Null, Value::Text);
    let data = [("subject", Value::Text(subject)), ("note", note)];
    record(version, &[("number", Value::Text(number))], Some(&data))
}

/// A change of `incident` that carries one column.
pub(crate) fn part(number: &str, version: u64, column: &str, value: &str) -> Record {
    let data = [(column, Value::Text(value))];
    Record { partial: true, ..record(version, &[("number", Value::Text(number))], Some(&data)) }
}

pub(crate) fn deleted(number: &str, version: u64) -> Record {
    record(version, &[("number", Value::Text(number))], None)
}

pub(crate) fn incidents() -> TableMap {
    TableMap { source: "desk".into(), table: "incident".into(), into: "incident".into(), columns: None }
}

pub(crate) async fn apply(target: &mut impl Target, calls: &[(Action, Record)]) -> Vec<Outcome> {
    let map = incidents();
    let batches: Vec<_> = calls
        .iter()
        .map(|(action, record)| Batch { table: &map, action: *action, records: std::slice::from_ref(record) })
        .collect();
    target.apply(&batches).await.unwrap().outcomes
}

pub(crate) async fn with_incidents(bench: &impl Bench) {
    let columns = [("number", Kind::Text), ("subject", Kind::Text), ("note", Kind::Text)];
    bench.create("incident", &columns, &["number"]).await;
}

async fn rows(bench: &impl Bench, table: &str, columns: &[&str]) -> Vec<Vec<Option<String>>> {
    let mut rows = bench.rows(table, columns).await;
    rows.sort();
    rows
}

/// The rows of `incident` as `number subject note`, nulls as `-`.
pub(crate) async fn held(bench: &impl Bench) -> Vec<String> {
    let rows = rows(bench, "incident", &["number", "subject", "note"]).await;
    let line = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.as_deref().unwrap_or("-")).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(line).collect()
}

pub(crate) async fn a_change_arrives(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    for (action, record, expected) in [
        (Insert, incident("I1", 1, "printer", None), "I1 printer -"),
        (Update, incident("I1", 2, "printer", Some("on fire")), "I1 printer on fire"),
        (Bulk, incident("I1", 3, "toner", None), "I1 toner -"),
    ] {
        assert_eq!(apply(&mut target, &[(action, record)]).await, [Applied]);
        assert_eq!(held(bench).await, [expected]);
    }
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 4))]).await, [Applied]);
    assert_eq!(held(bench).await, [""; 0]);
}

pub(crate) async fn a_redelivered_record_is_a_duplicate(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    let call = [
        (Insert, incident("I1", 1, "printer", None)),
        (Delete, deleted("I2", 5)),
        (Update, part("I3", 2, "note", "x")),
    ];
    assert_eq!(apply(&mut target, &call).await, [Applied, Applied, Applied]);
    assert_eq!(apply(&mut target, &call).await, [Duplicate, Duplicate, Duplicate]);
    assert_eq!(held(bench).await, ["I1 printer -", "I3 - x"]);
}

pub(crate) async fn an_older_change_is_stale(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 5, "new", None))]).await;
    let call = [
        (Update, incident("I1", 4, "old", None)),
        (Update, part("I1", 3, "note", "old")),
        (Insert, incident("I2", 1, "other", None)),
    ];
    assert_eq!(apply(&mut target, &call).await, [Stale, Stale, Applied]);
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 2))]).await, [Stale]);
    assert_eq!(held(bench).await, ["I1 new -", "I2 other -"]);
}

pub(crate) async fn a_deleted_record_stays_deleted(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 1, "printer", None))]).await;
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 5))]).await, [Applied]);
    for late in [incident("I1", 4, "late", None), part("I1", 3, "note", "late")] {
        assert_eq!(apply(&mut target, &[(Update, late)]).await, [Stale]);
    }
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 4))]).await, [Stale]);
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 5))]).await, [Duplicate]);
    assert_eq!(held(bench).await, [""; 0]);
}

pub(crate) async fn a_newer_insert_is_welcome_after_a_delete(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 1, "first", Some("note")))]).await;
    apply(&mut target, &[(Delete, deleted("I1", 2))]).await;
    assert_eq!(apply(&mut target, &[(Insert, incident("I1", 3, "second", None))]).await, [Applied]);
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 2))]).await, [Stale]);
    assert_eq!(held(bench).await, ["I1 second -"]);
}

pub(crate) async fn a_delete_of_an_unknown_record_is_remembered(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 7))]).await, [Applied]);
    assert_eq!(apply(&mut target, &[(Bulk, incident("I1", 6, "late", None))]).await, [Stale]);
    assert_eq!(apply(&mut target, &[(Delete, deleted("I1", 8))]).await, [Applied]);
    assert_eq!(apply(&mut target, &[(Bulk, incident("I1", 8, "late", None))]).await, [Duplicate]);
    assert_eq!(held(bench).await, [""; 0]);
}

pub(crate) async fn a_part_leaves_the_other_columns(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 1, "printer", Some("a note")))]).await;
    assert_eq!(apply(&mut target, &[(Update, part("I1", 2, "subject", "toner"))]).await, [Applied]);
    assert_eq!(held(bench).await, ["I1 toner a note"]);
}

pub(crate) async fn a_part_of_an_unknown_record_makes_it(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    assert_eq!(apply(&mut target, &[(Update, part("I1", 2, "subject", "toner"))]).await, [Applied]);
    assert_eq!(held(bench).await, ["I1 toner -"]);
}

pub(crate) async fn null_is_not_an_empty_text(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    let call = [(Insert, incident("I1", 1, "", Some(""))), (Insert, incident("I2", 1, "", None))];
    apply(&mut target, &call).await;
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(rows(bench, "incident", &["number", "note"]).await, [[text("I1"), text("")], [text("I2"), None]]);
    apply(&mut target, &[(Update, incident("I1", 2, "", None))]).await;
    assert_eq!(rows(bench, "incident", &["note"]).await, [[None], [None]]);
}

pub(crate) async fn repeats_of_a_key_end_with_the_newest(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    let call = [
        (Insert, incident("I1", 1, "first", Some("kept"))),
        (Update, part("I1", 3, "subject", "third")),
        (Update, incident("I1", 2, "late", None)),
        (Update, part("I1", 3, "subject", "again")),
        (Insert, incident("I2", 1, "gone", None)),
        (Delete, deleted("I2", 2)),
        (Delete, deleted("I3", 1)),
        (Insert, incident("I3", 2, "back", None)),
    ];
    let expected = [Applied, Applied, Stale, Duplicate, Applied, Applied, Applied, Applied];
    assert_eq!(apply(&mut target, &call).await, expected);
    assert_eq!(held(bench).await, ["I1 third kept", "I3 back -"]);
}

pub(crate) async fn an_old_record_folded_with_a_part_brings_nothing_back(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 5, "five", Some("five")))]).await;
    let call = [(Bulk, incident("I1", 3, "three", Some("three"))), (Update, part("I1", 7, "subject", "seven"))];
    assert_eq!(apply(&mut target, &call).await, [Stale, Applied]);
    assert_eq!(held(bench).await, ["I1 seven five"]);
}

pub(crate) async fn a_part_after_a_delete_starts_anew(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    apply(&mut target, &[(Insert, incident("I1", 1, "old", Some("old")))]).await;
    let call = [(Delete, deleted("I1", 2)), (Update, part("I1", 3, "subject", "new"))];
    assert_eq!(apply(&mut target, &call).await, [Applied, Applied]);
    assert_eq!(held(bench).await, ["I1 new -"]);
    assert_eq!(apply(&mut target, &call).await, [Stale, Duplicate]);
}

pub(crate) async fn several_tables_and_actions_in_one_call(bench: &impl Bench) {
    with_incidents(bench).await;
    bench.create("account", &[("id", Kind::Integer), ("name", Kind::Text)], &["id"]).await;
    let (incidents, accounts) = (incidents(), TableMap { into: "account".into(), ..incidents() });
    let account =
        |version, id, name| record(version, &[("id", Value::Number(id))], Some(&[("name", Value::Text(name))]));
    let gone = record(3, &[("id", Value::Number("2"))], None);
    let inserted = [incident("I1", 1, "a", None), incident("I2", 1, "b", None)];
    let bought = [account(1, "1", "acme"), account(2, "2", "umbrella")];
    let batches = [
        Batch { table: &incidents, action: Insert, records: &inserted },
        Batch { table: &accounts, action: Bulk, records: &bought },
        Batch { table: &incidents, action: Update, records: &[incident("I1", 2, "c", None)] },
        Batch { table: &accounts, action: Delete, records: &[gone] },
    ];
    let mut target = bench.target("one");
    assert_eq!(target.apply(&batches).await.unwrap().outcomes, [Applied, Applied, Applied, Applied, Applied, Applied]);
    assert_eq!(held(bench).await, ["I1 c -", "I2 b -"]);
    assert_eq!(rows(bench, "account", &["name"]).await, [[Some("acme".to_owned())]]);
}

pub(crate) async fn columns_land_where_the_map_says(bench: &impl Bench) {
    bench.create("Support Case", &[("case \"no\"", Kind::Text), ("subject", Kind::Text)], &["case \"no\""]).await;
    let columns = [("number", "case \"no\""), ("subject", "subject")];
    let columns = BTreeMap::from(columns.map(|(from, to)| (from.to_owned(), to.to_owned())));
    let map = TableMap { into: "Support Case".into(), columns: Some(columns), ..incidents() };
    let mut target = bench.target("one");
    for (action, record) in
        [(Insert, incident("I1", 1, "a", None)), (Insert, incident("I2", 2, "b", None)), (Delete, deleted("I1", 3))]
    {
        let batch = Batch { table: &map, action, records: &[record] };
        assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, [Applied]);
    }
    let rows = rows(bench, "Support Case", &["case \"no\"", "subject"]).await;
    assert_eq!(rows, [["I2", "b"].map(|value| Some(value.to_owned()))]);
}

pub(crate) async fn only_mapped_columns_are_taken(bench: &impl Bench) {
    with_incidents(bench).await;
    let columns = BTreeMap::from([("note".to_owned(), "subject".to_owned())]);
    let map = TableMap { columns: Some(columns), ..incidents() };
    let batch = Batch { table: &map, action: Insert, records: &[incident("I1", 1, "not taken", Some("taken"))] };
    bench.target("one").apply(&[batch]).await.unwrap();
    assert_eq!(held(bench).await, ["I1 taken -"]);
}

pub(crate) async fn a_composite_key_is_one_key(bench: &impl Bench) {
    let columns = [("item", Kind::Text), ("order_id", Kind::Integer), ("line", Kind::Integer)];
    bench.create("order_line", &columns, &["order_id", "line"]).await;
    let map = TableMap { into: "order_line".into(), ..incidents() };
    let line = |version, order, line, item: Option<&str>| {
        let key = [("order_id", Value::Number(order)), ("line", Value::Number(line))];
        record(version, &key, item.map(|item| [("item", Value::Text(item))]).as_ref().map(|data| data.as_slice()))
    };
    let inserted = [line(1, "1", "11", Some("a")), line(1, "11", "1", Some("b")), line(1, "1", "1", Some("c"))];
    let mut target = bench.target("one");
    for (action, records) in [
        (Insert, inserted.as_slice()),
        (Update, &[line(2, "1", "1", Some("d"))]),
        (Delete, &[line(2, "1", "11", None)]),
    ] {
        let outcomes = target.apply(&[Batch { table: &map, action, records }]).await.unwrap().outcomes;
        assert!(outcomes.iter().all(|outcome| *outcome == Applied));
    }
    let rows = rows(bench, "order_line", &["item", "order_id", "line"]).await;
    assert_eq!(rows, [["b", "11", "1"], ["d", "1", "1"]].map(|row| row.map(|value| Some(value.to_owned()))));
}

pub(crate) async fn hostile_texts_arrive_as_they_were(bench: &impl Bench) {
    with_incidents(bench).await;
    let texts = [
        "\\N",
        "\\.",
        "\\",
        "\\\\N",
        "\t",
        "\n",
        "\r\n",
        "a\\tb",
        "'; drop table incident; --",
        "\"",
        "\u{1}",
        "\u{7f}",
        "\u{feff}",
        "ñ €  𝄞 \u{202e}",
        "null",
        "NULL",
        "NaN",
        "{}",
        "%s $1 :x",
        " leading and trailing ",
        "",
    ];
    let records: Vec<_> =
        texts.iter().enumerate().map(|(index, text)| incident(text, 1 + index as u64, text, Some(text))).collect();
    let map = incidents();
    let mut target = bench.target("one");
    let batch = Batch { table: &map, action: Insert, records: &records };
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, vec![Applied; texts.len()]);
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, vec![Duplicate; texts.len()]);
    let mut expected: Vec<_> = texts.iter().map(|text| vec![Some((*text).to_owned()); 3]).collect();
    expected.sort();
    assert_eq!(rows(bench, "incident", &["number", "subject", "note"]).await, expected);
}

async fn park(target: &mut impl Target, record: &Record, letter: &str) {
    target.park(&[Parked { table: &incidents(), record, letter }]).await.unwrap();
}

fn behind(letter: &str) -> Outcome {
    Outcome::Waits { behind: letter.to_owned() }
}

pub(crate) async fn a_part_waits_behind_what_is_parked_until_that_is_taken(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    let (head, next) = (incident("I1", 2, "toner", Some("kept")), part("I1", 3, "subject", "paper"));
    apply(&mut target, &[(Insert, incident("I1", 1, "printer", None)), (Insert, incident("I2", 1, "x", None))]).await;
    park(&mut target, &head, "L2").await;
    // Whoever has the partition now, and beside others that do not wait.
    let mut target = bench.target("two");
    let call =
        [(Update, part("I2", 2, "subject", "y")), (Update, next.clone()), (Insert, incident("I3", 1, "z", None))];
    assert_eq!(apply(&mut target, &call).await, [Applied, behind("L2"), Applied]);
    assert_eq!(held(bench).await, ["I1 printer -", "I2 y -", "I3 z -"]);
    park(&mut target, &next, "L3").await;
    // Out of order it waits on; the head passes, then the next, then there is nothing to wait for.
    assert_eq!(apply(&mut target, &[(Update, next.clone())]).await, [behind("L2")]);
    assert_eq!(apply(&mut target, &[(Update, head)]).await, [Applied]);
    let late = part("I1", 4, "subject", "late");
    assert_eq!(apply(&mut target, &[(Update, late.clone())]).await, [behind("L3")]);
    assert_eq!(apply(&mut target, &[(Update, next), (Update, late)]).await, [Applied, Applied]);
    assert_eq!(held(bench).await, ["I1 late kept", "I2 y -", "I3 z -"]);
}

pub(crate) async fn a_newer_whole_record_makes_up_for_what_is_parked(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    let old = part("I1", 2, "subject", "old");
    park(&mut target, &old, "L2").await;
    park(&mut target, &old, "L2").await;
    // An older one does not.
    let call = [(Bulk, incident("I1", 1, "one", None)), (Update, part("I1", 3, "subject", "three"))];
    assert_eq!(apply(&mut target, &call).await, [Applied, behind("L2")]);
    let call = [(Update, incident("I1", 4, "four", None)), (Update, part("I1", 5, "note", "five"))];
    assert_eq!(apply(&mut target, &call).await, [Applied, Applied]);
    assert_eq!(apply(&mut target, &[(Update, old)]).await, [Stale]);
    assert_eq!(held(bench).await, ["I1 four five"]);
}

pub(crate) async fn a_delete_makes_up_for_what_is_parked(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    park(&mut target, &incident("I1", 2, "old", None), "L2").await;
    let call = [(Delete, deleted("I1", 3)), (Update, part("I1", 4, "subject", "new"))];
    assert_eq!(apply(&mut target, &call).await, [Applied, Applied]);
    assert_eq!(held(bench).await, ["I1 new -"]);
}

pub(crate) async fn what_is_parked_is_forgotten_with_its_dead_letter(bench: &impl Bench) {
    with_incidents(bench).await;
    let mut target = bench.target("one");
    for version in [2, 3] {
        park(&mut target, &incident("I1", version, "old", None), &format!("L{version}")).await;
    }
    let next = [(Update, part("I1", 4, "subject", "new"))];
    target.unpark(&["L2".to_owned(), "unknown".to_owned()]).await.unwrap();
    assert_eq!(apply(&mut target, &next).await, [behind("L3")]);
    target.unpark(&["L3".to_owned()]).await.unwrap();
    assert_eq!(apply(&mut target, &next).await, [Applied]);
}

pub(crate) async fn tries_are_counted_until_they_are_forgotten(bench: &impl Bench) {
    let mut target = bench.target("one");
    assert_eq!(target.tries("incident", "m1").await.unwrap(), 0);
    target.set_tries("incident", "m1", 0).await.unwrap();
    for tries in [1, 2] {
        target.set_tries("incident", "m1", tries).await.unwrap();
    }
    assert_eq!(bench.target("two").tries("incident", "m1").await.unwrap(), 2);
    assert_eq!(target.tries("incident", "m2").await.unwrap(), 0);
    target.set_tries("incident", "m1", 0).await.unwrap();
    assert_eq!(target.tries("incident", "m1").await.unwrap(), 0);
}

pub(crate) async fn instances_share_what_they_hold(bench: &impl Bench) {
    with_incidents(bench).await;
    let (mut one, mut two) = (bench.target("one"), bench.target("two"));
    assert_eq!(apply(&mut one, &[(Insert, incident("I1", 2, "one", None))]).await, [Applied]);
    assert_eq!(apply(&mut two, &[(Update, incident("I1", 1, "two", None))]).await, [Stale]);
    assert_eq!(apply(&mut two, &[(Delete, deleted("I1", 3))]).await, [Applied]);
    assert_eq!(apply(&mut one, &[(Insert, incident("I1", 2, "one", None))]).await, [Stale]);
    assert_eq!(held(bench).await, [""; 0]);
}

pub(crate) async fn nothing_to_do_is_done(bench: &impl Bench) {
    with_incidents(bench).await;
    let map = incidents();
    let mut target = bench.target("one");
    assert_eq!(target.apply(&[]).await.unwrap().outcomes, []);
    let empty = Batch { table: &map, action: Insert, records: &[] };
    assert_eq!(target.apply(&[empty]).await.unwrap().outcomes, []);
}

pub(crate) async fn a_thousand_records_in_one_call(bench: &impl Bench) {
    with_incidents(bench).await;
    let map = incidents();
    let mut target = bench.target("one");
    let call = |version: u64| (0..1000).map(move |n| incident(&format!("I{n:04}"), version, "many", None));
    let (first, second): (Vec<_>, Vec<_>) = (call(1).collect(), call(1).step_by(2).chain(call(2).step_by(2)).collect());
    let batch = Batch { table: &map, action: Bulk, records: &first };
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, vec![Applied; 1000]);
    let batch = Batch { table: &map, action: Bulk, records: &second };
    let expected = [vec![Duplicate; 500], vec![Applied; 500]].concat();
    let outcomes = target.apply(&[batch]).await.unwrap().outcomes;
    // A target that folds does not ask what it would have said of a record that a newer one replaced.
    assert!(outcomes == expected || outcomes == vec![Applied; 1000]);
    assert_eq!(held(bench).await.len(), 1000);
}

/// For targets with transactions: a refused record commits nothing of its call, and its value is in no message.
pub(crate) async fn a_refused_record_commits_nothing(bench: &impl Bench) {
    bench.create("account", &[("id", Kind::Text), ("seats", Kind::Integer)], &["id"]).await;
    let map = TableMap { into: "account".into(), ..incidents() };
    let account = |id, seats| record(1, &[("id", Value::Text(id))], Some(&[("seats", seats)]));
    let mut target = bench.target("one");
    let call = [account("a", Value::Number("1")), account("b", Value::Text("MARKER")), account("c", Value::Null)];
    let error = target.apply(&[Batch { table: &map, action: Insert, records: &call }]).await.unwrap_err();
    assert_eq!(error.class(), Class::Permanent);
    assert!(!format!("{error} {error:?}").contains("MARKER"), "{error:?}");
    assert!(rows(bench, "account", &["id"]).await.is_empty());
    let rest = [account("a", Value::Number("1")), account("c", Value::Null)];
    let applied = target.apply(&[Batch { table: &map, action: Insert, records: &rest }]).await.unwrap();
    assert_eq!(applied.outcomes, [Applied, Applied]);
}
/// For targets with a schema: a missing table keeps everything until it is made.
pub(crate) async fn a_missing_table_is_unfit_until_it_is_made(bench: &impl Bench) {
    let map = incidents();
    let mut target = bench.target("one");
    let records = [incident("I1", 1, "MARKER", None)];
    let batch = Batch { table: &map, action: Insert, records: &records };
    for _ in 0..2 {
        let error = target.apply(&[batch]).await.unwrap_err();
        assert_eq!(error.class(), Class::Systemic);
        assert!(error.to_string().contains("incident") && !format!("{error:?}").contains("MARKER"), "{error:?}");
    }
    assert_eq!(target.check(std::slice::from_ref(&map)).await.unwrap_err().len(), 1);
    with_incidents(bench).await;
    target.check(std::slice::from_ref(&map)).await.unwrap();
    assert_eq!(target.apply(&[batch]).await.unwrap().outcomes, [Applied]);
}

pub(crate) async fn a_standing_tells_row_tombstone_and_parked_versions_and_makes_nothing(bench: &impl Bench) {
    with_incidents(bench).await;
    let (map, mut target) = (incidents(), bench.target("one"));
    let key = |number| deleted(number, 1).key;
    assert_eq!(target.standing(&map, &key("I1")).await.unwrap(), Standing::default());
    let call = [(Insert, incident("I1", 1, "a", None)), (Delete, deleted("I2", 2)), (Delete, deleted("I'3\"", 3))];
    apply(&mut target, &call).await;
    let version = |version| Version::new(1, version, 1);
    let here = Standing { row: Some(Some(version(1))), ..Standing::default() };
    let gone = |at| Standing { deleted: Some(version(at)), ..Standing::default() };
    assert_eq!(target.standing(&map, &key("I1")).await.unwrap(), here);
    assert_eq!(target.standing(&map, &key("I2")).await.unwrap(), gone(2));
    assert_eq!(target.standing(&map, &key("I'3\"")).await.unwrap(), gone(3));
    park(&mut target, &incident("I1", 3, "c", None), "L3").await;
    park(&mut target, &incident("I1", 2, "b", None), "L2").await;
    let parked = [(2, "L2"), (3, "L3")].map(|(at, letter)| (version(at), letter.to_owned())).to_vec();
    assert_eq!(target.standing(&map, &key("I1")).await.unwrap(), Standing { parked, ..here });
    assert_eq!(target.standing(&map, &key("I1")).await.unwrap().version(), Some(version(1)));
}

pub(crate) async fn a_standing_takes_a_composite_key_where_the_map_says(bench: &impl Bench) {
    let columns = [("item", Kind::Text), ("order no", Kind::Integer), ("line", Kind::Integer)];
    bench.create("order_line", &columns, &["order no", "line"]).await;
    let columns =
        BTreeMap::from([("order_id", "order no"), ("item", "item")].map(|(from, to)| (from.into(), to.into())));
    let map = TableMap { into: "order_line".into(), columns: Some(columns), ..incidents() };
    let key = |order, line| [("order_id", Value::Number(order)), ("line", Value::Text(line))];
    let one = record(7, &key("1", "11"), Some(&[("item", Value::Text("a"))]));
    let mut target = bench.target("one");
    target.apply(&[Batch { table: &map, action: Insert, records: &[one] }]).await.unwrap();
    for (order, line, expected) in [("1", "11", Some(Some(Version::new(1, 7, 1)))), ("11", "1", None), ("1", "x", None)]
    {
        let key = record(1, &key(order, line), None).key;
        assert_eq!(target.standing(&map, &key).await.unwrap().row, expected, "{order} {line}");
    }
}

/// A look tells which rows are not what records say, and which have no record, and changes nothing.
pub(crate) async fn a_look_tells_rows_from_records(bench: &impl Bench, look: &mut impl Look) {
    with_incidents(bench).await;
    let mut target = bench.target("a");
    let map = TableMap {
        columns: Some(
            [("title", "subject"), ("note", "note")].map(|(from, to)| (from.to_owned(), to.to_owned())).into(),
        ),
        ..incidents()
    };
    let calls = [
        (Insert, incident("same", 5, "a", None)),
        (Insert, incident("newer", 9, "b", None)),
        (Insert, incident("other", 5, "c", Some(""))),
        (Insert, incident("extra", 5, "d", None)),
        (Insert, incident("extra and newer", 9, "d", None)),
        (Insert, incident("unclear", 5, "d", None)),
        (Delete, deleted("deleted", 5)),
        (Delete, deleted("deleted later", 9)),
    ];
    apply(&mut target, &calls).await;
    let before = bench.rows("incident", &["number", "subject", "note"]).await;
    let said = |number: &str, title: &str, note: Value<'_>| {
        let data = [("title", Value::Text(title)), ("note", note), ("unmapped", Value::Text("x"))];
        record(7, &[("number", Value::Text(number))], Some(&data))
    };
    let records = [
        said("same", "a", Value::Null),
        said("newer", "z", Value::Null),
        said("other", "z", Value::Null),
        said("unknown", "z", Value::Null),
        said("deleted", "z", Value::Null),
        said("deleted later", "z", Value::Null),
    ];
    let unclear = [record(7, &[("number", Value::Text("unclear"))], None)];
    let batches = [
        Batch { table: &map, action: Bulk, records: &records },
        Batch { table: &map, action: Delete, records: &unclear },
    ];
    let key = Columns::new(["number"]);
    look.prepare(&map, &key).await.unwrap();
    for _ in 0..2 {
        let seen = look.compare(&batches).await.unwrap();
        let columns = Difference::Columns(vec!["subject".to_owned(), "note".to_owned()]);
        let differences = vec![(2, columns), (3, Difference::Missing), (4, Difference::Missing)];
        assert_eq!(seen, Seen { newer: 2, differences });
        let same = look.compare(&[Batch { table: &map, action: Bulk, records: &records[..1] }]).await.unwrap();
        assert_eq!(same, Seen::default());
    }
    let others = look.others(&map, &key, Version::new(1, 7, 1), 10).await.unwrap();
    let extra = record(1, &[("number", Value::Text("extra"))], None).key;
    assert_eq!(others, Others { count: 1, keys: vec![extra] });
    assert_eq!(look.others(&map, &key, Version::new(1, 9, 1), 1).await.unwrap().count, 2);
    assert_eq!(bench.rows("incident", &["number", "subject", "note"]).await, before);
    let missing = TableMap { into: "nowhere".to_owned(), ..incidents() };
    assert_eq!(look.prepare(&missing, &key).await.unwrap_err().class(), Class::Systemic);
}
