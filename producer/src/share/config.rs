//! The configuration of a share, `[share.<name>]`.

mod columns;

pub use columns::Leaving;
pub(super) use columns::{SEND_ALL, validate_list};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use schemars::JsonSchema;
use serde::Deserialize;
use syncline_shared::config::{FieldProblem, Secret};
use syncline_shared::record::Action;
use syncline_shared::script::{DEFAULT_SCRIPT_MS_MAX, SCRIPT_MS_MAX, Script, SyntaxError};
use syncline_shared::seal::Cipher;

use super::class::Hierarchy;
use super::filter::{Fault, Filter, FilterError};
use super::form::{Constant, Mask};
use super::route_config::{NoRoute, RouteConfig, RouteMatch};
use crate::source::{Lookup, OnTruncate, Tables};

/// The rule that decides what of one table leaves, in which form, to which shared queue.
///
/// Whether the source, the queue and the key it names exist is checked where the whole configuration is known.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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
    #[schemars(extend("enum" = ["None", "Base64"]))]
    pub cipher: Option<String>,
    /// The actions that leave: any of `insert`, `update`, `delete`; default all three. Rows of a copy leave whatever is
    /// said here.
    #[serde(default = "every_action")]
    pub on: Vec<ShareOn>,
    /// Whether only the work of persons leaves, and not that of jobs; default true. A source that cannot tell gets all its
    /// changes withheld then, so say `false` for it. Rows of a copy leave in either case.
    #[serde(default = "yes")]
    pub interactive_only: bool,
    /// Whether inserts and updates are sent as `bulk`, which does either; default false.
    #[serde(default)]
    pub update_or_insert: bool,
    /// A ServiceNow encoded query that records must fit, such as `priority<=2^active=true`; default none. Looks at the
    /// record after the change, for deletes at what the source knows of it before. Upper and lower case differ.
    #[serde(default)]
    pub filter: Option<String>,
    /// The time zone whose days, weeks and months the filter's dates are, such as `Europe/Berlin`; default `UTC`.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// JavaScript that sees each record before it leaves, and may change its columns, its action (`psp_action`) or withhold
    /// it (`ignore = true`); default none. Runs after the filter, on a copy of the record that is this share's alone.
    #[serde(default)]
    pub before_share: Option<String>,
    /// Milliseconds of processor time the script may take for one record; 1 to 10000, default 50. A record on which it
    /// takes longer goes to the dead letters.
    #[serde(default = "default_script_ms_max")]
    pub script_ms_max: u64,
    /// What the subscriber gets when an update takes a record out of the filter, or to another route's queue: `delete`,
    /// `update` (the record as it is now, once) or `ignore`. Default: `delete` where `on` has it and no filter asks what
    /// changed, else `ignore`.
    #[serde(default)]
    pub on_leave: Option<OnLeave>,
    /// Under which tables records leave when others extend this one (`[source.NAME.table]`): `base`, `all` or `leaf`
    /// (default).
    #[serde(default)]
    pub hierarchy: Option<Hierarchy>,
    /// Whether a record that changes its class is deleted under the old one. Default: where `on` has `delete`.
    #[serde(default)]
    pub delete_on_class_change: Option<bool>,
    /// Routes to other shared queues; what none takes goes to `queue`, or as `no_route` says.
    #[serde(default)]
    pub route: Vec<RouteConfig>,
    /// Whether a record goes to the `first` route it fits or to `all`; needed with routes.
    #[serde(default)]
    pub routes: Option<RouteMatch>,
    /// What becomes of a record no route takes: `queue` (default), the share's own, or `withhold`.
    #[serde(default)]
    pub no_route: Option<NoRoute>,
    /// What the source says of its tables, filled in where the whole configuration is known.
    #[serde(skip)]
    pub tables: Tables,
    /// The columns that leave; default all. Key columns always go along, and the filter may name columns that do not.
    /// `"updated"`: of an update those it changed, which needs the values before it.
    #[serde(default)]
    pub columns: Option<Leaving>,
    /// With `columns = "updated"`, a column that goes along with every part of an update, changed or not, beside the key.
    /// Default none.
    #[serde(default)]
    pub id: Option<String>,
    /// Updates leave only when they change one of these columns; default any. Needs the values before the change. Not
    /// beside `ignore`.
    #[serde(default)]
    pub share_on: Option<Vec<String>>,
    /// Updates that change only these columns do not leave; default none. Needs the values before the change.
    #[serde(default)]
    pub ignore: Option<Vec<String>>,
    /// What is sent instead of a column's value, by column: `redact` (null), `hash` (a pseudonym under the mask secret, the
    /// same for the same value), `last4` (`****` and the last four characters). Not for key columns.
    #[serde(default)]
    pub mask: BTreeMap<String, Mask>,
    /// The secret of `hash`, 32 bytes or more; better kept in `mask_secret_file`. With another one every pseudonym changes.
    #[serde(default)]
    pub mask_secret: Option<Secret>,
    /// File of the secret of `hash`; one line break at its end is not part of it.
    #[serde(default)]
    pub mask_secret_file: Option<PathBuf>,
    /// The name a column leaves under, by its name in the table. Not for key columns: a subscription renames those.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// Columns every record gets: text, whole numbers, true or false, by name.
    #[serde(default)]
    pub constants: BTreeMap<String, Constant>,
    /// `[share.NAME.display]`: by column, the lookup table that shows what it refers to, added as `dv_COLUMN`.
    #[serde(default)]
    pub display: BTreeMap<String, Lookup>,
    /// What becomes of the rows that are already there: `none` (default) or `copy`, which sends those that fit the filter
    /// before the first change.
    #[serde(default)]
    pub initial: Initial,
    /// The column that tells when a record was changed last, such as `sys_updated_on`: bulk shares of changed records need
    /// it. A time or a text, in UTC. Default none.
    #[serde(default)]
    pub changed_column: Option<String>,
    /// What becomes of a `TRUNCATE`, which has no record to send, and of a table made anew or given another key: `pause`
    /// (default) until the targets are emptied by hand, or `ignore`, and the old records stay there.
    #[serde(default)]
    pub on_truncate: OnTruncate,
}

