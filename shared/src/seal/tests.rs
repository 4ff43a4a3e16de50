//! What sealing promises, with hostile input.

mod golden;

use proptest::prelude::*;

use super::*;
use crate::envelope::{Header, Message};
use crate::record::Action;

const SECRET: &[u8] = b"correct horse battery staple";
const LIMITS: OpenLimits = OpenLimits { plain_bytes_max: 1 << 20, accept_unsealed: true };
const KEYED: [Cipher; 3] = [Cipher::TripleDes, Cipher::Aes128, Cipher::Aes256];

fn key(cipher: Cipher) -> Key {
    Key::derive("2026-11", cipher, SECRET).unwrap()
}

fn keyring(key: Key) -> Keyring {
    let mut keyring = Keyring::default();
    keyring.insert(key);
    keyring
}

/// A way to seal with this cipher, and the keyring that opens it.
fn with(cipher: Cipher) -> (Seal, Keyring) {
    match cipher {
        Cipher::None => (Seal::Plain, Keyring::default()),
        Cipher::Base64 => (Seal::Base64, Keyring::default()),
        Cipher::TripleDes | Cipher::Aes128 | Cipher::Aes256 => (Seal::Key(key(cipher)), keyring(key(cipher))),
    }
}

fn route() -> Route {
    Route {
        source: "servicedesk".to_owned(),
        share: "incidents".to_owned(),
        table: "incident".to_owned(),
        action: Action::Update,
        partition: 2,
        records: 1,
        origin: vec!["servicedesk".to_owned()],
    }
}

/// The way of a message at the receiver. `None` when it is refused, whoever refuses it.
fn receive(keyring: &Keyring, message: &Message) -> Option<Vec<u8>> {
    open(keyring, &Envelope::from_message(message).ok()?, LIMITS).ok()
}

fn keyed() -> impl Strategy<Value = Cipher> {
    prop::sample::select(KEYED.as_slice())
}

#[test]
fn no_body_is_larger_than_its_bound() {
    for bytes in [0, 1, COMPRESS_BYTES_MIN, 100_000, 1 << 20] {
        let mut plain = vec![0; bytes];
        getrandom::fill(&mut plain).unwrap();
        for cipher in Cipher::ALL {
            let body = seal(&with(cipher).0, route(), &plain).unwrap().body;
            assert!(body.len() <= sealed_bytes_max(bytes), "{cipher}: {bytes} bytes became {}", body.len());
        }
    }
}

proptest! {
    #[test]
    fn what_was_sealed_opens_as_it_was(
        cipher in prop::sample::select(Cipher::ALL.as_slice()), plain in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let (seal_with, keyring) = with(cipher);
        let envelope = seal(&seal_with, route(), &plain).unwrap();
        prop_assert_eq!(envelope.cipher(), cipher);
        let received = Envelope::from_message(&envelope.to_message());
        prop_assert_eq!(received.as_ref(), Ok(&envelope));
        prop_assert_eq!(open(&keyring, &envelope, LIMITS), Ok(plain));
    }

    #[test]
    fn a_flipped_bit_of_the_body_never_opens(
        cipher in keyed(), plain in prop::collection::vec(any::<u8>(), 0..300), at in any::<prop::sample::Index>(), bit in 0..8_u32,
    ) {
        let mut message = seal(&Seal::Key(key(cipher)), route(), &plain).unwrap().to_message();
        let at = at.index(message.body.len());
        message.body[at] ^= 1 << bit;
        let envelope = Envelope::from_message(&message).unwrap();
        prop_assert_eq!(open(&keyring(key(cipher)), &envelope, LIMITS), Err(OpenError::Refused));
    }

    #[test]
    fn a_flipped_bit_of_an_authenticated_clear_field_never_opens(
        cipher in keyed(), field in 0..10_usize, at in any::<prop::sample::Index>(), bit in 0..63_u32,
    ) {
        fn flip(text: &mut String, at: prop::sample::Index, bit: u32) {
            let mut bytes = std::mem::take(text).into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << (bit % 7); // one of the seven bits of ASCII, so that it stays text
            *text = String::from_utf8(bytes).unwrap();
        }
        let sealed = seal(&Seal::Key(key(cipher)), route(), b"{}\n").unwrap().to_message();
        let mut message = sealed.clone();
        match field {
            0 => flip(message.message_id.as_mut().unwrap(), at, bit),
            1 => flip(message.content_encoding.as_mut().unwrap(), at, bit),
            _ => {
                let name = ["v", "source", "share", "table", "action", "partition", "cipher", "key"][field - 2];
                match message.headers.get_mut(name).unwrap() {
                    Header::Int(number) => *number ^= 1 << bit,
                    Header::Text(text) => flip(text, at, bit),
                    Header::List(_) => unreachable!("no authenticated field is a list"),
                }
            }
        }
        prop_assert_ne!(&message, &sealed);
        prop_assert_eq!(receive(&keyring(key(cipher)), &message), None);
    }

    #[test]
    fn no_message_makes_the_receiver_panic(
        properties in prop::collection::vec(prop::option::of(".*"), 4),
        names in prop::collection::vec(prop::sample::select(HEADERS.as_slice()), 0..12),
        values in prop::collection::vec(header(), 12),
        body in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut properties = properties.into_iter();
        let mut property = || properties.next().flatten();
        let mut message = Message {
            content_type: property(),
            content_encoding: property(),
            kind: property(),
            message_id: property(),
            headers: names.into_iter().map(str::to_owned).zip(values).collect(),
            body,
            ..Message::default()
        };
        let _ = receive(&keyring(key(Cipher::Aes256)), &message);
        // The same with headers that pass, so that the body is looked at too.
        let sealed = seal(&Seal::Plain, route(), b"").unwrap().to_message();
        for cipher in Cipher::ALL {
            for encoding in [Encoding::None, Encoding::Zstd] {
                let body = std::mem::take(&mut message.body);
                message = Message { body, content_encoding: Some(encoding.as_str().to_owned()), ..sealed.clone() };
                message.headers.insert("cipher".to_owned(), Header::Text(cipher.as_str().to_owned()));
                message.headers.insert("key".to_owned(), Header::Text("2026-11".to_owned()));
                let envelope = Envelope::from_message(&message).unwrap();
                let _ = open(&with(cipher).1, &envelope, LIMITS);
            }
        }
    }

    #[test]
    fn no_authentic_body_makes_the_receiver_panic(cipher in keyed(), packed in prop::collection::vec(any::<u8>(), 0..200)) {
        let envelope = seal_packed(&Seal::Key(key(cipher)), route(), Encoding::Zstd, &packed, &Fresh::new().unwrap());
        let _ = open(&keyring(key(cipher)), &envelope, LIMITS);
    }
}

