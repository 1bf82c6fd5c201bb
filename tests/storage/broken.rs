//! What another hand has put where this bus keeps a channel costs that channel and no other: it is named,
//! and comes back without a restart when it is mended or gone.

use crate::desk::{Desk, Line, SOON, read_back};
use crate::node::{Heard, Node, Post};
use crate::redis::Redis;
use arqonbus::storage::Storage;
use std::time::{Duration, Instant};

/// Every field of the hash of a channel that scripts rely on, and what is put there.
const RELIED_ON: [(&str, &str); 10] = [
    ("writer", "x"),
    ("writer", "-1"),
    ("last", "x"),
    ("last", "1e99"),
    ("last", ""),
    ("last_us", "9999999999999999999"),
    ("top", "x-1"),
    ("top", "99999999999999999999-1"),
    ("bytes", "-5"),
    ("bytes_before", "many"),
];

/// Those that a start reads besides.
const READ: [(&str, &str); 8] = [
    ("type", "x"),
    ("term", "-1"),
    ("past", "{"),
    ("created_us", "soon"),
    ("created_by", "a b"),
    ("metadata", "{"),
    ("guests", "[1]"),
    ("epoch", "two words"),
];

fn quarantined(storage: &Storage) -> Vec<(String, String)> {
    let (_, list) = storage.meters().quarantine.list(100);
    list.iter().map(|it| (it.address.to_string(), it.reason.to_string())).collect()
}

#[track_caller]
fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Says something in a channel until it is stored.
fn say_until_stored(desk: &Desk, line: &mut Line) {
    let end = Instant::now() + SOON;
    loop {
        desk.say(line, 1);
        std::thread::sleep(Duration::from_millis(50));
        if desk.stored(line.id) == line.last {
            return;
        }
        assert!(Instant::now() < end, "{} is not tried again", line.address);
    }
}

#[test]
fn a_broken_field_costs_its_channel_and_no_other_while_the_bus_runs() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let (mut bad, mut good) = (Line::new(1, "r", "bad"), Line::new(2, "r", "good"));
    for line in [&mut bad, &mut good] {
        desk.create(line);
        desk.say(line, 10);
        desk.wait_stored(line);
    }
    for (field, junk) in RELIED_ON {
        let was = redis.cli(&["HGET", &bad.meta(), field]);
        redis.cli(&["HSET", &bad.meta(), field, junk]);
        let lost = desk.news().lost.len();
        desk.say(&mut bad, 3);
        desk.say(&mut good, 3);
        desk.wait_stored(&good);
        desk.wait("the loss", |news| news.lost.len() > lost);
        let named = quarantined(desk.storage());
        assert_eq!(named.len(), 1, "{field}");
        assert!(named[0].0 == "r:bad" && named[0].1.contains(field), "{field}: {named:?}");
        assert_eq!(redis.cli(&["HGET", &bad.meta(), field]), junk, "it is left as it is");
        redis.cli(&["HSET", &bad.meta(), field, &was]);
        // Nobody has to say anything for that.
        until("its release", || quarantined(desk.storage()).is_empty());
        say_until_stored(&desk, &mut bad);
    }
    let news = desk.news();
    assert!(news.degraded.is_empty() && news.lost_of(&good).is_empty(), "{:?}", news.degraded);
    desk.stop();
}

#[test]
fn an_entry_that_is_not_ours_costs_its_channel_and_no_other() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let (mut bad, mut good) = (Line::new(1, "r", "bad"), Line::new(2, "r", "good"));
    for line in [&mut bad, &mut good] {
        line.keep.bytes = 20_000;
        desk.create(line);
        desk.say(line, 10);
        desk.wait_stored(line);
    }
    // Whatever it holds, the order goes on behind it.
    for fields in [&["x", "y"][..], &["at_bytes", "x"], &["at_bytes", "9007199254740992"]] {
        redis.cli(&[&["XADD", &bad.stream(), "*"], fields].concat());
        bad.clock_us += 1_000_000;
        desk.say(&mut bad, 100);
        desk.wait_stored(&bad);
    }
    assert!(quarantined(desk.storage()).is_empty());
    // None can follow this one.
    let id = "18446744073709551615-18446744073709551615";
    redis.cli(&["XADD", &bad.stream(), id, "x", "y"]);
    desk.say(&mut bad, 1);
    desk.say(&mut good, 1);
    desk.wait_stored(&good);
    until("its name", || quarantined(desk.storage()).iter().any(|it| it.0 == "r:bad"));
    assert!(desk.news().degraded.is_empty());
    redis.cli(&["DEL", &bad.stream()]);
    say_until_stored(&desk, &mut bad);
    until("its release", || quarantined(desk.storage()).is_empty());
    desk.stop();
}

