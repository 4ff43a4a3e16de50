//! Follows bulk shares to their end: a bar each on a terminal, plain lines elsewhere.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use syncline_producer::bulk::{Entry, Ledger, Order, Phase, Stock, cancel};
use uuid::Uuid;

use super::{OnStock, leave, status, told};
use crate::failure::Failure;

/// Quick enough for an eye, rare enough for a source.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How often a plain line is printed.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// A producer that is away for longer has stopped.
const PATIENCE: Duration = Duration::from_secs(10);

/// Leaves orders with a source and follows them.
pub(super) struct Follow<'a> {
    pub(super) orders: Vec<(Uuid, Order)>,
    pub(super) source: &'a str,
    pub(super) wait: bool,
    pub(super) json: bool,
}

impl OnStock for Follow<'_> {
    type Output = ();

    async fn run<K: Stock>(self, stock: K) -> Result<(), Failure> {
        let ids = leave(&stock, self.orders.clone()).await?;
        if !self.wait && !told(stock.is_read().await)? {
            let ledger = told(Ledger::read(&stock).await)?;
            self.leave_it(&ids, &ledger, "is planned and runs when the producer starts");
            return Ok(());
        }
        let mut view = View::new(self.json);
        let mut seen = Instant::now();
        let mut stopping = false;
        // Kept over all turns, lest it comes while the source is asked.
        let mut interrupted = Box::pin(tokio::signal::ctrl_c());
        loop {
            let ledger = told(Ledger::read(&stock).await)?;
            let mine: BTreeMap<Uuid, &Entry> =
                ids.iter().filter_map(|id| Some((*id, ledger.entries.get(id)?))).collect();
            view.show(&mine);
            if mine.values().all(|entry| entry.is_over()) {
                view.end();
                return self.ended(&mine);
            }
            if self.wait || told(stock.is_read().await)? {
                seen = Instant::now();
            } else if seen.elapsed() > PATIENCE {
                view.end();
                self.leave_it(&ids, &ledger, "goes on when the producer starts again");
                return Ok(());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                signal = &mut interrupted => {
                    signal?;
                    interrupted = Box::pin(tokio::signal::ctrl_c());
                    if stopping {
                        return Err(Failure::Other("left before the producer has stopped it".to_owned()));
                    }
                    stopping = true;
                    view.say("Asking the producer to stop it; once more to leave without waiting.");
                    for (id, entry) in mine.iter().filter(|(_, entry)| !entry.is_over()) {
                        told(cancel(&stock, *id, &entry.order).await)?;
                    }
                }
            }
        }
    }
}

impl Follow<'_> {
    fn leave_it(&self, ids: &[Uuid], ledger: &Ledger, what: &str) {
        let mine = ids.iter().filter_map(|id| Some((*id, ledger.entries.get(id)?)));
        if self.json {
            println!("{}", Value::Array(mine.map(|(id, entry)| status::describe(id, entry)).collect()));
            return;
        }
        for (_, entry) in mine {
            println!(
                "The bulk share of {} {what}: no producer reads the source {} now.",
                entry.order.share, self.source
            );
        }
    }

    /// The last word on each.
    fn ended(&self, mine: &BTreeMap<Uuid, &Entry>) -> Result<(), Failure> {
        if self.json {
            println!("{}", Value::Array(mine.iter().map(|(id, entry)| status::describe(*id, entry)).collect()));
        }
        let mut unfinished = Vec::new();
        for Entry { order, run } in mine.values().copied() {
            let Some(run) = run else { continue };
            let share = &order.share;
            if run.phase == Phase::Finished {
                if !self.json {
                    let (rows, rate) = (run.rows, run.rows_per_second());
                    println!("{share}: finished, {rows} rows in {}, {rate} rows/s", lasting(run.worked_ms / 1000));
                }
            } else {
                let reason = run.reason.as_deref().unwrap_or_default();
                unfinished.push(format!("{share}: {} after {} rows: {reason}", run.phase.as_str(), run.rows));
            }
        }
        if unfinished.is_empty() { Ok(()) } else { Err(Failure::Other(unfinished.join("\n"))) }
    }
}

