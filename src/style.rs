//! Colours and counts of what a person reads. `anstream` leaves them out where nobody sees them: in pipes and files, and where
//! `NO_COLOR` says so.

use std::fmt::Display;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// Works.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Does not work.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// May well be meant so.
pub(crate) const NOTE: Style = AnsiColor::Yellow.on_default();
/// Where it is.
pub(crate) const PLACE: Style = Style::new().bold();

/// A count of things, in words.
pub(crate) fn counted(count: impl Display + PartialEq + From<u8>, what: &str) -> String {
    let s = if count == 1.into() { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// Whether lines to standard error have colours.
pub(crate) fn on_stderr() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}
