//! What shards say to each other: asks to a home, tells to an edge. Both are closed enums.
//!
//! Messages of the hot path lie flat in their lane; all others are boxed, so that a slot of a lane
//! stays small.
//!
//! *Panics*: a home comes from the placement, so it is a shard of this node, whatever a client
//! names.

use crate::base::ids::{ChannelId, ConnId, ConnRef, ShardId};
use crate::base::limits::{LANE_STAGED_MAX, Limits};
use crate::broker::census::{Rows, RowsWanted};
use crate::broker::channel::Seen;
use crate::broker::peers::Peer;
use crate::broker::policy::{Access, ClientCard, Role};
use crate::broker::presence::Watchers;
use crate::broker::record::StorageNews;
use crate::broker::returning::Stake;
use crate::broker::staged::Staged;
use crate::protocol::command::{Address, CreateChannel, HistoryQuery, Join, RoomConfig};
use crate::protocol::fault::Refusal;
use crate::protocol::frame::{Draft, Frame};
use crate::protocol::names::Name;
use crate::protocol::page::PageQuery;
use crate::protocol::reply::Question;
use crate::protocol::views::{
    ChannelView, ChannelsView, ClientRow, Counts, HistoryView, JoinView, RoomRow, RoomView,
};
use std::sync::Arc;

/// What an edge asks of a home.
#[derive(Debug)]
pub enum Ask {
    /// Give an event its place and spread it.
    Publish(Publish),
    /// Give a client id to a connection, if it is free.
    Claim(Box<Claim>),
    /// A connection no longer has this client id.
    Release(Name, ConnRef),
    /// Make a client a member.
    Join(Box<JoinAsk>),
    /// Make a member a stranger.
    Leave(Box<LeaveAsk>),
    /// The client of a connection goes on by another one; the connection itself is gone with the next
    /// ask.
    HandOver(ConnRef),
    /// A connection is gone from every room of this home.
    Gone(ConnRef),
    /// Deliver to clients by their ids.
    Private(Box<PrivateAsk>),
    /// A private message was sent in this room: it has a channel for such from now on.
    EnsurePm(Name, Name),
    /// A question about, or a change of, one room.
    Room(Box<RoomAsk>),
    /// A question that every shard answers its part of.
    Survey(Box<Survey>),
    /// Close the connection of a client.
    Disconnect(Box<DisconnectAsk>),
    /// Where a traced message went on one shard.
    Traced(TraceReport),
    /// What the storage says to the home.
    Storage(Box<StorageNews>),
    /// The process is short of memory: give some up.
    Shed {
        /// The bytes of stored messages to delete, the largest histories first.
        history_bytes: u64,
        /// The bytes that connections hold to free, the heaviest connections first.
        client_bytes: u64,
    },
    /// New limits.
    Reconfigure(Arc<Limits>),
    /// Other web pages may connect.
    Admit(Box<Access>),
    /// Send every client away; the shard spreads the closes over this many milliseconds.
    Drain {
        /// The window over which the closes are spread.
        window_ms: u64,
    },
}

/// Which channel an event is for.
#[derive(Debug)]
pub enum Target {
    /// One the sender is joined to.
    Channel(ChannelId),
    /// One that the sender, or the server itself, names.
    Named(Box<Address>),
}

/// An event on its way to its home.
#[derive(Debug)]
pub struct Publish {
    /// For which channel.
    pub to: Target,
    /// The message.
    pub draft: Draft,
    /// Who sent it; `None` for the server.
    pub from: Option<ConnRef>,
    /// What the sender may do.
    pub role: Role,
    /// Whether the sender wants to know that it was accepted.
    pub ack: bool,
    /// The pending trace at the sender's edge.
    pub trace: Option<u32>,
}

/// A wish for a client id.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The id.
    pub client_id: Name,
    /// Who wants it.
    pub conn: ConnRef,
    /// Which session it is for: an earlier connection of the same one gives way.
    pub session: Option<Stake>,
    /// Whether a client returns to that session: it owns the id, whoever has it.
    pub returns: bool,
}

