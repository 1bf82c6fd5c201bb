//! What a child process says on one of its streams. A thread reads it to the end, so that no child ever
//! waits for a full pipe, and keeps its last lines, so that what a child that failed said can be told
//! whole.
//!
//! *Invariant*: what is kept of a child's words is bounded, however much it says.

use serde_json::Value;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The lines that are kept.
const LINES_MAX: usize = 100;
/// The bytes that are kept of a line.
const LINE_BYTES_MAX: usize = 4 * 1024;
/// The lines that are told of a log without a warning in it.
const LOG_LINES_TOLD: usize = 10;
/// How long the end of the stream of a child that has ended is waited for.
const END: Duration = Duration::from_secs(1);

/// The words of a child.
#[derive(Clone, Debug)]
pub(super) struct Words(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Debug, Default)]
struct Heard {
    /// The last lines.
    lines: VecDeque<String>,
    /// How many lines came before them.
    left_out: usize,
    is_over: bool,
}

impl Words {
    /// The words on a stream; none if there is no stream.
    pub(super) fn of(stream: Option<impl Read + Send + 'static>) -> Words {
        let words = Words(Arc::default());
        let Some(stream) = stream else {
            words.lock().is_over = true;
            return words;
        };
        let heard = words.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            // A stream that can't be read any more has ended.
            while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                heard.add(&line);
                line.clear();
            }
            heard.lock().is_over = true;
            heard.0.1.notify_all();
        });
        words
    }

    /// Waits for a line that means something; nothing if none has come when the stream ends, or by
    /// `until`.
    pub(super) fn find<T>(&self, until: Instant, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut seen = 0;
        let mut heard = self.lock();
        loop {
            let count = heard.left_out + heard.lines.len();
            let fresh = heard.lines.iter().skip(seen.max(heard.left_out) - heard.left_out);
            if let Some(found) = fresh.map(String::as_str).find_map(&meaning) {
                return Some(found);
            }
            seen = count;
            let left = until.saturating_duration_since(Instant::now());
            if heard.is_over || left.is_zero() {
                return None;
            }
            let waited = self.0.1.wait_timeout(heard, left);
            heard = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// What a child that has ended, or will be, said that tells why: everything that is no entry of a
    /// log, and the warnings and errors of that.
    pub(super) fn told(&self) -> String {
        self.find(Instant::now() + END, |_| None::<()>);
        let heard = self.lock();
        let mut told: Vec<&str> =
            heard.lines.iter().map(String::as_str).filter(|line| !is_calm_log(line)).collect();
        let mut left_out = heard.left_out;
        if told.is_empty() {
            let before = heard.lines.len().saturating_sub(LOG_LINES_TOLD);
            told = heard.lines.iter().skip(before).map(String::as_str).collect();
            left_out += before;
        }
        while told.last().is_some_and(|line| line.trim().is_empty()) {
            told.pop();
        }
        match (told.is_empty(), left_out) {
            (true, _) => "it said nothing".to_owned(),
            (false, 0) => format!("it said:\n{}", told.join("\n")),
            (false, count) => {
                format!("it said ({count} earlier lines are left out):\n{}", told.join("\n"))
            }
        }
    }

    /// The last line that means something, when the stream has ended.
    pub(super) fn last<T>(&self, until: Instant, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.find(until, |_| None::<()>);
        self.lock().lines.iter().rev().find_map(|line| meaning(line))
    }

    fn add(&self, line: &[u8]) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = &line[..line.len().min(LINE_BYTES_MAX)];
        let mut heard = self.lock();
        heard.lines.push_back(String::from_utf8_lossy(line).into_owned());
        if heard.lines.len() > LINES_MAX {
            heard.lines.pop_front();
            heard.left_out += 1;
        }
        drop(heard);
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a line is an entry of the daemon's log that warns of nothing.
fn is_calm_log(line: &str) -> bool {
    let Ok(Value::Object(entry)) = serde_json::from_str(line) else { return false };
    entry.get("level").is_some_and(|level| level != "WARN" && level != "ERROR")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn words(text: &str) -> Words {
        Words::of(Some(Cursor::new(text.to_owned().into_bytes())))
    }

    #[test]
    fn a_whole_error_is_told_and_a_calm_log_is_not() {
        let said = words(
            "{\"level\":\"INFO\",\"message\":\"starting\"}\n\
             {\"level\":\"WARN\",\"message\":\"few descriptors\"}\n\
             error: unexpected argument '--nonsense' found\n\n  tip: to pass it\n\nUsage: serve\n\n",
        );
        assert_eq!(
            said.told(),
            "it said:\n{\"level\":\"WARN\",\"message\":\"few descriptors\"}\n\
             error: unexpected argument '--nonsense' found\n\n  tip: to pass it\n\nUsage: serve"
        );
        assert_eq!(words("").told(), "it said nothing");
        assert_eq!(Words::of(None::<Cursor<Vec<u8>>>).told(), "it said nothing");
        let calm = "{\"level\":\"INFO\",\"message\":\"starting\"}\n";
        assert!(words(calm).told().contains("starting"), "better than nothing");
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_not_is_counted() {
        let many: String = (0..500).map(|n| format!("line {n} {}\n", "x".repeat(9_000))).collect();
        let said = words(&many);
        let told = said.told();
        assert!(told.starts_with("it said (400 earlier lines are left out):\nline 400 "), "{told}");
        assert!(told.len() < LINES_MAX * (LINE_BYTES_MAX + 2));
        assert_eq!(told.lines().count(), 1 + LINES_MAX);
        assert_eq!(said.last(soon(), |line| line.split(' ').nth(1)?.parse().ok()), Some(499));
    }

    #[test]
    fn a_line_is_found_as_soon_as_it_comes_and_bytes_that_are_no_text_end_nothing() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let said = Words::of(Some(reader));
        std::io::Write::write_all(&mut writer, b"\xff\xfe\none\nport 7\n").unwrap();
        let port = |line: &str| line.strip_prefix("port ")?.parse::<u16>().ok();
        assert_eq!(said.find(soon(), port), Some(7));
        drop(writer);
        assert_eq!(said.find(soon(), |line| (line == "two").then_some(())), None);
    }
}
