//! A bus of a few shards without sockets or threads, and the clients that a script plays. Its turn has
//! the steps of the daemon's driver.
//!
//! *Invariant*: the same calls do the same, every time.

use crate::session::{Stage, frame, limits};
use arqonbus::base::hash::Placement;
use arqonbus::base::ids::{ConnId, ShardId};
use arqonbus::base::limits::{LANE_SLOTS, Limits};
use arqonbus::base::quota::NodeQuotas;
use arqonbus::base::time::Now;
use arqonbus::broker::edge::Facts;
use arqonbus::broker::lane::Ask;
use arqonbus::broker::policy::{Access, PublishAnywhere, Role, Roles};
use arqonbus::protocol::origin::Origins;
use arqonbus::shard::driver::poll_with_bell;
use arqonbus::shard::engine::{Engine, Plan};
use arqonbus::shard::lanes::{Inbox, Lanes};
use std::sync::Arc;
use std::time::Duration;

/// Turns after which a bus that nobody talks to must have come to rest.
const TURNS_MAX: usize = 10_000;
/// How long connections may linger after their clients have hung up, and ids stay claimed.
const LINGER: Duration = Duration::from_secs(120);

pub(crate) struct World {
    shards: Vec<Shard>,
    lanes: Lanes,
    peers: Vec<Peer>,
    now: Now,
}

struct Shard {
    engine: Engine,
    inbox: Inbox,
}

/// A client, as its socket sees it.
struct Peer {
    shard: usize,
    conn: ConnId,
    /// What it has sent and the shard has not read.
    unread: Vec<u8>,
    /// The first bytes that the shard wrote.
    greeting: Vec<u8>,
    received: usize,
    reads: bool,
    is_over: bool,
}

impl World {
    pub(crate) fn new(shards: u16) -> World {
        let now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
        let bells = (0..shards).map(|_| poll_with_bell().expect("a poll").1).collect();
        let (lanes, inboxes) = Lanes::new(bells);
        let facts = Arc::new(Facts {
            node: "node".into(),
            version: "0",
            started_ns: 0,
            storage: "memory",
            publish_anywhere: PublishAnywhere::default(),
        });
        let on_node = NodeQuotas::default();
        let shard = |(number, inbox): (usize, Inbox)| {
            let plan = Plan {
                shard: ShardId(number as u16),
                placement: Placement::new(shards, 1),
                limits: Arc::new(limits()),
                facts: facts.clone(),
                access: Access {
                    origins: Origins::loopback(),
                    roles: Roles::Everybody(Role::Admin),
                },
                rooms: Arc::new(Vec::new()),
                on_node: on_node.clone(),
                seed: 1,
            };
            Shard { engine: Engine::new(plan, now), inbox }
        };
        let shards = inboxes.into_iter().enumerate().map(shard).collect();
        World { shards, lanes, peers: Vec::new(), now }
    }

    /// Everybody hangs up; what they had must go.
    pub(crate) fn end(mut self) {
        for peer in 0..self.peers.len() {
            self.hang_up(peer);
        }
        let mut turns = 0;
        while self.shards.iter_mut().any(Shard::has_work) {
            self.turn();
            turns += 1;
            assert!(turns < TURNS_MAX, "the bus does not come to rest");
        }
        self.now = self.now.after(LINGER);
        (0..4).for_each(|_| self.turn());
        for Shard { engine, .. } in &self.shards {
            assert_eq!(engine.connection_count(), 0, "nobody is connected any more");
            assert_eq!(engine.edge().client_count(), 0, "nobody is a client any more");
        }
    }

    fn ask_all(&mut self, ask: impl Fn() -> Ask) {
        for shard in 0..self.shards.len() {
            let is_taken = self.lanes.ask(ShardId(shard as u16), ask()).is_ok();
            assert!(is_taken, "the lane of a script is never full");
        }
    }

