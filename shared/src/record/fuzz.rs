//! What the fuzzer holds against the line format: an input is a batch's plaintext.

use super::{key_id, partition_of, read_lines, write_line};

/// Reads an input, and what it wrote of the records it read; returns whether the input was records.
///
/// # Panics
/// When a record changed on the way, or reading does what it must not: that is the finding.
pub fn run(input: &[u8]) -> bool {
    let Ok(records) = read_lines(input) else { return false };
    let mut written = Vec::new();
    for record in &records {
        write_line(&mut written, &record.key, record.version, record.at, record.data.as_ref(), record.partial);
        assert!(partition_of("source", "table", &record.key, 8) < 8);
        let _ = key_id("source", "table", &record.key);
    }
    assert!(read_lines(&written).is_ok_and(|again| again == records), "other records came back");
    true
}

#[test]
fn every_seed_of_record_passes() {
    crate::replay::replay("record", run);
}
