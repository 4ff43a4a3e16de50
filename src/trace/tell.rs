//! What `syncline trace` prints: a timeline and one last line for a person, or JSON.
//!
//! What a filter was held against shows values: they are for the one who asked, on their own terminal.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use syncline_consumer::journal::{Fate, Told as Applied, Waited};
use syncline_consumer::target::Standing;
use syncline_producer::journal::{FateTold, LeftTold, Told as Decided};
use syncline_producer::share::Withheld;
use syncline_producer::share::filter::shown;
use syncline_shared::record::Action;

use super::known::{Answer, AtSource, AtTarget, Known, Now, Service, Tried};
use super::record::Subject;
use super::verdict::Conclusion;
use crate::queue::table;
use crate::share::{Verdict, because, explained};

/// One line: when, who says so, what.
struct Line {
    /// `None` for what is so now.
    at: Option<Timestamp>,
    part: String,
    what: String,
}

fn then(at: Timestamp, part: String, what: String) -> Line {
    Line { at: Some(at), part, what }
}

fn now(part: String, what: String) -> Line {
    Line { at: None, part, what }
}

/// For machines.
pub(super) fn to_json(subject: &Subject<'_>, known: &Known, conclusion: &Conclusion) -> String {
    let key: Vec<Value> =
        subject.key.iter().map(|(column, value)| json!({ "column": column, "value": value.as_text() })).collect();
    let ids: Vec<_> = subject.ids().into_iter().map(|id| format!("{id:016x}")).collect();
    let lines = lines(known).into_iter().map(|Line { at, part, what }| json!({ "at": at, "part": part, "what": what }));
    let source = |(name, at): &(String, AtSource)| match at {
        AtSource::Here => json!({ "source": name, "here": true }),
        AtSource::Gone => json!({ "source": name, "here": false }),
        AtSource::NotAsked(error) => json!({ "source": name, "here": null, "error": error }),
    };
    let waiting = known
        .waiting
        .iter()
        .map(|((queue, partition), messages)| json!({ "queue": queue, "partition": partition, "messages": messages }));
    let told = json!({
        "table": subject.table, "key": key, "records": ids, "state": conclusion.state, "conclusion": conclusion.conclusion,
        "timeline": lines.collect::<Vec<_>>(), "decided": known.decided, "applied": known.applied,
        "services": known.services, "sources": known.sources.iter().map(source).collect::<Vec<_>>(),
        "shares": known.shares.iter().map(Now::to_json).collect::<Vec<_>>(),
        "targets": known.targets.iter().map(AtTarget::to_json).collect::<Vec<_>>(),
        "dead_letters": known.letters.iter().map(super::known::Letter::to_json).collect::<Vec<_>>(),
        "waiting": waiting.collect::<Vec<_>>(), "notes": known.notes, "not_asked": known.away,
    });
    told.to_string()
}

/// For a person.
pub(super) fn to_text(subject: &Subject<'_>, known: &Known, conclusion: &Conclusion) -> String {
    let key: Vec<_> = subject.key.iter().map(|(column, value)| format!("{column} = {}", shown(value))).collect();
    let mut text = format!("{} {}\n", subject.table, key.join(", "));
    for note in &known.notes {
        let _ = writeln!(text, "note: {note}");
    }
    let rows: Vec<_> = lines(known)
        .into_iter()
        .map(|Line { at, part, what }| [at.map_or_else(|| "now".to_owned(), |at| format!("{at:.3}")), part, what])
        .collect();
    let _ = writeln!(text, "\n{}", table(&rows));
    for Now { share, tried, .. } in &known.shares {
        if let Some(Tried { verdict: Verdict::Withheld { reason: Withheld::Filter }, filter: Some(filter), .. }) = tried
        {
            let _ = writeln!(text, "share {share} now\n{}\n", explained(filter));
        }
    }
    let _ = writeln!(text, "{}", sentence(&conclusion.conclusion));
    text
}

/// As a sentence begins and ends.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

/// Everything in its order: what happened, then what is so now.
fn lines(known: &Known) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut changes = BTreeSet::new();
    for decided in &known.decided {
        let Decided { source, table, action, version, changed_at, .. } = decided;
        if changes.insert((source, *version, *action)) {
            lines.push(then(
                *changed_at,
                format!("source {source}"),
                format!("{action} of {table}, version {version}"),
            ));
        }
        lines.extend(decision(decided));
    }
    lines.extend(known.applied.iter().map(outcome));
    for letter in &known.letters {
        let what = format!("{} ({}): {}", letter.id, letter.reason, letter.error);
        lines.push(then(letter.at, format!("dead letters of {}", letter.queue), what));
    }
    // Stable: what has one time stays in the order of the path.
    lines.sort_by_key(|line| line.at);
    lines.extend(known.services.iter().flat_map(service));
    for (name, at) in &known.sources {
        let what = match at {
            AtSource::Here => "has the record".to_owned(),
            AtSource::Gone => "has no such record".to_owned(),
            AtSource::NotAsked(error) => format!("cannot be asked: {error}"),
        };
        lines.push(now(format!("source {name}"), what));
    }
    lines.extend(known.shares.iter().flat_map(would));
    for ((queue, partition), messages) in &known.waiting {
        let waiting = if *messages == 1 { "1 message is".to_owned() } else { format!("{messages} messages are") };
        lines.push(now(format!("queue {queue}"), format!("{waiting} in partition {partition}")));
    }
    lines.extend(known.targets.iter().map(standing));
    lines
}

