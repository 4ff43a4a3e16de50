//! What time wears out, as metrics: certificates that end and keys that grow old.
//!
//! Certificates are looked at again every minute, since they are renewed in the files they are in. What cannot be read has
//! no value: the connection that needs it says why.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use prometheus::{GaugeVec, Registry};
use rustls::pki_types::CertificateDer;

use crate::metrics::timestamp;
use crate::tasks::Stop;
use crate::tls::{TlsConfig, certificates};

/// Soon enough for what is counted in days.
const INTERVAL: Duration = Duration::from_secs(60);

/// The ends of certificates and the beginnings of keys. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Expiry {
    ends: GaugeVec,
    created: GaugeVec,
}

impl Expiry {
    /// Registers both metrics.
    ///
    /// # Errors
    /// A metric of that name exists already.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            ends: timestamp(
                registry,
                "syncline_certificate_expires_timestamp_seconds",
                "End of the certificates in a file, in seconds since 1970",
                &["part", "file"],
            )?,
            created: timestamp(
                registry,
                "syncline_key_created_timestamp_seconds",
                "The day a key was created, in seconds since 1970",
                &["key"],
            )?,
        })
    }

    /// Notes the day a key was created.
    pub fn key(&self, id: &str, created: Date) {
        if let Ok(day) = created.to_zoned(TimeZone::UTC) {
            self.created.with_label_values(&[id]).set(day.timestamp().as_duration().as_secs_f64());
        }
    }

    /// Looks at the certificates of these parts until the shutdown.
    ///
    /// # Errors
    /// Never.
    pub async fn watch(self, parts: Vec<(String, TlsConfig)>, mut stop: Stop) -> Result<(), Infallible> {
        let parts = Arc::new(parts);
        loop {
            // A file with the authorities of a whole system takes its time.
            let (this, these) = (self.clone(), Arc::clone(&parts));
            let looked = tokio::task::spawn_blocking(move || this.look(&these));
            // What ended it is told where it ended.
            let _ = stop.or(looked).await;
            if stop.or(tokio::time::sleep(INTERVAL)).await.is_none() {
                return Ok(());
            }
        }
    }

    /// A certificate chain ends with the first of it, authorities with the last: until then there is one to trust.
    fn look(&self, parts: &[(String, TlsConfig)]) {
        for (part, tls) in parts {
            let chain = tls.cert_file.as_deref().and_then(|path| ends(path).into_iter().min());
            let authorities = tls.ca_file.as_deref().and_then(|path| ends(path).into_iter().max());
            for (file, end) in [("cert_file", chain), ("ca_file", authorities)] {
                let labels = [part.as_str(), file];
                match end {
                    #[expect(clippy::cast_precision_loss, reason = "a second is precise enough for any date")]
                    Some(end) => self.ends.with_label_values(&labels).set(end as f64),
                    // Fails when there was none.
                    None => drop(self.ends.remove_label_values(&labels)),
                }
            }
        }
    }
}

/// When the certificates of a file end, in seconds since 1970.
fn ends(path: &Path) -> Vec<i64> {
    let end = |certificate: &CertificateDer<'_>| {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    };
    certificates(path).unwrap_or_default().iter().filter_map(end).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use prometheus::{Encoder as _, TextEncoder};
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    /// Seconds from 1970 to the start of 2031 and of 2032.
    const ENDS: [&str; 2] = ["1924992000", "1956528000"];

    fn certificate(year: i32) -> String {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 1);
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem()
    }

    fn told(registry: &Registry) -> Vec<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&registry.gather(), &mut text).expect("metrics");
        let text = String::from_utf8(text).expect("text");
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn a_chain_ends_with_its_first_certificate_and_authorities_with_the_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let both = [certificate(2031), certificate(2032)].concat();
        let file = |name: &str, text: &str| -> PathBuf {
            std::fs::write(folder.path().join(name), text).expect("written");
            folder.path().join(name)
        };
        let tls = TlsConfig { ca_file: Some(file("ca", &both)), cert_file: Some(file("cert", &both)), key_file: None };
        let registry = Registry::new();
        let expiry = Expiry::new(&registry).expect("metrics");
        let parts = [("queue".to_owned(), tls), ("target crm".to_owned(), TlsConfig::default())];
        expiry.look(&parts);
        let line = |file: &str, end: &str| {
            format!("syncline_certificate_expires_timestamp_seconds{{file=\"{file}\",part=\"queue\"}} {end}")
        };
        assert_eq!(told(&registry), [line("ca_file", ENDS[1]), line("cert_file", ENDS[0])]);
        // Renewed in place; and one that is not to be read says nothing rather than something old.
        file("cert", &certificate(2032));
        file("ca", "");
        expiry.look(&parts);
        assert_eq!(told(&registry), [line("cert_file", ENDS[1])]);
    }

    #[test]
    fn a_key_tells_the_day_it_was_created() {
        let registry = Registry::new();
        Expiry::new(&registry).expect("metrics").key("2026-11", jiff::civil::date(2031, 1, 1));
        assert_eq!(told(&registry), [format!("syncline_key_created_timestamp_seconds{{key=\"2026-11\"}} {}", ENDS[0])]);
    }
}
