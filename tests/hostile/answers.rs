//! What clients that break rules are answered, one rule at a time; and what ordinary use looks like that
//! only seems to break them.

use crate::attack::broken;
use crate::common::daemon::{Daemon, program, serve_flags, wait_for_exit};
use crate::common::raw::{CLOSE, PING, PONG, TEXT, frame};
use crate::common::{PATIENCE, envelope, http};
use crate::enemy::{Enemy, handshake};
use crate::ordinary::Pair;
use rustix::net::{SendFlags, send};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How long all broken frames may take together.
const BROKEN_ENDS_MAX: Duration = Duration::from_secs(25);

/// The code is the one of the rule that was broken; and the connection ends when the peer has said its
/// own close, or has hung up, without anybody waiting for a timer.
#[test]
fn each_broken_frame_is_closed_with_its_code_at_once() {
    let daemon = Daemon::with_shards(2);
    let started = Instant::now();
    for (what, bytes, code) in broken() {
        for answers in [true, false] {
            let mut peer = daemon.raw("");
            peer.send(&bytes);
            let (closed_with, reason) = peer.await_close();
            assert_eq!(closed_with, code, "{what}: {reason}");
            assert!(!reason.is_empty(), "{what}");
            if answers {
                peer.send(&frame(CLOSE, code.to_be_bytes()));
            } else {
                // The bus has sent its last byte, and says so.
                assert!(peer.is_hung_up(), "{what}");
            }
            assert!(peer.is_hung_up(), "{what}");
        }
    }
    // If each waited for a second they would take more than a minute together.
    let took = started.elapsed();
    assert!(took < BROKEN_ENDS_MAX, "{took:?} for all of them");
    daemon.stop();
}

/// Whoever has said everything may still wait for the answers.
#[test]
fn a_half_closed_connection_gets_its_answers() {
    for shards in [1, 2, 4] {
        let daemon = Daemon::with_shards(shards);
        for number in 0..20 {
            let mut peer = daemon.raw(&format!("client_id=half{number}&join=lab:half"));
            let mut event = envelope("event", &format!("half{number}"), "lab:half", json!({}));
            event["metadata"] = json!({"ack": true});
            peer.send(&frame(TEXT, event.to_string()));
            peer.stream().shutdown(Shutdown::Write).unwrap();
            let reply = peer.message();
            assert_eq!(reply["payload"]["request_id"], event["id"], "{reply}");
            assert_eq!(reply["payload"]["status"], "success", "{reply}");
            assert!(peer.is_hung_up());
        }
        daemon.stop();
    }
}

/// A byte out of band is no byte of the stream, and ends nothing.
#[test]
fn urgent_bytes_are_passed_over() {
    let daemon = Daemon::with_shards(1);
    for number in 0..20 {
        let id = format!("urgent{number}");
        let mut peer = daemon.raw(&format!("client_id={id}&join=lab:urgent"));
        for n in 0..3 {
            let mut event = envelope("event", &id, "lab:urgent", json!({"n": n}));
            event["metadata"] = json!({"ack": true});
            let message = frame(TEXT, event.to_string());
            let (begin, end) = message.split_at(message.len() / 2);
            peer.send(begin);
            send(&*peer.stream(), b"!", SendFlags::OOB).unwrap();
            peer.send(end);
            assert_eq!(peer.message()["payload"]["request_id"], event["id"]);
        }
    }
    daemon.stop();
}

/// Of pings that come together the last is answered; each may be.
#[test]
fn the_last_of_many_pings_is_answered() {
    let daemon = Daemon::with_shards(1);
    let mut peer = daemon.raw("");
    for round in 0..4 {
        let pings: Vec<u8> = (0..50).flat_map(|n| frame(PING, format!("{round}-{n}"))).collect();
        peer.send(&pings);
        let last = format!("{round}-49").into_bytes();
        loop {
            let (first, payload) = peer.frame().expect("pings end no connection");
            assert_eq!(first, PONG);
            if payload == last {
                break;
            }
        }
    }
    daemon.stop();
}

/// Each port decides for itself which pages may come; that one of them is open to the network says
/// nothing about another.
#[test]
fn an_open_http_port_opens_no_other() {
    let daemon = Daemon::start_over(&["--http-listen", "0.0.0.0:0"]);
    for port in [daemon.bus, daemon.telemetry] {
        let request = handshake(port, "/", "Origin: https://evil.example\r\n");
        assert_eq!(http::exchange(port, &request).status, 403);
    }
    daemon.stop();
}

