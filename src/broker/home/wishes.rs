//! Questions about rooms, and changes of them.

use crate::base::ids::{ConnId, ConnRef, ShardId};
use crate::base::time::Now;
use crate::base::work;
use crate::broker::census::page_bytes_max;
use crate::broker::channel::Channel;
use crate::broker::home::membership::may_be_there;
use crate::broker::home::{Home, Told};
use crate::broker::lane::{Answer, Ask, Fanout, RoomAnswer, RoomAsk, RoomWish, Tell};
use crate::broker::policy::ClientCard;
use crate::broker::room::{Room, RoomType};
use crate::protocol::command::{Address, CreateChannel, HistoryQuery, RoomConfig};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::names::{Name, PRIVATE_CHANNEL};
use crate::protocol::page::{Cursor, List, PageQuery};
use crate::protocol::views::{
    CHANNEL_LINE_BYTES, ChannelLine, ChannelView, ChannelsView, HistoryView, ParticipantView,
};
use std::sync::Arc;

impl Home {
    pub(super) fn answer(&mut self, now: Now, ask: RoomAsk, told: &mut Told) {
        let Some(ask) = self.prepare_answer(now, ask, told) else { return };
        let Some(ask) = self.prepare_deletion(now, ask, told) else { return };
        self.answer_now(now, ask, told);
    }

    pub(super) fn answer_now(&mut self, now: Now, ask: RoomAsk, told: &mut Told) {
        let RoomAsk { conn, client, question, wish } = ask;
        let read = match &wish {
            RoomWish::ChannelInfo(address, _) => self.id_of(address),
            RoomWish::History(query) => self.id_of(&query.address),
            _ => None,
        };
        if let Some(id) = read {
            self.forget_old(now, id);
        }
        let outcome = match wish {
            RoomWish::ListChannels(room, page) => self.list_channels(&room, &page, &client, told),
            RoomWish::ChannelInfo(address, page) => {
                let brief = question.brief;
                self.visible_channel(&address, &client)
                    .and_then(|channel| self.channel_page(channel, &page, brief, told))
                    .map(|view| RoomAnswer::Channel(Box::new(view)))
            }
            RoomWish::History(query) => self.history(now, &query, &client, told),
            RoomWish::CreateChannel(create) => self.create_channel(now, *create, &client, told),
            RoomWish::DeleteChannel(address) => self.delete_channel(address, &client, told),
            RoomWish::CreateRoom(room, config) => {
                self.create_room_by_command(now, room, config, &client, told)
            }
            RoomWish::DeleteRoom(room) => self.delete_room(room, told),
            RoomWish::Pause(room, paused) => self.pause_room(&room, paused, &client, told),
            RoomWish::Announce(room, frame) => self.announce(&room, frame, told),
        };
        let answer = Answer { conn: conn.conn, question, outcome };
        told.tell(conn.shard, Tell::Answer(Box::new(answer)));
    }

    /// Gives the ask back if it can be answered now. What a channel's history says of itself is known
    /// when the channel is followed.
    fn prepare_answer(&mut self, now: Now, ask: RoomAsk, told: &mut Told) -> Option<RoomAsk> {
        let address = match &ask.wish {
            RoomWish::ChannelInfo(address, _) => &**address,
            RoomWish::History(query) => &query.address,
            _ => return Some(ask),
        };
        let is_seen =
            address.channel.is_every() || self.visible_channel(address, &ask.client).is_ok();
        let id = self.id_of(address).filter(|_| self.is_shared() && is_seen);
        match id {
            Some(id) if !self.follow(now, id, told) => {
                self.park(id, Ask::Room(Box::new(ask)), told);
                None
            }
            Some(id) => {
                self.note_idle(now, id);
                self.unless_ahead(now, id, ask)
            }
            None => Some(ask),
        }
    }

    /// All about a channel, on all nodes, with one page of its participants: those that it lists, then
    /// those that follow its room, then those of other nodes. It costs what its rows cost.
    fn channel_page(
        &self,
        channel: &Channel,
        query: &PageQuery,
        brief: bool,
        told: &mut Told,
    ) -> Result<ChannelView, Refusal> {
        let count = self.member_count(channel) + self.count_elsewhere(channel);
        let mut view = channel.view(count as u64);
        if brief {
            return Ok(view);
        }
        let from = self.place_of(query.cursor.as_ref())?;
        let cursor = self.participants(channel, from, query.limit, &mut view.participants);
        told.work.charge(work::ROW * view.participants.len() as u64);
        // All of them are in order; of many, those of a page are.
        view.participants.sort_unstable_by(|a, b| a.client_id.cmp(&b.client_id));
        let Address { room, channel } = &*channel.address;
        view.cursor = cursor.map(|cursor| cursor.text(List::Participants(room, channel)));
        Ok(view)
    }

