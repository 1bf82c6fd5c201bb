//! What the bus tells about itself, to scripts, to Prometheus and to whoever watches, and that
//! telling it never costs the bus anything (protocol, section 7).

use crate::common::client::{Knock, knock, request};
use crate::common::raw::{self, RawPeer};
use crate::common::{
    Client, Daemon, PATIENCE, Refused, TelemetryReader, envelope, eventually, http,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

const STREAM: &str = "integriguard:telemetry-stream";
const DASHBOARD: &str = "integriguard:dashboard-events";

#[test]
fn every_endpoint_says_what_it_is_for() {
    let daemon = Daemon::start(&["--shards", "2", "--node", "n1"]);
    let mut client = daemon.client_with("client_id=ann&join=lab:x");
    client.publish_acked("lab:x", json!({}));
    let version = env!("CARGO_PKG_VERSION");

    let health = daemon.get("/health").json();
    assert_eq!((&health["status"], &health["server"]), (&json!("ok"), &json!("arqonbus")));
    assert!(health["uptime_s"].is_u64(), "{health}");
    assert_eq!(daemon.get("/ready").json(), json!({"status": "ready"}));
    let told = daemon.get("/version").json();
    assert_eq!((&told["version"], &told["node"]), (&json!(version), &json!("n1")));
    assert_eq!(told["protocol"], "1.0");
    let status = eventually("the meters to be published", || {
        let status = daemon.get("/status").json();
        (status["clients"] == 1 && status["messages_received"] == 1).then_some(status)
    });
    // `science` and `integriguard` are there from the start.
    assert_eq!((&status["rooms"], &status["channels"]), (&json!(3), &json!(10)), "{status}");
    assert_eq!(status["storage"], "memory");

    for path in ["/health", "/ready", "/version", "/status"] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, 200);
        let head = answer.head.to_lowercase();
        assert!(head.contains("content-type: application/json"), "{path}: {head}");
        assert!(head.contains("cache-control: no-store"), "{path}: {head}");
    }
    for (method, path, code, word) in [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("GET", "/health/../../etc/passwd", 404, "NOT_FOUND"),
        ("POST", "/health", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/metrics", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        );
        let answer = http::exchange(daemon.http, request.as_bytes());
        let body = answer.json();
        assert_eq!((answer.status, &body["error"]), (code, &json!(word)), "{body}");
        assert!(body["endpoints"].as_array().unwrap().len() >= 5, "{body}");
    }
}

#[test]
fn prometheus_can_read_the_metrics() {
    let daemon = Daemon::with_shards(2);
    let mut telemetry = TelemetryReader::connect(&daemon);
    let mut member = daemon.client_with("client_id=member&join=lab:x");
    let mut client = daemon.client_with("client_id=ann&join=lab:x");
    for n in 0..20 {
        client.publish_acked("lab:x", json!({"n": n}));
        member.event();
    }
    client.publish_refused("lab:y", json!({}));
    telemetry.about("message_refused", "ann");
    let text = eventually("the meters to be published", || {
        let text = daemon.get("/metrics").body;
        let received = http::metric(&text, "arqonbus_messages_received_total", "");
        (received == 21.0 && http::metric(&text, "arqonbus_active_clients", "") == 2.0)
            .then_some(text)
    });
    let metric = |name: &str, label: &str| http::metric(&text, name, label);
    assert_eq!(metric("arqonbus_errors_total", "error=\"NOT_JOINED\""), 1.0);
    assert_eq!(metric("arqonbus_rooms_total", ""), 3.0);
    assert_eq!(metric("arqonbus_channels_total", ""), 10.0);
    assert_eq!(metric("arqonbus_websocket_connections", ""), 2.0);
    assert_eq!(metric("arqonbus_telemetry_connections", ""), 1.0);
    assert_eq!(metric("arqonbus_shard_delivery_latency_seconds_count", ""), 20.0);
    assert!(metric("arqonbus_messages_sent_total", "") >= 40.0, "20 events and 20 acks");
    assert!(metric("arqonbus_memory_usage_bytes", "") > 1e6);
    assert!(metric("arqonbus_uptime_seconds", "") > 0.0);
    for name in ["ask_lane_depth", "tell_lane_depth", "turn_duration_seconds_count"] {
        let name = format!("arqonbus_shard_{name}");
        for shard in ["shard=\"0\"", "shard=\"1\""] {
            assert!(metric(&name, shard) >= 0.0);
        }
    }
    check_exposition(&text);
    check_with_promtool(&text);
}

