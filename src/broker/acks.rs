//! Acks that wait until the storage has what they promise.
//!
//! An ack waits for the sequence of its event, or, for a repeat, of the first one. It ends in one of
//! three ways: the storage has it, and it is given; or it can't be said, and its client is told that
//! the event was delivered but is not known to be stored; or it will never be stored, which is told by
//! a fault of its own, for asking again changes nothing. While nothing can be stored no ack waits.
//!
//! *Invariants*: the acks of one channel stand in the order of their sequences; a channel that
//! stands here has at least one; `count` is how many there are; none waits longer than its time but
//! for a grain.
//!
//! *Panics*: `drain` gets two places of one sorted queue, for a run whose first sequence is not
//! behind its last: the home checks that of a run that the storage names.

use crate::base::ids::{ChannelId, ShardId};
use crate::base::limits::{ACK_GRAIN_MS, ACKS_WAITING_MAX};
use crate::base::time::Now;
use crate::broker::durable::{Durable, Fate};
use crate::broker::home::Told;
use crate::broker::lane::{Accepted, RefusedEvent, Tell};
use crate::broker::peers::Place;
use crate::protocol::command::AckWhen;
use crate::protocol::fault::{Fault, Refusal};
use crate::protocol::reply::Question;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The acks of one home that wait.
#[derive(Debug, Default)]
pub struct Acks {
    waiting: BTreeMap<ChannelId, VecDeque<Waiting>>,
    count: usize,
    /// When the first of them has waited long enough, on the monotonic clock in milliseconds; never
    /// too late.
    due_ms: Option<u64>,
    timeout_ms: u32,
    degraded: Option<Degraded>,
}

/// Since when nothing can be stored, and why.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// In microseconds since 1970.
    pub since_us: u64,
    /// In words for a person: the latest cause.
    pub reason: Arc<str>,
    /// When that was last seen, in microseconds since 1970.
    pub reason_us: u64,
}

impl Degraded {
    /// It begins now.
    pub fn new(since_us: u64, reason: Arc<str>) -> Degraded {
        Degraded { since_us, reason, reason_us: since_us }
    }
}

#[derive(Debug)]
struct Waiting {
    sequence: u64,
    due_ms: u64,
    to: ShardId,
    accepted: Box<Accepted>,
}

impl Acks {
    /// None yet; each will wait for so long at most.
    pub fn new(timeout_ms: u32) -> Acks {
        Acks { timeout_ms, ..Acks::default() }
    }

    /// Gives an ack of a history that is kept, now or when it can be given.
    pub fn settle(
        &mut self,
        now: Now,
        (channel, durable): (ChannelId, &Durable),
        (to, accepted): (ShardId, Accepted),
        told: &mut Told,
    ) {
        let accepted = Box::new(accepted);
        let fate = match durable.ack_when {
            AckWhen::Accepted => Fate::Stored,
            AckWhen::Stored => durable.fate(accepted.sequence),
        };
        match fate {
            Fate::Stored => told.tell(to, Tell::Accepted(accepted)),
            Fate::Lost => refuse(to, &accepted, Fault::StorageLost, told),
            Fate::Unknown => self.wait(now, channel, (to, *accepted), told),
        }
    }

    /// Lets an ack wait for the sequence that it names, if acks may wait. On a bus of several nodes
    /// that is the ticket of its submission, until its place is known.
    pub fn wait(
        &mut self,
        now: Now,
        channel: ChannelId,
        (to, accepted): (ShardId, Accepted),
        told: &mut Told,
    ) {
        if self.degraded.is_some() || self.count >= ACKS_WAITING_MAX {
            return refuse(to, &accepted, Fault::StorageUnavailable, told);
        }
        let due_ms = now.mono_ms() + u64::from(self.timeout_ms);
        let due_ms = due_ms.next_multiple_of(ACK_GRAIN_MS);
        self.due_ms = Some(self.due_ms.map_or(due_ms, |known_ms| known_ms.min(due_ms)));
        self.count += 1;
        told.ack_waits += 1;
        let queue = self.waiting.entry(channel).or_default();
        // Almost always at the end: only a repeat waits for what was before.
        let sequence = accepted.sequence;
        let place = match queue.back().is_none_or(|last| last.sequence <= sequence) {
            true => queue.len(),
            false => queue.partition_point(|known| known.sequence <= sequence),
        };
        queue.insert(place, Waiting { sequence, due_ms, to, accepted: Box::new(accepted) });
    }

    /// A submission has got its place, with members of its channel on so many shards: its ack is
    /// given, if one waits.
    pub fn note_placed(&mut self, channel: ChannelId, place: &Place, shards: u16, told: &mut Told) {
        let Some(queue) = self.waiting.get_mut(&channel) else { return };
        let at = queue.partition_point(|waiting| waiting.sequence < place.ticket);
        let Some(waiting) = queue.get(at).filter(|waiting| waiting.sequence == place.ticket) else {
            return;
        };
        let to = waiting.to;
        if let Some(Waiting { mut accepted, .. }) = queue.remove(at) {
            self.count -= 1;
            (accepted.sequence, accepted.duplicate) = (place.sequence, place.is_duplicate);
            if let Some((_, _, to_shards)) = &mut accepted.trace {
                *to_shards = if place.is_duplicate { 0 } else { shards };
            }
            told.tell(to, Tell::Accepted(accepted));
        }
        self.tidy(channel);
    }

