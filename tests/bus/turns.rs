//! What an operator may change about a shard's turn changes when things happen, never what.

use crate::common::{Client, Daemon, eventually};
use rustix::process::Signal;
use serde_json::json;
use std::net::Shutdown;
use std::thread;
use std::time::Duration;

/// Clients on both shards talk in rooms of both, with pauses shorter and longer than the spin, so
/// that messages find their shards working, spinning and asleep.
fn nothing_is_missed(daemon: &Daemon) {
    const MESSAGES: u64 = 60;
    let address = |n: u64| format!("room{}:talk", n % 5);
    let mut members: Vec<Client> = (0..8)
        .map(|n| {
            let mut member = daemon.client(&format!("m{n}"));
            (0..5).for_each(|room| _ = member.join(&address(room)));
            member
        })
        .collect();
    let mut publisher = daemon.client("publisher");
    (0..5).for_each(|room| _ = publisher.join(&address(room)));
    for n in 0..MESSAGES {
        publisher.publish(&address(n), json!({"n": n, "text": "x".repeat(9_000)}));
        thread::sleep(Duration::from_micros([0, 300, 1_500, 4_000][n as usize % 4]));
    }
    for member in &mut members {
        let events = member.events(MESSAGES as usize);
        for room in 0..5 {
            let of_room = events.iter().filter(|event| event["room"] == format!("room{room}"));
            let numbers: Vec<u64> = of_room.filter_map(|it| it["payload"]["n"].as_u64()).collect();
            let expected: Vec<u64> = (0..MESSAGES).filter(|n| n % 5 == room).collect();
            assert_eq!(numbers, expected, "{} in room {room}", member.id);
        }
    }
}

#[test]
fn a_shard_that_spins_before_it_sleeps_misses_nothing() {
    let daemon = Daemon::start(&["--shards", "2", "--busy-poll-us", "1000"]);
    nothing_is_missed(&daemon);
    eventually("the spins are counted", || {
        (daemon.metric("arqonbus_shard_spins_total", "") > 0.0).then_some(())
    });
}

#[test]
fn the_smallest_budgets_of_a_turn_lose_nothing() {
    let daemon =
        Daemon::start(&["--shards", "2", "--lane-budget", "1", "--read-budget-bytes", "4096"]);
    nothing_is_missed(&daemon);
    assert_eq!(daemon.metric("arqonbus_shard_spins_total", ""), 0.0, "it sleeps at once");
}

/// What the sockets hold when the shard comes to look is more than it reads before it handles any of
/// it, and one of them alone holds more than a share; some have said their last word.
#[test]
fn what_many_sockets_hold_at_once_is_all_handled_in_order() {
    const MESSAGES: u64 = 4;
    let daemon = Daemon::start(&["--shards", "1", "--read-budget-bytes", "65536"]);
    let mut member = daemon.client("member");
    member.join("hall:talk");
    let mut publishers: Vec<Client> = (0..40)
        .map(|number| {
            let mut publisher = daemon.client(&format!("p{number:02}"));
            publisher.join("hall:talk");
            publisher
        })
        .collect();
    daemon.signal(Signal::STOP);
    for (number, publisher) in publishers.iter_mut().enumerate() {
        let length = if number == 20 { 50_000 } else { 1_000 };
        for n in 0..MESSAGES {
            publisher.publish("hall:talk", json!({"n": n, "text": "x".repeat(length)}));
        }
        if number % 3 == 0 {
            publisher.stream().shutdown(Shutdown::Write).unwrap();
        }
    }
    daemon.signal(Signal::CONT);
    let events = member.events(40 * MESSAGES as usize);
    for number in 0..40 {
        let from = format!("p{number:02}");
        let of_one = events.iter().filter(|event| event["from"] == *from);
        let numbers: Vec<u64> = of_one.filter_map(|it| it["payload"]["n"].as_u64()).collect();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<u64>>(), "{from}");
    }
}
