#!/bin/bash
# The CRM: its tables, and a role that may change them and nothing else.
set -euo pipefail
psql=(psql -qv ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB")
"${psql[@]}" -f /syncline/crm.sql
"${psql[@]}" -v password="$(cat /run/syncline/syncline_target)" <<'SQL'
CREATE ROLE syncline_target LOGIN PASSWORD :'password';
GRANT USAGE ON SCHEMA public TO syncline_target;
GRANT SELECT, INSERT, UPDATE, DELETE ON support_case, contact TO syncline_target;
ALTER TABLE support_case ADD COLUMN IF NOT EXISTS _syncline_version uuid;
ALTER TABLE contact ADD COLUMN IF NOT EXISTS _syncline_version uuid;
CREATE TABLE _syncline_tombstone (table_name text COLLATE "C", key text COLLATE "C",
    version uuid NOT NULL, deleted_at timestamptz NOT NULL, PRIMARY KEY (table_name, key));
CREATE TABLE _syncline_parked (table_name text COLLATE "C", key text COLLATE "C", version uuid,
    letter text NOT NULL, parked_at timestamptz NOT NULL, PRIMARY KEY (table_name, key, version));
CREATE TABLE _syncline_tries (message text PRIMARY KEY, tries integer NOT NULL, tried_at timestamptz NOT NULL);
GRANT SELECT, INSERT, UPDATE, DELETE ON _syncline_tombstone, _syncline_parked, _syncline_tries TO syncline_target;
SQL