    /// Everything of a channel up to a sequence is stored.
    pub fn note_stored(&mut self, channel: ChannelId, sequence: u64, told: &mut Told) {
        let Some(queue) = self.waiting.get_mut(&channel) else { return };
        while let Some(waiting) = queue.pop_front_if(|waiting| waiting.sequence <= sequence) {
            self.count -= 1;
            told.tell(waiting.to, Tell::Accepted(waiting.accepted));
        }
        self.tidy(channel);
    }

    /// These of a channel will never be stored.
    pub fn note_lost(&mut self, channel: ChannelId, (first, last): (u64, u64), told: &mut Told) {
        let Some(queue) = self.waiting.get_mut(&channel) else { return };
        let from = queue.partition_point(|waiting| waiting.sequence < first);
        let to = queue.partition_point(|waiting| waiting.sequence <= last);
        for waiting in queue.drain(from..to) {
            self.count -= 1;
            refuse(waiting.to, &waiting.accepted, Fault::StorageLost, told);
        }
        self.tidy(channel);
    }

    /// A channel is gone, and what was kept of it.
    pub fn forget(&mut self, channel: ChannelId, told: &mut Told) {
        self.note_lost(channel, (0, u64::MAX), told);
    }

    /// The events of a channel have other sequences from here on: it can't be said of the acks that wait
    /// whether theirs are stored.
    pub fn refuse_all(&mut self, channel: ChannelId, told: &mut Told) {
        let Some(queue) = self.waiting.remove(&channel) else { return };
        self.count -= queue.len();
        for waiting in queue {
            refuse(waiting.to, &waiting.accepted, Fault::StorageUnavailable, told);
        }
        self.tidy(channel);
    }

    /// Nothing can be stored now: nobody is to wait for it.
    pub fn degrade(&mut self, degraded: Degraded, told: &mut Told) {
        let since_us = self.degraded.as_ref().map_or(degraded.since_us, |known| known.since_us);
        self.degraded = Some(Degraded { since_us, ..degraded });
        for waiting in std::mem::take(&mut self.waiting).into_values().flatten() {
            refuse(waiting.to, &waiting.accepted, Fault::StorageUnavailable, told);
        }
        (self.count, self.due_ms) = (0, None);
    }

    /// Still nothing can be stored, for this reason by now.
    pub fn note_cause(&mut self, now_us: u64, reason: Arc<str>) {
        if let Some(degraded) = &mut self.degraded {
            (degraded.reason, degraded.reason_us) = (reason, now_us);
        }
    }

    /// It can be waited again.
    pub fn restore(&mut self) {
        self.degraded = None;
    }

    /// Refuses what has waited for too long.
    pub fn expire(&mut self, now: Now, told: &mut Told) {
        let now_ms = now.mono_ms();
        if self.due_ms.is_none_or(|due_ms| due_ms > now_ms) {
            return;
        }
        let channels: Vec<ChannelId> = self.waiting.keys().copied().collect();
        for channel in channels {
            let Some(queue) = self.waiting.get_mut(&channel) else { continue };
            queue.retain(|waiting| {
                let is_over = waiting.due_ms <= now_ms;
                if is_over {
                    self.count -= 1;
                    refuse(waiting.to, &waiting.accepted, Fault::StorageUnavailable, told);
                }
                !is_over
            });
            self.tidy(channel);
        }
        self.due_ms = self.waiting.values().flatten().map(|waiting| waiting.due_ms).min();
    }

    /// When [`Acks::expire`] next has something to do, on the monotonic clock in milliseconds.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.due_ms
    }

    /// How many wait.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Since when nothing can be stored, and why, if that is so.
    pub fn degraded(&self) -> Option<&Degraded> {
        self.degraded.as_ref()
    }

    fn tidy(&mut self, channel: ChannelId) {
        if self.waiting.get(&channel).is_some_and(VecDeque::is_empty) {
            self.waiting.remove(&channel);
        }
        if self.count == 0 {
            self.due_ms = None;
        }
    }

    /// Asserts every invariant; for tests and the simulator.
    pub fn check(&self) {
        let queues = || self.waiting.values();
        assert_eq!(
            self.count,
            queues().map(VecDeque::len).sum::<usize>(),
            "waiting acks are counted"
        );
        assert!(queues().all(|queue| !queue.is_empty()), "who stands here waits");
        assert!(queues().all(|queue| queue.iter().is_sorted_by_key(|waiting| waiting.sequence)));
        let is_seen = |waiting: &Waiting| self.due_ms.is_some_and(|due| due <= waiting.due_ms);
        assert!(queues().flatten().all(is_seen), "nobody is looked at too late");
        assert!(self.degraded.is_none() || self.count == 0, "nobody waits for nothing");
    }
}

