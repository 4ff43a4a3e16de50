//! What a source remembers in its own database, in the table `syncline.state`.
//!
//! It lives beside the slot, so that both are lost or restored together.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_postgres::Client;

use super::connect::Settings;
use super::table::{Job, Place, Table};
use crate::source::{SourceError, WatchedTable};

/// Creates what an application and this source need in the database. The lock lets two sources start at once.
const CREATE: &str = "
    BEGIN;
    SELECT pg_advisory_xact_lock(hashtext('syncline.state'));
    CREATE SCHEMA IF NOT EXISTS syncline;
    GRANT USAGE ON SCHEMA syncline TO PUBLIC;
    CREATE TABLE IF NOT EXISTS syncline.state (
        source text, key text, value jsonb NOT NULL, PRIMARY KEY (source, key)
    );
    CREATE OR REPLACE FUNCTION syncline.session(interactive boolean, app_user text) RETURNS void LANGUAGE sql AS $$
        SELECT pg_logical_emit_message(
            true, 'syncline', json_build_object('interactive', interactive, 'user', app_user)::text)
    $$;
    COMMIT";

/// Which server's log the versions count, and the number that makes a new log newer than the one before.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Epoch {
    pub(super) system_id: String,
    pub(super) timeline: u32,
    pub(super) epoch: u32,
}

/// A watched table as it was last followed; no oid while it is awaited.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Followed {
    pub(super) oid: Option<u32>,
    /// The key its records were sent under.
    pub(super) key: Vec<String>,
    /// The place of the log its last copy for everyone is of.
    pub(super) copied_to: u64,
    /// Whether it was not there when last looked for.
    pub(super) missing: bool,
}

impl Followed {
    pub(super) fn of(table: &Table) -> Self {
        Self { oid: Some(table.oid), key: table.key.clone(), copied_to: 0, missing: false }
    }

    /// Why this table's records are others than those that were sent.
    pub(super) fn differs(&self, table: &Table) -> Option<String> {
        let (oid, name) = (self.oid?, &table.name);
        if oid != table.oid {
            return Some(format!("the table {name} was dropped and made anew"));
        }
        let keys = || (self.key.join(", "), table.key.join(", "));
        (self.key != table.key)
            .then(keys)
            .map(|(old, new)| format!("the key of the table {name} was ({old}), it is ({new})"))
    }
}

/// A `TRUNCATE` the source came to, and whether somebody let it pass.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Truncated {
    pub(super) place: Place,
    pub(super) passed: bool,
}

/// The slot that was made for this source.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Slot {
    name: String,
}

/// A source's rows of the state table.
#[derive(Debug, Default)]
pub(super) struct State {
    rows: HashMap<String, String>,
}

impl State {
    /// Creates the schema, the table and the function applications call, unless they are there.
    pub(super) async fn ensure(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
        let doing = "creating the schema syncline";
        if !Self::exists(settings, sql).await? {
            sql.batch_execute(CREATE).await.map_err(|error| settings.failed(doing, &error))?;
        }
        Ok(())
    }

    /// Whether the schema, the table and the function are there.
    pub(super) async fn exists(settings: &Settings, sql: &Client) -> Result<bool, SourceError> {
        let query = "SELECT to_regclass('syncline.state') IS NOT NULL
            AND to_regprocedure('syncline.session(boolean,text)') IS NOT NULL";
        let row = sql.query_one(query, &[]).await.map_err(|error| settings.failed("looking for the state", &error))?;
        Ok(row.get(0))
    }

