//! The connection with the right to write: how it is made, kept, lost and made again.

use super::{Bond, Keeper, RENEW, no_answer};
use crate::broker::record::StorageNews;
use crate::storage::holder::Hold;
use crate::storage::link::Link;
use crate::storage::meters::add;
use crate::storage::trouble::Trouble;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

impl Keeper {
    /// Connects, and gets the right to write.
    pub(super) async fn bind(&mut self) -> Result<(), Trouble> {
        let (settings, keys) = (Arc::clone(&self.settings), Arc::clone(&self.keys));
        let holder = Arc::clone(&self.holder);
        let limit = self.commit_timeout();
        let link = self.attend(limit, Link::connect(&settings)).await;
        let link = link.unwrap_or_else(|| Err(no_answer(limit)))?;
        if self.meters.connections.load(Relaxed) == 0 {
            let tried = self.attend(4 * limit, link.probe(&settings, &keys)).await;
            tried.unwrap_or_else(|| Err(no_answer(limit)))?;
            self.attend(limit, link.warn_of_its_settings()).await;
        }
        add(&self.meters.connections, 1);
        let hold = self.attend(limit, holder.hold(&link, &keys, &settings)).await;
        match hold.unwrap_or_else(|| Err(no_answer(limit)))? {
            Hold::Held { generation, changes, is_forgotten } => {
                let server = self.attend(limit, link.server()).await.flatten();
                let is_other = match (&self.state.server, &server) {
                    (Some(before), Some(now)) => before != now,
                    _ => false,
                };
                // Of a cluster it is not known which of its servers was away, and what that one lacks;
                // nor is it known of a server that does not say which it is.
                let is_other = is_other || (server.is_none() && self.state.is_rebinding);
                if is_forgotten {
                    tracing::warn!(
                        "Redis has forgotten what was kept; rooms and channels are told again"
                    );
                    self.tell_all(&StorageNews::AllForgotten);
                }
                // A master in another's place, or one that has read its own files, may lack what was
                // told last. Of events that is seen by the next of their channel.
                if is_forgotten || is_other {
                    self.tell_again();
                    self.state.changes = changes;
                } else {
                    self.note_changes(changes, changes);
                }
                self.state.server = server.or(self.state.server.take());
                self.state.is_rebinding = true;
                self.look_at_clock(&link).await?;
                let renew_at = Instant::now() + RENEW;
                let since_us = self.now().wall_us;
                self.state.bond = Some(Bond { link, generation, renew_at, since_us });
                Ok(())
            }
            Hold::Other { wrong, left_ms } => {
                // A lease that is longer than it was is being renewed.
                self.state.other_lives = self.state.other_left_ms.is_some_and(|was| left_ms > was);
                self.state.other_left_ms = Some(left_ms);
                Err(Trouble::Wrong(wrong))
            }
            Hold::Overtaken(wrong) => {
                self.state.is_overtaken = true;
                Err(Trouble::Wrong(wrong))
            }
        }
    }

    /// Says to Redis that this node lives.
    pub(super) async fn renew(&mut self, bond: &Bond) {
        let (keys, holder) = (Arc::clone(&self.keys), Arc::clone(&self.holder));
        let limit = self.commit_timeout();
        let answer = self.attend(limit, holder.renew(&bond.link, &keys)).await;
        match answer.unwrap_or_else(|| Err(no_answer(limit))) {
            Ok(Some(changes)) => {
                self.note_changes(changes, changes);
                if let Err(trouble) = self.look_at_clock(&bond.link).await {
                    return self.fail(trouble);
                }
                if let Some(bond) = &mut self.state.bond {
                    bond.renew_at = Instant::now() + RENEW;
                }
            }
            // Whose it is now, the next connection will see.
            Ok(None) => self.state.bond = None,
            Err(trouble) => self.fail(trouble),
        }
    }

    /// Gives the connection up; says that nothing can be stored until another is there, if that may
    /// take a while.
    pub(super) fn fail(&mut self, trouble: Trouble) {
        self.fail_after(trouble, Duration::from_millis(self.settings.grace_ms));
    }

    /// The same, where a lost connection has had so long to come back.
    pub(super) fn fail_after(&mut self, trouble: Trouble, grace: Duration) {
        self.state.bond = None;
        if let Some(news) = self.health.fail(&trouble, grace, &self.meters) {
            self.tell_all(&news);
        }
        if self.health.is_degraded() {
            self.sessions.give_up(&self.tell);
        }
        if self.state.is_overtaken {
            self.tell_all(&StorageNews::Ended(trouble.to_string().into()));
            self.backlog.lose_everything();
            self.tell_losses();
        }
    }

    /// All that had waited is stored.
    pub(super) fn recover(&mut self) {
        if let Some(news) = self.health.recover(&self.meters) {
            self.tell_all(&news);
        }
    }

    /// Notes that rooms and channels were changed so often `before` the last of it happened, and so
    /// often `now`. If that is less than it was, a master that lacks some of it has taken another's
    /// place, as in a cluster happens behind one connection: then true, and all is told again.
    pub(super) fn note_changes(&mut self, before: u64, now: u64) -> bool {
        let is_forgotten = before < self.state.changes;
        if is_forgotten {
            tracing::warn!("Redis has forgotten changes of rooms and channels; all are told again");
            self.tell_again();
        }
        self.state.changes = now;
        is_forgotten
    }

    /// Redis may have forgotten something: rooms and channels come before all that waits.
    fn tell_again(&mut self) {
        self.sessions.write_again();
        for record in self.known.all() {
            self.backlog.push_first(record);
        }
    }
}
