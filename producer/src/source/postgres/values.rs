//! From the server's text forms to column values.
//!
//! The stream, the copy and the re-read of unsent columns all carry the text of a type's output function under the same
//! session settings, so a value looks the same whichever way it came.

use syncline_shared::record::{RowBuilder, Value};

/// Settings that make the text forms exact and the same on every connection.
pub(super) const SESSION_SETTINGS: [(&str, &str); 8] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    ("standard_conforming_strings", "on"),
    // Fails where a row security policy would hide rows from the copy.
    ("row_security", "off"),
];

/// How a column's text becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Bytes,
    Text,
}

impl Kind {
    /// By the oid of the type, which is fixed for built-in types (`pg_type.dat` of PostgreSQL).
    pub(super) const fn of(type_oid: u32) -> Self {
        match type_oid {
            16 => Self::Bool,
            17 => Self::Bytes,
            // int8, int2, int4, oid, float4, float8, numeric
            20 | 21 | 23 | 26 | 700 | 701 | 1700 => Self::Number,
            _ => Self::Text,
        }
    }

    /// Appends a value; `None` when the text is not of this kind.
    pub(super) fn push(self, row: &mut RowBuilder, text: &str) -> Option<()> {
        match self {
            Self::Bool => row.push(Value::Bool(match text {
                "t" => true,
                "f" => false,
                _ => return None,
            })),
            Self::Number => row.push_number(text),
            Self::Bytes => row.push_bytes(&hex(text.strip_prefix("\\x")?)?),
            Self::Text => row.push(Value::Text(text)),
        }
        Some(())
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

/// A name as SQL writes it.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL writes it, under `standard_conforming_strings`.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A key value as SQL writes it; the column it is compared with gives it its type.
pub(super) fn key_literal(value: Value<'_>) -> String {
    match value {
        Value::Null | Value::Unchanged => "NULL".to_owned(),
        Value::Bool(value) => literal(if value { "t" } else { "f" }),
        Value::Number(text) | Value::Text(text) => literal(text),
        Value::Bytes(base64) => format!("decode({}, 'base64')", literal(base64)),
    }
}

#[cfg(test)]
mod tests {
    use syncline_shared::record::Columns;

    use super::*;

    fn value(kind: Kind, text: &str) -> Option<String> {
        let mut row = syncline_shared::record::Row::builder(Columns::new(["c"]));
        kind.push(&mut row, text)?;
        row.finish().get("c").map(|value| format!("{value:?}"))
    }

    #[test]
    fn every_kind_reads_its_text_form() {
        assert_eq!(value(Kind::Bool, "t").as_deref(), Some("Bool(true)"));
        assert_eq!(value(Kind::Bool, "true"), None);
        assert_eq!(value(Kind::Number, "NaN").as_deref(), Some("Text(\"NaN\")"));
        assert_eq!(value(Kind::Number, "-1.50").as_deref(), Some("Number(\"-1.50\")"));
        assert_eq!(value(Kind::Bytes, "\\x00fF").as_deref(), Some("Bytes(\"AP8=\")"));
        assert_eq!(value(Kind::Bytes, "\\x").as_deref(), Some("Bytes(\"\")"));
        for bad in ["\\x0", "\\xzz", "00", ""] {
            assert_eq!(value(Kind::Bytes, bad), None, "{bad}");
        }
    }

    #[test]
    fn names_and_texts_cannot_leave_their_quotes() {
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("it's \\"), "'it''s \\'");
        assert_eq!(key_literal(Value::Bytes("AP8=")), "decode('AP8=', 'base64')");
    }
}
