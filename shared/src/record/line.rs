//! Records as lines of JSON (NDJSON): the plaintext of an envelope's body.
//!
//! One line: `{"key":{..},"version":"<32 hex>","at":"RFC 3339","data":{..},"partial":true}`; `data` is absent for deletes
//! and `partial` unless true. Numbers are copied as they are written, never through a float.

use std::borrow::Cow;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use thiserror::Error;

use super::{Columns, Record, Row, Value, Version};

mod fast;

/// A line that is not a record. Names the line and the place, never the content.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LineError {
    /// Not JSON, or not of the record's form.
    #[error("record {record} is not valid at byte {at}")]
    Malformed {
        /// Which record of the batch, counted from 1.
        record: usize,
        /// Where in its line.
        at: usize,
    },
    /// A key without columns, or with a null.
    #[error("record {record} has an empty key")]
    EmptyKey {
        /// Which record of the batch, counted from 1.
        record: usize,
    },
    /// A column value that is an array, an unknown object or no base64.
    #[error("record {record} has a column value of no known form")]
    Value {
        /// Which record of the batch, counted from 1.
        record: usize,
    },
}

/// Appends one record as a line, newline included.
///
/// Columns that are [`Value::Unchanged`] are left out of the line; the caller sets `partial` then.
pub fn write_line(out: &mut Vec<u8>, key: &Row, version: Version, at: Timestamp, data: Option<&Row>, partial: bool) {
    out.extend_from_slice(b"{\"key\":");
    write_row(out, key);
    out.extend_from_slice(format!(",\"version\":\"{version}\",\"at\":\"{at}\"").as_bytes());
    if let Some(data) = data {
        out.extend_from_slice(b",\"data\":");
        write_row(out, data);
    }
    if partial {
        out.extend_from_slice(b",\"partial\":true");
    }
    out.extend_from_slice(b"}\n");
}

fn write_row(out: &mut Vec<u8>, row: &Row) {
    out.push(b'{');
    let mut first = true;
    for (name, value) in row.iter() {
        if value == Value::Unchanged {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_text(out, name);
        out.push(b':');
        match value {
            Value::Null | Value::Unchanged => out.extend_from_slice(b"null"),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Number(text) => out.extend_from_slice(text.as_bytes()),
            Value::Text(text) => write_text(out, text),
            Value::Bytes(base64) => {
                out.extend_from_slice(b"{\"base64\":\"");
                out.extend_from_slice(base64.as_bytes());
                out.extend_from_slice(b"\"}");
            }
        }
    }
    out.push(b'}');
}

fn write_text(out: &mut Vec<u8>, text: &str) {
    let has_special = |found, byte: &u8| found | (*byte < b' ') | (*byte == b'"') | (*byte == b'\\');
    if !text.as_bytes().iter().fold(false, has_special) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    // Writing a string into a vector has no way to fail.
    let _ = serde_json::to_writer(out, text);
}

/// Reads all records of a batch's plaintext.
///
/// # Errors
/// [`LineError`] for the first line that is not a record; permanent, nothing of the batch can be trusted then.
pub fn read_lines(ndjson: &[u8]) -> Result<Vec<Record>, LineError> {
    let mut shapes = Shapes::default();
    let lines = Lines { rest: ndjson }.filter(|line| !line.is_empty());
    lines.enumerate().map(|(index, line)| read_line(line, index + 1, &mut shapes)).collect()
}

/// What is between line breaks.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memchr(b'\n', self.rest).unwrap_or(self.rest.len());
        let (line, behind) = self.rest.split_at_checked(end)?;
        self.rest = behind.get(1..).unwrap_or_default();
        (!line.is_empty() || !behind.is_empty()).then_some(line)
    }
}

fn read_line(line: &[u8], record: usize, shapes: &mut Shapes) -> Result<Record, LineError> {
    match fast::read(line, shapes) {
        Some(read) => Ok(read),
        None => read_any(line, record, shapes),
    }
}

/// Reads a line in any form JSON permits.
fn read_any(line: &[u8], record: usize, shapes: &mut Shapes) -> Result<Record, LineError> {
    let parsed: Line<'_> =
        serde_json::from_slice(line).map_err(|cause| LineError::Malformed { record, at: cause.column() })?;
    let version = parsed.version.parse().map_err(|_| LineError::Malformed { record, at: 0 })?;
    let at = parsed.at.parse().map_err(|_| LineError::Malformed { record, at: 0 })?;
    let key = row(&parsed.key, &mut shapes.key, record)?;
    if key.columns().is_empty() || key.values().any(Value::is_null) {
        return Err(LineError::EmptyKey { record });
    }
    let data = parsed.data.map(|fields| row(&fields, &mut shapes.data, record)).transpose()?;
    Ok(Record { key, version, at, data, partial: parsed.partial })
}

