//! TLS for clients: one crypto provider (ring), verification always on.

use std::error::Error as StdError;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use schemars::JsonSchema;
use serde::Deserialize;
use tempfile::NamedTempFile;
use thiserror::Error;

use crate::config::FieldProblem;

/// Certificates of a connection. Without any, the system's authorities are trusted and no client certificate is shown.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate chain; needs `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's private key; needs `cert_file`.
    pub key_file: Option<PathBuf>,
}

/// Certificates that cannot be used.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A PEM file cannot be read or holds nothing of use.
    #[error("cannot read {path:?}: {problem}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The system has no trusted authorities.
    #[error("this system has no trusted certificate authorities; set ca_file")]
    NoAuthorities,
    /// The system's authorities cannot be handed over in a file.
    #[error("the system's authorities cannot be written to a temporary file; set ca_file")]
    Temporary(#[source] std::io::Error),
    /// The certificate and key do not fit together, or only one of them is given.
    #[error("the client certificate cannot be used: {problem}")]
    Client {
        /// What is wrong.
        problem: String,
    },
}

impl TlsConfig {
    /// Everything wrong with these files, as fields of `tls`.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => problems.push(("tls.cert_file", "stands alone; it needs key_file".to_owned())),
            (None, Some(_)) => problems.push(("tls.key_file", "stands alone; it needs cert_file".to_owned())),
            (None, None) | (Some(_), Some(_)) => {}
        }
        for (field, path) in [("tls.ca_file", &self.ca_file), ("tls.cert_file", &self.cert_file)] {
            let Some(path) = path else { continue };
            match certificates(path) {
                Ok(found) if found.is_empty() => {
                    problems.push((field, "holds no certificate; a PEM file with one or more".to_owned()));
                }
                Ok(_) => {}
                Err(error) => problems.push((field, format!("{error}; a PEM file of certificates"))),
            }
        }
        if let Some(path) = &self.key_file
            && let Err(error) = private_key(path)
        {
            problems.push(("tls.key_file", format!("{error}; a PEM file of a private key")));
        }
        problems
    }

    /// Builds a client configuration that verifies the server's certificate and name.
    ///
    /// Files are read anew on every call, so that renewed certificates are used on the next connection.
    ///
    /// # Errors
    /// [`TlsError`]; systemic, mend the files.
    pub fn client(&self) -> Result<ClientConfig, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(path) => {
                let (added, _) = roots.add_parsable_certificates(certificates(path)?);
                if added == 0 {
                    return Err(TlsError::Pem { path: path.clone(), problem: "it holds no certificate".to_owned() });
                }
            }
            None => {
                let (added, _) = roots.add_parsable_certificates(system_authorities()?);
                if added == 0 {
                    return Err(TlsError::NoAuthorities);
                }
            }
        }
        let client = |problem: String| TlsError::Client { problem };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|cause| client(cause.to_string()))?
            .with_root_certificates(roots);
        match (&self.cert_file, &self.key_file) {
            (None, None) => Ok(builder.with_no_client_auth()),
            (Some(cert), Some(key)) => builder
                .with_client_auth_cert(certificates(cert)?, private_key(key)?)
                .map_err(|cause| client(cause.to_string())),
            (Some(_), None) | (None, Some(_)) => Err(client("cert_file and key_file belong together".to_owned())),
        }
    }
}

/// The authorities to trust as a PEM file, for a client that takes no other form.
#[derive(Debug)]
pub enum AuthoritiesFile {
    /// The one that is configured.
    Configured(PathBuf),
    /// The system's, in a file that is removed when this is dropped.
    System(NamedTempFile),
}

impl AuthoritiesFile {
    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Configured(path) => path,
            Self::System(file) => file.path(),
        }
    }
}

impl TlsConfig {
    /// The authorities [`TlsConfig::client`] trusts, as a file.
    ///
    /// # Errors
    /// [`TlsError`]; systemic.
    pub fn authorities_file(&self) -> Result<AuthoritiesFile, TlsError> {
        if let Some(path) = &self.ca_file {
            return Ok(AuthoritiesFile::Configured(path.clone()));
        }
        let mut pem = String::new();
        for certificate in system_authorities()? {
            let base64 = STANDARD.encode(certificate);
            pem.push_str(&format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n"));
        }
        let mut file = NamedTempFile::new().map_err(TlsError::Temporary)?;
        file.write_all(pem.as_bytes()).map_err(TlsError::Temporary)?;
        Ok(AuthoritiesFile::System(file))
    }
}

/// What a handshake that failed means; `None` when it says nothing, as a connection that broke does.
#[must_use]
pub fn handshake_fault(error: &(dyn StdError + 'static)) -> Option<String> {
    let fault = rustls_fault(error)?;
    // An authority of the same name and another key shows as a bad signature.
    let untrusted =
        [CertificateError::UnknownIssuer, CertificateError::BadSignature].map(rustls::Error::InvalidCertificate);
    let hint = if untrusted.contains(fault) {
        "its authority is not trusted: set ca_file of tls"
    } else if matches!(fault, rustls::Error::InvalidCertificate(_)) {
        "mend the server's certificate, or the host in the url"
    } else if matches!(fault, rustls::Error::AlertReceived(_)) {
        "the server refuses: look at its log, and at cert_file of tls"
    } else {
        "the two ends have no form of tls in common"
    };
    Some(format!("{fault}; {hint}"))
}

/// The error of rustls among the causes; an I/O error hides what it wraps from `source`.
fn rustls_fault<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let wrapped = wrapped.map(|wrapped| -> &(dyn StdError + 'static) { wrapped });
        let fault = [Some(error), wrapped].into_iter().flatten().find_map(|error| error.downcast_ref());
        if fault.is_some() {
            return fault;
        }
        next = error.source();
    }
    None
}

fn system_authorities() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs().certs;
    if found.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(found) }
}

/// The certificates of a PEM file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |problem: String| TlsError::Pem { path: path.to_owned(), problem };
    CertificateDer::pem_file_iter(path)
        .map_err(|cause| pem(cause.to_string()))?
        .collect::<Result<_, _>>()
        .map_err(|cause| pem(cause.to_string()))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|cause| TlsError::Pem { path: path.to_owned(), problem: cause.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let empty = folder.path().join("empty.pem");
        std::fs::write(&empty, "").expect("a file");
        let fields = |tls: TlsConfig| tls.validate().into_iter().map(|(field, _)| field).collect::<Vec<_>>();
        assert_eq!(fields(TlsConfig::default()), Vec::<&str>::new());
        let absent = Some(folder.path().join("absent.pem"));
        let tls = TlsConfig { ca_file: Some(empty), cert_file: absent.clone(), key_file: absent.clone() };
        assert_eq!(fields(tls), ["tls.ca_file", "tls.cert_file", "tls.key_file"]);
        let alone = TlsConfig { key_file: absent, ..TlsConfig::default() };
        assert_eq!(fields(alone), ["tls.key_file", "tls.key_file"]);
    }
}
