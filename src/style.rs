//! Colours of what a person reads. `anstream` leaves them out where nobody sees them: in pipes and files, and where
//! `NO_COLOR` says so.

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

/// Whether lines to standard error have colours.
pub(crate) fn on_stderr() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}
