//! What is wrong with a configuration, where, and in words that say what to do about it.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nobody gave one.
    Default,
    /// A place in the configuration file.
    File(Position),
    /// The environment variable of that name.
    Environment(String),
    /// The flag of that name, without its dashes.
    Flag(&'static str),
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file.
    pub file: PathBuf,
    /// Line and column, both from 1, the column in characters; `None` for the file as a whole.
    pub at: Option<(usize, usize)>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it was typed.
    pub source: Source,
    /// The key it is about, as in the file: `limits.history_size`.
    pub key: String,
    /// What is wrong, and what would be right.
    pub sentence: String,
}

impl Mistake {
    pub(super) fn new(source: Source, key: &str, sentence: impl Into<String>) -> Mistake {
        Mistake { source, key: key.to_owned(), sentence: sentence.into() }
    }

    /// A mistake about a whole file.
    pub(super) fn about_file(file: &Path, sentence: impl Into<String>) -> Mistake {
        let position = Position { file: file.to_owned(), at: None };
        Mistake::new(Source::File(position), "", sentence)
    }

    /// The order a person reads them in: down the file, then the environment, then the flags.
    pub(super) fn rank(&self) -> (u8, Option<(usize, usize)>) {
        match &self.source {
            Source::File(position) => (0, position.at),
            Source::Environment(_) => (1, None),
            Source::Flag(_) => (2, None),
            Source::Default => (3, None),
        }
    }
}

impl Source {
    /// How much it outranks others: a flag beats the environment beats the file beats the default.
    pub(super) fn precedence(&self) -> u8 {
        match self {
            Source::Default => 0,
            Source::File(_) => 1,
            Source::Environment(_) => 2,
            Source::Flag(_) => 3,
        }
    }

    /// The kind of source in one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Source::Default => "default",
            Source::File(_) => "file",
            Source::Environment(_) => "environment",
            Source::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Default => {}
            Source::File(Position { file, at: None }) => write!(f, "{}: ", file.display())?,
            Source::File(Position { file, at: Some((line, column)) }) => {
                write!(f, "{}:{line}:{column}: ", file.display())?;
            }
            Source::Environment(name) => write!(f, "{name}: ")?,
            Source::Flag(name) => write!(f, "--{name}: ")?,
        }
        // A flag or a variable already names its key.
        if !self.key.is_empty() && matches!(self.source, Source::Default | Source::File(_)) {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.sentence)
    }
}

impl std::error::Error for Mistake {}

/// The candidate that was probably meant by `word`: by its whole path or by its last part alone.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    fn last(path: &str) -> &str {
        path.rsplit('.').next().unwrap_or(path)
    }
    let (distance, best) = candidates
        .into_iter()
        .map(|path| (distance(word, path).min(distance(last(word), last(path))), path))
        .min_by_key(|(distance, _)| *distance)?;
    (distance <= 1 + last(word).len() / 4).then_some(best)
}

/// How many characters must be put in, left out, replaced or swapped to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().collect(), other.chars().collect());
    let mut before = Vec::new();
    let mut above: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, b) in other.iter().enumerate() {
            let mut cost = (above[j] + usize::from(a != b)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *a == other[j - 1] && one[i - 1] == *b {
                let swapped: &Vec<usize> = &before;
                cost = cost.min(swapped[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_count_edits() {
        for (one, other, expected) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "abc", 3),
            ("listen", "listne", 1),
            ("shards", "shard", 1),
            ("kitten", "sitting", 3),
            ("ä", "a", 1),
        ] {
            assert_eq!(distance(one, other), expected, "{one} {other}");
            assert_eq!(distance(other, one), expected, "{other} {one}");
        }
    }

    #[test]
    fn the_nearest_name_is_found_or_none() {
        let names = ["listen", "limits.max_rooms", "limits.history_size", "pin"];
        for (word, expected) in [
            ("listn", Some("listen")),
            ("max_rooms", Some("limits.max_rooms")),
            ("limits.max_room", Some("limits.max_rooms")),
            ("limits.listen", Some("listen")),
            ("colour_of_the_sky", None),
            ("x", None),
        ] {
            assert_eq!(nearest(word, names), expected, "{word}");
        }
    }

    #[test]
    fn a_mistake_says_where_and_what() {
        let at = |at| Source::File(Position { file: "a.toml".into(), at });
        for (source, text) in [
            (at(Some((3, 9))), "a.toml:3:9: shards: is odd"),
            (at(None), "a.toml: shards: is odd"),
            (Source::Environment("ARQONBUS_SHARDS".into()), "ARQONBUS_SHARDS: is odd"),
            (Source::Flag("shards"), "--shards: is odd"),
            (Source::Default, "shards: is odd"),
        ] {
            assert_eq!(Mistake::new(source, "shards", "is odd").to_string(), text);
        }
    }
}
