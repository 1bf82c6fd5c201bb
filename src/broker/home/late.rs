//! A room that was kept, and is read when the home has been at work for a while: it is put together with
//! the room of that name that is there by now, if one is. [`crate::broker::late`] says how, and why so.
//!
//! | what is there | what becomes of what was kept |
//! |---|---|
//! | no such room | it begins, as with the start of a home |
//! | a room, but no such channel | the channel begins; who joined the whole room is in it, and is told |
//! | a channel in which nobody is and nothing was said | the same |
//! | a channel | it goes on in its kept life, with what was said behind; its members are told |
//! | a room whose configuration says that nothing is kept | it goes, as with a start |
//! | a room that was made with `persist` `none` since | it stays where it is, for the next start |
//!
//! *Invariants*: the [`Record::Merged`] of a room comes before every record that is made of it here, and
//! nothing that was recorded before and not taken comes after it; no event is told to anybody here.
//!
//! *Panics*: records are only added while a room is read in, so the place of its first record
//! exists.

use crate::base::ids::ChannelId;
use crate::base::time::Now;
use crate::broker::durable::Durable;
use crate::broker::history::History;
use crate::broker::home::keeping::history_record_of;
use crate::broker::home::ordering::{Change, reason};
use crate::broker::home::{Home, Told, history_bytes_max, history_of};
use crate::broker::late::{
    self, KeptRoom, Merged, MergedChannel, Renumbering, channel_of_both, settings_of_both,
};
use crate::broker::record::{ChannelRecord, EventRecord, KeptChannel, Record, RoomRecord};
use crate::broker::room::RoomType;
use crate::protocol::command::{AckWhen, Address, Persist};
use crate::protocol::frame::FrameRef;
use crate::protocol::names::{Name, PRIVATE_CHANNEL};
use std::sync::Arc;

/// What is done with what was kept of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lot {
    /// It goes on.
    GoesOn,
    /// It is given up.
    Goes,
    /// It stays in the storage.
    Stays,
}

impl Home {
    /// Takes in a room that was kept.
    pub(super) fn on_late(&mut self, now: Now, kept: KeptRoom, told: &mut Told) {
        let KeptRoom { name, room, channels } = kept;
        // Whoever made and ended the like of it since did not know of this.
        self.unsaid.retain(|_, gone| !is_of(gone, &name));
        self.unrecorded_rooms.remove(&name);
        let was_there = self.rooms.contains_key(&name);
        let first_record = told.records.len();
        let lot = self.take_room(now, &name, room, told);
        let mut merged = Vec::with_capacity(channels.len());
        for kept in channels {
            let address = kept.record.address.clone();
            merged.push(match lot {
                Lot::GoesOn => self.take_channel(now, kept, told),
                Lot::Stays => untouched(address),
                Lot::Goes => {
                    told.records.push(Record::ChannelGone(address.clone()));
                    untouched(address)
                }
            });
        }
        if self.is_abandoned(&name) {
            self.remove_room(&name, told);
        }
        if was_there && lot == Lot::GoesOn {
            self.record_room(&name, told);
        }
        self.keep_all_of(&name, told);
        // Members have been told of these terms: they are recorded with the answer itself.
        for channel in &mut merged {
            let id = self.id_of(&channel.address).filter(|id| told.begun.remove(id));
            if let Some(id) = id {
                channel.record = self.recorded_now(id);
            }
        }
        let answer = Merged { room: name, channels: merged };
        told.records.insert(first_record, Record::Merged(Box::new(answer)));
        self.shed(told);
    }

    /// Puts a room together with the one that was kept, or makes it.
    fn take_room(
        &mut self,
        now: Now,
        name: &Name,
        kept: Option<RoomRecord>,
        told: &mut Told,
    ) -> Lot {
        let Some(room) = self.rooms.get(name) else {
            return match kept {
                Some(kept) if self.persist(name, &kept.config) == Persist::None => {
                    told.records.push(Record::RoomGone(name.clone()));
                    Lot::Goes
                }
                Some(kept) => {
                    self.restore_room(now, kept);
                    Lot::GoesOn
                }
                // As with a start: of a room that nothing is known of everything is kept.
                None => Lot::GoesOn,
            };
        };
        let is_configured = room.room_type == RoomType::System;
        let config = match kept {
            Some(ref kept) if !is_configured => {
                settings_of_both(room.config.clone(), kept.config.clone())
            }
            _ => room.config.clone(),
        };
        if self.persist(name, &config) == Persist::None {
            return match !is_configured && config.persist.is_some() {
                true => Lot::Stays,
                false => Lot::Goes,
            };
        }
        let Some(room) = self.rooms.get_mut(name) else { return Lot::GoesOn };
        room.config = config;
        if let Some(kept) = kept.filter(|_| !is_configured) {
            room.paused |= kept.paused;
            (room.created_us, room.created_by) = (kept.created_us, kept.created_by);
            if kept.room_type != RoomType::Dynamic {
                room.room_type = RoomType::User;
            }
        }
        self.refit(name);
        Lot::GoesOn
    }

