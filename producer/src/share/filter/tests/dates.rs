//! Dates: written out, relative to the change, and parts of them.

use super::*;

fn zoned(text: &str, zone: &str, value: &str) -> bool {
    let filter =
        Filter::parse(text, TimeZone::get(zone).unwrap()).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    judge(&filter, &[("f", Value::Text(value))], Before::Unknown) == Verdict::Fits
}

fn utc(text: &str, value: &str) -> bool {
    fits(text, Value::Text(value))
}

#[test]
fn dates_written_out_compare_as_instants_in_utc() {
    // "Encoded query strings": dates and times in a query are in UTC, in the form yyyy-MM-dd HH:mm:ss.
    for value in
        ["2026-03-01 10:00:00", "2026-03-01T10:00:00Z", "2026-03-01 12:00:00+02", "2026-03-01T04:30:00.000-05:30"]
    {
        for text in ["f=2026-03-01 10:00:00", "f>=2026-03-01 00:00:00", "f<2026-10-01", "f<=2026-03-01T10:00:00Z"] {
            assert!(utc(text, value) && zoned(text, "Asia/Tokyo", value), "{text} {value}");
        }
        for text in ["f>2026-03-01 10:00:00", "f!=2026-03-01 10:00:00", "f<2026-03-01", "fBETWEEN2026-03-02@2026-03-03"]
        {
            assert!(!utc(text, value), "{text} {value}");
        }
    }
    assert!(utc("f>2026-03-01 10:00:00", "2026-03-01 10:00:00.000001"), "to the last digit");
    assert!(utc("f=2026-03-01", "2026-03-01") && utc("f>2026-02-28", "2026-03-01"));
    // What is no date is a text, and so is what only looks like one.
    assert!(utc("f>2026-03-01", "tomorrow") && utc("f=2026-13-01", "2026-13-01") && utc("f>2026-03-01", "2026-03-0x"));
}

