//! The program as a person or a script runs it: `pub`, `sub` and the others as real processes.

use super::daemon::{program, wait_for_exit};
use super::{Daemon, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

/// A process whose output is read as it comes.
pub(crate) struct Process {
    child: Child,
    /// Its standard input.
    pub stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    notes: Receiver<String>,
    heard: Vec<String>,
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
}

impl Ended {
    /// What it printed, if it ended well.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert!(self.status.success(), "{self:?}");
        self.stdout
    }
}

/// The program, to talk to this bus.
pub(crate) fn to_bus(bus: SocketAddr, words: &[&str]) -> Command {
    let mut command = program();
    command.args(words).env("ARQONBUS_URL", format!("ws://{bus}"));
    command
}

/// Runs a command of the program on a daemon to its end.
#[track_caller]
pub(crate) fn run(daemon: &Daemon, words: &[&str], input: &str) -> Ended {
    run_command(to_bus(daemon.bus, words), input)
}

/// Runs a command to its end.
#[track_caller]
pub(crate) fn run_command(command: Command, input: &str) -> Ended {
    let mut process = Process::spawn(command);
    let mut stdin = process.stdin.take().expect("standard input is piped");
    let input = input.to_owned();
    // A process that does not read would otherwise stop this one.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let ended = process.wait();
    writer.join().expect("the writer of input does not panic");
    ended
}

impl Process {
    /// Starts a command.
    #[track_caller]
    pub(crate) fn spawn(mut command: Command) -> Process {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        let lines = lines_of(child.stdout.take().expect("standard output is piped"));
        let notes = lines_of(child.stderr.take().expect("standard error is piped"));
        Process { stdin: child.stdin.take(), child, lines, notes, heard: Vec::new() }
    }

    /// The next line it prints.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let notes: Vec<String> = self.notes.try_iter().collect();
            panic!("it printed nothing more ({error}); it said {:?} {notes:?}", self.heard)
        })
    }

    /// Awaits a line on standard error that holds this text.
    #[track_caller]
    pub(crate) fn note(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.notes.recv_timeout(left) {
                Ok(line) => {
                    self.heard.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(error) => panic!("it never said {text:?} ({error}), but {:?}", self.heard),
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is there");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Ended {
        drop(self.stdin.take());
        let status = wait_for_exit(&mut self.child, PATIENCE);
        let status = status.unwrap_or_else(|| panic!("it does not end; it said {:?}", self.heard));
        let together =
            |lines: &Receiver<String>| lines.iter().map(|line| line + "\n").collect::<String>();
        let mut stderr: String = self.heard.iter().map(|line| format!("{line}\n")).collect();
        stderr += &together(&self.notes);
        Ended { status, stdout: together(&self.lines), stderr }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
