//! What the systems themselves have of a record now: the source with its shares, the targets, the broker.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use syncline_consumer::config::TargetConfig;
use syncline_consumer::target::postgres::PostgresTarget;
use syncline_consumer::target::sqlite::SqliteTarget;
use syncline_consumer::target::{Standing, TableMap, Target};
use syncline_producer::share::{Decision, ShareOn, Withheld};
use syncline_producer::source::Change;
use syncline_shared::envelope::{Envelope, Route};
use syncline_shared::journal::record_id;
use syncline_shared::queue::{Broker, DeadLetter, QueueError};
use syncline_shared::record::{Action, Row, Version, read_lines};
use syncline_shared::seal::open;
use syncline_shared::tasks::chain;

use super::known::{AtSource, AtTarget, Known, Letter, Now, Tried};
use super::record::{self, Sharing, Subject};
use crate::config::Config;
use crate::dead_letter::{LIMITS, read};
use crate::failure::Failure;
use crate::queue::{OnBroker, on_broker};
use crate::share::{Verdict, session, tried};

/// Names this command among those that use a target.
const WRITER: &str = "trace";

/// Whether the sources have the record, and what its shares would do with it.
pub(super) async fn at_source(known: &mut Known, config: &Config, subject: &Subject<'_>) {
    known.notes.extend(subject.notes.iter().cloned());
    for (name, found) in &subject.sources {
        let at = match found {
            Ok(Some(_)) => AtSource::Here,
            Ok(None) => AtSource::Gone,
            Err(error) => {
                known.miss(format!("source {name}: {error}"));
                AtSource::NotAsked(error.clone())
            }
        };
        known.sources.push(((*name).to_owned(), at));
    }
    for sharing in &subject.shares {
        let found = subject.sources.get(sharing.config.source.as_str()).and_then(|found| found.as_ref().ok());
        let here = found.and_then(Option::as_ref).filter(|here| sharing.share.tables().contains(&here.table));
        let tried = match here {
            None => None,
            Some(here) => match try_out(config, sharing, here, &subject.key).await {
                Ok(tried) => Some(tried),
                Err(error) => {
                    known.note(format!("share {} cannot be tried: {error}", sharing.name));
                    None
                }
            },
        };
        let queues: BTreeSet<_> = config.destinations(sharing.config).into_iter().map(|one| one.queue.name).collect();
        known.shares.push(Now { share: sharing.name.to_owned(), queues: queues.into_iter().collect(), tried });
    }
}

/// Puts the record as it is now to a share: whether it is one of the share's, and then as an update, or an insert where the
/// share is not on those.
async fn try_out(config: &Config, sharing: &Sharing<'_>, here: &record::AtSource, key: &Row) -> Result<Tried, String> {
    let Sharing { name, config: own, share } = sharing;
    let change = Change {
        table: here.table.clone(),
        action: if own.on.contains(&ShareOn::Update) { Action::Update } else { Action::Insert },
        key: key.clone(),
        before: None,
        after: Some(here.row.clone()),
        version: Version::new(0, 0, 1),
        at: Timestamp::now(),
        session: session(config, &own.source, &here.row),
        origin: [].into(),
        only_share: None,
    };
    // Of one that is not, an update might send the delete: what it was before is not known.
    let as_it_is = Change { action: Action::Bulk, ..change.clone() };
    if let Decision::Withhold(reason @ (Withheld::Filter | Withheld::Class | Withheld::NoRoute)) =
        share.decide(&as_it_is)
    {
        let filter = share.explain(&change).unwrap_or_default();
        return Ok(Tried { verdict: Verdict::Withheld { reason }, filter, messages: Vec::new() });
    }
    let crate::share::Tried { verdict, filter, messages } = tried(config, own, share, &change).await.map_err(text)?;
    let routes =
        || messages.iter().map(|one| (&one.queue, one.envelope.route())).filter(|(_, route)| route.share == *name);
    // Where it may have been before is no place it goes to.
    let goes = routes().any(|(_, route)| route.action != Action::Delete);
    let to = routes().filter(|(_, route)| !goes || route.action != Action::Delete);
    let told = |(queue, route): (&String, &Route)| {
        (route.action.to_string(), route.table.clone(), queue.clone(), route.partition)
    };
    Ok(Tried { verdict, filter, messages: to.map(told).collect() })
}

