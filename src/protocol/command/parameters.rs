//! The parameters of one command, checked against its row in the table: what is in here is known
//! to the command, of the right type, and complete but for a room or channel that the envelope
//! may give.
//!
//! Where a command takes a room and a channel, either may also be written `room:channel`. What the
//! parameters say goes before what the envelope says, and `*` for the envelope's room means that
//! it names none. A `*` for the envelope's channel means every channel of the envelope's room only:
//! a client that puts `*` into both, having nothing to say there, must not join a whole room by
//! leaving out one word.

use super::Address;
use super::table::{CommandSpec, ParameterSpec, ParameterType};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::json::{self, Text, Value};
use crate::protocol::names::{self, EVERY_CHANNEL, Name, NameError};
use crate::protocol::quote::{field_name, quote};
use std::borrow::Cow;
use std::ops::RangeInclusive;

/// Whether the channel may be `*`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Every {
    Allowed,
    Refused,
}

/// The parameters of one command, and where its envelope was addressed to.
pub(super) struct Parameters<'a> {
    command: &'static str,
    values: Vec<(&'static ParameterSpec, Value<'a>)>,
    room: &'a str,
    channel: &'a str,
}

impl<'a> Parameters<'a> {
    /// Reads the object `parameters`, which may be left out.
    pub(super) fn read(
        spec: &'static CommandSpec,
        object: Option<&'a str>,
        room: &'a str,
        channel: &'a str,
    ) -> Result<Parameters<'a>, Refusal> {
        let mut values = Vec::new();
        json::try_members(object.unwrap_or("{}"), |key, value| {
            let parameter = known(spec, key)?;
            if value == Value::Null {
                // It counts as left out.
                return Ok(());
            }
            check_type(parameter, &value)?;
            values.push((parameter, value));
            Ok::<_, Refusal>(())
        })?;
        for parameter in spec.parameters {
            let is_given = values.iter().any(|(given, _)| given.name == parameter.name);
            let may_be_the_envelopes =
                matches!(parameter.kind, ParameterType::Room | ParameterType::Channel);
            if parameter.required && !is_given && !may_be_the_envelopes {
                return Err(missing(spec.name, parameter.name));
            }
        }
        Ok(Parameters { command: spec.name, values, room, channel })
    }

    /// The value of a parameter, if it was given.
    pub(super) fn get(&self, name: &str) -> Option<Value<'a>> {
        self.values.iter().find(|(given, _)| given.name == name).map(|&(_, value)| value)
    }

    /// Every parameter that was given, in the order in which they stand.
    pub(super) fn each(&self) -> impl Iterator<Item = (&'static str, Value<'a>)> {
        self.values.iter().map(|(given, value)| (given.name, *value))
    }

    /// A string.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        match self.get(name) {
            Some(Value::Text(text)) => Some(text.get()),
            _ => None,
        }
    }

    /// A boolean; `false` if it was not given.
    pub(super) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Value::Bool(true)))
    }

    /// An integer from 0.
    pub(super) fn integer(&self, name: &str) -> Option<u64> {
        self.get(name).and_then(|value| value.as_u64())
    }

    /// An object's text.
    pub(super) fn object(&self, name: &str) -> Option<&'a str> {
        match self.get(name) {
            Some(Value::Object(object)) => Some(object),
            _ => None,
        }
    }

    /// The room that the command is about.
    pub(super) fn room(&self) -> Result<Name, Refusal> {
        self.optional_room()?.ok_or_else(|| missing(self.command, "room"))
    }

    /// The room that the command is about, if it names one.
    pub(super) fn optional_room(&self) -> Result<Option<Name>, Refusal> {
        let room = self.text("room").or_else(|| self.room_of_envelope());
        room.map(|room| room_name(&room)).transpose()
    }

    /// The room and the channel that the command is about.
    pub(super) fn address(&self, every: Every) -> Result<Address, Refusal> {
        let (room, channel) = (self.text("room"), self.text("channel"));
        let (room_1, channel_1) = match room.as_deref() {
            Some(room) if room.contains(':') => split("room", room)?,
            room => (room, None),
        };
        let (room_2, channel_2) = match channel.as_deref() {
            Some(channel) if channel.contains(':') => split("channel", channel)?,
            channel => (None, channel),
        };
        let channel = agreed("channel", channel_1, channel_2)?;
        let room = match agreed("room", room_1, room_2)? {
            Some(room) => room,
            None if is_every(self.room) => return Err(missing(self.command, "room")),
            None => self.room,
        };
        let of_envelope = room == self.room || !is_every(self.channel);
        let channel = channel.or(of_envelope.then_some(self.channel));
        let channel = match channel {
            Some(channel) if !is_every(channel) => channel_name(channel)?,
            Some(_) if every == Every::Allowed => Name::every(),
            Some(_) if channel_1.or(channel_2).is_some() => {
                let why = "stands for every channel, which this command does not take; name one";
                return Err(bad_name("parameters.channel", EVERY_CHANNEL, why));
            }
            _ => return Err(missing(self.command, "channel")),
        };
        Ok(Address { room: room_name(room)?, channel })
    }

    fn room_of_envelope(&self) -> Option<Cow<'a, str>> {
        (!is_every(self.room)).then_some(Cow::Borrowed(self.room))
    }
}

