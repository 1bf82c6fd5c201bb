//! One shard as a pure machine: bytes, asks, tells, ticks and `now` in; bytes, asks, tells, records
//! and telemetry out.
//!
//! It has no socket, clock, thread, lock or trait parameter. The [driver](crate::shard::driver)
//! gives it all of those; the simulator is another driver, with N engines in one thread.
//!
//! A driver calls it in turns:
//!
//! 1. [`Engine::take_left_tells`], [`Engine::take_tells`], [`Engine::take_asks`]
//! 2. [`Engine::resume`]; [`Engine::begin_reading`], and while [`Engine::may_read`], for the sockets that have bytes, [`AHEAD`] at a time, [`Engine::prefetch_input`], and [`Engine::receive`] for each
//! 3. [`Engine::tick`]
//! 4. [`Engine::run_own_lane`]; also [`Engine::run_own_lane_between`] those of step 2 if [`Engine::asks_itself_much`]
//! 5. [`Engine::records`] into the storage, as far as it takes them; [`Engine::asks_for`] and [`Engine::tells_for`] into the lanes, as far as they take them
//! 6. while [`Engine::take_dirty`] gives any, for each: [`Engine::output`] and [`Engine::wrote`]
//! 7. [`Engine::end_turn`], and the lanes of step 5 once more for what that left
//! 8. [`Engine::unblock`]
//!
//! *Invariants*: what a client sent is handled in order and once; after a turn no outbox holds
//! fresh letters; a connection is closed once, for one reason, which is counted.
//! [`Engine::check`] asserts what can be asserted.
//!
//! *Panics*: the engine makes its own slots, shards come from the placement, and receivers were
//! listed by the edge in the same turn; numbers sent by clients or peers are compared or looked up
//! with `get`. If an index still fails, the shard has lost its state, and the process ends.

mod ahead;
mod closing;
mod fan_out;
mod heard;
mod input;
mod output;
mod shedding;

pub use ahead::AHEAD;

use crate::base::hash::{Placement, seeded};
use crate::base::ids::{ConnId, ShardId};
use crate::base::limits::{
    GAP_NOTICES_PER_TURN, LANE_STAGED_MAX, Limits, OWN_ASKS_AT_A_TIME, RECORDS_STAGED_BYTES_MAX,
    SESSIONS_STAGED_BYTES_MAX,
};
use crate::base::quota::NodeQuotas;
use crate::base::time::Now;
use crate::base::work::{self, FAN_OUT_UNITS_MAX, TURN_UNITS, Work};
use crate::broker::delivery::Deliveries;
use crate::broker::durable::Durability;
use crate::broker::edge::{Edge, Facts, ReturnCounts};
use crate::broker::home::{Bootstrap, Home, Told};
use crate::broker::lane::{
    Ask, Asks, ClientsPart, Part, PendingRef, RoomAsk, RoomWish, Survey, Tell, Topic, TraceReport,
};
use crate::broker::peers::{PeerNews, PeerNote, PeerRecord};
use crate::broker::policy::{Access, Roles};
use crate::broker::record::{Record, Snapshot, StorageNews};
use crate::broker::returning::SessionPlan;
use crate::broker::staged::Staged;
use crate::broker::telemetry::Telemetry;
use crate::doors::HandshakePolicy;
use crate::protocol::close::CloseReason;
use crate::protocol::views::Counts;
use crate::shard::connection::Connection;
use crate::shard::engine::heard::Heard;
use crate::shard::mail::Mail;
use crate::shard::meters::{Counter, Drop as DropReason, Gauge, Pause, Tally};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

/// What an engine is made of.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which shard it is.
    pub shard: ShardId,
    /// Where rooms and clients are at home: the same on every shard.
    pub placement: Placement,
    /// The limits.
    pub limits: Arc<Limits>,
    /// What clients are told.
    pub facts: Arc<Facts>,
    /// Whom it lets connect, and as what.
    pub access: Access,
    /// The rooms that are there from the start, on all shards together.
    pub rooms: Arc<Vec<Bootstrap>>,
    /// What all shards share.
    pub on_node: NodeQuotas,
    /// Where its randomness comes from.
    pub seed: u64,
}

