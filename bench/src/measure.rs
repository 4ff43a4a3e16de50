//! Processor time and memory of processes, as Linux tells them in `/proc`. Elsewhere everything is unknown.

use std::fs;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Milliseconds of a tick in `/proc`: `USER_HZ` is 100 on every machine Linux is built for today.
const TICK_MS: u64 = 10;

/// One value for each part whose processor time is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Parts<T> {
    /// The producer.
    pub producer: T,
    /// The consumer.
    pub consumer: T,
    /// The broker with all its processes.
    pub rabbitmq: T,
    /// The PostgreSQL server with all its processes; source and target are on the same one.
    pub postgres: T,
}

impl<T: Copy> Parts<T> {
    /// The parts in the order they are printed.
    pub(crate) const fn all(&self) -> [T; 4] {
        [self.producer, self.consumer, self.rabbitmq, self.postgres]
    }

    /// The same of two.
    pub(crate) fn with<U: Copy, V>(&self, other: &Parts<U>, f: impl Fn(T, U) -> V) -> Parts<V> {
        Parts {
            producer: f(self.producer, other.producer),
            consumer: f(self.consumer, other.consumer),
            rabbitmq: f(self.rabbitmq, other.rabbitmq),
            postgres: f(self.postgres, other.postgres),
        }
    }

    fn map<V>(&self, f: impl Fn(T) -> V) -> Parts<V> {
        self.with(self, |value, _| f(value))
    }
}

/// What one run of one side took.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// Records changed.
    pub rows: u32,
    /// Seconds until the target had all of them.
    pub seconds: f64,
    /// Processor time per record in microseconds, where known.
    pub cpu: Parts<Option<f64>>,
    /// Peak resident memory of producer and consumer in MiB.
    pub memory: Parts<Option<f64>>,
    /// Processors that everything else on the machine kept busy meanwhile: noise.
    pub others: Option<f64>,
}

impl Run {
    /// Records per second.
    pub(crate) fn rate(&self) -> f64 {
        f64::from(self.rows) / self.seconds
    }
}

/// Takes the time and what the parts use of the processors.
pub(crate) struct Meter {
    begin: Instant,
    used: Parts<Option<Duration>>,
    busy: Option<Duration>,
    own: Option<Duration>,
}

impl Meter {
    /// Starts the clock. A part that is not running yet is counted from its start.
    pub(crate) fn start(pids: &Parts<Option<u32>>) -> Self {
        let own = tree_time(std::process::id());
        Self { used: pids.map(|pid| pid.and_then(tree_time)), busy: busy_time(), own, begin: Instant::now() }
    }

    /// What was used until now, for `rows` records that were there at `end`.
    pub(crate) fn stop(self, pids: &Parts<Option<u32>>, rows: u32, end: Instant) -> Run {
        let until = self.begin.elapsed().as_secs_f64();
        let now = pids.map(|pid| pid.and_then(tree_time));
        let used = now.with(&self.used, |now, before| Some(now?.saturating_sub(before.unwrap_or_default())));
        let known: Duration = used.all().into_iter().flatten().sum();
        let busy = busy_time().zip(self.busy).map(|(now, before)| now.saturating_sub(before));
        // This process has started the parts, and counts those that are its children itself once they end.
        let children: Duration = [used.producer, used.consumer].into_iter().flatten().sum();
        let own = tree_time(std::process::id()).zip(self.own).map(|(now, before)| now.saturating_sub(before));
        let own = own.unwrap_or_default().saturating_sub(children);
        Run {
            rows,
            seconds: end.saturating_duration_since(self.begin).as_secs_f64(),
            cpu: used.map(|used| used.map(|used| used.as_secs_f64() * 1e6 / f64::from(rows))),
            memory: Parts {
                producer: pids.producer.and_then(peak_mib),
                consumer: pids.consumer.and_then(peak_mib),
                ..Parts::default()
            },
            // What an unknown server used would be taken for noise.
            others: busy
                .filter(|_| used.postgres.is_some())
                .map(|busy| busy.saturating_sub(known).saturating_sub(own).as_secs_f64() / until),
        }
    }
}

/// Processor time of a process and all below it, those included that have ended and were waited for.
fn tree_time(root: u32) -> Option<Duration> {
    let all: Vec<Stat> =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| Stat::read(&entry.path().join("stat"))).collect();
    let mut tree = vec![root];
    let mut ticks = 0;
    while let Some(pid) = tree.pop() {
        ticks += all.iter().filter(|stat| stat.pid == pid).map(|stat| stat.ticks).sum::<u64>();
        tree.extend(all.iter().filter(|stat| stat.parent == pid).map(|stat| stat.pid));
    }
    all.iter().any(|stat| stat.pid == root).then(|| Duration::from_millis(TICK_MS * ticks))
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq)]
struct Stat {
    pid: u32,
    parent: u32,
    /// Of itself and of its children that were waited for, in user and system mode.
    ticks: u64,
}

impl Stat {
    fn read(path: &std::path::Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(path).ok()?)
    }

    /// The name of a program stands in brackets and may have blanks and brackets itself.
    fn parse(text: &str) -> Option<Self> {
        let pid = text.split(' ').next()?.parse().ok()?;
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = (11..=14).map(|at| fields.get(at)?.parse::<u64>().ok());
        Some(Self { pid, parent: fields.get(1)?.parse().ok()?, ticks: ticks.sum::<Option<u64>>()? })
    }
}

/// Time all processors were busy since the machine started.
fn busy_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, iowait, irq, softirq
    let ticks: Vec<u64> = stat.lines().next()?.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect();
    let busy = [0, 1, 2, 5, 6].into_iter().filter_map(|at| ticks.get(at)).sum::<u64>();
    Some(Duration::from_millis(TICK_MS * busy))
}

fn peak_mib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
}

/// The machine: its processor, how many of them, and the load of the last minute.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub model: String,
    /// How many.
    pub processors: usize,
    /// Load average of the last minute when the benchmark began.
    pub load: String,
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn see() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            model: model.map_or("unknown processor", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            load: load(),
        }
    }
}

/// Load average of the last minute.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_blanks_and_brackets_in_its_name() {
        let text = "42 (a (b) c) S 7 42 42 0 -1 4194560 10 0 0 0 3 4 5 6 20 0 1 0 100 0 0";
        assert_eq!(Stat::parse(text), Some(Stat { pid: 42, parent: 7, ticks: 18 }));
    }

    #[test]
    fn this_process_has_a_time_and_a_peak() {
        assert!(tree_time(std::process::id()).is_some());
        assert!(peak_mib(std::process::id()).is_some_and(|mib| mib > 0.1));
    }

    #[test]
    fn a_process_that_is_gone_has_no_time() {
        assert_eq!(tree_time(u32::MAX), None);
    }
}
