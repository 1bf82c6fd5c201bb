//! The channels of a bus of several nodes that this home follows, and how it begins to.
//!
//! A home **follows** a channel while it has members of it, and a while after. What needs the channel
//! before the storage has said how it stands is **parked**, in order, and done then; if the storage
//! says nothing, the home goes on alone (`ordering`).
//!
//! *Invariants*: what is parked waits for a channel that is not known yet, and not for long; what
//! has members here is followed.
//!
//! *Panics*: only joins, events and questions of this node's clients are parked or come ahead, and
//! right after the channel was found to be awaited; nothing from peers or Redis is parked.

use crate::base::ids::{ChannelId, ConnRef};
use crate::base::limits::{AHEAD_MS, FOLLOW_IDLE_MS, PARKED_MAX};
use crate::base::time::Now;
use crate::base::work;
use crate::broker::durable::Durable;
use crate::broker::history::History;
use crate::broker::home::membership::connecting_question;
use crate::broker::home::ordering::{Change, Fork, Open, reason};
use crate::broker::home::publish::refuse;
use crate::broker::home::shared::Due;
use crate::broker::home::{Home, Told, address_of, history_bytes_max, history_of};
use crate::broker::lane::{Answer, Ask, JoinAsk, RoomAsk, Tell};
use crate::broker::peers::{Attach, PeerRecord};
use crate::broker::record::{KeptChannel, Record};
use crate::broker::staged::Staged;
use crate::broker::telemetry::Event;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::names::PRIVATE_CHANNEL;
use std::collections::VecDeque;

/// A channel that is followed, or is about to be.
#[derive(Debug)]
pub(super) struct Following {
    state: State,
    /// The storage has said how it stands, since it was asked for it.
    pub(super) is_attached: bool,
    /// The submissions that have not come back, in the order of their tickets.
    pub(super) open: VecDeque<Open>,
    pub(super) fork: Option<Box<Fork>>,
    /// Who waits for it to be made.
    made_for: Option<ConnRef>,
    /// What clients ask that know of more of it than has been heard here, and until when each waits, on
    /// the monotonic clock in milliseconds.
    ahead: Vec<(u64, Ask)>,
}

#[derive(Debug)]
enum State {
    /// It is not known how it stands.
    Awaited {
        parked: Staged<Ask>,
    },
    /// It is known, and what had waited goes on over several turns; what comes goes behind it.
    Opening {
        parked: Staged<Ask>,
    },
    Known,
}

impl Following {
    fn is_known(&self) -> bool {
        matches!(self.state, State::Known)
    }

    fn is_awaited(&self) -> bool {
        matches!(self.state, State::Awaited { .. })
    }

    /// The asks that wait for it, if any may.
    fn parked_mut(&mut self) -> Option<&mut Staged<Ask>> {
        match &mut self.state {
            State::Awaited { parked } | State::Opening { parked } => Some(parked),
            State::Known => None,
        }
    }

    /// Whether something waits for it or is under way.
    pub(super) fn is_needed(&self) -> bool {
        match &self.state {
            State::Awaited { parked } => !parked.is_empty(),
            State::Opening { .. } => true,
            State::Known => !self.open.is_empty() || self.fork.is_some() || !self.ahead.is_empty(),
        }
    }

    /// Whether something was submitted that no member of this node has got.
    pub(super) fn has_undelivered(&self) -> bool {
        self.open.iter().any(|open| !open.is_delivered)
    }

    /// Whether it is in a fork, and all that was said there has come back or never will.
    pub(super) fn is_done_alone(&self) -> bool {
        self.is_attached && self.fork.is_some() && self.open.is_empty()
    }

