//! `syncline config schema`: what an editor needs to complete and check a configuration, made from the types that read it.

use std::collections::BTreeMap;

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;
use syncline_consumer::config::{ConsumerConfig, SubscriptionConfig, TargetConfig};
use syncline_producer::bulk::{GroupConfig, ScheduleConfig};
use syncline_producer::config::{ProducerConfig, SourceConfig};
use syncline_producer::share::ShareConfig;
use syncline_shared::config::{KeyConfig, QueueConfig, SharedQueueConfig};
use syncline_shared::notify::NotifyConfig;
use syncline_shared::traces::TracesConfig;

/// Configuration of Syncline: the tables of producer and consumer, in one file or in one for each.
#[derive(JsonSchema)]
#[schemars(title = "Syncline", deny_unknown_fields)]
#[expect(dead_code, reason = "its shape alone is of use")]
struct Tables {
    queue: QueueConfig,
    #[schemars(default)]
    key: BTreeMap<String, KeyConfig>,
    #[schemars(default)]
    shared_queue: BTreeMap<String, SharedQueueConfig>,
    producer: Option<ProducerConfig>,
    #[schemars(default)]
    source: BTreeMap<String, SourceConfig>,
    #[schemars(default)]
    share: BTreeMap<String, ShareConfig>,
    #[schemars(default)]
    bulk_group: BTreeMap<String, GroupConfig>,
    #[schemars(default)]
    schedule: BTreeMap<String, ScheduleConfig>,
    notify: Option<NotifyConfig>,
    traces: Option<TracesConfig>,
    consumer: Option<ConsumerConfig>,
    #[schemars(default)]
    target: BTreeMap<String, TargetConfig>,
    #[schemars(default)]
    subscription: BTreeMap<String, SubscriptionConfig>,
}

/// The JSON schema, draft 7: what editors of TOML take.
pub(crate) fn text() -> String {
    let settings = SchemaSettings::draft07().with_transform(RecursiveTransform(without_null));
    let schema = settings.into_generator().into_root_schema_for::<Tables>();
    format!("{:#}\n", schema.as_value())
}

/// Takes away what stands for a key that is left out: TOML has no null.
fn without_null(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            schema.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(any)) = schema.get_mut("anyOf") {
        any.retain(|one| one.get("type").is_none_or(|of| of != "null"));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn the_schema_has_the_tables_of_a_configuration() {
        let schema: serde_json::Value = serde_json::from_str(&super::text()).unwrap();
        let tables: BTreeSet<&str> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(tables, crate::config::TABLES.into());
    }
}
