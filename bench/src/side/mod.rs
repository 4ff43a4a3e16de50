//! The sides that are measured beside each other. Each gets the same changes, from the same log of the same source, and
//! only one runs at a time.

pub(crate) mod bulk;
pub(crate) mod capture;
pub(crate) mod process;
pub(crate) mod replication;
pub(crate) mod syncline;

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::Result;
use crate::measure::{Parts, Run};
use crate::scratch::{Database, Scratch};
use crate::table::Table;

/// Whoever is not done after this time never will be: ten million rows of a bulk share take minutes.
const PATIENCE: Duration = Duration::from_secs(900);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// What a workload is made of, for all of its sides.
pub(crate) struct World<'a> {
    /// Databases, virtual host, folder.
    pub scratch: &'a Scratch<'a>,
    /// What targets are made from: as the source is before the first load.
    pub base: Database,
    /// The database changes are written to.
    pub source: Database,
    /// The table.
    pub table: &'static Table,
    /// Processes of the servers, where known.
    pub pids: Parts<Option<u32>>,
    /// The binary.
    pub syncline: std::path::PathBuf,
}

/// What a target must come to hold.
#[derive(Clone, Debug)]
pub(crate) struct Goal {
    /// Records that changed.
    pub rows: u32,
    /// How often something was written: what stands in `bench_mark`, the last of it.
    pub load: i32,
    /// Rows, and changes of rows.
    pub tally: (i64, i64),
}

/// Anything that brings changes from the source somewhere.
pub(crate) enum Side {
    /// PostgreSQL's own logical replication.
    Replication(replication::Replication),
    /// Producer, RabbitMQ, consumer.
    Syncline(Box<syncline::Syncline>),
    /// `pg_recvlogical`: reads changes and drops them.
    Receive(capture::Receive),
    /// The producer alone.
    Capture(Box<capture::Capture>),
    /// COPY out | COPY in | guarded upsert.
    Copy(bulk::Copy),
    /// A bulk share.
    BulkShare(Box<bulk::BulkShare>),
}

/// Which side, before it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Replication,
    /// The cipher.
    Syncline(&'static str),
    Receive,
    Capture,
    Copy,
    BulkShare,
}

impl Kind {
    /// As it is printed; the first side of a workload is what the others are held against.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Replication => "PostgreSQL",
            Self::Syncline(cipher) => cipher,
            Self::Receive => "pg_recvlogical",
            Self::Capture | Self::BulkShare => "AES256",
            Self::Copy => "COPY | COPY | upsert",
        }
    }
}

impl Side {
    /// Makes a side ready: its target has what the source has now, and from now on it gets every change.
    pub(crate) async fn create(kind: Kind, world: &World<'_>) -> Result<Self> {
        Ok(match kind {
            Kind::Replication => Self::Replication(replication::Replication::create(world).await?),
            Kind::Syncline(cipher) => Self::Syncline(Box::new(syncline::Syncline::create(world, cipher).await?)),
            Kind::Receive => Self::Receive(capture::Receive::create(world).await?),
            Kind::Capture => Self::Capture(Box::new(capture::Capture::create(world).await?)),
            Kind::Copy => Self::Copy(bulk::Copy::create(world).await?),
            Kind::BulkShare => Self::BulkShare(Box::new(bulk::BulkShare::create(world).await?)),
        })
    }

    /// Starts it, takes the time until everything is where it belongs, and stops it.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        match self {
            Self::Replication(side) => side.run(world, goal).await,
            Self::Syncline(side) => side.run(world, goal).await,
            Self::Receive(side) => side.run(world, goal).await,
            Self::Capture(side) => side.run(world, goal).await,
            Self::Copy(side) => side.run(world, goal).await,
            Self::BulkShare(side) => side.run(world, goal).await,
        }
    }

    /// Compares its target with the source, value by value. `pg_recvlogical` has none.
    pub(crate) async fn verify(&mut self, world: &World<'_>, last: bool) -> Result<()> {
        let target = match self {
            Self::Receive(_) => return Ok(()),
            Self::Capture(_) if !last => return Ok(()),
            Self::Capture(side) => return side.verify(world).await,
            Self::Replication(side) => &side.target,
            Self::Syncline(side) => &side.target,
            Self::Copy(side) => &side.target,
            Self::BulkShare(side) => &side.inner.target,
        };
        same(world, target).await
    }
}

/// Fails unless a target holds what the source holds.
pub(crate) async fn same(world: &World<'_>, target: &Client) -> Result<()> {
    let query = world.table.digest();
    let source = world.source.connect().await?.query_one(&query, &[]).await?;
    let target = target.query_one(&query, &[]).await?;
    if source.get::<_, String>(0) == target.get::<_, String>(0) {
        return Ok(());
    }
    Err(format!("the target of {} is NOT equal to its source", world.table.name).into())
}

/// Waits until a target has what it must have, after `hint` said that it may; the time at which it was asked.
///
/// The hint is cheap, so that looking costs no side anything; what counts is what the target answers.
pub(crate) async fn arrival(
    world: &World<'_>,
    target: &Client,
    goal: &Goal,
    mut hint: impl AsyncFnMut() -> Result<bool>,
) -> Result<Instant> {
    let query = target.prepare(&world.table.tally()).await?;
    until("the target to have every change", async || {
        if !hint().await? {
            return Ok(None);
        }
        let asked = Instant::now();
        let row = target.query_one(&query, &[]).await?;
        Ok(((row.get(0), row.get(1)) == goal.tally).then_some(asked))
    })
    .await
}

/// Looks until something is there.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            return Err(format!("waited in vain for {what}, {} s", PATIENCE.as_secs()).into());
        }
        tokio::time::sleep(LOOK).await;
    }
}
