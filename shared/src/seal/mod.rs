//! Sealing and opening: the only cipher code of Syncline.
//!
//! Body: `iv | ciphertext | mac`. The plaintext is compressed, then encrypted in CBC mode with PKCS#7 padding under a
//! fresh random iv, then authenticated with HMAC-SHA-256 (encrypt-then-MAC). `docs/wire-format.md` is the home of the
//! format. Works on bytes alone: what the lines mean is `record`'s matter, where they travel is `queue`'s.

mod cbc;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod keyring;
mod pseudonym;

pub use keyring::{Key, KeyError, Keyring, SECRET_BYTES_MIN};
pub use pseudonym::{PSEUDONYM_SECRET_BYTES_MIN, Pseudonyms};

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::io::Read as _;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use thiserror::Error;
use uuid::Uuid;
use zstd::bulk::Compressor;

use crate::class::Class;
use crate::envelope::{Encoding, Envelope, Route, WIRE_VERSION};

/// Bytes of the HMAC-SHA-256 tag at the end of a sealed body.
const MAC_BYTES: usize = 32;
/// Plaintext below this size is not worth a Zstandard frame's header.
const COMPRESS_BYTES_MIN: usize = 128;
/// Up to so many bytes sealing and opening takes about ten microseconds, as long as it takes to wake another thread.
const QUICK_BYTES: usize = 4096;
/// Level 1 compresses a batch of incidents 7.6 times at 1.1 us per record; higher levels cost more than they save.
const ZSTD_LEVEL: i32 = 1;

/// How a body is sealed, by the names of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cipher {
    /// Not sealed at all.
    None,
    /// Only encoded, for systems that cannot carry bytes; readable by anyone.
    Base64,
    /// Three-key TripleDES (NIST SP 800-67).
    TripleDes,
    /// AES with a 128-bit key.
    Aes128,
    /// AES with a 256-bit key.
    Aes256,
}

impl Cipher {
    /// Every cipher, weakest first.
    pub const ALL: [Self; 5] = [Self::None, Self::Base64, Self::TripleDes, Self::Aes128, Self::Aes256];

    /// The name used on the wire and in configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Base64 => "Base64",
            Self::TripleDes => "TripleDES",
            Self::Aes128 => "AES128",
            Self::Aes256 => "AES256",
        }
    }

    /// Whether the cipher takes a key.
    #[must_use]
    pub const fn is_keyed(self) -> bool {
        match self {
            Self::None | Self::Base64 => false,
            Self::TripleDes | Self::Aes128 | Self::Aes256 => true,
        }
    }

    /// Whether so many bytes are sealed, or opened, sooner than another thread could begin with it. Not what anyone may
    /// have written: it may grow a thousandfold.
    #[must_use]
    pub const fn is_quick(self, bytes: usize) -> bool {
        matches!(self, Self::Aes128 | Self::Aes256) && bytes <= QUICK_BYTES
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Cipher {
    type Err = ();

    fn from_str(name: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|cipher| cipher.as_str() == name).ok_or(())
    }
}

/// What a share seals with.
#[derive(Clone, Debug)]
pub enum Seal {
    /// No secrecy: readable by anyone who can read the queue.
    Plain,
    /// Encoded, no secrecy.
    Base64,
    /// Encrypted and authenticated under a key of the keyring.
    Key(Key),
}

impl Seal {
    /// The cipher this seals with.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        match self {
            Self::Plain => Cipher::None,
            Self::Base64 => Cipher::Base64,
            Self::Key(key) => key.cipher(),
        }
    }
}

/// Seals one batch. CPU-bound (about 12 MB/s for TripleDES): call it off the I/O threads, unless it
/// [is quick](Cipher::is_quick).
///
/// Body: `iv (8 or 16 B) | ciphertext (whole blocks) | mac (32 B)`; a fresh random iv per call.
///
/// # Errors
/// [`SealError`] when the system gives no randomness or compression fails; transient.
pub fn seal(seal: &Seal, route: Route, ndjson: &[u8]) -> Result<Envelope, SealError> {
    let (encoding, packed) = pack(ndjson)?;
    Ok(seal_packed(seal, route, encoding, &packed, &Fresh::new()?))
}

/// Seals a batch under a message id that is given already: a part of a message that is set aside, or a dead letter under
/// another key.
///
/// # Errors
/// As [`seal`].
pub fn seal_as(seal: &Seal, route: Route, ndjson: &[u8], message_id: Uuid) -> Result<Envelope, SealError> {
    let (encoding, packed) = pack(ndjson)?;
    Ok(seal_packed(seal, route, encoding, &packed, &Fresh { message_id, ..Fresh::new()? }))
}

