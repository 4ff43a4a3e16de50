//! What the fuzzer holds against filters: an input is a line with an encoded query, and then records as lines.

use syncline_shared::record::{Row, Value, read_lines};

use super::{Before, Filter, Places, Seen, Verdict};

/// Parses the query of an input and holds its records against it; returns whether both were understood.
///
/// # Panics
/// When a query that was written is not the one that was read, or either does what it must not: that is the finding.
pub fn run(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let (query, lines) = text.split_once('\n').unwrap_or((text, ""));
    let filter: Filter = match query.parse() {
        Ok(filter) => filter,
        Err(error) => {
            assert!(error.to_string().len() < 600, "an error of {} bytes", error.to_string().len());
            return false;
        }
    };
    assert_eq!(filter.to_string().parse().as_ref(), Ok(&filter), "another query came back");
    let Ok(records) = read_lines(lines.as_bytes()) else { return false };
    let mut last: Option<(&Row, Places)> = None;
    for (at, row) in records.iter().filter_map(|record| Some((record.at, record.data.as_ref()?))) {
        let places = filter.places(row.columns());
        let missing = filter.missing(&places);
        assert!(missing.is_none_or(|name| row.get(name).is_none()), "a column that is there is missed");
        let known = last.as_ref().map(|(row, places)| Before::Row(row, places));
        for before in [Some(Before::Same), Some(Before::Nothing), Some(Before::Unknown), known].into_iter().flatten() {
            let seen = Seen { row, places: &places, before, at };
            let verdict = filter.test(&seen);
            assert_eq!(verdict, filter.test(&seen), "one change, two verdicts");
            assert!(verdict != Verdict::Unknown || depends(&filter, &seen), "all is known, and no verdict");
        }
        last = Some((row, places));
    }
    true
}

/// Whether a change leaves anything open that the filter asks for.
fn depends(filter: &Filter, seen: &Seen<'_>) -> bool {
    let unknown = |row: &Row| filter.columns().any(|name| row.get(name).is_none_or(|value| value == Value::Unchanged));
    unknown(seen.row)
        || filter.asks_for_changes()
            && match seen.before {
                Before::Same | Before::Nothing => false,
                Before::Unknown => true,
                Before::Row(row, _) => unknown(row),
            }
}

#[test]
fn every_seed_of_filter_passes() {
    crate::replay::replay("filter", run);
}
