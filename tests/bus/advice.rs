//! A refusal says what to do, and doing it works: every row is refused with that advice, then follows it.

use crate::common::client::{Knock, knock, request};
use crate::common::{Client, Daemon, Refused, fresh_id};
use serde_json::{Value, json};

/// A good event with an id of its own, in which `from` is `to` instead.
fn changed(from: &str, to: &str) -> String {
    let good = format!(
        r#"{{"version":"1.0","id":"{}","type":"event","room":"science","channel":"general","from":"ann","timestamp":"2025-11-30T12:00:00Z","payload":{{"a":1}},"metadata":{{"ack":true}}}}"#,
        fresh_id()
    );
    assert!(good.contains(from), "{from} is no part of the message");
    good.replacen(from, to, 1)
}

#[test]
fn advice_on_messages_can_be_followed() {
    let daemon = Daemon::start(&["--shards", "1", "--max-violations", "0"]);
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    let time = r#""2025-11-30T12:00:00Z""#;
    for (from, bad, advice, good) in [
        (r#""1.0""#, r#""2.0""#, r#"send "1.0""#, r#""1.0""#),
        (r#""event""#, r#""system""#, "send event, command,", r#""event""#),
        (r#""event""#, r#""news""#, "send event, command,", r#""event""#),
        (r#""id":"arq_"#, r#""id":"ar_"#, "send arq_ and 1 to 124", r#""id":"arq_"#),
        (r#""from":"ann""#, r#""from":"bob""#, "your own client id, ann", r#""from":"ann""#),
        (time, r#""yesterday""#, "2025-11-30T12:00:00.000Z", r#""2025-11-30T12:00:00.000Z""#),
        (
            r#""metadata":{"#,
            r#""mine":1,"metadata":{"#,
            "put what is yours into payload or metadata",
            r#""metadata":{"mine":1,"#,
        ),
        (r#"{"ack""#, r#"{"sequence":1,"ack""#, "leave it out", r#"{"ack""#),
        (r#"{"a":1}"#, r#"{"a":1e999}"#, "send it as a string", r#"{"a":"1e999"}"#),
        ("}}", "}} {}", "send one message per frame", "}}"),
        (r#""science""#, r#""my room""#, "A-Z a-z 0-9 . _ -", r#""science""#),
        (r#""science""#, r#""-""#, "begin with a letter or a digit", r#""science""#),
    ] {
        ann.send_text(changed(from, bad));
        let refused = ann.refusal().1;
        assert!(refused.message.contains(advice), "{bad}: {advice:?} in {refused:?}");
        let followed = changed(from, good);
        let id = followed.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let id = id.expect("the message has an id").to_owned();
        ann.send_text(followed);
        let reply = ann.reply(&id);
        assert_eq!(reply["status"], "success", "{advice:?} was followed by {good}: {reply}");
    }
}

#[test]
fn advice_on_commands_can_be_followed() {
    let daemon = Daemon::start(&["--shards", "1", "--create-on-join", "false"]);
    let mut ann = daemon.client("ann");
    let says = |client: &mut Client, name: &str, parameters: Value, advice: &str| {
        let payload = json!({"command": name, "parameters": parameters});
        let id = client.send(&client.envelope("command", "*:*", payload));
        let refused = Refused::of(&client.reply(&id));
        assert!(refused.message.contains(advice), "{name}: {advice:?} in {refused:?}");
    };
    says(&mut ann, "list_room", json!({}), "did you mean list_rooms?");
    ann.command("list_rooms", json!({}));
    says(&mut ann, "do_what_i_mean", json!({}), "send help for a list of all");
    ann.command("help", json!({}));
    says(&mut ann, "join_channel", json!({"channel": "lab:x"}), "ask an admin for create_room");
    ann.command("create_room", json!({"room": "lab"}));
    says(
        &mut ann,
        "join_channel",
        json!({"channel": "lab:x"}),
        "list_channels shows which there are",
    );
    ann.command("list_channels", json!({"room": "lab"}));
    ann.command("create_channel", json!({"channel": "lab:x"}));
    let refused = ann.publish_refused("lab:x", json!({}));
    assert!(refused.message.contains("join_channel first"), "{refused:?}");
    ann.join("lab:x");
    ann.publish_acked("lab:x", json!({}));
    let again = json!({"channel": "lab:x", "recover": {"epoch": "e", "sequence": 0}});
    says(&mut ann, "join_channel", again, "leave first, or read what you missed with history");
    ann.command("history", json!({"channel": "lab:x"}));
    ann.leave("lab:x");
    ann.join("lab:x");
    says(&mut ann, "identify", json!({"client_id": "bob"}), "connect anew");
    drop(daemon.client("bob"));
    says(&mut ann, "delete_room", json!({"room": "lab"}), "delete its channels first");
    ann.leave("lab:x");
    ann.command("delete_channel", json!({"channel": "lab:x"}));
    ann.command("delete_room", json!({"room": "lab"}));
}

#[test]
fn advice_on_handshakes_can_be_followed() {
    let daemon = Daemon::with_shards(1);
    let ann = daemon.client("ann");
    for (bad, advice, good) in [
        ("client_id=ann", "choose another", "client_id=bob"),
        ("client_id=a%20b", "A-Z a-z 0-9 . _ -", "client_id=a_b"),
        ("client_id=a&client_id=a", "give it once", "client_id=a"),
        ("client_type=robot", "ai-agent", "client_type=ai-agent"),
        ("join=science", "write room:channel", "join=science:general"),
        ("room=science", "it knows client_id,", "client_id=c"),
        ("session=x", "connect without one", ""),
        ("session=", "`session` is empty", ""),
        ("session=x&client_id=d", "give one of the two", "client_id=d"),
    ] {
        match knock(request(daemon.bus, bad), daemon.bus) {
            Knock::Open(..) => panic!("{bad} is taken"),
            Knock::Refused(_, body) => {
                let message = body["message"].as_str().unwrap();
                assert!(message.contains(advice), "{bad}: {advice:?} in {message}");
            }
        }
        match knock(request(daemon.bus, good), daemon.bus) {
            Knock::Open(..) => {}
            Knock::Refused(status, body) => panic!("{good} after {advice:?}: {status} {body}"),
        }
    }
    drop(ann);
}
