//! Good envelopes and bad ones, as tables.

use super::*;
use serde_json::{Map, Value as Tree, json};

/// A good envelope with some fields changed; `null` in `changes` takes a field away.
fn envelope(changes: Tree) -> String {
    let mut message = json!({
        "version": "1.0",
        "id": "arq_1",
        "type": "event",
        "room": "science",
        "channel": "general",
        "from": "alice",
        "timestamp": "2025-11-30T12:00:00Z",
        "payload": {"text": "hi"},
    });
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            message.as_object_mut().unwrap().remove(key);
        } else {
            message[key] = value.clone();
        }
    }
    message.to_string()
}

fn refusal(text: &str) -> Refusal {
    let rejected = decode(text).expect_err(text);
    let Refusal { message, field, .. } = &rejected.refusal;
    assert!(!message.is_empty() && message.len() < 600, "{rejected:?}");
    assert!(field.as_ref().is_none_or(|field| (1..=400).contains(&field.len())));
    rejected.refusal
}

#[test]
fn a_good_message_is_read() {
    let text = r#" { "payload" : { "a" : [1, "}"] } , "version":"1.0","id":"arq_A-z_9",
            "type":"private","room":"science","channel":"general","from":"alice",
            "timestamp":"2025-11-30T12:00:00Z","metadata":{ "ack":true, "x" : {"sequence":1} , "ttl_ms":5 } } "#;
    let expected = Envelope {
        id: "arq_A-z_9".into(),
        kind: MessageType::Private,
        room: "science".into(),
        channel: "general".into(),
        from: "alice".into(),
        payload: r#"{ "a" : [1, "}"] }"#,
        metadata: Metadata {
            members: r#""ack":true, "x" : {"sequence":1} , "ttl_ms":5"#.into(),
            ack: true,
            trace: false,
            ttl_ms: Some(5),
        },
    };
    assert_eq!(decode(text), Ok(expected));
}

#[test]
fn escapes_are_read_everywhere() {
    let text = r#"{"\u0076ersion":"1\u002e0","id":"arq\u005f1","type":"\u0065vent",
            "room":"scienc\u0065","channel":"\u002a","from":"\u0061lice",
            "timestamp":"2025-11-30\u005412:00:00Z","payload":{},"metadata":{"\u0061ck":true}}"#;
    let envelope = decode(text).unwrap();
    assert_eq!((&*envelope.id, &*envelope.room, &*envelope.channel), ("arq_1", "science", "*"));
    assert_eq!((&*envelope.from, envelope.kind), ("alice", MessageType::Event));
    assert!(envelope.metadata.ack);
}

#[test]
fn good_variants_are_accepted() {
    let keys = |count| (0..count).map(|n| (format!("k{n}"), json!(n))).collect::<Map<_, _>>();
    for changes in [
        json!({}),
        json!({"type": "private"}),
        json!({"type": "command", "room": "*", "channel": "*"}),
        json!({"type": "command", "payload": {"command": "no such thing"}}),
        json!({"channel": "*"}),
        json!({"type": "telemetry", "payload": {"eventType": "", "payload": {}, "more": 1}}),
        json!({"payload": {}}),
        json!({"payload": {"version": null, "id": "arq_2", "sequence": 1}}),
        json!({"id": format!("arq_{}", "x".repeat(124))}),
        json!({"room": "x".repeat(64), "channel": "0", "from": "arqonbus_server"}),
        json!({"timestamp": "1998-12-31T15:59:60.123456789-08:00"}),
        json!({"metadata": {}}),
        json!({"metadata": keys(64)}),
        json!({"metadata": {"ack": false, "trace": true, "ttl_ms": 1}}),
        json!({"metadata": {"ttl_ms": TTL_MS_MAX, "Sequence": 1, "nested": {"replayed": true}}}),
    ] {
        let text = envelope(changes);
        assert!(decode(&text).is_ok(), "{text}: {:?}", decode(&text));
    }
    assert_eq!(decode(&envelope(json!({"metadata": {}}))).unwrap().metadata.members, "");
    let spaced = envelope(json!({})).replace("\"payload\"", "\"metadata\": { \n } ,\"payload\"");
    assert_eq!(decode(&spaced).unwrap().metadata, Metadata::default());
}

