//! Values as parameters of a statement: one array per column, an element per record.
//!
//! PostgreSQL's own input functions read them by the column's type, so they arrive as they were. Texts, which are most of
//! what there is to send, go in the binary format, where they stand as they are (PostgreSQL manual, *array_recv* in
//! `arrayfuncs.c`: dimensions, a flag, the element's type, length and lower bound, then each element behind its length); other
//! types in the text format ("Array Input and Output Syntax").

use std::error::Error;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use syncline_shared::record::Value;
use thiserror::Error;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use crate::target::fold::{Change, Operation};

/// A value marked as bytes that is not base64.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bytes that are not base64")]
pub(super) struct NotBase64;

/// The length of an element that is null.
const NULL: i32 = -1;

/// One value of each of some operations.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameter<'o, 'a> {
    operations: &'o [&'o Operation<'a>],
    what: What,
}

/// Which value of an operation.
#[derive(Clone, Copy, Debug)]
enum What {
    /// That of the column at this place.
    Column(usize),
    Version,
    Name,
    Since,
}

/// A value as it is sent.
enum Element<'a> {
    Text(&'a str),
    Hex(Vec<u8>),
    Version([u8; 16]),
}

impl Element<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Hex(hex) => hex,
            Self::Version(bytes) => bytes,
        }
    }
}

impl<'a> Parameter<'_, 'a> {
    /// Whether it is sent in the binary format, where the element's type has one that is as plain as its text.
    fn is_binary(&self, kind: &Type) -> bool {
        !matches!(self.what, What::Column(_)) || *kind == Type::TEXT_ARRAY
    }

    /// An operation's value; none is null.
    fn element<'e>(&self, operation: &'e Operation<'a>) -> Result<Option<Element<'e>>, NotBase64> {
        let place = match self.what {
            What::Column(place) => place,
            What::Name => return Ok(Some(Element::Text(&operation.name))),
            What::Version => return Ok(Some(Element::Version(operation.version.to_bytes()))),
            What::Since => return Ok(Some(Element::Version(operation.since.to_bytes()))),
        };
        let value = match &operation.change {
            Change::Delete => operation.key.values().nth(place),
            Change::Upsert { values, .. } => values.get(place).copied(),
        };
        Ok(match value.unwrap_or(Value::Null) {
            Value::Null | Value::Unchanged => None,
            Value::Bool(true) => Some(Element::Text("true")),
            Value::Bool(false) => Some(Element::Text("false")),
            Value::Number(text) | Value::Text(text) => Some(Element::Text(text)),
            Value::Bytes(base64) => {
                let bytes = STANDARD.decode(base64).map_err(|_| NotBase64)?;
                Some(Element::Hex(b"\\x".iter().copied().chain(bytes.into_iter().flat_map(hex)).collect()))
            }
        })
    }

    fn put_binary(&self, element: u32, out: &mut BytesMut) -> Result<(), Box<dyn Error + Sync + Send>> {
        let (dimensions, may_have_nulls, lower_bound) = (1, 1, 1);
        out.put_i32(dimensions);
        out.put_i32(may_have_nulls);
        out.put_u32(element);
        out.put_i32(i32::try_from(self.operations.len())?);
        out.put_i32(lower_bound);
        for operation in self.operations {
            let Some(element) = self.element(operation)? else {
                out.put_i32(NULL);
                continue;
            };
            let bytes = element.bytes();
            out.put_i32(i32::try_from(bytes.len())?);
            out.put_slice(bytes);
        }
        Ok(())
    }

    fn put_text(&self, out: &mut BytesMut) -> Result<(), NotBase64> {
        let needs_escape = |byte: &u8| matches!(byte, b'"' | b'\\');
        for (number, operation) in self.operations.iter().enumerate() {
            out.put_u8(if number == 0 { b'{' } else { b',' });
            let Some(element) = self.element(operation)? else {
                out.put_slice(b"NULL");
                continue;
            };
            out.put_u8(b'"');
            let mut rest = element.bytes();
            while let Some(at) = rest.iter().position(needs_escape) {
                let (plain, special) = rest.split_at(at);
                out.put_slice(plain);
                out.put_u8(b'\\');
                out.extend(special.first());
                rest = special.get(1..).unwrap_or_default();
            }
            out.put_slice(rest);
            out.put_u8(b'"');
        }
        out.put_u8(b'}');
        Ok(())
    }
}

