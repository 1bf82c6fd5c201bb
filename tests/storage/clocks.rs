//! Clocks of nodes that differ, from each other and from that of Redis: what an event has left of its
//! life is the same for all.

use crate::desk::{Desk, Line, now, settings};
use crate::node::{Node, Post};
use crate::redis::Redis;
use arqonbus::base::time::Now;
use arqonbus::broker::peers::{PeerRecord, Submission};
use arqonbus::broker::record::{EventRecord, KeptChannel, Record};
use arqonbus::protocol::command::Address;
use arqonbus::protocol::decode::decode;
use arqonbus::protocol::frame::{Draft, Frame, Origin};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TTL_MS: u64 = 60_000;
/// What a test may take at most.
const SLACK_MS: u64 = 20_000;
const DAY_US: u64 = 24 * 3_600 * 1_000_000;
const TWO_HOURS_US: i64 = 2 * 3_600 * 1_000_000;

/// What a clock shows that is so far ahead.
fn clock(ahead_us: i64) -> Now {
    let now = now();
    Now { wall_us: now.wall_us.saturating_add_signed(ahead_us), ..now }
}

/// A node whose clock is ahead, and when it began.
fn node(name: &'static str, redis: &Redis, ahead_us: i64) -> (Node, Instant) {
    let node = Node::open(name, settings(&redis.url()));
    let began = Instant::now();
    node.storage().load(clock(ahead_us), Duration::from_millis(500)).expect("Redis is there");
    (node, began)
}

/// An event that expires.
fn draft(address: &Address, id: &str) -> Draft {
    let text = json!({
        "version": "1.0", "id": id, "type": "event", "room": address.room, "from": "ann",
        "channel": address.channel, "timestamp": "2025-11-24T16:00:00Z", "payload": {},
        "metadata": {"ttl_ms": TTL_MS},
    });
    let text = text.to_string();
    let envelope = decode(&text).unwrap();
    // Read when the clock of its node began.
    Draft::new(&envelope, "ann", Origin { received_ns: now().mono_ns, ttl_ms: Some(TTL_MS) })
}

/// Asserts that the event was given about as much as it still had; at least `passed` is gone.
#[track_caller]
fn assert_left(expires_ms: Option<u64>, began: Instant, passed: Duration) {
    let mono_ms = now().mono_ms() + began.elapsed().as_millis() as u64;
    let left_ms = expires_ms.expect("it expires").saturating_sub(mono_ms);
    let most_ms = TTL_MS - passed.as_millis() as u64;
    assert!((TTL_MS - SLACK_MS..=most_ms).contains(&left_ms), "{left_ms} ms are left");
}

#[test]
fn an_event_lives_as_long_on_every_node_whatever_its_clock_shows() {
    let redis = Redis::start();
    let (a, began) = node("a", &redis, 0);
    let mut of_a = a.follow(1, "r", "c");
    let ahead = node("b", &redis, TWO_HOURS_US);
    let behind = node("c", &redis, -TWO_HOURS_US);
    let posts: Vec<Post> = [&ahead.0, &behind.0].map(|node| node.follow(8, "r", "c")).into();
    of_a.ticket += 1;
    a.ask(PeerRecord::Submit(Box::new(Submission {
        channel: of_a.id,
        address: Arc::clone(&of_a.address),
        life: Arc::clone(&of_a.life),
        ticket: 1,
        seen: 0,
        draft: Arc::new(draft(&of_a.address, "arq_1")),
        at_us: now().wall_us,
        keep: of_a.keep,
    })));
    let order = a.wait_last(&of_a, 1);
    assert_left(order.expires_ms[0], began, Duration::ZERO);
    for ((node, began), post) in [&ahead, &behind].into_iter().zip(&posts) {
        let order = node.wait_last(post, 1);
        assert_left(order.expires_ms[0], *began, Duration::ZERO);
    }
    // Who comes later reads it, and counts what has gone by meanwhile.
    let pause = Duration::from_millis(1_500);
    std::thread::sleep(pause);
    for (name, ahead_us) in [("d", TWO_HOURS_US), ("e", -TWO_HOURS_US)] {
        let (late, began) = node(name, &redis, ahead_us);
        let post = late.follow(3, "r", "c");
        assert_left(late.order(&post).expires_ms[0], began, pause);
        late.stop();
    }
    for (node, _) in [(a, began), ahead, behind] {
        assert!(!node.storage().meters().clock().expect("it is measured").is_apart());
        node.stop();
    }
}

/// Creates a channel and stores one event of this time in it.
fn store_one(desk: &Desk, line: &Line, at_us: u64) {
    desk.create(line);
    let frame: Arc<Frame> = draft(&line.address, "arq_1").stamp(1, at_us);
    desk.offer(Record::Event(EventRecord {
        channel: line.id,
        address: Arc::clone(&line.address),
        epoch: Arc::clone(&line.epoch),
        frame,
        keep: line.keep,
    }));
    desk.wait("stored", |news| news.stored.get(&line.id) == Some(&1));
}

#[test]
fn what_is_kept_lives_as_long_after_a_restart_with_another_clock() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let line = Line::new(1, "r", "c");
    store_one(&desk, &line, now().wall_us);
    desk.stop();
    for ahead_us in [TWO_HOURS_US, -TWO_HOURS_US] {
        let desk = Desk::open(settings(&redis.url()));
        let began = Instant::now();
        let snapshot = desk.storage().load(clock(ahead_us), Duration::from_millis(500)).unwrap();
        let channel = &snapshot.channels[0];
        assert_left(channel.messages[0].expires_ms, began, Duration::ZERO);
        desk.stop();
    }
}

#[test]
fn the_time_of_a_channel_is_at_most_a_day_ahead_after_a_restart() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let (far, soon) = (Line::new(1, "r", "far"), Line::new(2, "r", "soon"));
    let tomorrow = |now: Now| now.wall_us + DAY_US;
    for (line, ahead_us) in [(&far, 10 * DAY_US), (&soon, 3_600_000_000)] {
        store_one(&desk, line, now().wall_us + ahead_us);
    }
    desk.stop();
    let desk = Desk::open(settings(&redis.url()));
    let then = now();
    let snapshot = desk.storage().load(then, Duration::from_millis(500)).unwrap();
    let last_us = |line: &Line| {
        let is_it = |it: &&KeptChannel| it.record.address == line.address;
        snapshot.channels.iter().find(is_it).expect("it is kept").last_us
    };
    assert_eq!(last_us(&far), tomorrow(then));
    assert!((then.wall_us..tomorrow(then)).contains(&last_us(&soon)));
    desk.stop();
}