/// What a share decided, and the confirm of the broker.
fn decision(decided: &Decided) -> Vec<Line> {
    let Decided { at, share, action, version, fate, .. } = decided;
    let part = format!("share {share}");
    let left = match fate {
        FateTold::Withheld { reason } => {
            return vec![then(*at, part, format!("withholds it ({reason}): {}", because(*reason)))];
        }
        FateTold::Shared(left) => left,
    };
    let LeftTold { sent_as, sent_table, partial, sent_version, queue, partition, set_aside, message, .. } = left;
    let mut what = match set_aside {
        Some(reason) => format!("sets it aside ({reason})"),
        None if *sent_as == Action::Delete && *action != Action::Delete => {
            "it left the share: sends a delete".to_owned()
        }
        None => format!("sends it as {sent_as}"),
    };
    let _ = write!(what, " of {sent_table} to {queue}, partition {partition}");
    if *partial && set_aside.is_none() {
        what.push_str(", with a part of its columns");
    }
    if sent_version != version {
        let _ = write!(what, ", version {sent_version}");
    }
    let mut lines = vec![then(*at, part, what)];
    let message = message.as_deref().unwrap_or_default();
    let queue = format!("queue {queue}");
    match (left.confirmed_at, left.published_at) {
        (Some(at), _) => lines.push(then(at, queue, format!("message {message} is confirmed"))),
        (None, Some(at)) => {
            lines.push(then(at, queue, format!("message {message} is published, and not confirmed yet")))
        }
        (None, None) => lines.push(now(queue, "its message is not published yet".to_owned())),
    }
    lines
}

/// What became of the record of a message.
fn outcome(applied: &Applied) -> Line {
    let Applied { at, subscription, partition, action, version, message, fate, .. } = applied;
    let what = match fate {
        Fate::Applied => format!("applied {action}, version {version}"),
        Fate::AppliedAs { applied_as } => format!("applied {applied_as}, as its script changed it, version {version}"),
        Fate::Withheld => "its script withholds it".to_owned(),
        Fate::Duplicate => format!("came again: the target had version {version}"),
        Fate::Stale => format!("stale: the target had a newer version than {version}"),
        Fate::Skipped => "skipped: its table is not listed".to_owned(),
        Fate::SetAside { reason, letter, behind } => {
            let behind =
                behind.map(|Waited(behind)| format!(", which waits for dead letter {behind}")).unwrap_or_default();
            format!("set aside as dead letter {letter} ({reason}){behind}")
        }
    };
    then(*at, format!("subscription {subscription}"), format!("message {message} of partition {partition}: {what}"))
}

/// What a service says of its journal, and what is paused there.
fn service(service: &Service) -> Vec<Line> {
    let Service { part, address, answer, paused } = service;
    let name = format!("{part} {address}");
    let what = match answer {
        Answer::On { since } => format!("its journal knows everything since {since:.3}"),
        Answer::Off => format!("keeps no journal; switch it on with journal = 10000 in [{part}] and start it again"),
        Answer::Silent { error } => format!("does not answer: {error}"),
    };
    let paused = paused.iter().map(|why| now(name.clone(), format!("paused: {why}")));
    std::iter::once(now(name.clone(), what)).chain(paused).collect()
}

/// What a share would do with the record now.
fn would(share: &Now) -> Vec<Line> {
    let Some(Tried { verdict, messages, .. }) = &share.tried else { return Vec::new() };
    let part = format!("share {}", share.share);
    let mut lines = Vec::new();
    match verdict {
        Verdict::Leaves => {}
        Verdict::Withheld { reason } => {
            lines.push(now(part.clone(), format!("would withhold it ({reason}): {}", because(*reason))));
        }
        Verdict::Fails { error, .. } => lines.push(now(part.clone(), format!("its script fails on it: {error}"))),
        Verdict::Unfit { column } => {
            lines.push(now(part.clone(), format!("names column {column}, which the record lacks")))
        }
    }
    for (action, table, queue, partition) in messages {
        lines
            .push(now(part.clone(), format!("would send it as {action} of {table} to {queue}, partition {partition}")));
    }
    lines
}

/// What a target has.
fn standing(at: &AtTarget) -> Line {
    let AtTarget { target, into, standing, .. } = at;
    let what = match standing {
        Err(error) => format!("cannot be asked: {error}"),
        Ok(Standing { row, deleted, parked }) => {
            let mut what = match (row, deleted) {
                (Some(Some(version)), _) => format!("{into} has it with version {version}"),
                (Some(None), _) => format!("{into} has it, from somebody else"),
                (None, Some(version)) => format!("{into} has its delete, version {version}"),
                (None, None) => format!("{into} has no such record"),
            };
            for (version, letter) in parked {
                let _ = write!(what, "; version {version} is parked as dead letter {letter}");
            }
            what
        }
    };
    now(format!("target {target}"), what)
}
