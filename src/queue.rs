//! `syncline queue`: shared queues as the broker sees them.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use syncline_shared::config::QueueConfig;
use syncline_shared::queue::embedded::Embedded;
use syncline_shared::queue::rabbitmq::RabbitMq;
use syncline_shared::queue::{Broker, PartitionStatus, QueueError, QueueStatus};
use syncline_shared::tasks::chain;

use crate::config::{Config, Env, Role};
use crate::failure::Failure;

/// A job that runs on whichever broker is configured.
pub(crate) trait OnBroker {
    /// What it gives.
    type Output;

    /// Does it.
    fn run<B: Broker>(self, broker: B, config: &Config) -> impl Future<Output = Result<Self::Output, Failure>>;
}

/// Runs a job on the configured broker.
pub(crate) async fn on_broker<J: OnBroker>(job: J, config: &Config) -> Result<J::Output, Failure> {
    match &config.queue {
        QueueConfig::Rabbitmq(queue) => job.run(RabbitMq::new(queue.clone()), config).await,
        QueueConfig::Embedded(queue) => job.run(Embedded::new(queue), config).await,
    }
}

/// Tells a broker's error to a person.
pub(crate) fn unavailable(error: &QueueError) -> Failure {
    let hint = match error {
        QueueError::Unreachable { .. } => "Is it running, and is the address in [queue] right?",
        QueueError::Blocked { .. } => "Look at its alarms: it is short of memory or disk.",
        QueueError::Refused { .. } => "Check user, password and virtual host in [queue], and the user's permissions.",
        QueueError::Missing { .. } => "Start the producer or the consumer once to create it.",
        QueueError::Topology { .. } => "Compare its [shared_queue] with what the broker has.",
        QueueError::Storage { .. } => "Check the path in [queue], its permissions and the free space.",
        QueueError::Setup { .. } => "Check password_file and the certificates in [queue].",
        QueueError::Park(_) | QueueError::Replay(_) => "The dead letters are as they were; try again.",
    };
    let mut text = chain(error);
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Failure::Unavailable(format!("{text}.\n{hint}"))
}

/// Prints depth, owner and age of every partition of every shared queue.
pub(crate) async fn status(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    struct Status;
    impl OnBroker for Status {
        /// `None` for a queue that is not created yet.
        type Output = Vec<(String, Option<QueueStatus>)>;

        async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Self::Output, Failure> {
            let mut all = Vec::new();
            for (name, queue) in &config.shared_queues {
                let status = match broker.status(queue).await {
                    Ok(status) => Some(status),
                    Err(QueueError::Missing { .. }) => None,
                    Err(error) => return Err(unavailable(&error)),
                };
                all.push((name.clone(), status));
            }
            Ok(all)
        }
    }
    let config = Config::load(path, env, Role::Queue)?;
    let all = on_broker(Status, &config).await?;
    if json {
        let queues: Vec<_> = all.iter().map(|(name, status)| describe(name, status.as_ref())).collect();
        println!("{}", serde_json::Value::Array(queues));
        return Ok(());
    }
    print!("{}", table(&rows(&all)));
    let untold: BTreeSet<_> = all.iter().filter_map(|(_, status)| status.as_ref()?.untold.as_deref()).collect();
    for note in &untold {
        println!("\nnote: {note}");
    }
    if all.iter().any(|(_, status)| status.as_ref().is_some_and(is_ageless)) {
        println!(
            "\nRabbitMQ does not tell how old a message is; the consumer that holds it does. Nobody holds the oldest message \
             where OLDEST is -: is a consumer running? Messages a consumer holds are not in READY; whether it is paused, \
             its /readyz says."
        );
    }
    Ok(())
}

/// Whether messages wait whose age is not known.
fn is_ageless(status: &QueueStatus) -> bool {
    status.partitions.iter().any(|one| one.ready > 0 && one.oldest_seconds.is_none())
}

fn rows(all: &[(String, Option<QueueStatus>)]) -> Vec<[String; 7]> {
    let dash = || "-".to_owned();
    let number = |number: Option<u64>| number.map_or_else(dash, |number| number.to_string());
    let mut rows = vec![["QUEUE", "PARTITION", "READY", "UNACKED", "OWNER", "STANDBY", "OLDEST"].map(str::to_owned)];
    for (name, status) in all {
        let Some(status) = status else {
            rows.push([name, "not created yet", "-", "-", "-", "-", "-"].map(str::to_owned));
            continue;
        };
        for one in &status.partitions {
            let owner = match &one.owner {
                Some(owner) => owner.clone(),
                None if one.consumers == 0 => "none".to_owned(),
                None => dash(),
            };
            rows.push([
                name.clone(),
                one.partition.to_string(),
                one.ready.to_string(),
                number(one.unacked),
                owner,
                number(one.standby.map(u64::from)),
                one.oldest_seconds.map_or_else(dash, |seconds| format!("{seconds} s")),
            ]);
        }
        let dead = status.dead_letters.to_string();
        rows.push([name.clone(), "dead".to_owned(), dead, dash(), dash(), dash(), dash()]);
    }
    rows
}

fn describe(name: &str, status: Option<&QueueStatus>) -> serde_json::Value {
    let Some(status) = status else { return json!({ "queue": name, "created": false }) };
    let partition = |one: &PartitionStatus| {
        json!({
            "partition": one.partition, "ready": one.ready, "unacked": one.unacked,
            "owner": one.owner, "consumers": one.consumers, "standby": one.standby, "oldest_seconds": one.oldest_seconds,
        })
    };
    let partitions: Vec<_> = status.partitions.iter().map(partition).collect();
    json!({
        "queue": name, "created": true, "partitions": partitions, "dead_letters": status.dead_letters,
        "note": status.untold,
    })
}

/// Lines up columns of text; the first row is the heading.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let line: String = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  ")).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
