//! The channels of a bus of several nodes that this home follows: how it begins to, how events get
//! their places there, and how it goes on alone while nothing can be stored.
//!
//! A home **follows** a channel while it has members of it, and a while after. What needs the channel
//! before the storage has said how it stands is **parked**, in order, and done then. An event is
//! **submitted**; members get it when it arrives, in the one order of all nodes.
//!
//! While nothing can be stored the home goes on from memory, in a **fork** of the history: a copy
//! that goes on in a term of its own, in which this home gives the places. What it gives there is
//! submitted all the same. With the first that arrives afterwards the fork is given up, and its
//! members are told by a gap notice that the order is another one; what they have seen in the fork
//! they do not get again. (So a node that can't reach the storage serves its clients, and promises
//! them nothing: availability before consistency, as in Gilbert and Lynch, *Brewer's Conjecture*,
//! 2002, and told.)
//!
//! *Invariants*: what is parked waits for a channel that is not known yet, and not for long; tickets
//! grow by one; an event reaches the members of this node once; a fork is there only while nothing
//! can be stored, or until the first that arrives after it.

use crate::base::ids::{ChannelId, ConnRef};
use crate::base::limits::{FOLLOW_IDLE_MS, PARKED_MAX};
use crate::base::time::Now;
use crate::broker::history::{History, Verdict};
use crate::broker::home::publish::refuse;
use crate::broker::home::shared::Due;
use crate::broker::home::{Home, Told, address_of, history_bytes_max, history_of};
use crate::broker::lane::{
    Accepted, Answer, Ask, Fanout, JoinAsk, Listeners, PendingRef, Publish, Tell,
};
use crate::broker::peers::{Arrival, Attach, PeerRecord, Place, Submission};
use crate::broker::record::{KeptChannel, Record};
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::frame::{Draft, Frame};
use crate::protocol::reply;
use serde_json::json;
use std::collections::VecDeque;
use std::sync::Arc;

/// A channel that is followed, or is about to be.
#[derive(Debug)]
pub(super) struct Following {
    state: State,
    tickets_given: u64,
    /// The submissions that have not come back, in the order of their tickets.
    open: VecDeque<Open>,
    fork: Option<Box<Fork>>,
    /// Who waits for it to be made.
    made_for: Option<ConnRef>,
}

#[derive(Debug)]
enum State {
    /// It is not known how it stands.
    Awaited {
        parked: VecDeque<Ask>,
    },
    Known,
}

/// A submission that has not come back.
#[derive(Debug)]
struct Open {
    ticket: u64,
    from: Option<ConnRef>,
    trace: Option<u32>,
    draft: Arc<Draft>,
    /// The members of this node have it.
    is_delivered: bool,
}

/// What is kept of a history while its home goes on in another one.
#[derive(Debug)]
struct Fork {
    real: History,
}

impl Following {
    fn is_known(&self) -> bool {
        matches!(self.state, State::Known)
    }

    /// Whether something waits for it or is under way.
    pub(super) fn is_needed(&self) -> bool {
        match &self.state {
            State::Awaited { parked } => !parked.is_empty(),
            State::Known => !self.open.is_empty() || self.fork.is_some(),
        }
    }

    /// Whether something was submitted that no member of this node has got.
    pub(super) fn has_undelivered(&self) -> bool {
        self.open.iter().any(|open| !open.is_delivered)
    }

    /// Asserts the invariants; for tests and the simulator.
    pub(super) fn check(&self) {
        let is_next = |pair: (&Open, &Open)| pair.0.ticket < pair.1.ticket;
        assert!(self.open.iter().zip(self.open.iter().skip(1)).all(is_next), "tickets grow");
        if let State::Awaited { parked } = &self.state {
            assert!(parked.len() <= PARKED_MAX);
            assert!(
                self.fork.is_none() && self.open.is_empty(),
                "nothing happens before it is known"
            );
        }
    }
}

