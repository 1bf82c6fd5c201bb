//! Telling those who watch who comes and goes.
//!
//! *Invariants*: what watchers are told ends with what is so; a home spends at most a bounded share of
//! its time on it, and so does one channel; a client is told of a bounded number of
//! times a second in a channel.

use crate::base::ids::{ChannelId, ConnRef};
use crate::base::limits::{
    HAND_OVER_MS, PRESENCE_BURST_NS, PRESENCE_CHANGES_MAX, PRESENCE_CHANNEL_SHARE,
    PRESENCE_HOME_SHARE, PRESENCE_WAIT_NS_MAX,
};
use crate::base::time::Now;
use crate::base::work;
use crate::broker::home::{Home, Told, address_of};
use crate::broker::lane::{PresenceNotice, PresenceTell, Tell};
use crate::broker::policy::ClientCard;
use crate::broker::presence::{Change, News, Pending, Watchers, cost_ns};
use crate::protocol::command::Address;
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::protocol::reply;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to be told, and how much was.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// Channels, and whole rooms, with changes that are to be told, by time in milliseconds.
    due: BTreeMap<u64, Vec<ChannelId>>,
    /// Until when all that was told is paid for, on the monotonic clock.
    paid_until_ns: u64,
}

impl Watch {
    /// When something is to be told, on the monotonic clock in milliseconds.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let due_ms = *self.due.keys().next()?;
        Some(due_ms.max(self.paid_until_ns.saturating_sub(PRESENCE_BURST_NS).div_ceil(1_000_000)))
    }

    fn may_tell(&self, now: Now) -> bool {
        self.next_due_ms().is_some_and(|due_ms| due_ms <= now.mono_ms())
    }
}

impl Home {
    /// Notes that a client has come to a channel, or to `*` of a room, or gone from it.
    pub(super) fn note_presence_change(
        &mut self,
        now: Now,
        id: ChannelId,
        (client, from): (&Arc<ClientCard>, Option<ConnRef>),
        change: Change,
        to: Watchers,
    ) {
        let pending = match self.channels.get_mut(&id) {
            Some(channel) if channel.spread().is_watched() => &mut channel.presence,
            Some(_) => return,
            None => {
                let room = self.whole_rooms.get(&id).and_then(|name| self.rooms.get_mut(name));
                let Some(room) = room else { return };
                if !room.followers.spread().is_watched() {
                    return;
                }
                &mut room.presence
            }
        };
        let pending = pending.get_or_insert_default();
        // Whoever goes on by another connection comes back at once, and was never gone.
        let is_handed_over = from.is_some_and(|conn| self.handed_over.contains_key(&conn));
        let not_before_ms = match change {
            Change::Left if is_handed_over => now.mono_ms() + HAND_OVER_MS,
            _ => now.mono_ms(),
        };
        pending.note(client, from, change, to, not_before_ms);
        let is_soon_enough = pending.is_scheduled && not_before_ms >= pending.due_ms;
        if !pending.is_empty() && !is_soon_enough {
            pending.is_scheduled = true;
            let due_ms = not_before_ms.max(pending.not_before_ns / 1_000_000);
            pending.due_ms = due_ms;
            self.watch.due.entry(due_ms).or_default().push(id);
        }
    }

    /// Tells what is due, as far as there is time for it.
    pub fn tell_presence(&mut self, now: Now, told: &mut Told) {
        while self.watch.may_tell(now) {
            let Some(mut entry) = self.watch.due.first_entry() else { return };
            let id = entry.get_mut().pop();
            if entry.get().is_empty() {
                entry.remove();
            }
            if let Some(id) = id {
                self.tell_presence_of(now, id, told);
            }
        }
    }

    fn tell_presence_of(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(mut pending) = self.take_presence(id) else { return };
        pending.is_scheduled = false;
        let watchers = self.count_watchers(id);
        if watchers == 0 {
            return;
        }
        let most = self.changes_at_a_time(id);
        let news = pending.take(now.mono_ms(), most);
        let news_count = news.len();
        if !news.is_empty() {
            let notices = self.spread_presence(now, id, news, told);
            let cost_ns = cost_ns(watchers, notices as u64);
            told.presence_told += 1;
            let wait_ns = (cost_ns * PRESENCE_CHANNEL_SHARE).min(PRESENCE_WAIT_NS_MAX);
            pending.not_before_ns = now.mono_ns + wait_ns;
            self.watch.paid_until_ns =
                self.watch.paid_until_ns.max(now.mono_ns) + cost_ns * PRESENCE_HOME_SHARE;
        }
        if !pending.is_empty() {
            told.presence_deferred += 1;
            pending.is_scheduled = true;
            let due_ms = pending.not_before_ns / 1_000_000;
            let due_ms = match news_count {
                count if count == most => due_ms,
                // Those of clients that were told of often enough wait for the next second.
                _ => due_ms.max(pending.next_second_ms()),
            };
            let due_ms = due_ms.max(pending.next_ms());
            pending.due_ms = due_ms;
            self.watch.due.entry(due_ms).or_default().push(id);
        }
        self.put_presence(id, pending);
    }

