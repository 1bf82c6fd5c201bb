//! Several nodes that share a Redis: one order for all, whatever happens.

use crate::desk::{Desk, SHARDS, SOON, room, settings};
use crate::node::{Node, Order, Post};
use crate::redis::Redis;
use arqonbus::base::ids::{ConnId, ConnRef, ShardId};
use arqonbus::broker::peers::{PeerRecord, Verdict};
use arqonbus::broker::record::{Record, RoomRecord, StorageNews};
use arqonbus::broker::room::RoomType;
use arqonbus::protocol::names::Name;
use arqonbus::storage::{LoadError, NewsLoad, Wrong};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Two nodes that follow `r:c`.
fn two(redis: &Redis) -> ((Node, Post), (Node, Post)) {
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    let of_a = a.follow(1, "r", "c");
    let of_b = b.follow(8, "r", "c");
    assert_eq!(of_a.life, of_b.life, "the first life wins");
    ((a, of_a), (b, of_b))
}

/// What was placed is what arrived under that sequence, and nothing twice.
fn check(order: &Order) {
    for place in order.placed.values().filter(|place| !place.is_duplicate) {
        if place.sequence > order.start && order.attached == 1 {
            assert_eq!(order.own.get(&place.sequence), Some(&place.ticket), "{place:?}");
        }
    }
    for (at, message) in order.messages.iter().enumerate() {
        let sequence = format!(r#""sequence":{}"#, order.start + at as u64 + 1);
        assert!(message.contains(&sequence), "{sequence}: {message}");
    }
}

#[test]
fn a_shard_that_stands_still_costs_bounded_memory_and_reads_again_what_it_was_not_told() {
    let redis = Redis::start();
    let load = Arc::new(NewsLoad::new(SHARDS));
    let (busy, other) = (Node::with_load("busy", &redis.url(), &load), Node::at("b", &redis.url()));
    let mut post = other.follow(2, "r", "c");
    let (still, going) = (busy.follow(2, "r", "c"), busy.follow(3, "r", "d"));
    let mut more = other.follow(3, "r", "d");
    // The shard of the one channel has not taken what waits for it, that of the other has.
    let shard = still.id.home().index();
    assert_ne!(shard, going.id.home().index());
    let large = StorageNews::Stored(vec![(still.id, 1); 3 * 1024 * 1024]);
    load.wait_for(shard, &large);
    for n in 0..300 {
        other.say(&mut post, &format!("still-{n}"));
        other.say(&mut more, &format!("going-{n}"));
    }
    other.wait_placed(&post);
    busy.wait_last(&going, 300);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(busy.order(&still).last(), 0, "it is told nothing");
    let meters = busy.storage().meters();
    assert!(meters.news_behind.load(Relaxed) > 0 && !meters.is_degraded());
    load.taken_by(shard, &large);
    assert_eq!(busy.wait_last(&still, 300).messages.len(), 300, "in order, each once");
    // Too much even without that: the node lets Redis go, and says so.
    let flood = StorageNews::Stored(vec![(still.id, 1); 6 * 1024 * 1024]);
    load.wait_for(shard, &flood);
    let heard = busy.wait("degraded", |heard| !heard.degraded.is_empty());
    let reason = format!("shard {shard} stands still");
    assert!(heard.degraded[0].contains(&reason), "{:?}", heard.degraded);
    other.say(&mut post, "meanwhile");
    other.wait_placed(&post);
    assert_eq!(busy.order(&still).last(), 300);
    load.taken_by(shard, &flood);
    busy.wait_last(&still, 301);
    busy.wait("restored", |heard| heard.restored == 1);
    busy.stop();
    other.stop();
}

#[test]
fn all_nodes_see_one_order() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    const EACH: u64 = 8_000;
    std::thread::scope(|scope| {
        for (node, post) in [(&a, &mut of_a), (&b, &mut of_b)] {
            scope.spawn(move || {
                for n in 0..EACH {
                    node.say(post, &format!("{}-{n}", node.name));
                }
            });
        }
    });
    let (a_order, b_order) = (a.wait_placed(&of_a), b.wait_placed(&of_b));
    assert!(a_order.placed.values().chain(b_order.placed.values()).all(|it| !it.is_duplicate));
    let a_order = a.wait_last(&of_a, 2 * EACH);
    let b_order = b.wait_last(&of_b, 2 * EACH);
    assert_eq!(a_order.last(), 2 * EACH);
    assert_eq!(a_order.messages, b_order.messages);
    check(&a_order);
    check(&b_order);
    assert_eq!((a_order.own.len() as u64, a_order.attached), (EACH, 1));
    assert!(a_order.was_new && !b_order.was_new);
    assert!((a_order.batches as u64) < EACH, "{} batches", a_order.batches);
    // The tickets of a node are placed in their order.
    let sequences: Vec<u64> = a_order.placed.values().map(|place| place.sequence).collect();
    assert!(sequences.is_sorted());
    // Who comes later reads it all.
    let c = Node::at("c", &redis.url());
    let of_c = c.follow(3, "r", "c");
    assert_eq!(c.order(&of_c).messages, a_order.messages);
    for node in [a, b, c] {
        assert_eq!(node.heard().degraded, [""; 0]);
        node.stop();
    }
}

