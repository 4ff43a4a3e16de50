//! Keys by their ids, each with the subkeys derived from its secret.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hkdf::Hkdf;
use sha2::Sha256;
use thiserror::Error;
use zeroize::Zeroizing;

use super::Cipher;

/// Fewest bytes of a secret: as many as a TripleDES key has.
pub const SECRET_BYTES_MIN: usize = 24;
const MAC_KEY_BYTES: usize = 32;

/// One key: its id, its cipher and two subkeys, one to encrypt and one to authenticate. Cheap to clone.
#[derive(Clone)]
pub struct Key(Arc<Inner>);

struct Inner {
    id: String,
    cipher: Cipher,
    cipher_key: Zeroizing<Vec<u8>>,
    mac_key: Zeroizing<Vec<u8>>,
}

impl Key {
    /// Derives the subkeys of a secret with HKDF-SHA-256 (RFC 5869), no salt, info `syncline/1 <cipher> encrypt` and
    /// `syncline/1 <cipher> mac`.
    ///
    /// # Errors
    /// [`KeyError`] for a short secret, a cipher that takes no key, or TripleDES subkeys of which two are equal.
    pub fn derive(id: &str, cipher: Cipher, secret: &[u8]) -> Result<Self, KeyError> {
        let cipher_bytes = match cipher {
            Cipher::TripleDes => 24,
            Cipher::Aes128 => 16,
            Cipher::Aes256 => 32,
            Cipher::None | Cipher::Base64 => return Err(KeyError::NotKeyed { cipher }),
        };
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::Short { bytes: secret.len() });
        }
        let hkdf = Hkdf::<Sha256>::new(None, secret);
        let subkey = |purpose: &str, bytes: usize| {
            let mut key = Zeroizing::new(vec![0; bytes]);
            #[expect(clippy::expect_used, reason = "HKDF-SHA-256 gives up to 8,160 bytes")]
            hkdf.expand(format!("syncline/1 {cipher} {purpose}").as_bytes(), &mut key).expect("a short output");
            key
        };
        let cipher_key = subkey("encrypt", cipher_bytes);
        if cipher == Cipher::TripleDes && has_equal_subkeys(&cipher_key) {
            return Err(KeyError::EqualSubkeys);
        }
        let mac_key = subkey("mac", MAC_KEY_BYTES);
        Ok(Self(Arc::new(Inner { id: id.to_owned(), cipher, cipher_key, mac_key })))
    }

    /// The id written into envelopes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// The cipher this key is for.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.0.cipher
    }

    pub(super) fn cipher_key(&self) -> &[u8] {
        &self.0.cipher_key
    }

    pub(super) fn mac_key(&self) -> &[u8] {
        &self.0.mac_key
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({}, {}, [redacted])", self.0.id, self.0.cipher)
    }
}

/// Whether two of the three DES keys are the same but for their parity bits, which makes TripleDES single DES.
fn has_equal_subkeys(key: &[u8]) -> bool {
    let equal = |a: &[u8], b: &[u8]| a.iter().zip(b).all(|(a, b)| a & 0xfe == b & 0xfe);
    let (one, rest) = key.split_at(key.len() / 3);
    let (two, three) = rest.split_at(one.len());
    equal(one, two) || equal(two, three) || equal(one, three)
}

/// The keys a service knows, by id.
#[derive(Clone, Debug, Default)]
pub struct Keyring(BTreeMap<String, Key>);

impl Keyring {
    /// Adds a key; a later one of the same id takes its place.
    pub fn insert(&mut self, key: Key) {
        self.0.insert(key.id().to_owned(), key);
    }

    /// The key of an id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)
    }
}

/// A key that cannot be used. Never shows the secret.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum KeyError {
    /// The secret is too short.
    #[error("the secret has {bytes} bytes, at least {SECRET_BYTES_MIN} are needed")]
    Short {
        /// Its length.
        bytes: usize,
    },
    /// The cipher takes no key.
    #[error("cipher {cipher} takes no key")]
    NotKeyed {
        /// The cipher.
        cipher: Cipher,
    },
    /// Two TripleDES subkeys are equal.
    #[error("the secret gives TripleDES two equal subkeys, choose another")]
    EqualSubkeys,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_subkeys_are_seen_whatever_their_parity_bits() {
        let (a, b, c) = ([0x10; 8], [0x22; 8], [0x34; 8]);
        let a_other_parity = [0x11; 8];
        assert!(!has_equal_subkeys(&[a, b, c].concat()));
        for equal in [[a, a_other_parity, c], [b, a, a_other_parity], [a, b, a_other_parity]] {
            assert!(has_equal_subkeys(&equal.concat()));
        }
    }

    #[test]
    fn short_secrets_and_keyless_ciphers_are_refused() {
        assert_eq!(Key::derive("k", Cipher::Aes256, &[1; 23]).err(), Some(KeyError::Short { bytes: 23 }));
        assert_eq!(Key::derive("k", Cipher::None, &[1; 32]).err(), Some(KeyError::NotKeyed { cipher: Cipher::None }));
    }

    #[test]
    fn debug_shows_no_key_material() {
        let key = Key::derive("2026-11", Cipher::Aes256, b"correct horse battery staple").expect("a key");
        assert_eq!(format!("{key:?}"), "Key(2026-11, AES256, [redacted])");
    }
}
