//! From the text of a message to an [`Envelope`] or a refusal: every rule of the protocol that
//! needs only the message itself.
//!
//! One pass over the text finds the top-level fields and proves that the whole is sound JSON; then
//! the fields are judged in the order of the protocol's table; the first one at fault names the refusal,
//! which tells of all others, too. What follows is written for the good message: refusals are boxed and
//! their sentences made only when there is one; and a good message in the [usual form](usual) is
//! read a quick way, while all else goes the long one.
//!
//! *Invariants*: both ways say the same of every text; an `Envelope` that comes out of here keeps
//! every promise of its documentation; a sentence never repeats more than a few characters of what
//! was sent.
//!
//! *Panics*: an index is the place of a known field, or the first of a list that is not empty; the
//! braces that are cut off are those of an object that the scanner found.
//!
//! *Not here*: whether the sender may say it, and whether the room is there.

mod usual;

use crate::base::limits::{METADATA_KEYS_MAX, PRIVATE_TARGETS_MAX, TTL_MS_MAX};
use crate::protocol::envelope::{Envelope, MessageType, Metadata};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::json::{self, Text, Value};
use crate::protocol::names::{self, EVERY_CHANNEL, Name, NameError};
use crate::protocol::quote::{field_name, quote};
use crate::protocol::scan::{find, is_no_id_byte};
use crate::protocol::timestamp;
use serde_json::value::RawValue;
use std::borrow::Cow;

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
    usual::read(text).map_or_else(|| decode_any(text), Ok)
}

/// Reads one message, whatever its keys are and however they are written: [`decode`] without its
/// quick way. It says what is wrong with those that are no JSON.
#[cold]
pub fn decode_any<'a>(text: &'a str) -> Result<Envelope<'a>, Box<Rejected>> {
    let mut fields = Fields::default();
    json::members(text, |key, value| fields.put(key, value))
        .map_err(Refusal::from)
        .and_then(|()| fields.envelope())
        .map_err(|refusal| fields.rejected(refusal))
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
            let mut count = 0;
            json::try_elements(list, |element| {
                count += 1;
                add_target(&mut targets, element, count)
            })?;
        }
        _ => {}
    }
    if targets.is_empty() {
        let message = "payload.target must be a client id or a list of 1 to 64 client ids";
        return Err(bad_target(message.into()));
    }
    Ok(targets)
}

/// The fields of an envelope, in the order of the protocol's table, which is also the order in
/// which most clients write them.
const FIELDS: [&str; 9] =
    ["version", "id", "type", "room", "channel", "from", "timestamp", "payload", "metadata"];

/// How many fields that an envelope does not have one refusal names.
const UNKNOWN_FIELDS_TOLD: usize = 8;
/// How long the sentences about all fields at fault may be together, in bytes.
const FAULTS_BYTES_MAX: usize = 360;

/// The top-level fields, as they were found.
#[derive(Default)]
struct Fields<'a> {
    /// In the order of [`FIELDS`].
    values: [Option<Value<'a>>; FIELDS.len()],
    /// The first fields that an envelope does not have.
    unknown: Vec<Text<'a>>,
}

impl<'a> Fields<'a> {
    fn put(&mut self, key: Text<'a>, value: Value<'a>) {
        let name = key.get();
        match FIELDS.iter().position(|&field| field == name) {
            Some(place) => self.values[place] = Some(value),
            None if self.unknown.len() < UNKNOWN_FIELDS_TOLD => self.unknown.push(key),
            None => {}
        }
    }

