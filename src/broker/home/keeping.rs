//! What of a home is kept beyond its life: the records it makes, what the storage says of them, and
//! how it begins with what was kept before.
//!
//! | what | when it is recorded | with `persist` |
//! |---|---|---|
//! | an event | when it has its place | `history`, `all` |
//! | a channel, and the `*` of a room | when it is made, before its first event | `history`, `all` |
//! | a room with its config | when it is made | `history`, `all` |
//! | whether a room is paused | when it is paused or resumed | `all` |
//! | a channel, in another term | when a client joins it, or before its first event in that term | `history`, `all` |
//! | that one of them is gone | when it goes, however that comes about | `history`, `all` |
//!
//! Rooms that are configured are not recorded, for the configuration says what they are; their
//! channels are. The channel for private messages has no history and is not recorded.
//!
//! At the beginning nothing that was kept is given up but what a room that is there, configured or
//! recorded, says is not to be kept. Of a room that nothing is known of the channels are kept all the
//! same: its record may have been lost, or a configuration that named it.
//!
//! *Invariants*: without a [`Durability`] no record is made; the storage hears of a channel before
//! its first event, again if its record was lost; whatever is in `unrecorded` is there.
//!
//! *Panics*: the engine passes news of sessions to the edge, and the storage lanes always have a
//! place for `Merged`; which of them comes is decided by this program, not by bytes from Redis.

use crate::base::ids::ChannelId;
use crate::base::limits::GONE_UNSAID_MAX;
use crate::base::time::Now;
use crate::broker::acks::{Acks, Degraded};
use crate::broker::channel::Channel;
use crate::broker::durable::{Durability, Durable};
use crate::broker::history::{Held, History};
use crate::broker::home::shared::Shared;
use crate::broker::home::{Home, Told, history_of};
use crate::broker::record::{
    ChannelRecord, KeptChannel, Record, RoomRecord, Snapshot, StorageNews,
};
use crate::broker::room::{Room, RoomType};
use crate::protocol::command::{Address, ChannelType, Persist, RoomConfig};
use crate::protocol::names::{Name, PRIVATE_CHANNEL};
use crate::protocol::views::{StorageView, Time};
use std::collections::BTreeSet;
use std::sync::Arc;

