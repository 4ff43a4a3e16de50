//! A value that must not be shown.

use std::fmt;
use std::path::Path;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::FieldProblem;

/// A password, key or token. `Debug` shows nothing, there is no `Display` and no `Serialize`.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a secret text.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The secret itself. Call it where it is used, never to store or print it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from a file; one trailing line break is not part of it.
    ///
    /// # Errors
    /// The file cannot be read or is not UTF-8.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = Zeroizing::new(std::fs::read_to_string(path)?);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Self::new(text.strip_suffix('\r').unwrap_or(text).to_owned()))
    }

    /// The secret of a pair of configuration keys `x` and `x_file`; the file is read anew on every call, so that a
    /// rotated secret is used on the next connection.
    ///
    /// # Errors
    /// The file cannot be read or is not UTF-8.
    pub fn resolve(inline: Option<&Self>, file: Option<&Path>) -> std::io::Result<Option<Self>> {
        match (inline, file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => Self::read(path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// What is wrong with the pair `password` and `password_file`.
    #[must_use]
    pub fn validate_password(inline: Option<&Self>, file: Option<&Path>) -> Option<FieldProblem> {
        let field = "password_file";
        match (inline, file) {
            (Some(_), Some(_)) => Some((field, "stands beside password; keep one of the two".to_owned())),
            (None, Some(path)) => Self::read(path).err().map(|error| (field, format!("cannot be read: {error}"))),
            (Some(_) | None, None) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}
