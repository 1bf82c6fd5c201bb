//! The commands: what each takes, who may give it, and how its parameters are read.
//!
//! The types are here. One table (`table`) says everything about each command: [`parse`] reads
//! by it and [`help`] shows it, so the two can't disagree.
//!
//! *Invariants*: a [`Command`] that was parsed has all its parameters, each of its type and within
//! its range, and every name in it is valid. Only `join_channel` and `leave_channel` may say `*`
//! for the channel.
//!
//! *Not here*: what a command does, whether the client may give it, and how it is answered.

mod identity;
mod parameters;
mod parse;
mod table;

pub use identity::identity_field;
pub use parse::{known_name, parse, read_config};
pub use table::{
    CommandSpec, ParameterSpec, ParameterType, Scope, changes_something, help, help_brief,
};

use crate::protocol::names::Name;
use crate::protocol::page::PageQuery;
use crate::protocol::session::SessionToken;
use serde::Serialize;
use serde_json::value::RawValue;

/// A command whose parameters are all there and of the right type.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which command, with its parameters.
    pub command: Command,
    /// Whether the answer is to be names and counts only.
    pub brief: bool,
}

/// A room and a channel of it; the channel may be `*`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The room.
    pub room: Name,
    /// The channel, or `*`.
    pub channel: Name,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.room, self.channel)
    }
}

/// Every command of the protocol.
#[derive(Debug, Clone)]
pub enum Command {
    /// What the bus is and how much it does.
    Status,
    /// Are you there?
    Ping,
    /// Every command, described.
    Help,
    /// Who the client is, as its first message.
    Identify(Box<Identity>),
    /// Become a member.
    JoinChannel(Box<Join>),
    /// Stop being a member.
    LeaveChannel(Address),
    /// The channels of a room.
    ListChannels {
        /// The room.
        room: Name,
        /// Which of them.
        page: PageQuery,
    },
    /// All about one channel.
    ChannelInfo {
        /// The channel.
        address: Address,
        /// Which of its participants.
        page: PageQuery,
    },
    /// What was said before.
    History(Box<HistoryQuery>),
    /// Make a channel.
    CreateChannel(Box<CreateChannel>),
    /// Delete an empty channel.
    DeleteChannel(Address),
    /// The rooms of the bus.
    ListRooms(PageQuery),
    /// Make a room.
    CreateRoom {
        /// The room.
        room: Name,
        /// How it differs from the others.
        config: RoomConfig,
    },
    /// Delete a room that has no channels.
    DeleteRoom {
        /// The room.
        room: Name,
    },
    /// Refuse events in a room.
    PauseRoom {
        /// The room.
        room: Name,
    },
    /// Take events again.
    ResumeRoom {
        /// The room.
        room: Name,
    },
    /// Say something to everyone, or to everyone in a room.
    Announce {
        /// The text.
        message: String,
        /// Only to the members of this room.
        room: Option<Name>,
    },
    /// The clients of the bus.
    ListClients(PageQuery),
    /// Close a client's connection.
    DisconnectClient {
        /// Whose.
        client_id: Name,
        /// What the client is told.
        reason: Option<String>,
    },
}

/// The approved kinds of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientType {
    /// A person, through some program.
    #[default]
    Human,
    /// An artificial agent.
    AiAgent,
    /// A screen that shows what goes on.
    Dashboard,
    /// A program.
    Service,
}

impl ClientType {
    /// The type as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ClientType::Human => "human",
            ClientType::AiAgent => "ai-agent",
            ClientType::Dashboard => "dashboard",
            ClientType::Service => "service",
        }
    }

    /// The type of that name.
    pub fn parse(text: &str) -> Option<ClientType> {
        Some(match text {
            "human" => ClientType::Human,
            "ai-agent" => ClientType::AiAgent,
            "dashboard" => ClientType::Dashboard,
            "service" => ClientType::Service,
            _ => return None,
        })
    }
}

