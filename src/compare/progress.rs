//! What a person sees meanwhile: a bar on a terminal, plain lines elsewhere, nothing for machines.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// How often a plain line is printed.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// How far a comparison is.
pub(super) struct Progress {
    view: View,
    table: String,
    rows: u64,
    total: u64,
    began: Instant,
}

enum View {
    Bar(ProgressBar),
    Lines { last: Instant },
    Silent,
}

impl Progress {
    pub(super) fn new(json: bool) -> Self {
        let view = match (json, std::io::stderr().is_terminal()) {
            (true, _) => View::Silent,
            (false, true) => {
                let style = ProgressStyle::with_template("{prefix:>20} [{bar:30}] {msg}");
                let bar = ProgressBar::new(0);
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
                View::Bar(bar)
            }
            (false, false) => View::Lines { last: Instant::now() },
        };
        Self { view, table: String::new(), rows: 0, total: 0, began: Instant::now() }
    }

    /// A table of about so many rows is read.
    pub(super) fn begin(&mut self, table: &str, total: u64) {
        (self.table, self.rows, self.total, self.began) = (table.to_owned(), 0, total, Instant::now());
        if let View::Bar(bar) = &self.view {
            bar.set_prefix(table.to_owned());
            bar.set_length(total);
        }
    }

    /// So many more rows were read.
    pub(super) fn pass(&mut self, rows: usize) {
        self.rows += u64::try_from(rows).unwrap_or_default();
        let percent = self.rows.saturating_mul(100).checked_div(self.total).unwrap_or(100).min(100);
        let rate = u128::from(self.rows).saturating_mul(1000).checked_div(self.began.elapsed().as_millis());
        let text =
            format!("{} of about {} rows, {percent}%, {} rows/s", self.rows, self.total, rate.unwrap_or_default());
        self.show(&text);
    }

    /// So many differences are waited for.
    pub(super) fn settle(&mut self, differences: usize, left: Duration) {
        self.show(&format!("{differences} differences may yet arrive, {} s left", left.as_secs()));
    }

    fn show(&mut self, text: &str) {
        match &mut self.view {
            View::Silent => {}
            View::Bar(bar) => {
                bar.set_position(self.rows);
                bar.set_message(text.to_owned());
            }
            View::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                eprintln!("{}: {text}", self.table);
            }
            View::Lines { .. } => {}
        }
    }

    pub(super) fn end(&self) {
        if let View::Bar(bar) = &self.view {
            bar.finish_and_clear();
        }
    }
}
