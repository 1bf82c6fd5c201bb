//! `pub`: what is reported as accepted is in the channel, once and in order.

use crate::cli::tests::bus::Bus;
use crate::cli::tests::run::{Done, Run};
use crate::cli::tests::world::World;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

const HERE: &str = "science:general";

fn accepted(world: &World) -> Vec<String> {
    let line = |payload: Value| payload["line"].as_str().unwrap_or("?").to_owned();
    world.accepted("science", "general").into_iter().map(line).collect()
}

fn lines(count: u64) -> (String, Vec<String>) {
    let lines: Vec<String> = (1..=count).map(|n| format!("line {n}")).collect();
    (lines.join("\n"), lines)
}

fn told(done: &Done, text: &str) {
    assert!(done.err.contains(text), "{text:?} is not in {}", done.err);
}

#[test]
fn one_message_is_one_message() {
    let bus = Bus::start();
    let payload = r#"{ "text": "hello" }"#;
    let done = Run::start(&bus, &["pub", HERE, payload, "--token", "t0ken"]).done();
    assert_eq!((done.code, done.out.len()), (0, 0));
    assert_eq!(done.err, "arqonbus: sent 1, accepted 1, duplicate 0, refused 0\n");
    assert_eq!(bus.world().accepted("science", "general"), [json!({"text": "hello"})]);
    assert_eq!(bus.world().handshakes[0].1.as_deref(), Some("Bearer t0ken"));
    bus.until("it said goodbye", |world| world.goodbyes == [1000]);
}

#[test]
fn lines_arrive_in_order() {
    let bus = Bus::start();
    let (text, expected) = lines(3_000);
    for window in ["1", "7", "256"] {
        let bus = Bus::start();
        let done = Run::start(&bus, &["pub", HERE, "--lines", "--window", window]).feed(&text);
        let done = done.done();
        assert_eq!(done.code, 0);
        told(&done, "sent 3000, accepted 3000, duplicate 0, refused 0");
        assert_eq!(accepted(&bus.world()), expected);
    }
    let done = Run::start(&bus, &["pub", HERE, "--lines", "-q"]).feed("").done();
    assert_eq!((done.code, &*done.err), (0, ""));
}

#[test]
fn cut_connections_lose_repeat_and_reorder_nothing() {
    let (text, expected) = lines(1_500);
    for keep_acks in [0, 1, 10, 60] {
        let bus = Bus::start();
        bus.world().moods.cut_after_events = Some(150);
        bus.world().moods.keep_acks = keep_acks;
        let run = Run::start(&bus, &["pub", HERE, "--lines", "--window", "64"]).feed(&text);
        // Whenever a cut has happened, the next one is prepared.
        for cuts in 1..=6 {
            bus.until("it was cut", |world| world.moods.cut_after_events.is_none());
            bus.world().moods.cut_after_events = (cuts < 6).then_some(150 + cuts);
        }
        let done = run.done();
        assert_eq!(accepted(&bus.world()), expected, "keep_acks {keep_acks}");
        assert_eq!(done.code, 0, "{}", done.err);
        told(&done, "connected again");
        told(&done, "sent 1500, accepted 1500");
        let ids: Vec<_> = bus.world().handshakes.iter().skip(1).map(|h| h.0.clone()).collect();
        assert!(ids.iter().all(|path| path.contains("client_id=arq_client_1")), "{ids:?}");
        if keep_acks >= 10 {
            assert!(!done.err.contains("duplicate 0"), "answers were lost: {}", done.err);
        }
    }
}

#[test]
fn refused_messages_are_told_and_the_others_arrive() {
    let bus = Bus::start();
    bus.world().moods.refuse_every = Some((3, 403, "PUBLISH_FORBIDDEN"));
    let (text, _) = lines(9);
    let done = Run::start(&bus, &["pub", HERE, "--lines"]).feed(text).done();
    assert_eq!(done.code, 1);
    told(&done, "line 3: The bus says PUBLISH_FORBIDDEN. (403 PUBLISH_FORBIDDEN)");
    told(&done, "sent 9, accepted 6, duplicate 0, refused 3");
    assert_eq!(accepted(&bus.world()).len(), 6);
}

#[test]
fn a_bus_that_can_take_no_more_gets_everything_later() {
    for (code, word) in [(429, "RATE_LIMITED"), (503, "CONNECTION_LIMIT")] {
        let bus = Bus::start();
        bus.world().moods.refuse_every = Some((20, code, word));
        let (text, expected) = lines(300);
        let arguments = ["pub", HERE, "--lines", "--window", "8"];
        let done = Run::start(&bus, &arguments).feed(text).done();
        assert_eq!(done.code, 0, "{}", done.err);
        told(&done, "sent 300, accepted 300, duplicate 0, refused 0");
        let mut arrived = accepted(&bus.world());
        assert_ne!(arrived, expected, "the first refused one was overtaken");
        assert_eq!(arrived[40..], expected[40..], "from there on the order holds");
        arrived.sort_by_key(|line| line[5..].parse::<u64>().unwrap());
        assert_eq!(arrived, expected);
    }
}