    /// Where a page of participants begins.
    fn place_of(&self, cursor: Option<&Cursor>) -> Result<MembersFrom, Refusal> {
        Ok(match cursor {
            None => MembersFrom::Listed(None),
            Some(Cursor::Name(name)) => MembersFrom::Elsewhere(Some(name.clone())),
            Some(&Cursor::Connection { mark, follows, at: (shard, slot, generation) }) => {
                if mark != self.page_mark {
                    return Err(Refusal::of_field(
                        Fault::BadParameter,
                        "parameters.cursor",
                        "parameters.cursor is of another server, or of one that has been restarted; leave it out to begin anew.",
                    ));
                }
                let conn = ConnRef { shard: ShardId(shard), conn: ConnId { slot, generation } };
                match follows {
                    true => MembersFrom::Followers(Some(conn)),
                    false => MembersFrom::Listed(Some(conn)),
                }
            }
        })
    }

    /// Adds up to `limit` members of a channel behind a place; gives the cursor of the last one if there
    /// are more.
    fn participants(
        &self,
        channel: &Channel,
        from: MembersFrom,
        limit: usize,
        rows: &mut Vec<ParticipantView>,
    ) -> Option<Cursor> {
        let mark = self.page_mark;
        let at = |conn: ConnRef| (conn.shard.0, conn.conn.slot, conn.conn.generation);
        let mut last = None;
        let (listed_from, followers_from, elsewhere_from) = match from {
            MembersFrom::Listed(after) => (Some(after), Some(None), None),
            MembersFrom::Followers(after) => (None, Some(after), None),
            MembersFrom::Elsewhere(after) => (None, None, after),
        };
        for (conn, member) in listed_from.into_iter().flat_map(|after| channel.listed_after(after))
        {
            if rows.len() == limit {
                return last;
            }
            rows.push(participant(&member.client));
            last = Some(Cursor::Connection { mark, follows: false, at: at(*conn) });
        }
        let room = self.rooms.get(&channel.address.room).filter(|_| channel.is_open_to_room());
        let followers = followers_from.zip(room);
        for conn in followers.iter().flat_map(|(after, room)| room.followers.after(*after)) {
            let person = room.and_then(|room| room.people.get(&conn));
            let Some(person) = person.filter(|_| channel.listed(conn).is_none()) else { continue };
            if rows.len() == limit {
                return last;
            }
            rows.push(participant(&person.client));
            last = Some(Cursor::Connection { mark, follows: true, at: at(conn) });
        }
        for client in self.members_elsewhere(channel, elsewhere_from.as_ref()) {
            if rows.len() == limit {
                return last;
            }
            rows.push(participant(client));
            last = Some(Cursor::Name(client.client_id.clone()));
        }
        None
    }

    fn list_channels(
        &self,
        name: &Name,
        query: &PageQuery,
        client: &ClientCard,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        let room = self.known_room(name)?;
        let after = query.cursor.as_ref().and_then(Cursor::name);
        told.work.charge(work::MEMBER * room.channels.len() as u64);
        let channels = room.channels.values().filter_map(|id| self.channels.get(id));
        let seen = channels.filter(|channel| channel.admits(client));
        let (mut count, mut lines, mut more, mut bytes) = (0, Vec::new(), false, 0);
        let bytes_max = page_bytes_max(&self.limits);
        for channel in seen {
            count += 1;
            if after.is_some_and(|after| channel.address.channel <= *after) || more {
                continue;
            }
            bytes += CHANNEL_LINE_BYTES + channel.address.channel.len();
            if lines.len() == query.limit || !lines.is_empty() && bytes > bytes_max {
                more = true;
                continue;
            }
            let participants = self.member_count(channel) + self.count_elsewhere(channel);
            lines.push(channel.line(participants as u64));
        }
        told.work.charge(work::ROW * lines.len() as u64);
        let last = lines.last().filter(|_| more).map(|line: &ChannelLine| line.name.clone());
        let cursor = last.map(|last| Cursor::Name(last).text(List::Channels(name)));
        let (room, channels) = (name.clone(), lines);
        Ok(RoomAnswer::Channels(Box::new(ChannelsView { room, channels, count, more, cursor })))
    }