#[test]
fn a_repeat_at_another_node_gets_the_place_of_the_first() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    for n in 1..=10 {
        a.say(&mut of_a, &format!("id-{n}"));
    }
    let placed = a.wait_placed(&of_a);
    a.abandon();
    b.wait_last(&of_b, 10);
    // As if its home had not seen any of them yet.
    for n in 1..=12u64 {
        of_b.ticket += 1;
        b.submit(&of_b, &format!("id-{n}"), n, 0);
    }
    let order = b.wait_placed(&of_b);
    for n in 1..=10 {
        let place = order.placed[&n];
        assert!(place.is_duplicate);
        assert_eq!(place.sequence, placed.placed[&n].sequence);
    }
    assert!(!order.placed[&11].is_duplicate && order.placed[&12].sequence == 12);
    // Within one call, too.
    for ticket in [13, 14] {
        of_b.ticket += 1;
        b.submit(&of_b, "twice", ticket, 12);
    }
    let order = b.wait_placed(&of_b);
    assert_eq!(order.placed[&13].sequence, order.placed[&14].sequence);
    assert!(!order.placed[&13].is_duplicate && order.placed[&14].is_duplicate);
    b.stop();
}

#[test]
fn who_loses_the_connection_by_which_it_hears_misses_nothing() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    const EACH: u64 = 6_000;
    std::thread::scope(|scope| {
        for (node, post) in [(&a, &mut of_a), (&b, &mut of_b)] {
            scope.spawn(move || {
                for n in 0..EACH {
                    node.say(post, &format!("{}-{n}", node.name));
                    if n % 100 == 0 {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(40));
            redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        }
    });
    a.wait_placed(&of_a);
    b.wait_placed(&of_b);
    let a_order = a.wait_last(&of_a, 2 * EACH);
    let b_order = b.wait_last(&of_b, 2 * EACH);
    assert_eq!((a_order.last(), b_order.last()), (2 * EACH, 2 * EACH));
    assert_eq!(a_order.messages, b_order.messages);
    assert_eq!((a_order.attached, b_order.attached), (1, 1), "what was missed was filled in");
    assert_eq!((a_order.terms, b_order.terms), (0, 0));
    assert_eq!(a_order.own.len() as u64, EACH);
    check(&a_order);
    a.stop();
    b.stop();
}

#[test]
fn kills_under_load_lose_nothing_that_was_placed() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    const EACH: u64 = 3_000;
    std::thread::scope(|scope| {
        for (node, post) in [(&a, &mut of_a), (&b, &mut of_b)] {
            scope.spawn(move || {
                for n in 0..EACH {
                    node.say(post, &format!("{}-{n}", node.name));
                    std::thread::sleep(Duration::from_micros(700));
                }
            });
        }
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(400));
            redis.kill();
            std::thread::sleep(Duration::from_millis(100));
            redis.restart();
        }
    });
    let (a_order, b_order) = (a.wait_placed(&of_a), b.wait_placed(&of_b));
    assert!(a_order.lost.is_empty() && b_order.lost.is_empty());
    let a_order = a.wait_last(&of_a, 2 * EACH);
    let b_order = b.wait_last(&of_b, 2 * EACH);
    assert_eq!(a_order.last(), 2 * EACH, "each once");
    assert_eq!(a_order.messages, b_order.messages);
    for order in [&a_order, &b_order] {
        assert!(order.placed.values().all(|place| !place.is_duplicate), "a call twice is one");
        assert_eq!(order.attached, 1, "it forgot nothing");
    }
    check(&a_order);
    check(&b_order);
    for node in [a, b] {
        let heard = node.wait("restored", |heard| heard.restored == heard.degraded.len());
        assert!(heard.restored > 0);
        node.stop();
    }
}

