//! What `syncline share test` prints: plain sentences for a person, or JSON.
//!
//! Shows values: it is for the one who asked, on their own terminal.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::value::RawValue;
use syncline_producer::share::filter::{ClauseExplained, Explanation, TermExplained, Verdict as Fits, shown};
use syncline_producer::share::{ShareConfig, Withheld};
use syncline_producer::source::Change;
use syncline_producer::trial::Message;
use syncline_shared::record::{Record, Row, read_lines};

/// Where the facts stand beside terms; longer ones, with dates, push them to the right.
const TERM_WIDTH: usize = 40;

/// Everything that was found out.
pub(super) struct Report<'a> {
    pub(super) name: &'a str,
    pub(super) share: &'a ShareConfig,
    pub(super) change: &'a Change,
    pub(super) notes: Vec<String>,
    pub(super) verdict: Verdict,
    pub(super) filter: Option<Explanation>,
    /// Of every share of the source.
    pub(super) messages: Vec<Message>,
}

/// What the share decided.
#[derive(Serialize)]
#[serde(tag = "decision", rename_all = "snake_case")]
pub(crate) enum Verdict {
    Leaves,
    Withheld {
        #[serde(serialize_with = "word")]
        reason: Withheld,
    },
    /// Its script failed; with what the script itself says.
    Fails {
        error: String,
        text: Option<String>,
    },
    /// It names a column the record lacks.
    Unfit {
        column: String,
    },
}

fn word<S: serde::Serializer>(reason: &Withheld, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(reason.as_str())
}

/// A message as JSON tells of it.
#[derive(Serialize)]
struct Told<'a> {
    share: &'a str,
    queue: &'a str,
    table: &'a str,
    action: &'a str,
    partition: u32,
    routing_key: String,
    cipher: &'a str,
    key: Option<&'a str>,
    record: Option<Box<RawValue>>,
    line_bytes: usize,
    sealed_bytes: usize,
    set_aside: Option<&'a str>,
}

impl<'a> From<&'a Message> for Told<'a> {
    fn from(message: &'a Message) -> Self {
        let (envelope, route) = (&message.envelope, message.envelope.route());
        let line = String::from_utf8_lossy(&message.line).trim_end().to_owned();
        Self {
            share: &route.share,
            queue: &message.queue,
            table: &route.table,
            action: route.action.as_str(),
            partition: route.partition,
            routing_key: envelope.routing_key(),
            cipher: envelope.cipher().as_str(),
            key: Some(envelope.key()).filter(|key| !key.is_empty()),
            record: RawValue::from_string(line).ok(),
            line_bytes: message.line.len(),
            sealed_bytes: envelope.body_len(),
            set_aside: message.set_aside.as_deref(),
        }
    }
}

/// The whole report as JSON.
#[derive(Serialize)]
struct Whole<'a> {
    share: &'a str,
    action: &'a str,
    interactive: Option<bool>,
    user: Option<&'a str>,
    at: String,
    #[serde(flatten)]
    verdict: &'a Verdict,
    filter: Option<&'a Explanation>,
    messages: Vec<Told<'a>>,
    /// What other shares of the source send.
    others: Vec<Told<'a>>,
    notes: &'a [String],
}

impl Report<'_> {
    fn messages(&self, own: bool) -> impl Iterator<Item = &Message> {
        self.messages.iter().filter(move |message| (message.envelope.route().share == self.name) == own)
    }

    pub(super) fn to_json(&self) -> String {
        let whole = Whole {
            share: self.name,
            action: self.change.action.as_str(),
            interactive: self.change.session.interactive,
            user: self.change.session.user.as_deref(),
            at: self.change.at.to_string(),
            verdict: &self.verdict,
            filter: self.filter.as_ref(),
            messages: self.messages(true).map(Told::from).collect(),
            others: self.messages(false).map(Told::from).collect(),
            notes: &self.notes,
        };
        serde_json::to_string(&whole).unwrap_or_default()
    }

    /// What the script made of the change, where it came to the script.
    fn script(&self) -> Option<String> {
        self.share.before_share.as_ref()?;
        match &self.verdict {
            Verdict::Fails { .. } => Some("✗ script   it fails".to_owned()),
            Verdict::Withheld { reason: Withheld::Script } => Some("✗ script   it says ignore = true".to_owned()),
            Verdict::Withheld { .. } | Verdict::Unfit { .. } => None,
            Verdict::Leaves => {
                let action = self.messages(true).last()?.envelope.route().action;
                Some(format!("✓ script   it leaves as {action}"))
            }
        }
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let (change, share) = (self.change, self.share);
        let who = match (&change.session.user, change.session.interactive) {
            (Some(user), Some(true)) => format!("{user}, a person"),
            (Some(user), Some(false)) => format!("{user}, a job"),
            (None, Some(true)) => "a person".to_owned(),
            (None, Some(false)) => "a job".to_owned(),
            (_, None) => "nobody knows whom".to_owned(),
        };
        let mut line = |parts: &str| {
            text.push_str(parts.trim_end());
            text.push('\n');
        };
        line(&format!("share {}: {} of table {}, by {who}", self.name, change.action, change.table));
        line(&format!("the record {}", pairs(&change.key)));
        self.notes.iter().for_each(|note| line(&format!("note: {note}")));
        line("");
        let withheld = |reasons: &[Withheld]| match self.verdict {
            Verdict::Withheld { reason } => reasons.contains(&reason),
            Verdict::Leaves | Verdict::Fails { .. } | Verdict::Unfit { .. } => false,
        };
        let action = !withheld(&[Withheld::Action]);
        let session = !withheld(&[Withheld::Background, Withheld::UnknownSession]);
        let on: Vec<_> = share.on.iter().map(|on| on.action().as_str()).collect();
        line(&format!("{} action   {}; the share is on {}", mark(action), change.action, on.join(", ")));
        if action {
            let rule = if share.interactive_only { "of persons alone" } else { "of persons and jobs" };
            line(&format!("{} session  {who}; the share is for the work {rule}", mark(session)));
        }
        match (&self.filter, &self.verdict) {
            (Some(filter), _) => line(&explained(filter)),
            (None, Verdict::Unfit { .. }) => {}
            (None, _) => line("✓ filter   none"),
        }
        self.script().iter().for_each(|told| line(told));
        line("");
        match &self.verdict {
            Verdict::Leaves if self.filter.as_ref().is_some_and(|filter| filter.verdict == Fits::FitsNot) => {
                line("It does not fit, and may have left before. The subscribers get:");
            }
            Verdict::Leaves => line("It leaves:"),
            Verdict::Withheld { reason } => {
                line(&format!("It does not leave ({}): {}.", reason.as_str(), because(*reason)));
            }
            Verdict::Fails { error, text } => {
                line(&format!("The script fails on it: {error}."));
                text.iter().for_each(|text| line(&format!("It says: {text}")));
            }
            Verdict::Unfit { column } => line(&format!(
                "The share names column {column}, which the record does not have: with it the source {} would pause.",
                share.source
            )),
        }
        for message in self.messages(true) {
            line(&told(message, change));
        }
        for message in self.messages(false) {
            let route = message.envelope.route();
            line(&format!("Share {} sends it too: {} to shared queue {}.", route.share, route.action, message.queue));
        }
        text
    }
}

