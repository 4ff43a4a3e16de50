# Servers of one test's own: to kill, freeze, fill up and start with settings that would disturb others. Part of
# tests/services, which knows how to run a server; called by tests/kit/server.rs.
#
#   tests/services private make postgres|rabbitmq|smtp NAME [DISK]   prints its folder, url and api, one `name=value` a line
#   tests/services private start NAME [SETTING ...]             starts it and waits until it answers; again after a stop
#   tests/services private stop|kill|freeze|thaw|remove NAME    SIGINT or SIGTERM | SIGKILL | SIGSTOP | SIGCONT
#   tests/services private run NAME COMMAND ...                 psql, rabbitmqctl, openssl ... as the server's user
#
# A SETTING is `name=value` for PostgreSQL and a line of rabbitmq.conf for RabbitMQ; ports and data stay the same through
# restarts. The server sees FOLDER/data as /data and owns what is in it. DISK (`64m`) is the size of a file system of its
# own at /data/small, for a tablespace that is to run full.
# smtp is a mail server (OpenSMTPD) with TLS: `url` takes it from the first byte, `api` by STARTTLS. It wants the files
# cert.pem and key.pem in FOLDER/data, lets the user syncline_test log in, and keeps all mails in FOLDER/data/mail/new.
# It has one spool, so there is one at a time.
# The names of two RabbitMQ nodes of one cluster are NAME@localhost; the cookie is the same for all.
#
# They come from the Debian root alone, whatever the shared services come from. A server whose maker (the process that
# called `make`) is gone is removed by the next `make`, `up` or `down`.

private() {
  local command=${1:-} name=${2:-}
  case $command in
    make) make_private "${@:2}" ;;
    start | stop | kill | freeze | thaw | remove | run) choose_private "$name"; "${command}_private" "${@:3}" ;;
    *) sed -n '/^$/q; s/^# \{0,1\}//p' "$top/tests/private.sh" >&2; exit 64 ;;
  esac
}

make_private() { # KIND NAME [DISK]
  local kind=$1 name=$2 disk=${3:-}
  debian_will_do || die "a server of the test's own needs Debian, root and the right to mount; this test cannot run here"
  lock
  [ -f "$root/.complete" ] || build_root
  remove_private leftover
  here=$state/private/$name
  mkdir -p "$here/data" "$here/log"
  echo "$kind" >"$here/kind"
  # The maker is who called this script.
  echo "$PPID" >"$here/maker"
  choose_private_ports
  if [ -n "$disk" ]; then mkdir "$here/data/small" && mount -t tmpfs -o size="$disk" small "$here/data/small"; fi
  read_secret
  case $kind in
    postgres) copy_postgres ;;
    rabbitmq) mkdir "$here/data/rabbitmq" && printf %s "$secret" >"$here/data/rabbitmq/.erlang.cookie" ;;
    smtp) install_smtp && mkdir "$here/data/mail" ;;
  esac
  choose_private "$name"
  own_data
  printf '%s\n' "folder=$here" "url=${urls[0]}" "api=${urls[1]:-}"
}