/// One shard.
#[derive(Debug)]
pub struct Engine {
    shard: ShardId,
    placement: Placement,
    limits: Arc<Limits>,
    handshakes: HandshakePolicy,
    roles: Roles,
    edge: Edge,
    home: Home,
    connections: Vec<Option<Box<Connection>>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    /// Slots whose session has not been ended yet.
    retired: Vec<u32>,
    connection_count: usize,
    asks: Asks,
    tells: Vec<Staged<Tell>>,
    staged_max: usize,
    deliveries: Deliveries,
    told: Told,
    heard: Heard,
    mail: Mail,
    scratch: Vec<u8>,
    /// What `scratch` holds.
    offer: Offer,
    /// The letters of this turn for the connection that was looked at last.
    numbers: Vec<u32>,
    dirty: Vec<ConnId>,
    /// Connections that have something of a channel with many members to be written, after all others.
    late: VecDeque<ConnId>,
    /// The units that writing to connections with frames of this turn may still spend, and those that
    /// writing to late ones may.
    dirty_left: u64,
    late_left: u64,
    /// Which connections are written to now.
    phase: Phase,
    /// Connections with a backlog that one write did not empty; the turn writes to them last.
    catching_up: VecDeque<ConnId>,
    /// The units that writing to them may still spend in this turn.
    catch_up_left: u64,
    /// The connection that is written to, if its backlog was empty before: its bytes are charged already.
    keeps_pace: Option<ConnId>,
    /// What the bytes for them cost that were queued since none waited.
    late_units: u64,
    /// What writing a message may cost without being late.
    fan_out_units_max: u64,
    /// The gap notices that may still be sent in this turn, and the connections that are owed some in the
    /// next one.
    gap_notices_left: usize,
    gapped: Vec<ConnId>,
    /// Connections that publish to many and wait until less is to be written.
    fanning: Vec<ConnId>,
    /// Connections whose input is to be looked at again.
    unread: VecDeque<ConnId>,
    /// Connections that wait for a lane, by the home it leads to.
    blocked: Vec<Vec<ConnId>>,
    /// Pending `history` requests. A page may be long, so all other asks of a turn are handled first.
    reading: VecDeque<Box<RoomAsk>>,
    /// Connections whose session is over and has to be told of.
    leaving: VecDeque<(ConnId, CloseReason)>,
    /// Connections whose socket is to be closed for writing.
    half_closed: Vec<ConnId>,
    /// Connections whose socket is to be closed.
    closed: Vec<ConnId>,
    timers: BTreeMap<u64, Vec<ConnId>>,
    traced: Vec<(PendingRef, u64)>,
    telemetry: Vec<Telemetry>,
    /// What is to be kept and the storage has not taken yet.
    records: Staged<Record>,
    /// What is to be recorded of sessions: it waits for no event, and no event for it.
    session_records: Staged<Record>,
    records_bytes_max: usize,
    /// Events that were recorded and are neither stored nor lost.
    events_pending: u64,
    tally: Tally,
    paused: u64,
    outbox_bytes: u64,
    /// Whether the mail of this turn is as much as an outbox holds.
    is_pressed: bool,
    /// Whether the shard's own tells go before those of other shards in this turn.
    own_tells_first: bool,
    /// While clients are sent away, until when the last handshakes are awaited.
    draining_until_ms: Option<u64>,
    rng: fastrand::Rng,
}

/// The groups of connections that a turn writes to, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Connections with frames of this turn.
    Dirty,
    /// Members of channels with many members.
    Late,
    /// Connections with a backlog whose sockets take bytes again.
    CatchingUp,
}

/// What was gathered for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// All letters of a batch: the next connection may be given the same bytes.
    Batch(u32),
    /// The backlog of one connection and the letters that were listed for it.
    Listed,
}