#[test]
fn the_dates_of_the_condition_builder_are_reckoned_from_the_change() {
    // "GlideSystem API": the methods on dates; the change is of Wednesday 2026-03-04, 10:30:15.5.
    for (function, from, to) in [
        (
            "Today@javascript:gs.daysAgoStart(0)@javascript:gs.daysAgoEnd(0)",
            "2026-03-04 00:00:00",
            "2026-03-04 23:59:59.9",
        ),
        (
            "Today@javascript:gs.beginningOfToday()@javascript:gs.endOfToday()",
            "2026-03-04 00:00:00",
            "2026-03-04 23:59:59",
        ),
        (
            "Yesterday@javascript:gs.daysAgoStart(1)@javascript:gs.daysAgoEnd(1)",
            "2026-03-03 00:00:00",
            "2026-03-03 23:59:59",
        ),
        (
            "Tomorrow@javascript:gs.daysAgoStart(-1)@javascript:gs.daysAgoEnd(-1)",
            "2026-03-05 00:00:00",
            "2026-03-05 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfThisWeek()@javascript:gs.endOfThisWeek()",
            "2026-03-02 00:00:00",
            "2026-03-08 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfLastWeek()@javascript:gs.endOfLastWeek()",
            "2026-02-23 00:00:00",
            "2026-03-01 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfNextWeek()@javascript:gs.endOfNextWeek()",
            "2026-03-09 00:00:00",
            "2026-03-15 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfThisMonth()@javascript:gs.endOfThisMonth()",
            "2026-03-01 00:00:00",
            "2026-03-31 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfLastMonth()@javascript:gs.endOfLastMonth()",
            "2026-02-01 00:00:00",
            "2026-02-28 23:59:59",
        ),
        (
            "x@javascript:gs.monthsAgoStart(3)@javascript:gs.endOfThisMonth()",
            "2025-12-01 00:00:00",
            "2026-03-31 23:59:59",
        ),
        (
            "x@javascript:gs.quartersAgoStart(1)@javascript:gs.quartersAgoEnd(1)",
            "2025-10-01 00:00:00",
            "2025-12-31 23:59:59",
        ),
        (
            "x@javascript:gs.quartersAgoStart(-1)@javascript:gs.quartersAgoEnd(-2)",
            "2026-04-01 00:00:00",
            "2026-09-30 23:59:59",
        ),
        (
            "x@javascript:gs.beginningOfLastYear()@javascript:gs.endOfThisYear()",
            "2025-01-01 00:00:00",
            "2026-12-31 23:59:59",
        ),
        ("x@javascript:gs.daysAgoStart(7)@javascript:gs.daysAgoEnd(0)", "2026-02-25 00:00:00", "2026-03-04 23:59:59"),
        ("x@javascript:gs.hoursAgoStart(1)@javascript:gs.hoursAgoEnd(1)", "2026-03-04 09:00:00", "2026-03-04 09:59:59"),
        ("x@javascript:gs.hoursAgo(2)@javascript:gs.hoursAgo(0)", "2026-03-04 08:30:15.5", "2026-03-04 10:30:15.5"),
        (
            "x@javascript:gs.minutesAgoStart(15)@javascript:gs.minutesAgoEnd(0)",
            "2026-03-04 10:15:00",
            "2026-03-04 10:30:59",
        ),
        (
            "x@javascript:gs.dateGenerate('2026-03-01','start')@javascript:gs.dateGenerate('2026-03-01','end')",
            "2026-03-01 00:00:00",
            "2026-03-01 23:59:59",
        ),
        (
            "x@javascript:gs.dateGenerate(\"2026-03-01\", '12:00:00')@2026-03-02",
            "2026-03-01 12:00:00",
            "2026-03-02 00:00:00",
        ),
    ] {
        let (on, not_on) = (format!("fON{function}"), format!("fNOTON{function}"));
        let (_, range) = function.split_once('@').unwrap();
        let between = format!("fBETWEEN{range}");
        for within in [from, to] {
            assert!(utc(&on, within) && !utc(&not_on, within) && utc(&between, within), "{on} {within}");
        }
        let (before, after) = (format!("f<{from}"), format!("f>{to}"));
        for outside in ["1999-01-01", "2031-01-01", "soon"] {
            assert!(!utc(&on, outside) && utc(&not_on, outside), "{on} {outside}");
        }
        let [second_before, second_after] = [(from, -1), (to, 1)].map(|(edge, second)| {
            let edge: Timestamp = format!("{edge}Z").parse().unwrap();
            (edge + jiff::SignedDuration::from_secs(second)).to_string()
        });
        assert!(utc(&before, &second_before) && utc(&after, &second_after), "the test itself");
        assert!(!utc(&on, &second_before) && !utc(&on, &second_after), "{on} {second_before} {second_after}");
    }
    assert!(
        utc("f<=javascript:gs.nowDateTime()", "2026-03-04 10:30:15.5")
            && utc("f>javascript:gs.yesterday()", "2026-03-03 10:30:16")
    );
    assert!(!utc("f<javascript:gs.nowNoTZ()", "soon") && utc("f!=javascript:gs.nowNoTZ()", "soon"), "no date");
}

