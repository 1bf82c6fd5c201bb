//! A bus without sockets: a third driver beside the daemon's and the simulator's. Engines, and the
//! real lanes between them, in one thread, over plain bytes, with a clock that goes on by a fixed
//! step. Its seeds are fixed, so the same calls execute the same instructions.
//!
//! *Invariant*: a benchmark that forgot to deliver would be fast, so whoever runs a [`Bus`] compares
//! [`Bus::delivered`] with what it expects.

use super::{Parcel, event, hello, text_payload};
use arqonbus::base::hash::Placement;
use arqonbus::base::ids::{ConnId, ShardId};
use arqonbus::base::limits::{LANE_SLOTS, Limits};
use arqonbus::base::quota::NodeQuotas;
use arqonbus::base::time::Now;
use arqonbus::broker::edge::Facts;
use arqonbus::broker::policy::{Access, PublishAnywhere, Role, Roles};
use arqonbus::protocol::origin::Origins;
use arqonbus::shard::driver::poll_with_bell;
use arqonbus::shard::engine::{AHEAD, Engine, Plan};
use arqonbus::shard::lanes::{Inbox, Lanes};
use arqonbus::shard::meters::Counter;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

/// When every benchmark begins.
pub(crate) const START: Now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
/// How far the clock goes on in one turn.
const TURN: Duration = Duration::from_micros(20);

/// A connection, and the shard that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) shard: usize,
    pub(crate) conn: ConnId,
}

impl Client {
    /// For what is sent over a socket, which knows its sender by itself.
    pub(crate) const ELSEWHERE: Client =
        Client { shard: 0, conn: ConnId { slot: 0, generation: 0 } };
}

/// Engines and the lanes between them.
pub(crate) struct Bus {
    shards: Vec<Shard>,
    lanes: Lanes,
    pub(crate) now: Now,
}

struct Shard {
    engine: Engine,
    inbox: Inbox,
    resumed: Vec<ConnId>,
    dirty: Vec<ConnId>,
    written_bytes: u64,
}

impl Bus {
    pub(crate) fn new(shards: u16, limits: Limits) -> Bus {
        let (now, facts) = (START, facts());
        let bells = (0..shards).map(|_| poll_with_bell().expect("a poll").1).collect();
        let (lanes, inboxes) = Lanes::new(bells);
        let plan = |shard| Plan {
            shard,
            placement: Placement::new(shards, 1),
            // A benchmark's clock runs as it likes: silence means nothing to it.
            limits: Arc::new(Limits { heartbeat_ms: u32::MAX, rate_commands: 0, ..limits.clone() }),
            facts: facts.clone(),
            access: Access { origins: Origins::loopback(), roles: Roles::Everybody(Role::Admin) },
            rooms: Arc::new(Vec::new()),
            on_node: NodeQuotas::default(),
            seed: 1,
        };
        let shard = |(number, inbox)| Shard {
            engine: Engine::new(plan(ShardId(number as u16)), now),
            inbox,
            resumed: Vec::new(),
            dirty: Vec::new(),
            written_bytes: 0,
        };
        let shards = inboxes.into_iter().enumerate().map(shard).collect();
        Bus { shards, lanes, now }
    }

    /// Connects a client that joins the channel `general` of each room.
    #[inline(never)]
    pub(crate) fn connect(&mut self, shard: usize, client_id: &str, rooms: &[String]) -> Client {
        let engine = &mut self.shards[shard].engine;
        let conn = engine.open(self.now, None, None);
        engine.receive(self.now, conn, &mut hello(client_id, rooms));
        self.turn(shard, &mut []);
        self.settle();
        assert!(self.shards[shard].engine.wants_input(conn), "{client_id} is not welcome");
        Client { shard, conn }
    }

    /// A client's socket ends.
    #[inline(never)]
    pub(crate) fn disconnect(&mut self, client: Client) {
        self.shards[client.shard].engine.lost(self.now, client.conn);
        self.turn(client.shard, &mut []);
        self.settle();
    }

