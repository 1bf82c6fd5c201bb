//! From the payload of a command message to a [`Request`].
//!
//! Commands are rare beside events, so this reads for clarity: the row of the table says what is
//! known and of which type, and one short function for each command makes it of that.
//!
//! *Panics*: the only indices are those of `distance`, into a row that is one longer than the name
//! it is made for.

use super::identity::{add_join, identity_field};
use super::parameters::{Every, Parameters, bad_parameter, client_name, client_names, in_range};
use super::{
    AckWhen, ChannelType, Command, CreateChannel, HistoryQuery, Identity, Join, Persist,
    Publishers, Recover, Request, RoomConfig, table,
};
use crate::base::limits::{
    ANNOUNCEMENT_BYTES_MAX, CLOSE_REASON_BYTES_MAX, ENTITY_METADATA_BYTES_MAX,
    HISTORY_LIMIT_DEFAULT, HISTORY_LIMIT_MAX, HISTORY_SIZE_MAX, PAGE_ROWS_MAX,
};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::json::{self, Value};
use crate::protocol::names::{EVERY_CHANNEL, Name};
use crate::protocol::page::{Cursor, List, PageQuery};
use crate::protocol::quote::{field_name, quote};
use crate::protocol::timestamp;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// The longest epoch a client may send back, in bytes; the server's own are much shorter.
const EPOCH_BYTES_MAX: usize = 64;

/// Reads the payload of a command whose envelope is addressed to `room` and `channel`.
pub fn parse(payload: &str, room: &str, channel: &str) -> Result<Request, Refusal> {
    let mut form = Form::default();
    json::members(payload, |key, value| form.put(key.get(), value))?;
    let name = form.command()?;
    let spec = table::find(&name).ok_or_else(|| unknown_command(&name))?;
    let brief = form.brief()?;
    let parameters = Parameters::read(spec, form.parameters()?, room, channel)?;
    Ok(Request { command: (spec.read)(&parameters)?, brief })
}

/// The name of the command in a payload that [`parse`] refuses, if it is one that the server knows.
pub fn known_name(payload: &str) -> Option<&'static str> {
    let mut form = Form::default();
    json::members(payload, |key, value| form.put(key.get(), value)).ok()?;
    Some(table::find(&form.command().ok()?)?.name)
}

/// The members of the payload, as they were found.
#[derive(Default)]
struct Form<'a> {
    command: Option<Value<'a>>,
    parameters: Option<Value<'a>>,
    response_format: Option<Value<'a>>,
    unknown: Option<Cow<'a, str>>,
}

impl<'a> Form<'a> {
    fn put(&mut self, key: Cow<'a, str>, value: Value<'a>) {
        match &*key {
            "command" => self.command = Some(value),
            "parameters" => self.parameters = Some(value),
            "response_format" => self.response_format = Some(value),
            _ => {
                self.unknown.get_or_insert(key);
            }
        }
    }

    fn command(&self) -> Result<Cow<'a, str>, Refusal> {
        let (fault, message) = match self.command {
            Some(Value::Text(name)) => return Ok(name.get()),
            None | Some(Value::Null) => {
                (Fault::MissingField, "payload.command is missing; it names the command".into())
            }
            Some(other) => {
                let found = other.type_name();
                (Fault::WrongType, format!("payload.command is {found}; it must be a string"))
            }
        };
        Err(Refusal::of_field(fault, "payload.command", message))
    }

    /// Whether the answer is to be brief. Also where unknown members are refused.
    fn brief(&self) -> Result<bool, Refusal> {
        if let Some(key) = &self.unknown {
            let field = format!("payload.{}", field_name(key));
            let message = format!(
                "the payload of a command has no {}; it has command, parameters and \
                 response_format",
                quote(key)
            );
            return Err(Refusal::of_field(Fault::BadParameter, field, message));
        }
        let (fault, found) = match self.response_format {
            None | Some(Value::Null) => return Ok(false),
            Some(Value::Text(format)) => match &*format.get() {
                "full" => return Ok(false),
                "brief" => return Ok(true),
                other => (Fault::BadParameter, quote(other)),
            },
            Some(other) => (Fault::WrongType, other.type_name().to_owned()),
        };
        let message = format!("payload.response_format is {found}; say \"full\" or \"brief\"");
        Err(Refusal::of_field(fault, "payload.response_format", message))
    }

    fn parameters(&self) -> Result<Option<&'a str>, Refusal> {
        match self.parameters {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(other) => {
                let message = format!(
                    "payload.parameters is {}; it must be an object, or be left out",
                    other.type_name()
                );
                Err(Refusal::of_field(Fault::WrongType, "payload.parameters", message))
            }
        }
    }
}

