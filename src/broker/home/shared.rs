//! A home of one of several nodes: what it hears of its peers, and what it tells them.
//!
//! Rooms and channels are the same on all nodes: whoever makes, pauses or deletes one records it, and
//! the storage tells the others. Who is a member of what is told to all as well ([`Elsewhere`]). A
//! client id is given by the storage, when no other node has it; while the storage is away it is
//! given by what is known.
//!
//! *Invariants*: without peers nothing of this is there; what came from a peer is not recorded again;
//! a claim is answered once, and in time; a no that comes later closes the connection.
//!
//! *Panics*: the storage sends what is for all clients of a node to every shard as news of its own,
//! which the engine handles; so no note of a peer that comes here is one of those. Only submissions
//! can find no place among the records.

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnRef};
use crate::base::limits::{HAND_OVER_MS, LIST_BYTES_MAX};
use crate::base::time::Now;
use crate::broker::census::RowsWanted;
use crate::broker::channel::Channel;
use crate::broker::durable::Durable;
use crate::broker::elsewhere::Elsewhere;
use crate::broker::home::deleting::Deletion;
use crate::broker::home::following::Following;
use crate::broker::home::{Home, Told};
use crate::broker::lane::{PendingRef, Tell};
use crate::broker::peers::{Peer, PeerId, PeerNews, PeerNote, PeerRecord};
use crate::broker::policy::ClientCard;
use crate::broker::presence::{Change, Watchers};
use crate::broker::record::{ChannelRecord, KeptChannel, Record, RoomRecord};
use crate::broker::room::RoomType;
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::{Name, PRIVATE_CHANNEL};
use crate::protocol::views::NodeView;
use ahash::RandomState;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a home of several nodes knows beside its rooms.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) following: Map<ChannelId, Following>,
    /// Those of which it is not known how they stand.
    pub(super) awaited: BTreeSet<ChannelId>,
    /// Those that are known, and that asks which had waited for them still go on with.
    pub(super) opening: VecDeque<ChannelId>,
    /// Those that clients wait for who have seen more of them.
    pub(super) behind: BTreeSet<ChannelId>,
    /// The channels that asks of a connection wait for, one for each ask.
    pub(super) waiting: Map<ConnRef, SmallVec<[ChannelId; 2]>>,
    /// Those that will be looked at for having no members.
    pub(super) idle: BTreeSet<ChannelId>,
    pub(super) elsewhere: Elsewhere,
    pub(super) tickets_given: u64,
    /// What is being deleted, and is not known to be gone.
    pub(super) deletions: BTreeMap<Arc<Address>, Vec<Deletion>>,
    /// Those that left by a connection which was superseded, of whom peers are not told yet.
    handed_over: BTreeMap<(Arc<Address>, Name), Arc<ClientCard>>,
    due: BTreeMap<u64, Vec<Due>>,
}

/// What is looked at after a while.
#[derive(Clone, Debug)]
pub(super) enum Due {
    /// It was waited long enough for a channel.
    Attach(ChannelId),
    /// It was waited long enough for a client id.
    Claim(Name, ConnRef),
    /// It was waited long enough for something to be gone, or until it is tried again.
    Deletion(Arc<Address>),
    /// It was waited long enough for a client to come back by another connection.
    HandedOver(Arc<Address>, Name),
    /// A channel had no members.
    Idle(ChannelId),
    /// A client had seen more of a channel than was known here.
    Ahead(ChannelId),
}

