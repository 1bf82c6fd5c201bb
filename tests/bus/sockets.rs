//! What the kernel's sockets do to a conversation: halves that close, urgent bytes, buffers.

use crate::common::raw::{self, RawPeer};
use crate::common::{Daemon, eventually};
use rustix::net::SendFlags;
use rustix::process::Signal;
use serde_json::json;
use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

/// A message of a client whose id is `from`.
fn message(kind: &str, from: &str, number: u32, payload: &serde_json::Value) -> Vec<u8> {
    let text = json!({
        "version": "1.0", "id": format!("arq_{number}"), "type": kind, "room": "hall",
        "channel": "talk", "from": from, "timestamp": "2025-11-24T16:00:00Z",
        "metadata": {"ack": kind == "event"}, "payload": payload,
    });
    raw::frame(raw::TEXT, text.to_string())
}

#[test]
fn behind_its_close_the_server_closes_its_half_at_once() {
    let daemon = Daemon::start(&["--shards", "1"]);
    // The server would wait a second for the peer's close. One of a few tries is enough: this machine may
    // be busy.
    let is_quick = (0..5).any(|_| {
        let mut peer = daemon.raw("");
        let begun = Instant::now();
        peer.send(&[0x83, 0x80, 0, 0, 0, 0]);
        let (first, payload) = peer.frame().expect("a close");
        assert_eq!((first, &payload[..2]), (raw::CLOSE, &1002_u16.to_be_bytes()[..]));
        assert_eq!(peer.frame(), None, "its half is closed");
        begun.elapsed() < Duration::from_millis(400)
    });
    assert!(is_quick, "the end of its half came only with the end of the connection");
}

#[test]
fn the_peers_close_behind_broken_bytes_ends_the_connection() {
    let daemon = Daemon::start(&["--shards", "1"]);
    let mut peers: Vec<RawPeer> = (0..20).map(|_| daemon.raw("")).collect();
    daemon.signal(Signal::STOP);
    for peer in &mut peers {
        peer.send(&raw::frame(raw::BINARY, [0; 10]));
        peer.send(&raw::frame(raw::CLOSE, 1000_u16.to_be_bytes()));
    }
    daemon.signal(Signal::CONT);
    eventually("all are closed", || {
        let closes = daemon.metric("arqonbus_shard_closes_total", "binary");
        (closes >= 20.0).then_some(())
    });
    // All of them would linger for a second if their closes were not seen. Their sockets are still open.
    eventually("all are gone", || {
        (daemon.metric("arqonbus_shard_connections", "") == 0.0).then_some(())
    });
    drop(peers);
}

#[test]
fn a_client_that_closes_its_half_gets_its_acks() {
    let daemon = Daemon::start(&["--shards", "2"]);
    for number in 0..10 {
        let id = format!("ann{number}");
        let mut stream = daemon.socket();
        stream.write_all(&raw::handshake(&format!("/?client_id={id}&join=hall:talk"), "")).unwrap();
        let mut peer = RawPeer::upgraded(stream.try_clone().unwrap());
        assert_eq!(peer.message()["payload"]["event"], "welcome");
        let events: Vec<u8> =
            (0..5).flat_map(|event| message("event", &id, event, &json!({}))).collect();
        stream.write_all(&events).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        for _ in 0..5 {
            let answer = peer.message();
            assert_eq!(answer["payload"]["status"], "success", "{answer}");
        }
        assert_eq!(peer.frame(), None, "nothing else is said");
    }
    eventually("all are gone", || {
        (daemon.metric("arqonbus_shard_connections", "") == 0.0).then_some(())
    });
}

#[test]
fn an_urgent_byte_does_not_hide_what_follows_it() {
    let daemon = Daemon::start(&["--shards", "1"]);
    let mut stream = daemon.socket();
    stream.write_all(&raw::handshake("/?client_id=ann", "")).unwrap();
    let mut peer = RawPeer::upgraded(stream.try_clone().unwrap());
    assert_eq!(peer.message()["payload"]["event"], "welcome");
    let ping = json!({"command": "ping", "parameters": {}});
    for round in 0..5 {
        daemon.signal(Signal::STOP);
        stream.write_all(&message("command", "ann", 2 * round, &ping)).unwrap();
        rustix::net::send(&stream, b"!", SendFlags::OOB).unwrap();
        stream.write_all(&message("command", "ann", 2 * round + 1, &ping)).unwrap();
        thread::sleep(Duration::from_millis(20));
        daemon.signal(Signal::CONT);
        for number in [2 * round, 2 * round + 1] {
            let answer = peer.message();
            assert_eq!(answer["payload"]["request_id"], format!("arq_{number}"), "{answer}");
        }
    }
}

/// How much of 8 MB the kernel takes for a member that reads nothing.
fn taken_by_the_kernel(flags: &[&str]) -> f64 {
    let daemon = Daemon::start(flags);
    let deaf = daemon.raw("client_id=deaf&join=hall:talk");
    let mut ann = daemon.client("ann");
    ann.join("hall:talk");
    let before = daemon.metric("arqonbus_shard_bytes_sent_total", "");
    for _ in 0..80 {
        ann.publish_acked("hall:talk", json!({"b": "x".repeat(100_000)}));
    }
    let sent = daemon.metric("arqonbus_shard_bytes_sent_total", "") - before;
    drop(deaf);
    sent
}

#[test]
fn the_kernel_takes_little_for_a_client_that_does_not_read() {
    let bounded = taken_by_the_kernel(&["--shards", "1"]);
    let unbounded = taken_by_the_kernel(&["--shards", "1", "--socket-unsent-bytes", "0"]);
    // What the peer's own buffer takes is in both.
    assert!(bounded < unbounded - 500_000.0, "{bounded} with a bound, {unbounded} without");
}
