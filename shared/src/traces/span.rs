//! What a span says: the conventions of OpenTelemetry for messaging, and the names of this program.

use std::time::SystemTime;

use jiff::Timestamp;
use opentelemetry::trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::Span;

use super::{Traces, context};
use crate::class::Class;
use crate::envelope::{Envelope, Header, Message, TRACEPARENT};

/// What clear properties may have in a span: who can publish can write anything into a message that is not opened yet.
const TEXT_BYTES_MAX: usize = 255;

/// `messaging.system` of the broker whose routing keys the conventions have a name for.
pub const RABBITMQ: &str = "rabbitmq";

/// `error.type` of a batch that came to no end.
const UNFINISHED: &str = "unfinished";

/// How often something failed, and how it did last.
#[derive(Clone, Copy, Debug, Default)]
struct Faults {
    count: u32,
    last: Option<Class>,
}

impl Faults {
    fn met(&mut self, class: Class) {
        self.count = self.count.saturating_add(1);
        self.last = Some(class);
    }
}

/// A batch on its way to the broker: from the commit of its oldest record to the confirm. Dropped before, its span says so.
#[derive(Debug)]
pub struct Publishing {
    span: Span,
    traces: Traces,
    faults: Faults,
    has_ended: bool,
}

/// When a message came, and what was met on its way: what its span is made from once it is settled.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    at: Timestamp,
    faults: Faults,
}

/// A message a consumer is done with.
#[derive(Clone, Copy, Debug)]
pub struct Settled<'a> {
    /// The shared queue.
    pub queue: &'a str,
    /// The partition it came from.
    pub partition: u32,
    /// The subscription.
    pub subscription: &'a str,
    /// As it came.
    pub message: &'a Message,
    /// When that was.
    pub receipt: Receipt,
    /// When the target had committed, or the dead letter was confirmed.
    pub at: Timestamp,
    /// How many dead letters it led to.
    pub dead_letters: u32,
}

impl Traces {
    /// Begins the span of a sealed batch for a shared queue, and writes its context into the envelope. `since` is when its
    /// oldest record was committed.
    #[must_use]
    pub fn publishing(&self, queue: &str, envelope: &mut Envelope, since: Timestamp) -> Publishing {
        let route = &envelope.route;
        let mut attributes = self.attributes(queue, route.partition, ["publish", "send"]);
        attributes.extend([
            KeyValue::new("messaging.batch.message_count", i64::from(route.records)),
            KeyValue::new("messaging.message.id", envelope.message_id.to_string()),
            KeyValue::new("messaging.message.body.size", size(&envelope.body)),
            KeyValue::new("syncline.source", route.source.clone()),
            KeyValue::new("syncline.share", route.share.clone()),
            KeyValue::new("syncline.table", route.table.clone()),
            KeyValue::new("syncline.action", route.action.as_str()),
        ]);
        if self.system == RABBITMQ {
            attributes.push(KeyValue::new("messaging.rabbitmq.destination.routing_key", envelope.routing_key()));
        }
        let builder = self.tracer.span_builder(format!("publish {queue}"));
        let builder =
            builder.with_kind(SpanKind::Producer).with_start_time(SystemTime::from(since)).with_attributes(attributes);
        let span = self.tracer.build_with_context(builder, &Context::new());
        envelope.traceparent = Some(context::write(span.span_context()));
        Publishing { span, traces: self.clone(), faults: Faults::default(), has_ended: false }
    }

