//! Certificates of one test: an authority, and what it signs for servers and clients.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority whose files are in a folder.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    /// PEM file of its certificate: the `ca_file` of whoever trusts it.
    pub ca_file: PathBuf,
}

/// A certificate with its key, as PEM files.
pub struct Certificate {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

impl Authority {
    /// Makes an authority; `name` names its files in `folder`.
    pub fn create(folder: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, format!("test authority {name}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca_file = write(folder, &format!("{name}.pem"), &issuer.pem());
        Self { issuer, folder: folder.to_owned(), ca_file }
    }

    /// Signs a server's certificate for a host name or an IP address.
    pub fn server(&self, host: &str) -> Certificate {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        self.sign(params, &format!("server-{host}"), ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Signs a client's certificate; `user` is its common name.
    pub fn client(&self, user: &str) -> Certificate {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        self.sign(params, &format!("client-{user}"), ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, mut params: CertificateParams, file: &str, usage: ExtendedKeyUsagePurpose) -> Certificate {
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Certificate {
            cert_file: write(&self.folder, &format!("{file}.pem"), &certificate.pem()),
            key_file: write(&self.folder, &format!("{file}.key"), &key.serialize_pem()),
        }
    }
}

fn write(folder: &Path, name: &str, pem: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, pem).unwrap();
    path
}
