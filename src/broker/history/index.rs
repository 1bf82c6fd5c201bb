//! Finds the messages of a log by the hashes of their identities.
//!
//! There are two tables. What is new goes into the recent one; when the log has given up all that the
//! earlier one holds, that one is emptied, and the two change places. So to give a message up costs
//! next to nothing, where to take it out would be a search in memory that nobody has touched for as long
//! as the message was kept. What was given up may still stand in the earlier table; nobody finds it.
//!
//! *Invariants*: each message of the log is in one of the two; the recent one holds nothing else.
//!
//! *Panics*: the hashes of the log are only read for what the recent table holds, and the log holds
//! all of that.

use crate::broker::history::log::Log;
use hashbrown::HashTable;
use std::hint::black_box;
use std::mem::swap;

/// The sequences of messages, by hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    recent: HashTable<Low>,
    earlier: HashTable<Low>,
    /// What is not in the earlier table has this sequence or a later one.
    since: u64,
}

/// The lower half of a sequence: no log holds so many messages that two have the same.
type Low = u32;

impl Index {
    /// Looks ahead to a search: fetches where it begins.
    pub(super) fn prefetch(&self, hash: u64) {
        black_box(self.recent.find(hash, |_| false));
        black_box(self.earlier.find(hash, |_| false));
    }

    /// The sequence of the message with this hash that `is_it` accepts. `first` is the first sequence
    /// of the log.
    pub(super) fn find(&self, hash: u64, first: u64, is_it: impl Fn(u64) -> bool) -> Option<u64> {
        let is_low = |&low: &Low| is_it(whole(first, low));
        let found = self.recent.find(hash, is_low).or_else(|| self.earlier.find(hash, is_low));
        found.map(|&low| whole(first, low))
    }

    /// Adds the newest message of the log, which begins with the sequence `first`.
    pub(super) fn insert(&mut self, hash: u64, sequence: u64, (log, first): (&Log, u64)) {
        let hash_of = |&low: &Low| log.hash(place(first, low));
        self.recent.insert_unique(hash, sequence as Low, hash_of);
    }

    /// The log has given up messages: it begins with the sequence `first` now.
    pub(super) fn give_up(&mut self, (log, first): (&Log, u64)) {
        if first >= self.since {
            swap(&mut self.recent, &mut self.earlier);
            self.recent.clear();
            self.since = first + log.len() as u64;
        }
    }

    /// Gives back the memory of what is long gone.
    pub(super) fn shrink(&mut self, (log, first): (&Log, u64)) {
        let hash_of = |&low: &Low| log.hash(place(first, low));
        self.earlier.retain(|&mut low| place(first, low) < log.len());
        for table in [&mut self.recent, &mut self.earlier] {
            table.shrink_to(2 * table.len(), hash_of);
        }
    }

    /// Asserts the invariants, but for what only the log's owner knows; for tests and the simulator.
    pub(super) fn check(&self, (log, first): (&Log, u64)) {
        let is_kept = |low: &&Low| place(first, **low) < log.len();
        assert_eq!(self.recent.iter().filter(is_kept).count(), self.recent.len());
        let kept = self.recent.len() + self.earlier.iter().filter(is_kept).count();
        assert_eq!(kept, log.len(), "the index holds just what the log holds");
    }
}

/// The place in the log.
fn place(first: u64, low: Low) -> usize {
    low.wrapping_sub(first as Low) as usize
}

fn whole(first: u64, low: Low) -> u64 {
    first + place(first, low) as u64
}