#[test]
fn bad_variants_are_refused_with_their_fault_and_field() {
    let keys = |count| (0..count).map(|n| (format!("k{n}"), json!(n))).collect::<Map<_, _>>();
    for (changes, fault, field) in [
        (json!({"version": "1.1"}), Fault::UnsupportedVersion, "version"),
        (json!({"version": "1"}), Fault::UnsupportedVersion, "version"),
        (json!({"version": 1.0}), Fault::WrongType, "version"),
        (json!({"id": ""}), Fault::BadId, "id"),
        (json!({"id": "arq_"}), Fault::BadId, "id"),
        (json!({"id": "arq-1"}), Fault::BadId, "id"),
        (json!({"id": "Arq_1"}), Fault::BadId, "id"),
        (json!({"id": "arq_a b"}), Fault::BadId, "id"),
        (json!({"id": "arq_é"}), Fault::BadId, "id"),
        (json!({"id": "arq_a.b"}), Fault::BadId, "id"),
        (json!({"id": format!("arq_{}", "x".repeat(125))}), Fault::BadId, "id"),
        (json!({"id": 7}), Fault::WrongType, "id"),
        (json!({"type": "Event"}), Fault::BadType, "type"),
        (json!({"type": ""}), Fault::BadType, "type"),
        (json!({"type": "system"}), Fault::TypeForbidden, "type"),
        (json!({"type": "command_response"}), Fault::TypeForbidden, "type"),
        (json!({"type": {}}), Fault::WrongType, "type"),
        (json!({"room": ""}), Fault::BadName, "room"),
        (json!({"room": "a b"}), Fault::BadName, "room"),
        (json!({"room": "x".repeat(65)}), Fault::BadName, "room"),
        (json!({"room": "x".repeat(100_000)}), Fault::BadName, "room"),
        (json!({"room": "*"}), Fault::BadName, "room"),
        (json!({"room": "*", "type": "private"}), Fault::BadName, "room"),
        (json!({"room": "*", "type": "telemetry"}), Fault::BadName, "room"),
        (json!({"room": "**", "type": "command"}), Fault::BadName, "room"),
        (json!({"room": true}), Fault::WrongType, "room"),
        (json!({"channel": ".x"}), Fault::BadName, "channel"),
        (json!({"channel": "a:b"}), Fault::BadName, "channel"),
        (json!({"channel": "*", "type": "private"}), Fault::BadName, "channel"),
        (json!({"channel": "*", "type": "telemetry"}), Fault::BadName, "channel"),
        (json!({"channel": []}), Fault::WrongType, "channel"),
        (json!({"from": ""}), Fault::BadName, "from"),
        (json!({"from": "*"}), Fault::BadName, "from"),
        (json!({"from": "\u{1b}[31m"}), Fault::BadName, "from"),
        (json!({"from": 1}), Fault::WrongType, "from"),
        (json!({"timestamp": "2025-11-30T12:00:00"}), Fault::BadTimestamp, "timestamp"),
        (json!({"timestamp": "2025-02-30T12:00:00Z"}), Fault::BadTimestamp, "timestamp"),
        (json!({"timestamp": "x".repeat(9_999)}), Fault::BadTimestamp, "timestamp"),
        (json!({"timestamp": 1_764_504_000}), Fault::WrongType, "timestamp"),
        (json!({"payload": []}), Fault::WrongType, "payload"),
        (json!({"payload": "{}"}), Fault::WrongType, "payload"),
        (json!({"payload": 0}), Fault::WrongType, "payload"),
        (json!({"type": "telemetry"}), Fault::BadTelemetry, "payload.eventType"),
        (
            json!({"type": "telemetry", "payload": {"eventType": 1, "payload": {}}}),
            Fault::BadTelemetry,
            "payload.eventType",
        ),
        (
            json!({"type": "telemetry", "payload": {"eventType": "x", "payload": []}}),
            Fault::BadTelemetry,
            "payload.payload",
        ),
        (json!({"metadata": []}), Fault::WrongType, "metadata"),
        (json!({"metadata": "x"}), Fault::WrongType, "metadata"),
        (json!({"metadata": keys(65)}), Fault::BadMetadata, "metadata"),
        (json!({"metadata": {"ack": 1}}), Fault::BadMetadata, "metadata.ack"),
        (json!({"metadata": {"trace": "true"}}), Fault::BadMetadata, "metadata.trace"),
        (json!({"metadata": {"ttl_ms": 0}}), Fault::BadMetadata, "metadata.ttl_ms"),
        (json!({"metadata": {"ttl_ms": -1}}), Fault::BadMetadata, "metadata.ttl_ms"),
        (json!({"metadata": {"ttl_ms": 1.5}}), Fault::BadMetadata, "metadata.ttl_ms"),
        (json!({"metadata": {"ttl_ms": "1"}}), Fault::BadMetadata, "metadata.ttl_ms"),
        (json!({"metadata": {"ttl_ms": TTL_MS_MAX + 1}}), Fault::BadMetadata, "metadata.ttl_ms"),
        (json!({"metadata": {"sequence": 1}}), Fault::ReservedMetadata, "metadata.sequence"),
        (json!({"metadata": {"replayed": false}}), Fault::ReservedMetadata, "metadata.replayed"),
        (json!({"extra": 1}), Fault::UnknownField, "extra"),
        (json!({"Version": "1.0"}), Fault::UnknownField, "Version"),
        (json!({"": 1}), Fault::UnknownField, "\"\""),
    ] {
        let refusal = refusal(&envelope(changes.clone()));
        assert_eq!((refusal.fault, refusal.field.as_deref()), (fault, Some(field)), "{changes}");
    }
}

