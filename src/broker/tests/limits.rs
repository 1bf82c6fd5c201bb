//! Limits hold whichever way one comes to them.

use super::*;

#[test]
fn a_join_that_makes_a_channel_leaves_none_with_too_many_members() {
    let limits = Limits { max_members_per_channel: 2, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let [ann, bob, eve] = [(0, "ann"), (1, "bob"), (2, "eve")].map(|(at, id)| bus.connect(at, id));
    bus.join(&ann, "r:*");
    bus.join(&bob, "r:*");
    let refused = bus.command(&eve, "join_channel", "r:new", json!({}));
    assert_eq!((&refused["code"], &refused["error"]), (&json!(429), &json!("MEMBER_LIMIT")));
    assert_eq!(bus.done(&ann, "list_channels", "r:*", json!({}))["count"], 0, "nothing was made");
    // Whoever joined the whole room takes up no second place.
    let joined = bus.done(&bob, "join_channel", "r:new", json!({}));
    assert_eq!((&joined["created"], &joined["participants"]), (&json!(true), &json!(2)));
}
