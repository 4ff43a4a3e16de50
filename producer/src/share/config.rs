//! The configuration of a share, `[share.<name>]`.

use jiff::tz::TimeZone;
use serde::Deserialize;
use syncline_shared::config::FieldProblem;
use syncline_shared::record::Action;
use syncline_shared::seal::Cipher;

use super::filter::Filter;
use crate::source::OnTruncate;

/// The rule that decides what of one table leaves, in which form, to which shared queue.
///
/// Whether the source, the queue and the key it names exist is checked where the whole configuration is known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareConfig {
    /// The source, by its name in `[source]`.
    pub source: String,
    /// The table, as the source writes it, with a schema or without.
    pub table: String,
    /// The shared queue it sends to, by its name in `[shared_queue]`.
    pub queue: String,
    /// The key it seals with, by its id in `[key]`, which also names the cipher. Either this or `cipher`.
    #[serde(default)]
    pub key: Option<String>,
    /// For shares without a key: `None` (readable by anyone at the broker) or `Base64` (encoded, no less readable).
    #[serde(default)]
    pub cipher: Option<String>,
    /// The actions that leave: any of `insert`, `update`, `delete`; default all three. Rows of a copy leave whatever is
    /// said here.
    #[serde(default = "every_action")]
    pub on: Vec<ShareOn>,
    /// Whether only the work of persons leaves, and not that of jobs; default true. A source that cannot tell gets all its
    /// changes withheld then, so say `false` for it. Rows of a copy leave in either case.
    #[serde(default = "yes")]
    pub interactive_only: bool,
    /// A ServiceNow encoded query that records must fit, such as `priority<=2^active=true`; default none. Looks at the
    /// record after the change, for deletes at what the source knows of it before. Upper and lower case differ.
    #[serde(default)]
    pub filter: Option<String>,
    /// The time zone whose days, weeks and months the filter's dates are, such as `Europe/Berlin`; default `UTC`.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// The columns that leave; default all. Key columns always go along, and the filter may name columns that do not.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// What becomes of the rows that are already there: `none` (default) or `copy`, which sends those that fit the filter
    /// before the first change.
    #[serde(default)]
    pub initial: Initial,
    /// What becomes of a `TRUNCATE`, which has no record to send, and of a table made anew or given another key: `pause`
    /// (default) until the targets are emptied by hand, or `ignore`, and the old records stay there.
    #[serde(default)]
    pub on_truncate: OnTruncate,
}

/// An action a share may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareOn {
    /// Records that are created.
    Insert,
    /// Records that are changed.
    Update,
    /// Records that are removed.
    Delete,
}

impl ShareOn {
    /// The action itself.
    #[must_use]
    pub const fn action(self) -> Action {
        match self {
            Self::Insert => Action::Insert,
            Self::Update => Action::Update,
            Self::Delete => Action::Delete,
        }
    }
}

/// What becomes of the rows that are already there when a share starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Initial {
    /// Nothing: only changes leave.
    #[default]
    None,
    /// They are sent once, before the changes.
    Copy,
}

/// What a share seals with, by name; keys are looked up where the keyring is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SealWith {
    /// The key of this id.
    Key(String),
    /// Nothing.
    Plain,
    /// An encoding without secrecy.
    Base64,
}

fn every_action() -> Vec<ShareOn> {
    vec![ShareOn::Insert, ShareOn::Update, ShareOn::Delete]
}

const fn yes() -> bool {
    true
}

impl ShareConfig {
    /// Everything wrong with the share by itself; empty when it can be compiled.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> =
            [("source", &self.source), ("table", &self.table), ("queue", &self.queue)]
                .into_iter()
                .filter(|(_, name)| name.is_empty())
                .map(|(field, _)| (field, "is empty; a name is needed".to_owned()))
                .collect();
        problems.extend(self.seal_with().err());
        if self.on.is_empty() {
            problems.push(("on", "is empty, so nothing would ever leave; any of insert, update, delete".to_owned()));
        }
        problems.extend(self.zone().err());
        problems.extend(self.parse_filter(TimeZone::UTC).err());
        let columns = self.columns.as_deref().unwrap_or_default();
        if self.columns.is_some() && columns.is_empty() {
            problems.push(("columns", "is empty; name columns, or leave it out to send all".to_owned()));
        }
        if columns.iter().any(String::is_empty) {
            problems.push(("columns", "has an empty name; names of columns of the table".to_owned()));
        }
        for (place, column) in columns.iter().enumerate() {
            if columns.iter().take(place).any(|earlier| earlier == column) {
                problems.push(("columns", format!("names {column} twice; each column once")));
            }
        }
        problems
    }

    /// What the share seals with.
    ///
    /// # Errors
    /// The problem, when `key` and `cipher` do not say it.
    pub fn seal_with(&self) -> Result<SealWith, FieldProblem> {
        match (self.key.as_deref(), self.cipher.as_deref()) {
            (Some(_), Some(_)) => {
                Err(("cipher", "stands beside key; the key names its cipher, so leave it out".to_owned()))
            }
            (None, None) => Err(("key", "is missing; the id of a key, or cipher = \"None\" or \"Base64\"".to_owned())),
            (Some(""), None) => Err(("key", "is empty; the id of a key".to_owned())),
            (Some(id), None) => Ok(SealWith::Key(id.to_owned())),
            (None, Some(name)) => match name.parse::<Cipher>() {
                Ok(Cipher::None) => Ok(SealWith::Plain),
                Ok(Cipher::Base64) => Ok(SealWith::Base64),
                Ok(keyed @ (Cipher::TripleDes | Cipher::Aes128 | Cipher::Aes256)) => Err((
                    "cipher",
                    format!("{keyed} needs a key; name one with key instead, or \"None\" or \"Base64\""),
                )),
                Err(()) => Err(("cipher", format!("{name:?} is not known; \"None\" or \"Base64\", or key instead"))),
            },
        }
    }

    /// The time zone of the filter's dates.
    pub(super) fn zone(&self) -> Result<TimeZone, FieldProblem> {
        let name = self.time_zone.as_deref().unwrap_or("UTC");
        TimeZone::get(name)
            .map_err(|_| ("time_zone", format!("{name:?} is not known; a name such as \"Europe/Berlin\" or \"UTC\"")))
    }

    pub(super) fn parse_filter(&self, zone: TimeZone) -> Result<Option<Filter>, FieldProblem> {
        let filter = self.filter.as_deref().map(|text| Filter::parse(text, zone));
        filter.transpose().map_err(|cause| ("filter", cause.to_string()))
    }
}