pub(super) fn status(_: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::Status)
}

pub(super) fn ping(_: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::Ping)
}

pub(super) fn help(_: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::Help)
}

pub(super) fn list_rooms(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    page(parameters, List::Rooms).map(Command::ListRooms)
}

pub(super) fn list_clients(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    page(parameters, List::Clients).map(Command::ListClients)
}

/// Which rows of a list are wanted.
fn page(parameters: &Parameters<'_>, list: List<'_>) -> Result<PageQuery, Refusal> {
    let limit = match parameters.get("limit") {
        None => PAGE_ROWS_MAX,
        Some(limit) => in_range("limit", limit, 1..=PAGE_ROWS_MAX as u64)? as usize,
    };
    let cursor = parameters.text("cursor").map(|text| {
        Cursor::parse(&text, list).ok_or_else(|| {
            let rest = "is none that the server gave for this list; leave it out to begin anew";
            bad_parameter("cursor", rest)
        })
    });
    Ok(PageQuery { limit, cursor: cursor.transpose()? })
}

pub(super) fn leave_channel(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    parameters.address(Every::Allowed).map(Command::LeaveChannel)
}

pub(super) fn channel_info(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let address = parameters.address(Every::Refused)?;
    let page = page(parameters, List::Participants(&address.room, &address.channel))?;
    Ok(Command::ChannelInfo { address, page })
}

pub(super) fn delete_channel(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    parameters.address(Every::Refused).map(Command::DeleteChannel)
}

pub(super) fn list_channels(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let room = parameters.room()?;
    let page = page(parameters, List::Channels(&room))?;
    Ok(Command::ListChannels { room, page })
}

pub(super) fn delete_room(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::DeleteRoom { room: parameters.room()? })
}

pub(super) fn pause_room(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::PauseRoom { room: parameters.room()? })
}

pub(super) fn resume_room(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    Ok(Command::ResumeRoom { room: parameters.room()? })
}

pub(super) fn identify(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let mut identity = Identity::default();
    for (name, value) in parameters.each() {
        match value {
            Value::Text(text) => identity_field(&mut identity, name, &text.get()).map(|_| ()),
            Value::Array(list) => json::try_elements(list, |element| match element {
                Value::Text(address) => add_join(&mut identity, &address.get()),
                _ => Err(bad_parameter(name, "must hold strings only, each room:channel")),
            }),
            _ => Ok(()),
        }
        .map_err(|refusal| Refusal {
            field: Some(format!("parameters.{name}").into()),
            ..refusal
        })?;
    }
    Ok(Command::Identify(Box::new(identity)))
}

pub(super) fn join_channel(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let address = parameters.address(Every::Allowed)?;
    let recover = parameters.object("recover").map(read_recover).transpose()?;
    if recover.is_some() && address.channel.is_every() {
        let rest = "does not go with channel *: each channel has an epoch and a sequence of its \
                    own; join them one by one";
        return Err(bad_parameter("recover", rest));
    }
    Ok(Command::JoinChannel(Box::new(Join {
        address,
        echo: parameters.flag("echo"),
        presence: parameters.flag("presence"),
        recover,
    })))
}

fn read_recover(object: &str) -> Result<Recover, Refusal> {
    let (mut epoch, mut sequence) = (None, None);
    json::try_members(object, |key, value| match (&*key.get(), value) {
        ("epoch", Value::Text(text)) => {
            let text = text.get().into_owned();
            if text.is_empty() || text.len() > EPOCH_BYTES_MAX {
                return Err(bad_parameter("recover.epoch", "is none that the server gave"));
            }
            epoch = Some(text);
            Ok(())
        }
        ("epoch" | "sequence", Value::Null) => Ok(()),
        ("epoch", _) => Err(bad_parameter("recover.epoch", "must be a string")),
        ("sequence", value) => {
            sequence = Some(in_range("recover.sequence", value, 0..=u64::MAX)?);
            Ok(())
        }
        (other, _) => Err(unknown_member("recover", other, "epoch and sequence")),
    })?;
    let epoch = epoch.ok_or_else(|| bad_parameter("recover.epoch", "is missing"))?;
    let sequence = sequence.ok_or_else(|| bad_parameter("recover.sequence", "is missing"))?;
    Ok(Recover { epoch, sequence })
}

