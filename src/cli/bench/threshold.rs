//! `--fail-if`: what a person does not accept, such as `p99>5ms`.
//!
//! A condition about a figure that could not be had is not met and not passed: it fails, and says
//! so, or a script would believe what nobody has measured.

use crate::cli::bench::figures::{Figure, Figures, Unit, written};

/// A condition that must not hold.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Threshold {
    text: String,
    figure: Figure,
    is_above: bool,
    or_equal: bool,
    limit: f64,
}

/// Reads a condition.
pub(super) fn read(text: &str) -> Result<Threshold, String> {
    let at = text.find(['>', '<']).ok_or("write it as p99>5ms or rate<100k")?;
    let (name, rest) = text.split_at(at);
    let is_above = rest.starts_with('>');
    let (or_equal, limit) = match rest[1..].strip_prefix('=') {
        Some(limit) => (true, limit),
        None => (false, &rest[1..]),
    };
    let name = name.trim();
    let known = || Figure::ALL.iter().map(|figure| figure.id()).collect::<Vec<_>>().join(", ");
    let figure = *Figure::ALL
        .iter()
        .find(|figure| figure.id() == name)
        .ok_or_else(|| format!("{name:?} is not measured; there are {}", known()))?;
    let limit = match figure.unit() {
        Unit::Time | Unit::Nanoseconds => time(limit),
        Unit::Share => share(limit),
        Unit::Count | Unit::Bytes | Unit::Ratio => count(limit),
    }?;
    Ok(Threshold { text: text.to_owned(), figure, is_above, or_equal, limit })
}

impl Threshold {
    /// Why these figures are not accepted, if they are not.
    pub(super) fn judge(&self, figures: &Figures) -> Option<String> {
        let Some(value) = figures.get(self.figure) else {
            return Some(format!("{}: {} was not measured", self.text, self.figure.name()));
        };
        let holds = match (self.is_above, self.or_equal) {
            (true, false) => value > self.limit,
            (true, true) => value >= self.limit,
            (false, false) => value < self.limit,
            (false, true) => value <= self.limit,
        };
        holds.then(|| {
            let (name, value) = (self.figure.name(), written(value, self.figure.unit()));
            format!("{}: {name} is {value}", self.text)
        })
    }
}

/// Reads a time with its unit, in nanoseconds.
pub(super) fn time(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return Err(format!("{text:?} needs a unit: ns, us, ms or s, such as 5ms")),
    };
    positive(number, text).map(|number| number * scale)
}

/// Reads a count, such as 1000, 50_000, 100k or 2.5M.
pub(super) fn count(text: &str) -> Result<f64, String> {
    let (number, unit) = split(text);
    let scale = match unit {
        "" => 1.0,
        "k" | "kB" => 1e3,
        "M" | "MB" => 1e6,
        "G" | "GB" => 1e9,
        _ => return Err(format!("{text:?} is no count; write it as 1000, 100k or 2.5M")),
    };
    positive(number, text).map(|number| number * scale)
}

/// Reads a share, such as 0.5 or 50%.
fn share(text: &str) -> Result<f64, String> {
    match text.trim().strip_suffix('%') {
        Some(percent) => positive(percent, text).map(|percent| percent / 100.0),
        None => positive(text, text),
    }
}

fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '_')).unwrap_or(text.len());
    (&text[..end], text[end..].trim())
}

fn positive(number: &str, text: &str) -> Result<f64, String> {
    let plain = number.trim().replace('_', "");
    let number = plain.parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| format!("{text:?} is no number from 0 upward"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_judged() {
        let mut figures = Figures::default();
        figures.set(Figure::P99, 5e6);
        figures.set(Figure::Rate, 100e3);
        figures.set(Figure::ClientBusy, 0.5);
        for (text, fails) in [
            ("p99>5ms", false),
            ("p99>=5ms", true),
            ("p99 > 4999us", true),
            ("p99<1s", true),
            ("rate<100k", false),
            ("rate<=100_000", true),
            ("rate<0.2M", true),
            ("client-busy>40%", true),
            ("client-busy>0.6", false),
            ("cpu>1us", true),
        ] {
            let threshold = read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(threshold.judge(&figures).is_some(), fails, "{text}");
        }
        let unknown = read("cpu>1us").unwrap().judge(&figures).unwrap();
        assert!(unknown.contains("not measured"), "{unknown}");
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        for (text, why) in [
            ("p99", "p99>5ms"),
            ("p98>5ms", "p99"),
            ("p99>5", "unit"),
            ("p99>-5ms", "unit"),
            ("rate<x", "no count"),
            ("rate<", "no number"),
            ("p99>ms", "no number"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }
}
