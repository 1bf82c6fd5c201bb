//! Clients that join `*` of a room.

use super::*;
use crate::broker::lane::JoinAsk;
use crate::broker::policy::ClientCard;
use crate::protocol::command::{Address, Join};

/// A bus on which nobody is hindered.
fn free() -> Bus {
    Bus::new(Limits { rate_commands: 0, ..Limits::default() }, PublishAnywhere::default())
}

/// The events that a client heard: their channels and their senders.
fn events(bus: &mut Bus, client: &Client) -> Vec<String> {
    let heard = bus.heard(client).into_iter().filter(|message| message["type"] == "event");
    heard.map(|event| format!("{} {}", event["channel"], event["from"])).collect()
}

#[test]
fn a_join_of_a_whole_room_takes_what_one_membership_takes() {
    let mut bus = free();
    let ann = bus.connect(0, "ann");
    for number in 0..100 {
        bus.join(&ann, &format!("r:c{number}"));
    }
    let home = bus.placement.of_room("r").index();
    let bob = bus.connect(1, "bob");
    let joined = bus.done(&bob, "join_channel", "r:*", json!({}));
    assert_eq!(joined["channels"].as_array().unwrap().len(), 100);
    // Nothing is listed for each channel, neither at the home nor at the edge.
    let at = crate::base::ids::ConnRef { shard: bob.shard, conn: bob.conn };
    let of_home = &bus.homes[home];
    let listed = (0..100)
        .filter(|number| of_home.channel("r", &format!("c{number}")).unwrap().listed(at).is_some());
    assert_eq!(listed.count(), 0);
    assert_eq!(bus.edges[1].session(bob.conn).unwrap().memberships.len(), 0);
    // And yet it is a member of each, those to come included.
    bus.join(&ann, "r:new");
    for channel in ["c0", "c99", "new"] {
        assert_eq!(bus.homes[home].member_count_of("r", channel), 2);
        bus.publish(&ann, &format!("r:{channel}"));
        assert_eq!(events(&mut bus, &bob), [format!("\"{channel}\" \"ann\"")]);
        bus.publish(&bob, &format!("r:{channel}"));
        assert_eq!(events(&mut bus, &ann), [format!("\"{channel}\" \"bob\"")]);
        let page = bus.done(&bob, "history", &format!("r:{channel}"), json!({}));
        assert_eq!(page["last"], 2);
    }
    bus.disconnect(&bob);
    assert_eq!(bus.homes[home].member_count_of("r", "c0"), 1);
}

#[test]
fn by_name_and_by_the_whole_room_is_one_membership() {
    let mut bus = free();
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, name)| bus.connect(at, name));
    bus.join(&bob, "r:c");
    let steps = [
        ("join_channel", "r:*", 2, 1),
        ("join_channel", "r:c", 2, 1),
        ("leave_channel", "r:c", 2, 1),
        ("join_channel", "r:c", 2, 1),
        ("leave_channel", "r:*", 2, 1),
        ("leave_channel", "r:c", 1, 0),
    ];
    for (step, (name, address, members, copies)) in steps.into_iter().enumerate() {
        bus.done(&ann, name, address, json!({}));
        let info = bus.done(&bob, "channel_info", "r:c", json!({}));
        assert_eq!(info["participant_count"], members, "step {step}");
        assert_eq!(info["participants"].as_array().unwrap().len(), members, "step {step}");
        bus.heard(&ann);
        bus.publish(&bob, "r:c");
        assert_eq!(events(&mut bus, &ann).len(), copies, "step {step}");
    }
}

