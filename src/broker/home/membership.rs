//! Becoming a member and ceasing to be one.

use crate::base::ids::{ChannelId, ConnRef, ShardId};
use crate::base::time::Now;
use crate::broker::channel::{Channel, Options, Ties};
use crate::broker::history::Recovery;
use crate::broker::home::{Home, Told};
use crate::broker::lane::{
    Answer, Fanout, JoinAsk, JoinedTell, LeaveAsk, LeftTell, Listeners, OpenedTell, Tell,
};
use crate::broker::policy::{self, ClientCard};
use crate::broker::room::RoomType;
use crate::broker::telemetry::{Event, Place};
use crate::protocol::command::{Address, ChannelType, Join, RoomConfig};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::names::{self, Name, PRIVATE_CHANNEL};
use crate::protocol::reply;
use crate::protocol::views::{ChannelPosition, JoinView};
use serde_json::json;
use std::sync::Arc;

/// What a join comes to.
struct Entry {
    view: JoinView,
    channels: Vec<ChannelId>,
    replay: Vec<Arc<Frame>>,
}

impl Home {
    pub(super) fn join(&mut self, now: Now, ask: JoinAsk, told: &mut Told) {
        if let Some(ask) = self.prepare_join(now, ask, told) {
            self.join_now(now, ask, told);
        }
    }

    /// Joins what is known.
    pub(super) fn join_now(&mut self, now: Now, ask: JoinAsk, told: &mut Told) {
        let was_joined = self.is_joined(&ask.join.address, ask.conn);
        let result = if ask.join.address.channel.is_every() {
            self.join_room(now, &ask, told)
        } else {
            self.join_channel(now, &ask, told)
        };
        let JoinAsk { conn, client, join, question, .. } = ask;
        match result {
            Ok(entry) => {
                let room = self.rooms[&join.address.room].id;
                let seen = |id: &ChannelId| self.channels[id].seen();
                let place = self.place(&join.address);
                let client_id = place.known(&client.client_id);
                // Whoever only asks for something else now is no news.
                told.telemetry.extend((!was_joined).then_some(Event::Joined { client_id, place }));
                let joined = JoinedTell {
                    conn: conn.conn,
                    room,
                    channels: entry.channels.iter().map(seen).collect(),
                    join,
                    view: entry.view,
                    question,
                    replay: entry.replay,
                };
                told.tell(conn.shard, Tell::Joined(Box::new(joined)));
            }
            Err(refusal) => {
                let question = question.unwrap_or_else(|| connecting_question(&join.address));
                let answer = Answer { conn: conn.conn, question, outcome: Err(refusal) };
                told.tell(conn.shard, Tell::Answer(Box::new(answer)));
            }
        }
    }

    pub(super) fn leave(&mut self, now: Now, ask: LeaveAsk, told: &mut Told) {
        let LeaveAsk { conn, address, question } = ask;
        let whole_room = address.channel.is_every();
        let ids: Vec<ChannelId> = match self.rooms.get(&address.room) {
            Some(room) if whole_room => room.channels.values().copied().collect(),
            Some(room) => room.channels.get(&address.channel).copied().into_iter().collect(),
            None => Vec::new(),
        };
        let client = self.client_of(&address.room, conn);
        let mut left = Vec::new();
        for id in ids {
            if self.untie(now, id, conn, (!whole_room, whole_room), told) {
                left.push(id);
            }
        }
        if whole_room
            && let Some(room) = self.rooms.get_mut(&address.room)
            && let Some(person) = room.people.get_mut(&conn)
            && person.whole_room.take().is_some()
        {
            let (every, client) = (room.every.clone(), person.client.clone());
            self.tell_peers_of_member(&every, &client, false, told);
        }
        self.settle(now, &address.room, conn, told);
        if let Some(client) = client {
            let place = self.place(&address);
            told.telemetry.push(Event::Left { client_id: place.known(&client.client_id), place });
        }
        let tell = LeftTell { conn: conn.conn, address, channels: left, question };
        told.tell(conn.shard, Tell::Left(Box::new(tell)));
    }

