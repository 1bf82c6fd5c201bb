//! Limits that the shards of one process share: exact counts without a lock.
//!
//! *Panics*: giving back more than was taken means that the count is lost, and no limit would hold:
//! the process ends. The edges and homes give back once what they took, whatever a client sends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many of something there are on all shards together.
#[derive(Clone, Debug, Default)]
pub struct Quota {
    used: Arc<AtomicU64>,
}

/// What the shards of one node share.
#[derive(Clone, Debug, Default)]
pub struct NodeQuotas {
    /// Rooms.
    pub rooms: Quota,
    /// Channels.
    pub channels: Quota,
    /// Memberships of clients in channels; a join of `*` is one.
    pub memberships: Quota,
    /// Loans of history, each of [`HISTORY_LOAN_BYTES`](crate::base::limits::HISTORY_LOAN_BYTES).
    pub history_loans: Quota,
}

impl Quota {
    /// Takes one more if there are fewer than `max`.
    pub fn take(&self, max: u64) -> bool {
        let more = |used| (used < max).then_some(used + 1);
        self.used.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    /// Whether there is place for so many more.
    pub fn has_room_for(&self, more: u64, max: u64) -> bool {
        self.used.load(Relaxed).saturating_add(more) <= max
    }

    /// Whether there would be place for one more if one were given back.
    pub fn is_just_full(&self, max: u64) -> bool {
        self.used.load(Relaxed) == max
    }

    /// Takes one more, whatever the limit: for what the server itself needs.
    pub fn take_anyway(&self) {
        self.used.fetch_add(1, Relaxed);
    }

    /// Gives one back.
    pub fn give_back(&self) {
        let before = self.used.fetch_sub(1, Relaxed);
        assert!(before > 0, "a quota was given back more often than taken");
    }
}

#[cfg(test)]
mod tests {
    use super::Quota;

    #[test]
    fn no_more_than_the_limit_is_taken() {
        let quota = Quota::default();
        assert!(quota.take(2) && quota.clone().take(2) && !quota.take(2));
        quota.give_back();
        assert!(quota.take(2));
    }
}