#[test]
fn who_leaves_many_rooms_leaves_them_in_steps() {
    let mut bus = free();
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, name)| bus.connect(at, name));
    for room in 0..20 {
        for channel in 0..40 {
            bus.done(&ann, "create_channel", &format!("room{room}:c{channel}"), json!({}));
        }
        bus.join(&bob, &format!("room{room}:*"));
    }
    let mut out = Deliveries::default();
    let asks = &mut bus.asks[1];
    let reason = crate::protocol::close::CloseReason::ByClient;
    bus.edges[1].disconnect(bob.conn, reason, asks, &mut out);
    let conn = crate::base::ids::ConnRef { shard: bob.shard, conn: bob.conn };
    for at in 0..usize::from(SHARDS) {
        let mut told = Told { work: crate::base::work::Work::new(10_000), ..Told::default() };
        told.work.begin_turn();
        bus.homes[at].on_ask(bus.now, Ask::Gone(conn), &mut told);
        assert!(told.work.spent() <= 20_000, "a turn of it is bounded: {:?}", told.work);
        let mut turns = 1;
        while bus.homes[at].has_leaving() {
            told.work.begin_turn();
            bus.homes[at].go_on_leaving(bus.now, &mut told);
            assert!(told.work.spent() <= 20_000, "so are the others: {:?}", told.work);
            turns += 1;
        }
        bus.homes[at].check();
        let rooms =
            (0..20).filter(|room| bus.placement.of_room(&format!("room{room}")).index() == at);
        assert!(turns > rooms.count() / 5, "it took {turns} turns");
    }
    bus.settle();
    let info = bus.done(&ann, "channel_info", "room7:c7", json!({}));
    assert_eq!(info["participant_count"], 0);
}

#[test]
fn who_comes_back_before_it_has_left_is_not_told_as_left_at_the_end() {
    let mut bus = free();
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, name)| bus.connect(at, name));
    let rooms: Vec<String> = (0..40).map(|room| format!("room{room}")).collect();
    for room in &rooms {
        bus.done(&ann, "create_channel", &format!("{room}:c"), json!({}));
        bus.join(&bob, &format!("{room}:c"));
    }
    let (home, at) = (bus.placement.of_room("room0"), bus.placement.of_room("room0").index());
    let gone = crate::base::ids::ConnRef { shard: bob.shard, conn: bob.conn };
    let mut told = Told { work: crate::base::work::Work::new(1_000), ..Told::default() };
    told.work.begin_turn();
    bus.homes[at].on_ask(bus.now, Ask::Gone(gone), &mut told);
    assert!(bus.homes[at].has_leaving(), "the home has more than one turn to do");
    // It comes back on another connection, and joins each room that it has not left yet.
    let back = ConnId { generation: bob.conn.generation + 1, ..bob.conn };
    let client = Arc::new(ClientCard {
        client_id: Name::fixed("bob"),
        client_type: ClientType::Service,
        screen_name: None,
        role: Role::Admin,
    });
    for room in rooms.iter().filter(|room| bus.placement.of_room(room) == home) {
        let address = Address { room: Name::parse(room).unwrap(), channel: Name::fixed("c") };
        let ask = JoinAsk {
            conn: crate::base::ids::ConnRef { shard: bob.shard, conn: back },
            client: client.clone(),
            join: Join { address, echo: true, presence: false, recover: None },
            question: None,
            has_returned: false,
            joins_left: 100,
        };
        bus.homes[at].on_ask(bus.now, Ask::Join(Box::new(ask)), &mut told);
    }
    told.telemetry.clear();
    while bus.homes[at].has_leaving() {
        told.work.begin_turn();
        bus.homes[at].go_on_leaving(bus.now, &mut told);
    }
    let left = told.telemetry.iter().filter(|event| matches!(event, Event::Left { .. }));
    assert_eq!(left.count(), 0, "nobody is told at the end that it left");
    bus.homes[at].check();
}

