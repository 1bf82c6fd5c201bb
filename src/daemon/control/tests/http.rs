//! The HTTP port.

use super::*;
use crate::base::budget::BUDGET;
use crate::base::limits::LANE_SLOTS;
use crate::protocol::fault::Fault;
use crate::shard::meters::{Counter, Drop as Dropped, Gauge, Pause};
use std::collections::HashSet;
use std::process::{Command, Stdio};

#[test]
fn every_endpoint_answers() {
    let node = Node::start();
    node.tally(0, |tally| {
        tally.set(Gauge::Clients, 3);
        tally.set(Gauge::Rooms, 2);
        tally.add(Counter::MessagesReceived, 10);
    });
    node.tally(1, |tally| {
        tally.set(Gauge::Clients, 4);
        tally.set(Gauge::Channels, 9);
        tally.add(Counter::MessagesSent, 70);
    });
    let health = get(node.http, "/health");
    assert_eq!((health.code, &health.json()["status"]), (200, &"ok".into()));
    assert!(health.head.contains("x-content-type-options: nosniff"), "{}", health.head);
    assert!(health.head.contains("content-type: application/json"), "{}", health.head);
    let version = get(node.http, "/version").json();
    assert_eq!((&version["version"], &version["protocol"]), (&"9.8.7".into(), &"1.0".into()));
    assert_eq!(get(node.http, "/ready").code, 200);
    let status = get(node.http, "/status").json();
    for (key, value) in [
        ("clients", 7),
        ("rooms", 2),
        ("channels", 9),
        ("messages_received", 10),
        ("messages_sent", 70),
        ("shards", 2),
        ("uptime_s", 0),
    ] {
        assert_eq!(status[key], value, "{key}");
    }
    assert_eq!(status["node"], "node \"one\"");
    assert_eq!(status["state"], "ready");
    let well = serde_json::json!({"state": "ok", "pending": 0, "lost": 0});
    assert_eq!((&status["storage"], &status["storage_state"]), (&"redis".into(), &well));
    assert_eq!(status["per_shard"][1]["clients"], 4);
    assert!(status["per_shard"][0]["busy_share"].is_number());
    assert_eq!(status["listen"]["http"], node.http.to_string());
    assert_eq!(request(node.http, "HEAD", "/health", "").code, 200);
}

#[test]
fn a_node_that_can_store_nothing_is_ready_and_says_so() {
    let node = Node::start();
    node.tally(0, |tally| {
        tally.set(Gauge::EventsPending, 3);
        tally.set(Gauge::AcksWaiting, 2);
        tally.add(Counter::EventsLost, 4);
    });
    let since = Now { mono_ns: 0, wall_us: 1_764_000_000_000_000 };
    node.facts.set_outage(Some(Outage {
        since,
        reason: "connection refused".into(),
        reason_at: Now { wall_us: since.wall_us + 7_000_000, ..since },
    }));
    let ready = get(node.http, "/ready");
    assert_eq!(ready.code, 200);
    let expected = serde_json::json!({
        "status": "ready", "storage": "degraded", "since": "2025-11-24T16:00:00.000000Z",
        "reason": "connection refused", "reason_at": "2025-11-24T16:00:07.000000Z",
    });
    assert_eq!(ready.json(), expected);
    let expected = serde_json::json!({
        "state": "degraded", "since": "2025-11-24T16:00:00.000000Z",
        "reason": "connection refused", "reason_at": "2025-11-24T16:00:07.000000Z",
        "pending": 3, "lost": 4,
    });
    assert_eq!(get(node.http, "/status").json()["storage_state"], expected);
    for (line, value) in [
        ("arqonbus_storage_degraded ", 1.0),
        ("arqonbus_storage_pending ", 3.0),
        ("arqonbus_storage_lost_total ", 4.0),
        ("arqonbus_storage_acks_waiting ", 2.0),
    ] {
        assert_eq!(node.metric(line), value, "{line}");
    }
    node.facts.set_outage(None);
    assert_eq!(get(node.http, "/ready").json(), serde_json::json!({"status": "ready"}));
    assert_eq!(node.metric("arqonbus_storage_degraded "), 0.0);
}

