//! What the fuzzer holds against the configuration: an input is a file's text.

use syncline_shared::config::{Document, Problems};

use super::{Config, Role, compile};

/// Reads an input as every service does; returns whether it was a configuration to one of them.
///
/// # Panics
/// When what is wrong is not said, or reading does what it must not: that is the finding.
pub(crate) fn run(input: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(input) else { return false };
    let mut fit = false;
    for role in [Role::Producer, Role::Consumer, Role::Both, Role::Queue] {
        let document = Document::parse("syncline.toml", text, &|name| (name == "NAME").then(|| "value".to_owned()));
        match Config::take(document, role) {
            Ok(config) => {
                fit = true;
                for (name, share) in &config.shares {
                    let _ = config.destinations(share);
                    assert!(compile(name, share).is_ok(), "a valid share does not compile");
                }
            }
            Err(problems) => told(&problems, text),
        }
    }
    fit
}

fn told(problems: &Problems, text: &str) {
    assert!(!problems.list.is_empty(), "refused without a problem");
    let lines = text.matches('\n').count() + 1;
    for problem in &problems.list {
        assert!(problem.line.is_none_or(|line| line <= lines), "a line that is not there");
        assert!(!problem.text.is_empty(), "a problem that says nothing");
    }
}

#[test]
fn every_seed_of_configuration_passes() {
    crate::replay::replay("configuration", run);
}
