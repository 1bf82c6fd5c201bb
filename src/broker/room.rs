//! One room at its home: its channels, the people in it, and the order of what is sent to all.
//!
//! A client that joined `*` follows the room: it is a member of every channel that is open to the room
//! without being listed there, so a join of `*` takes the same memory however many channels there are.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::broker::channel::{Channel, Follows, Options, Spread};
use crate::broker::history::History;
use crate::broker::policy::ClientCard;
use crate::broker::presence::Pending;
use crate::protocol::command::{Address, RoomConfig};
use crate::protocol::names::Name;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

/// How a room came to be, and with that how it may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomType {
    /// Configured or hard-coded; stays.
    System,
    /// Made by a command; goes by a command.
    User,
    /// Made by a join; goes when nothing is left in it.
    Dynamic,
}

impl RoomType {
    /// The type as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            RoomType::System => "system",
            RoomType::User => "user",
            RoomType::Dynamic => "dynamic",
        }
    }
}

/// A client that is in a room.
#[derive(Clone, Debug)]
pub struct Person {
    /// Who.
    pub client: Arc<ClientCard>,
    /// The room's channels that list it as a member.
    pub channels: SmallVec<[ChannelId; 2]>,
    /// What it asked for when it joined `*`, if it did.
    pub whole_room: Option<Options>,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    /// The id under which events to `*` travel.
    pub id: ChannelId,
    /// The room and `*`.
    pub every: Arc<Address>,
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
    /// Its channels by name.
    pub channels: BTreeMap<Name, ChannelId>,
    /// The order of the events to `*`.
    pub history: History,
    /// Who is in it.
    pub people: Map<ConnRef, Person>,
    /// On which shards they are.
    pub spread: Spread,
    /// Those of them who joined `*`.
    pub followers: Followers,
    /// The channels with listed members who watch presence.
    pub watched: BTreeSet<ChannelId>,
    /// What followers have not been told yet of who joined and left `*`.
    pub presence: Option<Box<Pending>>,
    /// It was kept, a join had made it, and nobody has been in it in this life.
    pub is_awaited: bool,
}

impl Room {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.every.room
    }

    /// Whether events need a closer look: it is paused, or not everyone may publish.
    pub fn is_open(&self) -> bool {
        !self.paused && self.config.publishers.is_none()
    }

    /// Whether nothing is left that would keep a dynamic room.
    pub fn is_abandoned(&self) -> bool {
        let is_empty = self.channels.is_empty() && self.people.is_empty();
        self.room_type == RoomType::Dynamic && is_empty && !self.is_awaited
    }

    /// The client of a connection, which is in the room from now on.
    pub fn enter(&mut self, conn: ConnRef, client: &Arc<ClientCard>) -> &mut Person {
        self.is_awaited = false;
        let spread = &mut self.spread;
        self.people.entry(conn).or_insert_with(|| {
            spread.add(conn.shard, false);
            Person { client: client.clone(), channels: SmallVec::new(), whole_room: None }
        })
    }

    /// A channel no longer lists a client.
    pub fn leave(&mut self, conn: ConnRef, channel: ChannelId) {
        if let Some(person) = self.people.get_mut(&conn)
            && let Some(at) = person.channels.iter().position(|known| *known == channel)
        {
            person.channels.swap_remove(at);
            if person.channels.is_empty() {
                person.channels = SmallVec::new();
            }
        }
    }

    /// Makes a client a follower, gives one other options, or makes it none any more; gives its
    /// options before. It is in the room.
    pub fn follow(&mut self, conn: ConnRef, options: Option<Options>) -> Option<Options> {
        let person = self.people.get_mut(&conn)?;
        let before = std::mem::replace(&mut person.whole_room, options);
        let Followers { all, spread } = &mut self.followers;
        if let Some(before) = before {
            spread.remove(conn.shard, before.presence);
            all.remove(&conn);
        }
        if let Some(options) = options {
            spread.add(conn.shard, options.presence);
            all.insert(conn);
        }
        before
    }

    /// Notes whether a channel has listed members who watch presence.
    pub fn note_watched(&mut self, channel: &Channel) {
        match channel.spread().has_watchers() {
            true => _ = self.watched.insert(channel.id),
            false => _ = self.watched.remove(&channel.id),
        }
    }

    /// Whether a client follows the room.
    pub fn is_followed_by(&self, conn: ConnRef) -> bool {
        self.people.get(&conn).is_some_and(|person| person.whole_room.is_some())
    }

    /// Forgets a client that no channel lists and that does not follow the room; gives who it was.
    pub fn forget_stranger(&mut self, conn: ConnRef) -> Option<Arc<ClientCard>> {
        let person = self.people.get(&conn)?;
        if !person.channels.is_empty() || person.whole_room.is_some() {
            return None;
        }
        let person = self.people.remove(&conn)?;
        self.spread.remove(conn.shard, false);
        Some(person.client)
    }
}

/// The clients that joined `*`.
#[derive(Debug, Default)]
pub struct Followers {
    all: BTreeSet<ConnRef>,
    spread: Spread,
}

impl Followers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// On which shards they are.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// What the channels of the room know of those on a shard.
    pub fn follows(&self, shard: ShardId) -> Follows {
        self.spread.follows(shard)
    }

    /// Those behind a connection, in the order of connections.
    pub fn after(&self, conn: Option<ConnRef>) -> impl Iterator<Item = ConnRef> {
        let from = conn.map_or(Bound::Unbounded, Bound::Excluded);
        self.all.range((from, Bound::Unbounded)).copied()
    }
}
