//! What an operator looks at: the dashboards of `deploy/grafana`, held against a real Prometheus that looks at real services.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::kit::prometheus::Prometheus;
use crate::kit::{eventually, eventually_some, service};
use crate::postgres::Path;

const ITEM: &str = "CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL)";
const SHARE: &str = "[share.items]\nsource = \"desk\"\ntable = \"item\"\nqueue = \"crm\"\nkey = \"aes\"\ninteractive_only = false\ninitial = \"copy\"\n";

const DASHBOARDS: [(&str, &str); 4] = [
    ("overview", include_str!("../deploy/grafana/dashboards/overview.json")),
    ("producer", include_str!("../deploy/grafana/dashboards/producer.json")),
    ("consumer", include_str!("../deploy/grafana/dashboards/consumer.json")),
    ("rabbitmq", include_str!("../deploy/grafana/dashboards/rabbitmq.json")),
];

fn dashboards() -> impl Iterator<Item = (&'static str, Value)> {
    DASHBOARDS.into_iter().map(|(name, text)| (name, serde_json::from_str(text).unwrap()))
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

/// Every query of the dashboards, with what it is of and whether it asks for one moment, as Grafana would send it.
fn queries(vhost: &str) -> Vec<(String, bool, String)> {
    let mut queries = Vec::new();
    for (name, dashboard) in dashboards() {
        for variable in list(&dashboard["templating"]["list"]) {
            let query = variable["query"]["query"].as_str().unwrap();
            let metric = query.strip_prefix("label_values(").unwrap().split(',').next().unwrap();
            queries.push((format!("{name}, variable {}", variable["name"]), true, metric.to_owned()));
        }
        for panel in list(&dashboard["panels"]) {
            for target in list(&panel["targets"]) {
                let text = target["expr"].as_str().unwrap();
                let text = text.replace("$__rate_interval", "15s").replace("$vhost", vhost);
                assert!(!text.replace("\"$1\"", "").contains('$'), "{name}, {}: an unknown variable", panel["title"]);
                queries.push((format!("{name}, {}", panel["title"]), target["instant"] == true, text));
            }
        }
    }
    // By which Kubernetes decides how many consumers there are.
    let adapter = include_str!("../deploy/kubernetes/prometheus-adapter.yaml");
    let (_, query) = adapter.split_once("metricsQuery: >-\n").unwrap();
    queries.push(("prometheus-adapter".to_owned(), true, query.to_owned()));
    queries
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_of_the_dashboards_finds_something_in_a_real_prometheus() {
    let path = Path::create(ITEM, ITEM, SHARE, "").await;
    path.source.run("INSERT INTO item SELECT n, 0 FROM generate_series(1, 64) n").await;
    let (mut producer, mut consumer) = (path.producer(), path.consumer());
    let address = |service: &crate::kit::process::Service| service.address();
    let of_producer = eventually_some("the producer listens", async || address(&producer)).await;
    let of_consumer = eventually_some("the consumer listens", async || address(&consumer)).await;
    let rabbitmq = service("SYNCLINE_TEST_RABBITMQ_METRICS");
    let prometheus = Prometheus::start(
        path.folder.path(),
        &[
            ("producer", &of_producer),
            ("consumer", &of_consumer),
            ("rabbitmq", rabbitmq.strip_prefix("http://").unwrap().trim_end_matches('/')),
        ],
    );
    let mut open = queries(&path.vhost.name);
    assert!(open.len() > 60, "{}", open.len());
    // Records flow meanwhile, so that rates are of something.
    eventually("what still finds nothing", Vec::<String>::new(), async || {
        path.source.run("UPDATE item SET n = n + 1").await;
        open.retain(|(_, instant, query)| prometheus.series(query, *instant).is_none_or(|series| series == 0));
        open.iter().map(|(what, _, query)| format!("{what}: {query}")).collect()
    })
    .await;
    assert!(producer.stop().success() && consumer.stop().success());
}

#[test]
fn dashboards_show_the_state_first_and_say_of_everything_what_it_is() {
    let source = include_str!("../deploy/grafana/provisioning/datasources/prometheus.yml");
    let mut boards = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(boards.insert(dashboard["uid"].to_string()), "{name}: two of one uid");
        let mut taken = BTreeSet::new();
        let mut ids = BTreeSet::new();
        for panel in list(&dashboard["panels"]) {
            let what = format!("{name}, {}", panel["title"]);
            for text in [&panel["title"], &panel["description"], &panel["fieldConfig"]["defaults"]["unit"]] {
                assert!(text.as_str().is_some_and(|text| !text.is_empty()), "{what}");
            }
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{what}: two of one id");
            for of in std::iter::once(panel).chain(list(&panel["targets"])) {
                let uid = of["datasource"]["uid"].as_str().unwrap();
                assert!(source.contains(&format!("uid: {uid}\n")), "{what}: {uid}");
            }
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
            assert!(x + w <= 24, "{what} is wider than the page");
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert!(taken.insert(place), "{what} lies over another");
            }
            assert_eq!(panel["type"] == "stat", y == 0, "{what}: numbers of the state are the first row");
        }
    }
}
