//! Reads an encoded query.
//!
//! By hand and without recursion, so no text makes it panic or run deep. Words are matched longest first. A column name
//! runs as long as it is lower case, which is what makes the upper-case operators after it recognisable; a name with
//! upper-case letters (a CRM's `StageName`) takes the operators written as signs only.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::{ACCEPTED_OPERATORS, Clause, Filter, Term, Test};

/// Makes the test of an operator from its operand.
type MakeTest = fn(Box<str>) -> Test;

/// Operators with one operand, longest first.
const OPERATORS: [(&str, MakeTest); 8] = [
    ("STARTSWITH", Test::StartsWith),
    ("LIKE", Test::Like),
    ("!=", Test::NotEqual),
    ("<=", Test::AtMost),
    (">=", Test::AtLeast),
    ("<", Test::Less),
    (">", Test::Greater),
    ("=", Test::Equal),
];

/// Operators of the platform that are not supported; looked for first, some begin with one that is.
const OTHER_OPERATORS: [&str; 41] = [
    "DOES NOT CONTAIN",
    "DOESNOTHAVE",
    "NOT LIKE",
    "NOT IN",
    "NOT_IN",
    "NOT_CONTAINS",
    "NOTLIKE",
    "NOTEMPTY",
    "NOTON",
    "NSAMEAS",
    "SAMEAS",
    "ENDSWITH",
    "EMPTYSTRING",
    "EMPTY",
    "ANYTHING",
    "BETWEEN",
    "CONTAINS",
    "EXCLUDING",
    "GT_OR_EQUALS_FIELD",
    "LT_OR_EQUALS_FIELD",
    "GT_FIELD",
    "LT_FIELD",
    "MORETHAN",
    "LESSTHAN",
    "ON",
    "DATEPART",
    "RELATIVE",
    "INSTANCEOF",
    "IN_HIERARCHY_DYNAMIC",
    "IN_HIERARCHY",
    "DYNAMIC",
    "VALCHANGES",
    "CHANGESFROM",
    "CHANGESTO",
    "MATCH_PAT",
    "MATCH_RGX",
    "IS_NOT_NULL",
    "IS_NULL",
    "!*",
    "*",
    "%",
];

/// Forms of the platform that stand in the place of a term and are not supported.
const OTHER_FORMS: [&str; 7] =
    ["ORDERBY", "GROUPBY", "RLQUERY", "JOIN", "123TEXTQUERY321", "123TEXTINDEXGROUP321", SCRIPT];

/// Begins a value the platform would compute; only it can.
const SCRIPT: &str = "javascript:";

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
    /// No operator after the column name.
    Operator {
        /// What is there instead.
        found: String,
    },
    /// An operator or form of the platform that is not supported.
    Unsupported {
        /// It.
        what: &'static str,
    },
    /// The operator needs a value, and in a list each item does.
    Value {
        /// The operator.
        operator: &'static str,
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
                write!(f, "found {found:?} where a column name must be; letters, digits, _ and . between names")
            }
            Self::Operator { found } => write!(
                f,
                "found {found:?} where an operator must be; {ACCEPTED_OPERATORS}, without blanks around, and after a \
                 column name with upper-case letters the signs only"
            ),
            Self::Unsupported { what } => write!(f, "{what} is not supported; {ACCEPTED_OPERATORS} with ^, ^OR, ^NQ"),
            Self::Value { operator: "IN" } => f.write_str("IN needs values; a list such as 1,2 without empty items"),
            Self::Value { operator } => write!(f, "{operator} needs a value; for empty ones there is ISEMPTY"),
            Self::NoValue { operator, found } => {
                write!(f, "found {found:?} after {operator}, which takes no value; ^, ^OR, ^NQ or the end")
            }
        }
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    /// Parses an encoded query; an end marker `^EQ`, as the platform's list view appends it, is read over.
    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut parser = Parser { text, rest: text, columns: Vec::new() };
        let mut groups = Vec::new();
        let mut group = Vec::new();
        let mut clause: Clause = Vec::new();
        loop {
            clause.push(parser.term()?);
            match parser.joint() {
                Joint::Or => {}
                Joint::And => group.push(std::mem::take(&mut clause)),
                Joint::NewQuery => {
                    group.push(std::mem::take(&mut clause));
                    groups.push(std::mem::take(&mut group));
                }
                Joint::End => {
                    group.push(clause);
                    groups.push(group);
                    return Ok(Self { groups, columns: parser.columns });
                }
            }
        }
    }
}

/// What stands between two terms.
enum Joint {
    And,
    Or,
    NewQuery,
    End,
}

struct Parser<'a> {
    text: &'a str,
    /// What is not read yet; always an end of `text`.
    rest: &'a str,
    columns: Vec<Box<str>>,
}

impl<'a> Parser<'a> {
    /// Reads `^`, `^OR`, `^NQ` or the end; a term ends nowhere else.
    fn joint(&mut self) -> Joint {
        let Some(after) = self.rest.strip_prefix('^') else { return Joint::End };
        let (joint, rest) = if after == "EQ" {
            (Joint::End, "")
        } else if let Some(rest) = after.strip_prefix("NQ") {
            (Joint::NewQuery, rest)
        } else if let Some(rest) = after.strip_prefix("OR").filter(|_| !after.starts_with("ORDERBY")) {
            (Joint::Or, rest)
        } else {
            (Joint::And, after)
        };
        self.rest = rest;
        joint
    }