#[test]
fn a_redis_that_comes_back_empty_begins_another_term() {
    let mut redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    a.offer(Record::Room(Box::new(room("r"))));
    for n in 0..50 {
        a.say(&mut of_a, &format!("a-{n}"));
    }
    a.wait_placed(&of_a);
    let before = b.wait_last(&of_b, 50);
    redis.kill();
    redis.restart();
    for (node, post) in [(&a, &of_a), (&b, &of_b)] {
        let order = node.wait("attached again", |heard| heard.of(post).attached >= 2).of(post);
        assert_ne!(order.term, before.term);
        assert_eq!(order.past, [(before.term, 0)]);
        assert_eq!((order.last(), &*order.epoch), (0, &*before.epoch));
    }
    for n in 0..20 {
        a.say(&mut of_a, &format!("a2-{n}"));
        b.say(&mut of_b, &format!("b2-{n}"));
    }
    let order = a.wait_last(&of_a, 40);
    assert_eq!(order.messages, b.wait_last(&of_b, 40).messages);
    assert_eq!(order.term, b.order(&of_b).term, "two nodes begin one term");
    assert_eq!(redis.cli(&["SMEMBERS", "arqonbus:{bus}:channels"]), "r:c");
    let end = Instant::now() + SOON;
    while redis.cli(&["HEXISTS", "arqonbus:{bus}:rooms", "r"]) != "1" {
        assert!(Instant::now() < end, "the room is not told again");
        std::thread::sleep(Duration::from_millis(10));
    }
    a.stop();
    b.stop();
}

#[test]
fn a_redis_that_comes_back_older_ends_the_term_where_it_is_sure() {
    let mut redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    for n in 0..30 {
        a.say(&mut of_a, &format!("a-{n}"));
        a.wait_placed(&of_a);
    }
    b.wait_last(&of_b, 30);
    redis.cli(&["SAVE"]);
    for n in 0..10 {
        b.say(&mut of_b, &format!("b-{n}"));
        b.wait_placed(&of_b);
    }
    let before = a.wait_last(&of_a, 40);
    redis.kill();
    redis.restart();
    // Both submit at once, as if nothing had happened.
    for n in 0..20 {
        a.say(&mut of_a, &format!("late-a-{n}"));
        b.say(&mut of_b, &format!("late-b-{n}"));
    }
    a.wait_placed(&of_a);
    b.wait_placed(&of_b);
    let a_order = a.wait_last(&of_a, 70);
    let b_order = b.wait_last(&of_b, 70);
    assert_eq!(a_order.messages, b_order.messages);
    assert_eq!(a_order.last(), 70);
    for order in [&a_order, &b_order] {
        assert_ne!(order.term, before.term);
        assert!(order.past.contains(&(before.term, 30)), "{:?}", order.past);
        assert_eq!(order.attached, 2);
    }
    assert_eq!(a_order.messages[..30], before.messages[..30]);
    a.stop();
    b.stop();
}

#[test]
fn a_term_ends_where_a_home_went_its_own_way() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, of_b)) = two(&redis);
    for n in 0..10 {
        a.say(&mut of_a, &format!("a-{n}"));
    }
    a.wait_placed(&of_a);
    let before = b.wait_last(&of_b, 10);
    let (channel, address, life) = (of_a.id, of_a.address.clone(), of_a.life.clone());
    a.ask(PeerRecord::Fork { channel, address, life, base: 7 });
    a.say(&mut of_a, "after");
    for (node, post) in [(&a, &of_a), (&b, &of_b)] {
        let order = node.wait_last(post, 11);
        assert_ne!(order.term, before.term);
        assert_eq!(order.past, [(before.term, 7)]);
        assert_eq!((order.attached, order.terms), (1, 1));
    }
    assert_eq!(a.order(&of_a).term, b.order(&of_b).term);
    // Who comes later knows it.
    let c = Node::at("c", &redis.url());
    let of_c = c.follow(3, "r", "c");
    assert_eq!(c.order(&of_c).past, [(before.term, 7)]);
    for node in [a, b, c] {
        node.stop();
    }
}

