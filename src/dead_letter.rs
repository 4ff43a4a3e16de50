//! `syncline dead-letter`: what was set aside, and what becomes of it.

use std::path::Path;

use serde_json::json;
use syncline_shared::envelope::Envelope;
use syncline_shared::queue::{Broker, DeadLetter, QueueError, Reason, Settlement};
use syncline_shared::seal::{OpenLimits, open};

use crate::cli::Selection;
use crate::config::{Config, Env, Role};
use crate::failure::Failure;
use crate::queue::{OnBroker, on_broker, table, unavailable};

/// Dead letters looked through when one is searched or all are settled; more are left for the next call.
const LOOK_MAX: usize = 10_000;

/// Reads dead letters of one shared queue or of all.
struct Read<'a> {
    queue: Option<&'a str>,
    limit: usize,
}

impl OnBroker for Read<'_> {
    type Output = Vec<DeadLetter>;

    async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Self::Output, Failure> {
        if let Some(queue) = self.queue
            && !config.shared_queues.contains_key(queue)
        {
            let known: Vec<_> = config.shared_queues.keys().map(String::as_str).collect();
            return Err(Failure::Other(format!("there is no shared queue {queue:?}; known: {}", known.join(", "))));
        }
        let mut letters = Vec::new();
        for name in config.shared_queues.keys().filter(|name| self.queue.is_none_or(|queue| queue == *name)) {
            letters.extend(read(&broker, name, self.limit).await?);
        }
        Ok(letters)
    }
}

/// Reads dead letters of one shared queue; one that nobody made yet has none.
async fn read<B: Broker>(broker: &B, queue: &str, limit: usize) -> Result<Vec<DeadLetter>, Failure> {
    match broker.dead_letters(queue, limit).await {
        Ok(letters) => Ok(letters),
        Err(QueueError::Missing { .. }) => Ok(Vec::new()),
        Err(error) => Err(unavailable(&error)),
    }
}

/// Lists dead letters, oldest first.
pub(crate) async fn list(path: &Path, env: &Env, json: bool, queue: Option<&str>, limit: usize) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let letters = on_broker(Read { queue, limit }, &config).await?;
    if json {
        let list: Vec<_> = letters.iter().map(describe).collect();
        println!("{}", serde_json::Value::Array(list));
        return Ok(());
    }
    if letters.is_empty() {
        println!("There are no dead letters.");
        return Ok(());
    }
    let mut rows = vec![["ID", "QUEUE", "ROUTING KEY", "REASON", "AT", "ERROR"].map(str::to_owned)];
    rows.extend(letters.iter().map(|letter| {
        let (id, reason) = (letter.id().to_owned(), letter.reason.to_string());
        let at = format!("{:.0}", letter.at);
        [id, letter.queue.clone(), letter.routing_key.clone(), reason, at, letter.error.clone()]
    }));
    print!("{}", table(&rows));
    println!("\nMend the cause, then `syncline dead-letter replay ID` or `replay --all`.");
    Ok(())
}

fn describe(letter: &DeadLetter) -> serde_json::Value {
    json!({
        "id": letter.id(), "queue": letter.queue, "routing_key": letter.routing_key, "reason": letter.reason.as_str(),
        "error": letter.error, "attempts": letter.attempts, "at": letter.at.to_string(),
        "share": letter.message.share(), "records": letter.message.records(),
    })
}

/// Opens one dead letter with the configured keys and prints its records. The one command that shows record values.
pub(crate) async fn show(path: &Path, env: &Env, id: &str) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let letters = on_broker(Read { queue: None, limit: LOOK_MAX }, &config).await?;
    let Some(letter) = letters.iter().find(|letter| letter.id() == id) else {
        return Err(Failure::Other(format!("there is no dead letter {id:?}; see `syncline dead-letter list`")));
    };
    println!("{:#}", describe(letter));
    let limits = OpenLimits { plain_bytes_max: 64 * 1024 * 1024, accept_unsealed: true };
    let opened = Envelope::from_message(&letter.message)
        .map_err(|error| error.to_string())
        .and_then(|envelope| open(&config.keyring, &envelope, limits).map_err(|error| error.to_string()));
    match opened {
        Ok(lines) => {
            print!("{}", String::from_utf8_lossy(&lines));
            Ok(())
        }
        Err(error) => Err(Failure::Other(format!("the records cannot be shown: {error}"))),
    }
}

/// Replays or discards dead letters.
pub(crate) async fn settle(
    path: &Path,
    env: &Env,
    selection: &Selection,
    settlement: Settlement,
) -> Result<(), Failure> {
    struct Settle<'a> {
        selection: &'a Selection,
        settlement: Settlement,
    }
    impl OnBroker for Settle<'_> {
        type Output = usize;

        async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<usize, Failure> {
            let mut settled = 0;
            for queue in config.shared_queues.keys() {
                let letters = read(&broker, queue, LOOK_MAX).await?;
                let chosen = letters
                    .iter()
                    .filter(|letter| self.selection.all || self.selection.ids.iter().any(|id| id == letter.id()));
                // What is left of a record too large to send is its key: there is nothing to apply.
                let (kept, chosen): (Vec<_>, Vec<_>) = chosen
                    .partition(|letter| self.settlement == Settlement::Replay && letter.reason == Reason::Oversize);
                for letter in kept {
                    eprintln!(
                        "{} cannot be replayed: {}.\nRaise record_bytes_max, change the record at the source, then discard this.",
                        letter.id(),
                        letter.error
                    );
                }
                let ids: Vec<_> = chosen.into_iter().map(|letter| letter.id().to_owned()).collect();
                if ids.is_empty() {
                    continue;
                }
                let some = broker.settle_dead_letters(queue, &ids, self.settlement).await;
                settled += some.map_err(|error| unavailable(&error))?;
            }
            Ok(settled)
        }
    }
    let config = Config::load(path, env, Role::Queue)?;
    let settled = on_broker(Settle { selection, settlement }, &config).await?;
    match (settled, settlement) {
        (0, _) => println!("No dead letter was settled."),
        (1, Settlement::Replay) => println!("1 dead letter sent to its partition again."),
        (_, Settlement::Replay) => println!("{settled} dead letters sent to their partitions again."),
        (1, Settlement::Discard) => println!("1 dead letter discarded."),
        (_, Settlement::Discard) => println!("{settled} dead letters discarded."),
    }
    let missing = selection.ids.len().saturating_sub(settled);
    if missing > 0 {
        return Err(Failure::Other(format!("{missing} of the ids were not found; see `syncline dead-letter list`")));
    }
    Ok(())
}
