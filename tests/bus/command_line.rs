//! What a person types: `pub`, `history`, `status`, `ping`, `completions` as real processes
//! against a real bus, what they print and with which exit code they end.
//!
//! *Not here*: long streams and lost connections (`stream`); a bus with a storage (`storage`).

mod storage;
mod stream;

use crate::common::daemon::{PROGRAM, without_environment};
use crate::common::program::{Ended, Process, run, run_command, to_bus};
use crate::common::{Client, Daemon, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;

/// Asserts the exit code.
#[track_caller]
fn assert_code(ended: &Ended, code: i32) {
    assert_eq!(ended.status.code(), Some(code), "{ended:?}");
}

/// Asserts that it failed with this code, said why in these words, and printed nothing.
#[track_caller]
fn assert_failed(ended: &Ended, code: i32, why: &[&str]) {
    assert_code(ended, code);
    assert!(ended.stderr.starts_with("arqonbus: ") && ended.stdout.is_empty(), "{ended:?}");
    for word in why {
        assert!(ended.stderr.contains(word), "{word:?} is not in {ended:?}");
    }
}

/// Runs a command whose input is bytes.
#[track_caller]
fn run_on_bytes(daemon: &Daemon, words: &[&str], input: &[u8]) -> Ended {
    let mut process = Process::spawn(to_bus(daemon.bus, words));
    process.stdin.as_mut().unwrap().write_all(input).unwrap();
    process.wait()
}

/// Waits until the bus knows a client of this id, and that it has joined `address`.
#[track_caller]
fn await_client(daemon: &Daemon, client_id: &str, address: Option<&str>) {
    let mut admin = daemon.client_with("");
    eventually("the process to be there", || {
        let list = admin.command("list_clients", json!({}));
        let mut clients = list["clients"].as_array()?.iter();
        let client = clients.find(|client| client["client_id"] == client_id)?;
        let Some(address) = address else { return Some(()) };
        client["subscriptions"].as_array()?.contains(&json!(address)).then_some(())
    });
}

/// The lines of an output as JSON.
#[track_caller]
fn values(output: &str) -> Vec<Value> {
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The payloads of lines of text, as `pub --lines` makes them.
fn as_payloads<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    lines.into_iter().map(|line| json!({"line": line}).to_string() + "\n").collect()
}

/// An address where nothing listens.
fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Somebody else at the bus, to see what the processes do.
#[track_caller]
fn member(daemon: &Daemon, client_id: &str, address: &str) -> Client {
    let mut client = daemon.client(client_id);
    client.join(address);
    client
}

#[test]
fn pub_gives_one_message_and_says_so() {
    let daemon = Daemon::with_shards(2);
    let mut ann = member(&daemon, "ann", "science:general");
    let payload = "{ \"text\":\"h\u{e9}llo\",  \"n\" : 1.50 }";
    let words = ["pub", "--client-id", "bob", "science:general", payload];
    let ended = run(&daemon, &words, "");
    assert!(ended.stderr.contains("sent 1, accepted 1, duplicate 0, refused 0"), "{ended:?}");
    assert_eq!(ended.ok(), "");
    let event = ann.event();
    assert_eq!(event.payload_text(), payload, "byte for byte");
    assert_eq!(event["from"], "bob");

    let ended = run(&daemon, &["pub", "--quiet", "--no-ack", "science:general", "{}"], "");
    assert_eq!(ended.stderr, "");
    ended.ok();
    assert_eq!(ann.event().payload_text(), "{}");
}

#[test]
fn pub_with_an_id_can_be_repeated() {
    let daemon = Daemon::with_shards(2);
    let mut ann = member(&daemon, "ann", "science:general");
    let words = ["pub", "--client-id", "bob", "--id", "arq_once", "science:general", "{\"n\":1}"];
    for (round, duplicates) in ["duplicate 0", "duplicate 1", "duplicate 1"].iter().enumerate() {
        eventually("the id bob to be free", || {
            let ended = run(&daemon, &words, "");
            if round > 0 && ended.stderr.contains("409") {
                return None;
            }
            assert!(ended.stderr.contains(duplicates), "{ended:?}");
            ended.ok();
            Some(())
        });
    }
    assert_eq!(ann.event()["id"], "arq_once");
    ann.assert_quiet();
}

#[test]
fn a_private_message_reaches_its_targets_alone() {
    let daemon = Daemon::with_shards(2);
    let mut all: Vec<Client> =
        ["ann", "bob", "eve"].iter().map(|id| member(&daemon, id, "science:general")).collect();
    let words = ["pub", "--type", "private", "--target", "ann,bob", "science:general"];
    run(&daemon, &[&words[..], &["{\"text\":\"psst\"}"]].concat(), "").ok();
    for client in &mut all[..2] {
        let message = client.find(|message| message["type"] == "private");
        let payload = json!({"target": ["ann", "bob"], "text": "psst"});
        assert_eq!(message["payload"], payload);
    }
    let lines = ["pub", "--lines", "--type", "private", "--target", "ann", "science:general"];
    run(&daemon, &lines, "one\ntwo\n").ok();
    for text in ["one", "two"] {
        let message = all[0].find(|message| message["type"] == "private");
        assert_eq!(message["payload"], json!({"target": "ann", "line": text}));
    }
    all[2].assert_quiet();

    let words = ["pub", "--type", "private", "--target", "nobody", "science:general", "{}"];
    assert_failed(&run(&daemon, &words, ""), 1, &["TARGET_NOT_FOUND", "nobody"]);
}

#[test]
fn a_traced_message_shows_its_way() {
    let daemon = Daemon::with_shards(4);
    let _members: Vec<Client> =
        (0..5).map(|n| member(&daemon, &format!("c{n}"), "science:general")).collect();
    let ended = run(&daemon, &["pub", "--trace", "science:general", "{}"], "");
    let printed = ended.ok();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(lines[0].starts_with("arq_") && lines[0].contains("  sequence 1"), "{printed}");
    assert!(lines[0].ends_with("  delivered to 5"), "{printed}");
    for step in ["parsed", "routed", "delivered"] {
        assert!(lines[1..].iter().any(|line| line.trim().starts_with(step)), "{step}: {printed}");
    }
    assert!(lines[1..].iter().all(|line| line.contains("shard ") && line.contains(" µs")));
}

#[test]
fn a_message_can_outlive_its_use() {
    let daemon = Daemon::with_shards(1);
    let mut ann = member(&daemon, "ann", "lab:log");
    run(&daemon, &["pub", "--ttl-ms", "1", "lab:log", "{\"is\":\"short\"}"], "").ok();
    run(&daemon, &["pub", "lab:log", "{\"is\":\"long\"}"], "").ok();
    ann.find(|message| message["payload"]["is"] == "long");
    let history = run(&daemon, &["history", "lab:log", "--payload"], "").ok();
    assert_eq!(history, "{\"is\":\"long\"}\n");
}

#[test]
fn what_the_bus_refuses_ends_with_1_and_a_sentence() {
    let daemon = Daemon::with_shards(2);
    let mut admin = daemon.client("admin");
    admin.command("create_room", json!({"room": "full", "config": {"member_limit": 1}}));
    for address in ["full:log", "shut:log"] {
        admin.join(address);
    }
    admin.command("pause_room", json!({"room": "shut"}));
    for (words, why) in [
        (&["pub", "full:log", "{}"][..], &["MEMBER_LIMIT", "full:log can't be joined"][..]),
        (&["sub", "full:log"], &["MEMBER_LIMIT", "full:log can't be joined"]),
        (&["history", "full:log"], &["MEMBER_LIMIT"]),
        (&["sub", "full:pm"], &["CHANNEL_IS_PM"]),
        (&["pub", "shut:log", "{}"], &["ROOM_PAUSED", "refused 1"]),
        (&["status", "--client-id", "admin"], &["admin", "HTTP 409"]),
        (&["sub", "--client-id", "admin", "a:b"], &["admin", "HTTP 409"]),
        (&["history", "a:b", "--since", "yesterday"], &["since", "BAD_PARAMETER"]),
    ] {
        assert_failed(&run(&daemon, words, ""), 1, why);
    }
    let daemon = Daemon::for_users(&[]);
    for words in [&["pub", "arqon:x", "{}"][..], &["sub", "arqon:x"], &["history", "arqon:x"]] {
        assert_failed(&run(&daemon, words, ""), 1, &["ROOM_PROTECTED"]);
    }
}

#[test]
fn an_admin_can_end_a_subscriber() {
    let daemon = Daemon::with_shards(2);
    let mut admin = daemon.client("admin");
    let process = Process::spawn(to_bus(daemon.bus, &["sub", "--client-id", "eve", "lab:log"]));
    await_client(&daemon, "eve", Some("lab:log"));
    admin.command("disconnect_client", json!({"client_id": "eve", "reason": "enough of you"}));
    assert_failed(&process.wait(), 1, &["enough of you", "4013"]);
}

#[test]
fn a_bus_that_is_not_there_ends_with_3() {
    let dead = nowhere();
    for words in [
        &["pub", "a:b", "{}"][..],
        &["pub", "--lines", "a:b"],
        &["sub", "a:b"],
        &["history", "a:b"],
        &["status"],
        &["ping"],
    ] {
        let ended = run_command(to_bus(dead, words), "");
        assert_code(&ended, 3);
        assert!(ended.stderr.contains(&dead.to_string()), "{ended:?}");
    }
    // The flag goes before the environment.
    let daemon = Daemon::with_shards(1);
    let url = format!("ws://{dead}");
    assert_failed(&run(&daemon, &["status", "--url", &url], ""), 3, &[&dead.to_string()]);
    // Something takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let bus = silent.local_addr().unwrap();
    let ended = run_command(to_bus(bus, &["status", "--timeout", "0.3"]), "");
    assert_failed(&ended, 3, &[&bus.to_string()]);
}

#[test]
fn wrong_usage_ends_with_2_and_asks_no_bus() {
    for (words, says) in [
        (&[][..], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["sub"], "ROOM:CHANNEL"),
        (&["sub", "science"], "room:channel"),
        (&["sub", "a b:c"], "a b:c"),
        (&["sub", "*:c"], "room"),
        (&["sub", "--history", "few", "a:b"], "few"),
        (&["sub", "--count", "0", "a:b"], "--count"),
        (&["sub", "--payload", "--pretty", "a:b"], "--pretty"),
        (&["sub", "--client-id", "a b", "a:b"], "client id"),
        (&["sub", "--client-type", "robot", "a:b"], "ai-agent"),
        (&["pub", "a:b"], "JSON"),
        (&["pub", "a:b", "[1]"], "an array"),
        (&["pub", "a:b", "\"text\""], "a string"),
        (&["pub", "a:b", "{\"text\": }"], "not JSON"),
        (&["pub", "--lines", "a:b", "{}"], "--lines"),
        (&["pub", "--json", "a:b"], "--lines"),
        (&["pub", "--type", "private", "a:b", "{}"], "--target"),
        (&["pub", "--type", "command", "a:b", "{}"], "private"),
        (&["pub", "--target", "ann", "a:b", "{}"], "--type private"),
        (&["pub", "a:pm", "{}"], "pm"),
        (&["pub", "--id", "mine", "a:b", "{}"], "arq_"),
        (&["pub", "--ttl-ms", "0", "a:b", "{}"], "--ttl-ms"),
        (&["pub", "--trace", "--no-ack", "a:b", "{}"], "--no-ack"),
        (&["history", "a:*"], "one channel"),
        (&["history", "a:b", "--order", "up"], "desc"),
        (&["status", "--url", "wss://127.0.0.1"], "TLS"),
        (&["status", "--url", "http://127.0.0.1"], "ws://"),
        (&["ping", "-c", "0"], "--count"),
        (&["ping", "--timeout", "0"], "seconds"),
        (&["completions", "tcsh"], "zsh"),
    ] {
        let ended = run_command(to_bus(nowhere(), words), "");
        assert_eq!(ended.status.code(), Some(2), "{words:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{words:?}: {says:?} is not in {ended:?}");
        assert_eq!(ended.stdout, "", "{words:?}");
    }
}

#[test]
fn signals_end_with_128_and_their_number() {
    let daemon = Daemon::with_shards(1);
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        for (words, address) in [
            (&["sub", "lab:log"][..], Some("lab:log")),
            (&["pub", "--lines", "lab:log"], Some("lab:log")),
            (&["ping", "-c", "1000", "-i", "60"], None),
        ] {
            let id = format!("{}-{code}", words[0]);
            let words = [words, &["--client-id", &id]].concat();
            let mut process = Process::spawn(to_bus(daemon.bus, &words));
            let stdin = process.stdin.take();
            await_client(&daemon, &id, address);
            process.signal(signal);
            assert_code(&process.wait(), code);
            drop(stdin);
        }
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let daemon = Daemon::with_shards(1);
    let mut ann = member(&daemon, "ann", "lab:log");
    for n in 0..400 {
        ann.publish_acked("lab:log", json!({"n": n, "filler": "x".repeat(400)}));
    }
    // More is printed than a pipe holds, and `sub` never ends by itself.
    for command in ["sub --history 400", "history -n 400"] {
        let script = format!("set -o pipefail; \"$0\" {command} lab:log | head -n 1");
        let mut bash = Command::new("bash");
        bash.args(["-c", &script, PROGRAM]);
        let mut bash = without_environment(bash);
        bash.env("ARQONBUS_URL", format!("ws://{}", daemon.bus));
        let ended = run_command(bash, "");
        assert_code(&ended, 0);
        assert_eq!(ended.stderr, "", "{command}");
        let printed = values(&ended.stdout);
        assert_eq!((printed.len(), &printed[0]["payload"]["n"]), (1, &json!(0)), "{command}");
    }
}

#[test]
fn lines_that_are_no_messages_are_left_out_and_told() {
    let daemon = Daemon::start(&["--max-message-bytes", "2000"]);
    let mut ann = member(&daemon, "ann", "lab:log");
    let long = "x".repeat(2_000);
    let bad = [b"good\n", &b"ab\xff\xfe\n"[..], long.as_bytes(), b"\nlast"].concat();
    let told = ["line 2 is not UTF-8 at byte 3", "line 3", "the bus takes 2000", "left out 2"];
    for (flag, input, code, received, says) in [
        ("--quiet", &b"good\nab\0\n"[..], 0, ["good", "ab\0"], &[][..]),
        ("--lossy", b"good\nab\xff\n", 0, ["good", "ab\u{fffd}"], &["accepted 2"]),
        ("--window=1", &bad, 1, ["good", "last"], &told),
    ] {
        let ended = run_on_bytes(&daemon, &["pub", "--lines", flag, "lab:log"], input);
        assert_code(&ended, code);
        for part in says {
            assert!(ended.stderr.contains(part), "{part:?} is not in {ended:?}");
        }
        for line in received {
            assert_eq!(ann.event()["payload"], json!({"line": line}));
        }
        ann.assert_quiet();
    }
    let objects = "{\"a\": 1}\n\n[2]\nthree\n \n{ \"b\":{} }\r\n";
    let ended = run(&daemon, &["pub", "--lines", "--json", "lab:log"], objects);
    assert_failed(&ended, 1, &["line 3", "the payload is an array", "line 4", "left out 2"]);
    assert_eq!(ann.event().payload_text(), "{\"a\": 1}");
    assert_eq!(ann.event().payload_text(), "{ \"b\":{} }");
    ann.assert_quiet();
}

#[test]
fn history_pages_through_thousands() {
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "5000"]);
    let lines: Vec<String> = (1..=2_600).map(|n| format!("line {n}")).collect();
    run(&daemon, &["pub", "--lines", "lab:log"], &lines.join("\n")).ok();
    let of = |range: std::ops::RangeInclusive<usize>| {
        as_payloads(lines[range.start() - 1..*range.end()].iter().map(String::as_str))
    };
    let backwards = |text: String| text.lines().rev().map(|line| format!("{line}\n")).collect();
    let (past, future) = (["--until", "2001-01-01T00:00:00Z"], ["--since", "2999-01-01T00:00:00Z"]);
    for (words, expected) in [
        (&[][..], of(2_551..=2_600)),
        (&["-n", "0"], String::new()),
        (&["-n", "7"], of(2_594..=2_600)),
        (&["-n", "2500"], of(101..=2_600)),
        (&["-n", "9999"], of(1..=2_600)),
        (&["-n", "1500", "--order", "desc"], backwards(of(1_101..=2_600))),
        (&["-n", "1200", "--after", "100"], of(101..=1_300)),
        (&["-n", "9999", "--after", "100", "--before", "2002"], of(101..=2_001)),
        (&["-n", "1100", "--before", "1500"], of(400..=1_499)),
        (&["-n", "1001", "--since", "2001-01-01T00:00:00Z"], of(1..=1_001)),
        (&past, String::new()),
        (&future, String::new()),
    ] {
        let words = [&["history", "lab:log", "--payload"][..], words].concat();
        assert_eq!(run(&daemon, &words, "").ok(), expected, "{words:?}");
    }
    let whole = values(&run(&daemon, &["history", "lab:log", "-n", "2"], "").ok());
    assert_eq!(whole[1]["metadata"]["sequence"], 2_600);
    assert_eq!(whole[1]["metadata"]["replayed"], true);
    let pretty = run(&daemon, &["history", "lab:log", "-n", "1", "--pretty"], "").ok();
    assert!(pretty.ends_with(" {\"line\":\"line 2600\"}\n"), "{pretty}");
    assert!(pretty.contains(" lab:log arq_client_"), "{pretty}");
}

