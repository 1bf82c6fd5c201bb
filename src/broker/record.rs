//! What a home wants kept beyond its life, and what it is told of it.
//!
//! A home makes [`Record`]s as it goes; a storage takes them in order, for each channel, and says
//! what is safe ([`StorageNews`]). Neither ever waits for the other: what the storage does not take
//! now, the home's shard offers again, and what nobody can keep any more is named as lost.
//!
//! *Invariants*: the records of one channel leave its home in the order of their sequence, its
//! [`Record::Channel`] before its first event; a record says all there is to know of its subject,
//! so a later one replaces an earlier one.

use crate::base::ids::{ChannelId, ConnId};
use crate::broker::late::{KeptRoom, Merged};
use crate::broker::peers::{PeerNews, PeerRecord};
use crate::broker::returning::{Recalled, SessionRecord};
use crate::broker::room::RoomType;
use crate::protocol::command::{Address, ChannelType, RoomConfig};
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use serde_json::value::RawValue;
use std::sync::Arc;

/// Something to be kept.
#[derive(Clone, Debug)]
pub enum Record {
    /// A room as it is now.
    Room(Box<RoomRecord>),
    /// A room is gone, and with it what was kept of it.
    RoomGone(Name),
    /// A channel as it is now.
    Channel(Box<ChannelRecord>),
    /// A channel is gone, and with it what was kept of it.
    ChannelGone(Arc<Address>),
    /// An event with its place in its channel.
    Event(EventRecord),
    /// A room that was read late has been put together with what was made and said meanwhile.
    Merged(Box<Merged>),
    /// What only a storage that several nodes share is asked.
    Peer(Box<PeerRecord>),
    /// A session of a client, from its edge.
    Session(SessionRecord),
}

impl Record {
    /// Whether it is an event: of those there may be any number, and they alone may be lost.
    pub fn is_event(&self) -> bool {
        match self {
            Record::Event(_) => true,
            Record::Peer(record) => matches!(**record, PeerRecord::Submit(_)),
            _ => false,
        }
    }
}

/// A room as it is kept.
#[derive(Clone, Debug)]
pub struct RoomRecord {
    /// Its name.
    pub name: Name,
    /// How it came to be.
    pub room_type: RoomType,
    /// Whether it refuses events.
    pub paused: bool,
    /// When it was made, in microseconds since 1970.
    pub created_us: u64,
    /// By whom, if a client made it.
    pub created_by: Option<Name>,
    /// How it differs from the server's defaults.
    pub config: RoomConfig,
}

/// A channel as it is kept; the channel `*` stands for the order of a whole room.
#[derive(Clone, Debug)]
pub struct ChannelRecord {
    /// Its names.
    pub address: Arc<Address>,
    /// The life that its sequences belong to.
    pub epoch: Arc<str>,
    /// The term in which its sequences are given now: another one for each home that went on with
    /// this life, because what an earlier home said last may not have been kept. 0 is the first.
    pub term: u32,
    /// The terms before it, oldest first, each with the last sequence of it that was kept.
    pub past: Vec<(u32, u64)>,
    /// Its type.
    pub channel_type: ChannelType,
    /// When it was made, in microseconds since 1970.
    pub created_us: u64,
    /// By whom, if a client made it.
    pub created_by: Option<Name>,
    /// What its creator wanted kept with it.
    pub metadata: Option<Arc<RawValue>>,
    /// The clients a private channel is for.
    pub guests: Vec<Name>,
    /// Whether a join made it.
    pub auto_created: bool,
}

/// An event as it is kept.
#[derive(Clone, Debug)]
pub struct EventRecord {
    /// The channel's id in this process, by which news of it finds its home.
    pub channel: ChannelId,
    /// The channel's names.
    pub address: Arc<Address>,
    /// The life that its sequence belongs to.
    pub epoch: Arc<str>,
    /// The message, with its sequence and its time.
    pub frame: Arc<Frame>,
    /// How much of the channel is kept.
    pub keep: Keep,
}

/// How much of a channel is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// No more messages than this.
    pub messages: u32,
    /// Nothing older than this, in milliseconds; 0 is no limit.
    pub age_ms: u64,
    /// No more bytes of memory than this, but for the newest message; 0 is no limit.
    pub bytes: u64,
}

impl Keep {
    /// The time before which nothing is kept, if it is `now_ms`; 0 if everything is.
    pub fn oldest_ms(&self, now_ms: u64) -> u64 {
        match self.age_ms {
            0 => 0,
            age_ms => now_ms.saturating_sub(age_ms),
        }
    }
}

/// What a home is told by its storage.
#[derive(Clone, Debug)]
pub enum StorageNews {
    /// Events of these channels are safe up to these sequences.
    Stored(Vec<(ChannelId, u64)>),
    /// Nothing can be stored now; the reason in words for a person.
    Degraded(Arc<str>),
    /// Still nothing can be stored, for this reason by now.
    Cause(Arc<str>),
    /// Nothing will be stored any more by this process, for this reason: it has to end.
    Ended(Arc<str>),
    /// What was kept back is stored, and storing goes on.
    Restored,
    /// These events of a channel will never be stored: there was no room left to keep them back.
    Lost {
        /// Whose.
        channel: ChannelId,
        /// The first sequence.
        first: u64,
        /// The last sequence.
        last: u64,
    },
    /// These events of a channel were stored or lost, and the storage does not have them any more.
    Forgotten {
        /// Whose.
        channel: ChannelId,
        /// The first sequence.
        first: u64,
        /// The last sequence.
        last: u64,
    },
    /// What was kept of a room and could not be read when the node started. The home answers with
    /// [`Record::Merged`]. Nothing was stored before, as was told.
    Late(Box<KeptRoom>),
    /// The storage has forgotten whatever it had stored, of all channels.
    AllForgotten,
    /// What only a storage that several nodes share has to say.
    Peer(PeerNews),
    /// What is kept of the session that a connection of this shard asked for.
    Session(ConnId, Recalled),
}

/// All that is kept, for a node that starts.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The rooms.
    pub rooms: Vec<RoomRecord>,
    /// The channels, `*` among them.
    pub channels: Vec<KeptChannel>,
    /// Whether it could not be read, so that what is kept is not known yet.
    pub is_unread: bool,
}

/// A channel that was kept, with the end of its order.
#[derive(Clone, Debug)]
pub struct KeptChannel {
    /// The channel.
    pub record: ChannelRecord,
    /// The last sequence given; 0 if none was.
    pub last: u64,
    /// The time of the last event, in microseconds since 1970.
    pub last_us: u64,
    /// The newest messages of this epoch, oldest first, without a hole, the last one being `last`;
    /// fewer than were stored if they are more than a history holds.
    pub messages: Vec<Arc<Frame>>,
}
