//! Runs the sides of a workload one after another over the same changes: first to last, then last to first (A-B-B-A), so
//! that what drifts while the benchmark runs meets all alike, and the two runs of a side show how far figures that should
//! be the same are apart.

use crate::measure::Run;
use crate::plan::{Size, Task, Workload};
use crate::report::{Figures, Progress};
use crate::scratch::{Database, Scratch};
use crate::side::{Goal, Side, World};
use crate::{Result, told};

/// Writes twice, and lets every side bring it over.
pub(crate) async fn race(
    workload: &Workload,
    world: &World<'_>,
    size: Size,
    progress: &Progress,
) -> Result<Vec<Figures>> {
    let mut sides = Vec::new();
    for &kind in workload.sides.iter().take(size.sides) {
        progress.step(workload.name, &format!("making {} ready", kind.name()));
        sides.push((kind, Side::create(kind, world).await?, Vec::<Run>::new()));
    }
    for load in 1..=2 {
        let goal = write(workload, world, size, load).await?;
        for (kind, side, runs) in &mut sides {
            let run = side
                .run(world, &goal)
                .await
                .map_err(|error| format!("{}, {}: {}", workload.name, kind.name(), told(&*error)))?;
            progress.step(workload.name, &format!("{} of 2, {}: {:.0} rows/s", load, kind.name(), run.rate()));
            let last = load == 2;
            side.verify(world, last)
                .await
                .map_err(|error| format!("{}, {}: {}", workload.name, kind.name(), told(&*error)))?;
            runs.push(run);
        }
        sides.reverse();
    }
    let figures = sides.into_iter().map(|(kind, _, runs)| Figures { workload: workload.name, side: kind.name(), runs });
    Ok(figures.collect())
}

/// Makes the source and, as a copy that nobody connects to, what targets are copies of. A bulk share begins with empty ones.
pub(crate) async fn fill(workload: &Workload, scratch: &Scratch<'_>, size: Size) -> Result<[Database; 2]> {
    let table = workload.table;
    let base = scratch.database("base", None).await?;
    let client = base.connect().await?;
    client.batch_execute("SET synchronous_commit = off").await?;
    client.batch_execute(&table.create()).await?;
    client.batch_execute("CREATE TABLE bench_mark AS SELECT 1 AS id, 0 AS load").await?;
    client.batch_execute("ALTER TABLE bench_mark ADD PRIMARY KEY (id)").await?;
    let fill = |rows: u32| [table.insert("1", &rows.to_string()), format!("VACUUM (FREEZE, ANALYZE) {}", table.name)];
    if workload.task != Task::Bulk {
        for statement in fill(size.rows) {
            client.batch_execute(&statement).await?;
        }
    }
    drop(client);
    let source = scratch.database("source", Some(&base)).await?;
    if workload.task == Task::Bulk {
        let client = source.connect().await?;
        for statement in fill(size.bulk_rows) {
            client.batch_execute(&statement).await?;
        }
    }
    Ok([base, source])
}

/// Planned once for all transactions, and keys looked up in the index, whatever the planner thinks of a series of unknown
/// length.
const WRITER: [&str; 5] = [
    "synchronous_commit = off",
    "plan_cache_mode = force_generic_plan",
    "enable_hashjoin = off",
    "enable_mergejoin = off",
    "enable_seqscan = off",
];

/// Writes a load, with a mark at its end, while no side runs.
async fn write(workload: &Workload, world: &World<'_>, size: Size, load: u32) -> Result<Goal> {
    let source = world.source.connect().await?;
    let rows = match workload.task {
        Task::Changes(change, per_transaction) => {
            for setting in WRITER {
                source.batch_execute(&format!("SET {setting}")).await?;
            }
            source.batch_execute(&world.table.load(change, size.rows, per_transaction, load)).await?;
            size.rows
        }
        Task::Bulk | Task::Latency => size.bulk_rows,
    };
    source.batch_execute(&format!("UPDATE bench_mark SET load = {load}")).await?;
    // Every side begins with clean pages, and no checkpoint of what was written falls into one of the runs.
    source.batch_execute("CHECKPOINT").await?;
    goal(world, rows, load).await
}

/// What a target must come to hold.
pub(crate) async fn goal(world: &World<'_>, rows: u32, load: u32) -> Result<Goal> {
    let tally = world.source.connect().await?.query_one(&world.table.tally(), &[]).await?;
    Ok(Goal { rows, load: i32::try_from(load)?, tally: (tally.get(0), tally.get(1)) })
}
