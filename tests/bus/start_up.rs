//! From a command line, an environment and a file to a running bus, or to a clear word why not:
//! configuration, exit codes, and what the log says first (protocol, section 8).

use crate::common::client::{Knock, knock, request};
use crate::common::daemon::{PROGRAM, program, serve_flags, without_environment};
use crate::common::program::{Ended, run_command};
use crate::common::raw::{self, RawPeer};
use crate::common::{Client, Daemon};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The program with these words, run to its end.
fn run(words: &[&str]) -> Ended {
    let mut command = program();
    command.args(words);
    run_command(command, "")
}

/// `serve` on free ports with these flags, run to its end, which must be a failure.
#[track_caller]
fn refused(flags: &[&str], exit_code: i32) -> String {
    let mut words = serve_flags();
    while let Some(at) = words.iter().position(|flag| flags.contains(flag)) {
        words.drain(at..at + 2);
    }
    words.extend(flags);
    let ended = run(&words);
    assert_eq!(ended.status.code(), Some(exit_code), "{ended:?}");
    assert_eq!(ended.stdout, "", "what is wrong is said on standard error");
    ended.stderr
}

fn file(toml: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bus.toml");
    fs::write(&path, toml).unwrap();
    (directory, path)
}

/// The keys and values of a configuration, without what is said about them.
fn values(toml: &str) -> Vec<&str> {
    toml.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// What the log says of the limits in force.
#[track_caller]
fn limits_line(daemon: &Daemon) -> Value {
    daemon.log().wait_for(|line| line["message"] == "limits").expect("they are logged")
}

#[test]
fn a_port_in_use_is_named_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--listen", "--telemetry-listen", "--http-listen"] {
        let said = refused(&[flag, &address], 1);
        let key = flag.trim_start_matches('-').replace('-', "_");
        let last = said.lines().last().unwrap();
        for part in [&*address, &key, "in use", "another"] {
            assert!(last.contains(part), "{part} in {said}");
        }
    }
    let said = refused(&["--listen", "192.0.2.1:9100"], 1);
    assert!(said.contains("address of this machine"), "{said}");
}

