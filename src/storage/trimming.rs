//! What Redis holds of each channel, and when the next of it is too old: so that what is kept is bounded
//! by time and by bytes, also in channels in which nothing is said any more.
//!
//! A stream is cut by the script that appends to it. What that can't do is done here: a channel has a
//! time at which its oldest event will be too old, and is cut then; and where all channels together
//! hold too much, those that hold the most give up their oldest events, as in the memory of a node.
//!
//! *Invariants*: a channel whose events grow too old stands here with a time that is not later than
//! when the oldest of them does; the sum is that of all channels; a channel that is under way is not
//! given twice.
//!
//! *Panics*: a channel is stored right before it is indexed.
//!
//! *Not here*: Redis, clocks.

use crate::base::hash::{Map, seeded};
use crate::broker::record::Keep;
use crate::protocol::command::Address;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The channels that are cut in one round.
const ROUND_MAX: usize = 64;
/// How long after a failure a channel is tried again.
const RETRY_MS: u64 = 2_000;
/// Times are rounded up to this, so that a channel with many events is not cut for each of them.
const GRAIN_MS: u64 = 500;

/// What a script has cut from a stream (`scripts/stream.lua`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) by_count: u64,
    pub(super) by_age: u64,
    pub(super) by_bytes: u64,
    /// The bytes that are left, at most.
    pub(super) bytes: u64,
    /// Whether more is to be cut.
    pub(super) is_more: bool,
}

impl Cut {
    /// What a script answered; nothing if it has cut nothing and looked at nothing.
    pub(super) fn of(numbers: &[u64]) -> Option<Cut> {
        let &[by_count, by_age, by_bytes, bytes, is_more] = numbers else { return None };
        Some(Cut { by_count, by_age, by_bytes, bytes, is_more: is_more == 1 })
    }
}

/// A channel that is to be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) address: Arc<Address>,
    pub(super) keep: Keep,
    /// Whether it must give up more than its own bounds say, as all hold too much together.
    pub(super) is_squeezed: bool,
}

/// What Redis holds of one channel.
#[derive(Debug)]
struct Stored {
    keep: Keep,
    /// The bytes that it holds, at most.
    bytes: u64,
    /// When it is to be cut.
    due_ms: Option<u64>,
    /// The bytes that it may hold for now.
    squeeze: Option<u64>,
    /// Whether its bytes are to be told to other nodes.
    is_changed: bool,
}

#[derive(Debug)]
pub(super) struct Trimming {
    channels: Map<Arc<Address>, Stored>,
    due: BTreeSet<(u64, Arc<Address>)>,
    by_bytes: BTreeSet<(u64, Arc<Address>)>,
    total: u64,
    /// The channels whose bytes are to be told to other nodes, those that are gone among them.
    changed: Vec<Arc<Address>>,
}

impl Trimming {
    pub(super) fn new() -> Trimming {
        Trimming {
            channels: Map::with_hasher(seeded(fastrand::u64(..))),
            due: BTreeSet::new(),
            by_bytes: BTreeSet::new(),
            total: 0,
            changed: Vec::new(),
        }
    }

