//! `pub --lines` into `sub`: thousands of lines, byte for byte and in order, over connections that
//! are cut in the middle of a frame and to buses that begin anew.

use super::{as_payloads, assert_code, await_client, member};
use crate::common::program::{Process, run, to_bus};
use crate::common::proxy::Proxy;
use crate::common::{Client, Daemon, eventually, on_shards};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;

on_shards! { lines_come_out_as_they_went_in a_whole_room_is_followed }

/// A `sub` that has joined already.
#[track_caller]
fn subscriber(daemon: &Daemon, bus: SocketAddr, id: &str, words: &[&str]) -> Process {
    let process = Process::spawn(to_bus(bus, &[&["sub", "--client-id", id], words].concat()));
    await_client(daemon, id, words.last().copied());
    process
}

/// Lines that a careless program would break.
fn odd_lines(count: usize) -> Vec<String> {
    let of = |n: usize| match n % 11 {
        _ if n % 600 == 599 => format!("{n} ") + &"long \u{1f980}\"\\ ".repeat(12_000),
        0 => String::new(),
        1 => format!("{n} \"quoted\" \\ \\\\ \\n \\u0041 \\"),
        2 => format!("{n} äöüß 日本語 עברית \u{202e}e\u{301} 🦀"),
        3 => format!("\t  {n} blanks around \t "),
        4 => format!("{n} \u{0}\u{1}\u{8}\u{c}\u{1b}[31m\u{7f}\u{85}\u{2028}\u{2029}\u{feff}"),
        5 => format!("{{\"line\":\"{n}\",\"metadata\":{{\"sequence\":1}}}}, null"),
        6 => format!("{n} a carriage\rreturn within"),
        7 => "x".repeat(n % 900),
        8 => format!("{n} \u{10ffff}\u{e000}\u{d7ff}\u{fffd}"),
        9 => " ".into(),
        _ => n.to_string(),
    };
    (0..count).map(of).collect()
}

fn lines_come_out_as_they_went_in(daemon: Daemon) {
    let lines = odd_lines(3_000);
    let count = lines.len().to_string();
    let start = |id: &str, words: &[&str]| {
        subscriber(&daemon, daemon.bus, id, &[&["--count", &count], words].concat())
    };
    let whole = start("whole", &["lab:log"]);
    let payloads = start("payloads", &["--payload", "lab:log"]);
    let room = start("room", &["--payload", "lab:*"]);

    // The last line has no end.
    let ended =
        run(&daemon, &["pub", "--lines", "--client-id", "ann", "lab:log"], &lines.join("\n"));
    assert_eq!((&*ended.stdout, ended.status.code()), ("", Some(0)), "{ended:?}");
    let tally = format!("sent {count}, accepted {count}, duplicate 0, refused 0");
    assert!(ended.stderr.contains(&tally), "{}", ended.stderr);

    let expected = as_payloads(lines.iter().map(String::as_str));
    for process in [payloads, room] {
        assert_same_lines(&process.wait().ok(), &expected);
    }
    let mut time = String::new();
    let printed = whole.wait().ok();
    assert_eq!(printed.lines().count(), lines.len());
    for (number, (envelope, line)) in printed.lines().zip(&lines).enumerate() {
        let envelope: Value = serde_json::from_str(envelope).unwrap();
        assert_eq!(envelope["payload"], json!({"line": line}), "line {number}");
        assert_eq!(envelope["metadata"]["sequence"], number + 1);
        assert_eq!((&envelope["from"], &envelope["type"]), (&json!("ann"), &json!("event")));
        let stamp = envelope["timestamp"].as_str().unwrap();
        assert!(stamp >= time.as_str(), "time goes on");
        time = stamp.to_owned();
    }
}

/// Compares outputs that are too long to be shown.
#[track_caller]
fn assert_same_lines(output: &str, expected: &str) {
    for (number, (line, expected)) in output.lines().zip(expected.lines()).enumerate() {
        let begin = |line: &str| line.chars().take(200).collect::<String>();
        assert!(line == expected, "line {number}: {} for {}", begin(line), begin(expected));
    }
    assert_eq!(output.lines().count(), expected.lines().count());
    assert!(output == expected);
}

