//! Column values in one allocation per row.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// The names of a row's columns, in order; shared by all rows of the same shape.
#[derive(Clone, Debug, PartialEq, Eq, Default, Hash)]
pub struct Columns(Arc<[Box<str>]>);

impl Columns {
    /// Collects column names in order.
    pub fn new<S: Into<Box<str>>>(names: impl IntoIterator<Item = S>) -> Self {
        Self(names.into_iter().map(Into::into).collect())
    }

    /// How many columns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The place of a column, by its exact name.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|column| &**column == name)
    }

    /// The name at a place.
    #[must_use]
    pub fn name(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(AsRef::as_ref)
    }
}

/// One column value, borrowed from its [`Row`].
///
/// A column that is *not in the row* is missing; [`Value::Unchanged`] is a column the row has but whose value the source
/// did not send because the change left it alone (PostgreSQL TOAST); [`Value::Null`] is SQL null. They are three things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// SQL null.
    Null,
    /// The change left this column alone and the source did not send it.
    Unchanged,
    /// True or false.
    Bool(bool),
    /// A number, as the source wrote it; always a JSON number (RFC 8259, section 6).
    Number(&'a str),
    /// Text, and every type without a form of its own (dates, uuids, json, arrays): the source's text form.
    Text(&'a str),
    /// Bytes, as standard base64 with padding (RFC 4648, section 4).
    Bytes(&'a str),
}

impl<'a> Value<'a> {
    /// The value as text, the way a condition or a text column sees it; `None` for null and unchanged.
    #[must_use]
    pub const fn as_text(self) -> Option<&'a str> {
        match self {
            Self::Null | Self::Unchanged => None,
            Self::Bool(true) => Some("true"),
            Self::Bool(false) => Some("false"),
            Self::Number(text) | Self::Text(text) | Self::Bytes(text) => Some(text),
        }
    }

    /// Whether the value is SQL null.
    #[must_use]
    pub const fn is_null(self) -> bool {
        matches!(self, Self::Null)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Unchanged,
    False,
    True,
    Number,
    Text,
    Bytes,
}

/// One column value as a range of the row's text.
#[derive(Clone, Copy, Debug)]
struct Cell {
    kind: Kind,
    start: u32,
    end: u32,
}

/// The values of one record, in the order of its [`Columns`].
///
/// Rows are equal when their columns and values are; how the text is laid out does not matter.
#[derive(Clone, Default)]
pub struct Row {
    columns: Columns,
    cells: Vec<Cell>,
    text: String,
}

impl Row {
    /// Starts a row of these columns; push one value per column, in order.
    #[must_use]
    pub fn builder(columns: Columns) -> RowBuilder {
        let cells = Vec::with_capacity(columns.len());
        RowBuilder { row: Self { columns, cells, text: String::new() } }
    }

    /// The row's columns.
    #[must_use]
    pub const fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The value at a place; `None` past the last column.
    #[must_use]
    pub fn value(&self, index: usize) -> Option<Value<'_>> {
        let cell = self.cells.get(index)?;
        let text = self.text.get(cell.start as usize..cell.end as usize).unwrap_or_default();
        Some(match cell.kind {
            Kind::Null => Value::Null,
            Kind::Unchanged => Value::Unchanged,
            Kind::False => Value::Bool(false),
            Kind::True => Value::Bool(true),
            Kind::Number => Value::Number(text),
            Kind::Text => Value::Text(text),
            Kind::Bytes => Value::Bytes(text),
        })
    }

    /// The value of a column; `None` when the row has no such column.
    #[must_use]
    pub fn get(&self, column: &str) -> Option<Value<'_>> {
        self.value(self.columns.position(column)?)
    }

    /// The values, in column order.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> + '_ {
        (0..self.cells.len()).filter_map(|index| self.value(index))
    }

    /// Names and values, in column order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Value<'_>)> + '_ {
        self.columns.iter().zip(self.values())
    }

    /// Whether any column was left alone by the change and not sent by the source.
    #[must_use]
    pub fn has_unchanged(&self) -> bool {
        self.cells.iter().any(|cell| cell.kind == Kind::Unchanged)
    }

    /// A row of the columns at these places, in this order; places past the last column are left out.
    #[must_use]
    pub fn select(&self, columns: Columns, places: &[usize]) -> Self {
        let mut selected = Self::builder(columns);
        for value in places.iter().filter_map(|&place| self.value(place)) {
            selected.push(value);
        }
        selected.finish()
    }

    /// Bytes this row holds in memory, near enough for bounds.
    #[must_use]
    pub fn size(&self) -> usize {
        self.text.len() + self.cells.len() * size_of::<Cell>()
    }
}

