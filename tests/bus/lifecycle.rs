//! How a bus ends, how its clients end, and what it takes over while it runs: drains, signals,
//! killed clients, heartbeats and reloads (protocol, sections 2 and 6).

use crate::common::client::{End, Knock, knock, request};
use crate::common::daemon::Log;
use crate::common::program::{Process, to_bus};
use crate::common::raw::{self, RawPeer};
use crate::common::{Client, Daemon, PATIENCE, Refused, TelemetryReader, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const CHANNEL: &str = "lab:x";

/// What became of a client that was there when the bus drained.
struct Drained {
    client_id: String,
    /// The sequences of the events it got.
    sequences: Vec<u64>,
    retry_after_ms: Option<u64>,
    end: End,
}

/// A client that does as it is told until its connection ends: publishes again and again, each
/// event when the one before is acknowledged, or only listens.
struct Inmate {
    thread: JoinHandle<Drained>,
    /// The last sequence that was acknowledged to it, or that it got.
    reached: Arc<AtomicU64>,
    /// Whether it was told that it will be closed.
    is_told: Arc<AtomicBool>,
}

impl Inmate {
    fn start(daemon: &Daemon, client_id: &str, publishes: bool) -> Inmate {
        let mut client = daemon.client_with(&format!("client_id={client_id}&join={CHANNEL}"));
        let (reached, is_told) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (progress, told) = (reached.clone(), is_told.clone());
        let thread = thread::spawn(move || {
            let (mut sequences, mut retry_after_ms) = (Vec::new(), None);
            let publish = |client: &mut Client| {
                let mut event = client.envelope("event", CHANNEL, json!({}));
                event["metadata"] = json!({"ack": true});
                // A bus that has closed meanwhile has said why, which is read next.
                let _ = client.try_send_text(event.to_string());
            };
            if publishes {
                publish(&mut client);
            }
            let end = loop {
                let message = match client.try_next() {
                    Ok(message) => message,
                    Err(end) => break end,
                };
                let payload = &message["payload"];
                if message["type"] == "event" {
                    sequences.push(message.sequence());
                    progress.store(message.sequence(), SeqCst);
                } else if payload["event"] == "closing" {
                    assert_eq!(payload["code"], 1001, "{}", message.text);
                    assert!(retry_after_ms.is_none(), "it is said once");
                    retry_after_ms = payload["retry_after_ms"].as_u64();
                    told.store(true, SeqCst);
                } else if publishes && payload["status"] == "success" {
                    progress.store(payload["result"]["sequence"].as_u64().unwrap(), SeqCst);
                    publish(&mut client);
                } else {
                    panic!("{}", message.text);
                }
            };
            Drained { client_id: client.id.clone(), sequences, retry_after_ms, end }
        });
        Inmate { thread, reached, is_told }
    }
}

#[test]
fn a_drain_under_load_tells_everyone_and_loses_nothing() {
    for (shards, signal) in [("1", Signal::TERM), ("2", Signal::INT)] {
        let mut daemon = Daemon::start(&["--shards", shards, "--drain-timeout-ms", "5000"]);
        let listeners: Vec<_> =
            (0..6).map(|n| Inmate::start(&daemon, &format!("listener{n}"), false)).collect();
        let publishers: Vec<_> =
            (0..4).map(|n| Inmate::start(&daemon, &format!("publisher{n}"), true)).collect();
        let mut late: Vec<_> = (0..2).map(|_| daemon.socket()).collect();
        let all = || listeners.iter().chain(&publishers);
        eventually("the load to run", || {
            all().all(|inmate| inmate.reached.load(SeqCst) > 200).then_some(())
        });
        let acknowledged = publishers.iter().map(|p| p.reached.load(SeqCst)).max().unwrap();
        assert_eq!(daemon.get("/ready").status, 200);

        daemon.signal(signal);
        daemon.log().line("draining");
        eventually("the node to be not ready", || {
            (daemon.get("/ready").status == 503).then_some(())
        });
        eventually("everyone to be told", || {
            all().all(|inmate| inmate.is_told.load(SeqCst)).then_some(())
        });
        assert_eq!(daemon.get("/health").status, 200, "it is alive until it is gone");
        for stream in &mut late {
            let (status, body) = shake_hands_late(stream);
            assert_eq!((status, &body["error"]), (503, &json!("DRAINING")), "{body}");
        }
        TcpStream::connect(daemon.bus).expect_err("nobody is let in");

        let mut waits = BTreeSet::new();
        for inmate in listeners.into_iter().chain(publishers) {
            let drained = inmate.thread.join().unwrap();
            let id = &drained.client_id;
            match &drained.end {
                End::Closed(code, reason) => {
                    assert_eq!(*code, 1001, "{id}");
                    assert!(reason.contains("retry_after_ms"), "{reason}");
                }
                End::Lost(why) => panic!("{id} was cut off: {why}"),
            }
            let retry_after_ms = drained.retry_after_ms.expect("it was told");
            assert!((1..120_000).contains(&retry_after_ms), "{retry_after_ms}");
            waits.insert(retry_after_ms);
            if id.starts_with("listener") {
                let got = drained.sequences.len() as u64;
                assert_eq!(drained.sequences, (1..=got).collect::<Vec<_>>(), "{id}: no hole");
                assert!(got >= acknowledged, "{id} lacks what was acknowledged: {got}");
            }
        }
        assert!(waits.len() > 1, "they don't come back all at once: {waits:?}");
        assert!(daemon.wait().success());
        assert_nobody_was_left(daemon.log());
    }
}

/// Asserts that a drain which has ended did so before its time was up.
#[track_caller]
fn assert_nobody_was_left(log: &Log) {
    log.line("stopped");
    let left = log.lines().into_iter().find(|line| !line["connections"].is_null());
    assert!(left.is_none(), "{left:?}");
}

/// Shakes hands over a connection that was made long before; the status and the body.
fn shake_hands_late(stream: &mut TcpStream) -> (u16, Value) {
    stream.write_all(&raw::handshake("/", "")).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let answer = crate::common::http::Answer::parse(&bytes);
    (answer.status, answer.json())
}

/// Who comes while the bus drains is refused, or told to go like everyone else; never just cut off.
#[test]
fn who_arrives_during_a_drain_is_told_too() {
    for _ in 0..2 {
        let mut daemon = Daemon::start(&["--shards", "2", "--drain-timeout-ms", "5000"]);
        let bus = daemon.bus;
        let welcomed = Arc::new(AtomicU64::new(0));
        let comers: Vec<_> = (0..6)
            .map(|_| {
                let welcomed = welcomed.clone();
                thread::spawn(move || {
                    let mut stays = Vec::new();
                    while let Some(peer) = arrive(bus) {
                        stays.extend(peer);
                        welcomed.fetch_add(1, SeqCst);
                    }
                    for peer in &mut stays {
                        let (code, _) = peer.await_close();
                        assert_eq!(code, 1001);
                        peer.send(&raw::frame(raw::CLOSE, 1001u16.to_be_bytes()));
                    }
                })
            })
            .collect();
        eventually("some to be there", || (welcomed.load(SeqCst) > 60).then_some(()));
        daemon.signal(Signal::TERM);
        for comer in comers {
            comer.join().unwrap();
        }
        assert!(daemon.wait().success());
        assert_nobody_was_left(daemon.log());
    }
}

/// Comes to the bus: `None` if it takes nobody any more, an empty option if it says so in words.
fn arrive(bus: SocketAddr) -> Option<Option<RawPeer>> {
    let mut stream = TcpStream::connect(bus).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&raw::handshake("/?join=lab:x,lab:y", "")).ok()?;
    let mut first = [0; 12];
    // Who was not accepted yet when the port closed is reset by the kernel.
    stream.peek(&mut first).ok().filter(|&count| count > 0)?;
    while stream.peek(&mut first).ok()? < first.len() {}
    Some(first.ends_with(b"101").then(|| RawPeer::upgraded(stream)))
}