    /// One turn of every shard that has something to do, until none has: everything that was sent
    /// is delivered.
    #[inline(never)]
    pub(crate) fn deliver(&mut self, parcels: &mut [Parcel]) {
        for number in 0..self.shards.len() {
            self.turn(number, parcels);
        }
        self.settle();
    }

    /// Runs turns until nothing is left to do.
    fn settle(&mut self) {
        while let Some(number) = self.shards.iter_mut().position(Shard::has_work) {
            self.turn(number, &mut []);
        }
    }

    /// The same steps as those of the daemon's driver.
    fn turn(&mut self, number: usize, parcels: &mut [Parcel]) {
        self.now = self.now.after(TURN);
        let (now, lanes) = (self.now, &self.lanes);
        let Shard { engine, inbox, resumed, dirty, written_bytes } = &mut self.shards[number];
        engine.take_tells(now, LANE_SLOTS, || inbox.tells.take());
        engine.take_asks(now, LANE_SLOTS, || inbox.asks.take());
        engine.resume(now, resumed);
        resumed.clear();
        engine.begin_reading();
        let mut own: Vec<&mut Parcel> =
            parcels.iter_mut().filter(|parcel| parcel.sender.shard == number).collect();
        for some in own.chunks_mut(AHEAD) {
            engine.prefetch_input(some.iter().map(|parcel| parcel.sender.conn));
            for parcel in some {
                engine.tally_mut().add(Counter::SocketReads, 1);
                assert!(engine.wants_input(parcel.sender.conn), "nobody is paused here");
                engine.receive(now, parcel.sender.conn, &mut parcel.bytes);
            }
            if engine.asks_itself_much() {
                engine.run_own_lane_between(now);
            }
        }
        engine.tick(now);
        engine.run_own_lane(now);
        engine.take_telemetry().for_each(drop);
        send_lanes(engine, lanes);
        while engine.take_dirty(dirty) {
            for conn in dirty.drain(..) {
                loop {
                    let bytes = black_box(engine.output(now, conn));
                    let count = bytes.len();
                    *written_bytes += count as u64;
                    if count == 0 {
                        engine.wrote_nothing(conn);
                        break;
                    }
                    engine.tally_mut().add(Counter::SocketWrites, 1);
                    if !engine.wrote(now, conn, count, false) {
                        break;
                    }
                }
            }
        }
        engine.end_turn(now);
        engine.unblock();
        send_lanes(engine, lanes);
        engine.take_closed();
        engine.take_telemetry().for_each(drop);
    }

    /// How many messages were put into outboxes, replies not counted.
    pub(crate) fn delivered(&self) -> u64 {
        self.shards.iter().map(|shard| shard.engine.tally().counter(Counter::Deliveries)).sum()
    }

    /// How many bytes the sockets took.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.written_bytes).sum()
    }
}

impl Shard {
    fn has_work(&mut self) -> bool {
        self.engine.has_work() || !self.inbox.asks.is_empty() || !self.inbox.tells.is_empty()
    }
}

fn send_lanes(engine: &mut Engine, lanes: &Lanes) {
    let own = engine.shard();
    for shard in (0..engine.shards()).map(ShardId).filter(|&shard| shard != own) {
        let asks = engine.asks_for(shard);
        let mut is_used = !asks.is_empty();
        lanes.send_asks(shard, asks);
        let tells = engine.tells_for(shard);
        is_used |= !tells.is_empty();
        lanes.send_tells(shard, tells);
        if is_used {
            black_box(lanes.ring(shard));
        }
    }
}

/// What clients are told.
pub(crate) fn facts() -> Arc<Facts> {
    Arc::new(Facts {
        node: "node".into(),
        version: "0",
        started_ns: 0,
        storage: "memory",
        publish_anywhere: PublishAnywhere::default(),
    })
}

