//! Who does not read what it is sent costs a bounded amount of memory, learns exactly what it
//! missed, and goes if it does not catch up; nobody else notices (protocol, sections 4 and 6).
//!
//! A slow client here has a small receive buffer and simply does not read. What the kernels hold
//! between it and the bus is not the bus's: it is read first, whatever happens.

use crate::common::client::{End, Message};
use crate::common::raw::{self, RawPeer};
use crate::common::{Client, Daemon, PATIENCE, TelemetryReader, command_text, eventually};
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const MESSAGE_BYTES: usize = 16 * 1024;
/// The smallest outbox that takes such messages.
const OUTBOX_BYTES: usize = MESSAGE_BYTES + 64 * 1024;
const CHANNEL: &str = "lab:hot";

/// A daemon with small outboxes; `grace_ms` is how long a slow client may stay slow.
fn daemon(shards: u16, grace_ms: u32) -> Daemon {
    daemon_with(shards, grace_ms, &[])
}

fn daemon_with(shards: u16, grace_ms: u32, more: &[&str]) -> Daemon {
    let (shards, grace_ms) = (shards.to_string(), grace_ms.to_string());
    let (message_bytes, outbox_bytes) = (MESSAGE_BYTES.to_string(), OUTBOX_BYTES.to_string());
    let flags = [
        "--shards",
        &shards,
        "--max-message-bytes",
        &message_bytes,
        "--outbox-bytes",
        &outbox_bytes,
        "--slow-grace-ms",
        &grace_ms,
        "--history-size",
        "4",
    ];
    Daemon::start(&[&flags[..], more].concat())
}