    /// Asserts the invariants; for tests and the simulator.
    pub(super) fn check(&self) {
        let is_next = |pair: (&Open, &Open)| pair.0.ticket < pair.1.ticket;
        assert!(self.open.iter().zip(self.open.iter().skip(1)).all(is_next), "tickets grow");
        if let State::Awaited { parked } | State::Opening { parked } = &self.state {
            assert!(parked.len() <= PARKED_MAX);
            parked.check();
        }
        if self.is_awaited() {
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
        let (state, made_for) = (State::Awaited { parked: Staged::default() }, None);
        let (open, fork) = (VecDeque::new(), None);
        let (is_attached, ahead) = (false, Vec::new());
        let following = Following { state, is_attached, open, fork, made_for, ahead };
        shared.following.insert(id, following);
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
        let Some(Record::Channel(mut record)) = self.history_record(id) else { return };
        // If it is not there the one that is known has ended, and this is another life.
        (record.epoch, record.term) = (self.new_life(), 0);
        record.past.clear();
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
        let Some(parked) = self.following_mut(id).and_then(Following::parked_mut) else {
            unreachable!("only for what is not known, or was not a moment ago, anything waits")
        };
        if parked.is_full(PARKED_MAX) {
            return refuse_parked(ask, told);
        }
        let conn = conn_of(&ask);
        parked.push_back(ask);
        self.note_waiting(id, conn);
    }

    /// A connection is gone: it joins nothing any more. Only the channels that it waits for are looked at.
    pub(super) fn forget_parked(&mut self, conn: ConnRef, told: &mut Told) {
        let Some(shared) = &mut self.shared else { return };
        let mut ids = shared.waiting.remove(&conn).unwrap_or_default();
        ids.sort_unstable();
        ids.dedup();
        let mut unneeded = Vec::new();
        for id in ids {
            let Some(following) = shared.following.get_mut(&id) else { continue };
            let was_needed = following.is_needed();
            following.ahead.retain(|(_, ask)| conn_of(ask) != Some(conn));
            if let Some(parked) = following.parked_mut() {
                parked.edit(|asks| asks.retain(|ask| conn_of(ask) != Some(conn)));
                following.made_for.take_if(|maker| *maker == conn);
            }
            unneeded.extend((was_needed && !following.is_needed()).then_some(id));
        }
        unneeded.into_iter().for_each(|id| self.remove_room_if_unneeded(id, told));
    }

    /// The order of a room is not needed any more: if that was all that kept the room, it goes.
    pub(super) fn remove_room_if_unneeded(&mut self, id: ChannelId, told: &mut Told) {
        if let Some(name) = self.whole_rooms.get(&id)
            && self.is_abandoned(name)
        {
            let name = name.clone();
            self.remove_room(&name, told);
        }
    }

    /// An ask of a connection waits for a channel.
    fn note_waiting(&mut self, id: ChannelId, conn: Option<ConnRef>) {
        if let (Some(shared), Some(conn)) = (&mut self.shared, conn) {
            shared.waiting.entry(conn).or_default().push(id);
        }
    }

    /// It does not wait any more.
    fn note_waited(&mut self, id: ChannelId, ask: &Ask) {
        let (Some(shared), Some(conn)) = (&mut self.shared, conn_of(ask)) else { return };
        let Some(ids) = shared.waiting.get_mut(&conn) else { return };
        if let Some(at) = ids.iter().position(|known| *known == id) {
            ids.swap_remove(at);
        }
        if ids.is_empty() {
            shared.waiting.remove(&conn);
        }
    }

    /// It was waited long enough to hear how a channel stands.
    pub(super) fn attach_is_overdue(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        if self.following_mut(id).is_some_and(|following| following.is_awaited()) {
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
        let order = (kept.record.epoch.clone(), kept.record.term);
        let is_same_order = self.real_order(id) == Some(order);
        let Some(following) = self.following_mut(id) else { return };
        let was_awaited = following.is_awaited();
        following.is_attached = true;
        // What has a place in an order that is over does not come any more.
        let is_to_come = |place: u64| is_same_order && place > kept.last;
        following.open.retain(|open| open.sequence.is_none_or(is_to_come));
        let had_fork = following.fork.is_some();
        let told_epoch =
            self.history_mut(id).map(|history| (history.epoch().clone(), history.last()));
        self.end_fork(id);
        let Some(history) = self.history_mut(id) else { return };
        let (before, last_before, rank) = (history.held(), history.last(), history.rank);
        let (size, durable) = (history.size(), history.durable.take());
        let Some(mut durable) = durable else { return };
        let is_made_here = is_new || kept.record.epoch == durable.life;
        let former = durable.epoch();
        // Up to here what the members have seen is so.
        let past = kept.record.past.iter().find(|(term, _)| *term == durable.term);
        let sure = past.map_or(last_before, |(_, last)| (*last).min(last_before)).min(kept.last);
        durable.take_over(&kept.record, kept.last);
        let epoch = durable.epoch();
        let mut fresh = self.new_history(size);
        fresh.restore(epoch.clone(), kept.last, kept.last_us, &kept.messages);
        (fresh.durable, fresh.rank) = (Some(durable), rank);
        let Home { channels, whole_rooms, rooms, retention, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        *history = fresh;
        retention.account(id, before, history);
        self.adopt(now, id, &kept.record, told);
        self.untie_strangers(now, id, told);
        if !is_made_here && let Some(following) = self.following_mut(id) {
            following.made_for = None;
        }
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
            false => {
                let (known, seen) = told_epoch.unwrap_or((former, last_before));
                if known == epoch {
                    // The order is the same, but more was missed than is read one by one.
                    self.tell_missed(now, id, seen, "overrun", told);
                } else {
                    let reason = match had_fork {
                        true => reason::STORAGE_RESTORED,
                        false => reason::STORAGE_LOST_EVENTS,
                    };
                    self.tell_new_order(now, id, Change { sure, reason }, told);
                }
            }
        }
        self.let_go_on(now, id, told);
        self.remove_room_if_unneeded(id, told);
        self.shed(told);
    }

    /// Who became a member of a channel before it was known for whom it is, and is not let in, goes.
    pub(super) fn untie_strangers(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(channel) = self.channels.get(&id) else { return };
        let address = channel.address.clone();
        for (conn, client) in channel.strangers() {
            let Some(place) = self.channels.get(&id).map(|channel| channel.place()) else { return };
            self.untie(now, id, conn, (true, true), told);
            told.tell(conn.shard, Tell::Untied(conn.conn, address.clone()));
            told.telemetry.push(Event::Left { client_id: place.known(&client.client_id), place });
            self.settle(now, &address.room, conn, told);
        }
    }

    /// It is known how a channel stands: what had waited for that goes on, in order.
    pub(super) fn unpark(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(shared) = &mut self.shared else { return };
        shared.awaited.remove(&id);
        let Some(following) = shared.following.get_mut(&id) else { return };
        if let State::Awaited { parked } = &mut following.state {
            following.state = State::Opening { parked: std::mem::take(parked) };
            shared.opening.push_back(id);
        }
        self.go_on_opening(now, told);
    }

    /// Goes on with what had waited for channels, as far as this turn has time for it: a thousand clients
    /// may come back to a channel at once, each for megabytes that it has missed.
    pub fn go_on_opening(&mut self, now: Now, told: &mut Told) {
        let mut is_first = true;
        while let Some(shared) = &mut self.shared
            && (is_first || !told.work.is_spent())
            && let Some(id) = shared.opening.pop_front()
        {
            is_first = false;
            let following = shared.following.get_mut(&id);
            let parked = following.and_then(Following::parked_mut).map(std::mem::take);
            let mut parked = parked.unwrap_or_default();
            // For the first it is known; what comes later finds it as before.
            self.set_state(id, State::Known);
            if let Some(ask) = parked.pop_front() {
                told.work.charge(work::ASK);
                self.note_waited(id, &ask);
                self.on_ask(now, ask, told);
            }
            if !self.opens_later(id, &mut parked) {
                // It is followed no longer, or anew, if anything is left.
                std::iter::from_fn(|| parked.pop_front()).for_each(|ask| {
                    self.note_waited(id, &ask);
                    refuse_parked(ask, told);
                });
                self.note_idle(now, id);
                self.remove_room_if_unneeded(id, told);
            }
        }
    }

    /// Whether there is more that had waited for a channel, which goes on next.
    fn opens_later(&mut self, id: ChannelId, parked: &mut Staged<Ask>) -> bool {
        let Some(shared) = &mut self.shared else { return false };
        let following = shared.following.get_mut(&id).filter(|following| following.is_known());
        let Some(following) = following.filter(|_| !parked.is_empty()) else { return false };
        following.state = State::Opening { parked: std::mem::take(parked) };
        shared.opening.push_front(id);
        true
    }

    /// Whether asks that had waited for a channel go on in the next turn.
    pub fn has_opening(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| !shared.opening.is_empty())
    }

    fn set_state(&mut self, id: ChannelId, state: State) {
        if let Some(following) = self.following_mut(id) {
            following.state = state;
        }
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
        shared.behind.remove(&id);
        shared.idle.remove(&id);
        shared.opening.retain(|known| *known != id);
        let Some(following) = shared.following.remove(&id) else { return };
        if let Some(address) = address {
            told.records.push(Record::Peer(Box::new(PeerRecord::Detach(id, address))));
        }
        let ahead = following.ahead.into_iter().map(|(_, ask)| ask);
        let mut refused: Vec<Ask> = ahead.collect();
        if let State::Awaited { mut parked } | State::Opening { mut parked } = following.state {
            refused.extend(std::iter::from_fn(|| parked.pop_front()));
        }
        for ask in refused {
            self.note_waited(id, &ask);
            refuse_parked(ask, told);
        }
    }

    pub(super) fn is_without_members(&self, id: ChannelId) -> bool {
        match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => self.member_count(channel) == 0,
            (None, name) => {
                name.and_then(|name| self.rooms.get(name)).is_none_or(|room| room.people.is_empty())
            }
        }
    }

