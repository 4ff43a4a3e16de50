//! What the platform says of each rule is cited by the title of its page: "Operators available for filters and queries",
//! "Encoded query strings", "GlideSystem API", "GlideElement API" and the GlideFilter API, in the product documentation of
//! ServiceNow. Where it says nothing, the choice is ours, and the test says so.

mod changes;
mod dates;

use jiff::Timestamp;
use proptest::prelude::*;
use syncline_shared::record::{Columns, Row, Value};

use super::*;

/// The instant of every change here: a Wednesday.
const AT: &str = "2026-03-04T10:30:15.5Z";

fn parse(text: &str) -> Filter {
    text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

fn row(fields: &[(&str, Value<'_>)]) -> Row {
    let mut row = Row::builder(Columns::new(fields.iter().map(|(name, _)| *name)));
    fields.iter().for_each(|(_, value)| row.push(*value));
    row.finish()
}

fn verdict(text: &str, fields: &[(&str, Value<'_>)]) -> Verdict {
    judge(&parse(text), fields, Before::Unknown)
}

fn judge(filter: &Filter, fields: &[(&str, Value<'_>)], before: Before<'_>) -> Verdict {
    let row = row(fields);
    let (places, at) = (filter.places(row.columns()), AT.parse::<Timestamp>().unwrap());
    filter.test(&Seen { row: &row, places: &places, before, at })
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
        for text in ["f!=true", "f!=2", "fISEMPTY", "f=", "fANYTHING"] {
            assert!(fits(text, empty), "{text} {empty:?}");
        }
        for text in [
            "f=2",
            "f<2",
            "f<=2",
            "f>2",
            "f>=2",
            "fIN1,2",
            "fLIKEa",
            "fSTARTSWITHa",
            "fENDSWITHa",
            "fISNOTEMPTY",
            "f!=",
            "fBETWEENa@b",
            "fINSTANCEOFa",
            "fRELATIVELT@hour@ahead@9",
            "f<javascript:gs.endOfNextYear()",
        ] {
            assert!(!fits(text, empty), "{text} {empty:?}");
        }
        // "Operators available for filters and queries", NOT LIKE: records with an empty field are not returned.
        assert!(!fits("fNOT LIKEa", empty) && !fits("f!*a", empty));
        // Of these it says nothing; they are held for kin of !=.
        assert!(fits("fNOT INa,b", empty) && fits("fNOTONx@2026-01-01@2026-01-02", empty));
    }
    assert!(fits("fEMPTYSTRING", Value::Text("")) && !fits("fEMPTYSTRING", Value::Null));
    assert!(
        fits("fISNOTEMPTY", Value::Text(" ")) && fits("f!=", Value::Bool(false)) && !fits("f=", Value::Number("0"))
    );
}

#[test]
fn text_is_compared_exactly_as_conditions_held_against_a_record_are() {
    // GlideFilter API, "Case sensitivity": case-sensitive by default; database queries are not.
    let value = Value::Text("SAP outage");
    for text in [
        "f=SAP outage",
        "fLIKEout",
        "f*out",
        "fSTARTSWITHSAP",
        "fENDSWITHage",
        "f%age",
        "fINa,SAP outage",
        "f!=sap outage",
        "fNOT LIKEOUT",
        "f!*OUT",
        "fNOTLIKEOUT",
        "fDOES NOT CONTAINOUT",
        "fNOT INsap outage,x",
        "fBETWEENSAP@SAQ",
        "f>=SAP",
        "fINSTANCEOFSAP outage",
    ] {
        assert!(fits(text, value), "{text}");
    }
    for text in [
        "f=sap outage",
        "fLIKEOUT",
        "fSTARTSWITHsap",
        "fINa,sap outage",
        "fSTARTSWITHoutage",
        "f!=SAP outage",
        "fENDSWITHAGE",
        "fENDSWITHSAP",
        "fNOT LIKEout",
        "fNOT INSAP outage",
        "fBETWEENsap@saq",
        "fEMPTYSTRING",
        "fINSTANCEOFSAP",
    ] {
        assert!(!fits(text, value), "{text}");
    }
}

#[test]
fn numbers_compare_as_numbers() {
    for value in [Value::Number("10"), Value::Text("10")] {
        // "Operators available for filters and queries": BETWEEN takes both ends in.
        for text in
            ["f>9", "f>=10.0", "f<1e2", "f=10.00", "fIN1, 10", "f!=1", "fBETWEEN9@10", "fBETWEEN10@11", "fNOT IN1,2"]
        {
            assert!(fits(text, value), "{text} {value:?}");
        }
        assert!(!fits("f<9", value) && !fits("f<=2", value) && !fits("fBETWEEN1@9", value));
    }
    assert!(fits("f>9007199254740992", Value::Number("9007199254740993")));
    assert!(!fits("f=1234", Value::Text("01234")), "a postcode is no number");
    assert!(!fits("f=100000", Value::Text("1E5")), "nor is a serial number");
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
fn names_may_have_digits_and_with_signs_upper_case() {
    for (text, names) in [
        ("caller_id=x^u_2nd<=3", vec!["caller_id", "u_2nd"]),
        ("StageName=Closed Booked^AccountId!=", vec!["StageName", "AccountId"]),
        ("StageName*Closed^OwnerId%9^ISNOTEMPTYORdue!*7", vec!["StageName", "OwnerId", "ISNOTEMPTYORdue"]),
        ("AAA%x", vec!["AAA"]),
        ("a=1^b=2^a=3", vec!["a", "b"]),
        ("aSAMEASb^cGT_FIELDa^dMORETHANe@day@before@1", vec!["a", "b", "c", "d", "e"]),
        ("größe>1", vec!["größe"]),
    ] {
        assert_eq!(parse(text).columns().collect::<Vec<_>>(), names, "{text}");
        assert_eq!(parse(text).to_string(), text);
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
        ("a!~b", "at character 2: found \"!~b\" where an operator must be"),
        ("stateCHANGETO6", "at character 6: found \"CHANGETO6\" where an operator must be"),
        ("nameNOT LIKE", "at character 13: NOT LIKE needs a value"),
        ("aANYTHINGx", "at character 10: found \"x\" after ANYTHING"),
        ("aVALCHANGES1", "at character 12: found \"1\" after VALCHANGES"),
        ("impactBETWEEN1", "at character 14: BETWEEN needs two values with @ between"),
        ("impactBETWEEN1@2@3", "at character 14: BETWEEN needs two values"),
        ("dueONToday", "at character 6: ON needs a label, a start and an end"),
        ("dueRELATIVEGT@fortnight@ago@1", "at character 14: RELATIVEGT needs @unit@ago@n"),
        ("dueRELATIVEGT@day@ago@1000000", "at character 14: RELATIVEGT needs @unit@ago@n"),
        ("dueRELATIVENE@day@ago@1", "at character 4: found \"RELATIVENE@day@ago@1\" where an operator must be"),
        ("dueDATEPARTMonday@javascript:gs.datePart('dayofweek','monday','GT')", "at character 12: DATEPART needs"),
        ("dueDATEPARTx@javascript:gs.datePart('month','foo','EE')", "at character 12: DATEPART needs"),
        ("aSAMEAS", "at character 8: SAMEAS needs the name of another column"),
        ("aSAMEASb@era", "at character 8: SAMEAS needs a column, and after @ one of"),
        ("aSAMEASb c", "at character 8: found \"b c\" where a column name must be"),
        ("aGT_FIELDref.b", "at character 10: \"ref.b\" is a column of another record"),
        ("aMORETHANb@day@beside@1", "at character 10: MORETHAN needs column@unit@side@n"),
        ("caller_id.name=x", "at character 1: \"caller_id.name\" is a column of another record"),
        ("a=javascript:gs.getUserID()", "at character 3: \"javascript:gs.getUse\" is a script of the platform"),
        ("aLIKEjavascript:x", "at character 6: \"javascript:x\" is a script of the platform"),
        ("aINx,javascript:y()", "at character 4: \"javascript:y()\" is a script of the platform"),
        ("javascript:x", "at character 1: javascript: is computed by the platform"),
        ("a=1^ORDERBYnumber", "at character 5: ORDERBY is about lists"),
        ("ORDERBYDESCnumber", "at character 1: ORDERBY is about lists"),
        ("a=1^GROUPBYnumber", "at character 5: GROUPBY is about lists"),
        ("a=1^RLQUERYt.f,>0^ENDRLQUERY", "at character 5: RLQUERY reads other tables"),
        ("JOINa.b=c.d", "at character 1: JOIN reads other tables"),
        ("123TEXTQUERY321=x", "at character 1: 123TEXTQUERY321 asks the platform's text index"),
        ("callerDYNAMIC1", "at character 7: DYNAMIC stands for a value the platform looks up"),
        ("aIN_HIERARCHYx", "at character 2: IN_HIERARCHY walks from record to record"),
        ("aDOESNOTHAVEx", "at character 2: DOESNOTHAVE asks for tags"),
        ("nameCONTAINSx", "at character 5: CONTAINS is no operator of conditions; LIKE"),
        ("nameMATCH_RGXx", "at character 5: MATCH_RGX is not supported"),
    ] {
        let problem = text.parse::<Filter>().expect_err(text).to_string();
        assert!(problem.starts_with(expected), "{text}: {problem}");
    }
}

fn filters() -> impl Strategy<Value = String> {
    let name = "[a-z][a-z0-9_]{0,6}";
    // Not `=` first, which makes a longer operator of `<`.
    let value = "[ -<>-~é][ -~é]{0,7}".prop_map(|value| value.replace('^', "^^"));
    let list = prop::collection::vec("[^,^]{1,4}", 1..4).prop_map(|items| items.join(","));
    let operator = prop::sample::select(vec![
        "=",
        "!=",
        "<",
        "<=",
        ">",
        ">=",
        "LIKE",
        "NOT LIKE",
        "STARTSWITH",
        "ENDSWITH",
        "INSTANCEOF",
        "CHANGESTO",
        "CHANGESFROM",
    ]);
    let test = prop_oneof![
        (operator, value).prop_map(|(operator, value)| format!("{operator}{value}")),
        (prop::sample::select(vec!["IN", "NOT IN"]), list).prop_map(|(operator, list)| format!("{operator}{list}")),
        ("[^@^]{1,5}", "[^@^]{1,5}").prop_map(|(from, to)| format!("BETWEEN{from}@{to}")),
        (prop::sample::select(vec!["SAMEAS", "NSAMEAS", "GT_FIELD", "LT_OR_EQUALS_FIELD"]), name)
            .prop_map(|(operator, name)| format!("{operator}{name}")),
        prop::sample::select(vec![
            "ISEMPTY",
            "ISNOTEMPTY",
            "EMPTYSTRING",
            "ANYTHING",
            "VALCHANGES",
            "=",
            "!=",
            "SAMEASother@day",
            "ONToday@javascript:gs.daysAgoStart(0)@javascript:gs.endOfToday()",
            "NOTON@2026-01-01@2026-01-02 10:00:00",
            "RELATIVEGE@hour@ago@2",
            "RELATIVEEE@dayofweek@ahead@1",
            "LESSTHANother@quarter@before or after@3",
            "DATEPARTMay@javascript:gs.datePart('month','may','LE')",
            ">=javascript:gs.dateGenerate('2026-03-01','12:00:00')",
        ])
        .prop_map(str::to_owned),
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
            "ORDERBY", "é", "javascript:", "NOT ", "*", "%", "@", "BETWEEN", "SAMEAS", "ON", "DATEPART", "RELATIVEEE", "day", "ago",
            "gs.daysAgo(", ")", "MORETHAN", "before", "CHANGESTO", "2026-03-01",
        ]), 0..12),
    ) {
        if let Ok(filter) = pieces.concat().parse::<Filter>() {
            prop_assert_eq!(filter.to_string().parse(), Ok(filter));
        }
    }
}