/// A connection whose kernel holds little that was not read.
fn narrow(daemon: &Daemon) -> TcpStream {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    socket.connect(&daemon.bus.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// A member that reads nothing after its welcome.
fn slow_member(daemon: &Daemon, client_id: &str) -> Client {
    Client::connect_over(narrow(daemon), &format!("client_id={client_id}&join={CHANNEL}"))
}

/// A member that reads everything, in a thread of its own.
struct Follower {
    thread: JoinHandle<Vec<u64>>,
    /// The last sequence it got.
    reached: Arc<AtomicU64>,
}

impl Follower {
    fn start(daemon: &Daemon, client_id: &str) -> Follower {
        let mut member = daemon.client_with(&format!("client_id={client_id}&join={CHANNEL}"));
        let reached = Arc::new(AtomicU64::new(0));
        let progress = reached.clone();
        let thread = thread::spawn(move || {
            let mut sequences = Vec::new();
            loop {
                let event = member.next();
                assert_eq!(event["type"], "event", "{}", event.text);
                sequences.push(event.sequence());
                progress.store(event.sequence(), SeqCst);
                if event["payload"]["is_last"] == true {
                    return sequences;
                }
            }
        });
        Follower { thread, reached }
    }

    fn start_many(daemon: &Daemon, count: usize) -> Vec<Follower> {
        (0..count).map(|n| Follower::start(daemon, &format!("fast{n}"))).collect()
    }

    /// Asserts that it got everything up to `last`, once and in order.
    #[track_caller]
    fn assert_has_all(self, last: u64) {
        let sequences = self.thread.join().unwrap();
        assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    }
}

/// Publishes long messages until `is_enough`, some at a time, and the next ones when all followers
/// have got them, so that who reads never has more waiting than fits; gives the last sequence.
#[track_caller]
fn publish_until(
    publisher: &mut Client,
    followers: &[Follower],
    mut is_enough: impl FnMut() -> bool,
) -> u64 {
    for _ in 0..4_000 {
        let sequence = publish_burst(publisher, followers, 8);
        if is_enough() {
            return sequence;
        }
    }
    panic!("32,000 messages were not enough");
}

/// Publishes some long messages and waits until all followers have got them.
#[track_caller]
fn publish_burst(publisher: &mut Client, followers: &[Follower], length: usize) -> u64 {
    let filler = "x".repeat(8_000);
    for _ in 1..length {
        publisher.publish(CHANNEL, json!({"filler": filler}));
    }
    let sequence = publisher.publish_acked(CHANNEL, json!({"filler": filler}));
    for follower in followers {
        eventually("the followers to get it", || {
            (follower.reached.load(SeqCst) >= sequence).then_some(())
        });
    }
    sequence
}

fn publish_last(publisher: &mut Client) -> u64 {
    publisher.publish_acked(CHANNEL, json!({"is_last": true}))
}

fn drops(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric("arqonbus_shard_drops_total", &format!("reason=\"{reason}\""))
}

fn too_slow(daemon: &Daemon) -> f64 {
    daemon.metric("arqonbus_shard_closes_total", "reason=\"too_slow\"")
}

/// Reads events and gap notices up to the end of the connection, or until `is_enough`, and asserts
/// that they account for every sequence from 1 on, once and in order; gives the next sequence, the
/// gaps, and the end.
#[track_caller]
fn account(
    client: &mut Client,
    mut is_enough: impl FnMut(u64) -> bool,
) -> (u64, Vec<Value>, Option<End>) {
    let (mut next, mut gaps) = (1, Vec::new());
    loop {
        let message: Message = match client.try_next() {
            Ok(message) => message,
            Err(end) => return (next, gaps, Some(end)),
        };
        let payload = &message["payload"];
        if message["type"] == "event" {
            assert_eq!(message.sequence(), next, "in order, without a hole nobody told of");
            next += 1;
        } else {
            assert_eq!(payload["event"], "gap", "{}", message.text);
            assert_eq!((&message["room"], &message["channel"]), (&json!("lab"), &json!("hot")));
            let (first, last) = (payload["first"].as_u64(), payload["last"].as_u64());
            assert_eq!(first, Some(next), "a gap begins where the messages end");
            next = last.unwrap() + 1;
            assert_eq!(payload["count"].as_u64(), Some(next - first.unwrap()), "{payload}");
            gaps.push(payload.clone());
        }
        if is_enough(next) {
            return (next, gaps, None);
        }
    }
}

/// What comes in one turn may be more than an outbox holds; who has room in its socket gets it all. So
/// the kernel takes here what it likes.
#[test]
fn a_burst_longer_than_the_outbox_costs_nothing_who_reads() {
    for shards in [1, 2] {
        let daemon = daemon_with(shards, 120_000, &["--socket-unsent-bytes", "0"]);
        let fast = Follower::start_many(&daemon, 2);
        let mut publisher = daemon.client_with(&format!("client_id=pub&join={CHANNEL}"));
        for _ in 0..30 {
            publish_burst(&mut publisher, &fast, 4 * OUTBOX_BYTES / 8_000);
        }
        let last = publish_last(&mut publisher);
        for fast in fast {
            fast.assert_has_all(last);
        }
        assert_eq!(drops(&daemon, "outbox_full"), 0.0);
    }
}

#[test]
fn who_resumes_in_time_learns_exactly_what_it_missed_and_is_live_again() {
    for shards in [1, 2] {
        let daemon = daemon(shards, 120_000);
        let mut telemetry = TelemetryReader::connect(&daemon);
        let mut slow: Vec<_> = (0..3).map(|n| slow_member(&daemon, &format!("slow{n}"))).collect();
        let fast = Follower::start_many(&daemon, 4);
        let mut publisher = daemon.client_with(&format!("client_id=pub&join={CHANNEL}"));
        publish_until(&mut publisher, &fast, || {
            telemetry.drain();
            let types = telemetry.heard.iter().map(|envelope| &envelope["payload"]["eventType"]);
            types.filter(|&event| event == "slow_consumer").count() == 3
        });
        for slow in &slow {
            let told = telemetry.about("slow_consumer", &slow.id);
            let waiting = told["payload"]["payload"]["waiting_bytes"].as_u64().unwrap();
            assert!((1..=OUTBOX_BYTES as u64).contains(&waiting), "{told}");
        }
        let missed = publish_until(&mut publisher, &fast, || true);

        let waiting = daemon.metric("arqonbus_shard_outbox_bytes", "");
        assert!(waiting <= 3.0 * OUTBOX_BYTES as f64, "{waiting} bytes wait for three clients");
        let mut counted = 0;
        for slow in &mut slow {
            let (_, gaps, _) = account(slow, |next| next == missed + 1);
            assert_eq!(gaps.len(), 1, "one notice tells of all: {gaps:?}");
            assert_eq!(gaps[0]["channel"], "hot");
            assert_eq!(gaps[0]["reason"], "outbox_full");
            counted += gaps[0]["count"].as_u64().unwrap();
        }
        eventually("what was dropped to be what the notices tell", || {
            (drops(&daemon, "outbox_full") as u64 == counted).then_some(())
        });
        let last = publish_last(&mut publisher);
        assert_eq!(last, missed + 1);
        for slow in &mut slow {
            let event = slow.next();
            assert_eq!((event.sequence(), &event["payload"]["is_last"]), (last, &json!(true)));
            slow.assert_quiet();
        }
        for fast in fast {
            fast.assert_has_all(last);
        }
        eventually("the notices to be counted", || {
            (daemon.metric("arqonbus_shard_gaps_total", "") == 3.0).then_some(())
        });
        assert_eq!(too_slow(&daemon), 0.0);
        eventually("the outboxes to be empty", || {
            (daemon.metric("arqonbus_shard_outbox_bytes", "") == 0.0).then_some(())
        });
    }
}

#[test]
fn who_does_not_resume_is_closed_and_can_read_why() {
    for shards in [1, 2] {
        let daemon = daemon(shards, 200);
        let mut telemetry = TelemetryReader::connect(&daemon);
        let mut watcher = daemon.client("watcher");
        watcher.join_with(CHANNEL, json!({"presence": true}));
        let mut slow = slow_member(&daemon, "slow");
        let fast = Follower::start_many(&daemon, 3);
        let mut publisher = daemon.client_with(&format!("client_id=pub&join={CHANNEL}"));
        publish_until(&mut publisher, &fast, || {
            // The watcher is a member, too, and must not become slow itself.
            watcher.drain_for(Duration::from_millis(1));
            too_slow(&daemon) == 1.0
        });
        let left = watcher.notice("left");
        assert_eq!(left["payload"]["client_id"], "slow", "{}", left.text);
        let told = telemetry.about("client_disconnected", "slow");
        let told = &told["payload"]["payload"];
        assert_eq!((&told["reason"], &told["code"]), (&json!("too_slow"), &json!(4008)));
        // It is closed, but its last bytes can still be read: what is in its kernel, then why.
        let (next, gaps, end) = account(&mut slow, |_| false);
        assert!(next > 1, "what was sent before is still there");
        assert!(gaps.is_empty(), "nothing comes after them that a notice could announce");
        match end {
            Some(End::Closed(code, reason)) => {
                assert_eq!(code, 4008);
                assert!(reason.contains("read faster"), "{reason}");
            }
            other => panic!("it was not closed properly: {other:?}"),
        }
        let last = publish_last(&mut publisher);
        for fast in fast {
            fast.assert_has_all(last);
        }
        eventually("what waited for it to be counted as dropped", || {
            (drops(&daemon, "closed") > 0.0).then_some(())
        });
        eventually("its outbox to be gone", || {
            (daemon.metric("arqonbus_shard_outbox_bytes", "") == 0.0).then_some(())
        });
        drop(daemon.client("slow"));
    }
}

#[test]
fn many_slow_clients_cost_no_more_memory_than_their_outboxes() {
    const SLOW: usize = 24;
    let daemon = daemon(2, 120_000);
    let slow: Vec<_> = (0..SLOW).map(|n| slow_member(&daemon, &format!("slow{n}"))).collect();
    let mut publisher = daemon.client_with(&format!("client_id=pub&join={CHANNEL}"));
    let fast = Follower::start_many(&daemon, 1);
    let before = resident_bytes(&daemon);
    // Each of them is owed some 160 MB in the end, a hundred times what is kept for it.
    let mut dropped = 0.0;
    publish_until(&mut publisher, &fast, || {
        dropped = drops(&daemon, "outbox_full");
        let waiting = daemon.metric("arqonbus_shard_outbox_bytes", "");
        assert!(waiting <= ((SLOW + 1) * OUTBOX_BYTES) as f64, "{waiting} bytes wait");
        dropped > 50_000.0
    });
    let grown = resident_bytes(&daemon).saturating_sub(before);
    let bound = SLOW * OUTBOX_BYTES + (16 << 20);
    assert!(grown < bound as u64, "the process grew by {grown} bytes while {dropped} were dropped");
    let last = publish_last(&mut publisher);
    for fast in fast {
        fast.assert_has_all(last);
    }
    drop(slow);
    eventually("everything of them to be freed", || {
        (daemon.metric("arqonbus_shard_outbox_bytes", "") == 0.0).then_some(())
    });
}

/// The memory of the daemon's process that is in RAM.
fn resident_bytes(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1_024
}

#[test]
fn who_asks_and_never_reads_the_answers_is_not_read_and_then_closed() {
    let daemon = daemon(2, 1_000);
    let mut other = daemon.client("other");
    let mut peer = RawPeer::connect(narrow(&daemon), "client_id=greedy");
    let before = resident_bytes(&daemon);
    // One `help` is answered by many times its own length.
    let question = raw::frame(raw::TEXT, command_text("greedy", "help", json!({})).1);
    let stream = peer.stream();
    stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let (mut asked, mut rest) = (0_u64, &question[..0]);
    while too_slow(&daemon) == 0.0 {
        if rest.is_empty() {
            rest = &question;
            asked += 1;
            assert!(asked < 5_000_000, "it was never paused");
        }
        match stream.write(rest) {
            Ok(count) => rest = &rest[count..],
            // Its questions wait in the kernels, for the bus does not read them.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => panic!("{error}"),
        }
        if asked.is_multiple_of(1_000) {
            let waiting = daemon.metric("arqonbus_shard_outbox_bytes", "");
            assert!(waiting <= 2.0 * OUTBOX_BYTES as f64, "{waiting} bytes wait");
        }
    }
    let grown = resident_bytes(&daemon).saturating_sub(before);
    assert!(grown < 32 << 20, "{asked} questions made the process grow by {grown} bytes");
    eventually("it to be closed", || (too_slow(&daemon) == 1.0).then_some(()));
    eventually("the pause to be counted", || {
        (daemon.metric("arqonbus_shard_pauses_total", "outbox_full") > 0.0).then_some(())
    });
    other.command("ping", json!({}));
    let (code, reason) = peer.await_close();
    assert_eq!(code, 4008);
    assert!(reason.contains("read faster"), "{reason}");
    // The bus reads on for its goodbye, past everything that it sent before.
    peer.stream().set_write_timeout(Some(PATIENCE)).unwrap();
    peer.send(rest);
    peer.send(&raw::frame(raw::CLOSE, 1000u16.to_be_bytes()));
    let end = peer.stream().read(&mut [0; 16]);
    assert!(matches!(end, Ok(0)), "it is not cut off: {end:?}");
    drop(daemon.client("greedy"));
}

#[test]
fn who_pauses_between_questions_and_reads_then_gets_every_answer() {
    let daemon = daemon(2, 120_000);
    let mut client = Client::connect_over(narrow(&daemon), "client_id=lazy");
    let mut asked = Vec::new();
    while daemon.metric("arqonbus_shard_paused_connections", "") == 0.0 {
        assert!(asked.len() < 100_000, "the bus goes on to read it");
        for _ in 0..50 {
            let (id, text) = command_text("lazy", "help", json!({}));
            client.send_text(text);
            asked.push(id);
        }
    }
    for id in asked {
        let reply = client.next();
        assert_eq!(reply["payload"]["request_id"], id, "answers come in order");
    }
    client.assert_quiet();
    assert_eq!(too_slow(&daemon), 0.0);
}

#[test]
fn private_messages_that_do_not_fit_are_told_of_without_sequences() {
    let daemon = daemon(2, 120_000);
    let mut slow = slow_member(&daemon, "slow");
    let mut sender = daemon.client_with(&format!("client_id=sender&join={CHANNEL}"));
    let filler = "x".repeat(8_000);
    let mut sent = 0;
    while drops(&daemon, "outbox_full") == 0.0 {
        assert!(sent < 10_000, "everything fits");
        for _ in 0..16 {
            let payload = json!({"target": "slow", "n": sent, "filler": filler});
            let private = sender.envelope("private", CHANNEL, payload);
            sender.send(&private);
            sent += 1;
        }
        sender.command("ping", json!({}));
    }
    // Only now is the last one delivered or dropped.
    let payload = json!({"target": "slow", "n": sent});
    let mut private = sender.envelope("private", CHANNEL, payload);
    private["metadata"] = json!({"ack": true});
    let id = sender.send(&private);
    sender.reply(&id);
    sent += 1;
    let mut got = 0;
    let gap = loop {
        let message = slow.next();
        if message["type"] == "private" {
            assert_eq!(message["payload"]["n"], got);
            got += 1;
        } else {
            break message;
        }
    };
    let payload = &gap["payload"];
    assert_eq!((&payload["event"], &payload["reason"]), (&json!("gap"), &json!("outbox_full")));
    assert_eq!((&payload["first"], &payload["last"]), (&Value::Null, &Value::Null));
    assert_eq!(payload["count"], json!(sent - got));
    slow.assert_quiet();
}

#[test]
fn what_expires_while_it_waits_is_told_of() {
    let daemon = Daemon::start(&["--shards", "2", "--slow-grace-ms", "600000"]);
    let mut publisher = daemon.client_with(&format!("client_id=publisher&join={CHANNEL}"));
    let mut slow = slow_member(&daemon, "slow");
    // Fill the kernel until something waits in the outbox itself, far below its bound.
    eventually("something to wait", || {
        for _ in 0..20 {
            publisher.publish(CHANNEL, json!({"x": "x".repeat(4_000)}));
        }
        publisher.publish_acked(CHANNEL, json!({}));
        (daemon.metric("arqonbus_shard_outbox_bytes", "") > 50_000.0).then_some(())
    });
    let id = publisher.publish_with(CHANNEL, json!({}), json!({"ttl_ms": 1, "ack": true}));
    let expired = publisher.reply(&id)["result"]["sequence"].as_u64().unwrap();
    let last = publisher.publish_acked(CHANNEL, json!({}));
    eventually("it to expire in history too", || {
        let page = publisher.command("history", json!({"channel": CHANNEL, "after": expired - 1}));
        (page["first"] == last).then_some(())
    });
    let (mut heard, mut gap) = (Vec::new(), None);
    while heard.last() != Some(&last) || gap.is_none() {
        let message = slow.next();
        match message["type"].as_str() {
            Some("event") => heard.push(message.sequence()),
            _ => gap = Some(message["payload"].clone()),
        }
    }
    let expected = json!({"event": "gap", "channel": "hot", "first": expired, "last": expired,
                          "count": 1, "reason": "expired"});
    assert_eq!(gap.unwrap(), expected);
    assert_eq!(heard, (1..=last).filter(|&n| n != expired).collect::<Vec<_>>());
}