#[test]
fn what_is_not_there_says_what_is() {
    let node = Node::start();
    for (port, method, path, code, word) in [
        (node.http, "GET", "/nothing?x=1", 404, "NOT_FOUND"),
        (node.http, "GET", "/", 404, "NOT_FOUND"),
        (node.http, "POST", "/metrics", 405, "METHOD_NOT_ALLOWED"),
        (node.http, "DELETE", "/health", 405, "METHOD_NOT_ALLOWED"),
        (node.telemetry, "GET", "/other", 404, "NOT_FOUND"),
        (node.telemetry, "POST", "/", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let answer = request(port, method, path, "");
        assert_eq!(answer.code, code, "{method} {path}");
        let body = answer.json();
        assert_eq!((&body["error"], &body["code"]), (&word.into(), &code.into()));
        assert!(!body["endpoints"].as_array().unwrap().is_empty());
        if code == 405 {
            assert_eq!(
                answer.head.matches("\r\nallow: get, head\r\n").count(),
                1,
                "{}",
                answer.head
            );
        }
    }
}

#[test]
fn a_loopback_port_answers_to_its_own_names_and_pages_only() {
    let node = Node::start();
    let ask = |head: &str| {
        let mut stream = TcpStream::connect(node.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let text = format!("{}\r\nconnection: close\r\n\r\n", head.replace('\n', "\r\n"));
        stream.write_all(text.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_ascii_lowercase(), body.to_owned())
    };
    let (host, origin) = ("HOST_FORBIDDEN", "ORIGIN_FORBIDDEN");
    for (head, word) in [
        ("host: localhost:9102", None),
        ("host: 127.0.0.1", None),
        ("host: [::1]:9102", None),
        // What names no host is no browser.
        ("x: y", None),
        // The host of a page that is let in.
        ("host: good", None),
        ("host: evil.example", Some(host)),
        ("host: evil.example:9102", Some(host)),
        ("host: localhost.evil.example", Some(host)),
        ("host: localhost\nhost: evil.example", Some(host)),
        ("host: localhost\norigin: http://good", None),
        ("host: localhost\norigin: http://evil.example", Some(origin)),
        ("host: localhost\norigin: null", Some(origin)),
        ("host: localhost\norigin: http://good\norigin: null", Some(origin)),
        ("host: localhost\nsec-fetch-site: cross-site", Some(origin)),
        ("host: localhost\nsec-fetch-site: cross-site\norigin: http://good", None),
        ("host: localhost\nsec-fetch-site: same-site", None),
        ("host: localhost\nsec-fetch-site: none", None),
    ] {
        for (target, good) in [("GET /status", 200), ("GET /nothing", 404), ("POST /ready", 405)] {
            let (code, answer, body) = ask(&format!("{target} HTTP/1.1\n{head}"));
            assert_eq!(code, if word.is_some() { 403 } else { good }, "{target} {head}");
            if let Some(word) = word {
                assert!(body.contains(&format!("\"error\":\"{word}\"")), "{head}: {body}");
                assert!(!answer.contains("access-control"), "{head}: {answer}");
            }
            let may_read = answer.contains("access-control-allow-origin: http://good\r\n");
            assert_eq!(may_read, word.is_none() && head.contains("origin: "), "{head}: {answer}");
        }
    }
    assert_eq!(ask("GET http://evil.example/status HTTP/1.1\nhost: localhost").0, 403);
    assert_eq!(ask("GET http://localhost/status HTTP/1.1\nhost: localhost").0, 200);
    let advice = ask("GET / HTTP/1.1\nhost: evil.example").2;
    assert!(advice.contains("add `http://evil.example` to") && !advice.contains("<"), "{advice}");
    let advice = ask("GET / HTTP/1.1\nhost: a b").2;
    assert!(!advice.contains("add `"), "what is no origin can't be added: {advice}");
}

/// What `/ready`, `/status` and the metrics say of a part that can't do its work: all the same.
fn degraded(node: &Node, component: &str) -> Option<Value> {
    let find = |body: &Value| {
        let rows = body["degraded"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["component"] == component)
    };
    let in_ready = find(&get(node.http, "/ready").json());
    let in_status = find(&get(node.http, "/status").json());
    let metric = node.metric(&format!("arqonbus_degraded{{component=\"{component}\"}} "));
    let without_count = |row: &Value| (row["cause"].clone(), row["since"].clone());
    assert_eq!(in_ready.as_ref().map(without_count), in_status.as_ref().map(without_count));
    assert_eq!(metric == 1.0, in_status.is_some());
    in_status
}

#[test]
fn what_can_not_do_its_work_is_named_alike_everywhere() {
    let node = Node::start();
    let now = Now { mono_ns: 8_000_000_000, wall_us: 1_764_000_000_000_000 };
    for (component, cause, is_needed) in [
        (health::Component::Accept, "no descriptors", true),
        (health::Component::Log, "full", false),
    ] {
        let label = component.label();
        assert_eq!(degraded(&node, label), None);
        node.facts.health().fail(component, now, "something else");
        node.facts.health().fail(component, now.after(Duration::from_secs(5)), cause);
        let row = degraded(&node, label).unwrap();
        assert_eq!((&row["cause"], &row["failures"]), (&cause.into(), &2.into()));
        assert_eq!(row["since"], "2025-11-24T16:00:00.000000Z");
        assert_eq!(row["cause_at"], "2025-11-24T16:00:05.000000Z");
        let ready = get(node.http, "/ready");
        assert_eq!(ready.code, if is_needed { 503 } else { 200 }, "{}", ready.body);
        if is_needed {
            let reason = format!("{label}: {cause}");
            assert_eq!(ready.json()["status"], "degraded");
            assert_eq!(ready.json()["reason"], reason);
            assert_eq!(get(node.http, "/status").json()["reason"], reason);
        }
        node.facts.health().succeed(component, now);
        assert_eq!(degraded(&node, label), None);
        assert_eq!(get(node.http, "/ready").code, 200);
        let failures = format!("arqonbus_failures_total{{component=\"{label}\"}} ");
        assert_eq!(node.metric(&failures), 2.0);
    }
}

#[test]
fn a_shard_that_does_not_end_its_turn_is_seen() {
    let node = Node::with(FAST, Limits::default(), 0);
    let turns = "arqonbus_degraded{component=\"shards\"} ";
    // A shard that has just begun its first turn is none.
    node.tally(0, |tally| tally.add(Counter::Turns, 1));
    node.wait_for_metric(turns, 1.0);
    let ready = get(node.http, "/ready");
    assert_eq!(ready.code, 503);
    assert_eq!(ready.json()["reason"], "shards: shard 0 does not end its turn");
    let stop = Arc::new(AtomicU64::new(0));
    let turning = {
        let (meters, stop) = (node.meters[0].clone(), stop.clone());
        std::thread::spawn(move || {
            let mut tally = Tally::default();
            while stop.load(Relaxed) == 0 {
                tally.add(Counter::Turns, 1);
                meters.publish(&tally);
                std::thread::sleep(Duration::from_millis(2));
            }
        })
    };
    node.wait_for_metric(turns, 0.0);
    stop.store(1, Relaxed);
    turning.join().unwrap();
}

#[test]
fn lines_that_the_log_drops_are_counted_and_told() {
    let node = Node::with(FAST, Limits::default(), 0);
    node.log.dropped.fetch_add(7, Relaxed);
    node.wait_for_metric("arqonbus_failures_total{component=\"log\"} ", 1.0);
    assert_eq!(node.metric("arqonbus_log_lines_dropped_total "), 7.0);
    // None was dropped since.
    node.wait_for_metric("arqonbus_degraded{component=\"log\"} ", 0.0);
}

#[test]
fn readiness_follows_phase_lanes_and_connections() {
    let node = Node::with(FAST, Limits { max_connections: 5, ..Limits::default() }, 0);
    let state = || {
        let answer = get(node.http, "/ready");
        let body = answer.json();
        assert_eq!(answer.code == 200, body["reason"].is_null());
        let status = get(node.http, "/status").json();
        assert_eq!(status["state"], body["status"]);
        (answer.code, body["status"].as_str().unwrap().to_owned())
    };
    let nearly_full = (LANE_SLOTS * 9 / 10) as u64;
    let at = |gauge, value| move |tally: &mut Tally| tally.set(gauge, value);
    assert_eq!(state(), (200, "ready".into()));
    for gauge in [Gauge::AskLane, Gauge::TellLane] {
        node.tally(1, at(gauge, nearly_full));
        assert_eq!(state(), (200, "ready".into()));
        node.tally(1, at(gauge, nearly_full + 1));
        assert_eq!(state(), (503, "overloaded".into()));
    }
    node.tally(1, at(Gauge::Connections, 4));
    assert_eq!(state(), (200, "ready".into()));
    node.tally(0, at(Gauge::Connections, 1));
    assert_eq!(state(), (503, "overloaded".into()));
    node.facts.set_limits(Limits::default());
    assert_eq!(state(), (200, "ready".into()));
    for (phase, word) in [(Phase::Starting, "starting"), (Phase::Draining, "draining")] {
        node.facts.set_phase(phase);
        assert_eq!(state(), (503, word.to_owned()));
        assert_eq!(get(node.http, "/health").code, 200);
    }
}

#[test]
fn metrics_are_those_of_the_meters_and_well_formed() {
    let node = Node::start();
    node.tally(0, |tally| {
        tally.set(Gauge::Rooms, 5);
        tally.set(Gauge::Clients, 2);
        tally.add(Counter::MessagesReceived, 3);
        tally.add(Counter::BusyNanoseconds, 1_500_000_000);
        tally.fault(Fault::NotJoined);
        tally.dropped(Dropped::Expired, 4);
        tally.close(CloseReason::TooSlow);
        tally.delivery(30_000, 6);
        tally.turn(2_000_000);
    });
    node.tally(1, |tally| {
        tally.set(Gauge::Rooms, 6);
        tally.add(Counter::MessagesReceived, 4);
        tally.fault(Fault::NotJoined);
        tally.pause(Pause::OutboxFull);
        tally.set(Gauge::AskLane, 17);
    });
    node.storage.connections.store(3, Relaxed);
    node.storage.pending_bytes.store(1_024, Relaxed);
    node.storage.commits[1].store(4, Relaxed);
    node.storage.commits_us.store(7_500, Relaxed);
    for (line, value) in [
        ("arqonbus_storage_degraded ", 0.0),
        ("arqonbus_storage_connections_total ", 3.0),
        ("arqonbus_storage_pending_bytes ", 1_024.0),
        ("arqonbus_storage_commit_duration_seconds_bucket{le=\"0.001\"} ", 0.0),
        ("arqonbus_storage_commit_duration_seconds_bucket{le=\"0.002\"} ", 4.0),
        ("arqonbus_storage_commit_duration_seconds_sum ", 0.0075),
        ("arqonbus_active_clients ", 2.0),
        ("arqonbus_messages_received_total ", 7.0),
        ("arqonbus_messages_sent_total ", 0.0),
        ("arqonbus_errors_total{error=\"NOT_JOINED\",code=\"403\"} ", 2.0),
        ("arqonbus_rooms_total ", 11.0),
        ("arqonbus_channels_total ", 0.0),
        ("arqonbus_websocket_connections ", 0.0),
        ("arqonbus_telemetry_connections ", 0.0),
        ("arqonbus_shard_busy_seconds_total{shard=\"0\"} ", 1.5),
        ("arqonbus_shard_ask_lane_depth{shard=\"1\"} ", 17.0),
        ("arqonbus_shard_drops_total{shard=\"0\",reason=\"expired\"} ", 4.0),
        ("arqonbus_shard_pauses_total{shard=\"1\",reason=\"outbox_full\"} ", 1.0),
        ("arqonbus_shard_closes_total{shard=\"0\",reason=\"too_slow\",code=\"4008\"} ", 1.0),
        ("arqonbus_shard_delivery_latency_seconds_bucket{shard=\"0\",le=\"0.00005\"} ", 6.0),
        ("arqonbus_shard_delivery_latency_seconds_count{shard=\"1\"} ", 0.0),
        ("arqonbus_shard_turn_duration_seconds_sum{shard=\"0\"} ", 0.002),
    ] {
        assert_eq!(node.metric(line), value, "{line}");
    }
    assert!(node.metric("arqonbus_uptime_seconds ") > 0.0);
    #[cfg(target_os = "linux")]
    assert!(node.metric("arqonbus_memory_usage_bytes ") > 1e6);
    let answer = get(node.http, "/metrics");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    check_format(&answer.body);
    check_budget(&answer.body);
    check_with_promtool(&answer.body);
}

/// `/metrics` has every metric that the budget names.
fn check_budget(text: &str) {
    for counter in BUDGET.iter().flat_map(|row| row.counters) {
        assert!(text.contains(&format!("# HELP {counter} ")), "there is no metric {counter}");
    }
}

/// Every sample belongs to the family above it, and no series stands there twice.
fn check_format(text: &str) {
    let (mut family, mut kind) = ("", "");
    let (mut families, mut all_series) = (HashSet::new(), HashSet::new());
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap();
            assert!(help.len() > family.len() + 1, "no help: {line}");
            assert!(families.insert(family), "twice: {line}");
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            kind = typed.strip_prefix(family).unwrap().trim();
            let has_total = family.ends_with("_total");
            assert!(if kind == "untyped" { has_total } else { has_total == (kind == "counter") });
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            value.parse::<f64>().unwrap();
            let name = series.split('{').next().unwrap();
            let suffix = name.strip_prefix(family).unwrap();
            let suffixes: &[&str] =
                if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line} is under {family}");
            assert!(all_series.insert(series), "twice: {line}");
        }
    }
}

