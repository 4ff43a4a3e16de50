//! What the running services remember of a record, by the journals they tell on their admin endpoints.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use syncline_shared::admin;
use syncline_shared::journal::Told;

use super::known::{Answer, Known, Service};
use super::record::Subject;
use crate::cli::TraceArgs;
use crate::config::Config;

/// One part of a process, as it tells of its journal.
#[derive(Deserialize)]
struct Part {
    part: String,
    journal: Option<Value>,
}

/// Asks every service that the configuration or the command line names.
pub(super) async fn ask(known: &mut Known, config: &Config, subject: &Subject<'_>, args: &TraceArgs) {
    let mut asked = BTreeSet::new();
    let parts = [
        ("producer", !config.shares.is_empty(), config.producer.http, &args.producer),
        ("consumer", !config.subscriptions.is_empty(), config.consumer.http, &args.consumer),
    ];
    let mut silent = Vec::new();
    for (part, is_configured, own, others) in parts {
        if is_configured && own.port() == 0 {
            known.notes.push(format!(
                "[{part}] http takes a free port at every start, which only its log tells: name it with --{part} URL"
            ));
        }
        let own = (is_configured && own.port() > 0).then(|| admin::reach(own).to_string());
        for address in own.into_iter().chain(others.iter().cloned()) {
            if !asked.insert(address.clone()) {
                continue;
            }
            if let Err(error) = ask_one(known, &address, subject).await {
                silent.push(Service { part, address, answer: Answer::Silent { error }, paused: Vec::new() });
            }
        }
    }
    // As one process both are under the producer's address.
    let answered = |part| known.services.iter().any(|service| service.part == part);
    let unheard: Vec<_> = silent
        .into_iter()
        .filter(|service| {
            !answered(service.part)
                || args.producer.contains(&service.address)
                || args.consumer.contains(&service.address)
        })
        .collect();
    known.services.extend(unheard);
    known.decided.sort_by_key(|decided| decided.at);
    known.applied.sort_by_key(|applied| applied.at);
}

/// Asks one service, which may have both parts.
async fn ask_one(known: &mut Known, address: &str, subject: &Subject<'_>) -> Result<(), String> {
    let found = resolve(address).await.map_err(|error| error.to_string())?;
    let page = async |path: &str| admin::read(found, path).await.map_err(|error| error.to_string());
    let (_, ready) = page("/readyz").await?;
    let paused: Vec<String> = ready.lines().filter(|line| *line != "ready").map(str::to_owned).collect();
    let mut answers: Vec<(&'static str, Answer)> = Vec::new();
    for id in subject.ids() {
        let (status, body) = page(&format!("/trace/{id:016x}")).await?;
        let parts: Vec<Part> = match status {
            200 => serde_json::from_str(&body).map_err(|_| "it answers something else".to_owned())?,
            _ => return Err(format!("it answers {status}: is it of another version?")),
        };
        answers.clear();
        for Part { part, journal } in parts {
            answers.push(match part.as_str() {
                "producer" => ("producer", take(journal, &mut known.decided)?),
                _ => ("consumer", take(journal, &mut known.applied)?),
            });
        }
    }
    for (part, answer) in answers {
        let paused = paused.iter().filter(|line| line.starts_with("subscription ") == (part == "consumer"));
        let (address, paused) = (address.to_owned(), paused.cloned().collect());
        known.services.push(Service { part, address, answer, paused });
    }
    Ok(())
}

/// Takes in the entries of a journal.
fn take<T: DeserializeOwned>(journal: Option<Value>, into: &mut Vec<T>) -> Result<Answer, String> {
    let Some(journal) = journal else { return Ok(Answer::Off) };
    let told: Told<T> = serde_json::from_value(journal).map_err(|_| "it answers something else".to_owned())?;
    into.extend(told.entries);
    Ok(Answer::On { since: told.since })
}

async fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut found = tokio::net::lookup_host(address).await?;
    found.next().ok_or_else(|| io::Error::other("the name has no address"))
}
