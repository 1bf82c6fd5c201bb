//! The nodes of a soak, and what happens to them besides.

use crate::attack::Target;
use crate::common::Daemon;
use crate::common::daemon::Log;
use crate::redis::sentinel::Watched;
use rustix::process::Signal;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long the master is silent until the sentinel takes it for dead.
const DOWN_AFTER_MS: u32 = 5_000;

/// How long the nodes may take until they store again when the attacks are over.
const CALM: Duration = Duration::from_secs(120);

/// How long a node stands still; others take it for dead after five seconds.
const STANDSTILL: Duration = Duration::from_secs(3);

/// What every node has: histories longer than an outage, channels that go when nobody is in them.
const FLAGS: [&str; 16] = [
    "--shards",
    "2",
    "--history-size",
    "10000",
    "--history-bytes-total",
    "134217728",
    "--empty-channel-ttl-ms",
    "2000",
    "--slow-grace-ms",
    "1000",
    "--ack-timeout-ms",
    "10000",
    "--drain-timeout-ms",
    "500",
    "--log-level",
    "error,arqonbus=info",
];

/// The nodes, and their Redis if they have one.
pub(super) struct Nodes {
    daemons: Vec<Daemon>,
    whereabouts: Whereabouts,
    redis: Option<Watched>,
    was_disturbed: bool,
    /// The logs of all lives of all nodes, and what was done to the nodes.
    logs: Vec<Log>,
    done: Vec<String>,
}

/// Where the nodes are now: each moves with each life of its daemon.
#[derive(Clone, Default)]
pub(super) struct Whereabouts(Arc<Mutex<Vec<Target>>>);

impl Whereabouts {
    /// One of the nodes.
    pub(super) fn pick(&self, rng: &mut fastrand::Rng) -> Target {
        let nodes = self.0.lock().expect("nobody panicked over the addresses");
        nodes[rng.usize(..nodes.len())]
    }

    /// The bus port of one of the nodes.
    pub(super) fn bus(&self) -> SocketAddr {
        self.pick(&mut fastrand::Rng::new()).bus
    }

    fn set(&self, daemons: &[Daemon]) {
        let targets = daemons.iter().map(crate::withstanding::target).collect();
        *self.0.lock().expect("nobody panicked over the addresses") = targets;
    }
}

impl Nodes {
    /// One node that keeps everything in its memory.
    pub(super) fn one() -> Nodes {
        Nodes::of(vec![Daemon::start(&FLAGS)], None)
    }

    /// Three nodes, whose events are acknowledged when a replica of their Redis has them.
    pub(super) fn three() -> Nodes {
        let redis = Watched::with_patience(DOWN_AFTER_MS);
        let daemons = (0..3).map(|number| node(&redis, number)).collect();
        Nodes::of(daemons, Some(redis))
    }

    fn of(daemons: Vec<Daemon>, redis: Option<Watched>) -> Nodes {
        let whereabouts = Whereabouts::default();
        whereabouts.set(&daemons);
        let logs = daemons.iter().map(|daemon| daemon.log().clone()).collect();
        Nodes { daemons, whereabouts, redis, was_disturbed: false, logs, done: Vec::new() }
    }

    pub(super) fn whereabouts(&self) -> Whereabouts {
        self.whereabouts.clone()
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> + '_ {
        self.daemons.iter().map(Daemon::pid)
    }

    /// With a Redis, one thing happens: first its master dies, then whatever chance says.
    pub(super) fn disturb(&mut self, rng: &mut fastrand::Rng) {
        if self.redis.is_none() {
            return;
        }
        let is_first = !std::mem::replace(&mut self.was_disturbed, true);
        // Under attack a node may take its time until it stores again; it is given that.
        if !is_first && !self.daemons.iter().all(|daemon| stores(daemon).is_ok()) {
            return;
        }
        match if is_first { 0 } else { rng.u32(..5) } {
            0 | 1 => self.fail_over(),
            2 => self.change(),
            3 => self.stop_a_node_for_a_while(rng),
            _ => self.kill_a_node(rng),
        }
    }

    /// The master dies, its replica takes its place, and it comes back as the replica.
    fn fail_over(&mut self) {
        self.note("the master dies");
        let Some(redis) = &mut self.redis else { return };
        redis.fail_over();
        redis.bring_back();
    }

    /// Master and replica change places.
    fn change(&mut self) {
        self.note("master and replica change places");
        let Some(redis) = &mut self.redis else { return };
        redis.change();
    }

    /// A node stands still, as on a machine that swaps, and goes on before the others take it for dead.
    fn stop_a_node_for_a_while(&mut self, rng: &mut fastrand::Rng) {
        self.note("a node stands still");
        let daemon = &self.daemons[rng.usize(..self.daemons.len())];
        daemon.signal(Signal::STOP);
        thread::sleep(STANDSTILL);
        daemon.signal(Signal::CONT);
    }

    /// A node dies, and another one comes.
    fn kill_a_node(&mut self, rng: &mut fastrand::Rng) {
        self.note("a node dies");
        let Some(redis) = &self.redis else { return };
        self.daemons.swap_remove(rng.usize(..self.daemons.len())).kill();
        self.whereabouts.set(&self.daemons);
        let daemon = node(redis, self.logs.len());
        self.logs.push(daemon.log().clone());
        self.daemons.push(daemon);
        self.whereabouts.set(&self.daemons);
    }

    /// Waits until every node stores again; nobody attacks any more.
    pub(super) fn await_calm(&self) {
        let deadline = Instant::now() + CALM;
        for daemon in self.daemons.iter().filter(|_| self.redis.is_some()) {
            while let Err(state) = stores(daemon) {
                assert!(Instant::now() < deadline, "a node does not store again: {state}");
                thread::sleep(Duration::from_millis(50));
            }
        }
    }

    fn note(&mut self, what: &str) {
        self.done.push(format!("{} {what}", jiff::Timestamp::now()));
    }

    /// Writes what was done to the nodes, and what they logged, in the order of time; gives where.
    pub(super) fn write_logs(&self, what: &str) -> PathBuf {
        let name = format!("soak-{}.log", what.replace(' ', "-"));
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let mut lines = self.done.clone();
        for (number, log) in self.logs.iter().enumerate() {
            let line = |line: Value| {
                let at = line["timestamp"].as_str().unwrap_or_default();
                format!("{at} node-{number} {line}")
            };
            lines.extend(log.lines().into_iter().map(line));
        }
        lines.sort();
        std::fs::write(&path, lines.join("\n")).expect("the target folder can be written to");
        path
    }

    /// Stops the nodes, each of which must end well.
    pub(super) fn stop(self) {
        self.daemons.into_iter().for_each(|daemon| _ = daemon.stop());
    }
}

/// The state of the storage of a node, if it does not store.
fn stores(daemon: &Daemon) -> Result<(), Value> {
    let state = daemon.get("/status").json()["storage_state"].clone();
    if state["state"] == "ok" { Ok(()) } else { Err(state) }
}

fn node(redis: &Watched, number: usize) -> Daemon {
    let (url, name) = (redis.url(), format!("node-{number}"));
    let shared =
        ["--storage", "redis", "--redis-url", &url, "--node", &name, "--many-nodes", "true"];
    let replicas = ["--replicas", "1", "--replicas-timeout-ms", "1000"];
    let backlog = ["--backlog-bytes", "67108864"];
    Daemon::start(&[&FLAGS[..], &shared, &replicas, &backlog].concat())
}
