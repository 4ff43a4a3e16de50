//! Which record is meant: the shares of its table, and its key as the source writes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use syncline_producer::share::{Share, ShareConfig};
use syncline_producer::source::{Found, SourceError, Wanted};
use syncline_shared::journal::record_id;
use syncline_shared::record::{Columns, Row, Value, partition_of};
use syncline_shared::tasks::chain;

use crate::config::{Config, compile};
use crate::failure::Failure;
use crate::share::find;

/// The record that is asked for.
pub(super) struct Subject<'a> {
    /// The table as it was named.
    pub table: &'a str,
    /// The record's key, with the values as the source writes them where it has the record.
    pub key: Row,
    /// Whether the names of the key's columns are known.
    pub names_known: bool,
    /// The shares of the table.
    pub shares: Vec<Sharing<'a>>,
    /// What the sources of these shares have of it, by their names.
    pub sources: BTreeMap<&'a str, Result<Option<AtSource>, String>>,
    pub notes: Vec<String>,
}

/// A share of the table.
pub(super) struct Sharing<'a> {
    pub name: &'a str,
    pub config: &'a ShareConfig,
    pub share: Share,
}

/// The record as a source has it now.
pub(super) struct AtSource {
    /// The table it is stored in.
    pub table: Arc<str>,
    pub row: Row,
}

/// The record as the command line names it.
enum Named<'a> {
    Columns(Vec<(&'a str, &'a str)>),
    Values(Vec<&'a str>),
}

/// What the sources tell: the key of the table, by which columns the record was looked for, and its own key.
#[derive(Default)]
struct Told {
    columns: Option<Columns>,
    by: Vec<String>,
    key: Option<Row>,
}

impl<'a> Subject<'a> {
    /// Looks for the record at the sources of its table.
    ///
    /// # Errors
    /// Nobody shares or subscribes to the table, or the key cannot be one of it.
    pub(super) async fn find(config: &'a Config, table: &'a str, values: &'a [String]) -> Result<Self, Failure> {
        let shares = shares(config, table)?;
        let named = named(values);
        let (mut sources, mut told, mut notes) = (BTreeMap::new(), Told::default(), Vec::new());
        for name in shares.iter().map(|share| share.config.source.as_str()).collect::<BTreeSet<_>>() {
            let stored: BTreeSet<_> = shares
                .iter()
                .filter(|share| share.config.source == name)
                .flat_map(|share| share.share.tables())
                .collect();
            let at = match ask(config, name, stored, &named, &mut told).await {
                Ok(at) => Ok(at),
                Err(Away::Source(error)) => Err(chain(&error)),
                Err(Away::Key(problem)) => return Err(Failure::Other(format!("table {table} {problem}"))),
            };
            sources.insert(name, at);
        }
        let (key, names_known) = match told.key {
            Some(key) => (key, true),
            None => typed(table, told.columns, &named, &mut notes, &told.by)?,
        };
        Ok(Self { table, key, names_known, shares, sources, notes })
    }

    /// The tables its records leave under, or the one that was named.
    pub(super) fn leaving(&self) -> BTreeSet<&str> {
        let leaving = self.shares.iter().flat_map(|share| share.share.tables_leaving()).map(AsRef::as_ref);
        let leaving: BTreeSet<&str> = leaving.collect();
        if leaving.is_empty() { [self.table].into() } else { leaving }
    }

    /// The ids under which journals may know it.
    pub(super) fn ids(&self) -> BTreeSet<u64> {
        let stored = self.shares.iter().flat_map(|share| share.share.tables()).map(AsRef::as_ref);
        stored.chain(self.leaving()).map(|table| record_id(table, &self.key)).collect()
    }

    /// The partitions it may be in, by shared queue; none where no share is known.
    pub(super) fn partitions(&self, config: &Config) -> BTreeSet<(String, u32)> {
        let mut all = BTreeSet::new();
        for Sharing { config: own, share, .. } in &self.shares {
            for destination in config.destinations(own) {
                for table in share.tables_leaving() {
                    let queue = &destination.queue;
                    all.insert((queue.name.clone(), partition_of(&own.source, table, &self.key, queue.partitions)));
                }
            }
        }
        all
    }
}

