//! What homes tell: deliveries, and answers for clients. Nothing here asks.
//!
//! *Panics*: `json!` panics on what is no JSON: it is given texts and numbers of this program, and
//! rows of peers that were checked when they were read. The shards that an answer waits for are
//! those of this node.

use crate::base::ids::{ChannelId, ConnId, ConnRef, ShardId};
use crate::base::time::Now;
use crate::broker::census::{self, Census, Gathered, Row};
use crate::broker::channel::{Options, Seen, Ties};
use crate::broker::delivery::{Deliveries, Delivery};
use crate::broker::edge::Edge;
use crate::broker::lane::{
    Accepted, Answer, Fanout, JoinedTell, LeftTell, OpenedTell, Part, PresenceTell, RefusedEvent,
    RoomAnswer, Tell,
};
use crate::broker::peers::{PeerClients, PeerId};
use crate::broker::pending::{Gathers, Pending};
use crate::broker::session::RoomTie;
use crate::protocol::close::CloseReason;
use crate::protocol::command::Address;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::names::Name;
use crate::protocol::page::{Cursor, List};
use crate::protocol::reply::{self, Question};
use crate::protocol::views::{Counts, StatusView};
use serde::Serialize;
use serde_json::json;
use std::sync::Arc;

impl Edge {
    /// Handles a tell.
    pub fn on_tell(&mut self, now: Now, tell: Tell, out: &mut Deliveries) {
        match tell {
            Tell::Fanout(fanout) => self.on_fanout(fanout, out),
            Tell::Accepted(accepted) => self.on_accepted(now, *accepted, out),
            Tell::Refused(refused) => {
                let RefusedEvent { conn, question, refusal, trace } = *refused;
                if let Some(trace) = trace {
                    self.pending.remove(trace);
                } else if let Some(session) = self.session_mut(conn) {
                    // Whether it wanted an ack is not told; the count is for its last answers only.
                    session.acks_in_flight = session.acks_in_flight.saturating_sub(1);
                }
                self.refuse(now, conn, &question, refusal, out);
            }
            Tell::Claimed { conn, granted, life } => {
                self.on_claimed(now, conn, (granted, life), out);
            }
            Tell::Joined(joined) => self.on_joined(now, *joined, out),
            Tell::Opened(opened) => self.on_opened(&opened),
            Tell::Presence(tell) => self.on_presence(&tell, out),
            Tell::Left(left) => self.on_left(now, *left, out),
            Tell::Untied(conn, address) => self.on_untied(now, conn, &address, out),
            Tell::Deliver(conn, frame) => {
                if self.session(conn).is_some() {
                    out.list.push(Delivery::Message(conn, frame));
                }
            }
            Tell::Part { pending, shard, part } => self.on_part(now, pending, shard, part, out),
            Tell::Answer(answer) => self.on_answer(now, *answer, out),
            Tell::Supersede(conn) => {
                if self.session(conn).is_some() {
                    out.list.push(Delivery::Close(conn, CloseReason::Superseded, None));
                }
            }
            Tell::Disconnect(conn, reason) => {
                if self.session(conn).is_some() {
                    out.list.push(Delivery::Close(conn, CloseReason::Disconnected, reason));
                }
            }
        }
    }

    fn on_fanout(&mut self, fanout: Fanout, out: &mut Deliveries) {
        let Fanout { channel, frame, from, trace } = fanout;
        let sender = self.own(from);
        out.list.push(Delivery::Fanout { frame, channel, sender, trace });
    }

    /// The connection, if it is on this shard.
    fn own(&self, conn: Option<ConnRef>) -> Option<ConnId> {
        conn.filter(|conn| conn.shard == self.shard).map(|conn| conn.conn)
    }

