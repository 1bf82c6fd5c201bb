//! Private channels: who is not of them learns neither their names nor who is in them.

use super::*;

/// A bus with a private channel that `ann`, an admin, made for `bob`, and with `eve`, who is
/// nobody to it.
fn vault(mut bus: Bus) -> (Bus, Client, Client, Client) {
    let ann = bus.connect_as(0, "ann", ClientType::AiAgent);
    let bob = bus.connect_as(1, "bob", ClientType::AiAgent);
    let eve = bus.connect(2, "eve");
    bus.join(&eve, "vault:lobby");
    bus.telemetry();
    let members = json!({"type": "private", "metadata": {"members": ["bob"]}});
    bus.done(&ann, "create_channel", "vault:plan-b", members);
    (bus, ann, bob, eve)
}

#[test]
fn telemetry_names_no_private_channel_and_nobody_in_it() {
    let (mut bus, ann, bob, _eve) =
        vault(Bus::new(Limits::default(), PublishAnywhere { user: false, admin: true }));
    let created = bus.telemetry();
    assert!(created.contains("ChannelCreated { place: Private(\"vault\")"), "{created}");
    assert!(created.contains("created_by: None"), "{created}");
    let mut told = created;
    for client in [&bob, &ann] {
        bus.pass(1_000);
        bus.join(client, "vault:plan-b");
        let joined = bus.telemetry();
        assert!(joined.contains("Joined { client_id: None, place: Private("), "{joined}");
        assert!(joined.contains("action: \"joined\", place: Private("), "{joined}");
        bus.pass(1_000);
        bus.publish(client, "vault:plan-b");
        let published = bus.telemetry();
        assert!(published.contains("action: \"published\", place: Private("), "{published}");
        told = told + &joined + &published;
    }
    bus.pass(1_000);
    bus.done(&ann, "leave_channel", "vault:plan-b", json!({}));
    let left = bus.telemetry();
    assert!(left.contains("Left { client_id: None, place: Private("), "{left}");
    assert!(left.contains("action: \"left\", place: Private("), "{left}");
    bus.disconnect(&bob);
    let gone = bus.telemetry();
    assert!(gone.contains("Left { client_id: None, place: Private("), "{gone}");
    bus.pass(1_000);
    // Unjoined, the edge does not know what kind of channel it is.
    assert_eq!(bus.publish(&ann, "vault:plan-b")["status"], "success");
    let published = bus.telemetry();
    assert!(published.contains("action: \"published\", place: Somewhere("), "{published}");
    bus.done(&ann, "delete_channel", "vault:plan-b", json!({}));
    let deleted = bus.telemetry();
    assert!(deleted.contains("ChannelDeleted { place: Private("), "{deleted}");
    told = told + &left + &gone + &published + &deleted;
    assert!(!told.contains("plan-b"), "{told}");
}

#[test]
fn telemetry_tells_of_a_private_channel_that_a_whole_room_got() {
    let (mut bus, ann, bob, _eve) = vault(Bus::usual());
    bus.join(&bob, "vault:*");
    bus.pass(1_000);
    // It opens to who joined the whole room, and that edge learns what kind it is, too.
    let members = json!({"type": "private", "metadata": {"members": ["bob"]}});
    bus.done(&ann, "create_channel", "vault:plan-c", members);
    bus.pass(1_000);
    bus.telemetry();
    for channel in ["vault:plan-b", "vault:plan-c"] {
        bus.pass(1_000);
        bus.publish(&bob, channel);
        let told = bus.telemetry();
        assert!(told.contains("action: \"published\", place: Private("), "{told}");
    }
    bus.pass(1_000);
    bus.publish(&bob, "vault:*");
    let told = bus.telemetry();
    assert!(told.contains("place: Open(Address { room: \"vault\", channel: \"*\""), "{told}");
}

#[test]
fn who_may_publish_anywhere_may_not_in_what_it_could_not_join() {
    let (mut bus, ann, bob, eve) =
        vault(Bus::new(Limits::default(), PublishAnywhere { user: true, admin: true }));
    bus.join(&ann, "vault:plan-b");
    bus.heard(&ann);
    let refused = bus.publish(&eve, "vault:plan-b");
    assert_eq!((&refused["code"], &refused["error"]), (&json!(403), &json!("CHANNEL_PRIVATE")));
    let join = bus.command(&eve, "join_channel", "vault:plan-b", json!({}));
    assert_eq!((&refused["error"], &refused["message"]), (&join["error"], &join["message"]));
    assert!(bus.heard(&ann).is_empty(), "what was refused reaches nobody");
    // Whom it is for may, joined or not; and everyone in what is open, and in `*`.
    for (client, address) in
        [(&bob, "vault:plan-b"), (&ann, "vault:plan-b"), (&bob, "vault:lobby"), (&bob, "vault:*")]
    {
        assert_eq!(bus.publish(client, address)["status"], "success", "{address}");
    }
    let bob_heard = bus.heard(&bob);
    assert!(bob_heard.iter().all(|message| message["type"] != "event"), "{bob_heard:?}");
}

#[test]
fn to_others_a_private_channel_is_not_there() {
    let (mut bus, ann, bob, eve) = vault(Bus::usual());
    bus.join(&bob, "vault:plan-b");
    let nothing = |address: &str, answer: &Value| {
        let text = answer.to_string();
        assert!(!text.contains(address.split_once(':').unwrap().1), "{text}");
    };
    for name in ["list_channels", "list_rooms"] {
        let theirs = bus.done(&eve, name, "vault:*", json!({})).to_string();
        assert!(theirs.contains("lobby") && !theirs.contains("plan-b"), "{theirs}");
        let own = bus.done(&bob, name, "vault:*", json!({})).to_string();
        assert!(own.contains("lobby") && own.contains("plan-b"), "{own}");
    }
    // Asked for by name it is refused in the words for one that is not there.
    for name in ["channel_info", "history", "leave_channel"] {
        let [there, not_there] = ["vault:plan-b", "vault:plan-x"].map(|address| {
            bus.command(&eve, name, address, json!({})).to_string().replace(address, "…")
        });
        let id = |text: &str| text.split("\"request_id\"").next().unwrap().to_owned();
        assert_eq!(id(&there), id(&not_there), "{name}");
    }
    let joined = bus.done(&eve, "join_channel", "vault:*", json!({"presence": true}));
    nothing("vault:plan-b", &joined);
    bus.heard(&eve);
    bus.done(&bob, "leave_channel", "vault:plan-b", json!({}));
    bus.done(&ann, "join_channel", "vault:plan-b", json!({}));
    bus.publish(&ann, "vault:plan-b");
    let heard = bus.heard(&eve);
    assert!(heard.is_empty(), "{heard:?}");
}

#[test]
fn a_full_private_channel_keeps_no_stranger_out_of_the_room() {
    let limits = Limits { max_members_per_channel: 2, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let ann = bus.connect(0, "ann");
    let [bob, eve] = [bus.connect(1, "bob"), bus.connect(1, "eve")];
    let members = json!({"type": "private", "metadata": {"members": ["bob"]}});
    bus.done(&ann, "create_channel", "vault:plan-b", members);
    bus.join(&ann, "vault:plan-b");
    bus.join(&bob, "vault:plan-b");
    bus.done(&eve, "join_channel", "vault:*", json!({}));
    let zoe = bus.connect(0, "zoe");
    let refused = bus.command(&zoe, "join_channel", "vault:*", json!({}));
    assert_eq!(refused["error"], "MEMBER_LIMIT", "who may enter it can't join all of the room");
}
