//! Repairs that somebody asks for, knowing what they cost. A running source never makes them by itself.

use syncline_shared::record::Version;
use tokio_postgres::Client;

use super::connect::Settings;
use super::setup::{self, Slot};
use super::state::State;
use crate::source::SourceError;

/// Gives up the slot with whatever it still holds, so that the next connection makes a new one, in a new epoch, and
/// copies every followed table for all its shares; returns the version everything sent from then on is newer than.
///
/// What was deleted in the gap is in no copy: at a target it is what still has an older version than the one returned
/// once the copies are there. A slot that lost nothing is given up only if `whole` says so. Idempotent: after a failure
/// in the middle the source is paused as before.
pub(super) async fn rebuild(settings: &Settings, sql: &Client, whole: bool) -> Result<Version, SourceError> {
    let state = if State::exists(settings, sql).await? { State::read(settings, sql).await? } else { State::default() };
    let Some(known) = state.epoch() else {
        return Err(SourceError::Unfit {
            problem: format!("the source {} was never started, so there is nothing to repair", settings.source),
            mend: "syncline producer".to_owned(),
        });
    };
    State::owns_slot(settings, sql).await?;
    let found = match setup::check_slot(settings, sql, &state).await {
        Ok(slot) => setup::check_publication(settings, sql, &state).await.map(|_| slot),
        Err(lost) => Err(lost),
    };
    match found {
        Err(SourceError::Gap { .. }) => {}
        Err(other) => return Err(other),
        Ok(_) if whole => {}
        Ok(Slot::Ready | Slot::Missing) => {
            return Err(SourceError::Unfit {
                problem: format!("the source {} lost nothing, a start goes on where it was", settings.source),
                mend: "syncline producer, or add --whole to send every record again".to_owned(),
            });
        }
    }
    let drop_slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1";
    let dropped = sql.execute(drop_slot, &[&settings.slot]).await;
    dropped.map_err(|error| settings.failed("dropping the replication slot", &error))?;
    let epoch = setup::next_epoch(Some(known.epoch));
    State::begin_anew(settings, sql, epoch).await?;
    Ok(Version::new(epoch, 0, 0))
}
