//! Whether anything can be stored, and if not since when, why, and when it is tried again.
//!
//! A connection that is lost may be there again at once, as when Redis is restarted or a proxy drops
//! its idle connections. So for a moment nobody is told: what is to be stored waits, and acks with it.
//! When that moment is over, and at once for any other reason, the storage is degraded.
//!
//! *Invariants*: `Degraded` is told once, and `Restored` once after it; in between each other cause is
//! told, and the meters hold the latest, with the time at which it was last seen.
//!
//! *Not here*: connections.

use crate::broker::record::StorageNews;
use crate::storage::meters::{Degraded, Meters, add};
use crate::storage::trouble::Trouble;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long is waited before a new try while nobody has been told.
const DOUBT_PAUSE: Duration = Duration::from_millis(50);
/// How long is waited before the first new try, and the longest wait.
const RETRY_MS_MIN: u64 = 50;
const RETRY_MS_MAX: u64 = 2_000;
/// How often the same cause is told again, as it is still seen.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// How the storage does.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// How many tries have failed since the last that did not.
    pub(super) tries: u32,
    /// When to try again.
    pub(super) retry_at: Option<Instant>,
    /// Since when the connection is lost, while nobody was told.
    doubt_since: Option<Instant>,
    is_degraded: bool,
    /// When a cause was last told.
    told_at: Option<Instant>,
}

impl Health {
    /// Whether it was told that nothing can be stored.
    pub(super) fn is_degraded(&self) -> bool {
        self.is_degraded
    }

    /// Something failed, and is tried again; what is to be told of it. A lost connection has `grace` to
    /// come back.
    pub(super) fn fail(
        &mut self,
        trouble: &Trouble,
        grace: Duration,
        meters: &Meters,
    ) -> Option<StorageNews> {
        let now = Instant::now();
        add(&meters.failures, 1);
        if !self.is_degraded && trouble.may_pass_at_once() {
            let since = *self.doubt_since.get_or_insert(now);
            if now - since < grace {
                tracing::debug!(reason = %trouble, "the connection to Redis is lost; trying again");
                self.retry_at = Some(now + DOUBT_PAUSE.min(grace));
                return None;
            }
        }
        self.retry_at = Some(now + retry_after(self.tries));
        self.tries += 1;
        let reason: Arc<str> = trouble.to_string().into();
        let before = meters.degraded();
        let is_other = before.as_ref().is_none_or(|before| before.reason != reason);
        let since = before.map(|before| before.since).or(self.doubt_since).unwrap_or(now);
        let degraded = Degraded { since, reason: Arc::clone(&reason), reason_at: now };
        meters.set_degraded(Some(degraded));
        self.doubt_since = None;
        if !std::mem::replace(&mut self.is_degraded, true) {
            self.told_at = Some(now);
            return Some(StorageNews::Degraded(reason));
        }
        if is_other {
            tracing::warn!(state = "degraded", %reason, "still nothing can be stored");
        }
        let is_due = self.told_at.is_none_or(|at| now - at >= TELL_AGAIN);
        (is_other || is_due).then(|| {
            self.told_at = Some(now);
            StorageNews::Cause(reason)
        })
    }

    /// All that had waited is done; what is to be told of it.
    pub(super) fn recover(&mut self, meters: &Meters) -> Option<StorageNews> {
        (self.tries, self.retry_at, self.doubt_since) = (0, None, None);
        std::mem::take(&mut self.is_degraded).then(|| {
            meters.set_degraded(None);
            StorageNews::Restored
        })
    }
}

/// How long is waited after so many tries that failed.
fn retry_after(tries: u32) -> Duration {
    let wait_ms = (RETRY_MS_MIN << tries.min(10)).min(RETRY_MS_MAX);
    // Half of it is left to chance, so that nodes do not come back all at once.
    Duration::from_millis(wait_ms / 2 + fastrand::u64(..=wait_ms / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn reason(news: Option<StorageNews>) -> Option<(bool, String)> {
        match news? {
            StorageNews::Degraded(reason) => Some((true, reason.to_string())),
            StorageNews::Cause(reason) => Some((false, reason.to_string())),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_latest_cause_is_told_and_counted_by_its_time() {
        let (mut health, meters) = (Health::default(), Meters::default());
        let full = Trouble::Outage("OOM".into());
        let told = reason(health.fail(&full, GRACE, &meters));
        assert_eq!(told, Some((true, "OOM".into())));
        let first = meters.degraded().unwrap();
        assert!(health.fail(&full, GRACE, &meters).is_none(), "it is told already");
        let other = Trouble::Outage("NOAUTH".into());
        assert_eq!(reason(health.fail(&other, GRACE, &meters)), Some((false, "NOAUTH".into())));
        let later = meters.degraded().unwrap();
        assert_eq!((later.since, &*later.reason), (first.since, "NOAUTH"));
        assert!(later.reason_at > first.reason_at && health.retry_at.is_some());
        assert!(matches!(health.recover(&meters), Some(StorageNews::Restored)));
        assert!(meters.degraded().is_none() && health.recover(&meters).is_none());
    }

    #[test]
    fn a_lost_connection_has_a_moment_to_come_back_and_nothing_else_has() {
        let (mut health, meters) = (Health::default(), Meters::default());
        let lost = Trouble::Lost("broken pipe".into());
        assert!(health.fail(&lost, GRACE, &meters).is_none() && meters.degraded().is_none());
        assert!(health.recover(&meters).is_none(), "nobody was told");
        assert!(health.fail(&lost, GRACE, &meters).is_none());
        let since = health.doubt_since;
        let hangs = Trouble::Outage("no answer".into());
        assert!(health.fail(&hangs, GRACE, &meters).is_some());
        assert_eq!(meters.degraded().map(|degraded| degraded.since), since);
        assert!(health.fail(&lost, GRACE, &meters).is_some(), "another cause");
        health.recover(&meters);
        assert!(health.fail(&lost, Duration::ZERO, &meters).is_some(), "without a moment");
    }
}
