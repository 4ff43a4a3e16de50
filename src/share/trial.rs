//! `syncline share test`: what a share would do with a record, and why. Sends nothing and changes nothing.
//!
//! The change is made up here, from a record of the source or from files; what becomes of it is the producer's own code.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use prometheus::Registry;
use syncline_producer::config::SourceConfig;
use syncline_producer::metrics::Metrics;
use syncline_producer::outlet::{Outlets, look_up};
use syncline_producer::share::filter::Explanation;
use syncline_producer::share::{Decision, Share, ShareConfig};
use syncline_producer::source::postgres::PostgresSource;
use syncline_producer::source::sqlite::SqliteSource;
use syncline_producer::source::{Change, Found, Lookups, Session, Source as _, SourceError, Wanted, WatchedTable};
use syncline_producer::trial::{Message, try_out};
use syncline_shared::config::read_bounded;
use syncline_shared::record::{Action, Columns, Row, Version, read_lines};
use syncline_shared::tasks::chain;

use super::report::{Report, Verdict};
use crate::cli::TestArgs;
use crate::config::{Config, Env, Role, compile};
use crate::failure::Failure;
use crate::services::outlet;

/// The largest file of a record: as much as the largest record that is sent.
const RECORD_BYTES_MAX: u64 = 10 << 20;

/// Shows what a share does with a record.
pub(crate) async fn test(path: &Path, env: &Env, json: bool, args: &TestArgs) -> Result<(), Failure> {
    let config = Config::load(path, env, Role::Producer)?;
    let Some(share) = config.shares.get(&args.name) else {
        let known: Vec<_> = config.shares.keys().map(String::as_str).collect();
        return Err(Failure::Other(format!("there is no [share.{}]; accepted: {}", args.name, known.join(", "))));
    };
    let tested = compile(&args.name, share)?;
    let (change, mut notes) = change(&config, share, tested.tables(), args).await?;
    let Tried { verdict, filter, messages } = tried(&config, share, &tested, &change).await?;
    notes.extend(tested.script_log(&change).into_iter().map(|line| format!("the script logs: {line}")));
    let report = Report { name: &args.name, share, change: &change, notes, verdict, filter, messages };
    if json {
        println!("{}", report.to_json());
    } else {
        print!("{}", report.to_text());
    }
    Ok(())
}

/// What becomes of a change that is made up.
pub(crate) struct Tried {
    /// At the share that is asked.
    pub(crate) verdict: Verdict,
    /// Its filter, term by term.
    pub(crate) filter: Option<Explanation>,
    /// What every share of the source would send.
    pub(crate) messages: Vec<Message>,
}

/// Puts a change to a share, as the producer would.
pub(crate) async fn tried(
    config: &Config,
    share: &ShareConfig,
    tested: &Share,
    change: &Change,
) -> Result<Tried, Failure> {
    let metrics = Metrics::new(&Registry::new())?;
    let outlets = config.shares.iter().filter(|(_, other)| other.source == share.source);
    let outlets = outlets.map(|(name, share)| outlet(config, name, share, &metrics)).collect::<Result<Vec<_>, _>>()?;
    let outlets = Outlets::new(&share.source, outlets);
    show(config, share, tested, &outlets, change).await?;
    let verdict = match tested.decide(change) {
        Decision::Share(_) => Verdict::Leaves,
        Decision::Withhold(reason) => Verdict::Withheld { reason },
        Decision::SetAside { error, .. } => {
            Verdict::Fails { error: error.to_string(), text: error.text().map(str::to_owned) }
        }
        Decision::Unfit { column } => Verdict::Unfit { column: column.to_owned() },
    };
    let messages = match verdict {
        Verdict::Unfit { .. } => Vec::new(),
        Verdict::Leaves | Verdict::Withheld { .. } | Verdict::Fails { .. } => {
            try_out(outlets, change, &config.producer).map_err(|error| Failure::other(&error))?
        }
    };
    Ok(Tried { verdict, filter: tested.explain(change).unwrap_or_default(), messages })
}

