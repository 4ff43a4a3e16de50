//! Values as parameters of a statement, in PostgreSQL's text format.
//!
//! PostgreSQL's own input functions read them by the column's type, so they arrive as they were.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut as _, BytesMut};
use syncline_shared::record::{Value, Version};
use thiserror::Error;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

use super::sql::BESIDE;
use crate::target::fold::{Change, Operation};

/// A value marked as bytes that is not base64.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("bytes that are not base64")]
pub(super) struct NotBase64;

/// One parameter of a statement that takes rows.
#[derive(Debug)]
pub(super) enum Parameter<'a> {
    Value(Value<'a>),
    Name(&'a str),
    Version(Version),
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Value(Value::Null | Value::Unchanged) => return Ok(IsNull::Yes),
            Self::Value(Value::Bool(true)) => out.put_slice(b"true"),
            Self::Value(Value::Bool(false)) => out.put_slice(b"false"),
            Self::Value(Value::Number(text) | Value::Text(text)) | Self::Name(text) => out.put_slice(text.as_bytes()),
            Self::Value(Value::Bytes(base64)) => {
                out.put_slice(b"\\x");
                out.extend(STANDARD.decode(base64).map_err(|_| NotBase64)?.into_iter().flat_map(hex));
            }
            Self::Version(version) => write!(out, "{version}")?,
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A byte in hexadecimal, as PostgreSQL reads it.
pub(super) fn hex(byte: u8) -> [u8; 2] {
    [byte >> 4, byte & 0xf].map(|nibble| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 })
}

/// The parameters for operations on these many columns, each with what goes beside it, up to a number of rows; what is left
/// over is null.
pub(super) fn parameters<'a>(operations: &[&'a Operation<'a>], columns: usize, rows: usize) -> Vec<Parameter<'a>> {
    let all = rows * (columns + BESIDE.len());
    let mut parameters = Vec::with_capacity(all);
    for operation in operations {
        match &operation.change {
            Change::Delete => parameters.extend(operation.key.values().map(Parameter::Value)),
            Change::Upsert { columns, .. } => {
                parameters.extend(columns.iter().map(|(_, value)| Parameter::Value(*value)));
            }
        }
        let Operation { version, name, since, .. } = operation;
        parameters.extend([Parameter::Version(*version), Parameter::Name(name), Parameter::Version(*since)]);
    }
    parameters.resize_with(all, || Parameter::Value(Value::Null));
    parameters
}

/// Bytes of an operation's values, about.
pub(super) fn size(operation: &Operation<'_>) -> usize {
    let values: usize = match &operation.change {
        Change::Delete => operation.key.values().map(length).sum(),
        Change::Upsert { columns, .. } => columns.iter().map(|(_, value)| length(*value)).sum(),
    };
    values + operation.name.len()
}

fn length(value: Value<'_>) -> usize {
    value.as_text().map_or(0, str::len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(value: Value<'_>) -> Option<String> {
        let mut out = BytesMut::new();
        let is_null = Parameter::Value(value).to_sql(&Type::TEXT, &mut out).unwrap();
        matches!(is_null, IsNull::No).then(|| String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn values_are_sent_as_their_texts() {
        assert_eq!(sent(Value::Null), None);
        assert_eq!(sent(Value::Text("")).as_deref(), Some(""));
        assert_eq!(sent(Value::Text("a\tb\\N\n'$1")).as_deref(), Some("a\tb\\N\n'$1"));
        assert_eq!(sent(Value::Bool(false)).as_deref(), Some("false"));
        assert_eq!(sent(Value::Bytes("AP8K")).as_deref(), Some("\\x00ff0a"));
        let refused = Parameter::Value(Value::Bytes("MARKER!")).to_sql(&Type::BYTEA, &mut BytesMut::new());
        assert_eq!(refused.err().and_then(|error| error.downcast().ok()), Some(Box::new(NotBase64)));
    }
}
