//! What the main thread asks of every shard: to drain, to take other limits, to let others in.
//!
//! *Invariants*: nothing here waits for a shard; each shard gets all kinds of asks in the order in which
//! they were last made, and of one kind only the newest that its lane had no room for before.

use crate::base::hash::Placement;
use crate::broker::lane::Ask;
use crate::shard::lanes::Lanes;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::Duration;

/// How long to wait where nothing is to be offered to a shard.
const IDLE: Duration = Duration::from_secs(3_600);
/// How long to wait before a shard is offered again what its lane did not take.
const RETRY: Duration = Duration::from_millis(1);

/// The way to all shards.
pub(super) struct Broadcast {
    lanes: Lanes,
    placement: Placement,
    /// What the lane of each shard has not taken: one of a kind at most.
    unasked: Vec<VecDeque<Ask>>,
}

impl Broadcast {
    /// The way to those shards.
    pub(super) fn new(lanes: Lanes, placement: Placement) -> Broadcast {
        let unasked = placement.all().map(|_| VecDeque::new()).collect();
        Broadcast { lanes, placement, unasked }
    }

    /// Asks something of every shard.
    pub(super) fn ask(&mut self, ask: impl Fn() -> Ask) {
        for unasked in &mut self.unasked {
            let ask = ask();
            unasked.retain(|other| discriminant(other) != discriminant(&ask));
            unasked.push_back(ask);
        }
        self.offer();
    }

    /// Offers the shards again what their lanes did not take; gives how long to wait before the next
    /// time. A full lane empties in a moment, but for a shard that is stuck nobody waits.
    pub(super) fn offer(&mut self) -> Duration {
        for (shard, unasked) in self.placement.all().zip(&mut self.unasked) {
            while let Some(ask) = unasked.pop_front() {
                if let Err(unsent) = self.lanes.ask(shard, ask) {
                    unasked.push_front(unsent);
                    break;
                }
            }
        }
        if self.unasked.iter().all(VecDeque::is_empty) { IDLE } else { RETRY }
    }

    /// Wakes every shard.
    pub(super) fn ring(&self) {
        for shard in self.placement.all() {
            self.lanes.ring(shard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::ShardId;
    use crate::base::limits::Limits;
    use crate::shard::driver::poll_with_bell;
    use std::sync::Arc;

    #[test]
    fn a_full_lane_keeps_nobody_and_gets_the_newest_of_each_kind() {
        let bells = (0..2).map(|_| poll_with_bell().unwrap().1).collect();
        let (lanes, inboxes) = Lanes::new(bells);
        let mut filled = 0;
        while lanes.ask(ShardId(0), Ask::Drain { window_ms: 0 }).is_ok() {
            filled += 1;
        }
        let mut broadcast = Broadcast::new(lanes, Placement::new(2, 1));
        let limits = |max_rooms| Arc::new(Limits { max_rooms, ..Limits::default() });
        // This returns, though shard 0 takes nothing.
        broadcast.ask(|| Ask::Reconfigure(limits(1)));
        broadcast.ask(|| Ask::Drain { window_ms: 7 });
        broadcast.ask(|| Ask::Reconfigure(limits(2)));
        assert_eq!(broadcast.offer(), RETRY);
        assert_eq!(inboxes[1].asks.len(), 3, "the other shard has all of them");
        for _ in 0..filled {
            inboxes[0].asks.take();
        }
        assert_eq!(broadcast.offer(), IDLE);
        assert!(matches!(inboxes[0].asks.take(), Some(Ask::Drain { window_ms: 7 })));
        let Some(Ask::Reconfigure(newest)) = inboxes[0].asks.take() else { panic!("no limits") };
        assert_eq!(newest.max_rooms, 2);
        assert!(inboxes[0].asks.take().is_none());
    }
}