impl Home {
    /// Sees to it that a channel is followed, or the order of a whole room; true if it is known how
    /// it stands. What is not shared needs no following.
    pub(super) fn follow(&mut self, now: Now, id: ChannelId, told: &mut Told) -> bool {
        let Some(shared) = &self.shared else { return true };
        if let Some(following) = shared.following.get(&id) {
            return following.is_known();
        }
        if !self.history_mut(id).is_some_and(|history| history.is_shared()) {
            return true;
        }
        self.attach(id, told);
        let ack_timeout_ms = self.durability.as_ref().map_or(0, |known| known.ack_timeout_ms);
        let Some(shared) = &mut self.shared else { return true };
        let (state, made_for) = (State::Awaited { parked: VecDeque::new() }, None);
        let (open, fork) = (VecDeque::new(), None);
        shared.following.insert(id, Following { state, tickets_given: 0, open, fork, made_for });
        shared.awaited.insert(id);
        if self.acks.degraded().is_some() {
            self.go_alone(now, id, told);
            return true;
        }
        shared.note_due(now.mono_ms() + u64::from(ack_timeout_ms), Due::Attach(id));
        false
    }

    /// Asks to follow a channel.
    pub(super) fn attach(&mut self, id: ChannelId, told: &mut Told) {
        let Some(Record::Channel(record)) = self.history_record(id) else { return };
        let bytes_max = history_bytes_max(&self.limits);
        let Some(history) = self.history_mut(id) else { return };
        let Some(durable) = &history.durable else { return };
        let attach = Attach {
            channel: id,
            record: *record,
            keep: durable.keep,
            messages: history.size(),
            bytes: bytes_max as u64,
        };
        told.records.push(Record::Peer(Box::new(PeerRecord::Attach(Box::new(attach)))));
    }

    /// Notes for whom a channel is being made.
    pub(super) fn note_maker(&mut self, id: ChannelId, conn: ConnRef) {
        if let Some(following) = self.following_mut(id) {
            following.made_for = Some(conn);
        }
    }

    /// Whether a channel was made for this connection; it is told once.
    pub(super) fn take_maker(&mut self, id: ChannelId, conn: ConnRef) -> bool {
        let following = self.following_mut(id);
        following.is_some_and(|known| known.made_for.take_if(|maker| *maker == conn).is_some())
    }

    /// Keeps an ask until it is known how its channel stands.
    pub(super) fn park(&mut self, id: ChannelId, ask: Ask, told: &mut Told) {
        let Some(Following { state: State::Awaited { parked }, .. }) = self.following_mut(id)
        else {
            unreachable!("only what is awaited has anything parked")
        };
        match parked.len() < PARKED_MAX {
            true => parked.push_back(ask),
            false => refuse_parked(ask, told),
        }
    }

    /// A connection is gone: it joins nothing any more.
    pub(super) fn forget_parked(&mut self, conn: ConnRef) {
        let Some(shared) = &mut self.shared else { return };
        for id in &shared.awaited {
            let following = shared.following.get_mut(id);
            if let Some(Following { state: State::Awaited { parked }, made_for, .. }) = following {
                parked.retain(|ask| match ask {
                    Ask::Join(ask) => ask.conn != conn,
                    Ask::Room(ask) => ask.conn != conn,
                    _ => true,
                });
                made_for.take_if(|maker| *maker == conn);
            }
        }
    }

    /// It was waited long enough to hear how a channel stands.
    pub(super) fn attach_is_overdue(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        if self.following_mut(id).is_some_and(|following| !following.is_known()) {
            self.go_alone(now, id, told);
        }
    }

    /// Goes on with a channel of which it is not known how it stands.
    pub(super) fn go_alone(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        self.fork(id);
        self.unpark(now, id, told);
    }

