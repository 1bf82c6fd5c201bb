//! A node starts while Redis is away: what was kept is read when it is there, before anything is
//! written, and what waits is written in the places that the homes say.

use crate::desk::{Desk, Line, SOON, read_back, room, settings};
use crate::redis::Redis;
use arqonbus::broker::late::{KeptRoom, Merged, MergedChannel, Renumbering};
use arqonbus::broker::record::{ChannelRecord, Record};
use arqonbus::protocol::names::Name;
use arqonbus::storage::{LoadError, Settings};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A Redis that has on its disk what it has answered.
fn durable() -> Redis {
    Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"])
}

/// A desk that starts while its Redis is away.
fn open_away(settings: Settings) -> Desk {
    let desk = Desk::open(settings);
    assert!(matches!(desk.load(), Err(LoadError::Unreachable(_))));
    desk.wait("degraded", |news| news.degraded.len() == 1);
    desk
}

/// Keeps a room `r` with ten events in each of the channels, and stops.
fn fill(redis: &Redis, lines: &mut [&mut Line]) {
    let (desk, _) = Desk::at(&redis.url());
    let mut kept = room("r");
    kept.config.member_limit = Some(7);
    desk.offer(Record::Room(Box::new(kept)));
    for line in lines {
        desk.create(line);
        desk.say(line, 10);
        desk.wait_stored(line);
    }
    desk.stop();
}

/// Another life of a channel, as a home makes it that knows nothing of the first.
fn anew(line: &Line, number: u64) -> Line {
    let Line { id, epoch, .. } = Line::new(number, "r", "c");
    Line { id, epoch, last: 0, ..line.clone() }
}

fn late(desk: &Desk, rooms: usize) -> Vec<KeptRoom> {
    desk.wait("what was kept", |news| news.late.len() == rooms).late
}

/// What a home answers of a channel in which something was said meanwhile; the line goes on in its kept
/// life.
fn went_on(kept: &Line, said: &mut Line, dropped: &[u64]) -> MergedChannel {
    let said_before = Renumbering {
        channel: said.id,
        from: Arc::clone(&said.epoch),
        to: Arc::clone(&kept.epoch),
        base: kept.last,
        not_before_us: kept.clock_us,
        dropped: dropped.to_vec(),
        keep: kept.keep,
    };
    said.epoch = Arc::clone(&kept.epoch);
    said.last += kept.last - dropped.len() as u64;
    let record = ChannelRecord { term: 9, past: vec![(3, kept.last)], ..said.record() };
    MergedChannel {
        address: Arc::clone(&said.address),
        record: Some(record),
        said: Some(said_before),
    }
}

fn untouched(line: &Line) -> MergedChannel {
    MergedChannel { address: Arc::clone(&line.address), record: None, said: None }
}

fn answer(desk: &Desk, channels: Vec<MergedChannel>) {
    let room = Name::fixed("r");
    desk.offer(Record::Merged(Box::new(Merged { room, channels })));
}

