//! `syncline job`: what the parts of the running services do.

use std::path::Path;

use jiff::Timestamp;
use serde_json::json;
use syncline_shared::admin;
use syncline_shared::health::Job;

use crate::config::{Config, Env};
use crate::failure::Failure;
use crate::queue::table;

/// Asks the services of this machine that the configuration names, and lists their parts; one of them has to run.
pub(crate) async fn list(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load_all(path, env)?;
    let mut jobs: Vec<(&str, Job)> = Vec::new();
    let mut problems = Vec::new();
    for (service, listening) in [("producer", config.producer.http), ("consumer", config.consumer.http)] {
        let address = admin::reach(listening);
        match admin::read(address, "/jobs").await {
            Ok((200, page)) => match serde_json::from_str::<Vec<Job>>(&page) {
                // As one process both answer at the producer's address.
                Ok(list) => jobs.extend(list.into_iter().map(|job| (side(&job, service), job))),
                Err(_) => problems.push(format!("{address} answers something else")),
            },
            Ok((status, _)) => problems.push(format!("{address} answers {status}: is it of another version?")),
            // Not running here.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
            Err(error) => problems.push(format!("{address} does not answer: {error}")),
        }
    }
    if json {
        let list = jobs.iter().map(|(service, job)| {
            let Job { job, state, since, until, attempts, reason } = job;
            json!({ "service": service, "job": job, "state": state, "since": since, "until": until, "attempts": attempts,
                "reason": reason })
        });
        println!("{}", serde_json::Value::Array(list.collect()));
    } else if !jobs.is_empty() {
        print!("{}", table(&rows(&jobs)));
        for (_, Job { job, reason, .. }) in &jobs {
            if let Some(reason) = reason {
                println!("\n{job}: {reason}");
            }
        }
    }
    if jobs.is_empty() && problems.is_empty() {
        return Err(Failure::Unavailable(format!(
            "No service answers at {} or {}.\nStart one, or set `http` in [producer] and [consumer] to where they are.",
            config.producer.http, config.consumer.http
        )));
    }
    if problems.is_empty() { Ok(()) } else { Err(Failure::Unavailable(problems.join("\n"))) }
}

/// Which end a part belongs to: `up` has both.
fn side<'s>(job: &Job, asked: &'s str) -> &'s str {
    if job.job.starts_with("subscription ") { "consumer" } else { asked }
}

fn rows(jobs: &[(&str, Job)]) -> Vec<[String; 6]> {
    let mut rows = vec![["SERVICE", "JOB", "STATE", "SINCE", "NEXT", "ATTEMPTS"].map(str::to_owned)];
    let time = |at: &Timestamp| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string();
    let dash = || "-".to_owned();
    rows.extend(jobs.iter().map(|(service, Job { job, state, since, until, attempts, .. })| {
        let attempts = if *attempts > 0 { attempts.to_string() } else { dash() };
        let next = until.as_ref().map_or_else(dash, time);
        [(*service).to_owned(), job.clone(), state.as_str().to_owned(), time(since), next, attempts]
    }));
    rows
}