#[test]
fn days_and_longer_parts_are_those_of_the_time_zone() {
    // "Operators available for filters and queries": such dates are those of the user's time zone.
    let today = "fONToday@javascript:gs.daysAgoStart(0)@javascript:gs.daysAgoEnd(0)";
    for (zone, from, to) in [
        ("Europe/Berlin", "2026-03-03 23:00:00", "2026-03-04 22:59:59"),
        ("America/New_York", "2026-03-04 05:00:00", "2026-03-05 04:59:59"),
        ("Asia/Kathmandu", "2026-03-03 18:15:00", "2026-03-04 18:14:59"),
    ] {
        assert!(zoned(today, zone, from) && zoned(today, zone, to), "{zone}");
        let outside = |value: &str, seconds| {
            let at: Timestamp = format!("{value}Z").parse().unwrap();
            (at + jiff::SignedDuration::from_secs(seconds)).to_string()
        };
        assert!(!zoned(today, zone, &outside(from, -1)) && !zoned(today, zone, &outside(to, 1)), "{zone}");
        // A day without a time is that day wherever it is asked for.
        assert!(
            zoned(today, zone, "2026-03-04") && !zoned(today, zone, "2026-03-03") && !zoned(today, zone, "2026-03-05")
        );
        let generated = "f>=javascript:gs.dateGenerate('2026-03-04','start')";
        assert!(zoned(generated, zone, from) && !zoned(generated, zone, &outside(from, -1)), "{zone}");
    }
    assert!(zoned("fDATEPARTx@javascript:gs.datePart('hour','0','EE')", "Asia/Tokyo", "2026-03-03 15:30:00Z"));
}

#[test]
fn relative_dates_are_so_far_from_the_change() {
    // "Operators available for filters and queries": RELATIVEGT and its kin; @unit@ago or ahead@n.
    for (text, value, expected) in [
        ("fRELATIVEGT@hour@ago@1", "2026-03-04 09:30:16", true),
        ("fRELATIVEGT@hour@ago@1", "2026-03-04 09:30:15.5", false),
        ("fRELATIVEGE@hour@ago@1", "2026-03-04 09:30:15.5", true),
        ("fRELATIVELT@minute@ahead@30", "2026-03-04 11:00:15", true),
        ("fRELATIVELE@minute@ahead@30", "2026-03-04 11:00:15.6", false),
        ("fRELATIVELT@dayofweek@ago@7", "2026-02-25 10:30:15", true),
        ("fRELATIVELT@day@ago@7", "2026-02-25 10:30:16", false),
        ("fRELATIVEGT@month@ago@1", "2026-02-04 10:30:16", true),
        ("fRELATIVEGT@quarter@ahead@1", "2026-06-04 10:30:15", false),
        ("fRELATIVEGT@year@ago@100000", "2026-06-04 10:30:15", false),
        // On a day is within that day.
        ("fRELATIVEEE@dayofweek@ago@2", "2026-03-02 00:00:00", true),
        ("fRELATIVEEE@dayofweek@ago@2", "2026-03-03 00:00:00", false),
        ("fRELATIVEEE@hour@ago@1", "2026-03-04 09:59:59", true),
    ] {
        assert_eq!(utc(text, value), expected, "{text} {value}");
    }
}

#[test]
fn parts_of_dates_are_asked_for() {
    // "Operators available for filters and queries": DATEPART, and gs.datePart's EE, LT, LE, GT and GE.
    for (part, value, expected) in [
        ("'dayofweek','wednesday','EE'", "2026-03-04 10:00:00", true),
        ("'dayofweek','monday','EE'", "2026-03-04", false),
        ("'month','mar','EE'", "2026-03-31 23:59:59", true),
        ("'month','march','LT'", "2026-02-01", true),
        ("'month','may','GE'", "2026-05-01", true),
        ("'quarter','1','EE'", "2026-03-04", true),
        ("'quarter','1','GT'", "2026-03-04", false),
        ("'year','2026','LE'", "2026-12-31 23:59:59", true),
        ("'hour','12','EE'", "2026-03-04 12:59:59", true),
        ("'hour','12','LT'", "2026-03-04 12:00:00", false),
        ("'hour','12','EE'", "noon", false),
    ] {
        assert_eq!(utc(&format!("fDATEPARTx@javascript:gs.datePart({part})"), value), expected, "{part} {value}");
    }
}

