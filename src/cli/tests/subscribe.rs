//! `sub`: everything is printed once and in order, whatever happens to the connection.

use crate::cli::tests::bus::Bus;
use crate::cli::tests::run::{Run, Tape, numbers, sequences};
use crate::cli::tests::world::system;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::{Duration, Instant};

const HERE: &str = "science:general";

#[test]
fn messages_are_lines_and_a_count_ends_it() {
    let bus = Bus::start();
    bus.publish(HERE, json!({"n": 0}));
    let run = Run::start(&bus, &["sub", HERE, "--count", "2", "--payload"]);
    bus.until_joined(HERE);
    for n in 1..=3 {
        bus.publish(HERE, json!({"n": n}));
    }
    let done = run.done();
    assert_eq!((done.code, numbers(&done.out), &*done.err), (0, vec![1, 2], ""));
    bus.until("it said goodbye", |world| world.goodbyes == [1000]);
}

#[test]
fn history_comes_first() {
    let bus = Bus::start();
    for n in 1..=700 {
        bus.publish(HERE, json!({"n": n}));
    }
    for (history, first) in [(3, 698), (600, 201), (5_000, 201)] {
        let count = (701 - first + 1).to_string();
        let history = history.to_string();
        let arguments = ["sub", HERE, "--history", &history, "--count", &count];
        let run = Run::start(&bus, &arguments);
        run.until_lines(700 - first as usize);
        bus.publish(HERE, json!({"n": 701}));
        let done = run.done();
        let got = sequences(&done.out);
        assert_eq!(got.len(), (701 - first + 1) as usize);
        assert!(got.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(done.err, "", "what is too long ago was not missed");
        bus.world().forget();
        for n in 1..=700 {
            bus.publish(HERE, json!({"n": n}));
        }
    }
}

/// Publishes `count` messages over the given channels, cutting the connection every now and then.
fn storm(bus: &Bus, addresses: &[&str], count: u64) {
    for n in 1..=count {
        if n % 97 == 0 {
            bus.world().moods.cut_after_deliveries = Some(n % 13 + 1);
        }
        if n % 10 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        bus.publish(addresses[n as usize % addresses.len()], json!({"n": n}));
        if n % 97 == 20 {
            bus.until("it is back", |world| world.peer_count() == 1);
        }
    }
}

#[test]
fn cut_connections_lose_and_repeat_nothing() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", HERE, "--payload"]);
    bus.until_joined(HERE);
    storm(&bus, &[HERE], 600);
    let out = run.until_lines(600);
    assert_eq!(numbers(&out), (1..=600).collect::<Vec<_>>());
    let done = run.interrupt();
    assert!(done.err.contains("connected again"), "{}", done.err);
    assert!(!done.err.contains("missed"), "{}", done.err);
    assert_eq!(done.code, 130);
}

#[test]
fn cut_connections_lose_and_repeat_nothing_in_a_whole_room() {
    let bus = Bus::start();
    let addresses = ["science:general", "science:explore", "science:share"];
    bus.publish(addresses[0], json!({"n": 0}));
    bus.publish(addresses[1], json!({"n": 0}));
    let run = Run::start(&bus, &["sub", "science:*", "--payload", "--timeout", "20"]);
    bus.until_joined("science:*");
    // The third channel appears while the client is there, a fourth while it is away.
    storm(&bus, &addresses, 600);
    bus.world().moods.http = Some((503, "{}"));
    bus.cut();
    bus.publish("science:late", json!({"n": 1_000}));
    bus.world().moods.http = None;
    let mut out = numbers(&run.until_lines(601));
    for start in 0..3 {
        let of_channel: Vec<u64> =
            out.iter().copied().filter(|n| n % 3 == start && *n < 999).collect();
        assert!(of_channel.is_sorted(), "each channel keeps its order");
    }
    out.sort_unstable();
    assert_eq!(out, (1..=600).chain([1_000]).collect::<Vec<_>>());
    let done = run.interrupt();
    assert!(!done.err.contains("missed"), "{}", done.err);
}

