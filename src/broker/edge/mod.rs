//! The edge of the clients that are connected to one shard.
//!
//! What a client sends comes in through [`Edge::on_message`], which answers it, refuses it, or asks
//! a home; what homes tell comes in through [`Edge::on_tell`], which only delivers. When a lane is
//! full, `on_message` does nothing and says so, and the message is offered again later.
//!
//! *Invariants*: a client's message is handled whole or not at all; a session's seats in the
//! audiences are just its memberships, its rooms and the rooms it follows; a handled tell asks nothing.
//!
//! *Panics*: a slot is an index only after its session was found, or when the engine has just made
//! it. A slot has one tenant at a time: if not, one client would act as another, and the process
//! ends.

mod answers;
mod arrivals;
mod commands;
mod messages;
mod returning;

pub use returning::ReturnCounts;

use crate::base::hash::Placement;
use crate::base::ids::{ChannelId, ConnId, ConnRef, ShardId};
use crate::base::limits::Limits;
use crate::base::prefetch::prefetch;
use crate::base::time::{Moment, Now};
use crate::base::work;
use crate::broker::audience::{Audience, Audiences};
use crate::broker::census::{Rows, RowsWanted};
use crate::broker::delivery::{Deliveries, Delivery};
use crate::broker::home::stamp;
use crate::broker::lane::{Ask, Asks, ClientsPart, PendingRef, Survey, Topic, TraceReport};
use crate::broker::peers::PeerClients;
use crate::broker::pending::{Gathers, PendingTable};
use crate::broker::policy::{ClientCard, PublishAnywhere};
use crate::broker::session::{Phase, Session};
use crate::broker::telemetry::{Event, Place};
use crate::protocol::close::CloseReason;
use crate::protocol::command::{self, Address, ClientType};
use crate::protocol::decode::Rejected;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::Frame;
use crate::protocol::names::{EVERY_CHANNEL, Name};
use crate::protocol::reply::{self, Question, Stamp};
use crate::protocol::views::ClientRow;
use ahash::RandomState;
use returning::Returns;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

/// What every client is told of the server, and what it may do without a token.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The node's name.
    pub node: Arc<str>,
    /// The server's version.
    pub version: &'static str,
    /// When it started, on the monotonic clock.
    pub started_ns: u64,
    /// Where history is kept.
    pub storage: &'static str,
    /// Who may publish without being joined.
    pub publish_anywhere: PublishAnywhere,
}

/// What became of a client's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It was handled, well or with a refusal.
    Done,
    /// Nothing was done: the lane to this home is full.
    Blocked(ShardId),
    /// Nothing was done: it has to come after an answer that has not come.
    Waiting,
}

/// The sessions of one shard.
#[derive(Debug)]
pub struct Edge {
    shard: ShardId,
    placement: Placement,
    limits: Arc<Limits>,
    facts: Arc<Facts>,
    sessions: Vec<Option<Box<Session>>>,
    connected: u64,
    /// The ids of connected clients, in order: for lists.
    names: BTreeSet<(Name, ConnId)>,
    audiences: Audiences,
    pending: PendingTable,
    /// Traces whose message was parsed since the clock was last read.
    just_parsed: Vec<u32>,
    hasher: RandomState,
    rng: fastrand::Rng,
    /// Where sessions are kept beyond their connections.
    returns: Option<Box<Returns>>,
}

impl Edge {
    /// An edge without sessions.
    pub fn new(
        shard: ShardId,
        placement: Placement,
        limits: Arc<Limits>,
        facts: Arc<Facts>,
        hasher: RandomState,
        rng: fastrand::Rng,
    ) -> Edge {
        Edge {
            shard,
            placement,
            limits,
            facts,
            sessions: Vec::new(),
            connected: 0,
            names: BTreeSet::new(),
            audiences: Audiences::new(hasher.clone()),
            pending: PendingTable::new(hasher.clone()),
            just_parsed: Vec::new(),
            hasher,
            rng,
            returns: None,
        }
    }

    /// How many clients are connected: their ids are theirs.
    pub fn client_count(&self) -> u64 {
        self.connected
    }

