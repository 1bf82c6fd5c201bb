//! The home of the rooms and client ids that hash to one shard: the one writer of their truth.
//!
//! *Invariants*: handling an ask makes only tells; a channel's tells leave in the order of its
//! sequence; every channel belongs to exactly one room of this home; who is a member of a channel
//! is in its room. [`Home::check`] asserts them.
//!
//! | file | what it does |
//! |---|---|
//! | `membership` | joining and leaving |
//! | `whole_room` | followers of a room: joining and leaving `*` |
//! | `presence` | telling those who watch who comes and goes |
//! | `publish` | an event gets its place, and is spread |
//! | `empty` | what has been empty for too long goes, or makes room for what is new |
//! | `deleting` | what is deleted for all nodes |
//! | `wishes` | questions about rooms, and changes of them |
//! | `keeping` | the records of what is to be kept, and what the storage says of them |
//! | `claims` | whose a client id is |
//! | `late` | what was kept and is read after the start |
//! | `shared` | what it hears of the peers of its node, and tells them |
//! | `following` | the channels of other nodes that it follows |
//! | `ordering` | events whose places are given by a storage that nodes share |
//!
//! *Panics*: a map is indexed only by an id that another table of this home holds; names from
//! clients, peers and Redis are looked up with `get`. Asks for the whole shard are handled by the
//! engine, whoever sent them. If an index still fails, the home has lost its state, and the process
//! ends.

mod claims;
mod deleting;
mod empty;
mod following;
mod keeping;
mod late;
mod membership;
mod ordering;
mod presence;
mod publish;
mod shared;
mod whole_room;
mod wishes;

use crate::base::hash::Map;
use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::base::limits::{EXPIRIES_AT_A_TIME, Limits, SHED_MESSAGES_MAX};
use crate::base::quota::NodeQuotas;
use crate::base::time::Now;
use crate::base::work::{self, Work};
use crate::broker::acks::Acks;
use crate::broker::census::{Rows, RowsWanted};
use crate::broker::channel::Channel;
use crate::broker::directory::Directory;
use crate::broker::durable::Durability;
use crate::broker::history::{Held, History};
use crate::broker::lane::{Answer, Ask, DisconnectAsk, Part, PrivateAsk, RoomAnswer, Tell};
use crate::broker::peers::{PeerId, PeerNote, PeerRecord};
use crate::broker::policy::ClientCard;
use crate::broker::record::Record;
use crate::broker::retention::Retention;
use crate::broker::room::{Room, RoomType};
use crate::broker::telemetry::Event;
use crate::protocol::command::{Address, ChannelType, RoomConfig};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::{self, Name, PRIVATE_CHANNEL};
use crate::protocol::reply::Stamp;
use crate::protocol::timestamp::Writer;
use crate::protocol::views::{RoomRow, RoomView, Time};
use ahash::RandomState;
use presence::Watch;
use shared::Shared;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a home wants told and kept, collected while it handles one ask.
#[derive(Debug, Default)]
pub struct Told {
    /// To which edges, in order.
    pub tells: Vec<(ShardId, Tell)>,
    /// What is to be told about the bus.
    pub telemetry: Vec<Event>,
    /// Events that got a place.
    pub accepted: u64,
    /// Events that had one.
    pub duplicates: u64,
    /// Messages that histories gave up because all of them together held too much.
    pub shed: u64,
    /// What is to be kept, in order.
    pub records: Vec<Record>,
    /// Histories that the storage has to hear of before that.
    pub begun: BTreeSet<ChannelId>,
    /// Events that turned out to be stored.
    pub stored: u64,
    /// Events that turned out never to be stored.
    pub lost: u64,
    /// Events that went with their channels before they were stored.
    pub forgotten: u64,
    /// Acks that have to wait for the storage.
    pub ack_waits: u64,
    /// How often the watchers of a channel were told who came and went.
    pub presence_told: u64,
    /// How often they have to wait for some of it.
    pub presence_deferred: u64,
    /// The work of this turn: the home charges the members it walks and the rows it builds, and a long
    /// job stops when it is spent. Only the engine begins a turn.
    pub work: Work,
    /// Channels whose epoch became another than their members were told.
    pub epochs_changed: u64,
    /// Channels of which something was lost on its way from the storage, so that all was read anew.
    pub torn: u64,
}

