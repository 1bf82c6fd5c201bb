//! What is kept is bounded in messages, in time and in bytes of Redis's memory; exactly, also in channels
//! in which nothing is said any more, and of one node as of many.

use crate::desk::{Desk, Line, SOON, read_back, settings};
use crate::node::{Node, Post};
use crate::redis::Redis;
use arqonbus::broker::record::Keep;
use arqonbus::storage::Settings;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const MIB: u64 = 1024 * 1024;

fn length(redis: &Redis, stream: &str) -> u64 {
    redis.cli(&["XLEN", stream]).parse().unwrap()
}

fn memory(redis: &Redis, stream: &str) -> u64 {
    redis.cli(&["MEMORY", "USAGE", stream, "SAMPLES", "0"]).parse().unwrap_or(0)
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a stream may take: no more than it is allowed, and most of that.
fn check_bytes(redis: &Redis, stream: &str, bytes: u64, what: usize) {
    let found = memory(redis, stream);
    assert!(found <= bytes, "{what}: {found} of {bytes}");
    assert!(found >= bytes * 6 / 10, "{what}: no more than {found} of {bytes} are kept");
}

#[test]
fn a_stream_takes_no_more_memory_than_its_channel_may() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut cut = 0;
    for (number, (size, count)) in
        [(20, 8_000), (900, 3_000), (3_000, 1_200), (70_000, 60), (250_000, 24)]
            .into_iter()
            .enumerate()
    {
        let names = ["a", "b", "c", "d", "e"];
        let mut line = Line::new(number as u64, "r", names[number]);
        line.keep = Keep { messages: 1_000_000, age_ms: 0, bytes: 2 * MIB };
        desk.create(&line);
        for _ in 0..count {
            let frame = line.next(&format!(r#"{{"x":"{}"}}"#, "y".repeat(size)));
            desk.offer(line.event(frame));
        }
        desk.wait_stored(&line);
        check_bytes(&redis, &line.stream(), 2 * MIB, size);
        cut += count as u64 - length(&redis, &line.stream());
    }
    until("the count", || desk.storage().meters().trimmed_by_bytes.load(Relaxed) == cut);
    desk.stop();
}

#[test]
fn the_newest_message_is_kept_however_large_it_is() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    line.keep = Keep { messages: 10, age_ms: 0, bytes: 1_000 };
    desk.create(&line);
    for _ in 0..3 {
        let frame = line.next(&format!(r#"{{"x":"{}"}}"#, "y".repeat(50_000)));
        desk.offer(line.event(frame));
        desk.wait_stored(&line);
        assert_eq!(length(&redis, &line.stream()), 1);
    }
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &line), [3]);
    desk.abandon();
}

#[test]
fn nodes_keep_no_more_of_a_channel_than_it_may_have() {
    let redis = Redis::start();
    // A call that is made again after more was said than is kept finds nothing to compare with.
    let patient = Settings { commit_timeout_ms: 20_000, ..settings(&redis.url()) };
    let nodes = ["a", "b"].map(|name| Node::open(name, patient.clone()));
    nodes.iter().for_each(|node| _ = node.load().unwrap());
    let mut posts = [0, 1].map(|at: usize| {
        let mut post = nodes[at].follow(at as u64, "r", "c");
        post.keep = Keep { messages: 1_000_000, age_ms: 0, bytes: 2 * MIB };
        post
    });
    for n in 0..60 {
        for (node, post) in nodes.iter().zip(&mut posts) {
            node.say_much(post, &format!("{}-{n}", node.name), 70_000);
        }
    }
    for (node, post) in nodes.iter().zip(&posts) {
        node.wait_placed(post);
        assert_eq!(node.wait_last(post, 120).last(), 120, "members have had all of them");
    }
    check_bytes(&redis, &posts[0].key("stream"), 2 * MIB, 70_000);
    assert!(nodes.iter().all(|node| node.heard().degraded.is_empty()), "no answer was lost");
    let cut: u64 =
        nodes.iter().map(|it| it.storage().meters().trimmed_by_bytes.load(Relaxed)).sum();
    assert_eq!(cut, 120 - length(&redis, &posts[0].key("stream")));
    nodes.into_iter().for_each(Node::stop);
}

#[test]
fn a_silent_channel_keeps_nothing_that_is_too_old() {
    let redis = Redis::start();
    let aging = Settings { retention_age_ms: 1_500, ..settings(&redis.url()) };
    let desk = Desk::open(aging.clone());
    desk.load().unwrap();
    let (mut silent, mut late) = (Line::new(1, "r", "silent"), Line::new(2, "r", "late"));
    for line in [&mut silent, &mut late] {
        line.keep = Keep { messages: 100, age_ms: 1_500, bytes: 0 };
        desk.create(line);
        desk.say(line, 20);
        desk.wait_stored(line);
    }
    assert_eq!(length(&redis, &silent.stream()), 20);
    // One of them goes on, and keeps what is young enough.
    std::thread::sleep(Duration::from_millis(1_000));
    late.clock_us += 1_000_000;
    desk.say(&mut late, 5);
    desk.wait_stored(&late);
    until("the end of the old", || length(&redis, &silent.stream()) == 0);
    assert!(length(&redis, &late.stream()) <= 5);
    until("the end of all", || length(&redis, &late.stream()) == 0);
    assert_eq!(desk.storage().meters().trimmed_by_age.load(Relaxed), 45);
    // The order goes on behind what is gone.
    silent.clock_us += 5_000_000;
    desk.say(&mut silent, 1);
    desk.wait_stored(&silent);
    assert!(desk.news().forgotten.is_empty());
    desk.stop();
    // What grew too old while nobody ran is not read, and goes.
    std::thread::sleep(Duration::from_millis(100));
    redis.cli(&["XADD", &late.stream(), "1-1", "x", "y"]);
    redis.cli(&["XADD", &late.stream(), "*", "x", "y"]);
    let desk = Desk::open(aging);
    let snapshot = desk.load().unwrap();
    assert_eq!(read_back(&snapshot, &late), [0; 0]);
    until("the end of the rest", || {
        length(&redis, &silent.stream()) + length(&redis, &late.stream()) == 0
    });
    desk.stop();
}

#[test]
fn nodes_keep_nothing_that_is_too_old_though_the_one_that_said_it_is_gone() {
    let redis = Redis::start();
    let aging = Settings { retention_age_ms: 1_500, ..settings(&redis.url()) };
    let open = |name| {
        let node = Node::open(name, aging.clone());
        node.load().unwrap();
        node
    };
    let (a, b) = (open("a"), open("b"));
    let mut post = a.follow(1, "r", "c");
    post.keep = Keep { messages: 100, age_ms: 1_500, bytes: 0 };
    for n in 0..20 {
        a.say(&mut post, &format!("a-{n}"));
    }
    a.wait_placed(&post);
    assert_eq!(length(&redis, &post.key("stream")), 20);
    // It ends without a chance to cut anything.
    a.abandon();
    until("the end of the old", || length(&redis, &post.key("stream")) == 0);
    assert!(b.heard().degraded.is_empty());
    b.stop();
}

/// What the streams of all channels take together.
fn memory_of_all(redis: &Redis, streams: &[String]) -> u64 {
    streams.iter().map(|stream| memory(redis, stream)).sum()
}

#[test]
fn all_channels_together_take_no_more_than_they_may_and_the_largest_give_up_first() {
    let redis = Redis::start();
    let bounded = Settings { retention_bytes_total: 4 * MIB, ..settings(&redis.url()) };
    let desk = Desk::open(bounded);
    desk.load().unwrap();
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut lines: Vec<Line> =
        names.iter().enumerate().map(|(n, name)| Line::new(n as u64, "r", name)).collect();
    for (number, line) in lines.iter_mut().enumerate() {
        desk.create(line);
        // The first is small.
        for _ in 0..if number == 0 { 3 } else { 30 } {
            let frame = line.next(&format!(r#"{{"x":"{}"}}"#, "y".repeat(70_000)));
            desk.offer(line.event(frame));
        }
        desk.wait_stored(line);
    }
    let streams: Vec<String> = lines.iter().map(Line::stream).collect();
    until("room", || memory_of_all(&redis, &streams) <= 4 * MIB);
    std::thread::sleep(Duration::from_millis(300));
    assert!(memory_of_all(&redis, &streams) >= 2 * MIB, "{}", memory_of_all(&redis, &streams));
    assert_eq!(length(&redis, &streams[0]), 3, "who holds little keeps it");
    let meters = desk.storage().meters();
    let kept: u64 = streams.iter().map(|stream| length(&redis, stream)).sum();
    assert_eq!(meters.trimmed_for_all.load(Relaxed), 153 - kept);
    desk.stop();
}

#[test]
fn all_channels_of_all_nodes_take_no_more_than_they_may() {
    let redis = Redis::start();
    let bounded = Settings { retention_bytes_total: 4 * MIB, ..settings(&redis.url()) };
    let nodes = ["a", "b"].map(|name| Node::open(name, bounded.clone()));
    nodes.iter().for_each(|node| _ = node.load().unwrap());
    let mut posts: Vec<Vec<Post>> = vec![Vec::new(), Vec::new()];
    for (at, node) in nodes.iter().enumerate() {
        for channel in [["a", "b", "c"], ["d", "e", "f"]][at] {
            let number = posts[at].len() as u64;
            posts[at].push(node.follow(number, "r", channel));
        }
        for post in &mut posts[at] {
            for n in 0..30 {
                node.say_much(post, &format!("{n}"), 70_000);
            }
        }
    }
    for (node, posts) in nodes.iter().zip(&posts) {
        posts.iter().for_each(|post| _ = node.wait_placed(post));
    }
    let streams: Vec<String> = posts.iter().flatten().map(|post| post.key("stream")).collect();
    until("room", || memory_of_all(&redis, &streams) <= 4 * MIB);
    std::thread::sleep(Duration::from_millis(1_500));
    assert!(memory_of_all(&redis, &streams) >= 2 * MIB, "{}", memory_of_all(&redis, &streams));
    nodes.into_iter().for_each(Node::stop);
}
