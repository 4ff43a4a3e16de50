//! The 128-bit number that orders all changes of one record.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Orders all changes of one record; greater is newer. 16 bytes, compared as an unsigned number.
///
/// Sources that have an epoch, a position and an ordinal lay them out as `epoch (4 B) | position (8 B) | ordinal (4 B)`,
/// big-endian, so that a new epoch is newer than every position of the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(u128);

impl Version {
    /// Builds a version from a source's epoch, its position (a commit LSN, a change-log row id) and the change's ordinal
    /// within that position, counted from 1 (0 is a row as a snapshot at that position shows it).
    #[must_use]
    pub const fn new(epoch: u32, position: u64, ordinal: u32) -> Self {
        Self(((epoch as u128) << 96) | ((position as u128) << 32) | ordinal as u128)
    }

    /// The version just below this one, newer than every other that is older. Sources leave it free for each change of a
    /// record: with it the record is deleted where it is no longer, and the delete loses to the change wherever both arrive.
    #[must_use]
    pub const fn below(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// The 16 bytes, most significant first.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// The version of these 16 bytes, most significant first.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

/// A text that is not 32 lowercase hexadecimal digits.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("a version is 32 lowercase hexadecimal digits")]
pub struct VersionError;

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Version({self})")
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let digits = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if text.len() != 32 || !digits {
            return Err(VersionError);
        }
        u128::from_str_radix(text, 16).map(Self).map_err(|_| VersionError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_epoch_is_newer_than_any_position() {
        assert!(Version::new(2, 0, 0) > Version::new(1, u64::MAX, u32::MAX));
        assert!(Version::new(1, 8, 0) > Version::new(1, 7, u32::MAX));
        assert!(Version::new(1, 7, 2) > Version::new(1, 7, 1));
    }

    #[test]
    fn text_and_bytes_order_as_the_number_does() {
        let (old, new) = (Version::new(1, 0xff, 3), Version::new(1, 0x100, 1));
        assert!(old.to_string() < new.to_string());
        assert!(old.to_bytes() < new.to_bytes());
        assert_eq!(old.to_string().parse(), Ok(old));
        assert_eq!(Version::from_bytes(new.to_bytes()), new);
    }

    #[test]
    fn only_32_lowercase_hex_digits_parse() {
        for bad in ["", "1", "+0000000000000000000000000000001", "0000000000000000000000000000000G", &"A".repeat(32)] {
            assert_eq!(bad.parse::<Version>(), Err(VersionError), "{bad:?}");
        }
    }
}
