//! What a term asks of its column, and how that is written.

use std::cmp::Ordering;
use std::fmt;

use super::moment::{Part, Unit};
use super::operand::Operand;

/// What a term asks of its column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    /// Nothing.
    Anything,
    /// Something of its value alone.
    Value(Ask),
    /// How its value compares with that of another column.
    Pair(Column, Pair),
    /// `VALCHANGES`.
    Changes,
    ChangesTo(Operand),
    ChangesFrom(Operand),
}

/// What a term asks of one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// `= != < <= > >=`; an empty operand of the first two asks for an empty value, or for any other.
    Is(Comparison, Operand),
    /// `IN` and `NOT IN`; never empty.
    In {
        operands: Vec<Operand>,
        not: bool,
    },
    /// `LIKE`: contains.
    Contains(Box<str>),
    /// `NOT LIKE`.
    Lacks(Box<str>),
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    IsEmpty,
    IsNotEmpty,
    EmptyString,
    Between(Operand, Operand),
    /// `ON` and `NOTON`: within a time, whose label says nothing.
    On {
        label: Box<str>,
        from: Operand,
        to: Operand,
        not: bool,
    },
    /// `RELATIVEGT` and its like: how the value compares with an instant so far from the change.
    Relative {
        comparison: Comparison,
        unit: Unit,
        count: i64,
    },
    /// `RELATIVEEE`: within that part of time.
    Within {
        unit: Unit,
        count: i64,
    },
    /// `DATEPART`.
    Part {
        label: Box<str>,
        part: Part,
        comparison: Comparison,
    },
    /// `INSTANCEOF`: the class or one that extends it, once those are known.
    InstanceOf {
        class: Box<str>,
        extended_by: Vec<Box<str>>,
    },
}

/// What a term asks of two values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pair {
    /// `SAMEAS` and `NSAMEAS`, of dates perhaps within a part of time.
    Same { unit: Option<Unit>, not: bool },
    /// `GT_FIELD` and its like.
    Order(Comparison),
    /// `MORETHAN` and `LESSTHAN`: how far two dates are apart.
    Apart { unit: Unit, count: i64, side: Side, more: bool },
}

/// Another column a term names: its place among the filter's columns, and its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) place: usize,
    pub(super) name: Box<str>,
}

/// On which side of the other date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Before,
    After,
    Either,
}

impl Side {
    pub(super) const ALL: [Self; 3] = [Self::Before, Self::After, Self::Either];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
            Self::Either => "before or after",
        }
    }
}

/// How two values must compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
}

impl Comparison {
    /// Whether values that compare so fit.
    pub(super) fn fits(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::AtMost => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::AtLeast => order.is_ge(),
        }
    }

    const fn sign(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        }
    }

    /// The operator between two columns; there is none for equal ones.
    const fn of_fields(self) -> &'static str {
        match self {
            Self::Greater => "GT_FIELD",
            Self::AtLeast => "GT_OR_EQUALS_FIELD",
            Self::Less => "LT_FIELD",
            Self::AtMost => "LT_OR_EQUALS_FIELD",
            Self::Equal => "SAMEAS",
            Self::NotEqual => "NSAMEAS",
        }
    }

    /// Two letters, as `RELATIVE` and `gs.datePart` have them.
    const fn letters(self) -> &'static str {
        match self {
            Self::Equal => "EE",
            Self::NotEqual => "NE",
            Self::Less => "LT",
            Self::AtMost => "LE",
            Self::Greater => "GT",
            Self::AtLeast => "GE",
        }
    }

    /// Reads the two letters; unequal is not among them.
    pub(super) fn read(letters: &str) -> Option<Self> {
        [Self::Equal, Self::Less, Self::AtMost, Self::Greater, Self::AtLeast]
            .into_iter()
            .find(|comparison| comparison.letters() == letters)
    }
}

