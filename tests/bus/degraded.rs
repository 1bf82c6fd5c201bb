//! A bus that can't do part of its work goes on with the rest, says so everywhere alike, and can always
//! be stopped: standard error that nobody reads, descriptors that have run out, a main thread that hangs.

use crate::common::daemon::{program, serve_flags, wait_for_exit};
use crate::common::raw;
use crate::common::{Client, Daemon, PATIENCE, eventually, http};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A daemon whose standard error is read up to the line `listening`, and then not any more.
struct Unread {
    child: Child,
    bus: SocketAddr,
    http: SocketAddr,
    stderr: Option<BufReader<ChildStderr>>,
}

impl Unread {
    /// With a configuration that may be made wrong: then each reload logs a hundred mistakes.
    fn start(level: &str) -> (Unread, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus.toml");
        fs::write(&path, "shards = 2\n").unwrap();
        let daemon = Unread::with(&["--config", path.to_str().unwrap(), "--log-level", level]);
        let wrong: String = (0..100).map(|n| format!("nonsense_{n} = 1\n")).collect();
        fs::write(&path, wrong).unwrap();
        (daemon, directory)
    }

    fn with(flags: &[&str]) -> Unread {
        let mut command = program();
        command.args(serve_flags()).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let mut stderr = BufReader::new(stderr);
        let listening = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "it ended");
            let line: Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                break line;
            }
        };
        let address = |key: &str| listening[key].as_str().unwrap().parse().unwrap();
        let (bus, http) = (address("listen"), address("http_listen"));
        Unread { child, bus, http, stderr: Some(stderr) }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Makes the daemon log more than its pipe holds, and is sure that it has.
    fn log_much(&self) {
        for _ in 0..40 {
            self.signal(Signal::HUP);
            assert_eq!(http::get(self.http, "/health").status, 200);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The bus works as if nobody had to read its log.
    fn works(&self) {
        let mut ann = Client::connect(self.bus, "client_id=ann&join=lab:x");
        let mut bob = Client::connect(self.bus, "client_id=bob&join=lab:x");
        for n in 0..50 {
            ann.publish_acked("lab:x", json!({ "n": n }));
            bob.event();
        }
    }

    fn degradation(&self) -> Option<Value> {
        let status = http::get(self.http, "/status").json();
        let rows = status["degraded"].as_array().unwrap();
        rows.iter().find(|row| row["component"] == "log").cloned()
    }

    fn ends_by_a_signal(&mut self) {
        self.signal(Signal::TERM);
        let status = wait_for_exit(&mut self.child, PATIENCE).expect("it ends");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn standard_error_that_nobody_reads_stops_nothing() {
    for level in ["info", "trace"] {
        let (mut daemon, _directory) = Unread::start(level);
        daemon.log_much();
        daemon.works();
        daemon.ends_by_a_signal();
    }
}

#[test]
fn lines_that_found_no_room_are_counted_and_told_once() {
    let (mut daemon, _directory) = Unread::start("trace");
    let dropped = || http::metric(&http::get(daemon.http, "/metrics").body, DROPPED, "");
    eventually("the queue to be full", || {
        daemon.signal(Signal::HUP);
        (dropped() > 0.0).then_some(())
    });
    let row = eventually("it to be said", || daemon.degradation());
    assert_eq!(row["cause"], "standard error is full");
    // More clients may come all the same.
    let ready = http::get(daemon.http, "/ready");
    assert_eq!((ready.status, &ready.json()["degraded"][0]["component"]), (200, &json!("log")));
    // Somebody reads again.
    let mut stderr = daemon.stderr.take().unwrap();
    let lines = std::thread::spawn(move || {
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    });
    eventually("it to be well again", || daemon.degradation().is_none().then_some(()));
    daemon.works();
    daemon.ends_by_a_signal();
    let lines = lines.join().unwrap();
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let told = |text: &str| {
        let is_meant = |line: &&Value| line["message"].as_str().is_some_and(|m| m.contains(text));
        lines.iter().filter(is_meant).count()
    };
    assert!(told("log lines were dropped: standard error was not read") >= 1);
    assert_eq!(told("stopped"), 1, "the end is in the log");
}

const DROPPED: &str = "arqonbus_log_lines_dropped_total";

#[test]
fn a_closed_standard_error_stops_nothing() {
    for level in ["info", "trace"] {
        let (mut daemon, _directory) = Unread::start(level);
        drop(daemon.stderr.take());
        daemon.log_much();
        daemon.works();
        let row = eventually("it to be said", || daemon.degradation());
        assert!(row["cause"].as_str().unwrap().contains("roken pipe"), "{row}");
        daemon.ends_by_a_signal();
    }
}

#[test]
fn commands_end_by_their_exit_code_if_nobody_reads_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, "shards = 0\n").unwrap();
    let path = path.to_str().unwrap();
    for (words, code) in [
        (&["check-config", path][..], 2),
        (&["serve", "--config", path], 2),
        (&["serve", "--config", path, "--print-config"], 2),
        (&["doctor", "--config", path], 2),
        (&["status", "--url", "nonsense"], 2),
    ] {
        let mut command = program();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let (reader, writer) = std::io::pipe().unwrap();
        command.stderr(writer);
        drop(reader);
        let status = command.spawn().unwrap().wait().unwrap();
        assert_eq!(status.code(), Some(code), "{words:?}");
    }
}

#[test]
fn a_start_that_fails_ends_though_nobody_can_be_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    fs::write(&path, "shards = 0\n").unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (words, code) in [
        (&["serve", "--config", path.to_str().unwrap()][..], 2),
        (&["serve", "--listen", &taken, "--http-listen", "127.0.0.1:0"], 1),
    ] {
        // A full pipe that nobody reads.
        let (reader, mut writer) = std::io::pipe().unwrap();
        let full = writer.try_clone().unwrap();
        std::thread::spawn(move || while writer.write(&[b'x'; 4_096]).is_ok() {});
        let mut command = program();
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(full);
        std::thread::sleep(Duration::from_millis(100));
        let mut child = command.spawn().unwrap();
        let status = wait_for_exit(&mut child, PATIENCE);
        let _ = child.kill();
        drop(reader);
        assert_eq!(status.expect("it ends").code(), Some(code), "{words:?}");
    }
}