#[test]
fn a_drain_does_not_wait_for_who_never_shakes_hands() {
    let daemon = Daemon::start(&["--handshake-timeout-ms", "60000"]);
    let mut silent = daemon.socket();
    let client = daemon.client("ann");
    client.close();
    let log = daemon.stop();
    assert_nobody_was_left(&log);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut daemon = Daemon::start(&["--drain-timeout-ms", "600000"]);
        // Two, for the first is closed at once, and these don't say goodbye.
        let mut stubborn: Vec<_> = (0..2).map(|n| daemon.client(&format!("c{n}"))).collect();
        daemon.signal(first);
        for client in &mut stubborn {
            client.notice("closing");
        }
        daemon.signal(second);
        assert!(daemon.wait().success());
        daemon.log().line("the drain ended with connections left");
    }
}

#[test]
fn a_drain_that_takes_too_long_is_ended() {
    let mut daemon = Daemon::start(&["--shards", "1", "--drain-timeout-ms", "300"]);
    let mut stubborn = daemon.raw("client_id=stubborn");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success(), "a client that does not go is no failure");
    assert_eq!(daemon.log().line("connections left")["connections"], 1);
    assert_eq!(stubborn.message()["payload"]["event"], "closing");
    assert_eq!(stubborn.await_close().0, 1001);

    let mut daemon = Daemon::start(&["--drain-timeout-ms", "0"]);
    let mut client = daemon.raw("client_id=ann");
    daemon.signal(Signal::TERM);
    assert!(daemon.wait().success());
    assert!(client.is_hung_up());
}

