//! One channel at its home: its order, its members, and on which shards they are.
//!
//! Clients that joined `*` are **followers** of the room. A channel that is open to its room does not
//! list them: the room does ([`Room::followers`](crate::broker::room::Room::followers)), and the channel
//! only knows on which shards they are. A private channel lists the followers that it admits.
//!
//! *Panics*: an index is the place at which a row was just found or inserted.

use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::base::prefetch::prefetch;
use crate::broker::history::History;
use crate::broker::members::Members;
use crate::broker::policy::{self, ClientCard, Role};
use crate::broker::presence::Pending;
use crate::broker::telemetry::Place;
use crate::protocol::command::{Address, ChannelType};
use crate::protocol::names::Name;
use crate::protocol::views::{ChannelLine, ChannelView, Time};
use serde_json::value::RawValue;
use smallvec::SmallVec;
use std::sync::Arc;

/// What a member asked for when it joined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its own events, too.
    pub echo: bool,
    /// Who comes and goes.
    pub presence: bool,
}

/// How a client became a listed member: by the channel's name; of a private channel also by the room's `*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ties {
    /// By name.
    pub named: Option<Options>,
    /// By `*`.
    pub whole_room: Option<Options>,
}

impl Ties {
    /// What counts: what was asked for by name comes first.
    pub fn options(self) -> Option<Options> {
        self.named.or(self.whole_room)
    }

    /// Whether it was asked for by name that the member's own events come back.
    pub fn echoes_by_name(self) -> bool {
        self.named.is_some_and(|options| options.echo)
    }

    fn watches(self) -> bool {
        self.options().is_some_and(|options| options.presence)
    }
}

/// A client in a channel.
#[derive(Clone, Debug)]
pub struct Member {
    /// Who.
    pub client: Arc<ClientCard>,
    /// How.
    pub ties: Ties,
}

/// What the edges of its members know of a channel.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its id.
    pub channel: ChannelId,
    /// Its names.
    pub address: Arc<Address>,
    /// Whether it is private.
    pub is_private: bool,
}

/// How many members each shard has.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    rows: SmallVec<[SpreadRow; 2]>,
}

#[derive(Clone, Copy, Debug)]
struct SpreadRow {
    shard: ShardId,
    /// Listed members.
    members: u32,
    /// Listed members that watch presence.
    watchers: u32,
    /// Whether followers of the room are there.
    follows: Follows,
}

/// What the followers of a room on one shard get of its channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Follows {
    /// Events: there is at least one follower.
    pub events: bool,
    /// Presence: at least one of them watches it.
    pub presence: bool,
}

/// A channel.
#[derive(Debug)]
pub struct Channel {
    /// Its id.
    pub id: ChannelId,
    /// Its names.
    pub address: Arc<Address>,
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
    /// Whether the system defined it.
    pub hardcoded: bool,
    /// Whether a join made it.
    pub auto_created: bool,
    /// Whether events need no look at the room: it is neither paused nor restricted.
    pub open: bool,
    /// Its order.
    pub history: History,
    /// When it became empty, on the monotonic clock in milliseconds.
    pub empty_since_ms: Option<u64>,
    /// It was kept, a join had made it, and nobody has joined it in this life.
    pub is_awaited: bool,
    /// Whether the home will look at it again for having been empty too long.
    pub expiry_noted: bool,
    /// What the home has not told yet of who came and went, and whom it may tell again when.
    pub presence: Option<Box<Pending>>,
    /// Listed members; followers of the room are not listed where the channel is open to it.
    members: Members,
    /// How many listed members follow the room as well. 0 where the channel is not open to it.
    following: u32,
    spread: Spread,
}

impl Channel {
    /// A channel without members.
    pub fn new(id: ChannelId, address: Address, history: History) -> Channel {
        Channel {
            id,
            address: Arc::new(address),
            channel_type: ChannelType::General,
            created_us: 0,
            created_by: None,
            metadata: None,
            guests: Vec::new(),
            hardcoded: false,
            auto_created: false,
            open: true,
            history,
            empty_since_ms: None,
            is_awaited: false,
            expiry_noted: false,
            presence: None,
            members: Members::default(),
            following: 0,
            spread: Spread::default(),
        }
    }

    /// Whether the client may see and join it.
    pub fn admits(&self, client: &ClientCard) -> bool {
        self.admits_as(client.role, &client.client_id)
    }

    /// Whether a client of that role and id may see and join it.
    pub fn admits_as(&self, role: Role, client_id: &str) -> bool {
        let creator = self.created_by.as_ref();
        policy::may_enter((role, client_id), self.channel_type, creator, &self.guests)
    }

    /// What telemetry may tell of where it is.
    pub fn place(&self) -> Place {
        Place::of(&self.address, self.channel_type)
    }

    /// What an edge knows of it.
    pub fn seen(&self) -> Seen {
        let is_private = self.channel_type == ChannelType::Private;
        Seen { channel: self.id, address: self.address.clone(), is_private }
    }