impl Home {
    /// Gives up what is older than is kept of a channel, before somebody looks at its history.
    pub(super) fn forget_old(&mut self, now: Now, id: ChannelId) {
        let Home { channels, whole_rooms, rooms, retention, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        let before = history.held();
        if history.forget_old(now.wall_us) {
            retention.account(id, before, history);
            self.trim_beneath_fork(id);
        }
    }

    /// Begins with what was kept, and keeps what comes. Called once, before the first ask. Rooms that
    /// are there already are configured, and stay as they are configured.
    ///
    /// Whoever was a member is not yet back, so every channel and every room that a join made has its
    /// full time to be joined again.
    pub fn begin_with(
        &mut self,
        now: Now,
        durability: Durability,
        snapshot: Snapshot,
        told: &mut Told,
    ) {
        self.acks = Acks::new(durability.ack_timeout_ms);
        self.shared = durability.is_shared.then(|| Box::new(Shared::new(&self.hasher)));
        self.durability = Some(durability);
        self.is_unread = snapshot.is_unread;
        let mut given_up = BTreeSet::new();
        for room in snapshot.rooms {
            if !self.rooms.contains_key(&room.name)
                && self.persist(&room.name, &room.config) == Persist::None
            {
                given_up.insert(room.name.clone());
                told.records.push(Record::RoomGone(room.name));
            } else {
                self.restore_room(now, room);
            }
        }
        for kept in snapshot.channels {
            let address = &kept.record.address;
            let is_given_up = match self.rooms.get(&address.room) {
                Some(room) => self.persist(&address.room, &room.config) == Persist::None,
                None => given_up.contains(&address.room),
            };
            match is_given_up {
                true => told.records.push(Record::ChannelGone(address.clone())),
                false if self.shared.is_some() => self.restore_shared(now, kept),
                false => self.restore_channel(now, kept),
            }
        }
        let mut names: Vec<Name> = self.rooms.keys().cloned().collect();
        names.sort_unstable();
        for name in names {
            if self.is_abandoned(&name) {
                self.remove_room(&name, told);
                continue;
            }
            self.keep_history(self.rooms[&name].id, told);
            let channels: Vec<ChannelId> = self.rooms[&name].channels.values().copied().collect();
            for id in channels {
                self.keep_channel(id, told);
            }
        }
        self.shed(told);
    }

    /// Hears what the storage says.
    pub(super) fn on_storage(&mut self, now: Now, news: StorageNews, told: &mut Told) {
        match news {
            StorageNews::Stored(channels) => {
                for (channel, sequence) in channels {
                    self.note_stored(channel, sequence, told);
                }
            }
            StorageNews::Degraded(reason) => {
                self.acks.degrade(Degraded::new(now.wall_us, reason), told);
                self.go_on_alone(now, told);
            }
            StorageNews::Cause(reason) => self.acks.note_cause(now.wall_us, reason),
            // The node acts on it.
            StorageNews::Ended(_) => {}
            StorageNews::Restored => {
                self.acks.restore();
                self.is_unread = false;
                self.go_on_together(now, told);
            }
            StorageNews::Late(kept) => self.on_late(now, *kept, told),
            StorageNews::Peer(news) => self.on_peers(now, news, told),
            StorageNews::Session(..) => unreachable!("it is for the edge"),
            StorageNews::Lost { channel, first, last } if self.shared.is_some() => {
                self.on_unplaced(channel, (first, last), told);
            }
            StorageNews::Lost { channel, first, last }
            | StorageNews::Forgotten { channel, first, last } => {
                self.note_lost(channel, first, last, told);
            }
            StorageNews::AllForgotten => {
                let Home { channels, rooms, .. } = self;
                let of_channels = channels.values_mut().map(|channel| &mut channel.history);
                let histories = of_channels.chain(rooms.values_mut().map(|room| &mut room.history));
                for durable in histories.filter_map(|history| history.durable.as_mut()) {
                    durable.note_forgotten();
                }
            }
        }
    }

    /// Whether rooms, channels and orders may be there that this home can't know of now.
    pub(super) fn is_unsure(&self) -> bool {
        self.is_unread || self.is_cut_off()
    }

    /// Whether there may be other nodes, and they can't be reached.
    pub(super) fn is_cut_off(&self) -> bool {
        self.shared.is_some() && self.acks.degraded().is_some()
    }

    /// There was no place for a record of this home: nobody will ever store it.
    pub fn lose(&mut self, record: Record, told: &mut Told) {
        match record {
            Record::Event(event) => {
                let sequence = event.frame.sequence;
                self.note_lost(event.channel, sequence, sequence, told);
            }
            Record::Peer(record) => self.lose_of_peers(*record, told),
            Record::Session(_) => unreachable!("it is of the edge"),
            Record::Merged(_) => unreachable!("there is always a place for it"),
            // It is recorded again before the next event of it can be.
            Record::Channel(channel) => {
                let Some(id) = self.id_of(&channel.address) else { return };
                let Some(history) = self.history_mut(id) else { return };
                if let Some(durable) = &mut history.durable {
                    durable.is_recorded = false;
                    self.unrecorded.insert(id);
                }
            }
            Record::Room(room) => {
                if self.rooms.contains_key(&room.name) {
                    self.unrecorded_rooms.insert(room.name);
                }
            }
            Record::RoomGone(name) => {
                let every = Address { room: name.clone(), channel: Name::every() };
                self.note_unsaid(every.to_string(), Record::RoomGone(name));
            }
            Record::ChannelGone(address) => {
                self.note_unsaid(address.to_string(), Record::ChannelGone(address));
            }
        }
    }

    /// Notes that the storage has to hear once more that something is gone.
    fn note_unsaid(&mut self, address: String, gone: Record) {
        // Beyond that it is still kept, and comes back with the next life of the home.
        if self.unsaid.len() < GONE_UNSAID_MAX {
            self.unsaid.insert(address, gone);
        }
    }

    /// What the storage has to hear before it is given what is told: of histories that go on in
    /// another term, and all whose records were lost.
    pub fn take_overdue(&mut self, told: &mut Told) -> Vec<Record> {
        let mut overdue: Vec<Record> = std::mem::take(&mut self.unsaid).into_values().collect();
        for name in std::mem::take(&mut self.unrecorded_rooms) {
            overdue.extend(self.room_record(&name));
        }
        let begun = std::mem::take(&mut told.begun).into_iter();
        for id in begun.chain(std::mem::take(&mut self.unrecorded)) {
            let durable = self.history_mut(id).and_then(|history| history.durable.as_mut());
            if durable.is_some_and(|durable| !std::mem::replace(&mut durable.is_recorded, true)) {
                overdue.extend(self.history_record(id));
            }
        }
        overdue
    }

    /// How the storage does, as far as this home knows.
    pub fn storage_view(&self, pending: u64, lost: u64) -> Option<StorageView> {
        self.durability.as_ref()?;
        let degraded = self.acks.degraded();
        let degraded = degraded
            .map(|known| (Time(known.since_us), known.reason.clone(), Time(known.reason_us)));
        Some(StorageView::new(degraded, pending, lost))
    }

    /// How many acks wait for the storage.
    pub fn waiting_acks(&self) -> usize {
        self.acks.count()
    }

    /// Whether anything is kept beyond the life of this home.
    pub fn is_durable(&self) -> bool {
        self.durability.is_some()
    }

    /// A new room is kept from now on, if it is to be.
    pub(super) fn keep_room(&mut self, name: &Name, told: &mut Told) {
        self.record_room(name, told);
        if let Some(room) = self.rooms.get(name) {
            self.keep_history(room.id, told);
        }
    }

    /// A new channel is kept from now on, if it is to be.
    pub(super) fn keep_channel(&mut self, id: ChannelId, told: &mut Told) {
        if self.channels.get(&id).is_some_and(|channel| channel.channel_type != ChannelType::Pm) {
            self.keep_history(id, told);
        }
    }

    /// Records a room as it is now, if it is to be.
    pub(super) fn record_room(&self, name: &Name, told: &mut Told) {
        told.records.extend(self.room_record(name));
    }

    fn room_record(&self, name: &Name) -> Option<Record> {
        let room = self.rooms.get(name)?;
        let persist = self.persist(name, &room.config);
        let is_recorded = persist != Persist::None && room.room_type != RoomType::System;
        is_recorded.then(|| {
            Record::Room(Box::new(RoomRecord {
                name: name.clone(),
                room_type: room.room_type,
                paused: room.paused && persist == Persist::All,
                created_us: room.created_us,
                created_by: room.created_by.clone(),
                config: room.config.clone(),
            }))
        })
    }

    /// A history is gone, and what was kept of it.
    pub(super) fn forget_kept(
        &mut self,
        id: ChannelId,
        history: &History,
        gone: Record,
        told: &mut Told,
    ) {
        if let Some(durable) = &history.durable {
            self.acks.forget(id, told);
            self.unrecorded.remove(&id);
            // Of what is shared the storage says what became of each submission, also of a channel that is
            // gone by then.
            if !durable.is_shared {
                told.forgotten += durable.open(history.last());
            }
            told.records.push(gone);
        }
    }

    /// Asserts the invariants of what is kept; for tests and the simulator.
    pub(super) fn check_kept(&self) {
        self.acks.check();
        let is_there =
            |id: &ChannelId| self.channels.contains_key(id) || self.whole_rooms.contains_key(id);
        assert!(self.unrecorded.iter().all(is_there), "only what is there can be recorded again");
        let is_there = |name: &Name| self.rooms.contains_key(name);
        assert!(self.unrecorded_rooms.iter().all(is_there), "so with rooms");
        assert!(self.unsaid.len() <= GONE_UNSAID_MAX);
        for room in self.rooms.values() {
            let is_kept = self.persist(room.name(), &room.config) != Persist::None;
            assert_eq!(room.history.durable.is_some(), is_kept, "a room knows whether it is kept");
            for id in room.channels.values() {
                let channel = &self.channels[id];
                let is_kept = is_kept && channel.channel_type != ChannelType::Pm;
                assert_eq!(channel.history.durable.is_some(), is_kept, "so does a channel");
            }
        }
    }

    pub(super) fn persist(&self, name: &Name, config: &RoomConfig) -> Persist {
        let durability = self.durability.as_ref();
        durability.map_or(Persist::None, |durability| durability.of_room(name, config))
    }

    /// Keeps a history from now on, if it is to be and is not yet.
    pub(super) fn keep_history(&mut self, id: ChannelId, told: &mut Told) {
        let Some(durability) = &self.durability else { return };
        let room = match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => self.rooms.get(&channel.address.room),
            (None, name) => name.and_then(|name| self.rooms.get(name)),
        };
        let Some(room) = room else { return };
        if durability.of_room(room.name(), &room.config) == Persist::None {
            return;
        }
        let size = room.config.history_size.unwrap_or(self.limits.history_size);
        let keep = durability.keep(size, self.limits.history_bytes);
        let (ack_when, is_shared) = (room.config.ack_when, durability.is_shared);
        let Some(history) = self.history_mut(id) else { return };
        if history.durable.is_none() {
            let mut durable = Durable::new(history.epoch().clone(), keep, ack_when);
            (durable.is_recorded, durable.is_shared) = (true, is_shared);
            history.durable = Some(Box::new(durable));
            let record = self.history_record(id);
            if let Some(Record::Channel(channel)) = &record {
                // This life of it takes the place of the one before, whose end needs not be told.
                self.unsaid.remove(&channel.address.to_string());
            }
            told.records.extend(record);
        }
    }

