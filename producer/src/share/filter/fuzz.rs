//! What the fuzzer holds against filters: an input is a line with an encoded query, and then records as lines.

use syncline_shared::record::read_lines;

use super::Filter;

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
            assert!(error.to_string().len() < 400, "an error of {} bytes", error.to_string().len());
            return false;
        }
    };
    assert_eq!(filter.to_string().parse().as_ref(), Ok(&filter), "another query came back");
    let Ok(records) = read_lines(lines.as_bytes()) else { return false };
    for row in records.iter().filter_map(|record| record.data.as_ref()) {
        let places = filter.places(row.columns());
        let (verdict, missing) = (filter.test(row, &places), filter.missing(&places));
        assert!(missing.is_none_or(|name| row.get(name).is_none()), "a column that is there is missed");
        assert_eq!(verdict, filter.test(row, &places), "one row, two verdicts");
    }
    true
}

#[test]
fn every_seed_of_filter_passes() {
    crate::replay::replay("filter", run);
}