#[test]
fn only_who_follows_a_channel_hears_of_it() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, of_b)) = two(&redis);
    let push = of_a.key("push");
    let count = |redis: &Redis| {
        let answer = redis.cli(&["PUBSUB", "NUMSUB", &push]);
        answer.lines().last().unwrap().to_owned()
    };
    assert_eq!(count(&redis), "2");
    assert_eq!(redis.cli(&["HLEN", &of_a.key("nodes")]), "2");
    b.ask(PeerRecord::Detach(of_b.id, of_b.address.clone()));
    let end = Instant::now() + SOON;
    while count(&redis) != "1" || redis.cli(&["HLEN", &of_a.key("nodes")]) != "1" {
        assert!(Instant::now() < end);
    }
    a.say(&mut of_a, "x");
    a.wait_last(&of_a, 1);
    assert_eq!(b.order(&of_b).last(), 0);
    // Tickets begin anew when it is followed again.
    let mut again = b.follow(8, "r", "c");
    assert_eq!(b.order(&again).last(), 1);
    b.say(&mut again, "y");
    b.wait_placed(&again);
    a.wait_last(&of_a, 2);
    a.stop();
    b.stop();
}

/// What is pushed while a node begins or ceases to follow is nothing that a node has said.
#[test]
fn a_push_of_a_channel_that_is_not_followed_is_passed_over() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0.. {
                if is_over.load(std::sync::atomic::Ordering::SeqCst) {
                    break;
                }
                a.say(&mut of_a, &format!("x-{n}"));
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        for _ in 0..40 {
            b.ask(PeerRecord::Detach(of_b.id, of_b.address.clone()));
            of_b = b.follow(8, "r", "c");
        }
        is_over.store(true, std::sync::atomic::Ordering::SeqCst);
    });
    let order = a.wait_placed(&of_a);
    assert_eq!(b.wait_last(&of_b, order.last()).last(), order.last());
    let garbled = || b.storage().meters().garbled.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(garbled(), 0);
    // What can't be read where nodes speak is counted.
    let census = redis.cli(&["PUBSUB", "CHANNELS", "*census*"]);
    redis.cli(&["PUBLISH", &census, "nonsense"]);
    let end = Instant::now() + SOON;
    while garbled() != 1 {
        assert!(Instant::now() < end);
    }
    a.stop();
    b.stop();
}

#[test]
fn a_channel_that_another_node_follows_is_not_deleted() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, of_b)) = two(&redis);
    a.say(&mut of_a, "x");
    a.wait_last(&of_a, 1);
    a.ask(PeerRecord::Detach(of_a.id, of_a.address.clone()));
    a.offer(Record::ChannelGone(of_a.address.clone()));
    let told = format!("channel r:c {}", of_a.life);
    let heard = a.wait("the refusal", |heard| heard.deleted.len() == 1);
    assert!(heard.catalogue.contains(&told));
    assert_eq!(heard.deleted, [("r:c".to_owned(), false)]);
    assert_eq!(redis.cli(&["XLEN", &of_a.key("stream")]), "1");
    // A node that is gone keeps nothing.
    b.ask(PeerRecord::Detach(of_b.id, of_b.address.clone()));
    b.offer(Record::ChannelGone(of_b.address.clone()));
    a.wait("the end", |heard| heard.catalogue.contains(&"no channel r:c".to_owned()));
    b.wait("the answer", |heard| heard.deleted == [("r:c".to_owned(), true)]);
    assert_eq!(redis.cli(&["KEYS", "arqonbus:{r:c}:*"]), "");
    assert_eq!(redis.cli(&["SCARD", "arqonbus:{bus}:channels"]), "0");
    a.stop();
    b.stop();
}

