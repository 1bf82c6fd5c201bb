//! The start, when it is read which rooms and channels there are, and the end.

use super::Hub;
use super::catalogue::Catalogue;
use crate::broker::record::Snapshot;
use crate::storage::keeper::{Load, PAUSE, Stop};
use crate::storage::settings::LEASE_MS;
use crate::storage::trouble::{Trouble, Wrong};
use crate::storage::{LoadError, Unsaved};
use std::time::{Duration, Instant};
use tokio::time::{sleep_until, timeout_at};

impl Hub {
    /// Says what there is. False if a person must do something first.
    pub(super) async fn obey(&mut self, Load { now, timeout, reply }: Load) -> bool {
        self.clock = (now, Instant::now());
        let answer = self.load(timeout).await;
        let may_go_on = !matches!(answer, Err(LoadError::Wrong(_)));
        // Whatever comes to be known from here on is news.
        self.state.is_loaded = may_go_on;
        if answer.is_err() {
            // So is what was seen of it, as it was not told.
            (self.catalogue, self.state.is_listed) = (Catalogue::default(), false);
        }
        // Nobody waits any more if the process gave up.
        let _ = reply.send(answer);
        may_go_on
    }

    async fn load(&mut self, timeout: Duration) -> Result<Snapshot, LoadError> {
        let started = Instant::now();
        // A node that died holds the right to write alone for a lease.
        let lease_over = started + timeout.max(Duration::from_millis(LEASE_MS + LEASE_MS / 5));
        loop {
            let trouble = match self.bind().await {
                Ok(()) => {
                    self.recover();
                    return Ok(self.snapshot());
                }
                Err(trouble) => trouble,
            };
            let until = match &trouble {
                Trouble::Wrong(Wrong::AnotherWriter { .. }) if !self.state.other_lives => {
                    lease_over
                }
                Trouble::Wrong(wrong) => return Err(LoadError::Wrong(wrong.clone())),
                loading if loading.is_loading() => Instant::now() + timeout,
                _ => started + timeout,
            };
            let pause = Instant::now() + PAUSE;
            if self.state.stopping.is_some() || pause >= until {
                self.fail_after(trouble.clone(), Duration::ZERO);
                return Err(match trouble {
                    Trouble::Wrong(wrong) => LoadError::Wrong(wrong),
                    other => LoadError::Unreachable(other.to_string()),
                });
            }
            self.attend(PAUSE, std::future::pending::<()>()).await;
        }
    }

    /// Does what waits until the deadline, and says that this node is gone.
    pub(super) async fn end(mut self) {
        let Some(Stop { deadline, .. }) = self.state.stopping else { return };
        self.take_in();
        let has_due = |hub: &Hub| hub.backlog.has_due() || hub.sessions.has_unwritten();
        while has_due(&self) && Instant::now() < deadline {
            match self.health.retry_at.filter(|&at| at > Instant::now()) {
                Some(at) => sleep_until(at.min(deadline).into()).await,
                None => self.work().await,
            }
            self.take_in();
        }
        if let Some(bond) = self.state.bond.clone() {
            let grace = deadline.max(Instant::now() + PAUSE);
            let _ = timeout_at(grace.into(), self.say_goodbye(&bond.link)).await;
            let _ = timeout_at(grace.into(), self.leave(&bond.link)).await;
        }
        if let Some(stop) = self.state.stopping {
            let unsaved = Unsaved { events: self.backlog.events() };
            // Nobody waits any more if the process gave up.
            let _ = stop.reply.send(unsaved);
        }
    }
}