#[test]
fn a_bus_that_says_it_limits_the_rate_gets_everything_in_order() {
    let bus = Bus::start_with(|moods| moods.limits = json!({"rate_messages": 100}));
    bus.world().moods.refuse_every = Some((10, 429, "RATE_LIMITED"));
    let (text, expected) = lines(100);
    let done = Run::start(&bus, &["pub", HERE, "--lines"]).feed(text).done();
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(accepted(&bus.world()), expected);
}

#[test]
fn a_draining_bus_is_left_and_everything_arrives_in_order() {
    let bus = Bus::start();
    let (text, expected) = lines(500);
    bus.world().moods.refuse_next.extend([(503, "DRAINING"); 64]);
    let done = Run::start(&bus, &["pub", HERE, "--lines", "--window", "64"]).feed(text).done();
    assert_eq!(done.code, 0, "{}", done.err);
    told(&done, "the bus is going away");
    assert_eq!(accepted(&bus.world()), expected);
}

#[test]
fn lines_that_are_no_messages_are_told_by_number() {
    for (arguments, text, told_text, arrived) in [
        (&["--lines"][..], &b"a\n\xff\xfe\nb\n"[..], "line 2 is not UTF-8 at byte 1", 2),
        (&["--lines", "--json"], b"{}\n\n[1]\n{\"a\":1}\n", "line 3 the payload is an array", 2),
    ] {
        let bus = Bus::start();
        let all: Vec<&str> = ["pub", HERE].iter().chain(arguments).copied().collect();
        let done = Run::start(&bus, &all).feed(text).done();
        assert_eq!(done.code, 1);
        told(&done, told_text);
        told(&done, "accepted 2, duplicate 0, refused 0, left out 1");
        assert_eq!(bus.world().accepted("science", "general").len(), arrived);
    }
    let bus = Bus::start();
    let done = Run::start(&bus, &["pub", HERE, "--lines", "--lossy"]).feed(b"a\xff\n").done();
    assert_eq!(done.code, 0);
    assert_eq!(accepted(&bus.world()), ["a\u{fffd}"]);
}

#[test]
fn a_message_that_is_too_long_is_left_out() {
    let bus = Bus::start_with(|moods| moods.limits = json!({"max_message_bytes": 2_000}));
    let text = format!("a\n{}\n{}\nb\n", "x".repeat(3_000), "y".repeat(1_000));
    let done = Run::start(&bus, &["pub", HERE, "--lines"]).feed(text).done();
    assert_eq!(done.code, 1);
    told(&done, "line 2: is ");
    told(&done, "the bus takes 2000");
    told(&done, "sent 3, accepted 3, duplicate 0, refused 0, left out 1");
}

#[test]
fn pings_are_answered_while_a_slow_input_is_awaited() {
    let bus = Bus::start_with(|moods| moods.heartbeat = Some(Duration::from_millis(60)));
    let mut run = Run::start(&bus, &["pub", HERE, "--lines"]);
    for n in 1..=3 {
        run.input.as_mut().unwrap().write_all(format!("{n}\n").as_bytes()).unwrap();
        bus.until("the line arrived", |world| accepted(world).len() == n);
        std::thread::sleep(Duration::from_millis(400));
    }
    run.input = None;
    let done = run.done();
    assert_eq!(done.code, 0);
    assert_eq!(bus.world().handshakes.len(), 1, "one connection for all of it: {}", done.err);
}

