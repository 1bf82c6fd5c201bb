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

#[test]
fn what_was_done_is_not_refused_for_the_length_of_its_answer() {
    let limits = Limits { outbox_bytes: 2_000, rate_commands: 0, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let [ann, bob] = [(0, "ann"), (1, "bob")].map(|(at, id)| bus.connect(at, id));
    for n in 0..200 {
        bus.done(&ann, "create_channel", "r:*", json!({"channel": format!("channel-{n}")}));
    }
    let page = bus.done(&bob, "list_channels", "r:*", json!({}));
    assert!(page["channels"].as_array().unwrap().len() < 5, "a page is as long as it may be");
    assert_eq!((&page["count"], &page["more"]), (&json!(200), &json!(true)));
    assert_eq!(bus.done(&bob, "join_channel", "r:*", json!({})), json!({"more": true}));
    assert_eq!(bus.publish(&bob, "r:channel-199")["status"], "success", "it is in the room");
    assert_eq!(bus.done(&ann, "pause_room", "r:*", json!({})), json!({"more": true}));
    assert_eq!(bus.publish(&bob, "r:channel-1")["error"], "ROOM_PAUSED");
}

#[test]
fn a_new_time_to_stay_empty_holds_at_once() {
    let mut bus = Bus::usual();
    let ann = bus.connect(0, "ann");
    for address in ["r:a", "r:b", "r:kept"] {
        bus.join(&ann, address);
    }
    for address in ["r:a", "r:b"] {
        bus.done(&ann, "leave_channel", address, json!({}));
    }
    bus.join(&ann, "r:b");
    let count = |bus: &mut Bus| bus.done(&ann, "list_channels", "r:*", json!({}))["count"].clone();
    bus.pass(1_000);
    assert_eq!(count(&mut bus), 3);
    bus.reconfigure(Limits { empty_channel_ttl_ms: 500, ..Limits::default() });
    bus.pass(1);
    assert_eq!(count(&mut bus), 2, "it was empty for longer than that");
    bus.done(&ann, "leave_channel", "r:b", json!({}));
    bus.reconfigure(Limits { empty_channel_ttl_ms: 5_000, ..Limits::default() });
    bus.pass(4_999);
    assert_eq!(count(&mut bus), 2);
    bus.pass(1);
    assert_eq!(count(&mut bus), 1);
}

#[test]
fn commands_with_long_answers_count_as_several() {
    let mut bus =
        Bus::new(Limits { rate_commands: 10, ..Limits::default() }, PublishAnywhere::default());
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:c");
    bus.pass(10_000);
    let mut count = 0;
    let refused = loop {
        let answer = bus.command(&ann, "history", "r:c", json!({}));
        if answer["status"] != "success" {
            break answer;
        }
        count += 1;
        assert!(count < 10, "there is a limit");
    };
    // Those of two seconds may come at once.
    assert_eq!((count, &refused["error"]), (4, &json!("RATE_LIMITED")));
    assert!(refused["message"].as_str().unwrap().contains("history counts as 5"), "{refused}");
}