/// A wish to become a member.
#[derive(Debug)]
pub struct JoinAsk {
    /// Who.
    pub conn: ConnRef,
    /// As whom.
    pub client: Arc<ClientCard>,
    /// What it wants.
    pub join: Join,
    /// What is answered; `None` for a join that was part of connecting.
    pub question: Option<Question>,
    /// Whether it was joined by returning, and may still recover what it missed.
    pub has_returned: bool,
    /// How many channels more the client may be listed in, beside this one.
    pub joins_left: u32,
}

/// A wish to leave.
#[derive(Debug)]
pub struct LeaveAsk {
    /// Who.
    pub conn: ConnRef,
    /// What.
    pub address: Address,
    /// What is answered.
    pub question: Question,
}

/// A private message, for the targets whose directory entries are on one shard.
#[derive(Debug)]
pub struct PrivateAsk {
    /// Where the sender waits for the answer.
    pub reply_to: PendingRef,
    /// The targets.
    pub targets: Vec<Name>,
    /// The message.
    pub frame: Arc<Frame>,
}

/// A question or a change that concerns one room.
#[derive(Debug)]
pub struct RoomAsk {
    /// Who asks.
    pub conn: ConnRef,
    /// As whom.
    pub client: Arc<ClientCard>,
    /// What is answered.
    pub question: Question,
    /// What is wanted.
    pub wish: RoomWish,
}

/// What may be wanted of a room.
#[derive(Debug)]
pub enum RoomWish {
    /// Its channels.
    ListChannels(Name, PageQuery),
    /// One of its channels.
    ChannelInfo(Box<Address>, PageQuery),
    /// What was said in a channel.
    History(Box<HistoryQuery>),
    /// A new channel.
    CreateChannel(Box<CreateChannel>),
    /// One channel less.
    DeleteChannel(Address),
    /// A new room.
    CreateRoom(Name, RoomConfig),
    /// One room less.
    DeleteRoom(Name),
    /// No events, or events again.
    Pause(Name, bool),
    /// Something said to everyone in the room.
    Announce(Name, Arc<Frame>),
}

/// A pending answer at an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingRef {
    /// The edge.
    pub shard: ShardId,
    /// Its pending answer.
    pub pending: u32,
}

/// A question that every shard answers its part of.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Where the answers are gathered.
    pub reply_to: PendingRef,
    /// As whom it is asked.
    pub client: Arc<ClientCard>,
    /// What is asked.
    pub topic: Topic,
}

/// What may be asked of every shard.
#[derive(Debug, Clone)]
pub enum Topic {
    /// Counts.
    Status,
    /// The rooms the asker may see.
    Rooms(RowsWanted),
    /// The clients.
    Clients(RowsWanted),
    /// Nothing: something is said to every client of the shard.
    Announce(Arc<Frame>),
}

/// A shard's part of an answer.
#[derive(Debug)]
pub enum Part {
    /// Counts.
    Status(Box<Counts>),
    /// Its rooms.
    Rooms(Rows<RoomRow>),
    /// Its clients.
    Clients(Box<ClientsPart>),
    /// How many clients heard it.
    Announced(u64),
    /// The private message's targets that are not connected.
    Missing {
        /// They.
        targets: Vec<Name>,
        /// Whether they may be connected to nodes that can't be reached now.
        is_unsure: bool,
    },
}

/// The clients of one shard.
#[derive(Clone, Debug)]
pub struct ClientsPart {
    /// The first of them by name.
    pub rows: Rows<ClientRow>,
    /// The other nodes that are asked as well, if this shard has asked them.
    pub peers: Arc<Vec<Peer>>,
}

/// A wish to close a client's connection.
#[derive(Debug)]
pub struct DisconnectAsk {
    /// Whose.
    pub client_id: Name,
    /// What the client is told.
    pub reason: Option<String>,
    /// Who asks.
    pub conn: ConnRef,
    /// What is answered.
    pub question: Question,
}

