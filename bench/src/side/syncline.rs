//! Syncline: producer, RabbitMQ and consumer, as processes of the binary that cargo built.

use std::path::PathBuf;

use tokio_postgres::Client;

use super::process::{ATTACH, Service, free_port};
use super::{Goal, World, arrival, until};
use crate::Result;
use crate::measure::{Meter, Parts, Run};

/// A share of the table through a shared queue of its own; its services run while it is measured.
pub(crate) struct Syncline {
    /// The target's database.
    pub target: Client,
    config: PathBuf,
    binary: PathBuf,
    producer_port: u16,
    consumer_port: u16,
}

/// Both services, and where their processor time is counted.
pub(crate) struct Running {
    /// The producer.
    pub producer: Service,
    /// The consumer.
    pub consumer: Service,
}

impl Running {
    /// All processes.
    pub(crate) fn pids(&self, world: &World<'_>) -> Parts<Option<u32>> {
        Parts { producer: Some(self.producer.id()), consumer: Some(self.consumer.id()), ..world.pids }
    }

    /// Stops both in good order.
    pub(crate) async fn stop(self) -> Result<()> {
        self.producer.stop().await?;
        self.consumer.stop().await
    }
}

impl Syncline {
    /// Writes the configuration, and lets the producer make publication, slot and topology.
    pub(crate) async fn create(world: &World<'_>, cipher: &str) -> Result<Self> {
        let name = cipher.to_lowercase();
        let target = world.scratch.database(&name, Some(&world.base)).await?;
        let (producer_port, consumer_port) = (free_port()?, free_port()?);
        let config = world.scratch.file(&format!("{name}.toml"));
        let sealed = if cipher == "None" { "cipher = \"None\"" } else { "key = \"bench\"" };
        let keys = match cipher {
            "None" => String::new(),
            _ => {
                format!("[key.bench]\ncipher = \"{cipher}\"\nsecret_file = \"{}\"", world.scratch.file("key").display())
            }
        };
        std::fs::write(
            &config,
            format!(
                r#"
[queue]
type = "rabbitmq"
url = "{rabbitmq}"
{keys}
[shared_queue.{name}]
[producer]
http = "127.0.0.1:{producer_port}"
[source.{name}]
type = "postgres"
url = "{source}"
slot = "{slot}"
[share.{table}]
source = "{name}"
table = "{table}"
queue = "{name}"
{sealed}
interactive_only = false
[consumer]
http = "127.0.0.1:{consumer_port}"
[target.{name}]
type = "postgres"
url = "{target}"
[subscription.{name}]
queue = "{name}"
target = "{name}"
accept_unsealed = {unsealed}
"#,
                rabbitmq = world.scratch.rabbitmq(),
                source = world.source.url,
                slot = target.name,
                table = world.table.name,
                target = target.url,
                unsealed = cipher == "None",
            ),
        )?;
        let target = target.connect().await?;
        let side = Self { target, config, binary: world.syncline.clone(), producer_port, consumer_port };
        let mut producer = side.producer()?;
        producer.logged("reading changes").await?;
        producer.stop().await?;
        Ok(side)
    }

    /// Starts the producer.
    pub(crate) fn producer(&self) -> Result<Service> {
        Service::start(&self.binary, "producer", &self.config, self.producer_port)
    }

    /// Starts the consumer and lets it attach to its partitions.
    pub(crate) async fn consumer(&self) -> Result<Service> {
        let mut consumer = Service::start(&self.binary, "consumer", &self.config, self.consumer_port)?;
        consumer.logged("serving /metrics").await?;
        tokio::time::sleep(ATTACH).await;
        Ok(consumer)
    }

    /// Starts both and waits until changes are read.
    pub(crate) async fn live(&self) -> Result<Running> {
        let consumer = self.consumer().await?;
        let mut producer = self.producer()?;
        producer.logged("reading changes").await?;
        Ok(Running { producer, consumer })
    }

    /// One run: what waits in the source is read from the moment the producer is started.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let consumer = self.consumer().await?;
        let before = Parts { consumer: Some(consumer.id()), ..world.pids };
        let meter = Meter::start(&before);
        let running = Running { producer: self.producer()?, consumer };
        let end = self.arrival(world, goal, &running.consumer).await?;
        let run = meter.stop(&running.pids(world), goal.rows, end);
        running.stop().await?;
        Ok(run)
    }

    /// Waits until the target has everything.
    pub(crate) async fn arrival(
        &self,
        world: &World<'_>,
        goal: &Goal,
        consumer: &Service,
    ) -> Result<std::time::Instant> {
        let hint = async || Ok(consumer.counter("syncline_consumer_records_total").await >= f64::from(goal.rows));
        arrival(world, &self.target, goal, hint).await.map_err(|error| consumer.told(&error))
    }

    /// The bulk share's command.
    pub(crate) fn command(&self, words: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.binary);
        command.args(words).arg("--config").arg(&self.config);
        command
    }

    /// Waits until the producer has confirmed so many records.
    pub(crate) async fn confirmed(&self, producer: &Service, rows: u32) -> Result<std::time::Instant> {
        until("the broker to have every record", async || {
            let asked = std::time::Instant::now();
            let confirmed = producer.counter("syncline_producer_confirmed_total").await;
            Ok((confirmed >= f64::from(rows)).then_some(asked))
        })
        .await
        .map_err(|error| producer.told(&error))
    }
}
