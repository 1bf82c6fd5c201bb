//! Who a client is, and when it may still say so.

use super::*;

#[test]
fn a_client_that_was_refused_an_identity_may_ask_for_another() {
    let mut bus = Bus::usual();
    let (_taken, mut ann) = (bus.connect(0, "taken"), bus.connect(1, "ann"));
    for (parameters, error) in [
        (json!({"client_id": "taken"}), "CLIENT_ID_IN_USE"),
        (json!({"client_id": "b a d"}), "BAD_IDENTITY"),
        (json!({"client_id": "taken"}), "CLIENT_ID_IN_USE"),
    ] {
        let refused = bus.command(&ann, "identify", "*:*", parameters);
        assert_eq!(refused["error"], error);
    }
    bus.done(&ann, "identify", "*:*", json!({"client_id": "eve"}));
    ann.id = "eve";
    let refused = bus.command(&ann, "identify", "*:*", json!({"client_id": "zoe"}));
    assert_eq!(refused["error"], "ALREADY_IDENTIFIED");
    // Any other message comes first just once.
    let bob = bus.connect(2, "bob");
    bus.done(&bob, "ping", "*:*", json!({}));
    let refused = bus.command(&bob, "identify", "*:*", json!({"client_id": "zoe"}));
    assert_eq!(refused["error"], "ALREADY_IDENTIFIED");
    bus.done(&bob, "ping", "*:*", json!({}));
}

#[test]
fn a_join_and_a_leave_are_told_once() {
    let mut bus = Bus::usual();
    let ann = bus.connect(1, "ann");
    for address in ["r:a", "r:*"] {
        for (command, parameters, joined, left) in [
            ("join_channel", json!({}), 1, 0),
            ("join_channel", json!({"echo": true}), 0, 0),
            ("leave_channel", json!({}), 0, 1),
            ("join_channel", json!({}), 1, 0),
        ] {
            bus.telemetry();
            bus.done(&ann, command, address, parameters);
            let told = bus.telemetry();
            let count = |event| told.matches(event).count();
            assert_eq!((count("Joined {"), count("Left {")), (joined, left), "{address} {told}");
        }
    }
}