impl Told {
    /// Adds a tell.
    pub fn tell(&mut self, shard: ShardId, tell: Tell) {
        self.tells.push((shard, tell));
    }
}

/// A room that is there from the start.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Its name.
    pub name: Name,
    /// Its channels.
    pub channels: Vec<Name>,
    /// How it differs from the server's defaults.
    pub config: RoomConfig,
}

/// The rooms and client ids at home on one shard.
#[derive(Debug)]
pub struct Home {
    shard: ShardId,
    limits: Arc<Limits>,
    rooms: Map<Name, Room>,
    /// The names of the rooms, in order: for lists.
    room_names: BTreeSet<Name>,
    homes: u16,
    on_node: NodeQuotas,
    channels: Map<ChannelId, Channel>,
    /// The names of rooms by the id under which events to `*` travel.
    whole_rooms: Map<ChannelId, Name>,
    /// The rooms that a connection is in.
    presence: Map<ConnRef, Vec<Name>>,
    /// The connections by which a client is in rooms. There are several while a client comes back on
    /// another shard and its earlier connection has not left yet.
    connections_of: Map<Name, SmallVec<[ConnRef; 1]>>,
    /// Connections that are gone and have not left all of their rooms.
    leaving: VecDeque<ConnRef>,
    /// Those of them whose clients go on by other connections.
    handed_over: Map<ConnRef, ()>,
    /// Changes of presence that watchers are to be told.
    watch: Watch,
    directory: Directory,
    /// Channels to be looked at for having been empty too long, by time in milliseconds.
    expiries: BTreeMap<u64, Vec<ChannelId>>,
    /// The kept channels, and orders of whole rooms, whose members are awaited, with the time since
    /// when, in milliseconds; in its order. Who has come is not awaited any more, and still here.
    awaited: VecDeque<(u64, ChannelId)>,
    ids_given: u64,
    retention: Retention,
    times: Writer,
    /// What is kept beyond the life of this home, if anything is.
    durability: Option<Durability>,
    /// Whether nobody has told yet what is kept: what is not here may be there.
    is_unread: bool,
    acks: Acks,
    /// The histories whose records were lost: the storage has to hear of them before it is given
    /// another event of theirs.
    unrecorded: BTreeSet<ChannelId>,
    /// The rooms whose records were lost.
    unrecorded_rooms: BTreeSet<Name>,
    /// What is there of the other nodes, if there are any.
    shared: Option<Box<Shared>>,
    /// Tells this home's connections, which cursors name, from those of others.
    page_mark: u32,
    /// The records that were lost of what is gone and was not made anew, by its address.
    unsaid: BTreeMap<String, Record>,
    hasher: RandomState,
    rng: fastrand::Rng,
}

impl Home {
    /// A home without rooms, one of `homes` on its node.
    pub fn new(
        shard: ShardId,
        homes: u16,
        limits: Arc<Limits>,
        on_node: NodeQuotas,
        hasher: RandomState,
        mut rng: fastrand::Rng,
    ) -> Home {
        let retention =
            Retention::new(&limits, homes, on_node.history_loans.clone(), hasher.clone());
        Home {
            shard,
            limits,
            rooms: Map::with_hasher(hasher.clone()),
            room_names: BTreeSet::new(),
            homes,
            on_node,
            channels: Map::with_hasher(hasher.clone()),
            whole_rooms: Map::with_hasher(hasher.clone()),
            presence: Map::with_hasher(hasher.clone()),
            leaving: VecDeque::new(),
            connections_of: Map::with_hasher(hasher.clone()),
            handed_over: Map::with_hasher(hasher.clone()),
            watch: Watch::default(),
            directory: Directory::new(hasher.clone()),
            expiries: BTreeMap::new(),
            awaited: VecDeque::new(),
            ids_given: 0,
            retention,
            times: Writer::default(),
            durability: None,
            is_unread: false,
            acks: Acks::default(),
            unrecorded: BTreeSet::new(),
            unrecorded_rooms: BTreeSet::new(),
            shared: None,
            unsaid: BTreeMap::new(),
            page_mark: rng.fork().u32(..),
            hasher,
            rng,
        }
    }

