//! `syncline notify`: whether those who are told of faults can be told.

use std::path::Path;

use serde_json::json;
use syncline_shared::notify::Receiver;

use crate::config::{Config, Env};
use crate::failure::Failure;

/// Sends a test message to each receiver and says what became of it; fails when one does not take it.
pub(crate) async fn test(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load_all(path, env)?;
    let receivers = config.notify.as_ref().map(Receiver::all).unwrap_or_default();
    if receivers.is_empty() {
        let text =
            format!("{} names nobody to tell.\nWrite [notify.email.NAME] or [notify.webhook.NAME].", path.display());
        return Err(Failure::Usage(text));
    }
    let mut failed = 0;
    let mut told = Vec::new();
    for receiver in receivers {
        let problem = receiver.test().await.err().map(|error| error.to_string());
        failed += usize::from(problem.is_some());
        let (name, address) = (receiver.name(), receiver.address());
        if json {
            told.push(json!({ "receiver": name, "address": address, "problem": problem }));
        } else {
            match problem {
                None => println!("{name}: sent, {address} took it"),
                Some(problem) => println!("{name}: NOT sent: {problem}"),
            }
        }
    }
    if json {
        println!("{}", serde_json::Value::Array(told));
    }
    match failed {
        0 => Ok(()),
        1 => Err(Failure::Unavailable("1 receiver was not told.".to_owned())),
        failed => Err(Failure::Unavailable(format!("{failed} receivers were not told."))),
    }
}
