//! What follows from everything that was found out, in one line. Pure.

use std::fmt::Write as _;

use serde::Serialize;
use syncline_consumer::journal::Fate;
use syncline_consumer::target::Standing;
use syncline_producer::journal::{FateTold, LeftTold, Told as Entry};
use syncline_producer::share::Withheld;
use syncline_shared::record::{Action, Version};

use super::known::{AtSource, AtTarget, Known, Letter, Now, Tried};
use crate::share::{Verdict, because};

/// Where the record is, the least welcome last: of several targets the worst off is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// No part that could be asked has it.
    Nowhere,
    /// The target has what was sent last.
    InStep,
    /// Too little is known to say.
    Unknown,
    /// A rule of a share keeps it, or its newest change.
    NotShared,
    /// A rule of the subscription keeps it from the target.
    NotApplied,
    /// The producer has it in hand.
    UnderWay,
    /// A message of it waits for the consumer.
    Behind,
    /// The target lacks it, and nothing of it is under way.
    Missing,
    /// It is a dead letter.
    SetAside,
}

impl State {
    /// Whether what waits in the partitions may make another one of it. That is asked last, and not in vain: consumers are
    /// given half a second to answer.
    pub(super) const fn depends_on_what_waits(self) -> bool {
        match self {
            Self::Unknown | Self::NotShared | Self::Behind | Self::Missing => true,
            Self::Nowhere | Self::InStep | Self::NotApplied | Self::UnderWay | Self::SetAside => false,
        }
    }
}

/// The last line.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Conclusion {
    pub state: State,
    pub conclusion: String,
}

fn so(state: State, conclusion: String) -> Conclusion {
    Conclusion { state, conclusion }
}

/// Concludes.
pub(super) fn conclude(known: &Known) -> Conclusion {
    // Of the tables and queues its shares have, a record may be in one.
    let concerned = known.targets.iter().any(|at| known.concerns(at));
    let targets = known.targets.iter().filter(|at| !concerned || known.concerns(at));
    let all = targets.map(|target| at_target(known, target));
    all.max_by_key(|one| one.state).unwrap_or_else(|| without_target(known))
}

/// For one target, and one table it may be in there.
fn at_target(known: &Known, at: &AtTarget) -> Conclusion {
    let held = at.standing.as_ref().ok().and_then(Standing::version);
    let letters = known.letters.iter().filter(|letter| letter.queue == at.queue && letter.table == at.table);
    if let Some(letter) = letters.max_by_key(|letter| letter.version).filter(|letter| held < Some(letter.version)) {
        return set_aside(letter);
    }
    match known.newest_left(&at.queue, &at.table) {
        Some((_, left)) if held.is_none_or(|held| held < left.sent_version) => on_its_way(known, at, left),
        Some((entry, left)) => match withheld_since(known, entry) {
            Some(withheld) => withheld,
            None => in_step(at, entry, left, held),
        },
        None => match newest_withheld(known, &at.queue) {
            Some(withheld) => withheld,
            None => by_sight(known, at),
        },
    }
}

fn set_aside(letter: &Letter) -> Conclusion {
    let Letter { id, reason, behind, .. } = letter;
    let after = behind.as_ref().map(|behind| format!(", which waits for dead letter {behind}")).unwrap_or_default();
    so(State::SetAside, format!("set aside: dead letter {id} ({reason}){after}; see `syncline dead-letter show {id}`"))
}