const HEADERS: [&str; 10] =
    ["v", "source", "share", "table", "action", "partition", "records", "cipher", "key", "origin"];

fn header() -> impl Strategy<Value = Header> {
    prop_oneof![
        prop::sample::select(vec![0, 1, -1, i64::MAX, i64::MIN]).prop_map(Header::Int),
        prop::sample::select(vec!["", "AES256", "None", "update", "2026-11"])
            .prop_map(|text| Header::Text(text.to_owned())),
        ".*".prop_map(Header::Text),
        prop::collection::vec(".*", 0..3).prop_map(Header::List),
    ]
}

#[test]
fn a_truncated_body_never_opens() {
    for cipher in KEYED {
        let message = seal(&Seal::Key(key(cipher)), route(), b"{\"key\":{\"id\":7}}\n").unwrap().to_message();
        for length in 0..message.body.len() {
            let mut cut = message.clone();
            cut.body.truncate(length);
            assert_eq!(receive(&keyring(key(cipher)), &cut), None, "{cipher}, {length} bytes");
            cut.body = message.body[message.body.len() - length..].to_vec();
            assert_eq!(receive(&keyring(key(cipher)), &cut), None, "{cipher}, the last {length} bytes");
        }
    }
}

#[test]
fn equal_plaintexts_give_different_bodies() {
    for cipher in KEYED {
        let sealed = || seal(&Seal::Key(key(cipher)), route(), b"the same").unwrap();
        let (one, two) = (sealed(), sealed());
        assert_ne!(one.message_id(), two.message_id());
        let block = if cipher == Cipher::TripleDes { 8 } else { 16 };
        for (a, b) in one.body.chunks(block).zip(two.body.chunks(block)) {
            assert_ne!(a, b, "{cipher}");
        }
    }
}

#[test]
fn an_unknown_key_is_systemic_and_named() {
    let envelope = seal(&Seal::Key(key(Cipher::Aes256)), route(), b"{}\n").unwrap();
    let error = open(&Keyring::default(), &envelope, LIMITS).unwrap_err();
    assert_eq!(error, OpenError::UnknownKey { key: "2026-11".to_owned() });
    assert_eq!(error.class(), Class::Systemic);
}

#[test]
fn unsealed_bodies_are_refused_unless_accepted() {
    for seal_with in [Seal::Plain, Seal::Base64] {
        let envelope = seal(&seal_with, route(), b"{}\n").unwrap();
        let sealed_only = OpenLimits { accept_unsealed: false, ..LIMITS };
        let error = open(&Keyring::default(), &envelope, sealed_only).unwrap_err();
        assert_eq!(error, OpenError::Unsealed { cipher: seal_with.cipher() });
        assert_eq!(error.class(), Class::Systemic);
        assert_eq!(open(&Keyring::default(), &envelope, LIMITS).as_deref(), Ok(b"{}\n".as_slice()));
    }
}

#[test]
fn an_authenticated_field_cannot_be_moved_into_its_neighbour() {
    let mut envelope = seal(&Seal::Key(key(Cipher::Aes256)), route(), b"{}\n").unwrap();
    envelope.route.source = "servicedeski".to_owned();
    envelope.route.share = "ncidents".to_owned();
    assert_eq!(open(&keyring(key(Cipher::Aes256)), &envelope, LIMITS), Err(OpenError::Refused));
}

