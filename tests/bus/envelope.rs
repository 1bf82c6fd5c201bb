//! What an envelope may be (protocol, section 1): every rule broken once, each with the code and
//! the word of its refusal; the good ones delivered byte for byte; and who breaks rules is heard
//! by nobody else.

use crate::common::raw::{self, RawPeer, frame};
use crate::common::{Client, Daemon, Refused, eventually, fresh_id, on_shards};
use serde_json::{Value, json};

on_shards! { good_messages_arrive_byte_for_byte nobody_else_notices_a_vandal }

const ROOM: &str = "science:general";

/// A good event as text, in which the first `from` is `to` instead.
fn changed(id: &str, from: &str, to: &str) -> String {
    let good = format!(
        r#"{{"version":"1.0","id":"{id}","type":"event","room":"science","channel":"general","from":"ann","timestamp":"2025-11-30T12:00:00Z","payload":{{"a":1}},"metadata":{{"m":1}}}}"#
    );
    assert!(good.contains(from), "{from} is no part of the message");
    good.replacen(from, to, 1)
}

/// What a text is refused with; the id that the refusal answers.
struct Case {
    text: String,
    code: u64,
    error: &'static str,
    field: Option<&'static str>,
    id: Option<String>,
}

/// Cases that are one replacement in a good message, whose id can be read.
fn replacements() -> Vec<Case> {
    let long = format!(r#""room":"{}""#, "x".repeat(10_000));
    let many: Vec<String> = (0..65).map(|n| format!(r#""k{n}":{n}"#)).collect();
    let many = format!(r#""metadata":{{{}}}"#, many.join(","));

    let table: &[(&str, &str, u64, &str, Option<&str>)] = &[
        // Required fields: absent, null, of another type.
        (r#""version":"1.0","#, "", 400, "MISSING_FIELD", Some("version")),
        (r#""type":"event","#, "", 400, "MISSING_FIELD", Some("type")),
        (r#""room":"science","#, "", 400, "MISSING_FIELD", Some("room")),
        (r#""channel":"general","#, "", 400, "MISSING_FIELD", Some("channel")),
        (r#""from":"ann","#, "", 400, "MISSING_FIELD", Some("from")),
        (r#""timestamp":"2025-11-30T12:00:00Z","#, "", 400, "MISSING_FIELD", Some("timestamp")),
        (r#""payload":{"a":1},"#, "", 400, "MISSING_FIELD", Some("payload")),
        (r#""version":"1.0""#, r#""version":null"#, 400, "MISSING_FIELD", Some("version")),
        (r#""type":"event""#, r#""type":null"#, 400, "MISSING_FIELD", Some("type")),
        (r#""room":"science""#, r#""room":null"#, 400, "MISSING_FIELD", Some("room")),
        (r#""channel":"general""#, r#""channel":null"#, 400, "MISSING_FIELD", Some("channel")),
        (r#""from":"ann""#, r#""from":null"#, 400, "MISSING_FIELD", Some("from")),
        (
            r#""timestamp":"2025-11-30T12:00:00Z""#,
            r#""timestamp":null"#,
            400,
            "MISSING_FIELD",
            Some("timestamp"),
        ),
        (r#""payload":{"a":1}"#, r#""payload":null"#, 400, "MISSING_FIELD", Some("payload")),
        (r#""version":"1.0""#, r#""version":1.0"#, 400, "WRONG_TYPE", Some("version")),
        (r#""type":"event""#, r#""type":["event"]"#, 400, "WRONG_TYPE", Some("type")),
        (r#""room":"science""#, r#""room":{"name":"science"}"#, 400, "WRONG_TYPE", Some("room")),
        (r#""channel":"general""#, r#""channel":7"#, 400, "WRONG_TYPE", Some("channel")),
        (r#""from":"ann""#, r#""from":true"#, 400, "WRONG_TYPE", Some("from")),
        (
            r#""timestamp":"2025-11-30T12:00:00Z""#,
            r#""timestamp":1764504000"#,
            400,
            "WRONG_TYPE",
            Some("timestamp"),
        ),
        (r#""payload":{"a":1}"#, r#""payload":[1]"#, 400, "WRONG_TYPE", Some("payload")),
        (r#""payload":{"a":1}"#, r#""payload":"{}""#, 400, "WRONG_TYPE", Some("payload")),
        (r#""metadata":{"m":1}"#, r#""metadata":[]"#, 400, "WRONG_TYPE", Some("metadata")),
        (r#""metadata":{"m":1}"#, r#""metadata":7"#, 400, "WRONG_TYPE", Some("metadata")),
        // Fields that are there once too often.
        (r#""version""#, r#""extra":1,"version""#, 400, "UNKNOWN_FIELD", Some("extra")),
        (r#""version""#, r#""Version":"1.0","version""#, 400, "UNKNOWN_FIELD", Some("Version")),
        (r#""version":"1.0""#, r#""version":"2.0""#, 400, "UNSUPPORTED_VERSION", Some("version")),
        (r#""version":"1.0""#, r#""version":"1""#, 400, "UNSUPPORTED_VERSION", Some("version")),
        (r#""type":"event""#, r#""type":"Event""#, 400, "BAD_TYPE", Some("type")),
        (r#""type":"event""#, r#""type":"""#, 400, "BAD_TYPE", Some("type")),
        (r#""type":"event""#, r#""type":"system""#, 403, "TYPE_FORBIDDEN", Some("type")),
        (r#""type":"event""#, r#""type":"command_response""#, 403, "TYPE_FORBIDDEN", Some("type")),
        // Names.
        (r#""room":"science""#, r#""room":"""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"..""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"../../etc/passwd""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"*""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"sci ence""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"sci\u0000ence""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"scienc\u00e9""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, r#""room":"science:general""#, 400, "BAD_NAME", Some("room")),
        (r#""room":"science""#, &long, 400, "BAD_NAME", Some("room")),
        (r#""channel":"general""#, r#""channel":"-general""#, 400, "BAD_NAME", Some("channel")),
        (r#""channel":"general""#, r#""channel":"gen*""#, 400, "BAD_NAME", Some("channel")),
        (r#""from":"ann""#, r#""from":"ann\n""#, 400, "BAD_NAME", Some("from")),
        (r#""from":"ann""#, r#""from":"bob""#, 403, "SENDER_MISMATCH", Some("from")),
        (r#""from":"ann""#, r#""from":"Ann""#, 403, "SENDER_MISMATCH", Some("from")),
        (r#""from":"ann""#, r#""from":"arqonbus_server""#, 403, "SENDER_MISMATCH", Some("from")),
        // Times.
        ("2025-11-30T12:00:00Z", "", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "yesterday", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "2025-11-30T12:00:00", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "2025-11-30", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "2025-13-30T12:00:00Z", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "2025-02-29T12:00:00Z", 400, "BAD_TIMESTAMP", Some("timestamp")),
        ("2025-11-30T12:00:00Z", "2025-11-30T24:00:00Z", 400, "BAD_TIMESTAMP", Some("timestamp")),
        (
            "2025-11-30T12:00:00Z",
            "2025-11-30T12:00:00+25:00",
            400,
            "BAD_TIMESTAMP",
            Some("timestamp"),
        ),
        ("2025-11-30T12:00:00Z", "2025-11-30T12:00:00Z ", 400, "BAD_TIMESTAMP", Some("timestamp")),
        // Metadata.
        (r#""metadata":{"m":1}"#, &many, 400, "BAD_METADATA", Some("metadata")),
        (r#"{"m":1}"#, r#"{"sequence":1}"#, 400, "RESERVED_METADATA", Some("metadata.sequence")),
        (r#"{"m":1}"#, r#"{"replayed":true}"#, 400, "RESERVED_METADATA", Some("metadata.replayed")),
        (
            r#"{"m":1}"#,
            r#"{"s\u0065quence":1}"#,
            400,
            "RESERVED_METADATA",
            Some("metadata.sequence"),
        ),
        (r#"{"m":1}"#, r#"{"ack":1}"#, 400, "BAD_METADATA", Some("metadata.ack")),
        (r#"{"m":1}"#, r#"{"trace":"yes"}"#, 400, "BAD_METADATA", Some("metadata.trace")),
        (r#"{"m":1}"#, r#"{"ttl_ms":0}"#, 400, "BAD_METADATA", Some("metadata.ttl_ms")),
        (r#"{"m":1}"#, r#"{"ttl_ms":-5}"#, 400, "BAD_METADATA", Some("metadata.ttl_ms")),
        (r#"{"m":1}"#, r#"{"ttl_ms":1.5}"#, 400, "BAD_METADATA", Some("metadata.ttl_ms")),
        // Types that may say less.
        (
            r#""type":"event","room":"science""#,
            r#""type":"private","room":"*""#,
            400,
            "BAD_NAME",
            Some("room"),
        ),
        (
            r#""type":"event","room":"science","channel":"general""#,
            r#""type":"telemetry","room":"science","channel":"*""#,
            400,
            "BAD_NAME",
            Some("channel"),
        ),
        (
            r#""type":"event""#,
            r#""type":"telemetry""#,
            400,
            "BAD_TELEMETRY",
            Some("payload.eventType"),
        ),
        (r#""type":"event""#, r#""type":"private""#, 400, "BAD_TARGET", Some("payload.target")),
        (r#""type":"event""#, r#""type":"command""#, 400, "MISSING_FIELD", Some("payload.command")),
    ];
    let case = |&(from, to, code, error, field): &(
        &str,
        &str,
        u64,
        &'static str,
        Option<&'static str>,
    )| {
        let id = fresh_id();
        Case { text: changed(&id, from, to), code, error, field, id: Some(id) }
    };
    table.iter().map(case).collect()
}

/// Cases that are no JSON, or hold no id that could be said back.
fn unreadable() -> Vec<Case> {
    let good = |id: &str| changed(id, "1.0", "1.0");
    let deep = |levels: usize| format!("{}1{}", r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let mut cases = Vec::new();
    let mut add = |text: String, error: &'static str, id: Option<String>| {
        cases.push(Case { text, code: 400, error, field: None, id });
    };
    for text in [
        "", " ", "null", "true", "7", "\"text\"", "[]", "{", "}", "{]", "{\"a\"}", "{'a':1}", "NaN",
    ] {
        add(text.to_owned(), "INVALID_JSON", None);
    }
    for text in ["{}", r#"{"a":1}"#] {
        add(text.to_owned(), "MISSING_FIELD", None);
    }
    // The id stands before the mistake, so it is said back.
    for (from, to) in [
        (r#"{"a":1}"#, r#"{"a":01}"#),
        (r#"{"a":1}"#, r#"{"a":1,}"#),
        (r#"{"a":1}"#, r#"{"a":+1}"#),
        (r#"{"a":1}"#, r#"{"a":.5}"#),
        (r#"{"a":1}"#, r#"{"a":NaN}"#),
        (r#"{"a":1}"#, r#"{"a":1e999}"#),
        (r#"{"a":1}"#, r#"{"a":-1e999}"#),
        (r#"{"a":1}"#, r#"{"a":"\ud800"}"#),
        (r#"{"a":1}"#, r#"{"a":"\udc00\ud800"}"#),
        (r#"{"a":1}"#, r#"{"a":"\x"}"#),
        (r#"{"a":1}"#, "{\"a\":\"line\nbreak\"}"),
        (r#"{"a":1}"#, "{\"a\":\"\0\"}"),
        (r#"{"a":1}"#, r#"{"a":1 /* no */}"#),
    ] {
        let id = fresh_id();
        add(changed(&id, from, to), "INVALID_JSON", Some(id));
    }
    for rest in ["x", "{}", ",", "\0", "]", "\u{feff}"] {
        let id = fresh_id();
        add(good(&id) + rest, "INVALID_JSON", Some(id));
    }
    add(format!("\u{feff}{}", good(&fresh_id())), "INVALID_JSON", None);
    for (from, to) in [
        (r#""payload""#, r#""room":"science","payload""#),
        (r#"{"a":1}"#, r#"{"a":1,"a":1}"#),
        (r#"{"a":1}"#, r#"{"a":1,"\u0061":2}"#),
        (r#"{"a":1}"#, r#"{"x":[{"b":1,"b":2}]}"#),
        (r#"{"m":1}"#, r#"{"m":1,"m":1}"#),
    ] {
        let id = fresh_id();
        add(changed(&id, from, to), "DUPLICATE_KEY", Some(id));
    }
    let id = fresh_id();
    add(changed(&id, r#"{"a":1}"#, &deep(64)), "TOO_DEEP", Some(id));
    let id = fresh_id();
    add(changed(&id, r#"{"a":1}"#, &"{\"a\":[".repeat(50_000)), "TOO_DEEP", Some(id));
    // An id that breaks its rule is not said back.
    for (id, error) in [
        ("arq_", "BAD_ID"),
        ("ARQ_1", "BAD_ID"),
        ("msg_1", "BAD_ID"),
        ("arq_a b", "BAD_ID"),
        ("arq_a.b", "BAD_ID"),
        ("arq_\\u00e9", "BAD_ID"),
        (&format!("arq_{}", "x".repeat(125)), "BAD_ID"),
    ] {
        add(good(id), error, None);
    }
    add(changed("arq_1", r#""id":"arq_1","#, ""), "MISSING_FIELD", None);
    add(changed("arq_1", r#""id":"arq_1""#, r#""id":null"#), "MISSING_FIELD", None);
    add(changed("arq_1", r#""id":"arq_1""#, r#""id":17"#), "WRONG_TYPE", None);
    cases
}

#[test]
fn every_rule_that_is_broken_has_its_refusal() {
    let daemon = Daemon::start(&["--shards", "2", "--max-violations", "0"]);
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    let cases: Vec<Case> = replacements().into_iter().chain(unreadable()).collect();
    for Case { text, code, error, field, id } in &cases {
        let shown = &text[..text.floor_char_boundary(400)];
        ann.send_text(text.as_str());
        let (request_id, refused) = ann.refusal();
        assert_eq!(refused.what(), (*code, *error), "{shown}: {refused:?}");
        assert_eq!(request_id, json!(id), "{shown}: {refused:?}");
        if field.is_some() {
            assert_eq!(refused.field.as_deref(), *field, "{shown}: {refused:?}");
        }
        assert!(
            refused.message.len() < 400,
            "a refusal does not repeat what was sent: {refused:?}"
        );
    }
    // Whoever was in the channel all the time got what is good and nothing else.
    ann.publish_acked(ROOM, json!({"last": true}));
    assert_eq!(bob.event()["payload"]["last"], true);
    bob.assert_quiet();
    ann.assert_quiet();
    eventually("every refusal to be counted", || {
        (daemon.metric("arqonbus_errors_total", "") == cases.len() as f64).then_some(())
    });
}

fn good_messages_arrive_byte_for_byte(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    let deepest = format!("{}1{}", r#"{"a":"#.repeat(63), "}".repeat(63));
    let many: Vec<String> = (0..64).map(|n| format!(r#""k{n}":{n}"#)).collect();
    for payload in [
        "{}",
        "{ }",
        "{\n\t\"a\" :\r\n 1 ,\"b\":[ ]}",
        r#"{"a":1,"A":2,"":3}"#,
        r#"{"n":123456789012345678901234567890,"m":-0,"e":1E+2,"f":0.10000,"g":1e-999}"#,
        r#"{"t":"\u0041\ud83d\ude00\/\b\f\n\r\t\\\""}"#,
        "{\"t\":\"\u{1f600} \u{7f} \u{2028} \u{10ffff}\"}",
        r#"{"nul":"\u0000"}"#,
        r#"{"sequence":1,"replayed":true,"ack":true,"target":7}"#,
        &deepest,
    ] {
        let text = changed(&fresh_id(), r#"{"a":1}"#, payload);
        ann.send_text(text);
        assert_eq!(bob.event().payload_text(), payload);
    }
    // Metadata comes as it was sent, with the server's keys beside.
    for metadata in [
        r#"{}"#.to_owned(),
        r#"{ "b" : "\u0041" , "a":[1, 2] }"#.to_owned(),
        format!("{{{}}}", many.join(",")),
    ] {
        ann.send_text(changed(&fresh_id(), r#"{"m":1}"#, &metadata));
        let event = bob.event();
        let mut expected: Value = serde_json::from_str(&metadata).unwrap();
        expected["sequence"] = event.sequence().into();
        assert_eq!(event["metadata"], expected);
    }
    // Keys in any order, white space around, names escaped, any good time.
    let text = " \n{ \"payload\" : { \"x\" : 1 }, \"timestamp\":\"2017-01-01T05:29:60.5+05:30\",\
         \"from\":\"\\u0061nn\",\"channel\":\"gen\\u0065ral\",\"room\":\"science\",\
         \"type\":\"ev\\u0065nt\",\"id\":\"arq_-_\",\"v\\u0065rsion\":\"1.0\" }\t";
    ann.send_text(text);
    let event = bob.event();
    assert_eq!(event.payload_text(), "{ \"x\" : 1 }");
    assert_eq!((&event["id"], &event["from"]), (&json!("arq_-_"), &json!("ann")));
    assert_eq!((&event["version"], &event["type"]), (&json!("1.0"), &json!("event")));
    let time = event["timestamp"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.len() == "2025-11-30T12:00:00.123456Z".len(), "{time}");
    assert!(!time.starts_with("2017"), "the time is the server's");
    // The longest id, and one as long as a message may be.
    let longest = format!("arq_{}", "Z".repeat(124));
    ann.send_text(changed(&longest, "1.0", "1.0"));
    assert_eq!(bob.event()["id"], longest.as_str());
    let shell = changed(&fresh_id(), r#"{"a":1}"#, r#"{"t":""}"#);
    let filler = "y".repeat((1 << 20) - shell.len());
    ann.send_text(shell.replace(r#""t":"""#, &format!(r#""t":"{filler}""#)));
    assert_eq!(bob.event()["payload"]["t"].as_str().unwrap().len(), filler.len());
    ann.assert_quiet();
    bob.assert_quiet();
}

/// Breaks the rules of WebSocket, each in a connection of its own; the code each is closed with.
fn vandalism(message_bytes_max: u64) -> Vec<(Vec<u8>, u16, &'static str)> {
    let text = |bytes: &[u8]| frame(raw::TEXT, bytes);
    vec![
        (frame(raw::BINARY, b"{}"), 1003, "binary"),
        (frame(raw::BINARY, b""), 1003, "an empty binary message"),
        (frame(0x02, b"{}"), 1003, "the first fragment of a binary message"),
        (text(b"\xff\xfe"), 1007, "bytes that are no UTF-8"),
        (text(b"\xed\xa0\x80"), 1007, "a surrogate in UTF-8"),
        (text(b"\xf0\x9f\x98"), 1007, "a character cut off"),
        ([frame(0x01, b"\xf0\x9f"), frame(0x80, b"x")].concat(), 1007, "a character torn apart"),
        (
            [raw::header(raw::TEXT, message_bytes_max + 1), vec![0; 4]].concat(),
            1009,
            "a header that promises too much",
        ),
        (
            [raw::header(raw::TEXT, 1 << 62), vec![0; 4]].concat(),
            1009,
            "a header that promises everything",
        ),
        (vec![0x81, 0x02, b'{', b'}'], 1002, "a frame without a mask"),
        (frame(0xc1, b"{}"), 1002, "a compressed frame, though nothing was agreed"),
        (frame(0x83, b""), 1002, "an opcode that is none"),
        (frame(0x80, b"x"), 1002, "a continuation of nothing"),
        ([frame(0x01, b"a"), text(b"b")].concat(), 1002, "a message within a message"),
        (frame(raw::PING, [7; 126]), 1002, "a ping that is too long"),
        (frame(0x09, b""), 1002, "a ping in fragments"),
        (frame(raw::CLOSE, b"\x03"), 1002, "a close code cut in half"),
        (frame(raw::CLOSE, 1005u16.to_be_bytes()), 1002, "a close code that may not be sent"),
        (frame(raw::CLOSE, b"\x03\xe8\xff"), 1007, "a close reason that is no UTF-8"),
        (frame(raw::CLOSE, b"\x03\xe8bye"), 1000, "a goodbye"),
        (frame(raw::CLOSE, 4321u16.to_be_bytes()), 4321, "a goodbye of one's own"),
    ]
}

fn nobody_else_notices_a_vandal(daemon: Daemon) {
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    let query = "client_id=vandal&join=science:general";
    let many = vandalism(1 << 20);
    for (bytes, code, what) in &many {
        let mut vandal = connect_when_free(&daemon, query);
        vandal.send(bytes);
        let (was, reason) = vandal.await_close();
        assert_eq!(was, *code, "{what}: {reason}");
        assert!(was == 1000 || was == 4321 || !reason.is_empty(), "{what}: the reason in words");
        if *what == "a goodbye" || *what == "an empty binary message" {
            vandal.send(&frame(raw::CLOSE, code.to_be_bytes()));
            assert!(vandal.is_hung_up(), "{what}");
        }
        ann.publish_acked(ROOM, json!({"after": what}));
        assert_eq!(bob.event()["payload"]["after"], *what);
    }
    // Gone without a word, in the middle of everything.
    for half in
        [&b"\x81"[..], &raw::header(raw::TEXT, 5_000), &frame(raw::TEXT, "x".repeat(900))[..500]]
    {
        let mut vandal = connect_when_free(&daemon, query);
        vandal.send(half);
        drop(vandal);
    }
    ann.assert_quiet();
    bob.assert_quiet();
    eventually("all vandals to be gone", || {
        (daemon.metric("arqonbus_active_clients", "") == 2.0).then_some(())
    });
}

/// A peer whose id may still belong to the one before it.
fn connect_when_free(daemon: &Daemon, query: &str) -> RawPeer {
    use crate::common::client::{Knock, knock, request};
    eventually("the id to be free", || match knock(request(daemon.bus, query), daemon.bus) {
        Knock::Refused(status, _) => {
            assert_eq!(status, 409);
            None
        }
        Knock::Open(socket, _) => {
            drop(socket);
            Some(())
        }
    });
    eventually("the id to be free again", || {
        let mut stream = daemon.socket();
        use std::io::{Read, Write};
        stream.write_all(&raw::handshake(&format!("/?{query}"), "")).unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).ok()?;
        if !first.ends_with(b"101") {
            return None;
        }
        let mut peer = RawPeer::half_upgraded(stream, &first);
        assert_eq!(peer.message()["payload"]["event"], "welcome");
        Some(peer)
    })
}

#[test]
fn a_message_too_long_is_answered_and_closed() {
    let daemon = Daemon::start(&["--shards", "2", "--max-message-bytes", "2000"]);
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    for pieces in [1, 3] {
        let mut peer = daemon.raw("");
        let long = vec![b' '; 2_001];
        let bytes = match pieces {
            1 => frame(raw::TEXT, &long),
            _ => [frame(0x01, &long[..900]), frame(0x00, &long[..900]), frame(0x80, &long[..900])]
                .concat(),
        };
        peer.send(&bytes);
        let reply = peer.message();
        assert_eq!(Refused::of(&reply["payload"]).what(), (413, "MESSAGE_TOO_LARGE"));
        assert_eq!(reply["payload"]["request_id"], Value::Null);
        assert_eq!(peer.await_close().0, 1009);
    }
    eventually("both to be counted", || {
        (daemon.metric("arqonbus_errors_total", "MESSAGE_TOO_LARGE") == 2.0).then_some(())
    });
    // One byte less is no JSON, but not too long.
    let mut peer = daemon.raw("");
    peer.send(&frame(raw::TEXT, vec![b' '; 2_000]));
    assert_eq!(peer.message()["payload"]["error"], "INVALID_JSON");
    bob.assert_quiet();
}

#[test]
fn too_many_violations_close_the_connection() {
    let daemon = Daemon::with_shards(2);
    let mut bob = daemon.client_with("client_id=bob&join=science:general");
    let mut ann = daemon.client_with("client_id=ann&join=science:general");
    // Being unlucky is no violation, however often.
    for _ in 0..20 {
        assert_eq!(ann.refused("delete_room", json!({"room": "none"})).code, 404);
        assert_eq!(ann.publish_refused("lab:x", json!({})).what(), (403, "NOT_JOINED"));
    }
    let bad = ["{", "{}", &changed("arq_x", r#""from":"ann""#, r#""from":"bob""#)];
    for n in 0..9 {
        ann.send_text(bad[n % bad.len()]);
        ann.refusal();
        ann.publish_acked(ROOM, json!({"n": n}));
    }
    ann.send_text("[]");
    assert_eq!(ann.refusal().1.what(), (400, "INVALID_JSON"), "the tenth is answered, too");
    let (code, reason) = ann.await_close();
    assert_eq!(code, 1008, "{reason}");
    for n in 0..9 {
        assert_eq!(bob.event()["payload"]["n"], n);
    }
    bob.assert_quiet();
    eventually("the close to be counted", || {
        (daemon.metric("arqonbus_shard_closes_total", "violations") == 1.0).then_some(())
    });
}

#[test]
fn fragments_and_pings_make_one_message() {
    let daemon = Daemon::with_shards(2);
    let mut bob: Client = daemon.client_with("client_id=bob&join=science:general");
    let mut ann = daemon.raw("client_id=ann&join=science:general");
    let text = changed(&fresh_id(), r#"{"a":1}"#, "{\"t\":\"\u{1f600}\"}");
    let bytes = text.as_bytes();
    // Cut inside the character, with control frames and an empty fragment between.
    let cut = text.find('\u{1f600}').unwrap() + 2;
    let mut pieces = frame(0x01, &bytes[..10]);
    pieces.extend(frame(raw::PING, b"are you there?"));
    pieces.extend(frame(0x00, &bytes[10..cut]));
    pieces.extend(frame(0x00, b""));
    pieces.extend(frame(raw::PONG, b"unasked"));
    pieces.extend(frame(0x80, &bytes[cut..]));
    ann.send(&pieces);
    assert_eq!(ann.frame().unwrap(), (raw::PONG, b"are you there?".to_vec()));
    assert_eq!(bob.event()["payload"]["t"], "\u{1f600}");
    // Every byte alone.
    let text = changed(&fresh_id(), r#"{"a":1}"#, r#"{"one":"by one"}"#);
    for byte in frame(raw::TEXT, text) {
        ann.send(&[byte]);
    }
    assert_eq!(bob.event()["payload"]["one"], "by one");
}
