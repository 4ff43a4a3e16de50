//! Numbers compared by their decimal text, exact to the last digit.
//!
//! No float comes near a value: a 64-bit id and a `numeric(38,9)` differ where their texts do.

use std::cmp::Ordering;

/// A number by the grammar of RFC 8259, section 6, borrowed from its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal<'a> {
    negative: bool,
    /// Digits before the point.
    whole: &'a str,
    /// Digits after the point.
    fraction: &'a str,
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Reads a number; `None` for anything else, and for an exponent no database writes (above nine digits).
    ///
    /// A text with a leading zero (`007`, a postcode) is no number.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
            Some(_) => return None,
            None => (mantissa, ""),
        };
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        (is_digits(whole) && !leading_zero).then_some(Self { negative, whole, fraction, exponent })
    }

    /// The power of ten of the first digit that counts; `None` for zero.
    fn top(self) -> Option<i64> {
        let zeros = self.whole.bytes().chain(self.fraction.bytes()).position(|digit| digit != b'0')?;
        Some(i64::try_from(self.whole.len()).ok()? - i64::try_from(zeros).ok()? + self.exponent)
    }

    fn cmp_magnitude(self, other: Self) -> Ordering {
        let digits =
            |number: Self| number.whole.bytes().chain(number.fraction.bytes()).skip_while(|digit| *digit == b'0');
        // Zero has no top digit and is less than every number that has one.
        self.top().cmp(&other.top()).then_with(|| {
            let (mut left, mut right) = (digits(self), digits(other));
            loop {
                match (left.next(), right.next()) {
                    (None, None) => return Ordering::Equal,
                    (one, two) => match one.unwrap_or(b'0').cmp(&two.unwrap_or(b'0')) {
                        Ordering::Equal => {}
                        unequal @ (Ordering::Less | Ordering::Greater) => return unequal,
                    },
                }
            }
        })
    }

    /// Orders two numbers by value: `1.50`, `1.5` and `15e-1` are equal, so are `0` and `-0`.
    pub(super) fn compare(self, other: Self) -> Ordering {
        let negative = |number: Self| number.negative && number.top().is_some();
        match (negative(self), negative(other)) {
            (false, false) => self.cmp_magnitude(other),
            (true, true) => other.cmp_magnitude(self),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
        }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if !is_digits(digits) || digits.len() > 9 {
        return None;
    }
    let exponent: i64 = digits.parse().ok()?;
    Some(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn compare(left: &str, right: &str) -> Ordering {
        Decimal::parse(left).unwrap().compare(Decimal::parse(right).unwrap())
    }

    #[test]
    fn numbers_compare_by_value_to_the_last_digit() {
        for (less, greater) in [
            ("2", "10"),
            ("-10", "-2"),
            ("-1", "0"),
            ("0.09", "0.1"),
            ("9007199254740992", "9007199254740993"),
            ("12345678901234567890123456789.123456788", "12345678901234567890123456789.123456789"),
            ("1e-400", "1e-399"),
            ("9e99", "1e100"),
        ] {
            assert_eq!(compare(less, greater), Ordering::Less, "{less} {greater}");
            assert_eq!(compare(greater, less), Ordering::Greater, "{less} {greater}");
        }
        for (one, two) in
            [("1.50", "1.5"), ("15e-1", "1.5"), ("0", "-0.00"), ("1e2", "100"), ("0e5", "0"), ("-7", "-7.0")]
        {
            assert_eq!(compare(one, two), Ordering::Equal, "{one} {two}");
        }
    }

    #[test]
    fn what_is_no_number_is_text() {
        for text in ["", "-", "007", ".5", "5.", "1e", "1e9999999999", "NaN", "+1", " 1", "1 ", "0x1", "1_000", "٣"] {
            assert!(Decimal::parse(text).is_none(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn integers_order_as_integers_do(left in any::<i64>(), right in any::<i64>(), zeros in 0..5_usize) {
            let padded = format!("{right}.{}", "0".repeat(zeros + 1));
            prop_assert_eq!(compare(&left.to_string(), &padded), left.cmp(&right));
        }

        #[test]
        fn shifting_the_point_changes_nothing(digits in 1..u64::MAX, shift in 0..40_i64) {
            prop_assert_eq!(compare(&format!("{digits}{}", "0".repeat(usize::try_from(shift).unwrap())), &format!("{digits}e{shift}")), Ordering::Equal);
        }
    }
}