fn a_whole_room_is_followed(daemon: Daemon) {
    run(&daemon, &["pub", "--lines", "lab:old"], "o1\no2\n").ok();
    let words = ["--payload", "--history", "1", "lab:*"];
    let mut sub = subscriber(&daemon, daemon.bus, "sub", &words);
    assert_eq!(sub.line(), json!({"line": "o2"}).to_string(), "the last one of its history");
    // One channel is made after the room was joined, one message goes to the room as a whole.
    for (address, text) in
        [("lab:old", "o3"), ("lab:new", "n1"), ("lab:*", "all"), ("lab:new", "n2")]
    {
        run(&daemon, &["pub", "--lines", address], text).ok();
        assert_eq!(sub.line(), json!({"line": text}).to_string());
    }
    sub.signal(Signal::INT);
    let ended = sub.wait();
    assert_eq!((&*ended.stdout, ended.status.code()), ("", Some(130)), "{ended:?}");
}

#[test]
fn a_line_does_not_wait_for_the_next_one() {
    let daemon = Daemon::with_shards(2);
    let mut sub = subscriber(&daemon, daemon.bus, "sub", &["--payload", "lab:log"]);
    let mut publisher = Process::spawn(to_bus(daemon.bus, &["pub", "--lines", "lab:log"]));
    let mut stdin = publisher.stdin.take().unwrap();
    for text in ["one", "two", "three"] {
        stdin.write_all(format!("{text}\n").as_bytes()).unwrap();
        assert_eq!(sub.line(), json!({"line": text}).to_string());
    }
    drop(stdin);
    publisher.wait().ok();
}

#[test]
fn history_comes_before_what_is_new() {
    let daemon = Daemon::with_shards(2);
    run(&daemon, &["pub", "--lines", "lab:log"], "1\n2\n3\n4\n5\n").ok();
    for (history, first) in [("3", 3), ("99", 1), ("0", 6)] {
        let id = format!("sub{history}");
        let words = ["--history", history, "--pretty", "lab:log"];
        let mut sub = subscriber(&daemon, daemon.bus, &id, &words);
        run(&daemon, &["pub", "--lines", "lab:log", "--client-id", "ann"], "6\n").ok();
        for number in first..=6 {
            let line = sub.line();
            assert!(line.ends_with(&format!(" {{\"line\":\"{number}\"}}")), "{number}: {line}");
        }
        sub.signal(Signal::INT);
        assert_eq!(sub.wait().stdout, "");
        // What was published for this round is not there for the next one.
        if history != "0" {
            break_off(&daemon);
            run(&daemon, &["pub", "--lines", "lab:log"], "1\n2\n3\n4\n5\n").ok();
        }
    }
}

/// Makes the channel `lab:log` anew.
#[track_caller]
fn break_off(daemon: &Daemon) {
    let mut admin = daemon.client_with("");
    eventually("the channel to be empty", || {
        admin.ask("delete_channel", json!({"channel": "lab:log"})).ok()
    });
}

#[test]
fn presence_is_printed_when_it_is_asked_for() {
    let daemon = Daemon::with_shards(2);
    let mut sub = subscriber(&daemon, daemon.bus, "sub", &["--presence", "--payload", "lab:log"]);
    let mut ann = member(&daemon, "ann", "lab:log");
    assert!(sub.line().contains("\"event\":\"joined\""));
    ann.leave("lab:log");
    let left = sub.line();
    assert!(left.contains("\"event\":\"left\"") && left.contains("\"ann\""), "{left}");
}

#[test]
fn a_cut_subscriber_misses_nothing_on_one_shard() {
    a_cut_subscriber_misses_nothing("1");
}

#[test]
fn a_cut_subscriber_misses_nothing_on_four_shards() {
    a_cut_subscriber_misses_nothing("4");
}