impl PartialEq for Row {
    fn eq(&self, other: &Self) -> bool {
        self.columns == other.columns && self.values().eq(other.values())
    }
}

impl fmt::Debug for Row {
    /// Shows the column names only: a value must never reach a log (promise P8).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Row({})", self.columns.iter().collect::<Vec<_>>().join(", "))
    }
}

/// Builds a [`Row`] value by value.
#[derive(Debug)]
pub struct RowBuilder {
    row: Row,
}

impl RowBuilder {
    /// Makes room for about so many bytes of values at once, instead of growing with each of them.
    #[must_use]
    pub fn with_room(mut self, bytes: usize) -> Self {
        self.row.text.reserve(bytes);
        self
    }

    /// Appends the next column's value.
    pub fn push(&mut self, value: Value<'_>) {
        match value {
            Value::Null => self.cell(Kind::Null, ""),
            Value::Unchanged => self.cell(Kind::Unchanged, ""),
            Value::Bool(false) => self.cell(Kind::False, ""),
            Value::Bool(true) => self.cell(Kind::True, ""),
            Value::Number(text) => self.push_number(text),
            Value::Text(text) => self.cell(Kind::Text, text),
            Value::Bytes(base64) => self.cell(Kind::Bytes, base64),
        }
    }

    /// Appends a number in its source's own text; what is no JSON number (`NaN`, `Infinity`) is kept as text.
    pub fn push_number(&mut self, text: &str) {
        let kind = if is_json_number(text) { Kind::Number } else { Kind::Text };
        self.cell(kind, text);
    }

    /// Appends raw bytes.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let start = self.row.text.len();
        STANDARD.encode_string(bytes, &mut self.row.text);
        self.close(Kind::Bytes, start);
    }

    /// Ends the row; columns without a value are null.
    #[must_use]
    pub fn finish(mut self) -> Row {
        while self.row.cells.len() < self.row.columns.len() {
            self.cell(Kind::Null, "");
        }
        self.row
    }

    fn cell(&mut self, kind: Kind, text: &str) {
        let start = self.row.text.len();
        self.row.text.push_str(text);
        self.close(kind, start);
    }

    fn close(&mut self, kind: Kind, start: usize) {
        let Range { start, end } = start..self.row.text.len();
        // A row is bounded far below 4 GiB by `record_bytes_max` and the databases' own limits.
        let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        self.row.cells.push(Cell { kind, start: place(start), end: place(end) });
    }
}

/// Whether a text is a number by the grammar of RFC 8259, section 6.
pub(super) fn is_json_number(text: &str) -> bool {
    fn digits(bytes: &[u8]) -> usize {
        bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
    }
    let mut rest = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let whole = digits(rest);
    if whole == 0 || (whole > 1 && rest.first() == Some(&b'0')) {
        return false;
    }
    rest = rest.get(whole..).unwrap_or_default();
    if let Some(after) = rest.strip_prefix(b".") {
        let fraction = digits(after);
        if fraction == 0 {
            return false;
        }
        rest = after.get(fraction..).unwrap_or_default();
    }
    if let Some(after) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let after = after.strip_prefix(b"+").or_else(|| after.strip_prefix(b"-")).unwrap_or(after);
        let exponent = digits(after);
        return exponent > 0 && exponent == after.len();
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_missing_and_unchanged_are_three_things() {
        let mut row = Row::builder(Columns::new(["a", "b"]));
        row.push(Value::Null);
        row.push(Value::Unchanged);
        let row = row.finish();
        assert_eq!(row.get("a"), Some(Value::Null));
        assert_eq!(row.get("b"), Some(Value::Unchanged));
        assert_eq!(row.get("c"), None);
        assert!(row.has_unchanged());
    }

    #[test]
    fn what_is_no_json_number_is_kept_as_text() {
        for number in ["0", "-0", "12", "-1.50", "1e+20", "0.000000000000000001", "9223372036854775807", "1E-7"] {
            assert!(is_json_number(number), "{number}");
        }
        for text in ["", "-", "NaN", "Infinity", "01", "1.", ".5", "1e", "1e+", "0x1", "1 ", "+1", "1.5.2", "1e5x"] {
            assert!(!is_json_number(text), "{text}");
        }
        let mut row = Row::builder(Columns::new(["n"]));
        row.push_number("NaN");
        assert_eq!(row.finish().get("n"), Some(Value::Text("NaN")));
    }

    #[test]
    fn debug_shows_no_value() {
        let mut row = Row::builder(Columns::new(["password"]));
        row.push(Value::Text("hunter2"));
        assert_eq!(format!("{:?}", row.finish()), "Row(password)");
    }
}