/// Where a traced message went on one shard.
#[derive(Clone, Copy, Debug)]
pub struct TraceReport {
    /// The pending trace at the sender's edge, the receiver of this report.
    pub pending: u32,
    /// The shard that reports.
    pub shard: ShardId,
    /// When its sockets had it, on the monotonic clock.
    pub delivered_ns: u64,
    /// How many members there got it.
    pub members: u64,
}

/// What a home tells an edge.
#[derive(Debug)]
pub enum Tell {
    /// An event for the members of a channel on the receiving shard.
    Fanout(Fanout),
    /// An event was accepted.
    Accepted(Box<Accepted>),
    /// An event was refused.
    Refused(Box<RefusedEvent>),
    /// The answer to a claim.
    Claimed {
        /// Whose claim.
        conn: ConnId,
        /// Whether the id is theirs now.
        granted: bool,
        /// The life of their session that this begins, if they have one.
        life: u64,
    },
    /// A client became a member.
    Joined(Box<JoinedTell>),
    /// A channel was made, or is another now, in a room that clients of the shard follow.
    Opened(Box<OpenedTell>),
    /// Who came and went, for those of a channel's members, or of a room's followers, who watch.
    Presence(Box<PresenceTell>),
    /// A member became a stranger to these channels.
    Left(Box<LeftTell>),
    /// A member is none any more of a channel that does not let it in.
    Untied(ConnId, Arc<Address>),
    /// One frame for one connection: a private message.
    Deliver(ConnId, Arc<Frame>),
    /// One part of an answer.
    Part {
        /// The pending answer.
        pending: u32,
        /// Whose part.
        shard: ShardId,
        /// The part.
        part: Part,
    },
    /// The answer to a question.
    Answer(Box<Answer>),
    /// An admin closes a connection.
    Disconnect(ConnId, Option<String>),
    /// The session of a connection goes on in another one.
    Supersede(ConnId),
}

/// An event for the members on one shard.
#[derive(Clone, Debug)]
pub struct Fanout {
    /// The channel, or the room's `*`.
    pub channel: ChannelId,
    /// The message.
    pub frame: Arc<Frame>,
    /// Its sender, who gets it only with `echo`.
    pub from: Option<ConnRef>,
    /// Where to report to, if it is traced.
    pub trace: Option<PendingRef>,
}

/// An event was accepted.
#[derive(Debug)]
pub struct Accepted {
    /// Whose.
    pub conn: ConnId,
    /// The message, for its id and its address.
    pub frame: Arc<Frame>,
    /// Its place.
    pub sequence: u64,
    /// Whether it had been accepted before.
    pub duplicate: bool,
    /// If it is traced: the pending trace, when it was routed, and to how many shards.
    pub trace: Option<(u32, u64, u16)>,
    /// The channel it was sent to.
    pub address: Arc<Address>,
    /// Where that is at home.
    pub home: ShardId,
}

/// An event was refused.
#[derive(Debug)]
pub struct RefusedEvent {
    /// Whose.
    pub conn: ConnId,
    /// Which.
    pub question: Question,
    /// Why.
    pub refusal: Refusal,
    /// The pending trace that ends with this.
    pub trace: Option<u32>,
}

/// A client became a member.
#[derive(Debug)]
pub struct JoinedTell {
    /// Who.
    pub conn: ConnId,
    /// The room's own id, under which events to `*` come.
    pub room: ChannelId,
    /// What was asked for.
    pub join: Join,
    /// The channels it is a member of now: one, or all that `*` stands for.
    pub channels: Vec<Seen>,
    /// The answer.
    pub view: JoinView,
    /// What is answered; `None` for a join that was part of connecting.
    pub question: Option<Question>,
    /// What it missed, marked as replayed, in order.
    pub replay: Vec<Arc<Frame>>,
}