/// The columns seen last, so that the rows of a batch share one list of names.
#[derive(Default)]
struct Shapes {
    key: Columns,
    data: Columns,
}

fn row(fields: &Fields<'_>, shape: &mut Columns, record: usize) -> Result<Row, LineError> {
    let names = || fields.0.iter().map(|(name, _)| name.as_ref());
    if !shape.iter().eq(names()) {
        *shape = Columns::new(names());
    }
    let bytes = fields.0.iter().map(|(_, raw)| raw.get().len()).sum();
    let mut row = Row::builder(shape.clone()).with_room(bytes);
    for (_, raw) in &fields.0 {
        let text = raw.get();
        match text.as_bytes().first() {
            Some(b'n') => row.push(Value::Null),
            Some(b't') => row.push(Value::Bool(true)),
            Some(b'f') => row.push(Value::Bool(false)),
            Some(b'"') => row.push(Value::Text(&string(text, record)?)),
            Some(b'{') => {
                let bytes: Marked<'_> = serde_json::from_str(text).map_err(|_| LineError::Value { record })?;
                // A value of bytes is base64 for whoever holds the row; it is written again as it is.
                STANDARD.decode(&*bytes.base64).map_err(|_| LineError::Value { record })?;
                row.push(Value::Bytes(&bytes.base64));
            }
            Some(b'-' | b'0'..=b'9') => row.push(Value::Number(text)),
            _ => return Err(LineError::Value { record }),
        }
    }
    Ok(row.finish())
}

/// The content of a JSON string; borrowed unless it has escapes.
fn string(json: &str, record: usize) -> Result<Cow<'_, str>, LineError> {
    let inner = json.get(1..json.len().saturating_sub(1)).unwrap_or_default();
    if !inner.contains('\\') {
        return Ok(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).map(Cow::Owned).map_err(|_| LineError::Value { record })
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    key: Fields<'a>,
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    at: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<Fields<'a>>,
    #[serde(default)]
    partial: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Marked<'a> {
    #[serde(borrow)]
    base64: Cow<'a, str>,
}

/// A JSON object's members in order, their values unread.
struct Fields<'a>(Vec<(Name<'a>, &'a RawValue)>);

