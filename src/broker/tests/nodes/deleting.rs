//! What is deleted on one node is gone on all when that is said, and otherwise it is said that it is not.

use super::super::Client;
use super::World;
use crate::base::limits::{DELETE_RETRY_MS, DELETE_TRIES_MAX};
use serde_json::{Value, json};

/// Two nodes with an admin each; the room `r` has the channel `c`, which nobody is in.
fn world() -> (World, Client, Client) {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(0, "bob");
    world.nodes[0].done(&ann, "create_channel", "r:c", json!({}));
    world.settle();
    (world, ann, bob)
}

/// Gives a command on the first node; the id of it.
fn say(world: &mut World, ann: &Client, command: &str, address: &str) -> String {
    let payload = json!({"command": command, "parameters": {}});
    let id = world.nodes[0].say(ann, "command", address, payload, json!({}));
    world.settle();
    id
}

/// The answer as a word, if it has come.
fn word(world: &mut World, ann: &Client, id: &str) -> Option<String> {
    let reply = world.nodes[0].reply(ann, id)?;
    let word = reply["error"].as_str().or(reply["status"].as_str());
    word.map(str::to_owned)
}

fn is_there(world: &World, node: usize, room: &str, channel: &str) -> bool {
    let bus = &world.nodes[node];
    let home = &bus.homes[bus.placement.of_room(room).index()];
    match channel {
        "*" => home.whole_room(room).is_some(),
        channel => home.channel(room, channel).is_some(),
    }
}

#[test]
fn what_another_node_has_just_looked_at_is_let_go_and_gone() {
    let (mut world, ann, bob) = world();
    // By this the other node follows it, and would for half a minute.
    world.nodes[1].done(&bob, "channel_info", "r:c", json!({}));
    let id = say(&mut world, &ann, "delete_channel", "r:c");
    assert_eq!(word(&mut world, &ann, &id), None, "it is not known yet");
    assert!(world.store.borrow().channels.contains_key("r:c"));
    world.pass(DELETE_RETRY_MS);
    assert_eq!(word(&mut world, &ann, &id).as_deref(), Some("success"));
    assert!(!world.store.borrow().channels.contains_key("r:c"));
    for node in 0..2 {
        assert!(!is_there(&world, node, "r", "c"), "node {node}");
    }
    // The room was joined as a whole there, and left.
    world.nodes[1].join(&bob, "r:*");
    world.nodes[1].done(&bob, "leave_channel", "r:*", json!({}));
    world.settle();
    let id = say(&mut world, &ann, "delete_room", "r:*");
    world.pass(DELETE_RETRY_MS);
    assert_eq!(word(&mut world, &ann, &id).as_deref(), Some("success"));
    for node in 0..2 {
        assert!(!is_there(&world, node, "r", "*"), "node {node}");
    }
    // What nobody has looked at goes at once.
    world.nodes[0].done(&ann, "create_channel", "r:c", json!({}));
    world.settle();
    for (command, address) in [("delete_channel", "r:c"), ("delete_room", "r:*")] {
        let id = say(&mut world, &ann, command, address);
        assert_eq!(word(&mut world, &ann, &id).as_deref(), Some("success"), "{command}");
    }
    world.pass(60_000);
    assert!(world.store.borrow().channels.is_empty() && world.store.borrow().rooms.is_empty());
}

#[test]
fn what_is_not_let_go_stays_and_that_is_said() {
    let (mut world, ann, bob) = world();
    world.nodes[1].done(&bob, "channel_info", "r:c", json!({}));
    // The other node hears nothing of the wish, and has a member by now.
    world.store.borrow_mut().nodes[1].is_late = true;
    let id = say(&mut world, &ann, "delete_channel", "r:c");
    for _ in 1..DELETE_TRIES_MAX {
        assert_eq!(word(&mut world, &ann, &id), None);
        world.pass(DELETE_RETRY_MS);
    }
    let reply = world.nodes[0].reply(&ann, &id).unwrap();
    assert_eq!(reply["error"], "CHANNEL_NOT_EMPTY", "{reply}");
    assert!(reply["message"].as_str().unwrap().contains("another node"), "{reply}");
    for node in 0..2 {
        assert!(is_there(&world, node, "r", "c"), "node {node}");
    }
    world.set_late(1, false);
    world.nodes[1].join(&bob, "r:c");
    world.settle();
    // Members are seen at once.
    let id = say(&mut world, &ann, "delete_channel", "r:c");
    assert_eq!(word(&mut world, &ann, &id).as_deref(), Some("CHANNEL_NOT_EMPTY"));
    world.publish(1, &bob, "r:c");
    assert!(world.store.borrow().channels["r:c"].frames.len() == 1, "it goes on");
}

#[test]
fn nothing_is_said_to_be_gone_while_nobody_can_know() {
    let (mut world, ann, _) = world();
    world.cut_off(0);
    for (command, address) in [("delete_channel", "r:c"), ("delete_room", "r:*")] {
        let id = say(&mut world, &ann, command, address);
        assert_eq!(word(&mut world, &ann, &id).as_deref(), Some("STORAGE_UNAVAILABLE"));
    }
    world.mend(0);
    assert!(is_there(&world, 0, "r", "c") && is_there(&world, 1, "r", "c"), "nothing has happened");
    // The storage says nothing for too long, or goes away meanwhile.
    for goes_away in [false, true] {
        world.store.borrow_mut().nodes[0].is_late = true;
        let id = say(&mut world, &ann, "delete_channel", "r:c");
        assert_eq!(word(&mut world, &ann, &id), None);
        match goes_away {
            false => world.pass(u64::from(super::ACK_TIMEOUT_MS)),
            true => {
                world.store.borrow_mut().nodes[0].is_late = false;
                world.store.borrow_mut().nodes[0].news.clear();
                world.cut_off(0);
            }
        }
        let reply: Value = world.nodes[0].reply(&ann, &id).unwrap();
        assert_eq!(reply["error"], "STORAGE_UNAVAILABLE", "{reply}");
        match goes_away {
            false => world.set_late(0, false),
            true => world.mend(0),
        }
        assert!(!world.store.borrow().channels.contains_key("r:c"));
        world.nodes[0].done(&ann, "create_channel", "r:c", json!({}));
        world.settle();
    }
}
