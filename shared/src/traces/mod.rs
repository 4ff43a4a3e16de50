//! Spans for OpenTelemetry: one where a batch is published, one where it is applied, both in one trace.
//!
//! Knows messages and their clear properties, and nothing of records. Whoever has no [`Traces`] makes no span and writes no
//! header. A collector holds up nothing and ends nothing: `export.rs` says how.

mod collector;
mod config;
mod context;
mod export;
mod span;
#[cfg(test)]
mod tests;

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::ResourceSpans;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanLimits};
use prometheus::Registry;
use prost::Message as _;

pub use self::collector::CollectorError;
pub use self::config::TracesConfig;
pub use self::span::{Publishing, RABBITMQ, Receipt, Settled};

use self::collector::Collector;
use self::export::Exporter;
use crate::metrics;
use crate::tasks::TaskGroup;

/// How long a check waits for an answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes spans. Cheap to clone; when the last one is gone, what is left is sent and the exporter ends.
#[derive(Clone, Debug)]
pub struct Traces {
    tracer: SdkTracer,
    /// `messaging.system`.
    system: &'static str,
}

/// Who makes spans.
#[derive(Clone, Copy, Debug)]
pub struct Maker {
    /// The command: `producer`, `consumer` or `up`.
    pub service: &'static str,
    /// The kind of broker, as `messaging.system`.
    pub system: &'static str,
    /// How long the service has from the signal to its end.
    pub grace: Duration,
}

/// Starts the task that sends spans. What it returns is for the pipelines; nobody else may keep it.
///
/// # Errors
/// A metric of that name exists already.
pub fn start(
    tasks: &mut TaskGroup,
    config: &TracesConfig,
    maker: Maker,
    registry: &Registry,
) -> Result<Traces, prometheus::Error> {
    let help = "Spans by what became of them";
    let spans = metrics::counter(registry, "syncline_traces_spans_total", help, &["outcome"])?;
    let [sent, dropped] = ["sent", "dropped"].map(|outcome| spans.with_label_values(&[outcome]));
    let Some(collector) = Collector::new(config) else { unreachable!("checked on loading") };
    let resource = resource(config, maker.service);
    let (buffer, spans) = export::buffer(dropped.clone());
    let exporter = Exporter {
        spans,
        collector,
        resource: ResourceAttributesWithSchema::from(&resource),
        sent,
        dropped,
        outage: None,
    };
    let run = exporter.run(tasks.stop(), maker.grace);
    tasks.spawn("traces", run);
    // All that the SDK would otherwise ask the environment for is given.
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio))))
        .with_span_limits(SpanLimits::default())
        .with_resource(resource)
        .with_span_processor(buffer)
        .build();
    Ok(Traces { tracer: provider.tracer("syncline"), system: maker.system })
}

/// Sends a request without spans to the collector.
///
/// # Errors
/// [`CollectorError`].
pub async fn check(config: &TracesConfig) -> Result<(), CollectorError> {
    let Some(collector) = Collector::new(config) else { unreachable!("checked on loading") };
    let late = |_| Err(collector.unreachable("it does not answer"));
    let request = ExportTraceServiceRequest { resource_spans: vec![ResourceSpans::default()] };
    let asked = Box::pin(collector.send(request.encode_to_vec().into()));
    tokio::time::timeout(CHECK_TIMEOUT, asked).await.unwrap_or_else(late).map(drop)
}

/// What all spans of a process are of.
fn resource(config: &TracesConfig, service: &str) -> Resource {
    let name = config.service_name.clone().unwrap_or_else(|| format!("syncline-{service}"));
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    Resource::builder_empty()
        .with_service_name(name)
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host),
        ])
        .build()
}
