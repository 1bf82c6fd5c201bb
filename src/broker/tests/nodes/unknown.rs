//! What a node that is cut off can't know it does not call unknown.

use super::World;
use serde_json::{Value, json};

const UNAVAILABLE: &str = "STORAGE_UNAVAILABLE";

#[test]
fn what_another_node_may_have_is_not_called_unknown_while_it_cant_be_reached() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(0, "bob");
    let epoch = world.nodes[0].done(&ann, "join_channel", "r:c", json!({}))["epoch"].clone();
    (0..3).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    let recover = |epoch: &Value| json!({"recover": {"epoch": epoch, "sequence": 2}});
    let private = |world: &mut World, target: &str| {
        let payload = json!({"target": target});
        let id = world.nodes[1].say(&bob, "private", "r:pm", payload, json!({}));
        world.settle();
        world.nodes[1].reply(&bob, &id).unwrap()
    };
    world.cut_off(1);
    for epoch in [&epoch, &json!("0123")] {
        let refused = world.nodes[1].command(&bob, "join_channel", "r:c", recover(epoch));
        assert_eq!((&refused["error"], &refused["code"]), (&json!(UNAVAILABLE), &json!(503)));
    }
    let ask = [
        ("channel_info", "r:nothing", json!({})),
        ("list_channels", "nowhere:*", json!({})),
        ("disconnect_client", "r:*", json!({"client_id": "ann"})),
        ("disconnect_client", "r:*", json!({"client_id": "zoe"})),
    ];
    for (command, address, parameters) in &ask {
        let refused = world.nodes[1].command(&bob, command, address, parameters.clone());
        assert_eq!(refused["error"], UNAVAILABLE, "{command} {address} {parameters}");
    }
    world.nodes[1].join(&bob, "r:d");
    for target in ["ann", "zoe"] {
        assert_eq!(private(&mut world, target)["error"], UNAVAILABLE, "{target}");
    }
    assert_eq!(world.nodes[1].done(&bob, "history", "r:d", json!({}))["incomplete"], true);
    world.mend(1);
    let joined = world.nodes[1].done(&bob, "join_channel", "r:c", recover(&epoch));
    assert_eq!((&joined["recovered"], &joined["missed"]), (&json!(true), &json!(1)));
    for (command, address, parameters) in &ask {
        if *parameters != json!({"client_id": "ann"}) {
            let refused = world.nodes[1].command(&bob, command, address, parameters.clone());
            assert_eq!(refused["code"], 404, "{command} {address} {parameters}");
        }
    }
    assert_eq!(private(&mut world, "zoe")["error"], "TARGET_NOT_FOUND");
    assert!(world.nodes[1].done(&bob, "history", "r:d", json!({})).get("incomplete").is_none());
}

#[test]
fn a_history_is_incomplete_until_what_a_node_was_told_alone_has_its_places() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    world.publish(0, &ann, "r:c");
    world.cut_off(0);
    world.publish(0, &ann, "r:c");
    world.store.borrow_mut().come_back(0);
    let kept_back = world.keep_back_events(0);
    world.settle();
    let kept_back = [kept_back, world.keep_back_events(0)].concat();
    // Redis is there, and the event of the time alone is on its way through it.
    let unknown = world.nodes[0].command(&ann, "channel_info", "r:nothing", json!({}));
    assert_eq!(unknown["code"], 404);
    let history = world.nodes[0].done(&ann, "history", "r:c", json!({}));
    assert_eq!((&history["last"], &history["incomplete"]), (&json!(2), &json!(true)));
    for (to, news) in &kept_back {
        world.nodes[0].hear_news(to, news);
    }
    world.settle();
    let history = world.nodes[0].done(&ann, "history", "r:c", json!({}));
    assert_eq!((&history["last"], history.get("incomplete")), (&json!(2), None));
}