    /// The session of a connection.
    pub fn session(&self, conn: ConnId) -> Option<&Session> {
        let session = self.sessions.get(conn.slot as usize)?.as_deref()?;
        (session.conn == conn).then_some(session)
    }

    /// Looks ahead to a message of this client: fetches its session.
    pub fn prefetch_session(&self, conn: ConnId) {
        if let Some(Some(session)) = self.sessions.get(conn.slot as usize) {
            prefetch(&**session);
        }
    }

    /// Looks ahead to a message of a client whose session was fetched: fetches where its memberships are found.
    pub fn prefetch_memberships(&self, conn: ConnId) {
        if let Some(session) = self.session(conn) {
            session.memberships.prefetch();
        }
    }

    /// Looks ahead to a message of a client whose memberships were fetched: fetches their names.
    pub fn prefetch_names(&self, conn: ConnId) {
        if let Some(session) = self.session(conn) {
            prefetch(&*session.card);
            session.memberships.prefetch_names();
        }
    }

    /// The local members of a channel, if it has any, to look at.
    pub fn audience_of(&self, channel: ChannelId) -> Option<&Audience> {
        self.audiences.of(channel)
    }

    /// Whether the client's messages may be handled now.
    pub fn may_send(&self, conn: ConnId) -> bool {
        self.session(conn).is_some_and(|session| session.is_live() && session.errands.is_none())
    }

    /// Whether an answer to something that the client asked is still to come.
    pub fn owes_answer(&self, conn: ConnId) -> bool {
        self.session(conn).is_some_and(|session| {
            session.acks_in_flight + session.joins_in_flight + session.leaves_in_flight > 0
                || session.awaited != 0
                || self.pending.is_for(conn)
        })
    }

    /// The names of a channel, if the connection is a member of it.
    pub fn address_for(&self, conn: ConnId, channel: ChannelId) -> Option<Address> {
        self.audiences.address_for(conn, channel).map(|address| (**address).clone())
    }

    /// The local members of a channel, if it has any.
    pub fn audience(&mut self, channel: ChannelId) -> Option<&mut Audience> {
        self.audiences.of_mut(channel)
    }

    /// The local followers of a room, if it has any.
    pub fn followers(&mut self, room: ChannelId) -> Option<&mut Audience> {
        self.audiences.followers_mut(room)
    }

    /// Whether the sender of an event in a channel that is open to a followed room does not get it, and
    /// whether it would get it as a follower.
    pub fn sender_in(&self, channel: ChannelId, room: ChannelId, sender: ConnId) -> (bool, bool) {
        self.audiences.sender_in(channel, room, sender)
    }

    /// Applies new limits.
    pub fn reconfigure(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
    }

    /// A message that could not be read is answered.
    pub fn on_malformed(
        &mut self,
        now: Now,
        conn: ConnId,
        rejected: Rejected,
        out: &mut Deliveries,
    ) {
        let Some(session) = self.session_mut(conn) else { return };
        session.last_activity_us = now.wall_us;
        self.refuse(now, conn, &Question::unreadable(rejected.id), rejected.refusal, out);
    }

    /// A connection is gone or about to be: every trace of it goes, here and at its homes.
    pub fn disconnect(
        &mut self,
        conn: ConnId,
        reason: CloseReason,
        asks: &mut Asks,
        out: &mut Deliveries,
    ) {
        if self.session(conn).is_none() {
            return;
        }
        self.end_stay(conn, reason);
        let Some(session) = self.sessions[conn.slot as usize].take() else { return };
        for membership in session.memberships.iter() {
            self.audiences.unseat(membership.channel, conn);
        }
        for tie in &session.rooms {
            self.audiences.unseat(tie.id, conn);
            self.audiences.unfollow(tie.id, conn, std::iter::empty());
        }
        let here = self.conn_ref(conn);
        for &home in &session.homes {
            if reason == CloseReason::Superseded {
                asks.push(home, Ask::HandOver(here));
            }
            asks.push(home, Ask::Gone(here));
        }
        let errand = session.errands.as_ref().and_then(|errands| errands.release.clone());
        let claimed = match &session.phase {
            Phase::Claiming(claiming) => Some(claiming.client_id.clone()),
            _ => None,
        };
        let own = session.card.client_id.clone();
        for client_id in [Some(own), errand, claimed].into_iter().flatten() {
            let home = self.placement.of_client(&client_id);
            asks.push(home, Ask::Release(client_id, here));
        }
        if session.is_connected() {
            self.connected -= 1;
            self.names.remove(&(session.card.client_id.clone(), conn));
            if session.card.client_type == ClientType::AiAgent {
                let client_id = &session.card.client_id;
                out.telemetry.extend(session.rooms.iter().take(1).map(|tie| {
                    let every = Address { room: tie.room.clone(), channel: Name::every() };
                    let (client_id, action) = (client_id.clone(), "left");
                    Event::AgentActivity { client_id, action, place: Place::Open(every) }
                }));
            }
            out.telemetry.push(Event::ClientDisconnected {
                client_id: session.card.client_id.clone(),
                client_type: session.card.client_type,
                reason,
            });
        }
    }

