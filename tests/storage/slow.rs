//! A node that has missed more than Redis can give it at once, or over a slow line in time: it catches up
//! page by page, or begins anew, and never asks the same again in vain.

use crate::desk::{Desk, Line, SOON, read_back, settings};
use crate::node::Node;
use crate::redis::Redis;
use arqonbus::broker::record::Keep;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A line to a Redis that carries so many bytes a second of what it answers; 0 is all of it, and at
/// `STOPPED` nothing.
struct SlowLine {
    port: u16,
    bytes_per_second: Arc<AtomicU64>,
}

const STOPPED: u64 = u64::MAX;

impl SlowLine {
    fn to(redis: &Redis) -> SlowLine {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, to) = (listener.local_addr().unwrap().port(), redis.port());
        let bytes_per_second = Arc::new(AtomicU64::new(0));
        let rate = Arc::clone(&bytes_per_second);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(("127.0.0.1", to)))
                else {
                    return;
                };
                let (from_client, to_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || carry(from_client, to_server, &AtomicU64::new(0)));
                let rate = Arc::clone(&rate);
                std::thread::spawn(move || carry(server, client, &rate));
            }
        });
        SlowLine { port, bytes_per_second }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn set(&self, bytes_per_second: u64) {
        self.bytes_per_second.store(bytes_per_second, Relaxed);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, rate: &AtomicU64) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        while rate.load(Relaxed) == STOPPED {
            std::thread::sleep(Duration::from_millis(5));
        }
        if let rate @ 1.. = rate.load(Relaxed) {
            std::thread::sleep(Duration::from_secs_f64(length as f64 / rate as f64));
        }
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A node that hears nothing for a while, and what it has missed then: so many events of 100 kB.
fn behind(
    redis: &Redis,
    keep: Keep,
    missed: u64,
) -> (Node, crate::node::Post, Node, SlowLine, u64) {
    let line = SlowLine::to(redis);
    let a = Node::at("a", &redis.url());
    let b = Node::open("b", settings(&line.url()));
    b.load().unwrap();
    let mut of_a = a.follow(1, "r", "c");
    of_a.keep = keep;
    let mut of_b = crate::node::Post::new("b", 8, "r", "c");
    of_b.keep = keep;
    b.attach(&of_b);
    b.wait("attached", |heard| heard.of(&of_b).attached == 1);
    a.say(&mut of_a, "first");
    b.wait_last(&of_b, 1);
    line.set(STOPPED);
    for n in 0..missed {
        a.say_much(&mut of_a, &format!("{n}"), 100_000);
        a.wait_placed(&of_a);
    }
    // Its connections are given up, as with any that are silent.
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    a.wait("restored", |heard| heard.restored == heard.degraded.len());
    b.wait("degraded", |heard| !heard.degraded.is_empty());
    (a, of_a, b, line, missed + 1)
}

#[test]
fn what_is_more_than_an_answer_can_carry_in_its_time_is_caught_up_with_in_pages() {
    let redis = Redis::start();
    let keep = Keep { messages: 1_000_000, age_ms: 0, bytes: 0 };
    let (a, of_a, b, line, last) = behind(&redis, keep, 80);
    // All of it takes eight seconds; an answer may take one, and so may one megabyte.
    line.set(1_000_000);
    let of_b = crate::node::Post::new("b", 8, "r", "c");
    let order = b.wait_last(&of_b, last);
    assert_eq!((order.attached, order.messages.len() as u64), (1, last), "nothing is missing");
    assert_eq!(order.messages, a.order(&of_a).messages);
    b.wait("restored", |heard| heard.restored == heard.degraded.len());
    assert!(a.heard().restored == a.heard().degraded.len());
    assert_eq!(b.storage().meters().far_behind.load(Relaxed), 0);
    line.set(0);
    a.stop();
    b.stop();
}

#[test]
fn who_has_missed_more_than_a_history_holds_begins_anew() {
    for keep in [
        Keep { messages: 20, age_ms: 0, bytes: 0 },
        Keep { messages: 1_000_000, age_ms: 0, bytes: 2_000_000 },
    ] {
        let redis = Redis::start();
        let (a, mut of_a, b, line, last) = behind(&redis, keep, 60);
        line.set(0);
        let of_b = crate::node::Post::new("b", 8, "r", "c");
        let order = b.wait_last(&of_b, last);
        assert_eq!(order.attached, 2, "it is told that some are missing");
        assert!((10..=20).contains(&order.messages.len()), "{}", order.messages.len());
        a.say(&mut of_a, "on");
        b.wait_last(&of_b, last + 1);
        a.stop();
        b.stop();
    }
}

#[test]
fn one_call_never_reads_much_more_than_a_page() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    // Small ones let expect small ones.
    for size in [10, 10, 10, 10, 10, 10, 10, 10].into_iter().chain([500_000; 40]).chain([10; 8]) {
        let frame = line.next(&format!(r#"{{"x":"{}"}}"#, "y".repeat(size)));
        desk.offer(line.event(frame));
    }
    desk.wait_stored(&line);
    desk.stop();
    redis.cli(&["CONFIG", "RESETSTAT"]);
    let mut all = settings(&redis.url());
    all.load_bytes = u64::MAX;
    let desk = Desk::open(all);
    assert_eq!(read_back(&desk.load().unwrap(), &line).len(), 56);
    let stats = redis.cli(&["INFO", "commandstats"]);
    let calls = |name: &str| -> u64 {
        let line =
            stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    };
    assert!(calls("xrevrange") >= 20, "{stats}");
    desk.abandon();
}

#[test]
fn a_start_over_a_slow_line_reads_all_of_it() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut lines: Vec<Line> = ["a", "b", "c", "d"]
        .iter()
        .enumerate()
        .map(|(n, name)| Line::new(n as u64, "r", name))
        .collect();
    for line in &mut lines {
        desk.create(line);
        for _ in 0..20 {
            let frame = line.next(&format!(r#"{{"x":"{}"}}"#, "y".repeat(100_000)));
            desk.offer(line.event(frame));
        }
        desk.wait_stored(line);
    }
    desk.stop();
    let slow = SlowLine::to(&redis);
    slow.set(2_000_000);
    let started = Instant::now();
    let desk = Desk::open(settings(&slow.url()));
    let snapshot = desk.load().unwrap();
    for line in &lines {
        assert_eq!(read_back(&snapshot, line).len(), 20);
    }
    assert!(started.elapsed() < SOON);
    desk.abandon();
}
