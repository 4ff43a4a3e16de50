//! All rows of a table into an empty one: a bulk share, beside COPY out, COPY in and the same guarded statement by hand.

use std::pin::pin;
use std::time::Instant;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_postgres::Client;

use super::process::Job;
use super::syncline::Syncline;
use super::{Goal, World};
use crate::Result;
use crate::measure::{Meter, Parts, Run};

/// COPY from the source into a temporary table, then one `INSERT .. ON CONFLICT` that takes only what is newer.
pub(crate) struct Copy {
    /// The target's database.
    pub target: Client,
    source: Client,
}

impl Copy {
    /// Makes the target with a version column, as Syncline's has one.
    pub(crate) async fn create(world: &World<'_>) -> Result<Self> {
        let target = world.scratch.database("copy", Some(&world.base)).await?.connect().await?;
        let version = format!("ALTER TABLE {} ADD COLUMN _syncline_version uuid", world.table.name);
        target.batch_execute(&version).await?;
        Ok(Self { target, source: world.source.connect().await? })
    }

    /// One run.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let Self { target, source } = self;
        let table = world.table.name;
        target.batch_execute(&format!("TRUNCATE {table}")).await?;
        let pids = Parts { postgres: world.pids.postgres, ..Parts::default() };
        let upsert = world.table.upsert("staged");
        let meter = Meter::start(&pids);
        let transaction = target.transaction().await?;
        transaction.batch_execute(&format!("CREATE TEMPORARY TABLE staged (LIKE {table}) ON COMMIT DROP")).await?;
        let rows = source.copy_out(&format!("COPY (SELECT *, uuid '{VERSION}' FROM {table}) TO STDOUT")).await?;
        let mut rows = pin!(rows);
        let mut staged = pin!(transaction.copy_in("COPY staged FROM STDIN").await?);
        while let Some(row) = rows.next().await {
            staged.feed(row?).await?;
        }
        staged.finish().await?;
        transaction.batch_execute(&upsert).await?;
        transaction.commit().await?;
        Ok(meter.stop(&pids, goal.rows, Instant::now()))
    }
}

/// The version of all rows of a snapshot is the same.
const VERSION: &str = "00000001-0000-0000-0000-000000000001";

/// `syncline bulk-share`, with producer and consumer running.
pub(crate) struct BulkShare {
    /// What it is a share of.
    pub inner: Syncline,
}

impl BulkShare {
    /// Makes it ready.
    pub(crate) async fn create(world: &World<'_>) -> Result<Self> {
        Ok(Self { inner: Syncline::create(world, "AES256").await? })
    }

    /// One run, from the command to the last row in the target.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let table = world.table.name;
        self.inner.target.batch_execute(&format!("TRUNCATE {table}")).await?;
        let running = self.inner.live().await?;
        let meter = Meter::start(&running.pids(world));
        let command = Job::start(&mut self.inner.command(&["bulk-share", table]))?;
        let end = self.inner.arrival(world, goal, &running.consumer).await?;
        let run = meter.stop(&running.pids(world), goal.rows, end);
        command.done().await?;
        running.stop().await?;
        Ok(run)
    }
}