    /// Reads the source's rows, but for the notes of bulk shares.
    pub(super) async fn read(settings: &Settings, sql: &Client) -> Result<Self, SourceError> {
        let query = "SELECT key, value::text FROM syncline.state WHERE source = $1 AND key NOT LIKE 'bulk:%'";
        let rows = sql.query(query, &[&settings.source]).await;
        let rows = rows.map_err(|error| settings.failed("reading the state", &error))?;
        Ok(Self { rows: rows.iter().map(|row| (row.get(0), row.get(1))).collect() })
    }

    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.get("epoch")
    }

    /// Whether the slot was made before.
    pub(super) fn knows_slot(&self, name: &str) -> bool {
        self.get::<Slot>("slot").is_some_and(|slot| slot.name == name)
    }

    pub(super) fn followed(&self, table: &str) -> Option<Followed> {
        self.get(&table_key(table))
    }

    pub(super) fn truncated(&self, table: &str) -> Option<Truncated> {
        self.get(&truncated_key(table))
    }

    pub(super) fn is_copied(&self, table: &str, share: &str) -> bool {
        self.rows.contains_key(&copy_key(table, share))
    }

    fn get<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.rows.get(key).and_then(|json| serde_json::from_str(json).ok())
    }

    /// Fails unless no other source has made this slot.
    pub(super) async fn owns_slot(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
        let query = "SELECT source FROM syncline.state WHERE key = 'slot' AND value->>'name' = $1 AND source <> $2";
        let other = sql.query_opt(query, &[&settings.slot, &settings.source]).await;
        match other.map_err(|error| settings.failed("reading the state", &error))? {
            None => Ok(()),
            Some(row) => Err(SourceError::Unfit {
                problem: format!("the slot {} belongs to the source {}", settings.slot, row.get::<_, String>(0)),
                mend: format!("slot = \"another_name\" in the source {}", settings.source),
            }),
        }
    }

    pub(super) async fn put_epoch(settings: &Settings, sql: &Client, epoch: &Epoch) -> Result<(), SourceError> {
        put(settings, sql, "epoch", epoch).await
    }

    pub(super) async fn put_slot(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
        put(settings, sql, "slot", &Slot { name: settings.slot.clone() }).await
    }

    pub(super) async fn put_followed(
        settings: &Settings,
        sql: &Client,
        table: &str,
        followed: &Followed,
    ) -> Result<(), SourceError> {
        put(settings, sql, &table_key(table), followed).await
    }

    pub(super) async fn put_truncated(
        settings: &Settings,
        sql: &Client,
        table: &str,
        truncated: &Truncated,
    ) -> Result<(), SourceError> {
        put(settings, sql, &truncated_key(table), truncated).await
    }

    /// Forgets the slot and every copy, and awaits every followed table again, in a new epoch: all at once, or not at all.
    pub(super) async fn begin_anew(settings: &Settings, sql: &Client, epoch: u32) -> Result<(), SourceError> {
        let statement = "WITH
            begun AS (UPDATE syncline.state SET value = jsonb_set(value, '{epoch}', to_jsonb($2::int8))
                       WHERE source = $1 AND key = 'epoch'),
            awaited AS (UPDATE syncline.state SET value = $3::text::jsonb WHERE source = $1 AND key LIKE 'table:%')
            DELETE FROM syncline.state
             WHERE source = $1 AND (key = 'slot' OR key LIKE 'copied:%' OR key LIKE 'truncated:%')";
        let awaited = serde_json::to_string(&Followed::default()).unwrap_or_default();
        let written = sql.execute(statement, &[&settings.source, &i64::from(epoch), &awaited]).await;
        written.map(drop).map_err(|error| settings.failed("writing the state", &error))
    }

    /// Forgets the tables and copies of shares that are gone: should they come back, they have missed changes.
    pub(super) async fn forget_others(settings: &Settings, sql: &Client) -> Result<(), SourceError> {
        let of_table = |watched: &WatchedTable| {
            let copies = watched.copy_for.iter().map(|share| copy_key(&watched.table, share));
            copies.chain([table_key(&watched.table), truncated_key(&watched.table)]).collect::<Vec<_>>()
        };
        let wanted: Vec<_> = settings.tables.iter().flat_map(of_table).collect();
        let statement = "DELETE FROM syncline.state
            WHERE source = $1 AND key ~ '^(table|copied|truncated):' AND key <> ALL ($2)";
        let forgotten = sql.execute(statement, &[&settings.source, &wanted]).await;
        forgotten.map(drop).map_err(|error| settings.failed("writing the state", &error))
    }

    /// Remembers that a copy is safe elsewhere. Idempotent.
    pub(super) async fn put_copied(settings: &Settings, sql: &Client, job: &Job) -> Result<(), SourceError> {
        let table = &job.table;
        for share in &job.shares {
            put(settings, sql, &copy_key(&table.name, share), &true).await?;
        }
        if job.everyone {
            let followed = Followed { copied_to: job.copied_to, ..Followed::of(table) };
            Self::put_followed(settings, sql, &table.name, &followed).await?;
        }
        Ok(())
    }
}

fn table_key(table: &str) -> String {
    format!("table:{table}")
}

fn truncated_key(table: &str) -> String {
    format!("truncated:{table}")
}

fn copy_key(table: &str, share: &str) -> String {
    format!("copied:{table}:{share}")
}

async fn put<T: Serialize + Sync>(settings: &Settings, sql: &Client, key: &str, value: &T) -> Result<(), SourceError> {
    let json = serde_json::to_string(value).unwrap_or_default();
    let statement = "INSERT INTO syncline.state (source, key, value) VALUES ($1, $2, $3::text::jsonb)
        ON CONFLICT (source, key) DO UPDATE SET value = excluded.value";
    let written = sql.execute(statement, &[&settings.source, &key, &json]).await;
    written.map(drop).map_err(|error| settings.failed("writing the state", &error))
}
