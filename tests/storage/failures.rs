//! What happens when Redis is gone, full, read-only, or somebody else's.

use crate::desk::{Desk, Line, SOON, read_back, room, settings};
use crate::redis::Redis;
use arqonbus::broker::record::Record;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Degraded once, with a reason; nothing lost, all restored, everything there once and in order.
fn check_whole(desk: Desk, redis: &Redis, line: &Line, reason: &str) {
    desk.wait("restored", |news| news.restored == 1);
    desk.wait_stored(line);
    let news = desk.news();
    assert_eq!(news.degraded.len(), 1, "{:?}", news.degraded);
    assert!(news.degraded[0].contains(reason), "{:?}", news.degraded);
    assert!(news.lost.is_empty());
    assert!(!desk.storage().meters().is_degraded());
    desk.stop();
    check_stream(redis, line, 1);
}

/// Every sequence from `first` on is in the stream, once and in order.
fn check_stream(redis: &Redis, line: &Line, first: u64) {
    let entries = redis.cli(&["XRANGE", &line.stream(), "-", "+"]);
    let mut words = entries.lines();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        if word == "sequence" {
            found.extend(words.next().and_then(|number| number.parse::<u64>().ok()));
        }
    }
    assert_eq!(found, (first..=line.last).collect::<Vec<_>>());
}

#[test]
fn events_wait_while_redis_is_down_and_are_written_in_order() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    redis.kill();
    desk.say(&mut line, 1_000);
    desk.wait("degraded", |news| !news.degraded.is_empty());
    let degraded = desk.storage().meters().degraded().unwrap();
    assert!(degraded.since.elapsed() < SOON && !degraded.reason.is_empty());
    desk.say(&mut line, 500);
    redis.restart();
    check_whole(desk, &redis, &line, "");
}

#[test]
fn a_redis_that_came_back_empty_is_told_everything_again() {
    let mut redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    desk.offer(Record::Room(Box::new(room("r"))));
    let (mut line, quiet) = (Line::new(1, "r", "c"), Line::new(2, "r", "quiet"));
    desk.create(&line);
    desk.create(&quiet);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    redis.kill();
    redis.restart();
    desk.say(&mut line, 5);
    desk.wait_stored(&line);
    let news = desk.news();
    assert_eq!((news.all_forgotten, &news.forgotten[..]), (1, &[(line.id, 1, 10)][..]));
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(snapshot.rooms.len(), 1);
    assert_eq!(snapshot.channels.len(), 2);
    // What it had been told before it lost everything is gone: the run begins after the hole.
    assert_eq!(read_back(&snapshot, &line), [11, 12, 13, 14, 15]);
    desk.abandon();
}

#[test]
fn a_tail_that_is_missing_is_told_with_the_next_event() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    // As at a replica that took over before it had everything.
    redis.cli(&["HSET", &line.meta(), "last", "7"]);
    desk.say(&mut line, 2);
    desk.wait_stored(&line);
    assert_eq!(desk.news().forgotten, [(line.id, 8, 10)]);
    desk.say(&mut line, 2);
    desk.wait_stored(&line);
    assert_eq!(desk.news().forgotten.len(), 1);
    desk.stop();
}

#[test]
fn an_answer_that_was_lost_doubles_nothing() {
    let redis = Redis::start();
    let mut settings = settings(&redis.url());
    settings.grace_ms = 5_000;
    let desk = Desk::open(settings);
    desk.load().unwrap();
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    let end = Instant::now() + Duration::from_secs(2);
    let mut kills = 0;
    while Instant::now() < end {
        for _ in 0..20 {
            desk.say(&mut line, 5);
            std::thread::sleep(Duration::from_micros(500));
        }
        kills += redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]).parse::<u64>().unwrap_or(0);
    }
    assert!(kills > 3, "{kills} connections killed");
    desk.wait_stored(&line);
    let news = desk.news();
    assert!(news.lost.is_empty());
    assert!(news.degraded.is_empty(), "a connection that comes back at once is nobody's business");
    desk.stop();
    check_stream(&redis, &line, 1);
}

#[test]
fn the_latest_cause_is_told_with_its_time() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 1);
    desk.wait("degraded", |news| !news.degraded.is_empty());
    let degraded = || desk.storage().meters().degraded().unwrap();
    let first = degraded();
    assert!(first.reason.contains("OOM"), "{first:?}");
    redis.cli(&["CONFIG", "SET", "requirepass", "new"]);
    redis.cli(&["-a", "new", "CLIENT", "KILL", "TYPE", "normal"]);
    desk.wait("the cause", |news| news.causes.iter().any(|cause| cause.contains("password")));
    let second = degraded();
    assert!(second.since == first.since && second.reason_at > first.reason_at, "{second:?}");
    assert!(second.reason.contains("password"), "{second:?}");
    // It is told again while it lasts, as it is still seen.
    let before = desk.news().causes.len();
    desk.wait("it again", |news| news.causes.len() > before);
    assert!(degraded().reason_at > second.reason_at);
    redis.cli(&["-a", "new", "CONFIG", "SET", "requirepass", ""]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    desk.wait("restored", |news| news.restored == 1);
    assert_eq!(desk.news().degraded.len(), 1);
    desk.wait_stored(&line);
    desk.stop();
}

