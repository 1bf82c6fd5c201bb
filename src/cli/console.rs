//! What a command talks to beside the bus: standard input, output and error, and its reactor.
//!
//! *Invariant*: a note is one line without control characters, whoever's words are in it.

use crate::cli::failure::Failure;
use crate::cli::reactor::Reactor;
use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::Duration;

/// Bytes of output that are written at once when the bus is faster than the reader.
const OUT_BYTES: usize = 64 * 1024;

/// How long standard error is waited for where the process must end.
const TELL_TIME: Duration = Duration::from_secs(1);

/// The world of one command.
pub(super) struct Console {
    /// Standard input, until a thread takes it.
    pub(super) input: Option<Box<dyn Read + Send>>,
    /// Standard output.
    pub(super) out: Box<dyn Write>,
    /// Whether a person looks at standard output.
    pub(super) is_terminal: bool,
    /// Standard error.
    err: Box<dyn Write>,
    /// Standard output, where it is this process's own.
    out_fd: Option<RawFd>,
    /// Where the command waits.
    pub(super) reactor: Reactor,
}

impl Console {
    /// The console of this process.
    pub(super) fn of_process(reactor: Reactor) -> Console {
        let out = io::stdout();
        let (is_terminal, out_fd) = (out.is_terminal(), Some(out.as_raw_fd()));
        // Standard output's own line buffer would make a system call of every message.
        let out = Box::new(BufWriter::with_capacity(OUT_BYTES, out.lock()));
        let (input, err) = (Some(Box::new(io::stdin()) as _), Box::new(io::stderr()));
        Console { input, out, is_terminal, err, out_fd, reactor }
    }

    /// A console of the given ends, for tests.
    #[cfg(test)]
    pub(super) fn of_ends(
        input: Box<dyn Read + Send>,
        out: Box<dyn Write>,
        err: Box<dyn Write>,
        reactor: Reactor,
    ) -> Console {
        Console { input: Some(input), out, is_terminal: false, err, out_fd: None, reactor }
    }

    /// Ends the command when whoever reads its output leaves: for a command that does nothing but
    /// print.
    pub(super) fn end_with_reader(&self) {
        if let Some(out_fd) = self.out_fd {
            self.reactor.watch_output(out_fd);
        }
    }

    /// Tells the person something that is not what they asked for.
    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        let mut line = String::from("arqonbus: ");
        push_printable(&mut line, text.as_ref());
        line.push('\n');
        // A person who closed standard error does not want to be told.
        let _ = self.err.write_all(line.as_bytes());
    }

    /// Writes a line of what was asked for.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.out, "{}", text.as_ref()).map_err(|error| Failure::of_output(&error))
    }

    /// Lets out what was written.
    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| Failure::of_output(&error))
    }
}

/// Tells the person something where there is no console. (`eprintln!` panics where standard error has
/// been closed.)
pub(super) fn tell(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The same by a process whose supervisor waits for its end: if nobody reads standard error, it ends
/// without having told.
pub(super) fn tell_in_time(text: String) {
    let (done, told) = channel();
    let spawned = Builder::new().spawn(move || {
        tell(text);
        // Nobody waits any more if it took too long.
        let _ = done.send(());
    });
    if spawned.is_ok() {
        let _ = told.recv_timeout(TELL_TIME);
    }
}

/// Appends `text` with its control characters escaped, so that no peer's words can move a
/// terminal's cursor or change its colours.
pub(super) fn push_printable(out: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() {
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_instead_of_obeyed() {
        let mut out = String::new();
        push_printable(&mut out, "a\u{1b}[31m\u{9b}b\nc\u{7f} é");
        assert_eq!(out, "a\\u001b[31m\\u009bb\\u000ac\\u007f é");
    }
}
