//! `dead-letter replay` and `discard`.

use std::collections::BTreeSet;
use std::path::Path;

use syncline_shared::queue::{Broker, DeadLetter, Reason, Settlement};

use super::choose::{Letters, read};
use super::{park, tell, tell_progress};
use crate::cli::Selection;
use crate::config::{Config, Env, Role};
use crate::failure::Failure;
use crate::queue::{OnBroker, on_broker, unavailable};

/// Letters settled in one call: RabbitMQ hands out all there are in each, so not too few.
const CHUNK: usize = 1000;

/// Sends dead letters to their partitions again, and behind each those that wait for it.
pub(super) async fn replay(path: &Path, env: &Env, json: bool, selection: &Selection) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let all = read(&config, selection.filter.queue.as_deref()).await?;
    let (mut steps, mut kept) = (Vec::new(), false);
    for of in &all {
        let plan = plan(&of.letters, selection);
        for (letter, why) in plan.kept {
            kept = true;
            eprintln!("{} is not replayed: {why}", letter.id());
        }
        steps.extend(plan.steps.into_iter().map(|ids| (of.queue.as_str(), ids)));
    }
    let replayed = settle(&config, "replayed", &steps, Settlement::Replay).await?;
    tell(json, "replayed", replayed);
    selection.missed(&all)?;
    if kept && !selection.ids.is_empty() {
        return Err(Failure::Other("some of the ids were not replayed".to_owned()));
    }
    Ok(())
}

/// What is replayed, and in which steps.
#[derive(Default)]
struct Plan<'a> {
    steps: Vec<Vec<String>>,
    /// What is not, and why.
    kept: Vec<(&'a DeadLetter, String)>,
}

/// A letter that waits goes behind the one it waits for, in the order they were set aside first; a broker settles what
/// it is asked for in one step in the order it has.
fn plan<'a>(letters: &'a [DeadLetter], selection: &Selection) -> Plan<'a> {
    let known: BTreeSet<&str> = letters.iter().map(DeadLetter::id).collect();
    let mut chosen: BTreeSet<&str> = BTreeSet::new();
    let mut plan = Plan::default();
    for letter in letters.iter().filter(|letter| selection.takes(letter)) {
        let behind = letter.behind.as_deref().filter(|behind| known.contains(behind));
        let head_is_taken = |id: &str| letters.iter().any(|head| head.id() == id && selection.takes(head));
        match behind.filter(|head| !head_is_taken(head)) {
            _ if letter.key_only => plan.kept.push((letter, instead(letter))),
            Some(head) => plan.kept.push((letter, format!("it waits for {head}; replay that, and this follows"))),
            None => _ = chosen.insert(letter.id()),
        }
    }
    // Those that wait for one that waits follow as well.
    loop {
        let follows = |letter: &&DeadLetter| letter.behind.as_deref().is_some_and(|behind| chosen.contains(behind));
        let more: Vec<_> =
            letters.iter().filter(follows).map(DeadLetter::id).filter(|id| !chosen.contains(id)).collect();
        if more.is_empty() {
            break;
        }
        chosen.extend(more);
    }
    let mut ordered: Vec<_> = letters.iter().enumerate().filter(|(_, letter)| chosen.contains(letter.id())).collect();
    ordered.sort_by_key(|(place, letter)| {
        if letter.behind.is_none() { (false, None, *place) } else { (true, Some(letter.first_at), *place) }
    });
    let mut last = None;
    for (place, letter) in ordered {
        match plan.steps.last_mut().filter(|step| last < Some(place) && step.len() < CHUNK) {
            Some(step) => step.push(letter.id().to_owned()),
            None => plan.steps.push(vec![letter.id().to_owned()]),
        }
        last = Some(place);
    }
    plan
}

/// Why a letter that holds no columns is not replayed, and what brings its record.
fn instead(letter: &DeadLetter) -> String {
    let (id, share) = (letter.id(), letter.message.share().unwrap_or("NAME"));
    let mend = match letter.reason {
        Reason::Oversize => "raise record_bytes_max, or make the record smaller".to_owned(),
        Reason::Script
        | Reason::Envelope
        | Reason::Seal
        | Reason::Content
        | Reason::Target
        | Reason::Unsubscribed
        | Reason::Crash
        | Reason::Waits => format!("mend before_share of share {share} and start the producer"),
    };
    format!(
        "it holds the key of its record and no columns, so there is nothing to apply; {mend}, send the record as it is now \
         with `syncline bulk-share {share} --where COLUMN=VALUE` (its key: `syncline dead-letter show {id} --open`), then \
         `syncline dead-letter discard {id}`"
    )
}

/// Drops dead letters for good. What the targets remember of them is forgotten first: their records' later parts wait for
/// them no more.
pub(super) async fn discard(
    path: &Path,
    env: &Env,
    json: bool,
    selection: &Selection,
    yes: bool,
) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Queue)?;
    let all = read(&config, selection.filter.queue.as_deref()).await?;
    let chosen =
        |of: &Letters| -> Vec<_> { of.letters.iter().filter(|letter| selection.takes(letter)).cloned().collect() };
    let chosen: Vec<(&str, Vec<DeadLetter>)> = all.iter().map(|of| (of.queue.as_str(), chosen(of))).collect();
    let count: usize = chosen.iter().map(|(_, letters)| letters.len()).sum();
    if selection.ids.is_empty() && !yes && count > 0 {
        return Err(Failure::Other(format!("this drops {count} dead letters for good; say so with --yes")));
    }
    let ids = |letters: &[DeadLetter]| -> Vec<_> { letters.iter().map(|letter| letter.id().to_owned()).collect() };
    let marked = |letter: &&DeadLetter| {
        matches!(letter.reason, Reason::Target | Reason::Script | Reason::Waits) && !letter.key_only
    };
    let parked: Vec<_> = chosen.iter().flat_map(|(_, letters)| letters).filter(marked).cloned().collect();
    if !parked.is_empty() {
        park::forget(path, env, &ids(&parked)).await?;
    }
    let mut steps = Vec::new();
    for (queue, letters) in &chosen {
        steps.extend(letters.chunks(CHUNK).map(|chunk| (*queue, ids(chunk))));
    }
    let discarded = settle(&config, "discarded", &steps, Settlement::Discard).await?;
    tell(json, "discarded", discarded);
    selection.missed(&all)
}

/// Settles letters step by step; how many there were.
pub(super) async fn settle(
    config: &Config,
    did: &str,
    steps: &[(&str, Vec<String>)],
    settlement: Settlement,
) -> Result<usize, Failure> {
    struct Settle<'a> {
        did: &'a str,
        steps: &'a [(&'a str, Vec<String>)],
        settlement: Settlement,
    }
    impl OnBroker for Settle<'_> {
        type Output = usize;

        async fn run<B: Broker>(self, broker: B, _config: &Config) -> Result<usize, Failure> {
            let total = self.steps.iter().map(|(_, ids)| ids.len()).sum();
            let mut settled = 0;
            for (queue, ids) in self.steps {
                let some = broker.settle_dead_letters(queue, ids, self.settlement.clone()).await;
                settled += some.map_err(|error| unavailable(&error))?;
                tell_progress(self.did, settled, total);
            }
            Ok(settled)
        }
    }
    on_broker(Settle { did, steps, settlement }, config).await
}