const REQUIRED: [&str; 8] =
    ["version", "id", "type", "room", "channel", "from", "timestamp", "payload"];

#[test]
fn required_fields_may_be_neither_absent_nor_null() {
    for field in REQUIRED {
        let absent = envelope(json!({ field: null }));
        let null = envelope(json!({ field: "NULL" })).replace("\"NULL\"", "null");
        for text in [absent, null] {
            let refusal = refusal(&text);
            assert_eq!(refusal.fault, Fault::MissingField, "{text}");
            assert_eq!(refusal.field.as_deref(), Some(field), "{text}");
        }
    }
}

#[test]
fn optional_members_that_are_null_count_as_left_out() {
    let null = envelope(json!({"metadata": "NULL"})).replace("\"NULL\"", "null");
    assert_eq!(decode(&null).unwrap().metadata, Metadata::default());
    let nulls = json!({"metadata": {"ack": null, "trace": null, "ttl_ms": null, "own": null}});
    let text = envelope(nulls);
    let metadata = decode(&text).unwrap().metadata;
    assert_eq!((metadata.ack, metadata.trace, metadata.ttl_ms), (false, false, None));
    let members: Tree = serde_json::from_str(&format!("{{{}}}", metadata.members)).unwrap();
    assert_eq!(members["own"], Tree::Null, "what it means to clients is theirs");
    // The server's own keys are not passed on, or they would stand there twice.
    let text = envelope(json!({"metadata": "META"})).replace(
        "\"META\"",
        r#"{ "sequence" : null, "a":1.50, "\u0072eplayed":null ,"b": {"sequence":null} }"#,
    );
    let envelope = decode(&text).unwrap();
    assert_eq!(envelope.metadata.members, r#""a":1.50,"b":{"sequence":null}"#);
    let only = text.replace(r#""a":1.50,"#, "").replace(r#","b": {"sequence":null}"#, "");
    assert_eq!(decode(&only).unwrap().metadata.members, "");
}

#[test]
fn all_fields_at_fault_are_told_in_one_refusal() {
    let told = refusal(
        r#"{"version":"2.0","id":7,"type":"event","room":"a b","channel":null,
        "from":"ann","timestamp":"2025-11-30T12:00:00Z","payload":[],"metadata":{"ack":1},
        "extra":1,"more":2}"#,
    );
    let fields: Vec<&str> = told.fields.iter().map(|field| &**field).collect();
    let expected = ["version", "id", "room", "channel", "payload", "metadata.ack", "extra", "more"];
    assert_eq!((fields, told.field.as_deref()), (expected.to_vec(), Some("version")));
    assert_eq!(told.fault, Fault::UnsupportedVersion);
    for part in ["version \"2.0\"", "id is a number", "room \"a b\"", "channel is null"] {
        assert!(told.message.contains(part), "{}", told.message);
    }
    // One field alone is listed, too; a text that is no JSON has none.
    assert_eq!(refusal(&envelope(json!({"extra": 1}))).fields, ["extra"]);
    assert!(refusal("{").fields.is_empty());
    // However many there are, it says so in a few words.
    let many: Map<String, Tree> = (0..1_000).map(|n| (format!("k{n}"), json!(n))).collect();
    let told = refusal(&Tree::Object(many).to_string());
    assert_eq!(told.fields.len(), REQUIRED.len() + UNKNOWN_FIELDS_TOLD);
}

#[test]
fn the_first_fault_in_the_order_of_the_table_is_told() {
    // Everything is wrong; mending one field after another brings up the next.
    let mut message = json!({"extra": 1, "metadata": 1});
    for field in REQUIRED {
        let refusal = refusal(&message.to_string());
        assert_eq!((refusal.fault, refusal.field.as_deref()), (Fault::MissingField, Some(field)));
        let good: Tree = serde_json::from_str(&envelope(json!({}))).unwrap();
        message[field] = good[field].clone();
    }
    assert_eq!(refusal(&message.to_string()).field.as_deref(), Some("metadata"));
    message["metadata"] = json!({});
    assert_eq!(refusal(&message.to_string()).fault, Fault::UnknownField);
    // JSON faults come before all others.
    assert_eq!(refusal(r#"{"version":"2.0"}}"#).fault, Fault::InvalidJson);
    assert_eq!(refusal(r#"{"version":"2.0","a":{"b":1,"b":1}}"#).fault, Fault::DuplicateKey);
    assert_eq!(refusal(&format!(r#"{{"a":{}"#, "[".repeat(70))).fault, Fault::TooDeep);
}

#[test]
fn the_id_is_told_wherever_it_stands() {
    let id = |text: &str| decode(text).unwrap_err().id;
    assert_eq!(id(r#"{"version":"2.0","id":"arq_7"}"#).as_deref(), Some("arq_7"));
    assert_eq!(id(r#"{"id":"arq_\u0037","x":1}"#).as_deref(), Some("arq_7"));
    assert_eq!(id(r#"{"id":"arq_7","x":}"#).as_deref(), Some("arq_7"));
    assert_eq!(id(r#"{"x":}"id":"arq_7""#), None);
    assert_eq!(id(r#"{"id":"7"}"#), None);
    assert_eq!(id(r#"{"id":7}"#), None);
    assert_eq!(id("{}"), None);
}

#[test]
fn sentences_repeat_little_of_what_was_sent() {
    let long = "\u{1b}é\"".repeat(50_000);
    for field in REQUIRED.into_iter().filter(|field| *field != "payload") {
        let refusal = refusal(&envelope(json!({ field: long })));
        assert!(!refusal.message.contains('\u{1b}'), "{refusal:?}");
    }
    let refusal = refusal(&envelope(json!({ long: 1 })));
    assert!(!refusal.field.unwrap().contains('\u{1b}'));
}

#[test]
fn private_targets_are_one_or_a_list() {
    let names = |payload: Tree| {
        let targets = private_targets(&payload.to_string())?;
        Ok::<_, Refusal>(targets.iter().map(|name| name.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(names(json!({"target": "bob"})).unwrap(), ["bob"]);
    assert_eq!(names(json!({"target": ["bob", "al", "bob"], "x": 1})).unwrap(), ["bob", "al"]);
    let many = |count| (0..count).map(|n| format!("c{n}")).collect::<Vec<_>>();
    assert_eq!(names(json!({"target": many(64)})).unwrap().len(), 64);
    for bad in [
        json!({}),
        json!({"target": null}),
        json!({"target": 1}),
        json!({"target": {}}),
        json!({"target": ""}),
        json!({"target": "*"}),
        json!({"target": "a b"}),
        json!({"target": []}),
        json!({"target": ["bob", 1]}),
        json!({"target": ["bob", ["al"]]}),
        json!({"target": ["bob", ""]}),
        json!({"target": many(65)}),
    ] {
        let refusal = names(bad.clone()).unwrap_err();
        assert_eq!(refusal.fault, Fault::BadTarget, "{bad}");
        assert!(!refusal.message.is_empty() && refusal.message.len() < 300);
    }
}

#[test]
fn a_value_is_one_value() {
    let good = envelope(json!({}));
    for field in ["version", "id", "type", "room", "channel", "from", "timestamp"] {
        for (first, second) in [("-a", "*"), ("a", "a"), ("", ""), ("1.0", "1.0")] {
            let mut message: Map<String, Tree> = serde_json::from_str(&good).unwrap();
            message.insert(field.into(), "MARK".into());
            let text = Tree::Object(message).to_string();
            for between in ["", " ", ":"] {
                let values = format!("{}{between}{}", json!(first), json!(second));
                let text = text.replace("\"MARK\"", &values);
                assert_eq!(refusal(&text).fault, Fault::InvalidJson, "{text}");
            }
        }
    }
}

#[test]
fn both_forms_of_good_messages_are_read_the_same() {
    let head = r#""version":"1.0","id":"arq_1","type":"event""#;
    let tail = r#""from":"a","timestamp":"2025-11-30T12:00:00Z","payload":{"a":"b"}"#;
    for address in [r#""room":"r","channel":"*""#, r#""room":"r.-_9","channel":"c""#] {
        for metadata in ["", r#","metadata":{}"#, r#","metadata":{"ack":true,"x":[1]}"#] {
            let in_order = format!("{{{head},{address},{tail}{metadata}}}");
            let spaced = in_order.replace("\":", "\": ").replace(",\"", ", \"");
            let swapped = format!("{{{address},{head},{tail}{metadata}}}");
            let longest = spaced.replace("version", "\\u0076ersion");
            for text in [&in_order, &spaced, &swapped, &longest] {
                let envelope = decode(text).unwrap_or_else(|why| panic!("{text}: {why:?}"));
                assert_eq!((&*envelope.id, envelope.kind), ("arq_1", MessageType::Event));
                assert_eq!(envelope.metadata.ack, metadata.contains("ack"));
                assert_eq!(decode_any(text).unwrap(), envelope);
            }
        }
    }
}
