//! One room at its home: its channels, the people in it, and the order of what is sent to all.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnRef};
use crate::broker::channel::{Options, Spread};
use crate::broker::history::History;
use crate::broker::policy::ClientCard;
use crate::protocol::command::{Address, RoomConfig};
use crate::protocol::names::Name;
use std::collections::BTreeMap;
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
    /// In how many of the room's channels.
    pub channels: u32,
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

    /// Counts a client into one more channel, or into `*`.
    pub fn enter(&mut self, conn: ConnRef, client: &Arc<ClientCard>, channels: u32) -> &mut Person {
        self.is_awaited = false;
        let spread = &mut self.spread;
        let person = self.people.entry(conn).or_insert_with(|| {
            spread.add(conn.shard, false);
            Person { client: client.clone(), channels: 0, whole_room: None }
        });
        person.channels += channels;
        person
    }

    /// Forgets a client that is in none of the channels and not in `*`.
    pub fn forget_stranger(&mut self, conn: ConnRef) {
        let is_stranger = |person: &Person| person.channels == 0 && person.whole_room.is_none();
        if self.people.get(&conn).is_some_and(is_stranger) {
            self.people.remove(&conn);
            self.spread.remove(conn.shard, false);
        }
    }
}