    /// This edge's part of the answer to a survey. It costs what its rows cost, however many clients
    /// there are.
    pub fn clients_part(&self, wanted: &RowsWanted) -> Rows<ClientRow> {
        let after = wanted.after.clone().map(|after| (after, ConnId::LAST));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let clients = self.names.range((from, Bound::Unbounded));
        let sessions = clients.filter_map(|(_, conn)| self.session(*conn));
        let rows = sessions.map(|session| match wanted.brief {
            true => ClientRow::Brief(session.card.client_id.clone()),
            false => ClientRow::Here(Box::new(session.view(&self.facts.node, self.shard))),
        });
        Rows::take(wanted, self.connected, rows)
    }

    /// The same for another node that asks, if the answers of this node may be so long together.
    pub fn clients_for_peer(&self, reply_to: PendingRef, wanted: &RowsWanted) -> PeerClients {
        let (shard, shards) = (self.shard.0, self.placement.shards());
        let bytes = wanted.bytes / usize::from(shards.max(1));
        let here = self.clients_part(&RowsWanted { bytes, ..wanted.clone() });
        // As they are written they are shorter than they were taken for.
        let text = |row: ClientRow| {
            let text = serde_json::value::to_raw_value(&row).ok()?;
            Some(ClientRow::Elsewhere(row.client_id().clone(), text.into()))
        };
        let rows = here.rows.into_iter().filter_map(text).collect();
        let rows = Rows { rows, count: here.count, last: here.last };
        PeerClients { reply_to, shard, shards, part: ClientsPart { rows, peers: Arc::default() } }
    }

    /// Gives a frame to every client; how many there are.
    pub fn announce(&self, frame: &Arc<Frame>, out: &mut Deliveries) -> u64 {
        let clients = self.sessions.iter().flatten().filter(|session| session.is_connected());
        let before = out.receivers.len();
        out.receivers.extend(clients.map(|session| session.conn));
        let receivers = out.receivers.len() - before;
        out.units += work::MEMBER * receivers as u64;
        let frames = vec![(frame.clone(), None)];
        out.list.push(Delivery::Together { frames, receivers });
        receivers as u64
    }

