//! What every source must do, run against each of them.

use std::time::Duration;

use syncline_shared::class::Class;
use syncline_shared::record::Action;
use tokio::time::{Instant, sleep, timeout};

use super::{Change, PollLimit, Polled, Source};

/// Nothing these tests wait for takes longer on a busy machine: a PostgreSQL slot is complete only when every transaction
/// of the whole server that was open before it has ended, those of other tests too.
const PATIENCE: Duration = Duration::from_secs(180);

/// Enough for everything a test makes at once.
pub(crate) const LIMIT: PollLimit = PollLimit { changes: 1_000, bytes: 1 << 20 };

/// A database of its own, and sources that read it.
pub(crate) trait Stand {
    /// The source.
    type Source: Source;

    /// Runs statements in the database, as an application would.
    async fn run(&mut self, statements: &str);

    /// A new source of the database, always under one name, that watches the table `item`, which share `first` wants a
    /// copy of.
    async fn source(&mut self) -> Self::Source;
}

/// Polls until there are this many changes and a position after them.
pub(crate) async fn read<S: Source>(source: &mut S, count: usize) -> (Vec<Change>, S::Position) {
    let (deadline, mut changes) = (Instant::now() + PATIENCE, Vec::new());
    loop {
        let Polled { changes: new, position } = poll(source, LIMIT, deadline).await;
        changes.extend(new);
        if let Some(position) = position.filter(|_| changes.len() >= count) {
            assert_eq!(changes.len(), count, "{:?}", summary(&changes));
            return (changes, position);
        }
    }
}

/// Polls once; what passes by itself is tried again.
pub(crate) async fn poll<S: Source>(source: &mut S, limit: PollLimit, deadline: Instant) -> Polled<S::Position> {
    loop {
        match timeout(deadline.saturating_duration_since(Instant::now()), source.poll(limit)).await {
            Ok(Ok(polled)) => return polled,
            Ok(Err(error)) if error.class() == Class::Transient => sleep(Duration::from_millis(20)).await,
            Ok(Err(error)) => panic!("{error}"),
            Err(_) => panic!("no change came in time"),
        }
    }
}

/// Actions and key values, for messages of failed tests.
pub(crate) fn summary(changes: &[Change]) -> Vec<(Action, String)> {
    let key = |change: &Change| change.key.values().filter_map(|value| value.as_text()).collect::<Vec<_>>().join(",");
    changes.iter().map(|change| (change.action, key(change))).collect()
}

fn expect(changes: &[Change], wanted: &[(Action, &str)]) {
    let wanted: Vec<_> = wanted.iter().map(|(action, key)| (*action, (*key).to_owned())).collect();
    assert_eq!(summary(changes), wanted);
}

/// Copies come first, changes in order with growing versions, again until they are committed, and not after a close.
pub(crate) async fn run<T: Stand>(mut stand: T) {
    stand.run("CREATE TABLE item (id integer PRIMARY KEY, note text)").await;
    stand.run("INSERT INTO item VALUES (1, 'one'), (2, 'two')").await;

    let mut source = stand.source().await;
    let (copied, position) = read(&mut source, 2).await;
    assert!(copied.iter().all(|change| change.action == Action::Bulk && change.only_share.as_deref() == Some("first")));
    source.commit(&position).await.expect("committed");
    source.commit(&position).await.expect("committed twice");

    stand.run("INSERT INTO item VALUES (3, 'three')").await;
    let (inserted, position) = read(&mut source, 1).await;
    expect(&inserted, &[(Action::Insert, "3")]);
    assert!(copied.iter().all(|change| change.version < inserted[0].version), "a copied row is older than any change");
    source.commit(&position).await.expect("committed");

    stand.run("UPDATE item SET note = 'a' WHERE id = 1; UPDATE item SET note = 'b' WHERE id = 1").await;
    stand.run("DELETE FROM item WHERE id = 2; INSERT INTO item VALUES (2, 'again')").await;
    stand.run("UPDATE item SET id = 30 WHERE id = 3").await;
    let (first, _) = read(&mut source, 6).await;
    let (update, delete, insert) = (Action::Update, Action::Delete, Action::Insert);
    expect(&first, &[(update, "1"), (update, "1"), (delete, "2"), (insert, "2"), (delete, "3"), (insert, "30")]);
    assert!(first.is_sorted_by(|one, next| one.version < next.version), "versions grow");
    let older =
        copied.iter().chain(&first).filter(|older| older.key == first[1].key && older.version < first[1].version);
    assert!(older.map(|older| older.version).max() < Some(first[1].version.below()), "the version below is free");
    assert!(
        first.iter().all(|change| change.only_share.is_none() && change.after.is_none() == (change.action == delete))
    );

    drop(source);
    let mut source = stand.source().await;
    let mut again = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    let position = loop {
        let polled = poll(&mut source, LIMIT, deadline).await;
        // The last commits may not have been stored before the end: what they covered may repeat, a copy as a whole.
        let later = |change: &Change| change.action != Action::Bulk && change.version > inserted[0].version;
        again.extend(polled.changes.into_iter().filter(later));
        if let Some(position) = polled.position.filter(|_| again.len() >= first.len()) {
            break position;
        }
    };
    let versions = |changes: &[Change]| changes.iter().map(|change| change.version).collect::<Vec<_>>();
    assert_eq!((summary(&again), versions(&again)), (summary(&first), versions(&first)), "uncommitted changes repeat");

    source.commit(&position).await.expect("committed");
    source.close().await;
    stand.run("INSERT INTO item VALUES (4, 'four')").await;
    let (next, _) = read(&mut stand.source().await, 1).await;
    expect(&next, &[(insert, "4")]);
}
