//! From the text of a message to an [`Envelope`] or a refusal: every rule of the protocol that
//! needs only the message itself.
//!
//! One pass over the text finds the top-level fields and proves that the whole is sound JSON; then
//! the fields are judged in the order of the protocol's table, so that the first thing wrong is
//! what the sender is told. What follows is written for the good message: refusals are boxed and
//! their sentences made only when there is one.
//!
//! *Invariants*: an `Envelope` that comes out of here keeps every promise of its documentation; a
//! sentence never repeats more than a few characters of what was sent.
//!
//! *Not here*: whether the sender may say it, and whether the room is there.

use crate::base::limits::{METADATA_KEYS_MAX, PRIVATE_TARGETS_MAX, TTL_MS_MAX};
use crate::protocol::envelope::{Envelope, MessageType, Metadata};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::json::{self, Text, Value};
use crate::protocol::names::{self, EVERY_CHANNEL, Name};
use crate::protocol::quote::quote;
use crate::protocol::timestamp;
use std::borrow::Cow;
use std::ops::ControlFlow;

/// A message that is no good, and what its sender may be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// What is wrong with it.
    pub refusal: Refusal,
    /// The message's id, if it holds a valid one before the point where it stops being JSON.
    pub id: Option<String>,
}

/// Reads one message.
pub fn decode<'a>(text: &'a str) -> Result<Envelope<'a>, Box<Rejected>> {
    let mut fields = Fields::default();
    json::members(text, |key, value| fields.put(key, value))
        .map_err(Refusal::from)
        .and_then(|()| fields.envelope())
        .map_err(|refusal| Box::new(Rejected { refusal, id: fields.valid_id() }))
}

/// Whom a private message is for: `payload.target` is one client id or a list of them. Each is
/// named once, in the order of their first mention.
pub fn private_targets(payload: &str) -> Result<Vec<Name>, Refusal> {
    let mut target = None;
    json::members(payload, |key, value| {
        if key.get() == "target" {
            target = Some(value);
        }
    })?;
    let mut targets = Vec::new();
    match target {
        Some(Value::Text(id)) => targets.push(target_name(&id.get())?),
        Some(Value::Array(list)) => {
            let mut result = Ok(());
            let mut count = 0;
            json::elements(list, |element| {
                count += 1;
                result = add_target(&mut targets, element, count);
                if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            result?;
        }
        _ => {}
    }
    if targets.is_empty() {
        return Err(bad_target(
            "payload.target must be a client id or a list of 1 to 64 client ids".into(),
        ));
    }
    Ok(targets)
}

/// The top-level fields, as they were found.
#[derive(Default)]
struct Fields<'a> {
    version: Option<Value<'a>>,
    id: Option<Value<'a>>,
    kind: Option<Value<'a>>,
    room: Option<Value<'a>>,
    channel: Option<Value<'a>>,
    from: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
    payload: Option<Value<'a>>,
    metadata: Option<Value<'a>>,
    /// The first field that an envelope does not have.
    unknown: Option<Text<'a>>,
}

impl<'a> Fields<'a> {
    #[inline]
    fn put(&mut self, key: Text<'a>, value: Value<'a>) {
        let field = match &*key.get() {
            "version" => &mut self.version,
            "id" => &mut self.id,
            "type" => &mut self.kind,
            "room" => &mut self.room,
            "channel" => &mut self.channel,
            "from" => &mut self.from,
            "timestamp" => &mut self.timestamp,
            "payload" => &mut self.payload,
            "metadata" => &mut self.metadata,
            _ => {
                self.unknown.get_or_insert(key);
                return;
            }
        };
        *field = Some(value);
    }

    /// Judges the fields in the order of the protocol's table.
    fn envelope(&self) -> Result<Envelope<'a>, Refusal> {
        check_version(&self.string(self.version, "version")?)?;
        let id = self.string(self.id, "id")?;
        check_id(&id)?;
        let kind = read_kind(&self.string(self.kind, "type")?)?;
        let room = self.string(self.room, "room")?;
        check_room(&room, kind)?;
        let channel = self.string(self.channel, "channel")?;
        check_channel(&channel, kind)?;
        let from = self.string(self.from, "from")?;
        names::check(&from).map_err(|why| bad_name("from", &from, &why.to_string()))?;
        let timestamp = self.string(self.timestamp, "timestamp")?;
        timestamp::check(&timestamp).map_err(|why| bad_timestamp(&timestamp, why))?;
        let payload = match self.payload {
            Some(Value::Object(payload)) => payload,
            other => return Err(self.not_a(other, "payload", "an object")),
        };
        if kind == MessageType::Telemetry {
            check_telemetry(payload)?;
        }
        let metadata = match self.metadata {
            None => Metadata::default(),
            Some(Value::Object(metadata)) => read_metadata(metadata)?,
            Some(other) => return Err(metadata_type(&other)),
        };
        match self.unknown {
            None => Ok(Envelope { id, kind, room, channel, from, payload, metadata }),
            Some(key) => Err(unknown_field(&key.get())),
        }
    }

    #[inline]
    fn string(
        &self,
        value: Option<Value<'a>>,
        field: &'static str,
    ) -> Result<Cow<'a, str>, Refusal> {
        match value {
            Some(Value::Text(text)) => Ok(text.get()),
            other => Err(self.not_a(other, field, "a string")),
        }
    }

    /// The refusal of a required field that is absent, null or of another type than `wanted`.
    #[cold]
    fn not_a(&self, value: Option<Value<'a>>, field: &'static str, wanted: &str) -> Refusal {
        let (fault, mut message) = match value {
            None => (Fault::MissingField, format!("{field} is missing; it must be {wanted}")),
            Some(Value::Null) => {
                (Fault::MissingField, format!("{field} is null; it must be {wanted}"))
            }
            Some(other) => {
                let found = other.type_name();
                (Fault::WrongType, format!("{field} is {found}; it must be {wanted}"))
            }
        };
        if let (None, Some(key)) = (value, self.unknown) {
            // Most likely it was meant to be the missing one.
            message += &format!(" (there is an unknown field {})", quote(&key.get()));
        }
        Refusal::of_field(fault, field, message)
    }

    #[cold]
    fn valid_id(&self) -> Option<String> {
        match self.id {
            Some(Value::Text(id)) => Some(id.get()).filter(|id| is_id(id)).map(Cow::into_owned),
            _ => None,
        }
    }
}

