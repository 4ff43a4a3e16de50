//! What is wrong with a configuration: every table by itself, and how they refer to each other.

use std::collections::{BTreeMap, BTreeSet};

use syncline_consumer::config::{SubscriptionConfig, TargetConfig};
use syncline_producer::share::Share;
use syncline_shared::config::{Document, QueueConfig};
use syncline_shared::script::SyntaxError;
use syncline_shared::seal::sealed_bytes_max;

use super::{PartialConfig, Role};

impl PartialConfig {
    /// Reports everything, so that one run tells all there is to mend. Opens no connection.
    pub(super) fn validate(&self, document: &mut Document<'_>, role: Role) {
        if let Some(queue) = &self.queue {
            document.report("queue", queue.validate());
        }
        if matches!(role, Role::Producer | Role::Both) {
            self.validate_producer(document);
        }
        if matches!(role, Role::Consumer | Role::Both) {
            self.validate_consumer(document);
        }
    }

    fn validate_producer(&self, document: &mut Document<'_>) {
        document.report("producer", self.producer.validate());
        document.report("producer.batch", self.producer.batch.validate());
        document.report("producer.publish", self.producer.publish.validate());
        document.report("producer.bulk", self.producer.bulk.validate());
        self.validate_message_sizes(document);
        for (name, source) in &self.sources {
            document.report(&format!("source.{name}"), source.validate(name));
            for (key, text) in source.tables().validate() {
                document.problem(&format!("source.{name}.{key}"), text);
            }
        }
        for (name, share) in &self.shares {
            let path = format!("share.{name}");
            document.report(&path, share.validate());
            if let Err(error) = share.compile_script() {
                report_script(document, &format!("{path}.before_share"), &error);
            }
            refer(document, &format!("{path}.source"), "source", &share.source, self.sources.keys());
            refer(document, &format!("{path}.queue"), "shared_queue", &share.queue, self.shared_queues.keys());
            self.refer_key(document, &format!("{path}.key"), share.key.as_deref());
            for (number, problem) in share.validate_routes() {
                document.report(&format!("{path}.route.{number}"), [problem]);
            }
            for (number, route) in (1..).zip(&share.route) {
                let (path, queue) = (format!("{path}.route.{number}"), share.queue_of(route));
                refer(document, &format!("{path}.queue"), "shared_queue", queue, self.shared_queues.keys());
                self.refer_key(document, &format!("{path}.key"), route.key.as_deref());
            }
            if share.interactive_only && self.sources.get(&share.source).is_some_and(|source| !source.tells_sessions())
            {
                let text = format!(
                    "is true (the default), but source {source} cannot tell persons from jobs, so no change would ever \
                     leave; set session = {{ user_column = \"..\" }} in [source.{source}], or interactive_only = false",
                    source = share.source
                );
                document.problem(&format!("{path}.interactive_only"), text);
            }
        }
        self.validate_tables_of_shares(document);
        self.validate_bulk(document);
        if self.shares.is_empty() {
            document.problem("share", "nothing is shared: write [share.NAME]");
        }
    }

    /// Reports a key that is not there.
    fn refer_key(&self, document: &mut Document<'_>, path: &str, key: Option<&str>) {
        if let Some(key) = key
            && self.keyring.get(key).is_none()
        {
            document.problem(path, format!("there is no usable [key.\"{key}\"]"));
        }
    }

    /// Every batch must fit a message of the broker, whatever its share seals with.
    fn validate_message_sizes(&self, document: &mut Document<'_>) {
        let Some(QueueConfig::Rabbitmq(queue)) = &self.queue else { return };
        let limits = [
            ("batch.batch_bytes_max", self.producer.batch.batch_bytes_max),
            ("publish.record_bytes_max", self.producer.publish.record_bytes_max),
        ];
        for (field, plain) in limits {
            let sealed = sealed_bytes_max(plain);
            if sealed > queue.message_bytes_max {
                let text = format!(
                    "{plain} bytes may take {sealed} once sealed, more than message_bytes_max of [queue] ({}); lower this, \
                     or raise that",
                    queue.message_bytes_max
                );
                document.problem(&format!("producer.{field}"), text);
            }
        }
    }