/// The largest body that sealing this many bytes of plaintext can give, whatever they are and whatever they are sealed
/// with: Base64 of what does not compress.
#[must_use]
pub fn sealed_bytes_max(plain_bytes: usize) -> usize {
    let packed = zstd::zstd_safe::compress_bound(plain_bytes);
    let encoded = packed.div_ceil(3).saturating_mul(4);
    // A block of iv, a block of padding, and the MAC.
    let encrypted = packed.saturating_add(16 + 16 + MAC_BYTES);
    encoded.max(encrypted)
}

/// What is new in every sealing: under one key, no iv may serve twice.
struct Fresh {
    /// Unpredictable; a cipher takes as many bytes of it as its block has.
    iv: [u8; 16],
    message_id: Uuid,
    /// In seconds since 1970.
    timestamp: u64,
}

impl Fresh {
    fn new() -> Result<Self, SealError> {
        let mut iv = [0; 16];
        getrandom::fill(&mut iv).map_err(|_| SealError::Random)?;
        let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Ok(Self { iv, message_id: Uuid::now_v7(), timestamp })
    }
}

thread_local! {
    /// Its tables take longer to make than a small batch to compress.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
}

fn pack(ndjson: &[u8]) -> Result<(Encoding, Cow<'_, [u8]>), SealError> {
    if ndjson.len() < COMPRESS_BYTES_MIN {
        return Ok((Encoding::None, Cow::Borrowed(ndjson)));
    }
    let frame = COMPRESSOR.with_borrow_mut(|kept| {
        let compressor = match kept {
            Some(compressor) => compressor,
            None => kept.insert(Compressor::new(ZSTD_LEVEL)?),
        };
        compressor.compress(ndjson)
    });
    Ok((Encoding::Zstd, Cow::Owned(frame.map_err(|_| SealError::Compress)?)))
}

fn seal_packed(seal: &Seal, route: Route, encoding: Encoding, packed: &[u8], fresh: &Fresh) -> Envelope {
    let key = match seal {
        Seal::Plain | Seal::Base64 => String::new(),
        Seal::Key(key) => key.id().to_owned(),
    };
    let mut envelope = Envelope {
        route,
        encoding,
        cipher: seal.cipher(),
        key,
        message_id: fresh.message_id,
        timestamp: fresh.timestamp,
        traceparent: None,
        body: Vec::new(),
    };
    match seal {
        Seal::Plain => packed.clone_into(&mut envelope.body),
        Seal::Base64 => envelope.body = STANDARD.encode(packed).into_bytes(),
        Seal::Key(key) => {
            envelope.body = cbc::encrypt(key, &fresh.iv, packed);
            let tag = mac(key, &envelope, &envelope.body).finalize().into_bytes();
            envelope.body.extend_from_slice(&tag);
        }
    }
    envelope
}

/// What a receiver accepts.
#[derive(Clone, Copy, Debug)]
pub struct OpenLimits {
    /// Upper bound of the plaintext, in bytes; a longer one is refused before it is held in memory.
    pub plain_bytes_max: usize,
    /// Whether bodies without a MAC (`None`, `Base64`) are accepted. Off, so that nobody who can publish can bypass the keys.
    pub accept_unsealed: bool,
}

/// Verifies and opens one batch: the records' lines. CPU-bound: call it off the I/O threads.
///
/// The MAC is checked first and in constant time; nothing is decrypted before it holds.
///
/// # Errors
/// [`OpenError::UnknownKey`] and [`OpenError::Unsealed`] are systemic (mend the configuration); the others are permanent.
pub fn open(keyring: &Keyring, envelope: &Envelope, limits: OpenLimits) -> Result<Vec<u8>, OpenError> {
    let packed = match envelope.cipher {
        Cipher::None | Cipher::Base64 if !limits.accept_unsealed => {
            return Err(OpenError::Unsealed { cipher: envelope.cipher });
        }
        Cipher::None => envelope.body.clone(),
        Cipher::Base64 => STANDARD.decode(&envelope.body).map_err(|_| OpenError::Refused)?,
        Cipher::TripleDes | Cipher::Aes128 | Cipher::Aes256 => {
            let key = keyring.get(&envelope.key).ok_or_else(|| OpenError::UnknownKey { key: envelope.key.clone() })?;
            if key.cipher() != envelope.cipher {
                return Err(OpenError::Refused);
            }
            let at = envelope.body.len().checked_sub(MAC_BYTES).ok_or(OpenError::Refused)?;
            let (sealed, tag) = envelope.body.split_at(at);
            // `verify_slice` compares in constant time.
            mac(key, envelope, sealed).verify_slice(tag).map_err(|_| OpenError::Refused)?;
            cbc::decrypt(key, sealed).ok_or(OpenError::Refused)?
        }
    };
    unpack(envelope.encoding, packed, limits.plain_bytes_max)
}