#[test]
fn what_is_typed_wrong_ends_before_anything_starts() {
    for (flags, parts) in [
        (&["--shrads", "2"][..], &["--shrads", "--shards"][..]),
        (&["--shards", "0"], &["--shards: must be 1 to 256, but is 0"]),
        (&["--pin", "maybe"], &["maybe", "auto", "off"]),
        (&["--listen", "9100"], &["--listen: `9100` is no address and port"]),
        (&["--storage", "redis"], &["--storage: ", "`redis_url`"]),
        (&["--redis-url", "redis://:secret@localhost"], &["--redis-url: ", "`storage`"]),
        (&["--log-level", "loud"], &["--log-level: ", "`loud`"]),
        (
            &["--outbox-bytes", "70000", "--max-message-bytes", "65536"],
            &["`limits.outbox_bytes`", "`limits.max_message_bytes`", "at least 131072"],
        ),
        (&["--config", "/nowhere/bus.toml"], &["/nowhere/bus.toml: can't be read"]),
        (&["extra"], &["extra"]),
    ] {
        let said = refused(flags, 2);
        for part in parts {
            assert!(said.contains(part), "{flags:?}: {part} in {said}");
        }
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn every_mistake_has_a_line_of_its_own() {
    let (_directory, path) = file("node = 'a b'\n[limits]\nmax_rooms = 0\n");
    let path = path.to_str().unwrap();
    let mut command = program();
    command.args(["serve", "--config", path, "--shards", "many"]).env("ARQONBUS_PIN", "maybe");
    let ended = run_command(command, "");
    assert_eq!(ended.status.code(), Some(2));
    let lines: Vec<_> = ended.stderr.lines().collect();
    let expected = [
        format!("arqonbus: {path}:1:8: node: "),
        format!("arqonbus: {path}:3:13: limits.max_rooms: "),
        "arqonbus: ARQONBUS_PIN: ".to_owned(),
        "arqonbus: --shards: ".to_owned(),
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, start) in lines.iter().zip(&expected) {
        assert!(line.starts_with(start), "{start} in {line}");
    }
}

#[test]
fn a_file_is_checked_before_a_bus_runs_with_it() {
    let check = |path: &Path| run(&["check-config", path.to_str().unwrap()]);
    let (_directory, bad) = file(
        "shards = 0\nlisten = \"127.0.0.1:9101\"\nshrads = 1\n[limits]\nmax_rooms = \"x\"\n\
         [[rooms]]\nname = 'a b'\n",
    );
    let ended = check(&bad);
    assert_eq!(ended.status.code(), Some(2), "{ended:?}");
    assert_eq!(ended.stdout, "");
    let lines: Vec<_> = ended.stderr.lines().collect();
    let expected =
        ["1:10: shards: ", "2:10: listen: ", "3:1: shrads: ", "5:13: limits.max_rooms: "];
    let expected = expected.into_iter().chain(["7:8: rooms.name: "]);
    for (line, expected) in lines.iter().zip(expected.clone()) {
        let start = format!("{}:{expected}", bad.display());
        assert!(line.starts_with(&start), "{start} in {lines:#?}");
    }
    assert_eq!(lines.len(), expected.count(), "{lines:#?}");

    let (_directory, good) = file("shards = 1\n[limits]\nmax_rooms = 50\n");
    let printed = check(&good).ok();
    assert!(printed.starts_with("ok\n"), "{printed}");
    assert!(printed.contains("limits.max_rooms = 50 (default 100000)"), "{printed}");
    let (_directory, empty) = file("");
    assert!(check(&empty).ok().contains("all values are the defaults"));

    let ended = check(Path::new("/nowhere/bus.toml"));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.stderr.contains("/nowhere/bus.toml: can't be read"), "{ended:?}");
    assert_eq!(run(&["check-config"]).status.code(), Some(2));
}

#[test]
fn what_is_printed_is_a_file_that_means_the_same() {
    let (_directory, path) = file(
        "log_level = 'warn'\nallowed_origins = ['https://a.example', 'loopback']\n\
         [limits]\nrate_messages = 12\n\
         [[rooms]]\nname = 'lobby'\nchannels = ['main', 'side']\nmember_limit = 9\n",
    );
    let mut command = program();
    command
        .args(["serve", "--config", path.to_str().unwrap(), "--print-config"])
        .args(["--shards", "3", "--node", "n1", "--max-connections", "7"])
        .env("ARQONBUS_HEARTBEAT_MS", "1_500");
    let printed = run_command(command, "").ok();
    for line in ["shards = 3", "node = \"n1\"", "heartbeat_ms = 1500", "rate_messages = 12"] {
        assert!(values(&printed).contains(&line), "{line} in {printed}");
    }
    let (_directory, copy) = file(&printed);
    let copy = copy.to_str().unwrap();
    let again = run(&["serve", "--config", copy, "--print-config"]).ok();
    assert_eq!(values(&again), values(&printed));
    run(&["check-config", copy]).ok();

    // And a bus runs with it.
    let daemon = Daemon::start(&["--config", copy, "--log-level", "info"]);
    let welcome = daemon.client("ann").welcome;
    assert_eq!(welcome["heartbeat_ms"], 1_500);
    assert_eq!(limits_line(&daemon)["max_connections"], 7);
    assert_eq!(welcome["server"]["node"], "n1");
    let joined = daemon.client_with("client_id=bob&join=lobby:side").welcome;
    assert_eq!(joined["joined"][0]["created"], false, "{joined}");
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let (_directory, path) =
        file("[limits]\nrate_messages = 1_000\nhistory_size = 11\nmax_violations = 13\n");
    let mut command = program();
    command
        .args(serve_flags())
        .args(["--history-size", "33"])
        .env("ARQONBUS_CONFIG", &path)
        .env("ARQONBUS_HISTORY_SIZE", "22")
        .env("ARQONBUS_MAX_VIOLATIONS", "23")
        // As good as none.
        .env("ARQONBUS_RATE_MESSAGES", "")
        .env("ARQONBUS_RATE_COMMANDS", "2_000");
    let daemon = Daemon::of_command(command);
    let line = limits_line(&daemon);
    let limits = &daemon.client("ann").welcome["limits"];
    for (key, value) in [
        ("history_size", 33),
        ("max_violations", 23),
        ("rate_messages", 1_000),
        ("rate_commands", 2_000),
        ("max_message_bytes", 1 << 20),
    ] {
        assert_eq!(limits[key], value, "{key}: {limits}");
        assert_eq!(line[key], value, "{key}: {line}");
    }
    let starting = daemon.log().line("starting");
    assert_eq!(starting["config_file"], path.to_str().unwrap());
}

#[test]
fn a_variable_that_is_not_read_is_told_in_the_log() {
    let mut command = program();
    command.args(serve_flags()).env("ARQONBUS_HISTORY_SISE", "a secret");
    let daemon = Daemon::of_command(command);
    let line = daemon.log().line("ARQONBUS_HISTORY_SISE");
    assert_eq!(line["level"], "WARN");
    let text = line["message"].as_str().unwrap();
    assert!(text.contains("ARQONBUS_HISTORY_SIZE") && !text.contains("a secret"), "{text}");
}

/// The program, allowed so many file descriptors.
fn with_descriptors(count: u32) -> Command {
    let mut command = without_environment(Command::new("sh"));
    command.args(["-c", &format!("ulimit -n {count}; exec \"$0\" \"$@\""), PROGRAM]);
    command.args(serve_flags()).args(["--shards", "1"]);
    command
}

#[test]
fn too_few_file_descriptors_are_told_at_the_start() {
    for (count, flags, parts) in [
        (200, &[][..], &["200 file descriptors", "ulimit -n 261"][..]),
        (300, &["--max-connections", "100"], &["--max-connections: ", "ulimit -n 360", "most 40"]),
    ] {
        let mut command = with_descriptors(count);
        command.args(flags);
        let ended = run_command(command, "");
        assert_eq!(ended.status.code(), Some(2), "{ended:?}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{part} in {}", ended.stderr);
        }
    }
    let daemon = Daemon::of_command(with_descriptors(300));
    let warning = daemon.log().line("is lowered from 100000 to 40");
    assert_eq!(warning["level"], "WARN");
    assert_eq!(limits_line(&daemon)["file_descriptors"], 300);
    // So many it takes, and who comes then is told.
    let inside: Vec<_> = (0..40).map(|n| daemon.client(&format!("c{n}"))).collect();
    let mut late = daemon.socket();
    late.write_all(&raw::handshake("/", "")).unwrap();
    assert_eq!(RawPeer::upgraded(late).await_close().0, 1013);
    assert_eq!(daemon.get("/health").status, 200, "and HTTP has descriptors of its own");
    assert_eq!(daemon.metric("arqonbus_accept_failures_total", ""), 0.0);
    drop(inside);
}

