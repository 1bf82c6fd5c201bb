//! Where a node and its storage meet: records go one way, news the other, and neither waits.
//!
//! The storage runs in threads of its own. It is given the [`NewsPort`] when the node's lanes are
//! there, and speaks to the homes through it as the control plane does, by asks that never wait.
//!
//! *Invariants*: what a full lane did not take comes back and is offered again by the storage, so
//! nothing it says is lost; that the storage is degraded, or well again, is told once for the node.

use crate::base::hash::Placement;
use crate::base::ids::ChannelId;
use crate::broker::durable::Durability;
use crate::broker::lane::Ask;
use crate::broker::record::{Snapshot, StorageNews};
use crate::broker::telemetry::{Event, Telemetry};
use crate::daemon::control::{Facts, Outage, intake::Intake};
use crate::shard::driver::{Clock, RecordSink};
use crate::shard::lanes::Lanes;
use crate::shard::meters::{Counter, Meters};
use std::fmt;
use std::sync::Arc;

/// A storage, as a node is given it.
pub struct StorageSeam {
    /// What is to be kept.
    pub durability: Durability,
    /// What was kept.
    pub snapshot: Snapshot,
    /// Makes the sink of one shard.
    pub sink: Box<dyn FnMut() -> RecordSink>,
    /// Begins to store; the storage speaks through the port.
    pub begin: Box<dyn FnOnce(NewsPort)>,
    /// Stores what was taken, as far as that can be done in time, and ends. Called when no shard
    /// runs any more.
    pub end: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for StorageSeam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StorageSeam").field("durability", &self.durability).finish_non_exhaustive()
    }
}

/// The storage's way to the homes.
pub struct NewsPort {
    pub(super) lanes: Lanes,
    pub(super) placement: Placement,
    pub(super) facts: Arc<Facts>,
    pub(super) meters: Vec<Arc<Meters>>,
    /// Where telemetry goes, if it is on.
    pub(super) events: Option<Intake>,
    pub(super) clock: Clock,
    /// The events that were lost before the storage was degraded.
    pub(super) lost_before: u64,
}

impl NewsPort {
    /// Tells the homes; what some of them could not take comes back, to be offered again.
    ///
    /// # Errors
    /// What is left to be told, if a lane is full.
    pub fn tell(&mut self, news: StorageNews) -> Result<(), StorageNews> {
        match news {
            StorageNews::Stored(channels) => self.tell_stored(channels),
            StorageNews::Lost { channel, .. } => {
                let ask = Ask::Storage(Box::new(news.clone()));
                self.lanes.ask(channel.home(), ask).map_err(|_| news)
            }
            StorageNews::Degraded(_) | StorageNews::Restored => {
                self.note(&news);
                let mut is_told = true;
                for shard in self.placement.all() {
                    // Who has heard it already hears it again, which changes nothing.
                    is_told &= self.lanes.ask(shard, Ask::Storage(Box::new(news.clone()))).is_ok();
                }
                if is_told { Ok(()) } else { Err(news) }
            }
        }
    }

    fn tell_stored(&self, mut channels: Vec<(ChannelId, u64)>) -> Result<(), StorageNews> {
        channels.sort_unstable_by_key(|(channel, _)| channel.home());
        let mut left = Vec::new();
        for of_home in channels.chunk_by(|a, b| a.0.home() == b.0.home()) {
            let news = StorageNews::Stored(of_home.to_vec());
            if self.lanes.ask(of_home[0].0.home(), Ask::Storage(Box::new(news))).is_err() {
                left.extend_from_slice(of_home);
            }
        }
        if left.is_empty() { Ok(()) } else { Err(StorageNews::Stored(left)) }
    }

    /// Notes for the whole node how the storage does, and tells it if that is new.
    fn note(&mut self, news: &StorageNews) {
        let now = (self.clock)();
        let lost = self.meters.iter().map(|meters| meters.counter(Counter::EventsLost)).sum();
        let event = match (news, self.facts.outage()) {
            (StorageNews::Degraded(reason), None) => {
                self.lost_before = lost;
                let (since, reason) = (now, reason.clone());
                self.facts.set_outage(Some(Outage { since, reason: reason.clone() }));
                tracing::warn!(%reason, "nothing can be stored; the bus goes on from memory");
                Event::StorageDegraded { reason }
            }
            (StorageNews::Restored, Some(Outage { since, .. })) => {
                self.facts.set_outage(None);
                let lost = lost - self.lost_before;
                let outage_ms = now.mono_ns.saturating_sub(since.mono_ns) / 1_000_000;
                tracing::info!(outage_ms, lost, "what was kept back is stored");
                Event::StorageRestored { outage_ms, lost }
            }
            _ => return,
        };
        if let Some(events) = &self.events {
            // As with all telemetry: what finds no room is not told.
            let _ = events.offer(Telemetry { at_us: now.wall_us, event });
        }
    }
}

impl fmt::Debug for NewsPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewsPort").finish_non_exhaustive()
    }
}

/// A sink for a node without a storage, whose homes make no records.
pub fn no_sink() -> RecordSink {
    Box::new(|_| Ok(()))
}
