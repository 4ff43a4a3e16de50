//! What every source must give bulk shares, run against each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use syncline_shared::class::Class;
use syncline_shared::record::{Action, Columns, Row, Value, Version};
use uuid::Uuid;

use super::order::Range;
use super::stock::{Opened, Rows as _, Stock, Want, When};
use crate::source::{Change, SourceError};

/// A slot waits for every open transaction of the server, those of other tests too.
const PATIENCE: Duration = Duration::from_secs(180);

/// The rows of a table by their keys, and where the parts are.
pub(crate) struct Read {
    pub(crate) rows: BTreeMap<String, Change>,
    pub(crate) ranges: Vec<Range>,
    pub(crate) total: u64,
}

/// All of a table for the share `first`.
pub(crate) fn want(table: &str) -> Want {
    Want {
        table: table.into(),
        share: "first".into(),
        columns: Vec::new(),
        changed: None,
        ranges: Vec::new(),
        keys: None,
        connections: 3,
        rows_max: 100,
    }
}

pub(crate) async fn open<K: Stock>(stock: &K, want: Want) -> Result<Opened<K::Rows>, SourceError> {
    let opening = async {
        loop {
            match stock.open(want.clone()).await {
                Err(error) if error.class() == Class::Transient => tokio::time::sleep(Duration::from_millis(20)).await,
                other => return other,
            }
        }
    };
    tokio::time::timeout(PATIENCE, opening).await.expect("an answer")
}

/// Reads until there are so many rows, or all; no row comes twice.
pub(crate) async fn read<K: Stock>(stock: &K, want: Want, count: usize) -> Read {
    let Opened { mut rows, ranges, total, .. } = open(stock, want).await.expect("opened");
    let mut read = Read { rows: BTreeMap::new(), ranges, total };
    while read.rows.len() < count
        && let Some(bite) = rows.next().await.expect("rows")
    {
        assert!(bite.changes.len() <= 100, "{} rows at once", bite.changes.len());
        for change in bite.changes {
            assert_eq!((change.action, change.only_share.as_deref()), (Action::Bulk, Some("first")));
            assert!(read.rows.insert(key(&change), change).is_none(), "a row came twice");
        }
        let range = &mut read.ranges[bite.range];
        assert!(!range.done, "more of a part that is done");
        range.after = bite.after.or_else(|| range.after.take());
        range.done = bite.done;
    }
    read
}

pub(crate) fn key(change: &Change) -> String {
    change.key.values().map(|value| value.as_text().unwrap_or("null").to_owned()).collect::<Vec<_>>().join("|")
}

pub(crate) fn versions(read: &Read) -> (Version, Version) {
    let versions = || read.rows.values().map(|change| change.version);
    (versions().min().expect("rows"), versions().max().expect("rows"))
}

/// Reads some of a table, lets `meanwhile` happen, and reads the rest: with what was read before, every row that is still
/// there is there, and the rest is newer.
pub(crate) async fn goes_on<K: Stock>(
    stock: &K,
    table: &str,
    some: usize,
    meanwhile: impl AsyncFnOnce(),
) -> (Read, Read) {
    let before = read(stock, want(table), some).await;
    meanwhile().await;
    let rest = read(stock, Want { ranges: before.ranges.clone(), ..want(table) }, usize::MAX).await;
    assert!(rest.ranges.iter().all(|range| range.done));
    assert!(versions(&rest).0 > versions(&before).1, "a later snapshot is newer");
    (before, rest)
}

/// Notes are written, kept apart by their conditions, and removed.
pub(crate) async fn keeps_notes<K: Stock>(stock: &K) {
    let (mine, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let json = |runner: Uuid, n: u32| format!("{{\"n\": {n}, \"runner\": \"{runner}\"}}");
    let read = async || {
        let notes = stock.notes().await.expect("notes");
        let spaceless = |(key, json): (String, String)| (key, json.replace(' ', ""));
        notes.into_iter().map(spaceless).collect::<BTreeMap<_, _>>()
    };
    assert_eq!(read().await, BTreeMap::new());
    assert!(!stock.put("run:1", &json(mine, 1), When::There).await.expect("an answer"));
    assert!(stock.put("run:1", &json(mine, 1), When::Always).await.expect("an answer"));
    assert!(!stock.put("run:1", &json(other, 2), When::RunBy(other)).await.expect("an answer"));
    assert!(stock.put("run:1", &json(mine, 3), When::RunBy(mine)).await.expect("an answer"));
    assert!(stock.put("order:1", "{}", When::Always).await.expect("an answer"));
    let expected = [("order:1".to_owned(), "{}".to_owned()), ("run:1".to_owned(), json(mine, 3).replace(' ', ""))];
    assert_eq!(read().await, BTreeMap::from(expected));
    stock.remove(&["run:1".to_owned(), "order:1".to_owned(), "run:9".to_owned()]).await.expect("removed");
    assert_eq!(read().await, BTreeMap::new());
}

/// What a table lacks is named, and is no reason to try again.
pub(crate) async fn names_what_is_missing<K: Stock>(stock: &K) {
    for (want, name) in [
        (want("nowhere"), "nowhere"),
        (Want { columns: vec!["nosuch".to_owned()], ..want("item") }, "nosuch"),
        (Want { changed: Some(("nosuch".to_owned(), jiff::Timestamp::UNIX_EPOCH)), ..want("item") }, "nosuch"),
    ] {
        match open(stock, want).await {
            Err(SourceError::Unfit { problem, .. }) => assert!(problem.contains(name), "{problem}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{name} is not there"),
        }
    }
}

/// Records that are named come as they are; of one that is not there, or cannot be, a delete comes.
pub(crate) async fn reads_records_by_their_keys<K: Stock>(stock: &K, keys: &[Row], expected: &[(&str, Action)]) {
    let want = Want { keys: Some(keys.to_vec()), rows_max: 2, ..want("item") };
    let Opened { mut rows, version, total, .. } = open(stock, want.clone()).await.expect("opened");
    let mut read = Vec::new();
    while let Some(bite) = rows.next().await.expect("rows") {
        assert!(bite.changes.len() <= 2);
        read.extend(bite.changes);
    }
    let told: Vec<_> = read.iter().map(|change| (key(change), change.action)).collect();
    let expected: Vec<_> = expected.iter().map(|(key, action)| ((*key).to_owned(), *action)).collect();
    assert_eq!((told, total), (expected, u64::try_from(keys.len()).expect("few")));
    for change in &read {
        assert!(change.version >= version && change.only_share.as_deref() == Some("first"));
        assert_eq!(change.after.is_some(), change.action == Action::Bulk);
        assert_eq!(change.before.as_ref(), change.after.is_some().then_some(&change.key));
    }
}

/// A key as somebody who saw it elsewhere may know it.
pub(crate) fn named(columns: &[(&str, Value<'_>)]) -> Row {
    let mut key = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
    columns.iter().for_each(|(_, value)| key.push(*value));
    key.finish()
}
