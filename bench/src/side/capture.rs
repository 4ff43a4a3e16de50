//! The capture leg alone: the producer with nobody who consumes, beside `pg_recvlogical` from the same kind of slot.

use std::process::{Command, Stdio};
use std::time::Instant;

use tokio_postgres::Client;

use super::process::Job;
use super::syncline::Syncline;
use super::{Goal, World, same, until};
use crate::Result;
use crate::measure::{Meter, Parts, Run};

/// The producer: source to sealed, confirmed messages.
pub(crate) struct Capture(Syncline);

impl Capture {
    /// Makes it ready.
    pub(crate) async fn create(world: &World<'_>) -> Result<Self> {
        Ok(Self(Syncline::create(world, "AES256").await?))
    }

    /// One run: until the broker has confirmed everything.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let meter = Meter::start(&world.pids);
        let producer = self.0.producer()?;
        let end = self.0.confirmed(&producer, goal.rows).await?;
        let run = meter.stop(&Parts { producer: Some(producer.id()), ..world.pids }, goal.rows, end);
        producer.stop().await?;
        Ok(run)
    }

    /// Whether the messages hold what they must: a consumer applies them all, off the clock.
    pub(crate) async fn verify(&self, world: &World<'_>) -> Result<()> {
        let consumer = self.0.consumer().await?;
        let equal = until("the messages to be applied", async || Ok(same(world, &self.0.target).await.ok())).await;
        equal.map_err(|error| consumer.told(&error))?;
        consumer.stop().await
    }
}

/// `pg_recvlogical`, which reads what the producer reads and throws it away.
pub(crate) struct Receive {
    source: Client,
    name: String,
}

impl Receive {
    /// Makes publication and slot.
    pub(crate) async fn create(world: &World<'_>) -> Result<Self> {
        let found =
            Command::new("pg_recvlogical").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        found.map_err(|error| format!("pg_recvlogical cannot be run (it comes with PostgreSQL's clients): {error}"))?;
        let source = world.source.connect().await?;
        let name = format!("{}_receive", world.source.name);
        source.batch_execute(&format!("CREATE PUBLICATION {name} FOR TABLE {}", world.table.name)).await?;
        source.batch_execute(&format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')")).await?;
        Ok(Self { source, name })
    }

    /// One run: until it has read up to the end of what was written.
    pub(crate) async fn run(&mut self, world: &World<'_>, goal: &Goal) -> Result<Run> {
        let end: String = self.source.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.get(0);
        let pids = Parts { postgres: world.pids.postgres, ..Parts::default() };
        let (url, password) = without_password(&world.source.url);
        let mut command = Command::new("pg_recvlogical");
        command.args([
            "--start",
            "--no-loop",
            "--file",
            "/dev/null",
            "--slot",
            &self.name,
            "--endpos",
            &end,
            "-d",
            &url,
        ]);
        command.args(["-o", "proto_version=1", "-o", &format!("publication_names={}", self.name)]);
        command.envs(password.map(|password| ("PGPASSWORD", password)));
        let meter = Meter::start(&pids);
        Job::start(&mut command)?.done().await?;
        Ok(meter.stop(&pids, goal.rows, Instant::now()))
    }
}

/// A URL for the list of processes, and its password for the environment.
fn without_password(url: &str) -> (String, Option<String>) {
    let parts = url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?)));
    let Some((scheme, (login, server))) = parts else { return (url.to_owned(), None) };
    let Some((user, password)) = login.split_once(':') else { return (url.to_owned(), None) };
    (format!("{scheme}://{user}@{server}"), Some(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_leaves_the_url() {
        let (url, password) = without_password("postgres://me:secret@h:1/d");
        assert_eq!((url.as_str(), password.as_deref()), ("postgres://me@h:1/d", Some("secret")));
        assert_eq!(without_password("postgres://me@h/d"), ("postgres://me@h/d".to_owned(), None));
    }
}
