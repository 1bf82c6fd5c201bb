//! The second driver: engines in one thread, lanes and sockets that are queues, a clock that is a
//! number.
//!
//! A turn here is the turn of the real driver, step for step. What the kernel does in the real one
//! is modelled as closely as an engine could tell: a socket is read until it gives less than was
//! asked for, edges tell that bytes came or that there is room again, a reset makes reads and
//! writes fail, and what a closed socket still held is read by the client before its end.

use crate::sabotage::Sabotage;
use crate::setup::{Setup, bootstraps};
use crate::storage::Storage;
use crate::trace::Trace;
use arqonbus::base::hash::Placement;
use arqonbus::base::ids::{ConnId, ShardId};
use arqonbus::base::quota::NodeQuotas;
use arqonbus::base::time::Now;
use arqonbus::broker::durable::of_homes;
use arqonbus::broker::edge::Facts;
use arqonbus::broker::lane::{Ask, Tell};
use arqonbus::broker::late::Renumbering;
use arqonbus::broker::policy::{Access, Roles};
use arqonbus::broker::record::{Record, Snapshot, StorageNews};
use arqonbus::protocol::close::CloseReason;
use arqonbus::protocol::command::Address;
use arqonbus::protocol::names::Name;
use arqonbus::protocol::origin::Origins;
use arqonbus::shard::engine::{Engine, Plan};
use arqonbus::shard::meters::Meters;
use fastrand::Rng;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What one message may ask beyond the bound of a staging queue, and what each closing connection
/// may.
const STAGED_SLACK: usize = 70;
const STAGED_SLACK_PER_CONNECTION: usize = 8;
/// How whatever a connection is sent begins.
const BEGINNING: &[u8] = b"HTTP/1.1 ";

/// What the last things that the parts of a turn do may cost: a message of the greatest length to every
/// client, and what it recovers.
const WORK_SLACK: u64 = 2_000_000;

/// Ends a run: `rule` is the check that failed.
#[macro_export]
macro_rules! violation {
    ($rule:literal, $($detail:tt)*) => {
        panic!("[{}] {}", $rule, format_args!($($detail)*))
    };
}

/// All shards and all sockets.
pub struct World {
    pub now: Now,
    pub setup: Setup,
    pub placement: Placement,
    pub shards: Vec<Shard>,
    pub pipes: Vec<Pipe>,
    pub trace: Trace,
    pub sabotage: Sabotage,
    pub turns: u64,
    /// The asks and the tells that went from one shard to another.
    pub crossed: (u64, u64),
    /// What the engines should have counted.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// What outlives the engines, if anything does.
    pub storage: Option<Storage>,
    /// What waits for what this node shares with others, if it does.
    pub outlet: VecDeque<Record>,
    /// What engines counted that are dead.
    pub dead: Vec<Meters>,
    /// How messages found other places since this was looked at, by channel.
    pub moves: Vec<(Address, Renumbering)>,
    /// The rooms of this node that were put together.
    merged: BTreeSet<Name>,
}

/// One engine, and what its driver keeps for it.
pub struct Shard {
    pub engine: Engine,
    pub asks: VecDeque<Ask>,
    pub tells: VecDeque<Tell>,
    pub arrivals: VecDeque<usize>,
    /// It does nothing until this step.
    pub stuck_until: usize,
    pub telemetry: u64,
    sockets: Vec<Option<usize>>,
    ready: Vec<usize>,
    resumed: Vec<ConnId>,
    dirty: Vec<ConnId>,
}

/// One connection, as the kernel sees it.
pub struct Pipe {
    pub shard: usize,
    pub conn: Option<ConnId>,
    /// Bytes that came in and were not read.
    pub up: VecDeque<u8>,
    /// Bytes that were written and did not reach the client.
    pub down: VecDeque<u8>,
    /// The client will send no more.
    pub is_ended: bool,
    /// The client is gone, and the kernel knows.
    pub is_reset: bool,
    /// The server has closed its side.
    pub is_closed: bool,
    /// The bytes that reached the client.
    received: usize,
    pub turned_away: Option<CloseReason>,
    has_read_edge: bool,
    has_write_edge: bool,
    was_full: bool,
    is_readable: bool,
    is_ending: bool,
    is_listed: bool,
}

