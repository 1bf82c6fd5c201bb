//! What the commands answer: the entities of the data model as they look on the wire.
//!
//! Times are RFC 3339 in UTC with microseconds. Lists are sorted by name, so that two answers
//! about the same state are the same text.

use crate::protocol::command::{ChannelType, ClientType, Publishers, RoomConfig};
use crate::protocol::names::Name;
use crate::protocol::timestamp;
use serde::Serialize;
use serde::ser::Serializer;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Microseconds since 1970, written as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = timestamp::format(self.0);
        serializer.serialize_str(std::str::from_utf8(&text).unwrap_or_default())
    }
}

/// A client, as `list_clients` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ClientView {
    /// Its id.
    pub client_id: Name,
    /// Its kind.
    pub client_type: ClientType,
    /// What it may do.
    pub role: &'static str,
    /// `connected` until its first message, `active` from then on.
    pub state: &'static str,
    /// A name for people.
    pub screen_name: Option<String>,
    /// An avatar's URL or identifier.
    pub avatar: Option<String>,
    /// How an agent behaves.
    pub personality: Option<String>,
    /// When it connected.
    pub connected_at: Time,
    /// When it last sent a message.
    pub last_activity: Time,
    /// What it joined, as `room:channel`.
    pub subscriptions: Vec<String>,
    /// The node that it is connected to.
    pub node: Arc<str>,
    /// The shard that holds its connection.
    pub shard: u16,
}

/// A row of `list_clients`.
#[derive(Clone, Debug)]
pub enum ClientRow {
    /// A client of this node.
    Here(Box<ClientView>),
    /// A client of this node, of which only the id is wanted.
    Brief(Name),
    /// A client of another node, as that one has written it.
    Elsewhere(Name, Arc<RawValue>),
}

impl ClientRow {
    /// Whose row it is.
    pub fn client_id(&self) -> &Name {
        match self {
            ClientRow::Here(view) => &view.client_id,
            ClientRow::Brief(client_id) | ClientRow::Elsewhere(client_id, _) => client_id,
        }
    }

    /// How long it is as JSON, about.
    pub fn bytes(&self) -> usize {
        match self {
            ClientRow::Here(view) => {
                let texts = [&view.screen_name, &view.avatar, &view.personality];
                let texts: usize = texts.into_iter().flatten().map(String::len).sum();
                let subscriptions: usize =
                    view.subscriptions.iter().map(|text| text.len() + 3).sum();
                CLIENT_ROW_BYTES + texts + subscriptions
            }
            ClientRow::Brief(client_id) => client_id.len() + 3,
            ClientRow::Elsewhere(_, text) => text.get().len() + 1,
        }
    }
}

/// What a row of `list_clients` is long beside what its client said and joined.
pub const CLIENT_ROW_BYTES: usize = 420;
/// What a line of `list_channels` is long beside its name.
pub const CHANNEL_LINE_BYTES: usize = 170;
/// What a row of `list_rooms` is long beside its channels.
const ROOM_ROW_BYTES: usize = 300;

impl Serialize for ClientRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            ClientRow::Here(view) => view.serialize(serializer),
            ClientRow::Brief(client_id) => client_id.serialize(serializer),
            ClientRow::Elsewhere(_, text) => text.serialize(serializer),
        }
    }
}

/// A member of a channel, as `channel_info` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct ParticipantView {
    /// Its id.
    pub client_id: Name,
    /// Its kind.
    pub client_type: ClientType,
    /// A name for people.
    pub screen_name: Option<String>,
}

/// A room, as `list_rooms` and `create_room` show it.
#[derive(Clone, Debug, Serialize)]
pub struct RoomView {
    /// Its name.
    pub name: Name,
    /// `system`, `user` or `dynamic`.
    #[serde(rename = "type")]
    pub room_type: &'static str,
    /// `active` or `paused`.
    pub state: &'static str,
    /// The channels the asker may see.
    pub channels: Vec<Name>,
    /// When it was made.
    pub created_at: Time,
    /// By whom, if a client made it.
    pub created_by: Option<Name>,
    /// How it differs from the server's defaults.
    pub config: RoomConfig,
    /// Clients that are in at least one of its channels.
    pub participant_count: u64,
}

/// A row of `list_rooms`.
#[derive(Clone, Debug)]
pub enum RoomRow {
    /// All about it.
    Full(Box<RoomView>),
    /// Its name.
    Brief(Name),
}