/// Asserts the rules of the text format that a scraper relies on.
fn check_exposition(text: &str) {
    assert!(text.ends_with('\n'));
    let (mut types, mut helps, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let is_name = |name: &str| {
        name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(types.insert(name, kind).is_none(), "{name} is described twice");
            assert!(helps.contains(name), "{name} has no help before its type");
            continue;
        }
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(is_name(name) && !help.is_empty() && helps.insert(name), "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(samples.insert(series), "{series} stands there twice");
        let name = series.split('{').next().unwrap();
        let parts = ["_bucket", "_sum", "_count"];
        let family = parts.iter().find_map(|part| {
            name.strip_suffix(part).filter(|family| types.get(family) == Some(&"histogram"))
        });
        let family = family.unwrap_or(name);
        match types.get(family) {
            Some(&"counter") => assert!(name.ends_with("_total") && value >= 0.0, "{line}"),
            Some(&("gauge" | "histogram" | "untyped")) => {}
            other => panic!("{line}: {other:?}"),
        }
        if let Some((labels, rest)) = series.split_once("le=\"") {
            let bound = rest.split('"').next().unwrap();
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
            buckets.entry(labels.to_owned()).or_default().push((bound, value));
        }
    }
    assert!(!buckets.is_empty(), "there are histograms");
    for (labels, buckets) in buckets {
        assert!(buckets.is_sorted(), "{labels}: {buckets:?} do not add up");
        assert!(buckets.last().unwrap().0.is_infinite(), "{labels} has no last bucket");
    }
}

/// Asks Prometheus's own checker, where it is installed.
fn check_with_promtool(text: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut promtool) = command.stderr(Stdio::piped()).spawn() else { return };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Clients that send as fast as the bus reads, and as many that take it all.
struct Saturation {
    is_over: Arc<AtomicBool>,
    publishers: Vec<thread::JoinHandle<()>>,
    members: Vec<thread::JoinHandle<()>>,
}

impl Saturation {
    fn start(daemon: &Daemon) -> Saturation {
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut publishers, mut members) = (Vec::new(), Vec::new());
        for n in 0..4 {
            let mut peer = daemon.raw(&format!("client_id=pub{n}&join=load:x"));
            let mut bytes = Vec::new();
            for _ in 0..200 {
                let event = envelope("event", &format!("pub{n}"), "load:x", json!({"n": n}));
                bytes.extend(raw::frame(raw::TEXT, event.to_string()));
            }
            let is_over = is_over.clone();
            peer.stream().set_write_timeout(Some(Duration::from_millis(100))).unwrap();
            publishers.push(thread::spawn(move || {
                let mut rest = &bytes[..];
                while !is_over.load(SeqCst) {
                    match peer.stream().write(rest) {
                        Ok(count) => rest = &rest[count..],
                        Err(error) => assert!(
                            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
                            "{error}"
                        ),
                    }
                    if rest.is_empty() {
                        rest = &bytes;
                    }
                }
            }));
            let mut member = daemon.raw(&format!("client_id=sub{n}&join=load:x"));
            member.stream().set_read_timeout(None).unwrap();
            members.push(thread::spawn(move || {
                let mut bytes = vec![0; 1 << 16];
                while matches!(member.stream().read(&mut bytes), Ok(count) if count > 0) {}
            }));
        }
        Saturation { is_over, publishers, members }
    }

    /// Ends the load, then the bus.
    fn stop(self, daemon: Daemon) {
        self.is_over.store(true, SeqCst);
        for publisher in self.publishers {
            publisher.join().unwrap();
        }
        drop(daemon);
        for member in self.members {
            member.join().unwrap();
        }
    }
}

/// A check of liveness, not of speed: all answers come while the load goes on, of which there is no end
/// that an answer could wait for.
#[test]
fn http_answers_while_the_bus_is_saturated() {
    // Without history the same messages may be sent again and again.
    let daemon = Daemon::start(&["--shards", "2", "--history-size", "0"]);
    let load = Saturation::start(&daemon);
    let received = || daemon.metric("arqonbus_messages_received_total", "");
    eventually("the load to run", || (received() > 20_000.0).then_some(()));
    let before = received();
    for round in 0..30 {
        for path in ["/health", "/ready", "/version", "/status", "/metrics"] {
            let answer = daemon.get(path);
            // A full lane is a reason to take no more clients, and to say so.
            let may_be_busy = path == "/ready" && answer.status == 503;
            assert!(answer.status == 200 || may_be_busy, "{path}: {answer:?}");
        }
        let mut telemetry = TelemetryReader::connect(&daemon);
        let id = format!("visitor{round}");
        drop(daemon.client(&id));
        telemetry.about("client_connected", &id);
    }
    assert!(received() > before + 10_000.0, "the load went on meanwhile");
    load.stop(daemon);
}