/// The shares of a table. A configuration without shares knows tables by its subscriptions.
fn shares<'a>(config: &'a Config, table: &str) -> Result<Vec<Sharing<'a>>, Failure> {
    let mut shares = Vec::new();
    let mut known = BTreeSet::new();
    for (name, own) in &config.shares {
        let share = compile(name, own)?;
        let tables = share.tables().iter().chain(share.tables_leaving()).map(ToString::to_string);
        let tables: BTreeSet<_> = tables.chain([own.table.clone()]).collect();
        if tables.contains(table) {
            shares.push(Sharing { name, config: own, share });
        }
        known.extend(tables);
    }
    if !shares.is_empty() {
        return Ok(shares);
    }
    let takes_all = config.subscriptions.values().any(|subscription| subscription.table.is_empty());
    let listed = config.subscriptions.values().flat_map(|subscription| subscription.table.keys());
    known.extend(listed.cloned());
    if known.contains(table) || (takes_all && config.shares.is_empty()) {
        return Ok(shares);
    }
    let known: Vec<_> = known.into_iter().collect();
    Err(Failure::Other(format!("no share or subscription is about table {table}; accepted: {}", known.join(", "))))
}

fn named(values: &[String]) -> Named<'_> {
    let pairs: Option<Vec<_>> = values.iter().map(|value| value.split_once('=')).collect();
    pairs.map_or_else(|| Named::Values(values.iter().map(String::as_str).collect()), Named::Columns)
}

/// Why a source does not tell.
enum Away {
    Source(SourceError),
    /// What was named cannot be a key of the table.
    Key(String),
}

/// Looks for the record in the tables of one source.
async fn ask(
    config: &Config,
    source: &str,
    tables: BTreeSet<&Arc<str>>,
    named: &Named<'_>,
    told: &mut Told,
) -> Result<Option<AtSource>, Away> {
    for table in tables {
        let columns = match named {
            Named::Values(values) if values.len() > 1 => {
                Some(find(config, source, table, Wanted::Nothing).await.map_err(Away::Source)?.key)
            }
            Named::Values(_) | Named::Columns(_) => None,
        };
        let wanted = match (named, &columns) {
            (Named::Columns(pairs), _) => Wanted::Columns(pairs.clone()),
            (Named::Values(values), None) => Wanted::Named(values.first().copied().unwrap_or_default()),
            (Named::Values(values), Some(key)) if key.len() == values.len() => {
                Wanted::Columns(key.iter().zip(values.iter().copied()).collect())
            }
            (Named::Values(_), Some(key)) => return Err(Away::Key(needs(key))),
        };
        let found = find(config, source, table, wanted).await.map_err(Away::Source)?;
        if let Some(at) = taken(table, found, told) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Takes in what a source found.
fn taken(table: &Arc<str>, found: Found, told: &mut Told) -> Option<AtSource> {
    let Found { key, by, row } = found;
    told.by = by;
    told.columns.get_or_insert_with(|| key.clone());
    let row = row?;
    let places: Vec<_> = key.iter().filter_map(|name| row.columns().position(name)).collect();
    told.key.get_or_insert_with(|| row.select(key, &places));
    Some(AtSource { table: Arc::clone(table), row })
}

/// The key as it was typed, for a record that no source has.
fn typed(
    table: &str,
    names: Option<Columns>,
    named: &Named<'_>,
    notes: &mut Vec<String>,
    by: &[String],
) -> Result<(Row, bool), Failure> {
    let (columns, values): (Columns, Vec<&str>) = match (named, names) {
        (Named::Columns(pairs), None) => {
            (Columns::new(pairs.iter().map(|(name, _)| *name)), pairs.iter().map(|(_, value)| *value).collect())
        }
        (Named::Columns(pairs), Some(key)) => {
            let value = |name: &str| pairs.iter().find(|(column, _)| *column == name).map(|(_, value)| *value);
            let values: Option<Vec<_>> = key.iter().map(value).collect();
            let Some(values) = values.filter(|values| values.len() == pairs.len()) else {
                return Err(Failure::Other(format!(
                    "no record of table {table} has these values now; one that is gone is traced by its key, {}",
                    list(&key)
                )));
            };
            (key, values)
        }
        (Named::Values(values), Some(key)) => {
            if key.len() != values.len() {
                return Err(Failure::Other(format!("table {table} {}", needs(&key))));
            }
            if by.len() > key.len() {
                notes.push(format!(
                    "no record was found by {}; from here on it is taken for the key {}",
                    by.join(", "),
                    list(&key)
                ));
            }
            (key, values.clone())
        }
        (Named::Values(values), None) => {
            let names = (1..=values.len()).map(|number| format!("key column {number}"));
            return Ok((row(Columns::new(names), values), false));
        }
    };
    Ok((row(columns, &values), true))
}

fn row(columns: Columns, values: &[&str]) -> Row {
    let mut row = Row::builder(columns);
    values.iter().for_each(|value| row.push(Value::Text(value)));
    row.finish()
}

/// What is wrong with another number of values.
fn needs(key: &Columns) -> String {
    format!("has the key {}: name a value for each", list(key))
}

fn list(columns: &Columns) -> String {
    columns.iter().collect::<Vec<_>>().join(", ")
}
