//! The envelopes this side writes, and as much of the ones it reads as a command needs.
//!
//! What is read is borrowed from the text it came in: a subscriber prints that text as it is, and
//! looks only at who it is from and where it stands.

use crate::protocol::command::Address;
use crate::protocol::envelope::MessageType;
use crate::protocol::names::EVERY_CHANNEL;
use crate::protocol::timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};
use ulid::Ulid;

/// Makes message ids that no other run of the program makes.
#[derive(Debug)]
pub(super) struct Ids {
    prefix: String,
    count: u64,
}

impl Ids {
    /// Ids of this run.
    pub(super) fn new() -> Ids {
        let ulid = Ulid::from_parts(now_us() / 1_000, fastrand::u128(..));
        let mut buffer = [0; ulid::ULID_LEN];
        Ids { prefix: format!("arq_{}", ulid.array_to_str(&mut buffer)), count: 0 }
    }

    /// The next id: the run's, and a number that counts from 1.
    pub(super) fn next(&mut self) -> String {
        self.count += 1;
        let mut id = String::with_capacity(self.prefix.len() + 9);
        id.push_str(&self.prefix);
        id.push('_');
        id.push_str(itoa::Buffer::new().format(self.count));
        id
    }
}

/// What an event asks of the bus beside being delivered.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    /// An answer when the message is safe.
    pub(super) ack: bool,
    /// The way it went, in that answer.
    pub(super) trace: bool,
    /// For how long it may be delivered.
    pub(super) ttl_ms: Option<u64>,
}

