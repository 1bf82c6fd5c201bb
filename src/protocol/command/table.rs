//! The table of commands: the one source for [`parse`](super::parse) and for `help`.

use super::Command;
use super::parameters::Parameters;
use super::parse as read;
use crate::base::limits::COSTLY_COMMAND;
use crate::protocol::fault::Refusal;
use serde::Serialize;

/// One command, as `help` shows it.
#[derive(Debug, Serialize)]
pub struct CommandSpec {
    /// The name on the wire.
    pub name: &'static str,
    /// What it does, in a sentence.
    pub description: &'static str,
    /// What it takes, and nothing else.
    pub parameters: &'static [ParameterSpec],
    /// Whether only admins may give it.
    pub requires_admin: bool,
    /// What it is about.
    pub scope: Scope,
    /// Whether it counts under the limit of commands a second.
    pub rate_limited: bool,
    /// How many commands it counts as there; `join_channel` as 5 with `recover`, and for channel `*`.
    pub cost: u32,
    /// Makes the command of parameters that are known, of the right types, and complete.
    #[serde(skip)]
    pub(super) read: fn(&Parameters<'_>) -> Result<Command, Refusal>,
}

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The bus or the client itself.
    None,
    /// One room.
    Room,
    /// One channel of a room.
    Channel,
}

/// One parameter, as `help` shows it.
#[derive(Debug, Serialize)]
pub struct ParameterSpec {
    /// The key in `parameters`.
    pub name: &'static str,
    /// What it must be.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// Whether the command can't do without it. A room and a channel may also come from the
    /// envelope.
    pub required: bool,
    /// What it means and in which range it must be.
    pub description: &'static str,
}

/// The types of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum ParameterType {
    /// A room, a string; falls back to the envelope's.
    #[serde(rename = "string")]
    Room,
    /// A channel, a string; falls back to the envelope's.
    #[serde(rename = "string")]
    Channel,
    /// Any string.
    #[serde(rename = "string")]
    String,
    /// A string that is an RFC 3339 time.
    #[serde(rename = "time")]
    Time,
    /// A whole number from 0.
    #[serde(rename = "integer")]
    Integer,
    /// `true` or `false`.
    #[serde(rename = "boolean")]
    Boolean,
    /// An object.
    #[serde(rename = "object")]
    Object,
    /// A list of strings, or one string.
    #[serde(rename = "list")]
    List,
}

/// Every command, described in full.
pub fn help() -> impl Serialize + use<> {
    COMMANDS
}

/// The names of all commands.
pub fn help_brief() -> impl Serialize + use<> {
    COMMANDS.iter().map(|spec| spec.name).collect::<Vec<_>>()
}

/// Whether the command of that name does more than to answer.
pub fn changes_something(name: &str) -> bool {
    let lists = ["list_channels", "list_rooms", "list_clients"];
    let others = ["status", "ping", "help", "channel_info", "history"];
    !lists.contains(&name) && !others.contains(&name)
}

/// The command of that name.
pub(super) fn find(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.name == name)
}

impl Command {
    /// The name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Command::Status => "status",
            Command::Ping => "ping",
            Command::Help => "help",
            Command::Identify(_) => "identify",
            Command::JoinChannel(_) => "join_channel",
            Command::LeaveChannel(_) => "leave_channel",
            Command::ListChannels { .. } => "list_channels",
            Command::ChannelInfo { .. } => "channel_info",
            Command::History(_) => "history",
            Command::CreateChannel(_) => "create_channel",
            Command::DeleteChannel(_) => "delete_channel",
            Command::ListRooms(_) => "list_rooms",
            Command::CreateRoom { .. } => "create_room",
            Command::DeleteRoom { .. } => "delete_room",
            Command::PauseRoom { .. } => "pause_room",
            Command::ResumeRoom { .. } => "resume_room",
            Command::Announce { .. } => "announce",
            Command::ListClients(_) => "list_clients",
            Command::DisconnectClient { .. } => "disconnect_client",
        }
    }

    /// Whether only admins may give it.
    pub fn requires_admin(&self) -> bool {
        // A command without a row would be nobody's but an admin's; a test sees that none is.
        find(self.name()).is_none_or(|spec| spec.requires_admin)
    }

    /// Whether its answer may be long: a client gets one such answer at a time.
    pub fn may_answer_at_length(&self) -> bool {
        match self {
            Command::History(_)
            | Command::ChannelInfo { .. }
            | Command::ListChannels { .. }
            | Command::ListRooms(_)
            | Command::ListClients(_) => true,
            Command::JoinChannel(join) => join.recover.is_some() || join.address.channel.is_every(),
            _ => false,
        }
    }

    /// How many commands it counts as under the limit of commands a second; 0 if it is free.
    pub fn cost(&self) -> u32 {
        match find(self.name()).map_or(1, |spec| spec.cost) {
            0 => 0,
            _ if self.may_answer_at_length() => COSTLY_COMMAND,
            cost => cost,
        }
    }
}

