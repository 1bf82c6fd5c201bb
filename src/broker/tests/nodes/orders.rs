//! What is told of an order that is not what was told before.

use super::{Client, World};
use crate::base::ids::ChannelId;
use crate::base::limits::Limits;
use crate::broker::peers::{PeerNews, To};
use crate::broker::record::{KeptChannel, StorageNews};
use serde_json::{Value, json};
use std::sync::Arc;

/// Two members of `r:c` on one node, and its id there.
fn members(world: &mut World) -> (Client, Client, ChannelId) {
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    for client in [&ann, &bob] {
        world.nodes[0].join(client, "r:c");
    }
    world.settle();
    let id = world.store.borrow().channels["r:c"].followers[&0].0;
    (ann, bob, id)
}

/// The notices that a client heard.
fn notices(world: &mut World, client: &Client) -> Vec<Value> {
    let heard = world.nodes[0].heard(client).into_iter();
    let of_system = heard.filter(|message| message["type"] == "system");
    of_system.map(|message| message["payload"].clone()).collect()
}

#[test]
fn a_storage_that_has_lost_events_is_told_with_what_is_sure_and_what_is_missed() {
    let mut world = World::new(1);
    let (ann, bob, id) = members(&mut world);
    (0..3).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    world.nodes[0].heard(&bob);
    for (last, missed) in [(1, None), (2, Some((2, 2)))] {
        let (mut record, frames) = {
            let store = world.store.borrow();
            (store.channels["r:c"].record.clone(), store.channels["r:c"].frames.clone())
        };
        // Only the first is the one that was told.
        record.past = vec![(record.term, 1)];
        record.term = 8 + last as u32;
        let messages = frames[..last as usize].to_vec();
        let kept = Arc::new(KeptChannel { record, last, last_us: 0, messages });
        let news = PeerNews::Attached { channel: id, kept, is_new: false };
        world.nodes[0].hear_news(&To::Shard(id.home()), &StorageNews::Peer(news));
        let told = notices(&mut world, &bob);
        let (event, epoch) = (&told[0]["event"], told[0]["epoch"].as_str().unwrap());
        assert_eq!((event, &told[0]["sequence"]), (&json!("epoch_changed"), &json!(1)), "{told:?}");
        assert_eq!(told[0]["reason"], "storage_lost_events");
        assert!(epoch.ends_with(&format!("{:x}", 8 + last)), "{epoch}");
        let gap = told.get(1).map(|gap| (&gap["first"], &gap["last"], &gap["reason"]));
        let missed = missed.map(|(first, last)| (json!(first), json!(last)));
        let order_changed = json!("order_changed");
        let expected = missed.as_ref().map(|(first, last)| (first, last, &order_changed));
        assert_eq!(gap, expected, "{told:?}");
    }
}

#[test]
fn events_that_are_lost_on_their_way_to_a_home_are_told_as_missed_and_end_nothing() {
    let mut world = World::new(2);
    let (_, bob, _) = members(&mut world);
    let cat = world.nodes[1].connect(0, "cat");
    world.nodes[1].join(&cat, "r:c");
    world.settle();
    world.publish(1, &cat, "r:c");
    assert_eq!(world.events(0, &bob), ["1 cat"]);
    // The next two never come.
    world.store.borrow_mut().nodes[0].is_late = true;
    (0..2).for_each(|_| drop(world.publish(1, &cat, "r:c")));
    assert_eq!(world.keep_back_events(0).len(), 2);
    world.set_late(0, false);
    world.publish(1, &cat, "r:c");
    let told = notices(&mut world, &bob);
    assert_eq!(told.len(), 1, "{told:?}");
    let (first, last, reason) = (&told[0]["first"], &told[0]["last"], &told[0]["reason"]);
    assert_eq!((first, last, reason), (&json!(2), &json!(4), &json!("overrun")));
    // It has them all, and goes on.
    let history = world.nodes[0].done(&bob, "history", "r:c", json!({}));
    assert_eq!(history["messages"].as_array().unwrap().len(), 4);
    world.publish(1, &cat, "r:c");
    assert_eq!(world.events(0, &bob), ["5 cat"]);
}

#[test]
fn what_is_beneath_a_fork_takes_no_room_beside_it() {
    let mut world = World::new(2);
    let (ann, bob, _) = members(&mut world);
    (0..20).for_each(|_| drop(world.publish(0, &ann, "r:c")));
    world.cut_off(0);
    // A smaller history, while the node is alone, is one beneath the fork as well.
    let limits = Limits { history_size: 10, rate_commands: 0, ..Limits::default() };
    world.nodes[0].reconfigure(limits);
    for _ in 0..5 {
        world.publish(0, &ann, "r:c");
        world.nodes[0].homes.iter().for_each(|home| home.check());
    }
    world.mend(0);
    let history = world.nodes[0].done(&bob, "history", "r:c", json!({"limit": 50}));
    assert_eq!((&history["first"], &history["last"]), (&json!(16), &json!(25)));
}
