//! Records that are compared, as lines of `COPY .. FROM STDIN` in its text format (PostgreSQL manual, COPY, "Text Format").
//!
//! Values go in as text and PostgreSQL's own input functions read them by the column's type, so they arrive as they were.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use syncline_shared::record::Value;

use super::parameter::{NotBase64, hex};
use crate::target::fold::{Change, Operation};

/// Appends one line: the columns' values, version, group, number, key's name and guarding version.
pub(super) fn write_line(
    out: &mut Vec<u8>,
    operation: &Operation<'_>,
    group: i32,
    row: usize,
) -> Result<(), NotBase64> {
    match &operation.change {
        Change::Delete => operation.key.values().try_for_each(|value| write_value(out, value))?,
        Change::Upsert { values, .. } => values.iter().try_for_each(|value| write_value(out, *value))?,
    }
    out.extend_from_slice(format!("{}\t{group}\t{row}\t", operation.version).as_bytes());
    write_text(out, &operation.name);
    out.extend_from_slice(format!("\t{}\n", operation.since).as_bytes());
    Ok(())
}

fn write_value(out: &mut Vec<u8>, value: Value<'_>) -> Result<(), NotBase64> {
    match value {
        Value::Null | Value::Unchanged => out.extend_from_slice(b"\\N"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(text) | Value::Text(text) => write_text(out, text),
        Value::Bytes(base64) => {
            out.extend_from_slice(b"\\\\x");
            out.extend(STANDARD.decode(base64).map_err(|_| NotBase64)?.into_iter().flat_map(hex));
        }
    }
    out.push(b'\t');
    Ok(())
}

/// Escapes what ends a value or a line, and the backslash itself: all that the format gives a meaning to.
fn write_text(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| matches!(byte, b'\\' | b'\t' | b'\n' | b'\r')) {
        let (plain, special) = rest.split_at(at);
        out.extend_from_slice(plain);
        let escaped: &[u8] = match special.first() {
            Some(b'\t') => b"\\t",
            Some(b'\n') => b"\\n",
            Some(b'\r') => b"\\r",
            Some(_) | None => b"\\\\",
        };
        out.extend_from_slice(escaped);
        rest = special.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(value: Value<'_>) -> String {
        let mut out = Vec::new();
        write_value(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_text_that_looks_like_null_is_not_null() {
        assert_eq!(value(Value::Null), "\\N\t");
        assert_eq!(value(Value::Text("\\N")), "\\\\N\t");
        assert_eq!(value(Value::Text("")), "\t");
    }

    #[test]
    fn no_value_ends_its_line_or_column() {
        assert_eq!(value(Value::Text("a\tb\nc\rd\\e")), "a\\tb\\nc\\rd\\\\e\t");
    }

    #[test]
    fn bytes_go_in_as_hex() {
        assert_eq!(value(Value::Bytes("AP8K")), "\\\\x00ff0a\t");
        assert_eq!(write_value(&mut Vec::new(), Value::Bytes("MARKER!")), Err(NotBase64));
    }
}
