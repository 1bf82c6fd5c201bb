//! Gives an engine its sockets, its lanes and its time: the only file with mio.
//!
//! A turn is `Driver::turn`, a list to be read from top to bottom. Old work leaves before new
//! work enters: what other shards told and asked comes before the sockets, and every connection is
//! written to once, after all that may add to its outbox.
//!
//! Sockets are registered once, edge-triggered, for reading and writing. A socket that said it is
//! readable is read until it gives less than it was offered (then it is empty, and the next byte
//! makes a new edge) or until its share of the turn is used up (then it stays in `ready`).
//!
//! A shard that ran out of work may look for more for a while before it sleeps (`Driver::spin`).
//! While it looks it is awake: nobody rings for it, and it sees sockets and lanes by itself.
//!
//! *Invariants*: nobody waits for a lane; a sleeping shard has nothing to do but to wait for its
//! sockets, its bell and its next timer; whoever spun looks into its lanes once more, as if it
//! had not, after it has said that it sleeps.
//!
//! *Panics*: the engine numbers the slots, and `sockets` grows before a slot is used; a read stays
//! within `scratch`; no byte of a client is an index.

use crate::base::ids::{ConnId, ShardId};
use crate::base::limits::TurnLimits;
use crate::base::prefetch::prefetch;
use crate::base::time::Now;
use crate::broker::record::Record;
use crate::broker::staged::Staged;
use crate::broker::telemetry::Telemetry;
use crate::protocol::close::CloseReason;
use crate::shard::engine::{AHEAD, Engine};
use crate::shard::lanes::{Bell, Inbox, Lanes};
use crate::shard::meters::{Counter, Gauge, Meters, Pause};
use crossbeam_channel::{Receiver, Sender};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// Reads both clocks.
pub type Clock = Arc<dyn Fn() -> Now + Send + Sync>;

/// Takes telemetry without waiting; false if it is full.
pub type TelemetrySink = Box<dyn FnMut(Telemetry) -> bool + Send>;

/// Takes a record for the storage without waiting; it comes back if there is no room now.
pub type RecordSink = Box<dyn FnMut(Record) -> Result<(), Record> + Send>;

/// The token of the waker; slots of connections are below it.
const BELL: Token = Token(usize::MAX);
/// New connections taken in one turn.
const ARRIVALS_PER_TURN: usize = 256;
/// Once sockets have given so much, it is handled before the next is read.
const READ_TOGETHER_BYTES: usize = 16 * 1024;
/// The longest sleep: gauges are brought up to date this often at least.
const SLEEP_MAX: Duration = Duration::from_millis(500);
/// How long a shard whose records the storage did not take sleeps.
const RECORD_RETRY: Duration = Duration::from_millis(20);
/// How long a shard that ends offers the storage what it did not take before, and how often.
const LAST_RECORDS_NS: u64 = 2_000_000_000;
const LAST_RECORDS_RETRY: Duration = Duration::from_millis(1);
/// How often the meters are published while there is work.
const PUBLISH_NS: u64 = 20_000_000;

/// A new socket for a shard.
#[derive(Debug)]
pub struct Arrival {
    /// The socket, non-blocking.
    pub stream: std::net::TcpStream,
    /// Where it comes from.
    pub peer: IpAddr,
    /// Why it is turned away after its handshake, if it is.
    pub turned_away: Option<CloseReason>,
}

/// What a driver is made of.
pub struct Parts {
    /// The engine.
    pub engine: Engine,
    /// The poll whose waker is the shard's bell.
    pub poll: Poll,
    /// The shard's bell.
    pub bell: Arc<Bell>,
    /// What it receives.
    pub inbox: Inbox,
    /// Where it sends.
    pub lanes: Lanes,
    /// New sockets.
    pub arrivals: Receiver<Arrival>,
    /// Where it says whose connection has ended.
    pub departures: Sender<IpAddr>,
    /// How many connections it has; the acceptor counts up, the driver down.
    pub load: Arc<AtomicU32>,
    /// Where its counts are published.
    pub meters: Arc<Meters>,
    /// Where its telemetry goes.
    pub telemetry: TelemetrySink,
    /// Where its records go.
    pub records: RecordSink,
    /// What a turn may take, and how one that found nothing ends.
    pub turn: TurnLimits,
    /// The clock.
    pub clock: Clock,
    /// Whether the thread is to end.
    pub stop: Arc<AtomicBool>,
}

