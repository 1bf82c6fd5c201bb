//! Names for what the server makes up, so that two runs give the same text.

use regex::{Captures, Regex};
use std::collections::HashMap;

/// What is numbered, by the text around it: the first group is the value, all else stays.
const NUMBERED: &[(&str, &str)] = &[
    ("client", r"arq_client_[0-9A-HJKMNP-TV-Z]{26}"),
    ("id", r"arq_[0-9A-HJKMNP-TV-Z]{26}"),
    ("epoch", r#"(?:"epoch":")([^"]+)"#),
    ("token", r#"(?:"token":")([^"]+)"#),
    ("cursor", r#"(?:"cursor":")([^"]+)"#),
];

/// What differs from run to run, and what is written for it.
const UNNAMED: &[(&str, &str)] = &[
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z", "<time>"),
    (
        r#"("(?:uptime_s|retry_after_ms|ns|shards|shard|messages_in|messages_out)":)[\d.]+"#,
        "${1}<n>",
    ),
];

/// The placeholders of one transcript.
pub(crate) struct Placeholders {
    numbered: Vec<(&'static str, Regex)>,
    unnamed: Vec<(Regex, &'static str)>,
    /// By value: the placeholder.
    names: HashMap<String, String>,
    counts: HashMap<&'static str, usize>,
}

impl Placeholders {
    pub(crate) fn new() -> Placeholders {
        let regex = |pattern: &str| Regex::new(pattern).expect("the pattern is one");
        Placeholders {
            numbered: NUMBERED.iter().map(|(name, pattern)| (*name, regex(pattern))).collect(),
            unnamed: UNNAMED.iter().map(|(pattern, text)| (regex(pattern), *text)).collect(),
            names: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    /// A line of the daemon with placeholders.
    pub(crate) fn hide(&mut self, line: &str) -> String {
        let mut text = line.to_owned();
        for (kind, pattern) in &self.numbered {
            let name = |found: &Captures<'_>| {
                let whole = &found[0];
                let value = found.get(1).map_or(whole, |group| group.as_str());
                let name = self.names.entry(value.to_owned()).or_insert_with(|| {
                    let count = self.counts.entry(kind).or_default();
                    *count += 1;
                    format!("<{kind} {count}>")
                });
                whole.replace(value, name)
            };
            text = pattern.replace_all(&text, name).into_owned();
        }
        for (pattern, with) in &self.unnamed {
            text = pattern.replace_all(&text, *with).into_owned();
        }
        text.replace(
            &format!("\"version\":\"{}\"", env!("CARGO_PKG_VERSION")),
            "\"version\":\"<version>\"",
        )
    }

    /// A line of a script with the values that its placeholders stand for.
    pub(crate) fn fill(&self, line: &str) -> String {
        let mut text = line.to_owned();
        for (value, name) in &self.names {
            text = text.replace(name.as_str(), value);
        }
        text
    }
}
