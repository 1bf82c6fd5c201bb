//! What clients send: events, private messages, telemetry, commands.
//!
//! *Panics*: a group of `chunk_by` is never empty.

use crate::base::ids::{ChannelId, ConnId, ShardId};
use crate::base::time::Now;
use crate::base::work;
use crate::broker::delivery::Deliveries;
use crate::broker::edge::{Edge, Flow};
use crate::broker::lane::{Ask, Asks, PendingRef, PrivateAsk, Publish, Target};
use crate::broker::pending::{Gathers, Pending, Trace};
use crate::broker::session::Session;
use crate::broker::telemetry::Event;
use crate::protocol::command::{self, Address};
use crate::protocol::decode;
use crate::protocol::envelope::{Envelope, MessageType};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::{Draft, Origin};
use crate::protocol::names::{EVERY_CHANNEL, Name};
use crate::protocol::reply::Question;
use serde_json::json;

impl Edge {
    /// Handles a message of a client that may send. `again` says that it was offered before and
    /// found a full lane, so that it does not count twice against the client's rate.
    pub fn on_message(
        &mut self,
        now: Now,
        conn: ConnId,
        envelope: &Envelope<'_>,
        again: bool,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) -> Flow {
        let rate = self.limits.rate_messages;
        let Some(session) = self.session_mut(conn) else { return Flow::Done };
        session.last_activity_us = now.wall_us;
        let own_id = session.card.client_id.as_str();
        let refusal = if envelope.from != own_id {
            Some(Refusal::of_field(
                Fault::SenderMismatch,
                "from",
                format!("from must be your own client id, {own_id}."),
            ))
        } else if !again && !session.rates.take_message(now.mono_ms(), rate) {
            Some(Refusal::new(
                Fault::RateLimited,
                format!(
                    "You may send {rate} messages a second; slow down and send this one again."
                ),
            ))
        } else {
            None
        };
        if let Some(refusal) = refusal {
            self.refuse(now, conn, &question_of(envelope), refusal, out);
            return Flow::Done;
        }
        let handled = match envelope.kind {
            MessageType::Event => self.on_event(now, conn, envelope, asks),
            MessageType::Private => self.on_private(now, conn, envelope, asks, out),
            MessageType::Telemetry => self.on_telemetry(now, conn, envelope, out),
            MessageType::Command => self.on_command(now, conn, envelope, again, asks, out),
            // Decoding has refused these already.
            MessageType::System | MessageType::CommandResponse => Err(Refusal::of_field(
                Fault::TypeForbidden,
                "type",
                "Messages of this type come from the server only.",
            )),
        };
        match handled {
            Ok(Flow::Done) => {
                if envelope.kind == MessageType::Event {
                    let address = (&*envelope.room, &*envelope.channel);
                    self.tell_activity(now, conn, "published", address, out);
                }
                self.count_message(conn, envelope);
                Flow::Done
            }
            Ok(blocked) => blocked,
            Err(refusal) => {
                self.refuse(now, conn, &question_of(envelope), refusal, out);
                self.count_message(conn, envelope);
                Flow::Done
            }
        }
    }

    /// Counts a well-formed message. An `identify` that comes first counts when it is granted, so
    /// that a client that was refused an identity may ask for another.
    fn count_message(&mut self, conn: ConnId, envelope: &Envelope<'_>) {
        let Some(session) = self.session_mut(conn) else { return };
        let is_first_identify = session.messages == 0
            && envelope.kind == MessageType::Command
            && command::known_name(envelope.payload) == Some("identify");
        session.messages += u64::from(!is_first_identify);
    }

    fn on_event(
        &mut self,
        now: Now,
        conn: ConnId,
        envelope: &Envelope<'_>,
        asks: &mut Asks,
    ) -> Result<Flow, Refusal> {
        let Some(session) = self.session(conn) else { return Ok(Flow::Done) };
        let (to, home) = match self.target(session, envelope) {
            Ok(target) => target,
            Err(refusal) => return self.refuse_or_wait(conn, refusal),
        };
        if !asks.has_room(home) {
            return Ok(Flow::Blocked(home));
        }
        let (from, role) = (session.card.client_id.clone(), session.card.role);
        let origin = Origin { received_ns: now.mono_ns, ttl_ms: envelope.metadata.ttl_ms };
        let draft = Draft::new(envelope, &from, origin);
        let trace = envelope.metadata.trace.then(|| {
            let trace = Trace {
                received_ns: now.mono_ns,
                parsed_ns: None,
                accepted: None,
                reports: Vec::new(),
            };
            let gathers = Gathers::Trace(Box::new(trace));
            let question = question_of(envelope);
            self.pending.insert(now.mono_ms(), Pending { conn, question, gathers })
        });
        self.just_parsed.extend(trace);
        let from = Some(self.conn_ref(conn));
        let ack = envelope.metadata.ack;
        if ack
            && trace.is_none()
            && let Some(session) = self.session_mut(conn)
        {
            session.acks_in_flight += 1;
        }
        asks.push(home, Ask::Publish(Publish { to, draft, from, role, ack, trace }));
        Ok(Flow::Done)
    }

    /// Refuses what only a member may do, unless a join is on its way that may make the client
    /// one: a client need not wait for its answer before it goes on.
    pub(super) fn refuse_or_wait(
        &mut self,
        conn: ConnId,
        refusal: Refusal,
    ) -> Result<Flow, Refusal> {
        match self.session_mut(conn) {
            Some(session) if session.joins_in_flight > 0 => {
                session.waits_for_answer = true;
                Ok(Flow::Waiting)
            }
            _ => Err(refusal),
        }
    }

