//! What has no members: when it goes by itself, and when it goes before its time to make room.
//!
//! A channel that a join made goes when it has been empty for `empty_channel_ttl_ms`; one that was kept
//! and whose members are not back yet has that time from the start of its home. When all places of the
//! node are taken the one that has been empty for longest goes first.
//!
//! *Invariants*: a channel stands in `expiries` at most once; what has members, here or on another
//! node, does not go.

use crate::base::ids::ChannelId;
use crate::base::time::Now;
use crate::broker::home::{Home, Told};
use crate::broker::room::RoomType;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::Name;

/// How many empty channels are looked at for one whose room can go with it.
const EMPTY_LOOKED_AT_MAX: usize = 64;

impl Home {
    /// Notes anew when channels are to be looked at for having been empty too long.
    pub(super) fn plan_expiries(&mut self) {
        self.expiries.clear();
        let ttl_ms = u64::from(self.limits.empty_channel_ttl_ms);
        for channel in self.channels.values_mut().filter(|channel| channel.expiry_noted) {
            match channel.empty_since_ms {
                Some(since_ms) => {
                    self.expiries.entry(since_ms + ttl_ms).or_default().push(channel.id);
                }
                None => channel.expiry_noted = false,
            }
        }
        self.expiries.values_mut().for_each(|ids| ids.sort_unstable());
    }

    /// Takes a place among the node's channels for a new one. If all are taken, the auto-created
    /// channel of this home that has been empty for longest goes before its time: who only makes
    /// channels and leaves them has some at every home, and keeps nobody else from having one. One
    /// that was kept and whose members are not back yet stays: a restart is nobody's fault.
    pub(super) fn take_channel_place(&mut self, told: &mut Told) -> Result<(), Refusal> {
        let max = u64::from(self.limits.max_channels);
        let is_taken = self.on_node.channels.take(max)
            || self.on_node.channels.is_just_full(max)
                && self.remove_longest_empty(told)
                && self.on_node.channels.take(max);
        match is_taken {
            true => Ok(()),
            false => Err(Refusal::of_field(
                Fault::NodeChannelLimit,
                "channel",
                format!("The server has its {max} channels (limits.max_channels)."),
            )),
        }
    }

    /// Notes that a channel may have become empty, so that it can go in time.
    pub(super) fn note_if_empty(&mut self, now: Now, id: ChannelId) {
        let Home { channels, rooms, limits, expiries, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return };
        if !channel.auto_created {
            return;
        }
        let room = rooms.get(&channel.address.room);
        if channel.member_count(room.map_or(0, |room| room.followers.len())) == 0 {
            channel.empty_since_ms = Some(now.mono_ms());
            // One entry a channel, however often it fills and empties meanwhile.
            if !std::mem::replace(&mut channel.expiry_noted, true) {
                let due_ms = now.mono_ms() + u64::from(limits.empty_channel_ttl_ms);
                expiries.entry(due_ms).or_default().push(id);
            }
        }
    }

    /// Notes of all channels of a room that they may have become empty.
    pub(super) fn note_all_empty(&mut self, now: Now, name: &Name) {
        let room = self.rooms.get(name).into_iter();
        let ids: Vec<ChannelId> = room.flat_map(|room| room.channels.values()).copied().collect();
        ids.into_iter().for_each(|id| self.note_if_empty(now, id));
    }

    pub(super) fn expire_channel(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        channel.expiry_noted = false;
        let Some(since_ms) = channel.empty_since_ms else { return };
        let due_ms = since_ms + u64::from(self.limits.empty_channel_ttl_ms);
        if due_ms > now.mono_ms() {
            channel.expiry_noted = true;
            self.expiries.entry(due_ms).or_default().push(id);
        } else if self.is_needed_elsewhere(id) {
            self.note_if_empty(now, id);
        } else {
            self.remove_channel(id, told);
        }
    }

    /// Gives the members of something that was kept time to come back, if it would go without them.
    pub(super) fn await_members(&mut self, now: Now, id: ChannelId) {
        let is_empty = self.is_without_members(id);
        let is_awaited = match self.channels.get_mut(&id) {
            Some(channel) => {
                channel.is_awaited = channel.auto_created && is_empty;
                channel.is_awaited
            }
            None => {
                let name = self.whole_rooms.get(&id);
                let Some(room) = name.and_then(|name| self.rooms.get_mut(name)) else { return };
                room.is_awaited = room.room_type == RoomType::Dynamic && room.people.is_empty();
                room.is_awaited
            }
        };
        if is_awaited {
            self.awaited.push_back((now.mono_ms(), id));
        }
    }

    /// The time is over for members to come back.
    pub(super) fn await_no_longer(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let is_needed = self.is_needed_elsewhere(id);
        if let Some(channel) = self.channels.get_mut(&id) {
            match std::mem::take(&mut channel.is_awaited) {
                true if is_needed => self.note_if_empty(now, id),
                true => self.remove_channel(id, told),
                false => {}
            }
            return;
        }
        let Some(name) = self.whole_rooms.get(&id).cloned() else { return };
        let Some(room) = self.rooms.get_mut(&name) else { return };
        room.is_awaited = false;
        if self.is_abandoned(&name) {
            self.remove_room(&name, told);
        }
    }

    /// Deletes the auto-created channel that has been empty for longest; false if there is none.
    pub(super) fn remove_longest_empty(&mut self, told: &mut Told) -> bool {
        let ttl_ms = u64::from(self.limits.empty_channel_ttl_ms);
        let (mut needed, mut is_removed) = (Vec::new(), false);
        while !is_removed
            && needed.len() < EMPTY_LOOKED_AT_MAX
            && let Some(mut entry) = self.expiries.first_entry()
        {
            let (noted_ms, id) = (*entry.key(), entry.get_mut().pop());
            if entry.get().is_empty() {
                entry.remove();
            }
            let Some(channel) = id.and_then(|id| self.channels.get_mut(&id)) else { continue };
            channel.expiry_noted = false;
            let Some(since_ms) = channel.empty_since_ms else { continue };
            let (due_ms, id) = (since_ms + ttl_ms, channel.id);
            if due_ms > noted_ms {
                // It was in use since it was noted: others were empty before it.
                channel.expiry_noted = true;
                self.expiries.entry(due_ms).or_default().push(id);
            } else if self.is_needed_elsewhere(id) {
                needed.push((noted_ms, id));
            } else {
                self.remove_channel(id, told);
                is_removed = true;
            }
        }
        // They are looked at again when their time has come.
        for (noted_ms, id) in needed {
            if let Some(channel) = self.channels.get_mut(&id) {
                channel.expiry_noted = true;
                self.expiries.entry(noted_ms).or_default().push(id);
            }
        }
        is_removed
    }

    /// Deletes a room that a join made and that holds nothing but a channel that is empty, of those
    /// that are empty for longest; false if none of them is such a room's.
    pub(super) fn remove_empty_room(&mut self, told: &mut Told) -> bool {
        let is_last = |id: &&ChannelId| {
            let Some(channel) = self.channels.get(*id) else { return false };
            let room = &self.rooms[&channel.address.room];
            channel.empty_since_ms.is_some()
                && room.room_type == RoomType::Dynamic
                && room.channels.len() == 1
                && room.people.is_empty()
        };
        let longest = self.expiries.values().flatten().take(EMPTY_LOOKED_AT_MAX);
        let longest = longest.filter(|id| !self.is_needed_elsewhere(**id));
        let Some(id) = longest.into_iter().find(is_last).copied() else { return false };
        self.remove_channel(id, told);
        true
    }
}
