//! Wire version 1 against its page and against another implementation.

use std::collections::BTreeMap;
use std::hash::Hasher as _;

use serde_json::Value;
use siphasher::sip::SipHasher24;

use super::*;
use crate::record::{partition_of, read_lines};

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// One message for each cipher, sealed by another implementation (pycryptodome, python-zstandard). They never change:
/// whatever is sent as wire version 1 has to open for ever.
#[test]
fn messages_of_wire_version_1_open() {
    for golden in [
        include_str!("../../../testdata/wire-1/none.json"),
        include_str!("../../../testdata/wire-1/base64.json"),
        include_str!("../../../testdata/wire-1/tripledes.json"),
        include_str!("../../../testdata/wire-1/aes128.json"),
        include_str!("../../../testdata/wire-1/aes256.json"),
    ] {
        let golden: Value = serde_json::from_str(golden).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let header = |value: &Value| match (value.as_i64(), value.as_array()) {
            (Some(number), _) => Header::Int(number),
            (None, Some(list)) => Header::List(list.iter().filter_map(text).collect()),
            (None, None) => Header::Text(text(value).unwrap()),
        };
        let properties = &golden["properties"];
        let headers = golden["headers"].as_object().unwrap();
        let message = Message {
            content_type: text(&properties["content_type"]),
            content_encoding: text(&properties["content_encoding"]),
            kind: text(&properties["type"]),
            message_id: text(&properties["message_id"]),
            timestamp: properties["timestamp"].as_u64(),
            app_id: text(&properties["app_id"]),
            headers: headers.iter().map(|(name, value)| (name.clone(), header(value))).collect(),
            body: hex(golden["body"].as_str().unwrap()),
        };
        let envelope = Envelope::from_message(&message).unwrap();
        assert_eq!(envelope.to_message(), message, "we would write the same properties and headers");
        let secret = golden["secret"].as_str().unwrap_or_default();
        let keys = Key::derive(envelope.key(), envelope.cipher(), secret.as_bytes());
        let opened = open(&keys.map_or_else(|_| Keyring::default(), keyring), &envelope, LIMITS);
        assert_eq!(opened.map(String::from_utf8), Ok(Ok(text(&golden["plaintext"]).unwrap())));
        for record in read_lines(golden["plaintext"].as_str().unwrap().as_bytes()).unwrap() {
            assert_eq!(partition_of(&envelope.route.source, &envelope.route.table, &record.key, 8), 3);
        }
    }
}

/// The values of the page's `example` blocks by their names; wrapped ones joined.
fn worked_example() -> BTreeMap<String, String> {
    let page = include_str!("../../../../docs/wire-format.md");
    let mut values = BTreeMap::new();
    for block in page.split("```example\n").skip(1) {
        let mut last = String::new();
        for line in block.split("```").next().unwrap().lines() {
            if let Some(wrapped) = line.strip_prefix("  ") {
                values.get_mut(&last).map(|value: &mut String| value.push_str(wrapped)).unwrap();
            } else {
                let (name, value) = line.split_once(':').unwrap();
                name.clone_into(&mut last);
                values.insert(last.clone(), value.trim_start().to_owned());
            }
        }
    }
    values
}

#[test]
fn the_worked_example_of_the_page_is_what_we_seal() {
    let example = worked_example();
    let text = |name: &str| example[name].clone();
    let bytes = |name: &str| hex(&example[name]);

    let key = Key::derive(&text("key"), text("cipher").parse().unwrap(), text("secret").as_bytes()).unwrap();
    assert_eq!(key.cipher_key(), bytes("subkey to encrypt"));
    assert_eq!(key.mac_key(), bytes("subkey to authenticate"));

    let line = text("line") + "\n";
    assert_eq!(line.as_bytes(), bytes("plaintext"));
    let (encoding, packed) = pack(line.as_bytes()).unwrap();
    assert_eq!(encoding.as_str(), text("content_encoding"));

    let route = Route {
        source: text("source"),
        share: text("share"),
        table: text("table"),
        action: text("action").parse().unwrap(),
        partition: text("partition").parse().unwrap(),
        records: text("records").parse().unwrap(),
        origin: vec![text("origin")],
    };
    let fresh = Fresh {
        iv: bytes("iv").try_into().unwrap(),
        message_id: text("message_id").parse().unwrap(),
        timestamp: text("timestamp").parse().unwrap(),
    };
    let envelope = seal_packed(&Seal::Key(key.clone()), route.clone(), encoding, &packed, &fresh);
    assert_eq!(envelope.body, bytes("body"));
    assert_eq!(bytes("body"), [bytes("iv"), bytes("ciphertext"), bytes("mac")].concat());
    let mac_input = [bytes("mac input without iv and ciphertext"), bytes("iv"), bytes("ciphertext")].concat();
    let mac = Hmac::<Sha256>::new_from_slice(key.mac_key()).unwrap().chain_update(mac_input).finalize();
    assert_eq!(mac.into_bytes().as_slice(), bytes("mac"));

    let partitions: u32 = text("number of partitions").parse().unwrap();
    let record = read_lines(line.as_bytes()).unwrap().remove(0);
    assert_eq!(partition_of(&route.source, &route.table, &record.key, partitions), route.partition);
    let mut hasher = SipHasher24::new();
    hasher.write(&bytes("partition input"));
    assert_eq!(format!("{:016x}", hasher.finish()), text("partition hash"));
    assert_eq!(hasher.finish() % u64::from(partitions), u64::from(route.partition));

    let opened = open(&keyring(key), &Envelope::from_message(&envelope.to_message()).unwrap(), LIMITS);
    assert_eq!(opened.as_deref(), Ok(line.as_bytes()));
}