#[inline]
fn check_version(version: &str) -> Result<(), Refusal> {
    if version == "1.0" {
        return Ok(());
    }
    let message = format!("version {} is not spoken here; send \"1.0\"", quote(version));
    Err(Refusal::of_field(Fault::UnsupportedVersion, "version", message))
}

/// `arq_` and 1 to 124 of `A-Z a-z 0-9 _ -`.
#[inline]
fn is_id(id: &str) -> bool {
    match id.as_bytes() {
        [b'a', b'r', b'q', b'_', rest @ ..] => {
            (1..=124).contains(&rest.len())
                && rest.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        }
        _ => false,
    }
}

#[inline]
fn check_id(id: &str) -> Result<(), Refusal> {
    if is_id(id) {
        return Ok(());
    }
    let message = format!(
        "id {} does not follow its rule; send arq_ and 1 to 124 characters of A-Z a-z 0-9 _ -",
        quote(id)
    );
    Err(Refusal::of_field(Fault::BadId, "id", message))
}

#[inline]
fn read_kind(kind: &str) -> Result<MessageType, Refusal> {
    match MessageType::parse(kind) {
        Some(kind @ (MessageType::System | MessageType::CommandResponse)) => {
            let message = format!(
                "messages of type {} come from the server only; send event, command, private or \
                 telemetry",
                kind.as_str()
            );
            Err(Refusal::of_field(Fault::TypeForbidden, "type", message))
        }
        Some(kind) => Ok(kind),
        None => {
            let message = format!(
                "there is no type {}; send event, command, private or telemetry",
                quote(kind)
            );
            Err(Refusal::of_field(Fault::BadType, "type", message))
        }
    }
}