    /// Whether the followers of its room are members without being listed.
    pub fn is_open_to_room(&self) -> bool {
        matches!(self.channel_type, ChannelType::General | ChannelType::System)
    }

    /// The listed member of that connection.
    pub fn listed(&self, conn: ConnRef) -> Option<&Member> {
        self.members.get(conn)
    }

    /// The members that may not be in it, in order.
    pub fn strangers(&self) -> Vec<(ConnRef, Arc<ClientCard>)> {
        let members = self.members.iter().filter(|(_, member)| !self.admits(&member.client));
        let mut strangers: Vec<_> =
            members.map(|(conn, member)| (*conn, member.client.clone())).collect();
        strangers.sort_unstable_by_key(|(conn, _)| *conn);
        strangers
    }

    /// How many listed members there are.
    pub fn listed_count(&self) -> usize {
        self.members.len()
    }

    /// Listed members after a connection, in the order of connections.
    pub fn listed_after(
        &self,
        after: Option<ConnRef>,
    ) -> impl Iterator<Item = (&ConnRef, &Member)> {
        self.members.after(after)
    }

    /// How many members there are, where the room has so many followers.
    pub fn member_count(&self, followers: usize) -> usize {
        match self.is_open_to_room() {
            true => self.members.len() + followers - self.following as usize,
            false => self.members.len(),
        }
    }

    /// Counts a listed member that follows the room from now on, or does not any more.
    pub fn count_following(&mut self, conn: ConnRef, follows: bool) {
        if self.is_open_to_room() && self.members.get(conn).is_some() {
            match follows {
                true => self.following += 1,
                false => self.following -= 1,
            }
        }
    }

    /// Counts anew how many listed members follow the room.
    pub fn recount_following(&mut self, follows: impl Fn(ConnRef) -> bool) {
        let open = self.is_open_to_room();
        let listed = self.members.iter().filter(|(conn, _)| open && follows(**conn));
        self.following = listed.count() as u32;
    }

    /// The followers of its room are members no more.
    pub fn close_to_room(&mut self) {
        self.following = 0;
        let shards: Vec<ShardId> = self.spread.shards().collect();
        shards.into_iter().for_each(|shard| self.set_follows(shard, Follows::default()));
    }

    /// Sets which followers of its room a shard has.
    pub fn set_follows(&mut self, shard: ShardId, follows: Follows) {
        self.spread.set_follows(shard, follows);
    }

    /// On which shards they are.
    pub fn spread(&self) -> &Spread {
        &self.spread
    }

    /// Looks ahead to an event: fetches what it will touch.
    pub fn prefetch_event(&self) {
        prefetch(&self.history);
        prefetch(&self.spread);
        prefetch(&self.open);
    }

    /// Adds ties to a connection; true if it was no member before.
    pub fn tie(&mut self, conn: ConnRef, client: &Arc<ClientCard>, ties: Ties) -> bool {
        let before = self.members.get(conn).map(|member| member.ties);
        let now = before.unwrap_or_default();
        let now = Ties {
            named: ties.named.or(now.named),
            whole_room: ties.whole_room.or(now.whole_room),
        };
        self.set(conn, client, before, Some(now));
        before.is_none()
    }

    /// Takes one kind of tie, or all, from a listed member; true if it is not listed any more.
    /// `follows` says whether it follows the room.
    pub fn untie(
        &mut self,
        conn: ConnRef,
        (named, whole_room): (bool, bool),
        follows: bool,
    ) -> bool {
        let Some(member) = self.members.get(conn) else { return false };
        let (client, before) = (member.client.clone(), member.ties);
        let left = Ties {
            named: before.named.filter(|_| !named),
            whole_room: before.whole_room.filter(|_| !whole_room),
        };
        let left = left.options().is_some().then_some(left);
        if left.is_none() && follows {
            self.count_following(conn, false);
        }
        self.set(conn, &client, Some(before), left);
        left.is_none()
    }

    /// The line of it in a list, with so many members.
    pub fn line(&self, participants: u64) -> ChannelLine {
        ChannelLine {
            name: self.address.channel.clone(),
            channel_type: self.channel_type,
            participants,
            created_at: Time(self.created_us),
            hardcoded: self.hardcoded,
            auto_created: self.auto_created,
        }
    }