    fn history(
        &self,
        now: Now,
        query: &HistoryQuery,
        client: &ClientCard,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        // The edge has seen to it that only members ask; a whole room's own events are read as `*`.
        let room = self.known_room(&query.address.room)?;
        let (id, history) = match query.address.channel.is_every() {
            true => (room.id, &room.history),
            false => {
                let channel = self.visible_channel(&query.address, client)?;
                (channel.id, &channel.history)
            }
        };
        let page = history.page(query, now.mono_ms(), self.limits.outbox_bytes as usize / 4);
        told.work.charge(work::ROW * page.messages.len() as u64);
        let sequences = || page.messages.iter().map(|message| message.sequence);
        let mut messages = Vec::new();
        for (place, message) in page.messages.iter().enumerate() {
            messages.extend((place > 0).then_some(b','));
            message.write_replayed(&mut messages);
        }
        told.work.charge(work::bytes(messages.len()));
        // Frames are text, also those that were read from a storage; one that were none would be told as
        // well as it can be.
        let messages = String::from_utf8(messages)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
        let view = HistoryView {
            room: query.address.room.clone(),
            channel: query.address.channel.clone(),
            first: sequences().min(),
            last: sequences().max(),
            epoch: history.epoch().to_string(),
            more: page.more,
            incomplete: self.is_unsure() || self.is_in_fork(id),
            messages,
        };
        Ok(RoomAnswer::History(Box::new(view)))
    }

    fn create_channel(
        &mut self,
        now: Now,
        create: CreateChannel,
        client: &Arc<ClientCard>,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        let CreateChannel { address, channel_type, metadata, members } = create;
        if address.channel.as_str() == PRIVATE_CHANNEL {
            return Err(Refusal::of_field(
                Fault::ChannelIsPm,
                "parameters.channel",
                "The name pm is kept for private messages; choose another.",
            ));
        }
        let room = self.rooms.get(&address.room);
        if room.is_some_and(|room| room.channels.contains_key(&address.channel)) {
            return Err(Refusal::of_field(
                Fault::ChannelExists,
                "parameters.channel",
                format!("The channel {address} is there already."),
            ));
        }
        self.has_room_for_channel(&address.room)?;
        // An empty channel may go for it, and its room with it.
        self.take_channel_place(told)?;
        if !self.rooms.contains_key(&address.room) {
            let (creator, config) = (client.client_id.clone(), RoomConfig::default());
            self.create_room(now, &address.room, RoomType::User, creator, config, told)
                .inspect_err(|_| self.on_node.channels.give_back())?;
        }
        let creator = Some(client.client_id.clone());
        let channel = self.insert_channel(now, address, channel_type, creator, false, told);
        channel.metadata = metadata.map(Arc::from);
        channel.guests = members;
        let id = channel.id;
        self.keep_channel(id, told);
        self.open_to_room(now, id, told);
        let page = self.channel_page(&self.channels[&id], &PageQuery::default(), false, told)?;
        Ok(RoomAnswer::Channel(Box::new(page)))
    }

    pub(super) fn delete_channel(
        &mut self,
        address: Address,
        client: &ClientCard,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        let channel = self.visible_channel(&address, client)?;
        if channel.hardcoded {
            return Err(Refusal::of_field(
                Fault::ChannelProtected,
                "parameters.channel",
                format!("The channel {address} is hard-coded and can't be deleted."),
            ));
        }
        let members = self.member_count(channel) + self.count_elsewhere(channel);
        if members > 0 {
            return Err(Refusal::of_field(
                Fault::ChannelNotEmpty,
                "parameters.channel",
                format!(
                    "The channel {address} has {members} members; it can be deleted when they have left."
                ),
            ));
        }
        let id = channel.id;
        self.remove_channel(id, told);
        Ok(RoomAnswer::ChannelDeleted(address))
    }

    fn create_room_by_command(
        &mut self,
        now: Now,
        name: Name,
        config: RoomConfig,
        client: &ClientCard,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        if self.rooms.contains_key(&name) {
            return Err(Refusal::of_field(
                Fault::RoomExists,
                "parameters.room",
                format!("The room {name} is there already."),
            ));
        }
        self.create_room(now, &name, RoomType::User, client.client_id.clone(), config, told)?;
        self.room_answer(&name, client)
    }