    /// It is known how a channel stands.
    pub(super) fn on_attached(
        &mut self,
        now: Now,
        id: ChannelId,
        kept: &KeptChannel,
        is_new: bool,
        told: &mut Told,
    ) {
        let Some(following) = self.following_mut(id) else { return };
        let was_awaited = !following.is_known();
        if !is_new {
            following.made_for = None;
        }
        let had_fork = following.fork.is_some();
        self.end_fork(id);
        let Some(history) = self.history_mut(id) else { return };
        let (before, last_before, rank) = (history.held(), history.last(), history.rank);
        let (size, durable) = (history.size(), history.durable.take());
        let Some(mut durable) = durable else { return };
        durable.take_over(&kept.record, kept.last);
        let epoch = durable.epoch();
        let mut fresh = self.new_history(size);
        fresh.restore(epoch, kept.last, kept.last_us, &kept.messages);
        (fresh.durable, fresh.rank) = (Some(durable), rank);
        let Home { channels, whole_rooms, rooms, retention, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        *history = fresh;
        retention.account(id, before, history);
        self.adopt(id, &kept.record);
        match was_awaited {
            true => {
                // Who joined the whole room is a member from the first event of a new channel on.
                if last_before == 0 {
                    for frame in &kept.messages {
                        self.spread_arrival(id, frame.clone(), None, None, told);
                    }
                }
                self.unpark(now, id, told);
            }
            false if had_fork || last_before != kept.last => {
                self.tell_new_order(now, id, last_before + 1, told);
            }
            false => {}
        }
        self.shed(told);
    }

    /// Submits an event that may be published.
    pub(super) fn submit(&mut self, now: Now, id: ChannelId, publish: Publish, told: &mut Told) {
        if !self.follow(now, id, told) {
            return self.park(id, Ask::Publish(publish), told);
        }
        self.note_idle(now, id);
        if self.acks.degraded().is_some() {
            self.fork_and_tell(now, id, told);
        }
        let Publish { draft, from, ack, trace, .. } = publish;
        let wants_ack = from.filter(|_| ack || trace.is_some());
        let Home { shared, channels, whole_rooms, rooms, acks, .. } = self;
        let Some(address) = address_of(id, channels, whole_rooms, rooms) else { return };
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        let Some(following) = shared.as_mut().and_then(|shared| shared.following.get_mut(&id))
        else {
            return;
        };
        let accepted = |conn: ConnRef, frame, sequence, duplicate| {
            let trace = trace.map(|pending| (pending, now.mono_ns, 0));
            let (conn, home) = (conn.conn, id.home());
            Accepted { conn, frame, sequence, duplicate, trace, address: address.clone(), home }
        };
        if following.fork.is_none()
            && let Some(first) = history.first_of(draft.identity())
        {
            told.duplicates += 1;
            if let Some(conn) = wants_ack {
                let accepted = accepted(conn, first.clone(), first.sequence, true);
                told.tell(conn.shard, Tell::Accepted(Box::new(accepted)));
            }
            return;
        }
        let Some(durable) = &history.durable else { return };
        following.tickets_given += 1;
        let ticket = following.tickets_given;
        let submission = Submission {
            channel: id,
            address: address.clone(),
            life: durable.life.clone(),
            ticket,
            seen: following.fork.as_ref().map_or(history.last(), |fork| fork.real.last()),
            draft: Arc::new(draft),
            at_us: now.wall_us,
            keep: durable.keep,
        };
        let draft = Arc::clone(&submission.draft);
        told.records.push(Record::Peer(Box::new(PeerRecord::Submit(Box::new(submission)))));
        if let Some(conn) = wants_ack {
            // Its place is not known yet; only its id and its sender are looked at.
            let frame = Draft::clone(&draft).stamp(ticket, now.wall_us);
            acks.wait(now, id, (conn.shard, accepted(conn, frame, ticket, false)), told);
        }
        let is_delivered = following.fork.is_some();
        let open = Open { ticket, from, trace, draft: Arc::clone(&draft), is_delivered };
        following.open.push_back(open);
        if is_delivered {
            self.append_to_fork(now, id, &draft, from, told);
        }
    }

    /// Gives an event a place in a fork, and spreads it.
    fn append_to_fork(
        &mut self,
        now: Now,
        id: ChannelId,
        draft: &Draft,
        from: Option<ConnRef>,
        told: &mut Told,
    ) {
        let Home { channels, whole_rooms, rooms, retention, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        let before = history.held();
        let verdict = history.append(draft.clone(), now.wall_us);
        retention.account(id, before, history);
        if let Verdict::Fresh(frame) = verdict {
            told.accepted += 1;
            self.spread_arrival(id, frame, from, None, told);
        }
        self.shed(told);
    }

    /// Submissions have got their places.
    pub(super) fn on_placed(&mut self, id: ChannelId, places: &[Place], told: &mut Told) {
        told.stored += places.len() as u64;
        let spread = match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => Some(channel.spread()),
            (None, name) => name.and_then(|name| self.rooms.get(name)).map(|room| &room.spread),
        };
        let shards = spread.map_or(0, |spread| spread.shards().count() as u16);
        for place in places {
            told.duplicates += u64::from(place.is_duplicate);
            self.acks.note_placed(id, place, shards, told);
        }
        // A repeat does not come back.
        let repeats = places.iter().filter(|place| place.is_duplicate);
        let repeats: Vec<u64> = repeats.map(|place| place.ticket).collect();
        if let Some(following) = self.following_mut(id)
            && !repeats.is_empty()
        {
            following.open.retain(|open| !repeats.contains(&open.ticket));
        }
    }

    /// Submissions will never get a place.
    pub(super) fn on_unplaced(
        &mut self,
        id: ChannelId,
        (first, last): (u64, u64),
        told: &mut Told,
    ) {
        told.lost += last + 1 - first;
        self.acks.note_lost(id, (first, last), told);
        if let Some(following) = self.following_mut(id) {
            following.open.retain(|open| !(first..=last).contains(&open.ticket));
        }
    }

    /// The next events of a channel.
    pub(super) fn on_arrived(
        &mut self,
        now: Now,
        id: ChannelId,
        events: Vec<Arrival>,
        told: &mut Told,
    ) {
        if let Some(base) = self.end_fork(id) {
            self.tell_new_order(now, id, base + 1, told);
        }
        for Arrival { mut frame, ticket } in events {
            let Home { shared, channels, whole_rooms, rooms, retention, .. } = self;
            let following = shared.as_mut().and_then(|shared| shared.following.get_mut(&id));
            let (Some(following), Some(history)) =
                (following, history_of(id, channels, whole_rooms, rooms))
            else {
                return;
            };
            let open = ticket.and_then(|ticket| following.take_open(ticket));
            if let (Some(open), Some(frame)) = (&open, Arc::get_mut(&mut frame)) {
                frame.received_ns = open.draft.origin().received_ns;
            }
            let before = history.held();
            history.follow(&frame);
            retention.account(id, before, history);
            if open.as_ref().is_none_or(|open| !open.is_delivered) {
                told.accepted += u64::from(open.is_some());
                let from = open.as_ref().and_then(|open| open.from);
                let trace = open.as_ref().and_then(|open| open.trace);
                self.spread_arrival(id, frame, from, trace, told);
            }
        }
        self.shed(told);
    }

    /// The order of a channel goes on in another term.
    pub(super) fn on_term(&mut self, id: ChannelId, term: u32, past: Vec<(u32, u64)>) {
        let fork = self.following_mut(id).and_then(|following| following.fork.take());
        if let Some(mut fork) = fork {
            fork.real.go_on_in(term, past);
            if let Some(following) = self.following_mut(id) {
                following.fork = Some(fork);
            }
        } else if let Some(history) = self.history_mut(id) {
            history.go_on_in(term, past);
        }
    }

    fn spread_arrival(
        &mut self,
        id: ChannelId,
        frame: Arc<Frame>,
        from: Option<ConnRef>,
        trace: Option<u32>,
        told: &mut Told,
    ) {
        let spread = match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => Some(channel.spread()),
            (None, name) => name.and_then(|name| self.rooms.get(name)).map(|room| &room.spread),
        };
        let trace =
            from.zip(trace).map(|(conn, pending)| PendingRef { shard: conn.shard, pending });
        let audience = Listeners::Members;
        let fanout = Fanout { channel: id, frame, from, audience, trace };
        for shard in spread.into_iter().flat_map(|spread| spread.shards()) {
            told.tell(shard, Tell::Fanout(fanout.clone()));
        }
    }

