//! The same against a cluster of three masters.

use crate::desk::{Desk, Line, SOON, read_back, room, settings};
use crate::node::Node;
use crate::redis::Redis;
use arqonbus::broker::record::Record;
use arqonbus::storage::Settings;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

/// How a server of a cluster is started.
const OPTIONS: [&str; 6] =
    ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];

/// Three masters that are a cluster.
fn cluster() -> Vec<Redis> {
    cluster_of(0)
}

/// Three masters, each with so many replicas.
fn cluster_of(replicas: usize) -> Vec<Redis> {
    let nodes: Vec<Redis> = (0..3 * (replicas + 1)).map(|_| Redis::with(&OPTIONS)).collect();
    let created = Command::new("redis-cli")
        .args(["--cluster", "create"])
        .args(nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())))
        .args(["--cluster-replicas", &replicas.to_string()])
        .arg("--cluster-yes")
        .output()
        .unwrap();
    assert!(created.status.success(), "{}", String::from_utf8_lossy(&created.stdout));
    let end = Instant::now() + SOON;
    let is_ready = |node: &Redis| node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
    while !nodes.iter().all(is_ready) {
        assert!(Instant::now() < end, "the cluster does not come up");
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes
}

#[test]
fn a_cluster_keeps_each_channel_in_one_slot_and_all_of_them() {
    let mut nodes = cluster();
    // One of its nodes is enough to find it.
    let (desk, _) = Desk::at(&nodes[0].url());
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
    let mut lines: Vec<Line> =
        names.iter().enumerate().map(|(n, name)| Line::new(n as u64, "r", name)).collect();
    desk.offer(Record::Room(Box::new(room("r"))));
    for line in &mut lines {
        desk.create(line);
        desk.say(line, 50);
    }
    lines.iter().for_each(|line| desk.wait_stored(line));
    let quiet = ["qa", "qb", "qc", "qd", "qe", "qf"].map(|name| Line::new(99, "r", name));
    quiet.iter().for_each(|line| desk.create(line));
    for node in &nodes {
        let keys: u64 = node.cli(&["DBSIZE"]).parse().unwrap();
        assert!(keys >= 2, "{keys} keys on one of three nodes");
    }
    // One master dies and comes back empty: the other two thirds go on, and then all.
    nodes[2].kill();
    lines.iter_mut().for_each(|line| desk.say(line, 10));
    desk.wait("degraded", |news| !news.degraded.is_empty());
    nodes[2].restart();
    lines.iter().for_each(|line| desk.wait_stored(line));
    assert!(desk.news().lost.is_empty());
    desk.stop();
    for line in &quiet {
        let is_there = |node: &Redis| node.cli(&["EXISTS", &line.meta()]) == "1";
        assert!(nodes.iter().any(is_there), "{} is told again", line.address);
    }

    let every = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port()));
    let (desk, snapshot) = Desk::at(&format!("redis://{}", every.collect::<Vec<_>>().join(",")));
    for line in &lines {
        let found = read_back(&snapshot, line);
        let whole = (1..=60).collect::<Vec<_>>();
        assert!(whole.ends_with(&found) && found.len() >= 10, "{}: {found:?}", line.address);
    }
    desk.abandon();
}

