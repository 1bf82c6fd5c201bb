//! Events of a channel whose places are given by the storage that several nodes share: how they get
//! them, and how a home goes on alone while nothing can be stored.
//!
//! An event is **submitted**; members get it when it arrives, in the one order of all nodes.
//!
//! While nothing can be stored the home goes on from memory, in a **fork** of the history: a copy
//! that goes on in a term of its own, in which this home gives the places. What it gives there is
//! submitted all the same. With the first that arrives afterwards the fork is given up. Members are told
//! of the fork's epoch when it begins and of the order's when it ends, with the last sequence that both
//! have, and by a gap notice of what they miss; what they have seen in the fork they do not get again. (So a node that can't reach the storage serves its clients, and promises
//! them nothing: availability before consistency, as in Gilbert and Lynch, *Brewer's Conjecture*,
//! 2002, and told.)
//!
//! *Invariants*: tickets grow, and none is given twice; an event reaches the members of this node
//! once; a fork is there only while nothing can be stored, or until the first that arrives after it;
//! members are told of every epoch of a channel before they get an event of it.

use crate::base::ids::{ChannelId, ConnRef};
use crate::base::time::Now;
use crate::broker::history::{History, Verdict};
use crate::broker::home::following::Following;
use crate::broker::home::shared::Shared;
use crate::broker::home::{Home, Told, address_of, history_bytes_max, history_of};
use crate::broker::lane::{Accepted, Ask, Fanout, PendingRef, Publish, Tell};
use crate::broker::peers::{Arrival, PeerRecord, Place, Submission};
use crate::broker::record::Record;
use crate::protocol::command::Address;
use crate::protocol::frame::{Draft, Frame};
use crate::protocol::reply;
use serde_json::{Value, json};
use std::sync::Arc;

/// A submission that has not come back.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) ticket: u64,
    from: Option<ConnRef>,
    trace: Option<u32>,
    draft: Arc<Draft>,
    /// Its place, if that is known.
    pub(super) sequence: Option<u64>,
    /// The members of this node have it.
    pub(super) is_delivered: bool,
}

/// What is kept of a history while its home goes on in another one.
#[derive(Debug)]
pub(super) struct Fork {
    real: History,
}

impl Fork {
    /// Asserts that what is beneath a history that goes on alone is no older than it.
    pub(super) fn check(&self, alone: &History) {
        self.real.check();
        let is_empty = self.real.held().messages == 0;
        assert!(
            is_empty || self.real.first() >= alone.first(),
            "a fork is trimmed with its history"
        );
    }
}

