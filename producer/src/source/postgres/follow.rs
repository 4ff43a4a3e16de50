//! Which tables are read, and what must be copied first: the watched tables as they are, against what is remembered of
//! them.
//!
//! A table is known by its oid and its key. One of another oid or key under the same name is another table, whose records
//! have nothing to do with those that were sent.

use std::sync::Arc;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::connect::Settings;
use super::state::{Followed, State, Truncated};
use super::table::{Found, Job, Place, Table, look_up};
use super::values::identifier;
use crate::source::{OnTruncate, SourceError, WatchedTable};

/// How long the stream is held up at most to add a table to the publication.
const LOCK_PATIENCE: &str = "2s";

/// Looks all watched tables up, puts those that appeared into the publication, and says what is to be copied.
///
/// A table that was awaited, or made anew or left out since it was followed last, is copied for everyone: the rows
/// written before the publication had it are in no stream. The first call of a connection logs missing tables again.
pub(super) async fn follow(
    settings: &Settings,
    sql: &Client,
    state: &State,
    first: bool,
) -> Result<(Vec<Arc<Table>>, Vec<Job>), SourceError> {
    let found = look_up(settings, sql).await?;
    let (mut tables, mut jobs) = (Vec::new(), Vec::new());
    for (watched, found) in settings.tables.iter().zip(found) {
        let name = &watched.table;
        let followed = state.followed(name);
        match found {
            Found::Unfit(problem) => return Err(problem),
            Found::Missing => tables.extend(missing(settings, sql, watched, followed, first).await?.map(Arc::new)),
            Found::Fit(mut table) => {
                if let Some(Truncated { place, passed }) = state.truncated(name) {
                    if !passed && watched.on_truncate == OnTruncate::Pause {
                        return Err(truncated(settings, name));
                    }
                    table.emptied = Some(place);
                }
                if let Some(job) = fit(settings, sql, state, watched, &mut table, followed).await? {
                    jobs.push(Job { table: Arc::new(table.clone()), ..job });
                }
                if table.published {
                    tables.push(Arc::new(table));
                }
            }
        }
    }
    Ok((tables, jobs))
}

/// Brings what is remembered of a table, and the publication, in step with the table; what of it is to be copied.
async fn fit(
    settings: &Settings,
    sql: &Client,
    state: &State,
    watched: &WatchedTable,
    table: &mut Table,
    followed: Option<Followed>,
) -> Result<Option<Job>, SourceError> {
    let name = &watched.table;
    let mut followed = followed.unwrap_or_else(|| Followed::of(table));
    if let Some(problem) = followed.differs(table) {
        match watched.on_truncate {
            OnTruncate::Pause => return Err(stopped(settings, &problem)),
            OnTruncate::Ignore => {
                tracing::warn!(source = settings.source, table = &**name, "{problem}; all its rows are copied");
                followed = Followed::default();
            }
        }
    } else if followed.oid.is_some() && !table.published && state.followed(name).is_some() {
        // Taken out of the publication by hand.
        followed = Followed::default();
    }
    followed.missing = false;
    // Before anything is done, so that a crash does not forget the copy.
    if state.followed(name).as_ref() != Some(&followed) {
        State::put_followed(settings, sql, name, &followed).await?;
    }
    if !table.published {
        table.published = publish(settings, sql, table).await?;
        if !table.published {
            State::put_followed(settings, sql, name, &Followed::default()).await?;
            return Ok(None);
        }
    }
    let everyone = followed.oid.is_none();
    table.copied_to = if everyone { u64::MAX } else { followed.copied_to };
    let copied = |share: &&Arc<str>| state.is_copied(name, share);
    let shares: Vec<_> = watched.copy_for.iter().filter(|share| everyone || !copied(share)).cloned().collect();
    let job = Job { table: Arc::new(table.clone()), shares, everyone, copied_to: 0 };
    Ok((everyone || !job.shares.is_empty()).then_some(job))
}