impl Shared {
    pub(super) fn new(hasher: &RandomState) -> Shared {
        Shared {
            following: Map::with_hasher(hasher.clone()),
            awaited: BTreeSet::new(),
            opening: VecDeque::new(),
            behind: BTreeSet::new(),
            idle: BTreeSet::new(),
            waiting: Map::with_hasher(hasher.clone()),
            elsewhere: Elsewhere::new(hasher.clone()),
            tickets_given: 0,
            deletions: BTreeMap::new(),
            handed_over: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    pub(super) fn note_due(&mut self, due_ms: u64, due: Due) {
        self.due.entry(due_ms).or_default().push(due);
    }

    /// When there is something to look at, on the monotonic clock in milliseconds.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.keys().next().copied()
    }

    /// Asserts the invariants; for tests and the simulator.
    pub(super) fn check(&self) {
        self.elsewhere.check();
        self.following.values().for_each(Following::check);
        assert!(self.behind.iter().all(|id| self.following.contains_key(id)));
        assert!(self.awaited.iter().all(|id| self.following.contains_key(id)));
        assert!(self.idle.iter().all(|id| self.following.contains_key(id)));
    }
}

impl Home {
    /// Hears what peers, and the storage that is shared with them, say.
    pub(super) fn on_peers(&mut self, now: Now, news: PeerNews, told: &mut Told) {
        if self.shared.is_none() {
            return;
        }
        match news {
            PeerNews::Attached { channel, kept, is_new } => {
                self.on_attached(now, channel, &kept, is_new, told);
            }
            PeerNews::Placed { channel, places } => self.on_placed(now, channel, &places, told),
            PeerNews::Arrived { channel, events } => self.on_arrived(now, channel, events, told),
            PeerNews::Term { channel, term, past } => {
                self.on_term(now, channel, (term, past), told);
            }
            PeerNews::Room(record) => self.on_room(now, *record),
            PeerNews::RoomGone(name) => self.on_room_gone(now, &name, told),
            PeerNews::Channel(record) => self.on_channel(now, *record, told),
            PeerNews::ChannelGone(address) => self.on_channel_gone(now, &address, told),
            PeerNews::Deleted { address, is_gone } => {
                self.on_deleted(now, &address, is_gone, told);
            }
            PeerNews::Claimed { client_id, conn, verdict } => {
                self.on_claimed(now, &client_id, conn, verdict, told);
            }
            PeerNews::Member { peer, address, client, is_member } => {
                let Some(shared) = &mut self.shared else { return };
                let is_new = shared.elsewhere.note_member(peer, &address, &client, is_member);
                if is_new {
                    self.tell_of_resident(now, &address, &client, is_member, told);
                }
            }
            PeerNews::Client { peer, client_id, is_connected } => {
                let Some(shared) = &mut self.shared else { return };
                shared.elsewhere.note_client(peer, client_id, is_connected);
            }
            PeerNews::PeerGone(peer) => {
                let Some(shared) = &mut self.shared else { return };
                for (address, client) in shared.elsewhere.forget_peer(peer) {
                    self.tell_of_resident(now, &address, &client, false, told);
                }
            }
            PeerNews::Peers(peers) => {
                let Some(shared) = &mut self.shared else { return };
                shared.elsewhere.peers = peers;
            }
            PeerNews::Note(note) => self.on_note(now, note, told),
            PeerNews::AskClients { .. } | PeerNews::Clients(..) => {
                unreachable!("which clients there are the edge says")
            }
        }
    }

    /// There was no place for a record that only peers need.
    pub(super) fn lose_of_peers(&mut self, record: PeerRecord, told: &mut Told) {
        match record {
            PeerRecord::Submit(submission) => {
                let ticket = submission.ticket;
                self.on_unplaced(submission.channel, (ticket, ticket), told);
            }
            other => unreachable!("there is always room for {other:?}"),
        }
    }

    /// Nothing can be stored: nobody waits for the storage.
    pub(super) fn go_on_alone(&mut self, now: Now, told: &mut Told) {
        let Some(shared) = &mut self.shared else { return };
        let awaited: Vec<ChannelId> = shared.awaited.iter().copied().collect();
        let claims = self.directory.undecided();
        let mut open: Vec<ChannelId> = shared
            .following
            .iter()
            .filter_map(|(id, following)| following.has_undelivered().then_some(*id))
            .collect();
        open.sort_unstable();
        for (client_id, conn) in claims {
            self.confirm(&client_id, conn, told);
        }
        self.give_up_deletions(told);
        awaited.into_iter().for_each(|id| self.go_alone(now, id, told));
        open.into_iter().for_each(|id| self.fork_and_tell(now, id, told));
    }

    /// What waited is stored: a fork in which nothing waits any more is over.
    pub(super) fn go_on_together(&mut self, now: Now, told: &mut Told) {
        let Some(shared) = &self.shared else { return };
        let mut over: Vec<ChannelId> = shared
            .following
            .iter()
            .filter_map(|(id, following)| following.is_done_alone().then_some(*id))
            .collect();
        over.sort_unstable();
        over.into_iter().for_each(|id| self.end_done_fork(now, id, told));
    }