    /// A connection is gone: it leaves every channel of every room, without an answer.
    pub(super) fn gone(&mut self, now: Now, conn: ConnRef, told: &mut Told) {
        self.forget_parked(conn, told);
        for name in self.presence.get(&conn).cloned().unwrap_or_default() {
            let Some(room) = self.rooms.get_mut(&name) else { continue };
            let Some(person) = room.people.get_mut(&conn) else { continue };
            let client_id = person.client.client_id.clone();
            let mut whole_room_of = None;
            if person.whole_room.take().is_some() {
                whole_room_of = Some((room.every.clone(), person.client.clone()));
                let place = Place::Open((*room.every).clone());
                told.telemetry.push(Event::Left { client_id: place.known(&client_id), place });
            }
            let ids: Vec<ChannelId> = room.channels.values().copied().collect();
            if let Some((every, client)) = whole_room_of {
                self.tell_peers_of_member(&every, &client, false, told);
            }
            for id in ids {
                let Some(channel) = self.channels.get(&id) else { continue };
                if channel.member(conn).is_some_and(|member| member.ties.named.is_some()) {
                    let place = channel.place();
                    told.telemetry.push(Event::Left { client_id: place.known(&client_id), place });
                }
                self.untie(now, id, conn, (true, true), told);
            }
            self.settle(now, &name, conn, told);
        }
    }

    /// Makes those members of a new channel who joined its whole room and may enter.
    pub(super) fn open_to_room(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let seen = self.channels[&id].seen();
        if self.channels[&id].channel_type == ChannelType::Pm {
            return;
        }
        let mut people: Vec<_> = self.rooms[&seen.address.room]
            .people
            .iter()
            .filter_map(|(conn, person)| Some((*conn, person.client.clone(), person.whole_room?)))
            .filter(|(_, client, _)| self.channels[&id].admits(client))
            .collect();
        people.sort_unstable_by_key(|(conn, ..)| *conn);
        for of_shard in people.chunk_by(|a, b| a.0.shard == b.0.shard) {
            let conns = of_shard.iter().map(|(conn, ..)| conn.conn).collect();
            let opened = OpenedTell { channel: seen.clone(), conns };
            told.tell(of_shard[0].0.shard, Tell::Opened(Box::new(opened)));
        }
        for (conn, client, options) in people {
            let ties = Ties { named: None, whole_room: Some(options) };
            self.tie(now, id, conn, &client, ties, told);
        }
    }

    fn join_channel(&mut self, now: Now, ask: &JoinAsk, told: &mut Told) -> Result<Entry, Refusal> {
        let address = &ask.join.address;
        if address.channel.as_str() == PRIVATE_CHANNEL {
            return Err(Refusal::of_field(
                Fault::ChannelIsPm,
                "channel",
                "Private messages reach you without joining; pm can't be joined.",
            ));
        }
        let found =
            self.rooms.get(&address.room).and_then(|room| room.channels.get(&address.channel));
        if let Some(&id) = found {
            let channel = &self.channels[&id];
            if !channel.admits(&ask.client) {
                return Err(policy::private_channel());
            }
            let has_missed_nothing = !ask.has_returned && channel.member(ask.conn).is_some();
            if ask.join.recover.is_some() && has_missed_nothing {
                return Err(Refusal::of_field(
                    Fault::AlreadyJoined,
                    "parameters.recover",
                    "You are joined already; leave first, or read what you missed with history.",
                ));
            }
            let is_member = channel.member(ask.conn).is_some();
            let elsewhere = self.others_elsewhere(address, &ask.client.client_id);
            let members = (channel.member_count() + elsewhere) as u64;
            if !is_member && members >= u64::from(self.limits.max_members_per_channel) {
                return Err(member_limit(self.limits.max_members_per_channel, "channel"));
            }
            self.has_room_for(&address.room, ask.conn, &ask.client)?;
            if let Some(recover) = &ask.join.recover
                && channel.history.position(&recover.epoch, recover.sequence).is_err()
                && self.is_unsure()
            {
                return Err(not_known_now());
            }
            let created = self.take_maker(id, ask.conn);
            return Ok(self.enter(now, ask, id, created, told));
        }
        if ask.join.recover.is_some() && self.is_unsure() {
            return Err(not_known_now());
        }
        let id = self.make_by_join(now, ask, told)?;
        Ok(self.enter(now, ask, id, true, told))
    }