#[test]
fn a_channel_that_can_not_be_read_at_the_start_comes_back_when_it_is_mended() {
    for (kind, field, junk) in RELIED_ON
        .iter()
        .chain(&READ)
        .map(|&(field, junk)| ("field", field, junk))
        .chain([("missing", "guests", ""), ("meta", "", ""), ("stream", "", "")])
    {
        let redis = Redis::start();
        let (desk, _) = Desk::at(&redis.url());
        let (mut bad, mut good) = (Line::new(1, "r", "bad"), Line::new(2, "r", "good"));
        for line in [&mut bad, &mut good] {
            desk.create(line);
            desk.say(line, 10);
            desk.wait_stored(line);
        }
        desk.stop();
        let key = if kind == "stream" { bad.stream() } else { bad.meta() };
        let was = redis.cli(&["HGET", &key, field]);
        match kind {
            "field" => _ = redis.cli(&["HSET", &key, field, junk]),
            "missing" => _ = redis.cli(&["HDEL", &key, field]),
            _ => {
                redis.cli(&["RENAME", &key, "aside"]);
                redis.cli(&["SET", &key, "precious"]);
            }
        }
        let what = format!("{kind} {field} {junk}");
        let (desk, snapshot) = Desk::at(&redis.url());
        assert_eq!(read_back(&snapshot, &good).len(), 10, "{what}");
        assert_eq!(snapshot.channels.len(), 1, "{what}");
        assert_eq!(quarantined(desk.storage()).len(), 1, "{what}");
        desk.say(&mut good, 1);
        desk.wait_stored(&good);
        match kind {
            "field" | "missing" => _ = redis.cli(&["HSET", &key, field, &was]),
            _ => {
                assert_eq!(redis.cli(&["GET", &key]), "precious", "{what}");
                redis.cli(&["RENAME", "aside", &key]);
            }
        }
        // Its home is given what was kept, as if it had been read late.
        let news = desk.wait(&what, |news| news.late.len() == 1);
        let kept = &news.late[0].channels[0];
        assert_eq!((kept.last, kept.messages.len()), (10, 10), "{what}");
        assert!(news.degraded.is_empty(), "{what}: {:?}", news.degraded);
        desk.abandon();
    }
}

#[test]
fn a_channel_that_can_not_be_read_and_is_deleted_begins_anew() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let mut bad = Line::new(1, "r", "bad");
    desk.create(&bad);
    desk.say(&mut bad, 10);
    desk.wait_stored(&bad);
    desk.stop();
    redis.cli(&["HSET", &bad.meta(), "last", "x"]);
    let (desk, _) = Desk::at(&redis.url());
    let mut anew = Line { epoch: "anew".into(), last: 0, ..bad.clone() };
    desk.create(&anew);
    desk.say(&mut anew, 1);
    desk.wait("the loss", |news| !news.lost.is_empty());
    std::thread::sleep(Duration::from_millis(1_200));
    assert_eq!(redis.cli(&["HGET", &bad.meta(), "epoch"]), "epoch-1", "nothing is overwritten");
    redis.cli(&["DEL", &bad.meta()]);
    say_until_stored(&desk, &mut anew);
    assert_eq!(redis.cli(&["HGET", &bad.meta(), "epoch"]), "anew");
    assert!(quarantined(desk.storage()).is_empty() && desk.news().late.is_empty());
    desk.stop();
}

