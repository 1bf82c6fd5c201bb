//! What other shards ask and tell, taken from the lanes some at a time so that it can be looked ahead to.
//!
//! *Invariant*: at most [`AHEAD`] of each kind are taken and not handled yet; they are first when any are
//! handled again.

use crate::base::time::Now;
use crate::base::work::Part;
use crate::broker::lane::{Ask, Tell};
use crate::shard::engine::Engine;
use crate::shard::engine::ahead::AHEAD;
use std::collections::VecDeque;
use std::iter;

/// What was taken from the lanes and is not handled yet.
#[derive(Debug, Default)]
pub(super) struct Heard {
    asks: VecDeque<Ask>,
    tells: VecDeque<Tell>,
}

impl Engine {
    /// Handles up to `budget` tells of a lane, as long as they may be handled. `next` takes one from it.
    pub fn take_tells(&mut self, now: Now, budget: usize, mut next: impl FnMut() -> Option<Tell>) {
        self.told.work.begin_part(Part::Tells);
        for _ in 0..budget {
            if !self.may_take_tells() {
                return;
            }
            if self.heard.tells.is_empty() {
                self.heard.tells.extend(iter::from_fn(&mut next).take(AHEAD));
                self.prefetch_tells(&self.heard.tells);
            }
            let Some(tell) = self.heard.tells.pop_front() else { return };
            self.on_tell(now, tell);
        }
    }

    /// Handles up to `budget` asks of a lane, as long as they may be handled. `next` takes one from it.
    pub fn take_asks(&mut self, now: Now, budget: usize, mut next: impl FnMut() -> Option<Ask>) {
        self.told.work.begin_part(Part::Asks);
        for _ in 0..budget {
            if !self.may_take_asks() {
                return self.note_stalled_asks();
            }
            if self.heard.asks.is_empty() {
                self.heard.asks.extend(iter::from_fn(&mut next).take(AHEAD));
                self.prefetch_drafts(&self.heard.asks);
                self.prefetch_asks(self.heard.asks.iter());
            }
            let Some(ask) = self.heard.asks.pop_front() else { return };
            self.on_ask(now, ask);
        }
    }

    /// Whether something was taken from a lane that may be handled now.
    pub(super) fn has_heard(&self) -> bool {
        let Heard { asks, tells } = &self.heard;
        !tells.is_empty() || (!asks.is_empty() && self.may_take_asks())
    }
}