#[inline]
fn check_room(room: &str, kind: MessageType) -> Result<(), Refusal> {
    match names::check(room) {
        Ok(()) => Ok(()),
        Err(_) if room == EVERY_CHANNEL && kind == MessageType::Command => Ok(()),
        Err(_) if room == EVERY_CHANNEL => {
            let why = "stands for no room in particular, which only a command may say; name a room";
            Err(bad_name("room", room, why))
        }
        Err(why) => Err(bad_name("room", room, &why.to_string())),
    }
}

#[inline]
fn check_channel(channel: &str, kind: MessageType) -> Result<(), Refusal> {
    let may_be_every = matches!(kind, MessageType::Event | MessageType::Command);
    match names::check(channel) {
        Ok(()) => Ok(()),
        Err(_) if channel == EVERY_CHANNEL && may_be_every => Ok(()),
        Err(_) if channel == EVERY_CHANNEL => {
            let why = "stands for every channel, which only an event or a command may address; \
                       name a channel";
            Err(bad_name("channel", channel, why))
        }
        Err(why) => Err(bad_name("channel", channel, &why.to_string())),
    }
}

#[cold]
fn bad_name(field: &'static str, name: &str, why: &str) -> Refusal {
    Refusal::of_field(Fault::BadName, field, format!("{field} {} {why}", quote(name)))
}

#[cold]
fn bad_timestamp(timestamp: &str, why: timestamp::TimestampError) -> Refusal {
    let message = format!("timestamp {} {why}", quote(timestamp));
    Refusal::of_field(Fault::BadTimestamp, "timestamp", message)
}

#[cold]
fn unknown_field(key: &str) -> Refusal {
    let message = format!(
        "the envelope has no field {}; put what is yours into payload or metadata",
        quote(key)
    );
    Refusal::of_field(Fault::UnknownField, bounded_field(key), message)
}

/// A peer's key as the name of a field: as it is if it looks like one, else quoted.
fn bounded_field(key: &str) -> String {
    if names::check(key).is_ok() { key.to_owned() } else { quote(key) }
}

fn check_telemetry(payload: &str) -> Result<(), Refusal> {
    let (mut has_type, mut has_payload) = (false, false);
    json::members(payload, |key, value| match &*key.get() {
        "eventType" => has_type = matches!(value, Value::Text(_)),
        "payload" => has_payload = matches!(value, Value::Object(_)),
        _ => {}
    })?;
    let (field, message) = match (has_type, has_payload) {
        (true, true) => return Ok(()),
        (false, _) => ("payload.eventType", "telemetry needs payload.eventType, a string"),
        (true, false) => ("payload.payload", "telemetry needs payload.payload, an object"),
    };
    Err(Refusal::of_field(Fault::BadTelemetry, field, message))
}

fn read_metadata(object: &str) -> Result<Metadata<'_>, Refusal> {
    let members = object[1..object.len() - 1].trim_matches([' ', '\t', '\n', '\r']);
    let mut metadata = Metadata { members, ..Metadata::default() };
    let mut count = 0;
    let mut result = Ok(());
    json::members(object, |key, value| {
        count += 1;
        if result.is_ok() {
            result = metadata.put(&key.get(), value);
        }
    })?;
    if count > METADATA_KEYS_MAX {
        let message = format!(
            "metadata has {count} keys and may have {METADATA_KEYS_MAX}; put more into payload"
        );
        return Err(Refusal::of_field(Fault::BadMetadata, "metadata", message));
    }
    result.map(|()| metadata)
}

impl Metadata<'_> {
    /// Takes one member, if it is one that the server acts on.
    fn put(&mut self, key: &str, value: Value<'_>) -> Result<(), Refusal> {
        let bad = |field, wanted: String| {
            let message = format!("{field} is {}; it must be {wanted}", value.type_name());
            Err(Refusal::of_field(Fault::BadMetadata, field, message))
        };
        match (key, value) {
            ("ack", Value::Bool(ack)) => self.ack = ack,
            ("trace", Value::Bool(trace)) => self.trace = trace,
            ("ttl_ms", value) => match value.as_u64() {
                Some(ttl @ 1..=TTL_MS_MAX) => self.ttl_ms = Some(ttl),
                _ => {
                    return bad(
                        "metadata.ttl_ms",
                        format!("an integer from 1 to {TTL_MS_MAX}, without fraction or exponent"),
                    );
                }
            },
            ("ack", _) => return bad("metadata.ack", "true or false".into()),
            ("trace", _) => return bad("metadata.trace", "true or false".into()),
            ("sequence", _) => return Err(reserved("metadata.sequence")),
            ("replayed", _) => return Err(reserved("metadata.replayed")),
            _ => {}
        }
        Ok(())
    }
}

