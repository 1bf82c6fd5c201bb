//! Commands: all of them, too many of them, and the ones that answer at length.

use super::Target;
use crate::common::raw::{TEXT, frame};
use crate::enemy::{Enemy, fresh_name};
use crate::pace::Pace;
use serde_json::{Value, json};

/// Every command, with parameters that make it work as much as it can.
fn each() -> Vec<(&'static str, Value)> {
    let there = "drill:hall";
    let metadata = json!({"text": "x".repeat(15_000)});
    vec![
        ("status", json!({})),
        ("ping", json!({})),
        ("help", json!({})),
        ("identify", json!({"screen_name": "x".repeat(500)})),
        ("join_channel", json!({"channel": there, "presence": true, "echo": true})),
        ("join_channel", json!({"channel": "drill:*"})),
        ("join_channel", json!({"channel": there, "recover": {"epoch": "0", "sequence": 1}})),
        ("leave_channel", json!({"channel": there})),
        ("leave_channel", json!({"channel": "drill:*"})),
        ("list_channels", json!({"room": "drill"})),
        ("channel_info", json!({"channel": there})),
        ("history", json!({"channel": there, "limit": 1000, "order": "desc"})),
        ("history", json!({"channel": there, "since": "2020-01-01T00:00:00Z"})),
        ("list_rooms", json!({})),
        ("create_channel", json!({"channel": "drill:made", "metadata": metadata})),
        ("delete_channel", json!({"channel": "drill:made"})),
        ("create_room", json!({"room": "drilled", "config": {"history_size": 1}})),
        ("pause_room", json!({"room": "drilled"})),
        ("resume_room", json!({"room": "drilled"})),
        ("delete_room", json!({"room": "drilled"})),
        ("announce", json!({"message": "x".repeat(4_000), "room": "drill"})),
        ("announce", json!({"message": "hear, hear"})),
        ("list_clients", json!({})),
        ("disconnect_client", json!({"client_id": "nobody"})),
        ("no_such_command", json!({})),
        ("history", json!({"channel": there, "limit": -1})),
    ]
}

/// Each command as fast as it is taken, by clients that read no answer.
pub(super) fn each_unread(target: &Target, pace: &Pace) {
    let commands = each();
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    for number in 0.. {
        if !pace.goes_on() {
            return;
        }
        if crowd.len() < target.crowd {
            let Some(enemy) = Enemy::narrow_client(target.bus, "join=drill:hall") else { continue };
            let (name, parameters) = &commands[number % commands.len()];
            let bytes = enemy.command(name, parameters.clone()).repeat(100);
            crowd.push((enemy, bytes));
        }
        crowd.retain_mut(|(enemy, bytes)| !pace.goes_on() || enemy.push(bytes).is_all());
    }
}

/// The same, by clients that read.
pub(super) fn each_read(target: &Target, pace: &Pace) {
    let commands = each();
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "join=drill:hall") else { continue };
        for (name, parameters) in &commands {
            let bytes = enemy.command(name, parameters.clone()).repeat(50);
            if !pace.goes_on() || !enemy.push(&bytes).is_all() || enemy.sip(1 << 20).is_none() {
                break;
            }
            let _ = enemy.skim();
        }
    }
}

/// Joins `count` rooms of their own, by clients that have to stay for it.
fn many_rooms(target: &Target, pace: &Pace, count: usize) -> Vec<Enemy> {
    let (mut makers, mut made): (Vec<Enemy>, usize) = (Vec::new(), 0);
    while made < count && pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        for _ in 0..10 {
            let mut bytes = Vec::new();
            for _ in 0..100 {
                let channel = format!("{}:hall", fresh_name());
                bytes.extend(enemy.command("join_channel", json!({"channel": channel})));
            }
            made += 100;
            let _ = enemy.push(&bytes);
            let _ = enemy.skim();
        }
        makers.push(enemy);
    }
    makers
}

