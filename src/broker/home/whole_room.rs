//! Followers of a room: clients that joined `*`.
//!
//! A follower is a member of every channel that is open to the room, present and future, and none of them
//! lists it. Its join takes the same memory whatever the room holds; private channels that admit it list
//! it. The channels of a room know on which shards it has followers, which they learn when the first comes
//! to a shard and when the last leaves it.
//!
//! *Invariants*: what a channel knows of followers is what its room says; a client that joins `*` is told
//! of to followers once, and to those who watch a channel by name if it is new there.

use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::base::time::Now;
use crate::base::work;
use crate::broker::channel::{Channel, Options, Ties};
use crate::broker::home::membership::{Entry, member_limit, note_begun};
use crate::broker::home::{Home, Told};
use crate::broker::lane::{JoinAsk, OpenedTell, Tell};
use crate::broker::policy::ClientCard;
use crate::broker::presence::{Change, Watchers};
use crate::broker::telemetry::Event;
use crate::protocol::command::ChannelType;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::Name;
use crate::protocol::views::{ChannelPosition, JoinView};
use std::sync::Arc;

impl Home {
    pub(super) fn join_room(
        &mut self,
        now: Now,
        ask: &JoinAsk,
        told: &mut Told,
    ) -> Result<Entry, Refusal> {
        let address = &ask.join.address;
        let known = self.rooms.get(&address.room).map(|room| room.id);
        if !self.rooms.get(&address.room).is_some_and(|room| room.is_followed_by(ask.conn)) {
            self.has_room_for_membership(1)?;
        }
        let created = known.is_none_or(|id| self.take_maker(id, ask.conn));
        self.ensure_room(now, &address.room, &ask.client, told)?;
        self.has_room_for(&address.room, ask.conn, &ask.client)?;
        self.has_room_in_every_channel(&address.room, ask.conn, &ask.client)?;
        let (open, private) = self.visible_channels(&address.room, &ask.client);
        self.has_room_for_private(&private, ask)?;
        let options = Options { echo: ask.join.echo, presence: ask.join.presence };
        self.follow_room(now, &address.room, ask.conn, (&ask.client, options), told);
        for &id in &private {
            let ties = Ties { named: None, whole_room: Some(options) };
            self.tie(now, id, ask.conn, &ask.client, ties, told);
        }
        for id in &open {
            if let Some(channel) = self.channels.get_mut(id) {
                note_begun(channel, told);
            }
        }
        let mut entered = open;
        entered.extend(private);
        let position = |channel: &Channel| ChannelPosition {
            channel: channel.address.channel.clone(),
            epoch: channel.history.epoch().to_string(),
            sequence: channel.history.last(),
        };
        let mut channels: Vec<_> = entered.iter().map(|id| position(&self.channels[id])).collect();
        channels.sort_unstable_by(|a, b| a.channel.cmp(&b.channel));
        told.work.charge((work::ROW / 2 + work::MEMBER) * channels.len() as u64);
        let Some(room) = self.rooms.get(&address.room) else {
            return Err(Refusal::new(Fault::Internal, "The room could not be made; try again."));
        };
        let view = JoinView {
            room: address.room.clone(),
            channel: address.channel.clone(),
            epoch: room.history.epoch().to_string(),
            sequence: room.history.last(),
            participants: room.people.len() as u64 + self.residents(&address.room),
            created,
            recovered: false,
            missed: 0,
            reason: None,
            channels,
        };
        Ok(Entry { view, channels: entered, replay: Vec::new() })
    }

    /// The channels of a room that a client may see: those that are open to the room, and private ones.
    fn visible_channels(
        &self,
        room: &Name,
        client: &ClientCard,
    ) -> (Vec<ChannelId>, Vec<ChannelId>) {
        let room = self.rooms.get(room).into_iter();
        let ids = room.flat_map(|room| room.channels.values());
        let channels = ids.filter_map(|id| self.channels.get(id));
        let visible = channels
            .filter(|channel| channel.channel_type != ChannelType::Pm && channel.admits(client));
        let (open, private): (Vec<&Channel>, Vec<&Channel>) =
            visible.partition(|channel| channel.is_open_to_room());
        let ids = |channels: Vec<&Channel>| channels.iter().map(|channel| channel.id).collect();
        (ids(open), ids(private))
    }

