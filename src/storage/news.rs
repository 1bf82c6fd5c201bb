//! How much of what the storage says the homes have not taken yet: so a shard that stands still costs a
//! bounded memory, however much is said on the other nodes of the bus.
//!
//! *Invariant*: what is counted as waiting is what waits, in the queue of the storage or for a shard.
//!
//! *Not here*: what follows from it. What can be read again is not told to a shard that is full; if even the
//! rest is too much for one, the hub lets Redis go until that shard has taken it (`hub`).

use crate::base::ids::ShardId;
use crate::base::limits::{NEWS_BYTES_MAX, NEWS_COUNT_MAX};
use crate::broker::record::StorageNews;
use crate::broker::staged::Weigh;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// What waits.
#[derive(Debug, Default)]
pub struct NewsLoad {
    /// What the storage has said and nobody has looked at.
    queued: Waiting,
    /// What each shard has not taken.
    shards: Vec<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    count: AtomicU64,
    bytes: AtomicU64,
}

impl Waiting {
    fn add(&self, news: &StorageNews) {
        self.count.fetch_add(1, Relaxed);
        self.bytes.fetch_add(weight(news), Relaxed);
    }

    fn remove(&self, news: &StorageNews) {
        self.count.fetch_sub(1, Relaxed);
        self.bytes.fetch_sub(weight(news), Relaxed);
    }
}

fn weight(news: &StorageNews) -> u64 {
    (size_of::<StorageNews>() + news.weight()) as u64
}

impl NewsLoad {
    /// Nothing waits, for none of so many shards; with none nothing is ever full.
    pub fn new(shards: u16) -> NewsLoad {
        let shards = (0..shards).map(|_| Waiting::default()).collect();
        NewsLoad { queued: Waiting::default(), shards }
    }

    /// The storage has said something.
    pub fn queue(&self, news: &StorageNews) {
        self.queued.add(news);
    }

    /// It was looked at.
    pub fn unqueue(&self, news: &StorageNews) {
        self.queued.remove(news);
    }

    /// It waits for a shard.
    pub fn wait_for(&self, shard: usize, news: &StorageNews) {
        if let Some(waiting) = self.shards.get(shard) {
            waiting.add(news);
        }
    }

    /// The shard has taken it.
    pub fn taken_by(&self, shard: usize, news: &StorageNews) {
        if let Some(waiting) = self.shards.get(shard) {
            waiting.remove(news);
        }
    }

    /// How many wait, and their bytes.
    pub fn waiting(&self) -> (u64, u64) {
        let all = self.shards.iter().chain([&self.queued]);
        all.fold((0, 0), |(count, bytes), waiting| {
            (count + waiting.count.load(Relaxed), bytes + waiting.bytes.load(Relaxed))
        })
    }

    /// Whether a shard should be told no more of what can be read again.
    pub fn is_full(&self, shard: ShardId) -> bool {
        self.shards.get(shard.index()).is_some_and(|waiting| self.is_over(waiting, 1))
    }

    /// A shard that should be told nothing more at all, if there is one.
    pub fn flooded(&self) -> Option<ShardId> {
        let at = self.shards.iter().position(|waiting| self.is_over(waiting, 2))?;
        u16::try_from(at).ok().map(ShardId)
    }

    fn is_over(&self, waiting: &Waiting, times: u64) -> bool {
        let count = waiting.count.load(Relaxed) + self.queued.count.load(Relaxed);
        let bytes = waiting.bytes.load(Relaxed) + self.queued.bytes.load(Relaxed);
        count >= times * NEWS_COUNT_MAX || bytes >= times * NEWS_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ChannelId;

    #[test]
    fn a_shard_is_full_by_count_or_by_bytes_and_another_is_not() {
        let load = NewsLoad::new(2);
        let (full, other) = (ShardId(0), ShardId(1));
        let small = StorageNews::Restored;
        for _ in 0..NEWS_COUNT_MAX {
            assert!(!load.is_full(full));
            load.wait_for(0, &small);
        }
        assert!(load.is_full(full) && !load.is_full(other) && load.flooded().is_none());
        (0..NEWS_COUNT_MAX).for_each(|_| load.wait_for(0, &small));
        assert_eq!(load.flooded(), Some(full));
        (0..2 * NEWS_COUNT_MAX).for_each(|_| load.taken_by(0, &small));
        assert!(!load.is_full(full) && load.waiting() == (0, 0));
        let stored = (ChannelId::new(full, 1), 1);
        let large = StorageNews::Stored(vec![stored; 2 * 1024 * 1024]);
        load.queue(&large);
        assert!(load.is_full(full) && load.is_full(other), "it may be for either");
        load.unqueue(&large);
        assert!(!load.is_full(full) && load.waiting() == (0, 0));
        let unbounded = NewsLoad::new(0);
        unbounded.queue(&large);
        assert!(!unbounded.is_full(full) && unbounded.flooded().is_none());
    }
}