/// A refusal of the parameter at `path`, which the sentence begins with.
pub(super) fn bad_parameter(path: &str, rest: &str) -> Refusal {
    let message = format!("parameters.{path} {rest}");
    Refusal::of_field(Fault::BadParameter, format!("parameters.{path}"), message)
}

/// An integer within a range.
pub(super) fn in_range(
    path: &str,
    value: Value<'_>,
    range: RangeInclusive<u64>,
) -> Result<u64, Refusal> {
    value.as_u64().filter(|number| range.contains(number)).ok_or_else(|| {
        let rest = format!("must be an integer from {} to {}", range.start(), range.end());
        bad_parameter(path, &rest)
    })
}

/// A client id.
pub(super) fn client_name(path: &str, id: &str) -> Result<Name, Refusal> {
    Name::parse(id).map_err(|why| name_refusal(path, id, why))
}

/// A list of client ids, each of them once.
pub(super) fn client_names(path: &str, value: Value<'_>) -> Result<Vec<Name>, Refusal> {
    let Value::Array(list) = value else {
        return Err(bad_parameter(path, "must be a list of client ids"));
    };
    let mut clients = Vec::new();
    json::try_elements(list, |element| match element {
        Value::Text(id) => {
            clients.push(client_name(path, &id.get())?);
            Ok(())
        }
        _ => Err(bad_parameter(path, "must hold client ids only, which are strings")),
    })?;
    clients.sort_unstable();
    clients.dedup();
    Ok(clients)
}

fn known(spec: &'static CommandSpec, key: Text<'_>) -> Result<&'static ParameterSpec, Refusal> {
    let key = key.get();
    spec.parameters.iter().find(|parameter| parameter.name == key).ok_or_else(|| {
        let names: Vec<_> = spec.parameters.iter().map(|parameter| parameter.name).collect();
        let takes = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let field = format!("parameters.{}", field_name(&key));
        let message = format!(
            "{} has no parameter {}; the parameters it takes: {takes}",
            spec.name,
            quote(&key)
        );
        Refusal::of_field(Fault::BadParameter, field, message)
    })
}

fn check_type(parameter: &ParameterSpec, value: &Value<'_>) -> Result<(), Refusal> {
    let (is_right, wanted) = match parameter.kind {
        ParameterType::Room | ParameterType::Channel | ParameterType::String => {
            (matches!(value, Value::Text(_)), "a string")
        }
        ParameterType::Time => {
            let wanted = "a string with an RFC 3339 time, such as 2025-11-30T12:00:00Z";
            (matches!(value, Value::Text(_)), wanted)
        }
        ParameterType::Integer => (value.as_u64().is_some(), "an integer from 0"),
        ParameterType::Boolean => (matches!(value, Value::Bool(_)), "true or false"),
        ParameterType::Object => (matches!(value, Value::Object(_)), "an object"),
        ParameterType::List => {
            (matches!(value, Value::Array(_) | Value::Text(_)), "a list of strings, or one string")
        }
    };
    if is_right {
        return Ok(());
    }
    let rest = format!("is {}; it must be {wanted}", value.type_name());
    Err(bad_parameter(parameter.name, &rest))
}

fn missing(command: &str, name: &str) -> Refusal {
    let message = match name {
        "room" | "channel" => format!(
            "{command} needs a {name}: set parameters.{name}, or address the envelope to one"
        ),
        _ => format!("{command} needs parameters.{name}"),
    };
    Refusal::of_field(Fault::BadParameter, format!("parameters.{name}"), message)
}

/// The two halves of `room:channel`.
fn split<'t>(
    name: &'static str,
    text: &'t str,
) -> Result<(Option<&'t str>, Option<&'t str>), Refusal> {
    match names::split_address(text) {
        Some((room, channel)) => Ok((Some(room), Some(channel))),
        None => {
            let field = format!("parameters.{name}");
            Err(bad_name(&field, text, "has more than one colon; write room:channel"))
        }
    }
}

/// What two places say, if they don't contradict each other.
fn agreed<'t>(
    name: &'static str,
    one: Option<&'t str>,
    other: Option<&'t str>,
) -> Result<Option<&'t str>, Refusal> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => {
            let message = format!(
                "parameters.room and parameters.channel name different {name}s, {} and {}; name \
                 one",
                quote(one),
                quote(other)
            );
            Err(Refusal::of_field(Fault::BadParameter, format!("parameters.{name}"), message))
        }
        _ => Ok(one.or(other)),
    }
}

fn is_every(text: &str) -> bool {
    text == EVERY_CHANNEL
}

fn room_name(room: &str) -> Result<Name, Refusal> {
    if is_every(room) {
        let why = "is no room; name one";
        return Err(bad_name("parameters.room", room, why));
    }
    Name::parse(room).map_err(|why| name_refusal("room", room, why))
}

fn channel_name(channel: &str) -> Result<Name, Refusal> {
    Name::parse(channel).map_err(|why| name_refusal("channel", channel, why))
}

fn name_refusal(path: &str, name: &str, why: NameError) -> Refusal {
    bad_name(&format!("parameters.{path}"), name, &why.to_string())
}

fn bad_name(field: &str, name: &str, why: &str) -> Refusal {
    let message = format!("{field} {} {why}", quote(name));
    Refusal::of_field(Fault::BadName, field.to_owned(), message)
}
