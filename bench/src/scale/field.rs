//! Source, queue and slow target of a scale-out run, and one run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use syncline_shared::record::{Columns, Row, Value, partition_of};
use tokio_postgres::Client;

use super::Turns;
use crate::Result;
use crate::scratch::{Scratch, Servers};
use crate::side::process::{Service, free_port};
use crate::side::until;

/// Partitions of the shared queue.
const PARTITIONS: u32 = 8;
/// Records of one batch: few, so that the processors have nothing to do with it.
pub(super) const BATCH: u32 = 25;

/// The target's table, which takes its time for every statement; whose turn it is, the session says.
const TARGET: &str = "
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_advisory_xact_lock(20, CASE current_setting('bench.turns') WHEN '' THEN pg_backend_pid()
            ELSE hashtext(current_setting('bench.turns')) END);
        PERFORM pg_sleep(0.02);
        RETURN NULL; END $$;
    CREATE TRIGGER slow BEFORE INSERT ON item FOR EACH STATEMENT EXECUTE FUNCTION slow();";

/// What all runs share.
pub(super) struct Field<'a> {
    scratch: Scratch<'a>,
    source: Client,
    target: Client,
    target_url: String,
    config: String,
    syncline: PathBuf,
    /// How often every record was changed.
    round: i32,
}

impl<'a> Field<'a> {
    /// Makes everything on the servers; publication and slot are there when it returns.
    pub(super) async fn create(servers: &'a Servers, name: &str, syncline: PathBuf) -> Result<Self> {
        let scratch = Scratch::create(servers, name)?;
        let base = scratch.database("base", None).await?;
        let client = base.connect().await?;
        client.batch_execute("CREATE TABLE item (id int PRIMARY KEY, round int NOT NULL, note text NOT NULL)").await?;
        client
            .execute("INSERT INTO item SELECT id, 0, 'Item number ' || id FROM unnest($1::int[]) id", &[&ids()])
            .await?;
        drop(client);
        let (source, target) =
            (scratch.database("source", Some(&base)).await?, scratch.database("target", Some(&base)).await?);
        let management = servers.api.rsplit_once('@').map_or(servers.api.clone(), |(_, host)| format!("http://{host}"));
        let config = format!(
            r#"
[queue]
type = "rabbitmq"
url = "{rabbitmq}"
management_url = "{management}"
[key.bench]
cipher = "AES256"
secret_file = "{key}"
[shared_queue.scale]
partitions = {PARTITIONS}
[producer]
http = "127.0.0.1:0"
[producer.batch]
batch_records_max = {BATCH}
linger_ms = 1000
[source.desk]
type = "postgres"
url = "{source}"
slot = "{slot}"
[share.item]
source = "desk"
table = "item"
queue = "scale"
key = "bench"
interactive_only = false
[subscription.scale]
queue = "scale"
target = "scale"
apply_records_max = {BATCH}
"#,
            rabbitmq = scratch.rabbitmq(),
            key = scratch.file("key").display(),
            source = source.url,
            slot = source.name,
        );
        let field = Self {
            source: source.connect().await?,
            target: target.connect().await?,
            target_url: target.url,
            config,
            scratch,
            syncline,
            round: 0,
        };
        // What takes time is the trigger, and not the disk that all replicas share here.
        let asynchronous = format!("ALTER DATABASE {} SET synchronous_commit = off", target.name);
        field.target.batch_execute(&asynchronous).await?;
        field.target.batch_execute(TARGET).await?;
        let (mut producer, _) = field.start("producer", "producer", "")?;
        producer.logged("reading changes").await?;
        producer.stop().await?;
        Ok(field)
    }

