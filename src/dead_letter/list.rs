//! `dead-letter list` and `show`.

use std::path::Path;

use serde_json::json;
use syncline_shared::envelope::Envelope;
use syncline_shared::queue::DeadLetter;
use syncline_shared::seal::{OpenLimits, open};

use super::choose::read;
use crate::cli::Filter;
use crate::config::{Config, Env, Role};
use crate::failure::Failure;
use crate::queue::table;

/// As much plaintext as a person may want to see at once.
pub(crate) const LIMITS: OpenLimits = OpenLimits { plain_bytes_max: 64 * 1024 * 1024, accept_unsealed: true };

/// Lists dead letters, oldest first.
pub(super) async fn list(path: &Path, env: &Env, json: bool, filter: &Filter, limit: usize) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let all = read(&config, filter.queue.as_deref()).await?;
    let letters: Vec<_> =
        all.iter().flat_map(|of| of.letters.iter().filter(|letter| filter.fits(letter)).take(limit)).collect();
    if json {
        let list: Vec<_> = letters.into_iter().map(describe).collect();
        println!("{}", serde_json::Value::Array(list));
        return Ok(());
    }
    if letters.is_empty() {
        println!("There are no dead letters.");
        return Ok(());
    }
    let heading = ["ID", "QUEUE", "ROUTING KEY", "REASON", "TRIED", "FIRST", "LAST", "ERROR"];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(letters.iter().map(|letter| {
        let (id, queue) = (letter.id().to_owned(), letter.queue.clone());
        let (reason, tried) = (letter.reason.to_string(), letter.attempts.to_string());
        let (first, last) = (format!("{:.0}", letter.first_at), format!("{:.0}", letter.at));
        [id, queue, letter.routing_key.clone(), reason, tried, first, last, letter.error.clone()]
    }));
    print!("{}", table(&rows));
    println!("\nMend the cause, then `syncline dead-letter replay ID`, or `replay` with the same filters.");
    Ok(())
}

fn describe(letter: &DeadLetter) -> serde_json::Value {
    json!({
        "id": letter.id(), "queue": letter.queue, "routing_key": letter.routing_key, "reason": letter.reason.as_str(),
        "error": letter.error, "attempts": letter.attempts, "first_at": letter.first_at.to_string(),
        "at": letter.at.to_string(), "behind": letter.behind, "key_only": letter.key_only, "share": letter.message.share(),
        "table": letter.message.table(), "key": letter.message.key(), "records": letter.message.records(),
        "bytes": letter.message.body.len(),
    })
}

/// Shows what is known of one dead letter; its records only when asked for. No other command prints record values.
pub(super) async fn show(path: &Path, env: &Env, id: &str, with_records: bool) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let all = read(&config, None).await?;
    let Some(letter) = all.iter().flat_map(|of| &of.letters).find(|letter| letter.id() == id) else {
        return Err(Failure::Other(format!("there is no dead letter {id}; see `syncline dead-letter list`")));
    };
    println!("{:#}", describe(letter));
    if !with_records {
        return Ok(());
    }
    let opened = Envelope::from_message(&letter.message)
        .map_err(|error| error.to_string())
        .and_then(|envelope| open(&config.keyring, &envelope, LIMITS).map_err(|error| error.to_string()));
    let lines = opened.map_err(|error| Failure::Other(format!("the records cannot be shown: {error}")))?;
    print!("{}", String::from_utf8_lossy(&lines));
    Ok(())
}