    pub(super) fn following_mut(&mut self, id: ChannelId) -> Option<&mut Following> {
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
        // All at once, so that it is waited no longer than for one.
        let unknown = ids.into_iter().fold(None, |unknown, id| match self.follow(now, id, told) {
            true => unknown,
            false => unknown.or(Some(id)),
        });
        match unknown {
            Some(id) => {
                self.park(id, Ask::Join(Box::new(ask)), told);
                None
            }
            None => {
                let Some(id) = self.id_of(&ask.join.address) else { return Some(ask) };
                let is_ahead = self.is_join_ahead(id, &ask);
                if !is_ahead || !self.may_wait(id) {
                    return Some(ask);
                }
                self.wait_until_heard(now, id, Ask::Join(Box::new(ask)));
                None
            }
        }
    }

    /// Keeps a question of a client that may know more of a channel than this node has heard: what was
    /// acknowledged has its place, and may still be on its way back. Gives it back if there is nothing to
    /// wait for.
    pub(super) fn unless_ahead(
        &mut self,
        now: Now,
        id: ChannelId,
        ask: RoomAsk,
    ) -> Option<RoomAsk> {
        if !self.has_unheard(id) || !self.may_wait(id) {
            return Some(ask);
        }
        self.wait_until_heard(now, id, Ask::Room(Box::new(ask)));
        None
    }

