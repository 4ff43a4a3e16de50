//! How values are stored in SQLite.
//!
//! Pure; what it means for a user stands in the parent module. Fails only for bytes that are not base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rusqlite::types::{ToSqlOutput, Value as Owned, ValueRef};
use syncline_shared::record::Value;

/// What a column does to the values it is given (<https://www.sqlite.org/datatype3.html>, section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Affinity {
    /// Keeps every value as it is.
    None,
    /// Keeps numbers as text.
    Text,
    /// Makes INTEGER or REAL of what looks like a number.
    Numeric,
    /// Makes REAL of what looks like a number.
    Real,
}

impl Affinity {
    /// The affinity of a declared type; `strict` tells that the table is.
    pub(super) fn of(declared: &str, strict: bool) -> Self {
        let declared = declared.to_ascii_uppercase();
        let says = |words: &[&str]| words.iter().any(|word| declared.contains(word));
        if says(&["INT"]) {
            Self::Numeric
        } else if says(&["CHAR", "CLOB", "TEXT"]) {
            Self::Text
        } else if declared.is_empty() || says(&["BLOB"]) || (strict && declared == "ANY") {
            Self::None
        } else if says(&["REAL", "FLOA", "DOUB"]) {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// The form in which a value is given to a column of this affinity; `None` for bytes that are not base64.
    pub(super) fn bind(self, value: Value<'_>) -> Option<ToSqlOutput<'_>> {
        Some(match value {
            Value::Null | Value::Unchanged => ToSqlOutput::Owned(Owned::Null),
            Value::Text(value) => text(value),
            Value::Bytes(base64) => ToSqlOutput::Owned(Owned::Blob(STANDARD.decode(base64).ok()?)),
            Value::Bool(value) if self == Self::Text => text(if value { "true" } else { "false" }),
            Value::Bool(value) => ToSqlOutput::Owned(Owned::Integer(i64::from(value))),
            Value::Number(digits) => match self.number(digits) {
                Some(number) => ToSqlOutput::Owned(number),
                None => text(digits),
            },
        })
    }

    /// The number to store; `None` if its text is to be stored.
    fn number(self, digits: &str) -> Option<Owned> {
        let integer = || digits.parse().ok().map(Owned::Integer);
        // Rust rounds correctly, which SQLite's own reading of a text does not always.
        let nearest = || digits.parse().ok().filter(|double: &f64| double.is_finite());
        match self {
            Self::Text => None,
            Self::None => integer().or_else(|| nearest().filter(|double| is_exact(digits, *double)).map(Owned::Real)),
            Self::Numeric => integer().or_else(|| nearest().map(Owned::Real)),
            Self::Real => nearest().map(Owned::Real),
        }
    }
}

const fn text(text: &str) -> ToSqlOutput<'_> {
    ToSqlOutput::Borrowed(ValueRef::Text(text.as_bytes()))
}

/// Whether the shortest text that means this double has the decimal value of the digits.
fn is_exact(digits: &str, double: f64) -> bool {
    let decimal = Decimal::of(digits);
    decimal.is_some() && decimal == Decimal::of(&format!("{double:e}"))
}

/// A decimal number in one form: its digits without zeros at either end, to be multiplied by a power of ten.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    power: i64,
}

impl Decimal {
    /// Of a JSON number; `None` for an exponent beyond all doubles.
    fn of(text: &str) -> Option<Self> {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let exponent: i64 = exponent.parse::<i32>().ok()?.into();
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{}{fraction}", whole.trim_start_matches('-'));
        let kept = all.trim_end_matches('0');
        let zeros = i64::try_from(all.len() - kept.len()).ok()?;
        let digits = kept.trim_start_matches('0').to_owned();
        if digits.is_empty() {
            return Some(Self { negative: false, digits, power: 0 });
        }
        let power = exponent - i64::try_from(fraction.len()).ok()? + zeros;
        Some(Self { negative: mantissa.starts_with('-'), digits, power })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_declared_type_has_the_affinity_sqlite_gives_it() {
        for (declared, affinity) in [
            ("", Affinity::None),
            ("blob", Affinity::None),
            ("VARCHAR(20)", Affinity::Text),
            ("text", Affinity::Text),
            ("bigint", Affinity::Numeric),
            ("CHARINT", Affinity::Numeric),
            ("DOUBLE PRECISION", Affinity::Real),
            ("decimal(10,2)", Affinity::Numeric),
            ("ANY", Affinity::Numeric),
        ] {
            assert_eq!(Affinity::of(declared, false), affinity, "{declared}");
        }
        assert_eq!(Affinity::of("any", true), Affinity::None);
    }

    #[test]
    fn a_double_stands_for_a_number_only_if_no_digit_is_lost() {
        for (digits, double) in [
            ("0.1", 0.1),
            ("12.50", 12.5),
            ("1e2", 100.0),
            ("-1.5E-3", -0.0015),
            ("0.1234567890123456", 0.123_456_789_012_345_6),
            ("1.7976931348623157e+308", f64::MAX),
            ("5e-324", 5e-324),
            ("0.000", 0.0),
            ("10000000000000000000000", 1e22),
        ] {
            assert_eq!(Affinity::None.number(digits), Some(Owned::Real(double)), "{digits}");
        }
        for digits in [
            "12345678901234567890123456789.123456789",
            "9223372036854775809",
            "0.10000000000000001",
            "1e400",
            "1e-400",
            "1e-99999999999999999999",
        ] {
            assert_eq!(Affinity::None.number(digits), None, "{digits}");
        }
        assert_eq!(Affinity::None.number("-9223372036854775808"), Some(Owned::Integer(i64::MIN)));
        assert_eq!(Affinity::Text.number("1"), None);
        assert_eq!(Affinity::Numeric.number("9223372036854775808"), Some(Owned::Real(9_223_372_036_854_775_808.0)));
        assert_eq!(Affinity::Real.number("1"), Some(Owned::Real(1.0)));
    }

    proptest! {
        #[test]
        fn every_double_and_integer_comes_back(bits in any::<u64>(), integer in any::<i64>()) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            prop_assert_eq!(Affinity::None.number(&format!("{double:e}")), Some(Owned::Real(double)));
            prop_assert_eq!(Affinity::None.number(&integer.to_string()), Some(Owned::Integer(integer)));
        }
    }
}
