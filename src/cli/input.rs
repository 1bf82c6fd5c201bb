//! Standard input as lines, read by a thread of its own.
//!
//! A terminal or a slow pipe may be silent for hours, and a read of it blocks. So a thread reads,
//! hands over what it has in batches through a bounded channel, and wakes the reactor; the thread
//! that owns the connection never waits for it.
//!
//! *Invariant*: no more than [`BATCHES`] batches and one line of [`LINE_BYTES_MAX`] wait in memory.

use mio::Waker;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

/// The longest line that is read; what is longer is passed over.
pub(super) const LINE_BYTES_MAX: usize = 16 << 20;
/// How many batches may wait.
const BATCHES: usize = 4;
/// The most lines of a batch.
const BATCH_LINES: usize = 128;
/// The bytes after which a batch is handed over.
const BATCH_BYTES: usize = 64 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 64 * 1024;

/// A line of input without its end (`\n` or `\r\n`).
#[derive(Debug, PartialEq)]
pub(super) struct Line {
    /// Its number, from 1.
    pub(super) number: u64,
    /// Its bytes, or why there are none.
    pub(super) bytes: Result<Vec<u8>, TooLong>,
}

/// A line longer than [`LINE_BYTES_MAX`].
#[derive(Debug, PartialEq)]
pub(super) struct TooLong;

/// What input has to give now.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// A line.
    Line(Line),
    /// Nothing yet.
    NotYet,
    /// Nothing more.
    End,
    /// It can't be read.
    Failed(String),
}

/// Lines as they come.
pub(super) struct Lines {
    batches: Receiver<Result<Vec<Line>, String>>,
    batch: std::vec::IntoIter<Line>,
}

impl Lines {
    /// Reads `input` in a thread, and wakes `waker` whenever there is something new.
    pub(super) fn read(input: Box<dyn Read + Send>, waker: Arc<Waker>) -> io::Result<Lines> {
        let (sender, batches) = sync_channel(BATCHES);
        std::thread::Builder::new().name("input".into()).spawn(move || {
            read_batches(BufReader::with_capacity(READ_BYTES, input), &sender, &waker);
            drop(sender);
            let _ = waker.wake();
        })?;
        Ok(Lines { batches, batch: Vec::new().into_iter() })
    }

    /// The next line, if it is there.
    pub(super) fn next(&mut self) -> Next {
        loop {
            if let Some(line) = self.batch.next() {
                return Next::Line(line);
            }
            match self.batches.try_recv() {
                Ok(Ok(batch)) => self.batch = batch.into_iter(),
                Ok(Err(why)) => return Next::Failed(why),
                Err(TryRecvError::Empty) => return Next::NotYet,
                Err(TryRecvError::Disconnected) => return Next::End,
            }
        }
    }
}

fn read_batches(
    mut input: BufReader<impl Read>,
    sender: &SyncSender<Result<Vec<Line>, String>>,
    waker: &Waker,
) {
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    for number in 1.. {
        let line = match read_line(&mut input) {
            Ok(Some(bytes)) => Line { number, bytes },
            outcome => {
                let _ = sender.send(Ok(batch));
                if let Err(error) = outcome {
                    let _ = sender.send(Err(error.to_string()));
                }
                return;
            }
        };
        batch_bytes += line.bytes.as_ref().map_or(0, Vec::len);
        batch.push(line);
        // A line that is there must not wait for one that is not.
        let is_last = memchr::memchr(b'\n', input.buffer()).is_none();
        if is_last || batch.len() >= BATCH_LINES || batch_bytes >= BATCH_BYTES {
            batch_bytes = 0;
            if sender.send(Ok(std::mem::take(&mut batch))).is_err() {
                return;
            }
            let _ = waker.wake();
        }
    }
}

/// One line; `None` at the end of the input. A last line needs no line end.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
    let mut line = Vec::new();
    let count = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    if count == 0 {
        return Ok(None);
    }
    if line.pop_if(|byte| *byte == b'\n').is_some() {
        line.pop_if(|byte| *byte == b'\r');
    } else if count > LINE_BYTES_MAX {
        input.skip_until(b'\n')?;
        return Ok(Some(Err(TooLong)));
    }
    Ok(Some(Ok(line)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::reactor::Reactor;
    use std::io::{Cursor, Write};
    use std::time::{Duration, Instant};

    fn all(input: impl Read + Send + 'static) -> Vec<Line> {
        let mut reactor = Reactor::new().unwrap();
        let mut lines = Lines::read(Box::new(input), reactor.waker()).unwrap();
        let mut all = Vec::new();
        loop {
            match lines.next() {
                Next::Line(line) => all.push(line),
                Next::NotYet => reactor.wait(None).unwrap(),
                Next::End => return all,
                Next::Failed(why) => panic!("{why}"),
            }
        }
    }

    #[test]
    fn lines_come_whole_numbered_and_without_their_ends() {
        for (text, expected) in [
            ("", vec![]),
            ("a", vec!["a"]),
            ("a\n", vec!["a"]),
            ("a\r\nb\n\nc\rd", vec!["a", "b", "", "c\rd"]),
            ("\n", vec![""]),
        ] {
            let lines = all(Cursor::new(text));
            let expected: Vec<_> = (1..)
                .zip(expected)
                .map(|(number, text)| Line { number, bytes: Ok(text.into()) })
                .collect();
            assert_eq!(lines, expected, "{text:?}");
        }
    }

    #[test]
    fn many_lines_come_in_order() {
        let text: String = (1..=5_000).map(|n| format!("{n}\n")).collect();
        for line in all(Cursor::new(text)) {
            assert_eq!(line.bytes, Ok(line.number.to_string().into_bytes()));
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over() {
        let mut text = vec![b'x'; LINE_BYTES_MAX];
        text.extend_from_slice(b"\n");
        text.extend_from_slice(&vec![b'y'; LINE_BYTES_MAX + 9]);
        text.extend_from_slice(b"\nz");
        let lines = all(Cursor::new(text));
        assert_eq!(lines[0].bytes.as_ref().unwrap().len(), LINE_BYTES_MAX);
        assert_eq!(lines[1].bytes, Err(TooLong));
        assert_eq!(lines[2], Line { number: 3, bytes: Ok(b"z".into()) });
    }

    #[test]
    fn a_line_does_not_wait_for_the_next_one() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut reactor = Reactor::new().unwrap();
        let mut lines = Lines::read(Box::new(reader), reactor.waker()).unwrap();
        writer.write_all(b"one\ntw").unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        let line = loop {
            match lines.next() {
                Next::Line(line) => break line,
                _ => reactor.wait(Some(until)).unwrap(),
            }
            assert!(Instant::now() < until);
        };
        assert_eq!(line, Line { number: 1, bytes: Ok(b"one".into()) });
        assert_eq!(lines.next(), Next::NotYet);
    }
}