    fn may_wait(&mut self, id: ChannelId) -> bool {
        let following = self.following_mut(id);
        following.is_some_and(|known| known.fork.is_none() && known.ahead.len() < PARKED_MAX)
    }

    fn wait_until_heard(&mut self, now: Now, id: ChannelId, ask: Ask) {
        let Some(shared) = &mut self.shared else { return };
        let due_ms = now.mono_ms() + AHEAD_MS;
        if let Some(following) = shared.following.get_mut(&id) {
            let conn = conn_of(&ask);
            following.ahead.push((due_ms, ask));
            shared.behind.insert(id);
            shared.note_due(due_ms, Due::Ahead(id));
            self.note_waiting(id, conn);
        }
    }

    /// Whether something that was submitted here has a place that has not been heard of.
    fn has_unheard(&self, id: ChannelId) -> bool {
        let Some(following) = self.shared.as_ref().and_then(|shared| shared.following.get(&id))
        else {
            return false;
        };
        // Places grow with the tickets, as far as they are known.
        let last_place = following.open.iter().rev().find_map(|open| open.sequence);
        last_place
            .is_some_and(|place| self.history_of_id(id).is_some_and(|known| place > known.last()))
    }

    fn is_ahead(&self, id: ChannelId, ask: &Ask) -> bool {
        match ask {
            Ask::Join(ask) => self.is_join_ahead(id, ask),
            _ => self.has_unheard(id),
        }
    }

