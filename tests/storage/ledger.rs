//! Redis is killed under load, again and again; a ledger of what was told as stored is compared
//! with the streams.

use crate::desk::{Desk, Line, SOON, settings};
use crate::redis::Redis;
use std::time::{Duration, Instant};

const KILLS: usize = 6;
const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

/// The sequences in a stream, in its order.
pub(crate) fn sequences(redis: &Redis, line: &Line) -> Vec<u64> {
    let entries = redis.cli(&["XRANGE", &line.stream(), "-", "+"]);
    let words: Vec<&str> = entries.lines().collect();
    words
        .windows(2)
        .filter(|pair| pair[0] == "sequence")
        .map(|pair| pair[1].parse().unwrap())
        .collect()
}

#[test]
fn what_was_told_as_stored_survives_the_death_of_redis() {
    let mut rng = fastrand::Rng::new();
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let mut settings = settings(&redis.url());
    settings.load_messages = 1_000_000;
    let desk = Desk::open(settings);
    desk.load().unwrap();
    let mut lines: Vec<Line> =
        CHANNELS.iter().enumerate().map(|(n, name)| Line::new(n as u64, "r", name)).collect();
    for line in &mut lines {
        line.keep.messages = 1_000_000;
        desk.create(line);
    }
    for _ in 0..KILLS {
        let end = Instant::now() + Duration::from_millis(rng.u64(50..300));
        while Instant::now() < end {
            lines.iter_mut().for_each(|line| desk.say(line, rng.u64(0..8)));
            std::thread::sleep(Duration::from_micros(rng.u64(0..400)));
        }
        redis.kill();
        lines.iter_mut().for_each(|line| desk.say(line, rng.u64(1..50)));
        redis.restart();
    }
    lines.iter_mut().for_each(|line| desk.say(line, 1));
    lines.iter().for_each(|line| desk.wait_stored(line));
    for line in &lines {
        assert_eq!(
            sequences(&redis, line),
            (1..=line.last).collect::<Vec<_>>(),
            "{}",
            line.address
        );
    }
    // The last death: nothing is written after it, so only what was safe can be there.
    let end = Instant::now() + Duration::from_millis(rng.u64(50..150));
    while Instant::now() < end {
        lines.iter_mut().for_each(|line| desk.say(line, 3));
    }
    redis.kill();
    let end = Instant::now() + SOON;
    while !desk.storage().meters().is_degraded() {
        assert!(Instant::now() < end, "nobody saw that Redis is dead");
        desk.say(&mut lines[0], 1);
    }
    let news = desk.news();
    desk.abandon();
    redis.restart();
    for line in &lines {
        let found = sequences(&redis, line);
        let told = news.stored[&line.id];
        assert!(found.len() as u64 >= told, "{}: {told} told, {} found", line.address, found.len());
        assert_eq!(found, (1..=found.len() as u64).collect::<Vec<_>>(), "{}", line.address);
    }
}
