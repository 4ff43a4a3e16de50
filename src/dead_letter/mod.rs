//! `syncline dead-letter`: what was set aside, and what becomes of it.

mod choose;
mod list;
mod park;
mod reseal;
mod settle;

pub(crate) use choose::read;
pub(crate) use list::LIMITS;

use std::path::Path;

use crate::cli::DeadLetterCommand;
use crate::config::Env;
use crate::failure::Failure;

/// Does what the command says.
pub(crate) async fn run(path: &Path, env: &Env, json: bool, command: DeadLetterCommand) -> Result<(), Failure> {
    match command {
        DeadLetterCommand::List { filter, limit } => list::list(path, env, json, &filter, limit).await,
        DeadLetterCommand::Show { id, open } => list::show(path, env, &id, open).await,
        DeadLetterCommand::Replay(selection) => settle::replay(path, env, json, &selection).await,
        DeadLetterCommand::Discard { selection, yes } => settle::discard(path, env, json, &selection, yes).await,
        DeadLetterCommand::Reseal { selection, key } => {
            reseal::reseal(path, env, json, &selection, key.as_deref()).await
        }
        DeadLetterCommand::Park { id } => park::park(path, env, &id.to_string()).await,
    }
}

/// Tells a count to a person or to a machine.
fn tell(json: bool, did: &str, count: usize) {
    if json {
        println!("{}", serde_json::json!({ did: count }));
        return;
    }
    match count {
        0 => println!("No dead letter was {did}."),
        1 => println!("1 dead letter was {did}."),
        _ => println!("{count} dead letters were {did}."),
    }
}

/// Tells how far a long work is. To standard error: the result alone goes to standard output.
fn tell_progress(did: &str, done: usize, of: usize) {
    if done < of {
        eprintln!("{done} of {of} {did} ..");
    }
}
