//! `[notify]`: who is told of faults, and how often.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use hyper::Uri;
use lettre::message::Mailbox;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Document, FieldProblem, Secret, Span};
use crate::http::client;
use crate::tls::TlsConfig;

/// Shorter faults are those of a restart, and over before anybody has read of them.
const DEFAULT_AFTER: Span = Span::from_secs(60);
/// Often enough to be remembered, seldom enough to be read.
const DEFAULT_INTERVAL: Span = Span::from_secs(3600);
/// More is no notification.
const INTERVAL_MIN: Span = Span::from_secs(1);

/// `[notify]`: when receivers are told of faults, and the receivers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotifyConfig {
    /// How long a fault has to last before it is told, and how long all has to work before its end is. Default `60s`.
    #[serde(default = "default_after")]
    pub after: Span,
    /// Time from one message to the next while faults last; a second or more. Default `1h`.
    #[serde(default = "default_interval")]
    pub interval: Span,
    /// `[notify.email.NAME]`, by name.
    #[serde(default)]
    pub email: BTreeMap<String, EmailConfig>,
    /// `[notify.webhook.NAME]`, by name.
    #[serde(default)]
    pub webhook: BTreeMap<String, WebhookConfig>,
}

const fn default_after() -> Span {
    DEFAULT_AFTER
}

const fn default_interval() -> Span {
    DEFAULT_INTERVAL
}

/// `[notify.email.NAME]`: a mail server, and to whom.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// `smtps://host` (TLS from the first byte, port 465) or `smtp://host` (STARTTLS, port 587); both verified.
    pub url: String,
    /// Who logs in; needs a password. Default: no login.
    #[serde(default)]
    pub user: Option<String>,
    /// The password. Default: none.
    #[serde(default)]
    pub password: Option<Secret>,
    /// File of the password, read anew for every message. Default: none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsConfig,
    /// Who writes: `syncline@example.com`, or `Syncline <syncline@example.com>`.
    pub from: String,
    /// To whom; one or more.
    pub to: Vec<String>,
}

/// `[notify.webhook.NAME]`: an address that takes messages as JSON.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// `https://..` (verified) or `http://..`. Only its host is ever shown: some services have their secret in the path.
    pub url: Secret,
    /// What goes along as `Authorization: Bearer`. Default: nothing.
    #[serde(default)]
    pub token: Option<Secret>,
    /// File of the token, read anew for every message. Default: none.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// What the body is signed with, for `X-Syncline-Signature`. Default: it is not signed.
    #[serde(default)]
    pub secret: Option<Secret>,
    /// File of that secret, read anew for every message. Default: none.
    #[serde(default)]
    pub secret_file: Option<PathBuf>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsConfig,
}

impl fmt::Debug for WebhookConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookConfig").finish_non_exhaustive()
    }
}

impl NotifyConfig {
    /// Takes `[notify]` out of a document, reporting what is wrong with it; `None` when it is absent or unfit.
    pub fn read(document: &mut Document<'_>) -> Option<Self> {
        let config: Self = document.table("notify")?;
        if config.interval < INTERVAL_MIN {
            document.problem("notify.interval", "is too short; 1s or more");
        }
        if config.email.is_empty() && config.webhook.is_empty() {
            let text = "nobody is told: write [notify.email.NAME] or [notify.webhook.NAME]";
            document.problem("notify", text);
        }
        for (name, email) in &config.email {
            document.report(&format!("notify.email.{name}"), email.validate());
        }
        for (name, webhook) in &config.webhook {
            document.report(&format!("notify.webhook.{name}"), webhook.validate());
        }
        Some(config)
    }
}

impl EmailConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.address().is_none() {
            let accepted = "smtps://host or smtp://host (STARTTLS), maybe :port; the user has a key of its own";
            problems.push(("url", format!("is no address of a mail server; {accepted}")));
        }
        let password = self.password.is_some() || self.password_file.is_some();
        match (&self.user, password) {
            (Some(_), false) => problems.push(("user", "stands alone; it needs password_file or password".to_owned())),
            (None, true) => problems.push(("user", "is missing; whose password is it?".to_owned())),
            (Some(_), true) | (None, false) => {}
        }
        problems.extend(pair("password_file", "password", self.password.as_ref(), self.password_file.as_ref()));
        problems.extend(self.tls.validate());
        let mailbox = |field, text: &String| {
            let problem = format!("{text:?} is no mail address; name@example.com, or Name <name@example.com>");
            text.parse::<Mailbox>().err().map(|_| (field, problem))
        };
        problems.extend(mailbox("from", &self.from));
        problems.extend(self.to.iter().filter_map(|to| mailbox("to", to)));
        if self.to.is_empty() {
            problems.push(("to", "is empty; one mail address or more".to_owned()));
        }
        problems
    }

    /// The mail server's address, if it is one.
    pub(super) fn address(&self) -> Option<Uri> {
        client::parse(&self.url, ["smtps", "smtp"]).filter(|uri| uri.path().trim_matches('/').is_empty())
    }
}

