//! A master dies, a sentinel puts its replica in its place, and the storage goes on there: what was
//! said meanwhile is stored in order, what replicas were waited for is there, and what the new master
//! lacks is told.

use crate::desk::{Desk, Line, News, SOON, room, settings};
use crate::ledger::sequences;
use crate::node::{Node, Order, Post};
use crate::redis::Redis;
use crate::redis::sentinel::Watched;
use arqonbus::broker::record::{Record, RoomRecord};
use arqonbus::storage::Settings;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Settings by which an event is safe when a replica has it.
fn replicated(watched: &Watched) -> Settings {
    Settings { replicas: 1, replicas_timeout_ms: 1_000, ..settings(&watched.url()) }
}

fn lines() -> Vec<Line> {
    let names = ["a", "b", "c"];
    names.iter().enumerate().map(|(n, name)| Line::new(n as u64, "r", name)).collect()
}

/// Events come all the time while something happens, and for a while before and after.
fn under_load(mut say: impl FnMut() + Send, happens: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let end = Instant::now() + 3 * SOON;
            while !is_over.load(SeqCst) && Instant::now() < end {
                say();
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        std::thread::sleep(Duration::from_millis(300));
        happens();
        std::thread::sleep(Duration::from_millis(300));
        is_over.store(true, SeqCst);
        load.join().unwrap();
    });
}

/// The stream holds each event once and in order, but for those that were told to be forgotten, which
/// are some of those that had been told as stored.
fn check_told(desk: &Desk, redis: &Redis, line: &Line) {
    let news = desk.news();
    let gone = news.forgotten.iter().filter(|gone| gone.0 == line.id);
    let gone: BTreeSet<u64> = gone.flat_map(|&(_, first, last)| first..=last).collect();
    let whole: Vec<u64> = (1..=line.last).filter(|sequence| !gone.contains(sequence)).collect();
    assert_eq!(sequences(redis, line), whole, "{}, without {gone:?}", line.address);
    assert!(news.lost.is_empty() && news.all_forgotten == 0, "{news:?}");
}

#[test]
fn what_the_new_master_lacks_is_told_and_what_came_meanwhile_is_stored_in_order() {
    let mut watched = Watched::start();
    let (desk, _) = Desk::at(&watched.url());
    let (mut lines, mut late) = (lines(), Line::new(9, "late", "c"));
    desk.offer(Record::Room(Box::new(room("r"))));
    for line in &mut lines {
        desk.create(line);
        desk.say(line, 50);
        desk.wait_stored(line);
    }
    watched.cut_off();
    // The master alone has this: events, a room, and a channel.
    desk.say(&mut lines[0], 20);
    desk.offer(Record::Room(Box::new(room("late"))));
    desk.offer(Record::Room(Box::new(room("quiet"))));
    let quiet = Line::new(8, "quiet", "c");
    desk.create(&quiet);
    desk.create(&late);
    desk.say(&mut late, 5);
    desk.wait_stored(&lines[0]);
    desk.wait_stored(&late);
    under_load(|| desk.say(&mut lines[1], 2), || watched.fail_over());
    let is_restored = |news: &News| news.restored > 0 && news.restored == news.degraded.len();
    desk.wait("restored", is_restored);
    for line in lines.iter_mut().chain([&mut late]) {
        desk.say(line, 3);
        desk.wait_stored(line);
        check_told(&desk, watched.master(), line);
    }
    let news = desk.news();
    assert!(news.forgotten.contains(&(lines[0].id, 51, 70)), "{:?}", news.forgotten);
    assert!(news.forgotten.contains(&(late.id, 1, 5)), "{:?}", news.forgotten);
    assert!(news.forgotten.iter().all(|gone| gone.0 != lines[2].id), "{:?}", news.forgotten);
    desk.stop();
    // What it lacked of rooms and channels it was told again.
    let rooms = watched.master().cli(&["HKEYS", "arqonbus:{bus}:rooms"]);
    assert_eq!(rooms.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["late", "quiet", "r"]));
    let known = watched.master().cli(&["SISMEMBER", "arqonbus:{bus}:channels", "quiet:c"]);
    assert_eq!((&*known, &*watched.master().cli(&["EXISTS", &quiet.meta()])), ("1", "1"));
}