    /// Goes on in a fork, of which the storage hears before it is given what is said there. What has
    /// not come back is said there first.
    pub(super) fn fork_and_tell(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(base) = self.fork(id) else { return };
        let Some(address) = address_of(id, &self.channels, &self.whole_rooms, &self.rooms) else {
            return;
        };
        let Some(history) = self.history_mut(id) else { return };
        let Some(durable) = &history.durable else { return };
        let life = durable.life.clone();
        let fork = PeerRecord::Fork { channel: id, address, life, base };
        told.records.push(Record::Peer(Box::new(fork)));
        let mut undelivered = Vec::new();
        for open in self.following_mut(id).into_iter().flat_map(|known| &mut known.open) {
            if !std::mem::replace(&mut open.is_delivered, true) {
                undelivered.push((Arc::clone(&open.draft), open.from));
            }
        }
        for (draft, from) in undelivered {
            self.append_to_fork(now, id, &draft, from, told);
        }
    }

    /// Goes on in a fork; gives where it begins, if there was none.
    fn fork(&mut self, id: ChannelId) -> Option<u64> {
        let term = self.rng.u32(1..);
        let bytes_max = history_bytes_max(&self.limits);
        let Home { shared, channels, whole_rooms, rooms, retention, .. } = self;
        let following = shared.as_mut()?.following.get_mut(&id)?;
        let history = history_of(id, channels, whole_rooms, rooms)?;
        if following.fork.is_some() {
            return None;
        }
        let base = history.last();
        let fork = history.fork(term, bytes_max);
        let before = history.held();
        let real = std::mem::replace(history, fork);
        retention.account(id, before, history);
        following.fork = Some(Box::new(Fork { real }));
        Some(base)
    }

