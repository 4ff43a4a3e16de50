//! The page with plots.

use super::plot::{Bar, Span, bars, escape, spans};
use super::text::{self, thousands};
use super::{Report, Row};

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #d0d7de; --own: #57606a; --ours: #0969da;
  --producer: #0969da; --consumer: #1a7f37; --rabbitmq: #bc4c00; --postgres: #8c959f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --soft: #30363d; --own: #8b949e;
  --ours: #58a6ff; --producer: #58a6ff; --consumer: #56d364; --rabbitmq: #f0883e; --postgres: #6e7681; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2.5rem 0 .3rem; }
p { margin: .2rem 0 .8rem; } svg { width: 100%; height: auto; font-size: 12px; } svg text { fill: var(--ink); }
pre { overflow-x: auto; font-size: 11.5px; border: 1px solid var(--soft); padding: .8rem; border-radius: 6px; }
.label { text-anchor: end; } .scale { text-anchor: middle; } .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
.grid { stroke: var(--soft); } .own { fill: var(--own); } .ours { fill: var(--ours); } .producer { fill: var(--producer); }
.consumer { fill: var(--consumer); } .rabbitmq { fill: var(--rabbitmq); } .postgres { fill: var(--postgres); }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 1em; }
.key.producer { background: var(--producer); } .key.consumer { background: var(--consumer); }
.key.rabbitmq { background: var(--rabbitmq); } .key.postgres { background: var(--postgres); }
";

/// The whole report as a page.
pub(crate) fn page(report: &Report) -> String {
    let machine = &report.machine;
    let mut body = format!(
        "<h1>Syncline, measured</h1><p>{}, {:.0} s, on {} processors ({}); load {} at the start, {} at the end.<br>{}. \
         {} records a load, {} rows a bulk share.</p>",
        escape(&report.begun),
        report.seconds,
        machine.processors,
        escape(&machine.model),
        escape(&machine.load),
        escape(&report.load_at_the_end),
        escape(&report.versions.join(", ")),
        thousands(f64::from(report.rows[0])),
        thousands(f64::from(report.rows[1])),
    );
    if let Some(failure) = &report.failure {
        body += &format!("<p><b>It ended early: {}</b></p>", escape(failure));
    }
    let rows = &report.figures;
    if !rows.is_empty() {
        body += &section(
            "Beside PostgreSQL's own replication",
            "Records per second in the target, in parts of what the first side of each workload reached (the dashed line). \
             Behind it how far two runs of the side are apart.",
            &bars(&ratios(rows), Some(1.0)),
        );
        body += &section("Records per second in the target", "", &bars(&rates(rows), None));
        let parts =
            [("producer", "producer"), ("consumer", "consumer"), ("rabbitmq", "RabbitMQ"), ("postgres", "PostgreSQL")];
        let key = parts.map(|(class, name)| format!("<span class=\"key {class}\"></span>{name}")).concat();
        body += &section("Processor time of one record, in microseconds", &key, &bars(&costs(rows), None));
    }
    if !report.latencies.is_empty() {
        let explain = "From the commit at the source to a reader of the target. Dots: p50, p99, p99.9.";
        body += &section("Latency", explain, &spans(&latencies(report)));
    }
    body += &format!("<h2>Figures</h2><pre>{}</pre>", escape(&text::report(report)));
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Syncline, measured</title><style>{STYLE}</style><body>{body}</body></html>\n"
    )
}

fn section(title: &str, explain: &str, plot: &str) -> String {
    format!("<h2>{title}</h2><p>{explain}</p>{plot}")
}

/// One bar for each row that `make` wants one for; rows of a workload stand together.
fn grouped(rows: &[Row], make: impl Fn(&Row) -> Option<(Vec<(&'static str, f64)>, String)>) -> Vec<Bar> {
    let mut before = "";
    let bar = |row: &Row, first| {
        let (parts, value) = make(row)?;
        Some(Bar { label: format!("{}  {}", row.workload, row.side), parts, value, first })
    };
    let mut all = Vec::new();
    for row in rows {
        if let Some(bar) = bar(row, before != row.workload) {
            all.push(bar);
            before = &row.workload;
        }
    }
    all
}

fn ratios(rows: &[Row]) -> Vec<Bar> {
    grouped(rows, |row| {
        let ratio = row.ratio?;
        Some((vec![("ours", ratio)], format!("{ratio:.2} (A/A {:.0} %)", row.spread * 100.0)))
    })
}

fn rates(rows: &[Row]) -> Vec<Bar> {
    let class = |row: &Row| if row.ratio.is_some() { "ours" } else { "own" };
    grouped(rows, |row| Some((vec![(class(row), row.rate)], thousands(row.rate))))
}

fn costs(rows: &[Row]) -> Vec<Bar> {
    grouped(rows, |row| {
        let parts = ["producer", "consumer", "rabbitmq", "postgres"].into_iter().zip(row.cpu.all());
        let parts: Vec<_> = parts.filter_map(|(class, value)| Some((class, value?))).collect();
        let total: f64 = parts.iter().map(|(_, value)| value).sum();
        (!parts.is_empty()).then(|| (parts, format!("{total:.0}")))
    })
}

fn latencies(report: &Report) -> Vec<Span> {
    let mut before = 0;
    let mut all = Vec::new();
    for row in &report.latencies {
        all.push(Span {
            label: format!("{} rows/s  {}", thousands(f64::from(row.rate)), row.side),
            class: if row.side == "PostgreSQL" { "own" } else { "ours" },
            values: [row.p50, row.p99, row.p999],
            first: before != row.rate,
        });
        before = row.rate;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Machine, Parts, Run};
    use crate::report::{Figures, Latency, rows};

    #[test]
    fn a_page_shows_every_figure_and_loads_nothing() {
        let cpu = Parts { producer: Some(10.0), consumer: None, rabbitmq: Some(2.0), postgres: Some(30.0) };
        let run = |seconds| Run { rows: 60_000, seconds, cpu, memory: Parts::default(), others: None };
        let side = |side, seconds| Figures { workload: "wide-mix", side, runs: vec![run(seconds), run(seconds)] };
        let latency =
            Latency { side: "AES256".into(), rate: 1000, written: 999.0, p50: 7.0, p99: 20.0, p999: 40.0, rows: 9 };
        let report = Report {
            failure: Some("a target is NOT equal".to_owned()),
            begun: "2026-11-22 08:00 UTC".to_owned(),
            machine: Machine { model: "A <fast> one".to_owned(), processors: 2, load: "0.10".to_owned() },
            load_at_the_end: "2.00".to_owned(),
            versions: vec!["syncline 0.1.0".to_owned()],
            rows: [60_000, 1_000_000],
            seconds: 500.0,
            figures: rows(vec![side("PostgreSQL", 2.0), side("AES256", 4.0)]),
            latencies: vec![latency],
        };
        let page = page(&report);
        for shown in
            ["30,000", "15,000", "0.50 (A/A 0 %)", "1,000 rows/s  AES256", "A &lt;fast&gt; one", "7.0 ms", "NOT equal"]
        {
            assert!(page.contains(shown), "{shown}: {page}");
        }
        assert_eq!(page.matches("<svg").count(), 4);
        assert!(!["http", "src=", "href=", "@import", "<script"].iter().any(|loads| page.contains(loads)), "{page}");
    }
}