#[test]
fn killed_clients_leave_no_trace() {
    let daemon = Daemon::start(&["--shards", "2"]);
    let mut telemetry = TelemetryReader::connect(&daemon);
    let mut watcher = daemon.client("watcher");
    watcher.join_with(CHANNEL, json!({"presence": true}));
    let mut talker = daemon.client_with(&format!("client_id=talker&join={CHANNEL}"));
    assert_eq!(watcher.notice("joined")["payload"]["client_id"], "talker");
    let mut said = 0;
    let mut talk = |watcher: &mut Client| {
        said += 1;
        talker.publish(CHANNEL, json!({"n": said}));
        assert_eq!(watcher.event()["payload"]["n"], said, "others notice nothing");
    };
    talk(&mut watcher);
    for (name, bytes) in victims() {
        let mut victim = daemon.raw(&format!("client_id={name}&join={CHANNEL}"));
        assert_eq!(watcher.notice("joined")["payload"]["client_id"], name);
        victim.send(&bytes);
        talk(&mut watcher);
        abandon(victim.stream());
        drop(victim);
        let left = watcher.notice("left");
        assert_eq!(left["payload"]["client_id"], name, "{}", left.text);
        let told = telemetry.about("client_disconnected", name);
        assert_eq!(told["payload"]["payload"]["reason"], "lost", "{told}");
        eventually("its id to be free", || free_again(&daemon, name));
        talk(&mut watcher);
    }
    // A process that is killed: its kernel closes for it.
    let words = ["sub", "--client-id", "process", CHANNEL];
    let process = Process::spawn(to_bus(daemon.bus, &words));
    assert_eq!(watcher.notice("joined")["payload"]["client_id"], "process");
    process.signal(Signal::KILL);
    assert_eq!(watcher.notice("left")["payload"]["client_id"], "process");
    eventually("its id to be free", || free_again(&daemon, "process"));

    let mut handshakes: Vec<_> = (0..20).map(|_| daemon.socket()).collect();
    for (n, stream) in handshakes.iter_mut().enumerate() {
        let request = raw::handshake(&format!("/?client_id=ghost{n}&join={CHANNEL}"), "");
        stream.write_all(&request[..request.len() * n / 20]).unwrap();
        abandon(stream);
    }
    drop(handshakes);
    eventually("only the living to be left", || {
        let status = daemon.get("/status").json();
        (status["clients"] == 2 && status["connections"] == 2).then_some(())
    });
    talk(&mut watcher);
    let info = watcher.command("channel_info", json!({"channel": CHANNEL}));
    let participants = info["participants"].as_array().unwrap();
    let names: Vec<_> = participants.iter().map(|one| one["client_id"].clone()).collect();
    assert_eq!(names, ["talker", "watcher"], "{info}");
    watcher.assert_quiet();
}

