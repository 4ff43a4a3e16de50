//! `syncline keys`: secrets for the keyring.

use std::io::Write as _;
use std::path::Path;

use crate::failure::Failure;

/// Random bytes of a secret; as text they are 64 characters, more than any cipher needs.
const SECRET_BYTES: usize = 32;

/// Prints a new secret, or writes it to a new file that only its owner can read.
pub(crate) fn generate(out: Option<&Path>) -> Result<(), Failure> {
    let Some(path) = out else {
        println!("{}", secret()?);
        return Ok(());
    };
    write_secret(path)?;
    let path = path.display();
    println!(
        "Wrote a new secret to {path}. Both services need it:\n\n[key.\"NAME\"]\ncipher = \"AES256\"\nsecret_file = \"{path}\""
    );
    Ok(())
}

/// Writes a new secret to a new file that only its owner can read.
pub(crate) fn write_secret(path: &Path) -> Result<(), Failure> {
    let secret = secret()?;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path).map_err(|error| {
        let path = path.display();
        Failure::Other(if error.kind() == std::io::ErrorKind::AlreadyExists {
            format!("{path} exists and is never overwritten; name another file, a new secret needs a new id anyway")
        } else {
            format!("cannot write the secret to {path}: {error}")
        })
    })?;
    writeln!(file, "{secret}")?;
    Ok(())
}

fn secret() -> Result<String, Failure> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| Failure::Other(format!("no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