/// One subscriber to a channel and one to its room lose their connections again and again, in the
/// middle of frames, while messages are published.
fn a_cut_subscriber_misses_nothing(shards: &str) {
    let daemon = Daemon::start(&["--shards", shards, "--history-size", "100000"]);
    let mut ann = member(&daemon, "ann", "lab:log");
    let mut subs: Vec<(Proxy, Process)> = ["lab:log", "lab:*"]
        .iter()
        .map(|address| {
            let proxy = Proxy::to(daemon.bus);
            let id = if address.ends_with('*') { "room" } else { "channel" };
            let sub = subscriber(&daemon, proxy.address, id, &["--payload", address]);
            (proxy, sub)
        })
        .collect();

    let mut count = 0;
    let mut publish = |ann: &mut Client| {
        count += 1;
        ann.publish_acked("lab:log", json!({"n": count, "filler": "x".repeat(count % 97)}));
        count
    };
    // Enough for: a part of a live frame; the handshake; the welcome; the middle of a recovery.
    for bytes in [777, 100, 600, 15_011, 40_009] {
        let before: Vec<u64> = subs.iter().map(|(proxy, _)| proxy.connections()).collect();
        subs.iter().for_each(|(proxy, _)| proxy.cut_after(bytes));
        eventually("both to be cut and back", || {
            publish(&mut ann);
            let mut both = subs.iter().zip(&before);
            both.all(|((proxy, _), before)| proxy.connections() > *before).then_some(())
        });
    }
    let mut last = 0;
    (0..20).for_each(|_| last = publish(&mut ann));

    for (_, sub) in &mut subs {
        for number in 1..=last {
            let payload: Value = serde_json::from_str(&sub.line()).unwrap();
            assert_eq!(payload["n"], number, "nothing is missing, doubled or reordered");
        }
    }
    for (_proxy, sub) in subs {
        sub.signal(Signal::INT);
        let ended = sub.wait();
        assert_eq!((&*ended.stdout, ended.status.code()), ("", Some(130)), "{ended:?}");
        assert!(ended.stderr.contains("connected again"), "{}", ended.stderr);
        assert!(!ended.stderr.contains("may be missed"), "{}", ended.stderr);
    }
}

#[test]
fn what_the_history_lost_is_told() {
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "20"]);
    let mut ann = member(&daemon, "ann", "lab:log");
    let proxy = Proxy::to(daemon.bus);
    for (id, address) in [("channel", "lab:log"), ("room", "lab:*")] {
        let mut sub = subscriber(&daemon, proxy.address, id, &[address]);
        let first = ann.publish_acked("lab:log", json!({}));
        assert_eq!(sequence(&sub.line()), first);
        proxy.shut(true);
        proxy.cut();
        for _ in 0..50 {
            ann.publish_acked("lab:log", json!({}));
        }
        proxy.shut(false);
        let told = format!("messages {} to {} may be missed", first + 1, first + 30);
        sub.note(&told);
        await_client(&daemon, id, Some(address));
        ann.publish_acked("lab:log", json!({}));
        for expected in first + 31..=first + 51 {
            assert_eq!(sequence(&sub.line()), expected);
        }
    }
}

#[track_caller]
fn sequence(line: &str) -> u64 {
    let envelope: Value = serde_json::from_str(line).unwrap();
    envelope["metadata"]["sequence"].as_u64().unwrap()
}

#[test]
fn a_cut_publisher_sends_each_line_once_and_in_order() {
    const ROUND: usize = 400;
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "1000"]);
    let proxy = Proxy::to(daemon.bus);
    let sub = subscriber(&daemon, daemon.bus, "sub", &["--payload", "lab:log"]);
    let mut publisher = Process::spawn(to_bus(proxy.address, &["pub", "--lines", "lab:log"]));
    let mut stdin = publisher.stdin.take().unwrap();
    let lines = odd_lines(6 * ROUND);
    for (round, lines) in lines.chunks(ROUND).enumerate() {
        let before = proxy.connections();
        // Once messages are cut on their way, once their answers.
        match round % 2 {
            0 => proxy.cut_up_after(20_011 + 7_001 * round as u64),
            _ => proxy.cut_after(10_007 + 7_001 * round as u64),
        }
        let input = lines.join("\n") + "\n";
        stdin.write_all(input.as_bytes()).unwrap();
        eventually("the publisher to come back", || (proxy.connections() > before).then_some(()));
    }
    drop(stdin);
    let ended = publisher.wait();
    assert_code(&ended, 0);
    assert!(ended.stderr.contains(&format!("accepted {}", lines.len())), "{}", ended.stderr);
    assert!(!ended.stderr.contains("duplicate 0"), "lost answers are asked for again");

    let mut sub = sub;
    for (number, line) in lines.iter().enumerate() {
        let (printed, expected) = (sub.line(), json!({"line": line}).to_string());
        assert!(printed == expected, "line {number}: {printed:.200}");
    }
    sub.signal(Signal::INT);
    assert_eq!(sub.wait().stdout, "", "no line came twice");
    let kept = run(&daemon, &["history", "lab:log", "-n", "1000", "--payload"], "").ok();
    let last = lines[lines.len() - 1_000..].iter().map(String::as_str);
    assert_same_lines(&kept, &as_payloads(last));
}