/// Who a client says it is, at connect or by `identify`. What is `None` was not said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// The id it wants.
    pub client_id: Option<Name>,
    /// What kind of client it is.
    pub client_type: Option<ClientType>,
    /// A name for people.
    pub screen_name: Option<String>,
    /// An avatar's URL or identifier.
    pub avatar: Option<String>,
    /// How an agent behaves.
    pub personality: Option<String>,
    /// What it wants to be joined to at once.
    pub join: Vec<Address>,
    /// Its token.
    pub token: Option<String>,
    /// What it returns with.
    pub session: Option<SessionToken>,
}

/// The parameters of `join_channel`.
#[derive(Debug, Clone, PartialEq)]
pub struct Join {
    /// What to join; the channel may be `*`.
    pub address: Address,
    /// Whether the client wants its own events back.
    pub echo: bool,
    /// Whether it wants to be told who comes and goes.
    pub presence: bool,
    /// From where it wants to catch up.
    pub recover: Option<Recover>,
}

/// The last message of a channel that a client has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recover {
    /// The life of the channel that the sequence belongs to.
    pub epoch: String,
    /// The last sequence seen; 0 for none.
    pub sequence: u64,
}

/// The parameters of `history`.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryQuery {
    /// Whose history.
    pub address: Address,
    /// How many messages at most.
    pub limit: usize,
    /// Only messages at or after this time, in microseconds since 1970.
    pub since_us: Option<u64>,
    /// Only messages at or before this time, in microseconds since 1970.
    pub until_us: Option<u64>,
    /// Only messages after this sequence.
    pub after: Option<u64>,
    /// Only messages before this sequence.
    pub before: Option<u64>,
    /// Newest first.
    pub newest_first: bool,
}

/// The types of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChannelType {
    /// Anyone may join.
    #[default]
    General,
    /// Only its creator, the members its metadata names, and admins.
    Private,
    /// The system's own.
    System,
    /// Where private messages travel.
    Pm,
}

/// The parameters of `create_channel`.
#[derive(Debug, Clone)]
pub struct CreateChannel {
    /// Where; the channel is not `*`.
    pub address: Address,
    /// Of which type.
    pub channel_type: ChannelType,
    /// What the creator wants kept with it: a JSON object.
    pub metadata: Option<Box<RawValue>>,
    /// The client ids in `metadata.members`.
    pub members: Vec<Name>,
}

/// How a room differs from the server's defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RoomConfig {
    /// Messages kept for each of its channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_size: Option<u32>,
    /// Clients that may be in the room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member_limit: Option<u32>,
    /// Whether joining a channel that is not there makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub create_on_join: Option<bool>,
    /// Who may publish events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publishers: Option<Publishers>,
    /// What of it is kept beyond the life of the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub persist: Option<Persist>,
    /// When an event in it is acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ack_when: Option<AckWhen>,
}

macro_rules! words {
    ($(#[$outer:meta])* $enum:ident: $($(#[$doc:meta])* $name:ident = $word:literal,)+) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum $enum { $($(#[$doc])* $name,)+ }

        impl $enum {
            /// Every word, in the order of the table.
            pub const WORDS: &'static [&'static str] = &[$($word,)+];

            /// What a word means, if it means anything.
            pub fn parse(text: &str) -> Option<$enum> {
                match text { $($word => Some($enum::$name),)+ _ => None }
            }

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self { $($enum::$name => $word,)+ }
            }
        }
    };
}

words! {
    /// What of a room is kept beyond the life of the server.
    Persist:
    /// Nothing.
    None = "none",
    /// What was said in its channels, what a channel needs so that members can recover, and the
    /// room's settings.
    History = "history",
    /// Whether the room is paused, too.
    All = "all",
}

words! {
    /// When an event in a room that is kept is acknowledged.
    AckWhen:
    /// When it is stored.
    Stored = "stored",
    /// When it has its place, stored or not.
    Accepted = "accepted",
}

/// Who may publish events in a room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Publishers {
    /// Every member.
    Members,
    /// Admins alone.
    Admins,
    /// These clients, and admins.
    #[serde(untagged)]
    Clients(Vec<Name>),
}