#[test]
fn the_log_begins_with_what_an_operator_asks_first() {
    let daemon = Daemon::start(&["--shards", "3", "--max-connections", "50", "--node", "n1"]);
    let lines = daemon.log().lines();
    let order: Vec<_> = ["starting", "limits", "no authentication", "listening"]
        .iter()
        .map(|text| lines.iter().position(|l| l["message"].as_str().unwrap().starts_with(text)))
        .collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{order:?} in {lines:#?}");
    let starting = daemon.log().line("starting");
    for (key, value) in [
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("node", json!("n1")),
        ("shards", json!(3)),
        ("pinned_to_cores", json!("none")),
        ("storage", json!("memory")),
        ("level", json!("INFO")),
    ] {
        assert_eq!(starting[key], value, "{starting}");
    }
    assert!(starting["usable_cores"].as_u64().unwrap() >= 1);
    assert!(!starting["pinning"].as_str().unwrap().is_empty(), "the reason is said: {starting}");
    assert!(starting["timestamp"].as_str().unwrap().ends_with('Z'), "{starting}");
    let limits = limits_line(&daemon);
    assert_eq!(limits["max_connections"], 50);
    for key in ["file_descriptors", "max_message_bytes", "history_size", "outbox_bytes"] {
        assert!(limits[key].as_u64().unwrap() > 0, "{key}: {limits}");
    }
    let listening = daemon.log().line("listening");
    for (key, address) in [
        ("listen", daemon.bus),
        ("telemetry_listen", daemon.telemetry),
        ("http_listen", daemon.http),
    ] {
        assert_eq!(listening[key], address.to_string());
        assert_ne!(address.port(), 0, "the port that was picked is said");
    }
    let crowded = Daemon::start(&["--shards", "256"]);
    let warning = crowded.log().line("shards will wait for each other");
    assert_eq!(warning["level"], "WARN");
    drop(crowded.client("ann"));
}

#[test]
fn who_is_admin_is_said_and_so() {
    let role_of = |daemon: &Daemon| -> (Value, Value) {
        let line = daemon.log().line("no authentication is configured");
        (line["role"].clone(), line["message"].clone())
    };
    // What the other ports are open to changes nothing on this one.
    let local = Daemon::start_over(&["--shards", "1", "--http-listen", "0.0.0.0:0"]);
    let (role, why) = role_of(&local);
    assert_eq!(role, "by_address");
    assert!(why.as_str().unwrap().contains("only this machine"), "{why}");
    assert_eq!(local.client("ann").welcome["role"], "admin");

    let public = Daemon::for_users(&["--shards", "1"]);
    let (role, why) = role_of(&public);
    assert_eq!(role, "user");
    assert!(why.as_str().unwrap().contains("nobody is admin"), "{why}");
    let mut client = public.client("ann");
    assert_eq!(client.welcome["role"], "user");
    let refused = client.refused("list_clients", json!({}));
    assert_eq!(refused.what(), (403, "ADMIN_REQUIRED"));
}

/// The role that a handshake with these headers gets, or the status of its refusal.
fn role_with(daemon: &Daemon, headers: &[(&'static str, &str)]) -> Result<Value, u16> {
    let mut request = request(daemon.bus, "");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match knock(request, daemon.bus) {
        Knock::Open(mut socket, _) => {
            let welcome = socket.read().unwrap().into_text().unwrap();
            let welcome: Value = serde_json::from_str(welcome.as_str()).unwrap();
            Ok(welcome["payload"]["role"].clone())
        }
        Knock::Refused(status, _) => Err(status),
    }
}

#[test]
fn what_says_that_it_comes_from_elsewhere_is_no_admin() {
    // The HTTP port is for Prometheus, and opens the bus to no page.
    let daemon = Daemon::start_over(&["--shards", "1", "--http-listen", "0.0.0.0:0"]);
    let (admin, user) = (Ok(json!("admin")), Ok(json!("user")));
    for (headers, expected) in [
        (&[][..], &admin),
        (&[("host", "localhost")], &admin),
        (&[("origin", "http://localhost:3000")], &admin),
        (&[("host", "bus.example.org")], &user),
        (&[("x-forwarded-for", "192.0.2.1")], &user),
        (&[("forwarded", "for=192.0.2.1")], &user),
        (&[("via", "1.1 proxy")], &user),
        (&[("x-real-ip", "192.0.2.1")], &user),
        (&[("origin", "https://evil.example")], &Err(403)),
        (&[("origin", "null")], &Err(403)),
    ] {
        assert_eq!(role_with(&daemon, headers), *expected, "{headers:?}");
    }
    for flags in [&["--allowed-origins", "*"][..], &["--role", "user"]] {
        let daemon = Daemon::start(&[&["--shards", "1"], flags].concat());
        assert_eq!(role_with(&daemon, &[]), user, "{flags:?}");
    }
    // What the refusal advises lets the page in.
    let daemon = Daemon::start(&["--shards", "1", "--allowed-origins", "auto,null"]);
    assert_eq!(role_with(&daemon, &[("origin", "null")]), user);
    assert_eq!(role_with(&daemon, &[("origin", "http://localhost")]), user);
    assert_eq!(role_with(&daemon, &[("origin", "https://evil.example")]), Err(403));
}

#[test]
fn a_log_for_people_is_text() {
    let mut words = serve_flags();
    let at = words.iter().position(|word| *word == "--log-format").unwrap();
    words.drain(at..at + 2);
    let mut command = program();
    command.args(words);
    let mut process = crate::common::program::Process::spawn(command);
    let line = process.note("listening");
    assert!(line.contains("INFO") && line.contains("listen=127.0.0.1:"), "{line}");
    assert!(!line.contains('\x1b'), "no colours where nobody looks: {line:?}");
    let address = line.split(" listen=").nth(1).and_then(|rest| rest.split(' ').next());
    let bus: SocketAddr = address.unwrap().parse().unwrap();
    match knock(request(bus, ""), bus) {
        Knock::Open(..) => {}
        Knock::Refused(status, body) => panic!("{status}: {body}"),
    }
    drop(Client::connect(bus, "client_id=ann"));
    process.signal(rustix::process::Signal::TERM);
    let ended = process.wait();
    assert_eq!(ended.ok(), "", "standard output is for what was asked for");
}

#[test]
fn doctor_judges_the_machine_by_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("arq.toml");
    let path_text = path.to_str().unwrap();
    let doctor = |words: &[&str]| run(&[&["doctor", "--config", path_text], words].concat());

    // Ten million connections are more than any machine's descriptors of today.
    fs::write(&path, "[limits]\nmax_connections = 10000000\n").unwrap();
    let bad = doctor(&["--json"]);
    assert_eq!(bad.status.code(), Some(1), "{bad:?}");
    let report: Value = serde_json::from_str(&bad.stdout).unwrap();
    assert_eq!(report["worst"], "problem");
    assert!(report["host"]["cpu"]["cores"].as_u64() >= Some(1), "{report}");
    let findings = report["findings"].as_array().unwrap();
    let first = findings.iter().find(|finding| finding["check"] == "descriptors").unwrap();
    assert_eq!(first["severity"], "problem", "{first}");
    for key in ["found", "why", "fix"] {
        assert!(!first[key].as_str().unwrap().is_empty(), "{first}");
    }

    fs::write(&path, "shards = 1\n[limits]\nmax_connections = 10\n").unwrap();
    let text = doctor(&[]).stdout;
    assert!(text.contains("descriptors: enough for 10 connections"), "{text}");

    fs::write(&path, "shards = 0\n").unwrap();
    let refused = doctor(&[]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("arq.toml:1:"), "{refused:?}");
}

#[test]
fn configurations_of_measured_hosts_are_good_ones() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/hosts");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        run(&["check-config", path.to_str().unwrap()]).ok();
        count += 1;
    }
    assert!(count > 0, "some hosts were measured");
}
