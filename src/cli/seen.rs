//! Which messages were printed, as far as that is remembered.
//!
//! A message is told from others by its channel, its sender and its id, whatever its sequence: after an
//! order has changed the same message may come again under another one.
//!
//! *Invariant*: of the last [`SEEN_MAX`] messages none is printed twice.

use ahash::RandomState;
use std::collections::{HashSet, VecDeque};

/// The messages that are remembered: of a channel more than its history holds by default.
const SEEN_MAX: usize = 32_768;

/// The messages that were printed last.
#[derive(Debug)]
pub(super) struct Seen {
    hasher: RandomState,
    hashes: HashSet<u64, RandomState>,
    order: VecDeque<u64>,
}

impl Seen {
    pub(super) fn new() -> Seen {
        let hasher = RandomState::new();
        Seen { hashes: HashSet::with_hasher(hasher.clone()), order: VecDeque::new(), hasher }
    }

    /// Notes a message; true if it was not noted before.
    pub(super) fn note(&mut self, (room, channel): (&str, &str), from: &str, id: &str) -> bool {
        let hash = self.hasher.hash_one((room, channel, from, id));
        if !self.hashes.insert(hash) {
            return false;
        }
        self.order.push_back(hash);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_noted_once_and_not_for_ever() {
        let mut seen = Seen::new();
        let place = ("r", "c");
        assert!(seen.note(place, "ann", "arq_1") && !seen.note(place, "ann", "arq_1"));
        assert!(seen.note(place, "bob", "arq_1") && seen.note(("r", "d"), "ann", "arq_1"));
        for n in 0..2 * SEEN_MAX {
            assert!(seen.note(place, "ann", &format!("arq_x{n}")));
            assert!(seen.order.len() <= SEEN_MAX && seen.hashes.len() == seen.order.len());
        }
        assert!(seen.note(place, "ann", "arq_1"), "that is too long ago");
    }
}