    /// When the first channel is to be cut, in milliseconds since 1970.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        self.due.first().map(|&(due_ms, _)| due_ms)
    }

    /// Whether a channel is known.
    pub(super) fn has(&self, address: &Arc<Address>) -> bool {
        self.channels.contains_key(address)
    }

    /// Whether there is something to tell to other nodes.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// The bytes of all channels together, at most.
    #[cfg(test)]
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Events were appended to a channel, the newest with this time.
    pub(super) fn on_append(
        &mut self,
        address: &Arc<Address>,
        (keep, newest_ms): (Keep, u64),
        cut: Option<Cut>,
    ) {
        self.store(address, keep);
        if let Some(cut) = cut {
            self.weigh(address, cut.bytes);
        }
        let is_aging = keep.age_ms > 0 && self.channels[address].due_ms.is_none();
        let by_age = is_aging.then(|| too_old_ms(newest_ms, keep.age_ms));
        let at_once = cut.is_some_and(|cut| cut.is_more).then_some(0);
        if let Some(due_ms) = at_once.or(by_age) {
            self.plan(address, due_ms);
        }
    }

    /// A channel is to be looked at: what is there of it is not known.
    pub(super) fn look_at(&mut self, address: &Arc<Address>, keep: Keep) {
        if !self.channels.contains_key(address) {
            self.store(address, keep);
        }
        self.plan(address, 0);
    }

    /// A channel is gone.
    pub(super) fn remove(&mut self, address: &Arc<Address>) {
        self.weigh(address, 0);
        if let Some(stored) = self.channels.remove(address)
            && let Some(due_ms) = stored.due_ms
        {
            self.due.remove(&(due_ms, Arc::clone(address)));
        }
    }

    /// The channels that are to be cut now; each is given once.
    pub(super) fn take_due(&mut self, now_ms: u64) -> Vec<Due> {
        let mut taken = Vec::new();
        while taken.len() < ROUND_MAX
            && let Some((due_ms, _)) = self.due.first()
            && *due_ms <= now_ms
            && let Some((_, address)) = self.due.pop_first()
        {
            let Some(stored) = self.channels.get_mut(&address) else { continue };
            stored.due_ms = None;
            let (mut keep, squeeze) = (stored.keep, stored.squeeze.take());
            if let Some(bytes) = squeeze {
                keep.bytes = if keep.bytes == 0 { bytes } else { keep.bytes.min(bytes) };
            }
            taken.push(Due { address, keep, is_squeezed: squeeze.is_some() });
        }
        taken
    }

    /// A channel was cut; its oldest event has this time, 0 if it has none.
    pub(super) fn on_trimmed(&mut self, address: &Arc<Address>, oldest_ms: u64, cut: Option<Cut>) {
        let Some(stored) = self.channels.get(address) else { return };
        let age_ms = stored.keep.age_ms;
        self.weigh(address, cut.map_or(0, |cut| cut.bytes));
        if cut.is_some_and(|cut| cut.is_more) {
            self.plan(address, 0);
        } else if oldest_ms > 0 && age_ms > 0 {
            self.plan(address, too_old_ms(oldest_ms, age_ms));
        }
    }

    /// A channel could not be cut, and is tried again.
    pub(super) fn on_failure(&mut self, address: &Arc<Address>, now_ms: u64) {
        self.plan(address, now_ms + RETRY_MS);
    }

    /// If all channels hold more than they may, has the one that holds the most give up what is too
    /// much, but not more than half of what it has: then others may hold more.
    pub(super) fn squeeze(&mut self, bytes_max: u64) {
        if bytes_max == 0 || self.total <= bytes_max {
            return;
        }
        let excess = self.total - bytes_max;
        let Some((bytes, address)) = self.by_bytes.last().cloned() else { return };
        self.squeeze_to(&address, (bytes / 2).max(bytes.saturating_sub(excess)));
    }

    /// Has a channel give up what is more than so many bytes.
    pub(super) fn squeeze_to(&mut self, address: &Arc<Address>, bytes: u64) {
        let Some(stored) = self.channels.get_mut(address) else { return };
        stored.squeeze = Some(bytes.max(1));
        self.plan(address, 0);
    }

    /// The channels whose bytes were not told to other nodes since they changed.
    pub(super) fn take_changed(&mut self) -> Vec<(Arc<Address>, u64)> {
        let changed = std::mem::take(&mut self.changed);
        let told = changed.into_iter().map(|address| {
            let bytes = self.channels.get_mut(&address).map_or(0, |stored| {
                stored.is_changed = false;
                stored.bytes
            });
            (address, bytes)
        });
        told.collect()
    }

    /// They were not told after all.
    pub(super) fn give_back(&mut self, changed: Vec<(Arc<Address>, u64)>) {
        for (address, _) in changed {
            self.note_changed(&address);
        }
    }

    fn note_changed(&mut self, address: &Arc<Address>) {
        let is_told = self
            .channels
            .get_mut(address)
            .is_some_and(|stored| std::mem::replace(&mut stored.is_changed, true));
        if !is_told {
            self.changed.push(Arc::clone(address));
        }
    }

    fn store(&mut self, address: &Arc<Address>, keep: Keep) {
        let new = || Stored { keep, bytes: 0, due_ms: None, squeeze: None, is_changed: false };
        match self.channels.get_mut(address) {
            Some(stored) => stored.keep = keep,
            None => _ = self.channels.insert(Arc::clone(address), new()),
        }
    }

    fn weigh(&mut self, address: &Arc<Address>, bytes: u64) {
        let Some(stored) = self.channels.get_mut(address) else { return };
        let before = std::mem::replace(&mut stored.bytes, bytes);
        if before == bytes {
            return;
        }
        self.total = self.total - before + bytes;
        if before > 0 {
            self.by_bytes.remove(&(before, Arc::clone(address)));
        }
        if bytes > 0 {
            self.by_bytes.insert((bytes, Arc::clone(address)));
        }
        self.note_changed(address);
    }

    /// Cuts a channel then, unless it is cut before.
    fn plan(&mut self, address: &Arc<Address>, due_ms: u64) {
        let Some(stored) = self.channels.get_mut(address) else { return };
        if stored.due_ms.is_some_and(|planned_ms| planned_ms <= due_ms) {
            return;
        }
        if let Some(planned_ms) = stored.due_ms.replace(due_ms) {
            self.due.remove(&(planned_ms, Arc::clone(address)));
        }
        self.due.insert((due_ms, Arc::clone(address)));
    }
}