    /// Notices for the same watchers go together.
    fn on_presence(&mut self, tell: &PresenceTell, out: &mut Deliveries) {
        for notices in tell.notices.chunk_by(|a, b| a.to == b.to) {
            let before = out.receivers.len();
            self.audiences.watchers(tell.channel, notices[0].to, &mut out.receivers);
            let receivers = out.receivers.len() - before;
            let frames = notices.iter().map(|known| (known.frame.clone(), self.own(known.subject)));
            let frames = frames.collect();
            out.list.push(Delivery::Together { frames, receivers });
        }
    }

    fn on_accepted(&mut self, now: Now, accepted: Accepted, out: &mut Deliveries) {
        let Accepted { conn, frame, sequence, duplicate, trace, address, home } = accepted;
        if let Some((key, routed_ns, shards)) = trace {
            let Some(pending) = self.pending.get_mut(key) else { return };
            if let Gathers::Trace(trace) = &mut pending.gathers {
                trace.accepted = Some((sequence, duplicate, home, routed_ns, shards));
                match trace.is_whole() {
                    true => self.end_pending(now, key, out),
                    false => self.pending.start_deadline(now.mono_ms(), key),
                }
            }
            return;
        }
        if let Some(session) = self.session_mut(conn) {
            session.acks_in_flight = session.acks_in_flight.saturating_sub(1);
            let (stamp, address) = (self.stamp(now), (&*address.room, &*address.channel));
            let text = reply::accepted(stamp, frame.id(), address, sequence, duplicate);
            out.list.push(Delivery::Reply(conn, Frame::of_text(&text, now.mono_ns)));
        }
    }

    fn on_joined(&mut self, now: Now, joined: JoinedTell, out: &mut Deliveries) {
        let JoinedTell { conn, room, join, channels, view, question, replay } = joined;
        let Some(session) = self.session_mut(conn) else { return };
        session.joins_in_flight -= 1;
        let waits = std::mem::take(&mut session.waits_for_answer);
        let options = Options { echo: join.echo, presence: join.presence };
        let (name, whole_room) = (&join.address.room, join.address.channel.is_every());
        self.enter_room(conn, room, name, whole_room.then_some(options));
        match whole_room {
            true => self.follow_room(conn, room, name, options, &channels),
            false => {
                let ties = Ties { named: Some(options), whole_room: None };
                channels.iter().for_each(|seen| self.enter_channel(conn, seen, ties));
            }
        }
        self.seat_in_room(conn, &join.address.room);
        self.note_change(conn);
        let address = (join.address.room.as_str(), join.address.channel.as_str());
        self.tell_activity(now, conn, "joined", address, out);
        match question {
            Some(question) => self.succeed(now, conn, &question, view, out),
            None => self.on_arrival_joined(now, conn, view, out),
        }
        out.list.extend(replay.into_iter().map(|frame| Delivery::Reply(conn, frame)));
        if waits {
            out.list.push(Delivery::Resume(conn));
        }
    }

    /// A channel is new, or it was private and is open, or the other way round.
    fn on_opened(&mut self, opened: &OpenedTell) {
        let OpenedTell { channel: seen, conns, room } = opened;
        if seen.is_private {
            self.audiences.make_private(seen.channel);
            for &conn in conns {
                let tie = self.session(conn).and_then(|known| known.room(&seen.address.room));
                let Some(options) = tie.and_then(|tie| tie.whole_room) else { continue };
                self.enter_channel(conn, seen, Ties { named: None, whole_room: Some(options) });
            }
            return;
        }
        // Followers that it listed while it was private are not listed any more.
        let followers = self.audiences.followers(*room).into_iter();
        let followers: Vec<ConnId> =
            followers.flat_map(|known| known.seats()).map(|seat| seat.conn).collect();
        for conn in followers {
            if self.lists_as_follower(conn, &seen.address) {
                self.leave_channel(conn, &seen.address, true);
            }
        }
        self.audiences.open(*room, seen.channel, &seen.address);
    }

    fn lists_as_follower(&self, conn: ConnId, address: &Address) -> bool {
        let Some(session) = self.session(conn) else { return false };
        let known = session.memberships.find(&self.hasher, &address.room, &address.channel);
        known.is_some_and(|known| known.ties.whole_room.is_some())
    }