    /// Makes a room that is there from the start.
    pub fn bootstrap(&mut self, now: Now, bootstrap: &Bootstrap) {
        let room = bootstrap.name.clone();
        self.on_node.rooms.take_anyway();
        self.insert_room(now, room.clone(), RoomType::System, None, bootstrap.config.clone());
        let channel_type = match names::is_system_room(&room) {
            true => ChannelType::System,
            false => ChannelType::General,
        };
        for name in &bootstrap.channels {
            let address = Address { room: room.clone(), channel: name.clone() };
            self.on_node.channels.take_anyway();
            let told = &mut Told::default();
            let channel = self.insert_channel(now, address, channel_type, None, false, told);
            channel.hardcoded = true;
        }
    }

    /// How many rooms there are.
    pub fn room_count(&self) -> usize {
        self.rooms.len()
    }

    /// How many channels there are.
    pub fn channel_count(&self) -> usize {
        self.channels.len()
    }

    /// What all histories hold.
    pub fn history_held(&self) -> Held {
        self.retention.total()
    }

    /// The channel of those names; for the simulator.
    pub fn channel(&self, room: &str, channel: &str) -> Option<&Channel> {
        self.channels.get(self.rooms.get(room)?.channels.get(channel)?)
    }

    /// The order of the events to all of a room; for the simulator.
    pub fn whole_room(&self, room: &str) -> Option<&History> {
        Some(&self.rooms.get(room)?.history)
    }

    /// The id of the order of the events to all of a room; for tests.
    #[cfg(test)]
    pub(super) fn whole_room_id(&self, room: &str) -> Option<ChannelId> {
        Some(self.rooms.get(room)?.id)
    }

    /// How many client ids are held or claimed; for the simulator.
    pub fn client_id_count(&self) -> usize {
        self.directory.held_count() + self.directory.pending_count()
    }

    /// How many connections are in some room; for the simulator.
    pub fn presence_count(&self) -> usize {
        self.presence.len()
    }

    /// Applies new limits.
    pub fn reconfigure(&mut self, limits: Arc<Limits>, told: &mut Told) {
        self.retention.set_limits(&limits, self.homes);
        self.limits = limits;
        let Home { limits, rooms, channels, retention, durability, .. } = self;
        let bytes_max = history_bytes_max(limits);
        let durability = durability.as_ref();
        let mut resize = |id, history: &mut History, size| {
            let before = history.held();
            history.resize(size, bytes_max);
            retention.account(id, before, history);
            if let (Some(durability), Some(durable)) = (durability, &mut history.durable) {
                durable.keep = durability.keep(size, limits.history_bytes);
            }
        };
        for room in rooms.values_mut() {
            let size = room.config.history_size.unwrap_or(limits.history_size);
            resize(room.id, &mut room.history, size);
            for &id in room.channels.values() {
                if let Some(channel) = channels.get_mut(&id) {
                    resize(id, &mut channel.history, size);
                }
            }
        }
        self.trim_beneath_forks();
        self.shed(told);
        self.plan_expiries();
    }

    /// Handles an ask. Surveys and what concerns the whole shard are the engine's.
    pub fn on_ask(&mut self, now: Now, ask: Ask, told: &mut Told) {
        match ask {
            Ask::Publish(publish) => self.publish(now, publish, told),
            Ask::Claim(claim) => self.claim(now, *claim, told),
            Ask::Release(client_id, conn) => self.release(now, &client_id, conn, told),
            Ask::Join(ask) => self.join(now, *ask, told),
            Ask::Leave(ask) => self.leave(now, *ask, told),
            Ask::HandOver(conn) => _ = self.handed_over.insert(conn, ()),
            Ask::Gone(conn) => self.gone(now, conn, told),
            Ask::Private(ask) => self.private(*ask, told),
            Ask::EnsurePm(room, sender) => self.ensure_pm(now, &room, &sender, told),
            Ask::Room(ask) => self.answer(now, *ask, told),
            Ask::Disconnect(ask) => self.disconnect(*ask, told),
            Ask::Storage(news) => self.on_storage(now, *news, told),
            Ask::Reconfigure(limits) => self.reconfigure(limits, told),
            Ask::Survey(_)
            | Ask::Traced(_)
            | Ask::Drain { .. }
            | Ask::Shed { .. }
            | Ask::Admit(_) => {
                unreachable!("what concerns the whole shard does not reach its home")
            }
        }
    }

