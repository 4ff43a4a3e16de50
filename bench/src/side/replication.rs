//! PostgreSQL's own logical replication, `CREATE SUBSCRIPTION` as it comes, from one database to another of one server.

use tokio_postgres::Client;

use super::{Goal, World, arrival, until};
use crate::Result;
use crate::measure::{Meter, Parts, Run};

/// A subscription, enabled while it runs.
pub(crate) struct Replication {
    /// The target's database.
    pub target: Client,
    source: Client,
    name: String,
}

impl Replication {
    /// Makes publication, slot and subscription.
    pub(crate) async fn create(world: &World<'_>) -> Result<Self> {
        let target = world.scratch.database("own", Some(&world.base)).await?;
        let source = world.source.connect().await?;
        let name = target.name.clone();
        let target = target.connect().await?;
        let publish = format!("CREATE PUBLICATION {name} FOR TABLE {}, bench_mark", world.table.name);
        source.batch_execute(&publish).await?;
        // Beforehand: a subscription cannot make a slot on its own server, it would wait for itself.
        let slot = format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
        source.batch_execute(&slot).await?;
        target
            .batch_execute(&format!(
                "CREATE SUBSCRIPTION {name} CONNECTION '{}' PUBLICATION {name} \
                 WITH (create_slot = false, slot_name = '{name}', copy_data = false, enabled = false)",
                to_itself(&source, world).await?
            ))
            .await?;
        Ok(Self { target, source, name })
    }

    /// One run.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let mark = self.target.prepare("SELECT load >= $1 FROM bench_mark").await?;
        let pids = Parts { postgres: world.pids.postgres, ..Parts::default() };
        let meter = Meter::start(&pids);
        self.enable().await?;
        // Transactions are applied in their order, and that of the mark is the last.
        let hint = async || Ok(self.target.query_one(&mark, &[&goal.load]).await?.get(0));
        let end = arrival(world, &self.target, goal, hint).await?;
        let run = meter.stop(&pids, goal.rows, end);
        self.disable().await?;
        Ok(run)
    }

    /// Starts it.
    pub(crate) async fn enable(&self) -> Result<()> {
        Ok(self.target.batch_execute(&format!("ALTER SUBSCRIPTION {} ENABLE", self.name)).await?)
    }

    /// Stops it and waits for its end.
    pub(crate) async fn disable(&self) -> Result<()> {
        self.target.batch_execute(&format!("ALTER SUBSCRIPTION {} DISABLE", self.name)).await?;
        let query = format!("SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{}'", self.name);
        until("the subscription to stop", async || {
            let idle: bool = self.source.query_one(&query, &[]).await?.get(0);
            Ok(idle.then_some(()))
        })
        .await
    }
}

/// How the server reaches itself: its own port, which need not be that of our URL.
async fn to_itself(source: &Client, world: &World<'_>) -> Result<String> {
    let port: String = source.query_one("SELECT current_setting('port')", &[]).await?.get(0);
    let config: tokio_postgres::Config = world.source.url.parse()?;
    let user = config.get_user().unwrap_or("postgres");
    let password = config.get_password().map(String::from_utf8_lossy).unwrap_or_default();
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('\'', "\\'");
    let parameters = format!(
        "host=127.0.0.1 port={port} dbname={} user='{}' password='{}'",
        world.source.name,
        quoted(user),
        quoted(&password)
    );
    Ok(parameters.replace('\'', "''"))
}