#[test]
fn everything_is_read_before_anything_is_written_and_nothing_is_deleted() {
    let mut redis = durable();
    let mut quiet = Line::new(2, "r", "quiet");
    let mut old = Line::new(1, "r", "c");
    fill(&redis, &mut [&mut old, &mut quiet]);
    redis.kill();

    let desk = open_away(settings(&redis.url()));
    let (mut new, mut own) = (anew(&old, 3), Line::new(4, "own", "c"));
    desk.offer(Record::Room(Box::new(room("r"))));
    // One life that ended, and one that goes on.
    let mut ended = anew(&old, 5);
    desk.create(&ended);
    desk.say(&mut ended, 5);
    desk.offer(Record::ChannelGone(old.address.clone()));
    desk.create(&Line::new(6, "r", "quiet"));
    desk.offer(Record::ChannelGone(quiet.address.clone()));
    desk.offer(Record::RoomGone(Name::fixed("r")));
    for line in [&mut new, &mut own] {
        desk.create(line);
        desk.say(line, 20);
    }
    redis.restart();
    let rooms = late(&desk, 1);
    assert_eq!(rooms[0].room.as_ref().unwrap().config.member_limit, Some(7));
    let ends: Vec<_> =
        rooms[0].channels.iter().map(|kept| (kept.last, kept.messages.len())).collect();
    assert_eq!(ends, [(10, 10), (10, 10)]);
    desk.say(&mut new, 5);
    std::thread::sleep(Duration::from_millis(300));
    // The home has not answered.
    assert_eq!(redis.cli(&["XLEN", &new.stream()]), "10");
    assert_eq!(redis.cli(&["HGET", &new.meta(), "epoch"]), &*old.epoch);
    assert_eq!(redis.cli(&["EXISTS", &own.stream()]), "0");
    assert_eq!((desk.news().stored.len(), desk.news().restored), (0, 0));

    let answers = vec![went_on(&old, &mut new, &[2, 7]), untouched(&quiet)];
    answer(&desk, answers);
    desk.say(&mut new, 2);
    desk.wait("restored", |news| news.restored == 1);
    for line in [&new, &own] {
        desk.wait_stored(line);
    }
    assert_eq!((new.last, desk.news().degraded.len(), desk.news().lost.len()), (35, 1, 0));
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    let limits: Vec<_> = snapshot.rooms.iter().map(|room| room.config.member_limit).collect();
    assert_eq!(limits, [Some(7)]);
    assert_eq!(read_back(&snapshot, &new), (1..=35).collect::<Vec<_>>());
    assert_eq!(read_back(&snapshot, &quiet), (1..=10).collect::<Vec<_>>());
    assert_eq!(read_back(&snapshot, &own), (1..=20).collect::<Vec<_>>());
    let kept = snapshot.channels.iter().find(|kept| kept.record.address == new.address).unwrap();
    assert_eq!((&kept.record.epoch, kept.record.term), (&old.epoch, 9));
    // What was said in the life that ended is not there, nor what was a repeat.
    let ids: Vec<&str> = kept.messages.iter().map(|frame| frame.id()).collect();
    assert!(ids.iter().all(|id| !id.contains(&*ended.epoch)), "{ids:?}");
    assert_eq!(ids[10..13], ["arq_epoch-3_1", "arq_epoch-3_3", "arq_epoch-3_4"]);
    assert!(!ids.contains(&"arq_epoch-3_7"));
    desk.abandon();
}

#[test]
fn what_finds_no_room_while_the_homes_are_awaited_is_told_by_its_new_sequence() {
    let mut redis = durable();
    let mut old = Line::new(1, "r", "c");
    fill(&redis, &mut [&mut old]);
    redis.kill();
    let mut settings = settings(&redis.url());
    settings.backlog_bytes = 20_000;
    let desk = open_away(settings);
    let mut new = anew(&old, 3);
    desk.create(&new);
    desk.say(&mut new, 3);
    redis.restart();
    late(&desk, 1);
    desk.say(&mut new, 1_000);
    std::thread::sleep(Duration::from_millis(300));
    assert!(desk.news().lost.is_empty(), "its home may count by other sequences already");
    let answers = vec![went_on(&old, &mut new, &[1])];
    answer(&desk, answers);
    desk.wait("restored", |news| news.restored == 1);
    desk.say(&mut new, 1);
    desk.wait_stored(&new);
    let lost = desk.news().lost_of(&new);
    let written = redis.cli(&["XLEN", &new.stream()]).parse::<u64>().unwrap();
    assert_eq!(lost.len() as u64 + written, new.last);
    assert_eq!(lost.last(), Some(&(new.last - 1)));
    assert_eq!(desk.storage().meters().lost.load(Relaxed), lost.len() as u64);
    desk.stop();
}