/// The target has not seen what was sent last.
fn on_its_way(known: &Known, at: &AtTarget, left: &LeftTold) -> Conclusion {
    let LeftTold { queue, partition, message, set_aside, .. } = left;
    let message = message.as_deref().unwrap_or_default();
    if left.message.is_none() {
        let why = known.paused("producer").map(|why| format!(": {why}")).unwrap_or_default();
        return so(State::UnderWay, format!("under way: the producer has not published it yet{why}"));
    }
    if left.confirmed_at.is_none() {
        let why = known.paused("producer").map(|why| format!(": {why}")).unwrap_or_default();
        return so(State::UnderWay, format!("under way: the broker has not confirmed message {message} yet{why}"));
    }
    if let Some(reason) = set_aside {
        let text = format!(
            "set aside: the producer made dead letter {message} of it ({reason}), which is no longer there; touch the \
             record at the source to have it sent again"
        );
        return so(State::SetAside, text);
    }
    if let Err(error) = &at.standing {
        let text =
            format!("sent: message {message} was confirmed; what target {} has is not known: {error}", at.target);
        return so(State::Unknown, text);
    }
    if let Some(kept) = not_applied(known, message) {
        return kept;
    }
    match known.waiting.get(&(queue.clone(), *partition)) {
        Some(0) => {
            let text = format!(
                "missing: target {} lacks what message {message} brought, and it is neither in partition {partition} of \
                 {queue} nor a dead letter: it was discarded, withheld by a script of the subscription, or the target was \
                 changed by others",
                at.target
            );
            so(State::Missing, text)
        }
        waiting => {
            let mut text = format!("behind: message {message} waits in partition {partition} of {queue}");
            if let Some(waiting) = waiting {
                let _ = write!(text, ", one of {waiting}");
            }
            if let Some(why) = known.paused("consumer") {
                let _ = write!(text, ": {why}");
            }
            so(State::Behind, text)
        }
    }
}

/// A message of which the consumer noted that the subscription kept it from the target.
fn not_applied(known: &Known, message: &str) -> Option<Conclusion> {
    let noted = known.applied.iter().rev().find(|applied| applied.message.to_string() == message)?;
    let why = match noted.fate {
        Fate::Withheld => "its script withheld the record",
        Fate::Skipped => "it does not list the table",
        Fate::Applied | Fate::AppliedAs { .. } | Fate::Duplicate | Fate::Stale | Fate::SetAside { .. } => return None,
    };
    let text = format!("not applied: subscription {} took message {message}, and {why}", noted.subscription);
    Some(so(State::NotApplied, text))
}

fn in_step(at: &AtTarget, entry: &Entry, left: &LeftTold, held: Option<Version>) -> Conclusion {
    let here = at.standing.as_ref().is_ok_and(|standing| standing.row.is_some());
    let what = match (held == Some(left.sent_version), here) {
        (true, true) => "has the version last sent",
        (true, false) if entry.action == Action::Delete => "has the delete last sent",
        (true, false) => "has the delete that was sent when the record left the share",
        (false, true) => "has a newer version than the last one this journal knows",
        (false, false) => "has a newer delete than the last change this journal knows",
    };
    so(State::InStep, format!("in step: target {} {what}", at.target))
}

/// A change after the one that was sent last, which the same share withheld; one of columns it does not mind is none.
fn withheld_since(known: &Known, sent: &Entry) -> Option<Conclusion> {
    let since = known.decided.iter().rev().find(|one| one.share == sent.share && one.version > sent.version)?;
    let FateTold::Withheld { reason } = &since.fate else { return None };
    if *reason == Withheld::Unchanged {
        return None;
    }
    let text = format!(
        "not shared: share {} withheld the newest change, of {:.0} ({reason}: {}); the target has what was sent before",
        since.share,
        since.changed_at,
        because(*reason)
    );
    Some(so(State::NotShared, text))
}

/// The newest change of a record of which nothing was sent.
fn newest_withheld(known: &Known, queue: &str) -> Option<Conclusion> {
    let sends_there = |share: &str| {
        let of = known.shares.iter().find(|one| one.share == share);
        of.is_none_or(|share| share.queues.iter().any(|one| one == queue))
    };
    let newest = known.decided.iter().filter(|one| sends_there(&one.share)).max_by_key(|one| one.version)?;
    let FateTold::Withheld { reason } = &newest.fate else { return None };
    let share = &newest.share;
    Some(so(State::NotShared, format!("not shared: share {share} withheld it ({reason}: {})", because(*reason))))
}