    /// Looks at what is due.
    pub(super) fn expire_shared(&mut self, now: Now, told: &mut Told) {
        while let Some(shared) = &mut self.shared
            && let Some(entry) = shared.due.first_entry()
            && *entry.key() <= now.mono_ms()
        {
            for due in entry.remove() {
                match due {
                    Due::Deletion(address) => self.look_at_deletions(now, &address, told),
                    Due::Attach(id) => self.attach_is_overdue(now, id, told),
                    Due::Idle(id) => self.end_idle(now, id, told),
                    Due::Ahead(id) => self.let_go_on(now, id, told),
                    Due::HandedOver(address, client_id) => {
                        let Some(shared) = &mut self.shared else { return };
                        let key = (address, client_id);
                        if let Some(client) = shared.handed_over.remove(&key) {
                            let (address, is_member) = (key.0, false);
                            let member = PeerRecord::Member { address, client, is_member };
                            told.records.push(Record::Peer(Box::new(member)));
                        }
                    }
                    Due::Claim(client_id, conn) => self.confirm(&client_id, conn, told),
                }
            }
        }
    }

    /// Tells the peers that a client has come to a channel, or to `*`, or gone from it; true if that is
    /// new on the bus: who has moved between nodes is there on another one as well, still or already, and
    /// who joined `*` is a member of every channel but private ones.
    pub(super) fn tell_peers_of_member(
        &mut self,
        now: Now,
        address: &Arc<Address>,
        (client, conn): (&Arc<ClientCard>, ConnRef),
        is_member: bool,
        is_private: bool,
        told: &mut Told,
    ) -> bool {
        let is_for_peers = self.is_for_peers(&address.room);
        let Some(shared) = self.shared.as_mut().filter(|_| is_for_peers) else { return true };
        let is_new = shared.elsewhere.note_here(address, client, is_member);
        // Peers are told of clients, not of connections.
        let Some(is_new) = is_new else { return false };
        let is_member_anyway = !is_private
            && !address.channel.is_every()
            && shared.elsewhere.follows(&address.room, &client.client_id);
        let (address, client) = (Arc::clone(address), Arc::clone(client));
        let key = (Arc::clone(&address), client.client_id.clone());
        if !is_member && self.handed_over.contains_key(&conn) {
            // It comes back at once, by another connection.
            shared.note_due(
                now.mono_ms() + HAND_OVER_MS,
                Due::HandedOver(key.0.clone(), key.1.clone()),
            );
            shared.handed_over.insert(key, client);
        } else {
            shared.handed_over.remove(&key);
            let member = PeerRecord::Member { address, client, is_member };
            told.records.push(Record::Peer(Box::new(member)));
        }
        is_new && !is_member_anyway
    }

    /// Takes note that a client of a peer has come or gone. Its channel may have been deleted before; the
    /// room that only the client kept is deleted all the same.
    fn tell_of_resident(
        &mut self,
        now: Now,
        address: &Address,
        client: &Arc<ClientCard>,
        is_member: bool,
        told: &mut Told,
    ) {
        self.note_resident(now, address, client, is_member);
        if !is_member && self.is_abandoned(&address.room) {
            self.remove_room(&address.room, told);
        }
    }

    /// Notes for the watchers of a channel that a client of a peer has come or gone.
    fn note_resident(
        &mut self,
        now: Now,
        address: &Address,
        client: &Arc<ClientCard>,
        is_member: bool,
    ) {
        let (subject, client_id) = ((client, None), &client.client_id);
        let change = if is_member { Change::Joined } else { Change::Left };
        let Some(id) = self.id_of(address) else { return };
        let Some(elsewhere) = self.shared.as_ref().map(|shared| &shared.elsewhere) else { return };
        if let Some(channel) = self.channels.get(&id) {
            let is_member_anyway =
                channel.is_open_to_room() && elsewhere.follows(&address.room, client_id);
            if !is_member_anyway {
                self.note_presence_change(now, id, subject, change, Watchers::All);
            }
            if !is_member {
                self.note_if_empty(now, id);
            }
        } else {
            let stays = elsewhere.channels_of(&address.room, client_id);
            self.note_presence_change(now, id, subject, change, Watchers::All);
            for watched in self.watched_channels(&address.room) {
                let is_listed = |channel: &Channel| stays.contains(&channel.address);
                let channel = self.channels.get(&watched);
                if channel.is_some_and(|known| known.is_open_to_room() && !is_listed(known)) {
                    self.note_presence_change(now, watched, subject, change, Watchers::Listed);
                }
            }
            if !is_member {
                self.note_all_empty(now, &address.room);
            }
        }
    }