/// A member's name, borrowed from the line unless it has escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl AsRef<str> for Name<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(Name<'de>, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of column values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members = Vec::with_capacity(map.size_hint().unwrap_or(32));
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_row(columns: &[(&str, Value<'_>)]) -> Row {
        let mut row = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
        for (_, value) in columns {
            row.push(*value);
        }
        row.finish()
    }

    fn at() -> Timestamp {
        "2026-11-21T08:15:30.123456Z".parse().expect("a timestamp")
    }

    #[test]
    fn a_line_looks_as_the_wire_format_says() {
        let key = text_row(&[("number", Value::Text("INC1"))]);
        let data = text_row(&[
            ("number", Value::Text("INC1")),
            ("priority", Value::Number("2")),
            ("active", Value::Bool(true)),
            ("closed_at", Value::Null),
            ("photo", Value::Bytes("AAEC")),
            ("notes", Value::Unchanged),
        ]);
        let mut line = Vec::new();
        write_line(&mut line, &key, Version::new(1, 0x16B_3748, 1), at(), Some(&data), true);
        assert_eq!(
            String::from_utf8(line).expect("text"),
            concat!(
                r#"{"key":{"number":"INC1"},"version":"0000000100000000016b374800000001","at":"2026-11-21T08:15:30.123456Z","#,
                r#""data":{"number":"INC1","priority":2,"active":true,"closed_at":null,"photo":{"base64":"AAEC"}},"partial":true}"#,
                "\n"
            )
        );
    }

    #[test]
    fn numbers_survive_to_the_last_digit() {
        let numbers = [
            "123456789012345678901234567890.123456789",
            "0.1000",
            "9223372036854775807",
            "-1e-300",
            "2.2250738585072011e-308",
        ];
        let line = format!(
            r#"{{"key":{{"id":1}},"version":"{}","at":"2026-11-21T00:00:00Z","data":{{"a":{},"b":{},"c":{},"d":{},"e":{}}}}}"#,
            Version::default(),
            numbers[0],
            numbers[1],
            numbers[2],
            numbers[3],
            numbers[4]
        );
        let records = read_lines(line.as_bytes()).expect("valid");
        let data = records[0].data.as_ref().expect("data");
        let read: Vec<_> = data.values().map(|value| value.as_text().expect("a number")).collect();
        assert_eq!(read, numbers);
    }

    #[test]
    fn hostile_lines_are_refused_without_showing_values() {
        let version = Version::default();
        let cases = [
            "secret".to_owned(),
            "{}".to_owned(),
            format!(r#"{{"key":{{}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            format!(r#"{{"key":{{"id":null}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            format!(r#"{{"key":{{"id":["secret"]}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            format!(r#"{{"key":{{"id":{{"base64":1}}}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            format!(r#"{{"key":{{"id":{{"base64":"\u0000AAE"}}}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            format!(r#"{{"key":{{"id":{{"base64":"secret="}}}},"version":"{version}","at":"2026-11-21T00:00:00Z"}}"#),
            r#"{"key":{"id":1},"version":"secret","at":"2026-11-21T00:00:00Z"}"#.to_owned(),
            format!(r#"{{"key":{{"id":1}},"version":"{version}","at":"secret"}}"#),
            format!(r#"{{"key":{{"id":1}},"version":"{version}","at":"2026-11-21T00:00:00Z""#),
        ];
        for case in cases {
            let error = read_lines(case.as_bytes()).expect_err(&case);
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_written_record_reads_back_as_it_was(
            id in ".{1,20}", texts in prop::collection::vec(prop::option::of(".*"), 0..6), number in any::<i64>(),
            bytes in prop::collection::vec(any::<u8>(), 0..40), flag in any::<bool>(), position in any::<u64>(), partial in any::<bool>(),
        ) {
            let key = text_row(&[("id", Value::Text(&id))]);
            let names = ["n", "b", "f"].into_iter().map(str::to_owned).chain((0..texts.len()).map(|i| format!("t\"{i}\n")));
            let mut data = Row::builder(Columns::new(names));
            data.push(Value::Number(&number.to_string()));
            data.push_bytes(&bytes);
            data.push(Value::Bool(flag));
            for text in &texts {
                data.push(text.as_deref().map_or(Value::Null, Value::Text));
            }
            let record = Record { key, version: Version::new(1, position, 7), at: at(), data: Some(data.finish()), partial };
            let mut line = Vec::new();
            write_line(&mut line, &record.key, record.version, record.at, record.data.as_ref(), partial);
            prop_assert_eq!(read_any(line.trim_ascii_end(), 1, &mut Shapes::default()), Ok(record.clone()));
            prop_assert_eq!(read_lines(&line), Ok(vec![record]));
        }

        #[test]
        fn what_is_read_fast_is_what_is_read_slowly(
            place in any::<prop::sample::Index>(), byte in any::<u8>(), what in 0_u8..4, sizes in prop::collection::vec(0_usize..9, 1..4),
        ) {
            let texts = ["", "a", "\u{1F600}", "1", "-0.5e+7", "null", "a\\b", "\"", "{\"base64\":\"AA==\"}"];
            let mut row = Row::builder(Columns::new((0..sizes.len()).map(|i| format!("c{i}"))));
            sizes.iter().for_each(|size| if *size == 3 { row.push_number(texts[4]) } else { row.push(Value::Text(texts[*size])) });
            let mut line = Vec::new();
            write_line(&mut line, &text_row(&[("id", Value::Number("7"))]), Version::new(1, 2, 3), at(), Some(&row.finish()), true);
            line.pop();
            let place = place.index(line.len());
            match what {
                0 => line[place] = byte,
                1 => drop(line.remove(place)),
                2 => line.insert(place, byte),
                _ => {}
            }
            let slowly = read_any(&line, 1, &mut Shapes::default());
            if let Some(fast) = fast::read(&line, &mut Shapes::default()) {
                prop_assert_eq!(Ok(fast), slowly);
            } else {
                prop_assert!(what < 3 || sizes.iter().any(|size| *size > 5), "a plain line is read fast");
            }
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_lines(&bytes);
        }
    }
}