pub(super) fn history(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let time = |name: &str| match parameters.text(name) {
        None => Ok(None),
        Some(text) => match timestamp::check(&text) {
            Ok(()) => Ok(timestamp::parse_us(&text)),
            Err(why) => Err(bad_parameter(name, &format!("{} {why}", quote(&text)))),
        },
    };
    let limit = match parameters.get("limit") {
        None => HISTORY_LIMIT_DEFAULT,
        Some(limit) => in_range("limit", limit, 1..=HISTORY_LIMIT_MAX as u64)? as usize,
    };
    let newest_first = match parameters.text("order").as_deref() {
        None | Some("asc") => false,
        Some("desc") => true,
        Some(other) => {
            let rest = format!("is {}; say \"asc\" or \"desc\"", quote(other));
            return Err(bad_parameter("order", &rest));
        }
    };
    Ok(Command::History(Box::new(HistoryQuery {
        address: parameters.address(Every::Allowed)?,
        limit,
        since_us: time("since")?,
        until_us: time("until")?,
        after: parameters.integer("after"),
        before: parameters.integer("before"),
        newest_first,
    })))
}

pub(super) fn create_channel(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let address = parameters.address(Every::Refused)?;
    let channel_type = match parameters.text("type").as_deref() {
        None | Some("general") => ChannelType::General,
        Some("private") => ChannelType::Private,
        Some("system" | "pm") => {
            let rest = "may be general or private; system and pm channels are the server's to make";
            return Err(bad_parameter("type", rest));
        }
        Some(other) => {
            let rest = format!("is {}; say general or private", quote(other));
            return Err(bad_parameter("type", &rest));
        }
    };
    let metadata = parameters.object("metadata");
    let members = match metadata {
        Some(metadata) if channel_type == ChannelType::Private => members_of(metadata)?,
        _ => Vec::new(),
    };
    let metadata = metadata.map(|object| raw_object("metadata", object)).transpose()?;
    Ok(Command::CreateChannel(Box::new(CreateChannel { address, channel_type, metadata, members })))
}

fn members_of(metadata: &str) -> Result<Vec<Name>, Refusal> {
    let mut members = Vec::new();
    json::try_members(metadata, |key, value| {
        if key.get() == "members" && value != Value::Null {
            members = client_names("metadata.members", value)?;
        }
        Ok::<_, Refusal>(())
    })?;
    Ok(members)
}

/// An object that is kept as it was sent.
fn raw_object(path: &str, object: &str) -> Result<Box<RawValue>, Refusal> {
    check_length(path, object, ENTITY_METADATA_BYTES_MAX)?;
    RawValue::from_string(object.to_owned())
        .map_err(|_| bad_parameter(path, "is not an object that can be kept"))
}

pub(super) fn create_room(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let room = parameters.room()?;
    let config = parameters.object("config").map(read_config).transpose()?.unwrap_or_default();
    Ok(Command::CreateRoom { room, config })
}

/// What a room's configuration may hold.
const CONFIG_KEYS: [&str; 6] =
    ["history_size", "member_limit", "create_on_join", "publishers", "persist", "ack_when"];