impl Home {
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
        let Some(Shared { following, tickets_given, .. }) = shared.as_deref_mut() else { return };
        let Some(following) = following.get_mut(&id) else { return };
        let accepted = |conn: ConnRef, frame, sequence, duplicate| {
            let trace = trace.map(|pending| (pending, now.mono_ns, 0));
            let (conn, home) = (conn.conn, id.home());
            Accepted { conn, frame, sequence, duplicate, trace, address: address.clone(), home }
        };
        // What has a place in a fork alone has none yet.
        let real = following.fork.as_ref().map_or(&*history, |fork| &fork.real);
        if let Some(first) = real.first_of(draft.identity()) {
            told.duplicates += 1;
            if let Some(conn) = wants_ack {
                let accepted = accepted(conn, first.to_frame(), first.sequence, true);
                told.tell(conn.shard, Tell::Accepted(Box::new(accepted)));
            }
            return;
        }
        let Some(durable) = &history.durable else { return };
        *tickets_given += 1;
        let ticket = *tickets_given;
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
        let open =
            Open { ticket, from, trace, draft: Arc::clone(&draft), sequence: None, is_delivered };
        following.open.push_back(open);
        if is_delivered {
            self.append_to_fork(now, id, &draft, (from, true), told);
        }
    }

    /// Gives an event a place in a fork, and spreads it, unless the members here have it.
    fn append_to_fork(
        &mut self,
        now: Now,
        id: ChannelId,
        draft: &Draft,
        (from, is_new): (Option<ConnRef>, bool),
        told: &mut Told,
    ) {
        let Home { channels, whole_rooms, rooms, retention, times, .. } = self;
        let Some(history) = history_of(id, channels, whole_rooms, rooms) else { return };
        let before = history.held();
        let verdict = history.append(draft.clone(), now.wall_us, times);
        retention.account(id, before, history);
        self.trim_beneath_fork(id);
        if let Verdict::Fresh(frame) = verdict
            && is_new
        {
            told.accepted += 1;
            self.spread_arrival(id, frame, from, None, told);
        }
        self.shed(told);
    }

    /// Submissions have got their places.
    pub(super) fn on_placed(&mut self, now: Now, id: ChannelId, places: &[Place], told: &mut Told) {
        told.stored += places.len() as u64;
        let spread = match (self.channels.get(&id), self.whole_rooms.get(&id)) {
            (Some(channel), _) => Some(channel.spread()),
            (None, name) => name.and_then(|name| self.rooms.get(name)).map(|room| &room.spread),
        };
        let shards = spread.map_or(0, |spread| spread.shards().count() as u16);
        for place in places {
            told.duplicates += u64::from(place.is_duplicate);
            // What was spread in a fork is not reported of.
            let is_alone = |following: &mut Following| {
                let at = following.open.binary_search_by_key(&place.ticket, |open| open.ticket);
                at.is_ok_and(|at| following.open[at].is_delivered)
            };
            let shards = if self.following_mut(id).is_some_and(is_alone) { 0 } else { shards };
            self.acks.note_placed(id, place, shards, told);
        }
        // A repeat does not come back, nor what is here already.
        let last = self.history_mut(id).map_or(0, |history| history.last());
        let Some(following) = self.following_mut(id) else { return };
        let last = if following.fork.is_some() { 0 } else { last };
        for place in places {
            let Ok(at) = following.open.binary_search_by_key(&place.ticket, |open| open.ticket)
            else {
                continue;
            };
            match place.is_duplicate || place.sequence <= last {
                true => _ = following.open.remove(at),
                false => following.open[at].sequence = Some(place.sequence),
            }
        }
        self.end_done_fork(now, id, told);
    }

    /// A fork in which nothing waits any more is over when the storage is there.
    pub(super) fn end_done_fork(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        let is_done = self.following_mut(id).is_some_and(|following| following.is_done_alone());
        if is_done && self.acks.degraded().is_none() {
            self.end_fork_and_tell(now, id, told);
        }
    }

    /// Gives a fork up, and tells the members that the order is the storage's again.
    fn end_fork_and_tell(&mut self, now: Now, id: ChannelId, told: &mut Told) {
        if let Some(sure) = self.end_fork(id) {
            self.tell_epoch(now, id, sure, reason::STORAGE_RESTORED, told);
        }
        self.remove_room_if_unneeded(id, told);
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
        self.remove_room_if_unneeded(id, told);
    }

    /// The next events of a channel.
    pub(super) fn on_arrived(
        &mut self,
        now: Now,
        id: ChannelId,
        events: Vec<Arrival>,
        told: &mut Told,
    ) {
        // What belongs to an earlier following of it is known from what is told next.
        if !self.following_mut(id).is_some_and(|following| following.is_attached) {
            return;
        }
        let last = self.real_last(id);
        let first = events.first().map_or(last + 1, |event| event.frame.sequence);
        if first != last + 1 {
            // What is between was lost on its way here: all is read anew, and nothing before that.
            return self.attach_again(id, told);
        }
        self.end_fork_and_tell(now, id, told);
        for Arrival { mut frame, ticket } in events {
            let Home { shared, channels, whole_rooms, rooms, retention, .. } = self;
            let following = shared.as_mut().and_then(|shared| shared.following.get_mut(&id));
            let (Some(following), Some(history)) =
                (following, history_of(id, channels, whole_rooms, rooms))
            else {
                return;
            };
            if frame.sequence != history.last() + 1 {
                return self.attach_again(id, told);
            }
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
        self.let_go_on(now, id, told);
        self.remove_room_if_unneeded(id, told);
        self.shed(told);
    }

    /// The last sequence of a channel that came from the storage.
    fn real_last(&mut self, id: ChannelId) -> u64 {
        let real = self.following_mut(id).and_then(|following| following.fork.as_ref());
        match real.map(|fork| fork.real.last()) {
            Some(last) => last,
            None => self.history_mut(id).map_or(0, |history| history.last()),
        }
    }

    /// The life and the term of the order of a channel that came from the storage.
    pub(super) fn real_order(&mut self, id: ChannelId) -> Option<(Arc<str>, u32)> {
        let real = self.following_mut(id).and_then(|following| following.fork.as_ref());
        let of = |history: &History| {
            let durable = history.durable.as_ref()?;
            Some((durable.life.clone(), durable.term))
        };
        match real.map(|fork| of(&fork.real)) {
            Some(order) => order,
            None => self.history_mut(id).and_then(|history| of(history)),
        }
    }

    /// What has come of a channel does not follow what is here: it is asked for anew how it stands.
    fn attach_again(&mut self, id: ChannelId, told: &mut Told) {
        if let Some(following) = self.following_mut(id) {
            following.is_attached = false;
            told.torn += 1;
            self.attach(id, told);
        }
    }

    /// The order of a channel goes on in another term.
    pub(super) fn on_term(
        &mut self,
        now: Now,
        id: ChannelId,
        (term, past): (u32, Vec<(u32, u64)>),
        told: &mut Told,
    ) {
        if !self.following_mut(id).is_some_and(|following| following.is_attached) {
            return;
        }
        let fork = self.following_mut(id).and_then(|following| following.fork.take());
        if let Some(mut fork) = fork {
            fork.real.go_on_in(term, past);
            if let Some(following) = self.following_mut(id) {
                following.fork = Some(fork);
            }
        } else if let Some(history) = self.history_mut(id) {
            let former = history.epoch().clone();
            history.go_on_in(term, past);
            // Nothing that members have seen has another place by this.
            let (is_other, sure) = (*history.epoch() != former, history.last());
            if is_other {
                self.tell_epoch(now, id, sure, reason::TERM_ENDED, told);
            }
        }
        self.let_go_on(now, id, told);
    }

    pub(super) fn spread_arrival(
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
        let fanout = Fanout { channel: id, frame, from, trace };
        for shard in spread.into_iter().flat_map(|spread| spread.shards()) {
            told.tell(shard, Tell::Fanout(fanout.clone()));
        }
    }

    /// Goes on in a fork, of which the storage hears before it is given what is said there. Members are
    /// told before they get anything of it. What has not come back has its place there first.
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
        self.tell_epoch(now, id, base, reason::STORAGE_UNAVAILABLE, told);
        let mut open = Vec::new();
        for known in self.following_mut(id).into_iter().flat_map(|known| &mut known.open) {
            let was_delivered = std::mem::replace(&mut known.is_delivered, true);
            open.push((Arc::clone(&known.draft), known.from, was_delivered));
        }
        for (draft, from, was_delivered) in open {
            self.append_to_fork(now, id, &draft, (from, !was_delivered), told);
        }
    }

    /// Goes on in a fork; gives where it begins, if there was none.
    pub(super) fn fork(&mut self, id: ChannelId) -> Option<u64> {
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

    /// Deletes of the history beneath a fork what the fork has had to delete: so both together hold no
    /// more than one may, as full segments are shared. What comes back out of the fork would push the
    /// same messages out.
    pub(super) fn trim_beneath_fork(&mut self, id: ChannelId) {
        let Home { shared, channels, whole_rooms, rooms, .. } = self;
        let following = shared.as_mut().and_then(|shared| shared.following.get_mut(&id));
        if let Some(fork) = following.and_then(|following| following.fork.as_mut())
            && let Some(history) = history_of(id, channels, whole_rooms, rooms)
        {
            fork.real.evict_before(history.first());
        }
    }

    /// The same for all forks, after the bounds of histories have changed.
    pub(super) fn trim_beneath_forks(&mut self) {
        let following = self.shared.iter().flat_map(|shared| &shared.following);
        let forked = following.filter(|(_, following)| following.fork.is_some());
        let ids: Vec<ChannelId> = forked.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.trim_beneath_fork(id));
    }

    /// Whether a channel goes on alone here: its history lacks what others had stored meanwhile.
    pub(super) fn is_in_fork(&self, id: ChannelId) -> bool {
        let following = self.shared.as_ref().and_then(|shared| shared.following.get(&id));
        following.is_some_and(|following| following.fork.is_some())
    }

    /// Gives a fork up; gives where it began, if there was one.
    pub(super) fn end_fork(&mut self, id: ChannelId) -> Option<u64> {
        let bytes_max = history_bytes_max(&self.limits);
        let Home { shared, channels, whole_rooms, rooms, retention, .. } = self;
        let fork = shared.as_mut()?.following.get_mut(&id)?.fork.take()?;
        let history = history_of(id, channels, whole_rooms, rooms)?;
        let (before, rank) = (history.held(), history.rank);
        let mut real = fork.real;
        // Its settings may have changed meanwhile.
        real.resize(history.size(), bytes_max);
        if let (Some(durable), Some(alone)) = (&mut real.durable, &history.durable) {
            (durable.keep, durable.ack_when) = (alone.keep, alone.ack_when);
        }
        *history = real;
        history.rank = rank;
        retention.account(id, before, history);
        Some(history.last())
    }

    /// Tells the members of a channel that its order is another one than they have seen, from a
    /// sequence on; and, if that order goes on there already, that they miss it.
    pub(super) fn tell_new_order(
        &mut self,
        now: Now,
        id: ChannelId,
        Change { sure, reason }: Change,
        told: &mut Told,
    ) {
        self.tell_epoch(now, id, sure, reason, told);
        self.tell_missed(now, id, sure, "order_changed", told);
    }

    /// Tells the members of a channel that they miss what its order has after a sequence, if it has.
    pub(super) fn tell_missed(
        &mut self,
        now: Now,
        id: ChannelId,
        seen: u64,
        reason: &'static str,
        told: &mut Told,
    ) {
        let Some(address) = address_of(id, &self.channels, &self.whole_rooms, &self.rooms) else {
            return;
        };
        let Some(history) = self.history_mut(id) else { return };
        let (first, last) = (seen + 1, history.last());
        if last < first {
            return;
        }
        let payload = json!({
            "event": "gap",
            "channel": address.channel,
            "first": first,
            "last": last,
            "count": null,
            "reason": reason,
            "epoch": &**history.epoch(),
        });
        self.tell_members(now, id, &address, payload, told);
    }

    /// Tells the members of a channel its epoch, which is another than they know. Up to `sure` what they
    /// were told under the former one is so under this one.
    pub(super) fn tell_epoch(
        &mut self,
        now: Now,
        id: ChannelId,
        sure: u64,
        reason: &'static str,
        told: &mut Told,
    ) {
        let Some(address) = address_of(id, &self.channels, &self.whole_rooms, &self.rooms) else {
            return;
        };
        let Some(history) = self.history_mut(id) else { return };
        let payload = json!({
            "event": "epoch_changed",
            "room": address.room,
            "channel": address.channel,
            "epoch": &**history.epoch(),
            "sequence": sure,
            "reason": reason,
        });
        let before = told.tells.len();
        self.tell_members(now, id, &address, payload, told);
        told.epochs_changed += u64::from(told.tells.len() > before);
    }

    fn tell_members(
        &mut self,
        now: Now,
        id: ChannelId,
        address: &Address,
        payload: Value,
        told: &mut Told,
    ) {
        let text = reply::notice(self.stamp(now), (&address.room, &address.channel), payload);
        let frame = Frame::of_text(&text, now.mono_ns);
        self.spread_arrival(id, frame, None, None, told);
    }
}

/// How an order is another one than its members have seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    /// Up to here what they have seen is so.
    pub(super) sure: u64,
    /// Why it is another, one of [`reason`].
    pub(super) reason: &'static str,
}

/// Why a channel has another epoch, as words for machines.
pub(super) mod reason {
    /// Nothing can be stored now: this node gives the places alone.
    pub(in crate::broker::home) const STORAGE_UNAVAILABLE: &str = "storage_unavailable";
    /// The storage is there again, and its order is the one that counts.
    pub(in crate::broker::home) const STORAGE_RESTORED: &str = "storage_restored";
    /// The storage has lost events, or the channel itself, and the order goes on without them.
    pub(in crate::broker::home) const STORAGE_LOST_EVENTS: &str = "storage_lost_events";
    /// Another node that went on alone is back, or one has died with what only it may have been told.
    pub(in crate::broker::home) const TERM_ENDED: &str = "term_ended";
}

impl Following {
    /// The submission of a ticket, which has come back. What was before it and has not come back
    /// never will: it was a repeat.
    fn take_open(&mut self, ticket: u64) -> Option<Open> {
        while self.open.pop_front_if(|open| open.ticket < ticket).is_some() {}
        self.open.pop_front_if(|open| open.ticket == ticket)
    }
}
