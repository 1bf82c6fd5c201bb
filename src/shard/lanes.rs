//! The lanes between shards, and how a sleeping shard is woken.
//!
//! Each shard receives in one bounded lane of asks and one of tells, shared by all its senders;
//! what one sender sends arrives in the order in which it was sent. Nobody waits for a lane: what
//! does not fit stays with the sender, who then pauses whom it must. A lane is bounded by its slots
//! and, as far as large messages go, by bytes: only what is larger than its share of the lane's
//! bytes is counted, so a small message pays for no counter that threads share.
//!
//! *Invariants*
//! - Whoever puts something into a shard's lane looks afterwards whether the shard is asleep; whoever
//!   goes to sleep says so first and looks into its lanes afterwards. So either the sender sees a
//!   sleeper, or the sleeper sees what was sent.
//! - Whoever finds a lane full leaves word that it waits and tries once more; whoever has taken from a
//!   lane looks afterwards for that word, takes it away, and rings for all. So either there is room at
//!   the second try, or who empties the lane finds the word. A sleeper that waits looks whether its word
//!   is still there, after it has said that it sleeps.

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
    load: Arc<Load>,
}

/// The receiving end of a lane.
#[derive(Debug)]
pub struct Exit<T> {
    receiver: Receiver<T>,
    load: Arc<Load>,
}

/// What both ends of a lane know of it.
#[derive(Debug, Default)]
struct Load {
    /// The bytes of the large ones in the lane.
    bytes: AtomicU64,
    /// Whether somebody waits for room in it.
    is_awaited: AtomicBool,
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

    /// Whether a shard whose lanes are full will say when they are not: of what is staged for it nothing
    /// would fit by now, or it is about to ring.
    pub fn are_awaited(&self, to: ShardId, asks: &Staged<Ask>, tells: &Staged<Tell>) -> bool {
        let port = &self.ports[to.index()];
        (asks.is_empty() || port.asks.is_awaited()) && (tells.is_empty() || port.tells.is_awaited())
    }

    /// Wakes every shard but this one.
    pub fn ring_others(&self, own: ShardId) {
        let others = self.ports.iter().enumerate().filter(|(place, _)| *place != own.index());
        others.for_each(|(_, port)| _ = port.bell.ring());
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
            let waiting = self.load.bytes.fetch_add(counted, Relaxed);
            // However large one is, it fits beside less than that: a lane can't refuse it for ever.
            if waiting >= LANE_BYTES_MAX {
                self.load.bytes.fetch_sub(counted, Relaxed);
                return Err(item);
            }
        }
        self.sender.try_send(item).map_err(|error| {
            self.load.bytes.fetch_sub(counted, Relaxed);
            match error {
                TrySendError::Full(item) | TrySendError::Disconnected(item) => item,
            }
        })
    }

    /// Sends all, as far as there is room; for the rest it leaves word that it waits.
    fn send_all(&self, staged: &mut Staged<T>) {
        if !self.send_some(staged) {
            self.load.is_awaited.store(true, SeqCst);
            fence(SeqCst);
            self.send_some(staged);
        }
    }

    /// Sends until there is no room; true if that was all.
    fn send_some(&self, staged: &mut Staged<T>) -> bool {
        while let Some(item) = staged.pop_front() {
            if let Err(item) = self.send(item) {
                staged.push_front(item);
                return false;
            }
        }
        true
    }

    fn is_awaited(&self) -> bool {
        self.load.is_awaited.load(SeqCst)
    }
}

impl Inbox {
    /// Whether somebody waited for room in these lanes who is to be rung for now; asked after something
    /// was taken from them.
    pub fn has_made_room(&self) -> bool {
        fence(SeqCst);
        // Neither is left out because the other was so.
        self.asks.take_word() | self.tells.take_word()
    }
}

impl<T: Weigh> Exit<T> {
    /// Takes the next one, if there is one.
    pub fn take(&self) -> Option<T> {
        let item = self.receiver.try_recv().ok()?;
        let counted = counted(&item);
        if counted > 0 {
            self.load.bytes.fetch_sub(counted, Relaxed);
        }
        Some(item)
    }

    /// Takes the word away that somebody waits.
    fn take_word(&self) -> bool {
        let is_awaited = &self.load.is_awaited;
        is_awaited.load(Relaxed) && is_awaited.swap(false, SeqCst)
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
    let ((sender, receiver), load) = (bounded(LANE_SLOTS), Arc::<Load>::default());
    (Entrance { sender, load: load.clone() }, Exit { receiver, load })
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
        assert_eq!(entrance.load.bytes.load(Relaxed), 0);
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

    #[test]
    fn who_waits_for_room_is_rung_for() {
        // Three shards send far more than their lane holds to one that sleeps whenever it hears nothing.
        // Nobody has a time to wake up at: a bell that does not ring would be a sleep of ten seconds.
        const SENDERS: u16 = 3;
        const EACH: u64 = 60_000;
        let poll = || {
            let poll = mio::Poll::new().unwrap();
            let bell = Bell::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
            (poll, Arc::new(bell))
        };
        let (polls, bells): (Vec<_>, Vec<_>) = (0..=SENDERS).map(|_| poll()).unzip();
        let (lanes, mut inboxes) = Lanes::new(bells.clone());
        let (own, inbox) = (ShardId(SENDERS), inboxes.pop().unwrap());
        let slept = |poll: &mut mio::Poll| {
            let (started, mut events) = (std::time::Instant::now(), mio::Events::with_capacity(1));
            poll.poll(&mut events, Some(std::time::Duration::from_secs(10))).unwrap();
            assert!(started.elapsed().as_secs() < 9, "nobody rang");
        };
        let send = |place: usize, mut poll: mio::Poll| {
            let (mut asks, mut tells) = (Staged::default(), Staged::default());
            let mut left = EACH;
            while left > 0 || !asks.is_empty() {
                let more = left.min(1_000 - asks.len() as u64);
                (0..more).for_each(|_| asks.push_back(Ask::Drain { window_ms: place as u64 }));
                left -= more;
                lanes.send_asks(own, &mut asks);
                lanes.send_tells(own, &mut tells);
                lanes.ring(own);
                bells[place].lie_down();
                if !asks.is_empty() && lanes.are_awaited(own, &asks, &tells) {
                    slept(&mut poll);
                }
                bells[place].get_up();
            }
        };
        let mut polls = polls.into_iter().enumerate();
        std::thread::scope(|scope| {
            for (place, poll) in polls.by_ref().take(usize::from(SENDERS)) {
                let send = &send;
                scope.spawn(move || send(place, poll));
            }
            let (_, mut poll) = polls.next().unwrap();
            let mut came = 0;
            while came < EACH * u64::from(SENDERS) {
                // It takes little at a time, and then all, so that the lane is full and empty in turns.
                let most = if came % 7 == 0 { LANE_SLOTS } else { 5 };
                came += std::iter::from_fn(|| inbox.asks.take()).take(most).count() as u64;
                if inbox.has_made_room() {
                    lanes.ring_others(own);
                }
                bells[own.index()].lie_down();
                if inbox.asks.is_empty() && came < EACH * u64::from(SENDERS) {
                    slept(&mut poll);
                }
                bells[own.index()].get_up();
            }
        });
    }
}