    /// Records of two shares of one table have the same keys and versions: where both arrive, a target would take the
    /// second for a repetition of the first.
    fn validate_tables_of_shares(&self, document: &mut Document<'_>) {
        let mut taken: BTreeMap<(&str, String, &str), &str> = BTreeMap::new();
        for (name, share) in &self.shares {
            // What is wrong with a share by itself was reported.
            let Ok(compiled) = Share::compile(name.as_str(), share) else { continue };
            for queue in share.queues().collect::<BTreeSet<_>>() {
                for table in compiled.tables_leaving() {
                    if let Some(other) = taken.insert((&share.source, table.to_string(), queue), name) {
                        let text = format!(
                            "share {other} sends table {table} to the same shared queue, {queue}; a table has one share for \
                             each shared queue"
                        );
                        document.problem(&format!("share.{name}.queue"), text);
                    }
                }
            }
        }
    }

    fn validate_consumer(&self, document: &mut Document<'_>) {
        document.report("consumer", self.consumer.validate());
        for (name, target) in &self.targets {
            let problems = match target {
                TargetConfig::Postgres(target) => target.validate(),
                TargetConfig::Sqlite(target) => target.validate(),
            };
            document.report(&format!("target.{name}"), problems);
        }
        let mut taken: BTreeMap<&str, &str> = BTreeMap::new();
        for (name, subscription) in &self.subscriptions {
            let path = format!("subscription.{name}");
            document.report(&path, subscription.validate());
            refer(document, &format!("{path}.queue"), "shared_queue", &subscription.queue, self.shared_queues.keys());
            refer(document, &format!("{path}.target"), "target", &subscription.target, self.targets.keys());
            if let Some(other) = taken.insert(&subscription.queue, name) {
                let text = format!("subscription {other} reads the same queue; a shared queue has one subscription");
                document.problem(&format!("{path}.queue"), text);
            }
            validate_columns(document, &path, subscription);
            validate_scripts(document, &path, subscription);
        }
        if self.subscriptions.is_empty() {
            document.problem("subscription", "nothing is applied: write [subscription.NAME]");
        }
    }
}

/// Reports a script that is none, at its place.
fn report_script(document: &mut Document<'_>, path: &str, SyntaxError { line, column, problem }: &SyntaxError) {
    let place = |number: &u32| usize::try_from(*number).unwrap_or(usize::MAX);
    document.problem_within(path, (place(line), place(column)), &format!("is no JavaScript: {problem}"));
}

/// What is wrong with what is said of scripts for each table.
fn validate_scripts(document: &mut Document<'_>, path: &str, subscription: &SubscriptionConfig) {
    for (table, config) in &subscription.table {
        let path = format!("{path}.table.{table}");
        document.report(&path, config.validate());
        match config.compile_script() {
            Err(error) => report_script(document, &format!("{path}.before_subscribe"), &error),
            Ok(Some(script)) if script.asks_for_changes() => {
                let text = "asks what changed (changes, changesTo, changesFrom or previous), which no message tells; ask in \
                            before_share of the share, and have that set a column to look at here";
                document.problem(&format!("{path}.before_subscribe"), text);
            }
            Ok(_) => {}
        }
    }
}

/// Two columns cannot go into one.
fn validate_columns(document: &mut Document<'_>, path: &str, subscription: &SubscriptionConfig) {
    for (table, config) in &subscription.table {
        let mut taken = BTreeMap::new();
        for (column, into) in config.columns.iter().flatten() {
            if let Some(other) = taken.insert(into, column) {
                let text = format!("goes into {into}, as column {other} does; each column of the target once");
                document.problem(&format!("{path}.table.{table}.columns.{column}"), text);
            }
        }
    }
}

/// Reports a name that nothing has.
pub(super) fn refer<'a>(
    document: &mut Document<'_>,
    path: &str,
    table: &str,
    name: &str,
    known: impl Iterator<Item = &'a String> + Clone,
) {
    // One that is written but does not fit was reported itself.
    if known.clone().any(|one| one == name) || document.writes(&format!("{table}.{name}")) {
        return;
    }
    let known: Vec<_> = known.map(String::as_str).collect();
    let accepted =
        if known.is_empty() { "there is none".to_owned() } else { format!("accepted: {}", known.join(", ")) };
    document.problem(path, format!("there is no [{table}.{name}]; {accepted}"));
}
