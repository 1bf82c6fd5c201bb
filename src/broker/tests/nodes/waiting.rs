//! Requests that wait until their node knows a channel: bounded, in order, and each answered.

use super::*;

#[test]
fn what_is_parked_is_bounded_in_bytes_and_none_of_it_is_lost() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[1].connect(0, "bob");
    world.nodes[0].join(&ann, "r:c");
    world.settle();
    // An admin may publish unjoined; her node does not know how the channel stands.
    world.store.borrow_mut().nodes[1].is_late = true;
    let payload = json!({"x": "x".repeat(1 << 20)});
    let ack = json!({"ack": true});
    let say =
        |world: &mut World| world.nodes[1].say(&bob, "event", "r:c", payload.clone(), ack.clone());
    let ids: Vec<String> = (0..12).map(|_| say(&mut world)).collect();
    let acks = |world: &mut World| -> Vec<String> {
        ids.iter().map(|id| world.ack(1, &bob, id)).collect()
    };
    let refused = acks(&mut world).iter().filter(|ack| ack.starts_with("503")).count();
    assert!((3..=4).contains(&refused), "{refused} were refused");
    world.set_late(1, false);
    let placed: Vec<String> = acks(&mut world).into_iter().filter(|ack| ack != "waits").collect();
    let expected: Vec<String> = (1..=12 - refused).map(|place| place.to_string()).collect();
    assert_eq!(placed, expected);
}

#[test]
fn a_join_does_not_wait_for_ever_and_who_is_gone_joins_nothing() {
    let mut world = World::new(2);
    let ann = world.nodes[0].connect(0, "ann");
    let bob = world.nodes[0].connect(1, "bob");
    world.store.borrow_mut().nodes[0].is_late = true;
    let join = |world: &mut World, client: &Client| {
        let payload = json!({"command": "join_channel", "parameters": {}});
        world.nodes[0].say(client, "command", "r:c", payload, json!({}))
    };
    let of_ann = join(&mut world, &ann);
    join(&mut world, &bob);
    assert!(world.nodes[0].reply(&ann, &of_ann).is_none());
    world.nodes[0].disconnect(&bob);
    world.nodes[0].pass(u64::from(ACK_TIMEOUT_MS));
    let reply = world.nodes[0].reply(&ann, &of_ann).unwrap();
    assert_eq!(reply["result"]["participants"], 1, "{reply}");
    world.set_late(0, false);
    world.publish(0, &ann, "r:c");
    let info = world.nodes[0].done(&ann, "channel_info", "r:c", json!({}));
    assert_eq!(
        (&info["participant_count"], &info["history"]["last_sequence"]),
        (&json!(1), &json!(1))
    );
}

#[test]
fn what_had_waited_for_a_channel_goes_on_over_turns_and_in_order() {
    let mut world = World::new(1);
    let names = (0..30).map(|number| &*Box::leak(format!("c{number}").into_boxed_str()));
    let clients: Vec<Client> = names.map(|name| world.nodes[0].connect(0, name)).collect();
    world.store.borrow_mut().nodes[0].is_late = true;
    let payload = json!({"command": "join_channel", "parameters": {}});
    let say = |world: &mut World, client: &Client| {
        world.nodes[0].say(client, "command", "r:c", payload.clone(), json!({}))
    };
    let joins: Vec<String> = clients.iter().map(|client| say(&mut world, client)).collect();
    let home = world.nodes[0].placement.of_room("r");
    world.store.borrow_mut().nodes[0].is_late = false;
    let news: Vec<_> = world.store.borrow_mut().nodes[0].news.drain(..).collect();
    let mut turns = 0;
    let node = &mut world.nodes[0];
    for (_, news) in news {
        let mut told = Told { work: crate::base::work::Work::new(2_000), ..Told::default() };
        told.work.begin_turn();
        node.homes[home.index()].on_ask(node.now, Ask::Storage(Box::new(news)), &mut told);
        while node.homes[home.index()].has_opening() {
            node.homes[home.index()].check();
            node.tell(home, std::mem::take(&mut told));
            told.work = crate::base::work::Work::new(2_000);
            told.work.begin_turn();
            node.homes[home.index()].go_on_opening(node.now, &mut told);
            turns += 1;
        }
        node.tell(home, told);
    }
    assert!(turns > 10, "thirty joins took {turns} turns");
    world.settle();
    for (place, (client, id)) in clients.iter().zip(&joins).enumerate() {
        let reply = world.nodes[0].reply(client, id).unwrap();
        assert_eq!(reply["result"]["participants"], place + 1, "{reply}");
    }
}

#[test]
fn a_room_that_was_kept_only_for_who_waited_goes_with_them() {
    let mut world = World::new(1);
    let ann = world.nodes[0].connect(0, "ann");
    let home = world.nodes[0].placement.of_room("r");
    let limits = Limits { empty_channel_ttl_ms: 20, ..Limits::default() };
    world.nodes[0].ask(home, Ask::Reconfigure(limits.into()));
    world.set_late(0, true);
    let payload = json!({"command": "join_channel", "parameters": {}});
    world.nodes[0].say(&ann, "command", "r:c", payload, json!({}));
    world.settle();
    // It is known how the channel stands, but not how its room does; then the channel goes.
    let of_channel = |(_, news): &(To, StorageNews)| match news {
        StorageNews::Peer(PeerNews::Attached { kept, .. }) => {
            !kept.record.address.channel.is_every()
        }
        _ => false,
    };
    let news: Vec<_> = world.store.borrow_mut().nodes[0].news.drain(..).collect();
    for (to, news) in news.iter().filter(|news| of_channel(news)) {
        world.nodes[0].hear_news(to, news);
    }
    world.pass(100);
    assert!(world.nodes[0].homes[home.index()].channel("r", "c").is_none());
    assert!(world.nodes[0].homes[home.index()].whole_room("r").is_some(), "ann waits for it");
    world.nodes[0].disconnect(&ann);
    world.settle();
    assert!(world.nodes[0].homes[home.index()].whole_room("r").is_none());
}

/// The first join finds a channel that its node does not follow yet and that goes on alone at once: that is
/// an opening within an opening.
#[test]
fn everything_that_waits_for_a_room_is_answered_when_the_storage_goes() {
    let mut world = World::new(2);
    let clients = ["ann", "bob", "cat"].map(|name| world.nodes[0].connect(0, name));
    let dan = world.nodes[1].connect(0, "dan");
    world.store.borrow_mut().nodes[0].is_late = true;
    let payload = json!({"command": "join_channel", "parameters": {}});
    let joins = clients
        .each_ref()
        .map(|client| world.nodes[0].say(client, "command", "r:*", payload.clone(), json!({})));
    world.nodes[1].join(&dan, "r:a");
    world.settle();
    let is_of_channel = |news: &StorageNews| {
        matches!(news, StorageNews::Peer(PeerNews::Channel(record))
            if record.address.to_string() == "r:a")
    };
    let news: Vec<_> = world.store.borrow_mut().nodes[0].news.drain(..).collect();
    for (to, news) in news.iter().filter(|(_, news)| is_of_channel(news)) {
        world.nodes[0].hear_news(to, news);
    }
    world.nodes[0].hear_news(&To::All, &StorageNews::Degraded("away".into()));
    world.settle();
    for (client, id) in clients.iter().zip(&joins) {
        let reply = world.nodes[0].reply(client, id).expect("every join is answered");
        assert_eq!(reply["result"]["channels"][0]["channel"], "a", "{reply}");
    }
}