#[test]
fn what_a_replica_was_waited_for_is_there_after_a_failover() {
    let mut watched = Watched::start();
    let desk = Desk::open(replicated(&watched));
    desk.load().unwrap();
    let mut lines = lines();
    lines.iter().for_each(|line| desk.create(line));
    let mut told = Vec::new();
    let say = || lines.iter_mut().for_each(|line| desk.say(line, 2));
    under_load(say, || {
        desk.wait("a load", |news| {
            news.stored.len() == 3 && news.stored.values().all(|last| *last > 50)
        });
        watched.fail_over();
        told = desk.news().stored.into_iter().collect();
        // Without a replica nothing is safe, whatever the new master has.
        desk.wait("no replica", |news| !news.degraded.is_empty());
        std::thread::sleep(Duration::from_millis(500));
        assert_eq!(desk.news().stored.into_iter().collect::<Vec<_>>(), told);
        watched.bring_back();
    });
    desk.wait("restored", |news| news.restored == news.degraded.len());
    lines.iter().for_each(|line| desk.wait_stored(line));
    let news = desk.news();
    assert_eq!((news.forgotten.len(), news.lost.len(), news.all_forgotten), (0, 0, 0));
    for line in &lines {
        let whole: Vec<u64> = (1..=line.last).collect();
        assert_eq!(sequences(watched.master(), line), whole, "{}", line.address);
        assert_eq!(sequences(watched.replica(), line), whole, "{}", line.address);
    }
    desk.stop();
}

#[test]
fn a_master_that_was_put_aside_and_lives_is_left() {
    let mut watched = Watched::start();
    let (desk, _) = Desk::at(&watched.url());
    let mut lines = lines();
    lines.iter().for_each(|line| desk.create(line));
    for _ in 0..2 {
        let say = || lines.iter_mut().for_each(|line| desk.say(line, 2));
        under_load(say, || watched.change());
        // Whatever of it the former master had taken, and forgotten as a replica.
        for line in &mut lines {
            desk.say(line, 1);
            desk.wait_stored(line);
            check_told(&desk, watched.master(), line);
        }
    }
    desk.wait("restored", |news| news.restored == news.degraded.len());
    desk.stop();
}

/// Two nodes that follow `r:c`.
fn two(settings: &Settings) -> [(Node, Post); 2] {
    [("a", 1), ("b", 8)].map(|(name, number)| {
        let node = Node::open(name, settings.clone());
        node.load().unwrap();
        let post = node.follow(number, "r", "c");
        (node, post)
    })
}

fn say_next((node, post): &mut (Node, Post)) {
    node.say(post, &format!("{}-{}", node.name, post.ticket + 1));
}

/// What was told to be placed is there, each ticket once, and both nodes have the same.
fn check_one_order(nodes: &[(Node, Post); 2]) -> [Order; 2] {
    let placed: [Order; 2] = [0, 1].map(|n| nodes[n].0.wait_placed(&nodes[n].1));
    // What was placed before may be gone.
    let newest = |order: &Order| order.placed.last_key_value().map(|(_, place)| place.sequence);
    let last = placed.iter().filter_map(newest).max();
    let orders = [0, 1].map(|n| nodes[n].0.wait_last(&nodes[n].1, last.unwrap()));
    assert_eq!(orders[0].messages, orders[1].messages);
    assert_eq!(orders[0].term, orders[1].term);
    orders
}

