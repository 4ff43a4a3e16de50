//! What becomes of a batch that is larger than the broker takes: two halves, or a dead letter of its one record.
//!
//! A configuration has room for every batch, so this is for a broker that takes less than it says. Order is kept: the
//! halves go where the batch stood. CPU-bound.

use syncline_shared::envelope::Envelope;
use syncline_shared::queue::Reason;
use syncline_shared::record::{Record, key_id, read_lines, write_line};
use syncline_shared::seal::{Keyring, OpenLimits, Seal, open};

use crate::batch::Ticket;
use crate::publish::{Job, SetAside};

/// The lines of a batch this process sealed itself; `None` when it does not open, which cannot be.
pub(crate) fn reopen(seal: &Seal, envelope: &Envelope, plain_bytes: usize) -> Option<Vec<u8>> {
    let mut keyring = Keyring::default();
    if let Seal::Key(key) = seal {
        keyring.insert(key.clone());
    }
    open(&keyring, envelope, OpenLimits { plain_bytes_max: plain_bytes, accept_unsealed: true }).ok()
}

/// Makes smaller batches of one whose message had `bytes` where the broker takes `bytes_max`; `None` when there is none.
pub(crate) fn smaller(job: Job, bytes: usize, bytes_max: usize) -> Option<Vec<Job>> {
    match job.route.records {
        _ if job.set_aside.is_some() => None,
        0 | 1 => set_aside(job, bytes, bytes_max).map(|job| vec![job]),
        records => Some(halves(job, records / 2)),
    }
}

/// A dead letter of a record that is too large: its key and version, and what was wrong with it.
fn set_aside(job: Job, bytes: usize, bytes_max: usize) -> Option<Job> {
    let Record { key, version, at, .. } = read_lines(&job.ndjson).ok()?.into_iter().next()?;
    let id = key_id(&job.route.source, &job.route.table, &key);
    let table = &job.route.table;
    let error = format!("record of table {table}, key id {id:016x}: a message of {bytes} bytes, at most {bytes_max}");
    tracing::error!(error, "a record is set aside: it is too large to send");
    let mut ndjson = Vec::new();
    write_line(&mut ndjson, &key, version, at, None, true);
    Some(Job { ndjson, set_aside: Some(SetAside { reason: Reason::Oversize, error }), ..job })
}

fn halves(job: Job, first: u32) -> Vec<Job> {
    let ends = job.ndjson.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let cut = ends.take(first as usize).last().unwrap_or_default();
    let (head, tail) = job.ndjson.split_at(cut);
    let (head_tickets, tail_tickets) = split_tickets(&job.tickets, first);
    let (head_notes, tail_notes) = job.notes.split(first);
    let part = |ndjson: &[u8], records: u32, tickets, notes| {
        let mut route = job.route.clone();
        route.records = records;
        Job {
            queue: job.queue.clone(),
            seal: job.seal.clone(),
            route,
            partial: job.partial,
            ndjson: ndjson.to_vec(),
            tickets,
            metrics: job.metrics.clone(),
            notes,
            traces: job.traces.clone(),
            set_aside: None,
        }
    };
    vec![part(head, first, head_tickets, head_notes), part(tail, job.route.records - first, tail_tickets, tail_notes)]
}

/// The tickets of the first records, and of the others. Tickets are in the order of the records.
fn split_tickets(tickets: &[Ticket], mut first: u32) -> (Vec<Ticket>, Vec<Ticket>) {
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    for Ticket { poll, records } in tickets {
        let taken = first.min(*records);
        first -= taken;
        for (list, records) in [(&mut head, taken), (&mut tail, records - taken)] {
            if records > 0 {
                list.push(Ticket { poll: *poll, records });
            }
        }
    }
    (head, tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_split_where_their_records_are() {
        let tickets = [(1, 2), (2, 3), (3, 1)].map(|(poll, records)| Ticket { poll, records });
        let told = |first| {
            let (head, tail) = split_tickets(&tickets, first);
            let list = |tickets: Vec<Ticket>| tickets.iter().map(|one| (one.poll, one.records)).collect::<Vec<_>>();
            (list(head), list(tail))
        };
        assert_eq!(told(3), (vec![(1, 2), (2, 1)], vec![(2, 2), (3, 1)]));
        assert_eq!(told(2), (vec![(1, 2)], vec![(2, 3), (3, 1)]));
        assert_eq!(told(0), (vec![], vec![(1, 2), (2, 3), (3, 1)]));
    }
}