/// A member of the telemetry channel of the bus.
fn member_of_stream(daemon: &Daemon, address: &str) -> Client {
    let mut member = daemon.client("watcher");
    member.join(address);
    member
}

#[test]
fn what_happens_is_told_to_readers_and_to_the_channel_alike() {
    let daemon = Daemon::with_shards(2);
    let mut reader = TelemetryReader::connect(&daemon);
    let mut member = member_of_stream(&daemon, STREAM);
    let mut admin = daemon.client("admin");
    let mut ann = daemon.client_with("client_id=ann&client_type=service");
    ann.join("lab:new");
    ann.leave("lab:new");
    admin.command("delete_channel", json!({"channel": "lab:new"}));
    admin.command("create_channel", json!({"channel": "science:made"}));
    let refused = ann.publish_refused("lab:new", json!({}));
    assert_eq!(refused.what(), (403, "NOT_JOINED"));
    ann.close();
    let bob = daemon.client("bob");
    admin.command("disconnect_client", json!({"client_id": "bob"}));
    drop(bob);

    let in_new = json!({"room": "lab", "channel": "new"});
    for (event, about) in [
        ("client_connected", json!({"client_id": "ann", "client_type": "service"})),
        ("channel_created", json!({"channel": "new", "auto_created": true, "created_by": "ann"})),
        ("joined", with(&in_new, "client_id", "ann")),
        ("left", with(&in_new, "client_id", "ann")),
        ("channel_deleted", in_new.clone()),
        ("channel_created", json!({"channel": "made", "auto_created": false})),
        ("message_refused", json!({"client_id": "ann", "error": "NOT_JOINED", "code": 403})),
        ("client_disconnected", json!({"client_id": "ann", "reason": "by_client", "code": 1000})),
        ("client_disconnected", json!({"client_id": "bob", "code": 4013})),
    ] {
        let is_meant = |told: &Value| {
            about.as_object().unwrap().iter().all(|(key, value)| &told[key] == value)
        };
        let told = reader.find(event, is_meant);
        assert_eq!(
            (&told["type"], &told["from"]),
            (&json!("telemetry"), &json!("arqonbus_server"))
        );
        assert_eq!(told["room"], "integriguard");
        assert!(told["payload"]["at"].as_str().unwrap() <= told["timestamp"].as_str().unwrap());
        let same = member.find(|message| message["id"] == told["id"]);
        assert_eq!(same["payload"], told["payload"], "{event}");
        assert_eq!(same["type"], "telemetry");
        assert_eq!((&same["room"], &same["channel"]), (&told["room"], &told["channel"]));
        assert!(same["metadata"]["sequence"].is_u64(), "on the bus it has an order: {}", same.text);
    }
    let ids: BTreeSet<_> = reader.heard.iter().map(|told| told["id"].to_string()).collect();
    assert_eq!(ids.len(), reader.heard.len(), "nothing is told twice");
    let history = member.command("history", json!({"channel": STREAM, "limit": 1000}));
    let kept = history["messages"].as_array().unwrap();
    assert!(kept.len() >= 10, "it can be looked up, too: {}", kept.len());
}

fn with(object: &Value, key: &str, value: &str) -> Value {
    let mut object = object.clone();
    object[key] = value.into();
    object
}

