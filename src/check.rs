//! `syncline check`: validates the configuration, then reaches every system it names. Changes nothing.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::json;
use syncline_consumer::config::TargetConfig;
use syncline_consumer::target::postgres::PostgresTarget;
use syncline_consumer::target::sqlite::SqliteTarget;
use syncline_consumer::target::{ApplyError, TableMap, Target};
use syncline_producer::config::SourceConfig;
use syncline_producer::source::SourceError;
use syncline_producer::source::WatchedTable;
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::sqlite::SqliteSource;
use syncline_shared::queue::{Broker, QueueError};
use syncline_shared::tasks::chain;

use crate::config::{Config, Env, Role};
use crate::failure::Failure;
use crate::queue::{OnBroker, on_broker};

/// What was found about one system.
struct Finding {
    system: String,
    problems: Vec<String>,
}

/// Prints one line per system; fails when any has a problem.
pub(crate) async fn run(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load(path, env, role(path)?)?;
    let mut findings = vec![on_broker(Reach, &config).await?];
    findings.extend(sources(&config).await);
    findings.extend(targets(&config).await);
    let bad: usize = findings.iter().map(|finding| finding.problems.len()).sum();
    if json {
        let list: Vec<_> =
            findings.iter().map(|one| json!({ "system": one.system, "problems": one.problems })).collect();
        println!("{}", serde_json::Value::Array(list));
    } else {
        println!(
            "{}: valid, {} shares, {} subscriptions",
            path.display(),
            config.shares.len(),
            config.subscriptions.len()
        );
        for Finding { system, problems } in &findings {
            println!("{system}: {}", if problems.is_empty() { "ok" } else { "NOT OK" });
            for problem in problems {
                println!("  - {problem}");
            }
        }
    }
    match bad {
        0 => Ok(()),
        1 => Err(Failure::Unavailable("1 problem found.".to_owned())),
        bad => Err(Failure::Unavailable(format!("{bad} problems found."))),
    }
}

/// A file with only one end of the path is checked as that end.
fn role(path: &Path) -> Result<Role, Failure> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let has = |table: &str| text.lines().any(|line| line.trim_start().starts_with(&format!("[{table}.")));
    Ok(match (has("share"), has("subscription")) {
        (true, false) => Role::Producer,
        (false, true) => Role::Consumer,
        (true, true) | (false, false) => Role::Both,
    })
}

/// Looks at the broker and the shared queues.
struct Reach;

impl OnBroker for Reach {
    type Output = Finding;

    async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Finding, Failure> {
        let mut problems = Vec::new();
        for queue in config.shared_queues.values() {
            match broker.status(queue).await {
                // A queue that is not there yet is made by whichever service starts first.
                Ok(_) | Err(QueueError::Topology { .. }) => {}
                Err(error) => problems.push(chain(&error)),
            }
        }
        problems.dedup();
        Ok(Finding { system: "queue".to_owned(), problems })
    }
}

async fn sources(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, source) in &config.sources {
        let mut tables: Vec<_> =
            config.shares.values().filter(|share| share.source == *name).map(|share| share.table.as_str()).collect();
        tables.sort_unstable();
        tables.dedup();
        let tables =
            tables.into_iter().map(|table| WatchedTable { table: table.into(), copy_for: Vec::new() }).collect();
        let problems: Vec<SourceError> = match source {
            SourceConfig::Postgres(postgres) => PostgresSource::new(name, postgres.clone(), tables).check().await,
            SourceConfig::Sqlite(sqlite) => SqliteSource::new(name, sqlite.clone(), tables).check().await,
        };
        findings.push(Finding {
            system: format!("source {name}"),
            problems: problems.iter().map(|error| chain(error)).collect(),
        });
    }
    findings
}

async fn targets(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, target) in &config.targets {
        let tables: BTreeMap<String, TableMap> = config
            .subscriptions
            .values()
            .filter(|subscription| subscription.target == *name)
            .flat_map(|subscription| {
                subscription.table.keys().filter_map(|table| Some((table.clone(), subscription.map("", table)?)))
            })
            .collect();
        let tables: Vec<_> = tables.into_values().collect();
        let checked: Result<(), Vec<ApplyError>> = match target {
            TargetConfig::Postgres(postgres) => PostgresTarget::new(postgres.clone(), "check").check(&tables).await,
            TargetConfig::Sqlite(sqlite) => SqliteTarget::new(sqlite.clone()).check(&tables).await,
        };
        let problems = checked.err().unwrap_or_default().iter().map(|error| chain(error)).collect();
        findings.push(Finding { system: format!("target {name}"), problems });
    }
    findings
}
