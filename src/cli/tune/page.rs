//! The result as a page: one file that needs nothing else. Bars with the margin of each, then the
//! same table and evidence as in the terminal.

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

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;\
    padding:0 1rem;color:#222;background:#fff}table{border-collapse:collapse;font-size:13px}\
    td,th{padding:.2rem .6rem;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}pre{overflow-x:auto;font-size:13px}\
    svg{max-width:100%;font:13px system-ui,sans-serif}";

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
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>arqonbus \
             tune</title>\n<style>{STYLE}</style>\n<h1>arqonbus tune</h1>\n<p>Goal: {}.</p>\n<h2>Score \
             against the default</h2>\n<p>The line across the end of a bar is what a difference must \
             be larger than to count.</p>\n{}\n<h2>All settings</h2>\n{}\n",
            escaped(self.goal.sentence()),
            self.plot(),
            self.table()
        );
        for (heading, lines) in self.parts {
            if !heading.starts_with("What was measured") {
                let lines = escaped(&lines.join("\n"));
                let _ = write!(text, "<h2>{}</h2>\n<pre>{lines}</pre>\n", escaped(heading));
            }
        }
        text + "</html>\n"
    }

    fn plot(&self) -> String {
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
            let colour = if row.is_chosen { "#1b7f4b" } else { "#6b8fc9" };
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
                let [from, to] = [end(it.gain, -it.margin), end(it.gain, it.margin)].map(x);
                let _ = writeln!(
                    svg,
                    "<line x1=\"{from:.1}\" x2=\"{to:.1}\" y1=\"{middle:.0}\" y2=\"{middle:.0}\" \
                     stroke=\"#222\" stroke-width=\"2\"/>"
                );
            }
        }
        let one = x(1.0);
        let _ = writeln!(
            svg,
            "<line x1=\"{one:.1}\" x2=\"{one:.1}\" y1=\"0\" y2=\"{height}\" stroke=\"#999\" \
             stroke-dasharray=\"3 3\"/></svg>"
        );
        svg
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

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
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
        assert!(!text.contains("http") && !text.contains("inf") && !text.contains("NaN"), "{text}");
        assert_eq!(text.matches("<rect").count(), 2);
    }
}
