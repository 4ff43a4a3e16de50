//! What a source makes and checks in its database before it reads: state, publication, slot, tables.
//!
//! The order matters. A table is in the publication before the slot is made, and the slot before any copy, so that
//! every change is in the stream or in the snapshot, and nothing falls between.

use std::sync::Arc;

use jiff::Timestamp;
use pgwire_replication::client::IdentifySystem;
use tokio_postgres::Client;

use super::Position;
use super::connect::Settings;
use super::follow::follow;
use super::state::{Epoch, State};
use super::table::{Found, Job, Table, look_up};
use super::values::identifier;
use super::wait;
use crate::source::{Checked, SourceError};

/// A database that is ready to be read.
pub(super) struct Prepared {
    /// The first part of every version.
    pub(super) epoch: u32,
    /// The watched tables that exist.
    pub(super) tables: Vec<Arc<Table>>,
    /// The copies that are still to be made.
    pub(super) jobs: Vec<Job>,
}

/// The replication slot as the server has it.
pub(super) enum Slot {
    Missing,
    Ready,
}

/// The publication as the server has it.
pub(super) enum Publication {
    Missing,
    /// It reports partitions by themselves.
    ByPartition,
    Ready,
}

/// Checks the database and makes what is missing. `resume` is where this process would go on.
pub(super) async fn prepare(
    settings: &Settings,
    sql: &Client,
    server: &IdentifySystem,
    resume: Option<Position>,
) -> Result<Prepared, SourceError> {
    check_wal_level(settings, sql).await?;
    State::ensure(settings, sql).await?;
    State::owns_slot(settings, sql).await?;
    let state = State::read(settings, sql).await?;
    let epoch = enter_epoch(settings, sql, &state, server, resume).await?;
    let slot = check_slot(settings, sql, &state).await?;
    State::forget_others(settings, sql).await?;
    ensure_publication(settings, sql, &state).await?;
    let (tables, jobs) = follow(settings, sql, &state, true).await?;
    if let Slot::Missing = slot {
        tracing::info!(
            source = settings.source,
            slot = settings.slot,
            "creating the slot once open transactions ended"
        );
        create_slot(settings, sql).await?;
    }
    if !state.knows_slot(&settings.slot) {
        State::put_slot(settings, sql).await?;
    }
    Ok(Prepared { epoch, tables, jobs })
}

/// Looks at everything the source needs, and makes nothing.
pub(super) async fn check(settings: &Settings, sql: &Client) -> Result<Checked, SourceError> {
    let Checked { mut problems, mut missing, mut columns, mut keys, mut without_before } = Checked::default();
    problems.extend(check_wal_level(settings, sql).await.err());
    problems.extend(check_rights(settings, sql).await?);
    let state = if State::exists(settings, sql).await? {
        problems.extend(State::owns_slot(settings, sql).await.err());
        State::read(settings, sql).await?
    } else {
        State::default()
    };
    match check_slot(settings, sql, &state).await {
        // A running producer holds the slot: that is no problem of the configuration.
        Ok(_) | Err(SourceError::Taken { .. }) => {}
        Err(problem) => problems.push(problem),
    }
    for (watched, found) in settings.tables.iter().zip(look_up(settings, sql).await?) {
        match found {
            Found::Unfit(problem) => problems.push(problem),
            Found::Missing => missing.push(Arc::clone(&watched.table)),
            Found::Fit(table) => {
                if !table.published {
                    problems.extend(check_owner(settings, sql, &table).await?);
                }
                if !table.keeps_before {
                    without_before.insert(Arc::clone(&watched.table), table.keep_before());
                }
                keys.insert(Arc::clone(&watched.table), table.key.clone());
                columns.insert(Arc::clone(&watched.table), columns_of(settings, sql, &table).await?);
            }
        }
    }
    Ok(Checked { problems, missing, columns, keys, without_before })
}