#[test]
fn a_master_that_takes_over_behind_a_connection_is_told_what_it_lacks() {
    let nodes = cluster();
    let (desk, _) = Desk::at(&nodes[0].url());
    desk.offer(Record::Room(Box::new(room("early"))));
    let has = |node: &Redis, name| node.cli(&["HEXISTS", "arqonbus:{bus}:rooms", name]) == "1";
    wait("the room", || nodes.iter().any(|node| has(node, "early")));
    let master = nodes.iter().find(|node| has(node, "early")).unwrap();
    let replica = Redis::with(&OPTIONS);
    let of = master.cli(&["CLUSTER", "MYID"]);
    replica.cli(&["CLUSTER", "MEET", "127.0.0.1", &master.port().to_string()]);
    wait("the replica", || replica.cli(&["CLUSTER", "REPLICATE", &of]) == "OK");
    wait("its link", || replica_says(&replica, "master_link_status:up"));
    // It gets no more of what the master is told.
    replica.cli(&["CONFIG", "SET", "masteruser", "nobody"]);
    replica.cli(&["CONFIG", "SET", "masterauth", "nothing"]);
    replica.cli(&["CLIENT", "KILL", "TYPE", "master"]);
    wait("the end of its link", || replica_says(&replica, "master_link_status:down"));
    desk.offer(Record::Room(Box::new(room("late"))));
    wait("the room", || has(master, "late"));
    assert_eq!(replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    wait("the room again", || replica_says(&replica, "role:master") && has(&replica, "late"));
    assert!(has(&replica, "early"));
    desk.stop();
}

fn replica_says(replica: &Redis, what: &str) -> bool {
    replica.cli(&["INFO", "replication"]).contains(what)
}

#[track_caller]
fn wait(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn one_of_several_servers_may_be_gone_without_a_word() {
    let nodes = cluster();
    // As a machine that takes nothing any more: who connects hears nothing.
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{},127.0.0.1:{}", mute.local_addr().unwrap(), nodes[0].port());
    let (desk, _) = Desk::at(&url);
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    desk.stop();
    let node = Node::at("a", &url);
    let post = node.follow(1, "r", "c");
    assert_eq!(node.order(&post).last(), 10);
    node.stop();
}

#[test]
fn a_cluster_keeps_sessions() {
    let nodes = cluster();
    let (desk, _) = Desk::at(&nodes[0].url());
    crate::sessions::play(&desk);
    desk.stop();
}

#[test]
fn nodes_share_a_cluster() {
    let servers = cluster();
    let (a, b) = (Node::at("a", &servers[0].url()), Node::at("b", &servers[1].url()));
    let mut posts = Vec::new();
    for (n, channel) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
        let n = n as u64;
        posts.push((a.follow(n, "r", channel), b.follow(n, "r", channel)));
    }
    for n in 0..200 {
        for (of_a, of_b) in &mut posts {
            a.say(of_a, &format!("a-{n}"));
            b.say(of_b, &format!("b-{n}"));
        }
    }
    for (of_a, of_b) in &posts {
        a.wait_placed(of_a);
        b.wait_placed(of_b);
        let messages = a.wait_last(of_a, 400).messages;
        assert_eq!(messages, b.wait_last(of_b, 400).messages);
        assert_eq!(messages.len(), 400);
    }
    a.stop();
    b.stop();
}

#[test]
fn replicas_vouch_for_the_connection_by_which_an_event_was_written() {
    let servers = cluster_of(1);
    let replicated = Settings {
        replicas: 1,
        replicas_timeout_ms: 3_000,
        commit_timeout_ms: 3_000,
        ..settings(&servers[0].url())
    };
    let desk = Desk::open(replicated);
    wait("a start", || desk.load().is_ok());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    let is_replica = |server: &Redis| replica_says(server, "role:slave");
    let has = |server: &&Redis| server.cli(&["DBSIZE"]) != "0" && holds(server, &line.meta());
    let master = servers.iter().filter(|server| !is_replica(server)).find(has).unwrap();
    let of_master = format!("master_port:{}", master.port());
    let replica = servers.iter().find(|server| replica_says(server, &of_master)).unwrap();
    let stopped = Stopped::new(replica);
    desk.say(&mut line, 1);
    // A WAIT that comes over another connection would find that nothing was written over that one.
    for _ in 0..15 {
        master.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(desk.stored(line.id), 10, "the replica has not got it");
    }
    drop(stopped);
    desk.wait_stored(&line);
    wait("the event", || holds(replica, &line.meta()));
    assert!(desk.news().lost.is_empty());
    desk.stop();
}

/// A server that stands still for as long as this is there.
struct Stopped(String);

impl Stopped {
    fn new(server: &Redis) -> Stopped {
        let about = server.cli(&["INFO", "server"]);
        let pid = about.lines().find_map(|line| line.strip_prefix("process_id:")).unwrap();
        let stopped = Stopped(pid.trim().to_owned());
        stopped.signal("-STOP");
        stopped
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.0]).status().unwrap().success());
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// Whether a server has a key itself.
fn holds(server: &Redis, key: &str) -> bool {
    server.cli(&["KEYS", "*"]).lines().any(|found| found == key)
}