fn unpack(encoding: Encoding, packed: Vec<u8>, bytes_max: usize) -> Result<Vec<u8>, OpenError> {
    let too_large = OpenError::TooLarge { bytes_max };
    match encoding {
        Encoding::None if packed.len() > bytes_max => Err(too_large),
        Encoding::None => Ok(packed),
        Encoding::Zstd => {
            // What the frame says of its size saves growing; it is believed only as far as it is allowed.
            let said = zstd::zstd_safe::get_frame_content_size(&packed).ok().flatten();
            let said = said.and_then(|bytes| usize::try_from(bytes).ok()).filter(|bytes| *bytes <= bytes_max);
            // A frame is far from saying more than a thousand times itself unless it lies.
            let mut plain = Vec::with_capacity(said.unwrap_or_default().min(packed.len().saturating_mul(1000)) + 1);
            let decoder =
                zstd::stream::read::Decoder::with_buffer(packed.as_slice()).map_err(|_| OpenError::Compression)?;
            let mut frame = decoder.single_frame();
            frame.window_log_max(window_log_max(bytes_max)).map_err(|_| OpenError::Compression)?;
            let bound = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
            frame.by_ref().take(bound).read_to_end(&mut plain).map_err(|_| OpenError::Compression)?;
            if plain.len() > bytes_max {
                return Err(too_large);
            }
            // What stands behind the frame is not part of it.
            if frame.finish().is_empty() { Ok(plain) } else { Err(OpenError::Compression) }
        }
    }
}

/// The largest window a frame may ask for, as a power of two: a decoder holds that much, whatever comes out.
///
/// Room for the whole plaintext, and at least the 8 MiB every decoder has to offer (RFC 8878, section 3.1.1.1.2).
fn window_log_max(plain_bytes_max: usize) -> u32 {
    let ceiling = usize::BITS - plain_bytes_max.saturating_sub(1).leading_zeros();
    ceiling.clamp(23, 31)
}

/// The MAC over the clear fields that must not change and over `iv | ciphertext`.
///
/// Each clear field is prefixed by its length in bytes as a big-endian `u32`; numbers are written in decimal.
fn mac(key: &Key, envelope: &Envelope, sealed: &[u8]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key.mac_key()).expect("HMAC takes keys of any length");
    let route = &envelope.route;
    let fields = [
        WIRE_VERSION.to_string(),
        route.source.clone(),
        route.share.clone(),
        route.table.clone(),
        route.action.as_str().to_owned(),
        route.partition.to_string(),
        envelope.encoding.as_str().to_owned(),
        envelope.cipher.as_str().to_owned(),
        envelope.key.clone(),
        envelope.message_id.to_string(),
    ];
    for field in fields {
        mac.update(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
        mac.update(field.as_bytes());
    }
    mac.update(sealed);
    mac
}

/// A batch that could not be sealed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SealError {
    /// The operating system gave no random bytes for the iv.
    #[error("the operating system gave no random bytes")]
    Random,
    /// Zstandard failed.
    #[error("compression failed")]
    Compress,
}

impl SealError {
    /// Both pass by themselves, if at all.
    #[must_use]
    pub const fn class(self) -> Class {
        match self {
            Self::Random | Self::Compress => Class::Transient,
        }
    }
}

/// A batch that could not be opened. Does not say which check of a sealed body failed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OpenError {
    /// The keyring has no key of this id.
    #[error("key {key:?} is not in the keyring")]
    UnknownKey {
        /// The id in the envelope.
        key: String,
    },
    /// The body has no MAC and the receiver does not accept that.
    #[error("the batch is not sealed (cipher {cipher}) and accept_unsealed is off")]
    Unsealed {
        /// The cipher in the envelope.
        cipher: Cipher,
    },
    /// The body is not what was sealed under this key.
    #[error("the batch does not open under its key")]
    Refused,
    /// The authenticated body is not one Zstandard frame.
    #[error("the batch does not decompress")]
    Compression,
    /// The plaintext is longer than the receiver accepts.
    #[error("the batch is longer than {bytes_max} bytes when opened")]
    TooLarge {
        /// The bound, in bytes.
        bytes_max: usize,
    },
}

impl OpenError {
    /// Configuration faults are systemic; bytes that never open are permanent.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::UnknownKey { .. } | Self::Unsealed { .. } => Class::Systemic,
            Self::Refused | Self::Compression | Self::TooLarge { .. } => Class::Permanent,
        }
    }
}

#[cfg(test)]
mod tests;