#[test]
fn rooms_and_channels_are_told_to_the_others() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    let post = Post::new("a", 1, "r", "c");
    a.offer(Record::Room(Box::new(room("r"))));
    a.offer(Record::Channel(Box::new(post.record())));
    let mine = format!("channel r:c {}", post.life);
    b.wait("both", |heard| heard.catalogue.contains(&mine));
    assert_eq!(b.heard().catalogue, ["room r".to_owned(), mine.clone()]);
    // The first life wins, and who comes second is told of it.
    let other = Post::new("b", 1, "r", "c");
    b.offer(Record::Channel(Box::new(other.record())));
    b.wait("the first", |heard| heard.catalogue.iter().filter(|it| **it == mine).count() == 2);
    assert!(a.heard().catalogue.is_empty(), "nobody hears what it did itself");
    a.offer(Record::ChannelGone(post.address.clone()));
    a.offer(Record::RoomGone(Name::fixed("r")));
    b.wait("the end", |heard| heard.catalogue.len() == 5);
    assert_eq!(b.heard().catalogue[3..], ["no channel r:c", "no room r"]);
    // What happens while it does not hear it is told afterwards.
    a.offer(Record::Room(Box::new(room("late"))));
    a.offer(Record::Channel(Box::new(post.record())));
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    b.wait("the late room", |heard| {
        heard.catalogue.contains(&"room late".into()) && heard.catalogue.len() == 7
    });
    let (c, conn) = (Node::open("c", settings(&redis.url())), ConnId { slot: 1, generation: 1 });
    let snapshot = c.load().unwrap();
    assert_eq!(snapshot.rooms.len(), 1);
    assert_eq!(snapshot.channels[0].record.epoch, post.life);
    c.ask(PeerRecord::Claim(Name::fixed("ann"), ConnRef { shard: ShardId(0), conn }, None));
    c.wait("the claim", |heard| heard.claims == [("ann".to_owned(), Verdict::Granted)]);
    for node in [a, b, c] {
        node.stop();
    }
}

#[test]
fn a_room_that_was_followed_and_deleted_at_once_stays_deleted() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    a.offer(Record::Room(Box::new(room("r"))));
    let post = a.follow(1, "r", "*");
    b.wait("the room", |heard| heard.catalogue.contains(&"room r".to_owned()));
    // Redis is slow for a moment, so that all of it waits together.
    redis.cli(&["CLIENT", "PAUSE", "300", "WRITE"]);
    a.offer(Record::Room(Box::new(room("other"))));
    std::thread::sleep(Duration::from_millis(100));
    a.ask(PeerRecord::Detach(post.id, post.address.clone()));
    a.offer(Record::RoomGone(Name::fixed("r")));
    b.wait("the end", |heard| heard.catalogue.contains(&"no room r".to_owned()));
    let count = redis.cli(&["PUBSUB", "NUMSUB", &post.key("push")]);
    assert_eq!(count.lines().last(), Some("0"), "nobody follows it");
    // All that is followed is looked through.
    redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    b.offer(Record::Room(Box::new(room("after"))));
    a.wait("another room", |heard| heard.catalogue.contains(&"room after".to_owned()));
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(redis.cli(&["KEYS", "arqonbus:{r:\\*}:*"]), "");
    assert_eq!(redis.cli(&["SCARD", "arqonbus:{bus}:channels"]), "0");
    let told = b.heard().catalogue;
    let gone = told.iter().position(|it| it == "no room r").unwrap();
    assert!(!told[gone..].iter().any(|it| it.starts_with("channel r:* ")), "{told:?}");
    a.stop();
    b.stop();
}

