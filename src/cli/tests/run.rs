//! A command that runs in a thread, with ends that a test can hold.

use crate::cli::console::Console;
use crate::cli::reactor::{Reactor, Stop};
use crate::cli::tests::bus::Bus;
use crate::cli::{CommandLine, conclude, execute};
use clap::Parser;
use serde_json::Value;
use std::io::{self, PipeWriter, Write};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Bytes that one thread writes and another one looks at.
#[derive(Clone, Default)]
pub(super) struct Tape(Arc<Mutex<Vec<u8>>>);

impl Write for Tape {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tape {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.text().lines().map(str::to_owned).collect()
    }
}

/// A command on its way.
pub(super) struct Run {
    pub(super) out: Tape,
    pub(super) err: Tape,
    pub(super) stop: Stop,
    /// Its standard input; dropped, it ends.
    pub(super) input: Option<PipeWriter>,
    thread: JoinHandle<u8>,
}

/// What a command did.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) code: u8,
    pub(super) out: Vec<String>,
    pub(super) err: String,
}

impl Run {
    /// Starts `arqonbus` with these arguments, towards `bus`.
    pub(super) fn start(bus: &Bus, arguments: &[&str]) -> Run {
        let url = bus.url();
        let all: Vec<&str> = arguments.iter().copied().chain(["--url", &url]).collect();
        Run::start_plain(&all)
    }

    pub(super) fn start_plain(arguments: &[&str]) -> Run {
        let out = Tape::default();
        Run::start_writing(arguments, out.clone(), Box::new(out))
    }

    pub(super) fn start_writing(arguments: &[&str], tape: Tape, out: Box<dyn Write + Send>) -> Run {
        let all = ["arqonbus"].into_iter().chain(arguments.iter().copied());
        let typed = CommandLine::try_parse_from(all).unwrap_or_else(|error| panic!("{error}"));
        let (reader, writer) = io::pipe().unwrap();
        let reactor = Reactor::new().unwrap();
        let (stop, err) = (reactor.stop(), Tape::default());
        let to_err = err.clone();
        let thread = std::thread::spawn(move || {
            let mut console = Console::of_ends(Box::new(reader), out, Box::new(to_err), reactor);
            let outcome = execute(typed.command, &mut console);
            conclude(outcome, &mut console)
        });
        Run { out: tape, err, stop, input: Some(writer), thread }
    }

    /// Gives the command everything it will ever read.
    pub(super) fn feed(mut self, text: impl AsRef<[u8]>) -> Run {
        let mut input = self.input.take().unwrap();
        let bytes = text.as_ref().to_owned();
        std::thread::spawn(move || {
            let _ = input.write_all(&bytes);
        });
        self
    }

    /// Waits until so many lines were printed.
    pub(super) fn until_lines(&self, count: usize) -> Vec<String> {
        self.until("lines", |run| run.out.lines().len() >= count);
        self.out.lines()
    }

    pub(super) fn until_told(&self, text: &str) {
        self.until(text, |run| run.err.text().contains(text));
    }

    fn until(&self, what: &str, is_so: impl Fn(&Run) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(self) {
            let is_late = Instant::now() > deadline || self.thread.is_finished();
            assert!(
                !is_late || is_so(self),
                "no {what}\nout: {}\nerr: {}",
                self.out.text(),
                self.err.text()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits for the end.
    pub(super) fn done(self) -> Done {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !self.thread.is_finished() {
            assert!(
                Instant::now() < deadline,
                "it does not end\nout: {}\nerr: {}",
                self.out.text(),
                self.err.text()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        let code = self.thread.join().unwrap();
        Done { code, out: self.out.lines(), err: self.err.text() }
    }

    /// Ends it as a person would.
    pub(super) fn interrupt(self) -> Done {
        self.stop.raise(2);
        self.done()
    }
}

/// The sequence of each printed envelope.
pub(super) fn sequences(lines: &[String]) -> Vec<u64> {
    let of_line = |line: &String| {
        let envelope: Value = serde_json::from_str(line).unwrap();
        envelope["metadata"]["sequence"].as_u64().unwrap()
    };
    lines.iter().map(of_line).collect()
}

/// `n` of each printed payload.
pub(super) fn numbers(lines: &[String]) -> Vec<u64> {
    let of_line = |line: &String| {
        let payload: Value = serde_json::from_str(line).unwrap();
        payload["n"].as_u64().unwrap()
    };
    lines.iter().map(of_line).collect()
}