const fn needed(
    name: &'static str,
    kind: ParameterType,
    description: &'static str,
) -> ParameterSpec {
    ParameterSpec { name, kind, required: true, description }
}

const fn optional(
    name: &'static str,
    kind: ParameterType,
    description: &'static str,
) -> ParameterSpec {
    ParameterSpec { name, kind, required: false, description }
}

const ROOM: ParameterSpec =
    needed("room", ParameterType::Room, "The room; if left out, the envelope's unless that is *.");
const CHANNEL: ParameterSpec = needed(
    "channel",
    ParameterType::Channel,
    "The channel, or room:channel; if left out, the envelope's unless that is *.",
);
const CHANNEL_OR_ALL: ParameterSpec = needed(
    "channel",
    ParameterType::Channel,
    "The channel, or room:channel; * for every channel of the room, present and future. If left \
     out, the envelope's.",
);

const LIMIT: ParameterSpec =
    optional("limit", ParameterType::Integer, "How many rows at most, 1 to 1000; 1000.");
const CURSOR: ParameterSpec = optional(
    "cursor",
    ParameterType::String,
    "The rows behind a page: the `cursor` that came with it. If left out, the first ones.",
);

const JOIN: &[ParameterSpec] = &[
    ROOM,
    CHANNEL_OR_ALL,
    optional("echo", ParameterType::Boolean, "Deliver the client's own events to it too."),
    optional("presence", ParameterType::Boolean, "Tell the client who joins and leaves."),
    optional(
        "recover",
        ParameterType::Object,
        "Catch up from {epoch, sequence}, the last message seen: first everything missed, then \
         what is new. Not for channel *.",
    ),
];

const HISTORY: &[ParameterSpec] = &[
    ROOM,
    CHANNEL,
    optional("limit", ParameterType::Integer, "How many messages at most, 1 to 1000; 50."),
    optional("since", ParameterType::Time, "Only messages at or after this RFC 3339 time."),
    optional("until", ParameterType::Time, "Only messages at or before this RFC 3339 time."),
    optional("after", ParameterType::Integer, "Only messages after this sequence."),
    optional("before", ParameterType::Integer, "Only messages before this sequence."),
    optional(
        "order",
        ParameterType::String,
        "asc: the newest messages up to the limit, oldest of them first; desc: the same, newest \
         first. asc.",
    ),
];

const CREATE_CHANNEL: &[ParameterSpec] = &[
    ROOM,
    CHANNEL,
    optional("type", ParameterType::String, "general or private; general."),
    optional(
        "metadata",
        ParameterType::Object,
        "Kept with the channel, at most 16 KiB. Its list `members` says which client ids may join \
         a private channel.",
    ),
];

const CREATE_ROOM: &[ParameterSpec] = &[
    ROOM,
    optional(
        "config",
        ParameterType::Object,
        "How the room differs from the server's defaults: history_size, member_limit, \
         create_on_join, publishers (\"members\", \"admins\" or a list of client ids), persist \
         (\"none\", \"history\" or \"all\"), ack_when (\"stored\" or \"accepted\").",
    ),
];

