//! What the homes of several nodes say to each other, through the storage that they share.
//!
//! The nodes that share a storage are one bus; to each other they are **peers**. On such a bus the
//! storage gives the sequences: a home hands over a [`Submission`], and its members get the event
//! when it comes back as an [`Arrival`], in the one order of all nodes. A home follows a channel
//! ([`PeerRecord::Attach`]) while it has members of it, and hears nothing of the events of others.
//!
//! Who is a member where, and which client ids are taken, every home is told: so a question about a
//! channel is answered by its home at once, on whichever node.
//!
//! *Invariants*: the submissions of a home have tickets that grow, none of which is given twice; each
//! of them is told as placed or as lost, unless the process ends; what arrives of a channel is the next of its order, or [`PeerNews::Attached`] comes before it.

use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::broker::census::RowsWanted;
use crate::broker::lane::{ClientsPart, PendingRef};
use crate::broker::policy::ClientCard;
use crate::broker::record::{ChannelRecord, Keep, KeptChannel, RoomRecord};
use crate::broker::returning::Stake;
use crate::protocol::command::Address;
use crate::protocol::frame::{Draft, Frame};
use crate::protocol::names::Name;
use std::sync::Arc;

/// Another node, as long as it lives; never used for a second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// To which homes news go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// That of a shard.
    Shard(ShardId),
    /// That of a room.
    Room(Name),
    /// That of a client id.
    Client(Name),
    /// All.
    All,
}

/// What a home asks of the storage that it shares.
#[derive(Clone, Debug)]
pub enum PeerRecord {
    /// Members of the channel are here, or about to come: follow it.
    Attach(Box<Attach>),
    /// Nobody here needs it any more.
    Detach(ChannelId, Arc<Address>),
    /// An event is to be given its place.
    Submit(Box<Submission>),
    /// The home gave places of its own to what it submits from here on, as nothing could be stored;
    /// its members have seen them under sequences after `base`, which others may have given as well.
    /// Before what follows is placed, the channel's term ends at `base` at the latest.
    Fork {
        /// The channel's id in this process.
        channel: ChannelId,
        /// The channel's names.
        address: Arc<Address>,
        /// The life that its sequences belong to.
        life: Arc<str>,
        /// The last sequence that came from the storage.
        base: u64,
    },
    /// A client of this node is a member of a channel now, or is not any more. The channel `*` says
    /// that it joined the whole room; the channels that it is in by that are told one by one as well.
    Member {
        /// The channel.
        address: Arc<Address>,
        /// The client.
        client: Arc<ClientCard>,
        /// Whether it is one now.
        is_member: bool,
    },
    /// A connection of this node wants a client id, for this session if it has one.
    Claim(Name, ConnRef, Option<Stake>),
    /// A client id of this node is free again.
    Release(Name),
    /// Something for one peer.
    Send(PeerId, PeerNote),
    /// Something for all peers.
    SendAll(PeerNote),
}

/// A wish to follow a channel.
#[derive(Clone, Debug)]
pub struct Attach {
    /// Its id in this process.
    pub channel: ChannelId,
    /// What it shall be if it is not there.
    pub record: ChannelRecord,
    /// How much of it is kept.
    pub keep: Keep,
    /// The messages that its history holds at most.
    pub messages: u32,
    /// Their bytes.
    pub bytes: u64,
}

/// An event that is to be given its place.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The channel's id in this process.
    pub channel: ChannelId,
    /// The channel's names.
    pub address: Arc<Address>,
    /// The life that its sequence shall belong to.
    pub life: Arc<str>,
    /// Its number among those of this home.
    pub ticket: u64,
    /// The last sequence of the channel that its home had seen: among those after it an event of the
    /// same sender and id may be, and then this one is a repeat.
    pub seen: u64,
    /// The message without its sequence and its time.
    pub draft: Arc<Draft>,
    /// The time that it was received at, in microseconds since 1970.
    pub at_us: u64,
    /// How much of the channel is kept.
    pub keep: Keep,
}