#[test]
fn a_publisher_outlives_a_restart() {
    let first = Daemon::with_shards(2);
    let proxy = Proxy::to(first.bus);
    let mut publisher = Process::spawn(to_bus(proxy.address, &["pub", "--lines", "lab:log"]));
    let mut stdin = publisher.stdin.take().unwrap();
    let mut ann = member(&first, "ann", "lab:log");
    stdin.write_all(b"one\n").unwrap();
    assert_eq!(ann.event()["payload"]["line"], "one");
    let second = Daemon::with_shards(2);
    let mut ann = member(&second, "ann", "lab:log");
    proxy.lead_to(second.bus);
    drop(first);
    stdin.write_all(b"two\nthree\n").unwrap();
    drop(stdin);
    // Whether the answer to the first line was read before the bus was killed is a race.
    let mut event = ann.event();
    if event["payload"]["line"] == "one" {
        event = ann.event();
    }
    assert_eq!(event["payload"]["line"], "two");
    assert_eq!(ann.event()["payload"]["line"], "three");
    let ended = publisher.wait();
    assert!(ended.stderr.contains("accepted 3"), "{ended:?}");
    ended.ok();
    ann.assert_quiet();
}

#[test]
fn a_bus_that_begins_anew_is_told_and_followed() {
    // An address that nothing else on this machine picks a port of.
    const HOST: &str = "127.93.7.1";
    let mut daemon = Daemon::start_over(&["--listen", &format!("{HOST}:0"), "--shards", "2"]);
    let bus = daemon.bus;
    let mut subs = [("channel", "lab:log"), ("room", "lab:*")]
        .map(|(id, address)| (subscriber(&daemon, bus, id, &["--payload", address]), id, address));
    for round in 0..3 {
        let mut ann = member(&daemon, "ann", "lab:log");
        for n in 0..3 {
            ann.publish_acked("lab:log", json!({"round": round, "n": n}));
        }
        for (sub, ..) in &mut subs {
            for n in 0..3 {
                assert_eq!(sub.line(), json!({"round": round, "n": n}).to_string());
            }
        }
        drop(ann);
        // Once it goes away in peace, once it is killed.
        match round {
            0 => drop(daemon.stop()),
            1 => drop(daemon),
            _ => return,
        }
        daemon = Daemon::start_over(&["--listen", &bus.to_string(), "--shards", "2"]);
        for (sub, id, address) in &mut subs {
            sub.note("connected again");
            sub.note("may be missed");
            await_client(&daemon, id, Some(address));
        }
    }
}

#[test]
fn who_may_not_reconnect_ends_with_1() {
    let daemon = Daemon::with_shards(1);
    for words in [&["sub", "lab:log"][..], &["pub", "--lines", "lab:log"]] {
        let proxy = Proxy::to(daemon.bus);
        let id = words[0];
        let words = [words, &["--no-reconnect", "--client-id", id]].concat();
        let mut process = Process::spawn(to_bus(proxy.address, &words));
        let stdin = process.stdin.take();
        await_client(&daemon, id, Some("lab:log"));
        proxy.cut();
        let ended = process.wait();
        assert_code(&ended, 1);
        assert!(ended.stderr.contains("the connection was lost"), "{ended:?}");
        drop(stdin);
    }
}