/// An action a share may be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
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

/// What the subscriber gets for a record that an update takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnLeave {
    /// A delete.
    Delete,
    /// The record as it is now, once.
    Update,
    /// Nothing: it keeps what it has.
    Ignore,
}

/// What becomes of the rows that are already there when a share starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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

const fn default_script_ms_max() -> u64 {
    DEFAULT_SCRIPT_MS_MAX
}

const fn yes() -> bool {
    true
}

impl ShareConfig {
    /// Everything wrong with the share by itself; when that and [`Self::validate_routes`] are empty, it can be compiled.
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
        if !(1..=SCRIPT_MS_MAX).contains(&self.script_ms_max) {
            let text = format!("{} is out of range; 1 to {SCRIPT_MS_MAX}", self.script_ms_max);
            problems.push(("script_ms_max", text));
        }
        problems.extend(self.validate_columns());
        if self.changed_column.as_deref() == Some("") {
            problems.push(("changed_column", "is empty; the name of a column".to_owned()));
        }
        problems.extend(self.validate_leave());
        problems.extend(self.validate_hierarchy());
        problems.extend(self.validate_routing());
        problems
    }

    fn validate_leave(&self) -> Option<FieldProblem> {
        self.on_leave?;
        let text = if !self.on.contains(&ShareOn::Update) {
            "is about updates, and the share is not on them; add \"update\" to on, or leave it out"
        } else if self.filter.is_none() && self.route.is_empty() {
            "is about records that leave a filter or a route, and the share has neither; leave it out"
        } else if self.asks_for_changes() && self.on_leave != Some(OnLeave::Ignore) {
            "is about records that leave a filter, and one that asks what changed is left with the next change; ask in it \
             what the record is, or say \"ignore\""
        } else {
            return None;
        };
        Some(("on_leave", text.to_owned()))
    }

    fn validate_hierarchy(&self) -> Vec<FieldProblem> {
        let mut problems = Vec::new();
        if self.hierarchy.is_some() && !self.tables.has(&self.table) {
            let text = "is about tables that extend others, and this one does not; declare them with extends in \
                        [source.NAME.table.TABLE], or leave it out";
            problems.push(("hierarchy", text.to_owned()));
        }
        if self.delete_on_class_change == Some(true) {
            if self.tables.class_column(&self.table).is_none() {
                let text = "is about records that change their class and stay, which only a class column tells; give the \
                            table at the top class_column in [source.NAME.table.TABLE], or leave it out";
                problems.push(("delete_on_class_change", text.to_owned()));
            } else if !self.on.contains(&ShareOn::Update) {
                let text = "needs updates, and the share is not on them; add \"update\" to on, or leave it out";
                problems.push(("delete_on_class_change", text.to_owned()));
            }
        }
        problems
    }

    /// What the subscriber gets for a record that leaves.
    #[must_use]
    pub fn on_leave(&self) -> OnLeave {
        let deletes = self.on.contains(&ShareOn::Delete) && !self.asks_for_changes();
        self.on_leave.unwrap_or(if deletes { OnLeave::Delete } else { OnLeave::Ignore })
    }

    pub(super) fn delete_on_class_change(&self) -> bool {
        self.delete_on_class_change.unwrap_or_else(|| self.on.contains(&ShareOn::Delete))
    }

    /// What the share seals with.
    ///
    /// # Errors
    /// The problem, when `key` and `cipher` do not say it.
    pub fn seal_with(&self) -> Result<SealWith, FieldProblem> {
        seal_with(self.key.as_deref(), self.cipher.as_deref())
    }

    /// Compiles the script, if there is one. Apart from [`validate`](Self::validate), for its faults have a place.
    ///
    /// # Errors
    /// Where it is no JavaScript.
    pub fn compile_script(&self) -> Result<Option<Script>, SyntaxError> {
        let time_max = Duration::from_millis(self.script_ms_max);
        self.before_share.as_deref().map(|source| Script::compile(source, time_max)).transpose()
    }

    /// The time zone of the filter's dates.
    pub(super) fn zone(&self) -> Result<TimeZone, FieldProblem> {
        let name = self.time_zone.as_deref().unwrap_or("UTC");
        TimeZone::get(name)
            .map_err(|_| ("time_zone", format!("{name:?} is not known; a name such as \"Europe/Berlin\" or \"UTC\"")))
    }

    pub(super) fn parse_filter(&self, zone: TimeZone) -> Result<Option<Filter>, FieldProblem> {
        let filter = self.filter.as_deref().map(|text| self.parse(text, zone));
        filter.transpose().map_err(|cause| ("filter", cause.to_string()))
    }

    /// Parses a condition, and tells it which tables extend which.
    pub(super) fn parse(&self, text: &str, zone: TimeZone) -> Result<Filter, FilterError> {
        let mut filter = Filter::parse(text, zone)?;
        if let Some(class) = filter.classes().find(|class| !self.tables.has(class)) {
            let at = text.find(class).and_then(|at| text.get(..at)).map_or(0, |before| before.chars().count()) + 1;
            return Err(FilterError { at, fault: Fault::Class { found: class.to_owned() } });
        }
        filter.know_classes(|class| self.tables.below(class));
        Ok(filter)
    }

    /// Whether a condition asks what changed: a record fits it at a change, and leaves it with the next.
    fn asks_for_changes(&self) -> bool {
        let conditions = self.filter.iter().chain(self.route.iter().map(|route| &route.when));
        conditions.filter_map(|text| text.parse::<Filter>().ok()).any(|filter| filter.asks_for_changes())
    }
}