    /// What is said to everyone is said to the clients of peers, too; gives how many they are.
    pub fn announce_to_peers(
        &self,
        room: Option<&Name>,
        frame: &Arc<Frame>,
        told: &mut Told,
    ) -> u64 {
        let Some(shared) = &self.shared else { return 0 };
        let note = PeerNote::Announce { room: room.cloned(), frame: Arc::clone(frame) };
        told.records.push(Record::Peer(Box::new(PeerRecord::SendAll(note))));
        match room {
            Some(room) => self.residents(room),
            None => shared.elsewhere.client_count(),
        }
    }

    /// Asks the peers which clients they have; gives those that may answer.
    pub fn ask_for_clients(
        &self,
        reply_to: PendingRef,
        wanted: &RowsWanted,
        told: &mut Told,
    ) -> Arc<Vec<Peer>> {
        let Some(shared) = &self.shared else { return Arc::default() };
        let peers = &shared.elsewhere.peers;
        // Who can't be reached is not asked, and named as who has not answered.
        if !peers.is_empty() && self.acks.degraded().is_none() {
            let bytes = wanted.bytes.min(LIST_BYTES_MAX as usize / peers.len());
            let rows = RowsWanted { bytes, ..wanted.clone() };
            let ask = PeerNote::AskClients { reply_to, rows };
            told.records.push(Record::Peer(Box::new(PeerRecord::SendAll(ask))));
        }
        Arc::clone(peers)
    }

    /// Whether there are other nodes.
    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    /// The peer that a client id is connected to, if it can be reached.
    pub(super) fn peer_of(&self, client_id: &str) -> Option<PeerId> {
        let shared = self.shared.as_ref().filter(|_| self.acks.degraded().is_none());
        shared?.elsewhere.peer_of(client_id)
    }

    /// Whether peers are told who is in a room.
    fn is_for_peers(&self, room: &Name) -> bool {
        self.rooms.get(room).is_some_and(|room| room.history.is_shared())
    }

    /// The other nodes, if there may be any.
    pub fn peers_view(&self) -> Option<Vec<NodeView>> {
        let peers = self.shared.as_ref()?.elsewhere.peers.iter();
        let view = |peer: &Peer| NodeView { node: peer.node.clone(), clients: peer.clients };
        Some(peers.map(view).collect())
    }

    /// How many clients are on other nodes.
    pub fn clients_elsewhere(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.elsewhere.client_count())
    }

