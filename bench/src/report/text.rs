//! The table on the terminal.

use super::{Latency, Report, Row};

/// The whole report as text.
pub(crate) fn report(report: &Report) -> String {
    let mut out = String::new();
    if !report.figures.is_empty() {
        let head = [
            "workload",
            "side",
            "rows/s",
            "ratio",
            "A/A",
            "us: prod.",
            "cons.",
            "RabbitMQ",
            "PostgreSQL",
            "MiB: prod.",
            "cons.",
            "others",
        ];
        out += &table(&head, &report.figures.iter().map(line).collect::<Vec<_>>());
    }
    if !report.latencies.is_empty() {
        let head = ["latency at", "side", "written/s", "p50 ms", "p99 ms", "p99.9 ms", "rows"];
        out += "\n";
        out += &table(&head, &report.latencies.iter().map(latency).collect::<Vec<_>>());
    }
    out
}

fn line(row: &Row) -> Vec<String> {
    let whole = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.0}"));
    let tenth = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let mut cells = vec![
        row.workload.clone(),
        row.side.clone(),
        thousands(row.rate),
        row.ratio.map_or("1".to_owned(), |ratio| format!("{ratio:.2}")),
        format!("{:.0} %", row.spread * 100.0),
    ];
    cells.extend(row.cpu.all().map(tenth));
    cells.extend([whole(row.memory.producer), whole(row.memory.consumer), tenth(row.others)]);
    cells
}

fn latency(latency: &Latency) -> Vec<String> {
    let ms = |value: f64| format!("{value:.1}");
    let mut cells = vec![format!("{} rows/s", thousands(f64::from(latency.rate))), latency.side.clone()];
    cells.push(thousands(latency.written));
    cells.extend([latency.p50, latency.p99, latency.p999].map(ms));
    cells.push(latency.rows.to_string());
    cells
}

/// Columns as wide as their widest cell; the first two to the left, numbers to the right.
pub(crate) fn table(head: &[&str], lines: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let widths: Vec<usize> = (0..head.len())
        .map(|at| lines.iter().chain([&head]).filter_map(|line| Some(line.get(at)?.chars().count())).max().unwrap_or(0))
        .collect();
    let print = |line: &Vec<String>| {
        let cells = line.iter().zip(&widths).enumerate().map(|(at, (cell, &width))| match at {
            0 | 1 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    [&head].into_iter().chain(lines).map(print).collect()
}

/// `12,345`
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_aligned_to_the_right_and_names_to_the_left() {
        let lines =
            [vec!["a".to_owned(), "bb".to_owned(), "1".to_owned()], vec!["aaa".into(), "b".into(), "1,000".into()]];
        assert_eq!(table(&["x", "y", "n"], &lines), "x    y       n\na    bb      1\naaa  b   1,000\n");
    }

    #[test]
    fn thousands_are_grouped() {
        assert_eq!([0.4, 999.0, 1000.0, 1_234_567.0].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }
}