impl World {
    /// The engines of a setup, before anyone has come.
    pub fn new(setup: Setup, rng: &mut Rng, trace: Trace, sabotage: Sabotage) -> World {
        let now = Now { mono_ns: 1_000_000_000, wall_us: 1_764_000_000_000_000 };
        World::at(now, setup, rng, trace, sabotage, Snapshot::default())
    }

    /// The engines of a setup at a time, with what was kept.
    pub fn at(
        now: Now,
        setup: Setup,
        rng: &mut Rng,
        trace: Trace,
        sabotage: Sabotage,
        snapshot: Snapshot,
    ) -> World {
        let placement = Placement::new(setup.shards, rng.u64(..));
        let storage = setup.storage.clone().map(Storage::new);
        let mut world = World {
            now,
            setup,
            placement,
            shards: Vec::new(),
            pipes: Vec::new(),
            trace,
            sabotage,
            turns: 0,
            crossed: (0, 0),
            bytes_received: 0,
            bytes_sent: 0,
            storage,
            outlet: VecDeque::new(),
            dead: Vec::new(),
            moves: Vec::new(),
            merged: BTreeSet::new(),
        };
        world.begin(snapshot);
        world
    }

    /// New engines begin with what was kept.
    fn begin(&mut self, snapshot: Snapshot) {
        // Another one each time: no life and no term is given twice.
        let share = self.setup.share.clone();
        let seed = share.as_ref().map_or(7 + self.dead.len() as u64, |share| share.seed);
        let node: Arc<str> = share.as_ref().map_or("sim".into(), |share| share.node.clone());
        let now = self.now;
        let (rooms, quota) = (Arc::new(bootstraps()), NodeQuotas::default());
        let limits = Arc::new(self.setup.limits.clone());
        let parts = of_homes(snapshot, &self.placement);
        let shards = self.placement.all().zip(parts).map(|(shard, part)| {
            let facts = Facts {
                node: node.clone(),
                version: "0",
                started_ns: now.mono_ns,
                storage: "memory",
                publish_anywhere: self.setup.publish_anywhere,
            };
            let plan = Plan {
                shard,
                placement: self.placement.clone(),
                limits: limits.clone(),
                facts: Arc::new(facts),
                access: Access {
                    origins: Origins::loopback(),
                    roles: Roles::Everybody(self.setup.roles[shard.index()]),
                },
                rooms: rooms.clone(),
                on_node: quota.clone(),
                seed,
            };
            let mut engine = Engine::new(plan, now);
            engine.set_staged_max(self.setup.staged_max);
            engine.set_turn_units(self.setup.turn_units);
            engine.set_fan_out_units_max(self.setup.fan_out_units_max);
            if let Some(storage) = &self.storage {
                engine.begin_with(now, storage.habits.durability.clone(), part);
                engine.records().edit(|records| {
                    if let Some(record) = records.iter().find(|record| storage.gives_up(record)) {
                        violation!("it comes back", "at the beginning {record:?}");
                    }
                });
                engine.set_records_bytes_max(storage.habits.staged_bytes);
                engine.check();
            } else if let Some(share) = &share {
                engine.begin_with(now, share.durability.clone(), part);
                share.sessions.into_iter().for_each(|plan| engine.keep_sessions(plan));
                engine.check();
            }
            Shard {
                engine,
                asks: VecDeque::new(),
                tells: VecDeque::new(),
                arrivals: VecDeque::new(),
                stuck_until: 0,
                telemetry: 0,
                sockets: Vec::new(),
                ready: Vec::new(),
                resumed: Vec::new(),
                dirty: Vec::new(),
            }
        });
        self.shards = shards.collect();
    }