#[test]
fn status_is_a_table_or_json() {
    let daemon = Daemon::with_shards(4);
    let _ann = member(&daemon, "ann", "lab:log");
    let printed = run(&daemon, &["status", "--json"], "").ok();
    assert_eq!(printed.lines().count(), 1);
    let status: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!((&status["server"], &status["shards"]), (&json!("arqonbus"), &json!(4)));
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["clients"], 2, "ann and the asker");
    let table = run(&daemon, &["status"], "").ok();
    for (line, row) in table.lines().zip(["server", "version", "node", "uptime", "shards"]) {
        assert!(line.starts_with(row), "{table}");
    }
    for name in status.as_object().unwrap().keys() {
        let name = name.replace('_', " ").replace("uptime s", "uptime");
        assert!(table.lines().any(|line| line.starts_with(&name)), "{name}: {table}");
    }
}

#[test]
fn ping_measures_as_often_as_it_is_told() {
    let daemon = Daemon::with_shards(1);
    let printed = run(&daemon, &["ping", "-c", "3", "-i", "0.01"], "").ok();
    let lines: Vec<&str> = printed.lines().collect();
    assert_eq!(lines.len(), 4, "{printed}");
    for (number, line) in lines[..3].iter().enumerate() {
        let rest = line.strip_prefix(&format!("pong {}: ", number + 1)).unwrap();
        let millis: f64 = rest.strip_suffix(" ms").unwrap().parse().unwrap();
        assert!(millis > 0.0, "{printed}");
    }
    assert!(lines[3].starts_with("3 answered, min/avg/max = "), "{printed}");
}

