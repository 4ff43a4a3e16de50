//! `syncline share list`: every share with its state, its counters and what looks wrong with it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use jiff::{Timestamp, Unit};
use serde_json::json;
use syncline_producer::share::ShareConfig;

use super::running::{Counters, Running};
use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;
use crate::queue::table;

/// What is known of one share.
struct Listed<'a> {
    name: &'a str,
    share: &'a ShareConfig,
    cipher: String,
    state: State<'a>,
    counters: Option<Counters>,
    warnings: Vec<String>,
}

/// The tables each share's records leave under.
type Tables<'a> = BTreeMap<&'a str, Vec<Arc<str>>>;

/// What a share does now.
#[derive(Clone, Copy)]
enum State<'a> {
    /// No producer could be asked.
    NotTold,
    /// The producer that runs does not have it.
    Absent,
    Running,
    /// With the reason.
    Paused(&'a str),
}

impl State<'_> {
    const fn as_str(self) -> &'static str {
        match self {
            Self::NotTold => "not told",
            Self::Absent => "absent",
            Self::Running => "running",
            Self::Paused(_) => "paused",
        }
    }
}

/// Lists every share of the configuration; asks the producer that runs, if one does.
pub(crate) async fn list(path: &Path, env: &Env, json: bool) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let running = Running::ask(config.producer.http).await;
    let tables = config.shares.iter().map(|(name, share)| {
        let tables = compile(name, share)?.tables_leaving().cloned().collect();
        Ok((name.as_str(), tables))
    });
    let tables: Tables<'_> = tables.collect::<Result<_, Failure>>()?;
    let mut listed = Vec::new();
    for (name, share) in &config.shares {
        let counters = running.as_ref().ok().and_then(|running| running.counters(name));
        let state = match &running {
            Err(_) => State::NotTold,
            Ok(_) if counters.is_none() => State::Absent,
            Ok(running) => running.fault(&share.source).map_or(State::Running, State::Paused),
        };
        let cipher = config.seal(share).cipher().to_string();
        let warnings = warnings(name, &config.shares, &tables, counters.as_ref());
        listed.push(Listed { name, share, cipher, state, counters, warnings });
    }
    if json {
        println!("{}", serde_json::Value::Array(listed.iter().map(describe).collect()));
    } else {
        print(&listed, running.as_ref().err());
    }
    Ok(())
}

/// What looks wrong with a share: others that send records of the same tables of its source, and a filter nothing fits.
fn warnings(
    name: &str,
    all: &BTreeMap<String, ShareConfig>,
    tables: &Tables<'_>,
    counters: Option<&Counters>,
) -> Vec<String> {
    let source = |name: &str| all.get(name).map(|share| &share.source);
    let own = tables.get(name).map(Vec::as_slice).unwrap_or_default();
    let others = tables.iter().filter(|(other, _)| **other != name && source(other) == source(name));
    let twice = others.filter_map(|(other, theirs)| {
        let table = own.iter().find(|table| theirs.contains(table))?;
        let queues: Vec<_> = all.get(*other)?.queues().collect();
        Some(format!(
            "share {other} sends records of table {table} too, to shared queue {}: a target table that gets both takes only \
             one of them",
            queues.join(", ")
        ))
    });
    let never = counters.and_then(|counters| {
        let filtered = counters.withheld.get("filter").copied().unwrap_or_default();
        (counters.shared == 0 && filtered > 0).then(|| {
            format!(
                "no change of {filtered} fitted its filter since the producer was started; `syncline share test {name}` says \
                 why"
            )
        })
    });
    twice.chain(never).collect()
}

fn describe(listed: &Listed<'_>) -> serde_json::Value {
    let Listed { name, share, cipher, state, counters, warnings } = listed;
    let on: Vec<_> = share.on.iter().map(|on| on.action().as_str()).collect();
    let reason = if let State::Paused(reason) = state { Some(reason) } else { None };
    let counters = counters.as_ref().map(|counters| {
        json!({
            "changes": counters.changes, "shared": counters.shared, "withheld": counters.withheld,
            "confirmed": counters.confirmed, "dead_letters": counters.dead_letters,
            "newest_change": newest(counters).map(|at| at.to_string()),
        })
    });
    json!({
        "share": name, "source": share.source, "table": share.table, "on": on,
        "interactive_only": share.interactive_only, "queue": share.queue, "queues": share.queues().collect::<Vec<_>>(),
        "cipher": cipher, "key": share.key,
        "filter": share.filter, "columns": share.columns, "state": state.as_str(), "reason": reason,
        "counters": counters, "warnings": warnings,
    })
}

/// Prints the rules, then what a running producer tells, then what looks wrong.
fn print(listed: &[Listed<'_>], not_told: Option<&String>) {
    let mut rules =
        vec![["SHARE", "SOURCE", "TABLE", "ON", "INTERACTIVE ONLY", "QUEUE", "CIPHER", "FILTER"].map(str::to_owned)];
    let mut states = vec![
        ["SHARE", "STATE", "CHANGES", "SHARED", "WITHHELD", "CONFIRMED", "DEAD", "LAST RECORD"].map(str::to_owned),
    ];
    for Listed { name, share, cipher, state, counters, .. } in listed {
        let on: Vec<_> = share.on.iter().map(|on| on.action().as_str()).collect();
        rules.push([
            (*name).to_owned(),
            share.source.clone(),
            share.table.clone(),
            on.join(","),
            if share.interactive_only { "yes" } else { "no" }.to_owned(),
            share.queues().collect::<Vec<_>>().join(","),
            cipher.clone(),
            share.filter.clone().unwrap_or_default(),
        ]);
        let number = |of: fn(&Counters) -> u64| counters.as_ref().map_or("-".to_owned(), |all| of(all).to_string());
        states.push([
            (*name).to_owned(),
            state.as_str().to_owned(),
            number(|counters| counters.changes),
            number(|counters| counters.shared),
            number(|counters| counters.withheld.values().sum()),
            number(|counters| counters.confirmed),
            number(|counters| counters.dead_letters),
            counters.as_ref().and_then(newest).map_or("none".to_owned(), |at| at.to_string()),
        ]);
    }
    print!("{}", table(&rules));
    match not_told {
        Some(why) => println!("\nnote: {why}. What its shares do is not known."),
        None => print!("\n{}", table(&states)),
    }
    for Listed { name, state, warnings, .. } in listed {
        match state {
            State::Paused(reason) => println!("\nshare {name} is paused: {reason}"),
            State::Absent => println!("\nshare {name} is not in the producer that runs; start it again to take it up"),
            State::Running | State::NotTold => {}
        }
        warnings.iter().for_each(|warning| println!("\nwarning: share {name}: {warning}"));
    }
}

/// When the newest record let out was committed, to the second.
fn newest(counters: &Counters) -> Option<Timestamp> {
    let seconds = jiff::SignedDuration::try_from_secs_f64(counters.newest?).ok()?;
    Timestamp::from_duration(seconds).ok()?.round(Unit::Second).ok()
}
