//! The commands that ask once, the ways in which there is no bus, and the command line itself.

use crate::cli::CommandLine;
use crate::cli::tests::bus::Bus;
use crate::cli::tests::run::{Run, numbers};
use clap::{CommandFactory, Parser};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

#[test]
fn the_command_line_is_sound() {
    CommandLine::command().debug_assert();
}

#[test]
fn wrong_command_lines_exit_with_2() {
    for arguments in [
        &["arqonbus", "sub"][..],
        &["arqonbus", "sub", "science"],
        &["arqonbus", "sub", "science:general", "--count", "0"],
        &["arqonbus", "sub", "science:general", "--pretty", "--payload"],
        &["arqonbus", "pub", "science:general"],
        &["arqonbus", "pub", "science:general", "{}", "--lines"],
        &["arqonbus", "pub", "science:general", "{}", "--json"],
        &["arqonbus", "pub", "science:general", "{}", "--lossy"],
        &["arqonbus", "pub", "science:general", "--json"],
        &["arqonbus", "pub", "science:general", "{}", "--type", "private"],
        &["arqonbus", "pub", "science:general", "{}", "--id", "mine"],
        &["arqonbus", "pub", "science:general", "{}", "--ttl-ms", "0"],
        &["arqonbus", "pub", "science:general", "{}", "--trace", "--no-ack"],
        &["arqonbus", "history", "science:*"],
        &["arqonbus", "ping", "--timeout", "0"],
        &["arqonbus", "status", "--client-id", "a b"],
        &["arqonbus", "frobnicate"],
    ] {
        let error = CommandLine::try_parse_from(arguments).expect_err(&arguments.join(" "));
        assert_eq!(error.exit_code(), 2, "{arguments:?}");
    }
}

#[test]
fn help_names_the_exit_codes_and_every_command() {
    let help = CommandLine::command().render_long_help().to_string();
    for text in ["serve", "sub", "pub", "history", "status", "ping", "check-config", "130, 143"] {
        assert!(help.contains(text), "{text}");
    }
}

#[test]
fn status_is_a_table_or_json() {
    let bus = Bus::start();
    let done = Run::start(&bus, &["status"]).done();
    assert_eq!((done.code, &*done.err), (0, ""));
    assert_eq!(done.out, ["server   small", "uptime   1 min 1 s", "clients  1"]);
    let done = Run::start(&bus, &["status", "--json"]).done();
    assert_eq!(done.out, [r#"{"clients":1,"server":"small","uptime_s":61}"#]);
}

#[test]
fn pings_are_counted_and_summed_up() {
    let bus = Bus::start();
    let done = Run::start(&bus, &["ping", "-c", "3", "-i", "0.01"]).done();
    assert_eq!((done.code, done.out.len()), (0, 4), "{}", done.err);
    assert!(done.out[3].starts_with("3 answered, min/avg/max = "));
    let run = Run::start(&bus, &["ping", "-i", "60"]);
    run.until_lines(1);
    let done = run.interrupt();
    assert_eq!((done.code, done.out.len()), (130, 2), "the summary comes all the same");
}

#[test]
fn history_is_read_page_by_page() {
    let bus = Bus::start();
    bus.world().history_size = 5_000;
    for n in 1..=2_500 {
        bus.publish("science:general", json!({"n": n}));
    }
    for (arguments, expected) in [
        (&["-n", "3"][..], (2_498..=2_500).collect::<Vec<u64>>()),
        (&["-n", "3", "--order", "desc"], vec![2_500, 2_499, 2_498]),
        (&["-n", "3", "--after", "7"], vec![8, 9, 10]),
        (&["-n", "3", "--before", "7"], vec![4, 5, 6]),
        (&["-n", "10", "--after", "7", "--before", "10"], vec![8, 9]),
        (&["-n", "2300"], (201..=2_500).collect()),
        (&["-n", "9999", "--after", "0"], (1..=2_500).collect()),
        (&["-n", "0"], vec![]),
        (&["--after", "2500"], vec![]),
    ] {
        let all = ["history", "science:general", "--payload"];
        let all: Vec<&str> = all.iter().chain(arguments).copied().collect();
        let done = Run::start(&bus, &all).done();
        assert_eq!((done.code, numbers(&done.out)), (0, expected), "{arguments:?}");
    }
}

#[test]
fn refused_commands_exit_with_1() {
    let bus = Bus::start();
    bus.world().moods.refuse_command = Some(("join_channel", 403, "CHANNEL_PRIVATE", 1));
    let done = Run::start(&bus, &["history", "science:general"]).done();
    assert_eq!(done.code, 1);
    let sentence = "arqonbus: The bus says CHANNEL_PRIVATE. (403 CHANNEL_PRIVATE)\n";
    assert_eq!(done.err, sentence);
    bus.world().moods.is_silent = true;
    let done = Run::start(&bus, &["status", "--timeout", "0.1"]).done();
    assert_eq!(done.code, 1);
    assert!(done.err.contains("no answer to status within 0.1 seconds"), "{}", done.err);
}

#[test]
fn http_refusals_are_told_in_the_bus_s_words() {
    for (status, body, told) in [
        (
            401,
            r#"{"code":401,"error":"UNAUTHORIZED","message":"The token is wrong."}"#,
            "The token is wrong. (HTTP 401)",
        ),
        (409, r#"{"error":"CLIENT_ID_IN_USE"}"#, "CLIENT_ID_IN_USE (HTTP 409)"),
        (404, "<html>", "Not Found (HTTP 404)"),
    ] {
        let bus = Bus::start_with(|moods| moods.http = Some((status, body)));
        for arguments in [&["status"][..], &["sub", "a:b"], &["pub", "a:b", "{}", "-q"]] {
            let done = Run::start(&bus, arguments).done();
            assert_eq!((done.code, &*done.err), (1, &*format!("arqonbus: {told}\n")));
        }
    }
}

/// A server that answers whatever comes with `answer`, and then closes or hangs.
fn impostor(answer: &'static [u8], hangs: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer);
            if hangs {
                std::thread::sleep(Duration::from_secs(2));
            }
        }
    });
    url
}