#[test]
fn a_room_that_another_node_follows_is_not_deleted() {
    let redis = Redis::start();
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    a.offer(Record::Room(Box::new(room("r"))));
    let post = b.follow(1, "r", "*");
    let order = format!("channel r:* {}", post.life);
    a.wait("the order", |heard| heard.catalogue.contains(&order));
    a.offer(Record::RoomGone(Name::fixed("r")));
    let heard = a.wait("the refusal", |heard| heard.catalogue.len() == 3);
    assert_eq!(heard.catalogue, [order.clone(), "room r".to_owned(), order]);
    a.wait("the answer", |heard| heard.deleted == [("r:*".to_owned(), false)]);
    assert_eq!(redis.cli(&["HLEN", "arqonbus:{bus}:rooms"]), "1");
    assert_eq!(b.heard().catalogue, ["room r"], "nothing has happened");
    b.ask(PeerRecord::Detach(post.id, post.address.clone()));
    b.offer(Record::RoomGone(Name::fixed("r")));
    a.wait("the end", |heard| heard.catalogue.contains(&"no room r".to_owned()));
    b.wait("the answer", |heard| heard.deleted == [("r:*".to_owned(), true)]);
    assert_eq!(redis.cli(&["KEYS", "arqonbus:{r:\\*}:*"]), "");
    assert_eq!(redis.cli(&["SCARD", "arqonbus:{bus}:channels"]), "0");
    a.stop();
    b.stop();
}

#[test]
fn a_room_is_made_once_and_a_join_does_not_change_it() {
    let redis = Redis::start();
    let kept = || redis.cli(&["HGET", "arqonbus:{bus}:rooms", "r"]);
    let (a, b) = (Node::at("a", &redis.url()), Node::at("b", &redis.url()));
    let joined = RoomRecord { room_type: RoomType::Dynamic, ..room("r") };
    // What a join makes gives way to what was made on purpose, in either order.
    b.offer(Record::Room(Box::new(joined.clone())));
    a.wait("the room", |heard| heard.catalogue == ["room r"]);
    a.offer(Record::Room(Box::new(room("r"))));
    b.wait("the other room", |heard| heard.catalogue == ["room r"]);
    let before = kept();
    b.offer(Record::Room(Box::new(joined)));
    b.wait("the refusal", |heard| heard.catalogue.len() == 2);
    assert_eq!(kept(), before);
    // Who knows it may change it.
    b.offer(Record::Room(Box::new(RoomRecord { paused: true, ..room("r") })));
    a.wait("the change", |heard| heard.catalogue.len() == 2);
    assert_ne!(kept(), before);
    a.stop();
    b.stop();
}

#[test]
fn who_starts_without_redis_deletes_and_overwrites_nothing_of_it() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let a = Node::at("a", &redis.url());
    let post = a.follow(1, "r", "c");
    for name in ["r", "q"] {
        a.offer(Record::Room(Box::new(RoomRecord { paused: true, ..room(name) })));
    }
    a.stop();
    let kept = |redis: &Redis| {
        let channels = redis.cli(&["SMEMBERS", "arqonbus:{bus}:channels"]);
        (redis.cli(&["HGETALL", "arqonbus:{bus}:rooms"]), channels)
    };
    let before = kept(&redis);
    assert_eq!(before.1, "r:c");
    redis.kill();
    let b = Node::open("b", settings(&redis.url()));
    assert!(matches!(b.load(), Err(LoadError::Unreachable(_))));
    b.offer(Record::Room(Box::new(room("r"))));
    b.offer(Record::RoomGone(Name::fixed("q")));
    b.offer(Record::ChannelGone(post.address.clone()));
    b.offer(Record::RoomGone(Name::fixed("nothing")));
    redis.restart();
    let heard = b.wait("restored", |heard| heard.restored == 1);
    let channel = format!("channel r:c {}", post.life);
    assert_eq!(heard.catalogue, ["room q".to_owned(), "room r".to_owned(), channel]);
    assert_eq!(kept(&redis), before);
    // Now it knows it.
    b.offer(Record::RoomGone(Name::fixed("q")));
    b.offer(Record::ChannelGone(post.address.clone()));
    let end = Instant::now() + SOON;
    while redis.cli(&["HKEYS", "arqonbus:{bus}:rooms"]) != "r" || !kept(&redis).1.is_empty() {
        assert!(Instant::now() < end);
    }
    b.stop();
}

