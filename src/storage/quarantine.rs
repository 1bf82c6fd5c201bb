//! The channels whose records in Redis can't be used: named, until they can be used again.
//!
//! A foreign key or a field that this bus did not write costs its channel and no other. The storage's
//! thread tries such a channel again once a second; whoever asks how the storage does is told of it.

use crate::protocol::command::Address;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often one channel is logged, though it may fail and recover more often.
const SAY_AGAIN: Duration = Duration::from_secs(60);

/// The channels in quarantine. Written by the storage's thread, read by any.
#[derive(Debug, Default)]
pub struct Quarantine {
    channels: RwLock<BTreeMap<Arc<Address>, Record>>,
}

#[derive(Debug)]
struct Record {
    entry: Option<Quarantined>,
    logged_at: Instant,
}

/// A channel whose record can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    /// Which.
    pub address: Arc<Address>,
    /// Since when, in microseconds since 1970.
    pub since_us: u64,
    /// What is wrong with it, in words for a person.
    pub reason: Arc<str>,
}

impl Quarantine {
    /// How many channels there are, and the first of them in the order of their names.
    pub fn list(&self, rows_max: usize) -> (usize, Vec<Quarantined>) {
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        let entries = || channels.values().filter_map(|record| record.entry.as_ref());
        (entries().count(), entries().take(rows_max).cloned().collect())
    }

    /// Puts a channel in. True if that is to be logged.
    pub(super) fn put(&self, address: &Arc<Address>, reason: &str) -> bool {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        channels.retain(|_, record| {
            record.entry.is_some() || now.duration_since(record.logged_at) < SAY_AGAIN
        });
        let before = channels.remove(address);
        let was_in = before.as_ref().and_then(|record| record.entry.as_ref());
        let is_said = match (&before, was_in) {
            (_, Some(entry)) => *entry.reason == *reason,
            (before, None) => before.is_some(),
        };
        let since_us = was_in.map_or_else(wall_us, |entry| entry.since_us);
        let logged_at = before.filter(|_| is_said).map_or(now, |record| record.logged_at);
        let (address, reason) = (Arc::clone(address), reason.into());
        let entry = Some(Quarantined { address: Arc::clone(&address), since_us, reason });
        channels.insert(address, Record { entry, logged_at });
        !is_said
    }

    /// Lets a channel out. True if it was in.
    pub(super) fn release(&self, address: &Address) -> bool {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        channels.get_mut(address).is_some_and(|record| record.entry.take().is_some())
    }
}

/// What the clock of this machine says, in microseconds since 1970.
pub(super) fn wall_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::codec::read_address;

    #[test]
    fn a_channel_is_named_until_it_is_released_and_logged_once() {
        let quarantine = Quarantine::default();
        let [a, b] = ["r:a", "r:b"].map(|name| Arc::new(read_address(name).unwrap()));
        assert!(quarantine.put(&b, "the field last") && quarantine.put(&a, "the field last"));
        assert!(!quarantine.put(&a, "the field last"), "it is known");
        assert!(quarantine.put(&a, "the field top"), "something else is wrong");
        let (count, rows) = quarantine.list(1);
        assert_eq!((count, rows.len(), &*rows[0].reason), (2, 1, "the field top"));
        assert!(quarantine.release(&a) && !quarantine.release(&a));
        assert!(!quarantine.put(&a, "the field top"), "it was said a moment ago");
        assert!(quarantine.release(&a));
        assert_eq!(quarantine.list(9).1[0].address, b);
    }
}
