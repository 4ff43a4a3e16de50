//! Why a change fits a filter or does not, term by term.
//!
//! For a person who asked for it: it shows values. The verdicts are those of `eval`, term by term; nothing is decided here.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;
use syncline_shared::record::Value;

use super::eval::{Before, Seen, Verdict, all, any};
use super::moment::Clock;
use super::operand::{Operand, When};
use super::term::{Ask, Test};
use super::{Filter, Term};

/// A filter held against a change.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Of the filter as a whole.
    pub verdict: Verdict,
    /// The parts that `^NQ` joins: one of them must fit.
    pub groups: Vec<GroupExplained>,
}

/// One of the parts that `^NQ` joins.
#[derive(Clone, Debug, Serialize)]
pub struct GroupExplained {
    /// Of this part.
    pub verdict: Verdict,
    /// What `^` joins: each of them must fit.
    pub clauses: Vec<ClauseExplained>,
}

/// Terms that `^OR` joins: one of them must fit.
#[derive(Clone, Debug, Serialize)]
pub struct ClauseExplained {
    /// Of this clause.
    pub verdict: Verdict,
    /// Its terms.
    pub terms: Vec<TermExplained>,
}

/// One term.
#[derive(Clone, Debug, Serialize)]
pub struct TermExplained {
    /// As the filter writes it.
    pub term: String,
    /// Of this term alone.
    pub verdict: Verdict,
    /// What it was held against: `priority is 3`, `state was "4"`, an instant.
    pub facts: Vec<String>,
}

impl Filter {
    /// Holds a change against the filter and says what each term was held against.
    pub(in crate::share) fn explain(&self, seen: &Seen<'_>) -> Explanation {
        let term = |term: &Term| TermExplained {
            term: format!("{}{}", self.name(term.column), term.test),
            verdict: term.verdict(seen, &self.zone),
            facts: self.facts(term, seen),
        };
        let clause = |clause: &Vec<Term>| {
            let terms: Vec<_> = clause.iter().map(term).collect();
            ClauseExplained { verdict: any(terms.iter().map(|term| term.verdict)), terms }
        };
        let group = |group: &Vec<Vec<Term>>| {
            let clauses: Vec<_> = group.iter().map(clause).collect();
            GroupExplained { verdict: all(clauses.iter().map(|clause| clause.verdict)), clauses }
        };
        Explanation { verdict: self.test(seen), groups: self.groups.iter().map(group).collect() }
    }

    fn name(&self, column: usize) -> &str {
        self.columns.get(column).map_or("", AsRef::as_ref)
    }

    /// The values and instants a term looks at.
    fn facts(&self, term: &Term, seen: &Seen<'_>) -> Vec<String> {
        let is = |column: usize| {
            let value = seen.places.value(seen.row, column).map_or("not known".to_owned(), shown);
            format!("{} is {value}", self.name(column))
        };
        let mut facts = vec![is(term.column)];
        let named = |operand: &Operand| instant(operand, Clock { at: seen.at, zone: &self.zone });
        match &term.test {
            Test::Anything => {}
            Test::Value(ask) => facts.extend(ask.operands().filter_map(named)),
            Test::Pair(other, _) => facts.push(is(other.place)),
            Test::Changes | Test::ChangesTo(_) | Test::ChangesFrom(_) => facts.push(match seen.before {
                Before::Same => "no value changed".to_owned(),
                Before::Nothing => "there was no record".to_owned(),
                Before::Unknown => "what it was is not known".to_owned(),
                Before::Row(row, places) => {
                    format!("was {}", places.value(row, term.column).map_or("not known".to_owned(), shown))
                }
            }),
        }
        if let Test::Value(Ask::Relative { unit, count, .. } | Ask::Within { unit, count }) = &term.test {
            facts.extend(unit.shift(seen.at, *count, &self.zone).map(|at| told(at, &self.zone)));
        }
        facts
    }
}

/// A value as JSON writes it, for a person to read.
#[must_use]
pub fn shown(value: Value<'_>) -> String {
    match value {
        Value::Unchanged => "not sent".to_owned(),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(text) => text.to_owned(),
        Value::Bytes(base64) => format!("bytes {base64}"),
        Value::Text(text) => serde_json::Value::from(text).to_string(),
    }
}

/// The instant that a date function names.
fn instant(operand: &Operand, clock: Clock<'_>) -> Option<String> {
    let When::Named(moment) = operand.when else { return None };
    Some(moment.resolve(clock).map_or("against a time beyond all years".to_owned(), |at| told(at, clock.zone)))
}

fn told(at: Timestamp, zone: &TimeZone) -> String {
    format!("against {}", at.to_zoned(zone.clone()).strftime("%F %T %Z"))
}

impl Ask {
    /// What it holds a value against.
    fn operands(&self) -> impl Iterator<Item = &Operand> {
        let (one, two, list) = match self {
            Self::Is(_, operand) => (Some(operand), None, None),
            Self::Between(from, to) | Self::On { from, to, .. } => (Some(from), Some(to), None),
            Self::In { operands, .. } => (None, None, Some(operands)),
            Self::Contains(_)
            | Self::Lacks(_)
            | Self::StartsWith(_)
            | Self::EndsWith(_)
            | Self::IsEmpty
            | Self::IsNotEmpty
            | Self::EmptyString
            | Self::Relative { .. }
            | Self::Within { .. }
            | Self::Part { .. }
            | Self::InstanceOf { .. } => (None, None, None),
        };
        one.into_iter().chain(two).chain(list.into_iter().flatten())
    }
}
