//! `syncline source`: repairs of a source that only a person can ask for.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::json;
use syncline_producer::config::SourceConfig;
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::{SourceError, WatchedTable};
use syncline_shared::record::Version;
use syncline_shared::tasks::chain;

use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;

/// Makes a source begin anew after changes were lost, and says what is left to do at the targets.
pub(crate) async fn rebuild(path: &Path, env: &Env, json: bool, name: &str, whole: bool) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let newer_than = match config.sources.get(name) {
        Some(SourceConfig::Postgres(postgres)) => {
            PostgresSource::new(name, postgres.clone(), Vec::new()).rebuild(whole).await
        }
        Some(SourceConfig::Sqlite(_)) => {
            return Err(Failure::Other(
                "a SQLite source copies its tables again by itself when its log is lost".to_owned(),
            ));
        }
        None => return Err(unknown(&config, name)),
    };
    let newer_than = newer_than.map_err(|error| unavailable(&error))?;
    if json {
        println!("{}", json!({ "source": name, "newer_than": newer_than.to_string() }));
        return Ok(());
    }
    let version = uuid(newer_than);
    println!(
        "The source {name} begins anew: at its next start, or within seconds if it runs, it makes a new slot and copies\n\
         every shared table for all its shares. Inserts and updates that were lost arrive with the copies.\n\n\
         Deletes that were lost do not. When the copies are there (the producer logs \"the copied rows are safe at the\n\
         broker\", and syncline queue status shows empty queues), look at each target table for records that came in none:\n\n\
         \x20 SELECT * FROM <table> WHERE _syncline_version < '{version}';   -- PostgreSQL\n\
         \x20 SELECT * FROM <table> WHERE _syncline_version < x'{newer_than}';   -- SQLite\n\n\
         They were deleted at the source meanwhile, or no longer fit the share's filter. Nothing removes them by itself."
    );
    Ok(())
}

/// Lets a source go on that is paused since all records of a table were gone at once.
pub(crate) async fn resume(path: &Path, env: &Env, json: bool, name: &str) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let mut tables = BTreeSet::new();
    for (share, rule) in config.shares.iter().filter(|(_, share)| share.source == name) {
        tables.extend(compile(share, rule)?.tables().iter().cloned());
    }
    let tables = tables.into_iter().map(|table| WatchedTable { table, ..WatchedTable::default() }).collect();
    let resumed = match config.sources.get(name) {
        Some(SourceConfig::Postgres(postgres)) => PostgresSource::new(name, postgres.clone(), tables).resume().await,
        Some(SourceConfig::Sqlite(_)) => Ok(Vec::new()),
        None => return Err(unknown(&config, name)),
    };
    let resumed = resumed.map_err(|error| unavailable(&error))?;
    if json {
        let tables: Vec<&str> = resumed.iter().map(AsRef::as_ref).collect();
        println!("{}", json!({ "source": name, "tables": tables }));
    } else if resumed.is_empty() {
        println!("No table of the source {name} waits for this.");
    } else {
        println!(
            "The source {name} goes on within seconds if it runs, at its next start otherwise: {}.",
            resumed.join(", ")
        );
    }
    Ok(())
}

/// A version as a PostgreSQL target shows it.
fn uuid(version: Version) -> String {
    let digits = version.to_string();
    let part = |range: std::ops::Range<usize>| digits.get(range).unwrap_or_default().to_owned();
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

fn unknown(config: &Config, name: &str) -> Failure {
    let known: Vec<_> = config.sources.keys().map(String::as_str).collect();
    Failure::Other(format!("there is no source {name} in the configuration; there are: {}", known.join(", ")))
}

/// Tells a source's error to a person.
pub(crate) fn unavailable(error: &SourceError) -> Failure {
    let hint = match error {
        SourceError::Taken { .. } => "\nStop the producer first.",
        SourceError::Unreachable { .. }
        | SourceError::Refused { .. }
        | SourceError::Unfit { .. }
        | SourceError::Gap { .. }
        | SourceError::Protocol { .. } => "",
    };
    let mut text = chain(error);
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Failure::Unavailable(format!("{text}.{hint}"))
}
