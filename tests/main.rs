//! End-to-end tests: the real binary against real RabbitMQ and PostgreSQL. Run them with `tests/run`.
#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "a test fails by panicking")]
#![expect(unreachable_pub, reason = "one binary, and tests are named after what they claim")]

mod bad_input;
mod bounds;
mod broker;
mod bulk;
mod chaos;
mod check;
mod classes;
mod columns;
mod command_line;
mod compare;
mod dead_letters;
mod demo;
mod displays;
mod examples;
mod filters;
mod jobs;
mod kit;
mod logs;
mod manifests;
mod metrics;
mod monitoring;
mod permissions;
mod postgres;
mod private_broker;
mod private_notify;
mod private_runbooks;
mod private_servers;
mod private_source;
mod private_tls_postgres;
mod private_tls_rabbitmq;
mod repair;
mod replicas;
mod rotation;
mod rules;
mod runbooks;
mod schema;
mod scripts;
mod secrets;
mod shares;
mod sqlite;
mod target_faults;
mod trace;
mod traces;
mod wire;
