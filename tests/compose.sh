#!/usr/bin/env bash
# The stack of docker-compose.yml, tried as an operator would: tests/run compose
#
# Tests the rules of Prometheus, brings everything up under a name and ports of its own, changes records, scales consumers
# from one to four and to two, kills every part while records change, compares the CRM with the service desk, asks
# Prometheus, and takes everything away. Needs Docker with Compose, and the images docker-compose.yml and the Dockerfile
# name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\ncompose: %s\n' "$*" >&2; }
die() { say "FAILED: $*"; exit 1; }

docker compose version >/dev/null 2>&1 || die "docker compose is needed; install Docker with its Compose plug-in"
export COMPOSE_PROJECT_NAME=syncline-test-$$
# Empty: whatever port is free.
export RABBITMQ_MANAGEMENT_PORT='' PROMETHEUS_PORT='' SYNCLINE_VERSION=test
dc() { docker compose --progress quiet "$@"; }

finish() {
  local result=$?
  if [ $result != 0 ]; then dc ps -a || true; dc logs --no-color --tail 40 || true; fi
  dc --profile load --profile tools down -v --timeout 5 || true
  exit $result
}
trap finish EXIT

desk() { dc exec -T servicedesk psql -qAt -v ON_ERROR_STOP=1 -U postgres -d servicedesk "$@"; }
crm() { dc exec -T crm psql -qAt -v ON_ERROR_STOP=1 -U postgres -d crm "$@"; }

# What a person does, as the application would do it.
person() { desk >/dev/null -c "BEGIN; SELECT syncline.session(true, 'abel.tuter'); $1; COMMIT"; }

# Waits until a command succeeds.
eventually() { # WHAT COMMAND..
  local what=$1 end=$((SECONDS + 120)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not within two minutes: $what"; sleep 0.5; done
  say "$what"
}

in_step() {
  local shared="SELECT number, short_description, priority, state FROM incident WHERE priority <= 3 OR category = 'security' ORDER BY 1"
  diff <(desk -c "$shared") <(crm -c "SELECT case_number, subject, priority, status FROM support_case ORDER BY 1") &&
    diff <(desk -c "SELECT user_name, name, email, active FROM sys_user ORDER BY 1") \
      <(crm -c "SELECT user_name, name, email, active FROM contact ORDER BY 1")
}

# Whether each partition has an owner and all other replicas stand by. Names decide who owns what, and they are random:
# that all partitions go to one of four is the one thing that does not happen.
replicas() { # NUMBER
  local status; status=$(dc run --rm -T operator --json queue status)
  python3 - "$1" "$status" <<'PY'
import json, sys
number, partitions = int(sys.argv[1]), json.loads(sys.argv[2])[0]["partitions"]
owners = {one["owner"] for one in partitions}
known = None not in owners and all(one["standby"] == number - 1 for one in partitions)
sys.exit(0 if known and (number < 4 or len(owners) > 1) else 1)
PY
}

# Ends a container's program as a crash would.
crash() { kill -9 "$(docker inspect -f '{{.State.Pid}}' "$1")"; }

ask_prometheus() { # QUERY; its values
  local address; address=$(dc port prometheus 9090)
  curl -fsS --get "http://$address/api/v1/query" --data-urlencode "query=$1"
}
prometheus_says() { # QUERY PYTHON-CONDITION on `values`
  ask_prometheus "$1" | python3 -c "
import json, sys
values = [float(one['value'][1]) for one in json.load(sys.stdin)['data']['result']]
sys.exit(0 if ($2) else 1)"
}

healthy() { # every container with a health check says so
  local states; states=$(dc ps -q | xargs docker inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}healthy{{end}}')
  [ -n "$states" ] && [ "$(sort -u <<<"$states")" = healthy ]
}

say "the rules of Prometheus, held against made-up series"
docker run --rm -v ./deploy/prometheus:/rules:ro --entrypoint promtool prom/prometheus:v3.1.0 test rules /rules/rules.test.yml
say "building"
dc build producer
docker run --rm --entrypoint cat syncline:test /usr/share/sbom/syncline.cdx.json |
  python3 -c 'import json, sys; assert any(one["name"] == "rustls" for one in json.load(sys.stdin)["components"])' ||
  die "the image does not say what it is made of"
say "starting everything"
dc up -d --wait --wait-timeout 300
healthy || die "not everything is healthy"
eventually "the rows that were there are copied" in_step
person "UPDATE incident SET short_description = 'VPN drops' WHERE priority = 2;
  DELETE FROM incident WHERE number = 'INC0000001';
  INSERT INTO incident (number, short_description, priority) VALUES ('INC0009001', 'Printer is out of toner', 1)"
eventually "an update, a delete and an insert arrived" in_step

dc up -d --wait --no-recreate --scale consumer=4
eventually "four consumers share the partitions" replicas 4
person "UPDATE incident SET short_description = 'four of them'"
eventually "in step with four" in_step
dc up -d --wait --no-recreate --scale consumer=2
eventually "two consumers share the partitions" replicas 2

say "killing every part while agents work"
dc --profile load up -d --wait --no-recreate --scale consumer=2
for service in producer consumer rabbitmq servicedesk crm consumer producer; do
  mapfile -t containers < <(dc ps -q "$service")
  crash "${containers[0]}"
  say "$service was killed"
  sleep 5
done
dc stop load
eventually "everything is healthy again" healthy
eventually "in step after all that" in_step
dead=$(dc run --rm -T operator --json dead-letter list)
[ "$(python3 -c 'import json,sys; print(len(json.loads(sys.argv[1])))' "$dead")" = 0 ] || die "dead letters: $dead"

eventually "Prometheus sees every service" prometheus_says 'up' 'len(values) == 5 and min(values) == 1'
eventually "Prometheus knows how far behind each share is" prometheus_says 'syncline:share_lag_seconds' 'len(values) >= 1 and max(values) < 60'
eventually "no alert fires" prometheus_says 'count(ALERTS{alertstate="firing",severity="page"}) or vector(0)' 'values == [0]'
crash "$(dc ps -q producer)" && dc stop producer
eventually "an alert says that no producer runs" prometheus_says 'ALERTS{alertname="SynclineNoProducer",alertstate="firing"}' 'values == [1]'

say "stopping: every service ends by itself"
dc start producer && eventually "the producer is back" healthy
dc stop producer consumer
for container in $(dc ps -aq producer consumer); do
  code=$(docker inspect -f '{{.State.ExitCode}}' "$container")
  [ "$code" = 0 ] || die "a service ended with $code"
done
say "passed"