/// A name of somebody else's that leads here is no name of this machine.
#[test]
fn a_foreign_host_is_refused_on_loopback() {
    let daemon = Daemon::with_shards(1);
    for path in ["/status", "/metrics", "/health", "/nowhere"] {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        let answer = http::exchange(daemon.http, request.as_bytes());
        assert_eq!(answer.status, 403, "{path}: {}", answer.body);
    }
    daemon.stop();
}

/// A process that ends with the test, however that ends.
struct KilledOnDrop(Child);

impl Drop for KilledOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A log that nobody reads costs no message, and no signal.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    for level in ["info", "trace"] {
        let mut command = program();
        command.args(serve_flags()).args(["--log-level", level, "--drain-timeout-ms", "200"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = KilledOnDrop(command.spawn().unwrap());
        let mut log = BufReader::with_capacity(256, child.0.stderr.take().unwrap());
        let bus: SocketAddr = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == "listening" {
                break line["listen"].as_str().unwrap().parse().unwrap();
            }
        };
        // From here on nobody reads; a pipe holds 64 KiB.
        let pair = Pair::start([bus; 2]);
        for _ in 0..300 {
            let enemy = Enemy::client(bus, "join=lab:log").expect("it takes clients");
            enemy.reset();
        }
        pair.await_more(100);
        pair.finish();
        kill_process(Pid::from_child(&child.0), Signal::TERM).unwrap();
        let status = wait_for_exit(&mut child.0, PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{level}: {status:?}");
        drop(log);
    }
}

/// Without a descriptor left, who is there goes on, and who comes later is served when others have left.
#[test]
fn without_descriptors_who_is_there_goes_on() {
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -n 300; exec \"$0\" \"$@\""]).arg(program().get_program());
    command.args(serve_flags()).args(["--shards", "1"]);
    let daemon = Daemon::of_command(command);
    let pair = Pair::start([daemon.bus; 2]);
    for _ in 0..3 {
        let crowd: Vec<_> = (0..100).filter_map(|_| Enemy::connect(daemon.bus)).collect();
        let http: Vec<_> = (0..400).filter_map(|_| Enemy::connect(daemon.http)).collect();
        pair.await_more(50);
        drop((crowd, http));
        crate::common::eventually("there is room again", || {
            Enemy::client(daemon.bus, "").map(drop)
        });
    }
    pair.finish();
    // What was refused for lack of descriptors may be logged as an error.
    daemon.expect_errors().stop();
}

/// What the kernel holds for a client that does not read is bounded, too: with the outbox, it is all that
/// such a client costs.
#[test]
fn the_kernel_holds_little_for_a_client_that_does_not_read() {
    const OUTBOX: usize = 131_072;
    const KERNEL_MAX: usize = 1_048_576;
    let flags = ["--outbox-bytes", "131072", "--max-message-bytes", "65536", "--shards", "1"];
    let daemon = Daemon::start(&[&flags[..], &["--slow-grace-ms", "60000"]].concat());
    let mut slow = Enemy::narrow_client(daemon.bus, "join=lab:hot").expect("it is welcomed");
    let mut ann = daemon.client_with("client_id=ann&join=lab:hot");
    let text = "x".repeat(16_000);
    let is_full = || daemon.metric("arqonbus_shard_drops_total", "reason=\"outbox_full\"") > 0.0;
    while !is_full() {
        for _ in 0..4 {
            ann.publish_acked("lab:hot", json!({"text": text}));
        }
    }
    // What it is given before the notice of what it missed is what waited for it.
    let waited = slow.read_until("\"event\":\"gap\"").expect("it is told of the gap").len();
    assert!(
        waited <= OUTBOX + KERNEL_MAX,
        "{waited} bytes waited; {OUTBOX} may wait in the outbox"
    );
    daemon.stop();
}

/// Slow requests over HTTP are cut, and quick ones answered meanwhile.
#[test]
fn a_slow_head_over_http_is_cut() {
    let daemon = Daemon::with_shards(1);
    let mut stream = std::net::TcpStream::connect(daemon.http).unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: ").unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..10 {
        assert_eq!(daemon.get("/health").status, 200);
    }
    let mut answer = Vec::new();
    // Either an answer that says so, or nothing; but an end.
    let _ = stream.read_to_end(&mut answer);
    daemon.stop();
}
