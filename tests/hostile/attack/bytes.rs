//! Frames: broken, endless, too many, or in pieces.

use super::Target;
use crate::common::raw::{CLOSE, PING, PONG, TEXT, frame, header};
use crate::enemy::{Enemy, Pushed};
use crate::pace::Pace;
use rustix::net::{SendFlags, send};
use serde_json::json;
use std::time::Duration;

/// A frame of each kind that ends the connection, and the code that it must be closed with.
pub(crate) fn broken() -> Vec<(&'static str, Vec<u8>, u16)> {
    let two = |a: Vec<u8>, b: Vec<u8>| [a, b].concat();
    let long_ping = {
        let mut bytes = header(PING, 126);
        bytes.extend([0; 4 + 126]);
        bytes
    };
    vec![
        ("the first reserved bit", frame(0xc1, "{}"), 1002),
        ("the second reserved bit", frame(0xa1, "{}"), 1002),
        ("the third reserved bit", frame(0x91, "{}"), 1002),
        ("a reserved bit in a ping", frame(0xc9, ""), 1002),
        ("no mask", vec![0x81, 0x02, b'{', b'}'], 1002),
        ("a reserved data opcode", frame(0x83, ""), 1002),
        ("another reserved data opcode", frame(0x87, ""), 1002),
        ("a reserved control opcode", frame(0x8b, ""), 1002),
        ("another reserved control opcode", frame(0x8f, ""), 1002),
        ("a ping that is too long", long_ping, 1002),
        ("a ping in fragments", frame(0x09, ""), 1002),
        ("a close in fragments", frame(0x08, ""), 1002),
        ("a continuation of nothing", frame(0x80, "{}"), 1002),
        ("a message within another", two(frame(0x01, "{"), frame(0x81, "}")), 1002),
        ("a close with half a code", frame(CLOSE, [3]), 1002),
        ("a close with a code that is never sent", frame(CLOSE, 1005_u16.to_be_bytes()), 1002),
        ("a close with a code below all", frame(CLOSE, 999_u16.to_be_bytes()), 1002),
        ("a close with a reserved code", frame(CLOSE, 2999_u16.to_be_bytes()), 1002),
        ("a close with a code above all", frame(CLOSE, 65_535_u16.to_be_bytes()), 1002),
        ("a close whose reason is no text", frame(CLOSE, [3, 232, 0xff]), 1007),
        ("two bytes for a length that fits in one", length(&[0xfe, 0, 5]), 1002),
        (
            "eight bytes for a length that fits in two",
            length(&[0xff, 0, 0, 0, 0, 0, 0, 1, 0]),
            1002,
        ),
        ("a length with its highest bit", length(&[0xff, 0x80, 0, 0, 0, 0, 0, 0, 0]), 1002),
        ("the longest length", length(&[0xff, 0x7f, 255, 255, 255, 255, 255, 255, 255]), 1009),
        ("a message that is too long", masked(header(TEXT, 1024 * 1024 + 1)), 1009),
        (
            "fragments that are too long",
            two(frame(0x01, "{"), masked(header(0x00, 1024 * 1024))),
            1009,
        ),
        ("empty fragments", two(frame(0x01, ""), frame(0x00, "").repeat(100)), 1009),
        ("a binary message", frame(0x82, "{}"), 1003),
        ("no text", frame(TEXT, [b'{', 0xc0, 0xaf, b'}']), 1007),
        ("a surrogate", frame(TEXT, [0xed, 0xa0, 0x80]), 1007),
        ("half a character", frame(TEXT, [b'{', 0xe2, 0x82]), 1007),
        ("no text over two fragments", two(frame(0x01, [0xf0, 0x9f]), frame(0x00, [0x28])), 1007),
        ("half a character at the end", two(frame(0x01, [0xf0, 0x9f]), frame(0x80, [])), 1007),
    ]
}

/// The header of a text frame with this length, and a mask.
fn length(bytes: &[u8]) -> Vec<u8> {
    masked([&[TEXT], bytes].concat())
}

/// A header with a mask behind it.
fn masked(header: Vec<u8>) -> Vec<u8> {
    [header, vec![1, 2, 3, 4]].concat()
}

/// Broken frames of every kind, each on a connection of its own.
pub(super) fn broken_frames(target: &Target, pace: &Pace) {
    for (_, bytes, _) in broken().iter().cycle() {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let _ = enemy.push(bytes);
        // Some stay, and go on as if nothing had happened.
        if bytes.len() % 2 == 0 {
            let _ = enemy.push(&frame(TEXT, "{}").repeat(1_000));
        }
    }
}

/// Pushes the same bytes into connections that read nothing, each as much as `bytes_max`; those that
/// have ended are made anew.
fn push_unread(target: &Target, pace: &Pace, count: usize, bytes: &[u8], bytes_max: usize) {
    let mut crowd: Vec<(Enemy, usize)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < count && pace.goes_on() {
            crowd.extend(Enemy::narrow_client(target.bus, "").map(|enemy| (enemy, 0)));
        }
        let mut is_idle = true;
        crowd.retain_mut(|(enemy, sent)| {
            if *sent >= bytes_max || !pace.goes_on() {
                return true;
            }
            let pushed = enemy.push(bytes);
            is_idle &= pushed != Pushed::All;
            *sent += bytes.len();
            pushed.is_all()
        });
        if is_idle {
            pace.rest(Duration::from_millis(20));
        }
    }
}

