//! What is wrong with a text that is no filter, and where.

use std::fmt;

use thiserror::Error;

use super::ACCEPTED_OPERATORS;

/// A text that is not a filter: the place and what is wrong there.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("at character {at}: {fault}")]
pub struct FilterError {
    /// The place, in characters counted from 1.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No term where one must be: an empty filter, or a `^`, `^OR` or `^NQ` that joins nothing.
    Term,
    /// A term does not begin with a column name.
    Column {
        /// What is there instead.
        found: String,
    },
    /// A column of another record, reached through a reference.
    Walk {
        /// The name.
        found: String,
    },
    /// No operator after the column name.
    Operator {
        /// What is there instead.
        found: String,
    },
    /// An operator or form of the platform that no record can decide.
    Unsupported {
        /// It.
        what: &'static str,
        /// Why not, and what to do.
        why: &'static str,
    },
    /// A value only the platform can compute.
    Script {
        /// Its beginning.
        found: String,
    },
    /// The operator needs a value of another form.
    Value {
        /// The operator.
        operator: &'static str,
        /// What it needs.
        needs: &'static str,
    },
    /// A class that no table is declared for.
    Class {
        /// It.
        found: String,
    },
    /// The operator takes no value.
    NoValue {
        /// The operator.
        operator: &'static str,
        /// What is there.
        found: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Term => f.write_str("a condition is missing; <column><operator><value>, joined by ^, ^OR or ^NQ"),
            Self::Column { found } => {
                write!(f, "found {found:?} where a column name must be; letters, digits and _")
            }
            Self::Walk { found } => write!(
                f,
                "{found:?} is a column of another record, which a change does not carry; a column of the table itself"
            ),
            Self::Operator { found } => write!(
                f,
                "found {found:?} where an operator must be; {ACCEPTED_OPERATORS}, without blanks around, and after a \
                 column name with upper-case letters the signs only"
            ),
            Self::Unsupported { what, why } => write!(f, "{what} {why}"),
            Self::Script { found } => write!(
                f,
                "{found:?} is a script of the platform; a value, or one of its date functions, such as gs.daysAgoStart(7), \
                 gs.endOfLastMonth(), gs.dateGenerate('2026-03-01','00:00:00')"
            ),
            Self::Value { operator, needs } => write!(f, "{operator} needs {needs}"),
            Self::Class { found } => write!(
                f,
                "{found:?} is no table that extends another or is extended; declare them in [source.NAME.table.TABLE] with \
                 extends, or ask for the class alone with ="
            ),
            Self::NoValue { operator, found } => {
                write!(f, "found {found:?} after {operator}, which takes no value; ^, ^OR, ^NQ or the end")
            }
        }
    }
}

/// The beginning of a text, short enough for a line.
pub(super) fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}
