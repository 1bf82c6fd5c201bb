//! A Redis of a test's own: a real redis-server on a free loopback port, with its files in a
//! folder of its own, killed when the test ends. `tests/redis/install` installs what is needed;
//! `ARQONBUS_TEST_REDIS_SERVER` names another server to be used, such as a Valkey.

pub(crate) mod sentinel;

use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(10);

/// How far the port by which the nodes of a cluster talk is from the other.
const CLUSTER_BUS: u16 = 10_000;

/// A running server.
pub(crate) struct Redis {
    child: Child,
    folder: TempDir,
    port: u16,
    options: Vec<String>,
}

impl Redis {
    /// A server that keeps nothing on disk.
    pub(crate) fn start() -> Redis {
        Redis::with(&["--save", "", "--appendonly", "no"])
    }

    /// A server with these options.
    pub(crate) fn with(options: &[&str]) -> Redis {
        let folder = tempfile::tempdir().expect("a folder for redis-server");
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        // Somebody else may take the port between the two of us: then another is tried.
        for _ in 0..20 {
            let port = free_port();
            let mut child = spawn(port, &folder, &options);
            if answers(port, &mut child, &options) {
                return Redis { child, folder, port, options };
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("no redis-server could be started; see tests/redis/install");
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills the server as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("redis-server can be killed");
        self.child.wait().expect("redis-server can be waited for");
    }

    /// Starts it again, on the same port and with the same files.
    pub(crate) fn restart(&mut self) {
        let end = Instant::now() + START;
        loop {
            self.child = spawn(self.port, &self.folder, &self.options);
            if answers(self.port, &mut self.child, &self.options) {
                return;
            }
            assert!(Instant::now() < end, "redis-server does not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Gives one command and its answer, as redis-cli prints it.
    pub(crate) fn cli(&self, words: &[&str]) -> String {
        cli(self.port, words)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What redis-cli prints for a command.
pub(crate) fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli")
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(words)
        .stdin(Stdio::null())
        .output()
        .expect("redis-cli is installed");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A port that nobody listens on, and neither on the one beside it that clusters use.
pub(crate) fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let bus = port.checked_add(CLUSTER_BUS);
        if bus.is_some_and(|bus| TcpListener::bind((Ipv4Addr::LOCALHOST, bus)).is_ok()) {
            return port;
        }
    }
}

/// The program that is the server, and with `--sentinel` a sentinel.
fn program() -> Command {
    Command::new(std::env::var_os("ARQONBUS_TEST_REDIS_SERVER").unwrap_or("redis-server".into()))
}

fn spawn(port: u16, folder: &TempDir, options: &[String]) -> Child {
    program()
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--loglevel", "warning"])
        .arg("--dir")
        .arg(folder.path())
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed; see tests/redis/install")
}

/// Whether the server answers, before it ends or its time is over.
fn answers(port: u16, child: &mut Child, options: &[String]) -> bool {
    let has_password = options.iter().any(|option| option == "--requirepass");
    let end = Instant::now() + START;
    while Instant::now() < end {
        if child.try_wait().expect("a child can be asked").is_some() {
            return false;
        }
        let answer = cli(port, &["PING"]);
        if answer == "PONG" || (has_password && answer.contains("NOAUTH")) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}