    fn turn_of(&mut self, number: usize) {
        let (now, lanes) = (self.now, &self.lanes);
        let Shard { engine, inbox } = &mut self.shards[number];
        engine.take_left_tells(now);
        engine.take_tells(now, LANE_SLOTS, || inbox.tells.take());
        engine.take_asks(now, LANE_SLOTS, || inbox.asks.take());
        engine.resume(now, &mut Vec::new());
        for peer in self.peers.iter_mut().filter(|peer| peer.shard == number && !peer.is_over) {
            if !peer.unread.is_empty() && engine.wants_input(peer.conn) {
                engine.receive(now, peer.conn, &mut std::mem::take(&mut peer.unread));
            }
        }
        engine.tick(now);
        engine.run_own_lane(now);
        engine.take_telemetry().for_each(drop);
        send_lanes(engine, lanes);
        let mut dirty = Vec::new();
        while engine.take_dirty(&mut dirty) {
            for conn in dirty.drain(..) {
                write(engine, &mut self.peers, now, number, conn);
            }
        }
        engine.end_turn(now);
        engine.unblock();
        send_lanes(engine, lanes);
        for conn in engine.take_closed() {
            let closed = |peer: &&mut Peer| peer.shard == number && peer.conn == conn;
            if let Some(peer) = self.peers.iter_mut().find(closed) {
                peer.is_over = true;
            }
        }
        engine.take_telemetry().for_each(drop);
        engine.check();
    }
}

impl Stage for World {
    fn open(&mut self) -> usize {
        let shard = self.peers.len() % self.shards.len();
        let conn = self.shards[shard].engine.open(self.now, None, None);
        self.peers.push(Peer {
            shard,
            conn,
            unread: Vec::new(),
            greeting: Vec::new(),
            received: 0,
            reads: true,
            is_over: false,
        });
        self.peers.len() - 1
    }

    fn count(&self) -> usize {
        self.peers.len()
    }

    fn greeting(&self, peer: usize) -> &[u8] {
        &self.peers[peer].greeting
    }

    fn send(&mut self, peer: usize, bytes: &[u8]) {
        let peer = &mut self.peers[peer];
        if !peer.is_over {
            peer.unread.extend_from_slice(bytes);
        }
    }

    fn toggle_reading(&mut self, peer: usize) {
        let Peer { shard, conn, reads, .. } = &mut self.peers[peer];
        *reads = !*reads;
        if *reads {
            self.shards[*shard].engine.writable(*conn);
        }
    }

    fn hang_up(&mut self, peer: usize) {
        let Peer { shard, conn, is_over, .. } = &mut self.peers[peer];
        if !std::mem::replace(is_over, true) {
            self.shards[*shard].engine.lost(self.now, *conn);
        }
    }

    fn pass_ms(&mut self, ms: u64) {
        self.now = self.now.after(Duration::from_millis(ms));
    }

    fn reconfigure(&mut self, limits: Limits) {
        let limits = Arc::new(limits);
        self.ask_all(|| Ask::Reconfigure(limits.clone()));
    }

    /// The bus goes away, or memory is short.
    fn disturb(&mut self, what: u8, how: u8) {
        let bytes = u64::from(how) << 8;
        self.ask_all(|| match what {
            0 => Ask::Drain { window_ms: 500 },
            _ => Ask::Shed { history_bytes: bytes, client_bytes: bytes },
        });
    }

    fn flood(&mut self, peer: usize) {
        let pings = frame(0x89, b"").repeat(200);
        self.send(peer, &pings);
    }

    /// One turn of every shard.
    fn turn(&mut self) {
        self.now = self.now.after(Duration::from_millis(1));
        for number in 0..self.shards.len() {
            self.turn_of(number);
        }
    }
}

impl Shard {
    fn has_work(&mut self) -> bool {
        self.engine.has_work() || !self.inbox.asks.is_empty() || !self.inbox.tells.is_empty()
    }
}

/// Gives a client's socket what it takes, and looks at the first bytes of it.
fn write(engine: &mut Engine, peers: &mut [Peer], now: Now, shard: usize, conn: ConnId) {
    let peer = peers.iter_mut().find(|peer| peer.shard == shard && peer.conn == conn);
    let Some(peer) = peer else { return };
    loop {
        let bytes = engine.output(now, conn);
        let count = bytes.len();
        if count == 0 {
            engine.wrote_nothing(conn);
            return;
        }
        if !peer.reads {
            engine.wrote(now, conn, 0, true);
            return;
        }
        if peer.received < 2_048 {
            peer.greeting.extend_from_slice(&bytes[..count.min(2_048)]);
        }
        peer.received += count;
        let start = &peer.greeting[..peer.greeting.len().min(9)];
        assert!(b"HTTP/1.1 ".starts_with(start), "the first bytes are {start:?}");
        if !engine.wrote(now, conn, count, false) {
            return;
        }
    }
}

fn send_lanes(engine: &mut Engine, lanes: &Lanes) {
    let own = engine.shard();
    for shard in (0..engine.shards()).map(ShardId).filter(|&shard| shard != own) {
        lanes.send_asks(shard, engine.asks_for(shard));
        lanes.send_tells(shard, engine.tells_for(shard));
    }
}