#[test]
fn what_is_no_bus_exits_with_3() {
    let nobody = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("ws://{}", listener.local_addr().unwrap())
    };
    for (url, why) in [
        (nobody, "cannot connect to 127.0.0.1:"),
        ("ws://host.invalid:9100".into(), "cannot connect to host.invalid:9100"),
        (impostor(b"-ERR unknown command\r\n", false), "is no ArqonBus"),
        (impostor(b"", false), "is no ArqonBus"),
        (impostor(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", false), "is no ArqonBus"),
        (impostor(b"", true), "does not answer the handshake"),
    ] {
        for arguments in [&["status"][..], &["sub", "a:b"]] {
            let all: Vec<&str> =
                arguments.iter().copied().chain(["--timeout", "0.5", "--url", &url]).collect();
            let done = Run::start_plain(&all).done();
            assert_eq!(done.code, 3, "{url}: {}", done.err);
            assert!(done.err.contains(why), "{why}: {}", done.err);
            assert_eq!(done.err.lines().count(), 1, "{}", done.err);
        }
    }
    let bus = Bus::start_with(|moods| moods.instead_of_welcome = Some("hello"));
    let done = Run::start(&bus, &["status"]).done();
    assert_eq!(done.code, 3);
    assert!(done.err.contains("its first message is no welcome"), "{}", done.err);
}

#[test]
fn a_refusal_whose_body_comes_late_is_read_to_its_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        for part in [
            "HTTP/1.1 403 Forbidden\r\nContent-Length: 27\r\n\r\n",
            r#"{"message":"#,
            r#""Stay outside."}"#,
        ] {
            stream.write_all(part.as_bytes()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(Duration::from_secs(2));
    });
    let done = Run::start_plain(&["status", "--url", &url]).done();
    assert_eq!((done.code, &*done.err), (1, "arqonbus: Stay outside. (HTTP 403)\n"));
}

#[test]
fn tls_is_refused_in_words() {
    let done = Run::start_plain(&["status", "--url", "wss://127.0.0.1:9100"]).done();
    assert_eq!(done.code, 2);
    assert!(done.err.contains("asks for TLS, which this version does not have"), "{}", done.err);
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let done = Run::start_plain(&["completions", shell]).done();
        assert_eq!(done.code, 0);
        assert!(done.out.join("\n").contains("check-config"), "{shell}");
    }
}