/// Why a change is withheld, as a sentence goes on.
pub(crate) const fn because(reason: Withheld) -> &'static str {
    match reason {
        Withheld::Action => "the share is not on this action",
        Withheld::Background => "the share is for the work of persons, and a job made the change",
        Withheld::UnknownSession => "the share is for the work of persons, and nobody knows who made the change",
        Withheld::Filter => "the record does not fit the filter",
        Withheld::Class => "the record is of a class that is not the share's",
        Withheld::NoRoute => "no route takes the record",
        Withheld::Unchanged => "the update changes no column the share minds",
        Withheld::Script => "the script says ignore = true",
    }
}

const fn mark(fits: bool) -> &'static str {
    if fits { "✓" } else { "✗" }
}

const fn sign(verdict: Fits) -> &'static str {
    match verdict {
        Fits::Fits => "✓",
        Fits::FitsNot => "✗",
        Fits::Unknown => "?",
    }
}

/// The filter term by term, with what each was held against.
pub(crate) fn explained(filter: &Explanation) -> String {
    let terms = filter.groups.iter().flat_map(|group| &group.clauses).flat_map(|clause| &clause.terms);
    let width = terms.map(|term| term.term.chars().count()).max().unwrap_or_default().min(TERM_WIDTH);
    let undecided = if filter.verdict == Fits::Unknown { "what is not known does not count against it" } else { "" };
    let mut text = format!("{} filter   {undecided}", sign(filter.verdict)).trim_end().to_owned();
    let term = |joint: &str, TermExplained { term, verdict, facts }: &TermExplained| {
        format!("\n    {joint:<4}{} {term:<width$}  {}", sign(*verdict), facts.join("; "))
    };
    for (place, group) in filter.groups.iter().enumerate() {
        if place > 0 {
            let _ = write!(text, "\n  or {}", sign(group.verdict));
        } else if filter.groups.len() > 1 {
            let _ = write!(text, "\n  either {}", sign(group.verdict));
        }
        for (place, ClauseExplained { terms, .. }) in group.clauses.iter().enumerate() {
            for (nth, one) in terms.iter().enumerate() {
                text.push_str(&term(
                    if nth > 0 {
                        "or"
                    } else if place > 0 {
                        "and"
                    } else {
                        ""
                    },
                    one,
                ));
            }
        }
    }
    text
}

/// One message: where it goes, what it is sealed with, and what is in it.
fn told(message: &Message, change: &Change) -> String {
    let (envelope, route) = (&message.envelope, message.envelope.route());
    let key = if envelope.key().is_empty() { String::new() } else { format!(" under key {}", envelope.key()) };
    let mut text = format!(
        "  as {} of table {} to shared queue {}, partition {}\n  {}{key}: {} bytes of plain text, {} bytes on the wire",
        route.action,
        route.table,
        message.queue,
        route.partition,
        envelope.cipher(),
        message.line.len(),
        envelope.body_len()
    );
    if let Some(reason) = &message.set_aside {
        let _ = write!(text, "\n  to the dead letters instead: {reason}");
    }
    let record = read_lines(&message.line).ok().and_then(|mut records| records.pop());
    let Some(Record { data: Some(data), partial, .. }) = record else { return text };
    let before = change.after.as_ref();
    let columns = before.map_or(0, |row| row.columns().len());
    let part = if partial { "; the target leaves its others as they are" } else { "" };
    let _ = write!(text, "\n  {} of {columns} columns{part}:", data.columns().len());
    let width = data.columns().iter().map(|name| name.chars().count()).max().unwrap_or_default();
    for (name, value) in data.iter() {
        let changed = match before.and_then(|row| row.get(name)) {
            Some(own) if own == value => String::new(),
            Some(own) => format!("  from {}", shown(own)),
            None => "  added".to_owned(),
        };
        let _ = write!(text, "\n    {name:<width$}  {}{changed}", shown(value));
    }
    text
}

fn pairs(row: &Row) -> String {
    row.iter().map(|(name, value)| format!("{name} = {}", shown(value))).collect::<Vec<_>>().join(", ")
}