/// The same for a share and for a route of it.
pub(super) fn seal_with(key: Option<&str>, cipher: Option<&str>) -> Result<SealWith, FieldProblem> {
    match (key, cipher) {
        (Some(_), Some(_)) => {
            Err(("cipher", "stands beside key; the key names its cipher, so leave it out".to_owned()))
        }
        (None, None) => Err(("key", "is missing; the id of a key, or cipher = \"None\" or \"Base64\"".to_owned())),
        (Some(""), None) => Err(("key", "is empty; the id of a key".to_owned())),
        (Some(id), None) => Ok(SealWith::Key(id.to_owned())),
        (None, Some(name)) => match name.parse::<Cipher>() {
            Ok(Cipher::None) => Ok(SealWith::Plain),
            Ok(Cipher::Base64) => Ok(SealWith::Base64),
            Ok(keyed @ (Cipher::TripleDes | Cipher::Aes128 | Cipher::Aes256)) => {
                Err(("cipher", format!("{keyed} needs a key; name one with key instead, or \"None\" or \"Base64\"")))
            }
            Err(()) => Err(("cipher", format!("{name:?} is not known; \"None\" or \"Base64\", or key instead"))),
        },
    }
}

/// Why a key that other products have on a share has no meaning on ours; `None` for keys that are simply unknown.
#[must_use]
pub fn no_meaning(key: &str) -> Option<&'static str> {
    let timing = ["before", "after", "async", "when", "order", "timing", "business_rule_when", "business_rule_order"];
    timing.contains(&key).then_some(
        "has no meaning here: it is the timing of a business rule, which runs within the transaction of the change; shares \
         see changes once they are committed, in the order of their commits, with the values before and after, so there is \
         nothing to choose; leave it out",
    )
}
