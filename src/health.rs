//! `syncline health`: whether the services of a configuration are ready, for health checks of containers.

use std::path::Path;

use serde_json::json;
use syncline_shared::admin;

use crate::config::{Config, Env};
use crate::failure::Failure;

/// Asks the services of this machine that the configuration names; one of them has to run, and none may be paused.
pub(crate) async fn run(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load_all(path, env)?;
    let mut answers = Vec::new();
    for (service, address) in [("producer", config.producer.http), ("consumer", config.consumer.http)] {
        match admin::read(admin::reach(address), "/readyz").await {
            Ok((200, _)) => answers.push((service, None)),
            Ok((_, reasons)) => answers.push((service, Some(reasons))),
            // Not running here, or as one process under the other's address.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => answers.push((service, Some(format!("{address} does not answer: {error}\n")))),
        }
    }
    if json {
        let list: Vec<_> =
            answers.iter().map(|(service, paused)| json!({ "service": service, "paused": paused })).collect();
        println!("{}", serde_json::Value::Array(list));
    }
    // Each line names its part.
    let paused: String = answers.iter().filter_map(|(_, paused)| paused.as_deref()).collect();
    match (answers.is_empty(), paused.trim_end()) {
        (true, _) => Err(Failure::Unavailable(format!(
            "No service answers at {} or {}.\nStart one, or set `http` in [producer] and [consumer] to where they are.",
            config.producer.http, config.consumer.http
        ))),
        (false, "") if json => Ok(()),
        (false, "") => {
            println!("ready");
            Ok(())
        }
        (false, paused) => Err(Failure::Unavailable(paused.to_owned())),
    }
}
