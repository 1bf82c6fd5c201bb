//! Redis has forgotten rooms and channels: they are told again, and what is newer stays.

use crate::desk::{Desk, Line, SOON, room};
use crate::node::Node;
use crate::redis::Redis;
use arqonbus::broker::record::{Record, RoomRecord};
use std::time::{Duration, Instant};

const ROOMS: &str = "arqonbus:{bus}:rooms";

fn until(what: &str, is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn created(created_us: u64) -> Record {
    Record::Room(Box::new(RoomRecord { created_us, ..room("r") }))
}

/// Lets a node log in that has a login of its own.
fn let_in(redis: &Redis) {
    redis.cli(&["ACL", "SETUSER", "late", "on", ">pw", "~*", "&*", "+@all"]);
}

#[test]
fn a_node_that_comes_back_late_overwrites_nothing_newer() {
    let mut redis = Redis::start();
    let_in(&redis);
    let a = Node::at("a", &redis.url());
    let b = Node::at("b", &format!("redis://late:pw@127.0.0.1:{}", redis.port()));
    a.offer(created(1));
    b.wait("the room", |heard| heard.catalogue.len() == 1);
    redis.cli(&["SAVE"]);
    for n in 2..=20 {
        a.offer(created(n));
        b.wait("the change", |heard| heard.catalogue.len() as u64 == n);
    }
    a.offer(Record::Room(Box::new(room("other"))));
    b.wait("the other room", |heard| heard.catalogue.len() == 21);
    redis.kill();
    redis.restart();
    // The login is forgotten with the rest, so only one of the nodes can come back.
    let has = |what: &str| redis.cli(&["HGET", ROOMS, "r"]).contains(what);
    until("the room is told again", || has(r#""created_us":20,"#));
    until("the other room is told again", || redis.cli(&["HEXISTS", ROOMS, "other"]) == "1");
    a.wait("restored", |heard| heard.restored > 0 && heard.restored == heard.degraded.len());
    let told = a.heard().catalogue;
    assert!(told.is_empty(), "it knows better: {told:?}");
    a.offer(Record::Room(Box::new(RoomRecord { paused: true, created_us: 20, ..room("r") })));
    until("the pause", || has(r#""paused":true"#));
    // What the late one alone knows is told again, too.
    redis.cli(&["HDEL", ROOMS, "other"]);
    assert!(b.heard().restored < b.heard().degraded.len(), "it is away");
    let_in(&redis);
    b.wait("the pause", |heard| heard.catalogue.len() == 22);
    b.wait("restored", |heard| heard.restored == heard.degraded.len());
    until("the other room is told again", || redis.cli(&["HEXISTS", ROOMS, "other"]) == "1");
    assert!(has(r#""paused":true"#));
    assert_eq!(b.heard().catalogue.last().unwrap(), "room r");
    // Nobody has to look again, and changes go on.
    b.offer(Record::Room(Box::new(room("new"))));
    a.wait("the new room", |heard| heard.catalogue.last().unwrap() == "room new");
    a.stop();
    b.stop();
}

#[test]
fn a_redis_that_has_forgotten_some_changes_is_told_all_again() {
    let redis = Redis::start();
    let (desk, _) = Desk::at(&redis.url());
    let quiet = Line::new(1, "quiet", "c");
    let forget = || {
        redis.cli(&["DEL", ROOMS, "arqonbus:{bus}:channels", &quiet.meta()]);
        redis.cli(&["HINCRBY", "arqonbus:{bus}:writer", "changes", "-2"]);
    };
    let is_told = || {
        redis.cli(&["HEXISTS", ROOMS, "quiet"]) == "1"
            && redis.cli(&["SISMEMBER", "arqonbus:{bus}:channels", "quiet:c"]) == "1"
            && redis.cli(&["EXISTS", &quiet.meta()]) == "1"
    };
    desk.offer(Record::Room(Box::new(room("quiet"))));
    desk.create(&quiet);
    until("both", is_told);
    // Nothing else happens: the lease is renewed.
    forget();
    until("both once more", is_told);
    // Something else does, before that.
    forget();
    for name in ["one", "two", "three"] {
        desk.offer(Record::Room(Box::new(room(name))));
    }
    until("both once more", is_told);
    assert_eq!(redis.cli(&["HLEN", ROOMS]), "4");
    assert!(desk.news().degraded.is_empty() && desk.news().all_forgotten == 0);
    desk.stop();
}