/// One shard's thread.
pub struct Driver {
    parts: Parts,
    sockets: Vec<Option<Socket>>,
    events: Events,
    /// Slots whose sockets have bytes that were not read.
    ready: Vec<usize>,
    reading: Vec<usize>,
    resumed: Vec<ConnId>,
    dirty: Vec<ConnId>,
    scratch: Vec<u8>,
    /// The bytes that a socket may give in a turn.
    budget_bytes: usize,
    /// What was read and not handled yet.
    got: Vec<Got>,
    published_ns: u64,
    /// Whether nothing was counted since.
    is_published: bool,
}

/// What a socket gave, and where it lies in the scratch buffer.
struct Got {
    slot: usize,
    conn: ConnId,
    bytes: std::ops::Range<usize>,
}

#[derive(Debug)]
struct Socket {
    stream: TcpStream,
    conn: ConnId,
    peer: IpAddr,
    /// Whether it may hold bytes that were not read.
    is_readable: bool,
    /// Whether the peer will send no more, or sends urgent bytes, so that a short read does not mean
    /// empty.
    is_ending: bool,
    /// Whether it is in the list of sockets to be read.
    is_listed: bool,
}

/// A poll and the bell that wakes it.
pub fn poll_with_bell() -> io::Result<(Poll, Arc<Bell>)> {
    let poll = Poll::new()?;
    let waker = mio::Waker::new(poll.registry(), BELL)?;
    Ok((poll, Arc::new(Bell::new(waker))))
}

impl Driver {
    /// A shard that has not run yet.
    pub fn new(parts: Parts) -> Driver {
        let budget_bytes = parts.turn.read_budget_bytes as usize;
        let scratch = vec![0; READ_TOGETHER_BYTES + budget_bytes];
        Driver {
            parts,
            sockets: Vec::new(),
            events: Events::with_capacity(1_024),
            ready: Vec::new(),
            reading: Vec::new(),
            resumed: Vec::new(),
            dirty: Vec::new(),
            scratch,
            budget_bytes,
            got: Vec::new(),
            published_ns: 0,
            is_published: false,
        }
    }

    /// Runs turns until it is told to stop.
    ///
    /// # Errors
    /// If the poll fails, which no shard can live without.
    pub fn run(mut self) -> io::Result<()> {
        while !self.parts.stop.load(Relaxed) {
            let started = (self.parts.clock)();
            self.turn(started);
            let ended = (self.parts.clock)();
            self.count_turn(started, ended);
            self.sleep(ended)?;
        }
        self.give_last_records();
        let last = (self.parts.clock)();
        self.publish(last);
        Ok(())
    }

    fn turn(&mut self, now: Now) {
        self.parts.engine.take_left_tells(now);
        self.take_lanes(now);
        self.take_arrivals(now);
        self.take_events();
        self.resume(now);
        self.read_sockets(now);
        self.parts.engine.tick(now);
        let routed = (self.parts.clock)();
        self.parts.engine.run_own_lane(routed);
        // Before what follows from it on other shards, so that it is told in that order.
        self.give_telemetry();
        self.give_records();
        self.send_lanes();
        self.write_sockets(routed);
        let written = (self.parts.clock)();
        self.parts.engine.end_turn(written);
        // Once more, for the reports of traced messages that were delivered just now, and for what
        // found no room before the sockets were written to.
        self.send_lanes();
        self.parts.engine.unblock();
        self.close_sockets();
        self.give_telemetry();
    }

