//! A master with its replica, and a sentinel that puts the replica in its place when it dies.

#![allow(dead_code, reason = "not every suite needs all of it")]

use super::{Redis, cli, free_port, program};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long the three may take to find each other, and how long a failover may take.
const SOON: Duration = Duration::from_secs(30);

/// How long a server is silent until the sentinel takes it for dead. It needs a second for a connection
/// that it has to make anew: with less it would take a master for dead that it has just made one.
const DOWN_AFTER_MS: u32 = 1_500;

/// A master, its replica and the sentinel that watches both.
pub(crate) struct Watched {
    master: Redis,
    replica: Redis,
    sentinel: Child,
    port: u16,
    _folder: TempDir,
}

impl Watched {
    /// All three, once the replica has what the master has and the sentinel knows both.
    pub(crate) fn start() -> Watched {
        Watched::with_patience(DOWN_AFTER_MS)
    }

    /// The same with a sentinel that takes a server for dead after so long: under a load that leaves it
    /// hardly any processor, a server may be silent for a while.
    pub(crate) fn with_patience(down_after_ms: u32) -> Watched {
        // A replica that asks for everything is served at once, and has what follows at once.
        let options = ["--save", "", "--repl-diskless-sync", "no"];
        let (master, replica) = (Redis::with(&options), Redis::with(&options));
        replicate(&replica, &master);
        let folder = tempfile::tempdir().expect("a folder for the sentinel");
        let (sentinel, port) = sentinel(&folder, master.port(), down_after_ms, "");
        let watched = Watched { master, replica, sentinel, port, _folder: folder };
        until("the sentinel knows the replica", || {
            cli(port, &["SENTINEL", "REPLICAS", "main"]).contains("role-reported\nslave")
        });
        watched
    }

    /// Where the sentinel is asked for the master; another one that is named is not there.
    pub(crate) fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{}/main", self.port)
    }

    /// The server that is the master now.
    pub(crate) fn master(&self) -> &Redis {
        &self.master
    }

    /// The server that is not.
    pub(crate) fn replica(&self) -> &Redis {
        &self.replica
    }

    /// Cuts the replica off: it has nothing of what the master is told from now on.
    pub(crate) fn cut_off(&self) {
        // It can't log in any more at a master that knows no such user.
        self.replica.cli(&["CONFIG", "SET", "masteruser", "nobody"]);
        self.replica.cli(&["CONFIG", "SET", "masterauth", "nothing"]);
        self.replica.cli(&["CLIENT", "KILL", "TYPE", "master"]);
        until("the replica is cut off", || {
            self.replica.cli(&["INFO", "replication"]).contains("master_link_status:down")
        });
    }

    /// Kills the master, and waits until the replica is in its place.
    pub(crate) fn fail_over(&mut self) {
        self.master.kill();
        self.change_places();
    }

    /// Has the sentinel put the replica in the place of a master that lives, which becomes its
    /// replica.
    pub(crate) fn change(&mut self) {
        // It refuses while it does not know yet that the last one is over, or that the replica is good.
        until("the sentinel may change them", || {
            cli(self.port, &["SENTINEL", "FAILOVER", "main"]) == "OK"
        });
        self.change_places();
        until("the former master is a replica that has everything", || {
            self.replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
        });
    }

    /// Starts the former master again, as a replica.
    pub(crate) fn bring_back(&mut self) {
        self.replica.restart();
        replicate(&self.replica, &self.master);
    }

    fn change_places(&mut self) {
        let promoted = self.replica.port().to_string();
        until("a failover", || {
            let named = cli(self.port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
            named.lines().last() == Some(&*promoted) && role(&self.replica) == "master"
        });
        std::mem::swap(&mut self.master, &mut self.replica);
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = self.sentinel.kill();
        let _ = self.sentinel.wait();
    }
}

/// A sentinel alone, with lines of its own in its configuration.
pub(crate) struct Guard {
    sentinel: Child,
    port: u16,
    _folder: TempDir,
}

impl Guard {
    /// One that watches a master under the name `main`.
    pub(crate) fn of(master: &Redis, lines: &str) -> Guard {
        let folder = tempfile::tempdir().expect("a folder for the sentinel");
        let (sentinel, port) = sentinel(&folder, master.port(), DOWN_AFTER_MS, lines);
        Guard { sentinel, port, _folder: folder }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.sentinel.kill();
        let _ = self.sentinel.wait();
    }
}

/// A sentinel that watches the master at this port under the name `main`.
fn sentinel(folder: &TempDir, master: u16, down_after_ms: u32, lines: &str) -> (Child, u16) {
    let file = folder.path().join("sentinel.conf");
    // Somebody else may take the port between the two of us: then another is tried.
    for _ in 0..20 {
        let port = free_port();
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\n\
             sentinel monitor main 127.0.0.1 {master} 1\n\
             sentinel down-after-milliseconds main {down_after_ms}\n\
             sentinel failover-timeout main 5000\n{lines}",
            folder.path().display()
        );
        std::fs::write(&file, text).expect("the folder can be written to");
        let mut command = program();
        command.arg(&file).arg("--sentinel").stdout(Stdio::null()).stderr(Stdio::null());
        let mut child =
            command.spawn().expect("redis-server is installed; see tests/redis/install");
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let answer = cli(port, &["PING"]);
            if answer == "PONG" || answer.contains("NOAUTH") {
                return (child, port);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
    panic!("no sentinel could be started");
}

/// Makes one the replica of the other, and waits until it has everything.
fn replicate(replica: &Redis, master: &Redis) {
    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    until("the replica has everything", || {
        replica.cli(&["INFO", "replication"]).contains("master_link_status:up")
    });
}

fn role(redis: &Redis) -> String {
    redis.cli(&["ROLE"]).lines().next().unwrap_or_default().to_owned()
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}
