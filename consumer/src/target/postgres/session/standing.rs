//! What the target has of one record, for a person who asks.

use syncline_shared::record::{Row, Value, Version};
use tokio_postgres::SimpleQueryMessage;

use super::Session;
use crate::target::fold::key_name;
use crate::target::postgres::catalog::{self, Catalog};
use crate::target::postgres::sql;
use crate::target::{ApplyError, Standing, TableMap};

impl Session {
    /// Looks for the row, the tombstone and what is parked of a record; makes nothing where that is missing.
    pub(in crate::target::postgres) async fn standing(
        &self,
        table: &TableMap,
        key: &Row,
    ) -> Result<Standing, ApplyError> {
        let into = table.into.as_str();
        let failed = |cause| self.doing(into, &[]).failed(cause);
        let catalog = Catalog::read(&self.client, into).await.map_err(failed)?;
        let catalog = catalog.ok_or_else(|| catalog::missing_table(into, &[], &[]))?;
        let places = catalog.places(&[]);
        let version = if catalog.has(sql::VERSION) { sql::VERSION } else { "NULL::uuid" };
        let row = self.find(into, &format!("{} WHERE {}", places.table, same_key(table, key)), version).await?;
        let name = vec![key_name(key)];
        let mut standing = Standing { row, ..Standing::default() };
        if self.exists(&places.tombstones).await? {
            let of = format!("{} WHERE table_name = {} AND key = $1", places.tombstones, places.literal);
            let query = format!("SELECT replace(version::text, '-', '') FROM {of}");
            let buried = self.client.query_opt(&query, &[&name.first()]).await.map_err(failed)?;
            standing.deleted = buried.and_then(|row| row.get::<_, &str>(0).parse().ok());
        }
        if self.exists(&places.parked).await? {
            let parked = self.client.query(&places.parked(), &[&name]).await.map_err(failed)?;
            let parked = parked.iter().filter_map(|row| Some((row.get::<_, &str>(1).parse().ok()?, row.get(2))));
            standing.parked = parked.collect();
        }
        Ok(standing)
    }

    /// The version of the row there is. A key that is not of its column's type has none.
    async fn find(&self, into: &str, rows: &str, version: &str) -> Result<Option<Option<Version>>, ApplyError> {
        let query = format!("SELECT replace({version}::text, '-', '') FROM {rows} LIMIT 1");
        let messages = match self.client.simple_query(&query).await {
            Ok(messages) => messages,
            // Class 22: data exceptions.
            Err(error) if error.code().is_some_and(|code| code.code().starts_with("22")) => return Ok(None),
            Err(error) => return Err(self.doing(into, &[]).failed(error)),
        };
        let row = messages.into_iter().find_map(|message| {
            let SimpleQueryMessage::Row(row) = message else { return None };
            Some(row)
        });
        Ok(row.map(|row| row.get(0).and_then(|version| version.parse().ok())))
    }
}

/// The condition that a row has this key.
fn same_key(table: &TableMap, key: &Row) -> String {
    let equal = |(name, value): (&str, Value<'_>)| {
        let text = sql::literal(value.as_text().unwrap_or_default());
        let value = if matches!(value, Value::Bytes(_)) { format!("decode({text}, 'base64')") } else { text };
        format!("{} = {value}", sql::ident(table.column(name, true).unwrap_or(name)))
    };
    key.iter().map(equal).collect::<Vec<_>>().join(" AND ")
}
