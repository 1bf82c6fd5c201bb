//! Whoever asked for its own events gets them, by what it is joined to now.

use super::*;

/// What comes back of events to these channels.
fn echoes(bus: &mut Bus, client: &Client, channels: &[&str]) -> Vec<bool> {
    let mut echoes = Vec::new();
    for channel in channels {
        bus.heard(client);
        bus.publish(client, &format!("r:{channel}"));
        let heard = bus.heard(client);
        echoes.push(heard.iter().any(|message| message["type"] == "event"));
    }
    echoes
}

#[test]
fn events_to_the_whole_room_come_back_by_what_is_joined_now() {
    let (echo, silent) = (json!({"echo": true}), json!({}));
    let (join, leave) = ("join_channel", "leave_channel");
    let steps = [
        (join, "a", &silent, false),
        (join, "b", &echo, true),
        (join, "a", &echo, true),
        (join, "b", &silent, true),
        (join, "a", &silent, false),
        (join, "a", &echo, true),
        (leave, "a", &silent, false),
        (join, "a", &echo, true),
        // Its join of `*` says what holds for events to `*`.
        (join, "*", &silent, false),
        (join, "*", &echo, true),
        (join, "a", &silent, true),
        (join, "*", &silent, false),
        (join, "a", &echo, false),
        (leave, "*", &silent, true),
        (join, "*", &echo, true),
        (leave, "a", &silent, true),
        (leave, "*", &silent, false),
    ];
    let mut bus = Bus::usual();
    let ann = bus.connect(1, "ann");
    for (step, (command, channel, parameters, expected)) in steps.into_iter().enumerate() {
        bus.done(&ann, command, &format!("r:{channel}"), parameters.clone());
        assert_eq!(echoes(&mut bus, &ann, &["*"]), [expected], "step {step}");
    }
}

#[test]
fn a_channels_own_echo_is_what_its_last_join_said() {
    let mut bus = Bus::usual();
    let ann = bus.connect(1, "ann");
    bus.join(&ann, "r:b");
    // By name goes before by `*`.
    for (channel, echo, expected) in [
        ("a", true, [true, false]),
        ("*", true, [true, false]),
        ("a", false, [false, false]),
        ("b", true, [false, true]),
    ] {
        bus.done(&ann, "join_channel", &format!("r:{channel}"), json!({"echo": echo}));
        assert_eq!(echoes(&mut bus, &ann, &["a", "b"]), expected, "{channel} {echo}");
    }
    bus.done(&ann, "leave_channel", "r:a", json!({}));
    assert_eq!(echoes(&mut bus, &ann, &["a", "b"]), [true, true], "what `*` asked for is left");
}
