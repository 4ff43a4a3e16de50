//! Operators that look at two values: what changed, and columns held against each other.

use super::*;

/// A record `f` before and after an update.
fn update(text: &str, before: Value<'_>, after: Value<'_>) -> Verdict {
    let (filter, before) = (parse(text), row(&[("f", before)]));
    judge(&filter, &[("f", after)], Before::Row(&before, &filter.places(before.columns())))
}

#[test]
fn a_change_to_a_value_is_one_from_another() {
    // "Operators available for filters and queries": CHANGESTO asks for a change to that value, not for the value.
    let [four, six] = ["4", "6"].map(Value::Number);
    for (text, before, after) in [
        ("fVALCHANGES", four, six),
        ("fVALCHANGES", Value::Null, six),
        ("fVALCHANGES", four, Value::Null),
        ("fCHANGESTO6", four, six),
        ("fCHANGESTO6.0", Value::Null, six),
        ("fCHANGESFROM4", four, six),
        ("fCHANGESFROM4", four, Value::Null),
        ("fCHANGESTO", four, Value::Null),
        ("fCHANGESFROM", Value::Text(""), four),
    ] {
        assert_eq!(update(text, before, after), Verdict::Fits, "{text}");
    }
    for (text, before, after) in [
        ("fVALCHANGES", six, six),
        ("fVALCHANGES", Value::Null, Value::Text("")),
        ("fCHANGESTO6", six, six),
        ("fCHANGESTO6", six, four),
        ("fCHANGESFROM4", four, four),
        ("fCHANGESFROM4", six, four),
        ("fCHANGESTO", Value::Null, Value::Null),
    ] {
        assert_eq!(update(text, before, after), Verdict::FitsNot, "{text}");
    }
}

#[test]
fn a_new_record_changes_from_empty() {
    // "GlideElement API", changes(): a new record's fields that have a value have changed.
    let insert = |text: &str, value| judge(&parse(text), &[("f", value)], Before::Nothing);
    for text in ["fVALCHANGES", "fCHANGESTO6", "fCHANGESFROM"] {
        assert_eq!(insert(text, Value::Number("6")), Verdict::Fits, "{text}");
        assert_eq!(insert(text, Value::Null), Verdict::FitsNot, "{text}");
    }
    assert_eq!(insert("fCHANGESFROM4", Value::Number("6")), Verdict::FitsNot);
}

#[test]
fn nothing_changes_in_a_copy_and_in_a_delete() {
    for text in ["fVALCHANGES", "fCHANGESTO6", "fCHANGESFROM6"] {
        assert_eq!(judge(&parse(text), &[("f", Value::Number("6"))], Before::Same), Verdict::FitsNot, "{text}");
    }
}

#[test]
fn without_the_values_before_only_what_they_cannot_change_is_decided() {
    let six = [("f", Value::Number("6"))];
    for before in [None, Some(row(&[("id", Value::Number("1"))])), Some(row(&[("f", Value::Unchanged)]))] {
        let judge = |text: &str, fields: &[(&str, Value<'_>)]| {
            let filter = parse(text);
            let places = before.as_ref().map(|row| filter.places(row.columns()));
            let before = before.as_ref().zip(places.as_ref());
            judge(&filter, fields, before.map_or(Before::Unknown, |(row, places)| Before::Row(row, places)))
        };
        for text in ["fVALCHANGES", "fCHANGESTO6", "fCHANGESFROM4"] {
            assert_eq!(judge(text, &six), Verdict::Unknown, "{text}");
            // What was not sent since it did not change, did not change.
            assert_eq!(judge(text, &[("f", Value::Unchanged)]), Verdict::FitsNot, "{text}");
        }
        assert_eq!(judge("fCHANGESTO7", &six), Verdict::FitsNot);
    }
}

#[test]
fn a_filter_says_that_it_asks_for_changes() {
    for (text, asks) in [("a=1^bVALCHANGES", true), ("aCHANGESFROM1", true), ("a=1^NQbCHANGESTO", true), ("a=1", false)]
    {
        assert_eq!(parse(text).asks_for_changes(), asks, "{text}");
    }
}

#[test]
fn columns_are_held_against_each_other() {
    // "Operators available for filters and queries": SAMEAS, NSAMEAS; GT_FIELD and its kin for numbers.
    let pair = |text: &str, a, b| verdict(text, &[("a", a), ("b", b)]) == Verdict::Fits;
    let (nine, ten) = (Value::Number("9"), Value::Text("10"));
    assert!(pair("aLT_FIELDb", nine, ten) && pair("aLT_OR_EQUALS_FIELDb", nine, ten) && pair("aNSAMEASb", nine, ten));
    assert!(!pair("aGT_FIELDb", nine, ten) && !pair("aGT_OR_EQUALS_FIELDb", nine, ten) && !pair("aSAMEASb", nine, ten));
    let same = (Value::Number("1.0"), Value::Text("1"));
    assert!(pair("aSAMEASb", same.0, same.1) && pair("aGT_OR_EQUALS_FIELDb", same.0, same.1));
    assert!(!pair("aGT_FIELDb", same.0, same.1) && !pair("aLT_FIELDb", same.0, same.1));
    assert!(pair("aSAMEASb", Value::Bool(true), Value::Number("1")));
    assert!(!pair("aSAMEASb", Value::Text("x"), Value::Text("X")));
    // Of empty values it says nothing: two of them are the same, and no comparison holds for one.
    for empty in EMPTY {
        assert!(
            pair("aSAMEASb", empty, Value::Null) && pair("aNSAMEASb", empty, nine) && !pair("aSAMEASb", nine, empty)
        );
        assert!(!pair("aGT_FIELDb", nine, empty) && !pair("aLT_OR_EQUALS_FIELDb", empty, nine));
    }
    assert_eq!(verdict("aSAMEASb", &[("a", nine)]), Verdict::Unknown);
}

#[test]
fn a_class_is_one_of_those_it_extends() {
    // "Operators available for filters and queries", INSTANCEOF: the class and those that extend it.
    let mut filter = parse("sys_class_nameINSTANCEOFtask^NQsys_class_nameINSTANCEOFcmdb_ci");
    assert_eq!(filter.classes().collect::<Vec<_>>(), ["task", "cmdb_ci"]);
    filter.know_classes(|class| if class == "task" { vec!["incident", "problem"] } else { Vec::new() });
    let judge = |class| judge(&filter, &[("sys_class_name", Value::Text(class))], Before::Unknown);
    for class in ["task", "incident", "problem", "cmdb_ci"] {
        assert_eq!(judge(class), Verdict::Fits, "{class}");
    }
    for class in ["", "Incident", "incident_task", "cmdb"] {
        assert_eq!(judge(class), Verdict::FitsNot, "{class}");
    }
}
