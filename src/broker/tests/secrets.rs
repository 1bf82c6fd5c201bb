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
