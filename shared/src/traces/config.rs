//! `[traces]`: where spans go, and how many.

use hyper::Uri;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Document, FieldProblem};
use crate::http::client;
use crate::tls::TlsConfig;

/// Where OTLP collectors take spans, unless the address says otherwise.
const DEFAULT_PATH: &str = "/v1/traces";

/// `[traces]`: an OpenTelemetry collector that gets a span of every batch.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TracesConfig {
    /// Where a collector takes OTLP by HTTP: `http://host:4318` or `https://..` (verified). Without a path, `/v1/traces` is
    /// added.
    pub url: String,
    /// The part of all batches that is traced; above 0, up to 1. Default 1.
    #[serde(default = "default_sample_ratio")]
    pub sample_ratio: f64,
    /// `service.name` of the spans. Default `syncline-` and the command: `producer`, `consumer` or `up`.
    #[serde(default)]
    pub service_name: Option<String>,
    /// Certificates.
    #[serde(default)]
    pub tls: TlsConfig,
}

const fn default_sample_ratio() -> f64 {
    1.0
}

impl TracesConfig {
    /// Takes `[traces]` out of a document, reporting what is wrong with it; `None` when it is absent or unfit.
    pub fn read(document: &mut Document<'_>) -> Option<Self> {
        let config: Self = document.table("traces")?;
        document.report("traces", config.validate());
        Some(config)
    }

    /// Everything wrong with these settings.
    #[must_use]
    pub fn validate(&self) -> Vec<FieldProblem> {
        let mut problems: Vec<FieldProblem> = Vec::new();
        if self.address().is_none() {
            let text = "is no address of a collector; http:// or https://host, maybe :port and /path, without user and password";
            problems.push(("url", text.to_owned()));
        }
        if !(self.sample_ratio > 0.0 && self.sample_ratio <= 1.0) {
            let text =
                format!("{} is out of range; above 0, up to 1; for no traces leave out [traces]", self.sample_ratio);
            problems.push(("sample_ratio", text));
        }
        if self.service_name.as_ref().is_some_and(|name| name.trim().is_empty()) {
            problems.push(("service_name", "is empty; a name, or leave it out".to_owned()));
        }
        problems.extend(self.tls.validate());
        problems
    }

    /// Where spans go, if that is an address.
    pub(super) fn address(&self) -> Option<Uri> {
        client::parse(&self.url, ["http", "https"])
    }

    /// The path of an address.
    pub(super) fn path(address: &Uri) -> &str {
        match address.path_and_query().map(|path| path.as_str()) {
            None | Some("/") => DEFAULT_PATH,
            Some(path) => path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a file.
    fn problems(text: &str) -> Vec<String> {
        let mut document = Document::parse("syncline.toml", text, &|_| None);
        TracesConfig::read(&mut document);
        let problems = document.finish(&["traces"]).err().into_iter().flat_map(|problems| problems.list);
        problems.map(|one| format!("{}:{} {}", one.line.unwrap_or_default(), one.path, one.text)).collect()
    }

    #[test]
    fn every_problem_is_told_at_once_with_its_line_and_what_is_accepted() {
        assert_eq!(problems(""), [""; 0]);
        assert_eq!(problems("[traces]\nurl = \"http://collector:4318\"\n"), [""; 0]);
        let whole = "[traces]\nurl = \"https://collector/otlp\"\nsample_ratio = 1\nservice_name = \"desk\"\n";
        assert_eq!(problems(whole), [""; 0]);
        assert!(problems("[traces]\n")[0].contains("missing field `url`"));
        assert!(problems(&format!("{whole}headers = {{}}\n"))[0].contains("unknown field"), "no such option");
        let wrong = "[traces]\nurl = \"collector:4318\"\nsample_ratio = 1.5\nservice_name = \" \"\n\
                     tls = { ca_file = \"nowhere\" }\n";
        let told = problems(wrong);
        let expected = [
            "2:traces.url is no address of a collector; http:// or https://host",
            "3:traces.sample_ratio 1.5 is out of range; above 0, up to 1",
            "4:traces.service_name is empty",
            "5:traces.tls.ca_file",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        assert!(told.iter().zip(expected).all(|(told, expected)| told.starts_with(expected)), "{told:?}");
        for ratio in ["0", "-1", "nan", "inf"] {
            let told = problems(&format!("[traces]\nurl = \"http://c\"\nsample_ratio = {ratio}\n"));
            assert!(told[0].contains("out of range"), "{ratio}");
        }
        let secret = problems("[traces]\nurl = \"http://user:zqleak@collector\"\n");
        assert!(secret[0].contains("without user and password") && !secret[0].contains("zqleak"), "{secret:?}");
    }

    #[test]
    fn a_path_is_taken_as_it_stands() {
        let path = |url: &str| {
            let uri = client::parse(url, ["http", "https"]).expect("an address");
            TracesConfig::path(&uri).to_owned()
        };
        assert_eq!([path("http://c:4318"), path("http://c/")], [DEFAULT_PATH; 2]);
        assert_eq!(path("https://c/otlp/v1/traces?tenant=1"), "/otlp/v1/traces?tenant=1");
    }
}
