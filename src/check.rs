//! `syncline check`: validates the configuration, then reaches every system it names. Changes nothing, makes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anstream::println;
use serde_json::json;
use syncline_consumer::config::TargetConfig;
use syncline_consumer::target::postgres::PostgresTarget;
use syncline_consumer::target::sqlite::SqliteTarget;
use syncline_consumer::target::{ApplyError, TableMap, Target};
use syncline_producer::config::SourceConfig;
use syncline_producer::share::{Share, ShareConfig};
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::sqlite::SqliteSource;
use syncline_producer::source::{Lookups, Source as _, WatchedTable};
use syncline_shared::class::Class;
use syncline_shared::config::Places;
use syncline_shared::notify::Receiver;
use syncline_shared::queue::{Broker, QueueError};
use syncline_shared::tasks::chain;
use syncline_shared::traces;

use crate::cli::DEFAULT_FILE;
use crate::config::{Config, Env, compile};
use crate::failure::Failure;
use crate::fit::Fit;
use crate::queue::{OnBroker, on_broker};
use crate::style::{BAD, GOOD, NOTE, PLACE, counted};

/// What was found about one system.
struct Finding {
    system: String,
    /// What keeps it from working.
    problems: Vec<String>,
    /// What may well be meant so, and what comes of it.
    notes: Vec<String>,
}

/// Prints one line per system; fails when any has a problem.
pub(crate) async fn run(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load_all(path, env)?;
    let mut findings = vec![on_broker(Reach, &config).await?];
    findings.extend(sources(&config).await);
    findings.extend(targets(&config).await);
    findings.extend(receivers(&config).await);
    findings.extend(collector(&config).await);
    let bad: usize = findings.iter().map(|finding| finding.problems.len()).sum();
    if json {
        let describe = |one: &Finding| json!({ "system": one.system, "problems": one.problems, "notes": one.notes });
        let list: Vec<_> = findings.iter().map(describe).collect();
        println!("{}", serde_json::Value::Array(list));
    } else {
        println!(
            "{}: valid, {}, {}",
            path.display(),
            counted(config.shares.len(), "share"),
            counted(config.subscriptions.len(), "subscription")
        );
        for Finding { system, problems, notes } in &findings {
            if problems.is_empty() {
                println!("{PLACE}{system}{PLACE:#}: {GOOD}ok{GOOD:#}");
            } else {
                println!("{PLACE}{system}{PLACE:#}: {BAD}NOT OK{BAD:#}");
            }
            for problem in problems {
                println!("  {BAD}-{BAD:#} {problem}");
            }
            for note in notes {
                println!("  {NOTE}note:{NOTE:#} {note}");
            }
        }
        if bad == 0 {
            println!("Next: {}", next(&config, path));
        }
    }
    if bad == 0 {
        return Ok(());
    }
    Err(Failure::Unavailable(format!(
        "{} found. Mend them, then check again. A service that is started now waits at what does not work, says so in its \
         log and at /readyz, and goes on by itself.",
        counted(bad, "problem")
    )))
}

/// What a person does after a check that found nothing.
fn next(config: &Config, path: &Path) -> String {
    let file = if path == Path::new(DEFAULT_FILE) { String::new() } else { format!(" --config {}", path.display()) };
    match (config.shares.is_empty(), config.subscriptions.is_empty()) {
        (false, true) => format!("syncline producer{file}"),
        (true, _) => format!("syncline consumer{file}"),
        (false, false) => {
            format!("syncline up{file}, or each service by itself: syncline producer{file}, syncline consumer{file}")
        }
    }
}

/// Looks at the broker and the shared queues.
struct Reach;

impl OnBroker for Reach {
    type Output = Finding;

    async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Finding, Failure> {
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        for queue in config.shared_queues.values() {
            match broker.status(queue).await {
                Ok(status) if status.partitions.len() == usize::try_from(queue.partitions).unwrap_or(usize::MAX) => {}
                Ok(status) => problems.push(format!(
                    "shared queue {} has {} partitions, the configuration says {}",
                    queue.name,
                    status.partitions.len(),
                    queue.partitions
                )),
                Err(QueueError::Missing { queue }) => {
                    notes.push(format!(
                        "shared queue {queue} does not exist; whichever service starts first creates it"
                    ));
                }
                Err(error) => problems.push(chain(&error)),
            }
        }
        problems.dedup();
        Ok(Finding { system: "queue".to_owned(), problems, notes })
    }
}

async fn sources(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, source) in &config.sources {
        let shares: Vec<_> = config
            .shares
            .iter()
            .filter(|(_, share)| share.source == *name)
            .filter_map(|(name, share)| Some((compile(name, share).ok()?, share)))
            .collect();
        let tables: BTreeSet<_> = shares.iter().flat_map(|(share, _)| share.tables()).cloned().collect();
        let tables = tables.into_iter().map(|table| WatchedTable { table, ..WatchedTable::default() }).collect();
        let (checked, unshown) = match source {
            SourceConfig::Postgres(postgres) => {
                let source = PostgresSource::new(name, postgres.clone(), tables);
                (source.check().await, lookups(&source.lookups(), &shares, &config.places).await)
            }
            SourceConfig::Sqlite(sqlite) => {
                let source = SqliteSource::new(name, sqlite.clone(), tables);
                (source.check().await, lookups(&source.lookups(), &shares, &config.places).await)
            }
        };
        let mut problems: Vec<String> = checked.problems.iter().map(|error| chain(error)).collect();
        let fit = |(share, share_config)| Fit {
            places: &config.places,
            share,
            config: share_config,
            source,
            checked: &checked,
        };
        let fits: Vec<_> = shares.iter().map(|(share, config)| fit((share, *config))).collect();
        problems.extend(fits.iter().flat_map(Fit::problems));
        problems.extend(unshown);
        let missing = |table| format!("table {table} does not exist; its shares wait for it");
        let mut notes: Vec<String> = checked.missing.iter().map(missing).collect();
        notes.extend(fits.iter().flat_map(Fit::notes));
        findings.push(Finding { system: format!("source {name}"), problems, notes });
    }
    findings
}

/// The lookup tables of display values that cannot be asked, with the place of the first column that needs each.
async fn lookups(by: &impl Lookups, shares: &[(Share, &ShareConfig)], places: &Places) -> Vec<String> {
    let mut problems = Vec::new();
    for (share, config) in shares {
        for lookup in share.lookups() {
            let Err(error) = by.look_up(lookup, &[]).await else { continue };
            // A source out of reach is told once.
            if error.class() == Class::Systemic {
                let column = config.display.iter().find(|(_, one)| *one == lookup).map(|(column, _)| column.as_str());
                let path = format!("share.{}.display.{}", share.name(), column.unwrap_or_default());
                problems.push(format!("{}: {}", places.at(&path), chain(&error)));
            }
        }
    }
    problems
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
        findings.push(Finding { system: format!("target {name}"), problems, notes: Vec::new() });
    }
    findings
}

/// Those who are told of faults; nothing is sent to them.
async fn receivers(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for receiver in config.notify.as_ref().map(Receiver::all).unwrap_or_default() {
        let problems = receiver.check().await.err().iter().map(|error| chain(error)).collect();
        findings.push(Finding { system: format!("notify {}", receiver.name()), problems, notes: Vec::new() });
    }
    findings
}

/// Where spans go; it is sent a request without any.
async fn collector(config: &Config) -> Option<Finding> {
    let problems = traces::check(config.traces.as_ref()?).await.err().iter().map(|error| chain(error)).collect();
    Some(Finding { system: "traces".to_owned(), problems, notes: Vec::new() })
}
