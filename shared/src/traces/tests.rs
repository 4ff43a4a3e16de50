//! Spans up to the bytes that a collector gets.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as Code;
use prost::Message as _;
use tokio::task::JoinSet;

use super::*;
use crate::class::Class;
use crate::envelope::{Envelope, Header, Message, Route, TRACEPARENT};
use crate::record::Action;
use crate::seal::{Seal, seal};

const GRACE: Duration = Duration::from_secs(20);

/// A collector that answers with these statuses, then with 200.
#[derive(Clone, Default)]
struct Desk {
    statuses: Arc<Mutex<VecDeque<u16>>>,
    taken: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Desk {
    async fn open(statuses: &[u16]) -> (Self, SocketAddr, JoinSet<()>) {
        let desk = Self { statuses: Arc::new(Mutex::new(statuses.to_vec().into())), ..Self::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/v1/traces", post(take)).with_state(desk.clone());
        let mut open = JoinSet::new();
        open.spawn(async move { axum::serve(listener, router).await.unwrap() });
        (desk, address, open)
    }

    fn spans(&self) -> Vec<Span> {
        let taken = self.taken.lock().unwrap();
        let resources = taken.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|one| &one.scope_spans).flat_map(|one| &one.spans).cloned().collect()
    }
}

async fn take(State(desk): State<Desk>, body: Bytes) -> StatusCode {
    let status = desk.statuses.lock().unwrap().pop_front().unwrap_or(200);
    if status == 200 {
        desk.taken.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
    }
    StatusCode::from_u16(status).unwrap()
}

fn config(address: SocketAddr) -> TracesConfig {
    TracesConfig { url: format!("http://{address}"), sample_ratio: 1.0, service_name: None, tls: Default::default() }
}

fn begin(config: &TracesConfig, registry: &Registry) -> (Traces, TaskGroup) {
    let mut tasks = TaskGroup::default();
    let maker = Maker { service: "producer", system: RABBITMQ, grace: GRACE };
    (start(&mut tasks, config, maker, registry).unwrap(), tasks)
}

/// Ends as a service does: nobody makes spans any more.
async fn end(tasks: TaskGroup) {
    tasks.run(async {}, GRACE).await.unwrap();
}

fn envelope() -> Envelope {
    let route = Route {
        source: "desk".to_owned(),
        share: "incidents".to_owned(),
        table: "incident".to_owned(),
        action: Action::Update,
        partition: 3,
        records: 7,
        origin: Vec::new(),
    };
    seal(&Seal::Plain, route, b"zqvalue\n").unwrap()
}

fn settled<'m>(message: &'m Message, receipt: Receipt, dead_letters: u32) -> Settled<'m> {
    let at = Timestamp::now();
    Settled { queue: "crm", partition: 3, subscription: "crm", message, receipt, at, dead_letters }
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|one| one.key == name)?.value.clone()?.value?;
    if let Value::IntValue(number) = value {
        return Some(number.to_string());
    }
    let Value::StringValue(text) = value else { panic!("{value:?}") };
    Some(text)
}

fn counted(registry: &Registry, outcome: &str) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|family| family.name() == "syncline_traces_spans_total").unwrap();
    let of = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|label| label.value() == outcome);
    family.get_metric().iter().find(of).unwrap().get_counter().get_value()
}