#[test]
fn who_comes_back_sooner_than_it_is_gone_was_never_away() {
    let mut bus = free();
    let [ann, bob, cat] =
        [(0, "ann"), (1, "bob"), (2, "cat")].map(|(at, name)| bus.connect(at, name));
    bus.done(&ann, "join_channel", "r:c", json!({"presence": true}));
    bus.done(&cat, "join_channel", "r:*", json!({"presence": true}));
    bus.join(&bob, "r:c");
    bus.join(&bob, "r:*");
    let home = bus.placement.of_room("r");
    let card = ClientCard {
        client_id: Name::fixed("bob"),
        client_type: ClientType::Human,
        screen_name: None,
        role: Role::User,
    };
    let client = Arc::new(card);
    let back = |at: u16| crate::base::ids::ConnRef {
        shard: ShardId(at),
        conn: ConnId { slot: 100, generation: 0 },
    };
    let join = |at: u16, channel: &'static str| {
        let channel = if channel == "*" { Name::every() } else { Name::fixed(channel) };
        let address = Address { room: Name::fixed("r"), channel };
        Ask::Join(Box::new(JoinAsk {
            conn: back(at),
            client: client.clone(),
            join: Join { address, echo: true, presence: false, recover: None },
            question: None,
            has_returned: false,
            joins_left: 100,
        }))
    };
    let told_to = |bus: &mut Bus, client: &Client| {
        bus.pass(10_000);
        let heard = bus.heard(client).into_iter();
        let words = heard.map(|message| (message["payload"]["event"].clone(), message));
        let words = words.filter(|(event, _)| *event == "joined" || *event == "left");
        words.map(|(event, message)| format!("{event} {}", message["channel"])).collect::<Vec<_>>()
    };
    for watcher in [&ann, &cat] {
        told_to(&mut bus, watcher);
    }
    bus.telemetry();
    // By its new connections, on other shards, it is in the channel and then in all of the room, before
    // the home hears that the first one is gone; a full channel is no hindrance.
    bus.reconfigure(Limits { rate_commands: 0, max_members_per_channel: 3, ..Limits::default() });
    bus.ask(home, join(2, "c"));
    bus.ask(home, join(0, "*"));
    let gone = crate::base::ids::ConnRef { shard: bob.shard, conn: bob.conn };
    bus.ask(home, Ask::Gone(gone));
    bus.settle();
    for watcher in [&ann, &cat] {
        assert!(told_to(&mut bus, watcher).is_empty(), "nobody has come or gone");
    }
    let telemetry = bus.telemetry();
    assert!(!telemetry.contains("Joined") && !telemetry.contains("Left"), "{telemetry}");
    // Who goes on in the channel alone is said to be there still.
    bus.ask(home, Ask::Gone(back(0)));
    bus.settle();
    assert!(told_to(&mut bus, &ann).is_empty());
    assert_eq!(told_to(&mut bus, &cat), ["\"left\" \"*\"", "\"joined\" \"c\""]);
    // The last one that goes is told.
    bus.ask(home, Ask::Gone(back(2)));
    bus.settle();
    for watcher in [&ann, &cat] {
        assert_eq!(told_to(&mut bus, watcher), ["\"left\" \"c\""]);
    }
}

#[test]
fn memberships_are_bounded_for_the_node_and_given_back() {
    let limits = Limits { max_memberships: 3, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, name)| bus.connect(at, name));
    bus.join(&ann, "r:a");
    bus.join(&ann, "r:*");
    bus.join(&bob, "other:c");
    for address in ["r:a", "r:*", "new:c", "new:*"] {
        let refused = bus.command(&bob, "join_channel", address, json!({}));
        let what = (&refused["code"], &refused["error"]);
        assert_eq!(what, (&json!(429), &json!("MEMBERSHIP_LIMIT")), "{address}");
    }
    let rooms = bus.done(&ann, "list_rooms", "*:*", json!({"limit": null}));
    assert_eq!(rooms["count"], 2, "what was refused made nothing");
    // Joining again is no membership more, and each way of leaving gives one back.
    bus.join(&ann, "r:*");
    bus.join(&ann, "r:a");
    bus.done(&ann, "leave_channel", "r:*", json!({}));
    bus.join(&bob, "r:a");
    bus.disconnect(&ann);
    bus.join(&bob, "r:*");
    assert_eq!(bus.command(&bob, "join_channel", "new:c", json!({}))["error"], "MEMBERSHIP_LIMIT");
}

#[test]
fn private_channels_list_who_follows_their_room_and_count_as_joins() {
    let limits = Limits { max_joins_per_client: 3, rate_commands: 0, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let [ann, eve] = [(0, "ann"), (0, "eve")].map(|(at, name)| bus.connect(at, name));
    for channel in ["a", "b", "c"] {
        let address = format!("vault:{channel}");
        bus.done(&ann, "create_channel", &address, json!({"type": "private"}));
    }
    let refused = bus.command(&eve, "join_channel", "vault:*", json!({}));
    assert_eq!(refused["error"], "JOIN_LIMIT", "{refused}");
    bus.done(&ann, "delete_channel", "vault:c", json!({}));
    bus.join(&eve, "vault:*");
    assert_eq!(bus.command(&eve, "join_channel", "r:c", json!({}))["error"], "JOIN_LIMIT");
    bus.done(&eve, "leave_channel", "vault:*", json!({}));
    bus.join(&eve, "r:c");
}
