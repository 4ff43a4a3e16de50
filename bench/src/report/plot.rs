//! Plots as SVG, drawn by hand: a page that loads nothing from anywhere.

use std::fmt::Write as _;

/// A horizontal bar of one or more parts.
pub(crate) struct Bar {
    /// What stands before it.
    pub label: String,
    /// Its parts: colour (a CSS class) and value.
    pub parts: Vec<(&'static str, f64)>,
    /// What stands behind it.
    pub value: String,
    /// Whether a group begins with it.
    pub first: bool,
}

const WIDTH: f64 = 920.0;
const LABELS: f64 = 290.0;
const VALUES: f64 = 120.0;
const STEP: f64 = 20.0;
const GAP: f64 = 10.0;

/// Bars below each other on a scale from 0; `line` is marked across them.
pub(crate) fn bars(bars: &[Bar], line: Option<f64>) -> String {
    let total = |bar: &Bar| bar.parts.iter().map(|(_, value)| value).sum::<f64>();
    let most = bars.iter().map(total).chain(line).fold(f64::MIN_POSITIVE, f64::max);
    let x = |value: f64| value / most * (WIDTH - LABELS - VALUES);
    let mut y = 0.0;
    let mut out = String::new();
    for bar in bars {
        y += if bar.first && y > 0.0 {
            STEP + GAP
        } else if y > 0.0 {
            STEP
        } else {
            4.0
        };
        let (text, middle) = (y + 12.0, y);
        let _ = write!(out, "<text x=\"{}\" y=\"{text}\" class=\"label\">{}</text>", LABELS - 8.0, escape(&bar.label));
        let mut left = LABELS;
        for (class, value) in &bar.parts {
            let width = x(*value);
            let _ = write!(
                out,
                "<rect x=\"{left:.1}\" y=\"{middle}\" width=\"{width:.1}\" height=\"15\" class=\"{class}\"/>"
            );
            left += width;
        }
        let _ = write!(out, "<text x=\"{:.1}\" y=\"{text}\">{}</text>", left + 6.0, escape(&bar.value));
    }
    let height = y + STEP + 4.0;
    if let Some(line) = line {
        let at = LABELS + x(line);
        let _ = write!(out, "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"0\" y2=\"{height}\" class=\"mark\"/>");
    }
    svg(height, &out)
}

/// One line of a plot of spans: three values on a scale of powers of ten.
pub(crate) struct Span {
    /// What stands before it.
    pub label: String,
    /// Colour (a CSS class).
    pub class: &'static str,
    /// Ascending values, above 0.
    pub values: [f64; 3],
    /// Whether a group begins with it.
    pub first: bool,
}

/// Spans below each other, each from its least to its greatest value with a dot at each, from 0.1 to 10,000.
pub(crate) fn spans(spans: &[Span]) -> String {
    let x = |value: f64| LABELS + (value.clamp(0.1, 10_000.0).log10() + 1.0) / 5.0 * (WIDTH - LABELS - 40.0);
    let mut y = 22.0;
    let mut out = String::new();
    for span in spans {
        y += if span.first && y > 22.0 {
            STEP + GAP
        } else if y > 22.0 {
            STEP
        } else {
            4.0
        };
        let (text, middle) = (y + 12.0, y + 8.0);
        let _ = write!(out, "<text x=\"{}\" y=\"{text}\" class=\"label\">{}</text>", LABELS - 8.0, escape(&span.label));
        let [least, _, greatest] = span.values.map(x);
        let (class, height) = (span.class, 3);
        let width = greatest - least;
        let _ = write!(
            out,
            "<rect x=\"{least:.1}\" y=\"{}\" width=\"{width:.1}\" height=\"{height}\" class=\"{class}\"/>",
            middle - 1.5
        );
        for value in span.values {
            let _ = write!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{middle}\" r=\"5\" class=\"{class}\"><title>{value:.1} ms</title></circle>",
                x(value)
            );
        }
    }
    let height = y + STEP + 4.0;
    let mut grid = String::new();
    for (value, name) in
        [(0.1, "0.1"), (1.0, "1"), (10.0, "10"), (100.0, "100"), (1000.0, "1,000"), (10_000.0, "10,000 ms")]
    {
        let at = x(value);
        let _ = write!(
            grid,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"18\" y2=\"{height}\" class=\"grid\"/>\
             <text x=\"{at:.1}\" y=\"12\" class=\"scale\">{name}</text>"
        );
    }
    svg(height, &(grid + &out))
}

fn svg(height: f64, inner: &str) -> String {
    format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">{inner}</svg>")
}

/// Text within markup.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_room_and_text_is_escaped() {
        let bar = |value, first| Bar { label: "a<b".into(), parts: vec![("own", value)], value: String::new(), first };
        let svg = bars(&[bar(1.0, true), bar(2.0, false)], Some(1.0));
        assert!(svg.contains("width=\"510.0\"") && svg.contains("width=\"255.0\""), "{svg}");
        assert!(svg.contains("a&lt;b") && !svg.contains("a<b"));
        assert!(svg.contains("class=\"mark\""));
    }

    #[test]
    fn spans_are_on_a_scale_of_powers_of_ten() {
        let span = Span { label: "s".into(), class: "own", values: [0.1, 1.0, 10_000.0], first: true };
        let svg = spans(&[span]);
        assert!(svg.contains("cx=\"290.0\"") && svg.contains("cx=\"408.0\"") && svg.contains("cx=\"880.0\""), "{svg}");
    }
}