    fn take_lanes(&mut self, now: Now) {
        let Parts { engine, inbox, lanes, turn, .. } = &mut self.parts;
        let budget = turn.lane_budget as usize;
        engine.take_tells(now, budget, || inbox.tells.take());
        engine.take_asks(now, budget, || inbox.asks.take());
        if engine.shards() > 1 && inbox.has_made_room() {
            let woken = lanes.ring_others(engine.shard());
            engine.tally_mut().add(Counter::Wakeups, woken);
        }
    }

    fn take_arrivals(&mut self, now: Now) {
        for _ in 0..ARRIVALS_PER_TURN {
            let Ok(arrival) = self.parts.arrivals.try_recv() else { return };
            let Arrival { stream, peer, turned_away } = arrival;
            let conn = self.parts.engine.open(now, Some(peer), turned_away);
            let slot = conn.slot as usize;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
            let registry = self.parts.poll.registry();
            if let Err(error) = registry.register(&mut stream, Token(slot), interest) {
                tracing::warn!(%error, "a new connection could not be watched; it is dropped");
                self.parts.engine.lost(now, conn);
            }
            if self.sockets.len() <= slot {
                self.sockets.resize_with(slot + 1, || None);
            }
            let (is_readable, is_ending, is_listed) = (true, false, false);
            self.sockets[slot] =
                Some(Socket { stream, conn, peer, is_readable, is_ending, is_listed });
        }
    }