/// What a person sees meanwhile.
enum View {
    Bars { all: MultiProgress, bars: BTreeMap<Uuid, ProgressBar> },
    Lines { last: BTreeMap<Uuid, (Instant, &'static str)> },
    Silent,
}

impl View {
    fn new(json: bool) -> Self {
        match (json, std::io::stderr().is_terminal()) {
            (true, _) => Self::Silent,
            (false, true) => Self::Bars { all: MultiProgress::new(), bars: BTreeMap::new() },
            (false, false) => Self::Lines { last: BTreeMap::new() },
        }
    }

    fn show(&mut self, entries: &BTreeMap<Uuid, &Entry>) {
        match self {
            Self::Silent => {}
            Self::Bars { all, bars } => {
                for (id, entry) in entries {
                    let bar = bars.entry(*id).or_insert_with(|| all.add(new_bar(&entry.order.share)));
                    if let Some(run) = &entry.run {
                        bar.set_length(run.rows_total.unwrap_or_default().max(run.rows));
                        bar.set_position(run.rows);
                    }
                    bar.set_message(progress(entry));
                    if entry.is_over() && !bar.is_finished() {
                        bar.abandon();
                    }
                }
            }
            Self::Lines { last } => {
                let now = Instant::now();
                for (id, entry) in entries {
                    let due = last.get(id).is_none_or(|(at, state)| {
                        *state != entry.state() || (!entry.is_over() && now - *at >= LINE_INTERVAL)
                    });
                    if due {
                        last.insert(*id, (now, entry.state()));
                        eprintln!("{}: {}", entry.order.share, progress(entry));
                    }
                }
            }
        }
    }

    fn say(&self, text: &str) {
        match self {
            // Nothing can be done about a terminal that is gone.
            Self::Bars { all, .. } => drop(all.println(text)),
            Self::Lines { .. } => eprintln!("{text}"),
            Self::Silent => {}
        }
    }

    fn end(&self) {
        if let Self::Bars { bars, .. } = self {
            bars.values().filter(|bar| !bar.is_finished()).for_each(ProgressBar::abandon);
        }
    }
}

fn new_bar(share: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix:>20} [{bar:30}] {msg}");
    let bar = ProgressBar::new(0).with_prefix(share.to_owned());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar
}

/// Rows, share of all, rate and time left, as far as they are known.
fn progress(entry: &Entry) -> String {
    let Some(run) = &entry.run else { return "planned".to_owned() };
    let Some(total) = run.rows_total.filter(|_| !entry.is_over()) else {
        return match entry.is_over() {
            true => format!("{}, {} rows", entry.state(), run.rows),
            false => "waiting for a snapshot".to_owned(),
        };
    };
    let (rows, rate) = (run.rows, run.rows_per_second());
    let percent = rows.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
    let mut text = format!("{rows} of about {total} rows, {percent}%");
    if rate > 0 {
        let left = total.saturating_sub(rows).checked_div(rate).unwrap_or_default();
        text.push_str(&format!(", {rate} rows/s, {} left", lasting(left)));
    }
    text
}

/// A length of time, as people say it.
fn lasting(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use syncline_producer::bulk::Run;

    use super::*;

    #[test]
    fn progress_tells_rate_and_time_left_as_far_as_they_are_known() {
        let order = Order {
            share: "incidents".to_owned(),
            query: None,
            changed_since: None,
            rows_per_second: None,
            records: None,
            member: None,
            schedule: None,
            planned_at: Timestamp::UNIX_EPOCH,
            cancel: false,
        };
        let mut entry = Entry { order, run: None };
        assert_eq!(progress(&entry), "planned");
        entry.run = Some(Run::begin(Uuid::nil(), Timestamp::UNIX_EPOCH));
        assert_eq!(progress(&entry), "waiting for a snapshot");
        let told = |entry: &mut Entry, rows, worked_ms| {
            let run = entry.run.as_mut().unwrap();
            (run.rows, run.rows_total, run.worked_ms) = (rows, Some(1_000_000), worked_ms);
            progress(entry)
        };
        assert_eq!(told(&mut entry, 0, 0), "0 of about 1000000 rows, 0%");
        assert_eq!(told(&mut entry, 250_000, 10_000), "250000 of about 1000000 rows, 25%, 25000 rows/s, 30 s left");
        assert_eq!(told(&mut entry, 1_000_900, 10_000), "1000900 of about 1000000 rows, 100%, 100090 rows/s, 0 s left");
        entry.run.as_mut().unwrap().phase = Phase::Finished;
        assert_eq!(progress(&entry), "finished, 1000900 rows");
        assert_eq!((lasting(61), lasting(7_260)), ("1 min 1 s".to_owned(), "2 h 1 min".to_owned()));
    }
}
