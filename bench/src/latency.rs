//! Latency: rows are written at a steady rate while a side is live; each row's time is from the moment its commit was
//! answered at the source to the moment a reader of the target sees it. One process takes both times, so no two clocks
//! are compared; the reader looks about every millisecond, which is how exact it is.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures_util::future::{join_all, try_join};
use tokio_postgres::Client;

use crate::Result;
use crate::plan::{Size, Workload};
use crate::report::{Delays, Progress};
use crate::side::replication::Replication;
use crate::side::syncline::Syncline;
use crate::side::{World, same, until};

/// Transactions per second at most; above it they have more rows.
const COMMITS_PER_SECOND: u32 = 1000;
/// Connections that write, so that one slow commit does not hold up the flow.
const WRITERS: u32 = 16;

/// Measures both sides at each rate, in the order A-B-B-A.
pub(crate) async fn latency(
    workload: &Workload,
    world: &World<'_>,
    size: Size,
    rates: &[u32],
    progress: &Progress,
) -> Result<Vec<Delays>> {
    let own = Replication::create(world).await?;
    let syncline = Syncline::create(world, "AES256").await?;
    let names: Vec<&'static str> = workload.sides.iter().map(|kind| kind.name()).collect();
    let [first, second] = names.as_slice() else { return Err("latency has two sides".into()) };
    let mut all: Vec<Delays> = rates
        .iter()
        .flat_map(|&rate| [first, second].map(|side| Delays { side, rate, written: Vec::new(), seconds: Vec::new() }))
        .collect();
    let next = Cell::new(size.rows + 1);
    for (turn, is_own) in [true, false, false, true].into_iter().enumerate() {
        let (side, target) = if is_own { (*first, &own.target) } else { (*second, &syncline.target) };
        let running = if is_own { None } else { Some(syncline.live().await?) };
        if is_own {
            own.enable().await?;
        }
        for delays in all.iter_mut().filter(|delays| delays.side == side) {
            // What the other side was given meanwhile comes first.
            caught_up(world, target).await?;
            let before = delays.seconds.len();
            flow(world, target, delays, size.latency_s, &next).await?;
            let median = crate::stats::percentile(&sorted(delays.seconds.get(before..).unwrap_or_default()), 0.5);
            let median = median.unwrap_or_default() * 1e3;
            let step = format!("turn {} of 4, {side} at {} rows/s: half within {median:.1} ms", turn + 1, delays.rate);
            progress.step(workload.name, &step);
        }
        same(world, target).await?;
        match running {
            Some(running) => running.stop().await?,
            None => own.disable().await?,
        }
    }
    Ok(all)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

async fn caught_up(world: &World<'_>, target: &Client) -> Result<()> {
    let goal = crate::race::goal(world, 0, 0).await?;
    let tally = target.prepare(&world.table.tally()).await?;
    until("the target to catch up", async || {
        let row = target.query_one(&tally, &[]).await?;
        Ok(((row.get(0), row.get(1)) == goal.tally).then_some(()))
    })
    .await
}

/// Writes at the rate for some seconds and adds each row's delay.
async fn flow(world: &World<'_>, target: &Client, delays: &mut Delays, seconds: u32, next: &Cell<u32>) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..WRITERS {
        clients.push(world.source.connect().await?);
    }
    let first = next.get();
    let committed: RefCell<Vec<Option<Instant>>> = RefCell::default();
    let writing = Cell::new(true);
    let begin = Instant::now();
    let write = async {
        let flow = Flow { world, rate: delays.rate, seconds, next, first, committed: &committed };
        let written = join_all((0..).zip(&clients).map(|(at, client)| flow.write(client, at))).await;
        writing.set(false);
        written.into_iter().collect::<Result<()>>()?;
        Ok(begin.elapsed().as_secs_f64())
    };
    let (took, seen) = try_join(write, reader(target, first, next, &writing)).await?;
    let committed = committed.into_inner();
    let delay = |(seen, committed): (&Option<Instant>, &Option<Instant>)| {
        Some((*seen)?.saturating_duration_since((*committed)?).as_secs_f64())
    };
    delays.seconds.extend(seen.iter().zip(&committed).filter_map(delay));
    delays.written.push(committed.iter().flatten().count() as f64 / took);
    Ok(())
}

/// What the connections that write share.
struct Flow<'a> {
    world: &'a World<'a>,
    rate: u32,
    seconds: u32,
    /// The next row's number.
    next: &'a Cell<u32>,
    /// The number of the first row.
    first: u32,
    /// When each row was committed.
    committed: &'a RefCell<Vec<Option<Instant>>>,
}

impl Flow<'_> {
    /// Writes over one connection: a transaction at each of its ticks, by the clock and not by when the last one ended.
    async fn write(&self, client: &Client, at: u32) -> Result<()> {
        // Else PostgreSQL plans each statement anew, and the writers take a processor for themselves.
        client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
        let insert = client.prepare(&self.world.table.insert("$1::int", "$2::int")).await?;
        let commits = self.rate.min(COMMITS_PER_SECOND);
        let rows = self.rate / commits;
        let tick = Duration::from_secs(1) / commits;
        let begin = Instant::now() + tick * at;
        for n in 0..commits * self.seconds / WRITERS {
            tokio::time::sleep_until((begin + tick * WRITERS * n).into()).await;
            let from = self.next.replace(self.next.get() + rows);
            client.execute(&insert, &[&i32::try_from(from)?, &i32::try_from(from + rows - 1)?]).await?;
            let now = Instant::now();
            let mut committed = self.committed.borrow_mut();
            let end = (from + rows - self.first) as usize;
            if committed.len() < end {
                committed.resize(end, None);
            }
            committed.get_mut(end - rows as usize..end).unwrap_or_default().fill(Some(now));
        }
        Ok(())
    }
}

/// Looks which rows the target shows, until it shows all. Rows do not come in their order.
async fn reader(target: &Client, first: u32, next: &Cell<u32>, writing: &Cell<bool>) -> Result<Vec<Option<Instant>>> {
    let query = "SELECT substr(number, 4)::int FROM incident WHERE number >= 'INC' || lpad($1::int::text, 8, '0')";
    let query = target.prepare(query).await?;
    let mut seen: Vec<Option<Instant>> = Vec::new();
    // Below it every row was seen.
    let mut low = 0;
    until("the target to show every row", async || {
        let from = i32::try_from(first as usize + low)?;
        let rows = target.query(&query, &[&from]).await?;
        let now = Instant::now();
        seen.resize((next.get() - first) as usize, None);
        for row in rows {
            let place = usize::try_from(row.get::<_, i32>(0))? - first as usize;
            if let Some(time) = seen.get_mut(place) {
                time.get_or_insert(now);
            }
        }
        low += seen.iter().skip(low).take_while(|time| time.is_some()).count();
        Ok((!writing.get() && low == seen.len()).then_some(()))
    })
    .await?;
    Ok(seen)
}