impl RoomRow {
    /// The room.
    pub fn room(&self) -> &Name {
        match self {
            RoomRow::Full(view) => &view.name,
            RoomRow::Brief(name) => name,
        }
    }

    /// How long it is as JSON, about.
    pub fn bytes(&self) -> usize {
        match self {
            RoomRow::Full(view) => {
                let channels: usize = view.channels.iter().map(|name| name.len() + 3).sum();
                let publishers = match &view.config.publishers {
                    Some(Publishers::Clients(clients)) => {
                        clients.iter().map(|name| name.len() + 3).sum()
                    }
                    _ => 0,
                };
                ROOM_ROW_BYTES + channels + publishers
            }
            RoomRow::Brief(name) => name.len() + 3,
        }
    }
}

impl Serialize for RoomRow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            RoomRow::Full(view) => view.serialize(serializer),
            RoomRow::Brief(name) => name.serialize(serializer),
        }
    }
}

/// One line of `list_channels`.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelLine {
    /// Its name.
    pub name: Name,
    /// Its type.
    #[serde(rename = "type")]
    pub channel_type: ChannelType,
    /// How many members it has.
    pub participants: u64,
    /// When it was made.
    pub created_at: Time,
    /// Whether the system defined it.
    pub hardcoded: bool,
    /// Whether a join made it.
    pub auto_created: bool,
}

/// A page of the channels of a room.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelsView {
    /// The room.
    pub room: Name,
    /// The channels.
    pub channels: Vec<ChannelLine>,
    /// How many the asker may see.
    pub count: u64,
    /// Whether there are more behind these.
    pub more: bool,
    /// What the next page comes behind; `null` if there is none.
    pub cursor: Option<String>,
}

/// All about a channel.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelView {
    /// Its name.
    pub name: Name,
    /// Its room.
    pub room: Name,
    /// Its type.
    #[serde(rename = "type")]
    pub channel_type: ChannelType,
    /// `active`, or `empty` while nobody is in it; `private` if it is for private messages.
    pub state: &'static str,
    /// Its members; of many, one page.
    pub participants: Vec<ParticipantView>,
    /// How many members it has.
    pub participant_count: u64,
    /// What the next page of members comes behind; `null` if there is none.
    pub cursor: Option<String>,
    /// When it was made.
    pub created_at: Time,
    /// By whom, if a client made it.
    pub created_by: Option<Name>,
    /// What its creator wanted kept with it.
    pub metadata: Option<Arc<RawValue>>,
    /// Whether the system defined it.
    pub hardcoded: bool,
    /// Whether a join made it.
    pub auto_created: bool,
    /// What is kept of it; `null` for a channel without history.
    pub history: Option<HistorySpan>,
}

/// What is kept of a channel.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct HistorySpan {
    /// The life of the channel that the sequences belong to.
    pub epoch: String,
    /// The first sequence that is kept; `null` if none is.
    pub first_sequence: Option<u64>,
    /// The last sequence that was given; `null` if none was.
    pub last_sequence: Option<u64>,
    /// How many messages may be kept.
    pub size: u32,
}

/// The answer to `join_channel`.
#[derive(Clone, Debug, Serialize)]
pub struct JoinView {
    /// The room.
    pub room: Name,
    /// The channel, or `*`.
    pub channel: Name,
    /// The life of the channel that the sequence belongs to.
    pub epoch: String,
    /// The last sequence before the join.
    pub sequence: u64,
    /// How many members there are, the new one included.
    pub participants: u64,
    /// Whether the join made the channel.
    pub created: bool,
    /// Whether everything missed follows.
    pub recovered: bool,
    /// How many messages follow from history.
    pub missed: u64,
    /// Why nothing could be recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
    /// For `*`: the channels that are there now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelPosition>,
}

/// Where a channel's order stands.
#[derive(Clone, Debug, Serialize)]
pub struct ChannelPosition {
    /// The channel.
    pub channel: Name,
    /// Its epoch.
    pub epoch: String,
    /// Its last sequence.
    pub sequence: u64,
}

