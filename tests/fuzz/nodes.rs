//! The same scripts against real daemons: one that keeps everything in memory, and two that share a Redis
//! which is paused, killed and emptied meanwhile. Sockets have timings of their own, so an input that
//! fails here may not fail again.
//!
//! Whatever was played, no daemon ends, the first bytes of every connection are HTTP, memory is bounded,
//! and in the end two ordinary clients, one at each node, talk as if nothing had been.

use crate::common::{Client, Daemon, eventually};
use crate::redis::Redis;
use crate::session::{Stage, frame, play};
use arqonbus::base::limits::Limits;
use rustix::process::Signal;
use serde_json::json;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

/// The longest that a script waits at a time, and how long the daemons have for each of its steps.
const PASS_MAX: Duration = Duration::from_millis(50);
const STEP: Duration = Duration::from_millis(1);

/// How long Redis serves nobody when it is paused, in milliseconds.
const REDIS_PAUSE_MS: &str = "200";

/// What a daemon may have in RAM in the end, in MiB.
const MIB_MAX: u64 = 128;

/// The limits of the simulated bus, as flags.
const FLAGS: [&str; 22] = [
    "--shards",
    "2",
    "--max-message-bytes",
    "2048",
    "--outbox-bytes",
    "70000",
    "--history-size",
    "8",
    "--history-bytes",
    "8192",
    "--history-bytes-total",
    "65536",
    "--max-rooms",
    "6",
    "--max-channels",
    "20",
    "--max-joins-per-client",
    "6",
    "--max-members-per-channel",
    "4",
    "--log-level",
    "error,arqonbus=info",
];

/// Plays a script on one daemon.
pub(crate) fn one(input: &[u8]) {
    let mut nodes = Nodes::new(vec![Daemon::start(&FLAGS).expect_errors()], None);
    play(&mut nodes, input);
    nodes.end();
}

/// Plays a script on two daemons that share a Redis.
pub(crate) fn two(input: &[u8]) {
    let redis = Redis::with(&["--save", "", "--appendonly", "yes"]);
    let url = redis.url();
    let node = |name| {
        let shared =
            ["--storage", "redis", "--redis-url", &url, "--node", name, "--many-nodes", "true"];
        Daemon::start(&[&FLAGS[..], &shared].concat()).expect_errors()
    };
    let mut nodes = Nodes::new(vec![node("a"), node("b")], Some(redis));
    play(&mut nodes, input);
    nodes.end();
}

struct Nodes {
    daemons: Vec<Daemon>,
    redis: Option<Redis>,
    peers: Vec<Peer>,
}

/// A client, as long as its socket is open.
struct Peer {
    socket: Option<TcpStream>,
    greeting: Vec<u8>,
    reads: bool,
}

impl Nodes {
    fn new(daemons: Vec<Daemon>, redis: Option<Redis>) -> Nodes {
        Nodes { daemons, redis, peers: Vec::new() }
    }

    /// Everybody hangs up, and two ordinary clients come.
    fn end(mut self) {
        self.peers.clear();
        let (first, last) = (&self.daemons[0], &self.daemons[self.daemons.len() - 1]);
        eventually("two ordinary clients to talk", || {
            self.daemons.iter().for_each(assert_alive);
            talk(first, last)
        });
        for daemon in self.daemons {
            let mib = resident_mib(daemon.pid());
            assert!(mib <= MIB_MAX, "a daemon has {mib} MiB");
            daemon.stop();
        }
    }
}

/// Whether what a client says at one node reaches a client at another one.
fn talk(one: &Daemon, other: &Daemon) -> Option<()> {
    let mut ann = Client::try_connect(one.bus, "client_id=calm-ann")?;
    let mut bob = Client::try_connect(other.bus, "client_id=calm-bob")?;
    for client in [&mut ann, &mut bob] {
        client.ask("join_channel", json!({"channel": "science:general"})).ok()?;
    }
    let id = ann.publish_with("science:general", json!({}), json!({"ack": true}));
    let is_stored = ann.reply(&id)["status"] == "success";
    is_stored.then(|| assert_eq!(bob.event()["id"], id))
}

fn assert_alive(daemon: &Daemon) {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap_or_default();
    let is_alive = !stat.is_empty() && !stat.contains(") Z ");
    assert!(is_alive, "a daemon has ended: {:#?}", daemon.log().lines());
}

fn resident_mib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a daemon has memory") / 1024
}

impl Stage for Nodes {
    fn open(&mut self) -> usize {
        let daemon = &self.daemons[self.peers.len() % self.daemons.len()];
        let socket = TcpStream::connect(daemon.bus).ok();
        if let Some(socket) = &socket {
            socket.set_nonblocking(true).expect("a socket need not block");
        }
        self.peers.push(Peer { socket, greeting: Vec::new(), reads: true });
        self.peers.len() - 1
    }

    fn count(&self) -> usize {
        self.peers.len()
    }

    fn greeting(&self, peer: usize) -> &[u8] {
        &self.peers[peer].greeting
    }

    fn send(&mut self, peer: usize, bytes: &[u8]) {
        let peer = &mut self.peers[peer];
        // What the socket does not take is cut off.
        let ended = |error: &std::io::Error| error.kind() != ErrorKind::WouldBlock;
        if let Some(socket) = &mut peer.socket
            && socket.write(bytes).is_err_and(|error| ended(&error))
        {
            peer.socket = None;
        }
    }

    fn toggle_reading(&mut self, peer: usize) {
        self.peers[peer].reads ^= true;
    }

    fn hang_up(&mut self, peer: usize) {
        self.peers[peer].socket = None;
    }

    fn pass_ms(&mut self, ms: u64) {
        thread::sleep(Duration::from_millis(ms).min(PASS_MAX));
    }

    /// A daemon reads its configuration again; limits are flags here, and stay.
    fn reconfigure(&mut self, _: Limits) {
        self.daemons.iter().for_each(|daemon| daemon.signal(Signal::HUP));
    }

    fn disturb(&mut self, what: u8, how: u8) {
        let Some(redis) = &mut self.redis else { return };
        match (what, how % 3) {
            (0, _) => {
                redis.kill();
                thread::sleep(PASS_MAX);
                redis.restart();
            }
            (_, 0) => _ = redis.cli(&["FLUSHALL"]),
            (_, 1) => _ = redis.cli(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]),
            _ => _ = redis.cli(&["CLIENT", "PAUSE", REDIS_PAUSE_MS, "ALL"]),
        }
    }

    fn flood(&mut self, peer: usize) {
        self.send(peer, &frame(0x89, b"").repeat(200));
    }

    fn turn(&mut self) {
        thread::sleep(STEP);
        for peer in self.peers.iter_mut().filter(|peer| peer.reads) {
            peer.read();
        }
        self.daemons.iter().for_each(assert_alive);
    }
}

impl Peer {
    fn read(&mut self) {
        let Some(socket) = &mut self.socket else { return };
        let mut bytes = [0; 16_384];
        let is_open = loop {
            match socket.read(&mut bytes) {
                Ok(0) => break false,
                Ok(count) if self.greeting.len() < 2_048 => {
                    self.greeting.extend_from_slice(&bytes[..count]);
                }
                Ok(_) => {}
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        if !is_open {
            self.socket = None;
        }
        let start = &self.greeting[..self.greeting.len().min(9)];
        assert!(b"HTTP/1.1 ".starts_with(start), "the first bytes are {start:?}");
    }
}