/// An event or a private message, as text. `payload` is the text of a JSON object.
pub(super) fn message(
    kind: MessageType,
    id: &str,
    from: &str,
    address: &Address,
    payload: &str,
    wishes: &Wishes,
) -> String {
    let mut text = String::with_capacity(payload.len() + 320);
    begin(&mut text, kind, id, from, (&address.room, &address.channel));
    text.push_str(r#""payload":"#);
    text.push_str(payload);
    let mut mark = r#","metadata":{"#;
    for (wish, member) in [(wishes.ack, r#""ack":true"#), (wishes.trace, r#""trace":true"#)] {
        if wish {
            text.push_str(mark);
            text.push_str(member);
            mark = ",";
        }
    }
    if let Some(ttl_ms) = wishes.ttl_ms {
        text.push_str(mark);
        text.push_str(r#""ttl_ms":"#);
        text.push_str(itoa::Buffer::new().format(ttl_ms));
        mark = ",";
    }
    text.push_str(if mark == "," { "}}" } else { "}" });
    text
}

/// A command, as text. Room and channel stand in its parameters too, where it has any.
pub(super) fn command(
    id: &str,
    from: &str,
    address: Option<&Address>,
    name: &str,
    mut parameters: Value,
) -> String {
    let mut place = (EVERY_CHANNEL, EVERY_CHANNEL);
    if let Some(address) = address {
        parameters["room"] = address.room.as_str().into();
        parameters["channel"] = address.channel.as_str().into();
        // The envelope's own place is only a place; the parameters say what is meant.
        place = (&address.room, &address.channel);
    }
    let mut text = String::with_capacity(384);
    begin(&mut text, MessageType::Command, id, from, place);
    text.push_str(r#""payload":{"command":""#);
    text.push_str(name);
    text.push_str(r#"","parameters":"#);
    text.push_str(&parameters.to_string());
    text.push_str("}}");
    text
}

fn begin(
    text: &mut String,
    kind: MessageType,
    id: &str,
    from: &str,
    (room, channel): (&str, &str),
) {
    let timestamp = timestamp::format(now_us());
    // Ids and names hold nothing that JSON would escape.
    for part in [
        r#"{"version":"1.0","id":""#,
        id,
        r#"","type":""#,
        kind.as_str(),
        r#"","room":""#,
        room,
        r#"","channel":""#,
        channel,
        r#"","from":""#,
        from,
        r#"","timestamp":""#,
        std::str::from_utf8(&timestamp).unwrap_or_default(),
        r#"","#,
    ] {
        text.push_str(part);
    }
}

/// Microseconds since 1970 on this machine's clock.
pub(super) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// An envelope from the bus.
#[derive(Debug, Deserialize)]
pub(super) struct Heard<'a> {
    /// The message's type.
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    /// The message's id.
    #[serde(borrow, default)]
    pub(super) id: Cow<'a, str>,
    /// The room it is about.
    #[serde(borrow)]
    pub(super) room: Cow<'a, str>,
    /// The channel it is about.
    #[serde(borrow)]
    pub(super) channel: Cow<'a, str>,
    /// The sender.
    #[serde(borrow)]
    pub(super) from: Cow<'a, str>,
    /// The bus's time for it.
    #[serde(borrow)]
    pub(super) timestamp: Cow<'a, str>,
    /// The payload, as it was sent.
    #[serde(borrow)]
    pub(super) payload: &'a RawValue,
    metadata: Option<Metadata>,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    sequence: Option<u64>,
}

impl<'a> Heard<'a> {
    /// Reads an envelope; `None` if the text is none.
    pub(super) fn read(text: &'a str) -> Option<Heard<'a>> {
        serde_json::from_str(text).ok()
    }

    /// The message's type; `None` if it is one this program does not know.
    pub(super) fn kind(&self) -> Option<MessageType> {
        MessageType::parse(&self.kind)
    }

    /// Its place in its channel's order, if it has one.
    pub(super) fn sequence(&self) -> Option<u64> {
        self.metadata.as_ref().and_then(|metadata| metadata.sequence)
    }
}

/// The payload of a `command_response`.
#[derive(Debug, Deserialize)]
pub(super) struct Reply<'a> {
    /// The id of what it answers.
    #[serde(borrow)]
    pub(super) request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    status: Cow<'a, str>,
    code: Option<u16>,
    #[serde(borrow)]
    error: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

/// Why the bus refused something.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refused {
    /// The HTTP-like code.
    pub(super) code: u16,
    /// The stable word.
    pub(super) error: String,
    /// The sentence for a person.
    pub(super) message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.error)
    }
}

impl Refused {
    /// Whether the same request may be granted a moment later: the client was too fast, or the
    /// bus is busy or going away, or can't store anything.
    pub(super) fn is_passing(&self) -> bool {
        self.code == 503 || self.error == "RATE_LIMITED"
    }
}

impl<'a> Reply<'a> {
    /// Reads the reply in an envelope; `None` if there is none.
    pub(super) fn read(heard: &Heard<'a>) -> Option<Reply<'a>> {
        serde_json::from_str(heard.payload.get()).ok()
    }

    /// The result's text, or why there is none.
    pub(super) fn outcome(&self) -> Result<&'a str, Refused> {
        if self.status == "success" {
            return Ok(self.result.map_or("null", RawValue::get));
        }
        let text = |field: &Option<Cow<'_, str>>, other: &str| {
            field.as_deref().unwrap_or(other).to_owned()
        };
        Err(Refused {
            code: self.code.unwrap_or_default(),
            error: text(&self.error, "UNKNOWN"),
            message: text(&self.message, "the bus refused without a reason"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn address() -> Address {
        crate::cli::target::address("science:general").unwrap()
    }

    #[test]
    fn messages_are_whole_envelopes() {
        for (wishes, metadata) in [
            (Wishes::default(), json!(null)),
            (Wishes { ack: true, ..Wishes::default() }, json!({"ack": true})),
            (Wishes { ttl_ms: Some(5), ..Wishes::default() }, json!({"ttl_ms": 5})),
            (
                Wishes { ack: true, trace: true, ttl_ms: Some(7) },
                json!({"ack": true, "trace": true, "ttl_ms": 7}),
            ),
        ] {
            let payload = r#"{ "a": 1 }"#;
            let text = message(MessageType::Event, "arq_1", "ann", &address(), payload, &wishes);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["metadata"], metadata);
            assert_eq!(value["payload"], json!({"a": 1}));
            assert!(text.contains(payload), "the payload's bytes are kept");
            assert_eq!(
                [&value["version"], &value["id"], &value["type"], &value["from"]],
                ["1.0", "arq_1", "event", "ann"]
            );
            assert_eq!([&value["room"], &value["channel"]], ["science", "general"]);
            assert!(value["timestamp"].is_string());
        }
    }

    #[test]
    fn commands_name_their_target_twice_or_not_at_all() {
        let text = command("arq_1", "ann", Some(&address()), "history", json!({"limit": 3}));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            value["payload"],
            json!({"command": "history",
                   "parameters": {"limit": 3, "room": "science", "channel": "general"}})
        );
        let text = command("arq_1", "ann", None, "status", json!({}));
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["payload"], json!({"command": "status", "parameters": {}}));
        assert_eq!([&value["room"], &value["channel"]], ["*", "*"]);
    }

    #[test]
    fn ids_follow_the_rule_and_never_repeat() {
        let (mut one, mut other) = (Ids::new(), Ids::new());
        let ids = [one.next(), one.next(), other.next()];
        for id in &ids {
            let rest = id.strip_prefix("arq_").unwrap();
            assert!((1..=124).contains(&rest.len()));
            assert!(rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'));
        }
        assert!(ids[0] != ids[1] && ids[0] != ids[2] && ids[1] != ids[2]);
    }

    #[test]
    fn envelopes_are_read_and_nothing_else_is() {
        let text = r#"{"version":"1.0","timestamp":"t","metadata":{"sequence":7,"x":[1]},"id":"arq_1",
            "from":"a\u006en","type":"event","room":"r","channel":"c","payload":{"a":"b"}}"#;
        let heard = Heard::read(text).unwrap();
        assert_eq!(heard.sequence(), Some(7));
        assert_eq!(heard.from, "ann");
        assert_eq!(heard.kind(), Some(MessageType::Event));
        assert_eq!(heard.payload.get(), r#"{"a":"b"}"#);
        for bad in ["", "{}", "null", "[]", r#"{"type":"event"}"#, "\u{0}"] {
            assert!(Heard::read(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn replies_are_results_or_refusals() {
        let envelope = |payload: &str| {
            format!(
                r#"{{"timestamp":"t","from":"arqonbus_server","type":"command_response",
                     "room":"*","channel":"*","payload":{payload}}}"#
            )
        };
        let text = envelope(r#"{"request_id":"arq_1","status":"success","result":{"a":1}}"#);
        let heard = Heard::read(&text).unwrap();
        let reply = Reply::read(&heard).unwrap();
        assert_eq!(reply.request_id.as_deref(), Some("arq_1"));
        assert_eq!(reply.outcome(), Ok(r#"{"a":1}"#));
        for (payload, code, word, is_passing) in [
            (r#"{"status":"error","code":429,"error":"RATE_LIMITED"}"#, 429, "RATE_LIMITED", true),
            (r#"{"status":"error","code":429,"error":"JOIN_LIMIT"}"#, 429, "JOIN_LIMIT", false),
            (r#"{"status":"error","code":503,"error":"DRAINING"}"#, 503, "DRAINING", true),
            (
                r#"{"status":"error","code":503,"error":"STORAGE_UNAVAILABLE"}"#,
                503,
                "STORAGE_UNAVAILABLE",
                true,
            ),
            (r#"{"status":"error","code":410,"error":"STORAGE_LOST"}"#, 410, "STORAGE_LOST", false),
            (r#"{"status":"error"}"#, 0, "UNKNOWN", false),
        ] {
            let text = envelope(payload);
            let heard = Heard::read(&text).unwrap();
            let refused = Reply::read(&heard).unwrap().outcome().unwrap_err();
            assert_eq!((refused.code, &*refused.error), (code, word));
            assert_eq!(refused.is_passing(), is_passing, "{word}");
        }
    }
}
