//! What is read back when something in Redis is not as it was written.

use crate::desk::{Desk, Line, read_back, settings};
use crate::redis::{Redis, cli};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// A Redis with ten events of a channel.
fn filled() -> (Redis, Line) {
    fill(Redis::start())
}

fn fill(redis: Redis) -> (Redis, Line) {
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    desk.stop();
    (redis, line)
}

/// The id of the entry with this sequence.
fn entry_id(redis: &Redis, line: &Line, sequence: usize) -> String {
    let ids = redis.cli(&["XRANGE", &line.stream(), "-", "+"]);
    let ending = format!("-{sequence}");
    ids.lines().find(|word| word.ends_with(&ending) && word.starts_with('1')).unwrap().to_owned()
}

#[test]
fn a_broken_entry_is_passed_over_and_the_run_begins_after_it() {
    let (redis, line) = filled();
    let message = |sequence: &str| {
        format!(
            r#"{{"version":"1.0","timestamp":"2025-01-01T00:00:00.000000Z","metadata":{{"sequence":{sequence}}},"id":"a","from":"b","type":"event"}}"#
        )
    };
    let cases: [&[&str]; 6] = [
        &["x", "y"],
        &["epoch", "epoch-1", "sequence", "11"],
        &["epoch", "epoch-1", "sequence", "11", "message", "{"],
        &["epoch", "epoch-1", "sequence", "11", "message", &message("12")],
        &["epoch", "epoch-1", "sequence", "x", "message", &message("11")],
        &["epoch", "epoch-1", "sequence", "12", "message", &message("12")],
    ];
    for case in cases {
        let id = redis.cli(&[&["XADD", &line.stream(), "*"], case].concat());
        redis.cli(&["HSET", &line.meta(), "last", "11"]);
        let (desk, snapshot) = Desk::at(&redis.url());
        assert_eq!(read_back(&snapshot, &line), [0; 0], "{case:?}");
        assert_eq!(snapshot.channels[0].last, 11);
        assert_eq!(desk.storage().meters().unreadable.load(Relaxed), 1, "{case:?}");
        desk.stop();
        assert_eq!(redis.cli(&["XLEN", &line.stream()]), "11", "nothing is deleted");
        redis.cli(&["XDEL", &line.stream(), &id]);
    }
}

#[test]
fn a_hole_ends_the_run() {
    let (redis, line) = filled();
    redis.cli(&["XDEL", &line.stream(), &entry_id(&redis, &line, 6)]);
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &line), [7, 8, 9, 10]);
    desk.abandon();
}

#[test]
fn what_is_said_of_rooms_and_channels_and_makes_no_sense_is_passed_over() {
    let (redis, line) = filled();
    redis.cli(&["HSET", "arqonbus:{bus}:rooms", "broken", "{"]);
    redis.cli(&["SADD", "arqonbus:{bus}:channels", "nothing", "not:there"]);
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &line).len(), 10);
    assert_eq!((snapshot.rooms.len(), snapshot.channels.len()), (0, 1));
    assert_eq!(desk.storage().meters().unreadable.load(Relaxed), 3);
    desk.stop();
}

#[test]
fn a_redis_that_still_reads_its_own_files_is_waited_for() {
    // Two milliseconds for each key, of which there will be a thousand.
    let slow = ["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"];
    let redis = Redis::with(&[&["--save", "", "--appendonly", "no"], &slow[..]].concat());
    let (mut redis, line) = fill(redis);
    redis.cli(&["EVAL", "for n = 1, 1000 do redis.call('SET', n, n) end", "0"]);
    redis.cli(&["SAVE"]);
    redis.kill();
    let (url, port) = (redis.url(), redis.port());
    thread::scope(|scope| {
        scope.spawn(|| redis.restart());
        while !cli(port, &["PING"]).starts_with("LOADING") {
            thread::sleep(Duration::from_millis(5));
        }
        let (desk, snapshot) = Desk::at(&url);
        assert_eq!(read_back(&snapshot, &line), (1..=10).collect::<Vec<_>>());
        assert!(desk.news().degraded.is_empty());
        desk.abandon();
    });
}

#[test]
fn no_more_is_read_than_is_asked_for() {
    let (redis, line) = filled();
    let mut few = settings(&redis.url());
    few.load_messages = 3;
    let desk = Desk::open(few);
    assert_eq!(read_back(&desk.load().unwrap(), &line), [8, 9, 10]);
    desk.abandon();
    let mut small = settings(&redis.url());
    small.load_bytes = 1;
    let desk = Desk::open(small);
    assert_eq!(read_back(&desk.load().unwrap(), &line), [10]);
    desk.abandon();
}

#[test]
fn many_channels_are_read_in_the_order_of_their_names() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let names: Vec<String> = (0..1_500).map(|n| format!("c{n}")).collect();
    let mut last = None;
    for (n, name) in names.iter().enumerate() {
        let mut line = Line::new(n as u64, "r", "c");
        line.address = std::sync::Arc::new(arqonbus::protocol::command::Address {
            room: line.address.room.clone(),
            channel: arqonbus::protocol::names::Name::parse(name).unwrap(),
        });
        desk.create(&line);
        desk.say(&mut line, 2);
        last = Some(line);
    }
    desk.wait_stored(&last.unwrap());
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    let mut sorted = names;
    sorted.sort();
    let found: Vec<String> = snapshot
        .channels
        .iter()
        .map(|channel| channel.record.address.channel.to_string())
        .collect();
    assert_eq!(found, sorted);
    assert!(snapshot.channels.iter().all(|channel| channel.messages.len() == 2));
    desk.abandon();
}