    /// How many clients are told of at once. Leaving all of a room can make a notice for each of its
    /// channels, so the larger the room the fewer.
    fn changes_at_a_time(&self, id: ChannelId) -> usize {
        let room = self.whole_rooms.get(&id).and_then(|name| self.rooms.get(name));
        let channels = room.map_or(0, |room| room.channels.len());
        (PRESENCE_CHANGES_MAX / (1 + channels)).max(1)
    }

    /// Makes the notices of some changes and tells them; gives how many there are.
    fn spread_presence(
        &mut self,
        now: Now,
        id: ChannelId,
        news: Vec<News>,
        told: &mut Told,
    ) -> usize {
        let address = address_of(id, &self.channels, &self.whole_rooms, &self.rooms);
        let Some(address) = address else { return 0 };
        let mut notices = Vec::with_capacity(news.len());
        for news in &news {
            for (change, to) in news.notices() {
                let frame = self.presence_frame(now, &address, &news.client, change);
                notices.push(PresenceNotice { frame, to, subject: news.from });
                if !address.channel.is_every() || change == Change::Joined {
                    continue;
                }
                // Who left all of the room may be in some of its channels by name.
                for address in self.open_channels_of(&address.room, news) {
                    let frame = self.presence_frame(now, &address, &news.client, Change::Joined);
                    notices.push(PresenceNotice { frame, to, subject: news.from });
                }
            }
        }
        let spread = match self.channels.get(&id) {
            Some(channel) => Some(channel.spread()),
            None => {
                let room = self.whole_rooms.get(&id).and_then(|name| self.rooms.get(name));
                room.map(|room| room.followers.spread())
            }
        };
        let shards: Vec<_> =
            spread.into_iter().flat_map(|spread| spread.watching_shards()).collect();
        let count = notices.len();
        told.work.charge(count as u64 * work::ROW);
        let notices = Arc::new(notices);
        for shard in shards {
            let tell = PresenceTell { channel: id, notices: notices.clone() };
            told.tell(shard, Tell::Presence(Box::new(tell)));
        }
        count
    }

    /// The channels of a room that a client joined by name, on any node, in the order of their names.
    fn open_channels_of(&self, room: &Name, news: &News) -> Vec<Arc<Address>> {
        let Some(room) = self.rooms.get(room) else { return Vec::new() };
        let mut addresses = match &self.shared {
            Some(shared) if room.history.is_shared() => {
                shared.elsewhere.channels_of(room.name(), &news.client.client_id)
            }
            _ => {
                let connections = self.connections_of.get(&news.client.client_id);
                let people = connections.into_iter().flatten();
                let people = people.filter_map(|conn| room.people.get(conn));
                let channels = people.flat_map(|person| &person.channels);
                let channels = channels.filter_map(|id| self.channels.get(id));
                channels.map(|channel| channel.address.clone()).collect()
            }
        };
        addresses.retain(|address| {
            let id = room.channels.get(&address.channel);
            id.is_some_and(|id| self.channels[id].is_open_to_room())
        });
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn presence_frame(
        &mut self,
        now: Now,
        address: &Address,
        client: &ClientCard,
        change: Change,
    ) -> Arc<Frame> {
        let payload = json!({
            "event": change.as_str(),
            "client_id": client.client_id,
            "client_type": client.client_type,
            "screen_name": client.screen_name,
        });
        let text = reply::notice(self.stamp(now), (&address.room, &address.channel), payload);
        Frame::of_text(&text, now.mono_ns)
    }

    /// How many clients of this node watch a channel, or `*` of a room, about: followers count each.
    fn count_watchers(&self, id: ChannelId) -> u64 {
        let (listed, room) = match self.channels.get(&id) {
            Some(channel) => {
                let listed = channel.spread().watcher_count();
                let room = channel.is_open_to_room().then_some(&channel.address.room);
                (listed, room)
            }
            None => (0, self.whole_rooms.get(&id)),
        };
        let room = room.and_then(|name| self.rooms.get(name));
        let followers = room.map_or(0, |room| room.followers.spread().watcher_count());
        u64::from(listed) + u64::from(followers)
    }

    fn take_presence(&mut self, id: ChannelId) -> Option<Box<Pending>> {
        match self.channels.get_mut(&id) {
            Some(channel) => channel.presence.take(),
            None => self.rooms.get_mut(self.whole_rooms.get(&id)?)?.presence.take(),
        }
    }

    fn put_presence(&mut self, id: ChannelId, pending: Box<Pending>) {
        if let Some(channel) = self.channels.get_mut(&id) {
            channel.presence = Some(pending);
        } else if let Some(room) =
            self.whole_rooms.get(&id).and_then(|name| self.rooms.get_mut(name))
        {
            room.presence = Some(pending);
        }
    }
}
