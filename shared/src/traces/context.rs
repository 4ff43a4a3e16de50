//! The context of a trace as text: `traceparent` of W3C Trace Context, level 1. Pure.
//!
//! Whoever can publish can write anything here. What is not of the form is no context, and never an error.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// `00-<trace id>-<span id>-<flags>`, all in lower case.
const TEXT_LEN: usize = 55;

/// The text of a span's context.
pub(super) fn write(context: &SpanContext) -> String {
    let flags = context.trace_flags() & TraceFlags::SAMPLED;
    format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
}

/// The context of the span that sent a message; `None` for what is none. Later versions may have more behind it.
pub(super) fn read(text: &str) -> Option<SpanContext> {
    let (head, more) = text.split_at_checked(TEXT_LEN)?;
    let mut parts = head.split('-');
    let mut part = |len: usize| parts.next().filter(|part| part.len() == len && part.bytes().all(is_lower_hex));
    let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
    let is_whole = match version {
        "ff" => false,
        "00" => more.is_empty(),
        _ => more.is_empty() || more.starts_with('-'),
    };
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    (is_whole && context.is_valid()).then_some(context)
}

const fn is_lower_hex(byte: u8) -> bool {
    byte.is_ascii_digit() || matches!(byte, b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The example of the recommendation.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written() {
        let context = read(EXAMPLE).expect("a context");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(write(&context), EXAMPLE);
        let unsampled = EXAMPLE.replace("-01", "-00");
        assert_eq!(read(&unsampled).map(|context| write(&context)), Some(unsampled));
        // Flags of a later level are dropped, what a later version adds is left aside.
        assert_eq!(read(&EXAMPLE.replace("-01", "-03")).map(|context| write(&context)).as_deref(), Some(EXAMPLE));
        assert!(read(&format!("01{}-more", &EXAMPLE[2..])).is_some());
    }

    #[test]
    fn what_is_not_of_the_form_is_no_context() {
        let zeros = |from: &str| EXAMPLE.replace(from, &"0".repeat(from.len()));
        let strange = [
            String::new(),
            EXAMPLE.to_uppercase(),
            EXAMPLE[..54].to_owned(),
            format!("{EXAMPLE}-more"),
            format!("ff{}", &EXAMPLE[2..]),
            format!("01{}more", &EXAMPLE[2..]),
            EXAMPLE.replace('-', "_"),
            EXAMPLE.replace("4bf9", "+bf9"),
            zeros("4bf92f3577b34da6a3ce929d0e0e4736"),
            zeros("00f067aa0ba902b7"),
            "ü".repeat(28),
        ];
        for text in strange {
            assert_eq!(read(&text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_reading_panic(text in ".{0,80}") {
            let _ = read(&text);
        }
    }
}
