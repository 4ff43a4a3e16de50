//! `syncline compare`: whether a target has a share's records, all of them, as the share sends them, and no others.
//!
//! The source is read in one snapshot, what the share would send of it is worked out by the producer's own code (`say`),
//! and the target compares that with its rows in its own types (`scan`). The snapshot has a version, as every row at the
//! target has: what is newer there is no difference, and what is older may be on its way, so it is looked at again. Writes
//! nothing but temporary tables at the target; a repair is an order for the producer (`repair`).

mod places;
mod progress;
mod repair;
mod report;
mod say;
mod scan;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use syncline_consumer::config::TargetConfig;
use syncline_consumer::target::ApplyError;
use syncline_consumer::target::look::Look;
use syncline_consumer::target::postgres::PostgresLook;
use syncline_consumer::target::sqlite::SqliteLook;
use syncline_producer::bulk::Stock;
use syncline_producer::share::{Share, ShareConfig};
use syncline_producer::source::{Wanted, WatchedTable};
use syncline_shared::record::Columns;

use crate::bulk_share::{OnStock, on_stock_of};
use crate::cli::CompareArgs;
use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;
use crate::source::unavailable;
use places::Places;
use progress::Progress;
use report::Report;
use scan::{Outcome, Scan, unfit};

/// Compares, and prints what came out.
pub(crate) async fn run(path: &Path, env: &Env, json: bool, args: CompareArgs) -> Result<(), Failure> {
    let compared = compare(path, env, json, &args).await;
    // 1 is the word for a difference, and for nothing else.
    let is_same = compared.map_err(|failure| match failure {
        Failure::Other(text) => Failure::Unavailable(text),
        other @ (Failure::Config(_)
        | Failure::NoConfig(_)
        | Failure::Usage(_)
        | Failure::Different
        | Failure::Unavailable(_)) => other,
    })?;
    if is_same { Ok(()) } else { Err(Failure::Different) }
}

async fn compare(path: &Path, env: &Env, json: bool, args: &CompareArgs) -> Result<bool, Failure> {
    let config = Config::load(path, env, Role::Both)?;
    let unknown = |what: &str, name: &str, known: Vec<&String>| {
        let known = known.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        Failure::Usage(format!("there is no {what} {name} in the configuration; there are: {known}"))
    };
    let rule = config.shares.get(&args.share);
    let rule = rule.ok_or_else(|| unknown("share", &args.share, config.shares.keys().collect()))?;
    let target = config.targets.get(&args.target);
    let target = target.ok_or_else(|| unknown("target", &args.target, config.targets.keys().collect()))?;
    let share = compile(&args.share, rule)?;
    if share.decides_by_changes() {
        return Err(Failure::Usage(format!(
            "the share {} decides by what a change changed; which records it has cannot be told from the records",
            args.share
        )));
    }
    let places = Places::find(&config, &share, rule, &args.target)?;
    let tables = share.tables().iter().map(|table| WatchedTable { table: table.clone(), ..WatchedTable::default() });
    let tables = tables.collect();
    let comparison = Comparison { config: &config, args, rule, share: &share, target, places: &places, json };
    let report = Box::pin(on_stock_of(comparison, &config, &rule.source, tables)).await?;
    if json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(report.is_same())
}

/// What is compared with what.
struct Comparison<'a> {
    config: &'a Config,
    args: &'a CompareArgs,
    rule: &'a ShareConfig,
    share: &'a Share,
    target: &'a TargetConfig,
    places: &'a Places,
    json: bool,
}

impl<'a> OnStock for Comparison<'a> {
    type Output = Report<'a>;

    async fn run<K: Stock>(self, stock: K) -> Result<Report<'a>, Failure> {
        let tables: Vec<(Arc<str>, Vec<String>)> = self.tables();
        let key = self.key(&tables).await?;
        let outcome = match self.target {
            TargetConfig::Postgres(postgres) => {
                let look = PostgresLook::open(postgres).await;
                Box::pin(self.scan(&stock, &tables, &key, look)).await?
            }
            TargetConfig::Sqlite(sqlite) => {
                let look = SqliteLook::open(sqlite).await;
                Box::pin(self.scan(&stock, &tables, &key, look)).await?
            }
        };
        let name = self.args.share.as_str();
        let repair = if self.args.repair && !outcome.found.is_empty() {
            Some(repair::ask(&stock, name, &tables, &outcome.found).await?)
        } else {
            None
        };
        let (target, places) = (self.args.target.as_str(), self.places);
        Ok(Report { share: name, target, places, outcome, notes: self.notes(), repair })
    }
}

impl Comparison<'_> {
    async fn scan<K: Stock, L: Look>(
        &self,
        stock: &K,
        tables: &[(Arc<str>, Vec<String>)],
        key: &Columns,
        look: Result<L, ApplyError>,
    ) -> Result<Outcome, Failure> {
        let queues: Vec<_> = self.config.destinations(self.rule).into_iter().map(|to| to.queue.name).collect();
        let settle = Duration::from_secs(self.args.settle.into());
        let look = look.map_err(|error| unfit(&error))?;
        Scan::new((self.share, self.places, &queues), look, settle, Progress::new(self.json))
            .run(stock, tables, key)
            .await
    }

    /// The source's tables, each with the columns the share names.
    fn tables(&self) -> Vec<(Arc<str>, Vec<String>)> {
        let columns = |table: &str| self.share.columns_used(table).map(str::to_owned).collect();
        self.share.tables().iter().map(|table| (Arc::clone(table), columns(table))).collect()
    }

    /// The key of the share's records.
    async fn key(&self, tables: &[(Arc<str>, Vec<String>)]) -> Result<Columns, Failure> {
        let mut keys = Vec::new();
        for (table, _) in tables {
            let found = crate::share::find(self.config, &self.rule.source, table, Wanted::Nothing).await;
            keys.push(found.map_err(|error| unavailable(&error))?.key);
        }
        let first = keys.first().cloned().unwrap_or_default();
        if keys.iter().any(|key| *key != first) {
            let text =
                format!("the tables of the share {} have different keys; they cannot be compared", self.args.share);
            return Err(Failure::Usage(text));
        }
        Ok(first)
    }

    /// What may be meant so, and is to be known.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.rule.interactive_only {
            notes.push("changes made by jobs are not shared, and count as differences".to_owned());
        }
        if self.rule.share_on.is_some() || self.rule.ignore.is_some() {
            let text = "columns whose changes alone are not shared (share_on, ignore) are not compared";
            notes.push(text.to_owned());
        }
        notes
    }
}
