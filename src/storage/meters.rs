//! What the storage counts of itself, for whoever tells of it.
//!
//! *Panics*: a commit's class is found in `COMMIT_BOUNDS_MS`, and `commits` has one class more than
//! that has bounds.

use crate::storage::clock::ClockReading;
use crate::storage::news::NewsLoad;
use crate::storage::quarantine::Quarantine;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The upper bounds of the classes of how long a round took, in milliseconds; one more is above.
pub const COMMIT_BOUNDS_MS: [u64; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// What the storage counts. Read by any thread at any time.
#[derive(Debug, Default)]
pub struct Meters {
    /// Events stored.
    pub stored: AtomicU64,
    /// Steps carried out: the events of one channel in one round, or one other record.
    pub steps: AtomicU64,
    /// Rounds that ended well.
    pub rounds: AtomicU64,
    /// Rounds and connections that failed.
    pub failures: AtomicU64,
    /// Connections made.
    pub connections: AtomicU64,
    /// Events that will never be stored.
    pub lost: AtomicU64,
    /// Channels in whose place something foreign was found.
    pub spoilt: AtomicU64,
    /// Entries and records that could not be read back.
    pub unreadable: AtomicU64,
    /// The most bytes that all channels together may hold in Redis; 0 is no limit. An operator may change
    /// it while the storage runs.
    pub stored_bytes_max: AtomicU64,
    /// The channels whose records can't be used.
    pub quarantine: Quarantine,
    /// Channels of which a node had missed too much to follow them, and that began anew.
    pub far_behind: AtomicU64,
    /// Events that are not kept any more because there are more than so many of their channel.
    pub trimmed_by_count: AtomicU64,
    /// Because they are too old.
    pub trimmed_by_age: AtomicU64,
    /// Because their channel holds too many bytes.
    pub trimmed_by_bytes: AtomicU64,
    /// Because all channels together hold too many.
    pub trimmed_for_all: AtomicU64,
    /// The other nodes of the bus that live.
    pub peers: AtomicU64,
    /// Those that do not know yet of this node, which has just started.
    pub peers_awaited: AtomicU64,
    /// What they said that could not be read.
    pub garbled: AtomicU64,
    /// What nodes that died had left and was removed: client ids, names of channels.
    pub swept: AtomicU64,
    /// Ends of sessions that were not stored, as too many waited.
    pub lost_sessions: AtomicU64,
    /// What is told and not taken yet.
    pub news: Arc<NewsLoad>,
    /// How often a channel's events were not told because their shard was full, to be read again.
    pub news_behind: AtomicU64,
    /// What was for their clients and was not sent.
    pub lost_notes: AtomicU64,
    /// Events that wait or are under way.
    pub pending: AtomicU64,
    /// Their bytes.
    pub pending_bytes: AtomicU64,
    /// Rounds by how long they took, in the classes of [`COMMIT_BOUNDS_MS`].
    pub commits: [AtomicU64; COMMIT_BOUNDS_MS.len() + 1],
    /// How long they took together, in microseconds.
    pub commits_us: AtomicU64,
    /// How far this machine's clock is apart from that of Redis, as it was measured last.
    clock: RwLock<Option<ClockReading>>,
    is_degraded: AtomicBool,
    degraded: RwLock<Option<Degraded>>,
}

/// That nothing can be stored.
#[derive(Clone, Debug)]
pub struct Degraded {
    /// Since when.
    pub since: Instant,
    /// Why, in words for a person: the latest cause.
    pub reason: Arc<str>,
    /// When that was last seen.
    pub reason_at: Instant,
}

impl Meters {
    /// Nothing is counted yet; what is told and not taken yet is counted there.
    pub(super) fn for_news(news: Arc<NewsLoad>) -> Meters {
        Meters { news, ..Meters::default() }
    }

    /// Whether nothing can be stored now.
    pub fn is_degraded(&self) -> bool {
        self.is_degraded.load(Relaxed)
    }

    /// Since when, and why.
    pub fn degraded(&self) -> Option<Degraded> {
        self.degraded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_degraded(&self, degraded: Option<Degraded>) {
        self.is_degraded.store(degraded.is_some(), Relaxed);
        *self.degraded.write().unwrap_or_else(PoisonError::into_inner) = degraded;
    }

    /// How far this machine's clock is apart from that of Redis; `None` before that was measured.
    pub fn clock(&self) -> Option<ClockReading> {
        *self.clock.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far the clocks are apart, and says it when that is much, and when it is not any more.
    pub(super) fn note_clock(&self, reading: ClockReading) {
        let before = self.clock.write().unwrap_or_else(PoisonError::into_inner).replace(reading);
        let was_apart = before.is_some_and(ClockReading::is_apart);
        let ahead_ms = reading.ahead_us / 1_000;
        match (was_apart, reading.is_apart()) {
            (false, true) => tracing::warn!(
                ahead_ms,
                "the clock of this machine differs from the clock of Redis; synchronise both (NTP), \
                 or messages carry wrong times"
            ),
            (true, false) => {
                tracing::info!(ahead_ms, "the clocks of this machine and Redis agree again")
            }
            _ => {}
        }
    }

    pub(super) fn count_commit(&self, took: Duration) {
        let ms = took.as_millis() as u64;
        let class = COMMIT_BOUNDS_MS.partition_point(|&bound| bound <= ms);
        add(&self.commits[class], 1);
        add(&self.commits_us, took.as_micros() as u64);
        add(&self.rounds, 1);
    }
}

/// Counts; only the storage's thread does.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    counter.store(counter.load(Relaxed) + count, Relaxed);
}