/// Makes the change up, and says what of it is not as in life.
async fn change(
    config: &Config,
    share: &ShareConfig,
    stored: &[Arc<str>],
    args: &TestArgs,
) -> Result<(Change, Vec<String>), Failure> {
    let mut notes = Vec::new();
    let read = |path: &Option<_>| path.as_deref().map(file).transpose();
    let (mut after, before) = (read(&args.after)?, read(&args.before)?);
    // The records of the share's table may be stored in those that extend it.
    let mut table =
        stored.iter().find(|table| ***table == *share.table).or(stored.first()).cloned().unwrap_or_default();
    let key = match &args.record {
        None => match find(config, &share.source, &table, Wanted::Nothing).await {
            Ok(found) => found.key,
            Err(error) => {
                let cause = chain(&error);
                notes.push(format!("the first column is taken for the key, and with it the partition: {cause}"));
                let first = after.as_ref().or(before.as_ref()).and_then(|row| row.columns().name(0).map(str::to_owned));
                Columns::new(first)
            }
        },
        Some(record) => {
            let mut by = Vec::new();
            let mut key = None;
            for stored in stored {
                let found = find(config, &share.source, stored, wanted(record)).await;
                let found = found.map_err(|error| {
                    Failure::Unavailable(format!("The source {} cannot be asked: {}.", share.source, chain(&error)))
                })?;
                by = found.by;
                if found.row.is_some() {
                    (after, key, table) = (found.row, Some(found.key), Arc::clone(stored));
                    break;
                }
            }
            let by = if by.is_empty() { "column=value".to_owned() } else { by.join(", ") };
            key.ok_or_else(|| Failure::Other(format!("no such record in {}; it was looked for by {by}", share.table)))?
        }
    };
    let action = match (&after, &before, &args.record) {
        (None, _, _) => Action::Delete,
        (Some(_), None, None) => Action::Insert,
        (Some(_), _, _) => Action::Update,
    };
    if action == Action::Update && before.is_none() {
        notes.push("what the record was before is not known; --before FILE tells it".to_owned());
    }
    let Some(row) = after.as_ref().or(before.as_ref()) else { unreachable!("the command line asks for one") };
    let places: Vec<_> = key.iter().filter_map(|name| row.columns().position(name)).collect();
    if places.len() < key.len() {
        let names: Vec<_> = key.iter().collect();
        return Err(Failure::Other(format!("the record lacks its key: {}", names.join(", "))));
    }
    let change = Change {
        table,
        action,
        key: row.select(key, &places),
        session: match (&args.user, args.background) {
            (None, false) => session(config, &share.source, row),
            (user, background) => Session { interactive: Some(!background), user: user.as_deref().map(Into::into) },
        },
        before,
        after,
        version: Version::new(0, 0, 1),
        at: Timestamp::now(),
        origin: [].into(),
        only_share: None,
    };
    Ok((change, notes))
}

/// Who makes a change that nobody is named for: by the source's rule, else a person.
pub(crate) fn session(config: &Config, source: &str, row: &Row) -> Session {
    let rule = match config.sources.get(source) {
        Some(SourceConfig::Postgres(source)) => source.session.as_ref(),
        Some(SourceConfig::Sqlite(source)) => source.session.as_ref(),
        None => None,
    };
    rule.map_or(Session { interactive: Some(true), user: None }, |rule| rule.session(row))
}

/// Which record a text names: by its key, or by `column=value,column=value`.
fn wanted(record: &str) -> Wanted<'_> {
    let pairs: Option<Vec<_>> = record.split(',').map(|pair| pair.split_once('=')).collect();
    pairs.map_or(Wanted::Named(record), Wanted::Columns)
}

/// Looks for a record in a table of a source, or asks for the table's key alone.
pub(crate) async fn find(
    config: &Config,
    name: &str,
    table: &Arc<str>,
    wanted: Wanted<'_>,
) -> Result<Found, SourceError> {
    let tables = vec![WatchedTable { table: Arc::clone(table), ..WatchedTable::default() }];
    match config.sources.get(name) {
        Some(SourceConfig::Postgres(postgres)) => {
            PostgresSource::new(name, postgres.clone(), tables).find(wanted).await
        }
        Some(SourceConfig::Sqlite(sqlite)) => SqliteSource::new(name, sqlite.clone(), tables).find(&wanted),
        None => unreachable!("checked on loading"),
    }
}

/// Looks up the display values the shares need, as they are at the source now.
async fn show(
    config: &Config,
    share: &ShareConfig,
    tested: &Share,
    outlets: &Outlets,
    change: &Change,
) -> Result<(), Failure> {
    let (name, changes) = (share.source.as_str(), std::slice::from_ref(change));
    let looked_up = match config.sources.get(name) {
        Some(SourceConfig::Postgres(postgres)) => {
            let source = PostgresSource::new(name, postgres.clone(), Vec::new());
            show_by(&source.lookups(), tested, outlets, changes).await
        }
        Some(SourceConfig::Sqlite(sqlite)) => {
            let source = SqliteSource::new(name, sqlite.clone(), Vec::new());
            show_by(&source.lookups(), tested, outlets, changes).await
        }
        None => unreachable!("checked on loading"),
    };
    looked_up.map_err(|error| {
        Failure::Unavailable(format!("The source {name} cannot be asked for display values: {}.", chain(&error)))
    })
}

async fn show_by(
    lookups: &impl Lookups,
    tested: &Share,
    outlets: &Outlets,
    changes: &[Change],
) -> Result<(), SourceError> {
    look_up(tested, changes, lookups).await?;
    outlets.look_up(changes, lookups).await
}

/// Reads a record from a file, its numbers as they are written.
fn file(path: &Path) -> Result<Row, Failure> {
    let unread = |why: &dyn std::fmt::Display| Failure::Other(format!("{} is no record: {why}", path.display()));
    let text = read_bounded(path, RECORD_BYTES_MAX).map_err(|error| unread(&error))?;
    // A line break can only stand between the tokens of JSON.
    let text = text.replace(['\n', '\r'], " ");
    let (version, at) = (Version::new(0, 0, 1), Timestamp::UNIX_EPOCH);
    let line = format!("{{\"key\":{{\"file\":1}},\"version\":\"{version}\",\"at\":\"{at}\",\"data\":{text}}}");
    let records = read_lines(line.as_bytes());
    let data = records.ok().and_then(|mut records| records.pop()?.data);
    data.ok_or_else(|| unread(&"a JSON object of columns, each a text, number, true, false or null"))
}