/// Whether the event of a ticket stands where it was told to be placed.
fn stands(order: &Order, node: &Node, ticket: u64, sequence: u64) -> bool {
    let id = format!(r#""id":"{}-{ticket}""#, node.name);
    let at = (sequence - order.start - 1) as usize;
    order.messages.get(at).is_some_and(|message| message.contains(&id))
}

#[test]
fn nodes_begin_another_term_where_the_new_master_lacks_what_they_had() {
    let mut watched = Watched::start();
    let mut nodes = two(&settings(&watched.url()));
    nodes[0].0.offer(Record::Room(Box::new(room("r"))));
    for _ in 0..300 {
        say_next(&mut nodes[0]);
        nodes[0].0.wait_placed(&nodes[0].1);
    }
    let before = nodes[1].0.wait_last(&nodes[1].1, 300);
    watched.cut_off();
    for _ in 0..10 {
        say_next(&mut nodes[1]);
    }
    nodes[0].0.offer(Record::Room(Box::new(RoomRecord { paused: true, ..room("r") })));
    nodes[0].0.offer(Record::Room(Box::new(room("late"))));
    nodes[1].0.wait("the room", |heard| heard.catalogue.contains(&"room late".to_owned()));
    nodes[0].0.wait_last(&nodes[0].1, 310);
    under_load(|| nodes.iter_mut().for_each(say_next), || watched.fail_over());
    nodes.iter_mut().for_each(say_next);
    let orders = check_one_order(&nodes);
    for ((node, post), order) in nodes.iter().zip(&orders) {
        assert_ne!(order.term, before.term);
        // Of the former term not much less is sure than there is, and no more.
        let sure = order.past.iter().find(|(term, _)| *term == before.term).unwrap().1;
        assert!((100..=300).contains(&sure), "{:?}", order.past);
        assert!(order.attached > 1 && order.lost.is_empty());
        assert_eq!(order.messages[..300], before.messages[..300]);
        // All that was said after the failover stands where it was told to.
        let (last, place) = order.placed.last_key_value().unwrap();
        assert!(*last == post.ticket && stands(order, node, *last, place.sequence));
        let heard = node.wait("restored", |heard| heard.restored == heard.degraded.len());
        assert!(heard.restored > 0);
    }
    let ids: BTreeSet<&str> = orders[0].messages.iter().map(|text| id_of(text)).collect();
    assert_eq!(ids.len(), orders[0].messages.len(), "nothing twice");
    let (end, kept) = (Instant::now() + SOON, "arqonbus:{bus}:rooms");
    let is_there = || watched.master().cli(&["HEXISTS", kept, "late"]) == "1";
    let is_paused = || watched.master().cli(&["HGET", kept, "r"]).contains(r#""paused":true"#);
    while !is_there() || !is_paused() {
        assert!(Instant::now() < end, "the rooms are not told again");
        std::thread::sleep(Duration::from_millis(20));
    }
    nodes.into_iter().for_each(|(node, _)| node.stop());
}

#[test]
fn nodes_leave_a_master_that_was_put_aside_and_lives() {
    let mut watched = Watched::start();
    let mut nodes = two(&settings(&watched.url()));
    for _ in 0..2 {
        under_load(|| nodes.iter_mut().for_each(say_next), || watched.change());
    }
    nodes.iter_mut().for_each(say_next);
    let orders = check_one_order(&nodes);
    for ((node, post), order) in nodes.iter().zip(&orders) {
        let gone =
            order.placed.iter().filter(|(ticket, at)| !stands(order, node, **ticket, at.sequence));
        // Whatever the former master had taken, and forgotten as a replica, was told by another term.
        assert!(gone.count() == 0 || (order.attached > 1 && !order.past.is_empty()));
        let (last, place) = order.placed.last_key_value().unwrap();
        assert!(*last == post.ticket && stands(order, node, *last, place.sequence));
        assert!(order.lost.is_empty());
        node.wait("restored", |heard| heard.restored == heard.degraded.len());
    }
    let ids: BTreeSet<&str> = orders[0].messages.iter().map(|text| id_of(text)).collect();
    assert_eq!(ids.len(), orders[0].messages.len(), "nothing twice");
    nodes.into_iter().for_each(|(node, _)| node.stop());
}

#[test]
fn what_was_placed_on_a_replica_too_stands_after_a_failover_of_nodes() {
    let mut watched = Watched::start();
    let mut nodes = two(&replicated(&watched));
    let heard = [&nodes[0].0, &nodes[1].0].map(Node::witness);
    let posts = [nodes[0].1.clone(), nodes[1].1.clone()];
    let placed = |n: usize| heard[n].lock().unwrap().of(&posts[n]).placed.len();
    let mut told = Vec::new();
    under_load(
        || nodes.iter_mut().for_each(say_next),
        || {
            let end = Instant::now() + SOON;
            while placed(0).min(placed(1)) < 20 {
                assert!(Instant::now() < end, "there is no load");
                std::thread::sleep(Duration::from_millis(5));
            }
            watched.fail_over();
            told = heard.iter().map(|heard| heard.lock().unwrap().clone()).collect();
            watched.bring_back();
        },
    );
    let orders = check_one_order(&nodes);
    for ((node, post), (order, told)) in nodes.iter().zip(orders.iter().zip(&told)) {
        let early = told.of(post).placed;
        assert!(early.len() >= 20, "{} placed before", early.len());
        assert!(early.iter().all(|(ticket, place)| order.placed[ticket] == *place));
        assert_eq!(order.placed.len() as u64, post.ticket);
        let is_there = |(&ticket, place): (&u64, &arqonbus::broker::peers::Place)| {
            stands(order, node, ticket, place.sequence)
        };
        assert!(order.placed.iter().all(is_there), "each where it was told to be");
        assert!(order.lost.is_empty());
        node.wait("restored", |heard| heard.restored == heard.degraded.len());
    }
    // None besides, so none twice.
    let said = nodes.iter().map(|(_, post)| post.ticket).sum::<u64>();
    assert_eq!(orders[0].messages.len() as u64, said);
    assert_eq!(watched.replica().cli(&["XLEN", &nodes[0].1.key("stream")]), said.to_string());
    nodes.into_iter().for_each(|(node, _)| node.stop());
}

fn id_of(message: &str) -> &str {
    let (_, rest) = message.split_once(r#""id":""#).unwrap();
    rest.split('"').next().unwrap()
}