    /// Has the channels of a room be as its settings say by now.
    fn refit(&mut self, name: &Name) {
        let Home { limits, rooms, channels, retention, durability, .. } = self;
        let Some(room) = rooms.get_mut(name) else { return };
        let (is_open, bytes_max) = (room.is_open(), history_bytes_max(limits));
        let size = room.config.history_size.unwrap_or(limits.history_size);
        let ack_when = room.config.ack_when.unwrap_or(AckWhen::Stored);
        let keep = durability.as_ref().map(|known| known.keep(size, limits.history_bytes));
        let mut fit = |id: ChannelId, history: &mut History| {
            let before = history.held();
            history.resize(size, bytes_max);
            retention.account(id, before, history);
            if let (Some(keep), Some(durable)) = (keep, &mut history.durable) {
                (durable.keep, durable.ack_when) = (keep, ack_when);
            }
        };
        fit(room.id, &mut room.history);
        for &id in room.channels.values() {
            if let Some(channel) = channels.get_mut(&id) {
                channel.open = is_open;
                fit(id, &mut channel.history);
            }
        }
        let ids: Vec<ChannelId> = room.channels.values().copied().chain([room.id]).collect();
        ids.into_iter().for_each(|id| self.trim_beneath_fork(id));
    }

    /// Puts a channel together with the one that was kept, or makes it.
    fn take_channel(&mut self, now: Now, kept: KeptChannel, told: &mut Told) -> MergedChannel {
        let address = kept.record.address.clone();
        if address.channel.as_str() == PRIVATE_CHANNEL {
            return untouched(address);
        }
        let is_unknown = |history: &mut History| history.durable.is_none() && history.last() == 0;
        match self.id_of(&address) {
            Some(id)
                if !self.is_without_members(id)
                    || !self.history_mut(id).is_some_and(is_unknown) =>
            {
                self.merge_channel(now, id, kept, told)
            }
            _ => {
                self.restore_channel(now, kept);
                if let Some(id) = self.id_of(&address).filter(|id| self.channels.contains_key(id)) {
                    self.open_to_room(now, id, told);
                    if !self.is_without_members(id) {
                        // They know of no place in it, and it does not begin with them.
                        let reason = reason::STORAGE_RESTORED;
                        self.tell_new_order(now, id, Change { sure: 0, reason }, told);
                    }
                }
                untouched(address)
            }
        }
    }

    /// A channel that has a life of its own goes on in the one that was kept.
    fn merge_channel(
        &mut self,
        now: Now,
        id: ChannelId,
        kept: KeptChannel,
        told: &mut Told,
    ) -> MergedChannel {
        let address = kept.record.address.clone();
        self.acks.refuse_all(id, told);
        let term = self.rng.u32(1..);
        let Home { durability, limits, channels, whole_rooms, rooms, retention, times, .. } = self;
        let config = rooms.get(&address.room).map(|room| room.config.clone()).unwrap_or_default();
        let size = config.history_size.unwrap_or(limits.history_size);
        let Some(durability) = durability else { return untouched(address) };
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else {
            return untouched(address);
        };
        let keep = durability.keep(size, limits.history_bytes);
        let terms = (kept.record.term, kept.record.past.clone());
        let mut durable = Durable::new(kept.record.epoch.clone(), keep, config.ack_when)
            .go_on(terms, term, kept.last);
        let mut both =
            History::new(durable.epoch(), size, history_bytes_max(limits), self.hasher.clone());
        let dropped = late::put_behind(&mut both, durable.epoch(), &kept, history, times);
        let before = history.durable.take();
        let renumbering = Renumbering {
            channel: id,
            from: before
                .as_ref()
                .map_or_else(|| history.epoch().clone(), |known| known.life.clone()),
            to: kept.record.epoch.clone(),
            base: kept.last,
            not_before_us: kept.last_us,
            dropped,
            keep,
        };
        let (said, held) = (history.last(), history.held());
        if let Some(before) = &before {
            durable.take_losses(before, &renumbering);
            // Repeats that waited to be stored wait no more.
            told.forgotten += before.open(said).saturating_sub(durable.open(both.last()));
        }
        both.rank = history.rank;
        both.durable = Some(Box::new(durable));
        *history = both;
        retention.account(id, held, history);
        self.unrecorded.remove(&id);
        told.begun.remove(&id);
        let is_other = said > 0 || !self.is_without_members(id) || self.is_made_by_hand(id);
        self.take_over_channel(now, id, &kept.record, told);
        if before.is_none() {
            self.record_said(id, kept.last, told);
        }
        if !is_other {
            // Nobody knows of the life that it had; the new term is told when somebody is to.
            self.note_if_empty(now, id);
            return untouched(address);
        }
        let reason = reason::STORAGE_RESTORED;
        self.tell_new_order(now, id, Change { sure: 0, reason }, told);
        self.note_if_empty(now, id);
        MergedChannel { address, record: self.recorded_now(id), said: Some(renumbering) }
    }

