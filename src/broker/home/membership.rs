//! Becoming a member and ceasing to be one.
//!
//! A join by name lists the client in its channel. A join of `*` makes it a follower of the room, which
//! lists it nowhere but in private channels that admit it; the channels only learn on which shards
//! followers are, when the first comes to a shard or the last leaves it.

use crate::base::ids::{ChannelId, ConnRef};
use crate::base::limits::LEAVES_AT_A_TIME;
use crate::base::time::Now;
use crate::base::work;
use crate::broker::channel::{Channel, Options, Ties};
use crate::broker::history::Recovery;
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Answer, JoinAsk, JoinedTell, LeaveAsk, LeftTell, Tell};
use crate::broker::policy::{self, ClientCard};
use crate::broker::presence::{Change, Watchers};
use crate::broker::room::RoomType;
use crate::broker::telemetry::{Event, Place};
use crate::protocol::command::{Address, ChannelType, Join, RoomConfig};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::names::{self, Name, PRIVATE_CHANNEL};
use crate::protocol::reply;
use crate::protocol::views::JoinView;
use std::sync::Arc;

/// What a join comes to.
pub(super) struct Entry {
    pub(super) view: JoinView,
    pub(super) channels: Vec<ChannelId>,
    pub(super) replay: Vec<Arc<Frame>>,
}

impl Home {
    pub(super) fn join(&mut self, now: Now, ask: JoinAsk, told: &mut Told) {
        if let Some(ask) = self.prepare_join(now, ask, told) {
            self.join_now(now, ask, told);
        }
    }

    /// Joins what is known.
    pub(super) fn join_now(&mut self, now: Now, ask: JoinAsk, told: &mut Told) {
        let was_joined = self.is_joined(&ask.join.address, ask.conn)
            || self.is_joined_by_another(&ask.join.address, ask.conn, &ask.client);
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
        let client = self.client_of(&address.room, conn);
        if address.channel.is_every() {
            self.unfollow_room(now, &address.room, conn, told);
        } else if let Some(id) = self.id_of(&address) {
            self.untie(now, id, conn, (true, false), told);
        }
        self.settle(now, &address.room, conn, told);
        if let Some(client) = client
            && !self.is_joined_by_another(&address, conn, &client)
        {
            let place = self.place(&address);
            told.telemetry.push(Event::Left { client_id: place.known(&client.client_id), place });
        }
        told.tell(
            conn.shard,
            Tell::Left(Box::new(LeftTell { conn: conn.conn, address, question })),
        );
    }

    /// A connection is gone: it leaves every channel of every room, without an answer. Of a client that
    /// is in many rooms the last are left later.
    pub(super) fn gone(&mut self, now: Now, conn: ConnRef, told: &mut Told) {
        self.forget_parked(conn, told);
        self.leaving.push_back(conn);
        self.go_on_leaving(now, told);
    }

    /// Goes on with the leaves of connections that are gone, as far as this turn has time for it.
    pub fn go_on_leaving(&mut self, now: Now, told: &mut Told) {
        let mut steps = 0;
        while let Some(&conn) = self.leaving.front() {
            let next = self.presence.get(&conn).and_then(|rooms| rooms.last().cloned());
            let Some(room) = next else {
                self.leaving.pop_front();
                self.handed_over.remove(&conn);
                continue;
            };
            if steps >= LEAVES_AT_A_TIME || steps > 0 && told.work.is_spent() {
                return;
            }
            let taken = self.leave_room(now, &room, conn, told);
            told.work.charge(2 * work::MEMBER * taken as u64);
            steps += taken;
        }
    }