/// Without a word of the journals: by what source and target have now.
fn by_sight(known: &Known, at: &AtTarget) -> Conclusion {
    let target = &at.target;
    let standing = match &at.standing {
        Ok(standing) => standing,
        Err(error) => return so(State::Unknown, format!("not known: target {target} cannot be asked: {error}")),
    };
    let waiting: u64 = known.waiting.iter().filter(|((queue, _), _)| *queue == at.queue).map(|(_, count)| count).sum();
    let here = known.sources.iter().any(|(_, at)| *at == AtSource::Here);
    let gone = !known.sources.is_empty() && known.sources.iter().all(|(_, at)| *at == AtSource::Gone);
    let has = standing.version().map(|version| format!(" with version {version}")).unwrap_or_default();
    let wait = if waiting == 1 { "message waits" } else { "messages wait" };
    let behind = format!("{waiting} {wait} in its partition of {}, maybe of it", at.queue);
    match (here, gone, standing.row.is_some()) {
        (true, _, row) => match would_leave(known, at) {
            Err(kept) => {
                let still = if row { format!("; target {target} has it{has} from before") } else { String::new() };
                so(State::NotShared, format!("not shared: {kept}{still}"))
            }
            Ok(_) if waiting > 0 && !row => {
                so(State::Behind, format!("behind: target {target} lacks it, and {behind}"))
            }
            Ok(_) if waiting > 0 => so(State::Unknown, format!("not known: target {target} has it{has}, and {behind}")),
            Ok(_) if row => so(
                State::Unknown,
                format!(
                    "nothing waits for it, and target {target} has it{has}; whether that is the newest, only the journal of \
                     the producer could tell"
                ),
            ),
            Ok(share) => so(
                State::Missing,
                format!(
                    "missing: target {target} lacks it, and nothing of it is under way; share {share} sends it when it \
                     changes, or now with `syncline bulk-share {share}`"
                ),
            ),
        },
        (false, true, true) if waiting > 0 => so(
            State::Behind,
            format!("behind: the source has no such record, target {target} still has it, and {behind}"),
        ),
        (false, true, true) => so(
            State::NotShared,
            format!(
                "not shared: the source has no such record, and target {target} still has it{has}: its delete was not sent"
            ),
        ),
        (false, true, false) => match standing.deleted {
            Some(version) => so(
                State::InStep,
                format!(
                    "in step: the source has no such record, and target {target} remembers its delete, version {version}"
                ),
            ),
            None => so(State::Nowhere, "nowhere: neither the source nor the target has such a record".to_owned()),
        },
        (false, false, true) => {
            so(State::Unknown, format!("not known: target {target} has it{has}; no source was asked"))
        }
        (false, false, false) => {
            let has = standing
                .deleted
                .map_or_else(|| "no such record".to_owned(), |version| format!("its delete, version {version}"));
            so(State::Unknown, format!("not known: target {target} has {has}; no source was asked"))
        }
    }
}

/// The share that would send the record there now, or why none does.
fn would_leave<'a>(known: &'a Known, at: &AtTarget) -> Result<&'a str, String> {
    let mut kept = None;
    for Now { share, tried, queues } in known.shares.iter().filter(|share| share.queues.contains(&at.queue)) {
        let Some(Tried { verdict, messages, .. }) = tried else { continue };
        if messages.iter().any(|(_, table, queue, _)| *queue == at.queue && *table == at.table) {
            return Ok(share);
        }
        let why = match verdict {
            Verdict::Withheld { reason } => {
                format!("share {share} would withhold it now ({reason}: {})", because(*reason))
            }
            Verdict::Fails { error, .. } => format!("the script of share {share} fails on it: {error}"),
            Verdict::Unfit { column } => format!("share {share} names column {column}, which the record does not have"),
            Verdict::Leaves if queues.len() > 1 => format!("share {share} would send it to another shared queue"),
            Verdict::Leaves => format!("share {share} would send it under another table"),
        };
        kept.get_or_insert(why);
    }
    Err(kept.unwrap_or_else(|| format!("no share would send it to shared queue {}", at.queue)))
}

/// Where the configuration has no target for it: as far as the producer knows.
fn without_target(known: &Known) -> Conclusion {
    if let Some(letter) = known.letters.last() {
        return set_aside(letter);
    }
    let Some(newest) = known.decided.iter().max_by_key(|one| one.version) else {
        return so(
            State::Unknown,
            "not known: this configuration has no target for it, and no journal an entry".to_owned(),
        );
    };
    match &newest.fate {
        FateTold::Withheld { reason } => so(
            State::NotShared,
            format!("not shared: share {} withheld it ({reason}: {})", newest.share, because(*reason)),
        ),
        FateTold::Shared(LeftTold { message: Some(message), confirmed_at: Some(at), queue, partition, .. }) => {
            let to = format!("partition {partition} of {queue}");
            so(State::Unknown, format!("sent: message {message} to {to} was confirmed at {at:.3}; ask at its consumer"))
        }
        FateTold::Shared(_) => so(State::UnderWay, "under way: the producer has it in hand".to_owned()),
    }
}

#[cfg(test)]
mod tests;