/// Questions about the whole bus, on a bus with many rooms.
pub(super) fn listings_of_many_rooms(target: &Target, pace: &Pace) {
    let _makers = many_rooms(target, pace, 100 * target.crowd);
    let questions = [
        ("list_rooms", json!({})),
        ("list_clients", json!({})),
        ("status", json!({})),
        ("list_channels", json!({"room": "science"})),
        ("channel_info", json!({"channel": "science:general"})),
    ];
    let ask = || Enemy::client(target.bus, "join=science:general");
    let mut askers: Vec<Enemy> = (0..10).filter_map(|_| ask()).collect();
    while pace.goes_on() {
        askers.retain_mut(|enemy| {
            if !pace.goes_on() {
                return true;
            }
            let asked = questions.iter().map(|(name, what)| enemy.command(name, what.clone()));
            let bytes: Vec<u8> = asked.flatten().collect();
            enemy.push(&bytes).is_all() && enemy.skim().is_some()
        });
        askers.extend((askers.len()..10).filter_map(|_| ask()));
    }
}

/// Long histories of long messages, asked for again and again; half of the clients read them.
pub(super) fn history_of_large_messages(target: &Target, pace: &Pace) {
    let join = || Enemy::client(target.bus, "join=large:past");
    if let Some(mut sender) = join() {
        for _ in 0..64 {
            let event = sender.event("large:past", json!({"text": "x".repeat(250_000)}));
            let _ = sender.say(&event);
        }
    }
    let mut crowd: Vec<Enemy> = Vec::new();
    while pace.goes_on() {
        crowd.extend((crowd.len()..target.crowd / 2).filter_map(|_| join()));
        let mut number = 0;
        crowd.retain_mut(|enemy| {
            number += 1;
            if !pace.goes_on() {
                return true;
            }
            let bytes = enemy.command("history", json!({"channel": "large:past", "limit": 1000}));
            (number % 2 == 0 || enemy.skim().is_some()) && enemy.push(&bytes.repeat(5)).is_all()
        });
    }
}

/// Joins that catch up with a whole history, and leaves, in turn.
pub(super) fn recovered_again_and_again(target: &Target, pace: &Pace) {
    const CHANNEL: &str = "recover:past";
    let mut epoch = None;
    if let Some(mut sender) = Enemy::client(target.bus, &format!("join={CHANNEL}")) {
        for _ in 0..400 {
            let event = sender.event(CHANNEL, json!({"text": "x".repeat(1_000)}));
            let _ = sender.say(&event);
        }
        let _ = sender.push(&sender.command("channel_info", json!({"channel": CHANNEL})));
        let text = sender.read_until("\"epoch\":\"").unwrap_or_default();
        let text = match text.ends_with("\"epoch\":\"") {
            true => sender.read_until("\"").unwrap_or_default(),
            false => text.rsplit("\"epoch\":\"").next().unwrap_or_default().to_owned(),
        };
        epoch = text.split('"').next().map(str::to_owned);
    }
    let mut crowd: Vec<(Enemy, Vec<u8>)> = Vec::new();
    while pace.goes_on() {
        while crowd.len() < target.crowd / 2 && pace.goes_on() {
            let Some(enemy) = Enemy::client(target.bus, "") else { continue };
            let recover = json!({"epoch": epoch, "sequence": 0});
            let join = json!({"channel": CHANNEL, "recover": recover});
            let mut bytes = enemy.command("join_channel", join);
            bytes.extend(enemy.command("leave_channel", json!({"channel": CHANNEL})));
            crowd.push((enemy, bytes.repeat(10)));
        }
        let mut number = 0;
        crowd.retain_mut(|(enemy, bytes)| {
            number += 1;
            (number % 3 == 0 || enemy.skim().is_some()) && enemy.push(bytes).is_all()
        });
    }
}

/// Clients that change their names as long as they may, and longer.
pub(super) fn identified_again_and_again(target: &Target, pace: &Pace) {
    while pace.goes_on() {
        let Some(mut enemy) = Enemy::client(target.bus, "") else { continue };
        let mut bytes = Vec::new();
        for number in 0..200 {
            let join: Vec<String> = (0..64).map(|n| format!("identified:c{n}")).collect();
            let taken = json!({"client_id": "ordinary-ann"});
            let new = json!({"client_id": fresh_name(), "join": join});
            let what = if number % 2 == 0 { taken } else { new };
            bytes.extend(enemy.command("identify", what));
        }
        // The first one that is granted makes a sender mismatch of the rest.
        bytes.extend(frame(TEXT, "{}"));
        let _ = enemy.push(&bytes);
        while enemy.sip(1 << 20).is_some_and(|count| count > 0) && pace.goes_on() {}
    }
}
