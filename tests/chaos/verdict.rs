//! What must hold at the end, whatever happened.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use tokio_postgres::Client;

use super::records::CONTENTS;
use super::world::World;
use super::writer::Writer;
use crate::kit::database::connect;
use crate::kit::process::syncline;

/// How long nothing may move before something is missing: all back-offs have passed by then. A busy machine takes its time
/// to work off what is there, so the time in all has no bound but that of the test.
const STILL_MAX: Duration = Duration::from_secs(60);

/// What was seen at the target.
pub struct Seen {
    /// Applied versions.
    pub applied: u64,
    /// Dead letters; more than bad records when one was redelivered.
    pub dead_letters: usize,
    /// Time until everything was there.
    pub quiet_after: Duration,
}

/// Checks every promise.
///
/// # Errors
/// The first that is broken, with the record's history.
pub async fn check(world: &World, writer: &Writer) -> Result<Seen, String> {
    let start = Instant::now();
    let (source, target) = (connect(&world.source.url).await, connect(&world.target.url).await);
    let mut expected = contents(&source).await;
    for (key, before) in writer.retired() {
        match before {
            Some(before) => expected.insert(key.to_string(), before.clone()),
            None => expected.remove(&key.to_string()),
        };
    }
    let tell = async |record: &str, broken: String| {
        let (writer, audit) = (writer.history(record).join("\n  "), audit_of(&target, record).await.join("\n  "));
        format!("{broken}\nwritten:\n  {writer}\napplied:\n  {audit}")
    };
    let mut still = Still::default();
    while let Some((record, difference)) = difference(&expected, &contents(&target).await) {
        world.still_run()?;
        if still.since(count(&target).await) > STILL_MAX {
            return Err(tell(&record, format!("target and source differ at {record}: {difference}")).await);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut dead = DeadLetters::default();
    loop {
        let drained = is_drained(world);
        dead.look(world)?;
        let records = dead.records();
        if drained && records == *writer.bad() {
            break;
        }
        if still.since(dead.letters.len() as u64) > STILL_MAX {
            let (more, fewer) = (records.difference(writer.bad()).next(), writer.bad().difference(&records).next());
            let (record, _) = more.or(fewer).cloned().unwrap_or_default();
            // The services log the ids of those they set aside.
            std::fs::write(world.folder.join("dead-letters.txt"), format!("{:#?}\n", dead.letters)).unwrap();
            let broken = format!(
                "dead letters are not the bad records: one more {more:?}, one missing {fewer:?}, drained {drained}"
            );
            return Err(tell(&record, broken).await);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let quiet_after = start.elapsed();
    if let Some((record, difference)) = difference(&expected, &contents(&target).await) {
        return Err(tell(&record, format!("target and source differ again at {record}: {difference}")).await);
    }
    let back = "SELECT record, version::text FROM (SELECT record, version, seq,
        lag(version) OVER (PARTITION BY record ORDER BY seq) AS before FROM audit) a WHERE version <= before ORDER BY seq LIMIT 1";
    if let Some(row) = target.query_opt(back, &[]).await.unwrap() {
        let (record, version): (String, String) = (row.get(0), row.get(1));
        return Err(tell(&record, format!("version {version} of {record} was applied after a newer one")).await);
    }
    Ok(Seen { applied: count(&target).await, dead_letters: dead.letters.len(), quiet_after })
}

/// Tells how long a number has been the same.
#[derive(Default)]
struct Still {
    seen: Option<(u64, Instant)>,
}

impl Still {
    fn since(&mut self, number: u64) -> Duration {
        match self.seen {
            Some((before, since)) if before == number => since.elapsed(),
            _ => {
                self.seen = Some((number, Instant::now()));
                Duration::ZERO
            }
        }
    }
}

/// Applied versions.
async fn count(target: &Client) -> u64 {
    target.query_one("SELECT count(*) FROM audit", &[]).await.unwrap().get::<_, i64>(0).unsigned_abs()
}

async fn contents(client: &Client) -> BTreeMap<String, String> {
    let rows = client.query(CONTENTS, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn difference(expected: &BTreeMap<String, String>, seen: &BTreeMap<String, String>) -> Option<(String, String)> {
    let records: BTreeSet<_> = expected.keys().chain(seen.keys()).collect();
    let record = records.into_iter().find(|record| expected.get(*record) != seen.get(*record))?;
    Some((record.clone(), format!("expected {:?}, found {:?}", expected.get(record), seen.get(record))))
}

async fn audit_of(target: &Client, record: &str) -> Vec<String> {
    let query = "SELECT concat_ws(' ', to_char(at, 'HH24:MI:SS.MS'), action, version, 'n=' || n) FROM audit WHERE record = $1 ORDER BY seq";
    target.query(query, &[&record]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// Whether no partition holds a message.
fn is_drained(world: &World) -> bool {
    let queues = world.management("queues/%2f").unwrap_or_default();
    let queues: Vec<_> = queues.as_array().into_iter().flatten().collect();
    let holds = |queue: &&serde_json::Value| {
        !queue["name"].as_str().unwrap_or_default().ends_with(".dead") && queue["messages"].as_u64() != Some(0)
    };
    !queues.is_empty() && !queues.iter().any(holds)
}

/// The dead letters, opened: record and number of each change, by the letter's id.
#[derive(Default)]
struct DeadLetters {
    letters: BTreeMap<String, Vec<(String, u64)>>,
}

impl DeadLetters {
    /// Opens those that came since the last look.
    fn look(&mut self, world: &World) -> Result<(), String> {
        let list = command(world, &["--json", "dead-letter", "list", "--limit", "10000"])?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list).map_err(|error| error.to_string())?;
        for letter in &list {
            let id = letter["id"].as_str().unwrap_or_default();
            if self.letters.contains_key(id) {
                continue;
            }
            let shown = command(world, &["dead-letter", "show", "--open", id])?;
            let table = letter["routing_key"].as_str().unwrap_or_default().split('.').next().unwrap_or_default();
            let lines = shown.lines().filter(|line| line.starts_with("{\"key\""));
            self.letters.insert(id.to_owned(), lines.map(|line| change(table, line)).collect());
        }
        Ok(())
    }

    fn records(&self) -> BTreeSet<(String, u64)> {
        self.letters.values().flatten().cloned().collect()
    }
}

/// Record and number of a change, from its line.
fn change(table: &str, line: &str) -> (String, u64) {
    let record: serde_json::Value = serde_json::from_str(line).expect("a record's line");
    let key = record["key"].as_object().into_iter().flatten();
    let key: Vec<_> = key.map(|(_, value)| format!("\"{value}\"")).collect();
    (format!("{table} [{}]", key.join(",")), record["data"]["n"].as_u64().unwrap_or_default())
}

fn command(world: &World, args: &[&str]) -> Result<String, String> {
    let config = world.config();
    let output = syncline(&world.folder, &[&["--config", config.to_str().unwrap()], args].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}