    /// Makes the channel that is to be joined, if it may be made by that.
    pub(super) fn make_by_join(
        &mut self,
        now: Now,
        ask: &JoinAsk,
        told: &mut Told,
    ) -> Result<ChannelId, Refusal> {
        let address = &ask.join.address;
        self.may_be_made_by_join(ask)?;
        // Another channel, and its room with it, may go for it.
        self.take_channel_place(told)?;
        let created = self.create_by_join(now, ask, told);
        if created.is_err() {
            self.on_node.channels.give_back();
            // A room that was made for a channel that can't be made goes with it.
            if self.is_abandoned(&address.room) {
                self.remove_room(&address.room, told);
            }
        }
        created
    }

    /// Whether a channel that is not there may be made by this join, as far as that can be said
    /// before anything else has to go for it.
    fn may_be_made_by_join(&self, ask: &JoinAsk) -> Result<(), Refusal> {
        let room = &ask.join.address.room;
        self.may_make_room_by_join(room)?;
        self.may_create_by_join(room, &ask.client)?;
        self.has_room_for_channel(room)?;
        self.has_room_for(room, ask.conn, &ask.client)?;
        if self.is_whole_room_full(room, ask.conn) {
            // Who joined the whole room is in a new channel first, and fills it.
            return Err(member_limit(self.limits.max_members_per_channel, "channel"));
        }
        Ok(())
    }

    /// Whether the room is there, or may be made by a join.
    fn may_make_room_by_join(&self, room: &Name) -> Result<(), Refusal> {
        if self.rooms.contains_key(room) {
            return Ok(());
        }
        if !self.limits.create_on_join {
            if self.is_unsure() {
                return Err(may_be_there(format!("There is no room {room} on this node yet")));
            }
            return Err(Refusal::of_field(
                Fault::RoomNotFound,
                "room",
                format!(
                    "There is no room {room}, and joins do not make rooms here; ask an admin for create_room."
                ),
            ));
        }
        is_free_to_make(room)
    }

    fn create_by_join(
        &mut self,
        now: Now,
        ask: &JoinAsk,
        told: &mut Told,
    ) -> Result<ChannelId, Refusal> {
        let address = &ask.join.address;
        self.ensure_room(now, &address.room, &ask.client, told)?;
        let creator = Some(ask.client.client_id.clone());
        let (address, general) = (address.clone(), ChannelType::General);
        let id = self.insert_channel(now, address, general, creator, true, told).id;
        self.keep_channel(id, told);
        self.open_to_room(now, id, told);
        Ok(id)
    }

    /// Makes the client a member of a channel that lets it in, and finds what it missed.
    fn enter(
        &mut self,
        now: Now,
        ask: &JoinAsk,
        id: ChannelId,
        created: bool,
        told: &mut Told,
    ) -> Entry {
        let Join { address, echo, presence, recover } = &ask.join;
        let options = Options { echo: *echo, presence: *presence };
        let ties = Ties { named: Some(options), whole_room: None };
        self.tie(now, id, ask.conn, &ask.client, ties, told);
        if recover.is_some() {
            self.forget_old(now, id);
        }
        let channel = &self.channels[&id];
        let bytes_max = self.limits.outbox_bytes as usize / 2;
        let recovery = recover.as_ref().map(|recover| {
            channel.history.since(&recover.epoch, recover.sequence, now.mono_ms(), bytes_max)
        });
        let (recovered, reason, replay) = match recovery {
            None => (false, None, Vec::new()),
            Some(Recovery::Impossible(reason)) => (false, Some(reason), Vec::new()),
            Some(Recovery::Whole(frames)) => (true, None, frames),
        };
        let view = JoinView {
            room: address.room.clone(),
            channel: address.channel.clone(),
            epoch: channel.history.epoch().to_string(),
            sequence: channel.history.last(),
            participants: (channel.member_count() + self.count_elsewhere(address)) as u64,
            created,
            recovered,
            missed: replay.len() as u64,
            reason,
            channels: Vec::new(),
        };
        Entry { view, channels: vec![id], replay }
    }

