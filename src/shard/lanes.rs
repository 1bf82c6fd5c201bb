//! The lanes between shards, and how a sleeping shard is woken.
//!
//! Each shard receives in one bounded lane of asks and one of tells, shared by all its senders;
//! what one sender sends arrives in the order in which it was sent. Nobody waits for a lane: what
//! does not fit stays with the sender, who then pauses whom it must. A lane is bounded by its slots
//! and, as far as large messages go, by bytes: only what is larger than its share of the lane's
//! bytes is counted, so a small message pays for no counter that threads share.
//!
//! *Invariant*: whoever puts something into a shard's lane looks afterwards whether the shard is
//! asleep; whoever goes to sleep says so first and looks into its lanes afterwards. So either the
//! sender sees a sleeper, or the sleeper sees what was sent.

use crate::base::ids::ShardId;
use crate::base::limits::{LANE_BYTES_MAX, LANE_SLOTS};
use crate::broker::lane::{Ask, Tell};
use crate::broker::staged::{Staged, Weigh};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};

/// The bytes that every slot of a lane may hold uncounted.
const SLOT_BYTES: u64 = LANE_BYTES_MAX / LANE_SLOTS as u64;

/// The sending ends of every shard's lanes; each shard and the daemon hold one.
#[derive(Clone, Debug)]
pub struct Lanes {
    ports: Arc<Vec<Port>>,
}

#[derive(Debug)]
struct Port {
    asks: Entrance<Ask>,
    tells: Entrance<Tell>,
    bell: Arc<Bell>,
}

/// The receiving ends of one shard's lanes.
#[derive(Debug)]
pub struct Inbox {
    /// What edges ask.
    pub asks: Exit<Ask>,
    /// What homes tell.
    pub tells: Exit<Tell>,
}

/// The sending end of a lane.
#[derive(Debug)]
struct Entrance<T> {
    sender: Sender<T>,
    /// The bytes of the large ones in the lane.
    bytes: Arc<AtomicU64>,
}

/// The receiving end of a lane.
#[derive(Debug)]
pub struct Exit<T> {
    receiver: Receiver<T>,
    bytes: Arc<AtomicU64>,
}

/// Wakes one shard, if it sleeps.
#[derive(Debug)]
pub struct Bell {
    is_asleep: AtomicBool,
    waker: Waker,
}

impl Bell {
    /// A bell that wakes the poll of `waker`.
    pub fn new(waker: Waker) -> Bell {
        Bell { is_asleep: AtomicBool::new(false), waker }
    }

    /// Wakes the shard if it sleeps; true if it did. Called after something was put where the
    /// shard looks before it sleeps.
    pub fn ring(&self) -> bool {
        fence(SeqCst);
        if !self.is_asleep.load(SeqCst) || !self.is_asleep.swap(false, SeqCst) {
            return false;
        }
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "a sleeping shard could not be woken");
        }
        true
    }

    /// The shard is about to look into its lanes for the last time before it sleeps.
    pub fn lie_down(&self) {
        self.is_asleep.store(true, SeqCst);
        fence(SeqCst);
    }

    /// The shard is awake.
    pub fn get_up(&self) {
        self.is_asleep.store(false, SeqCst);
    }
}

impl Lanes {
    /// Lanes to as many shards as there are bells, and their receiving ends.
    pub fn new(bells: Vec<Arc<Bell>>) -> (Lanes, Vec<Inbox>) {
        let (mut ports, mut inboxes) = (Vec::new(), Vec::new());
        for bell in bells {
            let (asks, asks_in) = lane();
            let (tells, tells_in) = lane();
            ports.push(Port { asks, tells, bell });
            inboxes.push(Inbox { asks: asks_in, tells: tells_in });
        }
        (Lanes { ports: Arc::new(ports) }, inboxes)
    }

    /// Moves asks into a shard's lane as far as it takes them.
    pub fn send_asks(&self, to: ShardId, staged: &mut Staged<Ask>) {
        self.ports[to.index()].asks.send_all(staged);
    }

    /// Moves tells into a shard's lane as far as it takes them.
    pub fn send_tells(&self, to: ShardId, staged: &mut Staged<Tell>) {
        self.ports[to.index()].tells.send_all(staged);
    }