#[test]
fn two_dates_are_within_one_part_of_time_or_so_far_apart() {
    // "Operators available for filters and queries": SAMEAS of dates, MORETHAN and LESSTHAN.
    let pair = |text: &str, a, b| verdict(text, &[("a", Value::Text(a)), ("b", Value::Text(b))]) == Verdict::Fits;
    let (morning, evening, next) = ("2026-03-04 08:00:00", "2026-03-04T20:00:00Z", "2026-03-05 09:00:00");
    assert!(pair("aSAMEASb@day", morning, evening) && !pair("aSAMEASb", morning, evening));
    assert!(
        !pair("aSAMEASb@day", morning, next)
            && pair("aNSAMEASb@day", morning, next)
            && pair("aSAMEASb@week", morning, next)
    );
    assert!(!pair("aSAMEASb@hour", morning, evening) && pair("aSAMEASb@quarter", "2026-01-01", next));
    assert!(!pair("aSAMEASb@day", morning, "soon") && pair("aNSAMEASb@day", morning, "soon"));
    for (text, a, b, expected) in [
        ("aMORETHANb@day@before@1", morning, next, true),
        ("aMORETHANb@day@before@1", evening, next, false),
        ("aMORETHANb@day@after@1", morning, next, false),
        ("aMORETHANb@day@after@1", next, morning, true),
        ("aMORETHANb@hour@before or after@12", evening, morning, false),
        ("aMORETHANb@hour@before or after@11", evening, morning, true),
        ("aLESSTHANb@day@before@1", evening, next, true),
        ("aLESSTHANb@day@before@1", morning, next, false),
        ("aLESSTHANb@day@before@1", next, evening, false),
        ("aLESSTHANb@month@before or after@1", next, evening, true),
        ("aMORETHANb@day@before@1", morning, "soon", false),
    ] {
        assert_eq!(pair(text, a, b), expected, "{text} {a} {b}");
    }
}

#[test]
fn a_change_that_is_read_again_is_decided_again_the_same() {
    let filter = parse("fONToday@javascript:gs.daysAgoStart(0)@javascript:gs.daysAgoEnd(0)");
    let row = row(&[("f", Value::Text("2026-03-04 08:00:00"))]);
    let places = filter.places(row.columns());
    let at =
        |at: &str| filter.test(&Seen { row: &row, places: &places, before: Before::Unknown, at: at.parse().unwrap() });
    assert_eq!((at("2026-03-04T23:00:00Z"), at("2026-03-05T00:00:00Z")), (Verdict::Fits, Verdict::FitsNot));
}

proptest! {
    #[test]
    fn a_part_of_time_contains_its_instants_and_ends_where_the_next_begins(
        seconds in -2_000_000_000..4_000_000_000_i64, nanos in 0..1_000_000_000_i32,
        zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]),
        unit in prop::sample::select(vec!["minutes", "hours", "days", "weeks", "months", "quarters", "years"]),
    ) {
        let at = Timestamp::new(seconds, nanos).unwrap();
        let verdict = |text: String| {
            let filter = Filter::parse(&text, TimeZone::get(zone).unwrap()).unwrap();
            let row = row(&[("f", Value::Text(&at.to_string()))]);
            let places = filter.places(row.columns());
            filter.test(&Seen { row: &row, places: &places, before: Before::Unknown, at })
        };
        let part = |count: i32| format!("javascript:gs.{unit}AgoStart({count})@javascript:gs.{unit}AgoEnd({count})");
        prop_assert_eq!(verdict(format!("fBETWEEN{}", part(0))), Verdict::Fits);
        prop_assert_eq!(verdict(format!("fBETWEEN{}", part(1))), Verdict::FitsNot);
        prop_assert_eq!(verdict(format!("fBETWEEN{}", part(-1))), Verdict::FitsNot);
        let around = format!("javascript:gs.{unit}AgoEnd(1)@javascript:gs.{unit}AgoStart(-1)");
        prop_assert_eq!(verdict(format!("fBETWEEN{around}")), Verdict::Fits);
    }
}
