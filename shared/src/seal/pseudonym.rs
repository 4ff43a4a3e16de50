//! Names for values that are not to be known: the same value has the same one, and without the secret nobody tells whose.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// As long as what it makes, the least RFC 2104 advises.
pub const PSEUDONYM_SECRET_BYTES_MIN: usize = 32;

/// Makes pseudonyms with one secret: HMAC-SHA-256 (RFC 2104), in hexadecimal.
#[derive(Clone)]
pub struct Pseudonyms(Hmac<Sha256>);

impl Pseudonyms {
    /// Takes the secret; `None` when it has less than [`PSEUDONYM_SECRET_BYTES_MIN`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret = Some(secret).filter(|secret| secret.len() >= PSEUDONYM_SECRET_BYTES_MIN)?;
        Hmac::new_from_slice(secret).ok().map(Self)
    }

    /// The pseudonym of a value, 64 hexadecimal digits.
    #[must_use]
    pub fn of(&self, value: &str) -> String {
        let digest = self.0.clone().chain_update(value).finalize().into_bytes();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pseudonym_is_the_hmac_of_rfc_4231() {
        // Test case 6: a key of 131 bytes.
        let names = Pseudonyms::new(&[0xaa; 131]).unwrap();
        let expected = "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54";
        assert_eq!(names.of("Test Using Larger Than Block-Size Key - Hash Key First"), expected);
        assert!(Pseudonyms::new(&[1; 31]).is_none());
    }
}