#[test]
fn the_order_of_telling_is_the_same_everywhere() {
    let daemon = Daemon::with_shards(4);
    let mut readers: Vec<_> = (0..2).map(|_| TelemetryReader::connect(&daemon)).collect();
    let mut member = member_of_stream(&daemon, STREAM);
    readers[0].find("joined", |told| told["client_id"] == "watcher");
    for n in 0..40 {
        drop(daemon.client_with(&format!("client_id=c{n}&join=lab:x{}", n % 3)));
    }
    for reader in &mut readers {
        reader.about("client_disconnected", "c39");
        for n in 0..40 {
            reader.about("client_disconnected", &format!("c{n}"));
        }
    }
    let told = |reader: &TelemetryReader| -> Vec<Value> {
        let from = reader.heard.iter().position(|told| told["payload"]["eventType"] == "joined");
        reader.heard[from.unwrap() + 1..].iter().map(|told| told["id"].clone()).collect()
    };
    let (first, second) = (told(&readers[0]), told(&readers[1]));
    let common = first.len().min(second.len());
    assert_eq!(first[..common], second[..common]);
    let last = first.last().unwrap();
    let mut got = Vec::new();
    while got.last() != Some(last) {
        got.push(member.next()["id"].clone());
    }
    // Its own join was told of in either place, or in one alone.
    got.retain(|id| first.contains(id));
    assert!(first.ends_with(&got), "a hole or another order");
    assert!(got.len() + 2 >= first.len(), "{} of {}", got.len(), first.len());
}

#[test]
fn clients_tell_their_own() {
    let daemon = Daemon::with_shards(2);
    let mut reader = TelemetryReader::connect(&daemon);
    let mut member = member_of_stream(&daemon, STREAM);
    let mut ann = daemon.client("ann");
    let payload = json!({"eventType": "temperature", "payload": {"celsius": 21.5}, "more": [1]});
    let mut told = ann.envelope("telemetry", "lab:sensors", payload.clone());
    told["metadata"] = json!({"unit": "C", "ack": true});
    let id = ann.send(&told);
    assert_eq!(ann.reply(&id)["result"], json!({"accepted": true}));
    let heard = reader.find("temperature", |_| true);
    let got = member.find(|message| message["id"] == *id);
    for (envelope, where_) in [(&heard, "reader"), (&*got, "member")] {
        assert_eq!(envelope["id"], id, "{where_}");
        assert_eq!(envelope["from"], "ann", "{where_}: the true sender");
        assert_eq!(envelope["payload"], payload, "{where_}");
        assert_eq!(envelope["metadata"]["unit"], "C", "{where_}");
        let address = (&envelope["room"], &envelope["channel"]);
        assert_eq!(address, (&json!("lab"), &json!("sensors")), "{where_}");
    }
    for bad in [
        json!({}),
        json!({"eventType": "x"}),
        json!({"payload": {}}),
        json!({"eventType": 1, "payload": {}}),
        json!({"eventType": "x", "payload": []}),
        json!({"eventType": null, "payload": {}}),
        json!({"eventType": "x", "payload": null}),
    ] {
        let telemetry = ann.envelope("telemetry", "lab:sensors", bad.clone());
        let id = ann.send(&telemetry);
        let refused = Refused::of(&ann.reply(&id));
        assert_eq!(refused.what(), (400, "BAD_TELEMETRY"), "{bad}");
        assert!(refused.field.is_some(), "{bad}: {refused:?}");
    }
    reader.find("message_refused", |told| told["error"] == "BAD_TELEMETRY");
    assert!(reader.heard.iter().all(|told| told["payload"]["eventType"] != "x"));
}

#[test]
fn what_agents_do_is_told_once_a_second_at_most() {
    let daemon = Daemon::with_shards(2);
    let mut reader = TelemetryReader::connect(&daemon);
    let mut member = member_of_stream(&daemon, DASHBOARD);
    let mut agent = daemon.client_with("client_id=agent&client_type=ai-agent");
    let mut human = daemon.client_with("client_id=human&join=lab:x");
    agent.join("lab:x");
    let mut told: Vec<Value> = Vec::new();
    // It publishes without a pause until it was told of three times.
    while told.len() < 3 {
        for _ in 0..20 {
            agent.publish_acked("lab:x", json!({}));
            human.publish_acked("lab:x", json!({}));
        }
        member.drain_for(Duration::from_millis(10));
        while let Some(message) = member.take_kept() {
            assert_eq!(message["payload"]["eventType"], "agent_activity", "{}", message.text);
            told.push((*message).clone());
        }
    }
    let mut last = None;
    for envelope in &told {
        let payload = &envelope["payload"]["payload"];
        assert_eq!(payload["client_id"], "agent", "humans are nobody's business");
        assert_eq!((&payload["room"], &payload["channel"]), (&json!("lab"), &json!("x")));
        let at: jiff::Timestamp = envelope["payload"]["at"].as_str().unwrap().parse().unwrap();
        if let Some(last) = last.replace(at) {
            let passed = at.duration_since(last);
            // The clocks that count the second and that tell the time may differ by a hair.
            assert!(passed.as_millis() >= 990, "two within {passed:?}");
        }
        let same = reader.find("agent_activity", |_| true);
        assert_eq!(same["channel"], "dashboard-events");
    }
    assert_eq!(told[0]["payload"]["payload"]["action"], "joined");
    assert_eq!(told[1]["payload"]["payload"]["action"], "published");
    let heard: Vec<_> = reader
        .heard
        .iter()
        .filter(|told| told["payload"]["eventType"] == "agent_activity")
        .map(|told| told["id"].clone())
        .collect();
    assert!(heard.iter().zip(&told).all(|(id, told)| *id == told["id"]), "the same, in order");
}

