//! A length of time, as people write it.

use std::borrow::Cow;
use std::time::Duration;

use jiff::SignedDuration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// A length of time: `90s`, `15m`, `1h30m`. Never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Span(SignedDuration);

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "A length of time: 90s, 15m, 1h30m." })
    }
}

impl Span {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u32) -> Self {
        Self(SignedDuration::from_secs(seconds as i64))
    }

    /// What is added to times of a calendar.
    #[must_use]
    pub const fn signed(self) -> SignedDuration {
        self.0
    }

    /// What is waited for.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0.unsigned_abs()
    }
}

impl TryFrom<String> for Span {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let span = text.parse::<SignedDuration>().ok().filter(|span| !span.is_negative());
        span.map(Self).ok_or_else(|| format!("{text:?} is no length of time; 30s, 15m, 1h"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        let read = |text: &str| Span::try_from(text.to_owned());
        assert_eq!(read("90s"), Ok(Span::from_secs(90)));
        assert_eq!(read("1h30m"), Ok(Span::from_secs(5400)));
        assert_eq!(read("0s").map(Span::duration), Ok(Duration::ZERO));
        for text in ["-1m", "soon", "15", ""] {
            assert!(read(text).is_err_and(|problem| problem.contains("15m")), "{text:?}");
        }
    }
}