#[test]
fn a_channel_that_nobody_follows_goes_on_in_another_term_when_redis_was_empty() {
    let mut redis = Redis::start();
    let ((a, mut of_a), (b, of_b)) = two(&redis);
    a.say(&mut of_a, "x");
    a.wait_placed(&of_a);
    let (channel, address, life) = (of_a.id, of_a.address.clone(), of_a.life.clone());
    let first = a.order(&of_a).term;
    a.ask(PeerRecord::Fork { channel, address, life, base: 1 });
    let second = a.wait("the term", |heard| heard.of(&of_a).terms == 1).of(&of_a).term;
    b.wait("the term", |heard| heard.of(&of_b).terms == 1);
    for (node, post) in [(&a, &of_a), (&b, &of_b)] {
        node.ask(PeerRecord::Detach(post.id, post.address.clone()));
    }
    let end = Instant::now() + SOON;
    while redis.cli(&["HLEN", &of_a.key("nodes")]) != "0" {
        assert!(Instant::now() < end);
    }
    redis.kill();
    redis.restart();
    while redis.cli(&["SMEMBERS", "arqonbus:{bus}:channels"]) != "r:c" {
        assert!(Instant::now() < end, "the channel is not told again");
    }
    let again = b.follow(8, "r", "c");
    let order = b.order(&again);
    assert_eq!((order.last(), order.past), (0, vec![(first, 0), (second, 0)]));
    assert_eq!(again.life, of_a.life);
    assert!(![first, second].contains(&order.term));
    a.stop();
    b.stop();
}

#[test]
fn the_term_of_those_who_died_ends_where_redis_is_sure() {
    let mut redis = Redis::start();
    let dies = |name, past: &[(u32, u64)], last: u64| {
        let node = Node::at(name, &redis.url());
        let mut post = node.follow(1, "r", "c");
        let order = node.order(&post);
        assert_eq!((order.last(), order.past), (last, past.to_vec()));
        for n in 0..5 {
            node.say(&mut post, &format!("{name}-{n}"));
        }
        node.wait_last(&post, last + 5);
        let term = node.order(&post).term;
        node.abandon();
        term
    };
    let first = dies("a", &[], 0);
    // If only the node died nothing is less sure, and the term goes on.
    assert_eq!(dies("b", &[], 5), first);
    redis.cli(&["SAVE"]);
    assert_eq!(dies("c", &[], 10), first);
    redis.kill();
    redis.restart();
    let d = Node::at("d", &redis.url());
    let post = d.follow(1, "r", "c");
    let order = d.order(&post);
    assert_eq!((order.last(), order.past), (10, vec![(first, 10)]));
    assert_ne!(order.term, first);
    d.stop();
}

#[test]
fn a_node_that_ends_or_dies_ends_no_term_of_those_that_stay() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let ((a, mut of_a), (b, mut of_b)) = two(&redis);
    a.say(&mut of_a, "a");
    let first = b.wait_last(&of_b, 1).term;
    a.stop();
    for (name, is_killed) in [("c", true), ("d", false), ("e", true)] {
        let node = Node::at(name, &redis.url());
        let post = node.follow(1, "r", "c");
        b.say(&mut of_b, name);
        b.wait_placed(&of_b);
        let order = node.wait_last(&post, b.order(&of_b).last());
        assert_eq!((order.term, order.past), (first, vec![]), "{name}");
        match is_killed {
            true => node.abandon(),
            false => node.stop(),
        }
    }
    // A server that was started anew may have forgotten what it told them, and nobody else may know.
    redis.kill();
    redis.restart();
    b.say(&mut of_b, "again");
    b.wait_placed(&of_b);
    let last = b.wait_last(&of_b, 5).last();
    assert_eq!(b.order(&of_b).terms, 0, "who lives sees that nothing was forgotten");
    let f = Node::at("f", &redis.url());
    let of_f = f.follow(1, "r", "c");
    assert_eq!(f.order(&of_f).past, [(first, last)]);
    let order = b.wait("the term", |heard| heard.of(&of_b).terms == 1).of(&of_b);
    assert_eq!((order.past, order.attached), (vec![(first, last)], 1));
    f.stop();
    b.stop();
}

