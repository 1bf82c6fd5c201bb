//! The telemetry port and the HTTP port.

use super::Target;
use crate::common::raw::{TEXT, frame};
use crate::enemy::{Enemy, handshake};
use crate::pace::Pace;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;

fn telemetry_reader(address: SocketAddr) -> Option<Enemy> {
    let mut enemy = Enemy::narrow(address)?;
    let _ = enemy.push(&handshake(address, "/", ""));
    Some(enemy)
}

/// Telemetry readers that read nothing, while much is to be told.
pub(super) fn telemetry_readers_stuck(target: &Target, pace: &Pace) {
    let mut readers = Vec::new();
    while readers.len() < target.crowd && pace.goes_on() {
        readers.extend(telemetry_reader(target.telemetry));
    }
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let mut bytes = enemy.command("join_channel", json!({"channel": "told:of"}));
        bytes.extend(enemy.command("leave_channel", json!({"channel": "told:of"})));
        let inner = json!({"eventType": "noise", "payload": {"text": "x".repeat(50_000)}});
        let mut noise = enemy.event("told:of", inner);
        noise["type"] = "telemetry".into();
        bytes.extend(frame(TEXT, noise.to_string()));
        while pace.goes_on() && enemy.push(&bytes).is_all() && enemy.skim().is_some() {}
    }
}

/// Telemetry readers that say things, and break frames.
pub(super) fn telemetry_readers_that_talk(target: &Target, pace: &Pace) {
    let said = [
        frame(TEXT, "{}").repeat(500),
        frame(0x82, [0; 100]),
        frame(TEXT, "x".repeat(100_000)),
        frame(0x89, "").repeat(5_000),
        vec![0xff; 1_000],
        b"\x81\x02{}".to_vec(),
    ];
    for bytes in said.iter().cycle() {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::connect(target.telemetry) else { continue };
        let _ = enemy.push(&handshake(target.telemetry, "/", ""));
        let _ = enemy.sip(4096);
        let _ = enemy.push(bytes);
        let _ = enemy.sip(4096);
    }
}

/// Requests over HTTP whose head or body never ends, and connections that ask nothing.
pub(super) fn http_never_finished(target: &Target, pace: &Pace) {
    let requests = [
        format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nX: {}", target.http, "x".repeat(1_000)),
        format!(
            "POST /health HTTP/1.1\r\nHost: {}\r\nContent-Length: 1000000\r\n\r\n{}",
            target.http,
            "x".repeat(1_000)
        ),
        format!(
            "POST /status HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n{}",
            target.http,
            "x".repeat(1_000)
        ),
        String::new(),
    ];
    let mut open: Vec<(Enemy, &[u8])> = Vec::new();
    while pace.goes_on() {
        while open.len() < 4 * target.crowd && pace.goes_on() {
            let request = requests[open.len() % requests.len()].as_bytes();
            open.extend(Enemy::connect(target.http).map(|enemy| (enemy, request)));
        }
        open.retain_mut(|(enemy, left)| {
            let Some((byte, rest)) = left.split_first() else { return enemy.skim().is_some() };
            *left = rest;
            enemy.push(&[*byte]).is_all()
        });
        pace.rest(Duration::from_millis(2));
    }
}

/// Requests without end on one connection, whose answers nobody reads.
pub(super) fn http_unread(target: &Target, pace: &Pace) {
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", target.http);
    let bytes = [request("/metrics"), request("/status"), request("/health")].concat().repeat(50);
    let mut crowd: Vec<Enemy> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < target.crowd && pace.goes_on() {
            crowd.extend(Enemy::narrow(target.http));
        }
        crowd.retain_mut(|enemy| !pace.goes_on() || enemy.push(bytes.as_bytes()).is_all());
    }
}

/// Requests that are none, or for somebody else, or too long.
pub(super) fn http_nonsense(target: &Target, pace: &Pace) {
    let host = target.http;
    let requests = [
        "GET /status HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
        format!("GET /status HTTP/1.1\r\nHost: {host}\r\nOrigin: https://evil.example\r\n\r\n"),
        "GET /status HTTP/1.1\r\n\r\n".to_owned(),
        format!("DELETE /status HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "x".repeat(30_000)),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\n{}\r\n", "X: 1\r\n".repeat(5_000)),
        format!("GET /../../etc/passwd HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!("GET /%ff%00 HTTP/1.1\r\nHost: {host}\r\n\r\n"),
        format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
        ),
        "GET / HTTP/0.9\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}".repeat(20),
        "\u{0}".repeat(10_000),
    ];
    for request in requests.iter().cycle() {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::connect(target.http) else { continue };
        let _ = enemy.push(request.as_bytes());
        let _ = enemy.sip(4096);
    }
}
