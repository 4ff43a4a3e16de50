//! A share's condition: the encoded query of ServiceNow, as far as Syncline has it.
//!
//! `priority<=2^active=true^ORstate=6^NQnumberSTARTSWITHINC`: terms joined by `^` (and), `^OR` (or with the term before it,
//! which binds tightest) and `^NQ` (or of everything before and after). What is not supported is an error with its place:
//! a term is never dropped, since a dropped term shares records nobody meant to share. `parse` reads it, `eval` holds
//! it against a row. Knows rows, not shares.

mod decimal;
mod eval;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod parse;

pub(super) use eval::{Places, Verdict};
pub use parse::{Fault, FilterError};

use std::fmt;

/// Operators a filter may use, as an error or a help text lists them.
pub const ACCEPTED_OPERATORS: &str = "= != < <= > >= IN LIKE STARTSWITH ISEMPTY ISNOTEMPTY";

/// A parsed condition: one of the groups holds; a group holds when all its clauses do, a clause when any of its terms does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    groups: Vec<Vec<Clause>>,
    /// The columns the terms name, each once, in order of appearance.
    columns: Vec<Box<str>>,
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

/// What a term asks of its column's value. Operands are as written, with `^^` read as `^`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    /// `=`; an empty operand asks for an empty value.
    Equal(Box<str>),
    /// `!=`; an empty value is unequal to every operand but the empty one.
    NotEqual(Box<str>),
    Less(Box<str>),
    AtMost(Box<str>),
    Greater(Box<str>),
    AtLeast(Box<str>),
    /// `IN`; never empty.
    In(Vec<Box<str>>),
    /// `LIKE`: contains.
    Like(Box<str>),
    StartsWith(Box<str>),
    IsEmpty,
    IsNotEmpty,
}

impl Filter {
    /// The columns the filter names, each once.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(AsRef::as_ref)
    }
}

impl fmt::Display for Filter {
    /// Writes the filter as an encoded query; parsed again it is equal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, group) in self.groups.iter().enumerate() {
            f.write_str(if place == 0 { "" } else { "^NQ" })?;
            for (place, clause) in group.iter().enumerate() {
                f.write_str(if place == 0 { "" } else { "^" })?;
                for (place, term) in clause.iter().enumerate() {
                    f.write_str(if place == 0 { "" } else { "^OR" })?;
                    f.write_str(self.columns.get(term.column).map_or("", AsRef::as_ref))?;
                    term.test.fmt(f)?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (operator, operand) = match self {
            Self::Equal(operand) => ("=", &**operand),
            Self::NotEqual(operand) => ("!=", &**operand),
            Self::Less(operand) => ("<", &**operand),
            Self::AtMost(operand) => ("<=", &**operand),
            Self::Greater(operand) => (">", &**operand),
            Self::AtLeast(operand) => (">=", &**operand),
            Self::Like(operand) => ("LIKE", &**operand),
            Self::StartsWith(operand) => ("STARTSWITH", &**operand),
            Self::In(operands) => ("IN", &*operands.join(",")),
            Self::IsEmpty => ("ISEMPTY", ""),
            Self::IsNotEmpty => ("ISNOTEMPTY", ""),
        };
        write!(f, "{operator}{}", operand.replace('^', "^^"))
    }
}

#[cfg(test)]
mod tests;
