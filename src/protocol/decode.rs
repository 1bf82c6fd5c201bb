//! From the text of a message to an [`Envelope`] or a refusal: every rule of the protocol that
//! needs only the message itself.
//!
//! One pass over the text finds the top-level fields and proves that the whole is sound JSON; then
//! the fields are judged in the order of the protocol's table, so that the first thing wrong is
//! what the sender is told. What follows is written for the good message: refusals are boxed and
//! their sentences made only when there is one; and a good message in the [usual form](usual) is
//! read a quick way, while all else goes the long one.
//!
//! *Invariants*: both ways say the same of every text; an `Envelope` that comes out of here keeps
//! every promise of its documentation; a sentence never repeats more than a few characters of what
//! was sent.
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

/// The top-level fields, as they were found.
#[derive(Default)]
struct Fields<'a> {
    /// In the order of [`FIELDS`].
    values: [Option<Value<'a>>; FIELDS.len()],
    /// The first field that an envelope does not have.
    unknown: Option<Text<'a>>,
}

impl<'a> Fields<'a> {
    fn put(&mut self, key: Text<'a>, value: Value<'a>) {
        let name = key.get();
        match FIELDS.iter().position(|&field| field == name) {
            Some(place) => self.values[place] = Some(value),
            None => _ = self.unknown.get_or_insert(key),
        }
    }

    /// Judges the fields in the order of the protocol's table.
    fn envelope(&self) -> Result<Envelope<'a>, Refusal> {
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
            None => Metadata::default(),
            Some(Value::Object(metadata)) => read_metadata(metadata)?,
            Some(other) => return Err(metadata_type(other)),
        };
        match self.unknown {
            None => Ok(Envelope { id, kind, room, channel, from, payload, metadata }),
            Some(key) => Err(unknown_field(&key.get())),
        }
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
    let mut metadata = Metadata { members: trimmed_members(object), ..Metadata::default() };
    let mut count = 0;
    json::try_members(object, |key, value| {
        count += 1;
        if count > METADATA_KEYS_MAX {
            return Err(too_much_metadata());
        }
        metadata.put(&key.get(), value)
    })?;
    Ok(metadata)
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
