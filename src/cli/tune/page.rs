//! The result as a page: one file that needs nothing else. Bars with the margin of each, then the
//! same table and evidence as in the terminal.

use crate::cli::bench::html::STYLE;
use crate::cli::bench::svg::{Axis, Line, Scale, escaped, plot};
use crate::cli::failure::Failure;
use crate::cli::tune::goal::Goal;
use crate::cli::tune::show::{COLUMNS, Row};
use std::fmt::Write;
use std::fs;
use std::path::Path;

/// The widths and the height of a bar's line, in pixels.
const LABELS: f64 = 330.0;
const BARS: f64 = 420.0;
const LINE: f64 = 26.0;

const MORE_STYLE: &str = "pre{overflow-x:auto;font-size:13px}main{max-width:960px}";

/// A page.
#[derive(Debug)]
pub(super) struct Page<'p> {
    /// What counted.
    pub(super) goal: Goal,
    /// The rows of the table, the best first.
    pub(super) rows: &'p [Row],
    /// The evidence: a heading and lines for each part.
    pub(super) parts: &'p [(&'static str, Vec<String>)],
}

impl Page<'_> {
    /// Writes it.
    pub(super) fn write(&self, path: &Path) -> Result<(), Failure> {
        fs::write(path, self.text()).map_err(|error| {
            Failure::Refused(format!("{} can't be written: {error}", path.display()))
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>arqonbus \
             tune</title><style>{STYLE}{MORE_STYLE}</style></head><body><main><h1>arqonbus tune</h1>\n\
             <p>Goal: {}.</p>\n<h2>Score against the default</h2>\n<p class=\"soft\">The line across \
             the end of a bar is what a difference must be larger than to count.</p>\n{}\n{}<h2>All \
             settings</h2>\n<div class=\"scroll\">{}</div>\n",
            escaped(self.goal.sentence()),
            self.bars(),
            self.by_shards(),
            self.table()
        );
        for (heading, lines) in self.parts {
            if !heading.starts_with("What was measured") {
                let lines = escaped(&lines.join("\n"));
                let _ = write!(text, "<h2>{}</h2>\n<pre>{lines}</pre>\n", escaped(heading));
            }
        }
        text + "</main></body></html>\n"
    }

    fn bars(&self) -> String {
        let shown: Vec<_> =
            self.rows.iter().filter_map(|row| Some((row, row.comparison?))).collect();
        let end = |gain: f64, margin: f64| 1.0 + gain + margin;
        let margin_of = |margin: f64| if margin.is_finite() { margin } else { 0.0 };
        let most =
            shown.iter().map(|(_, it)| end(it.gain, margin_of(it.margin))).fold(1.0, f64::max);
        let x = |score: f64| LABELS + (score / most).clamp(0.0, 1.0) * BARS;
        let (width, height) = (LABELS + BARS + 60.0, LINE * shown.len() as f64 + 10.0);
        let mut svg = format!(
            "<svg viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
             role=\"img\" aria-label=\"score of each setting\">\n"
        );
        for (number, (row, it)) in shown.iter().enumerate() {
            let middle = LINE * number as f64 + LINE / 2.0 + 5.0;
            let colour = if row.is_chosen { "var(--c2)" } else { "var(--c0)" };
            let _ = writeln!(
                svg,
                "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text><rect x=\"{LABELS}\" \
                 y=\"{:.0}\" width=\"{:.1}\" height=\"16\" fill=\"{colour}\"/><text x=\"{:.0}\" \
                 y=\"{:.0}\">{:.2}</text>",
                LABELS - 8.0,
                middle + 4.0,
                escaped(&row.label),
                middle - 8.0,
                x(1.0 + it.gain) - LABELS,
                x(end(it.gain, margin_of(it.margin))) + 6.0,
                middle + 4.0,
                1.0 + it.gain
            );
            if it.margin.is_finite() {
                let least = (1.0 + it.gain) / (1.0 + it.margin);
                let [from, to] = [least, end(it.gain, it.margin)].map(x);
                let _ = writeln!(
                    svg,
                    "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" \
                     stroke=\"var(--ink)\" stroke-width=\"2\"/>"
                );
            }
        }
        let one = x(1.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"0\" y2=\"{height}\" stroke=\"var(--soft)\" \
             stroke-dasharray=\"3 3\"/></svg>"
        );
        svg
    }

    /// The score by the number of shards, a line for each way of pinning; nothing of a single number.
    fn by_shards(&self) -> String {
        let mut lines: Vec<Line> = Vec::new();
        for (row, it) in self.rows.iter().filter_map(|row| Some((row, row.comparison?))) {
            let Some((shards, pin)) = row.shards else { continue };
            let point = (f64::from(shards), 1.0 + it.gain);
            match lines.iter_mut().find(|line| line.name.as_deref() == Some(pin)) {
                Some(line) => line.points.push(point),
                None => lines.push(Line {
                    color: lines.len(),
                    name: Some(pin.to_owned()),
                    points: vec![point],
                    has_dots: true,
                    is_dashed: false,
                }),
            }
        }
        for line in &mut lines {
            line.points.sort_by(|one, other| one.0.total_cmp(&other.0));
        }
        if lines.iter().all(|line| line.points.len() < 2) {
            return String::new();
        }
        let axis = |title| Axis { title, scale: Scale::Linear, mark: |value| format!("{value}") };
        let svg = plot(&axis("shards"), &axis("score against the default"), &lines);
        format!("<h2>Shards and pinning</h2>\n{svg}\n")
    }

    fn table(&self) -> String {
        let cells = |cells: &[String], tag: &str| {
            let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let head: Vec<String> = COLUMNS.iter().map(|&name| name.to_owned()).collect();
        let rows: String = self.rows.iter().map(|row| cells(&row.cells, "td")).collect();
        format!("<table>\n{}{rows}</table>", cells(&head, "th"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::tune::book::Comparison;

    #[test]
    fn a_page_stands_alone_and_holds_everything() {
        let row = |label: &str, gain, margin, is_chosen| Row {
            label: label.to_owned(),
            comparison: Some(Comparison { gain, margin, rounds: 3 }),
            is_chosen,
            shards: label
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .map(|it| (it, "auto")),
            cells: vec![label.to_owned(), "3".to_owned()],
        };
        let rows =
            [row("1 shard <- chosen", 0.5, 0.1, true), row("2 <b>", 0.0, f64::INFINITY, false)];
        let parts = [("Host", vec!["a & b".to_owned()])];
        let text = Page { goal: Goal::Latency, rows: &rows, parts: &parts }.text();
        for part in ["<svg", "1.50", "1 shard &lt;- chosen", "2 &lt;b&gt;", "a &amp; b", "</html>"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            !text.contains("http")
                && text.contains("Shards and pinning")
                && !text.contains("inf")
                && !text.contains("NaN"),
            "{text}"
        );
        assert_eq!(text.matches("<rect").count(), 2);
        let one = Page { goal: Goal::Latency, rows: &rows[..1], parts: &parts }.text();
        assert!(!one.contains("Shards and pinning"), "one number of shards makes no line");
    }
}