    fn join_room(&mut self, now: Now, ask: &JoinAsk, told: &mut Told) -> Result<Entry, Refusal> {
        let address = &ask.join.address;
        let known = self.rooms.get(&address.room).map(|room| room.id);
        let created = known.is_none_or(|id| self.take_maker(id, ask.conn));
        self.ensure_room(now, &address.room, &ask.client, told)?;
        self.has_room_for(&address.room, ask.conn, &ask.client)?;
        self.has_room_in_every_channel(&address.room, ask.conn, &ask.client)?;
        let options = Options { echo: ask.join.echo, presence: ask.join.presence };
        let Some(room) = self.rooms.get_mut(&address.room) else {
            return Err(Refusal::new(Fault::Internal, "The room could not be made; try again."));
        };
        let before = room.enter(ask.conn, &ask.client, 0).whole_room.replace(options);
        let every = room.every.clone();
        if before.is_none() {
            self.tell_peers_of_member(&every, &ask.client, true, told);
        }
        let Some(room) = self.rooms.get(&address.room) else { unreachable!("it was just entered") };
        let ids: Vec<ChannelId> = room.channels.values().copied().collect();
        self.note_presence(&address.room, ask.conn);
        let mut entered = Vec::new();
        for id in ids {
            let channel = &self.channels[&id];
            if channel.channel_type != ChannelType::Pm && channel.admits(&ask.client) {
                let ties = Ties { named: None, whole_room: Some(options) };
                self.tie(now, id, ask.conn, &ask.client, ties, told);
                entered.push(id);
            }
        }
        let position = |channel: &Channel| ChannelPosition {
            channel: channel.address.channel.clone(),
            epoch: channel.history.epoch().to_string(),
            sequence: channel.history.last(),
        };
        let room = &self.rooms[&address.room];
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
            channels: entered.iter().map(|id| position(&self.channels[id])).collect(),
        };
        Ok(Entry { view, channels: entered, replay: Vec::new() })
    }

    /// Finds the room, or makes it where a join may.
    pub(super) fn ensure_room(
        &mut self,
        now: Now,
        room: &Name,
        client: &Arc<ClientCard>,
        told: &mut Told,
    ) -> Result<(), Refusal> {
        if self.rooms.contains_key(room) {
            return Ok(());
        }
        self.may_make_room_by_join(room)?;
        let creator = client.client_id.clone();
        self.create_room(now, room, RoomType::Dynamic, creator, RoomConfig::default(), told)
    }

    /// Makes a room, if its name and the limits allow it.
    pub(super) fn create_room(
        &mut self,
        now: Now,
        room: &Name,
        room_type: RoomType,
        creator: Name,
        config: RoomConfig,
        told: &mut Told,
    ) -> Result<(), Refusal> {
        is_free_to_make(room)?;
        let max = u64::from(self.limits.max_rooms);
        let is_taken = self.on_node.rooms.take(max)
            || self.on_node.rooms.is_just_full(max)
                && self.remove_empty_room(told)
                && self.on_node.rooms.take(max);
        if !is_taken {
            return Err(Refusal::of_field(
                Fault::RoomLimit,
                "room",
                format!("The server has its {max} rooms (limits.max_rooms)."),
            ));
        }
        self.insert_room(now, room.clone(), room_type, Some(creator), config);
        self.keep_room(room, told);
        Ok(())
    }

    /// Whether the room may have one more channel.
    pub(super) fn has_room_for_channel(&self, room: &Name) -> Result<(), Refusal> {
        let max = self.limits.max_channels_per_room;
        match self.rooms.get(room) {
            Some(room) if room.channels.len() >= max as usize => Err(Refusal::of_field(
                Fault::ChannelLimit,
                "channel",
                format!(
                    "The room {} has its {max} channels (limits.max_channels_per_room).",
                    room.name()
                ),
            )),
            _ => Ok(()),
        }
    }

    fn may_create_by_join(&self, room: &Name, client: &ClientCard) -> Result<(), Refusal> {
        let config = self.rooms.get(room).and_then(|room| room.config.create_on_join);
        if !config.unwrap_or(self.limits.create_on_join) {
            if self.is_unsure() {
                return Err(may_be_there("There is no such channel on this node yet".to_owned()));
            }
            return Err(Refusal::of_field(
                Fault::ChannelNotFound,
                "channel",
                format!(
                    "There is no such channel in {room}, and joins do not make channels here; list_channels shows which there are."
                ),
            ));
        }
        if names::is_system_room(room) && client.role != policy::Role::Admin {
            return Err(Refusal::of_field(
                Fault::RoomProtected,
                "room",
                format!("{room} is a system room; only an admin may make channels in it."),
            ));
        }
        Ok(())
    }

    /// Whether the room's own member limit lets one more client in.
    fn has_room_for(&self, room: &Name, conn: ConnRef, client: &ClientCard) -> Result<(), Refusal> {
        let Some(room) = self.rooms.get(room) else { return Ok(()) };
        match room.config.member_limit {
            Some(limit)
                if !room.people.contains_key(&conn)
                    && room.people.len() as u64
                        + self.other_residents(room.name(), &client.client_id)
                        >= u64::from(limit) =>
            {
                Err(member_limit(limit, "room"))
            }
            _ => Ok(()),
        }
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
        let is_full = |id: &ChannelId| {
            let channel = &self.channels[id];
            // Of a channel that it may not see, the client learns not even that it is full.
            channel.admits(client)
                && channel.member(conn).is_none()
                && channel.member_count()
                    + self.others_elsewhere(&channel.address, &client.client_id)
                    >= max as usize
        };
        if room.channels.values().any(is_full) || self.is_whole_room_full(room.name(), conn) {
            return Err(member_limit(max, "channel"));
        }
        Ok(())
    }

    /// Whether the others who joined the whole room are as many as a channel may have members.
    fn is_whole_room_full(&self, room: &Name, conn: ConnRef) -> bool {
        let max = self.limits.max_members_per_channel as usize;
        let Some(room) = self.rooms.get(room) else { return false };
        let of_room = room.people.iter();
        let others =
            of_room.filter(|(other, person)| person.whole_room.is_some() && **other != conn);
        // Who is in is counted one by one only where there are enough to matter.
        room.people.len() >= max && others.count() >= max
    }

    fn tie(
        &mut self,
        now: Now,
        id: ChannelId,
        conn: ConnRef,
        client: &Arc<ClientCard>,
        ties: Ties,
        told: &mut Told,
    ) {
        let Some(channel) = self.channels.get_mut(&id) else { return };
        let is_new = channel.tie(conn, client, ties);
        channel.empty_since_ms = None;
        channel.is_awaited = false;
        let room = channel.address.room.clone();
        if channel.history.durable.as_ref().is_some_and(|durable| !durable.is_recorded) {
            told.begun.insert(id);
        }
        let address = channel.address.clone();
        if is_new {
            let whole_room = self.rooms.get_mut(&room).map(|room| {
                room.enter(conn, client, 1);
                room.id
            });
            self.note_presence(&room, conn);
            if self.tell_peers_of_member(&address, client, true, told) {
                self.tell_watchers(now, id, Some(conn), client, "joined", told);
            }
            for id in whole_room.into_iter().chain([id]) {
                self.follow(now, id, told);
            }
        }
    }

    /// Unties; true if the connection is no member any more.
    pub(super) fn untie(
        &mut self,
        now: Now,
        id: ChannelId,
        conn: ConnRef,
        (named, whole_room): (bool, bool),
        told: &mut Told,
    ) -> bool {
        let Some(channel) = self.channels.get_mut(&id) else { return false };
        let Some(client) = channel.member(conn).map(|member| member.client.clone()) else {
            return false;
        };
        if !channel.untie(conn, named, whole_room) {
            return false;
        }
        if let Some(room) = self.rooms.get_mut(&channel.address.room)
            && let Some(person) = room.people.get_mut(&conn)
        {
            person.channels -= 1;
        }
        let address = channel.address.clone();
        if self.tell_peers_of_member(&address, &client, false, told) {
            self.tell_watchers(now, id, Some(conn), &client, "left", told);
        }
        self.note_if_empty(now, id);
        self.note_idle(now, id);
        true
    }

    /// Forgets a client that has left a room, and the room if that was all that kept it.
    pub(super) fn settle(&mut self, now: Now, name: &Name, conn: ConnRef, told: &mut Told) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        room.forget_stranger(conn);
        if !room.people.contains_key(&conn)
            && let Some(rooms) = self.presence.get_mut(&conn)
        {
            rooms.retain(|room| room != name);
            if rooms.is_empty() {
                self.presence.remove(&conn);
            }
        }
        if self.is_abandoned(name) {
            self.remove_room(name, told);
        } else if let Some(id) = self.rooms.get(name).map(|room| room.id) {
            self.note_idle(now, id);
        }
    }

    fn note_presence(&mut self, room: &Name, conn: ConnRef) {
        let rooms = self.presence.entry(conn).or_default();
        if !rooms.contains(room) {
            // Most are in one room or a few: room for just one more at a time.
            rooms.reserve_exact(1);
            rooms.push(room.clone());
        }
    }

    /// What telemetry may tell of an address: no channel is private that is not there.
    fn place(&self, address: &Address) -> Place {
        let room = self.rooms.get(&address.room);
        let id = room.and_then(|room| room.channels.get(&address.channel));
        let channel = id.and_then(|id| self.channels.get(id));
        channel.map_or_else(|| Place::Open(address.clone()), Channel::place)
    }

    /// Whether the connection joined just this: the channel by its name, or the room as a whole.
    fn is_joined(&self, address: &Address, conn: ConnRef) -> bool {
        let Some(room) = self.rooms.get(&address.room) else { return false };
        if address.channel.is_every() {
            return room.people.get(&conn).is_some_and(|person| person.whole_room.is_some());
        }
        let id = room.channels.get(&address.channel);
        let member = id.and_then(|id| self.channels[id].member(conn));
        member.is_some_and(|member| member.ties.named.is_some())
    }

    fn client_of(&self, room: &Name, conn: ConnRef) -> Option<Arc<ClientCard>> {
        Some(self.rooms.get(room)?.people.get(&conn)?.client.clone())
    }

    /// Tells those who watch that a client has come or gone; `from` is its connection, if it is here.
    pub(super) fn tell_watchers(
        &mut self,
        now: Now,
        id: ChannelId,
        from: Option<ConnRef>,
        client: &ClientCard,
        event: &str,
        told: &mut Told,
    ) {
        let channel = &self.channels[&id];
        let shards: Vec<ShardId> = channel.spread().watching_shards().collect();
        if shards.is_empty() {
            return;
        }
        let payload = json!({
            "event": event,
            "client_id": client.client_id,
            "client_type": client.client_type,
            "screen_name": client.screen_name,
        });
        let address = channel.address.clone();
        let text = reply::notice(self.stamp(now), (&address.room, &address.channel), payload);
        let frame = Frame::of_text(&text, now.mono_ns);
        for shard in shards {
            let frame = frame.clone();
            let audience = Listeners::PresenceWatchers;
            let fanout = Fanout { channel: id, frame, from, audience, trace: None };
            told.tell(shard, Tell::Fanout(fanout));
        }
    }
}