#[test]
fn a_stuck_reader_slows_nobody() {
    const EVENTS: u64 = 12_000;
    let daemon = Daemon::with_shards(2);
    let mut stuck = TelemetryReader::connect(&daemon);
    socket2::SockRef::from(&*stuck.stream()).set_recv_buffer_size(4_096).unwrap();
    let mut reader = TelemetryReader::connect(&daemon);
    let reached = Arc::new(AtomicU64::new(0));
    let progress = reached.clone();
    let good = thread::spawn(move || {
        loop {
            let told = reader.next();
            if told["payload"]["eventType"] == "tick" {
                let n = told["payload"]["payload"]["n"].as_u64().unwrap();
                assert_eq!(n, progress.fetch_add(1, SeqCst) + 1, "it misses nothing");
                if n == EVENTS {
                    return reader;
                }
            }
        }
    });
    let mut member = daemon.client_with("client_id=member&join=lab:x");
    let mut ann = daemon.client_with("client_id=ann&join=lab:x");
    let filler = "x".repeat(3_000);
    // Some 36 MB, more than the backlog keeps for anybody.
    for n in 1..=EVENTS {
        let payload = json!({"eventType": "tick", "payload": {"n": n, "filler": filler}});
        let told = ann.envelope("telemetry", "lab:x", payload);
        ann.send(&told);
        if n % 200 == 0 {
            eventually("the good reader to hear it", || (reached.load(SeqCst) >= n).then_some(()));
            let sequence = ann.publish_acked("lab:x", json!({"n": n}));
            assert_eq!(member.event().sequence(), sequence);
            assert_eq!(daemon.get("/health").status, 200);
        }
    }
    drop(good.join().unwrap());
    assert_eq!(daemon.metric("arqonbus_shard_drops_total", "telemetry_full"), 0.0);
    // What the stuck one finds when it reads: the beginning, or that it was closed meanwhile.
    stuck.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(stuck.next()["type"], "telemetry");
}

#[test]
fn the_server_tells_how_it_does() {
    let daemon = Daemon::start(&["--stats-interval-ms", "150"]);
    let mut reader = TelemetryReader::connect(&daemon);
    let mut member = member_of_stream(&daemon, STREAM);
    member.publish_acked(STREAM, json!({}));
    let told = reader.find("stats", |told| {
        told["messages_received"].as_u64() >= Some(2) && told["clients"] == 1
    });
    let stats = &told["payload"]["payload"];
    for key in ["uptime_s", "connections", "rooms", "channels", "messages_sent", "memory_bytes"] {
        assert!(stats[key].is_u64(), "{key}: {stats}");
    }
    assert_eq!(stats["telemetry_connections"], 1);
    member.find(|message| message["id"] == told["id"]);
}

#[test]
fn foreign_pages_may_not_listen() {
    let daemon = Daemon::with_shards(1);
    let try_from = |address: SocketAddr, origin: &str| {
        let mut request = request(address, "");
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match knock(request, address) {
            Knock::Open(..) => 101,
            Knock::Refused(status, body) => {
                assert_eq!(body["error"], "ORIGIN_FORBIDDEN", "{body}");
                status
            }
        }
    };
    for (origin, status) in [
        ("http://localhost:3000", 101),
        ("http://127.0.0.1:9102", 101),
        ("https://evil.example", 403),
        ("http://localhost.evil.example", 403),
        ("null", 403),
    ] {
        for address in [daemon.bus, daemon.telemetry] {
            assert_eq!(try_from(address, origin), status, "{origin} at {address}");
        }
    }
    // No page at all: a program.
    drop(TelemetryReader::connect(&daemon));
}