    /// Which channel an event is for, and where that is at home.
    fn target(
        &self,
        session: &Session,
        envelope: &Envelope<'_>,
    ) -> Result<(Target, ShardId), Refusal> {
        let (room, channel) = (&*envelope.room, &*envelope.channel);
        let id = if channel == EVERY_CHANNEL {
            session.room_it_stays_in(room).map(|tie| tie.id)
        } else {
            match session.memberships.find(&self.hasher, room, channel) {
                Some(known) => session.stays_in(known).then_some(known.channel),
                None => self.followed_channel(session, room, channel),
            }
        };
        if let Some(id) = id {
            return Ok((Target::Channel(id), id.home()));
        }
        if self.facts.publish_anywhere.allows(session.card.role)
            && let (Ok(room), Ok(channel)) = (Name::parse(room), Name::parse_channel(channel))
        {
            let home = self.placement.of_room(&room);
            return Ok((Target::Named(Box::new(Address { room, channel })), home));
        }
        Err(Refusal::of_field(
            Fault::NotJoined,
            "channel",
            format!("You are not joined to {room}:{channel}; join_channel first."),
        ))
    }

    /// The channel of a room that the client joined as a whole, and has not asked to leave.
    pub(super) fn followed_channel(
        &self,
        session: &Session,
        room: &str,
        channel: &str,
    ) -> Option<ChannelId> {
        let tie = session.room(room)?;
        let stays = tie.whole_room.is_some() && (!tie.leaving || session.leaves_in_flight == 0);
        stays.then(|| self.audiences.open_channel(tie.id, channel))?
    }

    fn on_private(
        &mut self,
        now: Now,
        conn: ConnId,
        envelope: &Envelope<'_>,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) -> Result<Flow, Refusal> {
        let targets: Vec<Name> = decode::private_targets(envelope.payload)?.into_iter().collect();
        let Some(session) = self.session(conn) else { return Ok(Flow::Done) };
        let Some(tie) = session.room_it_stays_in(&envelope.room) else {
            let room = &envelope.room;
            let message =
                format!("You are not in the room {room}; join one of its channels first.");
            let refusal = Refusal::of_field(Fault::NotJoined, "room", message);
            return self.refuse_or_wait(conn, refusal);
        };
        let (room, room_home) = (tie.room.clone(), tie.id.home());
        let from = session.card.client_id.clone();
        let count = targets.len();
        let mut by_home: Vec<(ShardId, Name)> =
            targets.into_iter().map(|id| (self.placement.of_client(&id), id)).collect();
        by_home.sort_by_key(|(home, _)| *home);
        let homes = by_home.iter().map(|(home, _)| *home).chain([room_home]);
        if let Some(full) = homes.into_iter().find(|&home| !asks.has_room(home)) {
            return Ok(Flow::Blocked(full));
        }
        asks.push(room_home, Ask::EnsurePm(room, from.clone()));
        let origin = Origin { received_ns: now.mono_ns, ttl_ms: envelope.metadata.ttl_ms };
        let frame = Draft::new(envelope, &from, origin).stamp_unordered(now.wall_us);
        // Charge the sender for all deliveries but the first, so that it cannot fill the tells of others.
        let each = work::TELL + work::LETTER + work::WRITE + work::bytes(frame.wire().len());
        out.units += each * (count as u64).saturating_sub(1);
        let groups: Vec<_> = by_home.chunk_by(|a, b| a.0 == b.0).collect();
        let gathers = Gathers::Private {
            waiting: groups.len(),
            targets: count,
            missing: Vec::new(),
            is_unsure: false,
            ack: envelope.metadata.ack || envelope.metadata.trace,
        };
        let question = question_of(envelope);
        let pending = self.pending.insert(now.mono_ms(), Pending { conn, question, gathers });
        let reply_to = PendingRef { shard: self.shard, pending };
        for group in groups {
            let targets = group.iter().map(|(_, id)| id.clone()).collect();
            let ask = PrivateAsk { reply_to, targets, frame: frame.clone() };
            asks.push(group[0].0, Ask::Private(Box::new(ask)));
        }
        Ok(Flow::Done)
    }

    fn on_telemetry(
        &mut self,
        now: Now,
        conn: ConnId,
        envelope: &Envelope<'_>,
        out: &mut Deliveries,
    ) -> Result<Flow, Refusal> {
        let Some(session) = self.session(conn) else { return Ok(Flow::Done) };
        let name = |text: &str| {
            Name::parse(text).map_err(|error| {
                Refusal::new(Fault::BadName, format!("A telemetry address {error}."))
            })
        };
        let address = Address { room: name(&envelope.room)?, channel: name(&envelope.channel)? };
        out.telemetry.push(Event::OfClient {
            id: envelope.id.to_string(),
            from: session.card.client_id.clone(),
            address,
            payload: envelope.payload.to_owned(),
            metadata: envelope.metadata.members.to_string(),
        });
        if envelope.metadata.ack {
            let question = question_of(envelope);
            self.succeed(now, conn, &question, json!({"accepted": true}), out);
        }
        Ok(Flow::Done)
    }
}

/// What an answer to this message answers.
pub(super) fn question_of(envelope: &Envelope<'_>) -> Question {
    Question::of_message(&envelope.id, &envelope.room, &envelope.channel)
}
