//! Messages: malformed, repeated, short-lived, private, large.

use super::Target;
use crate::common::raw::{TEXT, frame};
use crate::enemy::{Enemy, fresh_name};
use crate::pace::Pace;
use serde_json::{Value, json};
use std::time::Duration;

/// A malformed message of each class.
fn malformed_texts(from: &str) -> Vec<String> {
    let good = json!({
        "version": "1.0", "id": "arq_1", "type": "event", "room": "mal", "channel": "formed",
        "from": from, "timestamp": "2025-11-30T12:00:00Z", "payload": {"a": 1},
    });
    let with = |key: &str, value: Value| {
        let mut message = good.clone();
        message[key] = value;
        message.to_string()
    };
    let nested = |open: &str, close: &str, levels: usize| {
        let deep = open.repeat(levels) + "1" + &close.repeat(levels);
        good.to_string().replace("{\"a\":1}", &format!("{{\"a\":{deep}}}"))
    };
    let many_keys: serde_json::Map<String, Value> =
        (0..1_000).map(|n| (format!("k{n}"), json!(n))).collect();
    let mut texts = vec![
        String::new(),
        "{".to_owned(),
        "[]".to_owned(),
        "nonsense".to_owned(),
        good.to_string() + "{}",
        good.to_string().replace("1.0", "9.9"),
        good.to_string().replace("{\"a\":1}", "{\"a\":1,\"a\":2}"),
        good.to_string().replace("\"a\":1", "\"a\":1e999"),
        good.to_string().replace("\"a\":1", "\"a\":\"\\ud800\""),
        nested("[", "]", 10_000),
        nested("{\"a\":", "}", 10_000),
        with("id", json!("no id")),
        with("type", json!("system")),
        with("type", json!(["event"])),
        with("room", json!("../..")),
        with("channel", json!("x".repeat(10_000))),
        with("from", json!("arqonbus_server")),
        with("timestamp", json!("yesterday")),
        with("payload", json!("{}")),
        with("metadata", json!({"sequence": 1})),
        with("metadata", json!({"ttl_ms": -1})),
        with("metadata", Value::Object(many_keys)),
        with("unknown", json!(1)),
    ];
    for key in ["version", "id", "type", "room", "channel", "from", "timestamp", "payload"] {
        let mut message = good.clone();
        message.as_object_mut().unwrap().remove(key);
        texts.push(message.to_string());
    }
    texts
}

/// Malformed messages of every class, until the connection is closed for it, and again.
pub(super) fn malformed(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        for text in malformed_texts(&enemy.id) {
            if !enemy.push(&frame(TEXT, text)).is_all() || enemy.skim().is_none() {
                break;
            }
        }
    }
}

/// The same, where nothing closes for it, by clients that read no refusal.
pub(super) fn malformed_unread(target: &Target, pace: &Pace) {
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < target.crowd / 2 && pace.goes_on() {
            let Some(enemy) = Enemy::narrow_client(target.bus, "") else { continue };
            let texts = malformed_texts(&enemy.id);
            let bytes = texts.iter().filter(|text| text.len() < 2_000);
            let bytes: Vec<u8> = bytes.flat_map(|text| frame(TEXT, text)).collect();
            crowd.push((enemy, bytes.repeat(50)));
        }
        crowd.retain_mut(|(enemy, bytes)| !pace.goes_on() || enemy.push(bytes).is_all());
    }
}

/// The same event thousands of times, each with an ack; half of the clients read none of them.
pub(super) fn one_id_again_and_again(target: &Target, pace: &Pace) {
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < 6 && pace.goes_on() {
            let Some(enemy) = Enemy::client(target.bus, "join=same:same") else { continue };
            let mut event = enemy.event("same:same", json!({}));
            event["metadata"] = json!({"ack": true});
            crowd.push((enemy, frame(TEXT, event.to_string()).repeat(200)));
        }
        let mut number = 0;
        crowd.retain_mut(|(enemy, bytes)| {
            number += 1;
            (number % 2 == 0 || enemy.skim().is_some()) && enemy.push(bytes).is_all()
        });
    }
}

/// Events that live a millisecond, for members that read late.
pub(super) fn short_lives(target: &Target, pace: &Pace) {
    let join = || Enemy::narrow_client(target.bus, "join=short:life");
    let mut members: Vec<Enemy> = (0..6).filter_map(|_| join()).collect();
    while pace.goes_on() {
        let Some(mut sender) = Enemy::client(target.bus, "join=short:life") else { continue };
        for _ in 0..40 {
            let mut bytes = Vec::new();
            for _ in 0..50 {
                let mut event = sender.event("short:life", json!({"text": "x".repeat(500)}));
                event["metadata"] = json!({"ttl_ms": 1});
                bytes.extend(frame(TEXT, event.to_string()));
            }
            if !pace.goes_on() || !sender.push(&bytes).is_all() {
                break;
            }
            let _ = sender.skim();
        }
        members.retain_mut(|member| member.sip(20_000).is_some());
        members.extend((members.len()..6).filter_map(|_| join()));
    }
}