    /// This home's part of the answer to a survey about rooms. It costs what its rows cost, however many
    /// rooms there are.
    pub fn rooms_part(
        &self,
        client: &ClientCard,
        wanted: &RowsWanted,
        told: &mut Told,
    ) -> Rows<RoomRow> {
        let names = self.room_names.range::<Name, _>(wanted.bounds());
        let rooms = names.filter_map(|name| self.rooms.get(name));
        let rows = rooms.map(|room| match wanted.brief {
            true => RoomRow::Brief(room.name().clone()),
            false => {
                told.work.charge(work::ROW + work::MEMBER * room.channels.len() as u64);
                RoomRow::Full(Box::new(self.room_view(room, client)))
            }
        });
        Rows::take(wanted, self.rooms.len() as u64, rows)
    }

    /// How many members a channel has; for the simulator.
    pub fn member_count_of(&self, room: &str, channel: &str) -> usize {
        self.channel(room, channel).map_or(0, |channel| self.member_count(channel))
    }

    /// Deletes auto-created channels that were empty for too long, and refuses acks that waited for
    /// too long.
    pub fn expire(&mut self, now: Now, told: &mut Told) {
        self.acks.expire(now, told);
        self.expire_shared(now, told);
        self.go_on_leaving(now, told);
        self.go_on_opening(now, told);
        self.tell_presence(now, told);
        let mut left = EXPIRIES_AT_A_TIME;
        while let Some(&(since_ms, id)) = self.awaited.front()
            && left > 0
            && since_ms + u64::from(self.limits.empty_channel_ttl_ms) <= now.mono_ms()
        {
            left -= 1;
            self.awaited.pop_front();
            self.await_no_longer(now, id, told);
        }
        // However many became empty at once, they go some at a time.
        for _ in 0..EXPIRIES_AT_A_TIME {
            let Some(mut entry) = self.expiries.first_entry() else { return };
            if *entry.key() > now.mono_ms() {
                return;
            }
            let id = entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
            if let Some(id) = id {
                told.work.charge(work::ASK);
                self.expire_channel(now, id, told);
            }
        }
    }

