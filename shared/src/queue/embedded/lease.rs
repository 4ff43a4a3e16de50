//! Who receives a partition: the longest attached subscriber whose lease is alive.
//!
//! A lease is a row of the file that its process renews; when a process dies, the row expires and the next in line takes
//! over. All processes are on one machine and share its clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

use super::now_ms;

/// How long a partition waits for a consumer that died without saying so. Five missed renewals: long enough for a
/// machine that is busy, short enough for a person who watches.
const LEASE: Duration = Duration::from_secs(5);
/// How often leases are renewed.
pub(super) const LEASE_RENEWAL: Duration = Duration::from_secs(1);

/// One subscriber's place in the line for its partition.
#[derive(Debug)]
pub(super) struct Lease {
    /// Id of its row; the lowest living one of a partition is its consumer.
    pub(super) id: i64,
    /// Id of the partition.
    pub(super) partition: i64,
    lost: AtomicBool,
}

impl Lease {
    /// Whether the lease ran out and others may have taken over.
    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Puts a subscriber in line.
    pub(super) fn take(connection: &Connection, partition: i64, replica: &str) -> rusqlite::Result<i64> {
        connection
            .prepare_cached("INSERT INTO subscriber (partition, replica, expires_at) VALUES (?1, ?2, ?3)")?
            .execute(params![partition, replica, expires_at()])?;
        Ok(connection.last_insert_rowid())
    }

    /// Leaves the line.
    pub(super) fn release(connection: &Connection, id: i64) -> rusqlite::Result<()> {
        connection.prepare_cached("DELETE FROM subscriber WHERE id = ?1")?.execute([id])?;
        Ok(())
    }

    /// Whether it is this subscriber's turn, as far as a look at the file tells.
    pub(super) fn is_first(connection: &Connection, partition: i64, id: i64) -> rusqlite::Result<bool> {
        let first: Option<i64> = connection
            .prepare_cached("SELECT min(id) FROM subscriber WHERE partition = ?1 AND expires_at >= ?2")?
            .query_row(params![partition, now_ms()], |row| row.get(0))?;
        Ok(first == Some(id))
    }

    /// Becomes the partition's consumer when it is this subscriber's turn: puts those whose lease ran out off the line,
    /// and counts an attempt for every message that was handed out before and not settled.
    pub(super) fn take_over(connection: &Connection, partition: i64, id: i64) -> rusqlite::Result<bool> {
        if !Self::is_first(connection, partition, id)? {
            return Ok(false);
        }
        connection
            .prepare_cached("DELETE FROM subscriber WHERE partition = ?1 AND id < ?2")?
            .execute([partition, id])?;
        connection
            .prepare_cached(
                "UPDATE message SET attempts = attempts + 1
                 WHERE partition = ?1 AND id <= (SELECT handed_out FROM partition WHERE id = ?1)",
            )?
            .execute([partition])?;
        connection.prepare_cached("UPDATE partition SET handed_out = 0 WHERE id = ?1")?.execute([partition])?;
        Ok(true)
    }

    /// Takes a message off the queue, unless the subscriber has left the line: then another may have the message by now.
    pub(super) fn ack(connection: &Connection, id: i64, message: i64) -> rusqlite::Result<bool> {
        let taken = connection
            .prepare_cached("DELETE FROM message WHERE id = ?2 AND EXISTS (SELECT 1 FROM subscriber WHERE id = ?1)")?
            .execute([id, message])?;
        Ok(taken > 0)
    }

    /// Remembers that all messages up to this one were handed out, unless another subscriber has taken over.
    pub(super) fn handed_out(connection: &Connection, partition: i64, id: i64, upto: i64) -> rusqlite::Result<()> {
        connection
            .prepare_cached(
                "UPDATE partition SET handed_out = ?3 WHERE id = ?1 AND handed_out < ?3
                   AND ?2 = (SELECT min(id) FROM subscriber WHERE partition = ?1)",
            )?
            .execute([partition, id, upto])?;
        Ok(())
    }
}

fn expires_at() -> i64 {
    now_ms().saturating_add(i64::try_from(LEASE.as_millis()).unwrap_or(i64::MAX))
}

/// The leases of this process that are to be renewed.
#[derive(Debug, Default)]
pub(super) struct Leases(Mutex<Vec<Weak<Lease>>>);

impl Leases {
    /// Keeps a lease renewed for as long as its subscriber holds it.
    pub(super) fn hold(&self, id: i64, partition: i64) -> Arc<Lease> {
        let lease = Arc::new(Lease { id, partition, lost: AtomicBool::new(false) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&lease));
        lease
    }

    /// Those that are still held; forgets the others.
    pub(super) fn held(&self) -> Vec<Arc<Lease>> {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|lease| lease.strong_count() > 0);
        leases.iter().filter_map(Weak::upgrade).collect()
    }

    /// Renews them; one whose row is gone is lost.
    pub(super) fn renew(connection: &Connection, held: &[Arc<Lease>]) -> rusqlite::Result<()> {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // One transaction, and so one lock, for all of them.
        let writing = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
        let mut renew = writing.prepare_cached("UPDATE subscriber SET expires_at = ?2 WHERE id = ?1 RETURNING id")?;
        for lease in held {
            let renewed: Option<i64> = renew.query_row(params![lease.id, expires_at()], |row| row.get(0)).optional()?;
            if renewed.is_none() {
                lease.lost.store(true, Ordering::Release);
            }
        }
        drop(renew);
        writing.commit()
    }
}