/// Private messages to as many as one may name: to nobody, to itself, and to a crowd.
pub(super) fn private_to_all_and_nobody(target: &Target, pace: &Pace) {
    let join = || Enemy::client(target.bus, "join=private:talk");
    let mut crowd: Vec<Enemy> = (0..target.crowd).filter_map(|_| join()).collect();
    let mut sender = join();
    while pace.goes_on() {
        let Some(enemy) = &mut sender else {
            sender = join();
            continue;
        };
        let nobody: Vec<String> = (0..64).map(|_| fresh_name()).collect();
        let all: Vec<&str> = crowd.iter().map(|enemy| &*enemy.id).take(64).collect();
        let mut bytes = Vec::new();
        for targets in [json!(nobody), json!(all), json!([enemy.id]), json!(nobody[0])] {
            let payload = json!({"target": targets, "text": "x".repeat(1_000)});
            let mut message = enemy.event("private:pm", payload);
            message["type"] = "private".into();
            bytes.extend(frame(TEXT, message.to_string()));
        }
        if !enemy.push(&bytes.repeat(10)).is_all() || enemy.skim().is_none() {
            sender = None;
        }
        // Half of the crowd reads.
        crowd.iter_mut().step_by(2).for_each(|enemy| _ = enemy.skim());
    }
}

/// Long private messages to one client that reads nothing.
pub(super) fn private_to_one_that_does_not_read(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let Some(victim) = Enemy::narrow_client(target.bus, "") else { continue };
        let Some(mut sender) = Enemy::client(target.bus, "join=private:talk") else { continue };
        let payload = json!({"target": victim.id, "text": "x".repeat(500_000)});
        for _ in 0..40 {
            let mut message = sender.event("private:pm", payload.clone());
            message["type"] = "private".into();
            if !pace.goes_on() || !sender.say(&message).is_all() {
                break;
            }
            let _ = sender.skim();
        }
    }
}

/// Telemetry of clients, long and short.
pub(super) fn telemetry_of_clients(target: &Target, pace: &Pace) {
    let Some(mut enemy) = Enemy::client(target.bus, "") else { return };
    let mut reader = Enemy::client(target.bus, "join=integriguard:telemetry-stream");
    for number in 0_usize.. {
        if !pace.goes_on() {
            return;
        }
        let length = if number % 50 == 0 { 500_000 } else { 100 };
        let inner = json!({"eventType": "noise", "payload": {"text": "x".repeat(length)}});
        let mut message = enemy.event("noise:noise", inner);
        message["type"] = "telemetry".into();
        let bytes = frame(TEXT, message.to_string());
        let is_there = enemy.push(&bytes.repeat(if length < 1_000 { 20 } else { 1 })).is_all();
        if !is_there || enemy.skim().is_none() {
            let Some(another) = Enemy::client(target.bus, "") else { return };
            enemy = another;
        }
        if let Some(reader) = &mut reader {
            let _ = reader.skim();
        }
    }
}

/// Events that ask where they went, in a channel with members.
pub(super) fn everything_traced(target: &Target, pace: &Pace) {
    let join = || Enemy::client(target.bus, "join=traced:talk");
    let mut members: Vec<Enemy> = (0..target.crowd).filter_map(|_| join()).collect();
    while pace.goes_on() {
        let Some(mut sender) = join() else { continue };
        while pace.goes_on() {
            let mut bytes = Vec::new();
            for _ in 0..50 {
                let mut event = sender.event("traced:talk", json!({}));
                event["metadata"] = json!({"trace": true, "ack": true});
                bytes.extend(frame(TEXT, event.to_string()));
            }
            if !sender.push(&bytes).is_all() || sender.skim().is_none() {
                break;
            }
            members.iter_mut().for_each(|member| _ = member.skim());
        }
    }
}

/// Messages as long as one may be, to members that read.
pub(super) fn large_messages(target: &Target, pace: &Pace) {
    let join = || Enemy::client(target.bus, "join=large:talk");
    let mut members: Vec<Enemy> = (0..4).filter_map(|_| join()).collect();
    let text = "x".repeat(1_000_000);
    while pace.goes_on() {
        let Some(mut sender) = join() else { continue };
        while pace.goes_on() {
            let event = sender.event("large:talk", json!({"text": text}));
            if !sender.say(&event).is_all() || sender.skim().is_none() {
                break;
            }
            members.iter_mut().for_each(|member| _ = member.skim());
            pace.rest(Duration::from_millis(2));
        }
    }
}