#[test]
fn a_redis_that_goes_again_before_the_homes_have_answered_is_not_read_twice() {
    let mut redis = durable();
    let mut old = Line::new(1, "r", "c");
    fill(&redis, &mut [&mut old]);
    redis.kill();
    let desk = open_away(settings(&redis.url()));
    let mut new = anew(&old, 3);
    desk.create(&new);
    desk.say(&mut new, 5);
    redis.restart();
    late(&desk, 1);
    redis.kill();
    let answers = vec![went_on(&old, &mut new, &[])];
    answer(&desk, answers);
    desk.say(&mut new, 5);
    std::thread::sleep(Duration::from_millis(100));
    redis.restart();
    desk.wait("restored", |news| news.restored == 1);
    desk.wait_stored(&new);
    assert_eq!(desk.news().late.len(), 1);
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &new), (1..=20).collect::<Vec<_>>());
    desk.abandon();
}

#[test]
fn what_can_not_be_read_late_is_said_and_left_as_it_is() {
    let mut redis = durable();
    let (mut old, mut garbled) = (Line::new(1, "r", "c"), Line::new(2, "r", "garbled"));
    fill(&redis, &mut [&mut old, &mut garbled]);
    redis.cli(&["HSET", &garbled.meta(), "past", "nonsense"]);
    redis.cli(&["RENAME", "arqonbus:{bus}:rooms", "elsewhere"]);
    redis.cli(&["SET", "arqonbus:{bus}:rooms", "precious"]);
    redis.kill();
    let desk = open_away(settings(&redis.url()));
    let mut new = anew(&old, 3);
    desk.create(&new);
    desk.say(&mut new, 5);
    redis.restart();
    // A start would have ended here; what runs goes on, and says why nothing is stored.
    let end = Instant::now() + SOON;
    let reason = || desk.storage().meters().degraded().unwrap().reason;
    while !reason().contains("the key arqonbus:{bus}:rooms holds a string") {
        assert!(Instant::now() < end, "{}", reason());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(desk.news().late.is_empty() && desk.news().stored.is_empty());
    assert_eq!(redis.cli(&["GET", "arqonbus:{bus}:rooms"]), "precious");
    assert_eq!(redis.cli(&["XLEN", &new.stream()]), "10");
    // Once it is out of the way the rest is read; what is garbled is passed over, as with a start.
    redis.cli(&["RENAME", "elsewhere", "arqonbus:{bus}:rooms"]);
    let rooms = late(&desk, 1);
    assert_eq!(rooms[0].channels.len(), 1);
    let answers = vec![went_on(&old, &mut new, &[])];
    answer(&desk, answers);
    desk.wait("restored", |news| news.restored == 1);
    desk.wait_stored(&new);
    assert_eq!(redis.cli(&["XLEN", &garbled.stream()]), "10");
    desk.stop();
}

#[test]
fn a_redis_that_holds_nothing_is_written_at_once() {
    let mut redis = Redis::start();
    redis.kill();
    let desk = open_away(settings(&redis.url()));
    let mut line = Line::new(1, "r", "c");
    desk.create(&line);
    desk.say(&mut line, 20);
    redis.restart();
    desk.wait("restored", |news| news.restored == 1);
    desk.wait_stored(&line);
    assert!(desk.news().late.is_empty());
    desk.stop();
    let (desk, snapshot) = Desk::at(&redis.url());
    assert_eq!(read_back(&snapshot, &line), (1..=20).collect::<Vec<_>>());
    desk.abandon();
}

#[test]
fn a_node_that_ends_before_it_has_read_writes_nothing() {
    let mut redis = durable();
    let mut old = Line::new(1, "r", "c");
    fill(&redis, &mut [&mut old]);
    redis.kill();
    let desk = open_away(settings(&redis.url()));
    let mut new = anew(&old, 3);
    desk.create(&new);
    desk.say(&mut new, 5);
    redis.restart();
    late(&desk, 1);
    assert_eq!(desk.abandon(), 5);
    assert_eq!(redis.cli(&["XLEN", &new.stream()]), "10");
    assert_eq!(redis.cli(&["HGET", &new.meta(), "epoch"]), &*old.epoch);
}
