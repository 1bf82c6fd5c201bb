//! Connections that never become clients, or not for long.

use super::Target;
use crate::common::raw::{TEXT, frame, header};
use crate::enemy::{Enemy, fresh_name, handshake};
use crate::pace::Pace;
use std::time::Duration;

/// Slowloris: requests that go on and on, a byte at a time, and some that never begin.
pub(super) fn unfinished_handshakes(target: &Target, pace: &Pace) {
    let request = handshake(target.bus, "/", &"X-More: and more\r\n".repeat(100));
    let mut open: Vec<(Enemy, usize)> = Vec::new();
    while pace.goes_on() {
        while open.len() < 4 * target.crowd && pace.goes_on() {
            open.extend(Enemy::connect(target.bus).map(|enemy| (enemy, 0)));
        }
        let mut number = 0;
        open.retain_mut(|(enemy, done)| {
            number += 1;
            // Every fourth says nothing; the others never say their last two bytes.
            if number % 4 != 0 && *done < request.len() - 2 {
                *done += 1;
                return enemy.push(&request[*done - 1..*done]).is_all();
            }
            enemy.skim().is_some()
        });
        pace.rest(Duration::from_millis(5));
    }
}

/// Heads that are too long, in one header or in many, with and without an end.
pub(super) fn huge_heads(target: &Target, pace: &Pace) {
    let long = format!("X-Long: {}\r\n", "x".repeat(512 * 1024));
    let many = "X-Many: 1\r\n".repeat(20_000);
    let name = format!("{}: 1\r\n", "X".repeat(100_000));
    let path = format!("/?screen_name={}", "x".repeat(100_000));
    let mut endless = format!("GET / HTTP/1.1\r\nHost: bus\r\nX: {}", "x".repeat(60_000));
    endless += &"\n\r\n".repeat(1_000);
    let requests = [
        handshake(target.bus, "/", &long),
        handshake(target.bus, "/", &many),
        handshake(target.bus, "/", &name),
        handshake(target.bus, &path, ""),
        vec![b'G'; 256 * 1024],
        endless.into_bytes(),
    ];
    for request in requests.iter().cycle() {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::connect(target.bus) else { continue };
        let _ = enemy.push(request);
        while enemy.sip(4096).is_some_and(|count| count > 0) && pace.goes_on() {}
    }
}

/// Everything that is not a sound request for a WebSocket.
pub(super) fn bad_requests(target: &Target, pace: &Pace) {
    let sound = String::from_utf8(handshake(target.bus, "/", "")).unwrap();
    let changed = |from: &str, to: &str| {
        assert!(sound.contains(from), "{from}");
        sound.replacen(from, to, 1).into_bytes()
    };
    let at = |query: &str| handshake(target.bus, &format!("/?{query}"), "");
    let many_joins: Vec<String> = (0..2_000).map(|n| format!("r{n}:c")).collect();
    let requests = [
        changed("GET ", "POST "),
        changed("HTTP/1.1", "HTTP/1.0"),
        changed("HTTP/1.1", "HTTP/9.9"),
        changed("Upgrade: websocket\r\n", ""),
        changed("Connection: Upgrade\r\n", "Connection: close\r\n"),
        changed("Version: 13", "Version: 12"),
        changed("dGhlIHNhbXBsZSBub25jZQ==", "short"),
        changed("\r\nUpgrade", "\r\nHost: another\r\nUpgrade"),
        changed("\r\nUpgrade", "\r\nContent-Length: 100000\r\nUpgrade"),
        changed("\r\nUpgrade", "\r\nTransfer-Encoding: chunked\r\nUpgrade"),
        changed("\r\nUpgrade", "\r\n\u{0}: \u{1}\r\nUpgrade"),
        changed("\r\nUpgrade", "\r\nOrigin: https://evil.example\r\nUpgrade"),
        changed("\r\nUpgrade", "\r\nOrigin: null\r\nUpgrade"),
        changed("GET /", "GET /../../etc/passwd"),
        at("client_id=no%20name"),
        at("client_id=%ff%fe"),
        at("client_id=a&client_id=b"),
        at("unknown=1"),
        at("client_type=nobody"),
        at(&format!("screen_name={}", "x".repeat(5_000))),
        at(&format!("join={}", many_joins.join(","))),
        at("join=:::"),
        at("session=0"),
        // A TLS client's first words, and a PROXY header.
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(8),
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n\r\n".to_vec(),
        vec![0; 4_096],
        vec![0xff; 4_096],
    ];
    for request in requests.iter().cycle() {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::connect(target.bus) else { continue };
        let _ = enemy.push(request);
        let _ = enemy.sip(4096);
    }
}

/// Connections that end in every state in which one can.
pub(super) fn opened_and_dropped(target: &Target, pace: &Pace) {
    for number in 0_u64.. {
        if !pace.goes_on() {
            return;
        }
        let sound = handshake(target.bus, "/?join=quiet:street", "");
        let begun = match number % 5 {
            0 => &[][..],
            1 => &sound[..sound.len() / 2],
            _ => &sound[..],
        };
        let Some(mut enemy) = Enemy::connect(target.bus) else { continue };
        let _ = enemy.push(begun);
        if number % 5 > 2 {
            let _ = enemy.read_until("\"role\"");
        }
        if number % 5 == 4 {
            let _ = enemy.push(&header(TEXT, 500_000));
            let _ = enemy.push(&[0; 10_000]);
        }
        if number % 2 == 0 {
            enemy.reset();
        }
    }
}

/// Many ask for the id that one of them has.
pub(super) fn one_id_for_all(target: &Target, pace: &Pace) {
    let name = fresh_name();
    let request = handshake(target.bus, &format!("/?client_id={name}&join=quiet:street"), "");
    while pace.goes_on() {
        let mut crowd: Vec<_> =
            (0..target.crowd).filter_map(|_| Enemy::connect(target.bus)).collect();
        for enemy in &mut crowd {
            let _ = enemy.push(&request);
        }
        for enemy in &mut crowd {
            let _ = enemy.sip(4096);
        }
    }
}

/// Messages that come with the request, a megabyte of them, while the id is being decided.
pub(super) fn messages_before_the_answer(target: &Target, pace: &Pace) {
    let ping = frame(TEXT, "{}");
    while pace.goes_on() {
        let mut bytes = handshake(target.bus, &format!("/?client_id={}", fresh_name()), "");
        bytes.extend(ping.repeat(1024 * 1024 / ping.len()));
        let Some(mut enemy) = Enemy::connect(target.bus) else { continue };
        let _ = enemy.push(&bytes);
        while enemy.sip(64 * 1024).is_some_and(|count| count > 0) && pace.goes_on() {}
    }
}

/// More connections than the bus takes.
pub(super) fn more_than_may_connect(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let mut crowd: Vec<_> =
            (0..target.crowd).filter_map(|_| Enemy::connect(target.bus)).collect();
        for enemy in &mut crowd {
            let _ = enemy.push(&handshake(target.bus, "/", ""));
        }
        for enemy in &mut crowd {
            let _ = enemy.sip(4096);
        }
    }
}
