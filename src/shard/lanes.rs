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
//!   the second try, or who empties the lane finds the word. A sleeper that waits looks, after it has said
//!   that it sleeps, whether its word is still there and something in the lane that will be taken.
//!
//! *Panics*: a shard id here is one of this node, from the placement or a `ConnId`; the storage's
//! news for a shard that a peer made up is dropped before it comes here.

use crate::base::ids::ShardId;
use crate::base::limits::{LANE_BYTES_MAX, LANE_SLOTS};
use crate::broker::lane::{Ask, Tell};
use crate::broker::staged::{Staged, Weigh};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;
use std::cell::Cell;
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
    /// Whether something was taken since it was last looked for word.
    has_taken: Cell<bool>,
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

    /// Moves asks into a shard's lane as far as it takes them; whether it took any.
    pub fn send_asks(&self, to: ShardId, staged: &mut Staged<Ask>) -> bool {
        self.ports[to.index()].asks.send_all(staged)
    }

    /// Moves tells into a shard's lane as far as it takes them; whether it took any.
    pub fn send_tells(&self, to: ShardId, staged: &mut Staged<Tell>) -> bool {
        self.ports[to.index()].tells.send_all(staged)
    }

    /// Whether a shard for which this is staged, because its lanes were full, will ring when they are not.
    pub fn are_awaited(&self, to: ShardId, asks: &Staged<Ask>, tells: &Staged<Tell>) -> bool {
        let port = &self.ports[to.index()];
        (asks.is_empty() || port.asks.is_awaited()) && (tells.is_empty() || port.tells.is_awaited())
    }

    /// Wakes every shard but this one, if it sleeps; how many did.
    pub fn ring_others(&self, own: ShardId) -> u64 {
        let others = self.ports.iter().enumerate().filter(|(place, _)| *place != own.index());
        others.map(|(_, port)| u64::from(port.bell.ring())).sum()
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
            // However large one is, it fits beside less than that: a lane can't refuse it for ever.
            let beside = |bytes| (bytes < LANE_BYTES_MAX).then_some(bytes + counted);
            if self.load.bytes.fetch_update(Relaxed, Relaxed, beside).is_err() {
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

    /// Sends all, as far as there is room; for the rest it leaves word that it waits. Whether any went.
    fn send_all(&self, staged: &mut Staged<T>) -> bool {
        let before = staged.len();
        if !self.send_some(staged) {
            self.load.is_awaited.store(true, SeqCst);
            fence(SeqCst);
            self.send_some(staged);
        }
        staged.len() < before
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

    /// Whether word was left that will be found. In an empty lane it would not be; who still finds no
    /// room there has met bytes that are just being given back: of a message that a full lane refused, or
    /// of the last one that was taken.
    fn is_awaited(&self) -> bool {
        self.load.is_awaited.load(SeqCst) && !self.sender.is_empty()
    }
}

impl Inbox {
    /// Whether somebody who waits for room in these lanes is to be rung for: something was taken since
    /// this was last asked.
    pub fn has_made_room(&self) -> bool {
        let (asks, tells) = (self.asks.take_word(), self.tells.take_word());
        asks || tells
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
        self.has_taken.set(true);
        Some(item)
    }

    /// Takes the word away that somebody waits, if there is room now that was not there before.
    fn take_word(&self) -> bool {
        if !self.has_taken.replace(false) {
            return false;
        }
        fence(SeqCst);
        self.load.is_awaited.load(Relaxed) && self.load.is_awaited.swap(false, SeqCst)
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
    let exit = Exit { receiver, load: load.clone(), has_taken: Cell::new(false) };
    (Entrance { sender, load }, exit)
}

/// The bytes of a large one; 0 for what its slot's share of the lane's bytes covers.
fn counted(item: &impl Weigh) -> u64 {
    let weight = item.weight() as u64;
    if weight > SLOT_BYTES { weight } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::Frame;

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
        // One alone finds out that a word was lost; with several it is taken for another's.
        for senders in [1, 3] {
            flood(senders);
        }
    }

    /// Shards send far more than their lanes hold to one that sleeps whenever it hears nothing. Nobody has
    /// a time to wake up at: a bell that does not ring is a sleep of a minute, and fails.
    fn flood(senders: u16) {
        let poll = || {
            let poll = mio::Poll::new().unwrap();
            let bell = Bell::new(Waker::new(poll.registry(), mio::Token(0)).unwrap());
            (poll, Arc::new(bell))
        };
        let (mut polls, bells): (Vec<_>, Vec<_>) = (0..=senders).map(|_| poll()).unzip();
        let (lanes, mut inboxes) = Lanes::new(bells.clone());
        let (to, inbox, poll) = (ShardId(senders), inboxes.pop().unwrap(), polls.pop().unwrap());
        let bell = bells[to.index()].clone();
        std::thread::scope(|scope| {
            let sends = |(poll, bell)| {
                let lanes = &lanes;
                scope.spawn(move || send_much(lanes, to, poll, bell))
            };
            let sending: Vec<_> = polls.into_iter().zip(bells).map(sends).collect();
            let turns = hear_all(&lanes, &inbox, u64::from(senders) * EACH, poll, &bell);
            for thread in sending {
                let idle = thread.join().unwrap();
                // A turn may take word from each lane, and ring for what another sender said.
                assert!(idle <= 3 * turns + 10, "{idle} turns for nothing beside {turns}");
            }
        });
    }

    /// How many asks each sender has, and how many tells.
    const EACH: u64 = 30_000;

    /// Sends asks and tells, and sleeps while the lanes are full; how many turns came to nothing.
    fn send_much(lanes: &Lanes, to: ShardId, mut poll: mio::Poll, bell: Arc<Bell>) -> u64 {
        let (mut asks, mut tells) = (Staged::default(), Staged::default());
        let (mut left, mut idle) = (EACH, 0);
        let conn = crate::base::ids::ConnId { slot: 0, generation: 0 };
        while left > 0 || !asks.is_empty() || !tells.is_empty() {
            let more = left.min(1_000_u64.saturating_sub(asks.len().max(tells.len()) as u64));
            for number in 0..more {
                // Some are large, so that the bytes of the lane are full, too.
                let frame = Frame::of_wire(vec![0; if number % 100 == 9 { 1 << 20 } else { 0 }], 0);
                tells.push_back(Tell::Deliver(conn, frame));
                asks.push_back(Ask::Drain { window_ms: 0 });
            }
            left -= more;
            let is_sent = lanes.send_asks(to, &mut asks) | lanes.send_tells(to, &mut tells);
            idle += u64::from(!is_sent);
            if is_sent {
                lanes.ring(to);
            }
            bell.lie_down();
            let has_more = left > 0 && asks.len().max(tells.len()) < 1_000;
            if !has_more
                && lanes.are_awaited(to, &asks, &tells)
                && !(asks.is_empty() && tells.is_empty())
            {
                sleep(&mut poll);
            }
            bell.get_up();
        }
        idle
    }

    /// Takes everything, little at a time or all that is there, and now and then no asks; how many turns
    /// it took.
    fn hear_all(lanes: &Lanes, inbox: &Inbox, each: u64, mut poll: mio::Poll, bell: &Bell) -> u64 {
        let (mut asks, mut tells, mut turns) = (0, 0, 0_u64);
        while asks < each || tells < each {
            turns += 1;
            let most = if turns.is_multiple_of(9) { LANE_SLOTS } else { 50 };
            let may_ask = !(turns / 64).is_multiple_of(3) || tells == each;
            tells += std::iter::from_fn(|| inbox.tells.take()).take(most).count() as u64;
            if may_ask {
                asks += std::iter::from_fn(|| inbox.asks.take()).take(most).count() as u64;
            }
            if inbox.has_made_room() {
                lanes.ring_others(ShardId(lanes.ports.len() as u16 - 1));
            }
            bell.lie_down();
            let is_over = asks == each && tells == each;
            if inbox.tells.is_empty() && inbox.asks.is_empty() && !is_over {
                sleep(&mut poll);
            }
            bell.get_up();
        }
        turns
    }

    fn sleep(poll: &mut mio::Poll) {
        let (started, mut events) = (std::time::Instant::now(), mio::Events::with_capacity(1));
        poll.poll(&mut events, Some(std::time::Duration::from_secs(60))).unwrap();
        assert!(started.elapsed().as_secs() < 59, "nobody rang");
    }
}
