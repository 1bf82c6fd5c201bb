//! Reading what the kernel tells in files, and what such texts mean.
//!
//! Everything is read through one function, so that a test can be on any machine it likes:
//! [`disk`] is this one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

/// Gives the text of a file, or the names in a directory, a line each; nothing if there is none or
/// it may not be read.
pub(in crate::cli) type Read<'r> = &'r dyn Fn(&Path) -> Option<String>;

/// Reads this machine.
pub(super) fn disk(path: &Path) -> Option<String> {
    if let Ok(bytes) = fs::read(path) {
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    let mut names: Vec<String> = fs::read_dir(path)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Some(names.join("\n"))
}

/// The trimmed text of a file; nothing if it is empty.
pub(super) fn word(read: Read<'_>, path: impl AsRef<Path>) -> Option<String> {
    let text = read(path.as_ref())?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A file that holds one value.
pub(super) fn value<T: FromStr>(read: Read<'_>, path: impl AsRef<Path>) -> Option<T> {
    read(path.as_ref())?.trim().parse().ok()
}

/// A file that holds values with white space between them.
pub(super) fn values<T: FromStr>(read: Read<'_>, path: impl AsRef<Path>) -> Vec<T> {
    let text = read(path.as_ref()).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// The names in a directory.
pub(super) fn names(read: Read<'_>, path: impl AsRef<Path>) -> Vec<String> {
    let text = read(path.as_ref()).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The value of `key` in a text of lines `key: value` or `key = value`.
pub(super) fn field<'t>(text: &'t str, key: &str, between: char) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(between)?;
        (name.trim() == key).then(|| value.trim())
    })
}

/// The one in brackets, as in `always [madvise] never`.
pub(super) fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    Some(word.to_owned())
}

/// A set of CPUs, in text as the kernel writes it: `0-3,8`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(in crate::cli) struct CpuList(Vec<u32>);

/// The most CPUs a list may name; longer ones are nonsense.
const CPUS_MAX: u32 = 65_536;

impl CpuList {
    /// Those CPUs, in ascending order, each once.
    pub(in crate::cli) fn new(mut cpus: Vec<u32>) -> CpuList {
        cpus.sort_unstable();
        cpus.dedup();
        CpuList(cpus)
    }

    /// The list in a file; empty if it can't be read.
    pub(super) fn read(read: Read<'_>, path: impl AsRef<Path>) -> CpuList {
        value(read, path).unwrap_or_default()
    }

    /// How many there are.
    pub(in crate::cli) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub(in crate::cli) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether that CPU is among them.
    pub(in crate::cli) fn contains(&self, cpu: u32) -> bool {
        self.0.binary_search(&cpu).is_ok()
    }

    /// The lowest of them.
    pub(in crate::cli) fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Each of them, in ascending order.
    pub(in crate::cli) fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<CpuList, String> {
        let mut cpus = Vec::new();
        for part in text.trim().split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (first.parse::<u32>(), last.parse::<u32>()) {
                (Ok(first), Ok(last)) if first <= last && last < CPUS_MAX => {
                    cpus.extend(first..=last);
                }
                _ => return Err(format!("`{text}` is no list of CPUs")),
            }
        }
        Ok(CpuList::new(cpus))
    }
}

impl TryFrom<String> for CpuList {
    type Error = String;

    fn try_from(text: String) -> Result<CpuList, String> {
        text.parse()
    }
}

impl From<CpuList> for String {
    fn from(list: CpuList) -> String {
        list.to_string()
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, run) in self.0.chunk_by(|one, next| one + 1 == *next).enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match (run.first(), run.last()) {
                (Some(first), Some(last)) if first < last => write!(f, "{comma}{first}-{last}")?,
                (Some(only), _) => write!(f, "{comma}{only}")?,
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_read_and_print_as_the_kernel_does() {
        for (text, count, printed) in [
            ("", 0, ""),
            ("0\n", 1, "0"),
            ("0-3,8\n", 5, "0-3,8"),
            ("8,0-1,2", 4, "0-2,8"),
            ("1,1,1", 1, "1"),
        ] {
            let list: CpuList = text.parse().unwrap();
            assert_eq!((list.len(), &*list.to_string()), (count, printed), "{text:?}");
        }
        for text in ["3-1", "a", "1-", "0-99999999", "-1"] {
            assert!(text.parse::<CpuList>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn texts_of_the_kernel_are_understood() {
        assert_eq!(chosen("always [madvise] never\n").as_deref(), Some("madvise"));
        assert_eq!(chosen("none"), None);
        let text = "MemTotal:  24 kB\nMemFree:\t12 kB\n";
        assert_eq!(field(text, "MemFree", ':'), Some("12 kB"));
        assert_eq!(field(text, "Mem", ':'), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        assert!(word(&disk, "/proc/sys/kernel/ostype").is_some());
        assert!(names(&disk, "/proc/self/task").len() == 1 || !names(&disk, "/proc").is_empty());
        assert_eq!(disk(Path::new("/no/such/file")), None);
    }
}
