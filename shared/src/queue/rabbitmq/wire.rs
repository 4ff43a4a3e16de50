//! A [`Message`] as AMQP 0-9-1 properties, and back.
//!
//! Whatever a stranger puts on a queue becomes a message without a panic: header values of a type Syncline does not use
//! are left out, and parsing the envelope then says what is missing.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable, ShortString};

use crate::envelope::{Header, Message};
use crate::queue::PublishError;

/// Survives a restart of the broker.
const PERSISTENT: u8 = 2;
/// The broker's count of earlier deliveries, which is no part of the message.
const DELIVERY_COUNT: &str = "x-delivery-count";
/// The same, of brokers from 4.2 on: counts every hand-out, failed or not.
const ACQUIRED_COUNT: &str = "x-acquired-count";
/// AMQP 0-9-1 limit of property values, header names and routing keys.
const SHORT_BYTES_MAX: usize = 255;
/// All properties travel in one frame; brokers take frames of 128 KiB unless set lower.
const HEADER_BYTES_MAX: usize = 64 * 1024;

/// A property value or name.
///
/// # Errors
/// [`PublishError::TooLarge`] above 255 bytes.
pub(super) fn short(text: &str) -> Result<ShortString, PublishError> {
    let bytes = text.len();
    ShortString::try_new(text).map_err(|_| PublishError::TooLarge { bytes, bytes_max: SHORT_BYTES_MAX })
}

/// The properties to publish a message with.
///
/// # Errors
/// [`PublishError::TooLarge`] where the properties do not fit into a frame.
pub(super) fn properties(message: &Message) -> Result<BasicProperties, PublishError> {
    let mut headers = FieldTable::default();
    let mut bytes = 0;
    for (name, header) in &message.headers {
        bytes += name.len() + header_bytes(header);
        headers.insert(short(name)?, to_value(header));
    }
    if bytes > HEADER_BYTES_MAX {
        return Err(PublishError::TooLarge { bytes, bytes_max: HEADER_BYTES_MAX });
    }
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    if let Some(content_type) = &message.content_type {
        properties = properties.with_content_type(short(content_type)?);
    }
    if let Some(content_encoding) = &message.content_encoding {
        properties = properties.with_content_encoding(short(content_encoding)?);
    }
    if let Some(kind) = &message.kind {
        properties = properties.with_type(short(kind)?);
    }
    if let Some(message_id) = &message.message_id {
        properties = properties.with_message_id(short(message_id)?);
    }
    if let Some(timestamp) = message.timestamp {
        properties = properties.with_timestamp(timestamp);
    }
    if let Some(app_id) = &message.app_id {
        properties = properties.with_app_id(short(app_id)?);
    }
    Ok(properties)
}

/// A received message, and how often it was handed out before.
pub(super) fn message(properties: &BasicProperties, redelivered: bool, body: Vec<u8>) -> (Message, u32) {
    let text = |property: &Option<ShortString>| property.as_ref().map(ToString::to_string);
    let mut headers: std::collections::BTreeMap<_, _> = properties
        .headers()
        .iter()
        .flat_map(FieldTable::inner)
        .filter_map(|(name, value)| Some((name.to_string(), from_value(value)?)))
        .collect();
    headers.remove(ACQUIRED_COUNT);
    let counted = match headers.remove(DELIVERY_COUNT) {
        Some(Header::Int(count)) => u32::try_from(count).unwrap_or_default(),
        Some(Header::Text(_) | Header::List(_)) | None => 0,
    };
    let message = Message {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        kind: text(properties.kind()),
        message_id: text(properties.message_id()),
        timestamp: *properties.timestamp(),
        app_id: text(properties.app_id()),
        headers,
        body,
    };
    (message, counted.max(u32::from(redelivered)))
}

fn header_bytes(header: &Header) -> usize {
    match header {
        Header::Int(_) => size_of::<i64>(),
        Header::Text(text) => text.len(),
        Header::List(texts) => texts.iter().map(|text| text.len() + size_of::<u32>()).sum(),
    }
}