/// A connection over which several requests can be made.
struct KeptAlive(TcpStream);

impl KeptAlive {
    fn get(&mut self, path: &str) -> (u16, Value) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.write_all(request.as_bytes()).unwrap();
        let mut reader = BufReader::new(&self.0);
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            let lower = line.to_lowercase();
            if let Some(rest) = lower.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().unwrap();
            } else if let Some(rest) = lower.strip_prefix("content-length: ") {
                length = rest.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

#[test]
fn a_bus_out_of_descriptors_says_so_and_takes_up_what_waited() {
    let daemon = Daemon::start(&["--shards", "1"]);
    let pid = Pid::from_raw(daemon.pid() as i32);
    let mut member = daemon.client_with("client_id=member&join=lab:x");
    let mut scraper = KeptAlive(TcpStream::connect(daemon.http).unwrap());
    scraper.0.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(scraper.get("/ready"), (200, json!({"status": "ready"})));

    let limit = getrlimit(Resource::Nofile);
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let none_left = Rlimit { current: Some(open as u64), maximum: limit.maximum };
    prlimit(pid, Resource::Nofile, none_left).unwrap();
    let mut waiting = daemon.socket();
    waiting.write_all(&raw::handshake("/?client_id=late", "")).unwrap();
    let body = eventually("it to be said", || {
        let (status, body) = scraper.get("/ready");
        (status == 503).then_some(body)
    });
    assert_eq!(body["status"], "degraded", "{body}");
    let reason = body["reason"].as_str().unwrap();
    assert!(reason.starts_with("accept: ") && reason.contains("open files"), "{body}");
    let (_, status) = scraper.get("/status");
    let row = status["degraded"].as_array().unwrap().iter().find(|r| r["component"] == "accept");
    let row = row.unwrap_or_else(|| panic!("{status}"));
    assert_eq!(format!("accept: {}", row["cause"].as_str().unwrap()), reason);
    assert_eq!((&status["state"], &status["reason"]), (&body["status"], &body["reason"]));
    eventually("it to be tried again", || {
        let (_, status) = scraper.get("/status");
        (status["degraded"][0]["failures"].as_u64() >= Some(3)).then_some(())
    });
    // Who is here is served as ever.
    member.publish_acked("lab:x", json!({}));

    prlimit(pid, Resource::Nofile, limit).unwrap();
    let mut waiting = raw::RawPeer::upgraded(waiting);
    assert_eq!(waiting.message()["payload"]["event"], "welcome", "who waited is let in");
    eventually("it to be ready again", || (scraper.get("/ready").0 == 200).then_some(()));
    daemon.log().line("works again");
    let log = daemon.log().lines();
    let count = |text: &str| {
        let is_meant = |line: &&Value| {
            line["component"] == "accept"
                && line["message"].as_str().is_some_and(|message| message.contains(text))
        };
        log.iter().filter(is_meant).count()
    };
    assert_eq!(
        (count("degraded: clients can't connect"), count("works again")),
        (1, 1),
        "{log:#?}"
    );
    drop((waiting, member));
}

#[test]
fn signals_are_heard_while_the_main_thread_hangs() {
    // A configuration that can't be read to its end, as on a file server that has gone.
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("bus.toml");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let writer = {
        let fifo = fifo.clone();
        std::thread::spawn(move || fs::write(fifo, "shards = 1\n").unwrap())
    };
    let mut daemon = Unread::with(&["--config", fifo.to_str().unwrap()]);
    writer.join().unwrap();
    daemon.signal(Signal::HUP);
    let mut client = Client::connect(daemon.bus, "client_id=ann&join=lab:x");
    client.publish_acked("lab:x", json!({}));
    // Signals that come together count as one.
    let status = eventually("the process to end", || {
        std::thread::sleep(Duration::from_millis(50));
        let _ = kill_process(Pid::from_child(&daemon.child), Signal::TERM);
        daemon.child.try_wait().unwrap()
    });
    let mut said = String::new();
    daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(status.code(), Some(1), "{status}: {said}");
    assert!(said.contains("a third signal came; it ends by force"), "{said}");
}
