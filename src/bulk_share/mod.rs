//! `syncline bulk-share`: asks for bulk shares, follows them, lists and cancels them.
//!
//! The command executes nothing: it leaves an order with the source's state, and the producer that reads the source takes
//! it up. So it may end, and be started again, as often as one likes.

mod follow;
mod status;

use std::collections::BTreeSet;
use std::path::Path;

use jiff::Timestamp;
use syncline_producer::bulk::{Ledger, Member, Order, Stock, cancel, put_order};
use syncline_producer::config::SourceConfig;
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::sqlite::SqliteSource;
use syncline_producer::source::{SourceError, WatchedTable};
use uuid::Uuid;

use crate::cli::BulkShareArgs;
use crate::config::{Config, Env, Role};
use crate::failure::Failure;
use crate::source::unavailable;

/// Does what the command line says.
pub(crate) async fn run(path: &Path, env: &Env, json: bool, args: BulkShareArgs) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let shares = shares(&config, &args)?;
    if args.status {
        return status::print(&config, &shares, json).await;
    }
    if args.cancel {
        return cancel_all(&config, &shares, json).await;
    }
    let orders = orders(&config, &args, &shares);
    let source = shares.first().and_then(|share| config.shares.get(share)).map(|share| share.source.clone());
    let Some(source) = source else { return Ok(()) };
    on_stock(follow::Follow { orders, source: &source, wait: args.wait, json }, &config, &source).await
}

/// The shares the command is about; none for all of them.
fn shares(config: &Config, args: &BulkShareArgs) -> Result<Vec<String>, Failure> {
    let known = |names: Vec<&String>| names.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    match (&args.share, &args.group) {
        (Some(share), _) if config.shares.contains_key(share) => {
            if args.changed_since.is_some()
                && config.shares.get(share).is_some_and(|share| share.changed_column.is_none())
            {
                let text = format!("--changed-since needs changed_column = \"..\" in [share.{share}]");
                return Err(Failure::Other(text));
            }
            Ok(vec![share.clone()])
        }
        (Some(share), _) => {
            let known = known(config.shares.keys().collect());
            Err(Failure::Other(format!("there is no share {share} in the configuration; there are: {known}")))
        }
        (None, Some(group)) => config.bulk_groups.get(group).map(|group| group.shares.clone()).ok_or_else(|| {
            let known = known(config.bulk_groups.keys().collect());
            Failure::Other(format!("there is no [bulk_group.{group}] in the configuration; there are: {known}"))
        }),
        (None, None) => Ok(Vec::new()),
    }
}

/// What is asked for: one order for each share, in their order.
fn orders(config: &Config, args: &BulkShareArgs, shares: &[String]) -> Vec<(Uuid, Order)> {
    let group = args.group.as_ref().and_then(|name| Some((name, config.bulk_groups.get(name)?.parallel)));
    let (of, planned_at) = (Uuid::now_v7(), Timestamp::now());
    let order = |share: &String| Order {
        share: share.clone(),
        query: args.query.clone(),
        changed_since: args.changed_since,
        rows_per_second: args.rows_per_second,
        records: None,
        member: group.map(|(group, parallel)| Member { group: group.clone(), of, parallel }),
        schedule: None,
        planned_at,
        cancel: false,
    };
    shares.iter().map(|share| (Uuid::now_v7(), order(share))).collect()
}

/// A job that needs a source as bulk shares see it.
pub(crate) trait OnStock {
    /// What it gives.
    type Output;

    /// Does it.
    fn run<K: Stock>(self, stock: K) -> impl Future<Output = Result<Self::Output, Failure>>;
}

async fn on_stock<J: OnStock>(job: J, config: &Config, source: &str) -> Result<J::Output, Failure> {
    on_stock_of(job, config, source, Vec::new()).await
}

/// Does a job that reads these tables.
pub(crate) async fn on_stock_of<J: OnStock>(
    job: J,
    config: &Config,
    source: &str,
    tables: Vec<WatchedTable>,
) -> Result<J::Output, Failure> {
    match config.sources.get(source) {
        Some(SourceConfig::Postgres(postgres)) => {
            job.run(PostgresSource::new(source, postgres.clone(), tables).stock()).await
        }
        Some(SourceConfig::Sqlite(sqlite)) => job.run(SqliteSource::new(source, sqlite.clone(), tables).stock()).await,
        None => unreachable!("checked on loading"),
    }
}

/// The sources of some shares, or of all.
fn sources(config: &Config, shares: &[String]) -> BTreeSet<String> {
    let wanted = config.shares.iter().filter(|(name, _)| shares.is_empty() || shares.contains(name));
    wanted.map(|(_, share)| share.source.clone()).collect()
}

/// Asks everything that is planned or running to stop.
async fn cancel_all(config: &Config, shares: &[String], json: bool) -> Result<(), Failure> {
    struct Cancel<'a>(&'a [String]);
    impl OnStock for Cancel<'_> {
        type Output = Vec<(Uuid, String)>;

        async fn run<K: Stock>(self, stock: K) -> Result<Self::Output, Failure> {
            let ledger = Ledger::read(&stock).await.map_err(|error| unavailable(&error))?;
            let mut cancelled = Vec::new();
            for (id, entry) in ledger.entries {
                let wanted = self.0.is_empty() || self.0.contains(&entry.order.share);
                if wanted && !entry.is_over() {
                    cancel(&stock, id, &entry.order).await.map_err(|error| unavailable(&error))?;
                    cancelled.push((id, entry.order.share));
                }
            }
            Ok(cancelled)
        }
    }
    let mut cancelled = Vec::new();
    for source in sources(config, shares) {
        cancelled.extend(on_stock(Cancel(shares), config, &source).await?);
    }
    if json {
        let list: Vec<_> =
            cancelled.iter().map(|(id, share)| serde_json::json!({ "id": id, "share": share })).collect();
        println!("{}", serde_json::Value::Array(list));
    } else if cancelled.is_empty() {
        println!("No bulk share is planned or running.");
    }
    for (_, share) in cancelled.iter().filter(|_| !json) {
        println!("The bulk share of {share} is asked to stop; what was sent stays sent.");
    }
    Ok(())
}

/// What a source's answer means here.
fn told<T>(answer: Result<T, SourceError>) -> Result<T, Failure> {
    answer.map_err(|error| unavailable(&error))
}

/// Leaves orders with a source, but for those that are there already and not done: they are gone on with.
async fn leave<K: Stock>(stock: &K, orders: Vec<(Uuid, Order)>) -> Result<Vec<Uuid>, Failure> {
    let ledger = told(Ledger::read(stock).await)?;
    let mut ids = Vec::new();
    for (id, order) in orders {
        let same = |other: &Order| {
            let of = |order: &Order| order.member.as_ref().map(|member| member.group.clone());
            let Order { share, query, changed_since, rows_per_second, .. } = &order;
            (share, query, changed_since, rows_per_second)
                == (&other.share, &other.query, &other.changed_since, &other.rows_per_second)
                && of(&order) == of(other)
                && other.records.is_none()
                && !other.cancel
        };
        let known = ledger.entries.iter().find(|(_, entry)| !entry.is_over() && same(&entry.order));
        match known {
            Some((id, entry)) => {
                let since = entry.order.planned_at.strftime("%Y-%m-%d %H:%M:%S UTC");
                eprintln!("The bulk share of {} was asked for at {since} and goes on.", order.share);
                ids.push(*id);
            }
            None => {
                told(put_order(stock, id, &order).await)?;
                ids.push(id);
            }
        }
    }
    Ok(ids)
}
