//! A small OpenTelemetry collector: takes spans as OTLP by HTTP, in protobuf, and keeps them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
pub use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
pub use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;

use super::certificates::Authority;
use super::listener::Listener;

/// Listens until the process ends.
pub struct Collector {
    listener: Listener,
    /// What it is reached by: the scheme, and the authority to trust.
    scheme: &'static str,
    ca_file: Option<PathBuf>,
}

/// A span, with what its process calls itself.
#[derive(Clone, Debug)]
pub struct Span {
    pub service: String,
    pub span: opentelemetry_proto::tonic::trace::v1::Span,
}

impl Span {
    /// An attribute as text; empty where there is none.
    pub fn told(&self, name: &str) -> String {
        text(&self.span.attributes, name)
    }

    /// Whether its status is an error.
    pub fn is_error(&self) -> bool {
        self.span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error)
    }
}

impl Collector {
    pub fn start() -> Self {
        Self { listener: Listener::start(&[]), scheme: "http", ca_file: None }
    }

    /// The same over TLS, with a certificate of an authority of its own in a folder.
    pub fn start_tls(folder: &Path) -> Self {
        let authority = Authority::create(folder, "collector");
        let listener = Listener::start_tls(&authority.server("127.0.0.1"));
        Self { listener, scheme: "https", ca_file: Some(authority.ca_file) }
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.address
    }

    /// `[traces]` for it.
    pub fn config(&self) -> String {
        let tls = self.ca_file.as_ref().map(|file| format!("tls = {{ ca_file = \"{}\" }}\n", file.display()));
        format!("[traces]\nurl = \"{}://{}\"\n{}", self.scheme, self.address(), tls.unwrap_or_default())
    }

    /// All that came so far, in its order.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        for request in self.listener.heard() {
            assert_eq!(request.line, "POST /v1/traces HTTP/1.1");
            assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
            for resource in ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap().resource_spans {
                let service = text(&resource.resource.unwrap_or_default().attributes, "service.name");
                let scopes = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
                spans.extend(scopes.map(|span| Span { service: service.clone(), span }));
            }
        }
        spans
    }

    /// Everything as text, to look for what must not be there.
    pub fn said(&self) -> String {
        self.listener.heard().iter().map(|heard| String::from_utf8_lossy(&heard.body).into_owned()).collect()
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let value = attributes.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value);
    let Some(value) = value else { return String::new() };
    if let Value::IntValue(number) = value {
        return number.to_string();
    }
    let Value::StringValue(text) = value else { panic!("{value:?}") };
    text
}