    /// Asks something of a shard from outside; the ask itself comes back if the lane is full.
    pub fn ask(&self, to: ShardId, ask: Ask) -> Result<(), Ask> {
        let port = &self.ports[to.index()];
        port.asks.send(ask)?;
        port.bell.ring();
        Ok(())
    }

    /// Wakes a shard if it sleeps; true if it did.
    pub fn ring(&self, shard: ShardId) -> bool {
        self.ports[shard.index()].bell.ring()
    }
}

impl<T: Weigh> Entrance<T> {
    /// Sends one; it comes back if the lane is full.
    fn send(&self, item: T) -> Result<(), T> {
        let counted = counted(&item);
        if counted > 0 {
            let waiting = self.bytes.fetch_add(counted, Relaxed);
            // However large one is, it fits beside less than that: a lane can't refuse it for ever.
            if waiting >= LANE_BYTES_MAX {
                self.bytes.fetch_sub(counted, Relaxed);
                return Err(item);
            }
        }
        self.sender.try_send(item).map_err(|error| {
            self.bytes.fetch_sub(counted, Relaxed);
            match error {
                TrySendError::Full(item) | TrySendError::Disconnected(item) => item,
            }
        })
    }

    fn send_all(&self, staged: &mut Staged<T>) {
        while let Some(item) = staged.pop_front() {
            if let Err(item) = self.send(item) {
                return staged.push_front(item);
            }
        }
    }
}

impl<T: Weigh> Exit<T> {
    /// Takes the next one, if there is one.
    pub fn take(&self) -> Option<T> {
        let item = self.receiver.try_recv().ok()?;
        let counted = counted(&item);
        if counted > 0 {
            self.bytes.fetch_sub(counted, Relaxed);
        }
        Some(item)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.receiver.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }
}

fn lane<T>() -> (Entrance<T>, Exit<T>) {
    let ((sender, receiver), bytes) = (bounded(LANE_SLOTS), Arc::new(AtomicU64::new(0)));
    (Entrance { sender, bytes: bytes.clone() }, Exit { receiver, bytes })
}

/// The bytes of a large one; 0 for what its slot's share of the lane's bytes covers.
fn counted(item: &impl Weigh) -> u64 {
    let weight = item.weight() as u64;
    if weight > SLOT_BYTES { weight } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Stone(u64);

    impl Weigh for Stone {
        fn weight(&self) -> usize {
            self.0 as usize
        }
    }

    #[test]
    fn a_lane_is_full_by_slots_or_by_the_bytes_of_the_large_ones() {
        let (entrance, exit) = lane();
        assert!(entrance.send(Stone(LANE_BYTES_MAX - 1)).is_ok());
        assert!(entrance.send(Stone(3 * LANE_BYTES_MAX)).is_ok(), "one fits, however large");
        assert!(entrance.send(Stone(SLOT_BYTES + 1)).is_err());
        assert!(entrance.send(Stone(SLOT_BYTES)).is_ok());
        assert_eq!((exit.take().map(|stone| stone.0), exit.len()), (Some(LANE_BYTES_MAX - 1), 2));
        assert_eq!(exit.take().map(|stone| stone.0), Some(3 * LANE_BYTES_MAX));
        let large = LANE_BYTES_MAX / 4;
        let sent = (0..9).filter(|_| entrance.send(Stone(large)).is_ok()).count();
        assert_eq!(sent, 4, "the last one filled it");
        while exit.take().is_some() {}
        assert!(exit.is_empty());
        assert_eq!(entrance.bytes.load(Relaxed), 0);
        let sent = (0..LANE_SLOTS + 9).filter(|_| entrance.send(Stone(1)).is_ok()).count();
        assert_eq!(sent, LANE_SLOTS);
    }

    #[test]
    fn what_does_not_fit_stays_staged_in_order() {
        let (entrance, exit) = lane();
        let mut staged = Staged::default();
        for weight in [1, LANE_BYTES_MAX, LANE_BYTES_MAX + 1, 2] {
            staged.push_back(Stone(weight));
        }
        entrance.send_all(&mut staged);
        assert_eq!(staged.len(), 2, "the lane is full, and order is kept behind what waits");
        let mut came = Vec::new();
        while let Some(stone) = exit.take() {
            came.push(stone.0);
            entrance.send_all(&mut staged);
        }
        assert_eq!(came, [1, LANE_BYTES_MAX, LANE_BYTES_MAX + 1, 2]);
        staged.check();
    }
}
