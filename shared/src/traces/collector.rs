//! An OpenTelemetry collector: takes spans as OTLP by HTTP, in protobuf.
//!
//! One connection for each request: at most one a second, and nothing to mend when the collector went. Fails with what may
//! pass (the same again later), or with a refusal (the same would be refused again).

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use prost::Message as _;
use thiserror::Error;

use super::config::TracesConfig;
use crate::http::client::{Client, default_port, host_and_port};
use crate::tls::TlsConfig;

/// An answer says how many spans were refused, and why in a few words.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why a collector did not take spans.
#[derive(Debug, Error)]
pub enum CollectorError {
    /// No connection, it broke, or no answer in time.
    #[error("collector {address} is out of reach: {problem}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// Why.
        problem: String,
    },
    /// It has too much to do.
    #[error("collector {address} answers {status}")]
    Busy {
        /// Host and port.
        address: String,
        /// Its answer.
        status: StatusCode,
    },
    /// It does not take what it was sent.
    #[error("collector {address} answers {status}; {hint}")]
    Refused {
        /// Host and port.
        address: String,
        /// Its answer.
        status: StatusCode,
        /// What to do.
        hint: &'static str,
    },
}

impl CollectorError {
    /// Whether the same may be taken later.
    pub(super) const fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Busy { .. } => true,
            Self::Refused { .. } => false,
        }
    }
}

/// Takes spans.
#[derive(Clone, Debug)]
pub(super) struct Collector {
    address: Uri,
    tls: TlsConfig,
}

impl Collector {
    /// `None` where the configuration has no address, which is reported when it is read.
    pub(super) fn new(config: &TracesConfig) -> Option<Self> {
        Some(Self { address: config.address()?, tls: config.tls.clone() })
    }

    /// Host and port.
    pub(super) fn name(&self) -> String {
        let (host, port) = host_and_port(&self.address, default_port(&self.address));
        format!("{host}:{port}")
    }

    /// Sends a request of the trace service; how many of its spans were refused.
    pub(super) async fn send(&self, body: Bytes) -> Result<u64, CollectorError> {
        let request = Request::post(TracesConfig::path(&self.address))
            .header(CONTENT_TYPE, "application/x-protobuf")
            .header(USER_AGENT, concat!("syncline/", env!("CARGO_PKG_VERSION")));
        let asked = async {
            let mut client = Client::connect(&self.address, default_port(&self.address), &self.tls).await?;
            client.ask(request, body, ANSWER_BYTES_MAX).await
        };
        let (status, answer) = asked.await.map_err(|error| self.unreachable(&error.to_string()))?;
        let hint = match status {
            status if status.is_success() => {
                // An answer that does not read is one without refusals.
                let refused = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
                return Ok(refused.and_then(|refused| refused.rejected_spans.try_into().ok()).unwrap_or_default());
            }
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => return Err(CollectorError::Busy { address: self.name(), status }),
            status if status.is_redirection() => "set url of [traces] to where it moved",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "look at cert_file of tls in [traces]",
            StatusCode::NOT_FOUND => "look at the path of url in [traces]; collectors take spans at /v1/traces",
            _ => "look at its log; it has to take OTLP by HTTP in protobuf",
        };
        Err(CollectorError::Refused { address: self.name(), status, hint })
    }

    /// An error of a connection.
    pub(super) fn unreachable(&self, problem: &str) -> CollectorError {
        CollectorError::Unreachable { address: self.name(), problem: problem.to_owned() }
    }
}