    fn take_events(&mut self) {
        for event in &self.events {
            let slot = event.token().0;
            // An event may be older than the socket that has the slot now; looking once too
            // often does no harm.
            let Some(Some(socket)) = self.sockets.get_mut(slot) else { continue };
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                socket.is_readable = true;
                // Before a byte that is sent as urgent (MSG_OOB) the kernel gives less than there is, too.
                let is_urgent = event.is_priority();
                socket.is_ending |= event.is_read_closed() || event.is_error() || is_urgent;
                if !std::mem::replace(&mut socket.is_listed, true) {
                    self.ready.push(slot);
                }
            }
            if event.is_writable() {
                self.parts.engine.writable(socket.conn);
            }
        }
        self.events.clear();
    }

    fn resume(&mut self, now: Now) {
        self.parts.engine.resume(now, &mut self.resumed);
        for conn in self.resumed.drain(..) {
            if let Some(Some(socket)) = self.sockets.get_mut(conn.slot as usize)
                && socket.conn == conn
                && socket.is_readable
                && !std::mem::replace(&mut socket.is_listed, true)
            {
                self.ready.push(conn.slot as usize);
            }
        }
    }

    /// Reads the sockets that are ready, some at a time: first once from each of them, then what they
    /// gave is handled. So the processor's caches hold the kernel's way to a byte for the one and the
    /// bus's for the other, and the waits for what the messages touch overlap.
    fn read_sockets(&mut self, now: Now) {
        std::mem::swap(&mut self.ready, &mut self.reading);
        self.parts.engine.begin_reading();
        let mut next = 0;
        while next < self.reading.len() && self.parts.engine.may_read() {
            next = self.read_some(now, next);
            let mut got = std::mem::take(&mut self.got);
            self.handle(now, &got);
            for Got { slot, bytes, .. } in got.drain(..) {
                self.read_rest(now, slot, self.budget_bytes - bytes.len());
            }
            self.got = got;
        }
        self.leave_for_later(next);
    }

    /// Sockets that were not read, because the work of the turn is spent, come first in the next one.
    fn leave_for_later(&mut self, from: usize) {
        if from < self.reading.len() {
            self.parts.engine.tally_mut().pause(Pause::TurnSpent);
            // What came meanwhile goes behind them.
            let late = self.ready.drain(..);
            self.reading.extend(late);
            std::mem::swap(&mut self.ready, &mut self.reading);
            self.ready.drain(..from);
        }
        self.reading.clear();
    }

    /// Reads once from each ready socket, beginning with the one at `next`, as long as there is
    /// room for a whole share in the scratch buffer; gives which is the next then.
    fn read_some(&mut self, now: Now, mut next: usize) -> usize {
        let mut used = 0;
        while next < self.reading.len() && used <= READ_TOGETHER_BYTES {
            let slot = self.reading[next];
            next += 1;
            let Some(Some(socket)) = self.sockets.get_mut(slot) else { continue };
            socket.is_listed = false;
            let conn = socket.conn;
            if !socket.is_readable || !self.parts.engine.wants_input(conn) {
                continue;
            }
            let count = self.read_once(now, slot, used, self.budget_bytes);
            if count > 0 {
                self.got.push(Got { slot, conn, bytes: used..used + count });
                used += count;
            }
        }
        next
    }

    fn handle(&mut self, now: Now, got: &[Got]) {
        for some in got.chunks(AHEAD) {
            self.parts.engine.prefetch_input(some.iter().map(|got| got.conn));
            for Got { conn, bytes, .. } in some {
                self.parts.engine.receive(now, *conn, &mut self.scratch[bytes.clone()]);
            }
            if self.parts.engine.asks_itself_much() {
                let routed = (self.parts.clock)();
                self.parts.engine.run_own_lane_between(routed);
            }
        }
    }

    /// Goes on with a socket that was offered its whole share: mostly it is empty. If not, its share is
    /// used up, and it waits for the next turn; or its peer sends no more, and it is read to its end.
    fn read_rest(&mut self, now: Now, slot: usize, mut left_bytes: usize) {
        loop {
            let Some(Some(socket)) = self.sockets.get_mut(slot) else { return };
            let conn = socket.conn;
            if !socket.is_readable || !self.parts.engine.wants_input(conn) {
                return;
            }
            if left_bytes == 0 || !self.parts.engine.may_read() {
                self.parts.engine.tally_mut().pause(Pause::ReadBudget);
                socket.is_listed = true;
                return self.ready.push(slot);
            }
            let count = self.read_once(now, slot, 0, left_bytes);
            left_bytes -= count;
            if count > 0 {
                self.parts.engine.receive(now, conn, &mut self.scratch[..count]);
            }
        }
    }

    /// Reads up to `room_bytes` of a socket into the scratch buffer; how many there were.
    fn read_once(&mut self, now: Now, slot: usize, at: usize, room_bytes: usize) -> usize {
        let Some(Some(socket)) = self.sockets.get_mut(slot) else { return 0 };
        let conn = socket.conn;
        loop {
            self.parts.engine.tally_mut().add(Counter::SocketReads, 1);
            let place = &mut self.scratch[at..at + room_bytes];
            match rustix::net::recv(&socket.stream, place, RecvFlags::empty()) {
                Ok((0, _)) => {
                    socket.is_readable = false;
                    self.parts.engine.ended(now, conn);
                    return 0;
                }
                Ok((count, _)) => {
                    socket.is_readable = count == room_bytes || socket.is_ending;
                    return count;
                }
                Err(Errno::AGAIN) => {
                    socket.is_readable = false;
                    return 0;
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    socket.is_readable = false;
                    self.parts.engine.lost(now, conn);
                    return 0;
                }
            }
        }
    }

    fn send_lanes(&mut self) {
        let own = self.parts.engine.shard();
        for shard in self.shards() {
            if shard == own {
                continue;
            }
            let Parts { engine, lanes, .. } = &mut self.parts;
            let has_asked = lanes.send_asks(shard, engine.asks_for(shard));
            let has_told = lanes.send_tells(shard, engine.tells_for(shard));
            if (has_asked || has_told) && lanes.ring(shard) {
                engine.tally_mut().add(Counter::Wakeups, 1);
            }
        }
    }

    fn write_sockets(&mut self, now: Now) {
        let mut dirty = std::mem::take(&mut self.dirty);
        // Writing may make room for a notice of what was dropped, which is written in turn.
        while self.parts.engine.take_dirty(&mut dirty) {
            for (number, &conn) in dirty.iter().enumerate() {
                if let Some(next) = dirty.get(number + 1) {
                    self.sockets.get(next.slot as usize).into_iter().for_each(prefetch);
                }
                while self.write_socket(now, conn) {}
            }
        }
        self.dirty = dirty;
    }

    /// Writes once; true if there is more that the socket might take.
    fn write_socket(&mut self, now: Now, conn: ConnId) -> bool {
        let Some(Some(socket)) = self.sockets.get_mut(conn.slot as usize) else { return false };
        if socket.conn != conn {
            return false;
        }
        let bytes = self.parts.engine.output(now, conn);
        if bytes.is_empty() {
            self.parts.engine.wrote_nothing(conn);
            return false;
        }
        let offered = bytes.len();
        let result = rustix::net::send(&socket.stream, bytes, SendFlags::NOSIGNAL);
        self.parts.engine.tally_mut().add(Counter::SocketWrites, 1);
        match result {
            Ok(count) => self.parts.engine.wrote(now, conn, count, count < offered),
            Err(Errno::AGAIN) => self.parts.engine.wrote(now, conn, 0, true),
            Err(Errno::INTR) => true,
            Err(_) => {
                self.parts.engine.wrote(now, conn, 0, true);
                self.parts.engine.lost(now, conn);
                false
            }
        }
    }

    fn close_sockets(&mut self) {
        for conn in self.parts.engine.take_half_closed() {
            if let Some(Some(socket)) = self.sockets.get(conn.slot as usize)
                && socket.conn == conn
            {
                // A socket that fails here is gone already, and a read finds that out.
                let _ = socket.stream.shutdown(Shutdown::Write);
            }
        }
        for conn in self.parts.engine.take_closed() {
            let Some(place) = self.sockets.get_mut(conn.slot as usize) else { continue };
            let Some(mut socket) = place.take_if(|socket| socket.conn == conn) else { continue };
            // A socket that fails here is gone from the poll already.
            let _ = self.parts.poll.registry().deregister(&mut socket.stream);
            self.parts.load.fetch_sub(1, Relaxed);
            // The acceptor may have ended before the shards; then nobody counts any more.
            let _ = self.parts.departures.send(socket.peer);
        }
    }

    fn give_telemetry(&mut self) {
        let mut lost = 0;
        for event in self.parts.engine.take_telemetry() {
            lost += u64::from(!(self.parts.telemetry)(event));
        }
        if lost > 0 {
            self.parts.engine.note_lost_telemetry(lost);
        }
    }

    /// Gives the storage what it takes; the rest is offered again in the next turn.
    fn give_records(&mut self) {
        let sink = &mut self.parts.records;
        give(self.parts.engine.records(), sink);
        give(self.parts.engine.session_records(), sink);
    }

    /// Offers the storage what it has not taken yet, for a short time; the rest is lost.
    fn give_last_records(&mut self) {
        let now = (self.parts.clock)();
        let until_ns = now.mono_ns + LAST_RECORDS_NS;
        self.parts.engine.stage_last_sessions(now);
        loop {
            self.give_records();
            if !self.has_records() {
                return;
            }
            if (self.parts.clock)().mono_ns >= until_ns {
                break;
            }
            std::thread::sleep(LAST_RECORDS_RETRY);
        }
        let (mut records, mut events) = (self.parts.engine.session_records().len() as u64, 0);
        while let Some(record) = self.parts.engine.records().pop_front() {
            records += 1;
            events += u64::from(record.is_event());
        }
        tracing::error!(
            records,
            events,
            "the storage did not take the last of what was to be kept"
        );
        let tally = self.parts.engine.tally_mut();
        tally.add(Counter::RecordsLost, records);
        tally.add(Counter::EventsLost, events);
    }

    fn has_records(&mut self) -> bool {
        let engine = &mut self.parts.engine;
        !engine.records().is_empty() || !engine.session_records().is_empty()
    }

    fn count_turn(&mut self, started: Now, ended: Now) {
        let busy_ns = ended.mono_ns - started.mono_ns;
        let tally = self.parts.engine.tally_mut();
        tally.add(Counter::Turns, 1);
        tally.add(Counter::BusyNanoseconds, busy_ns);
        tally.turn(busy_ns);
        self.is_published = false;
        if ended.mono_ns - self.published_ns >= PUBLISH_NS {
            self.publish(ended);
        }
    }

    fn publish(&mut self, now: Now) {
        self.published_ns = now.mono_ns;
        self.is_published = true;
        self.parts.engine.set_gauges();
        let (asks, tells) = (self.parts.inbox.asks.len(), self.parts.inbox.tells.len());
        let tally = self.parts.engine.tally_mut();
        tally.set(Gauge::AskLane, asks as u64);
        tally.set(Gauge::TellLane, tells as u64);
        self.parts.meters.publish(tally);
    }

    /// Sleeps until there is something to do.
    fn sleep(&mut self, now: Now) -> io::Result<()> {
        let Some(now) = self.spin(now)? else { return Ok(()) };
        let mut timeout = self.sleep_length(now);
        if !timeout.is_zero() {
            self.parts.bell.lie_down();
            if !self.hears_nothing() {
                timeout = Duration::ZERO;
            } else if !self.is_published {
                // A shard that sleeps for a moment only, as most do, need not tell before it does.
                let due_ns = (self.published_ns + PUBLISH_NS).saturating_sub(now.mono_ns);
                timeout = timeout.min(Duration::from_nanos(due_ns));
            }
        }
        let result = self.poll(timeout);
        self.parts.bell.get_up();
        result
    }

    /// Looks for work without sleeping, for as long as is configured. Gives the time if none came,
    /// and nothing if some did; then `events` may hold it.
    fn spin(&mut self, now: Now) -> io::Result<Option<Now>> {
        let spin_ns = u64::from(self.parts.turn.busy_poll_us) * 1_000;
        if spin_ns == 0 {
            return Ok(Some(now));
        }
        let longest_ns = u64::try_from(self.sleep_length(now).as_nanos()).unwrap_or(u64::MAX);
        let until_ns = now.mono_ns + spin_ns.min(longest_ns);
        let mut now = now;
        while now.mono_ns < until_ns {
            self.parts.engine.tally_mut().add(Counter::Spins, 1);
            self.poll(Duration::ZERO)?;
            if !self.events.is_empty() || !self.hears_nothing() {
                return Ok(None);
            }
            now = (self.parts.clock)();
        }
        Ok(Some(now))
    }

    fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        match self.parts.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            result => result,
        }
    }

    /// Whether nothing waits for the shard but what its sockets may say. Asks that it can't take
    /// before another shard has taken tells are no work yet, nor is what a full lane did not take.
    fn hears_nothing(&self) -> bool {
        let Parts { engine, inbox, lanes, .. } = &self.parts;
        let own = engine.shard();
        let mut others = self.shards().filter(|&shard| shard != own);
        (inbox.asks.is_empty() || !engine.may_take_asks())
            && inbox.tells.is_empty()
            && self.parts.arrivals.is_empty()
            && !self.parts.stop.load(Relaxed)
            && others.all(|shard| {
                let (asks, tells) = engine.staged_for(shard);
                lanes.are_awaited(shard, asks, tells)
            })
    }

    fn sleep_length(&mut self, now: Now) -> Duration {
        if !self.ready.is_empty() || self.parts.engine.has_work() {
            return Duration::ZERO;
        }
        let mut length = SLEEP_MAX;
        if let Some(tick_ms) = self.parts.engine.next_tick_ms() {
            length = length.min(Duration::from_millis(tick_ms.saturating_sub(now.mono_ms())));
        }
        if self.has_records() {
            length = length.min(RECORD_RETRY);
        }
        length
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.parts.engine.shards()).map(ShardId)
    }
}

/// Gives the storage what it takes of a queue; the rest stays.
fn give(records: &mut Staged<Record>, sink: &mut RecordSink) {
    while let Some(record) = records.pop_front() {
        if let Err(record) = sink(record) {
            return records.push_front(record);
        }
    }
}