/// What clients had sent of a message when they were killed.
fn victims() -> Vec<(&'static str, Vec<u8>)> {
    let whole = raw::frame(raw::TEXT, "x".repeat(5_000));
    vec![
        ("between-frames", Vec::new()),
        ("first-byte", whole[..1].to_vec()),
        ("mid-header", whole[..3].to_vec()),
        ("mid-frame", whole[..4_000].to_vec()),
        ("mid-message", {
            let mut fragment = raw::frame(raw::TEXT & 0x7f, "y".repeat(3_000));
            fragment.extend(&whole[..2]);
            fragment
        }),
    ]
}

/// Lets a connection end like that of a killed process that had bytes unread: by a reset.
fn abandon(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

fn free_again(daemon: &Daemon, client_id: &str) -> Option<()> {
    match knock(request(daemon.bus, &format!("client_id={client_id}")), daemon.bus) {
        Knock::Open(..) => Some(()),
        Knock::Refused(status, body) => {
            assert_eq!(status, 409, "{body}");
            None
        }
    }
}

#[test]
fn who_answers_pings_stays_and_who_is_silent_goes() {
    let daemon = Daemon::start(&["--shards", "1", "--heartbeat-ms", "700"]);
    let mut watcher = daemon.client("watcher");
    watcher.join_with(CHANNEL, json!({"presence": true}));
    let mut peer = daemon.raw(&format!("client_id=quiet&join={CHANNEL}"));
    // It answers pings by reading.
    let watcher = thread::spawn(move || {
        let (joined, left) = (watcher.notice("joined"), watcher.notice("left"));
        assert_eq!(joined["payload"]["client_id"], "quiet");
        assert_eq!(left["payload"]["client_id"], "quiet");
        watcher.command("ping", json!({}));
    });
    for _ in 0..3 {
        let (first, payload) = peer.frame().expect("it is asked before it is closed");
        assert_eq!(first, raw::PING);
        peer.send(&raw::frame(raw::PONG, payload));
    }
    // From here on it is silent, though it reads.
    let (first, _) = peer.frame().expect("it is asked once more");
    assert_eq!(first, raw::PING);
    let (code, reason) = peer.await_close();
    assert_eq!(code, 4010);
    assert!(reason.contains("heartbeat"), "{reason}");
    watcher.join().unwrap();
    eventually("the close to be counted", || {
        (daemon.metric("arqonbus_shard_closes_total", "reason=\"silent\"") == 1.0).then_some(())
    });
}

/// A daemon with a configuration file that can be changed.
struct Reloadable {
    daemon: Daemon,
    path: PathBuf,
    reloads: usize,
    _directory: tempfile::TempDir,
}

impl Reloadable {
    fn start(toml: &str) -> Reloadable {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("bus.toml");
        fs::write(&path, toml).unwrap();
        let daemon = Daemon::start(&["--config", path.to_str().unwrap(), "--shards", "2"]);
        Reloadable { daemon, path, reloads: 0, _directory: directory }
    }

    /// Changes the file and has it read again; what the log says of it.
    #[track_caller]
    fn reload(&mut self, toml: &str) -> Value {
        self.rewrite(toml);
        self.reloads += 1;
        let nth = self.reloads - 1;
        eventually("the reload to be logged", || {
            let lines = self.daemon.log().lines();
            let mut told = lines.into_iter().filter(|line| {
                line["message"] == "the configuration was read again" && line["level"] == "INFO"
            });
            told.nth(nth)
        })
    }

    fn rewrite(&self, toml: &str) {
        fs::write(&self.path, toml).unwrap();
        self.daemon.signal(Signal::HUP);
    }
}

/// Sends messages until one is refused for coming too fast, or many were taken.
fn is_rate_limited(client: &mut Client) -> bool {
    let ids: Vec<_> = (0..30)
        .map(|n| client.publish_with(CHANNEL, json!({"n": n}), json!({"ack": true})))
        .collect();
    let replies: Vec<_> = ids.iter().map(|id| client.reply(id)).collect();
    let refused: Vec<_> = replies.iter().filter(|reply| reply["status"] == "error").collect();
    assert!(refused.iter().all(|reply| Refused::of(reply).what() == (429, "RATE_LIMITED")));
    !refused.is_empty()
}

#[test]
fn limits_change_while_clients_are_connected() {
    let mut bus = Reloadable::start("");
    let mut client = bus.daemon.client_with(&format!("client_id=ann&join={CHANNEL}"));
    assert!(!is_rate_limited(&mut client));
    client.publish_acked(CHANNEL, json!({"filler": "x".repeat(3_000)}));

    let line = bus.reload("[limits]\nrate_messages = 5\n");
    assert_eq!((&line["applied"], &line["needs_restart"]), (&json!("limits"), &json!("")));
    eventually("the rate to be limited", || is_rate_limited(&mut client).then_some(()));
    let welcome = bus.daemon.client("bob").welcome;
    assert_eq!(welcome["limits"]["rate_messages"], 5);

    // What is not in the file any more is its default again.
    bus.reload("[limits]\nmax_message_bytes = 2_048\nmax_connections = 3\n");
    eventually("the rate to be free", || (!is_rate_limited(&mut client)).then_some(()));
    let mut loud = bus.daemon.client_with(&format!("client_id=loud&join={CHANNEL}"));
    let id = loud.publish(CHANNEL, json!({"filler": "x".repeat(3_000)}));
    let (code, _) = loud.await_close();
    assert_eq!(code, 1009, "the message {id} is too long now");
    let (request_id, refused) = loud.refusal();
    assert_eq!(refused.what(), (413, "MESSAGE_TOO_LARGE"));
    assert!(request_id.is_null(), "its id was never read");
    client.command("ping", json!({}));

    let line = bus.reload("[limits]\nmax_message_bytes = 2_048\nmax_connections = 3\n");
    assert_eq!(line["applied"], "", "nothing changed");
    assert_eq!(bus.daemon.get("/ready").status, 200, "one of three is there");
}

#[test]
fn the_log_says_more_or_less_at_once() {
    let mut bus = Reloadable::start("");
    let mut client = bus.daemon.client_with(&format!("client_id=ann&join={CHANNEL}"));
    bus.rewrite("log_level = 'warn'\n[limits]\nrate_messages = 5\n");
    eventually("the reload", || is_rate_limited(&mut client).then_some(()));
    let line = bus.reload("log_level = 'info'\n[limits]\nrate_messages = 0\n");
    // The first reload silenced itself; this is the second.
    assert_eq!(line["applied"], "limits,log_level");
}

#[test]
fn a_file_with_mistakes_changes_nothing_and_each_is_told() {
    let mut bus = Reloadable::start("[limits]\nrate_messages = 5\n");
    let mut client = bus.daemon.client_with(&format!("client_id=ann&join={CHANNEL}"));
    let path = bus.path.display().to_string();
    for (toml, mistakes) in [
        (
            "log_level = 'loud'\nshrads = 4\n[limits]\nrate_messages = 0\nmax_rooms = 'two'\n",
            &["1:13: log_level: ", "2:1: shrads: ", "5:13: limits.max_rooms: "][..],
        ),
        ("[limits]\nrate_messages = 0\noutbox_bytes = 70_000\n", &["3:16: limits.outbox_bytes: "]),
        ("[limits\n", &["1:"]),
    ] {
        let before = bus.daemon.log().lines().len();
        bus.rewrite(toml);
        let lines = eventually("every mistake to be logged", || {
            let lines = bus.daemon.log().lines().split_off(before);
            (lines.len() >= mistakes.len()).then_some(lines)
        });
        assert_eq!(lines.len(), mistakes.len(), "{lines:#?}");
        for (line, mistake) in lines.iter().zip(mistakes) {
            assert_eq!(line["level"], "ERROR", "{line}");
            let message = line["message"].as_str().unwrap();
            assert!(message.contains("refused whole"), "{message}");
            assert!(message.contains(&format!("{path}:{mistake}")), "{message}");
        }
        assert!(is_rate_limited(&mut client), "the old limit holds");
    }
    fs::remove_file(&bus.path).unwrap();
    bus.daemon.signal(Signal::HUP);
    bus.daemon.log().line(&format!("{path}: "));
    assert!(is_rate_limited(&mut client), "the old limit holds");
    // A good file is taken after all.
    let line = bus.reload("[limits]\nrate_messages = 0\n");
    assert_eq!(line["applied"], "limits");
    eventually("the rate to be free", || (!is_rate_limited(&mut client)).then_some(()));
    bus.daemon = bus.daemon.expect_errors();
}

#[test]
fn what_needs_a_restart_is_named_and_stays() {
    let mut bus = Reloadable::start("node = 'one'\n");
    let line = bus.reload(
        "node = 'two'\nstats_interval_ms = 5_000\ndrain_timeout_ms = 9_000\n\
         [[rooms]]\nname = 'lobby'\nchannels = ['main']\n",
    );
    assert_eq!(line["applied"], "drain_timeout_ms");
    assert_eq!(line["needs_restart"], "node,stats_interval_ms,rooms");
    assert_eq!(bus.daemon.get("/version").json()["node"], "one");
    let mut client = bus.daemon.client("ann");
    let rooms = client.command("list_rooms", json!({}));
    let rooms = rooms["rooms"].as_array().unwrap();
    assert!(rooms.iter().all(|room| room["name"] != "lobby"), "{rooms:?}");
    // Flags are not in the file, and beat it still.
    let line = bus.reload("shards = 7\nnode = 'one'\ndrain_timeout_ms = 9_000\n");
    assert_eq!((&line["applied"], &line["needs_restart"]), (&json!(""), &json!("")));
}

#[test]
fn origins_change_while_the_bus_runs() {
    let mut bus = Reloadable::start("");
    let comes_in = |address: SocketAddr| {
        let mut request = request(address, "");
        let origin = "https://app.example.org".parse().unwrap();
        request.headers_mut().insert("origin", origin);
        matches!(knock(request, address), Knock::Open(..))
    };
    for address in [bus.daemon.bus, bus.daemon.telemetry] {
        assert!(!comes_in(address));
    }
    assert_eq!(bus.daemon.client("ann").welcome["role"], "admin");
    let line = bus.reload("allowed_origins = ['https://app.example.org']\n");
    assert_eq!(line["applied"], "allowed_origins");
    let mut tries = 0;
    eventually("nobody to be admin beside a foreign page", || {
        tries += 1;
        let client = bus.daemon.client(&format!("bob-{tries}"));
        (client.welcome["role"] == "user").then_some(())
    });
    for address in [bus.daemon.bus, bus.daemon.telemetry] {
        eventually("the origin to be let in", || comes_in(address).then_some(()));
    }
    bus.reload("");
    for address in [bus.daemon.bus, bus.daemon.telemetry] {
        eventually("the origin to be refused", || (!comes_in(address)).then_some(()));
    }
}
