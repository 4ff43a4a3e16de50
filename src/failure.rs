//! How the program ends badly: what a person reads, and the exit code.

use std::process::ExitCode;

use anstream::eprintln;
use syncline_shared::config::Problems;
use syncline_shared::tasks::chain;

use crate::style::{BAD, PLACE, counted};

/// Why a command failed, in plain sentences, and its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is wrong: exit 78 (`EX_CONFIG`).
    Config(Problems),
    /// The configuration file cannot be read: exit 78.
    NoConfig(String),
    /// A system is out of reach or not fit: exit 69 (`EX_UNAVAILABLE`).
    Unavailable(String),
    /// The command line names what is not there: exit 64 (`EX_USAGE`).
    Usage(String),
    /// What was compared is not the same, and that was said: exit 1.
    Different,
    /// Anything else: exit 1.
    Other(String),
}

impl Failure {
    /// Prints what went wrong and what to do; the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        match self {
            Self::Config(problems) => {
                for line in problems.to_string().lines() {
                    let (place, text) = line.split_once(": ").unwrap_or(("", line));
                    eprintln!("{PLACE}{place}:{PLACE:#} {text}");
                }
                let count = counted(problems.list.len(), "problem");
                eprintln!("\n{BAD}{count} in the configuration.{BAD:#} No system was asked yet.");
                eprintln!(
                    "Every key is explained in docs/configuration.md; `syncline config schema` has an editor complete them."
                );
                ExitCode::from(78)
            }
            Self::NoConfig(text) => {
                eprintln!("{text}");
                ExitCode::from(78)
            }
            Self::Unavailable(text) => {
                eprintln!("{text}");
                ExitCode::from(69)
            }
            Self::Usage(text) => {
                eprintln!("syncline: {text}");
                ExitCode::from(64)
            }
            Self::Different => ExitCode::FAILURE,
            Self::Other(text) => {
                eprintln!("syncline: {text}");
                ExitCode::FAILURE
            }
        }
    }

    /// A failure of our own, told with its causes.
    pub(crate) fn other(error: &(dyn std::error::Error + 'static)) -> Self {
        Self::Other(chain(error))
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Config(problems)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::other(&error)
    }
}

impl From<prometheus::Error> for Failure {
    fn from(error: prometheus::Error) -> Self {
        Self::other(&error)
    }
}