fn to_value(header: &Header) -> AMQPValue {
    let text = |text: &String| AMQPValue::LongString(text.as_str().into());
    match header {
        Header::Int(number) => AMQPValue::LongLongInt(*number),
        Header::Text(words) => text(words),
        Header::List(texts) => AMQPValue::FieldArray(FieldArray::from(texts.iter().map(text).collect::<Vec<_>>())),
    }
}

/// `None` for what is no integer, UTF-8 text or list of texts.
fn from_value(value: &AMQPValue) -> Option<Header> {
    match value {
        AMQPValue::ShortShortInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::ShortShortUInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::ShortInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::ShortUInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::LongInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::LongUInt(number) => Some(Header::Int(i64::from(*number))),
        AMQPValue::LongLongInt(number) => Some(Header::Int(*number)),
        AMQPValue::ShortString(text) => Some(Header::Text(text.to_string())),
        AMQPValue::LongString(text) => utf8(text.as_bytes()).map(Header::Text),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(text_of).collect::<Option<_>>().map(Header::List),
        AMQPValue::Boolean(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::Timestamp(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

fn text_of(value: &AMQPValue) -> Option<String> {
    match from_value(value)? {
        Header::Text(text) => Some(text),
        Header::Int(_) | Header::List(_) => None,
    }
}

fn utf8(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(headers: Vec<(&str, AMQPValue)>) -> (Message, u32) {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert(name.into(), value);
        }
        message(&BasicProperties::default().with_headers(table), false, Vec::new())
    }

    #[test]
    fn integers_of_every_width_are_read() {
        let (message, _) = arrived(vec![
            ("a", AMQPValue::ShortShortInt(-1)),
            ("b", AMQPValue::ShortShortUInt(255)),
            ("c", AMQPValue::ShortInt(-2)),
            ("d", AMQPValue::ShortUInt(65_535)),
            ("e", AMQPValue::LongInt(-3)),
            ("f", AMQPValue::LongUInt(u32::MAX)),
            ("g", AMQPValue::LongLongInt(i64::MIN)),
        ]);
        let numbers: Vec<_> = message.headers.into_values().collect();
        assert_eq!(numbers, [-1, 255, -2, 65_535, -3, i64::from(u32::MAX), i64::MIN].map(Header::Int));
    }

    #[test]
    fn header_values_of_other_types_are_left_out() {
        let (message, attempts) = arrived(vec![
            ("bytes", AMQPValue::LongString(vec![0xff, 0xfe].into())),
            ("flag", AMQPValue::Boolean(true)),
            ("mixed", AMQPValue::FieldArray(vec![AMQPValue::LongString("a".into()), AMQPValue::Void].into())),
            ("nested", AMQPValue::FieldTable(FieldTable::default())),
            ("x-delivery-count", AMQPValue::LongString("many".into())),
            ("share", AMQPValue::LongString("incidents".into())),
        ]);
        assert_eq!(message.headers, [("share".to_owned(), Header::Text("incidents".to_owned()))].into());
        assert_eq!(attempts, 0);
    }

    #[test]
    fn the_brokers_own_count_is_the_attempts_and_no_header() {
        let (message, attempts) =
            arrived(vec![("x-delivery-count", AMQPValue::LongInt(3)), ("x-acquired-count", AMQPValue::LongInt(4))]);
        assert_eq!((message.headers.len(), attempts), (0, 3));
    }

    #[test]
    fn what_does_not_fit_into_a_frame_is_refused_before_it_is_sent() {
        let long_kind = Message { kind: Some("k".repeat(256)), ..Message::default() };
        assert!(matches!(properties(&long_kind), Err(PublishError::TooLarge { bytes: 256, bytes_max: 255 })));
        let headers = [("dead-error".to_owned(), Header::Text("e".repeat(HEADER_BYTES_MAX)))].into();
        let long_header = Message { headers, ..Message::default() };
        assert!(matches!(properties(&long_header), Err(PublishError::TooLarge { .. })));
    }
}