    /// Makes the span of a message that is settled, below the one of its publishing if the message tells of it.
    pub fn settled(&self, settled: &Settled<'_>) {
        let Settled { queue, partition, subscription, message, receipt, at, dead_letters } = *settled;
        let mut attributes = self.attributes(queue, partition, ["apply", "process"]);
        attributes.extend([
            KeyValue::new("messaging.batch.message_count", i64::from(message.records())),
            KeyValue::new("messaging.message.body.size", size(&message.body)),
            KeyValue::new("syncline.subscription", subscription.to_owned()),
        ]);
        let clear =
            ["source", "share", "table", "action"].map(|name| (format!("syncline.{name}"), text(message, name)));
        let id = ("messaging.message.id".to_owned(), message.message_id.as_deref());
        let short =
            clear.into_iter().chain([id]).filter(|(_, text)| text.is_some_and(|text| text.len() <= TEXT_BYTES_MAX));
        attributes.extend(short.filter_map(|(name, text)| Some(KeyValue::new(name, text?.to_owned()))));
        let parent = text(message, TRACEPARENT).and_then(context::read);
        let parent = parent.map_or_else(Context::new, |sent| Context::new().with_remote_span_context(sent));
        let builder = self.tracer.span_builder(format!("apply {queue}")).with_kind(SpanKind::Consumer);
        let builder = builder.with_start_time(SystemTime::from(receipt.at)).with_attributes(attributes);
        let mut span = self.tracer.build_with_context(builder, &parent);
        conclude(&mut span, receipt.faults, dead_letters);
        span.end_with_timestamp(SystemTime::from(at));
    }

    /// What is said of both ends. The destination is the queue of the partition, which both of them know.
    fn attributes(&self, queue: &str, partition: u32, [name, kind]: [&'static str; 2]) -> Vec<KeyValue> {
        vec![
            KeyValue::new("messaging.system", self.system),
            KeyValue::new("messaging.operation.name", name),
            KeyValue::new("messaging.operation.type", kind),
            KeyValue::new("messaging.destination.name", format!("{queue}.{partition}")),
            KeyValue::new("messaging.destination.partition.id", partition.to_string()),
        ]
    }
}

impl Publishing {
    /// What made it, for a batch that takes its place.
    #[must_use]
    pub const fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The broker did not take it, and it is sent again.
    pub fn failed(&mut self, class: Class) {
        self.faults.met(class);
    }

    /// The broker confirmed it, as a batch or as a dead letter.
    pub fn confirmed(mut self, as_dead_letter: bool) {
        self.has_ended = true;
        conclude(&mut self.span, self.faults, u32::from(as_dead_letter));
        self.span.end();
    }
}

impl Drop for Publishing {
    fn drop(&mut self) {
        if !self.has_ended {
            fault(&mut self.span, UNFINISHED, "the broker did not confirm it as it was");
        }
    }
}

impl Receipt {
    /// For a message that just came.
    #[must_use]
    pub fn now() -> Self {
        Self { at: Timestamp::now(), faults: Faults::default() }
    }

    /// It could not be applied or opened, and is tried again.
    pub fn failed(&mut self, class: Class) {
        self.faults.met(class);
    }
}

/// Says what went wrong on the way, if anything did.
fn conclude(span: &mut Span, faults: Faults, dead_letters: u32) {
    if faults.count > 0 {
        span.set_attribute(KeyValue::new("syncline.attempts", i64::from(faults.count) + 1));
    }
    if dead_letters > 0 {
        span.set_attribute(KeyValue::new("syncline.dead_letters", i64::from(dead_letters)));
        fault(span, word(Class::Permanent), "records were set aside");
    } else if let Some(class) = faults.last {
        fault(span, word(class), "it took more than one attempt");
    }
}

fn fault(span: &mut Span, kind: &'static str, description: &'static str) {
    span.set_attribute(KeyValue::new("error.type", kind));
    span.set_status(Status::error(description));
}

const fn word(class: Class) -> &'static str {
    match class {
        Class::Transient => "transient",
        Class::Permanent => "permanent",
        Class::Systemic => "systemic",
    }
}

fn text<'m>(message: &'m Message, name: &str) -> Option<&'m str> {
    match message.headers.get(name) {
        Some(Header::Text(text)) => Some(text),
        Some(Header::Int(_) | Header::List(_)) | None => None,
    }
}

fn size(body: &[u8]) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}
