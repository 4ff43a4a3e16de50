//! Records that are asked for by their keys, as they are now. Blocks.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rusqlite::types::Value as Stored;
use rusqlite::{Connection, OptionalExtension as _, params_from_iter};
use syncline_shared::record::{Action, Columns, Row, Value, Version};
use syncline_shared::sqlite::quote;

use super::error::Fault;
use super::log::Decoder;
use super::table::{Side, Table};
use crate::source::{Change, Session, SourceError};

/// A table within a read transaction.
pub(super) struct Named<'a> {
    pub(super) connection: &'a Connection,
    pub(super) table: &'a Table,
    pub(super) version: Version,
    pub(super) share: &'a Arc<str>,
}

impl Named<'_> {
    /// The record with a key; a delete when there is none.
    pub(super) fn change(&self, key: &Row, decoder: &mut Decoder) -> Result<Change, Fault> {
        let Self { connection, table, version, share } = *self;
        let names = Columns::new(table.key.iter().map(String::as_str));
        let places: Option<Vec<_>> = names.iter().map(|name| key.columns().position(name)).collect();
        let places = places.ok_or_else(|| SourceError::Unfit {
            problem: format!("the key of {} is another than the one asked for", table.watched),
            mend: "compare again".to_owned(),
        })?;
        let key = key.select(names, &places);
        let (mut conditions, mut values) = (Vec::new(), Vec::new());
        for (name, value) in key.iter() {
            let forms = stored(value);
            conditions.push(format!("{} IN ({})", quote(name), vec!["?"; forms.len()].join(", ")));
            values.extend(forms);
        }
        let sql = format!(
            "SELECT {} FROM main.{} WHERE {}",
            table.row_json(Side::Current),
            quote(&table.name),
            conditions.join(" AND ")
        );
        let mut select = connection.prepare_cached(&sql)?;
        let json = select.query_row(params_from_iter(values), |row| Ok(row.get_ref(0)?.as_bytes()?.to_vec()));
        match json.optional()? {
            Some(json) => {
                let change = decoder.copied(table, &json, version, None, Some(share))?;
                // What the record was before is not known, and matters: it may have to leave places it is not in.
                Ok(Change { before: Some(change.key.clone()), ..change })
            }
            None => Ok(Change {
                table: Arc::clone(&table.watched),
                action: Action::Delete,
                key,
                before: None,
                after: None,
                version,
                at: Timestamp::now(),
                session: Session::default(),
                origin: Arc::default(),
                only_share: Some(Arc::clone(share)),
            }),
        }
    }
}

/// How a value of a key may be stored: a column without a type keeps a number apart from its text, and who asks may know
/// the text alone.
fn stored(value: Value<'_>) -> Vec<Stored> {
    let number = |text: &str| {
        let integer = text.parse().ok().map(Stored::Integer);
        integer.or_else(|| text.parse().ok().map(Stored::Real))
    };
    match value {
        Value::Null | Value::Unchanged => vec![Stored::Null],
        Value::Bool(flag) => vec![Stored::Integer(flag.into())],
        Value::Number(text) | Value::Text(text) => {
            std::iter::once(Stored::Text(text.to_owned())).chain(number(text)).collect()
        }
        Value::Bytes(base64) => vec![Stored::Blob(STANDARD.decode(base64).unwrap_or_default())],
    }
}