const IDENTIFY: &[ParameterSpec] = &[
    optional("client_id", ParameterType::String, "The id the client wants; must not be in use."),
    optional("client_type", ParameterType::String, "human, ai-agent, dashboard or service."),
    optional("screen_name", ParameterType::String, "A name for people, at most 512 bytes."),
    optional("avatar", ParameterType::String, "A URL or an identifier, at most 512 bytes."),
    optional("personality", ParameterType::String, "How an agent behaves, at most 512 bytes."),
    optional("join", ParameterType::List, "Up to 64 room:channel to join at once."),
    optional("token", ParameterType::String, "What proves who the client is."),
];

const ANNOUNCE: &[ParameterSpec] = &[
    needed("message", ParameterType::String, "The text, at most 4 KiB."),
    optional(
        "room",
        ParameterType::Room,
        "Only to the members of this room, or * for everyone; if left out, the envelope's.",
    ),
];

const DISCONNECT_CLIENT: &[ParameterSpec] = &[
    needed("client_id", ParameterType::String, "Whose connection to close."),
    optional("reason", ParameterType::String, "What the client is told, at most 123 bytes."),
];

macro_rules! commands {
    ($($name:literal $who:ident $scope:ident $rate:ident $parameters:tt $read:path, $text:literal;)+) => {
        &[$(CommandSpec {
            name: $name,
            description: $text,
            parameters: $parameters,
            requires_admin: commands!(@ $who),
            scope: Scope::$scope,
            rate_limited: commands!(@ $rate) > 0,
            cost: commands!(@ $rate),
            read: $read,
        },)+]
    };
    (@ everyone) => { false };
    (@ admin) => { true };
    (@ free) => { 0 };
    (@ counted) => { 1 };
    (@ costly) => { COSTLY_COMMAND };
}

/// Every command, in the order in which `help` shows them. Those are costly whose answer may be long or
/// that many clients hear. A client that measures its connection
/// or says who it is shall not be hindered, so `ping` and `identify` are not counted.
pub(super) const COMMANDS: &[CommandSpec] = commands! {
    "status" everyone None counted (&[]) read::status,
        "What the bus is and how much it does.";
    "ping" everyone None free (&[]) read::ping,
        "Whether the bus answers, and its time.";
    "help" everyone None counted (&[]) read::help,
        "Every command, described.";
    "identify" everyone None free (IDENTIFY) read::identify,
        "Say who the client is; only as its first message.";
    "join_channel" everyone Channel counted (JOIN) read::join_channel,
        "Become a member of a channel, or of every channel of a room.";
    "leave_channel" everyone Channel counted (&[ROOM, CHANNEL_OR_ALL]) read::leave_channel,
        "Stop being a member.";
    "list_channels" everyone Room costly (&[ROOM, LIMIT, CURSOR]) read::list_channels,
        "The channels of a room.";
    "channel_info" everyone Channel costly (&[ROOM, CHANNEL, LIMIT, CURSOR]) read::channel_info,
        "All about one channel, its participants included.";
    "history" everyone Channel costly (HISTORY) read::history,
        "What was said in a channel before; for its members.";
    "list_rooms" everyone None costly (&[LIMIT, CURSOR]) read::list_rooms,
        "The rooms of the bus.";
    "create_channel" admin Channel counted (CREATE_CHANNEL) read::create_channel,
        "Make a channel, and its room if need be.";
    "delete_channel" admin Channel counted (&[ROOM, CHANNEL]) read::delete_channel,
        "Delete a channel that has no members.";
    "create_room" admin Room counted (CREATE_ROOM) read::create_room,
        "Make a room.";
    "delete_room" admin Room counted (&[ROOM]) read::delete_room,
        "Delete a room that has no channels.";
    "pause_room" admin Room counted (&[ROOM]) read::pause_room,
        "Refuse events in a room until it is resumed.";
    "resume_room" admin Room counted (&[ROOM]) read::resume_room,
        "Take events in a paused room again.";
    "announce" admin None costly (ANNOUNCE) read::announce,
        "Say something to everyone, or to everyone in a room.";
    "list_clients" admin None costly (&[LIMIT, CURSOR]) read::list_clients,
        "The clients of the bus.";
    "disconnect_client" admin None counted (DISCONNECT_CLIENT) read::disconnect_client,
        "Close a client's connection.";
};