    /// How many clients of peers are in a room.
    pub(super) fn residents(&self, room: &Name) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.elsewhere.people_count(room) as u64)
    }

    /// Whether nothing is left that would keep a room, on any node.
    pub(super) fn is_abandoned(&self, name: &Name) -> bool {
        let Some(room) = self.rooms.get(name) else { return false };
        let following = self.shared.as_ref().and_then(|shared| shared.following.get(&room.id));
        room.is_abandoned()
            && self.residents(name) == 0
            && !following.is_some_and(Following::is_needed)
    }

    /// The members of a channel on other nodes, in the order of their ids, behind one of them.
    pub(super) fn members_elsewhere(
        &self,
        channel: &Channel,
        after: Option<&Name>,
    ) -> impl Iterator<Item = &Arc<ClientCard>> {
        let is_open = channel.is_open_to_room();
        let shared = self.shared.as_ref();
        let members =
            shared.map(|shared| shared.elsewhere.members_after(&channel.address, is_open, after));
        members.into_iter().flatten()
    }

    /// How many members a channel has on other nodes.
    pub(super) fn count_elsewhere(&self, channel: &Channel) -> usize {
        let is_open = channel.is_open_to_room();
        let shared = self.shared.as_ref();
        shared.map_or(0, |shared| shared.elsewhere.member_count(&channel.address, is_open))
    }

    /// How many members a channel has on other nodes beside this client.
    pub(super) fn others_elsewhere(&self, channel: &Channel, client_id: &Name) -> usize {
        let Some(shared) = &self.shared else { return 0 };
        let (address, is_open) = (&channel.address, channel.is_open_to_room());
        let is_there = shared.elsewhere.has_member(address, is_open, client_id);
        shared.elsewhere.member_count(address, is_open) - usize::from(is_there)
    }

    /// Whether another node says that a client is a member of a channel.
    pub(super) fn is_member_elsewhere(&self, channel: &Channel, client_id: &Name) -> bool {
        let (address, is_open) = (&channel.address, channel.is_open_to_room());
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.elsewhere.is_told(address, is_open, client_id))
    }

    /// How many clients of peers are in a room beside this one.
    pub(super) fn other_residents(&self, room: &Name, client_id: &Name) -> u64 {
        let Some(shared) = &self.shared else { return 0 };
        let is_there = shared.elsewhere.has_person(room, client_id);
        (shared.elsewhere.people_count(room) - usize::from(is_there)) as u64
    }

    /// Whether a channel that is empty here must stay, for others are in it or about to be.
    pub(super) fn is_needed_elsewhere(&self, id: ChannelId) -> bool {
        let Some(shared) = &self.shared else { return false };
        let following = shared.following.get(&id);
        following.is_some_and(Following::is_needed)
            || self.channels.get(&id).is_some_and(|channel| self.count_elsewhere(channel) > 0)
    }

    fn on_note(&mut self, now: Now, note: PeerNote, told: &mut Told) {
        match note {
            PeerNote::Private { targets, frame } => {
                for target in targets {
                    // Who has just gone is not missed: the sender was told of its peer.
                    if let Some(holder) = self.directory.holder(&target) {
                        told.tell(holder.shard, Tell::Deliver(holder.conn, frame.clone()));
                    }
                }
            }
            PeerNote::Disconnect { client_id, reason } => {
                if let Some(holder) = self.directory.holder(&client_id) {
                    told.tell(holder.shard, Tell::Disconnect(holder.conn, reason));
                }
            }
            PeerNote::Announce { room: Some(room), frame } => {
                self.announce_here(&room, &frame, told);
            }
            PeerNote::LetGo(address) => self.let_go(now, &address, told),
            PeerNote::Announce { room: None, .. }
            | PeerNote::AskClients { .. }
            | PeerNote::Clients(_) => unreachable!("what is for everyone does not reach a home"),
        }
    }

    /// A room is there, or another than it was.
    fn on_room(&mut self, now: Now, record: RoomRecord) {
        let Home { rooms, channels, .. } = self;
        match rooms.get_mut(&record.name) {
            Some(room) if room.room_type == RoomType::System => {}
            Some(room) => {
                room.room_type = match record.room_type {
                    RoomType::System => RoomType::User,
                    other => other,
                };
                room.paused = record.paused;
                room.config = record.config;
                room.created_us = record.created_us;
                room.created_by = record.created_by;
                for id in room.channels.values() {
                    if let Some(channel) = channels.get_mut(id) {
                        channel.open = room.is_open();
                    }
                }
            }
            None => {
                let name = record.name.clone();
                self.restore_room(now, record);
                if let Some(id) = self.rooms.get(&name).map(|room| room.id) {
                    self.share(id);
                    self.await_members(now, id);
                }
            }
        }
    }

    fn on_room_gone(&mut self, now: Now, name: &Name, told: &mut Told) {
        let every = Address { room: name.clone(), channel: Name::every() };
        self.on_deleted(now, &Arc::new(every), true, told);
        let Some(room) = self.rooms.get(name) else { return };
        let pm = room.channels.get(PRIVATE_CHANNEL).copied();
        let is_empty = room.people.is_empty() && room.channels.len() == usize::from(pm.is_some());
        if room.room_type == RoomType::System || !is_empty {
            return;
        }
        self.unrecorded(told, |home, told| {
            if let Some(pm) = pm {
                home.remove_channel(pm, told);
            }
            home.remove_room(name, told);
        });
    }

    /// A channel is there, or the order of a whole room.
    fn on_channel(&mut self, now: Now, record: ChannelRecord, told: &mut Told) {
        if record.address.channel.as_str() == PRIVATE_CHANNEL {
            return;
        }
        let known = self.id_of(&record.address);
        if let Some(id) = known
            && self.shared.as_ref().is_some_and(|shared| shared.following.contains_key(&id))
        {
            // How it stands is told by the storage, or was.
            return;
        }
        let id = self.place_for(now, record.clone());
        // The room may be new with it.
        let room = self.rooms.get(&record.address.room).map(|room| room.id);
        room.into_iter().chain([id]).for_each(|id| self.share(id));
        self.adopt(now, id, &record, told);
        if let Some(history) = self.history_mut(id)
            && let Some(durable) = &mut history.durable
        {
            durable.take_over(&record, 0);
            let epoch = durable.epoch();
            history.rename(epoch);
        }
        match known {
            Some(_) => {}
            None if self.channels.contains_key(&id) => {
                self.note_if_empty(now, id);
                self.open_to_room(now, id, told);
            }
            None => self.await_members(now, id),
        }
    }

    fn on_channel_gone(&mut self, now: Now, address: &Arc<Address>, told: &mut Told) {
        self.on_deleted(now, address, true, told);
        let Some(id) = self.id_of(address) else { return };
        let Some(channel) = self.channels.get(&id) else { return };
        let members = self.member_count(channel);
        let is_followed =
            |shared: &Shared| shared.following.get(&id).is_some_and(Following::is_needed);
        if members > 0 || channel.hardcoded || self.shared.as_deref().is_some_and(is_followed) {
            return;
        }
        self.unrecorded(told, |home, told| home.remove_channel(id, told));
    }

    /// Takes over what is kept of a channel beside its order.
    pub(super) fn adopt(
        &mut self,
        now: Now,
        id: ChannelId,
        record: &ChannelRecord,
        told: &mut Told,
    ) {
        if let Some(channel) = self.channels.get_mut(&id)
            && !channel.hardcoded
        {
            let was_open = channel.is_open_to_room();
            channel.channel_type = record.channel_type;
            channel.created_us = record.created_us;
            channel.created_by = record.created_by.clone();
            channel.metadata = record.metadata.clone();
            channel.guests = record.guests.clone();
            channel.auto_created = record.auto_created;
            if !channel.auto_created {
                (channel.empty_since_ms, channel.is_awaited) = (None, false);
            }
            self.reopen_to_room(now, id, was_open, told);
        }
    }

    /// What comes from a peer is kept already: nothing is recorded of it.
    fn share(&mut self, id: ChannelId) {
        let told = &mut Told::default();
        self.keep_history(id, told);
    }

    /// Does something that ends what a peer has ended, of which nothing is recorded.
    fn unrecorded(&mut self, told: &mut Told, work: impl FnOnce(&mut Home, &mut Told)) {
        let before = told.records.len();
        work(self, told);
        let records = told.records.split_off(before).into_iter();
        let is_end =
            |record: &Record| matches!(record, Record::RoomGone(_) | Record::ChannelGone(_));
        told.records.extend(records.filter(|record| !is_end(record)));
    }

    /// A channel that is kept, on a bus of several nodes: how it stands is learnt when it is followed.
    pub(super) fn restore_shared(&mut self, now: Now, kept: KeptChannel) {
        let KeptChannel { record, .. } = kept;
        if record.address.channel.as_str() == PRIVATE_CHANNEL {
            return;
        }
        let id = self.place_for(now, record.clone());
        let Home { durability, limits, channels, whole_rooms, rooms, .. } = self;
        let Some(durability) = durability else { return };
        let room = rooms.get(&record.address.room).map(|room| room.config.clone());
        let room = room.unwrap_or_default();
        let size = room.history_size.unwrap_or(limits.history_size);
        let keep = durability.keep(size, limits.history_bytes);
        let Some(history) = super::history_of(id, channels, whole_rooms, rooms) else { return };
        if history.durable.is_none() {
            let mut durable = Durable::new(record.epoch.clone(), keep, room.ack_when);
            (durable.is_shared, durable.is_recorded) = (true, true);
            durable.take_over(&record, 0);
            history.rename(durable.epoch());
            history.durable = Some(Box::new(durable));
            self.await_members(now, id);
        }
    }
}
