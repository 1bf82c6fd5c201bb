//! The server that is measured, when it is started here: this same program as a daemon, or a bare
//! relay. Each has free ports, and is ended by SIGTERM to its id.
//!
//! *Invariant*: a server that was started is ended, however the round ends.

use crate::cli::bench::cpus::Cpus;
use crate::cli::bench::site::{Dialect, Site};
use crate::cli::child::Words;
use crate::cli::failure::Failure;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to say where it listens.
const START: Duration = Duration::from_secs(10);
/// How long one that says nothing any more may take to end, before it is taken for one that hangs.
const LAST: Duration = Duration::from_secs(1);
/// The exit code of the daemon where its command line or configuration is wrong.
const WRONG_USAGE: i32 = 2;
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(5);

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    words: Words,
    /// Where it is.
    pub(super) site: Site,
    /// Where its counters are.
    pub(super) http: Option<SocketAddr>,
}

/// What a relay counted in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) struct RelayCounts {
    /// Reads from sockets.
    pub(super) reads: u64,
    /// Writes to sockets.
    pub(super) writes: u64,
    /// Waits for sockets.
    pub(super) polls: u64,
    /// Frames it passed on.
    pub(super) frames_out: u64,
}

impl Server {
    /// This program as a daemon.
    pub(super) fn daemon(args: &[String], cpus: Option<&Cpus>) -> Result<Server, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::Refused(format!("cannot find this program: {error}")))?;
        let free = "127.0.0.1:0";
        let mut command = Command::new(program);
        command.args(["serve", "--log-format=json", "--listen", free, "--http-listen", free]);
        command.args(["--telemetry-listen", free]).args(args);
        // What the person's shell says of another bus is not meant for this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ARQONBUS_") {
                command.env_remove(name);
            }
        }
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(command, "the daemon")?;
        let words = Words::of(child.stderr.take());
        let Some((bus, http)) = words.find(Instant::now() + START, listening) else {
            return Err(end_unheard(child, "the daemon", &words, args));
        };
        let site = Site::local(Dialect::Bus, bus);
        Server { child, words, site, http: Some(http) }.on_cpus(cpus)
    }

    /// A bare relay.
    pub(super) fn relay(program: &Path, cpus: Option<&Cpus>) -> Result<Server, Failure> {
        let mut command = Command::new(program);
        command.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped());
        let mut child = spawn(command, &program.display().to_string())?;
        let words = Words::of(child.stdout.take());
        let address = |line: &str| line.strip_prefix("listening ")?.trim().parse().ok();
        let Some(address) = words.find::<SocketAddr>(Instant::now() + START, address) else {
            return Err(end_unheard(child, &program.display().to_string(), &words, &[]));
        };
        let site = Site::local(Dialect::Relay, address);
        Server { child, words, site, http: None }.on_cpus(cpus)
    }

    fn on_cpus(self, cpus: Option<&Cpus>) -> Result<Server, Failure> {
        if let Some(cpus) = cpus {
            cpus.take_process(self.pid()).map_err(|error| {
                Failure::Refused(format!("the server can't be put on core {cpus}: {error}"))
            })?;
        }
        Ok(self)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(super) fn has_ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("the server ended by itself ({status}); {}", self.words.told()))
    }

    /// Ends it; gives what a relay counted.
    pub(super) fn stop(mut self) -> Option<RelayCounts> {
        self.end();
        self.words.last(Instant::now() + END, |line| serde_json::from_str(line).ok())
    }

    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        // One that has just ended needs no signal.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + END;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(mut command: Command, name: &str) -> Result<Child, Failure> {
    command
        .stdin(Stdio::null())
        .spawn()
        .map_err(|error| Failure::Refused(format!("cannot start {name}: {error}")))
}

/// The addresses in the daemon's log entry that tells them.
fn listening(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let entry: Value = serde_json::from_str(line).ok()?;
    let address = |key: &str| entry[key].as_str()?.parse().ok();
    (entry["message"] == "listening").then_some(())?;
    Some((address("listen")?, address("http_listen")?))
}

/// Why a server that did not say where it listens did not, and who is to blame for it. `args` are what
/// the person gave it.
fn end_unheard(mut child: Child, name: &str, words: &Words, args: &[String]) -> Failure {
    // One that has closed its stream is about to end.
    let until = Instant::now() + LAST;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ended = child.try_wait().ok().flatten();
    let _ = child.kill();
    let _ = child.wait();
    let told = words.told();
    match ended {
        Some(status) if status.code() == Some(WRONG_USAGE) && !args.is_empty() => {
            let args = args.join(" ");
            Failure::Refused(format!("{name} refuses what --serve-arg gives it, `{args}`; {told}"))
        }
        Some(status) => Failure::Refused(format!("{name} could not start ({status}); {told}")),
        None => {
            let seconds = START.as_secs();
            Failure::Refused(format!(
                "{name} did not say within {seconds} s where it listens, and was ended; {told}"
            ))
        }
    }
}