impl WebhookConfig {
    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.address().is_none() {
            let text =
                "is no address; http:// or https://host/path, without user and password: token_file is for those";
            problems.push(("url", text.to_owned()));
        }
        problems.extend(pair("token_file", "token", self.token.as_ref(), self.token_file.as_ref()));
        problems.extend(pair("secret_file", "secret", self.secret.as_ref(), self.secret_file.as_ref()));
        problems.extend(self.tls.validate());
        problems
    }

    /// The address, if it is one.
    pub(super) fn address(&self) -> Option<Uri> {
        client::parse(self.url.expose(), ["http", "https"])
    }
}

/// What is wrong with a secret that stands there or in a file.
fn pair(
    field: &'static str,
    beside: &'static str,
    inline: Option<&Secret>,
    file: Option<&PathBuf>,
) -> Option<FieldProblem> {
    match (inline, file) {
        (Some(_), Some(_)) => Some((field, format!("stands beside {beside}; keep one of the two"))),
        (None, Some(path)) => Secret::read(path).err().map(|error| (field, format!("cannot be read: {error}"))),
        (Some(_) | None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a file, line by line.
    fn problems(text: &str) -> Vec<String> {
        let mut document = Document::parse("syncline.toml", text, &|_| None);
        NotifyConfig::read(&mut document);
        let problems = document.finish(&["notify"]).err();
        problems
            .into_iter()
            .flat_map(|problems| problems.list)
            .map(|one| format!("{}: {}", one.path, one.text))
            .collect()
    }

    #[test]
    fn every_problem_is_told_at_once_and_shows_no_secret() {
        let whole = "[notify]\n[notify.email.a]\nurl = \"smtps://mail\"\nfrom = \"a@b.c\"\nto = [\"On Call <c@d.e>\"]\n\
                     [notify.webhook.b]\nurl = \"https://chat/zqleak\"\ntoken = \"zqleak\"\nsecret = \"zqleak\"\n";
        assert_eq!(problems(whole), [""; 0]);
        assert_eq!(problems("[notify]\nafter = \"0s\"\n").len(), 1, "nobody is told");
        let unknown = format!("{whole}to = \"x\"\n");
        assert!(problems(&unknown)[0].starts_with("notify.webhook.b.to: unknown field"), "{unknown}");
        let wrong = "[notify]\nafter = \"soon\"\n";
        assert!(problems(wrong)[0].starts_with("notify.after: \"soon\" is no length of time"), "{wrong}");
        let told = problems(
            "[notify]\ninterval = \"0s\"\n[notify.email.a]\nurl = \"smtp://user:zqleak@mail\"\nuser = \"x\"\nfrom = \"nobody\"\n\
             to = []\n[notify.email.b]\nurl = \"mail:25\"\npassword = \"zqleak\"\npassword_file = \"nowhere\"\nfrom = \"a@b.c\"\n\
             to = [\"a@b.c\", \"b@\"]\ntls.ca_file = \"nowhere\"\n[notify.webhook.c]\nurl = \"ftp://zqleak\"\n\
             token_file = \"nowhere\"\nsecret = \"zqleak\"\nsecret_file = \"nowhere\"\n",
        );
        let paths: Vec<_> = told.iter().filter_map(|line| line.split(": ").next()?.strip_prefix("notify.")).collect();
        assert_eq!(
            paths,
            [
                "interval",
                "email.a.url",
                "email.a.user",
                "email.a.from",
                "email.a.to",
                "email.b.user",
                "email.b.url",
                "email.b.password_file",
                "email.b.to",
                "email.b.tls.ca_file",
                "webhook.c.url",
                "webhook.c.token_file",
                "webhook.c.secret_file",
            ]
        );
        assert!(told.iter().all(|line| !line.contains("zqleak")), "{told:?}");
    }
}