    pub(super) fn delete_room(
        &mut self,
        name: Name,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        let room = self.known_room(&name)?;
        if room.room_type == RoomType::System {
            return Err(protected(&name, "deleted"));
        }
        let pm = room.channels.get(PRIVATE_CHANNEL).copied();
        let channels = room.channels.len() - usize::from(pm.is_some());
        let clients = room.people.len() as u64 + self.residents(&name);
        if channels > 0 || clients > 0 {
            return Err(Refusal::of_field(
                Fault::RoomNotEmpty,
                "parameters.room",
                format!(
                    "The room {name} has {channels} channels and {clients} clients; delete its channels first."
                ),
            ));
        }
        if let Some(pm) = pm {
            self.remove_channel(pm, told);
        }
        self.remove_room(&name, told);
        Ok(RoomAnswer::RoomDeleted(name))
    }

    fn pause_room(
        &mut self,
        name: &Name,
        paused: bool,
        client: &ClientCard,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        if self.known_room(name)?.room_type == RoomType::System {
            return Err(protected(name, "paused"));
        }
        let Home { rooms, channels, .. } = self;
        if let Some(room) = rooms.get_mut(name) {
            told.work.charge(work::MEMBER * room.channels.len() as u64);
            room.paused = paused;
            for id in room.channels.values() {
                if let Some(channel) = channels.get_mut(id) {
                    channel.open = room.is_open();
                }
            }
        }
        self.record_room(name, told);
        self.room_answer(name, client)
    }

    fn announce(
        &mut self,
        name: &Name,
        frame: Arc<Frame>,
        told: &mut Told,
    ) -> Result<RoomAnswer, Refusal> {
        let people = self.known_room(name)?.people.len() as u64;
        self.announce_here(name, &frame, told);
        Ok(RoomAnswer::Announced(people + self.announce_to_peers(Some(name), &frame, told)))
    }

    /// Says something to everyone of this node who is in a room.
    pub(super) fn announce_here(&self, name: &Name, frame: &Arc<Frame>, told: &mut Told) {
        let Some(room) = self.rooms.get(name) else { return };
        for shard in room.spread.shards() {
            let fanout = Fanout { channel: room.id, frame: frame.clone(), from: None, trace: None };
            told.tell(shard, Tell::Fanout(fanout));
        }
    }

    fn room_answer(&self, name: &Name, client: &ClientCard) -> Result<RoomAnswer, Refusal> {
        let room = self.known_room(name)?;
        Ok(RoomAnswer::Room(Box::new(self.room_view(room, client))))
    }

    fn known_room(&self, name: &Name) -> Result<&Room, Refusal> {
        self.rooms.get(name).ok_or_else(|| match self.is_unsure() {
            true => may_be_there(format!("There is no room {name} on this node yet")),
            false => Refusal::of_field(
                Fault::RoomNotFound,
                "room",
                format!("There is no room {name}; list_rooms shows which there are."),
            ),
        })
    }

    /// The channel, unless it is private to others, whom it does not exist for.
    fn visible_channel(&self, address: &Address, client: &ClientCard) -> Result<&Channel, Refusal> {
        let room = self.known_room(&address.room)?;
        let channel = room.channels.get(&address.channel).and_then(|id| self.channels.get(id));
        channel.filter(|channel| channel.admits(client)).ok_or_else(|| match self.is_unsure() {
            true => may_be_there(format!("There is no channel {address} on this node yet")),
            false => Refusal::of_field(
                Fault::ChannelNotFound,
                "channel",
                format!("There is no channel {address}; list_channels shows which there are."),
            ),
        })
    }
}

/// Where a page of a channel's participants begins.
enum MembersFrom {
    /// Behind this one of those that it lists.
    Listed(Option<ConnRef>),
    /// Behind this one of those that follow its room.
    Followers(Option<ConnRef>),
    /// Behind this one of those on other nodes.
    Elsewhere(Option<Name>),
}

fn participant(client: &ClientCard) -> ParticipantView {
    ParticipantView {
        client_id: client.client_id.clone(),
        client_type: client.client_type,
        screen_name: client.screen_name.clone(),
    }
}

fn protected(name: &Name, done: &str) -> Refusal {
    Refusal::of_field(
        Fault::RoomProtected,
        "parameters.room",
        format!("The room {name} is a system room and can't be {done}."),
    )
}