    /// The node dies: what its sockets were given still reaches the clients.
    pub fn die(&mut self) {
        for pipe in &mut self.pipes {
            pipe.is_closed = true;
            pipe.up.clear();
        }
        for shard in std::mem::take(&mut self.shards) {
            let meters = Meters::default();
            meters.publish(shard.engine.tally());
            self.dead.push(meters);
        }
    }

    /// Another node begins with what the storage has.
    pub fn begin_again(&mut self) {
        let (sabotage, shards) = (&mut self.sabotage, self.setup.shards);
        let snapshot = self.storage.as_mut().map(|storage| storage.survive(shards, sabotage));
        self.merged.clear();
        self.begin(snapshot.unwrap_or_default());
    }

    /// The storage does something, and says what it has to say.
    pub fn store(&mut self) {
        let Some(storage) = &mut self.storage else { return };
        let what = storage.step(&self.placement, &mut self.sabotage);
        self.trace.note(format_args!("the storage {what}"));
        self.carry();
    }

    /// The storage does all it has to do, well; false if there was nothing.
    pub fn store_all(&mut self) -> bool {
        let Some(storage) = &mut self.storage else { return false };
        let is_busy = storage.is_busy() || !storage.news().is_empty();
        storage.recover(&self.placement);
        self.carry();
        is_busy
    }

    /// Takes the storage's news to the homes, in order for each, as far as their lanes take them.
    fn carry(&mut self) {
        let Some(storage) = &mut self.storage else { return };
        let mut full = Vec::new();
        for (shard, news) in std::mem::take(storage.news()) {
            let Shard { asks, .. } = &mut self.shards[shard.index()];
            if full.contains(&shard) || asks.len() >= self.setup.lane_slots {
                full.push(shard);
                storage.news().push_back((shard, news));
            } else {
                asks.push_back(Ask::Storage(Box::new(news)));
            }
        }
    }

    /// A client connects; the number of its connection.
    pub fn connect(&mut self, shard: usize, turned_away: Option<CloseReason>) -> usize {
        let number = self.pipes.len();
        self.pipes.push(Pipe {
            shard,
            conn: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_ended: false,
            is_reset: false,
            is_closed: false,
            received: 0,
            turned_away,
            has_read_edge: false,
            has_write_edge: false,
            was_full: false,
            is_readable: true,
            is_ending: false,
            is_listed: false,
        });
        self.shards[shard].arrivals.push_back(number);
        number
    }

    /// Bytes of a client reach the server's socket.
    pub fn send(&mut self, number: usize, bytes: &[u8]) {
        let pipe = &mut self.pipes[number];
        if !pipe.is_closed && !pipe.is_reset {
            pipe.up.extend(bytes);
            pipe.has_read_edge = true;
        }
    }

    /// Up to `count` bytes reach a client.
    pub fn recv(&mut self, number: usize, count: usize) -> Vec<u8> {
        let pipe = &mut self.pipes[number];
        let count = count.min(pipe.down.len());
        let bytes: Vec<u8> = pipe.down.drain(..count).collect();
        let owed = BEGINNING.get(pipe.received..).unwrap_or_default();
        if bytes.iter().zip(owed).any(|(byte, owed)| byte != owed) {
            let text = String::from_utf8_lossy(&bytes);
            violation!("HTTP first", "connection {number} begins with {text:?}");
        }
        pipe.received += count;
        if count > 0 && std::mem::take(&mut pipe.was_full) {
            pipe.has_write_edge = true;
        }
        bytes
    }

    /// A client is gone, with or without the bytes that wait for it.
    pub fn reset(&mut self, number: usize) {
        let pipe = &mut self.pipes[number];
        (pipe.is_reset, pipe.has_read_edge, pipe.has_write_edge) = (true, true, true);
        pipe.up.clear();
        pipe.down.clear();
    }