/// Reads the text of a room's configuration: a JSON object. A member that is `null` counts as left out.
pub fn read_config(object: &str) -> Result<RoomConfig, Refusal> {
    check_length("config", object, ENTITY_METADATA_BYTES_MAX)?;
    let mut config = RoomConfig::default();
    json::try_members(object, |key, value| {
        let key = key.get();
        if value == Value::Null && CONFIG_KEYS.contains(&&*key) {
            return Ok(());
        }
        match &*key {
            "history_size" => {
                let range = 1..=u64::from(HISTORY_SIZE_MAX);
                config.history_size = Some(in_range("config.history_size", value, range)? as u32);
            }
            "member_limit" => {
                let range = 1..=u64::from(u32::MAX);
                config.member_limit = Some(in_range("config.member_limit", value, range)? as u32);
            }
            "create_on_join" => match value {
                Value::Bool(create) => config.create_on_join = Some(create),
                _ => return Err(bad_parameter("config.create_on_join", "must be true or false")),
            },
            "publishers" => config.publishers = Some(read_publishers(value)?),
            "persist" => {
                let rest = "must be \"none\", \"history\" or \"all\"";
                config.persist = Some(read_word("config.persist", value, Persist::parse, rest)?);
            }
            "ack_when" => {
                let rest = "must be \"stored\" or \"accepted\"";
                config.ack_when = Some(read_word("config.ack_when", value, AckWhen::parse, rest)?);
            }
            other => return Err(unknown_member("config", other, &CONFIG_KEYS.join(", "))),
        }
        Ok(())
    })?;
    Ok(config)
}

fn read_word<T>(
    path: &str,
    value: Value<'_>,
    parse: fn(&str) -> Option<T>,
    rest: &str,
) -> Result<T, Refusal> {
    let word = match value {
        Value::Text(text) => parse(&text.get()),
        _ => None,
    };
    word.ok_or_else(|| bad_parameter(path, rest))
}

fn read_publishers(value: Value<'_>) -> Result<Publishers, Refusal> {
    match value {
        Value::Text(text) if text.get() == "members" => Ok(Publishers::Members),
        Value::Text(text) if text.get() == "admins" => Ok(Publishers::Admins),
        Value::Array(_) => client_names("config.publishers", value).map(Publishers::Clients),
        _ => {
            let rest = "must be \"members\", \"admins\" or a list of client ids";
            Err(bad_parameter("config.publishers", rest))
        }
    }
}

pub(super) fn announce(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let message = parameters.text("message").unwrap_or_default().into_owned();
    if message.is_empty() {
        return Err(bad_parameter("message", "is empty; say something"));
    }
    check_length("message", &message, ANNOUNCEMENT_BYTES_MAX)?;
    // Everyone can be meant whatever room the envelope is addressed to.
    let is_for_everyone = parameters.text("room").as_deref() == Some(EVERY_CHANNEL);
    let room = if is_for_everyone { None } else { parameters.optional_room()? };
    Ok(Command::Announce { message, room })
}

pub(super) fn disconnect_client(parameters: &Parameters<'_>) -> Result<Command, Refusal> {
    let client_id = parameters.text("client_id").unwrap_or_default();
    let client_id = client_name("client_id", &client_id)?;
    let reason = parameters.text("reason").map(Cow::into_owned);
    if let Some(reason) = &reason {
        check_length("reason", reason, CLOSE_REASON_BYTES_MAX)?;
        if reason.contains(char::is_control) {
            return Err(bad_parameter("reason", "may not hold control characters"));
        }
    }
    Ok(Command::DisconnectClient { client_id, reason })
}

fn check_length(path: &str, text: &str, max: usize) -> Result<(), Refusal> {
    if text.len() <= max {
        return Ok(());
    }
    let rest = format!("has {} bytes and may have {max}; send less", text.len());
    Err(bad_parameter(path, &rest))
}

fn unknown_member(path: &str, key: &str, known: &str) -> Refusal {
    let field = format!("parameters.{path}.{}", field_name(key));
    let message = format!("parameters.{path} has no {}; it has {known}", quote(key));
    Refusal::of_field(Fault::BadParameter, field, message)
}

fn unknown_command(name: &str) -> Refusal {
    let nearest = table::COMMANDS.iter().map(|spec| (distance(name, spec.name), spec.name)).min();
    let message = match nearest {
        Some((edits, nearest)) if edits <= 3 && edits * 2 < nearest.len() => {
            format!("there is no command {}; did you mean {nearest}?", quote(name))
        }
        _ => format!("there is no command {}; send help for a list of all", quote(name)),
    };
    Refusal::of_field(Fault::UnknownCommand, "payload.command", message)
}

/// How many bytes must be put in, taken out or replaced to make one name of another
/// (Levenshtein's distance). A text much longer than any name is not looked at.
fn distance(text: &str, name: &str) -> usize {
    if text.len() > 2 * name.len() {
        return text.len();
    }
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for (i, a) in text.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in name.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests;
