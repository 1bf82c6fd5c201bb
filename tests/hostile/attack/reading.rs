//! Members that read slowly, or not at all.

use super::Target;
use crate::common::raw::{TEXT, frame};
use crate::enemy::Enemy;
use crate::pace::Pace;
use serde_json::json;
use std::time::Duration;

/// A fan-out of long messages to a crowd, each of which does with its connection what `read` says.
fn fan_out(target: &Target, pace: &Pace, read: impl Fn(&mut Enemy) -> bool) {
    const CHANNEL: &str = "slow:crowd";
    let join = || Enemy::narrow_client(target.bus, &format!("join={CHANNEL}"));
    let mut crowd: Vec<Enemy> = Vec::new();
    let mut sender = None;
    let text = "x".repeat(200_000);
    while pace.goes_on() {
        while crowd.len() < 2 * target.crowd && pace.goes_on() {
            crowd.extend(join());
        }
        let Some(enemy) = &mut sender else {
            sender = Enemy::client(target.bus, &format!("join={CHANNEL}"));
            continue;
        };
        let event = enemy.event(CHANNEL, json!({"text": text}));
        if !enemy.say(&event).is_all() || enemy.skim().is_none() {
            sender = None;
        }
        crowd.retain_mut(|enemy| !pace.goes_on() || read(enemy));
        pace.rest(Duration::from_millis(5));
    }
}

/// Members that never read. Of one that is closed nothing is seen here but that it can't be written to.
pub(super) fn never_read(target: &Target, pace: &Pace) {
    let ping = frame(crate::common::raw::PONG, "");
    fan_out(target, pace, |enemy| enemy.push(&ping).is_all());
}

/// Members that read a byte, and another one later.
pub(super) fn one_byte_at_a_time(target: &Target, pace: &Pace) {
    fan_out(target, pace, |enemy| enemy.sip(1).is_some());
}

/// Members of many channels that read nothing, so that there is a gap in each.
pub(super) fn behind_in_many_channels(target: &Target, pace: &Pace) {
    const CHANNELS: usize = 300;
    let join = |n: usize| format!("behind:c{n}");
    let enter = |enemy: &mut Enemy| {
        let joins =
            (0..CHANNELS).map(|n| enemy.command("join_channel", json!({"channel": join(n)})));
        let bytes: Vec<u8> = joins.flatten().collect();
        enemy.push(&bytes).is_all()
    };
    let mut crowd: Vec<Enemy> = Vec::new();
    let mut number = 0;
    while pace.goes_on() {
        crowd.retain_mut(|enemy| enemy.push(&frame(crate::common::raw::PONG, "")).is_all());
        while crowd.len() < target.crowd / 4 && pace.goes_on() {
            let Some(mut enemy) = Enemy::narrow_client(target.bus, "") else { continue };
            let _ = enter(&mut enemy);
            crowd.push(enemy);
        }
        let Some(mut sender) = Enemy::client(target.bus, "") else { continue };
        let mut is_there = enter(&mut sender);
        while is_there && pace.goes_on() {
            let mut bytes = Vec::new();
            for _ in 0..50 {
                number += 1;
                let event = sender.event(&join(number % CHANNELS), json!({"t": "x".repeat(600)}));
                bytes.extend(frame(TEXT, event.to_string()));
            }
            is_there = sender.push(&bytes).is_all() && sender.skim().is_some();
        }
    }
}