    /// What the storage has to know of a history that is kept before its first event.
    pub(super) fn history_record(&self, id: ChannelId) -> Option<Record> {
        let record = match self.channels.get(&id) {
            Some(channel) => history_record_of(channel)?,
            None => of_whole_room(self.rooms.get(self.whole_rooms.get(&id)?)?)?,
        };
        Some(Record::Channel(Box::new(record)))
    }

    fn note_stored(&mut self, id: ChannelId, sequence: u64, told: &mut Told) {
        let Some(history) = self.history_mut(id) else { return };
        let last = history.last();
        let Some(durable) = &mut history.durable else { return };
        let before = durable.open(last);
        durable.note_stored(sequence.min(last));
        told.stored += before - durable.open(last);
        self.acks.note_stored(id, sequence, told);
    }

    fn note_lost(&mut self, id: ChannelId, first: u64, to: u64, told: &mut Told) {
        let Some(history) = self.history_mut(id) else { return };
        let last = history.last();
        let Some(durable) = &mut history.durable else { return };
        let (first, to) = (first.max(1), to.min(last));
        if first <= to {
            let before = durable.open(last);
            durable.note_lost(first, to);
            told.lost += before - durable.open(last);
            self.acks.note_lost(id, (first, to), told);
        }
    }

    pub(super) fn restore_room(&mut self, now: Now, record: RoomRecord) {
        let RoomRecord { name, room_type, paused, created_us, created_by, config } = record;
        if self.rooms.contains_key(&name) {
            return;
        }
        // One that was configured and is not any more can be deleted.
        let room_type = match room_type {
            RoomType::System => RoomType::User,
            other => other,
        };
        self.on_node.rooms.take_anyway();
        let room = self.insert_room(now, name, room_type, created_by, config);
        (room.paused, room.created_us) = (paused, created_us);
    }