#[tokio::test]
async fn both_ends_of_a_batch_are_one_trace() {
    let (desk, address, _open) = Desk::open(&[]).await;
    let registry = Registry::new();
    let (traces, tasks) = begin(&config(address), &registry);
    let since: Timestamp = "2026-11-22T08:15:30.123456Z".parse().unwrap();
    let mut envelope = envelope();
    let publishing = traces.publishing("crm", &mut envelope, since);
    let message = envelope.to_message();
    publishing.confirmed(false);
    let receipt = Receipt::now();
    traces.settled(&settled(&message, receipt, 0));
    drop(traces);
    end(tasks).await;

    let spans = desk.spans();
    let [sent, applied] = spans.as_slice() else { panic!("{spans:?}") };
    assert_eq!((sent.name.as_str(), applied.name.as_str()), ("publish crm", "apply crm"));
    assert_eq!((sent.kind(), applied.kind()), (SpanKind::Producer, SpanKind::Consumer));
    assert!(sent.parent_span_id.is_empty() && sent.trace_id == applied.trace_id);
    assert_eq!(applied.parent_span_id, sent.span_id);
    assert_eq!(i128::from(sent.start_time_unix_nano), since.as_nanosecond());
    assert!(sent.start_time_unix_nano < sent.end_time_unix_nano);
    assert!(applied.start_time_unix_nano <= applied.end_time_unix_nano);
    for span in &spans {
        let told = |name: &str| attribute(span, name).unwrap_or_default();
        assert_eq!(told("messaging.system"), "rabbitmq");
        assert_eq!(told("messaging.destination.name"), "crm.3");
        assert_eq!(told("messaging.batch.message_count"), "7");
        assert_eq!(told("messaging.message.id"), message.message_id.clone().unwrap());
        assert_eq!([told("syncline.share"), told("syncline.table")], ["incidents", "incident"]);
        assert_eq!(span.status.clone().unwrap().code(), Code::Unset);
        assert_eq!(attribute(span, "error.type"), None);
    }
    assert_eq!(attribute(sent, "messaging.rabbitmq.destination.routing_key").as_deref(), Some("incident.update.3"));
    assert_eq!((counted(&registry, "sent"), counted(&registry, "dropped")), (2.0, 0.0));
    let resource = desk.taken.lock().unwrap()[0].resource_spans[0].resource.clone().unwrap();
    assert!(format!("{resource:?}").contains("syncline-producer"));
    assert!(!format!("{:?}", desk.taken.lock().unwrap()).contains("zqvalue"));
}

#[tokio::test]
async fn what_is_no_context_begins_a_trace_of_its_own() {
    let (desk, address, _open) = Desk::open(&[]).await;
    let (traces, tasks) = begin(&config(address), &Registry::new());
    let strange = [Header::Text("00-zz-zz-01".to_owned()), Header::Int(1), Header::List(Vec::new())];
    for header in strange {
        let mut message = envelope().to_message();
        message.headers.insert(TRACEPARENT.to_owned(), header);
        // Nobody has opened it, and anybody may have written it.
        message.headers.insert("share".to_owned(), Header::Text("x".repeat(10_000)));
        traces.settled(&settled(&message, Receipt::now(), 0));
    }
    drop(traces);
    end(tasks).await;
    let spans = desk.spans();
    assert_eq!(spans.len(), 3);
    assert!(spans.iter().all(|span| span.parent_span_id.is_empty() && attribute(span, "syncline.share").is_none()));
}

#[tokio::test]
async fn what_went_wrong_is_told_by_its_class() {
    let (desk, address, _open) = Desk::open(&[]).await;
    let (traces, tasks) = begin(&config(address), &Registry::new());
    let begin = || traces.publishing("crm", &mut envelope(), Timestamp::now());
    let mut again = begin();
    again.failed(Class::Systemic);
    again.failed(Class::Transient);
    again.confirmed(false);
    begin().confirmed(true);
    drop(begin());
    let message = envelope().to_message();
    let mut receipt = Receipt::now();
    receipt.failed(Class::Systemic);
    traces.settled(&settled(&message, receipt, 0));
    traces.settled(&settled(&message, receipt, 2));
    drop(traces);
    end(tasks).await;
    let told = |span: &Span| {
        let of = |name: &str| attribute(span, name).unwrap_or_default();
        assert_eq!(span.status.clone().unwrap().code(), Code::Error);
        format!("{} {} {}", of("error.type"), of("syncline.attempts"), of("syncline.dead_letters"))
    };
    let told: Vec<_> = desk.spans().iter().map(told).collect();
    assert_eq!(told, ["transient 3 ", "permanent  1", "unfinished  ", "systemic 2 ", "permanent 2 2"]);
}

