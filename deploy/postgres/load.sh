#!/bin/bash
# Agents at work: a few changes a second in the service desk, until it is stopped. Profile `load` of docker-compose.yml.
set -euo pipefail
trap 'exit 0' TERM INT
export PGPASSWORD; PGPASSWORD=$(cat /run/syncline/admin)
while :; do
  psql -qv ON_ERROR_STOP=1 -h servicedesk -U postgres -d servicedesk >/dev/null <<'SQL' || echo "the service desk is away" >&2
BEGIN;
SELECT syncline.session(true, 'abel.tuter');
UPDATE incident SET short_description = 'VPN drops since ' || to_char(now(), 'HH24:MI:SS'), sys_updated_on = now()
    WHERE number IN (SELECT number FROM incident ORDER BY random() LIMIT 5);
INSERT INTO incident (number, short_description, priority)
    VALUES ('INC' || to_char(clock_timestamp(), 'YYYYMMDDHH24MISSUS'), 'Printer on the third floor is out of toner', 2);
DELETE FROM incident WHERE number IN (SELECT number FROM incident WHERE number ~ '^INC20' ORDER BY number LIMIT 1 OFFSET 200);
COMMIT;
SQL
  sleep 0.2 & wait $!
done