    /// Whether connections that are gone have not left all that they were in.
    pub fn has_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// A connection that is gone leaves a room; gives how many steps that took, about.
    fn leave_room(&mut self, now: Now, name: &Name, conn: ConnRef, told: &mut Told) -> usize {
        let person = self.rooms.get(name).and_then(|room| room.people.get(&conn));
        let Some(person) = person else {
            debug_assert!(false, "who is noted for a room is in it");
            self.presence.remove(&conn);
            return 1;
        };
        let (client, channels) = (person.client.clone(), person.channels.clone());
        let mut steps = 1 + channels.len();
        for id in channels {
            let Some(channel) = self.channels.get(&id) else { continue };
            if channel.listed(conn).is_some_and(|member| member.ties.named.is_some())
                && !self.is_joined_by_another(&channel.address, conn, &client)
            {
                let place = channel.place();
                let client_id = place.known(&client.client_id);
                told.telemetry.push(Event::Left { client_id, place });
            }
            self.untie(now, id, conn, (true, true), told);
        }
        if self.rooms.get(name).is_some_and(|room| room.is_followed_by(conn)) {
            steps += self.unfollow_room(now, name, conn, told);
            let every = Address { room: name.clone(), channel: Name::every() };
            if !self.is_joined_by_another(&every, conn, &client) {
                let place = Place::Open(every);
                let client_id = place.known(&client.client_id);
                told.telemetry.push(Event::Left { client_id, place });
            }
        }
        self.settle(now, name, conn, told);
        steps
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
            let is_member = self.is_member(channel, ask.conn);
            let has_missed_nothing = !ask.has_returned && is_member;
            if ask.join.recover.is_some() && has_missed_nothing {
                return Err(Refusal::of_field(
                    Fault::AlreadyJoined,
                    "parameters.recover",
                    "You are joined already; leave first, or read what you missed with history.",
                ));
            }
            let elsewhere = self.others_elsewhere(channel, &ask.client.client_id);
            let members = (self.member_count(channel) + elsewhere) as u64;
            if self.takes_place(channel, ask.conn, &ask.client)
                && members >= u64::from(self.limits.max_members_per_channel)
            {
                return Err(member_limit(self.limits.max_members_per_channel, "channel"));
            }
            self.has_room_for(&address.room, ask.conn, &ask.client)?;
            if let Some(recover) = &ask.join.recover
                && channel.history.position(&recover.epoch, recover.sequence).is_err()
                && self.is_unsure()
            {
                return Err(not_known_now());
            }
            if channel.listed(ask.conn).is_none() {
                self.has_room_for_membership(1)?;
            }
            let created = self.take_maker(id, ask.conn);
            return Ok(self.enter(now, ask, id, created, told));
        }
        if ask.join.recover.is_some() && self.is_unsure() {
            return Err(not_known_now());
        }
        self.has_room_for_membership(1)?;
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
        if self.is_whole_room_full(room, ask.conn, &ask.client) {
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
            participants: (self.member_count(channel) + self.count_elsewhere(channel)) as u64,
            created,
            recovered,
            missed: replay.len() as u64,
            reason,
            channels: Vec::new(),
        };
        let replayed: usize = replay.iter().map(|frame| frame.wire().len()).sum();
        told.work.charge(work::bytes(replayed));
        Entry { view, channels: vec![id], replay }
    }

    /// Whether a connection is a member of a channel: listed, or as a follower of its room.
    pub fn is_member(&self, channel: &Channel, conn: ConnRef) -> bool {
        channel.listed(conn).is_some()
            || channel.is_open_to_room()
                && self
                    .rooms
                    .get(&channel.address.room)
                    .is_some_and(|room| room.is_followed_by(conn))
    }

    /// How many members a channel has on this node.
    pub(super) fn member_count(&self, channel: &Channel) -> usize {
        let room = self.rooms.get(&channel.address.room);
        channel.member_count(room.map_or(0, |room| room.followers.len()))
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
    pub(super) fn has_room_for(
        &self,
        room: &Name,
        conn: ConnRef,
        client: &ClientCard,
    ) -> Result<(), Refusal> {
        let Some(room) = self.rooms.get(room) else { return Ok(()) };
        match room.config.member_limit {
            Some(limit)
                if !room.people.contains_key(&conn)
                    && !self.others_of(conn, client).any(|it| room.people.contains_key(&it))
                    && room.people.len() as u64
                        + self.other_residents(room.name(), &client.client_id)
                        >= u64::from(limit) =>
            {
                Err(member_limit(limit, "room"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the node may have so many memberships more.
    pub(super) fn has_room_for_membership(&self, more: u64) -> Result<(), Refusal> {
        let max = u64::from(self.limits.max_memberships);
        match self.on_node.memberships.has_room_for(more, max) {
            true => Ok(()),
            false => Err(Refusal::new(
                Fault::MembershipLimit,
                format!(
                    "The server has its {max} memberships of clients in channels (limits.max_memberships); try again when others have left."
                ),
            )),
        }
    }

    pub(super) fn tie(
        &mut self,
        now: Now,
        id: ChannelId,
        conn: ConnRef,
        client: &Arc<ClientCard>,
        ties: Ties,
        told: &mut Told,
    ) {
        let Home { channels, rooms, on_node, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return };
        let Some(room) = rooms.get_mut(&channel.address.room) else { return };
        let is_new = channel.tie(conn, client, ties);
        (channel.empty_since_ms, channel.is_awaited) = (None, false);
        note_begun(channel, told);
        room.note_watched(channel);
        if !is_new {
            return;
        }
        on_node.memberships.take_anyway();
        let person = room.enter(conn, client);
        person.channels.push(id);
        let was_member = person.whole_room.is_some() && channel.is_open_to_room();
        if was_member {
            channel.count_following(conn, true);
        }
        let (address, whole_room) = (channel.address.clone(), room.id);
        let is_private = !channel.is_open_to_room();
        self.note_presence(&address.room, conn, &client.client_id);
        let is_news =
            self.tell_peers_of_member(now, &address, (client, conn), true, is_private, told);
        let is_news = is_news && !was_member && !self.is_member_by_another(id, conn, client);
        if is_news {
            let subject = (client, Some(conn));
            self.note_presence_change(now, id, subject, Change::Joined, Watchers::All);
        }
        for id in [whole_room, id] {
            self.follow(now, id, told);
        }
    }

    /// Unties; true if the channel does not list the connection any more.
    pub(super) fn untie(
        &mut self,
        now: Now,
        id: ChannelId,
        conn: ConnRef,
        (named, whole_room): (bool, bool),
        told: &mut Told,
    ) -> bool {
        let Home { channels, rooms, on_node, .. } = self;
        let Some(channel) = channels.get_mut(&id) else { return false };
        let Some(client) = channel.listed(conn).map(|member| member.client.clone()) else {
            return false;
        };
        let Some(room) = rooms.get_mut(&channel.address.room) else { return false };
        let stays = channel.is_open_to_room() && room.is_followed_by(conn);
        if !channel.untie(conn, (named, whole_room), stays) {
            room.note_watched(channel);
            return false;
        }
        room.note_watched(channel);
        room.leave(conn, id);
        on_node.memberships.give_back();
        let (address, is_private) = (channel.address.clone(), !channel.is_open_to_room());
        let is_news =
            self.tell_peers_of_member(now, &address, (&client, conn), false, is_private, told);
        if is_news && !stays && !self.is_member_by_another(id, conn, &client) {
            let subject = (&client, Some(conn));
            self.note_presence_change(now, id, subject, Change::Left, Watchers::All);
        }
        self.note_if_empty(now, id);
        self.note_idle(now, id);
        true
    }

    /// Forgets a client that has left a room, and the room if that was all that kept it.
    pub(super) fn settle(&mut self, now: Now, name: &Name, conn: ConnRef, told: &mut Told) {
        let Some(room) = self.rooms.get_mut(name) else { return };
        if let Some(client) = room.forget_stranger(conn)
            && let Some(rooms) = self.presence.get_mut(&conn)
        {
            rooms.retain(|room| room != name);
            if rooms.is_empty() {
                self.presence.remove(&conn);
                self.forget_connection(conn, &client.client_id);
            }
        }
        if self.is_abandoned(name) {
            self.remove_room(name, told);
        } else if let Some(id) = self.rooms.get(name).map(|room| room.id) {
            self.note_idle(now, id);
        }
    }

    pub(super) fn note_presence(&mut self, room: &Name, conn: ConnRef, client_id: &Name) {
        let rooms = self.presence.entry(conn).or_default();
        if rooms.is_empty() {
            self.connections_of.entry(client_id.clone()).or_default().push(conn);
        }
        if !rooms.contains(room) {
            // Most are in one room or a few: room for just one more at a time.
            rooms.reserve_exact(1);
            rooms.push(room.clone());
        }
    }

    fn forget_connection(&mut self, conn: ConnRef, client_id: &Name) {
        if let Some(connections) = self.connections_of.get_mut(client_id) {
            connections.retain(|other| *other != conn);
            if connections.is_empty() {
                self.connections_of.remove(client_id);
            }
        }
    }

    /// The other connections by which a client is in rooms.
    pub(super) fn others_of(
        &self,
        conn: ConnRef,
        client: &ClientCard,
    ) -> impl Iterator<Item = ConnRef> {
        let connections = self.connections_of.get(&client.client_id).into_iter().flatten();
        connections.copied().filter(move |other| *other != conn)
    }

    /// Whether a client has joined an address by another connection.
    fn is_joined_by_another(&self, address: &Address, conn: ConnRef, client: &ClientCard) -> bool {
        self.others_of(conn, client).any(|other| self.is_joined(address, other))
    }

    /// Whether a client is a member of a channel by another connection, so that it neither comes nor goes
    /// by this one.
    pub(super) fn is_member_by_another(
        &self,
        id: ChannelId,
        conn: ConnRef,
        client: &ClientCard,
    ) -> bool {
        let Some(channel) = self.channels.get(&id) else { return false };
        self.others_of(conn, client).any(|other| self.is_member(channel, other))
    }

    /// Whether a channel has one member more when this connection joins it; a client that comes back
    /// before it has left takes nobody's place.
    pub(super) fn takes_place(
        &self,
        channel: &Channel,
        conn: ConnRef,
        client: &ClientCard,
    ) -> bool {
        !self.is_member(channel, conn) && !self.is_member_by_another(channel.id, conn, client)
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
        let member = id.and_then(|id| self.channels.get(id)?.listed(conn));
        member.is_some_and(|member| member.ties.named.is_some())
    }

    fn client_of(&self, room: &Name, conn: ConnRef) -> Option<Arc<ClientCard>> {
        Some(self.rooms.get(room)?.people.get(&conn)?.client.clone())
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

/// A term of a channel is recorded before somebody is told of it.
pub(super) fn note_begun(channel: &Channel, told: &mut Told) {
    if channel.history.durable.as_ref().is_some_and(|durable| !durable.is_recorded) {
        told.begun.insert(channel.id);
    }
}

pub(super) fn member_limit(limit: u32, of: &'static str) -> Refusal {
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
