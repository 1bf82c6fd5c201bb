//! The Prometheus text format, version 0.0.4, written family by family.
//!
//! The classic format and not OpenMetrics, because `promtool check metrics` and every Prometheus
//! there is parse it, and because in OpenMetrics a counter's family drops the `_total` that its
//! samples bear, which the classic parser takes for a family without a HELP.
//!
//! *Invariants*: the samples of a family stand together, behind one HELP and one TYPE; label
//! values and help are escaped, so no value can break out of its line.

use std::fmt::{self, Display, Write};

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows; the name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Goes up and down, under a name that ends in `_total`. The checker refuses a gauge of that
    /// name, and a counter it would not be; to claim nothing is both true and accepted.
    Untyped,
    /// Counts by upper bound.
    Histogram,
}

/// A text that grows by families.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One family, to which samples are added.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

/// The labels of a sample, in the order in which they are written.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Begins a family. `help` is a sentence without its full stop.
    pub(super) fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Untyped => "untyped",
            Kind::Histogram => "histogram",
        };
        let help = Escaped { text: help, quotes: false };
        put(&mut self.text, format_args!("# HELP {name} {help}.\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.text, name }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// Adds one sample.
    pub(super) fn sample(&mut self, labels: Labels<'_>, value: impl Display) -> &mut Self {
        self.line("", labels, None, value)
    }

    /// Adds one histogram of seconds: a count for each upper bound, and one for what lies beyond.
    pub(super) fn histogram(
        &mut self,
        labels: Labels<'_>,
        bounds_ns: &[u64],
        counts: &[u64],
        sum_ns: u64,
    ) -> &mut Self {
        let mut count = 0;
        for (bucket, more) in counts.iter().enumerate() {
            count += more;
            let bound = match bounds_ns.get(bucket) {
                Some(&bound_ns) => seconds(bound_ns).to_string(),
                None => "+Inf".to_owned(),
            };
            self.line("_bucket", labels, Some(&bound), count);
        }
        self.line("_sum", labels, None, seconds(sum_ns));
        self.line("_count", labels, None, count)
    }

    fn line(
        &mut self,
        suffix: &str,
        labels: Labels<'_>,
        bound: Option<&str>,
        value: impl Display,
    ) -> &mut Self {
        put(self.text, format_args!("{}{suffix}", self.name));
        let bound = bound.map(|bound| ("le", bound));
        for (n, (label, value)) in labels.iter().copied().chain(bound).enumerate() {
            let opens = if n == 0 { '{' } else { ',' };
            let value = Escaped { text: value, quotes: true };
            put(self.text, format_args!("{opens}{label}=\"{value}\""));
        }
        let closes = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        put(self.text, format_args!("{closes} {value}\n"));
        self
    }
}

/// Nanoseconds in the format's unit of time.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// Text with its backslashes and line feeds escaped, and its quotes where it stands in quotes.
struct Escaped<'a> {
    text: &'a str,
    quotes: bool,
}

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.text.chars() {
            match character {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '"' if self.quotes => f.write_str("\\\"")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

fn put(text: &mut String, part: fmt::Arguments<'_>) {
    // Writing into a string can't fail.
    let _ = text.write_fmt(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_by_the_book() {
        let mut text = Exposition::default();
        text.family("a_total", Kind::Counter, "Things \\ and\nmore").sample(&[], 3);
        text.family("b", Kind::Gauge, "A \"b\"").sample(&[("x", "1"), ("y", "q\"\\\n")], 0.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total Things \\\\ and\\nmore.\n# TYPE a_total counter\na_total 3\n\
             # HELP b A \"b\".\n# TYPE b gauge\nb{x=\"1\",y=\"q\\\"\\\\\\n\"} 0.5\n"
        );
    }

    #[test]
    fn histograms_are_cumulative_and_in_seconds() {
        let bounds_ns = [10_000, 25_000, 10_000_000_000];
        let mut text = Exposition::default();
        text.family("h_seconds", Kind::Histogram, "H").histogram(
            &[("shard", "0")],
            &bounds_ns,
            &[2, 1, 0, 4],
            2_500_000_000,
        );
        let text = text.finish();
        for line in [
            "h_seconds_bucket{shard=\"0\",le=\"0.00001\"} 2\n",
            "h_seconds_bucket{shard=\"0\",le=\"0.000025\"} 3\n",
            "h_seconds_bucket{shard=\"0\",le=\"10\"} 3\n",
            "h_seconds_bucket{shard=\"0\",le=\"+Inf\"} 7\n",
            "h_seconds_sum{shard=\"0\"} 2.5\n",
            "h_seconds_count{shard=\"0\"} 7\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