const UNAVAILABLE: &str = "The event may have been delivered to those who are there, but is not known \
    to be stored; send it again with the same id to learn when it is.";
const LOST: &str = "The event will never be stored, though those who are there may have got it; send it \
    again with a new id if it must be kept.";

fn refuse(to: ShardId, accepted: &Accepted, fault: Fault, told: &mut Told) {
    let why = match fault {
        Fault::StorageLost => LOST,
        _ => UNAVAILABLE,
    };
    let Accepted { conn, frame, address, trace, .. } = accepted;
    let refused = RefusedEvent {
        conn: *conn,
        question: Question::of_message(frame.id(), &address.room, &address.channel),
        refusal: Refusal::new(fault, why),
        trace: trace.map(|(pending, ..)| pending),
    };
    told.tell(to, Tell::Refused(Box::new(refused)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ConnId;
    use crate::broker::record::Keep;
    use crate::protocol::command::Address;
    use crate::protocol::envelope::MessageType;
    use crate::protocol::frame::{Draft, Origin};
    use crate::protocol::names::Name;

    fn accepted(sequence: u64) -> (ShardId, Accepted) {
        let (id, origin) = (format!("arq_{sequence}"), Origin { received_ns: 0, ttl_ms: None });
        let draft = Draft::of_server(&id, MessageType::Event, ("r", "c"), "{}", origin);
        let address = Address { room: Name::fixed("r"), channel: Name::fixed("c") };
        let accepted = Accepted {
            conn: ConnId { slot: 0, generation: 0 },
            frame: draft.stamp(sequence, 0),
            sequence,
            duplicate: false,
            trace: None,
            address: Arc::new(address),
            home: ShardId(0),
        };
        (ShardId(0), accepted)
    }

    /// The sequences that are acknowledged, and how many acks are refused.
    fn ended(told: &mut Told) -> (Vec<u64>, usize) {
        let (mut given, mut refused) = (Vec::new(), 0);
        for (_, tell) in told.tells.drain(..) {
            match tell {
                Tell::Accepted(accepted) => given.push(accepted.sequence),
                Tell::Refused(_) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        (given, refused)
    }

    #[test]
    fn acks_wait_in_the_order_of_their_sequences_and_never_too_many() {
        let durable = Durable::new("e".into(), Keep { messages: 1, age_ms: 0, bytes: 0 }, None);
        let (one, other) = (ChannelId::new(ShardId(0), 1), ChannelId::new(ShardId(0), 2));
        let (mut acks, mut told) = (Acks::new(100), Told::default());
        let now = |ms: u64| Now { mono_ns: ms * 1_000_000, wall_us: 0 };
        for sequence in [1, 2, 5, 3, 1] {
            acks.settle(now(0), (one, &durable), accepted(sequence), &mut told);
            acks.check();
        }
        acks.settle(now(50), (other, &durable), accepted(9), &mut told);
        acks.note_stored(one, 3, &mut told);
        acks.check();
        assert_eq!((ended(&mut told), acks.count()), ((vec![1, 1, 2, 3], 0), 2));
        acks.expire(now(128), &mut told);
        acks.check();
        assert_eq!((ended(&mut told), acks.count()), ((vec![], 1), 1));
        acks.expire(now(192), &mut told);
        assert_eq!((ended(&mut told), acks.next_due_ms()), ((vec![], 1), None));
        for sequence in 0..ACKS_WAITING_MAX as u64 + 3 {
            acks.settle(now(200), (one, &durable), accepted(sequence + 1), &mut told);
        }
        assert_eq!((ended(&mut told), acks.count()), ((vec![], 3), ACKS_WAITING_MAX));
        acks.forget(one, &mut told);
        acks.check();
        assert_eq!(ended(&mut told), (vec![], ACKS_WAITING_MAX));
    }

    #[test]
    fn of_those_that_wait_just_the_lost_are_refused() {
        let durable = Durable::new("e".into(), Keep { messages: 1, age_ms: 0, bytes: 0 }, None);
        let channel = ChannelId::new(ShardId(0), 1);
        let (mut acks, mut told) = (Acks::new(100), Told::default());
        let now = Now { mono_ns: 0, wall_us: 0 };
        for sequence in [1, 2, 2, 4, 5] {
            acks.settle(now, (channel, &durable), accepted(sequence), &mut told);
        }
        for (lost, refused) in [((3, 3), 0), ((2, 4), 3), ((6, 9), 0), ((5, 5), 1)] {
            acks.note_lost(channel, lost, &mut told);
            acks.check();
            assert_eq!(ended(&mut told), (vec![], refused), "{lost:?}");
        }
        acks.note_stored(channel, 1, &mut told);
        assert_eq!((ended(&mut told), acks.next_due_ms()), ((vec![1], 0), None));
    }
}