#[cold]
fn reserved(field: &'static str) -> Refusal {
    let message = format!("{field} is the server's to set; leave it out");
    Refusal::of_field(Fault::ReservedMetadata, field, message)
}

#[cold]
fn metadata_type(value: &Value<'_>) -> Refusal {
    let found = value.type_name();
    let message = format!("metadata is {found}; it must be an object, or be left out");
    Refusal::of_field(Fault::WrongType, "metadata", message)
}

fn add_target(targets: &mut Vec<Name>, element: Value<'_>, count: usize) -> Result<(), Refusal> {
    let Value::Text(id) = element else {
        let found = element.type_name();
        return Err(bad_target(format!(
            "payload.target holds {found}; every element must be a client id, a string"
        )));
    };
    if count > PRIVATE_TARGETS_MAX {
        return Err(bad_target(format!(
            "payload.target names more than {PRIVATE_TARGETS_MAX} clients; send several messages, \
             or join a channel together"
        )));
    }
    let target = target_name(&id.get())?;
    if !targets.contains(&target) {
        targets.push(target);
    }
    Ok(())
}

fn target_name(id: &str) -> Result<Name, Refusal> {
    Name::parse(id).map_err(|why| bad_target(format!("the client id {} {why}", quote(id))))
}

#[cold]
fn bad_target(message: String) -> Refusal {
    Refusal::of_field(Fault::BadTarget, "payload.target", message)
}

#[cfg(test)]
mod tests {
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
                members: r#""ack":true, "x" : {"sequence":1} , "ttl_ms":5"#,
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
        let spaced =
            envelope(json!({})).replace("\"payload\"", "\"metadata\": { \n } ,\"payload\"");
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
            (json!({"metadata": {"ack": null}}), Fault::BadMetadata, "metadata.ack"),
            (json!({"metadata": {"trace": "true"}}), Fault::BadMetadata, "metadata.trace"),
            (json!({"metadata": {"ttl_ms": 0}}), Fault::BadMetadata, "metadata.ttl_ms"),
            (json!({"metadata": {"ttl_ms": -1}}), Fault::BadMetadata, "metadata.ttl_ms"),
            (json!({"metadata": {"ttl_ms": 1.5}}), Fault::BadMetadata, "metadata.ttl_ms"),
            (json!({"metadata": {"ttl_ms": "1"}}), Fault::BadMetadata, "metadata.ttl_ms"),
            (
                json!({"metadata": {"ttl_ms": TTL_MS_MAX + 1}}),
                Fault::BadMetadata,
                "metadata.ttl_ms",
            ),
            (json!({"metadata": {"sequence": 1}}), Fault::ReservedMetadata, "metadata.sequence"),
            (json!({"metadata": {"replayed": null}}), Fault::ReservedMetadata, "metadata.replayed"),
            (json!({"extra": 1}), Fault::UnknownField, "extra"),
            (json!({"Version": "1.0"}), Fault::UnknownField, "Version"),
            (json!({"": 1}), Fault::UnknownField, "\"\""),
        ] {
            let refusal = refusal(&envelope(changes.clone()));
            assert_eq!(
                (refusal.fault, refusal.field.as_deref()),
                (fault, Some(field)),
                "{changes}"
            );
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
        let null = envelope(json!({"metadata": "NULL"})).replace("\"NULL\"", "null");
        assert_eq!(refusal(&null).fault, Fault::WrongType);
    }

    #[test]
    fn the_first_fault_in_the_order_of_the_table_is_told() {
        // Everything is wrong; mending one field after another brings up the next.
        let mut message = json!({"extra": 1, "metadata": 1});
        for field in REQUIRED {
            let refusal = refusal(&message.to_string());
            assert_eq!(
                (refusal.fault, refusal.field.as_deref()),
                (Fault::MissingField, Some(field))
            );
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
}
