//! Reads an encoded query.
//!
//! By hand and without recursion, so no text makes it panic or run deep. A column name runs as long as it is lower case,
//! which is what makes the upper-case operators after it recognisable; a name with upper-case letters (a CRM's
//! `StageName`) takes the operators written as signs only.

use jiff::tz::TimeZone;

use super::fault::{Fault, FilterError, excerpt};
use super::operator::{self, Reading, check_name, place_of};
use super::{Clause, Filter, Term};

const LIST: &str = "is about lists, and a share has none; leave it out";
const OTHERS: &str = "reads other tables, and a change carries only its own record; columns of the table itself";
const INDEX: &str = "asks the platform's text index; LIKE on a column";
const WHOLE: &str = "is computed by the platform; the conditions themselves";

/// Forms of the platform that stand in the place of a term and that no record can decide.
const REFUSED: [(&str, &str); 7] = [
    ("ORDERBY", LIST),
    ("GROUPBY", LIST),
    ("RLQUERY", OTHERS),
    ("JOIN", OTHERS),
    ("123TEXTQUERY321", INDEX),
    ("123TEXTINDEXGROUP321", INDEX),
    ("javascript:", WHOLE),
];

impl Filter {
    /// Parses an encoded query; an end marker `^EQ`, as the platform's list view appends it, is read over. The days, weeks
    /// and longer parts of time of its dates are those of the zone.
    ///
    /// # Errors
    /// [`FilterError`]: no term is ever left out.
    pub fn parse(text: &str, zone: TimeZone) -> Result<Self, FilterError> {
        let mut parser = Parser { text, rest: text, columns: Vec::new(), zone: &zone };
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
                    let columns = parser.columns;
                    return Ok(Self { groups, columns, zone });
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
    zone: &'a TimeZone,
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
        if let Some((what, why)) = REFUSED.into_iter().find(|(form, _)| self.rest.starts_with(form)) {
            return Err(self.error(self.rest, Fault::Unsupported { what, why }));
        }
        let name = self.name()?;
        let column = place_of(&mut self.columns, name);
        let found = operator::at_start(self.rest).map(|found| found.map_err(|fault| self.error(self.rest, fault)));
        let Some((operator, make)) = found.transpose()? else {
            return Err(self.error(self.rest, Fault::Operator { found: excerpt(self.rest) }));
        };
        self.rest = self.rest.strip_prefix(operator).unwrap_or_default();
        let start = self.rest;
        let value = self.value();
        let mut reading = Reading { operator, columns: &mut self.columns, zone: self.zone };
        let test = make(&mut reading, &value);
        Ok(Term { column, test: test.map_err(|fault| self.error(start, fault))? })
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
        if name.is_empty() || operator::at_start(rest).is_none() {
            let (long, after) = split(any);
            if long.is_empty() {
                return Err(self.error(rest, Fault::Column { found: excerpt(rest) }));
            }
            if !after.starts_with(['=', '!', '<', '>', '*', '%']) {
                return Err(self.error(rest, Fault::Operator { found: excerpt(rest) }));
            }
            (name, rest) = (long, after);
        }
        check_name(name).map_err(|fault| self.error(self.rest, fault))?;
        self.rest = rest;
        Ok(name)
    }

    /// Reads up to the next joint; `^^` is a caret of the value.
    fn value(&mut self) -> String {
        let mut value = String::new();
        while let Some((part, after)) = self.rest.split_once('^') {
            value.push_str(part);
            let Some(after) = after.strip_prefix('^') else {
                (_, self.rest) = self.rest.split_at(part.len());
                return value;
            };
            value.push('^');
            self.rest = after;
        }
        value.push_str(self.rest);
        self.rest = "";
        value
    }

    /// An error at the beginning of `rest`, which is an end of the text.
    fn error(&self, rest: &str, fault: Fault) -> FilterError {
        let read = self.text.len().saturating_sub(rest.len());
        FilterError { at: self.text.get(..read).map_or(0, |read| read.chars().count()) + 1, fault }
    }
}