    /// Gives a fork up; gives where it began, if there was one.
    fn end_fork(&mut self, id: ChannelId) -> Option<u64> {
        let Home { shared, channels, whole_rooms, rooms, retention, .. } = self;
        let fork = shared.as_mut()?.following.get_mut(&id)?.fork.take()?;
        let history = history_of(id, channels, whole_rooms, rooms)?;
        let (before, rank) = (history.held(), history.rank);
        *history = fork.real;
        history.rank = rank;
        retention.account(id, before, history);
        Some(history.last())
    }

    /// Tells the members of a channel that its order is another one than they have seen, from a
    /// sequence on.
    fn tell_new_order(&mut self, now: Now, id: ChannelId, first: u64, told: &mut Told) {
        let Some(address) = address_of(id, &self.channels, &self.whole_rooms, &self.rooms) else {
            return;
        };
        let Some(history) = self.history_mut(id) else { return };
        let payload = json!({
            "event": "gap",
            "channel": address.channel,
            "first": first,
            "last": history.last().max(first),
            "count": null,
            "reason": "order_changed",
            "epoch": &**history.epoch(),
        });
        let text = reply::notice(self.stamp(now), (&address.room, &address.channel), payload);
        let frame = Frame::of_text(&text, now.mono_ns);
        self.spread_arrival(id, frame, None, None, told);
    }

    fn unpark(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(shared) = &mut self.shared else { return };
        shared.awaited.remove(&id);
        let Some(following) = shared.following.get_mut(&id) else { return };
        if let State::Awaited { parked } = std::mem::replace(&mut following.state, State::Known) {
            parked.into_iter().for_each(|ask| self.on_ask(now, ask, told));
        }
        self.note_idle(now, id);
    }

    /// Notes that a channel without members needs not be followed for long.
    pub(super) fn note_idle(&mut self, now: Now, id: ChannelId) {
        let is_empty = self.is_without_members(id);
        if let Some(shared) = &mut self.shared
            && is_empty
            && shared.following.contains_key(&id)
            && shared.idle.insert(id)
        {
            shared.note_due(now.mono_ms() + FOLLOW_IDLE_MS, Due::Idle(id));
        }
    }

    /// A channel had no members some time ago: if it has none now, it needs not be followed.
    pub(super) fn end_idle(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let is_empty = self.is_without_members(id);
        let Some(shared) = &mut self.shared else { return };
        shared.idle.remove(&id);
        let Some(following) = shared.following.get(&id) else { return };
        if !is_empty {
            return;
        }
        if following.is_needed() || !following.is_known() {
            return self.note_idle(now, id);
        }
        self.unfollow(id, told);
        let Some(history) = self.history_mut(id) else { return };
        let (before, rank, size) = (history.held(), history.rank, history.size());
        let durable = history.durable.take();
        let mut empty = self.new_history(size);
        if let Some(durable) = &durable {
            empty.restore(durable.epoch(), 0, 0, &[]);
        }
        (empty.durable, empty.rank) = (durable, rank);
        let Home { channels, whole_rooms, rooms, retention, .. } = self;
        if let Some(history) = history_of(id, channels, whole_rooms, rooms) {
            *history = empty;
            if let Some(durable) = &mut history.durable {
                durable.begin_again();
            }
            retention.account(id, before, history);
        }
    }