    /// Whether a command made the channel: it may be another than was kept.
    fn is_made_by_hand(&self, id: ChannelId) -> bool {
        self.channels.get(&id).is_some_and(|channel| !channel.auto_created && !channel.hardcoded)
    }

    /// A channel is beside its order what it is by both; who may not be in it any more goes.
    fn take_over_channel(
        &mut self,
        now: Now,
        id: ChannelId,
        kept: &ChannelRecord,
        told: &mut Told,
    ) {
        let Some(channel) = self.channels.get(&id) else { return };
        let Some(new) = history_record_of(channel) else { return };
        self.adopt(now, id, &channel_of_both(&new, kept), told);
        self.untie_strangers(now, id, told);
    }

    /// The record of a history that is as it was told from now on.
    fn recorded_now(&mut self, id: ChannelId) -> Option<ChannelRecord> {
        let durable = self.history_mut(id).and_then(|history| history.durable.as_mut())?;
        durable.is_recorded = true;
        match self.history_record(id) {
            Some(Record::Channel(record)) => Some(*record),
            _ => None,
        }
    }

    /// What is there of a room and was not kept is kept from now on, if the room is.
    fn keep_all_of(&mut self, name: &Name, told: &mut Told) {
        let Some(room) = self.rooms.get(name) else { return };
        let ids: Vec<ChannelId> = room.channels.values().copied().collect();
        for id in [room.id].into_iter().chain(ids) {
            if self.history_mut(id).is_none_or(|history| history.durable.is_some()) {
                continue;
            }
            match self.channels.contains_key(&id) {
                true => self.keep_channel(id, told),
                false => self.keep_history(id, told),
            }
            self.record_said(id, 0, told);
        }
    }

    /// Records what was said behind a sequence when nobody knew that it was to be kept, as far as it is
    /// still there.
    fn record_said(&mut self, id: ChannelId, behind: u64, told: &mut Told) {
        let address = match self.channels.get(&id) {
            Some(channel) => channel.address.clone(),
            None => {
                let name = self.whole_rooms.get(&id);
                let Some(room) = name.and_then(|name| self.rooms.get(name)) else { return };
                room.every.clone()
            }
        };
        let Some(history) = self.history_mut(id) else { return };
        let there = history.last() - history.held().messages as u64;
        let Some(durable) = &mut history.durable else { return };
        if behind < there {
            durable.note_lost(behind + 1, there);
        }
        let (epoch, keep) = (durable.life.clone(), durable.keep);
        let event = |message: FrameRef<'_>| {
            let (address, epoch, frame) = (address.clone(), epoch.clone(), message.to_frame());
            Record::Event(EventRecord { channel: id, address, epoch, frame, keep })
        };
        let said = history.frames().filter(|message| message.sequence > behind);
        told.records.extend(said.map(event));
    }
}

/// A channel that is as it was kept, and of which nothing that waits is to be written.
fn untouched(address: Arc<Address>) -> MergedChannel {
    MergedChannel { address, record: None, said: None }
}

/// Whether a record is the end of a room or of a channel in it.
fn is_of(gone: &Record, room: &Name) -> bool {
    match gone {
        Record::RoomGone(name) => name == room,
        Record::ChannelGone(address) => address.room == *room,
        _ => false,
    }
}