    /// When [`Home::expire`] next has something to do, on the monotonic clock in milliseconds.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        let expiry_ms = self.expiries.keys().next().copied();
        let ttl_ms = u64::from(self.limits.empty_channel_ttl_ms);
        let awaited_ms = self.awaited.front().map(|(since_ms, _)| since_ms + ttl_ms);
        let shared_ms = self.shared.as_ref().and_then(|shared| shared.next_due_ms());
        let others_ms = self.acks.next_due_ms().into_iter().chain(shared_ms);
        let others_ms = others_ms.chain(self.watch.next_due_ms());
        expiry_ms.into_iter().chain(awaited_ms).chain(others_ms).min()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        let of_channels = self.channels.values().map(|channel| (channel.id, &channel.history));
        let histories = of_channels.chain(self.rooms.values().map(|room| (room.id, &room.history)));
        let mut total = Held::default();
        for (id, history) in histories {
            self.retention.check(id, history);
            let known = self.shared.as_ref().and_then(|shared| shared.following.get(&id));
            if let Some(fork) = known.and_then(|following| following.fork.as_ref()) {
                fork.check(history);
            }
            total.messages += history.held().messages;
            total.bytes += history.held().bytes;
        }
        assert_eq!(self.retention.total(), total, "what is held is counted right");
        self.check_kept();
        self.directory.check();
        self.shared.iter().for_each(|shared| shared.check());
        for channel in self.channels.values() {
            channel.check();
            assert_eq!(channel.id.home(), self.shard);
            let room = &self.rooms[&channel.address.room];
            assert_eq!(room.channels[&channel.address.channel], channel.id);
            assert_eq!(channel.open, room.is_open(), "a channel knows whether its room is open");
        }
        assert_eq!(self.whole_rooms.len(), self.rooms.len());
        assert_eq!(self.room_names.len(), self.rooms.len());
        assert!(self.room_names.iter().all(|name| self.rooms.contains_key(name)));
        for room in self.rooms.values() {
            room.history.check();
            assert!(!self.is_abandoned(room.name()), "the abandoned room {} goes", room.name());
            assert!(room.channels.values().all(|id| self.channels.contains_key(id)));
            for (conn, person) in &room.people {
                let is_in = |id: &&ChannelId| self.channels[*id].listed(*conn).is_some();
                let listed = room.channels.values().filter(is_in);
                let listed: BTreeSet<ChannelId> = listed.copied().collect();
                let known: BTreeSet<ChannelId> = person.channels.iter().copied().collect();
                assert_eq!((listed, person.channels.len()), (known.clone(), known.len()));
                assert!(self.presence[conn].contains(room.name()));
            }
            let followers = room.people.iter().filter(|(_, person)| person.whole_room.is_some());
            let followers: BTreeSet<ConnRef> = followers.map(|(conn, _)| *conn).collect();
            assert!(room.followers.after(None).eq(followers.iter().copied()));
            for id in room.channels.values() {
                let channel = &self.channels[id];
                channel.check_followers(|conn| followers.contains(conn), room.followers.spread());
                assert_eq!(room.watched.contains(id), channel.spread().has_watchers());
            }
        }
        for (conn, rooms) in &self.presence {
            assert!(!rooms.is_empty());
            assert!(rooms.iter().all(|room| self.rooms[room].people.contains_key(conn)));
        }
        let connections = self
            .connections_of
            .iter()
            .flat_map(|(id, conns)| conns.iter().map(move |conn| (conn, id)));
        let connections: BTreeMap<ConnRef, &Name> =
            connections.map(|(conn, id)| (*conn, id)).collect();
        assert_eq!(connections.len(), self.presence.len());
        for (conn, rooms) in &self.presence {
            let client = &self.rooms[&rooms[0]].people[conn].client;
            assert_eq!(connections.get(conn), Some(&&client.client_id));
        }
    }

    fn room_view(&self, room: &Room, client: &ClientCard) -> RoomView {
        let is_visible =
            |id: &ChannelId| self.channels.get(id).is_some_and(|channel| channel.admits(client));
        RoomView {
            name: room.name().clone(),
            room_type: room.room_type.as_str(),
            state: if room.paused { "paused" } else { "active" },
            channels: room
                .channels
                .iter()
                .filter(|(_, id)| is_visible(id))
                .map(|(name, _)| name.clone())
                .collect(),
            created_at: Time(room.created_us),
            created_by: room.created_by.clone(),
            config: room.config.clone(),
            participant_count: room.people.len() as u64 + self.residents(room.name()),
        }
    }

    fn insert_room(
        &mut self,
        now: Now,
        name: Name,
        room_type: RoomType,
        created_by: Option<Name>,
        config: RoomConfig,
    ) -> &mut Room {
        let id = self.next_id();
        let size = config.history_size.unwrap_or(self.limits.history_size);
        let room = Room {
            id,
            every: Arc::new(Address { room: name.clone(), channel: Name::every() }),
            room_type,
            paused: false,
            created_us: now.wall_us,
            created_by,
            config,
            channels: BTreeMap::new(),
            history: self.new_history(size),
            people: Map::with_hasher(self.hasher.clone()),
            spread: Default::default(),
            followers: Default::default(),
            watched: BTreeSet::new(),
            presence: None,
            is_awaited: false,
        };
        self.whole_rooms.insert(id, name.clone());
        self.room_names.insert(name.clone());
        self.rooms.entry(name).insert(room).into_mut()
    }

    fn remove_room(&mut self, name: &Name, told: &mut Told) {
        if let Some(id) = self.rooms.get(name).map(|room| room.id) {
            self.unfollow(id, told);
        }
        if let Some(room) = self.rooms.remove(name) {
            self.unrecorded_rooms.remove(name);
            self.forget_kept(room.id, &room.history, Record::RoomGone(name.clone()), told);
            self.retention.forget(room.id, &room.history);
            self.whole_rooms.remove(&room.id);
            self.room_names.remove(name);
            self.on_node.rooms.give_back();
        }
    }

    /// Makes a channel in a room that is there; the caller has taken its place. Who joined the
    /// whole room becomes a member by [`Home::open_to_room`].
    fn insert_channel(
        &mut self,
        now: Now,
        address: Address,
        channel_type: ChannelType,
        created_by: Option<Name>,
        auto_created: bool,
        told: &mut Told,
    ) -> &mut Channel {
        let id = self.next_id();
        let room = self.rooms.get_mut(&address.room);
        let room = match room {
            Some(room) => room,
            None => unreachable!("a channel is made in a room that is there"),
        };
        room.channels.insert(address.channel.clone(), id);
        let (size, open) = (room.config.history_size, room.is_open());
        let history = self.new_history(size.unwrap_or(self.limits.history_size));
        let mut channel = Channel::new(id, address, history);
        channel.channel_type = channel_type;
        channel.created_us = now.wall_us;
        channel.created_by = created_by;
        channel.auto_created = auto_created;
        channel.open = open;
        let place = channel.place();
        let created_by = channel.created_by.as_ref().and_then(|creator| place.known(creator));
        told.telemetry.push(Event::ChannelCreated { place, created_by, auto_created });
        self.channels.entry(id).insert(channel).into_mut()
    }

    fn remove_channel(&mut self, id: ChannelId, told: &mut Told) {
        self.unfollow(id, told);
        let Some(channel) = self.channels.remove(&id) else { return };
        let address = &channel.address;
        self.forget_kept(id, &channel.history, Record::ChannelGone(address.clone()), told);
        self.retention.forget(id, &channel.history);
        self.on_node.channels.give_back();
        if let Some(room) = self.rooms.get_mut(&address.room) {
            room.channels.remove(&address.channel);
            room.watched.remove(&id);
        }
        if self.is_abandoned(&address.room) {
            self.remove_room(&address.room, told);
        }
        told.telemetry.push(Event::ChannelDeleted { place: channel.place() });
    }

    /// Sees to it that a room has its channel for private messages.
    fn ensure_pm(&mut self, now: Now, room: &Name, sender: &Name, told: &mut Told) {
        let Some(known) = self.rooms.get(room) else { return };
        let id = match known.channels.get(PRIVATE_CHANNEL) {
            Some(&id) => id,
            None => {
                let channel = Name::fixed(PRIVATE_CHANNEL);
                let address = Address { room: room.clone(), channel };
                self.on_node.channels.take_anyway();
                let sender = Some(sender.clone());
                let id = self.insert_channel(now, address, ChannelType::Pm, sender, true, told).id;
                self.note_if_empty(now, id);
                id
            }
        };
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.empty_since_ms = Some(now.mono_ms());
        }
    }

    fn disconnect(&self, ask: DisconnectAsk, told: &mut Told) {
        let DisconnectAsk { client_id, reason, conn, question } = ask;
        let holder = self.directory.holder(&client_id);
        let peer = self.peer_of(&client_id).filter(|_| holder.is_none());
        if let Some(peer) = peer {
            let (client_id, reason) = (client_id.clone(), reason.clone());
            send(peer, PeerNote::Disconnect { client_id, reason }, told);
        }
        let outcome = match holder.is_some() || peer.is_some() {
            true => Ok(RoomAnswer::Disconnected(client_id)),
            false if self.is_cut_off() => Err(Refusal::of_field(
                Fault::StorageUnavailable,
                "parameters.client_id",
                format!(
                    "No client {client_id} is connected to this node, and the others can't be reached now; try again later."
                ),
            )),
            false => Err(Refusal::of_field(
                Fault::ClientNotFound,
                "parameters.client_id",
                format!("No client {client_id} is connected."),
            )),
        };
        let answer = Answer { conn: conn.conn, question, outcome };
        told.tell(conn.shard, Tell::Answer(Box::new(answer)));
        // Behind the answer, which a client that sends itself away would otherwise not get.
        if let Some(holder) = holder {
            told.tell(holder.shard, Tell::Disconnect(holder.conn, reason));
        }
    }

    fn private(&self, ask: PrivateAsk, told: &mut Told) {
        let (mut missing, mut far) = (Vec::new(), BTreeMap::<PeerId, Vec<Name>>::new());
        for target in ask.targets {
            match (self.directory.holder(&target), self.peer_of(&target)) {
                (Some(holder), _) => {
                    told.tell(holder.shard, Tell::Deliver(holder.conn, ask.frame.clone()));
                }
                (None, Some(peer)) => far.entry(peer).or_default().push(target),
                (None, None) => missing.push(target),
            }
        }
        for (peer, targets) in far {
            send(peer, PeerNote::Private { targets, frame: ask.frame.clone() }, told);
        }
        let is_unsure = !missing.is_empty() && self.is_cut_off();
        let part = Part::Missing { targets: missing, is_unsure };
        let part = Tell::Part { pending: ask.reply_to.pending, shard: self.shard, part };
        told.tell(ask.reply_to.shard, part);
    }

    /// Gives up old messages as long as all histories together hold more than they may.
    fn shed(&mut self, told: &mut Told) {
        while self.retention.is_over() && self.evict_from_largest(told) {}
    }

    /// Gives up so many bytes of stored messages, as far as one turn may, the largest histories first.
    pub fn give_up(&mut self, bytes: u64, told: &mut Told) {
        let held = |home: &Home| home.retention.total().bytes as u64;
        let goal = held(self).saturating_sub(bytes);
        for _ in 0..SHED_MESSAGES_MAX {
            if held(self) <= goal || !self.evict_from_largest(told) {
                return;
            }
        }
    }

    /// Deletes the oldest message of a history that holds about the most; `false` if none holds any.
    fn evict_from_largest(&mut self, told: &mut Told) -> bool {
        let Some(id) = self.retention.largest() else { return false };
        let Home { channels, whole_rooms, rooms, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return false };
        let before = history.held();
        history.evict();
        self.retention.account(id, before, history);
        self.trim_beneath_fork(id);
        told.shed += 1;
        true
    }

    fn new_history(&mut self, size: u32) -> History {
        let epoch = self.new_life();
        History::new(epoch, size, history_bytes_max(&self.limits), self.hasher.clone())
    }

    /// 16 characters: long enough that a channel never meets an old life's epoch again.
    fn new_life(&mut self) -> Arc<str> {
        format!("{:016x}", self.rng.u64(..)).into()
    }

    fn next_id(&mut self) -> ChannelId {
        self.ids_given += 1;
        ChannelId::new(self.shard, self.ids_given)
    }

    fn stamp(&mut self, now: Now) -> Stamp {
        stamp(&mut self.rng, now)
    }
}