#[test]
fn without_telemetry_there_is_none() {
    let daemon = Daemon::start(&["--shards", "2", "--telemetry", "false"]);
    let line = daemon.log().line("listening");
    assert!(line["telemetry_listen"].is_null(), "{line}");
    let mut member = member_of_stream(&daemon, STREAM);
    member.join(DASHBOARD);
    let mut agent = daemon.client_with("client_id=agent&client_type=ai-agent&join=lab:x");
    agent.publish_acked("lab:x", json!({}));
    let payload = json!({"eventType": "x", "payload": {}});
    let mut told = agent.envelope("telemetry", "lab:x", payload);
    told["metadata"] = json!({"ack": true});
    let id = agent.send(&told);
    assert_eq!(agent.reply(&id)["status"], "success");
    agent.close();
    eventually("it to be gone", || (daemon.get("/status").json()["clients"] == 1).then_some(()));
    assert_eq!(daemon.metric("arqonbus_telemetry_events_total", ""), 0.0);
    member.assert_quiet();
}

#[test]
fn readers_hear_the_end() {
    let mut daemon = Daemon::with_shards(2);
    let mut stream = TcpStream::connect(daemon.telemetry).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&raw::handshake("/", "")).unwrap();
    let mut reader = RawPeer::upgraded(stream);
    let clients: Vec<_> = (0..3).map(|n| daemon.client(&format!("c{n}"))).collect();
    daemon.signal(rustix::process::Signal::TERM);
    for mut client in clients {
        assert_eq!(client.await_close().0, 1001);
    }
    let mut gone = 0;
    let (code, reason) = loop {
        let (first, payload) = reader.frame().expect("the end is said");
        match first {
            raw::TEXT => {
                let told: Value = serde_json::from_slice(&payload).unwrap();
                let payload = &told["payload"];
                if payload["eventType"] == "client_disconnected" {
                    assert_eq!(payload["payload"]["reason"], "going_away");
                    gone += 1;
                }
            }
            raw::CLOSE => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                break (code, String::from_utf8_lossy(&payload[2..]).into_owned());
            }
            _ => {}
        }
    };
    assert_eq!(gone, 3, "everybody's end is told before its own");
    assert_eq!(code, 1001, "{reason}");
    reader.send(&raw::frame(raw::CLOSE, 1001u16.to_be_bytes()));
    assert!(daemon.wait().success());
}

#[test]
fn of_private_channels_telemetry_tells_the_room_alone() {
    let daemon = Daemon::with_shards(4);
    let mut reader = TelemetryReader::connect(&daemon);
    let mut ann = daemon.client_with("client_id=ann&client_type=service");
    let members =
        json!({"channel": "vault:plan-b", "type": "private", "metadata": {"members": ["spy"]}});
    ann.command("create_channel", members);
    let mut spy = daemon.client_with("client_id=spy&client_type=ai-agent&join=vault:plan-b");
    // Its members are told who comes and goes as before.
    spy.join_with("vault:plan-b", json!({"presence": true}));
    ann.join("vault:plan-b");
    assert_eq!(spy.notice("joined")["payload"]["client_id"], "ann");
    ann.leave("vault:plan-b");
    spy.close();
    eventually("the last member to be gone", || {
        ann.ask("delete_channel", json!({"channel": "vault:plan-b"})).ok()
    });
    ann.join("lab:end");

    reader.find("joined", |told| told["channel"] == "end");
    let hidden = |told: &Value| {
        (&told["room"], &told["channel"], &told["private"])
            == (&json!("vault"), &json!(null), &json!(true))
    };
    let mut told = BTreeMap::new();
    for envelope in &reader.heard {
        assert!(!envelope.to_string().contains("plan-b"), "{envelope}");
        let payload = &envelope["payload"];
        // An agent whose connection ends is told to have left the room as a whole.
        if payload["payload"]["room"] == "vault" && payload["payload"]["channel"] != "*" {
            assert!(hidden(&payload["payload"]), "{envelope}");
            let who = [&payload["payload"]["client_id"], &payload["payload"]["created_by"]];
            let is_agent = payload["eventType"] == "agent_activity";
            assert_eq!(who, [&json!(is_agent.then_some("spy")), &json!(null)], "{envelope}");
            *told.entry(payload["eventType"].as_str().unwrap()).or_insert(0) += 1;
        }
    }
    assert!(told.remove("agent_activity").is_some(), "{told:?}");
    let expected = [("channel_created", 1), ("channel_deleted", 1), ("joined", 2), ("left", 2)];
    assert_eq!(told, BTreeMap::from(expected));
}