#[test]
fn private_messages_name_their_targets() {
    let bus = Bus::start();
    let ann = Run::start(&bus, &["sub", HERE, "--client-id", "ann", "--payload"]);
    bus.until_joined(HERE);
    let arguments = ["pub", HERE, r#"{"n":1}"#, "--type", "private", "--target", "ann"];
    assert_eq!(Run::start(&bus, &arguments).done().code, 0);
    assert_eq!(ann.until_lines(1), [r#"{"n":1,"target":"ann"}"#]);
    let arguments = ["pub", HERE, r#"{"n":1}"#, "--type=private", "--target=ann,eve"];
    let done = Run::start(&bus, &arguments).done();
    assert_eq!(done.code, 1);
    told(&done, "404 TARGET_NOT_FOUND");
    ann.interrupt();
}

#[test]
fn a_message_that_is_sent_again_with_its_id_is_a_duplicate() {
    let bus = Bus::start();
    let arguments = ["pub", HERE, "{}", "--id", "arq_mine", "--client-id", "ann"];
    assert_eq!(Run::start(&bus, &arguments).done().code, 0);
    let done = Run::start(&bus, &arguments).done();
    assert_eq!(done.code, 0);
    told(&done, "sent 1, accepted 1, duplicate 1");
    assert_eq!(bus.world().accepted("science", "general").len(), 1);
}

#[test]
fn without_acknowledgements_everything_is_read_before_the_end() {
    let bus = Bus::start();
    let (text, expected) = lines(2_000);
    let done = Run::start(&bus, &["pub", HERE, "--lines", "--no-ack"]).feed(text).done();
    assert_eq!(done.code, 0);
    told(&done, "sent 2000 without asking for an answer, refused 0");
    assert_eq!(accepted(&bus.world()), expected);
    bus.world().moods.refuse_every = Some((2, 403, "PUBLISH_FORBIDDEN"));
    let (text, _) = lines(10);
    let done = Run::start(&bus, &["pub", HERE, "--lines", "--no-ack"]).feed(text).done();
    assert_eq!(done.code, 1);
    told(&done, "sent 10 without asking for an answer, refused 5");
}

#[test]
fn a_trace_is_printed() {
    let bus = Bus::start();
    let done = Run::start(&bus, &["pub", HERE, "{}", "--trace", "--id", "arq_t"]).done();
    assert_eq!(done.out[0], "arq_t  sequence 1  delivered to 0");
    assert!(done.out[1].contains("parsed") && done.out[1].contains("1.0 µs"));
}

#[test]
fn a_bus_that_answers_nothing_is_tried_again_and_then_given_up() {
    let bus = Bus::start();
    let mut run = Run::start(&bus, &["pub", HERE, "--lines", "--timeout", "0.3"]);
    bus.until_joined(HERE);
    bus.world().moods.is_silent = true;
    run.input.as_mut().unwrap().write_all(b"x\n").unwrap();
    run.until_told("no answer to what was sent within 0.3 seconds");
    bus.world().moods.is_silent = false;
    run.input = None;
    let done = run.done();
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(accepted(&bus.world()), ["x"]);
    bus.world().moods.ignores_events = true;
    let done = Run::start(&bus, &["pub", HERE, "{}", "--timeout", "0.2"]).done();
    assert_eq!(done.code, 1);
    told(&done, "within 0.2 seconds, 3 times in a row");
    told(&done, "not confirmed 1");
}

#[test]
fn a_signal_ends_it_and_says_what_is_not_confirmed() {
    let bus = Bus::start();
    // An answer would be waited for far longer than this test waits for the end.
    let mut run = Run::start(&bus, &["pub", HERE, "--lines", "--timeout", "600"]);
    bus.until_joined(HERE);
    bus.world().moods.is_silent = true;
    run.input.as_mut().unwrap().write_all(b"x\ny\n").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let done = run.interrupt();
    assert_eq!(done.code, 130);
    told(&done, "not confirmed 2");
    bus.until("it said goodbye", |world| world.goodbyes == [1000]);
}

#[test]
fn wrong_usage_is_refused_before_anything_is_sent() {
    let bus = Bus::start();
    for (arguments, why) in [
        (&["pub", HERE, "\"text\""][..], "the payload is a string"),
        (&["pub", HERE, "hello"], "the payload is not JSON"),
        (&["pub", "science:pm", "{}"], "nobody can join the channel pm"),
        (&["pub", HERE, "{}", "--target", "ann"], "--type private"),
    ] {
        let done = Run::start(&bus, arguments).done();
        assert_eq!(done.code, 2, "{arguments:?}");
        told(&done, why);
    }
    assert!(bus.world().handshakes.is_empty());
}

#[test]
fn who_waits_for_the_storage_is_told_what_waits() {
    let bus = Bus::start();
    bus.world().moods.refuse_command = Some(("join_channel", 503, "STORAGE_UNAVAILABLE", 3));
    let done = Run::start(&bus, &["pub", HERE, "{}"]).done();
    assert_eq!(done.code, 0, "{}", done.err);
    assert_eq!(done.err.matches("(503 ").count(), 1, "{}", done.err);
    told(&done, "can't be joined yet");
    told(&done, "trying again until it is joined; nothing is sent before");
    for untrue in ["with the same id", "is stored now"] {
        assert!(!done.err.contains(untrue), "nothing was sent: {}", done.err);
    }
    // The join is no reason not to tell of an event.
    bus.world().moods.refuse_command = Some(("join_channel", 503, "STORAGE_UNAVAILABLE", 1));
    bus.world().moods.refuse_next.push_back((503, "STORAGE_UNAVAILABLE"));
    let done = Run::start(&bus, &["pub", HERE, "{}"]).done();
    assert_eq!(done.code, 0, "{}", done.err);
    for sentence in ["can't be joined yet", "with the same id until it is stored", "is stored now"]
    {
        told(&done, sentence);
    }
}