    pub(super) fn restore_channel(&mut self, now: Now, kept: KeptChannel) {
        let KeptChannel { record, last, last_us, messages } = kept;
        let address = record.address.clone();
        if address.channel.as_str() == PRIVATE_CHANNEL {
            return;
        }
        let (life, terms) = (record.epoch.clone(), (record.term, record.past.clone()));
        let id = self.place_for(now, record);
        let term = self.rng.u32(1..);
        let Home { durability, limits, channels, whole_rooms, rooms, retention, .. } = self;
        let Some(durability) = durability else { return };
        let room = rooms.get(&address.room).map(|room| room.config.clone()).unwrap_or_default();
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        if history.durable.is_some() {
            return;
        }
        let size = room.history_size.unwrap_or(limits.history_size);
        let keep = durability.keep(size, limits.history_bytes);
        let durable = Durable::new(life, keep, room.ack_when).go_on(terms, term, last);
        history.restore(durable.epoch(), last, last_us, &messages);
        history.durable = Some(Box::new(durable));
        retention.account(id, Held::default(), history);
        self.await_members(now, id);
    }

    /// The new history that stands for a kept channel, which is made if it is not configured.
    pub(super) fn place_for(&mut self, now: Now, record: ChannelRecord) -> ChannelId {
        let address = &record.address;
        if !self.rooms.contains_key(&address.room) {
            // Nothing is known of the room; what was kept of it once is kept on.
            let persist = self.persist(&address.room, &RoomConfig::default());
            let persist = (persist == Persist::None).then_some(Persist::History);
            let config = RoomConfig { persist, ..RoomConfig::default() };
            let room_type = match record.auto_created {
                true => RoomType::Dynamic,
                false => RoomType::User,
            };
            self.on_node.rooms.take_anyway();
            let (name, creator) = (address.room.clone(), record.created_by.clone());
            let room = self.insert_room(now, name, room_type, creator, config);
            room.created_us = record.created_us;
        }
        let known = self.id_of(address);
        known.unwrap_or_else(|| {
            self.on_node.channels.take_anyway();
            let ChannelRecord { channel_type, created_by, auto_created, .. } = record;
            let (address, untold) = ((**address).clone(), &mut Told::default());
            let channel =
                self.insert_channel(now, address, channel_type, created_by, auto_created, untold);
            channel.created_us = record.created_us;
            channel.metadata = record.metadata;
            channel.guests = record.guests;
            channel.id
        })
    }

