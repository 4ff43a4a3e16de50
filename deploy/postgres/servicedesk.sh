#!/bin/bash
# The service desk: its tables, sample records, and a role that may read them and nothing else.
set -euo pipefail
psql=(psql -qv ON_ERROR_STOP=1 -U "$POSTGRES_USER" -d "$POSTGRES_DB")
"${psql[@]}" -f /syncline/servicedesk.sql
"${psql[@]}" -v password="$(cat /run/syncline/syncline_source)" <<'SQL'
CREATE ROLE syncline_source LOGIN REPLICATION PASSWORD :'password';
GRANT SELECT ON incident, sys_user TO syncline_source;
CREATE PUBLICATION syncline_servicedesk FOR TABLE incident, sys_user WITH (publish_via_partition_root = true);
CREATE SCHEMA syncline;
GRANT USAGE ON SCHEMA syncline TO PUBLIC;
CREATE TABLE syncline.state (source text, key text, value jsonb NOT NULL, PRIMARY KEY (source, key));
GRANT SELECT, INSERT, UPDATE, DELETE ON syncline.state TO syncline_source;
CREATE FUNCTION syncline.session(interactive boolean, app_user text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_logical_emit_message(
        true, 'syncline', json_build_object('interactive', interactive, 'user', app_user)::text)
$$;
SQL