#[test]
fn what_the_history_has_lost_is_told_and_the_rest_is_printed() {
    let bus = Bus::start();
    bus.world().history_size = 5;
    for target in [HERE, "science:*"] {
        let run = Run::start(&bus, &["sub", target]);
        bus.until_joined(target);
        let first = bus.publish(HERE, json!({}));
        run.until_lines(1);
        bus.world().moods.http = Some((503, r#"{"message": "Not now."}"#));
        bus.cut();
        for _ in 0..20 {
            bus.publish(HERE, json!({}));
        }
        run.until_told("Not now. (HTTP 503); trying again");
        bus.world().moods.http = None;
        let expected: Vec<u64> = [first].into_iter().chain(first + 16..=first + 20).collect();
        assert_eq!(sequences(&run.until_lines(6)), expected);
        let told = format!("messages {} to {} may be missed", first + 1, first + 15);
        run.until_told(&told);
        run.interrupt();
        bus.world().commands.clear();
        bus.until("it is gone", |world| world.peer_count() == 0);
    }
}

#[test]
fn a_channel_that_began_anew_is_told_and_read_from_its_beginning() {
    let bus = Bus::start();
    for target in [HERE, "science:*"] {
        let run = Run::start(&bus, &["sub", target, "--payload"]);
        bus.until_joined(target);
        for n in 1..=3 {
            bus.publish(HERE, json!({"n": n}));
        }
        run.until_lines(3);
        bus.world().moods.http = Some((503, "{}"));
        bus.cut();
        bus.world().forget();
        bus.publish(HERE, json!({"n": 4}));
        bus.publish(HERE, json!({"n": 5}));
        bus.world().moods.http = None;
        assert_eq!(numbers(&run.until_lines(5)), [1, 2, 3, 4, 5]);
        run.until_told("began anew");
        run.until_told("after ");
        bus.publish(HERE, json!({"n": 6}));
        assert_eq!(numbers(&run.until_lines(6)), [1, 2, 3, 4, 5, 6]);
        run.interrupt();
        bus.world().commands.clear();
        bus.until("it is gone", |world| world.peer_count() == 0);
    }
}

#[test]
fn dropped_messages_are_told_and_read_from_the_history() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    for n in 1..=50 {
        if n == 20 {
            bus.world().moods.drops = 1;
        }
        bus.publish(HERE, json!({"n": n}));
    }
    assert_eq!(sequences(&run.until_lines(50)), (1..=50).collect::<Vec<_>>());
    run.until_told("the bus dropped messages 20 to 20 for this connection: slow");
    run.interrupt();
}

#[test]
fn a_closing_bus_is_left_alone_for_as_long_as_it_asks() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    let notice = json!({"event": "closing", "retry_after_ms": 700});
    bus.world().all(|| super::world::Out::Text(system("*", "closing", notice.clone())));
    let start = Instant::now();
    bus.close(1001, "going away");
    bus.until("it is gone", |world| world.peer_count() == 0);
    bus.until("it is back", |world| world.peer_count() == 1);
    assert!(start.elapsed() >= Duration::from_millis(700));
    run.until_told("going away (1001); trying again in 0.7 s");
    run.interrupt();
}

#[test]
fn some_closes_are_final() {
    for (code, arguments) in [
        (4001, &["sub", HERE][..]),
        (4013, &["sub", HERE]),
        (1008, &["sub", HERE]),
        (1001, &["sub", HERE, "--no-reconnect"]),
    ] {
        let bus = Bus::start();
        let run = Run::start(&bus, arguments);
        bus.until_joined(HERE);
        bus.close(code, "because");
        let done = run.done();
        assert_eq!(done.code, 1, "{code}");
        assert_eq!(
            done.err,
            format!("arqonbus: the bus closed the connection: because ({code})\n")
        );
    }
}

#[test]
fn a_signal_ends_it_in_good_order() {
    for (signal, code) in [(2, 130), (15, 143)] {
        let bus = Bus::start();
        let run = Run::start(&bus, &["sub", HERE]);
        bus.until_joined(HERE);
        bus.publish(HERE, json!({}));
        run.until_lines(1);
        run.stop.raise(signal);
        let done = run.done();
        assert_eq!((done.code, &*done.err), (code, ""));
        bus.until("it said goodbye", |world| world.goodbyes == [1000]);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_bus_that_is_gone() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    bus.world().moods.http = Some((503, "{}"));
    bus.cut();
    run.until_told("HTTP 503");
    assert_eq!(run.interrupt().code, 130);
}

#[test]
fn a_reader_that_left_ends_it_quietly() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let bus = Bus::start();
    let arguments = ["sub", HERE, "--url", &bus.url()];
    let run = Run::start_writing(&arguments, Tape::default(), Box::new(Closed));
    bus.until_joined(HERE);
    bus.publish(HERE, json!({}));
    let done = run.done();
    assert_eq!((done.code, &*done.err), (0, ""));
}