    pub(super) fn id_of(&self, address: &Address) -> Option<ChannelId> {
        let room = self.rooms.get(&address.room)?;
        match address.channel.is_every() {
            true => Some(room.id),
            false => room.channels.get(&address.channel).copied(),
        }
    }

    pub(super) fn history_mut(&mut self, id: ChannelId) -> Option<&mut History> {
        let Home { channels, whole_rooms, rooms, .. } = self;
        history_of(id, channels, whole_rooms, rooms)
    }
}

pub(super) fn history_record_of(channel: &Channel) -> Option<ChannelRecord> {
    let durable = channel.history.durable.as_ref()?;
    Some(ChannelRecord {
        address: channel.address.clone(),
        epoch: durable.life.clone(),
        term: durable.term,
        past: durable.past.clone(),
        channel_type: channel.channel_type,
        created_us: channel.created_us,
        created_by: channel.created_by.clone(),
        metadata: channel.metadata.clone(),
        guests: channel.guests.clone(),
        auto_created: channel.auto_created,
    })
}

/// The order of what is sent to all of a room, as a channel.
fn of_whole_room(room: &Room) -> Option<ChannelRecord> {
    let durable = room.history.durable.as_ref()?;
    Some(ChannelRecord {
        address: Arc::clone(&room.every),
        epoch: durable.life.clone(),
        term: durable.term,
        past: durable.past.clone(),
        channel_type: ChannelType::General,
        created_us: room.created_us,
        created_by: room.created_by.clone(),
        metadata: None,
        guests: Vec::new(),
        auto_created: room.room_type == RoomType::Dynamic,
    })
}
