//! Brings spans to the collector, in a task of its own, behind a bounded buffer.
//!
//! The pipeline hands a span over and never waits: what finds no room is dropped and counted. A collector that is away is
//! tried again with growing waits, while the buffer holds the oldest spans; it is told once when that begins and once when
//! it is over. At the shutdown what is there is sent, if the collector takes it at once. Never ends a service.

use std::convert::Infallible;
use std::time::Duration;

use hyper::body::Bytes;
use opentelemetry::Context;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};
use prometheus::IntCounter;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::collector::{Collector, CollectorError};
use crate::retry::Backoff;
use crate::tasks::Stop;

/// Spans that wait to be sent, about 4 MiB: as many as other programs hold (it is the SDKs' default).
pub(super) const BUFFER_SPANS: usize = 2048;
/// Spans of one request, the SDKs' default too.
pub(super) const SEND_SPANS_MAX: usize = 512;
/// How long the first span waits for others: a trace is to be seen soon after its batch.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// Connecting, sending and the answer.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// The same once the service is stopping.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between attempts to reach a collector.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// The end of the buffer that spans go into.
#[derive(Debug)]
pub(super) struct Buffer {
    spans: mpsc::Sender<SpanData>,
    dropped: IntCounter,
}

/// A buffer: its two ends.
pub(super) fn buffer(dropped: IntCounter) -> (Buffer, mpsc::Receiver<SpanData>) {
    let (sender, receiver) = mpsc::channel(BUFFER_SPANS);
    (Buffer { spans: sender, dropped }, receiver)
}

impl SpanProcessor for Buffer {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.dropped.inc();
        }
    }

    // What is left is sent by the exporter, which ends when the last of those is gone that make spans.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what comes out of the buffer.
pub(super) struct Exporter {
    pub(super) spans: mpsc::Receiver<SpanData>,
    pub(super) collector: Collector,
    pub(super) resource: ResourceAttributesWithSchema,
    pub(super) sent: IntCounter,
    pub(super) dropped: IntCounter,
    /// While spans cannot be sent: how many had been dropped before.
    pub(super) outage: Option<u64>,
}

impl Exporter {
    /// Runs until nobody makes spans any more, or nine tenths of the grace period are over: the rest is for others.
    pub(super) async fn run(mut self, stop: Stop, grace: Duration) -> Result<(), Infallible> {
        let (mut stopping, mut stopped) = (stop.clone(), stop.clone());
        let late = async {
            stopping.wait().await;
            sleep(grace.mul_f64(0.9)).await;
        };
        let left = tokio::select! {
            left = self.work(stop) => left,
            () = late => 0,
        };
        self.spans.close();
        let left = left + self.spans.len() as u64;
        self.dropped.inc_by(left);
        if left > 0 {
            tracing::warn!(collector = self.collector.name(), dropped = left, "spans were not sent before the end");
        }
        // Only then an end is no fault.
        stopped.wait().await;
        Ok(())
    }

    /// Sends spans until there can be no more; those of the last request, where it failed during the shutdown.
    async fn work(&mut self, mut stop: Stop) -> u64 {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        while let Some(spans) = self.gather().await {
            let count = spans.len() as u64;
            let request = group_spans_by_resource_and_scope(spans, &self.resource);
            let body = Bytes::from(ExportTraceServiceRequest { resource_spans: request }.encode_to_vec());
            while let Err(error) = self.send(count, body.clone(), &mut stop).await {
                self.failed(&error);
                if stop.is_set() {
                    return count;
                }
                if !error.may_pass() {
                    self.dropped.inc_by(count);
                    break;
                }
                stop.or(backoff.wait()).await;
            }
            backoff.reset();
        }
        0
    }

    /// What is there within a short time of the first span; `None` when there can be no more.
    async fn gather(&mut self) -> Option<Vec<SpanData>> {
        let mut spans = vec![self.spans.recv().await?];
        let others = async {
            while spans.len() < SEND_SPANS_MAX
                && let Some(span) = self.spans.recv().await
            {
                spans.push(span);
            }
        };
        // Late or not, what came is sent.
        let _ = timeout(SEND_INTERVAL, others).await;
        Some(spans)
    }

    async fn send(&mut self, count: u64, body: Bytes, stop: &mut Stop) -> Result<(), CollectorError> {
        let patience = async {
            if stop.or(sleep(SEND_TIMEOUT)).await.is_none() {
                sleep(FLUSH_TIMEOUT).await;
            }
        };
        let refused = tokio::select! {
            sent = self.collector.send(body) => sent?,
            () = patience => return Err(self.collector.unreachable("it does not answer")),
        };
        self.sent.inc_by(count.saturating_sub(refused));
        self.dropped.inc_by(refused);
        if let Some(before) = self.outage.take() {
            let dropped = self.dropped.get().saturating_sub(before);
            tracing::info!(collector = self.collector.name(), dropped, "spans are sent again");
        }
        Ok(())
    }

    /// Tells of an outage when it begins.
    fn failed(&mut self, error: &CollectorError) {
        if self.outage.is_none() {
            self.outage = Some(self.dropped.get());
            let collector = self.collector.name();
            tracing::warn!(collector, %error, "spans cannot be sent; what finds no room in the buffer is dropped");
        }
    }
}