    /// Whether a client wants to go on from what this node has not heard of.
    fn is_join_ahead(&self, id: ChannelId, ask: &JoinAsk) -> bool {
        let history = self.history_of_id(id);
        let (Some(recover), Some(history)) = (&ask.join.recover, history) else { return false };
        let is_unheard = |known: &Durable| known.is_shared && known.is_unheard(&recover.epoch);
        match *recover.epoch == **history.epoch() {
            true => history.is_shared() && recover.sequence > history.last(),
            false => history.durable.as_deref().is_some_and(is_unheard),
        }
    }

    fn history_of_id(&self, id: ChannelId) -> Option<&History> {
        match self.channels.get(&id) {
            Some(channel) => Some(&channel.history),
            None => Some(&self.rooms.get(self.whole_rooms.get(&id)?)?.history),
        }
    }

    /// Goes on with what clients asked that are not ahead any more, and with what has waited long enough:
    /// joins are told then that what they have seen is not known here.
    pub(super) fn let_go_on(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let Some(following) = self.following_mut(id).filter(|known| !known.ahead.is_empty()) else {
            return;
        };
        let waiting = std::mem::take(&mut following.ahead);
        if let Some(shared) = &mut self.shared {
            shared.behind.remove(&id);
        }
        let mut ahead = Vec::new();
        for (due_ms, ask) in waiting {
            let is_ahead = due_ms > now.mono_ms() && self.is_ahead(id, &ask);
            if is_ahead || told.work.is_spent() {
                // What has no time in this turn is due in the next one.
                ahead.push((if is_ahead { due_ms } else { 0 }, ask));
                continue;
            }
            self.note_waited(id, &ask);
            match ask {
                Ask::Join(ask) => self.join_now(now, *ask, told),
                Ask::Room(ask) => self.answer_now(now, *ask, told),
                other => unreachable!("{other:?} is never ahead"),
            }
        }
        let is_due = ahead.iter().any(|(due_ms, _)| *due_ms == 0);
        if let Some(shared) = &mut self.shared
            && let Some(following) = shared.following.get_mut(&id)
            && !ahead.is_empty()
        {
            ahead.append(&mut following.ahead);
            following.ahead = ahead;
            shared.behind.insert(id);
            if is_due {
                shared.note_due(now.mono_ms() + 1, Due::Ahead(id));
            }
        }
        self.remove_room_if_unneeded(id, told);
    }

    /// What a client would be a member of; nothing if it is refused.
    fn joined_by(&mut self, now: Now, ask: &JoinAsk, told: &mut Told) -> Option<Vec<ChannelId>> {
        let address = &ask.join.address;
        if address.channel.is_every() {
            let is_new = !self.rooms.contains_key(&address.room);
            self.ensure_room(now, &address.room, &ask.client, told).ok()?;
            if is_new && let Some(id) = self.rooms.get(&address.room).map(|room| room.id) {
                self.await_members(now, id);
                self.follow(now, id, told);
                self.note_maker(id, ask.conn);
            }
            let room = self.rooms.get(&address.room)?;
            let channels = room.channels.values().copied();
            let visible = channels.filter(|id| self.channels[id].admits(&ask.client));
            return Some([room.id].into_iter().chain(visible).collect());
        }
        if address.channel.as_str() == PRIVATE_CHANNEL {
            return None;
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

/// The connection that an ask is of no use without.
fn conn_of(ask: &Ask) -> Option<ConnRef> {
    match ask {
        Ask::Join(ask) => Some(ask.conn),
        Ask::Room(ask) => Some(ask.conn),
        _ => None,
    }
}

fn refuse_parked(ask: Ask, told: &mut Told) {
    let refusal = Refusal::new(
        Fault::StorageUnavailable,
        "The server could not learn from its storage how this channel stands; try again soon.",
    );
    match ask {
        Ask::Publish(publish) => refuse(publish, None, refusal, told),
        Ask::Join(ask) => {
            let JoinAsk { conn, join, question, .. } = *ask;
            let question = question.unwrap_or_else(|| connecting_question(&join.address));
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