#[test]
fn help_says_what_can_be_said() {
    let commands = [
        "serve",
        "sub",
        "pub",
        "history",
        "status",
        "ping",
        "check-config",
        "doctor",
        "tune",
        "completions",
    ];
    let connection = ["--url", "ARQONBUS_URL", "ws://127.0.0.1:9100", "--token", "--client-id"];
    let help = |words: &[&str]| {
        let ended = run_command(to_bus(nowhere(), &[words, &["--help"]].concat()), "");
        ended.ok()
    };
    let all = help(&[]);
    for word in commands.iter().chain(&["Examples:", "Exit codes:", "130", "cannot connect"]) {
        assert!(all.contains(word), "{word}: {all}");
    }
    for (command, says) in [
        ("serve", &["--listen", "--telemetry-listen", "--http-listen", "--shards", "--config"][..]),
        ("sub", &["ROOM:CHANNEL", "--history", "--count", "--payload", "--pretty", "--presence"]),
        ("pub", &["--lines", "--json", "--type", "--target", "--id", "--trace", "--window"]),
        ("history", &["--since", "--until", "--after", "--before", "--order", "desc"]),
        ("status", &["--json"]),
        ("ping", &["--count", "--interval"]),
        ("check-config", &["FILE", "TOML"]),
        (
            "tune",
            &[
                "--goal",
                "latency",
                "throughput",
                "balanced",
                "--quick",
                "--budget",
                "--out",
                "--html",
            ],
        ),
        ("doctor", &["--json", "--config"]),
        ("completions", &["bash", "zsh", "fish"]),
    ] {
        let text = help(&[command]);
        let is_client = ["sub", "pub", "history", "status", "ping"].contains(&command);
        let common = if is_client { &connection[..] } else { &[] };
        for word in says.iter().chain(common) {
            assert!(text.contains(word), "{command}: {word}: {text}");
        }
    }
    let version = run_command(to_bus(nowhere(), &["--version"]), "").ok();
    assert_eq!(version.trim(), concat!("arqonbus ", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run_command(to_bus(nowhere(), &["completions", shell]), "").ok();
        for word in ["arqonbus", "history", "no-reconnect"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        if shell == "bash" {
            let mut bash = Command::new("bash");
            bash.arg("-n");
            let ended = run_command(bash, &script);
            assert_eq!(ended.stderr, "");
            ended.ok();
        }
    }
}

#[test]
fn what_is_no_bus_is_told_apart() {
    let daemon = Daemon::with_shards(1);
    for (address, code, why) in [
        (daemon.telemetry, 3, "no ArqonBus: its first message is no welcome"),
        (daemon.http, 1, "HTTP 404"),
    ] {
        assert_failed(&run_command(to_bus(address, &["status"]), ""), code, &[why]);
    }
}

#[test]
fn a_load_that_can_not_be_ends_a_tuning_at_once() {
    for (words, code, says) in [
        (&["--load", "nonsense"][..], 1, "nonsense"),
        (&["--load", "fanout --members 1"], 1, "--members"),
        (&["--budget", "1"], 2, "from 30 to 86400 seconds"),
    ] {
        let ended = run_command(to_bus(nowhere(), &[&["tune"], words].concat()), "");
        assert_eq!(ended.status.code(), Some(code), "{ended:?}");
        assert!(ended.stderr.contains(says), "{ended:?}");
    }
}