#[test]
fn a_prefix_is_shared_or_not() {
    let redis = Redis::start();
    let (alone, _) = Desk::at(&redis.url());
    let node = Node::open("second", settings(&redis.url()));
    match node.load() {
        Err(LoadError::Wrong(wrong @ Wrong::AnotherWriter { .. })) => {
            assert!(wrong.to_string().contains("arqonbus"), "{wrong}");
        }
        other => panic!("{other:?}"),
    }
    node.abandon();
    alone.stop();
    let first = Node::at("first", &redis.url());
    let alone = Desk::open(settings(&redis.url()));
    match alone.load() {
        Err(LoadError::Wrong(wrong @ Wrong::Shared { .. })) => {
            assert!(wrong.to_string().contains("first"), "{wrong}");
        }
        other => panic!("{other:?}"),
    }
    alone.abandon();
    // One after the other is well.
    let mut post = first.follow(1, "r", "c");
    first.say(&mut post, "x");
    first.wait_last(&post, 1);
    first.stop();
    let (alone, snapshot) = Desk::at(&redis.url());
    assert_eq!((snapshot.channels[0].last, snapshot.channels[0].messages.len()), (1, 1));
    alone.stop();
}

#[test]
fn a_start_without_redis_is_made_good_when_it_is_there() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let a = Node::at("a", &redis.url());
    let mut of_a = a.follow(1, "r", "c");
    a.say(&mut of_a, "x");
    a.wait_placed(&of_a);
    a.stop();
    redis.kill();
    let b = Node::open("b", settings(&redis.url()));
    assert!(matches!(b.load(), Err(LoadError::Unreachable(_))));
    b.wait("degraded", |heard| heard.degraded.len() == 1);
    let mut of_b = Post::new("b", 2, "r", "c");
    b.attach(&of_b);
    redis.restart();
    let heard = b.wait("restored", |heard| heard.restored == 1 && heard.of(&of_b).attached == 1);
    assert_eq!(heard.catalogue, [format!("channel r:c {}", of_a.life)]);
    assert_eq!(heard.of(&of_b).last(), 1);
    of_b.life = of_a.life;
    b.say(&mut of_b, "y");
    b.wait_placed(&of_b);
    b.stop();
}

#[test]
fn what_finds_no_room_is_lost_by_its_tickets() {
    let mut redis = Redis::with(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
    let small = arqonbus::storage::Settings { backlog_bytes: 50_000, ..settings(&redis.url()) };
    let a = Node::open("a", small);
    a.load().unwrap();
    let mut post = a.follow(1, "r", "c");
    a.say(&mut post, "x");
    a.wait_placed(&post);
    redis.kill();
    for n in 0..1_000 {
        a.say(&mut post, &format!("n-{n}"));
    }
    a.wait("the loss", |heard| !heard.of(&post).lost.is_empty());
    redis.restart();
    a.wait("restored", |heard| heard.restored == 1);
    a.say(&mut post, "after");
    let order = a.wait("the last", |heard| heard.of(&post).placed.contains_key(&1_002)).of(&post);
    let lost: u64 = order.lost.iter().map(|(first, last)| last - first + 1).sum();
    assert_eq!(order.placed.len() as u64 + lost, 1_002, "placed or lost");
    // However many times it was told: nothing was placed within what is lost.
    assert!(order.lost.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{:?}", order.lost);
    assert_eq!(a.wait_last(&post, order.placed.len() as u64).last(), 1_002 - lost);
    assert_eq!(a.storage().meters().lost.load(std::sync::atomic::Ordering::Relaxed), lost);
    a.stop();
}

#[test]
fn a_redis_that_is_slow_or_takes_nothing_is_waited_for() {
    let redis = Redis::start();
    let ((a, mut of_a), (b, of_b)) = two(&redis);
    // Longer than it may be silent.
    redis.cli(&["CLIENT", "PAUSE", "2500", "ALL"]);
    for n in 0..100 {
        a.say(&mut of_a, &format!("a-{n}"));
    }
    a.wait("degraded", |heard| heard.degraded.len() == 1);
    a.wait_placed(&of_a);
    a.wait("restored", |heard| heard.restored == 1);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    a.say(&mut of_a, "full");
    a.wait("degraded", |heard| heard.degraded.len() == 2);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let order = a.wait_placed(&of_a);
    assert!(order.placed.values().all(|place| !place.is_duplicate));
    let order = b.wait_last(&of_b, 101);
    assert_eq!(order.last(), 101);
    a.wait("restored", |heard| heard.restored == 2);
    a.stop();
    b.stop();
}