/// An oracle would need a difference to see: there is one answer, with one text, to everything that does not open.
#[test]
fn every_failed_check_of_a_sealed_body_reads_the_same() {
    for cipher in KEYED {
        let good = seal(&Seal::Key(key(cipher)), route(), &[b'x'; 100]).unwrap();
        let with_body = |body: Vec<u8>| Envelope { body, ..good.clone() };
        let flipped = |at: usize| {
            let mut body = good.body.clone();
            body[at] ^= 1;
            with_body(body)
        };
        // Bodies whose MAC is right and whose inside is not, as only a holder of the key can make them.
        let authentic = |sealed: &[u8]| {
            let tag = mac(&key(cipher), &good, sealed).finalize().into_bytes();
            with_body([sealed, tag.as_slice()].concat())
        };
        let ciphertext_end = good.body.len() - MAC_BYTES;
        let other = KEYED.into_iter().find(|other| *other != cipher).unwrap();
        let wrong_secret = Key::derive("2026-11", cipher, b"incorrect horse battery staple").unwrap();
        let cases = [
            ("no body", with_body(Vec::new()), key(cipher)),
            ("no whole MAC", with_body(vec![0; MAC_BYTES - 1]), key(cipher)),
            ("a MAC alone", authentic(&[]), key(cipher)),
            ("an iv alone", authentic(&good.body[..if cipher == Cipher::TripleDes { 8 } else { 16 }]), key(cipher)),
            ("a broken block", authentic(&good.body[..ciphertext_end - 1]), key(cipher)),
            ("bad padding", authentic(&[0; 64]), key(cipher)),
            ("a changed iv", flipped(0), key(cipher)),
            ("a changed ciphertext", flipped(ciphertext_end - 1), key(cipher)),
            ("a changed MAC", flipped(good.body.len() - 1), key(cipher)),
            ("a wrong secret", good.clone(), wrong_secret),
            ("a key of another cipher", good.clone(), key(other)),
        ];
        for (what, envelope, key) in cases {
            let error = open(&keyring(key), &envelope, LIMITS).expect_err(what);
            assert_eq!((&error, error.class()), (&OpenError::Refused, Class::Permanent), "{cipher}, {what}");
            assert_eq!(error.to_string(), "the batch does not open under its key");
        }
    }
}

/// A Zstandard frame of run-length blocks: 4 bytes for each 128 KiB of zeros (RFC 8878, section 3.1.1.2).
fn frame(window_log: u8, blocks: usize) -> Vec<u8> {
    let window_descriptor = (window_log - 10) << 3;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, window_descriptor];
    let block = |last: u32| ((128 << 10) << 3) | (1 << 1) | last;
    for number in 1..=blocks {
        frame.extend_from_slice(&block(u32::from(number == blocks)).to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

fn open_frame(frame: &[u8]) -> Result<Vec<u8>, OpenError> {
    let seal_with = Seal::Key(key(Cipher::Aes256));
    let envelope = seal_packed(&seal_with, route(), Encoding::Zstd, frame, &Fresh::new().unwrap());
    open(&keyring(key(Cipher::Aes256)), &envelope, LIMITS)
}

#[test]
fn a_gigabyte_in_a_small_frame_is_refused_before_it_is_held() {
    assert_eq!(open_frame(&frame(17, 8)), Ok(vec![0; 1 << 20]), "as long as the limit");
    let mut bomb = frame(17, (1 << 30) / (128 << 10));
    assert!(bomb.len() < 33 << 10);
    assert_eq!(open_frame(&bomb), Err(OpenError::TooLarge { bytes_max: 1 << 20 }));
    // A block of the reserved type behind twice the limit: who decompressed as far as that would stumble over it.
    bomb[6 + 4 * 16] |= 0b110;
    assert_eq!(open_frame(&bomb), Err(OpenError::TooLarge { bytes_max: 1 << 20 }));
}

#[test]
fn a_frame_that_asks_for_a_large_window_is_refused() {
    assert_eq!(open_frame(&frame(23, 1)).map(|plain| plain.len()), Ok(128 << 10), "what every decoder offers");
    assert_eq!(open_frame(&frame(24, 1)), Err(OpenError::Compression));
    assert_eq!([0, 1 << 20, 1 << 23].map(window_log_max), [23; 3]);
    assert_eq!([(1 << 23) + 1, 1 << 24, usize::MAX].map(window_log_max), [24, 24, 31]);
}

#[test]
fn what_is_not_one_whole_frame_is_refused() {
    let whole = frame(17, 2);
    assert_eq!(open_frame(&[whole.clone(), whole.clone()].concat()), Err(OpenError::Compression));
    assert_eq!(open_frame(&[whole.as_slice(), b"\n"].concat()), Err(OpenError::Compression));
    for cut in [1, 5, 6, 9, whole.len() - 1] {
        assert_eq!(open_frame(&whole[..cut]), Err(OpenError::Compression), "{cut} bytes");
    }
}