#[tokio::test]
async fn a_trace_that_is_not_sampled_is_so_at_both_ends() {
    let (desk, address, _open) = Desk::open(&[]).await;
    let (traces, tasks) = begin(&TracesConfig { sample_ratio: f64::MIN_POSITIVE, ..config(address) }, &Registry::new());
    let mut envelope = envelope();
    traces.publishing("crm", &mut envelope, Timestamp::now()).confirmed(false);
    let message = envelope.to_message();
    let Some(Header::Text(context)) = message.headers.get(TRACEPARENT) else { panic!("no context") };
    assert!(context.ends_with("-00"), "{context}");
    // Even one that would sample everything.
    let (all, other) = begin(&config(address), &Registry::new());
    all.settled(&settled(&message, Receipt::now(), 0));
    drop((traces, all));
    end(tasks).await;
    end(other).await;
    assert_eq!(desk.spans().len(), 0);
}

#[tokio::test]
async fn a_busy_collector_gets_them_later_and_a_refusal_is_not_repeated() {
    let (desk, address, _open) = Desk::open(&[503, 503, 400]).await;
    let registry = Registry::new();
    let (traces, tasks) = begin(&config(address), &registry);
    let one = || traces.publishing("crm", &mut envelope(), Timestamp::now()).confirmed(false);
    one();
    let until = async |outcome: &str, count: f64| {
        while counted(&registry, outcome) < count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The third answer refuses it.
    until("dropped", 1.0).await;
    one();
    until("sent", 1.0).await;
    drop(traces);
    end(tasks).await;
    assert_eq!(desk.spans().len(), 1);
    assert_eq!((counted(&registry, "sent"), counted(&registry, "dropped")), (1.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_hangs_bounds_what_is_held_and_the_end() {
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = Registry::new();
    let (traces, tasks) = begin(&config(silent.local_addr().unwrap()), &registry);
    let made = 2 * export::BUFFER_SPANS;
    for _ in 0..made {
        traces.publishing("crm", &mut envelope(), Timestamp::now()).confirmed(false);
    }
    let dropped = counted(&registry, "dropped");
    assert_eq!(dropped, (made - export::BUFFER_SPANS) as f64, "the buffer holds so many");
    drop(traces);
    let begun = tokio::time::Instant::now();
    end(tasks).await;
    assert!(begun.elapsed() < GRACE / 2, "{:?}", begun.elapsed());
    assert_eq!(counted(&registry, "dropped"), made as f64, "all are counted");
}

#[tokio::test(start_paused = true)]
async fn whoever_keeps_making_spans_does_not_keep_the_service() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (_traces, tasks) = begin(&config(silent.local_addr().unwrap()), &Registry::new());
    end(tasks).await;
}

#[tokio::test]
async fn a_check_says_what_to_mend() {
    let (_, address, _open) = Desk::open(&[200, 200, 401]).await;
    assert!(check(&config(address)).await.is_ok());
    let of = |path: &str| TracesConfig { url: format!("http://{address}{path}"), ..config(address) };
    let wrong = check(&of("/elsewhere")).await.unwrap_err().to_string();
    assert!(wrong.contains("404") && wrong.contains("look at the path of url"), "{wrong}");
    assert!(check(&config(address)).await.is_ok());
    let refused = check(&config(address)).await.unwrap_err().to_string();
    assert!(refused.contains("401") && refused.contains("cert_file"), "{refused}");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = check(&config(gone)).await.unwrap_err().to_string();
    assert!(gone.starts_with(&format!("collector {}", gone.split(' ').nth(1).unwrap())), "{gone}");
    assert!(gone.contains("out of reach"), "{gone}");
}
