//! What is written when all goes well, and how.

use crate::desk::{Desk, Line, SOON, now, read_back, room, settings};
use crate::redis::Redis;
use arqonbus::broker::record::{Keep, Record};
use arqonbus::protocol::names::Name;
use std::time::{Duration, Instant};

#[test]
fn what_was_stored_is_read_back_to_the_byte() {
    let redis = Redis::start();
    let (desk, empty) = Desk::at(&redis.url());
    assert!(empty.rooms.is_empty() && empty.channels.is_empty());
    let mut room = room("science");
    desk.offer(Record::Room(Box::new(room.clone())));
    room.paused = true;
    room.config.history_size = Some(1_000);
    desk.offer(Record::Room(Box::new(room.clone())));
    let mut lines = [Line::new(1, "science", "general"), Line::new(2, "science", "*")];
    let mut sent = Vec::new();
    for line in &mut lines {
        desk.create(line);
        for payload in [
            "{}".into(),
            r#"{"ü":"\"\u0001 😀"}"#.into(),
            format!(r#"{{"x":"{}"}}"#, "y".repeat(90_000)),
        ] {
            let frame = line.next(&payload);
            sent.push(frame.wire().to_vec());
            desk.offer(line.event(frame));
        }
        // More than the first answer holds when reading.
        desk.say(line, 300);
        desk.wait_stored(line);
    }
    desk.stop();

    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(format!("{:?}", snapshot.rooms), format!("{:?}", [room]));
    assert_eq!(snapshot.channels.len(), 2);
    let mut read = Vec::new();
    for line in &lines {
        assert_eq!(read_back(&snapshot, line), (1..=303).collect::<Vec<_>>());
        let channel = snapshot.channels.iter().find(|c| c.record.address == line.address).unwrap();
        assert_eq!(format!("{:?}", channel.record), format!("{:?}", line.record()));
        assert_eq!((channel.last, channel.last_us), (line.last, line.clock_us));
        read.extend(channel.messages[..3].iter().map(|frame| frame.wire().to_vec()));
    }
    assert_eq!(read, sent);
    // The order goes on where it ended.
    desk.say(&mut lines[0], 5);
    desk.wait_stored(&lines[0]);
    assert_eq!(redis.cli(&["XLEN", &lines[0].stream()]), "308");
    desk.abandon();
}

#[test]
fn a_person_with_redis_cli_finds_what_is_documented() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "science", "general");
    desk.create(&line);
    desk.say(&mut line, 1);
    desk.wait_stored(&line);
    let entry =
        redis.cli(&["XREVRANGE", "arqonbus:{science:general}:stream", "+", "-", "COUNT", "1"]);
    let words: Vec<&str> = entry.lines().collect();
    assert_eq!(words[0], format!("{}-1", line.clock_us / 1_000));
    assert_eq!(
        &words[1..9],
        ["epoch", "epoch-1", "sequence", "1", "id", "arq_epoch-1_1", "from", "arqonbus_server"]
    );
    assert_eq!(words[9], "message");
    assert!(words[10].starts_with(r#"{"version":"1.0","timestamp":""#), "{entry}");
    assert_eq!(redis.cli(&["SMEMBERS", "arqonbus:{bus}:channels"]), "science:general");
    assert_eq!(redis.cli(&["HGET", &line.meta(), "created_by"]), "ann");
    assert_eq!(redis.cli(&["HGET", "arqonbus:{bus}:writer", "node"]), "arqonbus");
    desk.abandon();
}

#[test]
fn events_that_come_together_are_written_together_and_in_order() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut lines: Vec<Line> = ["a", "b", "c", "d"]
        .iter()
        .enumerate()
        .map(|(n, name)| Line::new(n as u64, "r", name))
        .collect();
    for line in &lines {
        desk.create(line);
    }
    for _ in 0..2_000 {
        for line in &mut lines {
            desk.say(line, 1);
        }
    }
    for line in &lines {
        desk.wait_stored(line);
    }
    let steps = desk.storage().meters().steps.load(std::sync::atomic::Ordering::Relaxed);
    assert!(steps < 4_000, "{steps} calls for 8,000 events");
    desk.stop();
    let mut settings = settings(&redis.url());
    settings.load_messages = 5_000;
    let desk = Desk::open(settings);
    let snapshot = desk.load().unwrap();
    for line in &lines {
        assert_eq!(read_back(&snapshot, line), (1..=2_000).collect::<Vec<_>>());
    }
    desk.abandon();
}

