//! A share's condition: the encoded query of ServiceNow, as far as a record and its change decide it.
//!
//! `priority<=2^active=true^ORstate=6^NQnumberSTARTSWITHINC`: terms joined by `^` (and), `^OR` (or with the term before it,
//! which binds tightest) and `^NQ` (or of everything before and after). What is not supported is an error with its place:
//! a term is never dropped, since a dropped term shares records nobody meant to share. `parse` and `operator` read it,
//! `eval` holds it against a change, `explain` says why. Knows rows and an instant, neither shares nor clocks.

mod decimal;
mod eval;
mod explain;
mod fault;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod moment;
mod operand;
mod operator;
mod parse;
mod term;

pub use eval::Verdict;
pub(super) use eval::{Before, Places, Seen};
pub use explain::{ClauseExplained, Explanation, GroupExplained, TermExplained, shown};
pub use fault::{Fault, FilterError};

use std::fmt;
use std::str::FromStr;

use jiff::tz::TimeZone;
use term::{Ask, Test};

/// Operators a filter may use, as an error or a help text lists them.
pub const ACCEPTED_OPERATORS: &str = "= != < <= > >= IN, NOT IN, LIKE, NOT LIKE, STARTSWITH, ENDSWITH, ISEMPTY, ISNOTEMPTY, \
    EMPTYSTRING, ANYTHING, BETWEEN, SAMEAS, NSAMEAS, GT_FIELD, LT_FIELD, GT_OR_EQUALS_FIELD, LT_OR_EQUALS_FIELD, MORETHAN, \
    LESSTHAN, ON, NOTON, RELATIVEGT (GE, LT, LE, EE), DATEPART, INSTANCEOF, VALCHANGES, CHANGESFROM, CHANGESTO";

/// A parsed condition: one of the groups holds; a group holds when all its clauses do, a clause when any of its terms does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    groups: Vec<Vec<Clause>>,
    /// The columns the terms name, each once, in order of appearance.
    columns: Vec<Box<str>>,
    /// Whose days, weeks and months its dates are.
    zone: TimeZone,
}

/// Terms joined by `^OR`; never empty.
type Clause = Vec<Term>;

/// One column held against something.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    /// Place in [`Filter::columns`].
    column: usize,
    test: Test,
}

impl Filter {
    /// The columns the filter names, each once.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(AsRef::as_ref)
    }

    /// Whether it asks what changed (`VALCHANGES`, `CHANGESTO`, `CHANGESFROM`), so that its source must tell the values
    /// before the change.
    #[must_use]
    pub fn asks_for_changes(&self) -> bool {
        self.terms().any(|term| term.test.asks_for_changes())
    }

    /// The classes `INSTANCEOF` asks for; some may come twice.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        self.terms().filter_map(|term| {
            let Test::Value(Ask::InstanceOf { class, .. }) = &term.test else { return None };
            Some(&**class)
        })
    }

    /// Tells the filter which classes extend another, over any number of steps; before that `INSTANCEOF` fits the class
    /// alone.
    pub fn know_classes<'a>(&mut self, extend: impl Fn(&str) -> Vec<&'a str>) {
        for term in self.groups.iter_mut().flatten().flatten() {
            if let Test::Value(Ask::InstanceOf { class, extended_by }) = &mut term.test {
                *extended_by = extend(class).into_iter().map(Into::into).collect();
            }
        }
    }

    fn terms(&self) -> impl Iterator<Item = &Term> {
        self.groups.iter().flatten().flatten()
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Parses an encoded query whose dates are in UTC.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        Self::parse(text, TimeZone::UTC)
    }
}

impl fmt::Display for Filter {
    /// Writes the filter as an encoded query; parsed again for the same time zone it is equal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, group) in self.groups.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "^NQ" })?;
            for (place, clause) in group.iter().enumerate() {
                f.write_str(if place == 0 { "" } else { "^" })?;
                for (place, term) in clause.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { "^OR" })?;
                    let column = self.columns.get(term.column).map_or("", AsRef::as_ref);
                    let test = term.test.to_string();
                    let signs = term::in_signs(&test).filter(|_| column.contains(char::is_uppercase));
                    write!(f, "{column}{}", signs.as_deref().unwrap_or(&test))?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