impl Engine {
    /// A shard without connections, with those rooms that are at home on it.
    pub fn new(plan: Plan, now: Now) -> Engine {
        let Plan { shard, placement, limits, facts, access, rooms, on_node, seed } = plan;
        let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(shard.0) << 48);
        let hasher = seeded(rng.u64(..));
        let shards = placement.shards();
        let (limited, forked) = (limits.clone(), rng.fork());
        let mut home = Home::new(shard, shards, limited, on_node, hasher.clone(), forked);
        for room in rooms.iter().filter(|room| placement.of_room(&room.name) == shard) {
            home.bootstrap(now, room);
        }
        let edge = Edge::new(shard, placement.clone(), limits.clone(), facts, hasher, rng.fork());
        Engine {
            shard,
            limits,
            handshakes: HandshakePolicy { allowed_origins: access.origins },
            roles: access.roles,
            edge,
            home,
            connections: Vec::new(),
            generations: Vec::new(),
            free: Vec::new(),
            retired: Vec::new(),
            connection_count: 0,
            asks: Asks::new(shards),
            tells: (0..shards).map(|_| Staged::default()).collect(),
            staged_max: LANE_STAGED_MAX,
            deliveries: Deliveries::default(),
            told: Told { work: Work::new(TURN_UNITS), ..Told::default() },
            heard: Heard::default(),
            mail: Mail::default(),
            scratch: Vec::new(),
            offer: Offer::Listed,
            numbers: Vec::new(),
            dirty: Vec::new(),
            late: VecDeque::new(),
            dirty_left: TURN_UNITS,
            late_left: TURN_UNITS / 2,
            phase: Phase::Dirty,
            catching_up: VecDeque::new(),
            catch_up_left: TURN_UNITS / 4,
            keeps_pace: None,
            late_units: 0,
            fan_out_units_max: FAN_OUT_UNITS_MAX,
            gap_notices_left: GAP_NOTICES_PER_TURN,
            gapped: Vec::new(),
            fanning: Vec::new(),
            unread: VecDeque::new(),
            blocked: (0..shards).map(|_| Vec::new()).collect(),
            reading: VecDeque::new(),
            leaving: VecDeque::new(),
            half_closed: Vec::new(),
            closed: Vec::new(),
            timers: BTreeMap::new(),
            traced: Vec::new(),
            telemetry: Vec::new(),
            records: Staged::default(),
            session_records: Staged::default(),
            records_bytes_max: RECORDS_STAGED_BYTES_MAX,
            events_pending: 0,
            tally: Tally::default(),
            paused: 0,
            outbox_bytes: 0,
            is_pressed: false,
            own_tells_first: false,
            draining_until_ms: None,
            placement,
            rng,
        }
    }

    /// Begins with what was kept of the rooms that are at home here, and keeps what comes. Called
    /// once, before the first turn, if there is a storage.
    pub fn begin_with(&mut self, now: Now, durability: Durability, snapshot: Snapshot) {
        self.home.begin_with(now, durability, snapshot, &mut self.told);
        self.stage_told(now);
    }

    /// Has clients return to their sessions. Called once, before the first turn, if there is a storage
    /// that keeps them.
    pub fn keep_sessions(&mut self, plan: SessionPlan) {
        self.edge.keep_sessions(plan);
    }

    /// Which shard it is.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How many shards there are.
    pub fn shards(&self) -> u16 {
        self.placement.shards()
    }

    /// Takes a connection whose handshake is awaited. `turned_away` says why it is closed as soon
    /// as it has shaken hands, if it is.
    pub fn open(
        &mut self,
        now: Now,
        peer: Option<IpAddr>,
        turned_away: Option<CloseReason>,
    ) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.generations.push(0);
            (self.connections.len() - 1) as u32
        });
        let conn = ConnId { slot, generation: self.generations[slot as usize] };
        let deadline_ms = now.mono_ms() + u64::from(self.limits.handshake_timeout_ms);
        // One that was accepted before a drain has no more time than those that came in before it.
        let deadline_ms =
            self.draining_until_ms.map_or(deadline_ms, |until| until.min(deadline_ms));
        let mut connection = Connection::new(conn, peer, now.mono_ms(), deadline_ms);
        connection.turned_away = turned_away;
        self.connections[slot as usize] = Some(Box::new(connection));
        self.connection_count += 1;
        self.tally.add(Counter::ConnectionsOpened, 1);
        self.arm(conn);
        conn
    }

    /// Handles a tell of a home.
    fn on_tell(&mut self, now: Now, tell: Tell) {
        self.tally.add(Counter::Tells, 1);
        self.told.work.charge(work::TELL);
        self.edge.on_tell(now, tell, &mut self.deliveries);
        self.deliver(now);
    }

    /// Whether tells may be handled: what they bring fits beside the mail of this turn, and its work is
    /// not spent. A burst of one turn must not cost a client messages that its socket would take.
    fn may_take_tells(&self) -> bool {
        !self.is_pressed && !self.told.work.is_spent()
    }

    /// Handles what the shard told itself and did not come to in the last turn, every other turn
    /// before what others tell it: neither can starve the other.
    pub fn take_left_tells(&mut self, now: Now) {
        if self.own_tells_first {
            self.told.work.begin_part(work::Part::Tells);
            self.take_own_tells(now);
        }
    }

    fn take_own_tells(&mut self, now: Now) {
        while self.may_take_tells()
            && let Some(tell) = self.tells[self.shard.index()].pop_front()
        {
            self.on_tell(now, tell);
        }
    }

    /// Whether asks may be handled: every edge has taken most of what it was told, and the work of this
    /// turn is not spent.
    pub fn may_take_asks(&self) -> bool {
        !self.told.work.is_spent() && self.has_room_for_tells()
    }

    fn has_room_for_tells(&self) -> bool {
        !self.tells.iter().any(|queue| queue.is_full(self.staged_max))
    }

    /// Handles an ask of an edge.
    fn on_ask(&mut self, now: Now, ask: Ask) {
        self.tally.add(Counter::Asks, 1);
        self.told.work.charge(work::ASK);
        match ask {
            Ask::Survey(survey) => self.on_survey(now, *survey),
            Ask::Storage(news) => self.on_storage(now, *news),
            Ask::Traced(report) => {
                self.edge.on_traced(now, report, &mut self.deliveries);
                self.deliver(now);
            }
            Ask::Drain { window_ms } => self.drain(now, window_ms),
            Ask::Shed { history_bytes, client_bytes } => {
                self.shed(now, history_bytes, client_bytes);
            }
            Ask::Room(ask) if matches!(ask.wish, RoomWish::History(_)) => {
                self.reading.push_back(ask);
            }
            Ask::Gone(conn) => {
                if !self.reading.is_empty() {
                    self.told.work.charge(self.reading.len() as u64);
                    self.reading.retain(|ask| ask.conn != conn);
                }
                self.home.on_ask(now, Ask::Gone(conn), &mut self.told);
            }
            // Clients that are connected keep their roles.
            Ask::Admit(access) => {
                self.handshakes.allowed_origins = access.origins;
                self.roles = access.roles;
            }
            Ask::Reconfigure(limits) => {
                self.limits = limits.clone();
                self.edge.reconfigure(limits.clone());
                self.home.reconfigure(limits, &mut self.told);
                // What is now due earlier than it was must be looked at earlier.
                let open = self.connections.iter().flatten();
                let open: Vec<ConnId> = open.map(|connection| connection.id).collect();
                open.into_iter().for_each(|conn| self.arm(conn));
            }
            ask => self.home.on_ask(now, ask, &mut self.told),
        }
        self.stage_told(now);
    }

    /// Counts that asks wait because an edge does not take what it is told, or because the turn has done
    /// its work.
    fn note_stalled_asks(&mut self) {
        self.tally.pause(match self.has_room_for_tells() {
            true => Pause::TurnSpent,
            false => Pause::TellLaneFull,
        });
    }

    /// Handles what the shard asks of itself and tells itself. The way is the same as between
    /// shards, without the lanes.
    pub fn run_own_lane(&mut self, now: Now) {
        self.told.work.begin_part(work::Part::Own);
        self.run_own_lane_between(now);
        self.read_histories(now);
    }

    /// Answers pending `history` requests: at least one per turn, and more while the turn has work left.
    fn read_histories(&mut self, now: Now) {
        if self.reading.is_empty() {
            return;
        }
        let mut is_first = true;
        while (is_first || !self.told.work.is_spent())
            && self.has_room_for_tells()
            && let Some(ask) = self.reading.pop_front()
        {
            is_first = false;
            self.home.on_ask(now, Ask::Room(ask), &mut self.told);
            self.stage_told(now);
        }
        self.take_own_tells(now);
    }

    /// The same while sockets are read, within the work of that part of the turn.
    pub fn run_own_lane_between(&mut self, now: Now) {
        self.edge.note_parsed(now);
        // Tells of this turn may not grow without end: what is left is done in the next turn.
        for number in 0..self.asks.queue(self.shard).len() {
            if !self.may_take_asks() {
                break;
            }
            if number.is_multiple_of(AHEAD) {
                self.prefetch_asks(self.asks.waiting(self.shard).iter());
            }
            if let Some(ask) = self.asks.queue(self.shard).pop_front() {
                self.on_ask(now, ask);
            }
        }
        self.take_own_tells(now);
        self.stage_sessions(now, false);
    }

    /// Whether the shard asks itself so much that it should handle it now, while it is in the
    /// processor's caches. Where there is a storage, the bound of what a shard asks in a turn is what
    /// bounds the records of a turn, too: there it waits.
    pub fn asks_itself_much(&mut self) -> bool {
        !self.home.is_durable() && self.asks.queue(self.shard).len() >= OWN_ASKS_AT_A_TIME
    }

    /// What waits for the ask lane of another shard.
    pub fn asks_for(&mut self, home: ShardId) -> &mut Staged<Ask> {
        self.asks.queue(home)
    }

    /// What waits for the tell lane of another shard.
    pub fn tells_for(&mut self, edge: ShardId) -> &mut Staged<Tell> {
        &mut self.tells[edge.index()]
    }

    /// What waits for the lanes of another shard, to look at.
    pub fn staged_for(&self, shard: ShardId) -> (&Staged<Ask>, &Staged<Tell>) {
        (self.asks.waiting(shard), &self.tells[shard.index()])
    }

    /// Whether there is something to do before any socket or other shard says so.
    pub fn has_work(&mut self) -> bool {
        !self.unread.is_empty()
            || !self.leaving.is_empty()
            || !self.dirty.is_empty()
            || !self.late.is_empty()
            || !self.catching_up.is_empty()
            || (!self.reading.is_empty() && self.has_room_for_tells())
            || (self.may_take_asks() && !self.asks.queue(self.shard).is_empty())
            || !self.tells[self.shard.index()].is_empty()
            || self.has_heard()
            || self.home.has_leaving()
            || self.home.has_opening()
            || (self.has_room_for_sessions() && self.edge.has_session_records())
    }

    /// When [`Engine::tick`] next has something to do, on the monotonic clock in milliseconds.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let timers = self.timers.keys().next().copied();
        let has_room = self.has_room_for_sessions();
        let session_ms = self.edge.next_session_ms().filter(|_| has_room);
        let others = [self.home.next_expiry_ms(), self.edge.next_deadline_ms(), session_ms];
        timers.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// What waits for the storage, in order.
    pub fn records(&mut self) -> &mut Staged<Record> {
        &mut self.records
    }

    /// What of sessions waits for the storage, in order.
    pub fn session_records(&mut self) -> &mut Staged<Record> {
        &mut self.session_records
    }

    /// Stages all that is known of sessions and not recorded yet; for the end.
    pub fn stage_last_sessions(&mut self, now: Now) {
        self.stage_sessions(now, true);
    }

    /// What happened since this was last asked, for the control plane.
    pub fn take_telemetry(&mut self) -> std::vec::Drain<'_, Telemetry> {
        self.telemetry.drain(..)
    }

    /// Counts telemetry that the control plane did not take.
    pub fn note_lost_telemetry(&mut self, events: u64) {
        self.tally.dropped(DropReason::TelemetryFull, events);
    }

    /// Everything that is counted. The driver adds what only it can see.
    pub fn tally_mut(&mut self) -> &mut Tally {
        &mut self.tally
    }

    /// Everything that is counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Brings the gauges up to date.
    pub fn set_gauges(&mut self) {
        self.tally.set(Gauge::Connections, self.connection_count as u64);
        self.tally.set(Gauge::Clients, self.edge.client_count());
        self.tally.set(Gauge::Rooms, self.home.room_count() as u64);
        self.tally.set(Gauge::Channels, self.home.channel_count() as u64);
        let held = self.home.history_held();
        self.tally.set(Gauge::HistoryMessages, held.messages as u64);
        self.tally.set(Gauge::HistoryBytes, held.bytes as u64);
        self.tally.set(Gauge::EventsPending, self.events_pending);
        self.tally.set(Gauge::AcksWaiting, self.home.waiting_acks() as u64);
        let records = self.records.bytes() + self.session_records.bytes();
        self.tally.set(Gauge::RecordsBytes, records as u64);
        self.tally.set(Gauge::Paused, self.paused);
        self.tally.set(Gauge::OutboxBytes, self.outbox_bytes);
    }

    /// How many connections there are.
    pub fn connection_count(&self) -> usize {
        self.connection_count
    }

    /// Other turns than those of [`TURN_UNITS`]; for the simulator, whose turns shall end early often.
    pub fn set_turn_units(&mut self, units: u64) {
        self.told.work = Work::new(units);
        self.dirty_left = self.told.work.dirty_units();
        self.late_left = self.told.work.late_units();
        self.catch_up_left = self.told.work.catch_up_units();
    }

    /// Another bound than [`FAN_OUT_UNITS_MAX`] for what is written at once; for the simulator, whose
    /// channels are all small.
    pub fn set_fan_out_units_max(&mut self, units: u64) {
        self.fan_out_units_max = units;
    }

    /// The work of this turn so far, in units.
    pub fn work_spent(&self) -> u64 {
        self.told.work.spent()
    }

    /// Another bound than [`LANE_STAGED_MAX`] for what waits for a lane; for the simulator, whose
    /// queues shall be full often.
    pub fn set_staged_max(&mut self, staged_max: usize) {
        self.staged_max = staged_max;
        self.asks.set_staged_max(staged_max);
    }

    /// Another bound than [`RECORDS_STAGED_BYTES_MAX`] for what waits for the storage; for the
    /// simulator, whose storage shall be late often.
    pub fn set_records_bytes_max(&mut self, bytes_max: usize) {
        self.records_bytes_max = bytes_max;
    }

    /// The bytes of a connection that were read and not handled, and those that were not written;
    /// for the simulator.
    pub fn waiting_bytes(&self, conn: ConnId) -> (usize, usize) {
        self.connection(conn).map_or((0, 0), |connection| {
            let stalled = connection.stalled.as_ref().map_or(0, |text| text.len());
            (connection.input.len() + stalled, connection.outbox.bytes())
        })
    }

    /// The rooms and clients at home here; for the simulator.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The clients connected here; for the simulator.
    pub fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Asserts every invariant; for tests and the simulator, between turns.
    pub fn check(&self) {
        self.home.check();
        self.edge.check();
        self.tells.iter().for_each(Staged::check);
        self.records.check();
        self.session_records.check();
        for (home, waiting) in self.blocked.iter().enumerate() {
            let has_room = self.asks.has_room(ShardId(home as u16));
            assert!(waiting.is_empty() || !has_room, "nobody waits for a lane that has room");
        }
        let connections = || self.connections.iter().flatten();
        for connection in connections() {
            match connection.is_late {
                true => connection.outbox.check_backlog(),
                false => connection.outbox.check(),
            }
            assert!(connection.outbox.bytes() <= 2 * self.outbox_bytes_max() + (4 << 20));
        }
        let paused = connections().filter(|connection| connection.paused.is_some()).count();
        assert_eq!(paused as u64, self.paused, "pauses are counted right");
        let waiting: usize = connections().map(|connection| connection.outbox.bytes()).sum();
        assert_eq!(waiting as u64, self.outbox_bytes, "outbox bytes are counted right");
        let is_over = self.mail.letters().is_empty();
        assert!(is_over || !self.late.is_empty(), "mail lives until it is written");
        assert!(self.fanning.is_empty() || !self.late.is_empty(), "nobody waits for nothing");
    }

    fn on_storage(&mut self, now: Now, news: StorageNews) {
        self.edge.on_storage(now, &news, &mut self.deliveries);
        self.deliver(now);
        match news {
            StorageNews::Session(..) => {}
            StorageNews::Peer(PeerNews::Note(PeerNote::Announce { room: None, frame })) => {
                self.edge.announce(&frame, &mut self.deliveries);
                self.deliver(now);
            }
            StorageNews::Peer(PeerNews::AskClients { peer, reply_to, rows }) => {
                let clients = Box::new(self.edge.clients_for_peer(reply_to, &rows));
                self.told.work.charge(work::ROW * clients.part.rows.rows.len() as u64);
                let answer = PeerRecord::Send(peer, PeerNote::Clients(clients));
                self.told.records.push(Record::Peer(Box::new(answer)));
            }
            StorageNews::Peer(PeerNews::Clients(peer, clients)) => {
                self.edge.on_peer_clients(now, peer, *clients, &mut self.deliveries);
                self.deliver(now);
            }
            news => self.home.on_ask(now, Ask::Storage(Box::new(news)), &mut self.told),
        }
    }

    fn on_survey(&mut self, now: Now, survey: Survey) {
        let Survey { reply_to, client, topic } = survey;
        let part = match topic {
            Topic::Status => Part::Status(Box::new(Counts {
                clients: self.edge.client_count() + self.once(self.home.clients_elsewhere()),
                rooms: self.home.room_count() as u64,
                channels: self.home.channel_count() as u64,
                messages_in: self.tally.counter(Counter::MessagesReceived),
                messages_out: self.tally.counter(Counter::MessagesSent),
                storage: self
                    .home
                    .storage_view(self.events_pending, self.tally.counter(Counter::EventsLost)),
                peers: self.home.peers_view().filter(|_| self.shard == ShardId(0)),
            })),
            Topic::Rooms(rows) => Part::Rooms(self.home.rooms_part(&client, &rows, &mut self.told)),
            Topic::Clients(wanted) => {
                let rows = self.edge.clients_part(&wanted);
                self.told.work.charge(work::ROW * rows.rows.len() as u64);
                let peers = match self.shard {
                    ShardId(0) => self.home.ask_for_clients(reply_to, &wanted, &mut self.told),
                    _ => Arc::default(),
                };
                Part::Clients(Box::new(ClientsPart { rows, peers }))
            }
            Topic::Announce(frame) => {
                let clients = self.edge.announce(&frame, &mut self.deliveries);
                self.deliver(now);
                let far = match self.shard == ShardId(0) {
                    true => self.home.announce_to_peers(None, &frame, &mut self.told),
                    false => 0,
                };
                Part::Announced(clients + far)
            }
        };
        let tell = Tell::Part { pending: reply_to.pending, shard: self.shard, part };
        self.told.tell(reply_to.shard, tell);
    }

    /// What is known to all homes of a node and counts once.
    fn once(&self, count: u64) -> u64 {
        if self.shard == ShardId(0) { count } else { 0 }
    }

    /// Stages what the home wants told. What it tells this shard is handled at once, unless something waits
    /// that comes before it.
    fn stage_told(&mut self, now: Now) {
        self.tally.add(Counter::EventsAccepted, std::mem::take(&mut self.told.accepted));
        self.tally.add(Counter::EventsDuplicate, std::mem::take(&mut self.told.duplicates));
        self.tally.add(Counter::HistoryShed, std::mem::take(&mut self.told.shed));
        if self.home.is_durable() {
            self.stage_records();
        }
        if !self.told.telemetry.is_empty() {
            let events = self.told.telemetry.drain(..);
            self.telemetry.extend(events.map(|event| Telemetry { at_us: now.wall_us, event }));
        }
        let mut tells = std::mem::take(&mut self.told.tells);
        for (shard, tell) in tells.drain(..) {
            let queue = &mut self.tells[shard.index()];
            let may_handle = !self.is_pressed && !self.told.work.is_spent();
            match shard == self.shard && queue.is_empty() && may_handle {
                true => self.on_tell(now, tell),
                false => queue.push_back(tell),
            }
        }
        // Handling a tell makes none, so the emptied list can be used again.
        self.told.tells = tells;
    }

    /// Stages what the home wants kept. What there is no room for is lost, which the home tells who
    /// waits for it: so before its tells are staged.
    fn stage_records(&mut self) {
        let bytes_max = self.records_bytes_max;
        let mut records = std::mem::take(&mut self.told.records);
        let overdue = match self.records.bytes() < bytes_max {
            true => self.home.take_overdue(&mut self.told),
            false => Vec::new(),
        };
        for record in overdue.into_iter().chain(records.drain(..)) {
            let is_event = record.is_event();
            let has_room = match is_event {
                true => self.records.bytes() < bytes_max,
                // What peers are told depends on all of it and on its order, and the storage waits for
                // what became of what it has read.
                false => {
                    matches!(record, Record::Peer(_) | Record::Merged(_))
                        || self.records.bytes() < 2 * bytes_max
                }
            };
            self.events_pending += u64::from(is_event);
            self.tally.add(Counter::Records, 1);
            match has_room {
                true => self.records.push_back(record),
                false => {
                    self.tally.add(Counter::RecordsLost, 1);
                    self.home.lose(record, &mut self.told);
                }
            }
        }
        // Emptied, to be used again.
        self.told.records = records;
        let Told { stored, lost, forgotten, ack_waits, epochs_changed, torn, .. } = &mut self.told;
        let over = *stored + *lost + *forgotten;
        self.events_pending -= over;
        self.tally.add(Counter::EventsStored, std::mem::take(stored));
        self.tally.add(Counter::EventsLost, std::mem::take(lost));
        self.tally.add(Counter::AckWaits, std::mem::take(ack_waits));
        self.tally.add(Counter::EpochsChanged, std::mem::take(epochs_changed));
        self.tally.add(Counter::OrdersTorn, std::mem::take(torn));
        *forgotten = 0;
    }

    /// Stages what is to be recorded of sessions, as far as there is room; the rest stays with the edge.
    fn stage_sessions(&mut self, now: Now, is_last: bool) {
        if !self.edge.keeps_sessions() {
            return;
        }
        while (is_last || self.has_room_for_sessions())
            && let Some(record) = self.edge.take_session_record(now, is_last)
        {
            self.tally.add(Counter::Records, 1);
            self.session_records.push_back(record);
        }
        let ReturnCounts { resumed, unknown } = self.edge.take_return_counts();
        self.tally.add(Counter::SessionsResumed, resumed);
        self.tally.add(Counter::SessionsUnknown, unknown);
    }

    fn has_room_for_sessions(&self) -> bool {
        self.session_records.bytes() < SESSIONS_STAGED_BYTES_MAX
    }

    fn connection(&self, conn: ConnId) -> Option<&Connection> {
        let connection = self.connections.get(conn.slot as usize)?.as_deref()?;
        (connection.id == conn).then_some(connection)
    }

    fn connection_mut(&mut self, conn: ConnId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(conn.slot as usize)?.as_deref_mut()?;
        (connection.id == conn).then_some(connection)
    }

    fn outbox_bytes_max(&self) -> usize {
        self.limits.outbox_bytes as usize
    }

    /// Sees to it that a connection is looked at when it next has to be.
    fn arm(&mut self, conn: ConnId) {
        let (heartbeat_ms, grace_ms) =
            (u64::from(self.limits.heartbeat_ms), u64::from(self.limits.slow_grace_ms));
        let Some(connection) = self.connection_mut(conn) else { return };
        // A grain of 8 ms keeps the table short.
        let due_ms = connection.next_check_ms(heartbeat_ms, grace_ms).next_multiple_of(8);
        if due_ms < connection.timer_ms {
            connection.timer_ms = due_ms;
            self.timers.entry(due_ms).or_default().push(conn);
        }
    }

    /// Reports where traced messages went, if their lane has room.
    fn report_traces(&mut self, now: Now) {
        for (reply_to, members) in std::mem::take(&mut self.traced) {
            if !self.asks.has_room(reply_to.shard) {
                self.tally.dropped(DropReason::TraceReport, 1);
                continue;
            }
            let report = TraceReport {
                pending: reply_to.pending,
                shard: self.shard,
                delivered_ns: now.mono_ns,
                members,
            };
            self.asks.push(reply_to.shard, Ask::Traced(report));
        }
    }
}

#[cfg(test)]
mod tests;