/// Something for the clients of another node.
#[derive(Clone, Debug)]
pub enum PeerNote {
    /// A private message.
    Private {
        /// For whom.
        targets: Vec<Name>,
        /// The message.
        frame: Arc<Frame>,
    },
    /// Something that is said to everyone, or to everyone in a room.
    Announce {
        /// The room.
        room: Option<Name>,
        /// What is said.
        frame: Arc<Frame>,
    },
    /// Close the connection of a client.
    Disconnect {
        /// Whose.
        client_id: Name,
        /// What it is told.
        reason: Option<String>,
    },
    /// A channel, or with `*` a room, is to be deleted: who does not need it shall not follow it.
    LetGo(Arc<Address>),
    /// Say which clients there are; every shard does.
    AskClients {
        /// Where the answers are gathered, on the node that asks.
        reply_to: PendingRef,
        /// Which; the bytes are those of all answers of one node together.
        rows: RowsWanted,
    },
    /// The answer of one shard.
    Clients(Box<PeerClients>),
}

/// The clients of one shard of a peer.
#[derive(Clone, Debug)]
pub struct PeerClients {
    /// Where the answers are gathered.
    pub reply_to: PendingRef,
    /// Which shard.
    pub shard: u16,
    /// How many shards the peer has.
    pub shards: u16,
    /// Its clients.
    pub part: ClientsPart,
}

/// What a home is told by the storage that it shares.
#[derive(Clone, Debug)]
pub enum PeerNews {
    /// A channel is followed, from what is kept of it; once more, if what the home has of it is not
    /// what is kept, or if more was missed than is kept.
    Attached {
        /// The channel.
        channel: ChannelId,
        /// What is kept of it.
        kept: Arc<KeptChannel>,
        /// Whether it was not there before.
        is_new: bool,
    },
    /// Submissions have got their places.
    Placed {
        /// The channel.
        channel: ChannelId,
        /// In the order of their tickets.
        places: Vec<Place>,
    },
    /// Events that follow the last one that the home was told, without a hole.
    Arrived {
        /// The channel.
        channel: ChannelId,
        /// In the order of their sequences.
        events: Vec<Arrival>,
    },
    /// The order of a channel goes on in another term.
    Term {
        /// The channel.
        channel: ChannelId,
        /// The term.
        term: u32,
        /// The terms before it, oldest first, each with the last sequence of it that is sure.
        past: Vec<(u32, u64)>,
    },
    /// A room is there, or is another than it was.
    Room(Box<RoomRecord>),
    /// A room is gone.
    RoomGone(Name),
    /// A channel is there.
    Channel(Box<ChannelRecord>),
    /// A channel is gone.
    ChannelGone(Arc<Address>),
    /// What this node has said to be gone is gone for all; or it is not, as another node follows it.
    Deleted {
        /// The channel; `*` is the room.
        address: Arc<Address>,
        /// Whether it is gone.
        is_gone: bool,
    },
    /// The answer to a claim; or that it does not hold any more.
    Claimed {
        /// The client id.
        client_id: Name,
        /// Who claimed it.
        conn: ConnRef,
        /// Whether it is theirs.
        verdict: Verdict,
    },
    /// A client of a peer is a member of a channel now, or is not any more.
    Member {
        /// Where it is connected.
        peer: PeerId,
        /// The channel.
        address: Arc<Address>,
        /// The client.
        client: Arc<ClientCard>,
        /// Whether it is one now.
        is_member: bool,
    },
    /// A client id is connected to a peer now, or is not any more.
    Client {
        /// The peer.
        peer: PeerId,
        /// The client id.
        client_id: Name,
        /// Whether it is connected.
        is_connected: bool,
    },
    /// A peer is gone, and with it all its clients.
    PeerGone(PeerId),
    /// Which peers there are.
    Peers(Arc<Vec<Peer>>),
    /// Something for the clients of this node.
    Note(PeerNote),
    /// A peer asks which clients there are.
    AskClients {
        /// Who asks.
        peer: PeerId,
        /// Where the answers are gathered there.
        reply_to: PendingRef,
        /// Which; the bytes are those of all answers of this node together.
        rows: RowsWanted,
    },
    /// What a shard of a peer answers.
    Clients(PeerId, Box<PeerClients>),
}

/// What is decided of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The id is this node's.
    Granted,
    /// Another node has it.
    Taken,
    /// Another node has it, for the same session in a later life.
    Superseded,
}

/// The place that a submission got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which submission.
    pub ticket: u64,
    /// Its sequence; of a repeat that of the first.
    pub sequence: u64,
    /// Whether it is a repeat.
    pub is_duplicate: bool,
}

/// An event with its place.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The message.
    pub frame: Arc<Frame>,
    /// If it came from this node: its ticket.
    pub ticket: Option<u64>,
}

/// Another node, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Which.
    pub id: PeerId,
    /// The name that it was given.
    pub node: String,
    /// How many clients it has.
    pub clients: u64,
}