/// When an event of this time is too old, and so are those that came soon after it.
fn too_old_ms(at_ms: u64, age_ms: u64) -> u64 {
    at_ms.saturating_add(age_ms).saturating_add(1).next_multiple_of(GRAIN_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::codec::read_address;

    fn address(name: &str) -> Arc<Address> {
        Arc::new(read_address(&format!("r:{name}")).unwrap())
    }

    fn keep(age_ms: u64) -> Keep {
        Keep { messages: 9, age_ms, bytes: 0 }
    }

    fn cut(bytes: u64) -> Option<Cut> {
        Some(Cut { bytes, ..Cut::default() })
    }

    #[test]
    fn a_channel_is_cut_when_its_oldest_event_is_too_old_and_once_for_many() {
        let (mut trimming, a) = (Trimming::new(), address("a"));
        for newest_ms in [10_000, 10_100, 11_000] {
            trimming.on_append(&a, (keep(2_000), newest_ms), cut(5));
        }
        let due_ms = trimming.next_due_ms().unwrap();
        assert!((12_001..=12_001 + GRAIN_MS).contains(&due_ms), "{due_ms}");
        assert_eq!(trimming.take_due(due_ms - 1), []);
        let due = trimming.take_due(due_ms);
        assert_eq!(due, [Due { address: a.clone(), keep: keep(2_000), is_squeezed: false }]);
        // What is left says when it is looked at next; an empty one not at all.
        trimming.on_trimmed(&a, 11_000, cut(2));
        assert!(trimming.next_due_ms().unwrap() > 13_000);
        trimming.take_due(u64::MAX);
        trimming.on_trimmed(&a, 0, None);
        assert_eq!((trimming.next_due_ms(), trimming.total()), (None, 0));
        trimming.on_append(&a, (keep(0), 1), cut(1));
        assert_eq!(trimming.next_due_ms(), None, "without an age nothing grows too old");
        trimming.on_append(&a, (keep(0), 1), Some(Cut { is_more: true, ..Cut::default() }));
        assert_eq!(trimming.next_due_ms(), Some(0), "what was not looked through is cut at once");
        trimming.take_due(0);
        trimming.on_failure(&a, 7);
        assert_eq!(trimming.next_due_ms(), Some(7 + RETRY_MS));
        trimming.remove(&a);
        assert_eq!(trimming.next_due_ms(), None);
    }

    #[test]
    fn who_holds_the_most_gives_up_first_and_the_sum_is_right() {
        let mut trimming = Trimming::new();
        let names = ["a", "b", "c"].map(address);
        for (name, bytes) in names.iter().zip([100, 700, 200]) {
            trimming.on_append(name, (keep(0), 1), cut(bytes));
        }
        assert_eq!(trimming.total(), 1_000);
        trimming.squeeze(1_000);
        trimming.squeeze(0);
        assert_eq!(trimming.take_due(u64::MAX), [], "it is no more than it may be");
        for (bytes_max, expected) in [(900, 600), (100, 300)] {
            trimming.squeeze(bytes_max);
            let due = trimming.take_due(0);
            assert_eq!((&due[0].address, due[0].keep.bytes, due.len()), (&names[1], expected, 1));
            assert!(due[0].is_squeezed);
            trimming.on_trimmed(&names[1], 0, cut(expected));
        }
        assert_eq!(trimming.total(), 600);
        let mut told = trimming.take_changed();
        told.sort();
        let bytes: Vec<u64> = told.iter().map(|(_, bytes)| *bytes).collect();
        assert_eq!((bytes, trimming.take_changed().len()), (vec![100, 300, 200], 0));
        trimming.give_back(told);
        trimming.remove(&names[0]);
        let told = trimming.take_changed();
        assert_eq!(told.iter().find(|it| it.0 == names[0]), Some(&(names[0].clone(), 0)));
        assert_eq!((trimming.total(), told.len()), (500, 3));
    }
}