/// Asks Prometheus' own checker, where there is one.
fn check_with_promtool(text: &str) {
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        eprintln!("promtool is not installed; the metrics were checked by their structure alone");
        return;
    };
    promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn slow_http_clients_hinder_nobody_and_are_let_go() {
    // Those that hang may hang longer than anybody here waits for an answer.
    let patient = Bounds { head: PATIENCE * 6, connection: PATIENCE * 6, ..FAST };
    let node = Node::with(patient, Limits::default(), 0);
    let hanging = hang(&node);
    assert_eq!(get(node.http, "/health").code, 200);
    drop((hanging, node));

    for stream in &mut hang(&Node::with(FAST, Limits::default(), 0)) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end as any; a timeout is none.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    }
}

/// A thousand clients that never ask, or never read.
fn hang(node: &Node) -> Vec<TcpStream> {
    (0..1_000)
        .map(|n| {
            let mut stream = TcpStream::connect(node.http).unwrap();
            // Some say nothing, some half a head, some ask for much and read nothing.
            match n % 3 {
                0 => {}
                1 => stream.write_all(b"GET /health HTTP/1.1\r\nhost:").unwrap(),
                _ => stream.write_all(b"GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap(),
            }
            stream
        })
        .collect()
}

#[test]
fn connections_beyond_the_bound_are_refused_at_once() {
    let node = Node::with(Bounds { http_sockets: 3, ..FAST }, Limits::default(), 0);
    let mut held: Vec<_> = (0..3).map(|_| TcpStream::connect(node.http).unwrap()).collect();
    let mut refused = TcpStream::connect(node.http).unwrap();
    refused.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = String::new();
    refused.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    // The telemetry port has places of its own.
    assert_eq!(get(node.telemetry, "/").code, 426);
    // Those that say nothing are let go, and make place.
    for stream in &mut held {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    }
    assert_eq!(node.metric("arqonbus_http_refused_total "), 1.0);
}
