//! What a target should have, by what a share sends of the source's records and what subscriptions make of them.

use std::ops::Range;
use std::sync::Arc;

use syncline_consumer::target::Batch;
use syncline_producer::share::{Decision, Share, Shared, Withheld};
use syncline_producer::source::Change;
use syncline_shared::record::{Action, Columns, Record, Row};
use syncline_shared::script::Subject;

use super::places::{Place, Places};
use crate::failure::Failure;

/// What is said of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// By which way it comes.
    pub(super) way: usize,
    /// Whether its columns count, or only that it may be there.
    pub(super) judged: bool,
}

/// What is said of rows, in order.
#[derive(Default)]
pub(super) struct Said {
    pub(super) heads: Vec<Head>,
    pub(super) records: Vec<Record>,
    /// The source's table each is stored in.
    pub(super) stored: Vec<Arc<str>>,
    pub(super) bytes: usize,
}

impl Said {
    pub(super) fn push(&mut self, head: Head, record: Record, stored: &Arc<str>) {
        self.bytes += record.key.size() + record.data.as_ref().map_or(0, Row::size);
        self.heads.push(head);
        self.records.push(record);
        self.stored.push(Arc::clone(stored));
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    /// The batches of a range, as a target is asked about them.
    pub(super) fn batches<'a>(&'a self, range: Range<usize>, ways: &'a [Place]) -> Vec<Batch<'a>> {
        let heads = self.heads.get(range.clone()).unwrap_or_default();
        let mut records = self.records.get(range).unwrap_or_default();
        let mut batches = Vec::new();
        for alike in heads.chunk_by(|one, other| one == other) {
            let Some((batch, rest)) = records.split_at_checked(alike.len()) else { break };
            records = rest;
            let Some((head, way)) = alike.first().and_then(|head| Some((head, ways.get(head.way)?))) else { continue };
            let action = if head.judged { Action::Bulk } else { Action::Delete };
            batches.push(Batch { table: &way.map, action, records: batch });
        }
        batches
    }
}

/// Says what becomes of a row of the source at every place it may come to; how many records the share has of it.
pub(super) fn say(
    share: &Share,
    places: &Places,
    queues: &[String],
    change: &Change,
    said: &mut Said,
) -> Result<u64, Failure> {
    let messages = match share.decide(change) {
        Decision::Share(messages) => messages,
        Decision::Withhold(reason) => {
            // What was sent before it came to that may still be there, where the share does not take it back.
            let stays = match reason {
                Withheld::Script => true,
                Withheld::Filter | Withheld::Class | Withheld::NoRoute => !share.removes_what_left(),
                Withheld::Action | Withheld::Background | Withheld::UnknownSession | Withheld::Unchanged => false,
            };
            for way in (0..places.ways.len()).filter(|_| stays) {
                allow(way, change, said);
            }
            return Ok(0);
        }
        Decision::SetAside { .. } => {
            (0..places.ways.len()).for_each(|way| allow(way, change, said));
            return Ok(0);
        }
        Decision::Unfit { column } => {
            return Err(Failure::Unavailable(format!(
                "The share {} does not fit the table {}: {column}. `syncline check` says more.",
                share.name(),
                change.table
            )));
        }
    };
    let takes = |way: &Place, message: &&Shared<'_>| {
        queues.get(message.way.route) == Some(&way.queue) && message.table == &way.table
    };
    let mut records = 0;
    let mut reached = vec![false; places.tables.len()];
    for (number, way) in places.ways.iter().enumerate() {
        if let Some(message) = messages.iter().find(|message| takes(way, message)) {
            records += u64::from(say_of(share, message, (number, way), change, said));
            reached.iter_mut().skip(way.into).take(1).for_each(|reached| *reached = true);
        }
    }
    for (number, way) in places.ways.iter().enumerate().filter(|_| !share.removes_what_left()) {
        if reached.get(way.into) == Some(&false) {
            allow(number, change, said);
        }
    }
    Ok(records)
}

/// A row may be there, whatever it is like.
fn allow(way: usize, change: &Change, said: &mut Said) {
    let Change { ref key, version, at, ref table, .. } = *change;
    let record = Record { key: key.clone(), version, at, data: None, partial: false };
    said.push(Head { way, judged: false }, record, table);
}

/// Says what one message comes to; whether that is a record.
fn say_of(
    share: &Share,
    message: &Shared<'_>,
    (number, way): (usize, &Place),
    change: &Change,
    said: &mut Said,
) -> bool {
    let Some(mut data) = message.data.as_deref().cloned().filter(|_| message.action != Action::Delete) else {
        return false;
    };
    if let Some(script) = &way.script {
        let subject = Subject { table: &way.table, action: message.action, key: message.key, row: &data, before: None };
        match script.run(subject) {
            Ok(effect) if effect.ignore => {
                allow(number, change, said);
                return false;
            }
            Ok(effect) if effect.action == Action::Delete => return false,
            Ok(effect) => data = effect.row.unwrap_or(data),
            Err(_) => {
                allow(number, change, said);
                return false;
            }
        }
    }
    let key = message.key.clone();
    let data = minded(share, data, key.columns());
    let record = Record { key, version: message.version, at: change.at, data: Some(data), partial: message.partial };
    said.push(Head { way: number, judged: true }, record, &change.table);
    true
}

/// The columns whose changes all leave: of others the target may have old values, by the share's own rule.
fn minded(share: &Share, data: Row, key: &Columns) -> Row {
    let kept = |name: &str| key.position(name).is_some() || share.minds_column(name);
    let places: Vec<_> =
        data.columns().iter().enumerate().filter(|(_, name)| kept(name)).map(|(place, _)| place).collect();
    if places.len() == data.columns().len() {
        return data;
    }
    let names = Columns::new(places.iter().filter_map(|place| data.columns().name(*place)));
    data.select(names, &places)
}