    /// Makes a client a follower of a room, or gives it other options.
    fn follow_room(
        &mut self,
        now: Now,
        name: &Name,
        conn: ConnRef,
        (client, options): (&Arc<ClientCard>, Options),
        told: &mut Told,
    ) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        let follows = room.followers.follows(conn.shard);
        room.enter(conn, client);
        let before = room.follow(conn, Some(options));
        let (id, every) = (room.id, room.every.clone());
        let has_new_follows = follows != room.followers.follows(conn.shard);
        self.note_presence(name, conn, &client.client_id);
        if has_new_follows {
            self.set_follows(now, name, conn.shard, told);
        }
        self.follow(now, id, told);
        if before.is_some() {
            return;
        }
        self.on_node.memberships.take_anyway();
        self.count_following(name, conn, true);
        let subject = (client, Some(conn));
        let is_news = self.tell_peers_of_member(now, &every, (client, conn), true, false, told);
        if is_news && !self.follows_by_another(name, conn, client) {
            self.note_presence_change(now, id, subject, Change::Joined, Watchers::All);
        }
        for id in self.watched_channels(name) {
            if self.is_followers_news(id, conn, client) {
                self.note_presence_change(now, id, subject, Change::Joined, Watchers::Listed);
            }
        }
    }

    /// Makes a client a follower no more; gives how many steps that took, about.
    pub(super) fn unfollow_room(
        &mut self,
        now: Now,
        name: &Name,
        conn: ConnRef,
        told: &mut Told,
    ) -> usize {
        if !self.rooms.get(name).is_some_and(|room| room.is_followed_by(conn)) {
            return 0;
        }
        self.count_following(name, conn, false);
        let Some(room) = self.rooms.get_mut(name) else { return 0 };
        let follows = room.followers.follows(conn.shard);
        room.follow(conn, None);
        let Some(person) = room.people.get(&conn) else { return 0 };
        let (client, listed) = (person.client.clone(), person.channels.clone());
        let (id, every) = (room.id, room.every.clone());
        let has_new_follows = follows != room.followers.follows(conn.shard);
        self.on_node.memberships.give_back();
        let mut steps = 1 + listed.len();
        let subject = (&client, Some(conn));
        let is_news = self.tell_peers_of_member(now, &every, (&client, conn), false, false, told);
        if is_news && !self.follows_by_another(name, conn, &client) {
            self.note_presence_change(now, id, subject, Change::Left, Watchers::All);
        }
        for id in self.watched_channels(name) {
            if self.is_followers_news(id, conn, &client) {
                self.note_presence_change(now, id, subject, Change::Left, Watchers::Listed);
            }
        }
        for &id in &listed {
            if self.channels.get(&id).is_some_and(|channel| !channel.is_open_to_room()) {
                self.untie(now, id, conn, (false, true), told);
            }
        }
        if has_new_follows {
            steps += self.set_follows(now, name, conn.shard, told);
        }
        steps
    }

    /// Makes a new channel one of those that the followers of its room are members of, or are listed in
    /// if it is private and admits them; a channel may also have become private, or open.
    pub(super) fn open_to_room(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Home { channels, rooms, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return };
        let Some(room) = rooms.get(&channel.address.room) else { return };
        if channel.channel_type == ChannelType::Pm || room.followers.is_empty() {
            return;
        }
        let opened =
            |channel, conns| Tell::Opened(Box::new(OpenedTell { channel, conns, room: room.id }));
        if channel.is_open_to_room() {
            (channel.empty_since_ms, channel.is_awaited) = (None, false);
            note_begun(channel, told);
            for shard in room.followers.spread().shards() {
                channel.set_follows(shard, room.followers.follows(shard));
                told.tell(shard, opened(channel.seen(), Vec::new()));
            }
            self.follow(now, id, told);
            return;
        }
        let person = |conn: ConnRef| {
            let person = room.people.get(&conn)?;
            Some((conn, person.client.clone(), person.whole_room?))
        };
        let people = room.followers.after(None).filter_map(person);
        let people: Vec<_> = people.filter(|(_, client, _)| channel.admits(client)).collect();
        for of_shard in people.chunk_by(|a, b| a.0.shard == b.0.shard) {
            let conns = of_shard.iter().map(|(conn, ..)| conn.conn).collect();
            told.tell(of_shard[0].0.shard, opened(channel.seen(), conns));
        }
        for (conn, client, options) in people {
            let ties = Ties { named: None, whole_room: Some(options) };
            self.tie(now, id, conn, &client, ties, told);
        }
    }

    /// A channel may be another than it was, private or open to its room; what follows from that for
    /// the followers of its room is done. `was_open` says what it was.
    pub(super) fn reopen_to_room(
        &mut self,
        now: Now,
        id: ChannelId,
        was_open: bool,
        told: &mut Told,
    ) {
        let Home { channels, rooms, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return };
        let Some(room) = rooms.get(&channel.address.room) else { return };
        if channel.is_open_to_room() == was_open || room.followers.is_empty() {
            return;
        }
        if !was_open {
            channel.recount_following(|conn| room.is_followed_by(conn));
            // Whom it listed as followers it lists no longer.
            let listed: Vec<ConnRef> = channel.listed_after(None).map(|(conn, _)| *conn).collect();
            for conn in listed {
                self.untie(now, id, conn, (false, true), told);
            }
            return self.open_to_room(now, id, told);
        }
        channel.close_to_room();
        let address = channel.address.clone();
        for shard in room.followers.spread().shards() {
            let opened = OpenedTell { channel: channel.seen(), conns: Vec::new(), room: room.id };
            told.tell(shard, Tell::Opened(Box::new(opened)));
        }
        // Who is not admitted and not listed, either, is told here that it left.
        let people =
            room.followers.after(None).filter_map(|conn| Some((conn, room.people.get(&conn)?)));
        for (conn, person) in people {
            if !channel.admits(&person.client) && channel.listed(conn).is_none() {
                told.tell(conn.shard, Tell::Untied(conn.conn, address.clone()));
                let place = channel.place();
                let client_id = place.known(&person.client.client_id);
                told.telemetry.push(Event::Left { client_id, place });
            }
        }
        self.open_to_room(now, id, told);
    }

    /// Lets the channels of a room know what its followers on a shard get; gives how many they are.
    fn set_follows(&mut self, now: Now, name: &Name, shard: ShardId, told: &mut Told) -> usize {
        let Some(room) = self.rooms.get(name) else { return 0 };
        let follows = room.followers.follows(shard);
        let is_first = room.followers.len() == 1;
        let ids: Vec<ChannelId> = room.channels.values().copied().collect();
        for &id in &ids {
            let Some(channel) = self.channels.get_mut(&id) else { continue };
            if !channel.is_open_to_room() {
                continue;
            }
            channel.set_follows(shard, follows);
            if follows.events {
                (channel.empty_since_ms, channel.is_awaited) = (None, false);
                if is_first {
                    self.follow(now, id, told);
                }
            } else {
                self.note_if_empty(now, id);
                self.note_idle(now, id);
            }
        }
        ids.len()
    }

    fn count_following(&mut self, name: &Name, conn: ConnRef, follows: bool) {
        let Home { rooms, channels, .. } = self;
        let person = rooms.get(name).and_then(|room| room.people.get(&conn));
        for id in person.into_iter().flat_map(|person| &person.channels) {
            if let Some(channel) = channels.get_mut(id) {
                channel.count_following(conn, follows);
            }
        }
    }

    /// The channels of a room with listed members who watch presence.
    pub(super) fn watched_channels(&self, name: &Name) -> Vec<ChannelId> {
        let room = self.rooms.get(name);
        room.map_or_else(Vec::new, |room| room.watched.iter().copied().collect())
    }

    /// Whether it changes something for a channel that a client joins or leaves the whole room: it is
    /// open to the room, and the client is no member of it otherwise.
    fn is_followers_news(&self, id: ChannelId, conn: ConnRef, client: &ClientCard) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        channel.is_open_to_room()
            && channel.listed(conn).is_none()
            && !self.is_member_elsewhere(channel, &client.client_id)
            && !self.is_member_by_another(id, conn, client)
    }

    /// Whether a client follows a room by another connection.
    fn follows_by_another(&self, name: &Name, conn: ConnRef, client: &ClientCard) -> bool {
        let Some(room) = self.rooms.get(name) else { return false };
        self.others_of(conn, client).any(|other| room.is_followed_by(other))
    }

    /// Whether every channel of the room, present and future, can take one more member.
    fn has_room_in_every_channel(
        &self,
        room: &Name,
        conn: ConnRef,
        client: &ClientCard,
    ) -> Result<(), Refusal> {
        let max = self.limits.max_members_per_channel;
        let Some(room) = self.rooms.get(room) else { return Ok(()) };
        if room.people.len() as u64 + self.residents(room.name()) < u64::from(max) {
            // No channel of it can have more members than there are people in the room.
            return Ok(());
        }
        let is_full = |id: &ChannelId| {
            let Some(channel) = self.channels.get(id) else { return false };
            // Of a channel that it may not see, the client learns not even that it is full.
            channel.admits(client)
                && self.takes_place(channel, conn, client)
                && self.member_count(channel) + self.others_elsewhere(channel, &client.client_id)
                    >= max as usize
        };
        if room.channels.values().any(is_full) || self.is_whole_room_full(room.name(), conn, client)
        {
            return Err(member_limit(max, "channel"));
        }
        Ok(())
    }

    /// Whether the node, and the client, may have so many memberships more.
    fn has_room_for_private(&self, private: &[ChannelId], ask: &JoinAsk) -> Result<(), Refusal> {
        let is_new = |id: &&ChannelId| {
            self.channels.get(*id).is_some_and(|channel| channel.listed(ask.conn).is_none())
        };
        let new = private.iter().filter(is_new).count();
        if new > ask.joins_left as usize {
            return Err(Refusal::new(
                Fault::JoinLimit,
                format!(
                    "The room {} has {new} private channels that you would be a member of, more than you may join; leave others, or join channels by name.",
                    ask.join.address.room
                ),
            ));
        }
        self.has_room_for_membership(new as u64)
    }

    /// Whether the others who joined the whole room are as many as a channel may have members.
    pub(super) fn is_whole_room_full(
        &self,
        room: &Name,
        conn: ConnRef,
        client: &ClientCard,
    ) -> bool {
        let max = self.limits.max_members_per_channel as usize;
        let Some(followed) = self.rooms.get(room) else { return false };
        followed.followers.len() >= max
            && !followed.is_followed_by(conn)
            && !self.follows_by_another(room, conn, client)
    }
}