/// Empty pings, 20 MB from each, by clients that read no pong.
pub(super) fn pings_unread(target: &Target, pace: &Pace) {
    push_unread(target, pace, 4, &frame(PING, "").repeat(40_000), 20_000_000);
}

/// Pings of many clients that come in the same moment.
pub(super) fn pings_of_many_at_once(target: &Target, pace: &Pace) {
    push_unread(target, pace, 4 * target.crowd, &frame(PING, "").repeat(20_000), 120_000);
}

/// Pongs that nobody asked for, with and without a payload.
pub(super) fn pongs(target: &Target, pace: &Pace) {
    let bytes = [frame(PONG, ""), frame(PONG, "x".repeat(125))].concat().repeat(1_000);
    push_unread(target, pace, target.crowd, &bytes, 20_000_000);
}

/// Closes without end, by clients that do not stop after the first.
pub(super) fn closes(target: &Target, pace: &Pace) {
    let bytes = frame(CLOSE, 1000_u16.to_be_bytes()).repeat(10_000);
    push_unread(target, pace, target.crowd, &bytes, 20_000_000);
}

/// Messages of the greatest length of which the last byte is missing, in one frame or in two.
pub(super) fn unfinished_messages(target: &Target, pace: &Pace) {
    const LENGTH: u64 = 1024 * 1024;
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < target.crowd && pace.goes_on() {
            let Some(enemy) = Enemy::client(target.bus, "") else { continue };
            let mut bytes = match crowd.len() % 2 {
                0 => header(TEXT, LENGTH),
                _ => [frame(0x01, "{"), header(0x80, LENGTH - 1)].concat(),
            };
            bytes.extend([0; 4]);
            bytes.resize(bytes.len() + LENGTH as usize - 2, b' ');
            crowd.push((enemy, bytes));
        }
        crowd.retain_mut(|(enemy, bytes)| match enemy.push(bytes) {
            Pushed::All => {
                bytes.clear();
                enemy.skim().is_some()
            }
            Pushed::Stuck(done) => {
                bytes.drain(..done);
                true
            }
            Pushed::Gone => false,
        });
        pace.rest(Duration::from_millis(20));
    }
}

/// Messages in fragments of one byte, which grow until they are too long; and of none.
pub(super) fn tiny_fragments(target: &Target, pace: &Pace) {
    let bytes = frame(0x00, "x").repeat(50_000);
    let begin = |count: usize| {
        let mut crowd: Vec<Enemy> =
            (0..count).filter_map(|_| Enemy::client(target.bus, "")).collect();
        crowd.iter_mut().for_each(|enemy| _ = enemy.push(&frame(0x01, "{")));
        crowd
    };
    let mut crowd = begin(4);
    while pace.goes_on() {
        crowd.retain_mut(|enemy| enemy.push(&bytes).is_all());
        let mut empty = begin(1);
        empty.iter_mut().for_each(|enemy| _ = enemy.push(&frame(0x00, "").repeat(1_000)));
        crowd.extend(begin(4 - crowd.len().min(4)));
    }
}

/// Good messages, a byte at a time.
pub(super) fn drip(target: &Target, pace: &Pace) {
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < target.crowd && pace.goes_on() {
            let Some(enemy) = Enemy::client(target.bus, "join=drip:drop") else { continue };
            let event = enemy.event("drip:drop", json!({"a": "b"}));
            crowd.push((enemy, frame(TEXT, event.to_string())));
        }
        crowd.retain_mut(|(enemy, bytes)| {
            let byte = bytes.remove(0);
            if bytes.is_empty() {
                *bytes = frame(TEXT, enemy.event("drip:drop", json!({"a": "b"})).to_string());
            }
            enemy.skim().is_some() && enemy.push(&[byte]).is_all()
        });
    }
}

/// Bytes out of band between those of a message.
pub(super) fn urgent_bytes(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "join=drip:drop") else { continue };
        for _ in 0..20 {
            let message = frame(TEXT, enemy.event("drip:drop", json!({})).to_string());
            let (begin, end) = message.split_at(message.len() / 2);
            let _ = enemy.push(begin);
            let _ = send(enemy.stream(), b"!", SendFlags::OOB | SendFlags::NOSIGNAL);
            let _ = enemy.push(end);
        }
        let _ = enemy.skim();
    }
}

/// Clients that say that they will say no more, in the middle of everything.
pub(super) fn half_closed(target: &Target, pace: &Pace) {
    for number in 0_u64.. {
        if !pace.goes_on() {
            return;
        }
        let Some(mut enemy) = Enemy::client(target.bus, "join=drip:drop") else { continue };
        let message = frame(TEXT, enemy.event("drip:drop", json!({})).to_string());
        let sent = if number % 2 == 0 { &message[..] } else { &message[..message.len() / 2] };
        let _ = enemy.push(sent);
        enemy.half_close();
        if number % 3 == 0 {
            let _ = enemy.sip(4096);
        }
    }
}
