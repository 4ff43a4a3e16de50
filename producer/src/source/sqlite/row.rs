//! Rows as the triggers write them: JSON objects, read without losing a digit.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use syncline_shared::record::{Columns, Row, Value};

/// The columns seen last, so that the rows of a table share one list of names.
#[derive(Default)]
pub(super) struct Shape(Columns);

/// Reads a row; `None` when it is not what a trigger writes.
pub(super) fn read(json: &[u8], shape: &mut Shape) -> Option<Row> {
    // A text column may hold what is no UTF-8; such bytes are shown as U+FFFD, as SQLite's own tools do.
    let json = String::from_utf8_lossy(json);
    let Members(members) = serde_json::from_str(&json).ok()?;
    if !shape.0.iter().eq(members.iter().map(|(name, _)| name.0.as_ref())) {
        shape.0 = Columns::new(members.iter().map(|(name, _)| name.0.as_ref()));
    }
    let mut row = Row::builder(shape.0.clone());
    for (_, value) in &members {
        let value = value.get();
        match value.as_bytes().first()? {
            b'n' => row.push(Value::Null),
            b't' => row.push(Value::Bool(true)),
            b'f' => row.push(Value::Bool(false)),
            b'"' => row.push(Value::Text(&serde_json::from_str::<Name<'_>>(value).ok()?.0)),
            b'{' => row.push_bytes(&bytes(serde_json::from_str::<Hex<'_>>(value).ok()?.hex)?),
            _ if value.contains(['.', 'e', 'E']) => row.push_number(&shortest(value)?),
            _ => row.push_number(value),
        }
    }
    Some(row.finish())
}

/// The shortest text that reads back as the same double: `0.1` and not the 17 digits the trigger wrote.
fn shortest(real: &str) -> Option<String> {
    let number: f64 = real.parse().ok()?;
    Some(format!("{number:?}"))
}

pub(super) fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    hex.as_bytes().chunks(2).map(pair).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hex<'a> {
    hex: &'a str,
}

/// A JSON string, borrowed unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A JSON object's members in order, their values unread.
struct Members<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Vec<(Name<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of column values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(32);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(InOrder).map(Members)
    }
}