/// A steady load: who is where, and who says something in each turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) shards: u16,
    pub(crate) connections: usize,
    pub(crate) rooms: usize,
    /// Members of each room.
    pub(crate) members: usize,
    /// Members of each room that publish.
    pub(crate) publishers: usize,
    pub(crate) payload_bytes: usize,
    /// Messages that come in one turn.
    pub(crate) messages_per_turn: usize,
    pub(crate) wants_ack: bool,
    /// Messages that a channel keeps. A load is in its steady state when every channel is full.
    pub(crate) history_size: u32,
}

/// A bus with its clients, and what they send: the same turns again and again.
pub(crate) struct Running {
    pub(crate) bus: Bus,
    pub(crate) clients: Vec<Client>,
    turns: Vec<Vec<Parcel>>,
    next_turn: usize,
    next_id: u64,
}

impl Load {
    /// One message a turn on one shard; a base to write others from.
    pub(crate) const ONE_TO_ONE: Load = Load {
        shards: 1,
        connections: 100,
        rooms: 50,
        members: 2,
        publishers: 2,
        payload_bytes: 128,
        messages_per_turn: 1,
        wants_ack: false,
        history_size: 500,
    };

    /// The connection that is the `number`-th member of a room. Where every room has members of
    /// its own they follow each other; otherwise two rooms share few.
    fn member(&self, room: usize, number: usize) -> usize {
        match self.rooms * self.members <= self.connections {
            true => room * self.members + number,
            false => (room * self.members + number * 101) % self.connections,
        }
    }

    pub(crate) fn start(&self) -> Running {
        let mut bus =
            Bus::new(self.shards, Limits { history_size: self.history_size, ..Limits::default() });
        let mut joined = vec![Vec::new(); self.connections];
        for room in 0..self.rooms {
            for number in 0..self.members {
                let rooms: &mut Vec<String> = &mut joined[self.member(room, number)];
                assert_ne!(rooms.last(), Some(&format!("room-{room}")), "members are different");
                rooms.push(format!("room-{room}"));
            }
        }
        let mut clients = Vec::new();
        for (number, rooms) in joined.iter().enumerate() {
            let shard = number % usize::from(self.shards);
            clients.push(bus.connect(shard, &format!("client-{number:05}"), rooms));
        }
        let payload = text_payload(self.payload_bytes);
        let metadata = if self.wants_ack { r#"{"ack":true}"# } else { "" };
        // As many turns as it takes until every publisher of every room had its turn.
        let messages = self.rooms * self.publishers;
        let mut turns = Vec::new();
        for turn in 0..messages.div_ceil(self.messages_per_turn) {
            let mut parcels: Vec<Parcel> = Vec::new();
            for number in 0..self.messages_per_turn {
                let number = turn * self.messages_per_turn + number;
                let room = number % self.rooms;
                let from = self.member(room, number / self.rooms % self.publishers);
                let text = event(
                    &format!("room-{room}"),
                    &format!("client-{from:05}"),
                    &payload,
                    metadata,
                );
                let sender = clients[from];
                let known = parcels.iter_mut().find(|parcel| parcel.sender == sender);
                match known {
                    Some(parcel) => parcel.push(&text),
                    None => {
                        let mut parcel = Parcel::new(sender);
                        parcel.push(&text);
                        parcels.push(parcel);
                    }
                }
            }
            turns.push(parcels);
        }
        Running { bus, clients, turns, next_turn: 0, next_id: 0 }
    }

    /// How many deliveries one message makes.
    pub(crate) fn deliveries(&self) -> usize {
        self.members - 1
    }
}

impl Running {
    /// One turn of the load; how many messages it had.
    pub(crate) fn turn(&mut self) -> usize {
        let turn = self.next_turn;
        self.next_turn = (turn + 1) % self.turns.len();
        let parcels = &mut self.turns[turn];
        parcels.iter_mut().for_each(|parcel| parcel.renumber(&mut self.next_id));
        self.bus.deliver(parcels);
        parcels.iter().map(Parcel::messages).sum()
    }
}