/// What the targets have of the record that its shares send to; what an earlier look found is forgotten.
pub(super) async fn at_targets(known: &mut Known, config: &Config, subject: &Subject<'_>) {
    let mut away = BTreeMap::new();
    known.targets.clear();
    for (name, subscription) in &config.subscriptions {
        let is_sent_to = |share: &Now| share.queues.contains(&subscription.queue);
        if !known.shares.is_empty() && !known.shares.iter().any(is_sent_to) {
            continue;
        }
        for table in subject.leaving() {
            let Some(map) = subscription.map("", table) else {
                known.note(format!("subscription {name} does not list table {table}"));
                continue;
            };
            let Some(target) = config.targets.get(&subscription.target) else { unreachable!("checked on loading") };
            let standing = if subject.names_known {
                look(target, &map, &subject.key).await
            } else {
                Err("the names of the key's columns are not known here: write column=value".to_owned())
            };
            if let (Err(error), true) = (&standing, subject.names_known) {
                away.insert(subscription.target.clone(), error.clone());
            }
            known.targets.push(AtTarget {
                target: subscription.target.clone(),
                queue: subscription.queue.clone(),
                table: table.to_owned(),
                into: map.into,
                standing,
            });
        }
    }
    for (target, error) in away {
        known.miss(format!("target {target}: {error}"));
    }
}

async fn look(target: &TargetConfig, map: &TableMap, key: &Row) -> Result<Standing, String> {
    let looked = match target {
        TargetConfig::Postgres(postgres) => PostgresTarget::new(postgres.clone(), WRITER).standing(map, key).await,
        TargetConfig::Sqlite(sqlite) => SqliteTarget::new(sqlite.clone()).standing(map, key).await,
    };
    looked.map_err(|error| chain(&error))
}

/// The dead letters of the record, without those of an earlier look; whether the broker answers.
pub(super) async fn among_dead_letters(known: &mut Known, config: &Config, subject: &Subject<'_>) -> bool {
    let all = match read(config, None).await {
        Ok(all) => all,
        Err(failure) => {
            known.miss(format!("queue: {}", text(failure)));
            return false;
        }
    };
    let mut closed = 0;
    known.letters.clear();
    for letter in all.iter().flat_map(|of| &of.letters) {
        match of_record(letter, config, subject) {
            Ok(found) => known.letters.extend(found),
            Err(Closed) => closed += 1,
        }
    }
    known.letters.sort_by_key(|letter| letter.at);
    if closed > 0 {
        known.note(format!("{closed} dead letters of its tables do not open here: one may be of this record"));
    }
    true
}

/// What waits in the partitions that the record may be in.
pub(super) async fn in_partitions(known: &mut Known, config: &Config, subject: &Subject<'_>) {
    match on_broker(Depths, config).await {
        Ok(depths) => {
            let noted = known.applied.iter().map(|applied| (applied.queue.clone(), applied.partition));
            let partitions: BTreeSet<_> = subject.partitions(config).into_iter().chain(noted).collect();
            known.waiting = depths.into_iter().filter(|(partition, _)| partitions.contains(partition)).collect();
        }
        Err(failure) => known.miss(format!("queue: {}", text(failure))),
    }
}

/// A dead letter whose records cannot be read.
struct Closed;

/// The record in a dead letter of one of its tables, if it is there.
fn of_record(letter: &DeadLetter, config: &Config, subject: &Subject<'_>) -> Result<Option<Letter>, Closed> {
    let table = letter.message.table().unwrap_or_default();
    if !subject.leaving().contains(table) {
        return Ok(None);
    }
    let envelope = Envelope::from_message(&letter.message).map_err(|_| Closed)?;
    let lines = open(&config.keyring, &envelope, LIMITS).map_err(|_| Closed)?;
    let records = read_lines(&lines).map_err(|_| Closed)?;
    let id = record_id(table, &subject.key);
    let newest = records.iter().filter(|record| record_id(table, &record.key) == id).map(|record| record.version).max();
    Ok(newest.map(|version| Letter {
        id: letter.id().to_owned(),
        queue: letter.queue.clone(),
        table: table.to_owned(),
        partition: letter.partition(),
        reason: letter.reason.to_string(),
        error: letter.error.clone(),
        at: letter.at,
        version,
        behind: letter.behind.clone(),
    }))
}

/// How many messages are in each partition.
struct Depths;

impl OnBroker for Depths {
    type Output = BTreeMap<(String, u32), u64>;

    async fn run<B: Broker>(self, broker: B, config: &Config) -> Result<Self::Output, Failure> {
        let mut depths = BTreeMap::new();
        for (name, queue) in &config.shared_queues {
            let status = match broker.status(queue).await {
                Ok(status) => status,
                Err(QueueError::Missing { .. }) => continue,
                Err(error) => return Err(Failure::Unavailable(chain(&error))),
            };
            for one in status.partitions {
                depths.insert((name.clone(), one.partition), one.ready + one.unacked.unwrap_or_default());
            }
        }
        Ok(depths)
    }
}

/// The first line of a failure: what is wrong, without what to do about it.
fn text(failure: Failure) -> String {
    match failure {
        Failure::Config(problems) => problems.to_string(),
        Failure::NoConfig(text) | Failure::Unavailable(text) | Failure::Usage(text) | Failure::Other(text) => {
            text.lines().next().unwrap_or_default().to_owned()
        }
        Failure::Different => String::new(),
    }
}
