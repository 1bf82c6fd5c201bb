//! Nothing is said to have failed that may still succeed.

use super::*;

#[test]
fn a_traced_event_is_answered_when_its_home_has_decided() {
    for is_paused in [false, true] {
        let mut bus = Bus::usual();
        let (admin, ann) = (bus.connect(0, "admin"), bus.connect(1, "ann"));
        bus.join(&ann, "r:c");
        bus.stuck = Some(bus.placement.of_room("r"));
        if is_paused {
            let pause = json!({"command": "pause_room", "parameters": {"room": "r"}});
            bus.say(&admin, "command", "*:*", pause, json!({}));
        }
        let event = bus.say(&ann, "event", "r:c", json!({}), json!({"trace": true}));
        bus.pass(10_000);
        assert_eq!(bus.reply(&ann, &event), None, "its fate is open");
        bus.stuck = None;
        bus.settle();
        let answer = bus.reply(&ann, &event).unwrap();
        match is_paused {
            true => assert_eq!(answer["error"], "ROOM_PAUSED", "{answer}"),
            false => {
                assert_eq!(answer["result"]["sequence"], 1, "{answer}");
                assert_eq!(answer["result"]["delivered"], 0, "{answer}");
                assert!(answer["result"].get("unreported").is_none(), "{answer}");
            }
        }
        bus.pass(10_000);
        assert_eq!(bus.reply(&ann, &event), None, "one answer");
    }
}

#[test]
fn only_the_reports_of_where_it_went_have_a_deadline() {
    let mut bus = Bus::usual();
    let [ann, bob, eve] = [(0, "ann"), (1, "bob"), (2, "eve")].map(|(at, id)| bus.connect(at, id));
    for client in [&ann, &bob, &eve] {
        bus.join(client, "r:c");
    }
    bus.silent = Some(eve.shard);
    let event = bus.say(&ann, "event", "r:c", json!({}), json!({"trace": true}));
    bus.pass(79);
    assert_eq!(bus.reply(&ann, &event), None);
    bus.pass(1);
    let result = bus.reply(&ann, &event).unwrap()["result"].clone();
    assert_eq!((&result["sequence"], &result["unreported"]), (&json!(1), &json!(1)), "{result}");
    assert_eq!((&result["duplicate"], &result["delivered"]), (&json!(false), &json!(1)));
    let at: Vec<_> = result["trace"].as_array().unwrap().iter().map(|hop| &hop["at"]).collect();
    assert_eq!(at, ["parsed", "routed", "delivered", "delivered"]);
}

#[test]
fn a_private_message_waits_for_every_directory() {
    let mut bus = Bus::usual();
    let (ann, _bob) = (bus.connect(1, "ann"), bus.connect(2, "bob"));
    bus.join(&ann, "r:c");
    bus.stuck = Some(bus.placement.of_client("bob"));
    let to = json!({"target": ["bob", "zoe"]});
    let message = bus.say(&ann, "private", "r:pm", to, json!({}));
    bus.pass(10_000);
    assert_eq!(bus.reply(&ann, &message), None, "its fate is open");
    bus.stuck = None;
    bus.settle();
    let answer = bus.reply(&ann, &message).unwrap();
    assert_eq!(answer["message"], "Not connected: zoe. Delivered to 1 of 2 targets.");
}

#[test]
fn a_list_without_a_shards_part_says_so() {
    let mut bus = Bus::usual();
    let ann = bus.connect(0, "ann");
    bus.stuck = Some(ShardId(2));
    for command in ["list_rooms", "list_clients"] {
        let payload = json!({"command": command, "response_format": "brief"});
        let id = bus.say(&ann, "command", "*:*", payload, json!({}));
        bus.pass(80);
        let answer = bus.reply(&ann, &id).unwrap();
        assert_eq!(answer["result"]["unanswered_shards"], json!([2]), "{answer}");
    }
    bus.stuck = None;
    bus.settle();
    assert!(bus.done(&ann, "list_rooms", "*:*", json!({})).get("unanswered_shards").is_none());
}

#[test]
fn a_join_is_one_too_many_only_when_that_is_sure() {
    let limits = Limits { max_joins_per_client: 2, ..Limits::default() };
    let mut bus = Bus::new(limits, PublishAnywhere::default());
    let ann = bus.connect(1, "ann");
    bus.join(&ann, "r:a");
    bus.join(&ann, "r:b");
    assert_eq!(bus.command(&ann, "join_channel", "r:c", json!({}))["error"], "JOIN_LIMIT");
    bus.join(&ann, "r:a");
    bus.done(&ann, "leave_channel", "r:b", json!({}));
    // Behind a join that is no join more, and behind a leave.
    for (command, address) in [("join_channel", "r:a"), ("leave_channel", "r:c")] {
        bus.stuck = Some(bus.placement.of_room("r"));
        let payload = |command| json!({"command": command, "parameters": {}});
        bus.say(&ann, "command", address, payload(command), json!({}));
        let join = payload("join_channel");
        let (id, text) = bus.message(&ann, "command", "r:c", join, json!({}));
        assert_eq!(bus.offer(&ann, &text, false), Flow::Waiting, "{command}");
        bus.stuck = None;
        bus.settle();
        assert_eq!(bus.offer(&ann, &text, true), Flow::Done);
        assert_eq!(bus.reply(&ann, &id).unwrap()["status"], "success", "{command}");
    }
    assert_eq!(bus.command(&ann, "join_channel", "r:*", json!({}))["error"], "JOIN_LIMIT");
}

#[test]
fn a_long_answer_is_awaited_whatever_other_questions_have_its_id() {
    let mut bus = Bus::usual();
    let ann = bus.connect(0, "ann");
    bus.join(&ann, "r:a");
    bus.stuck = Some(bus.placement.of_room("r"));
    let ask = |bus: &mut Bus, command: &str, parameters: Value| {
        let payload = json!({"command": command, "parameters": parameters});
        bus.message(&ann, "command", "r:a", payload, json!({}))
    };
    let (id, text) = ask(&mut bus, "history", json!({}));
    assert_eq!(bus.offer(&ann, &text, false), Flow::Done);
    // A short answer, a refusal of a long one, and a message that is no command, all under its id.
    let others = [
        ask(&mut bus, "ping", json!({})),
        ask(&mut bus, "history", json!({"limit": "many"})),
        bus.message(&ann, "event", "r:none", json!({}), json!({})),
    ];
    for (other, text) in others {
        let same = text.replace(&format!("\"{other}\""), &format!("\"{id}\""));
        assert_eq!(bus.offer(&ann, &same, false), Flow::Done);
        bus.heard(&ann);
        let (_, next) = ask(&mut bus, "history", json!({}));
        assert_eq!(bus.offer(&ann, &next, false), Flow::Waiting, "after {text}");
    }
    bus.stuck = None;
    bus.settle();
    let (_, next) = ask(&mut bus, "history", json!({}));
    assert_eq!(bus.offer(&ann, &next, true), Flow::Done);
}
