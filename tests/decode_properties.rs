//! What the decoder accepts and refuses, against another JSON parser and under mutation.
//!
//! The scanner's verdict must be the other parser's, but for two rules that it has of its own: no
//! key twice and a limit of depth. Both are checked here by a second, slower reading of the tree.
//! And the decoder's quick way must say of every text what the long way says.

use arqonbus::base::limits::JSON_DEPTH_MAX;
use arqonbus::protocol::command;
use arqonbus::protocol::decode::{decode, decode_any, private_targets};
use arqonbus::protocol::fault::Fault;
use arqonbus::protocol::json;
use proptest::prelude::*;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// What another parser says of a text: how deep it nests, if no key stands twice in it.
struct Depth(usize);

const TWICE: &str = "a key stands twice";

impl<'de> Deserialize<'de> for Depth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Depth, D::Error> {
        deserializer.deserialize_any(DepthVisitor)
    }
}

struct DepthVisitor;

impl<'de> Visitor<'de> for DepthVisitor {
    type Value = Depth;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_str<E>(self, _: &str) -> Result<Depth, E> {
        Ok(Depth(0))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Depth, A::Error> {
        let mut deepest = 0;
        while let Some(Depth(depth)) = seq.next_element()? {
            deepest = deepest.max(depth);
        }
        Ok(Depth(deepest + 1))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Depth, A::Error> {
        let (mut deepest, mut keys) = (0, BTreeSet::new());
        while let Some(key) = map.next_key::<String>()? {
            let Depth(depth) = map.next_value()?;
            deepest = deepest.max(depth);
            if !keys.insert(key) {
                return Err(A::Error::custom(TWICE));
            }
        }
        Ok(Depth(deepest + 1))
    }
}

/// Compares both parsers' verdicts on one text.
fn check_verdict(text: &str) {
    let ours = json::members(text, |_, _| ()).map_err(|error| {
        assert!(error.at <= text.len() && !error.message.is_empty(), "{error:?}");
        error.fault
    });
    let is_object = text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{');
    match serde_json::from_str::<Depth>(text) {
        _ if !is_object => assert_eq!(ours, Err(Fault::InvalidJson), "{text}"),
        Ok(Depth(depth)) if depth > JSON_DEPTH_MAX => {
            assert_eq!(ours, Err(Fault::TooDeep), "{text}")
        }
        Ok(_) => assert_eq!(ours, Ok(()), "{text}"),
        // Which of several faults is found first is each parser's own affair.
        Err(_) => assert!(ours.is_err(), "{text}"),
    }
}

/// Compares what both ways through the decoder say of one text.
fn check_ways(text: &str) {
    assert_eq!(decode(text), decode_any(text), "{text}");
}

/// Writes a tree with the space and the escapes that `noise` chooses.
fn write(tree: &Value, noise: &mut impl Iterator<Item = u8>, out: &mut String) {
    let mut space = |out: &mut String| {
        out.push_str(["", "", "", " ", "\n", "\t \r"][usize::from(noise.next().unwrap_or(0)) % 6]);
    };
    space(out);
    match tree {
        Value::String(text) => write_text(text, noise, out),
        Value::Array(elements) => {
            out.push('[');
            for (at, element) in elements.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write(element, noise, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            out.push('{');
            for (at, (key, value)) in members.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                write_text(key, noise, out);
                out.push(':');
                write(value, noise, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

fn write_text(text: &str, noise: &mut impl Iterator<Item = u8>, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        if noise.next().unwrap_or(0) < 32 || char < ' ' || matches!(char, '"' | '\\') {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(char);
        }
    }
    out.push('"');
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[ -~]{0,200}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            members(inner).prop_map(Value::from),
        ]
    })
}

fn members(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map(".{0,12}", value, 0..40).prop_map(|map| map.into_iter().collect())
}

/// A good envelope around a payload, as a tree.
fn envelope() -> impl Strategy<Value = Value> {
    let name = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}";
    let metadata = members(any::<bool>().prop_map(Value::from)).prop_map(|mut metadata| {
        metadata.remove("sequence");
        metadata.remove("replayed");
        metadata.remove("ttl_ms");
        metadata
    });
    let kind = prop_oneof![Just("event"), Just("private"), Just("command")];
    ("arq_[A-Za-z0-9_-]{1,124}", kind, name, name, name, members(tree()), metadata).prop_map(
        |(id, kind, room, channel, from, payload, metadata)| {
            serde_json::json!({
                "version": "1.0", "id": id, "type": kind, "room": room, "channel": channel,
                "from": from, "timestamp": "2025-11-30T12:00:00.123+01:00", "payload": payload,
                "metadata": metadata,
            })
        },
    )
}

/// The fields of an envelope in the order of the protocol; the last may be left out.
const FIELDS: [&str; 9] =
    ["version", "id", "type", "room", "channel", "from", "timestamp", "payload", "metadata"];

/// Which fields stand where: in the usual order, in any, and not always all of them.
fn order() -> impl Strategy<Value = Vec<usize>> {
    let all: Vec<usize> = (0..9).collect();
    prop_oneof![
        Just(all.clone()),
        Just(all.clone()).prop_shuffle(),
        prop::sample::subsequence(all, 1..9),
    ]
}

/// Pieces that JSON is made of, and some that it is not.
const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\"a\"",
    "\"b\":",
    "\"a\":",
    "\"\\u0061\":",
    "0",
    "-",
    "1",
    "1.5",
    "1e5",
    "E+2",
    "1e400",
    "-0",
    "01",
    ".",
    "true",
    "false",
    "null",
    "nul",
    " ",
    "\n",
    "\t",
    "\u{b}",
    "\0",
    "\u{1f}",
    "\u{7f}",
    "é",
    "😀",
    "\\n",
    "\\u",
    "\\ud83d",
    "\\ude00",
    "\\u12",
    "\u{feff}",
    "\u{2028}",
    "[[]]",
    "{}",
    "[]",
    "\"\"",
];

/// A change of a text: at about which place, how many characters go, and which piece comes.
type Change = (prop::sample::Index, usize, &'static str);

fn change() -> impl Strategy<Value = Change> {
    (any::<prop::sample::Index>(), 0..3usize, prop_oneof![Just(""), prop::sample::select(PIECES)])
}

fn changed(text: &str, changes: &[Change]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, gone, piece) in changes {
        let at = place.index(chars.len() + 1);
        let end = (at + gone).min(chars.len());
        chars.splice(at..end, piece.chars());
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn good_messages_are_read_as_they_were_meant(
        tree in envelope(),
        noise in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let mut text = String::new();
        write(&tree, &mut noise.into_iter(), &mut text);
        check_verdict(&text);
        check_ways(&text);
        let envelope = decode(&text).map_err(|rejected| TestCaseError::fail(format!("{rejected:?}")))?;
        prop_assert_eq!(&*envelope.id, tree["id"].as_str().unwrap());
        prop_assert_eq!(envelope.kind.as_str(), tree["type"].as_str().unwrap());
        prop_assert_eq!(&*envelope.room, tree["room"].as_str().unwrap());
        prop_assert_eq!(&*envelope.channel, tree["channel"].as_str().unwrap());
        prop_assert_eq!(&*envelope.from, tree["from"].as_str().unwrap());
        let theirs: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Value>(envelope.payload).unwrap(), &theirs["payload"]);
        let metadata = format!("{{{}}}", envelope.metadata.members);
        prop_assert_eq!(&serde_json::from_str::<Value>(&metadata).unwrap(), &theirs["metadata"]);
        let start = envelope.payload.as_ptr() as usize - text.as_ptr() as usize;
        prop_assert_eq!(&text[start..start + envelope.payload.len()], envelope.payload);
    }

    #[test]
    fn changed_messages_get_the_same_verdict_from_both_parsers(
        tree in envelope(),
        noise in prop::collection::vec(any::<u8>(), 0..500),
        changes in prop::collection::vec(change(), 1..4),
    ) {
        let mut text = String::new();
        write(&tree, &mut noise.into_iter(), &mut text);
        let text = changed(&text, &changes);
        check_verdict(&text);
        check_ways(&text);
        match decode(&text) {
            Ok(envelope) => {
                // Whatever these say, they say it without a panic.
                _ = private_targets(envelope.payload);
                _ = command::parse(envelope.payload, &envelope.room, &envelope.channel);
                prop_assert!(serde_json::from_str::<Value>(envelope.payload).unwrap().is_object());
            }
            Err(rejected) => {
                let message = &rejected.refusal.message;
                prop_assert!(!message.is_empty() && message.len() < 1_000, "{}", message);
            }
        }
    }

    #[test]
    fn exchanged_brackets_get_the_same_verdict_from_both_parsers(
        tree in members(tree()),
        place in any::<prop::sample::Index>(),
        other in prop::sample::select(&['{', '}', '[', ']', ',', ':', '"', ' '][..]),
    ) {
        let mut text: Vec<char> = Value::from(tree).to_string().chars().collect();
        let marks: Vec<_> = (0..text.len()).filter(|&at| "{}[],:\"".contains(text[at])).collect();
        text[marks[place.index(marks.len())]] = other;
        let text: String = text.into_iter().collect();
        check_verdict(&text);
        check_ways(&text);
    }

    #[test]
    fn both_ways_say_the_same_of_fields_in_any_order(
        tree in envelope(),
        order in order(),
        times in prop::collection::vec(0..9usize, 0..2),
        space in prop::sample::select(&["", "", " ", "\n\t"][..]),
        changes in prop::collection::vec(change(), 0..3),
    ) {
        // Fields that are missing or stand twice are what such a list has, too.
        let fields: Vec<String> = order
            .iter()
            .chain(&times)
            .map(|&at| format!("\"{}\":{space}{}", FIELDS[at], tree[FIELDS[at]]))
            .collect();
        let text = format!("{{{space}{}}}", fields.join(&format!(",{space}")));
        check_verdict(&text);
        check_ways(&text);
        let count = |field| order.iter().chain(&times).filter(|&&at| at == field).count();
        let is_whole = (0..8).all(|field| count(field) == 1) && count(8) <= 1;
        prop_assert_eq!(decode(&text).is_ok(), is_whole, "{}", text);
        let text = changed(&text, &changes);
        check_verdict(&text);
        check_ways(&text);
    }

    #[test]
    fn heaps_of_pieces_get_the_same_verdict_from_both_parsers(
        pieces in prop::collection::vec(prop::sample::select(PIECES), 0..30),
    ) {
        check_verdict(&pieces.concat());
        check_ways(&pieces.concat());
        check_verdict(&format!("{{\"a\":{}}}", pieces.concat()));
        check_verdict(&format!("{{\"a\":\"{}\"}}", pieces.concat()));
        check_verdict(&format!("{{\"a\":[{}]}}", pieces.join(",")));
    }

    #[test]
    fn numbers_get_the_same_verdict_from_both_parsers(number in "-?[0-9]{1,4}(\\.[0-9]{0,3})?([eE][+-]?[0-9]{0,5})?") {
        check_verdict(&format!("{{\"a\":{number}}}"));
    }

    #[test]
    fn depth_gets_the_same_verdict_from_both_parsers(shape in prop::collection::vec(any::<bool>(), 55..75)) {
        let mut text = String::from("0");
        for is_array in shape {
            text = if is_array { format!("[{text}]") } else { format!("{{\"a\":{text}}}") };
        }
        check_verdict(&text);
        check_verdict(&format!("{{\"a\":{text}}}"));
    }

    #[test]
    fn commands_never_panic(
        name in prop_oneof![
            prop::sample::select(&["join_channel", "history", "create_channel", "create_room", "identify", "announce"][..]).prop_map(String::from),
            ".{0,20}",
        ],
        parameters in members(tree()),
    ) {
        let payload = serde_json::json!({"command": name, "parameters": parameters}).to_string();
        if let Err(refusal) = command::parse(&payload, "*", "*") {
            prop_assert!(!refusal.message.is_empty() && refusal.message.len() < 1_000);
        }
    }
}

const MESSAGE: &str = r#"{"version":"1.0","id":"arq_1","type":"event","room":"science","channel":"general","from":"alice","timestamp":"2025-11-30T12:00:00Z","payload":{"a":[1.5e3,true,null,"\ud83d\ude00é"]},"metadata":{"ack":true}}"#;

#[test]
fn every_cut_of_a_message_is_refused() {
    assert!(decode(MESSAGE).is_ok());
    for end in (0..MESSAGE.len()).filter(|&end| MESSAGE.is_char_boundary(end)) {
        let cut = &MESSAGE[..end];
        assert_eq!(decode(cut).unwrap_err().refusal.fault, Fault::InvalidJson, "{end}");
        check_ways(cut);
    }
}

#[test]
fn every_changed_character_gets_the_same_verdict_both_ways() {
    for at in (0..MESSAGE.len()).filter(|&at| MESSAGE.as_bytes()[at].is_ascii()) {
        for char in '\0'..='\u{80}' {
            check_ways(&format!("{}{char}{}", &MESSAGE[..at], &MESSAGE[at + 1..]));
            check_ways(&format!("{}{char}{}", &MESSAGE[..at], &MESSAGE[at..]));
        }
    }
}