impl Test {
    /// Whether it asks what changed, and so needs the values before the change.
    pub(super) const fn asks_for_changes(&self) -> bool {
        matches!(self, Self::Changes | Self::ChangesTo(_) | Self::ChangesFrom(_))
    }
}

impl From<Ask> for Test {
    fn from(ask: Ask) -> Self {
        Self::Value(ask)
    }
}

fn escaped(text: &str) -> String {
    text.replace('^', "^^")
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anything => f.write_str("ANYTHING"),
            Self::Value(ask) => ask.fmt(f),
            Self::Pair(Column { name, .. }, pair) => match pair {
                Pair::Same { unit, not } => {
                    write!(f, "{}{name}", if *not { "NSAMEAS" } else { "SAMEAS" })?;
                    unit.map_or(Ok(()), |unit| write!(f, "@{}", unit.as_str()))
                }
                Pair::Order(comparison) => write!(f, "{}{name}", comparison.of_fields()),
                Pair::Apart { unit, count, side, more } => {
                    let operator = if *more { "MORETHAN" } else { "LESSTHAN" };
                    write!(f, "{operator}{name}@{}@{}@{count}", unit.as_str(), side.as_str())
                }
            },
            Self::Changes => f.write_str("VALCHANGES"),
            Self::ChangesTo(operand) => write!(f, "CHANGESTO{}", escaped(&operand.text)),
            Self::ChangesFrom(operand) => write!(f, "CHANGESFROM{}", escaped(&operand.text)),
        }
    }
}

/// A test whose operator has a sign besides its word, with the sign: the only form behind a name with upper-case letters.
pub(super) fn in_signs(test: &str) -> Option<String> {
    let signs = [("NOT LIKE", "!*"), ("LIKE", "*"), ("ENDSWITH", "%")];
    signs.iter().find_map(|(word, sign)| Some(format!("{sign}{}", test.strip_prefix(word)?)))
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relative = |letters: &str, unit: Unit, count: i64| {
            let unit = if unit == Unit::Day { "dayofweek" } else { unit.as_str() };
            let side = if count < 0 { "ago" } else { "ahead" };
            format!("RELATIVE{letters}@{unit}@{side}@{}", count.abs())
        };
        match self {
            Self::Is(comparison, operand) => write!(f, "{}{}", comparison.sign(), escaped(&operand.text)),
            Self::In { operands, not } => {
                let items: Vec<_> = operands.iter().map(|operand| escaped(&operand.text)).collect();
                write!(f, "{}{}", if *not { "NOT IN" } else { "IN" }, items.join(","))
            }
            Self::Contains(text) => write!(f, "LIKE{}", escaped(text)),
            Self::Lacks(text) => write!(f, "NOT LIKE{}", escaped(text)),
            Self::StartsWith(text) => write!(f, "STARTSWITH{}", escaped(text)),
            Self::EndsWith(text) => write!(f, "ENDSWITH{}", escaped(text)),
            Self::IsEmpty => f.write_str("ISEMPTY"),
            Self::IsNotEmpty => f.write_str("ISNOTEMPTY"),
            Self::EmptyString => f.write_str("EMPTYSTRING"),
            Self::Between(from, to) => write!(f, "BETWEEN{}@{}", escaped(&from.text), escaped(&to.text)),
            Self::On { label, from, to, not } => {
                let (operator, label) = (if *not { "NOTON" } else { "ON" }, escaped(label));
                write!(f, "{operator}{label}@{}@{}", escaped(&from.text), escaped(&to.text))
            }
            Self::Relative { comparison, unit, count } => f.write_str(&relative(comparison.letters(), *unit, *count)),
            Self::Within { unit, count } => f.write_str(&relative(Comparison::Equal.letters(), *unit, *count)),
            Self::Part { label, part, comparison } => {
                write!(f, "DATEPART{}@javascript:gs.datePart({part},'{}')", escaped(label), comparison.letters())
            }
            Self::InstanceOf { class, .. } => write!(f, "INSTANCEOF{}", escaped(class)),
        }
    }
}