    /// All about it but its participants, of whom there are so many.
    pub fn view(&self, participant_count: u64) -> ChannelView {
        ChannelView {
            name: self.address.channel.clone(),
            room: self.address.room.clone(),
            channel_type: self.channel_type,
            state: match self.channel_type {
                ChannelType::Pm => "private",
                _ if participant_count == 0 => "empty",
                _ => "active",
            },
            participants: Vec::new(),
            participant_count,
            cursor: None,
            created_at: Time(self.created_us),
            created_by: self.created_by.clone(),
            metadata: self.metadata.clone(),
            hardcoded: self.hardcoded,
            auto_created: self.auto_created,
            history: (self.channel_type != ChannelType::Pm).then(|| self.history.span()),
        }
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        self.history.check();
        let total: u32 = self.spread.rows.iter().map(|row| row.members).sum();
        assert_eq!(total as usize, self.members.len(), "the spread counts every member once");
        for row in &self.spread.rows {
            let on_shard = |(conn, _): &(&ConnRef, &Member)| conn.shard == row.shard;
            assert_eq!(self.members.iter().filter(on_shard).count(), row.members as usize);
            assert!(row.is_needed(), "a shard without members has no row");
        }
        let watchers: u32 = self.spread.rows.iter().map(|row| row.watchers).sum();
        let watching = self.members.iter().filter(|(_, member)| member.ties.watches()).count();
        assert_eq!(watchers as usize, watching, "the spread counts every watcher once");
    }

    /// Asserts that it knows the followers of its room: how many of its members they are, and where
    /// they are; for tests and the simulator.
    pub fn check_followers(&self, is_follower: impl Fn(&ConnRef) -> bool, room: &Spread) {
        let open = self.is_open_to_room();
        let following = self.members.iter().filter(|(conn, _)| open && is_follower(conn)).count();
        assert_eq!(following, self.following as usize, "followers among members are counted");
        let by_name = |(_, member): (&ConnRef, &Member)| member.ties.whole_room.is_none();
        assert!(!open || self.members.iter().all(by_name), "the room lists its followers");
        let rows = self.spread.rows.iter().filter(|row| row.follows.events).count();
        let expected = if open { room.rows.len() } else { 0 };
        assert_eq!(rows, expected, "the shards of followers are known");
        for row in self.spread.rows.iter().filter(|row| row.follows.events) {
            assert_eq!(row.follows, room.follows(row.shard));
        }
    }

    fn set(
        &mut self,
        conn: ConnRef,
        client: &Arc<ClientCard>,
        before: Option<Ties>,
        after: Option<Ties>,
    ) {
        if let Some(ties) = before {
            self.spread.remove(conn.shard, ties.watches());
        }
        match after {
            Some(ties) => {
                self.spread.add(conn.shard, ties.watches());
                self.members.insert(conn, Member { client: client.clone(), ties });
            }
            None => {
                self.members.remove(conn);
            }
        }
    }
}

impl Spread {
    /// The shards that have members.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardId> + '_ {
        self.rows.iter().map(|row| row.shard)
    }

    /// The shards that have listed members, or followers of the room, who watch presence.
    pub fn watching_shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        let watches = |row: &&SpreadRow| row.watchers > 0 || row.follows.presence;
        self.rows.iter().filter(watches).map(|row| row.shard)
    }

    /// Whether a listed member watches presence.
    pub fn has_watchers(&self) -> bool {
        self.rows.iter().any(|row| row.watchers > 0)
    }

    /// Whether a listed member, or a follower of the room, watches presence.
    pub fn is_watched(&self) -> bool {
        self.watching_shards().next().is_some()
    }

    /// How many listed members watch presence.
    pub fn watcher_count(&self) -> u32 {
        self.rows.iter().map(|row| row.watchers).sum()
    }

    /// Counts one more member.
    pub fn add(&mut self, shard: ShardId, watches: bool) {
        let row = self.row_mut(shard);
        row.members += 1;
        row.watchers += u32::from(watches);
    }

    /// Counts one member less.
    pub fn remove(&mut self, shard: ShardId, watches: bool) {
        let Some(at) = self.rows.iter().position(|row| row.shard == shard) else { return };
        let row = &mut self.rows[at];
        row.members -= 1;
        row.watchers -= u32::from(watches);
        self.forget_unneeded(at);
    }

    /// What the members of a shard get as followers of a room, if these are the followers of one.
    pub fn follows(&self, shard: ShardId) -> Follows {
        let row = self.rows.iter().find(|row| row.shard == shard);
        row.map_or_else(Follows::default, |row| Follows {
            events: row.members > 0,
            presence: row.watchers > 0,
        })
    }

    fn set_follows(&mut self, shard: ShardId, follows: Follows) {
        let at = self.rows.iter().position(|row| row.shard == shard);
        if at.is_some() || follows.events {
            self.row_mut(shard).follows = follows;
        }
        if let Some(at) = at {
            self.forget_unneeded(at);
        }
    }

    fn row_mut(&mut self, shard: ShardId) -> &mut SpreadRow {
        let at = self.rows.iter().position(|row| row.shard == shard).unwrap_or_else(|| {
            let follows = Follows::default();
            self.rows.push(SpreadRow { shard, members: 0, watchers: 0, follows });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    fn forget_unneeded(&mut self, at: usize) {
        if !self.rows[at].is_needed() {
            self.rows.swap_remove(at);
        }
    }
}

impl SpreadRow {
    fn is_needed(&self) -> bool {
        self.members > 0 || self.follows.events
    }
}