impl ToSql for Parameter<'_, '_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        if self.is_binary(kind) {
            let element = if matches!(self.what, What::Column(_) | What::Name) { Type::TEXT } else { Type::UUID };
            self.put_binary(element.oid(), out)?;
        } else {
            self.put_text(out)?;
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, kind: &Type) -> Format {
        if self.is_binary(kind) { Format::Binary } else { Format::Text }
    }

    to_sql_checked!();
}

/// A byte in hexadecimal, as PostgreSQL reads it.
pub(super) fn hex(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|nibble| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 })
}

/// The parameters for operations on these many columns: the columns, and what goes beside them ([`super::sql::BESIDE`]).
pub(super) fn parameters<'o, 'a>(
    operations: &'o [&'o Operation<'a>],
    columns: usize,
) -> impl ExactSizeIterator<Item = Parameter<'o, 'a>> {
    let beside = [What::Version, What::Name, What::Since];
    let all: Vec<_> = (0..columns).map(What::Column).chain(beside).collect();
    all.into_iter().map(|what| Parameter { operations, what })
}

/// Bytes of an operation's values, about.
pub(super) fn size(operation: &Operation<'_>) -> usize {
    let values: usize = match &operation.change {
        Change::Delete => operation.key.values().map(length).sum(),
        Change::Upsert { values, .. } => values.iter().copied().map(length).sum(),
    };
    values + operation.name.len()
}

fn length(value: Value<'_>) -> usize {
    size_of::<i32>() + value.as_text().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use syncline_shared::record::{Action, Columns, Record, Row, Version};

    use super::*;
    use crate::target::fold::{fold, items};
    use crate::target::{Batch, TableMap};

    /// What is sent for a column of two records, the first of which has this value and the second none.
    fn sent(kind: &Type, value: Value<'_>) -> Result<Vec<u8>, NotBase64> {
        let row = |columns: &[(&str, Value<'_>)]| {
            let mut row = Row::builder(Columns::new(columns.iter().map(|(name, _)| *name)));
            columns.iter().for_each(|(_, value)| row.push(*value));
            row.finish()
        };
        let record = |(id, value)| Record {
            key: row(&[("id", Value::Number(id))]),
            version: Version::new(1, 2, 3),
            at: jiff::Timestamp::UNIX_EPOCH,
            data: Some(row(&[("id", Value::Number(id)), ("notes", value)])),
            partial: false,
        };
        let records = [("1", value), ("2", Value::Null)].map(record);
        let table = TableMap { source: "desk".into(), table: "t".into(), into: "t".into(), columns: None };
        let items = items(&[Batch { table: &table, action: Action::Update, records: &records }]);
        let folded = fold(&items);
        let operations: Vec<_> = folded.tables.iter().flat_map(|table| &table.operations).collect();
        let (mut out, parameter) = (BytesMut::new(), parameters(&operations, 2).nth(1).unwrap());
        match parameter.to_sql(kind, &mut out) {
            Ok(_) => Ok(out.to_vec()),
            Err(error) => Err(*error.downcast().unwrap()),
        }
    }

    fn as_text(value: Value<'_>) -> String {
        String::from_utf8(sent(&Type::BYTEA_ARRAY, value).unwrap()).unwrap()
    }

    #[test]
    fn values_stand_in_an_array_as_their_texts() {
        assert_eq!(as_text(Value::Null), "{NULL,NULL}");
        assert_eq!(as_text(Value::Text("")), r#"{"",NULL}"#);
        assert_eq!(as_text(Value::Text("NULL")), r#"{"NULL",NULL}"#);
        assert_eq!(as_text(Value::Text(r#"a,"b"\N{}"#)), r#"{"a,\"b\"\\N{}",NULL}"#);
        assert_eq!(as_text(Value::Bool(false)), r#"{"false",NULL}"#);
        assert_eq!(as_text(Value::Bytes("AP8K")), r#"{"\\x00ff0a",NULL}"#);
        assert_eq!(sent(&Type::BYTEA_ARRAY, Value::Bytes("MARKER!")), Err(NotBase64));
    }

    #[test]
    fn texts_are_sent_with_their_lengths() {
        let expected = [&[0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1], &[0, 0, 0, 3][..], b"a\"\\"];
        let expected = [expected.concat(), vec![255; 4]].concat();
        assert_eq!(sent(&Type::TEXT_ARRAY, Value::Text("a\"\\")), Ok(expected));
    }
}
