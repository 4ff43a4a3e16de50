//! What the fuzzer holds against [`open`]: hostile messages, and hostile bodies under a right key.
//!
//! An input is a line of JSON with the clear properties and headers, as in `testdata/wire-1`, and then the body.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use hmac::Mac as _;
use serde_json::Value;

use super::{Cipher, Envelope, Fresh, Key, Keyring, OpenError, OpenLimits, Seal, mac, open, seal_packed, unpack};
use crate::envelope::{Header, Message};

/// The key of the golden messages, so that they are seeds.
const KEY: (&str, &[u8]) = ("2026-11", "Ünicode secrets are UTF-8 bytes".as_bytes());
/// Small, so that bodies above it are found soon.
const LIMITS: OpenLimits = OpenLimits { plain_bytes_max: 64 << 10, accept_unsealed: true };

static KEYS: LazyLock<Vec<Key>> =
    LazyLock::new(|| Cipher::ALL.iter().filter_map(|cipher| Key::derive(KEY.0, *cipher, KEY.1).ok()).collect());

/// Opens an input as a stranger's message, as one whose sender had the key, and as what such a sender had packed.
///
/// Returns whether the input was an envelope.
///
/// # Panics
/// When opening does what it must not: that is the finding.
pub fn run(input: &[u8]) -> bool {
    let Some(message) = message(input) else { return false };
    let Ok(envelope) = Envelope::from_message(&message) else { return false };
    assert_eq!(Envelope::from_message(&envelope.to_message()).as_ref(), Ok(&envelope), "another envelope came back");

    let own = KEYS.iter().find(|key| key.cipher() == envelope.cipher);
    let _ = opened(own, &envelope);
    for key in KEYS.iter() {
        let mut forged = Envelope { cipher: key.cipher(), key: key.id().to_owned(), ..envelope.clone() };
        let tag = mac(key, &forged, &forged.body).finalize().into_bytes();
        forged.body.extend_from_slice(&tag);
        let _ = opened(Some(key), &forged);

        let fresh = Fresh { iv: [7; 16], message_id: envelope.message_id, timestamp: envelope.timestamp };
        let route = envelope.route.clone();
        let sealed = seal_packed(&Seal::Key(key.clone()), route, envelope.encoding, &envelope.body, &fresh);
        let expected = unpack(envelope.encoding, envelope.body.clone(), LIMITS.plain_bytes_max);
        assert_eq!(opened(Some(key), &sealed), expected, "something else came out than was sealed");
    }
    true
}

fn opened(key: Option<&Key>, envelope: &Envelope) -> Result<Vec<u8>, OpenError> {
    let mut keyring = Keyring::default();
    if let Some(key) = key {
        keyring.insert(key.clone());
    }
    let opened = open(&keyring, envelope, LIMITS);
    if let Ok(plain) = &opened {
        assert!(plain.len() <= LIMITS.plain_bytes_max, "{} bytes came out", plain.len());
    }
    opened
}

fn message(input: &[u8]) -> Option<Message> {
    let end = input.iter().position(|byte| *byte == b'\n')?;
    let (clear, body) = input.split_at_checked(end)?;
    let clear: Value = serde_json::from_slice(clear).ok()?;
    let property = |name| clear.get("properties")?.get(name)?.as_str().map(str::to_owned);
    let header = |value: &Value| match value {
        Value::Number(number) => number.as_i64().map(Header::Int),
        Value::Array(list) => Some(Header::List(list.iter().filter_map(Value::as_str).map(str::to_owned).collect())),
        Value::String(text) => Some(Header::Text(text.clone())),
        Value::Null | Value::Bool(_) | Value::Object(_) => None,
    };
    let headers = clear.get("headers")?.as_object()?;
    let headers: BTreeMap<_, _> =
        headers.iter().filter_map(|(name, value)| Some((name.clone(), header(value)?))).collect();
    Some(Message {
        content_type: property("content_type"),
        content_encoding: property("content_encoding"),
        kind: property("type"),
        message_id: property("message_id"),
        timestamp: clear.get("properties")?.get("timestamp").and_then(Value::as_u64),
        app_id: property("app_id"),
        headers,
        body: body.get(1..)?.to_vec(),
    })
}

#[test]
fn every_seed_of_open_passes() {
    crate::replay::replay("open", run);
}
