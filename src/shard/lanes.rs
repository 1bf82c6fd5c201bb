//! The lanes between shards, and how a sleeping shard is woken.
//!
//! Each shard receives in one bounded lane of asks and one of tells, shared by all its senders;
//! what one sender sends arrives in the order in which it was sent. Nobody waits for a lane: what
//! does not fit stays with the sender, who then pauses whom it must.
//!
//! *Invariant*: whoever puts something into a shard's lane looks afterwards whether the shard is
//! asleep; whoever goes to sleep says so first and looks into its lanes afterwards. So either the
//! sender sees a sleeper, or the sleeper sees what was sent.

use crate::base::ids::ShardId;
use crate::base::limits::LANE_SLOTS;
use crate::broker::lane::{Ask, Tell};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use mio::Waker;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst, fence};

/// The sending ends of every shard's lanes; each shard and the daemon hold one.
#[derive(Clone, Debug)]
pub struct Lanes {
    ports: Arc<Vec<Port>>,
}

#[derive(Debug)]
struct Port {
    asks: Sender<Ask>,
    tells: Sender<Tell>,
    bell: Arc<Bell>,
}

/// The receiving ends of one shard's lanes.
#[derive(Debug)]
pub struct Inbox {
    /// What edges ask.
    pub asks: Receiver<Ask>,
    /// What homes tell.
    pub tells: Receiver<Tell>,
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
            let (asks, asks_in) = bounded(LANE_SLOTS);
            let (tells, tells_in) = bounded(LANE_SLOTS);
            ports.push(Port { asks, tells, bell });
            inboxes.push(Inbox { asks: asks_in, tells: tells_in });
        }
        (Lanes { ports: Arc::new(ports) }, inboxes)
    }

    /// Moves asks into a shard's lane as far as it takes them.
    pub fn send_asks(&self, to: ShardId, staged: &mut VecDeque<Ask>) {
        send(&self.ports[to.index()].asks, staged);
    }

    /// Moves tells into a shard's lane as far as it takes them.
    pub fn send_tells(&self, to: ShardId, staged: &mut VecDeque<Tell>) {
        send(&self.ports[to.index()].tells, staged);
    }

    /// Asks something of a shard from outside; the ask itself comes back if the lane is full.
    pub fn ask(&self, to: ShardId, ask: Ask) -> Result<(), Ask> {
        let port = &self.ports[to.index()];
        match port.asks.try_send(ask) {
            Ok(()) => {
                port.bell.ring();
                Ok(())
            }
            Err(TrySendError::Full(ask) | TrySendError::Disconnected(ask)) => Err(ask),
        }
    }

    /// Wakes a shard if it sleeps; true if it did.
    pub fn ring(&self, shard: ShardId) -> bool {
        self.ports[shard.index()].bell.ring()
    }
}

fn send<T>(lane: &Sender<T>, staged: &mut VecDeque<T>) {
    while let Some(item) = staged.pop_front() {
        if let Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) =
            lane.try_send(item)
        {
            staged.push_front(item);
            return;
        }
    }
}
