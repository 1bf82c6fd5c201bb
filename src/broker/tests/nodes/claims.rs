//! Claims of client ids that the storage has not decided yet: nothing is routed to a claimant.

use super::{Client, World};
use crate::base::limits::{CLAIM_TIMEOUT_MS, GATHER_DEADLINE_MS};
use crate::protocol::command::Identity;
use crate::protocol::names::Name;
use serde_json::{Value, json};

const IN_USE: &str = r#"{"rejected":"CLIENT_ID_IN_USE"}"#;

/// A client that knocks with an id while its node hears nothing of the storage's answer.
fn claimant(world: &mut World, node: usize, id: &'static str) -> Client {
    world.store.borrow_mut().nodes[node].is_late = true;
    let identity = Identity { client_id: Some(Name::fixed(id)), ..Identity::default() };
    world.nodes[node].knock(0, id, identity)
}

/// The answer to a private message to ann.
fn say_to_ann(world: &mut World, node: usize, from: &Client) -> Option<Value> {
    let payload = json!({"target": "ann"});
    let id = world.nodes[node].say(from, "private", "r:pm", payload, json!({"ack": true}));
    world.nodes[node].settle();
    world.nodes[node].reply(from, &id)
}

#[test]
fn nothing_reaches_a_claimant_and_a_refused_one_has_heard_nothing() {
    let mut world = World::new(2);
    let bob = world.nodes[1].connect(0, "bob");
    world.nodes[1].join(&bob, "r:c");
    world.settle();
    // Node 1 hears nothing from here on, not even that ann is on node 0.
    world.store.borrow_mut().nodes[1].is_late = true;
    let holder = world.nodes[0].connect(0, "ann");
    let thief = claimant(&mut world, 1, "ann");
    let answer = say_to_ann(&mut world, 1, &bob).unwrap();
    assert_eq!(answer["error"], "TARGET_NOT_FOUND", "{answer}");
    let ann = json!({"client_id": "ann"});
    let answer = world.nodes[1].command(&bob, "disconnect_client", "r:*", ann);
    assert_eq!(answer["error"], "CLIENT_NOT_FOUND", "{answer}");
    let list = json!({"command": "list_clients", "parameters": {}});
    let id = world.nodes[1].say(&bob, "command", "r:*", list, json!({}));
    // The other node's answer does not come.
    world.nodes[1].pass(GATHER_DEADLINE_MS);
    let listed = world.nodes[1].reply(&bob, &id).unwrap();
    assert!(!listed.to_string().contains("ann"), "{listed}");
    assert_eq!(world.nodes[1].heard(&thief), [json!(null); 0]);
    world.set_late(1, false);
    let refused: Value = serde_json::from_str(IN_USE).unwrap();
    assert_eq!(world.nodes[1].heard(&thief), [refused], "and nothing else");
    // What is for ann goes to node 0 from now on.
    say_to_ann(&mut world, 1, &bob);
    world.settle();
    assert_eq!(world.events(0, &holder), ["private bob"]);
}

#[test]
fn a_claim_that_is_granted_late_hears_only_what_comes_after_its_welcome() {
    for is_told in [true, false] {
        let mut world = World::new(1);
        let bob = world.nodes[0].connect(0, "bob");
        world.nodes[0].join(&bob, "r:c");
        world.settle();
        let ann = claimant(&mut world, 0, "ann");
        let answer = say_to_ann(&mut world, 0, &bob).unwrap();
        assert_eq!(answer["error"], "TARGET_NOT_FOUND", "{answer}");
        match is_told {
            true => world.set_late(0, false),
            false => world.nodes[0].pass(CLAIM_TIMEOUT_MS),
        }
        let answer = say_to_ann(&mut world, 0, &bob).unwrap();
        assert_eq!(answer["status"], "success", "{answer}");
        assert_eq!(world.events(0, &ann), ["welcome ann", "private bob"]);
        world.set_late(0, false);
        assert!(world.nodes[0].heard(&ann).is_empty(), "a late answer changes nothing");
    }
}

#[test]
fn a_claimant_that_goes_away_leaves_the_id_to_the_next() {
    let mut world = World::new(2);
    let first = claimant(&mut world, 0, "ann");
    let second = claimant(&mut world, 0, "ann");
    let refused: Value = serde_json::from_str(IN_USE).unwrap();
    assert_eq!(world.nodes[0].heard(&second), [refused]);
    world.nodes[0].disconnect(&first);
    let third = claimant(&mut world, 0, "ann");
    world.set_late(0, false);
    assert!(world.nodes[0].heard(&first).is_empty());
    assert_eq!(world.events(0, &third), ["welcome ann"]);
}