/// Waits for a table. What the log still has of the one that was there is reported.
async fn missing(
    settings: &Settings,
    sql: &Client,
    watched: &WatchedTable,
    followed: Option<Followed>,
    first: bool,
) -> Result<Option<Table>, SourceError> {
    let name = &watched.table;
    let known = followed.clone().unwrap_or_default();
    if first || !known.missing {
        tracing::warn!(source = settings.source, table = &**name, "the table does not exist, waiting for it");
    }
    let awaited = Followed { missing: true, ..known.clone() };
    if followed.as_ref() != Some(&awaited) {
        State::put_followed(settings, sql, name, &awaited).await?;
    }
    Ok(known.oid.map(|oid| Table {
        name: Arc::clone(name),
        oid,
        sql_name: identifier(name),
        partitioned: false,
        key: known.key,
        columns: Vec::new(),
        named: Vec::new(),
        published: true,
        keeps_before: false,
        on_truncate: watched.on_truncate,
        emptied: None,
        copied_to: known.copied_to,
    }))
}

/// Remembers a `TRUNCATE` that the source pauses at.
pub(super) async fn stop_at(settings: &Settings, sql: &Client, table: &str, place: Place) -> SourceError {
    match State::put_truncated(settings, sql, table, &Truncated { place, passed: false }).await {
        Ok(()) => truncated(settings, table),
        Err(error) => error,
    }
}

fn truncated(settings: &Settings, table: &str) -> SourceError {
    stopped(settings, &format!("the table {table} was truncated"))
}

/// All records of a table are gone, and only a person can remove them from the targets.
pub(super) fn stopped(settings: &Settings, problem: &str) -> SourceError {
    SourceError::Unfit {
        problem: format!("{problem}, so its old records stay in the targets"),
        mend: format!("remove them there once its queues are empty, then: syncline source resume {}", settings.source),
    }
}

/// Lets a paused source go on past tables whose old records somebody removed from the targets; their names.
pub(super) async fn resume(settings: &Settings, sql: &Client) -> Result<Vec<Arc<str>>, SourceError> {
    let state = if State::exists(settings, sql).await? { State::read(settings, sql).await? } else { State::default() };
    let mut resumed = Vec::new();
    for (watched, found) in settings.tables.iter().zip(look_up(settings, sql).await?) {
        let name = &watched.table;
        let stopped = state.truncated(name).filter(|truncated| !truncated.passed);
        if let Some(Truncated { place, .. }) = stopped {
            State::put_truncated(settings, sql, name, &Truncated { place, passed: true }).await?;
        }
        let other = match &found {
            Found::Fit(table) => state.followed(name).is_some_and(|followed| followed.differs(table).is_some()),
            Found::Missing | Found::Unfit(_) => false,
        };
        if other {
            State::put_followed(settings, sql, name, &Followed::default()).await?;
        }
        if other || stopped.is_some() {
            resumed.push(Arc::clone(name));
        }
    }
    Ok(resumed)
}

/// Adds a table to the publication; `false` when it is locked (by a vacuum, say), to be tried again later rather than
/// hold up all other tables.
async fn publish(settings: &Settings, sql: &Client, table: &Table) -> Result<bool, SourceError> {
    let doing = "adding a table to the publication";
    let publication = identifier(&settings.publication);
    // Both statements are one transaction, so the patience ends with it.
    let statement = format!(
        "SET LOCAL lock_timeout = '{LOCK_PATIENCE}'; ALTER PUBLICATION {publication} ADD TABLE {}",
        table.own_rows()
    );
    let added = sql.batch_execute(&statement).await;
    let name = &*table.name;
    match added {
        Ok(()) => {
            tracing::info!(source = settings.source, table = name, "the table is in the publication");
            Ok(true)
        }
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => {
            tracing::warn!(source = settings.source, table = name, "the table is locked, waiting for it");
            Ok(false)
        }
        Err(error) => Err(settings.failed(doing, &error)),
    }
}