/// Whether a room of that name may be made at all.
fn is_free_to_make(room: &Name) -> Result<(), Refusal> {
    if names::is_system_room(room) {
        return Err(Refusal::of_field(
            Fault::RoomProtected,
            "room",
            "Rooms whose names begin with arqon are the system's; choose another name.",
        ));
    }
    Ok(())
}

fn member_limit(limit: u32, of: &'static str) -> Refusal {
    Refusal::of_field(
        Fault::MemberLimit,
        of,
        format!("The {of} has its {limit} members; try again when someone has left."),
    )
}

/// A join that was part of connecting answers no message; its refusal names what was to be joined.
pub(super) fn connecting_question(address: &Address) -> reply::Question {
    reply::Question {
        id: None,
        address: (address.room.to_string(), address.channel.to_string()),
        command: None,
        brief: false,
        turn: 0,
    }
}

/// What a client has seen of a channel can be compared with nothing now.
fn not_known_now() -> Refusal {
    Refusal::of_field(
        Fault::StorageUnavailable,
        "parameters.recover",
        "The server can't read now what is kept of this channel, so it can't tell whether the sequence is one of its order; try again later, or join without recover.",
    )
}

/// What is not here may be there, where it can't be looked at now.
pub(super) fn may_be_there(missing: String) -> Refusal {
    Refusal::new(
        Fault::StorageUnavailable,
        format!("{missing}, and what is kept elsewhere can't be read now; try again later."),
    )
}
