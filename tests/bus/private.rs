//! Private messages: to those who are named and to nobody else, wherever they are connected.

use crate::common::{Client, Daemon, Refused, on_shards};
use serde_json::{Value, json};

on_shards! { only_the_targets_get_it who_is_not_there_is_named nobody_joins_where_they_travel }

/// Sends a private message that asks for an answer; the answer's payload.
fn send(from: &mut Client, address: &str, payload: Value) -> Value {
    let mut message = from.envelope("private", address, payload);
    message["metadata"] = json!({"ack": true});
    let id = from.send(&message);
    from.reply(&id)
}

fn private(client: &mut Client) -> crate::common::Message {
    client.find(|message| message["type"] == "private")
}

fn only_the_targets_get_it(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=lab:a");
    let mut others: Vec<Client> =
        (0..8).map(|n| daemon.client_with(&format!("client_id=c{n}&join=lab:a"))).collect();
    // A target need not be in the room.
    let mut stranger = daemon.client("stranger");
    let payload = json!({"target": ["c1", "stranger", "c6", "c1"], "secret": "\u{1f600}"});
    let answer = send(&mut ann, "lab:a", payload.clone());
    assert_eq!(answer["result"], json!({"delivered": 3}), "each target once");
    for client in [1, 6].map(|n: usize| n) {
        let message = private(&mut others[client]);
        assert_eq!(message["payload"], payload, "byte for byte, the targets included");
        assert_eq!((&message["from"], &message["room"]), (&json!("ann"), &json!("lab")));
        assert!(message["metadata"].get("sequence").is_none(), "it has no place in any order");
    }
    assert_eq!(private(&mut stranger)["payload"], payload);
    assert_eq!(send(&mut ann, "lab:a", json!({"target": "c2"}))["status"], "success");
    private(&mut others[2]);
    // To oneself, and with client metadata.
    let mut own = ann.envelope("private", "lab:pm", json!({"target": "ann"}));
    own["metadata"] = json!({"mood": 7});
    ann.send(&own);
    let message = private(&mut ann);
    assert_eq!((&message["metadata"], &message["channel"]), (&json!({"mood": 7}), &json!("pm")));
    for client in others.iter_mut().chain([&mut ann, &mut stranger]) {
        client.assert_quiet();
    }
    // It is in nobody's history.
    let page = ann.command("history", json!({"channel": "lab:a"}));
    assert_eq!(page["messages"], json!([]));
}

fn who_is_not_there_is_named(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=lab:a");
    let mut bob = daemon.client("bob");
    let answer = send(&mut ann, "lab:a", json!({"target": ["zoe", "bob", "carl"], "n": 1}));
    let refused = Refused::of(&answer);
    assert_eq!(refused.what(), (404, "TARGET_NOT_FOUND"));
    assert_eq!(refused.field.as_deref(), Some("payload.target"));
    assert!(refused.message.contains("carl") && refused.message.contains("zoe"));
    assert!(!refused.message.contains("bob,"), "{}", refused.message);
    assert_eq!(private(&mut bob)["payload"]["n"], 1, "whoever is there gets it");
    // A refusal is told also without asking.
    let id = {
        let message = ann.envelope("private", "lab:a", json!({"target": "zoe"}));
        ann.send(&message)
    };
    assert_eq!(Refused::of(&ann.reply(&id)).what(), (404, "TARGET_NOT_FOUND"));
    for (payload, code, error) in [
        (json!({}), 400, "BAD_TARGET"),
        (json!({"target": []}), 400, "BAD_TARGET"),
        (json!({"target": 7}), 400, "BAD_TARGET"),
        (json!({"target": ["bob", 7]}), 400, "BAD_TARGET"),
        (json!({"target": "b b"}), 400, "BAD_TARGET"),
        (
            json!({"target": (0..65).map(|n| format!("c{n}")).collect::<Vec<_>>()}),
            400,
            "BAD_TARGET",
        ),
    ] {
        let answer = send(&mut ann, "lab:a", payload.clone());
        assert_eq!(Refused::of(&answer).what(), (code, error), "{payload}");
    }
    let answer = send(&mut bob, "lab:a", json!({"target": "ann"}));
    assert_eq!(Refused::of(&answer).what(), (403, "NOT_JOINED"), "bob is not in the room");
    bob.assert_quiet();
}

fn nobody_joins_where_they_travel(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=lab:*");
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:pm"})).what(),
        (403, "CHANNEL_IS_PM")
    );
    assert_eq!(
        ann.refused("create_channel", json!({"channel": "lab:pm"})).what(),
        (403, "CHANNEL_IS_PM")
    );
    assert_eq!(send(&mut ann, "lab:a", json!({"target": "ann"}))["status"], "success");
    private(&mut ann);
    // Now it is there, and is still nobody's to join or to publish in.
    let channels = ann.command("list_channels", json!({"room": "lab"}));
    let pm = &channels["channels"][0];
    assert_eq!(
        (&pm["name"], &pm["type"], &pm["participants"]),
        (&json!("pm"), &json!("pm"), &json!(0))
    );
    assert_eq!(
        ann.refused("join_channel", json!({"channel": "lab:pm"})).what(),
        (403, "CHANNEL_IS_PM")
    );
    assert_eq!(ann.publish_refused("lab:pm", json!({})).what(), (403, "NOT_JOINED"));
    let info = ann.command("channel_info", json!({"channel": "lab:pm"}));
    assert_eq!((&info["history"], &info["state"]), (&Value::Null, &json!("private")));
    ann.assert_quiet();
}