#[test]
fn a_broken_field_costs_nodes_its_channel_and_no_other() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    let (mut bad, mut good) = (a.follow(1, "r", "bad"), a.follow(2, "r", "good"));
    let of_b = b.follow(8, "r", "bad");
    for n in 0..5 {
        a.say(&mut bad, &format!("bad-{n}"));
        a.say(&mut good, &format!("good-{n}"));
    }
    a.wait_placed(&bad);
    let lost = |heard: &Heard| heard.of(&bad).lost.iter().map(|(a, b)| b - a + 1).sum::<u64>();
    let mut tickets = bad.ticket;
    for (round, (field, junk)) in RELIED_ON
        .into_iter()
        .chain([("term", "x"), ("epoch", "two words"), ("mark", "x"), ("last_time", "x")])
        .enumerate()
    {
        let was = redis.cli(&["HGET", &bad.key("meta"), field]);
        redis.cli(&["HSET", &bad.key("meta"), field, junk]);
        let before = lost(&a.heard());
        tickets += 1;
        let seen = a.order_last(&bad);
        a.submit(&bad, &format!("bad-in-{round}"), tickets, seen);
        a.say(&mut good, &format!("good-in-{round}"));
        a.wait_placed(&good);
        // These two are known to be of another entry, and count as if they were not there.
        if !["mark", "last_time"].contains(&field) {
            a.wait("the loss", |heard| lost(heard) > before);
            let named = quarantined(a.storage());
            assert!(named.len() == 1 && named[0].1.contains(field), "{field}: {named:?}");
            assert_eq!(redis.cli(&["HGET", &bad.key("meta"), field]), junk);
            redis.cli(&["HSET", &bad.key("meta"), field, &was]);
        }
        until("its release", || quarantined(a.storage()).is_empty());
        let end = Instant::now() + SOON;
        loop {
            tickets += 1;
            let seen = a.order_last(&bad);
            a.submit(&bad, &format!("bad-after-{round}-{tickets}"), tickets, seen);
            std::thread::sleep(Duration::from_millis(50));
            if a.order(&bad).placed.contains_key(&tickets) {
                break;
            }
            assert!(Instant::now() < end, "{field}: it does not come back");
        }
    }
    let last = a.order(&bad).last();
    assert_eq!(b.wait_last(&of_b, last).messages.last(), a.order(&bad).messages.last());
    assert!(a.heard().degraded.is_empty() && b.heard().degraded.is_empty());
    assert_eq!(lost(&a.heard()), a.order(&bad).lost.iter().map(|(a, b)| b - a + 1).sum::<u64>());
    a.stop();
    b.stop();
}

#[test]
fn nodes_start_beside_a_channel_that_can_not_be_read() {
    for (field, junk) in RELIED_ON.into_iter().chain(READ) {
        let redis = Redis::start();
        let a = Node::at("a", &redis.url());
        let (mut bad, mut good) = (a.follow(1, "r", "bad"), a.follow(2, "r", "good"));
        for (post, id) in [(&mut bad, "bad"), (&mut good, "good")] {
            a.say(post, id);
            a.wait_placed(post);
        }
        a.stop();
        let was = redis.cli(&["HGET", &bad.key("meta"), field]);
        redis.cli(&["HSET", &bad.key("meta"), field, junk]);
        let b = Node::at("b", &redis.url());
        let mut good = b.follow(2, "r", "good");
        // It knows nothing of the channel that it could correct.
        let bad = Post::new("b", 1, "r", "bad");
        b.attach(&bad);
        b.say(&mut good, "more");
        b.wait_placed(&good);
        until(&format!("the name of {field} {junk}"), || {
            quarantined(b.storage()).iter().any(|it| it.1.contains(field))
        });
        assert_eq!(redis.cli(&["HGET", &bad.key("meta"), field]), junk);
        redis.cli(&["HSET", &bad.key("meta"), field, &was]);
        b.wait(&format!("{field} {junk}"), |heard| heard.of(&bad).attached > 0);
        assert_eq!(b.order(&bad).last(), 1);
        until("its release", || quarantined(b.storage()).is_empty());
        assert!(b.heard().degraded.is_empty(), "{field}: {:?}", b.heard().degraded);
        b.stop();
    }
}