    /// One run: replicas that have their partitions, a backlog in the queue, and the time until the target has all of it.
    /// Records per second, and how many came out of their order or twice.
    pub(super) async fn run(&mut self, turns: Turns, replicas: u32, batches: u32) -> Result<(f64, f64)> {
        let mut consumers = Vec::new();
        for number in 1..=replicas {
            let name = format!("replica-{number}");
            let turns = if turns == Turns::Replica { name.as_str() } else { "" };
            consumers.push(self.start("consumer", &name, turns)?.0);
        }
        let config = self.scratch.file("replica-1.toml");
        until("every replica to have its partitions", async || Ok(self.is_even(&config, replicas)?.then_some(())))
            .await?;

        // The clock starts when the target takes the first batch.
        self.target.batch_execute("BEGIN; LOCK TABLE item").await?;
        let rows = self.write(batches).await?;
        let (mut producer, _) = self.start("producer", "producer", "")?;
        producer.logged("reading changes").await?;
        let round = self.round;
        until("the queue to have every record", async || {
            Ok((producer.counter("syncline_producer_confirmed_total").await >= f64::from(rows)).then_some(()))
        })
        .await?;
        producer.stop().await?;
        let begin = Instant::now();
        self.target.batch_execute("COMMIT").await?;
        let behind = self.target.prepare("SELECT count(*) FROM item WHERE round < $1").await?;
        let end = until("the target to have every record", async || {
            let asked = Instant::now();
            let left: i64 = self.target.query_one(&behind, &[&round]).await?.get(0);
            Ok((left == 0).then_some(asked))
        })
        .await?;
        let records = async |label: &str| {
            let mut sum = 0.0;
            for consumer in &consumers {
                sum += consumer.labelled("syncline_consumer_records_total", label).await;
            }
            sum
        };
        // What was applied is counted a moment after the target shows it.
        until("every record to be counted", async || {
            Ok((records("outcome=\"applied\"").await >= f64::from(rows)).then_some(()))
        })
        .await?;
        let out_of_order = records("outcome=\"stale\"").await + records("outcome=\"duplicate\"").await;
        for consumer in consumers {
            consumer.stop().await?;
        }
        Ok((f64::from(rows) / end.saturating_duration_since(begin).as_secs_f64(), out_of_order))
    }

    /// Changes every record so many times; each time fills one batch of every partition.
    async fn write(&mut self, batches: u32) -> Result<u32> {
        for _ in 0..batches {
            self.source.batch_execute("UPDATE item SET round = round + 1").await?;
            self.round += 1;
        }
        Ok(batches * BATCH * PARTITIONS)
    }

    fn start(&self, command: &str, name: &str, turns: &str) -> Result<(Service, PathBuf)> {
        let path = self.scratch.file(&format!("{name}.toml"));
        let port = free_port()?;
        let and = if self.target_url.contains('?') { '&' } else { '?' };
        let text = format!(
            "{}[consumer]\nhttp = \"127.0.0.1:{port}\"\nreplica = \"{name}\"\n[target.scale]\ntype = \"postgres\"\n\
             url = \"{}{and}options=-c%20bench.turns%3D{turns}\"\n",
            self.config.replace("127.0.0.1:0", &format!("127.0.0.1:{port}")),
            self.target_url,
        );
        std::fs::write(&path, text)?;
        Ok((Service::start(&self.syncline, command, &path, port)?, path))
    }

    /// Whether each replica has as many partitions as every other one, as `queue status` tells it.
    fn is_even(&self, config: &std::path::Path, replicas: u32) -> Result<bool> {
        let mut command = std::process::Command::new(&self.syncline);
        let output = command.args(["--json", "queue", "status", "--config"]).arg(config).output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let partitions = status.pointer("/0/partitions").and_then(serde_json::Value::as_array);
        let mut owned: BTreeMap<&str, u32> = BTreeMap::new();
        for owner in partitions.into_iter().flatten().filter_map(|partition| partition.get("owner")?.as_str()) {
            *owned.entry(owner).or_default() += 1;
        }
        Ok(owned.len() == replicas as usize && owned.values().all(|owned| *owned == PARTITIONS / replicas))
    }
}

/// Ids of records: a batch of them for each partition, so that all partitions have the same to do.
fn ids() -> Vec<i32> {
    let mut room = BTreeMap::from_iter((0..PARTITIONS).map(|partition| (partition, BATCH)));
    let mut ids = Vec::new();
    for id in 1.. {
        if room.is_empty() {
            break;
        }
        let mut key = Row::builder(Columns::new(["id"]));
        key.push(Value::Number(&id.to_string()));
        let partition = partition_of("desk", "item", &key.finish(), PARTITIONS);
        if let Some(left) = room.get_mut(&partition) {
            ids.push(id);
            *left -= 1;
            room.retain(|_, left| *left > 0);
        }
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_has_one_batch_of_records() {
        assert_eq!(ids().len(), (PARTITIONS * BATCH) as usize);
    }
}