    fn on_left(&mut self, now: Now, left: LeftTell, out: &mut Deliveries) {
        let LeftTell { conn, address, question } = left;
        let Some(session) = self.session_mut(conn) else { return };
        session.leaves_in_flight -= 1;
        let waits = std::mem::take(&mut session.waits_for_answer);
        // Before it is gone: only a member knows whether the channel is private.
        self.tell_activity(now, conn, "left", (&address.room, &address.channel), out);
        match address.channel.is_every() {
            true => self.leave_whole_room(conn, &address.room),
            false => self.leave_channel(conn, &address, false),
        }
        if !self.forget_room_if_left(conn, &address.room) {
            self.seat_in_room(conn, &address.room);
        }
        self.note_change(conn);
        let result = json!({"left": true, "room": address.room, "channel": address.channel});
        self.succeed(now, conn, &question, result, out);
        if waits {
            out.list.push(Delivery::Resume(conn));
        }
    }

    /// A channel that the client had joined turned out to be private to others. It is told as of any
    /// member that leaves.
    fn on_untied(&mut self, now: Now, conn: ConnId, address: &Address, out: &mut Deliveries) {
        let Some(session) = self.session(conn) else { return };
        let card = session.card.clone();
        self.leave_channel(conn, address, false);
        self.leave_channel(conn, address, true);
        if !self.forget_room_if_left(conn, &address.room) {
            self.seat_in_room(conn, &address.room);
        }
        self.note_change(conn);
        let payload = json!({
            "event": "left",
            "client_id": card.client_id,
            "client_type": card.client_type,
            "screen_name": card.screen_name,
        });
        let frame = self.notice(now, (&address.room, &address.channel), payload);
        out.list.push(Delivery::Message(conn, frame));
    }

    fn on_part(&mut self, now: Now, key: u32, shard: ShardId, part: Part, out: &mut Deliveries) {
        let Some(pending) = self.pending.get_mut(key) else { return };
        let is_whole = match (&mut pending.gathers, part) {
            (
                Gathers::Private { waiting, missing, is_unsure, .. },
                Part::Missing { targets, is_unsure: may_be_elsewhere },
            ) => {
                missing.extend(targets);
                *is_unsure |= may_be_elsewhere;
                *waiting -= 1;
                *waiting == 0
            }
            (Gathers::Survey(census, awaited), part) => {
                census.add(part);
                awaited[shard.index()] = false;
                is_whole(census, awaited)
            }
            // It answers another question.
            _ => return,
        };
        if is_whole {
            self.end_pending(now, key, out);
        }
    }

    /// A shard of another node says which clients it has; nothing, if nobody asks any more.
    pub fn on_peer_clients(
        &mut self,
        now: Now,
        peer: PeerId,
        clients: PeerClients,
        out: &mut Deliveries,
    ) {
        let key = clients.reply_to.pending;
        let Some(pending) = self.pending.get_mut(key) else { return };
        if let Gathers::Survey(census, awaited) = &mut pending.gathers
            && let Census::Clients(gathered) = census
        {
            gathered.add_of_peer(peer, clients);
            if is_whole(census, awaited) {
                self.end_pending(now, key, out);
            }
        }
    }

    pub(super) fn end_pending(&mut self, now: Now, key: u32, out: &mut Deliveries) {
        if let Some(pending) = self.pending.remove(key) {
            self.answer_pending(now, pending, out);
        }
    }

    /// Answers with what is known, which at a deadline may not be all.
    pub(super) fn answer_pending(&mut self, now: Now, pending: Pending, out: &mut Deliveries) {
        let Pending { conn, question, gathers } = pending;
        if self.session(conn).is_none() {
            return;
        }
        match gathers {
            Gathers::Survey(census, awaited) => {
                self.answer_survey(now, conn, &question, census, census::unanswered(&awaited), out);
            }
            Gathers::Private { targets, missing, is_unsure, ack, .. } => {
                let missing = (missing, is_unsure);
                self.answer_private(now, conn, &question, targets, missing, ack, out);
            }
            Gathers::Trace(trace) => {
                // It ends when its home has accepted the event: there is an ack then.
                if let Some(ack) = trace.ack(self.shard) {
                    self.succeed(now, conn, &question, ack, out);
                }
            }
        }
    }

