//! One channel at its home: its order, its members, and on which shards they are.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::base::prefetch::prefetch;
use crate::broker::history::History;
use crate::broker::policy::{self, ClientCard, Role};
use crate::broker::telemetry::Place;
use crate::protocol::command::{Address, ChannelType};
use crate::protocol::names::Name;
use crate::protocol::views::{ChannelLine, ChannelView, ParticipantView, Time};
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

/// How a client became a member: by the channel's name, by the room's `*`, or both.
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
    members: u32,
    watchers: u32,
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
    members: Map<ConnRef, Member>,
    spread: Spread,
}

impl Channel {
    /// A channel without members.
    pub fn new(
        id: ChannelId,
        address: Address,
        history: History,
        members: Map<ConnRef, Member>,
    ) -> Channel {
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
            members,
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

    /// The member of that connection.
    pub fn member(&self, conn: ConnRef) -> Option<&Member> {
        self.members.get(&conn)
    }

    /// The members that may not be in it, in order.
    pub fn strangers(&self) -> Vec<(ConnRef, Arc<ClientCard>)> {
        let members = self.members.iter().filter(|(_, member)| !self.admits(&member.client));
        let mut strangers: Vec<_> =
            members.map(|(conn, member)| (*conn, member.client.clone())).collect();
        strangers.sort_unstable_by_key(|(conn, _)| *conn);
        strangers
    }

    /// How many members there are.
    pub fn member_count(&self) -> usize {
        self.members.len()
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
        let before = self.members.get(&conn).map(|member| member.ties);
        let now = before.unwrap_or_default();
        let now = Ties {
            named: ties.named.or(now.named),
            whole_room: ties.whole_room.or(now.whole_room),
        };
        self.set(conn, client, before, Some(now));
        before.is_none()
    }

    /// Takes one kind of tie, or all, from a connection; true if it is no member any more.
    pub fn untie(&mut self, conn: ConnRef, named: bool, whole_room: bool) -> bool {
        let Some(member) = self.members.get(&conn) else { return false };
        let (client, before) = (member.client.clone(), member.ties);
        let left = Ties {
            named: before.named.filter(|_| !named),
            whole_room: before.whole_room.filter(|_| !whole_room),
        };
        let left = left.options().is_some().then_some(left);
        self.set(conn, &client, Some(before), left);
        left.is_none()
    }

    /// The line of it in a list.
    pub fn line(&self) -> ChannelLine {
        ChannelLine {
            name: self.address.channel.clone(),
            channel_type: self.channel_type,
            participants: self.members.len() as u64,
            created_at: Time(self.created_us),
            hardcoded: self.hardcoded,
            auto_created: self.auto_created,
        }
    }

    /// All about it.
    pub fn view(&self, brief: bool) -> ChannelView {
        let mut participants = Vec::new();
        if !brief {
            participants.extend(self.members.values().map(|member| ParticipantView {
                client_id: member.client.client_id.clone(),
                client_type: member.client.client_type,
                screen_name: member.client.screen_name.clone(),
            }));
            participants.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        }
        ChannelView {
            name: self.address.channel.clone(),
            room: self.address.room.clone(),
            channel_type: self.channel_type,
            state: self.state(),
            participants,
            participant_count: self.members.len() as u64,
            created_at: Time(self.created_us),
            created_by: self.created_by.clone(),
            metadata: self.metadata.clone(),
            hardcoded: self.hardcoded,
            auto_created: self.auto_created,
            history: (self.channel_type != ChannelType::Pm).then(|| self.history.span()),
        }
    }

    fn state(&self) -> &'static str {
        match self.channel_type {
            ChannelType::Pm => "private",
            _ if self.members.is_empty() => "empty",
            _ => "active",
        }
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        self.history.check();
        let total: u32 = self.spread.rows.iter().map(|row| row.members).sum();
        assert_eq!(total as usize, self.members.len(), "the spread counts every member once");
        for row in &self.spread.rows {
            let on_shard = |conn: &&ConnRef| conn.shard == row.shard;
            assert_eq!(self.members.keys().filter(on_shard).count(), row.members as usize);
            assert!(row.members > 0, "a shard without members has no row");
        }
        let watchers: u32 = self.spread.rows.iter().map(|row| row.watchers).sum();
        let watching = self.members.values().filter(|member| member.ties.watches()).count();
        assert_eq!(watchers as usize, watching, "the spread counts every watcher once");
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
                self.members.remove(&conn);
            }
        }
    }
}

impl Spread {
    /// The shards that have members.
    pub fn shards(&self) -> impl ExactSizeIterator<Item = ShardId> + '_ {
        self.rows.iter().map(|row| row.shard)
    }

    /// The shards that have members who watch who comes and goes.
    pub fn watching_shards(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.rows.iter().filter(|row| row.watchers > 0).map(|row| row.shard)
    }

    /// Counts one more member.
    pub fn add(&mut self, shard: ShardId, watches: bool) {
        let row = match self.rows.iter_mut().position(|row| row.shard == shard) {
            Some(row) => row,
            None => {
                self.rows.push(SpreadRow { shard, members: 0, watchers: 0 });
                self.rows.len() - 1
            }
        };
        self.rows[row].members += 1;
        self.rows[row].watchers += u32::from(watches);
    }

    /// Counts one member less.
    pub fn remove(&mut self, shard: ShardId, watches: bool) {
        let Some(row) = self.rows.iter().position(|row| row.shard == shard) else { return };
        self.rows[row].members -= 1;
        self.rows[row].watchers -= u32::from(watches);
        if self.rows[row].members == 0 {
            self.rows.swap_remove(row);
        }
    }
}