#[test]
fn streams_are_trimmed_by_count_and_by_age() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut few = Line::new(1, "r", "few");
    few.keep = Keep { messages: 150, age_ms: 0, bytes: 0 };
    let mut young = Line::new(2, "r", "young");
    young.keep = Keep { messages: 100_000, age_ms: 60_000, bytes: 0 };
    for line in [&mut few, &mut young] {
        desk.create(line);
        desk.say(line, 1_000);
        line.clock_us += 3_600_000_000;
        desk.say(line, 100);
        desk.wait_stored(line);
        let length: u64 = redis.cli(&["XLEN", &line.stream()]).parse().unwrap();
        let exactly = if line.keep.age_ms == 0 { 150 } else { 100 };
        assert_eq!(length, exactly, "{}", line.address);
    }
    desk.abandon();
}

#[test]
fn what_is_gone_is_gone_and_may_come_again() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut line = Line::new(1, "r", "c");
    let mut every = Line::new(2, "r", "*");
    desk.offer(Record::Room(Box::new(room("r"))));
    for line in [&mut line, &mut every] {
        desk.create(line);
        desk.say(line, 10);
        desk.wait_stored(line);
    }
    desk.offer(Record::ChannelGone(line.address.clone()));
    desk.offer(Record::RoomGone(Name::fixed("r")));
    let mut again =
        Line { id: Line::new(3, "r", "c").id, epoch: "second".into(), last: 0, ..line.clone() };
    desk.create(&again);
    desk.say(&mut again, 3);
    desk.wait_stored(&again);
    desk.stop();
    assert_eq!(redis.cli(&["EXISTS", &every.stream(), &every.meta()]), "0");
    let (desk, snapshot) = Desk::at(&redis.url());
    assert!(snapshot.rooms.is_empty());
    assert_eq!(snapshot.channels.len(), 1);
    assert_eq!(read_back(&snapshot, &again), [1, 2, 3]);
    desk.abandon();
}

#[test]
fn a_new_life_follows_the_old_one_in_the_same_stream() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut old = Line::new(1, "r", "c");
    desk.create(&old);
    desk.say(&mut old, 50);
    desk.wait_stored(&old);
    // The clock has gone back, and the sequence begins anew.
    let mut new =
        Line { id: Line::new(3, "r", "c").id, epoch: "new".into(), last: 0, ..old.clone() };
    new.clock_us -= 10_000_000;
    desk.create(&new);
    desk.say(&mut new, 20);
    desk.wait_stored(&new);
    // Somebody else's entry pushes the ids on.
    redis.cli(&["XADD", &new.stream(), "99999999999999-5", "x", "y"]);
    desk.say(&mut new, 3);
    desk.wait_stored(&new);
    assert_eq!(redis.cli(&["XLEN", &new.stream()]), "74");
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    // What is not ours ends the run.
    assert_eq!(read_back(&snapshot, &new), [21, 22, 23]);
    assert_eq!(snapshot.channels[0].last, 23);
    desk.abandon();
}

#[test]
fn expired_messages_are_read_back_as_expired() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let line = Line::new(1, "r", "c");
    desk.create(&line);
    let text = r#"{"version":"1.0","id":"arq_1","type":"event","room":"r","channel":"c","from":"ann","timestamp":"2025-01-01T00:00:00Z","payload":{},"metadata":{"ttl_ms":1}}"#;
    let envelope = arqonbus::protocol::decode::decode(text).unwrap();
    let origin = arqonbus::protocol::frame::Origin { received_ns: 0, ttl_ms: Some(1) };
    let frame =
        arqonbus::protocol::frame::Draft::new(&envelope, "ann", origin).stamp(1, line.clock_us);
    desk.offer(line.event(frame));
    let mut line = Line { last: 1, ..line };
    desk.say(&mut line, 1);
    desk.wait_stored(&line);
    desk.stop();
    std::thread::sleep(Duration::from_millis(2));
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &line), [1, 2]);
    let expired: Vec<bool> = snapshot.channels[0]
        .messages
        .iter()
        .map(|frame| frame.is_expired(now().mono_ms()))
        .collect();
    assert_eq!(expired, [true, false]);
    desk.abandon();
}

#[test]
fn a_storage_at_rest_leaves_the_processor_alone_and_keeps_its_right_to_write() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let until = |redis: &Redis| -> u64 {
        redis.cli(&["HGET", "arqonbus:{bus}:writer", "until_ms"]).parse().unwrap()
    };
    let first = until(&redis);
    let commands = |redis: &Redis| -> u64 {
        let stats = redis.cli(&["INFO", "stats"]);
        let line = stats.lines().find_map(|l| l.strip_prefix("total_commands_processed:")).unwrap();
        line.trim().parse().unwrap()
    };
    let (before, started) = (commands(&redis), Instant::now());
    while until(&redis) == first {
        assert!(started.elapsed() < SOON, "the lease is not renewed");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(commands(&redis) - before < 200, "a storage at rest asks Redis for little");
    desk.abandon();
}
