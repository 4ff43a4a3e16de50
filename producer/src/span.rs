//! Begins the span of a batch: when its oldest record was committed, from the batch itself. Pure but for the clock.

use jiff::Timestamp;
use syncline_shared::envelope::Envelope;
use syncline_shared::record::read_lines;
use syncline_shared::traces::{Publishing, Traces};

/// Begins the span of a sealed batch, whose lines these are; its context goes into the envelope.
pub(crate) fn begin(traces: &Traces, queue: &str, envelope: &mut Envelope, ndjson: &[u8]) -> Publishing {
    traces.publishing(queue, envelope, committed_at(ndjson).unwrap_or_else(Timestamp::now))
}

/// When the first record was committed: records are in the order of their changes.
fn committed_at(ndjson: &[u8]) -> Option<Timestamp> {
    let first = ndjson.split_inclusive(|byte| *byte == b'\n').next()?;
    Some(read_lines(first).ok()?.first()?.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_as_old_as_its_first_record() {
        let line = |at: &str| format!("{{\"key\":{{\"id\":1}},\"version\":\"{:032x}\",\"at\":\"{at}\"}}\n", 7);
        let [first, second] = ["2026-11-22T08:15:30.123456Z", "2026-11-22T08:15:31Z"].map(line);
        let at = committed_at(format!("{first}{second}").as_bytes());
        assert_eq!(at.map(|at| at.to_string()).as_deref(), Some("2026-11-22T08:15:30.123456Z"));
        assert_eq!(committed_at(b""), None);
    }
}
