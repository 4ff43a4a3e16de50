//! Keeper and feed together, on notes in memory; the pipeline is played by the test.

use std::time::Duration;

use prometheus::Registry;
use syncline_shared::record::{Columns, Row, Value};
use syncline_shared::tasks::TaskGroup;
use tokio::time::timeout;
use uuid::Uuid;

use super::feed::Place;
use super::memory::MemoryStock;
use super::*;
use crate::source::{PollLimit, Polled, Source as _};

const LIMIT: PollLimit = PollLimit { changes: 1_000, bytes: 1 << 20 };

struct Bench {
    feed: Feed<MemoryStock>,
    stock: MemoryStock,
    _tasks: TaskGroup,
}

fn bench(stock: &MemoryStock) -> Bench {
    let (news, read) = mpsc::channel(NEWS);
    let (wanted, board) = (watch::Sender::new(false), SharedBoard::default());
    let feed = Feed::new(stock.clone(), read, board.clone(), wanted.subscribe());
    let share = |tables: &[&str]| BulkShare {
        tables: tables.iter().map(|&table| (table.into(), Vec::new())).collect(),
        changed_column: None,
    };
    let shares = [("a", share(&["item"])), ("both", share(&["item", "other"]))];
    let shares = shares.map(|(name, share)| (name.to_owned(), share));
    let bulk = BulkShares { source: "desk".to_owned(), shares: shares.into(), ..BulkShares::default() };
    let health = Health::new(&Registry::new(), "producer").expect("a fresh registry");
    let keeper = Keeper::new(stock.clone(), bulk, news, board, wanted, health);
    let mut tasks = TaskGroup::default();
    tasks.spawn("bulk shares", keeper.run(tasks.stop()));
    Bench { feed, stock: stock.clone(), _tasks: tasks }
}

fn order(share: &str) -> Order {
    let now = jiff::Timestamp::now();
    Order {
        share: share.to_owned(),
        query: None,
        changed_since: None,
        rows_per_second: None,
        records: None,
        member: None,
        schedule: None,
        planned_at: now,
        cancel: false,
    }
}

impl Bench {
    async fn poll(&mut self) -> Polled<Place> {
        timeout(Duration::from_secs(60), self.feed.poll(LIMIT)).await.expect("news").expect("a feed never fails")
    }

    /// The next portion of rows.
    async fn poll_rows(&mut self) -> Polled<Place> {
        loop {
            let polled = self.poll().await;
            if !polled.changes.is_empty() {
                return polled;
            }
        }
    }

    /// Polls until so many rows were read; the keys, and the place after them.
    async fn rows(&mut self, count: usize) -> (Vec<String>, Place) {
        let mut keys = Vec::new();
        loop {
            let Polled { changes, position } = self.poll().await;
            keys.extend(changes.iter().map(contract::key));
            if let Some(position) = position.filter(|_| keys.len() >= count) {
                return (keys, position);
            }
        }
    }