    /// Judges the fields in the order of the protocol's table.
    fn envelope(&self) -> Result<Envelope<'a>, Refusal> {
        self.judge().map_err(|first| self.all_faults(first))
    }

    fn judge(&self) -> Result<Envelope<'a>, Refusal> {
        let [version, id, kind, room, channel, from, timestamp, payload, metadata] = &self.values;
        check_version(&self.string(version, "version")?)?;
        let id = self.string(id, "id")?;
        check_id(&id)?;
        let kind = read_kind(&self.string(kind, "type")?)?;
        let room = self.string(room, "room")?;
        check_room(&room, kind)?;
        let channel = self.string(channel, "channel")?;
        check_channel(&channel, kind)?;
        let from = self.string(from, "from")?;
        names::check(&from).map_err(|why| bad_from(&from, why))?;
        let timestamp = self.string(timestamp, "timestamp")?;
        timestamp::check(&timestamp).map_err(|why| bad_timestamp(&timestamp, why))?;
        let payload = match payload {
            &Some(Value::Object(payload)) => payload,
            other => return Err(self.not_a(*other, "payload", "an object")),
        };
        if kind == MessageType::Telemetry {
            check_telemetry(payload)?;
        }
        let metadata = match metadata {
            None | Some(Value::Null) => Metadata::default(),
            Some(Value::Object(metadata)) => read_metadata(metadata)?,
            Some(other) => return Err(metadata_type(other)),
        };
        match self.unknown.first() {
            None => Ok(Envelope { id, kind, room, channel, from, payload, metadata }),
            Some(key) => Err(unknown_field(&key.get())),
        }
    }

    /// A refusal that tells of every field at fault; `first` is the first of them.
    #[cold]
    fn all_faults(&self, first: Refusal) -> Refusal {
        let mut faults: Vec<Refusal> = self.faults();
        faults.retain(|fault| fault.field != first.field);
        faults.insert(0, first);
        let fields = faults.iter().filter_map(|fault| fault.field.clone()).collect();
        let mut message = faults[0].message.to_string();
        for (number, fault) in faults.iter().enumerate().skip(1) {
            if message.len() + fault.message.len() + 2 > FAULTS_BYTES_MAX {
                let left = faults.len() - number;
                message += &format!("; and so on, {left} more (see fields)");
                break;
            }
            message += "; ";
            message += &fault.message;
        }
        let Refusal { fault, field, .. } = faults.swap_remove(0);
        Refusal { fault, field, fields, message: message.into() }
    }

    /// What is wrong with each field, judged by itself.
    fn faults(&self) -> Vec<Refusal> {
        let [version, id, kind, room, channel, from, timestamp, payload, metadata] = &self.values;
        let kind = self.string(kind, "type").and_then(|kind| read_kind(&kind));
        // What would do for some type is not held against a message without one.
        let any = kind.as_ref().copied().unwrap_or(MessageType::Command);
        let mut faults = Vec::new();
        let mut note = |judged: Result<(), Refusal>| faults.extend(judged.err());
        note(self.string(version, "version").and_then(|text| check_version(&text)));
        note(self.string(id, "id").and_then(|text| check_id(&text)));
        note(kind.clone().map(|_| ()));
        note(self.string(room, "room").and_then(|text| check_room(&text, any)));
        note(self.string(channel, "channel").and_then(|text| check_channel(&text, any)));
        note(
            self.string(from, "from")
                .and_then(|text| names::check(&text).map_err(|why| bad_from(&text, why))),
        );
        note(
            self.string(timestamp, "timestamp")
                .and_then(|text| timestamp::check(&text).map_err(|why| bad_timestamp(&text, why))),
        );
        note(match payload {
            Some(Value::Object(payload)) if matches!(kind, Ok(MessageType::Telemetry)) => {
                check_telemetry(payload)
            }
            Some(Value::Object(_)) => Ok(()),
            other => Err(self.not_a(*other, "payload", "an object")),
        });
        note(match metadata {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Object(metadata)) => read_metadata(metadata).map(|_| ()),
            Some(other) => Err(metadata_type(other)),
        });
        self.unknown.iter().for_each(|key| note(Err(unknown_field(&key.get()))));
        faults
    }

    #[inline(always)]
    fn string(
        &self,
        value: &Option<Value<'a>>,
        field: &'static str,
    ) -> Result<Cow<'a, str>, Refusal> {
        match value {
            Some(Value::Text(text)) => Ok(text.get()),
            other => Err(self.not_a(*other, field, "a string")),
        }
    }

    /// The refusal of a required field that is absent, null or of another type than `wanted`.
    #[cold]
    fn not_a(&self, value: Option<Value<'a>>, field: &'static str, wanted: &str) -> Refusal {
        let (fault, message) = match value {
            None => (Fault::MissingField, format!("{field} is missing; it must be {wanted}")),
            Some(Value::Null) => {
                (Fault::MissingField, format!("{field} is null; it must be {wanted}"))
            }
            Some(other) => {
                let found = other.type_name();
                (Fault::WrongType, format!("{field} is {found}; it must be {wanted}"))
            }
        };
        Refusal::of_field(fault, field, message)
    }

    #[cold]
    fn rejected(&self, refusal: Refusal) -> Box<Rejected> {
        Box::new(Rejected { refusal, id: self.valid_id() })
    }

    fn valid_id(&self) -> Option<String> {
        match self.values[1] {
            Some(Value::Text(id)) => Some(id.get()).filter(|id| is_id(id)).map(Cow::into_owned),
            _ => None,
        }
    }
}

#[inline]
fn check_version(version: &str) -> Result<(), Refusal> {
    if version == "1.0" { Ok(()) } else { Err(bad_version(version)) }
}

#[cold]
fn bad_version(version: &str) -> Refusal {
    let message = format!("version {} is not spoken here; send \"1.0\"", quote(version));
    Refusal::of_field(Fault::UnsupportedVersion, "version", message)
}

/// `arq_` and 1 to 124 of `A-Z a-z 0-9 _ -`.
#[inline]
fn is_id(id: &str) -> bool {
    is_id_head(id) && find(id.as_bytes(), 0, is_no_id_byte) == id.len()
}

/// Whether it begins like an id and is as long as one.
#[inline(always)]
fn is_id_head(id: &str) -> bool {
    id.starts_with("arq_") && (5..=128).contains(&id.len())
}