#[test]
fn a_join_that_is_refused_ends_it_and_one_that_comes_too_soon_does_not() {
    let bus = Bus::start();
    bus.world().moods.refuse_command = Some(("join_channel", 403, "CHANNEL_PRIVATE", 1));
    let done = Run::start(&bus, &["sub", HERE]).done();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("science:general can't be joined"), "{}", done.err);
    assert!(done.err.contains("403 CHANNEL_PRIVATE"), "{}", done.err);
    bus.world().moods.refuse_command = Some(("join_channel", 429, "RATE_LIMITED", 3));
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    bus.publish(HERE, json!({}));
    run.until_lines(1);
    assert_eq!(run.interrupt().err, "");
}

#[test]
fn telemetry_is_recovered_in_the_stream_it_came_in() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", "integriguard:telemetry-stream"]);
    bus.until_joined("integriguard:telemetry-stream");
    for n in 0..10 {
        let address = if n % 2 == 0 { "general" } else { "share" };
        bus.world().publish_telemetry("science", address, json!({"eventType": "joined"}));
        if n == 5 {
            run.until_lines(6);
            bus.cut();
        }
    }
    let out = run.until_lines(10);
    assert_eq!(sequences(&out), (1..=10).collect::<Vec<_>>());
    let first: Value = serde_json::from_str(&out[0]).unwrap();
    assert_eq!([&first["room"], &first["channel"]], ["science", "general"]);
    assert!(!run.interrupt().err.contains("missed"));
}

#[test]
fn presence_and_announcements_are_told_apart() {
    let bus = Bus::start();
    let run = Run::start(&bus, &["sub", HERE, "--presence", "--payload", "--echo"]);
    bus.until_joined(HERE);
    for payload in [
        json!({"event": "joined", "client_id": "ann"}),
        json!({"event": "announcement", "message": "tea\u{1b}[2J at four"}),
        json!({"event": "something new"}),
    ] {
        bus.world().all(|| super::world::Out::Text(system("science", "general", payload.clone())));
    }
    assert_eq!(run.until_lines(1), [r#"{"client_id":"ann","event":"joined"}"#]);
    run.until_told("announcement: tea\\u001b[2J at four");
    let join = bus.world().commands[0].1.clone();
    assert_eq!((&join["echo"], &join["presence"]), (&json!(true), &json!(true)));
    assert_eq!(run.interrupt().out.len(), 1);
}

#[test]
fn a_bus_that_thinks_long_or_says_nothing_is_waited_for_or_left() {
    let bus = Bus::start_with(|moods| moods.thinks_for = Duration::from_millis(200));
    for _ in 0..3 {
        bus.publish(HERE, json!({}));
    }
    let run = Run::start(&bus, &["sub", HERE, "--history", "3", "--count", "3"]);
    assert_eq!(sequences(&run.done().out), [1, 2, 3]);
    let bus = Bus::start_with(|moods| moods.is_silent = true);
    let arguments = ["sub", HERE, "--timeout", "0.1", "--no-reconnect"];
    let done = Run::start(&bus, &arguments).done();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("no answer to join_channel"), "{}", done.err);
}

#[test]
fn a_bus_that_stops_breathing_is_noticed() {
    let bus = Bus::start_with(|moods| moods.heartbeat = Some(Duration::from_millis(100)));
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    bus.world().moods.is_frozen = true;
    run.until_told("nothing was heard for 0.2 seconds; trying again");
    bus.world().moods.is_frozen = false;
    // The old connection may still stand as joined, and a busy machine may lose another one: so
    // there is something to hear until it is heard.
    for _ in 0..1_000 {
        bus.publish(HERE, json!({}));
        if !run.until_lines(0).is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    run.until_lines(1);
    run.interrupt();
}

#[test]
fn a_session_that_can_not_be_read_now_is_asked_for_again() {
    let bus = Bus::start();
    bus.world().moods.session = Some("t0ken");
    let run = Run::start(&bus, &["sub", HERE]);
    bus.until_joined(HERE);
    bus.world().moods.http =
        Some((503, r#"{"error": "STORAGE_UNAVAILABLE", "message": "It can't be read now."}"#));
    bus.cut();
    run.until_told("It can't be read now. (HTTP 503); trying again");
    bus.world().moods.http = None;
    run.until_told("connected again");
    let later: Vec<String> =
        bus.world().handshakes.iter().skip(1).map(|(path, _)| path.clone()).collect();
    assert!(
        later.len() >= 2 && later.iter().all(|path| path.contains("session=t0ken")),
        "{later:?}"
    );
    // One that is not known any more is not asked for again.
    bus.world().moods.http = Some((404, r#"{"error": "SESSION_UNKNOWN"}"#));
    bus.world().handshakes.clear();
    bus.cut();
    bus.until("it has come without", |world| {
        world.handshakes.iter().any(|(path, _)| !path.contains("session"))
    });
    assert_eq!(run.done().code, 1, "and what answers 404 all the same is no bus to wait for");
}
