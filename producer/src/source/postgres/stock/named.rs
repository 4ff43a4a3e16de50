//! Reads records by their keys, as they are in a snapshot.

use futures_util::StreamExt as _;
use futures_util::stream::{BoxStream, try_unfold};
use syncline_shared::record::{Action, Row};
use tokio_postgres::Client;

use super::super::values::{identifier, key_literal};
use super::read::Reading;
use crate::bulk::Bite;
use crate::source::{Change, SourceError};

const DOING: &str = "reading records by their keys";

/// The records with these keys; a delete for each that is not there.
pub(super) fn named(reading: Reading, sql: Client, keys: Vec<Row>) -> BoxStream<'static, Result<Bite, SourceError>> {
    try_unfold((reading, sql, Some(keys.into_iter())), async |(reading, sql, keys)| {
        let Some(mut keys) = keys else { return Ok(None) };
        let mut changes = Vec::new();
        for key in keys.by_ref().take(reading.rows_max) {
            changes.push(reading.named(&sql, &key).await?);
        }
        let done = keys.len() == 0;
        let bite = Bite { range: 0, changes, after: None, done };
        Ok(Some((bite, (reading, sql, (!done).then_some(keys)))))
    })
    .boxed()
}

impl Reading {
    async fn named(&self, sql: &Client, key: &Row) -> Result<Change, SourceError> {
        let unfit = || SourceError::Unfit {
            problem: format!("the key of {} is another than the one asked for", self.table),
            mend: "compare again".to_owned(),
        };
        let key = self.form.named(key).ok_or_else(unfit)?;
        match self.find(sql, &key).await? {
            // What the record was before is not known, and matters: it may have to leave places it is not in.
            Some(row) => {
                let change = self.change(row);
                Ok(Change { before: Some(change.key.clone()), ..change })
            }
            None => Ok(self.change_of(Action::Delete, key, None)),
        }
    }

    /// The row with a key; none where a value of it is not of its column's type.
    async fn find(&self, sql: &Client, key: &Row) -> Result<Option<Row>, SourceError> {
        let equal = |(name, value)| format!("{} = {}", identifier(name), key_literal(value));
        let conditions: Vec<_> = key.iter().map(equal).collect();
        let statement = format!(
            "COPY (SELECT {} FROM {} WHERE {}) TO STDOUT",
            self.form.list(),
            self.own_rows,
            conditions.join(" AND ")
        );
        let asked = async {
            sql.batch_execute("SAVEPOINT named").await?;
            let mut lines = std::pin::pin!(sql.copy_out(&statement).await?);
            let mut found = None;
            while let Some(line) = lines.next().await {
                found = Some(line?);
            }
            Ok(found)
        };
        match asked.await {
            Ok(line) => line.map(|line| self.form.row(&line).ok_or_else(|| self.misfit())).transpose(),
            // Class 22: data exceptions.
            Err(error) if code_of(&error).starts_with("22") => {
                let back = sql.batch_execute("ROLLBACK TO SAVEPOINT named").await;
                back.map_err(|error| self.settings.failed(DOING, &error)).map(|()| None)
            }
            Err(error) => Err(self.settings.failed_reading(DOING, &error)),
        }
    }
}

fn code_of(error: &tokio_postgres::Error) -> &str {
    error.code().map(tokio_postgres::error::SqlState::code).unwrap_or_default()
}
