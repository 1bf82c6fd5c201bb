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