#[test]
fn a_full_redis_takes_nothing_of_a_batch_and_all_of_it_later() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    desk.say(&mut line, 100);
    desk.wait("degraded", |news| !news.degraded.is_empty());
    assert_eq!(redis.cli(&["XLEN", &line.stream()]), "10");
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    check_whole(desk, &redis, &line, "OOM");
}

#[test]
fn a_replica_takes_nothing_until_it_is_master_again() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    desk.say(&mut line, 100);
    desk.wait("degraded", |news| !news.degraded.is_empty());
    redis.cli(&["REPLICAOF", "NO", "ONE"]);
    check_whole(desk, &redis, &line, "READONLY");
}

#[test]
fn a_redis_that_hangs_is_given_up_and_tried_again() {
    let redis = Redis::start();
    let mut settings = settings(&redis.url());
    settings.commit_timeout_ms = 200;
    let desk = Desk::open(settings);
    desk.load().unwrap();
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait_stored(&line);
    redis.cli(&["CLIENT", "PAUSE", "700", "WRITE"]);
    desk.say(&mut line, 100);
    check_whole(desk, &redis, &line, "did not answer");
}

#[test]
fn replicas_that_were_asked_for_and_are_not_there_make_nothing_safe() {
    let (redis, replica) = (Redis::start(), Redis::start());
    let mut settings = settings(&redis.url());
    (settings.replicas, settings.replicas_timeout_ms) = (1, 100);
    let desk = Desk::open(settings);
    desk.load().unwrap();
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 10);
    desk.wait("degraded", |news| !news.degraded.is_empty());
    assert!(desk.news().stored.is_empty());
    replica.cli(&["REPLICAOF", "127.0.0.1", &redis.port().to_string()]);
    desk.wait_stored(&line);
    assert_eq!(replica.cli(&["XLEN", &line.stream()]), "10");
    check_whole(desk, &redis, &line, "0 of 1 replicas");
}

#[test]
fn what_finds_no_room_is_lost_and_told_and_the_run_goes_on_after_the_hole() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let mut settings = settings(&redis.url());
    settings.backlog_bytes = 100_000;
    let desk = Desk::open(settings);
    desk.load().unwrap();
    let (mut loud, mut late) = (Line::new(1, "r", "loud"), Line::new(2, "r", "late"));
    desk.create(&loud);
    desk.create(&late);
    desk.say(&mut loud, 10);
    desk.wait_stored(&loud);
    redis.kill();
    desk.say(&mut loud, 1_000);
    desk.say(&mut late, 10);
    desk.wait("the loud channel's loss", |news| news.lost.iter().any(|&(id, ..)| id == loud.id));
    redis.restart();
    desk.wait("restored", |news| news.restored == 1);
    for line in [&mut loud, &mut late] {
        desk.say(line, 7);
        desk.wait_stored(line);
    }
    let news = desk.news();
    let first_lost = news.lost.iter().find(|lost| lost.0 == loud.id).unwrap().1;
    let lost: u64 = news.lost.iter().map(|&(_, first, last)| last - first + 1).sum();
    assert!((11..1_000).contains(&first_lost), "{first_lost}");
    assert_eq!(lost, 1_010 - first_lost + 1, "told once, and of the loud one: {:?}", news.lost);
    assert_eq!(desk.storage().meters().lost.load(Relaxed), lost);
    let length = redis.cli(&["XLEN", &loud.stream()]);
    assert_eq!(length, (first_lost - 1 + 7).to_string(), "nothing else is missing");
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &loud), (1_011..=1_017).collect::<Vec<_>>());
    assert_eq!(read_back(&snapshot, &late), (1..=17).collect::<Vec<_>>());
    desk.abandon();
}

#[test]
fn a_foreign_key_costs_its_channel_and_no_other() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let (mut bad, mut good) = (Line::new(1, "r", "bad"), Line::new(2, "r", "good"));
    redis.cli(&["SET", &bad.stream(), "precious"]);
    for line in [&mut bad, &mut good] {
        desk.create(line);
        desk.say(line, 10);
    }
    desk.wait_stored(&good);
    desk.wait("the loss", |news| news.lost_of(&bad) == (1..=10).collect::<Vec<_>>());
    assert!(desk.news().degraded.is_empty());
    // Not even a channel that goes takes it with it.
    desk.offer(Record::ChannelGone(bad.address.clone()));
    desk.say(&mut good, 10);
    desk.wait_stored(&good);
    assert_eq!(redis.cli(&["GET", &bad.stream()]), "precious");
    // Once it is out of the way the channel is kept again.
    desk.create(&bad);
    redis.cli(&["RENAME", &bad.stream(), "elsewhere"]);
    let end = Instant::now() + SOON;
    while desk.news().stored.get(&bad.id) != Some(&bad.last) {
        assert!(Instant::now() < end, "the channel is not tried again");
        desk.say(&mut bad, 1);
        std::thread::sleep(Duration::from_millis(50));
    }
    desk.abandon();
}
