//! Joining and leaving: what one client's coming and going costs everybody.

use super::Target;
use crate::enemy::{Enemy, fresh_name};
use crate::pace::Pace;
use serde_json::json;

/// A client that joins and leaves without end, in a channel whose members all want to know.
pub(super) fn flapping_before_watchers(target: &Target, pace: &Pace) {
    const CHANNEL: &str = "watched:door";
    let mut watchers: Vec<Enemy> = Vec::new();
    while watchers.len() < 8 * target.crowd && pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let watch = json!({"channel": CHANNEL, "presence": true});
        let _ = enemy.push(&enemy.command("join_channel", watch));
        watchers.push(enemy);
    }
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let mut bytes = enemy.command("join_channel", json!({"channel": CHANNEL}));
        bytes.extend(enemy.command("leave_channel", json!({"channel": CHANNEL})));
        let bytes = bytes.repeat(10);
        while pace.goes_on() && enemy.push(&bytes).is_all() && enemy.skim().is_some() {
            watchers.iter_mut().for_each(|watcher| _ = watcher.skim());
        }
    }
}

/// Rooms with many channels, which many join as a whole, and leave or drop all at once.
pub(super) fn whole_rooms(target: &Target, pace: &Pace) {
    const ROOMS: usize = 4;
    let rooms: Vec<String> = (0..ROOMS).map(|_| fresh_name()).collect();
    let mut makers = Vec::new();
    for room in &rooms {
        let Some(mut maker) = Enemy::client(target.bus, "") else { continue };
        for n in 0..500 {
            let channel = format!("{room}:c{n}");
            let _ = maker.push(&maker.command("join_channel", json!({"channel": channel})));
            if n % 50 == 0 {
                let _ = maker.skim();
            }
        }
        makers.push(maker);
    }
    while pace.goes_on() {
        let mut crowd = Vec::new();
        while crowd.len() < 2 * target.crowd && pace.goes_on() {
            let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
            for room in &rooms {
                let whole = json!({"channel": format!("{room}:*"), "presence": true});
                let _ = enemy.push(&enemy.command("join_channel", whole));
            }
            let _ = enemy.skim();
            crowd.push(enemy);
        }
        for (number, enemy) in crowd.iter_mut().enumerate() {
            // Half of them leave; all of them are dropped.
            if number % 2 == 0 {
                for room in &rooms {
                    let whole = json!({"channel": format!("{room}:*")});
                    let _ = enemy.push(&enemy.command("leave_channel", whole));
                }
            }
        }
    }
}

/// Joins of ever new channels and rooms, beyond what a client, and the node, may have.
pub(super) fn channels_without_end(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let room = fresh_name();
        for n in 0..1_500 {
            let channel = match n % 2 {
                0 => format!("{room}:c{n}"),
                _ => format!("{}:c", fresh_name()),
            };
            let bytes = enemy.command("join_channel", json!({"channel": channel}));
            if !pace.goes_on() || !enemy.push(&bytes).is_all() || enemy.skim().is_none() {
                break;
            }
        }
    }
}
