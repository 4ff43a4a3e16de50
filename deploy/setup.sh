#!/bin/sh
# Makes the secrets of the stack, once: a password for each user and the key records are sealed with, each into the volumes
# of the services that need it and of no other. Runs as the first service of docker-compose.yml.
set -eu
umask 022
dir=/run/syncline

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# Hexadecimal digits as the bytes they stand for.
unhex() {
  for byte in $(printf %s "$1" | sed 's/../& /g'); do
    # The format is the byte, as an octal escape.
    # shellcheck disable=SC2059
    printf "\\$(printf %03o "0x$byte")"
  done
}

# RabbitMQ's own form: base64 of a salt of 4 bytes and the SHA-256 of salt and password.
rabbit_hash() {
  salt=$(head -c 4 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
  sum=$({ unhex "$salt"; printf %s "$1"; } | sha256sum | cut -d' ' -f1)
  unhex "$salt$sum" | base64 -w0
}

if [ -e "$dir/broker/definitions.json" ]; then echo "the secrets are there already"; exit 0; fi

for user in producer consumer operator; do
  random >"$dir/$user/rabbitmq"
  eval "hash_$user=\$(rabbit_hash \"\$(cat \"$dir/$user/rabbitmq\")\")"
done
# hash_* are set above, by name.
# shellcheck disable=SC2154
cat >"$dir/broker/definitions.json.new" <<JSON
{
  "vhosts": [{ "name": "sync" }],
  "users": [
    { "name": "producer", "password_hash": "$hash_producer", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [] },
    { "name": "consumer", "password_hash": "$hash_consumer", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": [] },
    { "name": "operator", "password_hash": "$hash_operator", "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": ["monitoring"] }
  ],
  "permissions": [
    { "user": "producer", "vhost": "sync",
      "configure": "^(syncline\\\\.crm|crm\\\\.[0-9]+|crm\\\\.dead)$",
      "write": "^(syncline\\\\.crm|crm\\\\.[0-9]+|amq\\\\.default)$",
      "read": "^syncline\\\\.crm$" },
    { "user": "consumer", "vhost": "sync",
      "configure": "^(syncline\\\\.crm(\\\\.status)?|crm\\\\.[0-9]+|crm\\\\.dead|crm\\\\.status\\\\..+)$",
      "write": "^(syncline\\\\.crm\\\\.status|crm\\\\.[0-9]+|crm\\\\.status\\\\..+|amq\\\\.default)$",
      "read": "^(syncline\\\\.crm(\\\\.status)?|crm\\\\.[0-9]+|crm\\\\.status\\\\..+)$" },
    { "user": "operator", "vhost": "sync",
      "configure": "^$", "write": "^syncline\\\\.crm(\\\\.status)?$", "read": "^crm\\\\.dead$" }
  ]
}
JSON
for database in servicedesk crm; do random >"$dir/$database/admin"; done
random >"$dir/servicedesk/syncline_source" && cp "$dir/servicedesk/syncline_source" "$dir/producer/servicedesk"
random >"$dir/crm/syncline_target" && cp "$dir/crm/syncline_target" "$dir/consumer/crm"
random >"$dir/producer/key" && cp "$dir/producer/key" "$dir/consumer/key" && cp "$dir/producer/key" "$dir/operator/key"
# The volumes of RabbitMQ and PostgreSQL are theirs alone; which user they read with is up to their images.
chmod 444 "$dir"/broker/* "$dir"/servicedesk/* "$dir"/crm/*
chmod 400 "$dir"/producer/* "$dir"/consumer/* "$dir"/operator/*
# Last: whoever finds it finds everything.
mv "$dir/broker/definitions.json.new" "$dir/broker/definitions.json"
echo "the secrets are made"
