//! Sends notifications as JSON, by HTTP.

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::{Request, StatusCode, Uri};
use sha2::Sha256;

use super::NotifyError;
use super::config::WebhookConfig;
use super::notice::Notice;
use crate::config::Secret;
use crate::http::client::{Client, default_port, host_and_port};

/// Some services answer with a page.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Carries the signature of the body: `sha256=` and 64 hexadecimal digits.
const SIGNATURE: &str = "x-syncline-signature";

/// An address that takes messages as JSON.
#[derive(Clone, Debug)]
pub(super) struct Webhook {
    config: WebhookConfig,
}

impl Webhook {
    pub(super) const fn new(config: WebhookConfig) -> Self {
        Self { config }
    }

    /// Host and port; the rest of the address may be a secret.
    pub(super) fn address(&self) -> String {
        self.config.address().map_or_else(String::new, |uri| {
            let (host, port) = host_and_port(&uri, default_port(&uri));
            format!("{host}:{port}")
        })
    }

    /// Posts one message. `Ok` means that it was answered with a status of success.
    pub(super) async fn send(&self, notice: &Notice) -> Result<(), NotifyError> {
        let (uri, mut client) = self.connect().await?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let body = notice.json();
        let mut request = Request::post(path)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("syncline/", env!("CARGO_PKG_VERSION")));
        let config = &self.config;
        if let Some(token) = resolve("token_file", config.token.as_ref(), config.token_file.as_deref())? {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        if let Some(secret) = resolve("secret_file", config.secret.as_ref(), config.secret_file.as_deref())? {
            request = request.header(SIGNATURE, format!("sha256={}", signature(&secret, body.as_bytes())));
        }
        let answer = client.ask(request, Bytes::from(body), ANSWER_BYTES_MAX).await;
        let (status, _) = answer.map_err(|error| self.unreachable(&error))?;
        let hint = match status {
            status if status.is_success() => return Ok(()),
            status if status.is_redirection() => "set url to where it moved",
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "look at token_file and secret_file",
            StatusCode::NOT_FOUND | StatusCode::GONE => "look at the path of url",
            _ => "look at its log",
        };
        Err(NotifyError::Refused { address: self.address(), problem: format!("it answers {status}; {hint}") })
    }

    /// Connects; sends nothing.
    pub(super) async fn check(&self) -> Result<(), NotifyError> {
        self.connect().await.map(drop)
    }

    async fn connect(&self) -> Result<(Uri, Client), NotifyError> {
        let no_address = || NotifyError::Setup { problem: "url is no address".to_owned() };
        let uri = self.config.address().ok_or_else(no_address)?;
        let connected = Client::connect(&uri, default_port(&uri), &self.config.tls).await;
        let client = connected.map_err(|error| self.unreachable(&error))?;
        Ok((uri, client))
    }

    fn unreachable(&self, error: &std::io::Error) -> NotifyError {
        NotifyError::Unreachable { address: self.address(), problem: error.to_string() }
    }
}

/// Read anew for every message, so that a rotated secret is used.
fn resolve(
    field: &str,
    inline: Option<&Secret>,
    file: Option<&std::path::Path>,
) -> Result<Option<Secret>, NotifyError> {
    let setup = |error| NotifyError::Setup { problem: format!("{field} cannot be read: {error}") };
    Secret::resolve(inline, file).map_err(setup)
}

/// HMAC-SHA-256 (RFC 2104) in hexadecimal.
fn signature(secret: &Secret, body: &[u8]) -> String {
    let Ok(mac) = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()) else {
        unreachable!("a key of any length will do")
    };
    mac.chain_update(body).finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_rfc_4231() {
        // Test case 2.
        let signed = signature(&Secret::new("Jefe".to_owned()), b"what do ya want for nothing?");
        assert_eq!(signed, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }
}
