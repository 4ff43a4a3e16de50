//! What the platform says of each rule is cited by the title of its page: "Operators available for filters and queries",
//! "Encoded query strings" and the GlideFilter API, in the product documentation of ServiceNow.

use proptest::prelude::*;
use syncline_shared::record::{Columns, Row, Value};

use super::*;

fn parse(text: &str) -> Filter {
    text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

fn row(fields: &[(&str, Value<'_>)]) -> Row {
    let mut row = Row::builder(Columns::new(fields.iter().map(|(name, _)| *name)));
    fields.iter().for_each(|(_, value)| row.push(*value));
    row.finish()
}

fn verdict(text: &str, fields: &[(&str, Value<'_>)]) -> Verdict {
    let (filter, row) = (parse(text), row(fields));
    filter.test(&row, &filter.places(row.columns()))
}

fn fits(text: &str, value: Value<'_>) -> bool {
    verdict(text, &[("f", value)]) == Verdict::Fits
}

const EMPTY: [Value<'static>; 2] = [Value::Null, Value::Text("")];

#[test]
fn or_binds_tighter_than_and_which_binds_tighter_than_new_query() {
    // "Encoded query strings": a^b^ORc^d is a and (b or c) and d; ^NQ begins a new query.
    let table = [
        ("a=1^b=1^ORc=1^d=1", ["1111", "1101", "1011"], ["1001", "0111", "1110"]),
        ("a=1^ORb=1^c=1^ORd=1", ["1010", "0101", "1111"], ["1100", "0011", "0000"]),
        ("a=1^b=1^NQc=1^d=1", ["1100", "0011", "1111"], ["1010", "0110", "1001"]),
    ];
    for (text, fitting, others) in table {
        let verdict = |digits: &str| {
            let values: Vec<_> = (0..4).map(|at| (&"abcd"[at..=at], Value::Number(&digits[at..=at]))).collect();
            verdict(text, &values)
        };
        fitting.iter().for_each(|digits| assert_eq!(verdict(digits), Verdict::Fits, "{text} {digits}"));
        others.iter().for_each(|digits| assert_eq!(verdict(digits), Verdict::FitsNot, "{text} {digits}"));
    }
}

#[test]
fn unequal_also_holds_for_empty_values_and_nothing_else_does() {
    // "Operators available for filters and queries": active!=true finds false and empty.
    for empty in EMPTY {
        for text in ["f!=true", "f!=2", "fISEMPTY", "f="] {
            assert!(fits(text, empty), "{text} {empty:?}");
        }
        for text in ["f=2", "f<2", "f<=2", "f>2", "f>=2", "fIN1,2", "fLIKEa", "fSTARTSWITHa", "fISNOTEMPTY", "f!="] {
            assert!(!fits(text, empty), "{text} {empty:?}");
        }
    }
    assert!(
        fits("fISNOTEMPTY", Value::Text(" ")) && fits("f!=", Value::Bool(false)) && !fits("f=", Value::Number("0"))
    );
}

#[test]
fn text_is_compared_exactly_as_conditions_held_against_a_record_are() {
    // GlideFilter API, "Case sensitivity": case-sensitive by default; database queries are not.
    let value = Value::Text("SAP outage");
    for text in ["f=SAP outage", "fLIKEout", "fSTARTSWITHSAP", "fINa,SAP outage", "f!=sap outage"] {
        assert!(fits(text, value), "{text}");
    }
    for text in ["f=sap outage", "fLIKEOUT", "fSTARTSWITHsap", "fINa,sap outage", "fSTARTSWITHoutage", "f!=SAP outage"]
    {
        assert!(!fits(text, value), "{text}");
    }
}

#[test]
fn numbers_compare_as_numbers_and_dates_as_text() {
    for value in [Value::Number("10"), Value::Text("10")] {
        for text in ["f>9", "f>=10.0", "f<1e2", "f=10.00", "fIN1, 10", "f!=1"] {
            assert!(fits(text, value), "{text} {value:?}");
        }
        assert!(!fits("f<9", value) && !fits("f<=2", value));
    }
    assert!(fits("f>9007199254740992", Value::Number("9007199254740993")));
    assert!(!fits("f=1234", Value::Text("01234")), "a postcode is no number");
    assert!(!fits("f=100000", Value::Text("1E5")), "nor is a serial number");
    let date = Value::Text("2026-03-01 10:00:00");
    assert!(fits("f>=2026-03-01 00:00:00", date) && fits("f<2026-10-01", date) && !fits("f>2026-03-01 10:00:00", date));
}

#[test]
fn a_boolean_is_true_or_one() {
    for value in [Value::Bool(true), Value::Number("1"), Value::Text("1"), Value::Text("true")] {
        assert!(fits("f=true", value) && !fits("f=false", value) && !fits("f!=true", value), "{value:?}");
    }
    for text in ["f=0", "f=false", "f!=true", "f!=1", "fINfalse,x", "f<1"] {
        assert!(fits(text, Value::Bool(false)) && !fits(text, Value::Bool(true)), "{text}");
    }
    assert!(!fits("f=true", Value::Number("2")));
}

#[test]
fn what_is_not_known_decides_only_where_it_matters() {
    use Verdict::{Fits, FitsNot, Unknown};
    let fields = [("yes", Value::Number("1")), ("no", Value::Number("0")), ("toast", Value::Unchanged)];
    for (text, expected) in [
        ("toast=1", Unknown),
        ("toastISEMPTY", Unknown),
        ("absent=1", Unknown),
        ("toast=1^ORyes=1", Fits),
        ("toast=1^ORno=1", Unknown),
        ("toast=1^yes=1", Unknown),
        ("toast=1^no=1", FitsNot),
        ("no=1^NQtoast=1", Unknown),
        ("toast=1^NQyes=1", Fits),
        ("no=1^toast=1^NQno=1", FitsNot),
    ] {
        assert_eq!(verdict(text, &fields), expected, "{text}");
    }
}

#[test]
fn values_may_hold_signs_blanks_operators_and_doubled_carets() {
    // GlideStringUtil.escapeQueryTermSeparator doubles a caret that belongs to a value.
    assert!(fits("fLIKEa=b <c> IN d", Value::Text("x a=b <c> IN d y")));
    assert!(fits("f=a^^b", Value::Text("a^b")) && fits("fINx^^,y", Value::Text("x^")));
    assert_eq!(parse("f=a^^ORg=1").columns().collect::<Vec<_>>(), ["f"]);
    assert_eq!(parse("f=a^^^g=1").columns().collect::<Vec<_>>(), ["f", "g"]);
}

#[test]
fn names_may_be_walked_have_digits_and_with_signs_upper_case() {
    for (text, names) in [
        ("caller_id.name=x^u_2nd<=3", vec!["caller_id.name", "u_2nd"]),
        ("StageName=Closed Booked^AccountId!=", vec!["StageName", "AccountId"]),
        ("a=1^b=2^a=3", vec!["a", "b"]),
        ("größe>1", vec!["größe"]),
    ] {
        assert_eq!(parse(text).columns().collect::<Vec<_>>(), names, "{text}");
    }
}

#[test]
fn an_end_marker_of_the_list_view_means_nothing() {
    assert_eq!(parse("active=true^EQ"), parse("active=true"));
}

#[test]
fn an_error_names_the_place_what_is_there_and_what_is_accepted() {
    for (text, expected) in [
        ("", "at character 1: a condition is missing"),
        ("^a=1", "at character 1: a condition is missing"),
        ("a=1^", "at character 5: a condition is missing"),
        ("a=1^OR^b=2", "at character 7: a condition is missing"),
        ("a=1^NQ", "at character 7: a condition is missing"),
        ("=1", "at character 1: found \"=1\" where a column name must be"),
        ("a..b=1", "at character 1: found \"a..b\" where a column name must be"),
        ("a=1^ b=2", "at character 5: found \" b=2\" where a column name must be"),
        ("priority <= 2", "at character 9: found \" <= 2\" where an operator must be; = !="),
        ("größe", "at character 6: found \"\" where an operator must be"),
        ("StageNameLIKEx", "at character 1: found \"StageNameLIKEx\" where an operator must be"),
        ("a!b", "at character 2: found \"!b\" where an operator must be"),
        ("nameLIKE", "at character 9: LIKE needs a value"),
        ("state>^b=1", "at character 7: > needs a value"),
        ("stateIN", "at character 8: IN needs values"),
        ("stateIN1,,2", "at character 8: IN needs values"),
        ("aISEMPTYx", "at character 9: found \"x\" after ISEMPTY"),
        ("a=javascript:gs.getUserID()", "at character 3: javascript: is not supported"),
        ("aINx,javascript:y()", "at character 4: javascript: is not supported"),
        ("javascript:x", "at character 1: javascript: is not supported"),
        ("a=1^ORDERBYnumber", "at character 5: ORDERBY is not supported"),
        ("ORDERBYDESCnumber", "at character 1: ORDERBY is not supported"),
        ("a=1^RLQUERYt.f,>0^ENDRLQUERY", "at character 5: RLQUERY is not supported"),
        ("nameNOT LIKEx", "at character 5: NOT LIKE is not supported"),
        ("impactBETWEEN1@2", "at character 7: BETWEEN is not supported"),
        ("aINSTANCEOFcmdb_ci", "at character 2: INSTANCEOF is not supported"),
        ("aIN_HIERARCHYx", "at character 2: IN_HIERARCHY is not supported"),
        ("aSAMEASother=1", "at character 2: SAMEAS is not supported"),
        ("name*x", "at character 5: * is not supported"),
        ("name!*x", "at character 5: !* is not supported"),
        ("AAA%x", "at character 1: found \"AAA%x\" where an operator must be"),
    ] {
        let problem = text.parse::<Filter>().expect_err(text).to_string();
        assert!(problem.starts_with(expected), "{text}: {problem}");
    }
}

fn filters() -> impl Strategy<Value = String> {
    let name = "[a-z][a-z0-9_]{0,6}(\\.[a-z]{1,3})?";
    // Not `=` first, which makes a longer operator of `<`.
    let value = "[ -<>-~é][ -~é]{0,7}".prop_map(|value| value.replace('^', "^^"));
    let list = prop::collection::vec("[^,^]{1,4}", 1..4).prop_map(|items| items.join(","));
    let operator = prop::sample::select(vec!["=", "!=", "<", "<=", ">", ">=", "LIKE", "STARTSWITH"]);
    let test = prop_oneof![
        (operator, value).prop_map(|(operator, value)| format!("{operator}{value}")),
        list.prop_map(|list| format!("IN{list}")),
        prop::sample::select(vec!["ISEMPTY", "ISNOTEMPTY", "=", "!="]).prop_map(str::to_owned),
    ];
    let joint = prop::sample::select(vec!["^", "^OR", "^NQ"]);
    let more = prop::collection::vec((joint, name, test.clone()), 0..6);
    (name, test, more).prop_map(|(name, test, more)| {
        more.iter().fold(format!("{name}{test}"), |text, (joint, name, test)| text + joint + name + test)
    })
}

proptest! {
    #[test]
    fn a_filter_read_and_written_again_is_the_same_text(text in filters()) {
        prop_assert_eq!(text.parse::<Filter>().map(|filter| filter.to_string()), Ok(text));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in ".*") {
        let _ = text.parse::<Filter>();
    }

    #[test]
    fn pieces_of_the_grammar_in_any_order_parse_to_what_they_print(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "Stage", ".", "^", "^^", "^OR", "^NQ", "^EQ", "=", "!=", "<", "<=", "IN", "LIKE", "ISEMPTY", "1", ",", " ",
            "ORDERBY", "é", "javascript:", "NOT ", "*",
        ]), 0..12),
    ) {
        if let Ok(filter) = pieces.concat().parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