    /// Follows a channel no longer.
    pub(super) fn unfollow(&mut self, id: ChannelId, told: &mut Told) {
        let address = address_of(id, &self.channels, &self.whole_rooms, &self.rooms);
        let Some(shared) = &mut self.shared else { return };
        shared.awaited.remove(&id);
        shared.idle.remove(&id);
        if let (Some(_), Some(address)) = (shared.following.remove(&id), address) {
            told.records.push(Record::Peer(Box::new(PeerRecord::Detach(id, address))));
        }
    }

    fn is_without_members(&self, id: ChannelId) -> bool {
        match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => channel.member_count() == 0,
            (None, name) => {
                name.and_then(|name| self.rooms.get(name)).is_none_or(|room| room.people.is_empty())
            }
        }
    }

    fn following_mut(&mut self, id: ChannelId) -> Option<&mut Following> {
        self.shared.as_mut()?.following.get_mut(&id)
    }

    /// Prepares a join: makes the channel if it is to be made, and follows what the client will be a
    /// member of. Gives the join back if it can go on now.
    pub(super) fn prepare_join(
        &mut self,
        now: Now,
        ask: JoinAsk,
        told: &mut Told,
    ) -> Option<JoinAsk> {
        if self.shared.is_none() {
            return Some(ask);
        }
        // Who is refused is refused by the join itself.
        let Some(ids) = self.joined_by(now, &ask, told) else { return Some(ask) };
        for id in ids {
            if !self.follow(now, id, told) {
                self.park(id, Ask::Join(Box::new(ask)), told);
                return None;
            }
        }
        Some(ask)
    }

    /// What a client would be a member of; nothing if it is refused.
    fn joined_by(&mut self, now: Now, ask: &JoinAsk, told: &mut Told) -> Option<Vec<ChannelId>> {
        let address = &ask.join.address;
        if address.channel.is_every() {
            self.ensure_room(now, &address.room, &ask.client, told).ok()?;
            let room = self.rooms.get(&address.room)?;
            let channels = room.channels.values().copied();
            let visible = channels.filter(|id| self.channels[id].admits(&ask.client));
            return Some([room.id].into_iter().chain(visible).collect());
        }
        let room = self.rooms.get(&address.room);
        let known = room.and_then(|room| room.channels.get(&address.channel)).copied();
        let known = known.or_else(|| {
            let id = self.make_by_join(now, ask, told).ok()?;
            self.note_if_empty(now, id);
            self.follow(now, id, told);
            self.note_maker(id, ask.conn);
            Some(id)
        })?;
        let room = self.rooms.get(&address.room)?.id;
        self.channels[&known].admits(&ask.client).then(|| vec![known, room])
    }
}

impl Following {
    /// The submission of a ticket, which has come back. What was before it and has not come back
    /// never will: it was a repeat.
    fn take_open(&mut self, ticket: u64) -> Option<Open> {
        while self.open.pop_front_if(|open| open.ticket < ticket).is_some() {}
        self.open.pop_front_if(|open| open.ticket == ticket)
    }
}

fn refuse_parked(ask: Ask, told: &mut Told) {
    let refusal = Refusal::new(
        Fault::StorageUnavailable,
        "The server waits for its storage and takes no more for this channel; try again soon.",
    );
    match ask {
        Ask::Publish(publish) => refuse(publish, None, refusal, told),
        Ask::Join(ask) => {
            let JoinAsk { conn, join, question, .. } = *ask;
            let question =
                question.unwrap_or_else(|| super::membership::connecting_question(&join.address));
            let answer = Answer { conn: conn.conn, question, outcome: Err(refusal) };
            told.tell(conn.shard, Tell::Answer(Box::new(answer)));
        }
        Ask::Room(ask) => {
            let answer =
                Answer { conn: ask.conn.conn, question: ask.question, outcome: Err(refusal) };
            told.tell(ask.conn.shard, Tell::Answer(Box::new(answer)));
        }
        other => unreachable!("{other:?} is not parked"),
    }
}
