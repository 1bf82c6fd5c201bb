//! What several nodes share, played: one Redis, and of each node what its hub does with it. It speaks the
//! contract of `broker::peers` and `broker::record`, so no Redis is needed.
//!
//! | file | what it plays |
//! |---|---|
//! | `redis` | the truth, and what the scripts do with it |
//! | `hub` | a node's end: what waits to be written, the link, what homes are told |
//! | `order` | the channels that it follows |
//! | `catalogue` | the rooms and channels that there are, as it hears of them |
//! | `people` | who is where, as each node hears it, and whose a client id is |
//!
//! Nothing happens by itself: each [`Shared::step`] does one thing of one node, which a seed chooses
//! among all that it could do now. So what is written comes late and in another order, one answer of a
//! round is lost with the rest of it (what it did is done twice), pushes are lost with the link, and
//! one shard hears what another has not heard. What the real hub promises is kept: the records of a
//! channel are carried out in their order, and what a home is told of a channel is the next of it.
//!
//! *Not here*: shards, clients, time that passes.

mod catalogue;
mod hub;
mod order;
mod people;
mod redis;

pub use hub::Hub;
pub use redis::{Entry, Order, Redis};

use arqonbus::base::time::Now;
use arqonbus::broker::peers::{PeerId, PeerNews, To};
use arqonbus::broker::record::{Snapshot, StorageNews};
use fastrand::Rng;

/// How long a node is believed to live that says nothing.
pub const LEASE_MS: u64 = 5_000;

/// What is wrong with the storage, if a bug was planted there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Flaw {
    #[default]
    None,
    /// A client id that another node has is given all the same.
    TwoHolders,
    /// What was missed is told at once, however much it is.
    WholeCatchUp,
    /// An event is not told.
    LoseArrival,
    /// An event is told under the ticket of none, so that its submission stays open.
    LoseTicket,
    /// An ack says another place.
    WrongPlace,
    /// Nobody is told that a node is gone.
    LosePeerGone,
    /// Events are acknowledged that Redis does not have.
    AckUnstored,
}

/// All of it.
pub struct Shared {
    pub redis: Redis,
    /// One for each process that ever was; its place is its token.
    pub hubs: Vec<Hub>,
    pub flaw: Flaw,
    /// The events that one piece of news brings at most.
    pub page: usize,
    /// The pages that a node reads on; if it missed more, it begins the channel anew.
    pub pages: usize,
    /// How often, of a thousand answers, one is lost.
    pub lost_answers: u32,
    peers_given: u32,
    now_ms: u64,
}

impl Shared {
    /// Nothing, and no node.
    pub fn new(page: usize, pages: usize, flaw: Flaw) -> Shared {
        let (redis, hubs) = (Redis::default(), Vec::new());
        let (lost_answers, peers_given, now_ms) = (0, 0, 0);
        Shared { redis, hubs, flaw, page, pages, lost_answers, peers_given, now_ms }
    }

    /// A process begins with what there is; its number.
    pub fn join(&mut self) -> (usize, Snapshot) {
        let node = self.hubs.len();
        self.hubs.push(Hub::new(self.now_ms));
        self.relist(node);
        self.hubs[node].news.clear();
        (node, self.redis.snapshot())
    }

    /// The time, which leases are measured by.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        for hub in self.hubs.iter_mut().filter(|hub| hub.is_up && !hub.is_dead && !hub.is_stopped) {
            hub.lease_ms = now_ms + LEASE_MS;
        }
    }

    /// Whether a node has a lease.
    pub fn lives(&self, node: usize) -> bool {
        self.hubs[node].lease_ms > self.now_ms
    }

    /// Does one thing of a node, if there is any to do.
    pub fn step(&mut self, node: usize, now: Now, rng: &mut Rng) -> Option<&'static str> {
        let chores = self.chores(node);
        let chore = chores.get(rng.usize(..chores.len().max(1)))?.clone();
        self.do_chore(node, chore, now, rng)
    }

    /// Whether a node has nothing to do.
    pub fn is_quiet(&self, node: usize) -> bool {
        self.chores(node).is_empty() && self.hubs[node].news.is_empty()
    }

    /// A process is dead: what it had not written is gone.
    pub fn kill(&mut self, node: usize) {
        let hub = &mut self.hubs[node];
        (hub.is_dead, hub.is_up) = (true, false);
        hub.forget_all();
    }

    /// A process has ended well, after it had written all: it says goodbye, and its lease is over.
    pub fn bid_farewell(&mut self, node: usize) {
        self.kill(node);
        self.hubs[node].lease_ms = self.now_ms;
        for other in 0..self.hubs.len() {
            self.part_from(other, node);
        }
    }

    /// Nothing of a node reaches Redis, nor the other way.
    pub fn cut(&mut self, node: usize) {
        self.lose_link(node);
        let hub = &mut self.hubs[node];
        hub.is_up = false;
        hub.fall_silent();
        hub.degrade("out of reach");
    }

    /// The link is there again: all that is followed is looked through.
    pub fn mend(&mut self, node: usize) {
        self.hubs[node].is_up = true;
        self.hubs[node].lease_ms = self.hubs[node].lease_ms.max(self.now_ms + LEASE_MS);
        self.relist(node);
        self.hubs[node].look_through();
        self.rejoin(node);
        self.restore_if_done(node);
    }

    /// The link is lost and made anew at once: nobody is told, but pushes and notes are lost.
    pub fn blink(&mut self, node: usize) {
        self.lose_link(node);
        self.hubs[node].fall_silent();
        self.mend(node);
    }

    fn lose_link(&mut self, node: usize) {
        self.hubs[node].lose_link();
        for hub in &mut self.hubs {
            hub.tear(node);
        }
    }

    fn tell(&mut self, node: usize, to: To, news: PeerNews) {
        self.hubs[node].news.push_back((to, StorageNews::Peer(news)));
    }

    /// The nodes beside one that hear what is said to all.
    fn listeners(&self, node: usize) -> Vec<usize> {
        let others = (0..self.hubs.len()).filter(|&other| other != node);
        others.filter(|&other| self.hubs[other].is_up && !self.hubs[other].is_dead).collect()
    }

    fn new_peer(&mut self) -> PeerId {
        self.peers_given += 1;
        PeerId(self.peers_given)
    }

    /// A process that has something to do, and what; for whoever looks why there is no rest.
    pub fn unrest(&self) -> Option<(usize, String)> {
        let mut live = (0..self.hubs.len()).filter(|&node| !self.hubs[node].is_dead);
        let busy = live.find(|&node| !self.is_quiet(node))?;
        Some((busy, format!("{:?}", self.chores(busy))))
    }
}
