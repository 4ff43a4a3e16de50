//! The decoder as the stream calls it, for micro-benchmarks alone.

use std::sync::Arc;

use pgwire_replication::Lsn;
use pgwire_replication::client::ReplicationEvent;

use super::assemble::Assembler;
use super::queue::Queue;
use super::table::Table;
use crate::source::{Change, PollLimit};

/// Decodes the row messages of one transaction, the relation's first, and makes changes of them. `table` has this key column
/// and the oid 7; what is malformed ends it early.
#[must_use]
pub fn changes(table: &str, key: &str, messages: Vec<Vec<u8>>) -> Vec<Change> {
    let (mut assembler, mut queue) = (Assembler::new(1, None), Queue::default());
    assembler.watch(vec![Arc::new(Table::plain(table, 7, &[key], false))]);
    let begin = ReplicationEvent::Begin { final_lsn: Lsn(8), xid: 1, commit_time_micros: 0 };
    let row = |data: Vec<u8>| {
        let (wal_start, wal_end) = (Lsn(8), Lsn(8));
        ReplicationEvent::XLogData { wal_start, wal_end, server_time_micros: 0, data: data.into() }
    };
    for event in std::iter::once(begin).chain(messages.into_iter().map(row)) {
        if assembler.take(event, &mut queue).is_err() {
            break;
        }
    }
    queue.take(PollLimit { changes: usize::MAX, bytes: usize::MAX }).changes
}