/// A channel was made in a room that clients of the shard follow. If it is open they are its members;
/// if it is private it lists some of them.
#[derive(Debug)]
pub struct OpenedTell {
    /// The channel.
    pub channel: Seen,
    /// The followers that it lists, if it is private.
    pub conns: Vec<ConnId>,
    /// The room's own id.
    pub room: ChannelId,
}

/// Notices of who came and went.
#[derive(Debug)]
pub struct PresenceTell {
    /// The channel, or the room's `*`.
    pub channel: ChannelId,
    /// The notices, in order; the same for all shards.
    pub notices: Arc<Vec<PresenceNotice>>,
}

/// A notice that a client came or went.
#[derive(Clone, Debug)]
pub struct PresenceNotice {
    /// The notice.
    pub frame: Arc<Frame>,
    /// Which watchers get it.
    pub to: Watchers,
    /// The connection that it is about, which does not get it.
    pub subject: Option<ConnRef>,
}

/// A client is no member any more.
#[derive(Debug)]
pub struct LeftTell {
    /// Who.
    pub conn: ConnId,
    /// What was left.
    pub address: Address,
    /// What is answered.
    pub question: Question,
}

/// An answer to one connection.
#[derive(Debug)]
pub struct Answer {
    /// Whose.
    pub conn: ConnId,
    /// To what.
    pub question: Question,
    /// Yes or no.
    pub outcome: Result<RoomAnswer, Refusal>,
}

/// What a home answers about its rooms and clients.
#[derive(Debug)]
pub enum RoomAnswer {
    /// The channels of a room.
    Channels(Box<ChannelsView>),
    /// A channel.
    Channel(Box<ChannelView>),
    /// A room.
    Room(Box<RoomView>),
    /// What was said.
    History(Box<HistoryView>),
    /// The channel is gone.
    ChannelDeleted(Address),
    /// The room is gone.
    RoomDeleted(Name),
    /// The client's connection is being closed.
    Disconnected(Name),
    /// How many clients hear it.
    Announced(u64),
}

/// Asks on their way out of one edge, one queue for each home, before they enter the lanes.
///
/// *Invariant*: a queue that [is full](Staged::is_full) grows only by what one message asks and by
/// what closing connections must say; whoever asks for a client looks at [`Asks::has_room`] first.
#[derive(Debug)]
pub struct Asks {
    staged: Vec<Staged<Ask>>,
    staged_max: usize,
}

impl Asks {
    /// Empty queues to `shards` homes.
    pub fn new(shards: u16) -> Asks {
        let staged = (0..shards).map(|_| Staged::default()).collect();
        Asks { staged, staged_max: LANE_STAGED_MAX }
    }

    /// Another bound than [`LANE_STAGED_MAX`]; for the simulator, whose queues shall be full often.
    pub fn set_staged_max(&mut self, staged_max: usize) {
        self.staged_max = staged_max;
    }

    /// Whether a client may ask something of this home now.
    pub fn has_room(&self, home: ShardId) -> bool {
        !self.staged[home.index()].is_full(self.staged_max)
    }

    /// The first home that has no room, if there is one.
    pub fn first_full(&self) -> Option<ShardId> {
        let full = self.staged.iter().position(|queue| queue.is_full(self.staged_max))?;
        Some(ShardId(full as u16))
    }

    /// Asks something of a home.
    pub fn push(&mut self, home: ShardId, ask: Ask) {
        self.staged[home.index()].push_back(ask);
    }

    /// What waits for a home's lane, to look at.
    pub fn waiting(&self, home: ShardId) -> &Staged<Ask> {
        &self.staged[home.index()]
    }

    /// What waits for a home's lane.
    pub fn queue(&mut self, home: ShardId) -> &mut Staged<Ask> {
        &mut self.staged[home.index()]
    }
}

const _: () = assert!(size_of::<Ask>() <= 128, "a slot of the ask lane is at most two cache lines");
const _: () = assert!(size_of::<Tell>() <= 64, "a slot of the tell lane is at most one cache line");
