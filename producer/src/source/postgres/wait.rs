//! A slot is complete only when every transaction of the whole server that was open before it has ended. Whoever waits
//! for one is told what for.

use std::time::Duration;

use super::connect::Settings;
use crate::source::SourceError;

/// A wait shorter than this is nothing to speak of; a longer one is told as often.
const PATIENCE: Duration = Duration::from_secs(5);

/// Open transactions of all databases, prepared ones too, and the seconds since the oldest began, where this role may know
/// that. Their statements are nobody's business here.
const OPEN: &str = "SELECT
    (SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted),
    (SELECT extract(epoch FROM now() - min(xact_start))::int8 FROM pg_stat_activity WHERE backend_xid IS NOT NULL)";

/// Makes a slot, and logs what it waits for meanwhile.
pub(super) async fn for_slot<T>(
    settings: &Settings,
    making: impl Future<Output = Result<T, SourceError>>,
) -> Result<T, SourceError> {
    tokio::select! {
        made = making => made,
        never = tell(settings) => match never {},
    }
}

async fn tell(settings: &Settings) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(PATIENCE).await;
        // What cannot be told now may be told next time; the slot is what matters.
        let Ok(sql) = settings.sql().await else { continue };
        let Ok(row) = sql.query_one(OPEN, &[]).await else { continue };
        tracing::info!(
            source = settings.source,
            transactions = row.get::<_, i64>(0),
            oldest_seconds = row.get::<_, Option<i64>>(1),
            "waiting for open transactions, of any database of the server, to end"
        );
    }
}
