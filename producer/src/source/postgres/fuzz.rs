//! What the fuzzer holds against the decoder and what it feeds: an input is a sequence of events of the stream.
//!
//! Each event is a letter, the length of its content as a byte pair (big-endian), and the content: `B` begins a
//! transaction, `C` commits it, `S` is a session message with the content as its text, `W` watches the tables again,
//! and any other letter is a `pgoutput` message of that tag.

use std::sync::Arc;

use pgwire_replication::Lsn;
use pgwire_replication::client::ReplicationEvent;

use super::assemble::Assembler;
use super::pgoutput::decode;
use super::queue::Queue;
use super::table::Table;
use crate::source::{PollLimit, SessionRule};

/// Decodes an input, and lets the assembler make changes of it; returns whether every event was taken.
///
/// # Panics
/// When versions do not grow, or anything does what it must not: that is the finding.
pub fn run(input: &[u8]) -> bool {
    let _ = decode(input);
    let (mut assembler, mut queue) = (Assembler::new(1, Some(rule())), Queue::default());
    assembler.watch(tables());
    let (mut rest, mut lsn) = (input, 0_u64);
    while let Some((tag, content, after)) = event(rest) {
        rest = after;
        lsn += 8;
        let event = match tag {
            b'B' => ReplicationEvent::Begin { final_lsn: Lsn(lsn), xid: 1, commit_time_micros: number(content) },
            b'C' => ReplicationEvent::Commit { lsn: Lsn(lsn), end_lsn: Lsn(lsn + 1), commit_time_micros: 0 },
            b'S' => ReplicationEvent::Message {
                transactional: true,
                lsn: Lsn(lsn),
                prefix: "syncline".to_owned(),
                content: content.to_vec().into(),
            },
            b'W' => {
                assembler.watch(tables());
                continue;
            }
            tag => {
                let data = [&[tag], content].concat();
                let (wal_start, wal_end) = (Lsn(lsn), Lsn(lsn));
                ReplicationEvent::XLogData { wal_start, wal_end, server_time_micros: 0, data: data.into() }
            }
        };
        if assembler.take(event, &mut queue).is_err() {
            return false;
        }
    }
    let mut last = None;
    for change in queue.take(PollLimit { changes: usize::MAX, bytes: usize::MAX }).changes {
        assert!(!change.key.columns().is_empty(), "a change without a key");
        assert!(last < Some(change.version), "a version that is not newer");
        last = Some(change.version);
    }
    rest.is_empty()
}

/// The next event's letter, its content, and what comes after it.
fn event(rest: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = rest.split_at_checked(3)?;
    let [tag, high, low] = head.try_into().ok()?;
    let (content, after) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
    Some((tag, content, after))
}

/// The first eight bytes, or zero.
fn number(content: &[u8]) -> i64 {
    content.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes))
}

fn rule() -> SessionRule {
    let (user_column, background) = ("sys_updated_by".to_owned(), vec!["job*".to_owned()]);
    SessionRule { user_column, background }
}

fn tables() -> Vec<Arc<Table>> {
    let table = |oid, partitioned| Table::plain(&format!("item{oid}"), oid, &["id"], partitioned);
    vec![Arc::new(table(7, false)), Arc::new(table(8, true))]
}

#[test]
fn every_seed_of_pgoutput_passes() {
    crate::replay::replay("pgoutput", run);
}