    /// A client sends no more, but still reads.
    pub fn end(&mut self, number: usize) {
        let pipe = &mut self.pipes[number];
        (pipe.is_ended, pipe.has_read_edge) = (true, true);
    }

    /// Time passes.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
    }

    /// Asks something from outside, as the daemon does; false if the lane is full.
    pub fn ask(&mut self, shard: usize, ask: Ask) -> bool {
        let is_full = self.shards[shard].asks.len() >= self.setup.lane_slots;
        if !is_full {
            self.shards[shard].asks.push_back(ask);
        }
        !is_full
    }

    /// Tells a shard what the storage that is shared says; gives it back if its lane is full.
    pub fn inform(&mut self, shard: usize, news: StorageNews) -> Result<(), StorageNews> {
        let Shard { asks, .. } = &mut self.shards[shard];
        if asks.len() >= self.setup.lane_slots {
            return Err(news);
        }
        asks.push_back(Ask::Storage(Box::new(news)));
        Ok(())
    }

    /// Why the driver of a shard would not sleep now, if it would not.
    pub fn reason(&mut self, shard: usize) -> Option<&'static str> {
        let now_ms = self.now.mono_ms();
        let has_edge = self.pipes.iter().any(|pipe| {
            pipe.shard == shard
                && pipe.conn.is_some()
                && !pipe.is_closed
                && (pipe.has_read_edge || pipe.has_write_edge)
        });
        let has_room = match &self.setup.share {
            Some(share) => self.outlet.len() < share.slots,
            None => self.storage.as_ref().is_some_and(Storage::has_room),
        };
        let Shard { engine, asks, tells, arrivals, ready, .. } = &mut self.shards[shard];
        let own = engine.shard();
        let mut others = (0..engine.shards()).map(ShardId).filter(|other| *other != own);
        let is_stuck = others.any(|other| {
            !(engine.asks_for(other).is_empty() && engine.tells_for(other).is_empty())
        });
        let tick_ms = engine.next_tick_ms().unwrap_or(u64::MAX);
        let reasons = [
            (has_edge, "an event"),
            (!asks.is_empty(), "asks"),
            (!tells.is_empty(), "tells"),
            (!arrivals.is_empty(), "arrivals"),
            (!ready.is_empty(), "unread sockets"),
            (engine.has_work(), "work"),
            (tick_ms <= now_ms, "a timer"),
            (is_stuck, "something for a lane"),
            (has_room && !engine.records().is_empty(), "something to be kept"),
            (has_room && !engine.session_records().is_empty(), "a session to be kept"),
        ];
        reasons.into_iter().find(|(is_so, _)| *is_so).map(|(_, what)| what)
    }

    /// One turn of a shard's driver.
    pub fn turn(&mut self, shard: usize) {
        self.turns += 1;
        let now = self.now;
        self.take_lanes(shard, now);
        self.take_arrivals(shard, now);
        self.take_events(shard);
        self.resume(shard, now);
        self.read_sockets(shard, now);
        self.shards[shard].engine.tick(now);
        self.pass(Duration::from_micros(3));
        self.shards[shard].engine.run_own_lane(self.now);
        self.check_work(shard);
        self.check_staged(shard);
        self.give_records(shard);
        self.send_lanes(shard);
        self.write_sockets(shard);
        self.pass(Duration::from_micros(2));
        self.shards[shard].engine.end_turn(self.now);
        self.send_lanes(shard);
        self.shards[shard].engine.unblock();
        self.close_sockets(shard);
        let telemetry = self.shards[shard].engine.take_telemetry().count();
        self.shards[shard].telemetry += telemetry as u64;
        self.check_bounds(shard);
    }

    fn take_lanes(&mut self, shard: usize, now: Now) {
        let budget = self.setup.lane_budget;
        let Shard { engine, asks, tells, .. } = &mut self.shards[shard];
        // What the server closes for writing first it closes as a whole soon after.
        engine.take_half_closed();
        engine.take_left_tells(now);
        engine.take_tells(now, budget, || tells.pop_front());
        engine.take_asks(now, budget, || asks.pop_front());
    }

    fn take_arrivals(&mut self, shard: usize, now: Now) {
        let shard = &mut self.shards[shard];
        for number in shard.arrivals.drain(..) {
            let pipe = &mut self.pipes[number];
            let conn = shard.engine.open(now, None, pipe.turned_away);
            let slot = conn.slot as usize;
            pipe.conn = Some(conn);
            // The first look at a new socket finds it writable, and readable if bytes are there.
            (pipe.has_read_edge, pipe.has_write_edge) = (true, true);
            if shard.sockets.len() <= slot {
                shard.sockets.resize(slot + 1, None);
            }
            if let Some(tenant) = shard.sockets[slot].replace(number) {
                violation!("one tenant", "slot {slot} has {tenant} and gets {number}");
            }
        }
    }

    fn take_events(&mut self, shard: usize) {
        let Shard { engine, sockets, ready, .. } = &mut self.shards[shard];
        for &number in sockets.iter().flatten() {
            let pipe = &mut self.pipes[number];
            let Some(conn) = pipe.conn else { continue };
            if std::mem::take(&mut pipe.has_read_edge) {
                pipe.is_readable = true;
                pipe.is_ending |= pipe.is_ended || pipe.is_reset;
                if !std::mem::replace(&mut pipe.is_listed, true) {
                    ready.push(number);
                }
            }
            if std::mem::take(&mut pipe.has_write_edge) {
                engine.writable(conn);
            }
        }
    }

    fn resume(&mut self, shard: usize, now: Now) {
        let Shard { engine, sockets, ready, resumed, .. } = &mut self.shards[shard];
        engine.resume(now, resumed);
        for conn in resumed.drain(..) {
            let Some(&Some(number)) = sockets.get(conn.slot as usize) else { continue };
            let pipe = &mut self.pipes[number];
            if pipe.conn == Some(conn)
                && pipe.is_readable
                && !std::mem::replace(&mut pipe.is_listed, true)
            {
                ready.push(number);
            }
        }
    }

    /// As the driver does it: some are read, then what they gave is handled, then the rest is read.
    fn read_sockets(&mut self, shard: usize, now: Now) {
        // Few shards here ever ask themselves so much that it is handled early; so it sometimes is.
        let is_early = self.turns.is_multiple_of(3) && self.storage.is_none();
        let together = 1 + (self.turns % 7) as usize;
        self.shards[shard].engine.begin_reading();
        for some in std::mem::take(&mut self.shards[shard].ready).chunks(together) {
            if !self.shards[shard].engine.may_read() {
                self.shards[shard].ready.extend(some);
                continue;
            }
            let mut got = Vec::new();
            for &number in some {
                self.pipes[number].is_listed = false;
                let bytes = self.read_once(shard, number, now, self.setup.read_bytes);
                got.extend(bytes.map(|(conn, bytes)| (number, conn, bytes)));
            }
            self.shards[shard].engine.prefetch_input(got.iter().map(|&(_, conn, _)| conn));
            for (_, conn, bytes) in &mut got {
                self.shards[shard].engine.receive(now, *conn, bytes);
            }
            if is_early || self.shards[shard].engine.asks_itself_much() {
                self.pass(Duration::from_micros(1));
                self.shards[shard].engine.run_own_lane_between(self.now);
            }
            for (number, _, bytes) in got {
                self.read_rest(shard, number, now, self.setup.read_bytes - bytes.len());
            }
        }
    }

    fn read_rest(&mut self, shard: usize, number: usize, now: Now, mut budget: usize) {
        while budget > 0 {
            let Some((conn, mut bytes)) = self.read_once(shard, number, now, budget) else {
                return;
            };
            budget -= bytes.len();
            self.shards[shard].engine.receive(now, conn, &mut bytes);
        }
        let Shard { engine, ready, .. } = &mut self.shards[shard];
        let pipe = &mut self.pipes[number];
        let is_open = pipe.conn.filter(|_| !pipe.is_closed);
        pipe.is_listed = pipe.is_readable && is_open.is_some_and(|conn| engine.wants_input(conn));
        if pipe.is_listed {
            ready.push(number);
        }
    }

    /// Reads a pipe once, if it should be read and has something.
    fn read_once(
        &mut self,
        shard: usize,
        number: usize,
        now: Now,
        asked: usize,
    ) -> Option<(ConnId, Vec<u8>)> {
        let engine = &mut self.shards[shard].engine;
        let pipe = &mut self.pipes[number];
        let conn = pipe.conn.filter(|_| !pipe.is_closed && pipe.is_readable)?;
        if !engine.wants_input(conn) && !self.sabotage.reads_unwanted(engine, conn) {
            return None;
        }
        let count = asked.min(pipe.up.len());
        if count == 0 {
            pipe.is_readable = false;
            if pipe.is_ended || pipe.is_reset {
                engine.lost(now, conn);
            }
            return None;
        }
        pipe.is_readable = count == asked || pipe.is_ending;
        self.bytes_received += count as u64;
        Some((conn, pipe.up.drain(..count).collect()))
    }

    fn send_lanes(&mut self, shard: usize) {
        for other in 0..self.shards.len() {
            if other == shard {
                continue;
            }
            let to = ShardId(other as u16);
            let slots = self.sabotage.lane_slots(self.setup.lane_slots);
            let engine = &mut self.shards[shard].engine;
            engine.asks_for(to).edit(|staged| self.sabotage.asks(staged));
            engine.tells_for(to).edit(|staged| self.sabotage.tells(staged));
            let room = slots.saturating_sub(self.shards[other].asks.len());
            let engine = &mut self.shards[shard].engine;
            let staged = engine.asks_for(to);
            let asks: Vec<Ask> = (0..room).map_while(|_| staged.pop_front()).collect();
            let room = slots.saturating_sub(self.shards[other].tells.len());
            let staged = self.shards[shard].engine.tells_for(to);
            let tells: Vec<Tell> = (0..room).map_while(|_| staged.pop_front()).collect();
            self.crossed.0 += asks.len() as u64;
            self.crossed.1 += tells.len() as u64;
            self.shards[other].asks.extend(asks);
            self.shards[other].tells.extend(tells);
        }
    }

    fn give_records(&mut self, shard: usize) {
        if let Some(share) = &self.setup.share {
            let engine = &mut self.shards[shard].engine;
            engine.records().edit(|staged| self.sabotage.records(staged));
            engine.session_records().edit(|staged| self.sabotage.records(staged));
            for records in [Engine::records, Engine::session_records] {
                while self.outlet.len() < share.slots
                    && let Some(record) = records(engine).pop_front()
                {
                    self.outlet.push_back(record);
                }
            }
            return;
        }
        let records = self.shards[shard].engine.records();
        let Some(storage) = &mut self.storage else {
            if !records.is_empty() {
                violation!("records", "there are records without a storage");
            }
            return;
        };
        records.edit(|staged| self.sabotage.records(staged));
        if storage.is_late() {
            let World { merged, moves, .. } = self;
            records.edit(|staged| {
                for record in staged.iter() {
                    if let Record::Merged(answer) = record
                        && merged.insert(answer.room.clone())
                    {
                        let said = answer.channels.iter();
                        let said = said.filter_map(|channel| {
                            Some(((*channel.address).clone(), channel.said.clone()?))
                        });
                        moves.extend(said);
                    }
                }
            });
        }
        while let Some(record) = records.pop_front() {
            if let Err(record) = storage.offer(record) {
                return records.push_front(record);
            }
        }
    }

    fn write_sockets(&mut self, shard: usize) {
        let mut dirty = std::mem::take(&mut self.shards[shard].dirty);
        while self.shards[shard].engine.take_dirty(&mut dirty) {
            for conn in dirty.drain(..) {
                while self.write_socket(shard, conn) {}
            }
        }
        self.shards[shard].dirty = dirty;
    }

    fn write_socket(&mut self, shard: usize, conn: ConnId) -> bool {
        let Shard { engine, sockets, .. } = &mut self.shards[shard];
        let Some(&Some(number)) = sockets.get(conn.slot as usize) else { return false };
        let pipe = &mut self.pipes[number];
        if pipe.conn != Some(conn) {
            return false;
        }
        let now = self.now;
        let bytes = engine.output(now, conn);
        if bytes.is_empty() {
            engine.wrote_nothing(conn);
            return false;
        }
        if pipe.is_reset {
            engine.wrote(now, conn, 0, true);
            engine.lost(now, conn);
            return false;
        }
        let room = self.setup.socket_bytes.saturating_sub(pipe.down.len());
        let (offered, count) = (bytes.len(), bytes.len().min(room));
        self.sabotage.write(&bytes[..count], &mut pipe.down);
        pipe.was_full |= count < offered;
        self.bytes_sent += count as u64;
        engine.wrote(now, conn, count, count < offered)
    }

    fn close_sockets(&mut self, shard: usize) {
        let Shard { engine, sockets, .. } = &mut self.shards[shard];
        for conn in engine.take_closed() {
            let Some(place) = sockets.get_mut(conn.slot as usize) else { continue };
            let is_it = |number: &mut usize| self.pipes[*number].conn == Some(conn);
            let Some(number) = place.take_if(is_it) else { continue };
            let pipe = &mut self.pipes[number];
            pipe.is_closed = true;
            pipe.up.clear();
        }
    }

    /// Queues of a turn: a lane's staging queue is as bounded as the lane.
    fn check_staged(&mut self, shard: usize) {
        let max = self.setup.staged_max.max(self.setup.lane_budget.min(64)) + STAGED_SLACK;
        let engine = &mut self.shards[shard].engine;
        let max = max + STAGED_SLACK_PER_CONNECTION * self.pipes.len();
        for other in (0..engine.shards()).map(ShardId) {
            let (asks, tells) = (engine.asks_for(other).len(), engine.tells_for(other).len());
            if asks > max {
                violation!("bounded asks", "{asks} asks are staged for {other}, at most {max}");
            }
            if tells > max + 64 * self.pipes.len() {
                violation!("bounded tells", "{tells} tells are staged for {other}");
            }
        }
    }

    /// A turn ends when its work is spent, but for the last thing that each of its parts did.
    fn check_work(&self, shard: usize) {
        let spent = self.shards[shard].engine.work_spent();
        let bound = 2 * self.setup.turn_units + WORK_SLACK;
        if spent > bound {
            violation!("work of a turn", "shard {shard} spent {spent} of {bound} units");
        }
    }

    fn check_bounds(&mut self, shard: usize) {
        let slots = self.setup.lane_slots;
        for (number, shard) in self.shards.iter().enumerate() {
            let (asks, tells) = (shard.asks.len(), shard.tells.len());
            if asks > slots || tells > slots {
                violation!("lane capacity", "shard {number} has {asks} asks and {tells} tells");
            }
        }
        let Shard { engine, sockets, .. } = &mut self.shards[shard];
        engine.check();
        let limits = &self.setup.limits;
        let input_max = limits.max_message_bytes as usize + 16 * 1_024 + self.setup.read_bytes;
        // A reply is made only for a client that is within its bound, and is the one frame more.
        let output_max = 2 * limits.outbox_bytes as usize + (1 << 16);
        for &number in sockets.iter().flatten() {
            let Some(conn) = self.pipes[number].conn else { continue };
            let (input, output) = engine.waiting_bytes(conn);
            if input > input_max {
                violation!("bounded input", "connection {number} holds {input} unread bytes");
            }
            if output > output_max {
                violation!("bounded outbox", "connection {number} holds {output} unsent bytes");
            }
        }
    }
}
