//! Commands: answered here, asked of one home, or asked of every shard.

use crate::base::ids::ConnId;
use crate::base::time::Now;
use crate::broker::census::{Census, Clients, Gathered, RowsWanted, page_bytes_max};
use crate::broker::delivery::Deliveries;
use crate::broker::edge::messages::question_of;
use crate::broker::edge::{Edge, Flow};
use crate::broker::lane::{Ask, Asks, DisconnectAsk, JoinAsk, LeaveAsk, RoomAsk, RoomWish, Topic};
use crate::broker::pending::{Gathers, Pending};
use crate::broker::policy;
use crate::protocol::command::{self, Address, Command, HistoryQuery, Join, Request};
use crate::protocol::envelope::Envelope;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::{EVERY_CHANNEL, Name};
use crate::protocol::page::PageQuery;
use crate::protocol::reply::Question;
use crate::protocol::views::{Counts, Time};
use serde_json::json;

impl Edge {
    pub(super) fn on_command(
        &mut self,
        now: Now,
        conn: ConnId,
        envelope: &Envelope<'_>,
        again: bool,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) -> Result<Flow, Refusal> {
        let mut question = question_of(envelope);
        let flow = match command::parse(envelope.payload, &envelope.room, &envelope.channel) {
            Ok(Request { command, brief }) => {
                (question.command, question.brief) = (Some(command.name()), brief);
                if command.may_answer_at_length()
                    && let Some(session) = self.session(conn)
                {
                    question.turn = session.long_asked.wrapping_add(1).max(1);
                }
                let flow = self.run_command(now, conn, &question, command, again, asks, out);
                if question.turn != 0
                    && matches!(flow, Ok(Flow::Done))
                    && let Some(session) = self.session_mut(conn)
                {
                    (session.long_asked, session.awaited) = (question.turn, question.turn);
                }
                flow
            }
            Err(refusal) => {
                question.command = command::known_name(envelope.payload);
                Err(refusal)
            }
        };
        match flow {
            // A refusal that names the command is answered here rather than by the caller.
            Err(refusal) => {
                self.refuse(now, conn, &question, refusal, out);
                Ok(Flow::Done)
            }
            flow => flow,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call site, which just took a message apart")]
    fn run_command(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        command: Command,
        again: bool,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) -> Result<Flow, Refusal> {
        let rate = self.limits.rate_commands;
        let Some(session) = self.session_mut(conn) else { return Ok(Flow::Done) };
        let cost = command.cost();
        if !again && cost > 0 && !session.rates.take_command(now.mono_ms(), rate, cost) {
            let counts = match cost {
                1 => String::new(),
                _ => format!(", and {} counts as {cost}", command.name()),
            };
            return Err(Refusal::new(
                Fault::RateLimited,
                format!("You may give {rate} commands a second{counts}; wait and give it again."),
            ));
        }
        if command.requires_admin() {
            policy::may_administer(session.card.role, command.name())?;
        }
        // One long answer at a time: what the client has read decides when it gets the next, or a
        // few hundred questions in one packet would be more answers than any outbox holds.
        if command.may_answer_at_length() && session.awaited != 0 {
            session.waits_for_answer = true;
            return Ok(Flow::Waiting);
        }
        let asked = (conn, question, asks);
        match command {
            Command::Ping => {
                self.succeed(
                    now,
                    conn,
                    question,
                    json!({"pong": true, "time": Time(now.wall_us)}),
                    out,
                );
                Ok(Flow::Done)
            }
            Command::Help => {
                match question.brief {
                    true => self.succeed(now, conn, question, command::help_brief(), out),
                    false => self.succeed(now, conn, question, command::help(), out),
                }
                Ok(Flow::Done)
            }
            Command::Identify(identity) => {
                Ok(self.identify(now, conn, question.clone(), *identity, asked.2, out))
            }
            Command::JoinChannel(join) => self.ask_join(*join, asked),
            Command::LeaveChannel(address) => self.ask_leave(address, asked),
            Command::History(query) => self.ask_history(*query, asked),
            Command::ListChannels { room, page } => {
                self.ask_room(room.clone(), RoomWish::ListChannels(room, page), asked)
            }
            Command::ChannelInfo { address, page } => {
                let wish = RoomWish::ChannelInfo(Box::new(address.clone()), page);
                self.ask_room(address.room, wish, asked)
            }
            Command::CreateChannel(create) => {
                self.ask_room(create.address.room.clone(), RoomWish::CreateChannel(create), asked)
            }
            Command::DeleteChannel(address) => {
                self.ask_room(address.room.clone(), RoomWish::DeleteChannel(address), asked)
            }
            Command::CreateRoom { room, config } => {
                self.ask_room(room.clone(), RoomWish::CreateRoom(room, config), asked)
            }
            Command::DeleteRoom { room } => {
                self.ask_room(room.clone(), RoomWish::DeleteRoom(room), asked)
            }
            Command::PauseRoom { room } => {
                self.ask_room(room.clone(), RoomWish::Pause(room, true), asked)
            }
            Command::ResumeRoom { room } => {
                self.ask_room(room.clone(), RoomWish::Pause(room, false), asked)
            }
            Command::Announce { message, room } => self.ask_announce(now, message, room, asked),
            Command::Status => {
                self.ask_all(now, Census::Status(Box::<Counts>::default()), Topic::Status, asked)
            }
            Command::ListRooms(query) => {
                let rows = self.rows_wanted(query, question.brief);
                let census = Census::Rooms(Box::new(Gathered::new(&rows)));
                self.ask_all(now, census, Topic::Rooms(rows), asked)
            }
            Command::ListClients(query) => {
                let rows = self.rows_wanted(query, question.brief);
                let census = Census::Clients(Box::new(Clients::new(&rows)));
                self.ask_all(now, census, Topic::Clients(rows), asked)
            }
            Command::DisconnectClient { client_id, reason } => {
                let home = self.placement.of_client(&client_id);
                let (conn, question, asks) = (self.conn_ref(conn), question.clone(), asked.2);
                if !asks.has_room(home) {
                    return Ok(Flow::Blocked(home));
                }
                let ask = DisconnectAsk { client_id, reason, conn, question };
                asks.push(home, Ask::Disconnect(Box::new(ask)));
                Ok(Flow::Done)
            }
        }
    }

    /// Which rows every shard is asked for.
    fn rows_wanted(&self, query: PageQuery, brief: bool) -> RowsWanted {
        let after = query.cursor.and_then(|cursor| cursor.name().cloned());
        let bytes = page_bytes_max(&self.limits);
        RowsWanted { after, limit: query.limit, bytes, brief }
    }

    fn ask_join(
        &mut self,
        join: Join,
        (conn, question, asks): (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        let home = self.placement.of_room(&join.address.room);
        if !asks.has_room(home) {
            return Ok(Flow::Blocked(home));
        }
        let (here, max) = (self.conn_ref(conn), self.limits.max_joins_per_client);
        let is_joined = self.is_subscribed(conn, &join.address);
        let Some(session) = self.session_mut(conn) else { return Ok(Flow::Done) };
        if session.join_count() >= max && !is_joined {
            // What is under way may turn out to be no join more, or one less.
            let is_open = session.joins_in_flight + session.leaves_in_flight > 0;
            session.waits_for_answer |= is_open;
            return if is_open { Ok(Flow::Waiting) } else { Err(join_limit(max)) };
        }
        let joins_left = max.saturating_sub(session.join_count() + 1);
        session.joins_in_flight += 1;
        if !session.homes.contains(&home) {
            session.homes.push(home);
        }
        let (client, question) = (session.card.clone(), Some(question.clone()));
        let has_returned = session.stay.as_ref().is_some_and(|stay| stay.is_resumed);
        let ask = JoinAsk { conn: here, client, join, question, has_returned, joins_left };
        asks.push(home, Ask::Join(Box::new(ask)));
        Ok(Flow::Done)
    }

    fn ask_leave(
        &mut self,
        address: Address,
        (conn, question, asks): (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        let home = self.placement.of_room(&address.room);
        if !asks.has_room(home) {
            return Ok(Flow::Blocked(home));
        }
        if !self.is_subscribed(conn, &address) {
            return self.refuse_or_wait(conn, not_joined(&address));
        }
        let (here, hasher) = (self.conn_ref(conn), self.hasher.clone());
        if let Some(session) = self.session_mut(conn) {
            session.leaves_in_flight += 1;
            let (room, channel) = (&address.room, &address.channel);
            if let Some(membership) = session.memberships.find_mut(&hasher, room, channel) {
                membership.leaving = true;
            } else if let Some(tie) = session.rooms.iter_mut().find(|tie| tie.room == *room) {
                tie.leaving = true;
            }
        }
        let ask = LeaveAsk { conn: here, address, question: question.clone() };
        asks.push(home, Ask::Leave(Box::new(ask)));
        Ok(Flow::Done)
    }

    fn ask_history(
        &mut self,
        query: HistoryQuery,
        asked: (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        let address = &query.address;
        let is_member =
            self.session(asked.0).is_some_and(|session| match address.channel.is_every() {
                true => session.room_it_stays_in(&address.room).is_some(),
                false => {
                    let (room, channel) = (&address.room, &address.channel);
                    match session.memberships.find(&self.hasher, room, channel) {
                        Some(known) => session.stays_in(known),
                        None => self.followed_channel(session, room, channel).is_some(),
                    }
                }
            });
        if !is_member {
            return self.refuse_or_wait(asked.0, not_joined(address));
        }
        self.ask_room(address.room.clone(), RoomWish::History(Box::new(query)), asked)
    }

    fn ask_announce(
        &mut self,
        now: Now,
        message: String,
        room: Option<Name>,
        asked: (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        let Some(session) = self.session(asked.0) else { return Ok(Flow::Done) };
        let payload = json!({
            "event": "announcement",
            "message": message,
            "by": session.card.client_id,
        });
        let named = room.as_ref().map_or(EVERY_CHANNEL, Name::as_str).to_owned();
        let frame = self.notice(now, (&named, EVERY_CHANNEL), payload);
        match room {
            Some(room) => self.ask_room(room.clone(), RoomWish::Announce(room, frame), asked),
            None => self.ask_all(now, Census::Announced(0), Topic::Announce(frame), asked),
        }
    }

    fn ask_room(
        &mut self,
        room: Name,
        wish: RoomWish,
        (conn, question, asks): (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        let home = self.placement.of_room(&room);
        if !asks.has_room(home) {
            return Ok(Flow::Blocked(home));
        }
        let Some(session) = self.session(conn) else { return Ok(Flow::Done) };
        let (client, conn) = (session.card.clone(), self.conn_ref(conn));
        let ask = RoomAsk { conn, client, question: question.clone(), wish };
        asks.push(home, Ask::Room(Box::new(ask)));
        Ok(Flow::Done)
    }

    fn ask_all(
        &mut self,
        now: Now,
        census: Census,
        topic: Topic,
        (conn, question, asks): (ConnId, &Question, &mut Asks),
    ) -> Result<Flow, Refusal> {
        if let Some(full) = asks.first_full() {
            return Ok(Flow::Blocked(full));
        }
        let Some(client) = self.session(conn).map(|session| session.card.clone()) else {
            return Ok(Flow::Done);
        };
        let awaited = vec![true; usize::from(self.placement.shards())];
        let gathers = Gathers::Survey(census, awaited);
        let pending = Pending { conn, question: question.clone(), gathers };
        let pending = self.pending.insert(now.mono_ms(), pending);
        self.survey(pending, &client, &topic, asks);
        Ok(Flow::Done)
    }

    /// Whether the client joined just this: the channel by its name, or the room as a whole.
    fn is_subscribed(&self, conn: ConnId, address: &Address) -> bool {
        self.session(conn).is_some_and(|session| match address.channel.is_every() {
            true => session
                .room(&address.room)
                .is_some_and(|tie| tie.whole_room.is_some() && !tie.leaving),
            false => session
                .memberships
                .find(&self.hasher, &address.room, &address.channel)
                .is_some_and(|membership| membership.ties.named.is_some() && !membership.leaving),
        })
    }
}

/// The refusal of one join too many.
pub(super) fn join_limit(max: u32) -> Refusal {
    Refusal::new(
        Fault::JoinLimit,
        format!("You are joined to {max} channels, the most a client may be; leave one first."),
    )
}

fn not_joined(address: &Address) -> Refusal {
    Refusal::of_field(
        Fault::NotJoined,
        "channel",
        format!("You are not joined to {address}; join_channel first."),
    )
}