    /// Waits until what is noted of a bulk share holds.
    async fn noted(&self, id: Uuid, holds: impl Fn(&Run) -> bool) {
        let noted = async {
            while !self
                .stock
                .note(&format!("run:{id}"))
                .and_then(|json| serde_json::from_str(&json).ok())
                .is_some_and(|run| holds(&run))
            {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(60), noted).await.expect("noted");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_safe_elsewhere_is_read_again_after_a_crash_and_the_rest_is_not() {
    let stock = MemoryStock::of(1_000);
    let (id, mut first) = (Uuid::now_v7(), bench(&stock));
    put_order(&stock, id, &order("a")).await.expect("asked for");
    let (_, safe) = first.rows(300).await;
    let (keys, _) = first.rows(200).await;
    assert_eq!(keys.last().map(String::as_str), Some("500"));
    first.feed.commit(&safe).await.expect("committed");
    first.noted(id, |run| run.rows == 300).await;
    drop(first);
    let mut second = bench(&stock);
    let (keys, place) = second.rows(700).await;
    assert_eq!((keys.first().map(String::as_str), keys.len()), (Some("301"), 700));
    second.feed.commit(&place).await.expect("committed");
    second.noted(id, |run| run.rows == 1_000 && run.phase == Phase::Running).await;
    let end = second.poll().await.position.expect("its end");
    tokio::time::sleep(Duration::from_secs(5)).await;
    second.noted(id, |run| run.phase == Phase::Running).await;
    second.feed.commit(&end).await.expect("committed");
    second.noted(id, |run| run.phase == Phase::Finished && run.ranges.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_stores_what_is_safe() {
    let stock = MemoryStock::of(1_000);
    let (id, mut bench) = (Uuid::now_v7(), bench(&stock));
    put_order(&stock, id, &order("a")).await.expect("asked for");
    let (_, safe) = bench.rows(400).await;
    bench.feed.commit(&safe).await.expect("committed");
    bench.feed.close().await;
    let run: Run = serde_json::from_str(&stock.note(&format!("run:{id}")).expect("a note")).expect("a run");
    assert_eq!(run.rows, 400);
}

#[tokio::test(start_paused = true)]
async fn one_that_another_producer_took_up_stops_here_and_writes_nothing_more() {
    let stock = MemoryStock::of(100_000);
    let (id, mut bench) = (Uuid::now_v7(), bench(&stock));
    put_order(&stock, id, &Order { rows_per_second: Some(1_000), ..order("a") }).await.expect("asked for");
    let (_, place) = bench.rows(100).await;
    stock.here.store(false, std::sync::atomic::Ordering::Relaxed);
    let other = Run::begin(Uuid::now_v7(), jiff::Timestamp::now());
    ledger::claim(&stock, id, &other).await.expect("taken");
    bench.feed.commit(&place).await.expect("committed");
    tokio::time::sleep(Duration::from_secs(2)).await;
    bench.noted(id, |run| run.runner == other.runner && run.rows == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_one_ends_once_what_was_read_is_safe() {
    let stock = MemoryStock::of(100_000);
    let (id, mut bench) = (Uuid::now_v7(), bench(&stock));
    let asked = Order { rows_per_second: Some(1_000), ..order("a") };
    put_order(&stock, id, &asked).await.expect("asked for");
    bench.rows(100).await;
    cancel(&stock, id, &asked).await.expect("cancelled");
    let last = loop {
        let Polled { changes, position } = bench.poll().await;
        let position = position.expect("a place");
        if changes.is_empty() {
            break position;
        }
    };
    bench.feed.commit(&last).await.expect("committed");
    bench.noted(id, |run| run.phase == Phase::Cancelled && run.rows >= 100).await;
}

#[tokio::test(start_paused = true)]
async fn all_tables_of_a_share_are_read_and_gone_on_with_where_it_was() {
    let stock = MemoryStock::of(300);
    let (id, mut first) = (Uuid::now_v7(), bench(&stock));
    put_order(&stock, id, &order("both")).await.expect("asked for");
    let (_, safe) = first.rows(400).await;
    first.feed.commit(&safe).await.expect("committed");
    first.noted(id, |run| run.rows == 400 && run.rows_total == Some(600)).await;
    drop(first);
    let mut second = bench(&stock);
    let Polled { changes, .. } = second.poll_rows().await;
    assert_eq!((&*changes[0].table, contract::key(&changes[0]).as_str()), ("other", "101"));
    let (_, _) = second.rows(100).await;
    let end = second.poll().await.position.expect("its end");
    second.feed.commit(&end).await.expect("committed");
    second.noted(id, |run| run.phase == Phase::Finished && run.rows == 600).await;
}

#[tokio::test(start_paused = true)]
async fn keys_of_named_records_are_forgotten_when_all_of_them_are_sent() {
    let stock = MemoryStock::of(3);
    let (id, mut bench) = (Uuid::now_v7(), bench(&stock));
    let key = |id: &str| {
        let mut key = Row::builder(Columns::new(["id"]));
        key.push(Value::Text(id));
        key.finish()
    };
    let keys = Keys::from([("item".to_owned(), vec![key("1\n\""), key("2")])]);
    put_order_of(&stock, id, &order("a"), &keys).await.expect("asked for");
    assert_eq!(ledger::keys(&stock, id).await.expect("a note"), Some(keys));
    bench.rows(3).await;
    let end = bench.poll().await.position.expect("its end");
    bench.feed.commit(&end).await.expect("committed");
    bench.noted(id, |run| run.phase == Phase::Finished).await;
    assert_eq!(stock.note(&format!("keys:{id}")), None);
}
