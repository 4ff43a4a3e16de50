//! Reads lines in the form [`super::write_line`] gives them, in one pass and without looking at a value twice.
//!
//! Knows one order of members, no spaces and no escapes: a line of any other form is not read here, and whoever asked reads
//! it in the general way, which also tells what is wrong with it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;

use super::Shapes;
use crate::record::row::is_json_number;
use crate::record::{Columns, Record, Row, Value, Version};

/// A record; `None` if the line is not in that form.
pub(super) fn read(line: &[u8], shapes: &mut Shapes) -> Option<Record> {
    // JSON has no control characters in strings. All bytes at once: an end at the first would be one test for each.
    if line.iter().fold(false, |found, byte| found | (*byte < b' ')) {
        return None;
    }
    let mut line = Line { rest: std::str::from_utf8(line).ok()? };
    line.take("{\"key\":{")?;
    let key = line.row(&mut shapes.key, 0)?;
    if key.columns().is_empty() || key.values().any(Value::is_null) {
        return None;
    }
    line.take(",\"version\":\"")?;
    let version: Version = line.string()?.parse().ok()?;
    line.take(",\"at\":\"")?;
    let at: Timestamp = line.string()?.parse().ok()?;
    let room = line.rest.len();
    let data = match line.take(",\"data\":{") {
        Some(()) => Some(line.row(&mut shapes.data, room)?),
        None => None,
    };
    let partial = line.take(",\"partial\":true").is_some();
    (line.rest == "}").then_some(Record { key, version, at, data, partial })
}

/// What is left of a line.
struct Line<'a> {
    rest: &'a str,
}

impl<'a> Line<'a> {
    /// Goes on behind a text, if it comes next.
    fn take(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    /// The rest of a string up to its quote, which is left behind.
    fn string(&mut self) -> Option<&'a str> {
        let end = memchr::memchr2(b'"', b'\\', self.rest.as_bytes())?;
        let (text, behind) = (self.rest.get(..end)?, self.rest.get(end..)?);
        self.rest = behind.strip_prefix('"')?;
        Some(text)
    }

    /// An object of values behind its brace. Its columns are those of the shape, or become it.
    fn row(&mut self, shape: &mut Columns, room: usize) -> Option<Row> {
        let start = self.rest;
        if let Some(row) = self.row_of(shape, room) {
            return Some(row);
        }
        self.rest = start;
        *shape = Columns::new(self.names()?);
        self.rest = start;
        self.row_of(shape, room)
    }

    fn row_of(&mut self, shape: &Columns, room: usize) -> Option<Row> {
        let names: usize = shape.iter().map(|name| name.len() + "\"\":,".len()).sum();
        let mut row = Row::builder(shape.clone()).with_room(room.saturating_sub(names));
        for (place, name) in shape.iter().enumerate() {
            self.take(if place == 0 { "\"" } else { ",\"" })?;
            self.take(name)?;
            self.take("\":")?;
            row.push(self.value()?);
        }
        self.take("}")?;
        Some(row.finish())
    }

    fn names(&mut self) -> Option<Vec<&'a str>> {
        let mut names = Vec::new();
        while self.take("}").is_none() {
            self.take(if names.is_empty() { "\"" } else { ",\"" })?;
            names.push(self.string()?);
            self.take(":")?;
            self.value()?;
        }
        Some(names)
    }

    fn value(&mut self) -> Option<Value<'a>> {
        match self.rest.as_bytes().first()? {
            b'"' => {
                self.take("\"")?;
                Some(Value::Text(self.string()?))
            }
            b'n' => self.take("null").map(|()| Value::Null),
            b't' => self.take("true").map(|()| Value::Bool(true)),
            b'f' => self.take("false").map(|()| Value::Bool(false)),
            b'{' => {
                self.take("{\"base64\":\"")?;
                let base64 = self.string()?;
                STANDARD.decode(base64).ok()?;
                self.take("}")?;
                Some(Value::Bytes(base64))
            }
            _ => {
                let end = self.rest.find([',', '}'])?;
                let (number, behind) = (self.rest.get(..end)?, self.rest.get(end..)?);
                self.rest = behind;
                is_json_number(number).then_some(Value::Number(number))
            }
        }
    }
}