    fn answer_survey(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        census: Census,
        unanswered: Vec<u16>,
        out: &mut Deliveries,
    ) {
        match census {
            Census::Status(counts) => {
                let status = self.status(now, *counts, unanswered);
                self.succeed(now, conn, question, status, out);
            }
            Census::Rooms(rooms) => {
                let mut result = listed("rooms", &rooms, List::Rooms);
                name_unanswered(&mut result, &unanswered);
                self.succeed(now, conn, question, result, out);
            }
            Census::Clients(clients) => {
                let mut result = listed("clients", clients.rows(), List::Clients);
                name_unanswered(&mut result, &unanswered);
                let nodes = clients.unanswered_nodes();
                if !nodes.is_empty() {
                    result["unanswered_nodes"] = json!(nodes);
                }
                self.succeed(now, conn, question, result, out);
            }
            Census::Announced(clients) => {
                let mut result = json!({"clients": clients});
                name_unanswered(&mut result, &unanswered);
                self.succeed(now, conn, question, result, out);
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one pending entry, taken apart")]
    fn answer_private(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        targets: usize,
        (mut missing, is_unsure): (Vec<Name>, bool),
        ack: bool,
        out: &mut Deliveries,
    ) {
        let delivered = targets - missing.len();
        if missing.is_empty() {
            if ack {
                self.succeed(now, conn, question, json!({"delivered": delivered}), out);
            }
            return;
        }
        missing.sort_unstable();
        let names: Vec<&str> = missing.iter().map(Name::as_str).collect();
        let names = names.join(", ");
        let (fault, message) = match is_unsure {
            true => (
                Fault::StorageUnavailable,
                format!(
                    "Not connected to this node, and the others can't be reached now: {names}. Delivered to {delivered} of {targets} targets; send it to the rest again later."
                ),
            ),
            false => (
                Fault::TargetNotFound,
                format!("Not connected: {names}. Delivered to {delivered} of {targets} targets."),
            ),
        };
        let refusal = Refusal::of_field(fault, "payload.target", message);
        self.refuse(now, conn, question, refusal, out);
    }

    fn on_answer(&mut self, now: Now, answer: Answer, out: &mut Deliveries) {
        let Answer { conn, question, outcome } = answer;
        let Some(session) = self.session_mut(conn) else { return };
        let answer = match outcome {
            Ok(answer) => answer,
            Err(refusal) if question.id.is_none() => {
                return self.on_arrival_refused(now, conn, question, refusal, out);
            }
            Err(refusal) => {
                if question.command == Some("join_channel") {
                    session.joins_in_flight -= 1;
                    if std::mem::take(&mut session.waits_for_answer) {
                        out.list.push(Delivery::Resume(conn));
                    }
                }
                self.refuse(now, conn, &question, refusal, out);
                return;
            }
        };
        match answer {
            RoomAnswer::Channels(view) if question.brief => {
                let names: Vec<_> = view.channels.iter().map(|line| &line.name).collect();
                let result = json!({
                    "room": view.room,
                    "channels": names,
                    "count": view.count,
                    "more": view.more,
                    "cursor": view.cursor,
                });
                self.succeed(now, conn, &question, result, out);
            }
            RoomAnswer::Channels(view) => self.succeed(now, conn, &question, view, out),
            RoomAnswer::Channel(view) => self.succeed(now, conn, &question, view, out),
            RoomAnswer::Room(view) => self.succeed(now, conn, &question, view, out),
            RoomAnswer::History(view) => {
                let text = reply::page(self.stamp(now), &question, &view);
                self.succeed_with(now, conn, &question, text, out);
            }
            RoomAnswer::ChannelDeleted(Address { room, channel }) => {
                let result = json!({"deleted": true, "room": room, "channel": channel});
                self.succeed(now, conn, &question, result, out);
            }
            RoomAnswer::RoomDeleted(room) => {
                let result = json!({"deleted": true, "room": room});
                self.succeed(now, conn, &question, result, out);
            }
            RoomAnswer::Disconnected(client_id) => {
                let result = json!({"disconnected": true, "client_id": client_id});
                self.succeed(now, conn, &question, result, out);
            }
            RoomAnswer::Announced(clients) => {
                self.succeed(now, conn, &question, json!({"clients": clients}), out);
            }
        }
    }

    fn status(&self, now: Now, counts: Counts, unanswered_shards: Vec<u16>) -> StatusView {
        StatusView {
            server: "arqonbus",
            version: self.facts.version,
            node: self.facts.node.to_string(),
            uptime_s: now.mono_ns.saturating_sub(self.facts.started_ns) / 1_000_000_000,
            shards: self.placement.shards(),
            clients: counts.clients,
            rooms: counts.rooms,
            channels: counts.channels,
            messages_in: counts.messages_in,
            messages_out: counts.messages_out,
            storage: self.facts.storage,
            storage_state: counts.storage,
            peers: counts.peers,
            unanswered_shards,
        }
    }

    fn enter_room(
        &mut self,
        conn: ConnId,
        id: ChannelId,
        room: &Name,
        whole_room: Option<Options>,
    ) {
        let Some(session) = self.session_mut(conn) else { return };
        let position = session.rooms.iter().position(|tie| tie.room == *room);
        let position = position.unwrap_or_else(|| {
            let room = room.clone();
            // Most are in one room or a few: room for just one more at a time.
            session.rooms.reserve_exact(1);
            session.rooms.push(RoomTie {
                room,
                id,
                channels: 0,
                whole_room: None,
                echoing: 0,
                leaving: false,
            });
            session.rooms.len() - 1
        });
        let tie = &mut session.rooms[position];
        tie.whole_room = whole_room.or(tie.whole_room);
    }

    /// Gives a client its seat where events to the room's `*` come, with the echo that the joins ask
    /// for by which it is there now.
    fn seat_in_room(&mut self, conn: ConnId, room: &Name) {
        let Some(tie) = self.session(conn).and_then(|session| session.room(room)) else { return };
        let (id, options) = (tie.id, Options { echo: tie.echoes(), presence: false });
        let every = Arc::new(Address { room: room.clone(), channel: Name::every() });
        self.audiences.seat(id, &every, conn, options);
    }

    /// Makes a client a follower of a room that has these channels, which list it if they are private.
    fn follow_room(
        &mut self,
        conn: ConnId,
        id: ChannelId,
        room: &Name,
        options: Options,
        channels: &[Seen],
    ) {
        let seats = self.seats_in(conn, room);
        let every = Arc::new(Address { room: room.clone(), channel: Name::every() });
        self.audiences.follow(id, &every, (conn, options), seats.into_iter());
        for seen in channels {
            match seen.is_private {
                true => {
                    self.enter_channel(conn, seen, Ties { named: None, whole_room: Some(options) });
                }
                false => self.audiences.open(id, seen.channel, &seen.address),
            }
        }
    }

    /// The channels of a room that list a client.
    fn seats_in(&self, conn: ConnId, room: &Name) -> Vec<ChannelId> {
        let memberships = self.session(conn).map(|session| session.memberships.iter());
        let of_room = memberships.into_iter().flatten();
        let of_room = of_room.filter(|membership| membership.address.room == *room);
        of_room.map(|membership| membership.channel).collect()
    }

    fn enter_channel(&mut self, conn: ConnId, seen: &Seen, ties: Ties) {
        let address = &seen.address;
        let hasher = self.hasher.clone();
        let Some(session) = self.session_mut(conn) else { return };
        let known = session.memberships.find(&hasher, &address.room, &address.channel);
        let echoed = known.is_some_and(|known| known.ties.echoes_by_name());
        let (ties, is_new) = session.memberships.tie(&hasher, seen, ties);
        if let Some(tie) = session.rooms.iter_mut().find(|tie| tie.room == address.room) {
            tie.channels += u32::from(is_new);
            tie.echoing += u32::from(ties.echoes_by_name());
            tie.echoing -= u32::from(echoed);
        }
        let options = ties.options().unwrap_or_default();
        self.audiences.seat(seen.channel, address, conn, options);
    }

    fn leave_channel(&mut self, conn: ConnId, address: &Address, whole_room: bool) {
        let hasher = self.hasher.clone();
        let Some(session) = self.session_mut(conn) else { return };
        let (room, channel) = (&address.room, &address.channel);
        let known = session.memberships.find(&hasher, room, channel);
        let echoed = known.is_some_and(|known| known.ties.echoes_by_name());
        if !whole_room && let Some(tie) = session.rooms.iter_mut().find(|tie| tie.room == *room) {
            tie.echoing -= u32::from(echoed);
        }
        match session.memberships.untie(&hasher, room, channel, whole_room) {
            Some(Ok(left)) => {
                let known = session.memberships.find(&hasher, room, channel);
                if let Some((id, address)) =
                    known.map(|known| (known.channel, known.address.clone()))
                {
                    self.audiences.seat(id, &address, conn, left.options().unwrap_or_default());
                }
            }
            Some(Err(gone)) => {
                if let Some(tie) = session.rooms.iter_mut().find(|tie| tie.room == *room) {
                    tie.channels -= 1;
                }
                self.audiences.unseat(gone.channel, conn);
            }
            None => {}
        }
    }

    fn leave_whole_room(&mut self, conn: ConnId, room: &Name) {
        let seats = self.seats_in(conn, room);
        let Some(session) = self.session_mut(conn) else { return };
        let Some(tie) = session.rooms.iter_mut().find(|tie| tie.room == *room) else { return };
        tie.whole_room = None;
        tie.leaving = false;
        let id = tie.id;
        let of_room = session.memberships.iter();
        let listed = of_room.filter(|membership| {
            membership.address.room == *room && membership.ties.whole_room.is_some()
        });
        let listed: Vec<Arc<Address>> =
            listed.map(|membership| membership.address.clone()).collect();
        self.audiences.unfollow(id, conn, seats.into_iter());
        for address in listed {
            self.leave_channel(conn, &address, true);
        }
    }

    /// Forgets a room that a client is in by nothing any more; true if it is forgotten.
    fn forget_room_if_left(&mut self, conn: ConnId, room: &Name) -> bool {
        let Some(session) = self.session_mut(conn) else { return true };
        let is_left =
            |tie: &RoomTie| tie.room == *room && tie.channels == 0 && tie.whole_room.is_none();
        let Some(position) = session.rooms.iter().position(is_left) else { return false };
        let tie = session.rooms.swap_remove(position);
        self.audiences.unseat(tie.id, conn);
        true
    }
}

/// Whether all parts of a survey have come.
fn is_whole(census: &Census, awaited: &[bool]) -> bool {
    let awaits_peers = matches!(census, Census::Clients(clients) if clients.awaits_peers());
    !awaited.contains(&true) && !awaits_peers
}

/// A page of a list, as it is answered.
fn listed<R: Row + Serialize>(
    key: &'static str,
    gathered: &Gathered<R>,
    list: List<'_>,
) -> serde_json::Value {
    let (rows, next) = gathered.page();
    let cursor = next.map(|name| Cursor::Name(name.clone()).text(list));
    json!({key: rows, "count": gathered.count, "more": cursor.is_some(), "cursor": cursor})
}

/// An answer that lacks the parts of some shards says so.
fn name_unanswered(result: &mut serde_json::Value, unanswered: &[u16]) {
    if !unanswered.is_empty() {
        result["unanswered_shards"] = json!(unanswered);
    }
}