/// The columns the stream carries; generated ones are not among them.
async fn columns_of(settings: &Settings, sql: &Client, table: &Table) -> Result<Vec<String>, SourceError> {
    let query = "SELECT attname::text FROM pg_attribute
        WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attnum";
    let rows = sql.query(query, &[&table.oid]).await;
    let rows = rows.map_err(|error| settings.failed("reading the table's columns", &error))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn check_wal_level(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
    let row = sql.query_one("SELECT current_setting('wal_level')", &[]).await;
    let level: String = row.map_err(|error| settings.failed("reading wal_level", &error))?.get(0);
    if level == "logical" {
        return Ok(());
    }
    Err(SourceError::Unfit {
        problem: format!("the server's wal_level is {level}, not logical"),
        mend: "ALTER SYSTEM SET wal_level = logical, then restart the server".to_owned(),
    })
}

/// The rights to replicate and to make the schema.
async fn check_rights(settings: &Settings, sql: &Client) -> Result<Vec<SourceError>, SourceError> {
    let query = "SELECT quote_ident(current_user), quote_ident(current_database()), rolreplication OR rolsuper,
            has_database_privilege(current_database(), 'CREATE') OR to_regclass('syncline.state') IS NOT NULL
        FROM pg_roles WHERE rolname = current_user";
    let row = sql.query_one(query, &[]).await;
    let row = row.map_err(|error| settings.failed("reading the role's rights", &error))?;
    let (user, database): (String, String) = (row.get(0), row.get(1));
    let mut problems = Vec::new();
    if !row.get::<_, bool>(2) {
        problems.push(settings.refused(format!("no right to replicate; mend it with: ALTER ROLE {user} REPLICATION")));
    }
    if !row.get::<_, bool>(3) {
        let mend = format!("GRANT CREATE ON DATABASE {database} TO {user}");
        problems.push(settings.refused(format!("no right to create the schema syncline; mend it with: {mend}")));
    }
    Ok(problems)
}

/// Only a table's owner can add it to a publication.
async fn check_owner(settings: &Settings, sql: &Client, table: &Table) -> Result<Option<SourceError>, SourceError> {
    let query = "SELECT quote_ident(current_user), pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = $1";
    let row = sql.query_one(query, &[&table.oid]).await;
    let row = row.map_err(|error| settings.failed("reading the table's owner", &error))?;
    let user: String = row.get(0);
    let mend = format!("ALTER TABLE {} OWNER TO {user}", table.sql_name);
    let problem = format!("only the owner can add {} to a publication; mend it with: {mend}", table.name);
    Ok((!row.get::<_, bool>(1)).then(|| settings.refused(problem)))
}

/// From PostgreSQL 17 on a standby can be told to keep slots like this one in step, so that it outlives a failover.
async fn create_slot(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
    let doing = "creating the replication slot";
    let version = sql.query_one("SELECT current_setting('server_version_num')::int4", &[]).await;
    let version: i32 = version.map_err(|error| settings.failed(doing, &error))?.get(0);
    let create = match version {
        170_000.. => "SELECT pg_create_logical_replication_slot($1, 'pgoutput', failover => true)",
        _ => "SELECT pg_create_logical_replication_slot($1, 'pgoutput')",
    };
    let creating = async { sql.query(create, &[&settings.slot]).await.map_err(|error| settings.failed(doing, &error)) };
    wait::for_slot(settings, creating).await.map(drop)
}

/// The epoch of this server's log: a new one when the system or its timeline changed, or its log went back (a snapshot
/// of its disks was restored, which is no new timeline).
///
/// It is the second it began, so that it is newer than all before it even where those are forgotten: a database that was
/// made anew knows nothing of them, one that came back from a backup not all.
async fn enter_epoch(
    settings: &Settings,
    sql: &Client,
    state: &State,
    server: &IdentifySystem,
    resume: Option<Position>,
) -> Result<u32, SourceError> {
    let known = state.epoch();
    let here = |epoch| Epoch { system_id: server.system_id.clone(), timeline: server.timeline, epoch };
    let behind = |epoch| resume.is_some_and(|known| known.epoch >= epoch && known.lsn > server.xlogpos.as_u64());
    if let Some(known) = &known
        && *known == here(known.epoch)
        && !behind(known.epoch)
    {
        return Ok(known.epoch);
    }
    let known = known.map(|known| known.epoch).max(resume.map(|position| position.epoch));
    let epoch = next_epoch(known);
    State::put_epoch(settings, sql, &here(epoch)).await?;
    tracing::info!(source = settings.source, epoch, "the source's log begins a new epoch");
    Ok(epoch)
}

/// An epoch newer than the known one, and than any that is forgotten.
pub(super) fn next_epoch(known: Option<u32>) -> u32 {
    let now = u32::try_from(Timestamp::now().as_second()).unwrap_or(u32::MAX);
    known.map_or(now, |known| now.max(known.saturating_add(1)))
}

/// A slot that was made once and is gone, or was invalidated, is a gap and never made again in silence.
pub(super) async fn check_slot(settings: &Settings, sql: &Client, state: &State) -> Result<Slot, SourceError> {
    // Servers before 17 do not tell the reason.
    let query = "SELECT coalesce(plugin = 'pgoutput' AND database = current_database() AND NOT temporary, false),
            active, coalesce(wal_status = 'lost', false), to_jsonb(s)->>'invalidation_reason'
        FROM pg_replication_slots s WHERE slot_name = $1";
    let row = sql.query_opt(query, &[&settings.slot]).await;
    let name = &settings.slot;
    match row.map_err(|error| settings.failed("looking for the replication slot", &error))? {
        None if state.knows_slot(name) => Err(settings.gap(&format!("the replication slot {name} is gone"))),
        None => Ok(Slot::Missing),
        Some(row) if !row.get::<_, bool>(0) => Err(SourceError::Unfit {
            problem: format!("the replication slot {name} is no pgoutput slot of this database"),
            mend: format!("slot = \"another_name\" in the source {}", settings.source),
        }),
        Some(row) if row.get::<_, bool>(1) => Err(settings.taken()),
        Some(row) if row.get::<_, bool>(2) => {
            let reason = row.get::<_, Option<String>>(3).map(|reason| format!(" ({reason})")).unwrap_or_default();
            Err(settings.gap(&format!("the server gave up the log of the replication slot {name}{reason}")))
        }
        Some(_) => Ok(Slot::Ready),
    }
}

/// A publication is read as it was at the time of each change, so one made again later would not do: one that was made
/// once and is gone is a gap.
pub(super) async fn check_publication(
    settings: &Settings,
    sql: &Client,
    state: &State,
) -> Result<Publication, SourceError> {
    let name = &settings.publication;
    let found = sql.query_opt("SELECT pubviaroot FROM pg_publication WHERE pubname = $1", &[name]).await;
    match found.map_err(|error| settings.failed("looking for the publication", &error))? {
        None if state.knows_slot(&settings.slot) => Err(settings.gap(&format!("the publication {name} is gone"))),
        None => Ok(Publication::Missing),
        Some(row) if !row.get::<_, bool>(0) => Ok(Publication::ByPartition),
        Some(_) => Ok(Publication::Ready),
    }
}

async fn ensure_publication(settings: &Settings, sql: &Client, state: &State) -> Result<(), SourceError> {
    let name = identifier(&settings.publication);
    let statement = match check_publication(settings, sql, state).await? {
        Publication::Missing => format!("CREATE PUBLICATION {name} WITH (publish_via_partition_root = true)"),
        Publication::ByPartition => format!("ALTER PUBLICATION {name} SET (publish_via_partition_root = true)"),
        Publication::Ready => return Ok(()),
    };
    sql.batch_execute(&statement).await.map_err(|error| settings.failed("preparing the publication", &error))
}
