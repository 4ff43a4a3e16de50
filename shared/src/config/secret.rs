//! A value that must not be shown.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::FieldProblem;

/// More than any key or token has.
const SECRET_FILE_BYTES_MAX: u64 = 64 << 10;

/// A password, key or token. `Debug` shows nothing, there is no `Display` and no `Serialize`.
#[derive(Clone, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(transparent)]
pub struct Secret(#[schemars(with = "String")] Zeroizing<String>);

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
    /// The file cannot be read, is not UTF-8, or has more than 64 KiB.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let text = Zeroizing::new(read_bounded(path, SECRET_FILE_BYTES_MAX)?);
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

/// Reads a text of at most so many bytes; a device or a wrong path does not fill the memory.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or has more.
pub fn read_bounded(path: &Path, bytes_max: u64) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        let problem = format!("it has more than {bytes_max} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_file_of_bounded_size_links_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, link) = (folder.path().join("secret"), folder.path().join("link"));
        std::fs::write(&file, "correct horse\r\n").expect("written");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        assert_eq!(Secret::read(&link).expect("read").expose(), "correct horse");
        assert!(Secret::read(folder.path()).is_err());
        let endless = Secret::read(Path::new("/dev/zero")).expect_err("endless");
        assert_eq!(endless.to_string(), "it has more than 65536 bytes");
    }
}
