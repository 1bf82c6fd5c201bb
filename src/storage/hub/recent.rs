//! The events that a channel's home was told last, so that Redis need not look for repeats of them.
//!
//! A home submits with the last sequence that it has seen, and has not looked among what came after
//! it. What this node was told since then is here; what it was not told yet Redis alone knows.
//!
//! *Invariants*: everything from the floor to the last that was told is here, by sender and id; it is
//! bounded, and short where this node submits nothing.

use crate::base::hash::{Map, seeded};
use std::collections::VecDeque;

/// The events that are remembered while this node submits, and when it does not.
const EVENTS_MAX: usize = 32_768;
const EVENTS_IDLE_MAX: usize = 1_024;

/// Sender and id, by two hashes: what is taken for a repeat is lost.
type Identity = (u64, u64);

#[derive(Debug)]
pub(super) struct Recent {
    /// The identities of the sequences after `floor`.
    events: VecDeque<Identity>,
    /// The first place of each, and this node's own ticket.
    places: Map<Identity, (u64, Option<u64>)>,
    floor: u64,
    /// The last that was told when this node submitted last.
    asked_at: Option<u64>,
    hashers: [ahash::RandomState; 2],
}

/// What is known of an event that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It has this place.
    Placed(u64),
    /// It is a repeat of what has this place.
    Repeat(u64),
}

impl Recent {
    /// Of an order that goes on after `floor`.
    pub(super) fn new(floor: u64) -> Recent {
        let hashers = [seeded(fastrand::u64(..)), seeded(fastrand::u64(..))];
        let places = Map::with_hasher(seeded(fastrand::u64(..)));
        Recent { events: VecDeque::new(), places, floor, asked_at: None, hashers }
    }

    fn last(&self) -> u64 {
        self.floor + self.events.len() as u64
    }

    fn identity(&self, identity: &[u8]) -> Identity {
        (self.hashers[0].hash_one(identity), self.hashers[1].hash_one(identity))
    }

    /// The next event was told; its ticket, if it is this node's own.
    pub(super) fn push(&mut self, identity: &[u8], ticket: Option<u64>) {
        let identity = self.identity(identity);
        self.events.push_back(identity);
        let sequence = self.last();
        self.places.entry(identity).or_insert((sequence, ticket));
        let is_idle = self.asked_at.is_none_or(|at| sequence - at >= EVENTS_MAX as u64 / 2);
        let max = if is_idle { EVENTS_IDLE_MAX } else { EVENTS_MAX };
        self.forget(sequence.saturating_sub(max as u64));
    }

    /// What is submitted has seen everything up to `seen`. Whether what follows it is here; it is
    /// then looked for by [`Recent::find`], and needs not be by Redis up to the last that was told.
    pub(super) fn covers(&mut self, seen: u64) -> bool {
        self.asked_at = Some(self.last());
        self.floor <= seen
    }

    /// What was told under this sender and id, after what the home had seen.
    pub(super) fn find(&self, identity: &[u8], ticket: u64, seen: u64) -> Option<Known> {
        let &(sequence, own) = self.places.get(&self.identity(identity))?;
        match own == Some(ticket) {
            true => Some(Known::Placed(sequence)),
            false => (sequence > seen).then_some(Known::Repeat(sequence)),
        }
    }

    /// Nothing up to `seen` will be asked for any more.
    pub(super) fn forget(&mut self, seen: u64) {
        while self.floor < seen {
            let Some(identity) = self.events.pop_front() else { break };
            self.floor += 1;
            if self.places.get(&identity).is_some_and(|&(sequence, _)| sequence == self.floor) {
                self.places.remove(&identity);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_found_until_nobody_asks_for_it() {
        let mut recent = Recent::new(10);
        recent.push(b"a", None);
        recent.push(b"b", Some(7));
        recent.push(b"a", None);
        assert!(recent.covers(10) && !recent.covers(9));
        assert_eq!(recent.find(b"a", 1, 10), Some(Known::Repeat(11)));
        assert_eq!(recent.find(b"a", 1, 11), None, "its home has looked there");
        assert_eq!(recent.find(b"b", 7, 10), Some(Known::Placed(12)));
        assert_eq!(recent.find(b"b", 8, 10), Some(Known::Repeat(12)));
        recent.forget(11);
        assert_eq!((recent.find(b"a", 1, 0), recent.covers(10)), (None, false));
        recent.forget(99);
        assert!(recent.places.is_empty() && recent.covers(13));
    }

    #[test]
    fn it_is_bounded() {
        let mut recent = Recent::new(0);
        for n in 0..3_000u64 {
            recent.push(&n.to_le_bytes(), None);
        }
        assert_eq!(recent.events.len(), EVENTS_IDLE_MAX);
        for n in 0..100_000u64 {
            recent.covers(0);
            recent.push(&n.to_le_bytes(), None);
        }
        assert_eq!((recent.events.len(), recent.places.len()), (EVENTS_MAX, EVENTS_MAX));
    }
}
