//! The look that a connected source takes at its database every few seconds.

use std::sync::Arc;

use tokio_postgres::Client;

use super::connect::Settings;
use super::follow::follow;
use super::state::State;
use super::table::{Job, Table};
use crate::source::{Retained, SourceError};

/// What a look at the database found.
pub(super) struct Looked {
    pub(super) tables: Vec<Arc<Table>>,
    pub(super) jobs: Vec<Job>,
    pub(super) log: Log,
}

/// The end of the log, and up to where the server knows it to be safe elsewhere.
pub(super) struct Log {
    pub(super) end: u64,
    pub(super) confirmed: u64,
    /// What the server keeps of it for the slot.
    pub(super) retained: Retained,
}

/// Looks for tables that appeared and for the end of the log.
pub(super) async fn look(settings: Arc<Settings>, sql: Arc<Client>) -> Result<Looked, SourceError> {
    let state = State::read(&settings, &sql).await?;
    let (tables, jobs) = follow(&settings, &sql, &state, false).await?;
    Ok(Looked { tables, jobs, log: look_at_log(&settings, &sql).await? })
}

/// Looks for the end of the log, and whether the server still knows of the stream.
pub(super) async fn look_at_log(settings: &Settings, sql: &Client) -> Result<Log, SourceError> {
    let query = "SELECT (pg_current_wal_lsn() - '0/0')::int8, (confirmed_flush_lsn - '0/0')::int8, active,
            (pg_current_wal_lsn() - restart_lsn)::int8, safe_wal_size
        FROM pg_replication_slots WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&settings.slot]).await;
    let row = row.map_err(|error| settings.failed("looking at the log", &error))?;
    // A stream may be cut where this end does not hear of it.
    let row = row.filter(|row| row.get(2)).ok_or_else(|| settings.unreachable("the server ended the stream"))?;
    let bytes = |index| row.get::<_, Option<i64>>(index).map(|bytes| u64::try_from(bytes).unwrap_or_default());
    let retained = Retained { bytes: bytes(3).unwrap_or_default(), room_bytes: bytes(4) };
    Ok(Log { end: bytes(0).unwrap_or_default(), confirmed: bytes(1).unwrap_or_default(), retained })
}
