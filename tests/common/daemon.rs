//! A daemon of one's own: the real binary on free ports, its log read line by line, its end
//! awaited.
//!
//! *Invariant*: a daemon that a test did not stop is still alive when the test lets it go, and has
//! logged no error that the test did not expect.

use super::{Client, PATIENCE, http, raw::RawPeer};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_arqonbus");

/// A running daemon.
pub(crate) struct Daemon {
    child: Child,
    /// Where its bus is.
    pub bus: SocketAddr,
    /// Where its telemetry is.
    pub telemetry: SocketAddr,
    /// Where its HTTP is.
    pub http: SocketAddr,
    log: Log,
    may_log_errors: bool,
    was_killed: bool,
}

/// What a daemon says on standard error, as it says it.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<(Mutex<Lines>, Condvar)>);

#[derive(Default)]
struct Lines {
    lines: Vec<Value>,
    is_over: bool,
}

/// The flags of every daemon here: free ports, a log that can be read, no core of its own on a
/// machine that is shared.
pub(crate) fn serve_flags() -> Vec<&'static str> {
    let free = "127.0.0.1:0";
    vec![
        "serve",
        "--listen",
        free,
        "--telemetry-listen",
        free,
        "--http-listen",
        free,
        "--log-format",
        "json",
        "--pin",
        "off",
    ]
}

/// The program without whatever this machine's environment configures. `ARQONBUS_TEST_PROGRAM` names
/// another build of it to be tested, such as the release binary.
pub(crate) fn program() -> Command {
    let other = std::env::var_os("ARQONBUS_TEST_PROGRAM");
    without_environment(Command::new(other.unwrap_or(PROGRAM.into())))
}

/// A command whose environment holds nothing that the program would read.
pub(crate) fn without_environment(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ARQONBUS_") {
            command.env_remove(name);
        }
    }
    command
}

impl Daemon {
    /// A daemon with these flags beside the ones of every daemon.
    #[track_caller]
    pub(crate) fn start(flags: &[&str]) -> Daemon {
        let mut command = program();
        command.args(serve_flags()).args(flags);
        Daemon::of_command(command)
    }

    /// A daemon with so many shards, whose clients may give commands as fast as they can.
    #[track_caller]
    pub(crate) fn with_shards(shards: u16) -> Daemon {
        Daemon::start(&["--shards", &shards.to_string(), "--rate-commands", "0"])
    }

    /// A daemon that other machines could reach, whose clients are no admins.
    #[track_caller]
    pub(crate) fn for_users(flags: &[&str]) -> Daemon {
        let mut flags = flags.to_vec();
        flags.extend(["--listen", "0.0.0.0:0"]);
        Daemon::start_over(&flags)
    }

    /// A daemon whose listening flags are its own.
    #[track_caller]
    pub(crate) fn start_over(flags: &[&str]) -> Daemon {
        let mut command = program();
        let mut defaults = serve_flags();
        while let Some(at) = defaults.iter().position(|flag| flags.contains(flag)) {
            defaults.drain(at..at + 2);
        }
        command.args(defaults).args(flags);
        Daemon::of_command(command)
    }

    /// A daemon of a command that writes its log as JSON.
    #[track_caller]
    pub(crate) fn of_command(mut command: Command) -> Daemon {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program is built");
        let log = Log::of(child.stderr.take().expect("standard error is piped"));
        let Some(line) = log.wait_for(|line| line["message"] == "listening") else {
            let status = child.wait();
            panic!("the daemon does not listen ({status:?}): {:#?}", log.lines());
        };
        let address = |key: &str| -> SocketAddr {
            let text = line[key].as_str().unwrap_or("0.0.0.0:0");
            // A listener on every address is reached by the loopback one.
            text.replace("0.0.0.0", "127.0.0.1").parse().expect("an address is logged")
        };
        let (bus, telemetry, http) =
            (address("listen"), address("telemetry_listen"), address("http_listen"));
        Daemon { child, bus, telemetry, http, log, may_log_errors: false, was_killed: false }
    }

    /// The daemon may log errors: the test makes it.
    pub(crate) fn expect_errors(mut self) -> Daemon {
        self.may_log_errors = true;
        self
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged and will log.
    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// A client of that id.
    #[track_caller]
    pub(crate) fn client(&self, client_id: &str) -> Client {
        Client::connect(self.bus, &format!("client_id={client_id}"))
    }

    /// A client that connects with this query string.
    #[track_caller]
    pub(crate) fn client_with(&self, query: &str) -> Client {
        Client::connect(self.bus, query)
    }

    /// A bare connection to the bus.
    #[track_caller]
    pub(crate) fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.bus).expect("the bus takes connections");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("small writes can be sent at once");
        stream
    }

    /// A bare WebSocket that speaks frames instead of messages.
    #[track_caller]
    pub(crate) fn raw(&self, query: &str) -> RawPeer {
        RawPeer::connect(self.socket(), query)
    }

    /// `GET` over HTTP.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> http::Answer {
        http::get(self.http, path)
    }

    /// The sum of a metric over all its labels that hold `label`.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, label: &str) -> f64 {
        http::metric(&self.get("/metrics").body, name, label)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the daemon is there to be signalled");
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for_exit(&mut self.child, PATIENCE).expect("the daemon ends in time")
    }

    /// It has ended by itself, as the test expects.
    pub(crate) fn let_go(mut self) {
        self.was_killed = true;
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.was_killed = true;
        self.child.kill().expect("the daemon is there to be killed");
        self.wait();
    }

    /// Stops it by SIGTERM, as a supervisor would, and expects a good end.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Log {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{status}: {:#?}", self.log.lines());
        self.log.clone()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ended = self.child.try_wait();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.log.lines();
        if std::thread::panicking() {
            let last = lines.iter().rev().take(20).rev();
            eprintln!("the daemon ({ended:?}) said last:");
            last.for_each(|line| eprintln!("  {line}"));
            return;
        }
        if let Ok(Some(status)) = ended {
            let is_well = self.was_killed || status.success();
            assert!(is_well, "the daemon ended by itself: {status}: {lines:#?}");
        }
        let errors: Vec<_> = lines.iter().filter(|line| line["level"] == "ERROR").collect();
        assert!(self.may_log_errors || errors.is_empty(), "the daemon logged {errors:#?}");
    }
}

impl Log {
    fn of(stderr: ChildStderr) -> Log {
        let log = Log::default();
        let shared = log.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                // What is no JSON, such as a panic's report, is kept as text.
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                shared.lock().lines.push(value);
                shared.0.1.notify_all();
            }
            shared.lock().is_over = true;
            shared.0.1.notify_all();
        });
        log
    }

    /// The first line that is meant; `None` if the process ended without one.
    #[track_caller]
    pub(crate) fn wait_for(&self, is_meant: impl Fn(&Value) -> bool) -> Option<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lock();
        loop {
            if let Some(line) = lines.lines.iter().find(|line| is_meant(line)) {
                return Some(line.clone());
            }
            if lines.is_over {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "the daemon never said it: {:#?}", lines.lines);
            lines = self.0.1.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first line whose message holds this text.
    #[track_caller]
    pub(crate) fn line(&self, text: &str) -> Value {
        let is_meant = |line: &Value| line["message"].as_str().is_some_and(|m| m.contains(text));
        self.wait_for(is_meant).unwrap_or_else(|| panic!("no line says {text:?}"))
    }

    /// Everything so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.lock().lines.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a process to end; `None` if it does not in time.
pub(crate) fn wait_for_exit(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
