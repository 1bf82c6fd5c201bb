//! The ceiling of the process's memory: what is given up before it is reached, and how that is said.

use crate::common::raw::{RawPeer, TEXT, header};
use crate::common::{Client, Daemon, eventually};
use serde_json::{Value, json};
use std::thread;
use std::time::Duration;

/// Whatever other bounds are, the ceiling holds.
fn daemon(limit_bytes: u64) -> Daemon {
    let limit = limit_bytes.to_string();
    Daemon::start(&[
        "--shards=2",
        "--memory-limit-bytes",
        &limit,
        "--history-size=100000",
        "--history-bytes=0",
        "--history-bytes-total=0",
        "--max-message-bytes=50000000",
        "--outbox-bytes=60000000",
    ])
}

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1_024
}

fn pressure(daemon: &Daemon) -> f64 {
    daemon.metric("arqonbus_memory_pressure", "")
}

#[test]
fn histories_give_up_before_the_ceiling_and_nobody_is_closed() {
    const LIMIT: u64 = 400_000_000;
    let daemon = daemon(LIMIT);
    let mut loud = daemon.client_with("client_id=loud&join=home:a,home:b,den:c");
    let text = "x".repeat(200_000);
    let (mut most, mut stored) = (0, 0);
    while stored < 3 * LIMIT / 2 {
        for channel in ["home:a", "home:b", "den:c"] {
            loud.publish_acked(channel, json!({"t": text}));
            stored += 200_000;
        }
        // The allocator takes its time to give memory back: near the ceiling, no faster than that.
        if stored > LIMIT * 3 / 4 {
            thread::sleep(Duration::from_millis(24));
        }
        most = most.max(resident(&daemon));
    }
    assert!(most > LIMIT / 2, "{most} bytes: the histories were meant to grow");
    assert!(most < LIMIT, "{most} bytes were in use");
    assert!(daemon.metric("arqonbus_shard_history_shed_total", "") > 100.0);
    assert_eq!(daemon.metric("arqonbus_shard_clients_shed_total", ""), 0.0);
    eventually("somebody to be turned away or all to be well", || {
        (pressure(&daemon) <= 2.0).then_some(())
    });
    loud.publish_acked("home:a", json!({"still": "here"}));
}

#[test]
fn who_holds_the_most_is_closed_and_others_go_on() {
    let daemon = daemon(120_000_000);
    let mut quiet = daemon.client_with("client_id=quiet&join=home:a");
    let mut heavy: Vec<RawPeer> = (0..4).map(|n| daemon.raw(&format!("client_id=h{n}"))).collect();
    // Each has sent most of a message, and never sends the rest.
    let part = vec![b' '; 1_000_000];
    let mut begin = header(TEXT, 49_000_000);
    begin.extend([0; 4]);
    for peer in &mut heavy {
        peer.send(&begin);
    }
    for _ in 0..48 {
        for peer in &mut heavy {
            peer.send(&part);
        }
        if daemon.metric("arqonbus_shard_clients_shed_total", "") > 0.0 {
            break;
        }
    }
    eventually("the heaviest to be closed", || {
        (daemon.metric("arqonbus_shard_clients_shed_total", "") > 0.0).then_some(())
    });
    assert!(daemon.metric("arqonbus_shard_closes_total", "reason=\"memory\"") > 0.0);
    let is_told = |line: &Value| line["component"] == "memory";
    let line = daemon.log().wait_for(is_told).expect("the log names it");
    assert!(line["cause"].as_str().unwrap().contains("memory is short"), "{line}");
    quiet.publish_acked("home:a", json!({"still": "here"}));
    drop(heavy);
    eventually("the memory to come back", || (pressure(&daemon) == 0.0).then_some(()));
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 200, "{}", ready.head);
    drop(Client::connect(daemon.bus, "client_id=late"));
}

#[test]
fn while_memory_is_short_new_connections_are_told_so() {
    const LIMIT: u64 = 200_000_000;
    let daemon = daemon(LIMIT);
    // Messages that are never finished, until there is no room for newcomers.
    let mut heavy = Vec::new();
    while pressure(&daemon) == 0.0 {
        assert!(heavy.len() < 60, "the pressure is seen");
        let mut peer = daemon.raw(&format!("client_id=h{}", heavy.len()));
        peer.send(&[header(TEXT, 5_000_000), vec![0; 4], vec![b' '; 4_900_000]].concat());
        heavy.push(peer);
        thread::sleep(Duration::from_millis(300));
    }
    let mut late = RawPeer::upgraded({
        use std::io::Write;
        let mut stream = daemon.socket();
        stream.write_all(&crate::common::raw::handshake("/", "")).unwrap();
        stream
    });
    let refusal = late.message();
    assert_eq!(refusal["payload"]["code"], 503);
    assert_eq!(refusal["payload"]["error"], "CONNECTION_LIMIT");
    assert_eq!(late.await_close().0, 1013);
    let ready = daemon.get("/ready");
    assert_eq!(ready.status, 503);
    assert!(ready.json()["reason"].as_str().unwrap().contains("memory is short"));
    let status = daemon.get("/status").json();
    assert_eq!(status["memory_limit_bytes"], LIMIT);
    assert_eq!(status["degraded"][0]["component"], "memory", "{status}");
    let is_told = |line: &Value| line["component"] == "memory";
    let line = daemon.log().wait_for(is_told).expect("the log names it");
    assert!(line["cause"].as_str().unwrap().contains("memory is short"), "{line}");
}
