//! How much work one turn of a shard did, against what it took.

use crate::nodes::plan::Plan;
use crate::violation;
use crate::world::{Shard, World};
use arqonbus::shard::meters::Counter;

/// The tells that one ask makes at most on each shard, beside those of a page and of its members.
const PER_ASK: usize = 28;

/// How much a shard has done, and what waits for it or for others.
pub(super) struct Labour {
    asks: u64,
    tells: u64,
    letters: u64,
    /// The tells that wait in its lane.
    lane: u64,
    /// Those that it has made and nobody has taken.
    staged: u64,
    /// Those that went to other shards.
    sent: u64,
}

impl Labour {
    pub(super) fn of(world: &mut World, shard: usize) -> Labour {
        let sent = world.crossed.1;
        let shards = world.placement.all();
        let Shard { engine, tells, .. } = &mut world.shards[shard];
        Labour {
            asks: engine.tally().counter(Counter::Asks),
            tells: engine.tally().counter(Counter::Tells),
            letters: engine.tally().counter(Counter::MessagesSent),
            lane: tells.len() as u64,
            staged: shards.map(|other| engine.tells_for(other).len() as u64).sum(),
            sent,
        }
    }

    /// What one turn did is bounded by what it took: an ask makes no more tells than a page of news has
    /// events, or than a client has channels; a tell no more letters than there are clients.
    pub(super) fn check_after(&self, before: &Labour, plan: &Plan) {
        let asks = self.asks - before.asks;
        let handled = self.tells - before.tells;
        let ours = self.tells + self.staged + self.sent + self.lane;
        let made = ours.saturating_sub(before.tells + before.staged + before.sent + before.lane);
        let of_one = (plan.page + PER_ASK + plan.clients) as u64 * u64::from(plan.setup.shards);
        if made > (asks + 1) * of_one {
            violation!("bounded work", "{asks} asks made {made} tells, more than {of_one} each");
        }
        let letters = self.letters - before.letters;
        let inputs = (plan.setup.read_bytes / 64 + 1) * plan.clients;
        let most = (handled + 4) * 4 * plan.clients as u64 + inputs as u64;
        if letters > most + handled * u64::from(plan.setup.limits.history_size) {
            violation!("bounded work", "{handled} tells made {letters} letters, more than {most}");
        }
    }
}
