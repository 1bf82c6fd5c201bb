//! What is done beside the order of channels: they are cut to what is kept of them, also those that
//! nobody follows.
//!
//! Every node cuts the channels that it knows of when their oldest events are too old; that another does
//! the same changes nothing. How many bytes they hold the nodes tell each other through Redis, and one of
//! them has the largest give up what is too much for all.

use super::Hub;
use super::bond::Bond;
use crate::protocol::command::Address;
use crate::storage::cut::{self, Cutter};
use crate::storage::keeper::no_answer;
use crate::storage::quarantine::wall_us;
use crate::storage::trouble::Trouble;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often nodes tell how many bytes channels hold.
const WEIGH: Duration = Duration::from_secs(1);

impl Hub {
    /// Looks at what is there of these channels, one after the other; also of those that are known if a
    /// node is gone, which may have cut them alone.
    pub(super) fn look_at_all(
        &mut self,
        channels: impl Iterator<Item = Arc<Address>>,
        is_again: bool,
    ) {
        let keep = self.settings.usual_keep();
        for address in channels {
            if is_again || !self.trimming.has(&address) {
                self.trimming.look_at(&address, keep);
            }
        }
    }

    /// When channels are to be cut next, or their bytes told.
    pub(super) fn next_cut(&self) -> Option<Instant> {
        let due = self.trimming.next_due_ms().map(|due_ms| {
            let wait_ms = due_ms.saturating_sub(self.now_ms());
            Instant::now() + Duration::from_millis(wait_ms)
        });
        let weigh_at = self.has_to_tell().then(|| self.state.weigh_at.unwrap_or_else(Instant::now));
        due.into_iter().chain(weigh_at).min()
    }

    /// Cuts the channels that are due, and tells how many bytes they hold.
    pub(super) async fn cut_round(&mut self, bond: &Bond) {
        let now_ms = self.now_ms();
        let dues = self.trimming.take_due(now_ms);
        let (keys, limit) = (Arc::clone(&self.keys), self.commit_timeout());
        let generation = bond.generation;
        let cutter = Cutter { link: &bond.link, keys: &keys, generation, now_ms };
        let answers = self.attend(limit, cutter.round(&dues)).await;
        let answers = answers.unwrap_or_else(|| vec![Err(no_answer(limit)); dues.len()]);
        let mut trouble = None;
        for (due, answer) in dues.iter().zip(answers) {
            match answer {
                Ok((oldest_ms, cut)) => {
                    cut::count(&self.meters, cut, due.is_squeezed);
                    self.trimming.on_trimmed(&due.address, oldest_ms, cut);
                }
                Err(other) => {
                    self.trimming.on_failure(&due.address, now_ms);
                    // What is wrong with one channel is seen when it is used.
                    if !matches!(other, Trouble::Broken(_) | Trouble::Foreign) {
                        trouble = Some(other);
                    }
                }
            }
        }
        let is_time = self.state.weigh_at.is_none_or(|at| Instant::now() >= at);
        if trouble.is_none() && is_time && self.has_to_tell() {
            trouble = self.weigh(&cutter).await;
        }
        match trouble {
            Some(Trouble::Fenced(generation)) => {
                self.state.floor = self.state.floor.max(generation);
                self.state.bond = None;
            }
            Some(trouble) => self.fail(trouble),
            None => {}
        }
    }

    /// The time in milliseconds since 1970, by the clock of Redis if this machine's is apart from it, as
    /// events are given it.
    fn now_ms(&self) -> u64 {
        let clock = self.meters.clock().filter(|reading| reading.is_apart());
        let ahead_us = clock.map_or(0, |reading| reading.ahead_us);
        wall_us().saturating_add_signed(-ahead_us) / 1_000
    }

    fn has_to_tell(&self) -> bool {
        self.meters.stored_bytes_max.load(Relaxed) > 0 && self.trimming.has_changed()
    }

    /// Tells how many bytes channels hold; gives what concerns more than that.
    async fn weigh(&mut self, cutter: &Cutter<'_>) -> Option<Trouble> {
        self.state.weigh_at = Some(Instant::now() + WEIGH);
        let (changed, token) = (self.trimming.take_changed(), Arc::clone(&self.token));
        let (limit, bytes_max) =
            (self.commit_timeout(), self.meters.stored_bytes_max.load(Relaxed));
        let answer = self.attend(limit, cutter.weigh(&token, bytes_max, &changed)).await;
        match answer.unwrap_or_else(|| Err(no_answer(limit))) {
            Ok((mut excess, largest)) => {
                let keep = self.settings.usual_keep();
                for (address, bytes) in largest {
                    let give_up = excess.min(bytes / 2);
                    if give_up > 0 {
                        self.trimming.look_at(&address, keep);
                        self.trimming.squeeze_to(&address, bytes - give_up);
                    }
                    excess -= give_up;
                }
                None
            }
            Err(trouble) => {
                self.trimming.give_back(changed);
                match trouble {
                    // What stands there is not a channel's: it is looked at again when it may be ours.
                    Trouble::Broken(_) | Trouble::Foreign => {
                        let key = &self.keys.bytes;
                        tracing::warn!(%key, %trouble, "the bytes of channels can't be added up");
                        None
                    }
                    trouble => Some(trouble),
                }
            }
        }
    }
}