# Free now, and not of a private server that is down for the moment. Below those of the shared services.
choose_private_ports() {
  local base
  until base=$((10000 + RANDOM % 1000 * 10)); ports_free "$base" && ! grep -qxs "$base" "$state"/private/*/ports; do :; done
  echo "$base" >"$here/ports"
}

# A copy of data that was made once: a second instead of several.
copy_postgres() {
  local there=$here
  here=$state/private-template
  if [ ! -f "$here/data/postgres/PG_VERSION" ]; then mkdir -p "$here/data"; make_postgres; fi
  cp -a --reflink=auto "$here/data/postgres" "$there/data/"
  here=$there
}

# The one server only few tests need; a root that was built without it gets it here.
install_smtp() {
  [ -x "$root/usr/sbin/smtpd" ] && return
  say "installing OpenSMTPD into the Debian root, once"
  inside root sh -c 'apt-get update -qq -o Acquire::Retries=3 && DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends -o Acquire::Retries=3 opensmtpd' >"$state/log/smtp.log" 2>&1 ||
    { tail "$state/log/smtp.log" >&2; die "OpenSMTPD could not be installed"; }
}

# Sets `here`, `kind`, `node`, ports and urls to those of a private server.
choose_private() {
  here=$state/private/$1 node=$1
  kind=$(cat "$here/kind" 2>/dev/null) || die "there is no private server $1"
  read_secret
  take_ports "$(cat "$here/ports")"
  # One for all nodes: a node that is killed must not take the port mapper of another one with it.
  epmd_port=$(cat "$state/private-epmd/ports" 2>/dev/null || true)
  local me=syncline_test:$secret@127.0.0.1
  case $kind in
    postgres) urls=("postgres://$me:$postgres_port/postgres") ;;
    rabbitmq) urls=("amqp://$me:$amqp_port/%2f" "http://$me:$api_port") ;;
    smtp) urls=("smtps://$me:$amqp_port" "smtp://$me:$api_port") ;;
  esac
}

# Files a test put there become the server's own.
own_data() {
  case $kind in
    postgres) inside root chown -R postgres: /data ;;
    rabbitmq) chmod 400 "$here/data/rabbitmq/.erlang.cookie"; inside root chown -R rabbitmq: /data ;;
    smtp) inside root chown -R root: /data; inside root chown -R nobody: /data/mail ;;
  esac
}

start_private() { # [SETTING ...]
  local setting
  own_data
  started=()
  case $kind in
    postgres)
      postgres_settings=(-c wal_level=logical)
      for setting; do postgres_settings+=(-c "$setting"); done
      start_postgres ;;
    rabbitmq)
      start_epmd
      rabbitmq_settings=("$@")
      start_rabbitmq ;;
    smtp) start_smtp ;;
  esac
  case $kind in
    smtp) question=(greets "$api_port") ;;
    *) question=(ask "${urls[@]}") ;;
  esac
  await $patience servers_run && return
  tail -n 30 "$here/log/$kind.log" >&2 || true
  die "private server $node did not come up: $why"
}

start_smtp() {
  inside root smtpctl encrypt "$secret" | sed 's/^/syncline_test:/' >"$here/data/users"
  cat >"$here/data/smtpd.conf" <<C
pki test cert "/data/cert.pem"
pki test key "/data/key.pem"
table users file:/data/users
table anyone { "@" = nobody }
listen on 127.0.0.1 port $amqp_port smtps pki test auth <users>
listen on 127.0.0.1 port $api_port tls-require pki test auth <users>
action keep maildir "/data/mail" virtual <anyone>
match from auth for any action keep
C
  serve smtp root smtpd -d -f /data/smtpd.conf
}

start_epmd() {
  local there=$here
  lock
  here=$state/private-epmd
  if ! pid_of epmd >/dev/null; then
    mkdir -p "$here/data" "$here/log"
    choose_private_ports
    serve epmd rabbitmq epmd -address 127.0.0.1 -port "$(cat "$here/ports")"
    started=()
    until [ -s "$here/epmd.pid" ] && ! ports_free "$(cat "$here/ports")"; do sleep 0.05; done
  fi
  epmd_port=$(cat "$here/ports")
  here=$there
  exec 9>&- # unlocks
}

stop_private() { stop "$kind" "$([ "$kind" = postgres ] && echo INT || echo TERM)"; }
kill_private() { stop "$kind" KILL; }
freeze_private() { signal_private STOP; }
thaw_private() { signal_private CONT; }

# Reaches every process of the server: they share a PID namespace.
signal_private() { # SIGNAL
  local pid space process
  pid=$(pid_of "$kind") || die "private server $node does not run"
  space=$(readlink "/proc/$pid/ns/pid")
  for process in /proc/[0-9]*; do
    if [ "$(readlink "$process/ns/pid")" = "$space" ]; then kill -"$1" "${process#/proc/}" 2>/dev/null || true; fi
  done
}

run_private() { # COMMAND ...
  case $kind in
    postgres) inside postgres PGHOST=/data/postgres PGPORT="$postgres_port" PGUSER=syncline_test PGPASSWORD="$secret" \
      PGDATABASE=postgres "$@" ;;
    rabbitmq) inside rabbitmq HOME=/data/rabbitmq RABBITMQ_NODENAME="$node@localhost" ERL_EPMD_PORT="$epmd_port" "$@" ;;
  esac
}

# Removes one server, those without a maker, or all of them and what they share.
remove_private() { # [leftover | all]
  local folder which=${1:-this} was=$here
  case $which in
    this) discard_private; return ;;
    leftover) for folder in "$state"/private/*/; do
        here=${folder%/}
        if [ ! -d "/proc/$(cat "$here/maker" 2>/dev/null || echo none)" ]; then discard_private; fi
      done ;;
    all) for folder in "$state"/private/*/; do here=${folder%/}; discard_private; done
      here=$state/private-epmd
      stop epmd KILL
      rm -rf "$here" ;;
  esac
  here=$was
}

discard_private() {
  [ -d "$here" ] || return 0
  stop postgres KILL
  stop rabbitmq KILL
  stop smtp KILL
  while mountpoint -q "$here/data/small"; do umount "$here/data/small"; done
  rm -rf "$here"
}