    /// Every client that is connected, by slot.
    pub fn clients(&self) -> impl Iterator<Item = ConnId> + '_ {
        let connected = self.sessions.iter().flatten().filter(|session| session.is_connected());
        connected.map(|session| session.conn)
    }

    /// The clock was read after messages were parsed: traces learn when that was.
    pub fn note_parsed(&mut self, now: Now) {
        for key in self.just_parsed.drain(..) {
            if let Some(pending) = self.pending.get_mut(key)
                && let Gathers::Trace(trace) = &mut pending.gathers
            {
                trace.parsed_ns = Some(now.mono_ns);
            }
        }
    }

    /// A shard reports where a traced message went.
    pub fn on_traced(&mut self, now: Now, report: TraceReport, out: &mut Deliveries) {
        if let Some(pending) = self.pending.get_mut(report.pending)
            && let Gathers::Trace(trace) = &mut pending.gathers
        {
            trace.reports.push(report);
            if trace.is_whole() {
                self.end_pending(now, report.pending, out);
            }
        }
    }

    /// Answers whatever has waited too long with what is known.
    pub fn tick(&mut self, now: Now, out: &mut Deliveries) {
        while let Some(pending) = self.pending.take_overdue(now.mono_ms()) {
            self.answer_pending(now, pending, out);
        }
        self.end_overdue_returns(now, out);
    }

    /// When [`Edge::tick`] next has something to do, on the monotonic clock in milliseconds.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let deadlines = [self.pending.next_deadline_ms(), self.next_overdue_return_ms()];
        deadlines.into_iter().flatten().min()
    }

    /// A notice that messages to a client were dropped.
    pub fn gap_notice(
        &mut self,
        now: Now,
        address: &Address,
        sequences: Option<(u64, u64)>,
        count: u64,
        reason: &'static str,
    ) -> Arc<Frame> {
        let payload = json!({
            "event": "gap",
            "channel": address.channel,
            "first": sequences.map(|(first, _)| first),
            "last": sequences.map(|(_, last)| last),
            "count": count,
            "reason": reason,
        });
        self.notice(now, (&address.room, &address.channel), payload)
    }

    /// A notice that the connection will be closed.
    pub fn closing_notice(&mut self, now: Now, retry_after_ms: u64) -> Arc<Frame> {
        let payload = json!({
            "event": "closing",
            "reason": CloseReason::GoingAway.reason(),
            "code": CloseReason::GoingAway.code(),
            "retry_after_ms": retry_after_ms,
        });
        self.notice(now, (EVERY_CHANNEL, "closing"), payload)
    }

    /// How many sessions there are, those still arriving included; for the simulator.
    pub fn session_count(&self) -> usize {
        self.sessions.iter().flatten().count()
    }

    /// How many answers are still being gathered; for the simulator.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        self.audiences.check();
        let sessions = || self.sessions.iter().flatten();
        let follows =
            |session: &Session| session.rooms.iter().filter(|tie| tie.whole_room.is_some()).count();
        let seats = sessions()
            .map(|session| session.memberships.len() + session.rooms.len() + follows(session));
        assert_eq!(self.audiences.seat_count(), seats.sum::<usize>(), "seats are memberships");
        let connected = sessions().filter(|session| session.is_connected()).count();
        assert_eq!(self.connected, connected as u64);
        let name = |session: &Session| (session.card.client_id.clone(), session.conn);
        let names = sessions().filter(|session| session.is_connected());
        let names: BTreeSet<_> = names.map(|session| name(session)).collect();
        assert_eq!(self.names, names, "connected clients are listed");
        for session in sessions() {
            for tie in &session.rooms {
                let of_room = session.memberships.iter();
                let of_room: Vec<_> =
                    of_room.filter(|membership| membership.address.room == tie.room).collect();
                assert_eq!(of_room.len(), tie.channels as usize);
                let echoing = of_room.iter().filter(|known| known.ties.echoes_by_name());
                assert_eq!(echoing.count(), tie.echoing as usize);
                let seat = self.audiences.options(tie.id, session.conn);
                assert_eq!(seat.map(|options| options.echo), Some(tie.echoes()));
                assert!(tie.channels > 0 || tie.whole_room.is_some());
            }
        }
    }

    fn session_mut(&mut self, conn: ConnId) -> Option<&mut Session> {
        let session = self.sessions.get_mut(conn.slot as usize)?.as_deref_mut()?;
        (session.conn == conn).then_some(session)
    }

    fn conn_ref(&self, conn: ConnId) -> ConnRef {
        ConnRef { shard: self.shard, conn }
    }

    /// Asks every shard for its part; the answers meet in a pending entry.
    fn survey(&self, pending: u32, client: &Arc<ClientCard>, topic: &Topic, asks: &mut Asks) {
        let reply_to = PendingRef { shard: self.shard, pending };
        for shard in self.placement.all() {
            let survey = Survey { reply_to, client: client.clone(), topic: topic.clone() };
            asks.push(shard, Ask::Survey(Box::new(survey)));
        }
    }

    /// Says no, and goodbye if it was one refusal too many.
    fn refuse(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        refusal: Refusal,
        out: &mut Deliveries,
    ) {
        let text = reply::failure(self.stamp(now), question, &refusal);
        out.list.push(Delivery::Reply(conn, Frame::of_text(&text, now.mono_ns)));
        out.faults.push(refusal.fault);
        self.note_answered(conn, question, out);
        let max = self.limits.max_violations;
        let Some(session) = self.session_mut(conn) else { return };
        out.telemetry.push(Event::MessageRefused {
            client_id: session.card.client_id.clone(),
            fault: refusal.fault,
        });
        if refusal.fault.is_violation() && session.count_violation(now, max) {
            out.list.push(Delivery::Close(conn, CloseReason::Violations, None));
        }
    }

    /// Says yes.
    fn succeed(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        result: impl Serialize,
        out: &mut Deliveries,
    ) {
        let text = reply::success(self.stamp(now), question, result);
        self.succeed_with(now, conn, question, text, out);
    }

    /// Answers a question with a text that is ready.
    fn succeed_with(
        &mut self,
        now: Now,
        conn: ConnId,
        question: &Question,
        text: String,
        out: &mut Deliveries,
    ) {
        if text.len() > self.limits.outbox_bytes as usize {
            if question.command.is_some_and(command::changes_something) {
                // It is done, whether or not all can be told of it.
                return self.succeed(now, conn, question, json!({"more": true}), out);
            }
            let refusal = Refusal::new(
                Fault::MessageTooLarge,
                format!(
                    "The answer is {} bytes long, more than may wait for you; ask with response_format brief.",
                    text.len()
                ),
            );
            return self.refuse(now, conn, question, refusal, out);
        }
        out.list.push(Delivery::Reply(conn, Frame::of_text(&text, now.mono_ns)));
        self.note_answered(conn, question, out);
    }

    /// The client may ask the next question with a long answer.
    fn note_answered(&mut self, conn: ConnId, question: &Question, out: &mut Deliveries) {
        let Some(session) = self.session_mut(conn) else { return };
        if session.awaited != 0 && session.awaited == question.turn {
            session.awaited = 0;
            if std::mem::take(&mut session.waits_for_answer) {
                out.list.push(Delivery::Resume(conn));
            }
        }
    }

    fn notice(&mut self, now: Now, address: (&str, &str), payload: impl Serialize) -> Arc<Frame> {
        Frame::of_text(&reply::notice(self.stamp(now), address, payload), now.mono_ns)
    }

    fn stamp(&mut self, now: Now) -> Stamp {
        stamp(&mut self.rng, now)
    }

    /// Tells that an agent did something, at most once a second.
    fn tell_activity(
        &mut self,
        now: Now,
        conn: ConnId,
        action: &'static str,
        (room, channel): (&str, &str),
        out: &mut Deliveries,
    ) {
        let Some(session) = self.session_mut(conn) else { return };
        if session.card.client_type != ClientType::AiAgent {
            return;
        }
        let is_soon = |told: Moment| now.mono_ms() < told.ms() + 1_000;
        if session.activity_told.is_some_and(is_soon) {
            return;
        }
        session.activity_told = Some(now.moment());
        let client_id = session.card.client_id.clone();
        let place = self.place(conn, room, channel);
        let event = |place| Event::AgentActivity { client_id, action, place };
        out.telemetry.extend(place.map(event));
    }

    /// What telemetry may tell of where a client is active. A channel that it is no member of may
    /// be a private one.
    fn place(&self, conn: ConnId, room: &str, channel: &str) -> Option<Place> {
        let session = self.session(conn)?;
        if let Some(known) = session.memberships.find(&self.hasher, room, channel) {
            let room = || known.address.room.clone();
            return Some(match known.is_private {
                true => Place::Private(room()),
                false => Place::Open((*known.address).clone()),
            });
        }
        let followed = session.room(room).filter(|tie| tie.whole_room.is_some());
        let id = followed.and_then(|tie| self.audiences.open_channel(tie.id, channel));
        if let Some(address) = id.and_then(|id| self.audiences.address_for(conn, id)) {
            return Some(Place::Open((**address).clone()));
        }
        let room = Name::parse(room).ok()?;
        Some(match channel == EVERY_CHANNEL {
            true => Place::Open(Address { room, channel: Name::every() }),
            false => Place::Somewhere(room),
        })
    }
}
