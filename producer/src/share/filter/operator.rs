//! The operators: how each reads its value.
//!
//! Their names, and those of the ones no record can decide, are from "Operators available for filters and queries".

use jiff::tz::TimeZone;

use super::fault::{Fault, excerpt};
use super::moment::{Part, Unit};
use super::operand::{Operand, SCRIPT, call};
use super::term::{Ask, Column, Comparison, Pair, Side, Test};

/// What a value is read with.
pub(super) struct Reading<'a> {
    /// The operator, for errors.
    pub(super) operator: &'static str,
    /// The columns the filter names so far.
    pub(super) columns: &'a mut Vec<Box<str>>,
    pub(super) zone: &'a TimeZone,
}

/// Makes an operator's test from its value.
type Make = fn(&mut Reading<'_>, &str) -> Result<Test, Fault>;

/// Every operator with its other spellings; one that begins with another stands before it.
const OPERATORS: [(&str, Make); 44] = [
    ("!=", |reading, value| Ok(Ask::Is(Comparison::NotEqual, reading.operand(value)?).into())),
    ("!*", |reading, value| Ok(Ask::Lacks(reading.text(value)?).into())),
    ("<=", |reading, value| reading.compare(Comparison::AtMost, value)),
    (">=", |reading, value| reading.compare(Comparison::AtLeast, value)),
    ("<", |reading, value| reading.compare(Comparison::Less, value)),
    (">", |reading, value| reading.compare(Comparison::Greater, value)),
    ("=", |reading, value| Ok(Ask::Is(Comparison::Equal, reading.operand(value)?).into())),
    ("*", |reading, value| Ok(Ask::Contains(reading.text(value)?).into())),
    ("%", |reading, value| Ok(Ask::EndsWith(reading.text(value)?).into())),
    ("ANYTHING", |reading, value| reading.nothing(value, Test::Anything)),
    ("BETWEEN", |reading, value| reading.between(value)),
    ("CHANGESFROM", |reading, value| Ok(Test::ChangesFrom(reading.operand(value)?))),
    ("CHANGESTO", |reading, value| Ok(Test::ChangesTo(reading.operand(value)?))),
    ("DATEPART", |reading, value| reading.part(value)),
    ("DOES NOT CONTAIN", |reading, value| Ok(Ask::Lacks(reading.text(value)?).into())),
    ("EMPTYSTRING", |reading, value| reading.nothing(value, Ask::EmptyString)),
    ("EMPTY", |reading, value| reading.nothing(value, Ask::IsEmpty)),
    ("ENDSWITH", |reading, value| Ok(Ask::EndsWith(reading.text(value)?).into())),
    ("GT_FIELD", |reading, value| reading.order(Comparison::Greater, value)),
    ("GT_OR_EQUALS_FIELD", |reading, value| reading.order(Comparison::AtLeast, value)),
    ("INSTANCEOF", |reading, value| reading.class(value)),
    ("IN", |reading, value| reading.list(value, false)),
    ("ISEMPTY", |reading, value| reading.nothing(value, Ask::IsEmpty)),
    ("ISNOTEMPTY", |reading, value| reading.nothing(value, Ask::IsNotEmpty)),
    ("LESSTHAN", |reading, value| reading.apart(value, false)),
    ("LIKE", |reading, value| Ok(Ask::Contains(reading.text(value)?).into())),
    ("LT_FIELD", |reading, value| reading.order(Comparison::Less, value)),
    ("LT_OR_EQUALS_FIELD", |reading, value| reading.order(Comparison::AtMost, value)),
    ("MORETHAN", |reading, value| reading.apart(value, true)),
    ("NOT IN", |reading, value| reading.list(value, true)),
    ("NOT LIKE", |reading, value| Ok(Ask::Lacks(reading.text(value)?).into())),
    ("NOTEMPTY", |reading, value| reading.nothing(value, Ask::IsNotEmpty)),
    ("NOTLIKE", |reading, value| Ok(Ask::Lacks(reading.text(value)?).into())),
    ("NOTON", |reading, value| reading.on(value, true)),
    ("NSAMEAS", |reading, value| reading.same(value, true)),
    ("ON", |reading, value| reading.on(value, false)),
    ("RELATIVEEE", |reading, value| reading.relative(None, value)),
    ("RELATIVEGE", |reading, value| reading.relative(Some(Comparison::AtLeast), value)),
    ("RELATIVEGT", |reading, value| reading.relative(Some(Comparison::Greater), value)),
    ("RELATIVELE", |reading, value| reading.relative(Some(Comparison::AtMost), value)),
    ("RELATIVELT", |reading, value| reading.relative(Some(Comparison::Less), value)),
    ("SAMEAS", |reading, value| reading.same(value, false)),
    ("STARTSWITH", |reading, value| Ok(Ask::StartsWith(reading.text(value)?).into())),
    ("VALCHANGES", |reading, value| reading.nothing(value, Test::Changes)),
];

const PATTERN: &str = "is not supported; LIKE, STARTSWITH or ENDSWITH, or a before_share script";
const SPELLING: &str = "is no operator of conditions; LIKE, NOT LIKE, IN, NOT IN, ISEMPTY, ISNOTEMPTY";
const TAGS: &str = "asks for tags, which are records of another table; a column of the table itself";
const HIERARCHY: &str = "walks from record to record, and a change carries only its own; a column of the table itself";

/// Operators of the platform that no record can decide; looked for first, some begin with one that is supported.
const REFUSED: [(&str, &str); 12] = [
    ("DYNAMIC", "stands for a value the platform looks up, such as the user at work; the value itself"),
    ("IN_HIERARCHY", HIERARCHY),
    ("DOESNOTHAVE", TAGS),
    ("EXCLUDING", TAGS),
    ("MATCH_PAT", PATTERN),
    ("MATCH_RGX", PATTERN),
    ("NOT_CONTAINS", SPELLING),
    ("CONTAINS", SPELLING),
    ("NOT_IN", SPELLING),
    ("IS_NOT_NULL", SPELLING),
    ("IS_NULL", SPELLING),
    ("HASVARIABLE", HIERARCHY),
];

/// The operator a text begins with, and what makes its test; the reason where no record can decide it.
pub(super) fn at_start(text: &str) -> Option<Result<(&'static str, Make), Fault>> {
    if let Some((what, why)) = REFUSED.into_iter().find(|(what, _)| text.starts_with(what)) {
        return Some(Err(Fault::Unsupported { what, why }));
    }
    OPERATORS.into_iter().find(|(operator, _)| text.starts_with(operator)).map(Ok)
}

/// The place of a column among those named so far; a new one is added.
pub(super) fn place_of(columns: &mut Vec<Box<str>>, name: &str) -> usize {
    columns.iter().position(|known| **known == *name).unwrap_or_else(|| {
        columns.push(name.into());
        columns.len() - 1
    })
}

/// Whether a text is a column's name; the fault otherwise.
pub(super) fn check_name(name: &str) -> Result<(), Fault> {
    let plain = |name: &str| !name.is_empty() && name.chars().all(|c| c == '_' || c.is_alphanumeric());
    match name.split('.').all(plain) {
        true if name.contains('.') => Err(Fault::Walk { found: excerpt(name) }),
        true => Ok(()),
        false => Err(Fault::Column { found: excerpt(name) }),
    }
}

impl Reading<'_> {
    const fn needs(&self, needs: &'static str) -> Fault {
        Fault::Value { operator: self.operator, needs }
    }

    fn operand(&self, value: &str) -> Result<Operand, Fault> {
        Operand::read(value, self.zone).ok_or_else(|| Fault::Script { found: excerpt(value) })
    }

    /// A text as it stands.
    fn text(&self, value: &str) -> Result<Box<str>, Fault> {
        if value.starts_with(SCRIPT) {
            return Err(Fault::Script { found: excerpt(value) });
        }
        if value.is_empty() {
            return Err(self.needs("a value; for empty ones there is ISEMPTY"));
        }
        Ok(value.into())
    }

    fn nothing(&self, value: &str, test: impl Into<Test>) -> Result<Test, Fault> {
        match value {
            "" => Ok(test.into()),
            found => Err(Fault::NoValue { operator: self.operator, found: excerpt(found) }),
        }
    }

    fn compare(&self, comparison: Comparison, value: &str) -> Result<Test, Fault> {
        match self.operand(value)? {
            operand if operand.is_empty() => Err(self.needs("a value; for empty ones there is ISEMPTY")),
            operand => Ok(Ask::Is(comparison, operand).into()),
        }
    }

    fn list(&self, value: &str, not: bool) -> Result<Test, Fault> {
        if value.split(',').any(str::is_empty) {
            return Err(self.needs("values; a list such as 1,2 without empty items"));
        }
        // The arguments of a function are no items of a list.
        if let Some(found) = value.split(',').find(|item| item.starts_with(SCRIPT)) {
            return Err(Fault::Script { found: excerpt(found) });
        }
        let operands = value.split(',').map(|item| self.operand(item)).collect::<Result<_, _>>()?;
        Ok(Ask::In { operands, not }.into())
    }

    fn between(&mut self, value: &str) -> Result<Test, Fault> {
        match value.split('@').collect::<Vec<_>>().as_slice() {
            [from, to] if !from.is_empty() && !to.is_empty() => {
                Ok(Ask::Between(self.operand(from)?, self.operand(to)?).into())
            }
            _ => Err(self.needs("two values with @ between, such as 1@2")),
        }
    }

    fn on(&self, value: &str, not: bool) -> Result<Test, Fault> {
        match value.split('@').collect::<Vec<_>>().as_slice() {
            [label, from, to] if !from.is_empty() && !to.is_empty() => {
                let (from, to) = (self.operand(from)?, self.operand(to)?);
                Ok(Ask::On { label: (*label).into(), from, to, not }.into())
            }
            _ => Err(self.needs(
                "a label, a start and an end, such as Today@javascript:gs.daysAgoStart(0)@javascript:gs.daysAgoEnd(0)",
            )),
        }
    }

    fn relative(&self, comparison: Option<Comparison>, value: &str) -> Result<Test, Fault> {
        let read = || {
            let ["", unit, side, count] = value.split('@').collect::<Vec<_>>()[..] else { return None };
            let unit = if unit == "dayofweek" { Unit::Day } else { Unit::read(unit)? };
            let count = count_of(count)?;
            match side {
                "ago" => Some((unit, -count)),
                "ahead" => Some((unit, count)),
                _ => None,
            }
        };
        let (unit, count) = read().ok_or_else(|| {
            self.needs("@unit@ago@n or @unit@ahead@n; units: minute, hour, dayofweek, week, month, quarter, year")
        })?;
        Ok(match comparison {
            None => Ask::Within { unit, count },
            Some(comparison) => Ask::Relative { comparison, unit, count },
        }
        .into())
    }

    fn part(&mut self, value: &str) -> Result<Test, Fault> {
        let read = || {
            let (label, script) = value.split_once('@')?;
            let ("datePart", arguments) = call(script.strip_prefix(SCRIPT)?)? else { return None };
            let [part, asked, comparison] = arguments[..] else { return None };
            let (part, comparison) = (Part::read(part, asked)?, Comparison::read(comparison)?);
            // Where a week begins is not the same for everyone.
            let clear = comparison == Comparison::Equal || !matches!(part, Part::DayOfWeek(_));
            clear.then(|| Ask::Part { label: label.into(), part, comparison }.into())
        };
        read().ok_or_else(|| {
            self.needs(
                "a label and a part, such as Monday@javascript:gs.datePart('dayofweek','monday','EE'); parts: dayofweek \
                 (EE only), month, quarter, year, hour, with EE, LT, LE, GT or GE",
            )
        })
    }

    fn column(&mut self, name: &str) -> Result<Column, Fault> {
        if name.is_empty() {
            return Err(self.needs("the name of another column"));
        }
        check_name(name)?;
        Ok(Column { place: place_of(self.columns, name), name: name.into() })
    }

    fn class(&self, value: &str) -> Result<Test, Fault> {
        Ok(Ask::InstanceOf { class: self.text(value)?, extended_by: Vec::new() }.into())
    }

    fn order(&mut self, comparison: Comparison, name: &str) -> Result<Test, Fault> {
        Ok(Test::Pair(self.column(name)?, Pair::Order(comparison)))
    }

    fn same(&mut self, value: &str, not: bool) -> Result<Test, Fault> {
        let (name, unit) = value.split_once('@').map_or((value, None), |(name, unit)| (name, Some(unit)));
        let unit = match unit.map(Unit::read) {
            Some(None) => {
                return Err(self.needs("a column, and after @ one of minute, hour, day, week, month, quarter, year"));
            }
            Some(unit) => unit,
            None => None,
        };
        Ok(Test::Pair(self.column(name)?, Pair::Same { unit, not }))
    }

    fn apart(&mut self, value: &str, more: bool) -> Result<Test, Fault> {
        let read = || {
            let [name, unit, side, count] = value.split('@').collect::<Vec<_>>()[..] else { return None };
            let side = Side::ALL.into_iter().find(|known| known.as_str() == side)?;
            Some((name, Unit::read(unit)?, side, count_of(count)?))
        };
        let (name, unit, side, count) = read().ok_or_else(|| {
            self.needs("column@unit@side@n; units: minute, hour, day, week, month, quarter, year; sides: before, after, before or after")
        })?;
        Ok(Test::Pair(self.column(name)?, Pair::Apart { unit, count, side, more }))
    }
}

/// A count of parts of time that can be reckoned with.
fn count_of(text: &str) -> Option<i64> {
    let digits = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_operator_hides_behind_a_shorter_one() {
        for (place, (longer, _)) in OPERATORS.iter().enumerate() {
            let hiding = OPERATORS.iter().take(place).find(|(shorter, _)| longer.starts_with(shorter));
            assert!(hiding.is_none(), "{longer}");
        }
    }
}