/// The answer to `history`.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryView {
    /// The room.
    pub room: Name,
    /// The channel.
    pub channel: Name,
    /// Whole envelopes, marked as replayed: the elements of a JSON array, which
    /// [`reply::page`](crate::protocol::reply::page) puts into its brackets.
    #[serde(serialize_with = "empty_list")]
    pub messages: String,
    /// The life of the channel that the sequences belong to.
    pub epoch: String,
    /// The first sequence of the answer.
    pub first: Option<u64>,
    /// The last sequence of the answer.
    pub last: Option<u64>,
    /// Whether more messages match.
    pub more: bool,
    /// Whether there may be messages that can't be read now; left out if not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

fn empty_list<S: Serializer>(_: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq([(); 0])
}

/// What one shard adds to the answer to `status`.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Clients connected to it.
    pub clients: u64,
    /// Rooms at home on it.
    pub rooms: u64,
    /// Channels at home on it.
    pub channels: u64,
    /// Messages received by it.
    pub messages_in: u64,
    /// Messages sent by it.
    pub messages_out: u64,
    /// How its storage does, if there is one beyond memory.
    pub storage: Option<StorageView>,
    /// The other nodes of the bus, if there may be any; from one shard.
    pub peers: Option<Vec<NodeView>>,
}

/// Another node of the bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeView {
    /// Its name.
    pub node: String,
    /// Clients connected to it.
    pub clients: u64,
}

/// How a storage does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StorageView {
    /// `ok`, or `degraded` while nothing can be stored.
    pub state: &'static str,
    /// Since when it is degraded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Why it is degraded: the latest cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// When that cause was last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_at: Option<Time>,
    /// Events that are not stored yet.
    pub pending: u64,
    /// Events that never will be.
    pub lost: u64,
}

impl StorageView {
    /// A storage that does well, or one that is degraded since then, for that reason, which was last
    /// seen then.
    pub fn new(degraded: Option<(Time, Arc<str>, Time)>, pending: u64, lost: u64) -> StorageView {
        let state = if degraded.is_some() { "degraded" } else { "ok" };
        let (since, reason, reason_at) = match degraded {
            Some((since, reason, at)) => (Some(since), Some(reason), Some(at)),
            None => (None, None, None),
        };
        StorageView { state, since, reason, reason_at, pending, lost }
    }

    /// What two shards say.
    pub fn plus(self, other: StorageView) -> StorageView {
        let (pending, lost) = (self.pending + other.pending, self.lost + other.lost);
        let since = [self.since, other.since].into_iter().flatten().min_by_key(|since| since.0);
        let causes = [(self.reason, self.reason_at), (other.reason, other.reason_at)];
        let causes = causes.into_iter().filter_map(|(reason, at)| reason.zip(at));
        let latest = causes.max_by_key(|(_, at)| at.0);
        let degraded = since.zip(latest).map(|(since, (reason, at))| (since, reason, at));
        StorageView::new(degraded, pending, lost)
    }
}

/// The answer to `status`.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// What runs.
    pub server: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The node's name.
    pub node: String,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Worker threads.
    pub shards: u16,
    /// Connected clients.
    pub clients: u64,
    /// Rooms.
    pub rooms: u64,
    /// Channels.
    pub channels: u64,
    /// Messages received from clients.
    pub messages_in: u64,
    /// Messages sent to clients.
    pub messages_out: u64,
    /// Where history is kept.
    pub storage: &'static str,
    /// How that does, if it is not memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_state: Option<StorageView>,
    /// The other nodes of the bus; their clients are counted above, their messages are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<NodeView>>,
    /// Shards that did not answer in time; their share is missing above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unanswered_shards: Vec<u16>,
}

/// One step of a traced message.
#[derive(Clone, Debug, Serialize)]
pub struct Hop {
    /// `parsed`, `routed` or `delivered`.
    pub at: &'static str,
    /// The shard it happened on.
    pub shard: u16,
    /// Nanoseconds since the message was received.
    pub ns: u64,
    /// How many got it, for `delivered`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<u64>,
}

/// The answer to an event that asked for one.
#[derive(Clone, Debug, Serialize)]
pub struct AckView {
    /// The event's place in its channel.
    pub sequence: u64,
    /// Whether it had been accepted before.
    pub duplicate: bool,
    /// Which way it went, if it was traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Vec<Hop>>,
    /// How many members got it, if it was traced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    /// If it was traced, how many shards have not reported in time.
    #[serde(skip_serializing_if = "is_zero")]
    pub unreported: u64,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}
