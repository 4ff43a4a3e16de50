//! The chaos suite: real processes and servers, random changes, random faults, and the same question at the end.
//!
//! A seed decides the changes and the schedule of faults (`plan`); their interleaving is the machine's. `world` holds the
//! parts and breaks them, `writer` commits changes at the source, `verdict` checks the
//! promises. A failure prints the seed and the history of the record, and keeps the folder with all logs.

mod plan;
mod records;
mod strike;
mod verdict;
mod world;
mod writer;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use self::plan::{Fault, Kind, plan};
use self::records::{AUDIT, SOURCE_TABLES, TARGET_TABLES};
use self::verdict::Seen;
use self::world::World;
use self::writer::Writer;
use crate::kit::database::connect;
use crate::kit::eventually;

/// Is in record values only; no log may have it.
const MARKER: &str = "4711-secret-value";

/// Every kind of fault once.
#[test]
fn every_promise_holds_while_parts_are_killed_frozen_and_cut_off() {
    run(&Options { seed: 7, faults: 18, nodes: 1 });
}

/// `tests/run chaos`: as long as wanted.
#[test]
#[ignore = "as long as the command line wants it: tests/run chaos"]
fn every_promise_holds_for_as_long_as_wanted() {
    run(&Options::from_environment());
}

struct Options {
    seed: u64,
    faults: usize,
    nodes: usize,
}

impl Options {
    fn from_environment() -> Self {
        #[expect(clippy::disallowed_methods, reason = "how tests/run hands options over")]
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
        Self {
            seed: number("SYNCLINE_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..1_000_000)),
            faults: number("SYNCLINE_CHAOS_FAULTS").map_or(100, |faults| faults.try_into().unwrap()),
            nodes: number("SYNCLINE_CHAOS_NODES").map_or(1, |nodes| nodes.try_into().unwrap()),
        }
    }
}

fn run(options: &Options) {
    let Options { seed, faults, nodes } = options;
    println!("chaos: seed {seed}, {faults} faults, {nodes} RabbitMQ node(s)");
    let name = format!("target/chaos/{seed}-{}", std::process::id());
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let world = World::create(&folder, *nodes);
    let mut writer = Writer::new(&world.source.url, *seed);
    let start = Instant::now();
    block_on(prepare(&world, &mut writer));
    let story = Story::default();
    let seen = endure(&world, &mut writer, &plan(*seed, *faults), &story).and_then(|()| {
        let seen = block_on(verdict::check(&world, &writer))?;
        world.stop()?;
        silent(&world).map(|()| seen)
    });
    story.keep(&world);
    match seen {
        Ok(seen) => {
            report(&story, &writer, &seen, start);
            std::fs::remove_dir_all(&folder).unwrap();
        }
        Err(broken) => {
            world.keep_logs();
            drop(world);
            story.print();
            panic!(
                "{broken}\nseed {seed}; again with: tests/run chaos --seed {seed} --faults {faults}{}\nlogs: {}",
                if *nodes > 1 { " --cluster" } else { "" },
                folder.display()
            );
        }
    }
}

/// Tables, the first copy, and the audit behind it.
async fn prepare(world: &World, writer: &mut Writer) {
    let (source, target) = (connect(&world.source.url).await, connect(&world.target.url).await);
    source.batch_execute(SOURCE_TABLES).await.unwrap();
    target.batch_execute(TARGET_TABLES).await.unwrap();
    writer.prepare(&source).await;
    world.start();
    let count = async |client: &tokio_postgres::Client| {
        let query = format!("SELECT count(*) FROM ({}) c", records::CONTENTS);
        client.query_one(&query, &[]).await.unwrap().get::<_, i64>(0)
    };
    let all = count(&source).await;
    eventually("the first copy", all, async || count(&target).await).await;
    target.batch_execute(AUDIT).await.unwrap();
}

/// Lets every fault strike while changes are written.
fn endure(world: &World, writer: &mut Writer, faults: &[Fault], story: &Story) -> Result<(), String> {
    let (enough, start) = (AtomicBool::new(false), Instant::now());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| block_on(writer.run(&enough)));
        let struck = std::thread::scope(|strikes| {
            let mut running = Vec::new();
            for fault in faults {
                std::thread::sleep(fault.after);
                running.push(strikes.spawn(|| {
                    let struck = world.strike(fault);
                    story.tell(fault, start, &struck);
                    struck.map(drop)
                }));
            }
            let ends: Vec<_> = running
                .into_iter()
                .map(|fault| fault.join().unwrap_or_else(|_| Err("a fault could not be mended".to_owned())))
                .collect();
            ends.into_iter().collect::<Result<(), _>>()
        });
        enough.store(true, Ordering::Relaxed);
        writing.join().expect("the writer goes on");
        struck
    })
}

/// No record value is in a log.
fn silent(world: &World) -> Result<(), String> {
    for file in std::fs::read_dir(&world.folder).unwrap() {
        let path = file.unwrap().path();
        if std::fs::read_to_string(&path).unwrap_or_default().contains(MARKER) {
            return Err(format!("a record value is in {}", path.display()));
        }
    }
    Ok(())
}

/// What struck whom, and when.
#[derive(Default)]
struct Story {
    lines: Mutex<Vec<String>>,
    kinds: Mutex<BTreeMap<Kind, usize>>,
}

impl Story {
    fn tell(&self, fault: &Fault, start: Instant, struck: &Result<String, String>) {
        let (end, lasts) = (start.elapsed().as_secs_f64(), fault.lasts.as_secs_f64());
        let line = format!(
            "until {end:>6.1} s  {:?} ({lasts:.1} s): {}",
            fault.kind,
            struck.as_ref().unwrap_or_else(|broken| broken)
        );
        self.lines.lock().unwrap().push(line);
        *self.kinds.lock().unwrap().entry(fault.kind).or_default() += 1;
    }

    fn print(&self) {
        self.lines.lock().unwrap().iter().for_each(|line| println!("{line}"));
    }

    fn keep(&self, world: &World) {
        let _ = std::fs::write(world.folder.join("faults.log"), self.lines.lock().unwrap().join("\n"));
    }
}

fn report(story: &Story, writer: &Writer, seen: &Seen, start: Instant) {
    let kinds: Vec<_> = story.kinds.lock().unwrap().iter().map(|(kind, count)| format!("{count} {kind:?}")).collect();
    println!("faults: {}", kinds.join(", "));
    println!(
        "{} changes written, {} versions applied, {} bad records in {} dead letters; quiet after {:.1} s, {:.0} s in all",
        writer.changes(),
        seen.applied,
        writer.bad().len(),
        seen.dead_letters,
        seen.quiet_after.as_secs_f64(),
        start.elapsed().as_secs_f64()
    );
}

/// Runs SQL in a thread that waits for it.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