/// Says something to a peer.
fn send(peer: PeerId, note: PeerNote, told: &mut Told) {
    told.records.push(Record::Peer(Box::new(PeerRecord::Send(peer, note))));
}

/// The history of that id: a channel's, or that of a whole room.
fn history_of<'h>(
    id: ChannelId,
    channels: &'h mut Map<ChannelId, Channel>,
    whole_rooms: &Map<ChannelId, Name>,
    rooms: &'h mut Map<Name, Room>,
) -> Option<&'h mut History> {
    match channels.get_mut(&id) {
        Some(channel) => Some(&mut channel.history),
        None => Some(&mut rooms.get_mut(whole_rooms.get(&id)?)?.history),
    }
}

/// The address under that id: a channel's, or that of a whole room.
fn address_of(
    id: ChannelId,
    channels: &Map<ChannelId, Channel>,
    whole_rooms: &Map<ChannelId, Name>,
    rooms: &Map<Name, Room>,
) -> Option<Arc<Address>> {
    match channels.get(&id) {
        Some(channel) => Some(channel.address.clone()),
        None => Some(rooms.get(whole_rooms.get(&id)?)?.every.clone()),
    }
}

/// The bytes that one channel's history may hold.
fn history_bytes_max(limits: &Limits) -> usize {
    match limits.history_bytes {
        0 => usize::MAX,
        bytes => bytes as usize,
    }
}

/// The id and time of something the server says.
pub fn stamp(rng: &mut fastrand::Rng, now: Now) -> Stamp {
    let ulid = ulid::Ulid::from_parts(now.wall_us / 1_000, rng.u128(..));
    Stamp { ulid, at_us: now.wall_us }
}
