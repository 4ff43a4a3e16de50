//! Sends notifications as mails, by SMTP over TLS.
//!
//! Of what a mail server answers only the code is told: some repeat what they were sent, a login too.

use std::error::Error as StdError;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Identity, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use uuid::Uuid;

use super::NotifyError;
use super::config::EmailConfig;
use super::notice::Notice;
use crate::config::{Secret, read_bounded};
use crate::http::client::host_and_port;
use crate::tls::{TlsConfig, handshake_fault};

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// How long a mail server may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A chain of certificates has some kilobytes.
const PEM_BYTES_MAX: u64 = 1 << 20;
/// Ports of submission by TLS (RFC 8314) and by STARTTLS (RFC 6409).
const PORTS: (u16, u16) = (465, 587);

/// A mail server, and to whom.
#[derive(Clone, Debug)]
pub(super) struct Email {
    config: EmailConfig,
    /// What this machine calls itself.
    host: String,
}

impl Email {
    pub(super) const fn new(config: EmailConfig, host: String) -> Self {
        Self { config, host }
    }

    /// Host and port of the mail server.
    pub(super) fn address(&self) -> String {
        self.server().map_or_else(String::new, |(host, port, _)| format!("{host}:{port}"))
    }

    fn server(&self) -> Option<(String, u16, bool)> {
        let uri = self.config.address()?;
        let wrapped = uri.scheme_str() == Some("smtps");
        let (host, port) = host_and_port(&uri, if wrapped { PORTS.0 } else { PORTS.1 });
        Some((host.to_owned(), port, wrapped))
    }

    /// Hands one mail to the server. `Ok` means that it took it for all receivers.
    pub(super) async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let mail = self.mail(notice).map_err(|problem| self.setup(&problem))?;
        self.transport()?.send(mail).await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Connects and logs in; sends nothing.
    pub(super) async fn check(&self) -> Result<(), NotifyError> {
        self.transport()?.test_connection().await.map(drop).map_err(|error| self.failed(&error))
    }

    fn mail(&self, notice: &Notice) -> Result<Message, String> {
        let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|_| format!("{text:?} is no mail address"));
        let mut mail = Message::builder()
            .from(mailbox(&self.config.from)?)
            .message_id(Some(format!("<{}@{}>", Uuid::now_v7(), self.host)))
            .subject(notice.subject())
            .header(ContentType::TEXT_PLAIN);
        for to in &self.config.to {
            mail = mail.to(mailbox(to)?);
        }
        mail.body(notice.text()).map_err(|error| error.to_string())
    }

    /// Password and certificates are read anew, so that renewed ones are used.
    fn transport(&self) -> Result<Transport, NotifyError> {
        let config = &self.config;
        let Some((host, port, wrapped)) = self.server() else { return Err(self.setup("url is no address")) };
        let tls = parameters(&config.tls, &host).map_err(|problem| self.setup(&problem))?;
        let mut transport = Transport::builder_dangerous(host)
            .port(port)
            .tls(if wrapped { Tls::Wrapper(tls) } else { Tls::Required(tls) })
            .hello_name(ClientId::Domain(self.host.clone()))
            .timeout(Some(ANSWER_TIMEOUT));
        let password = Secret::resolve(config.password.as_ref(), config.password_file.as_deref());
        let password = password.map_err(|error| self.setup(&format!("password_file cannot be read: {error}")))?;
        if let (Some(user), Some(password)) = (&config.user, password) {
            transport = transport.credentials(Credentials::new(user.clone(), password.expose().to_owned()));
        }
        Ok(transport.build())
    }

    fn setup(&self, problem: &str) -> NotifyError {
        NotifyError::Setup { problem: problem.to_owned() }
    }

    fn failed(&self, error: &lettre::transport::smtp::Error) -> NotifyError {
        let address = self.address();
        let refused = |problem: String| NotifyError::Refused { address: self.address(), problem };
        if let Some(code) = error.status() {
            let hint = match u16::from(code) {
                530 | 535 => "look at user and password_file",
                550..=553 => "look at from and to, and at what the server may send for this user",
                _ => "look at the server's log",
            };
            return refused(format!("it answers {code}; {hint}"));
        }
        if let Some(problem) = handshake_fault(error) {
            return refused(problem);
        }
        let cause =
            error.source().map_or_else(|| "it does not answer as a mail server".to_owned(), ToString::to_string);
        // These are words of the library, such as that the server offers no STARTTLS.
        if error.is_client() { refused(cause) } else { NotifyError::Unreachable { address, problem: cause } }
    }
}

/// The certificates as the library wants them.
fn parameters(config: &TlsConfig, host: &str) -> Result<TlsParameters, String> {
    let read = |path: &std::path::Path| {
        read_bounded(path, PEM_BYTES_MAX).map_err(|error| format!("{} cannot be read: {error}", path.display()))
    };
    let mut tls = TlsParameters::builder(host.to_owned());
    if let Some(path) = &config.ca_file {
        let authorities = Certificate::from_pem(read(path)?.as_bytes()).map_err(|error| error.to_string())?;
        tls = tls.certificate_store(CertificateStore::None).add_root_certificate(authorities);
    }
    if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
        let identity = Identity::from_pem(read(cert)?.as_bytes(), read(key)?.as_bytes());
        tls = tls.identify_with(identity.map_err(|error| error.to_string())?);
    }
    tls.build().map_err(|error| error.to_string())
}
