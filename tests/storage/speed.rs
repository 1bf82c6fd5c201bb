//! How fast it is. Nothing is asserted, as a time says little on a machine that others use too:
//! `cargo test --release --test storage speed -- --ignored --nocapture`

use crate::desk::{Desk, Line, SOON};
use crate::redis::Redis;
use arqonbus::storage::COMMIT_BOUNDS_MS;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const NAMES: [&str; 16] =
    ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p"];
const PAYLOAD: &str = r#"{"text":"a message as people write them, of about a hundred bytes, no more and no less than that"}"#;

fn lines(desk: &Desk, count: usize) -> Vec<Line> {
    let lines: Vec<Line> =
        NAMES[..count].iter().enumerate().map(|(n, name)| Line::new(n as u64, "r", name)).collect();
    lines.iter().for_each(|line| desk.create(line));
    lines
}

#[test]
#[ignore = "it measures"]
fn how_many_events_a_second() {
    for fsync in ["no", "everysec", "always"] {
        for count in [1, 16] {
            let redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", fsync]);
            let (desk, _) = Desk::at(&redis.url());
            let mut lines = lines(&desk, count);
            let events = 200_000;
            let started = Instant::now();
            for n in 0..events {
                let line = &mut lines[n % count];
                let frame = line.next(PAYLOAD);
                desk.offer(line.event(frame));
            }
            lines.iter().for_each(|line| desk.wait_stored(line));
            let took = started.elapsed().as_secs_f64();
            let meters = desk.storage().meters();
            let rounds = meters.rounds.load(Relaxed);
            println!(
                "appendfsync {fsync}, {count} channels: {:.0} events/s, {rounds} rounds of {:.1} ms",
                events as f64 / took,
                meters.commits_us.load(Relaxed) as f64 / 1_000.0 / rounds as f64,
            );
            desk.stop();
        }
    }
}

#[test]
#[ignore = "it measures"]
fn how_long_until_one_is_stored() {
    for (fsync, pause) in [("no", 2_000), ("everysec", 2_000), ("always", 2_000), ("everysec", 100)]
    {
        let redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", fsync]);
        let (desk, _) = Desk::at(&redis.url());
        let mut line = lines(&desk, 1).remove(0);
        desk.say(&mut line, 1);
        desk.wait_stored(&line);
        let mut took = Vec::new();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            let frame = line.next(PAYLOAD);
            let started = Instant::now();
            desk.offer(line.event(frame));
            while desk.stored(line.id) < line.last {
                assert!(started.elapsed() < SOON, "it is not stored");
                std::thread::yield_now();
            }
            took.push(started.elapsed());
            std::thread::sleep(Duration::from_micros(pause));
        }
        took.sort();
        let at = |part: usize| took[took.len() * part / 1_000].as_micros();
        println!(
            "appendfsync {fsync}, one each {pause} us: p50 {} us, p99 {} us, p999 {} us",
            at(500),
            at(990),
            at(999)
        );
        let classes = &desk.storage().meters().commits;
        let counts: Vec<u64> = classes.iter().map(|count| count.load(Relaxed)).collect();
        println!("rounds below {COMMIT_BOUNDS_MS:?} ms: {counts:?}");
        desk.stop();
    }
}