    fn term(&mut self) -> Result<Term, FilterError> {
        if self.rest.is_empty() || self.rest.starts_with('^') {
            return Err(self.error(self.rest, Fault::Term));
        }
        if let Some(what) = OTHER_FORMS.into_iter().find(|form| self.rest.starts_with(form)) {
            return Err(self.error(self.rest, Fault::Unsupported { what }));
        }
        let name = self.name()?;
        let column = self.columns.iter().position(|known| **known == *name).unwrap_or_else(|| {
            self.columns.push(name.into());
            self.columns.len() - 1
        });
        Ok(Term { column, test: self.test()? })
    }

    /// Reads a column name and leaves the operator.
    fn name(&mut self) -> Result<&'a str, FilterError> {
        let lower = |c: char| matches!(c, '_' | '.') || (c.is_alphanumeric() && !c.is_uppercase());
        let any = |c: char| matches!(c, '_' | '.') || c.is_alphanumeric();
        let split = |part: fn(char) -> bool| {
            let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
            self.rest.split_at(end)
        };
        let (mut name, mut rest) = split(lower);
        if let Some(what) = unsupported(rest).filter(|_| !name.is_empty()) {
            return Err(self.error(rest, Fault::Unsupported { what }));
        }
        if name.is_empty() || !begins_with_operator(rest) {
            let (long, after) = split(any);
            if long.is_empty() {
                return Err(self.error(rest, Fault::Column { found: excerpt(rest) }));
            }
            if !after.starts_with(['=', '!', '<', '>']) {
                return Err(self.error(rest, Fault::Operator { found: excerpt(rest) }));
            }
            (name, rest) = (long, after);
        }
        if name.split('.').any(str::is_empty) {
            return Err(self.error(self.rest, Fault::Column { found: excerpt(name) }));
        }
        self.rest = rest;
        Ok(name)
    }

    /// Reads an operator and its value.
    fn test(&mut self) -> Result<Test, FilterError> {
        if let Some(what) = unsupported(self.rest) {
            return Err(self.error(self.rest, Fault::Unsupported { what }));
        }
        for (operator, test) in [("ISNOTEMPTY", Test::IsNotEmpty), ("ISEMPTY", Test::IsEmpty)] {
            if let Some(after) = self.rest.strip_prefix(operator) {
                self.rest = after;
                let start = self.rest;
                return match self.value()?.as_str() {
                    "" => Ok(test),
                    found => Err(self.error(start, Fault::NoValue { operator, found: excerpt(found) })),
                };
            }
        }
        if let Some(after) = self.rest.strip_prefix("IN") {
            self.rest = after;
            let list = self.value()?;
            if list.split(',').any(str::is_empty) {
                return Err(self.error(after, Fault::Value { operator: "IN" }));
            }
            if list.split(',').any(|item| item.starts_with(SCRIPT)) {
                return Err(self.error(after, Fault::Unsupported { what: SCRIPT }));
            }
            return Ok(Test::In(list.split(',').map(Into::into).collect()));
        }
        for (operator, test) in OPERATORS {
            if let Some(after) = self.rest.strip_prefix(operator) {
                self.rest = after;
                let value = self.value()?;
                if value.is_empty() && !matches!(operator, "=" | "!=") {
                    return Err(self.error(after, Fault::Value { operator }));
                }
                return Ok(test(value.into()));
            }
        }
        Err(self.error(self.rest, Fault::Operator { found: excerpt(self.rest) }))
    }

    /// Reads up to the next joint; `^^` is a caret of the value.
    fn value(&mut self) -> Result<String, FilterError> {
        if self.rest.starts_with(SCRIPT) {
            return Err(self.error(self.rest, Fault::Unsupported { what: SCRIPT }));
        }
        let mut value = String::new();
        while let Some((part, after)) = self.rest.split_once('^') {
            value.push_str(part);
            let Some(after) = after.strip_prefix('^') else {
                (_, self.rest) = self.rest.split_at(part.len());
                return Ok(value);
            };
            value.push('^');
            self.rest = after;
        }
        value.push_str(self.rest);
        self.rest = "";
        Ok(value)
    }

    /// An error at the beginning of `rest`, which is an end of the text.
    fn error(&self, rest: &str, fault: Fault) -> FilterError {
        let read = self.text.len().saturating_sub(rest.len());
        FilterError { at: self.text.get(..read).map_or(0, |read| read.chars().count()) + 1, fault }
    }
}

fn unsupported(rest: &str) -> Option<&'static str> {
    OTHER_OPERATORS.into_iter().find(|operator| rest.starts_with(operator))
}

fn begins_with_operator(rest: &str) -> bool {
    let words = ["ISNOTEMPTY", "ISEMPTY", "IN"].into_iter();
    words.chain(OPERATORS.iter().map(|(operator, _)| *operator)).any(|operator| rest.starts_with(operator))
}

/// The beginning of a text, short enough for a line.
fn excerpt(text: &str) -> String {
    text.chars().take(20).collect()
}