#[inline]
fn check_id(id: &str) -> Result<(), Refusal> {
    if is_id(id) { Ok(()) } else { Err(bad_id(id)) }
}

#[cold]
fn bad_id(id: &str) -> Refusal {
    let message = format!(
        "id {} does not follow its rule; send arq_ and 1 to 124 characters of A-Z a-z 0-9 _ -",
        quote(id)
    );
    Refusal::of_field(Fault::BadId, "id", message)
}

#[inline]
fn read_kind(kind: &str) -> Result<MessageType, Refusal> {
    match MessageType::parse(kind) {
        Some(kind) if !kind.is_of_server() => Ok(kind),
        forbidden => Err(bad_kind(kind, forbidden)),
    }
}

#[cold]
fn bad_kind(kind: &str, forbidden: Option<MessageType>) -> Refusal {
    let (fault, message) = match forbidden {
        Some(kind) => (
            Fault::TypeForbidden,
            format!(
                "messages of type {} come from the server only; send event, command, private or \
                 telemetry",
                kind.as_str()
            ),
        ),
        None => (
            Fault::BadType,
            format!("there is no type {}; send event, command, private or telemetry", quote(kind)),
        ),
    };
    Refusal::of_field(fault, "type", message)
}

#[inline]
fn check_room(room: &str, kind: MessageType) -> Result<(), Refusal> {
    match names::check(room) {
        Ok(()) => Ok(()),
        Err(_) if room == EVERY_CHANNEL && kind == MessageType::Command => Ok(()),
        Err(why) => Err(bad_room(room, why)),
    }
}

#[cold]
fn bad_room(room: &str, why: NameError) -> Refusal {
    if room == EVERY_CHANNEL {
        let why = "stands for no room in particular, which only a command may say; name a room";
        return bad_name("room", room, why);
    }
    bad_name("room", room, &why.to_string())
}

#[inline]
fn check_channel(channel: &str, kind: MessageType) -> Result<(), Refusal> {
    let may_be_every = matches!(kind, MessageType::Event | MessageType::Command);
    match names::check(channel) {
        Ok(()) => Ok(()),
        Err(_) if channel == EVERY_CHANNEL && may_be_every => Ok(()),
        Err(why) => Err(bad_channel(channel, why)),
    }
}

#[cold]
fn bad_channel(channel: &str, why: NameError) -> Refusal {
    if channel == EVERY_CHANNEL {
        let why = "stands for every channel, which only an event or a command may address; \
                   name a channel";
        return bad_name("channel", channel, why);
    }
    bad_name("channel", channel, &why.to_string())
}

#[cold]
fn bad_from(from: &str, why: NameError) -> Refusal {
    bad_name("from", from, &why.to_string())
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
    Refusal::of_field(Fault::UnknownField, field_name(key), message)
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
    let mut metadata = Metadata { members: trimmed_members(object).into(), ..Metadata::default() };
    let (mut count, mut has_empty_reserved) = (0, false);
    json::try_members(object, |key, value| {
        count += 1;
        if count > METADATA_KEYS_MAX {
            return Err(too_much_metadata());
        }
        let key = key.get();
        if value == Value::Null && RESERVED.contains(&&*key) {
            // It counts as left out, and the server sets it.
            has_empty_reserved = true;
            return Ok(());
        }
        metadata.put(&key, value)
    })?;
    if has_empty_reserved {
        metadata.members = members_without_reserved(object).into();
    }
    Ok(metadata)
}

/// The keys of `metadata` that only the server sets.
const RESERVED: [&str; 2] = ["sequence", "replayed"];

/// The members of an object, as they were written, but for reserved ones.
#[cold]
fn members_without_reserved(object: &str) -> String {
    struct Members(Vec<String>);

    impl<'de> serde::Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
            struct Visitor;

            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Members;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Members, A::Error> {
                    let mut members = Vec::new();
                    while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                        if !RESERVED.contains(&&*key) {
                            let key = serde_json::Value::from(key);
                            members.push(format!("{key}:{}", value.get()));
                        }
                    }
                    Ok(Members(members))
                }
            }

            deserializer.deserialize_map(Visitor)
        }
    }

    // The scanner has found it sound; what another parser refused would be left out.
    serde_json::from_str(object).map_or_else(|_| String::new(), |Members(all)| all.join(","))
}

/// What stands between the braces of an object.
fn trimmed_members(object: &str) -> &str {
    object[1..object.len() - 1].trim_matches([' ', '\t', '\n', '\r'])
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
            ("ack" | "trace" | "ttl_ms", Value::Null) => {}
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
fn too_much_metadata() -> Refusal {
    let message = format!("metadata may have {METADATA_KEYS_MAX} keys; put more into payload");
    Refusal::of_field(Fault::BadMetadata, "metadata", message)
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
mod tests;
